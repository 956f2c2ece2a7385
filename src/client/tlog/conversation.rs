//! The task that owns the connection: one loop that hears the server, the user and the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::attach::{Attached, READ_BYTES, attach};
use super::{Config, Progress, Response};
use crate::client::error::Error;
use crate::client::resend_buffer::ResendBuffer;
use crate::record::vdisk::Block;
use crate::tlog::protocol::{ClientMessage, Response as WireResponse, Status, Wire, take_frame};
use crate::types::in_words;

/// A clock that stands still while the user leaves responses unread: the server, which is not heard then, is not late.
#[derive(Debug, Default)]
struct Clock {
    stood: Duration,
    /// Since when it stands, if it does.
    since: Option<Instant>,
}

impl Clock {
    /// The time it shows at `now`; from here on it stands or goes.
    fn read(&mut self, now: Instant, stands: bool) -> Instant {
        let since = if stands { self.since.or(Some(now)) } else { None };
        if let Some(stood) = std::mem::replace(&mut self.since, since).filter(|_| !stands) {
            self.stood += now - stood;
        }
        since.unwrap_or(now) - self.stood
    }

    /// When it will show `time`, if it does not stand before.
    fn when(&self, time: Instant) -> Instant {
        time + self.stood
    }
}

/// Encoded and not yet taken by the socket, at most, and one message more.
const OUT_BYTES: usize = 256 * 1024;
/// A connection that stood so long was a good one: the next failure starts with the shortest pause again.
const GOOD_CONNECTION: Duration = Duration::from_secs(5);

/// What the handle asks for beside sending blocks.
#[derive(Debug)]
pub(super) enum Command {
    ForceFlush(u64),
    WaitSlaveSync(oneshot::Sender<()>),
    ChangeServers(Vec<String>),
    Disconnect(oneshot::Sender<()>),
}

/// The task's ends of the handle's channels.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) blocks: mpsc::Receiver<Block>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) responses: mpsc::Sender<Response>,
    pub(super) progress: watch::Sender<Progress>,
}

/// Why a connection is not used any more.
#[derive(Debug)]
enum End {
    /// The handle is gone, or has taken leave.
    Over,
    /// To be made anew.
    Broken(Error),
    /// Not to be made anew.
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct Conversation {
    /// The one to be tried next in front, or the one in use unless the list was replaced.
    servers: VecDeque<String>,
    vdisk: String,
    config: Config,
    buffer: ResendBuffer,
    ends: Ends,
    /// Whether the handle can still send blocks, or some are on the way.
    blocks_open: bool,
    /// Not yet taken by the user; while there are any, the server is not read, and the clock stands.
    undelivered: VecDeque<Response>,
    /// Of all times that a server must keep.
    clock: Clock,
    /// Still to be flushed by force, and whether this connection was told.
    force_flush: Option<(u64, bool)>,
    slave_waits: Vec<oneshot::Sender<()>>,
    slave_wait_sent: bool,
    leaving: Option<oneshot::Sender<()>>,
    leave_sent: bool,
    flush_failed: bool,
    pause: Duration,
}

impl Conversation {
    pub(super) fn new(
        servers: Vec<String>,
        vdisk: String,
        config: Config,
        last_flushed: u64,
        ends: Ends,
    ) -> Self {
        Self {
            servers: servers.into(),
            vdisk,
            buffer: ResendBuffer::new(last_flushed, config.window, config.resend_after),
            ends,
            blocks_open: true,
            undelivered: VecDeque::new(),
            clock: Clock::default(),
            force_flush: None,
            slave_waits: Vec::new(),
            slave_wait_sent: false,
            leaving: None,
            leave_sent: false,
            flush_failed: false,
            pause: config.first_pause,
            config,
        }
    }

