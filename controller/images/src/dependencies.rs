//! Turns the dependencies of a repository into a lock: the packages of one image, with exact versions and hashes.
//!
//! Guarantees: no code of the repository runs, and only the operator's package index is used; equal inputs give the first
//! lock that was resolved, as long as the build cache (or without one, the work folder) exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::build_cache::{self, BuildCache};
use crate::digest::sha256_hex;
use crate::disk::{disk_error, temporary_folder, write_whole};
use crate::error::BuildError;
use crate::isolated::{Job, Output, Requirements};
use crate::progress::{OnProgress, Progress};
use crate::project::files::within;
use crate::project::{LockFile, Locked, Open, Packages, Plan};
use crate::release;
use crate::requirements::{self, Direct, RefusedLine, Requirement, line_of, normal_name, parse_lines, refusal};
use crate::uv::{self, CONSTRAINTS, OVERRIDES, Target, Uv};

/// Everything that decides a lock, except the dependencies themselves.
pub(super) struct Resolution<'a> {
    pub uv: &'a Uv,
    pub target: &'a Target,
    pub base: &'a [Requirement],
    /// The text of the operator's constraints.
    pub constraints: Option<&'a str>,
    pub work: &'a Path,
    pub build_cache: &'a dyn BuildCache,
    /// Packages without a wheel can be built.
    pub can_build: bool,
    pub progress: &'a OnProgress<'a>,
}

/// What uv resolves at once.
#[derive(Clone, Debug, Default)]
struct Set {
    requirements: Vec<Requirement>,
    constraints: Vec<Requirement>,
    overrides: Vec<Requirement>,
    /// The URL of the index that a package must come from, by name.
    origins: BTreeMap<String, String>,
    /// Packages that only an isolated build can resolve.
    direct: Vec<Direct>,
    /// The wheels of an isolated build, which come before the index.
    built: Option<Arc<Output>>,
    /// The requirements are all packages.
    complete: bool,
    /// Without the requirements of the project itself, which may contradict those of the file.
    is_reduced: bool,
}

impl Set {
    fn is_empty(&self) -> bool {
        self.requirements.is_empty() && self.direct.is_empty()
    }

    /// The same restrictions for a set of exact versions.
    fn pinned(&self) -> Self {
        Self { origins: self.origins.clone(), ..Self::default() }
    }
}

/// The packages of an image.
#[derive(Clone, Debug, Default)]
pub(super) struct Lock {
    /// One sorted line per package, with hashes.
    pub text: String,
    /// The output of the isolated build that made some of them.
    pub built: Option<Arc<Output>>,
    /// What the author of the repository should know.
    pub notes: Vec<String>,
}

impl Lock {
    /// A lock in a file: the notes are comments at its beginning.
    fn parse(text: &str, built: Option<Arc<Output>>) -> Self {
        let (notes, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with(NOTE));
        let notes = notes.into_iter().map(|line| line.trim_start_matches(NOTE).to_owned()).collect();
        Self { text: lines.iter().flat_map(|line| [line, "\n"]).collect(), built, notes }
    }

    fn file(&self) -> String {
        let notes = self.notes.iter().flat_map(|note| [NOTE, note, "\n"]);
        notes.chain([self.text.as_str()]).collect()
    }
}

const NOTE: &str = "# note: ";
/// Instead of a lock: some packages have to be built first.
const NEEDS_BUILD: &str = "# needs an isolated build: ";

/// What a resolution leads to.
#[derive(Debug)]
pub(super) enum Resolved {
    Lock(Lock),
    /// Packages to build first.
    Build(Box<ToBuild>),
}

/// What has to be built before there is a lock.
#[derive(Debug)]
pub(super) struct ToBuild {
    /// The first job whose packages do not contradict each other counts.
    pub jobs: Vec<Job>,
    /// The lock without newer versions, if only these have to be built.
    fallback: Option<Lock>,
    key: String,
}

