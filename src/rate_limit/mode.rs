//! How the instances that share a store count together.

use std::num::NonZeroU32;

/// How the instances that share a store count together.
///
/// A store in this process's memory always counts exactly.
///
/// | | asks the server | admits too much |
/// |---|---|---|
/// | [`Exact`](Self::Exact) | once for each request | never |
/// | [`Debt`](Self::Debt) | in the background, once for several of them | at most `most` for each instance |
/// | [`Lease`](Self::Lease) | once for many requests of a busy caller | never in a window; of a bucket at most half its burst |
///
/// ```
/// use std::num::NonZeroU32;
/// use portcullis::rate_limit::{Mode, Policy, Quota};
///
/// let ten = NonZeroU32::new(10).unwrap();
/// let quota = Quota::per_minute(10_000);
/// let busy = Policy::fixed_window("busy", quota)?.mode(Mode::auto(quota.limit(), ten));
/// assert_eq!(busy.counting_mode(), Mode::Lease { instances: ten });
/// assert_eq!(busy.max_over_admission(10), 0);
/// assert_eq!(Mode::auto(900, ten), Mode::Debt { most: NonZeroU32::new(4).unwrap() });
/// assert_eq!(Mode::auto(99, ten), Mode::Exact);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Each request is decided by the server.
    #[default]
    Exact,
    /// With a request that is admitted an instance takes some of what is left ahead, and decides
    /// the next ones itself until that is spent; what lies idle for two seconds goes back.
    ///
    /// An instance takes what is left divided by twice the instances. Another one is told meanwhile
    /// that this is spent: it may deny what would be admitted if all were counted together, of a
    /// caller whose traffic shifts between instances, for those two seconds.
    ///
    /// Of several policies on one request all must be leased; else all are decided by the server.
    /// A queue and a log are never leased.
    Lease {
        /// How many instances share the quota.
        instances: NonZeroU32,
    },
    /// An instance admits requests by its view of the server, without asking, and reports them in the
    /// background: once half of `most` is admitted, and after one second at the latest.
    ///
    /// Amounts that are not yet reported are never more than `most`; beyond that the server decides.
    /// Once a quota is spent, each instance admits at most `most` more, whatever the traffic. Those
    /// requests are charged too, and callers of a bucket repay them. Choose `most` so that all
    /// instances together may owe no more than a bucket holds.
    ///
    /// A report that may or may not have arrived is not sent again, and its requests may stay
    /// uncounted. It counts towards `most` until its window ends, so lost reports do not raise the
    /// bound. An instance that has lost as much as `most` asks the server for each request of that
    /// partition until then. An instance that is killed loses its unreported amounts, so each kill
    /// may add `most` to the bound.
    ///
    /// While the server is unavailable, an instance admits up to the rest of `most`. If a request has
    /// several policies, all of them must use this mode; otherwise the server decides. Queues and
    /// logs never use it.
    Debt {
        /// How much an instance may owe, for each policy and partition.
        most: NonZeroU32,
    },
}

/// From so many for each instance on, leases are worth their while.
const WORTH_A_LEASE: u64 = 100;

/// From so many on, debts are.
const WORTH_A_DEBT: u64 = 10;

/// What an instance may owe, of what there is for it: all together admit a twentieth too much, or
/// one for each instance.
const OWES: u64 = 20;

impl Mode {
    /// Chooses by how much of the limit there is for each instance: leases from 100 on, and debts
    /// from 10 on, of a twentieth of it.
    pub fn auto(limit: u64, instances: NonZeroU32) -> Self {
        match limit / u64::from(instances.get()) {
            WORTH_A_LEASE.. => Self::Lease { instances },
            each @ WORTH_A_DEBT.. => Self::Debt {
                most: u32::try_from(each / OWES)
                    .ok()
                    .and_then(NonZeroU32::new)
                    .unwrap_or(NonZeroU32::MIN),
            },
            _ => Self::Exact,
        }
    }
}
