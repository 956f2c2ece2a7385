//! Every hard bound on what comes from outside, and why it has its value.

/// Longest Kafka request frame for Produce. Kafka: `socket.request.max.bytes`.
pub const KAFKA_PRODUCE_FRAME_BYTES: usize = 100 * 1024 * 1024;

/// Longest Kafka request frame for anything but Produce: no other request carries data.
pub const KAFKA_REQUEST_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// Memory that the decoded form of one Kafka request may take. A 2-byte element of a frame becomes a struct of 72
/// bytes and more, so the frame's length bounds nothing. All [`BROKER_PARTITIONS`] named at once take some 2 MB.
pub const KAFKA_DECODED_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// Decoded requests of all connections together, those up to [`KAFKA_SMALL_DECODED_BYTES`] not counted.
pub const KAFKA_DECODED_REQUESTS_BYTES: usize = 4 * KAFKA_DECODED_REQUEST_BYTES;

/// Requests whose decoded form takes no more do not ask for its memory: some 700 partitions.
pub const KAFKA_SMALL_DECODED_BYTES: usize = 64 * 1024;

/// Longest that a Fetch waits for data, whatever the client asks for. Clients ask for half a second; none waits longer
/// for an answer than its `request.timeout.ms`, rarely above a minute.
pub const KAFKA_FETCH_WAIT_MS: u64 = 300_000;

/// Request frames up to this length are read before memory is asked for, and begun on the connection's own task:
/// the most that one connection holds outside the budget.
pub const KAFKA_SMALL_FRAME_BYTES: usize = 64 * 1024;

/// Longest answer to anything but Fetch. Metadata of all partitions that a broker may have takes 1 MB, of as many topics
/// with the longest names 6 MB.
pub const KAFKA_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Such answers of all connections together until they are written, those up to [`KAFKA_SMALL_ANSWER_BYTES`] not counted.
pub const KAFKA_ANSWERS_BYTES: usize = 4 * KAFKA_ANSWER_BYTES;

/// Answers up to this length are written without asking for memory: a connection has one of them at a time.
pub const KAFKA_SMALL_ANSWER_BYTES: usize = 64 * 1024;

/// Topics that one CreateTopics request may name: an answer says all options of each, some 3 kB. Kafka's controller takes
/// 10,000 records in one request, two and more per topic.
pub const KAFKA_CREATED_TOPICS: usize = 1_000;

/// Most bytes of records in one Fetch answer, whatever the client asks for. Kafka: `fetch.max.bytes`.
pub const KAFKA_FETCH_BYTES: usize = 55 * 1024 * 1024;

/// What a fetch may always read, also when the memory for fetched data is used up: each client makes progress.
pub const KAFKA_FETCH_FLOOR_BYTES: usize = 64 * 1024;

/// Largest record batch that is stored, whatever a topic's `max.message.bytes` says: a batch must fit one commit
/// frame and one segment.
pub const RECORD_BATCH_BYTES: usize = 64 * 1024 * 1024;

/// Plain bytes that one compressed batch may expand to while its framing is checked.
pub const DECOMPRESSED_BATCH_BYTES: usize = 128 * 1024 * 1024;

/// Largest back-reference window of a zstd frame (2^27 = 128 MiB, zstd's own default for decoders).
pub const ZSTD_WINDOW_LOG: u32 = 27;

/// Longest TLog message after its frame header. The original's reader had the same.
pub const TLOG_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Most segments of a Cap'n Proto stream frame. The original's reader had the same.
pub const TLOG_FRAME_SEGMENTS: u32 = 512;

/// Deepest nesting of pointers in a Cap'n Proto message.
pub const CAPNP_NESTING: i32 = 64;

/// Longest message of ours on a shard server that is not a shard (header, record, entry).
pub const TIER_RECORD_BYTES: usize = 1024 * 1024;

/// Most data shards and most parity shards of a fragment; the index is a byte and tests cover this range.
pub const TIER_DATA_SHARDS: usize = 16;
/// See [`TIER_DATA_SHARDS`].
pub const TIER_PARITY_SHARDS: usize = 8;

/// Largest body of a fragment: one record batch, which is never split, and its trailer.
pub const FRAGMENT_BODY_BYTES: usize = RECORD_BATCH_BYTES + 16 * 1024 * 1024;

/// Longest value stored under the name of one shard: a whole body (one data shard is legal) and its header.
pub const TIER_SHARD_BYTES: usize = FRAGMENT_BODY_BYTES + TIER_RECORD_BYTES;

/// Bytes of one listing (the manifest or all topic records of one shard server) that are taken into memory. The entries
/// of 10^7 fragments need about as much.
pub const TIER_LISTING_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Longest address that a fence names: a host name of 253 bytes and a port.
pub const TIER_ADDRESS_BYTES: usize = 260;

/// Largest commit in the commit log: what the committer gathers before it writes, one batch at least.
pub const COMMIT_BYTES: usize = 2 * RECORD_BATCH_BYTES;

