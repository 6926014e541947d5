//! A call for leased tokens.

use std::sync::Arc;

use super::{deferred::Fate, leases::Granted, question::DecisionReply};
use crate::{
    core::{store_api::store_key::StoreKey, time::Timestamp},
    store::redis::store::RedisInner,
};

/// A call in flight for leases. If this value is dropped before the reply arrives, the granted
/// tokens are unknown.
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

    /// Stores the tokens that a reply grants.
    pub(super) fn receive(&self, ids: &[u64], reply: &DecisionReply, asked_at: Timestamp) {
        let decisions = reply.decisions.each().iter().zip(&reply.ahead);
        let granted = decisions.map(|(decision, (tokens, receipt))| Granted {
            tokens: *tokens,
            left: decision.remaining().saturating_sub(*tokens),
            receipt: *receipt,
            at: reply.decisions.at(),
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
        // After a received reply there is no lease with this number, and these calls have no
        // effect.
        match self.fate {
            Fate::NotCharged => leases.restore(&self.partition, self.number, now),
            Fate::Unknown => leases.doubt(&self.partition, self.number, now),
        }
    }
}
