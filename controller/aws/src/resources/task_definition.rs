//! Observe: `ListTaskDefinitions`, then one `DescribeTaskDefinition` for each new revision. Only the tags of a revision can change;
//! they are read again in turns. Registering is not idempotent in AWS: the planner reuses an equal active revision.

mod unmanaged;

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::operation::list_task_definitions::ListTaskDefinitionsOutput;
use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, CpuArchitecture, HealthCheck as SdkHealthCheck, KeyValuePair, LogConfiguration,
    LogDriver, NetworkMode, OsFamily, PortMapping, RuntimePlatform, Secret, SortOrder, Tag, TaskDefinition,
    TaskDefinitionFamilyStatus, TaskDefinitionField, TaskDefinitionStatus, TransportProtocol,
};
use codeloc_core::ids::Arn;
use codeloc_core::names;
use codeloc_core::resources::task_definition::{Change, Content, HealthCheck, Observed};
use codeloc_core::shared::Shared;
use codeloc_core::tags::{TagChange, Tags};
use codeloc_crds::{Architecture, LocationName};

use crate::error::{CallError, Class};
use crate::scope::Scope;
use crate::session::Session;
use unmanaged::unmanaged_settings;

/// The active definitions of one location, each kind newest first.
#[derive(Debug, Default)]
pub struct Definitions {
    pub servers: Vec<Shared<Observed>>,
    pub runs: Vec<Shared<Observed>>,
}

/// Observes the definitions of code servers and of runs: AWS lists them together.
pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<LocationName, Definitions>, CallError> {
    let prefix = names::task_family_prefix(&session.deployment.id);
    match scope {
        Scope::All => read_next_page(session, &prefix).await?,
        Scope::One(name) => {
            read_family(session, &format!("{prefix}{name}")).await?;
            read_families(session, &names::run_family_prefix(&session.deployment.id, name)).await?;
        }
    }
    let mut found: BTreeMap<LocationName, Definitions> = BTreeMap::new();
    let state = session.cache.lock();
    let name = match scope {
        Scope::All => "",
        Scope::One(name) => name.as_str(),
    };
    for (key, observed) in state.definitions.starting_with(&format!("{prefix}{name}")) {
        let Some((location, run)) = location_of(key, &prefix) else { continue };
        if scope.contains(&location) {
            let definitions = found.entry(location).or_default();
            let revisions = if run.is_some() { &mut definitions.runs } else { &mut definitions.servers };
            revisions.push(observed.clone());
        }
    }
    for definitions in found.values_mut() {
        for revisions in [&mut definitions.servers, &mut definitions.runs] {
            revisions.sort_by_key(|observed| std::cmp::Reverse(observed.number));
        }
    }
    Ok(found)
}

/// Reads all families with a prefix. A cached family is not read: its content cannot change, and a sweep notices its deletion.
async fn read_families(session: Session<'_>, prefix: &str) -> Result<(), CallError> {
    let mut token = None;
    loop {
        let request = session
            .clients
            .ecs
            .list_task_definition_families()
            .family_prefix(prefix)
            .status(TaskDefinitionFamilyStatus::Active)
            .max_results(100)
            .set_next_token(token);
        let answer = session.call("ecs:ListTaskDefinitionFamilies", request.send()).await?;
        for family in answer.families() {
            let remembered = session.cache.lock().definitions.starting_with(&format!("{family}:")).next().is_some();
            if !remembered {
                read_family(session, family).await?;
            }
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(());
        }
    }
}

