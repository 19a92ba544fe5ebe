//! Decides how Dagster loads the code of a commit, from its paths and its pyproject.toml. Pure.
//!
//! A file inside a package is loaded as a module, because relative imports fail if Dagster loads it as a file. Dagster starts in the folder
//! of the project, as on the machine of its author; Python finds the modules in the folders that [`Loaded::search`] names.

use std::collections::BTreeSet;

use codeloc_core::image::{CODE_FOLDER, Load, LoadTarget};
use codeloc_crds::CodePointer;

use crate::error::BuildError;
use crate::project::declared::is_identifier;
use crate::project::files::{is_within, parent, upwards, within};

/// The location's project. Folders are relative to the root of the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The folder of the project, or empty.
    pub folder: String,
    /// Folders in which packages of the project are.
    pub roots: Vec<String>,
    /// The text of its pyproject.toml.
    pub pyproject: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub load: Load,
    /// Folders in which Python searches after all others, relative to the root of the code.
    pub search: Vec<String>,
}

/// `files` are paths relative to the root of the code.
///
/// Errors are terminal: the commit does not contain the file.
pub(super) fn load(code: &CodePointer, files: &BTreeSet<&str>, known: &Known) -> Result<Loaded, BuildError> {
    let mut search: Vec<String> = known.roots.clone();
    let mut add = |folder: &str| {
        if !search.iter().any(|other| other == folder) {
            search.push(folder.to_owned());
        }
    };
    let target = match code {
        CodePointer::Module(module) => {
            if let Some(root) = root_of_module(module, files, known) {
                add(&root);
            }
            LoadTarget::Module(module.clone())
        }
        CodePointer::PythonFile(file) => {
            let file = file.trim_start_matches("./");
            if !files.contains(file) {
                return Err(BuildError::terminal(missing_file(file, files)));
            }
            if let Some((root, module)) = module_of(file, files, known) {
                add(&root);
                // Modules may also import each other from the folder above the package, unless it has another package with the first name.
                let above = parent(outermost_package(parent(file), files));
                let top = within(above, module.split('.').next().unwrap_or(&module));
                if root == above || !module_files(&top).iter().any(|path| files.contains(path.as_str())) {
                    add(above);
                }
                LoadTarget::Module(module)
            } else {
                add(parent(file));
                LoadTarget::File(format!("{CODE_FOLDER}/{file}"))
            }
        }
    };
    add(&known.folder);
    add("");
    let working_directory = format!("{CODE_FOLDER}/{}", known.folder).trim_end_matches('/').to_owned();
    Ok(Loaded { load: Load { target, working_directory }, search })
}

/// Folders that may be the root of modules, the deepest first.
fn roots<'a>(files: &BTreeSet<&str>, known: &'a Known) -> Vec<&'a str> {
    let mut roots: Vec<&str> = known.roots.iter().map(String::as_str).collect();
    roots.push(&known.folder);
    if !files.contains("src/__init__.py") {
        roots.push("src");
    }
    roots.push("");
    roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
    roots.dedup();
    roots
}

/// The folder of the repository in which Python finds a module.
fn root_of_module(module: &str, files: &BTreeSet<&str>, known: &Known) -> Option<String> {
    let top = module.split('.').next().unwrap_or(module);
    let contains = |root: &&str| {
        let (folder, file) = (format!("{}/", within(root, top)), format!("{}.py", within(root, top)));
        files.contains(file.as_str())
            || files.range(folder.as_str()..).next().is_some_and(|path| path.starts_with(&folder))
    };
    // The folder of the project comes first, as for Python.
    let mut roots = roots(files, known);
    roots.sort_by_key(|root| *root != known.folder);
    roots.into_iter().find(contains).map(str::to_owned)
}

/// The root and the dotted name of the module in a file, if its folder is a package or pyproject.toml names the module.
fn module_of(file: &str, files: &BTreeSet<&str>, known: &Known) -> Option<(String, String)> {
    let folder = parent(file);
    let mut roots: Vec<String> = roots(files, known).into_iter().map(str::to_owned).collect();
    roots.extend(upwards(folder).filter(|above| is_project(above, files)).flat_map(|above| {
        let src = within(above, "src");
        let has_src = !files.contains(within(&src, "__init__.py").as_str());
        has_src.then_some(src).into_iter().chain([above.to_owned()])
    }));
    roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
    let mut candidates = roots.iter().filter(|root| is_within(root, folder) && root.as_str() != folder);
    // A folder without `__init__.py` above the package is a namespace.
    if files.contains(within(folder, "__init__.py").as_str())
        && let Some((root, module)) = candidates.find_map(|root| Some((root, dotted(root, file)?)))
    {
        return Some((root.clone(), module));
    }
    // A project may use a folder without `__init__.py` as a package, if pyproject.toml names a module of this file.
    let module = known.pyproject.as_deref().and_then(declared_module)?;
    let root = roots.iter().find(|root| module_paths(root, &module).iter().any(|path| path == file))?;
    Some((root.clone(), module))
}

