//! What a vdisk accepts and when it answers: the pure core behind every TLog client.
//!
//! ```text
//!  sequence:   < next                = next                    > next
//!              duplicate: answered   appended, with held       family A: held, bounded
//!              if its hash is the    blocks that now follow    family B: ignored
//!              stored one, else the
//!              connection ends
//!
//!  offsets:    told  <=  min(shipped, committed)  <=  committed  <=  end
//!                |               |                       |            '- next offset to append
//!                |               |                       '- *received* goes out
//!                |               '- lists of *flushed* that end below go out
//!                '- all below was listed, or never has to be
//! ```
//!
//! [`VdiskCore::handle`] takes one [`Event`] and the time and says what is to be done as [`Effect`]s, in that order. The
//! task that owns the core (`broker/vdisks`) does them: appends batches to the partition, sends answers, reads hashes.
//!
//! # Runs
//! A run maps offsets to sequences: `sequence = first_sequence + (offset - first_offset)`. A run is begun at its first
//! block ([`Effect::StartRun`]), except after a reset, which is remembered at once: a client of family A reconnects with
//! *last flushed + 1*, which says nothing about what it will resend.
//!
//! For the same reason a first sequence above the next expected one is believed only until a block between the two arrives;
//! then the client has lost its connection before its first flush, and the run goes on as if it had named the right one.
//!
//! # Attaching
//! One writer. Family A: the newest connection wins, at most one takeover a second, the newest of those that wait first.
//! Family B: refused while a writer is there. Family B and a reset wait until everything is shipped, 30 s at most.
//! A new session drops the held blocks of the one before: what was not answered is sent again.
//!
//! # Lists of flushed sequences
//! See `vdisk/boundaries.rs`. Whoever is attached gets them; without a session they are dropped, since the next one learns the
//! same from its handshake (family B) or from the answers to what it resends (family A).
//!
//! # Recovery
//! The core holds nothing that is not in the log: after a restart it is made anew from the run table and the watermarks,
//! and what was unshipped is asked to be shipped at once.

mod boundaries;
mod events;
mod held;
mod recent;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use boundaries::Boundaries;
pub use events::{
    Answer, Attachment, CloseReason, Config, ConnectionId, Effect, Event, Lookup, Refusal,
    VdiskState,
};
pub use held::HeldBudget;
use held::{Held, Hold};
use recent::Recent;

use super::catalogue::Run;
use crate::record::vdisk::Block;
use crate::types::limits::{
    VDISK_BATCH_BYTES, VDISK_BLOCK_BYTES, VDISK_FIRST_SEQUENCE, VDISK_WAITING_DUPLICATES,
};
use crate::types::{Offset, Sequence};

/// How long an attach waits for shipping: as long as the original's clients wait for a handshake at most.
const ATTACH_WAIT: Duration = Duration::from_secs(30);
/// Two clients that fight for a vdisk, each reconnecting without a pause, get a second each.
const TAKEOVER_PAUSE: Duration = Duration::from_secs(1);
/// What a record costs beside its data, for bounding batches of empty blocks.
const RECORD_OVERHEAD_BYTES: usize = 200;

impl Run {
    fn sequence_at(&self, offset: Offset) -> u64 {
        self.first_sequence.0 + offset.abs_diff(self.first_offset)
    }

    fn offset_of(&self, sequence: u64) -> Option<Offset> {
        let after = i64::try_from(sequence.checked_sub(self.first_sequence.0)?).ok()?;
        self.first_offset.checked_add(after)
    }
}

