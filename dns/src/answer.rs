//! From a packet to an answer: parse, look up, write. No IO: the listeners bring packets and take answers away.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RecordType};

use crate::config::{Config, UDP_PLAIN_BYTES_MAX};
use crate::lookup::{Found, Lookup, ReverseName, ServiceQuery};
use crate::name::{self, Question};
use crate::records::{Endpoints, NodeRecord};
use crate::reply::{Names, Reply, Told};
use crate::request::{HEADER_BYTES, Request, Unfit};
use crate::shuffle::Shuffler;
use crate::wire::{Verdict, Writer};
use crate::zone::Zone;

/// How many `CNAME`s are followed, as in Consul.
const ALIASES_MAX: usize = 3;

/// How the question came, and so how much of an answer fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As much as the asker and the settings allow.
    Udp,
    /// Up to 64 KiB.
    Tcp,
}

/// What to do about a packet.
pub enum Outcome {
    /// The answer is written.
    Reply(Summary),
    /// Answer nothing.
    Drop,
    /// Await the facts, then call [`complete`] with the same packet.
    Wait(Pin<Box<dyn Future<Output = Found<Facts>> + Send>>),
    /// The name is somebody else's: ask the recursors.
    Forward,
    /// The answer is written as far as it goes, but ends with a `CNAME` that leads out of the zone: ask the recursors for its
    /// addresses as well.
    Follow {
        /// Where it leads to.
        alias: Name,
        /// What there is to count if nobody knows the alias.
        summary: Summary,
    },
}

/// What there is to count about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The response code.
    pub code: u16,
    /// Records were left out because of a limit, whether or not the answer says so (TC bit).
    pub is_trimmed: bool,
}

/// What a question needs to be answered.
pub enum Facts {
    /// The domain's name servers.
    NameServers(Vec<Arc<NodeRecord>>),
    /// Instances of a service.
    Service(Arc<Endpoints>),
    /// A node.
    Node(Arc<NodeRecord>),
    /// The address that the name spells.
    Address(IpAddr),
    /// Who has the address.
    Reverse(ReverseName),
}

/// What a listener reuses from one answer to the next.
#[derive(Debug)]
pub struct Scratch {
    text: String,
    parts: Parts,
}

#[derive(Debug)]
struct Parts {
    question: Vec<u8>,
    additional: Vec<u8>,
    shuffler: Shuffler,
    told: Told,
}

impl Scratch {
    /// `seed` decides the order of the records.
    pub fn new(seed: u64) -> Self {
        let parts = Parts {
            question: Vec::new(),
            additional: Vec::new(),
            shuffler: Shuffler::new(seed),
            told: Told::default(),
        };
        Self { text: String::new(), parts }
    }
}

