use ::http::{HeaderMap, StatusCode};
use axum::Router;
use axum::body::{Body, to_bytes};
use base64::Engine;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Client {
    registry: Arc<Registry>,
    router: Router,
    _folder: tempfile::TempDir,
}

struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn error_code(&self) -> String {
        serde_json::from_slice::<Value>(&self.body).unwrap()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

fn client() -> Client {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::new(folder.path().to_owned()).unwrap();
    assert!(registry.create("team/orders").unwrap());
    Client { router: router(Arc::clone(&registry)), registry, _folder: folder }
}

impl Client {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = ::http::Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_vec())).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        Response { status: parts.status, headers: parts.headers, body: to_bytes(body, usize::MAX).await.unwrap() }
    }

    async fn push_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let pushed = self.send("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), &[], bytes).await;
        assert_eq!(pushed.status, StatusCode::CREATED);
        digest
    }

    /// Pushes an image of a config and one layer under a tag; returns the digest of the manifest.
    async fn push_image(&self, name: &str, tag: &str, layer: &[u8]) -> String {
        let config = self.push_blob(name, b"{}").await;
        let layer_digest = self.push_blob(name, layer).await;
        let manifest = manifest(&[(&config, 2)], &[(&layer_digest, layer.len())]);
        let path = format!("/v2/{name}/manifests/{tag}");
        let pushed = self.send("PUT", &path, &[("content-type", MANIFEST)], manifest.as_bytes()).await;
        assert_eq!(pushed.status, StatusCode::CREATED);
        assert_eq!(pushed.header("location"), format!("/v2/{name}/manifests/{}", digest(manifest.as_bytes())));
        pushed.header("docker-content-digest").to_owned()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn manifest(config: &[(&str, usize)], layers: &[(&str, usize)]) -> String {
    let descriptor = |(digest, size): &(&str, usize)| json!({ "mediaType": "application/octet-stream", "digest": digest, "size": size });
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(&config[0]),
        "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
    })
    .to_string()
}

#[tokio::test]
async fn an_image_is_readable_by_tag_and_by_digest() {
    let client = client();
    let image = client.push_image("team/orders", "v1", b"layer").await;
    for reference in ["v1", &image] {
        let read = client.send("GET", &format!("/v2/team/orders/manifests/{reference}"), &[], b"").await;
        assert_eq!(read.status, StatusCode::OK);
        assert_eq!(read.header("docker-content-digest"), image);
        assert_eq!(read.header("content-type"), MANIFEST);
        assert_eq!(digest(&read.body), image);
        let head = client.send("HEAD", &format!("/v2/team/orders/manifests/{reference}"), &[], b"").await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        assert_eq!(head.header("content-length"), read.body.len().to_string());
    }
    let details = client.registry.images("team/orders");
    assert_eq!(details.len(), 1);
    assert_eq!((details[0].tags.as_slice(), details[0].size_bytes), (&["v1".to_owned()][..], 7));
}

