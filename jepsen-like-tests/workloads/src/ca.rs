//! Services come up and have certificates made while leaders change and the root is rotated: each is the only one with its serial number,
//! is for whom it was asked for and nobody else, is valid now, and is trusted by those who know the old roots and those who know the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::json;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::{Api, Failure};
use crate::client::{Client, Need, Workload};

/// Those who ask for certificates come first; then one who reads the roots, and one who rotates them.
const ASKERS: usize = 4;

/// How often a certificate is asked for until the registration has come to the servers.
const ATTEMPTS: usize = 40;

/// One in so many asks for a service that is not on the node.
const WRONG_OF: usize = 8;

/// When the root is rotated, in milliseconds of the round: once, for old roots stay.
const ROTATION_MS: (u64, u64) = (2_000, 12_000);

/// And in one round of so many: nobody rotates each minute, and what roots take would look like a leak.
const ROTATION_ROUNDS: u64 = 8;

/// What a server told of the roots may be older than its clients' moment by so much.
const SLACK_NS: u64 = 5_000_000_000;

pub(crate) struct Ca;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    /// A certificate for a service of this node.
    Leaf {
        service: String,
    },
    /// A certificate for a service that was never on this node.
    Wrong {
        service: String,
    },
    Roots,
    Rotate,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// The certificates, and the clients' time in seconds since 1970.
    Leaf {
        chain_pem: String,
        at_s: u64,
    },
    Roots {
        trust_domain: String,
        roots_pem: Vec<String>,
    },
    Rotated,
}

/// What the agent answers; the key is nobody's business.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Issued {
    #[serde(rename = "CertPEM")]
    cert_pem: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Roots {
    trust_domain: String,
    roots: Vec<Root>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    root_cert: String,
}

#[async_trait(?Send)]
impl Workload for Ca {
    fn name(&self) -> &'static str {
        "ca"
    }

    fn clients(&self) -> usize {
        ASKERS + 2
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::OwnAgents]
    }

    async fn run(&self, client: &mut Client) {
        match client.number {
            ASKERS => read_roots(client).await,
            number if number > ASKERS => rotate(client).await,
            _ => ask(client).await,
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        client.insist(Call::Roots, roots).await?;
        for server in 0..client.servers() {
            let service = new_name(client);
            let issue = async |client: &mut Client| issue(client, server, &service, 1).await.then_some(()).ok_or(());
            let none = |()| format!("ca: server {server} of the healed cluster gives no certificate");
            client.patiently(issue).await.map_err(none)?;
        }
        client.insist(Call::Roots, roots).await.map(drop)
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        let prefix = client.named("ca-");
        for server in 0..client.servers() {
            let services = async |api: &mut Api<'_>| api.get("/v1/agent/services").await;
            let services: BTreeMap<String, serde_json::Value> = client.insist_of(server, services).await?;
            for id in services.keys().filter(|id| id.starts_with(&prefix)) {
                let path = format!("/v1/agent/service/deregister/{id}");
                client.insist_of(server, async |api| api.send("PUT", &path, "").await).await?;
            }
        }
        Ok(())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

async fn ask(client: &mut Client) {
    while client.goes_on() {
        let server = client.any_server();
        let service = new_name(client);
        if client.rng.below(WRONG_OF) == 0 {
            let call = Call::Wrong { service: service.clone() };
            client.ask(server, call, async |api| leaf(api, &service).await).await.ok();
        } else {
            issue(client, server, &service, ATTEMPTS).await;
            // One that stays is cleared when the round is over.
            let path = format!("/v1/agent/service/deregister/{service}");
            client.api(server).send("PUT", &path, "").await.ok();
        }
        client.think(0, 20).await;
    }
}

fn new_name(client: &Client) -> String {
    client.named(format!("ca-{}", client.unique()))
}

/// Registers the service with the server's agent, and asks for its certificate until there is one.
async fn issue(client: &mut Client, server: usize, service: &str, attempts: usize) -> bool {
    let body = json!({"ID": service, "Name": service}).to_string();
    for _ in 0..attempts {
        if client.api(server).send("PUT", "/v1/agent/service/register", &body).await.is_ok() {
            let call = Call::Leaf { service: service.to_owned() };
            if client.ask(server, call, async |api| leaf(api, service).await).await.is_ok() {
                return true;
            }
        } else {
            client.think(50, 100).await;
        }
    }
    false
}

async fn leaf(api: &mut Api<'_>, service: &str) -> Result<Answer, Failure> {
    let issued: Issued = api.get(&format!("/v1/agent/connect/ca/leaf/{service}")).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Answer::Leaf { chain_pem: issued.cert_pem, at_s: now.as_secs() })
}

async fn roots(api: &mut Api<'_>) -> Result<Answer, Failure> {
    let roots: Roots = api.get("/v1/connect/ca/roots").await?;
    let roots_pem = roots.roots.into_iter().map(|root| root.root_cert).collect();
    Ok(Answer::Roots { trust_domain: roots.trust_domain, roots_pem })
}

async fn read_roots(client: &mut Client) {
    while client.goes_on() {
        let server = client.any_server();
        client.ask(server, Call::Roots, roots).await.ok();
        client.think(50, 200).await;
    }
}

async fn rotate(client: &mut Client) {
    if !client.round().is_multiple_of(ROTATION_ROUNDS) {
        return;
    }
    let wait = client.rng.between_ms(ROTATION_MS.0, ROTATION_MS.1);
    client.pause(wait).await;
    while client.goes_on() {
        let server = client.any_server();
        let body = json!({"Provider": "consul", "Config": {"RotateRoot": true}}).to_string();
        let path = "/v1/connect/ca/configuration";
        let rotated =
            client.ask(server, Call::Rotate, async |api| api.send("PUT", path, &body).await.map(|_| Answer::Rotated));
        if rotated.await.is_ok() {
            return;
        }
    }
}

/// A certificate that was given out, and what came with it.
struct Given<'a> {
    operation: &'a Typed<Call, Answer>,
    service: &'a str,
    chain: Vec<CertificateDer<'a>>,
    at_s: u64,
}

