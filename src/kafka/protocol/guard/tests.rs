//! Random requests are made with the crate's own types and encoder, so that a row of the table which is wrong, missing or
//! too much makes the walk end elsewhere than the bytes do.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{
    FetchPartition, FetchTopic, ForgottenTopic, ReplicaState,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    FetchRequest, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn check(api_key: i16, version: i16, frame: &[u8]) -> Result<(), GuardError> {
    weigh(api_key, version, frame).map(drop)
}

/// Random values from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
    fn i8(&mut self) -> i8 {
        self.next() as i8
    }
    fn i16(&mut self) -> i16 {
        self.next() as i16
    }
    fn i32(&mut self) -> i32 {
        self.next() as i32
    }
    fn i64(&mut self) -> i64 {
        self.next() as i64
    }
    fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
    fn text(&mut self) -> StrBytes {
        // Now and then a length that takes two bytes as a varint.
        let most = if self.below(8) == 0 { 200 } else { 8 };
        let length = self.below(most);
        let text: String = (0..length).map(|_| char::from(b'a' + self.below(26) as u8)).collect();
        StrBytes::from_string(text)
    }
    fn bytes(&mut self) -> Bytes {
        (0..self.below(200)).map(|_| self.next() as u8).collect::<Vec<_>>().into()
    }
    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.coin().then(|| make(self))
    }
    fn many<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }
    /// Tagged fields of the future.
    fn tags(&mut self, version: i16, flexible_since: i16) -> BTreeMap<i32, Bytes> {
        if version < flexible_since || self.coin() {
            return BTreeMap::new();
        }
        (0..self.below(3)).map(|_| (10 + self.below(1_000) as i32, self.bytes())).collect()
    }
}

/// A message of the crate with these fields set.
macro_rules! message {
    ($type:ty { $($field:ident: $value:expr),* $(,)? }) => {{
        let mut message = <$type>::default();
        $(message.$field = $value;)*
        message
    }};
}

/// The value in versions that have the field, else its default.
macro_rules! when {
    ($has:expr, $value:expr, $default:expr) => {
        if $has { $value } else { $default }
    };
}

fn produce(d: &mut Dice, v: i16) -> ProduceRequest {
    message!(ProduceRequest {
        transactional_id: d.maybe(|d| d.text().into()),
        acks: d.i16(),
        timeout_ms: d.i32(),
        topic_data: d.many(|d| message!(TopicProduceData {
            name: d.text().into(),
            partition_data: d.many(|d| message!(PartitionProduceData {
                index: d.i32(),
                records: d.maybe(Dice::bytes),
                unknown_tagged_fields: d.tags(v, 9),
            })),
            unknown_tagged_fields: d.tags(v, 9),
        })),
        unknown_tagged_fields: d.tags(v, 9),
    })
}

fn fetch(d: &mut Dice, v: i16) -> FetchRequest {
    let name = |d: &mut Dice| when!(v <= 12, d.text().into(), Default::default());
    let id = |d: &mut Dice| when!(v >= 13, d.uuid(), Uuid::nil());
    let partition = |d: &mut Dice| {
        message!(FetchPartition {
            partition: d.i32(),
            current_leader_epoch: when!(v >= 9, d.i32(), -1),
            fetch_offset: d.i64(),
            last_fetched_epoch: when!(v >= 12, d.i32(), -1),
            log_start_offset: when!(v >= 5, d.i64(), -1),
            partition_max_bytes: d.i32(),
            replica_directory_id: when!(v >= 17 && d.coin(), d.uuid(), Uuid::nil()),
            unknown_tagged_fields: d.tags(v, 12),
        })
    };
    let state = |d: &mut Dice| {
        message!(ReplicaState {
            replica_id: d.i32().into(),
            replica_epoch: d.i64(),
            unknown_tagged_fields: d.tags(v, 12),
        })
    };
    message!(FetchRequest {
        cluster_id: when!(v >= 12, d.maybe(Dice::text), None),
        replica_id: when!(v <= 14, d.i32().into(), (-1).into()),
        replica_state: when!(v >= 15 && d.coin(), state(d), Default::default()),
        max_wait_ms: d.i32(),
        min_bytes: d.i32(),
        max_bytes: d.i32(),
        isolation_level: d.i8(),
        session_id: when!(v >= 7, d.i32(), 0),
        session_epoch: when!(v >= 7, d.i32(), -1),
        topics: d.many(|d| message!(FetchTopic {
            topic: name(d),
            topic_id: id(d),
            partitions: d.many(partition),
            unknown_tagged_fields: d.tags(v, 12),
        })),
        forgotten_topics_data: when!(
            v >= 7,
            d.many(|d| message!(ForgottenTopic {
                topic: name(d),
                topic_id: id(d),
                partitions: d.many(Dice::i32),
                unknown_tagged_fields: d.tags(v, 12),
            })),
            vec![]
        ),
        rack_id: when!(v >= 11, d.text(), Default::default()),
        unknown_tagged_fields: d.tags(v, 12),
    })
}

