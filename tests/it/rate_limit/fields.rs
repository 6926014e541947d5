//! The `RateLimit` fields, read by a parser that knows RFC 9651 and nothing of this crate.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header::HeaderName};
use http_body_util::Full;
use portcullis::{
    ManualClock,
    rate_limit::{Partition, Policy, Quota, RateLimitFields, RateLimitLayer, ResetFormat},
    store::MemoryStore,
};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

/// A list of strings with integers as parameters: all that the two fields may hold.
type List = Vec<(String, Vec<(String, i64)>)>;

/// Parses a list by RFC 9651 section 4.2.1, strictly.
fn parse_list(input: &str) -> Result<List, String> {
    let mut rest = input.trim_matches(' ');
    let mut list = List::new();
    while !rest.is_empty() {
        let string;
        (string, rest) = parse_string(rest)?;
        let mut parameters = Vec::new();
        while let Some(after) = rest.strip_prefix(';') {
            let (name, value);
            (name, rest) = parse_key(after.trim_start_matches(' '))?;
            (value, rest) = match rest.strip_prefix('=') {
                Some(after) => parse_integer(after)?,
                None => return Err("a parameter without a value is a boolean".into()),
            };
            parameters.push((name, value));
        }
        list.push((string, parameters));
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return Ok(list);
        }
        rest = rest
            .strip_prefix(',')
            .ok_or("no comma between two members")?;
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return Err("a comma at the end".into());
        }
    }
    Ok(list)
}

/// Section 4.2.5.
fn parse_string(input: &str) -> Result<(String, &str), String> {
    let mut chars = input.strip_prefix('"').ok_or("no string")?.char_indices();
    let mut output = String::new();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => output.push(escaped),
                _ => return Err("an escape of something else".into()),
            },
            '"' => return Ok((output, &input[at + 2..])),
            '\x00'..='\x1f' | '\x7f'.. => return Err("a character that no string has".into()),
            plain => output.push(plain),
        }
    }
    Err("the string has no end".into())
}

/// Section 4.2.3.3.
fn parse_key(input: &str) -> Result<(String, &str), String> {
    if !input.starts_with(|char: char| char.is_ascii_lowercase() || char == '*') {
        return Err("no key".into());
    }
    let is_key =
        |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_-.*".contains(char);
    let end = input.find(|char| !is_key(char)).unwrap_or(input.len());
    Ok((input[..end].to_owned(), &input[end..]))
}

/// Section 4.2.4, without decimals.
fn parse_integer(input: &str) -> Result<(i64, &str), String> {
    let end = input
        .find(|char: char| !char.is_ascii_digit())
        .unwrap_or(input.len());
    if !(1..=15).contains(&end) || input[end..].starts_with('.') {
        return Err("no integer".into());
    }
    let number = input[..end]
        .parse::<i64>()
        .map_err(|error| error.to_string())?;
    Ok((number, &input[end..]))
}

/// Sends one request through a limiter, and returns its status and both fields, parsed.
fn send(layer: &RateLimitLayer) -> (u16, List, List) {
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let response = runtime.block_on(app.oneshot(Request::default())).unwrap();
    let field = |name: &str| {
        let lines: Vec<_> = response.headers().get_all(name).iter().collect();
        let [line] = lines[..] else {
            panic!("{name} stands {} times", lines.len())
        };
        parse_list(line.to_str().unwrap()).unwrap()
    };
    let status = response.status().as_u16();
    (status, field("ratelimit-policy"), field("ratelimit"))
}

fn limiter(policies: impl IntoIterator<Item = Policy>) -> RateLimitLayer {
    let store = MemoryStore::builder()
        .clock(ManualClock::default())
        .max_rate_limit_partitions(1)
        .build()
        .unwrap();
    let by = Partition::header(HeaderName::from_static("x-nobody"));
    let builder = RateLimitLayer::builder(store, by).fields(RateLimitFields::Draft11);
    let with_policies = policies
        .into_iter()
        .fold(builder, |builder, policy| builder.policy(policy));
    with_policies.build().unwrap()
}

