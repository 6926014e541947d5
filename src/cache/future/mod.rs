//! The future of a response.

pub(super) mod future;
mod state;
mod transition;
