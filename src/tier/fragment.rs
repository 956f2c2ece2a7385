//! A fragment: an aggregation of batches as sealed shards, and back. This file alone fixes the order of the steps.
//!
//! ```text
//! seal:  body -> k pieces -> k+m shards by the code -> each sealed by itself -> prefix, header, ciphertext, tag, CRC
//! open:  every shard judged by itself -> any k that open -> body -> every batch checked again
//! ```
//!
//! A number and generation of a partition has one salt and one set of bytes for ever. So the caller stores header and
//! digest of a new seal as its intent, synced, before the first shard leaves, and repeats an unfinished one by
//! [`reseal`], which gives the same bytes or none.

use bytes::Bytes;

use super::body::{self, BatchFacts, Body, Trailer};
use super::encryption::{
    Hash, KeyRing, Opener, SUITE, Sealer, TAG_BYTES, Tag, ToSeal, TopicSecret, equal, public_hash,
};
use super::erasure::{Code, ErasureCode};
use super::error::{BodyError, FragmentError, SealError, ShardError, ShardFault, ShardFaults};
use super::header::{
    COMPRESSION_NONE, FORMAT, FragmentHeader, PREFIX_BYTES, SHARD_MAGIC, SequenceRange, prefix,
};
use super::records::{EntryState, ManifestEntry};
use crate::types::limits::TIER_RECORD_BYTES;
use crate::types::{ClusterId, DataDirId, Offset, TopicPartition};

const CRC_BYTES: usize = 4;

/// What the caller knows about a fragment to be sealed; the rest is read off its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// See [`FragmentHeader::timestamp_ns`].
    pub timestamp_ns: i64,
    /// See [`FragmentHeader::vdisk_id`].
    pub vdisk_id: String,
    /// See [`FragmentHeader::previous_hash`].
    pub previous_hash: Hash,
    /// See [`FragmentHeader::previous_public_hash`].
    pub previous_public_hash: Hash,
    /// See [`FragmentHeader::cluster`].
    pub cluster: ClusterId,
    /// See [`FragmentHeader::data_dir`].
    pub data_dir: DataDirId,
    /// See [`FragmentHeader::topic`].
    pub topic: String,
    /// See [`FragmentHeader::partition`].
    pub partition: TopicPartition,
    /// See [`FragmentHeader::sequences`].
    pub sequences: Option<SequenceRange>,
    /// Journal byte offsets of the first record and behind the last, equal without a journal view.
    pub journal_bytes: (i64, i64),
    /// When the first and the last batch were appended, in ms since 1970.
    pub append_ms: (i64, i64),
    /// See [`FragmentHeader::last_stable_offset`].
    pub last_stable_offset: Offset,
    /// See [`FragmentHeader::number`].
    pub number: u64,
    /// See [`FragmentHeader::generation`].
    pub generation: u32,
    /// See [`FragmentHeader::base_nonce`].
    pub base_nonce: [u8; 12],
    /// m; k is the body's.
    pub parity_shards: u8,
}

/// A fragment ready to be shipped.
#[derive(Debug, Clone)]
pub struct SealedFragment {
    /// The header.
    pub header: FragmentHeader,
    /// Its bytes as they stand in every shard. Together with `digest` the intent that [`reseal`] needs.
    pub header_bytes: Bytes,
    /// The n shards as the servers get them.
    pub shards: Vec<Bytes>,
    /// Their tags.
    pub tags: Vec<Tag>,
    /// Keyed hash of the padded body. Never leaves the broker.
    pub digest: Hash,
    /// Keyed chain hash, which the next fragment names.
    pub hash: Hash,
    /// Public chain hash, which the next fragment names.
    pub public_hash: Hash,
    /// What the batches say.
    pub facts: BatchFacts,
}

