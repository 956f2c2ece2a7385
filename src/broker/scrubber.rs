//! The scrubber: reads sealed segments again and again, so that what a disk does to them is found while it can be mended.
//!
//! ```text
//!   a minute after the start, then every interval:  all partitions, from one drawn by lot on, round to it again
//!        partition ──▶ its sealed segments in order ──▶ 1 MiB (log/scrub) ──▶ pause, by the rate ──▶ …
//!                                                         │ a suspect
//!                                                         ▼
//!                                      read as a reader reads it: named offset by offset, put right from the tier
//! ```
//!
//! * One segment at a time, and the one that was not looked at for the longest time first: that is what going round means.
//!   Where it stood is not kept over a restart, so each start begins elsewhere.
//! * It has nothing to itself but its rate: it takes no lock that others wait for, and what it alone brought into the page
//!   cache goes again.
//! * Active segments are left to the time when they are sealed, offline partitions to their repair.
//! * Between two passes there is one timer, and none besides.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::partition::{Partition, blocking};
use crate::log::{self, Scrub, Scrubbed};
use crate::record::Batches;
use crate::types::{Offset, TopicPartition, in_words};
use crate::{clock, task};

/// Read between two pauses.
const STEP_BYTES: u64 = 1 << 20;

/// A start has better things to do.
const AFTER_START: Duration = Duration::from_secs(60);

/// Settings of the scrubber.
#[derive(Debug, Clone, Copy)]
pub struct ScrubConfig {
    /// Bytes read in a second; 0 reads nothing.
    pub bytes_per_second: u64,
    /// From the begin of one pass to that of the next.
    pub interval: Duration,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Look at the first sealed segment of the partition that has offsets from here on.
    Scrub(TopicPartition, Offset),
    /// Nothing before this moment.
    Wait(Instant),
}

/// Where the pass is, and when the next one begins.
#[derive(Debug)]
struct Plan {
    interval: Duration,
    /// The next pass begins then.
    due: Instant,
    /// Partitions that this pass has not done.
    left: VecDeque<TopicPartition>,
    /// Of the first of them everything below is done.
    from: Offset,
}

impl Plan {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, due: now + AFTER_START, left: VecDeque::new(), from: 0 }
    }

    /// `all` gives every partition in an order that stays, `lot` says where in it a pass begins.
    fn next(
        &mut self,
        now: Instant,
        lot: usize,
        all: impl FnOnce() -> Vec<TopicPartition>,
    ) -> Next {
        if self.left.is_empty() && now >= self.due {
            self.due = now + self.interval;
            self.left = all().into();
            self.from = 0;
            let first = lot.checked_rem(self.left.len()).unwrap_or(0);
            self.left.rotate_left(first);
        }
        self.left.front().map_or(Next::Wait(self.due), |first| Next::Scrub(*first, self.from))
    }

    /// A segment was looked at that ends at `upto`; none where the partition has no more. Whether the pass is over with it.
    fn done(&mut self, upto: Option<Offset>) -> bool {
        self.from = upto.unwrap_or(0);
        if upto.is_none() {
            self.left.pop_front();
        }
        self.left.is_empty()
    }
}

/// What is left of the time that so many bytes may take.
fn pause(bytes: u64, bytes_per_second: u64, took: Duration) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)).saturating_sub(took)
}

/// Starts the task. It ends with `stop`.
pub(super) fn start(broker: &Arc<Broker>, config: ScrubConfig, stop: CancellationToken) {
    if config.bytes_per_second == 0 {
        return;
    }
    let weak = Arc::downgrade(broker);
    let work = async move {
        let mut plan = Plan::new(config.interval, clock::monotonic());
        while let Some(broker) = weak.upgrade() {
            let lot = usize::from_ne_bytes(super::broker::random());
            match plan.next(clock::monotonic(), lot, || broker.scrubbed_partitions()) {
                Next::Scrub(id, from) => {
                    let upto = broker.scrub_segment(id, from, config.bytes_per_second).await;
                    // Thousands may have nothing that is sealed.
                    tokio::task::yield_now().await;
                    if plan.done(upto) {
                        broker.metrics.scrubbed_all(clock::wall_ms());
                    }
                }
                Next::Wait(until) => {
                    drop(broker);
                    tokio::time::sleep_until(until.into()).await;
                }
            }
        }
    };
    drop(task::spawn("scrubber", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }));
}

impl Broker {
    fn scrubbed_partitions(&self) -> Vec<TopicPartition> {
        let topics = self.topics();
        let partitions = topics.iter().flat_map(|topic| topic.partitions());
        partitions.filter(|it| it.offline().is_none()).map(|partition| partition.id()).collect()
    }

