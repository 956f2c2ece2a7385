//! What is known of the idempotent producers of one partition. Pure.
//!
//! A producer numbers its records; a batch is taken once and in order. Its last five batches are remembered, so that a
//! resent one is answered as the first time and not appended again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::record::BatchHeader;
use crate::types::Offset;
use crate::types::limits::{PARTITION_PRODUCERS, PRODUCERS};

/// Batches remembered per producer: clients keep no more requests in flight. Source: Kafka's `ProducerStateEntry`.
const CACHED_BATCHES: usize = 5;

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is new.
    Append,
    /// It is there already: answer success with these.
    Duplicate {
        /// Base offset that it got.
        base_offset: Offset,
        /// Its max timestamp as stored; with log append time, the time of the append.
        timestamp: i64,
    },
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// A newer instance of the producer has written.
    #[error("epoch {got} of producer {producer_id} is fenced by epoch {known}")]
    InvalidEpoch {
        /// The producer.
        producer_id: i64,
        /// Epoch of the batch.
        got: i16,
        /// Epoch known here.
        known: i16,
    },
    /// Not the next batch, and none of those remembered.
    #[error("producer {producer_id} sent sequence {got} where {expected} is next")]
    OutOfOrder {
        /// The producer.
        producer_id: i64,
        /// First sequence of the batch.
        got: i32,
        /// The sequence that would be taken.
        expected: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct CachedBatch {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    last_used_ms: i64,
    /// Oldest first, one at least.
    batches: VecDeque<CachedBatch>,
}

/// The stored form of [`ProducerStates`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerSnapshot {
    producers: Vec<(i64, Producer)>,
}

/// What all partitions together may remember beside the first producer of each, and how much of it is taken. It is a number
/// and no handle: a clone counts on its own.
#[derive(Debug)]
pub struct ProducerRoom {
    most: usize,
    taken: AtomicUsize,
}

impl ProducerRoom {
    /// Room for `most` producers, of which `taken` are there.
    #[must_use]
    pub fn new(most: usize, taken: usize) -> Self {
        Self { most, taken: AtomicUsize::new(taken) }
    }

    /// Room for so many in all.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// How much is taken: the sum of [`ProducerStates::counted`] over all partitions.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes the room of one producer, where there is some.
    fn take(&self) -> bool {
        let one_more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives back the room of partitions that are gone, or of producers that are.
    pub fn give_back(&self, count: usize) {
        let before = self.taken.fetch_sub(count, Ordering::Relaxed);
        assert!(before >= count, "room for {count} producers given back, {before} taken");
    }
}

impl Default for ProducerRoom {
    fn default() -> Self {
        Self::new(PRODUCERS, 0)
    }
}

impl Clone for ProducerRoom {
    fn clone(&self) -> Self {
        Self::new(self.most, self.taken())
    }
}

impl PartialEq for ProducerRoom {
    fn eq(&self, other: &Self) -> bool {
        (self.most, self.taken()) == (other.most, other.taken())
    }
}

impl Eq for ProducerRoom {}

/// The producers of one partition, at most [`PARTITION_PRODUCERS`] and, beside the first, as many as there is room for: a
/// further one displaces the one that wrote longest ago, which is then unknown and may go on with any sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: HashMap<i64, Producer>,
    by_age: BTreeSet<(i64, i64)>,
}

impl ProducerStates {
    /// Judges a batch against all that were applied. Changes nothing: a batch that is taken is to be applied with its
    /// final header before the next one is checked. A batch without producer id is always taken, an unknown producer may
    /// begin with any sequence.
    ///
    /// # Errors
    /// [`ProducerError`]; the batch must not be appended.
    pub fn check(&self, header: &BatchHeader) -> Result<Verdict, ProducerError> {
        let producer_id = header.producer_id;
        let Some(producer) = self.producers.get(&producer_id).filter(|_| producer_id >= 0) else {
            return Ok(Verdict::Append);
        };
        let (got, known) = (header.producer_epoch, producer.epoch);
        if got < known {
            return Err(ProducerError::InvalidEpoch { producer_id, got, known });
        }
        let (first, last) = (header.base_sequence, header.last_sequence());
        let expected = if got > known { 0 } else { producer.next_sequence() };
        if got == known {
            let same =
                |batch: &&CachedBatch| (batch.first_sequence, batch.last_sequence) == (first, last);
            if let Some(batch) = producer.batches.iter().rev().find(same) {
                let CachedBatch { base_offset, timestamp, .. } = *batch;
                return Ok(Verdict::Duplicate { base_offset, timestamp });
            }
        }
        if first != expected {
            return Err(ProducerError::OutOfOrder { producer_id, got: first, expected });
        }
        Ok(Verdict::Append)
    }

