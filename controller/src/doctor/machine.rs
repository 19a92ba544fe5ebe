//! Checks of this machine and of everything that it reaches, except AWS.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use codeloc_dagster::text::with_sources;
use codeloc_dagster::workspace_file::Publisher;
use codeloc_git::Git;
use codeloc_git::describe;
use codeloc_git::program::{Program, inherited};
use codeloc_git::refs::RefKey;
use codeloc_git::refs::ResolveReference;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Finding, bad, good, unknown};
use crate::config_source::{SourceSettings, read_once};
use crate::runtime::Clock;
use crate::settings::Settings;

const TIMEOUT: Duration = Duration::from_secs(10);
/// In seconds. AWS rejects signatures that are five minutes off.
const MAX_SKEW: i64 = 60;

/// Checks the configs, and all repositories and branches in them.
pub async fn sources(settings: &Settings, git: Git, source: SourceSettings) -> Vec<Finding> {
    if let Err(error) = version(&settings.git.program, "--version").await {
        let fix = "install git, or set git.program";
        return vec![
            bad("git", error, fix),
            unknown("configs", "codeloc cannot check configs and branches without git", fix),
        ];
    }
    if settings.source.path.is_none() && settings.source.git_url.is_none() {
        let fix = "set source.path to a folder or source.git_url to a repository";
        return vec![bad("configs", "neither source.path nor source.git_url is set", fix)];
    }
    let snapshot = match read_once(source, git.clone()).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let fix = "check source.path, or source.git_url, source.git_branch, source.git_folder and git.tokens";
            return vec![bad("configs", error.to_string(), fix)];
        }
    };
    let mut findings = Vec::new();
    let fix = "run `codeloc validate` for the line and a hint; codeloc freezes the location until you fix the config";
    findings.extend(snapshot.invalid().map(|one| bad("configs", one.message.clone(), fix)));
    if findings.is_empty() {
        findings.push(good("configs", format!("all configs are valid: {}", snapshot.locations.len())));
    }
    let keys: BTreeSet<RefKey> = snapshot
        .in_force()
        .filter(|location| location.image.is_none())
        .map(|location| RefKey { git_url: location.git_url.clone(), reference: location.reference.clone() })
        .collect();
    let mut answered = 0;
    for key in &keys {
        match git.resolve(&key.git_url, &key.reference).await {
            Ok(_) => answered += 1,
            Err(error) => findings.push(bad(
                "git",
                format!("{}: {error}", describe(&key.reference)),
                "check git_url and branch in the config, git.tokens, and the network path to the git host",
            )),
        }
    }
    if answered == keys.len() {
        findings.push(good("git", format!("git resolves all branches, tags and commits: {answered}")));
    }
    findings
}

pub async fn tools(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    match version(&settings.build.uv, "--version").await {
        Ok(version) => findings.push(good("uv", version)),
        Err(error) => findings.push(bad("uv", error, "install uv, or set build.uv to its path")),
    }
    if let Some(python) = &settings.build.compile_python {
        let fix = "set build.compile_python to a Python of the version in build.python, or remove the setting";
        match version(python, "--version").await {
            Ok(version) if version.starts_with(&format!("Python {}.", settings.build.python)) => {}
            // Images for this machine use the version of this machine.
            Ok(_) if settings.build.platform == crate::settings::Platform::Host => {}
            Ok(version) => {
                let found =
                    format!("build.compile_python is {version}, but images have Python {}", settings.build.python);
                findings.push(bad("uv", found, fix));
            }
            Err(error) => findings.push(bad("uv", error, fix)),
        }
    }
    findings
}

async fn version(program: &Path, flag: &str) -> Result<String, String> {
    let run = Program::new(program, TIMEOUT).arguments([flag]).environment(inherited(&[])).run();
    let output = run.await.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("`{} {flag}` failed: {}", program.display(), output.status))
    }
}

