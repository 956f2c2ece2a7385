//! What a journal obliges a broker to, and whether it keeps it.
//!
//! What is retained or compacted away is allowed for here: a retention raises `log_start`, below which nothing is asked for
//! (see [`read_partition`]); for a compacted topic the acknowledged batches may lack records, see [`Expected::holds`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::*;
use super::scenario::{Note, Place, Sent, open};
use crate::disk::sim::{Random, SimDisk};
use crate::record::{Batches, Records, plain_records};
use crate::types::{LeaderEpoch, Offset, TopicId};

/// A batch as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub base_offset: Offset,
    pub epoch: i32,
    pub values: Vec<String>,
}

pub type Contents = BTreeMap<Place, Vec<Seen>>;

/// What must and what may be there.
#[derive(Debug, Default)]
pub struct Expected {
    names: BTreeMap<TopicId, String>,
    alive: BTreeSet<TopicId>,
    gone: BTreeSet<TopicId>,
    /// Names under which a topic may have been made, whose id nobody was told.
    unanswered: BTreeSet<String>,
    /// What may be there, in its order.
    sent: BTreeMap<Place, Vec<Sent>>,
    /// What must be there: its number and its first offset.
    acknowledged: BTreeMap<Place, BTreeMap<usize, Offset>>,
    producer_id: i64,
}

impl Expected {
    /// After the first `least` notes everything answered must be there; what is asked in the first `most` may be.
    pub fn new(notes: &[Note], least: usize, most: usize) -> Self {
        let mut expected = Self { producer_id: -1, ..Self::default() };
        for note in &notes[..most] {
            match note.clone() {
                Note::Sent(place, sent) => expected.sent.entry(place).or_default().push(sent),
                Note::Refused(place, number) => {
                    expected.sent.entry(place).or_default().retain(|sent| sent.number != number);
                }
                Note::Creating(name) => {
                    expected.unanswered.insert(name);
                }
                Note::Created(id, name) => {
                    expected.unanswered.remove(&name);
                    expected.names.insert(id, name);
                }
                _ => {}
            }
        }
        for note in &notes[..least] {
            match note.clone() {
                Note::Acknowledged(place, number, offset) => {
                    let entries = expected.acknowledged.entry(place).or_default();
                    let first = *entries.entry(number).or_insert(offset);
                    assert_eq!(first, offset, "number {number} was acknowledged in two places");
                }
                Note::Created(id, _) => {
                    expected.alive.insert(id);
                }
                Note::Deleted(id) => {
                    expected.gone.insert(id);
                }
                Note::ProducerId(id) => expected.producer_id = expected.producer_id.max(id),
                _ => {}
            }
        }
        for note in &notes[..most] {
            if let Note::Deleting(id) = note {
                expected.alive.remove(id);
            }
        }
        expected
    }

    /// Everything that must be there is, at its place, and nothing else than what may be.
    pub async fn holds(&self, broker: &Arc<Broker>) -> Contents {
        let mut contents = Contents::new();
        for id in &self.alive {
            assert!(broker.topic_by_id(id).is_some(), "topic {} is lost", self.names[id]);
        }
        for topic in broker.topics() {
            let id = topic.id();
            assert!(!self.gone.contains(&id), "topic {} came back", topic.name());
            match self.names.get(&id) {
                Some(name) => assert_eq!(name, topic.name().as_str()),
                None => {
                    assert!(self.unanswered.contains(topic.name().as_str()), "{}", topic.name());
                }
            }
            for (index, partition) in (0..).zip(topic.partitions()) {
                let seen = read_partition(partition).await;
                self.holds_in((id, index), partition.watermarks().log_start, &seen);
                contents.insert((id, index), seen);
            }
        }
        let producer = broker.new_producer_id().await.unwrap();
        assert!(producer > self.producer_id, "producer id {producer} was handed out before");
        contents
    }

    fn holds_in(&self, place: Place, log_start: Offset, seen: &[Seen]) {
        let none = Vec::new();
        let mut may = self.sent.get(&place).unwrap_or(&none).iter();
        let mut found = BTreeMap::new();
        for batch in seen {
            let sent = may.find(|sent| sent.values == batch.values);
            let sent = sent.unwrap_or_else(|| {
                panic!("{place:?}: {} was not sent, or not in this order", batch.base_offset)
            });
            found.insert(sent.number, batch.base_offset);
        }
        let must = self.acknowledged.get(&place).into_iter().flatten();
        for (number, offset) in must.filter(|(_, offset)| **offset >= log_start) {
            assert_eq!(found.get(number), Some(offset), "{place:?}: number {number} is lost");
        }
    }

