//! Authentication and authorisation of requests.
//!
//! The tokens file has one line `ROLE NAME TOKEN` for each token: `write ada 6f1c…`. The role `read` allows `GET` and `HEAD`, the role
//! `write` everything. codeloc reads the file for each request, so that you can replace tokens. While the file is invalid, the last valid
//! tokens stay in force. Without a file, every process on this machine may do everything, and codeloc answers no other machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use codeloc_core::lock::lock;
use codeloc_git::commit::Author;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::App;
use super::problem::Problem;

/// In characters: an attacker could guess shorter ones.
const MIN_TOKEN_LENGTH: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Read,
    Write,
}

/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub role: Role,
}

impl Caller {
    /// The author of the caller's commits. The domain is reserved, so the address receives no mail.
    pub fn author(&self) -> Author {
        Author { name: self.name.clone(), email: format!("{}@codeloc.invalid", self.name.replace(' ', ".")) }
    }
}

/// A caller with the digest of its token.
type Known = (Caller, [u8; 32]);

pub enum Access {
    /// Every process on this machine: codeloc listens on loopback.
    Loopback,
    Tokens(TokensFile),
}

pub struct TokensFile {
    path: PathBuf,
    last: Mutex<LastRead>,
}

/// The last valid tokens, and what is wrong with the file now.
struct LastRead {
    tokens: Arc<Vec<Known>>,
    fault: Option<String>,
}

impl TokensFile {
    /// The file must be valid at the start.
    fn open(path: PathBuf) -> Result<Self, String> {
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        let tokens = parse_tokens(&text).map_err(|error| malformed(&path, &error))?;
        Ok(Self { path, last: Mutex::new(LastRead { tokens: Arc::new(tokens), fault: None }) })
    }

    /// The tokens in the file or, if it is invalid, the last valid ones. Logs each fault once.
    async fn tokens(&self) -> Arc<Vec<Known>> {
        let text = tokio::fs::read_to_string(&self.path).await;
        let (tokens, new_fault) = self.update(text);
        if let Some(fault) = new_fault {
            tracing::error!("{fault}. The previous tokens stay in force until the file is valid");
        }
        tokens
    }

    /// Returns the tokens in force, and the fault of the file if it is a new one.
    fn update(&self, text: std::io::Result<String>) -> (Arc<Vec<Known>>, Option<String>) {
        let text = text.map_err(|error| unreadable(&self.path, &error));
        let read = text.and_then(|text| parse_tokens(&text).map_err(|error| malformed(&self.path, &error)));
        let mut last = lock(&self.last);
        let fault = match read {
            Ok(tokens) => {
                last.tokens = Arc::new(tokens);
                None
            }
            Err(fault) => Some(fault),
        };
        let is_new = fault != last.fault;
        last.fault.clone_from(&fault);
        (Arc::clone(&last.tokens), fault.filter(|_| is_new))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read api.tokens_file {}: {error}; make it readable for the daemon's user", path.display())
}

fn malformed(path: &Path, error: &str) -> String {
    format!("api.tokens_file {}: {error}", path.display())
}

impl Access {
    /// Without tokens, `listen` must be a loopback address.
    pub fn new(tokens: Option<PathBuf>, listen: SocketAddr) -> Result<Self, String> {
        match tokens {
            Some(path) => Ok(Self::Tokens(TokensFile::open(path)?)),
            None if listen.ip().is_loopback() => Ok(Self::Loopback),
            None => Err(format!(
                "listen is {listen}, which other machines can reach; set api.tokens_file, or listen on 127.0.0.1"
            )),
        }
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let file = match self {
            Self::Loopback => return Ok(Caller { name: "codeloc".to_owned(), role: Role::Write }),
            Self::Tokens(file) => file,
        };
        let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let given = given.ok_or_else(|| {
            unauthorized("the daemon requires a token; send `Authorization: Bearer TOKEN`, or pass --token-file")
        })?;
        find(&file.tokens().await, given).ok_or_else(|| {
            unauthorized("api.tokens_file does not contain this token; add it there, or send another one")
        })
    }
}

fn parse_tokens(text: &str) -> Result<Vec<Known>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| parse_line(line).map_err(|error| format!("line {}: {error}", number + 1))).collect()
}

/// Errors do not repeat the line, which contains a secret.
fn parse_line(line: &str) -> Result<Known, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [role, name, token] = words[..] else {
        return Err("write it in the form `ROLE NAME TOKEN`".to_owned());
    };
    let role = match role {
        "read" => Role::Read,
        "write" => Role::Write,
        _ => return Err("begin it with the role `read` or `write`".to_owned()),
    };
    if token.len() < MIN_TOKEN_LENGTH {
        return Err(format!("the token has fewer than {MIN_TOKEN_LENGTH} characters; use a longer one"));
    }
    Ok((Caller { name: name.to_owned(), role }, Sha256::digest(token).into()))
}

