//! Keys after custom schemes, without a scheme, and in the handshake of a WebSocket.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ConfigError, Identity,
    api_key::{ApiKeyLayer, KeySource, StaticKeys},
    outcome::AuthDenial,
};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

use super::api_key::{
    ApiKeyResponse, Keys, bytes_of, challenges, denial, send, unknown_key, with_header,
};
use crate::support::{get, header, text};

const PROTOCOL: &str = "sec-websocket-protocol";
const KEY: &str = "static-M6cVb8Xn3Za1Qw5Er7Ty9Ui2KpLo";

fn token() -> KeySource {
    KeySource::scheme("Token").unwrap()
}

fn websocket() -> KeySource {
    KeySource::websocket_protocol("acme.key.").unwrap()
}

fn layer(sources: &[KeySource]) -> portcullis::api_key::ApiKeyLayerBuilder {
    let caller = Identity::builder("fixed").owner("acme").build();
    let keys = StaticKeys::new().key(KEY, caller).unwrap();
    ApiKeyLayer::with_verifier(keys).sources(sources.to_vec())
}

async fn sent(sources: &[KeySource], request: Request<Full<Bytes>>) -> ApiKeyResponse {
    send(layer(sources).build().unwrap(), request).await
}

fn with_lines(lines: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get("/");
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(*name, value);
    }
    request
}

fn option<T>(result: Result<T, ConfigError>) -> String {
    result.err().unwrap().option().to_owned()
}

/// Returns the lines of `Sec-WebSocket-Protocol` that reach the handler.
async fn remaining(lines: &[&str]) -> Vec<String> {
    let layer = layer(&[websocket()]).build().unwrap();
    let service = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let lines = request.headers().get_all(PROTOCOL).iter();
        let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(lines.join(&b'\n'))))
    }));
    let lines: Vec<_> = lines.iter().map(|line| (PROTOCOL, *line)).collect();
    let response = service.oneshot(with_lines(&lines)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{lines:?}");
    let seen = text(response).await;
    seen.lines().map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn key_after_a_custom_scheme_is_accepted_in_any_case_and_removed() {
    let keys = Keys::new();
    let key = keys.reader().await;
    for scheme in ["Token ", "token ", "TOKEN    "] {
        let value = format!("{scheme}{}", key.expose_secret());
        let layer = keys.layer().sources([token()]).build().unwrap();
        let response = send(layer, with_header("authorization", &value)).await;
        assert_eq!(response.status(), StatusCode::OK, "{scheme}");
        assert_eq!(header(response.headers(), "vary"), Some("authorization"));
        assert_eq!(text(response).await, "acme {}");
    }
}

#[tokio::test]
async fn credentials_that_are_no_token68_are_a_wrong_key_even_if_keys_are_optional() {
    let long = format!("Token {}", "a".repeat(60_000));
    for value in [
        "Token",
        "Token ",
        &format!("Token\t{KEY}"),
        &format!("Token {KEY} {KEY}"),
        &format!("Token {KEY},"),
        &format!("Token key=\"{KEY}\""),
        &format!("Token ={KEY}"),
        &format!("Token {KEY}\u{e4}"),
        &long,
    ] {
        let optional = layer(&[token()]).optional().build().unwrap();
        let response = send(optional, with_lines(&[("authorization", value)])).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value}");
        let seen = bytes_of(response).await;
        assert!(!seen.contains(&KEY[..8]), "{seen}");
    }
}

