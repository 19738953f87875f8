//! Gateways between datacenters.

use super::service::{of_table, with_checks};
use super::{HealthEntry, Selection};
use crate::topic::Topic;
use crate::view::View;
use model::ServiceKind;

/// The mesh gateways of this datacenter, with their checks.
pub fn mesh_gateways<'c>(view: &View<'c>) -> Vec<HealthEntry<'c>> {
    let kind = ServiceKind::MeshGateway;
    view.note(Topic::Kind(kind));
    let gateways = of_table(view.catalog(), &view.catalog().by_kind, kind.as_str());
    with_checks(view, gateways, &Selection::default())
}

/// Where other datacenters reach the gateways of this one: `ip:port` (UDP) of each that is not critical.
pub fn public_addresses(view: &View<'_>) -> Vec<String> {
    let healthy = mesh_gateways(view).into_iter().filter(|entry| entry.status() != model::CheckStatus::Critical);
    let mut addresses: Vec<String> =
        healthy.map(|entry| crate::compile::address::tunnel(entry.node, entry.service)).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}
