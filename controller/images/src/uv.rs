//! Runs uv as a child process: resolve, export, install.
//!
//! Guarantees: uv gets no configuration file, environment variable or credential of the controller; it uses wheels only, so
//! it builds no packages; it installs one wheel at a time, because wheels with equal paths would race.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use codeloc_git::program::{Output, Program, ProgramError, inherited, tail};

use tokio::sync::OnceCell;

use crate::caches;
use crate::disk::disk_error;
use crate::error::BuildError;
use crate::requirements::normal_name;
use crate::settings::{BuildSettings, PackageIndex};

/// The Python and platform of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `3.12`
    pub python: String,
    /// `arm64` or `amd64`, as in image configs.
    pub architecture: &'static str,
    /// uv's name, for example `aarch64-manylinux_2_28`. `None` means this machine.
    pub platform: Option<String>,
    /// The exact version of the interpreter that compiles `.pyc` files, if one with this minor version exists.
    pub compiler: Option<String>,
}

impl Target {
    /// Everything here that decides which wheels uv chooses.
    pub(super) fn key(&self) -> String {
        format!("{} {} {}", self.python, self.architecture, self.platform.as_deref().unwrap_or("host"))
    }
}

/// Files in the folder of a resolution. `wheels` is a folder of wheels from an isolated build.
pub(super) const CONSTRAINTS: &str = "constraints.txt";
pub(super) const OVERRIDES: &str = "overrides.txt";
pub(super) const WHEELS: &str = "wheels";

/// How often uv may write each byte of the packages: into its cache, and again where the work folder allows no hard links.
const WRITTEN_PER_BYTE: u64 = 2;

