//! Whole builds with a registry in memory and git repositories in temporary folders.

mod base;
mod build_cache;
mod caches;
mod determinism;
mod dockerfile;
mod ecr;
mod hostile;
mod indexes;
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

use codeloc_core::ids::{Commit, Digest};
use codeloc_core::image::{Image, LoadTarget};
use codeloc_crds::{Architecture, CodePointer};
use codeloc_git::{Git, GitSettings};
use registry::TestRegistry;
use serde_json::{Value, json};

use crate::error::{expect_terminal, expect_transient};
use crate::image::LAYER_ANNOTATION;
use crate::{
    Anonymous, BaseImage, BuildError, BuildSettings, Builder, Compression, Login, OciBuilder, RegistryCredentials,
    Request,
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

    /// Writes files and commits everything. Returns the commit.
    fn commit(&self, files: &[(&str, &str)]) -> Commit {
        for (path, text) in files {
            std::fs::write(self.path(path), text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.commit_index()
    }

    fn commit_index(&self) -> Commit {
        self.git(&["commit", "--quiet", "--message=x"]);
        Commit::from(self.git(&["rev-parse", "HEAD"]))
    }

    fn request(&self, registry: &TestRegistry, commit: &Commit) -> Request {
        request_for(self.folder.path().to_str().unwrap(), &registry.host, commit)
    }
}

fn request_for(git_url: &str, registry: &str, commit: &Commit) -> Request {
    let config = "name: demo\ngit_url: https://example.com/r.git\nmodule: demo\n";
    Request {
        location: codeloc_crds::parse("demo/config.yml", config).unwrap().name,
        git_url: git_url.to_owned(),
        commit: commit.clone(),
        subdirectory: None,
        code: CodePointer::PythonFile("pipeline/definitions.py".to_owned()),
        dependencies: None,
        dockerfile: None,
        commands: vec![],
        python: None,
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

/// A builder with its own empty work folder.
struct TestBuilder {
    oci: OciBuilder<Anonymous>,
    work: tempfile::TempDir,
    progress: Mutex<Vec<String>>,
}

impl TestBuilder {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// Its git refuses repositories on this machine.
    fn without_local_repositories() -> Self {
        Self::with_git(false, |_| {})
    }

    fn with(change: impl FnOnce(&mut BuildSettings)) -> Self {
        Self::with_git(true, change)
    }

    fn with_git(allow_local: bool, change: impl FnOnce(&mut BuildSettings)) -> Self {
        let work = tempfile::tempdir().unwrap();
        let mut settings = BuildSettings::new(work.path().to_path_buf());
        change(&mut settings);
        let oci = OciBuilder::new(settings, git(work.path(), allow_local), Anonymous).unwrap();
        Self { oci, work, progress: Mutex::default() }
    }

    async fn build(&self, request: &Request) -> Result<Image, BuildError> {
        self.oci.build(request, &|step| self.progress.lock().unwrap().push(step.to_string())).await
    }

    async fn refusal(&self, request: &Request) -> String {
        expect_terminal(self.build(request).await)
    }

    fn progress(&self) -> Vec<String> {
        std::mem::take(&mut self.progress.lock().unwrap())
    }
}

fn digest(image: &Image) -> Digest {
    Digest::from(image.reference.split_once('@').unwrap().1)
}

/// The tar stream of one of codeloc's layers.
fn tar_of_layer(registry: &TestRegistry, image: &Image, name: &str) -> Vec<u8> {
    let repository = image.reference.split_once('@').unwrap().0.split_once('/').unwrap().1;
    let manifest = registry.manifest(repository, &digest(image));
    let layers = manifest["layers"].as_array().unwrap();
    let layer = layers.iter().find(|layer| layer["annotations"][LAYER_ANNOTATION] == name).unwrap();
    let packed = registry.blob(repository, layer["digest"].as_str().unwrap());
    zstd::decode_all(packed.as_slice()).unwrap()
}

/// The entries of one of codeloc's layers: path to content, `-> target` for a link, an empty text for a folder.
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
    let manifest = registry.manifest(repository, &digest(image));
    serde_json::from_slice(&registry.blob(repository, manifest["config"]["digest"].as_str().unwrap())).unwrap()
}

#[tokio::test]
async fn the_second_build_of_a_commit_uploads_nothing() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let request = repository.request(&registry, &repository.commit(&CODE));
    assert_eq!(builder.oci.find(&request, None).await.unwrap(), None);
    let first = builder.build(&request).await.unwrap();
    assert_eq!(
        registry.uploads(),
        ["blob codeloc/demo", "blob codeloc/demo", "blob codeloc/demo", "manifest codeloc/demo"]
    );
    assert_eq!(
        builder.progress(),
        ["fetching the commit", "packing the packages", "packing the code", "uploading the image"]
    );

    assert_eq!(builder.build(&request).await.unwrap(), first);
    assert_eq!(builder.oci.find(&request, None).await.unwrap(), Some(first.clone()));
    assert_eq!(registry.uploads(), [""; 0]);
    assert!(builder.progress().is_empty());
    assert_eq!(first.load.target, LoadTarget::Module("pipeline.definitions".to_owned()));
    assert_eq!(first.load.working_directory, "/opt/codeloc/code");
    let config = config(&registry, &first);
    assert_eq!(config["architecture"], "arm64");
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["config"]["Labels"]["codeloc.commit"], request.commit.as_str());
}

#[tokio::test]
async fn two_independent_builders_build_the_same_image() {
    for compression in [Compression::Zstd, Compression::Gzip] {
        let repository = Repository::new();
        let commit = repository.commit(&CODE);
        let mut digests = Vec::new();
        for _ in 0..2 {
            let registry = TestRegistry::start().await;
            let builder = TestBuilder::with(|settings| settings.compression = compression);
            let image = builder.build(&repository.request(&registry, &commit)).await.unwrap();
            digests.push(digest(&image));
        }
        assert_eq!(digests[0], digests[1]);
    }
}

#[tokio::test]
async fn a_code_change_uploads_only_the_code() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let first = builder.build(&repository.request(&registry, &repository.commit(&CODE))).await.unwrap();
    registry.uploads();
    builder.progress();
    let commit = repository.commit(&[("pipeline/definitions.py", "changed\n")]);
    let second = builder.build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(registry.uploads(), ["blob codeloc/demo", "blob codeloc/demo", "manifest codeloc/demo"]);
    assert_eq!(builder.progress(), ["fetching the commit", "packing the code", "uploading the image"]);
    assert_ne!(first.reference, second.reference);
    assert_eq!(layer(&registry, &second, "code")["opt/codeloc/code/pipeline/definitions.py"], "changed\n");

    // Another repository of the same registry mounts the layers.
    let mut request = repository.request(&registry, &commit);
    request.target = format!("{}/codeloc/other", registry.host);
    builder.build(&request).await.unwrap();
    assert_eq!(
        registry.uploads(),
        ["mount codeloc/other", "mount codeloc/other", "blob codeloc/other", "manifest codeloc/other"]
    );
}

