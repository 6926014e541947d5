//! The servers of a store: one, the primary that Sentinels name, or a Cluster.

pub(super) mod cluster;
pub(super) mod endpoint;
pub(super) mod router;
pub(super) mod slot;
