//! The access log record of a response that proves unstorable only at its end.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    access_log::{AccessLogLayer, sinks::RecentRecords},
    cache::{CacheLayer, CachePurger, Purge, PurgeMode},
    store::MemoryStore,
};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::get;

/// A body of these pieces, that breaks off where one is an error.
#[derive(Clone, Default)]
pub(crate) struct Pieces(VecDeque<Result<Piece, &'static str>>);

#[derive(Clone)]
pub(crate) enum Piece {
    Data(&'static str),
    Trailers,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let frame = |piece| match piece {
            Piece::Data(data) => Frame::data(Bytes::from_static(data.as_bytes())),
            Piece::Trailers => Frame::trailers(HeaderMap::new()),
        };
        Poll::Ready(self.0.pop_front().map(|piece| piece.map(frame)))
    }
}

pub(crate) fn pieces<const N: usize>(pieces: [Result<Piece, &'static str>; N]) -> Pieces {
    Pieces(pieces.into())
}

/// Sends a response through a cache that stores at most eight bytes of it, calls `meanwhile` after
/// the first frame, reads `read` frames, and returns from the record whether the response was
/// stored, and the reason if not.
async fn recorded(
    length: Option<&'static str>,
    body: Pieces,
    read: usize,
    meanwhile: impl AsyncFnOnce(CachePurger),
) -> (bool, Value) {
    let recent = RecentRecords::default();
    let log = AccessLogLayer::builder().sink(recent.clone()).build();
    let cache = CacheLayer::secure(MemoryStore::new())
        .max_body_bytes(8)
        .max_finish_bytes(0)
        .build()
        .unwrap();
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let mut response = Response::builder().header("cache-control", "max-age=60");
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        let response = response.body(body.clone()).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let purger = cache.purger();
    let service = log.unwrap().layer(cache.layer(handler));
    let mut response = service.oneshot(get("/a")).await.unwrap();
    let _ = response.body_mut().frame().await;
    meanwhile(purger).await;
    for _ in 1..read {
        let _ = response.body_mut().frame().await;
    }
    drop(response);
    let record: Value = serde_json::from_str(&recent.all()[0]).unwrap();
    let stored = record["portcullis.cache.stored"].as_bool().unwrap();
    (stored, record["portcullis.cache.detail"].clone())
}

const FOUR: Result<Piece, &str> = Ok(Piece::Data("four"));

#[tokio::test]
async fn record_contains_the_reason_if_the_body_prevents_storage() {
    let too_long = || pieces([FOUR, FOUR, FOUR]);
    let breaks_off = || pieces([FOUR, Err("gone")]);
    let in_trailers = || pieces([FOUR, Ok(Piece::Trailers)]);
    let (twice, all) = (|| pieces([FOUR, FOUR]), 9);
    for (length, body, read, reason) in [
        (None, twice(), all, Value::Null),
        (None, too_long(), all, "too-large".into()),
        (None, breaks_off(), all, "incomplete".into()),
        (None, in_trailers(), all, "trailers".into()),
        (Some("7"), twice(), all, "incomplete".into()),
        // All that was announced has come, and more.
        (Some("4"), twice(), all, "incomplete".into()),
        (Some("4"), in_trailers(), all, "trailers".into()),
        // A server that has sent all that was announced need not poll any further.
        (Some("8"), twice(), 2, Value::Null),
        // Its client has disconnected.
        (None, twice(), 1, "incomplete".into()),
    ] {
        let stored = reason.is_null();
        let told = recorded(length, body, read, async |_| {}).await;
        assert_eq!(told, (stored, reason));
    }
}

#[tokio::test]
async fn trailers_reach_every_client_also_after_a_body_of_known_length() {
    let cache = CacheLayer::new(MemoryStore::new());
    let handler = service_fn(|_: Request<Full<Bytes>>| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let body = Full::from("four").with_trailers(std::future::ready(Some(Ok(trailers))));
        let response = Response::builder().header("cache-control", "max-age=60");
        std::future::ready(Ok::<_, Infallible>(response.body(body).unwrap()))
    });
    let service = cache.layer(handler);
    for _ in 0..2 {
        let response = service.clone().oneshot(get("/a")).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
        assert_eq!(collected.to_bytes(), "four");
    }
}

#[tokio::test]
async fn record_reports_a_purge_during_the_fill() {
    let purged = recorded(None, pieces([FOUR, FOUR]), 9, async |purger| {
        purger.purge([Purge::All], PurgeMode::Hard).await.unwrap();
    });
    assert_eq!(purged.await, (false, "purged".into()));
}