impl SealedFragment {
    /// The entry of this fragment in the manifest. `servers` has one name per shard index.
    ///
    /// # Panics
    /// If there are not n servers.
    #[must_use]
    pub fn entry(&self, servers: Vec<String>, state: EntryState) -> ManifestEntry {
        assert_eq!(servers.len(), self.shards.len(), "one server per shard");
        let header = &self.header;
        ManifestEntry {
            number: header.number,
            generation: header.generation,
            revision: 0,
            state,
            size: header.size,
            leader_epoch: header.leader_epoch,
            first_offset: header.first_offset,
            last_offset: header.last_offset,
            sequences: header.sequences,
            first_commit: header.first_commit,
            last_commit: header.last_commit,
            first_journal_byte: header.first_journal_byte,
            last_journal_byte: header.last_journal_byte,
            first_append_ms: header.first_append_ms,
            last_append_ms: header.last_append_ms,
            min_timestamp_ms: self.facts.min_timestamp_ms,
            max_timestamp_ms: self.facts.max_timestamp_ms,
            last_stable_offset: header.last_stable_offset,
            aborted_count: header.aborted_count,
            highest_producer_id: header.highest_producer_id,
            full: header.full,
            kid: header.kid,
            data_shards: header.data_shards,
            parity_shards: header.parity_shards,
            header_bytes: u32::try_from(self.header_bytes.len()).expect("bounded when it was made"),
            body_bytes: header.body_bytes,
            compressed_bytes: header.compressed_bytes,
            padded_bytes: header.padded_bytes,
            servers,
            tags: self.tags.clone(),
            previous_hash: header.previous_hash,
            hash: self.hash,
            public_hash: self.public_hash,
            replaced: Vec::new(),
        }
    }
}

/// Seals a body under the active key. To be called once for a number and generation: a retry goes through [`reseal`].
///
/// # Errors
/// [`SealError::Malformed`] where the draft does not fit the format.
pub fn seal(
    draft: &Draft,
    body: &Body,
    secret: &TopicSecret,
    keys: &KeyRing,
    os_random: [u8; 32],
) -> Result<SealedFragment, SealError> {
    let kid = keys.active();
    let key_fingerprint = keys.fingerprint(kid).expect("the active key is always in the ring");
    let mut header = FragmentHeader {
        size: body.facts.records,
        timestamp_ns: draft.timestamp_ns,
        vdisk_id: draft.vdisk_id.clone(),
        previous_hash: draft.previous_hash,
        cluster: draft.cluster,
        data_dir: draft.data_dir,
        topic: draft.topic.clone(),
        partition: draft.partition,
        leader_epoch: body.facts.leader_epoch,
        first_offset: body.facts.first_offset,
        last_offset: body.facts.last_offset,
        sequences: draft.sequences,
        first_commit: body.first_commit,
        last_commit: body.last_commit,
        first_journal_byte: draft.journal_bytes.0,
        last_journal_byte: draft.journal_bytes.1,
        first_append_ms: draft.append_ms.0,
        last_append_ms: draft.append_ms.1,
        last_stable_offset: draft.last_stable_offset,
        aborted_count: body.aborted_count,
        highest_producer_id: body.facts.highest_producer_id,
        full: body.full,
        number: draft.number,
        generation: draft.generation,
        kid,
        key_fingerprint,
        salt: [0; 32],
        base_nonce: draft.base_nonce,
        previous_public_hash: draft.previous_public_hash,
        data_shards: body.data_shards,
        parity_shards: draft.parity_shards,
        compression: COMPRESSION_NONE,
        batch_lengths: body.facts.lengths.clone(),
        body_bytes: body.body_bytes as u64,
        compressed_bytes: body.body_bytes as u64,
        padded_bytes: body.bytes.len() as u64,
    };
    let digest = keys.digest(kid, &body.bytes)?;
    header.salt = keys.salt(kid, &os_random, &header.encode()?, &digest)?;
    let header_bytes = Bytes::from(header.encode()?);
    make(header, header_bytes, digest, &body.bytes, body.facts.clone(), secret, keys)
}

