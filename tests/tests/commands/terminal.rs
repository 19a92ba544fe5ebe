//! Commands escape control characters in texts from outside and keep the colours of codeloc.

use std::process::{Command, Output};

use codeloc_tests::processes::{binary, command, git, root, run};
use codeloc_tests::sandbox::Sandbox;
use serde_json::json;

use super::{Answer, COMMANDS, daemon, daemon_with_text, status};

/// A title, hidden text, a colour and a line break by C1, DEL, bidirectional controls and a line separator.
const HOSTILE: &str = "x\u{1b}]0;pwned\u{7}\u{1b}[8m\u{9b}31m\u{85}\r\u{7f}\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}y";
/// The sequences that codeloc itself prints.
const COLOURS: [&str; 5] = ["\u{1b}[0m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[90m"];

/// codeloc with colours, as on a terminal.
fn coloured() -> Command {
    let mut codeloc = command(binary("codeloc"));
    codeloc.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
    codeloc
}

/// The characters that a terminal interprets, except the colours of codeloc.
fn interpreted(bytes: &[u8]) -> String {
    let text = COLOURS.iter().fold(String::from_utf8(bytes.to_vec()).unwrap(), |text, own| text.replace(own, ""));
    let is_interpreted = |character: &char| {
        let turns = "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        (character.is_control() && !matches!(character, '\n' | '\t')) || turns.contains(*character)
    };
    text.chars().filter(is_interpreted).collect()
}

/// The output of a command; asserts that a terminal interprets none of it.
fn harmless(what: &str, output: &Output) -> String {
    for stream in [&output.stdout, &output.stderr] {
        assert_eq!(interpreted(stream), "", "{what}: {:?}", String::from_utf8_lossy(stream));
    }
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    assert!(!String::from_utf8_lossy(&text).contains("panicked"), "{what}: {}", String::from_utf8_lossy(&text));
    String::from_utf8(text).unwrap()
}

#[test]
fn text_of_a_daemon_is_escaped() {
    let problem = |config: Option<&str>| {
        let body = json!({
            "type": "about:blank", "title": HOSTILE, "status": 422, "detail": HOSTILE, "config": config,
        });
        Answer("422 Unprocessable Content", "application/problem+json", body.to_string())
    };
    let servers = [
        ("hostile texts", daemon_with_text(HOSTILE)),
        ("hostile errors", daemon(move |_, _| problem(None))),
        ("hostile errors of a config", daemon(move |_, _| problem(Some(HOSTILE)))),
        ("no JSON", daemon(|_, _| Answer("200 OK", "text/plain", HOSTILE.to_owned()))),
        (
            "not ready",
            daemon(|_, path| match path {
                "/readyz" => Answer("503 Service Unavailable", "text/plain", HOSTILE.to_owned()),
                "/v1/status" => Answer::json(&json!({"fault": HOSTILE})),
                _ => Answer::json(&json!([status(HOSTILE, &json!({}))])),
            }),
        ),
    ];
    for (of, server) in servers {
        for arguments in COMMANDS {
            let output = coloured().args(arguments).args(["--server", &server]).output().unwrap();
            let text = harmless(&format!("{arguments:?} of a daemon with {of}"), &output);
            let says = ["\\u{202e}", "\\u202e"].iter().any(|escape| text.contains(escape));
            let own = ["sync", "retry", "abandon-runs"].contains(&arguments[0]) || arguments.contains(&"ordres");
            assert!(says || own || of != "hostile texts", "{arguments:?} shows nothing of it: {text}");
        }
    }
}

#[test]
fn json_output_keeps_the_original_text() {
    let output = coloured().args(["list", "--json", "--server", &daemon_with_text(HOSTILE)]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed[0]["message"], HOSTILE);
}

#[test]
fn the_colours_of_codeloc_are_kept() {
    let server = daemon_with_text("plain");
    let output = coloured().args(["list", "--server", &server]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("\u{1b}[33mOutOfSync\u{1b}[0m"), "{output:?}");
    let output = run(binary("codeloc"), &["list", "--server", &server]);
    assert!(!output.stdout.contains(&0x1b), "{output:?}");
}

