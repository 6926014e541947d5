//! Cache keys: the partition and the request target of an entry.

use std::fmt;

use http::{HeaderMap, HeaderName, Uri};

use super::{normal_form, rerouting};
use crate::{
    cache::http::{
        cache_control::Targeted,
        field_names::{FieldLines, FieldNames},
        vary::{VariantId, Variants},
    },
    core::store_api::store_key::{KeySpace, LongKeyWriter, LongStoreKey, StoreKey, StoreKeys},
};

/// The key of a cache entry.
///
/// Both parts are keyed digests: neither contains a URL or a caller in plain text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey {
    uri: StoreKey,
    full: LongStoreKey,
}

impl CacheKey {
    /// Returns the digest of the URL's normal form, by which the URL's responses are purged.
    ///
    /// The digest is the same for every caller, every scheme, and every equivalent spelling of the
    /// URL: with or without a default port, and with unreserved characters percent-encoded or not.
    /// A clustered store uses the digest as the hash tag, so that all entries and all purges of a
    /// URL are on one node.
    pub fn uri(&self) -> &StoreKey {
        &self.uri
    }

    /// Returns the digest of everything that distinguishes responses: partition, scheme, authority,
    /// path and query as sent, and the request fields that can select another resource.
    pub fn full(&self) -> &LongStoreKey {
        &self.full
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({})", self.full)
    }
}

/// The callers to which an entry is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partition<'a> {
    /// All callers.
    Shared,
    /// The caller with this digest.
    Own(&'a [u8; 32]),
}

/// The parts of a request that distinguish responses.
#[derive(Clone, Copy)]
pub(crate) struct RequestTarget<'a> {
    pub(crate) scheme: &'a str,
    /// Without the default port of the scheme.
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The URI that the inner service receives, if it differs from the client's.
    pub(crate) inner: Option<&'a Uri>,
    /// The request's fields, if one of them can select another resource.
    pub(crate) rerouting: Option<&'a HeaderMap>,
    /// The fields of the policy's `vary_by`, and the fields of the request.
    pub(crate) vary_by: Option<(&'a [HeaderName], &'a HeaderMap)>,
}

/// The two URIs of a request.
#[derive(Clone, Copy)]
pub(crate) struct Uris<'a> {
    /// The URI that the client sent.
    pub(crate) client: &'a Uri,
    /// The URI that the inner service receives.
    pub(crate) inner: &'a Uri,
}

impl Uris<'_> {
    /// Returns `true` if the URIs differ. Usually both are the same reference, so that is compared
    /// first.
    #[inline]
    fn differ(&self) -> bool {
        !std::ptr::eq(self.client, self.inner) && self.client != self.inner
    }
}

impl<'a> RequestTarget<'a> {
    /// Returns the target of a URL with this authority.
    pub(crate) fn plain(authority: &'a str, uri: &'a Uri) -> Self {
        let scheme = uri.scheme_str().unwrap_or_default();
        Self {
            scheme,
            authority: normal_form::without_default_port(scheme, authority.as_bytes()),
            path: uri.path(),
            query: uri.query(),
            inner: None,
            rerouting: None,
            vary_by: None,
        }
    }

