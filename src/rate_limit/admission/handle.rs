//! The handle that reads and changes a layer's limits at runtime.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    charged::{Costs, Paid},
    ruling::Ruling,
};
use crate::{
    core::{
        error::{ConfigError, StoreError},
        record::RateLimitOutcome,
    },
    rate_limit::{
        config::RateLimitConfig,
        failover::stores::{DecidingStore, equal_charges},
        policy::{overrides::OwnSets, policy::Policy, spec::LimitSpec, tiers::Tiers},
        request_head::RequestHead,
    },
};

/// A handle that reads and changes a layer's limits at runtime. Created by
/// [`RateLimitLayer::handle`](crate::rate_limit::RateLimitLayer::handle).
#[derive(Clone, Debug)]
pub struct RateLimitHandle {
    config: Arc<RateLimitConfig>,
}

/// The result of [`RateLimitHandle::take`].
#[derive(Debug)]
#[must_use = "the charge may have been denied"]
pub struct Reservation {
    outcome: RateLimitOutcome,
    paid: Option<Paid>,
}

impl RateLimitHandle {
    pub(crate) fn new(config: Arc<RateLimitConfig>) -> Self {
        Self { config }
    }

    /// Replaces the active policies and tiers in all services that the layer has created.
    ///
    /// Replacing a policy does not refill the quota if the name, the [scope](Policy::scope) and the
    /// algorithm are unchanged. A window retains its count: after 10 of 10 requests are used,
    /// raising the limit to 1000 leaves 990. A bucket retains its remaining share: an empty bucket
    /// stays empty, and a half-full bucket stays half full. If the window changes, other layers and
    /// instances that use the previous policy are not affected; see [`Policy::replacing`].
    ///
    /// # Errors
    ///
    /// Returns an error if [`build`](crate::rate_limit::RateLimitLayerBuilder::build) would reject
    /// the policies or tiers. In that case, the active policies and tiers remain in effect.
    pub fn replace_policies(
        &self,
        policies: impl IntoIterator<Item = Policy>,
        tiers: Option<Tiers>,
    ) -> Result<(), ConfigError> {
        let charging = &self.config.charging;
        let (policies, tiers) = charging.sets.successors(policies, tiers);
        let spec = LimitSpec {
            policies: &policies,
            tiers: tiers.as_ref(),
            reads: charging
                .own
                .as_ref()
                .map(OwnSets::reads)
                .unwrap_or_default(),
            bans: self.config.bans.as_deref(),
            stores: &self.config.stores.options,
            charging: &charging.options,
        };
        charging.sets.replace(spec.sets()?);
        Ok(())
    }

    /// Returns the remaining quota for a request with this head, or `None` if no policy applies to
    /// the request.
    ///
    /// No method of the handle consults caller lists or
    /// [`policies_with`](crate::rate_limit::RateLimitLayerBuilder::policies_with).
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn peek(
        &self,
        head: &RequestHead<'_>,
    ) -> Result<Option<RateLimitOutcome>, StoreError> {
        let Some((partition, set)) = self.config.charging.find(head) else {
            return Ok(None);
        };
        let store = &self.config.stores.background;
        let peeked = store.peek(&partition, &equal_charges(&set, 0)).await?;
        let ruling = Ruling::from_decisions(&peeked, &set);
        Ok(Some(ruling.outcome(Duration::ZERO)))
    }

    /// Charges the cost to each policy that applies to a request with this head. Returns `None` if
    /// no policy applies to the request. Use this method for background jobs and for messages on a
    /// long-lived connection.
    ///
    /// If one policy denies, none is charged. This method does not wait for the request's turn in a
    /// [queue](Policy::leaky_queue). Before you start the work, sleep for
    /// [`delayed`](RateLimitOutcome::delayed). A denial does not count toward a
    /// [ban](crate::rate_limit::Penalty), and bans do not apply.
    ///
    /// ```
    /// use portcullis::{
    ///     Identity, RequestHead,
    ///     rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    ///     store::MemoryStore,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
    ///     .policy(Policy::fixed_window("messages", Quota::per_minute(10))?)
    ///     .build()?;
    /// let mut upgrade = http::Request::new(());
    /// // The API-key layer inserts it.
    /// upgrade.extensions_mut().insert(Identity::builder("k1").build());
    /// let (limits, head) = (layer.handle(), RequestHead::from(&upgrade));
    /// let taken = limits.take(&head, 4).await?.expect("its caller is known");
    /// assert!(taken.is_admitted());
    /// // Three of the four messages failed.
    /// limits.refund(taken, 3).await?;
    /// assert_eq!(limits.peek(&head).await?.unwrap().policies()[0].remaining, 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. The local store is not used as a fallback.
    pub async fn take(
        &self,
        head: &RequestHead<'_>,
        cost: u64,
    ) -> Result<Option<Reservation>, StoreError> {
        let Some((partition, set)) = self.config.charging.find(head) else {
            return Ok(None);
        };
        let stores = &self.config.stores;
        let reply = stores
            .background
            .take(&partition, &equal_charges(&set, cost));
        let reply = reply.await?;
        let ruling = Ruling::from_decisions(&reply, &set);
        let costs: Costs = set.policies().iter().map(|_| cost).collect();
        let charged = ruling.charged().map(|decisions| {
            stores.charged(&DecidingStore::Main, partition, &set, &costs, decisions)
        });
        Ok(Some(Reservation {
            outcome: ruling.outcome(ruling.delay(&costs)),
            paid: charged,
        }))
    }

    /// Refunds an amount to each policy, but at most the amount that was charged. The refund
    /// applies only to the window of the charge.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn refund(&self, taken: Reservation, amount: u64) -> Result<(), StoreError> {
        match &taken.paid {
            Some(paid) => paid.refund(amount).await,
            None => Ok(()),
        }
    }

    /// Charges usage that has already occurred. The amount is charged to each policy that applies
    /// to a request with this head, even beyond the remaining quota.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails or does not support
    /// [`charge`](crate::rate_limit::RateLimitStore::charge).
    pub async fn charge(&self, head: &RequestHead<'_>, cost: u64) -> Result<(), StoreError> {
        let Some((partition, set)) = self.config.charging.find(head) else {
            return Ok(());
        };
        let store = &self.config.stores.background;
        store.charge(&partition, &equal_charges(&set, cost)).await
    }

    /// Resets the usage for requests with this head and lifts the ban on their partition.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    pub async fn reset(&self, head: &RequestHead<'_>) -> Result<(), StoreError> {
        let Some((partition, set)) = self.config.charging.find(head) else {
            return Ok(());
        };
        let bans = self.config.bans.iter().flat_map(|bans| bans.policies());
        let policies = set.policies().iter().flat_map(Policy::with_previous);
        let policies: SmallVec<[&Policy; 4]> = policies.chain(bans).collect();
        self.config.stores.reset(&partition, &policies).await
    }
}

impl Reservation {
    /// Returns `true` if the request was admitted and charged.
    pub fn is_admitted(&self) -> bool {
        self.paid.is_some()
    }

    /// Returns the outcome, including the decision of each policy.
    pub fn outcome(&self) -> &RateLimitOutcome {
        &self.outcome
    }
}
