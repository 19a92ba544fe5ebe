//! A look into a user's repository, for whoever writes a config for it: where its definitions are, and what its dependencies are.
//! Nothing of it is executed.

use std::collections::BTreeMap;
use std::path::Path;

use codeloc_crds::{CodePointer, GitReference};

use super::{Git, GitError};
use crate::build::refused_dependencies;

/// Files of dependencies, in the order in which a build looks for them.
const DEPENDENCY_FILES: [&str; 4] = ["uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml"];
/// What makes a Python file one that holds definitions.
const DEFINES: &str = r"(^|[^A-Za-z_])(Definitions|load_from_defs_folder|load_definitions_from_[a-z_]+)[(]|^@(dg[.])?(definitions|repository)";

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub branch: String,
    pub commit: String,
    /// Where the definitions may be, the likeliest first.
    pub code: Vec<CodePointer>,
    /// The file that a build takes the dependencies from.
    pub dependencies: Option<String>,
    /// What a build would refuse.
    pub warnings: Vec<String>,
}

/// Fetches a branch, or the one that the repository starts with, into a bare folder and looks into it. Paths are relative to `subdirectory`.
pub async fn inspect(
    git: &Git,
    bare: &Path,
    url: &str,
    branch: Option<&str>,
    subdirectory: Option<&str>,
) -> Result<Found, GitError> {
    let branch = match branch {
        Some(branch) => branch.to_owned(),
        None => git.default_branch(url).await?,
    };
    let commit = git.fetch_ref(bare, url, &GitReference::Branch(branch.clone())).await?;
    let root = subdirectory.map_or_else(String::new, |folder| format!("{}/", folder.trim_matches('/')));
    let mut texts = BTreeMap::new();
    for file in DEPENDENCY_FILES {
        if let Some(text) = git.read_file(bare, &commit, &format!("{root}{file}")).await? {
            texts.insert(file.to_owned(), text);
        }
    }
    let mut code = Vec::new();
    if let Some(module) = texts.get("pyproject.toml").and_then(|text| named_module(text)) {
        code.push(CodePointer::Module(module));
    }
    let mut files = git.search(bare, &commit, DEFINES, &format!("{root}*.py")).await?;
    files.retain_mut(|path| match path.strip_prefix(&root) {
        Some(inside) => {
            *path = inside.to_owned();
            !is_test(path)
        }
        None => false,
    });
    files.sort_by_key(|path| (rank(path), path.matches('/').count(), path.clone()));
    code.extend(files.into_iter().map(CodePointer::PythonFile));
    let dependencies = DEPENDENCY_FILES.iter().find(|file| texts.contains_key(**file)).map(|file| (*file).to_owned());
    let warnings = refused_dependencies(&texts).into_iter().collect();
    Ok(Found { branch, commit, code, dependencies, warnings })
}

/// `[tool.dagster] module_name`, which Dagster's own tools go by; `[tool.dg.project] root_module` of newer projects.
fn named_module(pyproject: &str) -> Option<String> {
    let table: toml::Table = pyproject.parse().ok()?;
    let tool = table.get("tool")?;
    let dagster = tool.get("dagster").and_then(|dagster| dagster.get("module_name")).and_then(|name| name.as_str());
    let project =
        || tool.get("dg")?.get("project")?.get("root_module")?.as_str().map(|root| format!("{root}.definitions"));
    dagster.map(str::to_owned).or_else(project)
}

fn is_test(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "tests" || part == "test" || part.starts_with("test_") || part.ends_with("_tests"))
}

/// Smaller is likelier.
fn rank(path: &str) -> usize {
    let names = ["definitions.py", "defs.py", "repository.py", "__init__.py", "main.py"];
    let file = path.rsplit('/').next().unwrap_or(path);
    names.iter().position(|name| *name == file).unwrap_or(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelier_files_come_first() {
        let mut files = ["z.py", "a/b/definitions.py", "shop/__init__.py", "shop/definitions.py", "repository.py"];
        files.sort_by_key(|path| (rank(path), path.matches('/').count(), (*path).to_owned()));
        assert_eq!(files, ["shop/definitions.py", "a/b/definitions.py", "repository.py", "shop/__init__.py", "z.py"]);
        assert!(is_test("tests/test_x.py") && is_test("shop_tests/a.py") && !is_test("shop/contest.py"));
    }

    #[test]
    fn the_module_that_a_project_names_is_found() {
        assert_eq!(named_module("[tool.dagster]\nmodule_name = \"shop\"\n"), Some("shop".to_owned()));
        let newer = "[tool.dg.project]\nroot_module = \"shop\"\n";
        assert_eq!(named_module(newer), Some("shop.definitions".to_owned()));
        assert_eq!(named_module("[project]\nname = \"shop\"\n"), None);
    }
}
