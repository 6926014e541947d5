//! The servers of a store: a single server, the primary that Sentinels monitor, or a Cluster.

pub(super) mod cluster;
pub(super) mod endpoint;
pub(super) mod router;
pub(super) mod slot;
