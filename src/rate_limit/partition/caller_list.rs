//! Lists of callers that are exempt or denied.

use std::{fmt, sync::Arc};

use crate::{
    core::{
        http::preflight::is_preflight,
        identity::Identity,
        net::{
            client_addr::{ClientAddrResolver, MissingClientAddrError},
            ip_network::IpNetwork,
        },
    },
    rate_limit::request_head::RequestHead,
};

/// A list of callers, identified by network or by identity.
///
/// ```
/// use portcullis::{ClientAddrResolver, rate_limit::CallerList};
///
/// let office = CallerList::new()
///     .networks(ClientAddrResolver::default(), ["203.0.113.0/24".parse()?])
///     .lineages(["monitoring"]);
/// # let _ = office;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct CallerList {
    networks: Vec<(ClientAddrResolver, Vec<IpNetwork>)>,
    lineages: Vec<String>,
    owners: Vec<String>,
}

impl CallerList {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the callers whose address is in one of these networks. The resolver determines the
    /// address.
    pub fn networks(
        mut self,
        resolver: ClientAddrResolver,
        networks: impl IntoIterator<Item = IpNetwork>,
    ) -> Self {
        self.networks
            .push((resolver, networks.into_iter().collect()));
        self
    }

    /// Adds the callers whose identity has one of these [lineages](crate::Identity::lineage).
    pub fn lineages<I>(mut self, lineages: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.lineages.extend(lineages.into_iter().map(Into::into));
        self
    }

    /// Adds the callers whose identity has one of these owners.
    pub fn owners<I>(mut self, owners: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.owners.extend(owners.into_iter().map(Into::into));
        self
    }

    /// Returns `true` if the list includes the caller of a request.
    #[inline]
    fn include(&self, head: &RequestHead<'_>) -> Result<bool, MissingClientAddrError> {
        Ok(!self.is_empty() && self.include_one(head)?)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.lineages.is_empty() && self.owners.is_empty()
    }

    /// Returns `true` if the list includes callers that are identified by lineage or owner.
    fn reads_identity(&self) -> bool {
        !self.lineages.is_empty() || !self.owners.is_empty()
    }

    #[inline(never)]
    fn include_one(&self, head: &RequestHead<'_>) -> Result<bool, MissingClientAddrError> {
        if let Some(identity) = head.extensions.get::<Identity>() {
            let is = |name: Option<&str>, names: &[String]| {
                name.is_some_and(|name| names.iter().any(|one| one == name))
            };
            if is(Some(identity.lineage()), &self.lineages) || is(identity.owner(), &self.owners) {
                return Ok(true);
            }
        }
        for (resolver, networks) in &self.networks {
            let ip = resolver.resolve(head.extensions, head.headers)?.ip();
            if networks.iter().any(|network| network.contains(ip)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A function that exempts requests.
type SkipFn = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

/// The callers that a limiter denies, and the requests that it exempts.
#[derive(Default)]
pub(crate) struct CallerRules {
    pub(crate) deny: CallerList,
    pub(crate) allow: CallerList,
    pub(crate) skip: Option<Arc<SkipFn>>,
    pub(crate) exempts_preflight: bool,
}

/// The access of a request under the [`CallerRules`].
pub(crate) enum Access {
    Denied,
    /// No policy applies.
    Exempt,
    Limited,
}

impl CallerRules {
    /// Returns the access of a request. Denials take precedence over exemptions.
    #[inline]
    pub(crate) fn access(&self, head: &RequestHead<'_>) -> Result<Access, MissingClientAddrError> {
        if self.deny.include(head)? {
            return Ok(Access::Denied);
        }
        let is_skipped = self.exempts_preflight && is_preflight(head.method, head.headers)
            || self.skip.as_ref().is_some_and(|skip| skip(head));
        Ok(match is_skipped || self.allow.include(head)? {
            true => Access::Exempt,
            false => Access::Limited,
        })
    }

    /// Returns `true` if every request is limited.
    pub(crate) fn is_empty(&self) -> bool {
        self.deny.is_empty() && !self.exempts() && !self.exempts_preflight
    }

    /// Returns `true` if requests other than preflight requests can be exempt.
    pub(crate) fn exempts(&self) -> bool {
        !self.allow.is_empty() || self.skip.is_some()
    }

    /// Returns `true` if the rules read the identity of the caller.
    pub(crate) fn reads_identity(&self) -> bool {
        self.allow.reads_identity() || self.deny.reads_identity()
    }
}

impl fmt::Debug for CallerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: usize = self
            .networks
            .iter()
            .map(|(_, networks)| networks.len())
            .sum();
        f.debug_struct("CallerList")
            .field("networks", &networks)
            .field("lineages", &self.lineages.len())
            .field("owners", &self.owners.len())
            .finish()
    }
}
