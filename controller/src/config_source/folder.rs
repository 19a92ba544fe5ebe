//! Reads a folder of configs.
//!
//! Guarantees: every folder with a `config.yml` is in the snapshot, as a location or as invalid; codeloc ignores only folders without one
//! and files next to the folders. A bad file affects no other file, even if parsing it panics. If the list of folders is in doubt, the whole
//! reading fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use codeloc_core::desired::Invalid;
use codeloc_crds::{ConfigError, Glimpse, LocationName, Parsed, check_fleet, glimpse, read};

use super::{Snapshot, SourceError, encoding};

const CONFIG: &str = "config.yml";
/// Names of locations that codeloc may delete regardless of their number.
const PRUNE: &str = "prune.txt";
const MISSPELT_CONFIG: &str = "config.yaml";

/// Hundreds of times the size of a typical config.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;

/// Whether to follow symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// The folder belongs to the operator; mounted volumes consist of links.
    Follow,
    /// The folder is a checkout of a repository, whose links could point to any file on this machine.
    Refuse,
}

/// Reads and checks `root/*/config.yml`, each one alone and then together. Blocks on the file system.
pub fn read_folder(root: &Path) -> Result<Snapshot, SourceError> {
    read_with(root, Links::Follow)
}

pub(super) fn read_with(root: &Path, links: Links) -> Result<Snapshot, SourceError> {
    read_each(root, links, read)
}

/// Parses the text of a config. The first argument is the path for errors.
type Reader = fn(&str, &str) -> Result<Parsed, ConfigError>;

struct Outcome {
    read: Result<Box<Parsed>, Invalid>,
    /// What can be read from an invalid config.
    glimpse: Glimpse,
}

fn read_each(root: &Path, links: Links, reader: Reader) -> Result<Snapshot, SourceError> {
    let unreadable =
        |error: io::Error| SourceError::Folder { path: root.display().to_string(), reason: error.to_string() };
    let mut snapshot = Snapshot::default();
    let mut fleet = Vec::new();
    let mut invalid_configs = BTreeMap::new();
    for entry in fs::read_dir(root).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let Some(Outcome { read, glimpse }) = read_config(root, &folder, &name, links, reader) else {
            continue;
        };
        if read.is_err() {
            snapshot.claim_named(&name, &display_path(root, &name, CONFIG), &glimpse);
        }
        match (LocationName::new(&name), read) {
            (Ok(_), Ok(parsed)) => fleet.push(*parsed),
            (Ok(name), Err(invalid)) => {
                invalid_configs.insert(name.clone(), glimpse);
                snapshot.locations.insert(name, Err(invalid));
            }
            (Err(_), Err(invalid)) => snapshot.invalid_dirs.push(invalid),
            // The name in the file equals the folder, so it was checked already.
            (Err(error), Ok(_)) => {
                snapshot.invalid_dirs.push(invalid(root, &name, CONFIG, &error.message, error.hint));
            }
        }
    }
    match read_prune(root) {
        Ok(prune) => snapshot.prune = prune,
        // Nothing is confirmed, so codeloc deletes nothing.
        Err(error) => {
            let message =
                format!("{}: codeloc cannot read this file and ignores it: {error}", display_path_in_root(root, PRUNE));
            let rendered = format!("error: {message}\nhint: write one name on each line, or remove the file\n");
            snapshot.invalid_dirs.push(Invalid { path: PRUNE.to_owned(), message, rendered });
        }
    }
    snapshot.invalid_dirs.sort_by(|left, right| left.path.cmp(&right.path));
    add_fleet(&mut snapshot, root, fleet, &invalid_configs);
    Ok(snapshot)
}

/// Reads one name from each line; `#` starts a comment. A name that no location can have confirms nothing.
fn read_prune(root: &Path) -> io::Result<BTreeSet<LocationName>> {
    let path = root.join(PRUNE);
    if !exists(&path)? {
        return Ok(BTreeSet::new());
    }
    let text = read_text(&path)?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(names.filter_map(|name| LocationName::new(name).ok()).collect())
}

