//! Who may do what.
//!
//! A tokens file has a line for each token: role, name and token, with spaces between: `write ada 6f1c…`. `read` may look,
//! `write` may do everything. The file is read for each request, so that tokens can be exchanged. Without one everybody on this
//! machine may do everything, and nobody else is served.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use codeloc_git::commit::Author;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::App;
use super::problem::Problem;

/// In characters: shorter ones can be guessed.
const SHORTEST_TOKEN: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Read,
    Write,
}

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub role: Role,
}

impl Caller {
    /// As whom this caller commits. The domain is reserved, so that no mail reaches anybody.
    pub fn author(&self) -> Author {
        Author { name: self.name.clone(), email: format!("{}@codeloc.invalid", self.name.replace(' ', ".")) }
    }
}

#[derive(Clone, Debug)]
pub enum Access {
    /// Everybody who reaches this process, which listens on loopback.
    Everybody,
    Tokens(PathBuf),
}

impl Access {
    /// Errors: without tokens, only loopback is served.
    pub fn new(tokens: Option<PathBuf>, listen: SocketAddr) -> Result<Self, String> {
        match tokens {
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| format!("api.tokens_file {} cannot be read: {error}", path.display()))?;
                read(&text).map_err(|error| format!("api.tokens_file {}: {error}", path.display()))?;
                Ok(Self::Tokens(path))
            }
            None if listen.ip().is_loopback() => Ok(Self::Everybody),
            None => {
                Err(format!("listen is {listen}, which others can reach: set api.tokens_file, or listen on 127.0.0.1"))
            }
        }
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let path = match self {
            Self::Everybody => return Ok(Caller { name: "codeloc".to_owned(), role: Role::Write }),
            Self::Tokens(path) => path,
        };
        let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let given = given.ok_or_else(|| unauthorized("send `Authorization: Bearer TOKEN`"))?;
        let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
        let known = read(&text).unwrap_or_default();
        find(&known, given).ok_or_else(|| unauthorized("this token is not known"))
    }
}

/// Callers by the digests of their tokens.
fn read(text: &str) -> Result<Vec<(Caller, [u8; 32])>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| read_line(line).map_err(|error| format!("line {}: {error}", number + 1))).collect()
}

/// Errors do not repeat the line: it holds a secret.
fn read_line(line: &str) -> Result<(Caller, [u8; 32]), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [role, name, token] = words[..] else {
        return Err("is not `ROLE NAME TOKEN`".to_owned());
    };
    let role = match role {
        "read" => Role::Read,
        "write" => Role::Write,
        _ => return Err("begins with another role than `read` and `write`".to_owned()),
    };
    if token.len() < SHORTEST_TOKEN {
        return Err(format!("has a token of fewer than {SHORTEST_TOKEN} characters"));
    }
    Ok((Caller { name: name.to_owned(), role }, Sha256::digest(token).into()))
}

/// Looks at every token, whichever fits, in constant time each.
fn find(known: &[(Caller, [u8; 32])], given: &str) -> Option<Caller> {
    let given: [u8; 32] = Sha256::digest(given).into();
    let mut found = None;
    for (caller, digest) in known {
        if bool::from(digest.ct_eq(&given)) {
            found = Some(caller.clone());
        }
    }
    found
}

/// Lets through who may.
pub(super) async fn require(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let needed = if matches!(*request.method(), Method::GET | Method::HEAD) { Role::Read } else { Role::Write };
    match app.access.caller(request.headers()).await {
        Ok(caller) if caller.role >= needed => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(caller) => {
            let detail = format!("the token of {} may only read", caller.name);
            Problem::new(StatusCode::FORBIDDEN, detail).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

/// A page of another site can make a browser send requests here: to loopback, or to a name that it lets point here. Browsers say so.
pub(super) async fn refuse_foreign_origins(request: Request, next: Next) -> Response {
    match foreign(request.headers(), request.method() == Method::GET) {
        Some(why) => Problem::new(StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    }
}

fn foreign(headers: &HeaderMap, reads: bool) -> Option<String> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let of_origin = origin.split_once("://").map_or("", |(_, host)| host);
        if host.is_empty() || of_origin != host {
            return Some(format!("requests from pages of {origin} are refused"));
        }
    }
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    // Whoever follows a link to the page comes from another site as well, and sees only what the page shows.
    let follows = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate") && reads;
    if matches!(site, Some("cross-site" | "same-site")) && !follows {
        return Some("requests from pages of other sites are refused".to_owned());
    }
    None
}

/// Whether a request is for this machine by its own word: it has one `Host`, and that and the target name loopback. What is
/// served without a token is served under these names only: any other may be a name that a foreign page lets point here.
pub(super) fn is_for_loopback(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let target = request.uri().authority();
    host.to_str().is_ok_and(names_loopback) && target.is_none_or(|target| names_loopback(target.as_str()))
}

/// Whether `HOST` or `HOST:PORT` is an address of loopback or `localhost`, to the last character.
fn names_loopback(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_loopback = address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
        return is_loopback && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_loopback = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    (is_loopback || name.eq_ignore_ascii_case("localhost")) && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &str = "# ours\nwrite ada 0123456789abcdef0123456789\n\nread grafana abcdefghijklmnopqrstuvwxyz\n";

    #[test]
    fn a_token_is_known_by_its_line() {
        let known = read(TOKENS).unwrap();
        assert_eq!(find(&known, "abcdefghijklmnopqrstuvwxyz").unwrap().role, Role::Read);
        assert_eq!(find(&known, "0123456789abcdef0123456789").unwrap().name, "ada");
        assert_eq!(find(&known, "0123456789abcdef012345678"), None);
        assert_eq!(find(&known, ""), None);
    }

    #[test]
    fn a_bad_line_is_named_and_its_secret_is_not_shown() {
        for (line, part) in [
            ("write ada short-secret", "fewer than 20"),
            ("admin ada 0123456789abcdef0123456789", "another role"),
            ("0123456789abcdef0123456789", "ROLE NAME TOKEN"),
        ] {
            let error = read(&format!("{TOKENS}{line}\n")).unwrap_err();
            assert!(error.starts_with("line 5: ") && error.contains(part), "{error}");
            assert!(!error.contains("secret") && !error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn without_tokens_only_loopback_is_served() {
        assert!(Access::new(None, "127.0.0.1:80".parse().unwrap()).is_ok());
        assert!(Access::new(None, "[::1]:80".parse().unwrap()).is_ok());
        let error = Access::new(None, "0.0.0.0:8080".parse().unwrap()).unwrap_err();
        assert!(error.contains("api.tokens_file"), "{error}");
    }
}
