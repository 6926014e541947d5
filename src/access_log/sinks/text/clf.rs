//! Encoding of a record in the Common Log Format and the Combined Log Format.

use http::{
    HeaderName, Version,
    header::{REFERER, USER_AGENT},
};

use super::{
    escape::{ABSENT, push_quoted, push_value, push_word},
    text_format::TextFormat,
};
use crate::{
    access_log::{
        record::{
            record::Record,
            redact::{SHORT_BYTES_MAX, capped, hide_keys},
        },
        sinks::json::{
            time::{civil, push_digits},
            value::{push_addr, push_int},
        },
    },
    core::{record::AuthOutcome, time::Timestamp},
};

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The maximum length of a method, as in the other sinks.
const METHOD_BYTES_MAX: usize = 32;

/// Appends a record as one line.
pub(super) fn push_line(out: &mut Vec<u8>, record: &Record<'_>, format: TextFormat) {
    match record.client_addr() {
        Some(addr) => push_addr(out, addr),
        None => out.push(ABSENT),
    }
    out.extend_from_slice(b" - ");
    push_user(out, record);
    out.push(b' ');
    push_time(out, record.arrived_at());
    out.extend_from_slice(b" \"");
    push_request_line(out, record);
    out.extend_from_slice(b"\" ");
    match record.status() {
        Some(status) => out.extend_from_slice(status.as_str().as_bytes()),
        None => out.push(ABSENT),
    }
    out.push(b' ');
    match record.response_bytes() {
        0 => out.push(ABSENT),
        bytes => push_int(out, bytes),
    }
    match format {
        TextFormat::Common => {}
        TextFormat::Combined => {
            push_header(out, record, &REFERER);
            push_header(out, record, &USER_AGENT);
        }
    }
    out.push(b'\n');
}

/// Appends the recorded form of the key's owner, or else the public id of the key.
fn push_user(out: &mut Vec<u8>, record: &Record<'_>) {
    let user = record.user();
    let owner = user.as_ref().and_then(|user| user.id().or(user.hash()));
    let key_id = match record.data().auth() {
        Some(AuthOutcome::Allowed(identity)) => Some(identity.key_id()),
        Some(AuthOutcome::Anonymous | AuthOutcome::Denied { .. } | AuthOutcome::StoreFailed(_))
        | None => None,
    };
    match owner.or(key_id) {
        Some("") => out.extend_from_slice(b"\"\""),
        Some(user) => push_value(out, &capped(&hide_keys(user), SHORT_BYTES_MAX), push_word),
        None => out.push(ABSENT),
    }
}

/// Appends a time in UTC: `[10/Oct/2000:13:55:36 +0000]`.
fn push_time(out: &mut Vec<u8>, at: Timestamp) {
    let secs = at.as_secs();
    let (year, month, day) = civil(secs / 86_400);
    out.push(b'[');
    push_digits::<2>(out, day);
    out.push(b'/');
    out.extend_from_slice(MONTHS[month as usize - 1]);
    out.push(b'/');
    push_digits::<4>(out, year);
    for part in [secs / 3_600 % 24, secs / 60 % 60, secs % 60] {
        out.push(b':');
        push_digits::<2>(out, part);
    }
    out.extend_from_slice(b" +0000]");
}

/// Appends `GET /path?query HTTP/1.1`.
fn push_request_line(out: &mut Vec<u8>, record: &Record<'_>) {
    push_word(out, &capped(record.method().as_str(), METHOD_BYTES_MAX));
    out.push(b' ');
    push_target(out, record);
    out.extend_from_slice(match record.version() {
        Version::HTTP_09 => b" HTTP/0.9",
        Version::HTTP_10 => b" HTTP/1.0",
        Version::HTTP_2 => b" HTTP/2.0",
        Version::HTTP_3 => b" HTTP/3.0",
        _ => b" HTTP/1.1",
    });
}

/// Appends the path and the query, or the host and the port of a `CONNECT` request.
fn push_target(out: &mut Vec<u8>, record: &Record<'_>) {
    let path = record.path();
    match (&*path, record.server()) {
        ("", Some((host, port))) => {
            let is_ipv6 = host.contains(':');
            out.extend_from_slice(if is_ipv6 { b"[" } else { b"" });
            push_word(out, host);
            out.extend_from_slice(if is_ipv6 { b"]" } else { b"" });
            if let Some(port) = port {
                out.push(b':');
                push_int(out, port);
            }
        }
        ("", None) => out.push(ABSENT),
        (path, _) => push_word(out, path),
    }
    let mut begun = false;
    record.with_query(|piece| {
        if !begun {
            out.push(b'?');
            begun = true;
        }
        push_word(out, piece);
    });
}

/// Appends the first value of a request header, if it is recorded.
fn push_header(out: &mut Vec<u8>, record: &Record<'_>, name: &HeaderName) {
    out.extend_from_slice(b" \"");
    let mut headers = record.request_headers();
    match headers.find(|(own, _)| *own == name) {
        Some((_, value)) => push_value(out, &value, push_quoted),
        None => out.push(ABSENT),
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_in_utc_with_english_months() {
        for (secs, text) in [
            (0, "[01/Jan/1970:00:00:00 +0000]"),
            (971_186_136, "[10/Oct/2000:13:55:36 +0000]"),
            (951_868_799, "[29/Feb/2000:23:59:59 +0000]"),
            (1_767_225_599, "[31/Dec/2025:23:59:59 +0000]"),
        ] {
            let mut out = Vec::new();
            push_time(&mut out, Timestamp::from_secs(secs));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
