use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use codeloc_git::GitSettings;
use serde_json::json;

use super::*;
use crate::fixtures::location_name;

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    /// A bare origin with one config, and a clone of another user.
    fn new() -> Self {
        let fixture = Self { folder: tempfile::tempdir().unwrap() };
        fixture.git("", &["init", "--quiet", "--bare", "--initial-branch=main", "origin.git"]);
        fixture.git("", &["clone", "--quiet", "origin.git", "other"]);
        fixture.foreign("one", Some("name: one\ngit_url: https://example.com/one.git\nmodule: one # theirs\n"));
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn git(&self, folder: &str, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Other", "-c", "user.email=other@example.com", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(self.path(folder))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A push of another user.
    fn foreign(&self, name: &str, text: Option<impl AsRef<[u8]>>) {
        let folder = self.path("other").join("repos").join(name);
        match text {
            Some(text) => {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(CONFIG), text).unwrap();
            }
            None => std::fs::remove_dir_all(&folder).unwrap(),
        }
        self.git("other", &["add", "--all"]);
        self.git("other", &["commit", "--quiet", "-m", &format!("foreign: {name}")]);
        self.git("other", &["push", "--quiet", "origin", "HEAD:main"]);
    }

    /// The other user pulls.
    fn foreign_pull(&self) {
        self.git("other", &["pull", "--quiet", "origin", "main"]);
    }

    fn writer(&self, program: &Path) -> Writer {
        let git = Git::new(GitSettings {
            program: program.to_owned(),
            home: self.path("home"),
            url_rewrites: std::collections::BTreeMap::new(),
            tokens: std::collections::BTreeMap::new(),
            allow_local: true,
            timeout: Duration::from_mins(1),
        });
        let settings = SourceSettings::Git {
            url: self.path("origin.git").display().to_string(),
            reference: GitReference::Branch("main".to_owned()),
            folder: "repos".to_owned(),
            work: self.path("read"),
            interval: Duration::from_hours(1),
        };
        Writer::new(&settings, git, self.path("write"))
    }

    /// A git program before whose first push another user runs `script` and pushes.
    fn overtaken(&self, script: &str) -> PathBuf {
        let path = self.path("overtaken");
        let text = format!(
            "#!/bin/sh\ncase \" $* \" in *' push '*) if mkdir '{root}/once' 2>/dev/null; then cd '{root}/other' && ({script}) \
             && unset GIT_INDEX_FILE && env -u GIT_ALLOW_PROTOCOL git -c user.name=Other -c user.email=o@example.com commit -q -a -m foreign \
             && env -u GIT_ALLOW_PROTOCOL git push -q origin HEAD:main; cd - >/dev/null; fi;; esac\nexec git \"$@\"\n",
            root = self.folder.path().display(),
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn log(&self) -> Vec<String> {
        self.git("origin.git", &["log", "--format=%an: %s", "main"]).lines().map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> String {
        self.git("origin.git", &["show", &format!("main:repos/{name}/{CONFIG}")])
    }
}

fn author() -> Author {
    Author { name: "Ada".to_owned(), email: "ada@example.com".to_owned() }
}

fn fields(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn two() -> Change {
    Change::Add(fields(&json!({"name": "two", "git_url": "https://example.com/two.git", "module": "two"})))
}

#[tokio::test]
async fn a_change_is_a_commit_on_top_of_other_pushes() {
    let fixture = Fixture::new();
    let writer = fixture.writer(Path::new("git"));
    let written = writer.write(&location_name("two"), &two(), "Adds two", &author()).await.unwrap();
    assert_eq!(written.commit.unwrap(), fixture.git("origin.git", &["rev-parse", "main"]).trim());
    fixture.foreign_pull();
    fixture.foreign("three", Some("name: three\ngit_url: https://example.com/3.git\nmodule: three\n"));
    let change = Change::Set(fields(&json!({"branch": "next"})));
    let written = writer.write(&location_name("one"), &change, "Follows next", &author()).await.unwrap();
    assert!(written.changed);
    assert_eq!(fixture.log(), ["Ada: Follows next", "Other: foreign: three", "Ada: Adds two", "Other: foreign: one"]);
    assert!(fixture.file("one").ends_with("module: one # theirs\nbranch: next\n"), "{}", fixture.file("one"));
    let again = writer.write(&location_name("one"), &change, "Follows next", &author()).await.unwrap();
    assert!(!again.changed);
    assert_eq!(fixture.log().len(), 4);
}

#[tokio::test]
async fn a_concurrent_push_and_an_add_both_take_effect() {
    let fixture = Fixture::new();
    let program = fixture.overtaken("sed -i 's/# theirs/# overtook/' repos/one/config.yml");
    fixture.writer(&program).write(&location_name("two"), &two(), "Adds two", &author()).await.unwrap();
    assert_eq!(fixture.log(), ["Ada: Adds two", "Other: foreign", "Other: foreign: one"]);
    assert!(fixture.file("one").contains("# overtook"));
    assert!(fixture.file("two").contains("name: two"));
}

#[tokio::test]
async fn a_change_of_a_concurrently_removed_config_is_refused() {
    let fixture = Fixture::new();
    let program = fixture.overtaken("git rm -q -r repos/one");
    let change = Change::Set(fields(&json!({"branch": "next"})));
    let error = fixture.writer(&program).write(&location_name("one"), &change, "no", &author()).await.unwrap_err();
    assert!(matches!(error, WriteError::Missing(_)), "{error}");
    assert_eq!(fixture.log(), ["Other: foreign", "Other: foreign: one"]);
}

#[tokio::test]
async fn an_invalid_config_is_not_pushed() {
    let fixture = Fixture::new();
    let writer = fixture.writer(Path::new("git"));
    let change = Change::Set(fields(&json!({"resources": {"cpu": 300}})));
    let error = writer.write(&location_name("one"), &change, "no", &author()).await.unwrap_err();
    let WriteError::Invalid(error) = error else { panic!("{error}") };
    assert!(error.render(false).contains("config.yml"), "{}", error.render(false));
    assert!(matches!(writer.write(&location_name("one"), &two(), "no", &author()).await, Err(WriteError::Exists(_))));
    assert!(matches!(LocationName::new("../x").map_err(WriteError::from), Err(WriteError::Name(_))));
    assert_eq!(fixture.log().len(), 1);
}

/// A config in Latin-1.
const LATIN_1: &[u8] = b"name: two\n# f\xfcr uns\ngit_url: https://example.com/two.git\nmodule: two\n";

/// Changes that read the text of a config.
fn edits() -> [Change; 3] {
    [Change::Set(fields(&json!({"branch": "next"}))), Change::Suspend, Change::Resume]
}

#[tokio::test]
async fn a_commit_never_changes_the_encoding_of_a_config() {
    let fixture = Fixture::new();
    fixture.foreign("two", Some(LATIN_1));
    let (writer, two) = (fixture.writer(Path::new("git")), location_name("two"));
    for change in edits() {
        let error = writer.write(&two, &change, "no", &author()).await.unwrap_err();
        let expected =
            "cannot edit repos/two/config.yml: it is not UTF-8 text: see byte 14, in line 2; save the file as UTF-8";
        assert_eq!(error.to_string(), expected, "{change:?}");
    }
    assert!(matches!(writer.read(&two).await, Err(WriteError::NotUtf8 { .. })));
    assert_eq!(fixture.log().len(), 2);
    writer.write(&two, &Change::Remove, "Removes two", &author()).await.unwrap();
    assert_eq!(fixture.log().len(), 3);
}

#[tokio::test]
async fn a_folder_never_changes_the_encoding_of_a_config() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SourceSettings::Folder { root: folder.path().to_owned(), interval: Duration::from_hours(1) };
    let writer = Writer::new(&settings, Fixture::new().writer(Path::new("git")).git, folder.path().join("unused"));
    let path = folder.path().join("two").join(CONFIG);
    std::fs::create_dir(folder.path().join("two")).unwrap();
    std::fs::write(&path, LATIN_1).unwrap();
    for change in edits() {
        let error = writer.write(&location_name("two"), &change, "no", &author()).await.unwrap_err().to_string();
        assert!(error.contains("two/config.yml: it is not UTF-8 text: see byte 14, in line 2"), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), LATIN_1);
}

#[tokio::test]
async fn a_commit_keeps_line_ends_and_comments() {
    let fixture = Fixture::new();
    let text = "name: two\r\ngit_url: https://example.com/two.git\r\nmodule: two # theirs\r\nbranch: main # FROZEN\r\n";
    fixture.foreign("two", Some(text));
    let writer = fixture.writer(Path::new("git"));
    let change = Change::Set(fields(&json!({"branch": "next", "mode": "detect"})));
    writer.write(&location_name("two"), &change, "Follows next", &author()).await.unwrap();
    assert_eq!(fixture.file("two"), text.replace("main", "next") + "mode: detect\r\n");
}

#[tokio::test]
async fn a_removal_removes_only_its_config() {
    let fixture = Fixture::new();
    let writer = fixture.writer(Path::new("git"));
    writer.write(&location_name("two"), &two(), "Adds two", &author()).await.unwrap();
    let written = writer.write(&location_name("one"), &Change::Remove, "Removes one", &author()).await.unwrap();
    assert_eq!(written.text, None);
    assert_eq!(fixture.git("origin.git", &["ls-tree", "-r", "--name-only", "main"]), "repos/two/config.yml\n");
}

#[tokio::test]
async fn a_change_in_a_folder_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let git = Fixture::new().writer(Path::new("git")).git;
    let settings = SourceSettings::Folder { root: folder.path().to_owned(), interval: Duration::from_hours(1) };
    let writer = Writer::new(&settings, git, folder.path().join("unused"));
    let written = writer.write(&location_name("two"), &two(), "unused", &author()).await.unwrap();
    assert_eq!((written.commit, written.changed), (None, true));
    let path = folder.path().join("two").join(CONFIG);
    assert!(std::fs::read_to_string(&path).unwrap().contains("name: two"));
    writer
        .write(&location_name("two"), &Change::Set(fields(&json!({"mode": "suspended"}))), "unused", &author())
        .await
        .unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("mode: suspended\n"));
    writer.write(&location_name("two"), &Change::Remove, "unused", &author()).await.unwrap();
    assert!(!folder.path().join("two").exists());
}
