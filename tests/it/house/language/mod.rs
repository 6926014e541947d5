//! The language of names and texts, enforced by reading them.

mod defaults;
mod glossary;
mod lexer;
mod passages;
mod rules;
mod spelling;
mod text;

use std::{path::Path, sync::LazyLock};

use self::text::{Text, files};

#[test]
fn texts_use_the_terms_of_the_glossary() {
    check(rules::glossary);
}

#[test]
fn sentences_open_with_a_noun() {
    check(rules::openers);
}

#[test]
fn lines_fit_the_width() {
    check(rules::width);
}

#[test]
fn words_are_spelled_in_american_english() {
    check(rules::spelling);
}

#[test]
fn names_use_the_terms_of_the_glossary() {
    check(rules::names);
}

#[test]
fn test_names_use_the_terms_of_the_glossary() {
    check(rules::phrase_names);
}

#[test]
fn builder_options_document_their_default() {
    check(defaults::undocumented);
}

#[test]
fn public_items_must_be_documented() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    assert!(manifest.contains("missing_docs = \"deny\""));
}

#[test]
fn glossary_refuses_planted_phrases() {
    let breach = |path, text| single(rules::glossary, path, text);
    let expected = "\"an answer\": say response (HTTP), reply (Redis), decision (limiter)";
    assert_eq!(
        breach("src/a.rs", "/// Stores\n/// an answer."),
        format!("src/a.rs:2: {expected}")
    );
    assert_eq!(
        breach("a.md", "# A\n\n- one\n  two, an\n  answer"),
        format!("a.md:4: {expected}")
    );
    assert_eq!(
        breach("a.md", "| a | `b` |\n|---|---|\n| c | an answer |"),
        format!("a.md:3: {expected}")
    );
    assert_eq!(
        breach("a.toml", "x = 1 # no\n# an answer"),
        format!("a.toml:2: {expected}")
    );
    assert_eq!(
        breach("a.rs", "//! ```\n//! f(); // an answer\n//! ```"),
        format!("a.rs:2: {expected}")
    );
    assert_eq!(
        breach("a.rs", "f(\"the store gave \\\n   an answer\")"),
        format!("a.rs:2: {expected}")
    );
    assert_eq!(
        breach("a.md", "Lets them go."),
        "a.md:1: \"lets them go\": say remove, evict, release"
    );
    assert_eq!(
        breach("a.md", "It is kept."),
        "a.md:1: \"is kept\": say stored, retained, separated"
    );
}

#[test]
fn glossary_accepts_code_verbs_and_exceptions() {
    accepts(
        rules::glossary,
        "a.md",
        "The cache answers `the answer`, [here](https://a/told).",
    );
    accepts(rules::glossary, "a.md", "```\nlet the answer = 1;\n```");
    accepts(
        rules::glossary,
        "a.rs",
        "//! ```\n//!\n//! let the answer = 1;\n//! ```",
    );
    accepts(
        rules::glossary,
        "a.md",
        "A connection is kept alive. RFC 9111 says so.",
    );
    accepts(rules::glossary, "a.md", "One end. Answer two.");
    accepts(
        rules::glossary,
        "a.rs",
        "f(\"an answer\"); let r = r#\"local x = the answer\"#;",
    );
}

#[test]
fn openers_refuse_planted_sentences() {
    let breach = |path, text| single(rules::openers, path, text);
    let expected = "the sentence opens with \"What\": make the subject a noun of the field";
    assert_eq!(
        breach("a.rs", "//! What it does."),
        format!("a.rs:1: {expected}")
    );
    assert_eq!(
        breach("a.rs", "f();\n// One.\n// Two. What is\n// three."),
        format!("a.rs:3: {expected}")
    );
    assert_eq!(
        breach("a.md", "| a |\n|---|\n| **What** is stored. |"),
        format!("a.md:3: {expected}")
    );
    assert_eq!(
        breach("a.md", "# What is stored"),
        format!("a.md:1: {expected}")
    );
    let lower_case = expected.replace("What", "who");
    assert_eq!(
        breach("a.rs", "f(); // who calls"),
        format!("a.rs:1: {lower_case}")
    );
}

#[test]
fn openers_accept_questions_and_columns() {
    accepts(
        rules::openers,
        "a.md",
        "# What is stored?\n\nWhy? Responses. Whatsoever is a word.",
    );
    accepts(
        rules::openers,
        "a.md",
        "| what | how |\n|---|---|\n| it holds who calls | x |",
    );
    accepts(
        rules::openers,
        "a.rs",
        "f(\"What is this\"); // It is what it is, e.g. What",
    );
}

