//! The projects of the repository as Python finds them: metadata in site-packages, scripts, and the folders of their packages. Pure.
//!
//! The packages themselves stay where they are in the code layer, as in an editable installation.

use std::collections::{BTreeMap, BTreeSet};

use codeloc_core::image::CODE_FOLDER;

use crate::packages::site_packages;
use crate::project::Project;
use crate::project::files::{below, is_within, relative};
use crate::scripts::{self, SCRIPTS_FOLDER};

/// The folder of projects outside the `subdirectory` of the location, without a leading slash.
pub(super) const PROJECTS_FOLDER: &str = "opt/codeloc/projects";
/// Names the folders in which Python searches after its own and after site-packages.
const PATH_FILE: &str = "codeloc_code.pth";

/// A file that codeloc writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub text: String,
    pub executable: bool,
}

/// The path of a folder of the repository in the image, without a leading slash. `root` is the `subdirectory`. A folder next to it is next to
/// the code, so that code finds `../dbt_project`, unless codeloc has something there.
pub(super) fn in_image(root: &str, folder: &str) -> String {
    const OWN: [&str; 4] = ["code", "env", "platform", "projects"];
    let base = CODE_FOLDER.trim_start_matches('/').trim_end_matches("code");
    let relative = relative(root, folder);
    let path = match (below(root, folder), relative.strip_prefix("../")) {
        (Some(inside), _) => format!("{base}code/{inside}"),
        (None, Some(nearby))
            if !OWN.contains(&nearby.split('/').next().unwrap_or_default()) && !nearby.starts_with("..") =>
        {
            format!("{base}{nearby}")
        }
        (None, _) => format!("{PROJECTS_FOLDER}/{folder}"),
    };
    path.trim_matches('/').to_owned()
}

/// Those folders of projects that are outside of the `subdirectory`. None is inside another.
pub(super) fn outside<'a>(root: &str, folders: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let folders: BTreeSet<&str> = folders.filter(|folder| !is_within(root, folder)).collect();
    let is_covered = |folder: &str| folders.iter().any(|other| *other != folder && is_within(other, folder));
    folders.iter().copied().filter(|folder| !is_covered(folder)).collect()
}

/// The files that make projects importable, by path. `search` are folders of the repository in which Python also searches.
pub(super) fn files(root: &str, projects: &[Project], search: &[String], python: &str) -> BTreeMap<String, Written> {
    let site = site_packages(python);
    let mut files = BTreeMap::new();
    let mut add = |path: String, text: String, executable| files.insert(path, Written { text, executable });
    let mut folders = Vec::new();
    for folder in projects.iter().flat_map(|project| &project.roots).chain(search) {
        // Relative to site-packages, as Python reads a path file.
        let line = format!("../../../../{}", in_image(root, folder).trim_start_matches("opt/codeloc/"));
        if !folders.contains(&line) {
            folders.push(line);
        }
    }
    add(format!("{site}/{PATH_FILE}"), folders.join("\n") + "\n", false);
    for project in projects {
        let info = format!("{}-{}.dist-info", project.name.replace(['-', '.'], "_"), project.version.replace('-', "_"));
        let mut names = vec!["METADATA", "INSTALLER"];
        add(format!("{site}/{info}/METADATA"), metadata(project), false);
        add(format!("{site}/{info}/INSTALLER"), "codeloc\n".to_owned(), false);
        if !project.entry_points.is_empty() {
            names.push("entry_points.txt");
            add(format!("{site}/{info}/entry_points.txt"), entry_points(project), false);
        }
        names.push("RECORD");
        let record: Vec<String> = names.iter().map(|name| format!("{info}/{name},,\n")).collect();
        add(format!("{site}/{info}/RECORD"), record.concat(), false);
        for group in ["console_scripts", "gui_scripts"] {
            for (name, target) in project.entry_points.get(group).into_iter().flatten() {
                let target = target.split('[').next().unwrap_or(target).trim();
                let is_plain = |text: &str| {
                    !text.is_empty() && text.chars().all(|letter| letter.is_alphanumeric() || "_.".contains(letter))
                };
                if let Some((module, function)) = target.split_once(':')
                    && scripts::is_allowed(name)
                    && !name.contains('/')
                    && is_plain(module)
                    && is_plain(function)
                {
                    add(format!("{SCRIPTS_FOLDER}/{name}"), scripts::of_entry_point(module, function), true);
                }
            }
        }
    }
    files
}

