//! The applier: what follows the sync of a commit, in order. Batches go to their segments, the high watermark moves, the
//! durable state takes the events, the answers go out.
//!
//! ```text
//!   committer:   write, sync 1 | write, sync 2 | write, sync 3 |
//!   applier:                   | segments 1, answers | segments 2, answers |
//! ```
//!
//! Its thread works while the committer syncs the next commit. Where nothing waits to be committed there is nothing to work
//! beside, and the committer's own thread does it: a lone writer waits for no other thread to wake up. Commits are applied
//! one at a time in their order, by whichever thread; nothing of a commit is applied before its sync has returned. A segment
//! that cannot be written ends the process without an answer: its batches stand in the commit log, and recovery writes
//! them again. Where only room is wanting they wait, and everything behind them, until there is some; when the broker stops
//! before, they are left to recovery too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::catalogue::{Catalogue, Event};
use super::committer::{Then, Work, batch_bytes};
use super::disk_room::DiskRoom;
use super::partition::Partition;
use crate::record::BatchHeader;
use crate::types::{CommitNumber, TopicPartition, in_words};
use crate::{log, task};

/// Commits that may wait here. Their memory is that of requests which are not answered; more would only let the commit
/// log run ahead of the segments.
const WAITING: usize = 2;

/// Whoever waits for the applier for so long may be needed to make room for it.
const LONG: Duration = Duration::from_millis(200);

/// The answers to batches of so many bytes go out together, when all of them are written: a request with hundreds of small
/// batches then wakes its task once, and none waits longer than it takes to write this much to the page cache.
const ANSWERED_BYTES: usize = 1024 * 1024;

/// A synced commit.
pub(super) struct Commit {
    pub number: CommitNumber,
    pub now_ms: i64,
    pub work: Vec<Work>,
}

/// What is left for the last checkpoint.
pub(super) struct Applied {
    pub catalogue: Catalogue,
    pub dirty: HashMap<TopicPartition, Arc<Partition>>,
}

/// What all applied commits come to.
pub(super) struct State {
    pub catalogue: Catalogue,
    /// Partitions whose segments were written since the last checkpoint.
    pub dirty: HashMap<TopicPartition, Arc<Partition>>,
    room: Arc<DiskRoom>,
    /// The broker stops and something was not applied: nothing behind it may be, and no checkpoint is made of this.
    is_stuck: bool,
}

struct Queue {
    commits: VecDeque<Commit>,
    /// `None` while a commit is applied.
    state: Option<State>,
    stopping: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics half-way; a poisoned lock changes nothing.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, but `meanwhile` is called where it takes long.
    fn wait_for<'a>(
        &'a self,
        queue: MutexGuard<'a, Queue>,
        meanwhile: &mut impl FnMut(),
    ) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait_timeout(queue, LONG);
        let (queue, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if !timeout.timed_out() {
            return queue;
        }
        drop(queue);
        meanwhile();
        self.lock()
    }

    fn put_back(&self, state: State) {
        self.lock().state = Some(state);
        self.changed.notify_all();
    }
}

/// The committer's handle; it alone has one.
pub(super) struct Applier {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Applier {
    pub(super) fn start(catalogue: Catalogue, room: Arc<DiskRoom>) -> std::io::Result<Self> {
        let state = Some(State { catalogue, dirty: HashMap::new(), room, is_stuck: false });
        let queue = Queue { commits: VecDeque::new(), state, stopping: false };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() });
        let applying = Arc::clone(&shared);
        let thread = task::critical_thread("applier", move || run(&applying))?;
        Ok(Self { shared, thread })
    }

    /// Applies a commit behind those before it: at once and here, unless the caller has another one to write meanwhile or
    /// one is still being applied. Waits where too many do.
    /// `meanwhile` is called now and then.
    pub(super) fn apply(&self, commit: Commit, has_more: bool, mut meanwhile: impl FnMut()) {
        let mut queue = self.shared.lock();
        if !has_more
            && queue.commits.is_empty()
            && let Some(mut state) = queue.state.take()
        {
            drop(queue);
            state.apply(commit);
            // Nobody waits for it: the thread has no commit, and this is the only handle.
            self.shared.lock().state = Some(state);
            return;
        }
        while queue.commits.len() >= WAITING {
            queue = self.shared.wait_for(queue, &mut meanwhile);
        }
        queue.commits.push_back(commit);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Looks at or changes the state when all commits handed over are applied. `meanwhile` is called now and then.
    fn with<T>(&self, mut meanwhile: impl FnMut(), look: impl FnOnce(&mut State) -> T) -> T {
        let mut queue = self.shared.lock();
        loop {
            if queue.commits.is_empty()
                && let Some(state) = &mut queue.state
            {
                return look(state);
            }
            queue = self.shared.wait_for(queue, &mut meanwhile);
        }
    }

    /// The same, but none where the broker stops without having applied all of them.
    pub(super) fn with_all<T>(
        &self,
        meanwhile: impl FnMut(),
        look: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        self.with(meanwhile, |state| (!state.is_stuck).then(|| look(state)))
    }

    /// Whether the broker stops without having applied everything. Does not wait for what is being applied.
    pub(super) fn is_stuck(&self) -> bool {
        self.shared.lock().state.as_ref().is_some_and(|state| state.is_stuck)
    }

    /// Applies what is left and ends the thread. Nothing where not everything was applied.
    pub(super) fn stop(self) -> Option<Applied> {
        let take = |state: &mut State| Applied {
            catalogue: std::mem::take(&mut state.catalogue),
            dirty: std::mem::take(&mut state.dirty),
        };
        let left = self.with_all(|| (), take);
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if self.thread.join().is_err() {
            task::die(70, "the applier panicked");
        }
        left
    }
}