/// Invalid configs with hostile characters in different places.
fn configs() -> Vec<(&'static str, String)> {
    let config =
        |name: &str, more: &str| format!("name: {name}\ngit_url: https://git.test/{name}.git\nmodule: a\n{more}");
    vec![
        ("field", config("field", "enviro\u{202e}\u{2066}nment: []\n")),
        ("value", config("value", "resources: {cpu: \"\u{1b}[8m\u{9b}31m\"}\n")),
        ("quoted", config("quoted", "branch: \"\\e]0;pwned\\a\\x9b8m\\u202e\"\n")),
        ("comment", config("comment", "# \u{202e}\u{7f}\u{9b}31m\nnope: 1\n")),
        ("na\u{1b}[8m\u{202e}me", config("stray", "")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_a_config_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    for (name, text) in configs() {
        sandbox.write_config(name, &text);
    }
    let settings = folder.path().join("codeloc.yml").display().to_string();
    let repos = folder.path().join("repos").display().to_string();
    let missing = format!("--source-path=/nope{HOSTILE}");
    let arguments: [&[&str]; 6] = [
        &["validate", &repos],
        &["validate", &missing[14..]],
        &["plan", "--config", &settings],
        &["doctor", "--config", &settings],
        &["doctor", "--json", "--config", &settings],
        &["plan", "--config", &settings, &missing],
    ];
    for arguments in arguments {
        let text = harmless(&format!("{arguments:?}"), &coloured().args(arguments).output().unwrap());
        assert!(text.contains("\\u{202e}") || text.contains("\\u202e"), "{arguments:?} shows nothing of it: {text}");
    }
    // The log is JSON.
    let applied = coloured().args(["apply", "--timeout", "3", "--config", &settings]).output().unwrap();
    assert_eq!(interpreted(&applied.stdout), "", "{}", String::from_utf8_lossy(&applied.stdout));
}

#[test]
fn text_of_a_repository_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("location");
    let code = repository.join("a\u{1b}[8m\u{202e}");
    std::fs::create_dir_all(&code).unwrap();
    std::fs::write(code.join("definitions.py"), "from dagster import Definitions\ndefs = Definitions()\n").unwrap();
    let git = |arguments: &[&str]| git(&repository, arguments);
    git(&["init", "--quiet", "--initial-branch=main"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "-m", "Begins"]);
    let work = format!("--build-work-folder={}", folder.path().join("work").display());
    let repository_path = repository.display().to_string();
    let missing = format!("{repository_path}{HOSTILE}");
    for url in [repository_path, missing] {
        let mut add = coloured();
        add.args(["add", &url, "--name", "orders", "--print", "--git-allow-local=true", &work]);
        harmless(&format!("add of {url:?}"), &add.current_dir(folder.path()).output().unwrap());
    }
}

#[test]
fn make_run_escapes_text() {
    let server = daemon_with_text(HOSTILE);
    let port = server.rsplit(':').next().unwrap();
    let script = "import sys; sys.path.insert(0, sys.argv[1]); import run; \
                  run.Stack(run.parse(['--codeloc-port', sys.argv[2]])).settled()";
    let output =
        command("python3").args(["-B", "-c", script]).arg(root().join("deploy/local")).arg(port).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = harmless("make run", &output);
    assert!(text.contains("orders") && text.contains("\\u{1b}[8m"), "{text}");
}

#[test]
fn the_colours_of_a_log_are_removed() {
    let lines = json!([{"id": "1", "at": 0, "stream": "orders/code/1234", "text": "\u{1b}[32m13:13\u{1b}[0m - \u{1b}[34mINFO\u{1b}[0m - Started"}]);
    let server = daemon(move |_, _| Answer::json(&lines));
    let output = coloured().args(["logs", "orders", "--server", &server]).output().unwrap();
    let text = harmless("logs with colours", &output);
    assert!(text.ends_with(" 13:13 - INFO - Started\n"), "{text}");
}
