//! The few lines of a file that an error shows, none of them longer than a reader and miette can take.
//!
//! miette pads lines with format widths of 16 bits, and panics on a line that is longer.

use std::ops::Range;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

use crate::error::Problem;

/// In bytes. A longer line is shown as a window around the problem.
const LONGEST_LINE: usize = 400;

/// How much of a long line is shown before the problem, in bytes.
const LEAD: usize = 60;

/// In characters: room for every message and hint, with a name of ordinary length in it.
const LONGEST_MESSAGE: usize = 400;
const MESSAGE_END: usize = 100;

const CUT: &str = "…";

/// The line of a problem with its neighbours.
#[derive(Debug)]
pub(crate) struct Excerpt<'a> {
    path: &'a str,
    text: String,
    /// In `text`.
    pub span: Range<usize>,
    /// Of the first line in `text`, counted from 0.
    first_line: usize,
    /// Of the problem in the file, counted from 0.
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
        let cut = if offset > 0 { CUT.len() } else { 0 };
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

/// What is shown of a line, and from which to which byte.
fn window(line: &str, problem: usize) -> (String, usize, usize) {
    if line.len() <= LONGEST_LINE {
        return (line.to_owned(), 0, line.len());
    }
    let start = line.floor_char_boundary(problem.saturating_sub(LEAD));
    let end = line.floor_char_boundary((start + LONGEST_LINE).min(line.len()));
    let before = if start > 0 { CUT } else { "" };
    let after = if end < line.len() { CUT } else { "" };
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
        // Without neighbours it is asked where the problem stands.
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

/// A message on one line and of a length that a terminal, an event and the API can take: the middle of a longer one is left out.
pub(crate) fn shorten(message: &str) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    // Escaped first: an escape is longer than what it stands for.
    let message: String = message.chars().map(plain).collect();
    let length = message.chars().count();
    if length <= LONGEST_MESSAGE {
        return message;
    }
    let start = message.chars().take(LONGEST_MESSAGE - MESSAGE_END);
    let end = message.chars().skip(length - MESSAGE_END);
    start.chain(CUT.chars()).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_count_towards_the_length_of_a_message() {
        for character in ["a", "\t", "\u{1}", "\u{9b}", "語"] {
            for number in [1, 100, 390, 400, 401, 5000] {
                let shown = shorten(&character.repeat(number));
                assert!(shown.chars().count() <= LONGEST_MESSAGE + 1, "{number} of {character:?}: {}", shown.len());
                assert!(!shown.contains(char::is_control));
            }
        }
    }
}
