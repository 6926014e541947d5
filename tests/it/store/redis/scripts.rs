//! The scripts decide as the pure functions do: compared step by step on a real server.

use std::time::Duration;

use portcullis::{
    ConfigError, Timestamp,
    rate_limit::{Policy, Quota},
    store::backend::{
        Charge, Decision, Decisions, Log, Receipt, State, StateRef, decide_all_with_logs,
    },
};

use crate::support::redis::{Client, Reply, Server};

/// All parts of the scripts but what they read and write.
const ALGORITHMS: &str = concat!(
    include_str!("../../../../src/store/redis/scripts/numbers.lua"),
    include_str!("../../../../src/store/redis/scripts/month.lua"),
    include_str!("../../../../src/store/redis/scripts/fixed_window.lua"),
    include_str!("../../../../src/store/redis/scripts/sliding_window.lua"),
    include_str!("../../../../src/store/redis/scripts/token_bucket.lua"),
    include_str!("../../../../src/store/redis/scripts/decide.lua"),
    include_str!("../../../../src/store/redis/scripts/give_back.lua"),
    include_str!("../../../../src/store/redis/scripts/charge.lua"),
    include_str!("../../../../src/store/redis/scripts/carry.lua"),
);

/// All that a decision is made by, at a time that is given last.
const TAKE_AT: &str = concat!(
    "local real, at = redis, tonumber(table.remove(ARGV))
local redis = { pcall = real.pcall, call = function(command, ...)
  if command == 'TIME' then
    return { math.floor(at / 1000000), math.fmod(at, 1000000) }
  end
  return real.call(command, ...)
end }
",
    include_str!("../../../../src/store/redis/scripts/numbers.lua"),
    include_str!("../../../../src/store/redis/scripts/month.lua"),
    include_str!("../../../../src/store/redis/scripts/fixed_window.lua"),
    include_str!("../../../../src/store/redis/scripts/sliding_window.lua"),
    include_str!("../../../../src/store/redis/scripts/sliding_log.lua"),
    include_str!("../../../../src/store/redis/scripts/token_bucket.lua"),
    include_str!("../../../../src/store/redis/scripts/decide.lua"),
    include_str!("../../../../src/store/redis/scripts/states.lua"),
    include_str!("../../../../src/store/redis/scripts/take.lua"),
);

