//! The calls of one sweep as the SDK makes them, with nothing done about their answers: less than that no controller takes that asks AWS through it.

use aws_sdk_applicationautoscaling::types::ServiceNamespace;
use aws_sdk_ecs::types::{ServiceField, SortOrder, TaskDefinitionStatus};
use aws_sdk_iam::types::EntityType;
use aws_sdk_servicediscovery::types::{FilterCondition, ServiceFilter, ServiceFilterName};
use codeloc::kinds::aws::Clients;
use codeloc::kinds::place::Place;
use codeloc::kinds::role::aws::PAGE;
use codeloc::kinds::scaling::aws as policies;

pub async fn sweep(clients: &Clients, place: &Place, locations: usize) {
    tokio::join!(
        services(clients, place),
        registries(clients, place),
        log_groups(clients),
        scaling(clients, locations),
        roles(clients),
        repositories(clients),
        definitions(clients),
    );
}

async fn services(clients: &Clients, place: &Place) {
    let (mut names, mut token): (Vec<String>, _) = (vec![], None);
    loop {
        let request = clients.ecs.list_services().cluster(&place.cluster).max_results(100).set_next_token(token);
        let answer = request.send().await.expect("services are listed");
        names.extend(answer.service_arns().iter().filter_map(|arn| arn.rsplit('/').next()).map(str::to_owned));
        token = answer.next_token;
        if token.is_none() {
            break;
        }
    }
    for ten in names.chunks(10) {
        let request = clients.ecs.describe_services().cluster(&place.cluster).set_services(Some(ten.to_vec()));
        request.include(ServiceField::Tags).send().await.expect("services are described");
    }
}

async fn registries(clients: &Clients, place: &Place) {
    let filter = ServiceFilter::builder().name(ServiceFilterName::NamespaceId).condition(FilterCondition::Eq);
    let filter = filter.values(&place.namespace_id).build().expect("a filter");
    let mut token = None;
    loop {
        let request = clients.discovery.list_services().filters(filter.clone()).max_results(100).set_next_token(token);
        token = request.send().await.expect("registries are listed").next_token;
        if token.is_none() {
            return;
        }
    }
}

async fn log_groups(clients: &Clients) {
    let mut token = None;
    loop {
        let request = clients.logs.describe_log_groups().limit(50).set_next_token(token);
        token = request.send().await.expect("log groups are listed").next_token;
        if token.is_none() {
            return;
        }
    }
}

async fn scaling(clients: &Clients, locations: usize) {
    let mut token = None;
    loop {
        let request = clients.scaling.describe_scalable_targets().service_namespace(ServiceNamespace::Ecs);
        let answer = request.max_results(50).set_next_token(token).send().await.expect("targets are listed");
        token = answer.next_token;
        if token.is_none() {
            break;
        }
    }
    for _ in 0..policies::pages(locations) {
        let request = clients.scaling.describe_scaling_policies().service_namespace(ServiceNamespace::Ecs);
        let answer = request.max_results(10).set_next_token(token).send().await.expect("policies are listed");
        token = answer.next_token;
        if token.is_none() {
            break;
        }
    }
}

async fn roles(clients: &Clients) {
    let mut marker = None;
    loop {
        let request = clients.iam.get_account_authorization_details().filter(EntityType::Role).max_items(PAGE);
        marker = request.set_marker(marker).send().await.expect("roles are listed").marker;
        if marker.is_none() {
            return;
        }
    }
}

async fn repositories(clients: &Clients) {
    let mut token = None;
    loop {
        let request = clients.ecr.describe_repositories().max_results(1000).set_next_token(token);
        token = request.send().await.expect("repositories are listed").next_token;
        if token.is_none() {
            return;
        }
    }
}

/// Of task definitions a sweep reads what is new: in a fleet at rest, one page.
async fn definitions(clients: &Clients) {
    let request = clients.ecs.list_task_definitions().status(TaskDefinitionStatus::Active).max_results(100);
    request.sort(SortOrder::Desc).send().await.expect("task definitions are listed");
}
