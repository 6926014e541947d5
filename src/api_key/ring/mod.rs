//! The shared state of the layers and managers of a key ring.

pub(super) mod builder;
mod builder_checks;
pub(super) mod change_feed;
pub(super) mod no_store;
pub(super) mod rehash;
pub(super) mod ring;
pub(super) mod state;
pub(super) mod usage;
