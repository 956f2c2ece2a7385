use super::*;
use crate::record::vdisk::Place;
use crate::record::vdisk::PlaceError;

mod model;

/// The core over a log in memory that commits and ships at once, unless told otherwise.
struct Rig {
    core: VdiskCore,
    start: Instant,
    now: Instant,
    first: Offset,
    log: Vec<Block>,
    batches: Vec<(Offset, usize)>,
    runs: Vec<Run>,
    answers: Vec<(ConnectionId, Answer)>,
    attached: Vec<(ConnectionId, u64)>,
    refused: Vec<(ConnectionId, Refusal)>,
    closed: Vec<(ConnectionId, CloseReason)>,
    block_size: Option<u64>,
    ship_to: Offset,
    lookup: Option<Offset>,
    wake_at: Option<Instant>,
    commits: bool,
    ships: bool,
}

fn config(flush_size: usize) -> Config {
    Config { flush_size, flush_time: Duration::from_secs(25), default_block_size: 4096 }
}

fn block(sequence: u64, content: u8) -> Block {
    Block {
        sequence,
        place: Place::Bytes { offset: sequence * 512, size: 512 },
        operation: 1,
        hash: [content; 32],
        timestamp: 0,
        data: vec![content; 512].into(),
    }
}

fn by_first(first_sequence: u64) -> Attachment {
    Attachment::FirstSequence { first_sequence, reset: false }
}

fn reset_to(first_sequence: u64) -> Attachment {
    Attachment::FirstSequence { first_sequence, reset: true }
}

impl Rig {
    fn new(flush_size: usize) -> Self {
        let state = VdiskState { run: None, end: 1, shipped: 1, block_size: None };
        let start = Instant::now();
        Self {
            core: VdiskCore::new(config(flush_size), state, HeldBudget::new(1 << 20)),
            start,
            now: start,
            first: 1,
            log: Vec::new(),
            batches: Vec::new(),
            runs: Vec::new(),
            answers: Vec::new(),
            attached: Vec::new(),
            refused: Vec::new(),
            closed: Vec::new(),
            block_size: None,
            ship_to: 1,
            lookup: None,
            wake_at: None,
            commits: true,
            ships: true,
        }
    }

    fn end(&self) -> Offset {
        self.first + self.log.len() as i64
    }

    fn event(&mut self, event: Event) {
        for effect in self.core.handle(event, self.now) {
            self.apply(effect);
        }
        if self.commits && self.core.committed() < self.end() && !self.core.failed {
            let upto = self.end();
            self.event(Event::Committed { upto });
        }
        let shippable = self.ship_to.min(self.core.committed());
        if self.ships && self.core.shipped < shippable {
            self.event(Event::Shipped { upto: shippable });
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Attached { connection, last_flushed } => {
                self.attached.push((connection, last_flushed));
            }
            Effect::Refused { connection, refusal } => self.refused.push((connection, refusal)),
            Effect::Answer { connection, answer } => self.answers.push((connection, answer)),
            Effect::Close { connection, reason } => self.closed.push((connection, reason)),
            Effect::StartRun { first_sequence } => {
                self.runs.push(Run { first_offset: self.end(), first_sequence });
            }
            Effect::SetBlockSize { bytes } => {
                assert_eq!(self.block_size.replace(bytes), None, "set once");
            }
            Effect::Append { first_offset, blocks, block_size } => {
                assert_eq!(first_offset, self.end(), "contiguous");
                assert_eq!(Some(block_size), self.block_size);
                let run = self.runs.last().expect("a run is begun before its first block");
                for (offset, block) in (first_offset..).zip(&blocks) {
                    assert_eq!(block.sequence, run.sequence_at(offset), "in order");
                }
                self.batches.push((first_offset, blocks.len()));
                self.log.extend(blocks);
            }
            Effect::RequestShip { upto } => {
                assert!(upto > self.ship_to && upto <= self.end());
                self.ship_to = upto;
            }
            Effect::LookupHashes { offset } => {
                assert_eq!(self.lookup.replace(offset), None, "one at a time");
            }
            Effect::WakeAt(at) => self.wake_at = Some(at),
        }
    }

