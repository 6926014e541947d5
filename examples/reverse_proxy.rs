//! A caching reverse proxy for one origin, over HTTP/1.1.
//!
//! ```sh
//! cargo run --example reverse_proxy -- --origin http://127.0.0.1:8000
//! ```
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `--origin URL` | required | the origin |
//! | `--listen ADDR` | 127.0.0.1:3000 | the address to listen on |
//! | `--profile NAME` | `secure` | `secure` separates callers; `rfc` does all that RFC 9111 allows |
//! | `--targeted NAME` | none | appends a target field (RFC 9213); repeatable |
//! | `--list-field NAME` | none | declares a request field as a list for `Vary`; repeatable |
//!
//! A response is fresh only for the lifetime that it states. On SIGINT (Ctrl-C) and SIGTERM the
//! proxy finishes running requests, within 10 s.
#![allow(clippy::disallowed_methods, reason = "a server spawns connections")]

use std::{
    convert::Infallible, env, error::Error, io, net::SocketAddr, pin::pin, process::ExitCode,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::{Authority, PathAndQuery},
};
use http_body_util::{BodyExt, Either, Empty, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use portcullis::{
    BoxError,
    cache::{CacheLayer, body::CacheBody},
    shutdown::Shutdown,
    store::MemoryStore,
};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::read(env::args().skip(1))?;
    let store = MemoryStore::new();
    let cache = match options.secure {
        true => CacheLayer::secure(store),
        false => CacheLayer::rfc(store).cache_posts(true),
    };
    // A revalidation can send a GET again, which needs an empty body.
    let mut cache = cache.request_body_type::<RequestBody>();
    for name in options.list_fields {
        cache = cache.list_header(name);
    }
    for name in options.targeted {
        cache = cache.targeted_field(name);
    }
    let cache = cache.build()?;
    let origin = options.origin;
    let proxy = ServiceBuilder::new()
        .layer(cache)
        .service(service_fn(move |request| forward(origin.clone(), request)));

    let shutdown = Shutdown::on_signal()?;
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let connections = GracefulShutdown::new();
    let server = async {
        let mut requested = pin!(shutdown.requested());
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                () = &mut requested => break,
            };
            let proxy = proxy.clone();
            let serve = hyper::service::service_fn(move |request: Request<Incoming>| {
                let proxy = proxy.clone();
                let request = request.map(BodyExt::boxed_unsync);
                async move { Ok::<_, Infallible>(or_bad_gateway(proxy.oneshot(request).await)) }
            });
            let mut connection = hyper::server::conn::http1::Builder::new();
            let connection = connection
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), serve);
            // An error affects one client, for example one that disconnected.
            tokio::spawn(connections.watch(connection));
        }
        drop(listener);
        connections.shutdown().await;
        io::Result::Ok(())
    };
    shutdown.drain(server).await.transpose()?;
    Ok(())
}

/// A request body, possibly empty.
type RequestBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Forwards a request to the origin, once, over a new connection.
async fn forward(
    origin: Authority,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, BoxError> {
    let stream = TcpStream::connect(origin.as_str()).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(connection);
    remove_hop_by_hop(request.headers_mut());
    // The authority of the target replaces `Host` (RFC 9112 section 3.2.2), as in the cache key.
    if let Some(named) = request.uri().authority() {
        let host = named.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::try_from(host)?;
        request.headers_mut().insert(header::HOST, host);
    } else if !request.headers().contains_key(header::HOST) {
        let host = HeaderValue::try_from(origin.as_str())?;
        request.headers_mut().insert(header::HOST, host);
    }
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(target.unwrap_or(PathAndQuery::from_static("/")));
    let mut response = sender.send_request(request).await?;
    remove_hop_by_hop(response.headers_mut());
    Ok(response)
}

/// Replaces an error of the origin with `502 Bad Gateway`.
fn or_bad_gateway(
    result: Result<Response<CacheBody<Incoming>>, BoxError>,
) -> Response<Either<CacheBody<Incoming>, Empty<Bytes>>> {
    match result {
        Ok(response) => response.map(Either::Left),
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

/// Removes hop-by-hop fields and the fields that `Connection` lists, except `Host`, which selects
/// the site.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::HOST)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

struct Options {
    listen: SocketAddr,
    origin: Authority,
    secure: bool,
    list_fields: Vec<String>,
    targeted: Vec<String>,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut listen = SocketAddr::from(([127, 0, 0, 1], 3000));
        let mut origin = None;
        let mut secure = true;
        let mut list_fields = Vec::new();
        let mut targeted = Vec::new();
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} has no value"))?;
            match name.as_str() {
                "--listen" => listen = value.parse()?,
                "--origin" => origin = value.parse::<Uri>()?.into_parts().authority,
                "--list-field" => list_fields.push(value),
                "--profile" if value == "secure" => secure = true,
                "--profile" if value == "rfc" => secure = false,
                "--targeted" => targeted.push(value),
                _ => return Err(format!("unknown option: {name} {value}").into()),
            }
        }
        Ok(Self {
            listen,
            origin: origin.ok_or("--origin is missing; pass --origin http://HOST:PORT")?,
            secure,
            list_fields,
            targeted,
        })
    }
}
