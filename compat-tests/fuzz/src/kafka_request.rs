//! Requests of any bytes: what the guard lets through, the decoder behind it takes without a panic or much memory.

use bytes::Bytes;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    FetchRequest, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader,
};
use kafka_protocol::protocol::Decodable;
use tlog::kafka::protocol::{guard, peek};

/// One input: a request with its header. Whether the decoder took it.
pub fn run(input: &[u8]) -> bool {
    drop(peek(input));
    let [k0, k1, v0, v1, ..] = *input else { return false };
    let (key, version) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]));
    if guard::weigh(key, version, input).is_err() {
        return false;
    }
    let Ok(api_key) = ApiKey::try_from(key) else { return false };
    let mut bytes = Bytes::copy_from_slice(input);
    if RequestHeader::decode(&mut bytes, api_key.request_header_version(version)).is_err() {
        return false;
    }
    match api_key {
        ApiKey::Produce => decodes::<ProduceRequest>(bytes, version),
        ApiKey::Fetch => decodes::<FetchRequest>(bytes, version),
        ApiKey::ListOffsets => decodes::<ListOffsetsRequest>(bytes, version),
        ApiKey::Metadata => decodes::<MetadataRequest>(bytes, version),
        ApiKey::FindCoordinator => decodes::<FindCoordinatorRequest>(bytes, version),
        ApiKey::ApiVersions => decodes::<ApiVersionsRequest>(bytes, version),
        ApiKey::CreateTopics => decodes::<CreateTopicsRequest>(bytes, version),
        ApiKey::DeleteTopics => decodes::<DeleteTopicsRequest>(bytes, version),
        ApiKey::DeleteRecords => decodes::<DeleteRecordsRequest>(bytes, version),
        ApiKey::InitProducerId => decodes::<InitProducerIdRequest>(bytes, version),
        ApiKey::OffsetForLeaderEpoch => decodes::<OffsetForLeaderEpochRequest>(bytes, version),
        other => panic!("the guard lets {other:?} through, and it is not decoded here"),
    }
}

fn decodes<T: Decodable>(mut bytes: Bytes, version: i16) -> bool {
    T::decode(&mut bytes, version).is_ok()
}
