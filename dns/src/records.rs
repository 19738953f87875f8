//! What the catalog knows, encoded once per change so that an answer is little more than copying.
//!
//! Names are kept as wire labels *without* the domain, because the same instance is answered in `domain` and in
//! `alt_domain`, and without the root byte.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use model::service::Weights;
use model::{CheckStatus, Meta};

/// One service instance, as the catalog tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointRecord {
    /// The node it runs on.
    pub node: String,
    /// The node's address: an IP address, or a host name.
    pub node_address: String,
    /// The node's metadata, for `TXT` records.
    pub node_meta: Meta,
    /// Its own address, or empty when it listens on the node's.
    pub service_address: String,
    /// Its port.
    pub port: u16,
    /// `SRV` weights by status.
    pub weights: Weights,
    /// The worst of its checks and its node's.
    pub status: CheckStatus,
}

/// The instances that answer one [`ServiceQuery`](crate::ServiceQuery), ready to be copied into answers. Make it once per
/// change and keep it. Critical instances are left out here; the passing ones come first, so that `only_passing` is a length.
#[derive(Debug, Default)]
pub struct Endpoints {
    pub(crate) v4: Ranked<[u8; 4]>,
    pub(crate) v6: Ranked<[u8; 16]>,
    pub(crate) aliases: Ranked<Alias>,
    pub(crate) targets: Ranked<Target>,
}

impl Endpoints {
    /// Encodes the instances of one service in `datacenter`. One address, and one pair of target and port, is kept once.
    /// An instance with an address that is neither an IP address nor a host name cannot be told in DNS and is left out.
    pub fn new(datacenter: &str, records: &[EndpointRecord]) -> Self {
        let mut builder = Builder { datacenter, endpoints: Self::default(), numbers: HashMap::new() };
        for wanted in [CheckStatus::Passing, CheckStatus::Warning] {
            for record in records.iter().filter(|record| record.status == wanted) {
                builder.add(record);
            }
            if wanted == CheckStatus::Passing {
                builder.endpoints.passing_end_here();
            }
        }
        builder.endpoints.finish()
    }

    /// How many instances (pairs of target and port) may be answered.
    pub fn len(&self) -> usize {
        self.targets.items.len()
    }

    /// Whether there is nothing to answer: the name does not exist for DNS.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn passing_end_here(&mut self) {
        self.v4.passing = self.v4.items.len();
        self.v6.passing = self.v6.items.len();
        self.aliases.passing = self.aliases.items.len();
        self.targets.passing = self.targets.items.len();
    }

    fn finish(mut self) -> Self {
        self.v4.deduplicate(|address| *address);
        self.v6.deduplicate(|address| *address);
        self.aliases.deduplicate(|alias| alias.name.clone());
        self.targets.deduplicate(|target| (target.name_number, target.port()));
        self
    }
}

/// Items of which the first `passing` are passing, the rest in warning.
#[derive(Debug)]
pub(crate) struct Ranked<T> {
    items: Vec<T>,
    passing: usize,
}

impl<T> Default for Ranked<T> {
    fn default() -> Self {
        Self { items: Vec::new(), passing: 0 }
    }
}

impl<T> Ranked<T> {
    /// Those that may be answered.
    pub(crate) fn healthy(&self, only_passing: bool) -> &[T] {
        if only_passing { &self.items[..self.passing] } else { &self.items }
    }

    /// Keeps the first of those with the same key: a passing one before one in warning.
    fn deduplicate<K: Eq + Hash>(&mut self, key: impl Fn(&T) -> K) {
        let mut seen = HashSet::with_capacity(self.items.len());
        let mut place = 0;
        let mut passing = self.passing;
        self.items.retain(|item| {
            let is_new = seen.insert(key(item));
            if !is_new && place < self.passing {
                passing -= 1;
            }
            place += 1;
            is_new
        });
        self.passing = passing;
    }
}

/// A host name that stands for an instance: answered as a `CNAME`.
#[derive(Debug)]
pub(crate) struct Alias {
    /// Complete labels.
    pub(crate) name: Box<[u8]>,
    /// What to answer when the name is the very name that was asked for.
    pub(crate) node_address: Option<IpAddr>,
}

/// What an `SRV` record points to.
#[derive(Debug)]
pub(crate) struct Target {
    /// Priority, weight, port, and the target's labels: the record's data as far as the domain.
    pub(crate) srv: Box<[u8]>,
    /// The labels in `srv` are complete: the domain does not follow.
    pub(crate) is_absolute: bool,
    /// The target's address, for the additional section.
    pub(crate) address: Option<IpAddr>,
    /// `<node>.node.<dc>`: whose metadata it is.
    pub(crate) node: Box<[u8]>,
    /// The node's metadata as `TXT` data.
    pub(crate) meta: Arc<[Box<[u8]>]>,
    /// Targets of the same name have the same number: their address is told once.
    pub(crate) name_number: usize,
    /// Targets on the same node have the same number: its metadata is told once.
    pub(crate) node_number: usize,
}

/// Bytes of `SRV` data before the target's name: priority, weight, port.
pub(crate) const SRV_FIXED_BYTES: usize = 6;

impl Target {
    /// The target's labels.
    pub(crate) fn name(&self) -> &[u8] {
        &self.srv[SRV_FIXED_BYTES..]
    }

    fn port(&self) -> u16 {
        u16::from_be_bytes([self.srv[4], self.srv[5]])
    }
}

/// A node, ready to be copied into answers.
#[derive(Debug)]
pub struct NodeRecord {
    /// `<name>.node.<dc>`.
    pub(crate) labels: Box<[u8]>,
    pub(crate) address: Option<Address>,
    pub(crate) meta: Box<[Box<[u8]>]>,
}

