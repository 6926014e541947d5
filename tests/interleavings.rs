//! All orders in which few tasks may meet in the limiter's table, tried one by one.
//!
//! The table is the library's own file. Only what it is built on is loom's instead of the standard
//! library's, and its groups are smaller, so that there are fewer orders to try.
#![allow(dead_code, unused_imports, reason = "the table has more than is tried")]
#![allow(clippy::disallowed_methods, reason = "prints how long each proof took")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../src/store/memory/rate_limit/table.rs"]
mod table;

/// The loom types that the table is built on.
mod seam {
    pub(super) use loom::{
        hint::spin_loop,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        thread::yield_now,
    };

    pub(super) const GROUP: usize = 8;
    pub(super) const COMPACT_GROUPS: usize = 1;
}

/// The parts of the crate that the table uses.
mod rate_limit {
    pub(crate) mod backend {
        pub(crate) use portcullis::store::backend::{Charge, State, decide_all};
    }
    pub(crate) use portcullis::rate_limit::{Policy, Quota};
}
mod core {
    pub(crate) mod store_api {
        pub(crate) mod store_key {
            pub(crate) use portcullis::store::backend::{StoreKey, StoreKeys};
        }
    }
    pub(crate) mod time {
        pub(crate) use portcullis::Timestamp;
    }
}

use std::time::Instant;

use loom::{model::Builder, sync::Arc, thread};
use portcullis::{
    Timestamp,
    store::backend::{State, StoreKey},
};

use self::{
    seam::GROUP,
    table::{Key, Table},
};

const POLICY: u64 = 7;

/// When the windows of the first charges end.
const EARLY: u64 = 100;
/// Then they are over, and all later ones are not.
const NOW: u64 = 200;
const LATE: u64 = 300;

fn main() {
    let proofs: [(&str, fn()); 9] = [
        (
            "two new keys that come for one expired slot are both counted",
            two_new_keys_that_come_for_one_expired_slot_are_both_counted,
        ),
        (
            "a new key that comes twice at once has one slot",
            a_new_key_that_comes_twice_at_once_has_one_slot,
        ),
        (
            "a known key that comes twice at once is counted twice",
            a_known_key_that_comes_twice_at_once_is_counted_twice,
        ),
        (
            "a key that comes back while its slot is given away is counted",
            a_key_that_comes_back_while_its_slot_is_given_away_is_counted,
        ),
        (
            "a key that moves from a shared slot to its own loses no count",
            a_key_that_moves_from_a_shared_slot_to_its_own_loses_no_count,
        ),
        (
            "two keys that are charged crosswise are both counted twice",
            two_keys_that_are_charged_crosswise_are_both_counted_twice,
        ),
        (
            "a new key that comes twice as keys spread out has one slot",
            a_new_key_that_comes_twice_as_keys_spread_out_has_one_slot,
        ),
        (
            "a known key that comes as keys spread out is counted",
            a_known_key_that_comes_as_keys_spread_out_is_counted,
        ),
        (
            "key that is charged twice as its group is split is counted twice",
            key_that_is_charged_twice_as_its_group_is_split_is_counted_twice,
        ),
    ];
    for (claim, proof) in proofs {
        let began = Instant::now();
        let mut model = Builder::new();
        // More changes of the turn than these reveal nearly nothing more, and take hours.
        model.preemption_bound = Some(2);
        // A full table is filled in the model, one step for each atomic.
        model.max_branches = 50_000;
        model.check(proof);
        println!("proved: {claim} ({:.1?})", began.elapsed());
    }
}

fn two_new_keys_that_come_for_one_expired_slot_are_both_counted() {
    let table = table_with_one_expired_slot();
    both(
        &table,
        |table| charge(table, &[key(20)], NOW, LATE),
        |table| charge(table, &[key(21)], NOW, LATE),
    );
    let counts = [20, 21].map(|id| count(&table, key(id)));
    // One has the slot. The other shares one, of which it is the first user.
    assert_eq!(counts, [1, 1]);
    others_are_untouched(&table);
}

fn a_new_key_that_comes_twice_at_once_has_one_slot() {
    let table = table_with_one_expired_slot();
    both(
        &table,
        |table| charge(table, &[key(20)], NOW, LATE),
        |table| charge(table, &[key(20)], NOW, LATE),
    );
    assert_eq!(count(&table, key(20)), 2);
    others_are_untouched(&table);
}

fn a_known_key_that_comes_twice_at_once_is_counted_twice() {
    let table = Arc::new(Table::new(1));
    charge(&table, &[key(20)], 0, LATE);
    both(
        &table,
        |table| charge_known(table, key(20), LATE),
        |table| charge_known(table, key(20), LATE),
    );
    assert_eq!(count(&table, key(20)), 3);
}

