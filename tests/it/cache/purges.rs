//! Purges: each removes what it names, and no number of them removes anything else.

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use portcullis::{
    cache::{CacheLayer, CachePurger, CacheStore, Purge, PurgeMode},
    store::{
        MemoryStore,
        backend::{PurgeTarget, StoreKey},
    },
};

use super::cache::{App, Handler, caller, get_as, get_with};
use crate::support::{get, request};

const TAGGED: &[(&str, &str)] = &[
    ("cache-control", "max-age=600"),
    ("cache-tag", "popular, common"),
];
const VARYING: &[(&str, &str)] = &[("cache-control", "max-age=600"), ("vary", "accept")];

/// Far more names than a table of fixed size records apart.
const MANY: usize = 200_000;

/// A cache with an entry of each kind, and the requests that find them.
struct Filled {
    app: App,
    store: MemoryStore,
}

impl Filled {
    async fn new() -> Self {
        let handler = Handler::new(|request, call| {
            let fields = match request.uri().path() {
                "/varying" => VARYING,
                _ => TAGGED,
            };
            super::cache::response_with(fields, format!("call {call}"))
        });
        let store = MemoryStore::new();
        let layer = CacheLayer::secure(store.clone()).build().unwrap();
        let app = App {
            clock: portcullis::ManualClock::default(),
            service: tower::Layer::layer(&layer, handler.clone()),
            handler,
            purger: layer.purger(),
        };
        let filled = Self { app, store };
        for request in filled.requests() {
            filled.app.send(request).await;
        }
        filled
    }

    /// Returns requests for shared pages, variants, and pages of two callers.
    fn requests(&self) -> Vec<Request<Full<Bytes>>> {
        let mut requests: Vec<_> = (0..50)
            .map(|number| get(&format!("http://a/{number}")))
            .collect();
        for accept in ["text/html", "application/json"] {
            requests.push(get_with("http://a/varying", &[("accept", accept)]));
        }
        for name in ["one", "two"] {
            requests.push(get_as("http://a/own", &caller(name)));
        }
        requests
    }

    async fn assert_all_hit(&self) {
        let calls = self.app.handler.calls();
        for request in self.requests() {
            let uri = request.uri().clone();
            assert!(self.app.send(request).await.is_hit(), "{uri} is lost");
        }
        let mut head = request(Method::HEAD, "http://a/1");
        head.headers_mut()
            .insert("accept", HeaderValue::from_static("*/*"));
        assert!(self.app.send(head).await.is_hit());
        assert_eq!(self.app.handler.calls(), calls);
    }

    async fn purge(&self, names: impl IntoIterator<Item = Purge>, mode: PurgeMode) {
        self.app.purger.purge(names, mode).await.unwrap();
    }
}

async fn purge_made_up_names(store: &MemoryStore, mode: PurgeMode) {
    let key = |number: usize| {
        let digest = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        StoreKey::from_bytes(digest.to_le_bytes())
    };
    for number in 0..MANY {
        let target = match number % 3 {
            0 => PurgeTarget::Tag(key(number)),
            1 => PurgeTarget::Partition(key(number)),
            _ => PurgeTarget::Uri(key(number)),
        };
        CacheStore::purge(store, &[target], mode).await.unwrap();
    }
}

#[tokio::test]
async fn unsafe_requests_to_made_up_urls_remove_no_entry() {
    let filled = Filled::new().await;
    for number in 0..20_000 {
        let post = request(Method::POST, &format!("http://a/login?{number}"));
        filled.app.send(post).await;
    }
    filled.assert_all_hit().await;
}

#[tokio::test]
async fn purges_of_made_up_names_neither_remove_nor_expire_an_entry() {
    let filled = Filled::new().await;
    for mode in [PurgeMode::Hard, PurgeMode::Soft] {
        purge_made_up_names(&filled.store, mode).await;
        filled.assert_all_hit().await;
    }
}

