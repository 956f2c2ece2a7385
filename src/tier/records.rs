//! The records of the catalogue on the shard servers: topics, manifest entries, heads, and the cluster's identity.
//!
//! Each stands in the envelope that `tier/mod.rs` draws. Topic, entry and head end in a MAC over the name of the key that
//! they are stored under, the key id and the content: none can be forged, moved or mixed. The cluster's identity is set
//! once and must outlive every key, so it ends in a checksum only: changed, it opens nothing, since the identity goes
//! into the key of every fragment.

use capnp::message::{Builder, HeapAllocator};

use super::codec;
use super::encryption::{Hash, KeyRing, SealedSecret, Tag, equal};
use super::error::{Malformed, RecordError, WrongKey};
use super::header::{FORMAT, SequenceRange, check_offsets, check_padding, check_shape};
use super::names;
use super::tier_capnp::{cluster_meta, head_record, manifest_entry, topic_record};
use crate::types::limits::{
    ABANDONED_NUMBERS, FRAGMENT_BODY_BYTES, REPLACED_HASHES, TIER_RECORD_BYTES, TOPIC_OPTIONS,
    TOPIC_PARTITIONS,
};
use crate::types::{
    ClusterId, CommitNumber, LeaderEpoch, Offset, Sequence, TopicId, TopicName, TopicPartition,
};

const MAGIC: &[u8; 4] = b"TLRC";

/// Magic, format, kind, zero, kid, content length, key fingerprint.
const PREFIX_BYTES: usize = 24;

const MAC_BYTES: usize = 32;

/// What a record is; one byte of its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Meta = 0,
    Topic = 1,
    Entry = 2,
    Head = 3,
}

fn envelope(
    kind: Kind,
    kid: u32,
    fingerprint: [u8; 8],
    content: &[u8],
) -> Result<Vec<u8>, Malformed> {
    codec::within(content.len() as u64, TIER_RECORD_BYTES, "record")?;
    let length = u32::try_from(content.len()).map_err(|_| Malformed::Range { what: "record" })?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + content.len() + MAC_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[kind as u8, 0]);
    bytes.extend_from_slice(&kid.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&fingerprint);
    bytes.extend_from_slice(content);
    Ok(bytes)
}

/// The MAC over the name of the key, its length first, and everything before the MAC, the key id among it.
fn mac(keys: &KeyRing, kid: u32, key: &str, covered: &[u8]) -> Result<Hash, WrongKey> {
    let length = (key.len() as u64).to_be_bytes();
    keys.record_mac(kid, &[&length, key.as_bytes(), covered])
}

fn protect(kind: Kind, key: &str, content: &[u8], keys: &KeyRing) -> Result<Vec<u8>, Malformed> {
    let kid = keys.active();
    let fingerprint = keys.fingerprint(kid).expect("the active key is always in the ring");
    let mut bytes = envelope(kind, kid, fingerprint, content)?;
    let mac = mac(keys, kid, key, &bytes).expect("the active key is always in the ring");
    bytes.extend_from_slice(&mac);
    Ok(bytes)
}

/// The parts of an envelope, its lengths checked against the bytes that are there.
struct Envelope<'a> {
    kid: u32,
    fingerprint: [u8; 8],
    content: &'a [u8],
    covered: &'a [u8],
    end: &'a [u8],
}

