//! Joining: the right secret, the wrong one, and that a joiner is never taken for more than a joiner.

use std::sync::Arc;

use identity::{
    Identity, JOIN_TRUST_DOMAIN, JoinSecret, LeafName, LeafPem, Peer, Refused, Role, RpcIdentity, TrustBundle,
};
use rustls_pki_types::ServerName;

use crate::forge::{Mesh, Signer, TD, good, leaf, service};
use crate::shake::{Shaken, rogue_client, rogue_server, shake, shake_as};

fn secret(byte: u8) -> JoinSecret {
    use base64::Engine;
    JoinSecret::parse(&base64::engine::general_purpose::STANDARD.encode([byte; 32])).unwrap()
}

/// A node that has nothing but the secret.
fn newcomer(secret: &JoinSecret, role: Role, node: &str) -> RpcIdentity {
    RpcIdentity::new(Identity::new(TrustBundle::empty()), secret, role, "dc1", node).unwrap()
}

/// A server that has its certificate.
fn server(mesh: &Mesh, secret: &JoinSecret, node: &str) -> RpcIdentity {
    let identity = mesh.identity(&LeafName::server(TD, "dc1", node).unwrap());
    RpcIdentity::new(identity, secret, Role::Server, "dc1", node).unwrap()
}

fn join(from: &RpcIdentity, to: &RpcIdentity) -> Shaken {
    let (client, server) = (from.join_client_config(&[b"h2"]).unwrap(), to.server_config(&[b"h2"]).unwrap());
    shake_as(&Arc::new(client), &Arc::new(server), RpcIdentity::join_server_name())
}

fn speak(from: &RpcIdentity, to: &RpcIdentity, dc: &str) -> Shaken {
    let (client, server) = (from.client_config(dc, &[b"h2"]).unwrap(), to.server_config(&[b"h2"]).unwrap());
    shake_as(&Arc::new(client), &Arc::new(server), RpcIdentity::server_name(dc, "consul.").unwrap())
}

#[test]
fn the_same_secret_joins_in_every_role() {
    let mesh = Mesh::new();
    for to in [newcomer(&secret(1), Role::Server, "s0"), server(&mesh, &secret(1), "s0")] {
        for role in [Role::Server, Role::Client, Role::Gateway] {
            let shaken = join(&newcomer(&secret(1), role, "n1"), &to);
            assert!(shaken.is_ok(), "{shaken:?}");
            assert_eq!(identity::peer(&shaken.server), Ok(Peer::Joiner { role, dc: "dc1".into(), node: "n1".into() }));
            assert_eq!(
                identity::peer(&shaken.client),
                Ok(Peer::Joiner { role: Role::Server, dc: "dc1".into(), node: "s0".into() })
            );
            assert_eq!(
                identity::peer_id(&shaken.server),
                Err(Refused::JoinerNotTaken),
                "a joiner has no id of the mesh"
            );
        }
    }
}

#[test]
fn another_secret_is_refused_by_both_ends_with_advice() {
    let mesh = Mesh::new();
    for (ours, theirs) in [(secret(1), secret(2)), (secret(1), JoinSecret::open()), (JoinSecret::open(), secret(1))] {
        let shaken = join(&newcomer(&ours, Role::Client, "n1"), &server(&mesh, &theirs, "s0"));
        assert_eq!(shaken.client_refused(), Some(Refused::JoinSecretsDiffer));
        assert!(Refused::was_by_peer(shaken.server_result.as_ref().unwrap_err()));
        assert!(Refused::JoinSecretsDiffer.to_string().contains("is `encrypt` the same on both?"));
    }
    // The server refuses too, whatever the client thinks: here it takes everybody.
    let forged = Signer::stranger("Tribune join CA")
        .without_chain()
        .leaf(&good(&["spiffe://join.tribune/role/server/dc/dc1/id/n1"]));
    for shown in [forged, Signer::of(&mesh.root).leaf(&good(&["spiffe://join.tribune/role/server/dc/dc1/id/n1"]))] {
        let rpc = server(&mesh, &secret(1), "s0").server_config(&[]).unwrap();
        assert_eq!(shake(rogue_client(Some(&shown)), rpc).server_refused(), Some(Refused::JoinSecretsDiffer));
        let joining = newcomer(&secret(1), Role::Client, "n1").join_client_config(&[]).unwrap();
        assert_eq!(shake(joining, rogue_server(&shown)).client_refused(), Some(Refused::JoinSecretsDiffer));
    }
}

#[test]
fn a_joiner_is_never_taken_for_a_server_or_a_member() {
    let mesh = Mesh::new();
    let member = server(&mesh, &secret(1), "s0");
    // It knows the secret, but has no certificate: whoever wants a server must not take it.
    let pretender = newcomer(&secret(1), Role::Server, "s1");
    assert_eq!(speak(&member, &pretender, "dc1").client_refused(), Some(Refused::JoinerNotTaken));
    // Nor does a data-plane listener take it as a client.
    let shaken =
        shake(pretender.join_client_config(&[]).unwrap(), mesh.identity(&service("web")).server_config(&[]).unwrap());
    assert!(!shaken.is_ok());
    // Nor is a joining client taken as the server to join.
    let shaken = join(&newcomer(&secret(1), Role::Server, "s2"), &newcomer(&secret(1), Role::Client, "n1"));
    assert!(matches!(shaken.client_refused(), Some(Refused::Unexpected { .. })));
    // Nor can it sign for the mesh: an id of the mesh under the join CA's name.
    let forged = Signer::stranger("Tribune join CA").leaf(&good(&[&service("web").id().to_string()]));
    assert_eq!(
        shake(rogue_client(Some(&forged)), member.server_config(&[]).unwrap()).server_refused(),
        Some(Refused::UnknownIssuer)
    );
}

