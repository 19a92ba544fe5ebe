//! `controller/README.md` shows the stages of a pass: each function exists in its file, and the stages are in the order of the calls.

use std::fs;
use std::path::PathBuf;

struct Stage {
    file: String,
    call: String,
}

fn controller() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../controller")
}

fn read(path: &str) -> String {
    fs::read_to_string(controller().join(path)).unwrap_or_else(|error| panic!("controller/{path}: {error}"))
}

fn stages() -> Vec<Stage> {
    let text = read("README.md");
    let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows =
        text.lines().skip_while(|line| !line.starts_with("| Stage")).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        Stage { file: code(cells[2]), call: code(cells[3]) }
    })
    .collect()
}

/// The body of a function, from its name to the next line that closes an item of the same indentation.
fn body(text: &str, function: &str) -> String {
    let start = text.find(&format!("fn {function}(")).unwrap_or_else(|| panic!("no function {function}"));
    let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let indent: String = text[line..].chars().take_while(|character| *character == ' ').collect();
    let end = text[start..].find(&format!("\n{indent}}}\n")).map_or(text.len(), |end| start + end);
    text[start..end].to_owned()
}

/// The text of a pass, in which each call of its own helper functions is followed by their text.
fn pass() -> String {
    let text = read("src/reconcile/mod.rs");
    let mut pass = body(&text, "rounds");
    for helper in ["plan", "ask", "record", "execute"] {
        let call = format!("self.{helper}(");
        let Some(at) = pass.find(&call) else { panic!("a pass does not call {helper}") };
        let end = at + call.len();
        pass.insert_str(end, &body(&text, helper));
    }
    pass
}

#[test]
fn each_stage_names_a_function_that_exists() {
    let stages = stages();
    assert!(stages.len() > 10, "the table of stages is missing");
    for Stage { file, call } in stages {
        assert!(read(&file).contains(&format!("fn {call}")), "controller/{file} has no function {call}");
    }
}

#[test]
fn the_stages_are_in_the_order_of_their_calls() {
    let pass = pass();
    let mut from = 0;
    for call in [
        "observer.observe(",
        "observer.surroundings(",
        "configs.config(",
        "policy.hold(",
        "desired.resolve(",
        "planner::needs(",
        "observer.failure_excerpt(",
        "planner::plan(",
        "planner::lint(",
        "decide(",
        "status.planned(",
        "executor.execute(",
    ] {
        let at = pass[from..].find(call).unwrap_or_else(|| panic!("`{call}` is missing or too early in a pass"));
        from += at + call.len();
    }
}

#[test]
fn no_stage_returns_to_an_earlier_file() {
    let mut seen: Vec<String> = vec![];
    for Stage { file, .. } in stages() {
        if seen.last() != Some(&file) {
            assert!(!seen.contains(&file), "{file} is in two places of the table");
            seen.push(file);
        }
    }
}
