//! Verification of other credentials: static keys and custom verifiers.

use std::{collections::HashSet, env, fmt};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::core::{error::ConfigError, identity::Identity, store_api::store_future::StoreFuture};

const STATIC_KEY_LEN_MIN: usize = 32;
const STATIC_KEYS_MAX: usize = 1_000;

/// Authenticates callers by a credential that is not a key of the ring, for example a JWT.
///
/// A layer calls its verifiers in order. It calls them only for credentials that do not have the
/// form of the ring's keys. The first result other than [`Verdict::NotRecognized`] is final. An
/// error is also final: the caller receives `503`, and no later verifier is called.
///
/// Verifiers are not called for a credential that was rejected within the last 5 seconds. They are
/// also not called for an address that has reached the [failure
/// limit](crate::api_key::ApiKeyLayerBuilder::failure_limit). If every verifier rejects or does not
/// recognize a credential, the attempt counts as a failure of the client's address.
///
/// If a verifier panics, the caller receives `500`.
///
/// ```
/// use portcullis::{Identity, StoreFuture, api_key::{Credential, Verdict, Verifier}};
///
/// /// Accepts any name without proof. For illustration only.
/// struct Gullible;
///
/// impl Verifier for Gullible {
///     fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict> {
///         let token = credential.expose_secret();
///         StoreFuture::ready(match token.strip_prefix(b"i-am-") {
///             Some(name) => {
///                 let name = String::from_utf8_lossy(name);
///                 Verdict::Caller(Identity::builder(name).build())
///             }
///             None => Verdict::NotRecognized,
///         })
///     }
/// }
/// ```
pub trait Verifier: Send + Sync + 'static {
    /// Returns the verdict on a credential.
    fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict>;
}

/// The result of a verifier.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// The credential is accepted. The value is the caller's identity.
    Caller(Identity),
    /// The credential is rejected. The caller receives `401`.
    Rejected,
    /// The verifier does not handle this kind of credential. The next verifier is called.
    NotRecognized,
}

/// A credential from a request. `Debug` prints only the name of the type.
pub struct Credential<'a>(&'a [u8]);

impl<'a> Credential<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the credential, without the scheme and the surrounding whitespace.
    pub fn expose_secret(&self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// A small set of configured keys, for services that call each other.
///
/// The set stores digests instead of the keys. The digests are keyed with a secret that each
/// process generates.
///
/// ```
/// use portcullis::{Identity, api_key::StaticKeys};
///
/// let billing = Identity::builder("billing").scopes(["invoices.read"]).build();
/// // From a secret manager or the environment.
/// let billing_key = "c9wQkA0mD3vB7nXr5sLt2yHu8eGj4fPz";
/// let keys = StaticKeys::new().key(billing_key, billing)?;
/// assert!(StaticKeys::new().key("${BILLING_KEY}", Identity::builder("x").build()).is_err());
/// # let _ = keys;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct StaticKeys {
    keyed: Hmac<Sha256>,
    entries: Vec<([u8; 32], Identity)>,
}

