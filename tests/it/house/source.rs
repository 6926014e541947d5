//! The crate's own sources, parsed: modules, imports, functions and types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Fields, Item, ItemMod, ItemUse, UseTree, Visibility,
    spanned::Spanned,
    visit::{self, Visit},
};

/// The path of a module below the crate root.
pub(super) type ModulePath = Vec<String>;

/// One source file.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) module: ModulePath,
    pub(super) text: String,
    /// The paths of the crate that code outside of tests names.
    pub(super) named: BTreeSet<ModulePath>,
    /// The lines of each function, tests included.
    pub(super) functions: Vec<(String, usize)>,
    /// The types that are not part of the public API.
    pub(super) private_types: Vec<String>,
    /// The public enums, and the public structs with public fields alone, that are not
    /// `#[non_exhaustive]`.
    pub(super) exhaustive_types: Vec<String>,
    /// The names of the public types that the file defines or re-exports.
    pub(super) public_types: Vec<String>,
    /// The names that the file re-exports or defines: a path each.
    pub(super) exports: BTreeMap<String, ModulePath>,
    /// `true` if the file holds items other than modules, imports and re-exports.
    pub(super) defines_items: bool,
}

impl Source {
    /// Reads a file. Its path below the root names its module.
    pub(super) fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        Self::parse(path, module_of(root, path), text)
    }

    /// Parses a text as a file of a module.
    pub(super) fn parse(path: &Path, module: ModulePath, text: String) -> Self {
        let file = syn::parse_file(&text).unwrap();
        let mut found = Finder::new(module.clone());
        found.visit_file(&file);
        found.resolve_relative();
        let is_import = |module: &ItemMod| module.content.is_none() || is_test(&module.attrs);
        let is_item = |item: &Item| {
            !matches!(item, Item::Use(_) | Item::Macro(_))
                && !matches!(item, Item::Mod(module) if is_import(module))
        };
        Self {
            path: path.to_owned(),
            module,
            defines_items: file.items.iter().any(is_item),
            named: found.named,
            functions: found.functions,
            private_types: found.private_types,
            exhaustive_types: found.exhaustive_types,
            public_types: file.items.iter().flat_map(public_types).collect(),
            exports: found.exports,
            text,
        }
    }

    /// Returns the number of lines before the tests.
    pub(super) fn lines_without_tests(&self) -> usize {
        self.text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count()
    }

    /// Returns whether the file is the `mod.rs` of its folder.
    pub(super) fn is_door(&self) -> bool {
        self.path.ends_with("mod.rs") || self.path.ends_with("lib.rs")
    }
}

/// Returns the Rust files below a folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
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

/// Returns the module of a file: its path below the root, without `mod` and `lib`.
fn module_of(root: &Path, path: &Path) -> ModulePath {
    let below = path.strip_prefix(root).unwrap().with_extension("");
    let names = below.iter().map(|name| name.to_str().unwrap().to_owned());
    names
        .filter(|name| name != "mod" && name != "lib")
        .collect()
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let tokens = match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
            _ => return false,
        };
        tokens == "test"
    })
}

struct Finder {
    /// The module of the code that is visited.
    here: ModulePath,
    /// The number of inline modules around it.
    depth: usize,
    named: BTreeSet<ModulePath>,
    functions: Vec<(String, usize)>,
    private_types: Vec<String>,
    exhaustive_types: Vec<String>,
    exports: BTreeMap<String, ModulePath>,
    /// The paths that begin with a name in scope.
    relative: Vec<ModulePath>,
}

impl Finder {
    fn new(here: ModulePath) -> Self {
        Self {
            here,
            depth: 0,
            named: BTreeSet::new(),
            functions: Vec::new(),
            private_types: Vec::new(),
            exhaustive_types: Vec::new(),
            exports: BTreeMap::new(),
            relative: Vec::new(),
        }
    }

