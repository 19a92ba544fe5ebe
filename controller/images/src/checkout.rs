//! Reads the files of a commit from git objects, without a working tree.
//!
//! Guarantees: no hook, filter or attribute of the repository has an effect, and codeloc fetches neither submodules nor LFS files; a [`Tree`] contains only files and
//! links inside its root, within the limits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{BufRead, Read, Write},
    path::{Path, PathBuf},
};

use codeloc_core::ids::Commit;
use codeloc_crds::CodePointer;
use codeloc_git::program::{InteractiveProcess, Output, ProgramError, tail};
use codeloc_git::{Git, GitError};

use crate::caches;
use crate::digest::sha256_hex;
use crate::disk::blocking;
use crate::error::BuildError;
use crate::layer::Node;
use crate::listing::{Destination, Listing, destination, parse_listing, stays_inside};
use crate::project::files::{Files, decode};
use crate::project::{self, BuiltProject, Plan, Wanted};
use crate::settings::Limits;
use crate::uv::plain_index;

/// The Git LFS specification limits a pointer to fewer bytes than this.
const MAX_LFS_POINTER: u64 = 1024;
const LFS_HEADER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The maximum size in bytes of a file that codeloc reads as text.
const LARGEST_TEXT: u64 = 4 << 20;
/// The same for a lock: many times that of a large monorepo.
const LARGEST_LOCK: u64 = 64 << 20;

/// The files of a commit, or of one folder in it. A file's content is its object name.
#[derive(Debug)]
pub(super) struct Tree {
    /// The folder, from the root of the repository; empty for the whole commit.
    pub folder: String,
    pub repository: PathBuf,
    pub commit: Commit,
    /// Relative to `folder`.
    pub nodes: BTreeMap<String, Node<String>>,
    /// The paths of submodules, which codeloc does not fetch.
    pub submodules: Vec<String>,
    /// Seconds since 1970.
    pub commit_time: i64,
}

