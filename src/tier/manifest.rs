//! The catalogue of a partition's fragments, in memory.
//!
//! Entries come one by one from the shipper and all at once from the servers, where one may lack what another has, and where
//! a stale owner may have left entries that were never part of the log. What counts is the **chain**: from the oldest entry
//! on, each next one names the hash of the one before and continues its offsets. Entries beside the chain stay known, as
//! strays, so that their numbers are not taken again and their shards can be removed.

use std::collections::{BTreeMap, BTreeSet};

use super::encryption::Hash;
use super::records::{EntryState, HeadRecord, ManifestEntry};
use crate::types::{CommitNumber, LeaderEpoch, Offset, Sequence};

/// What adding an entry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The number was not known.
    New,
    /// It replaced an older generation or revision.
    Updated,
    /// It was known already, or is older than what is known.
    Known,
}

/// Two entries that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestConflict {
    /// Two seals share a number and generation.
    #[error(
        "fragment {number} generation {generation} was sealed twice, in epochs {known} and {other}: the higher epoch counts, \
         with equal ones neither"
    )]
    Seal {
        /// The number.
        number: u64,
        /// The generation.
        generation: u32,
        /// Epoch of the entry that was known.
        known: LeaderEpoch,
        /// Epoch of the other.
        other: LeaderEpoch,
    },
    /// Two changes share a revision.
    #[error(
        "revision {revision} of the entry of fragment {number} exists in two forms: the known one is kept"
    )]
    Revision {
        /// The number.
        number: u64,
        /// The revision.
        revision: u32,
    },
}

/// Where the chain ends although entries lie beyond.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainBreak {
    /// Offsets are missing.
    #[error("offsets {from} to {to} are in no fragment: fragment {number} begins behind them")]
    Gap {
        /// First missing offset.
        from: Offset,
        /// Last missing offset.
        to: Offset,
        /// The next fragment.
        number: u64,
    },
    /// The offsets fit and the hash does not.
    #[error("fragment {number} does not name the hash of fragment {previous} before it")]
    Link {
        /// The later one.
        number: u64,
        /// The earlier one.
        previous: u64,
    },
}

/// A run of sequences: where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First offset of the fragment in which it begins.
    pub first_offset: Offset,
    /// Its first sequence.
    pub first_sequence: Sequence,
}

/// An epoch: where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset.
    pub first_offset: Offset,
}

/// The fragments of one partition.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    entries: BTreeMap<u64, ManifestEntry>,
    /// Numbers that heads or the caller gave up.
    abandoned: BTreeSet<u64>,
    /// Numbers with two seals of one epoch: nobody can say which holds.
    contested: BTreeSet<u64>,
    /// The chain: first offset to number.
    chain: BTreeMap<Offset, u64>,
}

impl Manifest {
    /// The union of what several servers hold. Conflicts are named, none is passed over; the chain is laid anew.
    #[must_use]
    pub fn union(
        lists: impl IntoIterator<Item = Vec<ManifestEntry>>,
        abandoned: impl IntoIterator<Item = u64>,
    ) -> (Self, Vec<ManifestConflict>) {
        let mut manifest = Self::default();
        let mut conflicts = Vec::new();
        for entry in lists.into_iter().flatten() {
            match manifest.add(entry) {
                Err(conflict) if !conflicts.contains(&conflict) => conflicts.push(conflict),
                _ => {}
            }
        }
        manifest.abandoned.extend(abandoned);
        manifest.relink();
        (manifest, conflicts)
    }

    /// Adds an entry, or changes the one of its number.
    ///
    /// # Errors
    /// [`ManifestConflict`]; the catalogue is then as its text says.
    pub fn insert(&mut self, entry: ManifestEntry) -> Result<Inserted, ManifestConflict> {
        let (number, first_offset) = (entry.number, entry.first_offset);
        // The usual cases need no look at all others: a new fragment behind all that are known, and a change of state or
        // servers or a newer generation, which move nothing in the chain.
        let extends = self.entries.last_key_value().is_none_or(|(last, _)| *last < number)
            && self.chain_last().is_some_and(|last| continues(last, &entry))
            && !self.abandoned.contains(&number);
        let stays = self.entries.get(&number).is_some_and(|known| stands_for(&entry, known));
        let done = self.add(entry);
        match done {
            Ok(Inserted::New) if extends => {
                self.chain.insert(first_offset, number);
            }
            Ok(Inserted::Known) => {}
            Ok(Inserted::Updated) if stays => {}
            _ => self.relink(),
        }
        done
    }

