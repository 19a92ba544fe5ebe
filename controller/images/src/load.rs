//! Decides how Dagster loads the code of a commit, from its paths and its pyproject.toml. Pure.
//!
//! A file inside a package is loaded as a module, because relative imports fail if Dagster loads it as a file.

use std::collections::BTreeSet;

use codeloc_core::image::{CODE_FOLDER, Load, LoadTarget};
use codeloc_crds::CodePointer;

use crate::error::BuildError;

/// `files` are paths relative to the root; `pyproject` is the text of the root's pyproject.toml.
///
/// Errors are terminal: the commit does not contain the file.
pub(super) fn load(code: &CodePointer, files: &BTreeSet<&str>, pyproject: Option<&str>) -> Result<Load, BuildError> {
    match code {
        CodePointer::Module(module) => Ok(load_module(module, files)),
        CodePointer::PythonFile(file) => {
            let file = file.trim_start_matches("./");
            if !files.contains(file) {
                return Err(BuildError::terminal(missing_file(file, files)));
            }
            let root = if file.starts_with("src/") && !files.contains("src/__init__.py") { "src/" } else { "" };
            if let Some(module) = package_module(root, file, files) {
                return Ok(module_in(root, module));
            }
            // A project may use a folder without `__init__.py` as a package, if pyproject.toml names a module of this file.
            if let Some(module) = pyproject.and_then(declared_module)
                && module_paths(root, &module).iter().any(|path| path == file)
            {
                return Ok(module_in(root, module));
            }
            Ok(Load {
                target: LoadTarget::File(format!("{CODE_FOLDER}/{file}")),
                working_directory: working_directory(root),
            })
        }
    }
}

fn load_module(module: &str, files: &BTreeSet<&str>) -> Load {
    let top = module.split('.').next().unwrap_or(module);
    let contains = |root: &str| {
        let folder = format!("{root}{top}/");
        let file = format!("{root}{top}.py");
        files.contains(file.as_str())
            || files.range(folder.as_str()..).next().is_some_and(|path| path.starts_with(&folder))
    };
    let root = if !contains("") && contains("src/") { "src/" } else { "" };
    module_in(root, module.to_owned())
}

fn module_in(root: &str, module: String) -> Load {
    Load { target: LoadTarget::Module(module), working_directory: working_directory(root) }
}

fn working_directory(root: &str) -> String {
    format!("{CODE_FOLDER}/{root}").trim_end_matches('/').to_owned()
}

/// The dotted module name, if the file is in a folder below the root and all these folders are packages. A file in the
/// root itself stays a file: a module named `types` would be the one of the standard library.
fn package_module(root: &str, file: &str, files: &BTreeSet<&str>) -> Option<String> {
    let relative = file.strip_prefix(root)?.strip_suffix(".py")?;
    let (folders, stem) = relative.rsplit_once('/')?;
    let mut folder = root.to_owned();
    for part in folders.split('/') {
        folder.push_str(part);
        folder.push('/');
        if !is_identifier(part) || !files.contains(format!("{folder}__init__.py").as_str()) {
            return None;
        }
    }
    let package = folders.replace('/', ".");
    if stem == "__init__" {
        return Some(package);
    }
    is_identifier(stem).then(|| format!("{package}.{stem}"))
}

