//! Who shares a quota.

use std::{fmt, sync::Arc};

use http::HeaderName;
use smallvec::SmallVec;

use super::{
    canonical::{HeaderField, known_method},
    request_head::RequestHead,
};
use crate::{
    client_addr::{ClientAddrResolver, MissingClientAddr},
    framework,
    identity::Identity,
    store_key::{KeySpace, ShortKeyWriter, StoreKey, StoreKeys},
};

/// Who shares a quota: requests of one partition are counted together.
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
/// What is digested into the partition's key is length-prefixed and says what it is: no two
/// combinations share a key, whatever the client sends.
#[derive(Clone, Debug)]
pub struct Partition {
    // The first alternative of which the request has all parts counts.
    alternatives: SmallVec<[Alternative; 1]>,
}

type Alternative = SmallVec<[Part; 1]>;

#[derive(Clone)]
enum Part {
    ClientAddr(ClientAddrResolver),
    Identity,
    Owner,
    Header(HeaderName),
    Method,
    Route,
    By(Arc<By>),
}

type By = dyn Fn(&RequestHead<'_>) -> Option<Vec<u8>> + Send + Sync;

/// Where a request stands.
pub(super) enum Place {
    /// In this partition.
    In(StoreKey),
    /// In none: the request lacks what the partition is made of.
    Outside,
}

impl Partition {
    /// Counts each client address apart, as the resolver finds it.
    ///
    /// If nobody said who the peer is, the request is answered `500`: all clients in one partition
    /// would lock out one another.
    pub fn client_addr(resolver: ClientAddrResolver) -> Self {
        Self::one(Part::ClientAddr(resolver))
    }

    /// Counts each [`Identity`] apart, by its lineage: a rotated key keeps its count.
    ///
    /// A request without an identity is in no partition, and passes; see [`or`](Self::or).
    pub fn identity() -> Self {
        Self::one(Part::Identity)
    }

    /// Counts all keys of an owner together; an identity without an owner, by its lineage.
    ///
    /// A request without an identity is in no partition, and passes; see [`or`](Self::or).
    pub fn owner() -> Self {
        Self::one(Part::Owner)
    }

    /// Counts by the first line of a header.
    ///
    /// Requests without the header are one partition, so that no client evades the limit by leaving it
    /// out. A client may still send another value each time: this is for headers
    /// that a proxy sets.
    ///
    /// Several spellings of one address are one partition: with and without a port, brackets or quotes,
    /// and an IPv4 address in its IPv6 form. IPv6 addresses are grouped by /56, as
    /// [`client_addr`](Self::client_addr) groups them by default. In `Host` and `X-Forwarded-Host`, case,
    /// the port and a trailing dot do not matter; for `Host` the authority of the target comes first,
    /// which is where HTTP/2 has it.
    pub fn header(name: HeaderName) -> Self {
        Self::one(Part::Header(name))
    }

    /// Counts each method apart: those of RFC 9110, and `PATCH`. All others are one partition, since a
    /// client can invent new ones without end.
    pub fn method() -> Self {
        Self::one(Part::Method)
    }

    /// Counts each route apart, as it was written: `/users/{id}` (axum's `MatchedPath`).
    ///
    /// Where no route is known, as in a layer outside of the router, all requests are one
    /// partition. Paths as they were requested are never counted apart: a client could make up a
    /// new one each time.
    pub fn route() -> Self {
        Self::one(Part::Route)
    }

    /// Counts by what a function finds; a request in which it finds nothing is in no partition,
    /// and passes.
    pub fn by<F>(find: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        Self::one(Part::By(Arc::new(find)))
    }

    /// Counts each combination of the two apart.
    ///
    /// What was joined by [`or`](Self::or) before is combined as a whole.
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

    /// Counts by the other where the request lacks what this is made of.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.alternatives.extend(other.alternatives);
        self
    }

    fn one(part: Part) -> Self {
        Self {
            alternatives: SmallVec::from_iter([SmallVec::from_iter([part])]),
        }
    }

    /// Gives each alternative a space of a store's keys, named by what it is made of.
    pub(super) fn in_store(&self, keys: &StoreKeys) -> StoredPartition {
        let space = |parts: &Alternative| keys.space(&format!("rate-limit {parts:?}"));
        let stored = |parts: &Alternative| (space(parts), parts.clone());
        StoredPartition {
            alternatives: self.alternatives.iter().map(stored).collect(),
        }
    }
}

/// A partition, and the spaces of a store's keys in which it counts.
#[derive(Debug)]
pub(super) struct StoredPartition {
    alternatives: Box<[(KeySpace, Alternative)]>,
}

impl StoredPartition {
    /// Returns whether any part of it is known only once the caller is.
    pub(super) fn reads_identity(&self) -> bool {
        self.parts().flatten().any(Part::reads_identity)
    }

    /// Returns whether each caller that is known is counted by its line of keys, and by nothing
    /// else.
    pub(super) fn counts_callers_by_line(&self) -> bool {
        let first = self.parts().next();
        first.is_some_and(|parts| matches!(parts[..], [Part::Identity]))
    }

