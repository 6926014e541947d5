//! A test of this binary, run again in a process of its own, for what a process does once.

use std::{
    env,
    process::{Command, Output},
};

use tokio::runtime::Builder;

/// Set in the child process.
const CHILD: &str = "PORTCULLIS_TEST_CHILD";

/// Returns whether this process was started by [`run`].
pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Runs a test of this binary, named by its whole path, in a process of its own.
pub(crate) fn run(test: &str) -> Output {
    run_with(test, &[])
}

/// Runs a test so, with these variables in its environment.
pub(crate) fn run_with(test: &str, variables: &[(&str, &str)]) -> Output {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("running 1 test"), "{test} is no test");
    output
}

/// Runs a set-up in its own process, where no other test emits notices. Asserts that it emits as
/// many as `expected`, and that each contains the words listed for it. `test` is the full path of
/// the calling test.
pub(crate) fn reports(test: &str, expected: &[&[&str]], set_up: impl Future<Output = ()>) {
    if is_child() {
        return Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(set_up);
    }
    let output = run(test);
    let notices = notices(&output);
    assert_eq!(notices.len(), expected.len(), "{notices:#?}");
    for (notice, words) in notices.iter().zip(expected) {
        let missing = words.iter().find(|word| !notice.contains(**word));
        assert_eq!(missing, None, "{notice}");
    }
}

/// Runs a set-up in a process of its own, and asserts that it emits no notice.
pub(crate) fn is_silent(test: &str, set_up: impl Future<Output = ()>) {
    reports(test, &[], set_up);
}

/// Returns the notices on the child's stderr.
pub(crate) fn notices(output: &Output) -> Vec<&str> {
    let stderr = str::from_utf8(&output.stderr).unwrap();
    let ours = stderr
        .lines()
        .filter(|line| line.starts_with("portcullis: "));
    ours.collect()
}
