//! A registration of a check, understood: pure.

use crate::config::{Scripts, Source};
use crate::local::CheckSpec;
use api::Error;
use model::agent_check::{CheckKind, InvalidCheck, TIMEOUT_DEFAULT};
use model::{AgentCheck, CheckDefinition, ServiceInstance};
use std::sync::Arc;
use std::time::Duration;

/// How a check is made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) probe: Probe,
    /// As it was registered, with what was left out filled.
    pub(crate) check: Arc<AgentCheck>,
}

/// What is done at each run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Probe {
    /// An HTTP request.
    Http,
    /// A TCP connection.
    Tcp,
    /// A datagram.
    Udp,
    /// A question by gRPC's health protocol.
    Grpc,
    /// A command.
    Script,
    /// Nothing: somebody reports, at least so often.
    Ttl(Duration),
    /// Nothing: it repeats the checks of an instance on this node.
    Alias(String),
    /// Nothing: it says what it said when it was registered (maintenance).
    Fixed,
}

impl Plan {
    /// A plan, or Consul's refusal.
    pub(crate) fn parse(check: &Arc<AgentCheck>, scripts: Scripts, source: Source) -> Result<Plan, Error> {
        check.validate().map_err(|refusal| match refusal {
            InvalidCheck::Status | InvalidCheck::NoName => Error::bad_request(refusal.to_string()),
            other => Error::bad_request(format!("Invalid check: {other}")),
        })?;
        if check.kind() == CheckKind::Script && !scripts.allow(source) {
            return Err(Error::bad_request(match scripts {
                Scripts::Local => {
                    "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true"
                }
                Scripts::Off | Scripts::All => {
                    "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true"
                }
            }));
        }
        Self::understand(check).map_err(|reason| Error::bad_request(format!("Invalid check: {reason}")))
    }

    /// The plan of a check that was taken before. One without any way to find out is a fixed one.
    pub(crate) fn understand(check: &Arc<AgentCheck>) -> Result<Plan, String> {
        let probe = match check.kind() {
            CheckKind::Http => Probe::Http,
            CheckKind::Tcp => Probe::Tcp,
            CheckKind::Udp => Probe::Udp,
            CheckKind::Grpc => Probe::Grpc,
            CheckKind::Script => Probe::Script,
            CheckKind::Ttl if check.ttl.is_zero() => Probe::Fixed,
            CheckKind::Ttl => Probe::Ttl(check.ttl.0),
            CheckKind::Alias if !check.alias_node.is_empty() => {
                return Err("AliasNode is not supported: register the check on that node".to_string());
            }
            CheckKind::Alias => Probe::Alias(check.alias_service.clone()),
            kind @ (CheckKind::Docker | CheckKind::H2Ping | CheckKind::OsService) => {
                return Err(format!(
                    "{} checks are not supported: use HTTP, TCP, UDP, GRPC, TTL, Args or AliasService",
                    kind.as_str()
                ));
            }
        };
        Ok(Plan { probe, check: check.clone() })
    }

    /// That of a check which says what it says (maintenance).
    pub(crate) fn fixed(check: AgentCheck) -> Plan {
        Plan { probe: Probe::Fixed, check: Arc::new(check) }
    }

    /// Between two runs.
    pub(crate) fn interval(&self) -> Duration {
        self.check.interval.0
    }

    /// Most time for a run.
    pub(crate) fn timeout(&self) -> Duration {
        if self.check.timeout.is_zero() { TIMEOUT_DEFAULT.0 } else { self.check.timeout.0 }
    }

    /// How long it may be critical until its service is removed.
    pub(crate) fn deregister_after(&self) -> Option<Duration> {
        let after = self.check.deregister_critical_service_after;
        (!after.is_zero()).then_some(after.0)
    }

    /// The time to live of a TTL check.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        match self.probe {
            Probe::Ttl(ttl) => Some(ttl),
            _ => None,
        }
    }

    /// The instance whose checks it repeats.
    pub(crate) fn alias(&self) -> Option<&str> {
        match &self.probe {
            Probe::Alias(service) => Some(service),
            _ => None,
        }
    }
}

