//! Reads what a repository says about its Python project: the packages to install, and the projects of the repository itself.
//!
//! Guarantees: no code of the repository runs. A package that the project takes from another place than the package index is never taken
//! from the index silently. `codeloc add` and the build of an image use the same function, [`read`].

pub(crate) mod declared;
pub(crate) mod files;
mod locks;
mod metadata;
mod requirement_files;
mod setup_py;
mod specifiers;
#[cfg(test)]
mod tests;
mod workspace;

use std::collections::{BTreeMap, BTreeSet};

use codeloc_crds::CodePointer;
use serde::Deserialize;

use crate::error::BuildError;
use crate::requirements::{Direct, Pylock, Requirement, parse, parse_direct, parse_pylock, refusal};
pub use declared::DeclaredLocation;
use files::{Files, below, is_within, join, parent, upwards, within};
use metadata::{Declared, Found, Metadata, Source};
pub(crate) use specifiers::python_for;
pub(crate) use workspace::LockFile;
use workspace::Workspace;

/// What an image needs from the package index and from the repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The file that lists the packages.
    pub source: Option<String>,
    pub packages: Packages,
    /// The projects of the repository that the location imports, its own first.
    pub projects: Vec<Project>,
    /// The text of the pyproject.toml in the folder of the code.
    pub pyproject: Option<String>,
    /// Projects whose metadata only their own build shows. Until it has run, the plan lacks what they need.
    pub to_build: Vec<ToBuild>,
    /// What was found and is not read, and what to do about it.
    pub notes: Vec<String>,
}

/// A project of the repository whose build has to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToBuild {
    pub folder: String,
    /// Such as `setup.py: it computes install_requires`.
    pub why: String,
}

impl Plan {
    /// What other people's code has to run for, as far as the files say it.
    pub(crate) fn needs_isolation(&self) -> Vec<String> {
        let direct = match &self.packages {
            Packages::UvLock(_) => &[][..],
            Packages::Locked(locked) => &locked.direct,
            Packages::Open(open) => &open.direct,
        };
        let builds = self.to_build.iter().map(|project| project.why.clone());
        builds.chain(direct.iter().map(|direct| format!("source: {}", direct.name))).collect()
    }

    /// The packages that the location names itself, or that its lock has.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let packages = match &self.packages {
            Packages::UvLock(_) => &[][..],
            Packages::Locked(locked) => &locked.packages,
            Packages::Open(open) => &open.requirements,
        };
        let declared = self.projects.iter().flat_map(|project| &project.dependencies);
        let declared = declared.map(|text| metadata::requirement_name(text));
        packages.iter().map(|package| package.name.clone()).chain(declared).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packages {
    /// A `uv.lock`, which uv reads.
    UvLock(LockFile),
    /// A complete set with exact versions.
    Locked(Locked),
    /// Requirements that codeloc resolves.
    Open(Open),
}

/// The packages of a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locked {
    pub packages: Vec<Requirement>,
    /// Packages from version control or from URLs.
    pub direct: Vec<Direct>,
}

impl Default for Packages {
    fn default() -> Self {
        Self::Open(Open::default())
    }
}

/// Requirements to resolve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Open {
    pub requirements: Vec<Requirement>,
    /// Requirements from version control or from URLs.
    pub direct: Vec<Direct>,
    /// Restrict the versions of packages that are installed anyway.
    pub constraints: Vec<Requirement>,
    /// Replace what packages themselves require.
    pub overrides: Vec<Requirement>,
    /// The URL of the index that a package must come from, by name.
    pub origins: BTreeMap<String, String>,
    /// Added if there is a solution with them: what a project requires itself, if the packages come from another file.
    pub optional: Vec<Requirement>,
}

/// A project of the repository: it is imported from its folder, and installed as metadata only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Project {
    pub folder: String,
    pub name: String,
    pub version: String,
    pub requires_python: Option<String>,
    pub dependencies: Vec<String>,
    pub entry_points: BTreeMap<String, BTreeMap<String, String>>,
    /// The folders from which its packages are imported, from the root of the repository.
    pub roots: Vec<String>,
}

/// A project whose build backend ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct BuiltProject {
    pub folder: String,
    /// The text of `METADATA`.
    pub metadata: String,
    pub entry_points: Option<String>,
    /// From the root of the repository.
    pub roots: Vec<String>,
}

