//! A health check: what it says, and how it is made.

use crate::{GoDuration, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The check that says whether a node's session is alive. Its name and texts are Consul's.
pub const SERF_HEALTH: &str = "serfHealth";
/// [`SERF_HEALTH`]'s display name.
pub const SERF_HEALTH_NAME: &str = "Serf Health Status";
/// Output of [`SERF_HEALTH`] while the node is alive.
pub const SERF_ALIVE_OUTPUT: &str = "Agent alive and reachable";
/// Output of [`SERF_HEALTH`] while it is not.
pub const SERF_FAILED_OUTPUT: &str = "Agent not live or unreachable";
/// The check of a node in maintenance.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Prefix of the check of a service in maintenance; the instance's id follows.
pub const SERVICE_MAINTENANCE_PREFIX: &str = "_service_maintenance:";

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// Healthy.
    Passing,
    /// Impaired; still served unless the asker wants passing only.
    Warning,
    /// Out of service. A registration that does not say means this.
    #[serde(alias = "")]
    Critical,
}

impl Default for CheckStatus {
    /// A check that has never run is critical, as in Consul.
    fn default() -> Self {
        CheckStatus::Critical
    }
}

impl CheckStatus {
    /// `passing`, `warning` or `critical`.
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckStatus::Passing => "passing",
            CheckStatus::Warning => "warning",
            CheckStatus::Critical => "critical",
        }
    }

    /// The worst of several; passing if there is none.
    pub fn worst(statuses: impl IntoIterator<Item = CheckStatus>) -> CheckStatus {
        statuses.into_iter().max().unwrap_or(CheckStatus::Passing)
    }
}

impl std::fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for CheckStatus {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        match text {
            "passing" => Ok(CheckStatus::Passing),
            "warning" => Ok(CheckStatus::Warning),
            "critical" => Ok(CheckStatus::Critical),
            other => Err(InvalidStatus(other.to_string())),
        }
    }
}

/// Not a status. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid check status {0:?}: must be passing, warning or critical")]
pub struct InvalidStatus(pub String);

/// A check as the catalog keeps it. (Consul: `structs.HealthCheck`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// The node it is on.
    pub node: String,
    /// Unique on its node.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// Display name.
    pub name: String,
    /// What it says.
    pub status: CheckStatus,
    /// The operator's words.
    pub notes: String,
    /// The check's own words, at most 4 KiB.
    pub output: String,
    /// The instance that it is about; empty means the whole node.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// That instance's service.
    pub service_name: String,
    /// That instance's tags.
    pub service_tags: Vec<String>,
    /// `http`, `tcp`, `ttl`…
    #[serde(rename = "Type")]
    pub kind: String,
    /// How often it runs, as text.
    pub interval: String,
    /// Its time limit, as text.
    pub timeout: String,
    /// The port that a sidecar exposes for it.
    pub exposed_port: u16,
    /// How it is made, for those who run it elsewhere.
    pub definition: CheckDefinition,
    /// Set on checks imported from a peer.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_name: String,
}

/// How a check is made. (Consul: `structs.HealthCheckDefinition`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckDefinition {
    /// URL to GET.
    #[serde(rename = "HTTP", skip_serializing_if = "is_default")]
    pub http: String,
    /// Request headers.
    #[serde(skip_serializing_if = "is_default")]
    pub header: BTreeMap<String, Vec<String>>,
    /// Request method; empty means GET.
    #[serde(skip_serializing_if = "is_default")]
    pub method: String,
    /// Request body.
    #[serde(skip_serializing_if = "is_default")]
    pub body: String,
    /// Do not follow redirects.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_redirects: bool,
    /// Name to expect in the server's certificate.
    #[serde(rename = "TLSServerName", skip_serializing_if = "is_default")]
    pub tls_server_name: String,
    /// Accept any certificate.
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_default")]
    pub tls_skip_verify: bool,
    /// `host:port` to connect to.
    #[serde(rename = "TCP", skip_serializing_if = "is_default")]
    pub tcp: String,
    /// `host:port` to send a datagram to.
    #[serde(rename = "UDP", skip_serializing_if = "is_default")]
    pub udp: String,
    /// `host:port[/service]` to ask by gRPC health.
    #[serde(rename = "GRPC", skip_serializing_if = "is_default")]
    pub grpc: String,
    /// Use TLS for it.
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "is_default")]
    pub grpc_use_tls: bool,
    /// How often.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: GoDuration,
    /// Time limit.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: GoDuration,
    /// Remove the service when critical for so long.
    #[serde(skip_serializing_if = "is_default")]
    pub deregister_critical_service_after: GoDuration,
}

/// Cuts a check's output at [`crate::limits::CHECK_OUTPUT_BYTES_MAX`], on a character's boundary.
pub fn bound_output(mut output: String) -> String {
    let max = crate::limits::CHECK_OUTPUT_BYTES_MAX;
    if output.len() > max {
        let end = (0..=max).rev().find(|i| output.is_char_boundary(*i)).unwrap_or(0);
        output.truncate(end);
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_status_wins() {
        use CheckStatus::{Critical, Passing, Warning};
        assert_eq!(CheckStatus::worst([]), Passing);
        assert_eq!(CheckStatus::worst([Passing, Warning]), Warning);
        assert_eq!(CheckStatus::worst([Critical, Passing, Warning]), Critical);
    }

    #[test]
    fn output_is_cut_between_characters() {
        let long = "é".repeat(4096);
        let cut = bound_output(long);
        assert_eq!(cut.len(), 4096);
        assert_eq!(bound_output("short".into()), "short");
    }
}
