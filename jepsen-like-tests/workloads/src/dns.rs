//! Services come, go and change their health while DNS is asked for them, by UDP and TCP: each answer was true a moment ago. As `dns` the servers are
//! asked, who answer from their catalog; as `stream` plain agents, who answer from what a server has pushed to them.

mod judge;

use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, typed};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::api::{Api, Failure, Mode};
use crate::client::{Client, Need, Workload};
use crate::http::Place;

/// Writers come first, then those who ask.
const WRITERS: usize = 2;

/// Services of one writer.
const SERVICES: usize = 2;

/// Instances of one service; Consul's DNS names no more than three in an answer by UDP.
const INSTANCES: usize = 3;

/// After so many changes a writer rests, so that answers which stay old are told from those that are a little late.
const REST_EVERY: usize = 40;
const REST: Duration = Duration::from_secs(4);

/// The service that is always there.
const ALWAYS: &str = "always";

/// A stub's patience.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What an answer by UDP may have, in bytes.
const UDP_BYTES: u16 = 1232;

/// How long the healed cluster may take until it answers what the catalog has.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Servers,
    Agents,
}

pub(crate) struct Dns {
    asked: Asked,
    /// The generation of each service: after a change of unknown outcome a new one begins, so that answers can be judged.
    generations: [AtomicU64; WRITERS * SERVICES],
}

/// What a registration says: a port that no other instance of the service ever has, and whether the check passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    port: u16,
    passing: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Set {
        service: String,
        instance: usize,
        state: Option<State>,
    },
    Ask {
        service: String,
        kind: Kind,
        tcp: bool,
        /// How long before the question the server had heard of the leader, as it said itself; 0 for an agent that has reached one just then.
        contact_ms: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    A,
    Srv,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Set,
    /// The last bytes of addresses, or ports; and how long they may be kept.
    Found {
        found: Vec<u16>,
        ttl_s: u32,
    },
}

/// An instance as the catalog has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Passing {
    service: Instance,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    port: u16,
}

fn ports(instances: &[Passing]) -> Vec<u16> {
    let mut ports: Vec<u16> = instances.iter().map(|instance| instance.service.port).collect();
    ports.sort_unstable();
    ports
}

#[async_trait(?Send)]
impl Workload for Dns {
    fn name(&self) -> &'static str {
        self.asked.name()
    }

    fn clients(&self) -> usize {
        WRITERS + 4
    }

    fn needs(&self) -> &'static [Need] {
        match self.asked {
            Asked::Servers => &[Need::Dns],
            Asked::Agents => &[Need::Dns, Need::Agents],
        }
    }

    async fn run(&self, client: &mut Client) {
        if client.number < WRITERS { self.write(client).await } else { self.read(client).await }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for place in self.asked.places(client) {
            for service in self.services() {
                self.insist(client, place, &service).await?;
            }
        }
        Ok(())
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        for service in 0..WRITERS * SERVICES {
            for generation in 0..=self.generations[service].swap(0, Ordering::Relaxed) {
                for instance in 0..INSTANCES {
                    self.forget(client, &name(service, generation), instance).await?;
                }
            }
        }
        self.forget(client, ALWAYS, 0).await
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge::judge(self.asked, &operations, &judge::births(history)),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Asked::Servers => "dns",
            Asked::Agents => "stream",
        }
    }

    /// By these numbers they are asked.
    fn places(self, client: &Client) -> Vec<usize> {
        match self {
            Asked::Servers => (0..client.servers()).collect(),
            Asked::Agents => (0..client.agents()).map(|agent| client.agent(agent)).collect(),
        }
    }
}

impl Dns {
    pub(crate) fn of(asked: Asked) -> Self {
        Self { asked, generations: Default::default() }
    }

    /// A service's id and name, which no other round and workload has.
    fn id(&self, client: &Client, service: &str) -> String {
        client.named(format!("{}-{service}", self.asked.name()))
    }

