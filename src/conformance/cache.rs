//! The conformance suite for cache stores.

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

/// Checks that a store meets the requirements of [`CacheStore`].
///
/// A lookup must return only the entry that was stored under the same key and variant. Purged
/// entries must not be returned, even if they were filled during the purge. Purges of other names,
/// however many, must not remove any entry. Expired entries must not be returned. A touch must
/// replace the head of only the entry for which it was created. The suite also compares random
/// histories with a model. With a `pause` that sleeps, the suite takes a few seconds.
///
/// The suite purges all entries, so use a separate store that has space for several megabytes.
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
/// Panics if the store violates a requirement. The message states the requirement.
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
    suite.stored_entries_are_returned_unchanged().await;
    suite.later_entry_replaces_earlier_one().await;
    suite.keys_do_not_collide().await;
    suite.variants_coexist().await;
    suite.vary_fields_can_change().await;
    suite.oldest_variants_are_evicted().await;
    suite.touch_replaces_only_the_matching_head().await;
    suite.expired_entries_are_not_returned().await;
    suite.purge_affects_only_its_targets().await;
    suite.purges_of_other_names_remove_no_entry().await;
    suite.purge_affects_fills_in_flight().await;
    suite.is_purged_since_reports_each_purge().await;
    suite.soft_purge_ends_with_the_next_entry().await;
    suite.large_entries_are_stored_whole_or_not_at_all().await;
    suite.canceled_calls_have_no_partial_effect().await;
    suite.concurrent_puts_leave_one_whole_entry().await;
    suite.only_one_concurrent_touch_succeeds().await;
    suite.leases_are_exclusive().await;
    suite.histories().await;
}