#[tokio::test]
async fn repeated_purges_of_one_other_name_remove_no_entry() {
    let filled = Filled::new().await;
    let url: http::Uri = "http://a/other".parse().unwrap();
    for mode in [PurgeMode::Hard, PurgeMode::Soft] {
        for _ in 0..20_000 {
            let names = [Purge::uri(url.clone()), Purge::tag("other")];
            filled.purge(names, mode).await;
        }
    }
    let stranger = Purge::Caller(caller("three"));
    filled.purge([stranger], PurgeMode::Hard).await;
    filled.assert_all_hit().await;
}

#[tokio::test]
async fn purge_reaches_what_it_names_after_any_number_of_others() {
    let url = || Purge::uri("http://a/7".parse().unwrap());
    let named: [(Purge, &[usize]); 4] = [
        (url(), &[7]),
        (Purge::Caller(caller("two")), &[53]),
        (Purge::tag("popular"), &[0, 7, 49, 52, 53]),
        (Purge::All, &[0, 7, 49, 50, 51, 52, 53]),
    ];
    for (name, gone) in named {
        let filled = Filled::new().await;
        purge_made_up_names(&filled.store, PurgeMode::Hard).await;
        filled.purge([name.clone()], PurgeMode::Hard).await;
        purge_made_up_names(&filled.store, PurgeMode::Soft).await;
        for at in [0, 7, 49, 50, 51, 52, 53] {
            let request = filled.requests().swap_remove(at);
            let is_hit = filled.app.send(request).await.is_hit();
            assert_eq!(is_hit, !gone.contains(&at), "{name:?}, {at}");
        }
        for request in filled.requests() {
            filled.app.send(request).await;
        }
        filled.assert_all_hit().await;
    }
}

#[tokio::test]
async fn entries_of_a_popular_tag_survive_purges_of_other_tags_and_of_each_other() {
    let filled = Filled::new().await;
    // Each of these also carries the popular tag.
    for number in 1..50 {
        let url = format!("http://a/{number}").parse().unwrap();
        filled.purge([Purge::uri(url)], PurgeMode::Hard).await;
    }
    for number in 0..20_000 {
        let tag = Purge::tag(format!("tag {number}"));
        filled.purge([tag], PurgeMode::Hard).await;
    }
    assert!(filled.app.get("http://a/0").await.is_hit());
}

/// Purges while the origin responds.
async fn fill_during(purge: impl Fn(&CachePurger) + Send + Sync + 'static) -> bool {
    let store = MemoryStore::new();
    let layer = CacheLayer::secure(store).build().unwrap();
    let purger = layer.purger();
    let handler = Handler::new(move |_, call| {
        if call == 1 {
            purge(&purger);
        }
        super::cache::response_with(TAGGED, format!("call {call}"))
    });
    let app = App {
        clock: portcullis::ManualClock::default(),
        service: tower::Layer::layer(&layer, handler.clone()),
        handler,
        purger: layer.purger(),
    };
    app.get("http://a/1").await;
    app.get("http://a/1").await.is_hit()
}

#[tokio::test]
async fn fill_is_stored_unless_its_own_name_is_purged_meanwhile() {
    let others = |purger: &CachePurger| {
        for number in 0..100 {
            let tag = Purge::tag(format!("tag {number}"));
            let url = format!("http://a/other/{number}").parse().unwrap();
            drop(purger.purge([tag, Purge::uri(url)], PurgeMode::Hard));
        }
    };
    assert!(fill_during(others).await);
    let own: [fn() -> Purge; 4] = [
        || Purge::uri("http://a/1".parse().unwrap()),
        || Purge::tag("popular"),
        || Purge::tag("common"),
        || Purge::All,
    ];
    for name in own {
        let purge = move |purger: &CachePurger| {
            others(purger);
            drop(purger.purge([name()], PurgeMode::Hard));
            others(purger);
        };
        assert!(!fill_during(purge).await, "{:?}", name());
    }
}
