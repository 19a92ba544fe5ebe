//! Parses the requirements of a repository.
//!
//! A requirements file can attack codeloc: an option can name another index, and a URL or a path can run code.
//! Guarantees: only `name[extra] specifier ; marker` with hashes is accepted; everything else is refused with file and line.

use std::collections::BTreeSet;

use codeloc_crds::mask_credentials;

use crate::error::BuildError;

/// One requirement in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Requirement {
    /// Lower case, with single dashes.
    pub name: String,
    /// With brackets, or empty.
    pub extras: String,
    /// `>=1,<2`, or empty.
    pub specifier: String,
    /// Without the semicolon, or empty.
    pub marker: String,
    /// `sha256:…`
    pub hashes: BTreeSet<String>,
}

impl Requirement {
    /// One line without hashes.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{}{}{}", self.name, self.extras, self.specifier);
        if !self.marker.is_empty() {
            line.push_str(" ; ");
            line.push_str(&self.marker);
        }
        line
    }

    /// One line as pip and uv read it under `--require-hashes`.
    pub(super) fn locked_line(&self) -> String {
        let mut line = self.line();
        for hash in &self.hashes {
            line.push_str(" --hash=");
            line.push_str(hash);
        }
        line
    }
}

/// A requirement that names the place of its package, such as `name @ git+https://host/x@COMMIT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Direct {
    /// In normal form.
    pub name: String,
    pub line: String,
}

/// Reads a line that names a URL or version control. `None` if it does not.
pub(super) fn parse_direct(line: &str) -> Option<Result<Direct, String>> {
    const NOWHERE: &str = "codeloc takes packages from version control or URLs only with https, and without credentials; write \
                           `name @ git+https://HOST/PATH@COMMIT`";
    let (requirement, marker) = line.split_once(" ;").or_else(|| line.split_once("; ")).unwrap_or((line, ""));
    let (named, url) = match requirement.split_once('@') {
        Some((name, url)) if name != "git" && !name.contains([':', '/']) => (Some(name.trim()), url.trim()),
        _ => (None, requirement.trim()),
    };
    let is_scp = |text: &str| text.starts_with("git@");
    if (!url.contains("://") && !is_scp(url) && !is_scp(requirement))
        || url.starts_with("file:")
        || url.starts_with('-')
    {
        return None;
    }
    let (plain, fragment) = url.split_once('#').unwrap_or((url, ""));
    let parts: Vec<(&str, &str)> = fragment.split('&').filter_map(|part| part.split_once('=')).collect();
    let part = |wanted: &str| parts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let Some(rest) =
        ["git+https://", "https://", "git+http://", "http://"].iter().find_map(|start| plain.strip_prefix(start))
    else {
        return Some(Err(NOWHERE.to_owned()));
    };
    let host = rest.split('/').next().unwrap_or_default();
    let is_clean = |letter: char| letter.is_ascii_alphanumeric() || "-._~:/@+%=&#![]".contains(letter);
    if host.is_empty() || host.contains('@') || !url.chars().all(is_clean) {
        return Some(Err(NOWHERE.to_owned()));
    }
    let last = rest.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let name = named.or(part("egg")).unwrap_or(last.trim_end_matches(".git"));
    let bare = name.split('[').next().unwrap_or(name).trim();
    if bare.is_empty() || !bare.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter)) {
        return Some(Err(NOWHERE.to_owned()));
    }
    let subdirectory = part("subdirectory").map_or_else(String::new, |folder| format!("#subdirectory={folder}"));
    let reference =
        if named.is_some() || part("egg").is_some() { format!("{name} @ {plain}") } else { plain.to_owned() };
    let marker = marker.trim();
    if !marker.chars().all(|letter| letter.is_ascii_alphanumeric() || " ._'\"<>=!~(),+*-".contains(letter)) {
        return Some(Err("the marker contains an invalid character".to_owned()));
    }
    let marker = if marker.is_empty() { String::new() } else { format!(" ; {marker}") };
    Some(Ok(Direct { name: normal_name(bare), line: format!("{reference}{subdirectory}{marker}") }))
}

/// A line that codeloc refuses.
#[derive(Debug)]
pub(super) struct RefusedLine {
    pub text: String,
    pub reason: String,
}

/// Reads lines with comments and continuations, all of them requirements.
pub(super) fn parse_lines(text: &str) -> Result<Vec<Requirement>, RefusedLine> {
    let lines = logical_lines(text).into_iter();
    lines.map(|(_, text)| parse(&text).map_err(|reason| RefusedLine { text, reason })).collect()
}

