//! `workspace.yaml`: atomic, sorted, every string quoted, written only on change.
//!
//! Guarantees: whoever reads the file sees one whole version of it; equal entries give equal bytes, and equal bytes
//! are not written again; a location of any name reads back as it was.
//! Assumes: one publisher writes the file. Dagster keeps its old workspace when the file is bad, and its daemon exits
//! when it stays bad for five minutes, so an empty workspace is written as `load_from: []`, never as an empty file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use codeloc_core::dagster::Entry;
use serde::Deserialize;

/// All entries by location name.
pub type Entries = BTreeMap<String, Entry>;

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("cannot read the workspace file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the workspace file {path} is not one that codeloc wrote: {reason}; move it away, or correct it")]
    Malformed { path: PathBuf, reason: String },
    #[error("cannot write the workspace file {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// The only writer of one `workspace.yaml`.
#[derive(Debug)]
pub struct Publisher {
    path: PathBuf,
}

impl Publisher {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is published now; nothing where the file does not exist yet.
    pub fn read(&self) -> Result<Entries, WorkspaceError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => parse(&text).map_err(|reason| WorkspaceError::Malformed { path: self.path.clone(), reason }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
            Err(source) => Err(WorkspaceError::Read { path: self.path.clone(), source }),
        }
    }

    /// Whether the file is, to the letter, what `entries` are written as.
    pub fn matches(&self, entries: &Entries) -> bool {
        fs::read(&self.path).is_ok_and(|present| present == render(entries).as_bytes())
    }

    /// Makes the file say exactly `entries`. Returns whether it had to be written.
    pub fn publish(&self, entries: &Entries) -> Result<bool, WorkspaceError> {
        // A file that cannot be read is replaced as one that differs: if it cannot be written either, that tells.
        if self.matches(entries) {
            return Ok(false);
        }
        self.replace(&render(entries)).map_err(|source| WorkspaceError::Write { path: self.path.clone(), source })?;
        Ok(true)
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        // Dagster may run as another user: readable by all, unlike a temporary file's default.
        let mut file = tempfile::Builder::new()
            .prefix(".workspace.")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)
            // Without the file's random name: a failure that repeats reads the same each time.
            .map_err(|error| io::Error::from(error.kind()))?;
        file.as_file_mut().write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        // The rename itself survives a power cut only once the folder is on disk.
        File::open(folder)?.sync_all()
    }
}

/// The bytes of the file.
fn render(entries: &Entries) -> String {
    let mut text = String::from("# Written by codeloc, which overwrites every change.\n");
    if entries.is_empty() {
        text.push_str("load_from: []\n");
        return text;
    }
    text.push_str("load_from:\n");
    for (name, Entry { host, port }) in entries {
        let (host, name) = (quoted(host), quoted(name));
        writeln!(text, "  - grpc_server:\n      host: {host}\n      port: {port}\n      location_name: {name}")
            .expect("writing to a String cannot fail");
    }
    text
}

/// A double-quoted YAML scalar. `PyYAML` reads YAML 1.1, where a bare `no` is false and `12:30` is 750, and it refuses
/// characters that are not printable: whatever is not plain ASCII is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => write!(quoted, "\\U{:08X}", u32::from(character)).expect("writing to a String cannot fail"),
        }
    }
    quoted.push('"');
    quoted
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    load_from: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    grpc_server: Server,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    host: String,
    port: u16,
    location_name: String,
}

fn parse(text: &str) -> Result<Entries, String> {
    let document: Document =
        serde_saphyr::from_str(text).map_err(|error| super::text::bounded_line(&error.to_string(), 300))?;
    let mut entries = Entries::new();
    for Target { grpc_server: Server { host, port, location_name } } in document.load_from {
        let twice = format!("location {location_name:?} is there twice");
        if entries.insert(location_name, Entry { host, port }).is_some() {
            return Err(twice);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
