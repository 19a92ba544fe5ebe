//! Inspects a repository to write a config for it: finds definitions and dependencies. It executes no code of the repository.

use std::path::Path;

use codeloc_core::ids::Commit;
use codeloc_crds::{CodePointer, GitReference};
use codeloc_git::{Git, GitError};
use codeloc_images::{BuildSettings, DeclaredLocation, Survey, declared_locations, is_template, same_code, survey};

/// Matches a Python file with definitions.
const DEFINITIONS: &str = r"(^|[^A-Za-z_])(Definitions|load_from_defs_folder|load_definitions_from_[a-z_]+)[(]|^@(dg[.])?(definitions|repository)";

/// A repository with a fetched commit.
pub struct Repository<'a> {
    pub git: &'a Git,
    /// A bare repository for the commit.
    pub bare: &'a Path,
    pub commit: Commit,
    pub branch: String,
}

/// One location of a repository, as its config names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name that the repository gives it.
    pub name: Option<String>,
    pub subdirectory: Option<String>,
    pub code: CodePointer,
    pub attribute: Option<String>,
}

impl<'a> Repository<'a> {
    /// Fetches `branch`, or the default branch, into a bare repository.
    pub async fn fetch(git: &'a Git, bare: &'a Path, url: &str, branch: Option<&str>) -> Result<Self, GitError> {
        let branch = match branch {
            Some(branch) => branch.to_owned(),
            None => git.default_branch(url).await?,
        };
        let commit = git.fetch_ref(bare, url, &GitReference::Branch(branch.clone())).await?;
        Ok(Self { git, bare, commit, branch })
    }

    /// The locations that files of the repository declare, such as `workspace.yaml`.
    pub async fn declared(&self, subdirectory: Option<&str>) -> Vec<Candidate> {
        // A file that cannot be read declares nothing; a build reports why.
        let found = declared_locations(self.git, self.bare, &self.commit, subdirectory).await.unwrap_or_default();
        let candidate = |one: DeclaredLocation| Candidate {
            name: one.name,
            subdirectory: (!one.folder.is_empty()).then_some(one.folder),
            code: one.code,
            attribute: one.attribute,
        };
        found.into_iter().map(candidate).collect()
    }

    /// The files with definitions, the most likely first, relative to `subdirectory`.
    pub async fn definitions(&self, subdirectory: Option<&str>) -> Result<Vec<CodePointer>, GitError> {
        let root = subdirectory.map_or_else(String::new, |folder| format!("{}/", folder.trim_matches('/')));
        let mut files = self.git.search(self.bare, &self.commit, DEFINITIONS, &format!("{root}*.py")).await?;
        files.retain_mut(|path| match path.strip_prefix(&root) {
            Some(inside) => {
                *path = inside.to_owned();
                !is_test(path) && !is_template(path)
            }
            None => false,
        });
        files.sort_by_key(|path| (rank(path), path.matches('/').count(), path.clone()));
        Ok(files.into_iter().map(CodePointer::PythonFile).collect())
    }

    /// How a build would read the dependencies of a candidate.
    pub async fn survey(&self, candidate: &Candidate, settings: &BuildSettings) -> Survey {
        let subdirectory = candidate.subdirectory.as_deref();
        survey(self.git, self.bare, &self.commit, subdirectory, Some(&candidate.code), settings).await
    }
}

/// The definitions that are not of the chosen location.
pub fn others<'a>(found: &'a [CodePointer], chosen: &CodePointer) -> Vec<&'a CodePointer> {
    found.iter().filter(|other| !same_code(other, chosen)).collect()
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
        files.sort_by_key(|path| (rank(path), path.matches('/').count(), path.to_owned()));
        assert_eq!(files, ["shop/definitions.py", "a/b/definitions.py", "repository.py", "shop/__init__.py", "z.py"]);
        assert!(is_test("tests/test_x.py") && is_test("shop_tests/a.py") && !is_test("shop/contest.py"));
    }
}
