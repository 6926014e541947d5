//! In-memory rate limits.

mod logs;
mod seam;
mod state;
mod store;
mod table;

pub(super) use self::state::RateLimitTable;
