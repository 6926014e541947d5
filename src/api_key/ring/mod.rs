//! The state that the layers and managers of one key ring share.

pub(super) mod builder;
mod builder_checks;
pub(super) mod change_feed;
pub(super) mod rehash;
pub(super) mod ring;
pub(super) mod state;
pub(super) mod usage;
