//! Notices as lines of the log, and those of writers that fail, each in a process of its own.

use std::{
    convert::Infallible,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::PathBuf,
    process::Output,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, ClientAddrResolver,
    access_log::{
        AccessLogLayer, FieldNaming, Sink,
        sinks::{DropCounts, JsonLines, PrettyLines},
    },
};
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    alone, get,
    paper::{Mood, Paper},
};

const LONG: Duration = Duration::from_secs(60);

/// Emits one notice of the process: that of a client without a peer address.
fn emit_notice() {
    let resolver = ClientAddrResolver::default();
    assert!(
        resolver
            .resolve(&Extensions::new(), &HeaderMap::new())
            .is_err()
    );
}

/// Sends requests through a log with this sink.
fn send(sink: impl Sink, count: usize) {
    let log = AccessLogLayer::builder().sink(sink).optional_client_addr();
    let log = log.build().unwrap();
    let app = log.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..count {
            app.clone().oneshot(get("/")).await.unwrap();
        }
    });
}

fn stderr(output: &Output) -> Vec<Value> {
    let text = str::from_utf8(&output.stderr).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    text.lines().map(parse).collect()
}

fn notices<'a>(lines: &'a [Value], event: &str, message: &str) -> Vec<&'a str> {
    let of = lines
        .iter()
        .filter(|line| line[event] == "portcullis.notice");
    of.map(|line| line[message].as_str().unwrap()).collect()
}

#[test]
fn notice_amid_json_is_json() {
    type Kind = (&'static str, fn() -> JsonLines);
    let kinds: [Kind; 3] = [
        ("queued", JsonLines::stderr),
        ("written", || JsonLines::writer(io::stderr())),
        ("direct", || JsonLines::direct(io::stderr())),
    ];
    for (name, lines) in kinds {
        let chosen = std::env::var("KIND");
        if alone::is_child() {
            if chosen.as_deref() == Ok(name) {
                let lines = lines();
                send(lines.clone(), 2);
                emit_notice();
                send(lines, 2);
            }
            continue;
        }
        let test = "core::notices_lines::notice_amid_json_is_json";
        let output = alone::run_with(test, &[("KIND", name)]);
        let lines = stderr(&output);
        assert_eq!(lines.len(), 5, "{name}: {lines:#?}");
        let notices = notices(&lines, "event.name", "portcullis.audit.message");
        assert_eq!(notices.len(), 1, "{name}");
        assert!(notices[0].starts_with("the client's address is not known"));
        let notice = lines
            .iter()
            .find(|line| line["event.name"] == "portcullis.notice");
        let notice = notice.unwrap();
        assert_eq!(notice["severity_text"], "WARN");
        assert!(notice["timestamp"].as_str().unwrap().starts_with("20"));
    }
}

#[test]
fn notice_has_the_names_of_its_log() {
    if alone::is_child() {
        let lines = JsonLines::stderr().field_naming(FieldNaming::Short);
        emit_notice();
        return drop(lines);
    }
    let output = alone::run("core::notices_lines::notice_has_the_names_of_its_log");
    let lines = stderr(&output);
    assert_eq!(notices(&lines, "event", "message").len(), 1, "{lines:#?}");
}

#[test]
fn notice_amid_text_is_text() {
    if alone::is_child() {
        let lines = PrettyLines::stderr();
        emit_notice();
        return drop(lines);
    }
    let output = alone::run("core::notices_lines::notice_amid_text_is_text");
    assert_eq!(alone::notices(&output).len(), 1, "{output:?}");
    assert_eq!(str::from_utf8(&output.stderr).unwrap().lines().count(), 1);
}

#[test]
fn notice_of_a_log_on_stdout_is_a_line_of_stdout() {
    if alone::is_child() {
        let lines = JsonLines::stdout();
        emit_notice();
        return drop(lines);
    }
    let output = alone::run("core::notices_lines::notice_of_a_log_on_stdout_is_a_line_of_stdout");
    assert!(output.stderr.is_empty(), "{output:?}");
    let stdout = str::from_utf8(&output.stdout).unwrap();
    let json = stdout
        .lines()
        .filter_map(|line| line.find('{').map(|at| &line[at..]));
    let lines: Vec<Value> = json
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let notices = notices(&lines, "event.name", "portcullis.audit.message");
    assert_eq!(notices.len(), 1, "{stdout}");
}

#[test]
fn notice_is_text_again_once_the_log_is_gone() {
    if alone::is_child() {
        drop(JsonLines::stderr());
        return emit_notice();
    }
    let output = alone::run("core::notices_lines::notice_is_text_again_once_the_log_is_gone");
    assert_eq!(alone::notices(&output).len(), 1, "{output:?}");
}

#[test]
fn notices_and_records_of_many_threads_are_whole_lines() {
    const THREADS: usize = 8;
    if alone::is_child() {
        let lines = JsonLines::stderr();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let lines = lines.clone();
                scope.spawn(move || {
                    for _ in 0..20 {
                        send(lines.clone(), 10);
                        // Each failing writer is worth a notice of its own.
                        send(JsonLines::direct(failing(Mood::Fails)), 1);
                    }
                });
            }
        });
        return;
    }
    let test = "core::notices_lines::notices_and_records_of_many_threads_are_whole_lines";
    let lines = stderr(&alone::run(test));
    let notices = notices(&lines, "event.name", "portcullis.audit.message");
    assert_eq!(notices.len(), THREADS * 20);
    assert_eq!(lines.len(), THREADS * 20 * 11);
}

