//! Writes the desired state: a change of a config becomes a commit in the config repository, or a file in the watched folder. git stays
//! the only source of truth.
//!
//! Guarantees: a written config is valid. Concurrent changes are not lost: codeloc applies the later one again on top of the earlier
//! one, or refuses it if it no longer makes sense.
//! Assumes: no other process uses the work folder.

use std::path::{Path, PathBuf};

use codeloc_core::ids::Commit;
use codeloc_crds::edit::{EditError, edit, write as write_fields};
use codeloc_crds::suspend::{resume, suspend};
use codeloc_crds::{ConfigError, GitReference, LocationName, NameError};
use codeloc_git::commit::Author;
use codeloc_git::commit::Pushed;
use codeloc_git::{Git, GitError};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::SourceSettings;
use super::encoding::{NotUtf8, as_text};

/// Attempts to push a change while others push.
const ATTEMPTS: usize = 5;
const CONFIG: &str = "config.yml";

/// A change of one config.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Adds a config with these fields.
    Add(Map<String, Value>),
    /// Adds a config with this text, including comments.
    AddText(String),
    /// Sets fields of an existing config; `null` removes a field.
    Set(Map<String, Value>),
    /// Sets the mode to `suspended` and stores the previous mode in the config.
    Suspend,
    /// Restores the mode from before the suspension.
    Resume,
    Remove,
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The commit with the change; absent if the configs are in a plain folder.
    pub commit: Option<Commit>,
    /// Whether the config changed.
    pub changed: bool,
    /// The new config; absent after a removal.
    pub text: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} already has a config; update it instead")]
    Exists(LocationName),
    #[error("{0} has no config")]
    Missing(LocationName),
    #[error("{0}")]
    Name(String),
    /// Boxed because it contains the text.
    #[error("{0}")]
    Invalid(Box<ConfigError>),
    #[error(transparent)]
    NotInPlace(#[from] EditError),
    #[error("the source of configs is a fixed tag or commit, so codeloc cannot write to it; set source.git_branch")]
    NoBranch,
    #[error("codeloc wrote nothing, because other pushes to the config repository came first each time; retry")]
    Busy,
    #[error("cannot write to the config repository: {0}")]
    Git(#[from] GitError),
    /// codeloc does not guess an encoding: the edited text would contain other characters.
    #[error("cannot edit {path}: {source}; save the file as UTF-8")]
    NotUtf8 { path: String, source: NotUtf8 },
    #[error("cannot write {path}: {reason}")]
    File { path: String, reason: String },
}

impl From<NameError> for WriteError {
    fn from(error: NameError) -> Self {
        Self::Name(format!("{}: {}", error.message, error.hint))
    }
}

/// The one writer of this process.
#[derive(Debug)]
pub struct Writer {
    git: Git,
    target: Target,
    /// Serialises writes.
    turn: Mutex<()>,
}

#[derive(Debug)]
enum Target {
    Folder(PathBuf),
    Git { url: String, reference: GitReference, folder: String, bare: PathBuf },
}

impl Writer {
    /// `work` is a folder for git objects, separate from the one for reading configs.
    pub fn new(settings: &SourceSettings, git: Git, work: PathBuf) -> Self {
        let target = match settings {
            SourceSettings::Folder { root, .. } => Target::Folder(root.clone()),
            SourceSettings::Git { url, reference, folder, .. } => {
                Target::Git { url: url.clone(), reference: reference.clone(), folder: folder.clone(), bare: work }
            }
        };
        Self { git, target, turn: Mutex::default() }
    }

    /// Makes one change, with this commit message.
    pub async fn write(
        &self,
        name: &LocationName,
        change: &Change,
        message: &str,
        author: &Author,
    ) -> Result<Written, WriteError> {
        let _turn = self.turn.lock().await;
        match &self.target {
            Target::Folder(root) => in_folder(root, name, change).await,
            Target::Git { url, reference, folder, bare } => {
                let GitReference::Branch(branch) = reference else { return Err(WriteError::NoBranch) };
                let path = path_in(folder, name);
                for _ in 0..ATTEMPTS {
                    let parent = self.git.fetch_ref(bare, url, reference).await?;
                    let before = self.git.read_file(bare, &parent, &path).await?;
                    let after = changed(name, &path, before.as_deref(), change)?;
                    if after.as_deref().map(str::as_bytes) == before.as_deref() {
                        return Ok(Written { commit: Some(parent), changed: false, text: after });
                    }
                    let commit = self.git.commit_file(bare, &parent, &path, after.as_deref(), message, author).await?;
                    if self.git.push(bare, url, &commit, branch).await? == Pushed::Done {
                        return Ok(Written { commit: Some(commit), changed: true, text: after });
                    }
                }
                Err(WriteError::Busy)
            }
        }
    }

    /// The current text of a config at the origin.
    pub async fn read(&self, name: &LocationName) -> Result<Option<String>, WriteError> {
        let _turn = self.turn.lock().await;
        match &self.target {
            Target::Folder(root) => {
                let path = root.join(name.as_str()).join(CONFIG);
                text_of(&path.display().to_string(), read_file(&path).await?)
            }
            Target::Git { url, reference, folder, bare } => {
                let path = path_in(folder, name);
                let commit = self.git.fetch_ref(bare, url, reference).await?;
                text_of(&path, self.git.read_file(bare, &commit, &path).await?)
            }
        }
    }
}

/// The path of a config in the repository.
fn path_in(folder: &str, name: &LocationName) -> String {
    if folder == "." { format!("{name}/{CONFIG}") } else { format!("{folder}/{name}/{CONFIG}") }
}

fn text_of(path: &str, bytes: Option<Vec<u8>>) -> Result<Option<String>, WriteError> {
    bytes.map(|bytes| decoded(path, &bytes).map(str::to_owned)).transpose()
}

fn decoded<'a>(path: &str, bytes: &'a [u8]) -> Result<&'a str, WriteError> {
    as_text(bytes).map_err(|source| WriteError::NotUtf8 { path: path.to_owned(), source })
}

