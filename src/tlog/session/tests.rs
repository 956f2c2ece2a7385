use proptest::prelude::*;

use super::*;
use crate::tlog::vectors;

fn events(session: &mut Session, bytes: &[u8]) -> Result<Vec<Event>, Violation> {
    session.input().extend_from_slice(bytes);
    let mut events = Vec::new();
    while let Some(event) = session.next_event()? {
        events.push(event);
    }
    Ok(events)
}

/// A session attached with the recorded handshake.
fn attached(handshake: &str) -> Session {
    let mut session = Session::new();
    let said = events(&mut session, &vectors::load(handshake).bytes).unwrap();
    assert!(matches!(said[..], [Event::Handshake(_)]));
    session.answer_handshake(HandshakeStatus::Ok, 0, &mut BytesMut::new());
    session
}

fn sequences(events: &[Event]) -> Vec<u64> {
    events
        .iter()
        .map(|event| match event {
            Event::Block(block) => block.sequence,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn refusals_are_answered_with_the_recorded_bytes() {
    for name in [
        "a-handshake-head-version",
        "a-handshake-old-version",
        "b-handshake-old-version",
        "b-handshake-garbage",
    ] {
        let mut session = Session::new();
        let asked = vectors::load(&format!("{name}.c2s")).bytes;
        let violation = events(&mut session, &asked).unwrap_err();
        let mut out = BytesMut::new();
        session.end(Some(&violation), &mut out);
        assert_eq!(out[..], vectors::load(&format!("{name}.s2c")).bytes[..], "{name}");
    }
}

#[test]
fn versions_are_judged_by_the_numbering_of_the_family() {
    let ask = |family, version| {
        let request = HandshakeRequest {
            family,
            version,
            vdisk_id: Some("v".into()),
            first_sequence: 0,
            reset: false,
        };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        events(&mut Session::new(), &bytes).is_ok()
    };
    for stage in [0, 1, 2, 4, 8, 16] {
        assert!(ask(Family::A, 0x0101_0000 + stage), "1.1.0 of any stage");
        assert!(!ask(Family::A, 0x0100_0000 + stage), "1.0.0 of any stage");
    }
    assert!(ask(Family::A, 0x0200_0001));
    assert!(!ask(Family::A, 0x0001_0100));
    assert!(ask(Family::B, 0x0001_0100));
    assert!(ask(Family::B, 0x0101_0008), "the old numbering is numerically huge");
    assert!(!ask(Family::B, 0x0001_0000));
}

#[test]
fn ids_that_cannot_name_a_topic_are_refused_by_their_own_status() {
    for id in ["", "a b", "__groups", &"x".repeat(250), "."] {
        for family in [Family::A, Family::B] {
            let mut bytes = BytesMut::new();
            let version = if family == Family::A { 0x0101_0008 } else { VERSION_B };
            let vdisk_id = Some(id.to_owned());
            HandshakeRequest { family, version, vdisk_id, first_sequence: 0, reset: false }
                .encode(&mut bytes);
            let mut session = Session::new();
            let violation = events(&mut session, &bytes).unwrap_err();
            let mut out = BytesMut::new();
            session.end(Some(&violation), &mut out);
            let frame = take_frame(&mut out).unwrap().unwrap();
            let response = HandshakeResponse::decode(&frame).unwrap();
            assert_eq!(response.status, HandshakeStatus::InvalidVdiskId);
            assert_eq!(response.family, family);
        }
    }
}

#[test]
fn every_wire_is_told_apart_by_its_bytes() {
    let blocks = vectors::load("a-flush-25.c2s");
    let mut typed = attached("a-handshake-ok.c2s");
    assert_eq!(sequences(&events(&mut typed, &blocks.bytes).unwrap()), (0..25).collect::<Vec<_>>());

    // Without the type bytes it is the oldest wire.
    let bare: Vec<u8> =
        blocks.bytes.chunks(4201).flat_map(|message| message[1..].to_vec()).collect();
    let mut oldest = attached("a-handshake-ok.c2s");
    assert_eq!(sequences(&events(&mut oldest, &bare).unwrap()), (0..25).collect::<Vec<_>>());

    let union = vectors::load("b-flush-25.c2s").bytes;
    for handshake in ["b-handshake-ok.c2s", "a-handshake-ok.c2s"] {
        let mut session = attached(handshake);
        let said = events(&mut session, &union).unwrap();
        assert_eq!(sequences(&said), (1..26).collect::<Vec<_>>(), "{handshake}");
    }
}

#[test]
fn a_change_of_wire_within_a_connection_is_a_violation() {
    let typed = vectors::load("a-block-1.c2s").bytes;
    let union = vectors::load("b-block-1.c2s").bytes;
    for (first, second) in [
        (&typed[..], &union[..]),
        (&typed[1..], &union[..]),
        (&union[..], &typed[1..]),
        (&typed[..], &typed[1..]),
    ] {
        let mut session = attached("a-handshake-ok.c2s");
        assert_eq!(events(&mut session, first).unwrap().len(), 1);
        assert_eq!(events(&mut session, second), Err(Violation::MixedWires));
    }
    let mut session = attached("a-handshake-ok.c2s");
    assert_eq!(events(&mut session, &[4]), Err(Violation::UnknownType { kind: 4 }));
}

#[test]
fn messages_sent_before_the_handshake_is_answered_wait() {
    let mut session = Session::new();
    let mut bytes = vectors::load("b-handshake-ok.c2s").bytes;
    bytes.extend_from_slice(&vectors::load("b-block-1.c2s").bytes);
    assert_eq!(events(&mut session, &bytes).unwrap().len(), 1);
    let mut out = BytesMut::new();
    session.answer_handshake(HandshakeStatus::Ok, 0, &mut out);
    assert_eq!(out[..], vectors::load("b-handshake-ok.s2c").bytes[..]);
    assert_eq!(sequences(&events(&mut session, &[]).unwrap()), [1]);
}

#[test]
fn only_clients_that_know_disconnected_are_told() {
    let mut out = BytesMut::new();
    attached("b-handshake-ok.c2s").end(None, &mut out);
    assert_eq!(out[..], vectors::load("b-block-bad-hash.s2c").bytes[..]);
    out.clear();
    attached("a-handshake-ok.c2s").end(None, &mut out);
    assert!(out.is_empty());

    let mut session = attached("b-handshake-ok.c2s");
    let said = events(&mut session, &vectors::load("b-disconnect.c2s").bytes).unwrap();
    assert_eq!(said, [Event::Disconnect]);
    session.end_by_client(&mut out);
    assert_eq!(out[..], vectors::load("b-disconnect.s2c").bytes[..]);
    session.end(None, &mut out);
    assert_eq!(out.len(), 32, "said once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_events_do_not_depend_on_how_the_bytes_arrive(
        cuts in prop::collection::vec(1..5000_usize, 1..40),
        old in any::<bool>(),
    ) {
        let (handshake, stream) = if old {
            ("a-handshake-ok.c2s", "a-force-flush-at-seq.c2s")
        } else {
            ("b-handshake-ok.c2s", "b-force-flush-at-seq.c2s")
        };
        let bytes = vectors::load(stream).bytes;
        let whole = events(&mut attached(handshake), &bytes).unwrap();
        let mut session = attached(handshake);
        let mut parts = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            parts.extend(events(&mut session, part).unwrap());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(parts, whole);
    }
}
