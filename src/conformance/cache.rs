//! What a store of answers must do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::kit::{Random, give_up, join};
use crate::{
    cache::{
        CacheStore, PurgeMode,
        backend::{
            CacheKey, Fence, Found, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome, Stamp,
            StoredResponse, Touch, VariantId,
        },
        sample::{Sample, Samples},
    },
    core::store_api::store_key::StoreKey,
};

/// Checks that a store of answers keeps the promises that the cache relies on.
///
/// A lookup returns only what was put under that key and variant. Purged entries are gone, also if
/// they were being filled at the time, and purges of other names remove nothing, however many there
/// are. Expired entries are gone. A head is replaced only on the entry that it was made for. Random
/// histories are compared with a plain model. Where `pause` really waits, the suite takes a few
/// seconds.
///
/// The suite purges everything: run it on a store of its own. That has room for some megabytes.
///
/// ```
/// # #[cfg(feature = "memory")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use portcullis::{ManualClock, conformance, store::MemoryStore};
///
/// let clock = ManualClock::default();
/// let store = MemoryStore::with_clock(clock.clone());
/// conformance::cache(&store, async |time| clock.advance(time)).await;
/// # }
/// # #[cfg(not(feature = "memory"))]
/// # fn main() {}
/// ```
///
/// # Panics
///
/// If the store breaks a promise; the message says which.
pub async fn cache<S, P>(store: &S, pause: P)
where
    S: CacheStore + ?Sized,
    P: AsyncFn(Duration),
{
    let mut run = [0; 16];
    getrandom::fill(&mut run).expect("the system has a source of randomness");
    let samples = Samples::new(store.keys(), &u128::from_le_bytes(run).to_string());
    let suite = Suite {
        store,
        pause,
        samples,
    };
    suite.what_is_put_is_found_as_it_was().await;
    suite.the_later_one_takes_the_place().await;
    suite.keys_are_kept_apart().await;
    suite.variants_stand_side_by_side().await;
    suite.what_an_answer_varies_by_may_change().await;
    suite.the_oldest_variants_go().await;
    suite.a_touch_replaces_the_head_and_no_other().await;
    suite.what_has_served_its_time_is_gone().await;
    suite.a_purge_reaches_what_it_names_and_nothing_else().await;
    suite.purges_of_other_names_remove_no_entry().await;
    suite.a_purge_reaches_what_is_being_made().await;
    suite.fills_learn_of_each_purge().await;
    suite.a_soft_purge_ends_with_the_next_answer().await;
    suite.what_is_large_is_kept_whole_or_not_at_all().await;
    suite.what_is_given_up_is_not_half_done().await;
    suite.races_leave_one_whole_answer().await;
    suite.one_of_many_touches_wins().await;
    suite.leases_are_held_by_one().await;
    suite.histories().await;
}

/// For how long answers are of use, where that is not what is checked.
const LONG: Duration = Duration::from_secs(3_600);

struct Suite<'s, S: ?Sized, P> {
    store: &'s S,
    pause: P,
    samples: Samples,
}

