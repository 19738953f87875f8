//! The rows that can be filtered, with Consul's selectors for each.

use super::{Field, Holds, Row, Value, of_map};
use crate::config_entry::ConfigEntry;
use crate::intention::Action;
use crate::service::Upstream;
use crate::{Check, Intention, Node, ServiceInstance};

/// A row of `/v1/health/service/…`: an instance, its node, and the checks of both.
#[derive(Debug, Clone, Copy)]
pub struct HealthRow<'a> {
    /// The node.
    pub node: &'a Node,
    /// The instance.
    pub service: &'a ServiceInstance,
    /// The checks of both.
    pub checks: &'a [&'a Check],
}

/// A row of `/v1/catalog/service/…`: an instance and its node, flat.
#[derive(Debug, Clone, Copy)]
pub struct CatalogRow<'a> {
    /// The node.
    pub node: &'a Node,
    /// The instance.
    pub service: &'a ServiceInstance,
}

fn list(fields: &[(&str, Holds)]) -> Vec<Field> {
    fields.iter().map(|(path, holds)| Field { path: path.to_string(), holds: *holds }).collect()
}

fn prefixed(prefix: &str, fields: Vec<Field>) -> impl Iterator<Item = Field> {
    fields.into_iter().map(move |field| Field { path: format!("{prefix}{}", field.path), holds: field.holds })
}

impl Row for Node {
    fn fields() -> Vec<Field> {
        list(&[
            ("ID", Holds::Text),
            ("Node", Holds::Text),
            ("Address", Holds::Text),
            ("Datacenter", Holds::Text),
            ("TaggedAddresses", Holds::Map),
            ("TaggedAddresses.<any>", Holds::Text),
            ("Meta", Holds::Map),
            ("Meta.<any>", Holds::Text),
            ("PeerName", Holds::Text),
        ])
    }

    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a> {
        match path {
            "ID" => Value::Text(&self.id),
            "Node" => Value::Text(&self.name),
            "Address" => Value::Text(&self.address),
            "Datacenter" => Value::Text(&self.datacenter),
            "TaggedAddresses" => Value::Map(&self.tagged_addresses),
            "TaggedAddresses.<any>" => of_map(&self.tagged_addresses, key),
            "Meta" => Value::Map(&self.meta),
            "Meta.<any>" => of_map(&self.meta, key),
            "PeerName" => Value::Text(&self.peer_name),
            _ => Value::Missing,
        }
    }
}

impl Row for Check {
    fn fields() -> Vec<Field> {
        list(&[
            ("Node", Holds::Text),
            ("CheckID", Holds::Text),
            ("Name", Holds::Text),
            ("Status", Holds::Text),
            ("Notes", Holds::Text),
            ("Output", Holds::Text),
            ("ServiceID", Holds::Text),
            ("ServiceName", Holds::Text),
            ("ServiceTags", Holds::Texts),
            ("Type", Holds::Text),
            ("Interval", Holds::Text),
            ("Timeout", Holds::Text),
            ("ExposedPort", Holds::Number),
            ("PeerName", Holds::Text),
        ])
    }

    fn value<'a>(&'a self, path: &str, _: &str) -> Value<'a> {
        match path {
            "Node" => Value::Text(&self.node),
            "CheckID" => Value::Text(&self.check_id),
            "Name" => Value::Text(&self.name),
            "Status" => Value::Text(self.status.as_str()),
            "Notes" => Value::Text(&self.notes),
            "Output" => Value::Text(&self.output),
            "ServiceID" => Value::Text(&self.service_id),
            "ServiceName" => Value::Text(&self.service_name),
            "ServiceTags" => Value::Texts(&self.service_tags),
            "Type" => Value::Text(&self.kind),
            "Interval" => Value::Text(&self.interval),
            "Timeout" => Value::Text(&self.timeout),
            "ExposedPort" => Value::Number(self.exposed_port.into()),
            "PeerName" => Value::Text(&self.peer_name),
            _ => Value::Missing,
        }
    }
}

