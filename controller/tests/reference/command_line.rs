//! `docs/command-line.md`.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};
use codeloc::settings;

use super::{GENERATED, assert_fresh, code, header, row};

const PAGE: &str = "docs/command-line.md";

const HEAD: &str = "\
# Command line

- Results go to standard output, errors and the log to standard error. If standard error is not a terminal, the log is
  JSON.
- Every command has `--help`. In the headings, brackets mark optional arguments.
- Wrong usage exits with 2. `plan` also exits with 2 if there are changes.
- If the reader of its output closes the pipe, as in `codeloc list | head -1`, a command exits quietly with 141, as
  other tools do on SIGPIPE.
- codeloc escapes control and bidirectional characters in text of repositories, logs and servers, as in `\\u{1b}`. `--json`
  escapes them as JSON does, so the data stay the same.
";

/// Exit codes of each command. Add new commands here.
fn exits(command: &str) -> &'static [(&'static str, &'static str)] {
    match command {
        "validate" => &[("0", "all configs are valid"), ("1", "a config is invalid, or the folder cannot be read")],
        "status" => &[
            (
                "0",
                "shown; with `--wait`, all locations are Synced and Healthy with everything pushed before the command started, and with the named commits",
            ),
            (
                "1",
                "no daemon answers, or a location does not exist; with `--wait`, the timeout passed, a location cannot become healthy without a change, or it left the named commit",
            ),
        ],
        "schema" | "completions" => &[("0", "printed")],
        "man" => &[("0", "written"), ("1", "the folder is not writable")],
        "list" | "events" | "cost" | "logs" => {
            &[("0", "shown"), ("1", "no daemon answers, it refuses, or the location does not exist")]
        }
        "sync" | "retry" | "abandon-runs" => &[
            ("0", "the daemon accepted the request and reconciles in the background"),
            ("1", "no daemon answers, it refuses, or the location does not exist"),
        ],
        "add" => &[
            ("0", "written, or printed"),
            (
                "1",
                "the repository cannot be read, it has no definitions, the config is invalid, or the location already exists",
            ),
        ],
        "build" => &[
            ("0", "built; with `--load`, the code server has loaded its definitions"),
            ("1", "the repository cannot be read, it is refused, the build fails, or the code does not load"),
        ],
        "update" | "remove" | "suspend" | "resume" => &[
            ("0", "written, or no change was needed"),
            ("1", "the config does not exist, the change is invalid, or the config repository is not writable"),
        ],
        "doctor" => &[("0", "no problem found"), ("1", "at least one problem found; each line suggests a fix")],
        "rollback" => &[("0", "written"), ("1", "codeloc knows no earlier commit that served, or as for `update`")],
        "run" => &[("0", "stopped by SIGTERM or SIGINT"), ("1", "could not start, or stopped because of an error")],
        "apply" => &[
            ("0", "every location is Synced and Healthy"),
            (
                "1",
                "a location is not, `--timeout` passed (also while another process holds the lease, or AWS cannot be read), SIGTERM or SIGINT stopped the command, or an error occurred; the lease is released",
            ),
        ],
        "plan" => &[("0", "no changes"), ("1", "an error, or an invalid config"), ("2", "there are changes")],
        other => panic!(
            "the exit codes of `codeloc {other}` are not described in controller/tests/reference/command_line.rs"
        ),
    }
}

fn page() -> String {
    let mut page = format!("{GENERATED}{HEAD}");
    let settings: Vec<String> = settings::arguments().iter().map(|argument| argument.get_id().to_string()).collect();
    let is_setting = |argument: &Arg| settings.contains(&argument.get_id().to_string());
    let mut commands: Vec<Command> = codeloc::cli::command().get_subcommands().cloned().collect();
    commands.sort_by_key(|command| command.get_name().to_owned());
    for command in commands {
        write!(page, "\n## `{}`\n\n{}.\n\n", usage(&command, is_setting), command.get_about().unwrap()).unwrap();
        let own: Vec<&Arg> = command.get_arguments().filter(|argument| !is_setting(argument)).collect();
        if !own.is_empty() {
            page.push_str(&header(["Argument", "Default", "Description"]));
            for argument in own {
                let defaults: Vec<String> =
                    argument.get_default_values().iter().map(|value| code(&value.to_string_lossy())).collect();
                let defaults = if argument.get_action().takes_values() { defaults.join(", ") } else { String::new() };
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                page.push_str(&row([&code(&spelling(argument)), &defaults, &help]));
            }
            page.push('\n');
        }
        if command.get_arguments().any(is_setting) {
            page.push_str("Takes `--config FILE` (`CODELOC_CONFIG`) and every [setting](settings.md) as a flag.\n\n");
        }
        page.push_str(&header(["Exit", "Meaning"]));
        for (exit, meaning) in exits(command.get_name()) {
            page.push_str(&row([exit, meaning]));
        }
    }
    page
}

fn usage(command: &Command, is_setting: impl Fn(&Arg) -> bool) -> String {
    let mut parts = vec![format!("codeloc {}", command.get_name())];
    let positional = |argument: &Arg| {
        let name = spelling(argument);
        if argument.is_required_set() { name } else { format!("[{name}]") }
    };
    parts.extend(command.get_positionals().map(positional));
    if command.get_arguments().any(|argument| is_setting(argument) || argument.get_long().is_some()) {
        parts.push("[FLAGS]".to_owned());
    }
    parts.join(" ")
}

fn spelling(argument: &Arg) -> String {
    let value = argument.get_value_names().into_iter().flatten().next().map_or("VALUE", |name| name.as_str());
    let many = if argument.get_num_args().is_some_and(|range| range.max_values() > 1) { "..." } else { "" };
    match (argument.get_long(), argument.get_action()) {
        (None, _) => format!("{value}{many}"),
        (Some(long), ArgAction::Set | ArgAction::Append) => format!("--{long} {value}"),
        (Some(long), _) => format!("--{long}"),
    }
}

#[test]
fn the_command_line_page_is_fresh() {
    assert_fresh(PAGE, &page());
}
