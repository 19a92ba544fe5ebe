//! uv's settings around a project: its workspace, lock, indexes and groups.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Files, join, upwards, within};
use super::metadata::{Declared, at, strings};
use crate::error::BuildError;
use crate::requirements::{line_of, normal_name, parse_toml, refusal};

/// A `uv.lock` and the files that uv needs to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockFile {
    pub folder: String,
    /// The package of the location; `None` for that of the lock's own folder.
    pub package: Option<String>,
    /// Texts by path: the lock and the pyproject.toml files of its projects.
    pub texts: BTreeMap<String, String>,
    /// The folders of the projects that the package needs, its own first.
    pub projects: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub name: String,
    pub url: String,
    /// Not only packages that name the index come from it.
    pub is_searched: bool,
    pub file: String,
    pub line: usize,
}

/// The workspace of a project, or the project alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Workspace {
    pub lock: Option<LockFile>,
    pub constraints: Vec<Declared>,
    pub overrides: Vec<Declared>,
    pub indexes: Vec<Index>,
    /// The folders of the members.
    members: Vec<String>,
}

impl Workspace {
    pub(super) fn has_member(&self, folder: &str) -> bool {
        self.members.iter().any(|member| member == folder)
    }

    /// The folder of the member with a name.
    pub(super) fn member(&self, files: &mut dyn Files, name: &str) -> Result<Option<String>, BuildError> {
        for folder in &self.members {
            let path = within(folder, "pyproject.toml");
            if let Some(text) = files.text(&path)?
                && at(&parse_toml(&path, &text)?, "project.name")
                    .and_then(toml::Value::as_str)
                    .map(normal_name)
                    .as_deref()
                    == Some(name)
            {
                return Ok(Some(folder.clone()));
            }
        }
        Ok(None)
    }

    pub(super) fn index_url(&self, name: &str) -> Option<&str> {
        self.indexes.iter().find(|index| index.name == name).map(|index| index.url.as_str())
    }
}

/// The workspace to which a project belongs.
pub(super) fn of(files: &mut dyn Files, project: &str) -> Result<Workspace, BuildError> {
    let mut workspace = Workspace::default();
    for folder in upwards(project) {
        if workspace.lock.is_none() {
            workspace.lock = lock(files, folder, project)?;
        }
        let path = within(folder, "pyproject.toml");
        let Some(text) = files.text(&path)? else { continue };
        let document = parse_toml(&path, &text)?;
        let members = match at(&document, "tool.uv.workspace") {
            Some(settings) => {
                check_patterns(&path, &text, folder, settings)?;
                members(files, folder, settings)?
            }
            None => vec![],
        };
        let contains = members.iter().any(|member| member == project);
        if folder != project && !contains {
            continue;
        }
        workspace.indexes.extend(indexes(&path, &text, &document));
        // uv reads these settings from the root of the workspace only.
        for (setting, lines) in [
            ("tool.uv.constraint-dependencies", &mut workspace.constraints),
            ("tool.uv.override-dependencies", &mut workspace.overrides),
        ] {
            *lines = declared(&path, &text, &strings(at(&document, setting)));
        }
        if contains {
            workspace.members = members;
            break;
        }
    }
    Ok(workspace)
}

fn declared(path: &str, text: &str, lines: &[String]) -> Vec<Declared> {
    let one =
        |line: &String| Declared { text: line.clone(), file: path.to_owned(), line: line_of(text, line), source: None };
    lines.iter().map(one).collect()
}

/// The members of a workspace and its root. Patterns never leave the repository.
fn members(files: &mut dyn Files, root: &str, settings: &toml::Value) -> Result<Vec<String>, BuildError> {
    let mut members = BTreeSet::from([root.to_owned()]);
    for pattern in strings(settings.get("members")) {
        members.extend(matching(files, root, &pattern)?);
    }
    for pattern in strings(settings.get("exclude")) {
        for excluded in matching(files, root, &pattern)? {
            members.remove(&excluded);
        }
    }
    Ok(members.into_iter().collect())
}

/// uv reads the patterns itself, and outside the folder of the lock are files of codeloc.
fn check_patterns(path: &str, text: &str, root: &str, settings: &toml::Value) -> Result<(), BuildError> {
    for pattern in strings(settings.get("members")).into_iter().chain(strings(settings.get("exclude"))) {
        let mut folder = Some(root.to_owned());
        for part in pattern.trim_end_matches('/').split('/') {
            folder = folder.filter(|_| !pattern.starts_with('/')).and_then(|folder| join(&folder, part));
        }
        if folder.is_none() {
            return Err(refusal(path, line_of(text, &pattern), &pattern, "the pattern leads outside the repository"));
        }
    }
    Ok(())
}

