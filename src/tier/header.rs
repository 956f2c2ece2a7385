//! The header of a fragment: the same bytes in all its shards, in clear, under every shard's seal.

use capnp::message::{Builder, HeapAllocator};

use super::codec;
use super::encryption::{FragmentContext, Hash, SUITE};
use super::error::Malformed;
use super::tier_capnp::fragment_header;
use crate::types::limits::{
    FRAGMENT_BATCHES, FRAGMENT_BODY_BYTES, TIER_DATA_SHARDS, TIER_PARITY_SHARDS, TIER_RECORD_BYTES,
};
use crate::types::{
    ClusterId, CommitNumber, DataDirId, LeaderEpoch, Offset, Sequence, TopicId, TopicPartition,
};

/// What a reader finds in the field `name`, which the original filled with its own name.
pub const NAME: &str = "TLog";

/// Body bytes are padded to a multiple of k times this, so that lengths tell little.
pub const PADDING_BYTES: usize = 1024;

/// No compression.
pub const COMPRESSION_NONE: u8 = 0;

/// First and last sequence of what a fragment holds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceRange {
    /// Of the first data record.
    pub first: Sequence,
    /// Of the last data record.
    pub last: Sequence,
}

/// A fragment's header. All ranges include both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Records, control records included.
    pub size: u64,
    /// When it was sealed, in nanoseconds since 1970.
    pub timestamp_ns: i64,
    /// The vdisk, empty for a plain topic.
    pub vdisk_id: String,
    /// Keyed hash of the fragment before, zeros in the first.
    pub previous_hash: Hash,
    /// The cluster.
    pub cluster: ClusterId,
    /// The data directory in which the records were committed.
    pub data_dir: DataDirId,
    /// Name of the topic, for people; its id counts.
    pub topic: String,
    /// Topic id and partition.
    pub partition: TopicPartition,
    /// Epoch of the records.
    pub leader_epoch: LeaderEpoch,
    /// Offset of the first record.
    pub first_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// Sequences of the data records, none for a plain topic or where there are no data records.
    pub sequences: Option<SequenceRange>,
    /// Commit number of the first batch.
    pub first_commit: CommitNumber,
    /// Commit number of the last batch.
    pub last_commit: CommitNumber,
    /// Journal byte offset of the first record; equal to the next without a journal view.
    pub first_journal_byte: i64,
    /// Journal byte offset behind the last record.
    pub last_journal_byte: i64,
    /// When the first batch was appended, in ms since 1970.
    pub first_append_ms: i64,
    /// When the last batch was appended, in ms since 1970.
    pub last_append_ms: i64,
    /// Last stable offset at the end of the fragment, exclusive.
    pub last_stable_offset: Offset,
    /// Aborted transactions whose marker is inside.
    pub aborted_count: u32,
    /// Highest producer id seen, -1 for none.
    pub highest_producer_id: i64,
    /// Whether the trailer has all live producer states, not only the changed ones.
    pub full: bool,
    /// Counts the fragments of the partition; numbers may be left out.
    pub number: u64,
    /// Counts how often it was sealed anew: after compaction, and by rekeys.
    pub generation: u32,
    /// Number of the master key.
    pub kid: u32,
    /// Fingerprint of the master key.
    pub key_fingerprint: [u8; 8],
    /// Salt of the fragment's key.
    pub salt: Hash,
    /// Base of the shards' nonces.
    pub base_nonce: [u8; 12],
    /// Public hash of the fragment before, zeros in the first.
    pub previous_public_hash: Hash,
    /// k.
    pub data_shards: u8,
    /// m.
    pub parity_shards: u8,
    /// [`COMPRESSION_NONE`]; others are not yet written.
    pub compression: u8,
    /// Bytes of each batch.
    pub batch_lengths: Vec<u32>,
    /// Bytes of batches and trailer.
    pub body_bytes: u64,
    /// Bytes of the same compressed.
    pub compressed_bytes: u64,
    /// Bytes of the same padded: what the code cuts into k shards.
    pub padded_bytes: u64,
}

impl FragmentHeader {
    /// What the fragment's key is bound to.
    #[must_use]
    pub fn context(&self) -> FragmentContext {
        FragmentContext {
            kid: self.kid,
            cluster: self.cluster,
            topic: self.partition.topic,
            partition: self.partition.partition,
            leader_epoch: self.leader_epoch.0,
            number: self.number,
            generation: self.generation,
            data_shards: self.data_shards,
            parity_shards: self.parity_shards,
        }
    }

