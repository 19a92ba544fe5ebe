use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::transport::server::{Server, TcpIncoming};

use super::*;

const PATIENCE: Duration = Duration::from_mins(1);

/// A code server that answers `ListRepositories` with a given text.
#[derive(Clone)]
struct Scripted {
    listing: String,
    echo: Option<String>,
}

impl Service<http::Request<Body>> for Scripted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let script = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/api.DagsterApi/Ping" => {
                    reply(request, move |asked: Echo| Echo { echo: script.echo.clone().unwrap_or(asked.echo) }).await
                }
                "/api.DagsterApi/GetServerId" => {
                    reply(request, |_: Empty| ServerId { server_id: "revision-1".to_owned() }).await
                }
                "/api.DagsterApi/ListRepositories" => {
                    let answer = move |_: Empty| Repositories {
                        serialized_list_repositories_response_or_error: script.listing.clone(),
                    };
                    reply(request, answer).await
                }
                other => panic!("unexpected call {other}"),
            })
        })
    }
}

/// Adapts a plain function to tonic's trait for unary calls.
struct Unary<F, Q, A>(F, std::marker::PhantomData<fn(Q) -> A>);

impl<F: Fn(Q) -> A, Q, A: Send + 'static> Service<tonic::Request<Q>> for Unary<F, Q, A> {
    type Response = tonic::Response<A>;
    type Error = tonic::Status;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new((self.0)(request.into_inner()))))
    }
}

async fn reply<Q, A>(request: http::Request<Body>, answer: impl Fn(Q) -> A + Send) -> http::Response<Body>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    // As Dagster's own server.
    let mut server = tonic::server::Grpc::new(ProstCodec::default()).send_compressed(CompressionEncoding::Gzip);
    server.unary(Unary(answer, std::marker::PhantomData), request).await
}

async fn serve(script: Scripted) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::builder().serve_with_incoming(script, TcpIncoming::from(listener)));
    address
}

async fn answer_to(listing: &Value) -> Answer {
    let address = serve(Scripted { listing: listing.to_string(), echo: None }).await;
    GrpcCodeServer::new(PATIENCE).ask(address).await
}

#[tokio::test]
async fn a_server_with_definitions_is_loaded() {
    let listing = json!({
        "__class__": "ListRepositoriesResponse", "container_context": {}, "entry_point": ["dagster"],
        "repository_symbols": [
            {"__class__": "LoadableRepositorySymbol", "attribute": "defs", "repository_name": "__repository__"},
            {"__class__": "LoadableRepositorySymbol", "attribute": "more", "repository_name": "more"},
        ],
    });
    let expected =
        Answer::Loaded { server_id: "revision-1".into(), repositories: vec!["__repository__".into(), "more".into()] };
    assert_eq!(answer_to(&listing).await, expected);
}

fn exception(message: &str, cause: &Value) -> Value {
    json!({"__class__": "SerializableErrorInfo", "message": message, "cls_name": "X", "context": null, "cause": cause,
        "stack": ["  File \"outer.py\", line 1, in <module>\n    outer()\n", "  File \"inner.py\", line 4, in f\n    {}[\"x\"]\n"]})
}

#[tokio::test]
async fn a_failed_import_names_every_cause_and_the_line() {
    let cause = exception("ValueError: a\nsecond line\n", &exception("KeyError: 'x'\n", &Value::Null));
    let Answer::LoadError { server_id, message } =
        answer_to(&exception("DagsterUserCodeLoadError: loading\n", &cause)).await
    else {
        panic!("expected a load error")
    };
    assert_eq!(server_id, "revision-1");
    assert_eq!(
        message,
        "DagsterUserCodeLoadError: loading\ncaused by ValueError: a\nsecond line\ncaused by KeyError: 'x'\n  File \"inner.py\", line 4, in f\n    {}[\"x\"]"
    );
}

#[test]
fn a_long_message_is_whole_and_names_the_user_frame() {
    let message = "ValidationError: 1 validation error for Dbt\nexecutable\n  Value error, dbt was not found on PATH\n\n    See https://errors.pydantic.dev\n";
    let mut error = exception(message, &Value::Null);
    error["stack"] = json!([
        "  File \"/opt/codeloc/code/shop/definitions.py\", line 7, in <module>\n    Dbt()\n",
        "  File \"/opt/codeloc/env/lib/python3.12/site-packages/pydantic/main.py\", line 280, in __init__\n    validate()\n",
    ]);
    let error = exception("DagsterUserCodeLoadError: loading\n", &error);
    let Answer::LoadError { message, .. } = read_listing(String::new(), &error.to_string()) else {
        panic!("expected a load error")
    };
    assert_eq!(
        message,
        "DagsterUserCodeLoadError: loading\ncaused by ValidationError: 1 validation error for Dbt\nexecutable\n  \
         Value error, dbt was not found on PATH\n    See https://errors.pydantic.dev\n  \
         File \"/opt/codeloc/code/shop/definitions.py\", line 7, in <module>\n    Dbt()"
    );
    let endless = exception(&"line\n".repeat(10_000), &Value::Null);
    let Answer::LoadError { message, .. } = read_listing(String::new(), &endless.to_string()) else {
        panic!("expected a load error")
    };
    assert!(message.lines().count() < 20 && message.contains("… 9988 more lines"), "{message}");
}

#[test]
fn an_exception_during_handling_shows_both() {
    let mut error = exception("RuntimeError: second", &Value::Null);
    error["context"] = exception("OSError: first", &Value::Null);
    let Answer::LoadError { message, .. } = read_listing(String::new(), &error.to_string()) else {
        panic!("expected a load error")
    };
    assert!(message.starts_with("RuntimeError: second\ncaused by OSError: first\n"), "{message}");
}

