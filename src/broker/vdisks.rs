//! The vdisks that are open: a task for each, which owns its [`VdiskCore`] and does what the core says.
//!
//! ```text
//!  connection --Message, bounded--> task ---- Append, StartRun, RequestShip ----> Partition
//!  connection <-Outbound, bounded-- core <--- watermarks: committed, shipped -----'
//! ```
//!
//! A task is begun by the first attach and ends when nobody is attached and everything is shipped, or when its partition
//! takes no more. It never waits for a connection: an outbox that is full costs that connection, not the vdisk.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::vdisk::{
    Answer, Attachment, CloseReason, Config, ConnectionId, Effect, Event, HeldBudget, Lookup,
    Refusal, VdiskCore, VdiskState,
};
use super::{AppendError, Broker, Origin, Partition, ReadError, TimestampUnit, VdiskTopicError};
use crate::clock;
use crate::record::vdisk::{Block, PlaceError, StampUnit, StoredBlock, push_block, timestamp_ms};
use crate::record::{self, BatchBuilder, BatchHeader, Batches, Records, plain_records};
use crate::types::limits::{VDISK_BATCH_BYTES, VDISK_FIRST_SEQUENCE};
use crate::types::{Offset, TopicId, TopicName, Watermarks};

/// Messages on their way to a vdisk's task. Few: each may hold a megabyte, and a full queue is what slows a client down.
const INBOX: usize = 16;
/// Events' worth of answers on their way to a connection. A connection that reads nothing stops sending first, by its
/// own bound, so only one that is stuck fills this.
const OUTBOX: usize = 1024;
/// How long a vdisk without a client keeps its task and its recent hashes: longer than a client takes to reconnect.
const IDLE: Duration = Duration::from_secs(60);
/// Pause before an append that the broker could not take is tried again.
const APPEND_AGAIN: Duration = Duration::from_millis(50);
/// Messages joined into one event: what queued up during an append becomes one batch.
const JOINED_MESSAGES: usize = 8;

/// Why a client could not attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no topic for it.
    #[error(transparent)]
    Topic(#[from] VdiskTopicError),
    /// Its log could not be opened at the start.
    #[error(
        "the log of vdisk `{vdisk}` is offline until its files are mended and the server starts again: {why}"
    )]
    Offline {
        /// The vdisk.
        vdisk: TopicName,
        /// What is wrong with it.
        why: String,
    },
    /// The vdisk does not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What a vdisk sends to a connection.
#[derive(Debug)]
pub enum Outbound {
    /// Answers, in order.
    Answers(Vec<Answer>),
    /// The connection ends, after the answers before.
    Close(CloseReason),
}

/// What a connection sends to its vdisk.
#[derive(Debug)]
pub enum Input {
    /// Writes whose hashes match their data; the permit is held until they are committed, that of a block beyond a
    /// gap until it is held back under the vdisks' own bound.
    Blocks(Vec<Block>, OwnedSemaphorePermit),
    /// Ship everything up to a sequence.
    ForceFlush(u64),
    /// Answer when the slave has everything.
    WaitSlaveSync,
}

#[derive(Debug)]
enum Message {
    Attach {
        connection: ConnectionId,
        attachment: Attachment,
        outbox: mpsc::Sender<Outbound>,
        attached: oneshot::Sender<Result<u64, Refusal>>,
    },
    Input(ConnectionId, Input),
    Detach(ConnectionId),
}

/// An attach on its way: what the vdisk will say.
#[derive(Debug)]
pub struct Attaching {
    /// Resolves to the last flushed sequence (family B) or the refusal; to an error where the vdisk's task ended.
    pub attached: oneshot::Receiver<Result<u64, Refusal>>,
    /// The connection's hold on the vdisk.
    pub writer: Writer,
}

/// A connection's hold on a vdisk. [`Writer::detach`] gives it up; a dropped one is noticed later.
#[derive(Debug)]
pub struct Writer {
    connection: ConnectionId,
    inbox: mpsc::Sender<Message>,
    /// What the vdisk sends; closed when its task ended.
    pub outbox: mpsc::Receiver<Outbound>,
}