fn failing(mood: Mood) -> Paper {
    let paper = Paper::default();
    paper.is(mood);
    paper
}

/// Keeps the notices of writers that fail.
#[derive(Clone, Debug, Default)]
struct Ears(Arc<Mutex<Vec<String>>>);

impl Auditor for Ears {
    fn audit(&self, event: &AuditEvent) {
        if let AuditEvent::ConfigWarning { message } = event
            && message.starts_with("the access log cannot write to ")
        {
            self.0.lock().unwrap().push(message.to_string());
        }
    }
}

/// A log that records its failures.
struct Heard {
    lines: JsonLines,
    ears: Ears,
    _layer: AccessLogLayer,
}

fn heard(lines: JsonLines) -> Heard {
    let ears = Ears::default();
    let layer = AccessLogLayer::builder()
        .sink(lines.clone())
        .auditor(ears.clone());
    Heard {
        lines,
        ears,
        _layer: layer.build().unwrap(),
    }
}

impl Heard {
    fn send(&self, count: usize) {
        send(self.lines.clone(), count);
        assert!(self.lines.flush(LONG));
    }

    fn notices(&self) -> Vec<String> {
        self.ears.0.lock().unwrap().clone()
    }
}

/// Runs a test of notices in a separate process: all tests of a process receive all its notices.
fn alone(test: &str, run: impl FnOnce()) {
    if alone::is_child() {
        return run();
    }
    alone::run(&format!("core::notices_lines::{test}"));
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_one_notice_with_file_error_and_fix() {
    alone("full_disk_is_one_notice_with_file_error_and_fix", || {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let kinds: [fn(File) -> JsonLines; 3] = [
            |file| JsonLines::writer(file),
            |file| JsonLines::direct(file),
            |file| JsonLines::writer(io::BufWriter::new(file)),
        ];
        for lines in kinds {
            let log = heard(lines(full()));
            for _ in 0..5 {
                log.send(3);
            }
            let [notice] = &log.notices()[..] else {
                panic!("{:?}", log.notices());
            };
            for part in ["`/dev/full`", "No space left on device", "free space"] {
                assert!(notice.contains(part), "{part}: {notice}");
            }
            let mut drop_counts = DropCounts::default();
            drop_counts.writer_failed = 15;
            assert_eq!(log.lines.drop_counts(), drop_counts);
        }
    });
}

#[test]
fn failure_after_a_recovery_is_another_notice() {
    alone("failure_after_a_recovery_is_another_notice", || {
        for queued in [true, false] {
            let paper = Paper::default();
            let log = heard(match queued {
                true => JsonLines::writer(paper.clone()),
                false => JsonLines::direct(paper.clone()),
            });
            for notices in 1..=3 {
                for mood in [Mood::Fails, Mood::Panics, Mood::Tears(7)] {
                    if queued || mood != Mood::Panics {
                        paper.is(mood);
                        log.send(2);
                    }
                }
                assert_eq!(log.notices().len(), notices, "{:?}", log.notices());
                paper.is(Mood::Fine);
                log.send(1);
                log.send(1);
                assert_eq!(log.notices().len(), notices);
            }
        }
    });
}

#[test]
fn closed_pipe_read_only_file_and_missing_directory_are_one_notice_each() {
    alone(
        "closed_pipe_read_only_file_and_missing_directory_are_one_notice_each",
        || {
            let (reader, pipe) = io::pipe().unwrap();
            drop(reader);
            let folder =
                std::env::temp_dir().join(format!("portcullis-notices-{}", std::process::id()));
            fs::create_dir(&folder).unwrap();
            let path = folder.join("access.log");
            let read_only = File::create(&path).and_then(|_| File::open(&path)).unwrap();
            let rotating = Rotating(folder.join("of-today.log"));
            fs::remove_dir_all(&folder).unwrap();
            for (lines, name, fix) in [
                (JsonLines::writer(pipe), "PipeWriter", "restart the reader"),
                (
                    JsonLines::writer(read_only),
                    "access.log",
                    "open for writing",
                ),
                (
                    JsonLines::writer(rotating),
                    "Rotating",
                    "create the directory",
                ),
            ] {
                let log = heard(lines);
                log.send(2);
                log.send(2);
                let [notice] = &log.notices()[..] else {
                    panic!("{:?}", log.notices());
                };
                assert!(notice.contains(name), "{name}: {notice}");
                assert!(notice.contains(fix), "{fix}: {notice}");
            }
        },
    );
}

/// Reopens its file for each line, like a writer that rotates.
struct Rotating(PathBuf);

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        File::options()
            .create(true)
            .append(true)
            .open(&self.0)?
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails as stderr does whose reader is gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn failure_of_a_file_is_a_line_of_the_log_on_stderr() {
    if alone::is_child() {
        let lines = JsonLines::stderr();
        send(JsonLines::direct(Gone), 2);
        return drop(lines);
    }
    let output =
        alone::run("core::notices_lines::failure_of_a_file_is_a_line_of_the_log_on_stderr");
    let lines = stderr(&output);
    let notices = notices(&lines, "event.name", "portcullis.audit.message");
    let failures = notices
        .iter()
        .filter(|notice| notice.contains("cannot write"));
    assert_eq!(failures.count(), 1, "{lines:#?}");
}
