//! Who may manage keys, and which.

use http::request::Parts;

use crate::{
    api_key::{manage::manager::KeyManager, record::record::KeyRecord},
    core::store_api::store_future::StoreFuture,
};

/// Says who sent a request, and what they may do to keys.
///
/// It sees the request's head before anything of the request is done, for each request. It answers
/// `None` to turn the sender away with `403`. One that fails is answered for by `503`, one that
/// panics by `500`.
///
/// A function is one: see the [module](super).
pub trait Authorizer: Send + Sync + 'static {
    /// Says who sent a request, if they may manage keys.
    fn authorize(&self, request: &Parts) -> StoreFuture<Option<Administrator>>;
}

impl<F> Authorizer for F
where
    F: Fn(&Parts) -> StoreFuture<Option<Administrator>> + Send + Sync + 'static,
{
    fn authorize(&self, request: &Parts) -> StoreFuture<Option<Administrator>> {
        self(request)
    }
}

/// Somebody who may manage keys: all of them, or those of one owner.
///
/// ```
/// use portcullis::api_key::admin::Administrator;
///
/// let operator = Administrator::global("alice");
/// let customer = Administrator::for_owner("bob", "acme")
///     .may_grant_scopes(["data.read", "data.write"]);
/// # let _ = (operator, customer);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Administrator {
    name: String,
    bounds: Option<OwnerBounds>,
}

/// What an owner's administrator is held to.
#[derive(Clone, Debug)]
struct OwnerBounds {
    owner: String,
    scopes: Vec<String>,
    tiers: Vec<String>,
    max_keys: Option<usize>,
}

impl Administrator {
    /// Names somebody who may do everything to every key: the service's own people.
    ///
    /// The name stands in the records and in the audit trail.
    pub fn global(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bounds: None,
        }
    }

    /// Creates an administrator of the keys of one owner: a customer.
    ///
    /// It sees no other keys. It grants no scope and no tier but those that it
    /// [may grant](Self::may_grant_scopes), and neither credits, limits nor metadata. A key with a
    /// scope that it may not grant it can disable, expire and revoke, and nothing else.
    ///
    /// Decisions of the service stand. The administrator can tighten what the service set, and cannot
    /// extend, lift or remove it: the expiry, the begin, the constraints, the scopes, the tier, and
    /// that a key is disabled. A key that it rotates ends no later than the service said. What an
    /// administrator of an owner set itself it can change within its grants, until the service updates
    /// the key. A key that the service disables or revokes after the owner did is the service's to
    /// enable.
    pub fn for_owner(name: impl Into<String>, owner: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bounds: Some(OwnerBounds {
                owner: owner.into(),
                scopes: Vec::new(),
                tiers: Vec::new(),
                max_keys: None,
            }),
        }
    }

    /// Adds scopes that an owner's administrator may give to keys.
    pub fn may_grant_scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        if let Some(bounds) = &mut self.bounds {
            bounds.scopes.extend(scopes.into_iter().map(Into::into));
        }
        self
    }

    /// Adds tiers that an owner's administrator may give to keys.
    pub fn may_grant_tiers<I>(mut self, tiers: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        if let Some(bounds) = &mut self.bounds {
            bounds.tiers.extend(tiers.into_iter().map(Into::into));
        }
        self
    }

    /// Sets the maximum number of keys that the owner of an owner's administrator may have. Defaults to
    /// that of the router's manager, see
    /// [`KeyManager::max_keys_per_owner`](crate::api_key::KeyManager::max_keys_per_owner). Requests for
    /// more keys receive `409`, `too-many-keys`.
    pub fn max_keys(mut self, keys: usize) -> Self {
        if let Some(bounds) = &mut self.bounds {
            bounds.max_keys = Some(keys);
        }
        self
    }

    /// Returns a manager that makes this administrator's changes.
    pub(super) fn manager(&self, manager: &KeyManager) -> KeyManager {
        let Some(bounds) = &self.bounds else {
            return manager.acting_as(self.name());
        };
        let manager = manager.acting_for_owner(self.name());
        match bounds.max_keys {
            Some(keys) => manager.max_keys_per_owner(keys),
            None => manager,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the one owner whose keys there are to them, if they may not see all.
    pub(super) fn only_owner(&self) -> Option<&str> {
        self.bounds.as_ref().map(|bounds| bounds.owner.as_str())
    }

    pub(super) fn manages_all(&self) -> bool {
        self.bounds.is_none()
    }

    pub(super) fn may_grant_scope(&self, scope: &str) -> bool {
        let among = |bounds: &OwnerBounds| bounds.scopes.iter().any(|own| own == scope);
        self.bounds.as_ref().is_none_or(among)
    }

    pub(super) fn may_grant_tier(&self, tier: &str) -> bool {
        let among = |bounds: &OwnerBounds| bounds.tiers.iter().any(|own| own == tier);
        self.bounds.as_ref().is_none_or(among)
    }

    pub(super) fn sees(&self, key: &KeyRecord) -> bool {
        self.only_owner().is_none_or(|owner| owner == key.owner())
    }

    /// Returns whether the administrator could have made this key, but for its tier and its
    /// allowances: those are its owner's already, and the manager keeps them as they are.
    pub(super) fn may_handle(&self, key: &KeyRecord) -> bool {
        self.sees(key) && key.scopes().all(|scope| self.may_grant_scope(scope))
    }
}
