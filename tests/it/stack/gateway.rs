//! The example `gateway` as a client meets it: a process of its own, over TCP.

use std::net::SocketAddr;

use http::Method;

use crate::support::process::{Example, HttpResponse, call};

/// A running gateway and the keys that it printed.
struct Gateway {
    example: Example,
    addr: SocketAddr,
    free: String,
    pro: String,
    admin: String,
}

impl Gateway {
    fn start() -> Self {
        let mut example = Example::start("gateway");
        Self {
            addr: example.addr(),
            free: example.said_after("free key: "),
            pro: example.said_after("pro key: "),
            admin: example.said_after("admin key: "),
            example,
        }
    }

    async fn get(&self, path: &str, key: Option<&str>) -> HttpResponse {
        self.call(Method::GET, path, key).await
    }

    async fn call(&self, method: Method, path: &str, key: Option<&str>) -> HttpResponse {
        let headers: Vec<(&str, &str)> = key.map(|key| ("x-api-key", key)).into_iter().collect();
        call(self.addr, method, path, &headers).await
    }
}

fn is_hit(response: &HttpResponse) -> bool {
    response
        .header("cache-status")
        .is_some_and(|status| status.contains("; hit"))
}

#[tokio::test]
async fn no_key_is_answered_401_with_a_challenge_and_a_problem() {
    let gateway = Gateway::start();
    let response = gateway.get("/data", None).await;
    assert_eq!(response.status, 401);
    assert!(
        response
            .header("www-authenticate")
            .unwrap()
            .starts_with("Bearer realm=")
    );
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let problem: serde_json::Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(problem["status"], 401);
}

#[tokio::test]
async fn garbage_and_an_unknown_key_are_answered_by_the_same_bytes() {
    let gateway = Gateway::start();
    let other = Gateway::start();
    let garbage = gateway.get("/data", Some("garbage")).await;
    // A well-formed key of another process: its checksum is right, but it is unknown here.
    let unknown = gateway.get("/data", Some(&other.free)).await;
    assert_eq!(garbage.status, 401);
    assert_eq!(unknown.status, 401);
    assert_eq!(garbage.body, unknown.body);
    let head = |response: &HttpResponse| {
        let mut lines: Vec<String> = response
            .headers
            .iter()
            .filter(|(name, _)| *name != "date" && *name != "x-request-id")
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(head(&garbage), head(&unknown));
}

#[tokio::test]
async fn the_second_request_is_a_hit_that_never_calls_the_handler() {
    let gateway = Gateway::start();
    let first = gateway.get("/data", Some(&gateway.free)).await;
    let second = gateway.get("/data", Some(&gateway.free)).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
    assert!(!is_hit(&first), "{first:?}");
    assert!(is_hit(&second), "{second:?}");
    assert!(second.header("age").is_some());
    // The handler counts its calls into the body.
    assert_eq!(first.body, second.body);
}

#[tokio::test]
async fn cached_response_is_not_shared_between_callers() {
    let gateway = Gateway::start();
    let free = gateway.get("/data", Some(&gateway.free)).await;
    let pro = gateway.get("/data", Some(&gateway.pro)).await;
    assert!(!is_hit(&pro), "{pro:?}");
    assert_ne!(free.body, pro.body);
}

#[tokio::test]
async fn a_bearer_key_is_the_same_caller_as_a_header_key() {
    let gateway = Gateway::start();
    let bearer = format!("Bearer {}", gateway.free);
    let first = gateway.get("/data", Some(&gateway.free)).await;
    let second = call(
        gateway.addr,
        Method::GET,
        "/data",
        &[("authorization", &bearer)],
    )
    .await;
    assert_eq!(second.status, 200);
    assert_eq!(first.body, second.body);
}

#[tokio::test]
async fn the_eleventh_request_in_ten_seconds_is_denied() {
    let gateway = Gateway::start();
    for _ in 0..10 {
        assert_eq!(gateway.get("/data", Some(&gateway.free)).await.status, 200);
    }
    let denied = gateway.get("/data", Some(&gateway.free)).await;
    assert_eq!(denied.status, 429);
    let retry_after: u64 = denied.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&retry_after));
    // Another caller is not touched by it.
    assert_eq!(gateway.get("/data", Some(&gateway.pro)).await.status, 200);
}

