//! Texts of other programs, made fit to be shown: bounded, and without characters that steer a terminal.

use std::error::Error;

/// At most `limit` characters of `text`, trimmed, with `…` where something was left out.
pub fn bounded(text: &str, limit: usize) -> String {
    let mut kept: String =
        text.trim().chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).take(limit + 1).collect();
    if kept.chars().count() > limit {
        kept.pop();
        kept.push('…');
    }
    kept
}

/// The same of at most so many lines, without empty ones; says how many were left out.
pub fn bounded_lines(text: &str, lines: usize, limit: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let kept = bounded(&all[..all.len().min(lines)].join("\n"), limit);
    match all.len().saturating_sub(lines) {
        0 => kept,
        more => format!("{kept}\n… {more} more lines"),
    }
}

/// Whether a frame of a Python traceback is of the user's own code, and not of a package or of Python itself.
pub fn of_user(frame: &str) -> bool {
    let path = frame.trim_start().strip_prefix("File \"").and_then(|rest| rest.split('"').next());
    let others = ["/site-packages/", "/dist-packages/", "/lib/python3"];
    path.is_some_and(|path| !path.starts_with('<') && !others.iter().any(|part| path.contains(part)))
}

/// The same on one line, white space collapsed.
pub fn bounded_line(text: &str, limit: usize) -> String {
    bounded(&text.split_whitespace().collect::<Vec<_>>().join(" "), limit)
}

/// An error with its sources, which transports hide from their own `Display`.
pub fn with_sources(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        // Wrappers like to repeat what they wrap.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = inner.source();
    }
    bounded_line(&parts.join(": "), 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(bounded("ééééé", 3), "ééé…");
        assert_eq!(bounded("ééé\n", 3), "ééé");
    }

    #[test]
    fn lines_are_kept_as_they_are_up_to_a_number() {
        assert_eq!(bounded_lines("a\n\n  b \n\u{1b}[1mc\n", 9, 99), "a\n  b\n[1mc");
        assert_eq!(bounded_lines("a\nb\nc\nd", 2, 99), "a\nb\n… 2 more lines");
    }

    #[test]
    fn frames_of_packages_and_of_python_are_not_the_users() {
        let frame = |path: &str| of_user(&format!("  File \"{path}\", line 1, in f\n    g()\n"));
        assert!(frame("definitions.py") && frame("/opt/codeloc/code/shop/a.py"));
        for path in
            ["<frozen runpy>", "/x/env/lib/python3.12/site-packages/a.py", "/usr/lib/python3.12/json/decoder.py"]
        {
            assert!(!frame(path), "{path}");
        }
        assert!(!of_user("definitions.py"));
    }

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        assert_eq!(bounded("\u{1b}[31mred\u{7}", 99), "[31mred");
    }
}
