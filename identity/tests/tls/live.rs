//! One configuration, made once: what changes under it, and what it never does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Ca, CaKey, Csr, Error, Identity, LEAF_TTL, LeafInfo, LeafName, LeafPem, Peer, Refused, TrustBundle};
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::forge::{HOUR, Mesh, TD, leaf, service};
use crate::shake::{shake, shake_as};

fn web_name() -> ServerName<'static> {
    ServerName::try_from("web.test").unwrap()
}

#[test]
fn a_new_leaf_is_shown_by_configurations_that_stand() {
    let mesh = Mesh::new();
    let (web, db) = (mesh.identity(&service("web")), mesh.identity(&service("db")));
    let client = Arc::new(db.client_config([service("web").id().clone()], &[]).unwrap());
    let server = Arc::new(web.server_config(&[]).unwrap());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let shaken = shake_as(&client, &server, web_name());
        assert!(shaken.is_ok());
        seen.insert((
            shaken.client.peer_certificates().unwrap()[0].to_vec(),
            shaken.server.peer_certificates().unwrap()[0].to_vec(),
        ));
        web.update_leaf(&leaf(&mesh.root, &service("web"))).unwrap();
        db.update_leaf(&leaf(&mesh.root, &service("db"))).unwrap();
    }
    let (server_leaves, client_leaves): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        seen.into_iter().unzip();
    assert_eq!((server_leaves.len(), client_leaves.len()), (3, 3));
}

#[test]
fn an_identity_without_a_leaf_waits_for_one() {
    let mesh = Mesh::new();
    let web = Identity::new(mesh.bundle());
    assert_eq!(web.leaf(), None);
    let clone_of_web = web.clone();
    let server = Arc::new(web.server_config(&[]).unwrap());
    let client = Arc::new(mesh.identity(&service("db")).client_config([service("web").id().clone()], &[]).unwrap());
    assert!(!shake_as(&client, &server, web_name()).is_ok());
    web.update_leaf(&leaf(&mesh.root, &service("web"))).unwrap();
    assert!(shake_as(&client, &server, web_name()).is_ok());
    assert_eq!(clone_of_web.leaf().unwrap().name, service("web"), "clones are the same identity");
}

#[test]
fn roots_and_revocations_change_under_configurations_that_stand() {
    let mesh = Mesh::new();
    let other_root = Ca::new_root(TD, SystemTime::now()).unwrap();
    let (web, db) = (mesh.identity(&service("web")), mesh.identity(&service("db")));
    let client = Arc::new(db.client_config([service("web").id().clone()], &[]).unwrap());
    let server = Arc::new(web.server_config(&[]).unwrap());
    let only_other = TrustBundle::new(TD, [other_root.cert_pem()]).unwrap();
    let steps: [(TrustBundle, Option<Refused>); 5] = [
        (mesh.bundle(), None),
        (only_other, Some(Refused::UnknownIssuer)),
        (TrustBundle::new(TD, [other_root.cert_pem(), mesh.root.cert_pem()]).unwrap(), None),
        (
            mesh.bundle().with_revoked([], [service("db").id().clone()]),
            Some(Refused::RevokedId(service("db").id().clone())),
        ),
        (mesh.bundle(), None),
    ];
    for (bundle, refused) in steps {
        web.update_bundle(bundle);
        assert_eq!(shake_as(&client, &server, web_name()).server_refused(), refused);
    }
}

