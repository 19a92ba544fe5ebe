//! The code locations that a repository declares for other tools: dg, `dagster dev`, Dagster+.

use codeloc_crds::CodePointer;
use serde_json::Value;

use super::files::{Files, join, parent, relative, within};
use super::metadata::{at, strings};
use crate::error::BuildError;
use crate::requirements::parse_toml;

/// A location that a file of the repository names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredLocation {
    pub name: Option<String>,
    /// The folder of the project, from the root of the repository; empty for the root.
    pub folder: String,
    /// Relative to the folder.
    pub code: CodePointer,
    pub attribute: Option<String>,
    /// The file that names it.
    pub file: String,
}

/// The locations that the files of a folder declare. A file that does not parse declares none.
pub(crate) fn locations(files: &mut dyn Files, root: &str) -> Result<Vec<DeclaredLocation>, BuildError> {
    for found in [dg_workspace(files, root)?, dagster_plus(files, root)?, workspace_yaml(files, root)?] {
        if !found.is_empty() {
            return found.into_iter().map(|one| completed(files, one)).collect();
        }
    }
    Ok(project(files, root)?.into_iter().collect())
}

/// Other tools may name only the package. The project's own settings name the module in it.
fn completed(files: &mut dyn Files, mut declared: DeclaredLocation) -> Result<DeclaredLocation, BuildError> {
    if let CodePointer::Module(package) = &declared.code
        && let Some(DeclaredLocation { code: CodePointer::Module(module), .. }) = project(files, &declared.folder)?
        && module.starts_with(&format!("{package}."))
    {
        declared.code = CodePointer::Module(module);
    }
    Ok(declared)
}

fn toml_at(files: &mut dyn Files, path: &str) -> Result<Option<toml::Table>, BuildError> {
    Ok(files.text(path)?.and_then(|text| parse_toml(path, &text).ok()))
}

fn yaml_at(files: &mut dyn Files, path: &str) -> Result<Option<Value>, BuildError> {
    Ok(files.text(path)?.and_then(|text| serde_saphyr::from_str(&text).ok()))
}

/// The module in `[tool.dagster]` or in the settings of dg, which may have their own file.
fn project(files: &mut dyn Files, folder: &str) -> Result<Option<DeclaredLocation>, BuildError> {
    let (pyproject, dg) = (within(folder, "pyproject.toml"), within(folder, "dg.toml"));
    for (file, prefix) in [(&dg, "project"), (&pyproject, "tool.dg.project")] {
        let Some(document) = toml_at(files, file)? else { continue };
        let text = |key: &str| at(&document, &format!("{prefix}.{key}")).and_then(toml::Value::as_str);
        let module = text("code_location_target_module").map(str::to_owned);
        let module = module.or_else(|| text("root_module").map(|module| format!("{module}.definitions")));
        if let Some(module) = module.filter(|module| is_module(module)) {
            let name = text("code_location_name").map(str::to_owned);
            return Ok(Some(location(name, folder, CodePointer::Module(module), file)));
        }
    }
    let Some(document) = toml_at(files, &pyproject)? else { return Ok(None) };
    let text = |key: &str| at(&document, &format!("tool.dagster.{key}")).and_then(toml::Value::as_str);
    let name = text("code_location_name").map(str::to_owned);
    if let Some(module) = text("module_name").filter(|module| is_module(module)) {
        return Ok(Some(location(name, folder, CodePointer::Module(module.to_owned()), &pyproject)));
    }
    let code = text("python_file").map(|file| CodePointer::PythonFile(file.to_owned()));
    Ok(code.map(|code| location(name, folder, code, &pyproject)))
}

fn location(name: Option<String>, folder: &str, code: CodePointer, file: &str) -> DeclaredLocation {
    DeclaredLocation { name, folder: folder.to_owned(), code, attribute: None, file: file.to_owned() }
}

/// Whether a text is a dotted name, and no placeholder of a project template.
fn is_module(text: &str) -> bool {
    text.split('.').all(is_identifier)
}