#[test]
fn members_are_told_apart() {
    let mesh = Mesh::new();
    let to = server(&mesh, &secret(1), "s0");
    let names = [
        (LeafName::server(TD, "dc1", "s1").unwrap(), Peer::Server { dc: "dc1".into(), node: "s1".into() }),
        (LeafName::agent(TD, "dc1", "n1").unwrap(), Peer::Agent { dc: "dc1".into(), node: "n1".into() }),
        (service("web"), Peer::Service { dc: "dc1".into(), service: "web".into() }),
        (LeafName::gateway(TD, "dc1").unwrap(), Peer::Gateway { dc: "dc1".into() }),
    ];
    for (name, peer) in names {
        // Members need no secret any more.
        let from = RpcIdentity::new(mesh.identity(&name), &secret(9), Role::Client, "dc1", "x").unwrap();
        let shaken = speak(&from, &to, "dc1");
        assert!(shaken.is_ok(), "{shaken:?}");
        assert_eq!(identity::peer(&shaken.server), Ok(peer));
        assert_eq!(identity::peer(&shaken.client), Ok(Peer::Server { dc: "dc1".into(), node: "s0".into() }));
    }
}

#[test]
fn only_a_server_of_the_meant_datacenter_is_spoken_with() {
    let mesh = Mesh::new();
    let from = server(&mesh, &secret(1), "s0");
    assert!(matches!(
        speak(&from, &server(&mesh, &secret(1), "s1"), "dc2").client_refused(),
        Some(Refused::Unexpected { .. })
    ));
    for name in [service("web"), LeafName::agent(TD, "dc1", "n1").unwrap(), LeafName::gateway(TD, "dc1").unwrap()] {
        let to = RpcIdentity::new(mesh.identity(&name), &secret(1), Role::Client, "dc1", "n1").unwrap();
        assert!(matches!(speak(&from, &to, "dc1").client_refused(), Some(Refused::Unexpected { .. })), "{name}");
    }
    let other_mesh = Mesh::new();
    let to = server(&other_mesh, &secret(1), "s1");
    assert_eq!(
        speak(&from, &to, "dc1").client_refused(),
        Some(Refused::UnknownIssuer),
        "the same trust domain, another root"
    );
    let dc2_server = RpcIdentity::new(Identity::new(mesh.bundle()), &secret(1), Role::Server, "dc2", "s9").unwrap();
    dc2_server.identity().update_leaf(&leaf(&mesh.dc2, &LeafName::server(TD, "dc2", "s9").unwrap())).unwrap();
    assert!(speak(&from, &dc2_server, "dc2").is_ok() && speak(&dc2_server, &from, "dc1").is_ok());
}

/// The life of a node, on configurations that are made once.
#[test]
fn a_newcomer_joins_gets_its_certificate_and_is_a_member() {
    let mesh = Mesh::new();
    let to = Arc::new(server(&mesh, &secret(1), "s0").server_config(&[]).unwrap());
    let node = newcomer(&secret(1), Role::Server, "s1");
    let joining = Arc::new(node.join_client_config(&[]).unwrap());
    let speaking = Arc::new(node.client_config("dc1", &[]).unwrap());
    let listening = Arc::new(node.server_config(&[]).unwrap());
    let server_name = RpcIdentity::server_name("dc1", "consul").unwrap();

    assert!(!shake_as(&speaking, &to, server_name.clone()).is_ok(), "it has nothing to show and trusts nobody yet");
    assert!(shake_as(&joining, &to, RpcIdentity::join_server_name()).is_ok());
    node.identity().update_bundle(mesh.bundle());
    let signed: LeafPem = leaf(&mesh.root, &LeafName::server(TD, "dc1", "s1").unwrap());
    node.identity().update_leaf(&signed).unwrap();
    assert!(shake_as(&speaking, &to, server_name.clone()).is_ok());

    // It shows its new certificate to members, and its join certificate to those who join through it.
    let member = Arc::new(server(&mesh, &secret(1), "s0").client_config("dc1", &[]).unwrap());
    assert!(shake_as(&member, &listening, server_name).is_ok());
    let next = Arc::new(newcomer(&secret(1), Role::Client, "n2").join_client_config(&[]).unwrap());
    assert!(shake_as(&next, &listening, RpcIdentity::join_server_name()).is_ok());
    assert!(!shake_as(&next, &listening, ServerName::try_from("server.dc1.consul").unwrap()).is_ok());
}

#[test]
fn names_that_no_certificate_can_carry_are_refused_at_the_start() {
    for (dc, node) in
        [("dc1", ""), ("", "n"), ("dc/1", "n"), ("dc1", "a b"), ("dc1", ".."), ("dc1", "n\0"), ("dc1", "n/id/m")]
    {
        let identity = Identity::new(TrustBundle::empty());
        assert!(RpcIdentity::new(identity, &secret(1), Role::Client, dc, node).is_err(), "{dc} {node}");
    }
    assert_eq!(RpcIdentity::join_server_name().to_str(), JOIN_TRUST_DOMAIN);
    assert_eq!(RpcIdentity::server_name("dc1", "consul.").unwrap().to_str(), "server.dc1.consul");
    assert!(RpcIdentity::server_name("dc 1", "consul").is_err());
}
