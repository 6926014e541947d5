//! The cache of a store in two tiers: the memory of this process, then the Redis server.

use super::state::Near;
use std::{sync::Arc, time::Duration};

use crate::store::tiered::store::TieredStore;
use crate::{
    cache::{
        CacheKey, CacheStore, Fence, StoredResponse, Lease, LeaseToken, Lookup, PurgeMode, PurgeTarget, Put, PutOutcome,
        Selection, Touch,
    },
    core::{
        store_api::{store_future::StoreFuture, store_key::StoreKeys},
        time::Clock,
    },
    store::purges::Name,
};

impl CacheStore for TieredStore {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.far)
    }

    fn has_deadline(&self) -> bool {
        CacheStore::has_deadline(&self.far)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let names = self.far.names_for(key, selection);
        if let Some(lookup) = self.near.get(key, selection.variant(&names)) {
            return StoreFuture::ready(lookup);
        }
        let since = self.near.purges.now();
        let asked = match self.far.look_up(key, selection) {
            Ok(asked) => asked,
            Err(error) => return StoreFuture::failed(error),
        };
        let (store, key) = (self.clone(), *key);
        StoreFuture::pending(async move {
            store.near.listen(&store.far);
            let seen = asked.await?;
            store.near.keep(&key, &seen, since);
            Ok(seen.lookup)
        })
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        let key = put.key;
        self.changing(self.far.put(put), move |near| near.forget(&key))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let key = touch.key;
        self.changing(self.far.touch(touch), move |near| near.forget(&key))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let names: Vec<_> = targets.iter().map(Name::of).collect();
        let purging = self.far.purge(targets, mode);
        self.changing(purging, move |near| near.purge(names.iter().copied()))
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        self.far.is_purged_since(key, entry, fence)
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        // The leader of a fill first checks on the server whether another instance has filled the entry.
        self.near.forget(key);
        self.far.lease(key, at_most)
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        self.far.release(key, token)
    }
}

