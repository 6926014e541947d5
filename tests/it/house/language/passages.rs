//! The prose of a file as passages: paragraphs, headings, list items and table cells.

use super::lexer::{Token, TokenKind, tokens};

/// The kind of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassageKind {
    Paragraph,
    Cell,
}

/// A run of prose. Inline code and link targets are masked.
#[derive(Clone, Debug)]
pub(super) struct Passage {
    pub(super) kind: PassageKind,
    /// The number of each line in the file.
    numbers: Vec<usize>,
    /// The lines, joined by `\n`.
    pub(super) text: String,
}

impl Passage {
    fn new(kind: PassageKind, number: usize, text: &str) -> Self {
        Self {
            kind,
            numbers: vec![number],
            text: text.to_owned(),
        }
    }

    fn push(&mut self, number: usize, text: &str) {
        self.numbers.push(number);
        self.text.push('\n');
        self.text.push_str(text);
    }

    /// Returns the number of the line that holds a byte of the text.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.numbers[newlines(&self.text[..offset])]
    }
}

/// Returns the number of line ends in a text.
pub(super) fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// Returns the passages of a Markdown file.
pub(super) fn of_markdown(file: &str) -> Vec<Passage> {
    read(file.lines().zip(1..).map(|(line, number)| (number, line)))
}

/// Returns the passages of the `#` comments of a script or a TOML file.
pub(super) fn of_hash_comments(file: &str) -> Vec<Passage> {
    let comment = |line: &'_ str| -> Option<usize> {
        let indent = line.len() - line.trim_start().len();
        let body = line.trim_start().strip_prefix('#')?;
        (!body.starts_with('!')).then_some(indent + 1)
    };
    let lines = file.lines().zip(1..);
    read(lines.map(|(line, number)| (number, comment(line).map_or("", |start| &line[start..]))))
}

/// Returns the passages of the comments of a Rust file.
pub(super) fn of_rust(file: &str) -> Vec<Passage> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut number = 1;
    let mut read_to = 0;
    for token in tokens(file) {
        number += newlines(&file[read_to..token.start]);
        read_to = token.start;
        if token.kind == TokenKind::Comment {
            let block = Block::new(file, token, number);
            match blocks.last_mut() {
                Some(last) if last.continues_with(&block) => last.lines.extend(block.lines),
                _ => blocks.push(block),
            }
        }
    }
    blocks
        .into_iter()
        .flat_map(|block| read(block.lines.into_iter()))
        .collect()
}

/// Comments on consecutive lines.
struct Block<'a> {
    /// `//`, `///` or `//!`.
    lead: &'a str,
    /// The bytes before the comment; `None` behind code.
    column: Option<usize>,
    lines: Vec<(usize, &'a str)>,
}

impl<'a> Block<'a> {
    fn new(file: &'a str, token: Token, number: usize) -> Self {
        let text = token.text(file);
        let line_start = file[..token.start].rfind('\n').map_or(0, |end| end + 1);
        let before = &file[line_start..token.start];
        let leads = ["///", "//!", "//", "/*"];
        let lead = leads.into_iter().find(|lead| text.starts_with(lead));
        let lead = lead.expect("a comment starts with one of them");
        let body = text[lead.len()..].trim_end_matches("*/");
        Self {
            lead,
            column: before.trim().is_empty().then_some(before.len()),
            lines: (number..).zip(body.split('\n')).collect(),
        }
    }

    fn continues_with(&self, next: &Self) -> bool {
        let last = self.lines.last().map(|(number, _)| number + 1);
        let first = next.lines.first().map(|(number, _)| *number);
        self.column.is_some()
            && self.column == next.column
            && self.lead == next.lead
            && last == first
    }
}

/// Reads numbered lines as Markdown.
fn read<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<Passage> {
    let mut reader = Reader::default();
    for (number, line) in lines {
        reader.read(number, line.trim());
    }
    reader.close();
    reader.passages
}

#[derive(Default)]
struct Reader {
    passages: Vec<Passage>,
    /// The passage that the next line may continue.
    open: Option<Passage>,
    /// The fence that ends the code block.
    fence: Option<String>,
}

impl Reader {
    fn read(&mut self, number: usize, line: &str) {
        if let Some(fence) = &self.fence {
            if line == fence {
                self.fence = None;
                self.close();
            } else {
                self.read_code(number, line);
            }
            return;
        }
        if line.starts_with("```") || line.starts_with("~~~") {
            self.close();
            let mark = &line[..1];
            let rest = line.trim_start_matches(mark);
            self.fence = Some(line[..line.len() - rest.len()].to_owned());
        } else if line.is_empty() || is_link_definition(line) {
            self.close();
        } else {
            self.read_prose(number, line);
        }
    }

