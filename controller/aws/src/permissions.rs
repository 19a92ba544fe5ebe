//! Asks IAM which actions a principal may call.

use aws_sdk_iam::types::{ContextEntry, ContextKeyTypeEnum, PolicyEvaluationDecisionType};

use codeloc_core::ids::Arn;

use crate::clients::Clients;
use crate::error::CallError;
use crate::lookup::Identity;
use crate::session::call;

/// The ARN to simulate for: the role of an assumed-role session, since the session's own ARN lacks the path of the role.
pub async fn principal(clients: &Clients, identity: &Identity) -> Result<Arn, CallError> {
    let Some(name) = assumed_role(&identity.arn) else { return Ok(identity.arn.clone()) };
    let answer = call("iam:GetRole", clients.iam.get_role().role_name(name).send()).await?;
    Ok(answer.role().map_or_else(|| identity.arn.clone(), |role| role.arn().into()))
}

/// The name of the role behind the ARN of an assumed-role session.
fn assumed_role(arn: &str) -> Option<&str> {
    let (_, session) = arn.split_once(":assumed-role/")?;
    session.split('/').next()
}

/// Returns the actions that IAM does not allow on `resource`. `context` are condition keys and their values.
pub async fn simulate(
    clients: &Clients,
    principal: &Arn,
    resource: &str,
    actions: &[&str],
    context: &[(&str, &str)],
) -> Result<Vec<String>, CallError> {
    let context = context.iter().map(|(key, value)| {
        ContextEntry::builder()
            .context_key_name(*key)
            .context_key_type(ContextKeyTypeEnum::String)
            .context_key_values(*value)
            .build()
    });
    let request = clients
        .iam
        .simulate_principal_policy()
        .policy_source_arn(principal)
        .resource_arns(resource)
        .set_action_names(Some(actions.iter().map(ToString::to_string).collect()))
        .set_context_entries(Some(context.collect()))
        .max_items(1000);
    let answer = call("iam:SimulatePrincipalPolicy", request.send()).await?;
    let denied = answer
        .evaluation_results()
        .iter()
        .filter(|result| *result.eval_decision() != PolicyEvaluationDecisionType::Allowed);
    Ok(denied.map(|result| result.eval_action_name().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_names_its_role() {
        assert_eq!(assumed_role("arn:aws:sts::1:assumed-role/codeloc/task-1"), Some("codeloc"));
        assert_eq!(assumed_role("arn:aws:iam::1:user/ada"), None);
    }
}