/// What was told of the roots.
struct Told<'a> {
    operation: &'a Typed<Call, Answer>,
    trust_domain: &'a str,
    roots: Vec<CertificateDer<'a>>,
}

fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let (mut given, mut told, mut refused, mut rotations) = (Vec::new(), Vec::new(), 0, 0);
    for operation in operations {
        let at = operation.end_ns / 1_000_000;
        match (&operation.call, &operation.seen) {
            (Call::Wrong { service }, Some(Some(_))) => judgement.violations.push(format!(
                "server {} gave a certificate for {service} at {at} ms, which was never on it",
                operation.server
            )),
            (Call::Wrong { .. }, None) => refused += 1,
            (Call::Rotate, Some(Some(_))) => rotations += 1,
            (Call::Leaf { service }, Some(Some(Answer::Leaf { chain_pem, at_s }))) => match ders(chain_pem) {
                Ok(chain) => given.push(Given { operation, service, chain, at_s: *at_s }),
                Err(why) => judgement.violations.push(format!("the certificate for {service} at {at} ms: {why}")),
            },
            (Call::Roots, Some(Some(Answer::Roots { trust_domain, roots_pem }))) => {
                match roots_pem.iter().map(|pem| ders(pem)).collect::<Result<Vec<_>, _>>() {
                    Ok(roots) => told.push(Told { operation, trust_domain, roots: roots.concat() }),
                    Err(why) => judgement.violations.push(format!("the roots at {at} ms: {why}")),
                }
            }
            _ => {}
        }
    }
    for one in &given {
        let wrong = names_and_times(one, &told).into_iter().chain(not_trusted(one, &told));
        let at = one.operation.end_ns / 1_000_000;
        judgement
            .violations
            .extend(wrong.map(|wrong| format!("the certificate for {} at {at} ms {wrong}", one.service)));
    }
    judgement.violations.extend(twice(&given));
    judgement.cover("certificates", given.len() as u64, 30);
    judgement.cover("answers about roots", told.len() as u64, 10);
    judgement.cover("wrong names refused", refused, 2);
    judgement.notes.push(format!("{rotations} rotations of the root"));
    judgement
}

/// The certificates in a text; at least one.
fn ders(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let ders = ders.map_err(|error| format!("what was given is no PEM: {error:?}"))?;
    if ders.is_empty() { Err("nothing was given".to_owned()) } else { Ok(ders) }
}

