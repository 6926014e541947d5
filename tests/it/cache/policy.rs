//! Cache policies of single routes and responses.

use std::{sync::Arc, sync::Mutex, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode, header};
use http_body_util::Full;
use portcullis::{
    Identity,
    cache::{CacheLayerBuilder, CachePolicy, Purge, PurgeMode},
};

use super::cache::{App, Handler, caller, get_as, get_with, response_with};
use crate::support::{get, request};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

fn under(policy: CachePolicy, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.extensions_mut().insert(policy);
    request
}

/// Answers with a status, and with these fields.
fn failing(status: StatusCode, fields: &'static [(&'static str, &'static str)]) -> Handler {
    Handler::new(move |_, call| {
        let mut response = response_with(fields, format!("call {call}"));
        *response.status_mut() = status;
        response
    })
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test]
async fn route_stores_listed_statuses_up_to_their_ttl() {
    let policy = CachePolicy::new()
        .cache_status_code(StatusCode::INTERNAL_SERVER_ERROR, secs(3))
        .cache_status_code(StatusCode::NOT_FOUND, secs(5));
    for (status, fields, ttl) in [
        (StatusCode::INTERNAL_SERVER_ERROR, &[][..], 3),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            &[("cache-control", "max-age=60")][..],
            3,
        ),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            &[("cache-control", "s-maxage=2")][..],
            2,
        ),
        (StatusCode::NOT_FOUND, &[][..], 5),
    ] {
        let app = App::new(failing(status, fields));
        let asks = || app.send(under(policy.clone(), get("/a")));
        let first = asks().await;
        let stored = format!("portcullis; fwd=uri-miss; stored; ttl={ttl}");
        assert_eq!(
            (first.status, first.cache_status()),
            (status, stored.as_str())
        );
        app.advance_secs(ttl - 1);
        let hit = asks().await;
        assert_eq!(
            (hit.status, hit.is_hit(), hit.body.as_str()),
            (status, true, "call 1")
        );
        app.advance_secs(1);
        assert!(!asks().await.is_hit());
    }
}

#[tokio::test]
async fn status_rule_applies_only_to_its_route_and_respects_prohibitions() {
    let policy = CachePolicy::new().cache_status_code(StatusCode::BAD_GATEWAY, secs(3));
    for fields in [
        &[("cache-control", "no-store")][..],
        &[("set-cookie", "a=1")][..],
        &[("www-authenticate", "Basic")][..],
        &[("vary", "*")][..],
        &[("cache-control", "private")][..],
    ] {
        let app = App::new(failing(StatusCode::BAD_GATEWAY, fields));
        app.send(under(policy.clone(), get("/a"))).await;
        let again = app.send(under(policy.clone(), get("/a"))).await;
        assert!(!again.is_hit(), "{fields:?}");
    }
    let app = App::new(failing(StatusCode::BAD_GATEWAY, FRESH));
    let other = CachePolicy::new().cache_status_code(StatusCode::NOT_FOUND, secs(3));
    for policy in [CachePolicy::new(), other] {
        let seen = app.send(under(policy, get("/a"))).await;
        assert_eq!(
            seen.cache_status(),
            "portcullis; fwd=uri-miss; detail=status"
        );
    }
}

#[tokio::test]
async fn handler_policy_stores_the_status_of_one_response() {
    let app = App::new(Handler::new(|request, call| {
        let mut response = response_with(&[], format!("call {call}"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        if request.uri() == "/gone" {
            let policy = CachePolicy::new().cache_status_code(StatusCode::NOT_FOUND, secs(2));
            response.extensions_mut().insert(policy);
        }
        response
    }));
    app.get("/gone").await;
    assert!(app.get("/gone").await.is_hit());
    app.get("/missing").await;
    assert!(!app.get("/missing").await.is_hit());
}

#[tokio::test]
async fn stored_error_is_not_shared_between_callers() {
    let policy = CachePolicy::new().cache_status_code(StatusCode::FORBIDDEN, secs(3));
    let app = App::new(failing(StatusCode::FORBIDDEN, &[]));
    let asks = |who| app.send(under(policy.clone(), get_as("/a", &caller(who))));
    asks("one").await;
    assert!(asks("one").await.is_hit());
    assert!(!asks("two").await.is_hit());
}

#[tokio::test]
async fn parameters_that_do_not_count_reach_neither_the_key_nor_the_handler() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let queries = Arc::clone(&seen);
    let app = App::new(Handler::new(move |request, call| {
        queries.lock().unwrap().push(request.uri().to_string());
        response_with(FRESH, format!("call {call}"))
    }));
    let policy = CachePolicy::new().query(["page"]);
    let asks = |uri| app.send(under(policy.clone(), get(uri)));
    assert_eq!(asks("/a?utm=x&page=2&evil=1").await.body, "call 1");
    assert!(asks("/a?page=2&utm=y").await.is_hit());
    assert!(!asks("/a?page=3").await.is_hit());
    assert!(!asks("/a?page=2&page=3").await.is_hit());
    // Also where the cache steps aside: what the handler sees never differs.
    let mut with_cookie = get("/a?page=2&evil=1");
    with_cookie
        .headers_mut()
        .insert(header::COOKIE, "a=1".parse().unwrap());
    assert!(!app.send(under(policy.clone(), with_cookie)).await.is_hit());
    let seen = seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        ["/a?page=2", "/a?page=3", "/a?page=2&page=3", "/a?page=2"]
    );
}

