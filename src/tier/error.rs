//! What can go wrong with keys, shards, fragments, records and placement. Corrupt bytes, a wrong key, a thing in the
//! wrong place and mistakes of a caller are different variants, for operators see them apart.

use std::fmt;

use crate::record;
use crate::types::Offset;

/// Bytes that do not follow the format.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The Cap'n Proto frame cannot be read.
    #[error("the frame cannot be read")]
    Frame(#[from] capnp::Error),
    /// Bytes are left over or missing.
    #[error("{what} has {found} bytes, {expected} are needed")]
    Length {
        /// Which part.
        what: &'static str,
        /// As found.
        found: usize,
        /// As the format has it.
        expected: usize,
    },
    /// More than the limit.
    #[error("{what} of {found} is beyond the limit of {limit}")]
    TooLarge {
        /// Which quantity.
        what: &'static str,
        /// As found.
        found: u64,
        /// As in `types/limits.rs`.
        limit: u64,
    },
    /// A value that cannot be.
    #[error("{what} is out of range")]
    Range {
        /// Which field.
        what: &'static str,
    },
    /// It begins with other bytes.
    #[error("{what} does not begin with its magic")]
    Magic {
        /// Which part.
        what: &'static str,
    },
    /// Written by a newer version.
    #[error("{what} has format {found}; this version reads up to 1, use a newer one")]
    Format {
        /// Which part.
        what: &'static str,
        /// As found.
        found: u32,
    },
    /// Its checksum is another.
    #[error("the checksum of {what} does not fit")]
    Checksum {
        /// Which part.
        what: &'static str,
    },
    /// A text that is not UTF-8, or no legal name.
    #[error("{what} is not a legal text")]
    Text {
        /// Which field.
        what: &'static str,
    },
}

/// A master key that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither of the forms of a key.
    #[error(
        "a master key of {found} bytes: give exactly 32 bytes, 64 hexadecimal digits, or @ and the path of a file"
    )]
    Length {
        /// Bytes of the text.
        found: usize,
    },
    /// All its bytes are equal.
    #[error("all bytes of the master key are equal: generate one, `openssl rand -hex 32`")]
    Equal,
    /// This number has another key already.
    #[error("key id {kid} is taken by another key: add the new key under a fresh number")]
    Taken {
        /// The number.
        kid: u32,
    },
    /// No such key.
    #[error("no key has the id {kid}: add it to the key ring first")]
    Unknown {
        /// The number.
        kid: u32,
    },
}

/// A key is missing or is another one than what was sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongKey {
    /// The ring does not have it.
    #[error("key id {kid} is not in the key ring: add that key")]
    Absent {
        /// The number.
        kid: u32,
    },
    /// The ring has another one under this number.
    #[error(
        "key id {kid} in the key ring is not the key that sealed this: check -priv-key and keys.d"
    )]
    Other {
        /// The number.
        kid: u32,
    },
}

/// A message whose tag or MAC does not fit its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authentication tag does not fit")]
pub struct Unauthentic;

/// What is wrong with one shard. It counts as missing, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The server does not have it.
    #[error("missing")]
    Missing,
    /// A sound shard, but of something else, or of another version of this.
    #[error("misplaced: its {field} is another")]
    Misplaced {
        /// What differs.
        field: &'static str,
    },
    /// The key to it is not here.
    #[error(transparent)]
    WrongKey(WrongKey),
    /// Its checksum does not fit: bits were lost.
    #[error("rotten: its checksum does not fit")]
    Rotten,
    /// Its checksum fits and its seal does not: somebody made it so.
    #[error("forged: its checksum fits and its seal does not")]
    Forged,
    /// Written by a newer version.
    #[error("its {what} {found} is not known here: use a newer version of this program")]
    Unsupported {
        /// Format, suite or compression.
        what: &'static str,
        /// As found.
        found: u32,
    },
}

/// A shard that did not open, by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFault {
    /// Which shard of the fragment.
    pub index: u8,
    /// What is wrong with it.
    pub error: ShardError,
}

/// The shards that did not open, listed for a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardFaults(pub Vec<ShardFault>);

impl fmt::Display for ShardFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}shard {} {}", fault.index, fault.error)?;
        }
        Ok(())
    }
}

