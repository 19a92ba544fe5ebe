//! Turns the dependencies of a repository into a lock: the packages of one image, with exact versions and hashes.
//!
//! Guarantees: no code of the repository runs, and only the operator's package index is used; equal inputs give the first
//! lock that was resolved, as long as the build cache (or without one, the work folder) exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::build_cache::{self, BuildCache};
use crate::digest::sha256_hex;
use crate::disk::{disk_error, temporary_folder, write_whole};
use crate::error::BuildError;
use crate::progress::{OnProgress, Progress};
use crate::release;
use crate::requirements::{
    self, RefusedLine, Requirement, line_of, normal_name, parse_file, parse_lines, parse_pylock, parse_pyproject,
    refusal,
};
use crate::uv::{Target, Uv};

/// The dependencies that a repository lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The path of a `uv.lock`, which is a complete and resolved set.
    Lock(String),
    /// The path and packages of a `pylock.toml`, also a complete set.
    Pylock(String, Vec<Requirement>),
    /// Requirements that codeloc resolves.
    Requirements(Vec<Requirement>),
}

/// The paths of a commit that [`input`] may read.
pub(super) fn candidates<'a>(files: &BTreeSet<&'a str>, explicit: Option<&'a str>) -> Vec<&'a str> {
    let is_candidate = |path: &&str| {
        matches!(*path, "uv.lock" | "pylock.toml" | "requirements.txt")
            || path.rsplit('/').next() == Some("pyproject.toml")
    };
    files.iter().copied().filter(is_candidate).chain(explicit).collect()
}

/// Dependency files in order of preference.
pub const FILES: [&str; 4] = ["uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml"];

/// Reads the dependency file: the explicit one, else the first of [`FILES`], else none.
pub(super) fn input(explicit: Option<&str>, texts: &BTreeMap<String, String>) -> Result<Input, BuildError> {
    let file = match explicit {
        Some(file) if texts.contains_key(file) => file,
        Some(file) => {
            return Err(BuildError::terminal(format!("the commit has no file {file} (`dependencies`)")));
        }
        None => match FILES.into_iter().find(|file| texts.contains_key(*file)) {
            Some(file) => file,
            None => return Ok(Input::Requirements(Vec::new())),
        },
    };
    let text = &texts[file];
    match file.rsplit('/').next().unwrap_or(file) {
        "uv.lock" => {
            let project = format!("{}pyproject.toml", folder_of(file));
            if !texts.contains_key(&project) {
                return Err(BuildError::terminal(format!(
                    "the commit has {file} but not {project}, which uv needs to read it; commit both files"
                )));
            }
            Ok(Input::Lock(file.to_owned()))
        }
        "pyproject.toml" => parse_pyproject(file, text).map(Input::Requirements),
        name if is_pylock(name) => parse_pylock(file, text).map(|packages| Input::Pylock(file.to_owned(), packages)),
        _ => parse_file(file, text).map(Input::Requirements),
    }
}

/// PEP 751 allows `pylock.toml` and `pylock.NAME.toml`.
fn is_pylock(name: &str) -> bool {
    let middle = name.strip_prefix("pylock.").and_then(|rest| rest.strip_suffix("toml"));
    middle.is_some_and(|middle| middle.is_empty() || middle.ends_with('.'))
}

/// The path up to and including its last slash.
fn folder_of(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

/// Everything that decides a lock, except the dependencies themselves.
pub(super) struct Resolution<'a> {
    pub uv: &'a Uv,
    pub target: &'a Target,
    pub base: &'a [Requirement],
    /// The text of the operator's constraints.
    pub constraints: Option<&'a str>,
    pub work: &'a Path,
    pub build_cache: &'a dyn BuildCache,
    pub progress: &'a OnProgress<'a>,
}

