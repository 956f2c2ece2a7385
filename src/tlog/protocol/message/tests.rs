use proptest::prelude::*;
use serde_json::Value;

use super::super::frame::take_frame;
use super::*;
use crate::tlog::vectors::{self, assert_block};

fn take(bytes: &mut BytesMut) -> Frame {
    take_frame(bytes).unwrap().unwrap()
}

/// Decodes one client message after the handshake, compares it with the record and encodes it again into `out`.
fn check_client_message(bytes: &mut BytesMut, recorded: &Value, name: &str, out: &mut BytesMut) {
    let (wire, message) = match recorded["type_byte"].as_u64() {
        Some(kind) => {
            let sent = bytes.split_to(1)[0];
            assert_eq!(u64::from(sent), kind);
            ClientMessage::decode_typed(sent, &take(bytes)).unwrap()
        }
        None => (Wire::Union, ClientMessage::decode_union(&take(bytes)).unwrap()),
    };
    match &message {
        ClientMessage::Block(block) => assert_block(block, recorded, name),
        ClientMessage::ForceFlush(sequence) => {
            assert_eq!(*sequence, recorded["sequence"].as_u64().unwrap());
        }
        ClientMessage::WaitSlaveSync => assert!(
            recorded["kind"] == "wait nbd slave sync" || recorded["command_type"] == 3,
            "{name}"
        ),
        ClientMessage::Disconnect => assert_eq!(recorded["kind"], "disconnect"),
    }
    assert!(message.encode(wire, 4096, out));
}

fn check_message(bytes: &mut BytesMut, recorded: &Value, name: &str, out: &mut BytesMut) {
    match recorded["kind"].as_str().unwrap() {
        "handshake request" => {
            let request = HandshakeRequest::decode(&take(bytes)).unwrap();
            assert_eq!(u64::from(request.version), recorded["version"].as_u64().unwrap());
            assert_eq!(request.vdisk_id.as_deref(), recorded["vdisk_id"].as_str());
            assert_eq!(request.first_sequence, recorded["first_sequence"].as_u64().unwrap_or(0));
            let reset = recorded["reset_first_sequence"].as_bool().unwrap_or_default();
            assert_eq!(request.reset, reset);
            assert_eq!(request.family == Family::A, name.starts_with("a-"), "{name}");
            request.encode(out);
        }
        "handshake response" => {
            let response = HandshakeResponse::decode(&take(bytes)).unwrap();
            assert_eq!(i64::from(response.status as i8), recorded["status"].as_i64().unwrap());
            let flushed = recorded["last_flushed_sequence"].as_u64().unwrap_or_default();
            assert_eq!(response.last_flushed_sequence, flushed);
            let wait = recorded["wait_tlog_ready"].as_bool().unwrap_or_default();
            assert_eq!(response.wait_tlog_ready, wait);
            response.encode(out);
        }
        "response" => {
            let response = Response::decode(&take(bytes)).unwrap();
            assert_eq!(i64::from(response.status as i8), recorded["status"].as_i64().unwrap());
            assert_eq!(response.sequences, vectors::sequences(recorded));
            response.encode(out);
        }
        "wait-tlog request" => {
            let id = decode_wait_request(&take(bytes)).unwrap();
            assert_eq!(Some(id.as_str()), recorded["vdisk_id"].as_str());
            encode_wait_request(&id, out);
        }
        "wait-tlog response" => {
            let exists = decode_wait_response(&take(bytes)).unwrap();
            assert_eq!(Some(exists), recorded["exists"].as_bool());
            encode_wait_response(exists, out);
        }
        _ => check_client_message(bytes, recorded, name, out),
    }
}

#[test]
fn every_recorded_message_decodes_to_its_fields_and_encodes_to_its_bytes() {
    for vector in vectors::all() {
        if vector.messages.is_empty() {
            assert_eq!(vector.name, "b-handshake-garbage.c2s");
            continue;
        }
        let mut bytes = BytesMut::from(&vector.bytes[..]);
        let mut out = BytesMut::new();
        for recorded in &vector.messages {
            check_message(&mut bytes, recorded, &vector.name, &mut out);
        }
        assert!(bytes.is_empty(), "{}", vector.name);
        assert_eq!(out[..], vector.bytes[..], "{}", vector.name);
    }
}

