//! A test of this binary, run again in a process of its own, for what a process does once.

use std::{
    env,
    process::{Command, Output},
};

/// Set in the child process.
const CHILD: &str = "PORTCULLIS_TEST_CHILD";

/// Returns whether this process was started by [`run`].
pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Runs a test of this binary, named by its whole path, in a process of its own.
pub(crate) fn run(test: &str) -> Output {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// Returns the notices on the child's stderr.
pub(crate) fn notices(output: &Output) -> Vec<&str> {
    let stderr = str::from_utf8(&output.stderr).unwrap();
    let ours = stderr
        .lines()
        .filter(|line| line.starts_with("portcullis: "));
    ours.collect()
}