    fn attach(&mut self, connection: ConnectionId, attachment: Attachment) {
        self.event(Event::Attach { connection, attachment });
    }

    fn send(&mut self, connection: ConnectionId, sequences: &[u64]) {
        let blocks = sequences.iter().map(|sequence| block(*sequence, *sequence as u8)).collect();
        self.event(Event::Blocks { connection, blocks });
    }

    fn force_flush(&mut self, connection: ConnectionId, sequence: u64) {
        self.event(Event::ForceFlush { connection, sequence });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.event(Event::Tick);
    }

    /// Another process over the same log, without what was not committed.
    fn restart(&mut self) {
        let kept = self.core.committed() - self.first;
        self.log.truncate(kept as usize);
        self.batches.retain(|(first, _)| *first < self.core.committed());
        let end = self.end();
        self.runs.retain(|run| run.first_offset <= end);
        if self.log.is_empty() {
            self.block_size = None;
        }
        let state = VdiskState {
            run: self.runs.last().copied(),
            end: self.end(),
            shipped: self.core.shipped,
            block_size: self.block_size,
        };
        let config = self.core.config;
        self.core = VdiskCore::new(config, state, HeldBudget::new(1 << 20));
        self.lookup = None;
        self.ship_to = self.core.shipped;
        self.event(Event::Tick);
    }

    /// Answers the lookup under way with the records of the batch that holds it.
    fn look_up(&mut self) {
        let asked = self.lookup.take().expect("a lookup is under way");
        let (first_offset, count) = *self
            .batches
            .iter()
            .find(|(first, count)| (*first..*first + *count as i64).contains(&asked))
            .unwrap();
        let from = (first_offset - self.first) as usize;
        let blocks = self.log[from..].iter().take(count);
        let hashes = (first_offset..).zip(blocks.map(|block| block.hash)).collect();
        let next_offset = first_offset + count as i64;
        self.event(Event::Hashes(Lookup::Found { first_offset, next_offset, hashes }));
    }

    fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers).into_iter().map(|(_, answer)| answer).collect()
    }
}

fn received(sequences: &[u64]) -> Vec<Answer> {
    sequences.iter().map(|sequence| Answer::Received(*sequence)).collect()
}

fn flushed(range: std::ops::Range<u64>) -> Answer {
    Answer::Flushed(range.collect())
}

#[test]
fn received_waits_for_the_commit_and_flushed_for_shipping() {
    let mut rig = Rig::new(2);
    (rig.commits, rig.ships) = (false, false);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 1]);
    assert_eq!(rig.take_answers(), []);
    rig.event(Event::Committed { upto: 2 });
    assert_eq!(rig.take_answers(), received(&[0]));
    rig.event(Event::Shipped { upto: 3 });
    assert_eq!(rig.take_answers(), [], "shipped is believed up to what is committed");
    rig.event(Event::Committed { upto: 3 });
    assert_eq!(rig.take_answers(), [Answer::Received(1), flushed(0..2)]);
}

#[test]
fn a_gap_is_held_and_answers_leave_in_order_of_arrival() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &[2]);
    rig.send(1, &[1]);
    assert_eq!(rig.take_answers(), []);
    rig.send(1, &[0]);
    assert_eq!(rig.take_answers(), received(&[2, 1, 0]));
    assert_eq!(rig.batches, [(1, 3)]);
}

#[test]
fn the_newer_family_ignores_a_gap() {
    let mut rig = Rig::new(25);
    rig.attach(1, Attachment::LastFlushed);
    rig.send(1, &[2, 1]);
    assert_eq!(rig.take_answers(), received(&[1]));
    rig.send(1, &[2]);
    assert_eq!(rig.take_answers(), received(&[2]));
}

