//! Bans after repeated denials, and their audit events.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, ClientAddrResolver, Identity, ManualClock, PeerAddr, RequestHead,
    ResponseBody,
    api_key::{ApiKeyLayer, KeyRing, Pepper},
    outcome::{RateLimitDecision, RateLimitOutcome},
    rate_limit::{Partition, Penalty, Policy, Quota, RateLimitLayer, RateLimitLayerBuilder},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, hands::let_all_run, header, slow_store::SlowStore, text};

#[derive(Clone, Debug, Default)]
struct Trail(Arc<Mutex<Vec<AuditEvent>>>);

impl Auditor for Trail {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Trail {
    fn told(&self) -> Vec<AuditEvent> {
        self.0.lock().unwrap().clone()
    }
}

fn penalty() -> Penalty {
    Penalty::after(3)
        .denials_within(Duration::from_secs(60))
        .ban_for(Duration::from_secs(600))
}

/// One in a second, by address.
fn limiter(store: MemoryStore, trail: &Trail) -> RateLimitLayerBuilder {
    let by_addr = Partition::client_addr(ClientAddrResolver::default());
    RateLimitLayer::builder(store, by_addr)
        .policy(Policy::fixed_window("second", Quota::per_second(1)).unwrap())
        .auditor(trail.clone())
}

fn request(last: u8) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let peer = PeerAddr(([203, 0, 113, last], 1).into());
    request.extensions_mut().insert(peer);
    request
}

async fn send(layer: &RateLimitLayer, last: u8) -> Response<ResponseBody<Full<Bytes>>> {
    send_for(layer, last, StatusCode::OK).await
}

async fn send_for(
    layer: &RateLimitLayer,
    last: u8,
    status: StatusCode,
) -> Response<ResponseBody<Full<Bytes>>> {
    let inner = service_fn(move |_: Request<Full<Bytes>>| async move {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    });
    let reply = layer.layer(inner).oneshot(request(last)).await.unwrap();
    let_all_run().await;
    reply
}

#[tokio::test]
async fn repeated_denials_ban_the_client_until_the_ban_ends() {
    let (clock, trail) = (ManualClock::default(), Trail::default());
    let store = MemoryStore::with_clock(clock.clone());
    let layer = limiter(store, &trail).penalty(penalty()).build().unwrap();
    assert_eq!(send(&layer, 9).await.status(), 200);
    for denials in 1..=3 {
        assert_eq!(trail.told().len(), 0, "after {} denials", denials - 1);
        let denied = send(&layer, 9).await;
        assert_eq!(header(denied.headers(), "retry-after"), Some("1"));
    }
    let banned = AuditEvent::BanRaised {
        subject: "203.0.113.9/32".into(),
        policy: "penalty".into(),
    };
    assert_eq!(trail.told(), [banned]);

    clock.advance(Duration::from_secs(1));
    for _ in 0..50 {
        let reply = send(&layer, 9).await;
        assert_eq!(reply.status(), 429);
        assert_eq!(header(reply.headers(), "retry-after"), Some("599"));
        let outcome: &RateLimitOutcome = reply.extensions().get().unwrap();
        assert_eq!(outcome.decision, RateLimitDecision::Denied);
        assert_eq!(&*outcome.policies()[1].policy, "penalty");
        assert!(!outcome.policies()[0].denied && outcome.policies()[1].denied);
        let body: serde_json::Value = serde_json::from_str(&text(reply).await).unwrap();
        assert_eq!(body["violated-policies"], serde_json::json!(["penalty"]));
    }
    assert_eq!(send(&layer, 10).await.status(), 200, "another client");
    // A banned request is not charged, and does not extend the ban.
    clock.advance(Duration::from_secs(599));
    assert_eq!(send(&layer, 9).await.status(), 200);
    assert_eq!(send(&layer, 9).await.status(), 429);
    assert_eq!(trail.told().len(), 1, "denials are counted from zero");
}

#[tokio::test]
async fn denials_outside_the_window_cause_no_ban() {
    let (clock, trail) = (ManualClock::default(), Trail::default());
    let store = MemoryStore::with_clock(clock.clone());
    let layer = limiter(store, &trail).penalty(penalty()).build().unwrap();
    for _ in 0..20 {
        assert_eq!(send(&layer, 9).await.status(), 200);
        assert_eq!(send(&layer, 9).await.status(), 429);
        assert_eq!(send(&layer, 9).await.status(), 429);
        clock.advance(Duration::from_secs(60));
    }
    assert!(trail.told().is_empty());
}

#[tokio::test]
async fn failed_authentication_counts_toward_bans_if_enabled() {
    for (penalty, bans) in [(penalty(), false), (penalty().failed_auth().forbid(), true)] {
        let (clock, trail) = (ManualClock::default(), Trail::default());
        let store = MemoryStore::with_clock(clock.clone());
        let layer = limiter(store, &trail).penalty(penalty).build().unwrap();
        for status in [401, 200, 403, 401] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(send_for(&layer, 9, status).await.status(), status);
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(trail.told().len(), usize::from(bans));
        let reply = send(&layer, 9).await;
        assert_eq!(reply.status(), if bans { 403 } else { 200 });
        assert_eq!(header(reply.headers(), "retry-after").is_some(), bans);
    }
}

