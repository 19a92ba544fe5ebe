//! From what a repository asks for to a lock: the packages of one image, exact versions with hashes.
//!
//! Guarantees: nothing of the repository runs and no index but the operator's is asked; equal inputs give the lock that
//! was resolved first, as long as the shelf lives, or without one the work folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    BuildError,
    build_cache::{self, BuildCache},
    disk::{fresh_folder, on_disk, write_whole},
    registry::sha256,
    release,
    requirements::{
        self, Refused, Requirement, line_of, normal_name, parse_file, parse_lines, parse_pylock, parse_pyproject,
        refused,
    },
    uv::{Target, Uv},
};

/// What a repository asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A `uv.lock`, by path: the whole set of packages, already resolved.
    Lock(String),
    /// A `pylock.toml`, by path: the whole set as well.
    Pylock(String, Vec<Requirement>),
    /// Requirements still to be resolved.
    Requirements(Vec<Requirement>),
}

/// The files that [`input`] may want to read, out of all paths of the commit.
pub(super) fn candidates<'a>(files: &BTreeSet<&'a str>, explicit: Option<&'a str>) -> Vec<&'a str> {
    let wanted = |path: &&str| {
        matches!(*path, "uv.lock" | "pylock.toml" | "requirements.txt")
            || path.rsplit('/').next() == Some("pyproject.toml")
    };
    files.iter().copied().filter(wanted).chain(explicit).collect()
}

/// In the order of preference.
pub const FILES: [&str; 4] = ["uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml"];

/// Chooses the dependency file: the named one, else the first of `FILES`, or nothing.
pub(super) fn input(explicit: Option<&str>, texts: &BTreeMap<String, String>) -> Result<Input, BuildError> {
    let file = match explicit {
        Some(file) if texts.contains_key(file) => file,
        Some(file) => {
            return Err(BuildError::Terminal(format!("the commit has no file {file} (`dependencies`)")));
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
                return Err(BuildError::Terminal(format!(
                    "{file} has no {project} beside it, which uv needs to read it"
                )));
            }
            Ok(Input::Lock(file.to_owned()))
        }
        "pyproject.toml" => parse_pyproject(file, text).map(Input::Requirements),
        name if is_pylock(name) => parse_pylock(file, text).map(|packages| Input::Pylock(file.to_owned(), packages)),
        _ => parse_file(file, text).map(Input::Requirements),
    }
}

/// PEP 751: `pylock.toml`, or `pylock.NAME.toml`.
fn is_pylock(name: &str) -> bool {
    let middle = name.strip_prefix("pylock.").and_then(|rest| rest.strip_suffix("toml"));
    middle.is_some_and(|middle| middle.is_empty() || middle.ends_with('.'))
}

/// The path up to its last slash, included.
fn folder_of(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

/// What decides a resolution.
pub(super) struct Resolution<'a> {
    pub uv: &'a Uv,
    pub target: &'a Target,
    pub base: &'a [Requirement],
    /// The text of the operator's constraints.
    pub constraints: Option<&'a str>,
    pub work: &'a Path,
    pub build_cache: &'a dyn BuildCache,
    pub progress: &'a (dyn Fn(String) + Send + Sync),
}

