//! Who calls.

use std::{collections::BTreeMap, fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::allowance::Allowance;

/// Who calls: the answer of authentication, which every other layer may read.
///
/// It stands in the request's extensions. The limiter counts by its lineage or owner and chooses
/// its limits by the tier, the cache keeps its answers apart by [`Identity::digest`], and the
/// access log writes its key id. A clone is one reference count.
///
/// The API-key layer makes it. Whoever authenticates by other means makes it by
/// [`Identity::trusted`], a name that says what the caller promises.
///
/// ```
/// use portcullis::Identity;
///
/// let caller = Identity::trusted("user-42")
///     .owner("acme")
///     .tier("pro")
///     .scopes(["data.read"])
///     .build();
/// assert!(caller.has_scope("data.read"));
/// assert_eq!(caller.lineage(), "user-42");
/// ```
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
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
    /// Begins an identity that the caller of this function has verified by its own means.
    ///
    /// `key_id` is public: it is written to logs. Every layer inside believes what is built here.
    pub fn trusted(key_id: impl Into<String>) -> IdentityBuilder {
        let key_id = key_id.into();
        IdentityBuilder {
            inner: Inner {
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

    /// Has the processor fetch what a clone will count on, beside whatever is fetched or computed next:
    /// an identity that was not used a moment ago is not in its cache.
    #[inline]
    pub(crate) fn fetch(&self) {
        std::hint::black_box(Arc::strong_count(&self.inner));
    }

    /// Returns the public id of the key that was presented.
    pub fn key_id(&self) -> &str {
        &self.inner.key_id
    }

    /// Returns what stays the same when the key is rotated: the id of the first key of its line.
    pub fn lineage(&self) -> &str {
        &self.inner.lineage
    }

    /// Returns whose key it is, if that is known.
    pub fn owner(&self) -> Option<&str> {
        self.inner.owner.as_deref()
    }

    /// Returns the name of the tier that chooses the limits, if the key has one.
    pub fn tier(&self) -> Option<&str> {
        self.inner.tier.as_deref()
    }

    /// Returns how much the caller's line of keys may use in a period, if it has credits. A limiter
    /// that is told to charges them.
    pub fn credits(&self) -> Option<Allowance> {
        self.inner.credits
    }

    /// Returns the caller's own limit, which a limiter that is told to puts in the place of the
    /// tier's.
    pub fn limit(&self) -> Option<Allowance> {
        self.inner.limit
    }

    /// Returns what the caller may do, sorted, each scope once.
    pub fn scopes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inner.scopes.iter().map(String::as_str)
    }

    /// Returns whether the caller has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.inner
            .scopes
            .binary_search_by(|own| own.as_str().cmp(scope))
            .is_ok()
    }

    /// Returns what else is known of the key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// Returns a digest of key id, scopes and tier: what keeps two callers' cached answers apart.
    ///
    /// A key whose scopes or tier change gets another digest, and so sees none of the answers that
    /// it got with its former rights.
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

/// Builds an [`Identity`].
#[must_use]
pub struct IdentityBuilder {
    inner: Inner,
}

impl IdentityBuilder {
    /// Says what stays the same when the key is rotated. The key id, unless this is called.
    pub fn lineage(mut self, lineage: impl Into<String>) -> Self {
        self.inner.lineage = lineage.into();
        self
    }

    /// Says whose key it is.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.inner.owner = Some(owner.into());
        self
    }

    /// Says which tier chooses the limits.
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.inner.tier = Some(tier.into());
        self
    }

    /// Says how much the caller's line of keys may use in a period.
    pub fn credits(mut self, credits: Allowance) -> Self {
        self.inner.credits = Some(credits);
        self
    }

    /// Says what limit the caller has in the place of its tier's.
    pub fn limit(mut self, limit: Allowance) -> Self {
        self.inner.limit = Some(limit);
        self
    }

    /// Adds what the caller may do.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.inner.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds something else that is known of the key.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.inner.metadata.insert(name.into(), value.into());
        self
    }

    /// Returns the identity.
    pub fn build(mut self) -> Identity {
        self.inner.scopes.sort_unstable();
        self.inner.scopes.dedup();
        self.inner.digest = digest(&self.inner);
        Identity {
            inner: Arc::new(self.inner),
        }
    }
}

impl fmt::Debug for IdentityBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityBuilder")
            .field("key_id", &self.inner.key_id)
            .finish_non_exhaustive()
    }
}

fn digest(inner: &Inner) -> [u8; 32] {
    let mut hasher = Sha256::new_with_prefix(b"portcullis-v1 identity");
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(inner.key_id.as_bytes());
    // Absent and empty are two things: a tier of no name is a tier.
    field(&[u8::from(inner.tier.is_some())]);
    field(inner.tier.as_deref().unwrap_or_default().as_bytes());
    for scope in &inner.scopes {
        field(scope.as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_a_set() {
        let one = Identity::trusted("k").scopes(["b", "a", "b"]).build();
        let two = Identity::trusted("k").scopes(["a", "b"]).build();
        assert_eq!(one.scopes().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(one.digest(), two.digest());
    }

    #[test]
    fn id_scopes_and_tier_each_change_the_digest() {
        let digests = [
            Identity::trusted("k").build(),
            Identity::trusted("l").build(),
            Identity::trusted("k").tier("").build(),
            Identity::trusted("k").tier("pro").build(),
            Identity::trusted("k").scopes(["pro"]).build(),
            Identity::trusted("k").scopes(["p", "ro"]).build(),
        ]
        .map(|identity| *identity.digest());
        for (at, digest) in digests.iter().enumerate() {
            assert!(
                !digests[at + 1..].contains(digest),
                "digest {at} stands twice"
            );
        }
    }

    #[test]
    fn debug_leaves_metadata_out() {
        let identity = Identity::trusted("k").metadata("note", "canary").build();
        assert!(!format!("{identity:?}").contains("canary"));
    }
}
