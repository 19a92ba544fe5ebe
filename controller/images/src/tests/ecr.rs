//! Faults of ECR and of the network: a build gives the right image or a clear error, and the next build the right image.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use codeloc_core::ids::{Commit, Digest};
use codeloc_core::image::Image;
use oci_client::client::{ClientConfig, ClientProtocol};

use super::registry::{Fault, RecordedRequest};
use super::{CODE, Repository, TestBuilder, TestRegistry, digest, git};
use crate::digest::sha256;
use crate::error::expect_transient;
use crate::{BuildError, BuildSettings, Builder, Login, OciBuilder, RegistryCredentials, Request};

/// A commit and a builder that has built it, so that only the registry changes the next build.
struct Bench {
    repository: Repository,
    commit: Commit,
    builder: TestBuilder,
    /// The digest of the image.
    expected: Digest,
    /// The requests of a build without faults.
    requests: Vec<RecordedRequest>,
}

impl Bench {
    async fn new() -> Self {
        let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
        let commit = repository.commit(&CODE);
        let image = builder.build(&repository.request(&registry, &commit)).await.unwrap();
        let expected = digest(&image);
        Self { repository, commit, builder, expected, requests: registry.requests() }
    }

    fn request(&self, registry: &TestRegistry) -> Request {
        self.repository.request(registry, &self.commit)
    }

    async fn build(&self, registry: &TestRegistry) -> Result<Image, BuildError> {
        self.builder.build(&self.request(registry)).await
    }

    /// Builds, and checks that the registry has the whole image.
    async fn succeeds(&self, registry: &TestRegistry) {
        let image = self.build(registry).await.unwrap();
        assert_eq!(digest(&image), self.expected);
        let manifest = registry.manifest("codeloc/demo", &self.expected);
        for layer in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            assert!(registry.has_blob("codeloc/demo", layer["digest"].as_str().unwrap()));
        }
    }
}

#[tokio::test]
async fn layers_are_uploaded_in_one_request() {
    let (registry, bench) = (TestRegistry::start().await, Bench::new().await);
    bench.succeeds(&registry).await;
    assert!(registry.requests().iter().all(|request| request.method != "PATCH"));

    // The client's default upload fails.
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    let client = oci_client::Client::try_from(config).unwrap();
    let image = oci_client::Reference::with_tag(registry.host.clone(), "codeloc/demo".to_owned(), "x".to_owned());
    let chunks = futures::stream::iter([Ok(bytes::Bytes::from_static(b"a layer"))]);
    client.push_blob_stream(&image, chunks, &sha256(b"a layer"), None).await.unwrap_err();
    assert!(registry.requests().iter().any(|request| request.method == "PATCH"));
}

#[tokio::test]
async fn any_fault_at_any_request_gives_the_image_or_an_error() {
    let bench = Bench::new().await;
    let faults = [
        Fault::Status(429),
        Fault::Status(500),
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::NoLocation,
        Fault::Location("relative/to/what"),
        Fault::Location("http://[broken"),
    ];
    for fault in faults {
        for number in 1..=bench.requests.len() {
            let registry = TestRegistry::start().await;
            registry.set_faults(move |request| (request.number == number).then_some(fault));
            let fault_place = format!("{fault:?} at {:?}", bench.requests[number - 1]);
            match bench.build(&registry).await {
                Ok(image) => assert_eq!(digest(&image), bench.expected, "{fault_place}"),
                Err(error) => {
                    assert!(!format!("{error:?}").contains("/uploads/"), "{fault_place}: {error:?}");
                    let text = expect_transient::<()>(Err(error));
                    assert!(text.contains(&registry.host) && !text.contains("/uploads/"), "{fault_place}: {text}");
                    if let Fault::Status(code) = fault {
                        // The status, or the registry's error code.
                        let reasons = [&code.to_string(), "credentials", "UNKNOWN", "TOOMANYREQUESTS"];
                        let has_reason = reasons.iter().any(|reason| text.contains(*reason));
                        assert!(has_reason, "{fault_place}: {text}");
                    }
                }
            }
            registry.clear_faults();
            bench.succeeds(&registry).await;
        }
    }
}

#[tokio::test]
async fn a_retry_repeats_no_finished_upload() {
    let bench = Bench::new().await;
    let uploads = bench.requests.iter().filter(|request| !request.is_read() && request.method == "PUT");
    for put in uploads {
        let registry = TestRegistry::start().await;
        let number = put.number;
        registry.set_faults(move |request| (request.number == number).then_some(Fault::CutAfter));
        let _ = bench.build(&registry).await;
        registry.clear_faults();
        bench.succeeds(&registry).await;
        let uploads = registry.uploads();
        assert_eq!(uploads.len(), 4, "{put:?}: {uploads:?}");
    }
}

#[tokio::test]
async fn an_upload_without_location_succeeds_if_the_blob_exists() {
    let bench = Bench::new().await;
    let registry = TestRegistry::start().await;
    registry.set_faults(|request| (request.method == "PUT").then_some(Fault::NoLocation));
    bench.succeeds(&registry).await;
}

