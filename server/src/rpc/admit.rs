//! Who may call what on the RPC port: the table of docs/ARCHITECTURE.md ("The wire"), and nothing else decides it.

use identity::Peer;
use identity::Role;

/// What a request on the RPC port asks for, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Join,
    Raft,
    Session,
    /// `Session.Report`: servers tell the leader about sessions.
    Report,
    Sync,
    Watch,
    Mesh,
    /// `Peer.Federate` and `Peer.SignIntermediate`.
    Federation,
    /// The rest of `Peer`.
    Peer,
    /// Plain HTTP: `/v1/…`.
    Http,
}

impl Call {
    /// The call that a path means; `None` for a path that this port does not serve.
    pub(crate) fn parse(path: &str) -> Option<Call> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match (service, method) {
            ("v1", rest) if rest.starts_with("agent/") => None,
            ("v1", _) => Some(Call::Http),
            ("tribune.v1.Join", _) => Some(Call::Join),
            ("tribune.v1.Session", "Report") => Some(Call::Report),
            ("tribune.v1.Session", _) => Some(Call::Session),
            ("tribune.v1.Sync", _) => Some(Call::Sync),
            ("tribune.v1.Watch", _) => Some(Call::Watch),
            ("tribune.v1.Mesh", _) => Some(Call::Mesh),
            ("tribune.v1.Peer", "Federate" | "SignIntermediate") => Some(Call::Federation),
            ("tribune.v1.Peer", _) => Some(Call::Peer),
            ("tribune.raft.v1.Raft", _) => Some(Call::Raft),
            _ => None,
        }
    }
}

/// Whether the peer may make the call. `datacenter` is ours; `has_ca` says whether this cluster has its CA already.
/// That an agent speaks for its own node only is checked where the node is named ([`may_speak_for`]).
pub(crate) fn admit(peer: &Peer, call: Call, datacenter: &str, has_ca: bool) -> bool {
    match peer {
        Peer::Joiner { role, dc, .. } => match call {
            Call::Join => true,
            Call::Raft | Call::Peer => !has_ca && *role == Role::Server && dc == datacenter,
            Call::Session | Call::Report | Call::Sync | Call::Watch | Call::Mesh | Call::Federation | Call::Http => {
                false
            }
        },
        Peer::Agent { dc, .. } => match call {
            Call::Session | Call::Sync | Call::Watch | Call::Mesh | Call::Http => dc == datacenter,
            // A node whose certificate is about to end enrolls again.
            Call::Join => true,
            Call::Raft | Call::Report | Call::Federation | Call::Peer => false,
        },
        Peer::Server { dc, .. } if dc == datacenter => true,
        Peer::Server { .. } => match call {
            Call::Join | Call::Watch | Call::Federation | Call::Http => true,
            Call::Raft | Call::Session | Call::Report | Call::Sync | Call::Mesh | Call::Peer => false,
        },
        Peer::Service { .. } | Peer::Gateway { .. } => false,
    }
}

/// Whether the peer may speak for this node: an agent for its own, a server of this datacenter for any.
pub(crate) fn may_speak_for(peer: &Peer, node: &str, datacenter: &str) -> bool {
    match peer {
        Peer::Agent { dc, node: own } => dc == datacenter && own.eq_ignore_ascii_case(node),
        Peer::Server { dc, .. } => dc == datacenter,
        Peer::Joiner { .. } | Peer::Service { .. } | Peer::Gateway { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: [Call; 10] = [
        Call::Join,
        Call::Raft,
        Call::Session,
        Call::Report,
        Call::Sync,
        Call::Watch,
        Call::Mesh,
        Call::Federation,
        Call::Peer,
        Call::Http,
    ];

    fn joiner(role: Role, dc: &str) -> Peer {
        Peer::Joiner { role, dc: dc.into(), node: "n".into() }
    }

    #[test]
    fn the_table_holds_row_by_row() {
        use Call::{Federation, Http, Join, Mesh, Peer as P, Raft, Report, Session, Sync, Watch};
        let agent = |dc: &str| Peer::Agent { dc: dc.into(), node: "n".into() };
        let server = |dc: &str| Peer::Server { dc: dc.into(), node: "n".into() };
        let rows: [(Peer, bool, &[Call]); 13] = [
            (joiner(Role::Server, "dc1"), false, &[Join, Raft, P]),
            (joiner(Role::Server, "dc1"), true, &[Join]),
            (joiner(Role::Server, "dc2"), false, &[Join]),
            (joiner(Role::Client, "dc1"), false, &[Join]),
            (joiner(Role::Client, "dc1"), true, &[Join]),
            (joiner(Role::Gateway, "dc1"), false, &[Join]),
            (agent("dc1"), true, &[Join, Session, Sync, Watch, Mesh, Http]),
            (agent("dc2"), true, &[Join]),
            (server("dc1"), true, &CALLS),
            (server("dc2"), true, &[Join, Watch, Federation, Http]),
            (server("dc2"), false, &[Join, Watch, Federation, Http]),
            (Peer::Service { dc: "dc1".into(), service: "web".into() }, true, &[]),
            (Peer::Gateway { dc: "dc1".into() }, true, &[]),
        ];
        for (peer, has_ca, allowed) in rows {
            let admitted: Vec<Call> = CALLS.into_iter().filter(|call| admit(&peer, *call, "dc1", has_ca)).collect();
            for call in CALLS {
                assert_eq!(admitted.contains(&call), allowed.contains(&call), "{peer:?} (CA: {has_ca}) calls {call:?}");
            }
        }
        assert!(!Report.eq(&Session));
    }

    #[test]
    fn paths_are_known_or_not_served() {
        for (path, call) in [
            ("/v1/kv/a", Some(Call::Http)),
            ("/v1/agent/self", None),
            ("/tribune.v1.Join/Hello", Some(Call::Join)),
            ("/tribune.v1.Session/Open", Some(Call::Session)),
            ("/tribune.v1.Session/Report", Some(Call::Report)),
            ("/tribune.v1.Peer/Propose", Some(Call::Peer)),
            ("/tribune.v1.Peer/Federate", Some(Call::Federation)),
            ("/tribune.raft.v1.Raft/Append", Some(Call::Raft)),
            ("/tribune.v1.Nope/Open", None),
            ("/", None),
            ("", None),
            ("/ui/", None),
        ] {
            assert_eq!(Call::parse(path), call, "{path}");
        }
    }

    #[test]
    fn an_agent_speaks_for_its_own_node() {
        let agent = Peer::Agent { dc: "dc1".into(), node: "n1".into() };
        assert!(may_speak_for(&agent, "N1", "dc1"));
        assert!(!may_speak_for(&agent, "n2", "dc1"));
        assert!(!may_speak_for(&agent, "n1", "dc2"));
        assert!(may_speak_for(&Peer::Server { dc: "dc1".into(), node: "s".into() }, "n2", "dc1"));
        assert!(!may_speak_for(&joiner(Role::Client, "dc1"), "n", "dc1"));
    }
}