#[tokio::test]
async fn concurrent_requests_for_one_image_are_one_build() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let request = repository.request(&registry, &repository.commit(&CODE));
    let images = futures::future::join_all((0..8).map(|_| builder.build(&request))).await;
    let references: std::collections::BTreeSet<String> =
        images.into_iter().map(|image| image.unwrap().reference).collect();
    assert_eq!(references.len(), 1);
    assert_eq!(registry.uploads().len(), 4);
}

#[tokio::test]
async fn a_dbt_project_beside_the_location_is_found() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let commit = repository.commit(&[
        ("etl/definitions.py", "DBT = '../warehouse'\n"),
        ("warehouse/dbt_project.yml", "name: warehouse\n"),
        ("warehouse/models/one.sql", "select 1\n"),
        ("unrelated/dbt_project.yml", "name: unrelated\n"),
        ("notes.txt", ""),
    ]);
    let mut request = repository.request(&registry, &commit);
    request.subdirectory = Some("etl".to_owned());
    request.code = CodePointer::PythonFile("definitions.py".to_owned());
    let image = builder.build(&request).await.unwrap();
    let layer = layer(&registry, &image, "code");
    assert_eq!(layer["opt/codeloc/warehouse/models/one.sql"], "select 1\n");
    assert!(!layer.keys().any(|path| path.contains("unrelated") || path.contains("notes")), "{layer:?}");
    assert!(image.notes[0].starts_with("the commit has no ../warehouse/target/manifest.json"), "{:?}", image.notes);
}

