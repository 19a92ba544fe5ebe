//! The forward proxy of a sandbox: `CONNECT`, and requests with an absolute URL.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream, lookup_host};
use tokio::task::JoinHandle;

const LARGEST_HEAD: usize = 64 << 10;
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// What a program in a sandbox can reach, besides HTTPS and HTTP at public addresses.
#[derive(Clone, Debug, Default)]
pub struct Reachable {
    /// `HOST:PORT`, whatever its address is: a package index of this machine.
    pub addresses: Vec<String>,
    /// Exactly these URLs: an object behind a presigned URL.
    pub urls: Vec<String>,
}

/// A running proxy. It ends when it is dropped.
pub struct Proxy(JoinHandle<()>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    /// Listens on a unix socket. Call it inside a tokio runtime.
    pub(crate) fn start(socket: &Path, reachable: Reachable) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let reachable = Arc::new(reachable);
        Ok(Self(tokio::spawn(async move {
            // Dropping the set ends all connections.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            let reachable = Arc::clone(&reachable);
                            connections.spawn(async move {
                                if let Err(error) = serve(stream, &reachable).await {
                                    tracing::debug!(%error, "a connection of a sandbox has ended");
                                }
                            });
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the proxy of a sandbox cannot accept connections");
                            return;
                        }
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        })))
    }
}

/// The first line and the headers of a request, and what has been read after them.
struct Head {
    method: String,
    target: String,
    version: String,
    headers: Vec<String>,
    rest: Vec<u8>,
}

async fn serve(mut client: UnixStream, reachable: &Reachable) -> io::Result<()> {
    let Some(head) = read_head(&mut client).await? else { return Ok(()) };
    let opened = match head.method.as_str() {
        "CONNECT" => open(&head.target, &[HTTPS], reachable).await,
        _ => open_url(&head.target, reachable).await,
    };
    let Some(mut server) = opened else {
        let body = format!("{} is not reachable from an isolated build\n", head.target);
        let length = body.len();
        let answer = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        return client.write_all(answer.as_bytes()).await;
    };
    if head.method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        server.write_all(&head.rest).await?;
    } else {
        server.write_all(&origin_form(&head)).await?;
        server.write_all(&head.rest).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

async fn read_head(client: &mut UnixStream) -> io::Result<Option<Head>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > LARGEST_HEAD || client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let rest = bytes.split_off(end + 4);
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    Ok(Some(Head { method, target, version, headers: lines.map(str::to_owned).collect(), rest }))
}

/// The request as the server expects it. Only one request uses a connection, because the next may have another destination.
fn origin_form(head: &Head) -> Vec<u8> {
    let path = split(&head.target).map_or("/", |(_, path)| path);
    let mut text = format!("{} {path} {}\r\n", head.method, head.version);
    let dropped = |line: &&String| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !name.starts_with("proxy-") && name != "connection" && name != "keep-alive"
    };
    for line in head.headers.iter().filter(dropped) {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    text.into_bytes()
}

/// `HOST:PORT` and the path of an absolute URL.
fn split(url: &str) -> Option<(String, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.is_empty() || authority.contains(['@', '?', '#']) {
        return None;
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:{HTTP}") };
    Some((authority, if path.is_empty() { "/" } else { path }))
}

async fn open_url(url: &str, reachable: &Reachable) -> Option<TcpStream> {
    let (authority, _) = split(url)?;
    if reachable.urls.iter().any(|allowed| allowed == url) {
        return TcpStream::connect(&authority).await.ok();
    }
    open(&authority, &[HTTP], reachable).await
}

/// Connects to an address that a program may reach. A name is resolved once, so that it cannot change between the check and the connection.
async fn open(authority: &str, ports: &[u16], reachable: &Reachable) -> Option<TcpStream> {
    if reachable.addresses.iter().any(|address| address == authority) {
        return TcpStream::connect(authority).await.ok();
    }
    let (_, port) = authority.rsplit_once(':')?;
    if !ports.contains(&port.parse().ok()?) {
        return None;
    }
    let found: Vec<SocketAddr> = lookup_host(authority).await.ok()?.filter(|address| is_public(address.ip())).collect();
    for address in found {
        if let Ok(stream) = TcpStream::connect(address).await {
            return Some(stream);
        }
    }
    None
}

/// Whether an address is outside of this machine, of private networks and of the networks of a cloud's metadata.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [first, second, ..] = four.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            !(four.is_loopback()
                || four.is_private()
                || four.is_link_local()
                || four.is_multicast()
                || four.is_broadcast()
                || first == 0
                || first >= 240
                || is_shared)
        }
        IpAddr::V6(six) => {
            if let Some(four) = six.to_ipv4() {
                return is_public(IpAddr::V4(four));
            }
            let [first, second, ..] = six.segments();
            // NAT64 leads to IPv4 addresses, 6to4 and Teredo too.
            let leads_to_ipv4 =
                (first == 0x64 && second == 0xff9b) || first == 0x2002 || (first == 0x2001 && second == 0);
            let is_local = (first & 0xfe00) == 0xfc00 || (first & 0xffc0) == 0xfe80;
            !(six.is_loopback() || six.is_unspecified() || six.is_multicast() || is_local || leads_to_ipv4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reachable() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "169.254.170.2",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.170.2",
            "fd00:ec2::254",
            "fe80::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1", "198.51.100.7", "2001:db8::1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_request_reaches_its_server_without_the_words_for_the_proxy() {
        let head = Head {
            method: "GET".to_owned(),
            target: "http://127.0.0.1:99/a/b?c=d".to_owned(),
            version: "HTTP/1.1".to_owned(),
            headers: vec![
                "Host: x".to_owned(),
                "Proxy-Connection: keep-alive".to_owned(),
                "Connection: keep-alive".to_owned(),
            ],
            rest: vec![],
        };
        let expected = "GET /a/b?c=d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(origin_form(&head)).unwrap(), expected);
        assert_eq!(split("http://host/x"), Some(("host:80".to_owned(), "/x")));
        assert_eq!(split("http://me@host/x"), None);
        assert_eq!(split("https://host/x"), None);
    }
}
