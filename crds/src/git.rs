//! Checks of git URLs and reference names that do not need git.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Replaces user names, passwords and queries in URLs with stars, one per byte, so that byte positions do not change.
///
/// Keeps a user name without a password (`ssh://git@host`), except in `http(s)`, where git hosts accept tokens as user
/// names.
pub fn mask_credentials(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme_end) = rest.find("://") {
        let (before, after) = rest.split_at(scheme_end + 3);
        masked.push_str(before);
        let end_at = |ends: &[char]| {
            after
                .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>') || ends.contains(&c))
                .unwrap_or(after.len())
        };
        let user_end = after[..end_at(&['/', '?', '#'])].rfind('@').unwrap_or(0);
        if user_is_secret(before, &after[..user_end]) {
            masked.extend(std::iter::repeat_n('*', user_end));
        } else {
            masked.push_str(&after[..user_end]);
        }
        let url_end = end_at(&[]);
        let query = after[user_end..url_end].find('?').map_or(url_end, |query| user_end + query + 1);
        masked.push_str(&after[user_end..query]);
        masked.extend(std::iter::repeat_n('*', url_end - query));
        rest = &after[url_end..];
    }
    masked.push_str(rest);
    masked
}

/// Byte ranges of an invalid URL that could be a secret: the text before `@`, and the query.
pub(crate) fn possible_secrets(url: &str) -> Vec<Range<usize>> {
    let start = url.find("://").map_or(0, |scheme_end| scheme_end + 3);
    let user = url.rfind('@').map(|at| start.min(at)..at);
    let query = url.find('?').map(|query| query + 1..url.len());
    user.into_iter().chain(query).collect()
}

fn user_is_secret(up_to_scheme: &str, user: &str) -> bool {
    user.contains(':') || (!user.is_empty() && !up_to_scheme.ends_with("ssh://"))
}

/// Why codeloc rejects a URL: message and hint. Neither repeats the URL, which may contain credentials.
pub(crate) fn url_problem(url: &str) -> Option<(&'static str, &'static str)> {
    const FORMS: &str = "use https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH";
    if url.is_empty() || url.starts_with('-') || url.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Some(("`git_url` is not a URL", FORMS));
    }
    if url.contains(['?', '#']) {
        return Some(("`git_url` has a query or a fragment", "remove the part that starts with ? or #"));
    }
    if mask_credentials(url) != url {
        return Some((
            "`git_url` contains credentials",
            "remove the part before @ and revoke it if you committed it; configure tokens in the setting `git.tokens`",
        ));
    }
    if url.starts_with('/') {
        return None;
    }
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        // git's transport helpers (`ext::command`) run programs.
        None if url.contains("::") => return Some(("`git_url` uses a git transport helper", FORMS)),
        None => return scp_like_problem(url).then_some(("`git_url` is not a URL", FORMS)),
    };
    match scheme {
        "file" if rest.starts_with('/') => None,
        "file" => Some(("`git_url` is not an absolute path", "use file:///PATH")),
        "https" | "ssh" => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            if host_and_port.is_empty()
                || host_and_port.starts_with('-')
                || authority.starts_with('-')
                || path.is_empty()
            {
                return Some(("`git_url` has no host or no path", FORMS));
            }
            reaches_metadata(host_and_port).then_some((
                "`git_url` points to a link-local or metadata address",
                "use the public or private address of a git server",
            ))
        }
        "http" | "git" => Some(("`git_url` uses an unencrypted protocol", "use https:// or ssh://")),
        _ => Some(("`git_url` uses an unsupported protocol", FORMS)),
    }
}

/// Whether a URL without a scheme is not a valid `user@host:path`, which git fetches over SSH.
fn scp_like_problem(url: &str) -> bool {
    let Some((address, path)) = url.split_once(':') else {
        return true;
    };
    let Some((user, host)) = address.split_once('@') else {
        return true;
    };
    let plain = |part: &str, more: &[char]| {
        !part.is_empty()
            && !part.starts_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || more.contains(&c))
    };
    !plain(user, &[]) || !plain(host, &[]) || path.is_empty() || path.starts_with('-') || reaches_metadata(host)
}

