//! What ECR and the network do to a push: the right image or a clear error, and the right image the next time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use codeloc_core::image::Image;
use oci_client::client::{ClientConfig, ClientProtocol};

use super::registry::{Asked, Fault};
use super::{CODE, Repository, TestRegistry, Workshop, digest, git};
use crate::registry::sha256;
use crate::{BuildError, BuildSettings, Builder, OciBuilder, RegistryCredentials, Request};

/// One commit and a builder that has seen it, so that builds differ by what the registry does alone.
struct Bench {
    repository: Repository,
    commit: String,
    workshop: Workshop,
    /// Of the image, where nothing goes wrong.
    expected: String,
    /// Requests of such a build.
    requests: Vec<Asked>,
}

impl Bench {
    async fn new() -> Self {
        let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
        let commit = repository.commit(&CODE);
        let image = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
        let expected = digest(&image).to_owned();
        Self { repository, commit, workshop, expected, requests: registry.requests() }
    }

    fn request(&self, registry: &TestRegistry) -> Request {
        self.repository.request(registry, &self.commit)
    }

    async fn build(&self, registry: &TestRegistry) -> Result<Image, BuildError> {
        self.workshop.build(&self.request(registry)).await
    }

    /// Builds, and the registry has what was promised.
    async fn succeeds(&self, registry: &TestRegistry) {
        let image = self.build(registry).await.unwrap();
        assert_eq!(digest(&image), self.expected);
        let manifest = registry.manifest("codeloc/demo", &self.expected);
        for layer in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            assert!(registry.has_blob("codeloc/demo", layer["digest"].as_str().unwrap()));
        }
    }
}

