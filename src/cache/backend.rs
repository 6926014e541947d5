//! The parts of the cache that only the author of a store needs.

pub use super::{
    entry::{entry::StoredResponse, key::CacheKey},
    http::vary::{Selection, VariantId, VarySpec},
    store::{Fence, Found, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome, Stamp, Touch},
};
