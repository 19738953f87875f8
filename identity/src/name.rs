//! The names that certificates carry: of members of the mesh, and of nodes that are about to join it.

use std::fmt;
use std::str::FromStr;

use model::SpiffeId;
use model::spiffe::{InvalidSpiffeId, Subject};

use crate::error::{Error, Refused};

/// The trust domain of join certificates. No mesh can have it, for theirs end in `.consul` by nature of Consul's form.
pub const JOIN_TRUST_DOMAIN: &str = "join.tribune";

/// Whom a leaf certificate is for: its SPIFFE id, and for servers the node (Consul's server id does not name it).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafName {
    id: SpiffeId,
    node: Option<String>,
}

impl LeafName {
    /// A service's leaf.
    pub fn service(trust_domain: &str, dc: &str, service: &str) -> Result<Self, Error> {
        Self::checked(SpiffeId::service(trust_domain, dc, service), None)
    }

    /// A client agent's leaf.
    pub fn agent(trust_domain: &str, dc: &str, node: &str) -> Result<Self, Error> {
        Self::checked(SpiffeId::new(trust_domain, Subject::Agent { dc: dc.into(), node: node.into() }), None)
    }

    /// A server's leaf; the node's name goes into the DNS name `<node>.server.<dc>.consul`.
    pub fn server(trust_domain: &str, dc: &str, node: &str) -> Result<Self, Error> {
        Self::checked(SpiffeId::new(trust_domain, Subject::Server { dc: dc.into() }), Some(node.to_string()))
    }

    /// A mesh gateway's leaf.
    pub fn gateway(trust_domain: &str, dc: &str) -> Result<Self, Error> {
        Self::checked(SpiffeId::new(trust_domain, Subject::Gateway { dc: dc.into() }), None)
    }

    /// A leaf for any id but a server's, which needs [`LeafName::server`].
    pub fn of(id: SpiffeId) -> Result<Self, Error> {
        Self::checked(id, None)
    }

    /// The SPIFFE id.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The server's node name.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The datacenter of the holder.
    pub fn dc(&self) -> &str {
        dc_of(&self.id.subject)
    }

    /// The only DNS name that the certificate may have.
    pub(crate) fn dns(&self) -> Option<String> {
        self.node.as_ref().map(|node| server_dns(node, self.dc()))
    }

    /// The one gate: what does not survive a round trip through its text must never be in a certificate.
    fn checked(id: SpiffeId, node: Option<String>) -> Result<Self, Error> {
        let refuse = |why| Err(Error::Name { name: id.to_string(), why });
        if id.to_string().parse().as_ref() != Ok(&id) {
            return refuse("its names must be of letters, digits, '-', '_' and '.'");
        }
        if id.trust_domain == JOIN_TRUST_DOMAIN {
            return refuse("that trust domain is kept for joining");
        }
        match (&id.subject, &node) {
            (Subject::Server { .. }, None) => refuse("a server's certificate must name its node"),
            (Subject::Server { .. }, Some(node)) if !is_label(node) => {
                refuse("the node's name must be of letters, digits, '-', '_' and '.'")
            }
            (_, _) => Ok(LeafName { id, node }),
        }
    }
}

impl fmt::Display for LeafName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{} (node {node})", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

