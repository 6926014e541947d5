//! Builder options for client addresses.

use super::layer::AccessLogLayerBuilder;
use crate::core::{inherited::Inherited, net::client_addr::ClientAddrResolver};

impl AccessLogLayerBuilder {
    /// Sets the resolver of the client address. Defaults to the peer address.
    pub fn client_addr(mut self, resolver: impl Into<ClientAddrResolver>) -> Self {
        self.config.client_addr = Inherited::set(resolver.into());
        self
    }

    /// Records only the network of the client and peer addresses: /24 for IPv4, /48 for IPv6. This
    /// option is off by default.
    pub fn mask_client_addr(mut self) -> Self {
        self.config.mask_client_addr = true;
        self
    }

    /// Accepts requests without a peer address, as on a Unix socket or in tests. By default, the
    /// first record without a peer address emits a notice, because a server that does not pass on
    /// the address is usually misconfigured. The notice is emitted once per process. This option
    /// does not change the fields of the record.
    pub fn optional_client_addr(mut self) -> Self {
        self.config.report_missing_addr = false;
        self
    }
}
