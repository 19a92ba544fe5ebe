//! Builds the dependency layer of a lock, and caches it by everything that decides its bytes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use codeloc_git::program::{Program, tail};

use crate::caches;
use crate::dependencies::Lock;
use crate::digest::sha256_hex;
use crate::disk::{SPOOL, blocking, disk_error, temporary_folder, write_whole};
use crate::error::BuildError;
use crate::layer::{Layer, Node, Spooled, compressor, pack};
use crate::progress::{OnProgress, Progress};
use crate::scripts::{self, SCRIPTS_FOLDER};
use crate::settings::Compression;
use crate::uv::{Target, Uv};

/// Increase it if the same lock must give another layer.
const LAYOUT: u32 = 3;

/// Files that uv writes about the installation. They contain paths, times and options of the builder.
const EXCLUDED: [&str; 4] = ["direct_url.json", "REQUESTED", "uv_cache.json", "uv_build.json"];

/// Hides everything that the base image has in the same folder, as the OCI image specification says.
const OPAQUE: &str = ".wh..wh..opq";
/// Makes codeloc's own package importable, which the base image has in its own folder.
const PLATFORM_PATH_FILE: &str = "codeloc.pth";
/// Relative to site-packages.
const PLATFORM_FOLDER: &str = "../../../../platform";

/// The folder of packages in an image, without a leading slash.
pub(super) fn site_packages(python: &str) -> String {
    format!("opt/codeloc/env/lib/python{python}/site-packages")
}

/// A dependency layer in the work folder.
#[derive(Clone, Debug)]
pub(super) struct CachedLayer {
    pub layer: Layer,
    pub file: PathBuf,
}

pub(super) struct Packages<'a> {
    pub uv: &'a Uv,
    pub target: &'a Target,
    pub compression: Compression,
    pub work: &'a Path,
    /// Compiles `.pyc` files if the target has a compiler.
    pub interpreter: Option<&'a Path>,
    pub timeout: Duration,
    /// The maximum size of all files together, in bytes.
    pub max_bytes: u64,
}

