//! Configurations that can hardly be meant: each is reported once, and right ones are not.

use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, ConfigError, Gate, Identity, ManualClock, PeerAddr, TrustedProxies,
    access_log::AccessLogLayer,
    api_key::{
        ApiKeyLayer, ApiKeyLayerBuilder, KeyManager, KeyRing, KeySource, NewKey, Pepper,
        RequireScopesLayer,
    },
    cache::{CacheLayer, CachePolicy},
    net::ForwardedHeader,
    rate_limit::{
        CallerList, OnStoreError, Partition, Penalty, Policy, Quota, RateLimitLayer,
        RateLimitLayerBuilder, SyncMode, Tiers,
    },
    store::MemoryStore,
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, service_fn,
    util::{BoxCloneService, MapRequestLayer},
};

use crate::support::{
    alone::{is_silent, reports},
    app::app,
    get,
    hands::let_all_run,
};

/// A ring in memory, and a key of it.
struct Keys {
    ring: KeyRing,
    secret: String,
}

impl Keys {
    async fn new() -> Self {
        Self::with(NewKey::new("freya").tier("pro").scopes(["data.read"])).await
    }

    async fn with(key: NewKey) -> Self {
        let ring = KeyRing::builder("acmepay", MemoryStore::new())
            .pepper(Pepper::random(1))
            .build()
            .unwrap();
        let key = KeyManager::new(&ring).create(key).await.unwrap();
        Self {
            secret: key.expose_secret().to_owned(),
            ring,
        }
    }

    fn builder(&self) -> ApiKeyLayerBuilder {
        ApiKeyLayer::builder(&self.ring)
    }

    fn layer(&self) -> ApiKeyLayer {
        self.builder().build().unwrap()
    }

    /// A request with the key in this header, and a peer.
    fn request_by(&self, header: &'static str) -> Request<Full<Bytes>> {
        let mut request = anonymous();
        let secret = self.secret.parse().unwrap();
        request.headers_mut().insert(header, secret);
        request
    }

    fn request(&self) -> Request<Full<Bytes>> {
        self.request_by("x-api-key")
    }
}

fn anonymous() -> Request<Full<Bytes>> {
    let mut request = get("http://acme.test/data");
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request
}

fn of(identity: Identity) -> Request<Full<Bytes>> {
    let mut request = anonymous();
    request.extensions_mut().insert(identity);
    request
}

type Handler = BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

/// Sends a request four times through layers around a handler.
async fn send<L, S, B>(layers: L, request: impl Fn() -> Request<Full<Bytes>>) -> Vec<StatusCode>
where
    L: Layer<Handler, Service = S>,
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    let app = app(layers, &Arc::new(AtomicUsize::new(0)));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let response = app.clone().oneshot(request()).await.unwrap();
        statuses.push(response.status());
    }
    statuses
}

fn address() -> Partition {
    Partition::client_addr(ClientAddrResolver::default())
}

fn policy(name: &str, limit: u64) -> Policy {
    Policy::fixed_window(name, Quota::per_minute(limit)).unwrap()
}

fn limits(partition: Partition) -> RateLimitLayerBuilder {
    RateLimitLayer::builder(MemoryStore::new(), partition)
}

fn limiter(partition: Partition) -> RateLimitLayer {
    limits(partition)
        .policy(policy("calls", 100))
        .build()
        .unwrap()
}

fn tiers() -> Tiers {
    Tiers::new("free")
        .tier("free", [policy("free", 10)])
        .tier("pro", [policy("pro", 100)])
}

const LIMITER_OUTSIDE: &[&str] = &[
    "`RateLimitLayer` is `outside of the layer that inserts the `Identity``",
    "requests are not counted",
    "inside of `ApiKeyLayer`",
];

#[test]
fn limiter_that_reads_the_identity_outside_of_the_keys_is_reported_once() {
    let name = "stack::config_checks::limiter_that_reads_the_identity_outside_of_the_keys_is_reported_once";
    reports(name, &[LIMITER_OUTSIDE; 7], async {
        let keys = Keys::new().await;
        let listed = |callers| limits(address()).policy(policy("calls", 100)).deny(callers);
        for limiter in [
            limiter(Partition::identity()),
            limiter(Partition::owner()),
            limiter(Partition::identity().or(address())),
            limits(address()).tiers(tiers()).build().unwrap(),
            listed(CallerList::new().lineages(["k1"])).build().unwrap(),
            listed(CallerList::new().owners(["loki"])).build().unwrap(),
            limits(Partition::identity())
                .policy(policy("calls", 100))
                .credits()
                .build()
                .unwrap(),
        ] {
            let layers = ServiceBuilder::new().layer(limiter).layer(keys.layer());
            send(layers.into_inner(), || keys.request()).await;
        }
    });
}

#[test]
fn limiter_outside_of_the_keys_is_reported_after_many_anonymous_requests() {
    let name = "stack::config_checks::limiter_outside_of_the_keys_is_reported_after_many_anonymous_requests";
    reports(name, &[LIMITER_OUTSIDE], async {
        let keys = Keys::new().await;
        let layers = ServiceBuilder::new()
            .layer(limiter(Partition::identity()))
            .layer(keys.layer())
            .into_inner();
        for _ in 0..200 {
            send(layers.clone(), anonymous).await;
        }
        send(layers, || keys.request()).await;
    });
}

