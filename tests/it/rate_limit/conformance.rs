//! The suite for stores of rate limits, run on ours, and on some that are wrong.

use std::{panic::AssertUnwindSafe, time::Duration};

use portcullis::{
    ManualClock, StoreFuture, conformance,
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{
        MemoryStore, StoreKeys,
        backend::{Charge, Decisions, Refund, StoreKey},
    },
};

#[tokio::test]
async fn the_store_in_memory_keeps_every_promise() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    conformance::rate_limit(&store, async |time| clock.advance(time)).await;
}

#[tokio::test]
async fn memory_store_conforms_with_the_system_clock() {
    let store = MemoryStore::new();
    conformance::rate_limit(&store, async |time| tokio::time::sleep(time).await).await;
}

/// A store that does one thing wrong.
#[derive(Debug)]
struct Wrong {
    memory: MemoryStore,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    ChargesEachPolicyAlone,
    PeekTakes,
    RefundsAnything,
    Forgets,
}

impl RateLimitStore for Wrong {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.memory)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        if self.fault == Fault::Forgets {
            let policies: Vec<_> = charges.iter().map(|charge| charge.policy).collect();
            drop(self.memory.reset(partition, &policies));
        }
        if self.fault == Fault::ChargesEachPolicyAlone {
            let each: Vec<_> = charges
                .iter()
                .map(|charge| self.memory.take(partition, &[*charge]).into_ready())
                .map(|decisions| decisions.ready().unwrap().unwrap())
                .collect();
            let admitted = each.iter().all(Decisions::is_admitted);
            let decisions = each.iter().map(|decisions| decisions.each()[0]);
            return StoreFuture::ready(Decisions::new(admitted, each[0].at(), decisions));
        }
        self.memory.take(partition, charges)
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        match self.fault {
            Fault::PeekTakes => self.memory.take(partition, charges),
            _ => self.memory.peek(partition, charges),
        }
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        if self.fault == Fault::RefundsAnything {
            let policies: Vec<_> = refunds.iter().map(|refund| refund.policy).collect();
            return self.memory.reset(partition, &policies);
        }
        self.memory.refund(partition, refunds)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.memory.reset(partition, policies)
    }
}

#[test]
fn a_store_that_breaks_a_promise_does_not_pass() {
    for fault in [
        Fault::ChargesEachPolicyAlone,
        Fault::PeekTakes,
        Fault::RefundsAnything,
        Fault::Forgets,
    ] {
        let clock = ManualClock::default();
        let memory = MemoryStore::with_clock(clock.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let passed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let store = Wrong { memory, fault };
            let pause = async |time: Duration| clock.advance(time);
            runtime.block_on(conformance::rate_limit(&store, pause));
        }));
        assert!(passed.is_err(), "{fault:?} went unseen");
    }
}

#[tokio::test]
async fn the_store_in_memory_counts_sliding_logs_exactly() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let key = RateLimitStore::keys(&store).space("test").short().finish();
    let second = Quota::per_second(5);
    let log = Policy::sliding_log("log", second).unwrap();
    let window = Policy::fixed_window("window", Quota::per_hour(300)).unwrap();
    let mut admitted = Vec::new();
    for step in 0_u64..2_000 {
        let charges = [Charge::new(&window, 1), Charge::new(&log, 1 + step % 3)];
        let decisions = store.take(&key, &charges).await.unwrap();
        let now = decisions.at();
        let in_window =
            |(at, _): &&(portcullis::Timestamp, u64)| now - *at < Duration::from_secs(1);
        let used: u64 = admitted
            .iter()
            .filter(in_window)
            .map(|(_, cost)| cost)
            .sum();
        let fits = used + 1 + step % 3 <= 5 && admitted.len() < 300;
        assert_eq!(decisions.is_admitted(), fits, "in step {step}");
        if fits {
            admitted.push((now, 1 + step % 3));
        }
        clock.advance(Duration::from_micros(step * 7_919 % 200_000));
    }
    assert_eq!(admitted.len(), 300);
}
