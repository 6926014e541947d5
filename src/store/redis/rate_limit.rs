//! The rate_limit part of the store on Redis.

use std::{sync::LazyLock, time::Duration};

use redis::Value;

use super::{RedisStore, link::Turn, script::Script};
use crate::{
    error::{StoreError, StoreErrorKind},
    rate_limit::{Charge, Decision, Decisions, Policy, RateLimitStore, Receipt, Refund},
    store_future::StoreFuture,
    store_key::{StoreKey, StoreKeys},
    time::Timestamp,
};

const ALGORITHMS: &str = include_str!("scripts/algorithms.lua");

static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[ALGORITHMS, include_str!("scripts/take.lua")]));

static REFUND: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[ALGORITHMS, include_str!("scripts/refund.lua")]));

/// What each policy takes of the arguments of take.lua.
const CHARGE_BYTES: usize = 66;

/// What each policy takes of the arguments of refund.lua.
const REFUND_BYTES: usize = 73;

/// A number that no limit reaches, and that a double holds: what a larger cost is taken for.
const COST_MAX: u64 = (1 << 53) + 2;

impl RedisStore {
    fn limits_key(&self, partition: &StoreKey) -> Vec<u8> {
        self.shared.link.key("l", partition.as_bytes())
    }

    fn begin_limit(&self, key: &[u8]) -> Result<Turn, StoreError> {
        let link = &self.shared.link;
        link.begin(key, link.deadlines().rate_limit)
    }

    /// Asks for a decision: to take, or only to say what taking would.
    fn decide(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        mode: &'static str,
    ) -> StoreFuture<Decisions> {
        let key = self.limits_key(partition);
        let turn = match self.begin_limit(&key) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let mut call = TAKE.call(&[&key]);
        call.arg(mode).arg(pack_charges(charges));
        let count = charges.len();
        StoreFuture::pending(async move { read_decisions(turn.script(call).await?, count) })
    }
}

impl RateLimitStore for RedisStore {
    fn has_deadline(&self) -> bool {
        true
    }

    fn keys(&self) -> &StoreKeys {
        &self.shared.keys
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.decide(partition, charges, "t")
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.decide(partition, charges, "p")
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        let key = self.limits_key(partition);
        let turn = match self.begin_limit(&key) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let mut call = REFUND.call(&[&key]);
        call.arg(pack_refunds(refunds));
        StoreFuture::pending(async move { turn.script(call).await.map(drop) })
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        let key = self.limits_key(partition);
        let turn = match self.begin_limit(&key) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let mut command = redis::cmd("HDEL");
        command.arg(key);
        for policy in policies {
            command.arg(&policy.id().to_le_bytes());
        }
        StoreFuture::pending(async move { turn.command(&command).await.map(drop) })
    }
}

fn pack_charges(charges: &[Charge<'_>]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(charges.len() * CHARGE_BYTES);
    for Charge { policy, cost } in charges {
        push_policy(&mut packed, policy);
        packed.push(policy.is_shadow().into());
        push_numbers(&mut packed, [(*cost).min(COST_MAX)]);
        push_numbers(&mut packed, policy.terms().numbers());
    }
    packed
}

fn pack_refunds(refunds: &[Refund<'_>]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(refunds.len() * REFUND_BYTES);
    for refund in refunds {
        push_policy(&mut packed, refund.policy);
        let receipt = refund.receipt.forgotten_at().as_micros();
        push_numbers(&mut packed, [receipt, refund.amount.min(COST_MAX)]);
        push_numbers(&mut packed, refund.policy.terms().numbers());
    }
    packed
}

fn push_policy(packed: &mut Vec<u8>, policy: &Policy) {
    packed.extend_from_slice(&policy.id().to_le_bytes());
    // All letters are ASCII.
    packed.push(policy.terms().letter() as u8);
}

/// Adds numbers as doubles, which hold them exactly: they are at most 2^53, or even.
fn push_numbers<const N: usize>(packed: &mut Vec<u8>, numbers: [u64; N]) {
    for number in numbers {
        packed.extend_from_slice(&(number as f64).to_le_bytes());
    }
}

/// Reads what take.lua answers to so many charges.
fn read_decisions(values: Vec<Value>, count: usize) -> Result<Decisions, StoreError> {
    let corrupt = || StoreError::from(StoreErrorKind::Corrupt);
    let number = |value: &Value| match value {
        Value::Int(int) => u64::try_from(*int).map_err(|_| corrupt()),
        _ => Err(corrupt()),
    };
    let numbers = values.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let (Some(&[now, admitted]), Some(each)) = (numbers.first_chunk(), numbers.get(2..)) else {
        return Err(corrupt());
    };
    let (each, rest) = each.as_chunks::<4>();
    if each.len() != count || !rest.is_empty() || admitted > 1 {
        return Err(corrupt());
    }
    let now = Timestamp::from_micros(now);
    let each = each.iter().map(read_decision);
    Ok(Decisions::new(admitted == 1, now, each))
}

fn read_decision(&[verdict, remaining, reset_after, detail]: &[u64; 4]) -> Decision {
    let reset_after = Duration::from_micros(reset_after);
    match verdict {
        0 => {
            let receipt = Receipt::until(Timestamp::from_micros(detail));
            Decision::admitted(remaining, reset_after, receipt)
        }
        1 => Decision::denied(remaining, reset_after, Some(Duration::from_micros(detail))),
        _ => Decision::denied(remaining, reset_after, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::Quota;

    #[test]
    fn a_charge_takes_the_bytes_that_the_script_reads() {
        let policy = Policy::token_bucket("b", Quota::per_second(3)).unwrap();
        let packed = pack_charges(&[Charge::new(&policy, 1), Charge::new(&policy, u64::MAX)]);
        assert_eq!(packed.len(), 2 * CHARGE_BYTES);
        assert_eq!(packed[8..10], *b"b\0");
        let cost = |at: usize| f64::from_le_bytes(packed[at..at + 8].try_into().unwrap());
        assert_eq!(cost(10), 1.0);
        assert!(cost(CHARGE_BYTES + 10) > (1_u64 << 53) as f64);
        let refund = Refund::new(&policy, Receipt::default(), 1);
        assert_eq!(pack_refunds(&[refund]).len(), REFUND_BYTES);
    }

    #[test]
    fn an_answer_that_the_script_does_not_give_is_corrupt() {
        let int = |ints: &[i64]| ints.iter().map(|int| Value::Int(*int)).collect();
        assert!(read_decisions(int(&[5, 1, 0, 7, 8, 9]), 1).is_ok());
        for (bad, count) in [
            (int(&[]), 0),
            (int(&[5]), 0),
            (int(&[5, 2]), 0),
            (int(&[5, 1, 0, 7, 8]), 1),
            (int(&[5, 1, 0, 7, 8, 9]), 2),
            (int(&[5, 1, 0, -7, 8, 9]), 1),
            (vec![Value::Nil, Value::Int(1)], 0),
        ] {
            let error = read_decisions(bad, count).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        }
    }
}
