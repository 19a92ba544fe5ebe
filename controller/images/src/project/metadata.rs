//! What a folder of the repository says about its Python project, read without running it.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Files, join, within};
use super::setup_py::{self, Value};
use super::specifiers::from_poetry;
use crate::error::BuildError;
use crate::requirements::{line_of, normal_name, parse_toml};

/// One dependency, as the project writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// A requirement such as `pandas>=2`.
    pub text: String,
    pub file: String,
    pub line: usize,
    /// The place from which the project takes it, if not the package index.
    pub source: Option<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A folder, relative to the project.
    Path(String),
    /// Another member of the workspace.
    Workspace,
    /// The name or URL of a package index.
    Index(String),
    /// A git repository or a URL, as after the `@` of a requirement.
    Elsewhere(String),
}

/// The metadata of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// In which it was found.
    pub file: String,
    pub name: Option<String>,
    /// Absent if it comes from version control, which images do not have.
    pub version: Option<String>,
    pub requires_python: Option<String>,
    pub dependencies: Vec<Declared>,
    pub extras: BTreeMap<String, Vec<Declared>>,
    /// Groups of entry points: `name` → `module:attribute`.
    pub entry_points: BTreeMap<String, BTreeMap<String, String>>,
    /// Folders of the project in which its packages are, relative to it.
    pub roots: Vec<String>,
}

/// A folder as a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No file describes a project.
    Nothing,
    Static(Box<Metadata>),
    /// Only a run of the project's build shows its metadata: the file, and why.
    NeedsBuild(String, String),
}

/// Backends that compile: their packages cannot be imported from the source.
const COMPILING: [&str; 4] = ["maturin", "scikit_build_core", "mesonpy", "setuptools_rust"];

/// The metadata that the project's own build wrote: the texts of `METADATA` and of `entry_points.txt`. `file` says where the project is.
pub(super) fn of_build(file: &str, metadata: &str, entry_points: Option<&str>, roots: Vec<String>) -> Metadata {
    let mut found = Metadata { file: file.to_owned(), roots, ..Metadata::default() };
    // The description follows an empty line.
    for (number, line) in metadata.lines().take_while(|line| !line.is_empty()).enumerate() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match field {
            "Name" => found.name = Some(value.to_owned()),
            "Version" => found.version = Some(value.to_owned()),
            "Requires-Python" => found.requires_python = Some(value.to_owned()),
            "Requires-Dist" => {
                let line = number + 1;
                let (text, extra) = without_extra(value);
                let declared = Declared { text, file: format!("the metadata of {file}"), line, source: None };
                match extra {
                    None => found.dependencies.push(declared),
                    Some(extra) => found.extras.entry(normal_name(&extra)).or_default().push(declared),
                }
            }
            _ => {}
        }
    }
    let mut group = String::new();
    for line in entry_points.unwrap_or_default().lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.trim().clone_into(&mut group);
        } else if let Some((name, target)) = line.split_once('=').filter(|_| !group.is_empty()) {
            let entries: &mut BTreeMap<String, String> = found.entry_points.entry(group.clone()).or_default();
            entries.insert(name.trim().to_owned(), target.trim().to_owned());
        }
    }
    found
}

/// A requirement without the condition `extra == "x"` of its marker, and this extra.
fn without_extra(requirement: &str) -> (String, Option<String>) {
    let Some((head, marker)) = requirement.split_once(';') else { return (requirement.to_owned(), None) };
    let mut extra = None;
    let kept: Vec<&str> = marker
        .split(" and ")
        .map(str::trim)
        .filter(|clause| {
            let name = clause.strip_prefix("extra").map(|rest| rest.trim_start().trim_start_matches('=').trim());
            if let Some(name) = name {
                extra = Some(name.trim_matches(['"', '\'']).to_owned());
            }
            name.is_none()
        })
        .collect();
    let head = head.trim();
    (if kept.is_empty() { head.to_owned() } else { format!("{head} ; {}", kept.join(" and ")) }, extra)
}

