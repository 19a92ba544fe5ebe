//! A commit's files out of git's own objects, without a working tree.
//!
//! Guarantees: no hook, filter, attribute or submodule of the repository has a say; a [`Tree`] holds only files and
//! links that stay inside its root, within the limits. Assumes a server that hands out a commit by its hash, as all
//! that speak protocol version 2 do.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    BuildError, GitSettings, Limits,
    layer::Node,
    listing::{parse_listing, stays_inside},
    process::{Output, Program, blocking, on_disk, tail},
};

/// An LFS pointer is smaller than this, by its specification.
const LFS_POINTER: u64 = 1024;
const LFS_HEADER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The files of a commit, or of one folder in it. Contents are object names.
#[derive(Debug)]
pub(super) struct Tree {
    pub repository: PathBuf,
    pub nodes: BTreeMap<String, Node<String>>,
    /// Seconds since 1970.
    pub commit_time: i64,
}

impl Tree {
    pub(super) fn files(&self) -> BTreeSet<&str> {
        let is_file = |node: &Node<String>| matches!(node, Node::File { .. });
        self.nodes
            .iter()
            .filter(|(_, node)| is_file(node))
            .map(|(path, _)| path.as_str())
            .collect()
    }
}

/// git as a program with an environment of its own, and one bare cache per URL.
#[derive(Clone, Debug)]
pub(super) struct Git {
    settings: GitSettings,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    limits: Limits,
}

impl Git {
    /// `passed` are the variables taken over from the controller's environment.
    pub(super) fn new(
        settings: &GitSettings,
        folder: PathBuf,
        passed: &BTreeMap<String, String>,
        limits: Limits,
    ) -> Self {
        let mut environment: Vec<(String, String)> = passed
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let protocols = if settings.allow_local {
            "https:ssh:file"
        } else {
            "https:ssh"
        };
        let home = settings
            .home
            .as_deref()
            .unwrap_or(&folder)
            .to_string_lossy()
            .into_owned();
        let fixed = [
            ("HOME", home.as_str()),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", protocols),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        ];
        environment.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if let Some(authorities) = passed.get("SSL_CERT_FILE") {
            environment.push(("GIT_SSL_CAINFO".to_owned(), authorities.clone()));
        }
        Self {
            settings: settings.clone(),
            folder,
            environment,
            limits,
        }
    }

    /// The cache that belongs to a URL; callers hold a lock on it while they fetch.
    pub(super) fn cache(&self, url: &str) -> PathBuf {
        self.folder
            .join(format!("{}.git", &hex::encode(Sha256::digest(url))[..32]))
    }

    /// Fetches one commit, unless it is there already, and lists the files below `subdirectory`.
    pub(super) async fn tree(
        &self,
        url: &str,
        commit: &str,
        subdirectory: Option<&str>,
    ) -> Result<Tree, BuildError> {
        check_url(url, self.settings.allow_local)?;
        check_commit(commit)?;
        let repository = self.cache(url);
        self.fetch(&repository, url, commit).await?;

        let time = self
            .run(&repository, &["show", "--no-patch", "--format=%ct", commit])
            .await?;
        let commit_time = String::from_utf8_lossy(&time.stdout)
            .trim()
            .parse()
            .map_err(|_| failed("show", &time))?;
        let subdirectory = subdirectory
            .map(|path| path.trim_matches('/'))
            .filter(|path| !path.is_empty() && *path != ".");
        let treeish = match subdirectory {
            None => commit.to_owned(),
            Some(path) if path.split('/').all(|part| !["", ".", ".."].contains(&part)) => {
                format!("{commit}:{path}")
            }
            Some(path) => {
                return Err(BuildError::Terminal(format!(
                    "subdirectory {path} is not a plain relative path"
                )));
            }
        };
        let listing = self
            .run(
                &repository,
                &["ls-tree", "-r", "-z", "-l", "--full-tree", &treeish],
            )
            .await?;
        if !listing.success {
            return Err(match subdirectory {
                Some(path) => BuildError::Terminal(format!(
                    "the commit has no folder {path} (`subdirectory`)"
                )),
                None => failed("ls-tree", &listing),
            });
        }
        let nodes = parse_listing(&listing.stdout, self.limits)?;
        let git = self.clone();
        blocking(move || {
            let mut tree = Tree {
                repository,
                nodes,
                commit_time,
            };
            git.read_links(&mut tree)?;
            Ok(tree)
        })
        .await
    }

    async fn fetch(&self, repository: &Path, url: &str, commit: &str) -> Result<(), BuildError> {
        if !repository.join("HEAD").exists() {
            std::fs::create_dir_all(repository).map_err(|error| on_disk(repository, &error))?;
            let made = self
                .run(repository, &["init", "--quiet", "--bare", "--template="])
                .await?;
            if !made.success {
                return Err(failed("init", &made));
            }
        }
        let object = format!("{commit}^{{commit}}");
        if self
            .run(repository, &["cat-file", "-e", &object])
            .await?
            .success
        {
            return Ok(());
        }
        let arguments = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--",
            url,
            commit,
        ];
        let fetched = self.run(repository, &arguments).await?;
        if fetched.success {
            return Ok(());
        }
        let text = format!("cannot fetch commit {commit}: {}", tail(&fetched.stderr));
        // `upload-pack: not our ref` and `couldn't find remote ref`: the server answered, and it has no such commit.
        let absent = ["not our ref", "find remote ref", "unadvertised object"]
            .iter()
            .any(|sign| fetched.stderr.contains(sign));
        Err(if absent {
            BuildError::Terminal(text)
        } else {
            BuildError::Transient(text)
        })
    }

