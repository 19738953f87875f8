//! A check as an agent runs it: the definition that users write, what it amounts to, and what is wrong with it.

use crate::check_machine::Thresholds;
use crate::limits::CHECK_OUTPUT_BYTES_MAX;
use crate::{Check, CheckDefinition, CheckStatus, GoDuration, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A check as users write it. (Consul: `api.AgentServiceCheck`, `api.AgentCheckRegistration`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentCheck {
    /// Unique on the node; made of the service's id, or of the name, if empty.
    #[serde(rename = "CheckID", alias = "ID", skip_serializing_if = "is_default")]
    pub check_id: String,
    /// Display name; made of the service's if empty.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The instance that it is about, by id; empty means the node.
    #[serde(rename = "ServiceID", skip_serializing_if = "is_default")]
    pub service_id: String,
    /// The operator's words.
    #[serde(skip_serializing_if = "is_default")]
    pub notes: String,
    /// What it says until it has run; empty means critical.
    #[serde(skip_serializing_if = "is_default")]
    pub status: String,
    /// A command and its arguments.
    #[serde(rename = "Args", alias = "ScriptArgs", skip_serializing_if = "is_default")]
    pub args: Vec<String>,
    /// A container to run it in.
    #[serde(rename = "DockerContainerID", skip_serializing_if = "is_default")]
    pub docker_container_id: String,
    /// The shell to use in the container.
    #[serde(skip_serializing_if = "is_default")]
    pub shell: String,
    /// URL to ask.
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
    /// `host:port` to connect to.
    #[serde(rename = "TCP", skip_serializing_if = "is_default")]
    pub tcp: String,
    /// Use TLS for it.
    #[serde(rename = "TCPUseTLS", skip_serializing_if = "is_default")]
    pub tcp_use_tls: bool,
    /// `host:port` to send a datagram to.
    #[serde(rename = "UDP", skip_serializing_if = "is_default")]
    pub udp: String,
    /// `host:port[/service]` to ask by gRPC health.
    #[serde(rename = "GRPC", skip_serializing_if = "is_default")]
    pub grpc: String,
    /// Use TLS for it.
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "is_default")]
    pub grpc_use_tls: bool,
    /// `host:port` to ping by HTTP/2.
    #[serde(rename = "H2PING", skip_serializing_if = "is_default")]
    pub h2_ping: String,
    /// Use TLS for it.
    #[serde(rename = "H2PingUseTLS", skip_serializing_if = "is_default")]
    pub h2_ping_use_tls: bool,
    /// A service of the operating system.
    #[serde(rename = "OSService", skip_serializing_if = "is_default")]
    pub os_service: String,
    /// The node whose checks it repeats; empty means this one.
    #[serde(skip_serializing_if = "is_default")]
    pub alias_node: String,
    /// The instance (by id) whose checks it repeats.
    #[serde(skip_serializing_if = "is_default")]
    pub alias_service: String,
    /// How often it runs.
    #[serde(skip_serializing_if = "is_default")]
    pub interval: GoDuration,
    /// Its time limit.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: GoDuration,
    /// It is critical if nobody has reported for so long.
    #[serde(rename = "TTL", skip_serializing_if = "is_default")]
    pub ttl: GoDuration,
    /// Name to expect in the certificate of what is checked.
    #[serde(rename = "TLSServerName", skip_serializing_if = "is_default")]
    pub tls_server_name: String,
    /// Accept any certificate.
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_default")]
    pub tls_skip_verify: bool,
    /// See [`Thresholds`].
    #[serde(skip_serializing_if = "is_default")]
    pub success_before_passing: u32,
    /// See [`Thresholds`].
    #[serde(skip_serializing_if = "is_default")]
    pub failures_before_warning: u32,
    /// See [`Thresholds`].
    #[serde(skip_serializing_if = "is_default")]
    pub failures_before_critical: u32,
    /// Remove the service when critical for so long.
    #[serde(skip_serializing_if = "is_default")]
    pub deregister_critical_service_after: GoDuration,
    /// Bytes of output that are kept; 0 means 4 KiB.
    #[serde(skip_serializing_if = "is_default")]
    pub output_max_size: u32,
}