#[test]
fn a_batch_ends_at_every_boundary_and_lists_are_as_long_as_flush_size() {
    let mut rig = Rig::new(3);
    rig.attach(1, by_first(10));
    rig.force_flush(1, 11);
    rig.force_flush(1, 15);
    rig.send(1, &(10..18).collect::<Vec<_>>());
    assert_eq!(rig.batches, [(1, 2), (3, 3), (6, 1), (7, 2)]);
    let lists: Vec<Answer> = rig
        .take_answers()
        .into_iter()
        .filter(|answer| matches!(answer, Answer::Flushed(_)))
        .collect();
    assert_eq!(lists, [flushed(10..12), flushed(12..15), flushed(15..16)]);
}

#[test]
fn a_force_flush_of_what_is_there_flushes_all_and_of_nothing_only_answers() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 1, 2]);
    rig.take_answers();
    rig.force_flush(1, 1);
    assert_eq!(rig.take_answers(), [Answer::ForceFlushReceived, flushed(0..3)]);
    rig.force_flush(1, 2);
    assert_eq!(rig.take_answers(), [Answer::ForceFlushReceived]);
}

#[test]
fn the_open_list_is_flushed_at_its_age_and_not_later_for_others() {
    let mut rig = Rig::new(4);
    rig.attach(1, by_first(0));
    rig.send(1, &[0]);
    assert_eq!(rig.wake_at, Some(rig.start + Duration::from_secs(25)));
    rig.pass(Duration::from_secs(20));
    rig.send(1, &[1]);
    rig.take_answers();
    rig.pass(Duration::from_secs(5));
    assert_eq!(rig.take_answers(), [flushed(0..2)]);
    rig.send(1, &[2]);
    assert_eq!(rig.wake_at, Some(rig.start + Duration::from_secs(50)));
}

#[test]
fn duplicates_are_answered_by_family() {
    for (attachment, first) in [(by_first(0), 0), (Attachment::LastFlushed, 1)] {
        let mut rig = Rig::new(2);
        rig.attach(1, attachment);
        rig.send(1, &[first, first + 1, first + 2]);
        rig.take_answers();
        rig.send(1, &[first + 2]);
        assert_eq!(rig.take_answers(), received(&[first + 2]), "not shipped: received alone");
        rig.send(1, &[first]);
        let mut expected = received(&[first]);
        if first == 0 {
            expected.push(flushed(0..1));
        }
        assert_eq!(rig.take_answers(), expected);
    }
}

#[test]
fn a_duplicate_of_what_is_not_committed_waits_for_the_commit() {
    let mut rig = Rig::new(25);
    rig.commits = false;
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 0]);
    assert_eq!(rig.take_answers(), []);
    rig.event(Event::Committed { upto: 2 });
    assert_eq!(rig.take_answers(), received(&[0, 0]));
}

#[test]
fn the_same_sequence_with_other_content_ends_the_connection() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 5]);
    rig.take_answers();
    let other = |sequence| Event::Blocks { connection: 1, blocks: vec![block(sequence, 99)] };
    rig.event(other(5));
    assert_eq!(rig.closed, [(1, CloseReason::Conflict { sequence: 5 })], "also while it is held");
    rig.attach(2, by_first(1));
    rig.event(Event::Blocks {
        connection: 2,
        blocks: vec![block(1, 1), block(0, 99), block(2, 2)],
    });
    assert_eq!(rig.closed[1], (2, CloseReason::Conflict { sequence: 0 }));
    assert_eq!(rig.log.len(), 2, "what came before is stored, what came after is not");
}