#[tokio::test]
async fn a_subdirectory_becomes_the_root() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    let commit = repository.commit(&[
        ("other/secret.py", ""),
        ("team/hooli/src/hooli/__init__.py", ""),
        ("team/hooli/src/hooli/definitions.py", "x = 1\n"),
    ]);
    let mut request = repository.request(&registry, &commit);
    request.subdirectory = Some("team/hooli/".to_owned());
    request.code = CodePointer::PythonFile("src/hooli/definitions.py".to_owned());
    let image = builder.build(&request).await.unwrap();
    assert_eq!(image.load.target, LoadTarget::Module("hooli.definitions".to_owned()));
    assert_eq!(image.load.working_directory, "/opt/codeloc/code");
    let layer = layer(&registry, &image, "code");
    let files: Vec<&String> = layer.keys().filter(|path| !path.ends_with('/')).collect();
    let path_file = "opt/codeloc/env/lib/python3.12/site-packages/codeloc_code.pth";
    assert_eq!(
        files,
        ["opt/codeloc/code/src/hooli/__init__.py", "opt/codeloc/code/src/hooli/definitions.py", path_file]
    );
    assert_eq!(layer[path_file], "../../../../code/src\n../../../../code\n");

    request.subdirectory = Some("team/absent".to_owned());
    assert_eq!(
        builder.refusal(&request).await,
        "the commit has no folder team/absent (`subdirectory`); write the path relative to the repository root"
    );
    request.subdirectory = Some("../x".to_owned());
    assert!(builder.refusal(&request).await.contains("plain relative path"));
}

#[tokio::test]
async fn a_python_file_behind_links_is_loaded() {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let builder = TestBuilder::new();
    std::os::unix::fs::symlink("definitions.py", repository.path("pipeline/entry.py")).unwrap();
    std::os::unix::fs::symlink("pipeline", repository.path("current")).unwrap();
    let mut request = repository.request(&registry, &repository.commit(&CODE));
    for (file, module) in
        [("pipeline/entry.py", "pipeline.entry"), ("./current/definitions.py", "pipeline.definitions")]
    {
        request.code = CodePointer::PythonFile(file.to_owned());
        let image = builder.build(&request).await.unwrap();
        assert_eq!(image.load.target, LoadTarget::Module(module.to_owned()), "{file}");
    }
}

#[tokio::test]
async fn files_modes_and_links_are_packed_as_git_stores_them() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    std::os::unix::fs::symlink("definitions.py", repository.path("pipeline/link.py")).unwrap();
    let attributes = ("pipeline/ignored.txt export-ignore\n* export-subst ident text eol=crlf\n", ".gitattributes");
    let commit = repository.commit(
        &[CODE.as_slice(), &[(attributes.1, attributes.0), ("pipeline/ignored.txt", "$Format:%H$ $Id$\n")]].concat(),
    );
    let image = builder.build(&repository.request(&registry, &commit)).await.unwrap();
    let code = layer(&registry, &image, "code");
    assert_eq!(code["opt/codeloc/code/pipeline/ignored.txt"], "$Format:%H$ $Id$\n");
    assert_eq!(code["opt/codeloc/code/pipeline/link.py"], "-> definitions.py");
}