impl StaticKeys {
    /// Creates an empty set.
    ///
    /// # Panics
    ///
    /// Panics if the system has no source of randomness.
    pub fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has a source of randomness");
        Self {
            keyed: Hmac::new_from_slice(&secret).expect("HMAC takes a key of any length"),
            entries: Vec::new(),
        }
    }

    /// Reads keys from an environment variable that contains `NAME=KEY` pairs, separated by commas
    /// or line breaks.
    ///
    /// `NAME` becomes the [`key_id`](Identity::key_id) of the caller. Whitespace around a name or a
    /// key is ignored. A key can contain `=`, but a name cannot. Generate keys with `openssl rand
    /// -hex 32`.
    ///
    /// ```no_run
    /// use portcullis::api_key::{ApiKeyLayer, StaticKeys};
    ///
    /// // API_KEYS="billing=5f0c...,reports=a91d..."
    /// let layer = ApiKeyLayer::with_verifier(StaticKeys::from_env("API_KEYS")?).build()?;
    /// # let _ = layer;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error in these cases:
    ///
    /// - the variable is not set, is not valid Unicode or contains no pair;
    /// - a pair has no name, or two pairs have the same name;
    /// - [`StaticKeys::key`] rejects a key.
    ///
    /// No error contains a key.
    pub fn from_env(variable: &str) -> Result<Self, ConfigError> {
        let text = env::var(variable).map_err(|error| {
            let problem = match error {
                env::VarError::NotPresent => "the environment variable is not set",
                env::VarError::NotUnicode(_) => "the environment variable is not Unicode",
            };
            ConfigError::new("static keys", variable, problem)
                .fix("set it to `NAME=KEY` pairs, separated by commas")
        })?;
        Self::from_pairs(variable, &text)
    }

    fn from_pairs(variable: &str, text: &str) -> Result<Self, ConfigError> {
        let refused = |problem: &str| {
            ConfigError::new("static keys", variable, problem)
                .fix("write `NAME=KEY` pairs, separated by commas")
        };
        let mut names = HashSet::new();
        let mut keys = Self::new();
        let pairs = text.split([',', '\n']).map(str::trim);
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, key) = pair
                .split_once('=')
                .ok_or_else(|| refused("a pair has no `=`"))?;
            let name = name.trim();
            if name.is_empty() {
                return Err(refused("a pair has no name"));
            }
            if !names.insert(name) {
                return Err(refused("two pairs have the same name"));
            }
            keys = keys.key(key.trim(), Identity::builder(name).build())?;
        }
        match names.is_empty() {
            true => Err(refused("the environment variable has no pair")),
            false => Ok(keys),
        }
    }

    /// Adds a key and the caller's identity.
    ///
    /// # Errors
    ///
    /// Returns an error in these cases:
    ///
    /// - the key has fewer than 32 bytes, or all of its bytes are equal;
    /// - the key is an unexpanded variable (`${KEY}` or `$KEY`);
    /// - the key is already in the set, or the set already contains 1000 keys.
    pub fn key(mut self, key: &str, caller: Identity) -> Result<Self, ConfigError> {
        let bytes = key.as_bytes();
        let refused = |problem: &str| {
            let value = format_args!("{} bytes long", bytes.len()).to_string();
            Err(ConfigError::new("static key", value, problem)
                .fix("generate one with `openssl rand -hex 32`"))
        };
        if key.starts_with('$') || key.contains("${") || key.contains("{{") {
            return refused("it is an unexpanded variable; the key must be its value");
        }
        if bytes.len() < STATIC_KEY_LEN_MIN {
            return refused("it must have at least 32 bytes, so that it cannot be guessed");
        }
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return refused("its bytes must not all be equal");
        }
        let digest = self.digest(bytes);
        if self
            .entries
            .iter()
            .any(|(own, _)| own.ct_eq(&digest).into())
        {
            return refused("it is already in the set, and a key identifies one caller");
        }
        if self.entries.len() == STATIC_KEYS_MAX {
            return refused("the set has its maximum of 1000 keys; use a key ring for more");
        }
        self.entries.push((digest, caller));
        Ok(self)
    }

    fn digest(&self, key: &[u8]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(key);
        mac.finalize().into_bytes().into()
    }
}

impl Default for StaticKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier for StaticKeys {
    fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict> {
        let digest = self.digest(credential.0);
        // Compare every entry, so that the time does not reveal the position of a match.
        let mut found = u32::MAX;
        for (at, (own, _)) in (0..).zip(&self.entries) {
            let fits: Choice = own.ct_eq(&digest);
            found.conditional_assign(&at, fits);
        }
        let caller = usize::try_from(found)
            .ok()
            .and_then(|at| self.entries.get(at));
        StoreFuture::ready(match caller {
            Some((_, caller)) => Verdict::Caller(caller.clone()),
            None => Verdict::NotRecognized,
        })
    }
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKeys({})", self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "c9wQkA0mD3vB7nXr5sLt2yHu8eGj4fPz";

