//! Notices of misconfiguration, in a process that has no `tracing` subscriber.

use http::{Extensions, HeaderMap};
use portcullis::ClientAddrResolver;

use crate::support::alone;

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
    if alone::is_child() {
        return resolve_unknown_peer();
    }
    let output = alone::run("core::notices::notice_is_one_line_on_stderr_without_a_subscriber");
    let [notice] = alone::notices(&output)[..] else {
        panic!("not one notice: {output:?}");
    };
    assert!(notice.starts_with("portcullis: the client's address is not known"));
    assert!(notice.contains("into_make_service_with_connect_info"));
    assert_eq!(
        notice.contains(r#"features = ["axum"]"#),
        !cfg!(feature = "axum")
    );
}
