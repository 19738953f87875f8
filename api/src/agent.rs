//! Bodies of requests to an agent: registrations of services and checks.

use model::service::{Connect, Locality, Proxy, ServiceAddress, Weights};
use model::{CheckStatus, GoDuration, Meta, ServiceInstance, ServiceKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The body of `PUT /v1/agent/service/register`. (Consul: `api.AgentServiceRegistration`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceRegistration {
    /// What kind of thing it is.
    pub kind: ServiceKind,
    /// Unique on the node; the name if empty.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    #[serde(alias = "Service")]
    pub name: String,
    /// The operator's labels.
    pub tags: Vec<String>,
    /// The port; 0 means none.
    pub port: u16,
    /// Where it is reached; empty means the node's address.
    pub address: String,
    /// A Unix socket instead of address and port.
    pub socket_path: String,
    /// Addresses by network.
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Whether others may change the tags in the catalog.
    pub enable_tag_override: bool,
    /// The operator's key–value labels.
    pub meta: Meta,
    /// For DNS SRV.
    pub weights: Weights,
    /// One check.
    pub check: Option<Box<CheckRegistration>>,
    /// Several checks.
    pub checks: Vec<CheckRegistration>,
    /// Set on sidecars and gateways.
    pub proxy: Proxy,
    /// The instance's part in the mesh.
    pub connect: ConnectRegistration,
    /// Region and zone.
    pub locality: Option<Locality>,
}

/// An instance's part in the mesh.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConnectRegistration {
    /// It does mutual TLS without a sidecar.
    pub native: bool,
    /// Registers a sidecar with it.
    pub sidecar_service: Option<Box<ServiceRegistration>>,
}

/// The body of `PUT /v1/agent/check/register`, and a check within a registration.
/// (Consul: `api.AgentCheckRegistration`, `api.AgentServiceCheck`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckRegistration {
    /// Unique on the node; made of the service's id, or the check's name, if empty.
    #[serde(rename = "CheckID", alias = "ID")]
    pub check_id: String,
    /// Display name.
    pub name: String,
    /// The instance that it is about, by id; empty means the node.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The operator's words.
    pub notes: String,
    /// What it says until it has run; empty means critical.
    pub status: String,
    /// A command and its arguments, run by the agent.
    #[serde(rename = "Args", alias = "ScriptArgs")]
    pub args: Vec<String>,
    /// A container to run it in; not supported.
    #[serde(rename = "DockerContainerID")]
    pub docker_container_id: String,
    /// URL to ask.
    #[serde(rename = "HTTP")]
    pub http: String,
    /// Request headers.
    pub header: BTreeMap<String, Vec<String>>,
    /// Request method; empty means GET.
    pub method: String,
    /// Request body.
    pub body: String,
    /// Do not follow redirects.
    pub disable_redirects: bool,
    /// `host:port` to connect to.
    #[serde(rename = "TCP")]
    pub tcp: String,
    /// `host:port` to send a datagram to.
    #[serde(rename = "UDP")]
    pub udp: String,
    /// `host:port[/service]` to ask by gRPC health.
    #[serde(rename = "GRPC")]
    pub grpc: String,
    /// Use TLS for it.
    #[serde(rename = "GRPCUseTLS")]
    pub grpc_use_tls: bool,
    /// `host:port` to ping by HTTP/2; not supported.
    #[serde(rename = "H2PING")]
    pub h2_ping: String,
    /// A system service to look after; not supported.
    #[serde(rename = "OSService")]
    pub os_service: String,
    /// The node whose checks it repeats; empty means this one.
    pub alias_node: String,
    /// The instance (by id) whose checks it repeats.
    pub alias_service: String,
    /// How often it runs.
    pub interval: GoDuration,
    /// Its time limit.
    pub timeout: GoDuration,
    /// It is critical if nobody has reported for so long.
    #[serde(rename = "TTL")]
    pub ttl: GoDuration,
    /// Name to expect in the certificate of what is checked.
    #[serde(rename = "TLSServerName")]
    pub tls_server_name: String,
    /// Accept any certificate.
    #[serde(rename = "TLSSkipVerify")]
    pub tls_skip_verify: bool,
    /// Successes in a row before it passes.
    pub success_before_passing: u32,
    /// Failures in a row before it warns.
    pub failures_before_warning: u32,
    /// Failures in a row before it is critical.
    pub failures_before_critical: u32,
    /// Remove the service when critical for so long.
    pub deregister_critical_service_after: GoDuration,
    /// Bytes of output that are kept; 0 means 4 KiB, which is also the most.
    pub output_max_size: u32,
}

/// The body of `PUT /v1/agent/check/update/:id`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckUpdate {
    /// `passing`, `warning` or `critical`.
    pub status: String,
    /// The check's words.
    pub output: String,
}

