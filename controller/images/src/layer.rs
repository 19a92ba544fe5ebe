//! Packs a layer: a tar stream, compressed into a temporary file. Both forms are hashed.
//!
//! Guarantees: equal entries give equal bytes. Order, times, owners and modes are fixed, and one thread compresses.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use codeloc_core::ids::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;

use crate::settings::Compression;

/// 1980-01-01, the earliest time in a zip file. Wheels and `.pyc` files use it too.
const MTIME: u64 = 315_532_800;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

/// A finished layer in a temporary file.
#[derive(Debug)]
pub(super) struct Spooled {
    pub file: TempPath,
    pub layer: Layer,
}

/// The description of a layer in manifests and configs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Layer {
    /// The digest of the compressed bytes.
    pub digest: Digest,
    /// The digest of the tar stream.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
    pub media_type: String,
}

/// A file or link of a layer. Folders follow from the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node<F> {
    File {
        content: F,
        size: u64,
        executable: bool,
    },
    /// Its target, unresolved.
    Link(String),
}

/// Packs `nodes` (paths relative to `/`, without a leading slash) and their parent folders, sorted by bytes. `open` reads the
/// content of a file. `folders` are packed even if they are empty.
pub(super) fn pack<F, R: Read>(
    spool: &Path,
    compression: Compression,
    nodes: &BTreeMap<String, Node<F>>,
    folders: &[String],
    mut open: impl FnMut(&str, &F) -> io::Result<R>,
) -> io::Result<Spooled> {
    let mut entries: BTreeMap<&str, Option<&Node<F>>> = BTreeMap::new();
    for path in nodes.keys().chain(folders) {
        let mut parent = path.as_str();
        while let Some(slash) = parent.rfind('/') {
            parent = &parent[..slash];
            entries.insert(parent, None);
        }
    }
    entries.extend(folders.iter().map(|path| (path.as_str(), None)));
    entries.extend(nodes.iter().map(|(path, node)| (path.as_str(), Some(node))));

    std::fs::create_dir_all(spool)?;
    let mut tar = tar::Builder::new(Sink::new(spool, compression)?);
    for (path, node) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(MTIME);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match node {
            None => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                tar.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
            Some(Node::Link(target)) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target)?;
            }
            Some(Node::File { content, size, executable }) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                header.set_size(*size);
                let mut counted = Counted { inner: open(path, content)?, bytes: 0 };
                tar.append_data(&mut header, path, &mut counted)?;
                if counted.bytes != *size {
                    return Err(io::Error::other(format!(
                        "{path} has {} bytes, but git or uv reported {size}",
                        counted.bytes
                    )));
                }
            }
        }
    }
    tar.into_inner()?.finish(compression)
}

/// Unpacks a layer that codeloc packed into a folder.
pub fn unpack_layer(file: &Path, media_type: &str, folder: &Path) -> io::Result<()> {
    let opened = io::BufReader::new(std::fs::File::open(file)?);
    let stream: Box<dyn Read> = match media_type.rsplit('+').next() {
        Some("zstd") => Box::new(zstd::Decoder::new(opened)?),
        Some("gzip") => Box::new(flate2::read::GzDecoder::new(opened)),
        _ => Box::new(opened),
    };
    let mut archive = tar::Archive::new(stream);
    archive.set_overwrite(true);
    archive.set_preserve_mtime(false);
    archive.unpack(folder)
}

/// Everything about the compressor that changes the bytes of a layer.
pub(super) fn compressor(compression: Compression) -> String {
    match compression {
        Compression::Zstd => format!("zstd-{}-{ZSTD_LEVEL}", zstd::zstd_safe::version_number()),
        Compression::Gzip => format!("gzip-{GZIP_LEVEL}"),
    }
}

