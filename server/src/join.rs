//! How this server finds the others: it begins a cluster with them, or enrolls in the one that is there.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::proto::join_client::JoinClient;
use api::proto::{EnrollReply, EnrollRequest, HelloReply, HelloRequest, ServerInfo};
use identity::{Csr, LeafName, Refused};
use raft::{Member, MembershipError};
use tonic::Status;

use crate::bootstrap::{Step, decide};
use crate::core::Core;
use crate::rpc::dial::CALL_TIMEOUT;

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// After servers were found that do not all know each other yet.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// A member without a good certificate asks the others for one, unless the catalog's CA gives it one first.
const RENEW_PAUSE: Duration = Duration::from_secs(2);

/// Joins or begins a cluster, unless this server belongs to one. Ends when it does, or when the server closes.
pub(crate) async fn run(core: Arc<Core>) {
    tokio::select! {
        () = async {
            find_cluster(&core).await;
            keep_certificate(&core).await;
        } => {}
        () = core.closing.cancelled() => {}
    }
}

async fn find_cluster(core: &Core) {
    let mut log = Reasons::default();
    let mut addresses: BTreeSet<String> = core.config.retry_join.iter().cloned().collect();
    let mut pause = core.config.retry_interval;
    loop {
        let me = core.info().await;
        if me.initialized {
            return;
        }
        let replies = ask_all(core, &addresses, &me, &mut log).await;
        learn(core, &me, &replies, &mut addresses);
        match decide(&me, &replies) {
            Step::Initialize(servers) => begin(core, servers).await,
            Step::Join(address) => match enroll_server(core, &address, me).await {
                Ok(()) => wait_for_leader(core).await,
                Err(reason) => log.say(format!("cannot join at {address} yet: {reason}")),
            },
            Step::Wait(reason) => log.say(reason),
        }
        // While the others are there it is only a matter of rounds until all know each other.
        pause = if replies.is_empty() {
            (pause * 2).min(PAUSE_MAX.max(core.config.retry_interval))
        } else {
            PAUSE_MIN.min(core.config.retry_interval)
        };
        tokio::time::sleep(pause).await;
    }
}

/// Says the same thing in the log only once.
#[derive(Default)]
struct Reasons(BTreeSet<String>);

impl Reasons {
    /// After so many different things it may repeat itself.
    const REMEMBERED_MAX: usize = 64;

    fn say(&mut self, reason: String) {
        if self.0.len() >= Self::REMEMBERED_MAX {
            self.0.clear();
        }
        if self.0.insert(reason.clone()) {
            tracing::info!("{reason}");
        }
    }
}

async fn ask_all(core: &Core, addresses: &BTreeSet<String>, me: &ServerInfo, log: &mut Reasons) -> Vec<HelloReply> {
    let questions = addresses
        .iter()
        .filter(|address| **address != me.rpc_address)
        .map(|address| async move { (address, hello(core, address, me).await) });
    let mut replies = Vec::new();
    for (address, answer) in futures_util::future::join_all(questions).await {
        match answer {
            Ok(reply) if reply.me.as_ref().is_some_and(|other| other.id == me.id) => {}
            Ok(reply) => match &reply.me {
                Some(other) if other.datacenter != me.datacenter => {
                    log.say(format!(
                        "{address} is of datacenter {:?}, not {:?}: it belongs into `retry_join_wan`",
                        other.datacenter, me.datacenter
                    ));
                }
                Some(_) | None => replies.push(reply),
            },
            Err(reason) => log.say(format!("{address} does not answer: {reason}")),
        }
    }
    replies
}

