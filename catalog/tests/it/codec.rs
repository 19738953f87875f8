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
    let error = ItemError {
        kind: ItemKind::Check,
        id: "c".into(),
        message: "no".into(),
    };
    let refusal = Refusal::NoSuchService {
        check_id: "c".into(),
        service_id: "s".into(),
    };
    for response in [
        Response::Done,
        Response::CasFailed,
        Response::Synced(vec![]),
        Response::Synced(vec![error]),
        Response::Refused(refusal),
        Response::Refused(Refusal::Invalid("x".into())),
    ] {
        assert_eq!(
            Response::decode(&response.encode()).expect("decodes"),
            response
        );
    }
}

#[test]
fn what_is_no_command_is_refused() {
    assert!(matches!(
        Command::decode(&[]),
        Err(DecodeError::Malformed(_))
    ));
    assert!(matches!(
        Command::decode(&[1, 0xc1]),
        Err(DecodeError::Malformed(_))
    ));
    assert!(matches!(
        Command::decode(&[2, 0x80]),
        Err(DecodeError::Newer { found: 2, known: 1 })
    ));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex"))
        .collect()
}

/// Bytes that a release has written into logs must be read for ever. A change here is a change of the format.
#[test]
fn the_format_is_that_of_the_first_release() {
    let cases = [
        (
            "kv set a/b 1 flags=7",
            expect!["0181a24b7681a353657483a36b6579a3612f62a576616c7565c40131a5666c61677307"],
        ),
        (
            "kv delete-cas a index=9",
            expect!["0181a24b7681a944656c65746543617382a36b6579a161a363617309"],
        ),
        (
            "deregister n1 service=web1",
            expect![
                "0181aa4465726567697374657283a46e6f6465a26e31aa736572766963655f6964a477656231a8636865636b5f6964c0"
            ],
        ),
        (
            "intention web db allow id=i1",
            expect![
                "0181ac536574496e74656e74696f6e8ba24944a26931ab4465736372697074696f6ea0a8536f757263654e53a0aa536f757263654e616d65a3776562ad44657374696e6174696f6e4e53a0af44657374696e6174696f6e4e616d65a26462aa536f7572636554797065a0a6416374696f6ea5616c6c6f77aa507265636564656e636500a9437265617465644174a0a9557064617465644174a0"
            ],
        ),
        (
            "forget 9",
            expect!["0181ad466f726765745265766f6b656481ab6265666f72655f7365637309"],
        ),
    ];
    for (line, golden) in cases {
        golden.assert_eq(&hex(&command(line).encode()));
        assert_eq!(
            Command::decode(&unhex(golden.data())).expect("decodes"),
            command(line),
            "{line}"
        );
    }
}

/// A log of the first release lacks fields that later ones have: they take their defaults.
#[test]
fn fields_that_are_missing_take_their_defaults() {
    // {"Register": {"node": {"Node": "n1"}}}
    let old = unhex("0181a8526567697374657281a46e6f646581a44e6f6465a26e31");
    let Command::Register(registration) = Command::decode(&old).expect("decodes") else {
        panic!("a registration")
    };
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