#[derive(Debug, Clone, Copy)]
struct Writer {
    connection: ConnectionId,
    attachment: Attachment,
    /// While the attach waits for shipping.
    waits: Option<Wait>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    upto: Offset,
    deadline: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Duplicate {
    offset: Offset,
    sequence: u64,
    hash: [u8; 32],
    arrival: u64,
}

/// A numbering that is not begun: the run that the next block starts, and what holds instead if a block between `from`
/// and its first sequence arrives.
#[derive(Debug, Clone, Copy)]
struct Planned {
    first_sequence: u64,
    instead: Option<Instead>,
}

#[derive(Debug, Clone, Copy)]
struct Instead {
    from: u64,
    first_sequence: Option<u64>,
}

/// One vdisk. See the module page.
#[derive(Debug)]
pub struct VdiskCore {
    config: Config,
    run: Option<Run>,
    planned: Option<Planned>,
    end: Offset,
    committed: Offset,
    shipped: Offset,
    block_size: Option<u64>,
    boundaries: Boundaries,
    recent: Recent,
    held: Held,
    writer: Option<Writer>,
    /// A client of family A that may take over at `next_takeover`.
    waiting: Option<(ConnectionId, Attachment)>,
    next_takeover: Option<Instant>,
    arrivals: u64,
    /// Answers due at the commit of an offset: (offset, arrival) -> sequence.
    unanswered: BTreeMap<(Offset, u64), u64>,
    lookups: VecDeque<Duplicate>,
    /// Offset of the lookup under way.
    looking_up: Option<Offset>,
    batch: Vec<Block>,
    batch_bytes: usize,
    asked_to_ship: Offset,
    wake_at: Option<Instant>,
    failed: bool,
}

impl VdiskCore {
    /// A vdisk without a client. A [`Event::Tick`] should follow, so that what is unshipped is asked for.
    #[must_use]
    pub fn new(config: Config, state: VdiskState, budget: HeldBudget) -> Self {
        let VdiskState { run, end, shipped, block_size } = state;
        let mut boundaries = Boundaries::new(config.flush_size, config.flush_time, shipped);
        boundaries.close(end);
        Self {
            config,
            run,
            planned: None,
            end,
            committed: end,
            shipped,
            block_size,
            boundaries,
            recent: Recent::new(end),
            held: Held::new(budget),
            writer: None,
            waiting: None,
            next_takeover: None,
            arrivals: 0,
            unanswered: BTreeMap::new(),
            lookups: VecDeque::new(),
            looking_up: None,
            batch: Vec::new(),
            batch_bytes: 0,
            asked_to_ship: shipped,
            wake_at: None,
            failed: false,
        }
    }

    /// Whether nobody is attached or waits for it, and everything is committed and shipped: such a vdisk needs no task.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writer.is_none() && self.waiting.is_none() && self.shipped >= self.end
    }

    /// Offset after the last block handed out for appending.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// All below is committed, as far as the core was told.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Applies one event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Attach { connection, attachment } => {
                self.attach(connection, attachment, now, &mut out);
            }
            Event::Detach { connection } => self.detach(connection, now, &mut out),
            Event::Blocks { connection, blocks } => {
                self.take_blocks(connection, blocks, now, &mut out);
            }
            Event::ForceFlush { connection, sequence } => {
                self.force_flush(connection, sequence, &mut out);
            }
            // Nothing copies to a slave here, so there is nothing to wait for.
            Event::WaitSlaveSync { connection } if self.is_attached(connection) => {
                out.push(Effect::Answer { connection, answer: Answer::WaitSlaveSyncDone });
            }
            Event::WaitSlaveSync { .. } => {}
            Event::Committed { upto } => self.commit(upto, &mut out),
            Event::AppendFailed => self.fail(&mut out),
            Event::Shipped { upto } => self.shipped = self.shipped.max(upto),
            Event::Hashes(lookup) => self.compare(lookup, now, &mut out),
            Event::Tick => self.tick(now, &mut out),
        }
        self.finish_attach(&mut out);
        self.tell(&mut out);
        self.ask_to_ship(&mut out);
        self.ask_to_wake(now, &mut out);
        out
    }

    fn is_attached(&self, connection: ConnectionId) -> bool {
        self.writer.is_some_and(|writer| writer.connection == connection && writer.waits.is_none())
    }

    /// The sequence that the next appended block has.
    fn next_sequence(&self) -> u64 {
        match (self.planned, self.run) {
            (Some(planned), _) => planned.first_sequence,
            (None, Some(run)) => run.sequence_at(self.end),
            (None, None) => 1,
        }
    }
}