fn list_offsets(d: &mut Dice, v: i16) -> ListOffsetsRequest {
    message!(ListOffsetsRequest {
        replica_id: d.i32().into(),
        isolation_level: when!(v >= 2, d.i8(), 0),
        topics: d.many(|d| message!(ListOffsetsTopic {
            name: d.text().into(),
            partitions: d.many(|d| message!(ListOffsetsPartition {
                partition_index: d.i32(),
                current_leader_epoch: when!(v >= 4, d.i32(), -1),
                timestamp: d.i64(),
                unknown_tagged_fields: d.tags(v, 6),
            })),
            unknown_tagged_fields: d.tags(v, 6),
        })),
        timeout_ms: when!(v >= 10, d.i32(), 0),
        unknown_tagged_fields: d.tags(v, 6),
    })
}

fn metadata(d: &mut Dice, v: i16) -> MetadataRequest {
    let topic = |d: &mut Dice| {
        message!(MetadataRequestTopic {
            topic_id: when!(v >= 10, d.uuid(), Uuid::nil()),
            name: when!(v >= 10 && d.coin(), None, Some(d.text().into())),
            unknown_tagged_fields: d.tags(v, 9),
        })
    };
    message!(MetadataRequest {
        topics: when!(v >= 1 && d.coin(), None, Some(d.many(topic))),
        allow_auto_topic_creation: when!(v >= 4, d.coin(), true),
        include_cluster_authorized_operations: (8..=10).contains(&v) && d.coin(),
        include_topic_authorized_operations: v >= 8 && d.coin(),
        unknown_tagged_fields: d.tags(v, 9),
    })
}

fn find_coordinator(d: &mut Dice, v: i16) -> FindCoordinatorRequest {
    message!(FindCoordinatorRequest {
        key: when!(v <= 3, d.text(), Default::default()),
        key_type: when!(v >= 1, d.i8(), 0),
        coordinator_keys: when!(v >= 4, d.many(Dice::text), vec![]),
        unknown_tagged_fields: d.tags(v, 3),
    })
}

fn api_versions(d: &mut Dice, v: i16) -> ApiVersionsRequest {
    message!(ApiVersionsRequest {
        client_software_name: when!(v >= 3, d.text(), Default::default()),
        client_software_version: when!(v >= 3, d.text(), Default::default()),
        unknown_tagged_fields: d.tags(v, 3),
    })
}

fn create_topics(d: &mut Dice, v: i16) -> CreateTopicsRequest {
    let assignment = |d: &mut Dice| {
        message!(CreatableReplicaAssignment {
            partition_index: d.i32(),
            broker_ids: d.many(|d| d.i32().into()),
            unknown_tagged_fields: d.tags(v, 5),
        })
    };
    let config = |d: &mut Dice| {
        message!(CreatableTopicConfig {
            name: d.text(),
            value: d.maybe(Dice::text),
            unknown_tagged_fields: d.tags(v, 5),
        })
    };
    message!(CreateTopicsRequest {
        topics: d.many(|d| message!(CreatableTopic {
            name: d.text().into(),
            num_partitions: d.i32(),
            replication_factor: d.i16(),
            assignments: d.many(assignment),
            configs: d.many(config),
            unknown_tagged_fields: d.tags(v, 5),
        })),
        timeout_ms: d.i32(),
        validate_only: d.coin(),
        unknown_tagged_fields: d.tags(v, 5),
    })
}

