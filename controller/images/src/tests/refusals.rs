//! What a commit may not hold, and what it may not do.

use codeloc_git::{Git, GitSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Anonymous, BuildError, BuildSettings, CODE, OciBuilder, Repository, TestRegistry, Workshop, git_settings};
use crate::{Builder, Limits};

#[tokio::test]
async fn what_does_not_belong_into_an_image_is_refused_by_name() {
    let registry = TestRegistry::start().await;
    let workshop = Workshop::with(|settings| settings.limits = Limits { files: 3, ..Limits::default() });

    let repository = Repository::new();
    let commit = repository.commit(&CODE);
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor/lib")]);
    let commit = repository.commit_index();
    let text = workshop.refusal(&repository.request(&registry, &commit)).await;
    assert!(text.starts_with("vendor/lib is a git submodule"), "{text}");

    let repository = Repository::new();
    std::os::unix::fs::symlink("../../etc/passwd", repository.path("pipeline/passwd")).unwrap();
    let text = workshop.refusal(&repository.request(&registry, &repository.commit(&CODE))).await;
    assert!(text.starts_with("symbolic link pipeline/passwd leaves"), "{text}");

    let repository = Repository::new();
    let commit = repository.commit(&[CODE.as_slice(), &[("pipeline/.wh.base", "")]].concat());
    let text = workshop.refusal(&repository.request(&registry, &commit)).await;
    assert!(text.starts_with("pipeline/.wh.base: "), "{text}");

    let repository = Repository::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    let commit = repository.commit(&[CODE.as_slice(), &[("data.bin", pointer)]].concat());
    let text = workshop.refusal(&repository.request(&registry, &commit)).await;
    assert!(text.starts_with("data.bin is a Git LFS pointer"), "{text}");

    let repository = Repository::new();
    let commit = repository.commit(&[CODE.as_slice(), &[("a", ""), ("b", "")]].concat());
    assert!(workshop.refusal(&repository.request(&registry, &commit)).await.contains("more than 3 files"));

    let repository = Repository::new();
    let commit = repository.commit(&[("pipelines/definitions.py", "")]);
    let text = workshop.refusal(&repository.request(&registry, &commit)).await;
    assert!(text.ends_with("did you mean pipelines/definitions.py?"), "{text}");

    assert_eq!(registry.uploads(), [""; 0]);
}

#[tokio::test]
async fn requirement_files_with_more_than_requirements_are_refused_with_file_and_line() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    for line in ["--index-url https://evil.example/simple", "-e .", "git+https://evil.example/x.git", "./wheels/x.whl"]
    {
        let commit = repository.commit(&[CODE.as_slice(), &[("deps/prod.txt", &format!("pandas\n{line}\n"))]].concat());
        let mut request = repository.request(&registry, &commit);
        request.dependencies = Some("deps/prod.txt".to_owned());
        let text = workshop.refusal(&request).await;
        assert!(text.starts_with(&format!("deps/prod.txt:2: `{line}` is refused")), "{text}");
    }
}

#[tokio::test]
async fn nothing_of_the_repository_runs() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    let witness = repository.folder.path().join("witness");
    let code = format!("open({witness:?}, 'w')\n");
    let hook = format!("#!/bin/sh\ntouch {witness:?}\n");
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
    workshop.build(&repository.request(&registry, &commit)).await.unwrap();
    assert!(!witness.exists());
}

#[tokio::test]
async fn a_commit_that_the_server_lacks_is_final_and_a_server_that_is_away_is_not() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    repository.commit(&CODE);
    let request = repository.request(&registry, &"0123456789".repeat(4));
    assert!(workshop.refusal(&request).await.starts_with("cannot fetch commit 0123456789"));
    let mut request = repository.request(&registry, &"1".repeat(40));
    request.git_url = "/nowhere/at/all".to_owned();
    assert!(matches!(workshop.build(&request).await, Err(BuildError::Transient(_))));
    let local = Workshop::of_remote_repositories();
    assert!(local.refusal(&request).await.contains("local repositories are not allowed"));
}

#[tokio::test]
async fn a_build_fetches_through_the_rewriting_and_with_the_token_of_the_settings() {
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
    let refusing = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(connection.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        String::from_utf8(asked).unwrap()
    };
    let (built, asked) = tokio::join!(builder.build(&request, &|_| ()), refusing);
    // x-access-token:hunter2
    assert!(asked.starts_with("GET /private.git/"), "{asked}");
    assert!(asked.contains("Authorization: Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg=="), "{asked}");
    let Err(BuildError::Transient(text)) = built else { panic!("{built:?}") };
    assert!(text.contains("does not exist, or may not be read") && !text.contains("hunter2"), "{text}");
}