/// Seals the body of a stored intent again: the same bytes as the first time.
///
/// # Errors
/// [`SealError::Changed`] where the body is another than then: the number must be abandoned.
pub fn reseal(
    header_bytes: Bytes,
    digest: &Hash,
    body: &Body,
    secret: &TopicSecret,
    keys: &KeyRing,
) -> Result<SealedFragment, SealError> {
    let header = FragmentHeader::decode(&header_bytes)?;
    keys.check(header.kid, &header.key_fingerprint)?;
    // The digest is over every byte that is sealed. So the same header and digest never seal other bytes.
    if !equal(&keys.digest(header.kid, &body.bytes)?, digest) {
        return Err(SealError::Changed { what: "body" });
    }
    if header.data_shards != body.data_shards || header.padded_bytes != body.bytes.len() as u64 {
        return Err(SealError::Changed { what: "number of shards" });
    }
    make(header, header_bytes, *digest, &body.bytes, body.facts.clone(), secret, keys)
}

/// Codes and seals. The header's salt is final, and its bytes are never sealed with another body.
fn make(
    header: FragmentHeader,
    header_bytes: Bytes,
    digest: Hash,
    padded: &[u8],
    facts: BatchFacts,
    secret: &TopicSecret,
    keys: &KeyRing,
) -> Result<SealedFragment, SealError> {
    let range = |what| super::error::Malformed::Range { what };
    let shard_bytes = padded.len() / usize::from(header.data_shards.max(1));
    let header_length = u32::try_from(header_bytes.len()).map_err(|_| range("header length"))?;
    let shard_length = u32::try_from(shard_bytes).map_err(|_| range("shard length"))?;
    let text_at = PREFIX_BYTES + header_bytes.len();
    let object_bytes = text_at + shard_bytes + TAG_BYTES + CRC_BYTES;

    let pieces: Vec<&[u8]> = padded.chunks_exact(shard_bytes).collect();
    let mut objects = Vec::with_capacity(header.shards());
    for index in 0..header.shards() {
        let mut object = Vec::with_capacity(object_bytes);
        let index_byte = u8::try_from(index).map_err(|_| range("shard index"))?;
        object.extend_from_slice(&prefix(index_byte, header_length, shard_length));
        object.extend_from_slice(&header_bytes);
        match pieces.get(index) {
            Some(piece) => object.extend_from_slice(piece),
            None => object.resize(text_at + shard_bytes, 0),
        }
        objects.push(object);
    }
    let (_, parity) = objects.split_at_mut(pieces.len());
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[text_at..]).collect();
    Code::new(usize::from(header.data_shards), usize::from(header.parity_shards))?
        .encode(&pieces, &mut parity)?;

    let sealer = Sealer::new(keys, secret, &header.context(), &header.salt, header.base_nonce)?;
    let mut to_seal: Vec<ToSeal<'_>> = objects
        .iter_mut()
        .map(|object| {
            let (aad, text) = object.split_at_mut(text_at);
            ToSeal { aad, text }
        })
        .collect();
    let tags = sealer.seal(&mut to_seal);
    let finish = |(mut object, tag): (Vec<u8>, &Tag)| {
        object.extend_from_slice(tag);
        object.extend_from_slice(&crc32c::crc32c(&object).to_le_bytes());
        Bytes::from(object)
    };
    let shards = objects.into_iter().zip(&tags).map(finish).collect();
    let hash = keys.chain_hash(header.kid, &header_bytes, &tags)?;
    let public_hash = public_hash(&header_bytes, &tags);
    Ok(SealedFragment { header, header_bytes, shards, tags, digest, hash, public_hash, facts })
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// The fragment of a verified entry.
    Entry(&'a ManifestEntry),
    /// A fragment of which only the name is known: its entry is lost. Which shards belong together is then seen by their
    /// headers alone.
    Name {
        /// Its number.
        number: u64,
        /// Its generation.
        generation: u32,
        /// Shards that are looked for; the longest fragment has 24.
        shards: u8,
    },
}

/// Where a fragment belongs and what opens it.
#[derive(Clone, Copy)]
pub struct OpenContext<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's secret.
    pub secret: &'a TopicSecret,
    /// The master keys.
    pub keys: &'a KeyRing,
}

