//! Every hard bound on what comes from outside, and why it has its value.

/// Longest Kafka request frame for Produce. Kafka: `socket.request.max.bytes`.
pub const KAFKA_PRODUCE_FRAME_BYTES: usize = 100 * 1024 * 1024;

/// Longest Kafka request frame for anything but Produce: no other request carries data.
pub const KAFKA_REQUEST_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// Memory that the decoded form of one Kafka request may take. A 2-byte element of a frame becomes a struct of 72
/// bytes and more, so the frame's length bounds nothing.
pub const KAFKA_DECODED_REQUEST_BYTES: usize = 32 * 1024 * 1024;

/// Request frames up to this length are read before memory is asked for, and begun on the connection's own task:
/// the most that one connection holds outside the budget.
pub const KAFKA_SMALL_FRAME_BYTES: usize = 64 * 1024;

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

/// Largest commit in the commit log: what the committer gathers before it writes, one batch at least.
pub const COMMIT_BYTES: usize = 2 * RECORD_BATCH_BYTES;

/// Partitions of one topic, and partitions in all: each costs a directory and some kilobytes of memory.
pub const TOPIC_PARTITIONS: i32 = 1_000;
/// See [`TOPIC_PARTITIONS`].
pub const BROKER_PARTITIONS: usize = 20_000;

/// Connections of one listener at the same time.
pub const CONNECTIONS: usize = 10_000;

/// Idempotent producers remembered per partition, about 250 bytes each. A well-behaved cluster has one per writing
/// process; a client that opens a new one per batch costs its partition's older ones their memory and nothing else.
pub const PARTITION_PRODUCERS: usize = 10_000;
