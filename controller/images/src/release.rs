//! Libraries of Dagster's go with one release of Dagster: 0.(16+Y).Z with 1.Y.Z.
//!
//! Guarantees: no lock passes in which one of them is of another release. Runs would fail with it, since old libraries admit
//! every Dagster by their metadata: without the matching library on the index, a resolver falls back to one of 2021.

use super::{
    BuildError,
    requirements::{Requirement, parse_lines},
};

/// What codeloc's own package imports in a location.
pub(super) const LIBRARIES: [&str; 2] = ["dagster-aws", "dagster-postgres"];
/// Those of Dagster 1.0, the first whose metadata names the one Dagster that they go with.
const OLDEST: &str = ">=0.16";

/// What is resolved, in the order in which it is tried: first the project's requirements with the platform's. Where a project
/// bounds a package of Dagster's by itself, the platform's releases of those yield in a second set.
pub(super) fn candidates(user: &[Requirement], base: &[Requirement]) -> Vec<Vec<Requirement>> {
    let bounds = |one: &Requirement| !one.specifier.is_empty();
    let joined = |yields: bool| -> Vec<Requirement> {
        let platform = base.iter().filter_map(|one| {
            let mut one = one.clone();
            if of_dagster(&one.name) {
                if yields {
                    one.specifier.clear();
                }
            } else if user.iter().any(|other| other.name == one.name && bounds(other)) {
                return None;
            }
            Some(one)
        });
        user.iter().cloned().chain(platform).map(not_too_old).collect()
    };
    let mut all = vec![joined(false)];
    if user.iter().any(|one| of_dagster(&one.name) && bounds(one)) {
        let open = joined(true);
        if open != all[0] {
            all.push(open);
        }
    }
    all
}

fn of_dagster(name: &str) -> bool {
    name == "dagster" || name.starts_with("dagster-")
}

fn not_too_old(mut requirement: Requirement) -> Requirement {
    if LIBRARIES.contains(&requirement.name.as_str()) && !requirement.specifier.starts_with("==") {
        if !requirement.specifier.is_empty() {
            requirement.specifier.push(',');
        }
        requirement.specifier.push_str(OLDEST);
    }
    requirement
}

/// The version of a package in a lock, or in uv's answer.
pub(super) fn version_in(lock: &str, name: &str) -> Option<String> {
    let packages = parse_lines(lock).ok()?;
    let package = packages.into_iter().find(|package| package.name == name)?;
    package.specifier.strip_prefix("==").map(str::to_owned)
}

/// The version of the libraries that go with a Dagster; nothing where the rule is not known.
pub(super) fn library_of(dagster: &str) -> Option<String> {
    let mut parts = dagster.splitn(3, '.');
    let (major, minor, patch) = (parts.next()?, parts.next()?.parse::<u32>().ok()?, parts.next()?);
    match major {
        "0" => Some(dagster.to_owned()),
        "1" => Some(format!("0.{}.{patch}", minor + 16)),
        _ => None,
    }
}

/// Refuses a lock whose libraries are of another release than its Dagster. `source` is where the lock comes from.
pub(super) fn check(source: &str, lock: &str) -> Result<(), BuildError> {
    let Some(dagster) = version_in(lock, "dagster") else { return Ok(()) };
    let Some(wanted) = library_of(&dagster) else { return Ok(()) };
    for name in LIBRARIES {
        if let Some(has) = version_in(lock, name)
            && numbers(&has) != numbers(&wanted)
        {
            return Err(BuildError::Terminal(format!(
                "{source}: {name} {has} is of another release than Dagster {dagster}, which goes with {name} {wanted}: \
                 require that one and commit, or another release of Dagster"
            )));
        }
    }
    Ok(())
}

/// What is compared of a version: a post-release of one package alone is of the same release.
fn numbers(version: &str) -> Vec<&str> {
    let digits = |part: &str| part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
    version.split('.').take(3).map(|part| &part[..digits(part)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirements::parse;

    fn requirements(lines: &[&str]) -> Vec<Requirement> {
        lines.iter().map(|line| parse(line).unwrap()).collect()
    }

    fn asked(user: &[&str], base: &[&str]) -> Vec<Vec<String>> {
        let all = candidates(&requirements(user), &requirements(base));
        all.iter().map(|one| one.iter().map(Requirement::line).collect()).collect()
    }

    #[test]
    fn the_platforms_releases_come_first_and_yield_to_the_projects_bounds() {
        let base = ["dagster==1.13.27", "dagster-aws==0.29.27", "boto3==1.44.8"];
        assert_eq!(
            asked(&["pandas"], &base),
            [["pandas", "dagster==1.13.27", "dagster-aws==0.29.27", "boto3==1.44.8"]]
        );
        assert_eq!(
            asked(&["dagster<2"], &base),
            [
                ["dagster<2", "dagster==1.13.27", "dagster-aws==0.29.27", "boto3==1.44.8"],
                ["dagster<2", "dagster", "dagster-aws>=0.16", "boto3==1.44.8"],
            ]
        );
        assert_eq!(asked(&["dagster-dbt==0.28.1"], &base).len(), 2);
        assert_eq!(asked(&["boto3>=1.40"], &base), [["boto3>=1.40", "dagster==1.13.27", "dagster-aws==0.29.27"]]);
        assert_eq!(
            asked(&["dagster>=1.7"], &["dagster", "dagster-aws"]),
            [["dagster>=1.7", "dagster", "dagster-aws>=0.16"]]
        );
        assert_eq!(asked(&["dagster-aws<1"], &["dagster"])[0], ["dagster-aws<1,>=0.16", "dagster"]);
    }

    #[test]
    fn a_library_of_another_release_than_dagster_is_refused_by_name() {
        let told = |dagster: &str, library: &str| {
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
            assert!(told(dagster, library).is_ok(), "{dagster} {library}");
        }
        for (dagster, library) in
            [("1.13.29", "0.12.3"), ("1.13.27", "0.29.28"), ("1.12.27", "0.29.27"), ("1.1.1", "0.171.1")]
        {
            let Err(BuildError::Terminal(text)) = told(dagster, library) else { panic!("{dagster} {library}") };
            assert!(text.starts_with(&format!("uv.lock: dagster-postgres {library} is of another release")), "{text}");
            assert!(text.contains(&library_of(dagster).unwrap()), "{text}");
        }
    }
}
