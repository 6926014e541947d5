//! The key format: `prefix_environment_id_secretcheck`.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::RangeInclusive,
    str,
};

use zeroize::{Zeroize, Zeroizing};

use super::{checksum_tag::KeyTags, secret::SecretKey};
use crate::core::error::ConfigError;

/// The length of a key in bytes.
const KEY_LEN: RangeInclusive<usize> = 72..=102;
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 43;
const CHECK_LEN: usize = 6;
/// The length of the id, its underscore, the secret and the check.
const TAIL_LEN: usize = ID_LEN + 1 + SECRET_LEN + CHECK_LEN;
const PREFIX_LEN: RangeInclusive<usize> = 3..=24;
const ENVIRONMENT_LEN: RangeInclusive<usize> = 1..=10;
/// The first character of the id of a key with a checksum.
const CHECKSUM: u8 = b'1';
/// The first character of the id of a key with a keyed tag.
const KEYED_TAG: u8 = b'2';
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The public id of a key, for lookups, logs and display.
///
/// The id has 16 characters, of which 15 are random. The id does not reveal the key's secret or
/// age.
///
/// ```
/// use portcullis::api_key::KeyId;
///
/// let id: KeyId = "1AAAAAAAAAAAAAAA".parse()?;
/// assert_eq!(id.as_str(), "1AAAAAAAAAAAAAAA");
/// assert!("1AAA; DROP TABLE".parse::<KeyId>().is_err());
/// # Ok::<(), portcullis::api_key::ParseKeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; ID_LEN]);

impl Hash for KeyId {
    /// Hashes all bytes at once: the length is constant.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl KeyId {
    /// Returns the id as a string of 16 characters in `0-9A-Za-z`.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("an id is ASCII")
    }

    /// Returns the id that is derived from a digest. The derived id is also public.
    pub(crate) fn from_digest(digest: &[u8; 32]) -> Self {
        let mut id = [CHECKSUM; ID_LEN];
        for (symbol, byte) in id[1..].iter_mut().zip(digest) {
            *symbol = BASE62[usize::from(*byte % 62)];
        }
        Self(id)
    }

    fn new(bytes: &[u8]) -> Result<Self, ParseKeyError> {
        let id: [u8; ID_LEN] = bytes.try_into().map_err(|_| ParseKeyError)?;
        if [CHECKSUM, KEYED_TAG].contains(&id[0])
            && id
                .iter()
                .fold(true, |ok, byte| ok & byte.is_ascii_alphanumeric())
        {
            Ok(Self(id))
        } else {
            Err(ParseKeyError)
        }
    }
}

impl str::FromStr for KeyId {
    type Err = ParseKeyError;

    fn from_str(id: &str) -> Result<Self, ParseKeyError> {
        Self::new(id.as_bytes())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of parsing a key or a key id.
///
/// The error contains neither the reason nor the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value does not have the format of a key")]
#[non_exhaustive]
pub struct ParseKeyError;

/// The prefix and the accepted environments of keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyFormat {
    prefix: Box<str>,
    environments: Vec<Box<str>>,
    tags: Option<KeyTags>,
}

impl KeyFormat {
    pub(crate) fn new(
        prefix: &str,
        environments: &[String],
        tags: Option<KeyTags>,
    ) -> Result<Self, ConfigError> {
        if !is_prefix(prefix.as_bytes()) {
            return Err(ConfigError::new(
                "prefix",
                prefix,
                "a prefix is 3 to 24 of `a-z`, `0-9` and single inner underscores, and starts \
                 with a letter",
            )
            .fix("use the service's name in lower case, six letters or more, as in `acmepay`"));
        }
        let mut accepted: Vec<Box<str>> = Vec::new();
        for environment in environments {
            if !is_environment(environment.as_bytes()) {
                return Err(ConfigError::new(
                    "environments",
                    environment,
                    "an environment is 1 to 10 of `a-z` and `0-9`, and starts with a letter",
                )
                .fix("use `live` or `test`"));
            }
            if !accepted.iter().any(|own| **own == **environment) {
                accepted.push(environment.as_str().into());
            }
        }
        if accepted.is_empty() {
            return Err(ConfigError::new(
                "environments",
                "empty",
                "at least one environment is required",
            )
            .fix("name one, as in `[\"live\"]`"));
        }
        Ok(Self {
            prefix: prefix.into(),
            environments: accepted,
            tags,
        })
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns `true` if the credential starts like a key of the ring, even if it is not valid.
    pub(crate) fn looks_like_key(&self, presented: &[u8]) -> bool {
        let rest = presented.strip_prefix(self.prefix.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"_"))
    }

