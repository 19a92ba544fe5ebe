//! The calls of one sweep by the SDK alone, without processing: the lower bound of CPU for a controller that uses the SDK.

use std::fmt::Debug;

use aws_sdk_applicationautoscaling::types::ServiceNamespace;
use aws_sdk_ecs::types::{ServiceField, SortOrder, TaskDefinitionStatus};
use aws_sdk_iam::types::EntityType;
use aws_sdk_servicediscovery::types::{FilterCondition, ServiceFilter, ServiceFilterName};
use aws_smithy_async::future::pagination_stream::PaginationStream;
use codeloc_aws::Clients;
use codeloc_aws::resources::role::PAGE;
use codeloc_aws::resources::scaling::pages;
use codeloc_core::deployment::Deployment;

pub async fn sweep(clients: &Clients, deployment: &Deployment, locations: usize) {
    tokio::join!(
        services(clients, deployment),
        registries(clients, deployment),
        log_groups(clients),
        scaling(clients, locations),
        roles(clients),
        repositories(clients),
        definitions(clients),
    );
}

async fn services(clients: &Clients, deployment: &Deployment) {
    let mut names: Vec<String> = vec![];
    let mut pages = clients.ecs.list_services().cluster(&deployment.cluster).max_results(100).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.expect("services are listed");
        names.extend(page.service_arns().iter().filter_map(|arn| arn.rsplit('/').next()).map(str::to_owned));
    }
    for ten in names.chunks(10) {
        let request = clients.ecs.describe_services().cluster(&deployment.cluster).set_services(Some(ten.to_vec()));
        request.include(ServiceField::Tags).send().await.expect("services are described");
    }
}

async fn registries(clients: &Clients, deployment: &Deployment) {
    let filter = ServiceFilter::builder().name(ServiceFilterName::NamespaceId).condition(FilterCondition::Eq);
    let filter = filter.values(&deployment.namespace_id).build().expect("a filter");
    read(clients.discovery.list_services().filters(filter).max_results(100).into_paginator().send(), usize::MAX).await;
}

async fn log_groups(clients: &Clients) {
    read(clients.logs.describe_log_groups().limit(50).into_paginator().send(), usize::MAX).await;
}

async fn scaling(clients: &Clients, locations: usize) {
    let targets = clients.scaling.describe_scalable_targets().service_namespace(ServiceNamespace::Ecs);
    read(targets.max_results(50).into_paginator().send(), usize::MAX).await;
    let policies = clients.scaling.describe_scaling_policies().service_namespace(ServiceNamespace::Ecs);
    read(policies.max_results(10).into_paginator().send(), pages(locations)).await;
}

async fn roles(clients: &Clients) {
    let roles = clients.iam.get_account_authorization_details().filter(EntityType::Role).max_items(PAGE);
    read(roles.into_paginator().send(), usize::MAX).await;
}

async fn repositories(clients: &Clients) {
    read(clients.ecr.describe_repositories().max_results(1000).into_paginator().send(), usize::MAX).await;
}

/// A sweep reads only new task definitions: one page if nothing changed.
async fn definitions(clients: &Clients) {
    let definitions = clients.ecs.list_task_definitions().status(TaskDefinitionStatus::Active).max_results(100);
    read(definitions.sort(SortOrder::Desc).into_paginator().send(), 1).await;
}

/// Reads at most `most` pages.
async fn read<T, E: Debug>(mut pages: PaginationStream<Result<T, E>>, most: usize) {
    let mut read = 0;
    while read < most
        && let Some(page) = pages.next().await
    {
        page.expect("a page is read");
        read += 1;
    }
}
