//! The secret of a store's keys, and the spaces of keys.

use std::fmt;

use siphasher::sip128::SipHasher13;

use super::{
    digest::StoreKey,
    long_mac::{LongMac, derive},
    long_writer::{LONG_GATHERED_MAX, LongKeyWriter},
    short_writer::ShortKeyWriter,
};
use crate::core::{crypto::mac::BlockMac, error::ConfigError};

/// The secret under which a store's keys are digested.
///
/// Whoever reads the store sees digests, and whoever sends requests cannot choose where they land.
/// A store in memory makes up its own. Processes that share a store must share this secret too, or
/// each of them counts and caches for itself.
///
/// ```
/// use portcullis::store::StoreKeys;
///
/// let keys = StoreKeys::from_secret(b"thirty-two bytes or more, from a secret manager")?;
/// let space = keys.space("checkout");
/// let mut ab_c = space.short();
/// ab_c.field(b"ab").field(b"c");
/// let mut a_bc = space.short();
/// a_bc.field(b"a").field(b"bc");
/// assert_ne!(ab_c.finish(), a_bc.finish());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct StoreKeys {
    short: SipHasher13,
    long: LongMac,
    is_random: bool,
}

impl StoreKeys {
    /// Makes up a secret from the system's source of randomness, for this process alone.
    ///
    /// # Panics
    ///
    /// If the system has no source of randomness, as the standard library's maps do.
    pub fn random() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has a source of randomness");
        Self::derive(&secret, true)
    }

    /// Uses a secret that several processes share.
    ///
    /// # Errors
    ///
    /// If the secret has fewer than 32 bytes.
    pub fn from_secret(secret: &[u8]) -> Result<Self, ConfigError> {
        if secret.len() < 32 {
            return Err(ConfigError::new(
                "store key secret",
                format_args!("{} bytes long", secret.len()),
                "a secret under 32 bytes can be guessed",
            )
            .fix("generate one with `openssl rand -hex 32`, and give the same to each process"));
        }
        Ok(Self::derive(secret, false))
    }

    /// Returns whether the secret was made by [`random`](Self::random): no other process has it.
    ///
    /// For stores on a server, to report that instances would count and cache for themselves.
    pub fn is_random(&self) -> bool {
        self.is_random
    }

    /// Returns a space of keys of its own: equal fields in two spaces give different keys.
    pub fn space(&self, name: &str) -> KeySpace {
        // A space has a key of its own, made of the store's and the space's name.
        let space_key = |use_of: &[u8]| {
            let mut writer = ShortKeyWriter::new(self.short);
            let key = writer.field(name.as_bytes()).field(use_of).finish();
            SipHasher13::new_with_key(&key.0)
        };
        let long = self.long.digest(name.as_bytes());
        KeySpace {
            short: space_key(b"list"),
            single: space_key(b"single"),
            long: LongMac::new(&long),
            of_two: BlockMac::new(&derive(&long, b"portcullis-v1 key of two")),
        }
    }

    fn derive(secret: &[u8], is_random: bool) -> Self {
        let short = derive(secret, b"portcullis-v1 short store key");
        let short = short.first_chunk().expect("a digest has 32 bytes");
        Self {
            short: SipHasher13::new_with_key(short),
            long: LongMac::new(&derive(secret, b"portcullis-v1 long store key")),
            is_random,
        }
    }
}

impl fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKeys")
    }
}

/// A named space of a store's keys, from [`StoreKeys::space`].
#[derive(Clone)]
pub struct KeySpace {
    short: SipHasher13,
    // Another key than that of lists: a field is not prefixed where it stands alone.
    single: SipHasher13,
    long: LongMac,
    // Another key than that of blocks with an end mark: these have none.
    #[cfg_attr(
        not(feature = "cache"),
        allow(dead_code, reason = "the cache alone makes keys of two digests")
    )]
    pub(super) of_two: BlockMac,
}

impl KeySpace {
    /// Begins a key of 128 bits, by SipHash-1-3-128: for what is counted.
    #[inline]
    pub fn short(&self) -> ShortKeyWriter {
        ShortKeyWriter::new(self.short)
    }

