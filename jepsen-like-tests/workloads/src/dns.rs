//! Services come, go and change their health while the servers' DNS is asked for them, by UDP and TCP: each answer was true a moment ago.

use std::collections::BTreeMap;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

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

/// A server's state may be older than its last word from the leader by so much: what was agreed on is not yet applied.
const SLACK_NS: u64 = 2_000_000_000;

/// What the healed servers are asked for, each, until they answer.
const ATTEMPTS: usize = 50;

#[derive(Default)]
pub(crate) struct Dns {
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
        /// How long before the question the server had heard of the leader, as it said itself.
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

#[async_trait(?Send)]
impl Workload for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn clients(&self) -> usize {
        WRITERS + 4
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Dns]
    }

    async fn run(&self, client: &mut Client) {
        if client.number < WRITERS { self.write(client).await } else { self.read(client).await }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for server in 0..client.servers() {
            for service in self.services() {
                for (kind, tcp) in [(Kind::A, true), (Kind::Srv, false)] {
                    insist(client, server, &service, kind, tcp).await?;
                }
            }
        }
        Ok(())
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        for service in 0..WRITERS * SERVICES {
            for generation in 0..=self.generations[service].swap(0, Ordering::Relaxed) {
                for instance in 0..INSTANCES {
                    clear(client, &name(service, generation), instance).await?;
                }
            }
        }
        clear(client, ALWAYS, 0).await
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations, &births(history)),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

impl Dns {
    async fn write(&self, client: &mut Client) {
        if client.number == 0 {
            let always = Some(State { port: 1, passing: true });
            while client.goes_on() && set(client, ALWAYS, 0, always).await.is_err() {}
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
            if let Err(Failure::Unknown(_)) = set(client, &name(service, generation), instance, state).await {
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
            let (server, tcp) = (client.any_server(), client.rng.below(3) == 0);
            ask(client, server, &service, kind, tcp).await.ok();
            client.think(0, 10).await;
        }
    }

    /// Those that there are now.
    fn services(&self) -> Vec<String> {
        let current = |service: usize| name(service, self.generations[service].load(Ordering::Relaxed));
        (0..WRITERS * SERVICES).map(current).chain([ALWAYS.to_owned()]).collect()
    }
}

fn name(service: usize, generation: u64) -> String {
    format!("{service}-{generation}")
}

/// Registers an instance on a node of its own, or deregisters it.
async fn set(client: &mut Client, service: &str, instance: usize, state: Option<State>) -> Result<Answer, Failure> {
    let (server, id) = (client.any_server(), client.named(format!("dns-{service}")));
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

/// The last byte of a node's address is the number of its instance.
fn address(node: &str) -> String {
    format!("10.99.0.{}", node.rsplit('-').next().unwrap_or_default())
}

async fn clear(client: &mut Client, service: &str, instance: usize) -> Result<(), String> {
    let body = json!({"Node": client.named(format!("dns-{service}-{instance}"))}).to_string();
    let deregister = async |api: &mut Api<'_>| api.send("PUT", "/v1/catalog/deregister", &body).await.map(|_| ());
    client.insist("clear", deregister).await
}

/// Asks the healed server until it answers.
async fn insist(client: &mut Client, server: usize, service: &str, kind: Kind, tcp: bool) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match ask(client, server, service, kind, tcp).await {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("{error:?}"),
        }
    }
    Err(format!("dns: server {server} of the healed cluster does not answer: {last}"))
}

/// A question, after the server has said over HTTP how fresh it is.
async fn ask(client: &mut Client, server: usize, service: &str, kind: Kind, tcp: bool) -> Result<Answer, Failure> {
    let about = client.api(server).see("jlt/none", Mode::Stale, None).await;
    let contact_ms = about.ok().map(|seen| seen.last_contact_ms);
    let full = format!("{}.service.consul.", client.named(format!("dns-{service}")));
    let id = client.rng.below(1 << 16) as u16;
    let call = Call::Ask { service: service.to_owned(), kind, tcp, contact_ms };
    client.ask(server, call, async |api| question(api, id, &full, kind, tcp).await.map_err(Failure::Failed)).await
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

/// For each server and life: nothing that was told of a former life came after this.
fn births(history: &[Record]) -> BTreeMap<(usize, u32), u64> {
    let mut last: BTreeMap<(usize, u32), u64> = BTreeMap::new();
    for record in history {
        let until = last.entry((record.server, record.life + 1)).or_default();
        *until = (*until).max(record.start_ns);
    }
    last
}

type Change<'a> = (usize, Option<State>, &'a Typed<Call, Answer>);

