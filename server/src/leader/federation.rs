//! Datacenters tell each other where their servers and gateways are, and the others replicate what the primary decides:
//! intentions and config entries. While the primary is away they go on with what they know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::proto::join_client::JoinClient;
use api::proto::peer_client::PeerClient;
use api::proto::watch_client::WatchClient;
use api::proto::{FederateReply, FederateRequest, HelloRequest, WatchReply, WatchRequest};
use api::transport::{Channel, forward};
use axum::body::Body;
use bytes::Bytes;
use catalog::query::{config_entry, datacenter as datacenters, gateway, intention};
use catalog::{Command, View};
use http_body_util::{BodyExt, Limited};
use model::Intention;
use model::config_entry::ConfigEntry;
use model::datacenter::Datacenter;
use tonic::Status;

use super::RETRY;
use crate::core::Core;
use crate::rpc::dial::CALL_TIMEOUT;

/// How often datacenters talk.
const EXCHANGE: Duration = Duration::from_secs(2);
/// After the primary was lost, another of its servers is asked.
const REPLICATE_AGAIN: Duration = Duration::from_secs(1);
/// Most datacenters of a federation.
const DATACENTERS_MAX: usize = 256;
/// Largest answer that is taken from another datacenter.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Tells every datacenter that is known where this one is, for as long as this server leads.
pub(super) async fn exchange(core: &Arc<Core>) {
    loop {
        for address in &core.config.retry_join_wan {
            meet(core, address).await;
        }
        // Before there is a certificate, nobody would listen.
        if core.trust.is_member() {
            let others = known_others(core).into_iter().map(|other| tell(core, other.name));
            futures_util::future::join_all(others).await;
        }
        tokio::time::sleep(EXCHANGE).await;
    }
}

fn known_others(core: &Core) -> Vec<Datacenter> {
    let all = core
        .watch
        .read(|view| datacenters::datacenters(view).into_iter().map(|row| row.value.clone()).collect::<Vec<_>>())
        .0;
    all.into_iter().filter(|datacenter| datacenter.name != core.config.datacenter).collect()
}

/// Learns by the join secret which datacenter an address belongs to, if it is not known yet.
async fn meet(core: &Core, address: &str) {
    if known_others(core).iter().any(|other| other.servers.iter().any(|server| server == address)) {
        return;
    }
    let Ok(channel) = core.peers.joining(address) else {
        tracing::warn!(address, "not an address: `retry_join_wan` needs host:port");
        return;
    };
    let hello = tokio::time::timeout(CALL_TIMEOUT, JoinClient::new(channel).hello(HelloRequest::default())).await;
    let reply = match hello {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => {
            return tracing::debug!(address, reason = crate::join::reason(&status), "cannot reach another datacenter");
        }
        Err(_) => return tracing::debug!(address, "another datacenter does not answer"),
    };
    let Some(me) = reply.me.filter(|me| me.datacenter != core.config.datacenter && me.initialized) else { return };
    let servers: BTreeSet<String> =
        reply.known.into_iter().map(|server| server.rpc_address).chain([me.rpc_address]).collect();
    let primary = me.datacenter == core.config.primary();
    let found =
        Datacenter { name: me.datacenter, servers: servers.into_iter().collect(), gateways: Vec::new(), primary };
    // What it says of itself by certificate is better than this.
    if core.watch.read(|view| datacenters::datacenter(view, &found.name).is_none()).0 {
        tracing::info!(datacenter = found.name, address, "another datacenter was found");
        learn(core, found).await;
    }
}

/// This datacenter, as the others should know it.
fn own_record(core: &Core) -> Datacenter {
    let servers = core.members.all().into_iter().map(|member| member.address).collect();
    let gateways = core.watch.read(gateway::public_addresses).0;
    Datacenter { name: core.config.datacenter.clone(), servers, gateways, primary: core.config.is_primary() }
}

