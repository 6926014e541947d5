//! The licenses and sources of all dependencies, as `.deny.toml` permits them.

use std::{path::Path, process::Command};

use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn dependencies_have_permitted_licenses_and_sources() {
    let config = std::fs::read_to_string(root().join(".deny.toml")).unwrap();
    let (allowed, denied) = (list(&config, "allow = ["), list(&config, "deny = ["));
    let packages = packages();
    assert!(packages.len() > 100, "{} packages", packages.len());
    let problems: Vec<_> = packages
        .iter()
        .filter_map(|package| problem(package, &allowed, &denied))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn planted_packages_are_refused() {
    let (allowed, denied) = (["MIT".to_owned()], ["openssl".to_owned()]);
    let package = |name: &str, license: &str, source: Option<&str>| {
        let package = serde_json::json!({"name": name, "license": license, "source": source});
        problem(&package, &allowed, &denied)
    };
    assert_eq!(package("a", "MIT", Some(REGISTRY)), None);
    let found = package("a", "GPL-3.0", Some(REGISTRY));
    assert_eq!(found.unwrap(), "a: license \"GPL-3.0\"");
    let found = package("openssl", "MIT", Some(REGISTRY));
    assert_eq!(found.unwrap(), "openssl: denied");
    let found = package("a", "MIT", Some("git+https://a"));
    assert_eq!(found.unwrap(), "a: source \"git+https://a\"");
}

#[test]
fn license_expressions_follow_spdx() {
    let allowed = ["MIT".to_owned(), "Zlib".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND Zlib", true),
        ("GPL-3.0 AND MIT OR Zlib", true),
        ("(GPL-3.0 OR MIT) AND Zlib", true),
        ("(MIT OR Zlib) AND GPL-3.0", false),
        ("MIT WITH GPL-exception", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .arg("--all-features")
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Returns the quoted strings of a list in `.deny.toml`.
fn list(config: &str, start: &str) -> Vec<String> {
    let start = config.find(start).unwrap() + start.len();
    let end = start + config[start..].find(']').unwrap();
    let quoted = config[start..end].split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

fn problem(package: &Value, allowed: &[String], denied: &[String]) -> Option<String> {
    let name = package["name"].as_str().unwrap();
    let license = package["license"].as_str().unwrap_or_default();
    // The crate itself has no source.
    let source = package["source"].as_str().unwrap_or(REGISTRY);
    if denied.iter().any(|denied| denied == name) {
        return Some(format!("{name}: denied"));
    }
    if source != REGISTRY {
        return Some(format!("{name}: source {source:?}"));
    }
    (!is_allowed(license, allowed)).then(|| format!("{name}: license {license:?}"))
}

/// Returns `true` if a license expression (SPDX, with the older `/` for `OR`) is satisfied by the
/// permitted licenses.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ");
    let spaced = spaced.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    any_of(&mut words.as_slice(), allowed)
}

fn any_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut result = all_of(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        result |= all_of(words, allowed);
    }
    result
}

fn all_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut result = license(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        result &= license(words, allowed);
    }
    result
}

fn license(words: &mut &[&str], allowed: &[String]) -> bool {
    let (result, rest) = match *words {
        ["(", rest @ ..] => {
            let mut rest = rest;
            let result = any_of(&mut rest, allowed);
            (result, &rest[rest.len().min(1)..])
        }
        [name, "WITH", _, rest @ ..] => (allowed.iter().any(|allowed| allowed == name), rest),
        [name, rest @ ..] => (allowed.iter().any(|allowed| allowed == name), rest),
        [] => (false, &[][..]),
    };
    *words = rest;
    result
}
