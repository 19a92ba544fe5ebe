//! The exception that ended a Python program, as its log shows it. Pure.

use codeloc_dagster::text::{bounded_lines, is_user_frame};

const MOST_LINES: usize = 12;
const MOST_CHARACTERS: usize = 1200;
/// Exceptions that are shown of one chain.
const MOST_CAUSES: usize = 3;

/// Python's words between an exception and the one that followed from it.
const CHAINS: [&str; 2] = ["The above exception was the direct cause", "During handling of the above exception"];

struct Thrown<'a> {
    /// The line that names it, and the rest of its message.
    lines: Vec<&'a str>,
    /// The innermost frame of the user's own.
    frame: Option<&'a str>,
    /// It followed from the one before it.
    chained: bool,
}

impl Thrown<'_> {
    fn name(&self) -> &str {
        name(self.lines[0])
    }

    fn text(&self) -> String {
        bounded_lines(&self.lines.join("\n"), MOST_LINES, MOST_CHARACTERS)
    }
}

enum Place {
    Outside,
    Frames,
    Message,
}

/// What says most: the last exception of the user's own with its whole message, or of Dagster's around it, what caused it and where
/// it was raised; or else the last line. The first line names the exception.
pub fn root_cause_line(log: &[String]) -> Option<String> {
    let thrown = exceptions(log);
    let last = |fits: &dyn Fn(&Thrown<'_>) -> bool| thrown.iter().rposition(fits);
    let shown = last(&|one| !one.name().starts_with("dagster."))
        .or_else(|| last(&|one| !one.name().ends_with("DagsterUserCodeLoadError")))
        .or_else(|| last(&|_| true));
    let Some(mut at) = shown else { return log.last().map(|line| line.trim_start().to_owned()) };
    let (mut texts, mut frame) = (vec![thrown[at].text()], thrown[at].frame);
    while at > 0 && thrown[at].chained && texts.len() < MOST_CAUSES {
        at -= 1;
        texts.push(format!("caused by {}", thrown[at].text()));
        frame = thrown[at].frame.or(frame);
    }
    texts.extend(frame.map(|frame| frame.trim_end().to_owned()));
    Some(texts.join("\n"))
}

fn exceptions(log: &[String]) -> Vec<Thrown<'_>> {
    let (mut thrown, mut place): (Vec<Thrown<'_>>, _) = (Vec::new(), Place::Outside);
    let (mut frame, mut chained) = (None, false);
    for line in log {
        let line = line.as_str();
        if line.trim_end() == "Traceback (most recent call last):" {
            (place, frame) = (Place::Frames, None);
        } else if CHAINS.iter().any(|words| line.starts_with(words)) {
            (place, frame, chained) = (Place::Outside, None, true);
        } else if !matches!(place, Place::Message) && line.starts_with("  File \"") {
            place = Place::Frames;
            frame = if is_user_frame(line) { Some(line) } else { frame };
        } else {
            match place {
                Place::Frames if line.starts_with([' ', '\t']) => {}
                Place::Outside if !is_error(line) => {}
                Place::Frames | Place::Outside => {
                    let chained = std::mem::take(&mut chained);
                    thrown.push(Thrown { lines: vec![line], frame: frame.take(), chained });
                    place = Place::Message;
                }
                Place::Message if is_logged(line) => place = Place::Outside,
                Place::Message => {
                    if let Some(last) = thrown.last_mut() {
                        last.lines.push(line);
                    }
                }
            }
        }
    }
    thrown
}

fn name(line: &str) -> &str {
    line.split([':', ' ']).next().unwrap_or_default()
}

/// Whether a line looks as one that a traceback ends with, for tracebacks whose beginning is cut off.
fn is_error(line: &str) -> bool {
    let name = name(line);
    let named = name.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c));
    named && ["Error", "Exception", "Exit", "Interrupt"].iter().any(|end| name.ends_with(end))
}

