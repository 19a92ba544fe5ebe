//! The names of AWS operations, as IAM policies write them: `service:Operation`.

/// Whether an operation changes anything, judged by its verb.
pub fn mutates(operation: &str) -> bool {
    const READS: [&str; 6] = ["BatchGet", "Describe", "Filter", "Get", "Head", "List"];
    let name = operation.split_once(':').map_or(operation, |(_, name)| name);
    !READS.iter().any(|verb| name.starts_with(verb))
}

/// The service of an operation.
pub fn service(operation: &'static str) -> &'static str {
    operation.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_known_by_their_verb() {
        for operation in ["ecs:DescribeServices", "ecr:BatchGetImage", "s3:HeadObject", "iam:GetRole", "ListServices"] {
            assert!(!mutates(operation), "{operation}");
        }
        // An operation with an unknown verb counts as a change: the fence then guards it.
        for operation in ["ecs:UpdateService", "ecr:BatchDeleteImage", "iam:PassRole", "s3:PutObject", "ecs:Unknown"] {
            assert!(mutates(operation), "{operation}");
        }
    }

    #[test]
    fn the_service_is_the_part_before_the_colon() {
        assert_eq!(service("ecs:ListServices"), "ecs");
    }
}
