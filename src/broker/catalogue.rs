//! The durable state of a data directory as a pure state machine: what the commit log says, added up.
//!
//! The committer applies each commit here once it is synced, and recovery applies the same commits on top of the last
//! checkpoint with the same code, so what runs and what is rebuilt cannot differ. Nothing in here decides anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::log::{ProducerRoom, ProducerSnapshot, ProducerStates};
use crate::record::BatchHeader;
use crate::types::{
    CommitNumber, LeaderEpoch, Offset, Sequence, TopicId, TopicName, TopicPartition, limits,
};

/// Kafka: `producer.id.expiration.ms`.
pub(super) const PRODUCER_AGE_MS: i64 = 24 * 60 * 60 * 1000;

/// The option that holds a vdisk's block size.
pub(super) const BLOCK_SIZE: &str = "tlog.block.size";

/// A change of the catalogue, as a JSON text in the commit log: rare beside the data, and readable with the eye.
/// Unknown events and fields are refused, for they come from a newer release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A topic came to be.
    TopicCreated(TopicState),
    /// A topic is gone, with everything it held. Where the tier keeps it the shard servers are still to be told.
    TopicDeleted {
        /// The topic.
        topic: TopicId,
    },
    /// Enough shard servers have the mark of a deleted topic that no rebuild brings it back.
    DeletionTold {
        /// The topic.
        topic: TopicId,
    },
    /// The block size of a vdisk is known from its first block on.
    BlockSizeSet {
        /// The topic.
        topic: TopicId,
        /// In bytes.
        bytes: u32,
    },
    /// The partition is written in this epoch at least.
    EpochRaised {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// Producer ids below `next` may have been handed out.
    ProducerIds {
        /// The first one that was not.
        next: i64,
    },
    /// A sequence run of a vdisk begins.
    RunStarted {
        /// The topic.
        topic: TopicId,
        /// The run.
        run: Run,
    },
    /// A fragment will be stored under this number: its bytes are fixed from here on.
    FragmentIntended {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// What a retry needs to make the same bytes.
        intent: FragmentIntent,
    },
    /// The intended fragment is on the shard servers, and so is its manifest entry.
    FragmentShipped {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// The fragment, now the newest.
        head: FragmentHead,
    },
    /// The number of an intended fragment is never used.
    FragmentAbandoned {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// The number.
        number: u64,
    },
    /// All shards of all below an offset were read back and verified.
    FragmentsCompleted {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// Exclusive bound.
        complete: Offset,
    },
    /// Records below an offset are deleted, wherever they lie: nobody reads them from here on.
    LogStartMoved {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// First offset that can still be read; not above the high watermark.
        log_start: Offset,
        /// Why, for who reads the commit log.
        reason: DeletionReason,
    },
    /// Local segments below an offset are no longer needed and may be gone.
    LocalStartMoved {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: i32,
        /// First offset that is kept on local disk.
        local_start: Offset,
    },
}

/// Why records were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletionReason {
    /// A client asked for it.
    Requested,
    /// They were older than the topic keeps them.
    Age,
    /// The topic held more than it may.
    Size,
}

/// A run of consecutive sequences: offset `first_offset + i` has sequence `first_sequence + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Where it begins in the log.
    pub first_offset: Offset,
    /// The sequence of that record.
    pub first_sequence: Sequence,
}

/// See [`Event::FragmentIntended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FragmentIntent {
    /// Fragment number.
    pub number: u64,
    /// First offset, inclusive.
    pub first_offset: Offset,
    /// First offset behind it.
    pub end_offset: Offset,
    /// The header as it will stand in all shards, salt included, in hexadecimal digits.
    pub header: String,
    /// Keyed digest of the plain body, in hexadecimal digits.
    pub digest: String,
}

/// The newest fragment that this data directory knows to be on the shard servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FragmentHead {
    /// Fragment number.
    pub number: u64,
    /// First offset behind it: the shipped offset.
    pub shipped: Offset,
    /// Its hash, in hexadecimal digits.
    pub hash: String,
    /// Its public hash, in hexadecimal digits.
    pub public_hash: String,
}