/// A resumed session would skip the verifier: a revoked client came back with its ticket.
#[test]
fn sessions_are_never_resumed() {
    let mesh = Mesh::new();
    let (web, db) = (mesh.identity(&service("web")), mesh.identity(&service("db")));
    let client = Arc::new(db.client_config([service("web").id().clone()], &[]).unwrap());
    let server = Arc::new(web.server_config(&[]).unwrap());
    for _ in 0..3 {
        let shaken = shake_as(&client, &server, web_name());
        assert_eq!(shaken.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(shaken.client.tls13_tickets_received(), 0);
    }
    web.update_bundle(mesh.bundle().with_revoked([db.leaf().unwrap().serial], []));
    assert!(matches!(shake_as(&client, &server, web_name()).server_refused(), Some(Refused::RevokedSerial(_))));
}

#[test]
fn a_standing_connection_can_be_checked_again() {
    let mesh = Mesh::new();
    let (web, db) = (mesh.identity(&service("web")), mesh.identity(&service("db")));
    let shaken = shake(db.client_config([service("web").id().clone()], &[]).unwrap(), web.server_config(&[]).unwrap());
    let now = SystemTime::now();
    let db_peer = Peer::Service { dc: "dc1".into(), service: "db".into() };
    assert_eq!(web.recheck_client(&shaken.server, now), Ok(db_peer.clone()));
    assert_eq!(db.recheck_server(&shaken.client, now), Ok(Peer::Service { dc: "dc1".into(), service: "web".into() }));
    assert_eq!(identity::peer(&shaken.server), Ok(db_peer));
    web.update_bundle(mesh.bundle().with_revoked([db.leaf().unwrap().serial], []));
    assert!(matches!(web.recheck_client(&shaken.server, now), Err(Refused::RevokedSerial(_))));
    let chain = shaken.server.peer_certificates().unwrap();
    assert!(matches!(web.recheck_chain(chain, true, now), Err(Refused::RevokedSerial(_))));
    assert_eq!(web.recheck_chain(&[], true, now), Err(Refused::NoCertificate));
}

#[test]
fn tls_1_3_with_the_hybrid_key_exchange_and_aes_128() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let shaken = shake(
        web.client_config([service("web").id().clone()], &[b"h2"]).unwrap(),
        web.server_config(&[b"h2", b"http/1.1"]).unwrap(),
    );
    assert_eq!(shaken.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(shaken.client.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(shaken.client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(shaken.server.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn tls_1_2_is_not_spoken() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(crate::forge::ders(&mesh.root.cert_pem()).remove(0)).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert!(matches!(
        shake(old, web.server_config(&[]).unwrap()).server_result,
        Err(rustls::Error::PeerIncompatible(_))
    ));
}

#[test]
fn peers_that_do_not_renew_are_refused_when_their_time_is_up() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    for (later, refused) in [(LEAF_TTL - HOUR, None), (LEAF_TTL + HOUR, Some(Refused::Expired))] {
        let mut server = web.server_config(&[]).unwrap();
        server.time_provider = Arc::new(Ahead(later));
        let client = web.client_config([service("web").id().clone()], &[]).unwrap();
        assert_eq!(shake(client, server).server_refused(), refused);
    }
}

/// Each clock may be wrong by five minutes: that of the server that made the CA, of the one that signs, of either peer; and
/// whichever was wrong is set right later.
#[test]
fn clocks_that_are_five_minutes_wrong_shut_nobody_out() {
    const WRONG: Duration = Duration::from_secs(300);
    let now = SystemTime::now();
    let (ahead, behind) = (now + WRONG, now - WRONG);
    for (made, signed) in [(ahead, ahead), (ahead, behind), (behind, ahead)] {
        let root = Ca::new_root(TD, made).unwrap();
        let csr = Csr::intermediate(TD, "dc1").unwrap();
        let pem = root.sign_intermediate(&csr.pem, "dc1", made).unwrap();
        let dc1 = Ca::load::<&str>(CaKey::from_pem(&csr.key_pem).unwrap(), &pem, []).unwrap();
        for ca in [&root, &dc1] {
            let web = Identity::new(TrustBundle::new(TD, [root.cert_pem()]).unwrap());
            let csr = Csr::new(&service("web")).unwrap();
            let leaf = ca.sign_leaf(&csr.pem, &service("web"), LEAF_TTL, signed).unwrap();
            web.update_leaf(&csr.with_chain(leaf.cert_chain_pem)).unwrap();
            for clock in [behind, now, ahead] {
                let mut server = web.server_config(&[]).unwrap();
                let mut client = web.client_config([service("web").id().clone()], &[]).unwrap();
                server.time_provider = Arc::new(At(clock));
                client.time_provider = Arc::new(At(clock));
                let shaken = shake(client, server);
                assert!(shaken.is_ok(), "{:?} {:?}", shaken.client_refused(), shaken.server_refused());
            }
        }
    }
}

#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap()))
    }
}

#[derive(Debug)]
struct Ahead(Duration);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + self.0))
    }
}

#[test]
fn an_unfit_leaf_is_refused_and_the_old_one_stays() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let before: LeafInfo = web.leaf().unwrap();
    let good = leaf(&mesh.root, &service("web"));
    let other = leaf(&mesh.root, &service("web"));
    let mismatched = LeafPem { cert_chain_pem: good.cert_chain_pem.clone(), key_pem: other.key_pem };
    assert!(matches!(web.update_leaf(&mismatched), Err(Error::KeyMismatch(_))));
    let a_root = LeafPem { cert_chain_pem: mesh.root.cert_pem(), key_pem: mesh.root.key().to_pem() };
    assert!(matches!(web.update_leaf(&a_root), Err(Error::Unfit(_))));
    for (cert_chain_pem, key_pem) in [
        (String::new(), good.key_pem.to_string()),
        (good.cert_chain_pem.clone(), String::new()),
        ("x".into(), "y".into()),
    ] {
        assert!(matches!(
            web.update_leaf(&LeafPem { cert_chain_pem, key_pem: key_pem.into() }),
            Err(Error::Malformed { .. })
        ));
    }
    assert_eq!(web.leaf(), Some(before));
}

#[tokio::test]
async fn over_a_real_socket_the_reason_is_found_in_the_io_error() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(web.server_config(&[]).unwrap()));
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let id = identity::peer_id(tls.get_ref().1).unwrap();
                let _ = tls.write_all(id.to_string().as_bytes()).await;
                let _ = tls.shutdown().await;
            }
        }
    });
    let dial = |meant: LeafName| {
        let config = mesh.identity(&service("db")).client_config([meant.id().clone()], &[]).unwrap();
        async move {
            tokio_rustls::TlsConnector::from(Arc::new(config))
                .connect(web_name(), TcpStream::connect(address).await?)
                .await
        }
    };
    let mut greeting = String::new();
    dial(service("web")).await.unwrap().read_to_string(&mut greeting).await.unwrap();
    assert_eq!(greeting, service("db").id().to_string());
    let error = dial(service("admin")).await.map(drop).unwrap_err();
    let refused = Refused::find(&error).expect("a refusal");
    assert!(
        refused.to_string().contains("svc/web, but spiffe://") && refused.to_string().contains("svc/admin was meant"),
        "{refused}"
    );
    server.await.unwrap();
}
