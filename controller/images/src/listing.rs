//! What git lists of a commit, checked: only plain files and links that stay inside, within limits. Pure.

use std::collections::BTreeMap;

use super::{BuildError, Limits, layer::Node};

/// Linux's `NAME_MAX` and `PATH_MAX`, in bytes: an image with more does not unpack.
const LONGEST_NAME: usize = 255;
const LONGEST_TARGET: u64 = 4095;
/// Links on the way to one file, as Linux counts them.
const MOST_LINKS: usize = 40;
/// Names on the way to one file; a path of that many is longer than `PATH_MAX`.
const MOST_STEPS: usize = 2048;

/// Parses `ls-tree -r -z -l`: `mode SP type SP object SP+ size TAB path NUL`. A link holds its object until it is read.
pub(super) fn parse_listing(listing: &[u8], limits: Limits) -> Result<BTreeMap<String, Node<String>>, BuildError> {
    let terminal = |text: String| Err(BuildError::Terminal(text));
    let mut nodes = BTreeMap::new();
    let mut bytes = 0;
    for record in listing.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let Ok(record) = std::str::from_utf8(record) else {
            return terminal(format!("the path {:?} is not UTF-8", String::from_utf8_lossy(record)));
        };
        let Some((meta, path)) = record.split_once('\t') else {
            return Err(BuildError::Transient(format!("git listed {record:?}")));
        };
        let fields: Vec<&str> = meta.split_ascii_whitespace().collect();
        let [mode, _, object, size] = fields[..] else {
            return Err(BuildError::Transient(format!("git listed {record:?}")));
        };
        check_path(path, limits)?;
        if mode == "160000" {
            return terminal(format!(
                "{path} is a git submodule, and submodules are not fetched: add its files to the repository"
            ));
        }
        let size: u64 = size.parse().map_err(|_| BuildError::Transient(format!("git listed {record:?}")))?;
        bytes += size;
        let node = if mode != "120000" {
            Node::File { content: object.to_owned(), size, executable: mode == "100755" }
        } else if size <= LONGEST_TARGET {
            Node::Link(object.to_owned())
        } else {
            return terminal(format!("symbolic link {path} has a target of {size} bytes"));
        };
        nodes.insert(path.to_owned(), node);
        if nodes.len() > limits.files {
            return terminal(format!("the commit has more than {} files; name a `subdirectory`", limits.files));
        }
        if bytes > limits.bytes {
            return terminal(format!(
                "the commit's files have more than {} bytes; name a `subdirectory`",
                limits.bytes
            ));
        }
    }
    Ok(nodes)
}

fn check_path(path: &str, limits: Limits) -> Result<(), BuildError> {
    if path.len() > limits.path {
        return Err(BuildError::Terminal(format!(
            "a path has {} bytes, {} at most: {}…",
            path.len(),
            limits.path,
            prefix(path)
        )));
    }
    if path.starts_with('/') || path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(BuildError::Terminal(format!("the path {path:?} leaves the repository")));
    }
    if path.contains(char::is_control) {
        return Err(BuildError::Terminal(format!("the path {path:?} has control characters")));
    }
    if let Some(name) = path.split('/').find(|name| name.len() > LONGEST_NAME) {
        return Err(BuildError::Terminal(format!(
            "a name has {} bytes, {LONGEST_NAME} at most: {}…",
            name.len(),
            prefix(path)
        )));
    }
    if path.split('/').any(|part| part.starts_with(".wh.")) {
        return Err(BuildError::Terminal(format!(
            "{path}: names that begin with .wh. delete files in an image and are refused"
        )));
    }
    Ok(())
}

fn prefix(path: &str) -> String {
    path.chars().take(80).collect()
}

/// Where a path ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At this path, which need not exist.
    At(String),
    /// In a circle.
    Nowhere,
    Outside,
}

/// Whether the link at `path` ends inside the root, and so does every link on its way: two links that stay inside by
/// their texts can leave together. A circle ends nowhere.
pub(super) fn stays_inside(path: &str, nodes: &BTreeMap<String, Node<String>>) -> bool {
    end_of(path, nodes) != End::Outside
}

