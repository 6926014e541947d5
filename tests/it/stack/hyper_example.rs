//! The example `hyper` as a client meets it: the layers without a framework.

use http::Method;

use crate::support::process::{Example, call};

#[tokio::test]
async fn the_layers_work_around_plain_hyper() {
    let mut example = Example::start("hyper");
    let (addr, key) = (example.addr(), example.said_after("key: "));
    assert_eq!(call(addr, Method::GET, "/", &[]).await.status, 401);

    let headers = [("x-api-key", key.as_str())];
    let first = call(addr, Method::GET, "/", &headers).await;
    assert_eq!(
        (first.status.as_u16(), first.body.as_str()),
        (200, "hello, freya\n")
    );
    let second = call(addr, Method::GET, "/", &headers).await;
    assert!(
        second.header("cache-status").unwrap().contains("; hit"),
        "{second:?}"
    );

    let records = example.stderr_lines(3).await;
    assert_eq!(records.len(), 3, "{records:#?}");
    assert!(!records.iter().any(|record| record.contains(&key)));
    assert!(example.interrupt().success());
}
