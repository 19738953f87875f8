//! The datacenters of the federation.

use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use model::datacenter::Datacenter;

/// All datacenters that are known, by name.
pub fn datacenters<'c>(view: &View<'c>) -> Vec<&'c Row<Datacenter>> {
    view.note(Topic::Datacenters);
    view.catalog().datacenters.values().map(|row| &**row).collect()
}

/// One datacenter.
pub fn datacenter<'c>(view: &View<'c>, name: &str) -> Option<&'c Row<Datacenter>> {
    view.note(Topic::Datacenters);
    view.catalog().datacenters.get(name).map(|row| &**row)
}
