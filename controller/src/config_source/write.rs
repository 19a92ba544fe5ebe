//! Desired state goes out: a change of one config becomes a commit of the config repository, or a file of the watched folder.
//! git stays the only truth: nothing else remembers what was asked for.
//!
//! Guarantees: what is written has passed every check of a config; of two that write at once neither is lost: the later change
//! is made again on top of the earlier one, or refused where it no longer makes sense.
//! Assumes: the work folder is this writer's alone.

use std::path::{Path, PathBuf};

use codeloc_crds::edit::{EditError, edit, write as write_fields};
use codeloc_crds::suspend::{resume, suspend};
use codeloc_crds::{ConfigError, GitReference, LocationName};
use codeloc_git::commit::Author;
use codeloc_git::commit::Pushed;
use codeloc_git::{Git, GitError};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::SourceSettings;

/// Others may push as often while one change is made.
const ATTEMPTS: usize = 5;
const CONFIG: &str = "config.yml";

/// What is to become of one config.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A config that is not there yet.
    Add(Map<String, Value>),
    /// The same as it is written, comments included.
    AddText(String),
    /// Fields of one that is there; `null` takes one away.
    Set(Map<String, Value>),
    /// Its mode becomes `suspended`; the config keeps the one that it had.
    Suspend,
    /// The mode becomes the one from before it was suspended.
    Resume,
    Remove,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The commit that holds the change; absent where the configs are a plain folder.
    pub commit: Option<String>,
    /// Whether anything is different from before.
    pub changed: bool,
    /// The config as it is now; absent after a removal.
    pub text: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("there is a config for {0} already; change it in place of adding it")]
    Exists(String),
    #[error("there is no config for {0}")]
    Missing(String),
    #[error("{0}")]
    Name(String),
    /// Boxed: it holds the text.
    #[error("{0}")]
    Invalid(Box<ConfigError>),
    #[error(transparent)]
    NotInPlace(#[from] EditError),
    #[error("the config repository is at a fixed tag or commit, and so is not written to")]
    NoBranch,
    #[error("others pushed to the config repository again and again; nothing was written, try again")]
    Busy,
    #[error("the config repository cannot be written: {0}")]
    Git(#[from] GitError),
    #[error("{path} cannot be written: {reason}")]
    File { path: String, reason: String },
}

/// The one writer of this process.
#[derive(Debug)]
pub struct Writer {
    git: Git,
    deployment: Place,
    alone: Mutex<()>,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Git { url: String, reference: GitReference, folder: String, bare: PathBuf },
}

impl Writer {
    /// `work` is a folder for objects, other than the one that the configs are read with.
    pub fn new(settings: &SourceSettings, git: Git, work: PathBuf) -> Self {
        let deployment = match settings {
            SourceSettings::Folder { root, .. } => Place::Folder(root.clone()),
            SourceSettings::Git { url, reference, folder, .. } => {
                Place::Git { url: url.clone(), reference: reference.clone(), folder: folder.clone(), bare: work }
            }
        };
        Self { git, deployment, alone: Mutex::default() }
    }

    /// Makes one change. `message` is the commit's.
    pub async fn write(
        &self,
        name: &str,
        change: &Change,
        message: &str,
        author: &Author,
    ) -> Result<Written, WriteError> {
        LocationName::new(name).map_err(|error| WriteError::Name(format!("{}: {}", error.message, error.hint)))?;
        let _alone = self.alone.lock().await;
        match &self.deployment {
            Place::Folder(root) => in_folder(root, name, change).await,
            Place::Git { url, reference, folder, bare } => {
                let GitReference::Branch(branch) = reference else { return Err(WriteError::NoBranch) };
                let path = if folder == "." { format!("{name}/{CONFIG}") } else { format!("{folder}/{name}/{CONFIG}") };
                for _ in 0..ATTEMPTS {
                    let parent = self.git.fetch_ref(bare, url, reference).await?;
                    let before = self.git.read_file(bare, &parent, &path).await?;
                    let after = changed(name, before.as_deref(), change)?;
                    if after == before {
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

    /// The text of one config as it is at the origin now.
    pub async fn read(&self, name: &str) -> Result<Option<String>, WriteError> {
        LocationName::new(name).map_err(|error| WriteError::Name(format!("{}: {}", error.message, error.hint)))?;
        let _alone = self.alone.lock().await;
        match &self.deployment {
            Place::Folder(root) => read_file(&root.join(name).join(CONFIG)).await,
            Place::Git { url, reference, folder, bare } => {
                let path = if folder == "." { format!("{name}/{CONFIG}") } else { format!("{folder}/{name}/{CONFIG}") };
                let commit = self.git.fetch_ref(bare, url, reference).await?;
                Ok(self.git.read_file(bare, &commit, &path).await?)
            }
        }
    }
}

/// The text after the change.
fn changed(name: &str, before: Option<&str>, change: &Change) -> Result<Option<String>, WriteError> {
    let after = match (change, before) {
        (Change::Add(_) | Change::AddText(_), Some(_)) => return Err(WriteError::Exists(name.to_owned())),
        (Change::Add(fields), None) => write_fields(fields),
        (Change::AddText(text), None) => text.clone(),
        (Change::Set(_) | Change::Suspend | Change::Resume | Change::Remove, None) => {
            return Err(WriteError::Missing(name.to_owned()));
        }
        (Change::Remove, Some(_)) => return Ok(None),
        (Change::Set(fields), Some(before)) => edit(before, fields)?,
        (Change::Suspend, Some(before)) => suspend(before)?,
        (Change::Resume, Some(before)) => resume(before)?,
    };
    codeloc_crds::parse(&format!("{name}/{CONFIG}"), &after).map_err(|error| WriteError::Invalid(Box::new(error)))?;
    Ok(Some(after))
}

async fn in_folder(root: &Path, name: &str, change: &Change) -> Result<Written, WriteError> {
    let folder = root.join(name);
    let path = folder.join(CONFIG);
    let before = read_file(&path).await?;
    let text = changed(name, before.as_deref(), change)?;
    let failed = |error: std::io::Error| failure(&path, &error);
    match &text {
        _ if text == before => {}
        Some(text) => {
            tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
            // In one step: a reader sees the one or the other.
            let next = folder.join(".config.yml.next");
            tokio::fs::write(&next, text).await.map_err(failed)?;
            tokio::fs::rename(&next, &path).await.map_err(failed)?;
        }
        None => {
            tokio::fs::remove_file(&path).await.map_err(failed)?;
            // Stays where there is something else in it.
            let _ = tokio::fs::remove_dir(&folder).await;
        }
    }
    Ok(Written { commit: None, changed: text != before, text })
}

async fn read_file(path: &Path) -> Result<Option<String>, WriteError> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(path, &error)),
    }
}

fn failure(path: &Path, error: &std::io::Error) -> WriteError {
    WriteError::File { path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
