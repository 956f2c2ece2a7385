//! What a server may still lose: the blocks of one vdisk that are sent or waiting, until they are flushed. No IO, no clock.
//!
//! ```text
//!  push -> queued -> take_next -> sent -> received(s) -> received -> flushed(s) -> gone
//!            ^                     │                        │
//!            ├── no answer in time ┘                        │
//!            └────────────── reattached (a new connection) ─┘
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::record::vdisk::Block;

/// How much may be unflushed at a time. At least one block is always taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Blocks.
    pub blocks: usize,
    /// Bytes of data in them.
    pub bytes: usize,
}

impl Default for Window {
    /// 16,384 blocks or 64 MiB: a second of a fast disk, and some hundred fragments under way.
    fn default() -> Self {
        Self { blocks: 16 * 1024, bytes: 64 * 1024 * 1024 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    /// With the time by which it must be received.
    Sent(Instant),
    Received,
}

/// See the module page. Sequences rise by one from [`ResendBuffer::new`]'s first.
#[derive(Debug)]
pub struct ResendBuffer {
    window: Window,
    resend_after: Duration,
    blocks: BTreeMap<u64, (Block, State)>,
    bytes: usize,
    queued: BTreeSet<u64>,
    /// Deadlines of sent blocks in order of sending; one that its block does not have any more is stale.
    deadlines: VecDeque<(Instant, u64)>,
    last_pushed: u64,
    last_flushed: u64,
}

impl ResendBuffer {
    /// An empty one of a log whose sequences up to `last_flushed` are flushed. A block that is not received within
    /// `resend_after` is sent again.
    #[must_use]
    pub fn new(last_flushed: u64, window: Window, resend_after: Duration) -> Self {
        Self {
            window,
            resend_after,
            blocks: BTreeMap::new(),
            bytes: 0,
            queued: BTreeSet::new(),
            deadlines: VecDeque::new(),
            last_pushed: last_flushed,
            last_flushed,
        }
    }

    /// Whether another block may be pushed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.blocks.is_empty()
            || self.blocks.len() < self.window.blocks && self.bytes < self.window.bytes
    }

    /// Takes a block in. Its sequence is one above the last one's.
    ///
    /// # Panics
    /// When it is not.
    pub fn push(&mut self, block: Block) {
        assert_eq!(block.sequence, self.last_pushed + 1, "sequences rise by one");
        self.last_pushed = block.sequence;
        self.bytes += block.data.len();
        self.queued.insert(block.sequence);
        self.blocks.insert(block.sequence, (block, State::Queued));
    }

    /// The lowest block that is to be sent now, which then counts as sent.
    pub fn take_next(&mut self, now: Instant) -> Option<&Block> {
        let sequence = self.queued.pop_first()?;
        let deadline = now + self.resend_after;
        let (block, state) = self.blocks.get_mut(&sequence)?;
        *state = State::Sent(deadline);
        self.deadlines.push_back((deadline, sequence));
        Some(block)
    }

    /// The sequence that [`ResendBuffer::take_next`] would give.
    #[must_use]
    pub fn next_queued(&self) -> Option<u64> {
        self.queued.first().copied()
    }

    /// The server has made this block durable.
    pub fn received(&mut self, sequence: u64) {
        if let Some((_, state)) = self.blocks.get_mut(&sequence) {
            *state = State::Received;
            self.queued.remove(&sequence);
        }
    }

    /// These blocks are on the shard servers. Unknown ones are left alone.
    pub fn flushed(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            if let Some((block, _)) = self.blocks.remove(sequence) {
                self.bytes -= block.data.len();
                self.queued.remove(sequence);
            }
        }
        // Only as far as nothing below is missing: a server that skips one does not make it flushed.
        let below_first = self.blocks.first_key_value().map(|(first, _)| first - 1);
        self.last_flushed = below_first.unwrap_or(self.last_pushed);
    }

    /// A new connection: the server has flushed everything up to `last_flushed`; all else is to be sent again, in order.
    /// Returns the sequences that are known to be flushed only now.
    pub fn reattached(&mut self, last_flushed: u64) -> Vec<u64> {
        let flushed: Vec<u64> = self.blocks.range(..=last_flushed).map(|(s, _)| *s).collect();
        self.flushed(&flushed);
        self.deadlines.clear();
        for (sequence, (_, state)) in &mut self.blocks {
            *state = State::Queued;
            self.queued.insert(*sequence);
        }
        flushed
    }

