//! Observe: `ListTaskDefinitions`, then one `DescribeTaskDefinition` for each revision not seen before; a revision never
//! changes, but for its tags, which are read again in turns. Registering is not idempotent in AWS: the planner looks for an equal live revision first.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::operation::list_task_definitions::ListTaskDefinitionsOutput;
use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, CpuArchitecture, HealthCheck as SdkHealthCheck, KeyValuePair, LogConfiguration,
    LogDriver, NetworkMode, OsFamily, PortMapping, RuntimePlatform, SortOrder, Tag, TaskDefinition,
    TaskDefinitionField, TaskDefinitionStatus, TransportProtocol,
};
use codeloc_crds::Architecture;

use super::foreign::foreign;
use super::{Attempt, CONTAINER, Change, Content, HealthCheck, Live, Want};
use crate::kinds::aws::{CallError, Class, Scope, Session, in_scope};
use crate::kinds::names;
use crate::kinds::tags::{self, Tags};

pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<String, Vec<Live>>, CallError> {
    let prefix = names::task_family_prefix(&session.place.deployment);
    match scope {
        Scope::All => read_on(session, &prefix).await?,
        Scope::One(name) => read_family(session, &format!("{prefix}{name}")).await?,
    }
    let mut found: BTreeMap<String, Vec<Live>> = BTreeMap::new();
    let state = session.cache.lock();
    let wanted = match scope {
        Scope::All => "",
        Scope::One(name) => name,
    };
    for (key, live) in state.definitions.starting_with(&format!("{prefix}{wanted}")) {
        if let Some(repository) = family_of(key).and_then(|family| in_scope(scope, &prefix, family)) {
            found.entry(repository.to_owned()).or_default().push(live.clone());
        }
    }
    for revisions in found.values_mut() {
        revisions.sort_by_key(|live| std::cmp::Reverse(live.number));
    }
    Ok(found)
}

/// Reads the next page of all there are; all of them where nothing is remembered.
async fn read_on(session: Session<'_>, prefix: &str) -> Result<(), CallError> {
    loop {
        let (asked, token) = session.cache.lock().definitions.ask();
        let goes_on = token.is_some();
        let answer = match list(session, None, token).await {
            // Tokens are good for a while only.
            Err(error) if goes_on && error.class == Class::Terminal => {
                session.cache.lock().definitions.restart();
                continue;
            }
            answer => answer?,
        };
        let mut found = Vec::new();
        for key in answer.task_definition_arns().iter().filter_map(|arn| key(arn)) {
            if family_of(key).is_some_and(|family| in_scope(Scope::All, prefix, family).is_some())
                && let Some(live) = describe(session, key).await?
            {
                found.push((key.to_owned(), live));
            }
        }
        let next = answer.next_token().map(str::to_owned);
        let missing = session.cache.lock().definitions.page(asked, found, next);
        for key in missing {
            describe_afresh(session, &key).await?;
        }
        if session.cache.lock().definitions.is_whole() {
            return Ok(());
        }
    }
}

/// Reads one family. A list that came a moment too late is not believed of what it lacks.
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
        describe_afresh(session, key).await?;
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

/// `FAMILY:NUMBER` of `arn:…:task-definition/FAMILY:NUMBER`: what AWS takes in place of the whole, and sorts by family.
fn key(arn: &str) -> Option<&str> {
    arn.rsplit_once('/').map(|(_, key)| key)
}

fn family_of(key: &str) -> Option<&str> {
    key.rsplit_once(':').map(|(family, _)| family)
}

async fn describe(session: Session<'_>, key: &str) -> Result<Option<Live>, CallError> {
    let remembered = session.cache.lock().definitions.known().get(key).cloned();
    if remembered.is_some() && !session.cache.has_its_turn(key) {
        return Ok(remembered);
    }
    describe_afresh(session, key).await
}

/// What AWS says of it now, remembered. One that is inactive is none.
async fn describe_afresh(session: Session<'_>, key: &str) -> Result<Option<Live>, CallError> {
    let request =
        session.clients.ecs.describe_task_definition().task_definition(key).include(TaskDefinitionField::Tags);
    let live = match session.call("ecs:DescribeTaskDefinition", request.send()).await {
        Ok(answer) => answer
            .task_definition()
            .filter(|definition| definition.status() != Some(&TaskDefinitionStatus::Inactive))
            .map(|definition| live(definition, from_tags(answer.tags()))),
        // Deregistered and deleted between the two calls.
        Err(error) if error.is(&["ClientException"]) => None,
        Err(error) => return Err(error),
    };
    session.cache.lock().definitions.tell(key.to_owned(), live.clone());
    Ok(live)
}

fn live(definition: &TaskDefinition, tags: Tags) -> Live {
    Live {
        arn: definition.task_definition_arn().unwrap_or_default().to_owned(),
        number: definition.revision(),
        content: read(definition),
        foreign: foreign(definition),
        tags,
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

/// What a task definition says in our words, or `None` where it does not say all of it.
fn read(definition: &TaskDefinition) -> Option<Content> {
    let container = definition.container_definitions().first()?;
    let log = container.log_configuration()?.options()?;
    let health = container.health_check()?;
    let [mapping] = container.port_mappings() else { return None };
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
        task_role_arn: definition.task_role_arn()?.to_owned(),
        execution_role_arn: definition.execution_role_arn()?.to_owned(),
        image: container.image()?.to_owned(),
        command: container.command().to_vec(),
        environment: environment.collect(),
        port: u16::try_from(mapping.container_port()?).ok()?,
        log_group: log.get("awslogs-group")?.clone(),
        log_region: log.get("awslogs-region")?.clone(),
        log_stream_prefix: log.get("awslogs-stream-prefix")?.clone(),
        health_check: HealthCheck {
            command: health.command().to_vec(),
            interval: health.interval()?,
            timeout: health.timeout()?,
            retries: health.retries()?,
            start_period: health.start_period()?,
        },
        stop_timeout: container.stop_timeout()?,
    })
}

