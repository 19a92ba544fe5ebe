//! A commit's files out of git's own objects, without a working tree.
//!
//! Guarantees: no hook, filter, attribute or submodule of the repository has a say; a [`Tree`] holds only files and
//! links that stay inside its root, within the limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, Read, Write},
    path::{Path, PathBuf},
};

use codeloc_git::program::{InteractiveProcess, Output, ProgramError, tail};
use codeloc_git::{Git, GitError};
use sha2::{Digest, Sha256};

use super::{
    BuildError, Limits, caches,
    disk::blocking,
    layer::Node,
    listing::{End, end_of, parse_listing, stays_inside},
};

/// An LFS pointer is smaller than this, by its specification.
const LFS_POINTER: u64 = 1024;
const LFS_HEADER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// In bytes, of a file that is read as text: ten times the lock of a large monorepo.
pub const LARGEST_TEXT: u64 = 4 << 20;

/// The files of a commit, or of one folder in it. Contents are object names.
#[derive(Debug)]
pub(super) struct Tree {
    pub repository: PathBuf,
    pub nodes: BTreeMap<String, Node<String>>,
    /// Seconds since 1970.
    pub commit_time: i64,
}

impl Tree {
    /// The paths of files, and of links that lead to one.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.nodes.keys().map(String::as_str).filter(|path| self.file(path).is_some()).collect()
    }

    /// Object and size of the file that a path leads to.
    fn file(&self, path: &str) -> Option<(&str, u64)> {
        let node = match self.nodes.get(path) {
            Some(Node::File { .. }) => self.nodes.get(path),
            _ => match end_of(path, &self.nodes) {
                End::At(end) => self.nodes.get(&end),
                End::Nowhere | End::Outside => None,
            },
        };
        match node? {
            Node::File { content, size, .. } => Some((content, *size)),
            Node::Link(_) => None,
        }
    }
}

