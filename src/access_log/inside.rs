//! Layers inside the access log that add the route and the request bytes to the record.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;
use tower_layer::Layer;

use crate::core::{framework, record::RecordHandle, service_accessors::service_accessors};

/// Implements `Layer` for a unit type whose service wraps the inner one.
macro_rules! plain_layer {
    ($layer:ident => $service:ident) => {
        impl<S> Layer<S> for $layer {
            type Service = $service<S>;

            fn layer(&self, inner: S) -> Self::Service {
                $service { inner }
            }
        }
    };
}

/// Adds the matched route to the record if the access log is outside the router.
///
/// With axum (feature `axum`), apply this layer with `router.route_layer(RecordRouteLayer)`. It is
/// not needed if `Router::layer` applies the access log. If no route matches, the record has no
/// route.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordRouteLayer;

plain_layer!(RecordRouteLayer => RecordRoute);

/// A service that adds the matched route to the record; created by [`RecordRouteLayer`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRoute<S> {
    inner: S,
}

service_accessors!(RecordRoute<S>);

impl<S, B> Service<Request<B>> for RecordRoute<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let extensions = request.extensions();
        let record = RecordHandle::from_extensions(extensions);
        if let (Some(record), Some(route)) = (record, framework::matched_path(extensions)) {
            record.set_route(route.to_owned());
        }
        self.inner.call(request)
    }
}

/// Counts the request body bytes that the inner service reads, and adds the count to the record.
///
/// The inner service receives another type of body, [`CountedBody`], so the access log does not
/// apply this layer itself. The `Router` of axum accepts any body type.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountRequestBodyLayer;

plain_layer!(CountRequestBodyLayer => CountRequestBody);

/// A service that counts request body bytes; created by [`CountRequestBodyLayer`].
#[derive(Clone, Copy, Debug)]
pub struct CountRequestBody<S> {
    inner: S,
}

service_accessors!(CountRequestBody<S>);

impl<S, B> Service<Request<B>> for CountRequestBody<S>
where
    S: Service<Request<CountedBody<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let record = RecordHandle::from_extensions(request.extensions()).cloned();
        if let Some(record) = &record {
            // The record of an unread body contains 0 bytes rather than no byte count.
            record.add_request_bytes(0);
        }
        let wrap = |body| CountedBody { body, record };
        self.inner.call(request.map(wrap))
    }
}

pin_project! {
    /// A request body that counts the bytes that are read and adds the count to the record.
    ///
    /// Frames, trailers, size hints and errors pass through unchanged. The default value has no
    /// record.
    #[derive(Default)]
    pub struct CountedBody<B> {
        #[pin]
        body: B,
        record: Option<RecordHandle>,
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let data = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let (Some(record), Some(data)) = (this.record, data) {
            record.add_request_bytes(data.remaining() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for CountedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountedBody")
    }
}