fn run(shared: &Shared) {
    let mut queue = shared.lock();
    loop {
        let commit = if queue.state.is_some() { queue.commits.pop_front() } else { None };
        match (commit, queue.stopping) {
            (Some(commit), _) => {
                let state = queue.state.take();
                drop(queue);
                if let Some(mut state) = state {
                    state.apply(commit);
                    shared.put_back(state);
                }
                queue = shared.lock();
            }
            (None, true) => return,
            (None, false) => queue = shared.wait(queue),
        }
    }
}

impl State {
    fn apply(&mut self, commit: Commit) {
        if self.is_stuck {
            return;
        }
        let Commit { number, now_ms, work } = commit;
        let mut answers = Vec::with_capacity(work.len());
        let in_all = batch_bytes(&work);
        let mut bytes = 0;
        for Work { entry, then, done } in work {
            self.settle(then, &entry.payload, number, now_ms);
            if self.is_stuck {
                break;
            }
            answers.push(done);
            bytes += entry.payload.len();
            if bytes >= ANSWERED_BYTES {
                bytes = 0;
                answer(&mut answers);
            }
        }
        self.room.applied(in_all);
        answer(&mut answers);
    }

    /// Carries one committed thing out.
    fn settle(&mut self, then: Then, batch: &Bytes, commit: CommitNumber, now_ms: i64) {
        match then {
            Then::Write(partition) => self.write_batch(partition, batch, commit, now_ms),
            Then::Apply(event, then) => {
                if let Event::TopicDeleted { topic } = &event {
                    self.dirty.retain(|id, _| id.topic != *topic);
                }
                if let Err(error) = self.catalogue.apply(event) {
                    tracing::warn!(%error, "an event came too late for its topic");
                }
                then();
            }
        }
    }

    fn write_batch(
        &mut self,
        partition: Arc<Partition>,
        batch: &Bytes,
        commit: CommitNumber,
        now_ms: i64,
    ) {
        let id = partition.id();
        // A topic deleted in between has no state any more, and its batches no place.
        if self.catalogue.partition(id).is_none() {
            return;
        }
        let header = match BatchHeader::parse(batch) {
            Ok(header) => header,
            Err(error) => task::die(70, &format!("a committed batch is none: {error}")),
        };
        if let Err(error) = self.catalogue.apply_batch(id, &header, commit, now_ms) {
            task::die(70, &error.to_string());
        }
        let written = self.room.until_written(log::Error::is_no_room, || {
            partition.write_committed(batch, commit, now_ms)
        });
        match written {
            Ok(()) => {}
            Err(error) if error.is_no_room() => {
                self.is_stuck = true;
                return;
            }
            Err(error) => {
                task::die(74, &format!("partition {id} cannot be written: {}", in_words(&error)));
            }
        }
        self.dirty.entry(id).or_insert(partition);
    }
}

/// The last one first: who awaits several, in order, is woken by the first when all are there.
fn answer(answers: &mut Vec<oneshot::Sender<()>>) {
    for done in answers.drain(..).rev() {
        // The asker may be gone; what was committed stands all the same.
        done.send(()).ok();
    }
}

#[cfg(test)]
mod tests;
