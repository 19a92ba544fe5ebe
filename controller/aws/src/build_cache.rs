//! The build cache of a deployment: objects in the platform's bucket.

use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::names;
use codeloc_images::{BuildCache, BuildError, disk_error};
use futures::future::BoxFuture;

use crate::error::CallError;
use crate::session::call;

#[derive(Clone, Debug)]
pub struct S3BuildCache {
    s3: aws_sdk_s3::Client,
    bucket: String,
    prefix: String,
}

impl S3BuildCache {
    pub fn new(s3: aws_sdk_s3::Client, bucket: &str, deployment: &str) -> Self {
        Self { s3, bucket: bucket.to_owned(), prefix: format!("{}/builds", names::own_prefix(deployment)) }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    async fn read(&self, name: &str) -> Result<Option<String>, CallError> {
        const OPERATION: &str = "s3:GetObject";
        let request = self.s3.get_object().bucket(&self.bucket).key(self.key(name));
        let answer = match call(OPERATION, request.send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(&["NoSuchKey", "NotFound"]) => return Ok(None),
            Err(error) => return Err(error),
        };
        let body = answer.body.collect().await.map_err(|_| CallError::malformed(OPERATION, "complete body"))?;
        let text = String::from_utf8(body.to_vec()).map_err(|_| CallError::malformed(OPERATION, "text in UTF-8"))?;
        Ok(Some(text))
    }

    /// Whether it was written. With `only_new`, an existing object is kept.
    async fn write(&self, name: &str, text: &str, only_new: bool) -> Result<bool, CallError> {
        self.put(name, ByteStream::from(text.as_bytes().to_vec()), only_new).await
    }

    async fn put(&self, name: &str, body: ByteStream, only_new: bool) -> Result<bool, CallError> {
        let request = self
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .body(body);
        match call("s3:PutObject", request.send()).await {
            Ok(_) => Ok(true),
            // S3 answers with the second code if two writes race.
            Err(error) if only_new && error.is(&["PreconditionFailed", "ConditionalRequestConflict"]) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Writes an object to a file. False if there is no such object.
pub(crate) async fn download(
    s3: &aws_sdk_s3::Client,
    bucket: &str,
    key: &str,
    to: &Path,
    largest: u64,
) -> Result<bool, BuildError> {
    const OPERATION: &str = "s3:GetObject";
    let answer = match call(OPERATION, s3.get_object().bucket(bucket).key(key).send()).await {
        Ok(answer) => answer,
        Err(error) if error.is(&["NoSuchKey", "NotFound"]) => return Ok(false),
        Err(error) => return Err(unavailable(error)),
    };
    if answer.content_length().is_none_or(|length| length.cast_unsigned() > largest) {
        return Err(BuildError::dockerfile(format!("s3://{bucket}/{key} has more than {largest} bytes")));
    }
    let disk = |error| disk_error(to, error);
    let mut file = tokio::fs::File::create(to).await.map_err(disk)?;
    tokio::io::copy(&mut answer.body.into_async_read(), &mut file).await.map_err(disk)?;
    tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(disk)?;
    Ok(true)
}

fn unavailable(error: CallError) -> BuildError {
    BuildError::transient("cannot use the build cache in S3").caused_by(error)
}

impl BuildCache for S3BuildCache {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>> {
        Box::pin(async move { self.read(name).await.map_err(unavailable) })
    }

    fn write_first<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>> {
        Box::pin(async move {
            if self.write(name, &text, true).await.map_err(unavailable)? {
                return Ok(text);
            }
            // If the other write failed after all, this text is as good.
            Ok(self.read(name).await.map_err(unavailable)?.unwrap_or(text))
        })
    }

    fn write<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async move { self.write(name, &text, false).await.map(|_| ()).map_err(unavailable) })
    }

    fn read_file<'a>(&'a self, name: &'a str, to: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>> {
        Box::pin(async move { download(&self.s3, &self.bucket, &self.key(name), to, u64::MAX).await })
    }

    fn write_file_first<'a>(&'a self, name: &'a str, from: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>> {
        Box::pin(async move {
            let body = ByteStream::from_path(from).await;
            let body = body.map_err(|error| disk_error(from, std::io::Error::other(error)))?;
            self.put(name, body, true).await.map_err(unavailable)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;

    #[test]
    fn a_key_is_below_the_prefix_of_its_deployment() {
        let config = aws_config::SdkConfig::builder().behavior_version(aws_config::BehaviorVersion::latest()).build();
        let clients = Clients::new(&config, &std::sync::Arc::default());
        let cache = S3BuildCache::new(clients.s3.clone(), "platform", "codeloc");
        assert_eq!(cache.key("abc.json"), format!("{}/builds/abc.json", names::own_prefix("codeloc")));
    }

    #[test]
    fn an_unavailable_cache_is_a_transient_failure() {
        let error = unavailable(CallError::malformed("s3:GetObject", "complete body"));
        assert!(error.is_transient() && error.to_string().contains("s3:GetObject"), "{error}");
    }
}
