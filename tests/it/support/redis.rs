//! Redis servers for tests, each with a folder and a port of its own, and a proxy that fails.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use portcullis::{StoreKeys, store::RedisConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

static SERVERS: AtomicU64 = AtomicU64::new(0);

/// What a Sentinel reads, and writes to.
const SENTINEL_CONFIG: &str = "sentinel.conf";

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A secret that all stores of the tests share.
pub(crate) fn keys() -> StoreKeys {
    StoreKeys::from_secret(b"the secret that all instances of the tests share").unwrap()
}

/// A store that waits as long as a busy machine needs, for tests of what is right, not of what is
/// fast.
pub(crate) fn patient(config: RedisConfig) -> RedisConfig {
    const LONG: Duration = Duration::from_secs(10);
    config
        .api_key_deadline(LONG)
        .cache_deadline(LONG)
        .connect_deadline(LONG)
        .rate_limit_deadline(LONG)
        .silence_max(LONG)
}

/// A server, ended when this is dropped.
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    options: Vec<String>,
    pub(crate) addr: SocketAddr,
}

impl Server {
    /// Starts a server with the usual settings.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with settings of the caller's, such as `["--maxmemory", "2mb"]`.
    pub(crate) fn with(options: &[&str]) -> Self {
        Self::with_config(None, options)
    }

    fn with_config(sentinel: Option<&str>, options: &[&str]) -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        if let Some(config) = sentinel {
            fs::write(folder.join(SENTINEL_CONFIG), config).unwrap();
        }
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        // Another process may take a port between the moment it is found free and its use.
        for _ in 0..10 {
            let addr = free_addr();
            let child = spawn(&folder, addr, &options);
            let mut server = Self {
                child,
                folder: folder.clone(),
                options: options.clone(),
                addr,
            };
            if server.is_up() {
                return server;
            }
        }
        panic!("no server came up in {}", folder.display());
    }

    /// Starts a Sentinel that watches the server at this port.
    fn sentinel(port: &str) -> Self {
        let config = format!(
            "sentinel monitor main 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        Self::with_config(Some(&config), &[])
    }

    /// Starts a Sentinel that watches nothing yet.
    pub(crate) fn sentinel_alone(options: &[&str]) -> Self {
        Self::with_config(Some(""), options)
    }

    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.child.try_wait().unwrap().is_some() {
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

    /// Returns the server's URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Returns the path of the server's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Puts a command to the server, past any client.
    pub(crate) fn ask(&self, command: &[&str]) -> Reply {
        let answer = self.try_ask(command);
        answer.unwrap_or_else(|| panic!("no answer to {command:?}"))
    }

    fn try_ask(&self, command: &[&str]) -> Option<Reply> {
        let command: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        Client::connect(self.addr)?.ask(&command)
    }

    /// Opens a connection past any client.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr).unwrap()
    }

    /// Stops the server where it stands, until `thaw`.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a server go on that was stopped.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts a killed server again, at the same port and without its data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, self.addr, &self.options);
        assert!(self.is_up(), "the server does not come up again");
    }

    /// Returns how often each command was run, by name, in small letters.
    pub(crate) fn calls_of(&self, command: &str) -> u64 {
        let Reply::Bulk(info) = self.ask(&["INFO", "commandstats"]) else {
            panic!("no statistics");
        };
        let info = String::from_utf8(info).unwrap();
        let start = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// Returns all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        match self.ask(&["KEYS", "*"]) {
            Reply::Array(keys) => keys.iter().map(Reply::as_text).collect(),
            other => panic!("no keys: {other:?}"),
        }
    }

    /// Returns all that lies there, names and values, as one piece of text.
    pub(crate) fn everything(&self) -> String {
        let mut client = self.client();
        let mut ask = |command: &[&[u8]]| client.ask(command).unwrap().as_text();
        let mut all = String::new();
        for key in self.keys() {
            let name = key.as_bytes();
            all.push_str(&key);
            all.push_str(&match ask(&[b"TYPE", name]).as_str() {
                "string" => ask(&[b"GET", name]),
                "hash" => ask(&[b"HGETALL", name]),
                "zset" => ask(&[b"ZRANGE", name, b"0", b"-1"]),
                "list" => ask(&[b"LRANGE", name, b"0", b"-1"]),
                "stream" => ask(&[b"XRANGE", name, b"-", b"+"]),
                // It has expired since.
                "none" => String::new(),
                other => panic!("{key} is a {other}"),
            });
        }
        all
    }

    /// Returns the keys that never expire.
    pub(crate) fn keys_without_expiry(&self) -> Vec<String> {
        let mut client = self.client();
        let mut forever = self.keys();
        forever.retain(|key| client.ask(&[b"PTTL", key.as_bytes()]) == Some(Reply::Int(-1)));
        forever
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
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

/// Finds a port that a Cluster's bus has room above, too.
pub(crate) fn free_addr() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        if addr.port() < 55_000 {
            return addr;
        }
    }
}

