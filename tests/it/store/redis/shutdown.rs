//! Graceful shutdown of the example `gateway` on Redis: the queue of records reaches the store.

use std::{collections::HashSet, io::Read};

use portcullis::{
    access_log::{LogQuery, LogStore, LogStream},
    store::{RedisConfig, RedisStore, StoreKeys},
};

use crate::{
    core::shutdown::{SIGNALS, read_to, request_ids, send},
    support::{
        process::Example,
        redis::{Server, patient},
    },
};

const SECRET: &str = "a secret of the store, of 32 bytes";

#[tokio::test]
async fn records_of_running_requests_are_in_the_store_when_the_process_has_ended() {
    let server = Server::start();
    let url = server.url();
    let keys = StoreKeys::from_secret(SECRET.as_bytes()).unwrap();
    let store = RedisStore::new(patient(RedisConfig::single(url.clone())), keys).unwrap();
    for (signal, _) in SIGNALS {
        let variables = [
            ("REDIS_URL", url.as_str()),
            ("STORE_SECRET", SECRET),
            ("PEPPER", "a pepper of the keys, of 32 bytes"),
        ];
        let mut example = Example::start_with("gateway", &variables);
        let (addr, key) = (example.addr(), example.said_after("pro key: "));
        // On a slow server the first lookup of a key may time out; later ones are cached.
        let fields = format!("host: h\r\nx-api-key: {key}\r\nconnection: close");
        let me = format!("GET /me HTTP/1.1\r\n{fields}\r\n\r\n");
        let is_warm = || read_to(&mut send(addr, &me), "\r\n\r\n").contains(" 200 OK");
        assert!((0..20).any(|_| is_warm()), "{signal}");
        let request = format!("GET /stream HTTP/1.1\r\nhost: h\r\nx-api-key: {key}\r\n\r\n");
        let mut streams: Vec<_> = (0..20).map(|_| send(addr, &request)).collect();
        let mut sent = HashSet::new();
        for stream in &mut streams {
            let head = read_to(stream, "line 1 of 5");
            let (_, id) = head.split_once("x-request-id: ").unwrap();
            sent.insert(id.split("\r\n").next().unwrap().to_owned());
        }
        example.signal(signal);
        for mut stream in streams {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert!(rest.contains("line 5 of 5"), "{signal}: {rest}");
        }
        assert_eq!(example.wait().code(), Some(0), "{signal}");
        let stored = store
            .recent(LogStream::Access, &LogQuery::latest(1_000))
            .await;
        let text = |entry: &portcullis::access_log::record::LogEntry| {
            String::from_utf8(entry.json.to_vec()).unwrap()
        };
        let stored: Vec<String> = stored.unwrap().iter().map(text).collect();
        assert!(
            request_ids(&stored).is_superset(&sent),
            "{signal}: {stored:#?}"
        );
        assert!(request_ids(&example.last_stderr()).is_superset(&sent));
    }
}