    async fn write(&self, client: &mut Client) {
        if client.number == 0 {
            let always = Some(State { port: 1, passing: true });
            while client.goes_on() && self.set(client, ALWAYS, 0, always).await.is_err() {}
        }
        let mut port = 1;
        while client.goes_on() {
            let service = client.number * SERVICES + client.rng.below(SERVICES);
            let generation = self.generations[service].load(Ordering::Relaxed);
            let instance = client.rng.below(INSTANCES);
            port = port % u16::MAX + 1;
            let state = match client.rng.below(5) {
                0..3 => Some(State { port, passing: true }),
                3 => Some(State { port, passing: false }),
                _ => None,
            };
            if let Err(Failure::Unknown(_)) = self.set(client, &name(service, generation), instance, state).await {
                self.generations[service].store(generation + 1, Ordering::Relaxed);
            }
            client.think(0, 40).await;
            if client.rng.below(REST_EVERY) == 0 {
                client.pause(REST).await;
            }
        }
    }

    async fn read(&self, client: &mut Client) {
        while client.goes_on() {
            let services = self.services();
            let service = client.rng.pick(&services).clone();
            let kind = *client.rng.pick(&[Kind::A, Kind::Srv]);
            let (place, tcp) = (*client.rng.pick(&self.asked.places(client)), client.rng.below(3) == 0);
            self.ask(client, place, &service, kind, tcp).await.ok();
            client.think(0, 10).await;
        }
    }

    /// Those that there are now.
    fn services(&self) -> Vec<String> {
        let current = |service: usize| name(service, self.generations[service].load(Ordering::Relaxed));
        (0..WRITERS * SERVICES).map(current).chain([ALWAYS.to_owned()]).collect()
    }

    /// Registers an instance on a node of its own, or deregisters it.
    async fn set(
        &self,
        client: &mut Client,
        service: &str,
        instance: usize,
        state: Option<State>,
    ) -> Result<Answer, Failure> {
        let (server, id) = (client.any_server(), self.id(client, service));
        let node = format!("{id}-{instance}");
        let (path, body) = match state {
            Some(state) => {
                let status = if state.passing { "passing" } else { "critical" };
                let check = json!({"CheckID": "check", "Name": "check", "Status": status, "ServiceID": id});
                let instance = json!({"ID": id, "Service": id, "Port": state.port});
                let address = address(&node);
                let body = json!({"Node": node, "Address": address, "Service": instance, "Check": check});
                ("/v1/catalog/register", body)
            }
            None => ("/v1/catalog/deregister", json!({"Node": node, "ServiceID": id})),
        };
        let call = Call::Set { service: service.to_owned(), instance, state };
        let body = body.to_string();
        client.ask(server, call, async |api| api.send("PUT", path, &body).await.map(|_| Answer::Set)).await
    }

    async fn forget(&self, client: &mut Client, service: &str, instance: usize) -> Result<(), String> {
        let body = json!({"Node": format!("{}-{instance}", self.id(client, service))}).to_string();
        let deregister = async |api: &mut Api<'_>| api.send("PUT", "/v1/catalog/deregister", &body).await.map(|_| ());
        client.insist("clear", deregister).await
    }

    /// Asks the healed cluster until it answers what the catalog has.
    async fn insist(&self, client: &mut Client, place: usize, service: &str) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let path = format!("/v1/health/service/{}?passing&consistent", self.id(client, service));
        loop {
            let server = client.any_server();
            let known = client.api(server).get::<Vec<Passing>>(&path).await;
            let by_tcp = self.ask(client, place, service, Kind::A, true).await;
            let told = self.ask(client, place, service, Kind::Srv, false).await;
            if let (Ok(known), Ok(_), Ok(Answer::Found { found, .. })) = (&known, &by_tcp, &told)
                && ports(known) == *found
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                let name = self.asked.name();
                return Err(format!(
                    "{name}: {place} of the healed cluster says that {service} is {told:?}, by TCP {by_tcp:?}, and the catalog has {known:?}"
                ));
            }
            client.think(50, 150).await;
        }
    }

    /// A question, after it was found out over HTTP how fresh the answer must be.
    async fn ask(
        &self,
        client: &mut Client,
        place: usize,
        service: &str,
        kind: Kind,
        tcp: bool,
    ) -> Result<Answer, Failure> {
        let mode = match self.asked {
            Asked::Servers => Mode::Stale,
            Asked::Agents => Mode::Default,
        };
        let about = client.api(place).see("jlt/none", mode, None).await;
        let contact_ms = about.ok().map(|seen| seen.last_contact_ms);
        let full = format!("{}.service.consul.", self.id(client, service));
        let id = client.rng.below(1 << 16) as u16;
        let call = Call::Ask { service: service.to_owned(), kind, tcp, contact_ms };
        client.ask(place, call, async |api| question(api, id, &full, kind, tcp).await.map_err(Failure::Failed)).await
    }
}