/// A shard whose tag held.
#[derive(Debug, Clone)]
pub struct OpenedShard {
    /// The header.
    pub header: FragmentHeader,
    /// Its bytes.
    pub header_bytes: Bytes,
    /// What was sealed: a piece of the body, or parity.
    pub text: Vec<u8>,
    /// Its tag.
    pub tag: Tag,
    /// Whether its checksum held, too. If not, the content is right (the tag says so) and the stored shard wants repair.
    pub checksum_fits: bool,
}

/// The parts of a shard, by its own lengths.
struct Parts<'a> {
    index: u8,
    aad: &'a [u8],
    header_bytes: &'a [u8],
    text: &'a [u8],
    tag: Tag,
}

/// Tells whether the last four bytes are the checksum of the others: the check that needs no key.
#[must_use]
pub fn checksum_fits(shard: &[u8]) -> bool {
    shard
        .split_last_chunk::<CRC_BYTES>()
        .is_some_and(|(covered, crc)| crc32c::crc32c(covered).to_le_bytes() == *crc)
}

/// Cuts a shard by its own lengths, each checked against the bytes that are there.
fn split(shard: &[u8]) -> Result<Parts<'_>, ShardError> {
    let (prefix, _) = shard.split_first_chunk::<PREFIX_BYTES>().ok_or(ShardError::Rotten)?;
    let [m0, m1, m2, m3, f0, f1, suite, index, h0, h1, h2, h3, s0, s1, s2, s3] = *prefix;
    if [m0, m1, m2, m3] != *SHARD_MAGIC {
        return Err(ShardError::Misplaced { field: "magic" });
    }
    let format = u16::from_le_bytes([f0, f1]);
    if format != FORMAT {
        return Err(ShardError::Unsupported { what: "format", found: u32::from(format) });
    }
    if suite != SUITE {
        return Err(ShardError::Unsupported { what: "suite", found: u32::from(suite) });
    }
    let header_bytes = u32::from_le_bytes([h0, h1, h2, h3]) as usize;
    let shard_bytes = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
    let cut = || {
        let (before, _) = shard.split_last_chunk::<CRC_BYTES>()?;
        let (before, tag) = before.split_last_chunk::<TAG_BYTES>()?;
        let (aad, text) = before.split_at_checked(PREFIX_BYTES.checked_add(header_bytes)?)?;
        let header_bytes = aad.get(PREFIX_BYTES..)?;
        let fits = header_bytes.len() <= TIER_RECORD_BYTES && text.len() == shard_bytes;
        fits.then_some(Parts { index, aad, header_bytes, text, tag: *tag })
    };
    cut().ok_or(ShardError::Forged)
}

/// The first field in which a header differs from what is asked for.
fn misplaced(
    header: &FragmentHeader,
    wanted: &Wanted<'_>,
    context: &OpenContext<'_>,
) -> Option<&'static str> {
    let place = [
        (header.cluster == context.cluster, "cluster"),
        (header.partition.topic == context.partition.topic, "topic"),
        (header.partition.partition == context.partition.partition, "partition"),
    ];
    let differs = |facts: &[(bool, &'static str)]| {
        facts.iter().find(|(holds, _)| !holds).map(|(_, field)| *field)
    };
    let rest = || match *wanted {
        Wanted::Name { number, generation, .. } => differs(&[
            (header.number == number, "number"),
            (header.generation == generation, "generation"),
        ]),
        Wanted::Entry(entry) => differs(&[
            (header.number == entry.number, "number"),
            (header.generation == entry.generation, "generation"),
            (header.leader_epoch == entry.leader_epoch, "leader epoch"),
            (header.first_offset == entry.first_offset, "first offset"),
            (header.last_offset == entry.last_offset, "last offset"),
            (header.data_shards == entry.data_shards, "number of data shards"),
            (header.parity_shards == entry.parity_shards, "number of parity shards"),
            (header.body_bytes == entry.body_bytes, "length of the body"),
            (header.compressed_bytes == entry.compressed_bytes, "compressed length"),
            (header.padded_bytes == entry.padded_bytes, "padded length"),
            (header.kid == entry.kid, "key id"),
            (header.previous_hash == entry.previous_hash, "previous hash"),
        ]),
    };
    differs(&place).or_else(rest)
}

