//! How the instances that share a store count together.

use std::num::NonZeroU32;

/// How the instances that share a store count together.
///
/// A store in this process's memory always counts exactly.
///
/// | | asks the server | admits too much |
/// |---|---|---|
/// | [`Exact`](Self::Exact) | once for each request | never |
/// | [`Deferred`](Self::Deferred) | in the background, once for several of them | at most `max_unreported` for each instance |
/// | [`Leased`](Self::Leased) | once for many requests of a busy caller | never in a window; of a bucket at most half its burst |
///
/// ```
/// use std::num::NonZeroU32;
/// use portcullis::rate_limit::{SyncMode, Policy, Quota};
///
/// let ten = NonZeroU32::new(10).unwrap();
/// let quota = Quota::per_minute(10_000);
/// let busy = Policy::fixed_window("busy", quota)?.with_sync_mode(SyncMode::auto(quota.limit(), ten));
/// assert_eq!(busy.sync_mode(), SyncMode::Leased { instances: ten });
/// assert_eq!(busy.max_over_admission(10), 0);
/// assert_eq!(SyncMode::auto(900, ten), SyncMode::Deferred { max_unreported: NonZeroU32::new(4).unwrap() });
/// assert_eq!(SyncMode::auto(99, ten), SyncMode::Exact);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// Each request is decided by the server.
    #[default]
    Exact,
    /// With a request that it admits, the server leases tokens to the instance, which decides the next
    /// requests itself until they are spent. Tokens that are idle for two seconds are returned.
    ///
    /// A lease is the remaining quota divided by twice the number of instances. Leased tokens count as
    /// spent for other instances, so a caller whose traffic shifts between instances may be denied
    /// too early, for those two seconds.
    ///
    /// The server remembers the latest lease of each instance. If its reply is lost, because the
    /// server hangs or the connection ends, the instance returns those tokens with its next question:
    /// neither that nor an outage costs tokens or admits a request twice. An instance that is killed
    /// loses its tokens until the window ends.
    ///
    /// If a request has several policies, all of them must use this mode; otherwise the server decides.
    /// Queues and logs never use it.
    Leased {
        /// How many instances share the quota.
        instances: NonZeroU32,
    },
    /// An instance admits requests by its view of the server, without asking, and reports them in the
    /// background: once half of `max_unreported` is admitted, and after one second at the latest.
    ///
    /// Amounts that are not yet reported are never more than `max_unreported`; beyond that the server decides.
    /// Once a quota is spent, each instance admits at most `max_unreported` more, whatever the traffic. Those
    /// requests are charged too, and callers of a bucket repay them. Choose `max_unreported` so that all
    /// instances together may owe no more than a bucket holds.
    ///
    /// A report that may or may not have arrived is not sent again, and its requests may stay
    /// uncounted. It counts towards `max_unreported` until its window ends, so lost reports do not raise the
    /// bound. An instance that has lost as much as `max_unreported` asks the server for each request of that
    /// partition until then. An instance that is killed loses its unreported amounts, so each kill
    /// may add `max_unreported` to the bound.
    ///
    /// While the server is unavailable, an instance admits up to the rest of `max_unreported`. If a request has
    /// several policies, all of them must use this mode; otherwise the server decides. Queues and
    /// logs never use it.
    Deferred {
        /// How much an instance may owe, for each policy and partition.
        max_unreported: NonZeroU32,
    },
}

/// From so many for each instance on, leases are worth their while.
const WORTH_A_LEASE: u64 = 100;

/// From so many on, debts are.
const WORTH_A_DEBT: u64 = 10;

/// What an instance may owe, of what there is for it: all together admit a twentieth too much, or
/// one for each instance.
const OWES: u64 = 20;

impl SyncMode {
    /// Chooses by how much of the limit there is for each instance: leases from 100 on, and debts
    /// from 10 on, of a twentieth of it.
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
