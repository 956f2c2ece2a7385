//! The requests that are served, field by field: what the guard walks by.
//!
//! Source: the public message schemas of Kafka 4.1, in their order of fields.

use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::schema::Kind::{Bytes, String, Struct};
use super::schema::{BOOL, INT8, INT16, INT32, INT64, Request, UUID, array, field};

/// Every request that is served, by API key.
pub(super) static REQUESTS: [Request; 11] = [
    PRODUCE,
    FETCH,
    LIST_OFFSETS,
    METADATA,
    FIND_COORDINATOR,
    API_VERSIONS,
    CREATE_TOPICS,
    DELETE_TOPICS,
    DELETE_RECORDS,
    INIT_PRODUCER_ID,
    OFFSET_FOR_LEADER_EPOCH,
];

const PRODUCE: Request = Request {
    key: 0,
    versions: 3..=11,
    flexible_since: 9,
    fields: &[
        field("transactional_id", String).nullable(3),
        field("acks", INT16),
        field("timeout_ms", INT32),
        field(
            "topic_data",
            array::<TopicProduceData>(&Struct(&[
                field("name", String),
                field(
                    "partition_data",
                    array::<PartitionProduceData>(&Struct(&[
                        field("index", INT32),
                        field("records", Bytes).nullable(0),
                    ])),
                ),
            ])),
        ),
    ],
};

const FETCH: Request = Request {
    key: 1,
    versions: 4..=17,
    flexible_since: 12,
    fields: &[
        field("cluster_id", String).since(12).nullable(12).tagged(0),
        field("replica_id", INT32).until(14),
        field(
            "replica_state",
            Struct(&[field("replica_id", INT32), field("replica_epoch", INT64)]),
        )
        .since(15)
        .tagged(1),
        field("max_wait_ms", INT32),
        field("min_bytes", INT32),
        field("max_bytes", INT32),
        field("isolation_level", INT8),
        field("session_id", INT32).since(7),
        field("session_epoch", INT32).since(7),
        field(
            "topics",
            array::<FetchTopic>(&Struct(&[
                field("topic", String).until(12),
                field("topic_id", UUID).since(13),
                field(
                    "partitions",
                    array::<FetchPartition>(&Struct(&[
                        field("partition", INT32),
                        field("current_leader_epoch", INT32).since(9),
                        field("fetch_offset", INT64),
                        field("last_fetched_epoch", INT32).since(12),
                        field("log_start_offset", INT64).since(5),
                        field("partition_max_bytes", INT32),
                        field("replica_directory_id", UUID).since(17).tagged(0),
                    ])),
                ),
            ])),
        ),
        field(
            "forgotten_topics_data",
            array::<ForgottenTopic>(&Struct(&[
                field("topic", String).until(12),
                field("topic_id", UUID).since(13),
                field("partitions", array::<i32>(&INT32)),
            ])),
        )
        .since(7),
        field("rack_id", String).since(11),
    ],
};

const LIST_OFFSETS: Request = Request {
    key: 2,
    versions: 1..=10,
    flexible_since: 6,
    fields: &[
        field("replica_id", INT32),
        field("isolation_level", INT8).since(2),
        field(
            "topics",
            array::<ListOffsetsTopic>(&Struct(&[
                field("name", String),
                field(
                    "partitions",
                    array::<ListOffsetsPartition>(&Struct(&[
                        field("partition_index", INT32),
                        field("current_leader_epoch", INT32).since(4),
                        field("timestamp", INT64),
                    ])),
                ),
            ])),
        ),
        field("timeout_ms", INT32).since(10),
    ],
};

const METADATA: Request = Request {
    key: 3,
    versions: 0..=13,
    flexible_since: 9,
    fields: &[
        field(
            "topics",
            array::<MetadataRequestTopic>(&Struct(&[
                field("topic_id", UUID).since(10),
                field("name", String).nullable(10),
            ])),
        )
        .nullable(1),
        field("allow_auto_topic_creation", BOOL).since(4),
        field("include_cluster_authorized_operations", BOOL).since(8).until(10),
        field("include_topic_authorized_operations", BOOL).since(8),
    ],
};

const FIND_COORDINATOR: Request = Request {
    key: 10,
    versions: 0..=6,
    flexible_since: 3,
    fields: &[
        field("key", String).until(3),
        field("key_type", INT8).since(1),
        field("coordinator_keys", array::<StrBytes>(&String)).since(4),
    ],
};

const API_VERSIONS: Request = Request {
    key: 18,
    versions: 0..=4,
    flexible_since: 3,
    fields: &[
        field("client_software_name", String).since(3),
        field("client_software_version", String).since(3),
    ],
};

const CREATE_TOPICS: Request = Request {
    key: 19,
    versions: 2..=7,
    flexible_since: 5,
    fields: &[
        field(
            "topics",
            array::<CreatableTopic>(&Struct(&[
                field("name", String),
                field("num_partitions", INT32),
                field("replication_factor", INT16),
                field(
                    "assignments",
                    array::<CreatableReplicaAssignment>(&Struct(&[
                        field("partition_index", INT32),
                        field("broker_ids", array::<BrokerId>(&INT32)),
                    ])),
                ),
                field(
                    "configs",
                    array::<CreatableTopicConfig>(&Struct(&[
                        field("name", String),
                        field("value", String).nullable(0),
                    ])),
                ),
            ])),
        ),
        field("timeout_ms", INT32),
        field("validate_only", BOOL),
    ],
};

const DELETE_TOPICS: Request = Request {
    key: 20,
    versions: 1..=6,
    flexible_since: 4,
    fields: &[
        field(
            "topics",
            array::<DeleteTopicState>(&Struct(&[
                field("name", String).nullable(6),
                field("topic_id", UUID),
            ])),
        )
        .since(6),
        field("topic_names", array::<TopicName>(&String)).until(5),
        field("timeout_ms", INT32),
    ],
};

const DELETE_RECORDS: Request = Request {
    key: 21,
    versions: 0..=2,
    flexible_since: 2,
    fields: &[
        field(
            "topics",
            array::<DeleteRecordsTopic>(&Struct(&[
                field("name", String),
                field(
                    "partitions",
                    array::<DeleteRecordsPartition>(&Struct(&[
                        field("partition_index", INT32),
                        field("offset", INT64),
                    ])),
                ),
            ])),
        ),
        field("timeout_ms", INT32),
    ],
};

const INIT_PRODUCER_ID: Request = Request {
    key: 22,
    versions: 0..=5,
    flexible_since: 2,
    fields: &[
        field("transactional_id", String).nullable(0),
        field("transaction_timeout_ms", INT32),
        field("producer_id", INT64).since(3),
        field("producer_epoch", INT16).since(3),
    ],
};

const OFFSET_FOR_LEADER_EPOCH: Request = Request {
    key: 23,
    versions: 2..=4,
    flexible_since: 4,
    fields: &[
        field("replica_id", INT32).since(3),
        field(
            "topics",
            array::<OffsetForLeaderTopic>(&Struct(&[
                field("topic", String),
                field(
                    "partitions",
                    array::<OffsetForLeaderPartition>(&Struct(&[
                        field("partition", INT32),
                        field("current_leader_epoch", INT32),
                        field("leader_epoch", INT32),
                    ])),
                ),
            ])),
        ),
    ],
};
