//! The plain content of a fragment: whole record batches, then the trailer, then zeros up to a multiple of k KiB.
//!
//! The trailer is drawn in `tier/mod.rs`. Each of its parts may be absent; none is needed to read the batches.

use bytes::Bytes;
use capnp::message::{Builder, HeapAllocator};

use super::codec;
use super::error::{BodyError, Malformed};
use super::header::{FORMAT, FragmentHeader, PADDING_BYTES};
use super::tier_capnp::{journal_state, producer_state, trailer};
use crate::record::{self, BatchHeader};
use crate::types::limits::{FRAGMENT_BATCHES, FRAGMENT_BODY_BYTES, PRODUCER_BATCHES};
use crate::types::{CommitNumber, LeaderEpoch, Offset};

const TRAILER_MAGIC: &[u8; 4] = b"TLTR";

/// Magic, format, two zero bytes, length.
const TRAILER_PREFIX_BYTES: usize = 12;

/// A transaction that was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Who wrote it.
    pub producer_id: i64,
    /// Its first record.
    pub first_offset: Offset,
    /// Its marker.
    pub last_offset: Offset,
    /// Last stable offset when the marker was written, exclusive.
    pub last_stable_offset: Offset,
}

/// A batch that a producer wrote, by which a retry is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Producer sequence of its first record.
    pub first_sequence: i32,
    /// Producer sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub first_offset: Offset,
    /// Its time, in ms since 1970.
    pub timestamp_ms: i64,
}

/// The state of an idempotent producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    /// Producer id.
    pub id: i64,
    /// Producer epoch.
    pub epoch: i16,
    /// Its last batches, newest last, at most five.
    pub batches: Vec<ProducerBatch>,
}

/// What a journal view needs to go on from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalState {
    /// First byte offset of the segment in which the fragment lies.
    pub segment_first_byte: i64,
    /// State of the running SHA-1 at the fragment's end.
    pub sha1_state: Vec<u8>,
    /// Registers of the journal.
    pub registers: Vec<(String, String)>,
}

/// What travels with the batches. Absent parts are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trailer {
    /// Commit number of each batch.
    pub commits: Option<Vec<CommitNumber>>,
    /// Transactions whose marker lies in the fragment.
    pub aborted: Option<Vec<AbortedTransaction>>,
    /// Producer states that changed in it, or all live ones in a full fragment.
    pub producers: Option<Vec<ProducerState>>,
    /// State of the journal view.
    pub journal: Option<JournalState>,
}

impl Trailer {
    fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let mut message = Builder::new(HeapAllocator::new());
        let mut out = message.init_root::<trailer::Builder<'_>>();
        if let Some(commits) = &self.commits {
            out.set_commits(&encode_commits(commits));
        }
        if let Some(aborted) = &self.aborted {
            let mut list = out.reborrow().init_aborted(count(aborted.len())?);
            for (i, transaction) in (0..).zip(aborted) {
                let mut item = list.reborrow().get(i);
                item.set_producer_id(transaction.producer_id);
                item.set_first_offset(transaction.first_offset);
                item.set_last_offset(transaction.last_offset);
                item.set_last_stable_offset(transaction.last_stable_offset);
            }
        }
        if let Some(producers) = &self.producers {
            let mut list = out.reborrow().init_producers(count(producers.len())?);
            for (i, producer) in (0..).zip(producers) {
                encode_producer(producer, list.reborrow().get(i))?;
            }
        }
        if let Some(journal) = &self.journal {
            let mut item = out.init_journal();
            item.set_segment_first_byte(journal.segment_first_byte);
            item.set_sha1_state(&journal.sha1_state);
            let mut registers = item.init_registers(count(journal.registers.len())?);
            for (i, (key, value)) in (0..).zip(&journal.registers) {
                let mut pair = registers.reborrow().get(i);
                pair.set_key(key.as_str());
                pair.set_value(value.as_str());
            }
        }
        let frame = codec::finish(&message);
        let mut bytes = Vec::with_capacity(TRAILER_PREFIX_BYTES + frame.len() + 4);
        bytes.extend_from_slice(TRAILER_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&count(frame.len())?.to_le_bytes());
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        Ok(bytes)
    }

    fn decode(bytes: &[u8], header: &FragmentHeader) -> Result<Self, Malformed> {
        let what = "trailer";
        let short = |found| Malformed::Length { what, found, expected: TRAILER_PREFIX_BYTES + 4 };
        let (prefix, rest) =
            bytes.split_first_chunk::<TRAILER_PREFIX_BYTES>().ok_or_else(|| short(bytes.len()))?;
        let (frame, crc) = rest.split_last_chunk::<4>().ok_or_else(|| short(bytes.len()))?;
        let [m0, m1, m2, m3, f0, f1, _, _, l0, l1, l2, l3] = *prefix;
        if [m0, m1, m2, m3] != *TRAILER_MAGIC {
            return Err(Malformed::Magic { what });
        }
        let format = u16::from_le_bytes([f0, f1]);
        if format != FORMAT {
            return Err(Malformed::Format { what, found: u32::from(format) });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length != frame.len() {
            return Err(Malformed::Length { what, found: frame.len(), expected: length });
        }
        let covered = bytes.get(..bytes.len() - 4).unwrap_or_default();
        if crc32c::crc32c(covered).to_le_bytes() != *crc {
            return Err(Malformed::Checksum { what });
        }
        let frame = codec::read(frame, what)?;
        let from = frame.get_root::<trailer::Reader<'_>>()?;
        let commits = match from.has_commits() {
            true => Some(decode_commits(
                from.get_commits()?,
                header.first_commit,
                header.batch_lengths.len(),
            )?),
            false => None,
        };
        Ok(Self {
            commits,
            aborted: decode_aborted(from)?,
            producers: decode_producers(from)?,
            journal: match from.has_journal() {
                true => Some(decode_journal(from.get_journal()?)?),
                false => None,
            },
        })
    }
}

