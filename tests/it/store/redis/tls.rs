//! The store on Redis over TLS: whom it believes, and what it shows of itself.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::{
    AuditEvent, Auditor, ConfigError, StoreErrorKind,
    store::{RedisConfig, RedisStore},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::redis::{Server, free_addr, keys, patient};

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// Returns a certificate for this name, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Files that a server reads its certificate from, gone when this is dropped.
struct Files(PathBuf);

impl Files {
    fn new(authority: &Authority) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-tls-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = authority.sign("127.0.0.1");
        fs::write(folder.join("ca"), &authority.pem).unwrap();
        fs::write(folder.join("certificate"), certificate).unwrap();
        fs::write(folder.join("key"), key).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        Path::new(&self.0).join(name).display().to_string()
    }

    /// Returns how a server listens for TLS at this port.
    fn options(&self, port: &str) -> Vec<String> {
        let options = [
            ("--tls-port", port),
            ("--tls-ca-cert-file", &self.file("ca")),
            ("--tls-cert-file", &self.file("certificate")),
            ("--tls-key-file", &self.file("key")),
            ("--tls-auth-clients", "no"),
        ];
        let words = options.iter().flat_map(|(option, value)| [*option, value]);
        words.map(ToOwned::to_owned).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> String {
    free_addr().port().to_string()
}

fn url(port: &str) -> String {
    format!("rediss://127.0.0.1:{port}")
}

/// Stores the kinds of the failures that it is notified of.
#[derive(Clone, Debug, Default)]
struct Downs(Arc<Mutex<Vec<StoreErrorKind>>>);

impl Auditor for Downs {
    fn audit(&self, event: &AuditEvent) {
        if let AuditEvent::StoreDown { kind, .. } = event {
            self.0.lock().unwrap().push(*kind);
        }
    }
}

/// Tries to connect, and returns how that failed.
async fn attempt(config: RedisConfig) -> Result<(), StoreErrorKind> {
    let downs = Downs::default();
    let config = patient(config.auditor(downs.clone()));
    let store = RedisStore::new(config, keys()).unwrap();
    loop {
        let reply = store.ping().await;
        match downs.0.lock().unwrap().first() {
            Some(kind) => return Err(*kind),
            None if reply.is_ok() => return Ok(()),
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The same, but on a busy machine an attempt may be late, whatever would have come of it.
async fn connect(config: RedisConfig) -> Result<(), StoreErrorKind> {
    let begun = Instant::now();
    loop {
        let outcome = attempt(config.clone()).await;
        let is_late = outcome == Err(StoreErrorKind::Timeout);
        if !is_late || begun.elapsed() > Duration::from_secs(20) {
            return outcome;
        }
    }
}

fn refused(config: RedisConfig) -> ConfigError {
    RedisStore::new(config, keys()).map(drop).unwrap_err()
}

#[tokio::test]
async fn over_tls_a_server_is_believed_by_its_authority_and_its_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::new(&authority);
    let port = free_port();
    let options = files.options(&port);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::with(&options);
    let config = || RedisConfig::single(url(&port)).root_certificates(authority.pem.as_str());
    assert_eq!(connect(config()).await, Ok(()));

    // An untrusted server is distinguished from an unavailable one.
    let misconfigured = Err(StoreErrorKind::Misconfigured);
    let wrong_name = config().certificate_name("redis.example");
    assert_eq!(connect(wrong_name).await, misconfigured);
    let right_name = config().certificate_name("127.0.0.1");
    assert_eq!(connect(right_name).await, Ok(()));
    let wrong_authority = config().root_certificates(other.pem.as_str());
    assert_eq!(connect(wrong_authority).await, misconfigured);
    let both = format!("{}{}", other.pem, authority.pem);
    let either = config().root_certificates(both);
    assert_eq!(connect(either).await, Ok(()));

    // A server that asks for a certificate gets one.
    server.ask(&["CONFIG", "SET", "tls-auth-clients", "yes"]);
    assert!(attempt(config()).await.is_err());
    let (certificate, key) = authority.sign("client");
    let shown = config().client_certificate(certificate, key);
    assert_eq!(connect(shown).await, Ok(()));
    let (certificate, key) = other.sign("client");
    let wrong = config().client_certificate(certificate, key);
    assert!(attempt(wrong).await.is_err());
}

#[tokio::test]
async fn sentinels_and_a_cluster_are_reached_over_tls_too() {
    let authority = Authority::new();
    let files = Files::new(&authority);
    let start = |start: fn(&[&str]) -> Server, more: &[&str]| {
        let port = free_port();
        let mut options = files.options(&port);
        options.extend(more.iter().map(ToString::to_string));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        (start(&options), port)
    };
    let (_main, main_port) = start(Server::with, &["--tls-replication", "yes"]);
    let (sentinel, sentinel_port) = start(Server::sentinel, &["--tls-replication", "yes"]);
    sentinel.ask(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &main_port, "1"]);
    let watched = RedisConfig::sentinel([url(&sentinel_port)], "main")
        .root_certificates(authority.pem.as_str());
    assert_eq!(connect(watched).await, Ok(()));

    let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let (node, node_port) = start(Server::with, &cluster);
    node.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let cluster = RedisConfig::cluster([url(&node_port)]).root_certificates(authority.pem.as_str());
    assert_eq!(connect(cluster).await, Ok(()));
}

#[test]
fn rejects_invalid_tls_options() {
    let authority = Authority::new();
    let one = || RedisConfig::single("rediss://redis.example");
    let refusals = [
        (one().root_certificates("no PEM"), "root_certificates"),
        (one().root_certificates(""), "root_certificates"),
        (one().certificate_name("no name"), "certificate_name"),
        (RedisConfig::single("rediss://h/#insecure"), "redis url"),
    ];
    for (config, option) in refusals {
        assert_eq!(refused(config).option(), option);
    }
    // A key of another certificate, and an invalid one. The error contains neither.
    let ((certificate, _), (_, key)) = (authority.sign("a"), authority.sign("b"));
    for key in [key.as_str(), "hunter2"] {
        let config = one()
            .root_certificates(authority.pem.as_str())
            .client_certificate(certificate.as_str(), key);
        assert!(!format!("{config:?}").contains(key));
        let error = refused(config);
        assert_eq!(error.option(), "client_certificate");
        assert!(!format!("{error:?} {error}").contains(key), "{error}");
    }
}
