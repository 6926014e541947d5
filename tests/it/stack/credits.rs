//! The quota of a key, stated on the key, charged by the limiter: two layers on one store.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    Allowance, Clock, Identity, ManualClock, Timestamp,
    api_key::{ApiKeyLayer, GeneratedKey, KeyManager, KeyRing, KeyUpdate, NewKey},
    rate_limit::{
        OnStoreError, Partition, Policy, Quota, RateLimitFields, RateLimitLayer,
        RateLimitLayerBuilder, Tiers,
    },
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    api_key::api_key::{forged, handler, pepper, with_key},
    rate_limit::failure::{Says, Server},
    support::{header, slow_store::SlowStore, text},
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

struct House {
    clock: ManualClock,
    store: MemoryStore,
    manager: KeyManager,
    keys: ApiKeyLayer,
}

impl House {
    fn new() -> Self {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let ring = KeyRing::builder("acmepay", store.clone())
            .pepper(pepper())
            .clock(clock.clone())
            .build()
            .unwrap();
        Self {
            clock,
            store,
            manager: KeyManager::new(&ring),
            keys: ApiKeyLayer::builder(&ring).build().unwrap(),
        }
    }

    async fn create(&self, new: NewKey) -> GeneratedKey {
        self.manager.create(new).await.unwrap()
    }

    fn limits(&self) -> RateLimitLayerBuilder {
        RateLimitLayer::builder(self.store.clone(), Partition::identity())
    }

    /// Returns how many requests of many this key gets through.
    async fn admitted(&self, limits: &RateLimitLayer, key: &GeneratedKey, of: u32) -> u32 {
        let mut admitted = 0;
        for _ in 0..of {
            let response = self.ask(limits, with_key(key.expose_secret())).await;
            admitted += u32::from(response.status() == StatusCode::OK);
        }
        admitted
    }

    async fn ask(
        &self,
        limits: &RateLimitLayer,
        request: Request<Full<Bytes>>,
    ) -> Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>> {
        let app = self.keys.layer(limits.layer(service_fn(handler)));
        app.oneshot(request).await.unwrap()
    }
}

fn per_day(amount: u64) -> Allowance {
    Allowance::per_day(amount).unwrap()
}

#[tokio::test]
async fn credits_are_spent_and_refilled_and_a_key_without_any_is_not_held_to_some() {
    let house = House::new();
    let limits = house.limits().credits().build().unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(3))).await;
    let free = house.create(NewKey::new("acme")).await;
    assert_eq!(house.admitted(&limits, &key, 5).await, 3);
    assert_eq!(house.admitted(&limits, &free, 50).await, 50);

    let denied = house.ask(&limits, with_key(key.expose_secret())).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(denied.headers(), "retry-after"), Some("86400"));
    let problem: serde_json::Value = serde_json::from_str(&text(denied).await).unwrap();
    assert_eq!(problem["violated-policies"][0], "credits");

    house.clock.advance(DAY - Duration::from_secs(1));
    assert_eq!(house.admitted(&limits, &key, 5).await, 0);
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(house.admitted(&limits, &key, 5).await, 3);
}

#[tokio::test]
async fn a_change_of_credits_holds_at_once_and_what_was_used_stays_used() {
    let house = House::new();
    let limits = house.limits().credits().build().unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(3))).await;
    assert_eq!(house.admitted(&limits, &key, 5).await, 3);
    let update = |credits| {
        house
            .manager
            .update(key.id(), KeyUpdate::new().credits(credits))
    };

    update(Some(per_day(10))).await.unwrap();
    assert_eq!(house.admitted(&limits, &key, 20).await, 7);
    update(Some(per_day(5))).await.unwrap();
    assert_eq!(house.admitted(&limits, &key, 20).await, 0);
    update(None).await.unwrap();
    assert_eq!(house.admitted(&limits, &key, 20).await, 20);
    // Given back within the day, they are where they were.
    update(Some(per_day(11))).await.unwrap();
    assert_eq!(house.admitted(&limits, &key, 20).await, 1);
}

#[tokio::test]
async fn a_rotated_key_and_its_heir_have_one_purse() {
    let house = House::new();
    let limits = house.limits().credits().build().unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(4))).await;
    assert_eq!(house.admitted(&limits, &key, 2).await, 2);
    let heir = house.manager.rotate(key.id(), HOUR).await.unwrap();
    assert_eq!(heir.record().credits(), Some(per_day(4)));
    assert_eq!(house.admitted(&limits, &heir, 1).await, 1);
    assert_eq!(house.admitted(&limits, &key, 9).await, 1);
    assert_eq!(house.admitted(&limits, &heir, 9).await, 0);
}

