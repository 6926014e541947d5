//! The fill: storing the handler's response.

pub(super) mod body;
pub(super) mod budget;
pub(super) mod completion;
pub(super) mod empty_body;
pub(super) mod feed;
pub(super) mod order;
pub(super) mod pump;
pub(super) mod put;
pub(super) mod relay;
pub(super) mod replaced;
pub(super) mod tapped;
pub(super) mod tee;
pub(super) mod writer;
