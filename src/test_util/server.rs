//! A server, in a folder and on a port of its own.

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

/// What a Sentinel reads, and writes to.
const SENTINEL_CONFIG: &str = "sentinel.conf";

/// A `redis-server`, ended when this is dropped.
///
/// It keeps nothing on disk and knows `DEBUG`.
#[derive(Debug)]
pub struct RedisServer {
    child: Mutex<Child>,
    folder: PathBuf,
    options: Vec<String>,
    addr: SocketAddr,
}

impl RedisServer {
    /// Starts a server with the usual settings, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If `redis-server` is not installed, or does not come up within 20 seconds.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with further options of `redis-server`, such as `["--maxmemory", "2mb"]`.
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`].
    pub fn with(options: &[&str]) -> Self {
        Self::with_config(None, options)
    }

    /// Starts a Sentinel that watches nothing until it is told to.
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`].
    pub fn sentinel(options: &[&str]) -> Self {
        Self::with_config(Some(""), options)
    }

    pub(super) fn with_config(sentinel: Option<&str>, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        // Another process may take a port between the moment it is found free and its use.
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
        panic!("no server came up: `redis-server` ended, or was silent, ten times");
    }

    fn is_up(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(self.child().try_wait(), Ok(None)) {
                return false;
            }
            // Without a password it says no, but it says so.
            let reply = self.try_ask(&["PING"]).map(|reply| reply.as_text());
            if reply.is_some_and(|reply| !reply.starts_with("LOADING")) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Returns where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the server's URL, as in `redis://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Returns the path of the server's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Puts a command to the server, past any store.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn ask(&self, command: &[&str]) -> RedisReply {
        let answer = self.try_ask(command);
        answer.unwrap_or_else(|| panic!("no answer to {command:?}"))
    }

    fn try_ask(&self, command: &[&str]) -> Option<RedisReply> {
        let command: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        RedisClient::connect(self.addr)?.ask(&command)
    }

    /// Opens a connection past any store.
    ///
    /// # Panics
    ///
    /// If the server does not listen.
    pub fn client(&self) -> RedisClient {
        RedisClient::connect(self.addr).expect("the server listens")
    }

    /// Stops the server where it stands (`SIGSTOP`), until it thaws: it hangs, connections stay.
    ///
    /// # Panics
    ///
    /// If it no longer runs.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen server go on.
    ///
    /// # Panics
    ///
    /// If it no longer runs.
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

    /// Kills the server (`SIGKILL`), and its data with it.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the server again, at the same port and without its data.
    ///
    /// # Panics
    ///
    /// If it does not come up again.
    pub fn restart(&self) {
        self.kill();
        *self.child() = spawn(&self.folder, self.addr, &self.options);
        assert!(self.is_up(), "the server does not come up again");
    }

    /// Returns how often a command was run, by `INFO commandstats`: its name in small letters.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn calls_of(&self, command: &str) -> u64 {
        let info = self.ask(&["INFO", "commandstats"]).as_text();
        let start = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&start));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| {
            calls.parse().expect("the statistics have numbers")
        })
    }

    /// Returns all keys.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn keys(&self) -> Vec<String> {
        match self.ask(&["KEYS", "*"]) {
            RedisReply::Array(keys) => keys.iter().map(RedisReply::as_text).collect(),
            other => panic!("no keys: {other:?}"),
        }
    }

    /// Returns all that lies there, names and values, as one piece of text: what to look for a secret
    /// in that must not be stored.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
    pub fn everything(&self) -> String {
        let mut client = self.client();
        let mut ask = |command: &[&[u8]]| {
            let answer = client.ask(command).expect("the server answers");
            answer.as_text()
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
                // It has expired since.
                "none" => String::new(),
                other => panic!("{key} is a {other}"),
            });
        }
        all
    }

    /// Returns the keys that never expire.
    ///
    /// # Panics
    ///
    /// If the server does not answer.
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

/// Makes a folder for one server, with what a Sentinel is to read.
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

/// Returns a free port of the loopback, above which a Cluster's bus has room too.
///
/// # Panics
///
/// If there is none.
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
