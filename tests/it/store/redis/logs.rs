//! Sliding logs on Redis: exact with any number of instances, and deleted once they expire.

use std::time::Duration;

use portcullis::{
    StoreErrorKind,
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{
        RedisConfig, RedisStore,
        backend::{
            Charge, Decisions, Log, Receipt, Refund, State, StateRef, StoreKey,
            decide_all_with_logs,
        },
    },
};

use crate::support::redis::{Server, keys, patient};

/// So long are the windows.
const WINDOW: Duration = Duration::from_millis(300);

fn store(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

fn partition(number: u64) -> StoreKey {
    keys().space("logs").short_key(&number.to_le_bytes())
}

fn log_of(limit: u64, window: Duration) -> Policy {
    Policy::sliding_log("log", Quota::new(limit, window)).unwrap()
}

/// The expected contents of a store.
struct Model {
    policies: [Policy; 3],
    logs: [Log; 2],
    state: State,
}

impl Model {
    fn new() -> Self {
        let quota = Quota::new(20, WINDOW);
        Self {
            policies: [
                log_of(5, WINDOW),
                Policy::fixed_window("window", quota).unwrap(),
                Policy::sliding_log("other", quota).unwrap(),
            ],
            logs: [Log::default(), Log::default()],
            state: State::NONE,
        }
    }

    fn charges(&self, costs: [u64; 3]) -> [Charge<'_>; 3] {
        [0, 1, 2].map(|at| Charge::new(&self.policies[at], costs[at]))
    }

    /// Decides at the time that the store returned.
    fn expected(&mut self, costs: [u64; 3], said: &Decisions, peek: bool) -> Decisions {
        let ([mut one, mut two], mut state) = (self.logs.clone(), self.state);
        let mut memories = [
            StateRef::Log(&mut one),
            StateRef::State(&mut state),
            StateRef::Log(&mut two),
        ];
        let decisions = decide_all_with_logs(&self.charges(costs), &mut memories, said.at());
        if !peek {
            (self.logs, self.state) = ([one, two], state);
        }
        decisions
    }
}

/// Replays requests, and compares each reply with the result of the pure functions.
pub(crate) async fn counts_logs_exactly(store: &impl RateLimitStore) {
    let partition = partition(u64::MAX);
    let mut model = Model::new();
    let mut paid = Receipt::default();
    let (mut admitted, mut denied) = (0, 0);
    for step in 0_u64..600 {
        let costs = [step % 7 / 2, step % 3, 1 + step % 2];
        let peek = step % 11 == 5;
        let charges = model.charges(costs);
        let said = match peek {
            true => store.peek(&partition, &charges).await.unwrap(),
            false => store.take(&partition, &charges).await.unwrap(),
        };
        assert_eq!(said, model.expected(costs, &said, peek), "in step {step}");
        if said.is_admitted() {
            admitted += 1;
            paid = said.each()[0].receipt();
        } else {
            denied += 1;
        }
        if step % 13 == 7 {
            let refund = Refund::new(&model.policies[0], paid, 1);
            store.refund(&partition, &[refund]).await.unwrap();
            model.policies[0].refund_log(&mut model.logs[0], paid, 1);
        }
        if step % 97 == 50 {
            store
                .reset(&partition, &[&model.policies[2], &model.policies[1]])
                .await
                .unwrap();
            (model.logs[1], model.state) = (Log::default(), State::NONE);
        }
        if step % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(step * 7_919 % 11)).await;
        }
    }
    assert!(admitted > 50 && denied > 50, "{admitted} {denied}");
    // Usage that is reported afterwards is charged in full, up to twice the limit.
    let policy = log_of(3, Duration::from_secs(3_600));
    let charge = |cost| [Charge::new(&policy, cost)];
    for cost in [2, 1_000] {
        store.charge(&partition, &charge(cost)).await.unwrap();
    }
    let back = Refund::new(&policy, Receipt::default(), 9);
    store.refund(&partition, &[back]).await.unwrap();
    let said = store.take(&partition, &charge(1)).await.unwrap();
    assert!(!said.is_admitted() && said.each()[0].remaining() == 0);
    store.reset(&partition, &[&policy]).await.unwrap();
    let said = store.take(&partition, &charge(1)).await.unwrap();
    assert_eq!(said.each()[0].remaining(), 2);
}

