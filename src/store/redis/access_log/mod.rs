//! The access log on Redis.

mod state;
mod store;

pub(super) use self::state::LogStreams;