#[test]
fn the_parser_refuses_what_is_no_list_of_strings() {
    for wrong in [
        "a;r=1",
        "\"a",
        "\"a\";R=1",
        "\"a\";r=",
        "\"a\",",
        "\"a\" \"b\"",
        "\"\\n\"",
    ] {
        assert!(parse_list(wrong).is_err(), "{wrong}");
    }
    assert_eq!(parse_list(r#""a\"b";r=1"#).unwrap()[0].0, "a\"b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn both_fields_parse_and_speak_of_each_policy_in_order(
        names in proptest::collection::hash_set("[ -~]{1,64}", 1..6),
        limit in 1_u64..1 << 40,
        window in 1_u64..100_000_000,
    ) {
        let quota = Quota::new(limit, Duration::from_millis(window));
        let policies = names.iter().map(|name| Policy::fixed_window(name, quota).unwrap());
        let (status, policy, limits) = send(&limiter(policies));
        prop_assert_eq!(status, 200);
        for (at, name) in names.iter().enumerate() {
            let secs = window.div_ceil(1_000) as i64;
            let says = |names: [&str; 2], values: [i64; 2]| {
                let names = names.map(str::to_owned);
                (name.clone(), names.into_iter().zip(values).collect::<Vec<_>>())
            };
            prop_assert_eq!(&policy[at], &says(["q", "w"], [limit as i64, secs]));
            prop_assert_eq!(&limits[at], &says(["r", "t"], [limit as i64 - 1, secs]));
        }
        prop_assert_eq!((policy.len(), limits.len()), (names.len(), names.len()));
    }
}

#[test]
fn remaining_never_exceeds_the_advertised_quota() {
    let quota = Quota::per_second(3).burst(7);
    let layer = limiter([
        Policy::token_bucket("bucket", quota).unwrap(),
        Policy::sliding_window("window", Quota::per_minute(4)).unwrap(),
    ]);
    for _ in 0..9 {
        let (_, policy, limits) = send(&layer);
        for ((_, policy), (_, limit)) in policy.iter().zip(&limits) {
            assert!(limit[0].1 <= policy[0].1);
        }
    }
}

/// Returns a limiter that sends the older fields, of one policy of this limit in a minute.
fn legacy(store: &MemoryStore, name: &str, limit: u64) -> RateLimitLayer {
    RateLimitLayer::builder(store.clone(), Partition::method())
        .policy(Policy::fixed_window(name, Quota::per_minute(limit)).unwrap())
        .fields(RateLimitFields::XRateLimit(ResetFormat::Delta))
        .build()
        .unwrap()
}

/// Returns all values of the older fields, where the inner service has set lines of its own.
async fn legacy_lines<const N: usize>(layers: [&RateLimitLayer; N]) -> [Vec<String>; 3] {
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        let lines = [
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
        ];
        for name in lines.into_iter().chain(lines) {
            let name = HeaderName::from_static(name);
            response.headers_mut().append(name, 7_777.into());
        }
        Ok::<_, Infallible>(response)
    });
    let request = Request::new(Full::default());
    let response = match layers[..] {
        [one] => one.layer(inner).oneshot(request).await.unwrap().map(drop),
        [outer, inside] => {
            let stack = outer.layer(inside.layer(inner));
            stack.oneshot(request).await.unwrap().map(drop)
        }
        _ => panic!("one or two layers"),
    };
    ["limit", "remaining", "reset"].map(|field| {
        let values = response.headers().get_all(format!("x-ratelimit-{field}"));
        values
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    })
}

#[tokio::test]
async fn legacy_lines_have_one_value_of_the_nearest_limit() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let (small, large) = (legacy(&store, "small", 10), legacy(&store, "large", 1_000));
    let values = |values: [&str; 3]| values.map(|value| vec![value.to_owned()]);
    assert_eq!(legacy_lines([&small]).await, values(["10", "9", "60"]));
    assert_eq!(
        legacy_lines([&small, &large]).await,
        values(["10", "8", "60"])
    );
    assert_eq!(
        legacy_lines([&large, &small]).await,
        values(["10", "7", "60"])
    );
    for _ in 0..7 {
        legacy_lines([&small]).await;
    }
    // Denied by the inner one, and by the outer one.
    assert_eq!(
        legacy_lines([&large, &small]).await,
        values(["10", "0", "60"])
    );
    assert_eq!(
        legacy_lines([&small, &large]).await,
        values(["10", "0", "60"])
    );
}

#[tokio::test]
async fn draft_fields_of_several_limiters_are_appended() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let limiter = |name, limit| {
        RateLimitLayer::builder(store.clone(), Partition::method())
            .policy(Policy::fixed_window(name, Quota::per_minute(limit)).unwrap())
            .fields(RateLimitFields::Draft11)
            .build()
            .unwrap()
    };
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let stack = limiter("outer", 10).layer(limiter("inner", 5).layer(inner));
    let response = stack.oneshot(Request::new(Full::default())).await.unwrap();
    let lines: Vec<_> = response.headers().get_all("ratelimit").iter().collect();
    assert_eq!(lines, ["\"inner\";r=4;t=60", "\"outer\";r=9;t=60"]);
}
