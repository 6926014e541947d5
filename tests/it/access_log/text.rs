//! The Common Log Format and the Combined Log Format: fields, escapes and redaction.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{REFERER, USER_AGENT},
};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Identity, ManualClock, PeerAddr,
    access_log::{
        AccessLogLayer, AccessLogLayerBuilder,
        sinks::{RecentRecords, TextFormat, TextLines},
    },
    outcome::{AuthDenial, AuthOutcome, RecordHandle},
};
use proptest::prelude::*;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    get,
    paper::{Mood, Paper},
};

/// The fields of one line, without their escapes. `None` is the marker of absence.
#[derive(Debug, PartialEq)]
struct Fields {
    addr: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    time: String,
    method: Vec<u8>,
    target: Option<Vec<u8>>,
    version: String,
    status: Option<u16>,
    bytes: Option<u64>,
    referer: Option<Vec<u8>>,
    user_agent: Option<Vec<u8>>,
}

/// A reader of fields that knows only the format.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn expect(&mut self, text: &str) {
        let rest = self.0.strip_prefix(text.as_bytes());
        self.0 = rest.unwrap_or_else(|| panic!("no {text:?} at {:?}", self.0.escape_ascii()));
    }

    /// Reads up to an unescaped byte, which remains.
    fn until(&mut self, end: u8) -> &'a [u8] {
        let mut at = 0;
        while self.0[at] != end {
            at += if self.0[at] == b'\\' { 2 } else { 1 };
        }
        let (text, rest) = self.0.split_at(at);
        self.0 = rest;
        text
    }

    fn value(&mut self, end: u8) -> Option<Vec<u8>> {
        match self.until(end) {
            b"-" => None,
            b"\"\"" => Some(Vec::new()),
            text => Some(unescaped(text)),
        }
    }

    fn plain(&mut self, end: u8) -> String {
        String::from_utf8(self.until(end).to_vec()).unwrap()
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        self.expect("\"");
        let value = self.value(b'"');
        self.expect("\"");
        value
    }
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        assert!(byte.is_ascii_graphic() || *byte == b' ', "{byte:#x}");
        out.push(match byte {
            b'\\' => match bytes.next().unwrap() {
                b'x' => {
                    let digits = [*bytes.next().unwrap(), *bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                escaped => *escaped,
            },
            plain => *plain,
        });
    }
    out
}

fn parse(line: &str, format: TextFormat) -> Fields {
    let mut reader = Reader(line.as_bytes());
    let addr = reader.value(b' ');
    reader.expect(" - ");
    let user = reader.value(b' ');
    reader.expect(" [");
    let time = reader.plain(b']');
    reader.expect("] \"");
    let method = unescaped(reader.until(b' '));
    reader.expect(" ");
    let target = reader.value(b' ');
    reader.expect(" ");
    let version = reader.plain(b'"');
    reader.expect("\" ");
    let status = reader.plain(b' ').parse().ok();
    reader.expect(" ");
    let combined = format == TextFormat::Combined;
    let bytes = reader.plain(if combined { b' ' } else { b'\n' }).parse();
    let mut header = || {
        reader.expect(" ");
        reader.quoted()
    };
    let (referer, user_agent) = match combined {
        true => (header(), header()),
        false => (None, None),
    };
    reader.expect("\n");
    assert!(reader.0.is_empty(), "one line");
    Fields {
        addr,
        user,
        time,
        method,
        target,
        version,
        status,
        bytes: bytes.ok(),
        referer,
        user_agent,
    }
}

/// Sends a request to a handler that writes into its record. Returns the line, and the same record
/// as JSON.
async fn line_of(
    format: TextFormat,
    options: impl FnOnce(AccessLogLayerBuilder) -> AccessLogLayerBuilder,
    request: Request<Full<Bytes>>,
    handler: impl Fn(&RecordHandle) -> Response<Full<Bytes>>,
) -> (String, Value) {
    let (paper, recent) = (Paper::default(), RecentRecords::default());
    let clock = ManualClock::default();
    clock.set_wall(portcullis::Timestamp::from_secs(971_186_136));
    let builder = AccessLogLayer::builder()
        .sink(TextLines::direct(paper.clone()).format(format))
        .sink(recent.clone())
        .optional_client_addr()
        .clock(clock);
    let app = options(builder).build().unwrap().layer(service_fn(
        async |request: Request<Full<Bytes>>| {
            let record = RecordHandle::from_extensions(request.extensions()).unwrap();
            Ok::<_, Infallible>(handler(record))
        },
    ));
    let response = app.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let record = serde_json::from_str(&recent.last().unwrap()).unwrap();
    (paper.text(), record)
}

