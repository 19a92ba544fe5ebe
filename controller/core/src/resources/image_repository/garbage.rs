//! Images that nothing uses any more.
//!
//! Guarantees: an image stays while a registered definition names it and while it is young. The parts of an index and the signatures of an
//! image stay with it. Assumes that codeloc has read every registered definition.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::ids::Digest;

/// One manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    pub digest: Digest,
    pub tags: Vec<String>,
    /// Milliseconds since 1970.
    pub pushed_ms: i64,
    /// Digests of the images in it, if it is an index.
    pub parts: Vec<Digest>,
    /// Digest of the image that it belongs to, if it is a signature or an attestation.
    pub subject: Option<Digest>,
}

impl Image {
    /// Whether a reference by digest or tag may name this image. The repository does not count: it is better to keep an image too many.
    pub fn is_named_by(&self, reference: &str) -> bool {
        match reference.split_once('@') {
            Some((_, digest)) => self.digest == digest,
            None => self.tags.iter().any(|tag| reference.ends_with(&format!(":{tag}"))),
        }
    }

    fn is_about(&self, remaining: &BTreeSet<&Digest>) -> bool {
        // cosign derives the tag of a signature from the digest: `sha256-….sig`.
        let signs = |tag: &String| {
            let hash = tag.strip_prefix("sha256-").and_then(|rest| rest.get(..64));
            hash.is_some_and(|hash| remaining.contains(&Digest::from(format!("sha256:{hash}"))))
        };
        self.subject.as_ref().is_some_and(|subject| remaining.contains(subject)) || self.tags.iter().any(signs)
    }
}

/// Digests to delete, indexes first: ECR does not delete an image that an index names. `named` are the references in registered definitions.
pub fn unused(images: &[Image], named: &[&str], pushed_before_ms: i64) -> Vec<Digest> {
    let stays = |image: &&Image| {
        image.pushed_ms >= pushed_before_ms || named.iter().any(|reference| image.is_named_by(reference))
    };
    let mut remaining: BTreeSet<&Digest> = images.iter().filter(stays).map(|image| &image.digest).collect();
    loop {
        let before = remaining.len();
        for image in images {
            if remaining.contains(&image.digest) {
                remaining.extend(&image.parts);
            } else if image.is_about(&remaining) {
                remaining.insert(&image.digest);
            }
        }
        if remaining.len() == before {
            break;
        }
    }
    let mut unused: Vec<&Image> = images.iter().filter(|image| !remaining.contains(&image.digest)).collect();
    unused.sort_by_key(|image| (image.parts.is_empty(), image.pushed_ms));
    unused.into_iter().map(|image| image.digest.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::from(format!("sha256:{number:064x}"))
    }

    fn image(number: u8) -> Image {
        Image { digest: digest(number), tags: vec![], pushed_ms: i64::from(number), parts: vec![], subject: None }
    }

    fn reference(number: u8) -> String {
        format!("registry/codeloc/orders@{}", digest(number))
    }

    #[test]
    fn named_and_young_images_stay() {
        let images = [image(1), image(2), image(3), image(90)];
        assert_eq!(unused(&images, &[&reference(2)], 50), [digest(1), digest(3)]);
        assert_eq!(unused(&images, &[], 0), Vec::<Digest>::new());
    }

    #[test]
    fn an_image_that_is_named_by_tag_stays() {
        let images =
            [Image { tags: vec!["v1".to_owned()], ..image(1) }, Image { tags: vec!["v2".to_owned()], ..image(2) }];
        assert_eq!(unused(&images, &["registry/codeloc/orders:v2"], 50), [digest(1)]);
    }

    #[test]
    fn parts_stay_with_their_index_and_are_deleted_after_it() {
        let index = Image { parts: vec![digest(1), digest(2)], ..image(3) };
        let images = [image(1), image(2), index];
        assert_eq!(unused(&images, &[&reference(3)], 50), Vec::<Digest>::new());
        assert_eq!(unused(&images, &[], 50), [digest(3), digest(1), digest(2)]);
        // A definition that names one part needs only that one.
        assert_eq!(unused(&images, &[&reference(1)], 50), [digest(3), digest(2)]);
        // A young index keeps its old parts.
        let young = Image { parts: vec![digest(1)], ..image(99) };
        assert_eq!(unused(&[image(1), young], &[], 50), Vec::<Digest>::new());
    }

    #[test]
    fn signatures_stay_with_their_image() {
        let signature =
            |number: u8, signed: u8| Image { tags: vec![format!("sha256-{signed:064x}.sig")], ..image(number) };
        let attestation = Image { subject: Some(digest(1)), ..image(6) };
        let images = [image(1), image(2), signature(4, 1), signature(5, 2), attestation];
        assert_eq!(unused(&images, &[&reference(1)], 50), [digest(2), digest(5)]);
    }
}
