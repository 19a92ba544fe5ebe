//! Inspects repositories with real git.

use codeloc_crds::CodePointer;
use codeloc_images::{BuildSettings, Survey};

use super::*;

/// A repository with these files and links, and what `codeloc add` finds in it.
struct Inspected {
    declared: Vec<inspect::Candidate>,
    definitions: Vec<CodePointer>,
    survey: Survey,
    branch: String,
}

async fn inspected(files: &[(&str, &str)], links: &[(&str, &str)]) -> Inspected {
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
    origin.git(&["branch", "--move", "trunk"]);
    let (git, bare) = (fixture.git(), fixture.path("inspect.git"));
    let repository = inspect::Repository::fetch(&git, &bare, &origin.url(), None).await.unwrap();
    let declared = repository.declared(None).await;
    let definitions = repository.definitions(None).await.unwrap();
    let code = definitions.first().cloned().unwrap_or(CodePointer::Module("absent".to_owned()));
    let candidate = inspect::Candidate { name: None, subdirectory: None, code, attribute: None };
    let settings = BuildSettings::new(fixture.path("work"));
    let survey = repository.survey(&candidate, &settings).await;
    Inspected { declared, definitions, survey, branch: repository.branch }
}

const DEFINITIONS: &str = "import dagster as dg\ndefs = dg.Definitions()\n";

fn file(path: &str) -> CodePointer {
    CodePointer::PythonFile(path.to_owned())
}

#[tokio::test]
async fn definitions_are_found_on_the_default_branch() {
    let files = [
        ("shop/definitions.py", DEFINITIONS),
        ("shop/other.py", "# see MyDefinitions(1)\n"),
        ("shop/old/repository.py", "@repository\ndef shop():\n    return []\n"),
        ("tests/test_shop.py", "from dagster import Definitions\nDefinitions()\n"),
        ("requirements.txt", "dagster\n--find-links https://index.example.com\n"),
    ];
    let found = inspected(&files, &[]).await;
    assert_eq!(found.branch, "trunk");
    assert_eq!(found.definitions, [file("shop/definitions.py"), file("shop/old/repository.py")]);
    assert!(found.survey.refused.unwrap().contains("requirements.txt:2"));
}

#[tokio::test]
async fn a_large_lock_is_read_and_a_larger_one_is_reported() {
    let project = ("pyproject.toml", "[project]\nname = 'shop'\nversion = '1'\ndependencies = ['dagster']\n");
    let lock = |bytes: usize| {
        "version = 1\n[[package]]\nname = 'shop'\nsource = { virtual = '.' }\n".to_owned()
            + &"# hashes\n".repeat(bytes / 9)
    };
    let found = inspected(&[project, ("uv.lock", &lock(5 << 20)), ("shop.py", DEFINITIONS)], &[]).await;
    assert_eq!(found.survey.dependencies.as_deref(), Some("uv.lock"));
    assert_eq!(found.survey.refused, None);
    let found = inspected(&[project, ("uv.lock", &lock(65 << 20)), ("shop.py", DEFINITIONS)], &[]).await;
    assert!(found.survey.refused.unwrap().starts_with("uv.lock has 68"));
}

#[tokio::test]
async fn declared_locations_come_from_files_of_the_repository() {
    let files = [
        ("workspace.yaml", "load_from:\n  - python_module: shop\n  - python_file: etl/defs.py\n"),
        ("shop/__init__.py", DEFINITIONS),
        ("etl/defs.py", DEFINITIONS),
    ];
    let found = inspected(&files, &[]).await;
    let code: Vec<&CodePointer> = found.declared.iter().map(|candidate| &candidate.code).collect();
    assert_eq!(code, [&CodePointer::Module("shop".to_owned()), &file("etl/defs.py")]);
}

#[tokio::test]
async fn project_templates_are_ignored() {
    let files = [
        ("{{cookiecutter.name}}/definitions.py", DEFINITIONS),
        ("{% if dbt %}dbt{% endif %}/definitions.py", DEFINITIONS),
        ("template/[[ name ]]/definitions.py", DEFINITIONS),
        ("shop/définitions.py", DEFINITIONS),
    ];
    assert_eq!(inspected(&files, &[]).await.definitions, [file("shop/définitions.py")]);
}

#[tokio::test]
async fn a_file_without_dependencies_is_not_their_source() {
    for (files, expected, refused) in [
        (vec![("pyproject.toml", "[tool.dagster]\nmodule_name = 'shop'\n")], None, false),
        (vec![("pyproject.toml", "[project]\nname = 'shop'\nversion = '1'\n")], None, false),
        (
            vec![("pyproject.toml", "[project]\nname = 'shop'\ndependencies = ['dagster']\n")],
            Some("pyproject.toml"),
            false,
        ),
        (vec![("requirements.txt", "# nothing yet\n")], None, false),
        (vec![("requirements.txt", "dagster\n"), ("pyproject.toml", "[tool.ruff]\n")], Some("requirements.txt"), false),
        (
            vec![("pyproject.toml", "[project]\nname = 'shop'\ndynamic = ['dependencies']\n")],
            Some("pyproject.toml"),
            false,
        ),
        (vec![("Pipfile", "")], None, true),
    ] {
        let survey = inspected(&files, &[]).await.survey;
        assert_eq!((survey.dependencies.as_deref(), survey.refused.is_some()), (expected, refused), "{files:?}");
    }
}

#[tokio::test]
async fn a_survey_proposes_python_and_memory() {
    let project =
        "[project]\nname = 'shop'\nversion = '1'\nrequires-python = '>=3.13'\ndependencies = ['dagster', 'Torch>2']\n";
    let survey = inspected(&[("pyproject.toml", project)], &[]).await.survey;
    assert_eq!((survey.python.as_deref(), survey.heavy.as_deref()), (Some("3.13"), Some("torch")));
}

#[tokio::test]
async fn a_dependency_file_may_be_a_link_inside_the_repository() {
    let links = [("requirements.txt", "requirements/current"), ("requirements/current", "../deps/prod.txt")];
    let survey = inspected(&[("deps/prod.txt", "dagster\n")], &links).await.survey;
    assert_eq!(survey.dependencies.as_deref(), Some("requirements.txt"));
    let links = [("requirements.txt", "locks/prod/all.txt"), ("locks", "ops/pinned"), ("ops/pinned/prod", "../deps")];
    let survey = inspected(&[("ops/deps/all.txt", "dagster\n"), ("ops/a.txt", "-r b.txt\n")], &links).await.survey;
    assert_eq!((survey.dependencies.as_deref(), survey.refused), (Some("requirements.txt"), None), "links to folders");
    for target in ["../outside.txt", "/etc/hostname", "requirements.txt", "absent.txt"] {
        let survey = inspected(&[("shop.py", DEFINITIONS)], &[("requirements.txt", target)]).await.survey;
        assert_eq!(survey.dependencies, None, "{target}");
    }
}
