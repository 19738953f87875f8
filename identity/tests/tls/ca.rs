//! The CA: what it signs, what it refuses to sign, and the chains that follow from it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use identity::{
    BACKDATE, CSR_BYTES_MAX, Ca, CaKey, Csr, Error, Identity, LEAF_TTL, LeafInfo, LeafName, ROOT_TTL, Refused,
    TrustBundle, describe_root,
};
use model::SpiffeId;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;

use crate::forge::{HOUR, Mesh, TD, ders, intermediate, leaf, service};
use crate::shake::shake;

fn sign(ca: &Ca, csr_pem: &str, name: &LeafName) -> Result<identity::SignedLeaf, Error> {
    ca.sign_leaf(csr_pem, name, LEAF_TTL, SystemTime::now())
}

#[test]
fn a_leaf_says_what_was_asked_and_lives_as_long_as_asked() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let ca = Ca::new_root(TD, now).unwrap();
    for name in [
        service("web"),
        LeafName::agent(TD, "dc1", "node-1").unwrap(),
        LeafName::server(TD, "dc1", "s1.rack").unwrap(),
        LeafName::gateway(TD, "dc1").unwrap(),
    ] {
        let csr = Csr::new(&name).unwrap();
        let signed = ca.sign_leaf(&csr.pem, &name, LEAF_TTL, now).unwrap();
        let info = LeafInfo::of_chain(&signed.cert_chain_pem).unwrap();
        let expected = LeafInfo { name, serial: signed.serial, not_before: now - BACKDATE, not_after: now + LEAF_TTL };
        assert_eq!(info, expected);
        assert_eq!((signed.not_before, signed.not_after), (info.not_before, info.not_after));
    }
}

#[test]
fn nothing_outlives_its_ca_and_a_ca_out_of_its_time_signs_nothing() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let ca = Ca::new_root(TD, now).unwrap();
    let name = service("web");
    let csr = Csr::new(&name).unwrap();
    let last_hour = now + ROOT_TTL - HOUR;
    assert_eq!(ca.sign_leaf(&csr.pem, &name, LEAF_TTL, last_hour).unwrap().not_after, ca.not_after());
    for when in [now + ROOT_TTL, now - BACKDATE - HOUR] {
        assert!(matches!(ca.sign_leaf(&csr.pem, &name, LEAF_TTL, when), Err(Error::CaNotValidNow)));
        let dc2 = Csr::intermediate(TD, "dc2").unwrap();
        assert!(matches!(ca.sign_intermediate(&dc2.pem, "dc2", when), Err(Error::CaNotValidNow)));
        assert!(matches!(ca.cross_sign(&ca.cert_pem(), when), Err(Error::CaNotValidNow)));
    }
    let dc2 = Csr::intermediate(TD, "dc2").unwrap();
    let pem = ca.sign_intermediate(&dc2.pem, "dc2", last_hour).unwrap();
    let dc2 = Ca::load::<&str>(CaKey::from_pem(&dc2.key_pem).unwrap(), &pem, []).unwrap();
    assert_eq!(dc2.not_after(), ca.not_after());
}

#[test]
fn serial_numbers_are_never_the_same() {
    let ca = Mesh::new().root;
    let name = service("web");
    let csr = Csr::new(&name).unwrap();
    let serials: BTreeSet<_> = (0..100).map(|_| sign(&ca, &csr.pem, &name).unwrap().serial).collect();
    assert_eq!(serials.len(), 100);
}

