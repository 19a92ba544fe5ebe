//! Inspects repositories with real git.

use codeloc_crds::CodePointer;

use super::*;

#[tokio::test]
async fn definitions_are_found_on_the_default_branch() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let write = |path: &str, text: &str| {
        let path = origin.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("shop/definitions.py", "import dagster as dg\ndefs = dg.Definitions(assets=[])\n");
    write("shop/other.py", "# see MyDefinitions(1)\n");
    write("shop/old/repository.py", "@repository\ndef shop():\n    return []\n");
    write("tests/test_shop.py", "from dagster import Definitions\nDefinitions()\n");
    write("requirements.txt", "dagster\n--index-url https://index.example.com\n");
    origin.commit("shop");
    origin.git(&["branch", "--move", "trunk"]);
    let found =
        inspect::inspect(&fixture.git(), &fixture.path("inspect.git"), &origin.url(), None, None).await.unwrap();
    assert_eq!(found.branch, "trunk");
    let file = |path: &str| CodePointer::PythonFile(path.to_owned());
    assert_eq!(found.code, [file("shop/definitions.py"), file("shop/old/repository.py")]);
    assert_eq!(found.dependencies.as_deref(), Some("requirements.txt"));
    assert!(found.warnings[0].contains("requirements.txt:2"), "{:?}", found.warnings);
}

/// Inspects a repository with these files.
async fn inspect_files(files: &[(&str, &str)], links: &[(&str, &str)]) -> inspect::Found {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let path = |path: &str| {
        let path = origin.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (file, text) in files {
        std::fs::write(path(file), text).unwrap();
    }
    for (link, target) in links {
        std::os::unix::fs::symlink(target, path(link)).unwrap();
    }
    origin.commit("all");
    inspect::inspect(&fixture.git(), &fixture.path("inspect.git"), &origin.url(), None, None).await.unwrap()
}

const DEFINITIONS: &str = "import dagster as dg\ndefs = dg.Definitions()\n";

#[tokio::test]
async fn a_large_lock_is_read_and_a_larger_one_is_reported() {
    let project = ("pyproject.toml", "[project]\nname = 'shop'\nversion = '1'\ndependencies = ['dagster']\n");
    let lock = |bytes: usize| "version = 1\n".to_owned() + &"# hashes\n".repeat(bytes / 9);
    let found = inspect_files(&[project, ("uv.lock", &lock(3 << 20)), ("shop.py", DEFINITIONS)], &[]).await;
    assert_eq!(found.dependencies.as_deref(), Some("uv.lock"));
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    let found = inspect_files(&[project, ("uv.lock", &lock(5 << 20)), ("shop.py", DEFINITIONS)], &[]).await;
    assert_eq!(found.dependencies.as_deref(), Some("uv.lock"));
    assert!(found.warnings[0].starts_with("uv.lock has 52"), "{:?}", found.warnings);
}

#[tokio::test]
async fn the_target_module_of_a_project_is_listed_once() {
    let project = "[tool.dg.project]\nroot_module = 'shop'\ncode_location_target_module = 'shop.entry'\n";
    let files =
        [("pyproject.toml", project), ("src/shop/entry.py", DEFINITIONS), ("src/shop/old/definitions.py", DEFINITIONS)];
    let found = inspect_files(&files, &[]).await;
    let old = CodePointer::PythonFile("src/shop/old/definitions.py".to_owned());
    assert_eq!(found.code, [CodePointer::Module("shop.entry".to_owned()), old]);
}

#[tokio::test]
async fn project_templates_are_ignored() {
    let files = [
        ("{{cookiecutter.name}}/definitions.py", DEFINITIONS),
        ("{% if dbt %}dbt{% endif %}/definitions.py", DEFINITIONS),
        ("template/[[ name ]]/definitions.py", DEFINITIONS),
        ("shop/définitions.py", DEFINITIONS),
    ];
    let found = inspect_files(&files, &[]).await;
    assert_eq!(found.code, [CodePointer::PythonFile("shop/définitions.py".to_owned())]);
}

#[tokio::test]
async fn a_file_without_dependencies_is_not_their_source() {
    for (files, expected) in [
        (vec![("pyproject.toml", "[tool.dagster]\nmodule_name = 'shop'\n")], None),
        (vec![("pyproject.toml", "[project]\nname = 'shop'\nversion = '1'\n")], None),
        (vec![("pyproject.toml", "[project]\nname = 'shop'\ndependencies = ['dagster']\n")], Some("pyproject.toml")),
        (vec![("requirements.txt", "# nothing yet\n")], None),
        (vec![("requirements.txt", "dagster\n"), ("pyproject.toml", "[tool.ruff]\n")], Some("requirements.txt")),
        // A build would compute them, which codeloc refuses with a warning.
        (vec![("pyproject.toml", "[project]\nname = 'shop'\ndynamic = ['dependencies']\n")], Some("pyproject.toml")),
    ] {
        let found = inspect_files(&files, &[]).await;
        assert_eq!(found.dependencies.as_deref(), expected, "{files:?}");
        assert_eq!(found.warnings.len(), usize::from(files[0].1.contains("dynamic")), "{:?}", found.warnings);
    }
}

#[tokio::test]
async fn a_dependency_file_may_be_a_link_inside_the_repository() {
    let links = [("requirements.txt", "requirements/current"), ("requirements/current", "../deps/prod.txt")];
    let found = inspect_files(&[("deps/prod.txt", "dagster\n")], &links).await;
    assert_eq!(found.dependencies.as_deref(), Some("requirements.txt"));
    let links = [("requirements.txt", "locks/prod/all.txt"), ("locks", "ops/pinned"), ("ops/pinned/prod", "../deps")];
    let found = inspect_files(&[("ops/deps/all.txt", "dagster\n"), ("ops/a.txt", "-r b.txt\n")], &links).await;
    assert_eq!(found.dependencies.as_deref(), Some("requirements.txt"), "links to folders");
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    for target in ["../outside.txt", "/etc/hostname", "requirements.txt", "absent.txt"] {
        let found = inspect_files(&[("shop.py", DEFINITIONS)], &[("requirements.txt", target)]).await;
        assert_eq!(found.dependencies, None, "{target}");
    }
}