fn with_headers(builder: AccessLogLayerBuilder) -> AccessLogLayerBuilder {
    builder.request_headers([REFERER, USER_AGENT])
}

fn ok(_: &RecordHandle) -> Response<Full<Bytes>> {
    Response::new(Full::from("hello"))
}

/// The request of the example in the documentation of Apache.
fn apache_example() -> Request<Full<Bytes>> {
    let mut request = get("/apache_pb.gif?size=2&token=s3cret");
    let peer = PeerAddr(([127, 0, 0, 1], 4711).into());
    request.extensions_mut().insert(peer);
    *request.version_mut() = Version::HTTP_10;
    for (name, value) in [
        (REFERER, "http://www.example.com/start.html?token=s3cret"),
        (USER_AGENT, "Mozilla/4.08 [en] (Win98; I ;Nav)"),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    request
}

fn by_frank(record: &RecordHandle) -> Response<Full<Bytes>> {
    let frank = Identity::builder("key_7").owner("frank").build();
    record.set_auth(AuthOutcome::Allowed(frank));
    Response::new(Full::from("x".repeat(2_326)))
}

#[tokio::test]
async fn record_is_one_line_in_the_format_of_apache() {
    let options = |log| with_headers(log).include_user_id().query_values(["size"]);
    let (line, _) = line_of(TextFormat::Common, options, apache_example(), by_frank).await;
    let common = "127.0.0.1 - frank [10/Oct/2000:13:55:36 +0000] \
                  \"GET /apache_pb.gif?size=2&token=REDACTED HTTP/1.0\" 200 2326";
    assert_eq!(line, format!("{common}\n"));
    let (line, _) = line_of(TextFormat::Combined, options, apache_example(), by_frank).await;
    let headers = "\"http://www.example.com/start.html?token=REDACTED\" \
                   \"Mozilla/4.08 [en] (Win98; I ;Nav)\"";
    assert_eq!(line, format!("{common} {headers}\n"));
}

#[tokio::test]
async fn absent_fields_and_zero_bytes_are_hyphens() {
    let empty = |_: &RecordHandle| Response::new(Full::default());
    let mut request = get("/");
    let agent = HeaderValue::from_static("not recorded");
    request.headers_mut().insert(USER_AGENT, agent);
    let (line, _) = line_of(TextFormat::Combined, |log| log, request, empty).await;
    assert_eq!(
        line,
        "- - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 - \"-\" \"-\"\n"
    );
}

#[tokio::test]
async fn user_is_the_key_id_of_an_authenticated_caller_unless_the_owner_is_recorded() {
    let (line, _) = line_of(TextFormat::Common, |log| log, get("/"), by_frank).await;
    assert_eq!(parse(&line, TextFormat::Common).user.unwrap(), b"key_7");
    let hashed = |log: AccessLogLayerBuilder| log.include_user_hash("a secret of the log's");
    let (line, record) = line_of(TextFormat::Common, hashed, get("/"), by_frank).await;
    let hash = record["user.hash"].as_str().unwrap();
    let user = parse(&line, TextFormat::Common).user.unwrap();
    assert_eq!(user, hash.as_bytes());
    let denied = |record: &RecordHandle| {
        record.set_auth(AuthOutcome::Denied {
            reason: AuthDenial::Unknown,
            key_id: Some("key_7".into()),
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
    };
    let (line, _) = line_of(TextFormat::Common, |log| log, get("/"), denied).await;
    assert_eq!(parse(&line, TextFormat::Common).user, None);
}

#[tokio::test]
async fn values_that_equal_the_marker_of_absence_or_are_empty_are_distinct_from_it() {
    for value in ["-", "", "--", "\"\""] {
        let mut request = get("/");
        let header = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(USER_AGENT, header);
        let owned = |record: &RecordHandle| {
            let identity = Identity::builder("key_7").owner(value).build();
            record.set_auth(AuthOutcome::Allowed(identity));
            ok(record)
        };
        let options = |log| with_headers(log).include_user_id();
        let (line, _) = line_of(TextFormat::Combined, options, request, owned).await;
        let fields = parse(&line, TextFormat::Combined);
        assert_eq!(fields.user.unwrap(), value.as_bytes(), "{line}");
        assert_eq!(fields.user_agent.unwrap(), value.as_bytes(), "{line}");
    }
}

#[tokio::test]
async fn connect_request_has_its_authority_as_the_target() {
    for authority in ["acme.test:443", "[2001:db8::1]:443"] {
        let mut request = get("/");
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority.parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        let (line, _) = line_of(TextFormat::Common, |log| log, request, ok).await;
        let request_line = format!("\"CONNECT {authority} HTTP/2.0\"");
        assert!(line.contains(&request_line), "{line}");
    }
}

#[tokio::test]
async fn start_records_are_not_written() {
    let options = |log: AccessLogLayerBuilder| log.start_records(|_| true);
    let (line, _) = line_of(TextFormat::Common, options, get("/"), ok).await;
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[tokio::test]
async fn lost_lines_are_counted_and_reported_as_a_comment() {
    let paper = Paper::default();
    let lines = TextLines::writer(paper.clone()).format(TextFormat::Common);
    let app = AccessLogLayer::builder()
        .sink(lines.clone())
        .optional_client_addr()
        .clock(ManualClock::default())
        .build()
        .unwrap()
        .layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    for mood in [Mood::Fails, Mood::Fine] {
        paper.is(mood);
        app.clone().oneshot(get("/")).await.unwrap();
        assert!(lines.flush(Duration::from_secs(60)));
    }
    assert_eq!(lines.drop_counts().writer_failed, 1);
    let text = paper.text();
    let (loss, record) = text.split_once('\n').unwrap();
    assert_eq!(loss, "# portcullis.log.lost=1 reason=writer_failed");
    assert_eq!(parse(record, TextFormat::Common).status, Some(200));
}

fn text(value: &Value) -> Option<Vec<u8>> {
    value.as_str().map(|text| text.as_bytes().to_vec())
}

proptest! {
    #[test]
    fn each_field_is_read_back_whatever_the_client_sends(
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
        path in prop::collection::vec(any::<u8>(), 0..60),
        query in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
        agent in prop::collection::vec(any::<u8>(), 0..60),
        referer in prop::collection::vec(any::<u8>(), 0..60),
        owner in any::<String>(),
    ) {
        let mut uri = [b"/", path.as_slice()].concat();
        if let Some(query) = query {
            uri.extend([b"?q=", query.as_slice()].concat());
        }
        let mut request = get("/");
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        if let Ok(uri) = Uri::try_from(uri) {
            *request.uri_mut() = uri;
        }
        for (name, bytes) in [(USER_AGENT, &agent), (REFERER, &referer)] {
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                request.headers_mut().insert(name, value);
            }
        }
        let owned = |record: &RecordHandle| {
            let identity = Identity::builder("key_7").owner(owner.clone()).build();
            record.set_auth(AuthOutcome::Allowed(identity));
            ok(record)
        };
        let options = |log| with_headers(log).include_user_id().query_values(["q"]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sent = line_of(TextFormat::Combined, options, request, owned);
        let (line, record) = runtime.block_on(sent);
        let known = text(&record["http.request.method"]).unwrap();
        let mut target = text(&record["url.path"]).unwrap();
        if let Some(query) = text(&record["url.query"]) {
            target.extend([b"?", query.as_slice()].concat());
        }
        prop_assert_eq!(parse(&line, TextFormat::Combined), Fields {
            addr: None,
            user: text(&record["user.id"]),
            time: "10/Oct/2000:13:55:36 +0000".to_owned(),
            method: text(&record["http.request.method_original"]).unwrap_or(known),
            target: Some(target),
            version: "HTTP/1.1".to_owned(),
            status: Some(200),
            bytes: Some(5),
            referer: text(&record["http.request.header.referer"][0]),
            user_agent: text(&record["user_agent.original"]),
        });
    }
}