/// The way in which a check finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// Runs a command.
    Script,
    /// Runs a command in a container.
    Docker,
    /// Asks a URL.
    Http,
    /// Opens a connection.
    Tcp,
    /// Sends a datagram.
    Udp,
    /// Asks by gRPC health.
    Grpc,
    /// Pings by HTTP/2.
    H2Ping,
    /// Asks the operating system.
    OsService,
    /// Repeats another's checks.
    Alias,
    /// Waits to be told.
    Ttl,
}

/// Why a check was refused. The user's fault; nothing changed. The texts are Consul's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCheck {
    /// Neither name nor id.
    #[error("Missing check name")]
    NoName,
    /// Not a status.
    #[error("Bad check status")]
    Status,
    /// Two ways to find out.
    #[error("Interval and TTL cannot both be specified")]
    IntervalAndTtl,
    /// It must run now and then, and does not say how often.
    #[error("Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks")]
    NoInterval,
    /// An alias does not run.
    #[error("Interval cannot be set for Alias checks")]
    AliasInterval,
    /// An alias is not told.
    #[error("TTL must be not be set for Alias checks")]
    AliasTtl,
    /// No way to find out.
    #[error("TTL must be > 0 for TTL checks")]
    NoTtl,
    /// It would warn after it is critical.
    #[error("FailuresBeforeWarning can't be higher than FailuresBeforeCritical")]
    WarningAfterCritical,
}

/// Shortest interval of a check (Consul: 1 s). Shorter ones are lengthened.
pub const INTERVAL_MIN: GoDuration = GoDuration::from_secs(1);
/// Shortest time after which a critical service is removed (Consul: 1 min). Shorter ones are lengthened.
pub const DEREGISTER_AFTER_MIN: GoDuration = GoDuration::from_secs(60);
/// Time limit of a check that does not say its own (Consul: 10 s; a script's is 30 s).
pub const TIMEOUT_DEFAULT: GoDuration = GoDuration::from_secs(10);
/// Time limit of a script that does not say its own.
pub const SCRIPT_TIMEOUT_DEFAULT: GoDuration = GoDuration::from_secs(30);

impl AgentCheck {
    /// The way in which it finds out. Of several that are set, Consul's order decides.
    pub fn kind(&self) -> CheckKind {
        let set = [
            (!self.alias_node.is_empty() || !self.alias_service.is_empty(), CheckKind::Alias),
            (!self.docker_container_id.is_empty(), CheckKind::Docker),
            (!self.args.is_empty(), CheckKind::Script),
            (!self.http.is_empty(), CheckKind::Http),
            (!self.tcp.is_empty(), CheckKind::Tcp),
            (!self.udp.is_empty(), CheckKind::Udp),
            (!self.grpc.is_empty(), CheckKind::Grpc),
            (!self.h2_ping.is_empty(), CheckKind::H2Ping),
            (!self.os_service.is_empty(), CheckKind::OsService),
        ];
        set.iter().find(|(is_set, _)| *is_set).map_or(CheckKind::Ttl, |(_, kind)| *kind)
    }

    /// Whether it can be run.
    pub fn validate(&self) -> Result<(), InvalidCheck> {
        let kind = self.kind();
        let has_interval = !self.interval.is_zero();
        let has_ttl = !self.ttl.is_zero();
        if !self.status.is_empty() && self.status.parse::<CheckStatus>().is_err() {
            return Err(InvalidCheck::Status);
        }
        if has_interval && has_ttl {
            return Err(InvalidCheck::IntervalAndTtl);
        }
        match kind {
            CheckKind::Alias if has_interval => return Err(InvalidCheck::AliasInterval),
            CheckKind::Alias if has_ttl => return Err(InvalidCheck::AliasTtl),
            CheckKind::Ttl if !has_ttl => return Err(InvalidCheck::NoTtl),
            CheckKind::Alias | CheckKind::Ttl => {}
            _ if !has_interval => return Err(InvalidCheck::NoInterval),
            _ => {}
        }
        if self.failures_before_warning > self.failures_before_critical {
            return Err(InvalidCheck::WarningAfterCritical);
        }
        Ok(())
    }