#[test]
fn limiter_outside_of_another_layer_that_authenticates_is_reported_once() {
    let name = "stack::config_checks::limiter_outside_of_another_layer_that_authenticates_is_reported_once";
    reports(name, &[LIMITER_OUTSIDE; 2], async {
        let authenticate = || {
            MapRequestLayer::new(|mut request: Request<Full<Bytes>>| {
                let who = Identity::builder("user-1").scopes(["data.read"]).build();
                request.extensions_mut().insert(who);
                request
            })
        };
        let layers = ServiceBuilder::new()
            .layer(limiter(Partition::identity()))
            .layer(authenticate())
            .layer(RequireScopesLayer::all(["data.read"]).unwrap());
        send(layers.into_inner(), anonymous).await;
        let layers = ServiceBuilder::new()
            .layer(limiter(Partition::identity()))
            .layer(authenticate())
            .layer(CacheLayer::new(MemoryStore::new()));
        send(layers.into_inner(), anonymous).await;
    });
}

#[test]
fn gate_with_optional_keys_emits_no_notice() {
    is_silent(
        "stack::config_checks::gate_with_optional_keys_emits_no_notice",
        async {
            let keys = Keys::new().await;
            let store = MemoryStore::new();
            let counted = |name, partition| {
                RateLimitLayer::builder(store.clone(), partition).policy(policy(name, 100))
            };
            let gate = Gate::new()
                .access_log(AccessLogLayer::json_lines(std::io::sink()))
                .rate_limit_by_address(counted("address", address()).build().unwrap())
                .api_keys(keys.builder().optional().build().unwrap())
                .rate_limit_by_identity(
                    counted("caller", Partition::identity())
                        .tiers(tiers())
                        .build()
                        .unwrap(),
                )
                .cache(CacheLayer::new(store.clone()))
                .build()
                .unwrap();
            for _ in 0..40 {
                send(gate.clone(), anonymous).await;
                send(gate.clone(), || keys.request()).await;
            }
        },
    );
}

#[test]
fn tiers_by_a_function_need_no_identity() {
    is_silent(
        "stack::config_checks::tiers_by_a_function_need_no_identity",
        async {
            let keys = Keys::new().await;
            let by_method = || {
                limits(address())
                    .tiers(tiers())
                    .tier_with(|head| Some(head.method.as_str().into()))
                    .build()
                    .unwrap()
            };
            let layers = ServiceBuilder::new()
                .layer(by_method())
                .layer(keys.layer())
                .into_inner();
            send(layers, || keys.request()).await;
            // Nor does the gate reject them.
            Gate::new()
                .rate_limit_by_address(by_method())
                .build()
                .unwrap();
        },
    );
}

#[test]
fn cache_outside_of_the_keys_is_reported_once() {
    let name = "stack::config_checks::cache_outside_of_the_keys_is_reported_once";
    let expected: [&[&str]; 2] = [&[
        "`CacheLayer` is `outside of the layer that inserts the `Identity``",
        "cannot see the caller",
        "inside of `ApiKeyLayer`",
    ]; 2];
    reports(name, &expected, async {
        let keys = Keys::new().await;
        let cache = || CacheLayer::new(MemoryStore::new());
        let layers = ServiceBuilder::new().layer(cache()).layer(keys.layer());
        send(layers.into_inner(), || keys.request()).await;
        // The cache does not know that this field is a credential.
        let source = KeySource::header("x-acme-key").unwrap();
        let by_header = keys.builder().sources([source]).build().unwrap();
        let layers = ServiceBuilder::new().layer(cache()).layer(by_header);
        send(layers.into_inner(), || keys.request_by("x-acme-key")).await;
    });
}

#[test]
fn cache_outside_of_the_keys_is_reported_by_a_background_refresh() {
    let name =
        "stack::config_checks::cache_outside_of_the_keys_is_reported_by_a_background_refresh";
    let expected: [&[&str]; 1] = [&["`CacheLayer` is `outside of the layer that inserts"]];
    reports(name, &expected, async {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let cache = || {
            let builder = CacheLayer::secure(store.clone()).clock(clock.clone());
            builder.build().unwrap()
        };
        let handler = service_fn(async |_: Request<Full<Bytes>>| {
            let stale = "max-age=1, stale-while-revalidate=600";
            let response = Response::builder().header("cache-control", stale);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        });
        // Another instance has stored the response.
        let other = cache().layer(handler);
        other.oneshot(anonymous()).await.unwrap();
        clock.advance(Duration::from_secs(10));
        let keys = Keys::new().await;
        let source = KeySource::header("x-acme-key").unwrap();
        let by_header = keys.builder().sources([source]).build().unwrap();
        let app = ServiceBuilder::new().layer(cache()).layer(by_header);
        let request = keys.request_by("x-acme-key");
        let seen = app.service(handler).oneshot(request).await.unwrap();
        let status = seen.headers()["cache-status"].to_str().unwrap();
        assert!(status.starts_with("portcullis; hit; ttl=-9"), "{status}");
        let_all_run().await;
    });
}

