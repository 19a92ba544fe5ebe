//! What is on this machine, and what is reached from it other than AWS.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

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

const PATIENCE: Duration = Duration::from_secs(10);
/// In seconds: AWS refuses signatures that are five minutes off.
const SKEW: i64 = 60;

/// The configs, and every repository and branch that they name.
pub async fn sources(settings: &Settings, git: Git, source: SourceSettings) -> Vec<Finding> {
    if let Err(error) = version(&settings.git.program, "--version").await {
        let mend = "install git, or set git.program";
        return vec![bad("git", error, mend), unknown("configs", "not looked at without git", mend)];
    }
    if settings.source.path.is_none() && settings.source.git_url.is_none() {
        let mend = "set source.path to a folder, or source.git_url to a repository";
        return vec![bad("configs", "no source is set", mend)];
    }
    let snapshot = match read_once(source, git.clone()).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let mend = "look at source.path, or at source.git_url, source.git_branch, source.git_folder and git.tokens";
            return vec![bad("configs", error.to_string(), mend)];
        }
    };
    let mut findings = Vec::new();
    let mend = "`codeloc validate` shows line and hint; until then the location stays as it is";
    findings.extend(snapshot.invalid().map(|one| bad("configs", one.message.clone(), mend)));
    if findings.is_empty() {
        findings.push(good("configs", format!("{} configs pass", snapshot.locations.len())));
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
                "look at git_url and branch of the config, at git.tokens, and at the way out of this network",
            )),
        }
    }
    if answered == keys.len() {
        findings.push(good("git", format!("{answered} branches of repositories answer")));
    }
    findings
}

pub async fn tools(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    match version(&settings.build.uv, "--version").await {
        Ok(version) => findings.push(good("uv", version)),
        Err(error) => findings.push(bad("uv", error, "install uv, or set build.uv to where it is")),
    }
    if let Some(python) = &settings.build.compile_python {
        let mend = "set build.compile_python to a Python of the version in build.python, or leave it out";
        match version(python, "--version").await {
            Ok(version) if version.starts_with(&format!("Python {}.", settings.build.python)) => {}
            // For this machine, what it has is what images get.
            Ok(_) if settings.build.platform == crate::settings::Platform::Host => {}
            Ok(version) => {
                let found = format!("{version} compiles for images of Python {}", settings.build.python);
                findings.push(bad("uv", found, mend));
            }
            Err(error) => findings.push(bad("uv", error, mend)),
        }
    }
    findings
}

async fn version(program: &Path, flag: &str) -> Result<String, String> {
    let run = Program::new(program, PATIENCE).arguments([flag]).environment(inherited(&[])).run();
    let output = run.await.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{} {flag} ends with {}", program.display(), output.status))
    }
}

/// Folders that are written into.
pub fn files(settings: &Settings) -> Vec<Finding> {
    let work = &settings.build.work_folder;
    let mut findings = vec![match std::fs::create_dir_all(work).and_then(|()| tempfile::tempfile_in(work)) {
        Ok(_) => good("work-folder", work.display().to_string()),
        Err(error) => {
            let found = format!("{} cannot be written: {error}", work.display());
            bad("work-folder", found, "set build.work_folder to a folder that the daemon may write")
        }
    }];
    let file = &settings.dagster.workspace_file;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    findings.push(match tempfile::tempfile_in(folder) {
        Err(error) => {
            let found = format!("{} cannot be written: {error}", file.display());
            bad(
                "workspace-file",
                found,
                "set dagster.workspace_file into a folder that is shared with Dagster and writable",
            )
        }
        Ok(_) => match Publisher::new(file).read() {
            Ok(entries) => good("workspace-file", format!("{} with {} locations", file.display(), entries.len())),
            Err(error) => {
                bad("workspace-file", error.to_string(), "move the file away; the daemon writes it anew, whole")
            }
        },
    });
    findings
}

/// Whether Dagster is there, and of the release that images get.
pub async fn dagster(settings: &Settings) -> Finding {
    const CHECK: &str = "dagster";
    let Some(url) = &settings.dagster.webserver_url else {
        return good(CHECK, "no webserver is set: only workspace.yaml is written");
    };
    let ask = async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let url = format!("{}/graphql", url.trim_end_matches('/'));
        let answer = client.post(url).json(&json!({"query": "{ version }"})).send().await?.error_for_status()?;
        answer.json::<Value>().await
    };
    let version = match ask.await {
        Ok(answer) => answer["data"]["version"].as_str().unwrap_or_default().to_owned(),
        Err(error) => {
            let mend = "start Dagster's webserver, or set dagster.webserver_url to where it is reached from here";
            return bad(CHECK, format!("the webserver does not answer: {error}"), mend);
        }
    };
    let pinned = settings.build.requirements.iter().find_map(|line| line.strip_prefix("dagster=="));
    match pinned {
        Some(pinned) if pinned.trim() != version => {
            let found = format!("the webserver is Dagster {version}, and images get {pinned}");
            bad(CHECK, found, "give both the same release: build.requirements and the webserver's image")
        }
        _ => good(CHECK, format!("Dagster {version} answers")),
    }
}

/// Whoever signs requests needs the time that AWS has.
pub async fn clock(settings: &Settings, region: Option<&str>) -> Finding {
    const CHECK: &str = "clock";
    let region = region.unwrap_or("us-east-1");
    let endpoint = settings.aws.endpoint_url.clone();
    let url = endpoint.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
    let ask = async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        client.get(&url).send().await
    };
    let answer = match ask.await {
        Ok(answer) => answer,
        Err(error) => {
            let mend = "look at the way from here to AWS: routes, NAT or endpoints, security groups, proxies";
            return unknown(CHECK, format!("{url} does not answer: {error}"), mend);
        }
    };
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let told = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
    judge_clock(Clock::of_this_machine().now(), told)
}

fn judge_clock(here: Timestamp, there: Option<Timestamp>) -> Finding {
    const CHECK: &str = "clock";
    let Some(there) = there else {
        return unknown(CHECK, "AWS told no time", "compare `date` with another machine's");
    };
    let skew = here.duration_since(there).as_secs();
    if skew.abs() <= SKEW {
        good(CHECK, "agrees with AWS's")
    } else {
        let found = format!("this machine is {skew} s ahead of AWS; at 300 s signatures are refused");
        bad(CHECK, found, "let chrony or systemd-timesyncd keep the time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_clock_that_is_off_is_told_with_how_much() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(matches!(judge_clock(at(100), Some(at(130))).verdict, Verdict::Good { .. }));
        assert!(matches!(judge_clock(at(100), None).verdict, Verdict::Unknown { .. }));
        let Verdict::Bad { found, .. } = judge_clock(at(100), Some(at(400))).verdict else { panic!("not found") };
        assert!(found.contains("-300 s"), "{found}");
    }
}
