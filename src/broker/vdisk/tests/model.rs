//! Random schedules against what a client may believe.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What one step of a schedule does. Numbers are taken modulo what makes sense at that point.
#[derive(Debug, Clone)]
enum Step {
    /// Send the next new blocks, some of them swapped, some twice.
    Send {
        count: usize,
        swap: usize,
        repeat: bool,
    },
    /// Lose one block on its way, then go on.
    Lose,
    /// Send everything unflushed again, as clients do after 2 s or a reconnect.
    Resend,
    ForceFlush,
    Reconnect,
    Reset,
    Restart,
    Commit(usize),
    Ship(usize),
    LookUp,
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..8_usize, 0..8_usize, any::<bool>())
            .prop_map(|(count, swap, repeat)| Step::Send { count, swap, repeat }),
        1 => Just(Step::Lose),
        2 => Just(Step::Resend),
        2 => Just(Step::ForceFlush),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Reset),
        1 => Just(Step::Restart),
        4 => (1..10_usize).prop_map(Step::Commit),
        3 => (1..10_usize).prop_map(Step::Ship),
        2 => Just(Step::LookUp),
        1 => (1..30_u64).prop_map(Step::Time),
    ]
}

/// A client of either family and everything it was told.
struct Client {
    old: bool,
    connection: ConnectionId,
    attached: bool,
    next: u64,
    /// Unflushed blocks: sequence to content.
    unflushed: BTreeMap<u64, u8>,
    received: BTreeSet<u64>,
    last_flushed: Option<u64>,
    /// Every block ever numbered in this run: what the log may hold.
    sent: BTreeMap<u64, u8>,
    content: u8,
    answers_seen: usize,
    attached_seen: usize,
}

impl Client {
    fn attach(&mut self, rig: &mut Rig, reset: bool) {
        rig.event(Event::Detach { connection: self.connection });
        self.connection += 1;
        self.attached = false;
        let attachment = if self.old {
            // As the original's client: after a reset from its own start, else last flushed + 1.
            let first_sequence = if reset { 0 } else { self.last_flushed.unwrap_or(0) + 1 };
            Attachment::FirstSequence { first_sequence, reset }
        } else {
            Attachment::LastFlushed
        };
        rig.attach(self.connection, attachment);
    }

    /// Whether the server can know where this client is: one of the old family names 1 when it reconnects before its first
    /// flush, whatever it began with, so its first block decides.
    fn is_placed(&self) -> bool {
        !self.old || !self.received.is_empty()
    }

    fn send(&mut self, rig: &mut Rig, sequences: &[u64]) {
        let blocks = sequences
            .iter()
            .filter_map(|sequence| Some(block(*sequence, *self.sent.get(sequence)?)))
            .collect();
        rig.event(Event::Blocks { connection: self.connection, blocks });
    }

