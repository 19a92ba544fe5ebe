//! Greedy clients over real connections: the daemon and its probes must still answer.

use std::net::SocketAddr;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::super::connection_slots::{ConnectionSlots, Evict};
use super::super::serve::{Bounds, Kind, connection, serve_within};
use super::*;

const HEAD: &str = "Host: 127.0.0.1\r\n";
/// More time than any answer needs.
const LONG: Duration = Duration::from_mins(1);
/// Longer than any test.
const NEVER: Duration = Duration::from_hours(1);
const PATIENT: Bounds = Bounds { connections: 8, probes: 4, head: NEVER, probe: NEVER, stall: NEVER };

struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(bounds: Bounds, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: tokio::spawn(serve_within(bounds, listener, router)).abort_handle() }
    }

    /// A client that has sent only this.
    async fn client(&self, sent: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        client
    }

    /// The status that a new client gets, or an error.
    async fn get(&self, path: &str) -> String {
        let mut client = self.client(&format!("GET {path} HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n")).await;
        status(&mut client).await
    }

    async fn assert_alive(&self) {
        for probe in [HEALTHY, READY] {
            assert_eq!(self.get(probe).await, "200", "{probe}");
        }
    }
}

/// Reads the head of an answer and returns its status.
async fn status(client: &mut TcpStream) -> String {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match client.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(error) => return format!("{error} after {:?}", String::from_utf8_lossy(&head)),
            }
        }
        String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    tokio::time::timeout(LONG, reading).await.unwrap_or_else(|_| "no answer".to_owned())
}

/// The head of a webhook whose body never arrives.
fn slow_hook(proof: &str) -> String {
    format!("POST {HOOKS} HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\nContent-Length: 1000\r\n{proof}\r\n")
}

fn with_secret(limits: Limits) -> (Router, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hush\n").unwrap();
    let secret = Secret::new(Some(file.path().to_owned())).unwrap();
    (router_within(limits, Daemon::new(), Access::Loopback, secret), file)
}

#[tokio::test]
async fn a_webhook_without_a_proof_is_refused_before_its_body() {
    let without_secret = Server::start(PATIENT, open(&Daemon::new())).await;
    assert_eq!(status(&mut without_secret.client(&slow_hook("")).await).await, "403");
    let (router, _file) = with_secret(Limits::default());
    let server = Server::start(PATIENT, router).await;
    for proof in [
        "",
        "X-Hub-Signature-256: sha256=00\r\n",
        "X-GitHub-Event: push\r\n",
        "X-GitHub-Event: push\r\nX-Hub-Signature-256: sha1=0123456789\r\n",
        "X-Event-Key: repo:push\r\nX-Hub-Signature: sha256=\r\n",
        "X-Gitlab-Event: Push Hook\r\n",
        "X-Gitlab-Event: Push Hook\r\nX-Gitlab-Token: guess\r\n",
        "X-Codeloc-Signature-256: hush\r\n",
    ] {
        assert_eq!(status(&mut server.client(&slow_hook(proof)).await).await, "401", "{proof}");
    }
}