impl Row for ServiceInstance {
    fn fields() -> Vec<Field> {
        list(&[
            ("Kind", Holds::Text),
            ("ID", Holds::Text),
            ("Service", Holds::Text),
            ("Tags", Holds::Texts),
            ("Address", Holds::Text),
            ("TaggedAddresses", Holds::Things),
            ("TaggedAddresses.<any>.Address", Holds::Text),
            ("TaggedAddresses.<any>.Port", Holds::Number),
            ("Meta", Holds::Map),
            ("Meta.<any>", Holds::Text),
            ("Port", Holds::Number),
            ("SocketPath", Holds::Text),
            ("Weights.Passing", Holds::Number),
            ("Weights.Warning", Holds::Number),
            ("EnableTagOverride", Holds::Flag),
            ("Connect.Native", Holds::Flag),
            ("Proxy.DestinationServiceName", Holds::Text),
            ("Proxy.DestinationServiceID", Holds::Text),
            ("Proxy.LocalServiceAddress", Holds::Text),
            ("Proxy.LocalServicePort", Holds::Number),
            ("Proxy.Mode", Holds::Text),
            ("Proxy.Upstreams", Holds::Things),
            ("Proxy.Upstreams.DestinationType", Holds::Text),
            ("Proxy.Upstreams.DestinationName", Holds::Text),
            ("Proxy.Upstreams.Datacenter", Holds::Text),
            ("Proxy.Upstreams.LocalBindAddress", Holds::Text),
            ("Proxy.Upstreams.LocalBindPort", Holds::Number),
            ("PeerName", Holds::Text),
        ])
    }

    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a> {
        let tagged = || self.tagged_addresses.get(key);
        match path {
            "Kind" => Value::Text(self.kind.as_str()),
            "ID" => Value::Text(&self.id),
            "Service" => Value::Text(&self.service),
            "Tags" => Value::Texts(&self.tags),
            "Address" => Value::Text(&self.address),
            "TaggedAddresses" => Value::Things(self.tagged_addresses.len()),
            "TaggedAddresses.<any>.Address" => tagged().map_or(Value::Missing, |tagged| Value::Text(&tagged.address)),
            "TaggedAddresses.<any>.Port" => tagged().map_or(Value::Missing, |tagged| Value::Number(tagged.port.into())),
            "Meta" => Value::Map(&self.meta),
            "Meta.<any>" => of_map(&self.meta, key),
            "Port" => Value::Number(self.port.into()),
            "SocketPath" => Value::Text(&self.socket_path),
            "Weights.Passing" => Value::Number(self.weights.passing.into()),
            "Weights.Warning" => Value::Number(self.weights.warning.into()),
            "EnableTagOverride" => Value::Flag(self.enable_tag_override),
            "Connect.Native" => Value::Flag(self.connect.native),
            "Proxy.DestinationServiceName" => Value::Text(&self.proxy.destination_service_name),
            "Proxy.DestinationServiceID" => Value::Text(&self.proxy.destination_service_id),
            "Proxy.LocalServiceAddress" => Value::Text(&self.proxy.local_service_address),
            "Proxy.LocalServicePort" => Value::Number(self.proxy.local_service_port.into()),
            "Proxy.Mode" => Value::Text(&self.proxy.mode),
            "Proxy.Upstreams" => Value::Things(self.proxy.upstreams.len()),
            "PeerName" => Value::Text(&self.peer_name),
            _ => match path.strip_prefix("Proxy.Upstreams.") {
                Some(field) => {
                    Value::Each(self.proxy.upstreams.iter().map(|upstream| of_upstream(upstream, field)).collect())
                }
                None => Value::Missing,
            },
        }
    }
}

fn of_upstream<'a>(upstream: &'a Upstream, field: &str) -> Value<'a> {
    match field {
        "DestinationType" => Value::Text(&upstream.destination_type),
        "DestinationName" => Value::Text(&upstream.destination_name),
        "Datacenter" => Value::Text(&upstream.datacenter),
        "LocalBindAddress" => Value::Text(&upstream.local_bind_address),
        "LocalBindPort" => Value::Number(upstream.local_bind_port.into()),
        _ => Value::Missing,
    }
}