/// Reads the project in a folder.
pub(super) fn read(files: &mut dyn Files, folder: &str) -> Result<Found, BuildError> {
    let path = within(folder, "pyproject.toml");
    let document = match files.text(&path)? {
        Some(text) => Some((parse_toml(&path, &text)?, text)),
        None => None,
    };
    if let Some((document, text)) = &document {
        let pyproject = Pyproject { path: &path, folder, document, text };
        if let Some(backend) = pyproject.text_at("build-system.build-backend")
            && COMPILING.iter().any(|one| backend.starts_with(one))
        {
            return Ok(Found::NeedsBuild(path.clone(), format!("its build backend is {backend}")));
        }
        if pyproject.at("project").is_some() {
            return pyproject.standard(files);
        }
        if pyproject.at("tool.poetry.dependencies").is_some() || pyproject.at("tool.poetry.name").is_some() {
            return pyproject.poetry(files).map(|metadata| Found::Static(Box::new(metadata)));
        }
        if pyproject.at("tool.flit.metadata").is_some() {
            return Ok(Found::NeedsBuild(path.clone(), "it describes the project in [tool.flit.metadata]".to_owned()));
        }
    }
    setuptools(files, folder)
}

struct Pyproject<'a> {
    path: &'a str,
    folder: &'a str,
    document: &'a toml::Table,
    text: &'a str,
}

/// A value in nested tables.
pub(super) fn at<'a>(document: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let start = document.get(first)?;
    rest.map_or(Some(start), |rest| rest.split('.').try_fold(start, |value, part| value.get(part)))
}

pub(super) fn strings(value: Option<&toml::Value>) -> Vec<String> {
    match value {
        Some(toml::Value::Array(values)) => values.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        Some(toml::Value::String(text)) => vec![text.clone()],
        _ => vec![],
    }
}