/// Follows every link on the way of a path.
pub(super) fn end_of<'a>(path: &'a str, nodes: &'a BTreeMap<String, Node<String>>) -> End {
    let mut place: Vec<&str> = Vec::new();
    let mut ahead: Vec<&str> = path.split('/').rev().collect();
    let mut links = 0;
    for _ in 0..MOST_STEPS {
        match ahead.pop() {
            None => return End::At(place.join("/")),
            Some("" | ".") => {}
            Some("..") => {
                if place.pop().is_none() {
                    return End::Outside;
                }
            }
            Some(name) => {
                place.push(name);
                if let Some(Node::Link(target)) = nodes.get(&place.join("/")) {
                    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
                        return End::Outside;
                    }
                    links += 1;
                    if links > MOST_LINKS {
                        return End::Nowhere;
                    }
                    place.pop();
                    ahead.extend(target.split('/').rev());
                }
            }
        }
    }
    End::Outside
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { files: 2, bytes: 100, path: 20, packages: 0, caches: 0 };

    fn refusal(listing: &str) -> String {
        match parse_listing(listing.as_bytes(), LIMITS) {
            Err(BuildError::Terminal(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn blob(path: &str) -> String {
        format!("100644 blob 1111111111111111111111111111111111111111      10\t{path}\0")
    }

    #[test]
    fn listings_give_files_and_links() {
        let listing = format!("{}120000 blob 22 5\tb\0", blob("a b/c.py").replace("100644", "100755"));
        let nodes = parse_listing(listing.as_bytes(), LIMITS).unwrap();
        let file = Node::File { content: "1".repeat(40), size: 10, executable: true };
        assert_eq!(
            nodes,
            BTreeMap::from([("a b/c.py".to_owned(), file), ("b".to_owned(), Node::Link("22".to_owned()))])
        );
    }

    #[test]
    fn what_does_not_belong_into_an_image_is_refused() {
        assert!(refusal("160000 commit 11 -\tvendor/lib\0").starts_with("vendor/lib is a git submodule"));
        assert!(refusal(&blob("x/.wh.bin")).contains(".wh."));
        assert!(refusal(&blob("../x")).contains("leaves"));
        assert!(refusal(&blob("/etc/x")).contains("leaves"));
        assert!(refusal(&blob(&"p".repeat(21))).starts_with("a path has 21 bytes"));
        assert!(refusal(&blob("a\nb")).contains("control characters"));
        assert!(refusal("120000 blob 22 4096\tb\0").contains("4096 bytes"));
        assert!(refusal(&(blob("a") + &blob("b") + &blob("c"))).contains("more than 2 files"));
        assert!(refusal(&blob("a").replace("      10\t", " 101\t")).contains("more than 100 bytes"));
    }

    #[test]
    fn links_are_judged_by_where_they_end() {
        let inside = |links: &[(&str, &str)]| {
            let nodes: BTreeMap<String, Node<String>> =
                links.iter().map(|(path, target)| ((*path).to_owned(), Node::Link((*target).to_owned()))).collect();
            links.iter().all(|(path, _)| stays_inside(path, &nodes))
        };
        let nodes = BTreeMap::from(
            [("a", "b"), ("folder", "deep/er"), ("circle", "circle"), ("out", "..")]
                .map(|(path, target)| (path.to_owned(), Node::Link(target.to_owned()))),
        );
        for (path, end) in [("a", "b"), ("folder/../x", "deep/x"), ("./plain//x", "plain/x")] {
            assert_eq!(end_of(path, &nodes), End::At(end.to_owned()), "{path}");
        }
        assert_eq!((end_of("circle", &nodes), end_of("out", &nodes)), (End::Nowhere, End::Outside));
        assert!(inside(&[("a/b", "../c")]));
        assert!(inside(&[("a", "b/../c")]));
        assert!(inside(&[("a/root", ".."), ("b", "a/root/c")]));
        assert!(inside(&[("a", "b"), ("b", "a/c")]));
        assert!(!inside(&[("a", "../c")]));
        assert!(!inside(&[("a/b", "../../c/a")]));
        assert!(!inside(&[("a", "/etc/passwd")]));
        assert!(!inside(&[("a", "")]));
        // To the root by one link, and out of it by the next.
        assert!(!inside(&[("a/root", ".."), ("a/out", "root/../etc")]));
        assert!(!inside(&[("a", &"b/".repeat(MOST_STEPS))]));
    }
}