/// Replays steps on one state. Each is four doubles: what to do, the time, how much, and which
/// receipt; or, to set a state, its words.
const REPLAY: &str = "
local letter, n1, n2, n3, n4, n5, n6 = struct.unpack('<c1dddddd', ARGV[1])
local till, one, two, answer = 0, 0, 0, {}
for at = 1, #ARGV[2], 32 do
  local kind, now, amount, receipt = struct.unpack('<dddd', ARGV[2], at)
  local said = { 9, 0, 0, 0 }
  if kind == 0 then
    local v, r, s, d, t, o, w = decide(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, amount)
    said, till, one, two = { v, r, s, d }, t, o, w
  elseif kind == 1 then
    till, one, two =
      refund(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, receipt, amount)
  elseif kind == 3 then
    till, one, two = charge(letter, n1, n2, n3, n4, n5, n6, till, one, two, now, amount)
  else
    till, one, two = now, amount, receipt
  end
  for _, word in ipairs(said) do
    answer[#answer + 1] = word
  end
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = till, one, two
end
return answer
";

/// The same for a log, whose key does not expire here.
const REPLAY_LOG: &str = concat!(
    "local real = redis
local redis = { pcall = real.pcall, call = function(command, ...)
  if command ~= 'PEXPIREAT' then
    return real.call(command, ...)
  end
end }
",
    include_str!("../../../../src/store/redis/scripts/numbers.lua"),
    include_str!("../../../../src/store/redis/scripts/sliding_log.lua"),
    "
local _, limit, window = struct.unpack('<c1dd', ARGV[1])
local key, answer = 'log', {}
redis.call('DEL', key)
for at = 1, #ARGV[2], 32 do
  local kind, now, amount, receipt = struct.unpack('<dddd', ARGV[2], at)
  local said = { 9, 0, 0, 0 }
  if kind == 1 then
    log_refund(key, window, receipt, amount)
  else
    local log = log_open(key, window, now)
    if kind == 3 then
      log_charge(log, limit, window, now, amount)
    else
      said = { log_decide(log, limit, window, now, amount) }
      if said[1] == 0 then
        log_record(log, window, now, amount)
      end
    end
    log_write(log, now)
  end
  local _, left, reset = log_decide(log_open(key, window, now), limit, window, now, 0)
  for _, word in ipairs({ said[1], said[2], said[3], said[4], left, reset, 0 }) do
    answer[#answer + 1] = word
  end
end
return answer
"
);

/// Carries over from states to states, each given as its words, with the time of the change and the
/// current time.
const REPLAY_CARRY: &str = "
local letter, n1, n2, n3, n4, n5, n6, w1, w2, w3, w4, w5, w6 =
  struct.unpack('<c1dddddddddddd', ARGV[1])
local answer = {}
for at = 1, #ARGV[2], 64 do
  local till, one, two, was_till, was_one, was_two, changed, now =
    struct.unpack('<dddddddd', ARGV[2], at)
  till, one, two = carry(
    letter, n1, n2, n3, n4, n5, n6, till, one, two,
    w1, w2, w3, w4, w5, w6, was_till, was_one, was_two, changed, now
  )
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = till, one, two
end
return answer
";

#[derive(Clone, Copy, Debug)]
enum Step {
    Take { now: u64, cost: u64 },
    Refund { now: u64, paid: u64, amount: u64 },
    Charge { now: u64, amount: u64 },
    Set([u64; 3]),
}

impl Step {
    fn words(self) -> [u64; 4] {
        match self {
            Self::Take { now, cost } => [0, now, cost, 0],
            Self::Refund { now, paid, amount } => [1, now, amount, paid],
            Self::Set([till, one, two]) => [2, till, one, two],
            Self::Charge { now, amount } => [3, now, amount, 0],
        }
    }
}

/// Numbers that look random, the same in each run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns a number up to this, of any order of magnitude.
    fn any_up_to(&mut self, max: u64) -> u64 {
        let bits = self.below(u64::from(64 - max.leading_zeros())) + 1;
        self.below(max.min(1 << bits) + 1)
    }
}

/// Makes a policy of an algorithm, if the quota can be counted.
type Make = fn(&str, Quota) -> Result<Policy, ConfigError>;

/// A moment of today, so that the arithmetic has the size that it has in use.
const TODAY: u64 = 1_800_000_000_000_000;

/// Makes a policy of each algorithm of quotas small and as large as may be.
fn policy(random: &mut Random, make: Make) -> Option<Policy> {
    let plain = random.below(3) > 0;
    let (limit_max, window_max) = if plain {
        (50, 100_000_000)
    } else {
        (1 << 53, 1 << 51)
    };
    let limit = random.any_up_to(limit_max).max(1);
    let window = random.any_up_to(window_max).max(1);
    let quota = Quota::new(limit, Duration::from_micros(window));
    // Limits that are too large to be counted exactly are rejected.
    make("p", quota).ok()
}

/// Makes steps of which most come some while after the last.
fn steps(random: &mut Random, policy: &Policy, count: usize) -> Vec<Step> {
    let numbers = policy.terms().numbers();
    let (capacity, window) = (policy.capacity(), numbers[1].max(numbers[4]).max(1));
    let mut now = TODAY + random.below(1 << 45);
    let mut receipts = vec![now];
    (0..count)
        .map(|_| {
            now = match random.below(40) {
                0 => now.saturating_sub(random.any_up_to(3_000_000)),
                1 => now.saturating_sub(random.any_up_to(window.min(1 << 50))),
                2 => now + random.any_up_to(3 * window.min(1 << 49)),
                3..10 => now + random.any_up_to(window),
                10..20 => now,
                _ => now + random.below(1 + window / capacity.clamp(1, window)),
            }
            .clamp(1 << 40, 1 << 52);
            let cost = match random.below(10) {
                0 => 0,
                1 => random.any_up_to(capacity + capacity / 8 + 1),
                2 => capacity,
                _ => 1 + random.below(3),
            };
            match random.below(30) {
                0 => Step::Set([
                    now + random.any_up_to(4 * window.min(1 << 49)),
                    random.any_up_to(capacity),
                    // A count of the previous window, or the mark of a bucket of any quota.
                    match random.below(2) {
                        0 => random.any_up_to(capacity),
                        _ => random.any_up_to(2 * window.min(1 << 51) + 1),
                    },
                ]),
                1..4 => {
                    let which = random.below(receipts.len() as u64) as usize;
                    let paid = receipts[which];
                    Step::Refund {
                        now,
                        paid,
                        amount: cost,
                    }
                }
                4 => Step::Charge {
                    now,
                    amount: random.any_up_to(3 * capacity),
                },
                _ => {
                    // Receipts of real takes: for windows, the end of the window.
                    receipts.push(now - now % window + window * (1 + random.below(2)));
                    Step::Take { now, cost }
                }
            }
        })
        .collect()
}

/// Replays steps by the pure functions. Refunds of what was charged last are put in.
fn replay(policy: &Policy, steps: &mut [Step]) -> Vec<[u64; 7]> {
    let (mut state, mut paid_last, mut is_own) = (State::NONE, None, false);
    let at = Timestamp::from_micros;
    steps
        .iter_mut()
        .map(|step| {
            let mut said = [9, 0, 0, 0];
            match step {
                Step::Take { now, cost } => {
                    let (decision, next) = policy.decide(state, at(*now), *cost);
                    (said, state) = (words(&decision), next);
                    if decision.is_admitted() {
                        paid_last = Some(decision.receipt());
                    }
                }
                Step::Refund { now, paid, amount } => {
                    is_own = !is_own;
                    if let Some(receipt) = paid_last.filter(|_| is_own) {
                        *paid = receipt.expires_at().as_micros();
                    }
                    let receipt = Receipt::new(at(*paid));
                    state = policy.refund(state, at(*now), receipt, *amount);
                }
                Step::Charge { now, amount } => state = policy.charge(state, at(*now), *amount),
                Step::Set(words) => state = State::from_words(*words),
            }
            let [a, b, c, d] = said;
            let [till, one, two] = state.to_words();
            [a, b, c, d, till, one, two]
        })
        .collect()
}

/// The same for a log, with the remaining quota and the time until the reset.
fn replay_log(policy: &Policy, steps: &mut [Step]) -> Vec<[u64; 7]> {
    let (mut log, mut paid_last, mut is_own) = (Log::default(), None, false);
    let at = Timestamp::from_micros;
    let take = |log: &mut Log, now: u64, cost: u64| {
        let charge = [Charge::new(policy, cost)];
        decide_all_with_logs(&charge, &mut [StateRef::Log(log)], at(now)).each()[0]
    };
    steps
        .iter_mut()
        .map(|step| {
            if let Step::Set([now, cost, _]) = *step {
                // A log is no state that could be set.
                *step = Step::Take { now, cost };
            }
            let (mut said, now) = ([9, 0, 0, 0], step.words()[1]);
            match step {
                Step::Take { cost, .. } => {
                    let decision = take(&mut log, now, *cost);
                    said = words(&decision);
                    if decision.is_admitted() {
                        paid_last = Some(decision.receipt());
                    }
                }
                Step::Refund { paid, amount, .. } => {
                    is_own = !is_own;
                    if let Some(receipt) = paid_last.filter(|_| is_own) {
                        *paid = receipt.expires_at().as_micros();
                    }
                    policy.refund_log(&mut log, Receipt::new(at(*paid)), *amount);
                }
                Step::Charge { amount, .. } => policy.charge_log(&mut log, at(now), *amount),
                Step::Set(_) => unreachable!("replaced above"),
            }
            let [_, left, reset, _] = words(&take(&mut log.clone(), now, 0));
            let [a, b, c, d] = said;
            [a, b, c, d, left, reset, 0]
        })
        .collect()
}

fn words(decision: &Decision) -> [u64; 4] {
    let micros = |time: Duration| time.as_micros() as u64;
    let (remaining, reset) = (decision.remaining(), micros(decision.reset_after()));
    if decision.is_admitted() {
        let receipt = decision.receipt().expires_at().as_micros();
        [0, remaining, reset, receipt]
    } else if let Some(wait) = decision.retry_after() {
        [1, remaining, reset, micros(wait)]
    } else {
        [2, remaining, reset, 0]
    }
}

fn doubles(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let double = |word: u64| (word as f64).to_le_bytes();
    words.into_iter().flat_map(double).collect()
}

fn ask(client: &mut Client, digest: &str, policy: &Policy, steps: &[Step]) -> Vec<[u64; 7]> {
    let terms = policy.terms();
    let mut packed = vec![terms.letter() as u8];
    packed.extend(doubles(terms.numbers()));
    let steps = doubles(steps.iter().flat_map(|step| step.words()));
    let command: [&[u8]; 5] = [b"EVALSHA", digest.as_bytes(), b"0", &packed, &steps];
    let Some(Reply::Array(words)) = client.ask(&command) else {
        panic!("no answer for {policy:?}");
    };
    let words: Vec<u64> = words.iter().map(|word| word.as_int() as u64).collect();
    words.as_chunks::<7>().0.to_vec()
}

fn compare(name: &str, make: Make) {
    compare_by(name, make, &format!("{ALGORITHMS}{REPLAY}"), replay);
}

type Replay = fn(&Policy, &mut [Step]) -> Vec<[u64; 7]>;

fn compare_by(name: &str, make: Make, source: &str, replay: Replay) {
    const STEPS: usize = 100_000;
    const BATCH: usize = 500;
    let server = Server::start();
    let mut client = server.client();
    let load: [&[u8]; 3] = [b"SCRIPT", b"LOAD", source.as_bytes()];
    let digest = client.ask(&load).unwrap().as_text();
    assert_eq!(digest.len(), 40, "{digest}");
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(name.as_bytes()[0]));
    let (mut done, mut admitted, mut denied) = (0, 0, 0);
    while done < STEPS {
        let Some(policy) = policy(&mut random, make) else {
            continue;
        };
        let mut steps = steps(&mut random, &policy, BATCH);
        let expected = replay(&policy, &mut steps);
        let said = ask(&mut client, &digest, &policy, &steps);
        for (at, (said, expected)) in said.iter().zip(&expected).enumerate() {
            assert_eq!(
                said,
                expected,
                "step {at} of {policy:?}: {:?} after {:?}",
                steps[at],
                at.checked_sub(1).map(|before| (steps[before], expected))
            );
            admitted += usize::from(expected[0] == 0);
            denied += usize::from(expected[0] == 1);
        }
        assert_eq!(said.len(), expected.len());
        done += BATCH;
    }
    // Steps that only ever say yes, or no, would prove little.
    assert!(
        admitted > STEPS / 10 && denied > STEPS / 50,
        "{admitted} {denied}"
    );
}

