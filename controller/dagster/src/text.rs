//! Prepares texts of other programs for display: bounded, and without control characters for a terminal.

use std::error::Error;

/// At most `limit` characters of `text`, trimmed, with `…` in place of the rest.
pub fn bounded(text: &str, limit: usize) -> String {
    let mut start: String =
        text.trim().chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).take(limit + 1).collect();
    if start.chars().count() > limit {
        start.pop();
        start.push('…');
    }
    start
}

/// At most `lines` lines and `limit` characters, without empty lines, with the number of omitted lines.
pub fn bounded_lines(text: &str, lines: usize, limit: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let start = bounded(&all[..all.len().min(lines)].join("\n"), limit);
    match all.len().saturating_sub(lines) {
        0 => start,
        more => format!("{start}\n… {more} more lines"),
    }
}

/// Whether a frame of a Python traceback is in the user's own code, not in a package or in Python itself.
pub fn is_user_frame(frame: &str) -> bool {
    let path = frame.trim_start().strip_prefix("File \"").and_then(|rest| rest.split('"').next());
    let packages = ["/site-packages/", "/dist-packages/", "/lib/python3"];
    path.is_some_and(|path| !path.starts_with('<') && !packages.iter().any(|part| path.contains(part)))
}

/// At most `limit` characters on one line, with white space collapsed.
pub fn bounded_line(text: &str, limit: usize) -> String {
    bounded(&text.split_whitespace().collect::<Vec<_>>().join(" "), limit)
}

/// An error with its sources, which the `Display` of a transport error omits.
pub fn with_sources(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        // A wrapper may repeat the text of its source.
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
    fn lines_are_unchanged_up_to_the_limit() {
        assert_eq!(bounded_lines("a\n\n  b \n\u{1b}[1mc\n", 9, 99), "a\n  b\n[1mc");
        assert_eq!(bounded_lines("a\nb\nc\nd", 2, 99), "a\nb\n… 2 more lines");
    }

    #[test]
    fn frames_of_packages_and_python_are_not_user_frames() {
        let frame = |path: &str| is_user_frame(&format!("  File \"{path}\", line 1, in f\n    g()\n"));
        assert!(frame("definitions.py") && frame("/opt/codeloc/code/shop/a.py"));
        for path in
            ["<frozen runpy>", "/x/env/lib/python3.12/site-packages/a.py", "/usr/lib/python3.12/json/decoder.py"]
        {
            assert!(!frame(path), "{path}");
        }
        assert!(!is_user_frame("definitions.py"));
    }

    #[test]
    fn control_characters_are_removed() {
        assert_eq!(bounded("\u{1b}[31mred\u{7}", 99), "[31mred");
    }

    #[test]
    fn an_error_is_shown_with_each_source_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }
        let cause = Layer { text: "connection refused", source: None };
        let wrapper = Layer { text: "tcp error: connection refused", source: Some(Box::new(cause)) };
        let error = Layer { text: "error sending request", source: Some(Box::new(wrapper)) };
        assert_eq!(with_sources(&error), "error sending request: tcp error: connection refused");
    }
}