fn name(service: usize, generation: u64) -> String {
    format!("{service}-{generation}")
}

/// The last byte of a node's address is the number of its instance.
fn address(node: &str) -> String {
    format!("10.99.0.{}", node.rsplit('-').next().unwrap_or_default())
}

async fn question(api: &Api<'_>, id: u16, name: &str, kind: Kind, tcp: bool) -> Result<Answer, String> {
    let name = Name::from_str(name).map_err(|error| error.to_string())?;
    let record_type = match kind {
        Kind::A => RecordType::A,
        Kind::Srv => RecordType::SRV,
    };
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name, record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES);
    message.set_edns(edns);
    let packet = message.to_vec().map_err(|error| error.to_string())?;
    let answer = timeout(ANSWER_TIMEOUT, exchange(api, &packet, tcp)).await;
    let answer = answer.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    let answer = Message::from_vec(&answer).map_err(|error| format!("the answer is no DNS message: {error}"))?;
    if answer.metadata.id != id || answer.queries != message.queries {
        return Err("the answer is to another question".to_owned());
    }
    read(&answer, kind)
}

async fn exchange(api: &Api<'_>, packet: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
    let (wire, place) = (api.wire(), Place::Dns(api.server()));
    if !tcp {
        return wire.exchange(place, packet).await;
    }
    let mut stream = wire.connect_to(place).await?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// What was found; an error for what is no answer.
fn read(answer: &Message, kind: Kind) -> Result<Answer, String> {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if !answer.metadata.truncation => {}
        other => return Err(format!("{other}, cut off: {}", answer.metadata.truncation)),
    }
    let mut found = Vec::new();
    for record in &answer.answers {
        found.push(match (kind, &record.data) {
            (Kind::A, RData::A(address)) => u16::from(address.octets()[3]),
            (Kind::Srv, RData::SRV(service)) => service.port,
            (_, other) => return Err(format!("the answer has a record that was not asked for: {other}")),
        });
    }
    found.sort_unstable();
    let ttl_s = answer.answers.iter().map(|record| record.ttl).max().unwrap_or(0);
    Ok(Answer::Found { found, ttl_s })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record as DnsRecord;
    use hickory_proto::rr::rdata::{A, SRV};

    #[test]
    fn answers_are_read() {
        let name = Name::from_str("s.service.consul.").unwrap();
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.answers.push(DnsRecord::from_rdata(name.clone(), 5, RData::A(A::new(10, 99, 0, 2))));
        assert_eq!(read(&message, Kind::A), Ok(Answer::Found { found: vec![2], ttl_s: 5 }));
        assert!(read(&message, Kind::Srv).is_err());
        message.answers = vec![DnsRecord::from_rdata(name.clone(), 0, RData::SRV(SRV::new(1, 1, 80, name)))];
        assert_eq!(read(&message, Kind::Srv), Ok(Answer::Found { found: vec![80], ttl_s: 0 }));
        message.metadata.truncation = true;
        assert!(read(&message, Kind::Srv).is_err());
        let mut failed = Message::new(1, MessageType::Response, OpCode::Query);
        failed.metadata.response_code = ResponseCode::ServFail;
        assert!(read(&failed, Kind::A).is_err());
        failed.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(read(&failed, Kind::A), Ok(Answer::Found { found: vec![], ttl_s: 0 }));
    }
}