#[test]
fn a_fixed_window_from_the_first_request_is_the_same_in_lua() {
    compare("a", Policy::fixed_window);
}

#[test]
fn a_fixed_window_of_the_clock_is_the_same_in_lua() {
    compare("w", Policy::aligned_window);
}

#[test]
fn a_month_is_the_same_in_lua() {
    compare("m", |name, quota| {
        Policy::calendar_month(name, quota.limit())
    });
}

#[test]
fn a_year_is_the_same_in_lua() {
    compare("y", |name, quota| {
        Policy::aligned_window(name, Quota::per_year(quota.limit()))
    });
}

#[test]
fn a_sliding_window_is_the_same_in_lua() {
    compare("s", Policy::sliding_window);
}

#[test]
fn a_sliding_log_is_the_same_in_lua() {
    compare_by("g", Policy::sliding_log, REPLAY_LOG, replay_log);
}

#[test]
fn a_token_bucket_is_the_same_in_lua() {
    compare("b", Policy::token_bucket);
}

#[test]
fn a_leaky_bucket_is_the_same_in_lua() {
    compare("l", |name, quota| {
        let burst = quota.limit() / 3 + 1;
        Policy::leaky_bucket(name, quota.burst(burst))
    });
}

#[test]
fn a_leaky_queue_is_the_same_in_lua() {
    compare("q", |name, quota| {
        Policy::leaky_queue(
            name,
            quota,
            quota.window().min(Duration::from_secs(1 << 30)),
        )
    });
}

