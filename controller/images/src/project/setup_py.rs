//! Reads a `setup.py` without running it, if it only imports and calls `setup` with constants, as the one of `dagster project scaffold`
//! does. Pure.
//!
//! Guarantees: a value that this module returns is the one that Python would pass to `setup`. Everything else needs a build.

use std::collections::BTreeMap;

/// A value in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    List(Vec<Value>),
    Table(BTreeMap<String, Value>),
    /// A call of `find_packages`, a number, `True` or `None`: no part of the metadata that codeloc reads.
    Other,
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The lines of a list of strings or of one string, as setuptools reads both.
    pub(super) fn lines(&self) -> Option<Vec<String>> {
        match self {
            Self::Text(text) => {
                Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
            }
            Self::List(values) => values.iter().map(|value| value.text().map(str::to_owned)).collect(),
            Self::Table(_) | Self::Other => None,
        }
    }
}

/// The arguments of `setup`. The error is the line that must be run, counted from 1.
pub(super) fn arguments(source: &str) -> Result<BTreeMap<String, Value>, usize> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, variables: BTreeMap::new() };
    let mut arguments = None;
    while let Some(token) = parser.peek().cloned() {
        let line = parser.line();
        match token {
            Token::End => parser.at += 1,
            Token::Text(_) => {
                parser.at += 1;
                parser.end().ok_or(line)?;
            }
            Token::Name(name) if name == "from" || name == "import" => parser.skip_statement(),
            Token::Name(name) if name == "if" => parser.main_guard().ok_or(line)?,
            Token::Name(name) if parser.is_symbol(1, '=') => {
                parser.at += 2;
                let value = parser.value().ok_or(line)?;
                parser.end().ok_or(line)?;
                parser.variables.insert(name, value);
            }
            Token::Name(_) if arguments.is_none() => {
                arguments = Some(parser.setup().ok_or(line)?);
                parser.end().ok_or(line)?;
            }
            Token::Name(_) | Token::Number | Token::Symbol(_) => return Err(line),
        }
    }
    arguments.ok_or(1)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Number,
    Symbol(char),
    /// The end of a statement.
    End,
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    variables: BTreeMap<String, Value>,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(1, |(_, line)| *line)
    }

    fn is_symbol(&self, ahead: usize, symbol: char) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|(token, _)| *token == Token::Symbol(symbol))
    }

    fn take(&mut self, symbol: char) -> Option<()> {
        self.is_symbol(0, symbol).then(|| self.at += 1)
    }

    fn name(&mut self) -> Option<String> {
        let Some(Token::Name(name)) = self.peek().cloned() else { return None };
        self.at += 1;
        Some(name)
    }

    /// A name with dots.
    fn path(&mut self) -> Option<String> {
        let mut path = self.name()?;
        while self.take('.').is_some() {
            path = self.name()?;
        }
        Some(path)
    }

    fn end(&mut self) -> Option<()> {
        matches!(self.peek(), None | Some(Token::End)).then(|| self.at += 1)
    }

    fn skip_statement(&mut self) {
        while !matches!(self.peek(), None | Some(Token::End)) {
            self.at += 1;
        }
    }

    /// `if __name__ == "__main__":`
    fn main_guard(&mut self) -> Option<()> {
        let expected = [
            Token::Name("if".to_owned()),
            Token::Name("__name__".to_owned()),
            Token::Symbol('='),
            Token::Symbol('='),
            Token::Text("__main__".to_owned()),
            Token::Symbol(':'),
        ];
        for token in expected {
            if self.peek() != Some(&token) {
                return None;
            }
            self.at += 1;
        }
        Some(())
    }

    fn setup(&mut self) -> Option<BTreeMap<String, Value>> {
        (self.path()? == "setup").then_some(())?;
        self.take('(')?;
        let mut arguments = BTreeMap::new();
        while self.take(')').is_none() {
            let name = self.name()?;
            self.take('=')?;
            arguments.insert(name, self.value()?);
            if self.take(',').is_none() {
                self.take(')')?;
                break;
            }
        }
        Some(arguments)
    }

    fn value(&mut self) -> Option<Value> {
        let mut value = self.part()?;
        while self.take('+').is_some() {
            value = match (value, self.part()?) {
                (Value::List(one), Value::List(other)) => Value::List([one, other].concat()),
                (Value::Text(one), Value::Text(other)) => Value::Text(one + &other),
                _ => return None,
            };
        }
        Some(value)
    }

    fn part(&mut self) -> Option<Value> {
        match self.peek()?.clone() {
            Token::Text(mut text) => {
                self.at += 1;
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Some(Value::Text(text))
            }
            Token::Number => {
                self.at += 1;
                Some(Value::Other)
            }
            Token::Symbol('[') => self.list(']').map(Value::List),
            Token::Symbol('(') => {
                let before = self.at;
                let values = self.list(')')?;
                // `("text")` is the text.
                let is_tuple =
                    values.len() != 1 || self.tokens[before..self.at].iter().rev().nth(1)?.0 == Token::Symbol(',');
                if is_tuple { Some(Value::List(values)) } else { values.into_iter().next() }
            }
            Token::Symbol('{') => self.table().map(Value::Table),
            Token::Name(_) => self.named(),
            Token::Symbol(_) | Token::End => None,
        }
    }

    fn named(&mut self) -> Option<Value> {
        let name = self.path()?;
        if self.is_symbol(0, '(') {
            let is_known = ["find_packages", "find_namespace_packages"].contains(&name.as_str());
            is_known.then_some(())?;
            let mut depth = 0;
            loop {
                match self.peek()? {
                    Token::Symbol('(' | '[' | '{') => depth += 1,
                    Token::Symbol(')' | ']' | '}') => depth -= 1,
                    _ => {}
                }
                self.at += 1;
                if depth == 0 {
                    return Some(Value::Other);
                }
            }
        }
        match name.as_str() {
            "True" | "False" | "None" => Some(Value::Other),
            name => self.variables.get(name).cloned(),
        }
    }

    fn list(&mut self, close: char) -> Option<Vec<Value>> {
        self.at += 1;
        let mut values = Vec::new();
        while self.take(close).is_none() {
            values.push(self.value()?);
            if self.take(',').is_none() {
                self.take(close)?;
                break;
            }
        }
        Some(values)
    }

    fn table(&mut self) -> Option<BTreeMap<String, Value>> {
        self.at += 1;
        let mut table = BTreeMap::new();
        while self.take('}').is_none() {
            let Value::Text(key) = self.value()? else { return None };
            self.take(':')?;
            table.insert(key, self.value()?);
            if self.take(',').is_none() {
                self.take('}')?;
                break;
            }
        }
        Some(table)
    }
}

