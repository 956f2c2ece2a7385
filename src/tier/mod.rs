//! The background tier: the log of a shipping partition as sealed fragments on shard servers.
//!
//! ```text
//! committed batches -> aggregation -> body -> erasure code -> seal each shard -> placement -> servers
//!                      (when, upto)           k+m shards      AES-256-GCM        + manifest entry and head
//! ```
//!
//! # The bytes, format 1
//!
//! Fixed for ever; samples are in `testdata/`. Integers outside of Cap'n Proto are little-endian here, big-endian inside of
//! key derivations.
//!
//! ```text
//! shard      0       4         6       7       8               12             16
//!            | TLSH  | format  | suite | index | header bytes  | shard bytes  | header ... | ciphertext | tag 16 | CRC-32C
//!            |       | u16     | u8    | u8    | u32           | u32          |
//!            |<--------------- associated data of the seal ----------------------------->|
//!            |<--------------- covered by the CRC --------------------------------------------------------------->|
//!
//! header     Cap'n Proto frame of FragmentHeader (schema/tier.capnp), the same bytes in all n shards
//!
//! body       the batches as they are | trailer | zeros to a multiple of k KiB; cut into k equal pieces
//!
//! trailer    0       4         6     8              12
//!            | TLTR  | format  | 0   | frame bytes  | Cap'n Proto frame of Trailer | CRC-32C of all before
//!            |       | u16     | u16 | u32          |
//!
//! record     0       4         6      7    8     12              16               24
//!            | TLRC  | format  | kind | 0  | kid | content bytes | key fingerprint | Cap'n Proto frame | MAC 32
//!            |       | u16     | u8   | u8 | u32 | u32           | 8 bytes         |
//!            kinds: 0 cluster identity (kid and fingerprint zero, CRC-32C instead of the MAC), 1 topic, 2 entry, 3 head
//!            MAC = HMAC-SHA256(K_mac, u64 length of the key's name | name | all before the MAC)
//! ```
//!
//! Keys, salt and nonces: [`encryption`]. Hashes of a fragment, over its header and its n tags:
//!
//! ```text
//! hash         HMAC-SHA256(K_chain, header | tag[0] | … | tag[n-1])
//! public hash  SHA-256("tlog/public/v1" | header | tag[0] | … | tag[n-1])
//! ```
//!
//! Each header names both of the fragment before it; zeros in the first.
//!
//! What the format leaves open and is fixed here: the digest that the salt takes in is over the *padded* body, every byte
//! that is sealed. `sequenced` in header and entry tells "no sequences" from sequence 0. Entries and topic records carry a
//! revision, for servers that missed a change hold an older one that is as genuine. Records name their key's fingerprint, so
//! that a wrong key is not taken for a forgery. The cluster's identity has no MAC: it must outlive every key.
//!
//! # Invariants
//!
//! * One (partition, number, generation) has one salt and one set of bytes: [`reseal`] gives the stored ones or refuses, and
//!   no name on a server is overwritten. No
//!   key and nonce ever seal two messages; a key is consumed by sealing.
//! * A shard is good if its own tag holds and it is what was asked for. Everything else counts as missing, and is told
//!   apart for people: missing, misplaced, wrong key, rotten (checksum fails), forged (checksum fits, seal does not).
//! * Shards decode together only if their header bytes are equal. What was decoded is checked batch by batch.
//! * What may change later (server, state, placement) is in the manifest entry, never in the header.
//! * Every length and count in what a server stores is bounded by `types/limits.rs` before memory is taken for what it says.
//!   Shards are asked for up to their bound. Entries, heads and topics come in answers as long as the server makes them.
//!
//! # Recovery
//!
//! A fragment of which k good shards are left opens, and [`repair`] makes the others again, byte for byte. A manifest is the
//! union of what the servers hold, and its chain of hashes says what is part of the log ([`Manifest`]).
//!
//! # The tasks
//!
//! ```text
//!  broker                        one shipper per partition (`shipper`)                        servers (`servers`)
//!  ------                        -------------------------------------                        -------------------
//!  high watermark, ship_to ----> idle until there is something; claim: raise the fence,  ---> t1:P:f, t1:P:m, t1:P:h
//!                                read entries and heads (`claim`, `catalogue`)
//!                                finish or give up what was intended before a crash
//!                                decide, read local batches, seal
//!  commit log <-- Intended ----
//!                                n shards, waiting for servers that are down (`put`)     ---> t1:P:s:…
//!                                entry and head on all n servers                         ---> t1:P:m, t1:P:h
//!  commit log <-- Shipped ------
//!                                beside it: read all n back, restore what is missing     <--- t1:P:s:…
//!  commit log <-- Completed ----   (`completer`)
//!
//!  compaction passes ----------> local batches against fragments; those that hold more as their next generation:
//!                                n shards, entry on all n, all n read back, older shards removed, entry "complete"
//!  in step <--------------------   (`generations`)                                            <--> t1:P:s:…, t1:P:m
//!
//!  read below the local start -> entry (`catalogue`) -> cache -> any k shards (`fetcher`) -> batches (`reader`)
//!  check of a fragment --------> entry -> all k+m shards, each opened by itself (`fetcher`) -> what is left of it
//!  new data directory ---------> topics, manifests, trailers of all servers (`rebuild`)
//! ```
//!
//! What the broker gives and is told is in `local`; [`Tier`] starts it all. Rules that the tasks keep:
//!
//! * Nothing is put before its intent is durable in the commit log. After a crash the intended fragment is made again to
//!   the same bytes; else it is taken from its own shards, where its entry shows that all were stored; else its number is
//!   never used. A number whose name turns out to be taken by other bytes on any server is given up, too.
//! * *Shipped* means: all n shards, and entry and head on all n servers. *Complete*: all n were read back and opened.
//! * An unreachable server makes shipping wait, for ever if need be. One probe per server asks it at growing intervals up to
//!   a second; whoever waits goes on when the probe succeeds. Nothing is dropped.
//! * A fence of another data directory ends a partition's shipping. The own one at a higher epoch raises the epoch.
//! * Entries that this data directory never made stop a partition rather than have their offsets handed out again.
//! * Memory of fragments under way, opened fragments and cold reads each have a bound of their own.
//! * A partition with nothing to ship waits on its watermarks and is not claimed.
//! * A topic's mark of deletion is final. It is put again until W servers have it (`deletions`); until then the broker
//!   remembers it.
//! * Records are deleted by whole fragments: entry marked, shards removed, the marked entry stays (`trim`). A rebuild begins
//!   behind what is marked.
//! * A fragment is sealed anew, or deleted, by one at a time: what is deleted does not come back as a newer generation. An
//!   entry of a later generation that is only *shipped* may have shards of older ones beside it; the next claim removes them.
//!   A generation has one set of bytes as a number has, without an intent: a name that is taken is passed over.
//! * Who finds shards gone looks for a newer generation before it calls anything damaged, in a partition that may be another
//!   broker's on the servers.
//! * Whoever waits for servers says so (`waiting`): one warning, the status, and a line when it goes on.
//!
//! Everything that counts as shipped has its entry on n servers. So N - n + 1 + m servers that answer, of which up to m
//! were replaced by empty ones, know all of it; fewer are asked again. A new data directory takes no number within 1024
//! above those it saw, since its forerunner may have put shards that no entry names.
//!
//! # Where to look next
//!
//! In the order of the bytes: [`aggregation`], `body`, [`erasure`], [`encryption`], `header`, `fragment`, [`placement`],
//! `records` (stored forms), [`manifest`] (the catalogue), [`names`] (keys on the servers), all of them pure: no IO, no
//! clock, randomness as an argument. Then [`store`] (one shard server), `servers` (all of them), `shipper`, `completer`,
//! `generations`, `reader`, `rebuild`, `deletions`, `trim`, [`Tier`]. Which test catches which change of the order of steps:
//! the tables in `tier/promises.rs` and `tier/renewals.rs`.