/// Opens the shard that was found in the place of `index`. Plain bytes are given out only when the tag held.
///
/// # Errors
/// [`ShardError`], never [`ShardError::Missing`]. A wrong checksum tells [`ShardError::Rotten`] from the others.
pub fn open_shard(
    shard: &[u8],
    index: u8,
    wanted: &Wanted<'_>,
    context: &OpenContext<'_>,
) -> Result<OpenedShard, ShardError> {
    let checksum_fits = checksum_fits(shard);
    open_sound(shard, index, wanted, context)
        .map(|opened| OpenedShard { checksum_fits, ..opened })
        .map_err(|error| if checksum_fits { error } else { ShardError::Rotten })
}

fn open_sound(
    shard: &[u8],
    index: u8,
    wanted: &Wanted<'_>,
    context: &OpenContext<'_>,
) -> Result<OpenedShard, ShardError> {
    let parts = split(shard)?;
    let header = FragmentHeader::decode(parts.header_bytes).map_err(|_| ShardError::Forged)?;
    if parts.index != index {
        return Err(ShardError::Misplaced { field: "index" });
    }
    if let Some(field) = misplaced(&header, wanted, context) {
        return Err(ShardError::Misplaced { field });
    }
    context.keys.check(header.kid, &header.key_fingerprint).map_err(ShardError::WrongKey)?;
    if header.shard_bytes() != parts.text.len() as u64 || usize::from(index) >= header.shards() {
        return Err(ShardError::Forged);
    }
    let opener = Opener::new(
        context.keys,
        context.secret,
        &header.context(),
        &header.salt,
        header.base_nonce,
    )
    .map_err(ShardError::WrongKey)?;
    let mut text = parts.text.to_vec();
    opener.open(index, parts.aad, &mut text, &parts.tag).map_err(|_| ShardError::Forged)?;
    if let Wanted::Entry(entry) = wanted {
        // The entry's own MAC held, so its tags and public hash fix every byte of header and tag.
        let same_tag = entry.tags.get(usize::from(index)) == Some(&parts.tag);
        if !same_tag || public_hash(parts.header_bytes, &entry.tags) != entry.public_hash {
            return Err(ShardError::Misplaced { field: "seal" });
        }
    }
    Ok(OpenedShard {
        header,
        header_bytes: Bytes::copy_from_slice(parts.header_bytes),
        text,
        tag: parts.tag,
        checksum_fits: true,
    })
}

/// A fragment whose batches all check out.
#[derive(Debug, Clone)]
pub struct OpenedFragment {
    /// The header.
    pub header: FragmentHeader,
    /// Its bytes.
    pub header_bytes: Bytes,
    /// The batches as they are.
    pub batches: Bytes,
    /// The trailer.
    pub trailer: Trailer,
    /// What the batches say.
    pub facts: BatchFacts,
    /// Shards that were looked at and are not as they should be. Those behind the first k good ones are not looked at.
    pub faults: Vec<ShardFault>,
    /// The padded body, for [`repair`].
    padded: Bytes,
}

/// Shards that opened under one header.
struct Group {
    header: FragmentHeader,
    header_bytes: Bytes,
    texts: Vec<Option<Vec<u8>>>,
    good: usize,
}

