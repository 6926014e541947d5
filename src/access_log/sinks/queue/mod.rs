//! A queue that stores records in the background.

mod builder;
mod inner;
mod lane;
mod queue;

pub use self::{builder::LogQueueBuilder, queue::LogQueue};