fn delete_topics(d: &mut Dice, v: i16) -> DeleteTopicsRequest {
    message!(DeleteTopicsRequest {
        topics: when!(
            v >= 6,
            d.many(|d| message!(DeleteTopicState {
                name: d.maybe(|d| d.text().into()),
                topic_id: d.uuid(),
                unknown_tagged_fields: d.tags(v, 4),
            })),
            vec![]
        ),
        topic_names: when!(v <= 5, d.many(|d| d.text().into()), vec![]),
        timeout_ms: d.i32(),
        unknown_tagged_fields: d.tags(v, 4),
    })
}

fn delete_records(d: &mut Dice, v: i16) -> DeleteRecordsRequest {
    message!(DeleteRecordsRequest {
        topics: d.many(|d| message!(DeleteRecordsTopic {
            name: d.text().into(),
            partitions: d.many(|d| message!(DeleteRecordsPartition {
                partition_index: d.i32(),
                offset: d.i64(),
                unknown_tagged_fields: d.tags(v, 2),
            })),
            unknown_tagged_fields: d.tags(v, 2),
        })),
        timeout_ms: d.i32(),
        unknown_tagged_fields: d.tags(v, 2),
    })
}

fn init_producer_id(d: &mut Dice, v: i16) -> InitProducerIdRequest {
    message!(InitProducerIdRequest {
        transactional_id: d.maybe(|d| d.text().into()),
        transaction_timeout_ms: d.i32(),
        producer_id: when!(v >= 3, d.i64().into(), (-1).into()),
        producer_epoch: when!(v >= 3, d.i16(), -1),
        unknown_tagged_fields: d.tags(v, 2),
    })
}

fn offset_for_leader_epoch(d: &mut Dice, v: i16) -> OffsetForLeaderEpochRequest {
    message!(OffsetForLeaderEpochRequest {
        replica_id: when!(v >= 3, d.i32().into(), (-2).into()),
        topics: d.many(|d| message!(OffsetForLeaderTopic {
            topic: d.text().into(),
            partitions: d.many(|d| message!(OffsetForLeaderPartition {
                partition: d.i32(),
                current_leader_epoch: d.i32(),
                leader_epoch: d.i32(),
                unknown_tagged_fields: d.tags(v, 4),
            })),
            unknown_tagged_fields: d.tags(v, 4),
        })),
        unknown_tagged_fields: d.tags(v, 4),
    })
}

/// Calls `$do!(maker, type)` with those of an API key.
macro_rules! with_request {
    ($key:expr, $do:ident) => {
        match ApiKey::try_from($key).unwrap() {
            ApiKey::Produce => $do!(produce, ProduceRequest),
            ApiKey::Fetch => $do!(fetch, FetchRequest),
            ApiKey::ListOffsets => $do!(list_offsets, ListOffsetsRequest),
            ApiKey::Metadata => $do!(metadata, MetadataRequest),
            ApiKey::FindCoordinator => $do!(find_coordinator, FindCoordinatorRequest),
            ApiKey::ApiVersions => $do!(api_versions, ApiVersionsRequest),
            ApiKey::CreateTopics => $do!(create_topics, CreateTopicsRequest),
            ApiKey::DeleteTopics => $do!(delete_topics, DeleteTopicsRequest),
            ApiKey::DeleteRecords => $do!(delete_records, DeleteRecordsRequest),
            ApiKey::InitProducerId => $do!(init_producer_id, InitProducerIdRequest),
            ApiKey::OffsetForLeaderEpoch => {
                $do!(offset_for_leader_epoch, OffsetForLeaderEpochRequest)
            }
            other => panic!("{other:?} is in the table and has no random messages here"),
        }
    };
}