    /// Returns the target of a request. Returns `None` if its host is unreliable: there are several
    /// `Host` fields, or one that contradicts the URI.
    pub(crate) fn of(
        uris: Uris<'a>,
        host: FieldLines<'a>,
        headers: &'a HeaderMap,
        rerouted: bool,
    ) -> Option<Self> {
        let host = match host {
            FieldLines::None => None,
            FieldLines::One(host) if host.as_bytes().is_ascii() => Some(host.as_bytes()),
            FieldLines::One(_) | FieldLines::Several => return None,
        };
        let scheme = uris.client.scheme_str().unwrap_or_default();
        let without_port = |authority| normal_form::without_default_port(scheme, authority);
        let host = host.map(without_port);
        let named = uris.client.authority();
        let named = named.map(|named| without_port(named.as_str().as_bytes()));
        let authority = match (named, host) {
            (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => return None,
            (Some(named), _) => named,
            (None, host) => host.unwrap_or_default(),
        };
        Some(Self {
            scheme,
            authority,
            path: uris.client.path(),
            query: uris.client.query(),
            inner: uris.differ().then_some(uris.inner),
            rerouting: rerouted.then_some(headers),
            vary_by: None,
        })
    }

    /// Returns `true` if the authority contains user information, which is a credential.
    #[inline]
    pub(crate) fn has_user_info(&self) -> bool {
        normal_form::has_byte(self.authority, b'@')
    }

    /// Returns `true` if only the scheme and the URL distinguish the response.
    fn is_plain(&self) -> bool {
        self.inner.is_none() && self.rerouting.is_none() && self.vary_by.is_none()
    }

    /// Writes the URL into a key, without its scheme.
    fn write_name(&self, key: &mut LongKeyWriter<'_>) {
        write_url(key, self.authority, self.path, self.query);
    }

    /// Returns `true` if the URL, which has no user information, is in its normal form.
    #[inline]
    fn is_normal(&self) -> bool {
        normal_form::is_authority(self.authority)
            && normal_form::is_percent_encoding(self.path)
            && self.query.is_none_or(normal_form::is_percent_encoding)
    }

    /// Writes the URL's normal form into a key, without its scheme.
    fn write_normal_name(&self, key: &mut LongKeyWriter<'_>) {
        let authority = normal_form::authority(self.authority);
        let path = normal_form::percent_encoding(self.path);
        let query = self.query.map(normal_form::percent_encoding);
        write_url(key, &authority, &path, query.as_deref());
    }
}

/// Creates the keys of one cache of a store.
#[derive(Clone, Debug)]
pub(crate) struct KeyMaker {
    entries: KeySpace,
    details: KeySpace,
    partitions: KeySpace,
    tags: KeySpace,
    routes: KeySpace,
    variants: Variants,
    /// Separates entries that were stored under different target lists.
    target_list: Option<LongStoreKey>,
}

impl KeyMaker {
    pub(crate) fn new(keys: &StoreKeys, namespace: &str, normalize: bool) -> Self {
        let space = |what: &str| keys.space(&format!("cache {what} {namespace}"));
        Self {
            entries: space("answer"),
            details: space("detail"),
            partitions: space("partition"),
            tags: space("tag"),
            routes: space("route"),
            variants: Variants::new(space("variant"), normalize),
            target_list: None,
        }
    }

    /// Adds list-valued request fields.
    pub(crate) fn list_headers(mut self, names: FieldNames) -> Self {
        self.variants = self.variants.list_headers(names);
        self
    }

    /// Separates entries from those of caches with another target list on the same store: another
    /// list might make a response private or not storable. Purges apply to all of them.
    pub(crate) fn target_list(mut self, targeted: &[Targeted]) -> Self {
        let mut list = self.details.long();
        list.field(b"target list");
        for field in targeted {
            list.field(field.name().as_bytes());
        }
        let digest = list.finish();
        self.target_list = (!targeted.is_empty()).then_some(digest);
        self
    }

    /// Returns the key of a target in the shared partition.
    ///
    /// It is the digest of the URL and of everything else that distinguishes responses. The purge
    /// key of the URL is the first half of the digest of its normal form, which usually is the URL
    /// itself.
    #[inline]
    pub(crate) fn shared(&self, target: &RequestTarget<'_>) -> CacheKey {
        let name = self.name(target);
        let is_plain = target.is_plain();
        let full = match target.scheme {
            "" if is_plain => name,
            "http" if is_plain => name.marked(1),
            "https" if is_plain => name.marked(2),
            _ => self.detailed(&name, target),
        };
        let full = match &self.target_list {
            None => full,
            Some(list) => self.details.long_of_two(&full, list.as_bytes()),
        };
        CacheKey {
            uri: self.purged_by(name, target),
            full,
        }
    }