    pub(super) async fn run(mut self, first: Attached) {
        let mut attached = first;
        let failed = loop {
            let since = Instant::now();
            let used = attached.server.clone();
            let end = match self.adopt(&attached) {
                Ok(()) => self.converse(attached).await,
                Err(error) => End::Failed(error),
            };
            let error = match end {
                End::Over => return,
                End::Failed(error) => break error,
                End::Broken(error) => error,
            };
            tracing::warn!(
                vdisk = self.vdisk,
                error = in_words(&error),
                "connection lost, reconnecting"
            );
            self.ends.progress.send_modify(|progress| progress.server = None);
            if since.elapsed() >= GOOD_CONNECTION {
                self.pause = self.config.first_pause;
            }
            attached = match self.reattach(&used).await {
                Ok(attached) => attached,
                Err(End::Over) => return,
                Err(End::Broken(error) | End::Failed(error)) => break error,
            };
            tracing::warn!(vdisk = self.vdisk, server = attached.server, "connected again");
            self.ends.progress.send_modify(|progress| progress.reconnects += 1);
        };
        self.ends.progress.send_modify(|progress| {
            progress.server = None;
            progress.error = Some(failed);
        });
    }

    /// Takes over what a server reports; everything else goes to it again.
    fn adopt(&mut self, attached: &Attached) -> Result<(), Error> {
        let (server, reported) = (attached.server.clone(), attached.last_flushed);
        let flushed = self.buffer.last_flushed();
        if reported < flushed {
            return Err(Error::Forgot { server, reported, flushed });
        }
        let sent = self.buffer.last_pushed();
        if reported > sent {
            return Err(Error::OtherWriter { server, reported, sent });
        }
        let news = self.buffer.reattached(reported);
        self.tell(Response::Attached { server: server.clone(), last_flushed: reported });
        if !news.is_empty() {
            self.tell(Response::Flushed(news));
        }
        self.flush_moved();
        self.ends.progress.send_modify(|progress| progress.server = Some(server));
        self.force_flush = self.force_flush.map(|(sequence, _)| (sequence, false));
        self.slave_wait_sent = false;
        self.leave_sent = false;
        self.flush_failed = false;
        Ok(())
    }

    async fn converse(&mut self, attached: Attached) -> End {
        let Attached { server, stream, mut inbox, .. } = attached;
        let (mut reader, mut writer) = stream.into_split();
        let responses = self.ends.responses.clone();
        let mut out = BytesMut::new();
        let mut heard = None;
        loop {
            if let Some(end) = self.hear(&server, &mut inbox) {
                return end;
            }
            let hears = self.undelivered.is_empty();
            let now = self.clock.read(Instant::now(), !hears);
            self.buffer.expire(now);
            self.fill(&mut out, now);
            let silent_at = *heard.get_or_insert(now) + self.config.silence_timeout;
            let owed = self.buffer.awaits_received();
            if owed && silent_at <= now {
                let waited = self.config.silence_timeout;
                return End::Broken(Error::Timeout { op: "answer", server, waited });
            }
            if !owed {
                heard = Some(now);
            }
            let wake = self.buffer.next_deadline().map_or(silent_at, |at| at.min(silent_at));
            let wake = self.clock.when(wake);
            // A buffer without room would be read into 64 bytes at a time.
            inbox.reserve(READ_BYTES);
            tokio::select! {
                read = reader.read_buf(&mut inbox), if hears => match read {
                    Ok(0) => return self.closed(server),
                    Ok(_) => heard = None,
                    Err(_) if self.leave_sent => return self.closed(server),
                    Err(error) => return End::Broken(Error::io("read from", &server)(error)),
                },
                written = writer.write_buf(&mut out), if !out.is_empty() => {
                    if let Err(error) = written {
                        return End::Broken(Error::io("write to", &server)(error));
                    }
                }
                block = self.ends.blocks.recv(), if self.blocks_open && self.buffer.has_room() => {
                    match block {
                        Some(block) => self.buffer.push(block),
                        None => self.blocks_open = false,
                    }
                }
                command = self.ends.commands.recv() => match command {
                    None => return End::Over,
                    Some(command) => {
                        self.note(command);
                        if !self.servers.contains(&server) {
                            return End::Broken(Error::Closed { server });
                        }
                    }
                },
                permit = responses.reserve(), if !hears => {
                    match (permit, self.undelivered.pop_front()) {
                        (Ok(permit), Some(response)) => permit.send(response),
                        _ => self.undelivered.clear(),
                    }
                }
                () = sleep_until(wake.into()), if hears => {}
            }
        }
    }