    fn caller(name: &str) -> Identity {
        Identity::builder(name).build()
    }

    fn verified(keys: &StaticKeys, key: &str) -> Option<String> {
        let verdict = keys.verify(&Credential::new(key.as_bytes())).into_ready();
        match verdict.ready().unwrap().unwrap() {
            Verdict::Caller(caller) => Some(caller.key_id().to_owned()),
            Verdict::Rejected | Verdict::NotRecognized => None,
        }
    }

    #[test]
    fn each_key_stands_for_its_caller() {
        let other = KEY.to_uppercase();
        let keys = StaticKeys::new().key(KEY, caller("a")).unwrap();
        let keys = keys.key(&other, caller("b")).unwrap();
        assert_eq!(verified(&keys, KEY).as_deref(), Some("a"));
        assert_eq!(verified(&keys, &other).as_deref(), Some("b"));
        for stranger in ["", &KEY[1..], &KEY.replace('c', "d")] {
            assert_eq!(verified(&keys, stranger), None);
        }
    }

    /// Threat A13: weak static keys are rejected, and errors do not contain them.
    #[test]
    fn a_weak_or_unresolved_key_is_refused() {
        let refused = |key: &str| StaticKeys::new().key(key, caller("a")).unwrap_err();
        for weak in [
            "",
            "hunter2",
            &"a".repeat(64),
            "${MY_KEY_WITH_A_LONG_ENOUGH_NAME_TO_PASS}",
        ] {
            let error = refused(weak).to_string();
            assert!(weak.is_empty() || !error.contains(weak), "{error}");
        }
        refused("$ENV://A_VARIABLE_THAT_NOBODY_HAS_RESOLVED");
        refused("prefix-${A_VARIABLE_THAT_NOBODY_HAS_RESOLVED}");
        let keys = StaticKeys::new().key(KEY, caller("a")).unwrap();
        assert!(keys.key(KEY, caller("b")).is_err());
    }

    #[test]
    fn debug_shows_neither_keys_nor_digests() {
        let keys = StaticKeys::new().key(KEY, caller("a")).unwrap();
        assert_eq!(format!("{keys:?}"), "StaticKeys(1)");
        assert_eq!(format!("{:?}", Credential::new(b"secret")), "Credential");
    }

    #[test]
    fn static_keys_are_read_from_pairs_of_names_and_keys() {
        let (one, two) = ("1".repeat(31) + "a", "2".repeat(31) + "=");
        let text = format!(" billing = {one} ,\nreports={two},\n");
        let keys = StaticKeys::from_pairs("API_KEYS", &text).unwrap();
        let found = |key: &str| match keys
            .verify(&Credential::new(key.as_bytes()))
            .into_ready()
            .ready()
        {
            Some(Ok(Verdict::Caller(identity))) => Some(identity.key_id().to_owned()),
            _ => None,
        };
        assert_eq!(found(&one).as_deref(), Some("billing"));
        assert_eq!(found(&two).as_deref(), Some("reports"));
        assert_eq!(found("billing"), None);
    }

    #[test]
    fn invalid_pairs_are_refused_without_showing_a_key() {
        let key = "k3y".repeat(11);
        for text in [
            String::new(),
            " , ,".to_owned(),
            key.clone(),
            format!("={key}"),
            format!("a={key},a={key}x"),
            format!("a={key},b={key}"),
            "a=short-k3yk3y".to_owned(),
        ] {
            let error = StaticKeys::from_pairs("API_KEYS", &text).unwrap_err();
            assert!(!error.to_string().contains("k3yk3y"), "{error}");
        }
        assert!(StaticKeys::from_env("PORTCULLIS_NO_SUCH_VARIABLE").is_err());
    }
}