#[test]
fn limiter_that_is_applied_twice_is_reported_once() {
    let name = "stack::config_checks::limiter_that_is_applied_twice_is_reported_once";
    let expected: [&[&str]; 2] = [
        &[
            "`RateLimitLayer` is `applied twice (policy `calls`)`",
            "half of the limit",
            "apply the layer once",
        ],
        &[
            "`policy` is `calls`",
            "half of the limit",
            "`Policy::scope`",
        ],
    ];
    reports(name, &expected, async {
        let one = limiter(address());
        let layers = ServiceBuilder::new().layer(one.clone()).layer(one);
        send(layers.into_inner(), anonymous).await;
        let store = MemoryStore::new();
        let built_twice = || {
            let limits = RateLimitLayer::builder(store.clone(), address());
            limits.policy(policy("calls", 100)).build().unwrap()
        };
        let layers = ServiceBuilder::new()
            .layer(built_twice())
            .layer(built_twice());
        send(layers.into_inner(), anonymous).await;
    });
}

#[test]
fn limiters_with_separate_counts_emit_no_notice() {
    is_silent(
        "stack::config_checks::limiters_with_separate_counts_emit_no_notice",
        async {
            let store = MemoryStore::new();
            let on_store = |partition| RateLimitLayer::builder(store.clone(), partition);
            let outer = on_store(address())
                .policy(policy("calls", 100))
                .build()
                .unwrap();
            let calls = || policy("calls", 100);
            for inner in [
                on_store(address()).policy(policy("other", 100)),
                on_store(address()).policy(calls().scope("search")),
                on_store(Partition::method()).policy(calls()),
                limits(address()).policy(calls()),
                // Charges more for some requests on purpose.
                on_store(address()).policy(calls()).cost(|_, _| 5),
                on_store(address())
                    .policy(calls())
                    .skip(|head| head.uri.path() == "/data"),
            ] {
                let layers = ServiceBuilder::new()
                    .layer(outer.clone())
                    .layer(inner.build().unwrap());
                send(layers.into_inner(), anonymous).await;
            }
            // Next to one another, for two routes.
            send(outer.clone(), anonymous).await;
            send(outer, anonymous).await;
        },
    );
}

#[test]
fn cache_that_is_applied_twice_is_reported_once() {
    let name = "stack::config_checks::cache_that_is_applied_twice_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`CacheLayer` is `applied twice`",
        "waits for itself",
        "apply the layer once",
    ]];
    reports(name, &expected, async {
        let cache = |store| {
            CacheLayer::secure(store)
                .max_wait(Duration::from_millis(1))
                .build()
                .unwrap()
        };
        let one = cache(MemoryStore::new());
        let layers = ServiceBuilder::new().layer(one.clone()).layer(one.clone());
        send(layers.into_inner(), anonymous).await;
        // Two caches are no mistake.
        let layers = ServiceBuilder::new()
            .layer(cache(MemoryStore::new()))
            .layer(cache(MemoryStore::new()));
        send(layers.into_inner(), anonymous).await;
    });
}

#[test]
fn keys_inside_of_keys_that_remove_the_credential_are_reported_once() {
    let name =
        "stack::config_checks::keys_inside_of_keys_that_remove_the_credential_are_reported_once";
    let expected: [&[&str]; 2] = [&[
        "`ApiKeyLayer` is `inside of another one`",
        "never finds a key",
        "`forward_credential`",
    ]; 2];
    reports(name, &expected, async {
        let keys = Keys::new().await;
        let one = keys.layer();
        let layers = ServiceBuilder::new().layer(one.clone()).layer(one.clone());
        let statuses = send(layers.into_inner(), || keys.request()).await;
        assert_eq!(statuses, [StatusCode::UNAUTHORIZED; 4]);
        let optional = keys.builder().optional().build().unwrap();
        let layers = ServiceBuilder::new().layer(one).layer(optional);
        send(layers.into_inner(), || keys.request()).await;
    });
}

#[test]
fn nested_key_layers_with_a_remaining_credential_emit_no_notice() {
    let name = "stack::config_checks::nested_key_layers_with_a_remaining_credential_emit_no_notice";
    is_silent(name, async {
        let keys = Keys::new().await;
        let keeping = keys.builder().forward_credential().build().unwrap();
        let layers = ServiceBuilder::new().layer(keeping).layer(keys.layer());
        let statuses = send(layers.into_inner(), || keys.request()).await;
        assert_eq!(statuses, [StatusCode::OK; 4]);
        let by_bearer = keys.builder().sources([KeySource::bearer()]).optional();
        let by_header = keys.builder().sources([KeySource::x_api_key()]);
        let layers = ServiceBuilder::new()
            .layer(by_bearer.build().unwrap())
            .layer(by_header.build().unwrap());
        send(layers.into_inner(), || keys.request()).await;
    });
}

