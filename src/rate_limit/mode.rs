//! How the instances that share a store count together.

use std::num::NonZeroU32;

/// How the instances that share a store count together.
///
/// A store in this process's memory always counts exactly.
///
/// | | asks the server | admits too much |
/// |---|---|---|
/// | [`Exact`](Self::Exact) | once for each request | never |
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
/// assert_eq!(Mode::auto(100, ten), Mode::Exact);
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
}

/// From so many for each instance on, leases are worth their while.
const WORTH_A_LEASE: u64 = 100;

impl Mode {
    /// Chooses by how much of the limit there is for each instance: leases from 100 on.
    pub fn auto(limit: u64, instances: NonZeroU32) -> Self {
        if limit / u64::from(instances.get()) >= WORTH_A_LEASE {
            Self::Lease { instances }
        } else {
            Self::Exact
        }
    }
}
