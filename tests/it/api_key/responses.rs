//! The response table of the api_key layer: status, challenge, body, and caching rules.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    PeerAddr, StoreErrorKind, StoreFuture,
    api_key::{ApiKeyLayer, Constraints, Credential, KeyRing, NewKey, Pepper, Verdict, Verifier},
    store::MemoryStore,
};

use super::api_key::{
    ApiKeyResponse, Failing, Keys, challenges, forged, send, unknown_key, with_key,
};
use crate::support::{get, header, request, text};

/// One row of the table: what a client sees.
struct Row<'a> {
    status: u16,
    problem: &'static str,
    /// The part of the challenge after the realm, or `None` if there is no challenge.
    challenge: Option<&'a str>,
    retry_after: bool,
}

impl Row<'_> {
    async fn check(&self, case: &str, response: ApiKeyResponse) {
        assert_eq!(response.status().as_u16(), self.status, "{case}");
        let headers = response.headers();
        assert_eq!(header(headers, "cache-control"), Some("no-store"), "{case}");
        let json = Some("application/problem+json");
        assert_eq!(header(headers, "content-type"), json, "{case}");
        assert_eq!(
            headers.contains_key("retry-after"),
            self.retry_after,
            "{case}"
        );
        let expected: Vec<String> = match self.challenge {
            Some(rest) => ["Bearer", "ApiKey"]
                .map(|scheme| format!(r#"{scheme} realm="api"{rest}"#))
                .to_vec(),
            None => Vec::new(),
        };
        assert_eq!(challenges(headers), expected, "{case}");
        let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
        let members = body.as_object().unwrap();
        assert_eq!(
            members.keys().collect::<Vec<_>>(),
            ["status", "title", "type"],
            "{case}"
        );
        let problem = format!("urn:problem-type:portcullis:{}", self.problem);
        assert_eq!(
            (&body["type"], &body["status"]),
            (&problem.into(), &self.status.into())
        );
    }
}

const INVALID: Row<'static> = Row {
    status: 401,
    problem: "invalid-credentials",
    challenge: Some(r#", error="invalid_token""#),
    retry_after: false,
};

#[tokio::test]
async fn a_missing_key() {
    let row = Row {
        status: 401,
        problem: "missing-credentials",
        challenge: Some(""),
        retry_after: false,
    };
    let keys = Keys::new();
    row.check("no key", keys.send(get("/")).await).await;
    let query = get("/?api_key=k&access_token=k&key=k");
    row.check("a key in the query", keys.send(query).await)
        .await;
}

#[tokio::test]
async fn a_key_that_is_no_good_whatever_is_wrong_with_it() {
    let keys = Keys::new();
    for (case, key) in no_good(&keys).await {
        INVALID.check(case, keys.send(with_key(&key)).await).await;
    }
}

/// Threat A2: head, body and length are the same for each of them, also to HEAD and gRPC.
#[tokio::test]
async fn responses_to_invalid_keys_are_indistinguishable() {
    let keys = Keys::new();
    let cases = no_good(&keys).await;
    let head = |key: &str| {
        let mut asked = with_key(key);
        *asked.method_mut() = Method::HEAD;
        asked
    };
    let grpc = |key: &str| {
        let mut asked = with_key(key);
        let grpc = "application/grpc".parse().unwrap();
        asked.headers_mut().insert("content-type", grpc);
        *asked.version_mut() = http::Version::HTTP_2;
        asked
    };
    let ways: [&Ask; 3] = [&with_key, &head, &grpc];
    for ask in ways {
        let mut responses = Vec::new();
        for (_, key) in &cases {
            let response = keys.send(ask(key)).await;
            let seen = format!("{} {:?}", response.status(), response.headers());
            responses.push(seen + &text(response).await);
        }
        responses.dedup();
        assert_eq!(responses.len(), 1, "{responses:#?}");
    }
}

#[tokio::test]
async fn disclose_state_reports_the_state_only_for_valid_secrets() {
    let keys = Keys::new();
    let layer = keys.layer().disclose_state().build().unwrap();
    for (case, key) in no_good(&keys).await {
        let told = match case {
            "revoked" => "The key was revoked",
            "disabled" => "The key is disabled",
            "expired" | "rotated without overlap" => "The key has expired",
            "not yet valid" => "The key is not valid yet",
            _ => {
                INVALID
                    .check(case, send(layer.clone(), with_key(&key)).await)
                    .await;
                continue;
            }
        };
        let challenge = format!(r#", error="invalid_token", error_description="{told}""#);
        let row = Row {
            challenge: Some(&challenge),
            ..INVALID
        };
        row.check(case, send(layer.clone(), with_key(&key)).await)
            .await;
        // A wrong secret for the same id reveals nothing.
        let wrong = forged(&key, &unknown_key().await);
        INVALID
            .check(case, send(layer.clone(), with_key(&wrong)).await)
            .await;
    }
}

type Ask = dyn Fn(&str) -> Request<Full<Bytes>>;

/// Returns a key for each reason for which one can be no good.
async fn no_good(keys: &Keys) -> Vec<(&'static str, String)> {
    let hour = Duration::from_secs(3_600);
    let new = || NewKey::new("acme");
    let good = keys.reader().await;
    let (revoked, disabled) = (keys.reader().await, keys.reader().await);
    keys.manager.revoke(revoked.id(), "").await.unwrap();
    keys.manager.disable(disabled.id(), "").await.unwrap();
    let expired = keys.create(new().expires_in(Duration::ZERO)).await;
    let early = keys
        .create(new().not_before(portcullis::Clock::wall(&keys.clock) + hour))
        .await;
    let rotated = keys.reader().await;
    keys.manager
        .rotate(rotated.id(), Duration::ZERO)
        .await
        .unwrap();
    let good = good.expose_secret();
    let shown = |key: portcullis::api_key::GeneratedKey| key.expose_secret().to_owned();
    vec![
        ("empty", String::new()),
        ("garbage", "garbage".to_owned()),
        (
            "another check",
            format!("{}000000", &good[..good.len() - 6]),
        ),
        ("another prefix", good.replacen("acmepay", "acmebuy", 1)),
        ("another environment", good.replacen("live", "test", 1)),
        ("unknown", unknown_key().await),
        ("another secret", forged(good, &unknown_key().await)),
        ("revoked", shown(revoked)),
        ("disabled", shown(disabled)),
        ("expired", shown(expired)),
        ("not yet valid", shown(early)),
        ("rotated without overlap", shown(rotated)),
    ]
}

#[tokio::test]
async fn two_keys() {
    let row = Row {
        status: 400,
        problem: "ambiguous-credentials",
        challenge: Some(r#", error="invalid_request""#),
        retry_after: false,
    };
    let keys = Keys::new();
    let mut twice = with_key("k");
    twice
        .headers_mut()
        .append("x-api-key", "k".parse().unwrap());
    row.check("one place", keys.send(twice).await).await;
    let mut both = with_key("k");
    both.headers_mut()
        .append("authorization", "Bearer k".parse().unwrap());
    row.check("two places", keys.send(both).await).await;
}

#[tokio::test]
async fn a_key_without_a_scope() {
    let row = Row {
        status: 403,
        problem: "insufficient-scope",
        challenge: Some(r#", error="insufficient_scope", scope="a b""#),
        retry_after: false,
    };
    let keys = Keys::new();
    let key = keys.reader().await;
    let layer = || keys.layer();
    for layer in [
        layer().require_all_scopes(["a", "b"]),
        layer().require_any_scope(["a", "b"]),
    ] {
        let response = send(layer.build().unwrap(), with_key(key.expose_secret())).await;
        row.check("a scope that it lacks", response).await;
    }
}

#[tokio::test]
async fn a_key_that_may_not_be_used_so() {
    let row = Row {
        status: 403,
        problem: "key-restricted",
        challenge: None,
        retry_after: false,
    };
    let keys = Keys::new();
    for constraints in [
        Constraints::new().networks(["203.0.113.9".parse().unwrap()]),
        Constraints::new().methods([Method::POST]),
        Constraints::new().origins(["https://app.example"]),
    ] {
        let key = keys
            .create(NewKey::new("acme").constraints(constraints))
            .await;
        row.check(
            "a constraint",
            keys.send(with_key(key.expose_secret())).await,
        )
        .await;
    }
}

#[tokio::test]
async fn too_many_keys_that_are_no_good() {
    let row = Row {
        status: 429,
        problem: "too-many-auth-failures",
        challenge: None,
        retry_after: true,
    };
    let keys = Keys::new();
    let layer = keys
        .layer()
        .failure_limit(1, Duration::from_secs(60))
        .build()
        .unwrap();
    let ask = async |key: String| {
        let mut request = with_key(&key);
        let address = ([203, 0, 113, 9], 1).into();
        request.extensions_mut().insert(PeerAddr(address));
        send(layer.clone(), request).await
    };
    INVALID
        .check("the first", ask(unknown_key().await).await)
        .await;
    row.check("the second", ask(unknown_key().await).await)
        .await;
}

#[tokio::test]
async fn a_store_that_does_not_answer() {
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Timeout] {
        let row = Row {
            status: 503,
            problem: "auth-unavailable",
            challenge: None,
            retry_after: true,
        };
        let response = Keys::kept_in(Failing(kind))
            .send(with_key(&unknown_key().await))
            .await;
        row.check("a transient failure", response).await;
    }
    for kind in [StoreErrorKind::Corrupt, StoreErrorKind::Misconfigured] {
        let row = Row {
            status: 500,
            problem: "internal",
            challenge: None,
            retry_after: false,
        };
        let response = Keys::kept_in(Failing(kind))
            .send(with_key(&unknown_key().await))
            .await;
        row.check("a lasting failure", response).await;
    }
}

/// Panics on any credential.
#[derive(Debug)]
struct Panics;

impl Verifier for Panics {
    fn verify(&self, _: &Credential<'_>) -> StoreFuture<Verdict> {
        panic!("a custom verifier")
    }
}

#[tokio::test]
async fn internal_faults_return_500() {
    let row = Row {
        status: 500,
        problem: "internal",
        challenge: None,
        retry_after: false,
    };
    let store = MemoryStore::new();
    let key = Keys::kept_in(store.clone()).reader().await;
    let other = KeyRing::builder("acmepay", store).pepper(Pepper::random(7));
    let layer = ApiKeyLayer::builder(&other.build().unwrap()).build();
    let response = send(layer.unwrap(), with_key(key.expose_secret())).await;
    row.check("a pepper that is not known", response).await;
    let layer = Keys::new().layer().verifier(Panics).build();
    let response = send(layer.unwrap(), with_key("somebody else's")).await;
    row.check("a verifier that panics", response).await;
}

#[tokio::test]
async fn head_response_has_no_body() {
    let response = Keys::new().send(request(Method::HEAD, "/")).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(text(response).await, "");
}
