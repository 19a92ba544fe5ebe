//! Settings for unit tests.

use super::Settings;

/// Settings that pass every check.
pub fn valid() -> Settings {
    let mut settings = Settings::default();
    settings.source.path = Some("repos".into());
    settings.aws.bucket = "platform".to_owned();
    settings.aws.subnets = vec!["subnet-a".to_owned()];
    settings.aws.security_groups = vec!["sg-a".to_owned()];
    settings.aws.execution_role_arn = "arn:aws:iam::123456789012:role/execution".to_owned();
    settings
}
