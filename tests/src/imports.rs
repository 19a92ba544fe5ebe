//! Finds circles among the modules of a crate: modules that import each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A path of module names; the root of the crate is empty.
type ModulePath = Vec<String>;

/// Circles of imports below `src`. Every file and folder is a node among its siblings, named by its path (`kinds/role`).
/// Each circle is a sorted list of the nodes that reach each other.
///
/// A path that begins with `crate`, `self` or `super` is an edge, in a `use` and elsewhere; re-exports are followed to the module
/// that defines the name. Tests do not count: `#[cfg(test)]` items, `tests.rs` and folders named `tests`. Neither do the
/// imports of `lib.rs`, `main.rs` and of a folder's `mod.rs` from their own modules.
///
/// # Panics
///
/// A file below `src` cannot be read.
pub fn circles(src: &Path) -> Vec<Vec<String>> {
    let mut modules = BTreeMap::new();
    read_folder(src, &mut Vec::new(), &mut modules);
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, content) in &modules {
        for path in &content.paths {
            let target = resolve(path, &modules);
            let shared = module.iter().zip(&target).take_while(|(own, other)| own == other).count();
            if shared < module.len() && shared < target.len() {
                edges.entry(module[..=shared].join("/")).or_default().insert(target[..=shared].join("/"));
            }
        }
    }
    strongly_connected(&edges)
}

/// What one module says.
#[derive(Default)]
struct Module {
    /// Absolute paths that occur in it.
    paths: BTreeSet<ModulePath>,
    /// Names that its `use` declarations bring into scope, with their absolute paths.
    names: BTreeMap<String, ModulePath>,
}

fn read_folder(folder: &Path, module: &mut ModulePath, modules: &mut BTreeMap<ModulePath, Module>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a readable folder").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            module.push(name);
            read_folder(&path, module, modules);
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let is_root = matches!(name.as_str(), "lib" | "main" | "mod");
            if !is_root {
                module.push(name);
            }
            let found = modules.entry(module.clone()).or_default();
            Reader { tokens: &tokens(&text), module: module.clone(), found }.read();
            if !is_root {
                module.pop();
            }
        }
    }
}

/// The module that defines what `path` names: re-exports on the way are followed.
fn resolve(path: &[String], modules: &BTreeMap<ModulePath, Module>) -> ModulePath {
    let mut path = path.to_vec();
    // A re-export may lead to another. Eight steps are more than any name needs.
    for _ in 0..8 {
        let length = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length])).unwrap_or(0);
        let Some(target) = path.get(length).and_then(|name| modules.get(&path[..length])?.names.get(name)) else {
            path.truncate(length);
            return path;
        };
        path = target.iter().chain(&path[length + 1..]).cloned().collect();
    }
    path
}

/// Reads the paths in one file.
struct Reader<'a> {
    tokens: &'a [String],
    module: ModulePath,
    found: &'a mut Module,
}

