//! One TLog client's socket: bytes to and from its [`Session`], hashes checked, blocks handed to its vdisk.
//!
//! Memory: what a client has sent is held under permits of the broker's budget until it is committed (blocks beyond a
//! gap give theirs back and count against the vdisks' own bound); a partly received message beyond the first 64 KiB
//! as well, which must be complete within 30 s. Answers wait in the vdisk's bounded outbox and in one buffer; while
//! that is long, nothing more is read, so a client that does not listen stops being heard and slows nobody else down.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::protocol::message::{Family, HandshakeStatus};
use super::session::{Event, Handshake, Session, Violation};
use super::status;
use crate::broker::vdisk::{Attachment, CloseReason};
use crate::broker::vdisks::{AttachError, Attaching, Input, Outbound, Vdisks, Writer};
use crate::record::vdisk::Block;

/// A client speaks first, and at once.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A client that takes no answer for so long is dead or might as well be.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// A message beyond the input's allowance must arrive within this time.
const FRAME_TIME: Duration = Duration::from_secs(30);
/// For the last words to a client.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// How long a large message waits for memory.
const MEMORY_TIME: Duration = Duration::from_secs(30);

/// Probes of a silent peer: 10 s + 3 × 5 s finds a dead one within 25 s, so that its vdisk is free again.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
/// See [`KEEP_ALIVE_IDLE`].
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// See [`KEEP_ALIVE_IDLE`].
const KEEP_ALIVE_PROBES: u32 = 3;
/// The same for a peer that died with answers under way, when no probes are sent.
const UNACKNOWLEDGED_MS: u32 = 25_000;

/// Room made for each read; also what an input may hold outside the memory budget.
const READ_BYTES: usize = 64 * 1024;
/// Answers not taken beyond which nothing more is read: some six thousand.
const UNSENT_BYTES: usize = 256 * 1024;
/// Data gathered before it is handed on: as much as one record batch gathers.
const HAND_ON_BYTES: usize = 1024 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client closed the connection")]
    Closed,
    #[error("the client disconnected")]
    Disconnected,
    #[error("the server stops")]
    Stopped,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Violation(#[source] Violation),
    #[error("no handshake within 10 s")]
    NoHandshake,
    #[error(transparent)]
    Refused(AttachError),
    #[error("the vdisk's task ended")]
    VdiskEnded,
    #[error(
        "sequence {sequence}: the hash is not that of the data; a client must not change a buffer that it handed over"
    )]
    Hash { sequence: u64 },
    #[error(transparent)]
    ClosedByVdisk(CloseReason),
    #[error("the client takes no answers")]
    DoesNotRead,
    #[error("no memory for the message within 30 s")]
    NoMemory,
    #[error("a message is not complete within 30 s")]
    SlowFrame,
}

/// Serves one client to its end. Never fails: what ends a connection is logged.
pub async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    vdisks: Arc<Vdisks>,
    stop: CancellationToken,
) {
    if let Err(error) = find_dead_peers(&stream) {
        tracing::warn!(%peer, %error, "a dead client of this connection will be found late");
    }
    let (reader, writer) = stream.split();
    let mut connection = Connection {
        reader,
        writer,
        session: Session::new(),
        unsent: BytesMut::new(),
        input_memory: Vec::new(),
        vdisks,
        stop,
    };
    let (vdisk, end) = connection.run().await;
    connection.say_farewell(&end).await;
    let vdisk = vdisk.as_deref().unwrap_or_default();
    match end {
        End::Closed | End::Disconnected | End::Stopped | End::Io(_) => {
            tracing::debug!(%peer, vdisk, %end, "TLog connection ended");
        }
        _ => tracing::warn!(%peer, vdisk, %end, "TLog connection ended"),
    }
}

fn find_dead_peers(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?;
    Ok(())
}

struct Connection<'a> {
    reader: ReadHalf<'a>,
    writer: WriteHalf<'a>,
    session: Session,
    unsent: BytesMut,
    /// For what the input holds beyond its allowance.
    input_memory: Vec<OwnedSemaphorePermit>,
    vdisks: Arc<Vdisks>,
    stop: CancellationToken,
}