    async fn run(&self, repository: &Path, arguments: &[&str]) -> Result<Output, BuildError> {
        let options = [
            "core.hooksPath=/dev/null",
            "core.attributesFile=/dev/null",
            "fetch.fsckObjects=true",
            "transfer.fsckObjects=true",
            "protocol.version=2",
            "gc.auto=0",
            "maintenance.auto=false",
        ];
        Program::new(&self.settings.program, repository, self.settings.timeout)
            .environment(self.environment.iter().map(|(name, value)| (name, value)))
            .environment([("GIT_DIR", repository)])
            .arguments(options.iter().flat_map(|option| ["-c", option]))
            .arguments(arguments)
            .run()
            .await
    }

    /// Contents are read from the local cache by one process; for blocking threads.
    pub(super) fn reader(&self, repository: &Path) -> Result<ObjectReader, BuildError> {
        let mut child = std::process::Command::new(&self.settings.program)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("GIT_DIR", repository)
            .current_dir(repository)
            .args(["cat-file", "--batch"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .map_err(|error| {
                BuildError::Transient(format!("cannot start git: {error}; is it installed?"))
            })?;
        let requests = child.stdin.take().expect("the pipe was asked for");
        let answers = BufReader::new(child.stdout.take().expect("the pipe was asked for"));
        Ok(ObjectReader {
            child,
            requests,
            answers,
        })
    }

    /// The texts of those `paths` that the tree has.
    pub(super) async fn texts(
        &self,
        tree: &Tree,
        paths: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, String>, BuildError> {
        let wanted: Vec<(String, String)> = paths
            .into_iter()
            .filter_map(|path| match tree.nodes.get(path)? {
                Node::File { content, .. } => Some((path.to_owned(), content.clone())),
                Node::Link(_) => None,
            })
            .collect();
        let (git, repository) = (self.clone(), tree.repository.clone());
        blocking(move || {
            let mut reader = git.reader(&repository)?;
            let mut texts = BTreeMap::new();
            for (path, object) in wanted {
                let bytes = reader
                    .read(&path, &object)
                    .map_err(|error| unreadable(&error))?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| BuildError::Terminal(format!("{path} is not UTF-8")))?;
                texts.insert(path, text);
            }
            Ok(texts)
        })
        .await
    }

    fn read_links(&self, tree: &mut Tree) -> Result<(), BuildError> {
        let mut reader = self.reader(&tree.repository)?;
        for (path, node) in &mut tree.nodes {
            if let Node::Link(target) = node {
                let bytes = reader
                    .read(path, target)
                    .map_err(|error| unreadable(&error))?;
                let text = String::from_utf8(bytes).unwrap_or_default();
                if !stays_inside(path, &text) {
                    return Err(BuildError::Terminal(format!(
                        "symbolic link {path} leaves the repository (or its subdirectory)"
                    )));
                }
                *target = text;
            }
        }
        Ok(())
    }
}

fn failed(command: &str, output: &Output) -> BuildError {
    BuildError::Transient(format!("git {command} failed: {}", tail(&output.stderr)))
}

/// What reading an object came to: an LFS pointer is the commit's fault, everything else the disk's.
pub(super) fn unreadable(error: &std::io::Error) -> BuildError {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return BuildError::Terminal(error.to_string());
    }
    BuildError::Transient(format!("cannot read the commit's files: {error}"))
}

/// `git cat-file --batch`, one object after the other.
pub(super) struct ObjectReader {
    child: std::process::Child,
    requests: std::process::ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl ObjectReader {
    /// The whole content of a blob. An LFS pointer is [`std::io::ErrorKind::InvalidData`].
    pub(super) fn read(&mut self, path: &str, object: &str) -> std::io::Result<Vec<u8>> {
        writeln!(self.requests, "{object}")?;
        self.requests.flush()?;
        let mut header = String::new();
        self.answers.read_line(&mut header)?;
        let size: u64 = match header.trim_end().split(' ').collect::<Vec<_>>()[..] {
            [_, "blob", size] => size.parse().map_err(std::io::Error::other)?,
            _ => {
                return Err(std::io::Error::other(format!(
                    "{path}: git answered {header:?}"
                )));
            }
        };
        let mut content = Vec::new();
        (&mut self.answers).take(size).read_to_end(&mut content)?;
        self.answers.read_exact(&mut [0])?;
        if size < LFS_POINTER && content.starts_with(LFS_HEADER) {
            let text = format!(
                "{path} is a Git LFS pointer, and LFS is not fetched: commit the file itself, or leave it out"
            );
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        Ok(content)
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check_commit(commit: &str) -> Result<(), BuildError> {
    if commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(BuildError::Terminal(format!(
        "{commit:?} is not a commit: 40 hexadecimal digits"
    )))
}

/// Only `https://` and ssh; never the addresses under which clouds keep their metadata.
fn check_url(url: &str, allow_local: bool) -> Result<(), BuildError> {
    let refused = |why: &str| {
        Err(BuildError::Terminal(format!(
            "git URL {} is refused: {why}",
            super::process::redacted(url)
        )))
    };
    let host = if let Some(rest) = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("ssh://"))
    {
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        match host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        }
    } else if url.starts_with("file://") || url.starts_with('/') {
        return if allow_local {
            Ok(())
        } else {
            refused("local repositories are not allowed here")
        };
    } else if let Some((host, _)) = url
        .split_once(':')
        .filter(|(host, path)| !host.contains('/') && !path.starts_with([':', '/']))
    {
        host.rsplit('@').next().unwrap_or_default()
    } else {
        return refused("use https:// or ssh");
    };
    let link_local = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_link_local() || address.is_unspecified(),
        Ok(IpAddr::V6(address)) => {
            let mapped = address
                .to_ipv4_mapped()
                .is_some_and(|address| address.is_link_local());
            mapped || address.is_unicast_link_local() || address.is_unique_local()
        }
        Err(_) => host.eq_ignore_ascii_case("metadata.google.internal"),
    };
    if host.is_empty() || host.starts_with('-') || link_local {
        refused("its host is not one to fetch from")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_metadata_services_and_strange_protocols_are_refused() {
        for url in [
            "https://github.com/o/r.git",
            "ssh://git@host:22/r",
            "git@github.com:o/r.git",
            "https://[2001:db8::1]/r",
        ] {
            check_url(url, false).unwrap();
        }
        for url in [
            "http://github.com/o/r",
            "ext::sh -c id",
            "file:///tmp/x",
            "/tmp/x",
            "../x",
            "https://169.254.169.254/latest",
            "https://u@[fe80::1]:443/x",
            "https://[fd00:ec2::254]/x",
            "https://[::ffff:169.254.170.2]/x",
            "git@169.254.169.254:x",
            "https://metadata.google.internal/x",
            "ssh://-oProxyCommand=id/x",
            "--upload-pack=id",
        ] {
            assert!(
                matches!(check_url(url, false), Err(BuildError::Terminal(_))),
                "{url}"
            );
        }
        check_url("/tmp/x", true).unwrap();
    }
}
