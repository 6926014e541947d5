//! The path of a request from its arrival to a cached response or a call to the handler.

pub(super) mod assured;
pub(super) mod backoff;
pub(super) mod entry_use;
pub(super) mod facts;
pub(super) mod look;
pub(super) mod plan;
pub(super) mod reason;
pub(super) mod refresh;
pub(super) mod reloads;
pub(super) mod response;
pub(super) mod search;
pub(super) mod served;
pub(super) mod shown;
pub(super) mod step;
pub(super) mod waiting;