impl Pyproject<'_> {
    fn at(&self, path: &str) -> Option<&toml::Value> {
        at(self.document, path)
    }

    fn text_at(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str()
    }

    fn declared(&self, text: &str) -> Declared {
        Declared { text: text.to_owned(), file: self.path.to_owned(), line: line_of(self.text, text), source: None }
    }

    /// Requirements of a list such as `[project] dependencies`, with the sources of `[tool.uv.sources]` and of Poetry.
    fn list(&self, value: &toml::Value, what: &str) -> Result<Vec<Declared>, BuildError> {
        let invalid = || BuildError::terminal(format!("{}: {what} is not a list of strings", self.path));
        let entries = value.as_array().ok_or_else(invalid)?;
        entries
            .iter()
            .map(|entry| Ok(self.with_source(self.declared(entry.as_str().ok_or_else(invalid)?.trim()))))
            .collect()
    }

    fn with_source(&self, mut declared: Declared) -> Declared {
        let name = requirement_name(&declared.text);
        let table = |path: &str| self.at(path).and_then(toml::Value::as_table);
        let entry = ["tool.uv.sources", "tool.poetry.dependencies"]
            .into_iter()
            .find_map(|path| table(path)?.iter().find(|(key, _)| normal_name(key) == name).map(|(_, value)| value));
        // A list has one source for each marker.
        let entry = entry.and_then(|entry| entry.as_array().map_or(Some(entry), |entries| entries.first()));
        declared.source = entry.and_then(source);
        declared
    }

    fn standard(&self, files: &mut dyn Files) -> Result<Found, BuildError> {
        let dynamic = strings(self.at("project.dynamic"));
        let is_dynamic = |field: &str| dynamic.iter().any(|one| one == field);
        let mut metadata = Metadata {
            file: self.path.to_owned(),
            name: self.text_at("project.name").map(str::to_owned),
            version: self.text_at("project.version").map(str::to_owned),
            requires_python: self.text_at("project.requires-python").map(str::to_owned),
            roots: self.roots(files)?,
            ..Metadata::default()
        };
        if is_dynamic("version") || metadata.version.is_none() {
            metadata.version = self.dynamic_version(files, metadata.name.as_deref())?;
        }
        if let Some(value) = self.at("project.dependencies") {
            metadata.dependencies = self.list(value, "[project] dependencies")?;
        } else if is_dynamic("dependencies") {
            let Some(dependencies) = self.dynamic_dependencies(files)? else {
                let why = "it says `dynamic = [\"dependencies\"]`".to_owned();
                return Ok(Found::NeedsBuild(self.path.to_owned(), why));
            };
            metadata.dependencies = dependencies;
        }
        let extras = self.at("project.optional-dependencies").and_then(toml::Value::as_table);
        for (name, value) in extras.into_iter().flatten() {
            metadata.extras.insert(normal_name(name), self.list(value, "[project.optional-dependencies]")?);
        }
        metadata.entry_points = self.entry_points("project");
        Ok(Found::Static(Box::new(metadata)))
    }

    /// `table` is `project` or `tool.poetry`.
    fn entry_points(&self, table: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut groups: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut add = |group: &str, value: Option<&toml::Value>| {
            let entries = value.and_then(toml::Value::as_table).into_iter().flatten();
            let entries: BTreeMap<String, String> =
                entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
            if !entries.is_empty() {
                groups.insert(group.to_owned(), entries);
            }
        };
        add("console_scripts", self.at(&format!("{table}.scripts")));
        add("gui_scripts", self.at(&format!("{table}.gui-scripts")));
        let others = if table == "project" { "project.entry-points" } else { "tool.poetry.plugins" };
        for (group, value) in self.at(others).and_then(toml::Value::as_table).into_iter().flatten() {
            add(group, Some(value));
        }
        groups
    }

    /// The folders in which the packages of the project are, from the settings of its build backend.
    fn roots(&self, files: &mut dyn Files) -> Result<Vec<String>, BuildError> {
        let mut roots = BTreeSet::new();
        for package in strings(self.at("tool.hatch.build.targets.wheel.packages"))
            .into_iter()
            .chain(strings(self.at("tool.hatch.build.packages")))
        {
            roots.insert(package.trim_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder).to_owned());
        }
        roots.extend(strings(self.at("tool.hatch.build.targets.wheel.sources")));
        roots.extend(strings(self.at("tool.setuptools.packages.find.where")));
        roots.extend(strings(self.at("tool.setuptools.package-dir").and_then(|value| value.get(""))));
        roots.extend(strings(self.at("tool.uv.build-backend.module-root")));
        roots.extend(strings(self.at("tool.pdm.build.package-dir")));
        for package in self.at("tool.poetry.packages").and_then(toml::Value::as_array).into_iter().flatten() {
            roots.insert(package.get("from").and_then(toml::Value::as_str).unwrap_or_default().to_owned());
        }
        default_roots(files, self.folder, roots)
    }

    /// The version, if a file of the project has it.
    fn dynamic_version(&self, files: &mut dyn Files, name: Option<&str>) -> Result<Option<String>, BuildError> {
        let hatch = self.text_at("tool.hatch.version.path");
        let pdm = self.text_at("tool.pdm.version.path");
        let setuptools = self.at("tool.setuptools.dynamic.version");
        let file = setuptools.and_then(|value| strings(value.get("file")).into_iter().next());
        if let Some(file) = file {
            let text = self.text_of(files, &file)?;
            return Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()));
        }
        let mut candidates: Vec<String> = hatch.into_iter().chain(pdm).map(str::to_owned).collect();
        if let Some(attribute) = setuptools.and_then(|value| value.get("attr")?.as_str()) {
            candidates.extend(attribute_files(attribute));
        } else if self.text_at("build-system.build-backend") == Some("flit_core.buildapi")
            && let Some(name) = name
        {
            let module = name.replace('-', "_");
            candidates.extend([
                format!("src/{module}/__init__.py"),
                format!("{module}/__init__.py"),
                format!("{module}.py"),
            ]);
        }
        version_in(files, self.folder, &candidates)
    }

    /// Dependencies that a build backend reads from files of requirements, or from Poetry's own table.
    fn dynamic_dependencies(&self, files: &mut dyn Files) -> Result<Option<Vec<Declared>>, BuildError> {
        if self.at("tool.poetry.dependencies").is_some() {
            return self.poetry_dependencies("tool.poetry.dependencies").map(Some);
        }
        let lists = [
            self.at("tool.setuptools.dynamic.dependencies").and_then(|value| value.get("file")),
            self.at("tool.hatch.metadata.hooks.requirements_txt.files"),
        ];
        let names: Vec<String> = lists.into_iter().flat_map(strings).collect();
        if !names.is_empty() {
            return Ok(Some(names.iter().map(|name| self.declared(&format!("-r {name}"))).collect()));
        }
        match setuptools(files, self.folder)? {
            Found::Static(metadata) => Ok(Some(metadata.dependencies)),
            Found::Nothing | Found::NeedsBuild(..) => Ok(None),
        }
    }

    fn text_of(&self, files: &mut dyn Files, file: &str) -> Result<Option<String>, BuildError> {
        match join(self.folder, file) {
            Some(path) => files.text(&path),
            None => Ok(None),
        }
    }

    fn poetry(&self, files: &mut dyn Files) -> Result<Metadata, BuildError> {
        let python = self.at("tool.poetry.dependencies").and_then(|table| table.get("python")?.as_str());
        let mut extras = BTreeMap::new();
        let optional = self.optional_of_poetry()?;
        let table = self.at("tool.poetry.extras").and_then(toml::Value::as_table);
        for (name, members) in table.into_iter().flatten() {
            let members: BTreeSet<String> = strings(Some(members)).iter().map(|name| normal_name(name)).collect();
            let declared = optional.iter().filter(|one| members.contains(&requirement_name(&one.text)));
            extras.insert(normal_name(name), declared.cloned().collect());
        }
        Ok(Metadata {
            file: self.path.to_owned(),
            name: self.text_at("tool.poetry.name").map(str::to_owned),
            version: self.text_at("tool.poetry.version").map(str::to_owned),
            requires_python: python.and_then(|text| from_poetry(text).ok()),
            dependencies: self.poetry_dependencies("tool.poetry.dependencies")?,
            extras,
            entry_points: self.entry_points("tool.poetry"),
            roots: self.roots(files)?,
        })
    }

    fn optional_of_poetry(&self) -> Result<Vec<Declared>, BuildError> {
        let table = self.at("tool.poetry.dependencies").and_then(toml::Value::as_table);
        let is_optional = |value: &toml::Value| value.get("optional").and_then(toml::Value::as_bool) == Some(true);
        let entries = table.into_iter().flatten().filter(|(_, value)| is_optional(value));
        entries.map(|(name, value)| self.of_poetry(name, value)).collect()
    }

    /// The dependencies that are not optional.
    fn poetry_dependencies(&self, table: &str) -> Result<Vec<Declared>, BuildError> {
        let mut declared = Vec::new();
        for (name, value) in self.at(table).and_then(toml::Value::as_table).into_iter().flatten() {
            let is_optional = value.get("optional").and_then(toml::Value::as_bool) == Some(true);
            if normal_name(name) == "python" || is_optional {
                continue;
            }
            match value {
                toml::Value::Array(values) => {
                    for value in values {
                        declared.push(self.of_poetry(name, value)?);
                    }
                }
                value => declared.push(self.of_poetry(name, value)?),
            }
        }
        Ok(declared)
    }

    fn of_poetry(&self, name: &str, value: &toml::Value) -> Result<Declared, BuildError> {
        let text = |key: &str| value.get(key).and_then(toml::Value::as_str);
        let line = line_of(self.text, name);
        let constraint = value.as_str().or_else(|| text("version")).unwrap_or("*");
        let specifier =
            from_poetry(constraint).map_err(|reason| crate::requirements::refusal(self.path, line, name, &reason))?;
        let extras = strings(value.get("extras")).join(",");
        let extras = if extras.is_empty() { extras } else { format!("[{extras}]") };
        let mut marker: Vec<String> = text("markers").map(|marker| format!("({marker})")).into_iter().collect();
        if let Some(python) = text("python").and_then(|text| from_poetry(text).ok()) {
            marker.extend(python.split(',').filter(|clause| !clause.is_empty()).map(python_marker));
        }
        let marker = if marker.is_empty() { String::new() } else { format!(" ; {}", marker.join(" and ")) };
        Ok(Declared {
            text: format!("{name}{extras}{specifier}{marker}"),
            file: self.path.to_owned(),
            line,
            source: source(value),
        })
    }
}

