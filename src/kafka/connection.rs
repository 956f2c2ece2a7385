//! One connection: a reader task that turns bytes into requests, and a responder that begins them and writes their
//! answers in request order.
//!
//! * The reader hands on a request only when no *exclusive* one (anything but a Produce) is unfinished; until then what
//!   arrives stays in its buffer, 64 KiB at most. So only Produces are ever begun ahead of an answer, and a parked fetch
//!   holds back none of the memory that other connections need.
//! * A request above 64 KiB takes memory of its own pool as it arrives, which it must do at a least speed; the budget's when
//!   it is complete.
//! * The responder writes while nothing else happens on the connection, so a client that does not read its answers is
//!   not read from either; one that takes nothing for a minute, or an answer too slowly, is closed.
//! * An answer brings the memory that it holds, which is given back when its last byte is written.
//! * The end of the client's stream ends the long poll; everything read is still carried out and answered.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rustix::fs::sendfile;
use rustix::net::SendFlags;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::context::{Peer, Shared};
use super::dispatch::{self, Admitted, Begun, Held, Incoming, Reply, Started, Violation};
use super::gather::Chunk;
use super::memory::Reservation;
use super::protocol::{FrameError, FrameReader, frame_length, peek};
use crate::broker::FileRange;
use crate::task;
use crate::types::limits;

/// Kafka: `connections.max.idle.ms`.
const IDLE: Duration = Duration::from_secs(600);
/// A request that has begun to arrive is given this long; a large one again from when it has memory, and more by what has
/// arrived of it.
const ARRIVAL: Duration = Duration::from_secs(15);
/// The least speed at which a large request must arrive: it holds memory meanwhile that others wait for.
const ARRIVAL_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// How fast a client must take its answers, which hold memory meanwhile that others wait for. The longest fetch needs
/// 1.6 Mbit/s, one of 1 MB 130 kbit/s.
const PACE: Pace = Pace { stall: Duration::from_secs(60), bytes_per_second: 256 * 1024 };
/// Of a file in one call, which runs on a thread that others wait for.
const SENDFILE_BYTES: usize = 512 * 1024;
/// Requests of a connection that are read and not yet answered. Idempotent clients keep 5, librdkafka as many as it
/// can; beyond some tens there is nothing to win.
const IN_FLIGHT: usize = 64;
/// Bytes of them, so that one connection does not take the whole budget; a single longer request may be there alone.
const IN_FLIGHT_BYTES: usize = 32 * 1024 * 1024;

/// A request with what it holds until its answer is made.
struct Queued {
    request: Admitted,
    held: Held,
}

/// A request above 64 KiB while it arrives.
struct Arriving {
    share: OwnedSemaphorePermit,
    /// For what has arrived and the room for as much again.
    memory: Reservation,
    /// Instead of more memory, when the pool is used up: so one request at least goes on to its end.
    turn: Option<OwnedSemaphorePermit>,
    /// When it began, not counting what it waited for memory.
    since: Instant,
}

impl Arriving {
    fn new(share: OwnedSemaphorePermit) -> Self {
        Self { share, memory: Reservation::default(), turn: None, since: Instant::now() }
    }

    /// Waits for memory of `bytes` in all, or for a turn to do without.
    async fn grow_to(&mut self, bytes: usize, shared: &Shared) {
        let more = bytes.saturating_sub(self.memory.bytes());
        if more == 0 || self.turn.is_some() {
            return;
        }
        let asked = Instant::now();
        tokio::select! {
            biased;
            more = shared.arriving.reserve(more) => self.memory.absorb(more),
            turn = Arc::clone(&shared.arrival_turns).acquire_owned() => self.turn = turn.ok(),
        }
        self.since += asked.elapsed();
    }

    /// Until when the next bytes must come, `arrived` of them being there.
    fn deadline(&self, arrived: usize) -> Instant {
        self.since + ARRIVAL + Duration::from_secs(arrived as u64 / ARRIVAL_BYTES_PER_SECOND)
    }
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client closed")]
    Closed,
    #[error("the server stops")]
    Stopping,
    #[error("idle for {} s", IDLE.as_secs())]
    Idle,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a request did not arrive in time")]
    Arrival,
    #[error("the client does not read its answers")]
    Stalled,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("{0}")]
    Unanswerable(String),
}

