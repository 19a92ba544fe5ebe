//! dbt projects in a commit. dagster-dbt needs the manifest of each, which `dbt parse` writes and most repositories do not commit.

use std::io;

use crate::checkout::{ObjectReader, Tree};
use crate::layer::Node;
use crate::project::files::{is_within, relative};

const PREPARE: &str = "dagster-dbt project prepare-and-package";
/// Larger files are not searched.
const LARGEST_SOURCE: u64 = 1 << 20;
const MANIFEST: &str = "target/manifest.json";

/// The dbt projects whose manifest the commit lacks. All paths start at the folder of the location.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dbt {
    pub folders: Vec<String>,
    /// Projects outside of the location's folder that its code names, from the root of the repository.
    pub beside: Vec<String>,
    /// Python files with a `DbtProject` that is copied to another folder.
    packaged: Vec<String>,
    /// A component of dg uses a dbt project.
    has_components: bool,
}

impl Dbt {
    /// `whole` has all files of the commit, if the location has only a folder of it.
    pub(super) fn read(tree: &Tree, whole: Option<&Tree>, reader: &mut ObjectReader) -> io::Result<Self> {
        let mut dbt = Self { folders: projects(tree, true), ..Self::default() };
        let outside = whole.map(|whole| projects(whole, false)).unwrap_or_default();
        let outside: Vec<String> = outside.into_iter().filter(|folder| !is_within(&tree.folder, folder)).collect();
        if dbt.folders.is_empty() && outside.is_empty() {
            return Ok(dbt);
        }
        for (path, node) in &tree.nodes {
            let Node::File { content, size, .. } = node else { continue };
            let is_python = std::path::Path::new(path).extension().is_some_and(|extension| extension == "py");
            let is_component = path.ends_with("defs.yaml") || path.ends_with("component.yaml");
            if *size > LARGEST_SOURCE || !(is_python || is_component) {
                continue;
            }
            let text = reader.read(path, content)?;
            let contains = |needle: &str| text.windows(needle.len()).any(|part| part == needle.as_bytes());
            if is_python && contains("DbtProject(") && contains("packaged_project_dir") {
                dbt.packaged.push(path.clone());
            }
            dbt.has_components |= is_component && contains("DbtProject");
            for folder in &outside {
                let name = folder.rsplit('/').next().unwrap_or(folder);
                if contains(name) && !dbt.beside.contains(folder) {
                    dbt.beside.push(folder.clone());
                }
            }
        }
        let has_manifest =
            |folder: &String| whole.is_some_and(|whole| whole.nodes.contains_key(&format!("{folder}/{MANIFEST}")));
        let missing = dbt.beside.iter().filter(|folder| !has_manifest(folder));
        dbt.folders.extend(missing.map(|folder| relative(&tree.folder, folder)));
        Ok(dbt)
    }

    /// The commands that write the manifests, if the environment has dbt. `dagster-dbt` imports the code, which often needs the manifest
    /// already, so `dbt parse` comes first.
    pub(super) fn commands(&self, lock: &str) -> Vec<String> {
        let has = |package: &str| lock.lines().any(|line| line.starts_with(package));
        if !has("dbt-core==") {
            return vec![];
        }
        let parse = |folder: &String| {
            let enter = if folder.is_empty() { String::new() } else { format!("cd {} && ", quoted(folder)) };
            format!("{enter}if [ -f packages.yml ] || [ -f dependencies.yml ]; then dbt deps; fi && dbt parse")
        };
        let dagster = has("dagster-dbt==");
        let packaged =
            self.packaged.iter().filter(|_| dagster).map(|file| format!("{PREPARE} --file {}", quoted(file)));
        let components = (dagster && self.has_components).then(|| format!("{PREPARE} --components ."));
        self.folders.iter().map(parse).chain(packaged).chain(components).collect()
    }

    /// What the author of the repository may have to do, if nothing prepares the projects.
    pub(super) fn notes(&self) -> Vec<String> {
        let note = |folder: &String| {
            let path = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            format!(
                "the commit has no {path}{MANIFEST}, which dbt writes; if the code reads it, add `dbt parse` to `build.commands` in the config, \
                 or commit the file"
            )
        };
        self.folders.iter().map(note).collect()
    }
}

/// The folders of dbt projects in a tree. With `unprepared`, only those without a manifest.
fn projects(tree: &Tree, unprepared: bool) -> Vec<String> {
    let mut folders = Vec::new();
    for path in tree.nodes.keys() {
        let Some(folder) = path.strip_suffix("dbt_project.yml").filter(|rest| rest.is_empty() || rest.ends_with('/'))
        else {
            continue;
        };
        let is_package = folder.split('/').any(|part| part == "dbt_packages" || part == "dbt_modules");
        let is_prepared = tree.nodes.contains_key(&format!("{folder}{MANIFEST}"));
        if is_package || (unprepared && is_prepared) {
            continue;
        }
        folders.push(folder.trim_end_matches('/').to_owned());
    }
    folders
}

/// A word for `sh`.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_need_dbt_in_the_environment() {
        let dbt = Dbt {
            folders: vec!["a".to_owned()],
            beside: vec![],
            packaged: vec!["it's.py".to_owned()],
            has_components: true,
        };
        assert!(dbt.commands("dagster==1\ndbt-duckdb==1\n").is_empty());
        let parse = "cd 'a' && if [ -f packages.yml ] || [ -f dependencies.yml ]; then dbt deps; fi && dbt parse";
        assert_eq!(dbt.commands("dbt-core==1.10.0\n"), [parse]);
        let expected = [
            parse,
            r"dagster-dbt project prepare-and-package --file 'it'\''s.py'",
            "dagster-dbt project prepare-and-package --components .",
        ];
        assert_eq!(dbt.commands("dagster-dbt==0.29.1 --hash=sha256:1\ndbt-core==1.10.0\n"), expected);
        assert!(dbt.notes()[0].starts_with("the commit has no a/target/manifest.json"));
    }
}