    /// Sends again what idempotent producers cannot know to be there: what is there is answered with its place.
    pub async fn send_again(&self, broker: &Arc<Broker>, contents: &mut Contents) {
        for (place @ (id, index), seen) in contents {
            let idempotent: Vec<_> = self.sent.get(place).into_iter().flatten().collect();
            let idempotent = idempotent.into_iter().filter(|sent| sent.producer.is_some());
            let place_of =
                |sent: &Sent| seen.iter().find(|b| b.values == sent.values).map(|b| b.base_offset);
            let known: Vec<_> = idempotent.map(|sent| (sent, place_of(sent))).collect();
            // Of what is there the newest, then all that is not.
            let from = known.iter().rposition(|(_, place)| place.is_some()).unwrap_or(0);
            let topic = broker.topic_by_id(id).unwrap();
            let partition = topic.partition(*index).unwrap();
            for (sent, offset) in &known[from..] {
                let end = partition.watermarks().log_end;
                let epoch = partition.leader_epoch().0;
                let answer = partition.append(sent.batch(), Origin::Kafka).unwrap();
                let base_offset = answer.await.unwrap().base_offset;
                assert_eq!(base_offset, offset.unwrap_or(end), "{place:?}: {}", sent.number);
                if offset.is_none() {
                    seen.push(Seen { base_offset, epoch, values: sent.values.clone() });
                }
            }
        }
    }

    /// One more batch for each partition.
    async fn send_more(&mut self, broker: &Arc<Broker>, contents: &mut Contents) {
        for (place @ (id, index), seen) in contents {
            let topic = broker.topic_by_id(id).unwrap();
            let partition = topic.partition(*index).unwrap();
            let (number, values) = (usize::MAX, vec![format!("more of {id}-{index}")]);
            let sent = Sent { number, values, producer: None };
            let answer = partition.append(sent.batch(), Origin::Kafka).unwrap();
            let base_offset = answer.await.unwrap().base_offset;
            let epoch = partition.leader_epoch().0;
            seen.push(Seen { base_offset, epoch, values: sent.values.clone() });
            self.sent.entry(*place).or_default().push(sent);
            self.acknowledged.entry(*place).or_default().insert(number, base_offset);
        }
    }
}

/// Reads all of a partition, and holds its batches, epochs and watermarks against each other.
pub async fn read_partition(partition: &Partition) -> Vec<Seen> {
    let marks = partition.watermarks();
    assert_eq!(marks.broken_order(), None, "{marks:?}");
    assert_eq!(marks.high_watermark, marks.log_end, "{marks:?}");
    let (mut seen, mut from) = (Vec::<Seen>::new(), marks.log_start);
    loop {
        let bytes = partition.read(from, 200_000).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        for item in Batches::new(&bytes) {
            let (header, batch) = item.unwrap();
            assert_eq!(header.base_offset, from);
            let plain = plain_records(batch, &header).unwrap();
            let values = Records::new(&plain, &header)
                .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
                .collect();
            let epoch = header.leader_epoch;
            assert!(seen.last().is_none_or(|last| last.epoch <= epoch), "epochs go back");
            seen.push(Seen { base_offset: from, epoch, values });
            from = header.next_offset();
        }
    }
    assert_eq!(from, marks.high_watermark);
    assert!(seen.last().is_none_or(|last| last.epoch <= partition.leader_epoch().0));
    for pair in seen.windows(2).filter(|pair| pair[0].epoch < pair[1].epoch) {
        let end = partition.epoch_end(LeaderEpoch(pair[0].epoch)).unwrap();
        assert_eq!((end.epoch.0, end.end), (pair[0].epoch, pair[1].base_offset));
    }
    seen
}

/// Opens a disk and holds it against what is expected, and goes on; cuts the power, opens it once more, and finds the same.
pub async fn check(disk: &SimDisk, mut expected: Expected, random: &mut Random) {
    let broker = open(disk).unwrap();
    let mut contents = expected.holds(&broker).await;
    expected.send_again(&broker, &mut contents).await;
    expected.send_more(&broker, &mut contents).await;
    let image = disk.crash(random.bits());
    broker.stop();
    let broker = open(&image).unwrap();
    for (place, again) in &expected.holds(&broker).await {
        assert_eq!(Some(again), contents.get(place), "{place:?} at the second opening");
        let partition =
            Arc::clone(broker.topic_by_id(&place.0).unwrap().partition(place.1).unwrap());
        let (epoch, written) = (partition.leader_epoch().0, again.last().map(|last| last.epoch));
        assert!(written < Some(epoch), "{place:?}: epoch {epoch} was used by the life before");
    }
    broker.stop();
}
