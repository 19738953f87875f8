//! From facts to records: which records tell what was found, and what goes first when there is not enough room.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::answer::{Facts, Summary};
use crate::config::{Config, NAME_SERVERS_MAX, UDP_ANSWER_LIMIT_MAX};
use crate::lookup::ReverseName;
use crate::records::{Address, Alias, Endpoints, NodeRecord, qualified};
use crate::shuffle::Shuffler;
use crate::wire::{ROOT, Section, Verdict, Writer};

mod names;
mod targets;

pub(crate) use names::Names;
pub(crate) use targets::Told;

/// An answer in the making.
pub(crate) struct Reply<'a> {
    writer: Writer<'a>,
    names: Names<'a>,
    config: &'a Config,
    asked: RecordType,
    answers_max: usize,
    shuffler: &'a mut Shuffler,
    told: &'a mut Told,
    is_trimmed: bool,
    /// The labels of a `CNAME` that was just told: the asker wants to know what is there.
    alias: Option<Box<[u8]>>,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(
        writer: Writer<'a>,
        names: Names<'a>,
        config: &'a Config,
        asked: RecordType,
        is_plain_udp: bool,
        shuffler: &'a mut Shuffler,
        told: &'a mut Told,
    ) -> Self {
        let answers_max = match config.udp_answer_limit {
            1.. if is_plain_udp => config.udp_answer_limit.min(UDP_ANSWER_LIMIT_MAX),
            _ => usize::MAX,
        };
        Self { writer, names, config, asked, answers_max, shuffler, told, is_trimmed: false, alias: None }
    }

    /// Whether records were left out because there was no room or the asker takes no more.
    pub(crate) fn is_trimmed(&self) -> bool {
        self.is_trimmed
    }

    /// Closes the answer.
    pub(crate) fn finish(self, verdict: Verdict) -> Summary {
        self.writer.finish(verdict);
        Summary { code: verdict.code.into(), is_trimmed: self.is_trimmed }
    }

    /// There is no such name.
    pub(crate) fn deny(&mut self) -> ResponseCode {
        self.start_of_authority(Section::Authority);
        ResponseCode::NXDomain
    }

    /// Writes the records that tell the facts.
    pub(crate) fn tell(&mut self, facts: &Facts, ttl_s: u32) -> ResponseCode {
        match facts {
            Facts::NameServers(servers) => self.tell_zone(servers),
            Facts::Service(endpoints) if endpoints.targets.healthy(self.config.only_passing).is_empty() => {
                return self.deny();
            }
            Facts::Service(endpoints) => self.tell_service(endpoints, ttl_s),
            Facts::Node(node) => self.tell_node(node, ttl_s),
            Facts::Address(address) => self.answer_address(*address, ttl_s),
            Facts::Reverse(name) => self.tell_reverse(name),
        }
        if self.writer.count(Section::Answer) == 0 {
            // The name exists, but not with such a record.
            self.start_of_authority(Section::Authority);
        }
        ResponseCode::NoError
    }

    /// The labels of the `CNAME` that was told last, if the asker wants to know what is there.
    pub(crate) fn take_alias(&mut self) -> Option<Box<[u8]>> {
        self.alias.take()
    }

    /// Writes the records of the name that a `CNAME` has led to. Finding none changes nothing: the `CNAME` stands.
    pub(crate) fn tell_more(&mut self, facts: &Facts, ttl_s: u32) {
        match facts {
            Facts::Service(endpoints) => self.tell_service(endpoints, ttl_s),
            Facts::Node(node) => self.tell_node_address(node, ttl_s),
            Facts::Address(address) => self.answer_address(*address, ttl_s),
            Facts::NameServers(_) | Facts::Reverse(_) => {}
        }
    }

    fn asks_for(&self, record_type: RecordType) -> bool {
        self.asked == record_type || self.asked == RecordType::ANY
    }

    fn tell_service(&mut self, endpoints: &Endpoints, ttl_s: u32) {
        let told_before = self.writer.count(Section::Answer);
        let only_passing = self.config.only_passing;
        if self.asked == RecordType::SRV {
            return self.tell_targets(endpoints.targets.healthy(only_passing), ttl_s);
        }
        if self.asks_for(RecordType::A) {
            self.tell_addresses(RecordType::A, endpoints.v4.healthy(only_passing), ttl_s);
        }
        if self.asks_for(RecordType::AAAA) {
            self.tell_addresses(RecordType::AAAA, endpoints.v6.healthy(only_passing), ttl_s);
        }
        let is_alone = self.writer.count(Section::Answer) == told_before;
        if is_alone && self.wants_alias() {
            self.tell_alias(endpoints.aliases.healthy(only_passing), ttl_s);
        }
    }

    fn tell_addresses<const BYTES: usize>(&mut self, record_type: RecordType, addresses: &[[u8; BYTES]], ttl_s: u32) {
        let records_max = match self.config.a_record_limit {
            0 => usize::MAX,
            limit => limit,
        };
        for address in self.shuffler.shuffle(addresses) {
            if self.writer.count(Section::Answer) >= records_max {
                return;
            }
            let has_room = self.writer.count(Section::Answer) < self.answers_max;
            if !has_room || !self.writer.record(Section::Answer, &[self.names.owner()], record_type, ttl_s, &[address])
            {
                self.is_trimmed = true;
                return;
            }
        }
    }

    /// There can be only one `CNAME` (RFC 1034 §3.6.2). One that points to the very name in question would go round in
    /// circles: then it is the node that is meant.
    fn tell_alias(&mut self, aliases: &[Alias], ttl_s: u32) {
        let Some(alias) = self.shuffler.shuffle(aliases).next() else {
            return;
        };
        if self.names.is_owner(&alias.name) {
            if let Some(address) = alias.node_address {
                self.answer_address(address, ttl_s);
            }
            return;
        }
        self.answer_alias(&alias.name, ttl_s);
    }

    fn wants_alias(&self) -> bool {
        matches!(self.asked, RecordType::A | RecordType::AAAA | RecordType::ANY | RecordType::CNAME)
    }

    fn answer_alias(&mut self, name: &[u8], ttl_s: u32) {
        let owner = [self.names.owner()];
        let name_at = self.writer.next_data_at(owner[0].len());
        if !self.writer.record(Section::Answer, &owner, RecordType::CNAME, ttl_s, &[name, ROOT]) {
            self.is_trimmed = true;
        } else if self.asked != RecordType::CNAME {
            self.names.set_owner(name, name_at);
            self.alias = Some(name.into());
        }
    }

    /// An address as the answer, if it is of the sort that was asked for.
    fn answer_address(&mut self, address: IpAddr, ttl_s: u32) {
        if self.asks_for(type_of(address)) {
            let owner = [self.names.owner()];
            let is_told = write_address(&mut self.writer, Section::Answer, &owner, address, ttl_s);
            self.is_trimmed |= !is_told;
        }
    }

    fn tell_node_address(&mut self, node: &NodeRecord, ttl_s: u32) {
        match &node.address {
            Some(Address::Ip(address)) => self.answer_address(*address, ttl_s),
            Some(Address::Name(name)) if self.wants_alias() => self.answer_alias(name, ttl_s),
            Some(Address::Name(_)) | None => {}
        }
    }

    fn tell_node(&mut self, node: &NodeRecord, ttl_s: u32) {
        self.tell_node_address(node, ttl_s);
        if self.alias.is_some() {
            // The metadata would get the wrong owner, and an alias has no other records (RFC 1034 §3.6.2).
            return;
        }
        let section = if self.asks_for(RecordType::TXT) { Section::Answer } else { Section::Additional };
        let is_wanted = section == Section::Answer
            || (self.config.enable_additional_node_meta_txt && self.writer.count(Section::Answer) > 0);
        for text in node.meta.iter().filter(|_| is_wanted) {
            let is_told = self.writer.record(section, &[self.names.owner()], RecordType::TXT, ttl_s, &[text]);
            self.is_trimmed |= !is_told && section == Section::Answer;
        }
    }

    fn tell_reverse(&mut self, name: &ReverseName) {
        let labels = match name {
            ReverseName::Node { name, datacenter } => qualified(name, "node", datacenter),
            ReverseName::Service { name, datacenter } => qualified(name, "service", datacenter),
        };
        if let Some(labels) = labels {
            let owner = [self.names.owner()];
            let data = [&labels, self.names.domain()];
            self.is_trimmed |= !self.writer.record(Section::Answer, &owner, RecordType::PTR, 0, &data);
        }
    }

    /// The zone's own records. They belong to the domain, whatever name below it was asked for.
    fn tell_zone(&mut self, servers: &[Arc<NodeRecord>]) {
        if self.asks_for(RecordType::SOA) {
            self.start_of_authority(Section::Answer);
        }
        let section = match self.asked {
            RecordType::NS | RecordType::ANY => Section::Answer,
            RecordType::SOA => Section::Authority,
            _ => return,
        };
        let servers: Vec<_> = servers.iter().filter(|server| !server.labels.is_empty()).collect();
        for server in self.shuffler.shuffle(&servers).take(NAME_SERVERS_MAX) {
            let domain = self.names.domain();
            let data_at = self.writer.next_data_at(domain.len());
            if !self.writer.record(section, &[domain], RecordType::NS, 0, &[&server.labels, domain]) {
                self.is_trimmed |= section == Section::Answer;
                return;
            }
            if let Some(Address::Ip(address)) = server.address {
                let pointer = self.names.pointer(data_at);
                let owner = pointer.as_ref().map_or([&*server.labels, domain], |pointer| [pointer, NOTHING]);
                write_address(&mut self.writer, Section::Additional, &owner, address, 0);
            }
        }
    }

    /// The zone's SOA. In the authority section it says for how long "no" may be remembered.
    fn start_of_authority(&mut self, section: Section) {
        let soa = &self.config.soa;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Serial numbers wrap (RFC 1982).
        let [_, _, _, _, serial @ ..] = now_s.to_be_bytes();
        let domain = self.names.domain();
        let timers = [soa.refresh_s, soa.retry_s, soa.expire_s, soa.min_ttl_s].map(u32::to_be_bytes);
        let data: [&[u8]; 6] = [b"\x02ns", domain, b"\x0ahostmaster", domain, &serial, timers.as_flattened()];
        let is_told = self.writer.record(section, &[domain], RecordType::SOA, soa.min_ttl_s, &data);
        self.is_trimmed |= !is_told && section == Section::Answer;
    }
}

/// What follows a pointer: a name ends with it.
const NOTHING: &[u8] = &[];

fn write_address(writer: &mut Writer<'_>, section: Section, owner: &[&[u8]], address: IpAddr, ttl_s: u32) -> bool {
    match address {
        IpAddr::V4(ip) => writer.record(section, owner, RecordType::A, ttl_s, &[&ip.octets()]),
        IpAddr::V6(ip) => writer.record(section, owner, RecordType::AAAA, ttl_s, &[&ip.octets()]),
    }
}

fn type_of(address: IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}