enum Encoder {
    Zstd(zstd::Encoder<'static, Hashed<BufWriter<std::fs::File>>>),
    Gzip(flate2::write::GzEncoder<Hashed<BufWriter<std::fs::File>>>),
}

/// Writes a tar stream into a hashed and compressed file.
struct Sink {
    encoder: Encoder,
    diff: Sha256,
    path: TempPath,
}

impl Sink {
    fn new(spool: &Path, compression: Compression) -> io::Result<Self> {
        let (file, path) = tempfile::NamedTempFile::new_in(spool)?.into_parts();
        let hashed = Hashed { inner: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
        let encoder = match compression {
            Compression::Zstd => Encoder::Zstd(zstd::Encoder::new(hashed, ZSTD_LEVEL)?),
            Compression::Gzip => {
                Encoder::Gzip(flate2::GzBuilder::new().mtime(0).write(hashed, flate2::Compression::new(GZIP_LEVEL)))
            }
        };
        Ok(Self { encoder, diff: Sha256::new(), path })
    }

    fn finish(self, compression: Compression) -> io::Result<Spooled> {
        let mut hashed = match self.encoder {
            Encoder::Zstd(encoder) => encoder.finish()?,
            Encoder::Gzip(encoder) => encoder.finish()?,
        };
        hashed.flush()?;
        let suffix = match compression {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        };
        let layer = Layer {
            digest: Digest::from(format!("sha256:{}", hex::encode(hashed.hash.finalize()))),
            diff_id: Digest::from(format!("sha256:{}", hex::encode(self.diff.finalize()))),
            size: hashed.bytes,
            media_type: format!("application/vnd.oci.image.layer.v1.tar+{suffix}"),
        };
        Ok(Spooled { file: self.path, layer })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.encoder {
            Encoder::Zstd(encoder) => encoder.write(bytes)?,
            Encoder::Gzip(encoder) => encoder.write(bytes)?,
        };
        self.diff.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn nodes() -> BTreeMap<String, Node<Vec<u8>>> {
        let file = |text: &str, executable| Node::File {
            content: text.as_bytes().to_vec(),
            size: text.len() as u64,
            executable,
        };
        BTreeMap::from([
            ("opt/a/run.sh".to_owned(), file("#!/bin/sh\n", true)),
            ("opt/a-b".to_owned(), file("x", false)),
            ("opt/a/link".to_owned(), Node::Link("run.sh".to_owned())),
            (format!("opt/{}/deep", "long".repeat(40)), file("y", false)),
        ])
    }

    fn packed(compression: Compression) -> (Spooled, tempfile::TempDir) {
        let spool = tempfile::tempdir().unwrap();
        let spooled = pack(spool.path(), compression, &nodes(), &["opt/empty".to_owned()], |_, content| {
            Ok(io::Cursor::new(content.clone()))
        })
        .unwrap();
        (spooled, spool)
    }

    #[test]
    fn equal_entries_give_equal_bytes() {
        for compression in [Compression::Zstd, Compression::Gzip] {
            let (first, _first_spool) = packed(compression);
            let (second, _second_spool) = packed(compression);
            assert_eq!(first.layer, second.layer);
            let bytes = std::fs::read(&first.file).unwrap();
            assert_eq!(bytes.len() as u64, first.layer.size);
            assert_eq!(sha256(&bytes), first.layer.digest);
        }
        assert_eq!(packed(Compression::Zstd).0.layer.diff_id, packed(Compression::Gzip).0.layer.diff_id);
    }

    #[test]
    fn entries_are_sorted_with_fixed_times_owners_and_modes() {
        let (spooled, _spool) = packed(Compression::Zstd);
        let bytes = zstd::decode_all(std::fs::File::open(&spooled.file).unwrap()).unwrap();
        assert_eq!(sha256(&bytes), spooled.layer.diff_id);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let actual: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (MTIME, 0, 0));
                (entry.path().unwrap().to_string_lossy().into_owned(), header.mode().unwrap())
            })
            .collect();
        let long = format!("opt/{}/", "long".repeat(40));
        let expected = [
            ("opt/", 0o755),
            ("opt/a/", 0o755),
            ("opt/a-b", 0o644),
            ("opt/a/link", 0o777),
            ("opt/a/run.sh", 0o755),
            ("opt/empty/", 0o755),
            (&long, 0o755),
            (&format!("{long}deep"), 0o644),
        ];
        assert_eq!(actual, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
