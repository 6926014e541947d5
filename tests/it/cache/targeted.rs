//! Targeted cache control fields (RFC 9213): none applies unless the cache lists it.

use http::{Method, StatusCode};
use portcullis::{
    ManualClock,
    cache::{CacheLayer, CacheLayerBuilder, Purge, PurgeMode},
    store::MemoryStore,
};

use super::cache::{App, Handler, caller, get_as, get_with, response_with};
use crate::support::{get, request};

const CDN: &str = "CDN-Cache-Control";

/// Returns the same cache in each profile.
fn both_profiles(
    handler: &Handler,
    configure: impl Fn(CacheLayerBuilder) -> CacheLayerBuilder,
) -> [App; 2] {
    [CacheLayer::secure, CacheLayer::rfc].map(|profile| {
        let clock = ManualClock::default();
        let builder = profile(MemoryStore::with_clock(clock.clone()));
        App::built(handler.clone(), clock, configure(builder))
    })
}

/// Returns a handler whose responses have these fields. Empty values are left out.
fn with(fields: Vec<(&'static str, &'static str)>) -> Handler {
    Handler::new(move |_, call| {
        let sent = fields.iter().filter(|(_, value)| !value.is_empty());
        let sent: Vec<_> = sent.copied().collect();
        response_with(&sent, format!("call {call}"))
    })
}

#[tokio::test]
async fn unlisted_targeted_field_passes_through_without_influence() {
    for (control, targeted, expected) in [
        ("private", "max-age=60", "detail=private"),
        ("private, max-age=9", "public, max-age=60", "detail=private"),
        ("no-store", "max-age=60", "detail=no-store"),
        ("no-store", "s-maxage=60", "detail=no-store"),
        ("", "max-age=60", "detail=no-freshness"),
        ("", "public, s-maxage=60", "detail=no-freshness"),
        ("max-age=60", "no-store", "stored; ttl=60"),
        ("max-age=60", "private", "stored; ttl=60"),
        ("max-age=60", "no-cache", "stored; ttl=60"),
        ("max-age=60", "max-age=1", "stored; ttl=60"),
        ("max-age=60", "s-maxage=1", "stored; ttl=60"),
        (
            "max-age=60",
            "max-age=1, stale-if-error=9",
            "stored; ttl=60",
        ),
    ] {
        for name in [
            "cdn-cache-control",
            "surrogate-control",
            "other-cache-control",
        ] {
            let handler = with(vec![("cache-control", control), (name, targeted)]);
            for app in both_profiles(&handler, |builder| builder) {
                let first = app.get("/a").await;
                let status = format!("portcullis; fwd=uri-miss; {expected}");
                assert_eq!(first.cache_status(), status, "{control} {name}: {targeted}");
                let second = app.get("/a").await;
                assert_eq!(second.is_hit(), expected.starts_with("stored"));
                for seen in [first, second] {
                    assert_eq!(seen.header(name), Some(targeted));
                }
            }
        }
    }
}