impl<S, P> Suite<'_, S, P>
where
    S: CacheStore + ?Sized,
    P: AsyncFn(Duration),
{
    async fn what_is_put_is_found_as_it_was(&self) {
        let mut sample = page("/found");
        assert!(
            matches!(self.get(&sample).await.found, Found::Nothing),
            "something is found under a key under which nothing was put"
        );
        for body in [&b""[..], b"x", b"\0\xff\r\n"] {
            sample.body = Bytes::copy_from_slice(body);
            sample.headers = HeaderMap::new();
            for value in [&b"one"[..], b"", b"two, \xe4\xf6"] {
                let value = HeaderValue::from_bytes(value).expect("no control character");
                sample.headers.append("x-many", value.clone());
                sample.headers.append(header::LINK, value);
            }
            sample.tags = vec!["found one", "found two"];
            let answer = self.fill(&sample).await;
            let (found, _, expired) = self.found(&sample).await;
            assert_same(&found, &answer);
            assert!(!expired, "a new answer is found expired");
        }
    }

    async fn the_later_one_takes_the_place(&self) {
        let mut sample = page("/later");
        let mut stamps = Vec::new();
        for body in ["one", "two", "two"] {
            sample.body = Bytes::from_static(body.as_bytes());
            let answer = self.fill(&sample).await;
            let (found, stamp, _) = self.found(&sample).await;
            assert_same(&found, &answer);
            assert!(
                !stamps.contains(&stamp),
                "two answers of a key have one stamp"
            );
            stamps.push(stamp);
        }
    }

    async fn keys_are_kept_apart(&self) {
        let mut samples = Vec::new();
        for path in ["/apart", "/apart/", "/APART"] {
            for query in [None, Some(String::new()), Some("a".to_owned())] {
                for caller in [None, Some(1), Some(2)] {
                    samples.push(Sample {
                        query: query.clone(),
                        caller,
                        body: Bytes::from(format!("{path} {query:?} {caller:?}")),
                        ..page(path)
                    });
                }
            }
        }
        let mut put = Vec::new();
        for sample in &samples {
            self.is_gone(sample, "what was put under another key").await;
            put.push(self.fill(sample).await);
        }
        for (sample, answer) in samples.iter().zip(&put) {
            assert_same(&self.found(sample).await.0, answer);
        }
    }

    async fn variants_stand_side_by_side(&self) {
        let samples = ["one", "two", "three"].map(|accept| variant("/side", accept));
        let mut put = Vec::new();
        for sample in &samples {
            put.push(self.fill(sample).await);
        }
        for (sample, answer) in samples.iter().zip(&put) {
            assert_same(&self.found(sample).await.0, answer);
        }
        let fourth = variant("/side", "four");
        self.is_gone(&fourth, "a variant that was never put").await;
    }

    async fn what_an_answer_varies_by_may_change(&self) {
        let plain = page("/changing");
        let by_accept = variant("/changing", "one");
        self.fill(&plain).await;
        let varying = self.fill(&by_accept).await;
        assert_same(&self.found(&by_accept).await.0, &varying);
        let mut by_language = variant("/changing", "two");
        let language = HeaderValue::from_static("de");
        by_language.asked.insert(header::ACCEPT_LANGUAGE, language);
        by_language.vary.push(header::ACCEPT_LANGUAGE);
        let other = self.fill(&by_language).await;
        assert_same(&self.found(&by_language).await.0, &other);
        let again = self.fill(&plain).await;
        assert_same(&self.found(&plain).await.0, &again);
    }

    async fn the_oldest_variants_go(&self) {
        let samples = ["a", "b", "c", "d", "e"].map(|accept| variant("/oldest", accept));
        for sample in &samples {
            let fence = self.get(sample).await.fence;
            let put = Put {
                max_variants: 3,
                ..self.put_of(sample, fence)
            };
            self.puts(put).await;
        }
        let (old, new) = samples.split_at(2);
        for sample in new {
            self.found(sample).await;
        }
        for sample in old {
            self.is_gone(sample, "a variant beyond the most that the key may have")
                .await;
        }
    }

    async fn a_touch_replaces_the_head_and_no_other(&self) {
        for sample in [page("/touch"), variant("/touch/varying", "x")] {
            let fence = self.get(&sample).await.fence;
            let nothing = self.samples.answer(&sample);
            let nothing = self.touch_of(&sample, &nothing, Stamp(0), fence);
            assert!(
                !self.touches(nothing).await,
                "what is not there was touched"
            );

            self.fill(&sample).await;
            let (first, stamp, _) = self.found(&sample).await;
            let later = Sample::later(&first, Duration::from_secs(7));
            let touch = self.touch_of(&sample, &later, stamp, fence);
            assert!(self.touches(touch.clone()).await, "a touch was refused");
            let (found, touched, _) = self.found(&sample).await;
            assert_same(&found, &later);
            assert_ne!(touched, stamp, "a touch leaves the stamp as it was");
            assert!(
                !self.touches(touch).await,
                "a head replaced one that it was not made for"
            );
            self.fill(&sample).await;
            let stale = self.touch_of(&sample, &later, touched, fence);
            assert!(
                !self.touches(stale).await,
                "a head replaced that of a later answer"
            );
        }
    }

    async fn what_has_served_its_time_is_gone(&self) {
        let (short, long, touched) = (page("/short"), page("/long"), page("/touched"));
        let shortly = Duration::from_millis(400);
        for sample in [&short, &touched] {
            let fence = self.get(sample).await.fence;
            let put = Put {
                retain: shortly,
                ..self.put_of(sample, fence)
            };
            self.puts(put).await;
        }
        self.fill(&long).await;
        let fence = self.get(&touched).await.fence;
        let (entry, stamp, _) = self.found(&touched).await;
        let touch = self.touch_of(&touched, &entry, stamp, fence);
        assert!(self.touches(touch).await, "a touch was refused");
        (self.pause)(shortly + Duration::from_millis(200)).await;
        self.is_gone(&short, "an answer that has served its time")
            .await;
        self.found(&long).await;
        self.found(&touched).await;
    }

    async fn a_purge_reaches_what_it_names_and_nothing_else(&self) {
        let own = |caller| Sample {
            caller: Some(caller),
            ..page("/purged")
        };
        let tagged = Sample {
            tags: vec!["a", "b"],
            ..page("/tagged")
        };
        let samples = [
            page("/purged"),
            own(1),
            own(2),
            variant("/purged/varying", "x"),
            tagged,
            page("/other"),
        ];
        let targets = [
            (self.samples.uri(&samples[0]), vec![0, 1, 2]),
            (self.samples.uri(&samples[3]), vec![3]),
            (self.samples.tag("b"), vec![4]),
            (self.samples.caller(1), vec![1]),
            (self.samples.tag("unknown"), vec![]),
            (PurgeTarget::All, vec![0, 1, 2, 3, 4, 5]),
        ];
        for (target, named) in targets {
            for mode in [PurgeMode::Hard, PurgeMode::Soft] {
                for sample in &samples {
                    self.fill(sample).await;
                }
                self.purge(&[target], mode).await;
                for (number, sample) in samples.iter().enumerate() {
                    match (named.contains(&number), mode) {
                        (true, PurgeMode::Hard) => {
                            self.is_gone(sample, "what was purged").await;
                        }
                        (is_named, _) => {
                            let (_, _, expired) = self.found(sample).await;
                            assert_eq!(
                                expired, is_named,
                                "after a soft purge of {target:?}, {sample:?} is expired: {expired}"
                            );
                        }
                    }
                }
            }
        }
        let both = [&samples[0], &samples[3]].map(|sample| self.samples.uri(sample));
        self.purge(&both, PurgeMode::Hard).await;
        for gone in [0, 1, 2, 3] {
            self.is_gone(&samples[gone], "one of several that were purged")
                .await;
        }
    }

    /// Purges far more names than a store of fixed size can record.
    async fn purges_of_other_names_remove_no_entry(&self) {
        let samples = [
            page("/others"),
            Sample {
                caller: Some(5),
                ..page("/others")
            },
            variant("/others/varying", "x"),
            Sample {
                tags: vec!["popular", "others"],
                ..page("/others/tagged")
            },
        ];
        let mut random = Random::new();
        for sample in &samples {
            self.fill(sample).await;
        }
        for mode in [PurgeMode::Hard, PurgeMode::Soft] {
            for _ in 0..20 {
                self.purge(&other_names(&mut random, 4_096), mode).await;
            }
            for name in other_names(&mut random, 64) {
                self.purge(&[name], mode).await;
                self.purge(&[name], mode).await;
            }
            for sample in &samples {
                let shown = shown(&self.get(sample).await);
                let (_, _, expired) = shown.unwrap_or_else(|| {
                    panic!("purges of other names removed {sample:?}");
                });
                assert!(!expired, "purges of other names expired {sample:?}");
            }
        }
        self.fill(&page("/others/later")).await;
        self.found(&page("/others/later")).await;
    }

    async fn a_purge_reaches_what_is_being_made(&self) {
        let own = Sample {
            caller: Some(7),
            tags: vec!["making"],
            ..variant("/making", "x")
        };
        let targets = [
            self.samples.uri(&own),
            self.samples.tag("making"),
            self.samples.caller(7),
            PurgeTarget::All,
        ];
        for target in targets {
            let fence = self.get(&own).await.fence;
            self.purge(&[target], PurgeMode::Hard).await;
            self.puts(self.put_of(&own, fence)).await;
            self.is_gone(&own, "what was being made when it was purged")
                .await;
            // What begins after the purge is none of its business.
            self.fill(&own).await;
            let lookup = self.get(&own).await;
            let (entry, stamp, _) = shown(&lookup).expect("what was just put is found");
            self.purge(&[target], PurgeMode::Hard).await;
            let touch = self.touch_of(&own, &entry, stamp, lookup.fence);
            self.touches(touch).await;
            self.is_gone(&own, "what was being validated when it was purged")
                .await;

            let fence = self.get(&own).await.fence;
            self.purge(&[target], PurgeMode::Soft).await;
            self.puts(self.put_of(&own, fence)).await;
            if let Some((.., expired)) = shown(&self.get(&own).await) {
                assert!(expired, "a soft purge of {target:?} missed what was made");
            }
        }
    }

    async fn fills_learn_of_each_purge(&self) {
        let own = Sample {
            caller: Some(7),
            tags: vec!["filling"],
            ..page("/filling")
        };
        let targets = [
            self.samples.uri(&own),
            self.samples.tag("filling"),
            self.samples.caller(7),
            PurgeTarget::All,
        ];
        for target in targets {
            for mode in [PurgeMode::Hard, PurgeMode::Soft] {
                let fence = self.get(&own).await.fence;
                self.purge(&[target], mode).await;
                let put = self.put_of(&own, fence);
                let purged = self.store.is_purged_since(&put.key, &put.entry, fence);
                let purged = purged.await.expect("the store is available");
                assert!(purged, "a fill did not learn of a purge of {target:?}");
            }
        }
    }

    async fn a_soft_purge_ends_with_the_next_answer(&self) {
        for target in [self.samples.uri(&page("/soft")), PurgeTarget::All] {
            let sample = page("/soft");
            self.fill(&sample).await;
            self.purge(&[target], PurgeMode::Soft).await;
            let lookup = self.get(&sample).await;
            let (entry, stamp, expired) = shown(&lookup).expect("what is expired is kept");
            assert!(expired, "a soft purge left an answer as it was");
            let touch = self.touch_of(&sample, &entry, stamp, lookup.fence);
            assert!(self.touches(touch).await, "a touch was refused");
            let (_, _, expired) = self.found(&sample).await;
            assert!(!expired, "what was validated is still expired");

            self.purge(&[target], PurgeMode::Soft).await;
            self.fill(&sample).await;
            let (_, _, expired) = self.found(&sample).await;
            assert!(!expired, "what was made anew is still expired");
        }
    }

    async fn what_is_large_is_kept_whole_or_not_at_all(&self) {
        for (number, bytes) in [64 << 10, 1 << 20, 2 << 20].into_iter().enumerate() {
            let mut sample = page("/large");
            sample.query = Some(number.to_string());
            sample.body = (0..bytes).map(|at| at as u8).collect();
            for number in 0..100_u32 {
                let value = HeaderValue::from(number);
                sample.headers.append("x-many", value);
            }
            let fence = self.get(&sample).await.fence;
            let outcome = self.puts(self.put_of(&sample, fence)).await;
            match shown(&self.get(&sample).await) {
                Some((found, ..)) => assert_same(&found, &self.samples.answer(&sample)),
                None => assert_ne!(
                    outcome,
                    PutOutcome::Stored,
                    "{bytes} bytes are said to be kept, and are not"
                ),
            }
        }
        // More than a small store holds: what is found is right all the same.
        let flood = |number: usize| Sample {
            query: Some(number.to_string()),
            body: Bytes::from(vec![number as u8; 64 << 10]),
            ..page("/flood")
        };
        for number in 0..80 {
            self.fill(&flood(number)).await;
        }
        for number in 0..80 {
            let sample = flood(number);
            if let Some((found, ..)) = shown(&self.get(&sample).await) {
                assert_same(&found, &self.samples.answer(&sample));
            }
        }
        self.found(&flood(79)).await;
    }

    async fn what_is_given_up_is_not_half_done(&self) {
        for polls in 0..4 {
            let sample = page("/given-up");
            let fence = self.get(&sample).await.fence;
            give_up(self.store.put(self.put_of(&sample, fence)), polls);
            if let Some((found, ..)) = shown(&self.get(&sample).await) {
                assert_same(&found, &self.samples.answer(&sample));
            }
            self.fill(&sample).await;
            self.found(&sample).await;
            let uri = self.samples.uri(&sample);
            give_up(self.store.purge(&[uri], PurgeMode::Hard), polls);
            self.purge(&[uri], PurgeMode::Hard).await;
            self.is_gone(&sample, "what was purged").await;
        }
    }

    async fn races_leave_one_whole_answer(&self) {
        let sample = |number: u8| {
            let mut sample = page("/race");
            let value = HeaderValue::from(u16::from(number));
            sample.headers.insert("x-number", value);
            sample.body = Bytes::from(vec![number; 1_000]);
            sample
        };
        let fence = self.get(&sample(0)).await.fence;
        let puts = (0..64).map(|number| self.puts(self.put_of(&sample(number), fence)));
        join(puts).await;
        let (found, ..) = self.found(&sample(0)).await;
        let number = found.body().first().copied().unwrap_or(u8::MAX);
        assert_same(&found, &self.samples.answer(&sample(number)));

        // Each of these was being made when the purge came, whichever of them is first.
        let fence = self.get(&sample(0)).await.fence;
        let racing = (0..64).map(async |number| {
            if number == 40 {
                let uri = self.samples.uri(&sample(0));
                self.purge(&[uri], PurgeMode::Hard).await;
            } else {
                self.puts(self.put_of(&sample(number), fence)).await;
            }
        });
        join(racing).await;
        self.is_gone(&sample(0), "what raced with its purge").await;
    }

    async fn one_of_many_touches_wins(&self) {
        let sample = page("/touches");
        self.fill(&sample).await;
        let fence = self.get(&sample).await.fence;
        let (entry, stamp, _) = self.found(&sample).await;
        let touches = (0..64).map(|by| {
            let later = Sample::later(&entry, Duration::from_secs(by));
            self.touches(self.touch_of(&sample, &later, stamp, fence))
        });
        let won = join(touches).await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1, "of 64 touches of one answer, {won} were taken");
    }

    async fn leases_are_held_by_one(&self) {
        let (one, other) = (page("/lease"), page("/lease/other"));
        let Some(first) = self.lease(&one, LONG).await else {
            if let Lease::Busy(_) = self.lease_of(&one, LONG).await {
                panic!("somebody else holds a lease for which nobody has asked");
            }
            return;
        };
        assert_eq!(self.lease(&one, LONG).await, None, "two lead at once");
        let beside = self.lease(&other, LONG).await;
        assert!(beside.is_some(), "a lease reaches another key");

        self.release(&one, LeaseToken(first.0.wrapping_add(1)))
            .await;
        assert_eq!(
            self.lease(&one, LONG).await,
            None,
            "a lease was given back by somebody who does not hold it"
        );
        self.release(&one, first).await;
        let shortly = Duration::from_millis(400);
        let second = self.lease(&one, shortly).await;
        let second = second.expect("a lease that was given back can be had");
        assert_ne!(second, first, "two leases have one token");
        (self.pause)(shortly + Duration::from_millis(200)).await;
        let asked = join((0..32).map(|_| self.lease(&one, LONG))).await;
        let leaders: Vec<_> = asked.into_iter().flatten().collect();
        assert_eq!(leaders.len(), 1, "of 32 that ask at once, one leads");
        self.release(&one, second).await;
        assert_eq!(
            self.lease(&one, LONG).await,
            None,
            "a lease was given back by who held it before"
        );
        self.release(&one, leaders[0]).await;
    }

    /// Looks up, stores, touches and purges at random, with fences of this lookup and of earlier ones.
    async fn histories(&self) {
        let mut history = History::new();
        for _ in 0..STEPS {
            self.random_step(&mut history).await;
        }
        let hits = history.hits;
        assert!(
            hits > STEPS / 10,
            "{hits} of {STEPS} lookups found anything: this store keeps too little"
        );
    }

    async fn random_step(&self, history: &mut History) {
        let place = history.begin_step();
        let lookup = self.get(&place).await;
        let found = shown(&lookup);
        if let Some((entry, _, expired)) = &found {
            let expected = self.samples.answer(&place).variant();
            assert_eq!(entry.variant(), expected, "another variant is found");
            history
                .model
                .permits(&self.samples.key(&place), entry, *expired);
            history.hits += 1;
        }
        let fence = history.choose_fence(lookup.fence);
        match history.random.below(10) {
            0..5 => self.random_put(history, &place, fence).await,
            5..7 => {
                if let Some((entry, stamp, _)) = found {
                    let by = Duration::from_secs(history.step as u64);
                    let later = Sample::later(&entry, by);
                    self.random_touch(history, &place, later, stamp, fence)
                        .await;
                }
            }
            7 => self.random_purge(history, &place).await,
            _ => {}
        }
    }

    async fn random_put(&self, history: &mut History, place: &Sample, (fence, since): DatedFence) {
        let model = &mut history.model;
        let mut made = place.clone();
        let serial = HeaderValue::from(model.made.len() as u64);
        made.headers.insert("x-serial", serial);
        made.body = Bytes::from(model.made.len().to_string());
        let put = self.put_of(&made, fence);
        let entry = Arc::clone(&put.entry);
        let outcome = self.puts(put).await;
        let (key, targets) = (self.samples.key(place), self.targets(&made));
        model.put(key, entry, targets, since, outcome == PutOutcome::Stored);
    }

    async fn random_touch(
        &self,
        history: &mut History,
        place: &Sample,
        later: Arc<StoredResponse>,
        stamp: Stamp,
        (fence, since): DatedFence,
    ) {
        let touch = self.touch_of(place, &later, stamp, fence);
        if self.touches(touch).await {
            let (key, targets) = (self.samples.key(place), self.targets(place));
            history.model.put(key, later, targets, since, true);
        }
    }

    async fn random_purge(&self, history: &mut History, place: &Sample) {
        let random = &mut history.random;
        let mut targets = self.targets(place);
        // Everything is purged seldom.
        if random.below(8) > 0 {
            targets.retain(|target| *target != PurgeTarget::All);
        }
        let target = targets[random.below(targets.len())];
        let mode = match random.below(2) {
            0 => PurgeMode::Hard,
            _ => PurgeMode::Soft,
        };
        self.purge(&[target], mode).await;
        history.model.purges.push((target, mode, history.step));
    }

    /// Names all by which a sample is purged.
    fn targets(&self, sample: &Sample) -> Vec<PurgeTarget> {
        let mut targets = vec![PurgeTarget::All, self.samples.uri(sample)];
        targets.extend(sample.caller.map(|caller| self.samples.caller(caller)));
        targets.extend(sample.tags.iter().map(|tag| self.samples.tag(tag)));
        targets
    }

    /// Looks up, once more with what the store says that the answers vary by.
    async fn get(&self, sample: &Sample) -> Lookup {
        let key = self.samples.key(sample);
        let selection = self.samples.selection(&sample.asked, None);
        let first = self.store.get(&key, &selection).await;
        let first = first.expect("the store answers `get`");
        let Found::Varies(spec) = &first.found else {
            return first;
        };
        let selection = self.samples.selection(&sample.asked, Some(spec));
        let again = self.store.get(&key, &selection).await;
        let again = again.expect("the store answers `get`");
        assert!(
            !matches!(again.found, Found::Varies(_)),
            "the store asks again, though it was told what it had said itself"
        );
        Lookup {
            fence: first.fence.min(again.fence),
            ..again
        }
    }

    /// Looks up what must be there.
    async fn found(&self, sample: &Sample) -> (Arc<StoredResponse>, Stamp, bool) {
        let lookup = self.get(sample).await;
        shown(&lookup).unwrap_or_else(|| {
            panic!("{sample:?} was put, and is not found: {:?}", lookup.found);
        })
    }

    async fn is_gone(&self, sample: &Sample, what: &str) {
        let lookup = self.get(sample).await;
        assert!(shown(&lookup).is_none(), "{what} is found: {sample:?}");
    }

    /// Looks up, and puts what was made since.
    async fn fill(&self, sample: &Sample) -> Arc<StoredResponse> {
        let fence = self.get(sample).await.fence;
        let put = self.put_of(sample, fence);
        let entry = Arc::clone(&put.entry);
        let outcome = self.puts(put).await;
        assert_eq!(outcome, PutOutcome::Stored, "{sample:?} is not kept");
        entry
    }

    fn put_of(&self, sample: &Sample, fence: Fence) -> Put {
        Put {
            key: self.samples.key(sample),
            entry: self.samples.answer(sample),
            fence,
            retain: LONG,
            max_variants: 16,
        }
    }

    async fn puts(&self, put: Put) -> PutOutcome {
        self.store.put(put).await.expect("the store answers `put`")
    }

    fn touch_of(
        &self,
        sample: &Sample,
        entry: &Arc<StoredResponse>,
        stamp: Stamp,
        fence: Fence,
    ) -> Touch {
        Touch {
            key: self.samples.key(sample),
            entry: Arc::clone(entry),
            stamp,
            fence,
            retain: LONG,
        }
    }

    async fn touches(&self, touch: Touch) -> bool {
        let touched = self.store.touch(touch).await;
        touched.expect("the store answers `touch`")
    }

    async fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) {
        let purged = self.store.purge(targets, mode).await;
        purged.expect("the store answers `purge`");
    }

    async fn lease_of(&self, sample: &Sample, at_most: Duration) -> Lease {
        let lease = self.store.lease(&self.samples.key(sample), at_most).await;
        lease.expect("the store answers `lease`")
    }

    async fn lease(&self, sample: &Sample, at_most: Duration) -> Option<LeaseToken> {
        match self.lease_of(sample, at_most).await {
            Lease::Leader(token) => Some(token),
            Lease::Busy(wait) => {
                assert!(wait <= LONG, "a lease is held for {wait:?}");
                None
            }
            Lease::Unsupported => None,
        }
    }

    async fn release(&self, sample: &Sample, token: LeaseToken) {
        let released = self.store.release(&self.samples.key(sample), token).await;
        released.expect("the store answers `release`");
    }
}

