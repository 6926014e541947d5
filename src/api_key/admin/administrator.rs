//! Administrators of keys and their permissions.

use http::request::Parts;

use crate::{
    api_key::{manage::manager::KeyManager, record::record::KeyRecord},
    core::store_api::store_future::StoreFuture,
};

/// Authorizes requests to the admin router.
///
/// The router calls [`authorize`](Self::authorize) with the head of each request before it
/// processes anything else. Return `None` to reject the request with `403`. An error results in
/// `503`, and a panic results in `500`.
///
/// Functions can implement this trait. See the [module](super) for an example.
pub trait Authorizer: Send + Sync + 'static {
    /// Returns the administrator who sent the request, or `None` to reject the request.
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

/// An administrator of all keys, or of one owner's keys.
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

/// The restrictions of an administrator of one owner's keys.
#[derive(Clone, Debug)]
struct OwnerBounds {
    owner: String,
    scopes: Vec<String>,
    tiers: Vec<String>,
    max_keys: Option<usize>,
}

impl Administrator {
    /// Creates an unrestricted administrator of all keys, for the service's operators.
    ///
    /// The name appears in key records and in the audit trail.
    pub fn global(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bounds: None,
        }
    }

    /// Creates an administrator of one owner's keys, for the service's customers.
    ///
    /// This administrator cannot see other owners' keys. It can grant only the scopes and tiers
    /// that [`may_grant_scopes`](Self::may_grant_scopes) and
    /// [`may_grant_tiers`](Self::may_grant_tiers) add. It cannot grant credits, limits or metadata.
    /// If a key has a scope that the administrator cannot grant, the administrator can only
    /// disable, expire or revoke the key.
    ///
    /// The administrator cannot override the service. It can tighten a setting that the service
    /// made, but it cannot extend, lift or remove the setting. These settings are the expiry, the
    /// start time, the constraints, the scopes, the tier and the disabled state. When the
    /// administrator rotates a key, the new key expires no later than the service allows.
    ///
    /// Within its own grants, the administrator can change settings that an administrator of the
    /// same owner made, until the service updates the key. If the service disables or revokes a
    /// key, the owner cannot undo the change, even if the owner had already disabled or revoked the
    /// key.
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

    /// Adds scopes that the administrator can grant. Defaults to none.
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

    /// Adds tiers that the administrator can grant. Defaults to none.
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

    /// Sets the maximum number of keys that this administrator's owner can have. Defaults to the
    /// [`max_keys_per_owner`](crate::api_key::KeyManager::max_keys_per_owner) of the router's
    /// manager.
    ///
    /// Requests to create more keys receive `409` with the problem type `too-many-keys`.
    pub fn max_keys_per_owner(mut self, keys: usize) -> Self {
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

    /// Returns the owner whose keys the administrator can see, or `None` for all owners.
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

    /// Returns `true` if the administrator could have created this key. The key's tier and
    /// allowances are not checked: the owner already has them, and the manager does not change
    /// them.
    pub(super) fn may_handle(&self, key: &KeyRecord) -> bool {
        self.sees(key) && key.scopes().all(|scope| self.may_grant_scope(scope))
    }
}
