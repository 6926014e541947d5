//! An example run as a process of its own, and a client that talks to it over TCP.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The longest wait of a test for a process to print or do something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running example, ended when this is dropped.
pub(crate) struct Example {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: Arc<Mutex<Vec<String>>>,
    /// Reads stderr to its end.
    reader: Option<JoinHandle<()>>,
    /// The lines that the example has printed on stdout.
    pub(crate) said: Vec<String>,
}

impl Example {
    /// Builds an example if it is not fresh, and starts it on a free port of the loopback.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// Starts an example that finds these variables in its environment.
    pub(crate) fn start_with(name: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_as(name, &[], variables)
    }

    /// Starts an example with these arguments and variables.
    pub(crate) fn start_as(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary(name))
            .args(arguments)
            .env("PORTCULLIS_ADDR", "127.0.0.1:0")
            .env_remove("REDIS_URL")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, stdout) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            out.lines()
                .map_while(Result::ok)
                .try_for_each(|l| line.send(l))
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (err, kept) = (BufReader::new(child.stderr.take().unwrap()), stderr.clone());
        let reader = thread::spawn(move || {
            err.lines()
                .map_while(Result::ok)
                .for_each(|line| kept.lock().unwrap().push(line));
        });
        Self {
            child,
            stdout,
            stderr,
            reader: Some(reader),
            said: Vec::new(),
        }
    }

    /// Returns what follows `start` on the first line of stdout that begins so.
    pub(crate) fn said_after(&mut self, start: &str) -> String {
        loop {
            if let Some(rest) = self.said.iter().find_map(|line| line.strip_prefix(start)) {
                return rest.to_owned();
            }
            match self.stdout.recv_timeout(PATIENCE) {
                Ok(line) => self.said.push(line),
                Err(_) => panic!("no line `{start}..`: {:?} {:?}", self.said, self.stderr()),
            }
        }
    }

    /// Returns the address that the example reports to listen on.
    pub(crate) fn addr(&mut self) -> SocketAddr {
        self.said_after("listening on http://").parse().unwrap()
    }

    /// Returns the lines of stderr so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// Returns the lines of stderr once there are this many.
    pub(crate) async fn stderr_lines(&self, count: usize) -> Vec<String> {
        let begun = Instant::now();
        while self.stderr().len() < count && begun.elapsed() < PATIENCE {
            // A record is written after its response has ended: another process needs a moment.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stderr()
    }

    /// Presses Ctrl-C and returns how the process ended.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        self.signal("INT");
        self.wait()
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let signal = format!("-{name}");
        let sent = Command::new("kill").args([&signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Returns whether the process is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the process ends, and returns how.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "still running after a signal");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns all lines of stderr of a process that has ended.
    pub(crate) fn last_stderr(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.stderr()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl HttpResponse {
    /// Returns a header's value as text, or nothing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.headers, name)
    }
}

/// Sends one request over its own connection and reads the response.
pub(crate) async fn call(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> HttpResponse {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", addr.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    drop(sender);
    let _ = connection.await.unwrap();
    HttpResponse {
        status: head.status,
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// Returns the path of an example's binary, built for the profile that the tests run in.
pub(crate) fn binary(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo test` builds the examples, `cargo test --test it` does not",
        path.display()
    );
    path
}
