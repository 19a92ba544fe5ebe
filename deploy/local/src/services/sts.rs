//! STS: every caller is the same user of the account.

use serde_json::{Value, json};

use crate::model::Cloud;
use crate::protocol::api_error::Reply;
use crate::protocol::aws_service::AwsService;

pub fn run(cloud: &mut Cloud, operation: &str, _input: &Value) -> Reply {
    let account = &cloud.rules.account;
    match operation {
        "GetCallerIdentity" => Ok(json!({
            "Arn": format!("arn:aws:iam::{account}:user/localcloud"),
            "UserId": "AIDALOCALCLOUD000000",
            "Account": account,
        })),
        _ => Err(AwsService::Sts.unknown(operation)),
    }
}
