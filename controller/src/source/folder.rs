//! One reading of a folder of configs.
//!
//! Guarantees: every folder with a `config.yml` is in the snapshot, as a repository or as invalid; only a folder that has
//! none, and files beside folders, are passed over. Any doubt about what the root holds is an error for the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use codeloc_crds::{ConfigError, Parsed, RepositoryName, check_fleet, read};

use super::{Invalid, Snapshot, SourceError};

const CONFIG: &str = "config.yml";
/// Names of locations that may be deleted however many they are at once.
const PRUNE: &str = "prune.txt";
const MISSPELT_CONFIG: &str = "config.yaml";

/// In bytes: hundreds of times what a config needs.
const LARGEST_CONFIG: u64 = 256 * 1024;

/// What a symbolic link is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// The folder is the operator's own: mounted volumes are made of links.
    Follow,
    /// The folder was checked out of a repository, whose links could lead to any file of this machine.
    Refuse,
}

/// Reads `root/*/config.yml`, each on its own and then against each other. Blocks on the file system.
pub fn read_folder(root: &Path) -> Result<Snapshot, SourceError> {
    read_with(root, Links::Follow)
}

pub(super) fn read_with(root: &Path, links: Links) -> Result<Snapshot, SourceError> {
    let unreadable =
        |error: io::Error| SourceError::Folder { path: root.display().to_string(), reason: error.to_string() };
    let mut snapshot = Snapshot::default();
    let mut fleet = Vec::new();
    for entry in fs::read_dir(root).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let Some(outcome) = read_config(root, &folder, &name, links) else {
            continue;
        };
        match (RepositoryName::new(&name), outcome) {
            (Ok(_), Ok(parsed)) => fleet.push(*parsed),
            (Ok(name), Err(invalid)) => {
                snapshot.repositories.insert(name, Err(invalid));
            }
            (Err(_), Err(invalid)) => snapshot.strays.push(invalid),
            // The name in the file equals the folder's, so it was checked already.
            (Err(error), Ok(_)) => {
                snapshot.strays.push(invalid(root, &name, CONFIG, &error.message, error.hint));
            }
        }
    }
    snapshot.prune = read_prune(root).map_err(unreadable)?;
    snapshot.strays.sort_by(|left, right| left.path.cmp(&right.path));
    add_fleet(&mut snapshot, fleet);
    Ok(snapshot)
}

