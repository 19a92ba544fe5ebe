//! Parses and checks git's listing of a commit. Pure.
//!
//! Guarantees: the result has only regular files and symbolic links, within the limits, and with paths inside the root.

use std::collections::BTreeMap;

use crate::error::BuildError;
use crate::layer::Node;
use crate::settings::Limits;

/// Linux's `NAME_MAX` and `PATH_MAX`, in bytes. An image with longer names cannot be unpacked.
const MAX_NAME: usize = 255;
const MAX_LINK_TARGET: u64 = 4095;
/// Links that Linux follows for one path.
const MAX_LINKS: usize = 40;
/// Names in one path with all links resolved. A path with more names is longer than `PATH_MAX`.
const MAX_STEPS: usize = 2048;

/// The files of a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub nodes: BTreeMap<String, Node<String>>,
    /// The paths of submodules.
    pub submodules: Vec<String>,
}

/// Parses `ls-tree -r -z -l`: `mode SP type SP object SP+ size TAB path NUL`. A link contains its object name until its
/// target is read. Submodules are left out; the result names them.
pub(super) fn parse_listing(listing: &[u8], limits: Limits) -> Result<Listing, BuildError> {
    let terminal = |text: String| Err(BuildError::terminal(text));
    let malformed = |record: &str| BuildError::transient(format!("git ls-tree printed a malformed record: {record:?}"));
    let (mut nodes, mut submodules) = (BTreeMap::new(), Vec::new());
    let mut bytes = 0;
    for record in listing.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let Ok(record) = std::str::from_utf8(record) else {
            return terminal(format!(
                "the path {:?} in the commit is not UTF-8; rename the file",
                String::from_utf8_lossy(record)
            ));
        };
        let Some((meta, path)) = record.split_once('\t') else {
            return Err(malformed(record));
        };
        let fields: Vec<&str> = meta.split_ascii_whitespace().collect();
        let [mode, _, object, size] = fields[..] else {
            return Err(malformed(record));
        };
        check_path(path, limits)?;
        if mode == "160000" {
            submodules.push(path.to_owned());
            continue;
        }
        let size: u64 = size.parse().map_err(|_| malformed(record))?;
        bytes += size;
        let node = if mode != "120000" {
            Node::File { content: object.to_owned(), size, executable: mode == "100755" }
        } else if size <= MAX_LINK_TARGET {
            Node::Link(object.to_owned())
        } else {
            return terminal(format!(
                "symbolic link {path} has a target of {size} bytes; the maximum is {MAX_LINK_TARGET}"
            ));
        };
        nodes.insert(path.to_owned(), node);
        if nodes.len() > limits.files {
            return terminal(format!(
                "the commit has more than {} files; set `subdirectory` in the config",
                limits.files
            ));
        }
        if bytes > limits.bytes {
            return terminal(format!(
                "the files of the commit have more than {} bytes in total; set `subdirectory` in the config",
                limits.bytes
            ));
        }
    }
    Ok(Listing { nodes, submodules })
}

fn check_path(path: &str, limits: Limits) -> Result<(), BuildError> {
    if path.len() > limits.path {
        return Err(BuildError::terminal(format!(
            "a path in the commit has {} bytes; the maximum is {}: {}…",
            path.len(),
            limits.path,
            prefix(path)
        )));
    }
    if path.starts_with('/') || path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(BuildError::terminal(format!("the path {path:?} in the commit is outside the repository")));
    }
    if path.contains(char::is_control) {
        return Err(BuildError::terminal(format!(
            "the path {path:?} in the commit contains control characters; rename the file"
        )));
    }
    if let Some(name) = path.split('/').find(|name| name.len() > MAX_NAME) {
        return Err(BuildError::terminal(format!(
            "a file name in the commit has {} bytes; the maximum is {MAX_NAME}: {}…",
            name.len(),
            prefix(path)
        )));
    }
    if path.split('/').any(|part| part.starts_with(".wh.")) {
        return Err(BuildError::terminal(format!(
            "{path}: names that start with .wh. delete files of an image, so codeloc refuses them; rename the file"
        )));
    }
    Ok(())
}

fn prefix(path: &str) -> String {
    path.chars().take(80).collect()
}

/// The path after all links are resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Inside the root. The path need not exist.
    Inside(String),
    /// The links form a circle.
    Circle,
    Outside,
}

/// Whether the link at `path` and every link that it leads through stay inside the root. Two links that each stay inside
/// can lead outside together. A circle leads to no file and is allowed.
pub(super) fn stays_inside(path: &str, nodes: &BTreeMap<String, Node<String>>) -> bool {
    destination(path, nodes) != Destination::Outside
}

