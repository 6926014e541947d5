//! A Redis server of the suite, and its load.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use portcullis::store::StoreKeys;
use portcullis::store::{RedisConfig, RedisStore};
pub(crate) use portcullis::test_util::RedisServer as Server;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::harness::Rate;

/// The number of concurrent tasks.
pub const TASKS: usize = 64;

/// The timeout of a call, long enough that none is reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the secret that all stores of the suite share.
pub fn keys() -> StoreKeys {
    StoreKeys::from_secret(&[7; 32]).expect("the secret is long enough")
}

/// Returns a runtime on the calling thread: client and server have a core each.
pub fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread can be built")
}

/// Returns a store with a separate connection.
pub fn store(server: &Server) -> RedisStore {
    let config = RedisConfig::single(server.url())
        .rate_limit_timeout(PATIENCE)
        .api_key_timeout(PATIENCE)
        .cache_timeout(PATIENCE)
        .idle_timeout(PATIENCE);
    RedisStore::new(config, keys()).expect("the URL is valid")
}

/// Returns the work of a row with [`TASKS`] concurrent tasks, each with one call at a time.
pub fn ask_at_once<F>(
    server: &Rc<Server>,
    runtime: Runtime,
    ask: impl Fn() -> F + Clone + Send + 'static,
) -> Rate
where
    F: Future<Output = ()> + Send + 'static,
{
    let server = Rc::clone(server);
    Box::new(move |time| {
        // The server lives as long as the work.
        let _ = &server;
        let begun = Instant::now();
        let asked = runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..TASKS {
                let ask = ask.clone();
                tasks.spawn(async move {
                    let mut asked = 0_u64;
                    while begun.elapsed() < time {
                        ask().await;
                        asked += 1;
                    }
                    asked
                });
            }
            tasks.join_all().await.into_iter().sum::<u64>()
        });
        asked as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Returns the words of the one command that `ask` sends, as the server received them.
pub fn command_of(server: &Server, ask: impl FnOnce()) -> Vec<Vec<u8>> {
    let mut monitor = BufReader::new(TcpStream::connect(server.addr()).expect("the server is up"));
    monitor
        .get_mut()
        .write_all(b"MONITOR\r\n")
        .expect("the stream is readable");
    let mut line = || {
        let mut line = Vec::new();
        monitor
            .read_until(b'\n', &mut line)
            .expect("the server replies");
        line
    };
    assert_eq!(line(), b"+OK\r\n");
    ask();
    loop {
        let words = words_in(&line());
        if words
            .first()
            .is_some_and(|word| word.as_slice() == b"EVALSHA")
        {
            return words;
        }
    }
}

/// Parses quoted words, as servers write them.
fn words_in(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word) = (Vec::new(), None);
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        let Some(open) = &mut word else {
            if byte == b'"' {
                word = Some(Vec::new());
            }
            continue;
        };
        match byte {
            b'"' => words.extend(word.take()),
            b'\\' => open.push(match bytes.next().expect("an escape has a character") {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                b'x' => {
                    let mut digit = || char::from(bytes.next().unwrap_or_default()).to_digit(16);
                    let byte = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                    byte.expect("two digits follow") as u8
                }
                other => other,
            }),
            other => open.push(other),
        }
    }
    words
}
