//! A shard server that is a redis process, named `host:port[@db]`.
//!
//! ```text
//! store.rs      the operations: which command or script, and what its answer means
//! scripts.rs    the Lua scripts: fence check and write in one step
//! connection.rs two lanes of connections per server, bounds on what is in flight, errors
//! info.rs       INFO -> ServerReport
//! ```
//!
//! Shards travel on the *data* lane, everything else on the *control* lane: on one connection a large put would hold up
//! the question whether the server lives. Each lane is one `ConnectionManager`, which reconnects by itself but does
//! not send again; what was in flight when a connection broke is sent again once, since every operation may be. A
//! manager whose requests time out several times in a row is replaced, for it would wait on a dead socket for ever.
//!
//! Replies are bounded by asking for the length first (shards) or for pages (listings). That guards against values that
//! are not ours; the parser of the `redis` crate itself sets a lying server no bound.

mod connection;
mod info;
mod scripts;
mod store;

pub use connection::RedisConfig;
pub use store::RedisStore;