#[tokio::test]
async fn slow_webhooks_delay_only_other_webhooks() {
    let (router, _file) = with_secret(Limits::new(2, 4));
    let server = Server::start(Bounds { connections: 100, ..PATIENT }, router).await;
    let guess = slow_hook(&format!("X-Codeloc-Signature-256: sha256={}\r\n", "0".repeat(64)));
    let mut slow = Vec::new();
    for _ in 0..70 {
        slow.push(server.client(&guess).await);
    }
    // codeloc reads four bodies and refuses the other webhooks.
    let answers = slow.into_iter().map(|mut client| Box::pin(async move { status(&mut client).await }));
    let mut answers: FuturesUnordered<_> = answers.collect();
    while answers.next().await.expect("one is refused") != "503" {}
    server.assert_alive().await;
    assert_eq!(server.get("/v1/status").await, "200");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_without_its_body_times_out_soon() {
    let (router, _file) = with_secret(Limits::default());
    let guess = slow_hook(&format!("X-Codeloc-Signature-256: sha256={}\r\n", "0".repeat(64)));
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let task = tokio::spawn(serve_on(server, Bounds::default(), router));
    client.write_all(guess.as_bytes()).await.unwrap();
    let started = tokio::time::Instant::now();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    task.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(started.elapsed() <= Duration::from_secs(5), "of virtual time: {:?}", started.elapsed());
}

/// Serves one connection.
pub(super) async fn serve_on(stream: tokio::io::DuplexStream, bounds: Bounds, router: Router) {
    let kind = Kind { router, head: bounds.head, keep_alive: true, stall: bounds.stall };
    connection(stream, kind, &ConnectionSlots::new(1).take(Evict::Idle).unwrap()).await;
}

#[tokio::test]
async fn a_request_replaces_an_idle_connection() {
    let server = Server::start(Bounds { head: NEVER, ..Bounds::default() }, open(&Daemon::new())).await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(server.get("/v1/status").await, "200");
    server.assert_alive().await;
    let mut byte = [0; 1];
    let read = tokio::time::timeout(LONG, idle[0].read(&mut byte)).await.expect("the oldest is closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn probes_are_answered_if_all_connections_are_busy() {
    let server = Server::start(PATIENT, open(&Daemon::new())).await;
    let mut streams = Vec::new();
    for _ in 0..PATIENT.connections {
        let mut stream = server.client(&format!("GET /v1/events/stream HTTP/1.1\r\n{HEAD}\r\n")).await;
        assert_eq!(status(&mut stream).await, "200");
        streams.push(stream);
    }
    // More silent connections than reserved ones.
    let mut idle = Vec::new();
    for _ in 0..3 * PATIENT.probes {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    server.assert_alive().await;
    assert_eq!(server.get("/v1/status").await, "503");
    drop(streams);
    while server.get("/v1/status").await != "200" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn probes_are_answered_while_clients_accept_no_bytes() {
    let server = Server::start(PATIENT, open(&Daemon::new())).await;
    let many = format!("GET /openapi.json HTTP/1.1\r\n{HEAD}\r\n").repeat(80);
    let mut stalled = Vec::new();
    for _ in 0..4 * PATIENT.connections {
        stalled.push(server.client(&many).await);
        server.assert_alive().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_accepts_no_bytes_is_disconnected() {
    let (mut client, server) = tokio::io::duplex(4096);
    let task = tokio::spawn(serve_on(server, Bounds::default(), open(&Daemon::new())));
    let many = format!("GET /openapi.json HTTP/1.1\r\n{HEAD}\r\n").repeat(10);
    client.write_all(many.as_bytes()).await.unwrap();
    tokio::time::timeout(Bounds::default().stall * 2, task).await.expect("the connection is closed").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_whole_answer() {
    let (mut client, server) = tokio::io::duplex(4096);
    let bounds = Bounds::default();
    let task = tokio::spawn(serve_on(server, bounds, open(&Daemon::new())));
    client
        .write_all(format!("GET /openapi.json HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    loop {
        tokio::time::advance(bounds.stall / 2).await;
        if client.read_buf(&mut answer).await.unwrap() == 0 {
            break;
        }
    }
    task.await.unwrap();
    assert!(answer.ends_with(b"}"), "{} bytes", answer.len());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_sending_is_disconnected() {
    for (sent, within) in [
        // A head without an end, and a head without its body.
        ("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", 20),
        (
            "POST /v1/locations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n",
            40,
        ),
    ] {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let started = tokio::time::Instant::now();
        let task = tokio::spawn(serve_on(server, Bounds::default(), open(&Daemon::new())));
        client.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        task.await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(within), "{:?}: {sent}", started.elapsed());
    }
}