#[tokio::test]
async fn a_missing_registry_repository_has_a_clear_error() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    registry.only_repositories(&["codeloc/other"]);
    let request = repository.request(&registry, &repository.commit(&CODE));
    assert_eq!(builder.oci.find(&request, None).await.unwrap(), None);
    let text = expect_transient(builder.build(&request).await);
    assert!(text.contains("codeloc/demo: the registry has no such repository"), "{text}");
}

struct Password(&'static str);

impl RegistryCredentials for Password {
    async fn for_registry(&self, _host: &str) -> Result<Option<Login>, BuildError> {
        Ok(Some(Login { user: "AWS".to_owned(), password: self.0.to_owned() }))
    }
}

#[tokio::test]
async fn credentials_reach_the_registry_and_no_error() {
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
    assert_eq!(builder.find(&request, None).await.unwrap(), Some(image));
    let error = wrong.find(&request, None).await.unwrap_err();
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let text = expect_transient::<()>(Err(error));
    assert!(text.contains("refuses the credentials") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn the_base_image_is_selected_by_architecture() {
    let (registry, elsewhere, repository) =
        (TestRegistry::start().await, TestRegistry::start().await, Repository::new());
    let commit = repository.commit(&CODE);
    for source in [&registry, &elsewhere] {
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
                        "digest": source.put_blob("base/python", config.as_bytes()),
                        "size": config.len(),
                    },
                    "layers": [{
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": source.put_blob("base/python", layer.as_bytes()),
                        "size": layer.len(),
                    }],
                });
                let digest = source.put_manifest("base/python", architecture, &manifest);
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
        let index = source.put_manifest("base/python", "3.12", &index);
        let builder = TestBuilder::with(|settings| {
            settings.base_image = BaseImage::Reference(format!("{}/base/python@{index}", source.host));
        });
        for (architecture, name) in [(Architecture::Arm64, "arm64"), (Architecture::X86_64, "amd64")] {
            registry.uploads();
            let mut request = repository.request(&registry, &commit);
            request.target = format!("{}/codeloc/from-{}", registry.host, source.host.rsplit(':').next().unwrap());
            request.architecture = architecture;
            let image = builder.build(&request).await.unwrap();
            let config = config(&registry, &image);
            assert_eq!((&config["architecture"], &config["config"]["User"]), (&json!(name), &json!(name)));
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{name}"));
            assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
            let mounted = registry.uploads().iter().any(|upload| upload.starts_with("mount"));
            assert_eq!(mounted, source.host == registry.host);
            assert_eq!(builder.oci.find(&request, None).await.unwrap(), Some(image));
        }
    }
}

#[tokio::test]
async fn a_tag_of_another_builder_is_looked_up_in_its_registry() {
    let registry = TestRegistry::start().await;
    let digest = registry.put_manifest("team/app", "1.4.0", &json!({"schemaVersion": 2, "layers": []}));
    let builder = TestBuilder::new();
    let tag = async |tag: &str| builder.oci.digest(&format!("{}/team/{tag}", registry.host)).await;
    assert_eq!(tag("app:1.4.0").await.unwrap(), Some(digest));
    assert_eq!(tag("app:1.5.0").await.unwrap(), None);
    registry.only_repositories(&["team/app"]);
    assert_eq!(tag("apple:1.4.0").await.unwrap(), None);
    registry.require_password("secret");
    let refused = tag("app:1.4.0").await.unwrap_err().to_string();
    assert!(refused.contains("refuses the credentials"), "{refused}");
    let unreachable = builder.oci.digest("127.0.0.1:1/team/app:1.4.0").await.unwrap_err().to_string();
    assert!(unreachable.contains("127.0.0.1:1/team/app"), "{unreachable}");
}