pub(super) struct Uv {
    program: PathBuf,
    cache: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    interpreter: Option<PathBuf>,
    find_links: Option<PathBuf>,
    index_url: Option<String>,
    indexes: Vec<PackageIndex>,
    exclusive: BTreeMap<String, String>,
    timeout: std::time::Duration,
    max_bytes: u64,
    default_indexes: OnceCell<Vec<String>>,
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
        // Not an argument, because it may contain a password.
        environment.extend(settings.index_url.iter().map(|url| ("UV_DEFAULT_INDEX", url.into())));
        if !settings.indexes.is_empty() {
            let indexes: Vec<String> =
                settings.indexes.iter().map(|index| format!("{}={}", index.name, index.url)).collect();
            environment.push(("UV_INDEX", indexes.join(" ").into()));
        }
        Self {
            program: settings.uv.clone(),
            cache,
            environment,
            interpreter: settings.python.clone(),
            find_links: settings.find_links.clone(),
            index_url: settings.index_url.clone(),
            indexes: settings.indexes.clone(),
            exclusive: settings.exclusive_packages.clone(),
            timeout: settings.uv_timeout,
            max_bytes: settings.limits.packages,
            default_indexes: OnceCell::new(),
        }
    }

    /// The operator's folder of wheels.
    pub(super) fn find_links(&self) -> Option<&Path> {
        self.find_links.as_deref()
    }

    /// The source of packages, without credentials: the same index with other credentials is equal.
    pub(super) fn index(&self) -> String {
        let links = self.find_links.as_ref().map(|folder| folder.to_string_lossy().into_owned());
        let more: Vec<&str> = self.indexes.iter().map(|index| index.url.as_str()).collect();
        format!(
            "{} {}{}{}",
            without_credentials(self.index_url.as_deref().unwrap_or_default()),
            links.unwrap_or_default(),
            if more.is_empty() { String::new() } else { format!(" {}", more.join(" ")) },
            if self.exclusive.is_empty() { String::new() } else { format!(" {:?}", self.exclusive) },
        )
    }

    /// The default index of the settings, without credentials.
    pub(super) fn plain_default_index(&self) -> Option<String> {
        self.index_url.as_deref().map(without_credentials)
    }

    /// The further indexes of the settings as `NAME=URL`, without credentials.
    pub(super) fn plain_indexes(&self) -> Vec<String> {
        self.indexes.iter().map(|index| format!("{}={}", index.name, index.url)).collect()
    }

    /// The URL of an index in the settings.
    pub(super) fn index_url(&self, name: &str) -> Option<&str> {
        self.indexes.iter().find(|index| index.name == name).map(|index| index.url.as_str())
    }

    /// The name and the URL of the only index that may provide a package.
    pub(super) fn exclusive_index(&self, package: &str) -> Option<(&str, &str)> {
        let pattern = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => package.starts_with(start),
            None => package == pattern,
        };
        let (_, name) = self.exclusive.iter().find(|(one, _)| pattern(one))?;
        Some((name, self.index_url(name)?))
    }

    /// Variables with the credentials of the indexes. The files may change.
    async fn credentials(&self) -> Result<Vec<(String, String)>, BuildError> {
        let mut variables = Vec::new();
        for index in &self.indexes {
            let Some(path) = &index.credentials else { continue };
            let text = tokio::fs::read_to_string(path).await.map_err(|error| disk_error(path, error))?;
            let Some((user, password)) = text.trim().split_once(':') else {
                return Err(BuildError::transient(format!("{} is not of the form USER:PASSWORD", path.display())));
            };
            let name = index.name.to_ascii_uppercase().replace('-', "_");
            variables.push((format!("UV_INDEX_{name}_USERNAME"), user.to_owned()));
            variables.push((format!("UV_INDEX_{name}_PASSWORD"), password.to_owned()));
        }
        Ok(variables)
    }

    /// The package indexes that projects may name, without credentials: the operator's, or uv's default.
    pub(super) async fn indexes(&self) -> Result<Vec<String>, BuildError> {
        let named = self.indexes.iter().map(|index| plain_index(&index.url));
        if let Some(url) = &self.index_url {
            return Ok(named.chain([plain_index(url)]).collect());
        }
        let read = async || -> Result<Vec<String>, BuildError> {
            let failure = "cannot read the default index of uv";
            let program = Program::new(&self.program, self.timeout)
                .environment(self.environment.iter().map(|(name, value)| (name, value)))
                .arguments(["help", "pip", "compile"]);
            let output = program.run().await.map_err(|error| BuildError::transient(failure).caused_by(error))?;
            let text = check_exit(failure, output)?;
            let url =
                text.split_once("default package index (by default: <").and_then(|(_, rest)| rest.split_once('>'));
            Ok(url.map(|(url, _)| plain_index(url)).into_iter().collect())
        };
        Ok(named.chain(self.default_indexes.get_or_try_init(read).await?.iter().cloned()).collect())
    }

    /// Resolves `requirements.in` in `folder`, with its `constraints.txt` and `overrides.txt`. If `complete`, uv adds no further packages.
    pub(super) async fn compile(&self, folder: &Path, target: &Target, complete: bool) -> Result<String, BuildError> {
        let mut arguments =
            vec!["pip", "compile", "requirements.in", "--no-header", "--no-annotate", "--generate-hashes"];
        arguments.push("--emit-index-annotation");
        for (option, file) in [("--constraints", CONSTRAINTS), ("--overrides", OVERRIDES)] {
            if folder.join(file).exists() {
                arguments.extend([option, file]);
            }
        }
        if complete {
            arguments.push("--no-deps");
        }
        self.run("cannot resolve the dependencies", folder, Some(target), arguments).await
    }

    /// Reads `uv.lock` in `folder` without updating it: the packages that the index has, for one of its projects.
    pub(super) async fn export(&self, folder: &Path, package: Option<&str>) -> Result<String, BuildError> {
        let mut arguments = vec!["export", "--frozen", "--no-dev", "--no-emit-local", "--no-header", "--no-annotate"];
        if let Some(package) = package {
            arguments.extend(["--package", package]);
        }
        self.run("cannot read uv.lock", folder, None, arguments).await
    }

    /// Installs `lock.txt` in `folder` into its subfolder `site`.
    pub(super) async fn install(&self, folder: &Path, target: &Target) -> Result<(), BuildError> {
        let arguments =
            vec!["pip", "install", "--target", "site", "--no-deps", "--require-hashes", "--requirements", "lock.txt"];
        self.run("cannot install the dependencies", folder, Some(target), arguments).await.map(|_| ())
    }

    /// `failure` begins the message of an error.
    async fn run(
        &self,
        failure: &'static str,
        folder: &Path,
        target: Option<&Target>,
        arguments: Vec<&str>,
    ) -> Result<String, BuildError> {
        let home = folder.join("home");
        std::fs::create_dir_all(&home).map_err(|error| disk_error(&home, error))?;
        caches::mark_used(&self.cache);
        let mut program = Program::new(&self.program, self.timeout)
            .largest_file(self.max_bytes)
            .most_written(self.max_bytes.saturating_mul(WRITTEN_PER_BYTE))
            .folder(folder)
            .environment(self.environment.iter().map(|(name, value)| (name, value)))
            .environment([("HOME", &home)])
            .environment(self.credentials().await?)
            .arguments(arguments);
        if let Some(target) = target {
            program = program.arguments(["--only-binary", ":all:", "--python-version", &target.python]);
            if let Some(platform) = &target.platform {
                program = program.arguments(["--python-platform", platform]);
            }
            if folder.join(WHEELS).exists() {
                program = program.arguments(["--find-links", WHEELS]);
            }
            if let Some(links) = &self.find_links {
                program = program.arguments(["--find-links".as_ref(), links.as_os_str()]);
                if self.index_url.is_none() && self.indexes.is_empty() {
                    program = program.arguments(["--no-index"]);
                }
            }
        }
        if let Some(interpreter) = &self.interpreter {
            program = program.arguments(["--python".as_ref(), interpreter.as_os_str()]);
        }
        let output = match program.run().await {
            Err(ProgramError::TooMuchWritten { .. }) => {
                return Err(BuildError::terminal(format!(
                    "{failure}: the packages have more than {} bytes when they are unpacked; remove some",
                    self.max_bytes
                )));
            }
            output => output.map_err(|error| BuildError::transient(failure).caused_by(error))?,
        };
        // uv also unpacks wheels when it resolves.
        let exceeded_limit = output.status.signal() == Some(rustix::process::Signal::XFSZ.as_raw());
        if exceeded_limit || output.stderr.contains("File too large") {
            return Err(BuildError::terminal(format!(
                "{failure}: a package contains a file of more than {} bytes; remove the package",
                self.max_bytes
            )));
        }
        check_exit(failure, output)
    }
}