/// Reads the next page of all definitions, or all pages if none is cached.
async fn read_next_page(session: Session<'_>, prefix: &str) -> Result<(), CallError> {
    loop {
        let (requested, token) = session.cache.lock().definitions.request();
        let continued = token.is_some();
        let answer = match list(session, None, token).await {
            // A token expires after a while.
            Err(error) if continued && error.class == Class::Terminal => {
                session.cache.lock().definitions.restart();
                continue;
            }
            answer => answer?,
        };
        let mut found = Vec::new();
        for key in answer.task_definition_arns().iter().filter_map(|arn| key(arn)) {
            if location_of(key, prefix).is_some()
                && let Some(observed) = describe(session, key).await?
            {
                found.push((key.to_owned(), observed));
            }
        }
        let next = answer.next_token().map(str::to_owned);
        let missing = session.cache.lock().definitions.page(requested, found, next);
        for key in missing {
            describe_again(session, &key).await?;
        }
        if session.cache.lock().definitions.is_whole() {
            return Ok(());
        }
    }
}

/// Reads one family. A list may be out of date: a definition in only one of list and cache is read by name.
async fn read_family(session: Session<'_>, family: &str) -> Result<(), CallError> {
    let mut listed = BTreeSet::new();
    let mut token = None;
    loop {
        let answer = list(session, Some(family), token).await?;
        let keys = answer.task_definition_arns().iter().filter_map(|arn| key(arn));
        listed.extend(keys.filter(|key| family_of(key) == Some(family)).map(str::to_owned));
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    let remembered: BTreeSet<String> = {
        let state = session.cache.lock();
        state.definitions.starting_with(&format!("{family}:")).map(|(key, _)| key.clone()).collect()
    };
    for key in listed.symmetric_difference(&remembered) {
        describe_again(session, key).await?;
    }
    Ok(())
}

async fn list(
    session: Session<'_>,
    family: Option<&str>,
    token: Option<String>,
) -> Result<ListTaskDefinitionsOutput, CallError> {
    let request = session
        .clients
        .ecs
        .list_task_definitions()
        .set_family_prefix(family.map(str::to_owned))
        .status(TaskDefinitionStatus::Active)
        .sort(SortOrder::Desc)
        .max_results(100)
        .set_next_token(token);
    session.call("ecs:ListTaskDefinitions", request.send()).await
}

/// `FAMILY:NUMBER` of `arn:…:task-definition/FAMILY:NUMBER`: AWS accepts it instead of the ARN, and it sorts by family.
fn key(arn: &str) -> Option<&str> {
    arn.rsplit_once('/').map(|(_, key)| key)
}

fn family_of(key: &str) -> Option<&str> {
    key.rsplit_once(':').map(|(family, _)| family)
}

/// The location of a key, and the hash of a run definition.
fn location_of<'k>(key: &'k str, prefix: &str) -> Option<(LocationName, Option<&'k str>)> {
    names::location_of_family(family_of(key)?.strip_prefix(prefix)?)
}

async fn describe(session: Session<'_>, key: &str) -> Result<Option<Shared<Observed>>, CallError> {
    let remembered = session.cache.lock().definitions.known().get(key).cloned();
    if remembered.is_some() && !session.cache.take_turn(key) {
        return Ok(remembered);
    }
    describe_again(session, key).await
}

/// Reads a definition from AWS and caches it, unless codeloc changes it meanwhile. An inactive one is `None`.
async fn describe_again(session: Session<'_>, key: &str) -> Result<Option<Shared<Observed>>, CallError> {
    let requested = session.cache.lock().definitions.now();
    let request =
        session.clients.ecs.describe_task_definition().task_definition(key).include(TaskDefinitionField::Tags);
    let observed = match session.call("ecs:DescribeTaskDefinition", request.send()).await {
        Ok(answer) => answer
            .task_definition()
            .filter(|definition| definition.status() != Some(&TaskDefinitionStatus::Inactive))
            .map(|definition| observed(definition, from_tags(answer.tags())).into()),
        // Deregistered and deleted between the two calls.
        Err(error) if error.is(&["ClientException"]) => None,
        Err(error) => return Err(error),
    };
    let mut state = session.cache.lock();
    state.definitions.read(requested, key.to_owned(), observed);
    Ok(state.definitions.known().get(key).cloned())
}