/// What the caller knows about the location.
pub(crate) struct Wanted<'a> {
    /// The `subdirectory` of the config, or empty.
    pub root: &'a str,
    /// The `dependencies` of the config.
    pub dependencies: Option<&'a str>,
    pub code: Option<&'a CodePointer>,
    /// The minor version of Python in the image; `None` if codeloc may choose one.
    pub python: Option<&'a str>,
    /// What builds of projects have shown.
    pub built: &'a [BuiltProject],
    /// Whether the operator allows a package index.
    pub allows_index: &'a dyn Fn(&str) -> bool,
}

/// The files that list dependencies, in order of preference.
pub const FORMS: [&str; 8] = [
    "uv.lock",
    "pylock.toml",
    "poetry.lock",
    "pdm.lock",
    "Pipfile.lock",
    "requirements.txt",
    "pyproject.toml",
    "setup.py",
];

/// Files that list dependencies and that codeloc does not read.
const UNREAD: [(&str, &str); 6] = [
    ("Pipfile", "commit the Pipfile.lock that `pipenv lock` writes"),
    ("environment.yml", "list the packages in requirements.txt"),
    ("environment.yaml", "list the packages in requirements.txt"),
    ("conda.yml", "list the packages in requirements.txt"),
    ("conda-lock.yml", "list the packages in requirements.txt"),
    ("pixi.lock", "list the packages in pyproject.toml"),
];

/// Reads the dependencies of a location.
pub(crate) fn read(files: &mut dyn Files, wanted: &Wanted<'_>) -> Result<Plan, BuildError> {
    let (folder, workspace) = own_project(files, wanted)?;
    let reader = Reader {
        files,
        wanted,
        workspace,
        open: Open::default(),
        projects: Vec::new(),
        seen: BTreeSet::new(),
        notes: Vec::new(),
        locked: BTreeSet::new(),
        to_build: Vec::new(),
    };
    let pyproject = reader.files.text(&within(&folder, "pyproject.toml"))?;
    Ok(Plan { pyproject, ..reader.read(&folder)? })
}

/// The folder and workspace of the project to which the code belongs: the nearest one that lists dependencies, unless the root does.
fn own_project(files: &mut dyn Files, wanted: &Wanted<'_>) -> Result<(String, Workspace), BuildError> {
    let root = wanted.root;
    let file = match wanted.code {
        Some(CodePointer::PythonFile(file)) => join(root, file),
        Some(CodePointer::Module(_)) | None => None,
    };
    let folder = file.as_deref().map_or(root, parent);
    for folder in upwards(folder).take_while(|folder| *folder != root && is_within(root, folder)) {
        if lists_dependencies(files, folder)? {
            let workspace = workspace::of(files, folder)?;
            if workspace.has_member(folder) || !lists_dependencies(files, root)? {
                return Ok((folder.to_owned(), workspace));
            }
            break;
        }
    }
    Ok((root.to_owned(), workspace::of(files, root)?))
}

fn lists_dependencies(files: &mut dyn Files, folder: &str) -> Result<bool, BuildError> {
    let names = files.names(folder)?;
    if FORMS.iter().any(|form| *form != "pyproject.toml" && names.iter().any(|name| name == form)) {
        return Ok(true);
    }
    Ok(match metadata::read(files, folder)? {
        Found::Nothing => false,
        Found::Static(metadata) => !metadata.dependencies.is_empty(),
        Found::NeedsBuild(..) => true,
    })
}

/// The locations that the files of a folder declare for other tools. Their working directory may be below the folder of the project.
pub(crate) fn declared_locations(files: &mut dyn Files, root: &str) -> Result<Vec<DeclaredLocation>, BuildError> {
    let declared = declared::locations(files, root)?;
    declared.into_iter().map(|one| in_its_project(files, root, one)).collect()
}

/// The same location, from the nearest folder that lists dependencies.
fn in_its_project(
    files: &mut dyn Files,
    root: &str,
    declared: DeclaredLocation,
) -> Result<DeclaredLocation, BuildError> {
    let mut folder = declared.folder.as_str();
    while !lists_dependencies(files, folder)? {
        if folder == root || folder.is_empty() {
            return Ok(declared);
        }
        folder = parent(folder);
    }
    if folder == declared.folder {
        return Ok(declared);
    }
    let paths = match &declared.code {
        CodePointer::PythonFile(file) => vec![file.clone()],
        CodePointer::Module(module) => {
            let path = module.replace('.', "/");
            vec![format!("{path}.py"), format!("{path}/__init__.py")]
        }
    };
    for path in paths.iter().filter_map(|path| join(&declared.folder, path)) {
        if let Some(file) = below(folder, &path)
            && files.exists(&path)?
        {
            let code = CodePointer::PythonFile(file.to_owned());
            return Ok(DeclaredLocation { folder: folder.to_owned(), code, ..declared });
        }
    }
    Ok(declared)
}