#[tokio::test]
async fn a_log_lies_no_longer_than_its_window_and_a_little() {
    let server = Server::start();
    let (store, policy) = (store(&server), log_of(1_000, WINDOW));
    for _ in 0..300 {
        let taken = store.take(&partition(1), &[Charge::new(&policy, 1)]).await;
        assert!(taken.unwrap().is_admitted());
    }
    let key = server.keys().into_iter().find(|key| key.contains(":l:"));
    let key = key.unwrap();
    let entries = || server.ask(&["LLEN", &key]).as_int() - 1;
    assert!((1..=300).contains(&entries()));
    assert_eq!(server.keys_without_expiry(), [""; 0]);
    // One more, once the others have left.
    tokio::time::sleep(WINDOW).await;
    let taken = store.take(&partition(1), &[Charge::new(&policy, 1)]).await;
    assert_eq!(taken.unwrap().each()[0].remaining(), 999);
    assert_eq!(entries(), 1);
    tokio::time::sleep(Duration::from_millis(1_400)).await;
    assert_eq!(server.keys(), [""; 0]);
}

#[tokio::test]
async fn log_denials_are_answered_locally_until_a_slot_is_free() {
    let server = Server::start();
    let (store, policy) = (store(&server), log_of(2, 2 * WINDOW));
    let charge = [Charge::new(&policy, 1)];
    let take = async || store.take(&partition(1), &charge).await.unwrap();
    take().await;
    tokio::time::sleep(WINDOW / 2).await;
    take().await;
    let denied = take().await;
    let asked = server.calls_of("evalsha");
    for _ in 0..50 {
        let again = take().await;
        assert!(!again.is_admitted());
        let [before, after] = [&denied, &again].map(|said| said.each()[0]);
        let passed = again.at() - denied.at();
        assert_eq!(
            after.retry_after().unwrap() + passed,
            before.retry_after().unwrap()
        );
        assert_eq!(after.reset_after() + passed, before.reset_after());
        assert_eq!((before.remaining(), after.remaining()), (0, 0));
    }
    assert_eq!(server.calls_of("evalsha"), asked);
    // It takes more than the oldest to leave for this: the server is asked.
    let two = store.take(&partition(1), &[Charge::new(&policy, 2)]).await;
    assert!(two.unwrap().each()[0].retry_after() > denied.each()[0].retry_after());
    tokio::time::sleep(denied.each()[0].retry_after().unwrap()).await;
    assert!(take().await.is_admitted());
}

#[tokio::test]
async fn damaged_log_is_ignored_or_is_an_error_of_its_key() {
    let server = Server::start();
    let (store, policy) = (store(&server), log_of(2, Duration::from_secs(3_600)));
    let take = async || store.take(&partition(1), &[Charge::new(&policy, 2)]).await;
    assert!(take().await.unwrap().is_admitted());
    let key = server.keys().into_iter().find(|key| key.contains(":l:"));
    let key = key.unwrap();
    let until = server.ask(&["PEXPIRETIME", &key]).as_text();
    // An entry that cannot be read, a head that cannot, and another kind of value.
    server.ask(&["LSET", &key, "-1", "garbage"]);
    let denied = take().await.unwrap();
    let wait = denied.each()[0].retry_after().unwrap();
    assert!(wait <= Duration::from_secs(3_600), "{wait:?}");
    store.reset(&partition(1), &[]).await.unwrap();
    server.ask(&["LSET", &key, "0", "garbage"]);
    assert!(take().await.unwrap().is_admitted());
    server.ask(&["DEL", &key]);
    server.ask(&["SET", &key, "no list", "PXAT", &until]);
    assert_eq!(take().await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let refund = Refund::new(&policy, Receipt::default(), 1);
    let refunded = store.refund(&partition(1), &[refund]).await;
    assert_eq!(refunded.unwrap_err().kind(), StoreErrorKind::Corrupt);
}
