//! The walls of the house, held by reading the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const SLICES: [&str; 4] = ["access_log", "api_key", "cache", "rate_limit"];
const ABOVE_GROUND: [&str; 5] = ["conformance", "gate", "guide", "store", "test_util"];

#[test]
fn a_slice_imports_ground_alone() {
    for slice in SLICES {
        let own = BTreeSet::from([slice.to_owned()]);
        let allowed = &ground() | &own;
        for file in files(&src().join(slice)) {
            let strangers = strangers(&read(&file), &allowed);
            assert!(
                strangers.is_empty(),
                "{} names {strangers:?}",
                file.display()
            );
        }
    }
}

#[test]
fn ground_imports_nothing_of_ours_but_ground() {
    let ground = ground();
    for file in ground_files() {
        let strangers = strangers(&read(&file), &ground);
        assert!(
            strangers.is_empty(),
            "{} names {strangers:?}",
            file.display()
        );
    }
}

#[test]
fn no_circle_in_ground() {
    let rooms = ground_files().into_iter().map(|file| {
        let roots = roots(&read(&file), "crate::");
        (room(&file, &src()), roots)
    });
    assert_eq!(circle(&graph(rooms)), None);
}

#[test]
fn no_circle_in_a_slice() {
    for slice in SLICES.into_iter().chain(["test_util"]) {
        let door = src().join(slice);
        let rooms = files(&door)
            .into_iter()
            .filter(|file| file.parent() == Some(&door) && !file.ends_with("mod.rs"))
            .map(|file| (room(&file, &door), roots(&read(&file), "super::")));
        assert_eq!(circle(&graph(rooms)), None, "in {slice}");
    }
}

#[test]
fn features_are_decided_on_mod_and_use_lines_alone() {
    for file in files(&src()) {
        let misplaced = misplaced_cfgs(&read(&file));
        assert!(misplaced.is_empty(), "{}: {misplaced:?}", file.display());
    }
}

#[test]
fn each_file_opens_with_what_it_is() {
    for file in files(&src()) {
        let text = read(&file);
        assert!(
            text.starts_with("//! "),
            "{} has no opening line",
            file.display()
        );
    }
}

#[test]
fn each_promise_is_proved_by_a_test_that_exists() {
    let tests = src().with_file_name("tests").join("it");
    let pages = ["guide/promises.md", "guide/config_checks.md"];
    let promises = pages.map(|page| fs::read_to_string(src().join(page)).unwrap());
    let promises = promises.concat();
    // Tests begin with the file, in lower case; other paths begin with a type.
    let words = promises
        .split('`')
        .filter(|word| word.starts_with(char::is_lowercase));
    let proofs = words.filter_map(|word| word.split_once("::"));
    let mut proved = 0;
    for (theme, name) in proofs {
        let file = read(&tests.join(theme).with_extension("rs"));
        assert!(
            file.contains(&format!("fn {name}(")),
            "{theme}::{name} is no test"
        );
        proved += 1;
    }
    assert!(proved > 20, "only {proved} promises name their proof");
}