/// Answers one packet into `out`, whose former content is discarded.
pub fn answer(
    zone: &Zone,
    lookup: &dyn Lookup,
    packet: &[u8],
    transport: Transport,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Outcome {
    let request = match Request::parse(packet) {
        Ok(request) => request,
        Err(Unfit::Drop) => return Outcome::Drop,
        Err(Unfit::Reject(code)) => return Outcome::Reply(reject(packet, code, scratch, out)),
    };
    name::spell(&request.name, &mut scratch.text);
    let (question, domain) = name::parse(&scratch.text, &zone.domains);
    let letter = Letter { zone, packet, request: &request, transport, domain };
    match decide(zone, &request, question) {
        Decision::Refuse(code) => Outcome::Reply(letter.refuse(code, &scratch.text, &mut scratch.parts, out)),
        Decision::Forward => Outcome::Forward,
        Decision::LookUp => match find(lookup, &request, question) {
            Found::Wait(facts) => Outcome::Wait(facts),
            found => letter.write(lookup, question, found, &scratch.text, &mut scratch.parts, out),
        },
    }
}

/// Answers a packet for which [`answer`] had to wait.
pub fn complete(
    zone: &Zone,
    lookup: &dyn Lookup,
    found: Found<Facts>,
    packet: &[u8],
    transport: Transport,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Outcome {
    let Ok(request) = Request::parse(packet) else {
        return Outcome::Drop;
    };
    name::spell(&request.name, &mut scratch.text);
    let (question, domain) = name::parse(&scratch.text, &zone.domains);
    let letter = Letter { zone, packet, request: &request, transport, domain };
    letter.write(lookup, question, found, &scratch.text, &mut scratch.parts, out)
}

/// Answers a packet with a code alone, for instance when nobody could be asked in time.
pub fn fail(
    zone: &Zone,
    code: ResponseCode,
    packet: &[u8],
    transport: Transport,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Outcome {
    let Ok(request) = Request::parse(packet) else {
        return Outcome::Drop;
    };
    name::spell(&request.name, &mut scratch.text);
    let letter = Letter { zone, packet, request: &request, transport, domain: None };
    Outcome::Reply(letter.refuse(code, &scratch.text, &mut scratch.parts, out))
}

/// How long an answer to this packet may be, in bytes.
pub(crate) fn limit_bytes(zone: &Zone, packet: &[u8], transport: Transport) -> usize {
    Request::parse(packet).map_or(0, |request| limit(&zone.config, &request, transport).into())
}

enum Decision {
    LookUp,
    Forward,
    Refuse(ResponseCode),
}

/// What can be told from the question alone.
fn decide(zone: &Zone, request: &Request, question: Question<'_>) -> Decision {
    if request.edns.is_some_and(|edns| edns.version > 0) {
        return Decision::Refuse(ResponseCode::BADVERS);
    }
    if !matches!(request.class, DNSClass::IN | DNSClass::ANY) {
        return Decision::Refuse(ResponseCode::Refused);
    }
    let is_foreign = match question {
        Question::Foreign => true,
        Question::Reverse(_) => !matches!(request.record_type, RecordType::PTR | RecordType::ANY),
        _ => false,
    };
    match (is_foreign, request.record_type) {
        (true, _) if zone.config.recursors.is_empty() => Decision::Refuse(ResponseCode::Refused),
        (_, RecordType::AXFR | RecordType::IXFR) => Decision::Refuse(ResponseCode::NotImp),
        (true, _) => Decision::Forward,
        (false, _) => Decision::LookUp,
    }
}

fn find<'q>(lookup: &dyn Lookup, request: &Request, question: Question<'q>) -> Found<Facts> {
    // The local datacenter's name says nothing: so an implementer sees one question, not two.
    let elsewhere = |datacenter: Option<&'q str>| {
        datacenter.filter(|datacenter| !datacenter.eq_ignore_ascii_case(lookup.datacenter()))
    };
    // As in Consul, the zone's own records are told to whoever asks for them, at whatever name below it.
    let is_about_zone = matches!(request.record_type, RecordType::SOA | RecordType::NS);
    match question {
        Question::Reverse(address) => lookup.node_by_address(address).map(Facts::Reverse),
        Question::Foreign => Found::Unavailable,
        Question::Apex => Found::Ready(Facts::NameServers(lookup.name_servers())),
        _ if is_about_zone => Found::Ready(Facts::NameServers(lookup.name_servers())),
        Question::Service(query) => {
            let query = ServiceQuery { datacenter: elsewhere(query.datacenter), ..query };
            lookup.service(&query).map(Facts::Service)
        }
        Question::Node { datacenter, name } => lookup.node(elsewhere(datacenter), name).map(Facts::Node),
        Question::Address(address) => Found::Ready(Facts::Address(address)),
        Question::NoSuchName => Found::NoSuchName,
    }
}

/// A bare header: what came is not understood well enough to be repeated.
fn reject(packet: &[u8], code: ResponseCode, scratch: &mut Scratch, out: &mut Vec<u8>) -> Summary {
    let header = packet.first_chunk::<HEADER_BYTES>().copied().unwrap_or_default();
    let limit = usize::from(UDP_PLAIN_BYTES_MAX);
    Writer::new(out, &mut scratch.parts.additional, &header, limit, None).finish(Verdict::refusal(code));
    Summary { code: code.into(), is_trimmed: false }
}

/// A packet that has been read, and all that decides how its answer is written.
struct Letter<'a> {
    zone: &'a Zone,
    packet: &'a [u8],
    request: &'a Request,
    transport: Transport,
    domain: Option<usize>,
}

