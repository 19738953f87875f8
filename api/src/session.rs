//! Bodies of requests for sessions.

use model::Session;
use model::check::SERF_HEALTH;
use model::session::{InvalidSession, LockDelay, SessionCheck};
use serde::{Deserialize, Serialize};

/// The body of `PUT /v1/session/create`; all of it may be left out. (Consul: `structs.Session`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateSession {
    /// For people.
    pub name: String,
    /// The node that it lives and dies with; empty means the node that was asked.
    pub node: String,
    /// For so long after its end nobody may lock what it held.
    pub lock_delay: LockDelay,
    /// `release` (also if empty) or `delete`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub behavior: String,
    /// It ends when nobody renews it for so long; empty: it needs no renewal.
    #[serde(rename = "TTL")]
    pub ttl: String,
    /// Checks of its node; if not given, `serfHealth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_checks: Option<Vec<String>>,
    /// Checks of instances on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_checks: Option<Vec<SessionCheck>>,
    /// The old name of both. An empty list means no checks of the node at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<String>>,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionId {
    /// The new session's id.
    #[serde(rename = "ID")]
    pub id: String,
}

impl CreateSession {
    /// The session that it describes, on the node that was asked if it names none.
    pub fn into_session(self, id: String, asked_node: &str) -> Result<Session, InvalidSession> {
        let behavior = self.behavior.parse()?;
        let (node_checks, checks) = checks(self.node_checks, self.checks);
        Ok(Session {
            id,
            name: self.name,
            node: if self.node.is_empty() { asked_node.to_string() } else { self.node },
            lock_delay: self.lock_delay,
            behavior,
            ttl: self.ttl,
            node_checks,
            service_checks: self.service_checks.unwrap_or_default(),
            checks,
        })
    }
}

/// `NodeChecks` and `Checks` as Consul understands them together. (Consul: `fixupEmptySessionChecks`.)
fn checks(node_checks: Option<Vec<String>>, checks: Option<Vec<String>>) -> (Vec<String>, Vec<String>) {
    let node_checks = node_checks.unwrap_or_else(|| vec![SERF_HEALTH.into()]);
    match checks {
        Some(checks) if checks.is_empty() => (Vec::new(), Vec::new()),
        Some(checks) if !node_checks.is_empty() && checks != [SERF_HEALTH] => (node_checks, checks),
        Some(_) | None => (node_checks, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_slice;

    fn session(body: &str) -> Session {
        let body: CreateSession = from_slice(body.as_bytes()).expect(body);
        body.into_session("id".into(), "here").expect("good")
    }

    #[test]
    fn what_is_left_out_is_consuls_default() {
        let made = session("{}");
        assert_eq!((made.node.as_str(), made.lock_delay.0.as_secs(), made.ttl.as_str()), ("here", 15, ""));
        let made = session(r#"{"node": "n1", "lock_delay": 5, "ttl": "10s", "behavior": "delete", "Name": "lead"}"#);
        assert_eq!((made.node.as_str(), made.lock_delay.0.as_secs(), made.ttl.as_str()), ("n1", 5, "10s"));
        assert_eq!(session(r#"{"LockDelay": "250ms"}"#).lock_delay.0.as_millis(), 250);
    }

    #[test]
    fn checks_have_an_old_and_a_new_name() {
        for (body, ids) in [
            ("{}", &["serfHealth"][..]),
            (r#"{"Checks": []}"#, &[]),
            (r#"{"NodeChecks": []}"#, &[]),
            (r#"{"NodeChecks": null}"#, &["serfHealth"]),
            (r#"{"Checks": ["serfHealth"]}"#, &["serfHealth"]),
            (r#"{"Checks": ["a"]}"#, &["a", "serfHealth"]),
            (r#"{"NodeChecks": ["a"]}"#, &["a"]),
            (r#"{"NodeChecks": ["a"], "Checks": []}"#, &[]),
            (r#"{"NodeChecks": [], "Checks": ["a"]}"#, &[]),
            (r#"{"NodeChecks": [], "ServiceChecks": [{"ID": "s"}]}"#, &["s"]),
        ] {
            let session = session(body);
            assert_eq!(session.check_ids().collect::<Vec<_>>(), ids, "{body}");
        }
    }

    #[test]
    fn an_unknown_behaviour_is_refused() {
        let body: CreateSession = from_slice(br#"{"Behavior": "keep"}"#).expect("reads");
        let refusal = body.into_session("id".into(), "here").expect_err("refused");
        assert_eq!(refusal.to_string(), "Invalid Behavior setting 'keep'");
    }
}
