//! Forwarded requests: the call of the handler, and the effect of its response on the store.

pub(super) mod conclusion;
pub(super) mod effect;
pub(super) mod exchange;
pub(super) mod filling;
pub(super) mod forwarded_request;
pub(super) mod not_stored;
pub(super) mod question;
pub(super) mod revalidated;
pub(super) mod settling;
pub(super) mod stand_in;
pub(super) mod stored_head;
pub(super) mod unsafe_request;
