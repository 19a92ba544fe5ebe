//! One reading of a folder of configs.
//!
//! Guarantees: every folder with a `config.yml` is in the snapshot, as a repository or as invalid; only a folder that has
//! none, and files beside folders, are passed over. Whatever one file holds is that file's fault alone, even where reading it
//! panics. Any doubt about what the root holds is an error for the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use codeloc_core::desired::Invalid;
use codeloc_crds::{ConfigError, Glimpse, LocationName, Parsed, check_fleet, glimpse, read};

use super::{Snapshot, SourceError};

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
    read_each(root, links, read)
}

/// Reads one file's text, of which the first argument is the path as errors show it.
type Reader = fn(&str, &str) -> Result<Parsed, ConfigError>;

/// What became of one file.
struct Outcome {
    read: Result<Box<Parsed>, Invalid>,
    /// Where it does not pass.
    glimpse: Glimpse,
}

fn read_each(root: &Path, links: Links, reader: Reader) -> Result<Snapshot, SourceError> {
    let unreadable =
        |error: io::Error| SourceError::Folder { path: root.display().to_string(), reason: error.to_string() };
    let mut snapshot = Snapshot::default();
    let mut fleet = Vec::new();
    let mut broken = BTreeMap::new();
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
            snapshot.keep_named(&name, &shown(root, &name, CONFIG), &glimpse);
        }
        match (LocationName::new(&name), read) {
            (Ok(_), Ok(parsed)) => fleet.push(*parsed),
            (Ok(name), Err(invalid)) => {
                broken.insert(name.clone(), glimpse);
                snapshot.locations.insert(name, Err(invalid));
            }
            (Err(_), Err(invalid)) => snapshot.invalid_dirs.push(invalid),
            // The name in the file equals the folder's, so it was checked already.
            (Err(error), Ok(_)) => {
                snapshot.invalid_dirs.push(invalid(root, &name, CONFIG, &error.message, error.hint));
            }
        }
    }
    match read_prune(root) {
        Ok(prune) => snapshot.prune = prune,
        // Nothing is confirmed, which deletes nothing.
        Err(error) => {
            let message = format!("{}: cannot be read, and so confirms nothing: {error}", shown_beside(root, PRUNE));
            let rendered = format!("error: {message}\nhint: make it a text file with one name a line, or remove it\n");
            snapshot.invalid_dirs.push(Invalid { path: PRUNE.to_owned(), message, rendered });
        }
    }
    snapshot.invalid_dirs.sort_by(|left, right| left.path.cmp(&right.path));
    add_fleet(&mut snapshot, root, fleet, &broken);
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

fn add_fleet(snapshot: &mut Snapshot, root: &Path, fleet: Vec<Parsed>, broken: &BTreeMap<LocationName, Glimpse>) {
    let mut errors = check_fleet(&fleet, broken);
    for parsed in fleet {
        let name = parsed.location.name.clone();
        let (contested, refused) = (errors.contested.remove(&name), errors.refused.remove(&name));
        let outcome = match refused.as_ref().or(contested.as_ref()) {
            Some(error) => Err(alone(root, name.as_str(), || from_config_error(name.as_str(), error))
                .unwrap_or_else(|invalid| invalid)),
            None => Ok(parsed.location.clone()),
        };
        if refused.is_none() && contested.is_some() {
            snapshot.contested.insert(name.clone(), parsed.location);
        }
        snapshot.locations.insert(name, outcome);
    }
}

/// Nothing where the folder has no config, or is no folder.
fn read_config(root: &Path, folder: &Path, name: &str, links: Links, reader: Reader) -> Option<Outcome> {
    let config = folder.join(CONFIG);
    let linked = is_link(folder) || is_link(&config);
    if linked && links == Links::Refuse {
        let hint = "replace the link by what it points to";
        let read = Err(invalid(root, name, CONFIG, "is reached through a symbolic link", hint));
        return Some(Outcome { read, glimpse: Glimpse::default() });
    }
    // A link that leads nowhere is a config that cannot be read, as a volume that is not mounted.
    if !is_link(folder) || folder.exists() {
        let misspelt = folder.join(MISSPELT_CONFIG);
        match (present(&config), present(&misspelt)) {
            (Ok(false), Ok(false)) => return None,
            (Ok(_), Ok(true)) => {
                let message = format!("the file is called {MISSPELT_CONFIG}");
                let hint = format!("keep one file, {CONFIG}");
                let read = Err(invalid(root, name, MISSPELT_CONFIG, &message, &hint));
                return Some(Outcome { read, glimpse: seen_in(&read_bytes(&misspelt).unwrap_or_default()) });
            }
            _ => {}
        }
    }
    let bytes = read_bytes(&config);
    let read = match &bytes {
        Ok(bytes) => match as_text(bytes) {
            Ok(text) => {
                let path = shown(root, name, CONFIG);
                let read = || reader(&path, text).map(Box::new).map_err(|error| from_config_error(name, &error));
                alone(root, name, read).unwrap_or_else(Err)
            }
            Err(error) => Err(cannot_be_read(root, name, &error)),
        },
        Err(error) => Err(cannot_be_read(root, name, error)),
    };
    let glimpse = if read.is_err() { seen_in(&bytes.unwrap_or_default()) } else { Glimpse::default() };
    Some(Outcome { read, glimpse })
}

