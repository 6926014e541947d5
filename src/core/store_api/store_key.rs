//! Keys under which stores keep things: digests, so that no byte of a request reaches a store.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use siphasher::sip128::SipHasher13;

use crate::core::{crypto::mac::BlockMac, error::ConfigError};

/// The secret under which a store's keys are digested.
///
/// Whoever reads the store sees digests, and whoever sends requests cannot choose where they land.
/// A store in memory makes up its own. Processes that share a store must share this secret too, or
/// each of them counts and caches for itself.
///
/// ```
/// use portcullis::StoreKeys;
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
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    of_two: BlockMac,
}

impl KeySpace {
    /// Begins a key of 128 bits, by SipHash-1-3-128: for what is counted.
    #[inline]
    pub fn short(&self) -> ShortKeyWriter {
        ShortKeyWriter::new(self.short)
    }

    /// Returns the key of one field: what [`short`](Self::short) is for several, at once.
    #[inline]
    pub fn short_of(&self, field: &[u8]) -> StoreKey {
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

impl KeySpace {
    /// Returns the key of a key and a digest.
    #[inline]
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    pub(crate) fn long_of_two(&self, key: &LongStoreKey, digest: &[u8; 32]) -> LongStoreKey {
        LongStoreKey(self.of_two.digest_of_two(&key.0, digest))
    }
}

impl fmt::Debug for KeySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySpace")
    }
}

/// Digests fields into a [`StoreKey`]. Each field is prefixed by its length, so that distinct
/// lists of fields are distinct inputs.
///
/// Short fields are gathered and digested at once; a long one stands there by its own digest, so
/// the writer has one size whatever a client sends.
pub struct ShortKeyWriter {
    sip: SipHasher13,
    gathered: [u8; GATHERED_MAX],
    len: usize,
}

/// The number of bytes that are gathered before they are digested.
const GATHERED_MAX: usize = 64;

/// The longest field that is gathered as it is, its length in the byte before it.
const PLAIN_FIELD_MAX: usize = 40;

/// In place of a length: what follows is the digest of a longer field, and of its length.
const DIGESTED_FIELD: u8 = 0xff;

/// In place of a length: what follows is the digest of all that was gathered before.
const DIGESTED_START: u8 = 0xfe;

impl ShortKeyWriter {
    fn new(sip: SipHasher13) -> Self {
        Self {
            sip,
            gathered: [0; GATHERED_MAX],
            len: 0,
        }
    }

    /// Adds a field.
    #[inline]
    pub fn field(&mut self, field: &[u8]) -> &mut Self {
        if field.len() <= PLAIN_FIELD_MAX {
            self.gather(field.len() as u8, field);
        } else {
            // The hash is of a string with its length in it, and so of the length too.
            let digest = self.sip.hash(field).as_bytes();
            self.gather(DIGESTED_FIELD, &digest);
        }
        self
    }

    /// Returns the key of all fields added so far.
    #[inline]
    pub fn finish(&self) -> StoreKey {
        StoreKey(self.sip.hash(&self.gathered[..self.len]).as_bytes())
    }

    #[inline]
    fn gather(&mut self, kind: u8, bytes: &[u8]) {
        if self.len + 1 + bytes.len() > GATHERED_MAX {
            self.digest_start();
        }
        self.gathered[self.len] = kind;
        let start = self.len + 1;
        self.len = start + bytes.len();
        self.gathered[start..self.len].copy_from_slice(bytes);
    }

    #[cold]
    fn digest_start(&mut self) {
        let digest = self.finish();
        self.gathered[0] = DIGESTED_START;
        self.len = 1 + digest.0.len();
        self.gathered[1..self.len].copy_from_slice(&digest.0);
    }
}

impl fmt::Debug for ShortKeyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortKeyWriter")
    }
}

/// Digests fields into a [`LongStoreKey`]. Each field is prefixed by its length, so that distinct
/// lists of fields are distinct inputs.
///
/// As with a [`ShortKeyWriter`], fields are gathered and digested at once, a long one by its own
/// digest.
pub struct LongKeyWriter<'a> {
    mac: &'a LongMac,
    gathered: [u8; LONG_GATHERED_MAX],
    len: usize,
}

/// The number of bytes that are gathered for a long key before they are digested.
const LONG_GATHERED_MAX: usize = 192;

