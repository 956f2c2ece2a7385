# The TLog wire. One struct per layout: old and new eras differ in the layout of a struct, not in its place in the
# stream, so the eras are told apart before a message is decoded (see tlog/protocol/mod.rs).
#
# After a change, with `capnpc-rust` of the crate `capnpc` 0.27 in the path:
#     capnp compile --src-prefix=src/tlog/schema -o rust:src/tlog/protocol src/tlog/schema/tlog.capnp
#     mv src/tlog/protocol/tlog_capnp.rs src/tlog/protocol/generated.rs
# The test compat-tests/tests/schemas.rs fails until that is done.
@0xf4533cbae6e08506;

# Declared here instead of imported, so that the compiler needs no further file; the plugin goes by the id.
annotation parentModule @0xabee386cd1450364 (file) :Text;
$parentModule("tlog::protocol");

# Sent first by the client. `firstSequence` and `reset` exist in the older family only; a frame without them reads as 0
# and false.
struct HandshakeRequest {
  version @0 :UInt32;
  vdiskId @1 :Text;
  firstSequence @2 :UInt64;
  reset @3 :Bool;
}

# The request of the newer family: the same without the last two fields.
struct HandshakeRequestB {
  version @0 :UInt32;
  vdiskId @1 :Text;
}

# The older family has the first two fields only, in one data word.
struct HandshakeResponse {
  version @0 :UInt32;
  status @1 :Int8;
  lastFlushedSequence @2 :UInt64;
  waitTlogReady @3 :Bool;
}

struct HandshakeResponseA {
  version @0 :UInt32;
  status @1 :Int8;
}

# Place given in bytes.
struct ByteBlock {
  sequence @0 :UInt64;
  offset @1 :UInt64;
  size @2 :UInt64;
  hash @3 :Data;
  data @4 :Data;
  timestamp @5 :UInt64;
  operation @6 :UInt8;
}

# Place given as block number.
struct IndexBlock {
  sequence @0 :UInt64;
  index @1 :Int64;
  hash @2 :Data;
  data @3 :Data;
  timestamp @4 :Int64;
  operation @5 :UInt8;
}

# Body of the older family's messages without a block.
struct Command {
  type @0 :UInt8;
  sequence @1 :UInt64;
}

# Everything that a client of the newer family sends after the handshake.
struct ClientMessage {
  union {
    block @0 :IndexBlock;
    forceFlush @1 :UInt64;
    waitSlaveSync @2 :Void;
    disconnect @3 :Void;
  }
}

# Everything that the server sends after the handshake, in every era.
struct Response {
  status @0 :Int8;
  sequences @1 :List(UInt64);
}

# The second listener, by which one server waits for another.
struct WaitRequest {
  vdiskId @0 :Text;
}

struct WaitResponse {
  exists @0 :Bool;
}
