//! The future of a response.

mod carry;
pub(super) mod future;
mod reading;
mod readying;
mod state;
mod transition;

pub use self::future::ResponseFuture;
