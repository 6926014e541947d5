//! Access log records of requests between a real client and a real server.

use std::{convert::Infallible, future::pending, sync::Mutex, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use portcullis::access_log::{AccessLogLayer, FieldNaming, Record, Sink};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use tower::{Layer, service_fn};

use crate::support::endless::Endless;

type ServerResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A sink that forwards each record to a channel.
#[derive(Debug)]
struct ChannelSink(Mutex<UnboundedSender<Value>>);

impl Sink for ChannelSink {
    fn write(&self, record: &Record<'_>) {
        let json = record.with_json_line(FieldNaming::Otel, |line| {
            serde_json::from_slice(line).unwrap()
        });
        let _ = self.0.lock().unwrap().send(json);
    }
}

/// A server that answers by the path, and the records of its requests.
struct Served {
    client: TcpStream,
    records: UnboundedReceiver<Value>,
    layer: AccessLogLayer,
}

impl Served {
    async fn start() -> Self {
        let (send, records) = mpsc::unbounded_channel();
        let layer = AccessLogLayer::new(ChannelSink(Mutex::new(send)));
        let service = layer.layer(service_fn(respond));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .with_upgrades()
                .await;
        });
        Self {
            client: TcpStream::connect(addr).await.unwrap(),
            records,
            layer,
        }
    }

    async fn send(&mut self, head: &str) {
        let request = format!("{head} HTTP/1.1\r\nhost: test\r\n\r\n");
        self.client.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads until the text has been seen.
    async fn read_until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(end) {
            let mut bytes = [0; 1_024];
            let read = self.client.read(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "the server hung up");
            seen.extend_from_slice(&bytes[..read]);
        }
        String::from_utf8(seen).unwrap()
    }

    async fn record(&mut self) -> Value {
        let patience = Duration::from_secs(10);
        let told = tokio::time::timeout(patience, self.records.recv()).await;
        told.expect("a record comes").unwrap()
    }

    /// Disconnects, and checks that no further record arrives and no request is in flight.
    async fn end(mut self) {
        drop(self.client);
        while self.layer.stats().active() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.records.try_recv().ok(), None);
    }
}

async fn respond(request: Request<Incoming>) -> Result<ServerResponse, Infallible> {
    let full = |text: &'static str| Full::<Bytes>::from(text).boxed_unsync();
    let mut response = match request.uri().path() {
        "/never" => pending().await,
        "/endless" => Response::new(Endless.boxed_unsync()),
        _ => Response::new(full("hello")),
    };
    match request.uri().path() {
        "/not-modified" => *response.status_mut() = StatusCode::NOT_MODIFIED,
        "/upgrade" => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.body_mut() = full("");
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
            tokio::spawn(echo(hyper::upgrade::on(request)));
        }
        _ => {}
    }
    Ok(response)
}

async fn echo(upgrade: hyper::upgrade::OnUpgrade) {
    let mut stream = TokioIo::new(upgrade.await.unwrap());
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

#[tokio::test]
async fn each_request_of_a_connection_leaves_its_own_record() {
    let mut served = Served::start().await;
    for path in ["/a", "/b", "/c"] {
        served.send(&format!("GET {path}")).await;
        served.read_until("hello").await;
        let record = served.record().await;
        assert_eq!(record["url.path"], path);
        assert_eq!(record["portcullis.outcome"], "completed");
        assert_eq!(record["http.response.body.size"], 5);
    }
    served.end().await;
}

#[tokio::test]
async fn response_without_body_is_completed() {
    let mut served = Served::start().await;
    for head in ["HEAD /", "GET /not-modified"] {
        served.send(head).await;
        served.read_until("\r\n\r\n").await;
        let record = served.record().await;
        assert_eq!(record["portcullis.outcome"], "completed", "{head}");
        assert_eq!(record["http.response.body.size"], 0);
    }
    served.end().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_before_the_head_is_recorded() {
    let mut served = Served::start().await;
    served.send("GET /never").await;
    while served.layer.stats().active() == 0 {
        tokio::task::yield_now().await;
    }
    served.client.shutdown().await.unwrap();
    let record = served.record().await;
    assert_eq!(record["portcullis.outcome"], "dropped");
    assert!(record.get("http.response.status_code").is_none());
    served.end().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_amid_a_stream_is_recorded() {
    let mut served = Served::start().await;
    served.send("GET /endless").await;
    served.read_until("more").await;
    let (gone, _) = (served.client, served.layer.stats());
    drop(gone);
    let told = tokio::time::timeout(Duration::from_secs(10), served.records.recv()).await;
    let record = told.expect("a record comes").unwrap();
    assert_eq!(record["portcullis.outcome"], "body_dropped");
    assert_eq!(record["http.response.status_code"], 200);
    assert!(record["http.response.body.size"].as_u64().unwrap() >= 4);
    assert_eq!(served.layer.stats().active(), 0);
}

#[tokio::test]
async fn an_upgrade_is_complete_with_its_head_and_the_connection_goes_on() {
    let mut served = Served::start().await;
    let request =
        "GET /upgrade HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    served.client.write_all(request.as_bytes()).await.unwrap();
    served.read_until("\r\n\r\n").await;
    let record = served.record().await;
    assert_eq!(record["http.response.status_code"], 101);
    assert_eq!(record["portcullis.outcome"], "completed");
    served.client.write_all(b"ping").await.unwrap();
    assert_eq!(served.read_until("ping").await, "ping");
    served.end().await;
}
