//! Commits that git's own commands do not create.

use std::io::Write;
use std::process::{Command, Stdio};

use codeloc_core::ids::Commit;

use super::super::{CODE, Repository};

impl Repository {
    /// Stores an object without checks.
    fn object(&self, kind: &str, bytes: &[u8]) -> String {
        let mut child = Command::new("git")
            .current_dir(self.folder.path())
            .args(["hash-object", "-t", kind, "-w", "--literally", "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Entries are mode, name and object, in the order given.
    fn tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, object) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend(hex::decode(object).unwrap());
        }
        self.object("tree", &bytes)
    }

    fn commit_tree(&self, tree: &str) -> Commit {
        let commit = Commit::from(self.git(&["commit-tree", "-m", "x", tree]));
        self.git(&["update-ref", "HEAD", &commit]);
        commit
    }

    /// Adds an entry to the good code.
    pub(super) fn with_entry(&self, mode: &str, name: &[u8], object: &str) -> Commit {
        self.commit(&CODE);
        let code = self.git(&["rev-parse", "HEAD:pipeline"]);
        let mut entries = [("40000", b"pipeline".as_slice(), code.as_str()), (mode, name, object)];
        // As git sorts: a folder as if its name ended with a slash.
        entries.sort_by_key(|(mode, name, _)| {
            let mut key = name.to_vec();
            key.extend_from_slice(if *mode == "40000" { b"/" } else { b"" });
            key
        });
        self.commit_tree(&self.tree(&entries))
    }

    /// Adds a file with a short text.
    pub(super) fn with_entry_of(&self, mode: &str, name: &[u8]) -> Commit {
        let object = self.object("blob", b"x\n");
        self.with_entry(mode, name, &object)
    }

    pub(super) fn with_duplicate_name(&self) -> Commit {
        self.commit(&CODE);
        let code = self.git(&["rev-parse", "HEAD:pipeline"]);
        let link = self.object("blob", b"/etc");
        self.commit_tree(&self.tree(&[("120000", b"pipeline", &link), ("40000", b"pipeline", &code)]))
    }

    pub(super) fn with_link(&self, path: &str, target: &str) -> Commit {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
        self.commit(&CODE)
    }

    /// Adds a link whose target no file system accepts.
    pub(super) fn with_link_object(&self, path: &str, target: &[u8]) -> Commit {
        self.commit(&CODE);
        let object = self.object("blob", target);
        self.git(&["update-index", "--add", "--cacheinfo", &format!("120000,{object},{path}")]);
        self.commit_index()
    }

    /// `depth` nested folders with `width` names each, which all share a few objects.
    pub(super) fn with_tree_of_trees(&self, depth: usize, width: usize) -> Commit {
        let (mut mode, mut object) = ("100644", self.object("blob", b"x\n"));
        let names: Vec<String> = (0..width).map(|number| format!("{number:04}")).collect();
        for _ in 0..depth {
            let entries: Vec<(&str, &[u8], &str)> =
                names.iter().map(|name| (mode, name.as_bytes(), object.as_str())).collect();
            object = self.tree(&entries);
            mode = "40000";
        }
        self.commit_tree(&object)
    }
}