#[test]
fn the_reader_finds_what_it_must_refuse() {
    let allowed = BTreeSet::from(["error".to_owned(), "store_key".to_owned()]);
    let bad = "use crate::{error::StoreError, store::{MemoryStore, x}, store_key::StoreKey};";
    assert_eq!(strangers(bad, &allowed), ["store"]);
    assert_eq!(
        strangers("fn f() { crate::cache::g() }", &allowed),
        ["cache"]
    );
    assert!(strangers("// crate::cache is another slice\n", &allowed).is_empty());

    assert_eq!(misplaced_cfgs("#[cfg(feature = \"x\")]\nfn f() {}"), [1]);
    assert_eq!(misplaced_cfgs("let x = cfg!(feature = \"x\");"), [1]);
    assert!(misplaced_cfgs("#[cfg(feature = \"x\")]\n#[path = \"a.rs\"]\nmod a;").is_empty());
    assert!(misplaced_cfgs("#[cfg(any(feature = \"x\"))]\npub use a::B;").is_empty());

    let edge = |from: &str, to: &[&str]| {
        (
            from.to_owned(),
            to.iter().map(ToString::to_string).collect(),
        )
    };
    let round = graph([edge("a", &["b"]), edge("b", &["c"]), edge("c", &["a"])].into_iter());
    assert!(circle(&round).is_some());
    let down = graph([edge("a", &["b", "c"]), edge("b", &["c"]), edge("c", &[])].into_iter());
    assert_eq!(circle(&down), None);
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the files of ground: all that is neither the face, nor a slice, nor above.
fn ground_files() -> Vec<PathBuf> {
    let outside = |file: &PathBuf| {
        let room = room(file, &src());
        room == "lib" || SLICES.contains(&room.as_str()) || ABOVE_GROUND.contains(&room.as_str())
    };
    files(&src())
        .into_iter()
        .filter(|file| !outside(file))
        .collect()
}

fn ground() -> BTreeSet<String> {
    ground_files()
        .iter()
        .map(|file| room(file, &src()))
        .collect()
}

/// Returns the first part of a file's path below a folder: its room.
fn room(file: &Path, folder: &Path) -> String {
    let below = file.strip_prefix(folder).unwrap();
    let first = below.components().next().unwrap();
    Path::new(first.as_os_str())
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// Reads a file without its comments.
fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

fn without_comments(text: &str) -> String {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(code).collect::<Vec<_>>().join("\n")
}

/// Returns the modules of ours that a text names and may not.
fn strangers(text: &str, allowed: &BTreeSet<String>) -> Vec<String> {
    roots(text, "crate::")
        .into_iter()
        .filter(|root| !allowed.contains(root))
        .collect()
}

/// Returns the first segment of each path that begins with `start`, groups taken apart.
fn roots(text: &str, start: &str) -> Vec<String> {
    let code = without_comments(text);
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(start) {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || before == ':' || before == '$' {
            continue;
        }
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
        .into_iter()
        .filter(|root| root.starts_with(char::is_lowercase))
        .collect()
}

/// Returns the heads of the members of a group, whose opening brace has been read.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut member) = (0, String::new());
    for char in group.chars() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(head(&std::mem::take(&mut member))),
            other if depth == 0 => member.push(other),
            _ => {}
        }
    }
    heads.extend(head(&member));
    heads
}

fn head(path: &str) -> Option<String> {
    let word = |char: char| char.is_alphanumeric() || char == '_';
    let head: String = path
        .trim_start()
        .chars()
        .take_while(|char| word(*char))
        .collect();
    (!head.is_empty()).then_some(head)
}

/// Returns the numbers of the lines that decide on a feature where they may not.
fn misplaced_cfgs(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let decides = |line: &str| {
        let line = line.trim_start();
        !line.starts_with("//")
            && (line.contains("cfg(") || line.contains("cfg!("))
            && line.contains("feature =")
    };
    let decided_on = |number: usize| {
        lines[number + 1..]
            .iter()
            .map(|line| line.trim_start())
            .find(|line| !line.starts_with("#[") && !line.starts_with("//"))
    };
    let may = |line: &str| {
        [
            "mod ",
            "pub mod ",
            "pub(crate) mod ",
            "use ",
            "pub use ",
            "pub(crate) use ",
            "pub(super) use ",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    };
    (0..lines.len())
        .filter(|number| decides(lines[*number]) && !decided_on(*number).is_some_and(may))
        .map(|number| number + 1)
        .collect()
}

type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(rooms: impl Iterator<Item = (String, Vec<String>)>) -> Graph {
    let mut graph = Graph::new();
    for (room, roots) in rooms {
        let others = roots.into_iter().filter(|root| *root != room);
        graph.entry(room.clone()).or_default().extend(others);
    }
    graph
}

/// Returns the rooms that are left once all that lead nowhere have been taken away, if any are.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut left = graph.clone();
    loop {
        let ends: Vec<String> = left
            .iter()
            .filter(|(_, to)| !to.iter().any(|room| left.contains_key(room)))
            .map(|(room, _)| room.clone())
            .collect();
        if ends.is_empty() {
            return (!left.is_empty()).then(|| left.into_keys().collect());
        }
        ends.iter().for_each(|end| drop(left.remove(end)));
    }
}
