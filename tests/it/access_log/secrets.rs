//! Secrets that must never appear in a log, and input that must never corrupt one.

use std::{
    convert::Infallible,
    io::{self, Write},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use portcullis::{
    BoxError, TokioRuntime,
    access_log::{
        AccessLogLayer, FieldNaming, LogLevel, LogQuery, LogStore, LogStream, Trust,
        sinks::{JsonLines, LogQueue, PrettyLines, RecentRecords, TextLines},
    },
    outcome::{AuthDenial, AuthOutcome, RecordHandle},
    store::MemoryStore,
};
use proptest::prelude::*;
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::get;

/// A secret, in a spelling that is allowed in every part of a request.
const CANARY: &str = "sk-live-C4n4ryC4n4ryC4n4ry";

/// The canary, and what it becomes on its way: any eight letters of it give it away.
fn assert_no_canary(log: &str) {
    for at in 0..=CANARY.len() - 8 {
        let piece = &CANARY[at..at + 8];
        assert!(!log.contains(piece), "{piece} stands in {log}");
    }
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(!log.to_lowercase().contains(&hex[..16]), "{log}");
}

/// Header names that carry secrets in some systems, and some that never should.
const HEADERS: [HeaderName; 21] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::REFERER,
    header::ORIGIN,
    header::HOST,
    header::USER_AGENT,
    header::FORWARDED,
    header::VIA,
    header::FROM,
    header::IF_NONE_MATCH,
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::CONTENT_LENGTH,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-whatever"),
];

/// A request with the canary in each place that a client may write to.
fn infested(headers: impl IntoIterator<Item = HeaderName>) -> Request<Full<Bytes>> {
    let uri = format!(
        "/reset/{CANARY}/now?token={CANARY}&{CANARY}&{CANARY}=&a={CANARY}=&page=1&b[]={CANARY}"
    );
    let mut request = get(&uri);
    for name in headers {
        let value = HeaderValue::from_str(&format!("Bearer {CANARY}")).unwrap();
        request.headers_mut().append(name, value);
    }
    *request.body_mut() = Full::from(CANARY);
    request
}

/// The written output, readable by the test.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a layer with every storing sink and every field name.
fn infested_layer() -> (AccessLogLayer, Vec<RecentRecords>, Paper, Kept) {
    let kept: Vec<_> = [FieldNaming::Otel, FieldNaming::Ecs, FieldNaming::Short]
        .into_iter()
        .map(|names| RecentRecords::default().field_naming(names))
        .collect();
    let builder = kept
        .iter()
        .fold(AccessLogLayer::builder(), |builder, recent| {
            builder.sink(recent.clone())
        });
    let (paper, store) = (Paper::default(), MemoryStore::new());
    let queue = LogQueue::builder(store.clone(), TokioRuntime)
        .build()
        .unwrap();
    let layer = builder
        .sink(PrettyLines::direct(paper.clone()))
        .sink(JsonLines::direct(paper.clone()))
        .sink(TextLines::direct(paper.clone()))
        .sink(queue.clone())
        .auditor(queue.clone())
        .min_level(LogLevel::Debug)
        .redact_path("/reset/{token}")
        .query_values(["page"])
        .build()
        .unwrap();
    (layer, kept, paper, Kept { queue, store })
}

/// The entries that a queue has written to a store.
struct Kept {
    queue: LogQueue,
    store: MemoryStore,
}

impl Kept {
    /// Returns the records and the audit events.
    async fn texts(&self) -> [String; 2] {
        assert!(self.queue.flush().await);
        let mut texts = [LogStream::Access, LogStream::Audit].map(|trail| (trail, String::new()));
        for (trail, text) in &mut texts {
            let entries = self
                .store
                .recent(*trail, &LogQuery::default())
                .await
                .unwrap();
            for entry in entries {
                text.push_str(str::from_utf8(&entry.json).unwrap());
            }
        }
        texts.map(|(_, text)| text)
    }
}

#[tokio::test]
async fn a_secret_in_any_part_of_a_request_or_a_response_is_never_written() {
    type HandlerResult = Result<Response<Full<Bytes>>, BoxError>;

    let handlers: [fn() -> HandlerResult; 4] = [
        || {
            let mut response = Response::new(Full::from(CANARY));
            for name in HEADERS {
                let value = HeaderValue::from_static(CANARY);
                response.headers_mut().append(name, value);
            }
            Ok(response)
        },
        || {
            let mut response = Response::new(Full::from(CANARY));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(response)
        },
        || Err(format!("upstream refused {CANARY}").into()),
        || panic!("{CANARY}"),
    ];
    for handler in handlers {
        let (layer, kept, paper, stored) = infested_layer();
        let app = layer.layer(service_fn(
            move |request: Request<Full<Bytes>>| async move {
                // Records the outcome as a layer does that rejected the caller.
                let record = RecordHandle::from_extensions(request.extensions()).unwrap();
                record.set_auth(AuthOutcome::Denied {
                    reason: AuthDenial::Malformed,
                    key_id: None,
                });
                handler()
            },
        ));
        let _ = tokio::spawn(app.oneshot(infested(HEADERS))).await;
        for recent in kept {
            let record = recent.last().expect("a record comes");
            assert!(
                record.contains("REDACTED") && record.contains("page=1"),
                "{record}"
            );
            assert_no_canary(&record);
        }
        assert!(
            paper.text().contains("/reset/REDACTED/now?"),
            "{}",
            paper.text()
        );
        assert_no_canary(&paper.text());
        let [records, events] = stored.texts().await;
        assert!(records.contains("REDACTED"), "{records}");
        assert!(events.contains("auth_denied"), "{events}");
        assert_no_canary(&(records + &events));
    }
}

