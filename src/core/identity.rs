//! The identity of an authenticated caller.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use sha2::{Digest, Sha256};

use super::{allowance::Allowance, error::ConfigError, notice};

/// The identity of an authenticated caller, stored as a request extension.
///
/// All layers can read the identity. The rate limiter counts by the identity's lineage or owner and
/// chooses limits by the tier. The cache partitions responses by [`Identity::digest`], and the
/// access log records the key id. Cloning an identity only increments a reference count.
///
/// The API key layer inserts the identity. An application that authenticates callers by other means
/// creates an identity with [`Identity::builder`].
///
/// ```
/// use portcullis::Identity;
///
/// let caller = Identity::builder("user-42")
///     .owner("acme")
///     .tier("pro")
///     .scopes(["data.read"])
///     .build();
/// assert!(caller.has_scope("data.read"));
/// assert_eq!(caller.lineage(), "user-42");
/// ```
#[derive(Clone)]
pub struct Identity {
    inner: Arc<IdentityInner>,
}

struct IdentityInner {
    key_id: String,
    lineage: String,
    owner: Option<String>,
    tier: Option<String>,
    credits: Option<Allowance>,
    limit: Option<Allowance>,
    scopes: Vec<String>,
    metadata: BTreeMap<String, String>,
    digest: [u8; 32],
}

impl Identity {
    /// Creates a builder for an identity that the application has verified.
    ///
    /// All inner layers trust the identity. `key_id` is public and appears in logs. It must be
    /// unique among all callers of the service, across owners, tenants and authentication methods.
    /// The reason is that the rate limiter counts by the [lineage](Self::lineage), which defaults
    /// to the key id. If users are identified by a tenant and a name, include both in the id, as in
    /// `acme/alice`.
    ///
    /// The cache shares responses between two requests only if their identities are equal in
    /// everything that a handler can read. A handler must not derive a response from other data
    /// about the caller, such as another request extension. Add such data to the
    /// [metadata](IdentityBuilder::metadata) instead.
    pub fn builder(key_id: impl Into<String>) -> IdentityBuilder {
        let key_id = key_id.into();
        IdentityBuilder {
            inner: IdentityInner {
                lineage: key_id.clone(),
                key_id,
                owner: None,
                tier: None,
                credits: None,
                limit: None,
                scopes: Vec::new(),
                metadata: BTreeMap::new(),
                digest: [0; 32],
            },
        }
    }

    /// Prefetches the reference count of a clone, concurrently with later work. An identity that
    /// was not used recently is not in the CPU cache.
    #[inline]
    #[cfg_attr(
        not(feature = "api-key"),
        allow(dead_code, reason = "records of keys alone are fetched early")
    )]
    pub(crate) fn fetch(&self) {
        std::hint::black_box(Arc::strong_count(&self.inner));
    }

    /// Returns the public id of the presented key.
    pub fn key_id(&self) -> &str {
        &self.inner.key_id
    }

    /// Returns the caller's lineage: the id of the first key in the series of keys that rotations
    /// link. The lineage remains the same when the key is rotated.
    pub fn lineage(&self) -> &str {
        &self.inner.lineage
    }

    /// Returns the owner of the key, if known.
    pub fn owner(&self) -> Option<&str> {
        self.inner.owner.as_deref()
    }

    /// Returns the tier that determines the caller's limits, if the key has a tier.
    pub fn tier(&self) -> Option<&str> {
        self.inner.tier.as_deref()
    }

    /// Returns the credits of the caller's [lineage](Self::lineage), if any. Only limiters that are
    /// configured to enforce credits read them.
    pub fn credits(&self) -> Option<Allowance> {
        self.inner.credits
    }

    /// Returns the caller's own limit, if any. In limiters that are configured to use callers' own
    /// limits, this limit replaces the tier's limit.
    pub fn limit(&self) -> Option<Allowance> {
        self.inner.limit
    }

    /// Returns the scopes of the caller, sorted and without duplicates.
    pub fn scopes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inner.scopes.iter().map(String::as_str)
    }

    /// Returns `true` if the caller has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.inner
            .scopes
            .binary_search_by(|own| own.as_str().cmp(scope))
            .is_ok()
    }

    /// Returns the metadata of the key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// Returns a digest of everything that a handler can read from this identity: the key id,
    /// lineage, owner, tier, credits, limit, scopes and metadata.
    ///
    /// The cache partitions responses by this digest. If any of these values change, the caller has
    /// a different digest and does not receive responses that were cached under the previous
    /// digest. The digest is computed once, when the identity is built.
    pub fn digest(&self) -> &[u8; 32] {
        &self.inner.digest
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("key_id", &self.inner.key_id)
            .field("lineage", &self.inner.lineage)
            .field("owner", &self.inner.owner)
            .field("tier", &self.inner.tier)
            .field("scopes", &self.inner.scopes)
            .finish_non_exhaustive()
    }
}