/// A count in the width that Cap'n Proto has. A fragment never comes near.
fn count(count: usize) -> Result<u32, Malformed> {
    codec::within(count as u64, FRAGMENT_BODY_BYTES, "count in the trailer")?;
    u32::try_from(count).map_err(|_| Malformed::Range { what: "count in the trailer" })
}

fn encode_producer(
    producer: &ProducerState,
    mut out: producer_state::Builder<'_>,
) -> Result<(), Malformed> {
    let kept = producer.batches.len();
    codec::within(kept as u64, PRODUCER_BATCHES, "batches of a producer")?;
    out.set_id(producer.id);
    out.set_epoch(producer.epoch);
    let mut batches = out.init_batches(count(kept)?);
    for (i, batch) in (0..).zip(&producer.batches) {
        let mut item = batches.reborrow().get(i);
        item.set_first_sequence(batch.first_sequence);
        item.set_last_sequence(batch.last_sequence);
        item.set_first_offset(batch.first_offset);
        item.set_timestamp_ms(batch.timestamp_ms);
    }
    Ok(())
}

fn decode_aborted(from: trailer::Reader<'_>) -> Result<Option<Vec<AbortedTransaction>>, Malformed> {
    if !from.has_aborted() {
        return Ok(None);
    }
    let decode = |item: super::tier_capnp::aborted_transaction::Reader<'_>| AbortedTransaction {
        producer_id: item.get_producer_id(),
        first_offset: item.get_first_offset(),
        last_offset: item.get_last_offset(),
        last_stable_offset: item.get_last_stable_offset(),
    };
    Ok(Some(from.get_aborted()?.iter().map(decode).collect()))
}

fn decode_producers(from: trailer::Reader<'_>) -> Result<Option<Vec<ProducerState>>, Malformed> {
    if !from.has_producers() {
        return Ok(None);
    }
    let mut producers = Vec::new();
    for item in from.get_producers()? {
        let batches = item.get_batches()?;
        codec::within(u64::from(batches.len()), PRODUCER_BATCHES, "batches of a producer")?;
        let decode = |batch: super::tier_capnp::producer_batch::Reader<'_>| ProducerBatch {
            first_sequence: batch.get_first_sequence(),
            last_sequence: batch.get_last_sequence(),
            first_offset: batch.get_first_offset(),
            timestamp_ms: batch.get_timestamp_ms(),
        };
        producers.push(ProducerState {
            id: item.get_id(),
            epoch: item.get_epoch(),
            batches: batches.iter().map(decode).collect(),
        });
    }
    Ok(Some(producers))
}

fn decode_journal(from: journal_state::Reader<'_>) -> Result<JournalState, Malformed> {
    let mut registers = Vec::new();
    for pair in from.get_registers()? {
        let key = codec::text(pair.get_key()?, "journal register")?;
        registers.push((key, codec::text(pair.get_value()?, "journal register")?));
    }
    Ok(JournalState {
        segment_first_byte: from.get_segment_first_byte(),
        sha1_state: from.get_sha1_state()?.to_vec(),
        registers,
    })
}

