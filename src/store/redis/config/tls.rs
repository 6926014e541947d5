//! The TLS options of a Redis store.

use super::config::RedisConfig;

impl RedisConfig {
    /// Sets the root certificates that server certificates must chain to, one or several in PEM.
    /// Defaults to those of the system.
    ///
    /// Connections use TLS 1.2 or 1.3 if the URL's scheme is `rediss://`. Server certificates are
    /// always verified.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.set_authorities(pem.into());
        self
    }

    /// Sets the client certificate for servers that request one: the certificate chain and the
    /// private key, both in PEM.
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.set_client(chain_pem.into(), key_pem.into());
        self
    }

    /// Sets the name to verify in server certificates. Defaults to the host of the connection. For
    /// Sentinels and Cluster nodes that name each other by IP address.
    pub fn certificate_name(mut self, name: impl Into<String>) -> Self {
        self.tls.set_name(name.into());
        self
    }
}
