//! The in-memory access log.

mod state;
mod store;

pub(super) use self::state::LogRings;
