//! `redis-benchmark`: our script, with our arguments, at the maximum rate of the server.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::{Case, Rate, Who};
use crate::workload::redis::{Server, TASKS};

const NUMBERS: &str = include_str!("../../../../src/store/redis/scripts/numbers.lua");
const DECIDE: &str = include_str!("../../../../src/store/redis/scripts/decide.lua");
const TAKE: &str = include_str!("../../../../src/store/redis/scripts/take.lua");

/// The algorithms with rows.
pub const FIXED_WINDOW: &str = include_str!("../../../../src/store/redis/scripts/fixed_window.lua");
pub const TOKEN_BUCKET: &str = include_str!("../../../../src/store/redis/scripts/token_bucket.lua");

/// Calls our script on one connection, with as many calls in flight as our tasks have.
pub fn case(name: &'static str, server: &Rc<Server>, algorithm: &str, command: &[Vec<u8>]) -> Case {
    let (server, command) = (Rc::clone(server), without_nuls(server, algorithm, command));
    // The first result only sets the number of commands per batch.
    let mut in_a_second = 20_000.0;
    let rate: Rate = Box::new(move |time: Duration| {
        let count = (in_a_second * time.as_secs_f64()) as usize;
        // It may abort if the last commands do not fill its pipeline.
        let count = count.next_multiple_of(TASKS).max(10 * TASKS);
        in_a_second = run(&server, &command, count);
        in_a_second
    });
    Case::rate(name, Who::Peer("redis-benchmark"), rate)
}

fn run(server: &Server, command: &[String], count: usize) -> f64 {
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &server.addr().port().to_string()])
        .args(["-c", "1", "-P", &TASKS.to_string()])
        .args(["-n", &count.to_string(), "--csv"])
        .args(command)
        .output()
        .expect("redis-benchmark is installed (Debian: redis-tools)");
    let csv = String::from_utf8_lossy(&output.stdout);
    // The first column is the name of the test, followed by seven numbers.
    let rate = csv.trim_end().rsplit("\",\"").nth(6);
    let rate = rate.and_then(|rate| rate.parse().ok());
    rate.unwrap_or_else(|| panic!("unexpected output of redis-benchmark: {output:?}"))
}

/// Returns the same command in arguments that `redis-benchmark` supports.
///
/// It ends an argument at the first NUL. The parameters of the policies are therefore a constant in
/// an otherwise equal script, and as many bytes are sent in their place.
fn without_nuls(server: &Server, algorithm: &str, command: &[Vec<u8>]) -> Vec<String> {
    let [evalsha, digest, rest @ .., charges] = command else {
        panic!("not a call of a script: {command:?}");
    };
    let script = [NUMBERS, algorithm, DECIDE, TAKE].join("\n");
    let known = server.ask(&["SCRIPT", "LOAD", &script]).as_text();
    assert_eq!(
        known.as_bytes(),
        digest,
        "the store runs a different script"
    );
    let constant: String = charges.iter().map(|byte| format!("\\{byte:03}")).collect();
    let script = format!("local ARGV = {{ ARGV[1], '{constant}' }}\n{script}");
    let digest = server.ask(&["SCRIPT", "LOAD", &script]).as_text();
    let text =
        |word: &Vec<u8>| String::from_utf8(word.clone()).expect("only the last argument is binary");
    let mut words = vec![text(evalsha), digest];
    words.extend(rest.iter().map(text));
    words.push("x".repeat(charges.len()));
    words
}