impl Letter<'_> {
    fn refuse(&self, code: ResponseCode, text: &str, parts: &mut Parts, out: &mut Vec<u8>) -> Summary {
        let recursion_available = !self.zone.config.recursors.is_empty();
        self.open(text, parts, out).finish(Verdict { recursion_available, ..Verdict::refusal(code) })
    }

    fn write(
        &self,
        lookup: &dyn Lookup,
        question: Question<'_>,
        found: Found<Facts>,
        text: &str,
        parts: &mut Parts,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let config = &self.zone.config;
        let recursion_available = !config.recursors.is_empty();
        let is_reverse = matches!(question, Question::Reverse(_));
        if is_reverse && recursion_available && matches!(found, Found::NoSuchName | Found::NoSuchDatacenter) {
            return Outcome::Forward;
        }
        let mut reply = self.open(text, parts, out);
        let code = match &found {
            Found::Ready(facts) => reply.tell(facts, ttl_s(config, question)),
            // As in Consul: nobody is left to ask about an address that is not ours.
            Found::NoSuchName | Found::NoSuchDatacenter if is_reverse => ResponseCode::ServFail,
            Found::NoSuchName | Found::NoSuchDatacenter => reply.deny(),
            Found::Unavailable | Found::Wait(_) => ResponseCode::ServFail,
        };
        let alias = self.follow(lookup, &mut reply);
        let is_truncated = reply.is_trimmed() && config.enable_truncate && self.transport == Transport::Udp;
        let is_authoritative = code != ResponseCode::ServFail;
        let summary = reply.finish(Verdict { code, is_authoritative, is_truncated, recursion_available });
        match alias {
            Some(alias) => Outcome::Follow { alias, summary },
            None => Outcome::Reply(summary),
        }
    }

    /// Tells what the answer's `CNAME` leads to, if that is at hand. The alias is returned if it is the recursors who know.
    fn follow(&self, lookup: &dyn Lookup, reply: &mut Reply<'_>) -> Option<Name> {
        let mut labels = reply.take_alias()?;
        let (mut text, mut seen) = (String::new(), vec![self.request.name.clone()]);
        loop {
            let alias = Name::from_labels(labels_of(&labels)).ok()?;
            if seen.contains(&alias) || seen.len() > ALIASES_MAX {
                return None;
            }
            name::spell(&alias, &mut text);
            let (question, _) = name::parse(&text, &self.zone.domains);
            if question == Question::Foreign {
                return Some(alias).filter(|_| !self.zone.config.recursors.is_empty());
            }
            let Found::Ready(facts) = find(lookup, self.request, question) else {
                return None;
            };
            reply.tell_more(&facts, ttl_s(&self.zone.config, question));
            labels = reply.take_alias()?;
            seen.push(alias);
        }
    }

    /// An answer with the question in it and nothing else yet.
    fn open<'p>(&'p self, text: &str, parts: &'p mut Parts, out: &'p mut Vec<u8>) -> Reply<'p> {
        let config = &self.zone.config;
        let limit_bytes = limit(config, self.request, self.transport);
        let header = self.packet.first_chunk().copied().unwrap_or_default();
        let opt = self.request.edns.map(|edns| (edns, config.udp_bytes_max));
        let mut writer = Writer::new(out, &mut parts.additional, &header, usize::from(limit_bytes), opt);
        let Parts { question, shuffler, told, .. } = parts;
        spell_wire(&self.request.name, question);
        writer.question(question, self.request.record_type, self.request.class.into());
        let domain = &self.zone.domains[self.domain.unwrap_or(0)];
        // Every dot of the text is a length byte on the wire, so places in the one are places in the other.
        let domain_at = self.domain.map(|_| HEADER_BYTES + text.len() - domain.as_ref().len());
        let names = Names::new(question, &domain.wire, domain_at, config.disable_compression);
        let is_plain_udp = limit_bytes == UDP_PLAIN_BYTES_MAX;
        Reply::new(writer, names, config, self.request.record_type, is_plain_udp, shuffler, told)
    }
}

fn limit(config: &Config, request: &Request, transport: Transport) -> u16 {
    match (transport, request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_PLAIN_BYTES_MAX,
        (Transport::Udp, Some(edns)) => edns.payload_bytes.clamp(UDP_PLAIN_BYTES_MAX, config.udp_bytes_max),
    }
}

/// Labels that were encoded one behind the other.
fn labels_of(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while let Some((length, rest)) = wire.split_first() {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        labels.push(label);
        wire = rest;
    }
    labels
}

/// The labels as they were spelled, and the root.
fn spell_wire(name: &Name, wire: &mut Vec<u8>) {
    wire.clear();
    for label in name.iter() {
        wire.push(u8::try_from(label.len()).unwrap_or(0));
        wire.extend_from_slice(label);
    }
    wire.push(0);
}

fn ttl_s(config: &Config, question: Question<'_>) -> u32 {
    match question {
        Question::Service(query) => config.service_ttl_s(query.service),
        Question::Node { .. } | Question::Address(_) => config.node_ttl_s,
        Question::Apex | Question::Reverse(_) | Question::NoSuchName | Question::Foreign => 0,
    }
}