/// When and in which commit the batches of an unshipped stretch were appended: the fragment that carries them says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendMark {
    /// First offset of the stretch; it ends where the next begins.
    pub first_offset: Offset,
    /// Its commit.
    pub commit: CommitNumber,
    /// Time of the append, ms since 1970.
    pub appended_ms: i64,
}

/// From which offset on a leader epoch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset written in it.
    pub first_offset: Offset,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicState {
    /// Identity.
    pub id: TopicId,
    /// Name.
    pub name: TopicName,
    /// Counts changes of the options: the shard servers believe the highest.
    pub revision: u64,
    /// Options that differ from their defaults.
    pub options: BTreeMap<String, String>,
    /// The topic's secret under the wrapping key, in hexadecimal digits.
    pub sealed_secret: String,
    /// Partitions, by index from 0.
    pub partitions: Vec<PartitionState>,
}

impl TopicState {
    fn counted_producers(&self) -> usize {
        self.partitions.iter().map(|partition| partition.producers.counted()).sum()
    }
}

/// A deleted topic of which too few shard servers know: all that its mark there says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletedTopic {
    /// Identity.
    pub id: TopicId,
    /// Name; it may be another topic's by now.
    pub name: TopicName,
    /// As of the deletion; the mark has a higher one.
    pub revision: u64,
    /// Options that differ from their defaults.
    pub options: BTreeMap<String, String>,
    /// The topic's secret under the wrapping key, in hexadecimal digits.
    pub sealed_secret: String,
    /// Count of partitions.
    pub partitions: i32,
}

impl From<TopicState> for DeletedTopic {
    fn from(topic: TopicState) -> Self {
        Self {
            id: topic.id,
            name: topic.name,
            revision: topic.revision,
            options: topic.options,
            sealed_secret: topic.sealed_secret,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        }
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionState {
    /// First offset that can be read anywhere.
    pub log_start: Offset,
    /// First offset on local disk.
    pub local_start: Offset,
    /// Next offset.
    pub log_end: Offset,
    /// The highest epoch of a batch, or that the partition began with.
    pub epoch: LeaderEpoch,
    /// Start number of the broker when `epoch` was last written. An older one than the broker's means an unclean
    /// start since, and the partition counts one epoch higher.
    pub start_number: u64,
    /// Where each epoch began.
    pub epochs: Vec<EpochStart>,
    /// Idempotent producers.
    #[serde(with = "producer_list")]
    pub producers: ProducerStates,
    /// Sequence runs of a vdisk.
    pub runs: Vec<Run>,
    /// Whether the tier keeps it; the four fields below mean nothing otherwise.
    pub ships: bool,
    /// The fragment being stored.
    pub intent: Option<FragmentIntent>,
    /// The newest fragment stored.
    pub head: Option<FragmentHead>,
    /// Exclusive bound of what is stored and verified whole.
    pub complete: Offset,
    /// The highest fragment number ever used or abandoned.
    pub last_number: Option<u64>,
    /// Of what is not shipped yet.
    pub marks: Vec<AppendMark>,
}

impl PartitionState {
    /// A partition without records that begins at `first_offset`.
    #[must_use]
    pub fn empty(first_offset: Offset, epoch: LeaderEpoch, start_number: u64, ships: bool) -> Self {
        Self {
            log_start: first_offset,
            local_start: first_offset,
            log_end: first_offset,
            epoch,
            start_number,
            epochs: Vec::new(),
            producers: ProducerStates::default(),
            runs: Vec::new(),
            ships,
            intent: None,
            head: None,
            complete: first_offset,
            last_number: None,
            marks: Vec::new(),
        }
    }

    /// The shipped offset.
    #[must_use]
    pub fn shipped(&self) -> Offset {
        self.head.as_ref().map_or(self.log_start, |head| head.shipped)
    }

    fn move_log_start(&mut self, log_start: Offset) {
        self.log_start = self.log_start.max(log_start.min(self.log_end));
        self.local_start = self.local_start.max(self.log_start);
        trim_epochs(&mut self.epochs, self.log_start);
    }

    /// The epoch that the partition's next batch is written in, `start_number` being the broker's.
    #[must_use]
    pub fn live_epoch(&self, start_number: u64) -> LeaderEpoch {
        LeaderEpoch(self.epoch.0 + i32::from(self.start_number < start_number))
    }
}

/// What does not fit the catalogue: the commit log names something that never was. Corruption, or a defect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Two topics of one name would share a directory.
    #[error("the commit log creates topic {topic} under the name of topic {other}")]
    NameTaken {
        /// The new one.
        topic: TopicId,
        /// The one that has the name.
        other: TopicId,
    },
    /// A topic that does not exist.
    #[error("the commit log names topic {topic}, which does not exist")]
    NoTopic {
        /// The topic.
        topic: TopicId,
    },
    /// A partition that does not exist.
    #[error("the commit log names partition {partition}, which does not exist")]
    NoPartition {
        /// The partition.
        partition: TopicPartition,
    },
    /// Offsets do not continue.
    #[error(
        "the commit log continues partition {partition} at offset {found} instead of {expected}"
    )]
    Gap {
        /// The partition.
        partition: TopicPartition,
        /// The end known.
        expected: Offset,
        /// The base offset found.
        found: Offset,
    },
}