/// A Cluster of three main servers, each with a replica.
pub(crate) struct Cluster {
    /// The main servers, with a third of the slots each, and then the replicas in the same order.
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
        ];
        let more = [
            "--cluster-node-timeout",
            "2000",
            "--cluster-require-full-coverage",
            "no",
        ];
        let servers = (0..6).map(|_| Server::with(&[options, more].concat()));
        let cluster = Self {
            servers: servers.collect(),
        };
        let [main, ..] = &cluster.servers[..] else {
            panic!("no server");
        };
        let ranges = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];
        for (server, [first, last]) in cluster.servers.iter().zip(ranges) {
            server.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
        }
        for (number, server) in cluster.servers.iter().enumerate() {
            let epoch = (number + 1).to_string();
            server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            let port = server.addr.port().to_string();
            main.ask(&["CLUSTER", "MEET", "127.0.0.1", &port]);
        }
        cluster.until(|server| {
            let nodes = server.ask(&["CLUSTER", "NODES"]).as_text();
            nodes.lines().count() == 6 && !nodes.contains("handshake")
        });
        for number in 0..3 {
            let id = cluster.servers[number].ask(&["CLUSTER", "MYID"]).as_text();
            cluster.servers[number + 3].ask(&["CLUSTER", "REPLICATE", &id]);
        }
        cluster.until(|server| {
            let slots = server.ask(&["CLUSTER", "SLOTS"]);
            let has_replicas = |range: &Reply| matches!(range, Reply::Array(r) if r.len() == 4);
            let are_known = matches!(&slots, Reply::Array(ranges)
                if ranges.len() == 3 && ranges.iter().all(has_replicas));
            let info = server.ask(&["CLUSTER", "INFO"]).as_text();
            are_known && info.contains("cluster_state:ok")
        });
        for replica in &cluster.servers[3..] {
            until(|| {
                let info = replica.ask(&["INFO", "replication"]).as_text();
                info.contains("master_link_status:up")
            });
        }
        cluster
    }

    fn until(&self, mut is_so: impl FnMut(&Server) -> bool) {
        until(|| self.servers.iter().all(&mut is_so));
    }

    /// Returns the URLs of all servers.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }
}

/// A server with a replica, watched by three Sentinels under the name `main`.
pub(crate) struct Watched {
    pub(crate) main: Server,
    pub(crate) replica: Server,
    sentinels: Vec<Server>,
}

impl Watched {
    pub(crate) fn start() -> Self {
        let main = Server::start();
        let port = main.addr.port().to_string();
        let replica = Server::with(&["--replicaof", "127.0.0.1", &port]);
        let sentinels: Vec<Server> = (0..3).map(|_| Server::sentinel(&port)).collect();
        for sentinel in &sentinels {
            until(|| {
                let known = sentinel.ask(&["SENTINEL", "MASTER", "main"]).as_text();
                known.contains("num-slaves 1") && known.contains("num-other-sentinels 2")
            });
        }
        Self {
            main,
            replica,
            sentinels,
        }
    }

