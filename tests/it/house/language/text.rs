//! The files with prose or names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    lexer::{Token, TokenKind, tokens},
    passages::{self, Passage, newlines},
};

/// A file with prose or names.
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) content: String,
}

impl Text {
    pub(super) fn is(&self, extension: &str) -> bool {
        self.path
            .extension()
            .is_some_and(|found| found == extension)
    }

    pub(super) fn passages(&self) -> Vec<Passage> {
        if self.is("rs") {
            passages::of_rust(&self.content)
        } else if self.is("md") {
            passages::of_markdown(&self.content)
        } else {
            passages::of_hash_comments(&self.content)
        }
    }

    pub(super) fn tokens(&self, kind: TokenKind) -> Vec<Token> {
        let mut tokens = if self.is("rs") {
            tokens(&self.content)
        } else {
            Vec::new()
        };
        tokens.retain(|token| token.kind == kind);
        tokens
    }

    pub(super) fn line_of(&self, offset: usize) -> usize {
        newlines(&self.content[..offset]) + 1
    }

    pub(super) fn breach(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.path.display())
    }
}

/// Returns the files to check below a root, with relative paths.
pub(super) fn files(root: &Path) -> Vec<Text> {
    let mut paths = Vec::new();
    for name in ["benches", "examples", "scripts", "src", "tests"] {
        collect(&root.join(name), &mut paths);
    }
    let names = [
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.toml",
        "README.md",
        ".clippy.toml",
    ];
    paths.extend(
        names
            .map(|name| root.join(name))
            .into_iter()
            .filter(|path| path.exists()),
    );
    let text = |path: PathBuf| Text {
        content: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root).unwrap().to_owned(),
    };
    paths.into_iter().map(text).collect()
}

/// Adds the files with prose below a folder. Build directories and corpora are left out.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !is_ignored(&path) {
            collect(&path, paths);
        } else if path.is_file() && has_prose(&path) {
            paths.push(path);
        }
    }
}

fn is_ignored(folder: &Path) -> bool {
    let ignored = ["target", "corpus", "artifacts", "node_modules"];
    // The rules and their planted breaches name all that they refuse.
    folder.ends_with("house/language") || ignored.iter().any(|name| folder.ends_with(name))
}

fn has_prose(file: &Path) -> bool {
    match file.extension() {
        Some(found) => ["md", "rs", "toml", "yml"]
            .iter()
            .any(|extension| found == *extension),
        None => file
            .parent()
            .is_some_and(|folder| folder.ends_with("scripts")),
    }
}
