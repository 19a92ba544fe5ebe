//! Version specifiers: those of Poetry as those of Python, and whether a Python version fits.

use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};

/// A Poetry constraint (`^1.2`, `~1.2`, `1.2.*`, `1.2`) as a PEP 440 specifier. `Err` gives the reason of a refusal.
pub(super) fn from_poetry(constraint: &str) -> Result<String, String> {
    if constraint.contains("||") {
        return Err(format!("`{constraint}` has alternatives; write one range of versions"));
    }
    let clauses: Result<Vec<String>, String> = constraint
        .split(',')
        .map(str::trim)
        .filter(|clause| !clause.is_empty() && *clause != "*")
        .map(clause_from_poetry)
        .collect();
    Ok(clauses?.join(","))
}

fn clause_from_poetry(clause: &str) -> Result<String, String> {
    // Poetry also separates clauses with spaces: `>=1.2 <2`.
    let glued = clause.replace(' ', "");
    if let Some(version) = glued.strip_prefix('^') {
        let numbers = numbers(version)?;
        let kept = numbers.iter().position(|number| *number != 0).unwrap_or(numbers.len() - 1);
        return Ok(format!(">={version},<{}", next(&numbers, kept)));
    }
    if let Some(version) = glued.strip_prefix('~').filter(|rest| !rest.starts_with('=')) {
        let numbers = numbers(version)?;
        return Ok(format!(">={version},<{}", next(&numbers, usize::from(numbers.len() > 1))));
    }
    if glued.starts_with(|letter: char| letter.is_ascii_digit()) {
        return Ok(format!("=={glued}"));
    }
    let separated: Vec<&str> = clause.split_whitespace().collect();
    match separated[..] {
        [first, second] if second.starts_with(['<', '>', '!']) => Ok(format!("{first},{second}")),
        _ => Ok(glued),
    }
}

fn numbers(version: &str) -> Result<Vec<u64>, String> {
    let parsed = Version::from_str(version).map_err(|_| format!("`{version}` is not a version"))?;
    Ok(parsed.release().to_vec())
}

/// The first version with another number at `place`.
fn next(numbers: &[u64], place: usize) -> String {
    let kept = numbers.iter().take(place + 1).enumerate();
    kept.map(|(at, number)| (number + u64::from(at == place)).to_string()).collect::<Vec<_>>().join(".")
}

/// Whether some release of a Python minor version, such as `3.12`, fits. An invalid specifier fits: pip and uv report it better.
pub(super) fn allows_python(specifier: &str, minor: &str) -> bool {
    let Ok(specifiers) = VersionSpecifiers::from_str(specifier) else { return true };
    let releases = ["0", "1", "7", "99"].map(|patch| Version::from_str(&format!("{minor}.{patch}")));
    releases.iter().flatten().any(|version| specifiers.contains(version))
}

/// The Python minor version that is nearest to `default` and that all specifiers allow, if one of them excludes `default`. Newer ones come
/// first.
pub(crate) fn python_for(specifiers: &[&str], default: &str) -> Option<String> {
    let allows = |minor: &str| specifiers.iter().all(|specifier| allows_python(specifier, minor));
    if allows(default) {
        return None;
    }
    let number: u32 = default.rsplit('.').next()?.parse().ok()?;
    // Dagster supports these.
    let newer = (number + 1..=14).chain((10..number).rev());
    newer.map(|minor| format!("3.{minor}")).find(|minor| allows(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_of_poetry_become_specifiers() {
        for (poetry, expected) in [
            ("^1.2.3", ">=1.2.3,<2"),
            ("^0.2.3", ">=0.2.3,<0.3"),
            ("^0.0.3", ">=0.0.3,<0.0.4"),
            ("^0", ">=0,<1"),
            ("~1.2.3", ">=1.2.3,<1.3"),
            ("~1", ">=1,<2"),
            ("~=1.2", "~=1.2"),
            ("*", ""),
            ("1.2.*", "==1.2.*"),
            ("1.13.27", "==1.13.27"),
            (">=1.2,<2", ">=1.2,<2"),
            (">=1.2 <2", ">=1.2,<2"),
            (">= 1.2", ">=1.2"),
        ] {
            assert_eq!(from_poetry(poetry).as_deref(), Ok(expected), "{poetry}");
        }
        assert!(from_poetry("^1 || ^2").unwrap_err().contains("alternatives"));
        assert!(from_poetry("^x").is_err());
    }

    #[test]
    fn a_minor_version_of_python_fits_if_one_release_does() {
        assert!(allows_python(">=3.10,<3.14", "3.12"));
        assert!(allows_python(">=3.12.4", "3.12"));
        assert!(allows_python("<=3.12.1", "3.12"));
        assert!(!allows_python(">=3.13", "3.12"));
        assert!(!allows_python("<3.12", "3.12"));
        assert!(allows_python("nonsense", "3.12"));
    }

    #[test]
    fn another_python_is_chosen_only_if_necessary() {
        assert_eq!(python_for(&[">=3.10"], "3.12"), None);
        assert_eq!(python_for(&[">=3.10", "<3.12"], "3.12").as_deref(), Some("3.11"));
        assert_eq!(python_for(&[">=4"], "3.12"), None);
    }
}
