//! Reads the files of a commit from git objects, without a working tree.
//!
//! Guarantees: no hook, filter, attribute or submodule of the repository has an effect; a [`Tree`] contains only files and
//! links inside its root, within the limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, Read, Write},
    path::{Path, PathBuf},
};

use codeloc_core::ids::Commit;
use codeloc_git::program::{InteractiveProcess, Output, ProgramError, tail};
use codeloc_git::{Git, GitError};

use crate::caches;
use crate::digest::sha256_hex;
use crate::disk::blocking;
use crate::error::BuildError;
use crate::layer::Node;
use crate::listing::{Destination, destination, parse_listing, stays_inside};
use crate::settings::Limits;

/// The Git LFS specification limits a pointer to fewer bytes than this.
const MAX_LFS_POINTER: u64 = 1024;
const LFS_HEADER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The maximum size in bytes of a file that codeloc reads as text: ten times the lock of a large monorepo.
pub const LARGEST_TEXT: u64 = 4 << 20;

/// The files of a commit, or of one folder in it. A file's content is its object name.
#[derive(Debug)]
pub(super) struct Tree {
    pub repository: PathBuf,
    pub nodes: BTreeMap<String, Node<String>>,
    /// Seconds since 1970.
    pub commit_time: i64,
}

impl Tree {
    /// The paths of files, and of links to files.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.nodes.keys().map(String::as_str).filter(|path| self.file(path).is_some()).collect()
    }

    /// The path that a setting means: the path itself if the commit has it, otherwise the file that links of folders lead to.
    pub(super) fn resolve(&self, path: &str) -> String {
        let path = path.trim_start_matches("./");
        match destination(path, &self.nodes) {
            Destination::Inside(file) if !self.nodes.contains_key(path) && self.nodes.contains_key(&file) => file,
            Destination::Inside(_) | Destination::Circle | Destination::Outside => path.to_owned(),
        }
    }

    /// Object and size of the file that a path leads to.
    fn file(&self, path: &str) -> Option<(&str, u64)> {
        let node = match self.nodes.get(path) {
            Some(Node::File { .. }) => self.nodes.get(path),
            _ => match destination(path, &self.nodes) {
                Destination::Inside(path) => self.nodes.get(&path),
                Destination::Circle | Destination::Outside => None,
            },
        };
        match node? {
            Node::File { content, size, .. } => Some((content, *size)),
            Node::Link(_) => None,
        }
    }
}

/// The git repositories that builds read: one bare repository per URL.
#[derive(Clone, Debug)]
pub(super) struct Repositories {
    git: Git,
    folder: PathBuf,
    limits: Limits,
}

impl Repositories {
    pub(super) fn new(git: Git, folder: PathBuf, limits: Limits) -> Self {
        Self { git, folder, limits }
    }

    /// Fetches a commit, unless it was fetched before, and lists the files below `subdirectory`. The caller holds a lock on
    /// the URL.
    pub(super) async fn tree(
        &self,
        url: &str,
        commit: &Commit,
        subdirectory: Option<&str>,
    ) -> Result<Tree, BuildError> {
        let repository = self.folder.join(format!("{}.git", &sha256_hex(url)[..32]));
        self.git.fetch_commit(&repository, url, commit).await.map_err(|error| fetch_error(commit, error))?;
        caches::mark_used(&repository);

        // The id may be that of a tree or a file. These have no commit time, and a retry does not help.
        let time = self
            .read(&repository, &["rev-list", "--max-count=1", "--format=%ct", "--no-commit-header", commit])
            .await?;
        if !time.status.success() || time.stdout.is_empty() {
            let kind = self.read(&repository, &["cat-file", "-t", commit]).await?;
            return Err(match kind.stdout.trim_ascii() {
                b"blob" | b"tree" => BuildError::terminal(format!("{commit} is not a commit; set the id of a commit")),
                _ => git_failed("rev-list", &time),
            });
        }
        let commit_time =
            String::from_utf8_lossy(&time.stdout).trim().parse().map_err(|_| git_failed("rev-list", &time))?;
        let subdirectory =
            subdirectory.map(|path| path.trim_matches('/')).filter(|path| !path.is_empty() && *path != ".");
        let treeish = match subdirectory {
            None => commit.to_string(),
            Some(path) if path.split('/').all(|part| !["", ".", ".."].contains(&part)) => {
                format!("{commit}:{path}")
            }
            Some(path) => {
                return Err(BuildError::terminal(format!(
                    "the `subdirectory` {path} is not a plain relative path; write a path such as team/project"
                )));
            }
        };
        let list = self.git.reading(&repository).arguments(["ls-tree", "-r", "-z", "-l", "--full-tree", &treeish]);
        let listing = list.run().await.map_err(|error| match error {
            // A few nested trees can describe billions of files.
            error @ ProgramError::TooMuchOutput { .. } => {
                BuildError::terminal("the commit has too many files to list; set `subdirectory` in the config")
                    .caused_by(error)
            }
            error => cannot_read_commit(error),
        })?;
        if !listing.status.success() {
            return Err(match subdirectory {
                Some(path) => BuildError::terminal(format!(
                    "the commit has no folder {path} (`subdirectory`); write the path relative to the repository root"
                )),
                None => git_failed("ls-tree", &listing),
            });
        }
        let nodes = parse_listing(&listing.stdout, self.limits)?;
        let repositories = self.clone();
        blocking(move || {
            let mut tree = Tree { repository, nodes, commit_time };
            repositories.read_links(&mut tree)?;
            Ok(tree)
        })
        .await
    }