/// The number of steps of a random history.
const STEPS: usize = 1_500;

/// A fence, and the step of its lookup.
type DatedFence = (Fence, usize);

/// A random history of a store, and the model that it is compared with.
struct History {
    random: Random,
    model: Model,
    places: Vec<Sample>,
    /// The sample that is looked up, by its index, at this step.
    place: usize,
    /// The number of this step, from 1.
    step: usize,
    fences: Vec<(usize, DatedFence)>,
    hits: usize,
}

impl History {
    fn new() -> Self {
        Self {
            random: Random::new(),
            model: Model::default(),
            places: places(),
            place: 0,
            step: 0,
            fences: Vec::new(),
            hits: 0,
        }
    }

    /// Chooses the sample of the next step.
    fn begin_step(&mut self) -> Sample {
        self.step += 1;
        self.place = self.random.below(self.places.len());
        self.places[self.place].clone()
    }

    /// Chooses the fence of this step's lookup, or of an earlier one of the same sample.
    fn choose_fence(&mut self, fence: Fence) -> DatedFence {
        let now = (fence, self.step);
        self.fences.push((self.place, now));
        let recent = self.fences.len().min(20);
        let earlier = self.fences.len() - self.random.below(recent) - 1;
        match self.fences[earlier] {
            (place, dated) if place == self.place => dated,
            _ => now,
        }
    }
}

