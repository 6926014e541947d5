//! A log file that is rotated by renaming it.

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::access_log::{
    AccessLogLayer,
    sinks::{JsonLines, LogFile},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{alone, get, paper::records};

/// Far more than a thread needs to write a line.
const LONG: Duration = Duration::from_secs(60);

/// A directory that is removed with its files.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("portcullis-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sends one request and waits until its record is written or lost.
async fn send(lines: &JsonLines, path: &str) {
    let layer = AccessLogLayer::builder()
        .sink(lines.clone())
        .optional_client_addr()
        .build()
        .unwrap();
    let app = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    app.oneshot(get(path)).await.unwrap();
    assert!(lines.flush(LONG));
}

/// Returns the paths of the records in a file.
fn recorded(file: &Path) -> Vec<String> {
    let path = |record: serde_json::Value| record["url.path"].as_str().unwrap().to_owned();
    let text = fs::read_to_string(file).unwrap();
    records(&text).into_iter().map(path).collect()
}

#[tokio::test]
async fn records_go_to_the_new_file_after_it_is_reopened() {
    let directory = Directory::new("rotation");
    let [log, rotated] = ["access.log", "access.log.1"].map(|name| directory.0.join(name));
    let sinks: [fn(LogFile) -> JsonLines; 2] = [JsonLines::writer, JsonLines::direct];
    for sink in sinks {
        let file = LogFile::open(&log).unwrap();
        let lines = sink(file.clone());
        send(&lines, "/first").await;
        fs::rename(&log, &rotated).unwrap();
        send(&lines, "/before").await;
        file.reopen().unwrap();
        send(&lines, "/after").await;
        assert_eq!(recorded(&rotated), ["/first", "/before"]);
        assert_eq!(recorded(&log), ["/after"]);
        assert_eq!(lines.drop_counts().total(), 0);
        fs::remove_file(&log).unwrap();
    }
}

#[tokio::test]
async fn file_is_appended_to() {
    let directory = Directory::new("append");
    let log = directory.0.join("access.log");
    for path in ["/first", "/second"] {
        send(&JsonLines::writer(LogFile::open(&log).unwrap()), path).await;
    }
    assert_eq!(recorded(&log), ["/first", "/second"]);
    assert!(LogFile::open(directory.0.join("absent/access.log")).is_err());
}

#[test]
fn rest_of_a_line_goes_to_the_file_that_holds_its_beginning() {
    use std::io::Write;

    let directory = Directory::new("halves");
    let [log, rotated] = ["access.log", "access.log.1"].map(|name| directory.0.join(name));
    let file = LogFile::open(&log).unwrap();
    let mut writer = file.clone();
    writer.write_all(b"one\nha").unwrap();
    fs::rename(&log, &rotated).unwrap();
    file.reopen().unwrap();
    writer.write_all(b"lf\n").unwrap();
    writer.write_all(b"two\n").unwrap();
    assert_eq!(fs::read_to_string(&rotated).unwrap(), "one\nhalf\n");
    assert_eq!(fs::read_to_string(&log).unwrap(), "two\n");
}

#[test]
fn failure_to_reopen_is_reported_once_and_loses_no_line() {
    let name = "access_log::log_file::failure_to_reopen_is_reported_once_and_loses_no_line";
    let failed: &[&str] = &[
        "the access log cannot reopen",
        "access.log",
        "its records go to the previous file",
        "create the directory of the file again",
    ];
    alone::reports(name, &[failed, failed], async {
        let directory = Directory::new("reopen");
        let [live, moved] = ["live", "moved"].map(|name| directory.0.join(name));
        fs::create_dir(&live).unwrap();
        let file = LogFile::open(live.join("access.log")).unwrap();
        let lines = JsonLines::writer(file.clone());
        fs::rename(&live, &moved).unwrap();
        for path in ["/first", "/second"] {
            assert!(file.reopen().is_err());
            send(&lines, path).await;
        }
        assert_eq!(recorded(&moved.join("access.log")), ["/first", "/second"]);
        fs::create_dir(&live).unwrap();
        file.reopen().unwrap();
        send(&lines, "/third").await;
        assert_eq!(recorded(&live.join("access.log")), ["/third"]);
        assert_eq!(lines.drop_counts().total(), 0);
        fs::remove_dir_all(&live).unwrap();
        assert!(file.reopen().is_err(), "reported again after a success");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn lines_that_a_full_device_refuses_are_counted_and_reported_with_its_path() {
    let name = "access_log::log_file::\
                lines_that_a_full_device_refuses_are_counted_and_reported_with_its_path";
    let expected: [&[&str]; 1] = [&["cannot write to `/dev/full`", "free space on its device"]];
    alone::reports(name, &expected, async {
        let lines = JsonLines::writer(LogFile::open("/dev/full").unwrap());
        send(&lines, "/first").await;
        send(&lines, "/second").await;
        assert_eq!(lines.drop_counts().writer_failed, 2);
    });
}
