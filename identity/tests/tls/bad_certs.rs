//! Every certificate that must be refused, on both sides of the handshake, with the reason.

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use identity::{Identity, LeafName, Refused, Serial};
use model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::forge::{Forged, HOUR, Mesh, Signer, TD, ca_params, good, leaf, raw_name, raw_san, service};
use crate::shake::{rogue_client, rogue_server, shake};

/// The id that the refused ones claim.
const WEB: &str = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web";

/// A flaw, what shows it, and the beginning of the refusal (as `Debug`) on both sides.
struct Case {
    flaw: String,
    forged: Forged,
    refusal: &'static str,
}

fn case(flaw: impl Into<String>, forged: Forged, refusal: &'static str) -> Case {
    Case { flaw: flaw.into(), forged, refusal }
}

/// The reference: what the factory makes without a flaw is taken, so that each refusal is for its one flaw.
#[test]
fn without_a_flaw_it_is_taken() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    for signer in [Signer::of(&mesh.root), Signer::of(&mesh.root).below(ca_params(BasicConstraints::Constrained(0)))] {
        let forged = signer.leaf(&good(&[WEB]));
        assert_taken(&web, &forged);
    }
    let dc2 = good(&[&WEB.replace("dc1", "dc2")]);
    assert!(shake(rogue_client(Some(&Signer::of(&mesh.dc2).leaf(&dc2))), web.server_config(&[]).unwrap()).is_ok());
}

#[test]
fn bad_names_are_refused() {
    let mesh = Mesh::new();
    let root = Signer::of(&mesh.root);
    let mut cases = Vec::new();
    let foreign = ["evil.consul", &format!("{TD}.evil.com"), &TD.replace('1', "9")].map(|td| WEB.replace(TD, td));
    cases.extend(
        foreign
            .iter()
            .map(|uri| case(format!("trust domain of {uri}"), root.leaf(&good(&[uri])), "ForeignTrustDomain")),
    );
    cases.extend(tricky_uris().iter().map(|uri| case(format!("{uri:.90?}"), root.leaf(&good(&[uri])), "NotSpiffe")));
    cases.extend(
        odd_alternative_names().into_iter().map(|(flaw, params, refusal)| case(flaw, root.leaf(&params), refusal)),
    );
    assert!(cases.len() >= 40, "{}", cases.len());
    assert_refused(&mesh.identity(&service("web")), &cases);
}

#[test]
fn bad_chains_are_refused() {
    let mesh = Mesh::new();
    let mut cases = bad_signers(&mesh);
    cases.extend(bad_uses(&mesh));
    cases.extend(bad_bytes(&mesh));
    assert!(cases.len() >= 25, "{}", cases.len());
    assert_refused(&mesh.identity(&service("web")), &cases);
}

#[test]
fn revoked_serials_ids_and_intermediates_are_refused_at_once() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let (root, below) =
        (Signer::of(&mesh.root), Signer::of(&mesh.root).below(ca_params(BasicConstraints::Constrained(0))));
    let (leaf, deep) = (root.leaf(&good(&[WEB])), below.leaf(&good(&[WEB])));
    let serial_of =
        |der: &CertificateDer<'_>| Serial::from_bytes(x509_parser::parse_x509_certificate(der).unwrap().1.raw_serial());
    let id: SpiffeId = WEB.parse().unwrap();
    for (flaw, forged, serials, ids, refusal) in [
        ("serial", &leaf, vec![serial_of(&leaf.chain[0])], vec![], "RevokedSerial"),
        ("serial of the intermediate", &deep, vec![serial_of(&deep.chain[1])], vec![], "RevokedSerial"),
        ("id", &leaf, vec![], vec![id.clone()], "RevokedId"),
        ("id below an intermediate", &deep, vec![], vec![id], "RevokedId"),
    ] {
        web.update_bundle(mesh.bundle());
        assert_taken(&web, forged);
        web.update_bundle(mesh.bundle().with_revoked(serials, ids));
        assert_one_refused(&web, flaw, forged, refusal);
    }
    web.update_bundle(mesh.bundle().with_revoked([serial_of(&leaf.chain[0])], []));
    assert_taken(&web, &deep);
}

