//! Commits of one file each, made without a checkout, and their way to the origin.

use std::ffi::OsStr;
use std::path::Path;

use super::url::Remote;
use super::{Git, GitError};
use crate::program::Program;

/// Who a commit is by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

/// How a push went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Done,
    /// Somebody else pushed to the branch meanwhile.
    Behind,
}

/// A file of a commit, as far as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileText {
    Whole(String),
    /// It has so many bytes.
    TooLarge(u64),
}

/// Links on the way to one file, as Linux counts them.
const MOST_LINKS: usize = 40;

/// What git says of a branch that has moved on.
const BEHIND: [&str; 4] = ["[rejected]", "non-fast-forward", "cannot lock ref", "incorrect old value"];

impl Git {
    /// The text of one file of a fetched commit; nothing where there is none.
    pub async fn read_file(&self, bare: &Path, commit: &str, path: &str) -> Result<Option<String>, GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let listed = self.reading(bare).arguments(["ls-tree", "--full-tree", commit, "--", path]);
        let listed = self.run(listed, "ls-tree", &place).await?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        // `mode blob hash<TAB>path`; a link or a folder of that name is no config.
        let mut words = listed.split_whitespace();
        let (Some(mode), Some("blob"), Some(blob)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        if mode.starts_with("12") {
            return Ok(None);
        }
        let command = self.reading(bare).arguments(["cat-file", "blob", blob]);
        let output = self.run(command, "cat-file", &place).await?;
        Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The text of one file below `root` (empty, or with a slash at its end), through symbolic links that stay below it; nothing
    /// where there is none.
    pub async fn read_below(
        &self,
        bare: &Path,
        commit: &str,
        root: &str,
        file: &str,
        largest: u64,
    ) -> Result<Option<FileText>, GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let mut path = file.to_owned();
        for _ in 0..=MOST_LINKS {
            let whole = format!("{root}{path}");
            let listed = self.reading(bare).arguments(["ls-tree", "-l", "--full-tree", commit, "--", &whole]);
            let listed = self.run(listed, "ls-tree", &place).await?;
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            // `mode blob hash size<TAB>path`
            let mut words = listed.split_whitespace();
            let (Some(mode), Some("blob"), Some(blob)) = (words.next(), words.next(), words.next()) else {
                return Ok(None);
            };
            let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(u64::MAX);
            if size > largest {
                return Ok(Some(FileText::TooLarge(size)));
            }
            let command = self.reading(bare).arguments(["cat-file", "blob", blob]);
            let output = self.run_up_to(largest, command, "cat-file", &place).await?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if !mode.starts_with("12") {
                return Ok(Some(FileText::Whole(text)));
            }
            match linked(&path, &text) {
                Some(target) => path = target,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The branch that a clone of the repository starts on.
    pub async fn default_branch(&self, url: &str) -> Result<String, GitError> {
        let remote = self.remote(url)?;
        let asking =
            |command: Program, url: &str| command.arguments(["ls-remote", "--quiet", "--symref", "--", url, "HEAD"]);
        let output = self.reach(&remote, "ls-remote", asking).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `ref: refs/heads/main<TAB>HEAD`
        let branch = text.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD"));
        let none = || GitError::ReferenceNotFound {
            url: remote.shown.clone(),
            reference: "commit on the branch that it starts with: commit something first".to_owned(),
        };
        branch.map(str::to_owned).ok_or_else(none)
    }

    /// Paths of a fetched commit that fit a glob and hold a line that fits an extended regular expression.
    pub async fn search(
        &self,
        bare: &Path,
        commit: &str,
        expression: &str,
        glob: &str,
    ) -> Result<Vec<String>, GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let command =
            self.reading(bare).arguments(["grep", "--extended-regexp", "--files-with-matches", "-z", "-e", expression]);
        match self.run(command.arguments([commit, "--", glob]), "grep", &place).await {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let of_commit = format!("{commit}:");
                Ok(text.split('\0').filter_map(|path| path.strip_prefix(&of_commit)).map(str::to_owned).collect())
            }
            // It ends with 1, and says nothing, where there is none.
            Err(GitError::Failed { detail, .. }) if detail.contains("exit status: 1") => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    /// A commit on top of `parent` in which one file is another, or gone; nobody sees it until it is pushed.
    pub async fn commit_file(
        &self,
        bare: &Path,
        parent: &str,
        path: &str,
        content: Option<&str>,
        message: &str,
        author: &Author,
    ) -> Result<String, GitError> {
        let place = Remote::local(&format!("commit {parent}"));
        let failed = |error: std::io::Error| GitError::Failed {
            operation: "commit",
            url: place.shown.clone(),
            detail: error.to_string(),
        };
        // In the bare folder, which is ours alone; removed when this ends in whatever way.
        let folder = tempfile::Builder::new().prefix("commit").tempdir_in(bare).map_err(failed)?;
        let index = folder.path().join("index");
        let prepared = |arguments: &[&str]| {
            let command = self.reading(bare).environment([("GIT_INDEX_FILE", &index)]);
            // Nothing is checked out; some commands ask for a place where something could be.
            command.arguments([OsStr::new("--work-tree"), folder.path().as_os_str()]).arguments(arguments)
        };
        self.run(prepared(&["read-tree", parent]), "read-tree", &place).await?;
        if let Some(content) = content {
            let file = folder.path().join("content");
            tokio::fs::write(&file, content).await.map_err(failed)?;
            let hash = prepared(&["hash-object", "-w", "--no-filters", "--"]).arguments([&file]);
            let blob = self.word(hash, "hash-object", &place).await?;
            let entry = format!("100644,{blob},{path}");
            self.run(prepared(&["update-index", "--add", "--cacheinfo", &entry]), "update-index", &place).await?;
        } else {
            self.run(prepared(&["update-index", "--force-remove", "--", path]), "update-index", &place).await?;
        }
        let tree = self.word(prepared(&["write-tree"]), "write-tree", &place).await?;
        let commit = prepared(&["commit-tree", &tree, "-p", parent, "-m", message]).environment([
            ("GIT_AUTHOR_NAME", &author.name),
            ("GIT_AUTHOR_EMAIL", &author.email),
            ("GIT_COMMITTER_NAME", &author.name),
            ("GIT_COMMITTER_EMAIL", &author.email),
        ]);
        self.word(commit, "commit-tree", &place).await
    }

    /// Makes a commit the newest of a branch, if it stands on the one that is.
    pub async fn push(&self, bare: &Path, url: &str, commit: &str, branch: &str) -> Result<Pushed, GitError> {
        let remote = self.remote(url)?;
        let wanted = format!("{commit}:refs/heads/{branch}");
        let pushing = |command: Program, url: &str| {
            let command = command.arguments([OsStr::new("--git-dir"), bare.as_os_str()]);
            command.arguments(["push", "--quiet", "--no-verify", "--", url, &wanted])
        };
        match self.reach(&remote, "push", pushing).await {
            Ok(_) => Ok(Pushed::Done),
            Err(error) if BEHIND.iter().any(|words| error.to_string().contains(words)) => Ok(Pushed::Behind),
            Err(error) => Err(error),
        }
    }

    async fn word(&self, command: Program, operation: &'static str, place: &Remote) -> Result<String, GitError> {
        let output = self.run(command, operation, place).await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Where a link leads, by its own path and its text; nothing where that is outside.
fn linked(path: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