/// What was put, and what was purged, in the order in which it was.
#[derive(Default)]
struct Model {
    made: Vec<Made>,
    /// The latest that was kept of each key and variant.
    latest: HashMap<(CacheKey, VariantId), usize>,
    purges: Vec<(PurgeTarget, PurgeMode, usize)>,
}

struct Made {
    entry: Arc<StoredResponse>,
    targets: Vec<PurgeTarget>,
    /// The step of the lookup that began its making.
    since: usize,
}

impl Model {
    fn put(
        &mut self,
        key: CacheKey,
        entry: Arc<StoredResponse>,
        targets: Vec<PurgeTarget>,
        since: usize,
        kept: bool,
    ) {
        if kept {
            let place = (key, entry.variant());
            self.latest.insert(place, self.made.len());
        }
        self.made.push(Made {
            entry,
            targets,
            since,
        });
    }

    /// Checks that an answer may be found now.
    fn permits(&self, key: &CacheKey, found: &StoredResponse, expired: bool) {
        let latest = self.latest.get(&(*key, found.variant()));
        let latest = latest.expect("an answer is found that was never put");
        let made = &self.made[*latest];
        assert_same(found, &made.entry);
        let purged = |by: PurgeMode| {
            self.purges.iter().any(|(target, mode, step)| {
                *mode == by && *step >= made.since && made.targets.contains(target)
            })
        };
        assert!(!purged(PurgeMode::Hard), "what was purged is found");
        if purged(PurgeMode::Soft) {
            assert!(expired, "what was purged softly is found, and not expired");
        }
    }
}