/// The retention of entries in all checks that do not test expiry.
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
    async fn stored_entries_are_returned_unchanged(&self) {
        let mut sample = page("/found");
        assert!(
            matches!(self.get(&sample).await.found, Found::Nothing),
            "a lookup of an unknown key returned an entry"
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
            let entry = self.fill(&sample).await;
            let (found, _, expired) = self.found(&sample).await;
            assert_same(&found, &entry);
            assert!(!expired, "a new entry is expired");
        }
    }

    async fn later_entry_replaces_earlier_one(&self) {
        let mut sample = page("/later");
        let mut stamps = Vec::new();
        for body in ["one", "two", "two"] {
            sample.body = Bytes::from_static(body.as_bytes());
            let entry = self.fill(&sample).await;
            let (found, stamp, _) = self.found(&sample).await;
            assert_same(&found, &entry);
            assert!(
                !stamps.contains(&stamp),
                "two entries of one key have the same stamp"
            );
            stamps.push(stamp);
        }
    }

    async fn keys_do_not_collide(&self) {
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
            self.is_missing(sample, "an entry of another key").await;
            put.push(self.fill(sample).await);
        }
        for (sample, entry) in samples.iter().zip(&put) {
            assert_same(&self.found(sample).await.0, entry);
        }
    }

    async fn variants_coexist(&self) {
        let samples = ["one", "two", "three"].map(|accept| variant("/side", accept));
        let mut put = Vec::new();
        for sample in &samples {
            put.push(self.fill(sample).await);
        }
        for (sample, entry) in samples.iter().zip(&put) {
            assert_same(&self.found(sample).await.0, entry);
        }
        let fourth = variant("/side", "four");
        self.is_missing(&fourth, "a variant that was never stored")
            .await;
    }

    async fn vary_fields_can_change(&self) {
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

    async fn oldest_variants_are_evicted(&self) {
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
            self.is_missing(sample, "a variant beyond `max_variants`")
                .await;
        }
    }

    async fn touch_replaces_only_the_matching_head(&self) {
        for sample in [page("/touch"), variant("/touch/varying", "x")] {
            let fence = self.get(&sample).await.fence;
            let nothing = self.samples.entry(&sample);
            let nothing = self.touch_of(&sample, &nothing, Stamp(0), fence);
            assert!(
                !self.touches(nothing).await,
                "a touch of an unknown entry succeeded"
            );

            self.fill(&sample).await;
            let (first, stamp, _) = self.found(&sample).await;
            let later = Sample::later(&first, Duration::from_secs(7));
            let touch = self.touch_of(&sample, &later, stamp, fence);
            assert!(self.touches(touch.clone()).await, "a touch was rejected");
            let (found, touched, _) = self.found(&sample).await;
            assert_same(&found, &later);
            assert_ne!(touched, stamp, "a touch did not change the stamp");
            assert!(
                !self.touches(touch).await,
                "a touch with an outdated stamp succeeded"
            );
            self.fill(&sample).await;
            let stale = self.touch_of(&sample, &later, touched, fence);
            assert!(
                !self.touches(stale).await,
                "a touch replaced the head of a later entry"
            );
        }
    }

    async fn expired_entries_are_not_returned(&self) {
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
        assert!(self.touches(touch).await, "a touch was rejected");
        (self.pause)(shortly + Duration::from_millis(200)).await;
        self.is_missing(&short, "an expired entry").await;
        self.found(&long).await;
        self.found(&touched).await;
    }

    async fn purge_affects_only_its_targets(&self) {
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
                            self.is_missing(sample, "a purged entry").await;
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
            self.is_missing(&samples[gone], "one of several purged entries")
                .await;
        }
    }

    /// Purges more names than a store of fixed size can record.
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

    async fn purge_affects_fills_in_flight(&self) {
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
            self.is_missing(&own, "an entry that was purged during its fill")
                .await;
            // A later fill is not affected by the purge.
            self.fill(&own).await;
            let lookup = self.get(&own).await;
            let (entry, stamp, _) = shown(&lookup).expect("the entry was just stored");
            self.purge(&[target], PurgeMode::Hard).await;
            let touch = self.touch_of(&own, &entry, stamp, lookup.fence);
            self.touches(touch).await;
            self.is_missing(&own, "an entry that was purged during its revalidation")
                .await;

            let fence = self.get(&own).await.fence;
            self.purge(&[target], PurgeMode::Soft).await;
            self.puts(self.put_of(&own, fence)).await;
            if let Some((.., expired)) = shown(&self.get(&own).await) {
                assert!(expired, "a soft purge of {target:?} did not affect a fill");
            }
        }
    }

    async fn is_purged_since_reports_each_purge(&self) {
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
                assert!(purged, "`is_purged_since` missed a purge of {target:?}");
            }
        }
    }

    async fn soft_purge_ends_with_the_next_entry(&self) {
        for target in [self.samples.uri(&page("/soft")), PurgeTarget::All] {
            let sample = page("/soft");
            self.fill(&sample).await;
            self.purge(&[target], PurgeMode::Soft).await;
            let lookup = self.get(&sample).await;
            let (entry, stamp, expired) = shown(&lookup).expect("a soft purge retains the entry");
            assert!(expired, "a soft purge did not expire the entry");
            let touch = self.touch_of(&sample, &entry, stamp, lookup.fence);
            assert!(self.touches(touch).await, "a touch was rejected");
            let (_, _, expired) = self.found(&sample).await;
            assert!(!expired, "a revalidated entry is still expired");

            self.purge(&[target], PurgeMode::Soft).await;
            self.fill(&sample).await;
            let (_, _, expired) = self.found(&sample).await;
            assert!(!expired, "a new entry is still expired");
        }
    }

    async fn large_entries_are_stored_whole_or_not_at_all(&self) {
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
                Some((found, ..)) => assert_same(&found, &self.samples.entry(&sample)),
                None => assert_ne!(
                    outcome,
                    PutOutcome::Stored,
                    "an entry of {bytes} bytes was reported as stored but is not found"
                ),
            }
        }
        // More than a small store can hold. Entries that are found must be correct.
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
                assert_same(&found, &self.samples.entry(&sample));
            }
        }
        self.found(&flood(79)).await;
    }

    async fn canceled_calls_have_no_partial_effect(&self) {
        for polls in 0..4 {
            let sample = page("/given-up");
            let fence = self.get(&sample).await.fence;
            give_up(self.store.put(self.put_of(&sample, fence)), polls);
            if let Some((found, ..)) = shown(&self.get(&sample).await) {
                assert_same(&found, &self.samples.entry(&sample));
            }
            self.fill(&sample).await;
            self.found(&sample).await;
            let uri = self.samples.uri(&sample);
            give_up(self.store.purge(&[uri], PurgeMode::Hard), polls);
            self.purge(&[uri], PurgeMode::Hard).await;
            self.is_missing(&sample, "a purged entry").await;
        }
    }

    async fn concurrent_puts_leave_one_whole_entry(&self) {
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
        assert_same(&found, &self.samples.entry(&sample(number)));

        // Each of these fills started before the purge, which runs concurrently with them.
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
        self.is_missing(
            &sample(0),
            "an entry that was stored concurrently with its purge",
        )
        .await;
    }

    async fn only_one_concurrent_touch_succeeds(&self) {
        let sample = page("/touches");
        self.fill(&sample).await;
        let fence = self.get(&sample).await.fence;
        let (entry, stamp, _) = self.found(&sample).await;
        let touches = (0..64).map(|by| {
            let later = Sample::later(&entry, Duration::from_secs(by));
            self.touches(self.touch_of(&sample, &later, stamp, fence))
        });
        let won = join(touches).await.into_iter().filter(|won| *won).count();
        assert_eq!(
            won, 1,
            "{won} of 64 concurrent touches of one entry succeeded"
        );
    }

    async fn leases_are_exclusive(&self) {
        let (one, other) = (page("/lease"), page("/lease/other"));
        let Some(first) = self.lease(&one, LONG).await else {
            if let Lease::Busy(_) = self.lease_of(&one, LONG).await {
                panic!("a lease that was never granted is busy");
            }
            return;
        };
        assert_eq!(
            self.lease(&one, LONG).await,
            None,
            "two leases of one key were granted at the same time"
        );
        let beside = self.lease(&other, LONG).await;
        assert!(beside.is_some(), "a lease blocks another key");

        self.release(&one, LeaseToken(first.0.wrapping_add(1)))
            .await;
        assert_eq!(
            self.lease(&one, LONG).await,
            None,
            "a lease was released with another token"
        );
        self.release(&one, first).await;
        let shortly = Duration::from_millis(400);
        let second = self.lease(&one, shortly).await;
        let second = second.expect("a released lease is available");
        assert_ne!(second, first, "two leases have the same token");
        (self.pause)(shortly + Duration::from_millis(200)).await;
        let asked = join((0..32).map(|_| self.lease(&one, LONG))).await;
        let leaders: Vec<_> = asked.into_iter().flatten().collect();
        assert_eq!(leaders.len(), 1, "32 concurrent calls have one leader");
        self.release(&one, second).await;
        assert_eq!(
            self.lease(&one, LONG).await,
            None,
            "a lease was released by its previous holder"
        );
        self.release(&one, leaders[0]).await;
    }

    /// Runs random lookups, puts, touches and purges, with fences from current and earlier lookups.
    async fn histories(&self) {
        let mut history = History::new();
        for _ in 0..STEPS {
            self.random_step(&mut history).await;
        }
        let hits = history.hits;
        assert!(
            hits > STEPS / 10,
            "only {hits} of {STEPS} lookups were hits: this store evicts too much"
        );
    }

    async fn random_step(&self, history: &mut History) {
        let place = history.begin_step();
        let lookup = self.get(&place).await;
        let found = shown(&lookup);
        if let Some((entry, _, expired)) = &found {
            let expected = self.samples.entry(&place).variant();
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
        // All entries are purged rarely.
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

    /// Returns all targets that affect a sample.
    fn targets(&self, sample: &Sample) -> Vec<PurgeTarget> {
        let mut targets = vec![PurgeTarget::All, self.samples.uri(sample)];
        targets.extend(sample.caller.map(|caller| self.samples.caller(caller)));
        targets.extend(sample.tags.iter().map(|tag| self.samples.tag(tag)));
        targets
    }

    /// Looks up an entry, and looks it up again if the store returns the `Vary` fields.
    async fn get(&self, sample: &Sample) -> Lookup {
        let key = self.samples.key(sample);
        let selection = self.samples.selection(&sample.asked, None);
        let first = self.store.get(&key, &selection).await;
        let first = first.expect("`get` succeeds");
        let Found::Varies(spec) = &first.found else {
            return first;
        };
        let selection = self.samples.selection(&sample.asked, Some(spec));
        let again = self.store.get(&key, &selection).await;
        let again = again.expect("`get` succeeds");
        assert!(
            !matches!(again.found, Found::Varies(_)),
            "the store returned `Varies` for the fields that it had returned before"
        );
        Lookup {
            fence: first.fence.min(again.fence),
            ..again
        }
    }

    /// Looks up an entry that must exist.
    async fn found(&self, sample: &Sample) -> (Arc<StoredResponse>, Stamp, bool) {
        let lookup = self.get(sample).await;
        shown(&lookup).unwrap_or_else(|| {
            panic!("{sample:?} was stored but is not found: {:?}", lookup.found);
        })
    }

    async fn is_missing(&self, sample: &Sample, what: &str) {
        let lookup = self.get(sample).await;
        assert!(shown(&lookup).is_none(), "{what} was found: {sample:?}");
    }

    /// Looks up an entry and stores a response.
    async fn fill(&self, sample: &Sample) -> Arc<StoredResponse> {
        let fence = self.get(sample).await.fence;
        let put = self.put_of(sample, fence);
        let entry = Arc::clone(&put.entry);
        let outcome = self.puts(put).await;
        assert_eq!(outcome, PutOutcome::Stored, "{sample:?} was not stored");
        entry
    }

    fn put_of(&self, sample: &Sample, fence: Fence) -> Put {
        Put {
            key: self.samples.key(sample),
            entry: self.samples.entry(sample),
            fence,
            retain: LONG,
            max_variants: 16,
        }
    }

    async fn puts(&self, put: Put) -> PutOutcome {
        self.store.put(put).await.expect("`put` succeeds")
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
        touched.expect("`touch` succeeds")
    }

    async fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) {
        let purged = self.store.purge(targets, mode).await;
        purged.expect("`purge` succeeds");
    }

    async fn lease_of(&self, sample: &Sample, at_most: Duration) -> Lease {
        let lease = self.store.lease(&self.samples.key(sample), at_most).await;
        lease.expect("`lease` succeeds")
    }

    async fn lease(&self, sample: &Sample, at_most: Duration) -> Option<LeaseToken> {
        match self.lease_of(sample, at_most).await {
            Lease::Leader(token) => Some(token),
            Lease::Busy(wait) => {
                assert!(wait <= LONG, "a lease is busy for {wait:?}");
                None
            }
            Lease::Unsupported => None,
        }
    }

    async fn release(&self, sample: &Sample, token: LeaseToken) {
        let released = self.store.release(&self.samples.key(sample), token).await;
        released.expect("`release` succeeds");
    }
}

