//! A layer before a handler that counts its calls.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};

/// A service whose response bodies have been read to their end.
pub(crate) type App = BoxCloneService<Request<Full<Bytes>>, Response<()>, Infallible>;

type Handler = BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

/// Puts a layer before a handler whose responses are cacheable for a minute, and reads each body to
/// its end.
pub(crate) fn app<L, S, B>(layer: L, calls: &Arc<AtomicUsize>) -> App
where
    L: Layer<Handler, Service = S>,
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Debug,
{
    let calls = Arc::clone(calls);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        calls.fetch_add(1, Ordering::Relaxed);
        let response = Response::builder().header("cache-control", "max-age=60");
        ready(Ok(response.body(Full::from("an answer")).unwrap()))
    });
    let service = layer.layer(BoxCloneService::new(handler));
    BoxCloneService::new(service.and_then(|response: Response<B>| async {
        let (head, body) = response.into_parts();
        body.collect().await.unwrap();
        Ok(Response::from_parts(head, ()))
    }))
}