impl Connection<'_> {
    /// To the end; the vdisk's name for the log, if it came so far.
    async fn run(&mut self) -> (Option<String>, End) {
        let handshake = match timeout(HANDSHAKE_TIME, self.read_handshake()).await {
            Ok(Ok(handshake)) => handshake,
            Ok(Err(end)) => return (None, end),
            Err(_) => return (None, End::NoHandshake),
        };
        let vdisk = Some(handshake.vdisk.to_string());
        let mut writer = match self.attach(&handshake).await {
            Ok(writer) => writer,
            Err(end) => return (vdisk, end),
        };
        let end = match self.converse(&mut writer).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        writer.detach().await;
        (vdisk, end)
    }

    async fn read_handshake(&mut self) -> Result<Handshake, End> {
        loop {
            if let Some(Event::Handshake(handshake)) =
                self.session.next_event().map_err(End::Violation)?
            {
                return Ok(handshake);
            }
            self.cover_input().await?;
            read_some(&mut self.reader, self.session.input()).await?;
        }
    }

    async fn attach(&mut self, handshake: &Handshake) -> Result<Writer, End> {
        let attachment = match handshake.family {
            Family::A => Attachment::FirstSequence {
                first_sequence: handshake.first_sequence,
                reset: handshake.reset,
            },
            Family::B => Attachment::LastFlushed,
        };
        let Attaching { mut attached, writer } =
            match self.vdisks.attach(&handshake.vdisk, attachment).await {
                Ok(attaching) => attaching,
                Err(error) => return Err(self.refuse(error)),
            };
        // The client may close while its vdisk ships, or send its first blocks.
        let answer = loop {
            let listens = self.session.input().len() < READ_BYTES;
            tokio::select! {
                answer = &mut attached => break answer,
                read = read_some(&mut self.reader, self.session.input()), if listens => {
                    if let Err(end) = read {
                        writer.detach().await;
                        return Err(end);
                    }
                }
                () = self.stop.cancelled() => {
                    writer.detach().await;
                    return Err(End::Stopped);
                }
            }
        };
        match answer {
            Ok(Ok(last_flushed)) => {
                let ok = HandshakeStatus::Ok;
                self.session.answer_handshake(ok, last_flushed, &mut self.unsent);
                Ok(writer)
            }
            Ok(Err(refusal)) => Err(self.refuse(refusal.into())),
            Err(_) => {
                let status = HandshakeStatus::Internal;
                self.session.answer_handshake(status, 0, &mut self.unsent);
                Err(End::VdiskEnded)
            }
        }
    }

    fn refuse(&mut self, error: AttachError) -> End {
        let status = status::of_attach_error(&error);
        self.session.answer_handshake(status, 0, &mut self.unsent);
        End::Refused(error)
    }

    /// Moves bytes until something ends the connection, which is the error.
    async fn converse(&mut self, vdisk: &mut Writer) -> Result<std::convert::Infallible, End> {
        let mut progress = Instant::now();
        let mut frame_began = None;
        loop {
            let heard = self.hear(vdisk).await?;
            self.cover_input().await?;
            // A long frame holds memory that others wait for, so it may not take for ever to arrive.
            frame_began = match frame_began {
                _ if self.input_memory.is_empty() => None,
                Some(began) if !heard => Some(began),
                _ => Some(Instant::now()),
            };
            let frame_due = frame_began.unwrap_or(progress) + FRAME_TIME;
            let listens = self.unsent.len() < UNSENT_BYTES;
            let speaks = !self.unsent.is_empty();
            if !speaks {
                progress = Instant::now();
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(End::Stopped),
                wrote = self.writer.write_buf(&mut self.unsent), if speaks => {
                    if wrote? == 0 {
                        return Err(End::Closed);
                    }
                    progress = Instant::now();
                }
                () = tokio::time::sleep_until(progress + WRITE_TIME), if speaks => {
                    return Err(End::DoesNotRead);
                }
                () = tokio::time::sleep_until(frame_due), if frame_began.is_some() => {
                    return Err(End::SlowFrame);
                }
                outbound = vdisk.outbox.recv(), if listens => self.take_outbound(vdisk, outbound)?,
                read = read_some(&mut self.reader, self.session.input()), if listens => read?,
            }
        }
    }

    /// Takes what the vdisk said, and what else it has said already, so that answers share a write.
    fn take_outbound(&mut self, vdisk: &mut Writer, first: Option<Outbound>) -> Result<(), End> {
        let mut outbound = first.ok_or(End::VdiskEnded)?;
        loop {
            match outbound {
                Outbound::Answers(answers) => {
                    for answer in answers {
                        self.session.respond(&status::of_answer(answer), &mut self.unsent);
                    }
                }
                Outbound::Close(reason) => return Err(End::ClosedByVdisk(reason)),
            }
            match vdisk.outbox.try_recv() {
                Ok(next) if self.unsent.len() < UNSENT_BYTES => outbound = next,
                Ok(Outbound::Close(reason)) => return Err(End::ClosedByVdisk(reason)),
                Ok(Outbound::Answers(answers)) => {
                    for answer in answers {
                        self.session.respond(&status::of_answer(answer), &mut self.unsent);
                    }
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// Hands on what the input holds; says whether that was anything.
    async fn hear(&mut self, vdisk: &Writer) -> Result<bool, End> {
        let mut heard = false;
        let mut blocks = Vec::new();
        let mut bytes = 0;
        loop {
            let event = match self.session.next_event() {
                Ok(event) => event,
                Err(violation) => {
                    // What came before it is good.
                    self.hand_on(vdisk, &mut blocks, &mut bytes).await?;
                    return Err(End::Violation(violation));
                }
            };
            heard |= event.is_some();
            if let Some(Event::Block(block)) = event {
                bytes += block.data.len();
                blocks.push(block);
                if bytes >= HAND_ON_BYTES {
                    self.hand_on(vdisk, &mut blocks, &mut bytes).await?;
                }
                continue;
            }
            self.hand_on(vdisk, &mut blocks, &mut bytes).await?;
            let input = match event {
                None => return Ok(heard),
                Some(Event::ForceFlush(sequence)) => Input::ForceFlush(sequence),
                Some(Event::WaitSlaveSync) => Input::WaitSlaveSync,
                Some(Event::Disconnect) => return Err(End::Disconnected),
                Some(Event::Handshake(_) | Event::Block(_)) => continue,
            };
            if !vdisk.send(input).await {
                return Err(End::VdiskEnded);
            }
        }
    }

    /// Hands the blocks on up to the first whose hash is wrong, which ends the connection.
    async fn hand_on(
        &mut self,
        vdisk: &Writer,
        blocks: &mut Vec<Block>,
        bytes: &mut usize,
    ) -> Result<(), End> {
        let mut blocks = std::mem::take(blocks);
        let memory = std::mem::take(bytes) + blocks.len() * size_of::<Block>();
        if blocks.is_empty() {
            return Ok(());
        }
        let wrong = first_wrong_hash(&blocks);
        let end = wrong.and_then(|at| blocks.get(at)).map(|block| block.sequence);
        if let Some(at) = wrong {
            blocks.truncate(at);
        }
        // What the input held of these blocks is theirs now: nobody waits for memory while holding some.
        self.input_memory.clear();
        let permit = tokio::select! {
            () = self.stop.cancelled() => return Err(End::Stopped),
            permit = timeout(MEMORY_TIME, self.vdisks.broker().reserve(memory)) => {
                permit.map_err(|_| End::NoMemory)?
            }
        };
        if !vdisk.send(Input::Blocks(blocks, permit)).await {
            return Err(End::VdiskEnded);
        }
        end.map_or(Ok(()), |sequence| Err(End::Hash { sequence }))
    }

    /// Takes memory for what the input holds beyond its allowance, before more is read.
    async fn cover_input(&mut self) -> Result<(), End> {
        let held = self.session.input().len();
        if held <= READ_BYTES {
            self.input_memory.clear();
            return Ok(());
        }
        let covered: usize = self.input_memory.iter().map(OwnedSemaphorePermit::num_permits).sum();
        if held > covered {
            // As much again, as the buffer itself grows.
            let more = timeout(MEMORY_TIME, self.vdisks.broker().reserve(held)).await;
            self.input_memory.push(more.map_err(|_| End::NoMemory)?);
        }
        Ok(())
    }

    /// Sends what is due, and what this client is told at the end.
    async fn say_farewell(&mut self, end: &End) {
        match end {
            End::Disconnected => self.session.end_by_client(&mut self.unsent),
            End::Violation(violation) => self.session.end(Some(violation), &mut self.unsent),
            End::Closed | End::Io(_) => return,
            _ => self.session.end(None, &mut self.unsent),
        }
        let farewell = async {
            self.writer.write_all_buf(&mut self.unsent).await?;
            self.writer.shutdown().await?;
            // Unread input would turn the close into a reset, which may overtake the answer.
            let mut rest = BytesMut::with_capacity(READ_BYTES);
            while self.reader.read_buf(&mut rest).await? > 0 {
                rest.clear();
            }
            io::Result::Ok(())
        };
        // A client that is gone cannot be told.
        timeout(FAREWELL_TIME, farewell).await.ok();
    }
}

/// Reads once. End of stream is an error here.
async fn read_some(reader: &mut ReadHalf<'_>, input: &mut BytesMut) -> Result<(), End> {
    input.reserve(READ_BYTES / 4);
    match reader.read_buf(input).await? {
        0 => Err(End::Closed),
        _ => Ok(()),
    }
}

fn first_wrong_hash(blocks: &[Block]) -> Option<usize> {
    let mut params = Params::new();
    params.hash_length(32);
    let mut jobs: Vec<HashManyJob<'_>> =
        blocks.iter().map(|block| HashManyJob::new(&params, &block.data)).collect();
    hash_many(jobs.iter_mut());
    jobs.iter().zip(blocks).position(|(job, block)| job.to_hash().as_bytes() != block.hash)
}

#[cfg(test)]
mod tests;