    /// k+m.
    #[must_use]
    pub fn shards(&self) -> usize {
        usize::from(self.data_shards) + usize::from(self.parity_shards)
    }

    /// Bytes of one shard's ciphertext without its tag.
    #[must_use]
    pub fn shard_bytes(&self) -> u64 {
        self.padded_bytes / u64::from(self.data_shards.max(1))
    }

    /// The stored form. It is made once per sealed fragment; from then on the bytes are copied, never made again.
    ///
    /// # Errors
    /// [`Malformed`] for what [`FragmentHeader::decode`] would refuse.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let mut message = Builder::new(HeapAllocator::new());
        let mut out = message.init_root::<fragment_header::Builder<'_>>();
        out.set_name(NAME);
        out.set_size(self.size);
        out.set_timestamp(self.timestamp_ns);
        out.set_vdisk_id(self.vdisk_id.as_str());
        out.set_previous_hash(&self.previous_hash);
        out.set_cluster_id(self.cluster.as_bytes());
        out.set_data_dir_id(self.data_dir.as_bytes());
        out.set_topic(self.topic.as_str());
        out.set_topic_id(self.partition.topic.as_bytes());
        out.set_partition(self.partition.partition);
        out.set_leader_epoch(self.leader_epoch.0);
        out.set_first_offset(self.first_offset);
        out.set_last_offset(self.last_offset);
        if let Some(range) = self.sequences {
            out.set_sequenced(true);
            out.set_first_sequence(range.first.0);
            out.set_last_sequence(range.last.0);
        }
        out.set_first_commit(self.first_commit);
        out.set_last_commit(self.last_commit);
        out.set_first_journal_byte(self.first_journal_byte);
        out.set_last_journal_byte(self.last_journal_byte);
        out.set_first_append_ms(self.first_append_ms);
        out.set_last_append_ms(self.last_append_ms);
        out.set_last_stable_offset(self.last_stable_offset);
        out.set_aborted_count(self.aborted_count);
        out.set_highest_producer_id(self.highest_producer_id);
        out.set_full(self.full);
        self.encode_sealing(out);
        let bytes = codec::finish(&message);
        codec::within(bytes.len() as u64, TIER_RECORD_BYTES, "fragment header")?;
        Ok(bytes)
    }

    fn encode_sealing(&self, mut out: fragment_header::Builder<'_>) {
        out.set_number(self.number);
        out.set_generation(self.generation);
        out.set_kid(self.kid);
        out.set_key_fingerprint(&self.key_fingerprint);
        out.set_salt(&self.salt);
        out.set_base_nonce(&self.base_nonce);
        out.set_previous_public_hash(&self.previous_public_hash);
        out.set_data_shards(self.data_shards);
        out.set_parity_shards(self.parity_shards);
        out.set_compression(self.compression);
        let count = u32::try_from(self.batch_lengths.len()).expect("checked against the limit");
        let mut lengths = out.reborrow().init_batch_lengths(count);
        for (i, length) in (0..count).zip(&self.batch_lengths) {
            lengths.set(i, *length);
        }
        out.set_body_bytes(self.body_bytes);
        out.set_compressed_bytes(self.compressed_bytes);
        out.set_padded_bytes(self.padded_bytes);
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are no header, or whose counts and lengths cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        codec::within(bytes.len() as u64, TIER_RECORD_BYTES, "fragment header")?;
        let frame = codec::read(bytes, "fragment header")?;
        let from = frame.get_root::<fragment_header::Reader<'_>>()?;
        let lengths = from.get_batch_lengths()?;
        codec::within(u64::from(lengths.len()), FRAGMENT_BATCHES, "count of batches")?;
        let sequences = from.get_sequenced().then(|| SequenceRange {
            first: Sequence(from.get_first_sequence()),
            last: Sequence(from.get_last_sequence()),
        });
        let topic = TopicId(codec::fixed(from.get_topic_id()?, "topic id")?);
        let header = Self {
            size: from.get_size(),
            timestamp_ns: from.get_timestamp(),
            vdisk_id: codec::text(from.get_vdisk_id()?, "vdisk id")?,
            previous_hash: codec::fixed(from.get_previous_hash()?, "previous hash")?,
            cluster: ClusterId(codec::fixed(from.get_cluster_id()?, "cluster id")?),
            data_dir: DataDirId(codec::fixed(from.get_data_dir_id()?, "data directory id")?),
            topic: codec::text(from.get_topic()?, "topic")?,
            partition: TopicPartition { topic, partition: from.get_partition() },
            leader_epoch: LeaderEpoch(from.get_leader_epoch()),
            first_offset: from.get_first_offset(),
            last_offset: from.get_last_offset(),
            sequences,
            first_commit: from.get_first_commit(),
            last_commit: from.get_last_commit(),
            first_journal_byte: from.get_first_journal_byte(),
            last_journal_byte: from.get_last_journal_byte(),
            first_append_ms: from.get_first_append_ms(),
            last_append_ms: from.get_last_append_ms(),
            last_stable_offset: from.get_last_stable_offset(),
            aborted_count: from.get_aborted_count(),
            highest_producer_id: from.get_highest_producer_id(),
            full: from.get_full(),
            number: from.get_number(),
            generation: from.get_generation(),
            kid: from.get_kid(),
            key_fingerprint: codec::fixed(from.get_key_fingerprint()?, "key fingerprint")?,
            salt: codec::fixed(from.get_salt()?, "salt")?,
            base_nonce: codec::fixed(from.get_base_nonce()?, "base nonce")?,
            previous_public_hash: codec::fixed(
                from.get_previous_public_hash()?,
                "previous public hash",
            )?,
            data_shards: from.get_data_shards(),
            parity_shards: from.get_parity_shards(),
            compression: from.get_compression(),
            batch_lengths: lengths.iter().collect(),
            body_bytes: from.get_body_bytes(),
            compressed_bytes: from.get_compressed_bytes(),
            padded_bytes: from.get_padded_bytes(),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Malformed> {
        check_shape(self.data_shards, self.parity_shards)?;
        check_offsets(self.first_offset, self.last_offset)?;
        let batches: u64 = self.batch_lengths.iter().map(|length| u64::from(*length)).sum();
        codec::within(self.batch_lengths.len() as u64, FRAGMENT_BATCHES, "count of batches")?;
        codec::within(self.body_bytes, FRAGMENT_BODY_BYTES, "body")?;
        check_padding(self.data_shards, self.compressed_bytes, self.padded_bytes)?;
        let facts = [
            (self.partition.partition >= 0, "partition"),
            (batches <= self.body_bytes, "sum of batch lengths"),
            (self.first_commit <= self.last_commit, "commit numbers"),
            (
                self.compression != COMPRESSION_NONE || self.compressed_bytes == self.body_bytes,
                "compressed length",
            ),
        ];
        match facts.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(Malformed::Range { what }),
            None => Ok(()),
        }
    }
}