/// No single bit of a chain can be changed without it being refused.
#[test]
fn a_chain_changed_anywhere_is_refused() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let good = Signer::of(&mesh.dc2).leaf(&good(&[&WEB.replace("dc1", "dc2")]));
    let now = SystemTime::now();
    assert!(web.recheck_chain(&good.chain, true, now).is_ok());
    for which in 0..good.chain.len() {
        for at in 0..good.chain[which].len() {
            let mut chain = good.chain.clone();
            let mut der = chain[which].to_vec();
            der[at] ^= 1 << (at % 8);
            chain[which] = CertificateDer::from(der);
            assert!(web.recheck_chain(&chain, true, now).is_err(), "byte {at} of certificate {which}");
        }
    }
}

#[test]
fn a_certificate_without_its_key_is_useless() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let mut stolen = Forged::of_pem(&leaf(&mesh.root, &service("web")));
    stolen.key = KeyPair::generate().unwrap().serialize_der();
    let as_client = shake(rogue_client(Some(&stolen)), web.server_config(&[]).unwrap());
    assert!(as_client.server_result.is_err());
    let as_server = shake(web.client_config([WEB.parse().unwrap()], &[]).unwrap(), rogue_server(&stolen));
    assert!(as_server.client_result.is_err());
}

#[test]
fn a_client_must_show_a_certificate() {
    let mesh = Mesh::new();
    let shaken = shake(rogue_client(None), mesh.identity(&service("web")).server_config(&[]).unwrap());
    assert_eq!(shaken.server_result, Err(rustls::Error::NoCertificatesPresented));
}

#[test]
fn a_true_certificate_of_another_is_refused_by_the_client_that_meant_someone_else() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let others = [
        service("web2"),
        service("WEB"),
        LeafName::service(TD, "dc2", "web").unwrap(),
        LeafName::agent(TD, "dc1", "web").unwrap(),
        LeafName::server(TD, "dc1", "web").unwrap(),
        LeafName::gateway(TD, "dc1").unwrap(),
    ];
    for other in others {
        let server = mesh.identity(&other).server_config(&[]).unwrap();
        let shaken = shake(web.client_config([WEB.parse().unwrap()], &[]).unwrap(), server);
        assert!(matches!(shaken.client_refused(), Some(Refused::Unexpected { .. })), "{other}");
    }
}

#[test]
fn a_client_that_means_nobody_takes_nobody() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    let shaken = shake(web.client_config([], &[]).unwrap(), web.server_config(&[]).unwrap());
    assert!(matches!(shaken.client_refused(), Some(Refused::Unexpected { .. })));
}

#[test]
fn a_node_without_a_bundle_trusts_nobody() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    web.update_bundle(identity::TrustBundle::empty());
    let forged = Signer::of(&mesh.root).leaf(&good(&[WEB]));
    assert_one_refused(&web, "no bundle", &forged, "NoBundle");
}