    /// Returns the URLs of the Sentinels.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "the servers do not find one another"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(crate) fn as_text(&self) -> String {
        match self {
            Self::Text(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Int(int) => int.to_string(),
            Self::Nil => String::new(),
            Self::Array(each) => each.iter().map(Self::as_text).collect::<Vec<_>>().join(" "),
        }
    }

    pub(crate) fn as_int(&self) -> i64 {
        match self {
            Self::Int(int) => *int,
            other => panic!("no number: {other:?}"),
        }
    }
}

/// The plainest of clients: one question after the other.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    pub(crate) fn ask(&mut self, command: &[&[u8]]) -> Option<Reply> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for word in command {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&out).ok()?;
        self.read()
    }

    fn read(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let (kind, rest) = line.trim_end().split_at_checked(1)?;
        Some(match kind {
            "+" => Reply::text(rest),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(rest.parse().ok()?),
            "$" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.0.read_exact(&mut bytes).ok()?;
                    bytes.truncate(len);
                    Reply::Bulk(bytes)
                }
                Err(_) => Reply::Nil,
            },
            "*" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(len) => Reply::Array((0..len).map(|_| self.read()).collect::<Option<_>>()?),
                Err(_) => Reply::Nil,
            },
            _ => return None,
        })
    }
}

/// What a proxy does with what passes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Passes it on.
    None,
    /// Passes each piece on this much later, either way.
    Delay(Duration),
    /// Keeps all of it, either way, and new connections too, until something else is set.
    BlackHole,
    /// Passes on what the client says, and throws away what the server does.
    HalfOpen,
    /// Ends connections, and each new one.
    Reset,
    /// Throws away so many pieces that the server says, each of them a reply if there is one call
    /// at a time; then passes on.
    Swallow(u32),
    /// Passes on what the server says byte by byte, each this much after the last.
    Slow(Duration),
    /// Passes on other bytes than the server said.
    Corrupt,
}

/// A proxy before a server, ended with the runtime of its test.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
}

impl Proxy {
    /// Begins to pass on to a server.
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let faults = Arc::clone(&fault);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *faults.borrow() == Fault::Reset {
                    continue;
                }
                let Ok(server) = tokio::net::TcpStream::connect(server).await else {
                    continue;
                };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let asked = pass(from_client, to_server, false, Arc::clone(&faults));
                let said = pass(from_server, to_client, true, Arc::clone(&faults));
                tokio::spawn(async move {
                    // Where one way ends, both do.
                    tokio::select! { () = asked => {}, () = said => {} }
                });
            }
        });
        Self { addr, fault }
    }

    /// Sets what becomes of all that passes from now on.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_answer: bool,
    faults: Arc<watch::Sender<Fault>>,
) {
    let mut changes = faults.subscribe();
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            _ = changes.wait_for(|fault| *fault == Fault::Reset) => return,
        };
        let Ok(len @ 1..) = read else {
            return;
        };
        if changes
            .wait_for(|fault| *fault != Fault::BlackHole)
            .await
            .is_err()
        {
            return;
        }
        let fault = *faults.borrow();
        let bytes = &mut piece[..len];
        let passed = match fault {
            Fault::None | Fault::BlackHole => to.write_all(bytes).await,
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                to.write_all(bytes).await
            }
            Fault::Reset => return,
            Fault::HalfOpen | Fault::Swallow(_) | Fault::Slow(_) | Fault::Corrupt if !is_answer => {
                to.write_all(bytes).await
            }
            Fault::HalfOpen => Ok(()),
            Fault::Swallow(left) => {
                faults.send_replace(match left {
                    0 | 1 => Fault::None,
                    more => Fault::Swallow(more - 1),
                });
                Ok(())
            }
            Fault::Slow(time) => {
                let mut passed = Ok(());
                for byte in bytes.iter() {
                    tokio::time::sleep(time).await;
                    passed = to.write_all(&[*byte]).await;
                }
                passed
            }
            Fault::Corrupt => {
                bytes.iter_mut().for_each(|byte| *byte ^= 0x15);
                to.write_all(bytes).await
            }
        };
        if passed.is_err() {
            return;
        }
    }
}
