//! Stands between a client and localcloud and holds one chosen call for ever, so that a daemon can be killed at exactly
//! that moment: before its call is done, or after it and before the answer.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const LARGEST_BODY: usize = 64 << 20;

/// When the client is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call never reaches the cloud.
    BeforeIt,
    /// The cloud has done it; its client never hears so.
    AfterIt,
}

pub struct Interceptor {
    shared: Arc<Shared>,
    port: u16,
    serving: JoinHandle<()>,
}

struct Shared {
    client: reqwest::Client,
    to: String,
    held: Mutex<Option<(&'static str, Moment)>>,
    hit: Notify,
}

impl Interceptor {
    /// Passes everything on to the localcloud at `cloud_port`.
    pub async fn start(cloud_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::new(Shared {
            client: reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be made"),
            to: format!("http://127.0.0.1:{cloud_port}"),
            held: Mutex::default(),
            hit: Notify::new(),
        });
        let routes = Router::new().fallback(pass).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("a bound listener goes on");
        });
        Self { shared, port, serving }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the call whose name ends like this is held: `Prefix.Operation` in the JSON protocols, the bare name of
    /// the action in IAM's.
    pub fn hold(&self, call: &'static str, moment: Moment) {
        *self.shared.held() = Some((call, moment));
    }

    /// Until a call is held; everything passes from then on.
    pub async fn held(&self) {
        self.shared.hit.notified().await;
        *self.shared.held() = None;
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn held(&self) -> std::sync::MutexGuard<'_, Option<(&'static str, Moment)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn cut_off(&self) -> Response {
        self.hit.notify_one();
        std::future::pending().await
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else { return StatusCode::BAD_REQUEST.into_response() };
    let name = name(&parts.headers, &body);
    let moment = shared.held().filter(|(call, _)| name.ends_with(call)).map(|(_, moment)| moment);
    if moment == Some(Moment::BeforeIt) {
        return shared.cut_off().await;
    }
    let url = format!("{}{}", shared.to, parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let sent = shared.client.request(parts.method, url).headers(parts.headers).body(body).send().await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    if moment == Some(Moment::AfterIt) {
        return shared.cut_off().await;
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    response
}

fn name(headers: &HeaderMap, body: &Bytes) -> String {
    if let Some(target) = headers.get(HeaderName::from_static("x-amz-target")) {
        return target.to_str().unwrap_or_default().to_owned();
    }
    let body = String::from_utf8_lossy(body);
    body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default().to_owned()
}