#[test]
fn an_endless_error_is_shown_bounded_with_both_ends() {
    let mut error = exception(&format!("Root: {}", "long ".repeat(10_000)), &Value::Null);
    for depth in (0..30).rev() {
        error = exception(&format!("Error{depth}: {}", "x".repeat(5_000)), &error);
    }
    let Answer::LoadError { message, .. } = read_listing(String::new(), &error.to_string()) else {
        panic!("expected a load error")
    };
    assert!(message.starts_with("Error0: xxx"), "{message}");
    assert!(message.contains("\n… 25 more\n") && message.contains("caused by Root: long"), "{message}");
    assert!(message.lines().count() <= 10 && message.chars().count() < 5_000, "{message}");
}

#[test]
fn an_unknown_answer_is_a_load_error() {
    for listing in ["", "{}", r#"{"__class__": "SomethingNew"}"#, "[1]"] {
        let answer = read_listing("id".into(), listing);
        assert!(
            matches!(&answer, Answer::LoadError { message, .. } if message.contains("list of repositories")),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_above_tonics_default_limit_is_read() {
    let name = "r".repeat(12_000_000);
    let listing = json!({"__class__": "ListRepositoriesResponse", "repository_symbols": [{"repository_name": name}]});
    assert_eq!(answer_to(&listing).await, Answer::Loaded { server_id: "revision-1".into(), repositories: vec![name] });
}

#[tokio::test]
async fn a_decompressed_answer_above_the_limit_is_refused() {
    let listing = "x".repeat(MAX_MESSAGE_BYTES + 1);
    let address = serve(Scripted { listing, echo: None }).await;
    let answer = GrpcCodeServer::new(PATIENCE).ask(address).await;
    assert!(matches!(&answer, Answer::Unreachable { message } if message.contains("size limit")), "{answer:?}");
}

#[tokio::test]
async fn a_refused_connection_names_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let answer = GrpcCodeServer::new(PATIENCE).ask(address).await;
    assert!(
        matches!(&answer, Answer::Unreachable { message } if message.contains(&address.to_string()) && message.contains("refused")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_silent_server_ends_at_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answer = GrpcCodeServer::new(Duration::from_millis(200)).ask(listener.local_addr().unwrap()).await;
    assert!(matches!(&answer, Answer::Unreachable { message } if message.contains("within 0.2 s")), "{answer:?}");
}

#[tokio::test]
async fn another_server_is_not_a_code_server() {
    let address = serve(Scripted { listing: String::new(), echo: Some("hm".into()) }).await;
    let answer = GrpcCodeServer::new(PATIENCE).ask(address).await;
    assert!(
        matches!(&answer, Answer::Unreachable { message } if message.contains("not a Dagster code server")),
        "{answer:?}"
    );
}

/// The prepared environment. `None` if `make prepare` has not run.
fn real_dagster() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.local/dagster/bin/python");
    if !python.exists() {
        eprintln!("SKIPPED: no {}; run `make prepare`", python.display());
        return None;
    }
    Some(python)
}

/// Starts a real code server with `code` and asks it until it answers.
async fn ask_real(python: &Path, code: &str) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("definitions.py"), code).unwrap();
    // Binds a port once to find a free one for the server.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut server = tokio::process::Command::new(python)
        .args(["-m", "dagster", "api", "grpc", "-h", "127.0.0.1", "-p", &address.port().to_string()])
        .args(["-f", "definitions.py", "--lazy-load-user-code", "--fixed-server-id", "revision-7"])
        .env("DAGSTER_HOME", folder.path())
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = GrpcCodeServer::new(Duration::from_secs(10));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    let answer = loop {
        match client.ask(address).await {
            Answer::Unreachable { message } => {
                assert!(server.try_wait().unwrap().is_none(), "the code server ended: {message}");
                assert!(tokio::time::Instant::now() < deadline, "no answer within 90 s: {message}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            answer => break answer,
        }
    };
    server.kill().await.unwrap();
    answer
}

#[tokio::test]
async fn a_real_code_server_is_loaded() {
    let Some(python) = real_dagster() else { return };
    let code = "import dagster as dg\n\n@dg.asset\ndef one():\n    return 1\n\ndefs = dg.Definitions(assets=[one])\n";
    let expected = Answer::Loaded { server_id: "revision-7".into(), repositories: vec!["__repository__".into()] };
    assert_eq!(ask_real(&python, code).await, expected);
}

#[tokio::test]
async fn a_real_code_server_returns_all_lines_of_an_error() {
    let Some(python) = real_dagster() else { return };
    let code = "import json\nfrom pydantic import BaseModel, field_validator\n\n\nclass Tool(BaseModel):\n    path: str\n\n    \
                @field_validator('path')\n    def check(cls, path):\n        raise ValueError('not found on PATH')\n\n\nTool(path='dbt')\n";
    let answer = ask_real(&python, code).await;
    let Answer::LoadError { message, .. } = answer else { panic!("expected a load error, got {answer:?}") };
    assert!(
        message.contains("ValidationError: 1 validation error for Tool\npath\n  Value error, not found on PATH"),
        "{message}"
    );
    assert!(message.contains("definitions.py\", line 13"), "{message}");
}

#[tokio::test]
async fn a_real_code_server_returns_why_its_code_fails() {
    let Some(python) = real_dagster() else { return };
    let answer = ask_real(&python, "import a_module_that_is_missing\n").await;
    let Answer::LoadError { server_id, message } = answer else { panic!("expected a load error, got {answer:?}") };
    assert_eq!(server_id, "revision-7");
    assert!(message.contains("caused by ModuleNotFoundError: No module named 'a_module_that_is_missing'"), "{message}");
    assert!(message.contains("definitions.py\", line 1"), "{message}");
    assert!(message.lines().count() < 12, "{message}");
}
