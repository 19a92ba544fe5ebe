//! Repositories of every form.

use super::files::tests::Memory;
use super::*;
use crate::error::expect_terminal;

const INDEX: &str = "https://index.example/simple";

fn wanted<'a>(root: &'a str, code: Option<&'a CodePointer>, allows_index: &'a dyn Fn(&str) -> bool) -> Wanted<'a> {
    Wanted { root, dependencies: None, code, python: Some("3.12"), built: &[], allows_index }
}

fn plan_of(root: &str, code: Option<&str>, files: &[(&str, &str)]) -> Result<Plan, BuildError> {
    let code = code.map(|file| CodePointer::PythonFile(file.to_owned()));
    read(&mut Memory::new(files), &wanted(root, code.as_ref(), &|url| url == INDEX))
}

fn plan(files: &[(&str, &str)]) -> Plan {
    plan_of("", None, files).unwrap()
}

fn refusal(files: &[(&str, &str)]) -> String {
    expect_terminal(plan_of("", None, files))
}

fn lines(packages: &Packages) -> Vec<String> {
    match packages {
        Packages::UvLock(lock) => vec![format!("uv.lock in {:?} of {:?}", lock.folder, lock.package)],
        Packages::Locked(locked) => locked.packages.iter().map(Requirement::locked_line).collect(),
        Packages::Open(open) => {
            let with = |mark: &'static str| move |requirement: &Requirement| format!("{mark}{}", requirement.line());
            let constraints = open.constraints.iter().map(with("constraint "));
            let overrides = open.overrides.iter().map(with("override "));
            let optional = open.optional.iter().map(with("optional "));
            open.requirements.iter().map(with("")).chain(constraints).chain(overrides).chain(optional).collect()
        }
    }
}

fn folders(plan: &Plan) -> Vec<&str> {
    plan.projects.iter().map(|project| project.folder.as_str()).collect()
}

const PROJECT: (&str, &str) =
    ("pyproject.toml", "[project]\nname = 'etl'\nversion = '1'\ndependencies = ['dagster', 'humanize']\n");

#[test]
fn locks_come_before_requirements_and_these_before_the_project() {
    let all = [
        ("uv.lock", "version = 1\n[[package]]\nname = \"etl\"\nsource = { virtual = \".\" }\n"),
        ("pylock.toml", "lock-version = '1.0'\n"),
        ("poetry.lock", "[[package]]\nname = \"humanize\"\nversion = \"4.9.0\"\n"),
        ("requirements.txt", "from-requirements\n"),
        PROJECT,
        ("Pipfile", ""),
    ];
    let expected = [
        ("uv.lock", vec!["uv.lock in \"\" of Some(\"etl\")"]),
        ("pylock.toml", vec![]),
        ("poetry.lock", vec!["dagster", "humanize", "constraint humanize==4.9.0"]),
        ("requirements.txt", vec!["from-requirements", "optional dagster", "optional humanize"]),
        ("pyproject.toml", vec!["dagster", "humanize"]),
    ];
    for (skipped, (source, packages)) in expected.iter().enumerate() {
        let plan = plan(&all[skipped..]);
        assert_eq!(
            (plan.source.as_deref(), lines(&plan.packages)),
            (Some(*source), packages.iter().map(|line| (*line).to_owned()).collect())
        );
        assert_eq!(plan.projects[0].name, "etl");
        let pipfile = format!("codeloc does not read Pipfile: the packages come from {source}");
        assert!(plan.notes.contains(&pipfile), "{:?}", plan.notes);
        for (other, _) in all[skipped + 1..].iter().filter(|(name, _)| name.contains("lock") || name.contains("req")) {
            let note = format!("codeloc does not read {other}: the packages come from {source}");
            assert!(plan.notes.contains(&note), "{other} with {source}: {:?}", plan.notes);
        }
    }
    assert_eq!(plan(&[]), Plan::default());
}

