//! `codeloc build`: builds the image of a repository on this machine, without AWS.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_core::ids::Commit;
use codeloc_core::lock::lock;
use codeloc_crds::{Architecture, LocationName};
use codeloc_images::{Anonymous, BuildSettings, Builder, OciBuilder, Platform, Progress, Request};

use super::Failure;
use tokio::time::Instant;

use super::add::{candidates, code_arguments, name_of, pointer};
use super::terminal::{complain, say};
use crate::config_source::inspect::Repository;
use crate::daemon::wiring;
use crate::local_build::{Layout, SandboxBuilder, load, local_python, without_colours};
use crate::settings;

pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("build")
        .about("Build the image of a repository on this machine, without AWS, and say what a build reads and does")
        .arg(
            Arg::new("repository")
                .value_name("PATH_OR_URL")
                .required(true)
                .help("Build this git repository: a folder of this machine, https://, ssh:// or git@HOST:PATH"),
        )
        .arg(text(
            "branch",
            "BRANCH",
            "Build this branch [default: the default branch, or the current one of a folder]",
        ))
        .arg(text("commit", "COMMIT", "Build this commit instead of the newest one"))
        .args(code_arguments())
        .arg(text("output", "FOLDER", "Write the image as an OCI image layout into this folder"))
        .arg(Arg::new("load").long("load").action(ArgAction::SetTrue).help(
            "Start the code server from the image, which runs the code on this machine, and list its definitions",
        ))
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let url = text("repository").ok_or("no repository given")?;
    let local = Path::new(&url).exists();
    let url = if local { std::fs::canonicalize(&url)?.display().to_string() } else { url };
    let mut settings = settings::load(matches)?;
    settings.git.allow_local |= local;
    let work = tempfile::tempdir()?;
    // The caches of the daemon speed up the next build; a folder of another user cannot be written.
    if std::fs::create_dir_all(settings.build.work_folder.join("build")).is_err() {
        settings.build.work_folder = cache_folder().unwrap_or_else(|| work.path().to_owned());
    }
    let mut build = wiring::build_settings(&settings);
    build.uv = find_program(&build.uv).ok_or("found no uv; install it, or set build.uv")?;
    if matches.get_flag("load") {
        build.platform = Platform::Host;
    }
    if build.platform == Platform::Host && build.python.is_none() {
        build.python = Some(local_python(&build.uv, &build.default_python).await?);
    }

    let git = wiring::git(&settings);
    let bare = work.path().join("inspect.git");
    let mut repository = Repository::fetch(&git, &bare, &url, text("branch").as_deref()).await?;
    if let Some(commit) = text("commit") {
        let commit = Commit::from(commit.as_str());
        git.fetch_commit(&bare, &url, &commit).await?;
        repository.commit = commit;
    }
    let subdirectory = text("subdirectory");
    let found = repository.definitions(subdirectory.as_deref()).await?;
    let remedy = Some("build one with --location NAME");
    let candidates = candidates(matches, &repository, subdirectory, &found, remedy).await?;
    let candidate = candidates.into_iter().next().ok_or("found no Dagster definitions in the repository")?;
    let name = name_of(candidate.name.as_deref().or(candidate.subdirectory.as_deref()).unwrap_or(&url));

    say!("commit      {}", repository.commit);
    say!("code        {}", pointer(&candidate.code));
    let survey = repository.survey(&candidate, &build).await;
    say!("packages    {}", survey.dependencies.as_deref().unwrap_or("no list of packages found"));
    for why in &survey.isolated {
        say!("isolated    {why}");
    }

    let folder = text("output").map_or_else(|| work.path().join("layout"), PathBuf::from);
    let layout = Arc::new(Layout::open(&folder)?);
    let served = layout.serve().await?;
    let python_version = survey.python.clone();
    let request = Request {
        location: LocationName::new(&name).map_err(|_| format!("`{name}` is not the name of a location"))?,
        git_url: url.clone(),
        commit: repository.commit.clone(),
        subdirectory: candidate.subdirectory.clone(),
        code: candidate.code.clone(),
        dependencies: None,
        dockerfile: None,
        commands: vec![],
        python: python_version,
        architecture: Architecture::Arm64,
        target: format!("{}/{name}", served.address),
    };
    let isolated = SandboxBuilder {
        uv: build.uv.clone(),
        timeout: Duration::from_mins(settings.build.isolated_minutes),
        reachable: loopback_indexes(&build),
        show: |line| complain!("            {}", without_colours(line)),
    };
    let builder = OciBuilder::new(build.clone(), git.clone(), Anonymous)?.with_isolated(isolated);
    let (began, shown) = (Instant::now(), Mutex::new(String::new()));
    let progress = |step: Progress| {
        // The layout is on this machine.
        if matches!(step, Progress::Uploading | Progress::UploadingLayer { .. }) {
            return;
        }
        let step = step.to_string();
        let mut shown = lock(&shown);
        if *shown != step {
            complain!("{:>8.1} s  {step}", began.elapsed().as_secs_f64());
            *shown = step;
        }
    };
    let image = Box::pin(builder.build(&request, &progress)).await?;
    for note in &image.notes {
        say!("note        {note}");
    }
    let digest = image.reference.rsplit('@').next().unwrap_or_default().to_owned();
    describe(&layout, &digest)?;
    say!("built       {digest} in {:.1} s", began.elapsed().as_secs_f64());
    if text("output").is_some() {
        say!("layout      {}", folder.display());
    }
    if matches.get_flag("load") {
        let python = local_python(&build.uv, &python_of(&layout, &digest)?).await?;
        let loaded = load(&layout, &digest, &image.load, &python)
            .await
            .map_err(|output| format!("the code server does not load the definitions:\n{}", output.trim()))?;
        say!("loaded      in {:.1} s", loaded.start.as_secs_f64());
        for (kind, names) in &loaded.definitions {
            say!("{kind:<11} {}", if names.is_empty() { "-".to_owned() } else { names.join(", ") });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the layers of an image.
fn describe(layout: &Layout, manifest: &str) -> Result<(), Failure> {
    let manifest = layout.document(manifest)?;
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let name = layer["annotations"]["codeloc.layer"].as_str().unwrap_or("base");
        say!("layer       {name}: {}", size(layer["size"].as_u64().unwrap_or_default()));
    }
    Ok(())
}

/// The minor version of Python of an image.
fn python_of(layout: &Layout, manifest: &str) -> Result<String, Failure> {
    let manifest = layout.document(manifest)?;
    let config = layout.document(manifest["config"]["digest"].as_str().unwrap_or_default())?;
    let version = config["config"]["Labels"]["codeloc.python"].as_str();
    Ok(version.ok_or("the image does not say its version of Python")?.to_owned())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    } else {
        format!("{} MiB", bytes.div_ceil(1 << 20))
    }
}

/// The absolute path of a program.
fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return std::path::absolute(program).ok().filter(|path| path.is_file());
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// `XDG_CACHE_HOME/codeloc`, or the same below the home folder.
fn cache_folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let folder = cache.or_else(|| Some(home?.join(".cache")))?.join("codeloc");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder)
}

/// `HOST:PORT` of package indexes on this machine, which the proxy of a sandbox refuses otherwise.
fn loopback_indexes(build: &BuildSettings) -> Vec<String> {
    let urls = build.indexes.iter().map(|index| index.url.as_str()).chain(build.index_url.as_deref());
    let authority = |url: &str| url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).map(str::to_owned);
    let is_local =
        |host: &String| host.starts_with("127.") || host.starts_with("localhost:") || host.starts_with("[::1]");
    urls.filter_map(authority).filter(is_local).collect()
}
