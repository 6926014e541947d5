//! The outcome of each layer for one request.
//!
//! The layers put [`AuthOutcome`], [`RateLimitOutcome`] and [`CacheOutcome`] into the extensions of
//! the response and into the request's access log record. A custom layer can write to that record
//! through [`RecordHandle`].

pub use crate::core::record::{
    AuthDenial, AuthOutcome, CacheOutcome, CacheSource, FieldValue, PolicyOutcome,
    RateLimitDecision, RateLimitOutcome, RecordData, RecordHandle, StoreCall,
};