/// Attaching.
impl VdiskCore {
    fn attach(
        &mut self,
        connection: ConnectionId,
        attachment: Attachment,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let refusal = match attachment {
            _ if self.failed => Some(Refusal::Failed),
            Attachment::FirstSequence { first_sequence, .. }
                if first_sequence > VDISK_FIRST_SEQUENCE =>
            {
                Some(Refusal::FirstSequence)
            }
            Attachment::LastFlushed if self.writer.is_some() || self.waiting.is_some() => {
                Some(Refusal::Busy)
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            out.push(Effect::Refused { connection, refusal });
            return;
        }
        if self.writer.is_none() {
            self.begin(connection, attachment, now);
            return;
        }
        if let Some((older, _)) = self.waiting.replace((connection, attachment)) {
            out.push(Effect::Refused { connection: older, refusal: Refusal::Superseded });
        }
        self.take_over(now, out);
    }

    /// Lets the waiting client evict the writer, if the pause is over.
    fn take_over(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.next_takeover.is_some_and(|next| now < next) {
            return;
        }
        let Some((connection, attachment)) = self.waiting.take() else { return };
        match self.writer.take() {
            Some(Writer { connection, waits: Some(_), .. }) => {
                out.push(Effect::Refused { connection, refusal: Refusal::Superseded });
            }
            Some(Writer { connection, waits: None, .. }) => {
                out.push(Effect::Close { connection, reason: CloseReason::Superseded });
            }
            None => {}
        }
        self.next_takeover = Some(now + TAKEOVER_PAUSE);
        self.begin(connection, attachment, now);
    }

    fn begin(&mut self, connection: ConnectionId, attachment: Attachment, now: Instant) {
        self.forget_session();
        let upto = match attachment {
            // Nothing to wait for.
            Attachment::FirstSequence { reset: false, .. } => Offset::MIN,
            Attachment::FirstSequence { reset: true, .. } | Attachment::LastFlushed => {
                self.boundaries.close(self.end);
                self.end
            }
        };
        let waits = Some(Wait { upto, deadline: now + ATTACH_WAIT });
        self.writer = Some(Writer { connection, attachment, waits });
    }

    /// What belongs to a session and not to the log.
    fn forget_session(&mut self) {
        self.held.clear();
        self.unanswered.clear();
        self.lookups.clear();
    }

    fn finish_attach(&mut self, out: &mut Vec<Effect>) {
        let Some(writer) = &mut self.writer else { return };
        let Writer { connection, attachment, waits: Some(wait) } = *writer else { return };
        if self.shipped.min(self.committed) < wait.upto {
            return;
        }
        writer.waits = None;
        let mut last_flushed = 0;
        let mut lists = Vec::new();
        match attachment {
            Attachment::FirstSequence { first_sequence, reset: false } => {
                self.plan_from(first_sequence);
            }
            Attachment::FirstSequence { first_sequence, reset: true } => {
                // By the numbering that ends here.
                self.list(&mut lists);
                self.boundaries.clear_marks();
                self.planned = None;
                if self.run.is_none() || self.next_sequence() != first_sequence {
                    self.start_run(first_sequence, out);
                }
            }
            Attachment::LastFlushed => {
                self.boundaries.skip_to(self.end);
                self.boundaries.clear_marks();
                // Sequence 0 is never new in this family.
                let at_zero = self.run.is_some_and(|run| run.sequence_at(self.end) == 0);
                self.planned = at_zero.then_some(Planned { first_sequence: 1, instead: None });
                last_flushed = self.next_sequence() - 1;
            }
        }
        out.push(Effect::Attached { connection, last_flushed });
        let answers = lists.into_iter().map(Answer::Flushed);
        out.extend(answers.map(|answer| Effect::Answer { connection, answer }));
    }

    /// A client of family A begins at `first_sequence`, without a reset.
    fn plan_from(&mut self, first_sequence: u64) {
        let plan = |first_sequence, from, instead| {
            let instead = Some(Instead { from, first_sequence: instead });
            Some(Planned { first_sequence, instead })
        };
        self.planned = match (self.run.map(|run| run.sequence_at(self.end)), self.planned) {
            (Some(next), _) if first_sequence > next => plan(first_sequence, next, None),
            (Some(_), _) => None,
            // Nothing was ever stored: what an earlier session named still counts.
            (None, Some(Planned { first_sequence: earlier, .. })) => {
                let (low, high) = (earlier.min(first_sequence), earlier.max(first_sequence));
                plan(high, low, Some(low))
            }
            // Such a client may have begun at 0.
            (None, None) if first_sequence == 1 => plan(1, 0, Some(0)),
            (None, None) => Some(Planned { first_sequence, instead: None }),
        };
    }

    fn detach(&mut self, connection: ConnectionId, now: Instant, out: &mut Vec<Effect>) {
        if self.waiting.is_some_and(|(waiting, _)| waiting == connection) {
            self.waiting = None;
        }
        if self.writer.is_some_and(|writer| writer.connection == connection) {
            self.release(now);
        }
        self.take_over_if_free(now, out);
    }

    fn release(&mut self, now: Instant) {
        self.forget_session();
        self.writer = None;
        // Nobody is evicted, so nobody has to wait.
        if let Some((connection, attachment)) = self.waiting.take() {
            self.begin(connection, attachment, now);
        }
    }

    fn take_over_if_free(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.waiting.is_some() {
            self.take_over(now, out);
        }
    }

    fn close(&mut self, reason: CloseReason, now: Instant, out: &mut Vec<Effect>) {
        if let Some(Writer { connection, .. }) = self.writer {
            out.push(Effect::Close { connection, reason });
            self.release(now);
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.boundaries.deadline().is_some_and(|deadline| deadline <= now) {
            self.boundaries.close(self.end);
        }
        if let Some(Writer { connection, waits: Some(wait), .. }) = self.writer
            && wait.deadline <= now
            && self.shipped.min(self.committed) < wait.upto
        {
            out.push(Effect::Refused { connection, refusal: Refusal::NotShipped });
            self.release(now);
        }
        self.take_over_if_free(now, out);
    }

    fn fail(&mut self, out: &mut Vec<Effect>) {
        self.failed = true;
        self.forget_session();
        if let Some(Writer { connection, waits, .. }) = self.writer.take() {
            if waits.is_some() {
                out.push(Effect::Refused { connection, refusal: Refusal::Failed });
            } else {
                out.push(Effect::Answer { connection, answer: Answer::FlushFailed });
                out.push(Effect::Close { connection, reason: CloseReason::Failed });
            }
        }
        if let Some((connection, _)) = self.waiting.take() {
            out.push(Effect::Refused { connection, refusal: Refusal::Failed });
        }
    }
}

/// Blocks.
impl VdiskCore {
    fn take_blocks(
        &mut self,
        connection: ConnectionId,
        blocks: Vec<Block>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_attached(connection) {
            return;
        }
        for block in blocks {
            if let Err(reason) = self.take_block(block, now, out) {
                self.end_batch(out);
                self.close(reason, now, out);
                return;
            }
        }
        self.end_batch(out);
    }

    fn take_block(
        &mut self,
        block: Block,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let sequence = block.sequence;
        let bytes = block.data.len();
        if bytes > VDISK_BLOCK_BYTES {
            return Err(CloseReason::TooLong { sequence, bytes });
        }
        let block_size = self.block_size.unwrap_or_else(|| self.block_size_by(&block));
        block.extent(block_size).map_err(|why| CloseReason::Place { sequence, why })?;
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.reconsider_plan(sequence);
        let next = self.next_sequence();
        if sequence < next {
            return self.take_duplicate(&block, arrival, out);
        }
        if sequence > next {
            return match self.attached_by() {
                Some(Attachment::FirstSequence { .. })
                    if self.held.hold(block, arrival) == Hold::Conflict =>
                {
                    Err(CloseReason::Conflict { sequence })
                }
                _ => Ok(()),
            };
        }
        self.append(block, arrival, now, out);
        while let Some((block, arrival)) = self.held.take(self.next_sequence()) {
            self.append(block, arrival, now, out);
        }
        Ok(())
    }

    fn attached_by(&self) -> Option<Attachment> {
        self.writer.map(|writer| writer.attachment)
    }

    /// Takes back a gap that is not one: see "Runs" on the module page.
    fn reconsider_plan(&mut self, sequence: u64) {
        if let Some(Planned { first_sequence, instead: Some(instead) }) = self.planned
            && (instead.from..first_sequence).contains(&sequence)
        {
            self.planned = instead
                .first_sequence
                .map(|first_sequence| Planned { first_sequence, instead: None });
        }
    }

    fn block_size_by(&self, first: &Block) -> u64 {
        let bytes = first.data.len();
        if bytes >= 512 && bytes.is_power_of_two() {
            return bytes as u64;
        }
        self.config.default_block_size
    }

    fn append(&mut self, block: Block, arrival: u64, now: Instant, out: &mut Vec<Effect>) {
        if self.planned.is_some() || self.run.is_none() {
            self.start_run(block.sequence, out);
        }
        if self.block_size.is_none() {
            let bytes = self.block_size_by(&block);
            self.block_size = Some(bytes);
            out.push(Effect::SetBlockSize { bytes });
        }
        let bytes = block.data.len() + RECORD_OVERHEAD_BYTES;
        if self.batch_bytes + bytes > VDISK_BATCH_BYTES {
            self.end_batch(out);
        }
        let (offset, sequence) = (self.end, block.sequence);
        self.end += 1;
        self.recent.push(block.hash);
        self.unanswered.insert((offset, arrival), sequence);
        self.batch_bytes += bytes;
        self.batch.push(block);
        if self.boundaries.appended(offset, sequence, now) {
            self.end_batch(out);
        }
    }

    fn end_batch(&mut self, out: &mut Vec<Effect>) {
        self.batch_bytes = 0;
        let blocks = std::mem::take(&mut self.batch);
        let (Some(block_size), false) = (self.block_size, blocks.is_empty()) else { return };
        let count = i64::try_from(blocks.len()).unwrap_or(i64::MAX);
        out.push(Effect::Append { first_offset: self.end - count, blocks, block_size });
    }

    /// Lists of the numbering before are not owed from here on: it was told, or nobody waits for it.
    fn start_run(&mut self, first_sequence: u64, out: &mut Vec<Effect>) {
        self.boundaries.skip_to(self.end);
        self.planned = None;
        let first_sequence = Sequence(first_sequence);
        self.run = Some(Run { first_offset: self.end, first_sequence });
        out.push(Effect::StartRun { first_sequence });
    }

    fn force_flush(&mut self, connection: ConnectionId, sequence: u64, out: &mut Vec<Effect>) {
        if !self.is_attached(connection) {
            return;
        }
        out.push(Effect::Answer { connection, answer: Answer::ForceFlushReceived });
        if sequence < self.next_sequence() {
            self.boundaries.close(self.end);
        } else {
            self.boundaries.mark(sequence);
        }
    }
}

/// Duplicates.
impl VdiskCore {
    fn take_duplicate(
        &mut self,
        block: &Block,
        arrival: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let sequence = block.sequence;
        let stored = self.run.and_then(|run| run.offset_of(sequence));
        let Some(offset) = stored.filter(|offset| *offset < self.end) else {
            // Clients of family B that begin at 0 are told that it is fine, and it is never flushed.
            if let (0, Some(Writer { connection, attachment: Attachment::LastFlushed, .. })) =
                (sequence, self.writer)
            {
                out.push(Effect::Answer { connection, answer: Answer::Received(0) });
                return Ok(());
            }
            return Err(CloseReason::BeforeRun { sequence });
        };
        match self.recent.get(offset) {
            Some(hash) if *hash != block.hash => return Err(CloseReason::Conflict { sequence }),
            Some(_) => self.answer_duplicate(offset, sequence, arrival, out),
            None if self.lookups.len() < VDISK_WAITING_DUPLICATES => {
                self.lookups.push_back(Duplicate { offset, sequence, hash: block.hash, arrival });
                self.look_up(out);
            }
            None => {}
        }
        Ok(())
    }

    fn answer_duplicate(
        &mut self,
        offset: Offset,
        sequence: u64,
        arrival: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(Writer { connection, attachment, .. }) = self.writer else { return };
        if offset >= self.committed {
            if self.unanswered.len() < VDISK_WAITING_DUPLICATES {
                self.unanswered.insert((offset, arrival), sequence);
            }
            return;
        }
        out.push(Effect::Answer { connection, answer: Answer::Received(sequence) });
        let by_first = matches!(attachment, Attachment::FirstSequence { .. });
        if by_first && offset < self.boundaries.told() {
            out.push(Effect::Answer { connection, answer: Answer::Flushed(vec![sequence]) });
        }
    }

    fn look_up(&mut self, out: &mut Vec<Effect>) {
        if self.looking_up.is_some() {
            return;
        }
        if let Some(duplicate) = self.lookups.front() {
            self.looking_up = Some(duplicate.offset);
            out.push(Effect::LookupHashes { offset: duplicate.offset });
        }
    }

    fn compare(&mut self, lookup: Lookup, now: Instant, out: &mut Vec<Effect>) {
        let asked = self.looking_up.take();
        let waiting = std::mem::take(&mut self.lookups);
        for duplicate in waiting {
            let Duplicate { offset, sequence, hash, arrival } = duplicate;
            match (lookup.hash_at(offset), &lookup) {
                (Some(Some(stored)), _) if stored != hash => {
                    self.close(CloseReason::Conflict { sequence }, now, out);
                    break;
                }
                (Some(Some(_)), _) => self.answer_duplicate(offset, sequence, arrival, out),
                (None, _) if asked != Some(offset) => self.lookups.push_back(duplicate),
                // It cannot be compared any more, and was accepted once.
                (Some(None), _) | (None, Lookup::Gone) => {
                    self.answer_duplicate(offset, sequence, arrival, out)
                }
                // The client sends it again.
                (None, Lookup::Found { .. } | Lookup::Failed) => {}
            }
        }
        self.look_up(out);
    }
}

/// Answers that the log's progress brings.
impl VdiskCore {
    fn commit(&mut self, upto: Offset, out: &mut Vec<Effect>) {
        self.committed = self.committed.max(upto).min(self.end);
        let later = self.unanswered.split_off(&(self.committed, 0));
        let due = std::mem::replace(&mut self.unanswered, later);
        let Some(Writer { connection, waits: None, .. }) = self.writer else { return };
        let mut due: Vec<(u64, u64)> =
            due.into_iter().map(|((_, arrival), sequence)| (arrival, sequence)).collect();
        due.sort_unstable();
        out.extend(due.into_iter().map(|(_, sequence)| Effect::Answer {
            connection,
            answer: Answer::Received(sequence),
        }));
    }

    fn tell(&mut self, out: &mut Vec<Effect>) {
        // A client that attaches is told once it is attached.
        if self.writer.is_some_and(|writer| writer.waits.is_some()) {
            return;
        }
        let mut lists = Vec::new();
        self.list(&mut lists);
        let Some(Writer { connection, .. }) = self.writer else { return };
        let answers = lists.into_iter().map(Answer::Flushed);
        out.extend(answers.map(|answer| Effect::Answer { connection, answer }));
    }

    fn list(&mut self, lists: &mut Vec<Vec<u64>>) {
        let shipped = self.shipped.min(self.committed);
        let Some(run) = self.run else { return };
        while let Some((first, end)) = self.boundaries.next_list(shipped) {
            lists.push((first..end).map(|offset| run.sequence_at(offset)).collect());
        }
    }

    fn ask_to_ship(&mut self, out: &mut Vec<Effect>) {
        let upto = self.boundaries.open_from();
        if upto > self.asked_to_ship {
            self.asked_to_ship = upto;
            out.push(Effect::RequestShip { upto });
        }
    }

    fn ask_to_wake(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let attach = self.writer.and_then(|writer| writer.waits).map(|wait| wait.deadline);
        let takeover = self.waiting.and(self.next_takeover);
        let next = [self.boundaries.deadline(), attach, takeover].into_iter().flatten().min();
        if self.wake_at.is_some_and(|wake_at| wake_at <= now) {
            self.wake_at = None;
        }
        if next != self.wake_at {
            self.wake_at = next;
            out.extend(next.map(Effect::WakeAt));
        }
    }
}

#[cfg(test)]
mod tests;
