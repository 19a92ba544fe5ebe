//! Dagster's libraries match the location's Dagster release. Uses the real uv and an index that lacks some releases.

use std::collections::BTreeMap;

use super::python::{lock, use_wheels, uv, wheels_from_script};
use super::{CODE, Repository, TestBuilder, TestRegistry, layer};
use crate::Request;
use crate::error::expect_terminal;

/// Like the public index: each library requires its Dagster release, except those of 2021. The newest releases lack libraries.
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

/// Builds from requirement lines. Returns the packages of the image by name, or the terminal error.
async fn built(platform: &[&str], files: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
    let index = wheels_from_script(INDEX);
    let builder = TestBuilder::with(|settings| {
        use_wheels(settings, &uv().unwrap(), index.path());
        settings.requirements = platform.iter().map(|line| (*line).to_owned()).collect();
    });
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let request = |files: &[(&str, &str)]| -> Request {
        repository.request(&registry, &repository.commit(&[CODE.as_slice(), files].concat()))
    };
    if let [("pyproject.toml", project)] = files {
        lock(&uv().unwrap(), index.path(), &repository, project);
    }
    match builder.build(&request(files)).await {
        Ok(image) => {
            let layer = layer(&registry, &image, "dependencies");
            let folders = layer.keys().filter_map(|path| path.strip_suffix(".dist-info/")?.rsplit('/').next());
            Ok(folders
                .filter_map(|name| name.split_once('-'))
                .map(|(name, version)| (name.into(), version.into()))
                .collect())
        }
        Err(error) => Err(expect_terminal::<()>(Err(error))),
    }
}

fn packages_of_release(dagster: &str, library: &str) -> BTreeMap<String, String> {
    let packages = [("dagster", dagster), ("dagster_aws", library), ("dagster_postgres", library)];
    packages.map(|(name, version)| (name.to_owned(), version.to_owned())).into()
}

const OPEN: [&str; 3] = ["dagster", "dagster-aws", "dagster-postgres"];
const PINNED: [&str; 3] = ["dagster==1.13.26", "dagster-aws==0.29.26", "dagster-postgres==0.29.26"];

#[tokio::test]
async fn libraries_match_the_resolved_dagster_release() {
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
        // The platform's release, if the project allows it.
        (PINNED, "dagster>=1.7", "1.13.26", "0.29.26"),
        (PINNED, "dagster>=1.13.27", "1.13.27", "0.29.27"),
        (PINNED, "dagster==1.7.16", "1.7.16", "0.23.16"),
        (PINNED, "dagster\ndagster-aws<0.29", "1.7.16", "0.23.16"),
    ] {
        let packages = built(&platform, &[("requirements.txt", lines)]).await;
        assert_eq!(packages.unwrap(), packages_of_release(dagster, library), "{platform:?} {lines:?}");
    }
    let packages = built(&PINNED, &[("requirements.txt", "dagster-dbt==0.23.16")]).await.unwrap();
    assert_eq!(packages["dagster"], "1.7.16");
}

#[tokio::test]
async fn a_release_without_all_libraries_is_refused_by_name() {
    if uv().is_none() {
        return;
    }
    for (lines, expected) in [
        ("dagster==1.13.28", "Dagster 1.13.28 needs dagster-postgres 0.29.28, and the package index does not have it"),
        (
            "dagster==1.13.29",
            "Dagster 1.13.29 needs dagster-aws 0.29.29 and dagster-postgres 0.29.29, and the package index does not have it",
        ),
        (
            "dagster>=1.13.29,<2",
            "Dagster 1.13.29 needs dagster-aws 0.29.29 and dagster-postgres 0.29.29, and the package index does not have it",
        ),
    ] {
        for platform in [OPEN, PINNED] {
            let text = built(&platform, &[("requirements.txt", lines)]).await.unwrap_err();
            assert!(text.starts_with(expected) && text.contains("`dagster<1.13."), "{lines}: {text}");
        }
    }
    // Other errors stay as they are.
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
        text.starts_with("uv.lock: dagster-postgres 0.12.3 does not belong to Dagster 1.13.29")
            && text.contains("dagster-postgres 0.29.29"),
        "{text}"
    );
}
