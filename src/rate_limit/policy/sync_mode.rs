//! The synchronization of counts between instances that share a store.

use std::num::NonZeroU32;

/// The synchronization mode of instances that share a store.
///
/// An in-memory store always counts exactly.
///
/// | Mode | Server requests | Over-admission |
/// |---|---|---|
/// | [`Exact`](Self::Exact) | one per request | none |
/// | [`Deferred`](Self::Deferred) | in the background, one for several requests | at most `max_unreported` per instance |
/// | [`Leased`](Self::Leased) | one for many requests from a busy caller | none in a window; for a bucket at most half its burst |
///
/// ```
/// use std::num::NonZeroU32;
/// use portcullis::rate_limit::{SyncMode, Policy, Quota};
///
/// let ten = NonZeroU32::new(10).unwrap();
/// let quota = Quota::per_minute(10_000);
/// let mode = SyncMode::auto(quota.limit(), ten);
/// let busy = Policy::fixed_window("busy", quota)?.with_sync_mode(mode);
/// assert_eq!(busy.sync_mode(), SyncMode::Leased { instances: ten });
/// assert_eq!(busy.max_over_admission(10), 0);
/// let four = NonZeroU32::new(4).unwrap();
/// assert_eq!(SyncMode::auto(900, ten), SyncMode::Deferred { max_unreported: four });
/// assert_eq!(SyncMode::auto(99, ten), SyncMode::Exact);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// The server decides each request.
    #[default]
    Exact,
    /// When the server admits a request, it also leases tokens to the instance. The instance
    /// decides subsequent requests itself until the leased tokens are spent. Tokens that are idle
    /// for two seconds are returned.
    ///
    /// The size of a lease is the remaining quota divided by twice the number of instances. Leased
    /// tokens count as spent for other instances. A caller whose traffic moves between instances
    /// can therefore be denied too early during these two seconds.
    ///
    /// The server stores the latest lease of each instance. If the reply that contains a lease is
    /// lost, because the server hangs or the connection closes, the instance returns those tokens
    /// with its next request. Neither a lost reply nor an outage costs tokens or admits a request
    /// twice. An instance that is killed loses its tokens until the window ends.
    ///
    /// If several policies apply to a request, all of them must use this mode; otherwise, the
    /// server decides. Queues and logs never use this mode.
    Leased {
        /// The number of instances that share the quota.
        instances: NonZeroU32,
    },
    /// An instance decides requests with its copy of the server's count and reports admitted
    /// amounts in the background. It reports when the unreported amount reaches half of
    /// `max_unreported`, and after one second at the latest.
    ///
    /// The unreported amount never exceeds `max_unreported`. If a request would exceed this
    /// maximum, the server decides the request. Once a quota is spent, each instance admits at most
    /// `max_unreported` more, regardless of traffic. Those requests are charged too: a bucket must
    /// refill their total amount before it admits another request. For a bucket, choose
    /// `max_unreported` so that its sum across all instances is at most the bucket's capacity.
    ///
    /// A report that may have reached the server is not sent again, so the requests in a lost
    /// report remain uncharged. The lost report counts toward `max_unreported` until its window
    /// ends, so lost reports do not raise the bound. Once an instance's lost reports for a
    /// partition add up to `max_unreported`, the server decides that partition's requests until the
    /// window ends. An instance that is killed loses its unreported amounts, so each kill can add
    /// `max_unreported` to the bound.
    ///
    /// While the server is unavailable, an instance admits up to the unused part of
    /// `max_unreported`. If several policies apply to a request, all of them must use this mode;
    /// otherwise, the server decides. Queues and logs never use this mode.
    Deferred {
        /// The maximum amount that an instance can leave unreported, per policy and partition.
        max_unreported: NonZeroU32,
    },
}

/// The minimum limit per instance for the leased mode.
const WORTH_A_LEASE: u64 = 100;

/// The minimum limit per instance for the deferred mode.
const WORTH_A_DEBT: u64 = 10;

/// The divisor that yields `max_unreported` from an instance's limit. The instances together exceed
/// the limit by at most a twentieth, or by one request each.
const OWES: u64 = 20;

impl SyncMode {
    /// Returns a suitable mode for a limit and a number of instances. If the limit per instance is
    /// at least 100, the mode is [`Leased`](Self::Leased). If the limit per instance is from 10 to
    /// 99, the mode is [`Deferred`](Self::Deferred), and `max_unreported` is a twentieth of that
    /// limit, but at least 1. Otherwise, the mode is [`Exact`](Self::Exact).
    pub fn auto(limit: u64, instances: NonZeroU32) -> Self {
        match limit / u64::from(instances.get()) {
            WORTH_A_LEASE.. => Self::Leased { instances },
            each @ WORTH_A_DEBT.. => Self::Deferred {
                max_unreported: u32::try_from(each / OWES)
                    .ok()
                    .and_then(NonZeroU32::new)
                    .unwrap_or(NonZeroU32::MIN),
            },
            _ => Self::Exact,
        }
    }
}
