//! The URLs from which git may fetch.
//!
//! Guarantees: the URL of a config is encrypted, and refers to this machine only if the operator allows it; no URL reaches the
//! metadata addresses at which clouds issue the controller's own credentials.

use codeloc_crds::{mask_credentials, reaches_metadata, reaches_this_machine};

use crate::error::GitError;

/// A URL from which git may fetch.
#[derive(Clone)]
pub(crate) struct Remote {
    pub url: String,
    /// The URL without credentials, for errors.
    pub shown: String,
    /// With its port. Empty for a path.
    host: String,
    /// The only protocol that git may use.
    pub protocol: &'static str,
}

impl std::fmt::Debug for Remote {
    /// Without the credentials that the URL may contain.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Remote").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Remote {
    /// No remote: for work on local objects.
    pub fn local(shown: &str) -> Self {
        Self { url: String::new(), shown: shown.to_owned(), host: String::new(), protocol: "none" }
    }

    pub fn of_config(url: &str, allow_local: bool) -> Result<Self, GitError> {
        let remote = Self::checked(url.to_owned())?;
        match remote.protocol {
            "http" => Err(refused(url, USE_HTTPS_OR_SSH)),
            "file" if !allow_local => Err(refused(url, "the settings do not allow repositories on this machine")),
            _ if !allow_local && reaches_this_machine(&remote.host) => {
                Err(refused(url, "codeloc does not fetch from this machine"))
            }
            _ => Ok(remote),
        }
    }

    /// The result of the operator's rewriting: it may be local or without encryption.
    pub fn of_operator(url: String) -> Result<Self, GitError> {
        Self::checked(url)
    }

    /// The repository on the same host that this one redirects to.
    pub fn moved_to(&self, location: &str) -> Result<Self, GitError> {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let own_authority = rest.split('/').next().unwrap_or_default();
        let (new_scheme, target) = match location.split_once("://") {
            Some((scheme, target)) => (scheme, target.to_owned()),
            None => match location.strip_prefix("//") {
                Some(target) => (scheme, target.to_owned()),
                None => (scheme, format!("{}/{}", self.host, location.trim_start_matches('/'))),
            },
        };
        let end = target.find(['/', '?', '#', '\\']).unwrap_or(target.len());
        let (authority, path) = target.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
        let on_same_host = new_scheme == scheme && !authority.contains('@') && same_host(scheme, &host, &self.host);
        let repository = path.strip_suffix("/info/refs?service=git-upload-pack");
        if let Some(path) = repository.filter(|path| on_same_host && path.starts_with('/')) {
            // With the user of the URL, which is for this host.
            return Self::checked(format!("{scheme}://{own_authority}{path}"));
        }
        let is_host_character = |c: &char| c.is_ascii_alphanumeric() || ".-:[]_".contains(*c);
        let host = host.chars().filter(is_host_character).take(253).collect();
        Err(GitError::Redirected { url: self.shown.clone(), host })
    }

    fn checked(url: String) -> Result<Self, GitError> {
        // git's transport helpers (`ext::command`) run programs.
        if url.starts_with('-') || url.contains(char::is_control) || url.contains("::") && !url.contains("://") {
            return Err(refused(&url, "it is not a URL of a git repository"));
        }
        let (protocol, authority) = match url.split_once("://") {
            Some(("file", _)) => ("file", None),
            Some((scheme, rest)) => {
                let protocol = match scheme {
                    "https" => "https",
                    "ssh" => "ssh",
                    "http" => "http",
                    _ => return Err(refused(&url, USE_HTTPS_OR_SSH)),
                };
                // As git and curl parse it: a host after a `?` is not the one that they connect to.
                (protocol, Some(rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()))
            }
            None if url.starts_with('/') => ("file", None),
            // `user@host:path`
            None => match scp_like_authority(&url) {
                Some(authority) => ("ssh", Some(authority)),
                None => return Err(refused(&url, "write an absolute path, or a URL with https:// or ssh://")),
            },
        };
        let mut host = String::new();
        if let Some(authority) = authority {
            let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let is_option = authority.starts_with('-') || host_and_port.starts_with('-');
            if host_and_port.is_empty() || is_option || reaches_metadata(host_and_port) {
                return Err(refused(&url, "codeloc does not fetch from this host"));
            }
            host_and_port.clone_into(&mut host);
        }
        Ok(Self { shown: mask_credentials(&url), url, host, protocol })
    }
}

/// Whether two hosts are equal in name and port.
fn same_host(scheme: &str, one: &str, other: &str) -> bool {
    let default = if scheme == "https" { ":443" } else { ":80" };
    let bare = |host: &str| host.strip_suffix(default).unwrap_or(host).to_ascii_lowercase();
    bare(one) == bare(other)
}

const USE_HTTPS_OR_SSH: &str = "use https:// or ssh://";

fn refused(url: &str, reason: &str) -> GitError {
    GitError::Refused { url: mask_credentials(url), reason: reason.to_owned() }
}

/// The part before the path. An IPv6 address contains colons itself, in brackets.
fn scp_like_authority(url: &str) -> Option<&str> {
    let colon = match url.find("]:") {
        Some(bracket) => bracket + 1,
        None => url.find(':')?,
    };
    Some(&url[..colon])
}

/// Whether a prefix ends at the end of a part of the URL: the token for `https://host` is not for `https://host.example`.
pub(crate) fn is_below(url: &str, prefix: &str) -> bool {
    let rest = url.strip_prefix(prefix);
    rest.is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_addresses_and_unknown_protocols_are_refused() {
        for url in
            ["https://github.com/o/r.git", "ssh://git@host:22/r", "git@github.com:o/r.git", "https://[2001:db8::1]/r"]
        {
            Remote::of_config(url, false).unwrap_or_else(|error| panic!("{error}"));
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
            "git@[fe80::1]:x",
            "https://metadata.google.internal/x",
            "ssh://-oProxyCommand=id/x",
            "--upload-pack=id",
        ] {
            assert!(matches!(Remote::of_config(url, false), Err(GitError::Refused { .. })), "{url}");
        }
        assert!(Remote::of_config("/tmp/x", true).is_ok());
    }

    #[test]
    fn a_rewriting_may_be_local_but_never_reach_metadata() {
        for (url, protocol) in [("/tmp/x", "file"), ("file:///tmp/x", "file"), ("http://127.0.0.1:1/x", "http")] {
            assert_eq!(Remote::of_operator(url.to_owned()).ok().map(|remote| remote.protocol), Some(protocol));
        }
        assert!(Remote::of_operator("http://169.254.169.254/latest".to_owned()).is_err());
    }

    #[test]
    fn a_token_is_only_for_whole_parts_of_a_url() {
        assert!(is_below("https://host/team/x", "https://host/team"));
        assert!(is_below("https://host/team/x", "https://host/team/"));
        assert!(is_below("https://host", "https://host"));
        assert!(!is_below("https://host.example/x", "https://host"));
        assert!(!is_below("https://host/teams/x", "https://host/team"));
    }

    #[test]
    fn an_error_shows_no_credentials() {
        let error = Remote::of_config("https://me:hunter2@169.254.169.254/x", false).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
