//! The example `keys`, as used from a terminal.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::support::process::binary;

pub(crate) struct Terminal {
    child: Child,
    typed: ChildStdin,
    shown: BufReader<ChildStdout>,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        Self::open_with(&[])
    }

    /// Opens one whose environment has these variables.
    pub(crate) fn open_with(variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary("keys"))
            .env_remove("REDIS_URL")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let shown = BufReader::new(child.stdout.take().unwrap());
        let typed = child.stdin.take().unwrap();
        Self {
            child,
            typed,
            shown,
        }
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        writeln!(self.typed, "{line}").unwrap();
    }

    /// Ends it, and returns whether it ended well.
    pub(crate) fn quit(mut self) -> bool {
        self.type_line("quit");
        self.child.wait().unwrap().success()
    }

    /// Returns what follows this on the next line that has it.
    pub(crate) fn shown_after(&mut self, mark: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.shown.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended without `{mark}`");
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
        }
    }
}

#[test]
fn keys_are_made_checked_rotated_and_revoked_at_a_terminal() {
    let mut terminal = Terminal::open();
    terminal.type_line("create acme pro data.read");
    let id = terminal.shown_after("id:");
    let key = terminal.shown_after("key:");
    terminal.type_line(&format!("check {key}"));
    assert_eq!(terminal.shown_after("200 OK:"), "accepted");
    terminal.type_line("list acme");
    assert!(terminal.shown_after(&id).contains("1 uses"));

    terminal.type_line(&format!("rotate {id}"));
    let heir = terminal.shown_after("id:");
    terminal.type_line(&format!("check {key}"));
    assert_eq!(terminal.shown_after("401 Unauthorized:"), "expired");
    terminal.type_line(&format!("revoke {heir} by hand"));
    terminal.type_line(&format!("enable {heir}"));
    assert!(terminal.shown_after("error:").contains("state"));
    assert!(terminal.quit());
}
