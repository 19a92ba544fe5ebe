//! Images that nobody needs any more. Pure.
//!
//! Guarantees: an image stays while anything registered names it, while it is young, and while an image that stays names it or is what
//! it tells of. Assumes that everything that is registered was read.

use std::collections::BTreeSet;

use serde::Serialize;

/// One manifest of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Image {
    /// `sha256:…`
    pub digest: String,
    pub tags: Vec<String>,
    /// Milliseconds since 1970.
    pub pushed_ms: i64,
    /// Digests of the images that it names, where it is an index.
    pub parts: Vec<String>,
    /// Digest of the image that it tells of: a signature or an attestation.
    pub subject: Option<String>,
}

impl Image {
    /// Whether a reference, by digest or by tag, may mean this image. Of whatever repository: one too many stays rather than one too few.
    pub fn is_named_by(&self, reference: &str) -> bool {
        match reference.split_once('@') {
            Some((_, digest)) => self.digest == digest,
            None => self.tags.iter().any(|tag| reference.ends_with(&format!(":{tag}"))),
        }
    }

    fn tells_of(&self, kept: &BTreeSet<&str>) -> bool {
        // Signatures by cosign lie under a tag that is made of the digest: `sha256-….sig`.
        let signs = |tag: &String| {
            let hash = tag.strip_prefix("sha256-").and_then(|rest| rest.get(..64));
            hash.is_some_and(|hash| kept.contains(format!("sha256:{hash}").as_str()))
        };
        self.subject.as_deref().is_some_and(|subject| kept.contains(subject)) || self.tags.iter().any(signs)
    }
}

/// Digests to delete, indexes first: what an index names cannot go before it. `named` are the references of all that is registered.
pub fn unused(images: &[Image], named: &[&str], pushed_before_ms: i64) -> Vec<String> {
    let stays = |image: &&Image| {
        image.pushed_ms >= pushed_before_ms || named.iter().any(|reference| image.is_named_by(reference))
    };
    let mut kept: BTreeSet<&str> = images.iter().filter(stays).map(|image| image.digest.as_str()).collect();
    loop {
        let before = kept.len();
        for image in images {
            if kept.contains(image.digest.as_str()) {
                kept.extend(image.parts.iter().map(String::as_str));
            } else if image.tells_of(&kept) {
                kept.insert(&image.digest);
            }
        }
        if kept.len() == before {
            break;
        }
    }
    let mut unused: Vec<&Image> = images.iter().filter(|image| !kept.contains(image.digest.as_str())).collect();
    unused.sort_by_key(|image| (image.parts.is_empty(), image.pushed_ms));
    unused.into_iter().map(|image| image.digest.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> String {
        format!("sha256:{number:064x}")
    }

    fn image(number: u8) -> Image {
        Image { digest: digest(number), pushed_ms: i64::from(number), ..Image::default() }
    }

    fn reference(number: u8) -> String {
        format!("registry/codeloc/orders@{}", digest(number))
    }

    #[test]
    fn what_is_named_and_what_is_young_stays() {
        let images = [image(1), image(2), image(3), image(90)];
        assert_eq!(unused(&images, &[&reference(2)], 50), [digest(1), digest(3)]);
        assert_eq!(unused(&images, &[], 0), Vec::<String>::new());
    }

    #[test]
    fn an_image_that_is_named_by_tag_stays() {
        let images =
            [Image { tags: vec!["v1".to_owned()], ..image(1) }, Image { tags: vec!["v2".to_owned()], ..image(2) }];
        assert_eq!(unused(&images, &["registry/codeloc/orders:v2"], 50), [digest(1)]);
    }

    #[test]
    fn what_an_index_names_stays_with_it_and_goes_after_it() {
        let index = Image { parts: vec![digest(1), digest(2)], ..image(3) };
        let images = [image(1), image(2), index];
        assert_eq!(unused(&images, &[&reference(3)], 50), Vec::<String>::new());
        assert_eq!(unused(&images, &[], 50), [digest(3), digest(1), digest(2)]);
        // Whoever runs one of its parts needs no more than that.
        assert_eq!(unused(&images, &[&reference(1)], 50), [digest(3), digest(2)]);
        // A young index keeps parts that were pushed long before it.
        let young = Image { parts: vec![digest(1)], ..image(99) };
        assert_eq!(unused(&[image(1), young], &[], 50), Vec::<String>::new());
    }

    #[test]
    fn signatures_stay_with_what_they_sign() {
        let signature = |number: u8, of: u8| Image { tags: vec![format!("sha256-{of:064x}.sig")], ..image(number) };
        let attestation = Image { subject: Some(digest(1)), ..image(6) };
        let images = [image(1), image(2), signature(4, 1), signature(5, 2), attestation];
        assert_eq!(unused(&images, &[&reference(1)], 50), [digest(2), digest(5)]);
    }
}
