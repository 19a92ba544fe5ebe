//! Files of requirements, with the options that pip and uv read in them.

use super::files::{join, parent};
use super::{Reader, extras_in, local_path, outside, refused_index};
use crate::error::BuildError;
use crate::requirements::{Direct, Requirement, logical_lines, parse, parse_direct, refusal};

/// Options that change nothing here: codeloc installs wheels, checks hashes and has its own cache.
const WITHOUT_EFFECT: [&str; 6] =
    ["--prefer-binary", "--only-binary", "--require-hashes", "--no-cache-dir", "--use-pep517", "--trusted-host"];

/// What one logical line means.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Requirement(Requirement),
    Direct(Direct),
    /// Another file of requirements.
    Include(&'a str),
    Constraints(&'a str),
    /// A folder of the repository, with the text that may name extras.
    Folder(String, &'a str),
    Index(&'a str),
    WithoutEffect,
}

impl Reader<'_> {
    /// Adds the requirements of a file and of the files that it includes.
    pub(super) fn requirements(&mut self, file: &str, text: &str) -> Result<(), BuildError> {
        self.file(file, text, false)
    }

    fn file(&mut self, file: &str, text: &str, as_constraints: bool) -> Result<(), BuildError> {
        // A file that includes itself is read once.
        if !self.seen.insert(format!("{file} {as_constraints}")) {
            return Ok(());
        }
        for (number, line) in logical_lines(text) {
            let meaning = meaning(&line).map_err(|reason| refusal(file, number, &line, &reason))?;
            match meaning {
                Line::WithoutEffect => {}
                Line::Requirement(requirement) if as_constraints => self.open.constraints.push(requirement),
                Line::Requirement(requirement) => self.open.requirements.push(requirement),
                Line::Direct(_) if as_constraints => {
                    let reason = "a constraint cannot name a URL or version control; name it as a requirement";
                    return Err(refusal(file, number, &line, reason));
                }
                Line::Direct(direct) => self.open.direct.push(direct),
                Line::Include(path) => self.include(file, number, path, as_constraints)?,
                Line::Constraints(path) => self.include(file, number, path, true)?,
                Line::Index(url) => {
                    if !(self.wanted.allows_index)(url) {
                        return Err(refused_index(file, number, &line, url));
                    }
                }
                Line::Folder(path, text) => {
                    let folder = self.folder(file, &path)?.ok_or_else(|| outside(file, number, &path))?;
                    self.local_project(&folder, &extras_in(text), file, number, true)?;
                }
            }
        }
        Ok(())
    }

    /// The folder that a path in a file of requirements means: pip reads it from the folder in which it runs, uv from that of the file.
    fn folder(&mut self, file: &str, path: &str) -> Result<Option<String>, BuildError> {
        let places = [join(self.wanted.root, path), join(parent(file), path)];
        for folder in places.iter().flatten() {
            if self.describes_a_project(folder)? {
                return Ok(Some(folder.clone()));
            }
        }
        Ok(places.into_iter().flatten().next())
    }

    fn include(&mut self, file: &str, line: usize, path: &str, as_constraints: bool) -> Result<(), BuildError> {
        if path.contains("://") {
            return Err(refusal(file, line, path, "codeloc reads only files of the repository"));
        }
        let included = join(parent(file), path).ok_or_else(|| outside(file, line, path))?;
        let Some(text) = self.files.text(&included)? else {
            return Err(refusal(file, line, path, &format!("the commit has no file {included}")));
        };
        self.file(&included, &text, as_constraints)
    }
}

fn meaning(line: &str) -> Result<Line<'_>, String> {
    if let Some(option) = line.strip_prefix('-') {
        let option = option.strip_prefix('-').unwrap_or(option);
        let end = option.find([' ', '=']).unwrap_or(option.len());
        let (name, value) = (&option[..end], option[end..].trim_start_matches(['=', ' ']).trim());
        let value = value.trim_matches(['"', '\'']);
        // `-rother.txt`
        let (name, value) = match name.split_at_checked(1) {
            Some((letter @ ("r" | "c" | "e" | "i"), rest)) if !line.starts_with("--") && !rest.is_empty() => {
                (letter, rest)
            }
            _ => (name, value),
        };
        let whole = &line[..line.len() - option.len() + end];
        return match name {
            "r" | "requirement" => Ok(Line::Include(value)),
            "c" | "constraint" => Ok(Line::Constraints(value)),
            "e" | "editable" => match parse_direct(value) {
                Some(direct) => direct.map(Line::Direct),
                None => folder(value).ok_or_else(|| not_a_folder().to_owned()),
            },
            "i" | "index-url" | "extra-index-url" | "pypi-url" => Ok(Line::Index(value)),
            _ if WITHOUT_EFFECT.contains(&whole) => Ok(Line::WithoutEffect),
            _ => Err(format!("only the operator sets the option {whole}; remove it")),
        };
    }
    if let Some((_, url)) = line.split_once('@')
        && url.trim().starts_with("file:")
    {
        return Ok(Line::Folder(local_path(url.trim()), line));
    }
    if let Some(direct) = parse_direct(line) {
        return direct.map(Line::Direct);
    }
    let is_path = line.starts_with(['.', '/']) || (line.contains('/') && !line.contains("://") && !line.contains('@'));
    if is_path && !line.starts_with('/') {
        return folder(line).ok_or_else(|| not_a_folder().to_owned());
    }
    parse(line).map(Line::Requirement)
}

/// A folder, with extras in brackets behind it.
fn folder(text: &str) -> Option<Line<'_>> {
    if text.contains("://") && !text.starts_with("file:") {
        return None;
    }
    let path = text.split([';', '#', '[']).next().unwrap_or(text).trim();
    let path = if path.starts_with("file:") { local_path(path) } else { path.to_owned() };
    Some(Line::Folder(path, text))
}

fn not_a_folder() -> &'static str {
    "codeloc installs only from package indexes and from folders of the repository, not from URLs or version control"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_folders_are_told_from_requirements() {
        for (line, expected) in [
            ("-r base.txt", Line::Include("base.txt")),
            ("-rbase.txt", Line::Include("base.txt")),
            ("--requirement=base.txt", Line::Include("base.txt")),
            ("-c ../c.txt", Line::Constraints("../c.txt")),
            ("-i https://host/simple", Line::Index("https://host/simple")),
            ("--index-url https://host/simple", Line::Index("https://host/simple")),
            ("--only-binary :all:", Line::WithoutEffect),
            ("-e .", Line::Folder(".".to_owned(), ".")),
            ("-e ./lib[aws]", Line::Folder("./lib".to_owned(), "./lib[aws]")),
            ("./lib", Line::Folder("./lib".to_owned(), "./lib")),
            (".[dev]", Line::Folder(".".to_owned(), ".[dev]")),
            ("lib @ file:../lib", Line::Folder("../lib".to_owned(), "lib @ file:../lib")),
            ("pandas>=2", Line::Requirement(parse("pandas>=2").unwrap())),
        ] {
            assert_eq!(meaning(line).unwrap(), expected, "{line}");
        }
        for (line, reason) in [
            ("--find-links .", "the option --find-links"),
            ("--pre", "the option --pre"),
            ("-e git+ssh://host/x.git", "version control"),
            ("git+ssh://git@host/x.git", "version control"),
            ("x @ https://me:secret@host/x.whl", "without credentials"),
            ("/etc/passwd", "not from paths"),
        ] {
            let error = meaning(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
