//! SPIFFE ids in Consul's forms.

use std::fmt;
use std::str::FromStr;

/// Who a certificate speaks for. (Consul: `agent/connect/uri.go`; SPIFFE-ID specification.)
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// `<uuid>.consul`, lower case.
    pub trust_domain: String,
    /// Which kind of party, and its names.
    pub subject: Subject,
}

/// Which kind of party a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `/ns/default/dc/<dc>/svc/<service>`
    Service {
        /// Datacenter.
        dc: String,
        /// Service name.
        service: String,
    },
    /// `/agent/client/dc/<dc>/id/<node>`
    Agent {
        /// Datacenter.
        dc: String,
        /// Node name.
        node: String,
    },
    /// `/agent/server/dc/<dc>`
    Server {
        /// Datacenter.
        dc: String,
    },
    /// `/gateway/mesh/dc/<dc>`
    Gateway {
        /// Datacenter.
        dc: String,
    },
}

/// Not a SPIFFE id in a form that we know. The peer's (or the CSR's) fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SPIFFE id of this mesh")]
pub struct InvalidSpiffeId(pub String);

impl SpiffeId {
    /// The id of a service.
    pub fn service(trust_domain: &str, dc: &str, service: &str) -> Self {
        Self::new(trust_domain, Subject::Service { dc: dc.into(), service: service.into() })
    }

    /// An id in a trust domain.
    pub fn new(trust_domain: &str, subject: Subject) -> Self {
        SpiffeId { trust_domain: trust_domain.to_ascii_lowercase(), subject }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        match &self.subject {
            Subject::Service { dc, service } => write!(f, "/ns/default/dc/{dc}/svc/{service}"),
            Subject::Agent { dc, node } => write!(f, "/agent/client/dc/{dc}/id/{node}"),
            Subject::Server { dc } => write!(f, "/agent/server/dc/{dc}"),
            Subject::Gateway { dc } => write!(f, "/gateway/mesh/dc/{dc}"),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    /// Strict: no escapes, no empty segments, no query, no port, no user; names as they stand.
    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let bad = || InvalidSpiffeId(text.to_string());
        let rest = text.strip_prefix("spiffe://").ok_or_else(bad)?;
        if text.len() > 2048 || !rest.chars().all(is_plain) {
            return Err(bad());
        }
        let (trust_domain, path) = rest.split_once('/').ok_or_else(bad)?;
        if trust_domain.is_empty()
            || !trust_domain.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        {
            return Err(bad());
        }
        let segments: Vec<&str> = path.split('/').collect();
        if segments.iter().any(|s| s.is_empty() || *s == "." || *s == "..") {
            return Err(bad());
        }
        let subject = match segments[..] {
            ["ns", "default", "dc", dc, "svc", service] => Subject::Service { dc: dc.into(), service: service.into() },
            ["agent", "client", "dc", dc, "id", node] => Subject::Agent { dc: dc.into(), node: node.into() },
            ["agent", "server", "dc", dc] => Subject::Server { dc: dc.into() },
            ["gateway", "mesh", "dc", dc] => Subject::Gateway { dc: dc.into() },
            _ => return Err(bad()),
        };
        Ok(SpiffeId { trust_domain: trust_domain.to_string(), subject })
    }
}

/// Characters that need no escape in a path segment (SPIFFE-ID 2.2) and cannot be misread.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._/".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_survives_a_round_trip() {
        for text in [
            "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web",
            "spiffe://td.consul/agent/client/dc/dc1/id/node-1",
            "spiffe://td.consul/agent/server/dc/dc1",
            "spiffe://td.consul/gateway/mesh/dc/dc2",
        ] {
            assert_eq!(text.parse::<SpiffeId>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn tricks_are_refused() {
        for text in [
            "",
            "http://td.consul/agent/server/dc/dc1",
            "spiffe://td.consul",
            "spiffe://td.consul/",
            "spiffe:///agent/server/dc/dc1",
            "spiffe://TD.consul/agent/server/dc/dc1",
            "spiffe://td.consul:80/agent/server/dc/dc1",
            "spiffe://u@td.consul/agent/server/dc/dc1",
            "spiffe://td.consul/agent/server/dc/dc1/",
            "spiffe://td.consul/agent/server/dc/",
            "spiffe://td.consul/agent/server/dc/..",
            "spiffe://td.consul/agent/server/dc/d%63",
            "spiffe://td.consul/agent/server/dc/dc1?x",
            "spiffe://td.consul/agent/server/dc/dc\u{0}1",
            "spiffe://td.consul/ns/other/dc/dc1/svc/web",
            "spiffe://td.consul/ns/default/dc/dc1/svc/*",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}".prop_filter("dots alone are no name", |name| name.chars().any(|c| c != '.'))
    }

    fn subject() -> impl Strategy<Value = Subject> {
        prop_oneof![
            (name(), name()).prop_map(|(dc, service)| Subject::Service { dc, service }),
            (name(), name()).prop_map(|(dc, node)| Subject::Agent { dc, node }),
            name().prop_map(|dc| Subject::Server { dc }),
            name().prop_map(|dc| Subject::Gateway { dc }),
        ]
    }

    proptest! {
        #[test]
        fn every_id_survives_a_round_trip(subject in subject(), domain in "[a-z0-9-]{1,36}\\.consul") {
            let id = SpiffeId::new(&domain, subject);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn an_id_has_one_spelling(text in "spiffe://[ -~]{0,80}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn parties_are_never_mistaken_for_each_other(a in subject(), b in subject()) {
            let (a, b) = (SpiffeId::new("t.consul", a), SpiffeId::new("t.consul", b));
            prop_assert_eq!(a == b, a.to_string() == b.to_string());
        }
    }
}