/// The body of `POST /v1/agent/connect/authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthorizeRequest {
    /// The service that is called.
    pub target: String,
    /// The caller's SPIFFE id.
    #[serde(rename = "ClientCertURI")]
    pub client_cert_uri: String,
    /// The serial number of the caller's certificate.
    pub client_cert_serial: String,
}

impl ServiceRegistration {
    /// The instance that it describes, without checks and sidecar. An empty id becomes the name.
    pub fn instance(&self) -> ServiceInstance {
        ServiceInstance {
            kind: self.kind,
            id: if self.id.is_empty() {
                self.name.clone()
            } else {
                self.id.clone()
            },
            service: self.name.clone(),
            tags: self.tags.clone(),
            address: self.address.clone(),
            tagged_addresses: self.tagged_addresses.clone(),
            meta: self.meta.clone(),
            port: self.port,
            socket_path: self.socket_path.clone(),
            weights: self.weights,
            enable_tag_override: self.enable_tag_override,
            proxy: self.proxy.clone(),
            connect: Connect {
                native: self.connect.native,
            },
            locality: self.locality.clone(),
            peer_name: String::new(),
        }
    }

    /// `Check` and `Checks` together.
    pub fn all_checks(&self) -> impl Iterator<Item = &CheckRegistration> {
        self.check.as_deref().into_iter().chain(&self.checks)
    }
}

impl CheckRegistration {
    /// The initial status, or Consul's refusal.
    pub fn initial_status(&self) -> Result<CheckStatus, crate::Error> {
        parse_status(&self.status, "Bad check status")
    }
}

impl CheckUpdate {
    /// The reported status, or Consul's refusal.
    pub fn parse_status(&self) -> Result<CheckStatus, crate::Error> {
        let invalid =
            || crate::Error::bad_request(format!("Invalid check status: '{}'", self.status));
        self.status.parse().map_err(|_| invalid())
    }
}

fn parse_status(text: &str, refusal: &str) -> Result<CheckStatus, crate::Error> {
    if text.is_empty() {
        return Ok(CheckStatus::default());
    }
    text.parse().map_err(|_| crate::Error::bad_request(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_slice;

    #[test]
    fn py_consul_sends_lower_case() {
        let body = br#"{"name": "web", "id": "web-1", "port": 80, "tags": ["a"], "enable_tag_override": true,
            "tagged_addresses": {"lan": {"address": "10.0.0.1", "port": 80}},
            "check": {"http": "http://x/", "interval": "10s", "tls_skip_verify": true, "deregister_critical_service_after": "90m"},
            "connect": {"sidecar_service": {}}}"#;
        let registration: ServiceRegistration = from_slice(body).expect("reads");
        let check = registration.check.as_deref().expect("a check");
        assert_eq!((registration.name.as_str(), registration.port), ("web", 80));
        assert_eq!(check.interval, GoDuration::from_secs(10));
        assert_eq!(
            check.deregister_critical_service_after,
            GoDuration::from_secs(5400)
        );
        assert!(check.tls_skip_verify && registration.enable_tag_override);
        assert_eq!(registration.tagged_addresses["lan"].port, 80);
        assert!(registration.connect.sidecar_service.is_some());
        assert_eq!(registration.instance().id, "web-1");
    }

    #[test]
    fn a_check_may_be_called_by_either_name() {
        for body in [
            r#"{"ID": "c"}"#,
            r#"{"CheckID": "c"}"#,
            r#"{"check_id": "c"}"#,
            r#"{"id": "c"}"#,
        ] {
            assert_eq!(
                from_slice::<CheckRegistration>(body.as_bytes())
                    .expect(body)
                    .check_id,
                "c"
            );
        }
        let script: CheckRegistration =
            from_slice(br#"{"script_args": ["a", "b"]}"#).expect("reads");
        assert_eq!(script.args, ["a", "b"]);
    }

    #[test]
    fn an_instance_without_id_takes_the_name() {
        let registration = ServiceRegistration {
            name: "web".into(),
            ..ServiceRegistration::default()
        };
        assert_eq!(registration.instance().id, "web");
    }

    #[test]
    fn statuses_are_checked() {
        let check = |status: &str| {
            CheckRegistration {
                status: status.into(),
                ..CheckRegistration::default()
            }
            .initial_status()
        };
        assert_eq!(check(""), Ok(CheckStatus::Critical));
        assert_eq!(check("passing"), Ok(CheckStatus::Passing));
        assert_eq!(check("ok").expect_err("refused").text, "Bad check status");
        let update = CheckUpdate {
            status: "ok".into(),
            output: String::new(),
        };
        assert_eq!(
            update.parse_status().expect_err("refused").text,
            "Invalid check status: 'ok'"
        );
    }
}
