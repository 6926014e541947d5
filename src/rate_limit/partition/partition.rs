//! Partitions: the requests that share a quota.

use std::{fmt, sync::Arc};

use http::HeaderName;
use smallvec::SmallVec;

use super::canonical::{HeaderField, known_method};
use crate::{
    core::{
        framework,
        identity::Identity,
        net::client_addr::{ClientAddrResolver, MissingClientAddr},
        store_api::store_key::{KeySpace, ShortKeyWriter, StoreKey, StoreKeys},
    },
    rate_limit::request_head::RequestHead,
};

/// A key space of a limiter: the requests of one partition share a quota.
///
/// ```
/// use http::header::HOST;
/// use portcullis::{ClientAddrResolver, TrustedProxies, rate_limit::Partition};
///
/// // Each caller, across all of its keys' rotations.
/// let by_caller = Partition::identity();
///
/// // Each caller and method; those without a key by address.
/// let resolver = ClientAddrResolver::new(TrustedProxies::Hops(1));
/// let by_both = Partition::identity()
///     .or(Partition::client_addr(resolver))
///     .and(Partition::method());
/// # let _ = (by_caller, by_both, Partition::header(HOST));
/// ```
///
/// The values in the digest of a partition are typed and length-prefixed, so distinct combinations
/// have distinct keys, whatever the client sends.
#[derive(Clone, Debug)]
pub struct Partition {
    // The first alternative of which the request has all components applies.
    alternatives: SmallVec<[Alternative; 1]>,
}

type Alternative = SmallVec<[Component; 1]>;

#[derive(Clone)]
enum Component {
    ClientAddr(ClientAddrResolver),
    Identity,
    Owner,
    Header(HeaderName),
    Method,
    Route,
    By(Arc<By>),
}

type By = dyn Fn(&RequestHead<'_>) -> Option<Vec<u8>> + Send + Sync;

impl Partition {
    /// Counts by client address, as the resolver determines it.
    ///
    /// Requests whose peer address is unknown are rejected with `500`, because clients that share a
    /// partition could lock out one another.
    pub fn client_addr(resolver: ClientAddrResolver) -> Self {
        Self::one(Component::ClientAddr(resolver))
    }

    /// Counts by the lineage of the caller's [`Identity`], so a rotated key keeps its count.
    ///
    /// Requests without an identity are in no partition, and are not limited; see [`or`](Self::or).
    pub fn identity() -> Self {
        Self::one(Component::Identity)
    }

    /// Counts by the owner of the caller's key, or by its lineage if it has no owner.
    ///
    /// Requests without an identity are in no partition, and are not limited; see [`or`](Self::or).
    pub fn owner() -> Self {
        Self::one(Component::Owner)
    }

    /// Counts by the first value of a header.
    ///
    /// Requests without the header share a partition, so that a client cannot evade the limit by
    /// omitting it. A client can still vary the value, so use headers that a proxy sets.
    ///
    /// Equivalent forms of an address share a partition: with and without a port, brackets or quotes,
    /// and an IPv4 address in its IPv6 form. IPv6 addresses are grouped by /56, the default of
    /// [`client_addr`](Self::client_addr). In `Host` and `X-Forwarded-Host`, the case, the port and a
    /// trailing dot are ignored. The authority of the request target takes precedence over `Host`, as in
    /// HTTP/2.
    pub fn header(name: HeaderName) -> Self {
        Self::one(Component::Header(name))
    }

    /// Counts by method: those of RFC 9110, and `PATCH`. Other methods share a partition, because a
    /// client can invent any number of them.
    pub fn method() -> Self {
        Self::one(Component::Method)
    }

    /// Counts by the pattern of the matched route, such as `/users/{id}` (axum's `MatchedPath`).
    ///
    /// Requests without a route share a partition, for example in a layer outside of the router. Paths
    /// are never counted apart, because a client can invent any number of them.
    pub fn route() -> Self {
        Self::one(Component::Route)
    }

    /// Counts by the value that a function returns. Requests for which it returns `None` are in no
    /// partition, and are not limited.
    pub fn by<F>(find: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        Self::one(Component::By(Arc::new(find)))
    }

    /// Counts by each combination of the two.
    ///
    /// Alternatives that were added by [`or`](Self::or) before are combined as a whole.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let combine = |one: &Alternative| {
            let one = one.clone();
            let join = move |other: &Alternative| one.iter().chain(other).cloned().collect();
            other.alternatives.iter().map(join).collect::<Vec<_>>()
        };
        Self {
            alternatives: self.alternatives.iter().flat_map(combine).collect(),
        }
    }

    /// Counts requests that are in no partition of this one by the other.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.alternatives.extend(other.alternatives);
        self
    }

    fn one(component: Component) -> Self {
        Self {
            alternatives: SmallVec::from_iter([SmallVec::from_iter([component])]),
        }
    }

    /// Assigns each alternative a key space of a store, named by its components.
    pub(crate) fn in_store(&self, keys: &StoreKeys) -> StoredPartition {
        let space = |components: &Alternative| keys.space(&format!("rate-limit {components:?}"));
        let stored = |components: &Alternative| (space(components), components.clone());
        StoredPartition {
            alternatives: self.alternatives.iter().map(stored).collect(),
        }
    }
}

