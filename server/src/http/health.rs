//! `/v1/health/*`.

use api::reply::ServiceEntry;
use catalog::Row;
use catalog::query::{HealthEntry, check, service as services};
use model::filter::HealthRow;
use model::{Check, CheckStatus};

use super::Reply;
use super::catalog::{indexed, selection};
use super::filter::Filter;
use super::near::Near;
use super::read::{Read, json, list};
use crate::watch::Answer;

fn entry(entry: HealthEntry<'_>) -> api::reply::ServiceEntryRef<'_> {
    ServiceEntry {
        node: indexed(entry.node),
        service: indexed(entry.service),
        checks: entry.checks.into_iter().map(indexed).collect(),
    }
}

fn entries(filter: &Filter, near: &Near, found: Vec<HealthEntry<'_>>, pretty: bool) -> Answer {
    let is_wanted = |entry: &HealthEntry<'_>| {
        if filter.is_any() {
            return true;
        }
        let checks: Vec<&Check> = entry.checks.iter().map(|row| &row.value).collect();
        filter.wants()(&HealthRow { node: &entry.node.value, service: &entry.service.value, checks: &checks })
    };
    let rows = found.into_iter().filter(is_wanted);
    list(near.first(rows, |entry| &entry.node.name).into_iter().map(entry), pretty)
}

fn checks_list(filter: &Filter, near: &Near, rows: Vec<&Row<Check>>, pretty: bool) -> Answer {
    let wanted = filter.wants::<Check>();
    let rows = rows.into_iter().filter(|row| wanted(&row.value));
    list(near.first(rows, |row| &row.node).into_iter().map(indexed), pretty)
}

pub(super) async fn service(read: Read) -> Reply {
    let (name, selection, filter) =
        (read.path.after("/v1/health/service/"), selection(&read), read.filter::<HealthRow<'_>>()?);
    let near = Near::of(&read);
    read.answer(move |view, pretty| entries(&filter, &near, services::health(view, &name, &selection), pretty)).await
}

pub(super) async fn connect(read: Read) -> Reply {
    let (name, selection, filter) =
        (read.path.after("/v1/health/connect/"), selection(&read), read.filter::<HealthRow<'_>>()?);
    let near = Near::of(&read);
    read.answer(move |view, pretty| entries(&filter, &near, services::health_connect(view, &name, &selection), pretty))
        .await
}

/// Ingress gateways are not configured here yet, so none serves anything.
pub(super) async fn ingress(read: Read) -> Reply {
    read.answer(|_, pretty| json::<[(); 0]>(&[], pretty)).await
}

pub(super) async fn node(read: Read) -> Reply {
    let (name, filter, near) = (read.path.after("/v1/health/node/"), read.filter::<Check>()?, Near::of(&read));
    read.answer(move |view, pretty| checks_list(&filter, &near, check::of_node(view, &name), pretty)).await
}

pub(super) async fn checks(read: Read) -> Reply {
    let (name, meta, filter) =
        (read.path.after("/v1/health/checks/"), read.options.node_meta.clone(), read.filter::<Check>()?);
    let near = Near::of(&read);
    read.answer(move |view, pretty| checks_list(&filter, &near, check::of_service(view, &name, &meta), pretty)).await
}

pub(super) async fn state(read: Read) -> Reply {
    let (name, meta, filter) =
        (read.path.after("/v1/health/state/"), read.options.node_meta.clone(), read.filter::<Check>()?);
    let status = match name.as_str() {
        "any" => None,
        // An unknown state matches no check, as in Consul.
        name => match name.parse::<CheckStatus>() {
            Ok(status) => Some(status),
            Err(_) => return read.answer(|_, pretty| json::<[(); 0]>(&[], pretty)).await,
        },
    };
    let near = Near::of(&read);
    read.answer(move |view, pretty| checks_list(&filter, &near, check::in_state(view, status, &meta), pretty)).await
}