#[test]
fn access_log_inside_of_another_layer_is_reported_once() {
    let name = "stack::config_checks::access_log_inside_of_another_layer_is_reported_once";
    let inside = |of| {
        [
            "`AccessLogLayer` is `inside of ",
            of,
            "no record",
            "outermost",
        ]
    };
    let expected: [&[&str]; 4] = [
        &inside("`RateLimitLayer`"),
        &inside("`ApiKeyLayer`"),
        &inside("`CacheLayer`"),
        &[
            "inside of another `AccessLogLayer`",
            "two records",
            "outermost",
        ],
    ];
    reports(name, &expected, async {
        let keys = Keys::new().await;
        let log = || AccessLogLayer::json_lines(std::io::sink());
        let layers = ServiceBuilder::new().layer(limiter(address())).layer(log());
        send(layers.into_inner(), anonymous).await;
        let layers = ServiceBuilder::new().layer(keys.layer()).layer(log());
        send(layers.into_inner(), || keys.request()).await;
        let layers = ServiceBuilder::new()
            .layer(CacheLayer::new(MemoryStore::new()))
            .layer(log());
        send(layers.into_inner(), anonymous).await;
        let layers = ServiceBuilder::new().layer(log()).layer(log());
        send(layers.into_inner(), anonymous).await;
    });
}

fn inserting(
    policy: CachePolicy,
) -> MapRequestLayer<impl Fn(Request<Full<Bytes>>) -> Request<Full<Bytes>> + Clone> {
    MapRequestLayer::new(move |mut request: Request<Full<Bytes>>| {
        request.extensions_mut().insert(policy.clone());
        request
    })
}

#[test]
fn policy_that_is_inserted_inside_of_the_cache_is_reported_once() {
    let name = "stack::config_checks::policy_that_is_inserted_inside_of_the_cache_is_reported_once";
    let expected: [&[&str]; 2] = [&[
        "`CachePolicy` is `inserted inside of the cache`",
        "no effect",
        "`CacheLayerBuilder::policy_with`",
    ]; 2];
    reports(name, &expected, async {
        let off = || inserting(CachePolicy::new().off());
        let cache = CacheLayer::new(MemoryStore::new());
        let layers = ServiceBuilder::new().layer(cache).layer(off());
        send(layers.into_inner(), anonymous).await;
        let with_default = CacheLayer::secure(MemoryStore::new()).policy(CachePolicy::new());
        let layers = ServiceBuilder::new()
            .layer(with_default.build().unwrap())
            .layer(off());
        send(layers.into_inner(), anonymous).await;
    });
}

#[test]
fn cache_policies_in_effect_emit_no_notice() {
    is_silent(
        "stack::config_checks::cache_policies_in_effect_emit_no_notice",
        async {
            let cache = || CacheLayer::new(MemoryStore::new());
            let off = CachePolicy::new().off();
            // Outside of the cache.
            let layers = ServiceBuilder::new()
                .layer(inserting(off.clone()))
                .layer(cache())
                .into_inner();
            send(layers, anonymous).await;
            // Chosen by a function, and by the handler for its response.
            let chosen = off.clone();
            let by_function = CacheLayer::secure(MemoryStore::new())
                .policy_with(move |_| Some(chosen.clone()))
                .build()
                .unwrap();
            let respond =
                tower::util::MapResponseLayer::new(move |mut response: Response<Full<Bytes>>| {
                    response.extensions_mut().insert(off.clone());
                    response
                });
            for cache in [cache(), by_function] {
                let layers = ServiceBuilder::new().layer(cache).layer(respond.clone());
                send(layers.into_inner(), anonymous).await;
            }
            // A layer that copies the request's extensions, and one that drops them.
            let copying = MapRequestLayer::new(|mut request: Request<Full<Bytes>>| {
                let copy = request.extensions().clone();
                *request.extensions_mut() = copy;
                request
            });
            let layers = ServiceBuilder::new().layer(cache()).layer(copying);
            send(layers.into_inner(), anonymous).await;
            let clearing = MapRequestLayer::new(|mut request: Request<Full<Bytes>>| {
                request.extensions_mut().clear();
                request
            });
            let layers = ServiceBuilder::new().layer(cache()).layer(clearing);
            send(layers.into_inner(), anonymous).await;
        },
    );
}

#[test]
fn tier_without_limits_is_reported_once() {
    let name = "stack::config_checks::tier_without_limits_is_reported_once";
    let expected: [&[&str]; 2] = [
        &[
            "`tier` is `gold`",
            "limits of the fallback",
            "`Tiers::tier`",
        ],
        &[
            "`tier` is `Pro`",
            "limits of the fallback",
            "write it as `pro`",
        ],
    ];
    reports(name, &expected, async {
        for tier in ["gold", "Pro"] {
            let limiter = limits(Partition::identity())
                .tiers(tiers())
                .build()
                .unwrap();
            send(limiter, || of(Identity::builder("k1").tier(tier).build())).await;
        }
    });
}

#[test]
fn known_or_absent_tiers_emit_no_notice() {
    is_silent(
        "stack::config_checks::known_or_absent_tiers_emit_no_notice",
        async {
            let limiter = limits(Partition::identity())
                .tiers(tiers())
                .build()
                .unwrap();
            for tier in ["free", "pro"] {
                let caller = || of(Identity::builder("k1").tier(tier).build());
                send(limiter.clone(), caller).await;
            }
            send(limiter.clone(), || of(Identity::builder("k1").build())).await;
            limiter
                .handle()
                .replace_policies([], Some(tiers().tier("gold", [policy("gold", 5)])))
                .unwrap();
            let gold = || of(Identity::builder("k1").tier("gold").build());
            send(limiter, gold).await;
        },
    );
}

