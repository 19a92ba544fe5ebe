//! Unpacks layers and merges them.
//!
//! Guarantees: no archive writes outside the target. Paths with `..` and devices are refused, no file is written through a link,
//! and links point below the target.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::paths::below;

/// Hides the content that the layers below have in the same folder.
const OPAQUE: &str = ".wh..wh..opq";

#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("cannot unpack a layer of type {0}; supported are tar, tar+gzip and tar+zstd")]
    MediaType(String),
    #[error("localcloud refuses the entry {path} of the layer: {why}")]
    Refused { path: String, why: &'static str },
    #[error("cannot unpack the layer at {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LayerError {
    let path = path.to_owned();
    move |source| LayerError::Io { path, source }
}

/// Unpacks the blob of a layer into the empty folder `target`.
pub(super) fn unpack(blob: &Path, media_type: &str, target: &Path) -> Result<(), LayerError> {
    let file = BufReader::new(File::open(blob).map_err(at(blob))?);
    let reader: Box<dyn Read> = match media_type.rsplit(['.', '+']).next() {
        Some("tar") => Box::new(file),
        Some("gzip") => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some("zstd") => Box::new(zstd::Decoder::with_buffer(file).map_err(at(blob))?),
        _ => return Err(LayerError::MediaType(media_type.to_owned())),
    };
    let mut archive = tar::Archive::new(reader);
    // Set the modes of folders at the end: read-only folders still need their files.
    let mut folders = Vec::new();
    for entry in archive.entries().map_err(at(blob))? {
        let mut entry = entry.map_err(at(blob))?;
        let name = entry.path().map_err(at(blob))?.into_owned();
        let refused = |why| LayerError::Refused { path: name.display().to_string(), why };
        if name.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(refused("its path is absolute or contains .."));
        }
        if name.file_name().is_some_and(|last| last != OPAQUE && last.to_string_lossy().starts_with(".wh.")) {
            return Err(refused("only whiteouts of whole folders are supported"));
        }
        let path = below(target, &name).ok_or_else(|| refused("its path leaves the layer"))?;
        let parent = path.parent().filter(|parent| parent.starts_with(target)).unwrap_or(target);
        folder(target, parent)?;
        let mode = entry.header().mode().map_err(at(&path))? & 0o777;
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                folder(target, &path)?;
                folders.push((path, mode | 0o700));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                clear(&path)?;
                entry.unpack(&path).map_err(at(&path))?;
                fs::set_permissions(&path, Permissions::from_mode(mode | 0o600)).map_err(at(&path))?;
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name().map_err(at(&path))?.ok_or_else(|| refused("the link has no target"))?;
                let link = relative(&name, &link).ok_or_else(|| refused("the link leaves the layer"))?;
                clear(&path)?;
                symlink(link, &path).map_err(at(&path))?;
            }
            tar::EntryType::Link => {
                let link = entry.link_name().map_err(at(&path))?.ok_or_else(|| refused("the link has no target"))?;
                let original = below(target, &link).ok_or_else(|| refused("the link leaves the layer"))?;
                if !is_plain(target, &original) {
                    return Err(refused("a hard link must name a file of this layer"));
                }
                clear(&path)?;
                fs::hard_link(&original, &path).map_err(at(&path))?;
            }
            _ => return Err(refused("only files, folders and links are supported")),
        }
    }
    for (path, mode) in folders.into_iter().rev() {
        // A later entry can replace the folder.
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// How files of a layer get into the file system of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Hard links where the file system supports them: for the many files of dependencies, which do not change.
    Linked,
    /// Copies, so that a task that changes its code does not change other images.
    Copied,
}

/// Merges the folder `layer` into `target`. Folders are merged unless the layer hides what is below it, other entries are replaced.
pub(super) fn overlay(layer: &Path, target: &Path, share: Share) -> Result<(), LayerError> {
    if layer.join(OPAQUE).exists() && target.is_dir() {
        fs::remove_dir_all(target).and_then(|()| fs::create_dir(target)).map_err(at(target))?;
    }
    for entry in fs::read_dir(layer).map_err(at(layer))? {
        let entry = entry.map_err(at(layer))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let kind = entry.file_type().map_err(at(&from))?;
        if entry.file_name() == OPAQUE {
            continue;
        }
        if kind.is_dir() {
            folder(target, &to)?;
            overlay(&from, &to, share)?;
            continue;
        }
        clear(&to)?;
        if kind.is_symlink() {
            symlink(fs::read_link(&from).map_err(at(&from))?, &to).map_err(at(&to))?;
        } else if share == Share::Copied || fs::hard_link(&from, &to).is_err() {
            copy(&from, &to).map_err(at(&to))?;
        }
    }
    Ok(())
}