impl TieredStore {
    /// Forgets what a call makes invalid: before the call, in case that it is canceled, and after it,
    /// also if it failed, as the server may have done it.
    fn changing<T: Send + 'static>(
        &self,
        asked: StoreFuture<T>,
        forget: impl Fn(&Near) + Send + 'static,
    ) -> StoreFuture<T> {
        forget(&self.near);
        match asked.into_ready() {
            Ok(answer) => answer.into(),
            Err(pending) => {
                let near = Arc::clone(&self.near);
                StoreFuture::pending(async move {
                    let answer = pending.await;
                    forget(&near);
                    answer
                })
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "test-util")]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, header};

    use super::*;
    use crate::{
        cache::sample::{Sample, Samples},
        core::store_api::store_key::StoreKey,
    };

    struct Tier {
        near: Near,
        samples: Samples,
    }

    impl Tier {
        /// Returns memory to which purges arrive.
        fn new() -> Self {
            let keys = StoreKeys::random();
            let near = Near::new(16 << 20);
            near.hear(Purged::Heard);
            Self {
                near,
                samples: Samples::new(&keys, "test"),
            }
        }

        fn now(&self) -> u64 {
            self.near.purges.now()
        }

        fn keep(&self, sample: &Sample, since: u64) {
            let seen = Seen {
                lookup: Lookup {
                    fence: Fence(7),
                    found: Found::Entry {
                        entry: self.samples.answer(sample),
                        stamp: Stamp(1),
                        expired: false,
                    },
                },
                left: Duration::from_secs(60),
            };
            self.near.keep(&self.samples.key(sample), &seen, since);
        }

        fn has(&self, sample: &Sample) -> bool {
            let variant = self.samples.answer(sample).variant();
            let key = self.samples.key(sample);
            self.near.get(&key, variant).is_some()
        }

        fn entries(&self) -> usize {
            self.near.parts.iter().map(|part| lock(part).len()).sum()
        }

        fn purge(&self, target: PurgeTarget) {
            self.near.purge([Name::of(&target)]);
        }
    }

    fn page(path: &str) -> Sample {
        Sample {
            path: path.to_owned(),
            body: Bytes::from_static(b"body"),
            ..Sample::default()
        }
    }

    fn variant(path: &str, accept: &'static str) -> Sample {
        let mut sample = page(path);
        sample.vary = vec![header::ACCEPT];
        let accept = HeaderValue::from_static(accept);
        sample.asked.insert(header::ACCEPT, accept);
        sample
    }

    /// Shared, of a caller, tagged, and two variants.
    fn each_kind() -> [Sample; 5] {
        let tagged = Sample {
            tags: vec!["a", "b", "c"],
            ..page("/tagged")
        };
        let own = Sample {
            caller: Some(1),
            ..page("/own")
        };
        let (one, two) = (variant("/varying", "one"), variant("/varying", "two"));
        [page("/shared"), own, tagged, one, two]
    }

    fn other(number: u64) -> PurgeTarget {
        let digest = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let key = StoreKey::from_bytes(digest.to_le_bytes());
        match number % 3 {
            0 => PurgeTarget::Tag(key),
            1 => PurgeTarget::Partition(key),
            _ => PurgeTarget::Uri(key),
        }
    }

    #[test]
    fn purges_of_other_names_leave_every_copy_in_its_place() {
        let (tier, samples) = (Tier::new(), each_kind());
        samples
            .iter()
            .for_each(|sample| tier.keep(sample, tier.now()));
        for number in 1..200_000 {
            tier.purge(other(number));
        }
        assert!(samples.iter().all(|sample| tier.has(sample)));
    }

    #[test]
    fn purge_invalidates_copies_without_visiting_them() {
        type Target = fn(&Samples, &[Sample]) -> PurgeTarget;
        let samples = each_kind();
        let cases: [(Target, &[usize]); 5] = [
            (|names, samples| names.uri(&samples[0]), &[0]),
            (|names, samples| names.uri(&samples[3]), &[3, 4]),
            (|names, _| names.caller(1), &[1]),
            (|names, _| names.tag("c"), &[2]),
            (|_, _| PurgeTarget::All, &[0, 1, 2, 3, 4]),
        ];
        for (target, gone) in cases {
            let tier = Tier::new();
            samples
                .iter()
                .for_each(|sample| tier.keep(sample, tier.now()));
            tier.purge(target(&tier.samples, &samples));
            for (number, sample) in samples.iter().enumerate() {
                assert_eq!(tier.has(sample), !gone.contains(&number), "{number}");
            }
            assert_eq!(tier.entries(), samples.len(), "no copy was visited");
        }
    }

    #[test]
    fn purge_that_another_instance_published_invalidates_copies() {
        let (tier, [shared, own, ..]) = (Tier::new(), each_kind());
        let PurgeTarget::Uri(uri) = tier.samples.uri(&shared) else {
            panic!("a URL is named by its URL");
        };
        let message = [&b"u"[..], uri.as_bytes()].concat();
        // Everything, and a kind that a later version might publish.
        for names in [&message[..], &[b'a'; NAME_BYTES], &[b'z'; NAME_BYTES]] {
            tier.keep(&shared, tier.now());
            tier.keep(&own, tier.now());
            tier.near.hear(Purged::These(names));
            assert!(!tier.has(&shared));
            assert_eq!(tier.has(&own), names[0] == b'u');
        }
    }

    #[test]
    fn late_lookup_is_not_kept_after_a_purge_of_its_names_and_is_after_one_of_others() {
        let (tier, samples) = (Tier::new(), each_kind());
        for sample in &samples {
            let since = tier.now();
            tier.purge(other(1));
            tier.keep(sample, since);
            assert!(tier.has(sample));

            let since = tier.now();
            tier.purge(tier.samples.uri(sample));
            tier.keep(sample, since);
            assert!(!tier.has(sample));

            let since = tier.now();
            tier.near.forget(&tier.samples.key(sample));
            tier.keep(sample, since);
            assert!(!tier.has(sample));

            let since = tier.now();
            tier.purge(PurgeTarget::All);
            tier.keep(sample, since);
            assert!(!tier.has(sample));

            tier.keep(sample, tier.now());
            assert!(tier.has(sample));
        }
    }

    #[test]
    fn write_to_a_key_invalidates_all_variants_of_it_and_no_other_key() {
        let (tier, samples) = (Tier::new(), each_kind());
        samples
            .iter()
            .for_each(|sample| tier.keep(sample, tier.now()));
        tier.near.forget(&tier.samples.key(&samples[3]));
        let kept = samples.each_ref().map(|sample| tier.has(sample));
        assert_eq!(kept, [true, true, true, false, false]);
    }

    #[test]
    fn nothing_is_used_while_purges_do_not_arrive_nor_what_was_kept_before() {
        let (tier, [sample, ..]) = (Tier::new(), each_kind());
        tier.keep(&sample, tier.now());
        let since = tier.now();
        tier.near.hear(Purged::Unheard);
        assert!(!tier.has(&sample));
        tier.keep(&sample, since);
        tier.near.hear(Purged::Heard);
        assert!(!tier.has(&sample));
        tier.keep(&sample, since);
        assert!(!tier.has(&sample), "its lookup began before purges arrived");
        tier.keep(&sample, tier.now());
        assert!(tier.has(&sample));
    }
}