    fn number(&mut self, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let sequence = self.next;
                self.next += 1;
                self.content = self.content.wrapping_add(1);
                self.unflushed.insert(sequence, self.content);
                self.sent.insert(sequence, self.content);
                sequence
            })
            .collect()
    }

    /// Takes in what came, and checks it against the log.
    fn read(&mut self, rig: &mut Rig) {
        let mut resend = false;
        for (connection, last_flushed) in rig.attached.split_off(self.attached_seen) {
            assert_eq!(connection, self.connection);
            self.attached = true;
            resend = true;
            if !self.old {
                let run = rig.runs.last();
                let last = run.map_or(0, |run| run.sequence_at(rig.end()) - 1);
                assert_eq!(last_flushed, last, "everything received was shipped");
                self.unflushed.retain(|sequence, _| *sequence > last_flushed);
                self.last_flushed = Some(last_flushed);
            }
        }
        for (connection, answer) in rig.answers.split_off(self.answers_seen) {
            assert_eq!(connection, self.connection);
            match answer {
                Answer::Received(sequence) => {
                    let run = rig.runs.last().unwrap();
                    let offset = run.offset_of(sequence).unwrap();
                    assert!(offset < rig.core.committed, "received before it is durable");
                    let stored = &rig.log[(offset - rig.first) as usize];
                    assert_eq!(stored.hash, [self.sent[&sequence]; 32], "other content");
                    self.received.insert(sequence);
                }
                Answer::Flushed(sequences) => {
                    assert!(!sequences.is_empty() && sequences.len() <= 4);
                    for pair in sequences.windows(2) {
                        assert_eq!(pair[0] + 1, pair[1]);
                    }
                    for sequence in sequences {
                        let run = rig.runs.last().unwrap();
                        let offset = run.offset_of(sequence).unwrap();
                        assert!(offset < rig.core.shipped, "flushed before it is shipped");
                        self.unflushed.remove(&sequence);
                        self.last_flushed = self.last_flushed.max(Some(sequence));
                    }
                }
                Answer::ForceFlushReceived | Answer::WaitSlaveSyncDone => {}
                Answer::FlushFailed => panic!("nothing failed"),
            }
        }
        assert_eq!(rig.closed, [], "an honest client is never closed");
        if resend {
            // The original's clients do so at once, in ascending order.
            let sequences: Vec<u64> = self.unflushed.keys().copied().collect();
            self.send(rig, &sequences);
            self.read(rig);
        }
    }

    fn do_step(&mut self, rig: &mut Rig, step: Step) {
        match step {
            Step::Send { count, swap, repeat } if self.attached => {
                let mut sequences = self.number(count);
                let last = sequences.len() - 1;
                if self.is_placed() {
                    sequences.swap(swap.min(last), last);
                }
                if repeat {
                    sequences.extend(sequences.clone());
                }
                self.send(rig, &sequences);
            }
            Step::Lose if self.attached && self.is_placed() => drop(self.number(1)),
            Step::Resend if self.attached => {
                let sequences: Vec<u64> = self.unflushed.keys().copied().collect();
                self.send(rig, &sequences);
            }
            Step::ForceFlush if self.attached => {
                rig.force_flush(self.connection, self.next.saturating_sub(1));
            }
            Step::Reconnect => self.attach(rig, false),
            Step::Reset if self.old => {
                // A reset forgets: the original's users do so at every mount.
                rig.ships = true;
                rig.commits = true;
                self.attach(rig, true);
                (rig.ships, rig.commits) = (false, false);
                rig.answers.clear();
                self.next = 0;
                self.unflushed.clear();
                self.sent.clear();
                self.received.clear();
                self.last_flushed = None;
            }
            Step::Restart => {
                rig.restart();
                self.attached = false;
                self.attach(rig, false);
            }
            Step::Commit(count) => {
                let upto = (rig.core.committed + count as i64).min(rig.end());
                rig.event(Event::Committed { upto });
            }
            Step::Ship(count) => {
                let upto = (rig.core.shipped + count as i64).min(rig.core.committed);
                rig.event(Event::Shipped { upto });
            }
            Step::LookUp if rig.lookup.is_some() => rig.look_up(),
            Step::Time(seconds) => rig.pass(Duration::from_secs(seconds)),
            _ => {}
        }
        self.read(rig);
    }

    /// With a log that works, resending brings everything home.
    fn settle(&mut self, rig: &mut Rig) {
        (rig.commits, rig.ships) = (true, true);
        rig.event(Event::Tick);
        self.read(rig);
        self.attach(rig, false);
        self.read(rig);
        assert!(self.attached, "{:?}", rig.refused);
        if !self.old && self.last_flushed.unwrap_or(0) >= self.next {
            self.next = self.last_flushed.unwrap_or(0) + 1;
        }
        for _ in 0..3 {
            let sequences: Vec<u64> = self.unflushed.keys().copied().collect();
            self.send(rig, &sequences);
            while rig.lookup.is_some() {
                rig.look_up();
            }
            rig.force_flush(self.connection, self.next.saturating_sub(1));
            self.read(rig);
        }
        assert_eq!(self.unflushed, BTreeMap::new(), "all is flushed in the end");
        let run = rig.runs.last();
        for (sequence, content) in &self.sent {
            let offset = run.unwrap().offset_of(*sequence).unwrap();
            assert_eq!(rig.log[(offset - rig.first) as usize].hash, [*content; 32]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_schedule_loses_reorders_or_falsely_acknowledges(
        old in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut rig = Rig::new(4);
        let mut client = Client {
            old,
            connection: 0,
            attached: false,
            next: u64::from(!old),
            unflushed: BTreeMap::new(),
            received: BTreeSet::new(),
            last_flushed: None,
            sent: BTreeMap::new(),
            content: 0,
            answers_seen: 0,
            attached_seen: 0,
        };
        client.attach(&mut rig, old);
        client.read(&mut rig);
        (rig.commits, rig.ships) = (false, false);
        for step in steps {
            client.do_step(&mut rig, step);
        }
        client.settle(&mut rig);
    }
}