    /// The stream ended: in leave, or not.
    fn closed(&mut self, server: String) -> End {
        match self.leaving.take_if(|_| self.leave_sent) {
            // Nobody waits for it any more: that is fine.
            Some(leaving) => {
                let _ = leaving.send(());
                End::Over
            }
            None => End::Broken(Error::Closed { server }),
        }
    }

    /// Applies every whole response in the inbox.
    fn hear(&mut self, server: &str, inbox: &mut BytesMut) -> Option<End> {
        loop {
            let frame = match take_frame(inbox) {
                Ok(frame) => frame?,
                Err(source) => {
                    return Some(End::Broken(Error::Frame { server: server.to_owned(), source }));
                }
            };
            let response = match WireResponse::decode(&frame) {
                Ok(response) => response,
                Err(source) => {
                    return Some(End::Broken(Error::Decode { server: server.to_owned(), source }));
                }
            };
            if let Some(end) = self.apply(server, response) {
                return Some(end);
            }
        }
    }

    fn apply(&mut self, server: &str, response: WireResponse) -> Option<End> {
        match response.status {
            Status::Received => {
                for sequence in response.sequences {
                    self.buffer.received(sequence);
                    self.tell(Response::Received(sequence));
                }
            }
            Status::Flushed => {
                self.buffer.flushed(&response.sequences);
                self.tell(Response::Flushed(response.sequences));
                self.flush_moved();
            }
            Status::ForceFlushReceived => self.tell(Response::ForceFlushReceived),
            Status::WaitSlaveSyncDone => {
                for wait in self.slave_waits.drain(..) {
                    // Who stopped waiting has his timeout.
                    let _ = wait.send(());
                }
                self.slave_wait_sent = false;
                self.tell(Response::SlaveSynced);
            }
            Status::FlushFailed => {
                self.flush_failed = true;
                self.tell(Response::FlushFailed);
            }
            Status::Disconnected | Status::ReceiveFailed => {
                return Some(self.closed(server.to_owned()));
            }
            // Said before the first block, or by a server that says it twice.
            Status::Ready => {}
        }
        None
    }