/// Compares what carries over from policies to policies of the same algorithm.
fn compare_carries(name: &str, make: Make) {
    const STEPS: usize = 100_000;
    const BATCH: usize = 200;
    let server = Server::start();
    let mut client = server.client();
    let source = format!("{ALGORITHMS}{REPLAY_CARRY}");
    let load: [&[u8]; 3] = [b"SCRIPT", b"LOAD", source.as_bytes()];
    let digest = client.ask(&load).unwrap().as_text();
    assert_eq!(digest.len(), 40, "{digest}");
    let mut random = Random(0x1234_5678_9abc_def1 ^ u64::from(name.as_bytes()[0]));
    let (mut done, mut carried) = (0, 0);
    while done < STEPS {
        let (Some(to), Some(from)) = (policy(&mut random, make), policy(&mut random, make)) else {
            continue;
        };
        let steps: Vec<[u64; 8]> = (0..BATCH)
            .map(|_| any_carry(&mut random, &to, &from))
            .collect();
        let (to_terms, from_terms) = (to.terms(), from.terms());
        let mut packed = vec![to_terms.letter() as u8];
        packed.extend(doubles(
            to_terms.numbers().into_iter().chain(from_terms.numbers()),
        ));
        let packed_steps = doubles(steps.iter().flatten().copied());
        let command: [&[u8]; 5] = [b"EVALSHA", digest.as_bytes(), b"0", &packed, &packed_steps];
        let Some(Reply::Array(said)) = client.ask(&command) else {
            panic!("no reply for {to:?} after {from:?}");
        };
        let said: Vec<u64> = said.iter().map(|word| word.as_int() as u64).collect();
        for (said, step) in said.as_chunks::<3>().0.iter().zip(&steps) {
            let expected = carry(&to, &from, *step);
            assert_eq!(*said, expected, "{step:?} of {to:?} after {from:?}");
            carried += usize::from(expected != [step[0], step[1], step[2]]);
        }
        done += BATCH;
    }
    assert!(carried > STEPS / 10, "{carried}");
}