#[test]
fn the_config_can_name_the_file() {
    let files = [("deps/prod.txt", "-r base.txt\npandas"), ("deps/base.txt", "numpy"), PROJECT];
    let named = |path: &str| {
        let wanted = Wanted { dependencies: Some(path), ..wanted("", None, &|_| false) };
        read(&mut Memory::new(&files), &wanted)
    };
    assert_eq!(lines(&named("./deps/prod.txt").unwrap().packages), ["numpy", "pandas"]);
    assert_eq!(lines(&named("pyproject.toml").unwrap().packages), ["dagster", "humanize"]);
    assert_eq!(expect_terminal(named("absent.txt")), "the commit has no file absent.txt (`dependencies`)");
    assert!(expect_terminal(named("../x")).contains("(`dependencies`)"));
}

#[test]
fn requirements_include_other_files_and_folders() {
    let text = "# comment\n-r requirements/base.txt\n-c constraints.txt\n--index-url https://index.example/simple\n--prefer-binary\n-e ./libs/shared[aws]\n.\npandas\n";
    let plan = plan(&[
        ("requirements.txt", text),
        ("requirements/base.txt", "-r ../requirements.txt\nnumpy\n"),
        ("constraints.txt", "numpy<2\n"),
        PROJECT,
        (
            "libs/shared/setup.py",
            "from setuptools import setup\nsetup(name='shared', version='2', install_requires=['boto3'], extras_require={'aws': ['s3fs']})",
        ),
        ("libs/shared/src/shared/__init__.py", ""),
    ]);
    let optional = ["optional dagster", "optional humanize"];
    assert_eq!(
        lines(&plan.packages),
        [&["numpy", "boto3", "s3fs", "pandas", "constraint numpy<2"], &optional[..]].concat()
    );
    assert_eq!(folders(&plan), ["", "libs/shared"]);
    assert_eq!(plan.projects[1].roots, ["libs/shared/src"]);
}