/// A builder of [`Identity`]. Created by [`Identity::builder`].
#[must_use]
pub struct IdentityBuilder {
    inner: IdentityInner,
}

impl IdentityBuilder {
    /// Sets the lineage, which is an id that remains the same when the key is rotated. Defaults to
    /// the key id.
    pub fn lineage(mut self, lineage: impl Into<String>) -> Self {
        self.inner.lineage = lineage.into();
        self
    }

    /// Sets the owner of the key. None by default.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.inner.owner = Some(owner.into());
        self
    }

    /// Sets the tier that determines the caller's limits. None by default.
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.inner.tier = Some(tier.into());
        self
    }

    /// Sets the credits of the caller's [lineage](Self::lineage). None by default.
    pub fn credits(mut self, credits: Allowance) -> Self {
        self.inner.credits = Some(credits);
        self
    }

    /// Sets the caller's own limit, which replaces the limit of the caller's tier. None by default.
    pub fn limit(mut self, limit: Allowance) -> Self {
        self.inner.limit = Some(limit);
        self
    }

    /// Adds scopes. An identity has no scopes by default.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.inner.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a metadata entry, which replaces any entry with the same name. None by default.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.inner.metadata.insert(name.into(), value.into());
        self
    }

    /// Builds the identity.
    ///
    /// An empty key id is reported as a configuration mistake.
    pub fn build(mut self) -> Identity {
        static SAID: AtomicBool = AtomicBool::new(false);

        if self.inner.key_id.is_empty() {
            notice::misconfigured(&SAID, empty_key_id);
        }
        self.inner.scopes.sort_unstable();
        self.inner.scopes.dedup();
        self.inner.digest = digest(&self.inner);
        Identity {
            inner: Arc::new(self.inner),
        }
    }
}

fn empty_key_id() -> ConfigError {
    let problem = "all such callers share one rate limit, and one cache partition if they are otherwise equal";
    ConfigError::new("Identity::builder", "an empty key id", problem)
        .fix("use a unique id for each caller, and insert no identity for unknown callers")
}

impl fmt::Debug for IdentityBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityBuilder")
            .field("key_id", &self.inner.key_id)
            .finish_non_exhaustive()
    }
}

/// Returns the digest of all fields. Strings and lists are preceded by their lengths, and options
/// by a mark of their presence, so that different identities have different inputs.
fn digest(inner: &IdentityInner) -> [u8; 32] {
    let IdentityInner {
        key_id,
        lineage,
        owner,
        tier,
        credits,
        limit,
        scopes,
        metadata,
        digest: _,
    } = inner;
    let mut fields = FieldDigest(Sha256::new_with_prefix(b"portcullis-v2 identity"));
    fields.text(key_id);
    fields.text(lineage);
    fields.option(owner.as_deref(), FieldDigest::text);
    fields.option(tier.as_deref(), FieldDigest::text);
    fields.option(*credits, FieldDigest::allowance);
    fields.option(*limit, FieldDigest::allowance);
    fields.number(scopes.len() as u64);
    scopes.iter().for_each(|scope| fields.text(scope));
    fields.number(metadata.len() as u64);
    for (name, value) in metadata {
        fields.text(name);
        fields.text(value);
    }
    fields.0.finalize().into()
}

