//! Requests that share one handler call.

pub(super) mod lease;
pub(super) mod single_flight;
pub(super) mod storable;