#[tokio::test]
async fn another_scheme_with_the_same_beginning_is_missing_credentials() {
    for value in [
        format!("Tokens {KEY}"),
        format!("Token{KEY}"),
        format!("Bearer {KEY}"),
        KEY.to_owned(),
    ] {
        let response = sent(&[token()], with_header("authorization", &value)).await;
        assert_eq!(denial(&response), AuthDenial::Missing, "{value}");
        assert_eq!(
            challenges(response.headers()),
            [r#"Token realm="api""#],
            "{value}"
        );
    }
}

#[test]
fn scheme_returns_the_known_sources_and_rejects_basic() {
    assert_eq!(KeySource::scheme("bearer").unwrap(), KeySource::bearer());
    assert_eq!(
        KeySource::scheme("APIKEY").unwrap(),
        KeySource::api_key_scheme()
    );
    let basic = KeySource::scheme("basic").unwrap_err();
    assert_eq!(basic.option(), "scheme");
    assert!(basic.to_string().contains("KeySource::basic()"), "{basic}");
    for wrong in [
        "", "To ken", "Token ", "Tök", "a,b", "a=b", "a\r\nb", "\"a\"",
    ] {
        assert_eq!(option(KeySource::scheme(wrong)), "scheme", "{wrong:?}");
    }
}

#[test]
fn sources_that_find_the_same_key_are_rejected() {
    let prefix = |prefix| KeySource::websocket_protocol(prefix).unwrap();
    for both in [
        [token(), KeySource::scheme("TOKEN").unwrap()],
        [KeySource::bearer(), KeySource::scheme("bearer").unwrap()],
        [prefix("a."), prefix("a.b.")],
        [prefix("a.b."), prefix("a.")],
        [
            KeySource::bare_authorization(),
            KeySource::bare_authorization(),
        ],
    ] {
        assert_eq!(option(layer(&both).build()), "sources", "{both:?}");
    }
    assert!(layer(&[prefix("a."), prefix("b.")]).build().is_ok());
}

#[test]
fn header_with_more_than_a_key_is_no_header_source() {
    for name in ["Authorization", "cookie", "Sec-WebSocket-Protocol", "x key"] {
        assert_eq!(option(KeySource::header(name)), "header", "{name}");
    }
    for prefix in ["", "a b", "a,", "a/b", "ä"] {
        let source = KeySource::websocket_protocol(prefix);
        assert_eq!(option(source), "websocket_protocol", "{prefix:?}");
    }
}

#[tokio::test]
async fn bare_authorization_is_one_key_next_to_every_scheme() {
    let all = [
        KeySource::bare_authorization(),
        KeySource::bearer(),
        KeySource::basic(),
        token(),
    ];
    let mut reversed = all.clone();
    reversed.reverse();
    for sources in [&all, &reversed] {
        for value in [KEY, &format!("Bearer {KEY}"), &format!("token {KEY}")] {
            let response = sent(sources, with_header("authorization", value)).await;
            assert_eq!(response.status(), StatusCode::OK, "{value}");
            assert_eq!(text(response).await, "acme {}");
        }
        // A scheme without credentials is an empty key of its source alone.
        for value in ["Bearer", "BASIC", "Token", "bearer\t", "", "wrong"] {
            let response = sent(sources, with_header("authorization", value)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value}");
            assert_ne!(denial(&response), AuthDenial::Missing, "{value}");
        }
        let response = sent(
            sources,
            with_header("authorization", &format!("Other {KEY}")),
        )
        .await;
        assert_eq!(denial(&response), AuthDenial::Missing);
    }
}

#[tokio::test]
async fn value_with_a_space_is_no_bare_key() {
    let bare = [KeySource::bare_authorization()];
    for value in [
        format!("Bearer {KEY}"),
        format!("{KEY} {KEY}"),
        format!("{KEY}\t{KEY}"),
    ] {
        let response = sent(&bare, with_lines(&[("authorization", &value)])).await;
        assert_eq!(denial(&response), AuthDenial::Missing, "{value}");
        assert_eq!(challenges(response.headers()), [r#"ApiKey realm="api""#]);
    }
    let long = "a".repeat(60_000);
    for value in ["", "Bearer", "\u{e4}", &format!("{KEY},{KEY}"), &long] {
        let response = sent(&bare, with_lines(&[("authorization", value)])).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value}");
        assert_ne!(denial(&response), AuthDenial::Missing, "{value}");
    }
    let padded = with_header("authorization", &format!("  {KEY}  "));
    assert_eq!(sent(&bare, padded).await.status(), StatusCode::OK);
}

/// Threat A9: two readers of a request cannot see different keys.
#[tokio::test]
async fn two_keys_in_any_new_places_are_ambiguous() {
    let sources = [
        KeySource::bare_authorization(),
        token(),
        websocket(),
        KeySource::x_api_key(),
    ];
    let bearer = format!("Token {KEY}");
    let item = format!("acme.key.{KEY}");
    let twice = format!("{item}, {item}");
    let doubles: [&[(&str, &str)]; 8] = [
        &[("authorization", KEY), ("authorization", KEY)],
        &[("authorization", KEY), ("authorization", &bearer)],
        &[("authorization", &bearer), ("authorization", "")],
        &[("authorization", KEY), (PROTOCOL, &item)],
        &[("authorization", &bearer), (PROTOCOL, "acme.key.")],
        &[("x-api-key", KEY), (PROTOCOL, &item)],
        &[(PROTOCOL, &twice)],
        &[(PROTOCOL, &item), (PROTOCOL, &item)],
    ];
    for lines in doubles {
        let response = sent(&sources, with_lines(lines)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{lines:?}");
        assert_eq!(denial(&response), AuthDenial::Ambiguous);
        assert!(!bytes_of(response).await.contains(&KEY[..8]));
    }
}

#[tokio::test]
async fn websocket_key_is_removed_and_the_other_subprotocols_remain_in_order() {
    let item = &*format!("acme.key.{KEY}");
    assert_eq!(remaining(&[item]).await, [""; 0]);
    assert_eq!(remaining(&[item, ","]).await, [""; 0]);
    assert_eq!(remaining(&[&format!("a, {item}")]).await, ["a"]);
    assert_eq!(remaining(&[&format!("{item},a,b")]).await, ["a, b"]);
    assert_eq!(remaining(&[&format!("a ,\t{item} ,b")]).await, ["a, b"]);
    assert_eq!(remaining(&["a, b", item, "c"]).await, ["a, b", "c"]);
    assert_eq!(
        remaining(&["Acme.Key.x", item, "acme.key"]).await,
        ["Acme.Key.x", "acme.key"]
    );
}

#[tokio::test]
async fn websocket_item_that_is_no_key_is_rejected() {
    let long = format!("acme.key.{}", "a".repeat(60_000));
    for item in [
        "acme.key.",
        "acme.key.wrong",
        "acme.key.\u{e4}",
        &format!("acme.key.{KEY} {KEY}"),
        &format!("acme.key. {KEY}"),
        &long,
    ] {
        let optional = layer(&[websocket()]).optional().build().unwrap();
        let request = with_lines(&[(PROTOCOL, "acme.v1"), (PROTOCOL, item)]);
        let response = send(optional, request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{item}");
        assert_eq!(header(response.headers(), PROTOCOL), None);
    }
    for item in ["acme.v1", "Acme.key.x", "", "x.acme.key.x"] {
        let response = sent(&[websocket()], with_header(PROTOCOL, item)).await;
        assert_eq!(denial(&response), AuthDenial::Missing, "{item}");
        assert_eq!(header(response.headers(), "vary"), None);
        assert_eq!(challenges(response.headers()), [r#"ApiKey realm="api""#]);
    }
    let wrong = format!("acme.key.{}", unknown_key().await);
    let response = sent(&[websocket()], with_header(PROTOCOL, &wrong)).await;
    assert!(text(response).await.contains("credential is not valid"));
}

#[tokio::test]
async fn forwarded_websocket_key_is_sensitive_and_responses_vary_by_the_field() {
    let layer = layer(&[websocket()]).forward_credential().build().unwrap();
    let response = send(layer, with_header(PROTOCOL, &format!("a, acme.key.{KEY}"))).await;
    assert_eq!(header(response.headers(), "vary"), Some(PROTOCOL));
    assert_eq!(header(response.headers(), "cache-control"), Some("private"));
    let seen = text(response).await;
    assert!(seen.contains("Sensitive") && !seen.contains(KEY), "{seen}");
}

/// Sends a handshake to a handler with this response, and returns the selected subprotocols.
async fn selected(
    agreed: Option<&str>,
    offered: &str,
    method: Method,
    status: StatusCode,
    by_handler: Option<&'static str>,
) -> Vec<String> {
    let builder = layer(&[websocket()]);
    let layer = match agreed {
        Some(name) => builder.websocket_subprotocol(name),
        None => builder,
    };
    let handler = move |_: Request<Full<Bytes>>| async move {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status;
        if let Some(name) = by_handler {
            let name = HeaderValue::from_static(name);
            response.headers_mut().insert(PROTOCOL, name);
        }
        Ok::<_, Infallible>(response)
    };
    let service = layer.build().unwrap().layer(service_fn(handler));
    let item = format!("acme.key.{KEY}");
    let mut request = with_lines(&[(PROTOCOL, offered), (PROTOCOL, &item)]);
    *request.method_mut() = method;
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), status);
    let lines = response.headers().get_all(PROTOCOL).iter();
    lines
        .map(|line| line.to_str().unwrap().to_owned())
        .collect()
}

/// RFC 6455 section 4.2.2: without an agreement, the field must be absent.
#[tokio::test]
async fn opened_websocket_selects_the_configured_subprotocol_only_if_it_was_offered() {
    let open = StatusCode::SWITCHING_PROTOCOLS;
    let v1 = Some("acme.v1");
    let none = [""; 0];
    let get = async |agreed, offered, status, by_handler| {
        selected(agreed, offered, Method::GET, status, by_handler).await
    };
    assert_eq!(get(v1, "acme.v2, acme.v1", open, None).await, ["acme.v1"]);
    assert_eq!(
        get(v1, "acme.v2, acme.v1", open, Some("acme.v2")).await,
        ["acme.v2"]
    );
    assert_eq!(get(None, "acme.v1", open, None).await, none);
    assert_eq!(get(v1, "Acme.v1, acme.v12", open, None).await, none);
    assert_eq!(get(v1, "", open, None).await, none);
    assert_eq!(get(v1, "acme.v1", StatusCode::OK, None).await, none);
    assert_eq!(get(v1, "acme.v1", StatusCode::FORBIDDEN, None).await, none);
    let connect = selected(v1, "acme.v1", Method::CONNECT, StatusCode::OK, None);
    assert_eq!(connect.await, ["acme.v1"]);
}

#[test]
fn subprotocol_that_could_be_a_key_is_rejected() {
    for wrong in ["", "a b", "a,b", "ä", "a\r\nb", "acme.key.", "acme.key.a"] {
        let built = layer(&[websocket()]).websocket_subprotocol(wrong).build();
        assert_eq!(option(built), "websocket_subprotocol", "{wrong:?}");
    }
}

/// Returns all that a handler receives in the head of a request, and its status.
fn seen_by_handler(request: Request<Full<Bytes>>) -> (StatusCode, Vec<String>) {
    let sources = [
        KeySource::bare_authorization(),
        KeySource::bearer(),
        token(),
        websocket(),
    ];
    let layer = layer(&sources).build().unwrap();
    let service = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let mut seen = vec![request.uri().to_string().into_bytes()];
        for (name, value) in request.headers() {
            seen.push([name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(seen.join(&b'\n'))))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let response = service.oneshot(request).await.unwrap();
        let status = response.status();
        let seen = text(response).await;
        (status, seen.lines().map(ToOwned::to_owned).collect())
    })
}

proptest! {
    /// Threat A11: an accepted key is nowhere in the request that reaches the handler.
    #[test]
    fn accepted_key_is_in_no_field_of_the_forwarded_request(
        place in 0..4,
        spaces in " {1,3}",
        before in prop::collection::vec("[a-z.]{0,4}", 0..4),
        after in prop::collection::vec("[a-z.]{0,4}", 0..4),
        comma in "[ \t]{0,2},[ \t]{0,2}",
    ) {
        let list = |items: &[String]| items.join(&comma);
        let (line, middle) = match place {
            0 => (Some(KEY.to_owned()), None),
            1 => (Some(format!("bearer{spaces}{KEY}")), None),
            2 => (Some(format!("TOKEN{spaces}{KEY}")), None),
            _ => (None, Some(format!("acme.key.{KEY}"))),
        };
        let items: Vec<String> =
            before.iter().cloned().chain(middle).chain(after.iter().cloned()).collect();
        let mut request = with_lines(&[(PROTOCOL, &list(&items)), (PROTOCOL, "last")]);
        if let Some(line) = line {
            request.headers_mut().insert("authorization", line.parse().unwrap());
        }
        let (status, seen) = seen_by_handler(request);
        prop_assert_eq!(status, StatusCode::OK);
        let all = seen.join("\n");
        for at in 0..=KEY.len() - 8 {
            prop_assert!(!all.contains(&KEY[at..at + 8]), "{}", all);
        }
        prop_assert!(!all.contains("authorization"), "{}", all);
        let offered = seen.iter().filter_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        let left: Vec<&str> = offered
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        let others = before.iter().chain(&after).map(String::as_str);
        let others: Vec<&str> =
            others.filter(|item| !item.is_empty()).chain(["last"]).collect();
        prop_assert_eq!(left, others);
    }
}
