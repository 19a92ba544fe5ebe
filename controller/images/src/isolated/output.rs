//! The archive that a guest returns. Code of a repository may have written it, so everything in it is checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tempfile::TempDir;

use crate::disk::disk_error;
use crate::error::BuildError;
use crate::project::BuiltProject;
use crate::settings::Limits;
use crate::uv;

const LARGEST_REPORT: u64 = 32 << 20;

/// The content of the archive, in a temporary folder.
#[derive(Debug)]
pub(crate) struct Output {
    /// The digest of the archive.
    pub digest: String,
    /// Lives as long as the paths are used.
    pub folder: TempDir,
    /// Absolute paths, sorted.
    pub wheels: Vec<PathBuf>,
    /// Files of the repository that the guest wrote, by their path from its root: where they are, their size and whether they are executable.
    pub files: BTreeMap<String, Generated>,
    report: Report,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generated {
    pub path: PathBuf,
    pub size: u64,
    pub executable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    error: Option<Failure>,
    resolved: Option<String>,
    built: Vec<Built>,
    projects: Vec<BuiltProject>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failure {
    step: String,
    what: Option<String>,
    message: String,
}

/// A package that had no wheel.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Built {
    why: String,
}

impl Output {
    /// The error of the foreign code, if it failed.
    pub(super) fn check(&self, why: &str) -> Result<(), BuildError> {
        let Some(Failure { step, what, message }) = &self.report.error else { return Ok(()) };
        let what = what.as_deref().filter(|what| !what.is_empty()).map(|what| format!(" {}", short(what, 200)));
        let what = what.unwrap_or_default();
        let doing = match step.as_str() {
            "resolve" => "resolve and build the packages".to_owned(),
            "projects" => format!("build the project{what}"),
            _ => format!("run the command{what}"),
        };
        let text = format!("the isolated build ({why}) cannot {doing}: {}", short_end(message, 4000));
        // The package index did not answer.
        Err(if uv::is_network_fault(message) { BuildError::transient(text) } else { BuildError::dockerfile(text) })
    }

    /// The lock, as uv printed it.
    pub(crate) fn resolved(&self) -> &str {
        self.report.resolved.as_deref().unwrap_or_default()
    }

    /// What was built, such as `sdist: pyspark 4.1.1`.
    pub(crate) fn built(&self) -> Vec<String> {
        self.report.built.iter().map(|built| short(&built.why, 200)).collect()
    }

    pub(crate) fn projects(&self) -> &[BuiltProject] {
        &self.report.projects
    }

    /// The folder of the wheels.
    pub(crate) fn wheels_folder(&self) -> PathBuf {
        self.folder.path().join("wheels")
    }

