//! The peer address of servers that leave it in a type of their own, as tonic does.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONTENT_TYPE};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, ManualClock, PeerAddr, ResponseBody,
    access_log::{AccessLogLayer, sinks::RecentRecords},
    net::PeerAddrLayer,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{get, header};

/// The shape of tonic's type: a Unix socket or a lost connection has no address.
#[derive(Clone, Copy)]
struct TcpConnectInfo {
    remote_addr: Option<SocketAddr>,
}

fn by_address() -> RateLimitLayer {
    let store = MemoryStore::with_clock(ManualClock::default());
    let by_addr = Partition::client_addr(ClientAddrResolver::default());
    RateLimitLayer::builder(store, by_addr)
        .policy(Policy::fixed_window("second", Quota::per_second(1)).unwrap())
        .build()
        .unwrap()
}

/// A gRPC call as tonic's server passes it on.
fn call_from(remote_addr: Option<SocketAddr>) -> Request<Full<Bytes>> {
    let mut request = get("/greeter.Greeter/SayHello");
    *request.version_mut() = Version::HTTP_2;
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(CONTENT_TYPE, grpc);
    let info = TcpConnectInfo { remote_addr };
    request.extensions_mut().insert(info);
    request
}

fn peer(last: u8) -> SocketAddr {
    ([203, 0, 113, last], 4711).into()
}

async fn reply(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::default()))
}

fn grpc_status(response: &Response<ResponseBody<Full<Bytes>>>) -> Option<&str> {
    header(response.headers(), "grpc-status")
}

#[tokio::test]
async fn address_limit_counts_the_peer_that_tonic_names() {
    let read = |extensions: &http::Extensions| extensions.get::<TcpConnectInfo>()?.remote_addr;
    let service = ServiceBuilder::new()
        .layer(PeerAddrLayer::new(read))
        .layer(by_address())
        .service(service_fn(reply));
    for last in [9, 10] {
        let admitted = service.clone().oneshot(call_from(Some(peer(last)))).await;
        assert_eq!(grpc_status(&admitted.unwrap()), None);
        let denied = service.clone().oneshot(call_from(Some(peer(last)))).await;
        // RESOURCE_EXHAUSTED or UNAVAILABLE: denied by the quota, and not INTERNAL (13).
        assert!(matches!(grpc_status(&denied.unwrap()), Some("8" | "14")));
    }
    let unknown = service.oneshot(call_from(None)).await.unwrap();
    assert_eq!(grpc_status(&unknown), Some("13"), "no address is guessed");
}

#[tokio::test]
async fn access_log_records_the_peer_that_the_layer_inserts() {
    let records = RecentRecords::default();
    let access_log = AccessLogLayer::builder().sink(records.clone()).build();
    let read = |extensions: &http::Extensions| extensions.get::<TcpConnectInfo>()?.remote_addr;
    let service = ServiceBuilder::new()
        .layer(PeerAddrLayer::new(read))
        .layer(access_log.unwrap())
        .service(service_fn(reply));
    drop(service.oneshot(call_from(Some(peer(9)))).await.unwrap());
    let record = records.last().unwrap();
    assert!(
        record.contains(r#""client.address":"203.0.113.9""#),
        "{record}"
    );
}

#[tokio::test]
async fn peer_addr_of_the_server_has_priority_and_no_function_runs() {
    let runs = AtomicU32::new(0);
    let layer = PeerAddrLayer::new(|_: &http::Extensions| {
        runs.fetch_add(1, Ordering::Relaxed);
        Some(peer(10))
    });
    let service = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(request.extensions().get::<PeerAddr>().copied())
    }));
    let mut request = call_from(None);
    request.extensions_mut().insert(PeerAddr(peer(9)));
    let seen = service.oneshot(request).await.unwrap();
    assert_eq!(seen, Some(PeerAddr(peer(9))));
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}
