//! Fuzz targets. Each function panics if an invariant is violated.

use http::{HeaderValue, Request, header};

use super::{
    authenticate::{
        extract::{self, Presented},
        key_source::KeySource,
    },
    key::format::{KeyFormat, KeyId, scan},
};

pub fn key(data: &[u8]) {
    let format = KeyFormat::new("acmepay", &["live".to_owned(), "test".to_owned()], None)
        .expect("the names are valid");
    if let Ok(parsed) = format.parse(data) {
        assert!(data.starts_with(b"acmepay_") && data.is_ascii());
        let id = parsed.id.as_str();
        assert_eq!(id.parse::<KeyId>(), Ok(parsed.id));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(id) = text.parse::<KeyId>() {
            assert_eq!(id.as_str(), text);
        }
        let _ = scan::verify(text);
    }
}

pub fn credentials(data: &[u8]) {
    let sources = [
        KeySource::x_api_key(),
        KeySource::bearer(),
        KeySource::basic(),
        KeySource::scheme("Token").expect("the scheme is a token"),
        KeySource::bare_authorization(),
        KeySource::websocket_protocol("key.").expect("the prefix is a token"),
        KeySource::cookie("key").expect("the name is valid"),
        KeySource::insecure_query_parameter("key").expect("the name is valid"),
    ];
    let mut request = Request::new(());
    // The first byte of each line selects its place in the request.
    for line in data.split(|byte| *byte == b'\n').take(16) {
        let Some((place, value)) = line.split_first() else {
            continue;
        };
        let name = match place % 5 {
            0 => header::HeaderName::from_static("x-api-key"),
            1 => header::AUTHORIZATION,
            2 => header::COOKIE,
            3 => header::SEC_WEBSOCKET_PROTOCOL,
            _ => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                if let Ok(uri) = format!("/?{text}").parse() {
                    *request.uri_mut() = uri;
                }
                continue;
            }
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers_mut().append(name, value);
        }
    }
    let found = match extract::extract(&sources, &request) {
        Presented::Nothing => None,
        Presented::Ambiguous => Some(false),
        Presented::Key(material) => {
            key(&material);
            Some(true)
        }
    };
    extract::mark_sensitive(&sources, &mut request);
    extract::strip(&sources, &mut request);
    // The extracted credentials are no longer in the request.
    let left = extract::extract(&sources, &request);
    assert!(found == Some(false) || left == Presented::Nothing);
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(data in vec(any::<u8>(), 0..200)) {
            key(&data);
            credentials(&data);
        }

        #[test]
        fn no_text_breaks_a_promise(
            lines in vec("[A-E]((key|Bearer|Basic|Token|other)[ =.]?)?[ -~]{0,20}", 0..5),
        ) {
            credentials(lines.join("\n").as_bytes());
        }
    }
}
