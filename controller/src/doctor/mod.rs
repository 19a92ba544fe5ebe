//! Checks everything that a deployment depends on. It only reads; each problem comes with a fix.
//!
//! [`CHECKS`] lists the checks; `docs/doctor.md` is generated from it.

mod aws;
mod machine;
pub mod permissions;

use serde::Serialize;

use crate::settings::Settings;

/// Checks in their order, and the problems that each one finds.
pub const CHECKS: [(&str, &str); 16] = [
    (
        "settings",
        "A setting is missing or invalid, conflicts with another one, or names an unusable file. `codeloc run` makes the same checks.",
    ),
    ("configs", "The configs cannot be read, or a config is invalid."),
    ("git", "git is not installed, or codeloc cannot read a repository, branch or tag that a config names."),
    ("uv", "uv or `build.compile_python` does not run, or the version of that Python differs from the images."),
    ("work-folder", "The folder for builds is not writable."),
    ("workspace-file", "`workspace.yaml` is not writable, or contains entries that codeloc did not write."),
    ("dagster", "The webserver does not answer, or its Dagster version differs from `build.requirements`."),
    ("clock", "The clock of this machine is wrong, so that AWS rejects signatures."),
    ("credentials", "AWS credentials are missing or invalid."),
    ("permissions", "The role lacks permission for an action that the daemon needs."),
    ("cluster", "The ECS cluster does not exist, is not active, or is nearly full."),
    ("namespace", "The Cloud Map namespace does not exist or is not private."),
    ("network", "An id in `aws.subnets` or `aws.security_groups` is malformed. It does not check that they exist."),
    ("bucket", "The bucket does not exist, or its lease cannot be read."),
    (
        "roles",
        "The execution role or the permissions boundary does not exist, or ECS cannot assume the execution role.",
    ),
    ("codebuild", "The CodeBuild project does not exist. It checks this only if `build.codebuild_project` is set."),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    #[serde(flatten)]
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    Good {
        found: String,
    },
    /// The check could not run.
    Unknown {
        found: String,
        fix: String,
    },
    Bad {
        found: String,
        fix: String,
    },
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Good { found: found.into() } }
}

fn unknown(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Unknown { found: found.into(), fix: fix.into() } }
}

fn bad(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Bad { found: found.into(), fix: fix.into() } }
}

/// Runs all checks. `prepared` is the result of the daemon's own checks at its start; `config` is its AWS configuration.
pub async fn examine(
    settings: &Settings,
    prepared: Result<(), String>,
    config: &codeloc_aws::SdkConfig,
    git: codeloc_git::Git,
    source: crate::config_source::SourceSettings,
) -> Vec<Finding> {
    let mut findings = vec![match prepared {
        Ok(()) => good("settings", "valid"),
        Err(error) => bad("settings", error, "see docs/settings.md for all settings"),
    }];
    findings.extend(machine::sources(settings, git, source).await);
    findings.extend(machine::tools(settings).await);
    findings.extend(machine::files(settings));
    findings.push(machine::dagster(settings).await);
    findings.push(machine::clock(settings, codeloc_aws::region(config)).await);
    findings.extend(aws::examine(settings, config).await);
    findings
}