#[tokio::test]
async fn listed_targeted_field_replaces_cache_control_and_expires() {
    for (control, targeted, expected) in [
        ("private", "max-age=60", "stored; ttl=60"),
        ("no-store", "max-age=60", "stored; ttl=60"),
        ("", "max-age=60", "stored; ttl=60"),
        ("max-age=60", "max-age=1", "stored; ttl=1"),
        ("max-age=60", "no-store", "detail=no-store"),
        ("max-age=60", "private", "detail=private"),
        ("max-age=60", "none", "detail=no-freshness"),
    ] {
        let handler = with(vec![
            ("cache-control", control),
            ("cdn-cache-control", targeted),
            ("expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ]);
        for app in both_profiles(&handler, |builder| builder.targeted_field(CDN)) {
            let first = app.get("/a").await;
            let status = format!("portcullis; fwd=uri-miss; {expected}");
            assert_eq!(first.cache_status(), status, "{control} {targeted}");
            assert_eq!(
                app.get("/a").await.header("cdn-cache-control"),
                Some(targeted)
            );
        }
    }
}

#[tokio::test]
async fn first_listed_field_that_is_valid_applies() {
    let list = |builder: CacheLayerBuilder| {
        builder
            .targeted_field("Own-Cache-Control")
            .targeted_field(CDN)
    };
    for (own, cdn, ttl) in [
        ("max-age=1", "max-age=2", 1),
        ("", "max-age=2", 2),
        (" ", "max-age=2", 2),
        ("max-age=1,", "max-age=2", 2),
        ("Max-Age=1", "max-age=2", 2),
        ("max-age=1 s-maxage=9", "max-age=2", 2),
        ("max-age=1,", "&", 3),
        ("", "", 3),
    ] {
        let handler = with(vec![
            ("cache-control", "max-age=3"),
            ("cdn-cache-control", cdn),
            ("own-cache-control", own),
        ]);
        for app in both_profiles(&handler, list) {
            let stored = format!("portcullis; fwd=uri-miss; stored; ttl={ttl}");
            assert_eq!(app.get("/a").await.cache_status(), stored, "{own} {cdn}");
        }
    }
}

#[tokio::test]
async fn surrogate_control_has_the_priority_of_its_call() {
    let fields = vec![
        ("cache-control", "max-age=3"),
        ("cdn-cache-control", "max-age=2"),
        ("surrogate-control", "max-age=1"),
    ];
    type Configure = fn(CacheLayerBuilder) -> CacheLayerBuilder;
    let lists: [(Configure, u64); 5] = [
        (|builder| builder.surrogate_control().targeted_field(CDN), 1),
        (|builder| builder.targeted_field(CDN).surrogate_control(), 2),
        (CacheLayerBuilder::surrogate_control, 1),
        (|builder| builder.targeted_field("Surrogate-Control"), 1),
        (|builder| builder, 3),
    ];
    for (list, ttl) in lists {
        for app in both_profiles(&with(fields.clone()), list) {
            let stored = format!("portcullis; fwd=uri-miss; stored; ttl={ttl}");
            assert_eq!(app.get("/a").await.cache_status(), stored);
        }
    }
}

#[tokio::test]
async fn surrogate_control_without_a_cache_directive_leaves_cache_control_in_force() {
    for control in ["no-store", "private"] {
        let handler = with(vec![
            ("cache-control", control),
            ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("surrogate-control", "content=\"ESI/1.0\""),
        ]);
        for app in both_profiles(&handler, CacheLayerBuilder::surrogate_control) {
            let status = format!("portcullis; fwd=uri-miss; detail={control}");
            assert_eq!(app.get("/a").await.cache_status(), status);
        }
    }
}

#[tokio::test]
async fn targeted_field_decides_about_sharing_only_where_it_is_listed() {
    for (control, targeted, by_list, by_default) in [
        ("private, max-age=9", "public, max-age=60", true, false),
        ("private, max-age=9", "s-maxage=60", true, false),
        ("public, max-age=60", "private, max-age=60", false, true),
        ("public, max-age=60", "max-age=60", false, true),
    ] {
        let handler = with(vec![
            ("cache-control", control),
            ("cdn-cache-control", targeted),
        ]);
        let shares = |builder: CacheLayerBuilder| builder.share_public_responses(true);
        let listed = both_profiles(&handler, |builder| shares(builder).targeted_field(CDN));
        let unlisted = both_profiles(&handler, shares);
        for (app, is_shared) in listed
            .iter()
            .map(|app| (app, by_list))
            .chain(unlisted.iter().map(|app| (app, by_default)))
        {
            app.send(get_as("/a", &caller("one"))).await;
            assert!(app.send(get_as("/a", &caller("one"))).await.is_hit());
            let seen = app.send(get_as("/a", &caller("two"))).await;
            assert_eq!(seen.is_hit(), is_shared, "{control} {targeted}");
        }
    }
}

/// Returns a handler that confirms its entity tag with these fields on the `304`.
fn revalidating(confirmed: &'static [(&'static str, &'static str)]) -> Handler {
    Handler::new(move |request, call| {
        if request.headers().contains_key("if-none-match") {
            let mut response = response_with(confirmed, "");
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        let fields = &[
            ("cache-control", "max-age=10"),
            ("cdn-cache-control", "max-age=10"),
            ("etag", "\"1\""),
        ];
        response_with(fields, format!("call {call}"))
    })
}

#[tokio::test]
async fn revalidation_updates_freshness_by_the_same_list() {
    for (confirmed, by_list, by_default) in [
        (&[("cdn-cache-control", "max-age=30")][..], 30, 10),
        (&[("cache-control", "max-age=30")][..], 10, 30),
        (&[][..], 10, 10),
    ] {
        let handler = revalidating(confirmed);
        let listed = both_profiles(&handler, |builder| builder.targeted_field(CDN));
        let unlisted = both_profiles(&handler, |builder| builder);
        for (apps, ttl) in [(listed, by_list), (unlisted, by_default)] {
            for app in apps {
                let stored = app.get("/a").await.body;
                app.advance_secs(11);
                let seen = app.get("/a").await;
                let status = format!("portcullis; fwd=stale; fwd-status=304; stored; ttl={ttl}");
                assert_eq!(
                    (seen.cache_status(), seen.body.as_str()),
                    (&*status, &*stored)
                );
            }
        }
    }
}

#[tokio::test]
async fn unlisted_no_store_on_a_304_leaves_the_entry_in_use() {
    let handler = revalidating(&[("cdn-cache-control", "no-store")]);
    for app in both_profiles(&handler, |builder| builder) {
        app.get("/a").await;
        app.advance_secs(11);
        app.get("/a").await;
        assert!(app.get("/a").await.is_hit());
    }
}

#[tokio::test]
async fn unlisted_stale_windows_do_not_apply() {
    let handler = Handler::new(|_, call| {
        let windows = "max-age=10, stale-if-error=600, stale-while-revalidate=600";
        let fields = &[
            ("cache-control", "max-age=10"),
            ("cdn-cache-control", windows),
        ];
        let mut response = response_with(fields, format!("call {call}"));
        if call > 1 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    });
    let app = App::new(handler.clone());
    app.get("/a").await;
    app.advance_secs(11);
    assert_eq!(app.get("/a").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn head_is_answered_from_an_entry_only_under_the_list_that_stored_it() {
    let handler = with(vec![
        ("cache-control", "private"),
        ("cdn-cache-control", "max-age=60"),
    ]);
    for (list, is_hit) in [(Some(CDN), true), (None, false)] {
        let configure = |builder: CacheLayerBuilder| match list {
            Some(name) => builder.targeted_field(name),
            None => builder,
        };
        for app in both_profiles(&handler, configure) {
            app.get("/a").await;
            let head = app.send(request(Method::HEAD, "/a")).await;
            assert_eq!(head.is_hit(), is_hit);
        }
    }
}

#[tokio::test]
async fn entry_is_never_served_by_a_cache_with_another_list() {
    let handler = with(vec![
        ("cache-control", "private, max-age=60"),
        ("cdn-cache-control", "max-age=60"),
        ("own-cache-control", "max-age=60"),
        ("cache-tag", "t"),
    ]);
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let cache = |names: &[&str]| {
        let builder = CacheLayer::secure(store.clone());
        let builder = names
            .iter()
            .fold(builder, |builder, name| builder.targeted_field(*name));
        App::built(handler.clone(), clock.clone(), builder)
    };
    let own = "Own-Cache-Control";
    let lists: [&[&str]; 4] = [&[CDN], &[own], &[own, CDN], &[CDN, own]];
    for list in lists {
        assert!(!cache(list).get("/a").await.is_hit(), "{list:?}");
        assert!(cache(list).get("/a").await.is_hit(), "{list:?}");
        assert!(!cache(&[]).get("/a").await.is_hit(), "{list:?}");
    }
    // Purges and unsafe requests reach the entries of every list.
    let purger = cache(&[]).purger;
    purger
        .purge([Purge::tag("t")], PurgeMode::Hard)
        .await
        .unwrap();
    for list in lists {
        assert!(!cache(list).get("/a").await.is_hit(), "{list:?}");
    }
    cache(&[]).send(request(Method::POST, "/a")).await;
    for list in lists {
        assert!(!cache(list).get("/a").await.is_hit(), "{list:?}");
    }
}

#[tokio::test]
async fn generated_refusal_has_no_targeted_field() {
    let handler = with(vec![
        ("cache-control", "max-age=60"),
        ("cdn-cache-control", "max-age=60"),
        ("other-cache-control", "max-age=60"),
        ("surrogate-control", "max-age=60"),
        ("x-edge-policy", "max-age=60"),
        ("x-other", "1"),
        ("etag", "\"1\""),
    ]);
    let list = |builder: CacheLayerBuilder| builder.targeted_field("X-Edge-Policy");
    for app in both_profiles(&handler, list) {
        app.get("/a").await;
        let seen = app.send(get_with("/a", &[("range", "bytes=99-")])).await;
        assert_eq!((seen.status.as_u16(), seen.is_hit()), (416, true));
        for name in [
            "cache-control",
            "cdn-cache-control",
            "other-cache-control",
            "surrogate-control",
            "x-edge-policy",
        ] {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!(seen.header("x-other"), Some("1"));
    }
}

#[test]
fn invalid_targeted_field_names_are_configuration_errors() {
    for name in ["", " ", "CDN Cache-Control", "é", "a:b", "Cache-Control"] {
        for profile in [CacheLayer::secure, CacheLayer::rfc] {
            let builder = profile(MemoryStore::new()).targeted_field(name);
            let error = builder.build().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`targeted_field` is `{name}`: ")));
        }
    }
    for name in ["CDN-Cache-Control", "cdn-cache-control", "x-edge-policy"] {
        let builder = CacheLayer::secure(MemoryStore::new());
        assert!(
            builder
                .targeted_field(name)
                .targeted_field(name)
                .build()
                .is_ok()
        );
    }
}

#[tokio::test]
async fn several_lines_of_a_targeted_field_are_one_field() {
    let handler = with(vec![
        ("cache-control", "no-store"),
        ("cdn-cache-control", "max-age=60"),
        ("cdn-cache-control", "must-revalidate"),
    ]);
    for app in both_profiles(&handler, |builder| builder.targeted_field(CDN)) {
        app.send(get("/a")).await;
        assert!(app.get("/a").await.is_hit());
    }
}