fn python_marker(clause: &str) -> String {
    let version = clause.trim_start_matches(['<', '>', '=', '!', '~']);
    format!("python_version {} '{version}'", &clause[..clause.len() - version.len()])
}

/// The source in an entry of `[tool.uv.sources]` or of `[tool.poetry.dependencies]`.
fn source(entry: &toml::Value) -> Option<Source> {
    let text = |key: &str| entry.get(key).and_then(toml::Value::as_str);
    if let Some(path) = text("path") {
        return Some(Source::Path(path.to_owned()));
    }
    if entry.get("workspace").and_then(toml::Value::as_bool) == Some(true) {
        return Some(Source::Workspace);
    }
    if let Some(index) = text("index").or_else(|| text("source")) {
        return Some(Source::Index(index.to_owned()));
    }
    if let Some(url) = text("git") {
        // Poetry and uv also accept `git@host:path`, which codeloc refuses later.
        let revision = ["rev", "tag", "branch"].iter().find_map(|key| text(key)).map(|revision| format!("@{revision}"));
        let folder = text("subdirectory").map(|folder| format!("#subdirectory={folder}"));
        let url = if url.contains("://") { format!("git+{url}") } else { url.to_owned() };
        return Some(Source::Elsewhere(format!("{url}{}{}", revision.unwrap_or_default(), folder.unwrap_or_default())));
    }
    let other = ["url", "hg", "svn", "file"].iter().find_map(|key| text(key));
    other.map(|url| Source::Elsewhere(url.to_owned()))
}