/// Opens a fragment from its shards in the order of their index; absent, damaged and misplaced ones count as missing. Shards
/// are opened until k good ones with equal headers are found.
///
/// # Errors
/// [`FragmentError::TooFewShards`] with what is wrong with each, [`FragmentError::Body`] where the content does not check
/// out, [`FragmentError::Compression`].
pub fn open_fragment(
    shards: &[Option<Bytes>],
    wanted: &Wanted<'_>,
    context: &OpenContext<'_>,
) -> Result<OpenedFragment, FragmentError> {
    let (places, mut needed) = match *wanted {
        Wanted::Entry(entry) => (entry.shards(), usize::from(entry.data_shards)),
        Wanted::Name { shards, .. } => (usize::from(shards), 1),
    };
    let mut faults = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut good = 0;
    for (place, index) in (0..places).zip(0u8..) {
        let found = shards.get(place).and_then(Option::as_ref);
        let opened = match found {
            Some(shard) => open_shard(shard, index, wanted, context),
            None => Err(ShardError::Missing),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                faults.push(ShardFault { index, error });
                continue;
            }
        };
        if !opened.checksum_fits {
            faults.push(ShardFault { index, error: ShardError::Rotten });
        }
        let group = join(&mut groups, opened, place);
        good = good.max(group.good);
        needed = needed.max(usize::from(group.header.data_shards));
        if group.good == usize::from(group.header.data_shards) {
            let at = groups.iter().position(|g| g.good == usize::from(g.header.data_shards));
            if let Some(at) = at {
                return decode(groups.swap_remove(at), faults);
            }
        }
    }
    Err(FragmentError::TooFewShards { good, needed, faults: ShardFaults(faults) })
}

/// Adds a shard to those with the same header bytes.
fn join(groups: &mut Vec<Group>, opened: OpenedShard, place: usize) -> &mut Group {
    let known = groups.iter().position(|group| group.header_bytes == opened.header_bytes);
    let at = known.unwrap_or_else(|| {
        groups.push(Group {
            texts: vec![None; opened.header.shards()],
            header: opened.header,
            header_bytes: opened.header_bytes,
            good: 0,
        });
        groups.len() - 1
    });
    let group = &mut groups[at];
    if let Some(text) = group.texts.get_mut(place) {
        *text = Some(opened.text);
        group.good += 1;
    }
    group
}

fn decode(group: Group, faults: Vec<ShardFault>) -> Result<OpenedFragment, FragmentError> {
    let Group { header, header_bytes, mut texts, .. } = group;
    if header.compression != COMPRESSION_NONE {
        return Err(FragmentError::Compression { found: header.compression });
    }
    let data = usize::from(header.data_shards);
    if texts.iter().take(data).any(Option::is_none) {
        Code::new(data, usize::from(header.parity_shards))?.reconstruct_data(&mut texts)?;
    }
    let mut padded = Vec::with_capacity(texts.iter().take(data).flatten().map(Vec::len).sum());
    texts.iter().take(data).flatten().for_each(|text| padded.extend_from_slice(text));
    if padded.len() as u64 != header.padded_bytes {
        return Err(BodyError::Differs { what: "padded length" }.into());
    }
    let padded = Bytes::from(padded);
    let (batches, trailer, facts) = body::check(&header, &padded)?;
    Ok(OpenedFragment { header, header_bytes, batches, trailer, facts, faults, padded })
}

/// Makes all shards of an opened fragment again, byte for byte, from its stored header. Each must have the tag that the
/// manifest names, else nothing is given out.
///
/// # Errors
/// [`FragmentError::NotTheSame`], [`FragmentError::Seal`].
pub fn repair(
    opened: &OpenedFragment,
    entry: &ManifestEntry,
    context: &OpenContext<'_>,
) -> Result<Vec<Bytes>, FragmentError> {
    let made = make(
        opened.header.clone(),
        opened.header_bytes.clone(),
        [0; 32],
        &opened.padded,
        opened.facts.clone(),
        context.secret,
        context.keys,
    )?;
    let mut pairs = (0u8..).zip(made.tags.iter().zip(&entry.tags));
    let other = pairs.find(|(_, (made, stored))| made != stored).map(|(index, _)| index);
    match other {
        Some(index) => Err(FragmentError::NotTheSame { index }),
        None if made.tags.len() == entry.tags.len() => Ok(made.shards),
        None => Err(FragmentError::NotTheSame { index: 0 }),
    }
}

#[cfg(test)]
mod tests;