/// Serves a connection until it ends.
pub(super) async fn serve(peer: Arc<Peer>, socket: TcpStream) {
    let (read, write) = socket.into_split();
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let exclusive = watch::Sender::new(false);
    let reader = Reader {
        peer: Arc::clone(&peer),
        socket: read,
        buffer: BytesMut::new(),
        frames: FrameReader::new(),
        requests: sender,
        exclusive: exclusive.clone(),
        share: Arc::new(Semaphore::new(IN_FLIGHT_BYTES)),
    };
    let reading = task::spawn("kafka reader", reader.run());
    let responder = Responder {
        peer: Arc::clone(&peer),
        socket: write,
        requests: receiver,
        exclusive,
        running: VecDeque::new(),
        waiting: None,
    };
    let responded = responder.run().await;
    // Nothing is lost with the reader: what it handed on is answered or can no longer be.
    reading.abort();
    let read = reading.await.unwrap_or(End::Closed);
    log_end(&peer, responded.err().unwrap_or(read));
}

fn log_end(peer: &Peer, end: End) {
    let software = peer.software();
    let (name, version) = (software.name.as_str(), software.version.as_str());
    let address = peer.address;
    match &end {
        End::Frame(FrameError::Http | FrameError::Tls) | End::Violation(_) => {
            let cause = std::error::Error::source(&end).map(ToString::to_string);
            tracing::warn!(peer = %address, software = name, version, %end, cause, "closed a Kafka connection");
        }
        End::Frame(_) | End::Arrival | End::Stalled | End::Unanswerable(_) => {
            tracing::info!(peer = %address, software = name, version, %end, "closed a Kafka connection");
        }
        End::Closed | End::Stopping | End::Idle | End::Io(_) => {
            tracing::debug!(peer = %address, software = name, version, %end, "a Kafka connection ended");
        }
    }
}

struct Reader {
    peer: Arc<Peer>,
    socket: OwnedReadHalf,
    buffer: BytesMut,
    frames: FrameReader,
    requests: mpsc::Sender<Queued>,
    /// Whether an exclusive request is unfinished: raised here, lowered by the responder.
    exclusive: watch::Sender<bool>,
    share: Arc<Semaphore>,
}

impl Reader {
    async fn run(mut self) -> End {
        let stop = self.peer.stop.clone();
        let end = tokio::select! {
            end = self.read() => end,
            () = stop.cancelled() => End::Stopping,
        };
        // Ends a long poll whose client is gone.
        self.peer.stop.cancel();
        end
    }