fn split(bytes: &[u8], kind: Kind, end_bytes: usize) -> Result<Envelope<'_>, Malformed> {
    let what = "record";
    let limit = TIER_RECORD_BYTES + PREFIX_BYTES + MAC_BYTES;
    codec::within(bytes.len() as u64, limit, what)?;
    let least = PREFIX_BYTES + end_bytes;
    let short = Malformed::Length { what, found: bytes.len(), expected: least };
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Err(short) };
    let [m0, m1, m2, m3, f0, f1, found_kind, _, k0, k1, k2, k3, l0, l1, l2, l3, fingerprint @ ..] =
        *prefix;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(Malformed::Magic { what });
    }
    let format = u16::from_le_bytes([f0, f1]);
    if format != FORMAT {
        return Err(Malformed::Format { what, found: u32::from(format) });
    }
    if found_kind != kind as u8 {
        return Err(Malformed::Range { what: "kind of record" });
    }
    let content_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let expected = least.saturating_add(content_bytes);
    if bytes.len() != expected {
        return Err(Malformed::Length { what, found: bytes.len(), expected });
    }
    let (content, end) = rest.split_at(content_bytes);
    let (covered, _) = bytes.split_at(PREFIX_BYTES + content_bytes);
    let kid = u32::from_le_bytes([k0, k1, k2, k3]);
    Ok(Envelope { kid, fingerprint, content, covered, end })
}

fn verify<'a>(
    bytes: &'a [u8],
    kind: Kind,
    key: &str,
    keys: &KeyRing,
) -> Result<&'a [u8], RecordError> {
    let envelope = split(bytes, kind, MAC_BYTES)?;
    keys.check(envelope.kid, &envelope.fingerprint)?;
    if !equal(&mac(keys, envelope.kid, key, envelope.covered)?, envelope.end) {
        return Err(RecordError::Unauthentic { key: key.to_owned() });
    }
    Ok(envelope.content)
}

/// The key that a record was made with, read without checking it: `retire` asks which keys are in use.
///
/// # Errors
/// [`Malformed`].
pub fn record_kid(bytes: &[u8]) -> Result<u32, Malformed> {
    let kind = match bytes.get(6) {
        Some(1) => Kind::Topic,
        Some(2) => Kind::Entry,
        _ => Kind::Head,
    };
    split(bytes, kind, MAC_BYTES).map(|envelope| envelope.kid)
}

/// The identity of the cluster. Stored under [`names::META`], set once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterMeta {
    /// The cluster.
    pub cluster: ClusterId,
    /// Format of everything that is stored.
    pub format: u32,
}

