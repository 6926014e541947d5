//! The access log on Redis: a stream for each trail.

mod state;
mod store;

pub(super) use self::state::LogStreams;
