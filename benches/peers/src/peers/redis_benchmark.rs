//! `redis-benchmark`: our script, with our arguments, driven as fast as the server goes.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use crate::harness::{Case, Rate, Who};
use crate::workload::redis::{Server, TASKS};

const NUMBERS: &str = include_str!("../../../../src/store/redis/scripts/numbers.lua");
const DECIDE: &str = include_str!("../../../../src/store/redis/scripts/decide.lua");
const TAKE: &str = include_str!("../../../../src/store/redis/scripts/take.lua");

/// The algorithms by which there are rows.
pub const FIXED_WINDOW: &str = include_str!("../../../../src/store/redis/scripts/fixed_window.lua");
pub const TOKEN_BUCKET: &str = include_str!("../../../../src/store/redis/scripts/token_bucket.lua");

/// Runs a call of our script by one connection on which as many are under way as our tasks keep there.
pub fn case(name: &'static str, server: &Rc<Server>, algorithm: &str, command: &[Vec<u8>]) -> Case {
    let (server, command) = (Rc::clone(server), without_nuls(server, algorithm, command));
    // What comes first is thrown away: it only tells how many commands fill a batch.
    let mut in_a_second = 20_000.0;
    let rate: Rate = Box::new(move |time: Duration| {
        let count = (in_a_second * time.as_secs_f64()) as usize;
        // It aborts now and then if the last ones do not fill its pipeline.
        let count = count.next_multiple_of(TASKS).max(10 * TASKS);
        in_a_second = run(&server, &command, count);
        in_a_second
    });
    Case::rate(name, Who::Peer("redis-benchmark"), rate)
}

fn run(server: &Server, command: &[String], count: usize) -> f64 {
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &server.addr.port().to_string()])
        .args(["-c", "1", "-P", &TASKS.to_string()])
        .args(["-n", &count.to_string(), "--csv"])
        .args(command)
        .output()
        .expect("redis-benchmark comes with redis-server (Debian: redis-tools)");
    let csv = String::from_utf8_lossy(&output.stdout);
    // The name of the test comes first, whatever it is; then seven numbers, of which this is one.
    let rate = csv.trim_end().rsplit("\",\"").nth(6);
    let rate = rate.and_then(|rate| rate.parse().ok());
    rate.unwrap_or_else(|| panic!("redis-benchmark says {output:?}"))
}

/// Returns the same command as words that `redis-benchmark` can pass on.
///
/// It ends an argument at the first NUL, and so what our script is told of the policies stands as
/// a constant in a script that is the same otherwise; as many bytes are sent in its place.
fn without_nuls(server: &Server, algorithm: &str, command: &[Vec<u8>]) -> Vec<String> {
    let [evalsha, digest, rest @ .., charges] = command else {
        panic!("it is no call of a script: {command:?}");
    };
    let script = [NUMBERS, algorithm, DECIDE, TAKE].join("\n");
    let known = server.ask(&["SCRIPT", "LOAD", &script]).as_text();
    assert_eq!(known.as_bytes(), digest, "our store runs another script");
    let constant: String = charges.iter().map(|byte| format!("\\{byte:03}")).collect();
    let script = format!("local ARGV = {{ ARGV[1], '{constant}' }}\n{script}");
    let digest = server.ask(&["SCRIPT", "LOAD", &script]).as_text();
    let text = |word: &Vec<u8>| String::from_utf8(word.clone()).expect("only the last is no text");
    let mut words = vec![text(evalsha), digest];
    words.extend(rest.iter().map(text));
    words.push("x".repeat(charges.len()));
    words
}
