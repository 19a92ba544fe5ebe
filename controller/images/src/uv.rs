//! uv as a child: resolve, export, install.
//!
//! Guarantees: no configuration file, environment variable or credential of the controller reaches it; only wheels are
//! used, so nothing is built; one installation at a time within a run, since wheels that ship the same path would race.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use codeloc_git::program::{Output, Program, inherited, tail};

use super::{BuildError, BuildSettings, caches, disk::on_disk};

/// The Python that packages are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `3.12`
    pub python: String,
    /// `arm64` or `amd64`, as images call it.
    pub architecture: &'static str,
    /// uv's name, for example `aarch64-manylinux_2_28`; absent for this machine's own.
    pub platform: Option<String>,
    /// The exact version of the interpreter that compiles `.pyc` files, where there is one of the same minor.
    pub compiler: Option<String>,
}

impl Target {
    /// Everything that decides which wheels are chosen.
    pub(super) fn key(&self) -> String {
        format!("{} {} {}", self.python, self.architecture, self.platform.as_deref().unwrap_or("host"))
    }
}

pub(super) struct Uv {
    program: PathBuf,
    cache: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    interpreter: Option<PathBuf>,
    find_links: Option<PathBuf>,
    index_url: Option<String>,
    timeout: std::time::Duration,
    largest_file: u64,
}

impl Uv {
    pub(super) fn new(settings: &BuildSettings) -> Self {
        let mut environment = inherited(&[]);
        let cache = settings.work.join(caches::UV);
        environment.push(("UV_CACHE_DIR", cache.clone().into()));
        let fixed = [
            ("UV_CONCURRENT_INSTALLS", "1"),
            ("UV_LINK_MODE", "hardlink"),
            ("UV_PYTHON_DOWNLOADS", "never"),
            ("UV_NO_CONFIG", "1"),
            ("UV_NO_PROGRESS", "1"),
            ("NO_COLOR", "1"),
            ("LC_ALL", "C.UTF-8"),
        ];
        environment.extend(fixed.map(|(name, value)| (name, value.into())));
        // Not an argument: it may carry a password.
        environment.extend(settings.index_url.iter().map(|url| ("UV_DEFAULT_INDEX", url.into())));
        Self {
            program: settings.uv.clone(),
            cache,
            environment,
            interpreter: settings.python.clone(),
            find_links: settings.find_links.clone(),
            index_url: settings.index_url.clone(),
            timeout: settings.uv_timeout,
            largest_file: settings.limits.packages,
        }
    }

    /// The operator's folder of wheels.
    pub(super) fn find_links(&self) -> Option<&Path> {
        self.find_links.as_deref()
    }

    /// Where packages come from, without credentials: other credentials do not make another index.
    pub(super) fn index(&self) -> String {
        let links = self.find_links.as_ref().map(|folder| folder.to_string_lossy().into_owned());
        format!("{} {}", without_credentials(self.index_url.as_deref().unwrap_or_default()), links.unwrap_or_default())
    }

    /// Resolves `requirements.in` (and `constraints.txt`) of `folder`; `complete` sets take nothing in beyond themselves.
    pub(super) async fn compile(
        &self,
        folder: &Path,
        target: &Target,
        constrained: bool,
        complete: bool,
    ) -> Result<String, BuildError> {
        let mut arguments =
            vec!["pip", "compile", "requirements.in", "--no-header", "--no-annotate", "--generate-hashes"];
        if constrained {
            arguments.extend(["--constraints", "constraints.txt"]);
        }
        if complete {
            arguments.push("--no-deps");
        }
        let output = self.run(folder, Some(target), arguments).await?;
        accepted("resolve the dependencies", output)
    }

