//! Problems in one file, and their output.

use std::fmt;
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

use crate::excerpt::{Excerpt, shorten};
use crate::git::mask_credentials;
use crate::problem::{Finding, Problem};

/// Wide enough that messages are not wrapped in logs and snapshots.
const REPORT_WIDTH: usize = 160;

/// Limits the size of errors in logs, events and the API: a file can contain tens of thousands of mistakes.
const MAX_PROBLEMS: usize = 20;

/// The first problems in one file, in the order of its lines. Contains at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    /// The text of the file with credentials masked. Byte positions match the file.
    text: String,
    problems: Vec<Problem>,
    /// Number of problems that `problems` omits.
    more: usize,
}

impl ConfigError {
    /// `findings` must not be empty.
    pub(crate) fn new(path: &str, text: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.span.start);
        let more = findings.len().saturating_sub(MAX_PROBLEMS);
        findings.truncate(MAX_PROBLEMS);
        let problems = findings.into_iter().map(|finding| Problem::place(text, finding)).collect();
        Self { path: path.to_owned(), text: mask_credentials(text), problems, more }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first problems. [`Self::more`] counts the rest.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub fn more(&self) -> usize {
        self.more
    }

    /// Line of the first problem, starting at 1.
    pub fn line(&self) -> usize {
        self.problems[0].line
    }

    /// Column of the first problem in characters, starting at 1.
    pub fn column(&self) -> usize {
        self.problems[0].column
    }

    pub fn message(&self) -> &str {
        &self.problems[0].message
    }

    pub fn hint(&self) -> &str {
        &self.problems[0].hint
    }

    /// Renders each problem with its position, an excerpt of the file, carets and a hint.
    pub fn render(&self, color: bool) -> String {
        let mut theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        theme.characters.underline = '^';
        theme.characters.underbar = '^';
        "error:".clone_into(&mut theme.characters.error);
        let mut rendered = String::new();
        for problem in &self.problems {
            let excerpt = Excerpt::new(&self.path, &self.text, problem);
            let handler = GraphicalReportHandler::new_themed(theme.clone())
                .with_context_lines(1)
                .with_links(false)
                .with_width(REPORT_WIDTH)
                .with_footer(format!("{} {}", theme.styles.help.style("hint:"), problem.hint));
            handler
                .render_report(&mut rendered, &Report { problem, excerpt: &excerpt })
                .expect("writing to a String does not fail");
        }
        let lines = rendered.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let mut rendered: String = lines.flat_map(|line| [line, "\n"]).collect();
        if self.more > 0 {
            let problems = if self.more == 1 { "problem" } else { "problems" };
            let more = format!("and {} more {problems}\n", self.more);
            rendered.push_str(&more);
        }
        rendered
    }
}

/// The first problem on one line: `path:line:column: message`.
impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.problems[0];
        write!(formatter, "{}:{}:{}: {}", self.path, first.line, first.column, first.message)?;
        match self.problems.len() - 1 + self.more {
            0 => Ok(()),
            1 => formatter.write_str(" (and 1 more problem)"),
            more => write!(formatter, " (and {more} more problems)"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Problem {
    fn place(text: &str, finding: Finding) -> Self {
        let span = clamp(text, finding.span);
        let before = &text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: shorten(&mask_credentials(&finding.message)),
            hint: shorten(&mask_credentials(&finding.hint)),
            span,
        }
    }
}

/// Limits a span to one line of the text and to character boundaries, as miette requires.
fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let last_line_end = text.trim_end_matches(['\n', '\r']).len();
    let start = text.floor_char_boundary(span.start.min(last_line_end));
    let line_end = text[start..].find(['\n', '\r']).map_or(text.len(), |length| start + length);
    let end = text.floor_char_boundary(span.end.clamp(start, line_end));
    let shown = text[start..end].trim_end().len();
    let first_character = text[start..line_end].chars().next().map_or(0, char::len_utf8);
    start..start + shown.max(first_character)
}

#[derive(Debug)]
struct Report<'a> {
    problem: &'a Problem,
    excerpt: &'a Excerpt<'a>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.problem.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.excerpt)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = &self.excerpt.span;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, span.start, span.len()))))
    }
}
