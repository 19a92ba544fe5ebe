//! What can be said of settings without network and without the files that they name.

use std::fmt::Display;
use std::ops::RangeInclusive;

use codeloc_core::names;
use codeloc_core::resources::log_group;

use super::{Settings, SettingsError};

/// Seconds of a day: longer intervals are a slip, and sums with them pass the end of the clock.
const DAY: u64 = 24 * 60 * 60;

/// ECS takes 64 KiB for a whole task definition, of which a config may use 48: see `codeloc_crds`.
const ENVIRONMENT_BYTES: usize = 8 * 1024;

/// Longest name in DNS (RFC 1035), as text.
const DNS_NAME: usize = 253;

fn fault<T>(setting: &'static str, message: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError::Value { setting, message: message.into() })
}

fn within<N: Copy + PartialOrd + Display>(
    setting: &'static str,
    value: N,
    range: RangeInclusive<N>,
) -> Result<(), SettingsError> {
    if range.contains(&value) {
        return Ok(());
    }
    fault(setting, format!("is {value}; it must be {} to {}", range.start(), range.end()))
}

impl Settings {
    /// Checks that need neither network nor files. Each error names the setting and what to do.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_deployment()?;
        self.check_numbers()?;
        match (&self.source.path, &self.source.git_url) {
            (Some(_), Some(_)) => {
                return fault("source", "has both `path` and `git_url`; keep the one that holds the configs");
            }
            (None, None) => return fault("source", "needs `path` (a folder) or `git_url` (a repository)"),
            _ => {}
        }
        self.check_aws()?;
        self.check_dagster()?;
        if self.build.codebuild_project.is_some() && self.build.buildah.is_some() {
            return fault(
                "build.buildah",
                "is set, and `build.codebuild_project` too: Dockerfiles are built in one place",
            );
        }
        Ok(())
    }

    fn check_deployment(&self) -> Result<(), SettingsError> {
        let id = &self.deployment;
        let letters = id.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
        // ECR takes no two hyphens together.
        let hyphens = !id.starts_with('-') && !id.ends_with('-') && !id.contains("--");
        if id.is_empty() || id.len() > names::DEPLOYMENT_LENGTH || !letters || !hyphens {
            return fault(
                "deployment",
                "must be 1 to 20 characters out of [a-z0-9-], with single hyphens and none at either end",
            );
        }
        if id == "aws" || id.starts_with("aws-") {
            return fault("deployment", "begins as AWS's own names do; choose one that does not begin with aws");
        }
        Ok(())
    }

    /// Zero would mean a loop without a pause, a time limit that has passed before it begins, or no worker at all.
    fn check_numbers(&self) -> Result<(), SettingsError> {
        within("git.poll_seconds", self.git.poll_seconds, 1..=DAY)?;
        within("git.timeout_seconds", self.git.timeout_seconds, 1..=3600)?;
        within("dagster.timeout_seconds", self.dagster.timeout_seconds, 1..=600)?;
        within("dagster.port", self.dagster.port, 1..=u16::MAX)?;
        within("reconcile.resync_seconds", self.reconcile.resync_seconds, 1..=DAY)?;
        within("reconcile.workers", self.reconcile.workers, 1..=1000)?;
        within("reconcile.builds", self.reconcile.builds, 1..=100)?;
        within("reconcile.lease_seconds", self.reconcile.lease_seconds, 5..=600)?;
        within("build.image_grace_days", self.build.image_grace_days, 1..=3650)?;
        within("build.cache_gib", self.build.cache_gib, 1..=1_000_000)
    }

    fn check_aws(&self) -> Result<(), SettingsError> {
        let aws = &self.aws;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if let Some((_, name)) = aws.cluster.split_once(":cluster/") {
            return fault("aws.cluster", format!("is the ARN of a cluster; write its name: {name}"));
        }
        if aws.cluster.is_empty() || aws.cluster.len() > 255 || !aws.cluster.chars().all(plain) {
            return fault(
                "aws.cluster",
                "is not the name of a cluster: 1 to 255 letters, digits, hyphens and underscores",
            );
        }
        if aws.namespace.rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("local")) {
            return fault(
                "aws.namespace",
                "is below .local, which some resolvers take for mDNS; use a name such as dagster.internal",
            );
        }
        // The location's name and a dot come before it.
        let longest = DNS_NAME - names::LONGEST_SERVICE - 1;
        let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(plain);
        if aws.namespace.len() > longest || !aws.namespace.split('.').all(label) {
            let message = format!(
                "is not the DNS name of a namespace, such as dagster.internal, of at most {longest} characters"
            );
            return fault("aws.namespace", message);
        }
        for (setting, value) in [("aws.bucket", &aws.bucket), ("aws.execution_role_arn", &aws.execution_role_arn)] {
            if value.is_empty() {
                return fault(setting, "is not set; it must name what the deployment's infrastructure made");
            }
        }
        if aws.bucket.len() > 63 || aws.bucket.contains(['/', ':']) {
            return fault("aws.bucket", "is not the name of a bucket; write it without s3:// and without a prefix");
        }
        for (setting, list) in [("aws.subnets", &aws.subnets), ("aws.security_groups", &aws.security_groups)] {
            if list.is_empty() {
                return fault(setting, "is empty; tasks need at least one");
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
            let message = format!(
                "is {days}, and CloudWatch keeps logs for certain numbers of days only; the nearest: {}",
                nearest.join(" and ")
            );
            return fault("aws.log_retention_days", message);
        }
        Ok(())
    }

    fn check_dagster(&self) -> Result<(), SettingsError> {
        let dagster = &self.dagster;
        if dagster.secrets.values().any(|arn| !codeloc_crds::is_secret_arn(arn)) {
            // Not repeated: it may be the secret itself.
            return fault("dagster.secrets", "has a value that is not the ARN of a secret or a parameter");
        }
        let variables = dagster.environment.iter().chain(&dagster.secrets);
        let size: usize = variables.map(|(name, value)| name.len() + value.len()).sum();
        if size > ENVIRONMENT_BYTES {
            let message = format!(
                "and `dagster.secrets` take {size} bytes; a task definition has room for {ENVIRONMENT_BYTES} beside a config's own"
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

    fn good() -> Settings {
        let mut settings = Settings::default();
        settings.source.path = Some("repos".into());
        settings.aws.bucket = "platform".to_owned();
        settings.aws.subnets = vec!["subnet-a".to_owned()];
        settings.aws.security_groups = vec!["sg-a".to_owned()];
        settings.aws.execution_role_arn = "arn:aws:iam::123456789012:role/execution".to_owned();
        settings
    }

    /// What is said of good settings after this change.
    fn said(change: impl Fn(&mut Settings)) -> String {
        let mut settings = good();
        change(&mut settings);
        settings.check().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn settings_that_name_everything_are_good() {
        assert_eq!(said(|_| {}), "");
    }

    #[test]
    fn zero_is_refused_for_each_interval_and_count() {
        type Change = fn(&mut Settings);
        let zeros: [(&str, Change); 10] = [
            ("git.poll_seconds", |settings| settings.git.poll_seconds = 0),
            ("git.timeout_seconds", |settings| settings.git.timeout_seconds = 0),
            ("dagster.timeout_seconds", |settings| settings.dagster.timeout_seconds = 0),
            ("dagster.port", |settings| settings.dagster.port = 0),
            ("reconcile.resync_seconds", |settings| settings.reconcile.resync_seconds = 0),
            ("reconcile.workers", |settings| settings.reconcile.workers = 0),
            ("reconcile.builds", |settings| settings.reconcile.builds = 0),
            ("reconcile.lease_seconds", |settings| settings.reconcile.lease_seconds = 0),
            ("build.image_grace_days", |settings| settings.build.image_grace_days = 0),
            ("build.cache_gib", |settings| settings.build.cache_gib = 0),
        ];
        for (setting, change) in zeros {
            let said = said(change);
            assert!(said.starts_with(&format!("setting {setting} is 0; it must be ")), "{setting}: {said}");
        }
    }

    /// A number setting that is added is checked, or named here with what its zero means.
    #[test]
    fn every_number_among_the_settings_has_a_range() {
        let numbers = super::super::leaves().into_iter().filter(|leaf| leaf.default.is_number());
        let unchecked: Vec<String> = numbers
            .map(|leaf| leaf.path.join("."))
            .filter(|name| {
                let mut value = serde_json::to_value(good()).unwrap();
                let pointer = format!("/{}", name.replace('.', "/"));
                *value.pointer_mut(&pointer).unwrap() = 0.into();
                serde_json::from_value::<Settings>(value).unwrap().check().is_ok()
            })
            .collect();
        // None may be deleted by itself.
        assert_eq!(unchecked, ["allow_prune"]);
    }

    #[test]
    fn an_interval_past_the_end_of_the_clock_is_refused() {
        let poll = said(|settings| settings.git.poll_seconds = u64::MAX);
        assert!(poll.contains("it must be 1 to 86400"), "{poll}");
        let resync = said(|settings| settings.reconcile.resync_seconds = u64::MAX);
        assert!(resync.contains("it must be 1 to 86400"), "{resync}");
        let workers = said(|settings| settings.reconcile.workers = usize::MAX);
        assert!(workers.contains("it must be 1 to 1000"), "{workers}");
    }

    #[test]
    fn a_retention_that_cloudwatch_has_not_is_refused_with_the_nearest() {
        for days in log_group::RETENTION {
            assert_eq!(said(|settings| settings.aws.log_retention_days = days), "");
        }
        let nearest = |days: i32| {
            let said = said(|settings| settings.aws.log_retention_days = days);
            said.rsplit("nearest: ").next().unwrap().to_owned()
        };
        assert_eq!(nearest(10), "7 and 14");
        assert_eq!(nearest(0), "1");
        assert_eq!(nearest(-7), "1");
        assert_eq!(nearest(4000), "3653");
    }

    #[test]
    fn a_cluster_is_given_by_its_name() {
        let of = |cluster: &str| said(|settings| settings.aws.cluster = cluster.to_owned());
        assert!(of("arn:aws:ecs:eu-central-1:123456789012:cluster/dagster").ends_with("write its name: dagster"));
        for cluster in ["", "a b", "cluster/dagster", "dagster.", &"a".repeat(256)] {
            assert!(of(cluster).starts_with("setting aws.cluster is not the name of a cluster"), "{cluster}");
        }
        assert_eq!(of("Data_platform-2"), "");
    }

    #[test]
    fn names_that_aws_would_refuse_are_refused() {
        for deployment in ["", "-a", "a-", "a--b", "A", "a_b", "aws", "aws-prod", &"a".repeat(21)] {
            let said = said(|settings| settings.deployment = deployment.to_owned());
            assert!(said.starts_with("setting deployment"), "{deployment}: {said}");
        }
        for namespace in ["", ".", "a..b", "a b", "dagster.local", &"a".repeat(64), &["a"; 120].join(".")] {
            let said = said(|settings| settings.aws.namespace = namespace.to_owned());
            assert!(said.starts_with("setting aws.namespace"), "{namespace}: {said}");
        }
        for bucket in ["", "s3://platform", "platform/prefix", "arn:aws:s3:::platform"] {
            let said = said(|settings| settings.aws.bucket = bucket.to_owned());
            assert!(said.starts_with("setting aws.bucket"), "{bucket}: {said}");
        }
        for role in ["", "execution", "arn:aws:iam::123456789012:policy/x", "arn:aws:iam::123456789012:role/"] {
            let said = said(|settings| settings.aws.execution_role_arn = role.to_owned());
            assert!(said.starts_with("setting aws.execution_role_arn"), "{role}: {said}");
        }
        let said = said(|settings| settings.aws.permissions_boundary = Some("boundary".to_owned()));
        assert!(said.starts_with("setting aws.permissions_boundary"), "{said}");
    }

    #[test]
    fn the_platforms_variables_leave_room_for_a_configs() {
        let many = (0..300).map(|number| (format!("VARIABLE_{number}"), "x".repeat(30))).collect::<BTreeMap<_, _>>();
        let said = said(|settings| settings.dagster.environment = many.clone());
        assert!(said.starts_with("setting dagster.environment"), "{said}");
    }

    #[test]
    fn what_the_controller_keeps_in_the_bucket_is_no_locations() {
        let own = names::own_prefix(&good().deployment);
        assert!(codeloc_crds::is_reserved_prefix(&own), "{own}");
    }
}