/// Makes the words of two states, the moment of a change, and a moment after it.
fn any_carry(random: &mut Random, to: &Policy, from: &Policy) -> [u64; 8] {
    let changed = TODAY + random.below(1 << 45);
    let now = changed + random.any_up_to(1 << 40);
    let used = |random: &mut Random, policy: &Policy, now: u64, at: u64| {
        let cost = random.any_up_to(policy.capacity() + 1);
        let state = match random.below(4) {
            0 => State::NONE,
            _ => {
                policy
                    .decide(State::NONE, Timestamp::from_micros(at), cost)
                    .1
            }
        };
        policy
            .decide(state, Timestamp::from_micros(now), random.below(3))
            .1
            .to_words()
    };
    let before = changed - random.any_up_to(from.terms().numbers()[1]).min(changed);
    let later = changed + random.below(1 << 20);
    let was_now = if random.below(4) == 0 { later } else { changed };
    let was = used(random, from, was_now, before);
    let own = used(random, to, now, changed);
    [own[0], own[1], own[2], was[0], was[1], was[2], changed, now]
}

fn carry(to: &Policy, from: &Policy, step: [u64; 8]) -> [u64; 3] {
    let [own @ .., a, b, c, changed, now] = step;
    let replacing = to.clone().scope("new").replacing(from).unwrap();
    let carry = replacing.carry(Timestamp::from_micros(changed)).unwrap();
    let (own, was) = (State::from_words(own), State::from_words([a, b, c]));
    carry
        .state(own, was, Timestamp::from_micros(now))
        .to_words()
}

