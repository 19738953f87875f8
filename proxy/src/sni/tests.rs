//! Real ClientHellos of rustls, handmade ones, and rubbish of every kind.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;

fn length16(length: usize) -> u16 {
    u16::try_from(length).expect("it is short")
}

/// A ClientHello as rustls sends it.
fn real_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_string().try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("memory");
    bytes
}

/// A ClientHello with these extensions, in records of at most `record_max` bytes.
fn handmade(extensions: &[u8], record_max: usize) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(length16(extensions.len()).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(length16(body.len()).to_be_bytes());
    message.extend(body);
    message
        .chunks(record_max)
        .flat_map(|part| [&[22, 3, 1], &length16(part.len()).to_be_bytes()[..], part].concat())
        .collect()
}

fn name_extension(kind: u8, name: &[u8]) -> Vec<u8> {
    let length = length16(name.len());
    [
        &0u16.to_be_bytes()[..],
        &(length + 5).to_be_bytes(),
        &(length + 3).to_be_bytes(),
        &[kind],
        &length.to_be_bytes(),
        name,
    ]
    .concat()
}

#[test]
fn a_real_hello_is_read_and_every_beginning_of_it_is_incomplete() {
    let bytes = real_hello("Web.default.dc2.internal.11111111-2222-3333-4444-555555555555.consul");
    assert_eq!(
        parse(&bytes),
        Hello::Name("web.default.dc2.internal.11111111-2222-3333-4444-555555555555.consul".into())
    );
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]), Hello::Incomplete, "{end} of {}", bytes.len());
    }
    let more = [&bytes[..], b"whatever follows"].concat();
    assert!(matches!(parse(&more), Hello::Name(_)));
}

#[test]
fn handmade_hellos() {
    let web = name_extension(0, b"web.dc1");
    let other = [0xff, 0x01, 0, 1, 0];
    let cases: Vec<(&str, Vec<u8>, Hello)> = vec![
        ("one record", handmade(&web, 1000), Hello::Name("web.dc1".into())),
        ("after another extension", handmade(&[&other[..], &web].concat(), 1000), Hello::Name("web.dc1".into())),
        ("in records of one byte", handmade(&web, 1), Hello::Name("web.dc1".into())),
        ("in records of seven bytes", handmade(&web, 7), Hello::Name("web.dc1".into())),
        ("no name", handmade(&other, 1000), Hello::Refused("a ClientHello without a server name")),
        ("no extensions", handmade(&[], 1000), Hello::Refused("a ClientHello without a server name")),
        ("empty name", handmade(&name_extension(0, b""), 1000), Hello::Refused("a server name that is none")),
        ("not a host name", handmade(&name_extension(1, b"web"), 1000), Hello::Refused("a server name that is none")),
        (
            "a name with a slash",
            handmade(&name_extension(0, b"a/b"), 1000),
            Hello::Refused("a server name that is none"),
        ),
        (
            "a name with a zero",
            handmade(&name_extension(0, b"a\0b"), 1000),
            Hello::Refused("a server name that is none"),
        ),
        ("a long name", handmade(&name_extension(0, &[b'a'; 254]), 1000), Hello::Refused("a server name that is none")),
        (
            "lengths that lie",
            handmade(&[0, 0, 0, 9, 0, 7, 0, 0, 4, b'w'], 1000),
            Hello::Refused("a ClientHello whose lengths do not add up"),
        ),
        ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), Hello::Refused("not a TLS handshake")),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40], Hello::Refused("not a TLS handshake")),
        ("a ServerHello", vec![22, 3, 3, 0, 4, 2, 0, 0, 0], Hello::Refused("not a ClientHello")),
        ("SSL 2", vec![22, 2, 0, 0, 4, 1, 0, 0, 0], Hello::Refused("not a TLS handshake")),
        ("an empty record", vec![22, 3, 1, 0, 0], Hello::Refused("a TLS record of an impossible length")),
        ("a huge record", vec![22, 3, 1, 0xff, 0xff], Hello::Refused("a TLS record of an impossible length")),
        ("a huge message", vec![22, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0], Hello::Refused("the ClientHello is too long")),
        ("nothing", vec![], Hello::Incomplete),
    ];
    for (case, bytes, expected) in cases {
        assert_eq!(parse(&bytes), expected, "{case}");
    }
}

#[test]
fn a_hello_that_never_ends_is_refused() {
    // A message of the largest allowed length, in small records, which stops one byte short of the limit for ever.
    let mut bytes = vec![22, 3, 1, 0, 4, 1, 0, 0x3f, 0xff];
    while bytes.len() < CLIENT_HELLO_BYTES_MAX {
        assert_eq!(parse(&bytes), Hello::Incomplete);
        bytes.extend([22, 3, 1, 0, 200]);
        bytes.extend([0; 200]);
    }
    assert_ne!(parse(&bytes), Hello::Incomplete);
}

proptest! {
    #[test]
    fn rubbish_is_never_a_name(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(!matches!(parse(&bytes), Hello::Name(_)) || bytes.first() == Some(&22));
    }

    /// Flip, cut or repeat any part of a real hello: no panic, and a name only if it is a plain one.
    #[test]
    fn damaged_hellos_do_no_harm(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), twice in any::<bool>()) {
        let mut bytes = handmade(&name_extension(0, b"web.default.dc2.internal.x.consul"), 40);
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(cut.index(bytes.len() + 1));
        if twice { bytes.extend(bytes.clone()) }
        if let Hello::Name(name) = parse(&bytes) {
            prop_assert!(!name.is_empty() && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
        }
    }

    /// However the records are cut, the name is the same.
    #[test]
    fn records_do_not_matter(record_max in 1usize..200, name in "[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,4}") {
        prop_assert_eq!(parse(&handmade(&name_extension(0, name.as_bytes()), record_max)), Hello::Name(name));
    }
}