#[test]
fn old_duplicates_are_compared_with_the_log() {
    let mut rig = Rig::new(3);
    rig.attach(1, by_first(0));
    rig.send(1, &(0..9).collect::<Vec<_>>());
    rig.restart();
    rig.attach(2, by_first(9));
    rig.take_answers();
    rig.send(2, &[1, 5, 2]);
    assert_eq!(rig.take_answers(), []);
    rig.look_up();
    let mut expected = received(&[1]);
    expected.extend([flushed(1..2), Answer::Received(2), flushed(2..3)]);
    assert_eq!(rig.take_answers(), expected, "one lookup serves all of its batch");
    rig.look_up();
    assert_eq!(rig.take_answers(), [Answer::Received(5), flushed(5..6)]);

    rig.event(Event::Blocks { connection: 2, blocks: vec![block(7, 99)] });
    rig.look_up();
    assert_eq!(rig.closed, [(2, CloseReason::Conflict { sequence: 7 })]);
}

#[test]
fn what_retention_took_is_a_duplicate_and_what_cannot_be_read_is_not_answered() {
    let mut rig = Rig::new(3);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 1, 2]);
    rig.restart();
    rig.attach(2, by_first(3));
    rig.take_answers();
    rig.send(2, &[0, 1]);
    rig.lookup = None;
    rig.event(Event::Hashes(Lookup::Failed));
    assert_eq!(rig.take_answers(), []);
    assert_eq!(rig.lookup.take(), Some(2));
    rig.event(Event::Hashes(Lookup::Gone));
    assert_eq!(rig.take_answers(), [Answer::Received(1), flushed(1..2)]);
}

#[test]
fn what_compaction_took_is_a_duplicate_and_its_neighbours_are_still_compared() {
    let mut rig = Rig::new(3);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 1, 2]);
    rig.restart();
    rig.attach(2, by_first(3));
    rig.take_answers();
    rig.send(2, &[0, 1]);
    // Sequence 0 is at offset 1 and gone; what is left of its batch has another hash than its own.
    let hashes = vec![(2, rig.log[1].hash), (3, [0; 32])];
    rig.lookup = None;
    rig.event(Event::Hashes(Lookup::Found { first_offset: 1, next_offset: 4, hashes }));
    let duplicates = [Answer::Received(0), flushed(0..1), Answer::Received(1), flushed(1..2)];
    assert_eq!(rig.take_answers(), duplicates);
}

#[test]
fn a_reset_ships_all_tells_the_new_session_and_begins_a_run() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &(0..30).collect::<Vec<_>>());
    rig.event(Event::Detach { connection: 1 });
    rig.take_answers();
    rig.ships = false;
    rig.attach(2, reset_to(0));
    assert_eq!(rig.attached.len(), 1, "answered when all is shipped");
    rig.ships = true;
    rig.event(Event::Tick);
    assert_eq!(rig.attached[1], (2, 0));
    assert_eq!(rig.take_answers(), [flushed(25..30)]);
    rig.send(2, &(0..25).collect::<Vec<_>>());
    assert_eq!(rig.take_answers().last(), Some(&flushed(0..25)));
    let first = |run: &Run| (run.first_offset, run.first_sequence.0);
    assert_eq!(rig.runs.iter().map(first).collect::<Vec<_>>(), [(1, 0), (31, 0)]);
}

#[test]
fn a_reset_to_the_next_sequence_begins_no_run() {
    let mut rig = Rig::new(25);
    rig.attach(1, reset_to(0));
    rig.send(1, &[0, 1]);
    rig.attach(2, reset_to(2));
    rig.send(2, &[2]);
    assert_eq!(rig.runs.len(), 1);
}

#[test]
fn a_first_sequence_above_the_next_begins_a_run_there_and_one_below_changes_nothing() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 1, 2]);
    rig.event(Event::Detach { connection: 1 });
    rig.attach(2, by_first(2));
    rig.send(2, &[3]);
    assert_eq!(rig.runs.len(), 1);
    rig.event(Event::Detach { connection: 2 });
    rig.attach(3, by_first(100));
    rig.take_answers();
    rig.send(3, &[100, 101]);
    rig.force_flush(3, 101);
    assert_eq!(rig.runs[1], Run { first_offset: 5, first_sequence: Sequence(100) });
    assert_eq!(
        rig.take_answers(),
        [
            Answer::Received(100),
            Answer::Received(101),
            Answer::ForceFlushReceived,
            flushed(100..102)
        ]
    );
}