#[test]
fn width_refuses_planted_lines() {
    let long = "a ".repeat(51);
    assert_eq!(
        single(rules::width, "a.md", &format!("a\n{long}")),
        "a.md:2: 102 columns: the limit is 100"
    );
    assert_eq!(
        single(rules::width, "a.rs", &format!("// {long}")),
        "a.rs:1: 105 columns: the limit is 100"
    );
    accepts(rules::width, "a.md", &"é".repeat(100));
    accepts(
        rules::width,
        "a.md",
        &format!("| {long}|\n{long} https://a"),
    );
    accepts(
        rules::width,
        "a.rs",
        &format!("f(\"{long}\");\n/// | {long}|"),
    );
}

#[test]
fn names_refuse_planted_definitions() {
    let breach = |text| single(rules::names, "a.rs", text);
    assert_eq!(
        breach("fn of_store() {}"),
        "a.rs:1: `of_store`: name it `for_*`, `from_*` or a noun"
    );
    assert_eq!(
        breach("struct A {\n    bytes_max: u64,\n}"),
        "a.rs:2: `bytes_max`: name it `max_*`"
    );
    assert_eq!(
        breach("let former = 1;"),
        "a.rs:1: `former`: name it `previous_*`"
    );
    assert_eq!(
        breach("f(|answer| 1);"),
        "a.rs:1: `answer`: name it response, reply, decision"
    );
    let expected = "a.rs:1: `deadline` is a duration: name it `*_timeout`";
    assert_eq!(breach("fn f(deadline: Duration) {}"), expected);
    accepts(
        rules::names,
        "a.rs",
        "fn f(deadline: Instant) { g.of_store(); \"former\"; offer(1) }",
    );
}

#[test]
fn test_names_refuse_planted_phrases() {
    let breach = |text| single(rules::phrase_names, "a.rs", text);
    assert_eq!(
        breach("fn who_was_denied_is_denied() {}"),
        "a.rs:1: `who_was_denied_is_denied`: the sentence opens with \"who\": make the subject a noun of the field"
    );
    assert_eq!(
        breach("fn a_server_is_away() {}"),
        "a.rs:1: `a_server_is_away`: \"is away\": say unavailable, unreachable, timed out"
    );
    accepts(
        rules::phrase_names,
        "a.rs",
        "fn rejects_header_from_untrusted_peer() {}",
    );
}

#[test]
fn spelling_refuses_planted_words() {
    let breach = |text| single(rules::spelling, "a.md", text);
    assert_eq!(
        breach("a\nto recieve it"),
        "a.md:2: \"recieve\": spell it receive"
    );
    assert_eq!(
        breach("fn recieve_all()"),
        "a.md:1: \"recieve\": spell it receive"
    );
    assert_eq!(
        breach("struct ItsBehaviour;"),
        "a.md:1: \"Behaviour\": spell it behavior"
    );
    accepts(
        rules::spelling,
        "a.md",
        "Normalizes the behavior of caf\u{e9} ab12teh and SHA256.",
    );
}

#[test]
fn defaults_refuse_planted_options() {
    let option = |docs: &str, output: &str| {
        format!(
            "impl<S> ABuilder<S> {{\n{docs}\npub fn b(mut self, n: u8) -> {output} {{ self }}\n}}"
        )
    };
    let expected = "src/a.rs:3: `ABuilder::b`: state its default, as in \"Defaults to 10.\"";
    assert_eq!(
        single(
            defaults::undocumented,
            "src/a.rs",
            &option("/// Sets b.", "Self")
        ),
        expected
    );
    assert_eq!(
        single(
            defaults::undocumented,
            "src/a.rs",
            &option("/// Sets b.", "Result<Self, E>")
        ),
        expected
    );
    accepts(
        defaults::undocumented,
        "src/a.rs",
        &option("/// Sets b. Defaults to 3.", "Self"),
    );
    accepts(
        defaults::undocumented,
        "src/a.rs",
        &option("/// Adds a policy.", "Self"),
    );
    accepts(
        defaults::undocumented,
        "src/a.rs",
        &option("/// Builds it.", "Layer"),
    );
}

/// Fails with all breaches of a rule in the tree.
fn check(rule: fn(&Text) -> Vec<String>) {
    static FILES: LazyLock<Vec<Text>> =
        LazyLock::new(|| files(Path::new(env!("CARGO_MANIFEST_DIR"))));
    let breaches: Vec<String> = FILES.iter().flat_map(rule).collect();
    assert!(
        breaches.is_empty(),
        "{} breaches:\n{}",
        breaches.len(),
        breaches.join("\n")
    );
}

/// Returns the one breach of a planted file.
fn single(rule: fn(&Text) -> Vec<String>, path: &str, content: &str) -> String {
    let mut found = rule(&text(path, content));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn accepts(rule: fn(&Text) -> Vec<String>, path: &str, content: &str) {
    assert_eq!(rule(&text(path, content)), Vec::<String>::new());
}

fn text(path: &str, content: &str) -> Text {
    Text {
        path: path.into(),
        content: content.to_owned(),
    }
}
