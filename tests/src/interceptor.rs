//! A proxy between a client and localcloud that holds one chosen call, so that a test can kill the daemon exactly before
//! localcloud applies the call, or after that and before the response.

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

/// When the proxy holds the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call never reaches localcloud.
    BeforeCall,
    /// localcloud applied the call; the client never receives the response.
    AfterCall,
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
    /// Forwards all calls to the localcloud at `cloud_port`.
    pub async fn start(cloud_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("find a free port");
        let port = listener.local_addr().expect("the listener has an address").port();
        let shared = Arc::new(Shared {
            client: reqwest::Client::builder().no_proxy().build().expect("create a client without TLS"),
            to: format!("http://127.0.0.1:{cloud_port}"),
            held: Mutex::default(),
            hit: Notify::new(),
        });
        let routes = Router::new().fallback(pass).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("the listener serves");
        });
        Self { shared, port, serving }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds the next call whose name ends with `call`: `Prefix.Operation` in the JSON protocols, the action in IAM's.
    pub fn hold(&self, call: &'static str, moment: Moment) {
        *self.shared.held() = Some((call, moment));
    }

    /// Waits until a call is held. The proxy forwards all later calls.
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

    async fn hang(&self) -> Response {
        self.hit.notify_one();
        std::future::pending().await
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else { return StatusCode::BAD_REQUEST.into_response() };
    let name = name(&parts.headers, &body);
    let moment = shared.held().filter(|(call, _)| name.ends_with(call)).map(|(_, moment)| moment);
    if moment == Some(Moment::BeforeCall) {
        return shared.hang().await;
    }
    let url = format!("{}{}", shared.to, parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let sent = shared.client.request(parts.method, url).headers(parts.headers).body(body).send().await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    if moment == Some(Moment::AfterCall) {
        return shared.hang().await;
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
