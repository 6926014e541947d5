//! The sync modes of instances that share a store.

use std::num::NonZeroU32;

/// The sync mode of the instances that share a store.
///
/// An in-memory store always counts exactly.
///
/// | | Server requests | Over-admission |
/// |---|---|---|
/// | [`Exact`](Self::Exact) | one per request | none |
/// | [`Deferred`](Self::Deferred) | in the background, one for several requests | at most `max_unreported` per instance |
/// | [`Leased`](Self::Leased) | one for many requests of a busy caller | none in a window; for a bucket at most half its burst |
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
    /// When the server admits a request, it leases tokens to the instance, which decides the next
    /// requests itself until they are spent. Tokens that are idle for two seconds are returned.
    ///
    /// A lease is the remaining quota divided by twice the number of instances. Leased tokens count
    /// as spent for other instances, so a caller whose traffic moves between instances can be
    /// denied too early for these two seconds.
    ///
    /// The server stores the latest lease of each instance. If its reply is lost, because the
    /// server hangs or the connection closes, the instance returns those tokens with its next
    /// request: neither that nor an outage costs tokens or admits a request twice. An instance that
    /// is killed loses its tokens until the window ends.
    ///
    /// If a request has several policies, all of them must use this mode; otherwise the server
    /// decides. Queues and logs never use it.
    Leased {
        /// The number of instances that share the quota.
        instances: NonZeroU32,
    },
    /// An instance admits requests by its copy of the server's count, and reports them in the
    /// background: when half of `max_unreported` is admitted, and after one second at the latest.
    ///
    /// Unreported amounts never exceed `max_unreported`; beyond that the server decides. Once a
    /// quota is spent, each instance admits at most `max_unreported` more, for any traffic. Those
    /// requests are charged too, and a bucket refills them first. Choose `max_unreported` so that
    /// the total of all instances is at most the capacity of a bucket.
    ///
    /// A report that may have arrived is not sent again, so its requests can remain uncharged. It
    /// counts towards `max_unreported` until its window ends, so lost reports do not raise the
    /// bound. An instance that has lost `max_unreported` sends each request of that partition to
    /// the server until then. An instance that is killed loses its unreported amounts, so each kill
    /// can add `max_unreported` to the bound.
    ///
    /// While the server is unavailable, an instance admits up to the rest of `max_unreported`. If a
    /// request has several policies, all of them must use this mode; otherwise the server decides.
    /// Queues and logs never use it.
    Deferred {
        /// The maximum unreported amount of an instance, per policy and partition.
        max_unreported: NonZeroU32,
    },
}

/// The minimum limit per instance for leases.
const WORTH_A_LEASE: u64 = 100;

/// The minimum limit per instance for deferred reports.
const WORTH_A_DEBT: u64 = 10;

/// The divisor of an instance's limit that yields its `max_unreported`: together, the instances
/// exceed the limit by a twentieth, or by one request each.
const OWES: u64 = 20;

impl SyncMode {
    /// Returns the mode for a limit and a number of instances: leased if the limit per instance is
    /// at least 100, deferred with a twentieth of it if it is at least 10, and exact otherwise.
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