#[tokio::test]
async fn unsafe_request_invalidates_regardless_of_ignored_parameters() {
    let app = App::new(Handler::with(FRESH));
    let policy = CachePolicy::new().query(["page"]);
    app.send(under(policy.clone(), get("/a?page=2&utm=x")))
        .await;
    app.send(under(
        policy.clone(),
        request(Method::POST, "/a?page=2&utm=z"),
    ))
    .await;
    assert!(
        !app.send(under(policy.clone(), get("/a?page=2")))
            .await
            .is_hit()
    );
    let here = Purge::uri("/a?page=2".parse().unwrap());
    app.purger.purge([here], PurgeMode::Hard).await.unwrap();
    assert!(!app.send(under(policy, get("/a?page=2"))).await.is_hit());
}

#[tokio::test]
async fn all_parameters_count_by_default() {
    let app = App::new(Handler::with(FRESH));
    app.get("/a?page=2").await;
    assert!(!app.get("/a?page=2&utm=x").await.is_hit());
    assert!(!app.get("/a").await.is_hit());
}

#[tokio::test]
async fn route_defines_its_credential_fields() {
    let app = App::new(Handler::with(FRESH));
    let cookie = [("cookie", "theme=dark")];
    assert!(
        app.send(get_with("/a", &cookie))
            .await
            .cache_status()
            .contains("credential")
    );
    let none = CachePolicy::new().credentials([]);
    app.send(under(none.clone(), get_with("/a", &cookie))).await;
    assert!(
        app.send(under(none, get_with("/a", &cookie)))
            .await
            .is_hit()
    );

    let token = header::HeaderName::from_static("x-token");
    let own = CachePolicy::new().credentials([token]);
    let bears = get_with("/a", &[("x-token", "t")]);
    let seen = app.send(under(own, bears)).await;
    let bypass = "portcullis; fwd=bypass; detail=credential-without-identity";
    assert_eq!(seen.cache_status(), bypass);
}

#[tokio::test]
async fn no_lines_of_one_field_are_taken_for_those_of_another() {
    let app = App::new(Handler::with(FRESH));
    let names = ["x-a", "x-b"].map(header::HeaderName::from_static);
    let route = CachePolicy::new().vary_by(names);
    let (a, b) = ("x-a", "x-b");
    for fields in [
        [(a, "vary-by"), (a, "x-b"), (a, "v")],
        [(b, "v"), (b, "vary-by"), (b, "x-b")],
    ] {
        let seen = app
            .send(under(route.clone(), get_with("/a", &fields)))
            .await;
        assert!(!seen.is_hit(), "{fields:?}");
    }
}

#[tokio::test]
async fn response_that_varies_by_a_route_credential_is_not_stored() {
    let fields = &[("cache-control", "max-age=60"), ("vary", "x-token")];
    let app = App::new(Handler::with(fields));
    let token = header::HeaderName::from_static("x-token");
    let own = CachePolicy::new().credentials([token]);
    let seen = app.send(under(own, get("/a"))).await;
    assert_eq!(
        seen.cache_status(),
        "portcullis; fwd=uri-miss; detail=vary-credential"
    );
}

#[tokio::test]
async fn a_private_route_keeps_for_known_callers_alone() {
    let public = &[("cache-control", "public, max-age=60")];
    let app = App::configured(Handler::with(public), |builder| {
        builder.share_public_responses(true)
    });
    let route = CachePolicy::new().private();
    let asks = |who| app.send(under(route.clone(), get_as("/a", &caller(who))));
    asks("one").await;
    assert!(asks("one").await.is_hit());
    assert!(!asks("two").await.is_hit());
    let anonymous = app.send(under(route.clone(), get("/a"))).await;
    assert_eq!(
        anonymous.cache_status(),
        "portcullis; fwd=uri-miss; detail=private"
    );
}

#[tokio::test]
async fn shared_route_shares_public_responses() {
    let public = &[("cache-control", "public, max-age=60")];
    let app = App::new(Handler::with(public));
    let route = CachePolicy::new().share_public_responses(true);
    app.send(under(route.clone(), get_as("/a", &caller("one"))))
        .await;
    assert!(
        app.send(under(route, get_as("/a", &caller("two"))))
            .await
            .is_hit()
    );
    assert!(!app.send(get_as("/a", &caller("two"))).await.is_hit());
}