fn container(content: &Content) -> Result<ContainerDefinition, CallError> {
    let health = SdkHealthCheck::builder()
        .set_command(Some(content.health_check.command.clone()))
        .interval(content.health_check.interval)
        .timeout(content.health_check.timeout)
        .retries(content.health_check.retries)
        .start_period(content.health_check.start_period)
        .build()
        .map_err(|_| CallError::malformed("ecs:RegisterTaskDefinition", "health check command"))?;
    let log = LogConfiguration::builder()
        .log_driver(LogDriver::Awslogs)
        .options("awslogs-group", &content.log_group)
        .options("awslogs-region", &content.log_region)
        .options("awslogs-stream-prefix", &content.log_stream_prefix)
        .build()
        .map_err(|_| CallError::malformed("ecs:RegisterTaskDefinition", "log driver"))?;
    let environment =
        content.environment.iter().map(|(name, value)| KeyValuePair::builder().name(name).value(value).build());
    Ok(ContainerDefinition::builder()
        .name(CONTAINER)
        .image(&content.image)
        .essential(true)
        .set_command(Some(content.command.clone()))
        .set_environment(Some(environment.collect()))
        .port_mappings(
            PortMapping::builder().container_port(i32::from(content.port)).protocol(TransportProtocol::Tcp).build(),
        )
        .log_configuration(log)
        .health_check(health)
        .stop_timeout(content.stop_timeout)
        .build())
}

async fn tag(session: Session<'_>, arn: &str, tags: &Tags) -> Result<(), CallError> {
    let request = session.clients.ecs.tag_resource().resource_arn(arn).set_tags(Some(tag_list(tags)));
    session.call("ecs:TagResource", request.send()).await?;
    let remembered = key(arn).and_then(|key| session.cache.lock().definitions.known().get(key).cloned());
    if let Some(mut live) = remembered {
        live.tags.extend(tags.clone());
        remember(session, arn, Some(live));
    }
    Ok(())
}

/// What a change of our own made of it.
fn remember(session: Session<'_>, arn: &str, live: Option<Live>) {
    if let Some(key) = key(arn) {
        session.cache.lock().definitions.tell(key.to_owned(), live);
    }
}

/// A registration that is refused for its rate so often is left to the next pass, which says so in the status.
const REFUSED_AT_MOST: u32 = 8;

/// Returns the new revision, so that later steps of the same plan can name it.
async fn register(session: Session<'_>, want: &Want, attempt: &Attempt) -> Result<Live, CallError> {
    const OPERATION: &str = "ecs:RegisterTaskDefinition";
    let Some(content) = &want.content else {
        return Err(CallError::malformed(OPERATION, "image: it is not built yet"));
    };
    let mut tags = want.tags.clone();
    tags.insert(tags::ATTEMPT.to_owned(), attempt.to_string());
    let architecture = match content.architecture {
        Architecture::Arm64 => CpuArchitecture::Arm64,
        Architecture::X86_64 => CpuArchitecture::X8664,
    };
    let request = session
        .clients
        .ecs
        .register_task_definition()
        .family(&want.family)
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
    // Never tried again blindly: a call whose answer was lost may have registered a revision, and AWS would make a second one.
    // The next observation finds it.
    let once = || aws_sdk_ecs::config::Config::builder().retry_config(RetryConfig::disabled());
    let mut refused = 0;
    let answer = loop {
        match session.call(OPERATION, request.clone().customize().config_override(once()).send()).await {
            // Refused for its rate, in so many words: so nothing was registered, and its turn comes again.
            Err(error) if error.class == Class::Throttled && !error.code.is_empty() && refused < REFUSED_AT_MOST => {
                refused += 1;
            }
            answer => break answer?,
        }
    };
    let definition = answer.task_definition().ok_or_else(|| CallError::malformed(OPERATION, "task definition"))?;
    let arn = definition.task_definition_arn().ok_or_else(|| CallError::malformed(OPERATION, "ARN"))?;
    let live = live(definition, tags);
    remember(session, arn, Some(live.clone()));
    Ok(live)
}

/// A registration also tells what is `live` then, the new revision first, so that later steps of the same plan can name it.
pub async fn apply(session: Session<'_>, change: &Change, live: &mut Vec<Live>) -> Result<(), CallError> {
    match change {
        Change::Register { want, attempt, .. } => {
            let registered = register(session, want, attempt).await?;
            live.insert(0, registered);
            Ok(())
        }
        Change::Attempt { arn, attempt, .. } => {
            tag(session, arn, &Tags::from([(tags::ATTEMPT.to_owned(), attempt.to_string())])).await
        }
        Change::Tag { arn, tags } => tag(session, arn, tags).await,
        Change::Deregister { arn } => {
            let request = session.clients.ecs.deregister_task_definition().task_definition(arn);
            match session.call("ecs:DeregisterTaskDefinition", request.send()).await {
                // Already inactive: ECS says so by a ClientException.
                Err(error) if error.class != Class::Terminal || !error.is(&["ClientException"]) => return Err(error),
                _ => remember(session, arn, None),
            }
            Ok(())
        }
    }
}