fn a_key_that_comes_back_while_its_slot_is_given_away_is_counted() {
    let table = table_with_one_expired_slot();
    // The one by a clock that is late, by which its window is still open.
    both(
        &table,
        |table| charge(table, &[key(0)], EARLY - 1, LATE),
        |table| charge(table, &[key(20)], NOW, LATE),
    );
    assert!(count(&table, key(0)) >= 1);
    assert_eq!(count(&table, key(20)), 1);
    others_are_untouched(&table);
}

fn a_key_that_moves_from_a_shared_slot_to_its_own_loses_no_count() {
    let table = table_with_one_expired_slot();
    // While all slots are alive, it has to share one.
    charge(&table, &[key(20)], EARLY - 1, LATE);
    both(
        &table,
        |table| charge(table, &[key(20)], NOW, LATE),
        |table| charge(table, &[key(20)], NOW, LATE),
    );
    assert_eq!(count(&table, key(20)), 3);
    others_are_untouched(&table);
}

fn two_keys_that_are_charged_crosswise_are_both_counted_twice() {
    let table = Arc::new(Table::new(1));
    both(
        &table,
        |table| charge(table, &[key(20), key(21)], NOW, LATE),
        |table| charge(table, &[key(21), key(20)], NOW, LATE),
    );
    assert_eq!([20, 21].map(|id| count(&table, key(id))), [2, 2]);
}

fn a_new_key_that_comes_twice_as_keys_spread_out_has_one_slot() {
    let table = table_with_a_full_root();
    both(
        &table,
        |table| charge(table, &[key(20)], NOW, LATE),
        |table| charge(table, &[key(20)], NOW, LATE),
    );
    assert_eq!(count(&table, key(20)), 2);
    others_are_untouched(&table);
}

fn a_known_key_that_comes_as_keys_spread_out_is_counted() {
    let table = table_with_a_full_root();
    both(
        &table,
        |table| charge_known(table, key(0), LATE),
        |table| charge(table, &[key(20)], NOW, LATE),
    );
    assert_eq!([0, 20].map(|id| count(&table, key(id))), [2, 1]);
    others_are_untouched(&table);
}

fn key_that_is_charged_twice_as_its_group_is_split_is_counted_twice() {
    let table = table_with_a_full_root();
    charge(&table, &[key(20)], NOW, LATE);
    both(
        &table,
        |table| charge_known(table, key(0), LATE),
        |table| charge_known(table, key(0), LATE),
    );
    assert_eq!([0, 20].map(|id| count(&table, key(id))), [3, 1]);
    others_are_untouched(&table);
}

/// Returns a table of two groups, of which one is in use and full. The next key puts the other into
/// use.
fn table_with_a_full_root() -> Arc<Table> {
    let table = Arc::new(Table::new(101));
    for id in 0..GROUP as u64 {
        charge(&table, &[key(id)], 0, LATE);
    }
    table
}

/// Returns a table whose one group is full. One slot, key 0's, is over at [`NOW`].
fn table_with_one_expired_slot() -> Arc<Table> {
    let table = Arc::new(Table::new(1));
    for id in 0..GROUP as u64 {
        let end = if id == 0 { EARLY } else { LATE };
        charge(&table, &[key(id)], 0, end);
    }
    table
}

fn others_are_untouched(table: &Table) {
    for id in 1..GROUP as u64 {
        assert_eq!(count(table, key(id)), 1);
    }
}

/// Runs two tasks on a table at once.
fn both(table: &Arc<Table>, one: fn(&Table), other: fn(&Table)) {
    let elsewhere = Arc::clone(table);
    let task = thread::spawn(move || other(&elsewhere));
    one(table);
    task.join().unwrap();
}

/// Adds one to each key's count, or begins one if its window is over.
fn charge(table: &Table, keys: &[Key], now: u64, end: u64) {
    let now = Timestamp::from_micros(now);
    table
        .change_all(keys, now, |states| {
            for state in states {
                *state = charged(*state, now, end);
            }
        })
        .unwrap();
}

/// The same on the shortest way, on which a limiter with one policy goes.
fn charge_known(table: &Table, key: Key, end: u64) {
    match table.hold_at_home(key) {
        Some(mut held) => held.state = charged(held.state, Timestamp::from_micros(NOW), end),
        None => charge(table, &[key], NOW, end),
    }
}

fn charged(state: State, now: Timestamp, end: u64) -> State {
    let used = if state.is_alive(now) {
        state.to_words()[1]
    } else {
        0
    };
    State::from_words([end, used + 1, 0])
}

fn count(table: &Table, key: Key) -> u64 {
    table.read(key).to_words()[1]
}

fn key(id: u64) -> Key {
    // All start at the same slot with different tags. Even ones move when the group is split.
    let digest = u128::from((id + 1) << 8 | (id + 1) << 16) << 64;
    Key::new(&StoreKey::from_bytes(digest.to_le_bytes()), POLICY)
}
