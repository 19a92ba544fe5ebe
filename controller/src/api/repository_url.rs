//! Compares URLs of git repositories as the git hosts do: a webhook and a config may write the same repository differently.
//!
//! A wrong match costs one read of a branch. A missed match delays a commit until the next poll, so every path is compared without case.

/// Hosts that a firewall lets through on port 443, and the hosts for which they stand.
const SSH_HOSTS: [(&str, &str); 3] =
    [("ssh.github.com", "github.com"), ("altssh.gitlab.com", "gitlab.com"), ("altssh.bitbucket.org", "bitbucket.org")];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUrl {
    /// Empty for a path on this machine.
    host: String,
    /// Without slashes at its ends, and without `.git`.
    path: String,
    is_http: bool,
}

impl RepositoryUrl {
    pub fn parse(url: &str) -> Self {
        let (scheme, authority, path) = match url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                (scheme, authority, path)
            }
            None => match scp_like(url) {
                Some((authority, path)) => ("ssh", authority, path),
                None => ("file", "", url),
            },
        };
        let path = path.trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path);
        let host = host(authority);
        let path = if host.is_empty() { path.to_owned() } else { path.to_lowercase() };
        Self { host, path, is_http: matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") }
    }

    /// Whether both URLs name one repository.
    pub fn is_same(&self, other: &Self) -> bool {
        if self.host != other.host {
            return false;
        }
        let (http, ssh) = if self.is_http { (self, other) } else { (other, self) };
        self.path == other.path || (http.is_http && !ssh.is_http && http.has_prefix_before(&ssh.path))
    }

    /// Whether only the HTTP URL has a prefix: Bitbucket Data Center's `scm/`, or the path below which a GitLab runs. The public hosts
    /// have none, so there it would be another repository.
    fn has_prefix_before(&self, path: &str) -> bool {
        let is_public = SSH_HOSTS.iter().any(|(_, host)| self.host == *host);
        let prefix = self.path.strip_suffix(path);
        !is_public && path.contains('/') && prefix.is_some_and(|prefix| prefix.ends_with('/'))
    }
}

/// The parts of `user@host:path`. As in git, a slash before the colon means a path on this machine. An IPv6 address has brackets.
fn scp_like(url: &str) -> Option<(&str, &str)> {
    let colon = match url.find("]:") {
        Some(bracket) => bracket + 1,
        None => url.find(':')?,
    };
    let (authority, path) = (&url[..colon], &url[colon + 1..]);
    (!authority.contains('/')).then_some((authority, path))
}

/// The host without user and port, under its usual name.
fn host(authority: &str) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let host = host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(host, _)| host).to_lowercase();
    let usual = SSH_HOSTS.iter().find(|(ssh, _)| *ssh == host);
    usual.map_or(host, |(_, usual)| (*usual).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        let (one, other) = (RepositoryUrl::parse(one), RepositoryUrl::parse(other));
        assert_eq!(one.is_same(&other), other.is_same(&one), "{one:?} {other:?}");
        one.is_same(&other)
    }

    fn assert_all_same(urls: &[&str]) {
        for one in urls {
            for other in urls {
                assert!(same(one, other), "{one} {other}");
            }
        }
    }

    #[test]
    fn all_spellings_of_a_repository_url_are_equal() {
        assert_all_same(&[
            "https://github.com/shop/orders.git",
            "https://token@GitHub.com/Shop/Orders",
            "git@github.com:shop/orders.git",
            "git@github.com:/shop/orders.git",
            "ssh://git@github.com:22/shop/orders.git",
            "ssh://git@ssh.github.com:443/Shop/orders.git",
            "git://github.com/shop/orders.git/",
        ]);
        assert_all_same(&["ssh://git@altssh.gitlab.com:443/a/b.git", "https://gitlab.com/A/b"]);
        assert_all_same(&["ssh://git@altssh.bitbucket.org:443/a/b.git", "git@bitbucket.org:a/b.git"]);
        assert_all_same(&["/srv/git/orders.git", "file:///srv/git/orders.git", "/srv/git/orders"]);
        assert_all_same(&["ssh://git@[::1]:22/a/b", "ssh://git@[::1]/a/b", "git@[::1]:a/b"]);
    }

    #[test]
    fn an_http_url_may_have_a_prefix_before_the_path() {
        assert_all_same(&[
            "https://git.example.com/scm/SHOP/orders.git",
            "ssh://git@git.example.com:7999/shop/orders.git",
        ]);
        assert_all_same(&[
            "https://example.com/bitbucket/scm/~ada/orders.git",
            "ssh://git@example.com:7999/~ada/orders.git",
        ]);
        assert_all_same(&["https://example.com/gitlab/Shop/team/orders.git", "git@example.com:shop/team/orders.git"]);
    }

    #[test]
    fn other_repositories_are_not_equal() {
        for (one, other) in [
            ("https://github.com/shop/orders-old", "https://github.com/shop/orders"),
            ("https://github.com/shop/orders", "https://gitlab.com/shop/orders"),
            ("https://github.com/shop/orders.github", "https://github.com/shop/orders"),
            ("https://gitlab.com/group/shop/orders", "git@gitlab.com:shop/orders.git"),
            ("https://example.com/a/shop/orders", "https://example.com/shop/orders"),
            ("ssh://git@example.com/a/shop/orders", "git@example.com:shop/orders"),
            ("https://example.com/myshop/orders", "git@example.com:shop/orders"),
            ("https://example.com/shop/orders", "git@example.com:orders"),
            ("https://example.com/shop/orders", "git@example.com:"),
            ("/srv/git/Orders", "/srv/git/orders"),
            ("/srv/git/a:b", "git@srv/git/a:b"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }
}