    /// Remembers a batch that was taken, offsets assigned. Also for replay, where nothing is checked.
    pub fn apply(&mut self, header: &BatchHeader, now_ms: i64, room: &ProducerRoom) {
        let id = header.producer_id;
        if id < 0 {
            return;
        }
        if !self.producers.contains_key(&id) {
            self.make_room(room);
        }
        let producer = self.producers.entry(id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            last_used_ms: now_ms,
            batches: VecDeque::new(),
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        while producer.batches.len() >= CACHED_BATCHES {
            producer.batches.pop_front();
        }
        producer.batches.push_back(CachedBatch {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            timestamp: header.max_timestamp,
        });
        self.by_age.remove(&(producer.last_used_ms, id));
        producer.last_used_ms = now_ms;
        self.by_age.insert((now_ms, id));
    }

    /// Forgets producers that wrote nothing for more than `max_age_ms` (Kafka: `producer.id.expiration.ms`). Gives their
    /// number.
    pub fn expire(&mut self, now_ms: i64, max_age_ms: i64, room: &ProducerRoom) -> usize {
        let counted = self.counted();
        let oldest_kept = (now_ms.saturating_sub(max_age_ms), i64::MIN);
        if self.by_age.first().is_none_or(|oldest| *oldest >= oldest_kept) {
            return 0;
        }
        let kept = self.by_age.split_off(&oldest_kept);
        let expired = std::mem::replace(&mut self.by_age, kept);
        for (_, id) in &expired {
            self.producers.remove(id);
        }
        room.give_back(counted - self.counted());
        expired.len()
    }

    /// Forgets all.
    pub fn clear(&mut self, room: &ProducerRoom) {
        room.give_back(self.counted());
        *self = Self::default();
    }

    /// Forgets all but those that wrote last. Whoever counts them has to count anew.
    pub fn keep_newest(&mut self, count: usize) {
        while self.producers.len() > count {
            self.forget_oldest();
        }
    }

    /// How many of them take room: all but one.
    #[must_use]
    pub fn counted(&self) -> usize {
        self.len().saturating_sub(1)
    }

    /// Number of producers known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Base offset of the newest batch of each producer.
    #[must_use]
    pub fn newest_batches(&self) -> HashMap<i64, Offset> {
        let newest =
            |(id, producer): (&i64, &Producer)| Some((*id, producer.batches.back()?.base_offset));
        self.producers.iter().filter_map(newest).collect()
    }

    /// The stored form, in order of last use.
    #[must_use]
    pub fn snapshot(&self) -> ProducerSnapshot {
        let stored = |(_, id): &(i64, i64)| Some((*id, self.producers.get(id)?.clone()));
        ProducerSnapshot { producers: self.by_age.iter().filter_map(stored).collect() }
    }

    /// From the stored form. What breaks the bounds of this version (too many producers or batches) is left out.
    #[must_use]
    pub fn restore(snapshot: ProducerSnapshot) -> Self {
        let mut states = Self::default();
        let excess = snapshot.producers.len().saturating_sub(PARTITION_PRODUCERS);
        for (id, mut producer) in snapshot.producers.into_iter().skip(excess) {
            let excess = producer.batches.len().saturating_sub(CACHED_BATCHES);
            producer.batches.drain(..excess);
            if id < 0 || producer.batches.is_empty() || states.producers.contains_key(&id) {
                continue;
            }
            states.by_age.insert((producer.last_used_ms, id));
            states.producers.insert(id, producer);
        }
        states
    }

    /// For one that is new.
    fn make_room(&mut self, room: &ProducerRoom) {
        if self.is_empty() {
            return;
        }
        if self.len() >= PARTITION_PRODUCERS || !room.take() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_first() {
            self.producers.remove(&id);
        }
    }
}

impl Producer {
    fn next_sequence(&self) -> i32 {
        match self.batches.back().map(|batch| batch.last_sequence) {
            None | Some(i32::MAX) => 0,
            Some(last) => last + 1,
        }
    }
}

#[cfg(test)]
mod tests;
