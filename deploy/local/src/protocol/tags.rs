//! Limits of tags, and the error of each service for a violation.
//!
//! <https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html>

use super::api_error::ApiError;
use super::aws_service::AwsService;
use super::fields::Tags;

/// Tags per resource. AWS does not count its own tags; localcloud sets none.
const MAX_TAGS: usize = 50;
const KEY_CHARACTERS: usize = 128;
const VALUE_CHARACTERS: usize = 256;
/// Allowed in keys and values besides letters, digits and spaces of any script.
const SIGNS: &str = "_.:/=+-@";

/// Checks the tags of a new resource.
pub fn check(service: AwsService, tags: &Tags) -> Result<(), ApiError> {
    if tags.len() > MAX_TAGS {
        return Err(too_many(service));
    }
    tags.iter().try_for_each(|(key, value)| check_one(service, key, value))
}

/// Adds tags to a resource: all or, on an error, none.
pub fn add(service: AwsService, tags: &mut Tags, added: Tags) -> Result<(), ApiError> {
    added.iter().try_for_each(|(key, value)| check_one(service, key, value))?;
    let fresh = added.keys().filter(|key| !tags.contains_key(*key)).count();
    if tags.len() + fresh > MAX_TAGS {
        return Err(too_many(service));
    }
    tags.extend(added);
    Ok(())
}

fn check_one(service: AwsService, key: &str, value: &str) -> Result<(), ApiError> {
    let reserved = key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    if reserved {
        let message = "aws: prefixed tag key names are not allowed for external use.";
        // IAM has a separate code: the prefix is no error of the input format.
        return Err(match service {
            AwsService::Iam => ApiError::new("InvalidInput", message),
            _ => invalid(service, message),
        });
    }
    if !(1..=KEY_CHARACTERS).contains(&key.chars().count()) {
        return Err(invalid(service, format!("The tag key '{key}' must have 1 to {KEY_CHARACTERS} characters.")));
    }
    if value.chars().count() > VALUE_CHARACTERS {
        let message = format!("The value of the tag '{key}' must have at most {VALUE_CHARACTERS} characters.");
        return Err(invalid(service, message));
    }
    let legal = |c: char| c.is_alphanumeric() || c.is_whitespace() || SIGNS.contains(c);
    if !key.chars().chain(value.chars()).all(legal) {
        let message = format!("The tag '{key}' may have letters, digits, spaces and {SIGNS}, and nothing else.");
        return Err(invalid(service, message));
    }
    Ok(())
}

fn invalid(service: AwsService, message: impl Into<String>) -> ApiError {
    match service {
        AwsService::Ecr => ApiError::new("InvalidTagParameterException", message),
        _ => ApiError::invalid(message),
    }
}

fn too_many(service: AwsService) -> ApiError {
    let message = format!("A resource has at most {MAX_TAGS} tags.");
    match service {
        AwsService::AutoScaling | AwsService::CloudMap | AwsService::Ecr | AwsService::Logs => {
            ApiError::new("TooManyTagsException", message)
        }
        AwsService::Iam => {
            let message = format!("Cannot exceed quota for TagsPerRole: {MAX_TAGS}");
            ApiError::new("LimitExceeded", message).with_status(409)
        }
        AwsService::CodeBuild | AwsService::Ecs | AwsService::S3 | AwsService::Sts => ApiError::invalid(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn many(count: usize) -> Tags {
        (0..count).map(|number| (format!("key-{number}"), String::new())).collect()
    }

    fn code(service: AwsService, tags: &Tags) -> &'static str {
        check(service, tags).unwrap_err().code.unwrap_or(service.invalid_input())
    }

    #[test]
    fn a_resource_has_at_most_fifty_tags() {
        let mut own = many(50);
        assert_eq!(check(AwsService::Ecs, &own), Ok(()));
        assert_eq!(add(AwsService::Ecs, &mut own, tags(&[("key-7", "other")])), Ok(()));
        assert_eq!(own["key-7"], "other");
        let before = own.clone();
        assert!(add(AwsService::Ecs, &mut own, tags(&[("key-8", "other"), ("key-50", "")])).is_err());
        assert_eq!(own, before, "a refused call changes nothing");
        let codes = [
            AwsService::Ecs,
            AwsService::CloudMap,
            AwsService::AutoScaling,
            AwsService::Ecr,
            AwsService::Logs,
            AwsService::Iam,
        ]
        .map(|service| code(service, &many(51)));
        let own_word = "TooManyTagsException";
        assert_eq!(codes, ["InvalidParameterException", own_word, own_word, own_word, own_word, "LimitExceeded"]);
    }

    #[test]
    fn keys_and_values_have_the_documented_lengths_and_characters() {
        let (longest_key, longest_value) = ("ä".repeat(128), "ü".repeat(256));
        assert_eq!(check(AwsService::Ecs, &tags(&[(&longest_key, &longest_value)])), Ok(()));
        assert_eq!(check(AwsService::Ecs, &tags(&[("team:cost center", "a+b=c@d.e/f_g-h")])), Ok(()));
        let too_long = ("k".repeat(129), "v".repeat(257));
        for (key, value) in
            [(too_long.0.as_str(), ""), ("", ""), ("key", too_long.1.as_str()), ("a*b", ""), ("a", "b;c")]
        {
            assert_eq!(code(AwsService::Ecs, &tags(&[(key, value)])), "InvalidParameterException", "{key} {value}");
        }
    }

    #[test]
    fn the_prefix_aws_is_reserved_in_any_case() {
        for key in ["aws:cloudformation:stack-name", "AWS:x", "Aws:"] {
            assert_eq!(code(AwsService::Ecr, &tags(&[(key, "")])), "InvalidTagParameterException");
            assert_eq!(code(AwsService::Iam, &tags(&[(key, "")])), "InvalidInput");
            assert_eq!(code(AwsService::AutoScaling, &tags(&[(key, "")])), "ValidationException");
        }
        assert_eq!(check(AwsService::Iam, &tags(&[("awsome", "aws:value")])), Ok(()));
    }
}