#[tokio::test]
async fn an_immutable_tag_accepts_only_the_expected_image() {
    let bench = Bench::new().await;
    let at_manifest = |fault| {
        move |request: &RecordedRequest| {
            (request.method == "PUT" && request.path.contains("/manifests/")).then_some(fault)
        }
    };

    let registry = TestRegistry::start().await;
    registry.make_immutable();
    registry.set_faults(at_manifest(Fault::SameBefore));
    bench.succeeds(&registry).await;

    let registry = TestRegistry::start().await;
    registry.make_immutable();
    registry.set_faults(at_manifest(Fault::OtherBefore));
    let text = expect_transient(bench.build(&registry).await);
    let other = sha256(b"{\"schemaVersion\":2}");
    assert!(text.contains(&format!("should be {}", bench.expected)) && text.contains(other.as_str()), "{text}");

    // If tags may move, the last push wins.
    let registry = TestRegistry::start().await;
    registry.set_faults(at_manifest(Fault::OtherBefore));
    bench.succeeds(&registry).await;
}

#[tokio::test]
async fn a_registry_that_does_not_mount_gets_an_upload() {
    let (registry, bench) = (TestRegistry::start().await, Bench::new().await);
    bench.succeeds(&registry).await;
    registry.uploads();
    registry.set_faults(|request| (request.method == "POST").then_some(Fault::NoMount));
    let mut request = bench.request(&registry);
    request.target = format!("{}/codeloc/other", registry.host);
    let image = bench.builder.build(&request).await.unwrap();
    assert_eq!(digest(&image), bench.expected);
    let expected = ["blob codeloc/other", "blob codeloc/other", "blob codeloc/other", "manifest codeloc/other"];
    assert_eq!(registry.uploads(), expected);
}

/// Gives the first password once and then the second one.
struct Rotating(AtomicUsize);

impl RegistryCredentials for Rotating {
    async fn for_registry(&self, _host: &str) -> Result<Option<Login>, BuildError> {
        let password = if self.0.fetch_add(1, Ordering::SeqCst) == 0 { "first-secret" } else { "second-secret" };
        Ok(Some(Login { user: "AWS".to_owned(), password: password.to_owned() }))
    }
}

#[tokio::test]
async fn a_password_that_expires_during_a_build_is_renewed() {
    let bench = Bench::new().await;
    for number in 1..=bench.requests.len() {
        let registry = TestRegistry::start().await;
        registry.require_password("first-secret");
        registry.set_faults(move |request| (request.number == number).then_some(Fault::NewPassword("second-secret")));
        let work = tempfile::tempdir().unwrap();
        let settings = BuildSettings::new(work.path().to_path_buf());
        let builder = OciBuilder::new(settings, git(work.path(), true), Rotating(AtomicUsize::new(0))).unwrap();
        let request = bench.request(&registry);
        let image = match builder.build(&request, &|_| ()).await {
            Ok(image) => image,
            Err(error) => {
                let text = expect_transient::<()>(Err(error));
                assert!(text.contains("refuses the credentials") && !text.contains("secret"), "{number}: {text}");
                builder.build(&request, &|_| ()).await.unwrap()
            }
        };
        assert_eq!(digest(&image), bench.expected);
    }
}

#[tokio::test]
async fn a_build_dropped_at_any_request_does_not_block_the_next() {
    let bench = Bench::new().await;
    for number in 1..=bench.requests.len() {
        let registry = TestRegistry::start().await;
        let reached = Arc::new(tokio::sync::Notify::new());
        let signal = reached.clone();
        registry.set_faults(move |request| {
            (request.number == number).then(|| {
                signal.notify_one();
                Fault::Silence
            })
        });
        tokio::select! {
            built = bench.build(&registry) => panic!("{number}: {built:?}"),
            () = reached.notified() => {}
        }
        registry.clear_faults();
        bench.succeeds(&registry).await;
    }
}

#[tokio::test]
async fn a_repeated_build_only_reads_and_a_code_change_uploads_little() {
    let (registry, repository, builder) = (TestRegistry::start().await, Repository::new(), TestBuilder::new());
    // The data does not compress, so a repeated upload would be large.
    let data: String = (0_u32..20_000).map(|number| sha256(number.to_le_bytes()).to_string()).collect();
    let commit = repository.commit(&[CODE.as_slice(), &[("pipeline/data.txt", &data)]].concat());
    let first = builder.build(&repository.request(&registry, &commit)).await.unwrap();
    let uploaded: usize = registry.requests().iter().map(|request| request.bytes).sum();
    assert!(uploaded > 500_000, "{uploaded}");

    builder.build(&repository.request(&registry, &commit)).await.unwrap();
    let again = TestBuilder::new().build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(again, first);
    let requests = registry.requests();
    assert!(
        !requests.is_empty() && requests.iter().all(|request| request.is_read() && request.bytes == 0),
        "{requests:?}"
    );

    std::fs::remove_file(repository.path("pipeline/data.txt")).unwrap();
    let commit = repository.commit(&[("pipeline/definitions.py", "changed\n")]);
    let second = builder.build(&repository.request(&registry, &commit)).await.unwrap();
    let manifests = [&first, &second].map(|image| registry.manifest("codeloc/demo", &digest(image)));
    assert_eq!(manifests[0]["layers"][0], manifests[1]["layers"][0]);
    let changing: Vec<RecordedRequest> = registry.requests().into_iter().filter(|request| !request.is_read()).collect();
    let methods: Vec<&str> = changing.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PUT", "POST", "PUT", "PUT"]);
    let sizes: Vec<u64> =
        changing.iter().filter(|request| request.bytes > 0).map(|request| request.bytes as u64).collect();
    let manifest = &manifests[1];
    let expected = [&manifest["layers"][1]["size"], &manifest["config"]["size"]].map(|size| size.as_u64().unwrap());
    assert_eq!(sizes[..2], expected);
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size < 4096), "{sizes:?}");
}
