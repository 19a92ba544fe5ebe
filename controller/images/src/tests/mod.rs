//! Whole builds against a registry in memory and git repositories in temporary folders.

mod build_cache;
mod caches;
mod determinism;
mod dockerfile;
mod ecr;
mod hostile;
mod jail;
mod killed;
mod process;
mod python;
mod refusals;
mod registry;
mod releases;
mod tools;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use codeloc_core::image::{Image, LoadTarget};
use codeloc_crds::{Architecture, CodePointer};
use codeloc_git::{Git, GitSettings};
use registry::TestRegistry;
use serde_json::{Value, json};

use super::{
    Anonymous, BaseImage, BuildError, BuildSettings, Builder, Compression, OciBuilder, RegistryCredentials, Request,
    image::LAYER_ANNOTATION,
};

/// A user's git repository.
struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        repository.git(&["init", "--quiet"]);
        repository
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.folder.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs([("GIT_AUTHOR_DATE", "1700000000 +0000"), ("GIT_COMMITTER_DATE", "1700000000 +0000")])
            .args(["-c", "user.name=A", "-c", "user.email=a@example.com"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Writes files and commits everything; answers the commit.
    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            std::fs::write(self.path(path), text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.commit_index()
    }

    fn commit_index(&self) -> String {
        self.git(&["commit", "--quiet", "--message=x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn request(&self, registry: &TestRegistry, commit: &str) -> Request {
        request_of(self.folder.path().to_str().unwrap(), &registry.host, commit)
    }
}

fn request_of(git_url: &str, registry: &str, commit: &str) -> Request {
    let config = "name: demo\ngit_url: https://example.com/r.git\nmodule: demo\n";
    Request {
        location: codeloc_crds::parse("demo/config.yml", config).unwrap().name,
        git_url: git_url.to_owned(),
        commit: commit.to_owned(),
        subdirectory: None,
        code: CodePointer::PythonFile("pipeline/definitions.py".to_owned()),
        dependencies: None,
        dockerfile: None,
        python: "3.12".to_owned(),
        architecture: Architecture::Arm64,
        target: format!("{registry}/codeloc/demo"),
    }
}

const CODE: [(&str, &str); 2] = [("pipeline/__init__.py", ""), ("pipeline/definitions.py", "from . import x\n")];

fn git_settings(work: &Path, allow_local: bool) -> GitSettings {
    GitSettings {
        program: "git".into(),
        home: work.join("git-home"),
        url_rewrites: BTreeMap::new(),
        tokens: BTreeMap::new(),
        allow_local,
        timeout: Duration::from_mins(5),
    }
}

fn git(work: &Path, allow_local: bool) -> Git {
    Git::new(git_settings(work, allow_local))
}

/// A builder with an empty work folder of its own.
struct Workshop {
    builder: OciBuilder<Anonymous>,
    work: tempfile::TempDir,
    progress: Mutex<Vec<String>>,
}

impl Workshop {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a git that only reaches out to other machines.
    fn of_remote_repositories() -> Self {
        let work = tempfile::tempdir().unwrap();
        let settings = BuildSettings::new(work.path().to_path_buf());
        let builder = OciBuilder::new(settings, git(work.path(), false), Anonymous).unwrap();
        Self { builder, work, progress: Mutex::default() }
    }

    fn with(change: impl FnOnce(&mut BuildSettings)) -> Self {
        let work = tempfile::tempdir().unwrap();
        let mut settings = BuildSettings::new(work.path().to_path_buf());
        change(&mut settings);
        let builder = OciBuilder::new(settings, git(work.path(), true), Anonymous).unwrap();
        Self { builder, work, progress: Mutex::default() }
    }

    async fn build(&self, request: &Request) -> Result<Image, BuildError> {
        self.builder.build(request, &|text| self.progress.lock().unwrap().push(text)).await
    }

    async fn refusal(&self, request: &Request) -> String {
        match self.build(request).await {
            Err(BuildError::Terminal(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn progress(&self) -> Vec<String> {
        std::mem::take(&mut self.progress.lock().unwrap())
    }
}

fn digest(image: &Image) -> &str {
    image.reference.split_once('@').unwrap().1
}

/// One of our layers, unpacked as far as a tar.
fn tar_of_layer(registry: &TestRegistry, image: &Image, name: &str) -> Vec<u8> {
    let repository = image.reference.split_once('@').unwrap().0.split_once('/').unwrap().1;
    let manifest = registry.manifest(repository, digest(image));
    let layers = manifest["layers"].as_array().unwrap();
    let wanted = layers.iter().find(|layer| layer["annotations"][LAYER_ANNOTATION] == name).unwrap();
    let packed = registry.blob(repository, wanted["digest"].as_str().unwrap());
    zstd::decode_all(packed.as_slice()).unwrap()
}

/// The entries of one of our layers: path to content, or to `-> target`, or to nothing for a folder.
fn layer(registry: &TestRegistry, image: &Image, name: &str) -> BTreeMap<String, String> {
    let bytes = tar_of_layer(registry, image, name);
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let content = match entry.link_name().unwrap() {
            Some(target) => format!("-> {}", target.display()),
            None => String::from_utf8_lossy(&content).into_owned(),
        };
        entries.insert(path, content);
    }
    entries
}

fn config(registry: &TestRegistry, image: &Image) -> Value {
    let repository = image.reference.split_once('@').unwrap().0.split_once('/').unwrap().1;
    let manifest = registry.manifest(repository, digest(image));
    serde_json::from_slice(&registry.blob(repository, manifest["config"]["digest"].as_str().unwrap())).unwrap()
}

#[tokio::test]
async fn the_same_commit_twice_is_one_image_and_the_second_time_nothing_is_uploaded() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    let request = repository.request(&registry, &repository.commit(&CODE));
    assert_eq!(workshop.builder.find(&request).await.unwrap(), None);
    let first = workshop.build(&request).await.unwrap();
    assert_eq!(
        registry.uploads(),
        ["blob codeloc/demo", "blob codeloc/demo", "blob codeloc/demo", "manifest codeloc/demo"]
    );
    assert_eq!(workshop.progress(), ["fetching", "packing", "packing", "uploading"]);

    assert_eq!(workshop.build(&request).await.unwrap(), first);
    assert_eq!(workshop.builder.find(&request).await.unwrap(), Some(first.clone()));
    assert_eq!(registry.uploads(), [""; 0]);
    assert!(workshop.progress().is_empty());
    assert_eq!(first.load.target, LoadTarget::Module("pipeline.definitions".to_owned()));
    assert_eq!(first.load.working_directory, "/opt/codeloc/code");
    let config = config(&registry, &first);
    assert_eq!(config["architecture"], "arm64");
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["config"]["Labels"]["codeloc.commit"], request.commit);
}

#[tokio::test]
async fn two_builders_with_nothing_in_common_make_the_same_image() {
    for compression in [Compression::Zstd, Compression::Gzip] {
        let repository = Repository::new();
        let commit = repository.commit(&CODE);
        let mut digests = Vec::new();
        for _ in 0..2 {
            let registry = TestRegistry::start().await;
            let workshop = Workshop::with(|settings| settings.compression = compression);
            let image = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
            digests.push(digest(&image).to_owned());
        }
        assert_eq!(digests[0], digests[1]);
    }
}

#[tokio::test]
async fn a_change_of_code_uploads_the_code_alone() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    let first = workshop.build(&repository.request(&registry, &repository.commit(&CODE))).await.unwrap();
    registry.uploads();
    workshop.progress();
    let commit = repository.commit(&[("pipeline/definitions.py", "changed\n")]);
    let second = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(registry.uploads(), ["blob codeloc/demo", "blob codeloc/demo", "manifest codeloc/demo"]);
    assert_eq!(workshop.progress(), ["fetching", "packing", "uploading"]);
    assert_ne!(first.reference, second.reference);
    assert_eq!(layer(&registry, &second, "code")["opt/codeloc/code/pipeline/definitions.py"], "changed\n");

    // Another repository of the same registry takes the dependency layer over, and only then is anything sent.
    let mut request = repository.request(&registry, &commit);
    request.target = format!("{}/codeloc/other", registry.host);
    workshop.build(&request).await.unwrap();
    assert_eq!(
        registry.uploads(),
        ["mount codeloc/other", "mount codeloc/other", "blob codeloc/other", "manifest codeloc/other"]
    );
}

#[tokio::test]
async fn many_requests_for_one_image_at_the_same_moment_are_one_build() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    let request = repository.request(&registry, &repository.commit(&CODE));
    let images = futures::future::join_all((0..8).map(|_| workshop.build(&request))).await;
    let references: std::collections::BTreeSet<String> =
        images.into_iter().map(|image| image.unwrap().reference).collect();
    assert_eq!(references.len(), 1);
    assert_eq!(registry.uploads().len(), 4);
}

#[tokio::test]
async fn a_subdirectory_becomes_the_root() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    let commit = repository.commit(&[
        ("other/secret.py", ""),
        ("team/hooli/src/hooli/__init__.py", ""),
        ("team/hooli/src/hooli/definitions.py", "x = 1\n"),
    ]);
    let mut request = repository.request(&registry, &commit);
    request.subdirectory = Some("team/hooli/".to_owned());
    request.code = CodePointer::PythonFile("src/hooli/definitions.py".to_owned());
    let image = workshop.build(&request).await.unwrap();
    assert_eq!(image.load.target, LoadTarget::Module("hooli.definitions".to_owned()));
    assert_eq!(image.load.working_directory, "/opt/codeloc/code/src");
    let files: Vec<String> = layer(&registry, &image, "code").into_keys().filter(|path| !path.ends_with('/')).collect();
    assert_eq!(files, ["opt/codeloc/code/src/hooli/__init__.py", "opt/codeloc/code/src/hooli/definitions.py"]);

    request.subdirectory = Some("team/absent".to_owned());
    assert_eq!(workshop.refusal(&request).await, "the commit has no folder team/absent (`subdirectory`)");
    request.subdirectory = Some("../x".to_owned());
    assert!(workshop.refusal(&request).await.contains("plain relative path"));
}

#[tokio::test]
async fn attributes_modes_and_links_are_taken_as_they_are_in_git() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    std::os::unix::fs::symlink("definitions.py", repository.path("pipeline/link.py")).unwrap();
    let attributes = ("pipeline/ignored.txt export-ignore\n* export-subst ident text eol=crlf\n", ".gitattributes");
    let commit = repository.commit(
        &[CODE.as_slice(), &[(attributes.1, attributes.0), ("pipeline/ignored.txt", "$Format:%H$ $Id$\n")]].concat(),
    );
    let image = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
    let code = layer(&registry, &image, "code");
    assert_eq!(code["opt/codeloc/code/pipeline/ignored.txt"], "$Format:%H$ $Id$\n");
    assert_eq!(code["opt/codeloc/code/pipeline/link.py"], "-> definitions.py");
}

