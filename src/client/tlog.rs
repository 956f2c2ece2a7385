//! The TLog client as its user sees it: one vdisk, one writer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::error::Error;
use super::resend_buffer::Window;
use crate::record::vdisk::{Block, Place};
use crate::task;
use crate::types::limits::TLOG_MESSAGE_BYTES;

mod attach;
mod compare;
mod conversation;

use conversation::{Command, Conversation};

/// Longest data of a block: what a message takes, less its other fields.
const BLOCK_BYTES: usize = TLOG_MESSAGE_BYTES - 1024;
/// Blocks handed over and not yet in the window: enough that sender and task do not wait for each other at each one.
const HANDED_OVER_BLOCKS: usize = 4;
/// Commands wait for nothing but their task's turn.
const COMMANDS: usize = 16;
/// Responses that nobody has taken yet; then the server is not read any more.
const RESPONSES: usize = 1024;
/// As in the original.
const SLAVE_SYNC_TIMEOUT: Duration = Duration::from_secs(20);
/// As in the original.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Times and bounds of a [`TlogClient`]. The defaults are the original's where it has one.
#[derive(Debug, Clone)]
pub struct Config {
    /// What may be unflushed; then [`TlogClient::send`] waits.
    pub window: Window,
    /// For each address of a server.
    pub dial_timeout: Duration,
    /// For the answer to a handshake: a server first ships what it still holds of the vdisk.
    pub handshake_timeout: Duration,
    /// For a server that takes over from another one to become ready.
    pub ready_timeout: Duration,
    /// A block that is not received by then is sent again.
    pub resend_after: Duration,
    /// A server that owes an answer and says nothing for so long is taken for dead.
    pub silence_timeout: Duration,
    /// Pause after all servers failed; doubles each time, up to `longest_pause`.
    pub first_pause: Duration,
    /// See `first_pause`.
    pub longest_pause: Duration,
    /// Pause after a server could not ship.
    pub flush_failed_pause: Duration,
    /// Without a connection for so long, the client ends; never, where none is given.
    pub give_up_after: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window: Window::default(),
            dial_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(60),
            ready_timeout: Duration::from_secs(600),
            resend_after: Duration::from_secs(2),
            silence_timeout: Duration::from_secs(60),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            flush_failed_pause: Duration::from_secs(10),
            give_up_after: None,
        }
    }
}

/// What the server said, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// A connection stands; this server has flushed everything up to the sequence.
    Attached {
        /// Which one.
        server: String,
        /// 0 if nothing is.
        last_flushed: u64,
    },
    /// The block is durable on the server. May come again for a block that was sent again.
    Received(u64),
    /// The blocks are on the shard servers, ascending.
    Flushed(Vec<u64>),
    /// The server could not ship; the client connects anew and sends again what is not flushed.
    FlushFailed,
    /// A force flush was taken note of.
    ForceFlushReceived,
    /// The slave has what is shipped.
    SlaveSynced,
}

/// How far the client is, at any moment.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Attached and ready to take blocks; none while connecting.
    pub server: Option<String>,
    /// Everything up to here is on the shard servers.
    pub last_flushed: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// Why the client ended.
    pub error: Option<Error>,
}

/// The stream of [`Response`]s. While it is kept, it must be read: the server is not heard any more when 1,024 wait, as in
/// the original. Who does not want it drops it.
#[derive(Debug)]
pub struct Responses(mpsc::Receiver<Response>);

impl Responses {
    /// The next one; none when the client has ended.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub async fn recv(&mut self) -> Option<Response> {
        self.0.recv().await
    }
}

/// Sends the blocks of one vdisk. Dropping it closes the connection at once.
#[derive(Debug)]
pub struct TlogClient {
    blocks: mpsc::Sender<Block>,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    /// The next sequence to give out. Locked while a block is handed over, so that sequences are handed over in order.
    next_sequence: Mutex<u64>,
}

