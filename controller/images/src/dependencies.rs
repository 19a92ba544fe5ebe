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
use crate::project::files::within;
use crate::project::{LockFile, Open, Packages, Plan};
use crate::release;
use crate::requirements::{self, RefusedLine, Requirement, line_of, normal_name, parse_lines, refusal};
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
    pub progress: &'a OnProgress<'a>,
}

/// What uv resolves at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Set {
    requirements: Vec<Requirement>,
    constraints: Vec<Requirement>,
    overrides: Vec<Requirement>,
    /// The URL of the index that a package must come from, by name.
    origins: BTreeMap<String, String>,
    /// The requirements are all packages.
    complete: bool,
    /// Without the requirements of the project itself, which may contradict those of the file.
    is_reduced: bool,
}

impl Resolution<'_> {
    /// The lock: one sorted line per package, with hashes. Its Dagster packages belong to one release.
    pub(super) async fn lock(&self, plan: &Plan) -> Result<String, BuildError> {
        let source = plan.source.as_deref().unwrap_or("the resolved dependencies");
        let lock = self.resolved(source, &plan.packages).await?;
        release::check(source, &lock)?;
        Ok(lock)
    }

    async fn resolved(&self, source: &str, packages: &Packages) -> Result<String, BuildError> {
        let (sets, additions) = match packages {
            Packages::UvLock(lock) => self.locked(self.export(lock).await?),
            Packages::Locked(packages) => self.locked(packages.clone()),
            Packages::Open(open) => (self.open(open), vec![]),
        };
        if sets[0].requirements.is_empty() && additions.is_empty() {
            return Ok(String::new());
        }
        let lines = |set: &Set| {
            let [requirements, constraints, overrides] =
                [&set.requirements, &set.constraints, &set.overrides].map(|part| sorted_lines(part));
            serde_json::json!([requirements, constraints, overrides, set.complete, set.origins])
        };
        let key = serde_json::json!({
            "sets": sets.iter().map(lines).collect::<Vec<_>>(),
            "additions": sorted_lines(&additions),
            "target": self.target.key(),
            "constraints": self.constraints,
            "index": self.uv.index(),
        });
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
        (self.progress)(Progress::Resolving { requirements: sets[0].requirements.len() + additions.len() });
        let sets =
            if additions.is_empty() { sets } else { vec![self.with_additions(source, &sets[0], additions).await?] };
        let lock = self.resolve_first(&sets).await?;
        release::check(source, &lock)?;
        let lock = self.build_cache.write_first(&name, lock).await?;
        write_whole(&local, lock.as_bytes())?;
        Ok(lock)
    }

    /// A complete set, and the packages of the platform that it lacks.
    fn locked(&self, packages: Vec<Requirement>) -> (Vec<Set>, Vec<Requirement>) {
        let additions = release::additions(&packages, self.base);
        (vec![Set { requirements: packages, complete: true, ..Set::default() }], additions)
    }

    fn open(&self, open: &Open) -> Vec<Set> {
        let set = |requirements, is_reduced| Set {
            requirements,
            is_reduced,
            constraints: open.constraints.clone(),
            overrides: open.overrides.clone(),
            origins: open.origins.clone(),
            complete: false,
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
            if set.is_reduced && uv::lacks_wheel(&last_error) {
                break;
            }
            match self.compile(set).await {
                Ok(resolved) => {
                    self.check_origins(set, &resolved)?;
                    let known: Vec<Requirement> = set.requirements.iter().chain(&set.constraints).cloned().collect();
                    return to_lock(&known, &resolved, self.uv.find_links());
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
            let lines: String = requirements.iter().map(|requirement| requirement.line() + "\n").collect();
            write_whole(&folder.path().join(file), (lines + more).as_bytes())
        };
        write("requirements.in", &set.requirements, "")?;
        if self.constraints.is_some() || !set.constraints.is_empty() {
            write(CONSTRAINTS, &set.constraints, self.constraints.unwrap_or_default())?;
        }
        if !set.overrides.is_empty() {
            write(OVERRIDES, &set.overrides, "")?;
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
    async fn export(&self, lock: &LockFile) -> Result<Vec<Requirement>, BuildError> {
        let folder = temporary_folder(self.work)?;
        for (path, text) in &lock.texts {
            write_whole(&folder.path().join(path), text.as_bytes())?;
        }
        let text = self.uv.export(&folder.path().join(&lock.folder), lock.package.as_deref()).await?;
        let file = within(&lock.folder, "uv.lock");
        let lock = &lock.texts[&file];
        parse_lines(&text)
            .map_err(|RefusedLine { text, reason }| refusal(&file, line_in_lock(lock, &text), &text, &reason))
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
    let mut packages = parse_lines(resolved).map_err(|line| unreadable(&line))?;
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

fn unreadable(RefusedLine { text, reason }: &RefusedLine) -> BuildError {
    BuildError::terminal(format!("uv resolved a dependency to `{text}`, which codeloc refuses: {reason}"))
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
