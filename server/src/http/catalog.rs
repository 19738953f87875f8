//! `/v1/catalog/*`.

use api::catalog::{Deregister, Register};
use api::reply::{CatalogService, Indexed, NodeServices};
use axum::extract::State;
use axum::response::Response;
use catalog::query::{Placed, Selection, datacenter, node as nodes_query, service as services_query};
use catalog::{Command, Deregistration, Registration, Row};
use model::filter::CatalogRow;
use model::{Node, ServiceInstance};
use std::collections::{BTreeMap, BTreeSet};

use super::filter::Filter;
use super::near::Near;
use super::read::{Read, json, list, plain_json};
use super::write::Write;
use super::{Refusal, Reply, Shared};
use crate::watch::Answer;

/// A row with its indexes, as the API shows it.
pub(super) fn indexed<T>(row: &Row<T>) -> Indexed<&T> {
    Indexed::new(&row.value, row.create_index, row.modify_index)
}

/// What the options select. Health endpoints alone look at `passing`.
pub(super) fn selection(read: &Read) -> Selection {
    let options = &read.options;
    Selection { tags: options.tags.clone(), node_meta: options.node_meta.clone(), passing: options.passing }
}

pub(super) async fn register(mut write: Write) -> Reply {
    let body: Register = write.json().await?;
    let registration = registration(body, &write.core.config.datacenter)?;
    write.done(&Command::Register(Box::new(registration))).await
}

/// Consul's checks and defaults. (Consul: `Catalog.Register`.)
fn registration(mut body: Register, datacenter: &str) -> Result<Registration, Refusal> {
    let refuse = |text: String| Refusal(api::Error::internal(text));
    if body.node.is_empty() || (body.address.is_empty() && !body.skip_node_update) {
        return Err(refuse("Must provide node and address".into()));
    }
    if body.datacenter.is_empty() {
        body.datacenter = datacenter.to_string();
    }
    let mut service = body.service.take();
    if let Some(service) = &mut service {
        if service.service.is_empty() {
            return Err(refuse(
                if service.id.is_empty() { "Must provide service name" } else { "Must provide service name with ID" }
                    .into(),
            ));
        }
        if service.id.is_empty() {
            service.id.clone_from(&service.service);
        }
    }
    let (mut checks, skip_node_update) = (body.take_checks(), body.skip_node_update);
    let node = body.take_node();
    for check in &mut checks {
        if check.check_id.is_empty() {
            check.check_id.clone_from(&check.name);
        }
        if check.node.is_empty() {
            check.node.clone_from(&node.name);
        }
        if !check.node.eq_ignore_ascii_case(&node.name) {
            return Err(refuse(format!(
                "check \"{}/{}\" does not match node \"{}\"",
                check.node, check.check_id, node.name
            )));
        }
    }
    Ok(Registration { node, skip_node_update, service, checks })
}

pub(super) async fn deregister(mut write: Write) -> Reply {
    let body: Deregister = write.json().await?;
    if body.node.is_empty() {
        return Err(api::Error::internal("Must provide node").into());
    }
    let named = |id: String| Some(id).filter(|id| !id.is_empty());
    let what = Deregistration { node: body.node, service_id: named(body.service_id), check_id: named(body.check_id) };
    write.done(&Command::Deregister(what)).await
}

/// This datacenter first, then the others by name: nothing nearer is known.
pub(super) async fn datacenters(State(core): State<Shared>, read: Read) -> Response {
    let known = core
        .watch
        .read(|view| datacenter::datacenters(view).into_iter().map(|row| row.name.clone()).collect::<Vec<_>>())
        .0;
    let mut names = vec![core.config.datacenter.clone()];
    names.extend(known.into_iter().filter(|name| *name != core.config.datacenter));
    plain_json(&names, read.options.pretty)
}

pub(super) async fn nodes(read: Read) -> Reply {
    let (meta, filter, near) = (read.options.node_meta.clone(), read.filter::<Node>()?, Near::of(&read));
    read.answer(move |view, pretty| {
        let wanted = filter.wants::<Node>();
        let rows = nodes_query::nodes(view, &meta).into_iter().filter(|row| wanted(&row.value));
        list(near.first(rows, |row| &row.name).into_iter().map(indexed), pretty)
    })
    .await
}

pub(super) async fn services(read: Read) -> Reply {
    let (meta, filter) = (read.options.node_meta.clone(), read.filter::<CatalogRow<'_>>()?);
    if filter.is_any() {
        return read.answer(move |view, pretty| json(&services_query::names(view, &meta), pretty)).await;
    }
    // Only a filter needs the instances themselves.
    read.answer(move |view, pretty| json(&filtered_names(services_query::all(view), &meta, &filter), pretty)).await
}

fn filtered_names<'c>(
    placed: Vec<Placed<'c>>,
    meta: &[(String, String)],
    filter: &Filter,
) -> BTreeMap<&'c str, BTreeSet<&'c str>> {
    let mut names = BTreeMap::<&str, BTreeSet<&str>>::new();
    let wanted = filter.wants::<CatalogRow<'_>>();
    let has_meta = |placed: &Placed<'_>| meta.iter().all(|(key, value)| placed.node.meta.get(key) == Some(value));
    for placed in placed.into_iter().filter(has_meta).filter(|placed| wanted(&filter_row(placed))) {
        let tags = names.entry(&placed.service.value.service).or_default();
        tags.extend(placed.service.value.tags.iter().map(String::as_str));
    }
    names
}

