//! Fuzz targets: each function panics if the parsed input violates an invariant.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    entry::{codec, entry::StoredResponse},
    http::{
        cache_control::{DELTA_SECS_MAX, RequestDirectives, ResponseDirectives, Targeted},
        date,
        range::{self, SelectedRange},
        structured_fields,
        vary::{Selection, Variants, VarySpec},
    },
};
use crate::core::store_api::store_key::StoreKeys;

pub fn cache_control(data: &[u8]) {
    let targeted = [
        Targeted::Structured(HeaderName::from_static("cdn-cache-control")),
        Targeted::Surrogate,
    ];
    let mut headers = lines(data, &header::CACHE_CONTROL);
    for name in ["cdn-cache-control", "surrogate-control", "pragma"] {
        let other = lines(data, &HeaderName::from_static(name));
        let response = ResponseDirectives::of(&other, &targeted);
        seconds(&response);
        RequestDirectives::of(&other);
    }
    let read = ResponseDirectives::of(&headers, &targeted);
    seconds(&read);
    RequestDirectives::of(&headers);
    // Prohibitions apply regardless of the content of other lines.
    headers.append(
        header::CACHE_CONTROL,
        HeaderValue::from_static("No-Store, PRIVATE, max-age=0"),
    );
    let stricter = ResponseDirectives::of(&headers, &targeted);
    assert!(stricter.no_store && stricter.private);
    assert_eq!(stricter.max_age_secs, Some(0));
    assert!(RequestDirectives::of(&headers).no_store);
    assert_eq!(
        (read.public, read.no_cache),
        (stricter.public, stricter.no_cache)
    );
}

fn seconds(read: &ResponseDirectives) {
    for secs in [
        read.max_age_secs,
        read.s_maxage_secs,
        read.stale_while_revalidate_secs,
        read.stale_if_error_secs,
    ] {
        assert!(secs.is_none_or(|secs| secs <= DELTA_SECS_MAX));
    }
}

pub fn vary(data: &[u8]) {
    let (names, asked) = halves(data);
    let headers = lines(names, &header::VARY);
    let Ok(spec) = VarySpec::of(&headers) else {
        return;
    };
    assert!(spec.names().len() <= 8);
    assert_eq!(
        VarySpec::from_bytes(&spec.to_bytes()).ok().as_ref(),
        Some(&spec)
    );
    let keys = StoreKeys::from_secret(&[1; 32]).expect("32 bytes are enough");
    for normalize in [false, true] {
        let variants = Variants::new(keys.space("fuzz"), normalize);
        let mut request = HeaderMap::new();
        for name in spec.names() {
            request.extend(lines(asked, name));
        }
        let variant = |request: &HeaderMap| Selection::new(request, &variants).variant(&spec);
        assert_eq!(variant(&request), variant(&request.clone()));
        if let Some(name) = spec.names().first() {
            // An additional value is another request.
            let before = variant(&request);
            request.append(name, HeaderValue::from_static("one-more"));
            assert_ne!(variant(&request), before);
        }
    }
}

pub fn range(data: &[u8]) {
    let (asked, stored) = halves(data);
    let len = data.len() * data.len();
    let mut request = lines(asked, &header::RANGE);
    let mut response = lines(stored, &header::ETAG);
    for with_condition in [false, true] {
        if with_condition {
            request.extend(lines(stored, &header::IF_RANGE));
            response.extend(lines(stored, &header::LAST_MODIFIED));
        }
        match range::part(&request, &response, len) {
            SelectedRange::Whole | SelectedRange::Unsatisfiable => {}
            SelectedRange::Bytes(bytes) => assert!(bytes.start < bytes.end && bytes.end <= len),
        }
    }
}

pub fn date(data: &[u8]) {
    let Some(read) = HeaderValue::from_bytes(data)
        .ok()
        .as_ref()
        .and_then(date::parse)
    else {
        return;
    };
    assert_eq!(date::parse(&date::format(read)), Some(read));
}

pub fn structured(data: &[u8]) {
    let Some(members) = std::str::from_utf8(data)
        .ok()
        .and_then(structured_fields::dictionary)
    else {
        return;
    };
    for (at, (name, _)) in members.iter().enumerate() {
        assert!(!name.is_empty() && name.is_ascii());
        assert!(members[..at].iter().all(|(other, _)| other != name));
    }
}

pub fn stored_entry(data: &[u8]) {
    let _ = VarySpec::from_bytes(data);
    let _ = StoredResponse::from_bytes(Bytes::copy_from_slice(data));
    // Beyond the checksum, which a fuzzer cannot guess. The first byte is the length of the body.
    let Some((len, rest)) = data.split_first() else {
        return;
    };
    let (head, body) = rest.split_at(rest.len().saturating_sub(usize::from(*len)));
    let (head, body) = (summed(head, body), Bytes::copy_from_slice(body));
    if let Ok(read) = StoredResponse::decode(head.into(), body) {
        let again = read.to_bytes().expect("what was read can be written");
        let again = StoredResponse::from_bytes(again).expect("what was written can be read");
        assert_eq!(read.encode_head(), again.encode_head());
    }
}

/// Returns a head with valid checksums and arbitrary content.
fn summed(rest: &[u8], body: &[u8]) -> Vec<u8> {
    let mut inside = (body.len() as u32).to_le_bytes().to_vec();
    inside.extend_from_slice(&codec::checksum(body).to_le_bytes());
    inside.extend_from_slice(rest);
    let mut head = vec![codec::FORM];
    head.extend_from_slice(&codec::checksum(&inside).to_le_bytes());
    head.extend_from_slice(&inside);
    head
}

/// Parses lines as values of a field. Invalid values are skipped.
fn lines(data: &[u8], name: &HeaderName) -> HeaderMap {
    let lines = data.split(|byte| *byte == b'\n').take(64);
    lines
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .map(|value| (name.clone(), value))
        .collect()
}

/// Splits at the first zero byte.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|byte| *byte == 0);
    data.split_at(at.unwrap_or(data.len()))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(data in vec(any::<u8>(), 0..200)) {
            for target in [cache_control, vary, range, date, structured, stored_entry] {
                target(&data);
            }
        }

        #[test]
        fn no_text_breaks_a_promise(data in "[ -~\n\0]{0,60}") {
            for target in [cache_control, vary, range, date, structured, stored_entry] {
                target(data.as_bytes());
            }
        }
    }
}
