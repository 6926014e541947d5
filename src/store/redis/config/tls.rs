//! What a Redis store is told of TLS.

use super::config::RedisConfig;

impl RedisConfig {
    /// Believes the servers whose certificates these authorities have signed, and no others: one or
    /// several certificates, in PEM. Those that the system believes by default.
    ///
    /// Servers are reached over TLS if their URLs begin with `rediss://`. Their certificates are
    /// checked, always; TLS is of version 1.2 or 1.3.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.set_authorities(pem.into());
        self
    }

    /// Shows this certificate to servers that ask for one: it and those that lead to its authority,
    /// and its private key, all in PEM.
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.set_client(chain_pem.into(), key_pem.into());
        self
    }

    /// Sets the name that the servers' certificates must bear, in place of the host that is
    /// connected to: for where Sentinels and the nodes of a Cluster name one another by addresses.
    pub fn certificate_name(mut self, name: impl Into<String>) -> Self {
        self.tls.set_name(name.into());
        self
    }
}
