//! TLS connections to Redis servers.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use redis::{ErrorKind, RedisError, RedisResult};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::core::error::ConfigError;

/// The TLS options of a configuration.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    authorities: Option<Vec<u8>>,
    client: Option<ClientCertificate>,
    name: Option<String>,
    // One for all servers, so that the system's root certificates are read once.
    made: OnceLock<Connector>,
}

/// The certificate that authenticates this client, in PEM format.
#[derive(Clone)]
struct ClientCertificate {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    pub(crate) fn set_authorities(&mut self, pem: Vec<u8>) {
        self.authorities = Some(pem);
        self.made = OnceLock::new();
    }

    pub(crate) fn set_client(&mut self, chain: Vec<u8>, key: Vec<u8>) {
        self.client = Some(ClientCertificate { chain, key });
        self.made = OnceLock::new();
    }

    pub(crate) fn set_name(&mut self, name: String) {
        self.name = Some(name);
        self.made = OnceLock::new();
    }

    /// Returns the connector, which is built only once.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no root certificate, or if an option cannot be parsed.
    pub(crate) fn connector(&self) -> Result<Connector, ConfigError> {
        if let Some(made) = self.made.get() {
            return Ok(made.clone());
        }
        // The application may have installed its own provider, for example for compliance.
        let provider = CryptoProvider::get_default()
            .cloned()
            .unwrap_or_else(|| Arc::new(ring::default_provider()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                let problem =
                    format!("the cryptography provider does not support TLS 1.2 or 1.3: {error}");
                ConfigError::new("redis-tls", "provider", problem)
                    .fix("install one that does, or none")
            })?
            .with_root_certificates(self.roots()?);
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let (chain, key) = client.read()?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| ClientCertificate::refused(&error))?
            }
        };
        let name = match &self.name {
            None => None,
            Some(name) => Some(server_name(name).map_err(|_| {
                let problem = "it is neither a host name nor an IP address";
                ConfigError::new("certificate_name", name.escape_debug(), problem)
                    .fix("use a name from the certificate, such as `redis.example`")
            })?),
        };
        let connector = Connector {
            tls: TlsConnector::from(Arc::new(config)),
            name,
        };
        Ok(self.made.get_or_init(|| connector).clone())
    }

    fn roots(&self) -> Result<RootCertStore, ConfigError> {
        let mut roots = RootCertStore::empty();
        let Some(pem) = &self.authorities else {
            // Certificates that cannot be parsed are skipped.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let problem = "the system has no root certificates";
                return Err(ConfigError::new("root_certificates", "none", problem).fix(
                    "install `ca-certificates`, or pass the root certificate of the servers",
                ));
            }
            return Ok(roots);
        };
        let refused = |error: &dyn fmt::Display| {
            let problem = format!("it cannot be parsed as PEM certificates: {error}");
            ConfigError::new("root_certificates", "not shown", problem)
                .fix("pass the bytes of a file that starts with `-----BEGIN CERTIFICATE-----`")
        };
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| refused(&error))?;
            roots.add(certificate).map_err(|error| refused(&error))?;
        }
        if roots.is_empty() {
            return Err(refused(&"it contains no certificate"));
        }
        Ok(roots)
    }
}

type CertifiedKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl ClientCertificate {
    fn read(&self) -> Result<CertifiedKey, ConfigError> {
        let chain = CertificateDer::pem_slice_iter(&self.chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Self::refused(&error))?;
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| Self::refused(&error))?;
        Ok((chain, key))
    }

    fn refused(error: &dyn fmt::Display) -> ConfigError {
        let problem = format!("the certificate or its key cannot be used: {error}");
        ConfigError::new("client_certificate", "not shown", problem)
            .fix("pass the bytes of two PEM files, the certificate chain and its private key")
    }
}

/// Opens TLS connections.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// Performs the TLS handshake and verifies the server's certificate.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> RedisResult<TlsStream<TcpStream>> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|error| refused(&error))?,
        };
        let stream = self.tls.connect(name, stream).await;
        stream.map_err(|error| match cause(&error) {
            Some(rustls::Error::InvalidCertificate(why)) => refused(&format_args!("{why:?}")),
            Some(_) | None => error.into(),
        })
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, impl fmt::Display + use<>> {
    ServerName::try_from(name.to_owned())
}

fn cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Returns an error that is not retried, because a later attempt would fail with the same
/// certificate.
fn refused(why: &dyn fmt::Display) -> RedisError {
    let kind = ErrorKind::InvalidClientConfig;
    let what = "the server's certificate is not trusted";
    RedisError::from((kind, what, why.to_string()))
}