/// URIs that look like an id of the mesh to a careless reader.
fn tricky_uris() -> Vec<String> {
    let with = |from: &str, to: &str| WEB.replace(from, to);
    vec![
        with("svc/web", "svc/web\0"),
        with("svc/web", "svc/web\0.evil"),
        with("svc/web", "svc/\0"),
        with(TD, &format!("{TD}\0.evil.com")),
        with("svc/web", "svc/*"),
        with("dc/dc1", "dc/*"),
        with(TD, "*"),
        with(TD, "*.consul"),
        with("svc/web", "svc/w%65b"),
        with("svc/web", "svc/x%2f..%2fweb"),
        with("svc/web", "svc/%00"),
        with("spiffe://", "SPIFFE://"),
        with("spiffe://", "Spiffe://"),
        with("spiffe://", "https://"),
        with("spiffe://", "spiffe:/"),
        with("spiffe://", "spiffe:"),
        with("spiffe://", ""),
        with(".consul", ".CONSUL"),
        with("/ns/", "/NS/"),
        with("svc/web", "svc/web/"),
        with("svc/web", "svc/web?x=1"),
        with("svc/web", "svc/web#x"),
        with("svc/web", "svc/web;x"),
        with("svc/web", "svc/.."),
        with("svc/web", "svc/."),
        with("svc/web", "svc/x/../web"),
        with("svc/web", "svc//web"),
        with("svc/web", "svc/"),
        with("svc/web", "svc/web admin"),
        with("svc/web", "svc/web\r\n"),
        with("svc/web", "svc\\web"),
        with(TD, &format!("{TD}:443")),
        with(TD, &format!("root@{TD}")),
        with(TD, &format!("{TD}.")).replace(".consul./ns", ".consul./ns/.."),
        with(TD, ""),
        with("ns/default", "ns/other"),
        with("ns/default/", ""),
        format!("spiffe://{TD}"),
        format!("spiffe://{TD}/"),
        format!("spiffe://{TD}/ca"),
        format!(" {WEB}"),
        format!("{WEB},{WEB}"),
        with("svc/web", &format!("svc/{}", "w".repeat(5000))),
    ]
}

/// Subject alternative names that are wrong as a whole.
fn odd_alternative_names() -> Vec<(&'static str, CertificateParams, &'static str)> {
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = good(&[]);
        change(&mut params);
        params
    };
    let only = |san: SanType| with(&|p| p.subject_alt_names = vec![san.clone()]);
    let raw = |names: Vec<u8>| with(&|p| p.custom_extensions = vec![raw_san(&names)]);
    let bytes = WEB.as_bytes();
    vec![
        ("no alternative name", good(&[]), "NotOneUri(0)"),
        ("two URIs", good(&[WEB, &WEB.replace("web", "db")]), "NotOneUri(2)"),
        ("the same URI twice", good(&[WEB, WEB]), "NotOneUri(2)"),
        ("a URI of another kind first", good(&["https://example.com", WEB]), "NotOneUri(2)"),
        ("a URI of another kind last", good(&[WEB, "https://example.com"]), "NotOneUri(2)"),
        ("a join URI beside it", good(&[WEB, "spiffe://join.tribune/role/server/dc/dc1/id/n"]), "NotOneUri(2)"),
        ("DNS only", only(SanType::DnsName("web.service.consul".try_into().unwrap())), "NotOneUri(0)"),
        ("the id as a DNS name", only(SanType::DnsName(WEB.try_into().unwrap())), "NotOneUri(0)"),
        ("the id as a mail name", only(SanType::Rfc822Name(WEB.try_into().unwrap())), "NotOneUri(0)"),
        ("the id as another name", only(SanType::OtherName((vec![1, 3, 6, 1], WEB.into()))), "NotOneUri(0)"),
        ("IP only", only(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))), "NotOneUri(0)"),
        ("the id as common name", with(&|p| p.distinguished_name.push(DnType::CommonName, WEB)), "NotOneUri(0)"),
        ("an empty list of names", raw(vec![]), "NotOneUri(0)"),
        ("a URI that is not text", raw(raw_name(6, b"spiffe://\xff\xfe")), "Malformed"),
        ("a DNS name that is not text", raw([raw_name(2, b"\xff\xfe"), raw_name(6, bytes)].concat()), "Malformed"),
        ("a name cut short", raw([&[0x86, 90][..], bytes].concat()), "Malformed"),
        (
            "two lists of names",
            with(&|p| {
                p.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
                p.custom_extensions = vec![raw_san(&raw_name(6, bytes))];
            }),
            "Malformed",
        ),
        ("a server without a node", good(&[&format!("spiffe://{TD}/agent/server/dc/dc1")]), "NoServerNode"),
        (
            "a server with two nodes",
            with(&|p| {
                p.subject_alt_names =
                    vec![SanType::URI(format!("spiffe://{TD}/agent/server/dc/dc1").try_into().unwrap())];
                p.subject_alt_names.extend(
                    ["a.server.dc1.consul", "b.server.dc1.consul"].map(|n| SanType::DnsName(n.try_into().unwrap())),
                );
            }),
            "NoServerNode",
        ),
        (
            "a joiner signed by the mesh's root",
            good(&["spiffe://join.tribune/role/server/dc/dc1/id/n"]),
            "JoinerNotTaken",
        ),
    ]
}

