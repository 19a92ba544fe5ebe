//! git, called as a program that knows nothing of this machine and asks nobody.
//!
//! Guarantees: no configuration of the system or the user, no hooks, no prompts; only the one protocol that the URL names,
//! and only protocols that are allowed; user values never stand where git expects an option; every call ends in time,
//! with its children; credentials in URLs are masked in every error; git follows no redirect ([`redirect`]).
//! Assumes: one fetch at a time per bare folder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use codeloc_crds::{GitReference, valid_reference_name};
use error::{Cause, cause, one_line};
use url::{Remote, lies_under};

use crate::program::{Output, Program, ProgramError, inherited};

pub mod commit;
mod error;
mod failure;
pub mod program;
mod redirect;
pub mod refs;
mod url;

pub use error::GitError;
pub use failure::Failure;

/// What git's transports take of our environment besides what every program does: trusted certificates, and keys for SSH.
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
    // It would take the token along.
    "http.followRedirects=false",
    "init.defaultBranch=main",
    "maintenance.auto=false",
    "submodule.recurse=false",
    // A connection that gives less than 1000 bytes a second for 30 s is dead.
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
];

/// In bytes; a branch or tag is answered in two lines.
const LARGEST_ANSWER: u64 = 1024 * 1024;

#[derive(Clone, Debug)]
pub struct GitSettings {
    pub program: PathBuf,
    /// An empty folder of ours, made where it is missing; git's HOME.
    pub home: PathBuf,
    /// Beginnings of URLs and what stands in their place, as git's `insteadOf`: the longest that fits wins. A target is
    /// the operator's word: it may be local or `http://`.
    pub url_rewrites: BTreeMap<String, String>,
    /// Beginnings of URLs, after rewriting, and the files that hold the token for them: `TOKEN`, or `USER:TOKEN` for
    /// hosts that want a certain user. A file is read for every call, so that a token can be exchanged.
    pub tokens: BTreeMap<String, PathBuf>,
    /// Whether configs may name paths and `file://` URLs.
    pub allow_local: bool,
    /// Of one call.
    pub timeout: Duration,
}