impl Tree {
    /// The paths of files, and of links to files.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.nodes.keys().map(String::as_str).filter(|path| self.is_file(path)).collect()
    }

    /// The path that a setting means: the path itself if the commit has it, otherwise the file that links of folders lead to.
    pub(super) fn resolve(&self, path: &str) -> String {
        let path = path.trim_start_matches("./");
        match destination(path, &self.nodes) {
            Destination::Inside(file) if !self.nodes.contains_key(path) && self.nodes.contains_key(&file) => file,
            Destination::Inside(_) | Destination::Circle | Destination::Outside => path.to_owned(),
        }
    }

    fn is_file(&self, path: &str) -> bool {
        let is_file = |path: &str| matches!(self.nodes.get(path), Some(Node::File { .. }));
        is_file(path)
            || match destination(path, &self.nodes) {
                Destination::Inside(path) => is_file(&path),
                Destination::Circle | Destination::Outside => false,
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
        let folder = subdirectory.map(|path| path.trim_matches('/')).filter(|path| *path != ".").unwrap_or_default();
        if !folder.is_empty() && folder.split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return Err(BuildError::terminal(format!(
                "the `subdirectory` {folder} is not a plain relative path; write a path such as team/project"
            )));
        }
        self.list(repository, commit, folder, commit_time).await
    }

    /// Lists the files below a folder of a fetched commit.
    async fn list(
        &self,
        repository: PathBuf,
        commit: &Commit,
        folder: &str,
        commit_time: i64,
    ) -> Result<Tree, BuildError> {
        let treeish = if folder.is_empty() { commit.to_string() } else { format!("{commit}:{folder}") };
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
            return Err(match folder {
                "" => git_failed("ls-tree", &listing),
                path => BuildError::terminal(format!(
                    "the commit has no folder {path} (`subdirectory`); write the path relative to the repository root"
                )),
            });
        }
        let Listing { nodes, submodules } = parse_listing(&listing.stdout, self.limits)?;
        let (repositories, commit, folder) = (self.clone(), commit.clone(), folder.to_owned());
        blocking(move || {
            let mut tree = Tree { folder, repository, commit, nodes, submodules, commit_time };
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

    /// Fetches the commit of a tree, unless the repository still has it. The caller holds a lock on the URL.
    pub(super) async fn fetch_again(&self, url: &str, tree: &Tree) -> Result<(), BuildError> {
        let fetched = self.git.fetch_commit(&tree.repository, url, &tree.commit).await;
        fetched.map_err(|error| fetch_error(&tree.commit, error))
    }

    /// The files below another folder of the same commit.
    pub(super) async fn beside(&self, tree: &Tree, folder: &str) -> Result<Tree, BuildError> {
        self.list(tree.repository.clone(), &tree.commit, folder, tree.commit_time).await
    }

    /// What the repository says about the Python project of a location.
    pub(super) async fn plan(&self, tree: &Tree, wanted: OwnedWanted) -> Result<Plan, BuildError> {
        read_plan(self.git.clone(), tree.repository.clone(), tree.commit.clone(), tree.folder.clone(), wanted).await
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

/// What a caller of [`read_plan`] knows about the location.
pub(super) struct OwnedWanted {
    pub dependencies: Option<String>,
    pub code: Option<CodePointer>,
    pub python: Option<String>,
    /// What builds of projects have shown.
    pub built: Vec<BuiltProject>,
    /// Package indexes without credentials that projects may name.
    pub indexes: Vec<String>,
}

/// Reads the project in a folder of a fetched commit.
pub(super) async fn read_plan(
    git: Git,
    repository: PathBuf,
    commit: Commit,
    folder: String,
    wanted: OwnedWanted,
) -> Result<Plan, BuildError> {
    blocking(move || {
        let mut files = CommitFiles::open(&git, &repository, commit)?;
        let allows_index = |url: &str| wanted.indexes.contains(&plain_index(url));
        let wanted = Wanted {
            root: &folder,
            dependencies: wanted.dependencies.as_deref(),
            code: wanted.code.as_ref(),
            python: wanted.python.as_deref(),
            built: &wanted.built,
            allows_index: &allows_index,
        };
        project::read(&mut files, &wanted)
    })
    .await
}

/// The files of a fetched commit, read one by one.
pub(super) struct CommitFiles {
    process: InteractiveProcess,
    commit: Commit,
    texts: HashMap<String, Option<String>>,
    folders: HashMap<String, Vec<String>>,
}

impl CommitFiles {
    /// Starts one git process. Only for threads that may block.
    pub(super) fn open(git: &Git, repository: &Path, commit: Commit) -> Result<Self, BuildError> {
        let program = git.reading(repository).arguments(["cat-file", "--batch", "--follow-symlinks"]);
        let process = program.start_interactive().map_err(cannot_read_commit)?;
        Ok(Self { process, commit, texts: HashMap::new(), folders: HashMap::new() })
    }

    /// Kind and content of what is at a path; `None` if there is nothing.
    fn object(&mut self, path: &str) -> Result<Option<(String, usize, Vec<u8>)>, BuildError> {
        if path.contains('\n') {
            return Ok(None);
        }
        let InteractiveProcess { requests, answers, .. } = &mut self.process;
        let mut exchange = || -> std::io::Result<Option<(String, usize, Vec<u8>)>> {
            writeln!(requests, "{}:{path}", self.commit)?;
            requests.flush()?;
            let mut header = String::new();
            answers.read_line(&mut header)?;
            // The request itself is repeated in an answer without an object, and may contain spaces.
            let words: Vec<&str> = header.trim_end().split(' ').collect();
            if words.last().is_some_and(|last| ["missing", "ambiguous"].contains(last)) {
                return Ok(None);
            }
            let [object, kind, size] = words[..] else {
                // A link that leads to nothing: `KIND SIZE`, then the path.
                if let [_, size] = words[..]
                    && let Ok(size) = size.parse::<u64>()
                {
                    std::io::copy(&mut (&mut *answers).take(size + 1), &mut std::io::sink())?;
                    return Ok(None);
                }
                return Err(std::io::Error::other(format!("{path}: git cat-file answered {header:?}")));
            };
            let size: u64 = size.parse().map_err(std::io::Error::other)?;
            let name = path.rsplit('/').next().unwrap_or(path);
            let is_lock =
                ["uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"].contains(&name) || name.starts_with("pylock.");
            let largest = if is_lock { LARGEST_LOCK } else { LARGEST_TEXT };
            if size > largest {
                std::io::copy(&mut (&mut *answers).take(size + 1), &mut std::io::sink())?;
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("{path} has {size} bytes; codeloc reads at most {largest} bytes"),
                ));
            }
            let mut content = Vec::new();
            (&mut *answers).take(size).read_to_end(&mut content)?;
            answers.read_exact(&mut [0])?;
            Ok(Some((kind.to_owned(), object.len() / 2, content)))
        };
        exchange().map_err(read_error)
    }
}

impl Files for CommitFiles {
    fn text(&mut self, path: &str) -> Result<Option<String>, BuildError> {
        if let Some(text) = self.texts.get(path) {
            return Ok(text.clone());
        }
        let text = match self.object(path)? {
            Some((kind, _, content)) if kind == "blob" => Some(decode(&content).ok_or_else(|| {
                BuildError::terminal(format!("{path} is neither UTF-8 nor UTF-16; save it as UTF-8"))
            })?),
            _ => None,
        };
        self.texts.insert(path.to_owned(), text.clone());
        Ok(text)
    }

    fn names(&mut self, folder: &str) -> Result<Vec<String>, BuildError> {
        if let Some(names) = self.folders.get(folder) {
            return Ok(names.clone());
        }
        let names = match self.object(folder)? {
            Some((kind, id, content)) if kind == "tree" => tree_names(&content, id),
            _ => vec![],
        };
        self.folders.insert(folder.to_owned(), names.clone());
        Ok(names)
    }
}

/// The names in a tree object: entries `MODE SP NAME NUL ID`, whose ids have `id` bytes.
fn tree_names(content: &[u8], id: usize) -> Vec<String> {
    let (mut names, mut rest) = (Vec::new(), content);
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(&rest[..end]).into_owned();
        if let Some((mode, name)) = entry.split_once(' ') {
            // A link may lead to a folder or to a file.
            names.push(if mode == "40000" { format!("{name}/") } else { name.to_owned() });
        }
        rest = rest.get(end + 1 + id..).unwrap_or_default();
    }
    names
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

/// Whether a file is only the pointer of a large file, which codeloc does not fetch.
pub(super) fn is_lfs_pointer(content: &[u8]) -> bool {
    (content.len() as u64) < MAX_LFS_POINTER && content.starts_with(LFS_HEADER)
}

/// A file that is too large is an error of the commit. Every other failure is one of git or of the disk.
pub(super) fn read_error(error: std::io::Error) -> BuildError {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return BuildError::terminal(error.to_string()).caused_by(error);
    }
    BuildError::transient("cannot read the files of the commit").caused_by(error)
}

/// `git cat-file --batch`, which reads one object after the other.
pub(super) struct ObjectReader(InteractiveProcess);

impl ObjectReader {
    /// The content of a blob.
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
        Ok(content)
    }
}
