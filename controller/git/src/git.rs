//! The git program: its settings, its environment, and reading references and commits.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use codeloc_core::ids::Commit;
use codeloc_crds::{GitReference, valid_reference_name};

use crate::error::{Cause, CommandError, GitError, TokenError, cause, one_line};
use crate::program::{Output, Program, ProgramError, inherited};
use crate::url::{Remote, is_below};

/// The variables that git's transports need in addition to those of every program: trusted certificates and SSH keys.
const INHERITED: [&str; 3] = ["GIT_SSL_CAINFO", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND"];

/// Set for every call; see git-config(1).
const CONFIGURATION: [&str; 13] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "core.autocrlf=false",
    "credential.helper=",
    "fetch.fsckObjects=true",
    "gc.auto=0",
    // A redirect would receive the token.
    "http.followRedirects=false",
    "init.defaultBranch=main",
    "maintenance.auto=false",
    "submodule.recurse=false",
    // A connection with less than 1000 bytes a second for 30 s is dead.
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
];

/// In bytes. The answer for a branch or tag has two lines.
pub(crate) const LARGEST_ANSWER: u64 = 1024 * 1024;

#[derive(Clone, Debug)]
pub struct GitSettings {
    pub program: PathBuf,
    /// git's HOME: an empty folder, created if it is missing.
    pub home: PathBuf,
    /// Prefixes of URLs and their replacements, as git's `insteadOf`: the longest match wins. The operator chooses the
    /// replacement, so it may be local or `http://`.
    pub url_rewrites: BTreeMap<String, String>,
    /// Prefixes of URLs, after rewriting, and the files with their tokens: `TOKEN`, or `USER:TOKEN` for hosts that require a
    /// certain user. codeloc reads the file for every call, so that a token can be replaced.
    pub tokens: BTreeMap<String, PathBuf>,
    /// Whether configs may name paths and `file://` URLs.
    pub allow_local: bool,
    /// The time limit of one call.
    pub timeout: Duration,
}

/// A cheap handle; calls are independent.
#[derive(Clone, Debug)]
pub struct Git {
    settings: GitSettings,
    environment: Vec<(&'static str, OsString)>,
}

/// Whether a text is the full hash of a commit.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The reference as in errors and in the status, for example `branch main`.
pub fn describe(reference: &GitReference) -> String {
    match reference {
        GitReference::Branch(name) => format!("branch {name}"),
        GitReference::Tag(name) => format!("tag {name}"),
        GitReference::Commit(commit) => format!("commit {commit}"),
    }
}

impl Git {
    pub fn new(settings: GitSettings) -> Self {
        let mut environment = inherited(&INHERITED);
        let value =
            |variable: &str| environment.iter().find(|(name, _)| *name == variable).map(|(_, value)| value.clone());
        // git's HTTPS ignores the variable that all other programs use.
        if let (None, Some(authorities)) = (value("GIT_SSL_CAINFO"), value("SSL_CERT_FILE")) {
            environment.push(("GIT_SSL_CAINFO", authorities));
        }
        Self { settings, environment }
    }

    /// The URL after rewriting, from which git fetches.
    pub fn rewrite(&self, url: &str) -> String {
        self.rewriting(url).unwrap_or_else(|| url.to_owned())
    }

    fn rewriting(&self, url: &str) -> Option<String> {
        let rewrites = self.settings.url_rewrites.iter();
        let (prefix, target) =
            rewrites.filter(|(prefix, _)| url.starts_with(prefix.as_str())).max_by_key(|(prefix, _)| prefix.len())?;
        Some(format!("{target}{}", &url[prefix.len()..]))
    }

