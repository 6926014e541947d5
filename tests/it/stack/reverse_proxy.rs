//! The example `reverse_proxy` as a client and an origin meet it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::support::process::Example;

/// An origin with prepared responses, which records the requests.
#[derive(Clone)]
struct Origin {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    /// Answers each request, on a connection of its own, with what `respond` makes of it; with
    /// nothing, it hangs up.
    fn start(respond: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Self {
            addr: listener.local_addr().unwrap(),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&origin.asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_message(&mut stream);
                asked.lock().unwrap().push(request.clone());
                if let Some(response) = respond(&request) {
                    stream.write_all(response.as_bytes()).unwrap();
                }
            }
        });
        origin
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Reads a head, and as much of a body as it announces.
fn read_message(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut message, mut len) = (String::new(), 0);
    loop {
        let from = message.len();
        reader.read_line(&mut message).unwrap();
        let line = message[from..].to_ascii_lowercase();
        if let Some(bytes) = line.strip_prefix("content-length:") {
            len = bytes.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    message + std::str::from_utf8(&body).unwrap()
}

/// A running proxy before an origin.
struct Proxy {
    _example: Example,
    addr: SocketAddr,
}

impl Proxy {
    fn before(origin: &Origin, profile: &str) -> Self {
        Self::listing(origin, profile, &[])
    }

    /// Starts a proxy with these names on its target list.
    fn listing(origin: &Origin, profile: &str, targeted: &[&str]) -> Self {
        let origin = format!("http://{}", origin.addr);
        let mut options = vec!["--listen", "127.0.0.1:0", "--origin", &origin];
        options.extend(["--profile", profile]);
        options.extend(targeted.iter().flat_map(|name| ["--targeted", name]));
        let mut example = Example::start_as("reverse_proxy", &options, &[]);
        Self {
            addr: example.addr(),
            _example: example,
        }
    }

    /// Sends a request unchanged, and returns the whole response.
    fn sends(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn gets(&self, path: &str) -> String {
        self.sends(&format!(
            "GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        ))
    }
}

fn http_response(status: &str, fields: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\n{fields}content-length: 2\r\nconnection: close\r\n\r\nok"
    ))
}

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap()
}

fn is_hit(response: &str) -> bool {
    response.contains("cache-status: portcullis; hit")
}

#[test]
fn every_method_and_status_passes_with_its_target_fields_and_body() {
    let origin = Origin::start(|request| {
        let status = request.split_once("x-status: ").unwrap().1;
        http_response(status.split("\r\n").next().unwrap(), "")
    });
    let proxy = Proxy::before(&origin, "rfc");
    for method in [
        "GET", "POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "OPTIONS", "FROB",
    ] {
        for code in [
            "200 OK",
            "299 Odd",
            "418 Teapot",
            "499 Odd",
            "599 Odd",
            "999 Odd",
        ] {
            let response = proxy.sends(&format!(
                "{method} /a%2f//b/../c?d&e=%00 HTTP/1.1\r\nhost: h\r\nx-status: {code}\r\n\
                 connection: close\r\ncontent-length: 4\r\n\r\nbody"
            ));
            assert_eq!(status(&response), &code[..3], "{method}");
            assert!(response.ends_with("\r\n\r\nok"), "{response}");
            let asked = origin.asked().pop().unwrap();
            let line = format!("{method} /a%2f//b/../c?d&e=%00 HTTP/1.1\r\n");
            assert!(
                asked.starts_with(&line) && asked.ends_with("\r\n\r\nbody"),
                "{asked}"
            );
            assert!(asked.contains("host: h\r\n"), "{asked}");
        }
    }
    assert_eq!(origin.asked().len(), 8 * 6);
}

#[test]
fn nothing_is_fresh_that_does_not_say_so_and_what_does_is_asked_for_once() {
    for profile in ["secure", "rfc"] {
        let origin = Origin::start(|request| match request.starts_with("GET /fresh") {
            true => http_response("200 OK", "cache-control: max-age=60\r\n"),
            false => http_response("200 OK", ""),
        });
        let proxy = Proxy::before(&origin, profile);
        for (path, hit) in [("/plain", false), ("/fresh", true)] {
            assert!(!is_hit(&proxy.gets(path)));
            assert_eq!(is_hit(&proxy.gets(path)), hit, "{path}");
        }
        assert_eq!(origin.asked().len(), 3);
    }
}

#[test]
fn an_origin_that_hangs_up_is_asked_once_and_is_a_502() {
    let origin = Origin::start(|_| None);
    let proxy = Proxy::before(&origin, "secure");
    assert_eq!(status(&proxy.gets("/a")), "502");
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn a_request_without_a_host_or_with_a_whole_url_for_target_is_answered() {
    let origin = Origin::start(|_| http_response("200 OK", "cache-control: max-age=60\r\n"));
    let proxy = Proxy::before(&origin, "secure");
    let without = "GET /a HTTP/1.0\r\n\r\n";
    assert_eq!(status(&proxy.sends(without)), "200");
    assert!(is_hit(&proxy.sends(without)));
    assert!(origin.asked()[0].contains(&format!("host: {}\r\n", origin.addr)));
    // The host of the target is the one that counts, and one that contradicts it is not relied on.
    let whole =
        |host| format!("GET http://h/b HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    assert_eq!(status(&proxy.sends(&whole("h"))), "200");
    assert!(is_hit(&proxy.sends(&whole("h"))));
    assert!(!is_hit(&proxy.sends(&whole("evil"))));
    assert!(!is_hit(&proxy.sends(&whole("evil"))));
    assert!(
        origin
            .asked()
            .last()
            .unwrap()
            .starts_with("GET /b HTTP/1.1\r\n")
    );
}

/// Answers with the host that it is asked for, as an origin of several sites does.
fn sites() -> Origin {
    Origin::start(|request| {
        let host = request.split_once("\r\nhost: ")?.1;
        let host = host.split("\r\n").next()?;
        http_response(
            "200 OK",
            &format!("cache-control: max-age=60\r\nx-site: {host}\r\n"),
        )
    })
}

#[test]
fn host_that_connection_lists_is_forwarded_and_its_response_is_not_stored() {
    let origin = sites();
    let proxy = Proxy::before(&origin, "secure");
    for listed in [
        "close, host",
        "close, HOST, x-a",
        "host\r\nconnection: close",
    ] {
        let attack =
            format!("GET /x HTTP/1.1\r\nhost: shop.example\r\nconnection: {listed}\r\n\r\n");
        for _ in 0..2 {
            let response = proxy.sends(&attack);
            assert!(response.contains("x-site: shop.example\r\n"), "{response}");
            assert!(response.contains("detail=connection-option"), "{response}");
        }
    }
}

#[test]
fn authority_of_the_target_goes_before_host() {
    let origin = sites();
    let proxy = Proxy::before(&origin, "secure");
    let asks = |target: &str, host: &str| {
        proxy.sends(&format!(
            "GET {target} HTTP/1.1\r\n{host}connection: close\r\n\r\n"
        ))
    };
    for (target, host) in [
        ("http://shop.example/x", ""),
        ("http://shop.example/x", "host: shop.example\r\n"),
        ("http://shop.example/y", "host: evil.example\r\n"),
        ("http://user@shop.example/z", ""),
    ] {
        let response = asks(target, host);
        assert!(response.contains("x-site: shop.example\r\n"), "{response}");
    }
}

#[test]
fn hop_by_hop_fields_are_not_forwarded() {
    let origin = Origin::start(|_| http_response("200 OK", "x-hop: 1\r\nconnection: x-hop\r\n"));
    let proxy = Proxy::before(&origin, "rfc");
    let response = proxy.sends(
        "GET /a HTTP/1.1\r\nhost: h\r\nx-mine: 1\r\nte: trailers\r\nupgrade: websocket\r\n\
         keep-alive: 5\r\nconnection: close, upgrade, te, x-mine\r\n\r\n",
    );
    assert_eq!(status(&response), "200");
    assert!(!response.contains("x-hop"), "{response}");
    let asked = origin.asked().pop().unwrap();
    for name in ["x-mine", "te:", "upgrade", "keep-alive"] {
        assert!(!asked.contains(name), "{asked}");
    }
}

#[test]
fn targeted_fields_apply_in_the_order_of_the_options() {
    let fields = "cache-control: no-store\r\ncdn-cache-control: max-age=60\r\n\
                  own-cache-control: private\r\nsurrogate-control: max-age=60\r\n";
    for (targeted, hit) in [
        (&[][..], false),
        (&["CDN-Cache-Control"][..], true),
        (&["Own-Cache-Control"][..], false),
        (&["CDN-Cache-Control", "Own-Cache-Control"][..], true),
        (&["Own-Cache-Control", "CDN-Cache-Control"][..], false),
    ] {
        for profile in ["secure", "rfc"] {
            let origin = Origin::start(move |_| http_response("200 OK", fields));
            let proxy = Proxy::listing(&origin, profile, targeted);
            proxy.gets("/a");
            assert_eq!(is_hit(&proxy.gets("/a")), hit, "{profile} {targeted:?}");
        }
    }
}