#[tokio::test]
async fn debug_output_of_layer_and_future_discloses_no_secret() {
    let (layer, ..) = infested_layer();
    let mut app = layer
        .clone()
        .layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(CANARY)))
        }));
    let future = app.ready().await.unwrap().call(infested(HEADERS));
    assert_no_canary(&format!("{layer:?} {future:?}"));
    let response = future.await.unwrap();
    assert_no_canary(&format!("{:?}", response.body()));
}

#[tokio::test]
async fn a_credential_under_the_users_own_header_is_not_written_once_it_is_named() {
    let mine = HeaderName::from_static("x-partner-token");
    let error = AccessLogLayer::builder()
        .request_headers([mine.clone()])
        .redact_headers([mine])
        .build()
        .unwrap_err();
    assert_eq!(error.value(), "x-partner-token");
}

/// Strings that break lines, terminals, and parsers.
const CORPUS: [&str; 16] = [
    "\r\n{\"level\":\"INFO\"}",
    "\n\n",
    "\0",
    "\u{1b}[2J\u{1b}[31m",
    "\u{9b}31m",
    "\u{85}next line",
    "\u{2028}\u{2029}",
    "\u{202e}txt.exe",
    "\u{2066}\u{2069}\u{61c}\u{200e}\u{200f}",
    "\u{feff}",
    "\\\"}],{",
    "</script><script>alert(1)</script>",
    "${jndi:ldap://127.0.0.1/a}",
    "\u{7f}\u{8}\u{8}\u{8}",
    "%0d%0aSet-Cookie: a=b",
    "🦀\u{10ffff}",
];

/// Asserts that a line is valid JSON without invisible characters.
fn assert_one_plain_line(line: &str) {
    serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(!line.contains(is_unseen), "{line:?}");
}

/// Returns `true` if a character is invisible or changes how others are displayed.
fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
}

async fn record_of(
    request: Request<Full<Bytes>>,
    write: impl Fn(&RecordHandle) + Clone + Send + Sync,
) -> String {
    let (recent, paper) = (RecentRecords::default(), Paper::default());
    let layer = AccessLogLayer::builder()
        .sink(recent.clone())
        .sink(PrettyLines::direct(paper.clone()))
        .request_headers([header::USER_AGENT, HeaderName::from_static("x-note")])
        .query_values(["q"])
        .trust_request_id(Trust::Everybody)
        .build()
        .unwrap();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        write(RecordHandle::from_extensions(request.extensions()).unwrap());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    app.oneshot(request).await.unwrap();
    let pretty = paper.text();
    assert_eq!(pretty.matches('\n').count(), 1);
    assert!(
        !pretty.trim_end_matches('\n').contains(is_unseen),
        "{pretty:?}"
    );
    let all = recent.all();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap()
}

#[tokio::test]
async fn handler_fields_cannot_break_the_log_line() {
    for text in CORPUS {
        let line = record_of(get("/"), |record| {
            record.set_field(text.to_owned(), text.to_owned());
            record.set_route(text.to_owned());
        })
        .await;
        assert_one_plain_line(&line);
        let record: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(record[text], text);
    }
}

