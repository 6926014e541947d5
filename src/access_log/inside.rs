//! What has to stand inside of the router, or next to the handler, to know more for the record.

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

use crate::core::{framework, record::RecordHandle};

/// Makes a layer of a type that was told nothing: its service is around the inner one.
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

/// Tells the record which route was matched, where the access log stands outside of the router.
///
/// With axum: `router.route_layer(RecordRouteLayer)`, feature `axum`. An access log that is itself
/// applied by `Router::layer` knows the route without it. A path that matched no route has none in
/// its record.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordRouteLayer;

plain_layer!(RecordRouteLayer => RecordRoute);

/// Tells the record which route was matched; made by [`RecordRouteLayer`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRoute<S> {
    inner: S,
}

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

/// Counts the bytes of the request's body that are really read, for the record.
///
/// The body that the inner service gets is wrapped, and so of another type: that is why the access
/// log does not do this by itself. axum's `Router` takes a body of any type.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountRequestBodyLayer;

plain_layer!(CountRequestBodyLayer => CountRequestBody);

/// Counts the bytes of the request's body; made by [`CountRequestBodyLayer`].
#[derive(Clone, Copy, Debug)]
pub struct CountRequestBody<S> {
    inner: S,
}

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
            // A body that nobody reads has zero bytes in the record, not an unknown number.
            record.add_request_bytes(0);
        }
        let wrap = |body| CountedBody { body, record };
        self.inner.call(request.map(wrap))
    }
}

pin_project! {
    /// A request body whose bytes are counted in the record as they are read.
    ///
    /// Frames, trailers, size hints and errors pass through unchanged. The default belongs to no
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
