//! The limit of the caches does not change an image.

use codeloc_core::ids::Commit;

use super::python::{python, uv, wheels};
use super::{CODE, Repository, TestBuilder, TestRegistry, digest};

#[tokio::test]
async fn concurrent_builds_with_full_caches_give_the_same_images() {
    let (uv, python, wheels, repository) = (uv(), python(), wheels(), Repository::new());
    let requirements = [("requirements.txt", "needy\n")];
    let packages: &[(&str, &str)] = if uv.is_some() { &requirements } else { &[] };
    let commits: Vec<Commit> = (0..6)
        .map(|number| {
            let change = format!("number = {number}\n");
            repository.commit(&[CODE.as_slice(), packages, &[("pipeline/change.py", change.as_str())]].concat())
        })
        .collect();
    let mut images = Vec::new();
    for caches in [1 << 30, 1] {
        let registry = TestRegistry::start().await;
        let builder = TestBuilder::with(|settings| {
            settings.uv = uv.clone().unwrap_or_default();
            settings.python = Some(python.clone());
            settings.find_links = Some(wheels.path().to_path_buf());
            settings.limits.caches = caches;
        });
        let requests: Vec<_> = commits.iter().map(|commit| repository.request(&registry, commit)).collect();
        let built = futures::future::join_all(requests.iter().map(|request| builder.build(request))).await;
        images.push(built.into_iter().map(|image| digest(&image.unwrap())).collect::<Vec<_>>());
        let fetched = builder.progress().iter().filter(|text| *text == "fetching the commit").count();
        assert_eq!(fetched, commits.len());

        // Each fetched commit has a git reference. A removal of the repository removes the earlier ones.
        let git = std::fs::read_dir(builder.work.path().join("git")).unwrap().next().unwrap().unwrap().path();
        let references = std::fs::read_dir(git.join("refs/codeloc")).unwrap().count();
        assert_eq!(references < commits.len(), caches == 1, "{references} references");
    }
    assert_eq!(images[0], images[1]);
}