/// Serial numbers that two certificates have.
fn twice(given: &[Given<'_>]) -> Vec<String> {
    let mut by_serial: BTreeMap<Vec<u8>, BTreeSet<(&[u8], &str)>> = BTreeMap::new();
    for one in given {
        if let Ok((_, cert)) = X509Certificate::from_der(&one.chain[0]) {
            by_serial.entry(cert.raw_serial().to_vec()).or_default().insert((&one.chain[0], one.service));
        }
    }
    let double = by_serial.into_iter().filter(|(_, certs)| certs.len() > 1);
    double
        .map(|(serial, certs)| {
            let services: Vec<&str> = certs.iter().map(|(_, service)| *service).collect();
            format!("the serial number {serial:02x?} is that of several certificates: {services:?}")
        })
        .collect()
}

/// What is wrong with what the certificate says.
fn names_and_times(one: &Given<'_>, told: &[Told<'_>]) -> Vec<String> {
    let cert = match X509Certificate::from_der(&one.chain[0]) {
        Ok((_, cert)) => cert,
        Err(error) => return vec![format!("cannot be read: {error}")],
    };
    let mut wrong = Vec::new();
    let names = match cert.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().map(uri).collect(),
        Ok(None) => Vec::new(),
        Err(error) => vec![error.to_string()],
    };
    let is_of = |domain: &str| names == [format!("spiffe://{domain}/ns/default/dc/dc1/svc/{}", one.service)];
    if !told.iter().any(|told| is_of(told.trust_domain)) {
        wrong.push(format!("is for {names:?}"));
    }
    if cert.is_ca() {
        wrong.push("is a CA's".to_owned());
    }
    let (from, until, now) =
        (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp(), one.at_s as i64);
    if from > now {
        wrong.push(format!("is not valid yet: only in {} s", from - now));
    }
    if until <= now {
        wrong.push(format!("is not valid any more, since {} s", now - until));
    }
    wrong
}

fn uri(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => format!("{other}"),
    }
}

/// Who knew the roots a moment before, and who learns of them a moment later, trusts it.
fn not_trusted(one: &Given<'_>, told: &[Told<'_>]) -> Vec<String> {
    let (start_ns, end_ns) = (one.operation.start_ns, one.operation.end_ns);
    let before =
        told.iter().filter(|told| told.operation.end_ns < start_ns && told.operation.end_ns + SLACK_NS > start_ns);
    let after = told.iter().filter(|told| told.operation.start_ns > end_ns);
    let both = [
        ("before", before.max_by_key(|told| told.operation.end_ns)),
        ("after", after.min_by_key(|told| told.operation.start_ns)),
    ];
    let mut wrong = Vec::new();
    for (when, told) in both {
        if let Some(told) = told
            && let Err(why) = verify(one, &told.roots)
        {
            let at = told.operation.end_ns / 1_000_000;
            wrong.push(format!("is not trusted by who learnt the roots {when} it, at {at} ms: {why}"));
        }
    }
    wrong
}