fn bad_signers(mesh: &Mesh) -> Vec<Case> {
    let root = Signer::of(&mesh.root);
    let web = good(&[WEB]);
    let name_of_root = x509_name(&mesh.root.cert_pem());
    let no_ca = {
        let mut params = ca_params(BasicConstraints::Unconstrained);
        params.is_ca = IsCa::ExplicitNoCa;
        params
    };
    let expired_ca = {
        let mut params = ca_params(BasicConstraints::Unconstrained);
        params.not_after = (SystemTime::now() - HOUR / 2).into();
        params
    };
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        Forged { chain: vec![web.self_signed(&key).unwrap().der().clone()], key: key.serialize_der() }
    };
    let sub_of_dc2 = Signer::of(&mesh.dc2).below(ca_params(BasicConstraints::Unconstrained));
    let dc2_web = good(&[&WEB.replace("dc1", "dc2")]);
    let mut long = root.below(ca_params(BasicConstraints::Unconstrained));
    for _ in 0..8 {
        long = long.below(ca_params(BasicConstraints::Unconstrained));
    }
    vec![
        case("self-signed", self_signed, "UnknownIssuer"),
        case("a stranger's root", Signer::stranger("Somebody").leaf(&web), "UnknownIssuer"),
        case("a stranger's root of our name", Signer::stranger(&name_of_root).leaf(&web), "UnknownIssuer"),
        case(
            "a stranger's root of our name, unseen",
            Signer::stranger(&name_of_root).without_chain().leaf(&web),
            "UnknownIssuer",
        ),
        case("signed by a leaf", root.below(good(&[WEB])).leaf(&web), "Chain"),
        case("an intermediate that is no CA", root.below(no_ca).leaf(&web), "Chain"),
        case("a CA below one that may have none", sub_of_dc2.leaf(&dc2_web), "Chain"),
        case(
            "a missing intermediate",
            root.below(ca_params(BasicConstraints::Unconstrained)).without_chain().leaf(&web),
            "UnknownIssuer",
        ),
        case("an expired intermediate", root.below(expired_ca).leaf(&web), "Expired"),
        case("a leaf of dc1 from the CA of dc2", Signer::of(&mesh.dc2).leaf(&web), "ForeignDatacenter"),
        case("a chain of ten", long.leaf(&web), "TooLarge"),
    ]
}

fn bad_uses(mesh: &Mesh) -> Vec<Case> {
    let root = Signer::of(&mesh.root);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = good(&[WEB]);
        change(&mut params);
        root.leaf(&params)
    };
    let now = SystemTime::now();
    let critical = || {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x05, 0x00]);
        extension.set_criticality(true);
        extension
    };
    vec![
        case("expired", with(&|p| p.not_after = (now - HOUR / 2).into()), "Expired"),
        case("not valid yet", with(&|p| p.not_before = (now + HOUR / 2).into()), "NotYetValid"),
        case(
            "valid backwards",
            with(&|p| (p.not_before, p.not_after) = ((now + HOUR).into(), (now - HOUR).into())),
            "Chain",
        ),
        case(
            "for signing code",
            with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            "WrongUsage",
        ),
        case("for anything", with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]), "WrongUsage"),
        case("for nothing in particular", with(&|p| p.extended_key_usages.clear()), "WrongUsage"),
        case("a key that may not sign", with(&|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), "WrongUsage"),
        case(
            "a key that may sign certificates",
            with(&|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "WrongUsage",
        ),
        case("a CA as a leaf", with(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "Chain"),
        case("an unknown critical extension", with(&|p| p.custom_extensions = vec![critical()]), "Chain"),
        case(
            "20 KiB",
            with(&|p| {
                p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], huge())];
            }),
            "TooLarge",
        ),
    ]
}

