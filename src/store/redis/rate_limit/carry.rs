//! Carrying over usage from previous policies.

use std::iter;

use smallvec::SmallVec;

use super::{
    question::{log_key, push_numbers, push_policy},
    scripts::{Choice, Task, script_for},
};
use crate::{
    core::{
        error::StoreError,
        store_api::{binary::BinaryWriter, store_future::StoreFuture, store_key::StoreKey},
        time::Timestamp,
    },
    rate_limit::{
        Policy,
        backend::{CarriedCounts, Charge},
    },
    store::redis::store::RedisStore,
};

/// The size of each policy in the arguments of carry_over.lua.
const CARRY_BYTES: usize = 121;

impl RedisStore {
    /// Returns the result of `then` after all usage has been carried over, or `None` if there is no
    /// usage to carry over.
    pub(super) fn after_carrying<T: Send + 'static>(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        then: fn(&Self, &StoreKey, &[Charge<'_>]) -> StoreFuture<T>,
    ) -> Option<StoreFuture<T>> {
        if !charges.iter().any(|charge| charge.policy.has_previous()) {
            return None;
        }
        let (carried, now) = (&self.shared.rate_limit.carried, self.shared.link.now());
        let due = |policy: &Policy| policy.has_previous() && !carried.contains(partition, policy);
        let mut carries = Vec::new();
        for charge in charges.iter().filter(|charge| due(charge.policy)) {
            push_carries(&mut carries, charge.policy, now);
        }
        if carries.is_empty() {
            return None;
        }
        let carrying = self.carry(partition, &carries, now);
        let (store, partition) = (self.clone(), *partition);
        let owned = |charge: &Charge<'_>| (charge.policy.without_previous(), charge.cost);
        let owned: SmallVec<[(Policy, u64); 1]> = charges.iter().map(owned).collect();
        Some(StoreFuture::pending(async move {
            carrying.await?;
            let charges = owned
                .iter()
                .map(|(policy, cost)| Charge::new(policy, *cost));
            let charges: SmallVec<[Charge<'_>; 4]> = charges.collect();
            for charge in &charges {
                store
                    .shared
                    .rate_limit
                    .carried
                    .insert(partition, charge.policy);
            }
            let reply = then(&store, &partition, &charges);
            drop(charges);
            reply.await
        }))
    }

    fn carry(
        &self,
        partition: &StoreKey,
        carries: &[(&Policy, CarriedCounts<'_>)],
        now: Timestamp,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let key = self.limits_key(partition);
        let begun = self.begin_limit(&key);
        let mut packed = BinaryWriter::with_capacity(carries.len() * CARRY_BYTES);
        let mut logs = Vec::new();
        for (policy, carry) in carries {
            pack(&mut packed, policy, carry, now);
            if policy.requires_log() {
                logs.extend([log_key(&key, policy), log_key(&key, carry.previous())]);
            }
        }
        let choice = Choice::of(carries.iter().map(|(policy, _)| *policy));
        let keys: SmallVec<[&[u8]; 4]> =
            iter::once(&key).chain(&logs).map(|key| &key[..]).collect();
        let mut call = script_for(Task::Carry, choice).call(&keys);
        call.arg(packed.into_bytes());
        async move { begun?.script(call).await.map(drop) }
    }
}

/// Appends the carry-over to a policy. The carry-over to its previous policy precedes it.
fn push_carries<'a>(
    carries: &mut Vec<(&'a Policy, CarriedCounts<'a>)>,
    policy: &'a Policy,
    now: Timestamp,
) {
    if let Some(carry) = policy.carry(now) {
        push_carries(carries, carry.previous(), now);
        carries.push((policy, carry));
    }
}

fn pack(packed: &mut BinaryWriter, policy: &Policy, carry: &CarriedCounts<'_>, now: Timestamp) {
    let previous = carry.previous();
    let elapsed = (now - carry.changed_at()).as_micros();
    packed.u64(policy.id());
    push_policy(packed, previous);
    push_numbers(packed, [u64::try_from(elapsed).unwrap_or(u64::MAX)]);
    push_numbers(packed, policy.terms().numbers());
    push_numbers(packed, previous.terms().numbers());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::Quota;

    const PACKED: &[u8] = b"\
        \x9c-\xa1\xbe\xbb\x7f?\x11\xcau4\xb6\xb4\xb63ca\x00\x00\x00\x00\x00p\xa7@\x00\x00\x00\x00\
        \x00\x00\x1c@\x00\x00\x00\x80t\xd2\xeaA\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x14@\x00\x00\x00\x008\x9c\x8cA\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

    /// The script reads these bytes.
    #[test]
    fn packed_carries_never_change() {
        let previous = Policy::fixed_window("calls", Quota::per_minute(5)).unwrap();
        let policy = Policy::fixed_window("calls", Quota::per_hour(7)).unwrap();
        let policy = policy.replacing(&previous).unwrap();
        let carry = policy.carry(Timestamp::from_micros(1_000)).unwrap();
        let mut packed = BinaryWriter::default();
        pack(&mut packed, &policy, &carry, Timestamp::from_micros(4_000));
        assert_eq!(packed.into_bytes(), PACKED);
        assert_eq!(PACKED.len(), CARRY_BYTES);
    }
}