/// The URL of the index from which each package of a resolution comes.
pub(super) fn origins(resolved: &str) -> BTreeMap<String, String> {
    let (mut origins, mut package) = (BTreeMap::new(), None);
    for line in resolved.lines() {
        if let Some(url) = line.trim().strip_prefix("# from ") {
            origins.extend(package.take().map(|name| (name, plain_index(url))));
        } else if let Some((name, _)) = line.split_once("==").filter(|_| !line.starts_with(' ')) {
            package = Some(normal_name(name.split('[').next().unwrap_or(name)));
        }
    }
    origins
}

/// The URL of an index as it is compared with others: without credentials and without a slash at its end.
pub(super) fn plain_index(url: &str) -> String {
    without_credentials(url).trim_end_matches('/').to_owned()
}

fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// uv's output, or its error message. Only an error of the index's content or of the files is terminal.
fn check_exit(failure: &str, output: Output) -> Result<String, BuildError> {
    if output.status.success() {
        return String::from_utf8(output.stdout)
            .map_err(|error| BuildError::transient(format!("{failure}: uv printed invalid UTF-8")).caused_by(error));
    }
    let start =
        output.stderr.find("error: ").filter(|at| *at == 0 || output.stderr[..*at].ends_with('\n')).unwrap_or(0);
    let stderr = tail(&output.stderr[start..]);
    let message = match without_wheels(&stderr) {
        Some(package) => format!(
            "{failure}: {package} {NO_WHEEL}; require another version, or set `build.isolated_image` in the settings, so that codeloc can build it"
        ),
        None => format!("{failure}: {}", stderr.trim_start_matches("error: ")),
    };
    let contains_any = |phrases: &[&str]| phrases.iter().any(|phrase| stderr.contains(phrase));
    let invalid_input = [
        "No solution found",
        "unsatisfiable",
        "Hash mismatch",
        "Failed to parse",
        "no usable wheels",
        "uv.lock",
        "not compatible",
    ];
    let is_terminal = !is_network_fault(&stderr) && contains_any(&invalid_input);
    Err(if is_terminal { BuildError::terminal(message) } else { BuildError::transient(message) })
}