async fn hello(core: &Core, address: &str, me: &ServerInfo) -> Result<HelloReply, String> {
    let channel = core.peers.joining(address).map_err(|error| error.to_string())?;
    let request = HelloRequest { from: Some(me.clone()) };
    match tokio::time::timeout(CALL_TIMEOUT, JoinClient::new(channel).hello(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(reason(&status)),
        Err(_) => Err("no answer in time".into()),
    }
}

/// What a failed call says to an operator: a refused certificate first, else the innermost cause.
pub(crate) fn reason(status: &Status) -> String {
    if let Some(refused) = Refused::find(status) {
        return refused.to_string();
    }
    let mut text = status.message().to_string();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// Remembers who answered, and asks those next whom they know.
fn learn(core: &Core, me: &ServerInfo, replies: &[HelloReply], addresses: &mut BTreeSet<String>) {
    let Ok(mut acquaintances) = core.acquaintances.lock() else { return };
    for server in replies.iter().filter_map(|reply| reply.me.clone()) {
        acquaintances.meet(server, Instant::now());
    }
    let told = replies.iter().flat_map(|reply| reply.known.iter().cloned());
    let known = acquaintances.known(Instant::now()).into_iter().chain(told);
    addresses.extend(
        known
            .filter(|server| server.id != me.id && server.datacenter == me.datacenter)
            .map(|server| server.rpc_address),
    );
}

async fn begin(core: &Core, servers: Vec<ServerInfo>) {
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    tracing::info!(servers = names.join(", "), "the cluster begins");
    let members = servers.iter().map(|server| Member {
        id: server.id,
        name: server.name.clone(),
        address: server.rpc_address.clone(),
    });
    match core.raft.bootstrap(members.collect()).await {
        Ok(()) | Err(MembershipError::AlreadyBootstrapped) => {}
        Err(error) => tracing::error!(%error, "the cluster cannot begin"),
    }
}

async fn enroll_server(core: &Core, address: &str, me: ServerInfo) -> Result<(), String> {
    let reply = enroll(core, address, Some(me)).await?;
    tracing::info!(address, servers = reply.servers.len(), "this server has enrolled in the cluster");
    Ok(())
}

/// The leader adds this server; then Raft tells it of the cluster.
async fn wait_for_leader(core: &Core) {
    let mut leadership = core.raft.watch();
    // If it does not come, the round begins anew.
    let _ = tokio::time::timeout(CALL_TIMEOUT, leadership.wait_for(|now| now.leader.is_some())).await;
}

/// Has this server's certificate signed by a server of this datacenter, and uses it.
async fn enroll(core: &Core, address: &str, server: Option<ServerInfo>) -> Result<EnrollReply, String> {
    let me = core.info().await;
    let trust_domain = hello(core, address, &me).await?.trust_domain;
    let (reply, csr) = request_leaf(core, address, &trust_domain, server).await?;
    let bundle = reply.bundle.clone().ok_or("no roots were sent")?;
    core.trust.enrolled(&csr.with_chain(reply.chain_pem.clone()), &bundle, true).map_err(|error| error.to_string())?;
    Ok(reply)
}

async fn request_leaf(
    core: &Core,
    address: &str,
    trust_domain: &str,
    server: Option<ServerInfo>,
) -> Result<(EnrollReply, Csr), String> {
    if trust_domain.is_empty() {
        return Err("there is no certificate authority yet".into());
    }
    let text = |error: identity::Error| error.to_string();
    let name = LeafName::server(trust_domain, &core.config.datacenter, &core.config.node_name).map_err(text)?;
    let csr = Csr::new(&name).map_err(text)?;
    let channel = core.peers.joining(address).map_err(|error| error.to_string())?;
    let request = EnrollRequest {
        csr_pem: csr.pem.clone(),
        node: core.config.node_name.clone(),
        node_id: core.config.node_id.clone(),
        server,
    };
    // Adding a server to Raft is a change of its membership, which may have to wait for another.
    match tokio::time::timeout(CALL_TIMEOUT * 4, JoinClient::new(channel).enroll(request)).await {
        Ok(Ok(reply)) => Ok((reply.into_inner(), csr)),
        Ok(Err(status)) => Err(reason(&status)),
        Err(_) => Err("no answer in time".into()),
    }
}

/// A server that was away until its certificate ran out, or lost it, asks the others for a new one.
async fn keep_certificate(core: &Core) {
    loop {
        tokio::time::sleep(RENEW_PAUSE).await;
        if core.trust.is_member() {
            return;
        }
        let others =
            core.members.all().into_iter().filter(|member| member.id != core.raft.id()).map(|member| member.address);
        for address in others.chain(core.config.retry_join.iter().cloned()) {
            if core.trust.is_member() {
                return;
            }
            if let Err(reason) = enroll(core, &address, None).await {
                tracing::debug!(address, reason, "no certificate from this server");
            }
        }
    }
}

/// A server of a secondary datacenter gets its first certificate from the primary, by the join secret.
pub(crate) async fn enroll_in_primary(core: &Core) -> Result<(), String> {
    let primary = core.config.primary();
    let mut last = format!("no server of the primary datacenter {primary:?} is known: set `retry_join_wan`");
    let me = core.info().await;
    for address in core.servers_of(primary) {
        let trust_domain = match hello(core, &address, &me).await {
            Ok(reply) => reply.trust_domain,
            Err(reason) => {
                last = format!("{address}: {reason}");
                continue;
            }
        };
        match request_leaf(core, &address, &trust_domain, None).await {
            Ok((reply, csr)) => {
                let bundle = reply.bundle.ok_or("the primary sent no roots")?;
                return core
                    .trust
                    .enrolled(&csr.with_chain(reply.chain_pem), &bundle, false)
                    .map_err(|error| error.to_string());
            }
            Err(reason) => last = format!("{address}: {reason}"),
        }
    }
    Err(last)
}
