//! A cloud and requests to it as on the wire; answers, or the codes of errors.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use localcloud::{LocalCloud, Rules, Settings};
use serde_json::{Value, json};
use tokio::time::sleep;

pub const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
pub const DIMENSION: &str = "ecs:service:DesiredCount";

pub struct Harness {
    pub cloud: LocalCloud,
}

/// An answer, or the code of an error.
pub type Answer = Result<Value, String>;

impl Harness {
    pub fn new(rules: Rules) -> Self {
        Self { cloud: LocalCloud::start(Settings { rules, ..Settings::default() }) }
    }

    pub fn send(&self, request: &Request<Bytes>) -> Answer {
        let answer = self.cloud.call(request);
        match answer.refused {
            Some(code) => Err(code),
            None => Ok(serde_json::from_slice(answer.response.body()).unwrap_or_default()),
        }
    }

    pub fn ask_as(&self, caller: &str, target: &str, input: &Value) -> Answer {
        let signature = format!("AWS4-HMAC-SHA256 Credential={caller}/20260101/eu-central-1/any/aws4_request");
        let request = Request::post("/").header("x-amz-target", target).header("authorization", signature);
        self.send(&request.body(Bytes::from(input.to_string())).unwrap())
    }

    pub fn ecs(&self, operation: &str, input: Value) -> Answer {
        self.ask_as("test", &format!("AmazonEC2ContainerServiceV20141113.{operation}"), &input)
    }

    pub fn discovery(&self, operation: &str, input: Value) -> Answer {
        self.ask_as("test", &format!("Route53AutoNaming_v20170314.{operation}"), &input)
    }

    pub fn ecr(&self, operation: &str, input: Value) -> Answer {
        self.ask_as("test", &format!("AmazonEC2ContainerRegistry_V20150921.{operation}"), &input)
    }

    pub fn logs(&self, operation: &str, input: Value) -> Answer {
        self.ask_as("test", &format!("Logs_20140328.{operation}"), &input)
    }

    /// Calls Application Auto Scaling for a service, with additional fields.
    pub fn scaling_as(&self, caller: &str, operation: &str, service: &str, more: Value) -> Answer {
        let mut input = json!({
            "ServiceNamespace": "ecs",
            "ScalableDimension": DIMENSION,
            "ResourceId": format!("service/main/{service}"),
        });
        for (field, value) in more.as_object().unwrap() {
            input[field] = value.clone();
        }
        self.ask_as(caller, &format!("AnyScaleFrontendService.{operation}"), &input)
    }

    pub fn scaling(&self, operation: &str, service: &str, more: Value) -> Answer {
        self.scaling_as("test", operation, service, more)
    }

    pub fn iam(&self, operation: &str, fields: &[(&str, &str)]) -> Answer {
        let mut body = format!("Action={operation}&Version=2010-05-08");
        for (name, value) in fields {
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            let _ = write!(body, "&{name}={value}");
        }
        let request = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
        self.send(&request.body(Bytes::from(body)).unwrap())
    }

    pub fn create_role(&self, name: &str) -> Answer {
        self.iam("CreateRole", &[("RoleName", name), ("AssumeRolePolicyDocument", TRUST)])
    }

    /// Creates a cluster, and the task definition `app` with one container of this image.
    pub fn prepare(&self, image: &str) {
        self.ecs("CreateCluster", json!({"clusterName": "main"})).unwrap();
        let container = json!({"name": "server", "image": image, "healthCheck": {"command": ["CMD", "true"]}});
        self.ecs("RegisterTaskDefinition", json!({"family": "app", "containerDefinitions": [container]})).unwrap();
    }

    pub fn create_service(&self, name: &str, more: Value) -> Answer {
        let mut input = json!({
            "cluster": "main",
            "serviceName": name,
            "taskDefinition": "app",
            "desiredCount": 1,
            "deploymentConfiguration": {"deploymentCircuitBreaker": {"enable": true, "rollback": true}},
        });
        for (field, value) in more.as_object().unwrap() {
            input[field] = value.clone();
        }
        self.ecs("CreateService", input)
    }

    pub fn service(&self, name: &str) -> Value {
        let described = self.ecs("DescribeServices", json!({"cluster": "main", "services": [name]}));
        described.unwrap()["services"][0].clone()
    }

    /// The tasks with a desired status, stopped ones latest first.
    pub fn tasks(&self, status: &str) -> Vec<Value> {
        let listed = self.ecs("ListTasks", json!({"cluster": "main", "desiredStatus": status})).unwrap();
        if listed["taskArns"].as_array().unwrap().is_empty() {
            return Vec::new();
        }
        let described = self.ecs("DescribeTasks", json!({"cluster": "main", "tasks": listed["taskArns"]})).unwrap();
        described["tasks"].as_array().unwrap().clone()
    }

    pub async fn namespace(&self) -> String {
        self.discovery("CreatePrivateDnsNamespace", json!({"Name": "dagster.internal", "Vpc": "vpc-1"})).unwrap();
        sleep(Duration::from_secs(1)).await;
        text(&self.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"][0]["Id"])
    }

    pub fn registry(&self, namespace: &str, name: &str) -> Value {
        let records = json!({"DnsRecords": [{"Type": "A", "TTL": 10}]});
        let input = json!({"Name": name, "NamespaceId": namespace, "DnsConfig": records});
        self.discovery("CreateService", input).unwrap()["Service"].clone()
    }

    pub fn instances(&self, registry: &Value) -> Vec<String> {
        let listed = self.discovery("ListInstances", json!({"ServiceId": registry["Id"]})).unwrap();
        listed["Instances"].as_array().unwrap().iter().map(|instance| text(&instance["Id"])).collect()
    }

    pub fn deregister(&self, registry: &Value, instance: &str) {
        let input = json!({"ServiceId": registry["Id"], "InstanceId": instance});
        self.discovery("DeregisterInstance", input).unwrap();
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub fn refused(code: &str) -> Answer {
    Err(code.to_owned())
}

pub fn policy(name: &str, metric: &str) -> Value {
    let metric = json!({"PredefinedMetricType": format!("ECSServiceAverage{metric}Utilization")});
    let configuration = json!({"TargetValue": 70.0, "PredefinedMetricSpecification": metric});
    json!({"PolicyName": name, "PolicyType": "TargetTrackingScaling", "TargetTrackingScalingPolicyConfiguration": configuration})
}

pub fn capacity() -> Value {
    json!({"MinCapacity": 1, "MaxCapacity": 2})
}