    fn flush_moved(&mut self) {
        let last_flushed = self.buffer.last_flushed();
        if self.force_flush.is_some_and(|(sequence, _)| sequence <= last_flushed) {
            self.force_flush = None;
        }
        self.ends.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.last_flushed, last_flushed) != last_flushed
        });
    }

    fn tell(&mut self, response: Response) {
        if !self.ends.responses.is_closed() {
            self.undelivered.push_back(response);
        }
    }

    fn note(&mut self, command: Command) {
        match command {
            // Never beyond what was taken in: the handle may be a few blocks ahead, and those are flushed then, too.
            Command::ForceFlush(sequence) => {
                let above = self.force_flush.map_or(0, |(sequence, _)| sequence);
                if sequence > self.buffer.last_flushed() {
                    self.force_flush = Some((sequence.max(above), false));
                }
            }
            Command::WaitSlaveSync(done) => {
                self.slave_waits.retain(|wait| !wait.is_closed());
                self.slave_waits.push(done);
                self.slave_wait_sent = false;
            }
            Command::ChangeServers(servers) if servers.is_empty() => {}
            Command::ChangeServers(servers) => self.servers = servers.into(),
            Command::Disconnect(done) => self.leaving = Some(done),
        }
    }

    /// Encodes what is due, as far as the socket takes it soon.
    fn fill(&mut self, out: &mut BytesMut, now: Instant) {
        let put = |message: &ClientMessage, out: &mut BytesMut| {
            let known = message.encode(Wire::Union, 0, out);
            assert!(known, "the union wire has every message");
        };
        while out.len() < OUT_BYTES {
            let Some(block) = self.buffer.take_next(now) else { break };
            put(&ClientMessage::Block(block.clone()), out);
        }
        if self.buffer.next_queued().is_some() {
            return;
        }
        if let Some((sequence, told)) = &mut self.force_flush
            && !*told
            && *sequence <= self.buffer.last_pushed()
        {
            put(&ClientMessage::ForceFlush(*sequence), out);
            *told = true;
        }
        if !self.slave_waits.is_empty() && !self.slave_wait_sent {
            put(&ClientMessage::WaitSlaveSync, out);
            self.slave_wait_sent = true;
        }
        if self.leaving.is_some() && !self.leave_sent && !self.blocks_open {
            put(&ClientMessage::Disconnect, out);
            self.leave_sent = true;
        }
    }

    /// Goes round the servers until one takes the vdisk, from the one behind the `broken` one on; from the front where that
    /// is on the list no more.
    async fn reattach(&mut self, broken: &str) -> Result<Attached, End> {
        let since = Instant::now();
        // A server that could not ship needs time, and one that closes at once must not be called at full speed.
        let mut pause = if self.flush_failed { self.config.flush_failed_pause } else { self.pause };
        if self.servers.front().is_some_and(|front| front == broken) {
            self.servers.rotate_left(1);
        }
        loop {
            self.tend_until(Instant::now() + pause).await?;
            self.pause = (self.pause * 2).min(self.config.longest_pause);
            pause = self.pause;
            let round = self.servers.len();
            let (mut refusals, mut last) = (0, Error::NoServer);
            for _ in 0..round {
                let Some(server) = self.servers.front().cloned() else { break };
                let (vdisk, config) = (self.vdisk.clone(), self.config.clone());
                let attached = tokio::select! {
                    attached = attach(&server, &vdisk, &config) => attached,
                    () = self.tend() => return Err(End::Over),
                };
                match attached {
                    Ok(attached) => return Ok(attached),
                    Err(error) => {
                        tracing::debug!(vdisk, server, error = in_words(&error), "not attached");
                        refusals += usize::from(error.is_final());
                        last = error;
                    }
                }
                self.servers.rotate_left(1);
            }
            if refusals == round {
                return Err(End::Failed(last));
            }
            let waited = since.elapsed();
            if self.config.give_up_after.is_some_and(|limit| waited >= limit) {
                return Err(End::Failed(Error::GaveUp { waited, source: Box::new(last) }));
            }
        }
    }

    /// Takes note of commands until the time, or fails when the client is over.
    async fn tend_until(&mut self, until: Instant) -> Result<(), End> {
        tokio::select! {
            () = sleep_until(until.into()) => Ok(()),
            () = self.tend() => Err(End::Over),
        }
    }

    /// Takes note of commands until the client is over. Cancel safe.
    async fn tend(&mut self) {
        while self.leaving.is_none() {
            match self.ends.commands.recv().await {
                Some(command) => self.note(command),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stood_goes_on_where_it_was() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = Clock::default();
        assert_eq!(clock.read(begin, false), begin);
        assert_eq!(clock.read(begin + second, true), begin + second);
        assert_eq!(clock.read(begin + 5 * second, true), begin + second);
        assert_eq!(clock.read(begin + 6 * second, false), begin + second);
        assert_eq!(clock.read(begin + 7 * second, false), begin + 2 * second);
        assert_eq!(clock.when(begin + 2 * second), begin + 7 * second);
    }
}