fn observed(definition: &TaskDefinition, tags: Tags) -> Observed {
    Observed {
        arn: definition.task_definition_arn().unwrap_or_default().into(),
        number: definition.revision(),
        content: read(definition),
        foreign: unmanaged_settings(definition),
        tags: tags.into(),
    }
}

fn from_tags(tags: &[Tag]) -> Tags {
    tags.iter()
        .map(|tag| (tag.key().unwrap_or_default().to_owned(), tag.value().unwrap_or_default().to_owned()))
        .collect()
}

pub(crate) fn tag_list(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// The content of a task definition, or `None` if a part of it is missing.
fn read(definition: &TaskDefinition) -> Option<Content> {
    let container = definition.container_definitions().first()?;
    let log = container.log_configuration()?.options()?;
    let port = match container.port_mappings() {
        [] => None,
        [mapping] => Some(u16::try_from(mapping.container_port()?).ok()?),
        _ => return None,
    };
    let health_check = match container.health_check() {
        None => None,
        Some(health) => Some(HealthCheck {
            command: health.command().to_vec(),
            interval: health.interval()?,
            timeout: health.timeout()?,
            retries: health.retries()?,
            start_period: health.start_period()?,
        }),
    };
    let architecture = match definition.runtime_platform()?.cpu_architecture()? {
        CpuArchitecture::Arm64 => Architecture::Arm64,
        CpuArchitecture::X8664 => Architecture::X86_64,
        _ => return None,
    };
    let environment = container
        .environment()
        .iter()
        .map(|pair| (pair.name().unwrap_or_default().to_owned(), pair.value().unwrap_or_default().to_owned()));
    Some(Content {
        cpu: definition.cpu()?.to_owned(),
        memory: definition.memory()?.to_owned(),
        architecture,
        task_role_arn: definition.task_role_arn()?.into(),
        execution_role_arn: definition.execution_role_arn()?.into(),
        image: container.image()?.to_owned(),
        command: container.command().to_vec(),
        environment: environment.collect(),
        secrets: container
            .secrets()
            .iter()
            .map(|secret| (secret.name().to_owned(), secret.value_from().to_owned()))
            .collect(),
        container: container.name()?.to_owned(),
        port,
        log_group: log.get("awslogs-group")?.clone(),
        log_region: log.get("awslogs-region")?.clone(),
        log_stream_prefix: log.get("awslogs-stream-prefix")?.clone(),
        health_check,
        stop_timeout: container.stop_timeout()?,
    })
}

fn container(content: &Content) -> Result<ContainerDefinition, CallError> {
    let health = content.health_check.as_ref().map(health_check).transpose()?;
    let port = content
        .port
        .map(|port| PortMapping::builder().container_port(i32::from(port)).protocol(TransportProtocol::Tcp).build());
    let log = LogConfiguration::builder()
        .log_driver(LogDriver::Awslogs)
        .options("awslogs-group", &content.log_group)
        .options("awslogs-region", &content.log_region)
        .options("awslogs-stream-prefix", &content.log_stream_prefix)
        .build()
        .map_err(|_| CallError::malformed("ecs:RegisterTaskDefinition", "log driver"))?;
    let environment =
        content.environment.iter().map(|(name, value)| KeyValuePair::builder().name(name).value(value).build());
    let secrets = content
        .secrets
        .iter()
        .map(|(name, value_from)| Secret::builder().name(name).value_from(value_from).build())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CallError::malformed("ecs:RegisterTaskDefinition", "secret"))?;
    Ok(ContainerDefinition::builder()
        .name(&content.container)
        .image(&content.image)
        .essential(true)
        .set_command(Some(content.command.clone()))
        .set_environment(Some(environment.collect()))
        .set_secrets((!secrets.is_empty()).then_some(secrets))
        .set_port_mappings(port.map(|port| vec![port]))
        .log_configuration(log)
        .set_health_check(health)
        .stop_timeout(content.stop_timeout)
        .build())
}

