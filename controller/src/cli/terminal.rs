//! All output of commands. It escapes control and bidirectional characters in text of repositories, logs and servers, as in `\u{1b}`, so
//! that a terminal never interprets them. A closed pipe ends the command quietly.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstyle::Style;
use serde::Serialize;

use super::Failure;

/// The exit code of a program that SIGPIPE stopped.
const CLOSED_PIPE: i32 = 141;

/// Prints a line to standard output.
macro_rules! say {
    ($($argument:tt)*) => { $crate::cli::terminal::print(&format!($($argument)*)) };
}

/// Prints a line to standard error.
macro_rules! complain {
    ($($argument:tt)*) => { $crate::cli::terminal::warn(&format!($($argument)*)) };
}

pub(super) use {complain, say};

/// Escaped text with a colour.
pub struct Piece {
    text: String,
    style: Style,
}

impl Piece {
    pub fn new(text: &str, style: Style) -> Self {
        Self { text: escape(text), style }
    }

    /// Without line breaks and tabs.
    pub fn of_one_line(text: &str, style: Style) -> Self {
        Self { text: escape_all_but(text, |_| false), style }
    }

    /// In characters.
    pub fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl std::fmt::Display for Piece {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}{}{:#}", self.style, self.text, self.style)
    }
}

/// Escapes every character that a terminal interprets, except line breaks and tabs.
pub fn escape(text: &str) -> String {
    escape_all_but(text, |character| matches!(character, '\n' | '\t'))
}

fn escape_all_but(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_interpreted(character) && !stays(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters (C0, DEL and C1), separators of lines and paragraphs, and the controls of text direction that Unicode
/// Standard Annex #9 defines.
fn is_interpreted(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Prints a line.
pub fn print(text: &str) {
    write(&format!("{}\n", escape(text)));
}

/// Prints pieces on one line.
pub fn print_pieces(pieces: &[Piece]) {
    let texts: Vec<String> = pieces.iter().map(ToString::to_string).collect();
    write(&format!("{}\n", texts.join(" ")));
}

/// Prints indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    write(&format!("{}\n", plain_json(&serde_json::to_string_pretty(value)?)));
    Ok(())
}

/// Prints JSON on one line.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    write(&format!("{}\n", plain_json(&serde_json::to_string(value)?)));
    Ok(())
}

/// JSON with the same data: a serializer escapes C0 only, and the rest can occur in strings only.
fn plain_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if is_interpreted(character) && character != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

/// Prints a line to standard error. A failure is ignored: there is no other place to report it.
pub fn warn(text: &str) {
    let _ = write_to(anstream::stderr().lock(), &format!("{}\n", escape(text)));
}

/// Writes escaped text with colours; anstream removes them if the output is not a terminal.
pub(super) fn write(text: &str) {
    let Err(error) = write_to(anstream::stdout().lock(), text) else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(CLOSED_PIPE);
    }
    warn(&format!("error: cannot write to standard output: {error}"));
    std::process::exit(1);
}

fn write_to(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that must not reach a terminal.
    fn hostile() -> Vec<char> {
        let ranges = ['\0'..='\u{1f}', '\u{7f}'..='\u{9f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
        ranges.into_iter().flatten().chain(['\u{61c}', '\u{200e}', '\u{200f}']).collect()
    }

    #[test]
    fn characters_that_a_terminal_interprets_are_escaped() {
        for character in hostile() {
            let text = escape(&format!("a{character}b"));
            let stays = matches!(character, '\n' | '\t');
            assert_eq!(text.contains(character), stays, "{text:?}");
        }
        assert_eq!(escape("\u{1b}]0;x\u{7} \u{202e}é\r\n\tü"), "\\u{1b}]0;x\\u{7} \\u{202e}é\\r\n\tü");
        assert_eq!(Piece::of_one_line("a\n\tb", Style::new()).to_string(), "a\\n\\tb");
    }

    #[test]
    fn json_is_the_same_data_without_such_characters() {
        let data: String = hostile().into_iter().chain("a\"\\é".chars()).collect();
        let text = plain_json(&serde_json::to_string_pretty(&[&data]).unwrap());
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [data]);
        assert!(text.chars().all(|character| character == '\n' || !is_interpreted(character)), "{text:?}");
    }
}
