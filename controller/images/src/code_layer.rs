//! Archives of files of a commit, of files that codeloc writes, and of files that an isolated build made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use crate::checkout::{Repositories, is_lfs_pointer, read_error};
use crate::digest::{file_sha256, sha256_hex};
use crate::disk::{SPOOL, blocking};
use crate::error::BuildError;
use crate::layer::{Node, Spooled, pack};
use crate::settings::Compression;

/// The content of a file in an archive.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// The name of a git object.
    Object(String),
    Text(String),
    /// A file of the work folder.
    Disk(PathBuf),
}

impl Content {
    /// Equal for equal content of the same kind.
    pub(super) fn identity(&self) -> io::Result<String> {
        match self {
            Self::Object(object) => Ok(object.clone()),
            Self::Text(text) => Ok(sha256_hex(text)),
            Self::Disk(path) => file_sha256(path),
        }
    }
}

pub(super) fn of_commit(node: Node<String>) -> Node<Content> {
    match node {
        Node::File { content, size, executable } => Node::File { content: Content::Object(content), size, executable },
        Node::Link(target) => Node::Link(target),
    }
}

/// A packed archive, and the files in it that are only pointers of Git LFS.
pub(super) struct Packed {
    pub spooled: Spooled,
    pub pointers: Vec<String>,
}

/// Packs files. `repository` has the git objects.
pub(super) async fn pack_files(
    repositories: &Repositories,
    work: &Path,
    repository: Option<PathBuf>,
    compression: Compression,
    nodes: BTreeMap<String, Node<Content>>,
    folders: Vec<String>,
) -> Result<Packed, BuildError> {
    let (repositories, spool) = (repositories.clone(), work.join(SPOOL));
    blocking(move || {
        let mut reader = repository.map(|repository| repositories.reader(&repository)).transpose()?;
        let mut pointers = Vec::new();
        let open = |path: &str, content: &Content| {
            Ok(match (content, &mut reader) {
                (Content::Object(object), Some(reader)) => {
                    let content = reader.read(path, object)?;
                    if is_lfs_pointer(&content) {
                        pointers.push(path.trim_start_matches("opt/codeloc/code/").to_owned());
                    }
                    Box::new(Cursor::new(content)) as Box<dyn Read>
                }
                (Content::Object(_), None) => return Err(io::Error::other(format!("{path} is in no repository"))),
                (Content::Text(text), _) => Box::new(Cursor::new(text.clone().into_bytes())),
                (Content::Disk(file), _) => Box::new(File::open(file)?),
            })
        };
        let spooled = pack(&spool, compression, &nodes, &folders, open).map_err(read_error)?;
        Ok(Packed { spooled, pointers })
    })
    .await
}
