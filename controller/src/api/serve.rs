//! The HTTP/1.1 server, with bounds on connections and on slow clients.
//!
//! Guarantees: a client that sends nothing, sends very slowly, or accepts no bytes holds a connection for a bounded time. If all
//! connections are in use, a new one replaces the oldest that waits for a request. If none waits, reserved connections still answer the
//! probes.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::connection_slots::{ConnectionSlot, ConnectionSlots, Evict};
use super::problem::Problem;
use super::timeouts::{BusyBody, StallTimeout};
use super::{HEALTHY, READY};

/// Pause after a failed accept, for example because of too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits on what clients can use of this machine, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at the same time; each needs about 20 kB.
    pub connections: usize,
    /// Reserved connections; each one answers one probe.
    pub probes: usize,
    /// Maximum time until the head of a request is complete, and between two requests of a connection.
    pub head: Duration,
    /// The same on reserved connections.
    pub probe: Duration,
    /// Maximum time in which a client accepts no byte of an answer.
    pub stall: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 512,
            probes: 64,
            head: Duration::from_secs(15),
            probe: Duration::from_secs(2),
            stall: Duration::from_secs(15),
        }
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    serve_within(Bounds::default(), listener, router).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, router: Router) {
    let everything = Kind { router: router.clone(), head: bounds.head, keep_alive: true, stall: bounds.stall };
    let probes = Kind {
        router: router.layer(from_fn(only_probes)),
        head: bounds.probe,
        keep_alive: false,
        ..everything.clone()
    };
    let (slots, probe_slots) = (ConnectionSlots::new(bounds.connections), ConnectionSlots::new(bounds.probes));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (slot, kind) = match slots.take(Evict::Idle) {
            Some(slot) => (slot, everything.clone()),
            // Probes are answered at once, so the oldest of these connections is not a probe.
            None => match probe_slots.take(Evict::Any) {
                Some(slot) => (slot, probes.clone()),
                None => continue,
            },
        };
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, kind, &slot) => {}
                () = slot.evicted() => tracing::debug!("a connection was closed for a newer one"),
            }
        });
    }
}

/// How a connection is served.
#[derive(Clone)]
pub(super) struct Kind {
    pub router: Router,
    pub head: Duration,
    /// Whether a connection accepts more than one request.
    pub keep_alive: bool,
    pub stall: Duration,
}

/// Resolves when the client closes the connection or is too slow.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    kind: Kind,
    slot: &ConnectionSlot,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(kind.head).max_headers(64).keep_alive(kind.keep_alive);
    let router = TowerToHyperService::new(kind.router);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let busy = slot.busy();
        let answer = router.call(request);
        async move { answer.await.map(|response| response.map(|body| BusyBody::new(body, busy))) }
    });
    let stream = StallTimeout::new(stream, kind.stall);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn only_probes(request: Request, next: Next) -> Response {
    if [HEALTHY, READY].contains(&request.uri().path()) {
        return next.run(request).await;
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections; retry later").into_response()
}