/// The name at the beginning of a requirement, in normal form.
pub(super) fn requirement_name(text: &str) -> String {
    let end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || "-_.".contains(letter)));
    normal_name(&text[..end.unwrap_or(text.len())])
}

/// The roots that a project sets; without any, `src` if the project has it, else the project's folder.
fn default_roots(files: &mut dyn Files, folder: &str, roots: BTreeSet<String>) -> Result<Vec<String>, BuildError> {
    let mut existing = Vec::new();
    for root in roots {
        let Some(path) = join(folder, &root) else { continue };
        if path == folder || !files.names(&path)?.is_empty() {
            existing.push(super::files::relative(folder, &path));
        }
    }
    if existing.is_empty() {
        let names = files.names(folder)?;
        existing.push(if names.iter().any(|name| name == "src/") { "src" } else { "." }.to_owned());
    }
    Ok(existing)
}

/// Files that may define the attribute `package.module.__version__`.
fn attribute_files(attribute: &str) -> Vec<String> {
    let module = attribute.rsplit_once('.').map_or("", |(module, _)| module).replace('.', "/");
    ["", "src/"].iter().flat_map(|root| [format!("{root}{module}.py"), format!("{root}{module}/__init__.py")]).collect()
}

/// The constant `__version__` or `VERSION` in the first of the files that has one.
fn version_in(files: &mut dyn Files, folder: &str, candidates: &[String]) -> Result<Option<String>, BuildError> {
    for candidate in candidates {
        let Some(path) = join(folder, candidate) else { continue };
        let Some(text) = files.text(&path)? else { continue };
        let constant = text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            let name = name.split(':').next()?.trim();
            if !["__version__", "VERSION", "version"].contains(&name) {
                return None;
            }
            let value = value.trim();
            let quote = value.chars().next().filter(|letter| ['"', '\''].contains(letter))?;
            value[1..].split(quote).next().map(str::to_owned)
        });
        if constant.is_some() {
            return Ok(constant);
        }
    }
    Ok(None)
}

/// A project that setuptools describes: setup.cfg, setup.py or both.
fn setuptools(files: &mut dyn Files, folder: &str) -> Result<Found, BuildError> {
    let (config, script) = (within(folder, "setup.cfg"), within(folder, "setup.py"));
    let (config_text, script_text) = (files.text(&config)?, files.text(&script)?);
    if config_text.is_none() && script_text.is_none() {
        return Ok(Found::Nothing);
    }
    let mut metadata = Metadata { file: config.clone(), ..Metadata::default() };
    let mut roots = BTreeSet::new();
    let (mut has_metadata, mut names_version) = (false, false);
    if let Some(text) = &config_text {
        let sections = ini(text);
        let get = |section: &str, key: &str| sections.get(section).and_then(|section| section.get(key)).cloned();
        has_metadata = get("metadata", "name").is_some() || sections.contains_key("options");
        metadata.name = get("metadata", "name");
        names_version = get("metadata", "version").is_some();
        metadata.requires_python = get("options", "python_requires");
        metadata.version = match get("metadata", "version") {
            Some(text) => match text.split_once(':') {
                Some(("attr", attribute)) => version_in(files, folder, &attribute_files(attribute.trim()))?,
                Some(("file", file)) => match join(folder, file.trim()) {
                    Some(path) => files.text(&path)?.map(|text| text.trim().to_owned()),
                    None => None,
                },
                _ => Some(text),
            },
            None => None,
        };
        let declared = |value: &str| -> Vec<Declared> {
            let lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(|line| declared_in(&config, text, line)).collect()
        };
        metadata.dependencies = get("options", "install_requires").map(|text| declared(&text)).unwrap_or_default();
        for (name, value) in sections.get("options.extras_require").into_iter().flatten() {
            metadata.extras.insert(normal_name(name), declared(value));
        }
        for (group, value) in sections.get("options.entry_points").into_iter().flatten() {
            metadata.entry_points.insert(group.clone(), entries(value.lines()));
        }
        roots.extend(get("options.packages.find", "where"));
        let folders = get("options", "package_dir").unwrap_or_default();
        roots.extend(entries(folders.lines()).remove(""));
    }
    if let Some(text) = &script_text {
        let arguments = match setup_py::arguments(text) {
            Ok(arguments) => arguments,
            Err(line) => {
                return Ok(Found::NeedsBuild(script, format!("line {line} computes what it passes to `setup`")));
            }
        };
        if let Some(name) = ["ext_modules", "cmdclass", "setup_requires", "rust_extensions", "use_scm_version"]
            .iter()
            .find(|name| arguments.contains_key(**name))
        {
            return Ok(Found::NeedsBuild(script, format!("it passes {name} to `setup`")));
        }
        has_metadata |= !arguments.is_empty();
        names_version |= arguments.contains_key("version");
        if let Some(unread) = from_arguments(&script, text, &arguments, &mut metadata, &mut roots) {
            return Ok(Found::NeedsBuild(script, format!("its argument {unread} is not a constant")));
        }
    }
    if !has_metadata {
        return Ok(Found::Nothing);
    }
    // As setuptools does.
    if metadata.name.is_some() && !names_version {
        metadata.version = Some("0.0.0".to_owned());
    }
    metadata.roots = default_roots(files, folder, roots)?;
    Ok(Found::Static(Box::new(metadata)))
}

