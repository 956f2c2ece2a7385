//! The producer states that travel with the fragments. Pure.
//!
//! Each trailer names the states that its batches changed; a *full* one names all that live. Folding the trailers from
//! the newest full one on gives the same as following the batches, byte for byte: a fragment that is made again after
//! a restart must be the same. So the bound on their number is applied at the end of a fragment only.

use std::collections::{BTreeMap, BTreeSet};

use super::body::{ProducerBatch, ProducerState, Trailer};
use crate::log::{ProducerRoom, ProducerStates};
use crate::record::BatchHeader;
use crate::types::limits::{PARTITION_PRODUCERS, PRODUCER_BATCHES};

/// Fragments between two full trailers.
pub(super) const FULL_EVERY: u64 = 64;

/// States as of the end of some fragment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Producers {
    states: BTreeMap<i64, ProducerState>,
}

impl Producers {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Follows the batches of one fragment. Gives the states that changed.
    pub fn follow<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a BatchHeader>,
    ) -> Vec<ProducerState> {
        let mut changed = BTreeSet::new();
        for header in batches.into_iter().filter(|header| header.producer_id >= 0) {
            let id = header.producer_id;
            changed.insert(id);
            let epoch = header.producer_epoch;
            let state = self.states.entry(id).or_insert_with(|| ProducerState {
                id,
                epoch,
                batches: Vec::new(),
            });
            if state.epoch != epoch {
                state.epoch = epoch;
                state.batches.clear();
            }
            if state.batches.len() >= PRODUCER_BATCHES {
                state.batches.remove(0);
            }
            state.batches.push(ProducerBatch {
                first_sequence: header.base_sequence,
                last_sequence: header.last_sequence(),
                first_offset: header.base_offset,
                timestamp_ms: header.max_timestamp,
            });
        }
        self.bound();
        changed.iter().filter_map(|id| self.states.get(id).cloned()).collect()
    }

    /// Takes in what the trailer of the next fragment says.
    pub fn fold(&mut self, trailer: &Trailer, full: bool) {
        if full {
            self.states.clear();
        }
        let named = trailer.producers.iter().flatten();
        // Negative ids and empty lists are never written.
        let sound = named.filter(|state| state.id >= 0 && !state.batches.is_empty());
        self.states.extend(sound.map(|state| (state.id, state.clone())));
        self.bound();
    }

    /// All of them.
    pub fn all(&self) -> Vec<ProducerState> {
        self.states.values().cloned().collect()
    }

    /// As the log keeps them, where there is `room`; they count as used at `now_ms`.
    pub fn into_log(self, now_ms: i64, room: &ProducerRoom) -> ProducerStates {
        let mut by_offset: Vec<_> = self.states.into_values().collect();
        by_offset.sort_by_key(newest);
        let mut states = ProducerStates::default();
        for state in by_offset {
            for batch in &state.batches {
                states.apply(&header_of(&state, batch), now_ms, room);
            }
        }
        states
    }

    fn bound(&mut self) {
        while self.states.len() > PARTITION_PRODUCERS {
            let oldest = self.states.values().min_by_key(|state| (newest(state), state.id));
            let Some(id) = oldest.map(|state| state.id) else { break };
            self.states.remove(&id);
        }
    }
}

fn newest(state: &ProducerState) -> i64 {
    state.batches.last().map_or(-1, |batch| batch.first_offset)
}

/// The header that leaves this trace.
fn header_of(state: &ProducerState, batch: &ProducerBatch) -> BatchHeader {
    let records = producer_records(batch);
    BatchHeader {
        base_offset: batch.first_offset,
        batch_length: 0,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: records,
        base_timestamp: batch.timestamp_ms,
        max_timestamp: batch.timestamp_ms,
        producer_id: state.id,
        producer_epoch: state.epoch,
        base_sequence: batch.first_sequence,
        record_count: records.saturating_add(1),
    }
}

/// Records behind the first; sequences go on at 0 behind the largest.
fn producer_records(batch: &ProducerBatch) -> i32 {
    if batch.last_sequence >= batch.first_sequence {
        batch.last_sequence - batch.first_sequence
    } else {
        (i32::MAX - batch.first_sequence).saturating_add(batch.last_sequence).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(id: i64, epoch: i16, sequence: i32, offset: i64) -> BatchHeader {
        let batch = ProducerBatch {
            first_sequence: sequence,
            last_sequence: sequence.wrapping_add(2) & i32::MAX,
            first_offset: offset,
            timestamp_ms: offset,
        };
        header_of(&ProducerState { id, epoch, batches: Vec::new() }, &batch)
    }

    #[test]
    fn folding_trailers_gives_what_following_batches_gives() {
        let mut followed = Producers::default();
        let mut folded = Producers::default();
        for fragment in 0..40i32 {
            let batches: Vec<_> = (0..3)
                .map(|i| {
                    let id = i64::from((fragment * 7 + i) % 5) - 1;
                    header(id, (fragment / 15) as i16, fragment * 3, i64::from(fragment * 10 + i))
                })
                .collect();
            let changed = followed.follow(&batches);
            let full = fragment % 8 == 0;
            let producers = Some(if full { followed.all() } else { changed });
            folded.fold(&Trailer { producers, ..Trailer::default() }, full);
            assert_eq!(folded, followed);
        }
        assert_eq!(followed.all().len(), 4);
    }

    #[test]
    fn the_log_knows_a_resent_batch_again() {
        let mut producers = Producers::default();
        let batch = header(7, 1, i32::MAX - 1, 50);
        producers.follow([&batch]);
        let states = producers.into_log(1, &ProducerRoom::default());
        assert_eq!(batch.last_sequence(), 0);
        let verdict = states.check(&batch);
        assert_eq!(verdict, Ok(crate::log::Verdict::Duplicate { base_offset: 50, timestamp: 50 }));
    }
}
