//! One file per API, named as Kafka names it. Each opens with the versions served, what differs from Kafka, and what
//! changed from version to version; each implements `dispatch::Api` and has a test that encodes every answer in every
//! served version.
//!
//! A handler checks, calls one operation of the broker, translates the result. To add an API: a file here and a line in
//! the table of `dispatch.rs`.

mod api_versions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod fetch;
mod find_coordinator;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
mod produce;
mod shared;

pub(super) use api_versions::{ApiVersions, refuse_unknown_api_versions};
pub(super) use create_topics::CreateTopics;
pub(super) use delete_records::DeleteRecords;
pub(super) use delete_topics::DeleteTopics;
pub(super) use fetch::Fetch;
pub(super) use find_coordinator::FindCoordinator;
pub(super) use init_producer_id::InitProducerId;
pub(super) use list_offsets::ListOffsets;
pub(super) use metadata::Metadata;
pub(super) use offset_for_leader_epoch::OffsetForLeaderEpoch;
pub(super) use produce::Produce;
