//! The algorithms: pure functions of a stored state, the time and a cost.

mod algorithm;
mod fixed_window;
mod leaky_bucket;
mod leaky_queue;
mod sliding_log;
mod sliding_window;
mod state;
mod token_bucket;

pub(crate) use self::algorithm::Algorithm;
pub(crate) use self::fixed_window::Alignment;
pub use self::sliding_log::Log;
pub use self::state::State;