#[test]
fn the_recorded_garbage_is_an_error() {
    let mut bytes = BytesMut::from(&vectors::load("b-handshake-garbage.c2s").bytes[..]);
    let decoded = HandshakeRequest::decode(&take(&mut bytes));
    assert!(matches!(decoded, Err(DecodeError::Unreadable { .. })));
}

#[test]
fn bare_blocks_are_told_from_union_messages() {
    let typed = vectors::load("a-block-1.c2s").bytes;
    let bare = ClientMessage::decode_untyped(&take(&mut BytesMut::from(&typed[1..])));
    assert!(matches!(bare, Ok((Wire::Bare, ClientMessage::Block(block))) if block.sequence == 0));
    let union = vectors::load("b-block-1.c2s").bytes;
    let union = ClientMessage::decode_untyped(&take(&mut BytesMut::from(&union[..])));
    assert!(matches!(union, Ok((Wire::Union, ClientMessage::Block(block))) if block.sequence == 1));
}

#[test]
fn a_message_of_several_segments_with_far_pointers_is_read() {
    // One word per segment at first forces the builder to spread the message.
    let mut message = Builder::new(
        HeapAllocator::new()
            .first_segment_words(1)
            .allocation_strategy(capnp::message::AllocationStrategy::FixedSize),
    );
    let mut body = message.init_root::<wire::byte_block::Builder<'_>>();
    body.set_sequence(7);
    body.set_size(4);
    body.set_hash(&[3; 32]);
    body.set_data(b"data");
    let mut out = BytesMut::new();
    put(&mut out, &message);
    let frame = take(&mut out);
    assert!(capnp::message::ReaderSegments::len(&frame) > 1);
    let (wire, message) = ClientMessage::decode_typed(TYPE_BLOCK, &frame).unwrap();
    assert_eq!(wire, Wire::Typed);
    let ClientMessage::Block(block) = message else { panic!("a block was sent") };
    assert_eq!((block.sequence, &block.data[..], block.hash), (7, &b"data"[..], [3; 32]));
}

#[test]
fn structs_shorter_than_known_read_as_zero_and_null_lists_as_empty() {
    // Root struct of no words and no pointers.
    let mut bytes =
        BytesMut::from(&[0, 0, 0, 0, 1, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]);
    let request = HandshakeRequest::decode(&take(&mut bytes)).unwrap();
    assert_eq!((request.version, request.vdisk_id.as_deref()), (0, Some("")));
    // Status 3 and a null list.
    let mut bytes = BytesMut::from(
        &[0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0][..],
    );
    bytes.extend_from_slice(&[0; 8]);
    assert_eq!(Response::decode(&take(&mut bytes)), Ok(Response::of(Status::ForceFlushReceived)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn changed_bytes_never_panic(
        which in 0..74_usize,
        changes in prop::collection::vec((0..300_usize, any::<u8>()), 1..6),
    ) {
        static ALL: std::sync::LazyLock<Vec<vectors::Vector>> = std::sync::LazyLock::new(vectors::all);
        let vector = &ALL[which];
        let mut bytes = vector.bytes[..vector.bytes.len().min(4400)].to_vec();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        for skip in [0, 1] {
            let mut buffer = BytesMut::from(&bytes[skip..]);
            while let Ok(Some(frame)) = take_frame(&mut buffer) {
                let _ = HandshakeRequest::decode(&frame);
                let _ = HandshakeResponse::decode(&frame);
                let _ = Response::decode(&frame);
                let _ = ClientMessage::decode_union(&frame);
                let _ = ClientMessage::decode_untyped(&frame);
                for kind in 0..5 {
                    let _ = ClientMessage::decode_typed(kind, &frame);
                }
            }
        }
    }
}
