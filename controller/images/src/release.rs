//! Matches Dagster's libraries to the release of Dagster: 0.(16+Y).Z belongs to 1.Y.Z.
//!
//! Guarantees: a lock with a library of another release is refused. Runs would fail with it. A resolver does not prevent it:
//! the metadata of libraries from 2021 allow every Dagster, so it falls back to them if the index lacks the matching library.

use crate::error::BuildError;
use crate::requirements::{Requirement, parse_lines};

/// The libraries that codeloc's package imports in a location.
pub(super) const LIBRARIES: [&str; 2] = ["dagster-aws", "dagster-postgres"];
/// The libraries of Dagster 1.0, the first ones whose metadata require their own Dagster release.
const OLDEST: &str = ">=0.16";

/// The sets of requirements to resolve, in order. The first has the requirements of the project and of the platform. If the
/// project bounds a Dagster package itself, the second set drops the platform's versions of Dagster packages.
///
/// `bounded` are the requirements of the project with the versions of its lock.
pub(super) fn candidates(user: &[Requirement], bounded: &[Requirement], base: &[Requirement]) -> Vec<Vec<Requirement>> {
    let has_bounds = |requirement: &Requirement| !requirement.specifier.is_empty();
    let combined = |drop_versions: bool| -> Vec<Requirement> {
        let platform = base.iter().filter_map(|requirement| {
            let mut requirement = requirement.clone();
            if is_dagster_package(&requirement.name) {
                if drop_versions {
                    requirement.specifier.clear();
                }
            } else if bounded.iter().any(|other| other.name == requirement.name && has_bounds(other)) {
                return None;
            }
            Some(requirement)
        });
        user.iter().cloned().chain(platform).map(with_lower_bound).collect()
    };
    let mut sets = vec![combined(false)];
    if bounded.iter().any(|requirement| is_dagster_package(&requirement.name) && has_bounds(requirement)) {
        let without_versions = combined(true);
        if without_versions != sets[0] {
            sets.push(without_versions);
        }
    }
    sets
}

/// The packages of the platform that a complete set lacks. Dagster's libraries are those of its Dagster release.
pub(super) fn additions(packages: &[Requirement], base: &[Requirement]) -> Vec<Requirement> {
    let version = |name: &str| {
        let package = packages.iter().find(|package| package.name == name)?;
        package.specifier.strip_prefix("==").map(str::to_owned)
    };
    let library = version("dagster").and_then(|dagster| library_version(&dagster));
    let missing = base.iter().filter(|one| packages.iter().all(|package| package.name != one.name));
    let matched = missing.map(|one| match &library {
        Some(version) if LIBRARIES.contains(&one.name.as_str()) => {
            Requirement { specifier: format!("=={version}"), ..one.clone() }
        }
        _ => with_lower_bound(one.clone()),
    });
    matched.collect()
}

fn is_dagster_package(name: &str) -> bool {
    name == "dagster" || name.starts_with("dagster-")
}

fn with_lower_bound(mut requirement: Requirement) -> Requirement {
    if LIBRARIES.contains(&requirement.name.as_str()) && !requirement.specifier.starts_with("==") {
        if !requirement.specifier.is_empty() {
            requirement.specifier.push(',');
        }
        requirement.specifier.push_str(OLDEST);
    }
    requirement
}

/// The version of a package in a lock or in uv's output.
pub(super) fn version_in(lock: &str, name: &str) -> Option<String> {
    let packages = parse_lines(lock).ok()?;
    let package = packages.into_iter().find(|package| package.name == name)?;
    package.specifier.strip_prefix("==").map(str::to_owned)
}

/// The version of the libraries that belong to a Dagster release; `None` if the rule is unknown.
pub(super) fn library_version(dagster: &str) -> Option<String> {
    let mut parts = dagster.splitn(3, '.');
    let (major, minor, patch) = (parts.next()?, parts.next()?.parse::<u32>().ok()?, parts.next()?);
    match major {
        "0" => Some(dagster.to_owned()),
        "1" => Some(format!("0.{}.{patch}", minor + 16)),
        _ => None,
    }
}