#[test]
fn scope_that_differs_in_case_alone_is_reported_once() {
    let name = "stack::config_checks::scope_that_differs_in_case_alone_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`scopes` is `Data.Read`",
        "has the scope `data.read`",
        "use one spelling",
    ]];
    reports(name, &expected, async {
        let keys = Keys::new().await;
        let layers = ServiceBuilder::new()
            .layer(keys.layer())
            .layer(RequireScopesLayer::all(["Data.Read"]).unwrap());
        let statuses = send(layers.into_inner(), || keys.request()).await;
        assert_eq!(statuses, [StatusCode::FORBIDDEN; 4]);
        let strict = keys.builder().require_all_scopes(["Data.Read"]);
        send(strict.build().unwrap(), || keys.request()).await;
    });
}

#[test]
fn missing_scope_of_a_key_emits_no_notice() {
    is_silent(
        "stack::config_checks::missing_scope_of_a_key_emits_no_notice",
        async {
            let both = NewKey::new("freya").scopes(["data.read", "DATA.READ"]);
            let keys = Keys::with(both).await;
            for wanted in ["data.write", "DATA.READ"] {
                let layers = ServiceBuilder::new()
                    .layer(keys.layer())
                    .layer(RequireScopesLayer::all([wanted]).unwrap());
                send(layers.into_inner(), || keys.request()).await;
            }
        },
    );
}

#[cfg(feature = "tracing")]
#[test]
fn tracing_sink_without_a_subscriber_is_reported_once() {
    use portcullis::access_log::sinks::TracingSink;

    let name = "stack::config_checks::tracing_sink_without_a_subscriber_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`sink` is `TracingSink`",
        "no request is recorded",
        "install a subscriber",
    ]];
    reports(name, &expected, async {
        send(AccessLogLayer::new(TracingSink), anonymous).await;
    });
}

#[test]
fn records_without_client_address_are_reported_once() {
    let name = "stack::config_checks::records_without_client_address_are_reported_once";
    let axum = match cfg!(feature = "axum") {
        true => "for axum, serve with `into_make_service_with_connect_info",
        false => r#"for axum, enable `features = ["axum"]`"#,
    };
    let expected: [&[&str]; 1] = [&[
        "the client's address is not known",
        axum,
        "records have no `client.address`",
        "`AccessLogLayerBuilder::optional_client_addr`",
    ]];
    reports(name, &expected, async {
        let log = || AccessLogLayer::json_lines(std::io::sink());
        send(log(), anonymous).await;
        send(log(), || get("http://acme.test/data")).await;
        send(log(), || get("http://acme.test/data")).await;
    });
}

#[test]
fn missing_client_address_is_reported_once_by_the_limiter_and_the_access_log() {
    let name = "stack::config_checks::\
                missing_client_address_is_reported_once_by_the_limiter_and_the_access_log";
    let expected: [&[&str]; 1] = [&["the client's address is not known"]];
    reports(name, &expected, async {
        let layers = ServiceBuilder::new()
            .layer(AccessLogLayer::json_lines(std::io::sink()))
            .layer(limiter(address()));
        send(layers.into_inner(), || get("http://acme.test/data")).await;
    });
}

#[test]
fn optional_client_address_emits_no_notice() {
    let name = "stack::config_checks::optional_client_address_emits_no_notice";
    is_silent(name, async {
        let log = AccessLogLayer::builder()
            .sink(portcullis::access_log::sinks::JsonLines::writer(
                std::io::sink(),
            ))
            .optional_client_addr()
            .build()
            .unwrap();
        send(log, || get("http://acme.test/data")).await;
        let (log, recent) = AccessLogLayer::test();
        send(log, || get("http://acme.test/data")).await;
        assert!(recent.last().is_some());
    });
}

#[test]
fn empty_key_id_is_reported_once() {
    let name = "stack::config_checks::empty_key_id_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`Identity::builder` is `an empty key id`",
        "share one rate limit",
        "a unique id for each caller",
    ]];
    reports(name, &expected, async {
        for _ in 0..3 {
            Identity::builder("").owner("acme").build();
        }
        Identity::builder("k1").build();
    });
}

#[test]
fn two_quotas_of_one_count_are_reported_once() {
    let name = "stack::config_checks::two_quotas_of_one_count_are_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`policy` is `calls`",
        "10/minute and 100/minute",
        "`Policy::scope`",
    ]];
    reports(name, &expected, async {
        let store = MemoryStore::new();
        let build = |limit| {
            RateLimitLayer::builder(store.clone(), address())
                .policy(policy("calls", limit))
                .build()
                .unwrap()
        };
        let _live = (build(10), build(100));
    });
}