    async fn read(&self, repository: &Path, arguments: &[&str]) -> Result<Output, BuildError> {
        self.git.reading(repository).arguments(arguments).run().await.map_err(cannot_read_commit)
    }

    /// Starts one git process that reads file contents. Only for threads that may block.
    pub(super) fn reader(&self, repository: &Path) -> Result<ObjectReader, BuildError> {
        let process = self.git.reading(repository).arguments(["cat-file", "--batch"]).start_interactive();
        Ok(ObjectReader(process.map_err(cannot_read_commit)?))
    }

    /// The texts of those `paths` that the tree contains.
    pub(super) async fn texts(
        &self,
        tree: &Tree,
        paths: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, String>, BuildError> {
        let mut objects: Vec<(String, String)> = Vec::new();
        for path in paths {
            if let Some((object, size)) = tree.file(path) {
                if size > LARGEST_TEXT {
                    return Err(BuildError::terminal(too_large(path, size)));
                }
                objects.push((path.to_owned(), object.to_owned()));
            }
        }
        if objects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (repositories, repository) = (self.clone(), tree.repository.clone());
        blocking(move || {
            let mut reader = repositories.reader(&repository)?;
            let mut texts = BTreeMap::new();
            for (path, object) in objects {
                let bytes = reader.read(&path, &object).map_err(read_error)?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| BuildError::terminal(format!("{path} is not UTF-8; save it as UTF-8")))?;
                texts.insert(path, text);
            }
            Ok(texts)
        })
        .await
    }

    fn read_links(&self, tree: &mut Tree) -> Result<(), BuildError> {
        if !tree.nodes.values().any(|node| matches!(node, Node::Link(_))) {
            return Ok(());
        }
        let mut reader = self.reader(&tree.repository)?;
        for (path, node) in &mut tree.nodes {
            if let Node::Link(target) = node {
                let bytes = reader.read(path, target).map_err(read_error)?;
                let Ok(text) = String::from_utf8(bytes) else {
                    return Err(BuildError::terminal(format!(
                        "symbolic link {path} has a target that is not UTF-8; remove the link"
                    )));
                };
                *target = text;
            }
        }
        for (path, node) in &tree.nodes {
            if matches!(node, Node::Link(_)) && !stays_inside(path, &tree.nodes) {
                return Err(BuildError::terminal(format!(
                    "symbolic link {path} leads outside the repository or its `subdirectory`; remove the link"
                )));
            }
        }
        Ok(())
    }
}

pub fn too_large(path: &str, size: u64) -> String {
    format!("{path} has {size} bytes; codeloc reads at most {LARGEST_TEXT} bytes")
}

fn cannot_read_commit(error: ProgramError) -> BuildError {
    BuildError::transient("cannot read the fetched commit").caused_by(error)
}

fn git_failed(command: &str, output: &Output) -> BuildError {
    BuildError::transient(format!("cannot read the fetched commit: git {command} failed: {}", tail(&output.stderr)))
}

/// A missing repository is transient: hosts also hide a repository that the token may not read yet.
fn fetch_error(commit: &Commit, error: GitError) -> BuildError {
    let message = format!("cannot fetch commit {commit}");
    let failure = match &error {
        GitError::Refused { .. } | GitError::ReferenceNotFound { .. } | GitError::Malformed { .. } => {
            BuildError::terminal(message)
        }
        GitError::Start { .. }
        | GitError::TimedOut { .. }
        | GitError::Failed { .. }
        | GitError::Token { .. }
        | GitError::Redirected { .. }
        | GitError::RepositoryNotFound { .. } => BuildError::transient(message),
    };
    failure.caused_by(error)
}

/// An LFS pointer is an error of the commit. Every other failure is one of git or of the disk.
pub(super) fn read_error(error: std::io::Error) -> BuildError {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return BuildError::terminal(error.to_string()).caused_by(error);
    }
    BuildError::transient("cannot read the files of the commit").caused_by(error)
}

/// `git cat-file --batch`, which reads one object after the other.
pub(super) struct ObjectReader(InteractiveProcess);

impl ObjectReader {
    /// The content of a blob. An LFS pointer gives [`std::io::ErrorKind::InvalidData`].
    pub(super) fn read(&mut self, path: &str, object: &str) -> std::io::Result<Vec<u8>> {
        let InteractiveProcess { requests, answers, .. } = &mut self.0;
        writeln!(requests, "{object}")?;
        requests.flush()?;
        let mut header = String::new();
        answers.read_line(&mut header)?;
        let size: u64 = match header.trim_end().split(' ').collect::<Vec<_>>()[..] {
            [_, "blob", size] => size.parse().map_err(std::io::Error::other)?,
            _ => {
                return Err(std::io::Error::other(format!("{path}: git cat-file answered {header:?}")));
            }
        };
        let mut content = Vec::new();
        (&mut *answers).take(size).read_to_end(&mut content)?;
        answers.read_exact(&mut [0])?;
        if size < MAX_LFS_POINTER && content.starts_with(LFS_HEADER) {
            let text = format!(
                "{path} is a Git LFS pointer, and codeloc does not fetch LFS files; commit the file itself or remove it"
            );
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        Ok(content)
    }
}
