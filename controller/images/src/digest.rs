//! SHA-256 in the two forms that builds use.

use sha2::{Digest, Sha256};

/// `sha256:` and hexadecimal digits, as registries and lock files write it.
pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

/// Hexadecimal digits only, for keys and file names.
pub(crate) fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}