impl Resolution<'_> {
    /// The lock: one sorted line per package, with hashes. Its Dagster packages belong to one release.
    pub(super) async fn lock(&self, input: &Input, texts: &BTreeMap<String, String>) -> Result<String, BuildError> {
        let lock = self.resolved(input, texts).await?;
        release::check(lock_source(input), &lock)?;
        Ok(lock)
    }

    async fn resolved(&self, input: &Input, texts: &BTreeMap<String, String>) -> Result<String, BuildError> {
        let (sets, complete) = match input {
            Input::Lock(file) => {
                let packages = self.export(file, texts).await?;
                self.check_base_set(file, &packages)?;
                (vec![packages], true)
            }
            Input::Pylock(file, packages) => {
                self.check_base_set(file, packages)?;
                (vec![packages.clone()], true)
            }
            Input::Requirements(user) => (release::candidates(user, self.base), false),
        };
        if sets[0].is_empty() {
            return Ok(String::new());
        }
        let mut key = serde_json::json!({
            "lines": sorted_lines(&sets[0]),
            "complete": complete,
            "target": self.target.key(),
            "constraints": self.constraints,
            "index": self.uv.index(),
        });
        if let Some(fallback) = sets.get(1) {
            key["otherwise"] = sorted_lines(fallback).into();
        }
        let key = sha256_hex(key.to_string());
        let local = self.work.join("locks").join(format!("{key}.txt"));
        if let Ok(lock) = std::fs::read_to_string(&local) {
            return Ok(lock);
        }
        let name = build_cache::lock_name(&key);
        if let Some(lock) = self.build_cache.read(&name).await? {
            write_whole(&local, lock.as_bytes())?;
            return Ok(lock);
        }
        (self.progress)(Progress::Resolving { requirements: sets[0].len() });
        let lock = self.resolve_first(&sets, complete).await?;
        release::check(lock_source(input), &lock)?;
        let lock = self.build_cache.write_first(&name, lock).await?;
        write_whole(&local, lock.as_bytes())?;
        Ok(lock)
    }

    /// The lock of the first set that has a solution. If none has one, the error of the last set.
    async fn resolve_first(&self, sets: &[Vec<Requirement>], complete: bool) -> Result<String, BuildError> {
        let mut last_error = BuildError::terminal("there are no requirements to resolve");
        for requirements in sets {
            match self.compile(requirements, complete).await {
                Ok(resolved) => return to_lock(requirements, &resolved, self.uv.find_links()),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => last_error = error,
            }
        }
        let missing = match sets.last() {
            Some(requirements) if !complete => self.missing_libraries(requirements).await,
            _ => None,
        };
        Err(match missing {
            Some(missing) => BuildError::terminal(missing).caused_by(last_error),
            None => last_error,
        })
    }

    async fn compile(&self, requirements: &[Requirement], complete: bool) -> Result<String, BuildError> {
        let folder = temporary_folder(self.work)?;
        let lines: Vec<String> = requirements.iter().map(Requirement::line).collect();
        write_whole(&folder.path().join("requirements.in"), (lines.join("\n") + "\n").as_bytes())?;
        if let Some(constraints) = self.constraints {
            write_whole(&folder.path().join("constraints.txt"), constraints.as_bytes())?;
        }
        self.uv.compile(folder.path(), self.target, self.constraints.is_some(), complete).await
    }

    /// A message about the Dagster libraries that the index lacks, if this is why there is no solution.
    async fn missing_libraries(&self, requirements: &[Requirement]) -> Option<String> {
        let is_library = |one: &&Requirement| release::LIBRARIES.contains(&one.name.as_str());
        let others: Vec<Requirement> = requirements.iter().filter(|one| !is_library(one)).cloned().collect();
        let names: BTreeSet<&str> = requirements.iter().filter(is_library).map(|one| one.name.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        let dagster = release::version_in(&self.compile(&others, false).await.ok()?, "dagster")?;
        let version = release::library_version(&dagster)?;
        let mut missing = Vec::new();
        for name in names {
            let library = requirements::parse(&format!("{name}=={version}")).ok()?;
            if self.compile(&[library], true).await.is_err_and(|error| !error.is_transient()) {
                missing.push(format!("{name} {version}"));
            }
        }
        (!missing.is_empty()).then(|| {
            let missing = missing.join(" and ");
            format!(
                "Dagster {dagster} needs {missing}, and the package index does not have it; require another release of \
                 Dagster, such as `dagster<{dagster}`"
            )
        })
    }

    /// The packages of a `uv.lock`, from `uv export`, which reads only the lock and the pyproject.toml files.
    async fn export(&self, file: &str, texts: &BTreeMap<String, String>) -> Result<Vec<Requirement>, BuildError> {
        let folder = temporary_folder(self.work)?;
        let root = folder_of(file);
        for (path, text) in texts {
            if let Some(relative) = path.strip_prefix(root)
                && (path == file || relative.rsplit('/').next() == Some("pyproject.toml"))
            {
                write_whole(&folder.path().join(relative), text.as_bytes())?;
            }
        }
        let text = self.uv.export(folder.path()).await?;
        let lock = &texts[file];
        parse_lines(&text)
            .map_err(|RefusedLine { text, reason, .. }| refusal(file, line_in_lock(lock, &text), &text, &reason))
    }

    /// A complete set must contain the packages that every location needs.
    fn check_base_set(&self, file: &str, packages: &[Requirement]) -> Result<(), BuildError> {
        let contains = |name: &str| packages.iter().any(|package| package.name == name);
        let missing: Vec<&str> = self.base.iter().map(|one| one.name.as_str()).filter(|name| !contains(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.join(" ");
        Err(BuildError::terminal(format!(
            "{file} lacks {names}, which every location needs; run `uv add {names}`, update the lock and commit"
        )))
    }
}

/// The origin of a lock, for errors.
fn lock_source(input: &Input) -> &str {
    match input {
        Input::Lock(file) | Input::Pylock(file, _) => file,
        Input::Requirements(_) => "the resolved dependencies",
    }
}

fn sorted_lines(requirements: &[Requirement]) -> Vec<String> {
    let mut lines: Vec<String> = requirements.iter().map(Requirement::locked_line).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The line of a lock that an exported line (`name @ url` or `-e ./path`) comes from.
fn line_in_lock(lock: &str, exported: &str) -> usize {
    let path = exported.trim_start_matches("-e ").trim_start_matches("./").split(' ').next().unwrap_or_default();
    let name = format!("name = \"{}\"", normal_name(path));
    let path = format!("\"{path}\"");
    line_of(lock, if lock.contains(&name) { &name } else { &path })
}

/// Turns uv's output into a lock. The user's hashes restrict those of the index, or replace them if the index has none. uv
/// may not hash wheels in the operator's folder, so this function does.
fn to_lock(requirements: &[Requirement], resolved: &str, wheels: Option<&Path>) -> Result<String, BuildError> {
    let mut allowed: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for requirement in requirements.iter().filter(|requirement| !requirement.hashes.is_empty()) {
        allowed.entry(&requirement.name).or_default().extend(&requirement.hashes);
    }
    let mut packages = parse_lines(resolved).map_err(|RefusedLine { text, reason, .. }| {
        BuildError::terminal(format!("uv resolved a dependency to `{text}`, which codeloc refuses: {reason}"))
    })?;
    for package in &mut packages {
        if package.hashes.is_empty()
            && let Some(wheels) = wheels
        {
            package.hashes = wheel_hashes(wheels, package)?;
        }
        if let Some(allowed) = allowed.get(package.name.as_str()) {
            if package.hashes.is_empty() {
                package.hashes = allowed.iter().copied().cloned().collect();
            }
            package.hashes.retain(|hash| allowed.contains(hash));
        }
        if package.hashes.is_empty() {
            return Err(BuildError::terminal(format!(
                "there is no valid hash for {}: the package index has none of the hashes in the dependency file, or no \
                 hash at all; update the hashes",
                package.line()
            )));
        }
    }
    let mut lines: Vec<String> = packages.iter().map(|package| package.locked_line() + "\n").collect();
    lines.sort();
    Ok(lines.concat())
}

/// The hashes of a package's wheels (`NAME-VERSION-….whl`) in a folder.
fn wheel_hashes(folder: &Path, package: &Requirement) -> Result<BTreeSet<String>, BuildError> {
    let mut hashes = BTreeSet::new();
    let disk = |error| disk_error(folder, error);
    for entry in std::fs::read_dir(folder).map_err(disk)? {
        let path = entry.map_err(disk)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut parts = name.split('-');
        let (project, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if name.ends_with(".whl") && normal_name(project) == package.name && package.specifier == format!("=={version}")
        {
            hashes.insert(format!("sha256:{}", sha256_hex(std::fs::read(&path).map_err(disk)?)));
        }
    }
    Ok(hashes)
}

/// How a build would read the dependency files of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DependencyReport {
    /// The file that lists the dependencies, if any.
    pub file: Option<String>,
    /// Why a build would refuse it, with file and line.
    pub refused: Option<String>,
}

/// `texts` are the dependency files of a repository, by path.
pub fn dependencies_of(texts: &BTreeMap<String, String>) -> DependencyReport {
    let input = input(None, texts);
    let is_empty = matches!(&input, Ok(Input::Requirements(requirements)) if requirements.is_empty());
    let file = FILES.into_iter().find(|file| texts.contains_key(*file)).filter(|_| !is_empty);
    DependencyReport { file: file.map(str::to_owned), refused: input.err().map(|error| error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;

    fn texts(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    fn lines(input: &Input) -> Vec<String> {
        match input {
            Input::Lock(file) => vec![format!("lock {file}")],
            Input::Pylock(file, packages) => {
                std::iter::once(format!("pylock {file}")).chain(packages.iter().map(Requirement::locked_line)).collect()
            }
            Input::Requirements(requirements) => requirements.iter().map(Requirement::line).collect(),
        }
    }

    fn requirements(lines: &[&str]) -> Vec<Requirement> {
        lines.iter().map(|line| requirements::parse(line).unwrap()).collect()
    }

    #[test]
    fn the_explicit_file_wins_then_lock_requirements_and_project() {
        let pyproject = ("pyproject.toml", "[project]\ndependencies = ['from-project']");
        let all = texts(&[
            ("uv.lock", ""),
            ("requirements.txt", "from-requirements"),
            pyproject,
            ("deps/prod.txt", "from-prod"),
        ]);
        assert_eq!(lines(&input(Some("deps/prod.txt"), &all).unwrap()), ["from-prod"]);
        assert_eq!(lines(&input(Some("pyproject.toml"), &all).unwrap()), ["from-project"]);
        assert_eq!(lines(&input(None, &all).unwrap()), ["lock uv.lock"]);
        assert_eq!(
            lines(&input(None, &texts(&[("requirements.txt", "from-requirements"), pyproject])).unwrap()),
            ["from-requirements"]
        );
        assert_eq!(lines(&input(None, &texts(&[pyproject])).unwrap()), ["from-project"]);
        assert!(lines(&input(None, &texts(&[])).unwrap()).is_empty());
        assert!(expect_terminal(input(Some("absent.txt"), &all)).contains("absent.txt"));
        assert!(expect_terminal(input(None, &texts(&[("uv.lock", "")]))).contains("pyproject.toml"));
    }

    #[test]
    fn a_pylock_gives_versions_and_wheel_hashes() {
        let hash = |digit: &str| digit.repeat(64);
        let text = format!(
            "lock-version = '1.0'\n\
             [[packages]]\nname = 'Jinja2'\nversion = '3.1.6'\nmarker = \"python_version >= '3.9'\"\n\
             sdist = {{ url = 'https://host/jinja2.tar.gz', hashes = {{ sha256 = '{}' }} }}\n\
             wheels = [{{ url = 'https://host/jinja2-3.1.6-py3-none-any.whl', hashes = {{ sha256 = '{}' }} }}]\n",
            hash("1"),
            hash("2"),
        );
        let expected = format!("jinja2==3.1.6 ; python_version >= '3.9' --hash=sha256:{}", hash("2"));
        for name in ["pylock.toml", "deps/pylock.prod.toml"] {
            let input = input(Some(name), &texts(&[(name, &text)])).unwrap();
            assert_eq!(lines(&input), [format!("pylock {name}"), expected.clone()]);
        }
        let both = texts(&[("pylock.toml", text.as_str()), ("requirements.txt", "other")]);
        assert_eq!(lines(&input(None, &both).unwrap())[0], "pylock pylock.toml");
    }

    #[test]
    fn a_pylock_without_wheels_of_an_index_is_refused_with_its_line() {
        let package = |rest: &str| format!("lock-version = '1.0'\n[[packages]]\nname = 'in-house'\n{rest}\n");
        for (rest, reason) in [
            (
                "vcs = { type = 'git', url = 'https://me:hunter2@host/x', commit-id = '1' }",
                "only from the package index",
            ),
            ("directory = { path = '.' }", "only from the package index"),
            (
                "archive = { url = 'https://me:hunter2@host/x.zip', hashes = { sha256 = '1' } }",
                "only from the package index",
            ),
            ("version = '1'", "no wheel"),
            ("version = '1'\nsdist = { url = 'https://host/x.tar.gz', hashes = { sha256 = '1' } }", "no wheel"),
            ("version = '1'\nwheels = [{ hashes = { md5 = '1' } }]", "no sha256"),
            ("wheels = [{ hashes = { sha256 = '1' } }]", "no version"),
            ("version = '1'\nmarker = \"'x' in extras\"\nwheels = [{ hashes = { sha256 = '1' } }]", "extras"),
        ] {
            let text = expect_terminal(input(None, &texts(&[("pylock.toml", &package(rest))])));
            assert!(text.starts_with("pylock.toml:3: codeloc refuses `in-house`: "), "{text}");
            assert!(text.contains(reason) && !text.contains("hunter2"), "{text}");
        }
        for (text, reason) in
            [("lock-version = '2.0'\n", "lock-version"), ("packages = 1\nlock-version = '1.0'", "packages")]
        {
            let error = expect_terminal(input(None, &texts(&[("pylock.toml", text)])));
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn user_hashes_restrict_index_hashes() {
        let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let resolved = format!("b==2 \\\n    --hash={}\na==1 --hash={} --hash={}\n", hash("3"), hash("1"), hash("2"));
        let user = requirements(&["b", &format!("a --hash={}", hash("1"))]);
        assert_eq!(
            to_lock(&user, &resolved, None).unwrap(),
            format!("a==1 --hash={}\nb==2 --hash={}\n", hash("1"), hash("3"))
        );
        let other = requirements(&[&format!("a --hash={}", hash("9"))]);
        assert!(expect_terminal(to_lock(&other, &resolved, None)).contains("a==1"));
    }

    #[test]
    fn exported_lines_are_found_in_the_lock() {
        let lock = "version = 1\n[[package]]\nname = \"in-house\"\nsource = { git = \"x\" }\n[[package]]\nsource = { editable = \"libs/a\" }\n";
        assert_eq!(line_in_lock(lock, "in-house @ git+https://host/x"), 3);
        assert_eq!(line_in_lock(lock, "-e ./libs/a"), 6);
    }
}