#[tokio::test]
async fn a_push_to_a_missing_repository_is_refused() {
    let client = client();
    let refused = client.send("POST", "/v2/nobody/blobs/uploads/", &[], b"").await;
    assert_eq!((refused.status, refused.error_code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
}

#[tokio::test]
async fn chunks_out_of_order_are_refused_and_the_upload_continues() {
    let client = client();
    let started = client.send("POST", "/v2/team/orders/blobs/uploads/", &[], b"").await;
    assert_eq!(started.status, StatusCode::ACCEPTED);
    let upload = started.header("location").to_owned();
    let first = client.send("PATCH", &upload, &[("content-range", "0-4")], b"hello").await;
    assert_eq!((first.status, first.header("range")), (StatusCode::ACCEPTED, "0-4"));
    let wrong = client.send("PATCH", &upload, &[("content-range", "7-8")], b"!!").await;
    assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let asked = client.send("GET", &upload, &[], b"").await;
    assert_eq!((asked.status, asked.header("range")), (StatusCode::NO_CONTENT, "0-4"));
    let second = client.send("PATCH", &upload, &[("content-range", "5-9")], b" worl").await;
    assert_eq!(second.status, StatusCode::ACCEPTED);
    let whole = digest(b"hello world");
    let done = client.send("PUT", &format!("{upload}?digest={whole}"), &[], b"d").await;
    assert_eq!((done.status, done.header("docker-content-digest")), (StatusCode::CREATED, whole.as_str()));
    let read = client.send("GET", &format!("/v2/team/orders/blobs/{whole}"), &[], b"").await;
    assert_eq!(&read.body[..], b"hello world");
}

#[tokio::test]
async fn a_blob_with_a_wrong_digest_is_refused() {
    let client = client();
    let other = digest(b"other");
    let path = format!("/v2/team/orders/blobs/uploads/?digest={other}");
    let refused = client.send("POST", &path, &[], b"content").await;
    assert_eq!((refused.status, refused.error_code().as_str()), (StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    assert_eq!(client.registry.blob(&other), None);
    assert_eq!(fs::read_dir(client.registry.folder.join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn ranges_outside_a_blob_are_refused() {
    let client = client();
    let blob = client.push_blob("team/orders", b"0123456789").await;
    let path = format!("/v2/team/orders/blobs/{blob}");
    for (range, content_range, content) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=8-99", "bytes 8-9/10", "89"),
    ] {
        let part = client.send("GET", &path, &[("range", range)], b"").await;
        assert_eq!((part.status, part.header("content-range")), (StatusCode::PARTIAL_CONTENT, content_range));
        assert_eq!(part.body, content.as_bytes());
    }
    let outside = client.send("GET", &path, &[("range", "bytes=10-")], b"").await;
    assert_eq!(outside.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_blob_is_visible_in_another_repository_after_a_mount() {
    let client = client();
    client.registry.create("team/billing").unwrap();
    let blob = client.push_blob("team/orders", b"base").await;
    let path = format!("/v2/team/billing/blobs/{blob}");
    assert_eq!(client.send("HEAD", &path, &[], b"").await.status, StatusCode::NOT_FOUND);
    let mount = format!("/v2/team/billing/blobs/uploads/?mount={blob}&from=team/orders");
    assert_eq!(client.send("POST", &mount, &[], b"").await.status, StatusCode::CREATED);
    assert_eq!(client.send("HEAD", &path, &[], b"").await.header("content-length"), "4");
    let absent = format!("/v2/team/billing/blobs/uploads/?mount={}&from=team/orders", digest(b"absent"));
    assert_eq!(client.send("POST", &absent, &[], b"").await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn an_incomplete_or_invalid_manifest_is_refused() {
    let client = client();
    let config = client.push_blob("team/orders", b"{}").await;
    let absent = digest(b"absent");
    let broken = manifest(&[(&config, 2)], &[(&absent, 6)]);
    let good = manifest(&[(&config, 2)], &[]);
    let other = digest(b"other");
    for (reference, media_type, manifest, code) in [
        ("v1", MANIFEST, broken.as_str(), "MANIFEST_BLOB_UNKNOWN"),
        (other.as_str(), MANIFEST, good.as_str(), "DIGEST_INVALID"),
        ("v1", "application/vnd.oci.image.index.v1+json", good.as_str(), "MANIFEST_INVALID"),
        ("v1", MANIFEST, "[]", "MANIFEST_INVALID"),
        (".tag", MANIFEST, good.as_str(), "MANIFEST_INVALID"),
    ] {
        let path = format!("/v2/team/orders/manifests/{reference}");
        let refused = client.send("PUT", &path, &[("content-type", media_type)], manifest.as_bytes()).await;
        assert_eq!((refused.status, refused.error_code().as_str()), (StatusCode::BAD_REQUEST, code));
    }
    assert!(client.registry.images("team/orders").is_empty());
}

#[tokio::test]
async fn tags_are_listed_in_pages_and_move_with_a_new_push() {
    let client = client();
    let first = client.push_image("team/orders", "a", b"one").await;
    client.push_image("team/orders", "b", b"one").await;
    let second = client.push_image("team/orders", "b", b"two").await;
    assert_ne!(first, second);
    assert_eq!(client.registry.manifest("team/orders", "b").unwrap().digest, second);
    let page = client.send("GET", "/v2/team/orders/tags/list?n=1", &[], b"").await;
    assert_eq!(page.body, r#"{"name":"team/orders","tags":["a"]}"#);
    assert_eq!(page.header("link"), "</v2/team/orders/tags/list?n=1&last=a>; rel=\"next\"");
    let next = client.send("GET", "/v2/team/orders/tags/list?n=1&last=a", &[], b"").await;
    assert_eq!(next.body, r#"{"name":"team/orders","tags":["b"]}"#);
    assert!(!next.headers.contains_key("link"));
}

#[tokio::test]
async fn a_tag_of_an_immutable_repository_stays_with_its_image() {
    let client = client();
    client.registry.set_immutable("team/orders", true).unwrap();
    let first = client.push_image("team/orders", "v1", b"one").await;
    assert_eq!(
        client.push_image("team/orders", "v1", b"one").await,
        first,
        "a second push of an image changes nothing"
    );
    assert_eq!(client.push_image("team/orders", "v2", b"one").await, first, "a second tag has the same digest");

    let config = client.push_blob("team/orders", b"{}").await;
    let other = manifest(&[(&config, 2)], &[]);
    let put = |client: &Client, reference: &str| {
        let path = format!("/v2/team/orders/manifests/{reference}");
        let (router, body) = (client.router.clone(), other.clone());
        let request = ::http::Request::put(path).header("host", "127.0.0.1").header("content-type", MANIFEST);
        let request = request.body(Body::from(body)).unwrap();
        async move { router.oneshot(request).await.unwrap() }
    };
    let again = Registry::new(client.registry.folder.clone()).unwrap();
    let restarted =
        Client { router: router(Arc::clone(&again)), registry: again, _folder: tempfile::tempdir().unwrap() };
    for client in [&client, &restarted] {
        let refused = put(client, "v1").await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        let body = to_bytes(refused.into_body(), usize::MAX).await.unwrap();
        let expected = "The image tag 'v1' already exists in the 'team/orders' repository and cannot be overwritten because \
                        the tag is immutable.";
        let answered: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answered, json!({"errors": [{"code": "TAG_INVALID", "message": expected}]}));
        assert_eq!(client.registry.manifest("team/orders", "v1").unwrap().digest, first);
    }
    assert_eq!(put(&client, &digest(other.as_bytes())).await.status(), StatusCode::CREATED, "a digest is not a tag");
    client.registry.set_immutable("team/orders", false).unwrap();
    assert_eq!(put(&client, "v1").await.status(), StatusCode::CREATED);
    assert_ne!(client.registry.manifest("team/orders", "v1").unwrap().digest, first);
}

#[tokio::test]
async fn deleting_an_image_removes_its_unused_blobs() {
    let client = client();
    let first = client.push_image("team/orders", "a", b"one").await;
    let second = client.push_image("team/orders", "b", b"two").await;
    let deleted = client.send("DELETE", &format!("/v2/team/orders/manifests/{first}"), &[], b"").await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    assert_eq!(client.registry.blob(&digest(b"one")), None);
    assert_eq!(client.registry.blob(&first), None);
    assert!(client.registry.blob(&digest(b"{}")).is_some(), "the config is shared with the other image");
    assert_eq!(client.send("GET", "/v2/team/orders/manifests/a", &[], b"").await.error_code(), "MANIFEST_UNKNOWN");
    assert!(!client.registry.delete_image("team/orders", &first).unwrap());
    assert!(client.registry.delete("team/orders").unwrap());
    assert_eq!(client.registry.blob(&second), None);
    assert!(!client.registry.exists("team/orders"));
}

#[tokio::test]
async fn everything_pushed_is_there_after_a_restart() {
    let client = client();
    let image = client.push_image("team/orders", "v1", b"layer").await;
    let before = client.registry.images("team/orders");
    client.send("POST", "/v2/team/orders/blobs/uploads/", &[], b"").await;
    let again = Registry::new(client.registry.folder.clone()).unwrap();
    assert_eq!(again.images("team/orders"), before);
    assert_eq!(again.manifest("team/orders", "v1").unwrap().digest, image);
    assert!(!again.create("team/orders").unwrap());
    assert_eq!(fs::read_dir(again.folder.join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn requests_without_the_token_are_refused() {
    let client = client();
    client.registry.set_token(Some("secret".to_owned()));
    let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let refused = client.send("GET", "/v2/", &[], b"").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.header("www-authenticate").starts_with("Basic "));
    for (pair, status) in [("AWS:wrong", StatusCode::UNAUTHORIZED), ("AWS:secret", StatusCode::OK)] {
        let answered = client.send("GET", "/v2/", &[("authorization", &basic(pair))], b"").await;
        assert_eq!(answered.status, status);
    }
}

#[tokio::test]
async fn requests_are_remembered_with_their_outcome() {
    let client = client();
    client.send("GET", "/v2/", &[], b"").await;
    client.send("HEAD", "/v2/team/orders/manifests/v9", &[], b"").await;
    let request = |method: &str, path: &str, status| Request { method: method.into(), path: path.into(), status };
    assert_eq!(
        client.registry.requests(),
        [request("GET", "/v2/", 200), request("HEAD", "/v2/team/orders/manifests/v9", 404)]
    );
}

#[tokio::test]
async fn what_refers_to_an_image_is_listed() {
    let client = client();
    let image = client.push_image("team/orders", "v1", b"layer").await;
    let config = digest(b"{}");
    let signature = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x-signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        "layers": [],
        "subject": { "mediaType": MANIFEST, "digest": image, "size": 1 },
    })
    .to_string();
    let own = digest(signature.as_bytes());
    let path = format!("/v2/team/orders/manifests/{own}");
    let pushed = client.send("PUT", &path, &[("content-type", MANIFEST)], signature.as_bytes()).await;
    assert_eq!((pushed.status, pushed.header("oci-subject")), (StatusCode::CREATED, image.as_str()));
    let listed = client.send("GET", &format!("/v2/team/orders/referrers/{image}"), &[], b"").await;
    let index: Value = serde_json::from_slice(&listed.body).unwrap();
    assert_eq!(index["manifests"][0]["digest"], own);
    assert_eq!(index["manifests"][0]["artifactType"], "application/x-signature");
}
