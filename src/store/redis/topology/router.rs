//! Routing of calls to servers.

use std::sync::{Arc, atomic::Ordering};

use super::{cluster::Cluster, endpoint::Endpoint, slot::slot_of};
use crate::{
    core::error::{StoreError, StoreErrorKind},
    store::redis::{
        config::credentials::Login,
        connection::{
            error::{Fault, Liveness},
            ground::Ground,
            node::Node,
            pass::CallPermit,
        },
    },
};

/// The servers of a store: a single server, or the servers of a Cluster.
#[derive(Debug)]
pub(crate) enum Router {
    One(Arc<Node>),
    Many(Arc<Cluster>),
}

impl Router {
    pub(crate) fn one(endpoint: Endpoint, ground: Arc<Ground>) -> Self {
        Self::One(Node::new(endpoint, ground, None))
    }

    /// Returns the slot of a key on a Cluster, or 0 if there is no Cluster.
    pub(crate) fn slot_of(&self, key: &[u8]) -> u16 {
        match self {
            Self::One(_) => 0,
            Self::Many(_) => slot_of(key),
        }
    }

    /// Admits a call for a slot.
    pub(crate) fn enter(&self, slot: u16) -> Result<CallPermit, StoreError> {
        match self {
            Self::One(node) => node.enter().map(CallPermit::Known),
            Self::Many(cluster) => cluster.enter(slot),
        }
    }

    /// Returns an endpoint for messages that all servers receive.
    pub(crate) fn any_endpoint(&self) -> Endpoint {
        match self {
            Self::One(node) => node.endpoint().clone(),
            Self::Many(cluster) => cluster.any_endpoint(),
        }
    }

    /// Calls the credentials provider and authenticates all open connections that serve calls.
    ///
    /// If a server rejects the credentials, the password may just have changed, so the provider is
    /// called again.
    pub(crate) async fn reauthenticate(&self, ground: &Ground) -> Result<(), Fault> {
        match self.reauthenticate_once(ground).await {
            Err(fault) if fault.verdict == Liveness::Denied => {
                self.reauthenticate_once(ground).await
            }
            done => done,
        }
    }

    async fn reauthenticate_once(&self, ground: &Ground) -> Result<(), Fault> {
        let login = match self {
            Self::One(node) => node.endpoint().login(),
            Self::Many(cluster) => cluster.login(),
        };
        let credentials = match login {
            Login::Provided(..) => login.credentials(ground).await?,
            Login::Fixed { .. } => None,
        };
        let Some(credentials) = credentials else {
            return Err(Fault::before_any_call(
                StoreErrorKind::Misconfigured,
                "the store has no credentials provider",
            ));
        };
        // A connection that is being opened may use the previous credentials: it is opened again.
        ground.renewals.fetch_add(1, Ordering::SeqCst);
        match self {
            Self::One(node) => node.authenticate(&credentials).await,
            Self::Many(cluster) => cluster.authenticate(&credentials).await,
        }
    }

    /// Rejects new calls, and completes when all calls in flight have completed.
    pub(crate) async fn close(&self) {
        match self {
            Self::One(node) => node.close().await,
            Self::Many(cluster) => cluster.close().await,
        }
    }

    /// Closes all connections immediately.
    pub(crate) fn end(&self) {
        match self {
            Self::One(node) => node.end(),
            Self::Many(cluster) => cluster.end(),
        }
    }
}