/// A partition with its key spaces in a store.
#[derive(Debug)]
pub(crate) struct StoredPartition {
    alternatives: Box<[(KeySpace, Alternative)]>,
}

impl StoredPartition {
    /// Returns whether a component depends on the identity of the caller.
    pub(crate) fn reads_identity(&self) -> bool {
        self.components().flatten().any(Component::reads_identity)
    }

    /// Returns whether each authenticated caller is counted by its lineage alone.
    pub(crate) fn counts_callers_by_line(&self) -> bool {
        let first = self.components().next();
        first.is_some_and(|components| matches!(components[..], [Component::Identity]))
    }

    /// Returns whether a request without an identity is in no partition.
    #[cfg_attr(
        not(all(
            feature = "access-log",
            feature = "api-key",
            feature = "cache",
            feature = "rate-limit"
        )),
        allow(dead_code)
    )]
    pub(crate) fn needs_identity(&self) -> bool {
        self.components()
            .all(|components| components.iter().any(Component::reads_identity))
    }

    /// Returns whether routes are counted apart.
    pub(crate) fn counts_routes(&self) -> bool {
        let is_route = |component: &Component| matches!(component, Component::Route);
        self.components().flatten().any(is_route)
    }

    /// Returns the key spaces of the partition, to compare it with another one. `None` if a function
    /// computes a component, because functions cannot be compared.
    pub(crate) fn spaces(&self) -> Option<Vec<StoreKey>> {
        let is_found = |component: &Component| matches!(component, Component::By(_));
        if self.components().flatten().any(is_found) {
            return None;
        }
        let spaces = self.alternatives.iter().map(|(space, _)| space);
        Some(spaces.map(|space| space.short_of(b"comparison")).collect())
    }

    /// Returns the subject of audit events: the id of the API key, else the network of the client if
    /// that is a component, else the store's key.
    pub(crate) fn subject(&self, key: &StoreKey, head: &RequestHead<'_>) -> Arc<str> {
        if let Some(caller) = identity(head) {
            return caller.key_id().into();
        }
        let network = self
            .components()
            .flatten()
            .find_map(|component| match component {
                Component::ClientAddr(resolver) => {
                    resolver.resolve(head.extensions, head.headers).ok()
                }
                Component::Identity
                | Component::Owner
                | Component::Header(_)
                | Component::Method
                | Component::Route
                | Component::By(_) => None,
            });
        match network {
            Some(addr) => addr.network().to_string().into(),
            None => key.to_string().into(),
        }
    }

    fn components(&self) -> impl Iterator<Item = &Alternative> {
        self.alternatives.iter().map(|(_, components)| components)
    }

    /// Returns the component of all requests if it is the only one, and no function computes it.
    pub(crate) fn single_component(&self) -> Option<SingleComponent> {
        let [(space, components)] = &*self.alternatives else {
            return None;
        };
        let [component] = &components[..] else {
            return None;
        };
        (!matches!(component, Component::By(_))).then(|| SingleComponent {
            space: space.clone(),
            component: component.clone(),
        })
    }

    /// Returns the key of a request's partition; `None` if the request is in no partition.
    pub(crate) fn key(
        &self,
        head: &RequestHead<'_>,
    ) -> Result<Option<StoreKey>, MissingClientAddr> {
        for (space, components) in &self.alternatives {
            // Nearly all partitions have one component.
            if let [component] = &components[..] {
                match component.key_alone(space, head)? {
                    Some(key) => return Ok(Some(key)),
                    None => continue,
                }
            }
            let mut key = space.short();
            if write_all(components, &mut key, head)? {
                return Ok(Some(key.finish()));
            }
        }
        Ok(None)
    }
}