    /// Returns the environment of new keys for which none is specified.
    pub(crate) fn default_environment(&self) -> &str {
        &self.environments[0]
    }

    pub(crate) fn has_environment(&self, environment: &str) -> bool {
        self.environments.iter().any(|own| **own == *environment)
    }

    /// Parses a credential. The result has the right format and check, but is not authenticated.
    pub(crate) fn parse<'a>(&self, presented: &'a [u8]) -> Result<ParsedKey<'a>, ParseKeyError> {
        let parts = Parts::split(presented)?;
        let ours = parts.prefix == self.prefix.as_bytes()
            && self
                .environments
                .iter()
                .any(|own| own.as_bytes() == parts.environment);
        let id = parts.id()?;
        let is_right = match &self.tags {
            Some(tags) if id.0[0] == KEYED_TAG => tags.admit(parts.checked, parts.check(), digits),
            Some(tags) => tags.checksums_too && parts.has_checksum(),
            None => parts.has_checksum(),
        };
        if ours && is_right {
            Ok(ParsedKey {
                id,
                bytes: presented,
            })
        } else {
            Err(ParseKeyError)
        }
    }

    /// Generates a key of 256 random bits. `fill` is the system's source of randomness.
    pub(crate) fn generate(
        &self,
        environment: &str,
        fill: Fill,
    ) -> Result<(KeyId, SecretKey), NoRandomness> {
        let mut symbols = Zeroizing::new([0; ID_LEN - 1 + SECRET_LEN]);
        random_symbols(&mut symbols[..], fill)?;
        let (id, secret) = symbols.split_at(ID_LEN - 1);

        // The exact capacity prevents a reallocation, which would leave a copy of the secret in
        // memory.
        let names = self.prefix.len() + environment.len() + 2;
        let mut key = Zeroizing::new(String::with_capacity(names + TAIL_LEN));
        for part in [&self.prefix, "_", environment, "_"] {
            key.push_str(part);
        }
        let version = self.tags.as_ref().map_or(CHECKSUM, |_| KEYED_TAG);
        key.push(char::from(version));
        key.extend(id.iter().map(|symbol| char::from(*symbol)));
        key.push('_');
        key.extend(secret.iter().map(|symbol| char::from(*symbol)));
        let check = match &self.tags {
            Some(tags) => tags.check(key.as_bytes()),
            None => crc32fast::hash(key.as_bytes()),
        };
        let check = digits(check);
        key.extend(check.map(char::from));

        let id = KeyId::new(&key.as_bytes()[names..names + ID_LEN])
            .expect("a generated id is a valid id");
        Ok((id, SecretKey::new(key)))
    }
}

/// Fills a buffer with random bytes.
pub(crate) type Fill = fn(&mut [u8]) -> Result<(), getrandom::Error>;

/// The error of a failed source of randomness. There is no fallback.
#[derive(Debug, thiserror::Error)]
#[error("the system's source of randomness failed")]
pub(crate) struct NoRandomness;

/// A parsed key that borrows from the request.
pub(crate) struct ParsedKey<'a> {
    pub(crate) id: KeyId,
    /// The whole key, over which the digest is computed.
    pub(crate) bytes: &'a [u8],
}

