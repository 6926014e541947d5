//! Notices of misconfiguration, in a process that has no `tracing` subscriber.

use std::{
    env,
    process::{Command, Output},
};

use http::{Extensions, HeaderMap};
use portcullis::ClientAddrResolver;

/// Set in the process that emits the notice.
const EMITS: &str = "PORTCULLIS_TEST_EMITS_NOTICE";

/// Runs a test of this binary in a process of its own, where it emits the notice.
fn run_alone(test: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(EMITS, "1")
        .output()
        .unwrap()
}

fn notices(output: &Output) -> Vec<&str> {
    assert!(output.status.success(), "{output:?}");
    let stderr = str::from_utf8(&output.stderr).unwrap();
    let ours = stderr.lines().filter(|line| line.starts_with("portcullis"));
    ours.collect()
}

/// Resolves the address of a client whose peer is unknown, which is worth one notice.
fn resolve_unknown_peer() {
    let resolver = ClientAddrResolver::default();
    for _ in 0..3 {
        let resolved = resolver.resolve(&Extensions::new(), &HeaderMap::new());
        assert!(resolved.is_err());
    }
}

#[test]
fn notice_is_one_line_on_stderr_without_a_subscriber() {
    if env::var_os(EMITS).is_some() {
        return resolve_unknown_peer();
    }
    let output = run_alone("notices::notice_is_one_line_on_stderr_without_a_subscriber");
    let [notice] = notices(&output)[..] else {
        panic!("not one notice: {output:?}");
    };
    assert!(notice.starts_with("portcullis: the client's address is not known"));
}
