//! Port 8300 takes those who hold a good certificate of this cluster, and nobody else.

use crate::support::{Process, block, client, server_args, writable};
use api::transport::{ForwardError, connect, forward};
use identity::{Ca, CaKey, Csr, Identity, JoinSecret, LeafName, LeafPem, Role, RpcIdentity, TrustBundle};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// The key of the cluster's CA, which is in the Raft log: whoever has a server's disk can sign.
fn stolen_key(log: &Path) -> CaKey {
    for file in std::fs::read_dir(log).expect("the log's folder") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("a segment");
        let text = String::from_utf8_lossy(&bytes);
        if let Some((_, rest)) = text.split_once(PEM_BEGIN)
            && let Some((key, _)) = rest.split_once(PEM_END)
        {
            return CaKey::from_pem(&format!("{PEM_BEGIN}{key}{PEM_END}\n")).expect("a key");
        }
    }
    panic!("no key in {}", log.display());
}

/// Somebody with a leaf, in front of the port.
struct Caller {
    address: String,
    trust_domain: String,
    roots: Vec<String>,
}

impl Caller {
    /// Asks for `/v1/status/leader` with this leaf; the status, if there was an answer.
    async fn ask(&self, leaf: &LeafPem) -> Result<u16, ForwardError> {
        let identity = Identity::new(TrustBundle::new(&self.trust_domain, &self.roots).expect("roots"));
        identity.update_leaf(leaf).expect("a leaf");
        let rpc =
            RpcIdentity::new(identity, &JoinSecret::open(), Role::Server, "dc1", "stranger").expect("an identity");
        let tls = rpc.client_config("dc1", &[b"h2"]).expect("a configuration");
        let channel = connect(&self.address, Arc::new(tls), "server.dc1.consul").expect("an address");
        let request = http::Request::get(format!("https://{}/v1/status/leader", self.address));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
        forward(&channel, request).await.map(|answer| answer.status().as_u16())
    }
}

fn sign(ca: &Ca, name: &LeafName, ttl: Duration) -> LeafPem {
    let csr = Csr::new(name).expect("a request");
    let signed = ca.sign_leaf(&csr.pem, name, ttl, SystemTime::now()).expect("signed");
    csr.with_chain(signed.cert_chain_pem)
}

#[tokio::test]
async fn only_good_certificates_of_this_cluster_are_taken() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    let secret = "-encrypt=pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
    let _server = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &ip, 1, &[], &[secret]));
    writable(&ip).await;
    let known = client(&ip).ca_roots().await.expect("roots");
    let roots: Vec<String> = known.roots.iter().map(|root| root.noun.root_cert.clone()).collect();
    let domain = known.trust_domain.clone();
    let caller = Caller { address: format!("{ip}:8300"), trust_domain: domain.clone(), roots: roots.clone() };

    let ours =
        Ca::load(stolen_key(&folder.path().join("s1/raft/log")), &roots[0], Vec::<String>::new()).expect("the CA");
    let alike = Ca::new_root(&domain, SystemTime::now()).expect("a CA");
    let foreign = Ca::new_root("11111111-2222-3333-4444-555555555555.consul", SystemTime::now()).expect("a CA");
    let server = |domain: &str| LeafName::server(domain, "dc1", "stranger").expect("a name");
    let service = LeafName::service(&domain, "dc1", "web").expect("a name");

    assert_eq!(caller.ask(&sign(&ours, &server(&domain), DAY)).await.ok(), Some(200), "a good one is taken");
    assert_eq!(caller.ask(&sign(&ours, &service, DAY)).await.ok(), Some(403), "a service may call nothing");
    for (what, leaf) in [
        ("of another root with our trust domain", sign(&alike, &server(&domain), DAY)),
        ("of another trust domain", sign(&foreign, &server(foreign.trust_domain()), DAY)),
    ] {
        let refused = caller.ask(&leaf).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }

    let short = sign(&ours, &server(&domain), Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let refused = caller.ask(&short).await;
    assert!(refused.is_err(), "expired: {refused:?}");
    assert_eq!(client(&ip).nodes("").await.expect("nodes").len(), 1, "only the server itself");
}