#[tokio::test]
async fn instances_on_one_store_share_their_bans_and_a_reset_lifts_one() {
    let (clock, trail) = (ManualClock::default(), Trail::default());
    let store = MemoryStore::with_clock(clock.clone());
    let layer = |store| limiter(store, &trail).penalty(penalty()).build().unwrap();
    let (one, other) = (layer(store.clone()), layer(store));
    for _ in 0..4 {
        send(&one, 9).await;
    }
    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&other, 9).await.status(), 429);
    let request = request(9);
    let lifted = other.handle().reset(&RequestHead::from(&request)).await;
    lifted.unwrap();
    assert_eq!(send(&one, 9).await.status(), 200);
}

#[tokio::test]
async fn a_store_on_a_server_bans_too_and_a_caller_is_named_by_its_key() {
    let (clock, trail) = (ManualClock::default(), Trail::default());
    let store = SlowStore::over(MemoryStore::with_clock(clock.clone()));
    let layer = RateLimitLayer::builder(store, Partition::identity())
        .policy(Policy::fixed_window("second", Quota::per_second(1)).unwrap())
        .auditor(trail.clone())
        .penalty(penalty().name("box"))
        .build()
        .unwrap();
    let send = async || {
        let mut request = get("/");
        let caller = Identity::builder("k1").build();
        request.extensions_mut().insert(caller);
        let inner = service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let reply = layer.layer(inner).oneshot(request).await.unwrap();
        let_all_run().await;
        reply.status()
    };
    for _ in 0..4 {
        send().await;
    }
    let banned = AuditEvent::BanRaised {
        subject: "k1".into(),
        policy: "box".into(),
    };
    assert_eq!(trail.told(), [banned]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(send().await, 429);
    clock.advance(Duration::from_secs(599));
    assert_eq!(send().await, 200);
}

#[tokio::test]
async fn auditor_receives_denials_of_shadow_policies() {
    let trail = Trail::default();
    let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
        .policy(
            Policy::aligned_window("tried", Quota::per_day(1))
                .unwrap()
                .shadow(),
        )
        .auditor(trail.clone())
        .build()
        .unwrap();
    for _ in 0..2 {
        let mut request = get("/");
        let caller = Identity::builder("k1").build();
        request.extensions_mut().insert(caller);
        let inner = service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let reply = layer.layer(inner).oneshot(request).await.unwrap();
        assert_eq!(reply.status(), 200);
    }
    let told = AuditEvent::LimitExceededInShadow {
        policy: "tried".into(),
        key_id: Some("k1".into()),
    };
    assert_eq!(trail.told(), [told]);
}

#[test]
fn a_penalty_that_makes_no_sense_is_refused() {
    for penalty in [
        Penalty::after(0),
        Penalty::after(1).ban_for(Duration::ZERO),
        Penalty::after(1).denials_within(Duration::ZERO),
        Penalty::after(1).name(""),
        Penalty::after(1).name("n".repeat(60)),
    ] {
        let builder = limiter(MemoryStore::new(), &Trail::default());
        assert!(builder.penalty(penalty).build().is_err());
    }
}

/// Sends wrong keys until the penalty bans, and returns whether it does.
async fn is_banned_for_wrong_keys(version: Version, content_type: &'static str) -> bool {
    let store = MemoryStore::with_clock(ManualClock::default());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let keys = ApiKeyLayer::builder(&ring)
        .without_failure_limit()
        .build()
        .unwrap();
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let by_addr = Partition::client_addr(ClientAddrResolver::default());
    let app = RateLimitLayer::builder(store, by_addr)
        .policy(Policy::token_bucket("address", Quota::per_second(1_000)).unwrap())
        .penalty(penalty().failed_auth())
        .build()
        .unwrap()
        .layer(keys.layer(inner));
    let wrong = || {
        let mut request = request(9);
        *request.version_mut() = version;
        let fields = request.headers_mut();
        fields.insert("x-api-key", HeaderValue::from_static("wrong"));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        request
    };
    for _ in 0..3 {
        app.clone().oneshot(wrong()).await.unwrap();
        let_all_run().await;
    }
    let last = app.clone().oneshot(wrong()).await.unwrap();
    let outcome: Option<&RateLimitOutcome> = last.extensions().get();
    outcome.is_some_and(|outcome| outcome.decision == RateLimitDecision::Denied)
}

#[tokio::test]
async fn wrong_keys_are_counted_whatever_the_content_type() {
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        for content_type in [
            "text/plain",
            "application/grpc",
            "application/grpc+proto",
            "Application/GRPC; x=y",
            "application/grpc-web",
        ] {
            let banned = is_banned_for_wrong_keys(version, content_type).await;
            assert!(banned, "{version:?} {content_type}");
        }
    }
}

#[tokio::test]
async fn grpc_status_of_a_handler_is_counted_over_http_2_alone() {
    for (version, status, is_counted) in [
        (Version::HTTP_2, "16", true),
        (Version::HTTP_2, "7", true),
        (Version::HTTP_2, "5", false),
        (Version::HTTP_11, "16", false),
    ] {
        let store = MemoryStore::with_clock(ManualClock::default());
        let layer = RateLimitLayer::builder(store, Partition::client_addr(Default::default()))
            .policy(Policy::token_bucket("address", Quota::per_second(1_000)).unwrap())
            .penalty(penalty().failed_auth())
            .build()
            .unwrap();
        let inner = service_fn(move |_: Request<Full<Bytes>>| async move {
            let response = Response::builder().header("grpc-status", status);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        });
        let app = layer.layer(inner);
        let mut last = StatusCode::OK;
        for _ in 0..4 {
            let mut request = request(9);
            *request.version_mut() = version;
            last = app.clone().oneshot(request).await.unwrap().status();
            let_all_run().await;
        }
        let is_banned = last == StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(is_banned, is_counted, "{status} over {version:?}");
    }
}