/// A random request, header and body, from the crate's encoder.
fn encoded(key: i16, version: i16, dice: &mut Dice) -> Vec<u8> {
    let header_version = ApiKey::try_from(key).unwrap().request_header_version(version);
    let header = message!(RequestHeader {
        request_api_key: key,
        request_api_version: version,
        correlation_id: dice.i32(),
        client_id: dice.maybe(Dice::text),
        unknown_tagged_fields: dice.tags(header_version, 2),
    });
    let mut frame = BytesMut::new();
    header.encode(&mut frame, header_version).unwrap();
    macro_rules! encode {
        ($make:ident, $type:ty) => {
            $make(dice, version).encode(&mut frame, version).unwrap()
        };
    }
    with_request!(key, encode);
    frame.to_vec()
}

/// Decodes header and body as the connection would; true when all bytes were taken.
fn decodes(key: i16, version: i16, frame: &[u8]) -> bool {
    let mut frame = Bytes::copy_from_slice(frame);
    let header_version = ApiKey::try_from(key).unwrap().request_header_version(version);
    if RequestHeader::decode(&mut frame, header_version).is_err() {
        return false;
    }
    macro_rules! decode {
        ($make:ident, $type:ty) => {
            <$type>::decode(&mut frame, version).is_ok()
        };
    }
    with_request!(key, decode) && frame.is_empty()
}

/// Every key and version of the table.
fn served() -> Vec<(i16, i16)> {
    REQUESTS.iter().flat_map(|r| r.versions.clone().map(move |v| (r.key, v))).collect()
}

/// Every count and length of a request: its place, the bytes left behind it, the least per one, its form.
fn numbers(key: i16, version: i16, frame: &[u8]) -> Vec<(usize, usize, usize, Form)> {
    let mut found = Vec::new();
    walk(key, version, frame, |at, left, least, form| found.push((at, left, least, form))).unwrap();
    found
}

/// The frame with another number in this place.
fn with_number(frame: &[u8], at: usize, form: Form, number: i64) -> Vec<u8> {
    let varint = |mut raw: u32| {
        let mut out = Vec::new();
        while raw >= 0x80 {
            out.push(raw as u8 | 0x80);
            raw >>= 7;
        }
        out.push(raw as u8);
        out
    };
    let bytes = match form {
        Form::Short => (number.min(i64::from(i16::MAX)) as i16).to_be_bytes().to_vec(),
        Form::Long => (number as i32).to_be_bytes().to_vec(),
        Form::Compact => varint((number + 1) as u32),
        Form::Varint => varint(number as u32),
    };
    let width = match form {
        Form::Short => 2,
        Form::Long => 4,
        Form::Compact | Form::Varint => {
            frame[at..].iter().position(|byte| *byte < 0x80).unwrap() + 1
        }
    };
    [&frame[..at], &bytes, &frame[at + width..]].concat()
}

