//! The head of a response, and the condition under which it is charged.

use std::sync::Arc;

use http::{Extensions, HeaderMap, Response, StatusCode, Version};

use crate::{core::http::meant_status::meant_status, rate_limit::policy::policy::Policy};

/// The head of a response. [`charge_if`](crate::rate_limit::RateLimitLayerBuilder::charge_if)
/// passes it to the predicate that determines whether the request is charged.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// The effective status. For a rejection by one of this crate's layers, this is the HTTP
    /// status, even if the client receives a gRPC status instead. Over HTTP/2, the gRPC statuses
    /// `UNAUTHENTICATED` and `PERMISSION_DENIED` in the head are mapped to `401` and `403`.
    pub status: StatusCode,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The response extensions, such as the outcomes of inner layers.
    pub extensions: &'a Extensions,
}

/// A function that returns `true` if a response is charged to a policy.
pub(super) type ChargeIfFn = dyn Fn(&ResponseHead<'_>, &Policy) -> bool + Send + Sync;

/// The condition under which a request is charged.
pub(super) struct ChargeCondition {
    charge_if: Arc<ChargeIfFn>,
    version: Version,
}

impl ChargeCondition {
    /// Creates the condition for a request with this HTTP version.
    pub(super) fn new(charge_if: &Arc<ChargeIfFn>, version: Version) -> Self {
        Self {
            charge_if: Arc::clone(charge_if),
            version,
        }
    }

    /// Returns a function that returns `true` if the response is charged to a policy.
    pub(super) fn on<B>(&self, response: &Response<B>) -> impl Fn(&Policy) -> bool {
        let head = ResponseHead {
            status: meant_status(response, self.version),
            headers: response.headers(),
            extensions: response.extensions(),
        };
        move |policy| (self.charge_if)(&head, policy)
    }
}