/// Whether uv could not reach the package index.
pub(super) fn is_network_fault(text: &str) -> bool {
    const PHRASES: [&str; 6] =
        ["error sending request", "Failed to fetch", "timed out", "dns error", "Connection re", "status server error"];
    PHRASES.iter().any(|phrase| text.contains(phrase))
}

const NO_WHEEL: &str = "has no wheel for this platform";

/// The package that has no wheel, such as `docopt==0.6.2`, if a resolution failed for this reason.
pub(super) fn lacks_wheel(error: &BuildError) -> Option<String> {
    let text = error.to_string();
    let (before, _) = text.split_once(NO_WHEEL)?;
    before.trim_end().rsplit([' ', '\n']).next().map(str::to_owned)
}

/// The package that has no wheel, if this is why there is no solution.
fn without_wheels(stderr: &str) -> Option<&str> {
    // uv breaks long lines.
    let at = ["has no usable wheels", "have no usable wheels"].iter().filter_map(|text| stderr.find(text)).min()?;
    stderr[..at].split_whitespace().next_back()
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;
    use crate::error::{expect_terminal, expect_transient};

    #[test]
    fn the_origin_of_each_package_is_read() {
        let resolved = "a[x]==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # from https://me@host/simple/\nb==2\nc==3\n    # from /wheels\n";
        let expected = [("a", "https://host/simple"), ("c", "/wheels")];
        assert_eq!(origins(resolved), expected.map(|(name, url)| (name.to_owned(), url.to_owned())).into());
    }

    #[test]
    fn credentials_are_not_part_of_the_index() {
        for url in ["https://me:hunter2@host:8443/simple@1", "https://token@host:8443/simple@1"] {
            assert_eq!(without_credentials(url), "https://host:8443/simple@1");
        }
    }

    fn failed(stderr: &str) -> Result<String, BuildError> {
        let output = Output { status: ExitStatus::from_raw(256), stdout: Vec::new(), stderr: stderr.to_owned() };
        check_exit("cannot resolve the dependencies", output)
    }

    #[test]
    fn the_package_without_a_wheel_is_named() {
        for (text, expected) in [
            ("docopt==0.6.2 has no usable wheels", "docopt==0.6.2"),
            ("all versions of pyspark have no usable wheels", "pyspark"),
            ("all of:\n    oracle<=6.1\n    oracle>=6.2\n  have no usable wheels", "oracle>=6.2"),
        ] {
            let error =
                failed(&format!("error: No solution found\n  cause: Because {text} and you require it")).unwrap_err();
            assert_eq!(lacks_wheel(&error).as_deref(), Some(expected));
        }
        assert_eq!(lacks_wheel(&failed("error: No solution found").unwrap_err()), None);
    }

    #[test]
    fn no_solution_is_terminal_and_a_network_fault_is_transient() {
        let unsolved = "warning: something\nerror: No solution found when resolving dependencies\n  cause: docopt==0.6.2 has no usable wheels\n";
        let expected = "cannot resolve the dependencies: docopt==0.6.2 has no wheel for this platform; require another version, or set \
                        `build.isolated_image` in the settings, so that codeloc can build it";
        assert_eq!(expect_terminal(failed(unsolved)), expected);
        let conflict = "error: No solution found when resolving dependencies\n  cause: a and b are incompatible\n";
        let expected = "cannot resolve the dependencies: No solution found when resolving dependencies\n  cause: a and b are incompatible";
        assert_eq!(expect_terminal(failed(conflict)), expected);
        let network = "error: Request failed after 3 retries\n  cause: Failed to fetch: `https://host/simple/x/`\n  cause: dns error\n";
        assert!(expect_transient(failed(network)).contains("Failed to fetch"));
        assert!(expect_transient(failed("error: No space left on device")).contains("No space left"));
    }
}