#[test]
fn a_client_that_reconnects_before_its_first_flush_loses_nothing() {
    // It began at 0 and names 1, last flushed + 1, at the reconnect.
    for early in [&[][..], &[0, 1]] {
        let mut rig = Rig::new(25);
        rig.attach(1, by_first(0));
        rig.send(1, early);
        rig.event(Event::Detach { connection: 1 });
        rig.take_answers();
        rig.attach(2, by_first(1));
        rig.send(2, &[0, 1, 2]);
        assert_eq!(rig.take_answers(), received(&[0, 1, 2]));
        assert_eq!(rig.runs, [Run { first_offset: 1, first_sequence: Sequence(0) }]);
    }
    // After a reset the run is known to the log, so a restart between does no harm either.
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &(0..50).collect::<Vec<_>>());
    rig.attach(2, reset_to(0));
    rig.restart();
    rig.attach(3, by_first(1));
    rig.take_answers();
    rig.send(3, &[0, 1]);
    assert_eq!(rig.take_answers(), received(&[0, 1]));
}

#[test]
fn blocks_before_the_run_are_never_acknowledged() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(10));
    rig.send(1, &[10, 9]);
    assert_eq!(rig.take_answers(), []);
    assert_eq!(rig.closed, [(1, CloseReason::BeforeRun { sequence: 9 })]);
}

#[test]
fn the_newer_family_is_told_that_sequence_zero_is_received() {
    let mut rig = Rig::new(25);
    rig.attach(1, Attachment::LastFlushed);
    rig.send(1, &[0, 1, 2]);
    rig.force_flush(1, 2);
    let mut expected = received(&[0, 1, 2]);
    expected.extend([Answer::ForceFlushReceived, flushed(1..3)]);
    assert_eq!(rig.take_answers(), expected);
}

#[test]
fn the_newer_family_is_told_the_last_sequence_once_all_is_shipped() {
    let mut rig = Rig::new(25);
    rig.attach(1, Attachment::LastFlushed);
    assert_eq!(rig.attached, [(1, 0)]);
    rig.send(1, &[1, 2, 3, 4, 5]);
    rig.event(Event::Detach { connection: 1 });
    rig.ships = false;
    rig.take_answers();
    rig.attach(2, Attachment::LastFlushed);
    assert_eq!(rig.attached.len(), 1);
    rig.send(2, &[6]);
    assert_eq!(rig.log.len(), 5, "nothing is taken before the handshake is answered");
    rig.ships = true;
    rig.event(Event::Tick);
    assert_eq!(rig.attached[1], (2, 5));
    assert_eq!(rig.take_answers(), [], "what the handshake reported is not listed again");
    rig.restart();
    rig.attach(3, Attachment::LastFlushed);
    assert_eq!(rig.attached[2], (3, 5));
}

#[test]
fn an_attach_that_cannot_ship_is_refused_after_its_wait() {
    let mut rig = Rig::new(25);
    rig.attach(1, Attachment::LastFlushed);
    rig.send(1, &[1]);
    rig.event(Event::Detach { connection: 1 });
    rig.ships = false;
    rig.attach(2, Attachment::LastFlushed);
    assert_eq!(rig.wake_at, Some(rig.start + ATTACH_WAIT));
    rig.pass(Duration::from_secs(29));
    assert_eq!(rig.refused, []);
    rig.attach(3, Attachment::LastFlushed);
    assert_eq!(rig.refused, [(3, Refusal::Busy)]);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.refused[1], (2, Refusal::NotShipped));
    rig.attach(4, by_first(2));
    assert_eq!(rig.attached[1], (4, 0), "the place is free");
}