impl Reader<'_> {
    fn read(&mut self) {
        // How many modules the file declares inline around the token, and the depth of braces at which each ends.
        let (file, mut inline, mut depth, mut at) = (self.module.len(), Vec::new(), 0_usize, 0);
        while at < self.tokens.len() {
            match self.tokens[at].as_str() {
                "#" if self.is_test_attribute(at) => {
                    at = self.end_of_item(at);
                    continue;
                }
                "mod" if self.token(at + 2) == "{" => {
                    self.module.push(self.token(at + 1).to_owned());
                    inline.push(depth);
                    at += 1;
                }
                "use" => {
                    at = self.read_use(at + 1, &mut Vec::new(), file);
                    continue;
                }
                "crate" | "self" | "super" if self.token(at + 1) == "::" => {
                    let mut path = vec![self.token(at).to_owned()];
                    while self.token(at + 1) == "::" && is_name(self.token(at + 2)) {
                        path.push(self.token(at + 2).to_owned());
                        at += 2;
                    }
                    self.add(&path);
                }
                "{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    if inline.last() == Some(&depth) {
                        inline.pop();
                        self.module.pop();
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", String::as_str)
    }

    fn is_test_attribute(&self, at: usize) -> bool {
        let mut words = self.tokens[at..].iter().map(String::as_str);
        words.by_ref().take(4).eq(["#", "[", "cfg", "("])
            && words.take_while(|word| *word != "]").any(|word| word == "test")
    }

    /// The position after the item at `at` and its attributes.
    fn end_of_item(&self, mut at: usize) -> usize {
        let mut depth = 0_usize;
        while at < self.tokens.len() {
            match self.token(at) {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 && self.token(at) == "}" {
                        return at + 1;
                    }
                }
                ";" if depth == 0 => return at + 1,
                _ => {}
            }
            at += 1;
        }
        at
    }

    /// Reads one tree of a `use` declaration after `prefix`; returns the position after it.
    fn read_use(&mut self, mut at: usize, prefix: &mut Vec<String>, file: usize) -> usize {
        let length = prefix.len();
        loop {
            match self.token(at) {
                "{" => {
                    at += 1;
                    while !matches!(self.token(at), "}" | "") {
                        at = self.read_use(at, prefix, file);
                        if self.token(at) == "," {
                            at += 1;
                        }
                    }
                    at += 1;
                    break;
                }
                "::" => at += 1,
                "*" => {
                    self.add(prefix);
                    at += 1;
                    break;
                }
                name if is_name(name) => {
                    prefix.push(name.to_owned());
                    at += 1;
                    if self.token(at) != "::" {
                        let alias = (self.token(at) == "as").then(|| self.token(at + 1).to_owned());
                        at += if alias.is_some() { 2 } else { 0 };
                        if prefix.last().is_some_and(|last| last == "self") {
                            prefix.pop();
                        }
                        let target = self.add(prefix);
                        let name = alias.or_else(|| prefix.last().cloned());
                        if let (Some(name), true) = (name, self.module.len() == file) {
                            self.found.names.insert(name, target);
                        }
                        break;
                    }
                }
                _ => {
                    at += 1;
                    break;
                }
            }
        }
        prefix.truncate(length);
        at
    }

    /// Makes a path absolute and keeps it.
    fn add(&mut self, path: &[String]) -> ModulePath {
        let from_root = path.first().is_some_and(|first| first == "crate");
        let mut absolute = if from_root { Vec::new() } else { self.module.clone() };
        for name in path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                name => absolute.push(name.to_owned()),
            }
        }
        self.found.paths.insert(absolute.clone());
        absolute
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::` and signs of Rust source; without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&first) = text.get(at) {
        let next = text.get(at + 1).copied();
        match (first, next) {
            ('/', Some('/')) => at = find(&text, at, "\n"),
            ('/', Some('*')) => at = find(&text, at, "*/"),
            ('"', _) => at = end_of_string(&text, at),
            ('r', Some('"' | '#')) => {
                let hashes = text[at + 1..].iter().take_while(|sign| **sign == '#').count();
                if text.get(at + 1 + hashes) == Some(&'"') {
                    at = find(&text, at + 2 + hashes, &format!("\"{}", "#".repeat(hashes)));
                } else {
                    at += 1;
                }
            }
            ('\'', Some('\\')) => at = find(&text, at + 3, "'"),
            ('\'', _) => at += if text.get(at + 2) == Some(&'\'') { 3 } else { 1 },
            (':', Some(':')) => {
                tokens.push("::".to_owned());
                at += 2;
            }
            (first, _) if first.is_alphanumeric() || first == '_' => {
                let end = text[at..].iter().position(|sign| !(sign.is_alphanumeric() || *sign == '_'));
                let end = end.map_or(text.len(), |length| at + length);
                tokens.push(text[at..end].iter().collect());
                at = end;
            }
            (first, _) => {
                if !first.is_whitespace() {
                    tokens.push(first.to_string());
                }
                at += 1;
            }
        }
    }
    tokens
}

/// The position after the next `end`.
fn find(text: &[char], from: usize, end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    let rest = text.get(from..).unwrap_or_default();
    let found = rest.windows(end.len()).position(|window| window == end);
    found.map_or(text.len(), |offset| from + offset + end.len())
}

fn end_of_string(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Groups of nodes that reach each other.
fn strongly_connected(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reachable: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|node| (node.as_str(), reachable(node, edges))).collect();
    let reaches = |from: &str, to: &str| reachable.get(from).is_some_and(|found| found.contains(to));
    let mut circles = BTreeSet::new();
    for (node, found) in &reachable {
        let circle: Vec<String> =
            found.iter().filter(|other| reaches(other, node)).map(|other| (*other).to_owned()).collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reachable<'a>(node: &str, edges: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![node];
    while let Some(next) = open.pop() {
        for target in edges.get(next).into_iter().flatten() {
            if found.insert(target.as_str()) {
                open.push(target);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a writable folder");
            fs::write(path, text).expect("a writable folder");
        }
        circles(folder.path())
    }

    #[test]
    fn a_circle_of_two_modules_is_found() {
        let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")];
        assert_eq!(circles_of(&files), [["a", "b"]]);
    }

    #[test]
    fn a_circle_of_three_modules_is_one_circle() {
        let files =
            [("a.rs", "use crate::b;"), ("b.rs", "use super::c::{self, C};"), ("c.rs", "fn f() { crate::a::f() }")];
        assert_eq!(circles_of(&files), [["a", "b", "c"]]);
    }

    #[test]
    fn a_line_of_modules_has_no_circle() {
        let files = [
            ("lib.rs", "pub use a::A;"),
            ("a.rs", "use crate::b::B; use crate::c;"),
            ("b.rs", "use super::c::C;"),
            ("c.rs", ""),
        ];
        assert_eq!(circles_of(&files), [[""; 0]; 0]);
    }

    #[test]
    fn a_circle_inside_a_folder_is_found() {
        let files = [
            ("a/mod.rs", "mod x; mod y; pub use x::X; use crate::b;"),
            ("a/x.rs", "use super::y::Y;"),
            ("a/y.rs", "use crate::a::x::X;"),
            ("b.rs", ""),
        ];
        assert_eq!(circles_of(&files), [["a/x", "a/y"]]);
    }

    #[test]
    fn a_folder_counts_as_one_module_among_its_siblings() {
        let files = [("a/mod.rs", ""), ("a/deep/x.rs", "use crate::b::B;"), ("b.rs", "use crate::a::deep::x::f;")];
        assert_eq!(circles_of(&files), [["a", "b"]]);
    }

    #[test]
    fn grouped_imports_are_understood() {
        let files = [
            ("a.rs", "use crate::{b, d::{D, e::*}};"),
            ("b.rs", "use crate::{c::C as Other, d};"),
            ("c.rs", "use super::{a::A};"),
            ("d.rs", ""),
        ];
        assert_eq!(circles_of(&files), [["a", "b", "c"]]);
    }

    #[test]
    fn a_re_exported_name_leads_to_its_module() {
        let files = [
            ("a/mod.rs", "mod x; mod y; pub use x::X; pub use y::{self as why, Y as Z};"),
            ("a/x.rs", "use super::Z;"),
            ("a/y.rs", "use crate::a::X;"),
        ];
        assert_eq!(circles_of(&files), [["a/x", "a/y"]]);
    }

    #[test]
    fn tests_comments_and_strings_do_not_count() {
        let files = [
            ("a.rs", "use crate::b::B;"),
            (
                "b.rs",
                "// use crate::a::A;\n/* crate::a */ const S: &str = \"crate::a \\\" crate::a\"; const R: &str = r#\"crate::a\"#;\n\
                 #[cfg(test)]\nmod tests { use crate::a::A; fn f() { if true {} } }\n#[cfg(all(test, unix))]\nuse crate::a;\nfn g<'a>() { 'x'; }",
            ),
            ("b/tests.rs", "use crate::a::A;"),
            ("tests/b.rs", "use crate::a::A;"),
        ];
        assert_eq!(circles_of(&files), [[""; 0]; 0]);
    }

    #[test]
    fn paths_in_an_inline_module_begin_there() {
        let files = [("a.rs", "mod inner { use super::super::b::B; } use self::inner::f;"), ("b.rs", "use crate::a;")];
        assert_eq!(circles_of(&files), [["a", "b"]]);
    }
}
