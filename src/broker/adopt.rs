//! A new data directory takes over what the shard servers hold.

use super::broker::Adopted;
use super::catalogue::{Catalogue, EpochStart, PartitionState, Run, TopicState};
use super::shipping::{hex, stored_head};
use super::topic_config::ships;
use crate::tier::{Recovered, RecoveredPartition, RecoveredTopic};

/// Producer ids begin so far above the highest one seen: ids handed out again would make live producers' batches look
/// like duplicates, and not every id that was handed out was seen.
const PRODUCER_ID_DISTANCE: i64 = 1 << 32;

impl From<Recovered> for Adopted {
    fn from(recovered: Recovered) -> Self {
        let next_producer_id = recovered
            .highest_producer_id
            .map_or(0, |highest| highest.saturating_add(PRODUCER_ID_DISTANCE));
        let topics = recovered.topics.into_iter().map(topic).map(|topic| (topic.id, topic));
        Self {
            catalogue: Catalogue { start_number: 0, next_producer_id, topics: topics.collect() },
            last_commit: recovered.last_commit,
        }
    }
}

fn topic(recovered: RecoveredTopic) -> TopicState {
    let record = recovered.record;
    let options = record.options.into_iter().collect();
    let ships = ships(&options);
    TopicState {
        id: record.id,
        name: record.name,
        revision: record.revision,
        options,
        sealed_secret: record.secret.map_or(String::new(), |secret| hex(&secret.to_bytes())),
        partitions: recovered.partitions.into_iter().map(|it| partition(it, ships)).collect(),
    }
}

/// Nothing is on local disk: the local log begins where the shipped one ends.
fn partition(recovered: RecoveredPartition, ships: bool) -> PartitionState {
    PartitionState {
        log_start: recovered.log_start,
        local_start: recovered.shipped,
        log_end: recovered.shipped,
        epoch: recovered.epoch,
        start_number: 0,
        epochs: recovered
            .epochs
            .into_iter()
            .map(|(epoch, first_offset)| EpochStart { epoch, first_offset })
            .collect(),
        producers: recovered.producers,
        runs: recovered
            .runs
            .into_iter()
            .map(|run| Run { first_offset: run.first_offset, first_sequence: run.first_sequence })
            .collect(),
        ships,
        intent: None,
        head: recovered.head.as_ref().map(stored_head),
        complete: recovered.complete,
        last_number: recovered.last_number,
        marks: Vec::new(),
    }
}