/// The repositories that builds read from: one bare cache per URL.
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

    /// Fetches one commit, unless it is there already, and lists the files below `subdirectory`. Callers hold a lock on
    /// the URL.
    pub(super) async fn tree(&self, url: &str, commit: &str, subdirectory: Option<&str>) -> Result<Tree, BuildError> {
        let repository = self.folder.join(format!("{}.git", &hex::encode(Sha256::digest(url))[..32]));
        self.git.fetch_commit(&repository, url, commit).await.map_err(|error| unfetched(commit, &error))?;
        caches::used(&repository);

        // A commit's name may be that of a tree or a file: those have no time, and whoever wrote it must write another.
        let time = self
            .read(&repository, &["rev-list", "--max-count=1", "--format=%ct", "--no-commit-header", commit])
            .await?;
        if !time.status.success() || time.stdout.is_empty() {
            let kind = self.read(&repository, &["cat-file", "-t", commit]).await?;
            return Err(match kind.stdout.trim_ascii() {
                b"blob" | b"tree" => BuildError::Terminal(format!("{commit} is not a commit")),
                _ => failed("rev-list", &time),
            });
        }
        let commit_time =
            String::from_utf8_lossy(&time.stdout).trim().parse().map_err(|_| failed("rev-list", &time))?;
        let subdirectory =
            subdirectory.map(|path| path.trim_matches('/')).filter(|path| !path.is_empty() && *path != ".");
        let treeish = match subdirectory {
            None => commit.to_owned(),
            Some(path) if path.split('/').all(|part| !["", ".", ".."].contains(&part)) => {
                format!("{commit}:{path}")
            }
            Some(path) => {
                return Err(BuildError::Terminal(format!("subdirectory {path} is not a plain relative path")));
            }
        };
        let list = self.git.reading(&repository).arguments(["ls-tree", "-r", "-z", "-l", "--full-tree", &treeish]);
        let listing = list.run().await.map_err(|error| match error {
            // A few trees that hold each other many times over are billions of files.
            ProgramError::TooMuchOutput { .. } => {
                BuildError::Terminal("the commit has more files than can be listed; name a `subdirectory`".to_owned())
            }
            error => error.into(),
        })?;
        if !listing.status.success() {
            return Err(match subdirectory {
                Some(path) => BuildError::Terminal(format!("the commit has no folder {path} (`subdirectory`)")),
                None => failed("ls-tree", &listing),
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
        Ok(self.git.reading(repository).arguments(arguments).run().await?)
    }

    /// Contents are read from the local cache by one process; for blocking threads.
    pub(super) fn reader(&self, repository: &Path) -> Result<ObjectReader, BuildError> {
        Ok(ObjectReader(self.git.reading(repository).arguments(["cat-file", "--batch"]).start_interactive()?))
    }

    /// The texts of those `paths` that the tree has.
    pub(super) async fn texts(
        &self,
        tree: &Tree,
        paths: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, String>, BuildError> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        for path in paths {
            if let Some((object, size)) = tree.file(path) {
                if size > LARGEST_TEXT {
                    return Err(BuildError::Terminal(too_large(path, size)));
                }
                wanted.push((path.to_owned(), object.to_owned()));
            }
        }
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (repositories, repository) = (self.clone(), tree.repository.clone());
        blocking(move || {
            let mut reader = repositories.reader(&repository)?;
            let mut texts = BTreeMap::new();
            for (path, object) in wanted {
                let bytes = reader.read(&path, &object).map_err(|error| unreadable(&error))?;
                let text =
                    String::from_utf8(bytes).map_err(|_| BuildError::Terminal(format!("{path} is not UTF-8")))?;
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
                let bytes = reader.read(path, target).map_err(|error| unreadable(&error))?;
                let Ok(text) = String::from_utf8(bytes) else {
                    return Err(BuildError::Terminal(format!("symbolic link {path} has a target that is not UTF-8")));
                };
                *target = text;
            }
        }
        for (path, node) in &tree.nodes {
            if matches!(node, Node::Link(_)) && !stays_inside(path, &tree.nodes) {
                return Err(BuildError::Terminal(format!(
                    "symbolic link {path} leaves the repository (or its subdirectory)"
                )));
            }
        }
        Ok(())
    }
}

pub fn too_large(path: &str, size: u64) -> String {
    format!("{path} has {size} bytes, {LARGEST_TEXT} at most")
}

fn failed(command: &str, output: &Output) -> BuildError {
    BuildError::Transient(format!("git {command} failed: {}", tail(&output.stderr)))
}

/// A repository that hosts do not show may be one that the token does not reach yet: that can change without a commit.
fn unfetched(commit: &str, error: &GitError) -> BuildError {
    let text = format!("cannot fetch commit {commit}: {error}");
    match error {
        GitError::Refused { .. } | GitError::ReferenceNotFound { .. } | GitError::Malformed { .. } => {
            BuildError::Terminal(text)
        }
        GitError::Start { .. }
        | GitError::TimedOut { .. }
        | GitError::Failed { .. }
        | GitError::Token { .. }
        | GitError::Redirected { .. }
        | GitError::RepositoryNotFound { .. } => BuildError::Transient(text),
    }
}

/// What reading an object came to: an LFS pointer is the commit's fault, everything else the disk's.
pub(super) fn unreadable(error: &std::io::Error) -> BuildError {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return BuildError::Terminal(error.to_string());
    }
    BuildError::Transient(format!("cannot read the commit's files: {error}"))
}

/// `git cat-file --batch`, one object after the other.
pub(super) struct ObjectReader(InteractiveProcess);

impl ObjectReader {
    /// The whole content of a blob. An LFS pointer is [`std::io::ErrorKind::InvalidData`].
    pub(super) fn read(&mut self, path: &str, object: &str) -> std::io::Result<Vec<u8>> {
        let InteractiveProcess { requests, answers, .. } = &mut self.0;
        writeln!(requests, "{object}")?;
        requests.flush()?;
        let mut header = String::new();
        answers.read_line(&mut header)?;
        let size: u64 = match header.trim_end().split(' ').collect::<Vec<_>>()[..] {
            [_, "blob", size] => size.parse().map_err(std::io::Error::other)?,
            _ => {
                return Err(std::io::Error::other(format!("{path}: git answered {header:?}")));
            }
        };
        let mut content = Vec::new();
        (&mut *answers).take(size).read_to_end(&mut content)?;
        answers.read_exact(&mut [0])?;
        if size < LFS_POINTER && content.starts_with(LFS_HEADER) {
            let text =
                format!("{path} is a Git LFS pointer, and LFS is not fetched: commit the file itself, or leave it out");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        Ok(content)
    }
}
