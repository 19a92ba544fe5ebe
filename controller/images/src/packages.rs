//! From a lock to the dependency layer, kept by everything that decides its bytes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use codeloc_git::program::{Program, tail};
use sha2::{Digest, Sha256};

use super::{
    BuildError, Compression, caches,
    disk::{blocking, fresh_folder, on_disk, write_whole},
    layer::{Layer, Node, Spooled, compressor, pack},
    uv::{Target, Uv},
};

/// Raised when the same lock must give another layer.
const LAYOUT: u32 = 2;

/// Files of the installation itself: they hold paths and times of the builder, or say how uv was called.
const LEFT_OUT: [&str; 4] = ["direct_url.json", "REQUESTED", "uv_cache.json", "uv_build.json"];

/// A dependency layer in the work folder.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub layer: Layer,
    pub file: PathBuf,
}

pub(super) struct Packages<'a> {
    pub uv: &'a Uv,
    pub target: &'a Target,
    pub compression: Compression,
    pub work: &'a Path,
    /// Compiles `.pyc` files where the target names a compiler.
    pub interpreter: Option<&'a Path>,
    pub timeout: Duration,
    /// In bytes, of all files together.
    pub largest: u64,
}

impl Packages<'_> {
    /// Names the layer of a lock.
    pub(super) fn key(&self, lock: &str) -> String {
        let decides =
            serde_json::json!([LAYOUT, lock, self.target.key(), self.target.compiler, compressor(self.compression)]);
        hex::encode(Sha256::digest(decides.to_string()))
    }

    /// The layer if it was packed before.
    pub(super) fn kept(&self, key: &str) -> Option<Kept> {
        let folder = self.work.join(caches::LAYERS);
        let index = folder.join(format!("{key}.json"));
        let layer: Layer = serde_json::from_slice(&std::fs::read(&index).ok()?).ok()?;
        let file = folder.join(format!("{key}.tar"));
        let whole = std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() == layer.size);
        if !whole {
            return None;
        }
        // In the order in which they are to go: the large one first.
        caches::used(&file);
        caches::used(&index);
        Some(Kept { layer, file })
    }

    /// Installs and packs the layer; callers hold a lock on its key.
    pub(super) async fn make(
        &self,
        key: &str,
        lock: &str,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Kept, BuildError> {
        let folder = fresh_folder(&self.work.join("spool"))?;
        let site = folder.path().join("site");
        std::fs::create_dir(&site).map_err(|error| on_disk(&site, &error))?;
        if !lock.is_empty() {
            progress(format!("installing {} packages", lock.lines().count()));
            write_whole(&folder.path().join("lock.txt"), lock.as_bytes())?;
            self.uv.install(folder.path(), self.target).await?;
        }
        let image_folder = format!("opt/codeloc/env/lib/python{}/site-packages", self.target.python);
        let cleaned = site.clone();
        blocking(move || remove_bytecode(&cleaned).map_err(|error| on_disk(&cleaned, &error))).await?;
        self.compile(folder.path(), &format!("/{image_folder}")).await?;

        progress("packing".to_owned());
        let (spool, compression, largest) = (self.work.join("spool"), self.compression, self.largest);
        let spooled = blocking(move || pack_site(&spool, compression, &site, &image_folder, largest)).await?;
        let layers = self.work.join(caches::LAYERS);
        let file = layers.join(format!("{key}.tar"));
        std::fs::create_dir_all(&layers).map_err(|error| on_disk(&layers, &error))?;
        let Spooled { file: spooled, layer } = spooled;
        spooled.persist(&file).map_err(|error| on_disk(&file, &error.error))?;
        let index = serde_json::to_vec(&layer).expect("a layer is plain data");
        write_whole(&layers.join(format!("{key}.json")), &index)?;
        Ok(Kept { layer, file })
    }

    /// Only the standard library's compiler runs, over files it does not import. The hash seed is fixed, which `-I` would
    /// ignore; `-s -S`, a cleared environment and an empty working folder isolate as well. Python checks the bytecode against
    /// its source by hash, so that it never stands for a file of another layer; times and sizes are equal too often.
    async fn compile(&self, folder: &Path, image_folder: &str) -> Result<(), BuildError> {
        let (Some(interpreter), Some(_)) = (self.interpreter, &self.target.compiler) else {
            return Ok(());
        };
        let empty = folder.join("empty");
        std::fs::create_dir_all(&empty).map_err(|error| on_disk(&empty, &error))?;
        let site = folder.join("site");
        let output = Program::new(interpreter, self.timeout)
            .folder(&empty)
            .environment([("PYTHONHASHSEED", "0"), ("LC_ALL", "C.UTF-8")])
            .arguments(["-s", "-S", "-B", "-m", "compileall", "-q", "-q", "--invalidation-mode", "checked-hash"])
            .arguments(["-s".as_ref(), site.as_os_str(), "-p".as_ref(), image_folder.as_ref(), site.as_os_str()])
            .run()
            .await?;
        // 1: some file is not valid Python, such as a template; it stays without a .pyc.
        if matches!(output.status.code(), Some(0 | 1)) {
            return Ok(());
        }
        Err(BuildError::Transient(format!("compileall failed: {}", tail(&output.stderr))))
    }
}

