//! The identifiers that plans compare and pass on. Each has its own type, so the compiler finds an ARN in place of a name, or a commit in
//! place of a revision.
//!
//! Their text is not checked: AWS, git and the registries decide what is valid.

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<&$name> for String {
            fn from(id: &$name) -> Self {
                id.0.clone()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    )*};
}

ids! {
    /// The Amazon Resource Name of one resource.
    Arn;
    /// The hash of a task definition's content. Code servers answer with it as their server id.
    Revision;
    /// The full hash of a git commit.
    Commit;
    /// The digest of an image manifest or a layer: `sha256:` and 64 hexadecimal digits.
    Digest;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_serialized_as_its_text() {
        let revision = Revision::from("0123456789abcdef");
        assert_eq!(serde_json::to_value(&revision).unwrap(), "0123456789abcdef");
        assert_eq!(format!("{revision:>18}"), "  0123456789abcdef");
        assert_eq!(revision, "0123456789abcdef");
    }
}
