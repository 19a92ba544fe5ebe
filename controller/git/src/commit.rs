//! Reads files of commits, and creates and pushes commits of one file, without a checkout.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use codeloc_core::ids::Commit;

use crate::error::{CommandError, GitError};
use crate::git::Git;
use crate::program::Program;
use crate::url::Remote;

/// The author of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

/// The result of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Done,
    /// The branch has newer commits from another push.
    Behind,
}

/// git's messages for a branch with newer commits.
const BEHIND: [&str; 4] = ["[rejected]", "non-fast-forward", "cannot lock ref", "incorrect old value"];

impl Git {
    /// The content of one file of a fetched commit. `None` if it does not exist.
    pub async fn read_file(&self, bare: &Path, commit: &Commit, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let listed = self.reading(bare).arguments(["ls-tree", "--full-tree", commit, "--", path]);
        let listed = self.run(listed, "ls-tree", &place).await?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        // `mode blob hash<TAB>path`; a link or a folder is not a config.
        let mut fields = listed.split_whitespace();
        let (Some(mode), Some("blob"), Some(blob)) = (fields.next(), fields.next(), fields.next()) else {
            return Ok(None);
        };
        if mode.starts_with("12") {
            return Ok(None);
        }
        let command = self.reading(bare).arguments(["cat-file", "blob", blob]);
        Ok(Some(self.run(command, "cat-file", &place).await?.stdout))
    }

    /// The branch that a clone checks out.
    pub async fn default_branch(&self, url: &str) -> Result<String, GitError> {
        let remote = self.remote(url)?;
        let list =
            |command: Program, url: &str| command.arguments(["ls-remote", "--quiet", "--symref", "--", url, "HEAD"]);
        let output = self.reach(&remote, "ls-remote", list).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `ref: refs/heads/main<TAB>HEAD`
        let branch = text.lines().find_map(|line| line.strip_prefix("ref: refs/heads/")?.strip_suffix("\tHEAD"));
        let none = || GitError::ReferenceNotFound {
            url: remote.shown.clone(),
            reference: "commit on its default branch: push a commit first".to_owned(),
        };
        branch.map(str::to_owned).ok_or_else(none)
    }

    /// The paths of a fetched commit that match a glob and contain a line that matches an extended regular expression.
    pub async fn search(
        &self,
        bare: &Path,
        commit: &Commit,
        expression: &str,
        glob: &str,
    ) -> Result<Vec<String>, GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let command =
            self.reading(bare).arguments(["grep", "--extended-regexp", "--files-with-matches", "-z", "-e", expression]);
        match self.run(command.arguments([commit.as_str(), "--", glob]), "grep", &place).await {
            Ok(output) => {
                let of_commit = format!("{commit}:");
                // A config cannot name a path that is not UTF-8.
                let paths = output.stdout.split(|byte| *byte == 0).filter_map(|path| std::str::from_utf8(path).ok());
                Ok(paths.filter_map(|path| path.strip_prefix(&of_commit)).map(str::to_owned).collect())
            }
            // Without a match, git exits with 1 and prints nothing.
            Err(GitError::Failed { source: CommandError::Message(message), .. })
                if message.contains("exit status: 1") =>
            {
                Ok(vec![])
            }
            Err(error) => Err(error),
        }
    }

    /// Creates a commit on top of `parent` in which one file is changed or removed. It is local until it is pushed.
    pub async fn commit_file(
        &self,
        bare: &Path,
        parent: &Commit,
        path: &str,
        content: Option<&str>,
        message: &str,
        author: &Author,
    ) -> Result<Commit, GitError> {
        let place = Remote::local(&format!("commit {parent}"));
        let failed = |error: std::io::Error| GitError::Failed {
            operation: "commit",
            url: place.shown.clone(),
            source: CommandError::Io(Arc::new(error)),
        };
        // In the bare folder, which only codeloc uses. Removed when this function ends.
        let folder = tempfile::Builder::new().prefix("commit").tempdir_in(bare).map_err(failed)?;
        let index = folder.path().join("index");
        let prepared = |arguments: &[&str]| {
            let command = self.reading(bare).environment([("GIT_INDEX_FILE", &index)]);
            // Nothing is checked out, but some commands require a work tree.
            command.arguments([OsStr::new("--work-tree"), folder.path().as_os_str()]).arguments(arguments)
        };
        self.run(prepared(&["read-tree", parent]), "read-tree", &place).await?;
        if let Some(content) = content {
            let file = folder.path().join("content");
            tokio::fs::write(&file, content).await.map_err(failed)?;
            let hash = prepared(&["hash-object", "-w", "--no-filters", "--"]).arguments([&file]);
            let blob = self.first_word(hash, "hash-object", &place).await?;
            let entry = format!("100644,{blob},{path}");
            self.run(prepared(&["update-index", "--add", "--cacheinfo", &entry]), "update-index", &place).await?;
        } else {
            self.run(prepared(&["update-index", "--force-remove", "--", path]), "update-index", &place).await?;
        }
        let tree = self.first_word(prepared(&["write-tree"]), "write-tree", &place).await?;
        let commit = prepared(&["commit-tree", &tree, "-p", parent, "-m", message]).environment([
            ("GIT_AUTHOR_NAME", &author.name),
            ("GIT_AUTHOR_EMAIL", &author.email),
            ("GIT_COMMITTER_NAME", &author.name),
            ("GIT_COMMITTER_EMAIL", &author.email),
        ]);
        self.first_word(commit, "commit-tree", &place).await.map(Commit::from)
    }

    /// Pushes a commit to a branch whose newest commit is the commit's parent.
    pub async fn push(&self, bare: &Path, url: &str, commit: &Commit, branch: &str) -> Result<Pushed, GitError> {
        let remote = self.remote(url)?;
        let refspec = format!("{commit}:refs/heads/{branch}");
        let push = |command: Program, url: &str| {
            let command = command.arguments([OsStr::new("--git-dir"), bare.as_os_str()]);
            command.arguments(["push", "--quiet", "--no-verify", "--", url, &refspec])
        };
        match self.reach(&remote, "push", push).await {
            Ok(_) => Ok(Pushed::Done),
            Err(error) if BEHIND.iter().any(|phrase| error.to_string().contains(phrase)) => Ok(Pushed::Behind),
            Err(error) => Err(error),
        }
    }

    async fn first_word(&self, command: Program, operation: &'static str, place: &Remote) -> Result<String, GitError> {
        let output = self.run(command, operation, place).await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
