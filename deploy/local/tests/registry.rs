//! The registry with a third-party client over a real connection.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use localcloud::registry::{self, Registry};
use localcloud::{LocalCloud, Settings};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

/// More than two chunks of the client.
const LAYER_BYTES: usize = (8 << 20) + 12_345;

struct Fixture {
    registry: Arc<Registry>,
    host: String,
    _folder: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::new(folder.path().to_owned()).unwrap();
    registry.create("team/orders").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let routes = registry::router(Arc::clone(&registry));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Fixture { registry, host, _folder: folder }
}

fn client(monolithic: bool) -> Client {
    let protocol = ClientProtocol::Http;
    Client::new(ClientConfig { protocol, use_monolithic_push: monolithic, ..ClientConfig::default() })
}

impl Fixture {
    fn reference(&self, repository: &str) -> Reference {
        format!("{}/{repository}:v1", self.host).parse().unwrap()
    }

    /// Pushes an image of one large layer; returns the layer.
    async fn push(&self, monolithic: bool, auth: &RegistryAuth) -> oci_client::errors::Result<ImageLayer> {
        let content: Vec<u8> = (0..=250).cycle().take(LAYER_BYTES).collect();
        let layer = ImageLayer::new(content, IMAGE_LAYER_MEDIA_TYPE.to_owned(), None);
        let config = Config::new(&b"{}"[..], IMAGE_CONFIG_MEDIA_TYPE.to_owned(), None);
        let reference = self.reference("team/orders");
        client(monolithic).push(&reference, std::slice::from_ref(&layer), config, auth, None).await?;
        Ok(layer)
    }
}

#[tokio::test]
async fn images_pushed_whole_or_in_chunks_are_pulled_unchanged() {
    for monolithic in [true, false] {
        let fixture = fixture().await;
        let layer = fixture.push(monolithic, &RegistryAuth::Anonymous).await.unwrap();
        let reference = fixture.reference("team/orders");
        let types = vec![IMAGE_LAYER_MEDIA_TYPE];
        let pulled = client(true).pull(&reference, &RegistryAuth::Anonymous, types).await.unwrap();
        assert_eq!(pulled.layers.len(), 1);
        assert!(pulled.layers[0].data == layer.data);
        assert_eq!(pulled.digest, fixture.registry.manifest("team/orders", "v1").map(|manifest| manifest.digest));
        let patches = fixture.registry.requests().iter().filter(|request| request.method == "PATCH").count();
        assert_eq!(patches > 1, !monolithic);
    }
}

#[tokio::test]
async fn a_mount_adds_a_blob_without_an_upload() {
    let fixture = fixture().await;
    fixture.registry.create("team/billing").unwrap();
    let layer = fixture.push(true, &RegistryAuth::Anonymous).await.unwrap();
    let (from, to) = (fixture.reference("team/orders"), fixture.reference("team/billing"));
    let client = client(true);
    assert!(!client.blob_exists(&to, &layer.sha256_digest()).await.unwrap());
    client.mount_blob(&to, &from, &layer.sha256_digest()).await.unwrap();
    assert!(client.blob_exists(&to, &layer.sha256_digest()).await.unwrap());
    let uploads = fixture.registry.requests().into_iter().filter(|request| request.path.contains("billing"));
    assert!(uploads.into_iter().all(|request| request.method == "HEAD" || request.status == 201));
}

#[tokio::test]
async fn only_the_token_opens_a_guarded_registry() {
    let fixture = fixture().await;
    fixture.registry.set_token(Some("secret".to_owned()));
    let basic = |token: &str| RegistryAuth::Basic("AWS".to_owned(), token.to_owned());
    assert!(fixture.push(true, &basic("wrong")).await.is_err());
    assert!(fixture.registry.images("team/orders").is_empty());
    fixture.push(true, &basic("secret")).await.unwrap();
    assert_eq!(fixture.registry.images("team/orders").len(), 1);
}

#[tokio::test]
async fn tag_mutability_applies_to_pushes() {
    let fixture = fixture().await;
    let cloud = LocalCloud::start(Settings { images: Arc::clone(&fixture.registry) as _, ..Settings::default() });
    let ecr = |operation: &str, mutability: &str| {
        let body = format!(r#"{{"repositoryName": "team/tagged", "imageTagMutability": "{mutability}"}}"#);
        let target = format!("AmazonEC2ContainerRegistry_V20150921.{operation}");
        let request = Request::post("/").header("x-amz-target", target).body(Bytes::from(body)).unwrap();
        let refused = cloud.call(&request).refused;
        assert_eq!(refused, None);
    };
    let push = async |content: &'static [u8]| {
        let layer = ImageLayer::new(content, IMAGE_LAYER_MEDIA_TYPE.to_owned(), None);
        let config = Config::new(&b"{}"[..], IMAGE_CONFIG_MEDIA_TYPE.to_owned(), None);
        let reference = fixture.reference("team/tagged");
        client(true).push(&reference, &[layer], config, &RegistryAuth::Anonymous, None).await
    };
    ecr("CreateRepository", "IMMUTABLE");
    push(b"one").await.unwrap();
    push(b"one").await.unwrap();
    let refused = push(b"two").await.map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("cannot be overwritten because the tag is immutable"), "{refused}");
    ecr("PutImageTagMutability", "MUTABLE");
    push(b"two").await.unwrap();
}
