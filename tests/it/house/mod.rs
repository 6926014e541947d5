//! The structure of the sources, enforced by reading them.

mod dependencies;
mod language;
mod public_api;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use self::source::{ModulePath, Source, files};

const LAYERS: [&str; 4] = ["access_log", "api_key", "cache", "rate_limit"];

/// Files of which a build has one or the other.
const ALTERNATIVES: [&str; 3] = ["tls_absent", "ctrl_c", "unix"];

/// Files that are still to be split.
const LARGE_FILES: [&str; 11] = [
    "access_log::record::record",
    "api_key::config",
    "api_key::record::record",
    "conformance::api_key",
    "conformance::cache",
    "store::memory::rate_limit::table",
    "store::redis::connection::client",
    "store::redis::connection::node",
    "store::redis::rate_limit::deferred",
    "store::redis::rate_limit::leases",
    "store::redis::topology::cluster",
];

/// Without the tests.
const MAX_FILE_LINES: usize = 400;
const MAX_FILES_IN_FOLDER: usize = 16;
const MAX_FUNCTION_LINES: usize = 60;

#[test]
fn layer_imports_itself_and_core_alone() {
    let tree = &SOURCES;
    for layer in LAYERS {
        assert_eq!(
            tree.strangers(layer, &[layer, "core"]),
            Vec::<String>::new()
        );
    }
}

#[test]
fn core_imports_itself_alone() {
    assert_eq!(SOURCES.strangers("core", &["core"]), Vec::<String>::new());
}

#[test]
fn files_import_one_another_in_no_circle() {
    assert_eq!(circles(&SOURCES.imports()), BTreeSet::new());
}

#[test]
fn module_with_children_is_a_mod_rs() {
    assert_eq!(SOURCES.files_next_to_their_folder(), Vec::<PathBuf>::new());
}

#[test]
fn folder_holds_few_files() {
    assert_eq!(SOURCES.crowded_folders(), Vec::<PathBuf>::new());
}

#[test]
fn files_are_short() {
    let mut large = SOURCES.large_files();
    large.sort();
    assert_eq!(large, LARGE_FILES);
}

#[test]
fn functions_are_short() {
    assert_eq!(SOURCES.long_functions(), Vec::<String>::new());
}

#[test]
fn private_type_names_stand_for_one_type() {
    assert_eq!(SOURCES.shared_names(), BTreeMap::new());
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
    let proofs = words.filter_map(|word| word.rsplit_once("::"));
    let mut proved = 0;
    for (theme, name) in proofs {
        let path = tests.join(theme.replace("::", "/"));
        let path = [path.with_extension("rs"), path.join("mod.rs")]
            .into_iter()
            .find(|path| path.exists());
        let file = read(&path.unwrap());
        assert!(
            file.contains(&format!("fn {name}(")),
            "{theme}::{name} is no test"
        );
        proved += 1;
    }
    assert!(proved > 20, "only {proved} promises name their proof");
}