/// An OCTET STRING of 20 KiB.
fn huge() -> Vec<u8> {
    [&[0x04, 0x82, 0x50, 0x00][..], &[0; 0x5000]].concat()
}

fn bad_bytes(mesh: &Mesh) -> Vec<Case> {
    let change = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let mut forged = Signer::of(&mesh.root).leaf(&good(&[WEB]));
        forged.chain[0] = CertificateDer::from(change(forged.chain[0].to_vec()));
        forged
    };
    let flip_last = |mut der: Vec<u8>| {
        *der.last_mut().unwrap() ^= 1;
        der
    };
    let rename = |der: Vec<u8>| {
        let at = der.windows(7).position(|w| w == b"svc/web").unwrap();
        [&der[..at], b"svc/wed", &der[at + 7..]].concat()
    };
    vec![
        case("garbage", change(&|_| b"not a certificate".to_vec()), "Malformed"),
        case("nothing", change(&|_| vec![]), "Malformed"),
        case("cut short", change(&|der| der[..der.len() - 10].to_vec()), "Malformed"),
        case("bytes behind it", change(&|der| [der, vec![0]].concat()), "Malformed"),
        case("a flipped bit of the signature", change(&flip_last), "UnknownIssuer"),
        case("a changed name", change(&rename), "UnknownIssuer"),
    ]
}

#[test]
fn a_certificate_for_one_side_is_not_taken_on_the_other() {
    let mesh = Mesh::new();
    let web = mesh.identity(&service("web"));
    for (usage, as_client) in
        [(ExtendedKeyUsagePurpose::ClientAuth, true), (ExtendedKeyUsagePurpose::ServerAuth, false)]
    {
        let mut params = good(&[WEB]);
        params.extended_key_usages = vec![usage];
        let forged = Signer::of(&mesh.root).leaf(&params);
        let client = shake(rogue_client(Some(&forged)), web.server_config(&[]).unwrap());
        assert_eq!(client.is_ok(), as_client);
        let server = shake(web.client_config([WEB.parse().unwrap()], &[]).unwrap(), rogue_server(&forged));
        assert_eq!(server.is_ok(), !as_client);
    }
}

fn assert_refused(web: &Identity, cases: &[Case]) {
    for Case { flaw, forged, refusal } in cases {
        assert_one_refused(web, flaw, forged, refusal);
    }
}

/// As a client of `web`, and as a server that `web` dials for `WEB`.
fn assert_one_refused(web: &Identity, flaw: &str, forged: &Forged, refusal: &str) {
    let as_client = shake(rogue_client(Some(forged)), web.server_config(&[]).unwrap());
    let as_server = shake(web.client_config([WEB.parse().unwrap()], &[]).unwrap(), rogue_server(forged));
    for (side, result, refused) in [
        ("client", &as_client.server_result, as_client.server_refused()),
        ("server", &as_server.client_result, as_server.client_refused()),
    ] {
        let shown = format!("{:?}", refused.as_ref().ok_or(result));
        assert!(shown.starts_with(&format!("Ok({refusal}")), "{flaw} as {side}: {shown}, not {refusal}");
    }
}

fn assert_taken(web: &Identity, forged: &Forged) {
    let as_client = shake(rogue_client(Some(forged)), web.server_config(&[]).unwrap());
    assert!(as_client.is_ok(), "{:?}", as_client.server_result);
    assert_eq!(identity::peer_id(&as_client.server), Ok(WEB.parse().unwrap()));
    let as_server = shake(web.client_config([WEB.parse().unwrap()], &[]).unwrap(), rogue_server(forged));
    assert!(as_server.is_ok(), "{:?}", as_server.client_result);
}

fn x509_name(pem: &str) -> String {
    let der = crate::forge::ders(pem).remove(0);
    let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
    cert.subject().iter_common_name().next().unwrap().as_str().unwrap().to_string()
}