#[test]
fn policies_with_separate_counts_emit_no_notice() {
    let name = "stack::config_checks::policies_with_separate_counts_emit_no_notice";
    is_silent(name, async {
        let store = MemoryStore::new();
        let build = |partition, policy| {
            let limits = RateLimitLayer::builder(store.clone(), partition);
            limits.policy(policy).build().unwrap()
        };
        // A layer that is no longer in use, as after a reload.
        drop(build(address(), policy("calls", 10)));
        let by_two = |tenant: &'static [u8]| Partition::from_fn(move |_| Some(tenant.to_vec()));
        let per_hour = Policy::fixed_window("calls", Quota::per_hour(9)).unwrap();
        let _live = (
            build(address(), policy("calls", 20)),
            build(address(), policy("calls", 20)),
            build(address(), policy("calls", 30).scope("search")),
            build(address(), per_hour),
            build(Partition::method(), policy("calls", 40)),
            build(by_two(b"a"), policy("calls", 50)),
            build(by_two(b"b"), policy("calls", 60)),
            limiter(address()),
        );
        // The tiers of one layer share a count on purpose, and so do two layers of these tiers.
        let shared = || {
            Tiers::new("free")
                .tier("free", [policy("plan", 10)])
                .tier("pro", [policy("plan", 100)])
        };
        let plans =
            || RateLimitLayer::builder(store.clone(), Partition::identity()).tiers(shared());
        let _live = (plans().build().unwrap(), plans().build().unwrap());
    });
}

#[test]
fn tiers_that_differ_in_case_alone_are_reported_once() {
    let name = "stack::config_checks::tiers_that_differ_in_case_alone_are_reported_once";
    let expected: [&[&str]; 1] = [&["`tiers` is `pro`", "`PRO` differs", "one spelling"]];
    reports(name, &expected, async {
        let twice = tiers().tier("PRO", [policy("large", 1_000)]);
        limits(Partition::identity()).tiers(twice).build().unwrap();
        limits(Partition::identity())
            .tiers(tiers())
            .build()
            .unwrap();
    });
}

#[test]
fn more_shares_than_the_limit_are_reported_once() {
    let name = "stack::config_checks::more_shares_than_the_limit_are_reported_once";
    let expected: [&[&str]; 1] = [&["`share` is `8`", "`calls` admits 5", "number of instances"]];
    reports(name, &expected, async {
        for share in [8, 5] {
            limits(address())
                .policy(policy("calls", 5))
                .on_store_error(OnStoreError::local(MemoryStore::new(), share))
                .build()
                .unwrap();
        }
    });
}

#[test]
fn modes_that_do_not_fit_the_limit_are_reported_once() {
    let name = "stack::config_checks::modes_that_do_not_fit_the_limit_are_reported_once";
    let expected: [&[&str]; 4] = [
        &[
            "`SyncMode::Deferred::max_unreported` is `20`",
            "limit of policy `calls`, 10",
            "`SyncMode::auto`",
        ],
        &[
            "`SyncMode::Leased::instances` is `6`",
            "policy `calls`, 10",
            "`SyncMode::Exact`",
        ],
        &[
            "`sync_mode` is `of policy `log``",
            "always counted exactly",
            "drop the call",
        ],
        &[
            "`sync_mode` is `calls, daily`",
            "different modes",
            "the same mode",
        ],
    ];
    reports(name, &expected, async {
        let some = |number| NonZeroU32::new(number).unwrap();
        let deferred = |most| SyncMode::Deferred {
            max_unreported: some(most),
        };
        let lease = |instances| SyncMode::Leased {
            instances: some(instances),
        };
        let build = |policies: Vec<Policy>| {
            let limits = policies
                .into_iter()
                .fold(limits(address()), |limits, one| limits.policy(one));
            limits.build().unwrap()
        };
        let log = Policy::sliding_log("log", Quota::per_minute(10)).unwrap();
        build(vec![policy("calls", 10).with_sync_mode(deferred(20))]);
        build(vec![policy("calls", 10).with_sync_mode(lease(6))]);
        build(vec![log.clone().with_sync_mode(lease(2))]);
        build(vec![
            policy("calls", 10).with_sync_mode(lease(2)),
            policy("daily", 10),
        ]);
        // Compatible policies.
        build(vec![policy("calls", 10).with_sync_mode(deferred(10))]);
        build(vec![
            policy("calls", 10).with_sync_mode(lease(5)),
            policy("daily", 10).with_sync_mode(lease(2)),
        ]);
        build(vec![log, policy("calls", 1_000)]);
        build(vec![
            policy("calls", 1_000).with_sync_mode(SyncMode::auto(1_000, some(3))),
        ]);
    });
}

#[test]
fn penalty_that_counts_nothing_is_reported_once() {
    let name = "stack::config_checks::penalty_that_counts_nothing_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`penalty` is `without effect`",
        "shadow mode",
        "`Penalty::failed_auth`",
    ]];
    reports(name, &expected, async {
        let banning = |policy, penalty| limits(address()).policy(policy).penalty(penalty);
        let watched = || policy("calls", 10).shadow();
        banning(watched(), Penalty::after(3)).build().unwrap();
        banning(watched(), Penalty::after(3).failed_auth())
            .build()
            .unwrap();
        banning(policy("calls", 10), Penalty::after(3))
            .build()
            .unwrap();
    });
}