/// The number of steps of a random history.
const STEPS: usize = 1_500;

/// A fence and the step of the lookup that returned it.
type DatedFence = (Fence, usize);

/// A random history of a store, and the model with which it is compared.
struct History {
    random: Random,
    model: Model,
    places: Vec<Sample>,
    /// The index of this step's sample.
    place: usize,
    /// The number of this step, starting at 1.
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

    /// Chooses the fence of this step's lookup, or of an earlier lookup of the same sample.
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

/// The puts and purges, in the order in which they occurred.
#[derive(Default)]
struct Model {
    made: Vec<Made>,
    /// The latest stored entry of each key and variant.
    latest: HashMap<(CacheKey, VariantId), usize>,
    purges: Vec<(PurgeTarget, PurgeMode, usize)>,
}

struct Made {
    entry: Arc<StoredResponse>,
    targets: Vec<PurgeTarget>,
    /// The step of the lookup of its fill.
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

    /// Checks that an entry may be found now.
    fn permits(&self, key: &CacheKey, found: &StoredResponse, expired: bool) {
        let latest = self.latest.get(&(*key, found.variant()));
        let latest = latest.expect("only stored entries are found");
        let made = &self.made[*latest];
        assert_same(found, &made.entry);
        let purged = |by: PurgeMode| {
            self.purges.iter().any(|(target, mode, step)| {
                *mode == by && *step >= made.since && made.targets.contains(target)
            })
        };
        assert!(!purged(PurgeMode::Hard), "a purged entry was found");
        if purged(PurgeMode::Soft) {
            assert!(expired, "an entry that was purged softly is not expired");
        }
    }
}

/// Returns names that no entry has. Most are URLs, because unsafe requests to unknown URLs purge
/// such names.
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

/// Returns the samples for histories: with and without variants, shared and for a single caller.
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
        "expected {expected:?}, found {found:?}"
    );
}
