//! What builds keep for the next ones is bounded, and no build notices.

use super::python::{python, uv, wheels};
use super::{CODE, Repository, TestRegistry, Workshop, digest};

#[tokio::test]
async fn builders_whose_caches_are_always_full_build_the_same_images_side_by_side() {
    let (uv, python, wheels, repository) = (uv(), python(), wheels(), Repository::new());
    let requirements = [("requirements.txt", "needy\n")];
    let packages: &[(&str, &str)] = if uv.is_some() { &requirements } else { &[] };
    let commits: Vec<String> = (0..6)
        .map(|number| {
            let change = format!("number = {number}\n");
            repository.commit(&[CODE.as_slice(), packages, &[("pipeline/change.py", change.as_str())]].concat())
        })
        .collect();
    let mut images = Vec::new();
    for caches in [1 << 30, 1] {
        let registry = TestRegistry::start().await;
        let workshop = Workshop::with(|settings| {
            settings.uv = uv.clone().unwrap_or_default();
            settings.python = Some(python.clone());
            settings.find_links = Some(wheels.path().to_path_buf());
            settings.limits.caches = caches;
        });
        let requests: Vec<_> = commits.iter().map(|commit| repository.request(&registry, commit)).collect();
        let built = futures::future::join_all(requests.iter().map(|request| workshop.build(request))).await;
        images.push(built.into_iter().map(|image| digest(&image.unwrap()).to_owned()).collect::<Vec<_>>());
        let fetched = workshop.progress().iter().filter(|text| *text == "fetching").count();
        assert_eq!(fetched, commits.len());

        // Each commit is a reference: those are left that were fetched since room was made.
        let git = std::fs::read_dir(workshop.work.path().join("git")).unwrap().next().unwrap().unwrap().path();
        let kept = std::fs::read_dir(git.join("refs/codeloc")).unwrap().count();
        assert_eq!(kept < commits.len(), caches == 1, "{kept} commits are kept");
    }
    assert_eq!(images[0], images[1]);
}