fn declared_in(file: &str, text: &str, line: &str) -> Declared {
    Declared { text: line.to_owned(), file: file.to_owned(), line: line_of(text, line), source: None }
}

/// Adds the arguments of `setup`. Returns the name of one that is not of the expected kind.
fn from_arguments<'a>(
    script: &str,
    text: &str,
    arguments: &'a BTreeMap<String, Value>,
    metadata: &mut Metadata,
    roots: &mut BTreeSet<String>,
) -> Option<&'a str> {
    if !arguments.is_empty() {
        script.clone_into(&mut metadata.file);
    }
    for (name, value) in arguments {
        let is_read = match (name.as_str(), value) {
            ("name", Value::Text(name)) => {
                metadata.name = Some(name.clone());
                true
            }
            ("version", Value::Text(version)) => {
                metadata.version = Some(version.clone());
                true
            }
            ("python_requires", Value::Text(specifier)) => {
                metadata.requires_python = Some(specifier.clone());
                true
            }
            ("install_requires", value) => value.lines().is_some_and(|lines| {
                metadata.dependencies = lines.iter().map(|line| declared_in(script, text, line)).collect();
                true
            }),
            ("extras_require", Value::Table(table)) => table.iter().all(|(name, value)| {
                value.lines().is_some_and(|lines| {
                    let declared = lines.iter().map(|line| declared_in(script, text, line)).collect();
                    metadata.extras.insert(normal_name(name), declared);
                    true
                })
            }),
            ("entry_points", Value::Table(table)) => table.iter().all(|(group, value)| {
                value.lines().is_some_and(|lines| {
                    metadata.entry_points.insert(group.clone(), entries(lines.iter().map(String::as_str)));
                    true
                })
            }),
            ("package_dir", Value::Table(table)) => {
                roots.extend(table.get("").and_then(Value::text).map(str::to_owned));
                true
            }
            ("name" | "version" | "extras_require" | "entry_points" | "package_dir", _) => false,
            _ => true,
        };
        if !is_read {
            return Some(name);
        }
    }
    None
}

/// Lines `name = value`.
fn entries<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

