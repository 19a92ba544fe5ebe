//! Maps paths of an image to paths of this machine.

use std::path::{Component, Path, PathBuf};

/// The folder with the files of codeloc; the base image contains all others.
pub(super) const HOME: &str = "/opt/codeloc";

/// Prefixes every path under `/opt/codeloc` in `text` with `root`: at the start, in a `:`-separated list, after `=`.
pub(super) fn mapped(text: &str, root: &Path) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(HOME) {
        let (before, after) = (&rest[..at], &rest[at + HOME.len()..]);
        result.push_str(before);
        let begins = result.is_empty() || result.ends_with([':', '=']);
        let ends = after.is_empty() || after.starts_with(['/', ':']);
        if begins && ends {
            result.push_str(&root.to_string_lossy());
        }
        result.push_str(HOME);
        rest = after;
    }
    result.push_str(rest);
    result
}

/// `path`, absolute or relative, below `root`; `None` if `..` leaves `root`.
pub(super) fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                if !result.pop() {
                    return None;
                }
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    // Joining an empty path adds a slash.
    Some(if result.as_os_str().is_empty() { root.to_owned() } else { root.join(result) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_image_are_mapped_at_every_position() {
        for (text, expected) in [
            ("/opt/codeloc/code/x.py", "/r/opt/codeloc/code/x.py"),
            ("/opt/codeloc", "/r/opt/codeloc"),
            ("/opt/codeloc/a:/usr/lib:/opt/codeloc/b", "/r/opt/codeloc/a:/usr/lib:/r/opt/codeloc/b"),
            ("--directory=/opt/codeloc/code", "--directory=/r/opt/codeloc/code"),
            ("/opt/codelocal/x", "/opt/codelocal/x"),
            ("/srv/opt/codeloc/x", "/srv/opt/codeloc/x"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(mapped(text, Path::new("/r")), expected);
        }
    }

    #[test]
    fn a_path_stays_below_its_root() {
        let below = |path: &str| super::below(Path::new("/r"), Path::new(path));
        assert_eq!(below("/opt/./x/../y"), Some("/r/opt/y".into()));
        assert_eq!(below("/"), Some("/r".into()));
        assert_eq!(below("a/../../etc"), None);
        assert_eq!(below("/../etc"), None);
    }
}
