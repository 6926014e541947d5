//! The public API: types that can grow, and the number of names at the front.

use std::path::Path;

use super::{SOURCES, source::Source};

/// Public types that code outside of the crate can match or construct exhaustively, and the reason.
const EXHAUSTIVE: [(&str, &str); 12] = [
    ("ClientUri", NEWTYPE),
    ("CountRequestBodyLayer", WITHOUT_OPTIONS),
    ("Fence", NEWTYPE),
    ("LeaseToken", NEWTYPE),
    ("PeerAddr", NEWTYPE),
    (
        "PurgeMode",
        "a store that lacks a new mode must not compile",
    ),
    ("ReadyOrPending", COMPLETE_OR_NOT),
    ("RecordRouteLayer", WITHOUT_OPTIONS),
    ("Stamp", NEWTYPE),
    ("StoreFuture", COMPLETE_OR_NOT),
    ("TokioRuntime", WITHOUT_OPTIONS),
    ("TracingSink", WITHOUT_OPTIONS),
];
const NEWTYPE: &str = "a name for one value, which is its public field";
const WITHOUT_OPTIONS: &str = "a value that applications pass by its name; options need a builder";
const COMPLETE_OR_NOT: &str = "a call is complete or pending; there is no third state";

/// The modules from which applications import first: the crate root and the layers.
const FRONT: [&[&str]; 5] = [
    &[],
    &["access_log"],
    &["api_key"],
    &["cache"],
    &["rate_limit"],
];
/// The number of public types in them is less.
const FRONT_TYPES_END: usize = 110;

#[test]
fn public_types_that_can_grow_are_non_exhaustive() {
    let files = SOURCES.files.iter();
    let mut found: Vec<&str> = files
        .flat_map(|file| &file.exhaustive_types)
        .map(String::as_str)
        .collect();
    found.sort_unstable();
    assert_eq!(found, EXHAUSTIVE.map(|(name, _)| name));
}

#[test]
fn front_has_few_public_types() {
    let fronts = FRONT.map(|path| {
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        SOURCES.file(&path).unwrap()
    });
    let types: Vec<&str> = fronts.iter().flat_map(|file| front_types(file)).collect();
    assert!(
        types.len() < FRONT_TYPES_END,
        "{} public types: {types:?}",
        types.len()
    );
}

/// Returns the types of a module, which must be named one by one.
fn front_types(file: &Source) -> impl Iterator<Item = &str> {
    let types = file.public_types.iter().map(String::as_str);
    types.inspect(|name| assert_ne!(*name, "*", "{} re-exports a glob", file.path.display()))
}

#[test]
fn each_rule_of_the_public_api_finds_a_planted_breach() {
    let parse = |text: &str| Source::parse(Path::new("a.rs"), vec!["a".into()], text.to_owned());
    let exhaustive = |text| parse(text).exhaustive_types;
    assert_eq!(exhaustive("pub enum A { B }"), ["A"]);
    assert_eq!(exhaustive("pub struct A { pub b: u8, pub c: u8 }"), ["A"]);
    assert_eq!(exhaustive("pub struct A(pub u8);"), ["A"]);
    assert_eq!(exhaustive("pub struct A;"), ["A"]);
    for allowed in [
        "#[non_exhaustive] pub enum A { B }",
        "#[non_exhaustive] pub struct A { pub b: u8 }",
        "pub struct A { pub b: u8, c: u8 }",
        "pub(crate) enum A { B }",
        "#[cfg(test)] mod tests { pub enum A { B } }",
    ] {
        assert_eq!(exhaustive(allowed), Vec::<String>::new(), "{allowed}");
    }

    let file = parse(
        "pub use a::{Bb, c::Dd, Ee as Ff, g, H_I}; pub trait Jj {} pub type Kk = u8; use l::Mm; \
         struct Nn; pub fn o() {} mod p {}",
    );
    let named: Vec<&str> = front_types(&file).collect();
    assert_eq!(named, ["Bb", "Dd", "Ff", "Jj", "Kk"]);
}

#[test]
#[should_panic(expected = "re-exports a glob")]
fn front_refuses_a_glob() {
    let file = Source::parse(Path::new("a.rs"), Vec::new(), "pub use b::*;".to_owned());
    front_types(&file).for_each(drop);
}