    /// Reads `uv.lock` of `folder` as it stands.
    pub(super) async fn export(&self, folder: &Path) -> Result<String, BuildError> {
        let arguments = vec!["export", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate"];
        let output = self.run(folder, None, arguments).await?;
        accepted("read uv.lock", output)
    }

    /// Installs `lock.txt` of `folder` into its sub-folder `site`.
    pub(super) async fn install(&self, folder: &Path, target: &Target) -> Result<(), BuildError> {
        let arguments =
            vec!["pip", "install", "--target", "site", "--no-deps", "--require-hashes", "--requirements", "lock.txt"];
        let output = self.run(folder, Some(target), arguments).await?;
        accepted("install the dependencies", output).map(|_| ())
    }

    async fn run(&self, folder: &Path, target: Option<&Target>, arguments: Vec<&str>) -> Result<Output, BuildError> {
        let home = folder.join("home");
        std::fs::create_dir_all(&home).map_err(|error| on_disk(&home, &error))?;
        caches::used(&self.cache);
        let mut program = Program::new(&self.program, self.timeout)
            .largest_file(self.largest_file)
            .folder(folder)
            .environment(self.environment.iter().map(|(name, value)| (name, value)))
            .environment([("HOME", &home)])
            .arguments(arguments);
        if let Some(target) = target {
            program = program.arguments(["--only-binary", ":all:", "--python-version", &target.python]);
            if let Some(platform) = &target.platform {
                program = program.arguments(["--python-platform", platform]);
            }
            if let Some(links) = &self.find_links {
                program = program.arguments(["--find-links".as_ref(), links.as_os_str()]);
                if self.index_url.is_none() {
                    program = program.arguments(["--no-index"]);
                }
            }
        }
        if let Some(interpreter) = &self.interpreter {
            program = program.arguments(["--python".as_ref(), interpreter.as_os_str()]);
        }
        let output = program.run().await?;
        // Wheels are unpacked while resolving as well.
        let writes_too_much = output.status.signal() == Some(rustix::process::Signal::XFSZ.as_raw());
        if writes_too_much || output.stderr.contains("File too large") {
            return Err(BuildError::Terminal(format!(
                "a package holds a file of more than {} bytes",
                self.largest_file
            )));
        }
        Ok(output)
    }
}

fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// uv's answer, or its complaint with a class: only what the index or the files say is final.
fn accepted(purpose: &str, output: Output) -> Result<String, BuildError> {
    if output.status.success() {
        return String::from_utf8(output.stdout)
            .map_err(|_| BuildError::Transient("uv wrote something that is not UTF-8".to_owned()));
    }
    let start =
        output.stderr.find("error: ").filter(|at| *at == 0 || output.stderr[..*at].ends_with('\n')).unwrap_or(0);
    let complaint = tail(&output.stderr[start..]);
    let text = format!("cannot {purpose}: {}", complaint.trim_start_matches("error: "));
    let is = |signs: &[&str]| signs.iter().any(|sign| complaint.contains(sign));
    let network =
        ["error sending request", "Failed to fetch", "timed out", "dns error", "Connection re", "status server error"];
    let verdict = [
        "No solution found",
        "unsatisfiable",
        "Hash mismatch",
        "Failed to parse",
        "no usable wheels",
        "uv.lock",
        "not compatible",
    ];
    Err(if !is(&network) && is(&verdict) { BuildError::Terminal(text) } else { BuildError::Transient(text) })
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn an_index_is_the_same_with_other_credentials() {
        for url in ["https://me:hunter2@host:8443/simple@1", "https://token@host:8443/simple@1"] {
            assert_eq!(without_credentials(url), "https://host:8443/simple@1");
        }
    }

    fn complaint(stderr: &str) -> BuildError {
        let output = Output { status: ExitStatus::from_raw(256), stdout: Vec::new(), stderr: stderr.to_owned() };
        accepted("resolve the dependencies", output).unwrap_err()
    }

    #[test]
    fn a_resolution_without_solution_is_final_and_a_network_fault_is_not() {
        let unsolved = "warning: something\nerror: No solution found when resolving dependencies\n  cause: docopt==0.6.2 has no usable wheels\n";
        let expected = "cannot resolve the dependencies: No solution found when resolving dependencies\n  cause: docopt==0.6.2 has no usable wheels";
        assert!(matches!(complaint(unsolved), BuildError::Terminal(text) if text == expected));
        let network = "error: Request failed after 3 retries\n  cause: Failed to fetch: `https://host/simple/x/`\n  cause: dns error\n";
        assert!(matches!(complaint(network), BuildError::Transient(_)));
        assert!(matches!(complaint("error: No space left on device"), BuildError::Transient(_)));
    }
}