/// The lines of a file of requirements without comments and continuations, with their numbers, counted from 1.
pub(super) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut logical = String::new();
    let mut start = 1;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, raw)) = lines.next() {
        if logical.is_empty() {
            start = index + 1;
        }
        let line = raw.trim_start_matches('\u{feff}').trim();
        let comment = if line.starts_with('#') { Some(0) } else { line.find(" #").or_else(|| line.find("\t#")) };
        let line = line[..comment.unwrap_or(line.len())].trim_end();
        let continued = line.strip_suffix('\\');
        logical.push_str(continued.unwrap_or(line));
        logical.push(' ');
        if continued.is_some() && lines.peek().is_some() {
            continue;
        }
        let text = logical.trim();
        if !text.is_empty() {
            all.push((start, text.to_owned()));
        }
        logical.clear();
    }
    all
}

/// The content of a `pylock.toml`.
#[derive(Debug, Default)]
pub(super) struct Pylock {
    pub packages: Vec<Requirement>,
    pub direct: Vec<Direct>,
    /// Folders of the repository that it installs.
    pub folders: Vec<String>,
}

/// Reads a `pylock.toml` (PEP 751) of version 1. Ignores the URLs of packages of an index: codeloc takes the same files, by hash, from its
/// own index.
pub(super) fn parse_pylock(file: &str, text: &str) -> Result<Pylock, BuildError> {
    let document = parse_toml(file, text)?;
    let version = document.get("lock-version").and_then(toml::Value::as_str).unwrap_or_default();
    if !version.starts_with("1.") {
        return Err(BuildError::terminal(format!("{file}: codeloc reads lock-version 1.x, and this is `{version}`")));
    }
    let packages = match document.get("packages") {
        None => &Vec::new(),
        Some(packages) => packages
            .as_array()
            .ok_or_else(|| BuildError::terminal(format!("{file}: packages is not a list of tables")))?,
    };
    let headers: Vec<usize> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.trim().starts_with("[[packages]]"))
        .map(|(line, _)| line)
        .collect();
    let mut lock = Pylock::default();
    for (index, package) in packages.iter().enumerate() {
        if let Some(path) = package.get("directory").and_then(|directory| directory.get("path")?.as_str()) {
            lock.folders.push(path.to_owned());
            continue;
        }
        let name = package.get("name").and_then(toml::Value::as_str).unwrap_or_default();
        let refused = |reason: String| {
            let header = headers.get(index).copied().unwrap_or_default();
            let line = header + line_of(&text.lines().skip(header).collect::<Vec<_>>().join("\n"), "name");
            refusal(file, line, name, &reason)
        };
        match pylock_reference(name, package) {
            Some(direct) => lock.direct.push(direct.map_err(refused)?),
            None => lock.packages.push(parse_pylock_package(name, package).map_err(refused)?),
        }
    }
    Ok(lock)
}

/// The reference of a package that comes from version control or from a URL.
fn pylock_reference(name: &str, package: &toml::Value) -> Option<Result<Direct, String>> {
    let text = |table: &toml::Value, key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let (source, mut url) = match (package.get("vcs"), package.get("archive")) {
        (Some(vcs), _) => {
            let (kind, url, commit) = (text(vcs, "type")?, text(vcs, "url")?, text(vcs, "commit-id")?);
            (vcs, format!("{kind}+{url}@{commit}"))
        }
        (None, Some(archive)) => (archive, text(archive, "url")?),
        (None, None) => return None,
    };
    if let Some(folder) = text(source, "subdirectory") {
        url = format!("{url}#subdirectory={folder}");
    }
    let marker = text(package, "marker").map_or_else(String::new, |marker| format!(" ; {marker}"));
    parse_direct(&format!("{name} @ {url}{marker}"))
}

fn parse_pylock_package(name: &str, package: &toml::Value) -> Result<Requirement, String> {
    let text = |key: &str| package.get(key).and_then(toml::Value::as_str);
    let version = text("version").ok_or("it has no version")?;
    let wheels = package.get("wheels").and_then(toml::Value::as_array).into_iter().flatten();
    let files: Vec<&toml::Value> = wheels.chain(package.get("sdist")).collect();
    if files.is_empty() {
        return Err("it has neither a wheel nor an sdist".to_owned());
    }
    let mut parts = vec![format!("{name}=={version}")];
    if let Some(marker) = text("marker") {
        if ["extras", "dependency_groups"].iter().any(|word| marker.contains(word)) {
            return Err("its marker uses extras or dependency groups, which codeloc cannot select".to_owned());
        }
        parts.push(format!("; {marker}"));
    }
    for file in files {
        let sha256 = file.get("hashes").and_then(|hashes| hashes.get("sha256")?.as_str());
        parts.push(format!("--hash=sha256:{}", sha256.ok_or("one of its files has no sha256")?));
    }
    parse(&parts.join(" "))
}

