//! A new data directory takes over what the shard servers hold.

use std::collections::{BTreeMap, HashMap};

use super::broker::Adopted;
use super::catalogue::{Catalogue, EpochStart, PartitionState, Run, TopicState, trim_epochs};
use super::shipping::{hex, stored_head};
use super::topic_config::ships;
use crate::tier::{Recovered, RecoveredPartition, RecoveredTopic};
use crate::types::{TopicId, TopicName};

/// Producer ids begin so far above the highest one seen: ids handed out again would make live producers' batches look
/// like duplicates, and not every id that was handed out was seen.
const PRODUCER_ID_DISTANCE: i64 = 1 << 32;

impl From<Recovered> for Adopted {
    fn from(recovered: Recovered) -> Self {
        let next_producer_id = recovered
            .highest_producer_id
            .map_or(0, |highest| highest.saturating_add(PRODUCER_ID_DISTANCE));
        let topics = one_of_each_name(recovered.topics.into_iter().map(topic));
        Self {
            catalogue: Catalogue::of(next_producer_id, topics),
            last_commit: recovered.last_commit,
        }
    }
}

/// A creation that was cut short leaves a record without a fragment beside that of the next try: of several topics of one
/// name the one that reaches farthest is it.
fn one_of_each_name(topics: impl Iterator<Item = TopicState>) -> BTreeMap<TopicId, TopicState> {
    let mut by_name: HashMap<TopicName, TopicState> = HashMap::new();
    let reach = |topic: &TopicState| {
        let records = |part: &PartitionState| part.log_end - part.log_start;
        let shipped = topic.partitions.iter().any(|part| part.head.is_some());
        (shipped, topic.partitions.iter().map(records).sum::<i64>(), topic.revision, topic.id)
    };
    for topic in topics {
        let (kept, left) = match by_name.remove(&topic.name) {
            Some(other) if reach(&other) > reach(&topic) => (other, Some(topic)),
            Some(other) => (topic, Some(other)),
            None => (topic, None),
        };
        if let Some(left) = left {
            let (kept_id, left_id, records) = (kept.id, left.id, reach(&left).1);
            tracing::error!(topic = %kept.name, %kept_id, %left_id, records, "two topics of one name on the shard servers: the one that reaches farther is taken, the other stays there untouched");
        }
        by_name.insert(kept.name.clone(), kept);
    }
    by_name.into_values().map(|topic| (topic.id, topic)).collect()
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
    let start = |(epoch, first_offset)| EpochStart { epoch, first_offset };
    let mut epochs = recovered.epochs.into_iter().map(start).collect();
    trim_epochs(&mut epochs, recovered.log_start);
    PartitionState {
        log_start: recovered.log_start,
        local_start: recovered.shipped,
        log_end: recovered.shipped,
        epoch: recovered.epoch,
        start_number: 0,
        epochs,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderEpoch;

    fn state(id: u8, name: &str, records: i64) -> TopicState {
        let mut partition = PartitionState::empty(1, LeaderEpoch(0), 0, true);
        partition.log_end += records;
        TopicState {
            id: TopicId([id; 16]),
            name: TopicName::new(name).unwrap(),
            revision: 0,
            options: BTreeMap::new(),
            sealed_secret: String::new(),
            partitions: vec![partition],
        }
    }

    #[test]
    fn of_two_topics_of_one_name_the_one_with_records_is_taken() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let topics = order.map(|id| match id {
                1 => state(1, "v", 0),
                2 => state(2, "v", 7),
                _ => state(3, "w", 0),
            });
            let kept = one_of_each_name(topics.into_iter());
            let ids: Vec<u8> = kept.keys().map(|id| id.0[0]).collect();
            assert_eq!(ids, [2, 3]);
        }
    }
}
