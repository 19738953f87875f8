//! Commands and responses as bytes, in this release and in the first.

use crate::language::command;
use catalog::{Command, DecodeError, ItemError, ItemKind, Refusal, Response};
use expect_test::expect;
use proptest::prelude::*;

proptest! {
    #[test]
    fn commands_survive_the_log(line in crate::random::command()) {
        let command = command(&line);
        let bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes).expect("decodes"), command);
    }

    #[test]
    fn damaged_commands_are_refused(line in crate::random::command(), cut in 0..200usize, flip in 0..200usize) {
        let mut bytes = command(&line).encode();
        let at = flip % bytes.len();
        bytes[at] ^= 0x55;
        let _ = Command::decode(&bytes);
        bytes.truncate(cut % bytes.len());
        let _ = Command::decode(&bytes);
    }
}

#[test]
fn responses_survive_the_wire() {
    let error = ItemError { kind: ItemKind::Check, id: "c".into(), message: "no".into() };
    let refusal = Refusal::NoSuchService { check_id: "c".into(), service_id: "s".into() };
    for response in [
        Response::Done,
        Response::CasFailed,
        Response::LockFailed,
        Response::Synced { at: 7, errors: vec![] },
        Response::Synced { at: 7, errors: vec![error] },
        Response::Outdated { last: 7 },
        Response::Refused(refusal),
        Response::Refused(Refusal::Invalid("x".into())),
    ] {
        assert_eq!(Response::decode(&response.encode()).expect("decodes"), response);
    }
}