/// What is to be run for a check that has been filled out, and what the catalog gets of it. How it is made stays here.
pub(crate) fn spec(
    node: &str,
    check: AgentCheck,
    service: Option<&ServiceInstance>,
    scripts: Scripts,
    source: Source,
) -> Result<CheckSpec, Error> {
    let check = Arc::new(check);
    let plan = Arc::new(Plan::parse(&check, scripts, source)?);
    let mut noun = check.to_check();
    noun.node = node.to_string();
    noun.definition = CheckDefinition::default();
    if let Some(service) = service {
        noun.service_name.clone_from(&service.service);
        noun.service_tags.clone_from(&service.tags);
    }
    Ok(CheckSpec { check: noun, plan })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json::from_slice;
    use model::GoDuration;

    fn plan(json: &str) -> Result<Plan, String> {
        let mut check: AgentCheck = from_slice(json.as_bytes()).expect(json);
        check.normalize(None, 0, 1);
        Plan::parse(&Arc::new(check), Scripts::Local, Source::File).map_err(|e| e.text)
    }

    #[test]
    fn kinds_are_told_apart() {
        let cases = [
            (r#"{"HTTP": "http://x", "Interval": "10s"}"#, Probe::Http),
            (r#"{"TCP": "x:1", "Interval": "10s"}"#, Probe::Tcp),
            (r#"{"UDP": "x:1", "Interval": "10s"}"#, Probe::Udp),
            (r#"{"GRPC": "x:1", "Interval": "10s"}"#, Probe::Grpc),
            (r#"{"Args": ["true"], "Interval": "10s"}"#, Probe::Script),
            (r#"{"TTL": "10s"}"#, Probe::Ttl(Duration::from_secs(10))),
            (r#"{"AliasService": "web"}"#, Probe::Alias("web".into())),
        ];
        for (json, probe) in cases {
            assert_eq!(plan(json).expect(json).probe, probe);
        }
    }

    #[test]
    fn refusals_are_consuls() {
        let cases = [
            ("{}", "Invalid check: TTL must be > 0 for TTL checks"),
            (r#"{"TTL": "1s", "Status": "fine"}"#, "Bad check status"),
            (r#"{"TTL": "1s", "Interval": "1s"}"#, "Invalid check: Interval and TTL cannot both be specified"),
            (
                r#"{"HTTP": "x"}"#,
                "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
            ),
        ];
        for (json, refusal) in cases {
            assert_eq!(plan(json).expect_err(json), refusal);
        }
        for json in [
            r#"{"H2PING": "x", "Interval": "1s"}"#,
            r#"{"AliasNode": "n2"}"#,
            r#"{"OSService": "x", "Interval": "1s"}"#,
        ] {
            assert!(plan(json).expect_err(json).contains("not supported"), "{json}");
        }
    }

    #[test]
    fn scripts_need_leave() {
        let script = Arc::new(AgentCheck {
            args: vec!["true".into()],
            interval: GoDuration::from_secs(9),
            ..Default::default()
        });
        let cases = [
            (Scripts::Off, Source::File, false),
            (Scripts::Off, Source::Http, false),
            (Scripts::Local, Source::File, true),
            (Scripts::Local, Source::Http, false),
            (Scripts::All, Source::Http, true),
        ];
        for (scripts, source, allowed) in cases {
            assert_eq!(Plan::parse(&script, scripts, source).is_ok(), allowed, "{scripts:?} {source:?}");
        }
        let refusal = Plan::parse(&script, Scripts::Local, Source::Http).expect_err("refused").text;
        assert!(refusal.contains("from remote calls"), "{refusal}");
    }

    #[test]
    fn how_it_is_made_stays_here() {
        let service =
            ServiceInstance { id: "web-1".into(), service: "web".into(), tags: vec!["a".into()], ..Default::default() };
        let mut check: AgentCheck =
            from_slice(br#"{"HTTP": "http://user:secret@x/", "Interval": "10s"}"#).expect("reads");
        check.normalize(Some(("web-1", "web")), 0, 1);
        let noun = spec("n1", check, Some(&service), Scripts::Off, Source::Http).expect("a check").check;
        assert_eq!((noun.check_id.as_str(), noun.kind.as_str(), noun.node.as_str()), ("service:web-1", "http", "n1"));
        assert_eq!((noun.service_name.as_str(), noun.interval.as_str()), ("web", "10s"));
        assert_eq!(noun.definition, CheckDefinition::default());
    }
}