/// A fragment that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    /// Fewer than k shards are good.
    #[error(
        "{good} of {needed} needed shards open: {faults}; bring servers back or repair the fragment"
    )]
    TooFewShards {
        /// Shards that opened.
        good: usize,
        /// k.
        needed: usize,
        /// What is wrong with the others.
        faults: ShardFaults,
    },
    /// k shards open, and what they decode to is wrong all the same.
    #[error("its shards open, but their content is damaged")]
    Body(#[from] BodyError),
    /// The code cannot be used.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    /// The content is compressed in an unknown way.
    #[error("compression {found} is not known here: use a newer version of this program")]
    Compression {
        /// As in the header.
        found: u8,
    },
    /// The restored shards are not those that the manifest names.
    #[error("shard {index} made again differs from the manifest: nothing was repaired")]
    NotTheSame {
        /// Which shard.
        index: u8,
    },
    /// The shards cannot be made again.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A body that cannot be, or does not check out.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// There is no batch in it.
    #[error("a fragment needs at least one batch")]
    Empty,
    /// A batch cannot be read.
    #[error("the batch at byte {position} is damaged")]
    Batch {
        /// From the start of the body.
        position: usize,
        /// What is wrong with it.
        #[source]
        source: record::Error,
    },
    /// A batch has another length than stated.
    #[error("the batch at byte {position} has {found} bytes, {expected} are stated")]
    BatchLength {
        /// From the start of the body.
        position: usize,
        /// By its own header.
        found: usize,
        /// By the fragment's header or by the piece that it came in.
        expected: usize,
    },
    /// The CRC of a batch does not fit.
    #[error("the checksum of the batch at offset {offset} does not fit")]
    BatchCrc {
        /// Its base offset.
        offset: Offset,
    },
    /// A batch does not continue the one before it.
    #[error("a batch begins at offset {found} where {expected} is due")]
    Gap {
        /// Its base offset.
        found: Offset,
        /// One above the last offset before it.
        expected: Offset,
    },
    /// The leader epoch changes inside.
    #[error("the batch at offset {offset} has epoch {found}, the fragment has {expected}")]
    Epoch {
        /// Its base offset.
        offset: Offset,
        /// Its epoch.
        found: i32,
        /// That of the fragment.
        expected: i32,
    },
    /// Commit numbers go back.
    #[error("commit {found} follows commit {before}")]
    Commits {
        /// The smaller one.
        found: u64,
        /// The one before it.
        before: u64,
    },
    /// More bytes or batches than a fragment takes.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The content says something else than the header.
    #[error("{what} in the header and in the content differ")]
    Differs {
        /// Which fact.
        what: &'static str,
    },
}

/// A fragment that cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The body is not the one of the stored intent.
    #[error(
        "the {what} is not the one that was sealed before: abandon this number and take a fresh one"
    )]
    Changed {
        /// What differs.
        what: &'static str,
    },
    /// The key of the stored intent is not here.
    #[error(transparent)]
    WrongKey(#[from] WrongKey),
    /// The stored header cannot be read, or what the caller gave does not fit the format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The code cannot be used.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
}

/// A record of the catalogue that is refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It does not follow the format.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The key to it is not here.
    #[error(transparent)]
    WrongKey(#[from] WrongKey),
    /// Its MAC does not fit: damaged, moved from another place, or made by somebody without the key.
    #[error("record of `{key}` is damaged or forged: its MAC does not fit")]
    Unauthentic {
        /// Name of the key on the server.
        key: String,
    },
    /// A true record, stored where another belongs.
    #[error("record of `{key}` is misplaced: its {field} is another")]
    Misplaced {
        /// Name of the key on the server.
        key: String,
        /// What differs.
        field: &'static str,
    },
}

/// Parameters or shards that the code cannot work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// k or m out of range.
    #[error("{data} data and {parity} parity shards: 1 to 16 and 0 to 8 are possible")]
    Shape {
        /// k.
        data: usize,
        /// m.
        parity: usize,
    },
    /// Another number of shards than k or n.
    #[error("{found} shards where {expected} are needed")]
    Count {
        /// As given.
        found: usize,
        /// As the code has it.
        expected: usize,
    },
    /// Shards of unequal length or of none.
    #[error("shards must be of one length and not empty")]
    Lengths,
    /// Too many are missing.
    #[error("{present} shards are there, {needed} are needed")]
    TooFew {
        /// As given.
        present: usize,
        /// k.
        needed: usize,
    },
}

/// No placement is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Fewer servers than shards.
    #[error(
        "{servers} shard servers for {shards} shards: add {} more, lower the number of data or parity shards, or start \
         with -dev to let shards share servers", shards - servers
    )]
    TooFewServers {
        /// Servers that may be used.
        servers: usize,
        /// n.
        shards: usize,
    },
    /// No server at all.
    #[error("no shard server may be used: give -storage-addresses or -storage-dir")]
    NoServers,
    /// The same server twice.
    #[error("shard server `{name}` is listed twice: each shard needs a server of its own")]
    Twice {
        /// Its name.
        name: String,
    },
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`ErasureError::Shape`].
    #[error(transparent)]
    Shape(#[from] ErasureError),
    /// The base nonce is no 12 bytes.
    #[error("-nonce `{text}`: 24 hexadecimal digits are needed")]
    Nonce {
        /// As given.
        text: String,
    },
    /// A number out of its range.
    #[error("{name} is {value}: {range} is possible")]
    Range {
        /// Name of the setting.
        name: &'static str,
        /// As given.
        value: u64,
        /// In words.
        range: &'static str,
    },
}
