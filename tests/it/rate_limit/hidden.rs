//! Hidden policies: enforced and recorded, and in no field and no body that a caller sees.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::Full;
use portcullis::{
    Identity, ManualClock, ResponseBody,
    access_log::AccessLogLayer,
    cache::CacheLayer,
    outcome::{RateLimitDecision, RateLimitOutcome},
    rate_limit::{
        OnStoreError, Partition, Penalty, Policy, PolicyList, Quota, RateLimitFields,
        RateLimitLayer, RateLimitLayerBuilder, ResetFormat, Tiers,
    },
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use super::failure::{Says, Server};
use crate::support::{hands::let_all_run, header, text};

type Reply = Response<ResponseBody<Full<Bytes>>>;

const ALL_FIELDS: [RateLimitFields; 4] = [
    RateLimitFields::Off,
    RateLimitFields::Draft11,
    RateLimitFields::XRateLimit(ResetFormat::Delta),
    RateLimitFields::XRateLimit(ResetFormat::Epoch),
];

/// The window is in no other number of these tests.
fn window(name: &str, limit: u64) -> Policy {
    Policy::fixed_window(name, Quota::new(limit, Duration::from_secs(777))).unwrap()
}

fn hidden() -> Policy {
    window("hidden", 1).hidden()
}

fn limiter(fields: RateLimitFields) -> RateLimitLayerBuilder {
    let store = MemoryStore::with_clock(ManualClock::default());
    RateLimitLayer::builder(store, Partition::identity()).fields(fields)
}

fn request(method: Method) -> Request<Full<Bytes>> {
    let mut request = crate::support::request(method, "http://acme.test/data");
    let caller = Identity::builder("k1").tier("free").build();
    request.extensions_mut().insert(caller);
    request
}

async fn handler<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = Full::from("served");
    Ok(Response::builder()
        .header("cache-control", "max-age=60")
        .body(body)
        .unwrap())
}

async fn send(layer: &RateLimitLayer, request: Request<Full<Bytes>>) -> Reply {
    let reply = layer.layer(service_fn(handler)).oneshot(request).await;
    let_all_run().await;
    reply.unwrap()
}

/// Returns the header fields of the response that report a limit.
fn limit_fields<B>(response: &Response<B>) -> Vec<String> {
    let names = response.headers().keys().map(|name| name.as_str());
    let mut names: Vec<_> = names
        .filter(|name| name.contains("ratelimit"))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// Checks that neither the head nor the body contains a hidden policy.
async fn assert_undisclosed<B>(response: Response<B>, case: &str)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let mut headers = response.headers().clone();
    // The time to wait is the one fact that a denial discloses.
    headers.remove("retry-after");
    let head = format!("{headers:?}");
    let body = text(response).await;
    for shown in [head, body] {
        for secret in ["hidden", "777", "violated-policies"] {
            assert!(!shown.contains(secret), "{case}: {secret} in {shown}");
        }
    }
}

#[tokio::test]
async fn hidden_policy_denies_with_429_and_retry_after_and_no_limit_field() {
    for fields in ALL_FIELDS {
        let case = format!("{fields:?}");
        let layer = limiter(fields).policy(hidden()).build().unwrap();
        let admitted = send(&layer, request(Method::GET)).await;
        assert_eq!(admitted.status(), 200);
        assert!(limit_fields(&admitted).is_empty(), "{case}");
        let denied = send(&layer, request(Method::GET)).await;
        assert_eq!(denied.status(), 429);
        assert_eq!(header(denied.headers(), "retry-after"), Some("777"));
        assert!(limit_fields(&denied).is_empty(), "{case}");
        assert_undisclosed(denied, &case).await;
    }
}

