//! Bodies of requests to an agent: registrations of services and checks.

use model::CheckStatus;
use serde::{Deserialize, Serialize};

/// The body of `PUT /v1/agent/check/register`, and a check within a registration.
pub use model::AgentCheck as CheckRegistration;
/// The body of `PUT /v1/agent/service/register`.
pub use model::AgentServiceRegistration as ServiceRegistration;

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

impl CheckUpdate {
    /// The reported status, or Consul's refusal.
    pub fn parse_status(&self) -> Result<CheckStatus, crate::Error> {
        let invalid = || crate::Error::bad_request(format!("Invalid check status: '{}'", self.status));
        self.status.parse().map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_slice;
    use model::GoDuration;

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
        assert_eq!(check.deregister_critical_service_after, GoDuration::from_secs(5400));
        assert!(check.tls_skip_verify && registration.enable_tag_override);
        assert_eq!(registration.tagged_addresses["lan"].port, 80);
        assert!(registration.connect.sidecar_service.is_some());
        assert_eq!(registration.instance().id, "web-1");
    }

    #[test]
    fn a_check_may_be_called_by_either_name() {
        for body in [r#"{"ID": "c"}"#, r#"{"CheckID": "c"}"#, r#"{"check_id": "c"}"#, r#"{"id": "c"}"#] {
            assert_eq!(from_slice::<CheckRegistration>(body.as_bytes()).expect(body).check_id, "c");
        }
        let script: CheckRegistration = from_slice(br#"{"script_args": ["a", "b"]}"#).expect("reads");
        assert_eq!(script.args, ["a", "b"]);
    }

    #[test]
    fn a_reported_status_is_checked() {
        let update = |status: &str| CheckUpdate { status: status.into(), output: String::new() };
        assert_eq!(update("warning").parse_status(), Ok(CheckStatus::Warning));
        let refusal = update("ok").parse_status().expect_err("refused");
        assert_eq!(refusal.text, "Invalid check status: 'ok'");
    }
}
