//! Which server a call goes to.

use std::sync::Arc;

use super::{
    cluster::Cluster,
    endpoint::Endpoint,
    ground::Ground,
    node::{Entry, Node},
    slot::slot_of,
};
use crate::error::StoreError;

/// The servers of a store: one, or those of a Cluster.
#[derive(Debug)]
pub(super) enum Router {
    One(Arc<Node>),
    Many(Arc<Cluster>),
}

impl Router {
    pub(super) fn one(endpoint: Endpoint, ground: Arc<Ground>) -> Self {
        Self::One(Node::new(endpoint, ground, None))
    }

    /// Returns the slot of a key, where that matters.
    pub(super) fn slot_of(&self, key: &[u8]) -> u16 {
        match self {
            Self::One(_) => 0,
            Self::Many(_) => slot_of(key),
        }
    }

    /// Asks for the right to ask about a slot.
    pub(super) fn enter(&self, slot: u16) -> Result<Entry, StoreError> {
        match self {
            Self::One(node) => node.enter().map(Entry::Known),
            Self::Many(cluster) => cluster.enter(slot),
        }
    }

    /// Returns what to connect to for what all servers hear.
    pub(super) fn any_endpoint(&self) -> Endpoint {
        match self {
            Self::One(node) => node.endpoint().clone(),
            Self::Many(cluster) => cluster.any_endpoint(),
        }
    }

    /// Takes no more calls, and ends once those under way are answered.
    pub(super) async fn close(&self) {
        match self {
            Self::One(node) => node.close().await,
            Self::Many(cluster) => cluster.close().await,
        }
    }

    /// Ends at once.
    pub(super) fn end(&self) {
        match self {
            Self::One(node) => node.end(),
            Self::Many(cluster) => cluster.end(),
        }
    }
}