/// Most room that is held back on the file system of the data directory for what was accepted before it was full: the
/// largest commit in the commit log, the same in segments, and a checkpoint, indexes and the events of deletions.
pub const DISK_RESERVE_BYTES: u64 = 288 * 1024 * 1024;
/// Of it, for all but batches: a checkpoint of [`BROKER_PARTITIONS`] takes some 10 MB, a commit of an event 512 bytes.
const DISK_RESERVE_OTHER_BYTES: u64 = 32 * 1024 * 1024;
/// On a smaller file system the reserve is one of so many parts of it; what is queued is kept to what is free there.
pub const DISK_RESERVE_SHARE: u64 = 100;
/// Least reserve: commits of some thousand events, and a checkpoint of some thousand topics.
pub const DISK_RESERVE_LEAST_BYTES: u64 = 8 * 1024 * 1024;

const _: () = assert!(DISK_RESERVE_BYTES >= 2 * COMMIT_BYTES as u64 + DISK_RESERVE_OTHER_BYTES);
const _: () = assert!(DISK_RESERVE_OTHER_BYTES >= 1024 * BROKER_PARTITIONS as u64);
const _: () = assert!(DISK_RESERVE_LEAST_BYTES < DISK_RESERVE_BYTES);

/// Partitions of one topic, and partitions in all: each costs a directory and some kilobytes of memory.
pub const TOPIC_PARTITIONS: i32 = 1_000;
/// See [`TOPIC_PARTITIONS`].
pub const BROKER_PARTITIONS: usize = 20_000;

/// Connections to all listeners of one front end together.
pub const CONNECTIONS: usize = 10_000;

/// Producer ids are below: more than are ever handed out. One above it, stored, would leave none to be handed out by a
/// rebuild, which begins above all that it finds.
pub const PRODUCER_IDS: i64 = 1 << 62;

/// Idempotent producers remembered per partition, about 250 bytes each. A well-behaved cluster has one per writing
/// process; a client that opens a new one per batch costs its partition's older ones their memory and nothing else.
pub const PARTITION_PRODUCERS: usize = 10_000;
/// The same for all partitions together, beside the first of each partition, which is always remembered. They are held twice
/// and a third time while a checkpoint is written: some 500 MB, and 370 MB of its text, if all of them send on and on. Enough
/// for 5,000 processes that write to 100 partitions each within a day.
pub const PRODUCERS: usize = 500_000;

/// Blocks beyond a gap that one vdisk holds in memory. The original's clients have at most a few hundred blocks under
/// way; a client that names a wrong first sequence would otherwise fill the memory.
pub const VDISK_HELD_BLOCKS: usize = 4096;
/// Bytes of the same: 4096 blocks of the default size, 4 KiB.
pub const VDISK_HELD_BYTES: usize = 16 * 1024 * 1024;

/// Force flushes at sequences that have not come, per vdisk. A client needs one; beyond this the farthest is forgotten
/// and flush-time takes its place.
pub const VDISK_FORCE_FLUSH_MARKS: usize = 1024;

/// Highest first sequence of a run: far above any real one, far enough below 2^63 that no arithmetic can overflow.
pub const VDISK_FIRST_SEQUENCE: u64 = 1 << 62;

/// Largest data of one block: with its record's headers (below 200 bytes) and the batch's it must fit one record batch.
pub const VDISK_BLOCK_BYTES: usize = RECORD_BATCH_BYTES - 1024;

/// Hashes of the newest blocks that a vdisk keeps for telling duplicates; older ones are read from the log. A client
/// resends what is not flushed, some multiples of flush-size (25).
pub const VDISK_RECENT_HASHES: usize = 1024;

/// Duplicates of one vdisk whose answer waits for the log or for a commit. Beyond it they are dropped unanswered: the
/// client sends again.
pub const VDISK_WAITING_DUPLICATES: usize = 4096;

/// Data that one record batch of a vdisk gathers before the next one is begun: large enough that a batch's header costs
/// nothing, small enough for a reader that takes whole batches.
pub const VDISK_BATCH_BYTES: usize = 1024 * 1024;

/// Most batches of one fragment: each has 4 bytes in the header, which stands in every shard and is kept below
/// [`TIER_RECORD_BYTES`].
pub const FRAGMENT_BATCHES: usize = 65_536;

/// Batches that are remembered per idempotent producer. Kafka: `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`.
pub const PRODUCER_BATCHES: usize = 5;

/// Most options of one topic record. Kafka knows about 30, ours are fewer.
pub const TOPIC_OPTIONS: usize = 256;

/// Most generations of a fragment before the present one that its entry names: a rekey a month for 20 years.
pub const REPLACED_HASHES: usize = 256;

/// Most abandoned fragment numbers that a head record lists. A takeover or an unclean start leaves a handful, and they go
/// once their shards are removed.
pub const ABANDONED_NUMBERS: usize = 65_536;

/// Most deleted topics that are remembered because too few shard servers know of them: about 1 kB each in memory and in
/// every checkpoint. Beyond it shipping topics are not deleted until servers return.
pub const OWED_DELETIONS: usize = 1024;

/// Keys that one pass of compaction knows the newest offset of: about 50 MB. What has more takes several passes.
pub const COMPACTION_KEYS: usize = 1 << 20;

/// Ranges of a vdisk that one pass of compaction tells apart: about 30 MB, enough for 256 GiB of a disk that is written at
/// random in blocks of 256 KiB. Beyond it, a record stays although later ones cover it.
pub const COMPACTION_EXTENTS: usize = 1 << 20;

/// Records of a vdisk that one pass of compaction removes: 4 bytes each. The rest goes with the next.
pub const COMPACTION_RECORDS: usize = 1 << 24;
