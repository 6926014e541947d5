//! HTTP caching rules (RFC 9110, RFC 9111, RFC 9211).

pub(super) mod cache_control;
pub(super) mod cache_status;
pub(super) mod content_range;
pub(super) mod date;
pub(super) mod field_names;
pub(super) mod freshness;
pub(super) mod invalidation;
pub(super) mod preconditions;
pub(super) mod profile;
pub(super) mod range;
pub(super) mod request_facts;
pub(super) mod revalidation;
pub(super) mod storability;
pub(super) mod structured_fields;
pub(super) mod vary;