/// A request that asks for `uris`, changed in one way.
fn request(uris: &[&str], key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn requests_for_anything_else_are_refused() {
    let ca = Mesh::new().root;
    let name = service("web");
    let web = name.id().to_string();
    let p256 = KeyPair::generate().unwrap();
    let of = |alg| KeyPair::generate_for(alg).unwrap();
    let asks = |uris: &[&str]| request(uris, &p256, |_| ());
    let with = |change: &dyn Fn(&mut CertificateParams)| request(&[&web], &p256, change);
    let dns = |p: &mut CertificateParams, name: &str| {
        p.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
    };
    assert!(sign(&ca, &asks(&[&web]), &name).is_ok());
    assert!(sign(&ca, &request(&[&web], &of(&rcgen::PKCS_ED25519), |_| ()), &name).is_ok());
    let ip = SanType::IpAddress([127, 0, 0, 1].into());
    let refused = [
        ("no name", asks(&[])),
        ("another service", asks(&[&web.replace("web", "db")])),
        ("another datacenter", asks(&[&web.replace("dc1", "dc2")])),
        ("two services", asks(&[&web, &web.replace("web", "db")])),
        ("two services, the other first", asks(&[&web.replace("web", "db"), &web])),
        ("the same one twice", asks(&[&web, &web])),
        ("in capitals", asks(&[&web.to_uppercase()])),
        ("a NUL", asks(&[&format!("{web}\0")])),
        ("a DNS name too", with(&|p| dns(p, "web.test"))),
        ("an address too", with(&|p| p.subject_alt_names.push(ip.clone()))),
        (
            "a mail name too",
            with(&|p| {
                p.subject_alt_names.push(SanType::Rfc822Name("a@b".try_into().unwrap()));
            }),
        ),
        ("a subject too", with(&|p| p.distinguished_name.push(DnType::CommonName, "web"))),
        ("a CA", with(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("P-384", request(&[&web], &of(&rcgen::PKCS_ECDSA_P384_SHA384), |_| ())),
        ("P-521", request(&[&web], &of(&rcgen::PKCS_ECDSA_P521_SHA512), |_| ())),
        ("RSA", request(&[&web], &of(&rcgen::PKCS_RSA_SHA256), |_| ())),
        (
            "20 KiB",
            with(&|p| {
                p.custom_extensions.push(CustomExtension::from_oid_content(
                    &[1, 3, 6, 1, 4, 1, 99999, 1],
                    [0x04, 0x00].repeat(10_000),
                ));
            }),
        ),
    ];
    for (what, csr) in refused {
        let outcome = sign(&ca, &csr, &name);
        assert!(matches!(outcome, Err(Error::Csr(_) | Error::Malformed { .. })), "{what}: {outcome:?}");
    }
    for text in [
        "",
        "x",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        &ca.cert_pem(),
        &"x".repeat(CSR_BYTES_MAX + 1),
    ] {
        assert!(matches!(sign(&ca, text, &name), Err(Error::Csr(_) | Error::Malformed { .. })), "{text:.40}");
    }
}

#[test]
fn a_server_is_signed_with_its_node_and_no_other() {
    let ca = Mesh::new().root;
    let s1 = LeafName::server(TD, "dc1", "s1").unwrap();
    let s2 = LeafName::server(TD, "dc1", "s2").unwrap();
    assert!(sign(&ca, &Csr::new(&s1).unwrap().pem, &s1).is_ok());
    assert!(matches!(sign(&ca, &Csr::new(&s1).unwrap().pem, &s2), Err(Error::Csr(_))));
    let uri = s1.id().to_string();
    let nameless = request(&[&uri], &KeyPair::generate().unwrap(), |_| ());
    assert!(matches!(sign(&ca, &nameless, &s1), Err(Error::Csr(_))));
}

/// Whoever changes what is signed, or the signature, cannot prove the possession of the key any more.
#[test]
fn a_request_changed_anywhere_is_refused() {
    let ca = Mesh::new().root;
    let name = service("web");
    let der = CertificateSigningRequestDer::from_pem_slice(Csr::new(&name).unwrap().pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
    let signed = 4..4 + parsed.certification_request_info.raw.len();
    let signature = der.len() - parsed.signature_value.data.len()..der.len();
    for at in signed.chain(signature) {
        let mut changed = der.to_vec();
        changed[at] ^= 1;
        assert!(sign(&ca, &csr_pem(&changed), &name).is_err(), "byte {at} of {}", der.len());
    }
    assert!(sign(&ca, &csr_pem(&[&der[..], &[0]].concat()), &name).is_err());
    assert!(sign(&ca, &csr_pem(&der), &name).is_ok());
}

fn csr_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_request_crashes_the_ca(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
        let mesh = Mesh::new();
        prop_assert!(sign(&mesh.root, &csr_pem(&bytes), &service("web")).is_err());
        prop_assert!(sign(&mesh.root, &text, &service("web")).is_err());
        prop_assert!(TrustBundle::new(TD, [text.as_str()]).is_err());
        prop_assert!(LeafInfo::of_chain(&text).is_err());
    }
}

#[test]
fn a_ca_signs_only_for_its_trust_domain_and_an_intermediate_only_for_its_datacenter() {
    let mesh = Mesh::new();
    let cases = [
        (&mesh.root, LeafName::service("other.consul", "dc1", "web").unwrap()),
        (&mesh.dc2, service("web")),
        (&mesh.dc2, LeafName::server(TD, "dc1", "s1").unwrap()),
    ];
    for (ca, name) in cases {
        assert!(matches!(sign(ca, &Csr::new(&name).unwrap().pem, &name), Err(Error::Name { .. })), "{name}");
    }
    let dc3 = Csr::intermediate(TD, "dc3").unwrap();
    assert!(matches!(mesh.dc2.sign_intermediate(&dc3.pem, "dc3", SystemTime::now()), Err(Error::Name { .. })));
    assert!(matches!(mesh.dc2.cross_sign(&mesh.root.cert_pem(), SystemTime::now()), Err(Error::Name { .. })));
    assert!(matches!(mesh.root.sign_intermediate(&dc3.pem, "dc2", SystemTime::now()), Err(Error::Csr(_))));
    assert!(matches!(mesh.root.sign_intermediate(&dc3.pem, "dc/3", SystemTime::now()), Err(Error::Name { .. })));
    let foreign = Csr::intermediate("other.consul", "dc3").unwrap();
    assert!(matches!(mesh.root.sign_intermediate(&foreign.pem, "dc3", SystemTime::now()), Err(Error::Csr(_))));
    assert!(Ca::new_root("join.tribune", SystemTime::now()).is_err());
    assert!(TrustBundle::new("join.tribune", [mesh.root.cert_pem()]).is_err());
}

#[test]
fn a_ca_survives_being_saved_and_loaded_and_refuses_a_wrong_key() {
    let mesh = Mesh::new();
    for ca in [&mesh.root, &mesh.dc2] {
        let again = Ca::load::<&str>(CaKey::from_pem(&ca.key().to_pem()).unwrap(), &ca.cert_pem(), []).unwrap();
        assert_eq!((again.trust_domain(), again.dc(), again.not_after()), (ca.trust_domain(), ca.dc(), ca.not_after()));
        let wrong = Ca::load::<&str>(CaKey::generate().unwrap(), &ca.cert_pem(), []);
        assert!(matches!(wrong, Err(Error::KeyMismatch(_))));
    }
    let web = leaf(&mesh.root, &service("web"));
    assert!(
        Ca::load::<&str>(CaKey::from_pem(&web.key_pem).unwrap(), &web.cert_chain_pem, []).is_err(),
        "a leaf is no CA"
    );
}

#[test]
fn the_root_is_described_as_consul_describes_it() {
    let mesh = Mesh::new();
    let root = mesh.root.describe(true).unwrap();
    assert_eq!((root.private_key_type.as_str(), root.private_key_bits, root.active), ("ec", 256, true));
    assert_eq!(root.external_trust_domain, "11111111-2222-3333-4444-555555555555");
    assert_eq!((root.id.len(), root.signing_key_id.len()), (20 * 3 - 1, 20 * 3 - 1));
    assert!(root.not_before.ends_with('Z') && root.not_before.len() == 20 && root.not_before < root.not_after);
    assert_eq!((root.root_cert, root.intermediate_certs), (mesh.root.cert_pem(), None));
    let seen_in_dc2 = describe_root(&mesh.root.cert_pem(), &[mesh.dc2.cert_pem()], true).unwrap();
    assert_eq!(seen_in_dc2.id, root.id);
    assert_ne!(seen_in_dc2.signing_key_id, root.signing_key_id);
    assert_eq!(seen_in_dc2.intermediate_certs, Some(vec![mesh.dc2.cert_pem()]));
    assert!(mesh.dc2.describe(true).is_err());
}

#[test]
fn two_datacenters_speak_with_each_other() {
    let mesh = Mesh::new();
    let dc3 = intermediate(&mesh.root, "dc3");
    let in_dc = |dc| LeafName::service(TD, dc, "web").unwrap();
    let parties: Vec<(Identity, SpiffeId)> = [("dc1", &mesh.root), ("dc2", &mesh.dc2), ("dc3", &dc3)]
        .into_iter()
        .map(|(dc, ca)| {
            let identity = Identity::new(mesh.bundle());
            identity.update_leaf(&leaf(ca, &in_dc(dc))).unwrap();
            (identity, in_dc(dc).id().clone())
        })
        .collect();
    for (client, client_id) in &parties {
        for (server, server_id) in &parties {
            let shaken =
                shake(client.client_config([server_id.clone()], &[]).unwrap(), server.server_config(&[]).unwrap());
            assert!(shaken.is_ok(), "{client_id} -> {server_id}: {shaken:?}");
            assert_eq!(identity::peer_id(&shaken.server).as_ref(), Ok(client_id));
            assert_eq!(identity::peer_id(&shaken.client).as_ref(), Ok(server_id));
        }
    }
}

/// A rotation, step by step: nobody is cut off at any of them.
#[test]
fn a_new_root_takes_over_without_an_interruption() {
    let mesh = Mesh::new();
    let now = SystemTime::now();
    let fresh = Ca::new_root(TD, now).unwrap();
    let bridge = mesh.root.cross_sign(&fresh.cert_pem(), now).unwrap();
    let fresh = Ca::load(CaKey::from_pem(&fresh.key().to_pem()).unwrap(), &fresh.cert_pem(), [&bridge]).unwrap();
    let fresh_dc2 = Csr::intermediate(TD, "dc2").unwrap();
    let pem = fresh.sign_intermediate(&fresh_dc2.pem, "dc2", now).unwrap();
    let fresh_dc2 = Ca::load(CaKey::from_pem(&fresh_dc2.key_pem).unwrap(), &pem, [&bridge]).unwrap();

    let web = service("web");
    let web2 = LeafName::service(TD, "dc2", "web").unwrap();
    let bundle = |cas: &[&Ca]| TrustBundle::new(TD, cas.iter().map(|ca| ca.cert_pem())).unwrap();
    let party = |leaf_of: &Ca, name: &LeafName, roots: &[&Ca]| {
        let identity = Identity::new(bundle(roots));
        identity.update_leaf(&leaf(leaf_of, name)).unwrap();
        identity
    };
    let old = party(&mesh.root, &web, &[&mesh.root]);
    let both = party(&mesh.root, &web, &[&mesh.root, &fresh]);
    let new = party(&fresh, &web, &[&mesh.root, &fresh]);
    let new_dc2 = party(&fresh_dc2, &web2, &[&mesh.root, &fresh]);
    let newest = party(&fresh, &web, &[&fresh]);
    let ids = [web.id().clone(), web2.id().clone()];
    let works = |a: &Identity, b: &Identity| {
        shake(a.client_config(ids.clone(), &[]).unwrap(), b.server_config(&[]).unwrap()).is_ok()
    };
    for (a, b) in [
        (&old, &both),
        (&old, &new),
        (&old, &new_dc2),
        (&both, &new),
        (&new, &new_dc2),
        (&newest, &new),
        (&newest, &new_dc2),
    ] {
        assert!(works(a, b) && works(b, a));
    }
    assert!(!works(&old, &newest) && !works(&newest, &old), "the last step waits for the last old leaf");

    let foreign = Ca::new_root("other.consul", now).unwrap();
    assert!(matches!(mesh.root.cross_sign(&foreign.cert_pem(), now), Err(Error::Name { .. })));
}

/// What Consul 1.16's built-in CA makes: a critical URI name without a subject, key usages and ids as Go writes them, SEC 1 keys.
#[test]
fn certificates_of_the_shape_that_consul_makes_are_taken() {
    let identity = Identity::new(TrustBundle::new(TD, [include_str!("consul/root.pem")]).unwrap());
    let leaf = identity::LeafPem {
        cert_chain_pem: include_str!("consul/leaf.pem").into(),
        key_pem: include_str!("consul/leaf.key").to_string().into(),
    };
    let info = identity.update_leaf(&leaf).unwrap();
    assert_eq!(info.name, service("web"));
    let shaken = shake(
        identity.client_config([service("web").id().clone()], &[]).unwrap(),
        identity.server_config(&[]).unwrap(),
    );
    assert!(shaken.is_ok(), "{shaken:?}");
    let root = describe_root::<&str>(include_str!("consul/root.pem"), &[], true).unwrap();
    let fingerprint = include_str!("consul/root.sha1").trim();
    assert_eq!(root.id, fingerprint);
    assert!(ders(&root.root_cert)[0].len() > 100);
}

#[test]
fn secrets_are_never_printed() {
    let mesh = Mesh::new();
    let csr = Csr::new(&service("web")).unwrap();
    let web = leaf(&mesh.root, &service("web"));
    let secret = identity::JoinSecret::parse("c2VjcmV0IHNlY3JldCAxMg==").unwrap();
    let printed = format!(
        "{:?} {:?} {csr:?} {web:?} {secret:?} {:?}",
        mesh.root,
        mesh.root.key(),
        mesh.identity(&service("web"))
    );
    assert!(!printed.contains("PRIVATE KEY") && !printed.contains("c2VjcmV0") && printed.contains("CaKey(secret)"));
    for pem in [mesh.root.key().to_pem(), csr.key_pem, web.key_pem] {
        let secret_line = pem.lines().nth(1).unwrap();
        assert!(!printed.contains(secret_line));
    }
    assert_eq!(Refused::find(&Error::Unfit(Refused::Expired)), Some(&Refused::Expired));
}
