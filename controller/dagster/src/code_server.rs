//! The gRPC client of a code server.
//!
//! Guarantees: [`CodeServer::ask`] ends within its time limit; [`Answer::Loaded`] means that the server imported the user's
//! definitions, which its health service does not show.
//! Assumes: no TLS, as in Dagster's own client inside a VPC.

use std::net::SocketAddr;
use std::time::Duration;

use codeloc_core::dagster::Answer;
use prost::Message;
use serde::Deserialize;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::text::{bounded, bounded_line, bounded_lines, is_user_frame, with_sources};

/// The limit of Dagster's own client (`DAGSTER_GRPC_MAX_RX_BYTES`); tonic's default is 4 MB.
const MAX_MESSAGE_BYTES: usize = 50_000_000;
/// The most errors shown of one chain of causes: both ends are the most useful.
const MAX_CAUSES: usize = 6;
const MAX_CAUSE_CHARACTERS: usize = 600;
/// The root cause is shown at greater length.
const MAX_ROOT_CHARACTERS: usize = 1200;
const MAX_MESSAGE_LINES: usize = 12;
const MAX_FRAME_CHARACTERS: usize = 400;

// `dagster_api.proto`, package `api`: the three calls a controller needs. Every field is one string.

#[derive(Clone, PartialEq, Eq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Eq, Message)]
struct Echo {
    #[prost(string, tag = "1")]
    echo: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ServerId {
    #[prost(string, tag = "1")]
    server_id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Repositories {
    #[prost(string, tag = "1")]
    serialized_list_repositories_response_or_error: String,
}

/// Port: one running code server.
pub trait CodeServer: Send + Sync + 'static {
    fn ask(&self, address: SocketAddr) -> impl Future<Output = Answer> + Send;
}

/// Asks code servers over gRPC.
#[derive(Clone, Copy, Debug)]
pub struct GrpcCodeServer {
    timeout: Duration,
}

impl GrpcCodeServer {
    /// `timeout` limits the connection and its three calls together.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl CodeServer for GrpcCodeServer {
    async fn ask(&self, address: SocketAddr) -> Answer {
        match tokio::time::timeout(self.timeout, ask(address)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(message)) => Answer::Unreachable { message },
            Err(_) => Answer::Unreachable { message: format!("no answer within {} s", self.timeout.as_secs_f32()) },
        }
    }
}

async fn ask(address: SocketAddr) -> Result<Answer, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| with_sources(&error))?;
    let channel =
        endpoint.connect().await.map_err(|error| format!("cannot connect to {address}: {}", with_sources(&error)))?;
    // The server compresses even if the client does not accept it. The size limit applies to the decompressed message.
    let mut client =
        Grpc::new(channel).accept_compressed(CompressionEncoding::Gzip).max_decoding_message_size(MAX_MESSAGE_BYTES);

    let echo = Echo { echo: "codeloc".to_owned() };
    let reply: Echo =
        call(&mut client, "Ping", PathAndQuery::from_static("/api.DagsterApi/Ping"), echo.clone()).await?;
    if reply.echo != echo.echo {
        return Err(format!("the server on {address} is not a Dagster code server: its echo differs"));
    }
    let path = PathAndQuery::from_static("/api.DagsterApi/GetServerId");
    let ServerId { server_id } = call(&mut client, "GetServerId", path, Empty {}).await?;
    let path = PathAndQuery::from_static("/api.DagsterApi/ListRepositories");
    let listing: Repositories = call(&mut client, "ListRepositories", path, Empty {}).await?;
    Ok(read_listing(server_id, &listing.serialized_list_repositories_response_or_error))
}

async fn call<Q, A>(client: &mut Grpc<Channel>, name: &str, path: PathAndQuery, request: Q) -> Result<A, String>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    client.ready().await.map_err(|error| format!("the gRPC call {name} failed: {}", with_sources(&error)))?;
    match client.unary(tonic::Request::new(request), path, ProstCodec::default()).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => {
            let (code, message) = (status.code(), bounded_line(status.message(), 500));
            Err(format!("the gRPC call {name} failed: {code:?}: {message}"))
        }
    }
}

/// The JSON inside the answer to `ListRepositories`; Dagster names the type in `__class__`.
#[derive(Deserialize)]
#[serde(tag = "__class__")]
enum Listing {
    ListRepositoriesResponse { repository_symbols: Vec<RepositorySymbol> },
    SerializableErrorInfo(ErrorInfo),
}

#[derive(Deserialize)]
struct RepositorySymbol {
    repository_name: String,
}

/// A Python exception as Dagster writes it.
#[derive(Deserialize)]
struct ErrorInfo {
    message: String,
    /// One entry for each frame, the innermost last.
    #[serde(default)]
    stack: Vec<String>,
    /// `raise … from …`
    #[serde(default)]
    cause: Option<Box<ErrorInfo>>,
    /// Raised during the handling of another exception.
    #[serde(default)]
    context: Option<Box<ErrorInfo>>,
}

fn read_listing(server_id: String, json: &str) -> Answer {
    match serde_json::from_str(json) {
        Ok(Listing::ListRepositoriesResponse { repository_symbols }) => Answer::Loaded {
            server_id,
            repositories: repository_symbols.into_iter().map(|symbol| symbol.repository_name).collect(),
        },
        Ok(Listing::SerializableErrorInfo(error)) => Answer::LoadError { server_id, message: describe(&error) },
        Err(error) => Answer::LoadError {
            server_id,
            message: format!(
                "cannot read the code server's list of repositories ({error}); check that codeloc supports its \
                 Dagster release"
            ),
        },
    }
}

/// The message of each exception from the outermost to the root cause, then the innermost frame in the user's own code.
fn describe(error: &ErrorInfo) -> String {
    let mut chain = vec![error];
    while let Some(inner) = chain.last().and_then(|last| last.cause.as_deref().or(last.context.as_deref())) {
        chain.push(inner);
    }
    let root = chain.last().expect("the chain starts with the error itself");
    let omitted = chain.len().saturating_sub(MAX_CAUSES);
    let mut lines = Vec::new();
    for (position, error) in chain.iter().enumerate() {
        // A very long chain is shown with the first two and the last errors.
        if omitted > 0 && position == 2 {
            lines.push(format!("… {omitted} more"));
        }
        if omitted > 0 && (2..2 + omitted).contains(&position) {
            continue;
        }
        let limit = if position + 1 == chain.len() { MAX_ROOT_CHARACTERS } else { MAX_CAUSE_CHARACTERS };
        let message = bounded_lines(&error.message, MAX_MESSAGE_LINES, limit);
        lines.push(if position == 0 { message } else { format!("caused by {message}") });
    }
    let user_frame = chain.iter().rev().find_map(|error| error.stack.iter().rev().find(|frame| is_user_frame(frame)));
    if let Some(frame) = user_frame.or(root.stack.last()) {
        lines.push(format!("  {}", bounded(frame, MAX_FRAME_CHARACTERS)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;