/// An answer was true at some time since the server's last word from the leader; and a server that was started again answers
/// only when it knows what it knew before.
fn judge(operations: &[Typed<Call, Answer>], births: &BTreeMap<(usize, u32), u64>) -> Judgement {
    let mut judgement = Judgement::default();
    let mut changes: BTreeMap<&str, Vec<Change<'_>>> = BTreeMap::new();
    for operation in operations {
        if let Call::Set { service, instance, state } = &operation.call {
            changes.entry(service).or_default().push((*instance, *state, operation));
        }
    }
    let (mut answers, mut refused, mut found_some) = (0, 0, 0);
    for operation in operations {
        let Call::Ask { service, kind, contact_ms, .. } = &operation.call else { continue };
        let Some(Some(Answer::Found { found, ttl_s })) = &operation.seen else {
            refused += 1;
            continue;
        };
        answers += 1;
        found_some += u64::from(!found.is_empty());
        let heard_ns = operation.start_ns.saturating_sub(contact_ms.unwrap_or(u64::MAX).saturating_mul(1_000_000));
        let lives = births.range((operation.server, 0)..=(operation.server, operation.life));
        let birth_ns = lives.map(|(_, birth_ns)| *birth_ns).max().unwrap_or(0);
        let floor_ns = heard_ns.max(birth_ns).saturating_sub(SLACK_NS + u64::from(*ttl_s) * 1_000_000_000);
        let changes = changes.get(service.as_str()).map_or(&[][..], Vec::as_slice);
        if !was_true(changes, *kind, found, (floor_ns, operation.end_ns)) {
            let (at, floor) = (operation.end_ns / 1_000_000, floor_ns / 1_000_000);
            judgement.violations.push(format!(
                "server {} (life {}) said at {at} ms that {service} is {kind:?} {found:?}, which was not so since {floor} ms",
                operation.server, operation.life
            ));
        }
    }
    let is_done = |change: &&Change<'_>| matches!(change.2.seen, Some(Some(_)));
    let done = changes.values().flatten().filter(is_done).count() as u64;
    judgement.cover("changes acknowledged", done, 20);
    judgement.cover("answers", answers, 50);
    judgement.cover("answers with instances", found_some, 20);
    judgement.notes.push(format!("{refused} questions were not answered"));
    judgement
}

