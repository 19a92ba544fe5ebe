//! The lines of a file that an error shows, with a limit on their length.
//!
//! miette pads lines with 16-bit format widths and panics on a longer line.

use std::ops::Range;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

use crate::problem::Problem;

/// Errors show a part of a longer line, around the problem.
const MAX_LINE_BYTES: usize = 400;

/// Length of the part that precedes the problem in a long line.
const LEAD_BYTES: usize = 60;

/// Long enough for every message and hint with a name of ordinary length.
const MAX_MESSAGE_CHARS: usize = 400;
const MESSAGE_END_CHARS: usize = 100;

const ELLIPSIS: &str = "…";

/// The line of a problem with its neighbors.
#[derive(Debug)]
pub(crate) struct Excerpt<'a> {
    path: &'a str,
    text: String,
    /// Position of the problem in `text`.
    pub span: Range<usize>,
    /// Line number of the start of `text`, starting at 0.
    first_line: usize,
    /// Column of the problem in the file, starting at 0.
    column: usize,
}

impl<'a> Excerpt<'a> {
    pub fn new(path: &'a str, file: &str, problem: &Problem) -> Self {
        let span = problem.span.clone();
        let line_start = file[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let mut text = String::new();
        let mut first_line = problem.line - 1;
        if let Some(before) = file[..line_start].strip_suffix('\n') {
            let before = before.rsplit('\n').next().unwrap_or_default();
            text.push_str(&window(before, 0).0);
            text.push('\n');
            first_line -= 1;
        }
        let (line, rest) =
            file[line_start..].split_once('\n').map_or((&file[line_start..], None), |(line, rest)| (line, Some(rest)));
        let (shown, offset, end) = window(line, span.start - line_start);
        let cut = if offset > 0 { ELLIPSIS.len() } else { 0 };
        let place = |at: usize| text.len() + cut + (at - line_start).clamp(offset, end) - offset;
        let span = place(span.start)..place(span.end);
        text.push_str(&shown);
        if let Some(rest) = rest {
            text.push('\n');
            let (after, ends) = rest.split_once('\n').map_or((rest, false), |(after, _)| (after, true));
            text.push_str(&window(after, 0).0);
            if ends {
                text.push('\n');
            }
        }
        Self { path, text, span, first_line, column: problem.column - 1 }
    }
}

/// The visible part of a line, and its start and end in bytes.
fn window(line: &str, problem: usize) -> (String, usize, usize) {
    if line.len() <= MAX_LINE_BYTES {
        return (line.to_owned(), 0, line.len());
    }
    let start = line.floor_char_boundary(problem.saturating_sub(LEAD_BYTES));
    let end = line.floor_char_boundary((start + MAX_LINE_BYTES).min(line.len()));
    let before = if start > 0 { ELLIPSIS } else { "" };
    let after = if end < line.len() { ELLIPSIS } else { "" };
    (format!("{before}{}{after}", &line[start..end]), start, end)
}

impl SourceCode for Excerpt<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let read = self.text.read_span(span, lines_before, lines_after)?;
        // Without context lines miette asks for the position of the problem in the file.
        let column = if lines_before == 0 { self.column } else { read.column() };
        Ok(Box::new(MietteSpanContents::new_named(
            self.path.to_owned(),
            read.data(),
            *read.span(),
            self.first_line + read.line(),
            column,
            read.line_count(),
        )))
    }
}

/// Escapes control characters and shortens a long message in the middle, so that terminals, events and the API can show it.
pub(crate) fn shorten(message: &str) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    // Escapes first, because an escape sequence is longer than the character.
    let message: String = message.chars().map(plain).collect();
    let length = message.chars().count();
    if length <= MAX_MESSAGE_CHARS {
        return message;
    }
    let start = message.chars().take(MAX_MESSAGE_CHARS - MESSAGE_END_CHARS);
    let end = message.chars().skip(length - MESSAGE_END_CHARS);
    start.chain(ELLIPSIS.chars()).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_the_length_of_a_message_after_escaping() {
        for character in ["a", "\t", "\u{1}", "\u{9b}", "語"] {
            for number in [1, 100, 390, 400, 401, 5000] {
                let shown = shorten(&character.repeat(number));
                assert!(shown.chars().count() <= MAX_MESSAGE_CHARS + 1, "{number} of {character:?}: {}", shown.len());
                assert!(!shown.contains(char::is_control));
            }
        }
    }
}