pub mod aggregation;
mod body;
mod cache;
mod catalogue;
mod claim;
mod codec;
mod completer;
mod config;
mod deletions;
pub mod encryption;
pub mod erasure;
mod error;
mod fetcher;
mod fragment;
mod generations;
mod header;
mod local;
pub mod manifest;
mod metrics;
pub mod names;
pub mod placement;
mod producers;
mod put;
mod reader;
mod rebuild;
mod records;
#[cfg(test)]
mod rig;
mod servers;
mod shipper;
mod status;
mod storage;
pub mod store;
#[cfg(test)]
mod testing;
#[expect(clippy::module_inception, reason = "the tier itself is what this folder is about")]
mod tier;
mod trim;
mod waiting;

// The output of the plugin `capnpc-rust`, see the head of schema/tier.capnp.
#[rustfmt::skip]
#[allow(missing_docs, unused, clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
#[path = "generated.rs"]
mod tier_capnp;

pub use body::{
    AbortedTransaction, BatchFacts, Body, BodyBatch, JournalState, ProducerBatch, ProducerState,
    Trailer, TrailerParts,
};
pub use config::{Config, DEFAULT_NONCE, parse_nonce};
pub use deletions::Told;
pub use encryption::{
    Hash, KeyRing, KeySource, MasterKey, SealedSecret, Tag, TopicSecret, parse_key,
};
pub use error::{
    BodyError, ConfigError, ErasureError, FragmentError, KeyError, Malformed, PlacementError,
    RecordError, SealError, ShardError, ShardFault, ShardFaults, Unauthentic, WrongKey,
};
pub use fetcher::{BadShard, CheckedFragment, FetchError};
pub use fragment::{
    Draft, OpenContext, OpenedFragment, OpenedShard, SealedFragment, Wanted, checksum_fits,
    open_fragment, open_shard, repair, reseal, seal,
};
pub use header::{COMPRESSION_NONE, FragmentHeader, SequenceRange};
pub use local::{AppendMark, Fact, Head, InStep, Intent, Local, Run, ShipState, Stopping};
pub use manifest::Manifest;
pub use metrics::Metrics;
pub use reader::TierReader;
pub use rebuild::{Recovered, RecoveredPartition, RecoveredTopic};
pub use records::{ClusterMeta, EntryState, HeadRecord, ManifestEntry, TopicRecord, record_kid};
pub use servers::Standing;
pub use status::{OwedDeletion, Part, Problem, ServerStatus, Status};
pub use storage::{ReadKeyError, Storage, read_key};
pub use tier::{
    Identity, OpenError, Opened, Remaining, SECRET_RANDOM_BYTES, ShipHandle, Tier, TopicInfo,
    Unavailable,
};
pub use trim::FragmentSpan;
