//! `codeloc add`: inspects a repository and writes its config.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_crds::CodePointer;
use codeloc_crds::edit::{SCHEMA_LINE, edit};
use codeloc_images::Survey;
use serde_json::{Map, Value, json};

use super::terminal::{complain, say};
use super::write::{Edit, assignments, destination, write};
use super::{Failure, client};
use crate::config_source::inspect::{Candidate, Repository, others};
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
        .args(code_arguments())
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .help("Add all locations that the repository declares, for example in workspace.yaml"),
        )
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

/// Which code of a repository a command means.
pub(super) fn code_arguments() -> [Arg; 4] {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    [
        text("subdirectory", "FOLDER", "Use this folder of the repository as the root of the code"),
        text(
            "python-file",
            "FILE",
            "Load the definitions from this Python file, relative to the root [default: codeloc searches for one]",
        ),
        text("module", "MODULE", "Load the definitions from this module instead of a file"),
        text(
            "location",
            "NAME",
            "Use this one of the locations that the repository declares, for example in workspace.yaml",
        ),
    ]
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let url = text("git-url").ok_or("no git URL given")?;
    let settings = settings::load(matches)?;
    if !matches.get_flag("print") {
        // The inspection can take minutes.
        destination(matches)?;
    }
    let work = tempfile::tempdir()?;
    let git = wiring::git(&settings);
    let bare = work.path().join("inspect.git");
    let fields = assignments(matches)?;
    let repository = Repository::fetch(&git, &bare, &url, text("branch").as_deref()).await?;
    let subdirectory = text("subdirectory");
    let found = repository.definitions(subdirectory.as_deref()).await?;
    let several = if matches.get_flag("all") { None } else { Some("add one with --location NAME, or all with --all") };
    let candidates = candidates(matches, &repository, subdirectory, &found, several).await?;
    if candidates.len() > 1 && text("name").is_some() {
        return Err("--name fits one location, and this adds several; remove it".into());
    }
    let names: Vec<String> = candidates
        .iter()
        .map(|candidate| match (text("name"), &candidate.name) {
            (Some(name), _) => name,
            (None, Some(name)) => name_of(name),
            (None, None) if candidates.len() > 1 => {
                let is_alone = candidates.iter().filter(|one| one.subdirectory == candidate.subdirectory).count() == 1;
                let folder = candidate.subdirectory.clone().filter(|_| is_alone);
                name_of(&folder.unwrap_or_else(|| pointer(&candidate.code).replace("module ", "").replace('.', "-")))
            }
            (None, None) => name_of(candidate.subdirectory.as_deref().unwrap_or(&url)),
        })
        .collect();
    if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(format!(
            "two locations would get the name {}; add them one by one with --location and --name",
            twice.1
        )
        .into());
    }
    let build = wiring::build_settings(&settings);
    let mut result = ExitCode::SUCCESS;
    for (name, candidate) in names.into_iter().zip(&candidates) {
        let survey = repository.survey(candidate, &build).await;
        let prefix = if candidates.len() > 1 { format!("{name}: ") } else { String::new() };
        for warning in survey.refused.iter().chain(&survey.notes) {
            complain!("warning: {prefix}{warning}");
        }
        for why in &survey.isolated {
            complain!("note: {prefix}codeloc builds in isolation: {why}");
        }
        let others = if candidates.len() > 1 { vec![] } else { others(&found, &candidate.code) };
        let config = edit(&config(&name, &url, &repository.branch, candidate, &survey, &others), &fields)?;
        if matches.get_flag("print") {
            print_checked(&name, &config)?;
            continue;
        }
        let edit = Edit { change: Change::AddText(config), message: format!("Add location {name}"), name };
        result = write(matches, edit).await?;
    }
    Ok(result)
}

/// The locations that are meant: the one of the flags, or the ones that the repository declares, or the most likely file with definitions.
/// `one_only` says what to do if the repository declares several and only one is possible.
pub(super) async fn candidates(
    matches: &ArgMatches,
    repository: &Repository<'_>,
    subdirectory: Option<String>,
    found: &[CodePointer],
    one_only: Option<&str>,
) -> Result<Vec<Candidate>, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let one = |code| Candidate { name: None, subdirectory: subdirectory.clone(), code, attribute: None };
    let wanted = text("location");
    match (text("python-file"), text("module")) {
        (Some(_), Some(_)) => return Err("--python-file and --module exclude each other; remove one of them".into()),
        (Some(file), None) => return Ok(vec![one(CodePointer::PythonFile(file))]),
        (None, Some(module)) => return Ok(vec![one(CodePointer::Module(module))]),
        (None, None) => {}
    }
    let declared = repository.declared(subdirectory.as_deref()).await;
    let shown = |candidate: &Candidate| {
        let name = candidate.name.clone().or_else(|| candidate.subdirectory.clone());
        name.unwrap_or_else(|| pointer(&candidate.code))
    };
    let list = || declared.iter().map(shown).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let location = declared.iter().find(|candidate| shown(candidate) == wanted);
        return match location {
            Some(location) => Ok(vec![location.clone()]),
            None if declared.is_empty() => Err("the repository declares no locations; remove --location".into()),
            None => Err(format!("the repository has no location {wanted}; it has {}", list()).into()),
        };
    }
    match declared.len() {
        0 => {
            let code = found.first().cloned();
            let code =
                code.ok_or("found no Dagster definitions in the repository; name them with --python-file or --module")?;
            Ok(vec![one(code)])
        }
        1 => Ok(declared),
        count => match one_only {
            None => Ok(declared),
            Some(remedy) => Err(format!("the repository has {count} locations: {}; {remedy}", list()).into()),
        },
    }
}

