//! A partition in a store, and the keys of its requests.

use std::sync::Arc;

use super::component::{Alternative, Component, identity, write_all};
use crate::{
    core::{
        net::client_addr::MissingClientAddrError,
        store_api::store_key::{KeySpace, StoreKey},
    },
    rate_limit::request_head::RequestHead,
};

/// A partition with its key spaces in a store.
#[derive(Debug)]
pub(crate) struct StoredPartition {
    pub(super) alternatives: Box<[(KeySpace, Alternative)]>,
}

impl StoredPartition {
    /// Returns `true` if a component depends on the identity of the caller.
    pub(crate) fn reads_identity(&self) -> bool {
        self.components().flatten().any(Component::reads_identity)
    }

    /// Returns `true` if the lineage alone determines the partition of an authenticated caller.
    pub(crate) fn counts_callers_by_line(&self) -> bool {
        let first = self.components().next();
        first.is_some_and(|components| matches!(components[..], [Component::Identity]))
    }

    /// Returns `true` if the partition includes the route.
    pub(crate) fn counts_routes(&self) -> bool {
        let is_route = |component: &Component| matches!(component, Component::Route);
        self.components().flatten().any(is_route)
    }

    /// Returns the key spaces of the partition, for comparison with another partition. Returns
    /// `None` if a function computes a component, because functions cannot be compared.
    pub(crate) fn spaces(&self) -> Option<Vec<StoreKey>> {
        let is_found = |component: &Component| matches!(component, Component::By(_));
        if self.components().flatten().any(is_found) {
            return None;
        }
        let spaces = self.alternatives.iter().map(|(space, _)| space);
        Some(spaces.map(|space| space.short_key(b"comparison")).collect())
    }

    /// Returns the subject of audit events. The subject is the id of the API key, if there is one.
    /// Otherwise, it is the client's network if the partition includes the network, and the key in
    /// the store if not.
    pub(crate) fn subject(&self, key: &StoreKey, head: &RequestHead<'_>) -> Arc<str> {
        if let Some(caller) = identity(head) {
            return caller.key_id().into();
        }
        let network = self
            .components()
            .flatten()
            .find_map(|component| match component {
                Component::ClientAddr(resolver) => {
                    resolver.resolve(head.extensions, head.headers).ok()
                }
                Component::Identity
                | Component::Owner
                | Component::Header(_)
                | Component::Method
                | Component::Route
                | Component::By(_)
                | Component::Global => None,
            });
        match network {
            Some(addr) => addr.network().to_string().into(),
            None => key.to_string().into(),
        }
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &Alternative> {
        self.alternatives.iter().map(|(_, components)| components)
    }

    /// Returns the partition's component if it is the only one and no function computes it.
    pub(crate) fn single_component(&self) -> Option<SingleComponent> {
        let [(space, components)] = &*self.alternatives else {
            return None;
        };
        let [component] = &components[..] else {
            return None;
        };
        (!matches!(component, Component::By(_))).then(|| SingleComponent {
            space: space.clone(),
            component: component.clone(),
        })
    }

    /// Returns the key of a request's partition, or `None` if the request belongs to no partition.
    pub(crate) fn key(
        &self,
        head: &RequestHead<'_>,
    ) -> Result<Option<StoreKey>, MissingClientAddrError> {
        for (space, components) in &self.alternatives {
            // Nearly all partitions have one component.
            if let [component] = &components[..] {
                match component.key_alone(space, head)? {
                    Some(key) => return Ok(Some(key)),
                    None => continue,
                }
            }
            let mut key = space.short();
            if write_all(components, &mut key, head)? {
                return Ok(Some(key.finish()));
            }
        }
        Ok(None)
    }
}

/// The only component of a partition.
#[derive(Debug)]
pub(crate) struct SingleComponent {
    space: KeySpace,
    component: Component,
}

impl SingleComponent {
    /// Returns the same key as [`StoredPartition::key`], or `None` if the request lacks the
    /// component.
    #[inline(always)]
    pub(crate) fn key(&self, head: &RequestHead<'_>) -> Option<StoreKey> {
        if let Component::ClientAddr(resolver) = &self.component {
            return resolver.store_key(&self.space, head.extensions, head.headers);
        }
        self.component.key_alone(&self.space, head).ok()?
    }
}
