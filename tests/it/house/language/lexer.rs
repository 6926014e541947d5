//! A lexer for the parts of a Rust file that carry language: comments, strings and identifiers.

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Comment,
    /// A string literal, quotes included.
    Literal,
    Identifier,
}

/// A token, by its bytes in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Token {
    pub(super) fn text(self, file: &str) -> &str {
        &file[self.start..self.end]
    }
}

/// Returns the comments, strings and identifiers of a Rust file in their order.
pub(super) fn tokens(file: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = file[at..].chars().next() {
        let (kind, length) = token(&file[at..], next);
        let end = at + length;
        found.extend(kind.map(|kind| Token {
            kind,
            start: at,
            end,
        }));
        at = end;
    }
    found
}

/// Returns the kind and the length of the token at the start of a text.
fn token(rest: &str, next: char) -> (Option<TokenKind>, usize) {
    if next == '/' && rest.starts_with("//") {
        let length = rest.find('\n').unwrap_or(rest.len());
        return (Some(TokenKind::Comment), length);
    }
    if next == '/' && rest.starts_with("/*") {
        let length = rest.find("*/").map_or(rest.len(), |end| end + 2);
        return (Some(TokenKind::Comment), length);
    }
    match next {
        '"' => (Some(TokenKind::Literal), string(rest)),
        '\'' => (None, character(rest)),
        _ if starts_name(next) => raw_string(rest).map_or_else(
            || (Some(TokenKind::Identifier), name(rest)),
            |length| (Some(TokenKind::Literal), length),
        ),
        _ => (None, next.len_utf8()),
    }
}

/// Returns the length of a raw string, with its prefix and its hashes.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        let behind = rest.strip_prefix(prefix);
        behind.is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let behind = &rest[prefix.len()..];
    let hashes = behind.find('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let open = prefix.len() + hashes + 1;
    let inside = rest[open..].find(&close);
    inside.map(|inside| open + inside + close.len())
}

/// Returns the length of a string literal without a prefix.
fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, next) in rest.char_indices().skip(1) {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Returns the length of a character literal, or of the quote of a lifetime.
fn character(rest: &str) -> usize {
    let inside = &rest[1..];
    if let Some(escape) = inside.strip_prefix('\\') {
        let behind = escape.char_indices().nth(1).map_or(0, |(at, _)| at);
        return escape[behind..]
            .find('\'')
            .map_or(rest.len(), |end| 2 + behind + end + 1);
    }
    let length = inside.chars().next().map_or(0, char::len_utf8);
    if inside[length..].starts_with('\'') {
        2 + length
    } else {
        1
    }
}

fn name(rest: &str) -> usize {
    rest.find(|next| !continues_name(next))
        .unwrap_or(rest.len())
}

fn starts_name(next: char) -> bool {
    next.is_alphabetic() || next == '_'
}

/// Returns whether a character may stand inside of an identifier.
pub(super) fn continues_name(next: char) -> bool {
    next.is_alphanumeric() || next == '_'
}