fn is_identifier(part: &str) -> bool {
    let mut letters = part.chars();
    letters.next().is_some_and(|letter| letter == '_' || letter.is_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
}

/// The module that pyproject.toml names: `[tool.dagster] module_name`, else the one that `[tool.dg.project]` implies.
pub fn declared_module(pyproject: &str) -> Option<String> {
    let document: toml::Table = pyproject.parse().ok()?;
    let tool = document.get("tool")?;
    let text = |table: &str, key: &str| -> Option<String> {
        let table = table.split('.').try_fold(tool, |value, part| value.get(part))?;
        table.get(key)?.as_str().map(str::to_owned)
    };
    text("dagster", "module_name")
        .or_else(|| text("dg.project", "code_location_target_module"))
        .or_else(|| text("dg.project", "root_module").map(|root| format!("{root}.definitions")))
        .filter(|module| module.split('.').all(is_identifier))
}

/// Whether two code pointers load the same file.
pub fn same_code(one: &CodePointer, other: &CodePointer) -> bool {
    let paths = |code: &CodePointer| match code {
        CodePointer::PythonFile(file) => vec![file.trim_start_matches("./").to_owned()],
        CodePointer::Module(module) => ["", "src/"].iter().flat_map(|root| module_paths(root, module)).collect(),
    };
    let other_paths = paths(other);
    paths(one).iter().any(|path| other_paths.contains(path))
}

fn module_paths(root: &str, module: &str) -> [String; 2] {
    let path = module.replace('.', "/");
    [format!("{root}{path}.py"), format!("{root}{path}/__init__.py")]
}

fn missing_file(file: &str, files: &BTreeSet<&str>) -> String {
    let mut similar: Vec<(&str, f64)> = files
        .iter()
        .filter(|path| std::path::Path::new(path).extension().is_some_and(|extension| extension == "py"))
        .map(|path| {
            let same_name = path.rsplit('/').next() == file.rsplit('/').next();
            (*path, strsim::jaro_winkler(path, file) + if same_name { 1.0 } else { 0.0 })
        })
        .filter(|(_, score)| *score > 0.8)
        .collect();
    similar.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(right.0)));
    let names: Vec<&str> = similar.iter().take(3).map(|(path, _)| *path).collect();
    if names.is_empty() {
        format!(
            "the commit has no file {file} (`python_file`); write the path relative to the repository root, or to \
             `subdirectory` if it is set"
        )
    } else {
        format!("the commit has no file {file} (`python_file`); did you mean {}?", names.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;

    fn loaded(file: &str, files: &[&str], pyproject: Option<&str>) -> (String, String) {
        let load =
            load(&CodePointer::PythonFile(file.to_owned()), &files.iter().copied().collect(), pyproject).unwrap();
        let target = match load.target {
            LoadTarget::Module(module) => format!("module {module}"),
            LoadTarget::File(path) => format!("file {path}"),
        };
        (target, load.working_directory)
    }

    fn expect(actual: &(String, String), target: &str, working_directory: &str) {
        assert_eq!((actual.0.as_str(), actual.1.as_str()), (target, working_directory));
    }

    #[test]
    fn a_file_inside_a_package_is_loaded_as_a_module() {
        let files =
            ["quick/__init__.py", "quick/definitions.py", "quick/sub/__init__.py", "quick/sub/defs.py", "setup.py"];
        expect(&loaded("quick/definitions.py", &files, None), "module quick.definitions", "/opt/codeloc/code");
        expect(&loaded("./quick/sub/defs.py", &files, None), "module quick.sub.defs", "/opt/codeloc/code");
        expect(&loaded("quick/__init__.py", &files, None), "module quick", "/opt/codeloc/code");
    }

    #[test]
    fn a_src_layout_has_src_as_working_directory() {
        let files = ["src/hooli/__init__.py", "src/hooli/definitions.py", "src/loose.py"];
        expect(&loaded("src/hooli/definitions.py", &files, None), "module hooli.definitions", "/opt/codeloc/code/src");
        expect(&loaded("src/loose.py", &files, None), "file /opt/codeloc/code/src/loose.py", "/opt/codeloc/code/src");
        let files = ["src/__init__.py", "src/definitions.py"];
        expect(&loaded("src/definitions.py", &files, None), "module src.definitions", "/opt/codeloc/code");
    }

    #[test]
    fn a_file_outside_a_package_stays_a_file() {
        let files = [
            "definitions.py",
            "jobs/definitions.py",
            "my-jobs/__init__.py",
            "my-jobs/defs.py",
            "a/b/__init__.py",
            "a/b/c.py",
        ];
        expect(&loaded("definitions.py", &files, None), "file /opt/codeloc/code/definitions.py", "/opt/codeloc/code");
        expect(
            &loaded("jobs/definitions.py", &files, None),
            "file /opt/codeloc/code/jobs/definitions.py",
            "/opt/codeloc/code",
        );
        expect(&loaded("my-jobs/defs.py", &files, None), "file /opt/codeloc/code/my-jobs/defs.py", "/opt/codeloc/code");
        expect(&loaded("a/b/c.py", &files, None), "file /opt/codeloc/code/a/b/c.py", "/opt/codeloc/code");
    }

    #[test]
    fn pyproject_can_name_the_module_of_a_file_without_init() {
        let files = ["jobs/definitions.py", "other/definitions.py"];
        let dagster = "[tool.dagster]\nmodule_name = 'jobs.definitions'\n";
        let dg = "[tool.dg.project]\nroot_module = 'jobs'\n";
        for pyproject in [dagster, dg] {
            let actual = loaded("jobs/definitions.py", &files, Some(pyproject));
            expect(&actual, "module jobs.definitions", "/opt/codeloc/code");
            let actual = loaded("other/definitions.py", &files, Some(pyproject));
            expect(&actual, "file /opt/codeloc/code/other/definitions.py", "/opt/codeloc/code");
        }
        expect(
            &loaded("jobs/definitions.py", &files, Some("not toml [")),
            "file /opt/codeloc/code/jobs/definitions.py",
            CODE_FOLDER,
        );
    }

    #[test]
    fn pyproject_can_name_the_module() {
        for (pyproject, module) in [
            ("[tool.dagster]\nmodule_name = 'shop'\n", Some("shop")),
            ("[tool.dg.project]\nroot_module = 'shop'\n", Some("shop.definitions")),
            (
                "[tool.dg.project]\nroot_module = 'shop'\ncode_location_target_module = 'shop.entry'\n",
                Some("shop.entry"),
            ),
            ("[tool.dagster]\nmodule_name = '{{ cookiecutter.name }}.definitions'\n", None),
            ("[project]\nname = 'shop'\n", None),
        ] {
            assert_eq!(declared_module(pyproject).as_deref(), module, "{pyproject}");
        }
    }

    #[test]
    fn a_module_and_its_file_are_the_same_code() {
        let (module, file) =
            (|name: &str| CodePointer::Module(name.to_owned()), |path: &str| CodePointer::PythonFile(path.to_owned()));
        assert!(same_code(&module("etl.definitions"), &file("src/etl/definitions.py")));
        assert!(same_code(&file("./etl/__init__.py"), &module("etl")));
        assert!(same_code(&module("etl"), &module("etl")));
        assert!(!same_code(&module("etl"), &file("etl/definitions.py")));
        assert!(!same_code(&file("a.py"), &file("b.py")));
    }

    #[test]
    fn a_module_is_searched_in_the_root_and_then_in_src() {
        let at = |module: &str, files: &[&str]| {
            load(&CodePointer::Module(module.to_owned()), &files.iter().copied().collect(), None)
                .unwrap()
                .working_directory
        };
        assert_eq!(at("hooli.defs", &["src/hooli/defs.py"]), "/opt/codeloc/code/src");
        assert_eq!(at("hooli", &["src/hooli.py"]), "/opt/codeloc/code/src");
        assert_eq!(at("hooli.defs", &["hooli/defs.py", "src/hooli/defs.py"]), "/opt/codeloc/code");
        assert_eq!(at("installed.package", &["readme.md"]), "/opt/codeloc/code");
    }

    #[test]
    fn a_missing_file_is_reported_with_similar_paths() {
        let files = BTreeSet::from(["pipeline/definitions.py", "pipeline/assets.py", "README.md"]);
        let message = |file: &str| expect_terminal(load(&CodePointer::PythonFile(file.to_owned()), &files, None));
        let text = message("my_pipeline/definitions.py");
        assert_eq!(
            text,
            "the commit has no file my_pipeline/definitions.py (`python_file`); did you mean pipeline/definitions.py?"
        );
        assert!(message("zzz.py").ends_with("or to `subdirectory` if it is set"));
    }
}