/// Unsigned LEB128 of each difference to the commit before it, the first to itself: zero, since the header has it.
fn encode_commits(commits: &[CommitNumber]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(commits.len());
    let mut before = commits.first().copied().unwrap_or_default();
    for commit in commits {
        let mut rest = commit - before;
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        before = *commit;
    }
    bytes
}

fn decode_commits(
    mut bytes: &[u8],
    first: CommitNumber,
    batches: usize,
) -> Result<Vec<CommitNumber>, Malformed> {
    let wrong = || Malformed::Range { what: "commit numbers" };
    let mut commits = Vec::new();
    let mut commit = first;
    while !bytes.is_empty() {
        let mut difference = 0u64;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().ok_or_else(wrong)?;
            bytes = rest;
            let bits = u64::from(byte & 0x7f);
            if shift > 63 || bits << shift >> shift != bits {
                return Err(wrong());
            }
            difference |= bits << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        commit = commit.checked_add(difference).ok_or_else(wrong)?;
        commits.push(commit);
    }
    if commits.len() == batches { Ok(commits) } else { Err(wrong()) }
}

/// A batch on its way into a fragment.
#[derive(Debug, Clone)]
pub struct BodyBatch {
    /// The whole batch, offset and epoch assigned.
    pub bytes: Bytes,
    /// In which commit it was.
    pub commit: CommitNumber,
}

/// What else goes into the trailer.
#[derive(Debug, Clone, Default)]
pub struct TrailerParts {
    /// See [`Trailer::aborted`].
    pub aborted: Option<Vec<AbortedTransaction>>,
    /// See [`Trailer::producers`].
    pub producers: Option<Vec<ProducerState>>,
    /// Whether `producers` are all that live.
    pub full: bool,
    /// See [`Trailer::journal`].
    pub journal: Option<JournalState>,
}

/// What the batches of a fragment say about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFacts {
    /// Records, by the batches' headers.
    pub records: u64,
    /// Offset of the first record.
    pub first_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// Epoch of all batches.
    pub leader_epoch: LeaderEpoch,
    /// Smallest base timestamp, in ms.
    pub min_timestamp_ms: i64,
    /// Largest maximal timestamp, in ms.
    pub max_timestamp_ms: i64,
    /// Highest producer id, -1 for none.
    pub highest_producer_id: i64,
    /// Bytes of each.
    pub lengths: Vec<u32>,
}

/// The padded content of a fragment, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) body_bytes: usize,
    pub(super) data_shards: u8,
    pub(super) facts: BatchFacts,
    pub(super) first_commit: CommitNumber,
    pub(super) last_commit: CommitNumber,
    pub(super) aborted_count: u32,
    pub(super) full: bool,
}

impl Body {
    /// Puts batches and trailer together for `data_shards` (k) shards. Every batch is checked as a reader will check it:
    /// nothing damaged is ever shipped.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn build(
        batches: &[BodyBatch],
        parts: TrailerParts,
        data_shards: u8,
    ) -> Result<Self, BodyError> {
        super::header::check_shape(data_shards, 0)?;
        let total: u64 = batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        codec::within(total, FRAGMENT_BODY_BYTES, "body")?;
        let mut walk = Walk::default();
        let mut commits: Vec<CommitNumber> = Vec::with_capacity(batches.len());
        let mut bytes = Vec::new();
        for batch in batches {
            walk.step(&batch.bytes, Some(batch.bytes.len()))?;
            if let Some(before) = commits.last().copied().filter(|last| *last > batch.commit) {
                return Err(BodyError::Commits { found: batch.commit, before });
            }
            commits.push(batch.commit);
            bytes.extend_from_slice(&batch.bytes);
        }
        let facts = walk.finish()?;
        let ends = commits.first().copied().zip(commits.last().copied());
        let (first_commit, last_commit) = ends.ok_or(BodyError::Empty)?;
        let aborted_count = count(parts.aborted.as_ref().map_or(0, Vec::len))?;
        let trailer = Trailer {
            commits: Some(commits),
            aborted: parts.aborted,
            producers: parts.producers,
            journal: parts.journal,
        };
        bytes.extend_from_slice(&trailer.encode()?);
        let body_bytes = codec::within(bytes.len() as u64, FRAGMENT_BODY_BYTES, "body")?;
        bytes.resize(body_bytes.next_multiple_of(usize::from(data_shards) * PADDING_BYTES), 0);
        let full = parts.full;
        Ok(Self {
            bytes,
            body_bytes,
            data_shards,
            facts,
            first_commit,
            last_commit,
            aborted_count,
            full,
        })
    }

    /// What the batches say.
    #[must_use]
    pub fn facts(&self) -> &BatchFacts {
        &self.facts
    }

    /// Commit numbers of the first and the last batch.
    #[must_use]
    pub fn commits(&self) -> (CommitNumber, CommitNumber) {
        (self.first_commit, self.last_commit)
    }
}

