//! The arguments and replies of take.lua.

use std::time::Duration;

use redis::Value;
use smallvec::SmallVec;

use super::scripts::{Choice, Task};
use crate::{
    core::{
        store_api::binary::{BinaryReader, BinaryWriter},
        time::Timestamp,
    },
    rate_limit::{
        Policy,
        backend::{Charge, Decision, Decisions, Receipt, State},
    },
    store::redis::connection::error::Fault,
};

/// The size of each policy in the arguments of take.lua.
const CHARGE_BYTES: usize = 74;

/// The size of the lease header, and of the lease arguments of each policy.
const LEASE_BYTES: usize = 16;

/// An upper bound for all costs, which is above every limit and exact as a double. Larger costs are
/// clamped to this bound.
pub(super) const COST_MAX: u64 = (1 << 53) + 2;

/// The operation that take.lua performs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TakeOperation {
    /// Takes.
    Take,
    /// Takes, and leases tokens.
    TakeAhead,
    /// Takes, and returns the resulting states.
    TakeWithStates,
    /// Returns the decision without taking.
    Peek,
    /// Charges even beyond the quota.
    Charge,
    /// Charges even beyond the quota, and returns the resulting states.
    ChargeWithStates,
}

/// The arguments of a request that leases tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    /// The divisor that yields the size of the lease from the remaining tokens.
    pub(super) divisor: u64,
    /// Identifies this instance among all instances that share the server.
    pub(super) instance: u64,
    /// The number of this call. Later calls of an instance have larger numbers.
    pub(super) number: u64,
    /// The tokens that are returned for each policy, in the order of the policies.
    pub(super) unspent: SmallVec<[Unspent; 2]>,
}

/// The tokens of one policy that an instance returns with its next call.
///
/// Tokens that the server granted to calls after `received` are also returned, because the replies
/// to those calls were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unspent {
    /// The number of the latest call whose reply was received.
    pub(super) received: u64,
    /// The unspent tokens from that reply.
    pub(super) tokens: u64,
}

impl Ahead {
    /// A divisor that leases nothing, so that the call only returns tokens.
    pub(super) const NOTHING: u64 = 1 << 53;
}

impl TakeOperation {
    fn letter(self) -> u8 {
        match self {
            Self::Take => b't',
            Self::TakeAhead => b'l',
            Self::TakeWithStates => b'd',
            Self::Peek => b'p',
            Self::Charge => b'c',
            Self::ChargeWithStates => b'r',
        }
    }

    fn returns_states(self) -> bool {
        match self {
            Self::TakeWithStates | Self::ChargeWithStates => true,
            Self::Take | Self::TakeAhead | Self::Peek | Self::Charge => false,
        }
    }
}

/// A request for one partition, in the format that take.lua reads.
#[derive(Debug)]
pub(super) struct LimitRequest {
    pub(super) key: Vec<u8>,
    /// The log keys of the policies that have a log, in the order of the policies.
    pub(super) log_keys: Vec<Vec<u8>>,
    /// The argument. Its second byte is the number of equal requests.
    pub(super) asked: Vec<u8>,
    pub(super) choice: Choice,
    operation: TakeOperation,
    policies: usize,
}