impl TlogClient {
    /// Attaches to `vdisk` at the first of `servers` (`HOST:PORT`) that takes it. The others serve when that one ends.
    ///
    /// # Errors
    /// What the last server said, when none took it.
    ///
    /// # Cancel safety
    /// Safe: nothing was sent but a handshake.
    pub async fn connect(
        servers: &[String],
        vdisk: &str,
        config: Config,
    ) -> Result<(Self, Responses), Error> {
        let (tried, attached) = attach::first(servers, vdisk, &config).await?;
        let mut servers: Vec<String> = servers.to_vec();
        servers.rotate_left(tried);
        Ok(Self::start(attached, servers, vdisk, config))
    }

    /// Whether the log of `vdisk` has these writes, whose sequences are flushed: block number and data of each. Sends them
    /// again on a connection of their own; a server compares what it is sent twice and ends the connection if that
    /// differs. What the log does not hold any more counts as the same. Block numbers are not compared. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Differs`], or why no server could be asked.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn compare(
        servers: &[String],
        vdisk: &str,
        config: &Config,
        writes: Vec<(u64, i64, Bytes)>,
    ) -> Result<(), Error> {
        compare::compare(servers, vdisk, config, writes).await
    }

    fn start(
        attached: attach::Attached,
        servers: Vec<String>,
        vdisk: &str,
        config: Config,
    ) -> (Self, Responses) {
        let last_flushed = attached.last_flushed;
        let (blocks, blocks_out) = mpsc::channel(HANDED_OVER_BLOCKS);
        let (commands, commands_out) = mpsc::channel(COMMANDS);
        let (responses_in, responses) = mpsc::channel(RESPONSES);
        let first =
            Progress { server: Some(attached.server.clone()), last_flushed, ..Progress::default() };
        let (progress_in, progress) = watch::channel(first);
        let conversation = Conversation::new(
            servers,
            vdisk.to_owned(),
            config,
            last_flushed,
            conversation::Ends {
                blocks: blocks_out,
                commands: commands_out,
                responses: responses_in,
                progress: progress_in,
            },
        );
        task::spawn("tlog-client", conversation.run(attached));
        let client =
            Self { blocks, commands, progress, next_sequence: Mutex::new(last_flushed + 1) };
        (client, Responses(responses))
    }

    /// Sends a write: `data` at block number `index`; `timestamp` is the caller's clock, nanoseconds since 1970 by custom.
    /// Waits while the window is full. Returns the block's sequence. Durable only when it is answered *received*, and safe
    /// from the loss of the server when *flushed*.
    ///
    /// # Errors
    /// [`Error::BlockTooLarge`], [`Error::NegativeIndex`], or why the client has ended.
    ///
    /// # Cancel safety
    /// Safe: nothing was sent.
    pub async fn send(
        &self,
        operation: u8,
        index: i64,
        timestamp: u64,
        data: Bytes,
    ) -> Result<u64, Error> {
        if data.len() > BLOCK_BYTES {
            return Err(Error::BlockTooLarge { bytes: data.len(), limit: BLOCK_BYTES });
        }
        if index < 0 {
            return Err(Error::NegativeIndex { index });
        }
        let hash = hash(&data);
        let permit = self.blocks.reserve().await.map_err(|_| self.failure())?;
        let mut next = self.next_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *next;
        permit.send(Block {
            sequence,
            place: Place::Index(index),
            operation,
            hash,
            timestamp,
            data,
        });
        *next += 1;
        Ok(sequence)
    }

    /// Asks the server to ship everything up to `sequence` now. Kept over a reconnect until that is flushed.
    ///
    /// # Errors
    /// Why the client has ended.
    pub async fn force_flush_at(&self, sequence: u64) -> Result<(), Error> {
        self.command(Command::ForceFlush(sequence)).await
    }

    /// Waits until everything up to `sequence` is on the shard servers, however long that takes.
    ///
    /// # Errors
    /// Why the client has ended.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_flushed(&self, sequence: u64) -> Result<(), Error> {
        self.wait_for(|progress| progress.last_flushed >= sequence).await
    }

    /// Waits until the slave of the vdisk, if it has one, has what is shipped.
    ///
    /// # Errors
    /// [`Error::Timeout`] after 20 s, or why the client has ended.
    pub async fn wait_slave_sync(&self) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        self.command(Command::WaitSlaveSync(done)).await?;
        match timeout(SLAVE_SYNC_TIMEOUT, wait).await {
            Ok(answered) => answered.map_err(|_| self.failure()),
            Err(_) => Err(self.too_long("sync the slave", SLAVE_SYNC_TIMEOUT)),
        }
    }

    /// Whether a server takes blocks now. [`TlogClient::send`] may be called either way.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.progress.borrow().server.is_some()
    }

    /// Waits until a server takes blocks.
    ///
    /// # Errors
    /// Why the client has ended.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_ready(&self) -> Result<(), Error> {
        self.wait_for(|progress| progress.server.is_some()).await
    }

    /// Everything up to here is on the shard servers; 0 if nothing is.
    #[must_use]
    pub fn last_flushed_sequence(&self) -> u64 {
        self.progress.borrow().last_flushed
    }

    /// The last sequence given out; before the first `send`, what the server had flushed when the client attached.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        *self.next_sequence.lock().unwrap_or_else(PoisonError::into_inner) - 1
    }

    /// How far it is, to be watched.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Replaces the list of servers. If the one in use is not among them, another takes over at once. An empty list changes
    /// nothing.
    ///
    /// # Errors
    /// Why the client has ended.
    pub async fn change_servers(&self, servers: Vec<String>) -> Result<(), Error> {
        self.command(Command::ChangeServers(servers)).await
    }

    /// Takes leave: what was given to [`TlogClient::send`] is still sent, then the server ends the connection. Waits for no
    /// flush; see [`TlogClient::wait_flushed`].
    ///
    /// # Errors
    /// [`Error::Timeout`] after 10 s, or why the client ended before.
    pub async fn disconnect(self) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        self.command(Command::Disconnect(done)).await?;
        let Self { blocks, commands, progress, .. } = self;
        drop(blocks);
        let left = timeout(DISCONNECT_TIMEOUT, wait).await;
        drop(commands);
        let failure = || progress.borrow().error.clone().unwrap_or(Error::ClientClosed);
        match left {
            Ok(answered) => answered.map_err(|_| failure()),
            Err(_) => {
                let server = progress.borrow().server.clone().unwrap_or_default();
                Err(Error::Timeout { op: "take leave", server, waited: DISCONNECT_TIMEOUT })
            }
        }
    }

    /// Closes the connection at once. What is not received may be lost.
    pub fn close(self) {
        drop(self);
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| self.failure())
    }

    async fn wait_for(&self, is_true: impl Fn(&Progress) -> bool) -> Result<(), Error> {
        let mut progress = self.progress.clone();
        let found = progress
            .wait_for(|progress| progress.error.is_some() || is_true(progress))
            .await
            .map(|progress| progress.error.clone());
        match found {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(_) => Err(self.failure()),
        }
    }

    /// Why the task ended.
    fn failure(&self) -> Error {
        self.progress.borrow().error.clone().unwrap_or(Error::ClientClosed)
    }

    fn too_long(&self, op: &'static str, waited: Duration) -> Error {
        let server = self.progress.borrow().server.clone().unwrap_or_else(|| "the server".into());
        Error::Timeout { op, server, waited }
    }
}

/// BLAKE2b-256 of the data, which is what servers check.
fn hash(data: &[u8]) -> [u8; 32] {
    let hash = blake2b_simd::Params::new().hash_length(32).hash(data);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_bytes());
    bytes
}

#[cfg(test)]
mod tests;
