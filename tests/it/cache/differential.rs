//! Storability, freshness and age, compared with another implementation of RFC 9111.
//!
//! Requests and responses are drawn at random. A case in which the other implementation is known
//! to differ is skipped, and a rule names the reason. Input that it is known to misread is never
//! drawn: directives in capitals, fields on several lines, an `Age` that overflows, dates in
//! obsolete formats, numbers beyond 2^31, a `Date` long past (it computes no apparent age),
//! directives twice or with fields in quotes, `proxy-revalidate` (it treats it as `no-cache`),
//! `immutable`, and the directives that it does not support.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use http_cache_semantics::{CacheOptions, CachePolicy};
use portcullis::{Clock, ManualClock, Timestamp, cache::CacheLayer, store::MemoryStore};
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::TestRunner};

use super::cache::{App, Handler};

/// A request and the response to it.
#[derive(Clone, Debug)]
struct Case {
    asked: Vec<(&'static str, String)>,
    status: u16,
    fields: Vec<(&'static str, String)>,
    /// The time until the request is repeated, in seconds.
    later_secs: u64,
}

/// When all of it happens.
const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn date(offset_secs: i64) -> String {
    let at = NOW.as_secs().saturating_add_signed(offset_secs);
    httpdate::fmt_http_date(SystemTime::from(Timestamp::from_secs(at)))
}

fn control() -> impl Strategy<Value = String> {
    let numbers = || prop_oneof![0..200_u32, Just(86_400), Just(1 << 30)];
    let member = prop_oneof![
        4 => numbers().prop_map(|secs| format!("max-age={secs}")),
        2 => numbers().prop_map(|secs| format!("s-maxage={secs}")),
        6 => select(vec![
            "public", "private", "no-store", "no-cache", "must-revalidate", "no-transform",
            "extension", "extension=1", "extension=\"quoted\"",
        ])
        .prop_map(str::to_owned),
    ];
    vec(member, 0..5).prop_map(|mut members| {
        // Each directive once.
        let name = |member: &String| member.split('=').next().unwrap().to_owned();
        let mut seen = Vec::new();
        members.retain(|member| {
            let name = name(member);
            let new = !seen.contains(&name);
            seen.push(name);
            new
        });
        members.join(", ")
    })
}

prop_compose! {
    fn cases()(
        authorization in prop::bool::weighted(0.2),
        status in select(vec![
            200_u16, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501, 201, 400, 403,
            500, 503,
        ]),
        control in option::weighted(0.8, control()),
        expires in option::weighted(0.3, -100_i64..1_000),
        modified in option::weighted(0.3, -2_000_000_i64..1),
        age in option::weighted(0.3, 0_u32..300),
        vary in option::weighted(0.2, select(vec!["accept", "accept, x-a", "*"])),
        cookie in prop::bool::weighted(0.1),
        etag in any::<bool>(),
        later_secs in 0_u64..400,
    ) -> Case {
        let mut fields = vec![("date", date(0))];
        let mut field =
            |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        field("cache-control", control);
        field("expires", expires.map(date));
        field("last-modified", modified.map(date));
        field("age", age.map(|age| age.to_string()));
        field("vary", vary.map(str::to_owned));
        field("set-cookie", cookie.then(|| "a=1".to_owned()));
        field("etag", etag.then(|| "\"1\"".to_owned()));
        let asked = authorization.then(|| ("authorization", "Bearer a".to_owned()));
        Case { asked: asked.into_iter().collect(), status, fields, later_secs }
    }
}

/// The treatment of a case by a cache.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// The freshness lifetime of the response, or zero if it is not stored.
    fresh_secs: u64,
    /// The age of the later response, if it is a hit.
    age_secs: Option<u64>,
}

fn theirs(case: &Case) -> Verdict {
    let mut request = Request::get("http://a/").body(()).unwrap();
    request.headers_mut().extend(headers(&case.asked));
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(case.status).unwrap();
    response.headers_mut().extend(headers(&case.fields));
    let options = CacheOptions {
        shared: true,
        ..CacheOptions::default()
    };
    let now = SystemTime::from(NOW);
    let policy = CachePolicy::new_options(&request, &response, now, options);
    let later = now + Duration::from_secs(case.later_secs);
    let shown = policy.is_storable() && !policy.is_stale(later);
    Verdict {
        fresh_secs: match policy.is_storable() {
            true => policy.time_to_live(now).as_secs(),
            false => 0,
        },
        age_secs: shown.then(|| policy.age(later).as_secs()),
    }
}

async fn ours(case: &Case) -> Verdict {
    let origin = case.clone();
    let handler = Handler::new(move |_, _| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"x")));
        *response.status_mut() = StatusCode::from_u16(origin.status).unwrap();
        if origin.status == 204 {
            *response.body_mut() = Full::default();
        }
        response.headers_mut().extend(headers(&origin.fields));
        response
    });
    let clock = ManualClock::new(NOW);
    let store = MemoryStore::builder()
        .clock(clock.clone())
        .max_rate_limit_partitions(1)
        .max_cache_bytes(1 << 20)
        .build()
        .unwrap();
    assert_eq!(clock.wall(), NOW);
    let app = App::built(handler, clock, CacheLayer::rfc(store));
    let ask = || {
        let mut request = crate::support::get("http://a/");
        request.headers_mut().extend(headers(&case.asked));
        request
    };
    let first = app.send(ask()).await;
    let status = first.cache_status();
    let ttl = status
        .split("ttl=")
        .nth(1)
        .filter(|_| status.contains("stored"));
    let ttl = ttl.map_or(0, |ttl| {
        ttl.split(';').next().unwrap().parse::<i64>().unwrap()
    });
    // A stored response that is revalidated each time is never fresh.
    let ttl = if app.send(ask()).await.is_hit() {
        ttl
    } else {
        0
    };
    app.advance_secs(case.later_secs);
    let later = app.send(ask()).await;
    let shown = later.is_hit();
    Verdict {
        fresh_secs: ttl.max(0) as u64,
        age_secs: shown.then(|| later.header("age").unwrap().parse().unwrap()),
    }
}