/// Whether there was a moment in the window at which exactly this was there.
fn was_true(changes: &[Change<'_>], kind: Kind, found: &[u16], (floor_ns, end_ns): (u64, u64)) -> bool {
    let edges = changes.iter().flat_map(|change| [change.2.start_ns, change.2.end_ns]);
    let mut moments = edges.filter(|at| (floor_ns..=end_ns).contains(at)).chain([floor_ns, end_ns]);
    moments.any(|at| is_explained(changes, kind, found, at))
}

/// Whether each instance may have been as it was shown, and nothing was shown twice, or that is none of them.
fn is_explained(changes: &[Change<'_>], kind: Kind, found: &[u16], at: u64) -> bool {
    let mut rest = found.to_vec();
    for instance in 0..INSTANCES {
        let shown: Vec<Option<u16>> =
            allowed(changes, instance, at).map(|state| shown(state, instance, kind)).collect();
        match rest.iter().position(|value| shown.contains(&Some(*value))) {
            Some(position) => drop(rest.swap_remove(position)),
            None if shown.contains(&None) => {}
            None => return false,
        }
    }
    rest.is_empty()
}

/// What an instance may be at that moment; its changes are of one client, one after the other.
fn allowed<'a>(changes: &'a [Change<'a>], instance: usize, at: u64) -> impl Iterator<Item = Option<State>> + 'a {
    let of_it = move || changes.iter().filter(move |change| change.0 == instance);
    let is_done = |change: &&Change<'_>| matches!(change.2.seen, Some(Some(_)));
    let last = of_it().filter(is_done).rfind(|change| change.2.end_ns < at).and_then(|change| change.1);
    let may_be = of_it().filter(move |change| match change.2.seen {
        None => false,
        Some(None) => change.2.start_ns <= at,
        Some(Some(_)) => change.2.start_ns <= at && at <= change.2.end_ns,
    });
    [last].into_iter().chain(may_be.map(|change| change.1))
}

/// What an answer says of an instance.
fn shown(state: Option<State>, instance: usize, kind: Kind) -> Option<u16> {
    let state = state.filter(|state| state.passing)?;
    Some(match kind {
        Kind::A => instance as u16,
        Kind::Srv => state.port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record as DnsRecord;
    use hickory_proto::rr::rdata::{A, SRV};

    const S: u64 = 1_000_000_000;

    fn set(
        instance: usize,
        state: Option<(u16, bool)>,
        seen: Option<Option<Answer>>,
        at: (u64, u64),
    ) -> Typed<Call, Answer> {
        let state = state.map(|(port, passing)| State { port, passing });
        operation(Call::Set { service: "s".to_owned(), instance, state }, seen, at)
    }

    fn ask(found: &[u16], contact_ms: Option<u64>, at: u64) -> Typed<Call, Answer> {
        let call = Call::Ask { service: "s".to_owned(), kind: Kind::Srv, tcp: false, contact_ms };
        operation(call, Some(Some(Answer::Found { found: found.to_vec(), ttl_s: 0 })), (at * S, at * S))
    }

    fn operation(call: Call, seen: Option<Option<Answer>>, at: (u64, u64)) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 2, call, seen, start_ns: at.0, end_ns: at.1 }
    }

    fn violations(operations: &[Typed<Call, Answer>]) -> usize {
        judge(operations, &BTreeMap::from([((0, 1), 0)])).violations.len()
    }

    const DONE: Option<Option<Answer>> = Some(Some(Answer::Set));

    #[test]
    fn good_histories_pass() {
        let there = |instance, port, at: u64| set(instance, Some((port, true)), DONE, (at * S, at * S + 1));
        assert_eq!(violations(&[there(0, 7, 1), ask(&[7], Some(0), 10)]), 0);
        assert_eq!(violations(&[there(0, 7, 1), there(1, 8, 2), ask(&[7, 8], Some(0), 10)]), 0);
        assert_eq!(violations(&[there(0, 7, 9), ask(&[], Some(0), 10)]), 0, "within the slack");
        assert_eq!(violations(&[there(0, 7, 5), ask(&[], Some(4000), 10)]), 0, "the server says that it is behind");
        assert_eq!(violations(&[there(0, 7, 5), ask(&[], None, 10)]), 0, "who knows");
        let unknown = set(0, None, Some(None), (2 * S, 3 * S));
        assert_eq!(violations(&[there(0, 7, 1), unknown.clone(), ask(&[7], Some(0), 10), ask(&[], Some(0), 11)]), 0);
        assert_eq!(violations(&[set(0, Some((7, false)), DONE, (1, 2)), ask(&[], Some(0), 10)]), 0);
    }

    #[test]
    fn bad_histories_fail() {
        let there = |instance, port, at: u64| set(instance, Some((port, true)), DONE, (at * S, at * S + 1));
        assert_eq!(violations(&[there(0, 7, 1), ask(&[], Some(0), 10)]), 1, "not there");
        assert_eq!(violations(&[there(0, 7, 1), set(0, None, DONE, (2, 3)), ask(&[7], Some(0), 10)]), 1, "risen");
        let critical = set(0, Some((7, false)), DONE, (2, 3));
        assert_eq!(violations(&[critical, ask(&[7], Some(0), 10)]), 1, "critical");
        assert_eq!(violations(&[there(0, 7, 1), ask(&[7, 7], Some(0), 10)]), 1, "twice");
        assert_eq!(violations(&[there(0, 7, 1), ask(&[7, 9], Some(0), 10)]), 1, "another's");
        assert_eq!(violations(&[set(0, Some((7, true)), None, (1, 2)), ask(&[7], None, 10)]), 1, "failed and there");
        let mixed =
            [there(0, 7, 1), there(1, 8, 2), set(0, None, DONE, (3 * S, 3 * S)), set(1, None, DONE, (4 * S, 4 * S))];
        let ask_at = |found: &[u16]| [&mixed[..], &[ask(found, None, 10)]].concat();
        assert_eq!(violations(&ask_at(&[8])), 0);
        assert_eq!(violations(&ask_at(&[7])), 0, "before the second came");
        let replaced = [&mixed[..2], &[set(0, Some((9, true)), DONE, (3 * S, 3 * S)), mixed[3].clone()]].concat();
        let never_together = [&replaced[..], &[ask(&[7, 9], None, 10)]].concat();
        assert_eq!(violations(&never_together), 1, "the old and the new");
    }

    #[test]
    fn a_server_that_was_started_again_knows_what_it_knew() {
        let history = [set(0, Some((7, true)), DONE, (S, S)), ask(&[], None, 10)];
        let judged = |birth: u64| judge(&history, &BTreeMap::from([((0, 2), birth)])).violations.len();
        assert_eq!((judged(2 * S), judged(5 * S)), (0, 1));
        assert_eq!(judge(&history, &BTreeMap::from([((0, 1), 5 * S)])).violations.len(), 1, "or a life before");
        assert_eq!(judge(&history, &BTreeMap::from([((1, 2), 5 * S), ((0, 3), 5 * S)])).violations.len(), 0);
    }

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
