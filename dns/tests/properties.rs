//! Whatever the instances, limits and packets: another codec reads our answers, they tell what they should, and nothing
//! that is sent makes us panic, babble or answer an answer.

mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use dns::answer::{Outcome, Scratch, Transport, answer};
use dns::{Config, EndpointRecord, Endpoints, Found, Lookup, NodeRecord, ReverseName, ServiceQuery, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::CheckStatus;
use model::service::Weights;
use proptest::prelude::*;
use zone::TestZone;

/// One service, whatever is asked.
struct One(Arc<Endpoints>);

impl Lookup for One {
    fn service(&self, _: &ServiceQuery<'_>) -> Found<Arc<Endpoints>> {
        Found::Ready(self.0.clone())
    }
    fn node(&self, _: Option<&str>, _: &str) -> Found<Arc<NodeRecord>> {
        Found::NoSuchName
    }
    fn node_by_address(&self, _: IpAddr) -> Found<ReverseName> {
        Found::NoSuchName
    }
    fn name_servers(&self) -> Vec<Arc<NodeRecord>> {
        Vec::new()
    }
    fn datacenter(&self) -> &str {
        "dc1"
    }
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0_u8..40).prop_map(|last| Ipv4Addr::new(10, 0, 0, last).to_string()),
        2 => (0_u16..40).prop_map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).to_string()),
        1 => "[a-z]{1,12}\\.example\\.com\\.?",
        1 => Just("not..a name".to_string()),
    ]
}

fn record() -> impl Strategy<Value = EndpointRecord> {
    let status =
        prop_oneof![4 => Just(CheckStatus::Passing), 2 => Just(CheckStatus::Warning), 1 => Just(CheckStatus::Critical)];
    let own = prop_oneof![2 => Just(String::new()), 1 => address()];
    let meta = prop::collection::btree_map("(rfc1035-)?[a-z=` ]{1,12}", "[ -~]{0,300}", 0..3);
    let node = prop_oneof![5 => "[a-z]{1,20}(-[0-9]{1,3})?(\\.[a-z]{1,9})?", 1 => Just("x".repeat(70))];
    (node, address(), own, 0_u16..4, status, meta, any::<(u16, u16)>()).prop_map(
        |(node, node_address, service_address, port, status, node_meta, (passing, warning))| EndpointRecord {
            node,
            node_address,
            node_meta,
            service_address,
            port,
            weights: Weights { passing, warning },
            status,
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    let limits = (0_usize..12, prop_oneof![Just(0_usize), 1_usize..9], 512_u16..=65_467);
    (limits, any::<[bool; 4]>(), any::<u32>()).prop_map(
        |((udp_answer_limit, a_record_limit, udp_bytes_max), flags, ttl_s)| {
            let [only_passing, enable_truncate, disable_compression, enable_additional_node_meta_txt] = flags;
            Config {
                udp_answer_limit,
                a_record_limit,
                udp_bytes_max,
                only_passing,
                enable_truncate,
                disable_compression,
                enable_additional_node_meta_txt,
                service_ttl_s: BTreeMap::from([("*".to_string(), ttl_s)]),
                ..Config::default()
            }
        },
    )
}

#[derive(Debug, Clone)]
struct Asking {
    record_type: RecordType,
    edns: Option<u16>,
    transport: Transport,
}

fn asking() -> impl Strategy<Value = Asking> {
    let types =
        prop::sample::select(vec![RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::ANY, RecordType::TXT]);
    let transports = prop::sample::select(vec![Transport::Udp, Transport::Tcp]);
    (types, prop::option::of(any::<u16>()), transports).prop_map(|(record_type, edns, transport)| Asking {
        record_type,
        edns,
        transport,
    })
}

fn question(name: &str, asking: &Asking) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(name).expect("name"), asking.record_type));
    if let Some(bytes) = asking.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        message.set_edns(edns);
    }
    message
}

fn limit_bytes(config: &Config, asking: &Asking) -> usize {
    match (asking.transport, asking.edns) {
        (Transport::Tcp, _) => 65_535,
        (Transport::Udp, None) => 512,
        (Transport::Udp, Some(bytes)) => usize::from(bytes.max(512).min(config.udp_bytes_max)),
    }
}

/// The instances that may be answered with an address, as plain facts: the other way to the same answer.
fn told<'a>(records: &'a [EndpointRecord], config: &'a Config) -> impl Iterator<Item = (&'a EndpointRecord, &'a str)> {
    records.iter().filter_map(|record| {
        let is_healthy = match record.status {
            CheckStatus::Passing => true,
            CheckStatus::Warning => !config.only_passing,
            CheckStatus::Critical => false,
        };
        let text = if record.service_address.is_empty() { &record.node_address } else { &record.service_address };
        (is_healthy && !text.contains("..")).then_some((record, text.as_str()))
    })
}