impl LimitRequest {
    pub(super) fn new(key: Vec<u8>, charges: &[Charge<'_>], operation: TakeOperation) -> Self {
        Self::packed(
            key,
            charges,
            operation,
            pack(charges, operation, 0).into_bytes(),
        )
    }

    /// Creates a request that also leases tokens.
    pub(super) fn leasing(key: Vec<u8>, charges: &[Charge<'_>], ahead: &Ahead) -> Self {
        let mut asked = pack(charges, TakeOperation::TakeAhead, ahead.divisor);
        push_lease(&mut asked, ahead);
        Self::packed(key, charges, TakeOperation::TakeAhead, asked.into_bytes())
    }

    fn packed(
        key: Vec<u8>,
        charges: &[Charge<'_>],
        operation: TakeOperation,
        asked: Vec<u8>,
    ) -> Self {
        let policies = charges.iter().map(|charge| charge.policy);
        Self {
            log_keys: log_keys(&key, policies),
            key,
            asked,
            choice: Choice::of(charges.iter().map(|charge| charge.policy)),
            operation,
            policies: charges.len(),
        }
    }

    /// Returns the keys of the script call.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let logs = self.log_keys.iter().map(|key| &key[..]);
        std::iter::once(&self.key[..]).chain(logs)
    }

    pub(super) fn task(&self) -> Task {
        match self.operation {
            TakeOperation::Take | TakeOperation::TakeWithStates | TakeOperation::Peek => {
                Task::Decide
            }
            TakeOperation::TakeAhead => Task::Lease,
            TakeOperation::Charge | TakeOperation::ChargeWithStates => Task::Charge,
        }
    }
}

/// The reply of take.lua to a single request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DecisionReply {
    pub(super) decisions: Decisions,
    /// The leased tokens and the receipt for each policy.
    pub(super) ahead: SmallVec<[(u64, Receipt); 4]>,
    /// The states of the policies, if the states were requested or the request was rejected.
    pub(super) states: SmallVec<[State; 4]>,
}

/// Returns the log keys of a partition, for the policies that have a log.
pub(super) fn log_keys<'a>(
    key: &[u8],
    policies: impl IntoIterator<Item = &'a Policy>,
) -> Vec<Vec<u8>> {
    let logs = policies.into_iter().filter(|policy| policy.requires_log());
    logs.map(|policy| log_key(key, policy)).collect()
}

/// Returns the key of the log of a policy.
pub(super) fn log_key(key: &[u8], policy: &Policy) -> Vec<u8> {
    [key, format!(":{:016x}", policy.id()).as_bytes()].concat()
}

fn pack(charges: &[Charge<'_>], operation: TakeOperation, ahead: u64) -> BinaryWriter {
    let mut packed = BinaryWriter::with_capacity(2 + charges.len() * CHARGE_BYTES);
    packed.raw(&[operation.letter(), 1]);
    for Charge { policy, cost, .. } in charges {
        push_policy(&mut packed, policy);
        packed.u8(policy.is_shadow().into());
        push_numbers(&mut packed, [(*cost).min(COST_MAX), ahead]);
        push_numbers(&mut packed, policy.terms().numbers());
    }
    packed
}

fn push_lease(packed: &mut BinaryWriter, ahead: &Ahead) {
    packed.reserve(LEASE_BYTES * (1 + ahead.unspent.len()));
    packed.u64(ahead.instance);
    push_numbers(packed, [ahead.number]);
    for unspent in &ahead.unspent {
        push_numbers(packed, [unspent.received, unspent.tokens]);
    }
}

pub(super) fn push_policy(packed: &mut BinaryWriter, policy: &Policy) {
    packed.u64(policy.id());
    // All letters are ASCII.
    packed.u8(policy.terms().letter() as u8);
}

/// Appends numbers as doubles. Each number is at most 2^53 or is even, so a double represents it
/// exactly.
pub(super) fn push_numbers<const N: usize>(packed: &mut BinaryWriter, numbers: [u64; N]) {
    for number in numbers {
        packed.f64(number as f64);
    }
}

/// Parses the time in a reply, and returns the remaining values, one for each group.
pub(super) fn read_now(values: &[Value]) -> Result<(Timestamp, &[Value]), Fault> {
    match values {
        [Value::Int(now), rest @ ..] if *now >= 0 => {
            Ok((Timestamp::from_micros(now.unsigned_abs()), rest))
        }
        _ => Err(corrupt()),
    }
}

/// Parses the reply of take.lua to a group of equal requests.
pub(super) fn read_group(
    value: &Value,
    question: &LimitRequest,
    times: usize,
    now: Timestamp,
) -> Result<Vec<DecisionReply>, Fault> {
    match value {
        Value::BulkString(bytes) => {
            let mut bytes = BinaryReader::new(&bytes[..]);
            let replies = (0..times).map(|_| read_reply(&mut bytes, question, now));
            let replies = replies.collect::<Option<Vec<_>>>();
            let replies = replies.and_then(|replies| bytes.finish(replies));
            replies.ok_or_else(corrupt)
        }
        Value::ServerError(error) => Err(redis::RedisError::from(error.clone()).into()),
        _ => Err(corrupt()),
    }
}

fn corrupt() -> Fault {
    Fault::corrupt("the script's reply cannot be parsed")
}

fn read_reply(
    bytes: &mut BinaryReader<&[u8]>,
    question: &LimitRequest,
    now: Timestamp,
) -> Option<DecisionReply> {
    let is_admitted = match bytes.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut ahead = SmallVec::new();
    let mut each = SmallVec::<[Decision; 4]>::new();
    for _ in 0..question.policies {
        let said = read_numbers::<6>(bytes)?;
        each.push(read_decision(said));
        let [.., tokens, until] = said;
        ahead.push((tokens, Receipt::new(Timestamp::from_micros(until))));
    }
    let mut states = SmallVec::new();
    if !is_admitted || question.operation.returns_states() {
        for _ in 0..question.policies {
            states.push(State::from_words(read_numbers::<3>(bytes)?));
        }
    }
    Some(DecisionReply {
        decisions: Decisions::new(is_admitted, now, each),
        ahead,
        states,
    })
}

fn read_numbers<const N: usize>(bytes: &mut BinaryReader<&[u8]>) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let double = bytes.f64()?;
        // Excludes NaN, negative numbers, and numbers that a double cannot represent exactly.
        if !(0.0..=COST_MAX as f64).contains(&double) {
            return None;
        }
        *number = double as u64;
    }
    Some(numbers)
}