#[test]
fn each_rule_finds_a_planted_breach() {
    let file = |path: &str, text: &str| {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let module = module.split('/').map(ToOwned::to_owned).collect();
        Source::parse(Path::new(path), module, text.to_owned())
    };
    let tree = |files: Vec<Source>| Tree { files };

    let layers = tree(vec![
        file("cache/a.rs", "use crate::{core::b::C, store::{d::E, F}};"),
        file("core/b.rs", "fn f() { crate::cache::a::g() }"),
        file("store/d.rs", "pub struct E;"),
    ]);
    assert_eq!(layers.strangers("cache", &["cache", "core"]).len(), 2);
    assert_eq!(
        layers.strangers("core", &["core"]),
        ["core::b names cache::a::g"]
    );

    let round = tree(vec![
        file(
            "x/mod.rs",
            "mod a; mod b; pub use self::a::A; pub use self::b::B;",
        ),
        file("x/a.rs", "use super::B;"),
        file("x/b.rs", "fn f() -> super::a::A {}"),
        file("x/c.rs", "use super::A;"),
    ]);
    let imports = round.imports();
    assert_eq!(circles(&imports), [vec!["x::a", "x::b"]].into());
    let through_door = tree(vec![
        file("x/mod.rs", "mod a; mod y;"),
        file("x/a.rs", "use super::y; fn f() -> y::B {}"),
        file("x/y/mod.rs", "mod b; pub(super) use self::b::B;"),
        file("x/y/b.rs", "use crate::x::a::A;"),
    ]);
    let imports = through_door.imports();
    assert_eq!(circles(&imports), [vec!["x::a", "x::y::b"]].into());
    let straight = tree(vec![
        file(
            "x/mod.rs",
            "mod a; mod b; pub use self::a::A; pub use self::b::B;",
        ),
        file("x/a.rs", "use super::B;"),
        file(
            "x/b.rs",
            "#[cfg(test)] mod tests { use super::super::a::A; }",
        ),
    ]);
    assert_eq!(circles(&straight.imports()), BTreeSet::new());

    let beside = tree(vec![file("x.rs", ""), file("x/a.rs", "")]);
    assert_eq!(beside.files_next_to_their_folder(), [Path::new("x.rs")]);

    let crowded = (0..=MAX_FILES_IN_FOLDER).map(|number| file(&format!("x/f{number}.rs"), ""));
    assert_eq!(tree(crowded.collect()).crowded_folders(), [Path::new("x")]);

    let lines = "\n".repeat(MAX_FILE_LINES);
    let large = tree(vec![
        file("x/a.rs", &format!("{lines}\nfn f() {{}}")),
        file("x/b.rs", &format!("{lines}#[cfg(test)]\nmod tests {{}}")),
    ]);
    assert_eq!(large.large_files(), ["x::a"]);

    let long = format!("fn f() {{{}}}", "\n;".repeat(MAX_FUNCTION_LINES));
    assert_eq!(tree(vec![file("x.rs", &long)]).long_functions().len(), 1);

    let names = tree(vec![
        file(
            "x/a.rs",
            "struct Part; pub struct Whole; mod b { struct Part; }",
        ),
        file(
            "x/b.rs",
            "enum Part {} #[cfg(test)] mod tests { struct Slot; }",
        ),
        file("x/c.rs", "pub(crate) trait Whole {} struct Slot;"),
        file("x/unix.rs", "struct Slot;"),
    ]);
    let shared = names.shared_names();
    assert_eq!(
        shared,
        [("Part", vec!["x::a".to_owned(), "x::b".to_owned()])].into()
    );

    assert_eq!(misplaced_cfgs("#[cfg(feature = \"x\")]\nfn f() {}"), [1]);
    assert_eq!(misplaced_cfgs("let x = cfg!(feature = \"x\");"), [1]);
    assert!(misplaced_cfgs("#[cfg(feature = \"x\")]\n#[path = \"a.rs\"]\nmod a;").is_empty());
    assert!(misplaced_cfgs("#[cfg(any(feature = \"x\"))]\npub use a::B;").is_empty());
    assert!(misplaced_cfgs("#[cfg(feature = \"x\")]\npub(super) mod a;").is_empty());
    assert_eq!(
        misplaced_cfgs("#[cfg(feature = \"x\")]\npub fn f() {}"),
        [1]
    );
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

/// All sources, parsed once for all tests.
static SOURCES: LazyLock<Tree> = LazyLock::new(Tree::read);

struct Tree {
    files: Vec<Source>,
}

impl Tree {
    fn read() -> Self {
        let root = src();
        let files = files(&root);
        Self {
            files: files.iter().map(|path| Source::read(&root, path)).collect(),
        }
    }

    fn file(&self, module: &[String]) -> Option<&Source> {
        self.files.iter().find(|file| file.module == module)
    }

    /// Returns the module in which a path is defined: re-exports of a `mod.rs` are followed.
    fn defined_in(&self, path: &[String]) -> Option<ModulePath> {
        let lengths = (0..=path.len()).rev();
        let file = lengths
            .filter_map(|length| self.file(&path[..length]))
            .next()?;
        let rest = &path[file.module.len()..];
        let export = rest.first().and_then(|name| file.exports.get(name));
        match export {
            Some(target) if file.is_door() && target != path => {
                self.defined_in(&[&target[..], &rest[1..]].concat())
            }
            _ => Some(file.module.clone()),
        }
    }

    /// Returns the paths that files of a part name outside of the allowed parts.
    fn strangers(&self, part: &str, allowed: &[&str]) -> Vec<String> {
        let is_in_part = |file: &&Source| file.module.first().is_some_and(|name| name == part);
        let mut found = Vec::new();
        for file in self.files.iter().filter(is_in_part) {
            for path in &file.named {
                let target = self.defined_in(path).unwrap_or_else(|| path.clone());
                let target = target.first().or(path.first());
                if target.is_some_and(|target| !allowed.contains(&target.as_str())) {
                    found.push(format!(
                        "{} names {}",
                        file.module.join("::"),
                        path.join("::")
                    ));
                }
            }
        }
        found
    }

    /// Returns the imports between files that are no `mod.rs` of re-exports.
    fn imports(&self) -> Graph {
        let holds_items =
            |file: &&Source| !file.module.is_empty() && (!file.is_door() || file.defines_items);
        let mut graph = Graph::new();
        for file in self.files.iter().filter(holds_items) {
            let named = file.named.iter().filter_map(|path| self.defined_in(path));
            let others = named.filter(|module| *module != file.module);
            let names = others.map(|module| module.join("::"));
            let edges = graph.entry(file.module.join("::")).or_default();
            edges.extend(names);
        }
        graph
    }

    fn files_next_to_their_folder(&self) -> Vec<PathBuf> {
        let folders: BTreeSet<&Path> = self
            .files
            .iter()
            .filter_map(|file| file.path.parent())
            .collect();
        let paths = self.files.iter().map(|file| file.path.clone());
        paths
            .filter(|path| folders.contains(path.with_extension("").as_path()))
            .collect()
    }

    fn crowded_folders(&self) -> Vec<PathBuf> {
        let mut counts = BTreeMap::<&Path, usize>::new();
        for file in &self.files {
            *counts.entry(file.path.parent().unwrap()).or_default() += 1;
        }
        let crowded = counts
            .into_iter()
            .filter(|(_, count)| *count > MAX_FILES_IN_FOLDER);
        crowded.map(|(folder, _)| folder.to_owned()).collect()
    }

    fn large_files(&self) -> Vec<String> {
        let is_large = |file: &&Source| file.lines_without_tests() > MAX_FILE_LINES;
        let large = self.files.iter().filter(is_large);
        large.map(|file| file.module.join("::")).collect()
    }

    /// Returns the names of private types that several files define, and the files.
    fn shared_names(&self) -> BTreeMap<&str, Vec<String>> {
        let has_alternative = |file: &Source| {
            let name = file.module.last().map(String::as_str);
            name.is_some_and(|name| ALTERNATIVES.contains(&name))
        };
        let mut defined_in = BTreeMap::<&str, Vec<String>>::new();
        for file in self.files.iter().filter(|file| !has_alternative(file)) {
            let names: BTreeSet<&str> = file.private_types.iter().map(String::as_str).collect();
            for name in names {
                defined_in
                    .entry(name)
                    .or_default()
                    .push(file.module.join("::"));
            }
        }
        defined_in.retain(|_, files| files.len() > 1);
        defined_in
    }

    fn long_functions(&self) -> Vec<String> {
        let mut found = Vec::new();
        for file in &self.files {
            let long = file
                .functions
                .iter()
                .filter(|(_, lines)| *lines > MAX_FUNCTION_LINES);
            found.extend(
                long.map(|(name, lines)| {
                    format!("{}: {name} has {lines} lines", file.path.display())
                }),
            );
        }
        found
    }
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
        let item = line.strip_prefix("pub").map_or(line, |rest| {
            let visibility_end = rest.find(") ").map_or(0, |end| end + 1);
            rest[visibility_end..].trim_start()
        });
        item.starts_with("mod ") || item.starts_with("use ")
    };
    (0..lines.len())
        .filter(|number| decides(lines[*number]) && !decided_on(*number).is_some_and(may))
        .map(|number| number + 1)
        .collect()
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Returns the circles of the graph: the files of each import one another, directly or through
/// others.
fn circles(graph: &Graph) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|file| (file.as_str(), reached_from(graph, file)))
        .collect();
    let mut found = BTreeSet::new();
    for (file, others) in &reached {
        let leads_back = |other: &&&str| reached.get(**other).is_some_and(|to| to.contains(file));
        let circle: Vec<&str> = others.iter().filter(leads_back).copied().collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found
}

/// Returns the files that a file imports, directly or through others.
fn reached_from<'a>(graph: &'a Graph, file: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = graph[file].iter().map(String::as_str).collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(graph.get(file).into_iter().flatten().map(String::as_str));
        }
    }
    reached
}