    /// Returns a path from the crate root, if the segments name one.
    fn resolve(&self, segments: &[String]) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.here[..], rest].concat()),
            "super" => {
                let ups = segments.iter().take_while(|name| *name == "super").count();
                let kept = self.here.len().checked_sub(ups)?;
                Some([&self.here[..kept], &segments[ups..]].concat())
            }
            _ => None,
        }
    }

    fn add(&mut self, segments: &[String]) {
        match self.resolve(segments) {
            Some(path) => drop(self.named.insert(path)),
            None => self.relative.push(segments.to_vec()),
        }
    }

    /// Adds the paths that begin with an imported name: `b::C` after `use super::b`.
    fn resolve_relative(&mut self) {
        for segments in std::mem::take(&mut self.relative) {
            let start = self.exports.get(&segments[0]);
            let path = start.map(|start| [&start[..], &segments[1..]].concat());
            self.named.extend(path);
        }
    }

    /// Visits an item that a macro defines.
    fn visit_owned(&mut self, item: &Item) {
        visit::visit_item(self, item);
    }

    fn note_function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let lines = block.span().end().line - block.span().start().line + 1;
        self.functions.push((name.to_string(), lines));
    }

    fn note_type(&mut self, name: &syn::Ident, visibility: &Visibility) {
        if !is_public(visibility) {
            self.private_types.push(name.to_string());
        }
    }

    fn note_exhaustive(&mut self, name: &syn::Ident, visibility: &Visibility, attrs: &[Attribute]) {
        let is_marked = |attribute: &Attribute| attribute.path().is_ident("non_exhaustive");
        if is_public(visibility) && !attrs.iter().any(is_marked) {
            self.exhaustive_types.push(name.to_string());
        }
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Returns the names of the public types that an item defines or re-exports. A name in capitals is
/// a constant, and one in lower case is a function.
fn public_types(item: &Item) -> Vec<String> {
    let (visibility, names) = match item {
        Item::Enum(item) => (&item.vis, vec![item.ident.to_string()]),
        Item::Struct(item) => (&item.vis, vec![item.ident.to_string()]),
        Item::Trait(item) => (&item.vis, vec![item.ident.to_string()]),
        Item::Type(item) => (&item.vis, vec![item.ident.to_string()]),
        Item::Use(item) => {
            let names = leaves(&item.tree, &[]).into_iter().map(|(_, name)| name);
            (&item.vis, names.collect())
        }
        _ => return Vec::new(),
    };
    let is_type = |name: &String| {
        name == "*" || name.starts_with(char::is_uppercase) && name.contains(char::is_lowercase)
    };
    match is_public(visibility) {
        true => names.into_iter().filter(is_type).collect(),
        false => Vec::new(),
    }
}

/// Returns the leaves of a tree of imports: the path, and the name that it gets.
fn leaves(tree: &UseTree, before: &[String]) -> Vec<(Vec<String>, String)> {
    match tree {
        UseTree::Path(path) => {
            let before = [before, &[path.ident.to_string()]].concat();
            leaves(&path.tree, &before)
        }
        UseTree::Name(name) if name.ident == "self" => {
            vec![(before.to_vec(), before.last().cloned().unwrap_or_default())]
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            vec![([before, std::slice::from_ref(&name)].concat(), name)]
        }
        UseTree::Rename(rename) => {
            let path = [before, &[rename.ident.to_string()]].concat();
            vec![(path, rename.rename.to_string())]
        }
        UseTree::Glob(_) => vec![([before, &["*".to_owned()]].concat(), "*".to_owned())],
        UseTree::Group(group) => {
            let members = group.items.iter();
            members.flat_map(|tree| leaves(tree, before)).collect()
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        self.here.push(item.ident.to_string());
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
        self.here.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if is_test(&item.attrs) {
            return;
        }
        for (segments, name) in leaves(&item.tree, &[]) {
            if self.depth == 0 {
                let path = self.resolve(&segments);
                self.exports.extend(path.map(|path| (name, path)));
            }
            self.add(&segments);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|part| part.ident.to_string());
        self.add(&segments.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if item.mac.path.is_ident("pin_project") {
            let inside: syn::File = item.mac.parse_body().unwrap();
            inside
                .items
                .iter()
                .for_each(|item| Finder::visit_owned(self, item));
        }
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note_function(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note_function(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.note_type(&item.ident, &item.vis);
        let has_public_fields_alone = match &item.fields {
            Fields::Unit => true,
            fields => !fields.is_empty() && fields.iter().all(|field| is_public(&field.vis)),
        };
        if has_public_fields_alone {
            self.note_exhaustive(&item.ident, &item.vis, &item.attrs);
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.note_type(&item.ident, &item.vis);
        self.note_exhaustive(&item.ident, &item.vis, &item.attrs);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.note_type(&item.ident, &item.vis);
        visit::visit_item_trait(self, item);
    }
}