fn health_check(check: &HealthCheck) -> Result<SdkHealthCheck, CallError> {
    SdkHealthCheck::builder()
        .set_command(Some(check.command.clone()))
        .interval(check.interval)
        .timeout(check.timeout)
        .retries(check.retries)
        .start_period(check.start_period)
        .build()
        .map_err(|_| CallError::malformed("ecs:RegisterTaskDefinition", "health check command"))
}

/// Changes the tags of anything in ECS.
pub(crate) async fn change_tags(session: Session<'_>, arn: &Arn, tags: &TagChange) -> Result<(), CallError> {
    let ecs = &session.clients.ecs;
    if !tags.remove.is_empty() {
        let keys = tags.remove.iter().cloned().collect();
        let request = ecs.untag_resource().resource_arn(arn).set_tag_keys(Some(keys));
        session.call("ecs:UntagResource", request.send()).await?;
    }
    if !tags.set.is_empty() {
        let request = ecs.tag_resource().resource_arn(arn).set_tags(Some(tag_list(&tags.set)));
        session.call("ecs:TagResource", request.send()).await?;
    }
    Ok(())
}

pub(crate) async fn tag(session: Session<'_>, arn: &Arn, tags: &TagChange) -> Result<(), CallError> {
    change_tags(session, arn, tags).await?;
    let remembered = key(arn).and_then(|key| session.cache.lock().definitions.known().get(key).cloned());
    if let Some(mut observed) = remembered {
        tags.apply(&mut observed.tags);
        remember(session, arn, Some(observed));
    }
    Ok(())
}

/// Caches the result of an own change.
fn remember(session: Session<'_>, arn: &Arn, observed: Option<Shared<Observed>>) {
    if let Some(key) = key(arn) {
        session.cache.lock().definitions.update(key.to_owned(), observed);
    }
}

/// The most throttled attempts of one registration. After that, the next reconciliation continues and reports it in the status.
const MAX_THROTTLED: u32 = 8;

const REGISTER_OPERATION: &str = "ecs:RegisterTaskDefinition";

/// Returns the new revision, so that later steps of the same plan can refer to it.
pub(crate) async fn register(
    session: Session<'_>,
    family: &str,
    content: &Content,
    tags: Tags,
) -> Result<Shared<Observed>, CallError> {
    let architecture = match content.architecture {
        Architecture::Arm64 => CpuArchitecture::Arm64,
        Architecture::X86_64 => CpuArchitecture::X8664,
    };
    let request = session
        .clients
        .ecs
        .register_task_definition()
        .family(family)
        .requires_compatibilities(Compatibility::Fargate)
        .network_mode(NetworkMode::Awsvpc)
        .cpu(&content.cpu)
        .memory(&content.memory)
        .task_role_arn(&content.task_role_arn)
        .execution_role_arn(&content.execution_role_arn)
        .runtime_platform(
            RuntimePlatform::builder().cpu_architecture(architecture).operating_system_family(OsFamily::Linux).build(),
        )
        .container_definitions(container(content)?)
        .set_tags(Some(tag_list(&tags)));
    // No blind retry: a call whose answer was lost may have registered a revision, and AWS would register a second one.
    // The next observation finds it.
    let once = || aws_sdk_ecs::config::Config::builder().retry_config(RetryConfig::disabled());
    let mut throttled = 0;
    let answer = loop {
        match session.call(REGISTER_OPERATION, request.clone().customize().config_override(once()).send()).await {
            // AWS answered that it throttled the call, so it registered nothing: wait for the next turn.
            Err(error) if error.class == Class::Throttled && !error.code.is_empty() && throttled < MAX_THROTTLED => {
                throttled += 1;
            }
            answer => break answer?,
        }
    };
    let definition =
        answer.task_definition().ok_or_else(|| CallError::malformed(REGISTER_OPERATION, "task definition"))?;
    definition.task_definition_arn().ok_or_else(|| CallError::malformed(REGISTER_OPERATION, "ARN"))?;
    let observed: Shared<Observed> = observed(definition, tags).into();
    remember(session, &observed.arn, Some(observed.clone()));
    Ok(observed)
}

