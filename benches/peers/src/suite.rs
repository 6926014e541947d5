//! The cases of each suite.

use crate::harness::Case;
use crate::workload::{bare_anonymous, bare_router, bare_service_fn};
use crate::{ours, peers};

#[derive(Clone, Copy)]
pub enum Suite {
    Limits,
    Keys,
    Cache,
    Log,
    Stack,
    Http,
    Redis,
    Purges,
}

impl Suite {
    const ALL: [(&'static str, Self); 8] = [
        ("limits", Self::Limits),
        ("keys", Self::Keys),
        ("cache", Self::Cache),
        ("log", Self::Log),
        ("stack", Self::Stack),
        ("http", Self::Http),
        ("redis", Self::Redis),
        ("purges", Self::Purges),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, suite)| *suite)
    }

    pub fn names() -> String {
        Self::ALL.map(|(name, _)| name).join("|")
    }

    /// Returns the rows of the suite, grouped by case: bare, ours, peers.
    pub fn cases(self) -> Vec<Case> {
        let parts = match self {
            Self::Limits => vec![
                vec![
                    bare_service_fn("layer/service_fn"),
                    bare_router("layer/router"),
                ],
                ours::limits::cases(),
                peers::tower_governor::cases(),
                peers::governor::cases(),
                peers::axum_gcra::cases(),
                peers::limitador::cases(),
            ],
            Self::Keys => vec![
                vec![bare_service_fn("keys")],
                ours::keys::cases(),
                peers::hmac::cases(),
                peers::tower_http_auth::cases(),
            ],
            Self::Cache => vec![
                vec![bare_anonymous("cache")],
                ours::cache::cases(),
                ours::cache_store::cases(),
                peers::cache_floor::cases(),
                peers::axum_response_cache::cases(),
                peers::http_cache::cases(),
                peers::tower_http_cache::cases(),
                peers::stores::cases(),
            ],
            Self::Log => vec![
                vec![bare_service_fn("log")],
                ours::log::cases(),
                peers::tower_http_trace::cases(),
            ],
            Self::Stack => vec![ours::stack::cases()],
            Self::Http => vec![ours::http::cases()],
            Self::Redis => vec![ours::redis::cases()],
            Self::Purges => vec![ours::purges::cases()],
        };
        grouped(parts.into_iter().flatten().collect())
    }
}

/// Groups the rows of a case, so that they run and print in sequence.
fn grouped(cases: Vec<Case>) -> Vec<Case> {
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    let mut cases = cases;
    cases.sort_by_key(|case| names.iter().position(|name| *name == case.name));
    cases
}