#[test]
fn what_leaves_the_repository_or_the_index_is_refused() {
    for (line, reason) in [
        ("-r ../../x.txt", "outside the repository"),
        ("-r https://host/x.txt", "only files of the repository"),
        ("-r absent.txt", "no file absent.txt"),
        ("-e ../x", "outside the repository"),
        ("./absent", "no such folder"),
        ("--extra-index-url https://me:hunter2@evil.example", "the index https://"),
        ("git+ssh://git@host/x", "only with https"),
        ("git+https://me:hunter2@host/x", "without credentials"),
        ("--pre", "the option --pre"),
    ] {
        let text = refusal(&[("requirements.txt", &format!("fine\n\n{line}\n"))]);
        assert!(text.starts_with("requirements.txt:3: codeloc refuses ") && text.contains(reason), "{line}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let project = |rest: &str| {
        refusal(&[(
            "pyproject.toml",
            &format!("[project]\nname = 'x'\nversion = '1'\ndependencies = [\n  'mine',\n]\n{rest}"),
        )])
    };
    for (rest, start, reason) in [
        ("[tool.uv.sources]\nmine = { git = 'git@host:x' }", "pyproject.toml:5: ", "version control"),
        ("[tool.uv.sources]\nmine = { path = '../x' }", "pyproject.toml:5: ", "outside the repository"),
        ("[tool.uv.sources]\nmine = { path = 'x.whl' }", "pyproject.toml:5: ", "no archives"),
        ("[tool.uv.sources]\nmine = { workspace = true }", "pyproject.toml:5: ", "no member"),
        (
            "[tool.uv.sources]\nmine = { index = 'corp' }\n[[tool.uv.index]]\nname = 'corp'\nurl = 'https://corp.example'\nexplicit = true",
            "pyproject.toml:5: ",
            "the index corp",
        ),
        ("[[tool.uv.index]]\nname = 'corp'\nurl = 'https://corp.example'", "pyproject.toml:9: ", "the index corp"),
        ("[[tool.poetry.source]]\nname = 'corp'\nurl = 'https://corp.example'", "pyproject.toml:9: ", "the index corp"),
        (
            "[tool.uv]\nextra-index-url = ['https://corp.example']",
            "pyproject.toml:8: ",
            "the index https://corp.example",
        ),
    ] {
        let text = project(rest);
        assert!(text.starts_with(start) && text.contains(reason), "{rest}: {text}");
    }
    let allowed = [(
        "pyproject.toml",
        "[project]\nname = 'x'\nversion = '1'\ndependencies = ['mine']\n[tool.uv.sources]\nmine = { index = 'corp' }\n[[tool.uv.index]]\nname = 'corp'\nurl = 'https://index.example/simple'\n",
    )];
    assert_eq!(lines(&plan(&allowed).packages), ["mine"]);
}

#[test]
fn a_lock_with_hashes_protects_from_other_indexes() {
    let project = "[project]\nname = 'x'\nversion = '1'\ndependencies = ['mine']\n[[tool.poetry.source]]\nname = 'corp'\nurl = 'https://corp.example'\n[tool.poetry.dependencies]\nmine = { source = 'corp' }\n";
    let lock = format!(
        "[[package]]\nname = \"mine\"\nversion = \"1\"\nfiles = [{{ file = 'm', hash = \"sha256:{}\" }}]\n",
        "1".repeat(64)
    );
    let plan = plan(&[("pyproject.toml", project), ("poetry.lock", &lock)]);
    assert_eq!(lines(&plan.packages), ["mine", "constraint mine==1"]);
    assert!(refusal(&[("pyproject.toml", project)]).contains("the index corp"));
}

#[test]
fn settings_of_uv_apply_to_a_project_without_a_lock() {
    let root = "[tool.uv.workspace]\nmembers = ['packages/*']\n[tool.uv]\nconstraint-dependencies = ['grpcio<1.66']\noverride-dependencies = ['protobuf<5']\n";
    let app = "[project]\nname = 'app'\nversion = '1'\ndependencies = ['dagster', 'lib[more]']\n[tool.uv]\ndefault-groups = ['dev', 'prod']\n[dependency-groups]\ndev = ['pytest']\nprod = ['gunicorn', {include-group = 'common'}]\ncommon = ['orjson']\n[tool.uv.sources]\nlib = { workspace = true }\n";
    let lib = "[project]\nname = 'lib'\nversion = '1'\ndependencies = ['pyfiglet']\n[project.optional-dependencies]\nmore = ['rich']\n";
    let files = [
        ("pyproject.toml", root),
        ("packages/app/pyproject.toml", app),
        ("packages/app/src/app/definitions.py", ""),
        ("packages/lib/pyproject.toml", lib),
        ("packages/lib/src/lib/__init__.py", ""),
    ];
    let expected =
        ["dagster", "pyfiglet", "rich", "gunicorn", "orjson", "constraint grpcio<1.66", "override protobuf<5"];
    // From the folder of the project, or from the root of the repository.
    for (root, code) in [("packages/app", "src/app/definitions.py"), ("", "packages/app/src/app/definitions.py")] {
        let plan = plan_of(root, Some(code), &files).unwrap();
        assert_eq!(lines(&plan.packages), expected);
        assert_eq!(folders(&plan), ["packages/app", "packages/lib"]);
        assert_eq!(plan.projects[0].roots, ["packages/app/src"]);
    }
}

#[test]
fn the_lock_of_a_workspace_serves_its_members() {
    let lock = "version = 1\n[[package]]\nname = \"app\"\nsource = { editable = \"packages/app\" }\ndependencies = [{ name = \"lib\" }]\n[[package]]\nname = \"lib\"\nsource = { editable = \"packages/lib\" }\n";
    let files = [
        ("uv.lock", lock),
        ("pyproject.toml", "[tool.uv.workspace]\nmembers = ['packages/*']\n"),
        ("packages/app/pyproject.toml", "[project]\nname = 'app'\nversion = '1'\ndependencies = ['lib']\n"),
        ("packages/app/src/app/definitions.py", ""),
        ("packages/lib/pyproject.toml", "[project]\nname = 'lib'\nversion = '1'\n"),
    ];
    for (root, code) in [("packages/app", "src/app/definitions.py"), ("", "packages/app/src/app/definitions.py")] {
        let plan = plan_of(root, Some(code), &files).unwrap();
        assert_eq!(lines(&plan.packages), ["uv.lock in \"\" of Some(\"app\")"]);
        assert_eq!(folders(&plan), ["packages/app", "packages/lib"]);
    }
    let without_project = expect_terminal(plan_of("", None, &[("uv.lock", "version = 1\n")]));
    assert!(without_project.contains("uv.lock but not pyproject.toml"), "{without_project}");
}

#[test]
fn path_dependencies_are_read_from_their_folders() {
    let uv = "[project]\nname = 'etl'\nversion = '1'\ndependencies = ['dagster', 'local-dep']\n[tool.uv.sources]\nlocal-dep = { path = '../shared/local-dep', editable = true }\n";
    let poetry =
        "[project]\nname = 'etl'\nversion = '1'\ndependencies = ['dagster', 'local-dep @ file:../shared/local-dep']\n";
    let old_poetry = "[tool.poetry]\nname = 'etl'\nversion = '1'\n[tool.poetry.dependencies]\npython = '^3.10'\ndagster = '*'\nlocal-dep = { path = '../shared/local-dep', develop = true }\n";
    for project in [uv, poetry, old_poetry] {
        let files = [
            ("projects/etl/pyproject.toml", project),
            ("projects/etl/src/etl/__init__.py", ""),
            (
                "projects/shared/local-dep/pyproject.toml",
                "[project]\nname = 'local-dep'\nversion = '0.1.0'\ndependencies = ['rich']\n",
            ),
            ("projects/shared/local-dep/src/local_dep/__init__.py", ""),
        ];
        let plan = plan_of("projects/etl", None, &files).unwrap();
        assert_eq!(lines(&plan.packages), ["dagster", "rich"]);
        assert_eq!(folders(&plan), ["projects/etl", "projects/shared/local-dep"]);
    }
}

#[test]
fn a_pylock_names_the_project_itself() {
    let hash = "2".repeat(64);
    let text = format!(
        "lock-version = '1.0'\n[[packages]]\nname = 'etl'\ndirectory = {{ path = '.', editable = true }}\n[[packages]]\nname = 'Jinja2'\nversion = '3.1.6'\nmarker = \"python_version >= '3.9'\"\n\
         wheels = [{{ url = 'https://host/jinja2-3.1.6-py3-none-any.whl', hashes = {{ sha256 = '{hash}' }} }}]\n"
    );
    let plan = plan(&[("pylock.toml", &text), PROJECT]);
    assert_eq!(lines(&plan.packages), [format!("jinja2==3.1.6 ; python_version >= '3.9' --hash=sha256:{hash}")]);
    assert_eq!(folders(&plan), [""]);
    for (rest, reason) in [
        ("vcs = { type = 'git', url = 'https://me:hunter2@host/x', commit-id = '1' }", "without credentials"),
        ("version = '1'", "neither a wheel nor an sdist"),
        ("version = '1'\nwheels = [{ hashes = { md5 = '1' } }]", "no sha256"),
        ("wheels = [{ hashes = { sha256 = '1' } }]", "no version"),
    ] {
        let text =
            refusal(&[("pylock.toml", &format!("lock-version = '1.0'\n[[packages]]\nname = 'in-house'\n{rest}\n"))]);
        assert!(text.starts_with("pylock.toml:3: codeloc refuses `in-house`: "), "{text}");
        assert!(text.contains(reason) && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_python_version_that_does_not_fit_is_refused() {
    let text = refusal(&[("pyproject.toml", "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.13'\n")]);
    assert_eq!(
        text,
        "pyproject.toml requires Python >=3.13, and the image has Python 3.12; set another `python_version` in the config"
    );
}

#[test]
fn files_that_codeloc_does_not_read_are_named() {
    assert_eq!(
        refusal(&[("Pipfile", ""), ("definitions.py", "")]),
        "codeloc does not read Pipfile, and the project has no other list of packages; commit the Pipfile.lock that `pipenv lock` writes"
    );
    assert!(refusal(&[("environment.yml", ""), ("pyproject.toml", "[tool.ruff]\n")]).contains("environment.yml"));
}

#[test]
fn a_project_that_computes_its_dependencies_is_built() {
    let files =
        [("setup.py", "from setuptools import setup\nsetup(install_requires=read())"), ("src/shop/__init__.py", "")];
    let first = plan(&files);
    assert_eq!(first.to_build.len(), 1);
    assert!(first.to_build[0].why.starts_with("setup.py: line 2 computes"), "{:?}", first.to_build);
    assert_eq!(first.needs_isolation(), [first.to_build[0].why.clone()]);
    let built = BuiltProject {
        folder: String::new(),
        metadata: "Metadata-Version: 2.1\nName: shop\nVersion: 3\nRequires-Python: >=3.10\nRequires-Dist: tiny>=1\n\
                   Requires-Dist: odd; extra == 'more'\nRequires-Dist: sided ; python_version > '3' and extra == \"more\"\n\nName: none\n"
            .to_owned(),
        entry_points: Some("[console_scripts]\nshop = shop.cli:main\n".to_owned()),
        roots: vec!["src".to_owned()],
    };
    let wanted = Wanted { built: &[built], ..wanted("", None, &|_| false) };
    let second = read(&mut Memory::new(&files), &wanted).unwrap();
    assert_eq!(second.to_build, []);
    assert_eq!(lines(&second.packages), ["tiny>=1"]);
    let project = &second.projects[0];
    assert_eq!((project.name.as_str(), project.version.as_str()), ("shop", "3"));
    assert_eq!(project.roots, ["src"]);
    assert_eq!(project.entry_points["console_scripts"]["shop"], "shop.cli:main");
}

#[test]
fn packages_from_version_control_keep_their_place() {
    let commit = "0123456789012345678901234567890123456789";
    let text = format!("fine\nlib @ git+https://host/lib.git@{commit}\n");
    let direct = |files: &[(&str, &str)]| match plan(files).packages {
        Packages::Open(open) => open.direct.into_iter().map(|direct| direct.line).collect::<Vec<_>>(),
        packages => panic!("{packages:?}"),
    };
    assert_eq!(direct(&[("requirements.txt", &text)]), [format!("lib @ git+https://host/lib.git@{commit}")]);
    let project = format!(
        "[project]\nname = 'x'\nversion = '1'\ndependencies = ['lib[s3]>=1']\n[tool.uv.sources]\nlib = {{ git = 'https://host/lib', rev = '{commit}', subdirectory = 'a' }}\n"
    );
    let expected = format!("lib[s3] @ git+https://host/lib@{commit}#subdirectory=a");
    assert_eq!(direct(&[("pyproject.toml", &project)]), [expected]);
}

#[test]
fn a_project_without_a_version_is_installed() {
    let plan = plan(&[("pyproject.toml", "[project]\nname = 'x'\ndynamic = ['version']\n")]);
    assert_eq!(plan.projects[0].version, "0.0.0");
    assert_eq!(plan.notes, ["the version of x comes from version control; the image has version 0.0.0"]);
}

#[test]
fn a_working_directory_below_the_project_is_no_project() {
    let workspace = |entry: &str| format!("load_from:\n  - {entry}\n");
    let found = |root: &str, workspace: &str, lock: &str| {
        let at = |path: &str| format!("{root}{path}").trim_start_matches('/').to_owned();
        let [file, lock] = [at("/workspace.yaml"), at(lock)];
        let [module, package] = [at("/src/shop/defs.py"), at("/src/etl/__init__.py")];
        let files = [(file.as_str(), workspace), (lock.as_str(), "x\n"), (module.as_str(), ""), (package.as_str(), "")];
        let found = declared_locations(&mut Memory::new(&files), root).unwrap();
        found.into_iter().map(|one| (one.folder, one.code)).next().unwrap()
    };
    let file = |path: &str| CodePointer::PythonFile(path.to_owned());
    let module = |module: &str| CodePointer::Module(module.to_owned());
    let shop = workspace("python_module: {module_name: shop.defs, working_directory: src}");
    assert_eq!(found("", &shop, "/requirements.txt"), (String::new(), file("src/shop/defs.py")));
    assert_eq!(found("", &shop, "/src/requirements.txt"), ("src".to_owned(), module("shop.defs")));
    assert_eq!(found("", &shop, "/other/requirements.txt"), ("src".to_owned(), module("shop.defs")));
    let etl = workspace("python_package: {package_name: etl, working_directory: src}");
    assert_eq!(found("a/b", &etl, "/requirements.txt"), ("a/b".to_owned(), file("src/etl/__init__.py")));
    let path = workspace("python_file: {relative_path: src/shop/defs.py, working_directory: src}");
    assert_eq!(found("", &path, "/pdm.lock"), (String::new(), file("src/shop/defs.py")));
    let missing = workspace("python_module: {module_name: generated, working_directory: src}");
    assert_eq!(found("", &missing, "/requirements.txt"), ("src".to_owned(), module("generated")));
}