fn behind(peer: [u8; 4], header: &'static str) -> Request<Full<Bytes>> {
    let mut request = get("http://acme.test/data");
    request
        .extensions_mut()
        .insert(PeerAddr((peer, 443).into()));
    let value = match header {
        "forwarded" => "for=198.51.100.7",
        _ => "198.51.100.7",
    };
    request.headers_mut().insert(header, value.parse().unwrap());
    request
}

fn resolver(header: ForwardedHeader) -> ClientAddrResolver {
    let proxies = TrustedProxies::cidrs(["10.0.0.0/8"]).unwrap();
    ClientAddrResolver::new(proxies).forwarded_header(header)
}

#[test]
fn field_that_a_trusted_proxy_does_not_write_is_reported_once() {
    let name = "stack::config_checks::field_that_a_trusted_proxy_does_not_write_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`forwarded_header` is `x-forwarded-for`",
        "sent `forwarded`",
        "`forwarded_header(ForwardedHeader::Forwarded)`",
    ]];
    reports(name, &expected, async {
        let by = |header| limiter(Partition::client_addr(resolver(header)));
        // Requests with the right header, even if the client has sent the other one as well.
        send(by(ForwardedHeader::Forwarded), || {
            behind([10, 0, 0, 1], "forwarded")
        })
        .await;
        send(by(ForwardedHeader::XForwardedFor), || {
            let mut request = behind([10, 0, 0, 1], "x-forwarded-for");
            request
                .headers_mut()
                .insert("forwarded", "for=192.0.2.1".parse().unwrap());
            request
        })
        .await;
        let log = AccessLogLayer::builder()
            .client_addr(resolver(ForwardedHeader::XForwardedFor))
            .sink(portcullis::access_log::sinks::JsonLines::direct(
                std::io::sink(),
            ));
        send(log.build().unwrap(), || behind([10, 0, 0, 1], "forwarded")).await;
    });
}

#[test]
fn untrusted_proxy_is_reported_once() {
    let name = "stack::config_checks::untrusted_proxy_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "172.17.0.1 sends `x-forwarded-for`",
        "not a trusted proxy",
        "`TrustedProxies`",
    ]];
    reports(name, &expected, async {
        let log = AccessLogLayer::builder()
            .client_addr(resolver(ForwardedHeader::XForwardedFor))
            .sink(portcullis::access_log::sinks::JsonLines::direct(
                std::io::sink(),
            ))
            .build()
            .unwrap();
        // Any client of the Internet may send the field.
        send(log.clone(), || behind([203, 0, 113, 9], "x-forwarded-for")).await;
        send(log.clone(), || behind([10, 0, 0, 1], "x-forwarded-for")).await;
        send(log, || behind([172, 17, 0, 1], "x-forwarded-for")).await;
    });
}

/// Asserts that an error names the option, its value and the fix.
fn assert_names<T>(result: Result<T, ConfigError>, option: &str, value: &str, fix: &str) {
    let error = result.err().unwrap();
    assert_eq!((error.option(), error.value()), (option, value), "{error}");
    assert!(error.to_string().contains(fix), "{error}");
}

#[tokio::test]
async fn scopes_that_are_required_twice_are_refused() {
    let keys = Keys::new().await;
    let twice = keys
        .builder()
        .require_all_scopes(["data.read", "data.write"])
        .require_any_scope(["admin"]);
    assert_names(
        twice.build(),
        "scopes",
        "data.read data.write",
        "in one call",
    );
    let once = keys
        .builder()
        .require_all_scopes(["data.read", "data.write"]);
    once.build().unwrap();
    let wrong = keys
        .builder()
        .require_any_scope(["a b"])
        .require_any_scope(["c"]);
    assert_names(wrong.build(), "scopes", "a b", "`orders.read`");
}

#[test]
fn rejects_zero_store_timeout_and_zero_max_waiters() {
    let calls = || limits(address()).policy(policy("calls", 10));
    let never = calls().store_timeout(Duration::ZERO);
    assert_names(
        never.build(),
        "store_timeout",
        "0ns",
        "`without_store_timeout`",
    );
    calls().without_store_timeout().build().unwrap();
    let wait = Duration::from_secs(1);
    let queue = Policy::leaky_queue("queue", Quota::per_second(10), wait).unwrap();
    let runtime = portcullis::TokioRuntime;
    let queued = || limits(address()).policy(queue.clone()).runtime(runtime);
    assert_names(
        queued().max_waiters(0).build(),
        "max_waiters",
        "0",
        "at least 1",
    );
    queued().max_waiters(1).build().unwrap();
    calls().max_waiters(0).build().unwrap();
}

#[test]
fn cache_options_that_contradict_one_another_are_refused() {
    let cache = || CacheLayer::secure(MemoryStore::with_clock(ManualClock::default()));
    let secs = Duration::from_secs;
    let backwards = cache().failure_backoff(secs(30), secs(1));
    assert_names(
        backwards.build(),
        "failure_backoff",
        "30s, 1s",
        "the shorter one first",
    );
    cache().failure_backoff(secs(1), secs(1)).build().unwrap();
    cache().failure_backoff(secs(0), secs(0)).build().unwrap();
}

