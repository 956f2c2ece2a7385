//! What several APIs do alike: find a partition, check an epoch, pick the first error.

use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::broker::{Broker, Partition, Topic};
use crate::kafka::error::{ErrorCode, Refusal};
use crate::types::TopicId;

/// A topic's id as the messages carry it.
pub fn wire_id(id: TopicId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// The topic of a wire id.
///
/// # Errors
/// [`Refusal::UnknownTopicId`], also for the zero id.
pub fn topic_by_id(broker: &Broker, id: Uuid) -> Result<Arc<Topic>, Refusal> {
    broker.topic_by_id(&TopicId(id.into_bytes())).ok_or(Refusal::UnknownTopicId)
}

/// The topic of a name.
///
/// # Errors
/// [`Refusal::UnknownTopicOrPartition`].
pub fn topic_by_name(broker: &Broker, name: &str) -> Result<Arc<Topic>, Refusal> {
    broker.topic(name).ok_or(Refusal::UnknownTopicOrPartition)
}

/// Partition `index` of `topic`, to read or write it.
///
/// # Errors
/// [`Refusal::UnknownTopicOrPartition`], [`Refusal::PartitionOffline`].
pub fn partition(topic: &Topic, index: i32) -> Result<Arc<Partition>, Refusal> {
    let partition = topic.partition(index).ok_or(Refusal::UnknownTopicOrPartition)?;
    partition.offline().map_or(Ok(Arc::clone(partition)), |_| Err(Refusal::PartitionOffline))
}

/// Compares the epoch that a client believes in with the partition's; -1 believes nothing. Source: KIP-320.
///
/// # Errors
/// [`Refusal::OldEpoch`], [`Refusal::NewEpoch`].
pub fn check_epoch(partition: &Partition, believed: i32) -> Result<(), Refusal> {
    let ours = partition.leader_epoch().0;
    match believed {
        -1 => Ok(()),
        believed if believed < ours => Err(Refusal::OldEpoch),
        believed if believed > ours => Err(Refusal::NewEpoch),
        _ => Ok(()),
    }
}

/// The first code that is an error, else none.
pub fn first_error(codes: impl IntoIterator<Item = i16>) -> ErrorCode {
    codes.into_iter().map(ErrorCode::of_wire).find(|code| code.is_error()).unwrap_or_default()
}

/// A message's text field.
pub fn text(words: impl std::fmt::Display) -> StrBytes {
    StrBytes::from_string(words.to_string())
}