fn add_fleet(
    snapshot: &mut Snapshot,
    root: &Path,
    fleet: Vec<Parsed>,
    invalid_configs: &BTreeMap<LocationName, Glimpse>,
) {
    let mut errors = check_fleet(&fleet, invalid_configs);
    for parsed in fleet {
        let location = Arc::new(parsed.location);
        let name = location.name.clone();
        let (contested, refused) = (errors.contested.remove(&name), errors.refused.remove(&name));
        let outcome = match refused.as_ref().or(contested.as_ref()) {
            Some(error) => Err(contain_panic(root, name.as_str(), || from_config_error(name.as_str(), error))
                .unwrap_or_else(|invalid| invalid)),
            None => Ok(location.clone()),
        };
        if refused.is_none() && contested.is_some() {
            snapshot.contested.insert(name.clone(), location);
        }
        snapshot.locations.insert(name, outcome);
    }
}

/// `None` if the folder has no config or is not a folder.
fn read_config(root: &Path, folder: &Path, name: &str, links: Links, reader: Reader) -> Option<Outcome> {
    let config = folder.join(CONFIG);
    let linked = is_link(folder) || is_link(&config);
    if linked && links == Links::Refuse {
        let hint = "replace the link with the file or folder that it points to";
        let read = Err(invalid(root, name, CONFIG, "the file or its folder is a symbolic link", hint));
        return Some(Outcome { read, glimpse: Glimpse::default() });
    }
    // A broken link is a config that cannot be read, for example a volume that is not mounted.
    if !is_link(folder) || folder.exists() {
        let misspelt = folder.join(MISSPELT_CONFIG);
        match (exists(&config), exists(&misspelt)) {
            (Ok(false), Ok(false)) => return None,
            (Ok(_), Ok(true)) => {
                let message = format!("the file has the name {MISSPELT_CONFIG}");
                let hint = format!("keep one file with the name {CONFIG}");
                let read = Err(invalid(root, name, MISSPELT_CONFIG, &message, &hint));
                return Some(Outcome { read, glimpse: glimpse_bytes(&read_bytes(&misspelt).unwrap_or_default()) });
            }
            _ => {}
        }
    }
    let bytes = read_bytes(&config);
    let read = match &bytes {
        Ok(bytes) => match as_text(bytes) {
            Ok(text) => {
                let path = display_path(root, name, CONFIG);
                let read = || reader(&path, text).map(Box::new).map_err(|error| from_config_error(name, &error));
                contain_panic(root, name, read).unwrap_or_else(Err)
            }
            Err(error) => Err(cannot_be_read(root, name, &error)),
        },
        Err(error) => Err(cannot_be_read(root, name, error)),
    };
    let glimpse = if read.is_err() { glimpse_bytes(&bytes.unwrap_or_default()) } else { Glimpse::default() };
    Some(Outcome { read, glimpse })
}

/// Names in an invalid config.
fn glimpse_bytes(bytes: &[u8]) -> Glimpse {
    catch_unwind(|| glimpse(&String::from_utf8_lossy(bytes))).unwrap_or_default()
}

/// Runs `work` on one file. A panic becomes an error of this file.
fn contain_panic<T>(root: &Path, name: &str, work: impl FnOnce() -> T) -> Result<T, Invalid> {
    // No partial result of `work` is used. The panic hook logs the cause.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let hint = "this is a bug in codeloc; report it with this file, and simplify the file";
        invalid(root, name, CONFIG, "codeloc crashed on this file", hint)
    })
}

fn cannot_be_read(root: &Path, name: &str, error: &io::Error) -> Invalid {
    let hint = format!("make it a readable text file of at most {MAX_CONFIG_BYTES} bytes");
    invalid(root, name, CONFIG, &format!("codeloc cannot read this file: {error}"), &hint)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Whether the path exists, even as a broken link. An error means unknown.
fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read_bytes(path)?;
    as_text(&bytes).map(str::to_owned)
}