/// The tokens with their lines. The error is the line of a text that this module does not read.
fn tokens(source: &str) -> Result<Vec<(Token, usize)>, usize> {
    let letters: Vec<char> = source.chars().collect();
    let (mut tokens, mut at, mut line, mut depth) = (Vec::new(), 0, 1, 0_usize);
    while let Some(&letter) = letters.get(at) {
        match letter {
            '\n' | ';' => {
                if depth == 0 {
                    tokens.push((Token::End, line));
                }
                line += usize::from(letter == '\n');
                at += 1;
            }
            '#' => at += letters[at..].iter().take_while(|letter| **letter != '\n').count(),
            '\\' if letters.get(at + 1) == Some(&'\n') => {
                (at, line) = (at + 2, line + 1);
            }
            letter if letter.is_whitespace() => at += 1,
            '"' | '\'' => {
                let (text, length) = string(&letters[at..], false).ok_or(line)?;
                tokens.push((Token::Text(text), line));
                line += letters[at..at + length].iter().filter(|letter| **letter == '\n').count();
                at += length;
            }
            letter if letter.is_ascii_digit() => {
                at +=
                    letters[at..].iter().take_while(|letter| letter.is_ascii_alphanumeric() || **letter == '.').count();
                tokens.push((Token::Number, line));
            }
            letter if letter.is_alphabetic() || letter == '_' => {
                let length =
                    letters[at..].iter().take_while(|letter| letter.is_alphanumeric() || **letter == '_').count();
                let name: String = letters[at..at + length].iter().collect();
                at += length;
                if !letters.get(at).is_some_and(|letter| ['"', '\''].contains(letter)) {
                    tokens.push((Token::Name(name), line));
                    continue;
                }
                let is_raw = match name.to_ascii_lowercase().as_str() {
                    "r" => true,
                    "u" => false,
                    _ => return Err(line),
                };
                let (text, length) = string(&letters[at..], is_raw).ok_or(line)?;
                tokens.push((Token::Text(text), line));
                line += letters[at..at + length].iter().filter(|letter| **letter == '\n').count();
                at += length;
            }
            letter => {
                match letter {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                tokens.push((Token::Symbol(letter), line));
                at += 1;
            }
        }
    }
    Ok(tokens)
}

/// A string at the beginning of `letters`, and its length in the source. `None` for escapes other than the common ones.
fn string(letters: &[char], is_raw: bool) -> Option<(String, usize)> {
    let quote = *letters.first()?;
    let marks = if letters.get(1..3) == Some(&[quote, quote]) { 3 } else { 1 };
    let (mut text, mut at) = (String::new(), marks);
    loop {
        let letter = *letters.get(at)?;
        if letter == quote && (marks == 1 || letters.get(at..at + 3) == Some(&[quote; 3])) {
            return Some((text, at + marks));
        }
        if letter == '\n' && marks == 1 {
            return None;
        }
        if letter == '\\' && !is_raw {
            match letters.get(at + 1)? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                '\n' => {}
                escaped @ ('\\' | '"' | '\'') => text.push(*escaped),
                _ => return None,
            }
            at += 2;
            continue;
        }
        text.push(letter);
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str, name: &str) -> Option<Vec<String>> {
        arguments(source).ok()?.get(name)?.lines()
    }

    #[test]
    fn constants_are_read() {
        let source = r#"
"""The project."""
from setuptools import find_packages, setup  # comment
import setuptools

VERSION = "1." '2'
common = ["dagster",
          'dagster-cloud',]
if __name__ == "__main__":
    setuptools.setup(
        name="shop", version=VERSION,
        packages=find_packages(exclude=["shop_tests", ("x",)]),
        install_requires=common + ["pandas>=2; python_version > '3.8'"],
        extras_require={"dev": ["dagster-webserver", "pytest"]},
        package_dir={"": "src"},
        include_package_data=True,
        python_requires=(">=3.9"),
    )
"#;
        let arguments = arguments(source).unwrap();
        assert_eq!(arguments["name"].text(), Some("shop"));
        assert_eq!(arguments["version"].text(), Some("1.2"));
        assert_eq!(arguments["python_requires"].text(), Some(">=3.9"));
        assert_eq!(arguments["packages"], Value::Other);
        assert_eq!(
            arguments["install_requires"].lines().unwrap(),
            ["dagster", "dagster-cloud", "pandas>=2; python_version > '3.8'"]
        );
        let Value::Table(extras) = &arguments["extras_require"] else { panic!() };
        assert_eq!(extras["dev"].lines().unwrap(), ["dagster-webserver", "pytest"]);
        assert_eq!(lines("from setuptools import setup\nsetup()", "name"), None);
        assert_eq!(lines("setup(install_requires='''\na\nb\n''')", "install_requires").unwrap(), ["a", "b"]);
    }

    #[test]
    fn everything_else_must_be_run() {
        for (source, line) in [
            ("import os\nos.system('x')\nsetup(name='x')", 2),
            ("setup(name='x',\n  install_requires=open('requirements.txt').read())", 1),
            ("setup(name=f'x')", 1),
            ("setup(name='x')\nsetup(name='y')", 2),
            ("for x in []:\n  pass\nsetup(name='x')", 1),
            ("import x", 1),
            ("setup(name='x'", 1),
            ("setup(**arguments)", 1),
            ("VERSION = read()\nsetup(version=VERSION)", 1),
            ("setup(name=UNKNOWN)", 1),
            ("if x == 1:\n  setup(name='x')", 1),
            ("setup(name='\\x41')", 1),
        ] {
            assert_eq!(arguments(source).map(|_| ()), Err(line), "{source}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(source in "[a-z'\"=(){}\\[\\],.\\\\\n#+ ]{0,200}") {
            let _ = arguments(&source);
        }
    }
}