impl Resolution<'_> {
    /// The lock. Its Dagster packages belong to one release.
    pub(super) async fn lock(&self, plan: &Plan, built: Option<Arc<Output>>) -> Result<Resolved, BuildError> {
        let source = plan.source.as_deref().unwrap_or("the resolved dependencies");
        let resolved = self.resolved(source, &plan.packages, built).await?;
        if let Resolved::Lock(lock) = &resolved {
            release::check(source, &lock.text)?;
        }
        Ok(resolved)
    }

    async fn resolved(
        &self,
        source: &str,
        packages: &Packages,
        built: Option<Arc<Output>>,
    ) -> Result<Resolved, BuildError> {
        let (sets, additions) = match packages {
            Packages::UvLock(lock) => self.locked(self.export(lock).await?),
            Packages::Locked(locked) => self.locked(locked.clone()),
            Packages::Open(open) => (self.open(open), vec![]),
        };
        if sets[0].is_empty() && additions.is_empty() {
            return Ok(Resolved::Lock(Lock::default()));
        }
        let lines = |set: &Set| {
            let direct: Vec<&String> = set.direct.iter().map(|direct| &direct.line).collect();
            let [requirements, constraints, overrides] =
                [&set.requirements, &set.constraints, &set.overrides].map(|part| sorted_lines(part));
            serde_json::json!([requirements, constraints, overrides, set.complete, set.origins, direct])
        };
        let key = serde_json::json!({
            "sets": sets.iter().map(lines).collect::<Vec<_>>(),
            "additions": sorted_lines(&additions),
            "target": self.target.key(),
            "constraints": self.constraints,
            "index": self.uv.index(),
        });
        let key = sha256_hex(key.to_string());
        if let Some(built) = built {
            return self.with_built(source, &sets[0], &key, built).await.map(Resolved::Lock);
        }
        let fallback_key = sha256_hex(format!("{key} without newer versions"));
        let mut fallback = None;
        let mut reasons = match self.stored(&key).await? {
            Some(text) => match text.strip_prefix(NEEDS_BUILD) {
                None => return Ok(Resolved::Lock(Lock::parse(&text, None))),
                Some(reasons) => match self.stored(&fallback_key).await? {
                    Some(text) => return Ok(Resolved::Lock(Lock::parse(&text, None))),
                    None => reasons.trim().split(", ").map(str::to_owned).collect(),
                },
            },
            None => sets[0].direct.iter().map(|direct| format!("source: {}", direct.name)).collect::<Vec<String>>(),
        };
        (self.progress)(Progress::Resolving { requirements: sets[0].requirements.len() + additions.len() });
        let sets =
            if additions.is_empty() { sets } else { vec![self.with_additions(source, &sets[0], additions).await?] };
        if reasons.is_empty() {
            match self.resolve_first(&sets).await {
                Ok(text) => {
                    release::check(source, &text)?;
                    let passed_over = self.passed_over(&sets[0], &text).await?;
                    let notes = passed_over.iter().map(|(newer, package)| {
                        format!("{newer} is not installed, because {package} has no wheel for this platform")
                    });
                    let lock = Lock { text, built: None, notes: notes.collect() };
                    if passed_over.is_empty() || !self.can_build {
                        return Ok(Resolved::Lock(Lock::parse(&self.store(&key, lock.file()).await?, None)));
                    }
                    fallback = Some(lock);
                    reasons = passed_over.into_iter().map(|(_, package)| sdist(&package)).collect();
                }
                Err(error) => match uv::lacks_wheel(&error) {
                    Some(package) if self.can_build => reasons.push(sdist(&package)),
                    _ => return Err(error),
                },
            }
            self.store(&key, format!("{NEEDS_BUILD}{}\n", reasons.join(", "))).await?;
        }
        let job = |set: &Set| Job {
            requirements: Some(Requirements {
                lines: texts(&set.requirements)
                    + &set.direct.iter().flat_map(|one| [one.line.as_str(), "\n"]).collect::<String>(),
                constraints: texts(&set.constraints) + self.constraints.unwrap_or_default(),
                overrides: texts(&set.overrides),
                complete: set.complete,
            }),
            reasons: reasons.clone(),
            ..Job::default()
        };
        let jobs = sets.iter().map(job).collect();
        Ok(Resolved::Build(Box::new(ToBuild { jobs, fallback, key: fallback_key })))
    }

    /// The lock without the versions that cannot be built, if there is one. The next builds use it too.
    pub(super) async fn without(&self, to_build: &ToBuild, error: BuildError) -> Result<Lock, BuildError> {
        match &to_build.fallback {
            Some(lock) if !error.is_transient() => {
                let text = error.to_string();
                let reason = text.lines().find(|line| line.trim().starts_with("error: ")).or(text.lines().next());
                let mut lock = lock.clone();
                lock.notes.push(format!("codeloc cannot build it: {}", reason.unwrap_or_default().trim()));
                Ok(Lock::parse(&self.store(&to_build.key, lock.file()).await?, None))
            }
            _ => Err(error),
        }
    }

    /// The text with a key, from the work folder or from the build cache.
    async fn stored(&self, key: &str) -> Result<Option<String>, BuildError> {
        let local = self.work.join("locks").join(format!("{key}.txt"));
        if let Ok(text) = std::fs::read_to_string(&local) {
            return Ok(Some(text));
        }
        let text = self.build_cache.read(&build_cache::lock_name(key)).await?;
        if let Some(text) = &text {
            write_whole(&local, text.as_bytes())?;
        }
        Ok(text)
    }

    /// Stores a text, unless another controller was first. Returns the stored one.
    async fn store(&self, key: &str, text: String) -> Result<String, BuildError> {
        let text = self.build_cache.write_first(&build_cache::lock_name(key), text).await?;
        write_whole(&self.work.join("locks").join(format!("{key}.txt")), text.as_bytes())?;
        Ok(text)
    }

    /// The lock of what an isolated build resolved. Its versions are resolved again here: each hash comes from the index or from a wheel that
    /// was built.
    async fn with_built(&self, source: &str, set: &Set, key: &str, built: Arc<Output>) -> Result<Lock, BuildError> {
        let key = sha256_hex(format!("{key} {}", built.digest));
        if let Some(text) = self.stored(&key).await? {
            return Ok(Lock::parse(&text, Some(built)));
        }
        let wheels: BTreeMap<String, String> = built.wheels.iter().filter_map(|path| wheel_name(path)).collect();
        let (mut packages, mut hashes) = (Vec::new(), BTreeMap::new());
        for (_, line) in requirements::logical_lines(built.resolved()) {
            let package = match requirements::parse_direct(&line) {
                None => requirements::parse(&line),
                Some(direct) => direct.and_then(|direct| match wheels.get(&direct.name) {
                    Some(version) => requirements::parse(&format!("{}=={version}", direct.name)),
                    None => Err("the isolated build has made no wheel of it".to_owned()),
                }),
            };
            let package = package.map_err(|reason| unreadable(&RefusedLine { text: line.clone(), reason }))?;
            hashes.insert(package.name.clone(), package.hashes.clone());
            packages.push(Requirement { hashes: BTreeSet::new(), ..package });
        }
        // A lock can have several versions of a package, each for another platform.
        let is_built = |one: &&Requirement| {
            wheels.get(&one.name).is_some_and(|version| one.specifier == format!("=={version}"))
                && !one.hashes.is_empty()
        };
        for locked in set.requirements.iter().filter(is_built) {
            if hashes.get(&locked.name).is_none_or(|found| found.is_disjoint(&locked.hashes)) {
                return Err(BuildError::terminal(format!(
                    "the package index has other files of {} than {source} says; update its hashes",
                    locked.line()
                )));
            }
        }
        let pinned = Set { requirements: packages, complete: true, built: Some(built.clone()), ..set.pinned() };
        let resolved = self.compile(&pinned).await?;
        self.check_origins(set, &resolved)?;
        let known: Vec<Requirement> = set.requirements.iter().chain(&set.constraints).cloned().collect();
        let known: Vec<Requirement> = known.into_iter().filter(|one| !wheels.contains_key(&one.name)).collect();
        let folders = [self.uv.find_links().map(Path::to_owned), Some(built.wheels_folder())];
        let text = to_lock(&known, &resolved, &folders.into_iter().flatten().collect::<Vec<_>>())?;
        release::check(source, &text)?;
        let notes = vec![format!("codeloc built in isolation: {}", built.built().join(", "))];
        let lock = Lock { text, built: None, notes };
        Ok(Lock::parse(&self.store(&key, lock.file()).await?, Some(built)))
    }

    /// Newer versions of required packages that are not installed, each with the package without a wheel that prevents it.
    async fn passed_over(&self, set: &Set, lock: &str) -> Result<Vec<(String, String)>, BuildError> {
        const MOST: usize = 5;
        if set.complete {
            return Ok(vec![]);
        }
        let is_library = |one: &&Requirement| release::LIBRARIES.contains(&one.name.as_str());
        let own: Vec<Requirement> = set.requirements.iter().filter(|one| !is_library(one)).cloned().collect();
        let alone = Set { requirements: own.clone(), complete: true, ..set.clone() };
        let newest = match self.compile(&alone).await {
            Ok(newest) => newest,
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => return Ok(vec![]),
        };
        let mut found = Vec::new();
        for package in &own {
            let (Some(newer), Some(installed)) =
                (release::version_in(&newest, &package.name), release::version_in(lock, &package.name))
            else {
                continue;
            };
            if newer == installed || found.len() >= MOST {
                continue;
            }
            let pin = requirements::parse(&format!("{}=={newer}", package.name)).map_err(BuildError::terminal)?;
            let mut pinned = set.clone();
            pinned.constraints.push(pin);
            match self.compile(&pinned).await {
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    found.extend(uv::lacks_wheel(&error).map(|missing| (format!("{} {newer}", package.name), missing)));
                }
                Ok(_) => {}
            }
        }
        Ok(found)
    }

    /// A complete set, and the packages of the platform that it lacks.
    fn locked(&self, locked: Locked) -> (Vec<Set>, Vec<Requirement>) {
        let Locked { packages, direct } = locked;
        let additions = release::additions(&packages, self.base);
        (vec![Set { requirements: packages, direct, complete: true, ..Set::default() }], additions)
    }

    fn open(&self, open: &Open) -> Vec<Set> {
        let set = |requirements, is_reduced| Set {
            requirements,
            is_reduced,
            constraints: open.constraints.clone(),
            overrides: open.overrides.clone(),
            origins: open.origins.clone(),
            direct: open.direct.clone(),
            ..Set::default()
        };
        let mut sets = Vec::new();
        let all: Vec<Requirement> = open.requirements.iter().chain(&open.optional).cloned().collect();
        let reduced = (!open.optional.is_empty()).then(|| open.requirements.clone());
        for (requirements, is_reduced) in std::iter::once((all, false)).chain(reduced.map(|reduced| (reduced, true))) {
            let bounded: Vec<Requirement> = requirements.iter().chain(&open.constraints).cloned().collect();
            let candidates = release::candidates(&requirements, &bounded, self.base);
            sets.extend(candidates.into_iter().map(|requirements| set(requirements, is_reduced)));
        }
        sets
    }

    /// The set with the packages of the platform and everything that these need. No version of the lock changes.
    async fn with_additions(&self, source: &str, locked: &Set, additions: Vec<Requirement>) -> Result<Set, BuildError> {
        let versions: Vec<Requirement> = locked
            .requirements
            .iter()
            .map(|package| Requirement { extras: String::new(), ..package.clone() })
            .collect();
        let wanted = Set { requirements: additions.clone(), constraints: versions.clone(), ..Set::default() };
        let resolved = match self.compile(&wanted).await {
            Err(error) if !error.is_transient() => {
                // The lock may override what its packages require of each other.
                let wanted = Set { constraints: vec![], overrides: versions, ..wanted };
                match self.compile(&wanted).await {
                    Err(_) => return Err(self.addition_error(source, &additions, error).await),
                    resolved => resolved?,
                }
            }
            resolved => resolved?,
        };
        let resolved = parse_lines(&resolved).map_err(|line| unreadable(&line))?;
        let is_locked = |package: &Requirement| locked.requirements.iter().any(|other| other.name == package.name);
        let added = resolved.into_iter().filter(|package| !is_locked(package));
        // The complete set gets its hashes in the next step.
        let added = added.map(|package| Requirement { hashes: BTreeSet::new(), ..package });
        Ok(Set { requirements: locked.requirements.iter().cloned().chain(added).collect(), ..locked.clone() })
    }

    async fn addition_error(&self, source: &str, additions: &[Requirement], error: BuildError) -> BuildError {
        let mut missing = Vec::new();
        for addition in additions.iter().filter(|one| one.specifier.starts_with("==")) {
            if self.is_absent(addition.clone()).await {
                missing.push(addition.line().replace("==", " "));
            }
        }
        if missing.is_empty() {
            let names: Vec<String> = additions.iter().map(Requirement::line).collect();
            let names = names.join(" and ");
            return BuildError::terminal(format!(
                "the versions in {source} exclude {names}, which codeloc adds for every location; lock other versions"
            ))
            .caused_by(error);
        }
        let missing = missing.join(" and ");
        BuildError::terminal(format!(
            "the Dagster release in {source} needs {missing}, and the package index does not have it; lock another release of Dagster"
        ))
        .caused_by(error)
    }

    /// The lock of the first set that has a solution. If none has one, the error of the last set.
    async fn resolve_first(&self, sets: &[Set]) -> Result<String, BuildError> {
        let mut last_error = BuildError::terminal("there are no requirements to resolve");
        for set in sets {
            // The image would lack a package that the project needs.
            if set.is_reduced && uv::lacks_wheel(&last_error).is_some() {
                break;
            }
            match self.compile(set).await {
                Ok(resolved) => {
                    self.check_origins(set, &resolved)?;
                    let known: Vec<Requirement> = set.requirements.iter().chain(&set.constraints).cloned().collect();
                    let folders: Vec<PathBuf> = self.uv.find_links().map(Path::to_owned).into_iter().collect();
                    return to_lock(&known, &resolved, &folders);
                }
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => last_error = error,
            }
        }
        let missing = match sets.last() {
            Some(set) if !set.complete => self.missing_libraries(set).await,
            _ => None,
        };
        Err(match missing {
            Some(missing) => BuildError::terminal(missing).caused_by(last_error),
            None => last_error,
        })
    }

    /// Refuses a package that another index provides than the one that the settings or the project name: it may be an unrelated package.
    fn check_origins(&self, set: &Set, resolved: &str) -> Result<(), BuildError> {
        for (name, origin) in uv::origins(resolved) {
            let exclusive = self.uv.exclusive_index(&name).map(|(index, url)| (index.to_owned(), url));
            let chosen = set.origins.get(&name).map(|url| (url.clone(), url.as_str()));
            for (index, url) in exclusive.into_iter().chain(chosen) {
                // The operator's folder of wheels has no URL.
                if origin.contains("://") && origin != uv::plain_index(url) {
                    return Err(BuildError::terminal(format!(
                        "{name} must come from the package index {index}, which does not have it; {origin} has a package with this name"
                    )));
                }
            }
        }
        Ok(())
    }

    async fn compile(&self, set: &Set) -> Result<String, BuildError> {
        let folder = temporary_folder(self.work)?;
        let write = |file: &str, requirements: &[Requirement], more: &str| {
            write_whole(&folder.path().join(file), (texts(requirements) + more).as_bytes())
        };
        write("requirements.in", &set.requirements, "")?;
        if self.constraints.is_some() || !set.constraints.is_empty() {
            write(CONSTRAINTS, &set.constraints, self.constraints.unwrap_or_default())?;
        }
        if !set.overrides.is_empty() {
            write(OVERRIDES, &set.overrides, "")?;
        }
        if let Some(built) = &set.built {
            built.link_wheels(folder.path())?;
        }
        self.uv.compile(folder.path(), self.target, set.complete).await
    }

    /// Whether the package index does not have a version.
    async fn is_absent(&self, package: Requirement) -> bool {
        let alone = Set { requirements: vec![package], complete: true, ..Set::default() };
        self.compile(&alone).await.is_err_and(|error| !error.is_transient())
    }

    /// A message about the Dagster libraries that the index lacks, if this is why there is no solution.
    async fn missing_libraries(&self, set: &Set) -> Option<String> {
        let is_library = |one: &&Requirement| release::LIBRARIES.contains(&one.name.as_str());
        let others = set.requirements.iter().filter(|one| !is_library(one)).cloned().collect();
        let names: BTreeSet<&str> = set.requirements.iter().filter(is_library).map(|one| one.name.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        let without = Set { requirements: others, ..set.clone() };
        let dagster = release::version_in(&self.compile(&without).await.ok()?, "dagster")?;
        let version = release::library_version(&dagster)?;
        let mut missing = Vec::new();
        for name in names {
            let library = requirements::parse(&format!("{name}=={version}")).ok()?;
            if self.is_absent(library).await {
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
    async fn export(&self, lock: &LockFile) -> Result<Locked, BuildError> {
        let folder = temporary_folder(self.work)?;
        for (path, text) in &lock.texts {
            write_whole(&folder.path().join(path), text.as_bytes())?;
        }
        let text = self.uv.export(&folder.path().join(&lock.folder), lock.package.as_deref()).await?;
        let file = within(&lock.folder, "uv.lock");
        let lock = &lock.texts[&file];
        let mut locked = Locked::default();
        for (_, line) in requirements::logical_lines(&text) {
            let refused = |reason: String| refusal(&file, line_in_lock(lock, &line), &line, &reason);
            match requirements::parse_direct(&line) {
                Some(direct) => locked.direct.push(direct.map_err(refused)?),
                None => locked.packages.push(requirements::parse(&line).map_err(refused)?),
            }
        }
        Ok(locked)
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
fn to_lock(requirements: &[Requirement], resolved: &str, wheels: &[PathBuf]) -> Result<String, BuildError> {
    let mut allowed: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for requirement in requirements.iter().filter(|requirement| !requirement.hashes.is_empty()) {
        allowed.entry(&requirement.name).or_default().extend(&requirement.hashes);
    }
    let mut packages = parse_lines(resolved).map_err(|line| unreadable(&line))?;
    for package in &mut packages {
        for folder in wheels {
            if package.hashes.is_empty() {
                package.hashes = wheel_hashes(folder, package)?;
            }
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

fn unreadable(RefusedLine { text, reason }: &RefusedLine) -> BuildError {
    BuildError::terminal(format!("uv resolved a dependency to `{text}`, which codeloc refuses: {reason}"))
}

/// `sdist: pyspark 4.1.1`
fn sdist(package: &str) -> String {
    format!("sdist: {}", package.replace("==", " "))
}

fn texts(requirements: &[Requirement]) -> String {
    requirements.iter().map(|requirement| requirement.line() + "\n").collect()
}

/// The normal name and the version in the name of a wheel.
fn wheel_name(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_string_lossy();
    let mut parts = name.split('-');
    Some((normal_name(parts.next()?), parts.next()?.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;

    fn requirements(lines: &[&str]) -> Vec<Requirement> {
        lines.iter().map(|line| requirements::parse(line).unwrap()).collect()
    }

    #[test]
    fn user_hashes_restrict_index_hashes() {
        let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let resolved = format!("b==2 \\\n    --hash={}\na==1 --hash={} --hash={}\n", hash("3"), hash("1"), hash("2"));
        let user = requirements(&["b", &format!("a --hash={}", hash("1"))]);
        assert_eq!(
            to_lock(&user, &resolved, &[]).unwrap(),
            format!("a==1 --hash={}\nb==2 --hash={}\n", hash("1"), hash("3"))
        );
        let other = requirements(&[&format!("a --hash={}", hash("9"))]);
        assert!(expect_terminal(to_lock(&other, &resolved, &[])).contains("a==1"));
    }

    #[test]
    fn exported_lines_are_found_in_the_lock() {
        let lock = "version = 1\n[[package]]\nname = \"in-house\"\nsource = { git = \"x\" }\n[[package]]\nsource = { editable = \"libs/a\" }\n";
        assert_eq!(line_in_lock(lock, "in-house @ git+https://host/x"), 3);
        assert_eq!(line_in_lock(lock, "-e ./libs/a"), 6);
    }
}