/// A registration also sets `observed`, the new revision first, so that later steps of the same plan can refer to it.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Vec<Shared<Observed>>,
) -> Result<(), CallError> {
    match change {
        Change::Register { desired, attempt, .. } => {
            let content = desired
                .content
                .as_ref()
                .ok_or_else(|| CallError::malformed(REGISTER_OPERATION, "image: the build has not finished"))?;
            let mut tags = desired.tags.clone();
            tags.extend(attempt.tags());
            observed.insert(0, register(session, &desired.family, content, tags).await?);
            Ok(())
        }
        Change::Attempt { arn, attempt, .. } => tag(session, arn, &attempt.tags().into()).await,
        Change::Tag { arn, tags } => tag(session, arn, tags).await,
        Change::Deregister { arn } => deregister(session, arn).await,
    }
}

pub(crate) async fn deregister(session: Session<'_>, arn: &Arn) -> Result<(), CallError> {
    let request = session.clients.ecs.deregister_task_definition().task_definition(arn);
    match session.call("ecs:DeregisterTaskDefinition", request.send()).await {
        // ECS answers with a ClientException if it is inactive already.
        Err(error) if error.class != Class::Terminal || !error.is(&["ClientException"]) => return Err(error),
        _ => remember(session, arn, None),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            cpu: "256".to_owned(),
            memory: "512".to_owned(),
            architecture: Architecture::Arm64,
            task_role_arn: "arn:role".into(),
            execution_role_arn: "arn:execution-role".into(),
            image: "repository@sha256:0".to_owned(),
            command: vec!["dagster".to_owned()],
            environment: [("A".to_owned(), "b".to_owned())].into_iter().collect(),
            secrets: [("S".to_owned(), "arn:secret".to_owned())].into_iter().collect(),
            container: "code".to_owned(),
            port: Some(4000),
            log_group: "/codeloc/locations/orders".to_owned(),
            log_region: "eu-central-1".to_owned(),
            log_stream_prefix: "r1".to_owned(),
            health_check: Some(HealthCheck {
                command: vec!["CMD".to_owned(), "true".to_owned()],
                interval: 5,
                timeout: 4,
                retries: 3,
                start_period: 60,
            }),
            stop_timeout: 30,
        }
    }

    fn definition(content: &Content) -> TaskDefinition {
        TaskDefinition::builder()
            .cpu(&content.cpu)
            .memory(&content.memory)
            .task_role_arn(&content.task_role_arn)
            .execution_role_arn(&content.execution_role_arn)
            .runtime_platform(RuntimePlatform::builder().cpu_architecture(CpuArchitecture::Arm64).build())
            .container_definitions(container(content).unwrap())
            .build()
    }

    #[test]
    fn a_container_reads_back_as_it_was_written() {
        assert_eq!(read(&definition(&content())), Some(content()));
        let of_run = Content { port: None, health_check: None, ..content() };
        assert_eq!(read(&definition(&of_run)), Some(of_run));
    }

    #[test]
    fn a_definition_with_missing_parts_has_no_content() {
        assert_eq!(read(&TaskDefinition::builder().build()), None);
    }

    #[test]
    fn a_key_is_the_end_of_an_arn() {
        let key = key("arn:aws:ecs:eu-central-1:1:task-definition/codeloc-orders:7");
        assert_eq!(key, Some("codeloc-orders:7"));
        assert_eq!(key.and_then(family_of), Some("codeloc-orders"));
        assert_eq!(family_of("codeloc-orders"), None);
    }
}
