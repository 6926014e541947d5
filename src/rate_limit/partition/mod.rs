//! Partitions, which are sets of requests that share a quota.

pub(super) mod caller_list;
pub(super) mod canonical;
pub(super) mod component;
pub(super) mod partition;
pub(super) mod stored;
