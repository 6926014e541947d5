//! The outcome of each layer for one request.
//!
//! The layers put [`AuthOutcome`], [`RateLimitOutcome`] and [`CacheOutcome`] into the extensions of
//! the response and into the record of the access log. A layer of your own writes into that record
//! through [`RecordHandle`].

pub use crate::core::record::{
    AuthDenial, AuthOutcome, CacheOutcome, CacheSource, FieldValue, PolicyOutcome,
    RateLimitDecision, RateLimitOutcome, RecordData, RecordHandle, StoreCall,
};