/// As recorded from librdkafka 2.16.0: null for all topics, in four bytes.
#[test]
fn a_request_for_all_topics_of_librdkafka_passes() {
    let body = b"\0\x03\0\x0d\0\0\0\x03\0\x07rdkafka\0\0\0\0\0\x01\0\0";
    assert_eq!(check(3, 13, body), Ok(()));
    assert!(decodes(3, 13, &body[..body.len() - 3]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_the_encoder_makes_is_walked_to_its_end(seed: u64) {
        for (key, version) in served() {
            let frame = encoded(key, version, &mut Dice(seed));
            let found = check(key, version, &frame);
            prop_assert_eq!(found, Ok(()), "key {} version {}: {:02x?}", key, version, frame);
            prop_assert!(decodes(key, version, &frame));
            let longer = [&frame[..], &[0]].concat();
            let found = check(key, version, &longer);
            prop_assert_eq!(found, Ok(()), "key {} version {}", key, version);
            prop_assert!(check(key, version, &frame[..frame.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_count_or_length_beyond_the_bytes_left_is_refused(seed: u64) {
        for (key, version) in served() {
            let frame = encoded(key, version, &mut Dice(seed));
            for (at, left, least, form) in numbers(key, version, &frame) {
                let one_too_many = (left / least) as i64 + 1;
                for number in [i64::from(i32::MAX), -2, one_too_many] {
                    let lying = with_number(&frame, at, form, number);
                    let found = check(key, version, &lying);
                    prop_assert!(
                        found.is_err(),
                        "key {} version {} at {}: {:?} {}", key, version, at, form, number
                    );
                }
            }
        }
    }

    #[test]
    fn what_the_guard_lets_through_the_crate_survives(
        seed: u64,
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        small in prop::collection::vec(0u8..6, 0..80),
    ) {
        let mut dice = Dice(seed);
        for (key, version) in served() {
            let flexible = ApiKey::try_from(key).unwrap().request_header_version(version) == 2;
            let mut start = [key.to_be_bytes(), version.to_be_bytes()].concat();
            start.extend_from_slice(&[0, 0, 0, 1, 0, 0]);
            start.extend_from_slice(if flexible { &[0] } else { &[] });
            let mut damaged = encoded(key, version, &mut dice);
            for _ in 0..=dice.below(3) {
                let at = 8 + dice.below(damaged.len() as u64 - 8) as usize;
                damaged[at] = if dice.coin() { dice.next() as u8 } else { dice.below(4) as u8 };
            }
            let made = [[&start[..], &bytes].concat(), [&start[..], &small].concat(), damaged];
            for frame in made {
                if check(key, version, &frame).is_ok() {
                    // True or false: texts need not be UTF-8. It returns, and that is all.
                    decodes(key, version, &frame);
                }
            }
        }
    }
}

#[test]
fn the_table_agrees_with_the_crate() {
    let mut keys: Vec<_> = REQUESTS.iter().map(|request| request.key).collect();
    keys.dedup();
    assert_eq!(keys.len(), REQUESTS.len());
    assert!(keys.is_sorted());
    for request in &REQUESTS {
        let api = ApiKey::try_from(request.key).unwrap();
        let valid = api.valid_versions();
        assert!(*request.versions.start() >= valid.min && *request.versions.end() <= valid.max);
        for version in request.versions.clone() {
            let flexible = api.request_header_version(version) == 2;
            assert_eq!(request.is_flexible(version), flexible, "{api:?} {version}");
            assert_elements_take_bytes(request.fields, version, flexible);
        }
    }
}

/// The guard divides by the least size of an element.
fn assert_elements_take_bytes(fields: &[Field], version: i16, flexible: bool) {
    for field in fields.iter().filter(|field| field.is_in(version)) {
        let mut kind = &field.kind;
        if let Kind::Array { element, memory } = kind {
            kind = element;
            assert!(*memory > 0, "{}", field.name);
            assert!(kind.least_bytes(version, flexible) > 0, "{}", field.name);
        }
        if let Kind::Struct(fields) = kind {
            assert_elements_take_bytes(fields, version, flexible);
        }
    }
}

#[test]
fn the_table_covers_what_is_served() {
    for (key, range) in [
        (ApiKey::Produce, 3..=11),
        (ApiKey::Fetch, 4..=17),
        (ApiKey::ListOffsets, 1..=10),
        (ApiKey::Metadata, 0..=13),
        (ApiKey::FindCoordinator, 0..=6),
        (ApiKey::ApiVersions, 0..=4),
        (ApiKey::CreateTopics, 2..=7),
        (ApiKey::DeleteTopics, 1..=6),
        (ApiKey::DeleteRecords, 0..=2),
        (ApiKey::InitProducerId, 0..=5),
        (ApiKey::OffsetForLeaderEpoch, 2..=4),
    ] {
        assert_eq!(versions(key as i16), Some(range), "{key:?}");
    }
    assert_eq!(versions(-1), None);
}

#[test]
fn fourteen_bytes_do_not_end_the_process() {
    // Metadata v3 with an empty client id and 1,090,556,160 topics.
    let frame = [0, 3, 0, 3, 0, 0, 0, 0, 0, 0, 0x41, 0x00, 0x91, 0x00];
    let number = 0x4100_9100;
    let expected = GuardError::Number { field: "topics", number, left: 0 };
    assert_eq!(check(3, 3, &frame), Err(expected));
}

/// A Metadata v9 request with this body.
fn metadata_v9(body: &[u8]) -> Vec<u8> {
    [&[0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0][..], body].concat()
}

#[test]
fn numbers_are_held_to_their_forms() {
    // Two bytes short of the one topic's name; a null name; a varint that never ends; one of 33 bits.
    let check = |body: &[u8]| check(3, 9, &metadata_v9(body));
    let left = 4;
    assert_eq!(check(&[1, 1, 0, 0, 0]), Ok(()));
    assert_eq!(
        check(&[2, 8, b'a', 1, 0, 0]),
        Err(GuardError::Number { field: "name", number: 7, left })
    );
    assert_eq!(check(&[2, 0, 0, 1, 0, 0, 0]), Err(GuardError::Null { field: "name" }));
    assert_eq!(check(&[0xff; 6]), Err(GuardError::Varint { field: "topics" }));
    assert_eq!(check(&[0xff, 0xff, 0xff, 0xff, 0x10]), Err(GuardError::Varint { field: "topics" }));
    assert_eq!(
        check(&[1, 1]),
        Err(GuardError::Truncated { field: "include_cluster_authorized_operations" })
    );
    let mut long = vec![2, 0x81, 0x80, 0x02];
    long.resize(4 + 32_768, b'a');
    long.extend_from_slice(&[0, 1, 0, 0, 0]);
    assert_eq!(check(&long), Err(GuardError::LongString { field: "name", length: 32_768 }));
}

#[test]
fn the_header_must_be_that_of_the_request() {
    let frame = metadata_v9(&[1, 1, 0, 0, 0]);
    assert_eq!(check(3, 8, &frame), Err(GuardError::OtherRequest { api_key: 3, version: 8 }));
    assert_eq!(check(3, 14, &frame), Err(GuardError::NotServed { api_key: 3, version: 14 }));
    assert_eq!(check(77, 0, &frame), Err(GuardError::NotServed { api_key: 77, version: 0 }));
    assert!(check(3, 9, &frame[..5]).is_err());
}

#[test]
fn a_known_tag_is_as_long_as_it_says() {
    // Fetch v15 without topics; then one tag: the replica state of 13 bytes.
    let fetch = |size: u8, bytes: usize| {
        let mut frame = vec![0, 1, 0, 15, 0, 0, 0, 1, 0, 0, 0];
        frame.extend_from_slice(&[0; 13 + 8]);
        frame.extend_from_slice(&[1, 1, 1, 1, 1, size]);
        frame.resize(frame.len() + bytes, 0);
        check(1, 15, &frame)
    };
    assert_eq!(fetch(13, 13), Ok(()));
    assert_eq!(fetch(14, 14), Err(GuardError::TagSize { field: "replica_state", left: 1 }));
    assert!(matches!(fetch(12, 13), Err(GuardError::Truncated { .. } | GuardError::Number { .. })));
}

#[test]
fn the_decoded_form_has_a_budget() {
    // Topics of two bytes each: an empty name and no tags.
    let topic = size_of::<MetadataRequestTopic>();
    let count = KAFKA_DECODED_REQUEST_BYTES / topic;
    let request = |count: usize| {
        let announced = count + 1;
        let mut body: Vec<u8> = (0..2).map(|i| (announced >> (7 * i)) as u8 | 0x80).collect();
        body.extend_from_slice(&[(announced >> 14) as u8]);
        assert!((1 << 14..1 << 21).contains(&announced));
        body.extend(std::iter::repeat_n([1, 0], count).flatten());
        body.extend_from_slice(&[1, 0, 0, 0]);
        weigh(3, 9, &metadata_v9(&body))
    };
    assert_eq!(request(count), Ok(count * topic));
    assert_eq!(request(count + 1), Err(GuardError::Budget { field: "topics" }));

    // Unknown tags of two bytes each.
    let count = KAFKA_DECODED_REQUEST_BYTES / TAG_ENTRY_BYTES;
    let mut body = vec![1, 1, 0, 0];
    body.extend((0..3).map(|i| (count >> (7 * i)) as u8 & 0x7f | if i < 2 { 0x80 } else { 0 }));
    body.extend(std::iter::repeat_n([50, 0], count).flatten());
    let found = check(3, 9, &metadata_v9(&body));
    assert_eq!(found, Err(GuardError::Budget { field: "tagged fields" }));
}
