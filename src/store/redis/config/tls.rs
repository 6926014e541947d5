//! The TLS options of a Redis store.

use super::config::RedisConfig;

impl RedisConfig {
    /// Sets the root certificates with which server certificates are verified, as one or more PEM
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

    /// Sets the name for which server certificates must be valid. Defaults to the host of the
    /// connection. Use this option for Sentinels and Cluster nodes that announce one another's IP
    /// addresses.
    pub fn certificate_name(mut self, name: impl Into<String>) -> Self {
        self.tls.set_name(name.into());
        self
    }
}