#[test]
fn carrying_over_fixed_windows_is_the_same_in_lua() {
    compare_carries("a", Policy::fixed_window);
    compare_carries("w", Policy::aligned_window);
}

#[test]
fn carrying_over_sliding_windows_is_the_same_in_lua() {
    compare_carries("s", Policy::sliding_window);
}

#[test]
fn carrying_over_buckets_is_the_same_in_lua() {
    compare_carries("b", Policy::token_bucket);
    compare_carries("q", |name, quota| {
        Policy::leaky_queue(
            name,
            quota,
            quota.window().min(Duration::from_secs(1 << 30)),
        )
    });
}

/// A caller of whom take.lua decides in batches, and what the pure functions remember of it.
struct Caller {
    key: String,
    policies: Vec<Policy>,
    states: Vec<State>,
    logs: Vec<Log>,
}

impl Caller {
    fn any(random: &mut Random, number: usize) -> Self {
        let makes: [Make; 8] = [
            Policy::sliding_log,
            Policy::fixed_window,
            Policy::aligned_window,
            Policy::sliding_window,
            Policy::token_bucket,
            Policy::leaky_bucket,
            |name, quota| Policy::leaky_queue(name, quota, quota.window()),
            |name, quota| Policy::calendar_month(name, quota.limit()),
        ];
        let policies: Vec<Policy> = (0..1 + random.below(3))
            .map(|at| {
                let make = makes[random.below(makes.len() as u64) as usize];
                let window = Duration::from_micros(1 + random.below(100_000));
                let name = format!("p{at}");
                let policy = make(&name, Quota::new(1 + random.below(40), window)).unwrap();
                if random.below(8) == 0 {
                    policy.shadow()
                } else {
                    policy
                }
            })
            .collect();
        Self {
            key: format!("caller-{number}"),
            states: vec![State::NONE; policies.len()],
            logs: vec![Log::default(); policies.len()],
            policies,
        }
    }

    /// Requests a decision by some of the policies, `times` times. Returns the keys, the input of
    /// take.lua, and its expected output.
    fn ask(
        &mut self,
        random: &mut Random,
        now: u64,
        times: u64,
    ) -> (Vec<String>, Vec<u8>, Vec<u8>) {
        let wish = b"tttdp"[random.below(5) as usize];
        let first = random.below(self.policies.len() as u64) as usize;
        let policies = &self.policies[first..];
        let (mut charges, mut keys) = (Vec::new(), vec![self.key.clone()]);
        let mut asked = vec![wish, times as u8];
        for policy in policies {
            let cost = match random.below(12) {
                0 => 0,
                1 => random.below(50),
                _ => 1 + random.below(2),
            };
            charges.push(Charge::new(policy, cost));
            if policy.requires_log() {
                keys.push(format!("{}:{}", self.key, policy.id()));
            }
            asked.extend(policy.id().to_le_bytes());
            asked.extend([policy.terms().letter() as u8, policy.is_shadow().into()]);
            asked.extend(doubles(
                [cost, 0].into_iter().chain(policy.terms().numbers()),
            ));
        }
        let mut expected = Vec::new();
        for _ in 0..times {
            let mut states = self.states[first..].to_vec();
            let mut logs = self.logs[first..].to_vec();
            let decisions = decide(&charges, &mut states, &mut logs, now);
            expected.push(decisions.is_admitted().into());
            for decision in decisions.each() {
                expected.extend(doubles(words(decision).into_iter().chain([0, 0])));
            }
            if !decisions.is_admitted() || wish == b'd' {
                for (at, policy) in policies.iter().enumerate() {
                    expected.extend(doubles(match policy.requires_log() {
                        true => log_words(policy, &logs[at], now),
                        false => states[at].to_words(),
                    }));
                }
            }
            if wish != b'p' {
                self.states[first..].copy_from_slice(&states);
                self.logs[first..].clone_from_slice(&logs);
            }
        }
        (keys, asked, expected)
    }
}