    /// Reads the comment of a line of code, if it has one.
    fn read_code(&mut self, number: usize, line: &str) {
        match comment_in_code(line) {
            Some(comment) if line.starts_with("//") => self.continue_with(number, comment),
            Some(comment) => {
                self.start(PassageKind::Paragraph, number, comment);
                self.close();
            }
            None => self.close(),
        }
    }

    fn read_prose(&mut self, number: usize, line: &str) {
        if line.starts_with('#') && line.trim_start_matches('#').starts_with(' ') {
            let heading = line.trim_start_matches('#').trim_start();
            self.start(PassageKind::Paragraph, number, heading);
            self.close();
        } else if line.starts_with('|') {
            for cell in cells(line) {
                self.start(PassageKind::Cell, number, &cell);
            }
            self.close();
        } else if let Some(item) = list_item(line) {
            self.start(PassageKind::Paragraph, number, item);
        } else {
            self.continue_with(number, line);
        }
    }

    fn start(&mut self, kind: PassageKind, number: usize, text: &str) {
        self.close();
        self.open = Some(Passage::new(kind, number, text));
    }

    fn continue_with(&mut self, number: usize, text: &str) {
        match &mut self.open {
            Some(open) => open.push(number, text),
            None => self.start(PassageKind::Paragraph, number, text),
        }
    }

    fn close(&mut self) {
        if let Some(mut passage) = self.open.take() {
            passage.text = masked(&passage.text);
            self.passages.push(passage);
        }
    }
}

/// Returns whether a line is `[label]: target`.
fn is_link_definition(line: &str) -> bool {
    line.starts_with('[') && line.contains("]: ")
}

/// Returns the text behind the mark of a list item.
fn list_item(line: &str) -> Option<&str> {
    let number = line.trim_start_matches(|next: char| next.is_ascii_digit());
    let behind = if number.len() < line.len() {
        number.strip_prefix(['.', ')'])
    } else {
        line.strip_prefix(['-', '*', '+'])
    };
    behind?.strip_prefix(' ').map(str::trim_start)
}

/// Returns the cells of a table row; none of the row below the head.
fn cells(line: &str) -> Vec<String> {
    let inside = line.trim_matches('|');
    if inside.chars().all(|next| "|-: ".contains(next)) {
        return Vec::new();
    }
    let cells = inside.replace("\\|", "  ");
    let cells = cells.split('|').map(str::trim);
    let filled = cells.filter(|cell| !cell.is_empty());
    filled.map(ToOwned::to_owned).collect()
}

/// Returns the comment of a line of code: `// ...`, or `# ...` in a script.
fn comment_in_code(line: &str) -> Option<&str> {
    let hash = || {
        let body = line.strip_prefix("# ")?;
        let is_prose = body.starts_with(char::is_uppercase) && !body.contains(['=', ':']);
        is_prose.then_some(body)
    };
    if line.contains("://") {
        return None;
    }
    let slashes = line.starts_with("//").then_some(0);
    let slashes = slashes.or_else(|| line.find(" //").map(|at| at + 1));
    slashes
        .map(|at| line[at..].trim_start_matches(['/', '!']).trim_start())
        .or_else(hash)
}

/// Masks inline code, link targets, URLs and HTML tags. Offsets stay.
pub(super) fn masked(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let (inside, length) = opaque(rest);
        for byte in &mut bytes[at + inside..at + length] {
            if *byte != b'\n' {
                *byte = MASK;
            }
        }
        at += length.max(rest.chars().next().map_or(1, char::len_utf8));
    }
    String::from_utf8(bytes).expect("whole characters are replaced by ASCII")
}

/// The byte that replaces masked text.
pub(super) const MASK: u8 = 1;

/// Returns how many bytes at the start of a text stay, and how many are opaque.
fn opaque(rest: &str) -> (usize, usize) {
    let until = |end: &str, from: usize| {
        let found = rest[from..].find(end);
        found.map_or((0, 0), |found| (1, from + found + end.len()))
    };
    if rest.starts_with('`') {
        let ticks = rest.len() - rest.trim_start_matches('`').len();
        let (_, end) = until(&"`".repeat(ticks), ticks);
        return if end == 0 { (0, 0) } else { (1, end) };
    }
    if rest.starts_with("](") {
        return until(")", 2);
    }
    if rest.starts_with("][") {
        return until("]", 2);
    }
    if rest.starts_with("http://") || rest.starts_with("https://") {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        return (0, end);
    }
    let is_tag = rest.starts_with('<')
        && rest[1..].starts_with(|next: char| next.is_ascii_lowercase() || next == '/');
    if is_tag { until(">", 1) } else { (0, 0) }
}
