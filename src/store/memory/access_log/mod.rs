//! The access log in memory.

mod state;
mod store;

pub(super) use self::state::LogRings;
