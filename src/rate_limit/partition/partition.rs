//! Partitions, which are sets of requests that share a quota.

use std::sync::Arc;

use http::HeaderName;
use smallvec::SmallVec;

use super::{
    component::{Alternative, Component},
    stored::StoredPartition,
};
use crate::{
    core::{
        error::ConfigError, net::client_addr::ClientAddrResolver, store_api::store_key::StoreKeys,
    },
    rate_limit::request_head::RequestHead,
};

/// A rule that assigns requests to partitions. The requests in one partition share a quota.
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
/// The values that are digested into a partition key are typed and length-prefixed, so distinct
/// combinations of values are always distinct inputs.
#[derive(Clone, Debug)]
pub struct Partition {
    // The first alternative of which the request has all components applies.
    alternatives: SmallVec<[Alternative; 1]>,
    // Reported when the limiter is built.
    invalid_header: Option<Arc<str>>,
}

impl Partition {
    /// Partitions requests by client address, as determined by the resolver.
    ///
    /// Requests with an unknown peer address are rejected with `500`, because clients that share a
    /// partition could lock one another out.
    pub fn client_addr(resolver: ClientAddrResolver) -> Self {
        Self::one(Component::ClientAddr(resolver))
    }

    /// Partitions requests by the [lineage](crate::Identity::lineage) of the caller's
    /// [`Identity`](crate::Identity), so a key's count continues after its rotation.
    ///
    /// Requests without an identity belong to no partition and are not limited; see
    /// [`or`](Self::or).
    pub fn identity() -> Self {
        Self::one(Component::Identity)
    }

    /// Partitions requests by the owner of the caller's key. If the key has no owner, its
    /// [lineage](crate::Identity::lineage) is used instead.
    ///
    /// Requests without an identity belong to no partition and are not limited; see
    /// [`or`](Self::or).
    pub fn owner() -> Self {
        Self::one(Component::Owner)
    }

    /// Partitions requests by the first value of a header.
    ///
    /// Requests without the header share a partition, so a client cannot evade the limit by
    /// omitting the header. A client can still vary the value, so use a header that a proxy sets.
    ///
    /// Equivalent forms of an address share a partition. A port, brackets, quotes, and the IPv6
    /// form of an IPv4 address make no difference. IPv6 addresses are grouped by /56, which is also
    /// the default of [`client_addr`](Self::client_addr). In `Host` and `X-Forwarded-Host`, case,
    /// the port and a trailing dot are ignored. The authority of the request target takes
    /// precedence over `Host`, as in HTTP/2.
    ///
    /// [`RateLimitLayerBuilder::build`](crate::rate_limit::RateLimitLayerBuilder::build) reports an
    /// invalid header name.
    pub fn header(name: impl AsRef<str>) -> Self {
        let text = name.as_ref();
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Self::one(Component::Header(name)),
            Err(_) => Self {
                invalid_header: Some(text.into()),
                ..Self::one(Component::Global)
            },
        }
    }

    /// Counts all requests to the entire service together, in one partition.
    pub fn global() -> Self {
        Self::one(Component::Global)
    }

    /// Partitions requests by method. Each RFC 9110 method and `PATCH` has its own partition. All
    /// other methods share a partition, because a client can invent any number of them.
    pub fn method() -> Self {
        Self::one(Component::Method)
    }

    /// Partitions requests by the pattern of the matched route, such as `/users/{id}` (axum's
    /// `MatchedPath`).
    ///
    /// Requests without a route share a partition. For example, requests have no route in a layer
    /// outside the router. Paths never have separate partitions, because a client can invent any
    /// number of paths.
    pub fn route() -> Self {
        Self::one(Component::Route)
    }

    /// Partitions requests by the value that a function returns. A request for which the function
    /// returns `None` belongs to no partition and is not limited.
    pub fn from_fn<F>(find: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        Self::one(Component::By(Arc::new(find)))
    }

    /// Combines two partitions. Each combination of their values has its own partition.
    ///
    /// Alternatives that were already added by [`or`](Self::or) are combined as a whole.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let combine = |one: &Alternative| {
            let one = one.clone();
            let join = move |other: &Alternative| one.iter().chain(other).cloned().collect();
            other.alternatives.iter().map(join).collect::<Vec<_>>()
        };
        Self {
            alternatives: self.alternatives.iter().flat_map(combine).collect(),
            invalid_header: self.invalid_header.or(other.invalid_header),
        }
    }

    /// Adds an alternative for requests that do not belong to this partition.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.alternatives.extend(other.alternatives);
        self.invalid_header = self.invalid_header.or(other.invalid_header);
        self
    }

    fn one(component: Component) -> Self {
        Self {
            alternatives: SmallVec::from_iter([SmallVec::from_iter([component])]),
            invalid_header: None,
        }
    }

    /// Assigns each alternative a key space in a store, named after the alternative's components.
    ///
    /// Returns an error if a header name is invalid.
    pub(crate) fn in_store(&self, keys: &StoreKeys) -> Result<StoredPartition, ConfigError> {
        if let Some(name) = &self.invalid_header {
            return Err(ConfigError::new(
                "partition header",
                name.escape_debug(),
                "it is not a valid header name",
            )
            .fix("use letters, digits and `-`, as in `x-tenant`"));
        }
        let space = |components: &Alternative| keys.space(&format!("rate-limit {components:?}"));
        let stored = |components: &Alternative| (space(components), components.clone());
        Ok(StoredPartition {
            alternatives: self.alternatives.iter().map(stored).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        identity::Identity, net::client_addr::PeerAddr, store_api::store_key::StoreKey,
    };

    fn keys() -> StoreKeys {
        StoreKeys::from_secret(&[7; 32]).unwrap()
    }

    fn key(partition: &Partition, request: &Request<()>) -> Option<StoreKey> {
        match partition
            .in_store(&keys())
            .unwrap()
            .key(&RequestHead::from(request))
        {
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
        Identity::builder(id).build()
    }

    #[test]
    fn a_rotated_key_keeps_its_count_and_another_has_its_own() {
        let by = Partition::identity();
        let rotated = Identity::builder("k2").lineage("k1").build();
        let first = key(&by, &from(Some(who("k1")), &[]));
        assert_eq!(key(&by, &from(Some(rotated), &[])), first);
        assert_ne!(key(&by, &from(Some(who("k2")), &[])), first);
        assert_eq!(key(&by, &from(None, &[])), None);
    }

    #[test]
    fn an_owner_is_no_lineage_of_the_same_name() {
        let owned = Identity::builder("k").owner("acme").build();
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
            .unwrap()
            .key(&RequestHead::from(&Request::new(())));
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