#[test]
fn the_newest_of_the_older_family_wins_once_a_second_and_the_newer_family_is_refused() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.attach(2, by_first(0));
    assert_eq!(rig.closed, [(1, CloseReason::Superseded)]);
    rig.attach(3, by_first(0));
    rig.attach(4, by_first(0));
    assert_eq!(rig.refused, [(3, Refusal::Superseded)], "the newest waits alone");
    rig.attach(5, Attachment::LastFlushed);
    assert_eq!(rig.refused[1], (5, Refusal::Busy));
    assert_eq!(rig.attached.len(), 2);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.closed[1], (2, CloseReason::Superseded));
    assert_eq!(rig.attached[2], (4, 0));
    rig.attach(6, by_first(0));
    rig.event(Event::Detach { connection: 4 });
    assert_eq!(rig.attached[3], (6, 0), "a free place needs no pause");
}

#[test]
fn events_of_connections_that_were_closed_change_nothing() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.attach(2, by_first(0));
    rig.send(1, &[0]);
    rig.force_flush(1, 0);
    rig.event(Event::WaitSlaveSync { connection: 1 });
    rig.event(Event::Detach { connection: 1 });
    assert!(rig.log.is_empty() && rig.answers.is_empty());
    rig.send(2, &[0]);
    assert_eq!(rig.take_answers(), received(&[0]));
}

#[test]
fn a_partition_that_takes_nothing_fails_its_client_and_every_later_one() {
    let mut rig = Rig::new(25);
    rig.commits = false;
    rig.attach(1, by_first(0));
    rig.send(1, &[0]);
    rig.event(Event::AppendFailed);
    assert_eq!(rig.take_answers(), [Answer::FlushFailed]);
    assert_eq!(rig.closed, [(1, CloseReason::Failed)]);
    rig.attach(2, by_first(0));
    assert_eq!(rig.refused, [(2, Refusal::Failed)]);
}

#[test]
fn the_first_block_fixes_the_block_size() {
    for (bytes, size) in [(512, 512), (8192, 8192), (256, 4096), (5000, 4096), (0, 4096)] {
        let mut rig = Rig::new(25);
        rig.attach(1, by_first(0));
        let data = vec![0; bytes].into();
        rig.event(Event::Blocks { connection: 1, blocks: vec![Block { data, ..block(0, 0) }] });
        rig.send(1, &[1]);
        assert_eq!(rig.block_size, Some(size));
    }
}

#[test]
fn blocks_that_lie_nowhere_or_fit_nowhere_end_the_connection() {
    let refused = |bad: Block| {
        let mut rig = Rig::new(25);
        rig.attach(1, by_first(0));
        rig.event(Event::Blocks { connection: 1, blocks: vec![bad] });
        assert!(rig.answers.is_empty() && rig.log.is_empty());
        rig.closed[0].1
    };
    let why = PlaceError::NegativeIndex { index: -1 };
    assert_eq!(
        refused(Block { place: Place::Index(-1), ..block(0, 0) }),
        CloseReason::Place { sequence: 0, why }
    );
    let bytes = VDISK_BLOCK_BYTES + 1;
    let long = Block { data: vec![0; bytes].into(), ..block(0, 0) };
    assert_eq!(refused(long), CloseReason::TooLong { sequence: 0, bytes });
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(VDISK_FIRST_SEQUENCE + 1));
    assert_eq!(rig.refused, [(1, Refusal::FirstSequence)]);
}

#[test]
fn what_is_unshipped_at_a_start_is_asked_for_at_once() {
    let mut rig = Rig::new(25);
    rig.attach(1, by_first(0));
    rig.send(1, &[0, 1, 2]);
    assert_eq!(rig.ship_to, 1);
    rig.restart();
    assert_eq!(rig.ship_to, 4);
    assert!(rig.core.is_idle());
}