#[tokio::test]
async fn disabled_route_stores_nothing_and_preserves_the_query() {
    let seen: Arc<Mutex<String>> = Arc::default();
    let query = Arc::clone(&seen);
    let app = App::new(Handler::new(move |request, call| {
        *query.lock().unwrap() = request.uri().to_string();
        response_with(FRESH, format!("call {call}"))
    }));
    let off = CachePolicy::new().query(["page"]).off();
    for _ in 0..2 {
        let seen = app.send(under(off.clone(), get("/a?b"))).await;
        assert_eq!(seen.cache_status(), "portcullis; fwd=bypass; detail=off");
    }
    assert_eq!(*seen.lock().unwrap(), "/a?b");
    // An unsafe request still invalidates, for all routes.
    app.get("/a?b").await;
    app.send(under(off, request(Method::PUT, "/a?b"))).await;
    assert!(!app.get("/a?b").await.is_hit());
}

#[tokio::test]
async fn layer_policy_applies_to_requests_without_a_policy() {
    let policy = CachePolicy::new().query(["page"]);
    let app = App::configured(Handler::with(FRESH), |builder| builder.policy(policy));
    app.get("/a?utm=x").await;
    assert!(app.get("/a?utm=y").await.is_hit());
    let own = CachePolicy::new();
    assert!(!app.send(under(own, get("/a?utm=y"))).await.is_hit());
}

/// Chooses a policy for each of two paths, and none for others.
fn by_path(builder: CacheLayerBuilder) -> CacheLayerBuilder {
    let paged = CachePolicy::new().query(["page"]);
    let off = CachePolicy::new().off();
    builder.policy_with(move |head| match head.uri.path() {
        "/paged" => Some(paged.clone()),
        "/off" => Some(off.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn function_chooses_the_policy_of_each_request() {
    let app = App::configured(Handler::with(FRESH), by_path);
    app.get("/paged?page=1&utm=x").await;
    assert!(app.get("/paged?page=1&utm=y").await.is_hit());
    assert!(!app.get("/paged?page=2&utm=y").await.is_hit());
    app.get("/off").await;
    assert_eq!(
        app.get("/off").await.cache_status(),
        "portcullis; fwd=bypass; detail=off"
    );
    app.get("/other?utm=x").await;
    assert!(!app.get("/other?utm=y").await.is_hit());
}

#[tokio::test]
async fn policy_in_the_extensions_precedes_the_function_and_that_the_default() {
    let default = CachePolicy::new().query(["page"]);
    let app = App::configured(Handler::with(FRESH), |builder| {
        by_path(builder).policy(default)
    });
    // The request's own policy switches the cache on where the function switches it off.
    app.send(under(CachePolicy::new(), get("/off"))).await;
    let own = app.send(under(CachePolicy::new(), get("/off"))).await;
    assert!(own.is_hit());
    assert!(!app.get("/off").await.is_hit());
    // The default applies where the function returns `None`.
    app.get("/other?utm=x").await;
    assert!(app.get("/other?utm=y").await.is_hit());
}

#[tokio::test]
async fn function_reads_method_fields_and_extensions() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_function = Arc::clone(&seen);
    let app = App::configured(Handler::with(FRESH), |builder| {
        builder.policy_with(move |head| {
            let caller = head.extensions.get::<Identity>();
            seen_by_function.lock().unwrap().push((
                head.method.clone(),
                head.headers.contains_key("x-plan"),
                caller.map(|caller| caller.key_id().to_owned()),
            ));
            None
        })
    });
    let mut with_plan = get_as("/a", &caller("k1"));
    with_plan
        .headers_mut()
        .insert("x-plan", "pro".parse().unwrap());
    app.send(with_plan).await;
    app.send(request(Method::DELETE, "/a")).await;
    app.send(request(Method::OPTIONS, "/a")).await;
    let k1 = Some("k1".to_owned());
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (Method::GET, true, k1),
            (Method::DELETE, false, None),
            (Method::OPTIONS, false, None)
        ]
    );
}

#[tokio::test]
async fn function_separates_callers_by_fields_that_it_names_as_credentials() {
    let app = App::configured(Handler::with(FRESH), |builder| {
        let by_session = CachePolicy::new().credentials([HeaderName::from_static("x-session")]);
        builder.policy_with(move |_| Some(by_session.clone()))
    });
    let with_session = || get_with("/a", &[("x-session", "s1")]);
    app.send(with_session()).await;
    assert!(!app.send(with_session()).await.is_hit());
    app.get("/a").await;
    assert!(app.get("/a").await.is_hit());
}