/// What a node joins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A server.
    Server,
    /// A client agent.
    Client,
    /// A mesh gateway or proxy that speaks to the servers itself.
    Gateway,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Client => "client",
            Role::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a joining node says it is: `spiffe://join.tribune/role/<role>/dc/<dc>/id/<node>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinName {
    /// What it joins as.
    pub role: Role,
    /// Its datacenter.
    pub dc: String,
    /// Its node name.
    pub node: String,
}

impl fmt::Display for JoinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{JOIN_TRUST_DOMAIN}/role/{}/dc/{}/id/{}", self.role, self.dc, self.node)
    }
}

impl FromStr for JoinName {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let bad = || InvalidSpiffeId(text.to_string());
        let path = text.strip_prefix("spiffe://").and_then(|t| t.strip_prefix(JOIN_TRUST_DOMAIN)).ok_or_else(bad)?;
        let segments: Vec<&str> = path.split('/').collect();
        let ["", "role", role, "dc", dc, "id", node] = segments[..] else {
            return Err(bad());
        };
        let role =
            [Role::Server, Role::Client, Role::Gateway].into_iter().find(|r| r.as_str() == role).ok_or_else(bad)?;
        if !is_label(dc) || !is_label(node) {
            return Err(bad());
        }
        Ok(JoinName { role, dc: dc.to_string(), node: node.to_string() })
    }
}

/// Who is at the other end of a verified connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A node that knows the join secret and has no certificate of the mesh yet. It may ask for one, and nothing else.
    Joiner {
        /// What it wants to be.
        role: Role,
        /// The datacenter that it says it is in.
        dc: String,
        /// The node that it says it is.
        node: String,
    },
    /// A server of the mesh.
    Server {
        /// Its datacenter.
        dc: String,
        /// Its node name.
        node: String,
    },
    /// A client agent.
    Agent {
        /// Its datacenter.
        dc: String,
        /// Its node name.
        node: String,
    },
    /// A service (its sidecar, or itself).
    Service {
        /// Its datacenter.
        dc: String,
        /// Its name.
        service: String,
    },
    /// A mesh gateway.
    Gateway {
        /// Its datacenter.
        dc: String,
    },
}

/// The name in a certificate that we have read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertName {
    Member(LeafName),
    Joiner(JoinName),
}

impl CertName {
    /// Reads the only URI, and for servers the only DNS name.
    pub(crate) fn parse(uri: &str, dns: &[&str]) -> Result<Self, Refused> {
        if uri.strip_prefix("spiffe://").is_some_and(|rest| rest.split('/').next() == Some(JOIN_TRUST_DOMAIN)) {
            return Ok(CertName::Joiner(uri.parse()?));
        }
        let id: SpiffeId = uri.parse()?;
        let node = match &id.subject {
            Subject::Server { dc } => Some(server_node(dns, dc).ok_or_else(|| Refused::NoServerNode(dc.clone()))?),
            Subject::Service { .. } | Subject::Agent { .. } | Subject::Gateway { .. } => None,
        };
        Ok(CertName::Member(LeafName { id, node }))
    }

    pub(crate) fn into_peer(self) -> Peer {
        let (subject, node) = match self {
            CertName::Joiner(JoinName { role, dc, node }) => {
                return Peer::Joiner { role, dc, node };
            }
            CertName::Member(LeafName { id, node }) => (id.subject, node),
        };
        match subject {
            Subject::Service { dc, service } => Peer::Service { dc, service },
            Subject::Agent { dc, node } => Peer::Agent { dc, node },
            Subject::Server { dc } => Peer::Server { dc, node: node.unwrap_or_default() },
            Subject::Gateway { dc } => Peer::Gateway { dc },
        }
    }
}

impl fmt::Display for CertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertName::Member(name) => name.fmt(f),
            CertName::Joiner(name) => name.fmt(f),
        }
    }
}

/// The datacenter in an id.
pub(crate) fn dc_of(subject: &Subject) -> &str {
    match subject {
        Subject::Service { dc, .. } | Subject::Agent { dc, .. } | Subject::Server { dc } | Subject::Gateway { dc } => {
            dc
        }
    }
}

fn server_dns(node: &str, dc: &str) -> String {
    format!("{node}.server.{dc}.consul")
}

fn server_node(dns: &[&str], dc: &str) -> Option<String> {
    let [name] = dns else { return None };
    let node = name.strip_suffix(&format!(".server.{dc}.consul"))?;
    is_label(node).then(|| node.to_string())
}

/// What one segment of an id may be: the same characters as in SPIFFE ids of the mesh.
fn is_label(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text != "."
        && text != ".."
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_would_change_their_meaning_in_text_are_refused() {
        for (dc, service) in [
            ("dc1", "web/../admin"),
            ("dc1/svc/x", "web"),
            ("dc1", ""),
            ("dc1", "wéb"),
            ("dc1", "a b"),
            ("dc1", "*"),
            ("dc1", ".."),
        ] {
            assert!(LeafName::service("td.consul", dc, service).is_err(), "{dc} {service}");
        }
        assert!(LeafName::server("td.consul", "dc1", "a/b").is_err());
        assert!(LeafName::server("td.consul", "dc1", "").is_err());
        assert!(LeafName::gateway(JOIN_TRUST_DOMAIN, "dc1").is_err());
        assert!(LeafName::of(SpiffeId::new("td.consul", Subject::Server { dc: "dc1".into() })).is_err());
    }

    #[test]
    fn a_server_is_named_by_exactly_one_dns_name() {
        let uri = "spiffe://td.consul/agent/server/dc/dc1";
        let good = CertName::parse(uri, &["n1.rack.server.dc1.consul"]).expect("good");
        assert_eq!(good.into_peer(), Peer::Server { dc: "dc1".into(), node: "n1.rack".into() });
        for dns in [
            &[][..],
            &["n1.server.dc2.consul"],
            &[".server.dc1.consul"],
            &["n1.server.dc1.consul", "n2.server.dc1.consul"],
            &["*.server.dc1.consul"],
        ] {
            assert_eq!(CertName::parse(uri, dns), Err(Refused::NoServerNode("dc1".into())), "{dns:?}");
        }
    }

    #[test]
    fn join_names_are_read_strictly() {
        for bad in [
            "spiffe://join.tribune/role/root/dc/dc1/id/n",
            "spiffe://join.tribune/role/server/dc/dc1/id/",
            "spiffe://join.tribune/role/server/dc/dc1/id/n/",
            "spiffe://join.tribune/role/server/dc/dc1/id/..",
            "spiffe://join.tribune/role/server/dc/d%63/id/n",
            "spiffe://join.tribune/agent/server/dc/dc1",
            "spiffe://join.tribune",
            "spiffe://join.tribune/role/server/dc/dc\0/id/n",
        ] {
            assert!(CertName::parse(bad, &["n.server.dc1.consul"]).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn join_names_survive_a_round_trip(role in 0..3usize, dc in "[a-zA-Z0-9_-]{1,20}", node in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,30}") {
            let name = JoinName { role: [Role::Server, Role::Client, Role::Gateway][role], dc, node };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn every_leaf_name_survives_a_round_trip_or_is_refused(dc in "\\PC{0,8}", service in "\\PC{0,12}") {
            if let Ok(name) = LeafName::service("td.consul", &dc, &service) {
                let read = CertName::parse(&name.id().to_string(), &[]).expect("what we accept, we can read");
                prop_assert_eq!(read.into_peer(), Peer::Service { dc, service });
            }
        }

        #[test]
        fn no_text_crashes_the_reader(text in "\\PC{0,80}", tail in "[/a-z.%*\\x00]{0,60}") {
            let _ = CertName::parse(&text, &[&tail]);
            let _ = CertName::parse(&format!("spiffe://join.tribune{tail}"), &[]);
            let _ = CertName::parse(&format!("spiffe://td.consul{tail}"), &[&text]);
        }
    }
}
