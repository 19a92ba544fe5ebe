//! What git lists of a commit, checked: only plain files and links that stay inside, within limits. Pure.

use std::collections::BTreeMap;

use super::{BuildError, Limits, layer::Node};

/// Parses `ls-tree -r -z -l`: `mode SP type SP object SP+ size TAB path NUL`. A link holds its object until it is read.
pub(super) fn parse_listing(
    listing: &[u8],
    limits: Limits,
) -> Result<BTreeMap<String, Node<String>>, BuildError> {
    let terminal = |text: String| Err(BuildError::Terminal(text));
    let mut nodes = BTreeMap::new();
    let mut bytes = 0;
    for record in listing
        .split(|byte| *byte == 0)
        .filter(|record| !record.is_empty())
    {
        let Ok(record) = std::str::from_utf8(record) else {
            return terminal(format!(
                "the path {:?} is not UTF-8",
                String::from_utf8_lossy(record)
            ));
        };
        let Some((meta, path)) = record.split_once('\t') else {
            return Err(BuildError::Transient(format!("git listed {record:?}")));
        };
        let fields: Vec<&str> = meta.split_ascii_whitespace().collect();
        let [mode, _, object, size] = fields[..] else {
            return Err(BuildError::Transient(format!("git listed {record:?}")));
        };
        check_path(path, limits)?;
        let node = match mode {
            "160000" => {
                return terminal(format!(
                    "{path} is a git submodule, and submodules are not fetched: add its files to the repository"
                ));
            }
            "120000" => Node::Link(object.to_owned()),
            _ => {
                let size: u64 = size
                    .parse()
                    .map_err(|_| BuildError::Transient(format!("git listed {record:?}")))?;
                bytes += size;
                Node::File {
                    content: object.to_owned(),
                    size,
                    executable: mode == "100755",
                }
            }
        };
        nodes.insert(path.to_owned(), node);
        if nodes.len() > limits.files {
            return terminal(format!(
                "the commit has more than {} files; name a `subdirectory`",
                limits.files
            ));
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
        return Err(BuildError::Terminal(format!(
            "the path {path:?} leaves the repository"
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

/// Whether a link at `path` ends inside the root, judged by its text alone.
pub(super) fn stays_inside(path: &str, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut depth = path.matches('/').count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        files: 2,
        bytes: 100,
        path: 20,
    };

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
        let listing = format!(
            "{}120000 blob 22 5\tb\0",
            blob("a b/c.py").replace("100644", "100755")
        );
        let nodes = parse_listing(listing.as_bytes(), LIMITS).unwrap();
        let file = Node::File {
            content: "1".repeat(40),
            size: 10,
            executable: true,
        };
        assert_eq!(
            nodes,
            BTreeMap::from([
                ("a b/c.py".to_owned(), file),
                ("b".to_owned(), Node::Link("22".to_owned()))
            ])
        );
    }

    #[test]
    fn what_does_not_belong_into_an_image_is_refused() {
        assert!(
            refusal("160000 commit 11 -\tvendor/lib\0")
                .starts_with("vendor/lib is a git submodule")
        );
        assert!(refusal(&blob("x/.wh.bin")).contains(".wh."));
        assert!(refusal(&blob("../x")).contains("leaves"));
        assert!(refusal(&blob("/etc/x")).contains("leaves"));
        assert!(refusal(&blob(&"p".repeat(21))).starts_with("a path has 21 bytes"));
        assert!(refusal(&(blob("a") + &blob("b") + &blob("c"))).contains("more than 2 files"));
        assert!(
            refusal(&blob("a").replace("      10\t", " 101\t")).contains("more than 100 bytes")
        );
    }

    #[test]
    fn links_are_judged_by_where_they_end() {
        assert!(stays_inside("a/b", "../c"));
        assert!(stays_inside("a", "b/../c"));
        assert!(!stays_inside("a", "../c"));
        assert!(!stays_inside("a/b", "../../c/a"));
        assert!(!stays_inside("a", "/etc/passwd"));
        assert!(!stays_inside("a", ""));
    }
}
