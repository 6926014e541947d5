//! A handler that streams bodies frame by frame, the cache before it, and clients that record their
//! reads.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, response::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    BoxError,
    cache::{
        Cache, CacheLayer, CacheLayerBuilder, CachePurger,
        body::{CacheBody, InterruptedError},
    },
    store::MemoryStore,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};
use tower::{Layer, Service, ServiceExt};

use super::hands::{Hands, let_all_run};

type Sent = Result<Frame<Bytes>, &'static str>;
type Respond = dyn Fn(&Request<Full<Bytes>>, usize) -> Response<()> + Send + Sync;

/// A handler that responds with a head at once, and with a body as the test sends it.
#[derive(Clone)]
pub(crate) struct Trickle {
    respond: Arc<Respond>,
    bodies: Arc<Mutex<Vec<Option<UnboundedSender<Sent>>>>>,
}

/// A body that the test sends.
pub(crate) struct Frames(UnboundedReceiver<Sent>);

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Sent>> {
        self.0.poll_recv(cx)
    }
}

impl Trickle {
    /// Responds to each call, by its number from 1, with this head.
    pub(crate) fn new(
        respond: impl Fn(&Request<Full<Bytes>>, usize) -> Response<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            respond: Arc::new(respond),
            bodies: Arc::default(),
        }
    }

    /// Responds with these fields.
    pub(crate) fn with(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(move |_, _| head(fields))
    }

    /// Responds to a call.
    pub(crate) fn respond(&self, request: &Request<Full<Bytes>>) -> Response<Frames> {
        let (send, receive) = unbounded_channel();
        let mut bodies = self.bodies.lock().unwrap();
        bodies.push(Some(send));
        let head = (self.respond)(request, bodies.len());
        head.map(|()| Frames(receive))
    }

    pub(crate) fn calls(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    /// Sends some of the body of a call, by its number from 1.
    pub(crate) async fn sends(&self, call: usize, data: impl Into<Bytes>) {
        self.sends_frame(call, Ok(Frame::data(data.into()))).await;
    }

    pub(crate) async fn sends_frame(&self, call: usize, frame: Sent) {
        let body = self.bodies.lock().unwrap()[call - 1].clone();
        let _ = body.unwrap().send(frame);
        let_all_run().await;
    }

    /// Ends the body of a call.
    pub(crate) async fn ends(&self, call: usize) {
        self.bodies.lock().unwrap()[call - 1] = None;
        let_all_run().await;
    }

    /// Returns whether the body of a call was dropped before its end.
    pub(crate) fn is_dropped(&self, call: usize) -> bool {
        let bodies = self.bodies.lock().unwrap();
        bodies[call - 1].as_ref().unwrap().is_closed()
    }
}

/// Creates the head of a response.
pub(crate) fn head(fields: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = Response::new(());
    for (name, value) in fields {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_static(value);
        response.headers_mut().append(name, value);
    }
    response
}

impl Service<Request<Full<Bytes>>> for Trickle {
    type Response = Response<Frames>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Frames>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(self.respond(&request)))
    }
}

/// A cache before a [`Trickle`], on a clock that is moved by hand.
pub(crate) struct Streaming {
    pub(crate) hands: Hands,
    pub(crate) origin: Trickle,
    pub(crate) service: Cache<Trickle>,
    pub(crate) purger: CachePurger,
}

impl Streaming {
    pub(crate) fn secure(origin: &Trickle) -> Self {
        Self::built(origin, CacheLayer::secure, |builder| builder)
    }

    pub(crate) fn rfc(origin: &Trickle) -> Self {
        Self::built(origin, CacheLayer::rfc, |builder| builder)
    }

    pub(crate) fn built(
        origin: &Trickle,
        profile: impl FnOnce(MemoryStore) -> CacheLayerBuilder,
        configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
    ) -> Self {
        let hands = Hands::default();
        let builder = profile(MemoryStore::with_clock(hands.clock.clone()));
        Self::over(origin, hands, configure(builder))
    }

    /// A cache over any store.
    pub(crate) fn over(origin: &Trickle, hands: Hands, builder: CacheLayerBuilder) -> Self {
        let builder = builder.clock(hands.clock.clone()).runtime(hands.clone());
        let layer = builder.build().unwrap();
        Self {
            service: layer.layer(origin.clone()),
            purger: layer.purger(),
            origin: origin.clone(),
            hands,
        }
    }

    /// Sends a request, whose client reads the response frame by frame.
    pub(crate) async fn client(&self, request: Request<Full<Bytes>>) -> Client {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let call = self.service.clone().oneshot(request);
        let task = tokio::spawn(read(call, Arc::clone(&seen)));
        let_all_run().await;
        Client { seen, task }
    }

    /// Sends a request, whose client reads the head alone.
    pub(crate) async fn idle(
        &self,
        request: Request<Full<Bytes>>,
    ) -> JoinHandle<Response<CacheBody<Frames>>> {
        let call = self.service.clone().oneshot(request);
        let task = tokio::spawn(async { call.await.unwrap() });
        let_all_run().await;
        task
    }
}

#[derive(Default)]
struct Seen {
    head: Option<Parts>,
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    end: Option<End>,
}

/// The end of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Interrupted,
    Failed(String),
}

async fn read(
    call: impl Future<Output = Result<Response<CacheBody<Frames>>, &'static str>>,
    seen: Arc<Mutex<Seen>>,
) {
    let (head, mut body) = call.await.unwrap().into_parts();
    seen.lock().unwrap().head = Some(head);
    let end = loop {
        match body.frame().await {
            None => break End::Complete,
            Some(Err(error)) => break End::of(&error),
            Some(Ok(frame)) => seen.lock().unwrap().take(frame),
        }
    };
    seen.lock().unwrap().end = Some(end);
}

impl End {
    fn of(error: &BoxError) -> Self {
        match error.is::<InterruptedError>() {
            true => Self::Interrupted,
            false => Self::Failed(error.to_string()),
        }
    }
}

impl Seen {
    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.data.push(data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }
}

/// A client, and what it has read by now.
pub(crate) struct Client {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Returns whether the head has come.
    pub(crate) fn has_head(&self) -> bool {
        self.seen.lock().unwrap().head.is_some()
    }

    pub(crate) fn status(&self) -> u16 {
        let seen = self.seen.lock().unwrap();
        seen.head.as_ref().expect("a head").status.as_u16()
    }

    pub(crate) fn field(&self, name: &str) -> String {
        let seen = self.seen.lock().unwrap();
        let value = seen.head.as_ref().expect("a head").headers.get(name);
        value.map_or("", |value| value.to_str().unwrap()).to_owned()
    }

    pub(crate) fn body(&self) -> String {
        let body = self.seen.lock().unwrap().data.concat();
        String::from_utf8(body).unwrap()
    }

    pub(crate) fn data(&self) -> Vec<Bytes> {
        self.seen.lock().unwrap().data.clone()
    }

    pub(crate) fn trailer(&self, name: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let value = seen.trailers.as_ref()?.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.seen.lock().unwrap().end.clone()
    }

    /// Disconnects.
    pub(crate) async fn leave(self) {
        self.task.abort();
        let_all_run().await;
    }
}

/// Asserts what several clients have read, and how it has ended.
pub(crate) fn assert_all(clients: &[&Client], body: &str, end: &Option<End>) {
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(client.body(), body, "client {number}");
        assert_eq!(client.end(), *end, "client {number}");
    }
}