impl Row for HealthRow<'_> {
    fn fields() -> Vec<Field> {
        let checks = Field { path: "Checks".into(), holds: Holds::Things };
        let nouns = prefixed("Node.", Node::fields()).chain(prefixed("Service.", ServiceInstance::fields()));
        nouns.chain([checks]).chain(prefixed("Checks.", Check::fields())).collect()
    }

    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a> {
        match path.split_once('.') {
            None if path == "Checks" => Value::Things(self.checks.len()),
            Some(("Node", field)) => self.node.value(field, key),
            Some(("Service", field)) => self.service.value(field, key),
            // Of several checks, one that says yes is enough.
            Some(("Checks", field)) => Value::Each(self.checks.iter().map(|check| check.value(field, key)).collect()),
            _ => Value::Missing,
        }
    }
}

/// The instance's fields that stand without the prefix `Service` in a flat row, or have another name there.
const FLAT_SERVICE: [(&str, &str); 2] = [("ServiceName", "Service"), ("PeerName", "PeerName")];

impl Row for CatalogRow<'_> {
    fn fields() -> Vec<Field> {
        let of_node = Node::fields().into_iter().map(|mut field| {
            if field.path.starts_with("Meta") {
                field.path.insert_str(0, "Node");
            }
            field
        });
        let own_name = |field: &Field| FLAT_SERVICE.iter().any(|(_, name)| *name == field.path);
        let of_service = ServiceInstance::fields().into_iter().filter(move |field| !own_name(field));
        let name = Field { path: "ServiceName".into(), holds: Holds::Text };
        of_node.chain([name]).chain(prefixed("Service", of_service.collect())).collect()
    }

    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a> {
        if path == "ServiceName" {
            return Value::Text(&self.service.service);
        }
        if let Some(field) = path.strip_prefix("Service") {
            return self.service.value(field, key);
        }
        match path.strip_prefix("NodeMeta") {
            Some("") => Value::Map(&self.node.meta),
            Some(_) => of_map(&self.node.meta, key),
            None => self.node.value(path, key),
        }
    }
}

impl Row for Intention {
    fn fields() -> Vec<Field> {
        list(&[
            ("ID", Holds::Text),
            ("Description", Holds::Text),
            ("SourceNS", Holds::Text),
            ("SourceName", Holds::Text),
            ("DestinationNS", Holds::Text),
            ("DestinationName", Holds::Text),
            ("SourceType", Holds::Text),
            ("Action", Holds::Text),
            ("Precedence", Holds::Number),
            ("Meta", Holds::Map),
            ("Meta.<any>", Holds::Text),
        ])
    }

    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a> {
        match path {
            "ID" => Value::Text(&self.id),
            "Description" => Value::Text(&self.description),
            "SourceNS" => Value::Text(&self.source_ns),
            "SourceName" => Value::Text(&self.source_name),
            "DestinationNS" => Value::Text(&self.destination_ns),
            "DestinationName" => Value::Text(&self.destination_name),
            "SourceType" => Value::Text(&self.source_type),
            "Action" => Value::Text(match self.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            }),
            "Precedence" => Value::Number(self.precedence.into()),
            "Meta" => Value::Map(&self.meta),
            "Meta.<any>" => of_map(&self.meta, key),
            _ => Value::Missing,
        }
    }
}

impl Row for ConfigEntry {
    fn fields() -> Vec<Field> {
        list(&[
            ("Kind", Holds::Text),
            ("Name", Holds::Text),
            ("Protocol", Holds::Text),
            ("Meta", Holds::Map),
            ("Meta.<any>", Holds::Text),
        ])
    }

    fn value<'a>(&'a self, path: &str, key: &str) -> Value<'a> {
        let (meta, protocol) = match self {
            ConfigEntry::ServiceDefaults(entry) => (&entry.meta, entry.protocol.as_str()),
            ConfigEntry::ProxyDefaults(entry) => (&entry.meta, entry.protocol().unwrap_or_default().as_str()),
        };
        match path {
            "Kind" => Value::Text(self.kind()),
            "Name" => Value::Text(self.name()),
            "Protocol" => Value::Text(protocol),
            "Meta" => Value::Map(meta),
            "Meta.<any>" => of_map(meta, key),
            _ => Value::Missing,
        }
    }
}