/// The parts of a credential with the length and the underscores of a key.
struct Parts<'a> {
    prefix: &'a [u8],
    environment: &'a [u8],
    id: &'a [u8],
    secret_and_check: &'a [u8],
    /// The part that the check covers.
    checked: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Splits a key, starting from the right.
    fn split(presented: &'a [u8]) -> Result<Self, ParseKeyError> {
        if !KEY_LEN.contains(&presented.len()) {
            return Err(ParseKeyError);
        }
        let (names, tail) = presented.split_at(presented.len() - TAIL_LEN);
        let (id, secret_and_check) = tail.split_at(ID_LEN);
        let secret_and_check = secret_and_check.strip_prefix(b"_").ok_or(ParseKeyError)?;
        let names = names.strip_suffix(b"_").ok_or(ParseKeyError)?;
        let last = names.iter().rposition(|byte| *byte == b'_');
        let (prefix, environment) = names.split_at(last.ok_or(ParseKeyError)?);
        Ok(Self {
            prefix,
            environment: &environment[1..],
            id,
            secret_and_check,
            checked: &presented[..presented.len() - CHECK_LEN],
        })
    }

    /// Returns the id, if all characters are in the alphabet. The time depends only on the length.
    fn id(&self) -> Result<KeyId, ParseKeyError> {
        let base62 = |ok, byte: &u8| ok & byte.is_ascii_alphanumeric();
        let whole = self.secret_and_check.iter().fold(true, base62);
        let id = KeyId::new(self.id)?;
        if whole { Ok(id) } else { Err(ParseKeyError) }
    }

    fn check(&self) -> &'a [u8] {
        &self.secret_and_check[SECRET_LEN..]
    }

    /// Returns `true` if the key is of the kind that has a checksum and if the checksum is correct.
    fn has_checksum(&self) -> bool {
        let right = digits(crc32fast::hash(self.checked)) == self.check();
        right & (self.id[0] == CHECKSUM)
    }

    /// Returns `true` if the prefix and the environment are valid in some ring.
    fn has_valid_names(&self) -> bool {
        is_prefix(self.prefix) && is_environment(self.environment)
    }
}

impl fmt::Debug for ParsedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParsedKey")
    }
}

/// Detection of leaked keys, for example in repositories, pastes and logs.
///
/// The expression `[a-z][a-z0-9_]{2,23}_[a-z][a-z0-9]{0,9}_1[0-9A-Za-z]{15}_[0-9A-Za-z]{49}` finds
/// candidates in text. With the service's own prefix and environments, the expression is exact:
/// `acme_(live|test)_1..`. [`verify`](scan::verify) checks the form and the checksum of a candidate
/// without a store request. Keys with a [keyed tag](crate::api_key::TagSecret) have a `2` instead
/// of the `1`, and only the service can verify them. The following is a rule for gitleaks:
///
/// ```toml
/// [[rules]]
/// id = "acme-api-key"
/// regex = '''\b(acme_(?:live|test)_1[0-9A-Za-z]{15}_[0-9A-Za-z]{49})\b'''
/// keywords = ["acme_live_1", "acme_test_1"]
/// ```
///
/// ```
/// use portcullis::api_key::scan;
///
/// let found = "acme_live_1AAAAAAAAAAAAAAA_00000000000000000000000000000000000000000000w2Xzo";
/// assert_eq!(scan::verify(found).unwrap().as_str(), "1AAAAAAAAAAAAAAA");
/// assert!(scan::verify(&found.replace("live", "test")).is_none());
/// ```
pub mod scan {
    use super::{KeyId, Parts};

    /// A regular expression that finds candidates for [`verify`]. The expression has no look-around
    /// and no anchors.
    pub const CANDIDATE_REGEX: &str =
        "[a-z][a-z0-9_]{2,23}_[a-z][a-z0-9]{0,9}_1[0-9A-Za-z]{15}_[0-9A-Za-z]{49}";

    /// Returns the id if the candidate has the form and the checksum of a key with any prefix.
    pub fn verify(candidate: &str) -> Option<KeyId> {
        let parts = Parts::split(candidate.as_bytes()).ok()?;
        let is_one = parts.has_checksum() && parts.has_valid_names();
        parts.id().ok().filter(|_| is_one)
    }
}

fn is_prefix(bytes: &[u8]) -> bool {
    PREFIX_LEN.contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'_'
        && bytes.windows(2).all(|pair| pair != b"__")
        && bytes.iter().all(|byte| is_name(*byte) || *byte == b'_')
}

