//! What a journal obliges a broker to, and whether it keeps it.
//!
//! What may be gone is said by the journal. A front that was cut off: the log starts at least where it was answered to start,
//! at most where it was asked to; nothing is asked for below, and nothing of it is read. Records below an offset up to which
//! it was compacted, see [`Item::cells`]: of each cell (a key, a block of a vdisk) the newest record that was acknowledged
//! is there, or one that was sent later, or it was a deletion whose time has come. All others are there at their offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::*;
use super::scenario::{self, Item, Kind, Note, Place, Sent, kind_of, open};
use crate::disk::sim::{Random, SimDisk};
use crate::record::{Batches, Records, plain_records};
use crate::types::{LeaderEpoch, Offset, TopicId};

/// A batch as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub base_offset: Offset,
    pub next_offset: Offset,
    pub epoch: i32,
    /// Of what was compacted some are missing.
    pub values: Vec<(Offset, Item)>,
}

impl Seen {
    fn of(sent: &Sent, base_offset: Offset, epoch: i32) -> Self {
        let values: Vec<_> = (base_offset..).zip(sent.values.iter().cloned()).collect();
        Self { base_offset, next_offset: base_offset + values.len() as Offset, epoch, values }
    }
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
    /// Between which offsets the log starts.
    starts: BTreeMap<Place, (Offset, Offset)>,
    /// Below it records may be gone because of newer ones.
    compacted: BTreeMap<Place, Offset>,
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
        for (number, note) in notes[..most].iter().enumerate() {
            match note {
                Note::Deleting(id) => {
                    expected.alive.remove(id);
                }
                Note::Cutting(place, upto) => {
                    let (_, highest) = expected.starts.entry(*place).or_default();
                    *highest = (*highest).max(*upto);
                }
                Note::Cut(place, start) if number < least => {
                    expected.starts.insert(*place, (*start, *start));
                }
                Note::Compacting(place, upto) => {
                    expected.compacted.insert(*place, *upto);
                }
                _ => {}
            }
        }
        expected
    }

    /// Compacts what may be; then all of it must hold as before.
    async fn compact(&mut self, broker: &Arc<Broker>) {
        for topic in broker.topics().iter().filter(|topic| kind_of(topic) != Kind::Plain) {
            for (index, partition) in (0..).zip(topic.partitions()) {
                let end = partition.watermarks().high_watermark;
                self.compacted.insert((topic.id(), index), end);
            }
        }
        scenario::compact(broker, i64::from(i32::MAX)).await;
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
        // A vdisk may begin at 1.
        let (least, most) = self.starts.get(&place).copied().unwrap_or((0, 1));
        assert!(
            least <= log_start,
            "{place:?}: what lay below {least} is back from {log_start} on"
        );
        assert!(log_start <= most.max(1), "{place:?}: starts at {log_start}, above {most}");
        let compacted = self.compacted.get(&place).copied().unwrap_or(0);
        let sent: Vec<&Sent> = self.sent.get(&place).into_iter().flatten().collect();
        let mut may =
            sent.iter().flat_map(|sent| sent.values.iter().enumerate().map(|it| (*sent, it)));
        let mut found = BTreeMap::new();
        for batch in seen {
            assert!(batch.next_offset > log_start);
            let mut from = BTreeSet::new();
            for (offset, item) in &batch.values {
                let (sent, (n, _)) = may.find(|(_, (_, it))| *it == item).unwrap_or_else(|| {
                    panic!("{place:?}: {offset} was not sent, or not in this order")
                });
                from.insert((sent.number, sent.values.len()));
                found.insert((sent.number, n), *offset);
            }
            let is_whole = from.len() == 1 && from.iter().all(|(_, n)| *n == batch.values.len());
            assert!(is_whole || batch.base_offset < compacted, "{place:?}: {batch:?} is in parts");
        }
        let none = BTreeMap::new();
        let must = self.acknowledged.get(&place).unwrap_or(&none);
        for (sent, offset) in sent.iter().filter_map(|it| Some((it, *must.get(&it.number)?))) {
            for (n, at) in (0..sent.values.len()).zip(offset..).filter(|(_, at)| *at >= log_start) {
                let there = found.get(&(sent.number, n));
                assert!(
                    there == Some(&at) || (there.is_none() && at < compacted),
                    "{place:?}: number {} is lost: {there:?} in place of {at}",
                    sent.number
                );
            }
        }
        let cells: BTreeSet<usize> =
            sent.iter().flat_map(|it| &it.values).flat_map(|it| it.cells.clone()).collect();
        for cell in cells {
            // Each that says something about it, in order: where it must be, and where it is.
            let about = sent.iter().flat_map(|sent| {
                let base = must.get(&sent.number);
                let items = sent.values.iter().enumerate();
                items.filter(|(_, item)| item.cells.contains(&cell)).map(move |(n, item)| {
                    (item, base.map(|base| base + n as Offset), (sent.number, n))
                })
            });
            let about: Vec<_> = about.map(|(item, at, key)| (item, at, found.get(&key))).collect();
            let newest = about.iter().rposition(|(_, at, _)| at.is_some_and(|at| at >= log_start));
            let Some(newest) = newest else { continue };
            if about[newest..].iter().any(|(.., there)| there.is_some()) {
                continue;
            }
            let older = about[..newest].iter().any(|(.., there)| there.is_some());
            // What was not answered may have been there, too, and the newest at its time.
            let mut deletions = about[newest..].iter().filter(|(item, ..)| item.value.is_none());
            assert!(
                !older && deletions.any(|(item, ..)| item.kind == Kind::Keyed),
                "{place:?}: of cell {cell} the newest, {:?}, is lost; there is {older}",
                about[newest]
            );
        }
    }

    /// Sends again what idempotent producers cannot know to be there: what is there is answered with its place.
    pub async fn send_again(&self, broker: &Arc<Broker>, contents: &mut Contents) {
        for (place @ (id, index), seen) in contents {
            let idempotent: Vec<_> = self.sent.get(place).into_iter().flatten().collect();
            let idempotent = idempotent.into_iter().filter(|sent| sent.producer.is_some());
            let answers = self.acknowledged.get(place);
            let place_of = |sent: &Sent| {
                let answered = answers.and_then(|it| it.get(&sent.number)).copied();
                let seen = || {
                    let mut all = seen.iter().flat_map(|batch| &batch.values);
                    // Where it is not whole it was answered, and others have its offsets.
                    all.find(|(_, item)| *item == sent.values[0]).map(|(offset, _)| *offset)
                };
                answered.or_else(seen)
            };
            let known: Vec<_> = idempotent.map(|sent| (sent, place_of(sent))).collect();
            // Of what is there the newest, then all that is not.
            let from = known.iter().rposition(|(_, place)| place.is_some()).unwrap_or(0);
            let topic = broker.topic_by_id(id).unwrap();
            let partition = topic.partition(*index).unwrap();
            for (sent, offset) in &known[from..] {
                let end = partition.watermarks().log_end;
                let epoch = partition.leader_epoch().0;
                let answer = partition.append(sent.batch(), sent.origin()).unwrap();
                let base_offset = answer.await.unwrap().base_offset;
                // It was there, unanswered, and went again.
                let went = base_offset < self.starts.get(place).map_or(0, |(_, most)| *most)
                    || base_offset < self.compacted.get(place).copied().unwrap_or(0);
                if offset.is_none() && went {
                    continue;
                }
                assert_eq!(base_offset, offset.unwrap_or(end), "{place:?}: {}", sent.number);
                if offset.is_none() {
                    seen.push(Seen::of(sent, base_offset, epoch));
                }
            }
        }
    }

    /// One more batch for each partition.
    async fn send_more(&mut self, broker: &Arc<Broker>, contents: &mut Contents) {
        for (place @ (id, index), seen) in contents {
            let topic = broker.topic_by_id(id).unwrap();
            let partition = topic.partition(*index).unwrap();
            let item = Item::simple(kind_of(&topic), format!("more of {id}-{index}"));
            let (number, values) = (usize::MAX, vec![item]);
            let sent = Sent { number, values, producer: None };
            let answer = partition.append(sent.batch(), sent.origin()).unwrap();
            let base_offset = answer.await.unwrap().base_offset;
            let epoch = partition.leader_epoch().0;
            seen.push(Seen::of(&sent, base_offset, epoch));
            self.sent.entry(*place).or_default().push(sent);
            self.acknowledged.entry(*place).or_default().insert(number, base_offset);
        }
    }
}