struct Reader<'a> {
    files: &'a mut dyn Files,
    wanted: &'a Wanted<'a>,
    workspace: Workspace,
    open: Open,
    projects: Vec<Project>,
    /// Folders and files that were read.
    seen: BTreeSet<String>,
    notes: Vec<String>,
    /// Packages with hashes, which no index can replace.
    locked: BTreeSet<String>,
    to_build: Vec<ToBuild>,
}

impl Reader<'_> {
    fn read(mut self, folder: &str) -> Result<Plan, BuildError> {
        let own = self.install_own(folder)?;
        if let Some(path) = self.wanted.dependencies {
            let file = join(self.wanted.root, path).filter(|file| !file.is_empty());
            let file = match file {
                Some(file) if self.files.exists(&file)? => file,
                _ => return Err(BuildError::terminal(format!("the commit has no file {path} (`dependencies`)"))),
            };
            let packages = self.packages(&file, own.as_ref())?;
            return Ok(self.plan(Some(file), packages));
        }
        let mut folders = vec![folder.to_owned()];
        if folder != self.wanted.root {
            folders.push(self.wanted.root.to_owned());
        }
        if let Some(lock) = self.workspace.lock.take() {
            let file = within(&lock.folder, "uv.lock");
            self.note_others(&folders, &file)?;
            self.local_projects_of_lock(&lock)?;
            return Ok(self.plan(Some(file), Packages::UvLock(lock)));
        }
        for folder in &folders {
            let names = self.files.names(folder)?;
            for form in FORMS.iter().skip(1).filter(|form| names.iter().any(|name| name == *form)) {
                let file = within(folder, form);
                // A link may lead to nothing.
                if self.files.text(&file)?.is_none() {
                    continue;
                }
                if matches!(*form, "pyproject.toml" | "setup.py") && !self.describes_a_project(folder)? {
                    continue;
                }
                self.note_others(&folders, &file)?;
                let mut packages = self.packages(&file, own.as_ref())?;
                if let Packages::Open(open) = &mut packages
                    && *form == "requirements.txt"
                {
                    (open.optional, open.origins) = self.requirements_of_project(folder)?;
                }
                return Ok(self.plan(Some(file), packages));
            }
            if names.iter().any(|name| name == "requirements.in") {
                let file = within(folder, "requirements.in");
                let packages = self.packages(&file, own.as_ref())?;
                return Ok(self.plan(Some(file), packages));
            }
            if let Some((name, remedy)) = UNREAD.iter().find(|(unread, _)| names.iter().any(|name| name == unread)) {
                return Err(BuildError::terminal(format!(
                    "codeloc does not read {}, and the project has no other list of packages; {remedy}",
                    within(folder, name)
                )));
            }
        }
        Ok(self.plan(None, Packages::default()))
    }

    /// What the project requires itself, besides a file of requirements. The file may be for something else.
    fn requirements_of_project(
        &mut self,
        folder: &str,
    ) -> Result<(Vec<Requirement>, BTreeMap<String, String>), BuildError> {
        match self.project_dependencies(folder) {
            Ok(()) => {
                let open = std::mem::take(&mut self.open);
                Ok((open.requirements, open.origins))
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                self.open = Open::default();
                self.notes.push(format!("codeloc reads only the file of requirements: {error}"));
                Ok((vec![], BTreeMap::new()))
            }
        }
    }

    fn plan(self, source: Option<String>, packages: Packages) -> Plan {
        let is_empty = matches!(&packages, Packages::Open(open) if open.requirements.is_empty() && open.optional.is_empty() && open.direct.is_empty());
        let source = source.filter(|_| !is_empty || !self.to_build.is_empty());
        let Self { projects, notes, to_build, .. } = self;
        Plan { source, packages, projects, to_build, notes, pyproject: None }
    }

    /// Whether the files of a folder describe a project, or at least dependencies.
    fn describes_a_project(&mut self, folder: &str) -> Result<bool, BuildError> {
        Ok(metadata::read(self.files, folder)? != Found::Nothing)
    }

    /// The project in a folder. If only its build shows its metadata and has not run, `None`, and the plan says so.
    fn project(&mut self, folder: &str) -> Result<Option<Metadata>, BuildError> {
        let (file, why) = match metadata::read(self.files, folder)? {
            Found::Nothing => return Ok(None),
            Found::Static(metadata) => return Ok(Some(*metadata)),
            Found::NeedsBuild(file, why) => (file, why),
        };
        if let Some(built) = self.wanted.built.iter().find(|built| built.folder == folder) {
            let roots = built.roots.iter().filter_map(|root| below(folder, root).map(str::to_owned)).collect();
            let entry_points = built.entry_points.as_deref();
            return Ok(Some(metadata::of_build(&file, &built.metadata, entry_points, roots)));
        }
        let to_build = ToBuild { folder: folder.to_owned(), why: format!("{file}: {why}") };
        if !self.to_build.contains(&to_build) {
            self.to_build.push(to_build);
        }
        Ok(None)
    }

    /// The location's own project. It is installed whatever lists its dependencies.
    fn install_own(&mut self, folder: &str) -> Result<Option<Metadata>, BuildError> {
        let Some(metadata) = self.project(folder)? else { return Ok(None) };
        self.seen.insert(folder.to_owned());
        self.add_project(folder, &metadata)?;
        Ok(Some(metadata))
    }

    /// Says which other lists of packages exist and are not read.
    fn note_others(&mut self, folders: &[String], read: &str) -> Result<(), BuildError> {
        for folder in folders {
            let names = self.files.names(folder)?;
            let has = |name: &str| names.iter().any(|one| one == name);
            for (name, _) in UNREAD.iter().filter(|(name, _)| has(name)) {
                self.notes
                    .push(format!("codeloc does not read {}: the packages come from {read}", within(folder, name)));
            }
            // A project without a lock of its own is what the lock belongs to.
            for form in FORMS.iter().take_while(|form| **form != "pyproject.toml").filter(|form| has(form)) {
                let file = within(folder, form);
                if file != read {
                    self.notes.push(format!("codeloc does not read {file}: the packages come from {read}"));
                }
            }
        }
        Ok(())
    }

    /// The packages that one file lists.
    fn packages(&mut self, file: &str, own: Option<&Metadata>) -> Result<Packages, BuildError> {
        let folder = parent(file).to_owned();
        let name = file.rsplit('/').next().unwrap_or(file);
        let text = self.files.text(file)?.unwrap_or_default();
        match name {
            "uv.lock" => {
                let lock = workspace::lock(self.files, &folder, &folder)?;
                let lock = lock.ok_or_else(|| BuildError::terminal(format!("the commit has no file {file}")))?;
                self.local_projects_of_lock(&lock)?;
                return Ok(Packages::UvLock(lock));
            }
            "poetry.lock" | "pdm.lock" => {
                let pins = locks::pins(file, &text)?;
                self.locked.extend(pins.iter().filter(|pin| !pin.hashes.is_empty()).map(|pin| pin.name.clone()));
                self.open.constraints.extend(pins);
                self.project_dependencies(&folder)?;
            }
            "Pipfile.lock" => {
                let packages = locks::pipfile(file, &text)?;
                return Ok(Packages::Locked(Locked { packages, direct: vec![] }));
            }
            "pyproject.toml" | "setup.py" | "setup.cfg" => self.project_dependencies(&folder)?,
            name if is_pylock(name) => {
                let Pylock { packages, direct, folders } = parse_pylock(file, &text)?;
                for path in folders {
                    let path = join(&folder, &path).ok_or_else(|| outside(file, 1, &path))?;
                    if path != folder || own.is_none() {
                        self.local_project(&path, &[], file, 1, false)?;
                    }
                }
                return Ok(Packages::Locked(Locked { packages, direct }));
            }
            _ => self.requirements(file, &text)?,
        }
        self.apply_workspace()?;
        Ok(Packages::Open(std::mem::take(&mut self.open)))
    }

    /// The dependencies that a project declares itself.
    fn project_dependencies(&mut self, folder: &str) -> Result<(), BuildError> {
        let Some(metadata) = self.project(folder)? else { return Ok(()) };
        self.check_indexes()?;
        let groups = workspace::default_groups(self.files, folder)?;
        self.declared(folder, &metadata.dependencies)?;
        self.declared(folder, &groups)
    }

    /// Constraints and overrides of uv's settings apply to everything that codeloc resolves.
    fn apply_workspace(&mut self) -> Result<(), BuildError> {
        let Workspace { constraints, overrides, .. } = self.workspace.clone();
        for (lines, is_override) in [(constraints, false), (overrides, true)] {
            for declared in lines {
                let requirement = index_requirement(&declared)?;
                if is_override {
                    self.open.overrides.push(requirement);
                } else {
                    self.open.constraints.push(requirement);
                }
            }
        }
        Ok(())
    }

    fn declared(&mut self, folder: &str, all: &[Declared]) -> Result<(), BuildError> {
        for declared in all {
            if let Some(name) = declared.text.strip_prefix("-r ") {
                let file = join(folder, name).ok_or_else(|| outside(&declared.file, declared.line, name))?;
                let Some(text) = self.files.text(&file)? else {
                    return Err(BuildError::terminal(format!(
                        "{} names {file}, which the commit does not have",
                        declared.file
                    )));
                };
                self.requirements(&file, &text)?;
                continue;
            }
            self.one(folder, declared)?;
        }
        Ok(())
    }

    fn one(&mut self, folder: &str, declared: &Declared) -> Result<(), BuildError> {
        let Declared { text, file, line, source } = declared;
        let (text, path) = match (source, text.split_once('@')) {
            (Some(Source::Path(path)), _) => (text.as_str(), Some(path.clone())),
            (_, Some((name, url))) if url.trim().starts_with("file:") => (name, Some(local_path(url.trim()))),
            _ => (text.as_str(), None),
        };
        if let Some(path) = path {
            let target = join(folder, &path).ok_or_else(|| outside(file, *line, &path))?;
            return self.local_project(&target, &extras_in(text), file, *line, true);
        }
        match source {
            Some(Source::Workspace) => {
                let name = metadata::requirement_name(text);
                let member = self
                    .workspace
                    .member(self.files, &name)?
                    .ok_or_else(|| refusal(file, *line, text, "no member of the workspace has this name"))?;
                self.local_project(&member, &extras_in(text), file, *line, true)
            }
            Some(Source::Elsewhere(url)) => {
                let (head, marker) = text.split_once(';').unwrap_or((text, ""));
                let end = head.find(|letter: char| "<>=!~@ (".contains(letter)).unwrap_or(head.len());
                let marker = if marker.is_empty() { String::new() } else { format!(" ;{marker}") };
                self.direct(&format!("{} @ {url}{marker}", head[..end].trim()), declared)
            }
            Some(Source::Index(index)) => {
                let requirement = index_requirement(declared)?;
                let url = self.workspace.index_url(index).unwrap_or(index);
                if !(self.wanted.allows_index)(url) && !self.locked.contains(&requirement.name) {
                    return Err(refused_index(file, *line, text, index));
                }
                self.open.origins.insert(requirement.name.clone(), url.to_owned());
                self.open.requirements.push(requirement);
                Ok(())
            }
            Some(Source::Path(_)) | None if parse_direct(text).is_some() => self.direct(text, declared),
            Some(Source::Path(_)) | None => {
                let requirement = index_requirement(declared)?;
                self.open.requirements.push(requirement);
                Ok(())
            }
        }
    }

    fn direct(&mut self, text: &str, declared: &Declared) -> Result<(), BuildError> {
        let Declared { file, line, .. } = declared;
        let reference = parse_direct(text).unwrap_or_else(|| Err("it names no URL".to_owned()));
        self.open.direct.push(reference.map_err(|reason| refusal(file, *line, text, &reason))?);
        Ok(())
    }

    /// Refuses a project that searches other package indexes: the operator's index may have unrelated packages with the same names.
    fn check_indexes(&self) -> Result<(), BuildError> {
        let searched = self.workspace.indexes.iter().filter(|index| index.is_searched);
        match searched.into_iter().find(|index| !(self.wanted.allows_index)(&index.url)) {
            Some(index) if self.locked.is_empty() => {
                Err(refused_index(&index.file, index.line, &index.name, &index.name))
            }
            _ => Ok(()),
        }
    }

    /// A project in a folder of the repository. `with_dependencies` is false if a lock has them already.
    fn local_project(
        &mut self,
        folder: &str,
        extras: &[String],
        file: &str,
        line: usize,
        with_dependencies: bool,
    ) -> Result<(), BuildError> {
        if [".whl", ".tar.gz", ".zip"].iter().any(|suffix| folder.ends_with(suffix)) {
            return Err(refusal(
                file,
                line,
                folder,
                "codeloc installs no archives of the repository; name a folder or a package",
            ));
        }
        if !self.describes_a_project(folder)? {
            let is_empty = self.files.names(folder)?.is_empty();
            let reason = if is_empty {
                "the commit has no such folder"
            } else {
                "no file in this folder describes a Python project"
            };
            return Err(refusal(file, line, folder, reason));
        }
        let Some(metadata) = self.project(folder)? else { return Ok(()) };
        if self.seen.insert(folder.to_owned()) {
            self.add_project(folder, &metadata)?;
            if with_dependencies {
                self.declared(folder, &metadata.dependencies)?;
            }
        }
        for extra in extras.iter().filter(|_| with_dependencies) {
            if self.seen.insert(format!("{folder}[{extra}]"))
                && let Some(declared) = metadata.extras.get(extra)
            {
                self.declared(folder, declared)?;
            }
        }
        Ok(())
    }

    fn local_projects_of_lock(&mut self, lock: &LockFile) -> Result<(), BuildError> {
        for folder in &lock.projects {
            if self.seen.contains(folder) {
                continue;
            }
            if let Some(metadata) = self.project(folder)? {
                self.seen.insert(folder.clone());
                self.add_project(folder, &metadata)?;
            }
        }
        Ok(())
    }

    fn add_project(&mut self, folder: &str, metadata: &Metadata) -> Result<(), BuildError> {
        if let (Some(specifier), Some(python)) = (&metadata.requires_python, self.wanted.python)
            && !specifiers::allows_python(specifier, python)
        {
            return Err(BuildError::terminal(format!(
                "{} requires Python {specifier}, and the image has Python {python}; set another `python_version` in the config",
                metadata.file
            )));
        }
        let Some(name) = &metadata.name else {
            // Python still has to find its modules.
            if folder == self.wanted.root {
                return Ok(());
            }
            return Err(BuildError::terminal(format!("{} has no name of the project", metadata.file)));
        };
        let version = metadata.version.clone().unwrap_or_else(|| {
            self.notes.push(format!("the version of {name} comes from version control; the image has version 0.0.0"));
            "0.0.0".to_owned()
        });
        self.projects.push(Project {
            folder: folder.to_owned(),
            name: name.clone(),
            version,
            requires_python: metadata.requires_python.clone(),
            dependencies: metadata.dependencies.iter().map(|declared| declared.text.clone()).collect(),
            entry_points: metadata.entry_points.clone(),
            roots: metadata.roots.iter().filter_map(|root| join(folder, root)).collect(),
        });
        Ok(())
    }
}