impl Packages<'_> {
    /// The cache key of the layer of a lock.
    pub(super) fn key(&self, lock: &str) -> String {
        let key =
            serde_json::json!([LAYOUT, lock, self.target.key(), self.target.compiler, compressor(self.compression)]);
        sha256_hex(key.to_string())
    }

    /// The layer, if the work folder has it.
    pub(super) fn cached(&self, key: &str) -> Option<CachedLayer> {
        let folder = self.work.join(caches::LAYERS);
        let index = folder.join(format!("{key}.json"));
        let layer: Layer = serde_json::from_slice(&std::fs::read(&index).ok()?).ok()?;
        let file = folder.join(format!("{key}.tar"));
        let is_complete = std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() == layer.size);
        if !is_complete {
            return None;
        }
        // The large file gets the older time, so that it is removed first.
        caches::mark_used(&file);
        caches::mark_used(&index);
        Some(CachedLayer { layer, file })
    }

    /// Installs and packs the layer. The caller holds a lock on the key.
    pub(super) async fn build(
        &self,
        key: &str,
        lock: &Lock,
        progress: &OnProgress<'_>,
    ) -> Result<CachedLayer, BuildError> {
        let folder = temporary_folder(self.work)?;
        let site = folder.path().join("site");
        std::fs::create_dir(&site).map_err(|error| disk_error(&site, error))?;
        if !lock.text.is_empty() {
            progress(Progress::Installing { packages: lock.text.lines().count() });
            write_whole(&folder.path().join("lock.txt"), lock.text.as_bytes())?;
            if let Some(built) = &lock.built {
                built.link_wheels(folder.path())?;
            }
            self.uv.install(folder.path(), self.target).await?;
        }
        let image_folder = site_packages(&self.target.python);
        let installed = site.clone();
        blocking(move || remove_bytecode(&installed).map_err(|error| disk_error(&installed, error))).await?;
        self.compile(folder.path(), &format!("/{image_folder}")).await?;

        progress(Progress::PackingPackages);
        let (spool, compression, max_bytes) = (self.work.join(SPOOL), self.compression, self.max_bytes);
        let spooled = blocking(move || pack_site(&spool, compression, &site, &image_folder, max_bytes)).await?;
        let layers = self.work.join(caches::LAYERS);
        let file = layers.join(format!("{key}.tar"));
        std::fs::create_dir_all(&layers).map_err(|error| disk_error(&layers, error))?;
        let Spooled { file: spooled, layer } = spooled;
        spooled.persist(&file).map_err(|error| disk_error(&file, error.error))?;
        let index = serde_json::to_vec(&layer).expect("a layer is plain data");
        write_whole(&layers.join(format!("{key}.json")), &index)?;
        Ok(CachedLayer { layer, file })
    }

    /// Runs only the compiler of the standard library, which does not import the files. `-I` would ignore the fixed hash seed;
    /// `-s -S`, a cleared environment and an empty working folder isolate as well. Python checks bytecode against its source
    /// by hash, because files of other layers often have equal times and sizes.
    async fn compile(&self, folder: &Path, image_folder: &str) -> Result<(), BuildError> {
        let (Some(interpreter), Some(_)) = (self.interpreter, &self.target.compiler) else {
            return Ok(());
        };
        let empty = folder.join("empty");
        std::fs::create_dir_all(&empty).map_err(|error| disk_error(&empty, error))?;
        let site = folder.join("site");
        let output = Program::new(interpreter, self.timeout)
            .folder(&empty)
            .environment([("PYTHONHASHSEED", "0"), ("LC_ALL", "C.UTF-8")])
            .arguments(["-s", "-S", "-B", "-m", "compileall", "-q", "-q", "--invalidation-mode", "checked-hash"])
            .arguments(["-s".as_ref(), site.as_os_str(), "-p".as_ref(), image_folder.as_ref(), site.as_os_str()])
            .run()
            .await
            .map_err(|error| BuildError::transient("cannot compile the packages").caused_by(error))?;
        // 1: a file is not valid Python, such as a template. It gets no .pyc.
        if matches!(output.status.code(), Some(0 | 1)) {
            return Ok(());
        }
        Err(BuildError::transient(format!("cannot compile the packages: compileall failed: {}", tail(&output.stderr))))
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

/// A small file that codeloc writes itself.
fn memory(text: String, executable: bool) -> Node<Content> {
    Node::File { size: text.len() as u64, content: Content::Memory(text.into_bytes()), executable }
}

fn pack_site(
    spool: &Path,
    compression: Compression,
    site: &Path,
    image_folder: &str,
    max_bytes: u64,
) -> Result<Spooled, BuildError> {
    let mut nodes = BTreeMap::new();
    collect(site, "", image_folder, &mut nodes)?;
    collect_scripts(site, &mut nodes)?;
    nodes.insert(format!("{image_folder}/{OPAQUE}"), memory(String::new(), false));
    nodes.insert(format!("{image_folder}/{PLATFORM_PATH_FILE}"), memory(format!("{PLATFORM_FOLDER}\n"), false));
    let bytes = |node: &Node<Content>| if let Node::File { size, .. } = node { *size } else { 0 };
    if nodes.values().map(bytes).sum::<u64>() > max_bytes {
        return Err(BuildError::terminal(format!(
            "the installed packages have more than {max_bytes} bytes in total; remove some"
        )));
    }
    let folders = [image_folder.to_owned()];
    pack(spool, compression, &nodes, &folders, |_, content| {
        Ok(match content {
            Content::Disk(path) => Box::new(File::open(path)?) as Box<dyn Read>,
            Content::Memory(bytes) => Box::new(Cursor::new(bytes.clone())),
        })
    })
    .map_err(|error| disk_error(spool, error))
}

/// `relative` is a path below site-packages with a slash at its end, or empty.
fn collect(
    site: &Path,
    relative: &str,
    image_folder: &str,
    nodes: &mut BTreeMap<String, Node<Content>>,
) -> Result<(), BuildError> {
    let folder = site.join(relative);
    let disk = |error| disk_error(&folder, error);
    for entry in std::fs::read_dir(&folder).map_err(disk)? {
        let entry = entry.map_err(disk)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|name| {
            let name = name.display();
            BuildError::terminal(format!(
                "a package contains the file {name}, whose name is not UTF-8; remove the package"
            ))
        })?;
        // Scripts contain the path of the builder's Python, so `collect_scripts` changes them.
        if relative.is_empty() && (name == "bin" || name == ".lock") {
            continue;
        }
        if name.starts_with(".wh.") {
            return Err(BuildError::terminal(format!(
                "a package contains {relative}{name}, which would delete a file of the image; remove the package"
            )));
        }
        let kind = entry.file_type().map_err(disk)?;
        if kind.is_dir() {
            collect(site, &format!("{relative}{name}/"), image_folder, nodes)?;
            continue;
        }
        let metadata = entry.metadata().map_err(disk)?;
        if !kind.is_file() {
            return Err(BuildError::terminal(format!(
                "a package contains {relative}{name}, which is neither a file nor a folder; remove the package"
            )));
        }
        let in_dist_info = relative.strip_suffix(".dist-info/").is_some_and(|rest| !rest.contains('/'));
        let node = if in_dist_info && EXCLUDED.contains(&name.as_str()) {
            continue;
        } else if in_dist_info && name == "RECORD" {
            memory(record(&std::fs::read_to_string(&path).map_err(disk)?), false)
        } else {
            let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o100 != 0;
            Node::File { size: metadata.len(), content: Content::Disk(path), executable }
        };
        nodes.insert(format!("{image_folder}/{relative}{name}"), node);
    }
    Ok(())
}