    /// When a sent block will be due for sending again, if none is received before.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        while let Some((deadline, sequence)) = self.deadlines.front() {
            let stands = self.blocks.get(sequence).map(|(_, state)| *state);
            if stands == Some(State::Sent(*deadline)) {
                return Some(*deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Queues again what was sent and not received in time.
    pub fn expire(&mut self, now: Instant) {
        while let Some(deadline) = self.next_deadline().filter(|deadline| *deadline <= now) {
            let Some((_, sequence)) = self.deadlines.pop_front() else { return };
            if let Some((_, state)) = self.blocks.get_mut(&sequence) {
                debug_assert_eq!(*state, State::Sent(deadline), "next_deadline drops stale ones");
                *state = State::Queued;
                self.queued.insert(sequence);
            }
        }
    }

    /// Everything up to here is on the shard servers.
    #[must_use]
    pub fn last_flushed(&self) -> u64 {
        self.last_flushed
    }

    /// The last sequence taken in, or flushed before the first.
    #[must_use]
    pub fn last_pushed(&self) -> u64 {
        self.last_pushed
    }

    /// Blocks held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether all is flushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether a sent block still waits to be received.
    pub fn awaits_received(&mut self) -> bool {
        self.next_deadline().is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::record::vdisk::{OPERATION_WRITE, Place};

    const AFTER: Duration = Duration::from_secs(2);

    fn block(sequence: u64, bytes: usize) -> Block {
        Block {
            sequence,
            place: Place::Index(0),
            operation: OPERATION_WRITE,
            hash: [0; 32],
            timestamp: 0,
            data: Bytes::from(vec![0; bytes]),
        }
    }

    fn drain(buffer: &mut ResendBuffer, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| buffer.take_next(now).map(|block| block.sequence)).collect()
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push,
        Take,
        Received(u64),
        FlushedUpto(u64),
        Reattached(u64),
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Push),
            4 => Just(Event::Take),
            3 => (1..30_u64).prop_map(Event::Received),
            1 => (1..30_u64).prop_map(Event::FlushedUpto),
            1 => (0..30_u64).prop_map(Event::Reattached),
            2 => (0..3000_u64).prop_map(Event::Wait),
        ]
    }

    /// Per unflushed sequence: since when it is sent, or none; and whether it was received.
    type Model = BTreeMap<u64, (Option<Instant>, bool)>;

    proptest! {
        #[test]
        fn behaves_as_a_plain_model(events in prop::collection::vec(event(), 1..150)) {
            let mut buffer = ResendBuffer::new(3, Window { blocks: 8, bytes: 800 }, AFTER);
            let (mut model, mut pushed, mut flushed) = (Model::new(), 3_u64, 3_u64);
            let mut now = Instant::now();
            for event in events {
                match event {
                    Event::Push if buffer.has_room() => {
                        pushed += 1;
                        buffer.push(block(pushed, 100));
                        model.insert(pushed, (None, false));
                    }
                    Event::Push => prop_assert_eq!(model.len(), 8),
                    Event::Take => {
                        let taken = buffer.take_next(now).map(|block| block.sequence);
                        let due = model.iter().find(|(_, (sent, received))| sent.is_none() && !received);
                        prop_assert_eq!(taken, due.map(|(sequence, _)| *sequence));
                        if let Some(sequence) = taken {
                            model.insert(sequence, (Some(now), false));
                        }
                    }
                    Event::Received(sequence) => {
                        buffer.received(sequence);
                        if let Some((_, received)) = model.get_mut(&sequence) {
                            *received = true;
                        }
                    }
                    Event::FlushedUpto(upto) => {
                        let upto = upto.min(pushed);
                        buffer.flushed(&(flushed + 1..=upto).collect::<Vec<_>>());
                        flushed = flushed.max(upto);
                        model.retain(|sequence, _| *sequence > flushed);
                    }
                    Event::Reattached(reported) => {
                        let reported = reported.clamp(flushed, pushed);
                        let news = buffer.reattached(reported);
                        prop_assert_eq!(news, (flushed + 1..=reported).collect::<Vec<_>>());
                        flushed = reported;
                        model.retain(|sequence, _| *sequence > flushed);
                        model.values_mut().for_each(|state| *state = (None, false));
                    }
                    Event::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        buffer.expire(now);
                        for (sent, received) in model.values_mut() {
                            if !*received && sent.is_some_and(|at| at + AFTER <= now) {
                                *sent = None;
                            }
                        }
                    }
                }
                prop_assert_eq!(buffer.last_flushed(), flushed);
                prop_assert_eq!(buffer.len(), model.len());
                let waits = model.values().filter(|(_, received)| !received).filter_map(|(sent, _)| *sent);
                prop_assert_eq!(buffer.next_deadline(), waits.min().map(|at| at + AFTER));
            }
        }
    }

    #[test]
    fn one_block_fits_whatever_its_size_and_bytes_close_the_window() {
        let mut buffer = ResendBuffer::new(0, Window { blocks: 10, bytes: 100 }, AFTER);
        assert!(buffer.has_room());
        buffer.push(block(1, 1000));
        assert!(!buffer.has_room());
        buffer.flushed(&[1]);
        assert!(buffer.has_room());
    }

    #[test]
    fn a_skipped_sequence_is_not_flushed() {
        let now = Instant::now();
        let mut buffer = ResendBuffer::new(0, Window::default(), AFTER);
        (1..=3).for_each(|sequence| buffer.push(block(sequence, 1)));
        drain(&mut buffer, now);
        buffer.flushed(&[1, 3]);
        assert_eq!(buffer.last_flushed(), 1);
        assert_eq!(buffer.reattached(1), [0_u64; 0]);
        assert_eq!(drain(&mut buffer, now), [2]);
    }

    #[test]
    fn a_received_block_is_not_sent_again_by_time_but_on_a_new_connection() {
        let now = Instant::now();
        let mut buffer = ResendBuffer::new(0, Window::default(), AFTER);
        (1..=3).for_each(|sequence| buffer.push(block(sequence, 1)));
        assert_eq!(drain(&mut buffer, now), [1, 2, 3]);
        buffer.received(2);
        buffer.expire(now + AFTER);
        assert_eq!(drain(&mut buffer, now + AFTER), [1, 3]);
        buffer.reattached(0);
        assert_eq!(drain(&mut buffer, now), [1, 2, 3]);
    }
}
