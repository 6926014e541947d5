//! The guide: what to know beyond the reference of each type.

#[doc = include_str!("observing.md")]
pub mod observing {}

#[doc = include_str!("order.md")]
pub mod order {}

#[doc = include_str!("promises.md")]
pub mod promises {}

#[doc = include_str!("stores.md")]
pub mod stores {}
