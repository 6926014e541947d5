//! A response built from a stored response.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPIRES,
    },
};

use crate::cache::{
    entry::{entry::StoredResponse, packing},
    http::{
        cache_control::Targeted,
        content_range::{self, ContentRange},
        preconditions,
        range::{self, SelectedRange},
    },
};

/// Builds the response to a request from a stored response: whole, partial, without body, or `304
/// Not Modified`.
///
/// `plain` is the decompressed body, for a client that does not accept the stored encoding. `asked`
/// is present if the request has a condition or a range. `targeted` is the target list.
pub(crate) fn respond(
    entry: &StoredResponse,
    plain: Option<&Bytes>,
    asked: Option<&HeaderMap>,
    head_only: bool,
    targeted: &[Targeted],
) -> Response<Bytes> {
    let kept = matches!(entry.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let asked = asked.filter(|_| kept);
    let body = plain.unwrap_or(&entry.body);
    let whole = match asked.is_some() || head_only {
        true => Bytes::new(),
        false => body.clone(),
    };
    let mut response = Response::new(whole);
    *response.status_mut() = entry.status;
    *response.headers_mut() = entry.headers.clone();
    if entry.packed.is_some() {
        packing::vary_by_coding(response.headers_mut());
        if plain.is_none() {
            packing::dress(response.headers_mut(), body.len());
        }
    }
    if let Some(asked) = asked {
        select(entry, body, asked, head_only, &mut response);
        if response.status().is_client_error() {
            remove_freshness(targeted, response.headers_mut());
        }
    }
    response
}

/// Builds the response to a request that has a condition or a range.
#[cold]
fn select(
    entry: &StoredResponse,
    body: &Bytes,
    asked: &HeaderMap,
    head_only: bool,
    response: &mut Response<Bytes>,
) {
    if preconditions::is_not_modified(asked, &entry.headers) {
        without_content(StatusCode::NOT_MODIFIED, response);
    } else if !head_only {
        give_part(entry, body, asked, response);
    }
}

fn give_part(
    entry: &StoredResponse,
    body: &Bytes,
    asked: &HeaderMap,
    response: &mut Response<Bytes>,
) {
    if entry.status == StatusCode::PARTIAL_CONTENT {
        if let Some((wanted, place)) = content_range::within(entry, asked) {
            let body = body.slice(wanted.start - place.first..wanted.end - place.first);
            let (first, end, complete) = (wanted.start, wanted.end, place.complete);
            give_bytes(
                ContentRange {
                    first,
                    end,
                    complete,
                },
                body,
                response,
            );
        }
        return;
    }
    let all = body.len();
    match range::part(asked, &entry.headers, all) {
        SelectedRange::Whole => *response.body_mut() = body.clone(),
        SelectedRange::Bytes(bytes) => {
            let place = ContentRange {
                first: bytes.start,
                end: bytes.end,
                complete: Some(all),
            };
            give_bytes(place, body.slice(bytes), response);
        }
        SelectedRange::Unsatisfiable => {
            without_content(StatusCode::RANGE_NOT_SATISFIABLE, response);
            let range = HeaderValue::try_from(format!("bytes */{all}"));
            let headers = response.headers_mut();
            headers.insert(CONTENT_RANGE, range.expect("digits and signs"));
        }
    }
}

fn give_bytes(place: ContentRange, body: Bytes, response: &mut Response<Bytes>) {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CONTENT_RANGE, place.to_value());
    *response.body_mut() = body;
}

/// Returns the value of `Age`. Values below 10, the common case, need no allocation.
pub(crate) fn age(secs: u32) -> HeaderValue {
    const DIGITS: &str = "0123456789";
    let at = usize::try_from(secs).unwrap_or(usize::MAX);
    match DIGITS.get(at..at.saturating_add(1)) {
        Some(digit) => HeaderValue::from_static(digit),
        None => HeaderValue::from(secs),
    }
}

/// Removes the fields that would allow another cache to store a response to one request's condition
/// or range.
///
/// Targeted fields of other caches are recognized by their conventional suffix (RFC 9213 section
/// 2.4).
fn remove_freshness(targeted: &[Targeted], headers: &mut HeaderMap) {
    let frees = |name: &HeaderName| {
        *name == CACHE_CONTROL
            || *name == EXPIRES
            || *name == *Targeted::Surrogate.name()
            || name.as_str().ends_with("-cache-control")
            || targeted.iter().any(|field| *name == *field.name())
    };
    let names: Vec<HeaderName> = headers.keys().filter(|name| frees(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Turns it into a response without content, and removes the fields that describe content.
pub(crate) fn without_content<B>(status: StatusCode, response: &mut Response<B>) {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING] {
        headers.remove(name);
    }
}
