//! The programs of an environment: scripts that start its Python, wherever the environment is.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The programs of the environment in an image, without a leading slash.
pub(super) const SCRIPTS_FOLDER: &str = "opt/codeloc/env/bin";

/// Starts the Python of the script's own folder. A path after `#!` would be that of one machine. To Python, these lines are a string.
const HEADER: &str = "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")/python\" \"$0\" \"$@\"\n' '''\n";

/// Larger files are programs, not scripts.
const LARGEST_SCRIPT: u64 = 1 << 20;

/// Whether a package may bring a program with this name. The interpreter is that of the base image.
pub(super) fn is_allowed(name: &str) -> bool {
    let activates = name.to_ascii_lowercase().starts_with("activate") || name == "deactivate";
    !name.starts_with("python") && !name.starts_with(".wh.") && !activates
}

/// The script of an entry point: it calls `function` of `module`.
pub(super) fn of_entry_point(module: &str, function: &str) -> String {
    let import = function.split('.').next().unwrap_or(function);
    format!(
        "{HEADER}import sys\nfrom {module} import {import}\n\nif __name__ == \"__main__\":\n    sys.exit({function}())\n"
    )
}

/// The text of a script that starts a Python of the builder, changed so that it starts the Python of its folder. `None` for a program and
/// for a script of another interpreter.
pub(super) fn relocated(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match File::open(path)?.take(LARGEST_SCRIPT).read_to_string(&mut text) {
        Ok(_) => Ok(relocated_text(&text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}

fn relocated_text(text: &str) -> Option<String> {
    let (first, rest) = text.split_once('\n')?;
    if !first.starts_with("#!") {
        return None;
    }
    // A path that is too long for the kernel is in the second line, and the third one ends the string.
    if let Some(rest) = rest.strip_prefix("'''exec' ") {
        let (_, rest) = rest.split_once('\n')?;
        return Some(format!("{HEADER}{}", rest.strip_prefix("' '''\n")?));
    }
    first.contains("python").then(|| format!("{HEADER}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_start_the_python_of_their_folder() {
        let body = "import sys\nsys.exit(0)\n";
        let expected = Some(format!("{HEADER}{body}"));
        assert_eq!(relocated_text(&format!("#!/build/env/bin/python3.12\n{body}")), expected);
        assert_eq!(relocated_text(&format!("#!python\n{body}")), expected);
        let long = format!("#!/bin/sh\n'''exec' '/a path/python' \"$0\" \"$@\"\n' '''\n{body}");
        assert_eq!(relocated_text(&long), expected);
        assert_eq!(relocated_text("#!/bin/sh\necho\n"), None);
        assert_eq!(relocated_text("\u{7f}ELF"), None);
    }

    #[test]
    fn packages_cannot_replace_the_interpreter() {
        assert!(is_allowed("dbt") && is_allowed("py.test"));
        assert!(!is_allowed("python") && !is_allowed("python3.12") && !is_allowed("Activate.ps1"));
    }

    #[test]
    fn an_entry_point_is_called() {
        let text = of_entry_point("shop.cli", "App.main");
        assert!(text.contains("from shop.cli import App\n") && text.ends_with("sys.exit(App.main())\n"), "{text}");
    }
}