impl Writer {
    /// Hands the vdisk what the client said. Waits while the vdisk is behind. False where its task ended.
    ///
    /// # Cancel safety
    /// A dropped future may or may not have handed it over.
    pub async fn send(&self, input: Input) -> bool {
        self.inbox.send(Message::Input(self.connection, input)).await.is_ok()
    }

    /// Gives the vdisk up.
    pub async fn detach(self) {
        // A task that ended has nothing to give up.
        self.inbox.send(Message::Detach(self.connection)).await.ok();
    }
}

/// All vdisks. Shared by the connections of the TLog front end.
#[derive(Debug)]
pub struct Vdisks {
    broker: Arc<Broker>,
    config: Config,
    budget: HeldBudget,
    open: Mutex<HashMap<TopicName, mpsc::Sender<Message>>>,
    connections: AtomicU64,
    stop: CancellationToken,
}

impl Vdisks {
    /// No vdisk is open yet. `held_bytes` bounds the blocks beyond gaps of all vdisks together. `stop` ends all tasks;
    /// it follows the end of all connections and comes before that of the broker.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        config: Config,
        held_bytes: usize,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            broker,
            config,
            budget: HeldBudget::new(held_bytes),
            open: Mutex::new(HashMap::new()),
            connections: AtomicU64::new(0),
            stop,
        })
    }

    /// The broker below.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Names of the vdisks that have a task, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<TopicName> {
        let mut names: Vec<TopicName> = self.table(|open| open.keys().cloned().collect());
        names.sort();
        names
    }

    /// Whether a vdisk has a task: a client, or something that is not shipped.
    #[must_use]
    pub fn is_open(&self, vdisk: &TopicName) -> bool {
        self.table(|open| open.contains_key(vdisk))
    }

    /// Asks to attach to a vdisk, which is created where it does not exist.
    ///
    /// # Errors
    /// [`AttachError`], where it is known before the vdisk is asked.
    pub async fn attach(
        self: &Arc<Self>,
        vdisk: &TopicName,
        attachment: Attachment,
    ) -> Result<Attaching, AttachError> {
        let first_sequence = match attachment {
            Attachment::FirstSequence { first_sequence, .. } => first_sequence,
            Attachment::LastFlushed => 1,
        };
        // Before a topic is created that begins there.
        let first_offset = Offset::try_from(first_sequence)
            .ok()
            .filter(|_| first_sequence <= VDISK_FIRST_SEQUENCE)
            .ok_or(Refusal::FirstSequence)?;
        let topic = self.broker.vdisk_topic(vdisk.as_str(), first_offset).await?;
        let partition = topic.partition(0).ok_or(Refusal::Failed)?;
        partition
            .check_online()
            .map_err(|why| AttachError::Offline { vdisk: vdisk.clone(), why })?;
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (outbox, from_vdisk) = mpsc::channel(OUTBOX);
        let (attached, answer) = oneshot::channel();
        let mut message = Message::Attach { connection, attachment, outbox, attached };
        loop {
            let inbox = self.open(vdisk, topic.id(), partition);
            // A task that just ended gives the message back, and another one is begun.
            match inbox.send(message).await {
                Ok(()) => {
                    let writer = Writer { connection, inbox, outbox: from_vdisk };
                    return Ok(Attaching { attached: answer, writer });
                }
                Err(mpsc::error::SendError(unsent)) => message = unsent,
            }
        }
    }

    /// The inbox of a vdisk's task, which is begun where there is none.
    fn open(
        self: &Arc<Self>,
        vdisk: &TopicName,
        topic: TopicId,
        partition: &Arc<Partition>,
    ) -> mpsc::Sender<Message> {
        self.table(|open| {
            if let Some(inbox) = open.get(vdisk).filter(|inbox| !inbox.is_closed()) {
                return inbox.clone();
            }
            let (inbox, messages) = mpsc::channel(INBOX);
            open.insert(vdisk.clone(), inbox.clone());
            let (vdisks, vdisk, partition) =
                (Arc::clone(self), vdisk.clone(), Arc::clone(partition));
            crate::task::spawn("vdisk", async move {
                let Some(task) = Task::new(vdisks, vdisk, topic, partition, messages).await else {
                    return;
                };
                task.run().await;
            });
            inbox
        })
    }

    fn table<T>(
        &self,
        look: impl FnOnce(&mut HashMap<TopicName, mpsc::Sender<Message>>) -> T,
    ) -> T {
        look(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type RunStored = Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send>>;

/// Connections that attach or are attached.
#[derive(Debug)]
struct Peer {
    outbox: mpsc::Sender<Outbound>,
    /// Until the attach is answered.
    attached: Option<oneshot::Sender<Result<u64, Refusal>>>,
}

struct Task {
    vdisks: Arc<Vdisks>,
    vdisk: TopicName,
    topic: TopicId,
    partition: Arc<Partition>,
    messages: mpsc::Receiver<Message>,
    watermarks: watch::Receiver<Watermarks>,
    core: VdiskCore,
    peers: HashMap<ConnectionId, Peer>,
    /// Memory of blocks below an offset, given back when they are committed.
    permits: VecDeque<(Offset, OwnedSemaphorePermit)>,
    runs: Vec<RunStored>,
    lookup: Option<JoinHandle<Lookup>>,
    wake_at: Option<std::time::Instant>,
    failed: bool,
}

/// What woke the task.
enum Woken {
    Message(Message),
    Watermarks,
    Stop,
    Lookup(Lookup),
    Time,
    Idle,
}

impl Task {
    /// Opens the vdisk as its log shows it. None where its topic was deleted meanwhile.
    async fn new(
        vdisks: Arc<Vdisks>,
        vdisk: TopicName,
        topic: TopicId,
        partition: Arc<Partition>,
        messages: mpsc::Receiver<Message>,
    ) -> Option<Self> {
        let mut watermarks = partition.watch();
        // What a task before this one appended must be known to be there.
        let end = loop {
            let Watermarks { high_watermark, log_end, .. } = *watermarks.borrow_and_update();
            if high_watermark == log_end {
                break log_end;
            }
            if partition.is_deleted() || watermarks.changed().await.is_err() {
                return None;
            }
        };
        let state = VdiskState {
            run: partition.runs().last().copied(),
            end,
            shipped: partition.watermarks().shipped,
            block_size: partition.options().block_size.map(u64::from),
        };
        let core = VdiskCore::new(vdisks.config, state, vdisks.budget.clone());
        Some(Self {
            vdisks,
            vdisk,
            topic,
            partition,
            messages,
            watermarks,
            core,
            peers: HashMap::new(),
            permits: VecDeque::new(),
            runs: Vec::new(),
            lookup: None,
            wake_at: None,
            failed: false,
        })
    }

    async fn run(mut self) {
        self.event(Event::Tick).await;
        while !self.failed {
            match self.woken().await {
                Woken::Message(message) => self.take_messages(message).await,
                Woken::Stop => break,
                Woken::Watermarks => self.look_at_watermarks().await,
                Woken::Lookup(lookup) => self.event(Event::Hashes(lookup)).await,
                Woken::Time => self.event(Event::Tick).await,
                Woken::Idle if self.leave() => return,
                Woken::Idle => {}
            }
        }
        // Those who wait in the inbox learn that it is closed.
        self.messages.close();
        self.vdisks.table(|open| self.remove_from(open));
    }

    async fn woken(&mut self) -> Woken {
        let wake_at = self.wake_at.map(tokio::time::Instant::from_std);
        let until = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let idle = self.peers.is_empty() && self.core.is_idle();
        let found = async {
            match &mut self.lookup {
                // A lookup that panicked has found nothing.
                Some(lookup) => lookup.await.unwrap_or(Lookup::Failed),
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            biased;
            changed = self.watermarks.changed() => match changed {
                Ok(()) => Woken::Watermarks,
                Err(_) => Woken::Stop,
            },
            () = self.vdisks.stop.cancelled() => Woken::Stop,
            lookup = found => Woken::Lookup(lookup),
            message = self.messages.recv() => message.map_or(Woken::Stop, Woken::Message),
            () = until => Woken::Time,
            () = tokio::time::sleep(IDLE), if idle => Woken::Idle,
        };
        match &woken {
            Woken::Lookup(_) => self.lookup = None,
            Woken::Time => self.wake_at = None,
            _ => {}
        }
        woken
    }

    /// Takes the vdisk out of the table, unless somebody just asked for it.
    fn leave(&mut self) -> bool {
        let vdisks = Arc::clone(&self.vdisks);
        vdisks.table(|open| {
            let unasked = self.messages.is_empty();
            if unasked {
                self.messages.close();
                self.remove_from(open);
            }
            unasked
        })
    }

    fn remove_from(&self, open: &mut HashMap<TopicName, mpsc::Sender<Message>>) {
        if open.get(&self.vdisk).is_some_and(mpsc::Sender::is_closed) {
            open.remove(&self.vdisk);
        }
    }

    /// Takes what queued up, neighbouring blocks of one connection joined.
    async fn take_messages(&mut self, first: Message) {
        let mut queued = VecDeque::from([first]);
        while queued.len() < JOINED_MESSAGES
            && let Ok(message) = self.messages.try_recv()
        {
            queued.push_back(message);
        }
        let mut joined: Option<(ConnectionId, Vec<Block>, Vec<OwnedSemaphorePermit>)> = None;
        for message in queued {
            match (message, &mut joined) {
                (
                    Message::Input(connection, Input::Blocks(more, permit)),
                    Some((same, blocks, permits)),
                ) if connection == *same => {
                    blocks.extend(more);
                    permits.push(permit);
                }
                (Message::Input(connection, Input::Blocks(blocks, permit)), other) => {
                    let before = other.replace((connection, blocks, vec![permit]));
                    self.take_blocks(before).await;
                }
                (message, other) => {
                    let before = other.take();
                    self.take_blocks(before).await;
                    self.take_message(message).await;
                }
            }
        }
        self.take_blocks(joined).await;
    }

    async fn take_blocks(
        &mut self,
        joined: Option<(ConnectionId, Vec<Block>, Vec<OwnedSemaphorePermit>)>,
    ) {
        let Some((connection, blocks, permits)) = joined else { return };
        self.event(Event::Blocks { connection, blocks }).await;
        let end = self.core.end();
        self.permits.extend(permits.into_iter().map(|permit| (end, permit)));
        self.give_back();
    }

    async fn take_message(&mut self, message: Message) {
        match message {
            Message::Attach { connection, attachment, outbox, attached } => {
                // Connections that ended without a word hold nobody up.
                let gone: Vec<ConnectionId> = self
                    .peers
                    .iter()
                    .filter(|(_, peer)| peer.outbox.is_closed())
                    .map(|(connection, _)| *connection)
                    .collect();
                for connection in gone {
                    self.detach(connection).await;
                }
                self.peers.insert(connection, Peer { outbox, attached: Some(attached) });
                self.event(Event::Attach { connection, attachment }).await;
            }
            Message::Input(connection, Input::ForceFlush(sequence)) => {
                self.event(Event::ForceFlush { connection, sequence }).await;
            }
            Message::Input(connection, Input::WaitSlaveSync) => {
                self.event(Event::WaitSlaveSync { connection }).await;
            }
            Message::Input(connection, Input::Blocks(blocks, permit)) => {
                self.take_blocks(Some((connection, blocks, vec![permit]))).await;
            }
            Message::Detach(connection) => self.detach(connection).await,
        }
    }

    async fn detach(&mut self, connection: ConnectionId) {
        self.peers.remove(&connection);
        self.event(Event::Detach { connection }).await;
    }

    async fn look_at_watermarks(&mut self) {
        let Watermarks { high_watermark, shipped, .. } = *self.watermarks.borrow_and_update();
        if self.partition.is_deleted() {
            self.event(Event::AppendFailed).await;
            self.failed = true;
            return;
        }
        if high_watermark > self.core.committed() {
            self.event(Event::Committed { upto: high_watermark }).await;
            self.give_back();
        }
        self.event(Event::Shipped { upto: shipped }).await;
    }

    /// Gives back the memory of what is committed.
    fn give_back(&mut self) {
        let committed = self.core.committed();
        while self.permits.front().is_some_and(|(end, _)| *end <= committed) {
            self.permits.pop_front();
        }
    }

    /// Hands an event to the core and does what it says; what fails, and who cannot be told, is an event again.
    async fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.core.handle(event, clock::monotonic());
            let mut answers: Option<(ConnectionId, Vec<Answer>)> = None;
            for effect in effects {
                if let Effect::Answer { connection, answer } = effect {
                    match &mut answers {
                        Some((to, list)) if *to == connection => list.push(answer),
                        other => {
                            let before = other.replace((connection, vec![answer]));
                            events.extend(before.and_then(|(to, list)| self.tell(to, list)));
                        }
                    }
                    continue;
                }
                events.extend(answers.take().and_then(|(to, list)| self.tell(to, list)));
                if let Err(error) = self.apply(effect).await {
                    tracing::error!(vdisk = %self.vdisk, %error, "vdisk takes no writes");
                    self.failed = true;
                    events = VecDeque::from([Event::AppendFailed]);
                    break;
                }
            }
            events.extend(answers.take().and_then(|(to, list)| self.tell(to, list)));
        }
    }

    fn tell(&mut self, connection: ConnectionId, answers: Vec<Answer>) -> Option<Event> {
        let peer = self.peers.get(&connection)?;
        match peer.outbox.try_send(Outbound::Answers(answers)) {
            Ok(()) => None,
            Err(error) => {
                if matches!(error, mpsc::error::TrySendError::Full(_)) {
                    tracing::warn!(vdisk = %self.vdisk, "a client does not read its answers, closing it");
                }
                self.peers.remove(&connection);
                Some(Event::Detach { connection })
            }
        }
    }

    async fn apply(&mut self, effect: Effect) -> Result<(), TaskError> {
        match effect {
            Effect::Attached { connection, last_flushed } => {
                for run in self.runs.drain(..) {
                    run.await?;
                }
                self.answer_attach(connection, Ok(last_flushed));
            }
            Effect::Refused { connection, refusal } => {
                self.answer_attach(connection, Err(refusal));
                self.peers.remove(&connection);
            }
            Effect::Close { connection, reason } => {
                if let Some(peer) = self.peers.remove(&connection) {
                    // Where there is no room the closed outbox says the same.
                    peer.outbox.try_send(Outbound::Close(reason)).ok();
                }
            }
            Effect::StartRun { first_sequence } => {
                self.runs.push(Box::pin(self.partition.start_run(first_sequence)?));
            }
            Effect::SetBlockSize { bytes } => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                let set = self.vdisks.broker.set_block_size(self.topic, bytes).await;
                set.map_err(|error| TaskError::BlockSize { why: error.to_string() })?;
            }
            Effect::Append { first_offset, blocks, block_size } => {
                // Runs before it are in the log before it, so nobody has to wait for them.
                self.runs.clear();
                self.append(first_offset, &blocks, block_size).await?;
            }
            Effect::RequestShip { upto } => self.partition.request_ship(upto),
            Effect::LookupHashes { offset } => {
                let partition = Arc::clone(&self.partition);
                let lookup = crate::task::spawn("vdisk-hashes", look_up(partition, offset));
                self.lookup = Some(lookup);
            }
            Effect::WakeAt(at) => self.wake_at = Some(at),
            Effect::Answer { connection, answer } => {
                self.tell(connection, vec![answer]);
            }
        }
        Ok(())
    }

    fn answer_attach(&mut self, connection: ConnectionId, answer: Result<u64, Refusal>) {
        let attached = self.peers.get_mut(&connection).and_then(|peer| peer.attached.take());
        if let Some(attached) = attached {
            // A client that left meanwhile is detached by its connection.
            attached.send(answer).ok();
        }
    }

    /// Appends one batch. While the disk is full or too much waits for it, this waits, and so does everybody who writes.
    async fn append(
        &mut self,
        first_offset: Offset,
        blocks: &[Block],
        block_size: u64,
    ) -> Result<(), TaskError> {
        let arrival_ms = clock::wall_ms();
        let unit = stamp_unit(self.partition.options().timestamp_unit);
        let stamps = |block: &Block| timestamp_ms(block.timestamp, unit, arrival_ms);
        let base = blocks.first().map_or(arrival_ms, stamps);
        let mut builder = BatchBuilder::new(base);
        for block in blocks {
            push_block(&mut builder, block, block_size, stamps(block))?;
        }
        let batch = Bytes::from(builder.build());
        loop {
            match self.partition.append(batch.clone(), Origin::Vdisk) {
                // Its commit shows in the high watermark, its failure ends the process or the broker.
                Ok(_) => break,
                Err(
                    error @ (AppendError::Busy
                    | AppendError::DiskFull
                    | AppendError::NoCheckpoint
                    | AppendError::LocalLogFull { .. }),
                ) => {
                    tracing::debug!(vdisk = %self.vdisk, %error, "an append waits");
                    tokio::time::sleep(APPEND_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let end = first_offset + i64::try_from(blocks.len()).unwrap_or(i64::MAX);
        let log_end = self.partition.watermarks().log_end;
        if log_end != end {
            return Err(TaskError::OtherWriter { log_end, end });
        }
        Ok(())
    }
}

/// Why a vdisk's task cannot go on.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("the block size cannot be stored: {why}")]
    BlockSize { why: String },
    #[error("a block without a place was let through")]
    Place(#[from] PlaceError),
    #[error("the log ends at {log_end} and not at {end}: something else writes it")]
    OtherWriter { log_end: Offset, end: Offset },
}

fn stamp_unit(unit: TimestampUnit) -> StampUnit {
    match unit {
        TimestampUnit::Auto => StampUnit::BySize,
        TimestampUnit::Seconds => StampUnit::Seconds,
        TimestampUnit::Milliseconds => StampUnit::Milliseconds,
        TimestampUnit::Microseconds => StampUnit::Microseconds,
        TimestampUnit::Nanoseconds => StampUnit::Nanoseconds,
    }
}

/// The hashes of the batch that holds `offset`, and of those that came with it.
async fn look_up(partition: Arc<Partition>, offset: Offset) -> Lookup {
    match partition.read(offset, VDISK_BATCH_BYTES).await {
        Ok(bytes) => hashes(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, offset, "the record of a duplicate cannot be read");
            Lookup::Failed
        }),
        Err(ReadError::OutOfRange { start, .. }) if start > offset => Lookup::Gone,
        Err(error) => {
            tracing::warn!(%error, offset, "the record of a duplicate cannot be read");
            Lookup::Failed
        }
    }
}

/// The hashes of the records by their offsets; of a record without one it is computed.
fn hashes(bytes: &Bytes) -> Result<Lookup, record::Error> {
    let mut range: Option<(Offset, Offset)> = None;
    let mut hashes = Vec::new();
    for batch in Batches::new(bytes) {
        let (header, batch): (BatchHeader, &[u8]) = batch?;
        let first_offset = range.map_or(header.base_offset, |(first_offset, _)| first_offset);
        range = Some((first_offset, header.next_offset()));
        let plain = plain_records(batch, &header)?;
        for record in Records::new(&plain, &header) {
            let record = record?;
            let stored = StoredBlock::parse(&record).ok().and_then(|block| block.hash);
            let hash = stored.unwrap_or_else(|| {
                let mut params = blake2b_simd::Params::new();
                let hash = params.hash_length(32).hash(record.value.unwrap_or_default());
                hash.as_bytes().try_into().expect("32 bytes were asked for")
            });
            hashes.push((header.base_offset + Offset::from(record.offset_delta), hash));
        }
    }
    // A read below the high watermark is never empty.
    Ok(range.map_or(Lookup::Failed, |(first_offset, next_offset)| Lookup::Found {
        first_offset,
        next_offset,
        hashes,
    }))
}

#[cfg(test)]
mod tests;
