//! Jitter of freshness lifetimes. With jitter, entries that were stored together expire at
//! different times.

use super::key::CacheKey;
use crate::cache::http::freshness::Freshness;

/// The maximum reduction of the remaining lifetime, in percent.
pub(crate) const PERCENT_MAX: u8 = 50;

/// The reduction of freshness lifetimes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Jitter {
    /// The maximum, in percent.
    pub(crate) percent: u8,
}

impl Jitter {
    /// Shortens the remaining lifetime by a fraction that is derived from the key, so it is the
    /// same each time. The lifetime never increases, and the last second is never removed.
    pub(crate) fn shorten(self, freshness: Freshness, key: &CacheKey) -> Freshness {
        let left = freshness
            .lifetime_secs
            .saturating_sub(freshness.initial_age_secs);
        let digest = key.full().as_bytes();
        let part = u16::from_le_bytes([digest[30], digest[31]]);
        // At most 2^31 times 50 times 2^16, which fits into 64 bits.
        let lost = u64::from(left) * u64::from(self.percent) * u64::from(part) / (100 << 16);
        let lost = u32::try_from(lost).unwrap_or(left);
        Freshness {
            lifetime_secs: freshness.lifetime_secs.saturating_sub(lost),
            ..freshness
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::entry::key::{KeyMaker, RequestTarget};
    use crate::core::store_api::store_key::StoreKeys;

    fn key(number: u32) -> CacheKey {
        let maker = KeyMaker::new(&StoreKeys::from_secret(&[1; 32]).unwrap(), "", false);
        let path = format!("/{number}");
        let uri = path.parse().unwrap();
        maker.shared(&RequestTarget::plain("a", &uri))
    }

    fn lasting(lifetime_secs: u32, initial_age_secs: u32) -> Freshness {
        Freshness {
            lifetime_secs,
            initial_age_secs,
            ..Freshness::default()
        }
    }

    proptest! {
        #[test]
        fn jitter_shortens_freshness_at_most_by_its_percentage(
            lifetime in 0..=1_u32 << 31, age in 0..=1_u32 << 31,
            percent in 0..=PERCENT_MAX, number in any::<u32>(),
        ) {
            let jitter = Jitter { percent };
            let shorter = jitter.shorten(lasting(lifetime, age), &key(number));
            prop_assert!(shorter.lifetime_secs <= lifetime);
            let left = u64::from(lifetime.saturating_sub(age));
            let lost = u64::from(lifetime - shorter.lifetime_secs);
            prop_assert!(lost * 100 <= left * u64::from(percent));
            prop_assert_eq!(left > 0, shorter.lifetime_secs > age);
            prop_assert_eq!(jitter.shorten(lasting(lifetime, age), &key(number)), shorter);
        }
    }

    #[test]
    fn keys_spread_over_all_of_the_part() {
        let jitter = Jitter { percent: 10 };
        let mut lost: Vec<u32> = (0..1_000)
            .map(|number| {
                100_000
                    - jitter
                        .shorten(lasting(100_000, 0), &key(number))
                        .lifetime_secs
            })
            .collect();
        lost.sort_unstable();
        assert!(lost[0] < 100 && lost[999] > 9_900);
        assert!((4_000..6_000).contains(&lost[500]));
    }
}
