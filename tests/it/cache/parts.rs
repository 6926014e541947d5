//! Treatment of partial responses from the handler.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::Identity;

use super::cache::{App, Handler, caller, get_as, get_with, response_with};

const WHOLE: &str = "0123456789";

/// Answers `bytes=first-last` with that part of ten digits, and all else with all of them.
fn parted(etag: Option<&'static str>) -> Handler {
    Handler::new(move |request, _| part_of(request, etag, "max-age=60"))
}

fn part_of(
    request: &Request<Full<Bytes>>,
    etag: Option<&'static str>,
    control: &'static str,
) -> Response<Full<Bytes>> {
    let asked = request.headers().get("range");
    let asked =
        asked.and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let mut response = match asked {
        None => response_with(&[], WHOLE),
        Some((first, last)) => {
            let first: usize = first.parse().unwrap();
            let last: usize = last.parse().unwrap_or(9);
            let mut response = response_with(&[], &WHOLE[first..=last]);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let said = HeaderValue::try_from(format!("bytes {first}-{last}/10")).unwrap();
            response.headers_mut().insert("content-range", said);
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert("cache-control", HeaderValue::from_static(control));
    if let Some(etag) = etag {
        headers.insert("etag", HeaderValue::from_static(etag));
    }
    response
}

fn range(range: &'static str) -> Request<Full<Bytes>> {
    get_with("/a", &[("range", range)])
}

#[tokio::test]
async fn a_part_answers_those_who_ask_for_some_of_its_bytes() {
    let app = App::rfc(parted(None));
    let first = app.send(range("bytes=4-9")).await;
    assert_eq!(
        first.cache_status(),
        "portcullis; fwd=uri-miss; stored; ttl=60"
    );
    app.advance_secs(1);
    for (asked, got, said) in [
        ("bytes=4-9", "456789", "bytes 4-9/10"),
        ("bytes=6-8", "678", "bytes 6-8/10"),
        ("bytes=6-", "6789", "bytes 6-9/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
    ] {
        let seen = app.send(range(asked)).await;
        assert!(seen.is_hit(), "{asked}");
        assert_eq!(seen.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(
            (seen.body.as_str(), seen.header("content-range")),
            (got, Some(said))
        );
        assert_eq!(
            seen.header("content-length"),
            Some(got.len().to_string().as_str())
        );
        assert_eq!(seen.header("age"), Some("1"));
    }
    assert_eq!(app.handler.calls(), 1);
}

#[tokio::test]
async fn stored_part_does_not_serve_wider_ranges() {
    let app = App::rfc(parted(None));
    app.send(range("bytes=4-9")).await;
    let wider = app.send(range("bytes=3-5")).await;
    assert_eq!(wider.body, "345");
    assert_eq!(
        wider.cache_status(),
        "portcullis; fwd=partial; stored; ttl=60"
    );
    let whole = app.get("/a").await;
    assert_eq!((whole.status, whole.body.as_str()), (StatusCode::OK, WHOLE));
    assert_eq!(
        whole.cache_status(),
        "portcullis; fwd=partial; stored; ttl=60"
    );
    assert!(app.send(range("bytes=0-1")).await.is_hit());
    assert_eq!(app.handler.calls(), 3);
}

#[tokio::test]
async fn a_head_is_not_answered_from_a_part() {
    let app = App::rfc(parted(None));
    app.send(range("bytes=0-9")).await;
    let mut head = range("bytes=0-1");
    *head.method_mut() = http::Method::HEAD;
    assert!(!app.send(head).await.is_hit());
}

#[tokio::test]
async fn stale_part_is_not_served() {
    let app = App::rfc(parted(None));
    app.send(range("bytes=4-9")).await;
    app.advance_secs(60);
    let seen = app.send(range("bytes=4-9")).await;
    assert!(!seen.is_hit());
    assert_eq!(app.handler.calls(), 2);
}

#[tokio::test]
async fn parts_of_the_same_version_come_together_to_the_whole() {
    let app = App::rfc(parted(Some("\"v1\"")));
    app.send(range("bytes=0-3")).await;
    app.send(range("bytes=7-9")).await;
    // Not joined: there is a gap, and the latest part counts.
    assert!(!app.send(range("bytes=0-3")).await.is_hit());
    app.send(range("bytes=3-6")).await;
    assert!(app.send(range("bytes=1-5")).await.is_hit());
    app.send(range("bytes=7-9")).await;
    let calls = app.handler.calls();
    let whole = app.get("/a").await;
    assert!(whole.is_hit());
    assert_eq!((whole.status, whole.body.as_str()), (StatusCode::OK, WHOLE));
    assert_eq!(whole.header("content-range"), None);
    assert_eq!(whole.header("content-length"), Some("10"));
    assert_eq!(app.handler.calls(), calls);
}

#[tokio::test]
async fn parts_without_a_strong_validator_are_not_joined() {
    for etag in [None, Some("W/\"v1\"")] {
        let app = App::rfc(parted(etag));
        app.send(range("bytes=0-4")).await;
        app.send(range("bytes=5-9")).await;
        assert!(!app.get("/a").await.is_hit());
    }
}

#[tokio::test]
async fn parts_of_two_versions_are_not_joined() {
    let app = App::rfc(Handler::new(|request, call| {
        let etag = if call == 1 { "\"v1\"" } else { "\"v2\"" };
        part_of(request, Some(etag), "max-age=60")
    }));
    app.send(range("bytes=0-4")).await;
    app.send(range("bytes=5-9")).await;
    assert!(!app.get("/a").await.is_hit());
}

#[tokio::test]
async fn parts_of_callers_are_neither_joined_nor_shared() {
    let app = App::rfc(Handler::new(|request, _| {
        let known = request.extensions().get::<Identity>().is_some();
        let control = if known {
            "private, max-age=60"
        } else {
            "max-age=60"
        };
        part_of(request, Some("\"v1\""), control)
    }));
    let asks = |who: Option<&str>, asked: &'static str| {
        let mut request = range(asked);
        if let Some(who) = who {
            request = get_as("/a", &caller(who));
            request
                .headers_mut()
                .insert("range", HeaderValue::from_static(asked));
        }
        app.send(request)
    };
    asks(Some("one"), "bytes=0-4").await;
    assert!(!asks(Some("two"), "bytes=0-4").await.is_hit());
    assert!(!asks(None, "bytes=0-4").await.is_hit());
    asks(None, "bytes=5-9").await;
    asks(Some("one"), "bytes=5-9").await;
    assert!(app.send(get_as("/a", &caller("one"))).await.is_hit());
    assert!(!app.send(get_as("/a", &caller("two"))).await.is_hit());
}

#[tokio::test]
async fn a_part_takes_no_complete_answers_place() {
    let app = App::rfc(parted(None));
    app.get("/a").await;
    let reload = [("range", "bytes=0-1"), ("cache-control", "no-cache")];
    let seen = app.send(get_with("/a", &reload)).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=request; detail=partial"
    );
    assert!(app.get("/a").await.is_hit());
}

#[tokio::test]
async fn partial_responses_are_not_stored_by_default() {
    let app = App::new(parted(Some("\"v1\"")));
    let seen = app.send(range("bytes=0-4")).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=uri-miss; detail=partial"
    );
    let app = App::configured(parted(Some("\"v1\"")), |builder| {
        builder.cache_partial_content(true)
    });
    app.send(range("bytes=0-4")).await;
    assert!(app.send(range("bytes=0-4")).await.is_hit());
}

#[tokio::test]
async fn part_shorter_than_its_content_range_is_not_stored() {
    let app = App::rfc(Handler::new(|_, _| {
        let fields = [
            ("cache-control", "max-age=60"),
            ("content-range", "bytes 2-6/10"),
        ];
        let mut response = response_with(&fields, "2345");
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response
    }));
    let seen = app.send(range("bytes=2-6")).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=uri-miss; detail=incomplete"
    );
}

#[tokio::test]
async fn stored_part_serves_conditional_range_requests() {
    let app = App::rfc(parted(Some("\"v1\"")));
    app.send(range("bytes=0-4")).await;
    let has_it = [("range", "bytes=0-1"), ("if-none-match", "\"v1\"")];
    let seen = app.send(get_with("/a", &has_it)).await;
    assert_eq!(
        (seen.status, seen.is_hit()),
        (StatusCode::NOT_MODIFIED, true)
    );
    let whole = app
        .send(get_with("/a", &[("if-none-match", "\"v1\"")]))
        .await;
    assert!(!whole.is_hit());
    let other = [("range", "bytes=0-1"), ("if-range", "\"v0\"")];
    assert!(!app.send(get_with("/b", &other)).await.is_hit());
}