/// What a file names that does not pass.
fn seen_in(bytes: &[u8]) -> Glimpse {
    catch_unwind(|| glimpse(&String::from_utf8_lossy(bytes))).unwrap_or_default()
}

/// Does something with one file that no other file must suffer from.
fn alone<T>(root: &Path, name: &str, work: impl FnOnce() -> T) -> Result<T, Invalid> {
    // Nothing that the work left half done is used again. The panic hook has written where it happened.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let hint = "this is a bug in codeloc; try a simpler file, and report what was unusual in this one";
        invalid(root, name, CONFIG, "codeloc fails on what is in this file", hint)
    })
}

fn cannot_be_read(root: &Path, name: &str, error: &io::Error) -> Invalid {
    let hint = format!("make it a readable text file of at most {LARGEST_CONFIG} bytes");
    invalid(root, name, CONFIG, &format!("cannot be read: {error}"), &hint)
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
    let bytes = read_bytes(path)?;
    as_text(&bytes).map(str::to_owned)
}

/// The beginning of it, one byte more than a config may have.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_CONFIG + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn as_text(bytes: &[u8]) -> io::Result<&str> {
    if bytes.len() as u64 > LARGEST_CONFIG {
        return Err(io::Error::other("it is too large"));
    }
    std::str::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// What errors call the file: `repos/NAME/config.yml`.
fn shown(root: &Path, name: &str, file: &str) -> String {
    shown_beside(root, &format!("{name}/{file}"))
}

fn shown_beside(root: &Path, path: &str) -> String {
    match root.file_name() {
        Some(root) => format!("{}/{path}", root.to_string_lossy()),
        None => path.to_owned(),
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
        match &snapshot.locations[&LocationName::new(name).unwrap()] {
            Ok(location) => Ok(location.git_url.clone()),
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
        assert_eq!(snapshot.locations.len(), 2);
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
        assert_eq!(snapshot.locations.len(), 6);
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
        assert!(snapshot.locations.is_empty());
        let paths: Vec<&str> = snapshot.invalid_dirs.iter().map(|invalid| invalid.path.as_str()).collect();
        assert_eq!(paths, ["My_Pipeline/config.yml", "shared/config.yml"]);
    }

    #[test]
    fn overlapping_prefixes_are_told_to_both_and_may_go_on_where_they_run() {
        let root = root();
        write(root.path(), "a", &(config("a") + "s3_prefix: data\n"));
        write(root.path(), "b", &(config("b") + "s3_prefix: data/b\n"));
        write(root.path(), "c", &(config("c") + "s3_prefix: data/c\naccess: {write: [repos/gone]}\n"));
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "a").unwrap_err().contains("overlaps `data/b` of `b`"));
        assert!(outcome(&snapshot, "b").unwrap_err().contains("overlaps `data` of `a`"));
        assert!(outcome(&snapshot, "c").unwrap_err().contains("grants `repos/gone`"));
        let contested: Vec<&str> = snapshot.contested.keys().map(LocationName::as_str).collect();
        assert_eq!(contested, ["a", "b"], "a config with a fault of its own does not go on");
        assert_eq!(snapshot.in_force().count(), 2);
    }

    #[test]
    fn a_panic_over_one_file_is_that_files_error() {
        fn reader(path: &str, text: &str) -> Result<Parsed, ConfigError> {
            assert!(!text.contains("boom"), "as a library might");
            read(path, text)
        }
        let root = root();
        write(root.path(), "good", &config("good"));
        write(root.path(), "renamed", "name: orders\nboom: [\n");
        let snapshot = read_each(root.path(), Links::Follow, reader).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        let message = outcome(&snapshot, "renamed").unwrap_err();
        assert!(message.contains("renamed/config.yml: codeloc fails on what is in this file"), "{message}");
        assert!(snapshot.claimed.contains_key("orders"));
    }

    #[test]
    fn the_worst_files_are_errors_of_their_own() {
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
    fn a_prune_file_that_cannot_be_read_confirms_nothing_and_stops_nothing() {
        let root = root();
        write(root.path(), "good", &config("good"));
        fs::write(root.path().join(PRUNE), [0xff, 0xfe]).unwrap();
        let snapshot = read_folder(root.path()).unwrap();
        assert!(outcome(&snapshot, "good").is_ok());
        assert_eq!(snapshot.prune, BTreeSet::new());
        assert!(snapshot.invalid_dirs[0].message.contains("prune.txt: cannot be read"), "{:?}", snapshot.invalid_dirs);
    }

    #[test]
    fn a_location_that_an_invalid_config_names_is_claimed() {
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
        for words in ["new/config.yml says `name: renamed`", "rename the folder new to renamed"] {
            assert!(message.contains(words), "{message}");
        }
        assert!(outcome(&snapshot, "there").is_ok(), "a config of its own comes first");
    }
}