/// Goes over batches and gathers what they say.
#[derive(Default)]
struct Walk {
    position: usize,
    facts: Option<BatchFacts>,
}

impl Walk {
    /// Checks the batch at the front of `bytes`, of which it takes `stated` bytes where a length is stated.
    fn step(&mut self, bytes: &[u8], stated: Option<usize>) -> Result<usize, BodyError> {
        let position = self.position;
        let header =
            BatchHeader::parse(bytes).map_err(|source| BodyError::Batch { position, source })?;
        let found = header.total_bytes();
        let expected = stated.unwrap_or(found);
        let Some(batch) = bytes.get(..found).filter(|_| found == expected) else {
            return Err(BodyError::BatchLength { position, found, expected });
        };
        let offset = header.base_offset;
        if !record::crc_matches(batch) {
            return Err(BodyError::BatchCrc { offset });
        }
        super::header::check_offsets(offset, header.last_offset())?;
        self.add(&header)?;
        self.position += found;
        Ok(found)
    }

    fn add(&mut self, header: &BatchHeader) -> Result<(), BodyError> {
        let facts = self.facts.get_or_insert_with(|| BatchFacts {
            records: 0,
            first_offset: header.base_offset,
            last_offset: header.base_offset - 1,
            leader_epoch: LeaderEpoch(header.leader_epoch),
            min_timestamp_ms: header.base_timestamp,
            max_timestamp_ms: header.max_timestamp,
            highest_producer_id: -1,
            lengths: Vec::new(),
        });
        let (found, expected) = (header.base_offset, facts.last_offset + 1);
        if found != expected {
            return Err(BodyError::Gap { found, expected });
        }
        if header.leader_epoch != facts.leader_epoch.0 {
            let (found, expected) = (header.leader_epoch, facts.leader_epoch.0);
            return Err(BodyError::Epoch { offset: header.base_offset, found, expected });
        }
        let batches = facts.lengths.len() as u64 + 1;
        codec::within(batches, FRAGMENT_BATCHES, "count of batches")?;
        facts.records += u64::from(header.record_count.max(0).unsigned_abs());
        facts.last_offset = header.last_offset();
        facts.min_timestamp_ms = facts.min_timestamp_ms.min(header.base_timestamp);
        facts.max_timestamp_ms = facts.max_timestamp_ms.max(header.max_timestamp);
        facts.highest_producer_id = facts.highest_producer_id.max(header.producer_id);
        let length = u32::try_from(header.total_bytes()).expect("a batch length is an i32");
        facts.lengths.push(length);
        Ok(())
    }

    fn finish(self) -> Result<BatchFacts, BodyError> {
        self.facts.ok_or(BodyError::Empty)
    }
}

/// Checks a decoded body against its header: each batch's header, CRC, length, offset and epoch, then the trailer and the
/// padding. A tag proves that bytes are as they were sealed; this proves that they were put together rightly.
pub(super) fn check(
    header: &FragmentHeader,
    padded: &Bytes,
) -> Result<(Bytes, Trailer, BatchFacts), BodyError> {
    let body_bytes = codec::within(header.body_bytes, padded.len(), "body")?;
    let mut walk = Walk::default();
    for length in &header.batch_lengths {
        let rest = padded.get(walk.position..body_bytes).unwrap_or_default();
        walk.step(rest, Some(*length as usize))?;
    }
    let batches = padded.slice(..walk.position);
    let trailer_bytes = padded.get(walk.position..body_bytes).unwrap_or_default();
    let padding = padded.get(body_bytes..).unwrap_or_default();
    let facts = walk.finish()?;
    let equal = [
        (facts.first_offset == header.first_offset, "first offset"),
        (facts.last_offset == header.last_offset, "last offset"),
        (facts.leader_epoch == header.leader_epoch, "leader epoch"),
        (facts.records == header.size, "number of records"),
        (padding.iter().all(|byte| *byte == 0), "padding"),
    ];
    if let Some((_, what)) = equal.iter().find(|(holds, _)| !holds) {
        return Err(BodyError::Differs { what });
    }
    let trailer = Trailer::decode(trailer_bytes, header)?;
    Ok((batches, trailer, facts))
}

#[cfg(test)]
mod tests;
