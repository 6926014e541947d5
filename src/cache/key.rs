//! Under which key an answer is kept: who may see it, and what was asked.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::vary::Variants;
use crate::store_key::{KeySpace, LongKeyWriter, LongStoreKey, StoreKey, StoreKeys};

/// Under which key an answer is kept.
///
/// Both halves are keyed digests: nothing of a URL or a caller stands in them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey {
    uri: StoreKey,
    full: LongStoreKey,
}

impl CacheKey {
    /// Returns the digest of authority, path and query: the same for every caller and scheme.
    ///
    /// What is purged by URL is purged by this; a clustered store takes it as the hash tag, so
    /// that the purges of a URL and all answers under it are in one place.
    pub fn uri(&self) -> &StoreKey {
        &self.uri
    }

    /// Returns the digest of all that tells answers apart: who may see it, scheme, authority,
    /// path and query.
    pub fn full(&self) -> &LongStoreKey {
        &self.full
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({})", self.full)
    }
}

/// Who may see an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Partition<'a> {
    /// Everybody.
    Shared,
    /// The one caller with this digest.
    Own(&'a [u8; 32]),
}

/// What was asked: the parts of a request's target that tell answers apart.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) scheme: &'a str,
    pub(super) authority: &'a [u8],
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    /// The request's fields, where one of them may change what it is routed to.
    pub(super) rerouting: Option<&'a HeaderMap>,
    /// Fields by which the route keeps answers apart, and where their values are.
    pub(super) vary_by: Option<(&'a [HeaderName], &'a HeaderMap)>,
}

/// Fields by which a proxy or a framework may be led to another answer. They are part of the key
/// wherever a request bears one.
pub(super) const REROUTING: [&str; 9] = [
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-host",
    "x-original-url",
    "x-rewrite-url",
];

/// Returns whether this is the name of such a field.
#[inline]
pub(super) fn reroutes(name: &str) -> bool {
    // All of them begin so, and few others do.
    matches!(name.as_bytes(), [b'x', b'-', ..] | [b'f', b'o', ..]) && REROUTING.contains(&name)
}

