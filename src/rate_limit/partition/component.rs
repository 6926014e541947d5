//! The components of a partition, and the values that they add to the key.

use std::{fmt, sync::Arc};

use http::HeaderName;
use smallvec::SmallVec;

use super::canonical::{HeaderField, known_method};
use crate::{
    core::{
        framework,
        identity::Identity,
        net::client_addr::{ClientAddrResolver, MissingClientAddrError},
        store_api::store_key::{KeySpace, ShortKeyWriter, StoreKey},
    },
    rate_limit::request_head::RequestHead,
};

pub(crate) type Alternative = SmallVec<[Component; 1]>;

#[derive(Clone)]
pub(crate) enum Component {
    ClientAddr(ClientAddrResolver),
    Identity,
    Owner,
    Header(HeaderName),
    Method,
    Route,
    By(Arc<By>),
    Global,
}

pub(crate) type By = dyn Fn(&RequestHead<'_>) -> Option<Vec<u8>> + Send + Sync;

/// Adds all components of a request to the key. Returns `true` if the request has all components.
pub(crate) fn write_all(
    components: &[Component],
    key: &mut ShortKeyWriter,
    head: &RequestHead<'_>,
) -> Result<bool, MissingClientAddrError> {
    for component in components {
        if !component.write(key, head)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Component {
    pub(crate) fn reads_identity(&self) -> bool {
        match self {
            Self::Identity | Self::Owner => true,
            Self::ClientAddr(_)
            | Self::Header(_)
            | Self::Method
            | Self::Route
            | Self::By(_)
            | Self::Global => false,
        }
    }

    /// Returns the key of a request in a partition that has only this component.
    #[inline]
    pub(crate) fn key_alone(
        &self,
        space: &KeySpace,
        head: &RequestHead<'_>,
    ) -> Result<Option<StoreKey>, MissingClientAddrError> {
        // A list of fields never has the same key as a single field, so alternative forms of a
        // value are encoded as lists.
        let instead = |field: &[u8]| space.short().field(field).finish();
        Ok(match self {
            Self::ClientAddr(resolver) => {
                let addr = resolver.resolve(head.extensions, head.headers)?;
                Some(addr.store_key(space))
            }
            Self::Identity => identity(head).map(|who| space.short_key(who.lineage().as_bytes())),
            Self::Owner => identity(head).map(|who| match who.owner() {
                Some(owner) => space.short_key(owner.as_bytes()),
                None => instead(who.lineage().as_bytes()),
            }),
            Self::Header(name) => Some(match HeaderField::of(name, head) {
                HeaderField::Text(value) => space.short_key(value),
                HeaderField::Host(name) => space.short_key(&name),
                HeaderField::Addr(addr) => instead(&addr),
                HeaderField::Missing => instead(b""),
            }),
            Self::Method => Some(match known_method(head.method) {
                Some(method) => space.short_key(method.as_bytes()),
                None => instead(b""),
            }),
            Self::Route => Some(match framework::matched_path(head.extensions) {
                Some(route) => space.short_key(route.as_bytes()),
                None => instead(b""),
            }),
            Self::By(find) => find(head).map(|bytes| space.short_key(&bytes)),
            Self::Global => Some(space.short_key(b"")),
        })
    }

    /// Adds the request's value to the key. Returns `true` if the request has a value.
    fn write(
        &self,
        key: &mut ShortKeyWriter,
        head: &RequestHead<'_>,
    ) -> Result<bool, MissingClientAddrError> {
        // The name of the key space identifies the components. If a component has several forms, a
        // field before the value identifies the form.
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
            Self::Global => true,
        };
        Ok(found)
    }
}

pub(crate) fn identity<'a>(head: &RequestHead<'a>) -> Option<&'a Identity> {
    head.extensions.get()
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientAddr(_) => f.write_str("ClientAddr"),
            Self::Identity => f.write_str("Identity"),
            Self::Owner => f.write_str("Owner"),
            Self::Header(name) => write!(f, "Header({name})"),
            Self::Global => f.write_str("Global"),
            Self::Method => f.write_str("Method"),
            Self::Route => f.write_str("Route"),
            Self::By(_) => f.write_str("By(..)"),
        }
    }
}
