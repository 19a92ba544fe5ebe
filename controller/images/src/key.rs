//! The tag of an image: a hash of everything that decides its content. Pure.

use codeloc_core::ids::Digest;
use codeloc_crds::CodePointer;

use crate::builder::Request;
use crate::digest::sha256_hex;
use crate::layer::compressor;
use crate::settings::{BaseImage, BuildSettings};
use crate::uv::Target;

/// Increase it if the same request and settings must give another image.
const LAYOUT: u32 = 3;

/// Everything that decides an image, besides its request.
pub(super) struct Inputs<'a> {
    pub settings: &'a BuildSettings,
    /// The source of packages.
    pub index: String,
    pub target: Target,
    pub constraints: Option<String>,
    /// The digest of the base image, if the setting names it by a tag.
    pub base: Option<Digest>,
}

impl Inputs<'_> {
    /// The tag of a request's image: the commit for people, and the key.
    pub(super) fn tag(&self, request: &Request) -> String {
        let base = match (&self.settings.base_image, &self.base) {
            (BaseImage::Reference(reference), Some(digest)) => format!("{reference}@{digest}"),
            _ => self.base_setting().to_owned(),
        };
        format!("commit-{}-{}", request.commit.get(..12).unwrap_or(&request.commit), self.key(request, &base))
    }

    /// The key of a request, which stays the same when the tag of the base image moves.
    pub(super) fn request_key(&self, request: &Request) -> String {
        self.key(request, self.base_setting())
    }

    fn base_setting(&self) -> &str {
        match &self.settings.base_image {
            BaseImage::Scratch => "scratch",
            BaseImage::Reference(reference) => reference,
        }
    }

    fn key(&self, request: &Request, base: &str) -> String {
        let document = if let Some(dockerfile) = &request.dockerfile {
            serde_json::json!([
                LAYOUT,
                request.location.as_str(),
                request.commit,
                request.subdirectory,
                ["dockerfile", dockerfile],
                self.target.architecture,
            ])
        } else {
            let code = match &request.code {
                CodePointer::PythonFile(file) => ("file", file),
                CodePointer::Module(module) => ("module", module),
            };
            serde_json::json!([
                LAYOUT,
                request.location.as_str(),
                request.commit,
                request.subdirectory,
                code,
                request.dependencies,
                request.commands,
                self.target.key(),
                self.target.compiler,
                base,
                self.settings.requirements,
                self.constraints,
                self.index,
                compressor(self.settings.compression),
            ])
        };
        sha256_hex(document.to_string())[..16].to_owned()
    }
}