pub(crate) fn is_identifier(part: &str) -> bool {
    let mut letters = part.chars();
    letters.next().is_some_and(|letter| letter == '_' || letter.is_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
}

/// The projects of a dg workspace.
fn dg_workspace(files: &mut dyn Files, root: &str) -> Result<Vec<DeclaredLocation>, BuildError> {
    let mut locations = Vec::new();
    for (file, key) in [("dg.toml", "workspace.projects"), ("pyproject.toml", "tool.dg.workspace.projects")] {
        let Some(document) = toml_at(files, &within(root, file))? else { continue };
        for entry in at(&document, key).and_then(toml::Value::as_array).into_iter().flatten() {
            let path = strings(entry.get("path")).into_iter().next().unwrap_or_default();
            let Some(folder) = join(root, &path) else { continue };
            let Some(mut found) = project(files, &folder)? else { continue };
            found.name = found.name.or_else(|| folder.rsplit('/').next().map(str::to_owned));
            locations.push(found);
        }
    }
    Ok(locations)
}

/// The locations of a `dagster_cloud.yaml` or `build.yaml`.
fn dagster_plus(files: &mut dyn Files, root: &str) -> Result<Vec<DeclaredLocation>, BuildError> {
    for name in ["dagster_cloud.yaml", "dagster_cloud.yml", "build.yaml"] {
        let file = within(root, name);
        let Some(document) = yaml_at(files, &file)? else { continue };
        let mut locations = Vec::new();
        for entry in document["locations"].as_array().into_iter().flatten() {
            let source = &entry["code_source"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let code = text(&source["module_name"])
                .or_else(|| text(&source["package_name"]))
                .map(CodePointer::Module)
                .or_else(|| text(&source["python_file"]).map(CodePointer::PythonFile));
            let folder = [&entry["build"]["directory"], &entry["working_directory"]].into_iter().find_map(text);
            let Some(folder) = join(root, folder.as_deref().unwrap_or_default()) else { continue };
            let name = text(&entry["location_name"]);
            let Some(code) = code.or_else(|| Some(project(files, &folder).ok()??.code)) else { continue };
            locations.push(DeclaredLocation {
                attribute: text(&entry["attribute"]),
                ..location(name, &folder, code, &file)
            });
        }
        if !locations.is_empty() {
            return Ok(locations);
        }
    }
    Ok(vec![])
}

/// The code that a `workspace.yaml` loads.
fn workspace_yaml(files: &mut dyn Files, root: &str) -> Result<Vec<DeclaredLocation>, BuildError> {
    let file = within(root, "workspace.yaml");
    let Some(document) = yaml_at(files, &file)? else { return Ok(vec![]) };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut locations = Vec::new();
    for entry in document["load_from"].as_array().into_iter().flatten() {
        let module = ["python_module", "python_package"].iter().find_map(|key| entry.get(key));
        let (code, settings) = if let Some(module) = module {
            let name = module.as_str().map(str::to_owned);
            let name = name.or_else(|| text(module, "module_name")).or_else(|| text(module, "package_name"));
            (name.filter(|name| is_module(name)).map(CodePointer::Module), module)
        } else if let Some(python_file) = entry.get("python_file") {
            let path = python_file.as_str().map(str::to_owned).or_else(|| text(python_file, "relative_path"));
            (path.map(CodePointer::PythonFile), python_file)
        } else {
            continue;
        };
        let Some(code) = code else { continue };
        let folder = text(settings, "working_directory").unwrap_or_default();
        let Some(folder) = join(root, &folder) else { continue };
        // The path is relative to the workspace.yaml, not to the working directory.
        let code = match code {
            CodePointer::PythonFile(path) => match join(root, &path) {
                Some(path) => CodePointer::PythonFile(relative(&folder, &path)),
                None => continue,
            },
            module @ CodePointer::Module(_) => module,
        };
        let attribute = text(settings, "attribute");
        locations
            .push(DeclaredLocation { attribute, ..location(text(settings, "location_name"), &folder, code, &file) });
    }
    // A file outside the working directory is named from the root.
    for location in &mut locations {
        if let CodePointer::PythonFile(path) = &location.code
            && path.starts_with("../")
        {
            let path = join(&location.folder, path).unwrap_or_default();
            location.code = CodePointer::PythonFile(path);
            root.clone_into(&mut location.folder);
        }
    }
    Ok(locations)
}

/// The folder of a project template: its names contain placeholders.
pub fn is_template(path: &str) -> bool {
    ["{{", "{%", "[["].iter().any(|mark| path.contains(mark))
        || parent(path).split('/').any(|part| part == "__templates__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::files::tests::Memory;

    fn found(files: &[(&str, &str)]) -> Vec<(Option<String>, String, String)> {
        let code = |code: CodePointer| match code {
            CodePointer::Module(module) => format!("module {module}"),
            CodePointer::PythonFile(file) => format!("file {file}"),
        };
        let found = locations(&mut Memory::new(files), "").unwrap();
        found.into_iter().map(|one| (one.name, one.folder, code(one.code))).collect()
    }

    fn one(name: &str, folder: &str, code: &str) -> (Option<String>, String, String) {
        ((!name.is_empty()).then(|| name.to_owned()), folder.to_owned(), code.to_owned())
    }

    #[test]
    fn a_project_names_its_module() {
        for (file, text, expected) in [
            (
                "pyproject.toml",
                "[tool.dagster]\nmodule_name = 'shop'\ncode_location_name = 'Shop'\n",
                one("Shop", "", "module shop"),
            ),
            ("pyproject.toml", "[tool.dagster]\npython_file = 'defs.py'\n", one("", "", "file defs.py")),
            ("pyproject.toml", "[tool.dg.project]\nroot_module = 'shop'\n", one("", "", "module shop.definitions")),
            (
                "dg.toml",
                "[project]\nroot_module = 'shop'\ncode_location_target_module = 'shop.entry'\n",
                one("", "", "module shop.entry"),
            ),
        ] {
            assert_eq!(found(&[(file, text)]), [expected], "{text}");
        }
        assert!(found(&[("pyproject.toml", "[tool.dagster]\nmodule_name = '{{ cookiecutter.name }}'\n")]).is_empty());
        assert!(found(&[("pyproject.toml", "[project]\nname = 'x'\n")]).is_empty());
    }

    #[test]
    fn the_projects_of_a_workspace_are_locations() {
        let project = "[tool.dg.project]\nroot_module = 'a'\n";
        for (file, text) in [
            (
                "dg.toml",
                "[workspace]\n[[workspace.projects]]\npath = 'projects/a'\n[[workspace.projects]]\npath = '../x'\n",
            ),
            ("pyproject.toml", "[[tool.dg.workspace.projects]]\npath = 'projects/a'\n"),
        ] {
            let found = found(&[(file, text), ("projects/a/pyproject.toml", project)]);
            assert_eq!(found, [one("a", "projects/a", "module a.definitions")]);
        }
    }

    #[test]
    fn files_of_other_tools_name_locations() {
        let cloud = "locations:\n  - location_name: shop\n    code_source:\n      package_name: shop.defs\n    build:\n      directory: ./projects/shop\n  - location_name: etl\n    code_source: {python_file: etl.py}\n  - location_name: empty\n";
        assert_eq!(
            found(&[("dagster_cloud.yaml", cloud)]),
            [one("shop", "projects/shop", "module shop.defs"), one("etl", "", "file etl.py")]
        );
        let workspace = "load_from:\n  - python_module: shop\n  - python_module:\n      module_name: etl.definitions\n      working_directory: etl\n      location_name: ETL\n  - python_file:\n      relative_path: etl/defs.py\n      working_directory: etl\n  - python_file: other/defs.py\n  - grpc_server: {host: localhost}\n";
        assert_eq!(
            found(&[("workspace.yaml", workspace)]),
            [
                one("", "", "module shop"),
                one("ETL", "etl", "module etl.definitions"),
                one("", "etl", "file defs.py"),
                one("", "", "file other/defs.py"),
            ]
        );
        assert!(found(&[("workspace.yaml", "load_from: [")]).is_empty());
        // The project says which module of the package has the definitions.
        let cloud = "locations:\n  - {location_name: shop, code_source: {package_name: shop}}\n";
        let project = "[tool.dg.project]\nroot_module = 'shop'\n";
        let found = found(&[("dagster_cloud.yaml", cloud), ("pyproject.toml", project)]);
        assert_eq!(found, [one("shop", "", "module shop.definitions")]);
    }
}
