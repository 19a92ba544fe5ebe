//! Inspects a repository to write a config for it: finds definitions and dependencies. It executes no code of the repository.

use std::collections::BTreeMap;
use std::path::Path;

use codeloc_core::ids::Commit;
use codeloc_crds::{CodePointer, GitReference};
use codeloc_git::commit::FileText;
use codeloc_git::{Git, GitError};
use codeloc_images::{DEPENDENCY_FILES, LARGEST_TEXT, declared_module, dependencies_of, same_code, too_large};

/// Matches a Python file with definitions.
const DEFINITIONS: &str = r"(^|[^A-Za-z_])(Definitions|load_from_defs_folder|load_definitions_from_[a-z_]+)[(]|^@(dg[.])?(definitions|repository)";

/// The result of an inspection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub branch: String,
    pub commit: Commit,
    /// Possible places of the definitions, the most likely first.
    pub code: Vec<CodePointer>,
    /// The file from which a build takes the dependencies.
    pub dependencies: Option<String>,
    /// Errors that a build would report.
    pub warnings: Vec<String>,
}

/// Fetches `branch`, or the default branch, into a bare repository and inspects it. Paths are relative to `subdirectory`.
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
    let (mut texts, mut warnings, mut unread) = (BTreeMap::new(), Vec::new(), None);
    for file in DEPENDENCY_FILES {
        match git.read_below(bare, &commit, &root, file, LARGEST_TEXT).await? {
            Some(FileText::Whole(text)) => {
                texts.insert(file.to_owned(), text);
            }
            Some(FileText::TooLarge(size)) => {
                warnings.push(too_large(file, size));
                if texts.is_empty() {
                    unread.get_or_insert_with(|| file.to_owned());
                }
            }
            None => {}
        }
    }
    let mut code = Vec::new();
    if let Some(module) = texts.get("pyproject.toml").and_then(|text| declared_module(text)) {
        code.push(CodePointer::Module(module));
    }
    let mut files = git.search(bare, &commit, DEFINITIONS, &format!("{root}*.py")).await?;
    files.retain_mut(|path| match path.strip_prefix(&root) {
        Some(inside) => {
            *path = inside.to_owned();
            !is_test(path) && !is_template(path)
        }
        None => false,
    });
    files.sort_by_key(|path| (rank(path), path.matches('/').count(), path.clone()));
    for file in files.into_iter().map(CodePointer::PythonFile) {
        if !code.iter().any(|other| same_code(other, &file)) {
            code.push(file);
        }
    }
    let dependencies = dependencies_of(&texts);
    warnings.extend(dependencies.refused);
    Ok(Found { branch, commit, code, dependencies: unread.or(dependencies.file), warnings })
}

/// Whether a path belongs to a project template (cookiecutter, copier, Jinja) with placeholders in its names.
fn is_template(path: &str) -> bool {
    ["{{", "{%", "[["].iter().any(|mark| path.contains(mark))
}

fn is_test(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "tests" || part == "test" || part.starts_with("test_") || part.ends_with("_tests"))
}

/// A lower rank is more likely.
fn rank(path: &str) -> usize {
    let names = ["definitions.py", "defs.py", "repository.py", "__init__.py", "main.py"];
    let file = path.rsplit('/').next().unwrap_or(path);
    names.iter().position(|name| *name == file).unwrap_or(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_likely_files_are_first() {
        let mut files = ["z.py", "a/b/definitions.py", "shop/__init__.py", "shop/definitions.py", "repository.py"];
        files.sort_by_key(|path| (rank(path), path.matches('/').count(), (*path).to_owned()));
        assert_eq!(files, ["shop/definitions.py", "a/b/definitions.py", "repository.py", "shop/__init__.py", "z.py"]);
        assert!(is_test("tests/test_x.py") && is_test("shop_tests/a.py") && !is_test("shop/contest.py"));
    }
}