fn remove_bytecode(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if entry.file_name() == "__pycache__" {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                remove_bytecode(&entry.path())?;
            }
        }
    }
    Ok(())
}

enum Content {
    Disk(PathBuf),
    Memory(Vec<u8>),
}

fn pack_site(
    spool: &Path,
    compression: Compression,
    site: &Path,
    image_folder: &str,
    largest: u64,
) -> Result<Spooled, BuildError> {
    let mut nodes = BTreeMap::new();
    collect(site, "", image_folder, &mut nodes)?;
    let bytes = |node: &Node<Content>| if let Node::File { size, .. } = node { *size } else { 0 };
    if nodes.values().map(bytes).sum::<u64>() > largest {
        return Err(BuildError::Terminal(format!("the packages have more than {largest} bytes")));
    }
    let folders = [image_folder.to_owned()];
    pack(spool, compression, &nodes, &folders, |_, content| {
        Ok(match content {
            Content::Disk(path) => Box::new(File::open(path)?) as Box<dyn Read>,
            Content::Memory(bytes) => Box::new(Cursor::new(bytes.clone())),
        })
    })
    .map_err(|error| on_disk(spool, &error))
}

/// `relative` is a path below site-packages with a slash at its end, or empty.
fn collect(
    site: &Path,
    relative: &str,
    image_folder: &str,
    nodes: &mut BTreeMap<String, Node<Content>>,
) -> Result<(), BuildError> {
    let folder = site.join(relative);
    let disk = |error: std::io::Error| on_disk(&folder, &error);
    for entry in std::fs::read_dir(&folder).map_err(disk)? {
        let entry = entry.map_err(disk)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|name| {
            BuildError::Terminal(format!("a package holds a file {}, which is not UTF-8", name.display()))
        })?;
        // Console scripts carry the builder's Python; everything is started with `python -m`.
        if relative.is_empty() && (name == "bin" || name == ".lock") {
            continue;
        }
        if name.starts_with(".wh.") {
            return Err(BuildError::Terminal(format!(
                "a package holds {relative}{name}, which would delete a file of the image"
            )));
        }
        let kind = entry.file_type().map_err(disk)?;
        if kind.is_dir() {
            collect(site, &format!("{relative}{name}/"), image_folder, nodes)?;
            continue;
        }
        let metadata = entry.metadata().map_err(disk)?;
        if !kind.is_file() {
            return Err(BuildError::Terminal(format!(
                "a package holds {relative}{name}, which is neither file nor folder"
            )));
        }
        let in_dist_info = relative.strip_suffix(".dist-info/").is_some_and(|rest| !rest.contains('/'));
        let node = if in_dist_info && LEFT_OUT.contains(&name.as_str()) {
            continue;
        } else if in_dist_info && name == "RECORD" {
            let record = record(&std::fs::read_to_string(&path).map_err(disk)?);
            Node::File { size: record.len() as u64, content: Content::Memory(record.into_bytes()), executable: false }
        } else {
            let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0;
            Node::File { size: metadata.len(), content: Content::Disk(path), executable }
        };
        nodes.insert(format!("{image_folder}/{relative}{name}"), node);
    }
    Ok(())
}

/// RECORD without the lines of files that are left out, sorted.
fn record(text: &str) -> String {
    let stays = |line: &&str| {
        let path = line.split(',').next().unwrap_or_default().trim_matches('"');
        let name = path.rsplit('/').next().unwrap_or_default();
        let script = path.starts_with("bin/") || path.starts_with("../");
        let left_out = path.contains(".dist-info/") && LEFT_OUT.contains(&name);
        !script && !left_out && !path.contains("__pycache__/")
    };
    let mut lines: Vec<&str> = text.lines().filter(stays).collect();
    lines.sort_unstable();
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_only_what_is_in_the_layer() {
        let text = "b/x.py,sha256=1,2\nbin/tool,sha256=3,4\n../../bin/tool,,\na-1.dist-info/REQUESTED,,0\na-1.dist-info/RECORD,,\nb/__pycache__/x.pyc,,\n";
        assert_eq!(record(text), "a-1.dist-info/RECORD,,\nb/x.py,sha256=1,2\n");
    }
}