/// What a request's `Host` fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Host<'a> {
    #[default]
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> Host<'a> {
    /// Takes one more of them.
    pub(super) fn and(self, value: &'a HeaderValue) -> Self {
        match self {
            Self::None => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

impl<'a> Target<'a> {
    /// Takes a target whose origin is known.
    pub(super) fn plain(authority: &'a str, uri: &'a Uri) -> Self {
        Self {
            scheme: uri.scheme_str().unwrap_or_default(),
            authority: authority.as_bytes(),
            path: uri.path(),
            query: uri.query(),
            rerouting: None,
            vary_by: None,
        }
    }

    /// Reads a request's target. `None` if its host is not to be relied on: two of them, or one
    /// that contradicts the target.
    pub(super) fn of(
        uri: &'a Uri,
        host: Host<'a>,
        headers: &'a HeaderMap,
        rerouted: bool,
    ) -> Option<Self> {
        let host = match host {
            Host::None => None,
            Host::One(host) if host.as_bytes().is_ascii() => Some(host.as_bytes()),
            Host::One(_) | Host::Several => return None,
        };
        let named = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let authority = match (named, host) {
            (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => return None,
            (Some(named), _) => named,
            (None, host) => host.unwrap_or_default(),
        };
        Some(Self {
            scheme: uri.scheme_str().unwrap_or_default(),
            authority,
            path: uri.path(),
            query: uri.query(),
            rerouting: rerouted.then_some(headers),
            vary_by: None,
        })
    }

    /// Writes the URL into a key: what is the same for every caller and scheme.
    fn write_name(&self, key: &mut LongKeyWriter<'_>) {
        key.lower_case_field(self.authority);
        key.field(self.path.as_bytes());
        // No query and an empty one are two targets.
        match self.query {
            None => key.field(b"-"),
            Some(query) => key.field(b"?").field(query.as_bytes()),
        };
    }
}

/// Makes keys, for one cache among those of a store.
#[derive(Clone, Debug)]
pub(super) struct KeyMaker {
    answers: KeySpace,
    details: KeySpace,
    partitions: KeySpace,
    tags: KeySpace,
    variants: Variants,
}

impl KeyMaker {
    pub(super) fn new(keys: &StoreKeys, namespace: &str, normalise: bool) -> Self {
        let space = |what: &str| keys.space(&format!("cache {what} {namespace}"));
        Self {
            answers: space("answer"),
            details: space("detail"),
            partitions: space("partition"),
            tags: space("tag"),
            variants: Variants::new(space("variant"), normalise),
        }
    }

    /// Returns the key of what was asked, for everybody.
    ///
    /// It is the digest of the URL, whose first half is what that is purged by, and of what else
    /// tells answers apart, where there is any.
    #[inline]
    pub(super) fn shared(&self, target: &Target<'_>) -> CacheKey {
        let name = self.name(target);
        let is_plain = target.rerouting.is_none() && target.vary_by.is_none();
        let full = match target.scheme {
            "" if is_plain => name,
            "http" if is_plain => name.marked(1),
            "https" if is_plain => name.marked(2),
            _ => self.detailed(&name, target),
        };
        CacheKey {
            uri: name.first_half(),
            full,
        }
    }

    /// Returns the key of the same for the one caller with this digest, and with these fields, where
    /// credentials stand beside what the caller is known by.
    #[inline]
    pub(super) fn own(
        &self,
        shared: &CacheKey,
        digest: &[u8; 32],
        credentials: Option<(&[HeaderName], &HeaderMap)>,
    ) -> CacheKey {
        let full = match credentials {
            None => shared.full,
            Some((names, headers)) => self.credentialed(&shared.full, names, headers),
        };
        CacheKey {
            uri: shared.uri,
            full: self.answers.long_of_two(&full, digest),
        }
    }

    #[cold]
    fn credentialed(
        &self,
        shared: &LongStoreKey,
        names: &[HeaderName],
        headers: &HeaderMap,
    ) -> LongStoreKey {
        let mut full = self.details.long();
        full.field(b"credentials").field(shared.as_bytes());
        write_lines(&mut full, names, headers);
        full.finish()
    }

    #[inline]
    fn name(&self, target: &Target<'_>) -> LongStoreKey {
        let mut name = self.answers.long();
        target.write_name(&mut name);
        name.finish()
    }

    #[cold]
    fn detailed(&self, name: &LongStoreKey, target: &Target<'_>) -> LongStoreKey {
        let mut full = self.details.long();
        full.field(name.as_bytes());
        full.field(target.scheme.as_bytes());
        if let Some(headers) = target.rerouting {
            for name in REROUTING {
                for value in headers.get_all(name) {
                    full.field(name.as_bytes()).field(routing_part(name, value));
                }
            }
        }
        if let Some((names, headers)) = target.vary_by {
            full.field(b"vary-by");
            write_lines(&mut full, names, headers);
        }
        full.finish()
    }

    /// Returns the key by which a URL is purged, for every caller.
    pub(super) fn uri(&self, target: &Target<'_>) -> StoreKey {
        self.name(target).first_half()
    }

    /// Returns the key by which all that one caller got is purged.
    pub(super) fn partition(&self, partition: Partition<'_>) -> StoreKey {
        let mut key = self.partitions.short();
        if let Partition::Own(digest) = partition {
            key.field(digest);
        }
        key.finish()
    }

    /// Returns the key by which all that bears a tag is purged.
    pub(super) fn tag(&self, tag: &[u8]) -> StoreKey {
        let mut key = self.tags.short();
        key.field(tag);
        key.finish()
    }

    /// Returns how variants are told apart.
    pub(super) fn variants(&self) -> &Variants {
        &self.variants
    }
}

/// Writes all lines of some fields into a key.
fn write_lines(key: &mut LongKeyWriter<'_>, names: &[HeaderName], headers: &HeaderMap) {
    for name in names {
        // How many lines follow: one cannot be taken for the next name.
        let lines = headers.get_all(name).iter().count() as u64;
        key.field(name.as_str().as_bytes())
            .field(&lines.to_le_bytes());
        for value in headers.get_all(name) {
            key.field(value.as_bytes());
        }
    }
}

/// Returns the part of a field that may lead elsewhere.
///
/// `Forwarded` names the client too, by whom nothing is routed: of it, only what follows the
/// first `host=` or `proto=` counts.
fn routing_part<'a>(name: &str, value: &'a HeaderValue) -> &'a [u8] {
    let bytes = value.as_bytes();
    if name != "forwarded" {
        return bytes;
    }
    let marks = |at: &usize| {
        let rest = &bytes[*at..];
        [&b"host="[..], b"proto="].iter().any(|mark| {
            rest.get(..mark.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(mark))
        })
    };
    match (0..bytes.len()).find(marks) {
        Some(at) => &bytes[at..],
        None => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl KeyMaker {
        fn key(&self, target: &Target<'_>, partition: Partition<'_>) -> CacheKey {
            let shared = self.shared(target);
            match partition {
                Partition::Shared => shared,
                Partition::Own(digest) => self.own(&shared, digest, None),
            }
        }
    }

    fn maker() -> KeyMaker {
        KeyMaker::new(&StoreKeys::from_secret(&[1; 32]).unwrap(), "", false)
    }

    fn target(
        authority: &'static str,
        path: &'static str,
        query: Option<&'static str>,
    ) -> Target<'static> {
        Target {
            scheme: "",
            authority: authority.as_bytes(),
            path,
            query,
            rerouting: None,
            vary_by: None,
        }
    }

    #[test]
    fn each_part_makes_another_key() {
        let maker = maker();
        let shared = |target: Target<'_>| *maker.key(&target, Partition::Shared).full();
        let mut keys = vec![
            shared(target("a", "/b", None)),
            shared(target("a", "/b", Some(""))),
            shared(target("a", "/", Some("b"))),
            shared(target("ab", "/", None)),
            shared(target("a", "/B", None)),
            shared(Target {
                scheme: "https",
                ..target("a", "/b", None)
            }),
            shared(Target {
                scheme: "http",
                ..target("a", "/b", None)
            }),
            shared(Target {
                scheme: "other",
                ..target("a", "/b", None)
            }),
            *maker
                .key(&target("a", "/b", None), Partition::Own(&[0; 32]))
                .full(),
            *maker
                .key(&target("a", "/b", None), Partition::Own(&[1; 32]))
                .full(),
        ];
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    #[test]
    fn the_case_of_a_host_does_not_matter_and_that_of_a_path_does() {
        let maker = maker();
        let key = |authority, path| maker.key(&target(authority, path, None), Partition::Shared);
        assert_eq!(key("Example.COM", "/a"), key("example.com", "/a"));
        assert_ne!(key("example.com", "/A"), key("example.com", "/a"));
    }

    #[test]
    fn every_caller_shares_the_key_by_which_a_url_is_purged() {
        let maker = maker();
        let target = target("a", "/b", None);
        let one = maker.key(&target, Partition::Shared);
        let two = maker.key(&target, Partition::Own(&[2; 32]));
        assert_eq!(one.uri(), two.uri());
        assert_ne!(one.full(), two.full());
    }

    #[test]
    fn a_field_that_reroutes_is_part_of_the_key() {
        let maker = maker();
        let key = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let rerouting = Some(&headers);
            maker.key(
                &Target {
                    rerouting,
                    ..target("a", "/", None)
                },
                Partition::Shared,
            )
        };
        assert_ne!(
            key("x-forwarded-host", "evil"),
            key("x-forwarded-host", "good")
        );
        assert_ne!(key("x-forwarded-host", "evil"), key("x-host", "evil"));
        assert_ne!(
            key("forwarded", "for=1;host=evil"),
            key("forwarded", "for=1;Host=good")
        );
        assert_eq!(
            key("forwarded", "for=1;proto=http"),
            key("forwarded", "for=2;proto=http")
        );
    }

    #[test]
    fn a_host_that_is_not_to_be_relied_on_makes_no_key() {
        let (a, upper, b) = (
            HeaderValue::from_static("a"),
            HeaderValue::from_static("A"),
            HeaderValue::from_static("b"),
        );
        let odd = HeaderValue::from_bytes(b"\xe4").unwrap();
        let headers = HeaderMap::new();
        let is_told = |uri: &'static str, hosts: &[&HeaderValue]| {
            let host = hosts.iter().fold(Host::None, |host, value| host.and(value));
            Target::of(&Uri::from_static(uri), host, &headers, false).is_some()
        };
        assert!(is_told("http://a/", &[]));
        assert!(is_told("http://a/", &[&upper]));
        assert!(!is_told("http://a/", &[&b]));
        assert!(is_told("/", &[]) && is_told("/", &[&b]));
        assert!(!is_told("/", &[&a, &a]));
        assert!(!is_told("/", &[&odd]));
    }

    #[test]
    fn debug_shows_a_digest_and_no_url() {
        let key = maker().key(&target("host", "/secret", None), Partition::Shared);
        assert!(!format!("{key:?}").contains("secret"));
    }

    proptest::proptest! {
        #[test]
        fn equal_keys_are_equal_parts(
            one in ("[ab]{0,2}", "/[ab]{0,2}", proptest::option::of("[ab]{0,2}")),
            two in ("[ab]{0,2}", "/[ab]{0,2}", proptest::option::of("[ab]{0,2}")),
        ) {
            let maker = maker();
            let key = |(authority, path, query): &(String, String, Option<String>)| {
                let query = query.as_deref();
                let target = Target { scheme: "", authority: authority.as_bytes(), path, query, rerouting: None, vary_by: None, };
                maker.key(&target, Partition::Shared)
            };
            proptest::prop_assert_eq!(one == two, key(&one) == key(&two));
        }
    }
}
