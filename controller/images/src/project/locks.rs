//! The versions in the locks of Poetry, PDM and Pipenv. Pure.

use std::collections::BTreeMap;

use crate::error::BuildError;
use crate::requirements::{Requirement, line_of, normal_name, parse, parse_toml, refusal};

/// The versions of a `poetry.lock` or `pdm.lock`: `name==version ; marker` with hashes. Packages from folders and version control are left
/// out, since the project names them itself.
pub(super) fn pins(file: &str, text: &str) -> Result<Vec<Requirement>, BuildError> {
    let document = parse_toml(file, text)?;
    let packages = document.get("package").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    // Poetry before 1.3 lists the hashes at the end.
    let files_of = |package: &toml::Value, name: &str| -> Vec<toml::Value> {
        let own = package.get("files").or_else(|| document.get("metadata")?.get("files")?.get(name));
        own.and_then(toml::Value::as_array).cloned().unwrap_or_default()
    };
    let mut by_name: BTreeMap<String, Vec<Requirement>> = BTreeMap::new();
    for package in &packages {
        let string = |key: &str| package.get(key).and_then(toml::Value::as_str);
        let Some(name) = string("name") else { continue };
        let kind = package.get("source").and_then(|source| source.get("type")?.as_str());
        let elsewhere = ["git", "path", "url"].iter().any(|key| package.get(key).is_some())
            || kind.is_some_and(|kind| kind != "legacy");
        if elsewhere {
            continue;
        }
        let line = line_of(text, &format!("\"{name}\""));
        let refused = |reason: String| refusal(file, line, name, &reason);
        let version = string("version").ok_or_else(|| refused("it has no version".to_owned()))?;
        let marker = match package.get("markers").or_else(|| package.get("marker")) {
            Some(toml::Value::String(marker)) => Some(marker.as_str()),
            // One marker for each group.
            Some(toml::Value::Table(groups)) => groups.get("main").and_then(toml::Value::as_str),
            _ => None,
        };
        let mut line = format!("{name}=={version}");
        if let Some(marker) = marker.filter(|marker| !marker.contains("extra")) {
            line = format!("{line} ; {marker}");
        }
        for hash in files_of(package, name).iter().filter_map(|one| one.get("hash")?.as_str()) {
            line = format!("{line} --hash={hash}");
        }
        let pin = parse(&line).map_err(refused)?;
        let known = by_name.entry(pin.name.clone()).or_default();
        if !known.iter().any(|other| other.specifier == pin.specifier && other.marker == pin.marker) {
            known.push(pin);
        }
    }
    // Without markers nothing says which of several versions belongs to this platform.
    by_name.retain(|_, versions| versions.len() == 1 || versions.iter().all(|version| !version.marker.is_empty()));
    Ok(by_name.into_values().flatten().collect())
}

/// The packages of a `Pipfile.lock`, which is a complete set.
pub(super) fn pipfile(file: &str, text: &str) -> Result<Vec<Requirement>, BuildError> {
    let document: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| BuildError::terminal(format!("{file} is not valid JSON: line {}", error.line())))?;
    let packages = document["default"].as_object().cloned().unwrap_or_default();
    packages
        .iter()
        .map(|(name, package)| {
            let line = line_of(text, &format!("\"{name}\""));
            let refused = |reason: &str| refusal(file, line, name, reason);
            let version = package["version"]
                .as_str()
                .ok_or_else(|| refused("codeloc installs only versions of a package index from this file"))?;
            let strings = |key: &str| -> Vec<String> {
                let values = package[key].as_array().cloned().unwrap_or_default();
                values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
            };
            let extras = strings("extras").join(",");
            let extras = if extras.is_empty() { extras } else { format!("[{extras}]") };
            let mut line = format!("{}{extras}{version}", normal_name(name));
            if let Some(marker) = package["markers"].as_str() {
                line = format!("{line} ; {marker}");
            }
            for hash in strings("hashes") {
                line = format!("{line} --hash={hash}");
            }
            parse(&line).map_err(|reason| refused(&reason))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;

    fn lines(pins: &[Requirement]) -> Vec<String> {
        pins.iter().map(Requirement::locked_line).collect()
    }

    #[test]
    fn locks_of_poetry_and_pdm_give_versions() {
        let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let text = format!(
            "[[package]]\nname = \"Humanize\"\nversion = \"4.9.0\"\nmarkers = \"python_version >= '3.9'\"\nfiles = [{{file = \"h.whl\", hash = \"{}\"}}]\n\
             [[package]]\nname = \"twice\"\nversion = \"1\"\n[[package]]\nname = \"twice\"\nversion = \"2\"\n\
             [[package]]\nname = \"lib\"\nversion = \"1\"\n[package.source]\ntype = \"directory\"\nurl = \"../lib\"\n\
             [[package]]\nname = \"fork\"\nversion = \"1\"\ngit = \"https://host/x\"\n\
             [[package]]\nname = \"old\"\nversion = \"3\"\n[metadata.files]\nold = [{{file = \"o.whl\", hash = \"{}\"}}]\n",
            hash("1"),
            hash("2"),
        );
        assert_eq!(
            lines(&pins("poetry.lock", &text).unwrap()),
            [
                format!("humanize==4.9.0 ; python_version >= '3.9' --hash={}", hash("1")),
                format!("old==3 --hash={}", hash("2")),
            ]
        );
        let marked = "[[package]]\nname = \"n\"\nversion = \"1\"\nmarker = \"python_version < '3.12'\"\n[[package]]\nname = \"n\"\nversion = \"2\"\nmarker = \"python_version >= '3.12'\"\n";
        assert_eq!(pins("pdm.lock", marked).unwrap().len(), 2);
        assert!(expect_terminal(pins("poetry.lock", "[[package]]\nname = \"n\"\n")).starts_with("poetry.lock:2: "));
    }

    #[test]
    fn a_lock_of_pipenv_is_a_complete_set() {
        let hash = "1".repeat(64);
        let text = format!(
            "{{\"default\": {{\"humanize\": {{\"version\": \"==4.9.0\", \"hashes\": [\"sha256:{hash}\"], \"markers\": \"python_version >= '3.8'\"}},\n\
             \"dagster\": {{\"version\": \"==1.13.27\", \"extras\": [\"x\"]}}}}, \"develop\": {{\"pytest\": {{}}}}}}"
        );
        assert_eq!(
            lines(&pipfile("Pipfile.lock", &text).unwrap()),
            [
                format!("humanize==4.9.0 ; python_version >= '3.8' --hash=sha256:{hash}"),
                "dagster[x]==1.13.27".to_owned()
            ]
        );
        let git = "{\"default\": {\"fork\": {\"git\": \"https://me:hunter2@host/x\"}}}";
        let error = expect_terminal(pipfile("Pipfile.lock", git));
        assert!(error.starts_with("Pipfile.lock:1: codeloc refuses `fork`") && !error.contains("hunter2"), "{error}");
    }
}
