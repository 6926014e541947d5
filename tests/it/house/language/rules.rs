//! The rules of language. Each takes a file and returns its breaches.

use super::{
    glossary::{self, glob_matches},
    lexer::{Token, TokenKind, continues_name},
    passages::{PassageKind, masked, newlines},
    spelling,
    text::Text,
};

const MAX_COLUMNS: usize = 100;

/// Words that open a clause in the place of a noun.
const OPENERS: [&str; 12] = [
    "how",
    "what",
    "whatever",
    "where",
    "wherever",
    "whether",
    "which",
    "whichever",
    "who",
    "whoever",
    "whom",
    "whose",
];

/// Names to avoid, and their replacements.
const NAMES: [(&str, &str); 10] = [
    ("of_*", "`for_*`, `from_*` or a noun"),
    ("*_max", "`max_*`"),
    ("*_min", "`min_*`"),
    (
        "former|former_*|*_former|*_former_*|formerly*|*_formerly|Former*",
        "`previous_*`",
    ),
    (
        "answer|answers|answer_*|answers_*",
        "response, reply, decision",
    ),
    (
        "*_answer|*_answers|*_answer_*|*_answers_*",
        "response, reply, decision",
    ),
    ("Answer*|*Answer|*Answers", "response, reply, decision"),
    (
        "debt|debts|debt_*|debts_*|*_debt|*_debts|*Debt|*Debts|Debt*|*arrears*|Arrears*",
        "deferred, outstanding",
    ),
    (
        "owed|owed_*|*_owed|owing|*_owing|Owed*|Owing*",
        "deferred, outstanding",
    ),
    (
        "whoever*|*_whoever*|nobody*|*_nobody*|somebody*|*_somebody*|*_anew|*_beside",
        "caller, client, owner; or leave it out",
    ),
];

/// Keywords behind which an identifier is defined.
const DEFINING: [&str; 13] = [
    "fn", "struct", "enum", "trait", "const", "static", "type", "mod", "let", "mut", "ref", "for",
    "union",
];

/// Finds phrases that the glossary replaces, in prose and in the sentences of string literals.
pub(super) fn glossary(text: &Text) -> Vec<String> {
    let mut found = Vec::new();
    for passage in text.passages() {
        for (offset, message) in glossary::breaches(&passage.text) {
            found.push(text.breach(passage.line_of(offset), &message));
        }
    }
    for literal in text.tokens(TokenKind::Literal) {
        let prose = literal.text(&text.content);
        // Two bytes each, so that offsets stay.
        let prose = masked(&prose.replace("\\\n", " \n").replace("\\n", "  "));
        if is_sentence(&prose) {
            let line = text.line_of(literal.start);
            for (offset, message) in glossary::breaches(&prose) {
                found.push(text.breach(line + newlines(&prose[..offset]), &message));
            }
        }
    }
    found
}

/// Returns whether a string literal is prose rather than code or a message on the wire.
fn is_sentence(literal: &str) -> bool {
    let is_word = |word: &&str| {
        let word = word.trim_matches(|next: char| ",.;:!?()\"'`".contains(next));
        !word.is_empty() && word.chars().all(|next| next.is_ascii_alphabetic())
    };
    let is_code = ["local ", "redis.", "HTTP/1", "\\r", "<", ">", "=> "];
    !is_code.iter().any(|code| literal.contains(code))
        && literal.split_whitespace().filter(is_word).count() >= 4
}

/// Finds sentences that open with a relative clause in the place of a noun. Questions may.
pub(super) fn openers(text: &Text) -> Vec<String> {
    let mut found = Vec::new();
    for passage in text.passages() {
        for (start, sentence) in sentences(&passage.text) {
            let opening = sentence.trim_start_matches(|next: char| "*_\"'(“[".contains(next));
            let end = opening.find(|next: char| !next.is_ascii_alphabetic());
            let word = &opening[..end.unwrap_or(opening.len())];
            let may_be_lower_case = start == 0 && passage.kind == PassageKind::Paragraph;
            let opens = OPENERS.contains(&word.to_lowercase().as_str())
                && (may_be_lower_case || word.starts_with(char::is_uppercase));
            if opens && !is_question(sentence) {
                found.push(text.breach(passage.line_of(start), &opener_message(word)));
            }
        }
    }
    found
}

fn opener_message(word: &str) -> String {
    format!("the sentence opens with \"{word}\": make the subject a noun of the field")
}

fn is_question(sentence: &str) -> bool {
    let closers = |next: char| next.is_whitespace() || CLOSERS.contains(next);
    sentence.trim_end_matches(closers).ends_with('?')
}

/// Characters that may follow the mark at the end of a sentence.
const CLOSERS: &str = "\"')]*_”";