/// Checks that codeloc can write its folders.
pub fn files(settings: &Settings) -> Vec<Finding> {
    let work = &settings.build.work_folder;
    let mut findings = vec![match std::fs::create_dir_all(work).and_then(|()| tempfile::tempfile_in(work)) {
        Ok(_) => good("work-folder", work.display().to_string()),
        Err(error) => {
            let found = format!("{} is not writable: {error}", work.display());
            bad("work-folder", found, "set build.work_folder to a folder that the daemon can write")
        }
    }];
    let file = &settings.dagster.workspace_file;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    findings.push(match tempfile::tempfile_in(folder) {
        Err(error) => {
            let found = format!("{} is not writable: {error}", file.display());
            bad(
                "workspace-file",
                found,
                "set dagster.workspace_file to a path in a writable folder that Dagster reads too",
            )
        }
        Ok(_) => match Publisher::new(file).read() {
            Ok(entries) => good("workspace-file", format!("{} contains {} locations", file.display(), entries.len())),
            Err(error) => bad("workspace-file", error.to_string(), "move the file away; codeloc writes a new one"),
        },
    });
    findings
}

/// Checks that Dagster answers and has the release of the images.
pub async fn dagster(settings: &Settings) -> Finding {
    const CHECK: &str = "dagster";
    let Some(url) = &settings.dagster.webserver_url else {
        return good(CHECK, "dagster.webserver_url is not set; codeloc only writes workspace.yaml");
    };
    let ask = async {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let url = format!("{}/graphql", url.trim_end_matches('/'));
        let answer = client.post(url).json(&json!({"query": "{ version }"})).send().await?.error_for_status()?;
        answer.json::<Value>().await
    };
    let version = match ask.await {
        Ok(answer) => answer["data"]["version"].as_str().unwrap_or_default().to_owned(),
        Err(error) => {
            let fix = "start Dagster's webserver, or set dagster.webserver_url to its URL";
            return bad(CHECK, format!("the webserver does not answer: {}", with_sources(&error)), fix);
        }
    };
    let pinned = settings.build.requirements.iter().find_map(|line| line.strip_prefix("dagster=="));
    match pinned {
        Some(pinned) if pinned.trim() != version => {
            let found = format!("the webserver runs Dagster {version}, but images contain {pinned}");
            bad(CHECK, found, "use the same release in build.requirements and in the webserver")
        }
        _ => good(CHECK, format!("Dagster {version} answers")),
    }
}

/// Compares the clock with AWS: signatures of requests depend on it.
pub async fn clock(settings: &Settings, region: Option<&str>) -> Finding {
    const CHECK: &str = "clock";
    let region = region.unwrap_or("us-east-1");
    let endpoint = settings.aws.endpoint_url.clone();
    let url = endpoint.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
    let ask = async {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        client.get(&url).send().await
    };
    let answer = match ask.await {
        Ok(answer) => answer,
        Err(error) => {
            let fix = "check the network path to AWS: routes, NAT or VPC endpoints, security groups, proxies";
            return unknown(CHECK, format!("{url} does not answer: {}", with_sources(&error.without_url())), fix);
        }
    };
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let there = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
    judge_clock(Clock::of_this_machine().now(), there)
}

fn judge_clock(here: Timestamp, there: Option<Timestamp>) -> Finding {
    const CHECK: &str = "clock";
    let Some(there) = there else {
        return unknown(CHECK, "the response of AWS has no date", "compare the output of `date` with another machine");
    };
    let skew = here.duration_since(there).as_secs();
    if skew.abs() <= MAX_SKEW {
        good(CHECK, format!("differs from AWS by {skew} s"))
    } else {
        let found =
            format!("the clock differs from AWS by {skew} s; AWS rejects signatures from a difference of 300 s on");
        bad(CHECK, found, "synchronise the clock, for example with chrony or systemd-timesyncd")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_wrong_clock_is_reported_with_its_error() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(matches!(judge_clock(at(100), Some(at(130))).verdict, Verdict::Good { .. }));
        assert!(matches!(judge_clock(at(100), None).verdict, Verdict::Unknown { .. }));
        let Verdict::Bad { found, .. } = judge_clock(at(100), Some(at(400))).verdict else {
            panic!("no problem was found")
        };
        assert!(found.contains("-300 s"), "{found}");
    }
}
