//! Requests of any bytes: what the guard lets through, the decoder behind it takes without a panic or much memory.
#![no_main]

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestHeader, RequestKind};
use kafka_protocol::protocol::Decodable as _;
use libfuzzer_sys::fuzz_target;
use tlog::kafka::protocol::{guard, peek};

fuzz_target!(|input: &[u8]| {
    drop(peek(input));
    let [k0, k1, v0, v1, ..] = *input else { return };
    let (key, version) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]));
    if guard::weigh(key, version, input).is_err() {
        return;
    }
    let Ok(api_key) = ApiKey::try_from(key) else { return };
    let mut bytes = Bytes::copy_from_slice(input);
    if RequestHeader::decode(&mut bytes, api_key.request_header_version(version)).is_ok() {
        drop(RequestKind::decode(api_key, &mut bytes, version));
    }
});