    /// Returns the key of the same target for the caller with this digest. `credentials` are the
    /// names and values of further credential fields, if the request has any.
    #[inline]
    pub(crate) fn own(
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
            full: self.entries.long_of_two(&full, digest),
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
    fn name(&self, target: &RequestTarget<'_>) -> LongStoreKey {
        let mut name = self.entries.long();
        target.write_name(&mut name);
        name.finish()
    }

    /// Returns the purge key of a target. `name` is the digest of the URL as sent.
    #[inline]
    fn purged_by(&self, name: LongStoreKey, target: &RequestTarget<'_>) -> StoreKey {
        match target.is_normal() {
            true => name.first_half(),
            false => self.normal_name(target).first_half(),
        }
    }

    fn normal_name(&self, target: &RequestTarget<'_>) -> LongStoreKey {
        let mut name = self.entries.long();
        target.write_normal_name(&mut name);
        name.finish()
    }

    #[cold]
    fn detailed(&self, name: &LongStoreKey, target: &RequestTarget<'_>) -> LongStoreKey {
        let mut full = self.details.long();
        full.field(name.as_bytes());
        full.field(target.scheme.as_bytes());
        if let Some(inner) = target.inner {
            full.field(b"inner");
            write_inner(&mut full, inner);
        }
        if let Some(headers) = target.rerouting {
            rerouting::write(&mut full, headers);
        }
        if let Some((names, headers)) = target.vary_by {
            full.field(b"vary-by");
            write_lines(&mut full, names, headers);
        }
        full.finish()
    }

    /// Returns the purge key of a URL, for every caller and in every spelling.
    pub(crate) fn uri(&self, target: &RequestTarget<'_>) -> StoreKey {
        self.normal_name(target).first_half()
    }

    /// Returns the purge key of all entries of one caller.
    pub(crate) fn partition(&self, partition: Partition<'_>) -> StoreKey {
        let mut key = self.partitions.short();
        if let Partition::Own(digest) = partition {
            key.field(digest);
        }
        key.finish()
    }

    /// Returns the purge key of all entries with a tag.
    pub(crate) fn tag(&self, tag: &[u8]) -> StoreKey {
        let mut key = self.tags.short();
        key.field(tag);
        key.finish()
    }

    /// Returns the digest of a route template.
    pub(crate) fn route(&self, template: &str) -> StoreKey {
        self.routes.short_key(template.as_bytes())
    }

    /// Returns the key of a flight for one range of a cache key.
    pub(crate) fn part(&self, key: &CacheKey, ranges: &HeaderMap) -> LongStoreKey {
        let mut part = self.details.long();
        part.field(b"part").field(key.full().as_bytes());
        write_lines(&mut part, &[http::header::RANGE], ranges);
        part.finish()
    }

    /// Returns the key of a flight for one variant of a cache key.
    pub(crate) fn variant(&self, key: &CacheKey, variant: &VariantId) -> LongStoreKey {
        let mut flight = self.details.long();
        flight.field(b"variant").field(key.full().as_bytes());
        flight.field(variant.as_bytes());
        flight.finish()
    }

    /// Returns the rules by which variants are distinguished.
    pub(crate) fn variants(&self) -> &Variants {
        &self.variants
    }
}

/// Writes a URL into a key, without its scheme.
#[inline]
fn write_url(key: &mut LongKeyWriter<'_>, authority: &[u8], path: &str, query: Option<&str>) {
    key.lowercase_field(authority);
    key.field(path.as_bytes());
    // A missing and an empty query are different targets.
    match query {
        None => key.field(b"-"),
        Some(query) => key.field(b"?").field(query.as_bytes()),
    };
}

/// Writes the URI that the inner service receives into a key.
fn write_inner(key: &mut LongKeyWriter<'_>, inner: &Uri) {
    let authority = inner.authority().map_or("", |authority| authority.as_str());
    key.field(inner.scheme_str().unwrap_or_default().as_bytes());
    write_url(key, authority.as_bytes(), inner.path(), inner.query());
}

/// Writes all lines of some fields into a key.
fn write_lines(key: &mut LongKeyWriter<'_>, names: &[HeaderName], headers: &HeaderMap) {
    for name in names {
        // The number of lines delimits them from the next name.
        let lines = headers.get_all(name).iter().count() as u64;
        key.field(name.as_str().as_bytes())
            .field(&lines.to_le_bytes());
        for value in headers.get_all(name) {
            key.field(value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    impl KeyMaker {
        fn key(&self, target: &RequestTarget<'_>, partition: Partition<'_>) -> CacheKey {
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
    ) -> RequestTarget<'static> {
        RequestTarget {
            scheme: "",
            authority: authority.as_bytes(),
            path,
            query,
            inner: None,
            rerouting: None,
            vary_by: None,
        }
    }

    #[test]
    fn each_part_makes_another_key() {
        let maker = maker();
        let shared = |target: RequestTarget<'_>| *maker.key(&target, Partition::Shared).full();
        let mut keys = vec![
            shared(target("a", "/b", None)),
            shared(target("a", "/b", Some(""))),
            shared(target("a", "/", Some("b"))),
            shared(target("ab", "/", None)),
            shared(target("a", "/B", None)),
            shared(RequestTarget {
                scheme: "https",
                ..target("a", "/b", None)
            }),
            shared(RequestTarget {
                scheme: "http",
                ..target("a", "/b", None)
            }),
            shared(RequestTarget {
                scheme: "other",
                ..target("a", "/b", None)
            }),
            shared(RequestTarget {
                inner: Some(&Uri::from_static("/c")),
                ..target("a", "/b", None)
            }),
            shared(RequestTarget {
                inner: Some(&Uri::from_static("/c?")),
                ..target("a", "/b", None)
            }),
            shared(RequestTarget {
                inner: Some(&Uri::from_static("http://a/c")),
                ..target("a", "/b", None)
            }),
            shared(target("a:80", "/b", None)),
            shared(target("a", "/%62", None)),
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
    fn every_spelling_of_a_url_is_purged_by_one_key() {
        let maker = maker();
        let key = |authority, path, query| maker.shared(&target(authority, path, query));
        let one = key("h", "/a%2Fb", Some("c"));
        for (authority, path, query) in [
            ("H:80", "/a%2Fb", "c"),
            ("h:", "/a%2Fb", "c"),
            ("h:443", "/a%2fb", "c"),
            ("h", "/%61%2Fb", "c"),
            ("h", "/a%2Fb", "%63"),
        ] {
            let other = key(authority, path, Some(query));
            assert_eq!(one.uri(), other.uri(), "{authority} {path} {query}");
            assert_ne!(one.full(), other.full(), "{authority} {path} {query}");
            assert_eq!(*one.uri(), maker.uri(&target(authority, path, Some(query))));
        }
        for (authority, path, query) in [
            ("h:8080", "/a%2Fb", "c"),
            ("h", "/a/b", "c"),
            ("h", "/A%2Fb", "c"),
            ("h", "/a%2Fb", "d"),
        ] {
            let other = key(authority, path, Some(query));
            assert_ne!(one.uri(), other.uri(), "{authority} {path} {query}");
        }
    }

    #[test]
    fn default_port_of_a_known_scheme_makes_no_other_key() {
        let maker = maker();
        let key = |uri: &'static str, host: Option<&'static str>| {
            let (uri, headers) = (Uri::from_static(uri), HeaderMap::new());
            let host = host.map(HeaderValue::from_static);
            let host = host.as_ref().map_or(FieldLines::None, FieldLines::One);
            let uris = Uris {
                client: &uri,
                inner: &uri,
            };
            RequestTarget::of(uris, host, &headers, false).map(|target| maker.shared(&target))
        };
        let one = key("http://h/e", None);
        assert!(one.is_some());
        for (uri, host) in [
            ("http://h:80/e", None),
            ("http://h:/e", None),
            ("http://h/e", Some("h:80")),
            ("http://h:80/e", Some("H")),
            ("http://h:080/e", Some("h:")),
        ] {
            assert_eq!(one, key(uri, host), "{uri} {host:?}");
        }
        assert_eq!(
            key("https://h/e", None),
            key("https://h:443/e", Some("h:443"))
        );
        for (uri, host) in [
            ("http://h/e", Some("h:443")),
            ("https://h/e", Some("h:80")),
            ("http://h:8080/e", Some("h")),
        ] {
            assert_eq!(key(uri, host), None, "{uri} {host:?}");
        }
        assert_ne!(key("http://h:443/e", None), one);
        assert_ne!(key("https://h/e", None), one);
        assert_ne!(key("/e", Some("h:80")), key("/e", Some("h")));
    }

    #[test]
    fn a_field_that_reroutes_is_part_of_the_key() {
        let maker = maker();
        let key = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let rerouting = Some(&headers);
            maker.key(
                &RequestTarget {
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
        assert_ne!(
            key("forwarded", "for=1, host =evil"),
            key("forwarded", "for=1")
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
            let host = hosts
                .iter()
                .fold(FieldLines::None, |host, value| host.and(value));
            let uri = Uri::from_static(uri);
            let uris = Uris {
                client: &uri,
                inner: &uri,
            };
            RequestTarget::of(uris, host, &headers, false).is_some()
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
                let target = RequestTarget {
                    scheme: "",
                    authority: authority.as_bytes(),
                    path,
                    query,
                    inner: None,
                    rerouting: None,
                    vary_by: None,
                };
                maker.key(&target, Partition::Shared)
            };
            proptest::prop_assert_eq!(one == two, key(&one) == key(&two));
        }
    }
}
