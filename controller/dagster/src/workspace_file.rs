//! `workspace.yaml`: atomic, sorted, every string quoted, written only on change.
//!
//! Guarantees: every reader sees one whole version of the file; equal entries produce equal bytes, and equal bytes are not written
//! again; any location name reads back unchanged.
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

use crate::errors::{ParseError, WorkspaceError};

/// All entries by location name.
pub type Entries = BTreeMap<String, Entry>;

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

    /// The published entries. Empty if the file does not exist.
    pub fn read(&self) -> Result<Entries, WorkspaceError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => parse(&text).map_err(|source| WorkspaceError::Malformed { path: self.path.clone(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
            Err(source) => Err(WorkspaceError::Read { path: self.path.clone(), source }),
        }
    }

    /// Whether the file has exactly the bytes of `entries`.
    pub fn matches(&self, entries: &Entries) -> bool {
        fs::read(&self.path).is_ok_and(|bytes| bytes == render(entries).as_bytes())
    }

    /// Writes `entries` if the file differs. Returns whether it did.
    pub fn publish(&self, entries: &Entries) -> Result<bool, WorkspaceError> {
        // An unreadable file is replaced like one that differs: the write reports the error if that fails too.
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
        // Dagster may run as another user, so all users may read the file, unlike a temporary file by default.
        let mut file = tempfile::Builder::new()
            .prefix(".workspace.")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)
            // Without the file's random name, so that a repeated failure has the same text.
            .map_err(|error| io::Error::from(error.kind()))?;
        file.as_file_mut().write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        // The rename survives a power cut only once the folder is on disk.
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

/// A double-quoted YAML scalar. `PyYAML` reads YAML 1.1, in which a bare `no` is false and `12:30` is 750, and it refuses
/// unprintable characters: everything except printable ASCII is escaped.
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

fn parse(text: &str) -> Result<Entries, ParseError> {
    let document: Document = serde_saphyr::from_str(text).map_err(|error| ParseError::Yaml(Box::new(error)))?;
    let mut entries = Entries::new();
    for Target { grpc_server: Server { host, port, location_name } } in document.load_from {
        if entries.insert(location_name.clone(), Entry { host, port }).is_some() {
            return Err(ParseError::Duplicate(location_name));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