#[test]
fn what_is_no_command_is_refused() {
    assert!(matches!(Command::decode(&[]), Err(DecodeError::Malformed(_))));
    assert!(matches!(Command::decode(&[1, 0xc1]), Err(DecodeError::Malformed(_))));
    assert!(matches!(Command::decode(&[2, 0, 0x80]), Err(DecodeError::Malformed(_))));
    assert!(matches!(Command::decode(&[3, 0x80]), Err(DecodeError::Newer { found: 3, known: 2 })));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

/// Bytes that a release has written into logs must be read for ever. What comes after the head is still the same.
#[test]
fn the_format_is_that_of_the_first_release_but_for_its_head() {
    let cases = [
        ("kv set a/b 1 flags=7", expect!["0181a24b7681a353657483a36b6579a3612f62a576616c7565c40131a5666c61677307"]),
        ("kv delete-cas a index=9", expect!["0181a24b7681a944656c65746543617382a36b6579a161a363617309"]),
        (
            "deregister n1 service=web1",
            expect!["0181aa4465726567697374657283a46e6f6465a26e31aa736572766963655f6964a477656231a8636865636b5f6964c0"],
        ),
        (
            "intention web db allow id=i1",
            expect![
                "0181ac536574496e74656e74696f6e8ba24944a26931ab4465736372697074696f6ea0a8536f757263654e53a0aa536f757263654e616d65a3776562ad44657374696e6174696f6e4e53a0af44657374696e6174696f6e4e616d65a26462aa536f7572636554797065a0a6416374696f6ea5616c6c6f77aa507265636564656e636500a9437265617465644174a0a9557064617465644174a0"
            ],
        ),
        ("forget 9", expect!["0181ad466f726765745265766f6b656481ab6265666f72655f7365637309"]),
    ];
    for (line, golden) in cases {
        let encoded = command(line).encode();
        assert_eq!(encoded[..9], [2, 0, 0, 0, 0, 0, 0, 0, 0], "{line}");
        golden.assert_eq(&format!("01{}", hex(&encoded[9..])));
        assert_eq!(Command::decode(&unhex(golden.data())).expect("decodes"), command(line), "{line}");
    }
}

/// The second format: the leader's time stands before the command. A change here is a change of the format.
#[test]
fn the_second_format_has_a_time() {
    let cases = [
        (
            "kv lock a 1 flags=7 session=s1",
            expect![
                "02000000000102030481a24b7681a44c6f636b84a36b6579a161a576616c7565c40131a5666c61677307a773657373696f6ea27331"
            ],
        ),
        (
            "kv unlock a 1 session=s1",
            expect![
                "02000000000102030481a24b7681a6556e6c6f636b84a36b6579a161a576616c7565c40131a5666c61677300a773657373696f6ea27331"
            ],
        ),
        (
            "session s1 n1 checks=serfHealth service-checks=c delay=5s ttl=10s behavior=delete",
            expect![
                "02000000000102030481ad43726561746553657373696f6e88a24944a27331a44e616d65a0a44e6f6465a26e31a94c6f636b44656c6179cf000000012a05f200a84265686176696f72a664656c657465a354544ca3313073aa4e6f6465436865636b7391aa736572664865616c7468ad53657276696365436865636b739182a24944a163a94e616d657370616365a0"
            ],
        ),
        (
            "txn kv set a 1 ; kv check-index b index=7 ; node delete n1",
            expect![
                "02000000000102030481a354786e9381a24b7686a476657262a3736574a36b6579a161a576616c7565c40131a5666c61677300a5696e64657800a773657373696f6ea081a24b7686a476657262ab636865636b2d696e646578a36b6579a162a576616c7565c400a5666c61677300a5696e64657807a773657373696f6ea081a44e6f646583a476657262a664656c657465a46e6f646586a24944a0a44e6f6465a26e31a741646472657373a0aa4461746163656e746572a3646331af54616767656441646472657373657380a44d65746180a5696e64657800"
            ],
        ),
        ("unsession s1", expect!["02000000000102030481ae44657374726f7953657373696f6e81a26964a27331"]),
    ];
    for (line, golden) in cases {
        let stamped = Command::stamp(&command(line).encode(), 0x0102_0304);
        golden.assert_eq(&hex(&stamped));
        assert_eq!(Command::decode(&unhex(golden.data())).expect("decodes"), command(line), "{line}");
        assert_eq!(Command::time_ms(&unhex(golden.data())), 0x0102_0304);
    }
}

#[test]
fn a_command_is_stamped_once_also_one_of_the_first_format() {
    let plain = command("kv set a/b 1 flags=7");
    // As the first release wrote it.
    let first = unhex("0181a24b7681a353657483a36b6579a3612f62a576616c7565c40131a5666c61677307");
    for bytes in [plain.encode(), first, Command::stamp(&plain.encode(), 5)] {
        let stamped = Command::stamp(&bytes, 77);
        assert_eq!(Command::time_ms(&stamped), 77);
        assert_eq!(Command::decode(&stamped).expect("decodes"), plain);
    }
    for none in [&[][..], &[1, 0xc1], &[200, 1, 2]] {
        assert!(Command::decode(&Command::stamp(none, 1)).is_err());
        assert_eq!(Command::time_ms(none), 0);
    }
}

/// Commands whose nouns may get fields: what the first release wrote must mean the same for ever.
#[test]
fn what_the_first_release_wrote_is_understood() {
    let cases = [
        (
            "health n1 alive id=aaa address=10.0.0.1 meta=a:b tagged=lan:10.0.0.1",
            expect![
                "0181ad5365744e6f64654865616c746882a46e6f646586a24944a3616161a44e6f6465a26e31a741646472657373a831302e302e302e31aa4461746163656e746572a3646331af54616767656441646472657373657381a36c616ea831302e302e302e31a44d65746181a161a162a5616c697665c3"
            ],
        ),
        (
            "service n1 p proxy kind=sidecar for=web for-id=web1 port=1 tags=a meta=k:v upstreams=db.dc2:9191 settings=n:1.5 tagged=wan:h",
            expect![
                "0181a8526567697374657284a46e6f646586a24944a0a44e6f6465a26e31a741646472657373a0aa4461746163656e746572a0af54616767656441646472657373657380a44d65746180b0736b69705f6e6f64655f757064617465c3a7736572766963658ba44b696e64ad636f6e6e6563742d70726f7879a24944a170a753657276696365a570726f7879a45461677391a161a741646472657373a0af54616767656441646472657373657381a377616e82a741646472657373a168a4506f727400a44d65746181a16ba176a4506f727401a75765696768747382a750617373696e6701a75761726e696e6701b1456e61626c655461674f76657272696465c2a550726f787984b644657374696e6174696f6e536572766963654e616d65a3776562b444657374696e6174696f6e536572766963654944a477656231a6436f6e66696781a16ecb3ff8000000000000a9557073747265616d739183af44657374696e6174696f6e4e616d65a26462aa4461746163656e746572a3646332ad4c6f63616c42696e64506f7274cd23e7a6636865636b7390"
            ],
        ),
        (
            "check n1 c warning service=web1 output=slow",
            expect![
                "0181a8526567697374657284a46e6f646586a24944a0a44e6f6465a26e31a741646472657373a0aa4461746163656e746572a0af54616767656441646472657373657380a44d65746180b0736b69705f6e6f64655f757064617465c3a773657276696365c0a6636865636b73918ea44e6f6465a0a7436865636b4944a163a44e616d65a163a6537461747573a77761726e696e67a54e6f746573a0a64f7574707574a4736c6f77a9536572766963654944a477656231ab536572766963654e616d65a0ab536572766963655461677390a454797065a0a8496e74657276616ca0a754696d656f7574a0ab4578706f736564506f727400aa446566696e6974696f6e80"
            ],
        ),
        (
            "sync n1 address=10.0.0.1 services=a:web:v1 checks=c:passing:a no-services=x no-checks=y full=yes",
            expect![
                "0181a453796e6386a46e6f646586a24944a0a44e6f6465a26e31a741646472657373a831302e302e302e31aa4461746163656e746572a3646331af54616767656441646472657373657380a44d65746180a873657276696365739188a24944a161a753657276696365a3776562a45461677391a27631a741646472657373a0a44d65746180a4506f727400a75765696768747382a750617373696e6701a75761726e696e6701b1456e61626c655461674f76657272696465c2a6636865636b73918ea44e6f6465a0a7436865636b4944a163a44e616d65a0a6537461747573a770617373696e67a54e6f746573a0a64f7574707574a0a9536572766963654944a161ab536572766963654e616d65a0ab536572766963655461677390a454797065a0a8496e74657276616ca0a754696d656f7574a0ab4578706f736564506f727400aa446566696e6974696f6e80b3646572656769737465725f736572766963657391a178b1646572656769737465725f636865636b7391a179a466756c6cc3"
            ],
        ),
        (
            "config {\"Kind\":\"proxy-defaults\",\"Name\":\"global\",\"Config\":{\"protocol\":\"http\",\"n\":[1,null]}}",
            expect![
                "0181ae536574436f6e666967456e74727982a5656e74727983a44b696e64ae70726f78792d64656661756c7473a44e616d65a6676c6f62616ca6436f6e66696782a16e9201c0a870726f746f636f6ca468747470a3636173c0"
            ],
        ),
        (
            "config-cas 7 {\"Kind\":\"service-defaults\",\"Name\":\"web\",\"Protocol\":\"grpc\"}",
            expect![
                "0181ae536574436f6e666967456e74727982a5656e74727983a44b696e64b0736572766963652d64656661756c7473a44e616d65a3776562a850726f746f636f6ca467727063a363617307"
            ],
        ),
        (
            "ca root1 expected=3",
            expect![
                "0181a5536574436182a8657870656374656403a5737461746584ac74727573745f646f6d61696ea8742e636f6e73756ca5726f6f7473918ca24944a5726f6f7431a44e616d65a0ac53657269616c4e756d62657200ac5369676e696e674b65794944a0b345787465726e616c5472757374446f6d61696ea0a94e6f744265666f7265a0a84e6f744166746572a0a8526f6f7443657274ac50454d206f6620726f6f7431b1496e7465726d6564696174654365727473c0a6416374697665c3ae507269766174654b657954797065a0ae507269766174654b65794269747300a6736563726574c400ad636f6e66696775726174696f6ec400"
            ],
        ),
        (
            "revoke serials=0a ids=x until=9",
            expect!["0181a65265766f6b6583a773657269616c7391a23061a369647391a178aa756e74696c5f7365637309"],
        ),
        (
            "datacenter dc2 servers=a:1 gateways=b:2 primary=yes",
            expect![
                "0181ad5365744461746163656e74657284a44e616d65a3646332a75365727665727391a3613a31a8476174657761797391a3623a32a75072696d617279c3"
            ],
        ),
        (
            "kv put a 1 flags=3",
            expect![
                "0181a24b7681a350757485a34b6579a161a5466c61677303a556616c7565c40131a94c6f636b496e64657801a753657373696f6ec0"
            ],
        ),
    ];
    for (line, golden) in cases {
        if golden.data().is_empty() {
            golden.assert_eq(&hex(&command(line).encode()));
        }
        assert_eq!(Command::decode(&unhex(golden.data())).expect("decodes"), command(line), "{line}");
    }
}

/// A log of the first release lacks fields that later ones have: they take their defaults.
#[test]
fn fields_that_are_missing_take_their_defaults() {
    // {"Register": {"node": {"Node": "n1"}}}
    let old = unhex("0181a8526567697374657281a46e6f646581a44e6f6465a26e31");
    let Command::Register(registration) = Command::decode(&old).expect("decodes") else { panic!("a registration") };
    expect![[r#"Registration { node: Node { id: "", name: "n1", address: "", datacenter: "", tagged_addresses: {}, meta: {}, peer_name: "" }, skip_node_update: false, service: None, checks: [] }"#]]
    .assert_eq(&format!("{registration:?}"));
}

/// A field of a newer release is left out.
#[test]
fn fields_that_are_unknown_are_left_out() {
    // {"Register": {"node": {"Node": "n1"}, "new": 1}}
    let newer = unhex("0181a8526567697374657282a46e6f646581a44e6f6465a26e31a36e657701");
    assert!(matches!(Command::decode(&newer), Ok(Command::Register(_))));
}
