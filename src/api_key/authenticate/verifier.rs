//! Other ways to know a caller: keys from a configuration, and whatever the user verifies.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::core::{error::ConfigError, identity::Identity, store_api::store_future::StoreFuture};

const STATIC_KEY_LEN_MIN: usize = 32;
const STATIC_KEYS_MAX: usize = 1_000;

/// Knows callers by a credential that is not a key of the ring, a JWT for example.
///
/// A layer asks its verifiers in order, and only about credentials that do not have the form of one of
/// the ring's keys. The first that does not return [`Verdict::NotRecognized`] decides. An error decides
/// too: the caller receives `503`, and no weaker verifier is asked.
///
/// No verifier is asked about a credential that was wrong within the last 5 seconds, nor for an address
/// that has reached the [failure limit](crate::api_key::ApiKeyLayerBuilder::failure_limit). A credential that
/// every verifier rejects or does not know counts as a failure of its address.
///
/// If a verifier panics, the caller receives `500`.
///
/// ```
/// use portcullis::{Identity, StoreFuture, api_key::{Credential, Verdict, Verifier}};
///
/// /// Believes whoever says who they are. Do not do this.
/// struct Gullible;
///
/// impl Verifier for Gullible {
///     fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict> {
///         let said = credential.expose_secret();
///         StoreFuture::ready(match said.strip_prefix(b"i-am-") {
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
    /// Says who presented a credential.
    fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict>;
}

/// What a verifier says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// The caller is known.
    Caller(Identity),
    /// The credential is no good: the caller is answered `401`.
    Rejected,
    /// The credential is of a kind that this verifier does not know: the next one is asked.
    NotRecognized,
}

/// What a request bears: a secret. `Debug` prints the type's name.
pub struct Credential<'a>(&'a [u8]);

impl<'a> Credential<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes as the request bears them, without the scheme and the space around.
    pub fn expose_secret(&self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// A few keys from a configuration, for services that call one another.
///
/// The keys are not kept: digests of them are, under a secret that this process makes up.
///
/// ```
/// use portcullis::{Identity, api_key::StaticKeys};
///
/// let billing = Identity::builder("billing").scopes(["invoices.read"]).build();
/// # let from_secret_manager = "c9wQkA0mD3vB7nXr5sLt2yHu8eGj4fPz";
/// let keys = StaticKeys::new().key(from_secret_manager, billing)?;
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
    /// Begins without a key.
    ///
    /// # Panics
    ///
    /// If the system has no source of randomness, as the standard library's maps do.
    pub fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has a source of randomness");
        Self {
            keyed: Hmac::new_from_slice(&secret).expect("HMAC takes a key of any length"),
            entries: Vec::new(),
        }
    }

    /// Adds a key and who calls with it.
    ///
    /// # Errors
    ///
    /// If the key has fewer than 32 bytes, if all of them are equal, if it is a variable that
    /// nobody has replaced (`${KEY}`, `$KEY`), if it is there already, or the thousandth was.
    pub fn key(mut self, key: &str, caller: Identity) -> Result<Self, ConfigError> {
        let bytes = key.as_bytes();
        let refused = |problem: &str| {
            let value = format_args!("{} bytes long", bytes.len()).to_string();
            Err(ConfigError::new("static key", value, problem)
                .fix("generate one with `openssl rand -hex 32`"))
        };
        if key.starts_with('$') || key.contains("${") || key.contains("{{") {
            return refused("this is the name of a key, which nobody has replaced by the key");
        }
        if bytes.len() < STATIC_KEY_LEN_MIN {
            return refused("a key under 32 bytes can be guessed");
        }
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return refused("a key of equal bytes is no secret");
        }
        let digest = self.digest(bytes);
        if self
            .entries
            .iter()
            .any(|(own, _)| own.ct_eq(&digest).into())
        {
            return refused("one key cannot stand for two callers");
        }
        if self.entries.len() == STATIC_KEYS_MAX {
            return refused("each request is compared with each static key; a ring holds more");
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
        // Each entry is compared, whichever fits: the time tells nothing of its place.
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
        let answer = keys.verify(&Credential::new(key.as_bytes())).into_ready();
        match answer.ok().unwrap().unwrap() {
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

    /// Threat A13: what is no secret is not taken for one, nor shown.
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
}