async fn tell(core: &Core, name: String) {
    let request = FederateRequest { datacenter_mp: api::mp::encode(&own_record(core)) };
    for address in core.servers_of(&name) {
        let Ok(channel) = core.peers.remote(&name, &address) else { continue };
        match tokio::time::timeout(CALL_TIMEOUT, PeerClient::new(channel).federate(request.clone())).await {
            Ok(Ok(reply)) => {
                for record in reply.into_inner().datacenters_mp {
                    take(core, &name, &record).await;
                }
                return;
            }
            Ok(Err(status)) => tracing::debug!(
                datacenter = name,
                address,
                reason = crate::join::reason(&status),
                "a server of another datacenter did not answer"
            ),
            Err(_) => {
                tracing::debug!(datacenter = name, address, "a server of another datacenter did not answer in time");
            }
        }
    }
}

/// A datacenter is believed about itself; about others only if they are not known.
async fn take(core: &Core, from: &str, record: &[u8]) {
    let Ok(record) = api::mp::decode::<Datacenter>(record) else { return };
    let (known, count) = core
        .watch
        .read(|view| {
            (
                datacenters::datacenter(view, &record.name).map(|row| row.value.clone()),
                datacenters::datacenters(view).len(),
            )
        })
        .0;
    let is_believed = record.name == from || known.is_none();
    let is_news = known.as_ref() != Some(&record);
    if record.name != core.config.datacenter && is_believed && is_news && count < DATACENTERS_MAX {
        learn(core, record).await;
    }
}

async fn learn(core: &Core, record: Datacenter) {
    let name = record.name.clone();
    if let Err(error) = core.proposer.propose(&Command::SetDatacenter(Box::new(record))).await {
        tracing::debug!(datacenter = name, %error, "what another datacenter says could not be recorded yet");
    }
}

/// Answers the leader of another datacenter. Any server may be asked.
pub(crate) async fn answer(core: &Core, from: &str, record: &[u8]) -> Result<FederateReply, Status> {
    let record_name =
        api::mp::decode::<Datacenter>(record).map_err(|error| Status::invalid_argument(error.to_string()))?.name;
    if record_name != from {
        return Err(Status::permission_denied(format!("a server of {from:?} cannot speak for {record_name:?}")));
    }
    take(core, from, record).await;
    let known = [own_record(core)].into_iter().chain(known_others(core));
    Ok(FederateReply { datacenters_mp: known.map(|datacenter| api::mp::encode(&datacenter)).collect() })
}

/// Takes over what the primary decides, for as long as this server leads. Nothing to do in the primary itself.
pub(super) async fn replicate(core: &Arc<Core>) {
    if core.config.is_primary() {
        return std::future::pending().await;
    }
    tokio::join!(
        follow(core, "/v1/connect/intentions", take_intentions),
        follow(core, "/v1/config/service-defaults", |core, body| take_entries(core, "service-defaults", body)),
        follow(core, "/v1/config/proxy-defaults", |core, body| take_entries(core, "proxy-defaults", body)),
    );
}

/// Reads a list from the primary whenever it changes, and makes the commands that make ours equal.
async fn follow(core: &Arc<Core>, target: &str, commands: impl Fn(&Core, &[u8]) -> Result<Vec<Command>, String>) {
    loop {
        if let Err(reason) = follow_once(core, target, &commands).await {
            tracing::debug!(
                target,
                reason,
                "the primary datacenter is out of reach: this one goes on with what it knows"
            );
        }
        tokio::time::sleep(REPLICATE_AGAIN).await;
    }
}