/// Threat L9: a request with a wrong secret spends no credits.
#[tokio::test]
async fn a_wrong_secret_behind_a_known_id_spends_no_credits() {
    let house = House::new();
    let limits = house.limits().credits().build().unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(2))).await;
    let other = House::new().create(NewKey::new("acme")).await;
    // The known id before another key's secret: the checksum is made to fit.
    let known = key.expose_secret();
    let forged = forged(known, other.expose_secret());
    for _ in 0..20 {
        let response = house.ask(&limits, with_key(&forged)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(house.admitted(&limits, &key, 9).await, 2);
}

#[tokio::test]
async fn credits_by_the_month_come_back_on_its_first_day() {
    let house = House::new();
    let limits = house.limits().credits().build().unwrap();
    let monthly = Allowance::per_month(2).unwrap();
    let key = house.create(NewKey::new("acme").credits(monthly)).await;
    // The clock begins with the year.
    house.clock.advance(30 * DAY);
    assert_eq!(house.admitted(&limits, &key, 9).await, 2);
    house.clock.advance(DAY);
    assert_eq!(house.clock.now(), Timestamp::from_secs(1_769_904_000));
    assert_eq!(house.admitted(&limits, &key, 9).await, 2);
}

#[tokio::test]
async fn denied_by_the_tier_a_request_costs_no_credits_and_the_other_way_round() {
    let house = House::new();
    let tier = Policy::fixed_window("tier", Quota::per_minute(2)).unwrap();
    let limits = house
        .limits()
        .tiers(Tiers::new("any").tier("any", [tier]))
        .credits()
        .cost(|head, policy| match policy.name() {
            "credits" if head.uri.path() == "/dear" => 5,
            _ => 1,
        })
        .fields(RateLimitFields::Draft11)
        .build()
        .unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(6))).await;
    let ask = async |path: &str| {
        let mut request = with_key(key.expose_secret());
        *request.uri_mut() = path.parse().unwrap();
        let response = house.ask(&limits, request).await;
        let fields = header(response.headers(), "ratelimit").unwrap().to_owned();
        (response.status(), fields)
    };
    let (status, fields) = ask("/dear").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(fields, r#""tier";r=1;t=60, "credits";r=1;t=86400"#);
    let (status, fields) = ask("/dear").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(fields, r#""tier";r=1;t=60, "credits";r=1;t=86400"#);
    assert_eq!(ask("/cheap").await.0, StatusCode::OK);
    assert_eq!(ask("/cheap").await.0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn per_key_limit_replaces_the_tier_limit() {
    let house = House::new();
    let minute = |name, limit| Policy::fixed_window(name, Quota::per_minute(limit)).unwrap();
    let limits = house
        .limits()
        .policy(minute("all", 50))
        .tiers(Tiers::new("any").tier("any", [minute("tier", 2)]))
        .per_key_limits()
        .build()
        .unwrap();
    let own: Allowance = "10/minute".parse().unwrap();
    let key = house.create(NewKey::new("acme").limit(own)).await;
    let plain = house.create(NewKey::new("acme")).await;
    assert_eq!(house.admitted(&limits, &plain, 9).await, 2);
    assert_eq!(house.admitted(&limits, &key, 20).await, 10);
    let update = |limit| {
        house
            .manager
            .update(key.id(), KeyUpdate::new().limit(limit))
    };
    update(Some("1000/minute".parse().unwrap())).await.unwrap();
    house.clock.advance(Duration::from_secs(59));
    // The policy for all callers still applies: 10 of 50 were used.
    assert_eq!(house.admitted(&limits, &key, 99).await, 40);
    update(None).await.unwrap();
    house.clock.advance(Duration::from_secs(60));
    assert_eq!(house.admitted(&limits, &key, 9).await, 2);
}

#[tokio::test]
async fn limiter_charges_no_credits_by_default() {
    let house = House::new();
    let policy = Policy::fixed_window("all", Quota::per_minute(5)).unwrap();
    let limits = house.limits().policy(policy).build().unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(1))).await;
    assert_eq!(house.admitted(&limits, &key, 9).await, 5);
}

#[tokio::test]
async fn while_the_store_fails_an_instance_admits_its_share_of_the_credits() {
    let house = House::new();
    let down = Server::new(Says::Later, &house.clock);
    let limits = RateLimitLayer::builder(down, Partition::identity())
        .credits()
        .on_store_error(OnStoreError::local(house.store.clone(), 4))
        .build()
        .unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(10))).await;
    assert_eq!(house.admitted(&limits, &key, 20).await, 3);
}

#[tokio::test]
async fn a_store_that_answers_later_charges_the_same() {
    let house = House::new();
    let slow = SlowStore::over(house.store.clone());
    let limits = RateLimitLayer::builder(slow, Partition::identity())
        .credits()
        .build()
        .unwrap();
    let key = house.create(NewKey::new("acme").credits(per_day(3))).await;
    assert_eq!(house.admitted(&limits, &key, 9).await, 3);
}

#[tokio::test]
async fn credits_of_many_keys_are_counted_separately() {
    let house = House::new();
    let limits = house.limits().credits().build().unwrap();
    let ask = async |number: u64, credits: u64| {
        let caller = Identity::builder(format!("k{number}"));
        let mut request = crate::support::get("/");
        let caller = caller.credits(per_day(credits)).build();
        request.extensions_mut().insert(caller);
        let service = limits.layer(service_fn(empty_response));
        service.oneshot(request).await.unwrap().status()
    };
    for number in 1..3_000 {
        assert_eq!(ask(number, number).await, StatusCode::OK);
    }
    // The first has one credit, which is spent; the second has one more.
    assert_eq!(ask(1, 1).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(2, 2).await, StatusCode::OK);
    assert_eq!(ask(2, 2).await, StatusCode::TOO_MANY_REQUESTS);
}

fn empty_response(
    _: Request<Full<Bytes>>,
) -> std::future::Ready<Result<Response<Full<Bytes>>, std::convert::Infallible>> {
    std::future::ready(Ok(Response::new(Full::default())))
}

#[test]
fn credits_that_would_not_be_counted_by_line_are_refused() {
    let builder = |partition| RateLimitLayer::builder(MemoryStore::new(), partition).credits();
    let by_address = || Partition::client_addr(portcullis::ClientAddrResolver::default());
    for wrong in [
        Partition::owner(),
        by_address(),
        by_address().or(Partition::identity()),
        Partition::identity().and(Partition::method()),
    ] {
        assert_eq!(builder(wrong).build().unwrap_err().option(), "credits");
    }
    assert!(
        builder(Partition::identity().or(by_address()))
            .build()
            .is_ok()
    );
    let policy = Policy::fixed_window("credits", Quota::per_day(1)).unwrap();
    let taken = builder(Partition::identity()).policy(policy).build();
    assert_eq!(taken.unwrap_err().value(), "credits");
}
