# What the background tier stores on shard servers, beside the plain prefix of a shard and the envelope of a record
# (both drawn in tier/mod.rs). Stored for ever: fields are added at the end, never changed, moved or reused.
#
# Bytes of fixed width are Data: hashes, secrets and salts 32, ids 16, tags 16, nonces 12, a key's fingerprint 8.
# After a change, with `capnpc-rust` of the crate `capnpc` 0.27 in the path:
#     capnp compile --src-prefix=src/tier/schema -o rust:src/tier src/tier/schema/tier.capnp
#     mv src/tier/tier_capnp.rs src/tier/generated.rs
# The test compat-tests/tests/schemas.rs fails until that is done.
@0xc4b6f3a19d2e8570;

# Declared here instead of imported, so that the compiler needs no further file; the plugin goes by the id.
annotation parentModule @0xabee386cd1450364 (file) :Text;
$parentModule("tier");

struct FragmentHeader {
  # The words of the original's aggregation.
  name @0 :Text;                     # "TLog"
  size @1 :UInt64;                   # records
  timestamp @2 :Int64;               # when it was sealed, ns since 1970
  vdiskId @3 :Text;                  # empty for a plain topic
  previousHash @4 :Data;             # 32 zero bytes in the first fragment of a partition

  # Where it belongs.
  clusterId @5 :Data;
  dataDirId @6 :Data;
  topic @7 :Text;
  topicId @8 :Data;
  partition @9 :Int32;
  leaderEpoch @10 :Int32;            # of the records, not of who ships them

  # What it holds. All ranges include both ends.
  firstOffset @11 :Int64;
  lastOffset @12 :Int64;
  sequenced @13 :Bool;               # else the two sequences are zero and mean nothing
  firstSequence @14 :UInt64;
  lastSequence @15 :UInt64;
  firstCommit @16 :UInt64;
  lastCommit @17 :UInt64;
  firstJournalByte @18 :Int64;       # equal to the next without a journal view
  lastJournalByte @19 :Int64;
  firstAppendMs @20 :Int64;
  lastAppendMs @21 :Int64;
  lastStableOffset @22 :Int64;       # at the fragment's end
  abortedCount @23 :UInt32;
  highestProducerId @24 :Int64 = -1;
  full @25 :Bool;                    # the trailer has all live producer states

  # How it is sealed.
  number @26 :UInt64;
  generation @27 :UInt32;
  kid @28 :UInt32;
  keyFingerprint @29 :Data;
  salt @30 :Data;
  baseNonce @31 :Data;
  previousPublicHash @32 :Data;
  dataShards @33 :UInt8;
  parityShards @34 :UInt8;
  compression @35 :UInt8;            # 0 none
  batchLengths @36 :List(UInt32);
  bodyBytes @37 :UInt64;             # batches and trailer
  compressedBytes @38 :UInt64;
  paddedBytes @39 :UInt64;
}

struct Trailer {
  commits @0 :Data;                  # a varint per batch
  aborted @1 :List(AbortedTransaction);
  producers @2 :List(ProducerState);
  journal @3 :JournalState;
}

struct AbortedTransaction {
  producerId @0 :Int64;
  firstOffset @1 :Int64;
  lastOffset @2 :Int64;
  lastStableOffset @3 :Int64;
}

struct ProducerState {
  id @0 :Int64;
  epoch @1 :Int16;
  batches @2 :List(ProducerBatch);   # newest last, at most five
}

struct ProducerBatch {
  firstSequence @0 :Int32;
  lastSequence @1 :Int32;
  firstOffset @2 :Int64;
  timestampMs @3 :Int64;
}

struct JournalState {
  segmentFirstByte @0 :Int64;
  sha1State @1 :Data;
  registers @2 :List(Pair);
}

struct Pair {
  key @0 :Text;
  value @1 :Text;
}

struct SealedSecret {
  kid @0 :UInt32;
  nonce @1 :Data;
  sealed @2 :Data;                   # 32 bytes and the tag
}

struct TopicRecord {
  revision @0 :UInt64;               # counts changes of this record: the highest holds
  id @1 :Data;
  name @2 :Text;
  partitions @3 :Int32;
  options @4 :List(Pair);
  secret @5 :SealedSecret;           # null once shredded
  deleted @6 :Bool;
  shredded @7 :Bool;
}

struct ReplacedHash {
  hash @0 :Data;
  publicHash @1 :Data;
}

struct ManifestEntry {
  number @0 :UInt64;
  generation @1 :UInt32;
  revision @2 :UInt32;               # counts changes of this entry within a generation: the highest holds
  state @3 :UInt8;                   # 1 shipped, 2 complete, 3 deleting
  size @4 :UInt64;
  leaderEpoch @5 :Int32;
  firstOffset @6 :Int64;
  lastOffset @7 :Int64;
  sequenced @8 :Bool;
  firstSequence @9 :UInt64;
  lastSequence @10 :UInt64;
  firstCommit @11 :UInt64;
  lastCommit @12 :UInt64;
  firstJournalByte @13 :Int64;
  lastJournalByte @14 :Int64;
  firstAppendMs @15 :Int64;
  lastAppendMs @16 :Int64;
  minTimestampMs @17 :Int64;
  maxTimestampMs @18 :Int64;
  lastStableOffset @19 :Int64;
  abortedCount @20 :UInt32;
  highestProducerId @21 :Int64 = -1;
  full @22 :Bool;
  kid @23 :UInt32;
  dataShards @24 :UInt8;
  parityShards @25 :UInt8;
  headerBytes @26 :UInt32;
  bodyBytes @27 :UInt64;
  compressedBytes @28 :UInt64;
  paddedBytes @29 :UInt64;
  servers @30 :List(Text);           # per shard index
  tags @31 :Data;                    # per shard index, 16 bytes each
  previousHash @32 :Data;
  hash @33 :Data;
  publicHash @34 :Data;
  replaced @35 :List(ReplacedHash);  # of the generations before, oldest first
}

struct HeadRecord {
  epoch @0 :Int32;                   # of the owner that wrote it
  number @1 :UInt64;
  shippedOffset @2 :Int64;           # exclusive
  hash @3 :Data;
  publicHash @4 :Data;
  abandoned @5 :List(UInt64);        # ascending
}

struct ClusterMeta {
  clusterId @0 :Data;
  format @1 :UInt32;
}