fn transient(built: Result<Image, BuildError>) -> String {
    match built {
        Err(BuildError::Transient(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn layers_go_up_whole_since_the_registry_loses_chunks() {
    let (registry, bench) = (TestRegistry::start().await, Bench::new().await);
    bench.succeeds(&registry).await;
    assert!(registry.requests().iter().all(|asked| asked.method != "PATCH"));

    // The client's own way would not get through.
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    let client = oci_client::Client::try_from(config).unwrap();
    let image = oci_client::Reference::with_tag(registry.host.clone(), "codeloc/demo".to_owned(), "x".to_owned());
    let chunks = futures::stream::iter([Ok(bytes::Bytes::from_static(b"a layer"))]);
    client.push_blob_stream(&image, chunks, &sha256(b"a layer"), None).await.unwrap_err();
    assert!(registry.requests().iter().any(|asked| asked.method == "PATCH"));
}

#[tokio::test]
async fn any_fault_at_any_request_ends_in_the_right_image_or_a_clear_error_and_never_in_a_panic() {
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
            registry.trouble(move |asked| (asked.number == number).then_some(fault));
            let place = format!("{fault:?} at {:?}", bench.requests[number - 1]);
            match bench.build(&registry).await {
                Ok(image) => assert_eq!(digest(&image), bench.expected, "{place}"),
                Err(BuildError::Transient(text)) => {
                    assert!(text.contains(&registry.host) && !text.contains("/uploads/"), "{place}: {text}");
                    if let Fault::Status(code) = fault {
                        // A status, or the registry's own word for it.
                        let told = [&code.to_string(), "credentials", "UNKNOWN", "TOOMANYREQUESTS"];
                        let told = told.iter().any(|word| text.contains(*word));
                        assert!(told, "{place}: {text}");
                    }
                }
                Err(BuildError::Terminal(text)) => panic!("{place}: {text}"),
            }
            registry.no_more_trouble();
            bench.succeeds(&registry).await;
        }
    }
}

#[tokio::test]
async fn what_was_done_before_the_connection_broke_is_not_done_again() {
    let bench = Bench::new().await;
    let changing = bench.requests.iter().filter(|asked| !asked.reads() && asked.method == "PUT");
    for put in changing {
        let registry = TestRegistry::start().await;
        let number = put.number;
        registry.trouble(move |asked| (asked.number == number).then_some(Fault::CutAfter));
        let _ = bench.build(&registry).await;
        registry.no_more_trouble();
        bench.succeeds(&registry).await;
        let uploads = registry.uploads();
        assert_eq!(uploads.len(), 4, "{put:?}: {uploads:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_answered_without_location_counts_when_the_blob_is_there() {
    let bench = Bench::new().await;
    let registry = TestRegistry::start().await;
    registry.trouble(|asked| (asked.method == "PUT").then_some(Fault::NoLocation));
    bench.succeeds(&registry).await;
}

#[tokio::test]
async fn a_tag_that_may_not_move_is_fine_with_our_image_and_a_clear_error_with_another() {
    let bench = Bench::new().await;
    let of_manifest =
        |fault| move |asked: &Asked| (asked.method == "PUT" && asked.path.contains("/manifests/")).then_some(fault);

    let registry = TestRegistry::start().await;
    registry.make_immutable();
    registry.trouble(of_manifest(Fault::SameBefore));
    bench.succeeds(&registry).await;

    let registry = TestRegistry::start().await;
    registry.make_immutable();
    registry.trouble(of_manifest(Fault::OtherBefore));
    let text = transient(bench.build(&registry).await);
    let other = sha256(b"{\"schemaVersion\":2}");
    assert!(text.contains(&format!("should be {}", bench.expected)) && text.contains(&other), "{text}");

    // Where tags may move, ours is the one that stays.
    let registry = TestRegistry::start().await;
    registry.trouble(of_manifest(Fault::OtherBefore));
    bench.succeeds(&registry).await;
}

#[tokio::test]
async fn a_registry_that_does_not_mount_gets_the_layers_instead() {
    let (registry, bench) = (TestRegistry::start().await, Bench::new().await);
    bench.succeeds(&registry).await;
    registry.uploads();
    registry.trouble(|asked| (asked.method == "POST").then_some(Fault::NoMount));
    let mut request = bench.request(&registry);
    request.target = format!("{}/codeloc/other", registry.host);
    let image = bench.workshop.build(&request).await.unwrap();
    assert_eq!(digest(&image), bench.expected);
    let expected = ["blob codeloc/other", "blob codeloc/other", "blob codeloc/other", "manifest codeloc/other"];
    assert_eq!(registry.uploads(), expected);
}

/// Hands out another password every time.
struct Rotating(AtomicUsize);

impl RegistryCredentials for Rotating {
    async fn for_registry(&self, _host: &str) -> Result<Option<(String, String)>, BuildError> {
        let password = if self.0.fetch_add(1, Ordering::SeqCst) == 0 { "first-secret" } else { "second-secret" };
        Ok(Some(("AWS".to_owned(), password.to_owned())))
    }
}

#[tokio::test]
async fn a_password_that_expires_in_the_middle_is_asked_for_anew() {
    let bench = Bench::new().await;
    for number in 1..=bench.requests.len() {
        let registry = TestRegistry::start().await;
        registry.require_password("first-secret");
        registry.trouble(move |asked| (asked.number == number).then_some(Fault::NewPassword("second-secret")));
        let work = tempfile::tempdir().unwrap();
        let settings = BuildSettings::new(work.path().to_path_buf());
        let builder = OciBuilder::new(settings, git(work.path(), true), Rotating(AtomicUsize::new(0))).unwrap();
        let request = bench.request(&registry);
        let image = match builder.build(&request, &|_| ()).await {
            Ok(image) => image,
            Err(BuildError::Transient(text)) => {
                assert!(text.contains("refuses the credentials") && !text.contains("secret"), "{number}: {text}");
                builder.build(&request, &|_| ()).await.unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(digest(&image), bench.expected);
    }
}

#[tokio::test]
async fn a_build_that_is_dropped_at_any_request_is_made_by_the_next() {
    let bench = Bench::new().await;
    for number in 1..=bench.requests.len() {
        let registry = TestRegistry::start().await;
        let reached = Arc::new(tokio::sync::Notify::new());
        let signal = reached.clone();
        registry.trouble(move |asked| {
            (asked.number == number).then(|| {
                signal.notify_one();
                Fault::Silence
            })
        });
        tokio::select! {
            built = bench.build(&registry) => panic!("{number}: {built:?}"),
            () = reached.notified() => {}
        }
        registry.no_more_trouble();
        bench.succeeds(&registry).await;
    }
}

#[tokio::test]
async fn a_repeat_build_only_reads_and_a_change_of_code_sends_code_config_and_manifest() {
    let (registry, repository, workshop) = (TestRegistry::start().await, Repository::new(), Workshop::new());
    // Data that does not compress: a layer that is sent again would be seen.
    let data: String = (0_u32..20_000).map(|number| sha256(&number.to_le_bytes())).collect();
    let commit = repository.commit(&[CODE.as_slice(), &[("pipeline/data.txt", &data)]].concat());
    let first = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
    let sent: usize = registry.requests().iter().map(|asked| asked.bytes).sum();
    assert!(sent > 500_000, "{sent}");

    workshop.build(&repository.request(&registry, &commit)).await.unwrap();
    let again = Workshop::new().build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(again, first);
    let requests = registry.requests();
    assert!(!requests.is_empty() && requests.iter().all(|asked| asked.reads() && asked.bytes == 0), "{requests:?}");

    std::fs::remove_file(repository.path("pipeline/data.txt")).unwrap();
    let commit = repository.commit(&[("pipeline/definitions.py", "changed\n")]);
    let second = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
    let manifests = [&first, &second].map(|image| registry.manifest("codeloc/demo", digest(image)));
    assert_eq!(manifests[0]["layers"][0], manifests[1]["layers"][0]);
    let changing: Vec<Asked> = registry.requests().into_iter().filter(|asked| !asked.reads()).collect();
    let methods: Vec<&str> = changing.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PUT", "POST", "PUT", "PUT"]);
    let sizes: Vec<u64> = changing.iter().filter(|asked| asked.bytes > 0).map(|asked| asked.bytes as u64).collect();
    let manifest = &manifests[1];
    let expected = [&manifest["layers"][1]["size"], &manifest["config"]["size"]].map(|size| size.as_u64().unwrap());
    assert_eq!(sizes[..2], expected);
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size < 4096), "{sizes:?}");
}
