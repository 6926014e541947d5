//! All four layers around a hyper service, without a framework.
//!
//! ```text
//! cargo run --example hyper
//! ```
//!
//! The service listens on 127.0.0.1:3000, or on `PORTCULLIS_ADDR`, and prints a key and a `curl`
//! command. On SIGINT (Ctrl-C) and SIGTERM it finishes running requests, within 10 s.
#![allow(clippy::disallowed_methods, reason = "a server spawns connections")]

use std::{convert::Infallible, env, error::Error, io, pin::pin};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CACHE_CONTROL};
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use portcullis::{
    BoxError, ClientAddrResolver, Gate, Identity, PeerAddr,
    access_log::AccessLogLayer,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    shutdown::Shutdown,
    store::MemoryStore,
};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let ring = KeyRing::builder("demo", store.clone())
        .pepper(Pepper::random(1))
        .build()?;
    let key = KeyManager::new(&ring).create(NewKey::new("freya")).await?;

    let by_address = Partition::client_addr(ClientAddrResolver::default());
    let gate = Gate::new()
        .access_log(AccessLogLayer::stderr())
        .rate_limit_by_address(
            RateLimitLayer::builder(store.clone(), by_address)
                .policy(Policy::token_bucket(
                    "address",
                    Quota::per_second(30).burst(60),
                )?)
                .build()?,
        )
        .api_keys(ApiKeyLayer::builder(&ring).build()?)
        .rate_limit_by_identity(
            RateLimitLayer::builder(store.clone(), Partition::identity())
                .policy(Policy::token_bucket(
                    "caller",
                    Quota::per_minute(60).burst(10),
                )?)
                .build()?,
        )
        .cache(CacheLayer::new(store))
        .build()?;
    let service = gate.layer(service_fn(hello));

    let addr = env::var("PORTCULLIS_ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let shutdown = Shutdown::on_signal()?;
    let listener = TcpListener::bind(&addr).await?;
    let addr = listener.local_addr()?;
    println!("listening on http://{addr}");
    println!("key: {}", key.expose_secret());
    println!();
    println!(
        "curl -i -H 'x-api-key: {}' http://{addr}/",
        key.expose_secret()
    );

    shutdown
        .drain(accept(listener, service, &shutdown))
        .await
        .transpose()?;
    Ok(())
}

/// Serves connections until a shutdown is requested, and finishes the open ones.
async fn accept<S, B>(listener: TcpListener, service: S, shutdown: &Shutdown) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let connections = GracefulShutdown::new();
    let mut requested = pin!(shutdown.requested());
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut requested => break,
        };
        // The gate reads the peer address from this extension.
        let service = service
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::spawn(connections.watch(connection));
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = request.extensions().get::<Identity>();
    let owner = caller.and_then(Identity::owner).unwrap_or("stranger");
    let mut response = Response::new(Full::from(format!("hello, {owner}\n")));
    let a_minute = HeaderValue::from_static("max-age=60");
    response.headers_mut().insert(CACHE_CONTROL, a_minute);
    Ok(response)
}