/// Preserves the modification time, which Python compares with compiled files.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::options().write(true).open(to)?.set_modified(from.metadata()?.modified()?)
}

/// Creates a folder and its parents below `root` without following links.
fn folder(root: &Path, path: &Path) -> Result<(), LayerError> {
    if path == root {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        folder(root, parent)?;
    }
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(LayerError::Refused {
            path: path.display().to_string(),
            why: "a file or a link exists in place of a folder",
        }),
        Err(_) => fs::create_dir(path).map_err(at(path)),
    }
}

/// Removes a file or link at `path`. A folder stays and causes an error later.
pub(super) fn clear(path: &Path) -> Result<(), LayerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Whether `path` is a file whose parents are not links.
fn is_plain(root: &Path, path: &Path) -> bool {
    let folders = path.ancestors().skip(1).take_while(|above| *above != root);
    path.symlink_metadata().is_ok_and(|found| found.is_file())
        && folders.into_iter().all(|above| above.symlink_metadata().is_ok_and(|found| found.is_dir()))
}

/// The target relative to the link. Absolute targets start at the root of the image. `None` if the target is
/// outside the image.
fn relative(name: &Path, link: &Path) -> Option<PathBuf> {
    let parent = name.parent().unwrap_or(Path::new(""));
    let root = Path::new("");
    if link.is_absolute() {
        let depth = parent.components().filter(|part| matches!(part, Component::Normal(_))).count();
        let up = std::iter::repeat_n("..", depth).collect::<PathBuf>();
        return Some(up.join(below(root, link)?));
    }
    below(root, &parent.join(link)).map(|_| link.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(315_532_800);
        // Written directly: the library refuses to create invalid paths.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o777);
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
    }

    struct Unpacked {
        folder: tempfile::TempDir,
        outcome: Result<(), LayerError>,
    }

    impl Unpacked {
        fn root(&self) -> PathBuf {
            self.folder.path().join("outside/root")
        }

        fn refusal(&self) -> String {
            assert_eq!(
                fs::read_dir(self.folder.path().join("outside")).unwrap().count(),
                1,
                "a file was written outside the target"
            );
            self.outcome.as_ref().unwrap_err().to_string()
        }
    }

    fn unpacked(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Unpacked {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        as_layer(&builder.into_inner().unwrap(), "application/vnd.oci.image.layer.v1.tar")
    }

    fn as_layer(bytes: &[u8], media_type: &str) -> Unpacked {
        let folder = tempfile::tempdir().unwrap();
        let (blob, root) = (folder.path().join("blob"), folder.path().join("outside/root"));
        fs::write(&blob, bytes).unwrap();
        fs::create_dir_all(&root).unwrap();
        let outcome = unpack(&blob, media_type, &root);
        Unpacked { folder, outcome }
    }

    #[test]
    fn tar_gzip_and_zstd_layers_give_the_same_files() {
        let mut builder = tar::Builder::new(Vec::new());
        file(&mut builder, "opt/codeloc/code/main.py", b"print(1)");
        link(&mut builder, tar::EntryType::Symlink, "opt/codeloc/code/alias.py", "main.py");
        let tar = builder.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&tar[..], 1).unwrap();
        for (bytes, suffix) in [(tar, "tar"), (gzip, "tar+gzip"), (zstd, "tar+zstd")] {
            let layer = as_layer(&bytes, &format!("application/vnd.oci.image.layer.v1.{suffix}"));
            layer.outcome.as_ref().unwrap();
            let code = layer.root().join("opt/codeloc/code");
            assert_eq!(fs::read(code.join("alias.py")).unwrap(), b"print(1)");
            let changed = code.join("main.py").metadata().unwrap().modified().unwrap();
            assert_eq!(changed.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 315_532_800);
        }
    }

    #[test]
    fn paths_that_leave_the_layer_are_refused() {
        for path in ["/etc/passwd", "../passwd", "a/../../passwd"] {
            let refusal = unpacked(|tar| file(tar, path, b"x")).refusal();
            assert!(refusal.contains("absolute or contains .."), "{refusal}");
        }
    }

    #[test]
    fn links_that_leave_the_layer_are_refused() {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
            let refusal = unpacked(|tar| link(tar, kind, "a/link", "../../blob")).refusal();
            assert!(refusal.contains("the link leaves the layer"), "{refusal}");
        }
    }

    #[test]
    fn no_file_is_written_through_a_chain_of_links() {
        let refusal = unpacked(|tar| {
            link(tar, tar::EntryType::Symlink, "q/r", "..");
            link(tar, tar::EntryType::Symlink, "escape", "q/r/..");
            file(tar, "escape/file", b"x");
        })
        .refusal();
        assert!(refusal.contains("in place of a folder"), "{refusal}");
        let refusal = unpacked(|tar| {
            link(tar, tar::EntryType::Symlink, "q/r", "..");
            link(tar, tar::EntryType::Link, "hard", "q/r/blob");
        })
        .refusal();
        assert!(refusal.contains("a file of this layer"), "{refusal}");
    }

    #[test]
    fn a_file_replaces_a_link_and_not_its_target() {
        let layer = unpacked(|tar| {
            file(tar, "target", b"old");
            link(tar, tar::EntryType::Symlink, "name", "target");
            file(tar, "name", b"new");
        });
        layer.outcome.as_ref().unwrap();
        assert_eq!(fs::read(layer.root().join("target")).unwrap(), b"old");
        assert_eq!(fs::read(layer.root().join("name")).unwrap(), b"new");
    }

    #[test]
    fn an_absolute_link_starts_at_the_root_of_the_image() {
        let layer = unpacked(|tar| {
            file(tar, "opt/codeloc/code/data/real", b"x");
            link(tar, tar::EntryType::Symlink, "opt/codeloc/code/link", "/opt/codeloc/code/data/real");
        });
        layer.outcome.as_ref().unwrap();
        assert_eq!(fs::read(layer.root().join("opt/codeloc/code/link")).unwrap(), b"x");
    }

    #[test]
    fn devices_and_whiteouts_are_refused() {
        let device = unpacked(|tar| link(tar, tar::EntryType::Char, "null", ""));
        assert!(device.refusal().contains("only files"), "{}", device.refusal());
        let whiteout = unpacked(|tar| file(tar, "a/.wh.b", b""));
        assert!(whiteout.refusal().contains("whiteout"), "{}", whiteout.refusal());
    }

    #[test]
    fn an_overlay_replaces_files_and_merges_folders() {
        let folder = tempfile::tempdir().unwrap();
        let (layer, target) = (folder.path().join("layer"), folder.path().join("target"));
        for (path, content) in [("layer/d/a", "new"), ("target/d/a", "old"), ("target/d/b", "kept")] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        overlay(&layer, &target, Share::Copied).unwrap();
        assert_eq!(fs::read_to_string(target.join("d/a")).unwrap(), "new");
        assert_eq!(fs::read_to_string(target.join("d/b")).unwrap(), "kept");
        fs::write(target.join("d/a"), "changed by a task").unwrap();
        assert_eq!(fs::read_to_string(layer.join("d/a")).unwrap(), "new");
    }

    #[test]
    fn a_layer_can_hide_a_folder_of_the_layers_below() {
        let layer = unpacked(|tar| {
            file(tar, "site/.wh..wh..opq", b"");
            file(tar, "site/new", b"new");
        });
        layer.outcome.as_ref().unwrap();
        let target = tempfile::tempdir().unwrap();
        for path in ["site/old", "bin/kept"] {
            let path = target.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "old").unwrap();
        }
        overlay(&layer.root(), target.path(), Share::Linked).unwrap();
        let names = |folder: &str| -> Vec<_> {
            fs::read_dir(target.path().join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!((names("site"), names("bin")), (vec!["new".into()], vec!["kept".into()]));
    }
}
