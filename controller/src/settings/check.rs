//! Checks of settings that need neither the network nor the files that the settings name.

use std::fmt::Display;
use std::ops::RangeInclusive;

use codeloc_core::names;
use codeloc_core::resources::log_group;

use super::{Leaf, Settings, SettingsError, leaves};

/// Seconds of a day: longer intervals are mistakes, and would overflow the clock.
const DAY: u64 = 24 * 60 * 60;

/// ECS allows 64 KiB for a whole task definition; `codeloc_crds` allows a config 48 KiB of it.
const ENVIRONMENT_BYTES: usize = 8 * 1024;

/// Maximum length of a DNS name as text (RFC 1035).
const DNS_NAME: usize = 253;

const EMPTY: &str = "is empty; set a value, or remove the setting";

fn fault<T>(setting: &str, message: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError::Value { setting: setting.to_owned(), message: message.into() })
}

fn within<N: Copy + PartialOrd + Display>(
    setting: &str,
    value: N,
    range: RangeInclusive<N>,
) -> Result<(), SettingsError> {
    if range.contains(&value) {
        return Ok(());
    }
    fault(setting, format!("is {value}; set it to {} to {}", range.start(), range.end()))
}

impl Settings {
    /// Each error names the setting and suggests a fix.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_deployment()?;
        self.check_numbers()?;
        self.check_source()?;
        self.check_aws()?;
        self.check_dagster()?;
        if self.build.codebuild_project.is_some() && self.build.buildah.is_some() {
            return fault("build.buildah", "is set together with `build.codebuild_project`; remove one of them");
        }
        self.check_texts()
    }

    /// Commands that write configs need only these settings.
    pub fn check_source(&self) -> Result<(), SettingsError> {
        let source = &self.source;
        match (&source.path, &source.git_url) {
            (Some(_), Some(_)) => fault("source", "has both `path` and `git_url`; remove one of them"),
            (None, None) => {
                fault("source", "is not set; set `source.path` (a folder) or `source.git_url` (a repository)")
            }
            (Some(path), None) if path.as_os_str().is_empty() => fault("source.path", EMPTY),
            (None, Some(url)) if url.is_empty() => fault("source.git_url", EMPTY),
            _ => Ok(()),
        }
    }

    /// An empty text is never a value: an empty path would mean the working directory.
    fn check_texts(&self) -> Result<(), SettingsError> {
        let values = serde_json::to_value(self).expect("settings serialise");
        let is_empty = |leaf: &Leaf| {
            let value = values.pointer(&format!("/{}", leaf.path.join("/")));
            value.is_some_and(|value| value == "") && leaf.default != ""
        };
        match leaves().iter().find(|leaf| is_empty(leaf)) {
            Some(leaf) => fault(&leaf.path.join("."), EMPTY),
            None => Ok(()),
        }
    }

    fn check_deployment(&self) -> Result<(), SettingsError> {
        let id = &self.deployment;
        let letters = id.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
        // ECR does not allow consecutive hyphens.
        let hyphens = !id.starts_with('-') && !id.ends_with('-') && !id.contains("--");
        if id.is_empty() || id.len() > names::DEPLOYMENT_LENGTH || !letters || !hyphens {
            let rule = "use 1 to 20 characters of [a-z0-9-], with single hyphens, and none at the beginning or end";
            return fault("deployment", format!("is `{id}`; {rule}"));
        }
        if id == "aws" || id.starts_with("aws-") {
            return fault(
                "deployment",
                format!("is `{id}`, but AWS reserves `aws` and all ids that begin with `aws-`; choose another id"),
            );
        }
        Ok(())
    }

    /// Zero would mean a loop without a pause, a timeout that has already passed, or no workers.
    fn check_numbers(&self) -> Result<(), SettingsError> {
        within("git.poll_seconds", self.git.poll_seconds, 1..=DAY)?;
        within("git.timeout_seconds", self.git.timeout_seconds, 1..=3600)?;
        within("dagster.timeout_seconds", self.dagster.timeout_seconds, 1..=600)?;
        within("dagster.port", self.dagster.port, 1..=u16::MAX)?;
        within("reconcile.resync_seconds", self.reconcile.resync_seconds, 1..=DAY)?;
        within("reconcile.workers", self.reconcile.workers, 1..=1000)?;
        within("reconcile.builds", self.reconcile.builds, 1..=100)?;
        within("reconcile.lease_seconds", self.reconcile.lease_seconds, 5..=600)?;
        within("reconcile.run_wait_hours", self.reconcile.run_wait_hours, 0..=720)?;
        within("build.dockerfile_minutes", self.build.dockerfile_minutes, 5..=480)?;
        within("build.isolated_cpu", self.build.isolated_cpu, 256..=16_384)?;
        within("build.isolated_memory", self.build.isolated_memory, 512..=122_880)?;
        within("build.isolated_disk_gib", self.build.isolated_disk_gib, 20..=200)?;
        within("build.isolated_minutes", self.build.isolated_minutes, 1..=240)?;
        within("build.image_grace_days", self.build.image_grace_days, 1..=3650)?;
        within("build.cache_gib", self.build.cache_gib, 1..=1_000_000)
    }

    fn check_aws(&self) -> Result<(), SettingsError> {
        let aws = &self.aws;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if let Some((_, name)) = aws.cluster.split_once(":cluster/") {
            return fault("aws.cluster", format!("is the ARN of a cluster; set it to the name: {name}"));
        }
        if aws.cluster.is_empty() || aws.cluster.len() > 255 || !aws.cluster.chars().all(plain) {
            let rule = "use 1 to 255 letters, digits, hyphens and underscores";
            return fault("aws.cluster", format!("is not the name of a cluster: `{}`; {rule}", aws.cluster));
        }
        if aws.namespace.rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("local")) {
            let rule = "use a name such as dagster.internal";
            let message = format!("is `{}`, but some resolvers use names below .local for mDNS; {rule}", aws.namespace);
            return fault("aws.namespace", message);
        }
        // A service name and a dot precede it.
        let longest = DNS_NAME - names::LONGEST_SERVICE - 1;
        let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(plain);
        if aws.namespace.len() > longest || !aws.namespace.split('.').all(label) {
            let rule = format!("use a DNS name of at most {longest} characters, such as dagster.internal");
            return fault("aws.namespace", format!("is `{}`; {rule}", aws.namespace));
        }
        for (setting, value, what) in [
            ("aws.bucket", &aws.bucket, "the name of the shared bucket"),
            ("aws.execution_role_arn", &aws.execution_role_arn, "the ARN of the execution role"),
        ] {
            if value.is_empty() {
                return fault(setting, format!("is not set; set it to {what} (docs/aws.md)"));
            }
        }
        if aws.bucket.len() > 63 || aws.bucket.contains(['/', ':']) {
            return fault("aws.bucket", "is not the name of a bucket; remove `s3://` and the prefix");
        }
        for (setting, list) in [("aws.subnets", &aws.subnets), ("aws.security_groups", &aws.security_groups)] {
            if list.is_empty() {
                return fault(setting, "is empty; set it to a list with at least one id");
            }
        }
        let is_arn_of = |arn: &str, kind: &str| arn.starts_with("arn:") && arn.contains(kind) && !arn.ends_with('/');
        if !is_arn_of(&aws.execution_role_arn, ":role/") {
            return fault(
                "aws.execution_role_arn",
                "is not the ARN of a role, such as arn:aws:iam::123456789012:role/dagster-execution",
            );
        }
        if aws.permissions_boundary.as_deref().is_some_and(|arn| !is_arn_of(arn, ":policy/")) {
            return fault(
                "aws.permissions_boundary",
                "is not the ARN of a policy, such as arn:aws:iam::123456789012:policy/codeloc-location",
            );
        }
        let days = aws.log_retention_days;
        if !log_group::RETENTION.contains(&days) {
            let below = log_group::RETENTION.iter().rev().find(|allowed| **allowed < days);
            let above = log_group::RETENTION.iter().find(|allowed| **allowed > days);
            let nearest: Vec<String> = below.into_iter().chain(above).map(ToString::to_string).collect();
            let message =
                format!("is {days}, which CloudWatch does not allow; the nearest allowed: {}", nearest.join(" and "));
            return fault("aws.log_retention_days", message);
        }
        Ok(())
    }

    fn check_dagster(&self) -> Result<(), SettingsError> {
        let dagster = &self.dagster;
        if dagster.secrets.values().any(|arn| !codeloc_crds::is_secret_arn(arn)) {
            // The error does not repeat the value, which may be the secret itself.
            return fault(
                "dagster.secrets",
                "has a value that is not the ARN of a secret or parameter; store the secret in AWS and set its ARN",
            );
        }
        let variables = dagster.environment.iter().chain(&dagster.secrets);
        let size: usize = variables.map(|(name, value)| name.len() + value.len()).sum();
        if size > ENVIRONMENT_BYTES {
            let message = format!(
                "and `dagster.secrets` have {size} bytes together; reduce them to {ENVIRONMENT_BYTES}, to leave room \
                 for the variables of a config"
            );
            return fault("dagster.environment", message);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::settings::fixtures::valid;

    /// The error for valid settings after a change.
    fn error_after(change: impl Fn(&mut Settings)) -> String {
        let mut settings = valid();
        change(&mut settings);
        settings.check().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn complete_settings_are_valid() {
        assert_eq!(error_after(|_| {}), "");
    }

    #[test]
    fn the_source_is_a_folder_or_a_repository() {
        let source = |path: Option<&str>, url: Option<&str>| {
            let mut settings = Settings::default();
            (settings.source.path, settings.source.git_url) = (path.map(Into::into), url.map(str::to_owned));
            settings.check_source().map_or_else(|error| error.to_string(), |()| String::new())
        };
        assert_eq!((source(Some("repos"), None), source(None, Some("https://x"))), (String::new(), String::new()));
        let both = "setting source has both `path` and `git_url`; remove one of them";
        assert_eq!(source(Some("repos"), Some("https://x")), both);
        assert_eq!(source(Some(""), Some("https://x")), both);
        assert_eq!(source(Some(""), None), format!("setting source.path {EMPTY}"));
        assert_eq!(source(None, Some("")), format!("setting source.git_url {EMPTY}"));
        assert!(source(None, None).contains("is not set"));
    }

    #[test]
    fn every_empty_text_is_refused() {
        for leaf in leaves() {
            let mut value = serde_json::to_value(valid()).unwrap();
            let place = value.pointer_mut(&format!("/{}", leaf.path.join("/"))).unwrap();
            *place = "".into();
            // A list, a number or a fixed set of words cannot be empty text.
            let Ok(settings) = serde_json::from_value::<Settings>(value) else { continue };
            let error = settings.check().expect_err(&leaf.path.join(".")).to_string();
            assert!(
                error.starts_with(&format!("setting {}", leaf.path.join("."))) || error.starts_with("setting source"),
                "{error}"
            );
        }
    }

    #[test]
    fn zero_is_invalid_for_intervals_and_counts() {
        type Change = fn(&mut Settings);
        let zeros: [(&str, Change); 11] = [
            ("git.poll_seconds", |settings| settings.git.poll_seconds = 0),
            ("git.timeout_seconds", |settings| settings.git.timeout_seconds = 0),
            ("dagster.timeout_seconds", |settings| settings.dagster.timeout_seconds = 0),
            ("dagster.port", |settings| settings.dagster.port = 0),
            ("reconcile.resync_seconds", |settings| settings.reconcile.resync_seconds = 0),
            ("reconcile.workers", |settings| settings.reconcile.workers = 0),
            ("reconcile.builds", |settings| settings.reconcile.builds = 0),
            ("reconcile.lease_seconds", |settings| settings.reconcile.lease_seconds = 0),
            ("build.image_grace_days", |settings| settings.build.image_grace_days = 0),
            ("build.dockerfile_minutes", |settings| settings.build.dockerfile_minutes = 0),
            ("build.cache_gib", |settings| settings.build.cache_gib = 0),
        ];
        for (setting, change) in zeros {
            let error = error_after(change);
            assert!(error.starts_with(&format!("setting {setting} is 0; set it to ")), "{setting}: {error}");
        }
    }

    /// A new number needs a range, or an entry here if zero is valid.
    #[test]
    fn every_number_has_a_range() {
        let numbers = super::super::leaves().into_iter().filter(|leaf| leaf.default.is_number());
        let unchecked: Vec<String> = numbers
            .map(|leaf| leaf.path.join("."))
            .filter(|name| {
                let mut value = serde_json::to_value(valid()).unwrap();
                let pointer = format!("/{}", name.replace('.', "/"));
                *value.pointer_mut(&pointer).unwrap() = 0.into();
                serde_json::from_value::<Settings>(value).unwrap().check().is_ok()
            })
            .collect();
        // With zero, codeloc deletes nothing without confirmation, and does not wait for runs.
        assert_eq!(unchecked, ["allow_prune", "reconcile.run_wait_hours"]);
    }

    #[test]
    fn an_interval_that_overflows_the_clock_is_invalid() {
        let poll = error_after(|settings| settings.git.poll_seconds = u64::MAX);
        assert!(poll.contains("set it to 1 to 86400"), "{poll}");
        let resync = error_after(|settings| settings.reconcile.resync_seconds = u64::MAX);
        assert!(resync.contains("set it to 1 to 86400"), "{resync}");
        let workers = error_after(|settings| settings.reconcile.workers = usize::MAX);
        assert!(workers.contains("set it to 1 to 1000"), "{workers}");
        let wait = error_after(|settings| settings.reconcile.run_wait_hours = 721);
        assert!(wait.contains("set it to 0 to 720"), "{wait}");
    }

    #[test]
    fn an_invalid_retention_is_reported_with_the_nearest_valid_ones() {
        for days in log_group::RETENTION {
            assert_eq!(error_after(|settings| settings.aws.log_retention_days = days), "");
        }
        let nearest = |days: i32| {
            let error = error_after(|settings| settings.aws.log_retention_days = days);
            error.rsplit("nearest allowed: ").next().unwrap().to_owned()
        };
        assert_eq!(nearest(10), "7 and 14");
        assert_eq!(nearest(0), "1");
        assert_eq!(nearest(-7), "1");
        assert_eq!(nearest(4000), "3653");
    }

    #[test]
    fn a_cluster_must_be_a_name() {
        let check = |cluster: &str| error_after(|settings| settings.aws.cluster = cluster.to_owned());
        assert!(
            check("arn:aws:ecs:eu-central-1:123456789012:cluster/dagster").ends_with("set it to the name: dagster")
        );
        for cluster in ["", "a b", "cluster/dagster", "dagster.", &"a".repeat(256)] {
            assert!(check(cluster).starts_with("setting aws.cluster is not the name of a cluster"), "{cluster}");
        }
        assert_eq!(check("Data_platform-2"), "");
    }

    #[test]
    fn names_that_aws_refuses_are_invalid() {
        for deployment in ["", "-a", "a-", "a--b", "A", "a_b", "aws", "aws-prod", &"a".repeat(21)] {
            let error = error_after(|settings| settings.deployment = deployment.to_owned());
            assert!(error.starts_with("setting deployment"), "{deployment}: {error}");
        }
        for namespace in ["", ".", "a..b", "a b", "dagster.local", &"a".repeat(64), &["a"; 120].join(".")] {
            let error = error_after(|settings| settings.aws.namespace = namespace.to_owned());
            assert!(error.starts_with("setting aws.namespace"), "{namespace}: {error}");
        }
        for bucket in ["", "s3://platform", "platform/prefix", "arn:aws:s3:::platform"] {
            let error = error_after(|settings| settings.aws.bucket = bucket.to_owned());
            assert!(error.starts_with("setting aws.bucket"), "{bucket}: {error}");
        }
        for role in ["", "execution", "arn:aws:iam::123456789012:policy/x", "arn:aws:iam::123456789012:role/"] {
            let error = error_after(|settings| settings.aws.execution_role_arn = role.to_owned());
            assert!(error.starts_with("setting aws.execution_role_arn"), "{role}: {error}");
        }
        let error = error_after(|settings| settings.aws.permissions_boundary = Some("boundary".to_owned()));
        assert!(error.starts_with("setting aws.permissions_boundary"), "{error}");
    }

    #[test]
    fn platform_variables_leave_room_for_variables_of_a_config() {
        let many = (0..300).map(|number| (format!("VARIABLE_{number}"), "x".repeat(30))).collect::<BTreeMap<_, _>>();
        let error = error_after(|settings| settings.dagster.environment = many.clone());
        assert!(error.starts_with("setting dagster.environment"), "{error}");
    }

    #[test]
    fn the_prefix_of_the_controller_is_reserved() {
        let own = names::own_prefix(&valid().deployment);
        assert!(codeloc_crds::is_reserved_prefix(&own), "{own}");
    }
}