    async fn read(&mut self) -> End {
        loop {
            match self.next().await {
                Ok(queued) => {
                    if !queued.request.overlaps() {
                        self.exclusive.send_replace(true);
                    }
                    if self.requests.send(queued).await.is_err() {
                        return End::Closed;
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// The next request, and the memory for it.
    async fn next(&mut self) -> Result<Queued, End> {
        self.wait_for_turn().await?;
        let mut arriving: Option<Arriving> = None;
        let mut deadline = None;
        loop {
            if let Some(frame) = self.frames.next(&mut self.buffer)? {
                return self.queued(frame, arriving).await;
            }
            let (length, arrived) = (self.announced(), self.buffer.len());
            if length > limits::KAFKA_SMALL_FRAME_BYTES
                && arrived >= limits::KAFKA_SMALL_FRAME_BYTES
            {
                let large = match &mut arriving {
                    Some(large) => large,
                    none => none.insert(Arriving::new(self.share(length).await)),
                };
                large.grow_to(length.min(2 * arrived), &self.peer.shared).await;
                deadline = Some(large.deadline(arrived));
            }
            if deadline.is_none() && arrived > 0 {
                deadline = Some(Instant::now() + ARRIVAL);
            }
            self.fill(deadline).await?;
        }
    }

    /// A complete request, once there is memory to carry it out. That for the decoded form comes first, because who waits
    /// for it would hold up everybody with what it has of the budget.
    async fn queued(&self, frame: Bytes, arriving: Option<Arriving>) -> Result<Queued, End> {
        let peeked = peek(&frame)?;
        let request = dispatch::admit(Incoming {
            key: peeked.api_key,
            version: peeked.api_version,
            correlation_id: peeked.correlation_id,
            received: std::time::Instant::now(),
            frame,
        })?;
        let (_arrived, share) = match arriving {
            Some(Arriving { share, memory, turn, .. }) => (Some((memory, turn)), share),
            None => (None, self.share(request.frame_bytes()).await),
        };
        let decoded = match request.decoded_bytes() {
            ..=limits::KAFKA_SMALL_DECODED_BYTES => None,
            bytes => Some(self.peer.shared.decoded.reserve(bytes).await),
        };
        let frame = self.peer.broker().reserve(request.frame_bytes()).await;
        Ok(Queued { request, held: Held { _share: share, _decoded: decoded, _frame: frame } })
    }

    /// Waits until no exclusive request is unfinished, and reads meanwhile so that the end of the stream is seen.
    async fn wait_for_turn(&mut self) -> Result<(), End> {
        let mut exclusive = self.exclusive.subscribe();
        while *exclusive.borrow_and_update() {
            let room = self.buffer.len() < limits::KAFKA_SMALL_FRAME_BYTES;
            self.buffer.reserve(if room { self.frames.room(&self.buffer) } else { 0 });
            tokio::select! {
                changed = exclusive.changed() => changed.map_err(|_| End::Closed)?,
                read = self.socket.read_buf(&mut self.buffer), if room => {
                    if read? == 0 {
                        return self.finish_turn(exclusive).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// The stream ended during an exclusive request. If it was a long poll, that ends now, unless more was sent.
    async fn finish_turn(&mut self, mut exclusive: watch::Receiver<bool>) -> Result<(), End> {
        let more = self.announced() > 0 && self.buffer.len() >= 4 + self.announced();
        if !more {
            return Err(End::Closed);
        }
        exclusive.wait_for(|unfinished| !unfinished).await.map_err(|_| End::Closed)?;
        Ok(())
    }

    /// Length of the frame that the buffer begins with, 0 while it is not known.
    fn announced(&self) -> usize {
        let prefix = self.buffer.first_chunk::<4>();
        prefix.and_then(|prefix| frame_length(*prefix, None).ok()).unwrap_or(0)
    }

    /// Waits until the connection's other requests leave room for one of `bytes`.
    async fn share(&self, bytes: usize) -> OwnedSemaphorePermit {
        let share = u32::try_from(bytes.min(IN_FLIGHT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.share)
            .acquire_many_owned(share)
            .await
            .expect("a connection's own semaphore is never closed")
    }

    async fn fill(&mut self, deadline: Option<Instant>) -> Result<(), End> {
        self.buffer.reserve(self.frames.room(&self.buffer));
        let read = self.socket.read_buf(&mut self.buffer);
        let read = match deadline {
            None => read.await?,
            Some(deadline) => timeout_at(deadline, read).await.map_err(|_| End::Arrival)??,
        };
        if read == 0 { Err(End::Closed) } else { Ok(()) }
    }
}

/// A request that has begun.
struct Running {
    reply: Option<Reply>,
    future: Option<BoxFuture<'static, Reply>>,
    overlaps: bool,
}

impl Running {
    /// # Cancel safety
    /// Nothing is lost; ask again.
    async fn reply(&mut self) -> Reply {
        if let Some(reply) = self.reply.take() {
            return reply;
        }
        match &mut self.future {
            Some(future) => future.await,
            None => std::future::pending().await,
        }
    }
}

/// Does the work of an API on a thread of the blocking pool.
async fn on_worker<T: Send + 'static>(
    workers: Arc<Semaphore>,
    api: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Violation> {
    let worker = workers.acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(worker);
        done
    });
    done.await.map_err(|_| Violation::Panicked { api })
}

struct Responder {
    peer: Arc<Peer>,
    socket: OwnedWriteHalf,
    requests: mpsc::Receiver<Queued>,
    exclusive: watch::Sender<bool>,
    /// Begun, oldest first; the front one is answered next. Several only if all overlap.
    running: VecDeque<Running>,
    /// An exclusive request behind them.
    waiting: Option<Queued>,
}

/// What the responder does next.
enum Event {
    Answered(Reply),
    Arrived(Queued),
    NoMore,
    Idle,
}

impl Responder {
    async fn run(mut self) -> Result<(), End> {
        let mut open = true;
        loop {
            if self.running.is_empty() {
                match self.waiting.take() {
                    Some(queued) => self.begin(queued).await?,
                    None if !open => return Ok(()),
                    None => {}
                }
            }
            match self.event(open).await {
                Event::Answered(reply) => self.answer(reply).await?,
                Event::Arrived(queued) if queued.request.overlaps() || self.running.is_empty() => {
                    self.begin(queued).await?;
                }
                Event::Arrived(queued) => self.waiting = Some(queued),
                Event::NoMore => open = false,
                Event::Idle => return Err(End::Idle),
            }
        }
    }

    async fn event(&mut self, open: bool) -> Event {
        let takes = open && self.waiting.is_none() && self.running.len() < IN_FLIGHT;
        let Some(front) = self.running.front_mut() else {
            return match timeout(IDLE, self.requests.recv()).await {
                Ok(Some(queued)) => Event::Arrived(queued),
                Ok(None) => Event::NoMore,
                Err(_) => Event::Idle,
            };
        };
        tokio::select! {
            reply = front.reply() => Event::Answered(reply),
            queued = self.requests.recv(), if takes => queued.map_or(Event::NoMore, Event::Arrived),
        }
    }

    /// Begins a request; large and laborious ones on a thread of the blocking pool, a core's worth of them at a time in
    /// the whole process.
    async fn begin(&mut self, queued: Queued) -> Result<(), End> {
        let Queued { request, held } = queued;
        let peer = Arc::clone(&self.peer);
        let workers = Arc::clone(&peer.shared.workers);
        let (api, overlaps) = (request.name(), request.overlaps());
        let started = if request.frame_bytes() > limits::KAFKA_SMALL_FRAME_BYTES {
            let work = move || dispatch::begin(peer, request, held).map(Begun::started);
            on_worker(workers, api, work).await??
        } else {
            match dispatch::begin(peer, request, held)? {
                Begun::Started(started) => started,
                Begun::Laborious(work) => on_worker(workers, api, work).await?,
            }
        };
        let (reply, future) = match started {
            Started::Done(reply) => (Some(reply), None),
            Started::Running(future) => (None, Some(future)),
        };
        self.running.push_back(Running { reply, future, overlaps });
        Ok(())
    }

    /// Sends the answer of the front request, and lets the reader go on behind an exclusive one.
    async fn answer(&mut self, reply: Reply) -> Result<(), End> {
        let answered = self.running.pop_front();
        match reply {
            Reply::Frame(frame) => self.write(&frame.pieces).await?,
            Reply::Silent => {}
            Reply::Close(why) => return Err(End::Unanswerable(why)),
        }
        if answered.is_some_and(|answered| !answered.overlaps) {
            self.exclusive.send_replace(false);
        }
        Ok(())
    }

    async fn write(&mut self, pieces: &[Chunk]) -> Result<(), End> {
        let progress = PACE.begin(pieces.iter().map(Chunk::len).sum());
        let mut pieces = pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Chunk::Bytes(bytes) if pieces.peek().is_some() => {
                    progress.write_ahead(&mut self.socket, bytes).await?;
                }
                Chunk::Bytes(bytes) => progress.write(&mut self.socket, bytes).await?,
                Chunk::File(range) => progress.send_file(&mut self.socket, range).await?,
            }
        }
        Ok(())
    }
}

/// How slowly an answer may be taken.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// A client that takes no byte for so long is not there any more.
    stall: Duration,
    /// The least speed of a whole answer, after a first `stall`.
    bytes_per_second: u64,
}

impl Pace {
    /// An answer of `bytes` begins.
    fn begin(self, bytes: usize) -> Progress {
        let seconds = bytes as u64 / self.bytes_per_second;
        let deadline = Instant::now() + self.stall + Duration::from_secs(seconds);
        Progress { stall: self.stall, deadline }
    }
}

/// An answer on its way.
struct Progress {
    stall: Duration,
    /// When all of it must be taken.
    deadline: Instant,
}

impl Progress {
    /// When the next byte must be taken.
    fn next(&self) -> Instant {
        self.deadline.min(Instant::now() + self.stall)
    }

    async fn write(
        &self,
        socket: &mut (impl AsyncWrite + Unpin),
        mut bytes: &[u8],
    ) -> Result<(), End> {
        while !bytes.is_empty() {
            let write = timeout_at(self.next(), socket.write(bytes));
            let written = write.await.map_err(|_| End::Stalled)??;
            if written == 0 {
                return Err(End::Closed);
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// As [`Progress::write`], of what the system may keep back until what follows comes: the client is not woken for it alone.
    async fn write_ahead(&self, socket: &mut OwnedWriteHalf, mut bytes: &[u8]) -> Result<(), End> {
        let socket: &TcpStream = (*socket).as_ref();
        while !bytes.is_empty() {
            let send = socket.async_io(Interest::WRITABLE, || {
                let send = || {
                    rustix::net::send(socket.as_fd(), bytes, SendFlags::MORE | SendFlags::NOSIGNAL)
                };
                rustix::io::retry_on_intr(send).map_err(std::io::Error::from)
            });
            match timeout_at(self.next(), send).await.map_err(|_| End::Stalled)?? {
                0 => return Err(End::Closed),
                sent => bytes = bytes.get(sent..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Has the system send a part of a file. The pages are in memory, for the log has just checked them or read headers
    /// among them; where they are not, each call waits for a bounded part at most.
    async fn send_file(&self, socket: &mut OwnedWriteHalf, range: &FileRange) -> Result<(), End> {
        let Some(file) = range.file.as_fd() else { return self.copy_file(socket, range).await };
        let socket: &TcpStream = (*socket).as_ref();
        let mut done = 0;
        while done < range.bytes {
            let bytes = (range.bytes - done).min(SENDFILE_BYTES);
            let position = range.position + done as u64;
            let send = socket.async_io(Interest::WRITABLE, || {
                let mut position = position;
                let send = || sendfile(socket.as_fd(), file, Some(&mut position), bytes);
                rustix::io::retry_on_intr(send).map_err(std::io::Error::from)
            });
            match timeout_at(self.next(), send).await.map_err(|_| End::Stalled)?? {
                // The file is shorter than the log said.
                0 => return Err(End::Io(std::io::ErrorKind::UnexpectedEof.into())),
                sent => done += sent,
            }
        }
        Ok(())
    }

    async fn copy_file(&self, socket: &mut OwnedWriteHalf, range: &FileRange) -> Result<(), End> {
        let mut done = 0;
        while done < range.bytes {
            let mut bytes = vec![0; (range.bytes - done).min(SENDFILE_BYTES)];
            range.file.read_exact_at(&mut bytes, range.position + done as u64)?;
            done += bytes.len();
            self.write(socket, &bytes).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_taken_byte_by_byte_is_given_up() {
        let pace = Pace { stall: Duration::from_millis(300), bytes_per_second: 1 << 20 };
        let (mut socket, mut client) = duplex(1);
        let drip = task::spawn("dripping client", async move {
            while client.read_u8().await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let progress = pace.begin(10_000);
        let writing = progress.write(&mut socket, &[0; 10_000]);
        let ended = timeout(Duration::from_secs(20), writing).await.unwrap();
        assert!(matches!(ended, Err(End::Stalled)));
        drop(socket);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_keeps_the_pace_gets_its_answer() {
        let pace = Pace { stall: Duration::from_secs(5), bytes_per_second: 1 };
        let (mut socket, mut client) = duplex(10);
        let (sent, taken) = ([7; 1_000], &mut [0; 1_000]);
        let progress = pace.begin(sent.len());
        let both =
            async { tokio::join!(progress.write(&mut socket, &sent), client.read_exact(taken)) };
        let (written, read) = timeout(Duration::from_secs(20), both).await.unwrap();
        assert!(written.is_ok() && read.is_ok());
        assert_eq!(*taken, sent);
    }
}