/// Reads all of a partition, and holds its batches, epochs and watermarks against each other.
pub async fn read_partition(partition: &Partition) -> Vec<Seen> {
    try_read(partition).await.unwrap()
}

/// As [`read_partition`]; up to the first read that gives an error.
pub async fn try_read(partition: &Partition) -> Result<Vec<Seen>, ReadError> {
    let marks = partition.watermarks();
    assert_eq!(marks.broken_order(), None, "{marks:?}");
    assert_eq!(marks.high_watermark, marks.log_end, "{marks:?}");
    let (mut seen, mut from) = (Vec::<Seen>::new(), marks.log_start);
    loop {
        let bytes = partition.read(from, 200_000).await?;
        if bytes.is_empty() {
            break;
        }
        for item in Batches::new(&bytes) {
            let (header, batch) = item.unwrap();
            let base_offset = header.base_offset;
            // The log may start within the first.
            assert!(base_offset == from || (seen.is_empty() && base_offset <= from));
            let plain = plain_records(batch, &header).unwrap();
            let values = Records::new(&plain, &header).map(|record| {
                let record = record.unwrap();
                (base_offset + Offset::from(record.offset_delta), Item::of(&record))
            });
            let values = values.collect();
            let epoch = header.leader_epoch;
            assert!(seen.last().is_none_or(|last| last.epoch <= epoch), "epochs go back");
            let next_offset = header.next_offset();
            seen.push(Seen { base_offset, next_offset, epoch, values });
            from = next_offset;
        }
    }
    assert_eq!(from, marks.high_watermark);
    assert!(seen.last().is_none_or(|last| last.epoch <= partition.leader_epoch().0));
    for pair in seen.windows(2).filter(|pair| pair[0].epoch < pair[1].epoch) {
        let end = partition.epoch_end(LeaderEpoch(pair[0].epoch)).unwrap();
        assert_eq!((end.epoch.0, end.end), (pair[0].epoch, pair[1].base_offset));
    }
    Ok(seen)
}

/// Opens a disk and holds it against what is expected, and goes on; cuts the power, opens it once more, and finds the same.
pub async fn check(disk: &SimDisk, mut expected: Expected, random: &mut Random) {
    let broker = open(disk).unwrap();
    let mut contents = expected.holds(&broker).await;
    if random.below(4) == 0 {
        expected.compact(&broker).await;
        contents = expected.holds(&broker).await;
    }
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