/// All topics and counters of a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Catalogue {
    /// Unclean starts so far.
    pub start_number: u64,
    /// First producer id that was never handed out.
    pub next_producer_id: i64,
    /// Topics.
    #[serde(with = "topic_list")]
    pub topics: BTreeMap<TopicId, TopicState>,
    /// Deleted topics that the shard servers are still to be told of. Format 1 had none.
    #[serde(with = "topic_list")]
    pub deleted: BTreeMap<TopicId, DeletedTopic>,
    /// What the idempotent producers of all `topics` take together.
    #[serde(skip)]
    producer_room: ProducerRoom,
}

/// A catalogue as it is read, with nothing that is derived.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    start_number: u64,
    next_producer_id: i64,
    #[serde(with = "topic_list")]
    topics: BTreeMap<TopicId, TopicState>,
    #[serde(with = "topic_list", default)]
    deleted: BTreeMap<TopicId, DeletedTopic>,
}

impl From<Stored> for Catalogue {
    fn from(stored: Stored) -> Self {
        let Stored { start_number, next_producer_id, topics, deleted } = stored;
        Self { start_number, deleted, ..Self::of(next_producer_id, topics) }
    }
}

/// Topics carry their id, so a list says it once.
mod topic_list {
    use super::{BTreeMap, DeletedTopic, TopicId, TopicState};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) trait Listed {
        fn id(&self) -> TopicId;
    }

    impl Listed for TopicState {
        fn id(&self) -> TopicId {
            self.id
        }
    }

    impl Listed for DeletedTopic {
        fn id(&self) -> TopicId {
            self.id
        }
    }

    pub(super) fn serialize<S: Serializer, T: Serialize>(
        topics: &BTreeMap<TopicId, T>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(topics.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Listed + Deserialize<'de>>(
        d: D,
    ) -> Result<BTreeMap<TopicId, T>, D::Error> {
        let topics = Vec::<T>::deserialize(d)?;
        Ok(topics.into_iter().map(|topic| (topic.id(), topic)).collect())
    }
}

/// Producer states are stored as their snapshot.
mod producer_list {
    use super::{ProducerSnapshot, ProducerStates};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(
        states: &ProducerStates,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        states.snapshot().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ProducerStates, D::Error> {
        Ok(ProducerStates::restore(ProducerSnapshot::deserialize(d)?))
    }
}

impl Catalogue {
    /// A catalogue of these topics.
    #[must_use]
    pub fn of(next_producer_id: i64, topics: BTreeMap<TopicId, TopicState>) -> Self {
        let mut catalogue = Self { next_producer_id, topics, ..Self::default() };
        catalogue.bound_producers(limits::PRODUCERS);
        catalogue
    }

