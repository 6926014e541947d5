//! A queue of records on their way to a store.

mod builder;
mod inner;
mod lane;
mod queue;

pub use self::{builder::LogQueueBuilder, queue::LogQueue};
