//! Tags and names that AWS refuses.

use std::time::Duration;

use localcloud::Rules;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Answer, Harness, TRUST, capacity, policy, refused, text};

/// Creates one resource of each kind with these tags.
fn make_with_tags(harness: &Harness, tags: &[(String, String)]) -> [(&'static str, Answer); 8] {
    let pairs =
        |key: &str, value: &str| -> Value { tags.iter().map(|(name, text)| json!({key: name, value: text})).collect() };
    let map: Value =
        tags.iter().map(|(name, text)| (name.clone(), json!(text))).collect::<serde_json::Map<_, _>>().into();
    let (lower, upper) = (pairs("key", "value"), pairs("Key", "Value"));
    let mut role =
        vec![("RoleName".to_owned(), "r".to_owned()), ("AssumeRolePolicyDocument".to_owned(), TRUST.to_owned())];
    for (number, (name, text)) in tags.iter().enumerate() {
        role.push((format!("Tags.member.{}.Key", number + 1), name.clone()));
        role.push((format!("Tags.member.{}.Value", number + 1), text.clone()));
    }
    let role: Vec<(&str, &str)> = role.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let container = json!({"name": "server", "image": "app:1"});
    let mut target = capacity();
    target["Tags"] = map.clone();
    let namespace = json!({"Name": "tagged.internal", "Vpc": "vpc-1", "Tags": upper});
    [
        ("ecs cluster", harness.ecs("CreateCluster", json!({"clusterName": "tagged", "tags": lower}))),
        (
            "ecs definition",
            harness.ecs(
                "RegisterTaskDefinition",
                json!({"family": "t", "containerDefinitions": [container], "tags": lower}),
            ),
        ),
        ("ecs service", harness.create_service("tagged", json!({"tags": lower}))),
        ("cloud map", harness.discovery("CreatePrivateDnsNamespace", namespace)),
        ("ecr", harness.ecr("CreateRepository", json!({"repositoryName": "tagged", "tags": upper}))),
        ("logs", harness.logs("CreateLogGroup", json!({"logGroupName": "/tagged", "tags": map}))),
        ("scaling", harness.scaling("RegisterScalableTarget", "known", target)),
        ("iam", harness.iam("CreateRole", &role)),
    ]
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_with_tags_that_aws_refuses() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    harness.create_service("known", json!({})).unwrap();
    let many =
        |count: usize| (0..count).map(|number| (format!("key-{number}"), "value".to_owned())).collect::<Vec<_>>();
    let codes = |tags: &[(String, String)]| make_with_tags(&harness, tags).map(|(_, answer)| answer.unwrap_err());
    let (ecs, map) = ("InvalidParameterException", "InvalidInput");
    assert_eq!(
        codes(&many(51)),
        [ecs, ecs, ecs, "TooManyTagsException", "TooManyTagsException", ecs, "ValidationException", "LimitExceeded"]
    );
    let (tag, validation) = ("InvalidTagParameterException", "ValidationException");
    assert_eq!(
        codes(&[("aws:owner".to_owned(), "me".to_owned())]),
        [ecs, ecs, ecs, map, tag, ecs, validation, "InvalidInput"]
    );
    for unfit in
        [("k".repeat(129), "v".to_owned()), ("k".to_owned(), "v".repeat(257)), ("k;".to_owned(), String::new())]
    {
        assert_eq!(codes(&[unfit]), [ecs, ecs, ecs, map, tag, ecs, validation, "ValidationError"]);
    }
    for (what, made) in make_with_tags(&harness, &many(50)) {
        assert!(made.is_ok(), "{what}: {made:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_tag_is_added_that_aws_refuses() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    harness.create_service("known", json!({})).unwrap();
    for (what, made) in make_with_tags(&harness, &[]) {
        assert!(made.is_ok(), "{what}: {made:?}");
    }
    sleep(Duration::from_secs(1)).await;
    let namespace = text(&harness.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"][0]["Arn"]);
    let target = harness.scaling("DescribeScalableTargets", "known", json!({})).unwrap();
    let target = text(&target["ScalableTargets"][0]["ScalableTargetARN"]);
    let add = |count: usize| {
        let names = (0..count).map(|number| format!("key-{number}")).collect::<Vec<_>>();
        let lower: Value = names.iter().map(|name| json!({"key": name, "value": ""})).collect();
        let upper: Value = names.iter().map(|name| json!({"Key": name, "Value": ""})).collect();
        let map: Value = names.iter().map(|name| (name.clone(), json!(""))).collect::<serde_json::Map<_, _>>().into();
        let arn = |service: &str, rest: &str| format!("arn:aws:{service}:eu-central-1:123456789012:{rest}");
        let fields: Vec<(String, &str)> = (1..=count)
            .zip(&names)
            .map(|(number, name)| (format!("Tags.member.{number}.Key"), name.as_str()))
            .collect();
        let role: Vec<(&str, &str)> =
            [("RoleName", "r")].into_iter().chain(fields.iter().map(|(field, name)| (field.as_str(), *name))).collect();
        [
            harness.ecs("TagResource", json!({"resourceArn": arn("ecs", "service/main/tagged"), "tags": lower})),
            harness.discovery("TagResource", json!({"ResourceARN": namespace, "Tags": upper})),
            harness.ecr("TagResource", json!({"resourceArn": arn("ecr", "repository/tagged"), "tags": upper})),
            harness.logs("TagResource", json!({"resourceArn": arn("logs", "log-group:/tagged"), "tags": map})),
            harness.scaling("TagResource", "known", json!({"ResourceARN": target, "Tags": map})),
            harness.iam("TagRole", &role),
        ]
    };
    assert!(add(50).iter().all(Result::is_ok));
    assert!(add(50).iter().all(Result::is_ok), "the same keys again");
    let many = "TooManyTagsException";
    assert_eq!(add(51).map(Result::unwrap_err), ["InvalidParameterException", many, many, many, many, "LimitExceeded"]);
}

#[tokio::test(start_paused = true)]
async fn names_that_aws_does_not_take_are_refused() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    harness.create_service("app", json!({})).unwrap();
    harness.create_role("task").unwrap();
    harness.logs("CreateLogGroup", json!({"logGroupName": "/app"})).unwrap();
    let namespace = harness.namespace().await;
    harness.registry(&namespace, "app");
    harness.scaling("RegisterScalableTarget", "app", capacity()).unwrap();
    let long = |length: usize| "n".repeat(length);
    let put_role_policy = |name: &str| {
        let document = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
        harness.iam("PutRolePolicy", &[("RoleName", "task"), ("PolicyName", name), ("PolicyDocument", document)])
    };
    let parameter = refused("InvalidParameterException");
    for name in [long(256), "a.b".to_owned(), "a b".to_owned()] {
        assert_eq!(harness.ecs("CreateCluster", json!({"clusterName": name})), parameter, "{name}");
        assert_eq!(harness.create_service(&name, json!({})), parameter, "{name}");
        let definition = json!({"family": name, "containerDefinitions": [{"name": "server", "image": "i"}]});
        assert_eq!(harness.ecs("RegisterTaskDefinition", definition), refused("ClientException"), "{name}");
    }
    for name in [long(513), "a b".to_owned(), "aws/lambda".to_owned()] {
        assert_eq!(harness.logs("CreateLogGroup", json!({"logGroupName": name})), parameter, "{name}");
    }
    for name in [long(513), "a:b".to_owned(), "a*".to_owned()] {
        let stream = json!({"logGroupName": "/app", "logStreamName": name});
        assert_eq!(harness.logs("CreateLogStream", stream), parameter, "{name}");
    }
    for name in [long(257), "Upper".to_owned(), "a".to_owned(), "a//b".to_owned()] {
        assert_eq!(harness.ecr("CreateRepository", json!({"repositoryName": name})), parameter, "{name}");
    }
    for name in [long(65), "a/b".to_owned()] {
        assert_eq!(harness.create_role(&name), refused("ValidationError"), "{name}");
    }
    for name in [long(129), "a/b".to_owned()] {
        assert_eq!(put_role_policy(&name), refused("ValidationError"), "{name}");
    }
    assert_eq!(harness.scaling("PutScalingPolicy", "app", policy(&long(257), "CPU")), refused("ValidationException"));
    let create = |name: &str| {
        let dns = json!({"DnsRecords": [{"Type": "A", "TTL": 10}]});
        harness.discovery("CreateService", json!({"Name": name, "NamespaceId": namespace, "DnsConfig": dns}))
    };
    assert_eq!(create(&long(64)), refused("InvalidInput"));
    assert_eq!(create("APP"), refused("ServiceAlreadyExists"), "DNS does not tell upper from lower case");
}