/// The error quotes the line, which may contain a URL with a password, so its text is masked and it is not kept as a cause.
pub(super) fn parse_toml(file: &str, text: &str) -> Result<toml::Table, BuildError> {
    text.parse().map_err(|error: toml::de::Error| {
        BuildError::terminal(format!("{file} is not valid TOML: {}", mask_credentials(error.to_string().trim_end())))
    })
}

/// The number of the first line that contains a text, counted from 1.
pub(super) fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.contains(needle)).map_or(1, |index| index + 1)
}

/// A package name in the normal form of PEP 503.
pub(super) fn normal_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for part in name.split(['-', '_', '.']).filter(|part| !part.is_empty()) {
        if !normal.is_empty() {
            normal.push('-');
        }
        normal.push_str(&part.to_ascii_lowercase());
    }
    normal
}

/// The error for a refused line. Masks credentials in the line.
pub(super) fn refusal(file: &str, line: usize, text: &str, reason: &str) -> BuildError {
    const LONGEST: usize = 300;
    let text: String = mask_credentials(text).chars().take(LONGEST).collect();
    BuildError::terminal(format!("{file}:{line}: codeloc refuses `{text}`: {reason}"))
}

/// Reads the requirements that the operator sets for every image.
pub(super) fn base_set(lines: &[String]) -> Result<Vec<Requirement>, BuildError> {
    let parse_line = |line: &String| {
        parse(line).map_err(|reason| {
            BuildError::terminal(format!("codeloc refuses `{line}` in the setting build.requirements: {reason}"))
        })
    };
    lines.iter().map(parse_line).collect()
}

/// More than any package index accepts.
const LONGEST_NAME: usize = 200;

/// Parses one logical line. The error is the reason of a refusal.
pub(super) fn parse(line: &str) -> Result<Requirement, String> {
    if line.starts_with('-') {
        let option = line.split([' ', '=']).next().unwrap_or_default();
        return Err(format!("only the operator sets the option {option}; remove it"));
    }
    let mut parts = line.split(" --hash");
    let requirement = parts.next().unwrap_or_default().trim();
    let mut hashes = BTreeSet::new();
    for part in parts {
        let hash = part.trim_start_matches(['=', ' ']).trim();
        let (algorithm, digits) = hash.split_once(':').unwrap_or_default();
        if !["sha256", "sha384", "sha512"].contains(&algorithm)
            || digits.len() < 64
            || !digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err("--hash needs sha256:, sha384: or sha512: and hexadecimal digits".to_owned());
        }
        hashes.insert(hash.to_ascii_lowercase());
    }
    if requirement.contains("://") || requirement.contains('@') {
        return Err("codeloc installs only from the package index, not from URLs or version control".to_owned());
    }
    let (head, marker) = requirement.split_once(';').unwrap_or((requirement, ""));
    let head = head.trim();
    let name_length =
        head.find(|letter: char| !(letter.is_ascii_alphanumeric() || "-_.".contains(letter))).unwrap_or(head.len());
    let (name, rest) = head.split_at(name_length);
    if rest.starts_with('/') || name.starts_with('.') || head.contains('/') {
        return Err("codeloc installs only from the package index, not from paths".to_owned());
    }
    let valid = name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.ends_with(|letter: char| letter.is_ascii_alphanumeric());
    if !valid {
        return Err("it is not of the form `name[extra] specifier ; marker`".to_owned());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("its name has more than {LONGEST_NAME} letters"));
    }
    let (extras, specifier) = split_extras(rest.trim())?;
    let marker = marker.split_whitespace().collect::<Vec<_>>().join(" ");
    if !marker.chars().all(|letter| letter.is_ascii_alphanumeric() || " ._'\"<>=!~(),+*-".contains(letter)) {
        return Err("the marker contains an invalid character".to_owned());
    }
    Ok(Requirement { name: normal_name(name), extras, specifier: parse_specifier(specifier)?, marker, hashes })
}

fn split_extras(rest: &str) -> Result<(String, &str), String> {
    let Some(inside) = rest.strip_prefix('[') else {
        return Ok((String::new(), rest));
    };
    let Some((extras, rest)) = inside.split_once(']') else {
        return Err("a closing bracket is missing".to_owned());
    };
    let extras: BTreeSet<String> =
        extras.split(',').map(|extra| normal_name(extra.trim())).filter(|extra| !extra.is_empty()).collect();
    if extras.iter().any(|extra| !extra.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')) {
        return Err("an extra contains an invalid character".to_owned());
    }
    let extras: Vec<String> = extras.into_iter().collect();
    Ok((if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) }, rest.trim()))
}