#[tokio::test]
async fn other_policies_are_reported_without_the_hidden_one() {
    let layer = |fields, few| {
        let few = Policy::fixed_window("few", Quota::per_minute(few)).unwrap();
        limiter(fields)
            .policy(hidden())
            .policy(few)
            .build()
            .unwrap()
    };
    let draft = layer(RateLimitFields::Draft11, 9);
    let admitted = send(&draft, request(Method::GET)).await;
    let denied = send(&draft, request(Method::GET)).await;
    for (reply, status) in [(admitted, 200), (denied, 429)] {
        assert_eq!(reply.status(), status);
        let headers = reply.headers();
        assert_eq!(
            header(headers, "ratelimit-policy"),
            Some(r#""few";q=9;w=60"#)
        );
        assert_eq!(header(headers, "ratelimit"), Some(r#""few";r=8;t=60"#));
        assert_undisclosed(reply, "draft").await;
    }
    let older = layer(RateLimitFields::XRateLimit(ResetFormat::Delta), 9);
    for status in [200, 429] {
        let reply = send(&older, request(Method::GET)).await;
        assert_eq!(reply.status(), status);
        assert_eq!(header(reply.headers(), "x-ratelimit-limit"), Some("9"));
        assert_eq!(header(reply.headers(), "x-ratelimit-remaining"), Some("8"));
        assert_eq!(header(reply.headers(), "x-ratelimit-reset"), Some("60"));
    }
    let both = layer(RateLimitFields::Draft11, 1);
    send(&both, request(Method::GET)).await;
    let denied = send(&both, request(Method::GET)).await;
    assert_eq!(header(denied.headers(), "retry-after"), Some("777"));
    let body: serde_json::Value = serde_json::from_str(&text(denied).await).unwrap();
    assert_eq!(body["violated-policies"], serde_json::json!(["few"]));
}

#[tokio::test]
async fn hidden_policy_stays_hidden_wherever_the_policies_come_from() {
    let limiter = || limiter(RateLimitFields::Draft11);
    let tiers = || Tiers::new("free").tier("free", [hidden()]);
    let list = PolicyList::new([hidden()]).unwrap();
    let replaced = limiter().policy(window("few", 5)).build().unwrap();
    let replaced_by_tiers = limiter().policy(window("few", 5)).build().unwrap();
    replaced
        .handle()
        .replace_policies([hidden()], None)
        .unwrap();
    replaced_by_tiers
        .handle()
        .replace_policies([], Some(tiers()))
        .unwrap();
    let previous = window("hidden", 1).scope("previous");
    let clock = ManualClock::default();
    let failing = Server::new(Says::AtOnce, &clock);
    let local = OnStoreError::local(MemoryStore::with_clock(clock), 1);
    let cases = [
        ("tiers", limiter().tiers(tiers()).build()),
        ("tier of a function", {
            let limiter = limiter().tiers(tiers());
            limiter.tier_with(|_| Some("free".into())).build()
        }),
        (
            "per-key limits",
            limiter().policy(hidden()).per_key_limits().build(),
        ),
        ("policies of a function", {
            let limiter = limiter();
            let limiter = limiter.policies_with(move |_| std::future::ready(Some(list.clone())));
            limiter.build()
        }),
        ("replaced policies", Ok(replaced)),
        ("replaced tiers", Ok(replaced_by_tiers)),
        (
            "replacing",
            limiter()
                .policy(hidden().replacing(&previous).unwrap())
                .build(),
        ),
        ("local store", {
            RateLimitLayer::builder(failing, Partition::identity())
                .fields(RateLimitFields::Draft11)
                .policy(hidden())
                .on_store_error(local)
                .build()
        }),
        (
            "exposed outcome",
            limiter().policy(hidden()).expose_outcome().build(),
        ),
    ];
    for (case, layer) in cases {
        let layer = layer.unwrap();
        let admitted = send(&layer, request(Method::GET)).await;
        assert_eq!(admitted.status(), 200, "{case}");
        assert_undisclosed(admitted, case).await;
        let denied = send(&layer, request(Method::GET)).await;
        assert_eq!(denied.status(), 429, "{case}");
        assert!(denied.headers().contains_key("retry-after"), "{case}");
        assert_undisclosed(denied, case).await;
    }
}

#[tokio::test]
async fn hidden_policy_is_in_no_head_request_and_in_no_grpc_status() {
    for method in [Method::HEAD, Method::POST] {
        let layer = limiter(RateLimitFields::Draft11)
            .policy(hidden())
            .build()
            .unwrap();
        let request = || {
            let mut request = request(method.clone());
            if method == Method::POST {
                let grpc = "application/grpc".parse().unwrap();
                request.headers_mut().insert("content-type", grpc);
                *request.version_mut() = Version::HTTP_2;
            }
            request
        };
        send(&layer, request()).await;
        let denied = send(&layer, request()).await;
        match method {
            Method::POST => assert_eq!(header(denied.headers(), "grpc-status"), Some("8")),
            _ => assert_eq!(denied.status(), 429),
        }
        assert_undisclosed(denied, method.as_str()).await;
    }
}

#[tokio::test]
async fn limiters_of_one_request_report_the_policies_that_are_not_hidden() {
    for fields in [
        RateLimitFields::Draft11,
        RateLimitFields::XRateLimit(ResetFormat::Delta),
    ] {
        for is_outer in [true, false] {
            let quiet = limiter(fields).policy(hidden()).build().unwrap();
            let few = Policy::fixed_window("few", Quota::per_minute(9)).unwrap();
            let open = limiter(fields).policy(few).build().unwrap();
            let (outer, inner) = match is_outer {
                true => (quiet, open),
                false => (open, quiet),
            };
            let store = MemoryStore::with_clock(ManualClock::default());
            let cache = CacheLayer::new(store).layer(service_fn(handler));
            let app = outer.layer(inner.layer(cache));
            let replies = [(); 2].map(|()| app.clone().oneshot(request(Method::GET)));
            for (reply, status) in replies.into_iter().zip([200, 429]) {
                let reply = reply.await.unwrap();
                assert_eq!(reply.status(), status);
                let is_reported = status == 200 || !is_outer;
                assert_eq!(!limit_fields(&reply).is_empty(), is_reported, "{fields:?}");
                assert_undisclosed(reply, "two limiters").await;
            }
        }
    }
}

#[tokio::test]
async fn cache_hit_has_no_field_of_a_hidden_policy() {
    let layer = limiter(RateLimitFields::Draft11)
        .policy(window("hidden", 9).hidden())
        .build()
        .unwrap();
    let cache = CacheLayer::new(MemoryStore::with_clock(ManualClock::default()));
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let app = layer.layer(cache.layer(service_fn(|request: Request<_>| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        handler(request)
    })));
    for _ in 0..2 {
        let reply = app.clone().oneshot(request(Method::GET)).await.unwrap();
        assert!(limit_fields(&reply).is_empty());
        assert_undisclosed(reply, "cache").await;
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), 1, "the second is a hit");
}

#[tokio::test]
async fn record_and_outcome_contain_the_hidden_policy() {
    let layer = limiter(RateLimitFields::Draft11)
        .policy(hidden())
        .expose_outcome()
        .build()
        .unwrap();
    let (log, records) = AccessLogLayer::test();
    let app = log.layer(layer.layer(service_fn(async |request: Request<_>| {
        let outcome: &RateLimitOutcome = request.extensions().get().unwrap();
        assert_eq!(&*outcome.policies()[0].policy, "hidden");
        handler(request).await
    })));
    for decision in [RateLimitDecision::Allowed, RateLimitDecision::Denied] {
        let reply = app.clone().oneshot(request(Method::GET)).await.unwrap();
        let outcome: &RateLimitOutcome = reply.extensions().get().unwrap();
        assert_eq!(outcome.decision, decision);
        assert_eq!(&*outcome.policies()[0].policy, "hidden");
        text(reply).await;
    }
    let records = records.all();
    assert_eq!(records.len(), 2);
    assert!(
        records.iter().all(|record| record.contains("hidden")),
        "{records:?}"
    );
}

#[tokio::test]
async fn hidden_penalty_bans_without_its_name() {
    let layer = limiter(RateLimitFields::Draft11)
        .policy(hidden())
        .penalty(Penalty::after(1).name("hidden ban").hidden())
        .build()
        .unwrap();
    for status in [200, 429, 429] {
        let reply = send(&layer, request(Method::GET)).await;
        assert_eq!(reply.status(), status);
        assert_undisclosed(reply, "ban").await;
    }
    let banned = send(&layer, request(Method::GET)).await;
    let retry_after = header(banned.headers(), "retry-after");
    assert_eq!(retry_after, Some("600"), "the ban lasts ten minutes");
    let body: serde_json::Value = serde_json::from_str(&text(banned).await).unwrap();
    let kind = body["type"].as_str().unwrap();
    assert!(kind.ends_with("#abnormal-usage-detected"));
    assert!(body.get("violated-policies").is_none());
}
