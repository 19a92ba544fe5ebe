//! Commits that codeloc refuses, and code that it must not run.

use codeloc_core::ids::Commit;
use codeloc_git::{Git, GitSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Anonymous, BuildSettings, CODE, OciBuilder, Repository, TestBuilder, TestRegistry, git_settings};
use crate::error::expect_transient;
use crate::{Builder, Limits};

#[tokio::test]
async fn files_that_an_image_cannot_contain_are_refused_by_name() {
    let registry = TestRegistry::start().await;
    let builder = TestBuilder::with(|settings| settings.limits = Limits { files: 3, ..Limits::default() });

    let repository = Repository::new();
    std::os::unix::fs::symlink("../../etc/passwd", repository.path("pipeline/passwd")).unwrap();
    let text = builder.refusal(&repository.request(&registry, &repository.commit(&CODE))).await;
    assert!(text.starts_with("symbolic link pipeline/passwd leads outside"), "{text}");

    let repository = Repository::new();
    let commit = repository.commit(&[CODE.as_slice(), &[("pipeline/.wh.base", "")]].concat());
    let text = builder.refusal(&repository.request(&registry, &commit)).await;
    assert!(text.starts_with("pipeline/.wh.base: "), "{text}");

    let repository = Repository::new();
    let commit = repository.commit(&[CODE.as_slice(), &[("a", ""), ("b", "")]].concat());
    assert!(builder.refusal(&repository.request(&registry, &commit)).await.contains("more than 3 files"));

    let repository = Repository::new();
    let commit = repository.commit(&[("pipelines/definitions.py", "")]);
    let text = builder.refusal(&repository.request(&registry, &commit)).await;
    assert!(text.ends_with("did you mean pipelines/definitions.py?"), "{text}");

    assert_eq!(registry.uploads(), [""; 0]);
}

#[tokio::test]
async fn submodules_and_large_files_are_skipped() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    let commit = repository.commit(&[CODE.as_slice(), &[("data.bin", pointer)]].concat());
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor/lib")]);
    let commit = repository.commit_index();
    let image = builder.build(&repository.request(&registry, &commit)).await.unwrap();
    let code = super::layer(&registry, &image, "code");
    assert_eq!(code["opt/codeloc/code/data.bin"], pointer);
    assert!(!code.keys().any(|path| path.contains("vendor")), "{code:?}");
}

#[tokio::test]
async fn options_in_requirement_files_are_refused_with_file_and_line() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    for (line, shown) in [
        ("--index-url https://evil.example/simple", "--index-url https://evil.example/simple"),
        ("-e ./absent", "absent"),
        ("git+ssh://evil.example/x.git", "git+ssh://evil.example/x.git"),
        ("./wheels/x.whl", "wheels/x.whl"),
    ] {
        let commit = repository.commit(&[CODE.as_slice(), &[("deps/prod.txt", &format!("pandas\n{line}\n"))]].concat());
        let mut request = repository.request(&registry, &commit);
        request.dependencies = Some("deps/prod.txt".to_owned());
        let text = builder.refusal(&request).await;
        assert!(text.starts_with(&format!("deps/prod.txt:2: codeloc refuses `{shown}`: ")), "{text}");
    }
}

#[tokio::test]
async fn no_code_of_the_repository_runs() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let marker = repository.folder.path().join("marker");
    let code = format!("open({marker:?}, 'w')\n");
    let hook = format!("#!/bin/sh\ntouch {marker:?}\n");
    let project = "[project]\nname = 'demo'\ndynamic = ['version']\n[build-system]\nrequires = []\nbuild-backend = 'setup'\nbackend-path = ['.']\n";
    let commit = repository.commit(
        &[
            CODE.as_slice(),
            &[
                ("setup.py", &code),
                ("conftest.py", &code),
                ("pyproject.toml", project),
                ("sitecustomize.py", &code),
                ("hooks/post-checkout", &hook),
            ],
        ]
        .concat(),
    );
    builder.build(&repository.request(&registry, &commit)).await.unwrap();
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_missing_commit_is_terminal_and_a_missing_server_is_transient() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    repository.commit(&CODE);
    let request = repository.request(&registry, &Commit::from("0123456789".repeat(4)));
    assert!(builder.refusal(&request).await.starts_with("cannot fetch commit 0123456789"));
    let mut request = repository.request(&registry, &Commit::from("1".repeat(40)));
    request.git_url = "/nowhere/at/all".to_owned();
    assert!(expect_transient(builder.build(&request).await).contains("cannot fetch commit 1111"));
    let local = TestBuilder::without_local_repositories();
    assert!(local.refusal(&request).await.contains("the settings do not allow repositories on this machine"));
}

#[tokio::test]
async fn a_branch_that_replaces_another_is_fetched() {
    let (registry, repository, work) = (TestRegistry::start().await, Repository::new(), tempfile::tempdir().unwrap());
    // A server without protocol version 2 sends only commits that a branch or tag points to.
    let program = work.path().join("git");
    std::fs::write(&program, "#!/bin/sh\nexec git -c protocol.version=0 \"$@\"\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let git = Git::new(GitSettings { program, ..git_settings(work.path(), true) });
    let builder = OciBuilder::new(BuildSettings::new(work.path().join("build")), git, Anonymous).unwrap();
    let commit = |number: &str| repository.commit(&[CODE.as_slice(), &[("number.txt", number)]].concat());
    let build = async |commit: &Commit| builder.build(&repository.request(&registry, commit), &|_| ()).await;

    let first = commit("1");
    repository.git(&["branch", "--move", "team"]);
    commit("2");
    build(&first).await.unwrap();
    repository.git(&["branch", "--move", "team/etl"]);
    let third = commit("3");
    commit("4");
    build(&third).await.unwrap();
    // The commit stays, although its branch is gone.
    repository.git(&["checkout", "--quiet", "--orphan", "other"]);
    commit("5");
    repository.git(&["branch", "--delete", "--force", "team/etl"]);
    let mut again = repository.request(&registry, &third);
    again.code = codeloc_crds::CodePointer::Module("pipeline".to_owned());
    builder.build(&again, &|_| ()).await.unwrap();
}

#[tokio::test]
async fn a_build_fetches_with_url_rewrites_and_tokens() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let (registry, repository, work) = (TestRegistry::start().await, Repository::new(), tempfile::tempdir().unwrap());
    let token = work.path().join("token");
    std::fs::write(&token, "hunter2\n").unwrap();
    let git = Git::new(GitSettings {
        url_rewrites: [("https://example.com/".to_owned(), base.clone())].into(),
        tokens: [(base, token)].into(),
        ..git_settings(work.path(), false)
    });
    let builder = OciBuilder::new(BuildSettings::new(work.path().join("build")), git, Anonymous).unwrap();
    let mut request = repository.request(&registry, &repository.commit(&CODE));
    request.git_url = "https://example.com/private.git".to_owned();
    let server = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(connection.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        String::from_utf8(asked).unwrap()
    };
    let (built, asked) = tokio::join!(builder.build(&request, &|_| ()), server);
    // x-access-token:hunter2
    assert!(asked.starts_with("GET /private.git/"), "{asked}");
    assert!(asked.contains("Authorization: Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg=="), "{asked}");
    let text = expect_transient(built);
    assert!(
        text.contains("does not exist, or codeloc's credentials cannot read it") && !text.contains("hunter2"),
        "{text}"
    );
}