#[tokio::test]
async fn a_repository_that_the_registry_does_not_know_is_told_apart() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    registry.only_repositories(&["codeloc/other"]);
    let request = repository.request(&registry, &repository.commit(&CODE));
    assert_eq!(workshop.builder.find(&request).await.unwrap(), None);
    let Err(BuildError::Transient(text)) = workshop.build(&request).await else { panic!("pushed") };
    assert!(text.contains("codeloc/demo: the registry has no such repository"), "{text}");
}

struct Password(&'static str);

impl RegistryCredentials for Password {
    async fn for_registry(&self, _host: &str) -> Result<Option<(String, String)>, BuildError> {
        Ok(Some(("AWS".to_owned(), self.0.to_owned())))
    }
}

#[tokio::test]
async fn credentials_reach_the_registry_and_never_an_error() {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    registry.require_password("right-secret");
    let request = repository.request(&registry, &repository.commit(&CODE));
    let work = tempfile::tempdir().unwrap();
    let builder = |password: &'static str| {
        let settings = BuildSettings::new(work.path().to_path_buf());
        OciBuilder::new(settings, git(work.path(), true), Password(password)).unwrap()
    };
    let (builder, wrong) = (builder("right-secret"), builder("wrong-secret"));
    let image = builder.build(&request, &|_| ()).await.unwrap();
    assert_eq!(builder.find(&request).await.unwrap(), Some(image));
    let Err(BuildError::Transient(text)) = wrong.find(&request).await else { panic!("let in") };
    assert!(text.contains("refuses the credentials") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn the_base_is_chosen_by_architecture_and_lies_below_our_layers() {
    let (registry, elsewhere, repository) =
        (TestRegistry::start().await, TestRegistry::start().await, Repository::new());
    let commit = repository.commit(&CODE);
    for home in [&registry, &elsewhere] {
        let manifests: Vec<Value> = ["amd64", "arm64"]
            .iter()
            .map(|architecture| {
                let layer = format!("layer of {architecture}");
                let config = json!({
                    "architecture": architecture, "os": "linux", "config": {"User": *architecture},
                    "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{architecture}")]},
                })
                .to_string();
                let manifest = json!({
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": {
                        "mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": home.put_blob("base/python", config.as_bytes()),
                        "size": config.len(),
                    },
                    "layers": [{
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": home.put_blob("base/python", layer.as_bytes()),
                        "size": layer.len(),
                    }],
                });
                let digest = home.put_manifest("base/python", architecture, &manifest);
                json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest,
                    "size": manifest.to_string().len(),
                    "platform": {"architecture": architecture, "os": "linux"},
                })
            })
            .collect();
        let index =
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
        let index = home.put_manifest("base/python", "3.12", &index);
        let workshop = Workshop::with(|settings| {
            settings.base_image = BaseImage::Reference(format!("{}/base/python@{index}", home.host));
        });
        for (architecture, name) in [(Architecture::Arm64, "arm64"), (Architecture::X86_64, "amd64")] {
            registry.uploads();
            let mut request = repository.request(&registry, &commit);
            request.target = format!("{}/codeloc/from-{}", registry.host, home.host.rsplit(':').next().unwrap());
            request.architecture = architecture;
            let image = workshop.build(&request).await.unwrap();
            let config = config(&registry, &image);
            assert_eq!((&config["architecture"], &config["config"]["User"]), (&json!(name), &json!(name)));
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{name}"));
            assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
            let mounted = registry.uploads().iter().any(|upload| upload.starts_with("mount"));
            assert_eq!(mounted, home.host == registry.host);
            assert_eq!(workshop.builder.find(&request).await.unwrap(), Some(image));
        }
    }
}

#[tokio::test]
async fn a_tag_of_an_image_built_elsewhere_is_looked_up_or_told_why_not() {
    let registry = TestRegistry::start().await;
    let digest = registry.put_manifest("team/app", "1.4.0", &json!({"schemaVersion": 2, "layers": []}));
    let workshop = Workshop::new();
    let tag = async |tag: &str| workshop.builder.digest(&format!("{}/team/{tag}", registry.host)).await;
    assert_eq!(tag("app:1.4.0").await.unwrap(), Some(digest));
    assert_eq!(tag("app:1.5.0").await.unwrap(), None);
    registry.only_repositories(&["team/app"]);
    assert_eq!(tag("apple:1.4.0").await.unwrap(), None);
    registry.require_password("secret");
    let refused = tag("app:1.4.0").await.unwrap_err().to_string();
    assert!(refused.contains("refuses the credentials"), "{refused}");
    let nobody = workshop.builder.digest("127.0.0.1:1/team/app:1.4.0").await.unwrap_err().to_string();
    assert!(nobody.contains("127.0.0.1:1/team/app"), "{nobody}");
}
