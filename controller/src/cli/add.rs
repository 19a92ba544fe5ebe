//! `codeloc add`: inspects a repository and writes its config.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_crds::CodePointer;
use codeloc_crds::edit::{SCHEMA_LINE, edit};
use codeloc_images::same_code;
use serde_json::{Map, Value, json};

use super::terminal::{complain, say};
use super::write::{Edit, assignments, destination, write};
use super::{Failure, client};
use crate::config_source::inspect::{Found, inspect};
use crate::config_source::write::Change;
use crate::daemon::wiring;
use crate::settings;

pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("add")
        .about("Add a location: inspect its repository, find the definitions, and write and commit a config")
        .arg(
            Arg::new("git-url")
                .value_name("GIT_URL")
                .required(true)
                .help("Inspect this git repository: https://, ssh:// or git@HOST:PATH"),
        )
        .arg(text("name", "NAME", "Give the location this name [default: the last part of GIT_URL]"))
        .arg(text("branch", "BRANCH", "Follow this branch [default: the default branch of the repository]"))
        .arg(text("subdirectory", "FOLDER", "Use this folder of the repository as the root of the code"))
        .arg(text(
            "python-file",
            "FILE",
            "Load the definitions from this Python file, relative to the root [default: codeloc searches for one]",
        ))
        .arg(text("module", "MODULE", "Load the definitions from this module instead of a file"))
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("FIELD=VALUE")
                .action(ArgAction::Append)
                .help("Set another field of the config, for example --set resources.cpu=512; put quotes around a key with dots: --set 'tags.\"a.b\"=c'; repeatable"),
        )
        .arg(Arg::new("print").long("print").action(ArgAction::SetTrue).help("Print the config and write nothing"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
        .args(client::arguments_for_writes())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let url = text("git-url").ok_or("no git URL given")?;
    let name = text("name").unwrap_or_else(|| name_of(&url));
    let subdirectory = text("subdirectory");
    let settings = settings::load(matches)?;
    if !matches.get_flag("print") {
        // The inspection can take minutes.
        destination(matches)?;
    }
    let work = tempfile::tempdir()?;
    let git = wiring::git(&settings);
    let (branch, bare) = (text("branch"), work.path().join("inspect.git"));
    let fields = assignments(matches)?;
    let found = inspect(&git, &bare, &url, branch.as_deref(), subdirectory.as_deref()).await?;
    for warning in &found.warnings {
        complain!("warning: {warning}");
    }
    let code = match (text("python-file"), text("module")) {
        (Some(_), Some(_)) => return Err("--python-file and --module exclude each other; remove one of them".into()),
        (Some(file), None) => CodePointer::PythonFile(file),
        (None, Some(module)) => CodePointer::Module(module),
        (None, None) => found
            .code
            .first()
            .cloned()
            .ok_or("found no Dagster definitions in the repository; name them with --python-file or --module")?,
    };
    let config = config(&name, &url, subdirectory.as_deref(), &code, &found);
    let config = edit(&config, &fields)?;
    if matches.get_flag("print") {
        print_checked(&name, &config)?;
        return Ok(ExitCode::SUCCESS);
    }
    let edit = Edit { change: Change::AddText(config), message: format!("Add location {name}"), name };
    write(matches, edit).await
}

fn print_checked(name: &str, config: &str) -> Result<(), Failure> {
    codeloc_crds::parse(&format!("{name}/config.yml"), config)
        .map_err(|error| client::without_prefix(&error.render(false)))?;
    say!("{}", config.trim_end());
    Ok(())
}

/// A location name from the last part of a URL.
fn name_of(url: &str) -> String {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let last = last.strip_suffix(".git").unwrap_or(last).to_lowercase();
    let parts = last.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// A config with the most important fields, and comments.
fn config(name: &str, url: &str, subdirectory: Option<&str>, code: &CodePointer, found: &Found) -> String {
    let line = |key: &str, value: Value| {
        let mut fields = Map::new();
        fields.insert(key.to_owned(), value);
        codeloc_crds::edit::write(&fields).lines().skip(1).collect::<Vec<_>>().join("\n")
    };
    let mut lines = vec![SCHEMA_LINE.to_owned(), line("name", json!(name)), line("git_url", json!(url))];
    lines.push(line("branch", json!(found.branch)));
    lines.extend(subdirectory.map(|folder| line("subdirectory", json!(folder))));
    let others = found.code.iter().filter(|other| !same_code(other, code)).take(3).map(|other| match other {
        CodePointer::PythonFile(file) => file.clone(),
        CodePointer::Module(module) => format!("module {module}"),
    });
    let others: Vec<String> = others.collect();
    if !others.is_empty() {
        lines.push(format!("# Other files with definitions: {}", others.join(", ")));
    }
    lines.push(match code {
        CodePointer::PythonFile(file) => line("python_file", json!(file)),
        CodePointer::Module(module) => line("module", json!(module)),
    });
    lines.push(match &found.dependencies {
        Some(file) => format!("# Dependencies come from {file}."),
        None => "# codeloc found no dependencies: the image contains only Dagster and the code.".to_owned(),
    });
    lines.push(String::new());
    lines.push("# Size of one task. Fargate allows certain pairs of cpu and memory.".to_owned());
    lines.push(line("resources", json!({"cpu": 256, "memory": 512, "architecture": "ARM64"})));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use codeloc_core::ids::Commit;

    use super::*;

    #[test]
    fn a_name_comes_from_the_end_of_the_url() {
        for (url, name) in [
            ("https://github.com/shop/My_Orders.git", "my-orders"),
            ("git@github.com:orders", "orders"),
            ("/home/ada/projects/orders/", "orders"),
        ] {
            assert_eq!(name_of(url), name);
        }
    }

    #[test]
    fn the_written_config_is_valid_and_editable() {
        let code = CodePointer::PythonFile("orders/definitions.py".to_owned());
        let found = Found {
            branch: "main".to_owned(),
            commit: Commit::from("a".repeat(40)),
            code: vec![code.clone(), CodePointer::Module("other".to_owned())],
            dependencies: Some("uv.lock".to_owned()),
            warnings: vec![],
        };
        let text = config("orders", "https://github.com/shop/orders.git", None, &code, &found);
        let text = edit(&text, json!({"resources": {"cpu": 512, "memory": 1024}}).as_object().unwrap()).unwrap();
        let location = codeloc_crds::parse("orders/config.yml", &text).unwrap();
        assert_eq!((location.code, location.resources.cpu), (code, 512), "{text}");
    }

    #[test]
    fn a_comment_names_other_definitions_only() {
        let file = |path: &str| CodePointer::PythonFile(path.to_owned());
        let written = |code: &CodePointer, found: Vec<CodePointer>| {
            let found = Found {
                branch: "main".to_owned(),
                commit: Commit::from("a".repeat(40)),
                code: found,
                dependencies: None,
                warnings: vec![],
            };
            config("etl", "https://github.com/shop/etl.git", None, code, &found)
        };
        let module = CodePointer::Module("etl.definitions".to_owned());
        let text = written(&module, vec![file("src/etl/definitions.py")]);
        assert!(!text.contains("Other files"), "{text}");
        let text = written(&file("./src/etl/definitions.py"), vec![module.clone(), file("old/repository.py")]);
        assert!(text.contains("# Other files with definitions: old/repository.py\n"), "{text}");
        assert!(text.contains("# codeloc found no dependencies"), "{text}");
    }
}