/// Resolves every link in a path.
pub(super) fn destination<'a>(path: &'a str, nodes: &'a BTreeMap<String, Node<String>>) -> Destination {
    let mut resolved: Vec<&str> = Vec::new();
    let mut remaining: Vec<&str> = path.split('/').rev().collect();
    let mut links = 0;
    for _ in 0..MAX_STEPS {
        match remaining.pop() {
            None => return Destination::Inside(resolved.join("/")),
            Some("" | ".") => {}
            Some("..") => {
                if resolved.pop().is_none() {
                    return Destination::Outside;
                }
            }
            Some(name) => {
                resolved.push(name);
                if let Some(Node::Link(target)) = nodes.get(&resolved.join("/")) {
                    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
                        return Destination::Outside;
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Destination::Circle;
                    }
                    resolved.pop();
                    remaining.extend(target.split('/').rev());
                }
            }
        }
    }
    Destination::Outside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;

    const LIMITS: Limits = Limits { files: 2, bytes: 100, path: 20, packages: 0, caches: 0 };

    fn refusal(listing: &str) -> String {
        expect_terminal(parse_listing(listing.as_bytes(), LIMITS))
    }

    fn blob(path: &str) -> String {
        format!("100644 blob 1111111111111111111111111111111111111111      10\t{path}\0")
    }

    #[test]
    fn listings_give_files_and_links() {
        let listing = format!("{}120000 blob 22 5\tb\0", blob("a b/c.py").replace("100644", "100755"));
        let Listing { nodes, submodules } =
            parse_listing((listing + "160000 commit 11 -\tvendor/lib\0").as_bytes(), LIMITS).unwrap();
        assert_eq!(submodules, ["vendor/lib"]);
        let file = Node::File { content: "1".repeat(40), size: 10, executable: true };
        assert_eq!(
            nodes,
            BTreeMap::from([("a b/c.py".to_owned(), file), ("b".to_owned(), Node::Link("22".to_owned()))])
        );
    }

    #[test]
    fn entries_that_an_image_cannot_contain_are_refused() {
        assert!(refusal(&blob("x/.wh.bin")).contains(".wh."));
        assert!(refusal(&blob("../x")).contains("outside"));
        assert!(refusal(&blob("/etc/x")).contains("outside"));
        assert!(refusal(&blob(&"p".repeat(21))).starts_with("a path in the commit has 21 bytes"));
        assert!(refusal(&blob("a\nb")).contains("control characters"));
        assert!(refusal("120000 blob 22 4096\tb\0").contains("4096 bytes"));
        assert!(refusal(&(blob("a") + &blob("b") + &blob("c"))).contains("more than 2 files"));
        assert!(refusal(&blob("a").replace("      10\t", " 101\t")).contains("more than 100 bytes"));
    }

    #[test]
    fn links_are_checked_by_their_destination() {
        let inside = |links: &[(&str, &str)]| {
            let nodes: BTreeMap<String, Node<String>> =
                links.iter().map(|(path, target)| ((*path).to_owned(), Node::Link((*target).to_owned()))).collect();
            links.iter().all(|(path, _)| stays_inside(path, &nodes))
        };
        let nodes = BTreeMap::from(
            [("a", "b"), ("folder", "deep/er"), ("circle", "circle"), ("out", "..")]
                .map(|(path, target)| (path.to_owned(), Node::Link(target.to_owned()))),
        );
        for (path, expected) in [("a", "b"), ("folder/../x", "deep/x"), ("./plain//x", "plain/x")] {
            assert_eq!(destination(path, &nodes), Destination::Inside(expected.to_owned()), "{path}");
        }
        assert_eq!(destination("circle", &nodes), Destination::Circle);
        assert_eq!(destination("out", &nodes), Destination::Outside);
        assert!(inside(&[("a/b", "../c")]));
        assert!(inside(&[("a", "b/../c")]));
        assert!(inside(&[("a/root", ".."), ("b", "a/root/c")]));
        assert!(inside(&[("a", "b"), ("b", "a/c")]));
        assert!(!inside(&[("a", "../c")]));
        assert!(!inside(&[("a/b", "../../c/a")]));
        assert!(!inside(&[("a", "/etc/passwd")]));
        assert!(!inside(&[("a", "")]));
        // One link leads to the root, and the next one leads outside.
        assert!(!inside(&[("a/root", ".."), ("a/out", "root/../etc")]));
        assert!(!inside(&[("a", &"b/".repeat(MAX_STEPS))]));
    }
}
