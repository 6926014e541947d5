//! Rate limits on Redis.

mod batches;
mod carried;
mod carry;
mod deferred;
mod denied;
mod lease_call;
mod leases;
mod question;
mod scripts;
mod state;
mod store;
mod tending;

pub(super) use self::{state::RateLimitState, tending::close};