fn index_requirement(declared: &Declared) -> Result<Requirement, BuildError> {
    parse(&declared.text).map_err(|reason| refusal(&declared.file, declared.line, &declared.text, &reason))
}

fn outside(file: &str, line: usize, path: &str) -> BuildError {
    refusal(file, line, path, "the path leads outside the repository")
}

fn refused_index(file: &str, line: usize, text: &str, index: &str) -> BuildError {
    let reason = format!(
        "the project takes packages from the index {}, which the settings of codeloc do not name; add it to `build.indexes`, or remove it \
         from the project",
        codeloc_crds::mask_credentials(index)
    );
    refusal(file, line, text, &reason)
}

/// PEP 751 allows `pylock.toml` and `pylock.NAME.toml`.
fn is_pylock(name: &str) -> bool {
    let middle = name.strip_prefix("pylock.").and_then(|rest| rest.strip_suffix("toml"));
    middle.is_some_and(|middle| middle.is_empty() || middle.ends_with('.'))
}

/// The path in a `file:` URL of a requirement.
fn local_path(url: &str) -> String {
    let path = url.trim_start_matches("file:").trim_start_matches("//");
    let path = path.split([';', '#']).next().unwrap_or(path).trim();
    path.trim_start_matches("${PROJECT_ROOT}/").trim_start_matches("{root:uri}/").to_owned()
}

/// The extras of a requirement, in normal form.
fn extras_in(text: &str) -> Vec<String> {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let extras = inside.map(|(extras, _)| extras).unwrap_or_default();
    extras
        .split(',')
        .map(|extra| crate::requirements::normal_name(extra.trim()))
        .filter(|extra| !extra.is_empty())
        .collect()
}