/// At most one byte more than the maximum size.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would block until it has a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn as_text(bytes: &[u8]) -> io::Result<&str> {
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(io::Error::other("it is too large"));
    }
    encoding::as_text(bytes).map_err(io::Error::other)
}

/// The path of a file for errors: `repos/NAME/config.yml`.
fn display_path(root: &Path, name: &str, file: &str) -> String {
    display_path_in_root(root, &format!("{name}/{file}"))
}

fn display_path_in_root(root: &Path, path: &str) -> String {
    match root.file_name() {
        Some(root) => format!("{}/{path}", root.to_string_lossy()),
        None => path.to_owned(),
    }
}

fn from_config_error(name: &str, error: &ConfigError) -> Invalid {
    Invalid { path: format!("{name}/{CONFIG}"), message: error.to_string(), rendered: error.render(false) }
}

fn invalid(root: &Path, name: &str, file: &str, message: &str, hint: &str) -> Invalid {
    let message = format!("{}: {message}", display_path(root, name, file));
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
        match &snapshot.locations[&LocationName::new(name).unwrap()] {
            Ok(location) => Ok(location.git_url.clone()),
            Err(invalid) => Err(invalid.message.clone()),
        }
    }

    #[test]
    fn a_missing_root_is_an_error_not_an_empty_snapshot() {
        let root = root();
        let error = read_folder(&root.path().join("repos")).unwrap_err();
        assert!(matches!(error, SourceError::Folder { .. }), "{error}");
    }

    #[test]
    fn an_invalid_config_affects_only_its_location() {
        let root = root();
        write(root.path(), "good", &config("good"));
        write(root.path(), "bad", "name: bad\ngit_url: /x\nmodul: x\n");
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        let message = outcome(&snapshot, "bad").unwrap_err();
        assert!(message.contains("bad/config.yml:3:1: unknown field `modul`"), "{message}");
        assert_eq!(snapshot.locations.len(), 2);
    }

    #[test]
    fn folders_without_a_config_and_dot_folders_are_ignored() {
        let root = root();
        write(root.path(), ".git", &config("x"));
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::write(root.path().join("README.md"), "hello").unwrap();
        assert_eq!(read_folder(root.path()).unwrap(), Snapshot::default());
    }

    #[test]
    fn an_unreadable_config_is_invalid_not_absent() {
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
            ("folder", "it is not a file"),
            ("large", "it is too large"),
            ("binary", "it is not UTF-8 text: see byte 1, in line 1"),
            ("dangling", "No such file"),
            ("misspelt", "config.yaml"),
            ("dangling-folder", "No such file"),
        ] {
            let message = outcome(&snapshot, name).unwrap_err();
            assert!(message.contains(part), "{name}: {message}");
        }
        assert_eq!(snapshot.locations.len(), 6);
    }

    #[test]
    fn links_are_followed_or_refused() {
        let (root, elsewhere) = (root(), root());
        write(elsewhere.path(), "linked", &config("linked"));
        std::os::unix::fs::symlink(elsewhere.path().join("linked"), root.path().join("linked")).unwrap();
        assert!(outcome(&read_folder(root.path()).unwrap(), "linked").is_ok());
        let refused = outcome(&read_with(root.path(), Links::Refuse).unwrap(), "linked");
        assert!(refused.unwrap_err().contains("symbolic link"));
    }

    #[test]
    fn a_folder_with_an_invalid_name_is_reported() {
        let root = root();
        write(root.path(), "My_Pipeline", &config("my-pipeline"));
        write(root.path(), "shared", &config("shared"));
        let snapshot = read_folder(root.path()).unwrap();
        assert!(snapshot.locations.is_empty());
        let paths: Vec<&str> = snapshot.invalid_dirs.iter().map(|invalid| invalid.path.as_str()).collect();
        assert_eq!(paths, ["My_Pipeline/config.yml", "shared/config.yml"]);
    }

    #[test]
    fn overlapping_prefixes_are_errors_of_both_configs() {
        let root = root();
        write(root.path(), "a", &(config("a") + "s3_prefix: data\n"));
        write(root.path(), "b", &(config("b") + "s3_prefix: data/b\n"));
        write(root.path(), "c", &(config("c") + "s3_prefix: data/c\naccess: {write: [repos/gone]}\n"));
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "a").unwrap_err().contains("overlaps `data/b` of `b`"));
        assert!(outcome(&snapshot, "b").unwrap_err().contains("overlaps `data` of `a`"));
        assert!(outcome(&snapshot, "c").unwrap_err().contains("grants `repos/gone`"));
        let contested: Vec<&str> = snapshot.contested.keys().map(LocationName::as_str).collect();
        assert_eq!(contested, ["a", "b"], "a config with another error is not contested");
        assert_eq!(snapshot.in_force().count(), 2);
    }

    #[test]
    fn a_panic_affects_only_its_file() {
        fn reader(path: &str, text: &str) -> Result<Parsed, ConfigError> {
            assert!(!text.contains("boom"), "a panic of a library");
            read(path, text)
        }
        let root = root();
        write(root.path(), "good", &config("good"));
        write(root.path(), "renamed", "name: orders\nboom: [\n");
        let snapshot = read_each(root.path(), Links::Follow, reader).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        let message = outcome(&snapshot, "renamed").unwrap_err();
        assert!(message.contains("renamed/config.yml: codeloc crashed on this file"), "{message}");
        assert!(snapshot.claimed.contains_key("orders"));
    }

    #[test]
    fn hostile_files_are_separate_errors() {
        let root = root();
        write(root.path(), "good", &config("good"));
        write(root.path(), "long", &format!("{}: x\n{}", "k".repeat(70_000), config("long")));
        write(root.path(), "deep", &format!("{}mode: {}", config("deep"), "[".repeat(100_000)));
        let keys: String = (0..15_000).map(|number| format!("unknown{number}: x\n")).collect::<Vec<_>>().concat();
        write(root.path(), "many", &(config("many") + &keys));
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        for name in ["long", "deep", "many"] {
            let message = outcome(&snapshot, name).unwrap_err();
            assert!(message.len() < 2000, "{name}: {}", message.len());
        }
        assert!(snapshot.invalid().all(|invalid| invalid.rendered.len() < 100_000));
    }

    #[test]
    fn an_unreadable_prune_file_confirms_nothing() {
        let root = root();
        write(root.path(), "good", &config("good"));
        fs::write(root.path().join(PRUNE), [0xff, 0xfe]).unwrap();
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        assert_eq!(snapshot.prune, BTreeSet::new());
        assert!(
            snapshot.invalid_dirs[0].message.contains("prune.txt: codeloc cannot read this file"),
            "{:?}",
            snapshot.invalid_dirs
        );
    }

    #[test]
    fn an_invalid_config_claims_the_location_that_it_names() {
        let root = root();
        write(root.path(), "new", &config("renamed"));
        write(root.path(), "Upper", &config("upper"));
        write(root.path(), "torn", "name: whole\ngit_url: [\n");
        write(root.path(), "large", &format!("{}{}", config("small"), "#".repeat(300_000)));
        write(root.path(), "there", &config("there"));
        write(root.path(), "copy", &config("there"));
        fs::create_dir(root.path().join("binary")).unwrap();
        fs::write(root.path().join("binary").join(CONFIG), b"name: textual\n# \xff\n").unwrap();
        fs::create_dir(root.path().join("misspelt")).unwrap();
        fs::write(root.path().join("misspelt").join(MISSPELT_CONFIG), config("spelt")).unwrap();
        let snapshot = read_folder(root.path()).unwrap();
        let claimed: Vec<&str> = snapshot.claimed.keys().map(LocationName::as_str).collect();
        assert_eq!(claimed, ["renamed", "small", "spelt", "textual", "there", "upper", "whole"]);
        let message = &snapshot.claimed["renamed"].message;
        for part in ["new/config.yml has `name: renamed`", "rename the folder new to renamed"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(outcome(&snapshot, "there").is_ok(), "its own config takes precedence");
    }
}