    /// Makes the wheels visible to uv in `folder`.
    pub(crate) fn link_wheels(&self, folder: &Path) -> Result<(), BuildError> {
        let link = folder.join(uv::WHEELS);
        std::os::unix::fs::symlink(self.wheels_folder(), &link).map_err(|error| disk_error(&link, error))
    }
}

/// Bounded, and without control characters.
fn short(text: &str, longest: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(longest).collect()
}

/// The end of a text: that is where programs say what failed.
fn short_end(text: &str, longest: usize) -> String {
    let kept: Vec<char> = text.chars().filter(|letter| *letter == '\n' || !letter.is_control()).collect();
    kept[kept.len().saturating_sub(longest)..].iter().collect()
}

/// Unpacks an archive into a folder. The error is the reason of a refusal.
pub(super) fn read(file: &Path, folder: TempDir, digest: String, limits: Limits) -> Result<Output, String> {
    let unreadable = |error: io::Error| format!("the archive is not readable: {error}");
    let mut archive = tar::Archive::new(File::open(file).map_err(unreadable)?);
    let mut output = Output { digest, folder, wheels: vec![], files: BTreeMap::new(), report: Report::default() };
    for part in ["wheels", "files"] {
        std::fs::create_dir(output.folder.path().join(part)).map_err(unreadable)?;
    }
    let (mut bytes, mut has_report) = (0_u64, false);
    for (count, entry) in archive.entries().map_err(unreadable)?.enumerate() {
        let mut entry = entry.map_err(unreadable)?;
        if count >= limits.files.saturating_mul(4) {
            return Err("it has too many files".to_owned());
        }
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| "a path is not UTF-8".to_owned())?;
        if !entry.header().entry_type().is_file() {
            return Err(format!("{} is not a file", short(&path, 200)));
        }
        let size = entry.header().size().map_err(unreadable)?;
        bytes = bytes.saturating_add(size);
        if bytes > limits.packages {
            return Err(format!("it has more than {} bytes", limits.packages));
        }
        if path == "report.json" && !has_report {
            if size > LARGEST_REPORT {
                return Err(format!("its report has more than {LARGEST_REPORT} bytes"));
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(unreadable)?;
            output.report =
                serde_json::from_slice(&text).map_err(|error| format!("its report is not readable: {error}"))?;
            has_report = true;
            continue;
        }
        let executable = entry.header().mode().unwrap_or(0) & 0o100 != 0;
        let target = match path.split_once('/') {
            Some(("wheels", name)) if is_wheel(name) => output.folder.path().join("wheels").join(name),
            Some(("files", inside)) if is_plain(inside, limits.path) => {
                // Numbered, so that no path of the archive is a path of this machine.
                let target = output.folder.path().join("files").join(count.to_string());
                output.files.insert(inside.to_owned(), Generated { path: target.clone(), size, executable });
                target
            }
            _ => return Err(format!("{} is not a path that codeloc accepts", short(&path, 200))),
        };
        let mut written = File::create_new(&target).map_err(unreadable)?;
        io::copy(&mut entry, &mut written).map_err(unreadable)?;
        if path.starts_with("wheels/") {
            output.wheels.push(target);
        }
    }
    if !has_report {
        return Err("it has no report".to_owned());
    }
    output.wheels.sort();
    Ok(output)
}

/// Whether a name is that of a wheel: `NAME-VERSION(-BUILD)-PYTHON-ABI-PLATFORM.whl`.
fn is_wheel(name: &str) -> bool {
    name.len() < 250
        && name.strip_suffix(".whl").is_some_and(|stem| (5..=6).contains(&stem.split('-').count()))
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.+!".contains(letter))
        && !name.starts_with('.')
}

/// Whether a path stays below its root, and deletes nothing in an image.
fn is_plain(path: &str, longest: usize) -> bool {
    path.len() <= longest
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !["", ".", "..", ".git"].contains(&part) && !part.starts_with(".wh."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Result<Output, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.finish().unwrap();
        let limits = Limits { packages: 1000, ..Limits::default() };
        read(&path, tempfile::tempdir().unwrap(), "digest".to_owned(), limits)
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const REPORT: (&str, tar::EntryType, &[u8]) = ("report.json", FILE, b"{\"built\": [{\"why\": \"sdist: a 1\"}]}");

    #[test]
    fn wheels_and_files_of_an_output_are_read() {
        let wheel = "wheels/a-1-py3-none-any.whl";
        let output = archive(&[REPORT, (wheel, FILE, b"zip"), ("files/x/target/manifest.json", FILE, b"{}")]).unwrap();
        assert_eq!(output.built(), ["sdist: a 1"]);
        assert_eq!(output.wheels.len(), 1);
        let file = &output.files["x/target/manifest.json"];
        assert_eq!((file.size, file.executable), (2, true));
        assert_eq!(std::fs::read(&file.path).unwrap(), b"{}");
    }

    #[test]
    fn a_hostile_output_is_refused() {
        let large = vec![0; 1001];
        for (path, kind, content, reason) in [
            ("files/../../x", FILE, &b""[..], "not a path"),
            ("files//x", FILE, b"", "not a path"),
            ("/etc/x", FILE, b"", "not a path"),
            ("files/a/.wh.b", FILE, b"", "not a path"),
            ("files/.git/config", FILE, b"", "not a path"),
            ("wheels/../x.whl", FILE, b"", "not a path"),
            ("wheels/a/b-1-py3-none-any.whl", FILE, b"", "not a path"),
            ("wheels/a.whl", FILE, b"", "not a path"),
            ("files/link", tar::EntryType::Symlink, b"", "not a file"),
            ("files/link", tar::EntryType::Link, b"", "not a file"),
            ("files/device", tar::EntryType::Char, b"", "not a file"),
            ("files/zeros", FILE, &large, "more than 1000 bytes"),
            ("report.json", FILE, b"[", "its report is not readable"),
        ] {
            let entries =
                if path == "report.json" { vec![(path, kind, content)] } else { vec![REPORT, (path, kind, content)] };
            let refused = archive(&entries).unwrap_err();
            assert!(refused.contains(reason), "{path}: {refused}");
        }
        assert_eq!(archive(&[]).unwrap_err(), "it has no report");
        assert!(archive(&[REPORT, REPORT]).unwrap_err().contains("not a path"));
    }

    #[test]
    fn an_error_names_the_step_and_ends_with_the_message() {
        let report = br#"{"error": {"step": "projects", "what": "libs/a", "message": "first\nlast\u001b[31m"}}"#;
        let output = archive(&[("report.json", FILE, report)]).unwrap();
        let error = output.check("setup.py computes values").unwrap_err().to_string();
        let expected = "the isolated build (setup.py computes values) cannot build the project libs/a: first\nlast[31m";
        assert_eq!(error, expected);
    }
}
