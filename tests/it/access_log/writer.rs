//! Writers of lines that never return, fail, or are slow: no request waits, and no loss is unseen.

use std::{
    convert::Infallible,
    io::{self, BufWriter, Write},
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, ManualClock,
    access_log::{
        AccessLogLayer, Sink,
        sinks::{DropCounts, JsonLines, PrettyLines},
    },
};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    get,
    paper::{Mood, Paper, records},
};

/// Far more than a thread needs to write its queue: only a bug makes a test wait this long.
const LONG: Duration = Duration::from_secs(60);

/// A writer each of whose writes waits until the test lets it through.
struct Gated {
    paper: Paper,
    let_through: Receiver<()>,
}

fn gated() -> (Gated, Sender<()>, Paper) {
    let (sender, let_through) = mpsc::channel();
    let paper = Paper::default();
    let gated = Gated {
        paper: paper.clone(),
        let_through,
    };
    (gated, sender, paper)
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once the test is over, everything goes through.
        let _ = self.let_through.recv();
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.paper.flush()
    }
}

/// Sends requests one after the other; each of them ends before the next begins.
async fn ask(sink: impl Sink, paths: impl IntoIterator<Item = &str>) {
    let layer = AccessLogLayer::builder()
        .sink(sink)
        .clock(ManualClock::default())
        .build()
        .unwrap();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        if request.uri().path() == "/fail" {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok::<_, Infallible>(response)
    }));
    for path in paths {
        app.clone().oneshot(get(path)).await.unwrap();
    }
}

fn paths(records: &[Value]) -> Vec<&str> {
    let path = records.iter().map(|record| record["url.path"].as_str());
    path.flatten().collect()
}

fn drop_counts(writer_failed: u64) -> DropCounts {
    let mut drop_counts = DropCounts::default();
    drop_counts.writer_failed = writer_failed;
    drop_counts
}

#[tokio::test]
async fn a_writer_that_never_returns_holds_up_no_request_and_what_matters_least_is_lost_first() {
    let (writer, let_through, paper) = gated();
    let lines = JsonLines::writer(writer).max_queued_bytes(64 << 10);
    ask(lines.clone(), ["/ok"; 1_000]).await;
    let lost = lines.drop_counts().queue_full;
    assert!((1..1_000).contains(&lost), "{lost}");
    ask(lines.clone(), ["/fail"; 3]).await;
    lines.audit(&AuditEvent::StoreUp {
        store: "redis".into(),
    });
    assert_eq!(
        lines.drop_counts().queue_full,
        lost,
        "the others have room left"
    );
    ask(lines.clone(), ["/fail"; 1_000]).await;
    lines.audit(&AuditEvent::StoreUp {
        store: "redis".into(),
    });
    assert!(!lines.flush(Duration::ZERO), "nothing has been written yet");

    drop(let_through);
    assert!(lines.flush(LONG));
    let lost = lines.drop_counts();
    ask(lines.clone(), ["/last"]).await;
    assert!(lines.flush(LONG));
    let records = paper.records();
    let written = paths(&records);
    assert_eq!(written.len() as u64 + lost.total(), 2_004);
    assert_eq!(written.last(), Some(&"/last"));
    let with = |name: &str| {
        let is_named = |record: &&Value| record["event.name"] == name;
        records.iter().filter(is_named).collect::<Vec<_>>()
    };
    assert_eq!(
        with("portcullis.audit.store_up").len(),
        2,
        "audit has room of its own"
    );
    let told = with("portcullis.log.lost");
    let told = told
        .iter()
        .map(|line| line["portcullis.log.lost"].as_u64().unwrap());
    assert_eq!(told.sum::<u64>(), lost.total(), "each loss counts once");
}

#[tokio::test]
async fn a_slow_writer_gets_all_lines_in_order_and_no_request_waits() {
    let (writer, let_through, paper) = gated();
    let lines = JsonLines::writer(writer);
    let sent: Vec<_> = (0..500).map(|number| format!("/{number}")).collect();
    ask(lines.clone(), sent.iter().map(String::as_str)).await;
    assert!(
        paper.text().is_empty(),
        "all requests have ended, and no line is written"
    );
    // One write after the other, and in the end all that are left.
    (0..5).for_each(|_| let_through.send(()).unwrap());
    drop(let_through);
    assert!(lines.flush(LONG));
    assert_eq!(paths(&paper.records()), sent);
    assert_eq!(lines.drop_counts(), DropCounts::default());
}