#[tokio::test]
async fn a_write_takes_its_scope_and_drops_every_callers_copy() {
    let gateway = Gateway::start();
    let denied = gateway
        .call(Method::POST, "/data", Some(&gateway.free))
        .await;
    assert_eq!(denied.status, 403);
    assert!(
        denied
            .header("www-authenticate")
            .unwrap()
            .contains("insufficient_scope")
    );

    let free = gateway.get("/data", Some(&gateway.free)).await;
    let pro = gateway.get("/data", Some(&gateway.pro)).await;
    assert!(is_hit(&gateway.get("/data", Some(&gateway.free)).await));

    let written = gateway
        .call(Method::POST, "/data", Some(&gateway.admin))
        .await;
    assert!(written.status.is_success(), "{written:?}");

    let free_again = gateway.get("/data", Some(&gateway.free)).await;
    let pro_again = gateway.get("/data", Some(&gateway.pro)).await;
    assert!(!is_hit(&free_again) && !is_hit(&pro_again));
    assert_ne!(free.body, free_again.body);
    assert_ne!(pro.body, pro_again.body);
}

#[tokio::test]
async fn the_public_page_needs_no_key_and_is_cached_for_all() {
    let gateway = Gateway::start();
    let first = gateway.get("/public", None).await;
    let second = gateway.get("/public", None).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
    assert!(is_hit(&second));
    assert_eq!(first.body, second.body);
}

#[tokio::test]
async fn the_time_is_never_cached() {
    let gateway = Gateway::start();
    for _ in 0..2 {
        let response = gateway.get("/time", Some(&gateway.pro)).await;
        assert_eq!(response.status, 200);
        assert!(!is_hit(&response));
    }
}

#[tokio::test]
async fn me_shows_the_identity_and_no_secret() {
    let gateway = Gateway::start();
    let response = gateway.get("/me", Some(&gateway.pro)).await;
    let me: serde_json::Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(me["tier"], "pro");
    assert_eq!(me["scopes"][0], "data.read");
    let secret = gateway.pro.rsplit('_').next().unwrap();
    assert!(!response.body.contains(secret));
    assert_eq!(gateway.get("/me", None).await.status, 401);
}

#[tokio::test]
async fn a_stream_arrives_whole() {
    let gateway = Gateway::start();
    let response = gateway.get("/stream", Some(&gateway.pro)).await;
    assert_eq!(response.status, 200);
    assert!(response.body.lines().count() > 1, "{response:?}");
}

#[tokio::test]
async fn each_request_is_one_json_line_without_a_secret() {
    let gateway = Gateway::start();
    let path = "/data?token=canary-in-a-query";
    gateway.get(path, Some(&gateway.free)).await;
    gateway.get("/data", Some("canary-in-a-key")).await;
    gateway.get("/data", None).await;
    gateway.get("/healthz", None).await;
    gateway
        .call(Method::POST, "/data", Some(&gateway.admin))
        .await;

    let lines = gateway.example.stderr_lines(4).await;
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let secrets = [&gateway.free, &gateway.pro, &gateway.admin].map(|key| &key[key.len() - 49..]);
    for line in &lines {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(record.is_object());
        assert!(!line.contains("canary"), "{line}");
        assert!(
            !secrets.iter().any(|secret| line.contains(*secret)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn ctrl_c_ends_the_process_cleanly() {
    let mut gateway = Gateway::start();
    assert_eq!(gateway.get("/healthz", None).await.status, 200);
    let status = gateway.example.interrupt();
    assert!(status.success(), "{status:?}");
}