fn parse_specifier(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('(').and_then(|inside| inside.strip_suffix(')')).unwrap_or(text);
    let mut clauses = Vec::new();
    for clause in text.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
        let version = clause.trim_start_matches(['=', '<', '>', '!', '~']);
        let operator = &clause[..clause.len() - version.len()];
        let version = version.trim();
        let known = ["===", "==", "!=", "<=", ">=", "~=", "<", ">"].contains(&operator);
        let valid = !version.is_empty()
            && version.chars().all(|letter| letter.is_ascii_alphanumeric() || ".*+!_-".contains(letter));
        if !known || !valid {
            return Err(format!("`{clause}` is not a version specifier"));
        }
        clauses.push(format!("{operator}{version}"));
    }
    Ok(clauses.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> RefusedLine {
        parse_lines(text).unwrap_err()
    }

    #[test]
    fn requirement_lines_get_a_normal_form() {
        let hash = "a".repeat(64);
        let text = format!(
            "\u{feff}# comment\nDagster.AWS [ S3, redshift ] ( >= 0.29 , <1 ) ; python_version  >= '3.10'  # why\n\n\
             pandas==2.0 \\\n    --hash=sha256:{hash} \\\n    --hash=sha256:{hash}\nplain"
        );
        let requirements = parse_lines(&text).unwrap();
        let lines: Vec<String> = requirements.iter().map(Requirement::locked_line).collect();
        let expected = [
            "dagster-aws[redshift,s3]>=0.29,<1 ; python_version >= '3.10'",
            &format!("pandas==2.0 --hash=sha256:{hash}"),
            "plain",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn other_lines_are_refused() {
        for (line, reason) in [
            ("--find-links .", "the option --find-links"),
            ("git+https://host/x.git", "not from URLs"),
            ("name @ https://host/x.whl", "not from URLs"),
            ("name@file:///x", "not from URLs"),
            ("./local", "not from paths"),
            ("folder/x.whl", "not from paths"),
            ("..", "not from paths"),
            ("name --global-option x", "version specifier"),
            ("name==1 --hash=md5:0", "--hash needs sha256:"),
            ("name==1; os_name == `id`", "marker"),
            ("name=1", "version specifier"),
            ("${HOME}", "name[extra]"),
        ] {
            let refused = refused(&format!("fine==1\n\n{line}\n"));
            assert_eq!(refused.text, line);
            assert!(refused.reason.contains(reason), "{line}: {}", refused.reason);
        }
        assert_eq!(logical_lines("# x\n\na \\\n b\nc"), [(3, "a  b".to_owned()), (5, "c".to_owned())]);
    }

    #[test]
    fn a_reference_keeps_its_place_and_nothing_else() {
        for (line, name, expected) in [
            ("My.Lib @ git+https://host/x.git@c0ffee", "my-lib", "My.Lib @ git+https://host/x.git@c0ffee"),
            ("git+https://host/x@1#egg=lib&subdirectory=a/b", "lib", "lib @ git+https://host/x@1#subdirectory=a/b"),
            ("git+https://host/team/x.git", "x", "git+https://host/team/x.git"),
            (
                "lib[s3] @ https://host/x.zip ; python_version < '3.12'",
                "lib",
                "lib[s3] @ https://host/x.zip ; python_version < '3.12'",
            ),
        ] {
            let direct = parse_direct(line).unwrap().unwrap();
            assert_eq!((direct.name.as_str(), direct.line.as_str()), (name, expected));
        }
        for line in [
            "git+ssh://git@host/x.git",
            "git@host:x.git",
            "lib @ git+https://me:secret@host/x",
            "lib @ https://host/$HOME",
            "lib @ https:///x",
            "svn+https://host/x",
        ] {
            parse_direct(line).unwrap().unwrap_err();
        }
        for line in ["lib==1", "--index-url https://host/simple", "./libs/a", "lib @ file:///x"] {
            assert_eq!(parse_direct(line), None, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_accepted_line_is_one_plain_requirement(line in "[a-z0-9.\\[\\],;=<>@:/ \\-'\"#$\\\\]{0,40}|[ -~]{0,60}") {
            if let Ok(requirement) = parse(line.trim()) {
                let again = requirement.locked_line();
                proptest::prop_assert!(!again.starts_with('-') && !again.contains("://") && !again.contains('@'));
                proptest::prop_assert!(!again.contains(['/', '\\', '$', '\n']), "{}", again);
                proptest::prop_assert_eq!(parse(&again), Ok(requirement));
            }
        }
    }
}