    /// Fills what may be left out, for a check of the node or, if `service` (id and name) is given, of an instance.
    /// `nth` is its place among the checks of that instance and `of` their number.
    pub fn normalize(&mut self, service: Option<(&str, &str)>, nth: usize, of: usize) {
        if let Some((id, name)) = service {
            self.service_id = id.to_string();
            if self.check_id.is_empty() {
                self.check_id = if of > 1 { format!("service:{id}:{}", nth + 1) } else { format!("service:{id}") };
            }
            if self.name.is_empty() {
                self.name = format!("Service '{name}' check");
            }
        }
        if self.check_id.is_empty() {
            self.check_id.clone_from(&self.name);
        }
        for (duration, least) in
            [(&mut self.interval, INTERVAL_MIN), (&mut self.deregister_critical_service_after, DEREGISTER_AFTER_MIN)]
        {
            if !duration.is_zero() {
                *duration = (*duration).max(least);
            }
        }
        if self.timeout.is_zero() {
            match self.kind() {
                CheckKind::Script | CheckKind::Docker => self.timeout = SCRIPT_TIMEOUT_DEFAULT,
                CheckKind::Alias | CheckKind::Ttl => {}
                CheckKind::Http
                | CheckKind::Tcp
                | CheckKind::Udp
                | CheckKind::Grpc
                | CheckKind::H2Ping
                | CheckKind::OsService => {
                    self.timeout = TIMEOUT_DEFAULT;
                }
            }
        }
    }

    /// Runs in a row that it takes to change what it says.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds {
            success_before_passing: self.success_before_passing,
            failures_before_warning: self.failures_before_warning,
            failures_before_critical: self.failures_before_critical,
        }
    }

    /// What it says until it has run.
    pub fn initial_status(&self) -> CheckStatus {
        self.status.parse().unwrap_or_default()
    }

    /// Most bytes of output that are kept.
    pub fn output_bytes_max(&self) -> usize {
        let wanted = self.output_max_size as usize;
        if wanted == 0 { CHECK_OUTPUT_BYTES_MAX } else { wanted.min(CHECK_OUTPUT_BYTES_MAX) }
    }

    /// The check as the catalog keeps it, before it has run.
    pub fn to_check(&self) -> Check {
        let text = |duration: GoDuration| {
            if duration.is_zero() { String::new() } else { duration.to_string() }
        };
        Check {
            check_id: self.check_id.clone(),
            name: self.name.clone(),
            status: self.initial_status(),
            notes: self.notes.clone(),
            service_id: self.service_id.clone(),
            kind: self.kind().as_str().to_string(),
            interval: text(self.interval),
            timeout: text(self.timeout),
            definition: self.definition(),
            ..Check::default()
        }
    }

    fn definition(&self) -> CheckDefinition {
        CheckDefinition {
            http: self.http.clone(),
            header: self.header.clone(),
            method: self.method.clone(),
            body: self.body.clone(),
            disable_redirects: self.disable_redirects,
            tls_server_name: self.tls_server_name.clone(),
            tls_skip_verify: self.tls_skip_verify,
            tcp: self.tcp.clone(),
            udp: self.udp.clone(),
            grpc: self.grpc.clone(),
            grpc_use_tls: self.grpc_use_tls,
            interval: self.interval,
            timeout: self.timeout,
            deregister_critical_service_after: self.deregister_critical_service_after,
        }
    }
}

impl CheckKind {
    /// Consul's name of it (`Type` of a check).
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckKind::Script => "script",
            CheckKind::Docker => "docker",
            CheckKind::Http => "http",
            CheckKind::Tcp => "tcp",
            CheckKind::Udp => "udp",
            CheckKind::Grpc => "grpc",
            CheckKind::H2Ping => "h2ping",
            CheckKind::OsService => "os_service",
            CheckKind::Alias => "alias",
            CheckKind::Ttl => "ttl",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> AgentCheck {
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
    }