/// The folders that a pattern such as `packages/*` names.
fn matching(files: &mut dyn Files, root: &str, pattern: &str) -> Result<Vec<String>, BuildError> {
    const MOST: usize = 10_000;
    let mut folders = vec![root.to_owned()];
    for part in pattern.trim_end_matches('/').split('/') {
        let mut next = Vec::new();
        for folder in &folders {
            if part == "**" {
                next.push(folder.clone());
                let mut below = vec![folder.clone()];
                while let Some(folder) = below.pop() {
                    let inside = subfolders(files, &folder)?;
                    next.extend(inside.iter().cloned());
                    below.extend(inside);
                    if next.len() > MOST {
                        return Err(BuildError::terminal(format!(
                            "the pattern {pattern} of the workspace matches too many folders"
                        )));
                    }
                }
            } else if part.contains(['*', '?', '[']) {
                for path in subfolders(files, folder)? {
                    let name = path.rsplit('/').next().unwrap_or(&path);
                    if matches(part, name) {
                        next.push(path);
                    }
                }
            } else {
                next.extend(join(folder, part));
            }
        }
        folders = next;
    }
    Ok(folders)
}

fn subfolders(files: &mut dyn Files, folder: &str) -> Result<Vec<String>, BuildError> {
    let names = files.names(folder)?;
    let names = names.iter().filter_map(|name| name.strip_suffix('/')).filter(|name| !name.starts_with('.'));
    Ok(names.map(|name| within(folder, name)).collect())
}

/// Whether a name matches a pattern with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            matches(&pattern[1..], name)
                || name.chars().next().is_some_and(|first| matches(pattern, &name[first.len_utf8()..]))
        }
        (Some(one), Some(other)) if one == '?' || one == other => {
            matches(&pattern[one.len_utf8()..], &name[other.len_utf8()..])
        }
        _ => false,
    }
}

/// The `uv.lock` in `folder`, if the project belongs to it.
pub(super) fn lock(files: &mut dyn Files, folder: &str, project: &str) -> Result<Option<LockFile>, BuildError> {
    let path = within(folder, "uv.lock");
    let Some(text) = files.text(&path)? else { return Ok(None) };
    let document = parse_toml(&path, &text)?;
    let packages = document.get("package").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let mut folders: BTreeMap<String, String> = BTreeMap::new();
    let (mut archives, mut needs) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
    for package in &packages {
        let Some(name) = package.get("name").and_then(toml::Value::as_str) else { continue };
        let local = ["editable", "virtual", "directory"]
            .iter()
            .find_map(|key| package.get("source")?.get(key)?.as_str().map(str::to_owned));
        if let Some(local) = local {
            let local = join(folder, &local).ok_or_else(|| {
                BuildError::terminal(format!("{path}: the project {name} in {local} is outside the repository"))
            })?;
            folders.insert(name.to_owned(), local);
        }
        if let Some(archive) = package.get("source").and_then(|source| source.get("path")?.as_str()) {
            archives.insert(name.to_owned(), archive.to_owned());
        }
        let dependencies = package.get("dependencies").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let names = dependencies.iter().filter_map(|one| one.get("name")?.as_str().map(str::to_owned));
        needs.entry(name.to_owned()).or_default().extend(names);
    }
    let package = folders.iter().find(|(_, local)| *local == project).map(|(name, _)| name.clone());
    if package.is_none() && folder != project {
        return Ok(None);
    }
    let mut texts = BTreeMap::from([(path.clone(), text)]);
    for local in folders.values().map(String::as_str).chain([folder]) {
        let path = within(local, "pyproject.toml");
        if let Some(text) = files.text(&path)? {
            texts.insert(path, text);
        }
    }
    let manifest = within(folder, "pyproject.toml");
    if !texts.contains_key(&manifest) {
        return Err(BuildError::terminal(format!(
            "the commit has {path} but not {manifest}, which uv needs to read it; commit both files"
        )));
    }
    let needed = closure(package.as_deref(), &needs);
    // uv would leave it out of the export, as all that is not from an index.
    if let Some((name, archive)) = archives.iter().find(|(name, _)| package.is_none() || needed.contains(*name)) {
        let line = line_of(&texts[&path], &format!("\"{archive}\""));
        return Err(refusal(
            &path,
            line,
            name,
            "codeloc installs no archives of the repository; name a folder or a package",
        ));
    }
    let projects = needed.iter().filter_map(|name| folders.get(name).cloned()).collect();
    Ok(Some(LockFile { folder: folder.to_owned(), package, texts, projects }))
}

/// The packages that a package needs, directly or not, itself first.
fn closure(package: Option<&str>, needs: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut seen: Vec<String> = package.map(str::to_owned).into_iter().collect();
    let mut at = 0;
    while let Some(name) = seen.get(at).cloned() {
        for needed in needs.get(&name).into_iter().flatten() {
            if !seen.contains(needed) {
                seen.push(needed.clone());
            }
        }
        at += 1;
    }
    seen
}

