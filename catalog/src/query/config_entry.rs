//! Central configuration.

use crate::key::{At, folded, under};
use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use model::config_entry::{ConfigEntry, ProxyDefaults, ServiceDefaults};
use std::sync::Arc;

/// All entries of a kind, by name.
pub fn entries<'c>(view: &View<'c>, kind: &str) -> Vec<&'c Row<ConfigEntry>> {
    view.note(Topic::ConfigEntries(Arc::from(kind)));
    under(&view.catalog().config_entries, [kind]).map(|(_, row)| &**row).collect()
}

/// One entry. Names compare without case.
pub fn entry<'c>(view: &View<'c>, kind: &str, name: &str) -> Option<&'c Row<ConfigEntry>> {
    let name = &*folded(name);
    view.note(Topic::ConfigEntry(Arc::from(kind), Arc::from(name)));
    view.catalog().config_entries.get(&At([kind, name])).map(|row| &**row)
}

/// The settings of a service.
pub fn service_defaults<'c>(view: &View<'c>, service: &str) -> Option<&'c ServiceDefaults> {
    match &entry(view, "service-defaults", service)?.value {
        ConfigEntry::ServiceDefaults(defaults) => Some(defaults),
        ConfigEntry::ProxyDefaults(_) => None,
    }
}

/// The settings of every proxy.
pub fn proxy_defaults<'c>(view: &View<'c>) -> Option<&'c ProxyDefaults> {
    match &entry(view, "proxy-defaults", "global")?.value {
        ConfigEntry::ProxyDefaults(defaults) => Some(defaults),
        ConfigEntry::ServiceDefaults(_) => None,
    }
}
