//! What DNS asks.

use super::service::{health, health_connect};
use super::{HealthEntry, Selection};
use crate::view::View;
use model::{CheckStatus, Node};

/// The instances that a name stands for: those with the tag (if one is given) that are not critical, or, with
/// `only_passing`, that pass.
pub fn endpoints<'c>(view: &View<'c>, service: &str, tag: Option<&str>, only_passing: bool) -> Vec<HealthEntry<'c>> {
    usable(health(view, service, &selection(tag)), only_passing)
}

/// As [`endpoints`], of what speaks the mesh's protocol for the service.
pub fn connect_endpoints<'c>(view: &View<'c>, service: &str, only_passing: bool) -> Vec<HealthEntry<'c>> {
    usable(health_connect(view, service, &selection(None)), only_passing)
}

/// The nodes with this address, for reverse look-ups.
pub fn nodes_at<'c>(view: &View<'c>, address: &str) -> Vec<&'c Node> {
    super::node::nodes(view, &[]).into_iter().map(|row| &row.value).filter(|node| node.address == address).collect()
}

/// The names of the services with an instance of this address of its own, for reverse look-ups.
pub fn services_at<'c>(view: &View<'c>, address: &str) -> Vec<&'c str> {
    let all = super::service::all(view).into_iter().map(|placed| placed.service);
    let mut names: Vec<&str> = all.filter(|row| row.address == address).map(|row| row.value.service.as_str()).collect();
    names.dedup();
    names
}

fn selection(tag: Option<&str>) -> Selection {
    Selection { tags: tag.map(str::to_string).into_iter().collect(), ..Selection::default() }
}

fn usable<'c>(entries: Vec<HealthEntry<'c>>, only_passing: bool) -> Vec<HealthEntry<'c>> {
    let worst = if only_passing { CheckStatus::Passing } else { CheckStatus::Warning };
    entries.into_iter().filter(|entry| entry.status() <= worst).collect()
}