/// Adds the scripts of the packages to the programs of the environment.
fn collect_scripts(site: &Path, nodes: &mut BTreeMap<String, Node<Content>>) -> Result<(), BuildError> {
    let folder = site.join("bin");
    let disk = |error| disk_error(&folder, error);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(disk(error)),
    };
    for entry in entries {
        let entry = entry.map_err(disk)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.file_type().map_err(disk)?.is_file() || !scripts::is_allowed(&name) {
            continue;
        }
        let node = match scripts::relocated(&entry.path()).map_err(disk)? {
            Some(text) => memory(text, true),
            None => Node::File {
                size: entry.metadata().map_err(disk)?.len(),
                content: Content::Disk(entry.path()),
                executable: true,
            },
        };
        nodes.insert(format!("{SCRIPTS_FOLDER}/{name}"), node);
    }
    Ok(())
}

/// RECORD, sorted, without the lines of files that the layer does not contain.
fn record(text: &str) -> String {
    let is_included = |line: &&str| {
        let path = line.split(',').next().unwrap_or_default().trim_matches('"');
        let name = path.rsplit('/').next().unwrap_or_default();
        let script = path.starts_with("bin/") || path.starts_with("../");
        let excluded = path.contains(".dist-info/") && EXCLUDED.contains(&name);
        !script && !excluded && !path.contains("__pycache__/")
    };
    let mut lines: Vec<&str> = text.lines().filter(is_included).collect();
    lines.sort_unstable();
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lists_only_files_of_the_layer() {
        let text = "b/x.py,sha256=1,2\nbin/tool,sha256=3,4\n../../bin/tool,,\na-1.dist-info/REQUESTED,,0\na-1.dist-info/RECORD,,\nb/__pycache__/x.pyc,,\n";
        assert_eq!(record(text), "a-1.dist-info/RECORD,,\nb/x.py,sha256=1,2\n");
    }
}