    fn add(&mut self, entry: ManifestEntry) -> Result<Inserted, ManifestConflict> {
        let number = entry.number;
        let Some(known) = self.entries.get_mut(&number) else {
            self.entries.insert(number, entry);
            return Ok(Inserted::New);
        };
        if entry.generation != known.generation {
            // The mark of a deletion is final, whichever generation it was put on.
            let deleted = [&entry, known].iter().any(|it| it.state == EntryState::Deleting);
            let stays = entry.generation < known.generation;
            if stays && deleted == (known.state == EntryState::Deleting) {
                return Ok(Inserted::Known);
            }
            if !stays {
                *known = entry;
            }
            if deleted {
                known.state = EntryState::Deleting;
            }
            return Ok(Inserted::Updated);
        }
        if entry.hash != known.hash || entry.public_hash != known.public_hash {
            let (generation, epochs) = (entry.generation, (known.leader_epoch, entry.leader_epoch));
            match epochs.1.cmp(&epochs.0) {
                std::cmp::Ordering::Greater => *known = entry,
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    self.contested.insert(number);
                }
            }
            let (known, other) = epochs;
            return Err(ManifestConflict::Seal { number, generation, known, other });
        }
        if entry.revision > known.revision {
            *known = entry;
            return Ok(Inserted::Updated);
        }
        if entry.revision == known.revision && entry != *known {
            return Err(ManifestConflict::Revision { number, revision: entry.revision });
        }
        Ok(Inserted::Known)
    }

    /// Gives numbers up: their entries are no part of the log.
    pub fn abandon(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.abandoned.extend(numbers);
        self.relink();
    }

    /// Forgets a fragment whose shards are removed. Taken from the chain's begin this keeps the chain whole.
    pub fn remove(&mut self, number: u64) -> Option<ManifestEntry> {
        let entry = self.entries.remove(&number)?;
        let first = self.chain.first_key_value().map(|(_, number)| *number);
        if first == Some(number) {
            self.chain.pop_first();
        } else if self.chain.get(&entry.first_offset) == Some(&number) {
            self.relink();
        }
        Some(entry)
    }

    /// Lays the chain anew from all entries.
    fn relink(&mut self) {
        let mut by_offset: BTreeMap<Offset, Vec<u64>> = BTreeMap::new();
        for (number, entry) in &self.entries {
            if !self.abandoned.contains(number) && !self.contested.contains(number) {
                by_offset.entry(entry.first_offset).or_default().push(*number);
            }
        }
        // Where two entries continue the same one, an owner was replaced: epochs and numbers only rise.
        let newest = |numbers: &[u64], before: Option<&ManifestEntry>| {
            let entries = numbers.iter().filter_map(|number| self.entries.get(number));
            let fit = entries.filter(|entry| before.is_none_or(|b| continues(b, entry)));
            fit.max_by_key(|entry| (entry.leader_epoch, entry.number))
        };
        let mut chain = BTreeMap::new();
        let mut last = by_offset.first_key_value().and_then(|(_, numbers)| newest(numbers, None));
        while let Some(entry) = last {
            chain.insert(entry.first_offset, entry.number);
            let next = by_offset.get(&entry.next_offset());
            last = next.and_then(|numbers| newest(numbers, Some(entry)));
        }
        self.chain = chain;
    }

    /// The entry of a number, on the chain or not.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&ManifestEntry> {
        self.entries.get(&number)
    }

    /// The fragments of the log in order.
    pub fn chain(&self) -> impl DoubleEndedIterator<Item = &ManifestEntry> {
        self.chain.values().filter_map(|number| self.entries.get(number))
    }

    /// Newest fragment of the chain: the next one names its hashes.
    #[must_use]
    pub fn chain_last(&self) -> Option<&ManifestEntry> {
        self.chain().next_back()
    }

    /// Hash and public hash that the next fragment names: zeros in front of the first.
    #[must_use]
    pub fn chain_hashes(&self) -> (Hash, Hash) {
        self.chain_last().map_or(([0; 32], [0; 32]), |entry| (entry.hash, entry.public_hash))
    }

    /// First offset of the chain and the offset behind its last, if there is any.
    #[must_use]
    pub fn chain_range(&self) -> Option<(Offset, Offset)> {
        let first = self.chain().next()?.first_offset;
        Some((first, self.chain_last()?.next_offset()))
    }

    /// Entries that are neither on the chain nor abandoned.
    pub fn strays(&self) -> impl Iterator<Item = &ManifestEntry> {
        self.entries.values().filter(|entry| {
            self.chain.get(&entry.first_offset) != Some(&entry.number)
                && !self.abandoned.contains(&entry.number)
        })
    }

    /// Numbers that were given up, ascending: what the next head record lists.
    pub fn abandoned(&self) -> impl Iterator<Item = u64> + '_ {
        self.abandoned.iter().copied()
    }

    /// Checks that no entry lies beyond the chain's end.
    ///
    /// # Errors
    /// [`ChainBreak`], naming the first entry beyond.
    pub fn check_unbroken(&self) -> Result<(), ChainBreak> {
        let Some(last) = self.chain_last() else { return Ok(()) };
        let end = last.next_offset();
        let beyond = self.strays().filter(|entry| entry.first_offset >= end);
        let Some(next) = beyond.min_by_key(|entry| entry.first_offset) else { return Ok(()) };
        let number = next.number;
        Err(match next.first_offset == end {
            true => ChainBreak::Link { number, previous: last.number },
            false => ChainBreak::Gap { from: end, to: next.first_offset - 1, number },
        })
    }

    /// The fragment that holds an offset and may be read.
    #[must_use]
    pub fn entry_at(&self, offset: Offset) -> Option<&ManifestEntry> {
        let (_, number) = self.chain.range(..=offset).next_back()?;
        let entry = self.entries.get(number)?;
        (offset <= entry.last_offset && entry.state != EntryState::Deleting).then_some(entry)
    }

    /// The number for a new fragment: above every one ever seen here, abandoned ones included.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        let seen = self.entries.keys().next_back().max(self.abandoned.last());
        seen.map_or(0, |number| number.saturating_add(1))
    }

    /// Offset up to which every fragment of the chain is complete, from the chain's begin.
    #[must_use]
    pub fn complete_offset(&self) -> Option<Offset> {
        let incomplete = self.chain().find(|entry| entry.state == EntryState::Shipped);
        incomplete.map(|entry| entry.first_offset).or(self.chain_range().map(|(_, end)| end))
    }

    /// The epochs of the log in order.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochStart> {
        let mut epochs: Vec<EpochStart> = Vec::new();
        for entry in self.chain() {
            if epochs.last().is_none_or(|last| last.epoch != entry.leader_epoch) {
                let (epoch, first_offset) = (entry.leader_epoch, entry.first_offset);
                epochs.push(EpochStart { epoch, first_offset });
            }
        }
        epochs
    }

    /// The sequence runs of the log in order: a new one begins where a first sequence is not the one after the last.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut expected = None;
        for entry in self.chain() {
            let Some(range) = entry.sequences else { continue };
            if expected != Some(range.first.0) {
                let (first_offset, first_sequence) = (entry.first_offset, range.first);
                runs.push(Run { first_offset, first_sequence });
            }
            expected = range.last.0.checked_add(1);
        }
        runs
    }

    /// The fragments whose trailers together give all live producer states: from the newest full one on.
    pub fn since_full(&self) -> impl Iterator<Item = &ManifestEntry> {
        let full = self.chain().rev().find(|entry| entry.full).map(|entry| entry.first_offset);
        self.chain().skip_while(move |entry| full.is_some_and(|at| entry.first_offset < at))
    }

    /// Highest producer id in any entry, stray or not; -1 for none.
    #[must_use]
    pub fn highest_producer_id(&self) -> i64 {
        self.entries.values().map(|entry| entry.highest_producer_id).max().unwrap_or(-1)
    }

    /// Highest commit number in any entry; a new data directory starts above it.
    #[must_use]
    pub fn last_commit(&self) -> CommitNumber {
        self.entries.values().map(|entry| entry.last_commit).max().unwrap_or(0)
    }
}

fn continues(before: &ManifestEntry, entry: &ManifestEntry) -> bool {
    entry.number > before.number
        && entry.first_offset == before.next_offset()
        && before.is_named_by(&entry.previous_hash)
}

/// Whether `entry` in the place of `known` has the same neighbours.
fn stands_for(entry: &ManifestEntry, known: &ManifestEntry) -> bool {
    let same_place = (entry.first_offset, entry.last_offset, entry.leader_epoch)
        == (known.first_offset, known.last_offset, known.leader_epoch);
    same_place
        && entry.previous_hash == known.previous_hash
        && entry.is_named_by(&known.hash)
        && known.replaced.iter().all(|(hash, _)| entry.is_named_by(hash))
}

/// The newest of the head records of several servers, each already verified.
#[must_use]
pub fn newest_head(heads: &[HeadRecord]) -> Option<&HeadRecord> {
    heads.iter().max_by_key(|head| (head.epoch, head.number, head.shipped_offset))
}

#[cfg(test)]
mod tests;