    /// Looks at the first sealed segment of a partition that has offsets at or above `from`. Gives where it ends; none where
    /// there is none, or no such partition any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(super) async fn scrub_segment(
        &self,
        id: TopicPartition,
        from: Offset,
        bytes_per_second: u64,
    ) -> Option<Offset> {
        let topic = self.topic_by_id(&id.topic)?;
        let partition = topic.partition(id.partition)?;
        let mut scrub = partition.reader().scrub(from)?;
        let end = scrub.next_offset();
        while !scrub.is_over() {
            let began = clock::monotonic();
            let (scrubbed, step) = blocking(move || step(scrub)).await.ok()?;
            scrub = scrubbed;
            match step {
                Ok(step) => {
                    partition.take_note(step).await;
                    let took = clock::monotonic().saturating_duration_since(began);
                    tokio::time::sleep(pause(step.bytes + step.made_from, bytes_per_second, took))
                        .await;
                }
                Err(_) if partition.is_deleted() => return None,
                Err(error) => {
                    self.metrics.scrub_found();
                    tracing::error!(topic = %topic.name(), partition = id.partition, error = in_words(&error), "a segment cannot be read; look at the disk");
                    break;
                }
            }
        }
        Some(end)
    }
}

impl Partition {
    /// Counts what a step read, and follows up what it found.
    pub(super) async fn take_note(&self, step: Scrubbed) {
        self.metrics.scrubbed(step.bytes + step.made_from);
        if step.renewed {
            self.metrics.scrub_found();
            tracing::warn!(topic = %self.topic(), partition = self.id().partition, "an index or the checksums of a sealed segment were damaged and are made anew; look at the disk");
        }
        if let Some((from, to)) = step.suspect {
            self.read_again(from, to).await;
        }
    }

    /// Reads what is suspect as readers do: what they would be told is logged, and shipped data put right.
    async fn read_again(&self, from: Offset, to: Offset) {
        let mut at = from;
        while at < to {
            let reader = self.reader();
            let read = blocking(move || reader.read(at, to, STEP_BYTES as usize)).await;
            let next = match read {
                Ok(Ok(bytes)) => {
                    let last = Batches::new(&bytes).filter_map(Result::ok).last();
                    last.map(|(header, _)| header.next_offset())
                }
                Ok(Err(error @ log::Error::Damaged { from, to, .. })) => {
                    self.metrics.scrub_found();
                    let shipped = self.watermarks().shipped;
                    tracing::error!(topic = %self.topic(), partition = self.id().partition, from, to, shipped, %error, "local data is damaged, the rest is served: offsets below `shipped` are put right from the shard servers, others are lost unless the file is put back from a copy");
                    // Where that fails this was said already.
                    drop(self.read(at, 1).await);
                    Some(to)
                }
                // It was deleted, or the next reader is told.
                Ok(Err(_)) | Err(_) => None,
            };
            let Some(next) = next.filter(|next| *next > at) else { return };
            at = next;
        }
    }
}

fn step(mut scrub: Scrub) -> (Scrub, Result<Scrubbed, log::Error>) {
    let done = scrub.step(STEP_BYTES);
    (scrub, done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicId;

    fn id(partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicId([1; 16]), partition }
    }

    #[test]
    fn a_pass_goes_round_all_partitions_from_the_lot_on() {
        let now = Instant::now();
        let mut plan = Plan::new(Duration::from_secs(1000), now);
        let all = || (0..3).map(id).collect();
        assert_eq!(plan.next(now, 4, all), Next::Wait(now + AFTER_START));
        let begun = now + AFTER_START;
        assert_eq!(plan.next(begun, 4, all), Next::Scrub(id(1), 0));
        // A second segment of it, then there is no more.
        assert!(!plan.done(Some(70)));
        assert_eq!(plan.next(begun, 0, all), Next::Scrub(id(1), 70));
        assert!(!plan.done(None));
        // What is due meanwhile waits for the end of the pass.
        let late = begun + Duration::from_secs(5000);
        assert_eq!(plan.next(late, 0, all), Next::Scrub(id(2), 0));
        assert!(!plan.done(None));
        assert_eq!(plan.next(late, 0, all), Next::Scrub(id(0), 0));
        assert!(plan.done(None));
        assert_eq!(plan.next(late, 2, all), Next::Scrub(id(2), 0));
    }

    #[test]
    fn a_pass_over_nothing_waits_for_the_next() {
        let now = Instant::now() + AFTER_START;
        let interval = Duration::from_secs(7 * 24 * 3600);
        let mut plan = Plan::new(interval, now - AFTER_START);
        assert_eq!(plan.next(now, 7, Vec::new), Next::Wait(now + interval));
        let before = now + interval - Duration::from_millis(1);
        assert_eq!(plan.next(before, 7, || vec![id(0)]), Next::Wait(now + interval));
        assert_eq!(plan.next(now + interval, 7, || vec![id(0)]), Next::Scrub(id(0), 0));
    }

    #[test]
    fn the_rate_is_kept_by_what_is_left_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(pause(1 << 20, 16 << 20, ms(0)), Duration::from_micros(62_500));
        assert_eq!(pause(1 << 20, 16 << 20, ms(60)), Duration::from_micros(2_500));
        assert_eq!(pause(1 << 20, 16 << 20, ms(80)), ms(0));
        assert_eq!(pause(0, 1, ms(0)), ms(0));
    }
}