    /// Returns the key of one field: what [`short`](Self::short) is for several, at once.
    #[inline]
    pub fn short_key(&self, field: &[u8]) -> StoreKey {
        StoreKey(self.single.hash(field).as_bytes())
    }

    /// Begins a key of 256 bits, by SHA-256 under the space's secret: for what is shown to callers.
    ///
    /// It is HMAC-SHA-256, or for short fields one keyed block, which HMAC compresses two of.
    #[inline]
    pub fn long(&self) -> LongKeyWriter<'_> {
        LongKeyWriter {
            mac: &self.long,
            gathered: [0; LONG_GATHERED_MAX],
            len: 0,
        }
    }
}

impl fmt::Debug for KeySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySpace")
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn keys() -> StoreKeys {
        StoreKeys::from_secret(&[7; 32]).unwrap()
    }

    #[test]
    fn the_same_secret_gives_the_same_keys_in_each_process() {
        let one = keys().space("s").short().field(b"x").finish();
        let two = keys().space("s").short().field(b"x").finish();
        assert_eq!(one, two);
        assert_ne!(
            one,
            StoreKeys::random().space("s").short().field(b"x").finish()
        );
    }

    #[test]
    fn only_a_secret_of_this_process_is_random() {
        assert!(StoreKeys::random().is_random());
        assert!(!keys().is_random());
    }

    #[test]
    fn a_field_alone_has_another_key_than_in_a_list() {
        let space = keys().space("s");
        assert_eq!(space.short_key(b"x"), space.short_key(b"x"));
        assert_ne!(space.short_key(b"x"), space.short_key(b"y"));
        assert_ne!(space.short_key(b"x"), space.short().field(b"x").finish());
        assert_ne!(space.short_key(b"x"), keys().space("t").short_key(b"x"));
    }

    #[test]
    fn spaces_do_not_overlap() {
        let one = keys().space("s").short().field(b"x").finish();
        let two = keys().space("t").short().field(b"x").finish();
        assert_ne!(one, two);
    }

    #[test]
    fn a_field_in_lower_case_is_the_same_at_any_length() {
        for len in [0, 1, 128, 129, 300] {
            let space = keys().space("s");
            let (mut one, mut two) = (space.long(), space.long());
            one.field(&[b'x'; 100])
                .lower_case_field("Ab".repeat(len).as_bytes());
            two.field(&[b'x'; 100]).field("ab".repeat(len).as_bytes());
            assert_eq!(one.finish(), two.finish(), "{len}");
        }
    }

    #[test]
    fn fields_that_join_to_the_same_bytes_give_different_long_keys() {
        let space = keys().space("s");
        let mut one = space.long();
        one.field(b"ab").field(b"c");
        let mut two = space.long();
        two.field(b"a").field(b"bc");
        assert_ne!(one.finish(), two.finish());
    }

    proptest! {
        #[test]
        fn distinct_lists_of_fields_have_distinct_keys(
            one in vec(vec(0_u8..3, 0..150), 0..6),
            two in vec(vec(0_u8..3, 0..150), 0..6),
        ) {
            let space = keys().space("s");
            let key = |fields: &[Vec<u8>]| {
                let (mut short, mut long) = (space.short(), space.long());
                for field in fields {
                    short.field(field);
                    long.field(field);
                }
                (short.finish(), long.finish())
            };
            let (short, long) = key(&one);
            let others = key(&two);
            let same = [short == others.0, long == others.1];
            prop_assert_eq!(same, [one == two; 2]);
            // What an attacker would try: the same bytes, cut elsewhere.
            let joined = vec![one.concat()];
            prop_assert_eq!(key(&one) == key(&joined), one == joined);
        }
    }

    #[test]
    fn a_short_secret_is_refused_without_being_shown() {
        let error = StoreKeys::from_secret(b"hunter2").unwrap_err();
        assert_eq!(error.value(), "7 bytes long");
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(
            format!("{:?} {:?}", keys(), keys().space("s")),
            "StoreKeys KeySpace"
        );
    }
}
