//! The server: HTTP/1.1 with bounds on connections and on how slowly a request may come and an answer may go.
//!
//! Guarantees: a client that sends nothing, sends a byte now and then, or takes no bytes holds a connection for a bounded time;
//! where all connections are taken, a new one takes the place of the oldest that waits for a request; where none waits,
//! the probes are answered all the same, in a place of their own.

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

use super::connection_slots::{ConnectionSlot, ConnectionSlots, MayGo};
use super::problem::Problem;
use super::timeouts::{Held, Patient};
use super::{HEALTHY, READY};

/// After a failure to accept, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// How much of this machine clients can take, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once; each has some 20 kB.
    pub connections: usize,
    /// Connections beyond those, on which the probes alone are answered, each once.
    pub probes: usize,
    /// Until all of a request's head is there, and between two requests of one connection.
    pub head: Duration,
    /// The same on a connection for probes.
    pub probe: Duration,
    /// How long a client may take no byte of what is sent to it.
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

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    serve_within(Bounds::default(), listener, router).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, router: Router) {
    let everything = Kind { router: router.clone(), head: bounds.head, again: true, stall: bounds.stall };
    let probes =
        Kind { router: router.layer(from_fn(only_probes)), head: bounds.probe, again: false, ..everything.clone() };
    let (slots, probe_slots) = (ConnectionSlots::new(bounds.connections), ConnectionSlots::new(bounds.probes));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection was accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (slot, kind) = match slots.take(MayGo::Idle) {
            Some(slot) => (slot, everything.clone()),
            // A probe is answered within moments of its coming: the oldest of these is none.
            None => match probe_slots.take(MayGo::Any) {
                Some(slot) => (slot, probes.clone()),
                None => continue,
            },
        };
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, kind, &slot) => {}
                () = slot.lost() => tracing::debug!("a connection made room for another"),
            }
        });
    }
}

/// What is served on a connection.
#[derive(Clone)]
pub(super) struct Kind {
    pub router: Router,
    pub head: Duration,
    /// Whether one connection takes more than one request.
    pub again: bool,
    pub stall: Duration,
}

/// Until the client goes, or sends or takes too slowly.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    kind: Kind,
    slot: &ConnectionSlot,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(kind.head).max_headers(64).keep_alive(kind.again);
    let router = TowerToHyperService::new(kind.router);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let busy = slot.busy();
        let answer = router.call(request);
        async move { answer.await.map(|response| response.map(|body| Held::new(body, busy))) }
    });
    let stream = Patient::new(stream, kind.stall);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn only_probes(request: Request, next: Next) -> Response {
    if [HEALTHY, READY].contains(&request.uri().path()) {
        return next.run(request).await;
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections at once").into_response()
}