impl Resolution<'_> {
    /// The lock: one line per package, sorted, with hashes. Its packages of Dagster's are of one release.
    pub(super) async fn lock(&self, input: &Input, texts: &BTreeMap<String, String>) -> Result<String, BuildError> {
        let lock = self.resolved(input, texts).await?;
        release::check(source_of(input), &lock)?;
        Ok(lock)
    }

    async fn resolved(&self, input: &Input, texts: &BTreeMap<String, String>) -> Result<String, BuildError> {
        let (sets, complete) = match input {
            Input::Lock(file) => (vec![self.whole(file, self.exported(file, texts).await?)?], true),
            Input::Pylock(file, packages) => (vec![self.whole(file, packages.clone())?], true),
            Input::Requirements(user) => (release::candidates(user, self.base), false),
        };
        if sets[0].is_empty() {
            return Ok(String::new());
        }
        let mut decides = serde_json::json!({
            "lines": sorted_lines(&sets[0]), "complete": complete, "target": self.target.key(), "constraints": self.constraints, "index": self.uv.index(),
        });
        if let Some(otherwise) = sets.get(1) {
            decides["otherwise"] = sorted_lines(otherwise).into();
        }
        let key = hex::encode(Sha256::digest(decides.to_string()));
        let kept = self.work.join("locks").join(format!("{key}.txt"));
        if let Ok(lock) = std::fs::read_to_string(&kept) {
            return Ok(lock);
        }
        let name = build_cache::lock_name(&key);
        if let Some(lock) = self.build_cache.read(&name).await? {
            write_whole(&kept, lock.as_bytes())?;
            return Ok(lock);
        }
        (self.progress)(format!("resolving {} packages", sets[0].len()));
        let lock = self.first_that_resolves(&sets, complete).await?;
        release::check(source_of(input), &lock)?;
        let lock = self.build_cache.write_first(&name, lock).await?;
        write_whole(&kept, lock.as_bytes())?;
        Ok(lock)
    }

    /// The lock of the first set that has a solution; the error is the last one's.
    async fn first_that_resolves(&self, sets: &[Vec<Requirement>], complete: bool) -> Result<String, BuildError> {
        let mut refused = String::new();
        for wanted in sets {
            match self.compiled(wanted, complete).await {
                Ok(resolved) => return locked(wanted, &resolved, self.uv.find_links()),
                Err(BuildError::Terminal(why)) => refused = why,
                Err(error) => return Err(error),
            }
        }
        let missing = match sets.last() {
            Some(wanted) if !complete => self.missing_libraries(wanted).await,
            _ => None,
        };
        Err(BuildError::Terminal(match missing {
            Some(missing) => format!("{missing}; {refused}"),
            None => refused,
        }))
    }

    async fn compiled(&self, wanted: &[Requirement], complete: bool) -> Result<String, BuildError> {
        let folder = fresh_folder(&self.work.join("spool"))?;
        let plain: Vec<String> = wanted.iter().map(Requirement::line).collect();
        write_whole(&folder.path().join("requirements.in"), (plain.join("\n") + "\n").as_bytes())?;
        if let Some(constraints) = self.constraints {
            write_whole(&folder.path().join("constraints.txt"), constraints.as_bytes())?;
        }
        self.uv.compile(folder.path(), self.target, self.constraints.is_some(), complete).await
    }

    /// Which libraries the index lacks of the Dagster that the project gets, where that is why there is no solution.
    async fn missing_libraries(&self, wanted: &[Requirement]) -> Option<String> {
        let is_library = |one: &&Requirement| release::LIBRARIES.contains(&one.name.as_str());
        let others: Vec<Requirement> = wanted.iter().filter(|one| !is_library(one)).cloned().collect();
        let names: BTreeSet<&str> = wanted.iter().filter(is_library).map(|one| one.name.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        let dagster = release::version_in(&self.compiled(&others, false).await.ok()?, "dagster")?;
        let version = release::library_of(&dagster)?;
        let mut missing = Vec::new();
        for name in names {
            let library = requirements::parse(&format!("{name}=={version}")).ok()?;
            if let Err(BuildError::Terminal(_)) = self.compiled(&[library], true).await {
                missing.push(format!("{name} {version}"));
            }
        }
        (!missing.is_empty()).then(|| {
            let missing = missing.join(" and ");
            format!(
                "Dagster {dagster} goes with {missing}, which the package index lacks: require another release of Dagster, \
                 such as `dagster<{dagster}`"
            )
        })
    }

    /// The packages of a `uv.lock`, through `uv export`, which reads the lock and the project files beside it only.
    async fn exported(&self, file: &str, texts: &BTreeMap<String, String>) -> Result<Vec<Requirement>, BuildError> {
        let folder = fresh_folder(&self.work.join("spool"))?;
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
        let packages = parse_lines(&text)
            .map_err(|Refused { text, why, .. }| refused(file, line_in_lock(lock, &text), &text, &why))?;
        Ok(packages)
    }

    /// A set that is complete has what every code location needs, too.
    fn whole(&self, file: &str, packages: Vec<Requirement>) -> Result<Vec<Requirement>, BuildError> {
        let there = |name: &str| packages.iter().any(|package| package.name == name);
        let missing: Vec<&str> = self.base.iter().map(|one| one.name.as_str()).filter(|name| !there(name)).collect();
        if !missing.is_empty() {
            let names = missing.join(" ");
            return Err(BuildError::Terminal(format!(
                "{file} lacks {names}, which every code location needs: run `uv add {names}`, lock anew and commit"
            )));
        }
        Ok(packages)
    }
}

