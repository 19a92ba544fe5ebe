//! Several package indexes. Uses the real uv and indexes on this machine.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};

use super::python::{python, uv, wheels_from_script};
use super::{CODE, Repository, TestBuilder, TestRegistry, layer};
use crate::error::expect_terminal;
use crate::requirements::normal_name;
use crate::{BuildError, PackageIndex};

/// A package index (PEP 503) for a folder of wheels.
struct Index {
    url: String,
    /// The `Authorization` header of the last request.
    authorization: Arc<Mutex<Option<String>>>,
}

#[derive(Clone)]
struct Served {
    folder: Arc<tempfile::TempDir>,
    authorization: Arc<Mutex<Option<String>>>,
}

impl Index {
    /// With one wheel of each package, which says `by`.
    async fn start(by: &str, packages: &[&str]) -> Self {
        let wheel = |name: &&str| format!("wheel({name:?}, '1.0', {{{name:?} + '.py': 'by = \"{by}\"\\n'}})");
        let script: Vec<String> = packages.iter().map(wheel).collect();
        let served = Served { folder: Arc::new(wheels_from_script(&script.join("\n"))), authorization: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/simple", listener.local_addr().unwrap());
        let authorization = served.authorization.clone();
        let router = Router::new().fallback(serve).with_state(served);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, authorization }
    }
}

async fn serve(State(served): State<Served>, headers: HeaderMap, uri: Uri) -> Response {
    let header = headers.get("authorization").and_then(|value| value.to_str().ok());
    *served.authorization.lock().unwrap() = header.map(str::to_owned);
    let files: Vec<String> = std::fs::read_dir(served.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    if let Some(file) = uri.path().strip_prefix("/files/") {
        return std::fs::read(served.folder.path().join(file)).unwrap().into_response();
    }
    let wanted = uri.path().trim_start_matches("/simple/").trim_end_matches('/');
    let links: Vec<String> = files
        .iter()
        .filter(|file| normal_name(file.split('-').next().unwrap()) == wanted)
        .map(|file| {
            let hash = crate::digest::sha256_hex(std::fs::read(served.folder.path().join(file)).unwrap());
            format!("<a href=\"/files/{file}#sha256={hash}\">{file}</a>")
        })
        .collect();
    if links.is_empty() { StatusCode::NOT_FOUND.into_response() } else { Html(links.concat()).into_response() }
}

/// Builds a project on a public index and an index `acme` of the operator. Returns the texts of the installed modules.
async fn built(
    public: &Index,
    acme: &Index,
    credentials: Option<&Path>,
    files: &[(&str, &str)],
) -> Result<Vec<String>, BuildError> {
    let builder = TestBuilder::with(|settings| {
        settings.uv = uv().unwrap();
        settings.python = Some(python());
        settings.index_url = Some(public.url.clone());
        let credentials = credentials.map(Path::to_path_buf);
        settings.indexes = vec![PackageIndex { name: "acme".to_owned(), url: acme.url.clone(), credentials }];
        settings.exclusive_packages = [("acme-*".to_owned(), "acme".to_owned())].into();
    });
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let commit = repository.commit(&[CODE.as_slice(), files].concat());
    let image = builder.build(&repository.request(&registry, &commit)).await?;
    let modules = layer(&registry, &image, "dependencies").into_iter();
    Ok(modules.filter(|(_, text)| text.starts_with("by =")).map(|(_, text)| text.trim().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_come_from_the_index_that_the_settings_allow() {
    if uv().is_none() {
        return;
    }
    let public = Index::start("public", &["plain", "acme_only_public"]).await;
    let acme = Index::start("acme", &["acme_tool", "inhouse"]).await;
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    std::fs::write(&credentials, "reader:hunter2\n").unwrap();
    let requirements = [("requirements.txt", "plain\nacme-tool\ninhouse\n")];
    let mut modules = built(&public, &acme, Some(&credentials), &requirements).await.unwrap();
    modules.sort();
    assert_eq!(modules, ["by = \"acme\"", "by = \"acme\"", "by = \"public\""]);
    // reader:hunter2
    assert_eq!(acme.authorization.lock().unwrap().as_deref(), Some("Basic cmVhZGVyOmh1bnRlcjI="));
    assert_eq!(*public.authorization.lock().unwrap(), None);

    let confused = [("requirements.txt", "acme-only-public\n")];
    let text = expect_terminal(built(&public, &acme, None, &confused).await);
    assert!(
        text.starts_with("acme-only-public must come from the package index acme, which does not have it"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_gets_a_package_only_from_the_index_it_names() {
    if uv().is_none() {
        return;
    }
    let public = Index::start("public", &["plain", "absent_in_acme"]).await;
    let acme = Index::start("acme", &["plain"]).await;
    let project = |package: &str, url: &str| {
        format!(
            "[project]\nname = 'x'\nversion = '1'\ndependencies = ['{package}']\n[tool.uv.sources]\n{package} = {{ index = 'corp' }}\n\
             [[tool.uv.index]]\nname = 'corp'\nurl = '{url}'\nexplicit = true\n"
        )
    };
    let allowed = project("plain", &format!("{}/", acme.url));
    assert_eq!(built(&public, &acme, None, &[("pyproject.toml", &allowed)]).await.unwrap(), ["by = \"acme\""]);
    let absent = project("absent-in-acme", &acme.url);
    let text = expect_terminal(built(&public, &acme, None, &[("pyproject.toml", &absent)]).await);
    assert!(text.starts_with("absent-in-acme must come from the package index"), "{text}");
    let unknown = project("plain", "https://corp.example/simple");
    let text = expect_terminal(built(&public, &acme, None, &[("pyproject.toml", &unknown)]).await);
    assert!(text.contains("the index corp") && text.contains("build.indexes"), "{text}");
}
