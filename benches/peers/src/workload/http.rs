//! A real server on the loopback, in a separate thread, and its client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::origin::JsonOrigin;
use super::requests::Requests;
use crate::harness::{Meter, Spent};

/// The number of open connections, each with one request in flight.
const CONNECTIONS: usize = 32;

/// Returns the work of a row: requests over the wire, whose cost is the CPU time of the server.
///
/// `router` runs in the server's thread. It returns the router and a value that lives as long as
/// the thread, such as the guard of its default subscriber. Panics if a response is not successful.
pub fn serve<E>(
    router: impl FnOnce() -> (Router, E) + Send + 'static,
    requests: Requests,
) -> Meter {
    let server = Server::start(router);
    let mut load = Load::new(server.addr, requests);
    Box::new(move |iterations| {
        let before = server.spent();
        load.run(iterations);
        server.spent().since(before)
    })
}

/// Returns the same work with a filled cache.
///
/// Panics if a batch reaches the origin.
pub fn serve_hits<E>(
    router: impl FnOnce() -> (Router, E) + Send + 'static,
    origin: &JsonOrigin,
    requests: Requests,
) -> Meter {
    let distinct = requests.distinct() as u64;
    let mut meter = serve(router, requests);
    let is_primed = (0..100).any(|_| {
        let asked = origin.asked();
        meter(distinct);
        origin.asked() == asked
    });
    assert!(is_primed, "the cache stores nothing");
    let (origin, primed) = (origin.clone(), origin.asked());
    Box::new(move |iterations| {
        let spent = meter(iterations);
        assert_eq!(origin.asked(), primed, "a batch of hits reached the origin");
        spent
    })
}

/// A server on one thread that reports the cost of that thread. It stops on drop.
struct Server {
    addr: SocketAddr,
    ask: UnboundedSender<mpsc::Sender<Spent>>,
}

impl Server {
    fn start<E>(router: impl FnOnce() -> (Router, E) + Send + 'static) -> Self {
        let (ask, asked) = unbounded_channel();
        let (bound, addr) = mpsc::channel();
        thread::spawn(move || {
            let (router, _entered) = router();
            runtime().block_on(run(router, &bound, asked));
        });
        Self {
            addr: addr.recv().expect("the server binds a free port"),
            ask,
        }
    }

    fn spent(&self) -> Spent {
        let (reply, spent) = mpsc::channel();
        self.ask.send(reply).expect("the server runs");
        spent.recv().expect("the server replies")
    }
}

async fn run(
    router: Router,
    bound: &mpsc::Sender<SocketAddr>,
    mut asked: UnboundedReceiver<mpsc::Sender<Spent>>,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("the loopback has a free port");
    let addr = listener
        .local_addr()
        .expect("a bound socket has an address");
    bound.send(addr).expect("the row waits for the address");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, service).await });
    while let Some(reply) = asked.recv().await {
        reply
            .send(Spent::by_this_thread())
            .expect("the row waits for the cost");
    }
}

/// Connections to one server, and the requests to send over them in turn.
struct Load {
    runtime: Runtime,
    connections: Vec<SendRequest<Body>>,
    requests: Arc<Mutex<Requests>>,
}

impl Load {
    fn new(addr: SocketAddr, requests: Requests) -> Self {
        let runtime = runtime();
        let connections = runtime.block_on(async {
            let mut connections = Vec::with_capacity(CONNECTIONS);
            for _ in 0..CONNECTIONS {
                connections.push(connect(addr).await);
            }
            connections
        });
        Self {
            runtime,
            connections,
            requests: Arc::new(Mutex::new(requests)),
        }
    }

    fn run(&mut self, iterations: u64) {
        let left = Arc::new(AtomicU64::new(iterations));
        let mut tasks = JoinSet::new();
        let handle = self.runtime.handle();
        for mut connection in self.connections.drain(..) {
            let (left, requests) = (Arc::clone(&left), Arc::clone(&self.requests));
            let send_all = async move {
                while took_one(&left) {
                    let request = requests.lock().expect("no task panics").next();
                    exchange(&mut connection, request).await;
                }
                connection
            };
            tasks.spawn_on(send_all, handle);
        }
        self.connections = self.runtime.block_on(tasks.join_all());
    }
}

fn took_one(left: &AtomicU64) -> bool {
    let one_less = |left: u64| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        .is_ok()
}

async fn connect(addr: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(addr).await.expect("the server listens");
    stream.set_nodelay(true).expect("TCP has this option");
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .expect("the server speaks HTTP/1.1");
    tokio::spawn(connection);
    sender
}

async fn exchange(connection: &mut SendRequest<Body>, request: Request<Body>) {
    connection.ready().await.expect("the connection stays open");
    let response = connection.send_request(request).await;
    let response = response.expect("the server responds");
    assert!(
        response.status().is_success(),
        "the response has status {}",
        response.status()
    );
    to_bytes(Body::new(response.into_body()), usize::MAX)
        .await
        .expect("the body is complete");
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread can be built")
}