/// Compares all tokens, each in constant time: the duration does not depend on the match.
fn find(known: &[Known], given: &str) -> Option<Caller> {
    let given: [u8; 32] = Sha256::digest(given).into();
    let mut found = None;
    for (caller, digest) in known {
        if bool::from(digest.ct_eq(&given)) {
            found = Some(caller.clone());
        }
    }
    found
}

/// Requires a token with the role that the method needs.
pub(super) async fn require(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let needed = if matches!(*request.method(), Method::GET | Method::HEAD) { Role::Read } else { Role::Write };
    match app.access.caller(request.headers()).await {
        Ok(caller) if caller.role >= needed => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(caller) => {
            let detail = format!(
                "the token of {} has the role `read`, but this request needs `write`; use another token",
                caller.name
            );
            Problem::new(StatusCode::FORBIDDEN, detail).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

/// Refuses requests that a page of another site makes a browser send, to loopback or to a name that points to it. Browsers mark them.
pub(super) async fn refuse_foreign_origins(request: Request, next: Next) -> Response {
    match foreign_origin(request.headers(), request.method() == Method::GET) {
        Some(reason) => Problem::new(StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    }
}

/// Why a request comes from a foreign page.
fn foreign_origin(headers: &HeaderMap, reads: bool) -> Option<String> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let origin_host = origin.split_once("://").map_or("", |(_, host)| host);
        if host.is_empty() || origin_host != host {
            return Some(format!(
                "codeloc refuses requests from pages of {origin}; use its own page, or a client that is not a browser"
            ));
        }
    }
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    // A link on another site may lead to the page: the other site does not see its content.
    let is_navigation = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate") && reads;
    if matches!(site, Some("cross-site" | "same-site")) && !is_navigation {
        return Some(
            "codeloc refuses requests from pages of other sites; use its own page, or a client that is not a browser"
                .to_owned(),
        );
    }
    None
}

/// Whether a request names this machine: it has one `Host`, and `Host` and target are loopback names. Requests without a token need
/// one, because a foreign page can let any other name point to this machine.
pub(super) fn is_for_loopback(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let target = request.uri().authority();
    host.to_str().is_ok_and(names_loopback) && target.is_none_or(|target| names_loopback(target.as_str()))
}

/// Whether `HOST` or `HOST:PORT` is a loopback address or `localhost`, and nothing else.
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
    fn a_token_has_the_role_of_its_line() {
        let known = parse_tokens(TOKENS).unwrap();
        assert_eq!(find(&known, "abcdefghijklmnopqrstuvwxyz").unwrap().role, Role::Read);
        assert_eq!(find(&known, "0123456789abcdef0123456789").unwrap().name, "ada");
        assert_eq!(find(&known, "0123456789abcdef012345678"), None);
        assert_eq!(find(&known, ""), None);
    }

    #[test]
    fn an_error_names_the_line_and_hides_its_secret() {
        for (line, part) in [
            ("write ada short-secret", "fewer than 20"),
            ("admin ada 0123456789abcdef0123456789", "begin it with the role"),
            ("0123456789abcdef0123456789", "ROLE NAME TOKEN"),
        ] {
            let error = parse_tokens(&format!("{TOKENS}{line}\n")).unwrap_err();
            assert!(error.starts_with("line 5: ") && error.contains(part), "{error}");
            assert!(!error.contains("secret") && !error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn an_invalid_file_keeps_the_last_valid_tokens() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), TOKENS).unwrap();
        let tokens = TokensFile::open(file.path().to_owned()).unwrap();
        let is_known = |known: &[Known]| find(known, "0123456789abcdef0123456789").is_some();
        let malformed = || Ok(format!("{TOKENS}write bob my-secret\n"));

        let (known, fault) = tokens.update(malformed());
        assert!(is_known(&known));
        let fault = fault.unwrap();
        assert!(fault.starts_with(&format!("api.tokens_file {}: line 5: ", file.path().display())), "{fault}");
        assert!(fault.contains("use a longer one") && !fault.contains("my-secret"), "{fault}");
        let (known, fault) = tokens.update(malformed());
        assert!(is_known(&known) && fault.is_none(), "each fault is reported once: {fault:?}");
        let (known, fault) = tokens.update(Err(std::io::ErrorKind::PermissionDenied.into()));
        assert!(is_known(&known) && fault.unwrap().contains("make it readable"));

        let (known, fault) = tokens.update(Ok("read bob another-token-of-bob-0123\n".to_owned()));
        assert!(!is_known(&known) && fault.is_none());
        assert!(tokens.update(malformed()).1.is_some(), "a fault that returns is reported again");
        assert!(tokens.update(Ok(String::new())).0.is_empty());
    }

    #[test]
    fn without_tokens_codeloc_listens_only_on_loopback() {
        assert!(Access::new(None, "127.0.0.1:80".parse().unwrap()).is_ok());
        assert!(Access::new(None, "[::1]:80".parse().unwrap()).is_ok());
        let error = Access::new(None, "0.0.0.0:8080".parse().unwrap()).err().unwrap();
        assert!(error.contains("api.tokens_file"), "{error}");
    }
}
