//! Texts of other programs, made fit to be shown: bounded, and without characters that steer a terminal.

use std::error::Error;

/// At most `limit` characters of `text`, trimmed, with `…` where something was left out.
pub(super) fn bounded(text: &str, limit: usize) -> String {
    let mut kept: String = text
        .trim()
        .chars()
        .filter(|c| matches!(c, '\n' | '\t') || !c.is_control())
        .take(limit + 1)
        .collect();
    if kept.chars().count() > limit {
        kept.pop();
        kept.push('…');
    }
    kept
}

/// The same on one line, white space collapsed.
pub(super) fn bounded_line(text: &str, limit: usize) -> String {
    bounded(
        &text.split_whitespace().collect::<Vec<_>>().join(" "),
        limit,
    )
}

/// An error with its sources, which transports hide from their own `Display`.
pub(super) fn with_sources(error: &dyn Error) -> String {
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
    fn a_text_cannot_steer_the_terminal() {
        assert_eq!(bounded("\u{1b}[31mred\u{7}", 99), "[31mred");
    }
}
