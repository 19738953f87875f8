//! Names to questions: which form of Consul's names a queried name has. Pure.
//! (Consul: "DNS query forms" in docs/services/discovery/dns-static-lookups.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

use crate::lookup::{LookupKind, ServiceQuery};

/// What a name asks about. All text is in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// The domain itself.
    Apex,
    /// `[tag.]<service>.service`, `_<service>._<tag>`, `<service>.connect`, `<service>.ingress`.
    Service(ServiceQuery<'a>),
    /// `<node>.node`; node names may hold dots.
    Node {
        /// None means the local one.
        datacenter: Option<&'a str>,
        /// In lower case.
        name: &'a str,
    },
    /// `<hex>.addr`: the address that is spelled in the name.
    Address(IpAddr),
    /// `….in-addr.arpa` or `….ip6.arpa` for one whole address.
    Reverse(IpAddr),
    /// In our domain, but of no form that names something.
    NoSuchName,
    /// Not in our domain.
    Foreign,
}

/// Writes a name in lower case with dots between the labels and none at the end: as many bytes as on the wire, less two.
///
/// A byte that no name of ours can hold (a dot inside a label, anything beyond ASCII) becomes the control character
/// SUB, which matches nothing.
pub fn spell(name: &Name, text: &mut String) {
    text.clear();
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| match byte {
            b'.' | 128.. => '\x1a',
            _ => char::from(byte.to_ascii_lowercase()),
        }));
    }
}

/// Finds out what `name` asks about, and which of `domains` (spelled as by [`spell`]) it lies in. The longest domain wins,
/// because an `alt_domain` may lie within the `domain`.
pub fn parse<'a>(name: &'a str, domains: &[impl AsRef<str>]) -> (Question<'a>, Option<usize>) {
    let inside =
        domains.iter().map(AsRef::as_ref).enumerate().filter_map(|(place, domain)| Some((place, below(name, domain)?)));
    match inside.min_by_key(|(_, rest)| rest.len()) {
        Some((place, "")) => (Question::Apex, Some(place)),
        Some((place, rest)) => (parse_below(rest).unwrap_or(Question::NoSuchName), Some(place)),
        None => (parse_reverse(name).map_or(Question::Foreign, Question::Reverse), None),
    }
}

/// The part of `name` before `domain` and its dot; empty for the domain itself.
fn below<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

fn parse_below(rest: &str) -> Option<Question<'_>> {
    let (parts, kind, suffix) = split_at_kind(rest)?;
    let datacenter = parse_datacenter(suffix)?;
    if parts.is_empty() {
        return None;
    }
    match kind {
        Kind::Service => Some(Question::Service(parse_service(parts, datacenter))),
        Kind::Connect => Some(Question::Service(of_last_label(parts, datacenter, LookupKind::Connect))),
        Kind::Ingress => Some(Question::Service(of_last_label(parts, datacenter, LookupKind::Ingress))),
        Kind::Node => Some(Question::Node { datacenter, name: parts }),
        Kind::Address => parse_hex(parts).map(Question::Address),
    }
}

enum Kind {
    Service,
    Connect,
    Ingress,
    Node,
    Address,
}

/// Looks for the kind word from the right: what stands before it, and after it. The word `service` may be missing after
/// RFC 2782 labels.
fn split_at_kind(rest: &str) -> Option<(&str, Kind, &str)> {
    let mut head = rest;
    loop {
        let (before, label) = head.rsplit_once('.').unwrap_or(("", head));
        let suffix = rest[head.len()..].trim_start_matches('.');
        let kind = match label {
            "service" => Kind::Service,
            "connect" => Kind::Connect,
            "ingress" => Kind::Ingress,
            "node" => Kind::Node,
            "addr" => Kind::Address,
            // Prepared queries and virtual addresses: there are none.
            "query" | "virtual" => return None,
            _ if label.starts_with('_') => return Some((head, Kind::Service, suffix)),
            _ if before.is_empty() => return None,
            _ => {
                head = before;
                continue;
            }
        };
        return Some((before, kind, suffix));
    }
}

/// `""`, `<dc>` or `<dc>.dc`. Peers (`<peer>.peer`) are not known.
fn parse_datacenter(suffix: &str) -> Option<Option<&str>> {
    match suffix.split_once('.') {
        None => Some((!suffix.is_empty()).then_some(suffix)),
        Some((datacenter, "dc")) => Some(Some(datacenter)),
        Some(_) => None,
    }
}

fn parse_service<'a>(parts: &'a str, datacenter: Option<&'a str>) -> ServiceQuery<'a> {
    let kind = LookupKind::Service;
    let (before, last) = parts.rsplit_once('.').unwrap_or(("", parts));
    match (before.strip_prefix('_'), last.strip_prefix('_')) {
        // RFC 2782: `_service._tag`, where `_tcp` stands for any tag.
        (Some(service), Some(tag)) if !service.contains('.') => {
            ServiceQuery { datacenter, service, tag: (tag != "tcp").then_some(tag), kind }
        }
        // Tags may hold dots.
        _ => ServiceQuery { datacenter, service: last, tag: (!before.is_empty()).then_some(before), kind },
    }
}

fn of_last_label<'a>(parts: &'a str, datacenter: Option<&'a str>, kind: LookupKind) -> ServiceQuery<'a> {
    let service = parts.rsplit_once('.').map_or(parts, |(_, last)| last);
    ServiceQuery { datacenter, service, tag: None, kind }
}

/// 8 hexadecimal digits for IPv4, 32 for IPv6.
fn parse_hex(digits: &str) -> Option<IpAddr> {
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    match digits.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_str_radix(digits, 16).ok()?))),
        32 => Some(IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?))),
        _ => None,
    }
}

fn parse_reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut numbers = octets.rsplit('.').map(str::parse::<u8>);
        let mut address = [0; 4];
        for octet in &mut address {
            *octet = numbers.next()?.ok()?;
        }
        return numbers.next().is_none().then(|| IpAddr::from(address));
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut address = 0_u128;
    let mut count = 0;
    for nibble in nibbles.rsplit('.') {
        let digit = nibble.chars().next().filter(|_| nibble.len() == 1)?.to_digit(16)?;
        address = (address << 4) | u128::from(digit);
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from_bits(address)))
}

#[cfg(test)]
mod tests;