/// k and m within their limits.
pub(super) fn check_shape(data: u8, parity: u8) -> Result<(), Malformed> {
    let legal = (1..=TIER_DATA_SHARDS).contains(&usize::from(data))
        && usize::from(parity) <= TIER_PARITY_SHARDS;
    if legal { Ok(()) } else { Err(Malformed::Range { what: "number of shards" }) }
}

/// A range of offsets that can be, with room for the offset behind it.
pub(super) fn check_offsets(first: Offset, last: Offset) -> Result<(), Malformed> {
    if (0..=last).contains(&first) && last < Offset::MAX {
        return Ok(());
    }
    Err(Malformed::Range { what: "range of offsets" })
}

/// A padded length that fits k and what is padded.
pub(super) fn check_padding(data: u8, compressed: u64, padded: u64) -> Result<(), Malformed> {
    let unit = (usize::from(data) * PADDING_BYTES) as u64;
    codec::within(padded, FRAGMENT_BODY_BYTES + TIER_DATA_SHARDS * PADDING_BYTES, "padded body")?;
    if padded == 0 || !padded.is_multiple_of(unit) || padded < compressed {
        return Err(Malformed::Range { what: "padded length" });
    }
    Ok(())
}

/// Bytes of a shard's prefix.
pub const PREFIX_BYTES: usize = 16;

/// Format of shards, trailers and records that this version writes, and the highest that it reads.
pub const FORMAT: u16 = 1;

/// What every shard begins with.
pub(super) const SHARD_MAGIC: &[u8; 4] = b"TLSH";

/// The prefix of the shard of an index.
pub(super) fn prefix(index: u8, header_bytes: u32, shard_bytes: u32) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..4].copy_from_slice(SHARD_MAGIC);
    prefix[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    prefix[6] = SUITE;
    prefix[7] = index;
    prefix[8..12].copy_from_slice(&header_bytes.to_le_bytes());
    prefix[12..].copy_from_slice(&shard_bytes.to_le_bytes());
    prefix
}
