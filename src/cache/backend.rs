//! The cache types that only store implementations need.

pub use super::{
    entry::{entry::StoredResponse, key::CacheKey},
    http::vary::{Selection, VariantId, VarySpec},
    store::{Fence, Found, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome, Stamp, Touch},
};
