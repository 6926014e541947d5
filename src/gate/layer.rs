//! The layers of a gate, stacked.

use tower_layer::Layer;

use super::checks::Stages;
use crate::{
    access_log::{AccessLog, AccessLogLayer, CountRequestBodyLayer, body::CountRequestBody},
    api_key::{ApiKey, ApiKeyLayer},
    cache::{Cache, CacheLayer},
    rate_limit::{RateLimit, RateLimitLayer},
};

/// The layers of a [`Gate`](crate::Gate), stacked. Returned by [`Gate::build`](crate::Gate::build).
///
/// Neither this type nor the type of the [service](GateService) depends on which layers are
/// present. An absent layer forwards requests and responses unchanged and allocates nothing.
///
/// Likewise, the bounds on the inner service do not depend on which layers are present. The
/// services of axum and hyper satisfy these bounds:
///
/// - The service is `Clone + Send + 'static`, its future is `Send + 'static`, and its error is
///   `Send`.
/// - The request body is `Send + 'static`.
/// - The response body is `Send + 'static`, and its data type is [`Bytes`](bytes::Bytes). The
///   body's error becomes a [`BoxError`](crate::BoxError).
///
/// ```
/// use portcullis::{Gate, GateLayer, access_log::AccessLogLayer};
///
/// fn routes(log: bool) -> Result<axum::Router, portcullis::ConfigError> {
///     let log = log.then(AccessLogLayer::stderr);
///     let gate: GateLayer = Gate::new().access_log(log).build()?;
///     Ok(axum::Router::new().layer(gate))
/// }
/// # routes(true).unwrap();
/// # routes(false).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct GateLayer {
    pub(super) stages: Stages,
}

/// The service of a [`GateLayer`] around `S`.
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use portcullis::{Gate, gate::GateService};
/// use tower::{Layer, util::BoxCloneService};
///
/// type Body = http_body_util::Full<bytes::Bytes>;
/// type App = BoxCloneService<Request<Body>, Response<Body>, Infallible>;
///
/// fn guarded(app: App) -> Result<GateService<App>, portcullis::ConfigError> {
///     Ok(Gate::new().build()?.layer(app))
/// }
/// # let _ = guarded;
/// ```
pub type GateService<S> = AccessLog<LimitedService<S>>;

/// The service of a [`CountingGateLayer`] around `S`.
pub type CountingGateService<S> = AccessLog<CountRequestBody<LimitedService<S>>>;

/// The layers inside the access log.
type LimitedService<S> = RateLimit<ApiKey<RateLimit<Cache<S>>>>;

/// A [`GateLayer`] that counts the bytes that are read from each request body. Returned by
/// [`GateLayer::count_request_bodies`].
#[derive(Clone, Debug)]
pub struct CountingGateLayer {
    stages: Stages,
}

impl GateLayer {
    /// Counts the bytes that are read from each request body, and adds the count to the request's
    /// record.
    ///
    /// With or without an access log, the inner service receives a
    /// [`CountedBody`](crate::access_log::body::CountedBody). axum's `Router` accepts this body,
    /// and so does a service that is generic over its request body. This method changes the type of
    /// the layer. By default, the record has the length that the request declares.
    ///
    /// ```
    /// use portcullis::{Gate, access_log::AccessLogLayer};
    ///
    /// # fn main() -> Result<(), portcullis::ConfigError> {
    /// let gate = Gate::new()
    ///     .access_log(AccessLogLayer::stderr())
    ///     .build()?
    ///     .count_request_bodies();
    /// let app = axum::Router::<()>::new().layer(gate);
    /// # let _ = app;
    /// # Ok(())
    /// # }
    /// ```
    pub fn count_request_bodies(self) -> CountingGateLayer {
        CountingGateLayer {
            stages: self.stages,
        }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = GateService<S>;

    fn layer(&self, service: S) -> Self::Service {
        self.stages.record(self.stages.limit(service))
    }
}

impl<S> Layer<S> for CountingGateLayer {
    type Service = CountingGateService<S>;

    fn layer(&self, service: S) -> Self::Service {
        let counted = CountRequestBodyLayer.layer(self.stages.limit(service));
        self.stages.record(counted)
    }
}

impl Stages {
    /// Wraps a service in the layers inside the access log, from the inside out.
    fn limit<S>(&self, service: S) -> LimitedService<S> {
        let service = CacheLayer::wrap(self.cache.as_ref(), service);
        let service = RateLimitLayer::wrap(self.by_identity.as_ref(), service);
        let service = ApiKeyLayer::wrap(self.api_keys.as_ref(), service);
        RateLimitLayer::wrap(self.by_address.as_ref(), service)
    }

    fn record<S>(&self, service: S) -> AccessLog<S> {
        AccessLogLayer::wrap(self.access_log.as_ref(), service)
    }
}
