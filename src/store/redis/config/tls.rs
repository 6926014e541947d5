//! The TLS options of a Redis store.

use super::config::RedisConfig;

impl RedisConfig {
    /// Sets the root certificates to which server certificates must chain, as one or more PEM
    /// certificates. Defaults to the system's root certificates.
    ///
    /// A connection uses TLS 1.2 or 1.3 if the scheme of its URL is `rediss://`. Server
    /// certificates are always verified.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.set_authorities(pem.into());
        self
    }

    /// Sets the client certificate for servers that request one. Both the certificate chain and the
    /// private key are in PEM format. None by default.
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.set_client(chain_pem.into(), key_pem.into());
        self
    }

    /// Sets the name that is verified in server certificates. Defaults to the host of the
    /// connection. Use this option for Sentinels and Cluster nodes that refer to one another by IP
    /// address.
    pub fn certificate_name(mut self, name: impl Into<String>) -> Self {
        self.tls.set_name(name.into());
        self
    }
}
