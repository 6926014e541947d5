//! Sampling of routine requests.

use std::{hash::Hasher, num::NonZeroU32};

use siphasher::sip::SipHasher13;

/// Returns `true` if the request with this id is in the sample of one in `one_in`.
///
/// The result for an id is the same in every process, so either all records of a request are
/// emitted or none.
pub(crate) fn keeps(request_id: &str, one_in: NonZeroU32) -> bool {
    let mut hasher = SipHasher13::new();
    hasher.write(request_id.as_bytes());
    hasher.finish().is_multiple_of(u64::from(one_in.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::record::request_id;
    use crate::core::time::Timestamp;

    #[test]
    fn sampled_share_matches_the_configured_rate() {
        for one_in in [1, 2, 10, 100] {
            let one_in = NonZeroU32::new(one_in).unwrap();
            let id = || request_id::generate(Timestamp::from_secs(1_767_225_600));
            let kept = (0..20_000).filter(|_| keeps(id().as_str(), one_in)).count();
            let expected = 20_000.0 / f64::from(one_in.get());
            // Six standard deviations.
            let tolerance = 6.0 * expected.sqrt();
            assert!(
                (kept as f64 - expected).abs() <= tolerance,
                "{kept} of one in {one_in}"
            );
        }
    }

    #[test]
    fn sampling_is_deterministic_per_request_id() {
        let one_in = NonZeroU32::new(3).unwrap();
        let kept: Vec<_> = (0..9)
            .filter(|name| keeps(&name.to_string(), one_in))
            .collect();
        assert_eq!(kept, [1, 5, 8]);
    }
}
