//! Single files of a commit, and paths between them.

use crate::error::BuildError;

/// Reads the files of one commit on demand. All paths start at the root of the repository.
pub(crate) trait Files {
    /// The text of a file; `None` if the commit has no such file.
    fn text(&mut self, path: &str) -> Result<Option<String>, BuildError>;
    /// The names in a folder, those of folders with a slash at their end. Empty if the commit has no such folder.
    fn names(&mut self, folder: &str) -> Result<Vec<String>, BuildError>;

    fn exists(&mut self, path: &str) -> Result<bool, BuildError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.names(folder)?.iter().any(|one| one == name))
    }
}

/// The path of `relative` seen from `folder`; `None` if it leads outside the repository.
pub(crate) fn join(folder: &str, relative: &str) -> Option<String> {
    if relative.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The path of `to` seen from `from`, both folders of the repository.
pub(crate) fn relative(from: &str, to: &str) -> String {
    let parts =
        |path: &str| -> Vec<String> { path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect() };
    let (from, to) = (parts(from), parts(to));
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let up = std::iter::repeat_n("..".to_owned(), from.len() - common);
    let path: Vec<String> = up.chain(to[common..].iter().cloned()).collect();
    if path.is_empty() { ".".to_owned() } else { path.join("/") }
}

/// The folder of a file.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A path in a folder, which may be the root.
pub(crate) fn within(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether `path` is `folder` or below it.
pub(crate) fn is_within(folder: &str, path: &str) -> bool {
    below(folder, path).is_some()
}

/// The path seen from `folder`, if it is `folder` itself (then empty) or below it.
pub(crate) fn below<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    match path.strip_prefix(folder)? {
        "" => Some(""),
        rest if folder.is_empty() => Some(rest),
        rest => rest.strip_prefix('/'),
    }
}

/// The folder and all folders above it, up to the root.
pub(crate) fn upwards(folder: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(folder), |folder| (!folder.is_empty()).then(|| parent(folder)))
}

/// The text in a file: UTF-8 or UTF-16, with or without a byte order mark. Editors on Windows write all of these.
pub(crate) fn decode(bytes: &[u8]) -> Option<String> {
    let wide = |order: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| order([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok().filter(|_| bytes.len().is_multiple_of(2))
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => wide(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Files in memory.
    pub(crate) struct Memory(pub BTreeMap<String, String>);

    impl Memory {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
        }
    }

    impl Files for Memory {
        fn text(&mut self, path: &str) -> Result<Option<String>, BuildError> {
            Ok(self.0.get(path).cloned())
        }

        fn names(&mut self, folder: &str) -> Result<Vec<String>, BuildError> {
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            let inside = self.0.keys().filter_map(|path| path.strip_prefix(&prefix));
            let names: BTreeSet<&str> =
                inside.map(|path| path.find('/').map_or(path, |slash| &path[..=slash])).collect();
            Ok(names.into_iter().map(str::to_owned).collect())
        }
    }

    #[test]
    fn paths_never_leave_the_repository() {
        assert_eq!(join("a/b", "../c/./d").as_deref(), Some("a/c/d"));
        assert_eq!(join("", "x").as_deref(), Some("x"));
        assert_eq!(join("a", "..").as_deref(), Some(""));
        assert_eq!(join("a", "../.."), None);
        assert_eq!(join("a", "/etc"), None);
    }

    #[test]
    fn relative_paths_lead_back() {
        for (from, to, expected) in [("a/b", "a/c", "../c"), ("", "x", "x"), ("a", "", ".."), ("a", "a", ".")] {
            assert_eq!(relative(from, to), expected);
            assert_eq!(join(from, expected).as_deref(), Some(to));
        }
        assert_eq!(upwards("a/b").collect::<Vec<_>>(), ["a/b", "a", ""]);
        assert!(is_within("a", "a/b") && is_within("", "a") && !is_within("a", "ab"));
    }

    #[test]
    fn texts_of_windows_are_read() {
        assert_eq!(decode(b"\xef\xbb\xbfa").as_deref(), Some("a"));
        assert_eq!(decode(b"\xff\xfea\0\xe4\0").as_deref(), Some("a\u{e4}"));
        assert_eq!(decode(b"\xfe\xff\0a").as_deref(), Some("a"));
        assert_eq!(decode(b"plain").as_deref(), Some("plain"));
        assert_eq!(decode(b"\xff\xfea"), None);
        assert_eq!(decode(b"\xe4"), None);
    }
}