fn metadata(project: &Project) -> String {
    let Project { name, version, requires_python, dependencies, .. } = project;
    let mut lines = vec!["Metadata-Version: 2.1".to_owned(), format!("Name: {name}"), format!("Version: {version}")];
    lines.extend(requires_python.iter().map(|specifier| format!("Requires-Python: {specifier}")));
    let dependencies = dependencies.iter().filter(|dependency| !dependency.starts_with('-'));
    lines.extend(dependencies.map(|dependency| format!("Requires-Dist: {dependency}")));
    lines.join("\n") + "\n"
}

fn entry_points(project: &Project) -> String {
    let section = |(group, entries): (&String, &BTreeMap<String, String>)| {
        let entries = entries.iter().map(|(name, target)| format!("{name} = {target}"));
        std::iter::once(format!("[{group}]")).chain(entries).collect::<Vec<_>>().join("\n") + "\n"
    };
    project.entry_points.iter().map(section).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(folder: &str, name: &str, roots: &[&str]) -> Project {
        let scripts = [("shop", "shop.cli:main"), ("python", "evil:main"), ("../x", "evil:main"), ("bad", "a b:c")];
        let scripts = scripts.map(|(name, target)| (name.to_owned(), target.to_owned())).into();
        Project {
            folder: folder.to_owned(),
            name: name.to_owned(),
            version: "1.2".to_owned(),
            requires_python: Some(">=3.10".to_owned()),
            dependencies: vec!["dagster".to_owned()],
            entry_points: [("console_scripts".to_owned(), scripts)].into(),
            roots: roots.iter().map(|root| (*root).to_owned()).collect(),
        }
    }

    #[test]
    fn projects_are_installed_from_their_folders() {
        let projects = [project("a/shop", "my-shop", &["a/shop/src"]), project("lib", "lib", &["lib"])];
        let files = files("a/shop", &projects, &["a/shop/src".to_owned(), "a/shop".to_owned()], "3.12");
        let site = "opt/codeloc/env/lib/python3.12/site-packages";
        assert_eq!(
            files[&format!("{site}/codeloc_code.pth")].text,
            "../../../../code/src\n../../../../projects/lib\n../../../../code\n"
        );
        let info = format!("{site}/my_shop-1.2.dist-info");
        assert!(
            files[&format!("{info}/METADATA")].text.contains("Name: my-shop\nVersion: 1.2\nRequires-Python: >=3.10\n")
        );
        assert!(files[&format!("{info}/entry_points.txt")].text.contains("[console_scripts]\n"));
        assert!(files[&format!("{info}/RECORD")].text.ends_with("my_shop-1.2.dist-info/RECORD,,\n"));
        let scripts: Vec<&String> = files.keys().filter(|path| path.starts_with(SCRIPTS_FOLDER)).collect();
        assert_eq!(scripts, ["opt/codeloc/env/bin/shop"]);
    }

    #[test]
    fn folders_of_the_repository_have_one_place_in_the_image() {
        assert_eq!(in_image("", "src"), "opt/codeloc/code/src");
        assert_eq!(in_image("a", "a"), "opt/codeloc/code");
        assert_eq!(in_image("a", "ab"), "opt/codeloc/ab");
        assert_eq!(in_image("a/b", "a/c/d"), "opt/codeloc/c/d");
        assert_eq!(in_image("a/b", "libs"), "opt/codeloc/projects/libs");
        assert_eq!(in_image("a", "env/x"), "opt/codeloc/projects/env/x");
        let folders = ["a", "libs", "libs/c"];
        assert_eq!(outside("a", folders.into_iter()), ["libs"]);
        assert!(outside("", folders.into_iter()).is_empty());
    }
}