/// Where a lock comes from, as errors say it.
fn source_of(input: &Input) -> &str {
    match input {
        Input::Lock(file) | Input::Pylock(file, _) => file,
        Input::Requirements(_) => "the resolved dependencies",
    }
}

fn sorted_lines(wanted: &[Requirement]) -> Vec<String> {
    let mut lines: Vec<String> = wanted.iter().map(Requirement::locked_line).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Where an exported line comes from: `name @ url`, or `-e ./path`.
fn line_in_lock(lock: &str, exported: &str) -> usize {
    let path = exported.trim_start_matches("-e ").trim_start_matches("./").split(' ').next().unwrap_or_default();
    let name = format!("name = \"{}\"", normal_name(path));
    let path = format!("\"{path}\"");
    line_of(lock, if lock.contains(&name) { &name } else { &path })
}

/// uv's answer in our form. Hashes that the user gave narrow those of the index, and stand in where it has none; wheels
/// in the operator's own folder, which uv does not hash when it need not read them, are hashed here.
fn locked(wanted: &[Requirement], resolved: &str, wheels: Option<&Path>) -> Result<String, BuildError> {
    let mut allowed: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for requirement in wanted.iter().filter(|requirement| !requirement.hashes.is_empty()) {
        allowed.entry(&requirement.name).or_default().extend(&requirement.hashes);
    }
    let mut packages = parse_lines(resolved).map_err(|Refused { text, why, .. }| {
        BuildError::Terminal(format!("uv resolved to `{text}`, which is refused: {why}"))
    })?;
    for package in &mut packages {
        if package.hashes.is_empty()
            && let Some(wheels) = wheels
        {
            package.hashes = hashes_in(wheels, package)?;
        }
        if let Some(allowed) = allowed.get(package.name.as_str()) {
            if package.hashes.is_empty() {
                package.hashes = allowed.iter().copied().cloned().collect();
            }
            package.hashes.retain(|hash| allowed.contains(hash));
        }
        if package.hashes.is_empty() {
            return Err(BuildError::Terminal(format!(
                "no hash for {}: none of those given is one of the index's, or neither has any",
                package.line()
            )));
        }
    }
    let mut lines: Vec<String> = packages.iter().map(|package| package.locked_line() + "\n").collect();
    lines.sort();
    Ok(lines.concat())
}

/// The hashes of a package's wheels in a folder; names are `NAME-VERSION-….whl`.
fn hashes_in(folder: &Path, package: &Requirement) -> Result<BTreeSet<String>, BuildError> {
    let mut hashes = BTreeSet::new();
    let disk = |error: std::io::Error| on_disk(folder, &error);
    for entry in std::fs::read_dir(folder).map_err(disk)? {
        let path = entry.map_err(disk)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut parts = name.split('-');
        let (project, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if name.ends_with(".whl") && normal_name(project) == package.name && package.specifier == format!("=={version}")
        {
            hashes.insert(sha256(&std::fs::read(&path).map_err(disk)?));
        }
    }
    Ok(hashes)
}

/// Reads the operator's base set.
pub(super) fn base_set(lines: &[String]) -> Result<Vec<Requirement>, BuildError> {
    let parse = |line: &String| {
        requirements::parse(line)
            .map_err(|why| BuildError::Terminal(format!("the platform's requirement `{line}` is refused: {why}")))
    };
    lines.iter().map(parse).collect()
}

/// Reads the operator's constraints.
pub(super) fn constraints(path: Option<&Path>) -> Result<Option<String>, BuildError> {
    path.map(|path| std::fs::read_to_string(path).map_err(|error| on_disk(path, &error))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_named_file_wins_then_lock_then_requirements_then_project() {
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
        assert!(
            matches!(input(Some("absent.txt"), &all), Err(BuildError::Terminal(text)) if text.contains("absent.txt"))
        );
        assert!(matches!(input(None, &texts(&[("uv.lock", "")])), Err(BuildError::Terminal(_))));
    }

    #[test]
    fn a_pylock_gives_versions_and_the_hashes_of_its_wheels() {
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
        let beside = texts(&[("pylock.toml", text.as_str()), ("requirements.txt", "other")]);
        assert_eq!(lines(&input(None, &beside).unwrap())[0], "pylock pylock.toml");
    }

    #[test]
    fn a_pylock_with_anything_but_wheels_of_an_index_is_refused_with_its_line() {
        let package = |rest: &str| format!("lock-version = '1.0'\n[[packages]]\nname = 'in-house'\n{rest}\n");
        for (rest, why) in [
            (
                "vcs = { type = 'git', url = 'https://me:hunter2@host/x', commit-id = '1' }",
                "only packages of the index",
            ),
            ("directory = { path = '.' }", "only packages of the index"),
            (
                "archive = { url = 'https://me:hunter2@host/x.zip', hashes = { sha256 = '1' } }",
                "only packages of the index",
            ),
            ("version = '1'", "no wheel"),
            ("version = '1'\nsdist = { url = 'https://host/x.tar.gz', hashes = { sha256 = '1' } }", "no wheel"),
            ("version = '1'\nwheels = [{ hashes = { md5 = '1' } }]", "no sha256"),
            ("wheels = [{ hashes = { sha256 = '1' } }]", "no version"),
            ("version = '1'\nmarker = \"'x' in extras\"\nwheels = [{ hashes = { sha256 = '1' } }]", "extras"),
        ] {
            match input(None, &texts(&[("pylock.toml", &package(rest))])) {
                Err(BuildError::Terminal(text)) => {
                    assert!(text.starts_with("pylock.toml:3: `in-house` is refused: "), "{text}");
                    assert!(text.contains(why) && !text.contains("hunter2"), "{text}");
                }
                other => panic!("{rest}: {other:?}"),
            }
        }
        for (text, why) in
            [("lock-version = '2.0'\n", "lock-version"), ("packages = 1\nlock-version = '1.0'", "packages")]
        {
            match input(None, &texts(&[("pylock.toml", text)])) {
                Err(BuildError::Terminal(error)) => assert!(error.contains(why), "{error}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn hashes_of_the_user_narrow_those_of_the_index() {
        let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let resolved = format!("b==2 \\\n    --hash={}\na==1 --hash={} --hash={}\n", hash("3"), hash("1"), hash("2"));
        let wanted = requirements(&["b", &format!("a --hash={}", hash("1"))]);
        assert_eq!(
            locked(&wanted, &resolved, None).unwrap(),
            format!("a==1 --hash={}\nb==2 --hash={}\n", hash("1"), hash("3"))
        );
        let other = requirements(&[&format!("a --hash={}", hash("9"))]);
        assert!(matches!(locked(&other, &resolved, None), Err(BuildError::Terminal(text)) if text.contains("a==1")));
    }

    #[test]
    fn lines_of_an_export_are_found_again_in_the_lock() {
        let lock = "version = 1\n[[package]]\nname = \"in-house\"\nsource = { git = \"x\" }\n[[package]]\nsource = { editable = \"libs/a\" }\n";
        assert_eq!(line_in_lock(lock, "in-house @ git+https://host/x"), 3);
        assert_eq!(line_in_lock(lock, "-e ./libs/a"), 6);
    }
}
