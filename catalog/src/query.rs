//! Questions to a [`View`], one file per noun. Each notes the topics that it reads, also those of things that it
//! did not find. Rows are borrowed; their order is the same each time and everywhere (node, then instance id).

pub mod ca;
pub mod check;
pub mod config_entry;
pub mod datacenter;
pub mod dns;
pub mod gateway;
pub mod intention;
pub mod kv;
pub mod node;
pub mod service;
pub mod session;
pub mod txn;

use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use model::{Check, Node, ServiceInstance};
use std::sync::Arc;

/// A pair that a node's metadata must have (`node-meta=key:value`).
pub type MetaPair = (String, String);

/// Which instances are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Tags that an instance must have, all of them, compared without case.
    pub tags: Vec<String>,
    /// Pairs that its node must have, all of them.
    pub node_meta: Vec<MetaPair>,
    /// Only instances whose checks all pass, those of the node included. (Only where checks are read.)
    pub passing: bool,
}

/// An instance and its node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed<'c> {
    /// The node.
    pub node: &'c Row<Node>,
    /// The instance.
    pub service: &'c Row<ServiceInstance>,
}

/// An instance, its node, and the checks of both.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthEntry<'c> {
    /// The node.
    pub node: &'c Row<Node>,
    /// The instance.
    pub service: &'c Row<ServiceInstance>,
    /// Those of the node first, then those of the instance; by id.
    pub checks: Vec<&'c Row<Check>>,
}

impl HealthEntry<'_> {
    /// The worst that the checks say; passing if there is none.
    pub fn status(&self) -> model::CheckStatus {
        if faults::has(faults::Bug::CriticalPasses) {
            return model::CheckStatus::Passing;
        }
        model::CheckStatus::worst(self.checks.iter().map(|check| check.status))
    }
}

/// Whether a node has all these pairs.
fn has_meta(node: &Node, wanted: &[MetaPair]) -> bool {
    wanted.iter().all(|(key, value)| node.meta.get(key).is_some_and(|v| v == value))
}

/// Whether an instance has all these tags.
fn has_tags(service: &ServiceInstance, wanted: &[String]) -> bool {
    let has = |tag: &String| {
        service.tags.iter().any(|t| t.eq_ignore_ascii_case(tag) || t.to_lowercase() == tag.to_lowercase())
    };
    wanted.iter().all(has)
}

/// Notes a topic of one named thing.
fn note(view: &View<'_>, topic: fn(Arc<str>) -> Topic, name: &str) {
    view.note(topic(Arc::from(name)));
}
