//! How the instances that share a store count together.

use std::num::NonZeroU32;

/// How the instances that share a store count together.
///
/// A store in this process's memory always counts exactly.
///
/// | | asks the server | admits too much |
/// |---|---|---|
/// | [`Exact`](Self::Exact) | once for each request | never |
/// | [`Debt`](Self::Debt) | beside the requests, once for some of them | at most what each instance may owe |
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
    /// An instance admits a request by what it knows of the server, without asking, and tells the
    /// server later: when half of what it may owe is admitted, and after a second at the latest.
    ///
    /// What is not yet told is never more than this: then the server is asked. So of a caller that
    /// has spent everything each instance admits at most this much more, whatever the traffic. It
    /// is charged all the same, a bucket's callers repay it: give a bucket's instances together no
    /// more than it holds. A report of which it is not known whether it came is not made again,
    /// and its requests may not be counted.
    ///
    /// While the server is away an instance admits what it may still owe. Of several policies on
    /// one request all must be so; else all are decided by the server. A queue and a log never are.
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