/// Returns names that no entry has: mostly URLs, as unsafe requests to unknown URLs purge them.
fn other_names(random: &mut Random, count: usize) -> Vec<PurgeTarget> {
    let mut digest = || {
        let mut half = || random.below(usize::MAX) as u128;
        StoreKey::from_bytes((half() << 64 | half()).to_le_bytes())
    };
    let name = |number| match number % 64 {
        0 => PurgeTarget::Tag(digest()),
        1 => PurgeTarget::Partition(digest()),
        _ => PurgeTarget::Uri(digest()),
    };
    (0..count).map(name).collect()
}

/// Returns what histories are made of: URLs that vary and such that do not, for all and for one.
fn places() -> Vec<Sample> {
    let mut places = Vec::new();
    for caller in [None, Some(3)] {
        for (path, tags) in [("/one", vec!["x"]), ("/two", vec!["x", "y"])] {
            let plain = page(path);
            places.push(Sample {
                caller,
                tags,
                ..plain
            });
        }
        for accept in ["a", "b"] {
            places.push(Sample {
                caller,
                tags: vec!["y"],
                ..variant("/varying", accept)
            });
        }
    }
    places
}

fn page(path: &str) -> Sample {
    Sample {
        path: path.to_owned(),
        body: Bytes::from(path.to_owned()),
        ..Sample::default()
    }
}

fn variant(path: &str, accept: &'static str) -> Sample {
    let mut sample = page(path);
    sample.body = Bytes::from(format!("{path} {accept}"));
    sample.vary = vec![header::ACCEPT];
    let accept = HeaderValue::from_static(accept);
    sample.asked.insert(header::ACCEPT, accept);
    sample
}

fn shown(lookup: &Lookup) -> Option<(Arc<StoredResponse>, Stamp, bool)> {
    match &lookup.found {
        Found::Entry {
            entry,
            stamp,
            expired,
        } => Some((Arc::clone(entry), *stamp, *expired)),
        Found::Nothing | Found::NoVariant | Found::Varies(_) => None,
    }
}

#[track_caller]
fn assert_same(found: &StoredResponse, expected: &StoredResponse) {
    assert!(
        found.encode_head() == expected.encode_head() && found.body() == expected.body(),
        "{found:?} is found where {expected:?} was put"
    );
}
