//! Key management over HTTP in an axum service, authorized by a scope.
//!
//! ```text
//! cargo run --example key_admin --features admin
//! ```
//!
//! The service listens on 127.0.0.1:3000, or on `PORTCULLIS_ADDR`. It creates a key with the scope
//! `keys.manage` and prints it with a `curl` command. Records and audit events go to stderr. On
//! SIGINT (Ctrl-C) and SIGTERM it finishes running requests, within 10 s.

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, routing::get};
use http::request::Parts;
use portcullis::{
    Gate, Identity, StoreFuture,
    access_log::{AccessLogLayer, sinks::JsonLines},
    api_key::{
        ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper,
        admin::{self, Administrator},
    },
    rate_limit::{Partition, RateLimitLayer},
    shutdown::Shutdown,
    store::MemoryStore,
};
use tokio::net::TcpListener;

const MAY_MANAGE: &str = "keys.manage";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Records, audit events and notices are lines of one log.
    let lines = JsonLines::stderr();
    let store = MemoryStore::new();
    // In production, read the pepper from a secret manager. With another pepper all keys are
    // invalid.
    let ring = KeyRing::builder("demo", store.clone())
        .pepper(Pepper::random(1))
        .auditor(lines.clone())
        .build()?;
    let manager = KeyManager::new(&ring);
    let root = NewKey::new("demo").scopes([MAY_MANAGE]);
    let root = manager.create(root).await?;

    let gate = Gate::new()
        .access_log(AccessLogLayer::new(lines))
        .api_keys(ApiKeyLayer::builder(&ring).build()?)
        // Enforces the credits of each key: `"credits": "1000/day"`.
        .rate_limit_by_identity(
            RateLimitLayer::builder(store, Partition::identity())
                .credits()
                .build()?,
        )
        .build()?;
    let app = Router::new()
        .route(
            "/",
            get(async |caller: Identity| format!("hello {}", caller.key_id())),
        )
        .nest("/admin", admin::router(manager, by_scope))
        .layer(gate);

    let addr = env::var("PORTCULLIS_ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let shutdown = Shutdown::on_signal()?;
    let listener = TcpListener::bind(&addr).await?;
    let addr = listener.local_addr()?;
    println!("listening on http://{addr}");
    println!("root key: {}", root.expose_secret());
    println!(
        "curl -H 'x-api-key: {}' -H 'content-type: application/json' \\",
        root.expose_secret()
    );
    println!("  -d '{{\"owner\":\"freya\",\"credits\":\"3/minute\"}}' http://{addr}/admin/keys");
    // The access log records the address of the client.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.requested());
    shutdown.drain(server).await.transpose()?;
    ring.flush().await?;
    Ok(())
}

/// Authorizes callers with the scope. The gate has authenticated them.
fn by_scope(request: &Parts) -> StoreFuture<Option<Administrator>> {
    let caller = request.extensions.get::<Identity>();
    let caller = caller.filter(|caller| caller.has_scope(MAY_MANAGE));
    StoreFuture::ready(caller.map(|caller| Administrator::global(caller.key_id())))
}
