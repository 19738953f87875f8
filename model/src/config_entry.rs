//! Central configuration: `service-defaults` and `proxy-defaults`.

use crate::{JsonMap, Meta, is_default, service::MeshGateway};
use serde::{Deserialize, Serialize};

/// A configuration entry. Its `Kind` says which. (Consul: `structs.ConfigEntry`.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "Kind")]
pub enum ConfigEntry {
    /// Settings of one service.
    #[serde(rename = "service-defaults")]
    ServiceDefaults(ServiceDefaults),
    /// Settings of every proxy; its name is always `global`.
    #[serde(rename = "proxy-defaults")]
    ProxyDefaults(ProxyDefaults),
}

/// Settings of one service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceDefaults {
    /// The service.
    pub name: String,
    /// What it speaks.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// How calls to it from other datacenters go.
    #[serde(skip_serializing_if = "is_default")]
    pub mesh_gateway: MeshGateway,
    /// Most connections that a sidecar accepts for it; 0 means no limit of the operator's.
    #[serde(skip_serializing_if = "is_default")]
    pub max_inbound_connections: u32,
    /// Time limit for connecting to the application, in milliseconds; 0 means 5,000.
    #[serde(skip_serializing_if = "is_default")]
    pub local_connect_timeout_ms: u32,
    /// Time limit for the application's answer, in milliseconds; 0 means none.
    #[serde(skip_serializing_if = "is_default")]
    pub local_request_timeout_ms: u32,
    /// The operator's labels.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: Meta,
}

/// Settings of every proxy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProxyDefaults {
    /// Always `global`.
    pub name: String,
    /// Opaque settings; `protocol` is the default protocol of every service.
    #[serde(skip_serializing_if = "is_default")]
    pub config: JsonMap,
    /// How calls to other datacenters go.
    #[serde(skip_serializing_if = "is_default")]
    pub mesh_gateway: MeshGateway,
    /// The operator's labels.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: Meta,
}

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Not said: `tcp`.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// Bytes.
    Tcp,
    /// HTTP/1.1 (and HTTP/2 where the client speaks it).
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
}

impl Protocol {
    /// Consul's name of it; empty if it is not said.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Unset => "",
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
        }
    }

    /// Whether a proxy reads requests (HTTP) rather than bytes.
    pub fn is_http(self) -> bool {
        match self {
            Protocol::Unset | Protocol::Tcp => false,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => true,
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "" => Ok(Protocol::Unset),
            "tcp" => Ok(Protocol::Tcp),
            "http" => Ok(Protocol::Http),
            "http2" => Ok(Protocol::Http2),
            "grpc" => Ok(Protocol::Grpc),
            other => Err(UnknownProtocol(other.to_string())),
        }
    }
}

/// Not a protocol. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid protocol {0:?}: must be tcp, http, http2 or grpc")]
pub struct UnknownProtocol(pub String);

impl ProxyDefaults {
    fn validate(&self) -> Result<(), InvalidConfigEntry> {
        if self.name != "global" {
            return Err(InvalidConfigEntry::NotGlobal(self.name.clone()));
        }
        if let Some(protocol) = self.config.get("protocol") {
            let text = protocol.as_str().ok_or(InvalidConfigEntry::ProtocolNotText)?;
            text.parse::<Protocol>()?;
        }
        Ok(crate::meta::validate(&self.meta)?)
    }

    /// The protocol of services that do not say theirs (`Config["protocol"]`).
    pub fn protocol(&self) -> Option<Protocol> {
        self.config.get("protocol")?.as_str()?.parse().ok().filter(|protocol| *protocol != Protocol::Unset)
    }
}

/// Why an entry was refused. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfigEntry {
    /// There is no name.
    #[error("Name is required")]
    NoName,
    /// There is one `proxy-defaults` only.
    #[error("invalid name ({0:?}), only \"global\" is supported")]
    NotGlobal(String),
    /// `Config["protocol"]` of `proxy-defaults`.
    #[error(transparent)]
    Protocol(#[from] UnknownProtocol),
    /// `Config["protocol"]` of `proxy-defaults` is no text.
    #[error("protocol must be a string")]
    ProtocolNotText,
    /// See [`crate::meta`].
    #[error("invalid Meta: {0}")]
    Meta(#[from] crate::meta::InvalidMeta),
}

impl ConfigEntry {
    /// Whether it can be kept.
    pub fn validate(&self) -> Result<(), InvalidConfigEntry> {
        match self {
            ConfigEntry::ServiceDefaults(entry) if entry.name.is_empty() => Err(InvalidConfigEntry::NoName),
            ConfigEntry::ServiceDefaults(entry) => Ok(crate::meta::validate(&entry.meta)?),
            ConfigEntry::ProxyDefaults(entry) => entry.validate(),
        }
    }

    /// `service-defaults` or `proxy-defaults`.
    pub fn kind(&self) -> &'static str {
        match self {
            ConfigEntry::ServiceDefaults(_) => "service-defaults",
            ConfigEntry::ProxyDefaults(_) => "proxy-defaults",
        }
    }

    /// The entry's name within its kind.
    pub fn name(&self) -> &str {
        match self {
            ConfigEntry::ServiceDefaults(entry) => &entry.name,
            ConfigEntry::ProxyDefaults(entry) => &entry.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> ConfigEntry {
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
    }

    #[test]
    fn entries_are_checked() {
        let cases = [
            (r#"{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}"#, ""),
            (r#"{"Kind": "service-defaults"}"#, "Name is required"),
            (r#"{"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "grpc"}}"#, ""),
            (r#"{"Kind": "proxy-defaults", "Name": "all"}"#, "invalid name (\"all\"), only \"global\" is supported"),
            (
                r#"{"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "ftp"}}"#,
                "invalid protocol \"ftp\": must be tcp, http, http2 or grpc",
            ),
            (r#"{"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": 1}}"#, "protocol must be a string"),
        ];
        for (json, problem) in cases {
            let outcome = entry(json).validate().err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(outcome, problem, "{json}");
        }
    }

    #[test]
    fn protocols_have_one_name_each() {
        for protocol in [Protocol::Unset, Protocol::Tcp, Protocol::Http, Protocol::Http2, Protocol::Grpc] {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
            assert_eq!(serde_json::to_value(protocol).expect("prints"), protocol.as_str());
        }
    }

    #[test]
    fn an_entry_survives_the_log() {
        let before = entry(
            r#"{"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http", "n": 1.5, "l": [null, true]}}"#,
        );
        let packed = rmp_serde::to_vec_named(&before).expect("packs");
        assert_eq!(rmp_serde::from_slice::<ConfigEntry>(&packed).expect("unpacks"), before);
    }
}