fn addresses<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeSet<IpAddr> {
    records.into_iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn check_addresses(message: &Message, records: &[EndpointRecord], config: &Config, asking: &Asking, is_trimmed: bool) {
    let answers = &message.answers;
    let expected: BTreeSet<IpAddr> = told(records, config)
        .filter_map(|(_, text)| text.parse().ok())
        .filter(|ip: &IpAddr| match asking.record_type {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            other => other == RecordType::ANY,
        })
        .collect();
    let got = addresses(answers);
    assert!(got.is_subset(&expected), "{got:?} of {expected:?}");
    let aliases = answers.iter().filter(|record| record.record_type() == RecordType::CNAME).count();
    assert_eq!(got.len() + aliases, answers.len(), "each address once");
    assert!(aliases == 0 || (aliases == 1 && got.is_empty()), "a CNAME stands alone");
    let is_cut = config.a_record_limit > 0 && got.len() == config.a_record_limit;
    assert!(is_trimmed || is_cut || got == expected, "{got:?} of {expected:?}");
}

fn check_targets(message: &Message, records: &[EndpointRecord], config: &Config, is_trimmed: bool) {
    let ports: BTreeSet<u16> = told(records, config).map(|(record, _)| record.port).collect();
    let weights: BTreeSet<u16> =
        told(records, config).flat_map(|(record, _)| [record.weights.passing, record.weights.warning]).collect();
    let mut seen = BTreeSet::new();
    for answer in &message.answers {
        let RData::SRV(srv) = &answer.data else { panic!("not SRV: {answer}") };
        assert_eq!(srv.priority, 1);
        assert!(ports.contains(&srv.port) && weights.contains(&srv.weight), "{srv}");
        assert!(seen.insert((srv.target.clone(), srv.port)), "twice: {srv}");
        let is_ours = srv.target.to_ascii().ends_with(".consul.");
        let glue = message
            .additionals
            .iter()
            .filter(|extra| extra.name == srv.target && extra.data.ip_addr().is_some())
            .count();
        assert!(
            glue == usize::from(is_ours)
                || (message.answers.len() == 1 && is_trimmed)
                || glue == 0 && message.answers.len() == 1,
            "{glue} addresses of {srv}"
        );
    }
    let pairs: BTreeSet<(&str, u16)> = told(records, config).map(|(record, text)| (text, record.port)).collect();
    assert!(
        is_trimmed
            || seen.len()
                >= pairs.iter().map(|(text, port)| (text.trim_end_matches('.'), port)).collect::<BTreeSet<_>>().len()
    );
    let known = addresses(&message.additionals);
    let expected: BTreeSet<IpAddr> = told(records, config).filter_map(|(_, text)| text.parse().ok()).collect();
    assert!(known.is_subset(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_codec_reads_what_we_wrote(
        records in prop::collection::vec(record(), 0..120), config in config(), asking in asking(), seed in any::<u64>(),
    ) {
        let zone = Zone::new(config.clone()).expect("settings");
        let asked = question("Web.service.consul.", &asking);
        let packet = asked.to_vec().expect("question");
        let (mut scratch, mut out) = (Scratch::new(seed), Vec::new());
        let one = One(Arc::new(Endpoints::new("dc1", &records)));
        let Outcome::Reply(summary) = answer(&zone, &one, &packet, asking.transport, &mut scratch, &mut out) else {
            panic!("a service is answered");
        };
        let message = Message::from_vec(&out).expect("readable");
        prop_assert!(out.len() <= limit_bytes(&config, &asking), "{} bytes", out.len());
        prop_assert_eq!(message.metadata.id, 77);
        prop_assert_eq!(message.metadata.message_type, MessageType::Response);
        prop_assert_eq!(&message.queries, &asked.queries);
        prop_assert_eq!(message.edns.is_some(), asked.edns.is_some());
        let is_truncated = summary.is_trimmed && config.enable_truncate && asking.transport == Transport::Udp;
        prop_assert_eq!(message.metadata.truncation, is_truncated);
        let is_known = told(&records, &config).next().is_some();
        let code = if is_known { ResponseCode::NoError } else { ResponseCode::NXDomain };
        prop_assert_eq!(message.metadata.response_code, code);
        let ttl_s = config.service_ttl_s("web");
        prop_assert!(message.answers.iter().all(|record| record.ttl == ttl_s || record.ttl == 0));
        if message.answers.is_empty() && !summary.is_trimmed {
            prop_assert_eq!(message.authorities.len(), 1, "SOA says for how long");
        }
        match asking.record_type {
            RecordType::SRV => check_targets(&message, &records, &config, summary.is_trimmed),
            RecordType::TXT => prop_assert!(message.answers.is_empty()),
            _ => check_addresses(&message, &records, &config, &asking, summary.is_trimmed),
        }
    }
}

const FACTS: &str = "
    node dc1 n1 10.0.0.1 os=linux
    node dc1 server-1 10.0.0.2
    service dc1 web n1 80
    slow later
";

/// Feeds a packet, and checks what holds for every packet.
fn feed(packet: &[u8], transport: Transport) {
    let facts = TestZone::parse(FACTS);
    let zone = Zone::new(Config::default()).expect("settings");
    let (mut scratch, mut out) = (Scratch::new(1), Vec::new());
    match answer(&zone, &facts, packet, transport, &mut scratch, &mut out) {
        Outcome::Reply(_) => {
            assert_eq!(packet[2] & 0x80, 0, "answered an answer");
            assert_eq!(out[2] & 0x80, 0x80, "asked in turn");
            assert_eq!(out[..2], packet[..2]);
            assert!(out.len() <= 1232 || transport == Transport::Tcp);
            Message::from_vec(&out).expect("readable");
        }
        Outcome::Drop => assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "a question was left without an answer"),
        Outcome::Wait(_) => assert_eq!(packet[2] & 0x80, 0),
        Outcome::Forward | Outcome::Follow { .. } => panic!("there are no recursors"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_survived(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        feed(&packet, Transport::Udp);
    }

    #[test]
    fn damaged_questions_are_survived(
        name in prop::sample::select(vec!["web.service.consul.", "n1.node.consul.", "consul.", "1.0.0.10.in-addr.arpa.", "later.service.consul."]),
        asking in asking(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut packet = question(name, &asking).to_vec().expect("question");
        for (place, byte) in damage {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        if let Some(cut) = cut {
            packet.truncate(cut.index(packet.len()));
        }
        feed(&packet, asking.transport);
    }
}

#[test]
fn a_packet_that_points_at_itself_is_an_error() {
    // The name is a pointer to itself.
    feed(&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1], Transport::Udp);
    // It claims 65,535 questions.
    feed(&[0, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0], Transport::Udp);
}
