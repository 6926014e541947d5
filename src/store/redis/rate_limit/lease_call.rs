//! A call for leased tokens that is in flight.

use std::sync::Arc;

use super::{debts::Fate, leases::Granted, question::DecisionReply};
use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp},
    store::redis::store::RedisInner,
};

/// A question about leases that is under way. Dropped before its reply, it leaves open which tokens
/// the server has granted.
pub(super) struct LeaseCall {
    pub(super) shared: Arc<RedisInner>,
    pub(super) partition: StoreKey,
    number: u64,
    pub(super) fate: Fate,
}

impl LeaseCall {
    pub(super) fn new(shared: &Arc<RedisInner>, partition: StoreKey, number: u64) -> Self {
        Self {
            shared: Arc::clone(shared),
            partition,
            number,
            fate: Fate::Unknown,
        }
    }

    /// Holds the tokens that a reply grants.
    pub(super) fn receive(&self, ids: &[u64], answer: &DecisionReply, asked_at: Timestamp) {
        let decisions = answer.decisions.each().iter().zip(&answer.ahead);
        let granted = decisions.map(|(decision, (tokens, receipt))| Granted {
            tokens: *tokens,
            left: decision.remaining().saturating_sub(*tokens),
            receipt: *receipt,
            at: answer.decisions.at(),
            asked_at,
        });
        let (leases, now) = (&self.shared.rate_limit.leases, self.shared.link.now());
        let granted = ids.iter().copied().zip(granted);
        leases.receive(&self.partition, self.number, granted, now);
    }
}

impl Drop for LeaseCall {
    fn drop(&mut self) {
        let (leases, now) = (&self.shared.rate_limit.leases, self.shared.link.now());
        // Nothing is under this number any more once the reply was received.
        match self.fate {
            Fate::NotCharged => leases.restore(&self.partition, self.number, now),
            Fate::Unknown => leases.doubt(&self.partition, self.number, now),
        }
    }
}