/// Whether a folder has the files of a Python project. Its packages are imported from there.
fn is_project(folder: &str, files: &BTreeSet<&str>) -> bool {
    ["pyproject.toml", "setup.py", "setup.cfg"].iter().any(|name| files.contains(within(folder, name).as_str()))
}

/// The outermost folder of the package: the one above it has no `__init__.py`.
fn outermost_package<'a>(folder: &'a str, files: &BTreeSet<&str>) -> &'a str {
    let mut outermost = folder;
    while !parent(outermost).is_empty() && files.contains(within(parent(outermost), "__init__.py").as_str()) {
        outermost = parent(outermost);
    }
    outermost
}

/// The module in a file below a root. A file in the root itself stays a file: a module named `types` would be the one of the standard library.
fn dotted(root: &str, file: &str) -> Option<String> {
    let relative = file.strip_prefix(root)?.trim_start_matches('/').strip_suffix(".py")?;
    let (folders, stem) = relative.rsplit_once('/')?;
    if !folders.split('/').all(is_identifier) {
        return None;
    }
    let package = folders.replace('/', ".");
    if stem == "__init__" {
        return Some(package);
    }
    is_identifier(stem).then(|| format!("{package}.{stem}"))
}

/// The module that pyproject.toml names: `[tool.dagster] module_name`, else the one that `[tool.dg.project]` implies.
fn declared_module(pyproject: &str) -> Option<String> {
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
        CodePointer::Module(module) => ["", "src"].iter().flat_map(|root| module_paths(root, module)).collect(),
    };
    let other_paths = paths(other);
    paths(one).iter().any(|path| other_paths.contains(path))
}

fn module_paths(root: &str, module: &str) -> [String; 2] {
    module_files(&within(root, &module.replace('.', "/")))
}

