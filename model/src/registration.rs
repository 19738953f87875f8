//! A service as users register it with their agent: an instance, its checks, and perhaps a sidecar.

use crate::agent_check::{AgentCheck, InvalidCheck};
use crate::limits::TAGS_MAX;
use crate::meta::{self, InvalidMeta};
use crate::service::{Connect, Locality, Proxy, ServiceAddress, Weights};
use crate::{Meta, ServiceInstance, ServiceKind, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A service as users register it. (Consul: `api.AgentServiceRegistration`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentServiceRegistration {
    /// What kind of thing it is.
    #[serde(skip_serializing_if = "is_default")]
    pub kind: ServiceKind,
    /// Unique on the node; the name if empty.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    #[serde(alias = "Service")]
    pub name: String,
    /// The operator's labels.
    #[serde(skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    /// The port; 0 means none.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u16,
    /// Where it is reached; empty means the node's address.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// A Unix socket instead of address and port.
    #[serde(skip_serializing_if = "is_default")]
    pub socket_path: String,
    /// Addresses by network.
    #[serde(skip_serializing_if = "is_default")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Whether others may change the tags in the catalog.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_tag_override: bool,
    /// The operator's key–value labels.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: Meta,
    /// For DNS SRV, by status.
    #[serde(skip_serializing_if = "is_default")]
    pub weights: Option<Weights>,
    /// One check.
    #[serde(skip_serializing_if = "is_default")]
    pub check: Option<Box<AgentCheck>>,
    /// Several checks.
    #[serde(skip_serializing_if = "is_default")]
    pub checks: Vec<AgentCheck>,
    /// Set on sidecars and gateways.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy: Proxy,
    /// The instance's part in the mesh.
    #[serde(skip_serializing_if = "is_default")]
    pub connect: AgentConnect,
    /// Region and zone.
    #[serde(skip_serializing_if = "is_default")]
    pub locality: Option<Locality>,
}

/// An instance's part in the mesh, as users register it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentConnect {
    /// It does mutual TLS without a sidecar.
    #[serde(skip_serializing_if = "is_default")]
    pub native: bool,
    /// Registers a sidecar with it; what it leaves out is filled.
    #[serde(skip_serializing_if = "is_default")]
    pub sidecar_service: Option<Box<AgentServiceRegistration>>,
}

/// Why a service was refused. The user's fault; nothing changed. The texts are Consul's where it has the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    /// There is no name.
    #[error("Missing service name")]
    NoName,
    /// The name or id would break logs and headers.
    #[error(transparent)]
    Name(#[from] crate::name::InvalidName),
    /// More than [`TAGS_MAX`].
    #[error("a service cannot have more than {TAGS_MAX} tags")]
    TooManyTags,
    /// See [`crate::meta`].
    #[error("Invalid Service Meta: {0}")]
    Meta(#[from] InvalidMeta),
    /// DNS would never answer with it.
    #[error("Invalid Weights: Passing must be greater than 0")]
    Weights,
    /// A sidecar of nothing.
    #[error("Proxy.DestinationServiceName must be non-empty for Connect proxy services")]
    NoDestination,
    /// A sidecar that stands for services of any name.
    #[error("Proxy.DestinationServiceName must not be a wildcard for Connect proxy services")]
    WildcardDestination,
    /// A sidecar that cannot be reached.
    #[error("Port or SocketPath must be set for a Connect proxy")]
    NoProxyPort,
    /// A proxy that is an application.
    #[error("A Proxy cannot also be Connect Native, only typical services")]
    NativeProxy,
    /// An upstream of nothing.
    #[error("upstream destination name cannot be empty")]
    UpstreamName,
    /// An upstream that the application cannot call.
    #[error("upstream local bind port or local socket path must be defined and nonzero")]
    UpstreamPort,
    /// Two upstreams in one place.
    #[error("upstreams cannot contain duplicates of local bind address {0}")]
    UpstreamTwice(String),
    /// A sidecar's own sidecar.
    #[error("Invalid SidecarService: a sidecar cannot itself have a sidecar")]
    NestedSidecar,
    /// A sidecar for something that is no application.
    #[error("Kind {0:?} cannot have a SidecarService")]
    SidecarOfProxy(&'static str),
    /// One of its checks.
    #[error("Invalid check: {0}")]
    Check(#[from] InvalidCheck),
}

impl AgentServiceRegistration {
    /// The instance that it describes, without checks and sidecar.
    pub fn instance(&self) -> ServiceInstance {
        let id = if self.id.is_empty() { &self.name } else { &self.id };
        ServiceInstance {
            kind: self.kind,
            id: id.clone(),
            service: self.name.clone(),
            tags: self.tags.clone(),
            address: self.address.clone(),
            tagged_addresses: self.tagged_addresses.clone(),
            meta: self.meta.clone(),
            port: self.port,
            socket_path: self.socket_path.clone(),
            weights: self.weights.unwrap_or_default(),
            enable_tag_override: self.enable_tag_override,
            proxy: self.proxy.clone(),
            connect: Connect { native: self.connect.native },
            locality: self.locality.clone(),
            peer_name: String::new(),
        }
    }

    /// `Check` and `Checks` together, with what they leave out filled.
    pub fn all_checks(&self) -> Vec<AgentCheck> {
        let id = if self.id.is_empty() { &self.name } else { &self.id };
        let mut checks: Vec<AgentCheck> = self.check.as_deref().into_iter().chain(&self.checks).cloned().collect();
        let count = checks.len();
        for (nth, check) in checks.iter_mut().enumerate() {
            check.normalize(Some((id, &self.name)), nth, count);
        }
        checks
    }

    /// The sidecar that comes with it, with what it leaves out filled; `port` is for one that does not say its own.
    /// (Consul: `sidecarServiceFromNodeService`.)
    pub fn sidecar(&self, port: u16) -> Option<AgentServiceRegistration> {
        let mut sidecar = self.connect.sidecar_service.as_deref()?.clone();
        let application = self.instance();
        sidecar.kind = ServiceKind::ConnectProxy;
        sidecar.id = sidecar_id(&application.id);
        fill(&mut sidecar.name, || format!("{}-sidecar-proxy", application.service));
        fill(&mut sidecar.address, || application.address.clone());
        fill(&mut sidecar.proxy.destination_service_name, || application.service.clone());
        fill(&mut sidecar.proxy.destination_service_id, || application.id.clone());
        fill(&mut sidecar.proxy.local_service_address, || "127.0.0.1".to_string());
        if sidecar.proxy.local_service_port == 0 {
            sidecar.proxy.local_service_port = application.port;
        }
        if sidecar.tags.is_empty() {
            sidecar.tags.clone_from(&application.tags);
        }
        if sidecar.meta.is_empty() {
            sidecar.meta.clone_from(&application.meta);
        }
        sidecar.locality = sidecar.locality.or(application.locality);
        if sidecar.port == 0 {
            sidecar.port = port;
        }
        if sidecar.check.is_none() && sidecar.checks.is_empty() {
            sidecar.checks = default_checks(&sidecar, &application.id);
        }
        Some(sidecar)
    }

    /// Whether it can be kept, its checks and its sidecar's form included.
    pub fn validate(&self) -> Result<(), InvalidService> {
        validate_instance(&self.instance())?;
        for check in self.all_checks() {
            check.validate()?;
        }
        let Some(sidecar) = &self.connect.sidecar_service else {
            return Ok(());
        };
        if sidecar.connect.sidecar_service.is_some() {
            return Err(InvalidService::NestedSidecar);
        }
        if self.kind != ServiceKind::Typical {
            return Err(InvalidService::SidecarOfProxy(self.kind.as_str()));
        }
        Ok(())
    }
}

/// The id of an instance's sidecar.
pub fn sidecar_id(instance_id: &str) -> String {
    format!("{instance_id}-sidecar-proxy")
}

/// The checks of a sidecar that has none of its own: its port answers, and its application is healthy.
fn default_checks(sidecar: &AgentServiceRegistration, application_id: &str) -> Vec<AgentCheck> {
    let host = if sidecar.address.is_empty() { "127.0.0.1" } else { &sidecar.address };
    let listening = AgentCheck {
        name: "Connect Sidecar Listening".into(),
        tcp: format!("{host}:{}", sidecar.port),
        interval: crate::GoDuration::from_secs(10),
        ..AgentCheck::default()
    };
    let alias = AgentCheck {
        name: "Connect Sidecar Aliasing ".to_string() + application_id,
        alias_service: application_id.to_string(),
        ..AgentCheck::default()
    };
    vec![listening, alias]
}

fn fill(text: &mut String, default: impl FnOnce() -> String) {
    if text.is_empty() {
        *text = default();
    }
}

/// Whether an instance can be kept. (Consul: `structs.NodeService.Validate`.)
pub fn validate_instance(instance: &ServiceInstance) -> Result<(), InvalidService> {
    validate_labels(instance)?;
    if instance.weights.passing == 0 {
        return Err(InvalidService::Weights);
    }
    match instance.kind {
        ServiceKind::Typical => Ok(()),
        ServiceKind::ConnectProxy => validate_sidecar(instance),
        ServiceKind::MeshGateway
        | ServiceKind::TerminatingGateway
        | ServiceKind::IngressGateway
        | ServiceKind::ApiGateway => {
            if instance.connect.native {
                Err(InvalidService::NativeProxy)
            } else {
                Ok(())
            }
        }
    }
}

/// Whether names, tags and metadata of an instance can be kept: what every server checks again before it keeps them.
pub fn validate_labels(instance: &ServiceInstance) -> Result<(), InvalidService> {
    if instance.service.is_empty() {
        return Err(InvalidService::NoName);
    }
    crate::name::check_service(&instance.service)?;
    crate::name::check_service(&instance.id)?;
    if instance.tags.len() > TAGS_MAX {
        return Err(InvalidService::TooManyTags);
    }
    meta::validate(&instance.meta)?;
    Ok(())
}

fn validate_sidecar(instance: &ServiceInstance) -> Result<(), InvalidService> {
    let proxy = &instance.proxy;
    if proxy.destination_service_name.is_empty() {
        return Err(InvalidService::NoDestination);
    }
    if proxy.destination_service_name == crate::intention::ANY {
        return Err(InvalidService::WildcardDestination);
    }
    if instance.port == 0 && instance.socket_path.is_empty() {
        return Err(InvalidService::NoProxyPort);
    }
    if instance.connect.native {
        return Err(InvalidService::NativeProxy);
    }
    let mut binds = std::collections::BTreeSet::new();
    for upstream in &proxy.upstreams {
        if upstream.destination_name.is_empty() {
            return Err(InvalidService::UpstreamName);
        }
        if upstream.local_bind_port == 0 {
            return Err(InvalidService::UpstreamPort);
        }
        let host = if upstream.local_bind_address.is_empty() { "127.0.0.1" } else { &upstream.local_bind_address };
        let bind = format!("{host}:{}", upstream.local_bind_port);
        if !binds.insert(bind.clone()) {
            return Err(InvalidService::UpstreamTwice(bind));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
