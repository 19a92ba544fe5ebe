//! Everything that a deployment stands on, looked at before it hurts. Reads only; each finding says how to mend it.
//!
//! Which checks there are is [`CHECKS`]; the docs are made from it.

mod aws;
mod machine;
pub mod permissions;

use serde::Serialize;

use crate::settings::Settings;

/// What is looked at, in this order, and what is found wrong.
pub const CHECKS: [(&str, &str); 15] = [
    (
        "settings",
        "a setting is missing, does not fit another, or names a file that cannot be used: whatever `codeloc run` would refuse",
    ),
    ("configs", "the configs cannot be read, or one does not pass"),
    ("git", "git is not installed, or a repository or branch that is named does not answer"),
    ("uv", "uv, or the Python that compiles, does not run or is of another version than the images'"),
    ("work-folder", "the folder for builds cannot be written"),
    ("workspace-file", "`workspace.yaml` cannot be written, or holds what codeloc did not write"),
    ("dagster", "the webserver does not answer, or is of another version than the images'"),
    ("clock", "this machine's clock is off, so that AWS refuses signatures"),
    ("credentials", "there are no AWS credentials, or AWS does not take them"),
    ("permissions", "an action that the daemon needs is not allowed"),
    ("cluster", "the ECS cluster is not there, not active, or nearly full"),
    ("namespace", "the Cloud Map namespace is not there, or no private one"),
    ("network", "subnets or security groups are none by their form"),
    ("bucket", "the bucket is not there, or its lease cannot be read"),
    ("roles", "the execution role or the permissions boundary is not there, or ECS may not assume the role"),
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
    /// It could not be looked at.
    Unknown {
        found: String,
        mend: String,
    },
    Bad {
        found: String,
        mend: String,
    },
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Good { found: found.into() } }
}

fn unknown(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Unknown { found: found.into(), mend: mend.into() } }
}

fn bad(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check, verdict: Verdict::Bad { found: found.into(), mend: mend.into() } }
}

/// Looks at everything. `prepared` is what the daemon itself says before it begins, `config` the AWS configuration that it would have.
pub async fn examine(
    settings: &Settings,
    prepared: Result<(), String>,
    config: &codeloc_aws::SdkConfig,
    git: codeloc_git::Git,
    source: crate::config_source::SourceSettings,
) -> Vec<Finding> {
    let mut findings = vec![match prepared {
        Ok(()) => good("settings", "fit together"),
        Err(error) => bad("settings", error, "`docs/settings.md` has every setting; each is also a flag"),
    }];
    findings.extend(machine::sources(settings, git, source).await);
    findings.extend(machine::tools(settings).await);
    findings.extend(machine::files(settings));
    findings.push(machine::dagster(settings).await);
    findings.push(machine::clock(settings, codeloc_aws::region(config)).await);
    findings.extend(aws::examine(settings, config).await);
    findings
}