/// A code pointer for people.
pub(super) fn pointer(code: &CodePointer) -> String {
    match code {
        CodePointer::PythonFile(file) => file.clone(),
        CodePointer::Module(module) => format!("module {module}"),
    }
}

fn print_checked(name: &str, config: &str) -> Result<(), Failure> {
    codeloc_crds::parse(&format!("{name}/config.yml"), config)
        .map_err(|error| client::without_prefix(&error.render(false)))?;
    say!("{}", config.trim_end());
    Ok(())
}

/// A location name from the last part of a URL.
pub(super) fn name_of(url: &str) -> String {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let last = last.strip_suffix(".git").unwrap_or(last).to_lowercase();
    let parts = last.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// A config with the most important fields, and comments.
fn config(
    name: &str,
    url: &str,
    branch: &str,
    candidate: &Candidate,
    survey: &Survey,
    others: &[&CodePointer],
) -> String {
    let line = |key: &str, value: Value| {
        let mut fields = Map::new();
        fields.insert(key.to_owned(), value);
        codeloc_crds::edit::write(&fields).lines().skip(1).collect::<Vec<_>>().join("\n")
    };
    let mut lines = vec![SCHEMA_LINE.to_owned(), line("name", json!(name)), line("git_url", json!(url))];
    lines.push(line("branch", json!(branch)));
    lines.extend(candidate.subdirectory.iter().map(|folder| line("subdirectory", json!(folder))));
    let others: Vec<String> = others.iter().take(3).map(|other| pointer(other)).collect();
    if !others.is_empty() {
        lines.push(format!("# Other files with definitions: {}", others.join(", ")));
    }
    lines.push(match &candidate.code {
        CodePointer::PythonFile(file) => line("python_file", json!(file)),
        CodePointer::Module(module) => line("module", json!(module)),
    });
    lines.extend(candidate.attribute.iter().map(|attribute| line("attribute", json!(attribute))));
    lines.push(match &survey.dependencies {
        Some(file) => format!("# Dependencies come from {file}."),
        None => "# codeloc found no dependencies: the image contains only Dagster and the code.".to_owned(),
    });
    if let Some(python) = &survey.python {
        lines.push("# The project excludes the default version of Python.".to_owned());
        lines.push(line("python_version", json!(python)));
    }
    lines.push(String::new());
    lines.push("# Size of one task. Fargate allows certain pairs of cpu and memory.".to_owned());
    let memory = match &survey.heavy {
        Some(package) => {
            lines.push(format!("# {package} needs more than the smallest size."));
            1024
        }
        None => 512,
    };
    lines.push(line("resources", json!({"cpu": 256, "memory": memory, "architecture": "ARM64"})));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
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

    fn candidate(code: CodePointer) -> Candidate {
        Candidate { name: None, subdirectory: None, code, attribute: None }
    }

    #[test]
    fn the_written_config_is_valid_and_editable() {
        let code = CodePointer::PythonFile("orders/definitions.py".to_owned());
        let survey = Survey {
            dependencies: Some("uv.lock".to_owned()),
            heavy: Some("torch".to_owned()),
            python: Some("3.11".to_owned()),
            ..Survey::default()
        };
        let of_attribute = Candidate {
            subdirectory: Some("projects/orders".to_owned()),
            attribute: Some("defs".to_owned()),
            ..candidate(code.clone())
        };
        let other = CodePointer::Module("other".to_owned());
        let url = "https://github.com/shop/orders.git";
        let text = config("orders", url, "main", &of_attribute, &survey, &[&other]);
        let location = codeloc_crds::parse("orders/config.yml", &text).unwrap();
        assert_eq!((&location.code, location.resources.memory), (&code, 1024), "{text}");
        assert_eq!(location.subdirectory.as_deref(), Some("projects/orders"));
        assert_eq!((location.python_version.as_deref(), location.attribute.as_deref()), (Some("3.11"), Some("defs")));
        assert!(text.contains("# Other files with definitions: module other\n"), "{text}");
        let text = edit(&text, json!({"resources": {"cpu": 512, "memory": 2048}}).as_object().unwrap()).unwrap();
        assert_eq!(codeloc_crds::parse("orders/config.yml", &text).unwrap().resources.cpu, 512, "{text}");
    }

    #[test]
    fn a_repository_without_dependencies_says_so() {
        let code = CodePointer::Module("etl.definitions".to_owned());
        let text = config("etl", "https://github.com/shop/etl.git", "main", &candidate(code), &Survey::default(), &[]);
        assert!(
            text.contains("# codeloc found no dependencies") && text.contains("\"memory\": 512")
                || text.contains("memory: 512"),
            "{text}"
        );
        assert!(!text.contains("Other files"), "{text}");
    }
}