/// Returns the sentences of a passage, and where each starts.
fn sentences(text: &str) -> Vec<(usize, &str)> {
    let mut starts = vec![0];
    for (at, _) in text.match_indices(['.', '!', '?']) {
        let behind = text[at + 1..].trim_start_matches(|next: char| CLOSERS.contains(next));
        let next = behind.trim_start();
        let abbreviated = ["e.g", "i.e", "etc"]
            .iter()
            .any(|short| text[..at].ends_with(short));
        if next.len() < behind.len() && !next.is_empty() && !abbreviated {
            starts.push(text.len() - next.len());
        }
    }
    let ends = starts[1..].iter().copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| (*start, &text[*start..end]))
        .collect()
}

/// Finds lines that are too long. Tables, URLs and string literals may be.
pub(super) fn width(text: &Text) -> Vec<String> {
    if !text.is("rs") && !text.is("md") {
        return Vec::new();
    }
    let literals = text.tokens(TokenKind::Literal);
    let mut found = Vec::new();
    let mut start = 0;
    for (line, number) in text.content.split('\n').zip(1..) {
        let end = start + line.len();
        if let Some((limit, _)) = line.char_indices().nth(MAX_COLUMNS) {
            let body = line
                .trim_start()
                .trim_start_matches(['/', '!'])
                .trim_start();
            let holds_literal = literals
                .iter()
                .any(|literal| literal.start < end && literal.end > start + limit);
            if !body.starts_with('|') && !line.contains("://") && !holds_literal {
                let columns = line.chars().count();
                let message = format!("{columns} columns: the limit is {MAX_COLUMNS}");
                found.push(text.breach(number, &message));
            }
        }
        start = end + 1;
    }
    found
}

/// Finds definitions whose names the glossary replaces.
pub(super) fn names(text: &Text) -> Vec<String> {
    let mut found = Vec::new();
    for (token, name) in definitions(text) {
        if !is_phrase(name) {
            let message = name_message(name).or_else(|| timeout_message(text, token, name));
            found.extend(message.map(|message| text.breach(text.line_of(token.start), &message)));
        }
    }
    found
}

fn name_message(name: &str) -> Option<String> {
    let matches = |patterns: &str| patterns.split('|').any(|glob| glob_matches(glob, name));
    let rule = NAMES.iter().find(|(patterns, _)| matches(patterns));
    rule.map(|(_, say)| format!("`{name}`: name it {say}"))
}

/// Returns a message if a duration is named as an instant.
fn timeout_message(text: &Text, token: Token, name: &str) -> Option<String> {
    let behind = text.content[token.end..].strip_prefix(": ")?;
    let path = behind
        .trim_start_matches("Option<")
        .trim_start_matches("std::time::");
    let is_deadline = name.contains("deadline") && path.starts_with("Duration");
    is_deadline.then(|| format!("`{name}` is a duration: name it `*_timeout`"))
}

/// Finds names that are phrases, such as those of tests, and not in the field's terms.
pub(super) fn phrase_names(text: &Text) -> Vec<String> {
    let mut found = Vec::new();
    for (token, name) in definitions(text) {
        if is_phrase(name) {
            let line = text.line_of(token.start);
            let first = name.split('_').next().unwrap_or_default();
            let opener = OPENERS.contains(&first).then(|| opener_message(first));
            let phrases = glossary::breaches(&name.replace('_', " "));
            let messages = opener
                .into_iter()
                .chain(phrases.into_iter().map(|(_, message)| message));
            found
                .extend(messages.map(|message| text.breach(line, &format!("`{name}`: {message}"))));
        }
    }
    found
}

fn is_phrase(name: &str) -> bool {
    name.matches('_').count() > 2
}

/// Returns the identifiers that a file defines: items, bindings, fields and parameters.
fn definitions(text: &Text) -> Vec<(Token, &str)> {
    let content = text.content.as_str();
    let is_defined = |token: &Token| {
        let before = content[..token.start].trim_end();
        let keyword = before.rsplit(|next| !continues_name(next)).next();
        let behind = content[token.end..].trim_start();
        keyword.is_some_and(|keyword| DEFINING.contains(&keyword))
            || before.ends_with('|')
            || (behind.starts_with(':') && !behind.starts_with("::"))
    };
    let identifiers = text.tokens(TokenKind::Identifier).into_iter();
    identifiers
        .filter(is_defined)
        .map(|token| (token, token.text(content)))
        .collect()
}

/// Finds misspelled words and British spellings.
pub(super) fn spelling(text: &Text) -> Vec<String> {
    let mut found = Vec::new();
    for (line, number) in text.content.lines().zip(1..) {
        for message in spelling::breaches(line) {
            found.push(text.breach(number, &message));
        }
    }
    found
}