/// One name a line; `#` begins a comment.
fn read_prune(root: &Path) -> io::Result<BTreeSet<String>> {
    let path = root.join(PRUNE);
    if !present(&path)? {
        return Ok(BTreeSet::new());
    }
    let text = read_text(&path)?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn add_fleet(snapshot: &mut Snapshot, fleet: Vec<Parsed>) {
    let mut errors: BTreeMap<RepositoryName, ConfigError> = check_fleet(&fleet);
    for parsed in fleet {
        let name = parsed.repository.name.clone();
        let outcome = match errors.remove(&name) {
            Some(error) => Err(from_config_error(name.as_str(), &error)),
            None => Ok(parsed.repository),
        };
        snapshot.repositories.insert(name, outcome);
    }
}

/// Nothing where the folder has no config, or is no folder.
fn read_config(root: &Path, folder: &Path, name: &str, links: Links) -> Option<Result<Box<Parsed>, Invalid>> {
    let config = folder.join(CONFIG);
    let linked = is_link(folder) || is_link(&config);
    if linked && links == Links::Refuse {
        let hint = "replace the link by what it points to";
        return Some(Err(invalid(root, name, CONFIG, "is reached through a symbolic link", hint)));
    }
    // A link that leads nowhere is a config that cannot be read, as a volume that is not mounted.
    if !is_link(folder) || folder.exists() {
        match (present(&config), present(&folder.join(MISSPELT_CONFIG))) {
            (Ok(false), Ok(false)) => return None,
            (Ok(_), Ok(true)) => {
                let message = format!("the file is called {MISSPELT_CONFIG}");
                let hint = format!("keep one file, {CONFIG}");
                return Some(Err(invalid(root, name, MISSPELT_CONFIG, &message, &hint)));
            }
            _ => {}
        }
    }
    let outcome = match read_text(&config) {
        Ok(text) => {
            read(&shown(root, name, CONFIG), &text).map(Box::new).map_err(|error| from_config_error(name, &error))
        }
        Err(error) => {
            let hint = format!("make it a readable text file of at most {LARGEST_CONFIG} bytes");
            Err(invalid(root, name, CONFIG, &format!("cannot be read: {error}"), &hint))
        }
    };
    Some(outcome)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Whether there is something of this name, be it a dangling link; an error where that cannot be known.
fn present(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_CONFIG + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_CONFIG {
        return Err(io::Error::other("it is too large"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// What errors call the file: `repos/NAME/config.yml`.
fn shown(root: &Path, name: &str, file: &str) -> String {
    match root.file_name() {
        Some(root) => format!("{}/{name}/{file}", root.to_string_lossy()),
        None => format!("{name}/{file}"),
    }
}

fn from_config_error(name: &str, error: &ConfigError) -> Invalid {
    Invalid { path: format!("{name}/{CONFIG}"), message: error.to_string(), rendered: error.render(false) }
}

fn invalid(root: &Path, name: &str, file: &str, message: &str, hint: &str) -> Invalid {
    let message = format!("{}: {message}", shown(root, name, file));
    let rendered = format!("error: {message}\nhint: {hint}\n");
    Invalid { path: format!("{name}/{file}"), message, rendered }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn write(root: &Path, name: &str, text: &str) {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join(CONFIG), text).unwrap();
    }

    fn config(name: &str) -> String {
        format!("name: {name}\ngit_url: https://example.com/x.git\nmodule: x\n")
    }

    fn outcome(snapshot: &Snapshot, name: &str) -> Result<String, String> {
        match &snapshot.repositories[&RepositoryName::new(name).unwrap()] {
            Ok(repository) => Ok(repository.git_url.clone()),
            Err(invalid) => Err(invalid.message.clone()),
        }
    }

    #[test]
    fn a_missing_root_is_an_error_and_not_an_empty_set() {
        let root = root();
        let error = read_folder(&root.path().join("repos")).unwrap_err();
        assert!(matches!(error, SourceError::Folder { .. }), "{error}");
    }

    #[test]
    fn a_config_that_does_not_parse_freezes_only_its_own_repository() {
        let root = root();
        write(root.path(), "good", &config("good"));
        write(root.path(), "bad", "name: bad\ngit_url: /x\nmodul: x\n");
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        let message = outcome(&snapshot, "bad").unwrap_err();
        assert!(message.contains("bad/config.yml:3:1: unknown field `modul`"), "{message}");
        assert_eq!(snapshot.repositories.len(), 2);
    }

    #[test]
    fn folders_without_a_config_and_dot_folders_are_passed_over() {
        let root = root();
        write(root.path(), ".git", &config("x"));
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::write(root.path().join("README.md"), "hello").unwrap();
        assert_eq!(read_folder(root.path()).unwrap(), Snapshot::default());
    }

    #[test]
    fn a_config_that_cannot_be_read_is_invalid_and_not_absent() {
        let root = root();
        fs::create_dir_all(root.path().join("folder").join(CONFIG)).unwrap();
        write(root.path(), "large", &"#".repeat(300_000));
        fs::create_dir(root.path().join("binary")).unwrap();
        fs::write(root.path().join("binary").join(CONFIG), [0xff, 0xfe]).unwrap();
        fs::create_dir(root.path().join("dangling")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("dangling").join(CONFIG)).unwrap();
        fs::create_dir(root.path().join("misspelt")).unwrap();
        fs::write(root.path().join("misspelt").join(MISSPELT_CONFIG), config("misspelt")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("dangling-folder")).unwrap();
        let snapshot = read_folder(root.path()).unwrap();
        for (name, part) in [
            ("folder", "not a file"),
            ("large", "too large"),
            ("binary", "not UTF-8"),
            ("dangling", "No such file"),
            ("misspelt", "config.yaml"),
            ("dangling-folder", "No such file"),
        ] {
            let message = outcome(&snapshot, name).unwrap_err();
            assert!(message.contains(part), "{name}: {message}");
        }
        assert_eq!(snapshot.repositories.len(), 6);
    }

    #[test]
    fn links_are_followed_or_refused_as_told() {
        let (root, elsewhere) = (root(), root());
        write(elsewhere.path(), "linked", &config("linked"));
        std::os::unix::fs::symlink(elsewhere.path().join("linked"), root.path().join("linked")).unwrap();
        assert!(outcome(&read_folder(root.path()).unwrap(), "linked").is_ok());
        let refused = outcome(&read_with(root.path(), Links::Refuse).unwrap(), "linked");
        assert!(refused.unwrap_err().contains("symbolic link"));
    }

    #[test]
    fn a_folder_whose_name_is_no_repository_name_is_a_stray() {
        let root = root();
        write(root.path(), "My_Pipeline", &config("my-pipeline"));
        write(root.path(), "shared", &config("shared"));
        let snapshot = read_folder(root.path()).unwrap();
        assert!(snapshot.repositories.is_empty());
        let paths: Vec<&str> = snapshot.strays.iter().map(|stray| stray.path.as_str()).collect();
        assert_eq!(paths, ["My_Pipeline/config.yml", "shared/config.yml"]);
    }

    #[test]
    fn overlapping_prefixes_freeze_the_later_name_alone() {
        let root = root();
        write(root.path(), "a", &(config("a") + "s3_prefix: data\n"));
        write(root.path(), "b", &(config("b") + "s3_prefix: data/b\n"));
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "a").is_ok());
        assert!(outcome(&snapshot, "b").unwrap_err().contains("overlaps `data` of `a`"));
    }
}
