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

/// Like [`sha256_hex`], of a file that may not fit into memory.
pub(crate) fn file_sha256(path: &std::path::Path) -> std::io::Result<String> {
    let (mut file, mut hash, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1 << 16]);
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}
