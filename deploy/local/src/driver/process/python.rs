//! Finds the Python of this machine that replaces the Python of the base image.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Prints the path of the interpreter if it has the requested version. A shim runs another interpreter.
const PROBE: &str = "import sys; sys.version_info[:2] == (3, int(sys.argv[1])) and print(sys.executable)";

#[derive(Debug, thiserror::Error)]
pub(super) enum PythonError {
    #[error("the label codeloc.python of the image is {0:?}, not a version like 3.12")]
    Version(String),
    #[error(
        "the image needs Python {version}, which is neither in PATH nor in {candidates:?}: install python{version}"
    )]
    Absent { version: String, candidates: Vec<PathBuf> },
}

/// A working Python of the `version` (`3.N`): `python3.N` or `python3` in the search path, or a candidate. All are
/// tried, because version managers install shims that only print an error.
pub(super) fn find(version: &str, search_path: &OsStr, candidates: &[PathBuf]) -> Result<PathBuf, PythonError> {
    let minor = version.strip_prefix("3.").and_then(|minor| minor.parse::<u8>().ok());
    let minor = minor.ok_or_else(|| PythonError::Version(version.to_owned()))?;
    let on_path = |name: String| std::env::split_paths(search_path).map(move |folder| folder.join(&name));
    on_path(format!("python{version}"))
        .chain(on_path("python3".to_owned()))
        .chain(candidates.iter().cloned())
        .find_map(|program| probe(&program, minor, search_path))
        .ok_or_else(|| PythonError::Absent { version: version.to_owned(), candidates: candidates.to_vec() })
}

fn probe(program: &Path, minor: u8, search_path: &OsStr) -> Option<PathBuf> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program)
        .args(["-I", "-c", PROBE, &minor.to_string()])
        .env("PATH", search_path)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let executable = String::from_utf8(output.stdout).ok()?;
    let executable = executable.trim();
    (output.status.success() && !executable.is_empty()).then(|| PathBuf::from(executable))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Version (`3.N`) and path of the Python of this machine.
    fn machine() -> (String, PathBuf) {
        let asks = "import sys; print('3.%d' % sys.version_info[1], sys.executable)";
        let output = Command::new("python3").args(["-c", asks]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (version, executable) = text.trim().split_once(' ').unwrap();
        (version.to_owned(), executable.into())
    }

    #[test]
    fn a_broken_shim_is_skipped() {
        let (version, python) = machine();
        let folder = tempfile::tempdir().unwrap();
        let (shims, real) = (folder.path().join("shims"), folder.path().join("real"));
        let name = format!("python{version}");
        for (place, program) in [(&shims, Path::new("/bin/false")), (&real, &python)] {
            std::fs::create_dir(place).unwrap();
            symlink(program, place.join(&name)).unwrap();
        }
        let path = std::env::join_paths([&shims, &real]).unwrap();
        assert_eq!(find(&version, &path, &[]).unwrap(), real.join(&name));
        assert!(find(&version, shims.as_os_str(), &[]).is_err());
    }

    #[test]
    fn another_python_version_is_skipped_for_a_candidate() {
        let (version, python) = machine();
        let folder = tempfile::tempdir().unwrap();
        symlink(&python, folder.path().join("python3")).unwrap();
        assert!(find("3.99", folder.path().as_os_str(), std::slice::from_ref(&python)).is_err());
        assert_eq!(find(&version, OsStr::new(""), std::slice::from_ref(&python)).unwrap(), python);
    }

    #[test]
    fn the_error_for_a_missing_version_names_the_package() {
        let error = find("3.99", OsStr::new("/usr/bin:/bin"), &[]).unwrap_err().to_string();
        assert!(error.contains("install python3.99"), "{error}");
        assert!(matches!(find("2.7", OsStr::new(""), &[]), Err(PythonError::Version(_))));
    }
}