fn decide(charges: &[Charge<'_>], states: &mut [State], logs: &mut [Log], now: u64) -> Decisions {
    let memories = charges.iter().zip(states).zip(logs);
    let memories = memories.map(
        |((charge, state), log)| match charge.policy.requires_log() {
            true => StateRef::Log(log),
            false => StateRef::State(state),
        },
    );
    let mut memories: Vec<_> = memories.collect();
    decide_all_with_logs(charges, &mut memories, Timestamp::from_micros(now))
}

/// Returns when a log is over, how much is used, and when its oldest entry leaves.
fn log_words(policy: &Policy, log: &Log, now: u64) -> [u64; 3] {
    let say = |cost| {
        let charge = [Charge::new(policy, cost)];
        let said = decide(&charge, &mut [State::NONE], &mut [log.clone()], now);
        words(&said.each()[0])
    };
    let [_, left, reset, _] = say(0);
    if left == policy.capacity() {
        return [0; 3];
    }
    let [_, _, _, wait] = say(left + 1);
    [now + reset, policy.capacity() - left, now + wait]
}

#[test]
fn batched_decisions_equal_separate_decisions() {
    const DECISIONS: u64 = 100_000;
    // Later than any clock of a server: keys do not expire meanwhile.
    const LATER: u64 = 4_000_000_000_000_000;
    let server = Server::start();
    let mut client = server.client();
    let load: [&[u8]; 3] = [b"SCRIPT", b"LOAD", TAKE_AT.as_bytes()];
    let digest = client.ask(&load).unwrap().as_text();
    let mut random = Random(0x0123_4567_89ab_cdef);
    let (mut done, mut round, mut now) = (0, 0, LATER);
    while done < DECISIONS {
        round += 1;
        let mut callers: Vec<Caller> = (0..4)
            .map(|number| Caller::any(&mut random, 4 * round + number))
            .collect();
        for _ in 0..100 {
            now += random.below(20_000);
            let (mut keys, mut asked, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..1 + random.below(6) {
                let times = 1 + random.below(5);
                let caller = &mut callers[random.below(4) as usize];
                let (named, question, answer) = caller.ask(&mut random, now, times);
                keys.extend(named);
                asked.push(question);
                expected.push(Reply::Bulk(answer));
                done += times;
            }
            let (count, at) = (keys.len().to_string(), now.to_string());
            let mut command: Vec<&[u8]> = vec![b"EVALSHA", digest.as_bytes(), count.as_bytes()];
            command.extend(keys.iter().map(|key| key.as_bytes()));
            command.push(b"7");
            command.extend(asked.iter().map(|question| &question[..]));
            command.push(at.as_bytes());
            let Some(Reply::Array(said)) = client.ask(&command) else {
                panic!("no answer to {asked:?}");
            };
            assert_eq!(said[1], Reply::Int(now as i64));
            for ((said, expected), asked) in said[2..].iter().zip(&expected).zip(&asked) {
                assert_eq!(said, expected, "{asked:?} at {now} of {keys:?}");
            }
        }
    }
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}