/// The package indexes that a project names: those of uv, Poetry and PDM.
fn indexes(path: &str, text: &str, document: &toml::Table) -> Vec<Index> {
    let mut indexes = Vec::new();
    let mut add = |name: &str, url: &str, is_searched: bool| {
        let line = line_of(text, url);
        indexes.push(Index { name: name.to_owned(), url: url.to_owned(), is_searched, file: path.to_owned(), line });
    };
    for table in ["tool.uv.index", "tool.poetry.source", "tool.pdm.source"] {
        for entry in at(document, table).and_then(toml::Value::as_array).into_iter().flatten() {
            let string = |key: &str| entry.get(key).and_then(toml::Value::as_str);
            let Some(url) = string("url") else { continue };
            let is_explicit = entry.get("explicit").and_then(toml::Value::as_bool) == Some(true)
                || string("priority") == Some("explicit");
            add(string("name").unwrap_or(url), url, !is_explicit);
        }
    }
    for setting in ["tool.uv.index-url", "tool.uv.extra-index-url", "tool.uv.find-links"] {
        for url in strings(at(document, setting)) {
            add(&url, &url, true);
        }
    }
    indexes
}

/// The dependency groups that uv installs without being asked, except the one for development.
pub(super) fn default_groups(files: &mut dyn Files, folder: &str) -> Result<Vec<Declared>, BuildError> {
    let path = within(folder, "pyproject.toml");
    let Some(text) = files.text(&path)? else { return Ok(vec![]) };
    let document = parse_toml(&path, &text)?;
    let mut lines = Vec::new();
    for group in strings(at(&document, "tool.uv.default-groups")).iter().filter(|group| *group != "dev") {
        group_lines(&document, group, &mut lines, 0);
    }
    Ok(declared(&path, &text, &lines))
}

fn group_lines(document: &toml::Table, group: &str, lines: &mut Vec<String>, depth: usize) {
    const DEEPEST: usize = 16;
    let groups = document.get("dependency-groups").and_then(toml::Value::as_table);
    let entries = groups.and_then(|groups| groups.iter().find(|(name, _)| normal_name(name) == normal_name(group)));
    for entry in entries.and_then(|(_, entries)| entries.as_array()).into_iter().flatten() {
        match entry {
            toml::Value::String(line) => lines.push(line.clone()),
            entry => {
                if let Some(included) = entry.get("include-group").and_then(toml::Value::as_str)
                    && depth < DEEPEST
                {
                    group_lines(document, included, lines, depth + 1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::files::tests::Memory;

    #[test]
    fn patterns_of_members_match_folders_of_the_repository() {
        let mut files = Memory::new(&[
            ("packages/app/pyproject.toml", ""),
            ("packages/lib-a/pyproject.toml", ""),
            ("deep/er/one/pyproject.toml", ""),
            (".venv/x/pyproject.toml", ""),
        ]);
        let mut folders = |pattern: &str| matching(&mut files, "", pattern).unwrap();
        assert_eq!(folders("packages/*"), ["packages/app", "packages/lib-a"]);
        assert_eq!(folders("packages/lib-?"), ["packages/lib-a"]);
        assert_eq!(folders("packages/app/"), ["packages/app"]);
        assert!(folders("**").contains(&"deep/er/one".to_owned()) && !folders("**").contains(&".venv/x".to_owned()));
        assert!(folders("../../*").is_empty());
        for pattern in ["../../*", "packages/../../*", "/etc/*"] {
            let text = format!("[tool.uv.workspace]\nmembers = ['{pattern}']\n");
            let refused = of(&mut Memory::new(&[("pyproject.toml", &text)]), "").unwrap_err();
            assert!(refused.to_string().contains("pyproject.toml:2: codeloc refuses"), "{refused}");
        }
    }

    #[test]
    fn a_lock_belongs_to_the_projects_that_it_lists() {
        let lock_text = "version = 1\n[[package]]\nname = \"app\"\nsource = { editable = \"packages/app\" }\ndependencies = [{ name = \"lib\" }, { name = \"humanize\" }]\n\
                         [[package]]\nname = \"lib\"\nsource = { editable = \"packages/lib\" }\n[[package]]\nname = \"unused\"\nsource = { editable = \"packages/unused\" }\n\
                         [[package]]\nname = \"root\"\nsource = { virtual = \".\" }\n";
        let mut files = Memory::new(&[
            ("uv.lock", lock_text),
            (
                "pyproject.toml",
                "[tool.uv.workspace]\nmembers = ['packages/*']\n[tool.uv]\nconstraint-dependencies = ['x<2']\n",
            ),
            ("packages/app/pyproject.toml", "[project]\nname = 'app'\n"),
            ("packages/lib/pyproject.toml", "[project]\nname = 'Lib'\n"),
        ]);
        let workspace = of(&mut files, "packages/app").unwrap();
        let lock = workspace.lock.clone().unwrap();
        assert_eq!((lock.folder.as_str(), lock.package.as_deref()), ("", Some("app")));
        assert_eq!(lock.projects, ["packages/app", "packages/lib"]);
        assert_eq!(lock.texts.len(), 4);
        assert_eq!(workspace.constraints[0].text, "x<2");
        assert!(workspace.has_member("packages/lib"));
        assert_eq!(workspace.member(&mut files, "lib").unwrap().as_deref(), Some("packages/lib"));
        assert_eq!(of(&mut files, "elsewhere").unwrap().lock, None);
    }
}
