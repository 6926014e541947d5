//! Replacement of policies and carry-over of their counts.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use super::policy::{Policy, Previous};
use crate::{
    core::{error::ConfigError, time::Timestamp},
    rate_limit::decision::algorithm::{Log, State},
};

/// The maximum number of successive window changes that are carried over.
const CHANGES_MAX: usize = 4;

impl Policy {
    /// Declares that this policy replaces a policy with a different window, so that callers do not
    /// start with a full quota after a deployment.
    ///
    /// The previous policy must have the same algorithm as this policy. It must also have the name
    /// and [scope](Self::scope) under which its usage was counted. When this policy is first used,
    /// the existing usage of each partition carries over. That usage counts for at most the time in
    /// which the entire quota refills; see [Changing a quota](Self#changing-a-quota). Instances
    /// that still use the previous policy are not affected. Remove the call once all instances use
    /// the new policy.
    ///
    /// The call is not needed if only the limit or the burst changes, or if you use
    /// [`RateLimitHandle::replace_policies`](crate::rate_limit::RateLimitHandle::replace_policies).
    ///
    /// ```
    /// use portcullis::rate_limit::{Policy, Quota};
    ///
    /// let previous = Policy::token_bucket("calls", Quota::per_second(10))?;
    /// let calls = Policy::token_bucket("calls", Quota::per_hour(1_000))?.replacing(&previous)?;
    /// # let _ = calls;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the algorithms of the two policies differ.
    pub fn replacing(mut self, previous: &Self) -> Result<Self, ConfigError> {
        if self.algorithm.letter() != previous.algorithm.letter() {
            return Err(ConfigError::new(
                "replacing",
                &previous.name,
                "the previous policy has another algorithm",
            )
            .fix("use the same algorithm, or drop the call to start with a full quota"));
        }
        self.previous = Previous::of(previous, self.id);
        Ok(self)
    }

    /// Returns this policy as the successor of another policy with the same name and algorithm.
    pub(super) fn succeeding(&self, previous: Option<&Self>) -> Self {
        let same = |previous: &&Self| {
            previous.name == self.name
                && previous.scope == self.scope
                && previous.algorithm.letter() == self.algorithm.letter()
        };
        let previous = match previous.filter(same).map(Self::last_used) {
            Some(_) if self.previous.is_some() => self.previous.clone(),
            // The policy itself is active again.
            Some(previous) if previous.id == self.id => previous.previous.clone(),
            Some(previous) => Previous::of(previous, self.id),
            None => self.previous.clone(),
        };
        Self {
            previous,
            ..self.clone()
        }
    }

    /// Returns the latest policy that has decided a request, among this policy and the policies
    /// that it replaces.
    fn last_used(&self) -> &Self {
        match &self.previous {
            Some(previous) if previous.changed_at.get().is_none() => previous.policy.last_used(),
            Some(_) | None => self,
        }
    }

    /// Returns this policy without the policies that it [replaces](Self::replacing), for a store
    /// that has carried over their usage.
    #[must_use]
    pub fn without_previous(&self) -> Self {
        Self {
            previous: None,
            ..self.clone()
        }
    }

    /// Returns the policy with at most `changes` replaced policies.
    fn trimmed(&self, changes: usize) -> Self {
        let trim = |previous: &Arc<Previous>| {
            Arc::new(Previous {
                policy: previous.policy.trimmed(changes - 1),
                changed_at: previous.changed_at.clone(),
            })
        };
        Self {
            previous: self.previous.as_ref().filter(|_| changes > 0).map(trim),
            ..self.clone()
        }
    }

    /// Returns this policy and the policies that it replaces, latest first.
    pub(crate) fn with_previous(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |policy| Some(&policy.previous.as_ref()?.policy))
    }

    /// Returns the [`CarriedCounts`], if any, that a store must apply before it decides with this
    /// policy.
    #[inline]
    pub fn carry(&self, now: Timestamp) -> Option<CarriedCounts<'_>> {
        self.previous.as_ref()?.carry(self, now)
    }

    /// Returns `true` if the policy [replaces](Self::replacing) another one.
    #[inline]
    #[cfg_attr(
        not(any(feature = "memory", feature = "redis")),
        allow(dead_code, reason = "our stores alone ask it")
    )]
    pub(crate) fn has_previous(&self) -> bool {
        self.previous.is_some()
    }
}

impl Previous {
    /// Returns the policy to carry over from, or `None` if that policy counts under the same id.
    fn of(policy: &Policy, id: u64) -> Option<Arc<Self>> {
        (policy.id != id).then(|| {
            Arc::new(Self {
                policy: policy.trimmed(CHANGES_MAX - 1),
                changed_at: OnceLock::new(),
            })
        })
    }

    /// Returns the share of one instance, if such a share can be counted.
    pub(super) fn divided(&self, share: NonZeroU32) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            policy: self.policy.divided(share).ok()?,
            changed_at: OnceLock::new(),
        }))
    }

    fn carry<'a>(&'a self, policy: &'a Policy, now: Timestamp) -> Option<CarriedCounts<'a>> {
        let changed_at = *self.changed_at.get_or_init(|| now);
        let elapsed = (now - changed_at).as_micros();
        // The overdraft of a bucket is at most its capacity.
        (elapsed < 2 * u128::from(policy.algorithm.horizon_micros())).then_some(CarriedCounts {
            policy,
            previous: &self.policy,
            changed_at,
        })
    }
}

/// The usage that a store carries over to a policy that [replaces](Policy::replacing) another one.
///
/// Before a store decides with a policy, the store must call [`Policy::carry`]. If that call
/// returns a carry-over, the store first applies the carry-over of the [previous](Self::previous)
/// policy, if any. It then replaces the state of the policy with the result of
/// [`state`](Self::state). Applying a carry-over twice is harmless.
#[derive(Clone, Copy, Debug)]
pub struct CarriedCounts<'a> {
    policy: &'a Policy,
    previous: &'a Policy,
    changed_at: Timestamp,
}

impl<'a> CarriedCounts<'a> {
    /// Returns the replaced policy.
    pub fn previous(&self) -> &'a Policy {
        self.previous
    }

    /// Returns the time of the replacement.
    pub fn changed_at(&self) -> Timestamp {
        self.changed_at
    }

    /// Returns the new state of the policy, computed from its own state and the state of the
    /// previous policy.
    pub fn state(&self, own: State, previous: State, now: Timestamp) -> State {
        let (to, from) = (&self.policy.algorithm, &self.previous.algorithm);
        to.carry(own, from, previous, self.changed_at, now)
    }

    /// Charges the usage in the previous policy's log to the policy's own log.
    pub fn log(&self, own: &mut Log, mut previous: Log, now: Timestamp) {
        let (to, from) = (&self.policy.algorithm, &self.previous.algorithm);
        to.carry_log(own, from, &mut previous, self.changed_at, now);
    }
}