/// Refuses a lock whose libraries do not belong to its Dagster release. `source` names the origin of the lock.
pub(super) fn check(source: &str, lock: &str) -> Result<(), BuildError> {
    let Some(dagster) = version_in(lock, "dagster") else { return Ok(()) };
    let Some(expected) = library_version(&dagster) else { return Ok(()) };
    for name in LIBRARIES {
        if let Some(version) = version_in(lock, name)
            && release_numbers(&version) != release_numbers(&expected)
        {
            return Err(BuildError::terminal(format!(
                "{source}: {name} {version} does not belong to Dagster {dagster}, which needs {name} {expected}; \
                 require that version or another release of Dagster, and commit"
            )));
        }
    }
    Ok(())
}

/// The first three numbers of a version: a post-release of a single package belongs to the same release.
fn release_numbers(version: &str) -> Vec<&str> {
    let digits = |part: &str| part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
    version.split('.').take(3).map(|part| &part[..digits(part)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;
    use crate::requirements::parse;

    fn requirements(lines: &[&str]) -> Vec<Requirement> {
        lines.iter().map(|line| parse(line).unwrap()).collect()
    }

    fn candidate_lines(user: &[&str], base: &[&str]) -> Vec<Vec<String>> {
        let sets = candidates(&requirements(user), &requirements(user), &requirements(base));
        sets.iter().map(|set| set.iter().map(Requirement::line).collect()).collect()
    }

    #[test]
    fn platform_versions_come_first_and_projects_can_override_them() {
        let base = ["dagster==1.13.27", "dagster-aws==0.29.27", "boto3==1.44.8"];
        assert_eq!(
            candidate_lines(&["pandas"], &base),
            [["pandas", "dagster==1.13.27", "dagster-aws==0.29.27", "boto3==1.44.8"]]
        );
        assert_eq!(
            candidate_lines(&["dagster<2"], &base),
            [
                ["dagster<2", "dagster==1.13.27", "dagster-aws==0.29.27", "boto3==1.44.8"],
                ["dagster<2", "dagster", "dagster-aws>=0.16", "boto3==1.44.8"],
            ]
        );
        assert_eq!(candidate_lines(&["dagster-dbt==0.28.1"], &base).len(), 2);
        assert_eq!(
            candidate_lines(&["boto3>=1.40"], &base),
            [["boto3>=1.40", "dagster==1.13.27", "dagster-aws==0.29.27"]]
        );
        assert_eq!(
            candidate_lines(&["dagster>=1.7"], &["dagster", "dagster-aws"]),
            [["dagster>=1.7", "dagster", "dagster-aws>=0.16"]]
        );
        assert_eq!(candidate_lines(&["dagster-aws<1"], &["dagster"])[0], ["dagster-aws<1,>=0.16", "dagster"]);
    }

    #[test]
    fn a_library_of_another_dagster_release_is_refused() {
        let checked = |dagster: &str, library: &str| {
            check(
                "uv.lock",
                &format!("dagster-postgres=={library} --hash=sha256:{}\ndagster=={dagster}\n", "1".repeat(64)),
            )
        };
        for (dagster, library) in [
            ("1.13.27", "0.29.27"),
            ("1.0.0", "0.16.0"),
            ("0.15.8", "0.15.8"),
            ("1.13.27.post1", "0.29.27"),
            ("1.13.0rc1", "0.29.0rc1"),
            ("2.0.0", "0.99.0"),
        ] {
            assert!(checked(dagster, library).is_ok(), "{dagster} {library}");
        }
        for (dagster, library) in
            [("1.13.29", "0.12.3"), ("1.13.27", "0.29.28"), ("1.12.27", "0.29.27"), ("1.1.1", "0.171.1")]
        {
            let text = expect_terminal(checked(dagster, library));
            let expected = format!("uv.lock: dagster-postgres {library} does not belong to Dagster {dagster}");
            assert!(text.starts_with(&expected), "{text}");
            assert!(text.contains(&library_version(dagster).unwrap()), "{text}");
        }
    }
}