#[tokio::test]
async fn records_that_a_writer_rejects_are_counted_and_reported_later() {
    for mood in [Mood::Fails, Mood::Panics, Mood::Tears(0)] {
        let paper = Paper::default();
        let lines = JsonLines::writer(paper.clone());
        paper.is(mood);
        ask(lines.clone(), ["/1", "/2"]).await;
        assert!(lines.flush(LONG), "what is lost does not wait");
        assert_eq!(lines.drop_counts(), drop_counts(2));
        paper.is(Mood::Fine);
        ask(lines.clone(), ["/3"]).await;
        assert!(lines.flush(LONG));
        let records = paper.records();
        assert_eq!(records[0]["portcullis.log.lost"], 2);
        assert_eq!(records[0]["error.type"], "writer_failed");
        assert_eq!(records[1]["url.path"], "/3");
        assert_eq!(records.len(), 2);
    }
}

#[tokio::test]
async fn a_line_that_was_torn_is_ended_and_counts_as_lost() {
    let paper = Paper::default();
    let lines = JsonLines::writer(paper.clone());
    paper.is(Mood::Tears(20));
    ask(lines.clone(), ["/torn"]).await;
    assert!(lines.flush(LONG));
    assert_eq!(lines.drop_counts(), drop_counts(1));
    paper.is(Mood::Fine);
    ask(lines.clone(), ["/whole"]).await;
    assert!(lines.flush(LONG));
    let text = paper.text();
    let (torn, rest) = text.split_once('\n').unwrap();
    assert_eq!(torn.len(), 20);
    let records = records(rest);
    assert_eq!(records[0]["portcullis.log.lost"], 1);
    assert_eq!(paths(&records), ["/whole"]);
}

#[tokio::test]
async fn a_writer_that_keeps_lines_back_is_flushed_and_its_failure_counts() {
    let paper = Paper::default();
    let lines = JsonLines::writer(BufWriter::new(paper.clone()));
    ask(lines.clone(), ["/kept"]).await;
    assert!(lines.flush(LONG));
    assert_eq!(paths(&paper.records()), ["/kept"]);
    paper.is(Mood::FailsToFlush);
    ask(lines.clone(), ["/perhaps"]).await;
    assert!(lines.flush(LONG));
    assert_eq!(lines.drop_counts(), drop_counts(1));
}

#[tokio::test]
async fn queued_lines_are_written_after_the_layer_is_dropped() {
    let (writer, let_through, paper) = gated();
    let app =
        AccessLogLayer::json_lines(writer).layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    for _ in 0..100 {
        app.clone().oneshot(get("/")).await.unwrap();
    }
    assert!(paper.text().is_empty(), "they are held back until now");
    drop(let_through);
    drop(app);
    assert_eq!(paper.records().len(), 100);
}

#[tokio::test]
async fn pretty_lines_do_not_block_requests_and_report_losses() {
    let (writer, let_through, paper) = gated();
    let lines = PrettyLines::writer(writer);
    ask(lines.clone(), ["/1"]).await;
    paper.is(Mood::Fails);
    let_through.send(()).unwrap();
    assert!(lines.flush(LONG));
    paper.is(Mood::Fine);
    drop(let_through);
    ask(lines.clone(), ["/2"]).await;
    assert!(lines.flush(LONG));
    let text = paper.text();
    assert!(
        text.starts_with("portcullis.log.lost=1 reason=writer_failed\n"),
        "{text}"
    );
    assert!(text.ends_with("GET /2 0.0ms 0B\n"), "{text}");
    assert_eq!(lines.drop_counts(), drop_counts(1));
}

#[tokio::test]
async fn records_that_a_direct_writer_rejects_are_counted_and_reported() {
    let paper = Paper::default();
    let lines = JsonLines::direct(paper.clone());
    paper.is(Mood::Fails);
    ask(lines.clone(), ["/1", "/2"]).await;
    assert_eq!(lines.drop_counts(), drop_counts(2));
    paper.is(Mood::Fine);
    ask(lines.clone(), ["/3"]).await;
    let records = paper.records();
    assert_eq!(records[0]["portcullis.log.lost"], 2);
    assert_eq!(paths(&records), ["/3"]);
}