/// The longest field that is gathered for a long key as it is.
const LONG_PLAIN_FIELD_MAX: usize = 128;

impl LongKeyWriter<'_> {
    /// Adds a field.
    #[inline]
    pub fn field(&mut self, field: &[u8]) -> &mut Self {
        if field.len() <= LONG_PLAIN_FIELD_MAX {
            self.gather(field.len() as u8, field);
        } else {
            let digest = self.mac.digest(field);
            self.gather(DIGESTED_FIELD, &digest);
        }
        self
    }

    /// Adds a field in lower case.
    pub fn lower_case_field(&mut self, field: &[u8]) -> &mut Self {
        if field.len() > LONG_PLAIN_FIELD_MAX {
            return self.field(&field.to_ascii_lowercase());
        }
        self.field(field);
        let start = self.len - field.len();
        // Whole blocks take less than an odd number of bytes. The bytes behind the field are not digested
        // before other fields have replaced them.
        let end = LONG_GATHERED_MAX.min(start + field.len().next_multiple_of(16));
        self.gathered[start..end].make_ascii_lowercase();
        self
    }

    /// Returns the key of all fields added so far.
    #[inline]
    pub fn finish(&self) -> LongStoreKey {
        LongStoreKey(self.mac.digest(&self.gathered[..self.len]))
    }

    #[inline]
    fn gather(&mut self, kind: u8, bytes: &[u8]) {
        if self.len + 1 + bytes.len() > LONG_GATHERED_MAX {
            self.digest_start();
        }
        self.gathered[self.len] = kind;
        let start = self.len + 1;
        self.len = start + bytes.len();
        self.gathered[start..self.len].copy_from_slice(bytes);
    }

    #[cold]
    fn digest_start(&mut self) {
        let digest = self.mac.digest(&self.gathered[..self.len]);
        self.gathered[0] = DIGESTED_START;
        self.len = 1 + digest.len();
        self.gathered[1..self.len].copy_from_slice(&digest);
    }
}

impl fmt::Debug for LongKeyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongKeyWriter")
    }
}

/// A store's key of 128 bits: a keyed digest, which tells nothing of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey([u8; 16]);

impl StoreKey {
    /// Takes a digest that [`StoreKey::as_bytes`] gave, back from where it was written down.
    pub fn from_bytes(digest: [u8; 16]) -> Self {
        Self(digest)
    }

    /// Returns the digest, for a store to make a name of.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for StoreKey {
    /// Writes the digest as 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// A store's key of 256 bits: a keyed digest, which tells nothing of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongStoreKey([u8; 32]);

impl LongStoreKey {
    /// Returns the first half, which is as good a digest of what this is one of.
    #[inline]
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    pub(crate) fn first_half(&self) -> StoreKey {
        let half = self.0.first_chunk();
        StoreKey(*half.expect("a digest has 32 bytes"))
    }

    /// Returns another key for each mark. None of them is that of anything else: what is a digest but
    /// for one byte is no digest of anything that could be found.
    #[inline]
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    pub(crate) fn marked(mut self, mark: u8) -> Self {
        self.0[31] ^= mark;
        self
    }

    /// Returns the digest, for a store to make a name of.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LongStoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for LongStoreKey {
    /// Writes the digest as 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// Digests inputs of up to 63 bytes by one block, and longer ones by HMAC-SHA-256. The keys of both differ, so neither digest is that
/// of another input.
#[derive(Clone)]
struct LongMac {
    block: BlockMac,
    any: Hmac<Sha256>,
}

impl LongMac {
    fn new(key: &[u8; 32]) -> Self {
        // HMAC is given no other input of this length.
        let block = BlockMac::new(&derive(key, b"portcullis-v1 block key"));
        Self {
            block,
            any: keyed(key),
        }
    }

    #[inline]
    fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        let in_one = self.block.digest(bytes);
        in_one.unwrap_or_else(|| digest(self.any.clone(), bytes))
    }
}

fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    digest(keyed(secret), purpose)
}

fn digest(mut mac: Hmac<Sha256>, bytes: &[u8]) -> [u8; 32] {
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
        assert_eq!(space.short_of(b"x"), space.short_of(b"x"));
        assert_ne!(space.short_of(b"x"), space.short_of(b"y"));
        assert_ne!(space.short_of(b"x"), space.short().field(b"x").finish());
        assert_ne!(space.short_of(b"x"), keys().space("t").short_of(b"x"));
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