/// Whether a host, with or without port, is link-local or a metadata service. Such an address would give the credentials of
/// codeloc to any client. Also true for spellings that only some programs parse as such an address.
pub fn reaches_metadata(host_and_port: &str) -> bool {
    const EC2_METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let link_local_v4 = |address: Ipv4Addr| address.is_link_local() || address.is_unspecified();
    let host = host_of(host_and_port);
    // curl decodes `%31` and maps digits of other scripts to ASCII.
    if host.contains('%') || !host.is_ascii() {
        return true;
    }
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => link_local_v4(address),
        Ok(IpAddr::V6(address)) => {
            address.is_unicast_link_local()
                || address == EC2_METADATA_V6
                || embedded_v4(address).is_some_and(link_local_v4)
        }
        Err(_) => {
            // The C library also parses `2852039166`, `0xa9.254.43518` and `0251.0376.0251.0376` as addresses. DNS names
            // never end in a number.
            let last = host.rsplit('.').next().unwrap_or_default();
            let number = last.starts_with("0x") || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()));
            number
                || host == "metadata.google.internal"
                || host == "instance-data"
                || host.starts_with("instance-data.") && host.ends_with(".internal")
        }
    }
}

/// Whether a host, with or without port, is this machine.
pub fn reaches_this_machine(host_and_port: &str) -> bool {
    let host = host_of(host_and_port);
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || embedded_v4(address).is_some_and(|address| address.is_loopback())
        }
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// The host in lowercase, without brackets, port and trailing dot.
fn host_of(host_and_port: &str) -> String {
    let host = match host_and_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => host_and_port.split(':').next().unwrap_or_default(),
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The IPv4 address in `::ffff:a.b.c.d`, `::a.b.c.d` or `64:ff9b::a.b.c.d` (RFC 6052).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

/// Whether git accepts the name of a branch or tag (git-check-ref-format) and cannot parse it as an option.
pub fn valid_reference_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 240
        && name != "@"
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(|c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'))
        && name.split('/').all(|part| {
            let lock = std::path::Path::new(part).extension().is_some_and(|extension| extension == "lock");
            !part.is_empty() && !part.starts_with('.') && !lock
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_credentials_with_stars_of_the_same_length() {
        let text = "fetch https://me:tok\u{e9}n@host/x.git and ssh://git@host/y and https://token@host failed";
        let masked = mask_credentials(text);
        assert_eq!(masked, "fetch https://*********@host/x.git and ssh://git@host/y and https://*****@host failed");
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn masks_the_query() {
        let text = "\"https://host/x?token=1\" and https://host/y?a";
        assert_eq!(mask_credentials(text), "\"https://host/x?*******\" and https://host/y?*");
    }

    #[test]
    fn masks_a_password_that_contains_an_at_sign() {
        assert_eq!(mask_credentials("ssh://me:a@b@host/x"), "ssh://******@host/x");
    }

    #[test]
    fn keeps_an_at_sign_in_a_path() {
        assert_eq!(mask_credentials("https://host/a@b"), "https://host/a@b");
    }

    #[test]
    fn accepts_common_urls() {
        for url in [
            "https://github.com/user/repo.git",
            "https://git.example.com:8443/a/b",
            "ssh://git@host:22/repo.git",
            "git@github.com:user/repo.git",
            "file:///srv/git/x.git",
            "/srv/git/x.git",
        ] {
            assert_eq!(url_problem(url), None, "{url}");
        }
    }

    #[test]
    fn rejects_urls_that_run_programs_or_reach_metadata() {
        for url in [
            "ext::sh -c id",
            "ext::id",
            "--upload-pack=id",
            "https://user:secret@host/x",
            "https://token@host/x",
            "http://host/x",
            "git://host/x",
            "ftp://host/x",
            "https://host",
            "https:///x",
            "https://host/x?token=1",
            "file://relative",
            "relative/path",
            "git@-oProxyCommand=id:x",
            "ssh://-oProxyCommand=id/x",
            "https://169.254.169.254/latest",
            "https://[fd00:ec2::254]/x",
            "https://[::ffff:169.254.169.254]/x",
            "https://2852039166/x",
            "",
        ] {
            assert!(url_problem(url).is_some(), "{url}");
        }
    }

    #[test]
    fn accepts_the_reference_names_that_git_accepts() {
        for name in ["main", "feature/x-1", "v1.4.0", "release-2024.1", "a@b"] {
            assert!(valid_reference_name(name), "{name}");
        }
        for name in [
            "", "-x", "a..b", "a b", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "@", "a@{1}", "a.",
            "a\\b", "a\u{7}",
        ] {
            assert!(!valid_reference_name(name), "{name}");
        }
    }
}