async fn follow_once(
    core: &Core,
    target: &str,
    commands: &impl Fn(&Core, &[u8]) -> Result<Vec<Command>, String>,
) -> Result<(), String> {
    let mut replies = watch(core, core.config.primary(), target).await?;
    while let Some(reply) = replies.message().await.map_err(|status| status.message().to_string())? {
        if reply.status != 200 {
            continue;
        }
        for command in commands(core, &reply.body)? {
            while let Err(error) = core.proposer.propose_here(&command).await {
                tracing::debug!(%error, "what the primary decided could not be recorded yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    Ok(())
}

fn take_intentions(core: &Core, body: &[u8]) -> Result<Vec<Command>, String> {
    let wanted: Vec<Intention> = api::json::from_slice(body).map_err(|error| error.reason)?;
    let ends = |intention: &Intention| (intention.source_name.clone(), intention.destination_name.clone());
    let ours = |view: &View<'_>| {
        intention::list(view).into_iter().map(|row| (ends(&row.value), row.value.clone())).collect::<BTreeMap<_, _>>()
    };
    let known = core.watch.read(ours).0;
    let kept: BTreeSet<_> = wanted.iter().map(ends).collect();
    let gone = known.keys().filter(|ends| !kept.contains(*ends)).cloned();
    let gone = gone.map(|(source, destination)| Command::DeleteIntention { source, destination });
    let changed = wanted
        .into_iter()
        .filter(|intention| !known.get(&ends(intention)).is_some_and(|known| says_the_same(known, intention)));
    Ok(gone.chain(changed.map(|intention| Command::SetIntention(Box::new(intention)))).collect())
}

/// Ids and times of the record that was replaced are kept by the catalog, so they do not count.
fn says_the_same(known: &Intention, wanted: &Intention) -> bool {
    known.action == wanted.action && known.description == wanted.description && known.meta == wanted.meta
}

fn take_entries(core: &Core, kind: &str, body: &[u8]) -> Result<Vec<Command>, String> {
    let rows: Vec<serde_json::Value> = api::json::from_slice(body).map_err(|error| error.reason)?;
    let parse =
        |row: &serde_json::Value| crate::http::parse_entry(row.to_string().as_bytes()).map_err(|error| error.text);
    let wanted = rows.iter().map(parse).collect::<Result<Vec<ConfigEntry>, String>>()?;
    let ours = |view: &View<'_>| {
        config_entry::entries(view, kind)
            .into_iter()
            .map(|row| (row.name().to_string(), row.value.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let known = core.watch.read(ours).0;
    let kept: BTreeSet<&str> = wanted.iter().map(ConfigEntry::name).collect();
    let gone: Vec<Command> = known
        .keys()
        .filter(|name| !kept.contains(name.as_str()))
        .map(|name| Command::DeleteConfigEntry { kind: kind.into(), name: name.clone(), cas: None })
        .collect();
    let changed = wanted.into_iter().filter(|entry| known.get(entry.name()) != Some(entry));
    Ok(gone
        .into_iter()
        .chain(changed.map(|entry| Command::SetConfigEntry { entry: Box::new(entry), cas: None }))
        .collect())
}

/// A push stream of a read from some server of a datacenter.
pub(crate) async fn watch(core: &Core, datacenter: &str, target: &str) -> Result<tonic::Streaming<WatchReply>, String> {
    let mut last = format!("no server of datacenter {datacenter:?} is known");
    for address in core.servers_of(datacenter) {
        let Ok(channel) = core.peers.remote(datacenter, &address) else { continue };
        let mut client = WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        match tokio::time::timeout(CALL_TIMEOUT, client.stream(WatchRequest { target: target.into() })).await {
            Ok(Ok(replies)) => return Ok(replies.into_inner()),
            Ok(Err(status)) => last = crate::join::reason(&status),
            Err(_) => last = format!("{address} did not answer"),
        }
    }
    Err(last)
}

/// One read from some server of a datacenter.
pub(crate) async fn ask(core: &Core, datacenter: &str, target: &str) -> Result<Bytes, String> {
    let mut last = format!("no server of datacenter {datacenter:?} is known");
    for address in core.servers_of(datacenter) {
        let Ok(channel) = core.peers.remote(datacenter, &address) else { continue };
        match tokio::time::timeout(CALL_TIMEOUT, get(&channel, target)).await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(reason)) => last = reason,
            Err(_) => last = format!("{address} did not answer"),
        }
    }
    Err(last)
}

async fn get(channel: &Channel, target: &str) -> Result<Bytes, String> {
    let request = http::Request::get(target).body(Body::empty()).map_err(|error| error.to_string())?;
    let response = forward(channel, request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = Limited::new(Body::new(response.into_body()), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    if status.is_success() { Ok(body) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&body))) }
}