/// The only component of a partition.
#[derive(Debug)]
pub(crate) struct SingleComponent {
    space: KeySpace,
    component: Component,
}

impl SingleComponent {
    /// Returns the same key as [`StoredPartition::key`]; `None` if the request lacks the component.
    #[inline(always)]
    pub(crate) fn key(&self, head: &RequestHead<'_>) -> Option<StoreKey> {
        if let Component::ClientAddr(resolver) = &self.component {
            return resolver.key_in(&self.space, head.extensions, head.headers);
        }
        self.component.key_alone(&self.space, head).ok()?
    }
}

/// Adds all components of a request to the key, and returns whether the request has them all.
fn write_all(
    components: &[Component],
    key: &mut ShortKeyWriter,
    head: &RequestHead<'_>,
) -> Result<bool, MissingClientAddr> {
    for component in components {
        if !component.write(key, head)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Component {
    fn reads_identity(&self) -> bool {
        match self {
            Self::Identity | Self::Owner => true,
            Self::ClientAddr(_) | Self::Header(_) | Self::Method | Self::Route | Self::By(_) => {
                false
            }
        }
    }

    /// Returns the key of a request in a partition of this component alone.
    #[inline]
    fn key_alone(
        &self,
        space: &KeySpace,
        head: &RequestHead<'_>,
    ) -> Result<Option<StoreKey>, MissingClientAddr> {
        // No list of fields has the key of a field alone: what stands in place of the usual is one.
        let instead = |field: &[u8]| space.short().field(field).finish();
        Ok(match self {
            Self::ClientAddr(resolver) => {
                let addr = resolver.resolve(head.extensions, head.headers)?;
                Some(addr.key_in(space))
            }
            Self::Identity => identity(head).map(|who| space.short_of(who.lineage().as_bytes())),
            Self::Owner => identity(head).map(|who| match who.owner() {
                Some(owner) => space.short_of(owner.as_bytes()),
                None => instead(who.lineage().as_bytes()),
            }),
            Self::Header(name) => Some(match HeaderField::of(name, head) {
                HeaderField::Text(value) => space.short_of(value),
                HeaderField::Host(name) => space.short_of(&name),
                HeaderField::Addr(addr) => instead(&addr),
                HeaderField::Missing => instead(b""),
            }),
            Self::Method => Some(match known_method(head.method) {
                Some(method) => space.short_of(method.as_bytes()),
                None => instead(b""),
            }),
            Self::Route => Some(match framework::matched_path(head.extensions) {
                Some(route) => space.short_of(route.as_bytes()),
                None => instead(b""),
            }),
            Self::By(find) => find(head).map(|bytes| space.short_of(&bytes)),
        })
    }

    /// Adds the request's value to the key, and returns whether it has one.
    fn write(
        &self,
        key: &mut ShortKeyWriter,
        head: &RequestHead<'_>,
    ) -> Result<bool, MissingClientAddr> {
        // The name of the key space tells the components. If a component has several forms, a field
        // before its value tells which.
        let found = match self {
            Self::ClientAddr(resolver) => {
                let addr = resolver.resolve(head.extensions, head.headers)?;
                key.field(&addr.partition_bytes());
                true
            }
            Self::Identity => identity(head).is_some_and(|who| {
                key.field(who.lineage().as_bytes());
                true
            }),
            Self::Owner => identity(head).is_some_and(|who| {
                match who.owner() {
                    Some(owner) => key.field(b"owner").field(owner.as_bytes()),
                    None => key.field(b"line").field(who.lineage().as_bytes()),
                };
                true
            }),
            Self::Header(name) => {
                match HeaderField::of(name, head) {
                    HeaderField::Text(value) => key.field(b"header").field(value),
                    HeaderField::Host(name) => key.field(b"header").field(&name),
                    HeaderField::Addr(addr) => key.field(b"address").field(&addr),
                    HeaderField::Missing => key.field(b"no header").field(b""),
                };
                true
            }
            Self::Method => {
                match known_method(head.method) {
                    Some(method) => key.field(b"method").field(method.as_bytes()),
                    None => key.field(b"another method").field(b""),
                };
                true
            }
            Self::Route => {
                match framework::matched_path(head.extensions) {
                    Some(route) => key.field(b"route").field(route.as_bytes()),
                    None => key.field(b"no route").field(b""),
                };
                true
            }
            Self::By(find) => find(head).is_some_and(|bytes| {
                key.field(&bytes);
                true
            }),
        };
        Ok(found)
    }
}

fn identity<'a>(head: &RequestHead<'a>) -> Option<&'a Identity> {
    head.extensions.get()
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientAddr(_) => f.write_str("ClientAddr"),
            Self::Identity => f.write_str("Identity"),
            Self::Owner => f.write_str("Owner"),
            Self::Header(name) => write!(f, "Header({name})"),
            Self::Method => f.write_str("Method"),
            Self::Route => f.write_str("Route"),
            Self::By(_) => f.write_str("By(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::core::net::client_addr::PeerAddr;

    fn keys() -> StoreKeys {
        StoreKeys::from_secret(&[7; 32]).unwrap()
    }

    fn key(partition: &Partition, request: &Request<()>) -> Option<StoreKey> {
        match partition.in_store(&keys()).key(&RequestHead::of(request)) {
            Ok(key) => key,
            Err(missing) => panic!("{missing}"),
        }
    }

    fn from(identity: Option<Identity>, headers: &[(&'static str, &[u8])]) -> Request<()> {
        let mut request = Request::new(());
        let peer = PeerAddr(([203, 0, 113, 9], 1).into());
        request.extensions_mut().insert(peer);
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(*name, value);
        }
        request
    }

    fn who(id: &str) -> Identity {
        Identity::trusted(id).build()
    }

    #[test]
    fn a_rotated_key_keeps_its_count_and_another_has_its_own() {
        let by = Partition::identity();
        let rotated = Identity::trusted("k2").lineage("k1").build();
        let first = key(&by, &from(Some(who("k1")), &[]));
        assert_eq!(key(&by, &from(Some(rotated), &[])), first);
        assert_ne!(key(&by, &from(Some(who("k2")), &[])), first);
        assert_eq!(key(&by, &from(None, &[])), None);
    }

    #[test]
    fn an_owner_is_no_lineage_of_the_same_name() {
        let owned = Identity::trusted("k").owner("acme").build();
        let by = Partition::owner();
        assert_ne!(
            key(&by, &from(Some(owned), &[])),
            key(&by, &from(Some(who("acme")), &[]))
        );
    }

    #[test]
    fn a_request_without_an_identity_counts_by_the_alternative() {
        let by_addr = Partition::client_addr(ClientAddrResolver::default());
        let by = Partition::identity().or(by_addr.clone());
        let anonymous = from(None, &[]);
        assert_eq!(key(&by, &anonymous), key(&by_addr, &anonymous));
        assert_ne!(key(&by, &from(Some(who("k")), &[])), key(&by, &anonymous));
    }

    #[test]
    fn leaving_a_header_out_gets_around_nothing() {
        let by = Partition::header(HeaderName::from_static("x-tenant"));
        let without = key(&by, &from(None, &[]));
        assert!(without.is_some());
        assert_ne!(without, key(&by, &from(None, &[("x-tenant", b"")])));
    }

    #[test]
    fn a_header_that_is_no_text_counts_by_its_bytes() {
        let by = Partition::header(HeaderName::from_static("x-tenant"));
        let key = |value| key(&by, &from(None, &[("x-tenant", value)]));
        assert_ne!(key(b"\xff"), key(b"\xfe"));
        assert_eq!(key(b"\xff"), key(b"\xff"));
    }

    #[test]
    fn a_missing_address_is_an_error_and_never_a_partition() {
        let by = Partition::client_addr(ClientAddrResolver::default());
        let key = by
            .in_store(&keys())
            .key(&RequestHead::of(&Request::new(())));
        assert!(key.is_err());
    }

    proptest! {
        #[test]
        fn distinct_combinations_never_share_a_key(
            one in ("[ab]{0,3}", "[ab]{0,3}"),
            other in ("[ab]{0,3}", "[ab]{0,3}"),
        ) {
            let by = Partition::header(HeaderName::from_static("a"))
                .and(Partition::header(HeaderName::from_static("b")));
            let key = |(a, b): &(String, String)| {
                key(&by, &from(None, &[("a", a.as_bytes()), ("b", b.as_bytes())]))
            };
            prop_assert_eq!(key(&one) == key(&other), one == other);
        }
    }
}