    /// Returns whether a request whose caller is not known is in no partition.
    pub(super) fn needs_identity(&self) -> bool {
        self.parts()
            .all(|parts| parts.iter().any(Part::reads_identity))
    }

    /// Returns whether routes are counted apart.
    pub(super) fn counts_routes(&self) -> bool {
        let is_route = |part: &Part| matches!(part, Part::Route);
        self.parts().flatten().any(is_route)
    }

    /// Returns the spaces of the store in which the partition counts, to compare it with another one;
    /// nothing if a function finds a part, since two functions cannot be compared.
    pub(super) fn spaces(&self) -> Option<Vec<StoreKey>> {
        let is_found = |part: &Part| matches!(part, Part::By(_));
        if self.parts().flatten().any(is_found) {
            return None;
        }
        let spaces = self.alternatives.iter().map(|(space, _)| space);
        Some(spaces.map(|space| space.short_of(b"comparison")).collect())
    }

    /// Returns who an auditor is told of: a key's public id, the client's network where that is
    /// counted by, or what stands for the partition in the store.
    pub(super) fn subject(&self, key: &StoreKey, head: &RequestHead<'_>) -> Arc<str> {
        if let Some(caller) = identity(head) {
            return caller.key_id().into();
        }
        let network = self.parts().flatten().find_map(|part| match part {
            Part::ClientAddr(resolver) => resolver.resolve(head.extensions, head.headers).ok(),
            Part::Identity
            | Part::Owner
            | Part::Header(_)
            | Part::Method
            | Part::Route
            | Part::By(_) => None,
        });
        match network {
            Some(addr) => addr.network().to_string().into(),
            None => key.to_string().into(),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Alternative> {
        self.alternatives.iter().map(|(_, parts)| parts)
    }

    /// Returns the part that all requests are counted by, if it is the only one and no function
    /// finds it.
    pub(super) fn only_part(&self) -> Option<OnlyPart> {
        let [(space, parts)] = &*self.alternatives else {
            return None;
        };
        let [part] = &parts[..] else { return None };
        (!matches!(part, Part::By(_))).then(|| OnlyPart {
            space: space.clone(),
            part: part.clone(),
        })
    }

    /// Finds where a request stands.
    pub(super) fn place(&self, head: &RequestHead<'_>) -> Result<Place, MissingClientAddr> {
        for (space, parts) in &self.alternatives {
            // What nearly all are made of: one part.
            if let [part] = &parts[..] {
                match part.key_alone(space, head)? {
                    Some(key) => return Ok(Place::In(key)),
                    None => continue,
                }
            }
            let mut key = space.short();
            if write_all(parts, &mut key, head)? {
                return Ok(Place::In(key.finish()));
            }
        }
        Ok(Place::Outside)
    }
}

/// A part that all requests are counted by.
#[derive(Debug)]
pub(super) struct OnlyPart {
    space: KeySpace,
    part: Part,
}

impl OnlyPart {
    /// Returns the key of a request if the request has the part: the one that
    /// [`place`](StoredPartition::place) gives it.
    #[inline(always)]
    pub(super) fn key(&self, head: &RequestHead<'_>) -> Option<StoreKey> {
        if let Part::ClientAddr(resolver) = &self.part {
            return resolver.key_in(&self.space, head.extensions, head.headers);
        }
        self.part.key_alone(&self.space, head).ok()?
    }
}

/// Adds all parts to the key, and returns whether the request has them all.
fn write_all(
    parts: &[Part],
    key: &mut ShortKeyWriter,
    head: &RequestHead<'_>,
) -> Result<bool, MissingClientAddr> {
    for part in parts {
        if !part.write(key, head)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Part {
    fn reads_identity(&self) -> bool {
        match self {
            Self::Identity | Self::Owner => true,
            Self::ClientAddr(_) | Self::Header(_) | Self::Method | Self::Route | Self::By(_) => {
                false
            }
        }
    }

    /// Returns the key of what the request has of this part, if it is the only one.
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

    /// Adds what the request has of this part to the key, and returns whether it has any.
    fn write(
        &self,
        key: &mut ShortKeyWriter,
        head: &RequestHead<'_>,
    ) -> Result<bool, MissingClientAddr> {
        // What a part is stands in the name of its space. Where it may be one thing or another, a
        // field before it says which.
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

impl fmt::Debug for Part {
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
    use crate::client_addr::PeerAddr;

    fn keys() -> StoreKeys {
        StoreKeys::from_secret(&[7; 32]).unwrap()
    }

    fn key(partition: &Partition, request: &Request<()>) -> Option<StoreKey> {
        match partition.in_store(&keys()).place(&RequestHead::of(request)) {
            Ok(Place::In(key)) => Some(key),
            Ok(Place::Outside) => None,
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
        let place = by
            .in_store(&keys())
            .place(&RequestHead::of(&Request::new(())));
        assert!(place.is_err());
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