impl ClusterMeta {
    /// That of a new cluster.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, format: u32::from(FORMAT) }
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Builder::new(HeapAllocator::new());
        let mut out = message.init_root::<cluster_meta::Builder<'_>>();
        out.set_cluster_id(self.cluster.as_bytes());
        out.set_format(self.format);
        let content = codec::finish(&message);
        let mut bytes = envelope(Kind::Meta, 0, [0; 8], &content)
            .expect("two small fields are within every limit");
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Format`] for a newer cluster.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let what = "cluster identity";
        let envelope = split(bytes, Kind::Meta, 4)?;
        if crc32c::crc32c(envelope.covered).to_le_bytes() != *envelope.end {
            return Err(Malformed::Checksum { what });
        }
        let frame = codec::read(envelope.content, what)?;
        let from = frame.get_root::<cluster_meta::Reader<'_>>()?;
        let format = from.get_format();
        if format != u32::from(FORMAT) {
            return Err(Malformed::Format { what, found: format });
        }
        Ok(Self { cluster: ClusterId(codec::fixed(from.get_cluster_id()?, what)?), format })
    }
}

/// A topic. Stored in the hash [`names::TOPICS`] under the topic's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// Counts changes of the record: of several the highest holds.
    pub revision: u64,
    /// The topic.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Count of partitions.
    pub partitions: i32,
    /// All options that were set.
    pub options: Vec<(String, String)>,
    /// The topic's secret, none once shredded.
    pub secret: Option<SealedSecret>,
    /// Deleted: the record stays until the last shard is gone.
    pub deleted: bool,
    /// Its secret was destroyed.
    pub shredded: bool,
}

impl TopicRecord {
    /// The stored form, under the active key.
    ///
    /// # Errors
    /// [`Malformed`] for what [`TopicRecord::decode`] would refuse.
    pub fn encode(&self, keys: &KeyRing) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let mut message = Builder::new(HeapAllocator::new());
        let mut out = message.init_root::<topic_record::Builder<'_>>();
        out.set_revision(self.revision);
        out.set_id(self.id.as_bytes());
        out.set_name(self.name.as_str());
        out.set_partitions(self.partitions);
        let count = u32::try_from(self.options.len()).expect("checked against the limit");
        let mut options = out.reborrow().init_options(count);
        for (i, (key, value)) in (0..count).zip(&self.options) {
            let mut pair = options.reborrow().get(i);
            pair.set_key(key.as_str());
            pair.set_value(value.as_str());
        }
        if let Some(secret) = &self.secret {
            let mut sealed = out.reborrow().init_secret();
            sealed.set_kid(secret.kid);
            sealed.set_nonce(&secret.nonce);
            sealed.set_sealed(&secret.sealed);
        }
        out.set_deleted(self.deleted);
        out.set_shredded(self.shredded);
        protect(Kind::Topic, names::TOPICS, &codec::finish(&message), keys)
    }

    /// Reads and verifies the record that was stored under `id`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8], id: TopicId, keys: &KeyRing) -> Result<Self, RecordError> {
        let content = verify(bytes, Kind::Topic, names::TOPICS, keys)?;
        let record = Self::read(content)?;
        if record.id != id {
            let key = format!("{}/{id}", names::TOPICS);
            return Err(RecordError::Misplaced { key, field: "topic id" });
        }
        Ok(record)
    }

    fn read(content: &[u8]) -> Result<Self, Malformed> {
        let frame = codec::read(content, "topic record")?;
        let from = frame.get_root::<topic_record::Reader<'_>>()?;
        let stored = from.get_options()?;
        codec::within(u64::from(stored.len()), TOPIC_OPTIONS, "count of topic options")?;
        let mut options = Vec::new();
        for pair in stored {
            let key = codec::text(pair.get_key()?, "topic option")?;
            options.push((key, codec::text(pair.get_value()?, "topic option")?));
        }
        let secret = match from.has_secret() {
            true => {
                let sealed = from.get_secret()?;
                Some(SealedSecret {
                    kid: sealed.get_kid(),
                    nonce: codec::fixed(sealed.get_nonce()?, "nonce of the topic secret")?,
                    sealed: codec::fixed(sealed.get_sealed()?, "sealed topic secret")?,
                })
            }
            false => None,
        };
        let name = codec::text(from.get_name()?, "topic name")?;
        let record = Self {
            revision: from.get_revision(),
            id: TopicId(codec::fixed(from.get_id()?, "topic id")?),
            name: TopicName::new(&name).map_err(|_| Malformed::Text { what: "topic name" })?,
            partitions: from.get_partitions(),
            options,
            secret,
            deleted: from.get_deleted(),
            shredded: from.get_shredded(),
        };
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), Malformed> {
        codec::within(self.options.len() as u64, TOPIC_OPTIONS, "count of topic options")?;
        if !(1..=TOPIC_PARTITIONS).contains(&self.partitions) {
            return Err(Malformed::Range { what: "count of partitions" });
        }
        Ok(())
    }
}

/// How far a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryState {
    /// Enough shards are on their servers.
    Shipped = 1,
    /// All shards were read back and verified.
    Complete = 2,
    /// Its shards are being removed.
    Deleting = 3,
}

/// The entry of a fragment in the manifest of its partition. All ranges include both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// See [`super::FragmentHeader::number`].
    pub number: u64,
    /// See [`super::FragmentHeader::generation`].
    pub generation: u32,
    /// Counts changes of the entry (state, servers) within a generation: of several the highest holds.
    pub revision: u32,
    /// How far it is.
    pub state: EntryState,
    /// Records.
    pub size: u64,
    /// Epoch of the records.
    pub leader_epoch: LeaderEpoch,
    /// Offset of the first record.
    pub first_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// See [`super::FragmentHeader::sequences`].
    pub sequences: Option<SequenceRange>,
    /// Commit number of the first batch.
    pub first_commit: CommitNumber,
    /// Commit number of the last batch.
    pub last_commit: CommitNumber,
    /// See [`super::FragmentHeader::first_journal_byte`].
    pub first_journal_byte: i64,
    /// See [`super::FragmentHeader::last_journal_byte`].
    pub last_journal_byte: i64,
    /// When the first batch was appended, in ms.
    pub first_append_ms: i64,
    /// When the last batch was appended, in ms.
    pub last_append_ms: i64,
    /// Smallest base timestamp of the batches, in ms.
    pub min_timestamp_ms: i64,
    /// Largest timestamp of the records, in ms.
    pub max_timestamp_ms: i64,
    /// Last stable offset at the end of the fragment, exclusive.
    pub last_stable_offset: Offset,
    /// Aborted transactions whose marker is inside.
    pub aborted_count: u32,
    /// Highest producer id, -1 for none.
    pub highest_producer_id: i64,
    /// Whether the trailer has all live producer states.
    pub full: bool,
    /// Number of the master key.
    pub kid: u32,
    /// k.
    pub data_shards: u8,
    /// m.
    pub parity_shards: u8,
    /// Bytes of the header.
    pub header_bytes: u32,
    /// Bytes of batches and trailer.
    pub body_bytes: u64,
    /// The same compressed.
    pub compressed_bytes: u64,
    /// The same padded.
    pub padded_bytes: u64,
    /// Name of the server of each shard index.
    pub servers: Vec<String>,
    /// Tag of each shard index.
    pub tags: Vec<Tag>,
    /// Hash of the fragment before.
    pub previous_hash: Hash,
    /// Keyed chain hash.
    pub hash: Hash,
    /// Public chain hash.
    pub public_hash: Hash,
    /// Hash and public hash of each generation before, oldest first: successors still name them.
    pub replaced: Vec<(Hash, Hash)>,
}

impl ManifestEntry {
    /// k+m.
    #[must_use]
    pub fn shards(&self) -> usize {
        usize::from(self.data_shards) + usize::from(self.parity_shards)
    }

    /// Offset behind the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset + 1
    }

    /// Bytes of each stored shard.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        let shard = self.padded_bytes / u64::from(self.data_shards.max(1));
        super::header::PREFIX_BYTES as u64 + u64::from(self.header_bytes) + shard + 20
    }

    /// Whether `hash` is this fragment's, in this generation or in one before.
    #[must_use]
    pub fn is_named_by(&self, hash: &Hash) -> bool {
        self.hash == *hash || self.replaced.iter().any(|(replaced, _)| replaced == hash)
    }

    /// The stored form, under the active key.
    ///
    /// # Errors
    /// [`Malformed`] for what [`ManifestEntry::decode`] would refuse.
    pub fn encode(&self, partition: TopicPartition, keys: &KeyRing) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let mut message = Builder::new(HeapAllocator::new());
        let mut out = message.init_root::<manifest_entry::Builder<'_>>();
        out.set_number(self.number);
        out.set_generation(self.generation);
        out.set_revision(self.revision);
        out.set_state(self.state as u8);
        out.set_size(self.size);
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
        out.set_min_timestamp_ms(self.min_timestamp_ms);
        out.set_max_timestamp_ms(self.max_timestamp_ms);
        out.set_last_stable_offset(self.last_stable_offset);
        out.set_aborted_count(self.aborted_count);
        out.set_highest_producer_id(self.highest_producer_id);
        out.set_full(self.full);
        self.encode_sealing(out);
        protect(Kind::Entry, &names::manifest(partition), &codec::finish(&message), keys)
    }

    fn encode_sealing(&self, mut out: manifest_entry::Builder<'_>) {
        out.set_kid(self.kid);
        out.set_data_shards(self.data_shards);
        out.set_parity_shards(self.parity_shards);
        out.set_header_bytes(self.header_bytes);
        out.set_body_bytes(self.body_bytes);
        out.set_compressed_bytes(self.compressed_bytes);
        out.set_padded_bytes(self.padded_bytes);
        let count = |length: usize| u32::try_from(length).expect("checked against the limit");
        let mut servers = out.reborrow().init_servers(count(self.servers.len()));
        for (i, server) in (0..).zip(&self.servers) {
            servers.set(i, server.as_str());
        }
        out.set_tags(self.tags.as_flattened());
        out.set_previous_hash(&self.previous_hash);
        out.set_hash(&self.hash);
        out.set_public_hash(&self.public_hash);
        let mut replaced = out.init_replaced(count(self.replaced.len()));
        for (i, (hash, public)) in (0..).zip(&self.replaced) {
            let mut pair = replaced.reborrow().get(i);
            pair.set_hash(hash);
            pair.set_public_hash(public);
        }
    }

    /// Reads and verifies the entry that was stored for `number` of `partition`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(
        bytes: &[u8],
        partition: TopicPartition,
        number: u64,
        keys: &KeyRing,
    ) -> Result<Self, RecordError> {
        let key = names::manifest(partition);
        let entry = Self::read(verify(bytes, Kind::Entry, &key, keys)?)?;
        if entry.number != number {
            let key = format!("{key}/{}", names::number(number));
            return Err(RecordError::Misplaced { key, field: "number" });
        }
        Ok(entry)
    }

    fn read(content: &[u8]) -> Result<Self, Malformed> {
        let frame = codec::read(content, "manifest entry")?;
        let from = frame.get_root::<manifest_entry::Reader<'_>>()?;
        let (data_shards, parity_shards) = (from.get_data_shards(), from.get_parity_shards());
        check_shape(data_shards, parity_shards)?;
        let n = usize::from(data_shards) + usize::from(parity_shards);
        let stored = from.get_servers()?;
        codec::within(u64::from(stored.len()), n, "count of servers")?;
        let mut servers = Vec::with_capacity(n);
        for server in stored {
            servers.push(codec::text(server?, "name of a server")?);
        }
        let tags = from.get_tags()?;
        codec::within(tags.len() as u64, n * size_of::<Tag>(), "tags")?;
        let stored = from.get_replaced()?;
        codec::within(u64::from(stored.len()), REPLACED_HASHES, "count of replaced hashes")?;
        let mut replaced = Vec::new();
        for pair in stored {
            let hash = codec::fixed(pair.get_hash()?, "replaced hash")?;
            replaced.push((hash, codec::fixed(pair.get_public_hash()?, "replaced hash")?));
        }
        let entry = Self {
            number: from.get_number(),
            generation: from.get_generation(),
            revision: from.get_revision(),
            state: match from.get_state() {
                1 => EntryState::Shipped,
                2 => EntryState::Complete,
                3 => EntryState::Deleting,
                _ => return Err(Malformed::Range { what: "state" }),
            },
            size: from.get_size(),
            leader_epoch: LeaderEpoch(from.get_leader_epoch()),
            first_offset: from.get_first_offset(),
            last_offset: from.get_last_offset(),
            sequences: from.get_sequenced().then(|| SequenceRange {
                first: Sequence(from.get_first_sequence()),
                last: Sequence(from.get_last_sequence()),
            }),
            first_commit: from.get_first_commit(),
            last_commit: from.get_last_commit(),
            first_journal_byte: from.get_first_journal_byte(),
            last_journal_byte: from.get_last_journal_byte(),
            first_append_ms: from.get_first_append_ms(),
            last_append_ms: from.get_last_append_ms(),
            min_timestamp_ms: from.get_min_timestamp_ms(),
            max_timestamp_ms: from.get_max_timestamp_ms(),
            last_stable_offset: from.get_last_stable_offset(),
            aborted_count: from.get_aborted_count(),
            highest_producer_id: from.get_highest_producer_id(),
            full: from.get_full(),
            kid: from.get_kid(),
            data_shards,
            parity_shards,
            header_bytes: from.get_header_bytes(),
            body_bytes: from.get_body_bytes(),
            compressed_bytes: from.get_compressed_bytes(),
            padded_bytes: from.get_padded_bytes(),
            servers,
            tags: tags.as_chunks().0.to_vec(),
            previous_hash: codec::fixed(from.get_previous_hash()?, "previous hash")?,
            hash: codec::fixed(from.get_hash()?, "hash")?,
            public_hash: codec::fixed(from.get_public_hash()?, "public hash")?,
            replaced,
        };
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), Malformed> {
        check_shape(self.data_shards, self.parity_shards)?;
        check_offsets(self.first_offset, self.last_offset)?;
        check_padding(self.data_shards, self.compressed_bytes, self.padded_bytes)?;
        codec::within(self.body_bytes, FRAGMENT_BODY_BYTES, "body")?;
        codec::within(u64::from(self.header_bytes), TIER_RECORD_BYTES, "fragment header")?;
        codec::within(self.replaced.len() as u64, REPLACED_HASHES, "count of replaced hashes")?;
        for (found, what) in
            [(self.servers.len(), "list of servers"), (self.tags.len(), "list of tags")]
        {
            if found != self.shards() {
                return Err(Malformed::Length { what, found, expected: self.shards() });
            }
        }
        Ok(())
    }
}

/// The newest that an owner of a partition shipped. The five newest are kept on every server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRecord {
    /// Epoch of the owner that wrote it.
    pub epoch: LeaderEpoch,
    /// Number of the newest shipped fragment.
    pub number: u64,
    /// Offset behind it.
    pub shipped_offset: Offset,
    /// Its keyed hash.
    pub hash: Hash,
    /// Its public hash.
    pub public_hash: Hash,
    /// Numbers that were given up, ascending: whatever is stored under them is no part of the log.
    pub abandoned: Vec<u64>,
}

impl HeadRecord {
    /// The stored form, under the active key.
    ///
    /// # Errors
    /// [`Malformed`] for what [`HeadRecord::decode`] would refuse.
    pub fn encode(&self, partition: TopicPartition, keys: &KeyRing) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let mut message = Builder::new(HeapAllocator::new());
        let mut out = message.init_root::<head_record::Builder<'_>>();
        out.set_epoch(self.epoch.0);
        out.set_number(self.number);
        out.set_shipped_offset(self.shipped_offset);
        out.set_hash(&self.hash);
        out.set_public_hash(&self.public_hash);
        let count = u32::try_from(self.abandoned.len()).expect("checked against the limit");
        let mut abandoned = out.init_abandoned(count);
        for (i, number) in (0..count).zip(&self.abandoned) {
            abandoned.set(i, *number);
        }
        protect(Kind::Head, &names::heads(partition), &codec::finish(&message), keys)
    }

    /// Reads and verifies a head record of `partition`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(
        bytes: &[u8],
        partition: TopicPartition,
        keys: &KeyRing,
    ) -> Result<Self, RecordError> {
        let content = verify(bytes, Kind::Head, &names::heads(partition), keys)?;
        Ok(Self::read(content)?)
    }

    fn read(content: &[u8]) -> Result<Self, Malformed> {
        let frame = codec::read(content, "head record")?;
        let from = frame.get_root::<head_record::Reader<'_>>()?;
        let abandoned = from.get_abandoned()?;
        codec::within(u64::from(abandoned.len()), ABANDONED_NUMBERS, "count of abandoned numbers")?;
        let head = Self {
            epoch: LeaderEpoch(from.get_epoch()),
            number: from.get_number(),
            shipped_offset: from.get_shipped_offset(),
            hash: codec::fixed(from.get_hash()?, "hash")?,
            public_hash: codec::fixed(from.get_public_hash()?, "public hash")?,
            abandoned: abandoned.iter().collect(),
        };
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), Malformed> {
        let count = self.abandoned.len() as u64;
        codec::within(count, ABANDONED_NUMBERS, "count of abandoned numbers")?;
        if self.shipped_offset < 0 || !self.abandoned.is_sorted_by(|a, b| a < b) {
            return Err(Malformed::Range { what: "shipped offset or abandoned numbers" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
