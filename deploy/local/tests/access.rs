//! HTTP access over real connections: only requests that name loopback, and no page of another site.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::net::SocketAddr;
use std::sync::Arc;

use localcloud::registry::{self, Registry};
use localcloud::{LocalCloud, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Method, path and headers of a request to each API.
const REQUESTS: [(&str, &str); 6] = [
    ("POST / HTTP/1.1", "x-amz-target: AmazonEC2ContainerServiceV20141113.ListClusters\r\n"),
    ("POST / HTTP/1.1", "content-type: application/x-www-form-urlencoded\r\n"),
    ("GET /bucket/object HTTP/1.1", ""),
    ("GET /_localcloud/calls HTTP/1.1", ""),
    ("POST /_localcloud/reset-calls HTTP/1.1", ""),
    ("GET /v2/ HTTP/1.1", ""),
];

/// All APIs on one port, as the program `localcloud` serves them.
struct Server {
    cloud: Arc<LocalCloud>,
    registry: Arc<Registry>,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().to_owned()).unwrap();
        let cloud = Arc::new(LocalCloud::start(Settings::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = cloud.router().merge(registry::router(Arc::clone(&registry)));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { cloud, registry, address, _folder: folder }
    }

    /// The status of the answer to a request.
    async fn ask(&self, (line, target): (&str, &str), headers: &[u8]) -> u16 {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{line}\r\n{target}connection: close\r\ncontent-length: 0\r\n").into_bytes();
        request.extend(headers);
        request.extend(b"\r\n");
        stream.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }

    /// The number of requests that were not refused.
    fn seen(&self) -> usize {
        self.cloud.calls().len() + self.registry.requests().len()
    }
}

#[tokio::test]
async fn only_requests_that_name_loopback_are_answered() {
    let server = Server::open().await;
    let table = include_str!("../../../tests/fixtures/hosts.txt").lines().filter(|line| !line.starts_with('#'));
    let (allowed, refused): (Vec<_>, Vec<_>) =
        table.map(|line| line.split_once(' ').unwrap()).partition(|(answer, _)| *answer == "allowed");
    let header = |(_, host): &(&str, &str)| format!("host: {host}\r\n");
    let refused = refused.iter().map(header).chain([
        String::new(),
        "host: 127.0.0.1\r\nhost: evil.example\r\n".to_owned(),
        "host: evil.example\r\nhost: 127.0.0.1\r\n".to_owned(),
    ]);
    for host in refused {
        for request in REQUESTS {
            assert_eq!(server.ask(request, host.as_bytes()).await, 403, "{request:?} {host}");
        }
    }
    let elsewhere = ("GET http://evil.example/v2/ HTTP/1.1", "");
    assert_eq!(server.ask(elsewhere, b"host: 127.0.0.1\r\n").await, 403);
    assert_eq!(server.seen(), 0);
    for host in allowed.iter().map(header) {
        for request in REQUESTS {
            assert_ne!(server.ask(request, host.as_bytes()).await, 403, "{request:?} {host}");
        }
    }
}

#[tokio::test]
async fn a_page_of_another_site_starts_nothing() {
    let server = Server::open().await;
    for page in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "origin: http://127.0.0.1:3000\r\n",
        "origin: file://\r\n",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\nsec-fetch-mode: no-cors\r\n",
        "origin: http://b\u{f6}se.example\r\n",
    ] {
        for request in REQUESTS {
            let headers = format!("host: {}\r\n{page}", server.address);
            assert_eq!(server.ask(request, headers.as_bytes()).await, 403, "{request:?} {page}");
        }
    }
    assert_eq!(server.seen(), 0);
    let link = format!("host: {}\r\nsec-fetch-site: same-site\r\nsec-fetch-mode: navigate\r\n", server.address);
    assert_eq!(server.ask(REQUESTS[2], link.as_bytes()).await, 404, "Dagster's page links to logs");
    let own = format!("host: {0}\r\norigin: http://{0}\r\n", server.address);
    assert_ne!(server.ask(REQUESTS[0], own.as_bytes()).await, 403);
}