    #[test]
    fn each_kind_is_recognised_and_has_its_rules() {
        let cases = [
            (r#"{"TTL": "10s"}"#, "ttl", ""),
            ("{}", "ttl", "TTL must be > 0 for TTL checks"),
            (r#"{"HTTP": "http://x/", "Interval": "10s"}"#, "http", ""),
            (
                r#"{"HTTP": "http://x/"}"#,
                "http",
                "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
            ),
            (
                r#"{"HTTP": "http://x/", "Interval": "1s", "TTL": "1s"}"#,
                "http",
                "Interval and TTL cannot both be specified",
            ),
            (r#"{"TCP": "x:1", "Interval": 1000000000}"#, "tcp", ""),
            (r#"{"UDP": "x:1", "Interval": "1s"}"#, "udp", ""),
            (r#"{"GRPC": "x:1/svc", "GRPCUseTLS": true, "Interval": "1s"}"#, "grpc", ""),
            (r#"{"H2PING": "x:1", "Interval": "1s"}"#, "h2ping", ""),
            (r#"{"OSService": "ssh", "Interval": "1s"}"#, "os_service", ""),
            (r#"{"Args": ["true"], "Interval": "1s"}"#, "script", ""),
            (r#"{"ScriptArgs": ["true"], "Interval": "1s"}"#, "script", ""),
            (r#"{"Args": ["true"], "DockerContainerID": "c", "Interval": "1s"}"#, "docker", ""),
            (r#"{"AliasService": "db"}"#, "alias", ""),
            (r#"{"AliasNode": "n", "TTL": "1s"}"#, "alias", "TTL must be not be set for Alias checks"),
            (r#"{"AliasNode": "n", "Interval": "1s"}"#, "alias", "Interval cannot be set for Alias checks"),
            (r#"{"TTL": "1s", "Status": "fine"}"#, "ttl", "Bad check status"),
            (
                r#"{"TTL": "1s", "FailuresBeforeWarning": 3, "FailuresBeforeCritical": 2}"#,
                "ttl",
                "FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
            ),
        ];
        for (json, kind, problem) in cases {
            let check = check(json);
            assert_eq!(check.kind().as_str(), kind, "{json}");
            assert_eq!(check.validate().err().map(|e| e.to_string()).unwrap_or_default(), problem, "{json}");
        }
    }

    #[test]
    fn what_is_left_out_is_filled_as_consul_does() {
        let mut one = check(r#"{"HTTP": "http://x/", "Interval": "10ms", "DeregisterCriticalServiceAfter": "10s"}"#);
        one.normalize(Some(("web-1", "web")), 0, 1);
        assert_eq!((one.check_id.as_str(), one.name.as_str()), ("service:web-1", "Service 'web' check"));
        assert_eq!((one.interval, one.timeout), (INTERVAL_MIN, TIMEOUT_DEFAULT));
        assert_eq!(one.deregister_critical_service_after, DEREGISTER_AFTER_MIN);
        let mut second = check(r#"{"TTL": "10s"}"#);
        second.normalize(Some(("web-1", "web")), 1, 2);
        assert_eq!(second.check_id, "service:web-1:2");
        assert!(second.timeout.is_zero());
        let mut of_node = check(r#"{"Name": "disk", "TTL": "10s"}"#);
        of_node.normalize(None, 0, 1);
        assert_eq!((of_node.check_id.as_str(), of_node.service_id.as_str()), ("disk", ""));
    }

    #[test]
    fn the_catalogs_form_keeps_what_others_need() {
        let mut web =
            check(r#"{"HTTP": "http://x/", "Interval": "10s", "Method": "HEAD", "Notes": "n", "Status": "passing"}"#);
        web.normalize(Some(("web", "web")), 0, 1);
        let kept = web.to_check();
        assert_eq!(kept.status, CheckStatus::Passing);
        assert_eq!((kept.kind.as_str(), kept.interval.as_str(), kept.timeout.as_str()), ("http", "10s", "10s"));
        assert_eq!((kept.definition.http.as_str(), kept.definition.method.as_str()), ("http://x/", "HEAD"));
        assert_eq!(kept.service_id, "web");
        assert_eq!(check(r#"{"TTL": "1s"}"#).to_check().interval, "");
    }

    #[test]
    fn thresholds_and_the_rest_survive_a_round_trip() {
        let web = check(
            r#"{"ID": "c", "TTL": "10s", "SuccessBeforePassing": 2, "FailuresBeforeCritical": 3, "OutputMaxSize": 100}"#,
        );
        let expected =
            Thresholds { success_before_passing: 2, failures_before_warning: 0, failures_before_critical: 3 };
        assert_eq!(web.thresholds(), expected);
        assert_eq!(web.output_bytes_max(), 100);
        let packed = rmp_serde::to_vec_named(&web).expect("packs");
        assert_eq!(rmp_serde::from_slice::<AgentCheck>(&packed).expect("unpacks"), web);
        let json = serde_json::to_string(&web).expect("prints");
        assert_eq!(check(&json), web);
    }
}