    /// The commit of a branch or tag at its origin. A commit needs no request.
    pub async fn ls_remote(&self, url: &str, reference: &GitReference) -> Result<Commit, GitError> {
        const OPERATION: &str = "ls-remote";
        let remote = self.remote(url)?;
        let not_found = || GitError::ReferenceNotFound { url: remote.shown.clone(), reference: describe(reference) };
        let (name, candidates) = match reference {
            GitReference::Commit(commit) if is_commit(commit) => {
                return Ok(Commit::from(commit.to_ascii_lowercase()));
            }
            GitReference::Commit(_) => return Err(not_found()),
            GitReference::Branch(name) => (name, vec![format!("refs/heads/{name}")]),
            // An annotated tag is a separate object; `^{}` is the commit that it points to.
            GitReference::Tag(name) => (name, vec![format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")]),
        };
        if !valid_reference_name(name) {
            return Err(not_found());
        }
        let list =
            |command: Program, url: &str| command.arguments(["ls-remote", "--quiet", "--", url]).arguments(&candidates);
        let output = self.reach(&remote, OPERATION, list).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('\t')).collect();
        candidates
            .iter()
            .find_map(|candidate| lines.iter().find(|(_, name)| name == candidate))
            .map(|(commit, _)| *commit)
            .filter(|commit| is_commit(commit))
            .map(Commit::from)
            .ok_or_else(not_found)
    }

    /// Fetches a commit with its files, without history, into a bare repository, which is created if it is missing.
    pub async fn fetch_commit(&self, bare: &Path, url: &str, commit: &Commit) -> Result<(), GitError> {
        let remote = self.remote(url)?;
        let not_found =
            || GitError::ReferenceNotFound { url: remote.shown.clone(), reference: format!("commit {commit}") };
        if !is_commit(commit) {
            return Err(not_found());
        }
        self.initialise(bare, &remote).await?;
        if self.has_commit(bare, commit, &remote).await? {
            return Ok(());
        }
        // The reference protects the objects from garbage collection, and exists only once all of them are complete.
        let refspec = format!("+{commit}:refs/codeloc/{commit}");
        match self.fetch(bare, &remote, &["--depth=1", "--no-tags"], &[&refspec]).await {
            Ok(()) => Ok(()),
            // Some servers send only commits that a branch or tag points to: fetch all of those, with their history.
            Err(GitError::ReferenceNotFound { .. }) => {
                let all = ["+refs/heads/*:refs/codeloc/heads/*", "+refs/tags/*:refs/codeloc/tags/*"];
                // A branch `x` that was replaced by `x/y` must go first.
                self.fetch(bare, &remote, &["--no-tags", "--prune"], &all).await?;
                if !self.has_commit(bare, commit, &remote).await? {
                    return Err(not_found());
                }
                // A later fetch may remove the branch that has it.
                let keep = self.reading(bare).arguments(["update-ref", &format!("refs/codeloc/{commit}"), commit]);
                self.run(keep, "update-ref", &remote).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Resolves and fetches a reference, and returns its commit.
    pub async fn fetch_ref(&self, bare: &Path, url: &str, reference: &GitReference) -> Result<Commit, GitError> {
        let commit = self.ls_remote(url, reference).await?;
        self.fetch_commit(bare, url, &commit).await?;
        Ok(commit)
    }

    /// Writes one folder of a fetched commit to `target`, which must not exist, below the folder's own path.
    pub async fn check_out(&self, bare: &Path, commit: &Commit, folder: &str, target: &Path) -> Result<(), GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let path = |error: std::io::Error| GitError::Failed {
            operation: "checkout",
            url: place.shown.clone(),
            source: CommandError::File { path: target.display().to_string(), source: Arc::new(error) },
        };
        tokio::fs::create_dir_all(target).await.map_err(path)?;
        let index = target.with_extension("index");
        let prepared = |arguments: &[&str]| {
            let command = self.reading(bare).environment([("GIT_INDEX_FILE", &index)]);
            command.arguments([OsStr::new("--work-tree"), target.as_os_str()]).arguments(arguments)
        };
        // `.` is the whole tree.
        let folder = if folder == "." { "" } else { folder };
        let tree = format!("{commit}:{folder}");
        let exists = prepared(&["rev-parse", "--verify", "--quiet", "--end-of-options", &tree]);
        let missing = |_| GitError::ReferenceNotFound {
            url: place.shown.clone(),
            reference: format!("folder {folder}: commit at least one file in it"),
        };
        self.run(exists, "rev-parse", &place).await.map_err(missing)?;
        let prefix = format!("--prefix={folder}/");
        let read_tree = if folder.is_empty() { vec!["read-tree", &tree] } else { vec!["read-tree", &prefix, &tree] };
        self.run(prepared(&read_tree), "read-tree", &place).await?;
        self.run(prepared(&["checkout-index", "--all", "--force"]), "checkout-index", &place).await?;
        tokio::fs::remove_file(&index).await.map_err(path)
    }

    /// The commit of the checkout that contains a folder, if the folder is unchanged since that commit.
    pub async fn commit_of(&self, folder: &Path) -> Option<Commit> {
        let place = Remote::local("the folder of configs");
        let prepared = |arguments: &[&str]| {
            let command = self.command("none").arguments([OsStr::new("-C"), folder.as_os_str()]);
            command.arguments(["--no-optional-locks"]).arguments(arguments)
        };
        let head = self.run(prepared(&["rev-parse", "--verify", "--quiet", "HEAD"]), "rev-parse", &place).await.ok()?;
        let changes = prepared(&["status", "--porcelain", "--", "."]);
        let changes = self.run(changes, "status", &place).await.ok()?;
        let head = String::from_utf8(head.stdout).ok()?;
        let head = head.trim();
        (changes.stdout.is_empty() && is_commit(head)).then(|| Commit::from(head))
    }

    async fn initialise(&self, bare: &Path, remote: &Remote) -> Result<(), GitError> {
        if tokio::fs::try_exists(bare.join("HEAD")).await.unwrap_or(false) {
            return Ok(());
        }
        let command = self.command("none").arguments(["init", "--bare", "--quiet", "--template=", "--"]);
        let command = command.arguments([bare]);
        self.run(command, "init", remote).await.map(drop)
    }

    async fn has_commit(&self, bare: &Path, commit: &Commit, remote: &Remote) -> Result<bool, GitError> {
        // Only a reference of codeloc proves that a commit is there with all its files.
        let arguments = ["for-each-ref", "--contains", commit, "--count=1", "refs/codeloc"];
        let command = self.reading(bare).arguments(arguments);
        match self.run(command, "for-each-ref", remote).await {
            Ok(output) => Ok(!output.stdout.is_empty()),
            // "no such commit"
            Err(GitError::Failed { .. } | GitError::ReferenceNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self, bare: &Path, remote: &Remote, options: &[&str], refspecs: &[&str]) -> Result<(), GitError> {
        // A killed fetch leaves its locks behind; no other fetch uses this folder now.
        let _ = tokio::fs::remove_file(bare.join("shallow.lock")).await;
        for refspec in refspecs {
            if let Some((_, reference)) = refspec.split_once(':') {
                let _ = tokio::fs::remove_file(bare.join(format!("{reference}.lock"))).await;
            }
        }
        let fetching = |command: Program, url: &str| {
            let command = command.arguments([OsStr::new("--git-dir"), bare.as_os_str()]);
            let command = command.arguments(["fetch", "--no-recurse-submodules", "--no-write-fetch-head", "--quiet"]);
            command.arguments(options).arguments(["--", url]).arguments(refspecs)
        };
        self.reach(remote, "fetch", fetching).await.map(drop)
    }

    /// The URL after rewriting, if it is allowed.
    pub(crate) fn remote(&self, url: &str) -> Result<Remote, GitError> {
        match self.rewriting(url) {
            Some(target) => Remote::of_operator(target),
            None => Remote::of_config(url, self.settings.allow_local),
        }
    }

    /// A command that may reach the remote, with its token.
    pub(crate) async fn remote_command(&self, remote: &Remote) -> Result<Program, GitError> {
        let command = self.command(remote.protocol);
        let tokens = self.settings.tokens.iter();
        let matching = tokens.filter(|(prefix, _)| is_below(&remote.url, prefix));
        let Some((_, path)) = matching.max_by_key(|(prefix, _)| prefix.len()) else {
            return Ok(command);
        };
        let unreadable = |source: TokenError| GitError::Token {
            url: remote.shown.clone(),
            path: path.display().to_string(),
            source,
        };
        let token = tokio::fs::read_to_string(path).await;
        let token = token.map_err(|error| unreadable(TokenError::Read(Arc::new(error))))?;
        let token = token.trim();
        if token.is_empty() || token.contains(char::is_control) {
            return Err(unreadable(TokenError::NotOneLine));
        }
        // GitHub requires this user name, and other hosts accept it.
        let user_and_token = if token.contains(':') { token.to_owned() } else { format!("x-access-token:{token}") };
        let credentials = base64::engine::general_purpose::STANDARD.encode(user_and_token);
        // In the environment: every user of the machine can see the arguments.
        Ok(command.environment([
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            ("GIT_CONFIG_KEY_0", format!("http.{}.extraHeader", remote.url)),
            ("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {credentials}")),
        ]))
    }

    /// A git that reads local objects and can reach no remote. The caller adds the command and checks its exit status.
    pub fn reading(&self, bare: &Path) -> Program {
        self.command("none").arguments([OsStr::new("--git-dir"), bare.as_os_str()])
    }

    fn command(&self, protocol: &str) -> Program {
        Program::new(&self.settings.program, self.settings.timeout)
            .environment([("HOME", &self.settings.home)])
            .environment([
                ("LC_ALL", "C"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_ALLOW_PROTOCOL", protocol),
                ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20"),
            ])
            .environment(self.environment.iter().map(|(name, value)| (name, value)))
            .arguments(CONFIGURATION.iter().flat_map(|setting| ["-c", setting]))
    }

    pub(crate) async fn run(
        &self,
        command: Program,
        operation: &'static str,
        remote: &Remote,
    ) -> Result<Output, GitError> {
        let output = self.output(command.largest_output(LARGEST_ANSWER), operation, remote).await?;
        if output.status.success() {
            return Ok(output);
        }
        let detail = one_line(&output.stderr, output.status);
        Err(match cause(&output.stderr) {
            Cause::Repository => GitError::RepositoryNotFound { url: remote.shown.clone(), detail },
            Cause::Reference => {
                let reference = format!("such reference: {detail}");
                GitError::ReferenceNotFound { url: remote.shown.clone(), reference }
            }
            Cause::Malformed => GitError::Malformed { url: remote.shown.clone(), detail },
            Cause::Other => {
                GitError::Failed { operation, url: remote.shown.clone(), source: CommandError::Message(detail) }
            }
        })
    }

    /// Runs to the end and leaves it to the caller to check the exit status.
    pub(crate) async fn output(
        &self,
        command: Program,
        operation: &'static str,
        remote: &Remote,
    ) -> Result<Output, GitError> {
        let start = |source| GitError::Start { program: self.settings.program.display().to_string(), source };
        tokio::fs::create_dir_all(&self.settings.home).await.map_err(|error| start(Arc::new(error)))?;
        command.run().await.map_err(|error| match error {
            ProgramError::Start { source, .. } => start(source),
            ProgramError::TimedOut { seconds, .. } => {
                GitError::TimedOut { operation, url: remote.shown.clone(), seconds }
            }
            error @ (ProgramError::TooMuchOutput { .. }
            | ProgramError::TooMuchWritten { .. }
            | ProgramError::Pipe { .. }) => {
                GitError::Failed { operation, url: remote.shown.clone(), source: CommandError::Program(error) }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(url_rewrites: &[(&str, &str)], tokens: BTreeMap<String, PathBuf>) -> Git {
        Git::new(GitSettings {
            program: "git".into(),
            home: "/nonexistent/home".into(),
            url_rewrites: url_rewrites.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
            tokens,
            allow_local: false,
            timeout: Duration::from_mins(1),
        })
    }

    #[test]
    fn only_a_full_hash_is_a_commit() {
        assert!(is_commit("0123456789abcdefABCDEF0123456789abcdef01"));
        for text in ["", "0123456", "g123456789abcdefabcdef0123456789abcdef01", "main"] {
            assert!(!is_commit(text), "{text}");
        }
    }

    #[test]
    fn the_longest_prefix_rewrites_a_url() {
        let git = git(&[("https://host/", "https://mirror/"), ("https://host/team/", "/srv/")], BTreeMap::new());
        assert_eq!(git.rewrite("https://host/team/x.git"), "/srv/x.git");
        assert_eq!(git.rewrite("https://host/x.git"), "https://mirror/x.git");
        assert_eq!(git.rewrite("https://other/x.git"), "https://other/x.git");
    }

    #[test]
    fn a_reference_is_described_with_its_kind() {
        assert_eq!(describe(&GitReference::Branch("main".to_owned())), "branch main");
        assert_eq!(describe(&GitReference::Tag("v1".to_owned())), "tag v1");
    }

    #[tokio::test]
    async fn an_unreadable_token_is_an_error_with_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, empty) = (folder.path().join("missing"), folder.path().join("empty"));
        std::fs::write(&empty, "hunter2\nsecond line\n").unwrap();
        for (path, cause) in
            [(missing, "No such file or directory"), (empty, "the file must contain exactly one line of text")]
        {
            let git = git(&[], BTreeMap::from([("https://host/".to_owned(), path.clone())]));
            let error = git.remote_command(&git.remote("https://host/x").unwrap()).await.err().unwrap();
            let text = error.to_string();
            assert!(text.starts_with(&format!("cannot read the token for https://host/x from {}: ", path.display())));
            assert!(text.contains(cause) && !format!("{error:?}").contains("hunter2"), "{text}");
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(text.ends_with(&source), "{source}");
        }
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error_with_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        let mut git = git(&[], BTreeMap::new());
        git.settings.home = folder.path().join("home");
        git.settings.program = folder.path().join("git");
        let error = git.ls_remote("https://host/x", &GitReference::Branch("main".to_owned())).await.unwrap_err();
        assert!(matches!(error, GitError::Start { .. }) && std::error::Error::source(&error).is_some(), "{error:?}");
    }
}