/// The text after the change. `path` is the place of the config, for errors.
fn changed(
    name: &LocationName,
    path: &str,
    before: Option<&[u8]>,
    change: &Change,
) -> Result<Option<String>, WriteError> {
    let after = match (change, before) {
        (Change::Add(_) | Change::AddText(_), Some(_)) => return Err(WriteError::Exists(name.clone())),
        (Change::Add(fields), None) => write_fields(fields),
        (Change::AddText(text), None) => text.clone(),
        (Change::Set(_) | Change::Suspend | Change::Resume | Change::Remove, None) => {
            return Err(WriteError::Missing(name.clone()));
        }
        (Change::Remove, Some(_)) => return Ok(None),
        (Change::Set(fields), Some(before)) => edit(decoded(path, before)?, fields)?,
        (Change::Suspend, Some(before)) => suspend(decoded(path, before)?)?,
        (Change::Resume, Some(before)) => resume(decoded(path, before)?)?,
    };
    codeloc_crds::parse(&format!("{name}/{CONFIG}"), &after).map_err(|error| WriteError::Invalid(Box::new(error)))?;
    Ok(Some(after))
}

async fn in_folder(root: &Path, name: &LocationName, change: &Change) -> Result<Written, WriteError> {
    let folder = root.join(name.as_str());
    let path = folder.join(CONFIG);
    let before = read_file(&path).await?;
    let text = changed(name, &path.display().to_string(), before.as_deref(), change)?;
    let is_changed = text.as_deref().map(str::as_bytes) != before.as_deref();
    let failed = |error: std::io::Error| failure(&path, &error);
    match &text {
        _ if !is_changed => {}
        Some(text) => {
            tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
            // In one step: a reader sees the old or the new file.
            let next = folder.join(".config.yml.next");
            tokio::fs::write(&next, text).await.map_err(failed)?;
            tokio::fs::rename(&next, &path).await.map_err(failed)?;
        }
        None => {
            tokio::fs::remove_file(&path).await.map_err(failed)?;
            // Fails if the folder contains other files, which stay.
            let _ = tokio::fs::remove_dir(&folder).await;
        }
    }
    Ok(Written { commit: None, changed: is_changed, text })
}

async fn read_file(path: &Path) -> Result<Option<Vec<u8>>, WriteError> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(path, &error)),
    }
}

fn failure(path: &Path, error: &std::io::Error) -> WriteError {
    WriteError::File { path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