fn module_files(path: &str) -> [String; 2] {
    [format!("{path}.py"), format!("{path}/__init__.py")]
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

    fn known(folder: &str, roots: &[&str], pyproject: Option<&str>) -> Known {
        Known {
            folder: folder.to_owned(),
            roots: roots.iter().map(|root| (*root).to_owned()).collect(),
            pyproject: pyproject.map(str::to_owned),
        }
    }

    fn loaded(file: &str, files: &[&str], known: &Known) -> (String, String, Vec<String>) {
        let code = CodePointer::PythonFile(file.to_owned());
        let Loaded { load, search } = load(&code, &files.iter().copied().collect(), known).unwrap();
        let target = match load.target {
            LoadTarget::Module(module) => format!("module {module}"),
            LoadTarget::File(path) => format!("file {path}"),
        };
        (target, load.working_directory, search)
    }

    fn expect(actual: &(String, String, Vec<String>), target: &str, search: &[&str]) {
        assert_eq!(
            (actual.0.as_str(), actual.2.iter().map(String::as_str).collect::<Vec<_>>()),
            (target, search.to_vec())
        );
    }

    #[test]
    fn a_file_inside_a_package_is_loaded_as_a_module() {
        let files =
            ["quick/__init__.py", "quick/definitions.py", "quick/sub/__init__.py", "quick/sub/defs.py", "setup.py"];
        let none = Known::default();
        expect(&loaded("quick/definitions.py", &files, &none), "module quick.definitions", &[""]);
        expect(&loaded("./quick/sub/defs.py", &files, &none), "module quick.sub.defs", &[""]);
        expect(&loaded("quick/__init__.py", &files, &none), "module quick", &[""]);
        assert_eq!(loaded("quick/__init__.py", &files, &none).1, "/opt/codeloc/code");
    }

    #[test]
    fn a_package_in_src_is_found_from_the_folder_of_the_project() {
        let files = ["src/hooli/__init__.py", "src/hooli/definitions.py", "src/loose.py"];
        for known in [Known::default(), known("", &["src"], None)] {
            let hooli = loaded("src/hooli/definitions.py", &files, &known);
            expect(&hooli, "module hooli.definitions", &["src", ""]);
            assert_eq!(hooli.1, "/opt/codeloc/code");
            expect(&loaded("src/loose.py", &files, &known), "file /opt/codeloc/code/src/loose.py", &["src", ""]);
        }
        let files = ["src/__init__.py", "src/definitions.py"];
        expect(&loaded("src/definitions.py", &files, &Known::default()), "module src.definitions", &[""]);
    }

    #[test]
    fn a_namespace_package_is_part_of_the_name_of_its_modules() {
        let files = ["src/acme/etl/__init__.py", "src/acme/etl/definitions.py", "a/b/__init__.py", "a/b/c.py"];
        let actual = loaded("src/acme/etl/definitions.py", &files, &Known::default());
        expect(&actual, "module acme.etl.definitions", &["src", "src/acme", ""]);
        let files = ["src/shop/shop/__init__.py", "src/shop/shop/definitions.py"];
        let actual = loaded("src/shop/shop/definitions.py", &files, &Known::default());
        expect(&actual, "module shop.shop.definitions", &["src", ""]);
        let files = ["a/b/__init__.py", "a/b/c.py"];
        // Modules of a folder that is no package may also import the package from there.
        expect(&loaded("a/b/c.py", &files, &Known::default()), "module a.b.c", &["", "a"]);
    }

    #[test]
    fn a_package_is_imported_from_the_folder_of_its_project() {
        // The folder above has the name of the package.
        let files =
            ["tutorial/setup.py", "tutorial/tutorial/__init__.py", "tutorial/tutorial/definitions.py", "example.py"];
        let actual = loaded("tutorial/tutorial/definitions.py", &files, &Known::default());
        expect(&actual, "module tutorial.definitions", &["tutorial", ""]);
        let files = ["etl/pyproject.toml", "etl/src/shop/__init__.py", "etl/src/shop/definitions.py"];
        let actual = loaded("etl/src/shop/definitions.py", &files, &Known::default());
        expect(&actual, "module shop.definitions", &["etl/src", ""]);
    }

    #[test]
    fn a_project_in_a_folder_is_loaded_from_there() {
        let files = ["packages/app/src/app/__init__.py", "packages/app/src/app/definitions.py"];
        let known = known("packages/app", &["packages/app/src", "packages/lib"], None);
        let actual = loaded("packages/app/src/app/definitions.py", &files, &known);
        expect(&actual, "module app.definitions", &["packages/app/src", "packages/lib", "packages/app", ""]);
        assert_eq!(actual.1, "/opt/codeloc/code/packages/app");
    }

    #[test]
    fn a_file_outside_a_package_stays_a_file() {
        let files = ["definitions.py", "jobs/definitions.py", "my-jobs/__init__.py", "my-jobs/defs.py"];
        let none = Known::default();
        expect(&loaded("definitions.py", &files, &none), "file /opt/codeloc/code/definitions.py", &[""]);
        expect(
            &loaded("jobs/definitions.py", &files, &none),
            "file /opt/codeloc/code/jobs/definitions.py",
            &["jobs", ""],
        );
        expect(&loaded("my-jobs/defs.py", &files, &none), "file /opt/codeloc/code/my-jobs/defs.py", &["my-jobs", ""]);
    }

    #[test]
    fn pyproject_can_name_the_module_of_a_file_without_init() {
        let files = ["jobs/definitions.py", "other/definitions.py"];
        let dagster = "[tool.dagster]\nmodule_name = 'jobs.definitions'\n";
        let dg = "[tool.dg.project]\nroot_module = 'jobs'\n";
        for pyproject in [dagster, dg] {
            let known = known("", &[], Some(pyproject));
            expect(&loaded("jobs/definitions.py", &files, &known), "module jobs.definitions", &[""]);
            let other = loaded("other/definitions.py", &files, &known);
            assert_eq!(other.0, "file /opt/codeloc/code/other/definitions.py");
        }
        let invalid = known("", &[], Some("not toml ["));
        assert_eq!(loaded("jobs/definitions.py", &files, &invalid).0, "file /opt/codeloc/code/jobs/definitions.py");
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
    fn a_module_is_searched_in_the_project_and_then_in_its_roots() {
        let at = |module: &str, files: &[&str], known: &Known| {
            load(&CodePointer::Module(module.to_owned()), &files.iter().copied().collect(), known).unwrap().search
        };
        assert_eq!(at("hooli.defs", &["src/hooli/defs.py"], &Known::default()), ["src", ""]);
        assert_eq!(at("hooli", &["src/hooli.py"], &Known::default()), ["src", ""]);
        assert_eq!(at("hooli.defs", &["hooli/defs.py", "src/hooli/defs.py"], &Known::default()), [""]);
        assert_eq!(at("installed.package", &["readme.md"], &Known::default()), [""]);
        assert_eq!(at("app.defs", &["lib/app/defs.py"], &known("", &["lib"], None)), ["lib", ""]);
    }

    #[test]
    fn a_missing_file_is_reported_with_similar_paths() {
        let files = BTreeSet::from(["pipeline/definitions.py", "pipeline/assets.py", "README.md"]);
        let message =
            |file: &str| expect_terminal(load(&CodePointer::PythonFile(file.to_owned()), &files, &Known::default()));
        let text = message("my_pipeline/definitions.py");
        assert_eq!(
            text,
            "the commit has no file my_pipeline/definitions.py (`python_file`); did you mean pipeline/definitions.py?"
        );
        assert!(message("zzz.py").ends_with("or to `subdirectory` if it is set"));
    }
}