fn is_environment(bytes: &[u8]) -> bool {
    ENVIRONMENT_LEN.contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().copied().all(is_name)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Encodes the check of a key as six base-62 digits.
fn digits(check: u32) -> [u8; CHECK_LEN] {
    let mut rest = check as usize;
    let mut digits = [0; CHECK_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits
}

/// Fills a buffer with uniformly distributed base-62 symbols.
fn random_symbols(symbols: &mut [u8], fill: Fill) -> Result<(), NoRandomness> {
    /// The greatest multiple of 62 in a byte. Bytes above it would make some symbols more likely.
    const FAIR: u8 = 248;
    let mut random = Zeroizing::new([0; 64]);
    let mut made = 0;
    while made < symbols.len() {
        fill(&mut random[..]).map_err(|_| NoRandomness)?;
        let fair = random.iter().filter(|byte| **byte < FAIR);
        for (symbol, byte) in symbols[made..].iter_mut().zip(fair) {
            *symbol = BASE62[usize::from(*byte % 62)];
            made += 1;
        }
    }
    random.zeroize();
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const VECTORS: [&str; 3] = [
        "acme_live_1AAAAAAAAAAAAAAA_00000000000000000000000000000000000000000000w2Xzo",
        "acme_test_1abcdefGHIJK0123_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopq49Kuff",
        "my_co_live_1zzzzzzzzzzzzzzz_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz1q7m5L",
    ];

    pub(crate) fn id(number: u64) -> KeyId {
        format!("1{number:015}").parse().unwrap()
    }

    /// Parses bytes like a scanner, and like a ring of the test vectors' service.
    fn verified(bytes: &[u8]) -> Option<KeyId> {
        let parsed = format("acme").parse(bytes).ok().map(|key| key.id);
        parsed.or_else(|| scan::verify(str::from_utf8(bytes).ok()?))
    }

    fn format(prefix: &str) -> KeyFormat {
        KeyFormat::new(prefix, &["live".to_owned(), "test".to_owned()], None).unwrap()
    }

    fn generate(format: &KeyFormat) -> (KeyId, SecretKey) {
        format.generate("live", getrandom::fill).unwrap()
    }

    #[test]
    fn the_published_vectors_are_read() {
        let key = format("acme").parse(VECTORS[0].as_bytes()).unwrap();
        assert_eq!(key.id.as_str(), "1AAAAAAAAAAAAAAA");
        let key = format("acme").parse(VECTORS[1].as_bytes()).unwrap();
        assert_eq!(key.id.as_str(), "1abcdefGHIJK0123");
        let key = format("my_co").parse(VECTORS[2].as_bytes()).unwrap();
        assert_eq!(key.id.as_str(), "1zzzzzzzzzzzzzzz");
    }

    #[test]
    fn a_key_of_another_product_or_environment_is_malformed() {
        assert!(format("acne").parse(VECTORS[0].as_bytes()).is_err());
        let live = KeyFormat::new("acme", &["live".to_owned()], None).unwrap();
        assert!(live.parse(VECTORS[1].as_bytes()).is_err());
    }

    #[test]
    fn each_change_of_one_byte_is_malformed() {
        let format = format("acme");
        let mut key = VECTORS[0].as_bytes().to_vec();
        for at in 0..key.len() {
            let right = key[at];
            for wrong in (0..=255).filter(|byte| *byte != right) {
                key[at] = wrong;
                assert!(format.parse(&key).is_err(), "byte {at} as {wrong:#x}");
            }
            key[at] = right;
        }
        assert!(format.parse(&key).is_ok());
    }

    #[test]
    fn cut_extended_and_joined_keys_are_malformed() {
        let key = VECTORS[0].as_bytes();
        for len in 0..key.len() {
            assert!(verified(&key[..len]).is_none(), "cut to {len}");
        }
        for wrong in [
            [key, b"0"].concat(),
            [b" ", key].concat(),
            [key, b",", key].concat(),
            [key, b"\n"].concat(),
            vec![b'0'; 128],
            vec![b'0'; 129],
            vec![b'_'; 1 << 20],
        ] {
            assert!(verified(&wrong).is_none());
        }
    }

    #[test]
    fn look_alikes_are_malformed() {
        let key = VECTORS[0];
        for wrong in [
            key.replace("live", "test"),
            key.replace("_1A", "_2A"),
            key.replacen('A', "\u{410}", 1),
            key.replacen('0', "\u{ff10}", 1),
            key.replace('_', "%5F"),
            key.to_uppercase(),
            key.replacen('0', "\0", 1),
            key.replacen('0', "\r", 1),
            key.replacen('0', "\u{7f}", 1),
        ] {
            assert!(verified(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    fn tagged(current: u8, previous: &[u8], checksums_too: bool) -> KeyFormat {
        let tag = |first: &u8| {
            let secret: Vec<u8> = (*first..*first + 32).collect();
            crate::api_key::key::checksum_tag::TagSecret::new(secret).unwrap()
        };
        let tags = KeyTags {
            current: tag(&current),
            previous: previous.iter().map(tag).collect(),
            checksums_too,
        };
        let environments = ["live".to_owned(), "test".to_owned()];
        KeyFormat::new("acme", &environments, Some(tags)).unwrap()
    }

    fn accepts(format: &KeyFormat, key: &str) -> bool {
        format.parse(key.as_bytes()).is_ok()
    }

    /// Computed by another implementation: the first 32 bits of `HMAC-SHA-256(00..1f, preceding
    /// bytes)`.
    const TAGGED: &str =
        "acme_live_2AAAAAAAAAAAAAAA_00000000000000000000000000000000000000000004GR7zO";

    #[test]
    fn tag_verifies_only_with_its_secret() {
        assert!(accepts(&tagged(0, &[], false), TAGGED));
        assert!(accepts(&tagged(1, &[9, 0], false), TAGGED));
        assert!(!accepts(&tagged(1, &[9], true), TAGGED));
        assert!(!accepts(&format("acme"), TAGGED));
        assert!(scan::verify(TAGGED).is_none());
        assert!(!accepts(
            &tagged(0, &[], true),
            &TAGGED.replace("live", "test")
        ));

        // A public checksum does not replace it.
        assert!(!accepts(&tagged(0, &[], false), VECTORS[0]));
        assert!(accepts(&tagged(0, &[], true), VECTORS[0]));
        let body = &TAGGED[..TAGGED.len() - CHECK_LEN];
        let check = digits(crc32fast::hash(body.as_bytes())).map(char::from);
        let forged = format!("{body}{}", String::from_iter(check));
        assert!(!accepts(&tagged(0, &[], true), &forged));

        let (id, key) = generate(&tagged(5, &[], false));
        assert!(id.as_str().starts_with('2'));
        assert!(accepts(&tagged(5, &[], false), key.expose_secret()));
        assert!(!accepts(&tagged(6, &[], true), key.expose_secret()));
    }

    #[test]
    fn each_change_of_one_byte_of_a_tagged_key_is_malformed() {
        let format = tagged(0, &[], true);
        let mut key = TAGGED.as_bytes().to_vec();
        for at in 0..key.len() {
            for flip in [1, 2, 4, 32, 128] {
                key[at] ^= flip;
                assert!(format.parse(&key).is_err(), "byte {at} by {flip:#x}");
                key[at] ^= flip;
            }
        }
    }

    #[test]
    fn a_prefix_or_an_environment_out_of_grammar_is_refused() {
        for wrong in [
            "",
            "ab",
            "Acme",
            "_acme",
            "acme_",
            "a__b",
            "1acme",
            "a-me",
            &"a".repeat(25),
        ] {
            assert!(
                KeyFormat::new(wrong, &["live".to_owned()], None).is_err(),
                "{wrong}"
            );
        }
        for wrong in ["", "Live", "1live", "li_ve", &"e".repeat(11)] {
            assert!(
                KeyFormat::new("acme", &[wrong.to_owned()], None).is_err(),
                "{wrong}"
            );
        }
        assert!(KeyFormat::new("acme", &[], None).is_err());
    }

    /// Threat A3: no key is generated if the source of randomness fails.
    #[test]
    fn without_randomness_there_is_no_key() {
        let broken: Fill = |_| Err(getrandom::Error::new_custom(7));
        assert!(format("acme").generate("live", broken).is_err());
    }

    /// Threat A3: keys are unique and symbols uniformly distributed.
    #[test]
    fn a_million_generated_keys_are_unique_and_uniform() {
        const THREADS: usize = 4;
        const KEYS_EACH: usize = 250_000;
        /// Generates keys, and returns their ids, secrets and symbol counts.
        fn generate_many() -> (Vec<[u8; 16]>, Vec<[u8; 16]>, [u64; 256]) {
            let format = format("acme");
            let (mut ids, mut secrets, mut counts) = (Vec::new(), Vec::new(), [0; 256]);
            for _ in 0..KEYS_EACH {
                let (id, key) = generate(&format);
                let key = key.expose_secret().as_bytes();
                let secret = &key[key.len() - SECRET_LEN - CHECK_LEN..key.len() - CHECK_LEN];
                ids.push(id.0);
                // 95 bits: two equal values among a million are no coincidence.
                secrets.push(secret[..16].try_into().unwrap());
                for symbol in secret {
                    counts[usize::from(*symbol)] += 1;
                }
            }
            (ids, secrets, counts)
        }

        let (mut ids, mut secrets, mut counts) = (Vec::new(), Vec::new(), [0_u64; 256]);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(generate_many)).collect();
            for thread in threads {
                let made = thread.join().unwrap();
                ids.extend(made.0);
                secrets.extend(made.1);
                counts
                    .iter_mut()
                    .zip(made.2)
                    .for_each(|(sum, own)| *sum += own);
            }
        });
        for mut made in [ids, secrets] {
            assert_eq!(made.len(), THREADS * KEYS_EACH);
            made.sort_unstable();
            assert!(made.windows(2).all(|pair| pair[0] != pair[1]));
        }
        let expected = (THREADS * KEYS_EACH * SECRET_LEN) as f64 / 62.0;
        let chi_square: f64 = BASE62
            .iter()
            .map(|symbol| (counts[usize::from(*symbol)] as f64 - expected).powi(2) / expected)
            .sum();
        // 61 degrees of freedom: a value above 130 has a probability of less than one in a million.
        assert!(chi_square < 130.0, "chi-square {chi_square}");
        let others: u64 = counts.iter().sum::<u64>()
            - BASE62
                .iter()
                .map(|symbol| counts[usize::from(*symbol)])
                .sum::<u64>();
        assert_eq!(others, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn up_to_a_megabyte_of_any_bytes_is_read_without_a_panic(
            len in prop_oneof![0..200_usize, 0..=1_usize << 20],
            seed in any::<[u8; 32]>(),
            head in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut bytes: Vec<u8> = head;
            bytes.extend(seed.iter().cycle().take(len));
            prop_assert!(verified(&bytes).is_none());
            prop_assert!(format("acme").parse(&bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(verified(&bytes).is_none());
            prop_assert!(format("acme").parse(&bytes).is_err());
        }

        #[test]
        fn generated_key_parses(prefix in "[a-z][a-z0-9]{2,8}(_[a-z0-9]{1,6}){0,2}", environment in "[a-z][a-z0-9]{0,9}") {
            let format = KeyFormat::new(&prefix, std::slice::from_ref(&environment), None).unwrap();
            let (id, secret) = format.generate(&environment, getrandom::fill).unwrap();
            let key = format.parse(secret.expose_secret().as_bytes()).unwrap();
            prop_assert_eq!(key.id, id);
            prop_assert_eq!(scan::verify(secret.expose_secret()), Some(id));
        }

        #[test]
        fn two_changed_bytes_are_malformed(
            one in 0..76_usize,
            two in 0..76_usize,
            by in 1..255_u8,
        ) {
            prop_assume!(one != two);
            let mut key = VECTORS[1].as_bytes().to_vec();
            key[one] ^= by;
            key[two] ^= by;
            prop_assert!(verified(&key).is_none());
            prop_assert!(format("acme").parse(&key).is_err());
        }
    }
}