impl NodeRecord {
    /// Encodes a node. `address` is an IP address or a host name; anything else is as if it had none.
    pub fn new(name: &str, datacenter: &str, address: &str, meta: &Meta) -> Self {
        Self {
            labels: qualified(name, "node", datacenter).unwrap_or_default(),
            address: Address::parse(address),
            meta: encode_meta(meta),
        }
    }
}

/// Where something is.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Ip(IpAddr),
    /// Complete labels of a host name.
    Name(Box<[u8]>),
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Self::Ip(ip));
        }
        let name = encode_labels(&[text.strip_suffix('.').unwrap_or(text)])?;
        Some(Self::Name(name))
    }

    fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }
}

struct Builder<'a> {
    datacenter: &'a str,
    endpoints: Endpoints,
    numbers: HashMap<Box<[u8]>, usize>,
}

impl Builder<'_> {
    fn add(&mut self, record: &EndpointRecord) {
        let own = !record.service_address.is_empty();
        let node_address = Address::parse(&record.node_address);
        let address = if own { Address::parse(&record.service_address) } else { node_address.clone() };
        let Some(address) = address else { return };
        let node = qualified(&record.node, "node", self.datacenter);
        let target = match (&address, &node) {
            (Address::Name(name), _) => Some((name.clone(), true)),
            (Address::Ip(_), Some(node)) if !own => Some((node.clone(), false)),
            // A node whose name is no DNS name is pointed to by its address.
            (Address::Ip(ip), _) => qualified(&hex_of(*ip), "addr", self.datacenter).map(|name| (name, false)),
        };
        if let Some((name, is_absolute)) = target {
            self.add_target(record, name, is_absolute, address.ip(), node.unwrap_or_default());
        }
        match address {
            Address::Ip(IpAddr::V4(ip)) => self.endpoints.v4.items.push(ip.octets()),
            Address::Ip(IpAddr::V6(ip)) => self.endpoints.v6.items.push(ip.octets()),
            Address::Name(name) => {
                let node_address = node_address.and_then(|address| address.ip());
                self.endpoints.aliases.items.push(Alias { name, node_address });
            }
        }
    }

    fn add_target(
        &mut self,
        record: &EndpointRecord,
        name: Box<[u8]>,
        is_absolute: bool,
        address: Option<IpAddr>,
        node: Box<[u8]>,
    ) {
        let weight = match record.status {
            CheckStatus::Passing => record.weights.passing,
            CheckStatus::Warning | CheckStatus::Critical => record.weights.warning,
        };
        let (name_number, node_number) = (self.number(&name), self.number(&node));
        let mut srv = Vec::with_capacity(SRV_FIXED_BYTES + name.len());
        for field in [1, weight, record.port] {
            srv.extend_from_slice(&u16::to_be_bytes(field));
        }
        srv.extend_from_slice(&name);
        let meta = if node.is_empty() { Arc::default() } else { encode_meta(&record.node_meta).into() };
        self.endpoints.targets.items.push(Target {
            srv: srv.into(),
            is_absolute,
            address,
            node,
            meta,
            name_number,
            node_number,
        });
    }

    /// Equal names get equal numbers, from 0 on.
    fn number(&mut self, name: &[u8]) -> usize {
        let fresh = self.numbers.len();
        *self.numbers.entry(name.into()).or_insert(fresh)
    }
}

/// `<name>.<kind>.<datacenter>` as labels, if it can be said in DNS.
pub(crate) fn qualified(name: &str, kind: &str, datacenter: &str) -> Option<Box<[u8]>> {
    encode_labels(&[name, kind, datacenter])
}

/// The address as the label of an `.addr` name: 8 or 32 hexadecimal digits.
fn hex_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
    }
}

/// Longest sum of labels that still leaves room for a domain (RFC 1035 §2.3.4: 255 for all).
const LABELS_BYTES_MAX: usize = 200;

/// The dotted names one after the other as wire labels, without the root. None when a label is empty or longer than 63
/// bytes, or all together are too long.
fn encode_labels(names: &[&str]) -> Option<Box<[u8]>> {
    let mut labels = Vec::with_capacity(64);
    for label in names.iter().flat_map(|name| name.split('.')) {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        labels.push(length);
        labels.extend_from_slice(label.as_bytes());
    }
    (labels.len() <= LABELS_BYTES_MAX).then(|| labels.into())
}

/// Metadata as the data of `TXT` records, one each: `key=value` (RFC 1464), or the value alone for keys `rfc1035-…`.
fn encode_meta(meta: &Meta) -> Box<[Box<[u8]>]> {
    meta.iter()
        .map(|(key, value)| {
            let text = if key.starts_with("rfc1035-") { value.clone() } else { format!("{}={value}", quote_key(key)) };
            encode_text(text.as_bytes())
        })
        .collect()
}

/// RFC 1464: an `=` or `` ` `` in a key, and white space at its ends, is marked by a `` ` `` before it.
fn quote_key(key: &str) -> String {
    let start = key.len() - key.trim_start().len();
    let end = key.trim_end().len();
    let mut quoted = String::with_capacity(key.len() + 2);
    for (place, letter) in key.char_indices() {
        if matches!(letter, '=' | '`') || place < start || place >= end {
            quoted.push('`');
        }
        quoted.push(letter);
    }
    quoted
}

/// Strings of at most 255 bytes, each behind its length.
fn encode_text(text: &[u8]) -> Box<[u8]> {
    let mut data = Vec::with_capacity(text.len() + 1 + text.len() / 255);
    for chunk in text.chunks(255) {
        data.push(u8::try_from(chunk.len()).unwrap_or(u8::MAX));
        data.extend_from_slice(chunk);
    }
    if text.is_empty() {
        data.push(0);
    }
    data.into()
}

#[cfg(test)]
mod tests;
