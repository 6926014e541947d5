//! Behavior common to all layers.

pub(crate) mod audit;
pub(crate) mod deadline;
pub(crate) mod notices;
pub(crate) mod notices_lines;
#[cfg(feature = "tracing")]
pub(crate) mod notices_tracing;
pub(crate) mod outside_tokio;
pub(crate) mod peer_addr;
#[cfg(feature = "shutdown")]
pub(crate) mod shutdown;