fn verify(one: &Given<'_>, roots: &[CertificateDer<'_>]) -> Result<(), String> {
    let anchors: Result<Vec<_>, _> = roots.iter().map(anchor_from_trusted_cert).collect();
    let anchors = anchors.map_err(|error| format!("a root cannot be read: {error}"))?;
    let leaf = EndEntityCert::try_from(&one.chain[0]).map_err(|error| error.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(one.at_s));
    let algorithms = webpki::aws_lc_rs::ECDSA_P256_SHA256;
    let path =
        leaf.verify_for_usage(&[algorithms], &anchors, &one.chain[1..], now, KeyUsage::client_auth(), None, None);
    path.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, SerialNumber};

    const NOW_S: u64 = 1_800_000_000;

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    /// What a leaf says.
    struct Leaf {
        uris: Vec<String>,
        serial: u64,
        from_s: u64,
        until_s: u64,
    }

    fn authority(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.self_signed(&key).unwrap();
        Authority { pem: cert.pem(), issuer: Issuer::new(params, key) }
    }

    fn good(service: &str, serial: u64) -> Leaf {
        let uris = vec![format!("spiffe://t.consul/ns/default/dc/dc1/svc/{service}")];
        Leaf { uris, serial, from_s: NOW_S - 60, until_s: NOW_S + 3600 }
    }

    fn signed(authority: &Authority, leaf: Leaf) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = leaf.uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())).collect();
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.not_before = (UNIX_EPOCH + Duration::from_secs(leaf.from_s)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(leaf.until_s)).into();
        params.signed_by(&key, &authority.issuer).unwrap().pem()
    }

    /// The new root, signed by the old one.
    fn bridge(new: &Authority, old: &Authority) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "new");
        params.signed_by(new.issuer.key(), &old.issuer).unwrap().pem()
    }

    fn operation(call: Call, seen: Option<Option<Answer>>, at: u64) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at, end_ns: at }
    }

    fn leaf(service: &str, chain_pem: String, at: u64) -> Typed<Call, Answer> {
        let answer = Answer::Leaf { chain_pem, at_s: NOW_S };
        operation(Call::Leaf { service: service.to_owned() }, Some(Some(answer)), at)
    }

    fn roots(authorities: &[&Authority], at: u64) -> Typed<Call, Answer> {
        let roots_pem = authorities.iter().map(|authority| authority.pem.clone()).collect();
        operation(Call::Roots, Some(Some(Answer::Roots { trust_domain: "t.consul".to_owned(), roots_pem })), at)
    }

    fn violations(operations: &[Typed<Call, Answer>]) -> Vec<String> {
        judge(operations).violations
    }

    #[test]
    fn good_certificates_pass() {
        let (old, new) = (authority("old"), authority("new"));
        let bridge = bridge(&new, &old);
        let by_new = signed(&new, good("b", 2)) + &bridge;
        let one = leaf("a", signed(&old, good("a", 1)), 2);
        let history = [
            roots(&[&old], 1),
            one.clone(),
            leaf("b", by_new, 4),
            roots(&[&new, &old], 5),
            Typed { start_ns: 6, end_ns: 6, ..one },
            operation(Call::Wrong { service: "x".to_owned() }, None, 7),
        ];
        assert_eq!(violations(&history), [""; 0]);
    }

    #[test]
    fn bad_certificates_fail() {
        let (root, other) = (authority("one"), authority("other"));
        let judged =
            |service: &str, what: Leaf| violations(&[roots(&[&root], 1), leaf(service, signed(&root, what), 2)]);
        assert!(judged("a", good("b", 1))[0].contains("is for"));
        let both = Leaf { uris: [good("a", 1).uris, good("b", 1).uris].concat(), ..good("a", 1) };
        assert!(judged("a", both)[0].contains("is for"));
        assert!(judged("a", Leaf { from_s: NOW_S + 9, ..good("a", 1) })[0].contains("only in 9 s"));
        assert!(judged("a", Leaf { until_s: NOW_S, ..good("a", 1) })[0].contains("not valid any more"));
        let foreign = leaf("a", signed(&other, good("a", 1)), 2);
        assert!(violations(&[roots(&[&root], 1), foreign])[0].contains("not trusted"));
        let without_bridge =
            [roots(&[&root], 1), leaf("a", signed(&other, good("a", 1)), 2), roots(&[&other, &root], 3)];
        assert_eq!(violations(&without_bridge).len(), 1);
        let forgotten = [roots(&[&root], 1), leaf("a", signed(&root, good("a", 1)), 2), roots(&[&other], 3)];
        assert_eq!(violations(&forgotten).len(), 1);
        assert!(violations(&[leaf("a", "nonsense".to_owned(), 2)])[0].contains("nothing was given"));
    }

    #[test]
    fn two_certificates_of_one_number_and_names_that_are_not_there_fail() {
        let root = authority("one");
        let one = leaf("a", signed(&root, good("a", 7)), 2);
        let again = Typed { start_ns: 3, end_ns: 3, ..one.clone() };
        let other = leaf("b", signed(&root, good("b", 7)), 4);
        assert_eq!(violations(&[roots(&[&root], 1), one.clone(), again]), [""; 0]);
        assert!(violations(&[roots(&[&root], 1), one.clone(), other])[0].contains("serial number"));
        let wrong = Typed { call: Call::Wrong { service: "a".to_owned() }, ..one };
        assert!(violations(&[roots(&[&root], 1), wrong])[0].contains("never on it"));
    }
}