fn read_decision([verdict, remaining, reset_after, detail, ..]: [u64; 6]) -> Decision {
    let reset_after = Duration::from_micros(reset_after);
    match verdict {
        0 => {
            let receipt = Receipt::new(Timestamp::from_micros(detail));
            Decision::admitted(remaining, reset_after, receipt)
        }
        1 => Decision::denied(remaining, reset_after, Some(Duration::from_micros(detail))),
        _ => Decision::denied(remaining, reset_after, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::error::StoreErrorKind, rate_limit::Quota};

    fn question(operation: TakeOperation) -> LimitRequest {
        let policy = Policy::token_bucket("b", Quota::per_second(3)).unwrap();
        let charges = [Charge::new(&policy, 1)];
        LimitRequest::new(b"key".to_vec(), &charges, operation)
    }

    fn said(admitted: u8, numbers: &[f64]) -> Vec<u8> {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        [admitted].into_iter().chain(numbers).collect()
    }

    fn read(
        bytes: Vec<u8>,
        operation: TakeOperation,
        times: usize,
    ) -> Result<Vec<DecisionReply>, Fault> {
        let now = Timestamp::from_micros(5);
        read_group(&Value::BulkString(bytes), &question(operation), times, now)
    }

    const SIX: [f64; 6] = [0.0, 7.0, 8.0, 9.0, 4.0, 9.0];

    #[test]
    fn a_charge_takes_the_bytes_that_the_script_reads() {
        let policy = Policy::token_bucket("b", Quota::per_second(3)).unwrap();
        let charges = [Charge::new(&policy, 1), Charge::new(&policy, u64::MAX)];
        let packed = pack(&charges, TakeOperation::Peek, 0).into_bytes();
        assert_eq!(packed.len(), 2 + 2 * CHARGE_BYTES);
        assert_eq!(packed[..2], *b"p\x01");
        assert_eq!(packed[10..12], *b"b\0");
        let cost = |at: usize| f64::from_le_bytes(packed[at..at + 8].try_into().unwrap());
        assert_eq!(cost(12), 1.0);
        assert!(cost(CHARGE_BYTES + 12) > (1_u64 << 53) as f64);
    }

    const EXACT: &[u8] = b"\
        d\x01Z\xe7\xc8(M\n\xeb\x99b\x00\x00\x00\x00\x00\x00\x00\x00@\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x08@\x00\x00\x00\x00\x00\x00\x08@\x00\x00\x00\x00TX\x14A\x00\
        \x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x80\x84.A\x00\x00\x00\x00\x00\x00\x00\x00R\x03\
        \x10\xd7\x08p\xbf\x03a\x01\x01\x00\x00\x00\x00\x00@C\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x14@\x00\x00\x00\x008\x9c\x8cA\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00";

    const LEASING: &[u8] = b"\
        l\x01Z\xe7\xc8(M\n\xeb\x99b\x00\x00\x00\x00\x00\x00\x00\x00@\x00\x00\x00\x00\x00\x00 @\
        \x00\x00\x00\x00\x00\x00\x08@\x00\x00\x00\x00\x00\x00\x08@\x00\x00\x00\x00TX\x14A\x00\x00\
        \x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x80\x84.A\x00\x00\x00\x00\x00\x00\x00\x00R\x03\x10\
        \xd7\x08p\xbf\x03a\x01\x01\x00\x00\x00\x00\x00@C\x00\x00\x00\x00\x00\x00 @\x00\x00\x00\
        \x00\x00\x00\x14@\x00\x00\x00\x008\x9c\x8cA\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\
        \x07\x06\x05\x04\x03\x02\x01\x00\x00\x00\x00\x00\x00\"@\x00\x00\x00\x00\x00\x00\x1c@\x00\
        \x00\x00\x00\x00\x00\x08@";

    /// The scripts read these bytes.
    #[test]
    fn packed_questions_never_change() {
        let bucket = Policy::token_bucket("b", Quota::per_second(3)).unwrap();
        let window = Policy::fixed_window("w", Quota::per_minute(5)).unwrap();
        let shadow = window.shadow();
        let charges = [Charge::new(&bucket, 2), Charge::new(&shadow, u64::MAX)];
        let ahead = Ahead {
            divisor: 8,
            instance: 0x0102_0304_0506_0708,
            number: 9,
            unspent: SmallVec::from_iter([Unspent {
                received: 7,
                tokens: 3,
            }]),
        };
        let exact = LimitRequest::new(b"key".to_vec(), &charges, TakeOperation::TakeWithStates);
        let leasing = LimitRequest::leasing(b"key".to_vec(), &charges, &ahead);
        for (question, golden) in [(exact, EXACT), (leasing, LEASING)] {
            assert_eq!(question.asked, golden);
        }
    }

    #[test]
    fn reads_one_reply_for_each_request_of_a_group() {
        let denied = [&SIX[..], &[1.0, 2.0, 3.0]].concat();
        let both = [said(1, &SIX), said(0, &denied)].concat();
        let both = read(both, TakeOperation::Take, 2).unwrap();
        assert!(both[0].decisions.is_admitted() && both[0].states.is_empty());
        assert_eq!(both[0].ahead[0].0, 4);
        assert_eq!(both[1].states[0].to_words(), [1, 2, 3]);
        let told = read(said(1, &denied), TakeOperation::TakeWithStates, 1).unwrap();
        assert_eq!(told[0].states[0].to_words(), [1, 2, 3]);
    }

    #[test]
    fn malformed_reply_is_a_timeout_since_it_may_have_charged() {
        let negative = [0.0, -7.0, 8.0, 9.0, 4.0, 9.0];
        let nan = [0.0, f64::NAN, 8.0, 9.0, 4.0, 9.0];
        for (bytes, operation, times) in [
            (vec![], TakeOperation::Take, 1),
            (said(1, &SIX[1..]), TakeOperation::Take, 1),
            (said(2, &SIX), TakeOperation::Take, 1),
            (said(0, &SIX), TakeOperation::Take, 1),
            (said(1, &SIX), TakeOperation::TakeWithStates, 1),
            (said(1, &SIX), TakeOperation::Take, 2),
            (
                [said(1, &SIX), said(1, &SIX)].concat(),
                TakeOperation::Take,
                1,
            ),
            (said(1, &negative), TakeOperation::Take, 1),
            (said(1, &nan), TakeOperation::Take, 1),
        ] {
            let fault = read(bytes, operation, times).unwrap_err();
            assert_eq!(fault.error.kind(), StoreErrorKind::Timeout);
        }
        assert!(read_now(&[]).is_err() && read_now(&[Value::Int(-1)]).is_err());
        assert!(
            read_group(
                &Value::Nil,
                &question(TakeOperation::Take),
                1,
                Timestamp::EPOCH
            )
            .is_err()
        );
    }

    #[test]
    fn group_error_maps_to_its_error_kind() {
        let error = redis::parse_redis_value(b"-WRONGTYPE no\r\n").unwrap();
        let fault =
            read_group(&error, &question(TakeOperation::Take), 3, Timestamp::EPOCH).unwrap_err();
        assert_eq!(fault.error.kind(), StoreErrorKind::Corrupt);
    }
}
