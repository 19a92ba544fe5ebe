//! Requests of the location `orders` and their expected answers. `orders-2` and `order` have similar names; some roles may read `billing`
//! and write `shared/exports`.

use super::evaluator::Question;

#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// The role of code server and runs without grants.
    Code,
    /// The same with `access: {read: [repos/billing], write: [repos/shared/exports]}`.
    Granted,
    /// The execution role of a location with two secrets.
    Execution,
}

#[derive(Debug)]
pub struct Answer {
    pub who: Who,
    action: &'static str,
    resource: &'static str,
    prefix: Option<&'static str>,
    pub allowed: bool,
}

impl Answer {
    pub fn asked(&self) -> Question {
        let Self { action, resource, prefix, .. } = self;
        Question { action: (*action).to_owned(), resource: (*resource).to_owned(), prefix: prefix.map(str::to_owned) }
    }
}

const fn of(who: Who, action: &'static str, resource: &'static str, allowed: bool) -> Answer {
    Answer { who, action, resource, prefix: None, allowed }
}

const fn list(who: Who, prefix: Option<&'static str>, allowed: bool) -> Answer {
    Answer { who, action: "s3:ListBucket", resource: "arn:aws:s3:::platform", prefix, allowed }
}

use Who::{Code, Execution, Granted};

pub const QUESTIONS: &[Answer] = &[
    // The prefix of the location.
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/repos/orders/assets/a", true),
    of(Code, "s3:PutObject", "arn:aws:s3:::platform/repos/orders/assets/a", true),
    of(Code, "s3:DeleteObject", "arn:aws:s3:::platform/repos/orders/logs/a/b", true),
    of(Code, "s3:AbortMultipartUpload", "arn:aws:s3:::platform/repos/orders/assets/a", true),
    of(Code, "s3:ListMultipartUploadParts", "arn:aws:s3:::platform/repos/orders/assets/a", true),
    list(Code, Some("repos/orders/"), true),
    list(Code, Some("repos/orders/assets/2026"), true),
    // Every location may read this.
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/repos/shared/a", true),
    of(Code, "s3:PutObject", "arn:aws:s3:::platform/repos/shared/a", false),
    of(Code, "s3:DeleteObject", "arn:aws:s3:::platform/repos/shared/a", false),
    list(Code, Some("repos/shared/"), true),
    // Other locations, and names with the same beginning.
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/repos/billing/a", false),
    of(Code, "s3:PutObject", "arn:aws:s3:::platform/repos/billing/a", false),
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/repos/orders-2/a", false),
    of(Code, "s3:PutObject", "arn:aws:s3:::platform/repos/orders-2/a", false),
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/repos/order/a", false),
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/repos/sharedx/a", false),
    of(Code, "s3:GetObject", "arn:aws:s3:::platform/system/a", false),
    of(Code, "s3:GetObject", "arn:aws:s3:::another/repos/orders/a", false),
    list(Code, Some("repos/orders-2/"), false),
    list(Code, Some("repos/orders"), false),
    list(Code, Some("repos/"), false),
    list(Code, Some(""), false),
    list(Code, None, false),
    // Other actions.
    of(Code, "s3:DeleteBucket", "arn:aws:s3:::platform", false),
    of(Code, "s3:PutBucketPolicy", "arn:aws:s3:::platform", false),
    of(Code, "s3:PutObjectAcl", "arn:aws:s3:::platform/repos/orders/a", false),
    of(Code, "iam:PassRole", "arn:aws:iam::123456789012:role/codeloc/codeloc-billing", false),
    of(Code, "sts:AssumeRole", "arn:aws:iam::123456789012:role/codeloc/codeloc-billing", false),
    of(Code, "ecs:RunTask", "arn:aws:ecs:eu-central-1:123456789012:task-definition/codeloc-billing:1", false),
    of(
        Code,
        "secretsmanager:GetSecretValue",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders/db-a1b2c3",
        false,
    ),
    // Grants.
    of(Granted, "s3:GetObject", "arn:aws:s3:::platform/repos/billing/a", true),
    of(Granted, "s3:PutObject", "arn:aws:s3:::platform/repos/billing/a", false),
    of(Granted, "s3:GetObject", "arn:aws:s3:::platform/repos/billing-2/a", false),
    list(Granted, Some("repos/billing/"), true),
    of(Granted, "s3:PutObject", "arn:aws:s3:::platform/repos/shared/exports/a", true),
    of(Granted, "s3:PutObject", "arn:aws:s3:::platform/repos/shared/exports-2/a", false),
    of(Granted, "s3:PutObject", "arn:aws:s3:::platform/repos/shared/a", false),
    // The execution role.
    of(
        Execution,
        "secretsmanager:GetSecretValue",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders/db-a1b2c3",
        true,
    ),
    of(
        Execution,
        "secretsmanager:GetSecretValue",
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:billing/db-a1b2c3",
        false,
    ),
    of(Execution, "ssm:GetParameters", "arn:aws:ssm:eu-central-1:123456789012:parameter/orders/token", true),
    of(Execution, "ssm:GetParameters", "arn:aws:ssm:eu-central-1:123456789012:parameter/orders/token2", false),
    of(Execution, "ecr:BatchGetImage", "arn:aws:ecr:eu-central-1:123456789012:repository/codeloc/orders", true),
    of(Execution, "ecr:BatchGetImage", "arn:aws:ecr:eu-central-1:123456789012:repository/codeloc/billing", false),
    of(Execution, "ecr:PutImage", "arn:aws:ecr:eu-central-1:123456789012:repository/codeloc/orders", false),
    of(
        Execution,
        "logs:PutLogEvents",
        "arn:aws:logs:eu-central-1:123456789012:log-group:/codeloc/locations/orders:log-stream:a/b/c",
        true,
    ),
    of(
        Execution,
        "logs:PutLogEvents",
        "arn:aws:logs:eu-central-1:123456789012:log-group:/codeloc/locations/orders-2:log-stream:a/b/c",
        false,
    ),
    of(Execution, "s3:GetObject", "arn:aws:s3:::platform/repos/orders/a", false),
];