fn headers(fields: &[(&'static str, String)]) -> http::HeaderMap {
    let fields = fields.iter();
    fields
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

/// The known differences of the other implementation, with the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// It never stores a status that it does not know. RFC 9111 section 3 allows that with explicit
    /// freshness, unless `must-understand` forbids it.
    UnknownStatus,
    /// It serves no response that sets a cookie, unless it is `public`. The profile `rfc` leaves
    /// that to the response.
    SetCookie,
    /// Its heuristic freshness is unbounded; ours ends at a day.
    LongGuess,
}

impl Rule {
    const ALL: [Self; 3] = [Self::UnknownStatus, Self::SetCookie, Self::LongGuess];

    fn excludes(self, case: &Case) -> bool {
        let has = |name: &str| case.fields.iter().any(|(field, _)| *field == name);
        let value = |name: &str| {
            let field = case.fields.iter().find(|(field, _)| *field == name);
            field.map_or("", |(_, value)| value.as_str())
        };
        let control = value("cache-control");
        let says = |word: &str| {
            control
                .split(", ")
                .any(|member| member.split('=').next() == Some(word))
        };
        let guessed =
            has("last-modified") && !has("expires") && !says("max-age") && !says("s-maxage");
        match self {
            Self::UnknownStatus => matches!(case.status, 201 | 400 | 403 | 500 | 503),
            Self::SetCookie => has("set-cookie") && !says("public"),
            Self::LongGuess => {
                guessed && {
                    let modified = httpdate::parse_http_date(value("last-modified")).unwrap();
                    let since = SystemTime::from(NOW).duration_since(modified).unwrap();
                    since.as_secs() / 10 > 86_400
                }
            }
        }
    }
}

fn differential(leave_out: impl Fn(Rule) -> bool, max_cases: u32) -> Result<u32, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let compared = std::cell::Cell::new(0);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(max_cases)
    };
    let result = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&cases(), |case| {
        if Rule::ALL
            .into_iter()
            .any(|rule| leave_out(rule) && rule.excludes(&case))
        {
            return Ok(());
        }
        compared.set(compared.get() + 1);
        prop_assert_eq!(runtime.block_on(ours(&case)), theirs(&case));
        Ok(())
    });
    result
        .map(|()| compared.get())
        .map_err(|error| error.to_string())
}

#[test]
fn storage_and_age_agree_with_another_implementation() {
    match differential(|_| true, 4_000) {
        Ok(compared) => assert!(compared > 2_000, "only {compared} cases were compared"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn each_rule_that_leaves_a_case_out_is_needed() {
    for rule in Rule::ALL {
        let agreed = differential(|other| other != rule, 4_000);
        assert!(agreed.is_err(), "without {rule:?} all agree as well");
    }
}
