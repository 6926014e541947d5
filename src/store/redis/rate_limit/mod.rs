//! Rate limits on Redis.

mod batches;
mod carried;
mod debts;
mod denied;
mod leases;
mod question;
mod scripts;
mod store;
pub(super) use self::store::{Part, close};
