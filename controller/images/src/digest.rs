//! SHA-256 in the two forms that builds use.

use codeloc_core::ids::Digest;
use sha2::{Digest as _, Sha256};

/// `sha256:` and hexadecimal digits, as registries write it.
pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> Digest {
    Digest::from(format!("sha256:{}", sha256_hex(bytes)))
}

/// Hexadecimal digits only, for keys and file names.
pub(crate) fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}
