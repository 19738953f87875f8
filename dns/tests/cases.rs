//! Questions and their answers, as text: `tests/cases/*.txt`. `UPDATE_EXPECT=1 cargo nextest run -p tribune-dns` writes the
//! answers anew; then read the difference.
//!
//! In a file: facts (see `zone`), `config key=value …`, and questions `? <name> <type> [edns=<bytes> do tcp class=CH version=1]`.
//! Lines that begin with two spaces are answers. They are decoded by hickory-proto, which shares no code with what encoded
//! them, and sorted, because their order is random.

mod zone;

use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

use dns::answer::{Outcome, Scratch, Transport, answer};
use dns::{Config, Zone};
use expect_test::expect_file;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use zone::TestZone;

#[test]
fn names() {
    run("names.txt");
}

#[test]
fn services() {
    run("services.txt");
}

#[test]
fn nodes() {
    run("nodes.txt");
}

#[test]
fn apex() {
    run("apex.txt");
}

#[test]
fn limits() {
    run("limits.txt");
}

#[test]
fn refusals() {
    run("refusals.txt");
}

fn run(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let text = std::fs::read_to_string(&path).expect("the case file");
    let (mut facts, mut config, mut out) = (TestZone::parse(""), Config::default(), String::new());
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        writeln!(out, "{line}").expect("a string takes all");
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [comment, ..] if comment.starts_with('#') => {}
            ["config", settings @ ..] => config = parse_config(settings),
            ["?", name, kind, options @ ..] => {
                out.push_str(&ask(&facts, &config, name, kind, options));
            }
            fact => facts.add(fact),
        }
    }
    expect_file![path].assert_eq(&out);
}

/// The defaults and what is set.
fn parse_config(settings: &[&str]) -> Config {
    let mut config = Config::default();
    for setting in settings {
        let (key, value) = setting.split_once('=').expect("key=value");
        let number = || value.parse::<u32>().expect("a number");
        let count = || value.parse::<usize>().expect("a number");
        match key {
            "domain" => config.domain = value.into(),
            "alt_domain" => config.alt_domain = Some(value.into()),
            "node_ttl" => config.node_ttl_s = number(),
            "min_ttl" => config.soa.min_ttl_s = number(),
            "only_passing" => config.only_passing = value == "true",
            "udp_answer_limit" => config.udp_answer_limit = count(),
            "a_record_limit" => config.a_record_limit = count(),
            "enable_truncate" => config.enable_truncate = value == "true",
            "disable_compression" => config.disable_compression = value == "true",
            "meta_txt" => config.enable_additional_node_meta_txt = value == "true",
            "udp_bytes_max" => config.udp_bytes_max = value.parse().expect("a number"),
            _ => {
                let service = key.strip_prefix("ttl:").unwrap_or_else(|| panic!("no such setting: {key}"));
                config.service_ttl_s.insert(service.into(), number());
            }
        }
    }
    config
}

fn ask(facts: &TestZone, config: &Config, name: &str, kind: &str, options: &[&str]) -> String {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut query = Query::query(Name::from_str(name).expect("name"), RecordType::from_str(kind).expect("type"));
    let mut transport = Transport::Udp;
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("edns", bytes) => {
                let mut edns = Edns::new();
                edns.set_max_payload(bytes.parse().expect("bytes"));
                message.set_edns(edns);
            }
            ("do", _) => drop(message.edns.as_mut().expect("edns first").set_dnssec_ok(true)),
            ("version", version) => {
                message.edns.as_mut().expect("edns first").set_version(version.parse().expect("version"));
            }
            ("class", class) => {
                query.set_query_class(DNSClass::from_str(class).expect("class"));
            }
            ("tcp", _) => transport = Transport::Tcp,
            _ => panic!("no such option: {option}"),
        }
    }
    message.add_query(query);
    let packet = message.to_vec().expect("question");
    let zone = Zone::new(config.clone()).expect("settings");
    let (mut scratch, mut out) = (Scratch::new(1), Vec::new());
    match answer(&zone, facts, &packet, transport, &mut scratch, &mut out) {
        Outcome::Reply(_) => render(&message, &out),
        Outcome::Drop => "  (nothing)\n".into(),
        Outcome::Wait(_) => "  (waits)\n".into(),
        Outcome::Forward | Outcome::Follow { .. } => "  (recursors)\n".into(),
    }
}

fn render(asked: &Message, bytes: &[u8]) -> String {
    let message = Message::from_vec(bytes).expect("an answer that another codec reads");
    assert_eq!((message.metadata.id, message.metadata.message_type), (asked.metadata.id, MessageType::Response));
    assert!(message.metadata.recursion_desired, "RD is handed back");
    for (asked, told) in asked.queries.iter().zip(&message.queries) {
        assert!(told.name.eq_case(&asked.name), "the spelling of the question is kept: {told}");
    }
    let mut out = format!("  {:?}", message.metadata.response_code);
    let flags = [
        ("aa", message.metadata.authoritative),
        ("tc", message.metadata.truncation),
        ("ra", message.metadata.recursion_available),
    ];
    flags.iter().filter(|(_, is_set)| *is_set).for_each(|(flag, _)| out.push_str(&format!(" {flag}")));
    if let Some(edns) = &message.edns {
        let dnssec = if edns.flags().dnssec_ok { " do" } else { "" };
        out.push_str(&format!(" edns={}{dnssec}", edns.max_payload()));
    }
    out.push_str(&format!(" {} bytes\n", bytes.len()));
    for (section, records) in
        [("", &message.answers), ("authority ", &message.authorities), ("extra ", &message.additionals)]
    {
        let mut lines: Vec<String> = records.iter().map(|record| format!("  {section}{}\n", line(record))).collect();
        lines.sort();
        out.extend(lines);
    }
    out
}

fn line(record: &Record) -> String {
    let data = match &record.data {
        // The serial number is the time.
        RData::SOA(soa) => {
            format!("{} {} (now) {} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire, soa.minimum)
        }
        RData::TXT(text) => format!("{:?}", text.to_string()),
        data => data.to_string(),
    };
    format!("{} {} {} {data}", record.name, record.ttl, record.record_type())
}
