//! The handle on the limits of a layer that is in use.

use std::{sync::Arc, time::Duration};

use super::{
    config::{Answer, Config},
    config_notices,
    own_sets::OwnSets,
    paid::{Costs, Paid},
    policy::Policy,
    policy_set::{PolicySet, Tiers},
    request_head::RequestHead,
    wanted::Wanted,
};
use crate::{
    error::{ConfigError, StoreError},
    record::RateLimitOutcome,
};

/// The limits of a layer that is in use, to be changed; from
/// [`RateLimitLayer::limits`](super::RateLimitLayer::limits).
#[derive(Clone, Debug)]
pub struct Limits {
    config: Arc<Config>,
}

/// What was taken beside the requests, by [`Limits::take`].
#[derive(Debug)]
#[must_use = "it says whether it was admitted"]
pub struct Taken {
    outcome: RateLimitOutcome,
    paid: Option<Paid>,
}

impl Limits {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// Replaces the active policies and tiers, for all requests from now on and all services that
    /// the layer has made.
    ///
    /// The change refills no quota where a policy keeps its name, its [scope](Policy::scope) and its
    /// algorithm. A window keeps its count: 10 used of 10 become 10 used of 1000. A bucket keeps the
    /// share that is left: a spent one stays spent, and a half-full one stays half full. If the window
    /// changes, other layers and instances that use the previous policy are not affected; see
    /// [`Policy::replacing`].
    ///
    /// # Errors
    ///
    /// If they are not what [`build`](super::RateLimitLayerBuilder::build) would take. Then nothing changes.
    pub fn replace(
        &self,
        policies: impl IntoIterator<Item = Policy>,
        tiers: Option<Tiers>,
    ) -> Result<(), ConfigError> {
        let (policies, tiers) = self.config.sets.successors(policies, tiers);
        let (config, own) = (&self.config, self.config.own.as_ref());
        let sets = Wanted {
            policies: &policies,
            tiers: tiers.as_ref(),
            reads: own.map(OwnSets::reads).unwrap_or_default(),
            store: &*config.store,
            ban: config.bans.as_ref().map(|bans| bans.policy()),
            on_store_error: &config.on_store_error,
            has_runtime: config.runtime.is_some(),
            others_are_chosen: config.policies_by.is_some(),
        }
        .sets()?
        .with_tiers_by_function(self.config.tier_by.is_some());
        config_notices::Limits {
            sets: &sets,
            tiers: tiers.as_ref(),
            share: config.on_store_error.share()?,
            has_penalty_for_denials: config.bans.as_ref().is_some_and(|bans| !bans.counts_auth()),
            has_others: config.policies_by.is_some() || config.own.is_some(),
        }
        .report();
        self.config.sets.replace(sets);
        Ok(())
    }

    /// Returns what is left of each policy to the partition of a request with this head, and charges
    /// nothing; `None` if no policy applies to it.
    ///
    /// The request is not looked up on lists, and not by
    /// [`policies_by`](super::RateLimitLayerBuilder::policies_by): so for the others here.
    ///
    /// # Errors
    ///
    /// If the store fails; so for the others.
    pub async fn peek(
        &self,
        head: &RequestHead<'_>,
    ) -> Result<Option<RateLimitOutcome>, StoreError> {
        let Some((partition, set)) = self.config.find(head) else {
            return Ok(None);
        };
        let peeked = self.config.peek(&partition, &set).await?;
        Ok(Some(self.config.outcome(Answer::Store(&peeked), &set)))
    }

    /// Takes what a request with this head would be charged at this cost, beside the requests: for a
    /// job, or for a message of a connection that stays open. Admitted by all policies or charged to
    /// none; `None` if no policy applies to it.
    ///
    /// Who has to wait for a turn in a [queue](Policy::leaky_queue) sees to it:
    /// [`delayed`](RateLimitOutcome::delayed) says for how long. A denial counts for no
    /// [ban](super::Penalty), and a ban denies nobody here.
    ///
    /// ```
    /// use portcullis::{
    ///     Identity,
    ///     rate_limit::{Partition, Policy, Quota, RateLimitLayer, RequestHead},
    ///     store::MemoryStore,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
    ///     .policy(Policy::fixed_window("messages", Quota::per_minute(10))?)
    ///     .build()?;
    /// # let mut upgrade = http::Request::new(());
    /// # upgrade.extensions_mut().insert(Identity::trusted("k1").build());
    /// let (limits, head) = (layer.limits(), RequestHead::of(&upgrade));
    /// let taken = limits.take(&head, 4).await?.expect("its caller is known");
    /// assert!(taken.is_admitted());
    /// // Three of the four messages came to nothing.
    /// limits.refund(taken, 3).await?;
    /// assert_eq!(limits.peek(&head).await?.unwrap().policies[0].remaining, 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails; no other is asked in its place.
    pub async fn take(
        &self,
        head: &RequestHead<'_>,
        cost: u64,
    ) -> Result<Option<Taken>, StoreError> {
        let Some((partition, set)) = self.config.find(head) else {
            return Ok(None);
        };
        let taken = self.config.take_beside(&partition, &set, cost).await?;
        let (answer, costs) = (Answer::Store(&taken), costs_of(&set, cost));
        let delayed = match taken.is_admitted() {
            true => set.delay(&costs, &taken),
            false => Duration::ZERO,
        };
        let outcome = RateLimitOutcome {
            delayed,
            ..self.config.outcome(answer, &set)
        };
        let paid = match taken.is_admitted() {
            true => self.config.paid(answer, partition, &set, &costs),
            false => None,
        };
        Ok(Some(Taken { outcome, paid }))
    }

    /// Gives back so much of what was taken, and no more than that was. It never reaches a later
    /// window than that in which it was taken; of what was denied there is nothing to give back.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn refund(&self, taken: Taken, amount: u64) -> Result<(), StoreError> {
        match &taken.paid {
            Some(paid) => paid.refund(amount).await,
            None => Ok(()),
        }
    }

    /// Charges each policy of a request with this head what has been used already, whether it is
    /// left or not.
    ///
    /// # Errors
    ///
    /// Also if the store cannot [charge](super::RateLimitStore::charge).
    pub async fn charge(&self, head: &RequestHead<'_>, cost: u64) -> Result<(), StoreError> {
        match self.config.find(head) {
            Some((partition, set)) => self.config.charge(&partition, &set, cost).await,
            None => Ok(()),
        }
    }

    /// Forgets what the partition of a request with this head has used of its policies, and a ban
    /// of it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn reset(&self, head: &RequestHead<'_>) -> Result<(), StoreError> {
        match self.config.find(head) {
            Some((partition, set)) => self.config.reset(&partition, &set).await,
            None => Ok(()),
        }
    }
}

impl Taken {
    /// Returns whether it was admitted, and so charged.
    pub fn is_admitted(&self) -> bool {
        self.paid.is_some()
    }

    /// Returns what each policy said.
    pub fn outcome(&self) -> &RateLimitOutcome {
        &self.outcome
    }
}

/// Returns what each policy is asked for that costs all the same.
fn costs_of(set: &PolicySet, cost: u64) -> Costs {
    set.policies().iter().map(|_| cost).collect()
}