#[test]
fn status_that_is_never_stored_is_reported_once() {
    let name = "stack::config_checks::status_that_is_never_stored_is_reported_once";
    let expected: [&[&str]; 2] = [
        &[
            "`cache_status_code` is `304`",
            "never stored",
            "remove the call",
        ],
        &[
            "`cache_status_code` is `416`",
            "never stored",
            "remove the call",
        ],
    ];
    reports(name, &expected, async {
        for status in [304, 416, 502, 404] {
            let kept = StatusCode::from_u16(status).unwrap();
            let policy = CachePolicy::new().cache_status_code(kept, Duration::from_secs(5));
            let cache = CacheLayer::secure(MemoryStore::new()).policy(policy);
            cache.build().unwrap();
        }
    });
}

#[test]
fn secret_path_that_matches_no_path_is_refused() {
    let log = |pattern: &str| AccessLogLayer::builder().redact_path(pattern).build();
    for wrong in [
        "/reset/{token}/of-{user}",
        "/reset/{token}?code={code}",
        "/files/*/{name}",
        "/reset/{token}#top",
    ] {
        assert_names(log(wrong), "redact_path", wrong, "`/reset/{token}`");
    }
    for right in [
        "/reset/{token}",
        "reset/{token}/done",
        "/a~b/{token}",
        "/{tenant}/x",
    ] {
        log(right).unwrap();
    }
}

#[test]
fn valid_options_of_one_layer_emit_no_notice() {
    is_silent(
        "stack::config_checks::valid_options_of_one_layer_emit_no_notice",
        async {
            let keys = Keys::new().await;
            let session = HeaderName::from_static("x-session");
            let cache = CacheLayer::secure(MemoryStore::new())
                .policy(CachePolicy::new().vary_by([session]))
                .build()
                .unwrap();
            let layers = ServiceBuilder::new().layer(keys.layer()).layer(cache);
            send(layers.into_inner(), || keys.request()).await;
            send(limiter(Partition::identity()), anonymous).await;
        },
    );
}

#[test]
fn limiter_by_route_without_routes_is_reported_once() {
    let name = "stack::config_checks::limiter_by_route_without_routes_is_reported_once";
    let expected: [&[&str]; 1] = [&[
        "`Partition::route` is `outside of the router`",
        "all routes share one quota",
        "`Router::layer`",
    ]];
    reports(name, &expected, async {
        let limiter = limiter(Partition::route());
        for _ in 0..40 {
            send(limiter.clone(), anonymous).await;
        }
    });
}

/// Layers around the routes of axum.
#[cfg(feature = "axum")]
mod routed {
    use axum::{Extension, Router, body::Body, routing};

    use super::*;

    fn routes() -> Router {
        let handler = routing::get(async || "an answer");
        Router::new()
            .route("/data", handler.clone())
            .route("/other", handler)
    }

    async fn send_to(router: Router) {
        for path in ["/data", "/missing"] {
            for _ in 0..40 {
                let request = Request::get(path).body(Body::empty()).unwrap();
                router.clone().oneshot(request).await.unwrap();
            }
        }
    }

    #[test]
    fn policy_of_a_route_inside_of_the_cache_is_reported_once() {
        let name =
            "stack::config_checks::routed::policy_of_a_route_inside_of_the_cache_is_reported_once";
        let expected: [&[&str]; 1] = [&[
            "`CachePolicy` is `inserted inside of the cache`",
            "no effect",
            "`CacheLayerBuilder::policy_with`",
        ]];
        reports(name, &expected, async {
            let policy = Extension(CachePolicy::new().off());
            let cache = CacheLayer::new(MemoryStore::new());
            send_to(routes().layer(policy).layer(cache)).await;
        });
    }

    #[test]
    fn layers_around_routes_emit_no_notice() {
        is_silent(
            "stack::config_checks::routed::layers_around_routes_emit_no_notice",
            async {
                let policy = Extension(CachePolicy::new().off());
                let by_route = limits(Partition::route())
                    .policy(policy_of_many())
                    .build()
                    .unwrap();
                let cache = CacheLayer::new(MemoryStore::new());
                send_to(routes().layer(cache.clone()).layer(policy)).await;
                send_to(routes().layer(by_route).layer(cache)).await;
            },
        );
    }

    fn policy_of_many() -> Policy {
        policy("calls", 10_000)
    }
}

#[tokio::test]
async fn list_of_lineages_where_the_gate_limits_addresses_is_refused() {
    let keys = Keys::new().await;
    let denying = |callers| {
        let limits = limits(address()).policy(policy("calls", 100));
        let limiter = limits.deny(callers).build().unwrap();
        let gate = Gate::new().api_keys(keys.layer());
        gate.rate_limit_by_address(limiter).build()
    };
    let refused = denying(CallerList::new().lineages(["k1"]));
    let (option, value) = (
        "rate_limit_by_address",
        "counted by identity, owner or tier",
    );
    assert_names(refused, option, value, "`rate_limit_by_identity`");
    let office = ["192.0.2.0/24".parse().unwrap()];
    denying(CallerList::new().networks(ClientAddrResolver::default(), office)).unwrap();
}