fn filter_row<'c>(placed: &Placed<'c>) -> CatalogRow<'c> {
    CatalogRow { node: &placed.node.value, service: &placed.service.value }
}

fn row_of(placed: Placed<'_>) -> CatalogService<'_> {
    CatalogService::new(
        &placed.node.value,
        &placed.service.value,
        placed.service.create_index,
        placed.service.modify_index,
    )
}

fn service_rows(filter: &Filter, near: &Near, placed: Vec<Placed<'_>>, pretty: bool) -> Answer {
    let wanted = filter.wants::<CatalogRow<'_>>();
    let rows = placed.into_iter().filter(|placed| wanted(&filter_row(placed)));
    list(near.first(rows, |placed| &placed.node.name).into_iter().map(row_of), pretty)
}

pub(super) async fn service(read: Read) -> Reply {
    let (name, selection, filter) =
        (read.path.after("/v1/catalog/service/"), selection(&read), read.filter::<CatalogRow<'_>>()?);
    let near = Near::of(&read);
    read.answer(move |view, pretty| {
        service_rows(&filter, &near, services_query::instances(view, &name, &selection), pretty)
    })
    .await
}

pub(super) async fn connect(read: Read) -> Reply {
    let (name, selection, filter) =
        (read.path.after("/v1/catalog/connect/"), selection(&read), read.filter::<CatalogRow<'_>>()?);
    let near = Near::of(&read);
    read.answer(move |view, pretty| {
        service_rows(&filter, &near, services_query::connect(view, &name, &selection), pretty)
    })
    .await
}

pub(super) async fn node(read: Read) -> Reply {
    let (name, filter) = (read.path.after("/v1/catalog/node/"), read.filter::<ServiceInstance>()?);
    read.answer(move |view, pretty| {
        let Some((node, services)) = services_query::on_node(view, &name) else { return json(&(), pretty) };
        let services: BTreeMap<&str, _> =
            wanted_instances(&filter, services).map(|row| (row.noun.id.as_str(), row)).collect();
        json(&NodeServices { node: indexed(node), services }, pretty)
    })
    .await
}

pub(super) async fn node_services(read: Read) -> Reply {
    let (name, filter) = (read.path.after("/v1/catalog/node-services/"), read.filter::<ServiceInstance>()?);
    read.answer(move |view, pretty| {
        let (node, services) = services_query::on_node(view, &name).unzip();
        let services: Vec<_> = wanted_instances(&filter, services.unwrap_or_default()).collect();
        json(&NodeServices { node: node.map(indexed), services }, pretty)
    })
    .await
}

fn wanted_instances<'c>(
    filter: &Filter,
    rows: Vec<&'c Row<ServiceInstance>>,
) -> impl Iterator<Item = Indexed<&'c ServiceInstance>> + use<'c> {
    let wanted = filter.wants::<ServiceInstance>();
    rows.into_iter().filter(move |row| wanted(&row.value)).map(indexed)
}

/// Which services an ingress or terminating gateway serves: neither kind is configured here yet, so none does.
pub(super) async fn gateway_services(read: Read) -> Reply {
    read.answer(|_, pretty| json::<[(); 0]>(&[], pretty)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(body: &str) -> Result<Registration, String> {
        let body = api::json::from_slice(body.as_bytes()).expect("JSON");
        registration(body, "dc1").map_err(|refusal| refusal.0.text)
    }

    #[test]
    fn defaults_are_filled_in() {
        let made =
            register(r#"{"Node": "n", "Address": "a", "Service": {"Service": "web"}, "Check": {"Name": "alive"}}"#)
                .expect("good");
        assert_eq!(made.node.datacenter, "dc1");
        assert_eq!(made.service.expect("service").id, "web");
        assert_eq!((made.checks[0].check_id.as_str(), made.checks[0].node.as_str()), ("alive", "n"));
    }

    #[test]
    fn refusals_are_consuls() {
        for (body, text) in [
            (r#"{}"#, "Must provide node and address"),
            (r#"{"Node": "n"}"#, "Must provide node and address"),
            (r#"{"Node": "n", "Address": "a", "Service": {}}"#, "Must provide service name"),
            (r#"{"Node": "n", "Address": "a", "Service": {"ID": "x"}}"#, "Must provide service name with ID"),
            (
                r#"{"Node": "n", "Address": "a", "Check": {"CheckID": "c", "Node": "m"}}"#,
                "check \"m/c\" does not match node \"n\"",
            ),
        ] {
            assert_eq!(register(body), Err(text.to_string()), "{body}");
        }
    }
}