/// The sections of a setup.cfg, as Python's `configparser` reads them.
fn ini(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let (mut section, mut key) = (String::new(), None::<String>);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(value) = key.as_ref().and_then(|key| sections.get_mut(&section)?.get_mut(key)) {
                value.push('\n');
                value.push_str(trimmed);
            }
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
            sections.entry(section.clone()).or_default();
            key = None;
            continue;
        }
        let Some(end) = trimmed.find(['=', ':']) else { continue };
        let name = trimmed[..end].trim().replace('-', "_").to_ascii_lowercase();
        sections.entry(section.clone()).or_default().insert(name.clone(), trimmed[end + 1..].trim().to_owned());
        key = Some(name);
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::files::tests::Memory;

    fn found(files: &[(&str, &str)]) -> Found {
        read(&mut Memory::new(files), "").unwrap()
    }

    fn metadata(files: &[(&str, &str)]) -> Metadata {
        match found(files) {
            Found::Static(metadata) => *metadata,
            other => panic!("{other:?}"),
        }
    }

    fn texts(metadata: &Metadata) -> Vec<&str> {
        metadata.dependencies.iter().map(|declared| declared.text.as_str()).collect()
    }

    #[test]
    fn a_standard_project_is_read() {
        let text = "[project]\nname = 'Shop'\nversion = '1.2'\nrequires-python = '>=3.10'\ndependencies = [\n  'dagster',\n  'lib',\n  'mine',\n]\n\
                    [project.scripts]\nshop = 'shop.cli:main'\n[project.entry-points.'dagster_dg_cli.registry_modules']\nshop = 'shop.components'\n\
                    [project.optional-dependencies]\nDev_Tools = ['pytest']\n\
                    [tool.uv.sources]\nLib = { workspace = true }\nmine = { index = 'corp' }\n";
        let metadata = metadata(&[("pyproject.toml", text), ("src/shop/__init__.py", "")]);
        assert_eq!((metadata.name.as_deref(), metadata.version.as_deref()), (Some("Shop"), Some("1.2")));
        assert_eq!(texts(&metadata), ["dagster", "lib", "mine"]);
        assert_eq!(metadata.dependencies[1].source, Some(Source::Workspace));
        assert_eq!(metadata.dependencies[2].source, Some(Source::Index("corp".to_owned())));
        assert_eq!(metadata.dependencies[0].line, 6);
        assert_eq!(metadata.entry_points["console_scripts"]["shop"], "shop.cli:main");
        assert_eq!(metadata.entry_points["dagster_dg_cli.registry_modules"]["shop"], "shop.components");
        assert_eq!(metadata.extras["dev-tools"].len(), 1);
        assert_eq!(metadata.roots, ["src"]);
    }

    #[test]
    fn the_roots_are_those_of_the_build_backend() {
        for (settings, roots) in [
            ("[tool.hatch.build.targets.wheel]\npackages = ['python/shop', 'shop2']", vec![".", "python"]),
            ("[tool.setuptools.packages.find]\nwhere = ['python']", vec!["python"]),
            ("[tool.setuptools]\npackage-dir = {'' = 'python'}", vec!["python"]),
            ("[[tool.poetry.packages]]\ninclude = 'shop'\nfrom = 'python'", vec!["python"]),
            ("[tool.uv.build-backend]\nmodule-root = ''", vec!["."]),
            ("[tool.setuptools.packages.find]\nwhere = ['absent']", vec!["."]),
            ("[tool.pdm.build]\npackage-dir = '../..'", vec!["."]),
        ] {
            let text = format!("[project]\nname = 'shop'\nversion = '1'\n{settings}\n");
            let metadata =
                metadata(&[("pyproject.toml", &text), ("python/shop/__init__.py", ""), ("shop2/__init__.py", "")]);
            assert_eq!(metadata.roots, roots, "{settings}");
        }
    }

    #[test]
    fn a_dynamic_version_is_found_in_its_file() {
        let project = |rest: &str| format!("[project]\nname = 'shop'\ndynamic = ['version']\n{rest}\n");
        for (settings, path, text, version) in [
            ("[tool.hatch.version]\npath = 'shop/about.py'", "shop/about.py", "__version__ = '2.1'\n", Some("2.1")),
            (
                "[tool.setuptools.dynamic]\nversion = {attr = 'shop.__version__'}",
                "src/shop/__init__.py",
                "__version__: str = \"3\"",
                Some("3"),
            ),
            ("[tool.setuptools.dynamic]\nversion = {file = 'VERSION'}", "VERSION", "4.0\n", Some("4.0")),
            (
                "[build-system]\nbuild-backend = 'flit_core.buildapi'",
                "shop/__init__.py",
                "__version__ = '5'",
                Some("5"),
            ),
            ("[tool.setuptools_scm]", "shop/__init__.py", "", None),
        ] {
            let metadata = metadata(&[("pyproject.toml", &project(settings)), (path, text)]);
            assert_eq!(metadata.version.as_deref(), version, "{settings}");
        }
    }

    #[test]
    fn dynamic_dependencies_come_from_files_or_from_a_build() {
        let project =
            |rest: &str| format!("[project]\nname = 'shop'\nversion = '1'\ndynamic = ['dependencies']\n{rest}\n");
        let read = |rest: &str| found(&[("pyproject.toml", &project(rest))]);
        for rest in [
            "[tool.setuptools.dynamic]\ndependencies = {file = ['requirements.txt']}",
            "[tool.hatch.metadata.hooks.requirements_txt]\nfiles = ['requirements.txt']",
        ] {
            let Found::Static(metadata) = read(rest) else { panic!() };
            assert_eq!(texts(&metadata), ["-r requirements.txt"]);
        }
        assert!(matches!(read("[tool.custom]"), Found::NeedsBuild(..)));
        let compiled = "[project]\nname = 'x'\n[build-system]\nbuild-backend = 'maturin'\n";
        assert!(matches!(found(&[("pyproject.toml", compiled)]), Found::NeedsBuild(..)));
    }

    #[test]
    fn a_project_of_poetry_is_read() {
        let text = "[tool.poetry]\nname = 'shop'\nversion = '0.1'\n[tool.poetry.dependencies]\npython = '^3.10'\ndagster = '^1.7'\n\
                    pandas = { version = '>=2', extras = ['aws'], markers = \"os_name == 'posix'\", python = '>=3.9' }\n\
                    lib = { path = '../lib', develop = true }\nmine = { version = '*', source = 'corp' }\nextra = { version = '1.0', optional = true }\n\
                    [tool.poetry.extras]\nmore = ['extra']\n[tool.poetry.scripts]\nshop = 'shop:main'\n[tool.poetry.group.dev.dependencies]\npytest = '*'\n";
        let metadata = metadata(&[("pyproject.toml", text)]);
        assert_eq!(
            texts(&metadata),
            ["dagster>=1.7,<2", "lib", "mine", "pandas[aws]>=2 ; (os_name == 'posix') and python_version >= '3.9'"]
        );
        assert_eq!(metadata.dependencies[1].source, Some(Source::Path("../lib".to_owned())));
        assert_eq!(metadata.dependencies[2].source, Some(Source::Index("corp".to_owned())));
        assert_eq!(metadata.extras["more"][0].text, "extra==1.0");
        assert_eq!(metadata.requires_python.as_deref(), Some(">=3.10,<4"));
        assert_eq!(metadata.entry_points["console_scripts"]["shop"], "shop:main");
    }

    #[test]
    fn projects_of_setuptools_are_read() {
        let script = "from setuptools import find_packages, setup\nsetup(name='etl', packages=find_packages(), install_requires=['dagster', 'humanize==4.9.0'],\n extras_require={'dev': ['pytest']})\n";
        let with_script = metadata(&[
            ("setup.py", script),
            ("setup.cfg", "[metadata]\nname = etl\n"),
            ("pyproject.toml", "[tool.dagster]\n"),
        ]);
        assert_eq!(texts(&with_script), ["dagster", "humanize==4.9.0"]);
        let config = "[metadata]\nname = etl\nversion = attr: etl.__version__\n\n[options]\npackage_dir =\n    = src\ninstall_requires =\n    dagster\n    # comment\n    pandas>=2\n\
                      [options.entry_points]\nconsole_scripts =\n    etl = etl.cli:main\n";
        let with_config = metadata(&[
            ("setup.cfg", config),
            ("setup.py", "import setuptools\nsetuptools.setup()"),
            ("src/etl/__init__.py", "__version__ = '7'\n"),
        ]);
        assert_eq!((texts(&with_config), with_config.version.as_deref()), (vec!["dagster", "pandas>=2"], Some("7")));
        assert_eq!(with_config.roots, ["src"]);
        assert_eq!(with_config.entry_points["console_scripts"]["etl"], "etl.cli:main");
        let computed = found(&[("setup.py", "from setuptools import setup\nsetup(install_requires=open('r').read())")]);
        let Found::NeedsBuild(file, why) = computed else { panic!() };
        assert_eq!((file.as_str(), why.as_str()), ("setup.py", "line 2 computes what it passes to `setup`"));
        assert_eq!(found(&[("setup.cfg", "[flake8]\nmax-line-length = 100\n")]), Found::Nothing);
        assert_eq!(found(&[("pyproject.toml", "[tool.ruff]\n")]), Found::Nothing);
    }
}
