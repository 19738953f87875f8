//! Enrolling: from a join secret to a certificate of this node's own, and its renewal.

use crate::backoff::Backoff;
use crate::error::ServerError;
use crate::servers::Servers;
use crate::trust::{self, Keeper};
use api::proto::join_client::JoinClient;
use api::proto::{EnrollReply, EnrollRequest, HelloReply, HelloRequest};
use api::transport::{Channel, Pool};
use identity::{Csr, Identity, LeafName, LeafPem, Renewer};
use model::Node;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// Most time for one question to a server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Gets this node its certificate and renews it at half its life.
pub(crate) struct Enroller {
    /// Connections with the join secret.
    pub(crate) joining: Pool,
    pub(crate) servers: Servers,
    pub(crate) identity: Identity,
    pub(crate) keeper: Keeper,
    pub(crate) node: Node,
    /// Rung by the session when no trust is left between this node and a server: it joins anew.
    pub(crate) strangers: Arc<Notify>,
    /// Whether this node has a certificate.
    pub(crate) enrolled: watch::Sender<bool>,
}

impl Enroller {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut renewer = match self.identity.leaf() {
            Some(leaf) => Renewer::with_leaf(leaf.not_before, leaf.not_after, rand::random()),
            None => Renewer::new(SystemTime::now()),
        };
        self.enrolled.send_replace(self.has_valid_leaf());
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let mut said = String::new();
        let mut roots = self.identity.bundle().roots_hash();
        loop {
            if roots != self.identity.bundle().roots_hash() {
                roots = self.identity.bundle().roots_hash();
                renewer.roots_changed(SystemTime::now(), rand::random());
            }
            let left = renewer.wait(SystemTime::now());
            if !left.is_zero() {
                // A cluster that was made anew has another CA; who knows the join secret may still join.
                if timeout(left, self.strangers.notified()).await.is_ok() {
                    renewer = Renewer::new(SystemTime::now());
                    sleep(backoff.next()).await;
                }
                continue;
            }
            match self.enroll().await {
                Ok(leaf) => {
                    tracing::info!(serial = %leaf.serial, "this node has its certificate");
                    renewer.renewed(SystemTime::now(), leaf.not_before, leaf.not_after, rand::random());
                    roots = self.identity.bundle().roots_hash();
                    self.enrolled.send_replace(true);
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        tracing::warn!(error = text, "cannot join; trying again");
                        said = text;
                    }
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    fn has_valid_leaf(&self) -> bool {
        self.identity.leaf().is_some_and(|leaf| leaf.is_valid_at(SystemTime::now()))
    }

    /// Asks one server after the other. The error is the one that says most: a refusal rather than an absence.
    async fn enroll(&self) -> Result<identity::LeafInfo, ServerError> {
        let mut worst = ServerError::NoServer("no address is known: give -retry-join".to_string());
        for address in self.servers.candidates() {
            match self.enroll_at(&address).await {
                Ok(leaf) => return Ok(leaf),
                Err(error @ ServerError::NoServer(_)) if matches!(worst, ServerError::NoServer(_)) => worst = error,
                Err(ServerError::NoServer(_)) => {}
                Err(error) => worst = error,
            }
        }
        Err(worst)
    }

    async fn enroll_at(&self, address: &str) -> Result<identity::LeafInfo, ServerError> {
        let channel = self.joining.channel(address).map_err(|e| ServerError::NoServer(e.to_string()))?;
        let mut client = JoinClient::new(channel);
        let hello = hello(&mut client, address, &self.node.datacenter).await?;
        let malformed = |reason: String| ServerError::Malformed { address: address.to_string(), reason };
        let name = LeafName::agent(&hello.trust_domain, &self.node.datacenter, &self.node.name)
            .map_err(|e| malformed(e.to_string()))?;
        let csr = Csr::new(&name).map_err(|e| malformed(e.to_string()))?;
        let request = EnrollRequest {
            csr_pem: csr.pem.clone(),
            node: self.node.name.clone(),
            node_id: self.node.id.clone(),
            server: None,
        };
        let reply = match timeout(CALL_TIMEOUT, client.enroll(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(ServerError::of_call(address, &status)),
            Err(_) => return Err(malformed(format!("no answer within {CALL_TIMEOUT:?}"))),
        };
        self.take(reply, csr).map_err(malformed)
    }

    /// Uses and keeps what a server has signed.
    fn take(&self, reply: EnrollReply, csr: Csr) -> Result<identity::LeafInfo, String> {
        let wire = reply.bundle.ok_or("a certificate without a trust bundle")?;
        let bundle = trust::bundle(&wire)?;
        let leaf = csr.with_chain(reply.chain_pem);
        let before = self.identity.bundle();
        self.identity.update_bundle(bundle);
        let info = self.identity.update_leaf(&leaf).inspect_err(|_| self.identity.update_bundle((*before).clone()));
        let info = info.map_err(|e| e.to_string())?;
        self.servers.learn(reply.servers);
        self.keep(&leaf, &wire);
        Ok(info)
    }

    fn keep(&self, leaf: &LeafPem, bundle: &api::proto::TrustBundle) {
        let servers = self.servers.known().iter().filter(|s| !s.wan).map(|s| s.rpc_address.clone()).collect();
        self.keeper.change(|kept| {
            kept.node.clone_from(&self.node.name);
            kept.chain_pem.clone_from(&leaf.cert_chain_pem);
            kept.key_pem = leaf.key_pem.to_string();
            kept.set_bundle(bundle);
            kept.servers = servers;
        });
    }
}

/// Who is there, if it is a server of our datacenter that can sign.
pub(crate) async fn hello(
    client: &mut JoinClient<Channel>,
    address: &str,
    datacenter: &str,
) -> Result<HelloReply, ServerError> {
    let reply = match timeout(CALL_TIMEOUT, client.hello(HelloRequest { from: None })).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(ServerError::of_call(address, &status)),
        Err(_) => return Err(ServerError::NoServer(format!("{address} did not answer within {CALL_TIMEOUT:?}"))),
    };
    let found = reply.me.as_ref().map_or("", |me| &me.datacenter);
    if found != datacenter {
        return Err(ServerError::OtherDatacenter {
            address: address.to_string(),
            found: found.to_string(),
            asked: datacenter.to_string(),
        });
    }
    if reply.trust_domain.is_empty() {
        return Err(ServerError::NotReady { address: address.to_string() });
    }
    Ok(reply)
}