    /// Counts the idempotent producers and keeps their number within `most` from here on. Where an earlier release left
    /// more, no partition keeps more than the number for all with which they fit: its newest.
    pub fn bound_producers(&mut self, most: usize) {
        let partitions = |topic: &TopicState| {
            topic.partitions.iter().map(|it| it.producers.counted()).collect::<Vec<_>>()
        };
        let counts: Vec<usize> = self.topics.values().flat_map(partitions).collect();
        let with = |each: usize| counts.iter().map(|count| *count.min(&each)).sum::<usize>();
        let mut taken = with(usize::MAX);
        if taken > most {
            let each = (1..=limits::PARTITION_PRODUCERS).rev().find(|each| with(*each) <= most);
            let each = each.unwrap_or(0);
            for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
                partition.producers.keep_newest(1 + each);
            }
            taken = with(each);
        }
        self.producer_room = ProducerRoom::new(most, taken);
    }

    /// What the idempotent producers take.
    #[must_use]
    pub fn producer_room(&self) -> &ProducerRoom {
        &self.producer_room
    }

    /// Applies an event.
    ///
    /// # Errors
    /// [`ApplyError`]; the catalogue is then as before.
    pub fn apply(&mut self, event: Event) -> Result<(), ApplyError> {
        match event {
            Event::TopicCreated(topic) => {
                if let Some(other) = self.topics.values().find(|other| other.name == topic.name) {
                    return Err(ApplyError::NameTaken { topic: topic.id, other: other.id });
                }
                let producers = topic.counted_producers();
                self.topics.insert(topic.id, topic);
                // None in any that was ever written.
                if producers > 0 {
                    self.bound_producers(self.producer_room.most());
                }
            }
            Event::TopicDeleted { topic } => {
                let state = self.topics.remove(&topic).ok_or(ApplyError::NoTopic { topic })?;
                self.producer_room.give_back(state.counted_producers());
                if state.partitions.iter().any(|partition| partition.ships) {
                    self.deleted.insert(topic, state.into());
                }
            }
            Event::DeletionTold { topic } => {
                self.deleted.remove(&topic).ok_or(ApplyError::NoTopic { topic })?;
            }
            Event::BlockSizeSet { topic, bytes } => {
                let state = self.topic_mut(topic)?;
                state.options.insert(BLOCK_SIZE.to_owned(), bytes.to_string());
                state.revision += 1;
            }
            Event::EpochRaised { topic, partition, epoch } => {
                let start_number = self.start_number;
                let state = self.partition_mut(TopicPartition { topic, partition })?;
                if epoch > state.epoch {
                    state.epoch = epoch;
                    state.start_number = start_number;
                }
            }
            Event::ProducerIds { next } => {
                self.next_producer_id = self.next_producer_id.max(next);
            }
            Event::RunStarted { topic, run } => {
                let state = self.partition_mut(TopicPartition { topic, partition: 0 })?;
                add_run(&mut state.runs, run);
            }
            Event::FragmentIntended { topic, partition, intent } => {
                let state = self.partition_mut(TopicPartition { topic, partition })?;
                state.last_number = state.last_number.max(Some(intent.number));
                state.intent = Some(intent);
            }
            Event::FragmentShipped { topic, partition, head } => {
                let state = self.partition_mut(TopicPartition { topic, partition })?;
                state.intent = None;
                state.last_number = state.last_number.max(Some(head.number));
                forget_marks_below(&mut state.marks, head.shipped);
                state.head = Some(head);
            }
            Event::FragmentAbandoned { topic, partition, number } => {
                let state = self.partition_mut(TopicPartition { topic, partition })?;
                state.intent = None;
                state.last_number = state.last_number.max(Some(number));
            }
            Event::FragmentsCompleted { topic, partition, complete } => {
                let state = self.partition_mut(TopicPartition { topic, partition })?;
                state.complete = state.complete.max(complete);
            }
            Event::LogStartMoved { topic, partition, log_start, reason: _ } => {
                self.partition_mut(TopicPartition { topic, partition })?.move_log_start(log_start);
            }
            Event::LocalStartMoved { topic, partition, local_start } => {
                let state = self.partition_mut(TopicPartition { topic, partition })?;
                state.local_start = state.local_start.max(local_start);
            }
        }
        Ok(())
    }