/// Writes fields to a hash.
struct FieldDigest(Sha256);

impl FieldDigest {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn option<T>(&mut self, option: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.0.update([u8::from(option.is_some())]);
        if let Some(value) = option {
            write(self, value);
        }
    }

    fn allowance(&mut self, allowance: Allowance) {
        self.number(allowance.amount());
        // Whole milliseconds; `None` is a calendar month.
        let millis = allowance.period().map(|period| period.as_millis() as u64);
        self.option(millis, Self::number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_a_set() {
        let one = Identity::builder("k").scopes(["b", "a", "b"]).build();
        let two = Identity::builder("k").scopes(["a", "b"]).build();
        assert_eq!(one.scopes().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(one.digest(), two.digest());
    }

    #[test]
    fn each_difference_changes_the_digest() {
        let alice = || Identity::builder("k");
        let allowance = |text: &str| -> Allowance { text.parse().unwrap() };
        let digests = [
            alice(),
            Identity::builder("l"),
            Identity::builder("l").lineage("k"),
            alice().lineage("l"),
            alice().owner(""),
            alice().owner("pro"),
            alice().tier(""),
            alice().tier("pro"),
            alice().scopes([""]),
            alice().scopes(["pro"]),
            alice().scopes(["p", "ro"]),
            alice().metadata("", ""),
            alice().metadata("p", "ro"),
            alice().metadata("pr", "o"),
            alice().metadata("p", "").metadata("ro", ""),
            alice().scopes(["p"]).metadata("r", "o"),
            alice().credits(allowance("1/day")),
            alice().credits(allowance("2/day")),
            alice().credits(allowance("1/hour")),
            alice().credits(allowance("1/month")),
            alice().limit(allowance("1/day")),
        ]
        .map(IdentityBuilder::build)
        .map(|identity| *identity.digest());
        for (at, digest) in digests.iter().enumerate() {
            assert!(
                !digests[at + 1..].contains(digest),
                "digest {at} stands twice"
            );
        }
    }

    #[test]
    fn order_in_which_an_identity_is_built_does_not_count() {
        let one = Identity::builder("k").metadata("a", "1").metadata("b", "2");
        let two = Identity::builder("k").metadata("b", "2").metadata("a", "1");
        assert_eq!(one.build().digest(), two.build().digest());
    }

    proptest::proptest! {
        #[test]
        fn digests_are_equal_only_for_equal_identities(
            one in parts(),
            two in parts(),
        ) {
            proptest::prop_assert_eq!(one == two, built(&one).digest() == built(&two).digest());
        }
    }

    type Parts = (
        String,
        Option<String>,
        Option<String>,
        std::collections::BTreeSet<String>,
        BTreeMap<String, String>,
    );

    fn parts() -> impl proptest::strategy::Strategy<Value = Parts> {
        use proptest::{collection, option};
        (
            "[ab]{0,1}",
            option::of("[ab]{0,1}"),
            option::of("[ab]{0,1}"),
            collection::btree_set("[ab]{0,1}", 0..2),
            collection::btree_map("[ab]{0,1}", "[ab]{0,1}", 0..2),
        )
    }

    fn built((lineage, owner, tier, scopes, metadata): &Parts) -> Identity {
        let mut identity = Identity::builder("k").lineage(lineage).scopes(scopes);
        if let Some(owner) = owner {
            identity = identity.owner(owner);
        }
        if let Some(tier) = tier {
            identity = identity.tier(tier);
        }
        for (name, value) in metadata {
            identity = identity.metadata(name, value);
        }
        identity.build()
    }

    #[test]
    fn debug_leaves_metadata_out() {
        let identity = Identity::builder("k").metadata("note", "canary").build();
        assert!(!format!("{identity:?}").contains("canary"));
    }
}
