//! Requests that share one call of the handler.

pub(super) mod lease;
pub(super) mod single_flight;
pub(super) mod storable;
