//! Lists of callers: who is never limited, and who is never let in.

use std::fmt;

use super::request_head::RequestHead;
use crate::{
    client_addr::{ClientAddrResolver, MissingClientAddr},
    identity::Identity,
    ip_network::IpNetwork,
};

/// A list of callers, by where they call from or by who they are.
///
/// ```
/// use portcullis::{ClientAddrResolver, rate_limit::Callers};
///
/// let office = Callers::new()
///     .networks(ClientAddrResolver::default(), ["203.0.113.0/24".parse()?])
///     .lineages(["monitoring"]);
/// # let _ = office;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Callers {
    networks: Vec<(ClientAddrResolver, Vec<IpNetwork>)>,
    lineages: Vec<String>,
    owners: Vec<String>,
}

impl Callers {
    /// Begins a list that names nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds all that call from one of these networks, as the resolver finds their address.
    pub fn networks(
        mut self,
        resolver: ClientAddrResolver,
        networks: impl IntoIterator<Item = IpNetwork>,
    ) -> Self {
        self.networks
            .push((resolver, networks.into_iter().collect()));
        self
    }

    /// Adds the identities of these lineages.
    pub fn lineages<I>(mut self, lineages: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.lineages.extend(lineages.into_iter().map(Into::into));
        self
    }

    /// Adds the identities of these owners.
    pub fn owners<I>(mut self, owners: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.owners.extend(owners.into_iter().map(Into::into));
        self
    }

    /// Returns whether the list names the caller of a request.
    #[inline]
    pub(super) fn include(&self, head: &RequestHead<'_>) -> Result<bool, MissingClientAddr> {
        Ok(!self.is_empty() && self.include_one(head)?)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.lineages.is_empty() && self.owners.is_empty()
    }

    /// Returns whether the list names callers by their identity.
    pub(super) fn reads_identity(&self) -> bool {
        !self.lineages.is_empty() || !self.owners.is_empty()
    }

    #[inline(never)]
    fn include_one(&self, head: &RequestHead<'_>) -> Result<bool, MissingClientAddr> {
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

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: usize = self
            .networks
            .iter()
            .map(|(_, networks)| networks.len())
            .sum();
        f.debug_struct("Callers")
            .field("networks", &networks)
            .field("lineages", &self.lineages.len())
            .field("owners", &self.owners.len())
            .finish()
    }
}
