//! Graceful shutdown: of the handle, and of the examples that serve, as processes.

use std::{
    collections::HashSet,
    future::{pending, ready},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use portcullis::shutdown::Shutdown;
use serde_json::Value;

use crate::support::process::Example;

/// The signals that end a process in good order, and the status of one that they end at once.
pub(crate) const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

/// The time that the examples give to connections, with some for a slow machine.
const BOUND: Duration = Duration::from_secs(10 + 10);

#[tokio::test]
async fn drain_returns_the_output_of_a_server_that_ends() {
    let shutdown = Shutdown::new().drain_timeout(Duration::ZERO);
    assert_eq!(shutdown.drain(ready(7)).await, Some(7));
    assert!(!shutdown.is_requested());
    let clone = shutdown.clone();
    let server = async {
        clone.requested().await;
        8
    };
    shutdown.request();
    assert_eq!(shutdown.drain(server).await, Some(8));
}

#[tokio::test]
async fn drain_gives_up_a_server_only_once_the_shutdown_is_requested() {
    let shutdown = Shutdown::new().drain_timeout(Duration::ZERO);
    let drained = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.drain(pending::<()>()).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
    }
    shutdown.request();
    assert_eq!(drained.await.unwrap(), None);
}

#[tokio::test]
async fn current_and_later_waiters_observe_the_shutdown() {
    let shutdown = Shutdown::new();
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(shutdown.requested())).collect();
    shutdown.request();
    for waiter in waiting {
        waiter.await.unwrap();
    }
    shutdown.requested().await;
}

#[test]
fn signals_outside_of_a_runtime_are_a_configuration_error() {
    let error = Shutdown::on_signal().unwrap_err();
    assert_eq!(error.option(), "Shutdown::on_signal");
    assert!(error.to_string().contains("enable_all"), "{error}");
}

fn gateway() -> (Example, SocketAddr, String) {
    let mut example = Example::start("gateway");
    let (addr, key) = (example.addr(), example.said_after("pro key: "));
    (example, addr, key)
}

/// Sends bytes over a connection of their own.
pub(crate) fn send(addr: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(4 * BOUND)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Reads until this has come.
pub(crate) fn read_to(stream: &mut TcpStream, mark: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains(mark) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "it ended: {text}");
        text.push(byte[0].into());
    }
    text
}

/// Waits until the address refuses connections: the signal has arrived.
fn wait_until_refused(addr: SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(begun.elapsed() < BOUND, "still listening");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the ids of the requests in the records.
pub(crate) fn request_ids(lines: &[String]) -> HashSet<String> {
    let id = |line: &String| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["portcullis.request.id"].as_str().map(str::to_owned)
    };
    lines.iter().filter_map(id).collect()
}

#[test]
fn streams_that_are_running_finish_and_are_recorded() {
    for (signal, _) in SIGNALS {
        let (mut example, addr, key) = gateway();
        let request = format!("GET /stream HTTP/1.1\r\nhost: h\r\nx-api-key: {key}\r\n\r\n");
        let mut streams: Vec<_> = (0..20).map(|_| send(addr, &request)).collect();
        for stream in &mut streams {
            read_to(stream, "line 1 of 5");
        }
        example.signal(signal);
        for mut stream in streams {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert!(rest.contains("line 5 of 5"), "{signal}: {rest}");
        }
        assert_eq!(example.wait().code(), Some(0), "{signal}");
        let records = example.last_stderr();
        let completed = |line: &&String| line.contains(r#""portcullis.outcome":"completed""#);
        assert_eq!(records.iter().filter(completed).count(), 20, "{records:#?}");
    }
}

#[test]
fn each_response_before_a_signal_has_its_record() {
    for (signal, _) in SIGNALS {
        let (mut example, addr, _) = gateway();
        let clients: Vec<_> = (0..4)
            .map(|_| thread::spawn(move || ask_until_refused(addr)))
            .collect();
        thread::sleep(Duration::from_millis(200));
        example.signal(signal);
        let answered: Vec<String> = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        assert_eq!(example.wait().code(), Some(0), "{signal}");
        let recorded = request_ids(&example.last_stderr());
        assert!(!answered.is_empty());
        for id in &answered {
            assert!(recorded.contains(id), "{id} of {} is lost", answered.len());
        }
    }
}

/// Sends one request after the other, and returns the ids of those that had a response.
fn ask_until_refused(addr: SocketAddr) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(id) = ask(addr) {
        ids.push(id);
    }
    ids
}

fn ask(addr: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream
        .write_all(b"GET /public HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (_, rest) = response.split_once("x-request-id: ")?;
    Some(rest.split("\r\n").next()?.to_owned())
}

#[test]
fn connection_that_was_used_and_is_idle_is_closed_at_once() {
    for (signal, _) in SIGNALS {
        let (mut example, addr, _) = gateway();
        let mut idle = send(addr, "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n");
        read_to(&mut idle, "ok\n");
        let begun = Instant::now();
        example.signal(signal);
        assert_eq!(example.wait().code(), Some(0), "{signal}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{signal}");
    }
}

/// Starts an example that serves, and returns its address.
fn start(name: &str) -> (Example, SocketAddr) {
    let nowhere = ["--listen", "127.0.0.1:0", "--origin", "http://127.0.0.1:9"];
    let mut example = match name {
        "reverse_proxy" => Example::start_as(name, &nowhere, &[]),
        _ => Example::start(name),
    };
    let addr = example.addr();
    (example, addr)
}

#[test]
fn silent_and_half_sent_connections_hold_no_example_beyond_the_bound() {
    let ended: Vec<_> = ["gateway", "hyper", "reverse_proxy"]
        .into_iter()
        .flat_map(|name| SIGNALS.map(|(signal, _)| (name, signal)))
        .map(|(name, signal)| thread::spawn(move || end_amid_open_connections(name, signal)))
        .collect();
    for ended in ended {
        ended.join().unwrap();
    }
}

fn end_amid_open_connections(name: &str, signal: &str) {
    let (mut example, addr) = start(name);
    let _silent = TcpStream::connect(addr).unwrap();
    let _half = send(addr, "GET / HTTP/1.1\r\nhost: h\r\nx-half");
    let _body = send(
        addr,
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf",
    );
    // One more that is served whole: the others have been accepted before it.
    let mut whole = send(
        addr,
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    );
    whole.read_to_end(&mut Vec::new()).unwrap();
    let begun = Instant::now();
    example.signal(signal);
    assert_eq!(example.wait().code(), Some(0), "{name} {signal}");
    assert!(begun.elapsed() < BOUND, "{name} {signal}");
}

#[test]
fn second_signal_exits_at_once() {
    for (signal, code) in SIGNALS {
        for name in ["gateway", "hyper", "reverse_proxy"] {
            let (mut example, addr) = start(name);
            let _half = send(addr, "GET / HTTP/1.1\r\nhost: h\r\nx-half");
            let mut whole = send(
                addr,
                "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
            );
            whole.read_to_end(&mut Vec::new()).unwrap();
            example.signal(signal);
            wait_until_refused(addr);
            assert!(
                example.is_running(),
                "{name} waits for the half-sent request"
            );
            let begun = Instant::now();
            example.signal(signal);
            assert_eq!(example.wait().code(), Some(code), "{name} {signal}");
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    }
}