    /// Applies an appended batch.
    ///
    /// # Errors
    /// [`ApplyError`]; the catalogue is then as before.
    pub fn apply_batch(
        &mut self,
        id: TopicPartition,
        header: &BatchHeader,
        commit: CommitNumber,
        appended_ms: i64,
    ) -> Result<(), ApplyError> {
        let start_number = self.start_number;
        let state = partition_of(&mut self.topics, id)?;
        if header.base_offset != state.log_end {
            return Err(ApplyError::Gap {
                partition: id,
                expected: state.log_end,
                found: header.base_offset,
            });
        }
        let epoch = LeaderEpoch(header.leader_epoch);
        if state.epochs.last().is_none_or(|last| last.epoch < epoch) {
            state.epochs.push(EpochStart { epoch, first_offset: header.base_offset });
        }
        state.epoch = state.epoch.max(epoch);
        state.start_number = start_number;
        state.log_end = header.next_offset();
        if header.producer_id >= 0 {
            state.producers.apply(header, appended_ms, &self.producer_room);
        }
        if state.ships {
            let mark = AppendMark { first_offset: header.base_offset, commit, appended_ms };
            add_mark(&mut state.marks, mark);
        }
        Ok(())
    }

    /// Forgets idempotent producers that wrote nothing for `PRODUCER_AGE_MS`.
    pub fn expire_producers(&mut self, now_ms: i64) {
        for topic in self.topics.values_mut() {
            for partition in &mut topic.partitions {
                partition.producers.expire(now_ms, PRODUCER_AGE_MS, &self.producer_room);
            }
        }
    }

    /// A partition's state.
    #[must_use]
    pub fn partition(&self, id: TopicPartition) -> Option<&PartitionState> {
        self.topics.get(&id.topic)?.partitions.get(usize::try_from(id.partition).ok()?)
    }

    fn topic_mut(&mut self, topic: TopicId) -> Result<&mut TopicState, ApplyError> {
        self.topics.get_mut(&topic).ok_or(ApplyError::NoTopic { topic })
    }

    fn partition_mut(&mut self, id: TopicPartition) -> Result<&mut PartitionState, ApplyError> {
        partition_of(&mut self.topics, id)
    }
}

fn partition_of(
    topics: &mut BTreeMap<TopicId, TopicState>,
    id: TopicPartition,
) -> Result<&mut PartitionState, ApplyError> {
    let topic = topics.get_mut(&id.topic).ok_or(ApplyError::NoTopic { topic: id.topic })?;
    usize::try_from(id.partition)
        .ok()
        .and_then(|index| topic.partitions.get_mut(index))
        .ok_or(ApplyError::NoPartition { partition: id })
}

/// Forgets epochs without records at or above `log_start`; the one that holds it begins there, and the last one stays.
///
/// Source: Kafka's `LeaderEpochFileCache.truncateFromStart`.
pub(super) fn trim_epochs(epochs: &mut Vec<EpochStart>, log_start: Offset) {
    let below = epochs.partition_point(|start| start.first_offset <= log_start);
    epochs.drain(..below.saturating_sub(1));
    if let Some(first) = epochs.first_mut() {
        first.first_offset = first.first_offset.max(log_start);
    }
}

/// Unshipped commits that a partition tells apart: about 2 MB. Beyond it, which takes shard servers that are away for
/// long, the newer half of the oldest two is taken for the older one.
const MARKS: usize = 65_536;

/// Notes the commit of an appended stretch.
pub(super) fn add_mark(marks: &mut Vec<AppendMark>, mark: AppendMark) {
    if marks.last().is_some_and(|last| last.commit == mark.commit) {
        return;
    }
    if marks.len() >= MARKS {
        // Every second one of the older half, so that this is rare.
        let mut index = 0;
        marks.retain(|_| {
            index += 1;
            index > MARKS / 2 || index % 2 == 1
        });
    }
    marks.push(mark);
}

/// Begins a run; one that holds nothing yet is replaced.
pub(super) fn add_run(runs: &mut Vec<Run>, run: Run) {
    runs.pop_if(|last| last.first_offset == run.first_offset);
    runs.push(run);
}

/// Drops the marks of stretches that end at or below `offset`.
pub(super) fn forget_marks_below(marks: &mut Vec<AppendMark>, offset: Offset) {
    let keep = marks.iter().rposition(|mark| mark.first_offset <= offset).unwrap_or(0);
    marks.drain(..keep);
}

#[cfg(test)]
mod tests;