/// Whether a line begins with a time, as Dagster's log does, be it coloured.
fn is_logged(line: &str) -> bool {
    let plain = line.strip_prefix('\u{1b}').and_then(|rest| rest.split_once('m')).map_or(line, |(_, rest)| rest);
    let date = plain.get(..10).unwrap_or_default();
    date.len() == 10
        && date.char_indices().all(|(at, c)| if at == 4 || at == 7 { c == '-' } else { c.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: &str) -> String {
        let lines: Vec<String> = log.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        root_cause_line(&lines).unwrap_or_default()
    }

    /// As a code server ends, with the exception that the user's code raised.
    fn of_code_server(frames: &str, exception: &str) -> String {
        format!(
            "\u{1b}[32m2026-11-27 11:26:39 +0000\u{1b}[0m - dagster.code_server - INFO - Starting\n\
             Traceback (most recent call last):\n  File \"/opt/codeloc/env/lib/python3.12/site-packages/dagster/_grpc/server.py\", line 280, in __init__\n    \
             targets = get(\n              ^^^^\n{frames}{exception}\n\n\
             The above exception was the direct cause of the following exception:\n\n\
             Traceback (most recent call last):\n  File \"<frozen runpy>\", line 198, in _run_module_as_main\n    raise new_error from e\n\
             dagster._core.errors.DagsterUserCodeLoadError: Error occurred during the loading of Dagster definitions in\n\
             executable_path=/opt/codeloc/env/bin/python, module_name=shop\n"
        )
    }

    const FRAMES: &str = "  File \"/opt/codeloc/code/shop/resources.py\", line 8, in make\n    return Res()\n  \
                          File \"/opt/codeloc/env/lib/python3.12/site-packages/pydantic/main.py\", line 280, in __init__\n    validate()\n";

    #[test]
    fn the_whole_message_and_the_users_line_are_shown() {
        let exception = "pydantic_core._pydantic_core.ValidationError: 1 validation error for Res\n\
                         dbt_executable\n  Value error, The dbt executable was not found on PATH.\n\n\
                         Please install it. [type=value_error]";
        assert_eq!(
            told(&of_code_server(FRAMES, exception)),
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for Res\ndbt_executable\n  \
             Value error, The dbt executable was not found on PATH.\nPlease install it. [type=value_error]\n  \
             File \"/opt/codeloc/code/shop/resources.py\", line 8, in make"
        );
        // A name that is none of Python's own habits.
        let text = told(&of_code_server(FRAMES, "shop.errors.NoSuchTable: orders"));
        assert!(text.starts_with("shop.errors.NoSuchTable: orders\n  File "), "{text}");
        // Dagster's own error inside of its own around it.
        let text = told(&of_code_server(FRAMES, "dagster._core.errors.DagsterInvalidDefinitionError: no job"));
        assert!(text.starts_with("dagster._core.errors.DagsterInvalidDefinitionError: no job\n"), "{text}");
    }

    #[test]
    fn the_cause_of_an_exception_is_shown_with_its_line() {
        let cause = format!(
            "FileNotFoundError: [Errno 2] dbt\n\nThe above exception was the direct cause of the following exception:\n\n\
             Traceback (most recent call last):\n{}RuntimeError: no manifest\nrun dbt parse first",
            FRAMES.replace("line 8", "line 20")
        );
        assert_eq!(
            told(&of_code_server(FRAMES, &cause)),
            "RuntimeError: no manifest\nrun dbt parse first\ncaused by FileNotFoundError: [Errno 2] dbt\n  \
             File \"/opt/codeloc/code/shop/resources.py\", line 8, in make"
        );
    }

    #[test]
    fn an_endless_message_is_shortened() {
        let text = told(&of_code_server(FRAMES, &format!("ValueError: {}", "a line of output\n".repeat(500))));
        assert!(text.lines().count() <= MOST_LINES + 2 && text.contains("… 488 more lines"), "{text}");
        let text = told(&of_code_server(FRAMES, &format!("ValueError: {}", "x".repeat(50_000))));
        assert!(text.chars().count() < MOST_CHARACTERS + 100, "{text}");
    }

    #[test]
    fn a_log_with_a_partial_traceback_shows_its_part() {
        assert_eq!(
            told("    return Res()\nValueError: x\nmore\n2026-11-27 11:26:39 +0000 - dagster - INFO - ended"),
            "ValueError: x\nmore"
        );
        assert_eq!(
            told("  File \"a.py\", line 3\n    def f(\n         ^\nSyntaxError: '(' was never closed"),
            "SyntaxError: '(' was never closed\n  File \"a.py\", line 3"
        );
        assert_eq!(told("started\n  ended"), "ended");
        assert_eq!(told(""), "");
    }
}