/// A cheap handle; calls are independent.
#[derive(Clone, Debug)]
pub struct Git {
    settings: GitSettings,
    environment: Vec<(&'static str, OsString)>,
}

/// Whether a text is the full name of a commit.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// `branch main`, as errors and status say it.
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
        let value = |wanted: &str| environment.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone());
        // git's HTTPS does not look at the variable that everything else goes by.
        if let (None, Some(authorities)) = (value("GIT_SSL_CAINFO"), value("SSL_CERT_FILE")) {
            environment.push(("GIT_SSL_CAINFO", authorities));
        }
        Self { settings, environment }
    }

    /// The URL that is really fetched from.
    pub fn rewrite(&self, url: &str) -> String {
        self.rewriting(url).unwrap_or_else(|| url.to_owned())
    }

    fn rewriting(&self, url: &str) -> Option<String> {
        let rewrites = self.settings.url_rewrites.iter();
        let (beginning, target) =
            rewrites.filter(|(beginning, _)| url.starts_with(beginning.as_str())).max_by_key(|(from, _)| from.len())?;
        Some(format!("{target}{}", &url[beginning.len()..]))
    }

    /// The commit that a branch or tag names at its origin; a commit is its own answer, without asking.
    pub async fn ls_remote(&self, url: &str, reference: &GitReference) -> Result<String, GitError> {
        const OPERATION: &str = "ls-remote";
        let remote = self.remote(url)?;
        let not_found = || GitError::ReferenceNotFound { url: remote.shown.clone(), reference: describe(reference) };
        let (name, candidates) = match reference {
            GitReference::Commit(commit) if is_commit(commit) => {
                return Ok(commit.to_ascii_lowercase());
            }
            GitReference::Commit(_) => return Err(not_found()),
            GitReference::Branch(name) => (name, vec![format!("refs/heads/{name}")]),
            // An annotated tag is an object of its own; `^{}` is the commit it points at.
            GitReference::Tag(name) => (name, vec![format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}")]),
        };
        if !valid_reference_name(name) {
            return Err(not_found());
        }
        let asking =
            |command: Program, url: &str| command.arguments(["ls-remote", "--quiet", "--", url]).arguments(&candidates);
        let output = self.reach(&remote, OPERATION, asking).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('\t')).collect();
        candidates
            .iter()
            .find_map(|candidate| lines.iter().find(|(_, name)| name == candidate))
            .map(|(commit, _)| (*commit).to_owned())
            .filter(|commit| is_commit(commit))
            .ok_or_else(not_found)
    }

    /// Brings a commit with its files, without history, into a bare repository, which is made where it is missing.
    pub async fn fetch_commit(&self, bare: &Path, url: &str, commit: &str) -> Result<(), GitError> {
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
        // The reference keeps the objects from ever counting as garbage, and is only there once all of them are.
        let wanted = format!("+{commit}:refs/codeloc/{commit}");
        match self.fetch(bare, &remote, &["--depth=1", "--no-tags"], &[&wanted]).await {
            Ok(()) => Ok(()),
            // Some servers give only what a branch or tag names: take all of those, with their history.
            Err(GitError::ReferenceNotFound { .. }) => {
                let all = ["+refs/heads/*:refs/codeloc/heads/*", "+refs/tags/*:refs/codeloc/tags/*"];
                self.fetch(bare, &remote, &["--no-tags"], &all).await?;
                if self.has_commit(bare, commit, &remote).await? { Ok(()) } else { Err(not_found()) }
            }
            Err(error) => Err(error),
        }
    }

    /// Resolves and fetches; gives the commit.
    pub async fn fetch_ref(&self, bare: &Path, url: &str, reference: &GitReference) -> Result<String, GitError> {
        let commit = self.ls_remote(url, reference).await?;
        self.fetch_commit(bare, url, &commit).await?;
        Ok(commit)
    }

    /// Writes one folder of a fetched commit to `target`, which does not exist yet, under the folder's own path.
    pub async fn check_out(&self, bare: &Path, commit: &str, folder: &str, target: &Path) -> Result<(), GitError> {
        let place = Remote::local(&format!("commit {commit}"));
        let path = |error: std::io::Error| GitError::Failed {
            operation: "checkout",
            url: place.shown.clone(),
            detail: format!("{}: {error}", target.display()),
        };
        tokio::fs::create_dir_all(target).await.map_err(path)?;
        let index = target.with_extension("index");
        let prepared = |arguments: &[&str]| {
            let command = self.reading(bare).environment([("GIT_INDEX_FILE", &index)]);
            command.arguments([OsStr::new("--work-tree"), target.as_os_str()]).arguments(arguments)
        };
        // Without a folder, the whole tree.
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

    /// The commit of the checkout that a folder lies in, where the folder is exactly as committed.
    pub async fn commit_of(&self, folder: &Path) -> Option<String> {
        let place = Remote::local("the folder of configs");
        let prepared = |arguments: &[&str]| {
            let command = self.command("none").arguments([OsStr::new("-C"), folder.as_os_str()]);
            command.arguments(["--no-optional-locks"]).arguments(arguments)
        };
        let head = self.run(prepared(&["rev-parse", "--verify", "--quiet", "HEAD"]), "rev-parse", &place).await.ok()?;
        let changes = prepared(&["status", "--porcelain", "--", "."]);
        let changes = self.run(changes, "status", &place).await.ok()?;
        let head = String::from_utf8(head.stdout).ok()?.trim().to_owned();
        (changes.stdout.is_empty() && is_commit(&head)).then_some(head)
    }

    async fn initialise(&self, bare: &Path, remote: &Remote) -> Result<(), GitError> {
        if tokio::fs::try_exists(bare.join("HEAD")).await.unwrap_or(false) {
            return Ok(());
        }
        let command = self.command("none").arguments(["init", "--bare", "--quiet", "--template=", "--"]);
        let command = command.arguments([bare]);
        self.run(command, "init", remote).await.map(drop)
    }

    async fn has_commit(&self, bare: &Path, commit: &str, remote: &Remote) -> Result<bool, GitError> {
        // Only a reference of ours says that a commit came with all its files.
        let arguments = ["for-each-ref", "--contains", commit, "--count=1", "refs/codeloc"];
        let command = self.reading(bare).arguments(arguments);
        match self.run(command, "for-each-ref", remote).await {
            Ok(output) => Ok(!output.stdout.is_empty()),
            // "no such commit"
            Err(GitError::Failed { .. } | GitError::ReferenceNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self, bare: &Path, remote: &Remote, options: &[&str], wanted: &[&str]) -> Result<(), GitError> {
        // Left by a fetch that was ended; nobody else fetches into this folder now.
        let _ = tokio::fs::remove_file(bare.join("shallow.lock")).await;
        for wanted in wanted {
            if let Some((_, reference)) = wanted.split_once(':') {
                let _ = tokio::fs::remove_file(bare.join(format!("{reference}.lock"))).await;
            }
        }
        let fetching = |command: Program, url: &str| {
            let command = command.arguments([OsStr::new("--git-dir"), bare.as_os_str()]);
            let command = command.arguments(["fetch", "--no-recurse-submodules", "--no-write-fetch-head", "--quiet"]);
            command.arguments(options).arguments(["--", url]).arguments(wanted)
        };
        self.reach(remote, "fetch", fetching).await.map(drop)
    }

    /// The URL after rewriting, if it may be used.
    fn remote(&self, url: &str) -> Result<Remote, GitError> {
        match self.rewriting(url) {
            Some(target) => Remote::of_operator(target),
            None => Remote::of_config(url, self.settings.allow_local),
        }
    }

    /// A command that may reach out to the remote, with its token.
    async fn remote_command(&self, remote: &Remote) -> Result<Program, GitError> {
        let command = self.command(remote.protocol);
        let tokens = self.settings.tokens.iter();
        let fitting = tokens.filter(|(beginning, _)| lies_under(&remote.url, beginning));
        let Some((_, path)) = fitting.max_by_key(|(beginning, _)| beginning.len()) else {
            return Ok(command);
        };
        let unreadable =
            |reason: String| GitError::Token { url: remote.shown.clone(), path: path.display().to_string(), reason };
        let token = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(error.to_string()))?;
        let token = token.trim();
        if token.is_empty() || token.contains(char::is_control) {
            return Err(unreadable("it does not hold one line of text".to_owned()));
        }
        // The user name that GitHub wants and the others take.
        let user_and_token = if token.contains(':') { token.to_owned() } else { format!("x-access-token:{token}") };
        let credentials = base64::engine::general_purpose::STANDARD.encode(user_and_token);
        // Through the environment: arguments can be seen by every user of the machine.
        Ok(command.environment([
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            ("GIT_CONFIG_KEY_0", format!("http.{}.extraHeader", remote.url)),
            ("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {credentials}")),
        ]))
    }

    /// A git that reads objects which are here, and can reach no remote; the caller adds the command and judges its exit.
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

    async fn run(&self, command: Program, operation: &'static str, remote: &Remote) -> Result<Output, GitError> {
        self.run_up_to(LARGEST_ANSWER, command, operation, remote).await
    }

    async fn run_up_to(
        &self,
        bytes: u64,
        command: Program,
        operation: &'static str,
        remote: &Remote,
    ) -> Result<Output, GitError> {
        let output = self.output(command.largest_output(bytes), operation, remote).await?;
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
            Cause::Other => GitError::Failed { operation, url: remote.shown.clone(), detail },
        })
    }

    /// Runs to the end, whether that is a success or not.
    async fn output(&self, command: Program, operation: &'static str, remote: &Remote) -> Result<Output, GitError> {
        let failed = |detail: String| GitError::Failed { operation, url: remote.shown.clone(), detail };
        let start = |reason: String| GitError::Start { program: self.settings.program.display().to_string(), reason };
        tokio::fs::create_dir_all(&self.settings.home).await.map_err(|error| start(error.to_string()))?;
        command.run().await.map_err(|error| match error {
            ProgramError::Start { reason, .. } => start(reason),
            ProgramError::TimedOut { seconds, .. } => {
                GitError::TimedOut { operation, url: remote.shown.clone(), seconds }
            }
            ProgramError::TooMuchOutput { .. } | ProgramError::Pipe { .. } => failed(error.to_string()),
        })
    }
}
