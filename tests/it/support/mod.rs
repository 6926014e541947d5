//! Shared test support: requests, bodies, and scripted services.
#![allow(dead_code, reason = "not every theme is built with every feature")]

pub(crate) mod alone;
pub(crate) mod app;
pub(crate) mod bell;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(crate) mod calm;
pub(crate) mod door;
pub(crate) mod endless;
pub(crate) mod hands;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(crate) mod instance;
pub(crate) mod origin;
pub(crate) mod paper;
pub(crate) mod parked;
pub(crate) mod process;
pub(crate) mod processes;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(crate) mod redis;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(crate) mod refusing;
pub(crate) mod slow_store;
pub(crate) mod stack;
pub(crate) mod strict;
pub(crate) mod trickle;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};

/// Makes a GET request without a body.
pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    request(Method::GET, uri)
}

/// Makes a request without a body.
pub(crate) fn request(method: Method, uri: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap();
    request
}

/// Reads a whole body as text.
pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Returns a header's value as text, or nothing.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}
