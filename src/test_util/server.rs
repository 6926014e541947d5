//! A Redis server for tests.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    client::{RedisClient, RedisReply},
    patience::PATIENCE,
};

static SERVERS: AtomicU64 = AtomicU64::new(0);

/// The file that contains the configuration and the state of a Sentinel.
const SENTINEL_CONFIG: &str = "sentinel.conf";

/// A `redis-server` process that stops when this value is dropped.
///
/// The server persists no data and permits the command `DEBUG`.
#[derive(Debug)]
pub struct RedisServer {
    child: Mutex<Child>,
    folder: PathBuf,
    options: Vec<String>,
    addr: SocketAddr,
}

impl RedisServer {
    /// Starts a server with default settings and waits until the server replies.
    ///
    /// # Panics
    ///
    /// Panics if `redis-server` is not installed, or if the server does not start within 20
    /// seconds.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with additional `redis-server` options, such as `["--maxmemory", "2mb"]`.
    ///
    /// # Panics
    ///
    /// Panics under the same conditions as [`RedisServer::start`].
    pub fn with(options: &[&str]) -> Self {
        Self::with_config(None, options)
    }

    /// Starts a Sentinel that does not yet monitor a server.
    ///
    /// # Panics
    ///
    /// Panics under the same conditions as [`RedisServer::start`].
    pub fn sentinel(options: &[&str]) -> Self {
        Self::with_config(Some(""), options)
    }

    pub(super) fn with_config(sentinel: Option<&str>, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        // Another process may take the port before the server does.
        for _ in 0..10 {
            let (folder, addr) = (new_folder(sentinel), free_addr());
            let server = Self {
                child: Mutex::new(spawn(&folder, addr, &options)),
                folder,
                options: options.clone(),
                addr,
            };
            if server.is_up() {
                return server;
            }
        }
        panic!("`redis-server` did not start in ten attempts");
    }

    fn is_up(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(self.child().try_wait(), Ok(None)) {
                return false;
            }
            // Without a password the reply is an error, which is enough.
            let reply = self.try_ask(&["PING"]).map(|reply| reply.as_text());
            if reply.is_some_and(|reply| !reply.starts_with("LOADING")) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Returns the address on which the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the URL of the server, such as `redis://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Returns the path of the server's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Sends a command directly to the server and returns the reply.
    ///
    /// # Panics
    ///
    /// Panics if the server does not reply.
    pub fn ask(&self, command: &[&str]) -> RedisReply {
        let reply = self.try_ask(command);
        reply.unwrap_or_else(|| panic!("no reply to {command:?}"))
    }

    fn try_ask(&self, command: &[&str]) -> Option<RedisReply> {
        let command: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        RedisClient::connect(self.addr)?.ask(&command)
    }

    /// Opens a direct connection to the server.
    ///
    /// # Panics
    ///
    /// Panics if the connection fails.
    pub fn client(&self) -> RedisClient {
        RedisClient::connect(self.addr).expect("the server listens")
    }

    /// Suspends the server's process (`SIGSTOP`) until [`thaw`](Self::thaw) is called. The server's
    /// connections stay open.
    ///
    /// # Panics
    ///
    /// Panics if the server is not running.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Resumes a suspended server.
    ///
    /// # Panics
    ///
    /// Panics if the server is not running.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child().id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "`kill {signal}` did not reach the server"
        );
    }

    /// Kills the server with `SIGKILL`. The server's data is lost.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the server again on the same port, without its previous data.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start.
    pub fn restart(&self) {
        self.kill();
        *self.child() = spawn(&self.folder, self.addr, &self.options);
        assert!(self.is_up(), "the server did not start again");
    }

    /// Returns the number of times that a command was called, according to `INFO commandstats`.
    /// `command` must be in lowercase.
    ///
    /// # Panics
    ///
    /// Panics if the server does not reply.
    pub fn calls_of(&self, command: &str) -> u64 {
        let info = self.ask(&["INFO", "commandstats"]).as_text();
        let start = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&start));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| {
            calls.parse().expect("the statistics have numbers")
        })
    }

    /// Returns all keys on the server.
    ///
    /// # Panics
    ///
    /// Panics if the server does not reply.
    pub fn keys(&self) -> Vec<String> {
        match self.ask(&["KEYS", "*"]) {
            RedisReply::Array(keys) => keys.iter().map(RedisReply::as_text).collect(),
            other => panic!("not a list of keys: {other:?}"),
        }
    }

    /// Returns all keys and values as a single string. Tests can check that the string contains no
    /// secret.
    ///
    /// # Panics
    ///
    /// Panics if the server does not reply.
    pub fn everything(&self) -> String {
        let mut client = self.client();
        let mut ask = |command: &[&[u8]]| {
            let reply = client.ask(command).expect("the server replies");
            reply.as_text()
        };
        let mut all = String::new();
        for key in self.keys() {
            let name = key.as_bytes();
            all.push_str(&key);
            all.push_str(&match ask(&[b"TYPE", name]).as_str() {
                "string" => ask(&[b"GET", name]),
                "hash" => ask(&[b"HGETALL", name]),
                "list" => ask(&[b"LRANGE", name, b"0", b"-1"]),
                "set" => ask(&[b"SMEMBERS", name]),
                "zset" => ask(&[b"ZRANGE", name, b"0", b"-1"]),
                "stream" => ask(&[b"XRANGE", name, b"-", b"+"]),
                // The key has expired since.
                "none" => String::new(),
                other => panic!("{key} is a {other}"),
            });
        }
        all
    }

    /// Returns the keys that have no expiry.
    ///
    /// # Panics
    ///
    /// Panics if the server does not reply.
    pub fn keys_without_expiry(&self) -> Vec<String> {
        let mut client = self.client();
        let mut forever = self.keys();
        forever.retain(|key| client.ask(&[b"PTTL", key.as_bytes()]) == Some(RedisReply::Int(-1)));
        forever
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Creates a server's folder. Writes the configuration of a Sentinel to the folder if one is given.
fn new_folder(sentinel: Option<&str>) -> PathBuf {
    let number = SERVERS.fetch_add(1, Ordering::Relaxed);
    let name = format!("portcullis-redis-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("a server needs a folder for temporary files");
    if let Some(config) = sentinel {
        fs::write(folder.join(SENTINEL_CONFIG), config)
            .expect("a Sentinel needs a file that it can write to");
    }
    folder
}

fn spawn(folder: &Path, addr: SocketAddr, options: &[String]) -> Child {
    let port = addr.port().to_string();
    let path = folder.display().to_string();
    let mut command = Command::new("redis-server");
    let config = folder.join(SENTINEL_CONFIG);
    let is_sentinel = config.exists();
    if is_sentinel {
        command.arg(config);
    }
    command.args(["--port", &port, "--bind", "127.0.0.1", "--dir", &path]);
    if is_sentinel {
        command.arg("--sentinel");
    } else {
        command
            .args(["--unixsocket", &folder.join("s").display().to_string()])
            .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
            .args(["--repl-diskless-sync-delay", "0"])
            .args(["--enable-debug-command", "yes"]);
    }
    command
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is not installed: run `apt-get install redis-server`")
}

/// Returns a loopback address with a free port whose corresponding Cluster bus port is also valid.
///
/// # Panics
///
/// Panics if there is no such port.
pub fn free_addr() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0");
        let addr = listener
            .and_then(|listener| listener.local_addr())
            .expect("the loopback has a free port");
        if addr.port() < 55_000 {
            return addr;
        }
    }
}
