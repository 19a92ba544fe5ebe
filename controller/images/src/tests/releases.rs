//! Dagster's libraries are of the release of the location's Dagster, with the real uv and an index on which releases are missing.

use std::collections::BTreeMap;

use super::python::{lock, made_by, python, uv};
use super::{CODE, Repository, TestRegistry, Workshop, layer};
use crate::{BuildError, Request};

/// As a public index is: each library names its Dagster, apart from those of 2021; the newest releases lack libraries.
const INDEX: &str = r"
def release(dagster, *libraries):
    wheel('dagster', dagster, {'dagster.py': ''})
    major, minor, patch = dagster.split('.')
    for name in libraries:
        wheel(name, f'0.{16 + int(minor)}.{patch}', {f'{name}.py': ''}, f'Requires-Dist: dagster=={dagster}\n')
release('1.7.16', 'dagster_aws', 'dagster_postgres')
release('1.13.26', 'dagster_aws', 'dagster_postgres')
release('1.13.27', 'dagster_aws', 'dagster_postgres')
release('1.13.28', 'dagster_aws')
release('1.13.29')
for name in ('dagster_aws', 'dagster_postgres'):
    wheel(name, '0.12.3', {f'{name}.py': ''}, 'Requires-Dist: dagster\n')
wheel('dagster_dbt', '0.23.16', {'dagster_dbt.py': ''}, 'Requires-Dist: dagster==1.7.16\n')
";

/// Builds from requirement lines; answers the packages of the image, by name, or the refusal.
async fn built(platform: &[&str], files: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
    let index = made_by(INDEX);
    let workshop = Workshop::with(|settings| {
        settings.uv = uv().unwrap();
        settings.python = Some(python());
        settings.find_links = Some(index.path().to_path_buf());
        settings.requirements = platform.iter().map(|line| (*line).to_owned()).collect();
    });
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let request = |files: &[(&str, &str)]| -> Request {
        repository.request(&registry, &repository.commit(&[CODE.as_slice(), files].concat()))
    };
    if let [("pyproject.toml", project)] = files {
        lock(&uv().unwrap(), index.path(), &repository, project);
    }
    match workshop.build(&request(files)).await {
        Ok(image) => {
            let layer = layer(&registry, &image, "dependencies");
            let folders = layer.keys().filter_map(|path| path.strip_suffix(".dist-info/")?.rsplit('/').next());
            Ok(folders.filter_map(|name| name.split_once('-')).map(|(name, of)| (name.into(), of.into())).collect())
        }
        Err(BuildError::Terminal(text)) => Err(text),
        Err(error) => panic!("{error}"),
    }
}

fn of_release(dagster: &str, library: &str) -> BTreeMap<String, String> {
    let packages = [("dagster", dagster), ("dagster_aws", library), ("dagster_postgres", library)];
    packages.map(|(name, version)| (name.to_owned(), version.to_owned())).into()
}

const OPEN: [&str; 3] = ["dagster", "dagster-aws", "dagster-postgres"];
const PINNED: [&str; 3] = ["dagster==1.13.26", "dagster-aws==0.29.26", "dagster-postgres==0.29.26"];

#[tokio::test]
async fn libraries_match_dagster_whatever_a_project_admits() {
    if uv().is_none() {
        return;
    }
    for (platform, lines, dagster, library) in [
        (OPEN, "", "1.13.27", "0.29.27"),
        (OPEN, "dagster>=1.7", "1.13.27", "0.29.27"),
        (OPEN, "dagster>=1.7\ndagster-aws>=0.10", "1.13.27", "0.29.27"),
        (OPEN, "dagster<1.13\ndagster-postgres", "1.7.16", "0.23.16"),
        (OPEN, "dagster==1.7.16", "1.7.16", "0.23.16"),
        (PINNED, "", "1.13.26", "0.29.26"),
        // The platform's own release, where a project admits it.
        (PINNED, "dagster>=1.7", "1.13.26", "0.29.26"),
        (PINNED, "dagster>=1.13.27", "1.13.27", "0.29.27"),
        (PINNED, "dagster==1.7.16", "1.7.16", "0.23.16"),
        (PINNED, "dagster\ndagster-aws<0.29", "1.7.16", "0.23.16"),
    ] {
        let packages = built(&platform, &[("requirements.txt", lines)]).await;
        assert_eq!(packages.unwrap(), of_release(dagster, library), "{platform:?} {lines:?}");
    }
    let packages = built(&PINNED, &[("requirements.txt", "dagster-dbt==0.23.16")]).await.unwrap();
    assert_eq!(packages["dagster"], "1.7.16");
}

#[tokio::test]
async fn a_release_that_the_index_has_in_part_is_refused_by_name() {
    if uv().is_none() {
        return;
    }
    for (lines, expected) in [
        ("dagster==1.13.28", "Dagster 1.13.28 goes with dagster-postgres 0.29.28, which the package index lacks"),
        (
            "dagster==1.13.29",
            "Dagster 1.13.29 goes with dagster-aws 0.29.29 and dagster-postgres 0.29.29, which the package index lacks",
        ),
        (
            "dagster>=1.13.29,<2",
            "Dagster 1.13.29 goes with dagster-aws 0.29.29 and dagster-postgres 0.29.29, which the package index lacks",
        ),
    ] {
        for platform in [OPEN, PINNED] {
            let text = built(&platform, &[("requirements.txt", lines)]).await.unwrap_err();
            assert!(text.starts_with(expected) && text.contains("`dagster<1.13."), "{lines}: {text}");
        }
    }
    // Errors unrelated to Dagster's releases stay as they are.
    let text = built(&OPEN, &[("requirements.txt", "dagster>=1.7\nabsent==1")]).await.unwrap_err();
    assert!(text.starts_with("cannot resolve the dependencies") && text.contains("absent"), "{text}");
}

#[tokio::test]
async fn a_lock_with_a_library_of_another_release_is_refused() {
    if uv().is_none() {
        return;
    }
    let project = |dependencies: &str| {
        format!(
            "[project]\nname = 'x'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = [{dependencies}, 'dagster-postgres==0.12.3']\n"
        )
    };
    let text = built(&["dagster"], &[("pyproject.toml", &project("'dagster==1.13.29'"))]).await.unwrap_err();
    assert!(
        text.starts_with("uv.lock: dagster-postgres 0.12.3 is of another release than Dagster 1.13.29")
            && text.contains("dagster-postgres 0.29.29"),
        "{text}"
    );
}