proptest! {
    #[test]
    fn no_bytes_of_a_request_break_its_line(
        path in "(/[!-~]{0,20}){1,3}",
        query in "[!-~]{0,40}",
        agent in prop::collection::vec(any::<u8>(), 0..80),
        id in prop::collection::vec(any::<u8>(), 0..40),
        field in any::<String>(),
    ) {
        let Ok(uri) = format!("{path}?{query}").parse() else { return Ok(()) };
        let mut request = get("/");
        *request.uri_mut() = uri;
        for (name, bytes) in [("user-agent", &agent), ("x-note", &agent), ("x-request-id", &id)] {
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                request.headers_mut().insert(name, value);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let line = runtime.block_on(record_of(request, |record| {
            record.set_field(field.clone(), field.clone());
        }));
        assert_one_plain_line(&line);
    }
}

#[tokio::test]
async fn a_line_has_a_bounded_length_whatever_is_sent() {
    let long = "x".repeat(15_000);
    let mut request = get(&format!("/{long}?q={long}&{long}={long}"));
    for name in ["user-agent", "x-note", "x-request-id"] {
        let value = HeaderValue::from_str(&long).unwrap();
        request.headers_mut().insert(name, value);
    }
    let line = record_of(request, |record| {
        for number in 0..100 {
            record.set_field(format!("{number}{long}"), long.clone());
        }
    })
    .await;
    assert!(line.len() < 64 << 10, "{}", line.len());
    assert_one_plain_line(&line);
}

#[tokio::test]
async fn a_writer_gets_whole_lines_from_many_threads_at_once() {
    let (read, write) = std::io::pipe().unwrap();
    let app = AccessLogLayer::new(JsonLines::writer(write)).layer(service_fn(
        async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        },
    ));
    let reader = std::thread::spawn(|| std::io::read_to_string(read).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let app = app.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                for _ in 0..200 {
                    runtime.block_on(app.clone().oneshot(get("/"))).unwrap();
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    drop(app);
    let log = reader.join().unwrap();
    assert_eq!(log.lines().count(), 800);
    log.lines().for_each(assert_one_plain_line);
}

/// Writes a request to this path, and returns the line.
async fn line_of(patterns: &[&str], path: &str) -> String {
    let recent = RecentRecords::default();
    let layer = patterns.iter().fold(
        AccessLogLayer::builder().sink(recent.clone()),
        |layer, pattern| layer.redact_path(*pattern),
    );
    let app = layer.build().unwrap().layer(service_fn(async |_| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    app.oneshot(get(path)).await.unwrap();
    recent.last().unwrap()
}

fn path_in(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["url.path"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_secret_path_that_matches_hides_its_segments() {
    const ID_AND_TOKEN: [&str; 2] = ["/users/{id}", "/users/me/{token}"];
    let reversed = [ID_AND_TOKEN[1], ID_AND_TOKEN[0]];
    for (patterns, path, shown) in [
        (
            &ID_AND_TOKEN[..],
            "/users/me/s3cr3t",
            "/users/REDACTED/REDACTED",
        ),
        (
            &reversed[..],
            "/users/me/s3cr3t",
            "/users/REDACTED/REDACTED",
        ),
        (
            &ID_AND_TOKEN[..],
            "//users//me//s3cr3t/x",
            "//users//REDACTED//REDACTED/x",
        ),
        (&ID_AND_TOKEN[..], "/users/other/s", "/users/REDACTED/s"),
        (&["/{a}", "/x/y/{b}"], "/x/y/z", "/REDACTED/y/REDACTED"),
        (&["/a/{b}/c", "/a/b/{c}"], "/a/b/c", "/a/REDACTED/REDACTED"),
        (&["/a/{b}/c", "/a/b/{c}"], "/a/b/d", "/a/b/REDACTED"),
        (&["/a/b/{c}/{d}"], "/a/b", "/a/b"),
        (&["/a/{c}"], "/b/s", "/b/s"),
    ] {
        let line = line_of(patterns, path).await;
        assert_eq!(path_in(&line), shown, "{patterns:?} {path}");
    }
}

const KEY: &str = "acme_live_1AAAAAAAAAAAAAAA_00000000000000000000000000000000000000000000w2Xzo";

#[tokio::test]
async fn api_key_is_redacted_anywhere_in_a_path() {
    let secret = &KEY[27..];
    for path in [
        format!("/admin/keys/{KEY}"),
        format!("/admin/keys/{KEY}/rotate"),
        format!("/x{KEY}"),
        format!("/{}", KEY.replace('_', "%5F")),
        format!("/{}", KEY.replace('_', "%255f")),
        // The cut path contains no part of the secret.
        format!("/{}{KEY}", "a".repeat(980)),
    ] {
        for patterns in [&[][..], &["/admin/{what}"]] {
            let line = line_of(patterns, &path).await;
            assert!(!line.contains(&secret[..16]), "{line}");
        }
    }
    let line = line_of(&[], &format!("/keys/{KEY}")).await;
    assert_eq!(path_in(&line), "/keys/acme_live_1AAAAAAAAAAAAAAA_REDACTED");
}

/// Also in the fields that are written on demand.
#[tokio::test]
async fn an_api_key_is_hidden_in_queries_headers_and_fields() {
    let secret = &KEY[27..43];
    let mut request = get(&format!("/?q={KEY}&{}=1", &KEY[..60]));
    for name in ["user-agent", "x-note", "x-request-id"] {
        let value = HeaderValue::from_static(KEY);
        request.headers_mut().insert(name, value);
    }
    let line = record_of(request, |record| {
        record.set_field("note".to_owned(), format!("called with {KEY}"));
    })
    .await;
    assert!(!line.contains(secret), "{line}");
    assert!(
        line.contains("acme_live_1AAAAAAAAAAAAAAA_REDACTED"),
        "{line}"
    );
}
