//! Fetch (key 1), versions 4 to 17.
//!
//! Differs from Kafka: no sessions (every answer says session 0, which KIP-227 allows, and an incremental request is
//! `FETCH_SESSION_ID_NOT_FOUND`, upon which clients send a full one); no preferred replica; the last stable offset is
//! the high watermark until there are transactions; a partition named several times is answered once, as named first;
//! no wait is longer than [`limits::KAFKA_FETCH_WAIT_MS`], and none goes on once the answer cannot hold the next
//! batch.
//!
//! Limits of the request and of each partition are soft (KIP-74): the first partition with data gives one whole batch
//! at least, later ones give nothing that does not fit. Batches are sent as stored, and only whole ones.
//!
//! The answer waits until there are enough bytes, the time is over, a partition has an error, or the server stops.
//! What was read while waiting is kept, so each byte is read once however often the wait is interrupted. The
//! request's own memory is given back before; a fetch of more partitions than there is memory for does not wait.
//! Memory for data is taken when there is something to read, so that those who wait have only what they have read. A
//! first batch that is longer than what could be taken waits for memory of its own, ten seconds; then the answer is
//! empty.
//!
//! A client that says in which epoch it read its last record is told where that epoch ends, instead of being given
//! data, when it stands behind that end or when the epoch has no records here: it then knows what it has to read anew.
//!
//! | version | change |
//! |---|---|
//! | 5 | log start offset |
//! | 7 | sessions; an error for the whole answer |
//! | 9 | the leader epoch that the client knows (KIP-320) |
//! | 11 | rack and preferred replica (KIP-392) |
//! | 12 | flexible; epoch of the last record fetched |
//! | 13 | topics by id (KIP-516) |
//! | 15 | replica state in a tag; consumers leave it out |
//! | 16 | addresses of new leaders (KIP-951) |
//! | 17 | replica directory id in a tag |

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName as WireName};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::shared::{check_epoch, first_error, partition, text, topic_by_id, topic_by_name};
use crate::broker::{Data, EpochEnd, Partition, ReadError, ReadWithin, Topic};
use crate::kafka::context::Peer;
use crate::kafka::dispatch::{Answer, Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure as _, Refusal};
use crate::kafka::gather::Laden;
use crate::kafka::memory::Reservation;
use crate::record::Batches;
use crate::types::{LeaderEpoch, Offset, Watermarks, limits};

/// First version with topic ids.
const TOPIC_IDS: i16 = 13;
/// First version with sessions and an error for the whole answer.
const SESSIONS: i16 = 7;
/// Kafka's number for "committed transactions only".
const READ_COMMITTED: i8 = 1;
/// Reads of one request that run at the same time: those below the local start wait for shard servers.
const SIDE_BY_SIDE: usize = 8;
/// How long a first batch may wait for memory: others give theirs back in milliseconds, unless they read slowly.
const MEMORY_WAIT: Duration = Duration::from_secs(10);
/// Memory that a partition takes beside its data: as a target, and in the answer twice, as a struct and encoded.
const TARGET_BYTES: usize = size_of::<Target>() + 2 * (size_of::<PartitionData>() + 64);

/// See the module's page.
pub struct Fetch;

impl Api for Fetch {
    type Message = FetchRequest;
    const NAME: &'static str = "Fetch";
    const SERVED: RangeInclusive<i16> = 4..=17;
    const PARKS: bool = true;

    fn handle(call: &Call, request: Self::Message) -> Handled<FetchResponse> {
        if call.version >= SESSIONS && request.session_epoch > 0 {
            return Handled::Now(Self::refuse(call, &request, Refusal::NoFetchSession).into());
        }
        let peer = Arc::clone(&call.peer);
        let poll = Poll::new(&peer, call.version, request);
        Handled::Later(Box::pin(async move {
            let (laden, memory) = poll.run(&peer).await;
            Answer::Laden(laden, memory)
        }))
    }

    fn refuse(call: &Call, request: &Self::Message, refusal: Refusal) -> FetchResponse {
        let code = refusal.code();
        if call.version >= SESSIONS {
            return FetchResponse::default().with_error_code(code.wire());
        }
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|part| refused(part.partition, code));
            FetchableTopicResponse::default()
                .with_topic(topic.topic.clone())
                .with_partitions(partitions.collect())
        });
        FetchResponse::default().with_responses(topics.collect())
    }

    fn first_error(response: &FetchResponse) -> ErrorCode {
        let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        let codes = partitions.map(|partition| partition.error_code);
        first_error([response.error_code].into_iter().chain(codes))
    }
}

fn refused(index: i32, code: ErrorCode) -> PartitionData {
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(code.wire())
        .with_high_watermark(-1)
        .with_aborted_transactions(None)
}

/// One fetch while it gathers data.
struct Poll {
    version: i16,
    committed_only: bool,
    min_bytes: usize,
    max_bytes: usize,
    deadline: Instant,
    topics: Vec<(WireName, Uuid)>,
    targets: Vec<Target>,
    /// For what was read, and while reading for what may be.
    memory: Reservation,
    /// The next batch of some partition has no room any more.
    full: bool,
}

/// One partition of a fetch.
struct Target {
    /// Which of the request's topics.
    topic: usize,
    index: i32,
    max_bytes: usize,
    /// The next offset to read.
    next: Offset,
    /// What was read so far, in order.
    data: Vec<Data>,
    /// Where the log parts from the one that the client read before.
    diverging: Option<EpochEnd>,
    source: Result<Source, ErrorCode>,
}

/// A first batch that is longer than what was there for it.
struct Long {
    /// Of its target.
    place: usize,
    batch_bytes: usize,
    /// That reading it takes.
    memory_bytes: usize,
}

/// Where a target's data come from.
struct Source {
    partition: Arc<Partition>,
    changes: watch::Receiver<Watermarks>,
}

impl Target {
    fn bytes(&self) -> usize {
        self.data.iter().map(Data::len).sum()
    }

    fn memory_bytes(&self) -> usize {
        self.data.iter().map(Data::memory_bytes).sum()
    }

    /// What is to be read now: nothing when there is no new data, its limit is reached, or it failed.
    fn wish(&self) -> Option<(Arc<Partition>, Offset, usize)> {
        let source = self.source.as_ref().ok().filter(|_| self.diverging.is_none())?;
        let room = self.max_bytes.saturating_sub(self.bytes());
        let news = self.next < source.partition.watermarks().high_watermark;
        let wanted = news && (room > 0 || self.data.is_empty());
        wanted.then(|| (Arc::clone(&source.partition), self.next, room))
    }

    /// Turns a deleted topic and an offset that is not in the log into the target's error.
    fn check(&mut self, by_id: bool) {
        let Ok(source) = &mut self.source else { return };
        // Seen before it is looked at, so that a change in between ends the next wait at once.
        source.changes.mark_unchanged();
        let marks = source.partition.watermarks();
        let refusal = if source.partition.is_deleted() {
            Some(gone(by_id))
        } else if self.data.is_empty()
            && self.diverging.is_none()
            && !(marks.log_start..=marks.log_end).contains(&self.next)
        {
            Some(Refusal::OffsetOutOfRange)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.source = Err(refusal.code());
        }
    }

    /// Whether waiting for more is pointless because it failed, or reads another log than its client.
    fn is_over(&self) -> bool {
        self.source.is_err()
            || self.diverging.is_some()
            || (self.max_bytes == 0 && !self.data.is_empty())
    }

    /// Takes what was read. Returns how many bytes that is.
    fn take(&mut self, data: Data) -> usize {
        let next = match &data {
            Data::File(range) => Some(range.next_offset),
            Data::Bytes(batches) => {
                let last = Batches::new(batches).filter_map(Result::ok).last();
                last.map(|(header, _)| header.next_offset())
            }
        };
        let Some(next) = next else { return 0 };
        self.next = next;
        let taken = data.len();
        self.data.push(data);
        taken
    }

    /// What was read before the failure is answered first; the failure will show itself again.
    fn fail(&mut self, error: &ReadError, by_id: bool) {
        let code = match error {
            ReadError::Deleted => gone(by_id).code(),
            error => error.code(),
        };
        let expected = matches!(error, ReadError::Deleted | ReadError::OutOfRange { .. });
        if !expected && let Ok(source) = &self.source {
            tracing::warn!(partition = ?source.partition, offset = self.next, %error, "a fetch failed");
        }
        self.source = match std::mem::replace(&mut self.source, Err(code)) {
            Ok(source) if !self.data.is_empty() => {
                self.max_bytes = 0;
                Ok(source)
            }
            _ => Err(code),
        };
    }

    /// Without its records, for which there is the data.
    fn answer(self, committed_only: bool) -> (PartitionData, Vec<Data>) {
        let marks = match self.source {
            Ok(source) => source.partition.watermarks(),
            Err(code) => return (refused(self.index, code), Vec::new()),
        };
        let answer = PartitionData::default()
            .with_partition_index(self.index)
            .with_high_watermark(marks.high_watermark)
            .with_last_stable_offset(marks.high_watermark)
            .with_log_start_offset(marks.log_start)
            .with_aborted_transactions(committed_only.then(Vec::new))
            .with_diverging_epoch(self.diverging.map_or_else(
                EpochEndOffset::default,
                |diverging| {
                    EpochEndOffset::default()
                        .with_epoch(diverging.epoch.0)
                        .with_end_offset(diverging.end)
                },
            ))
            .with_records(Some(Bytes::new()));
        (answer, self.data)
    }
}

/// A topic that was there and is not any more, in the words of the request.
fn gone(by_id: bool) -> Refusal {
    if by_id { Refusal::UnknownTopicId } else { Refusal::UnknownTopicOrPartition }
}

impl Poll {
    fn new(peer: &Peer, version: i16, request: FetchRequest) -> Self {
        let max_bytes = size(request.max_bytes).min(limits::KAFKA_FETCH_BYTES);
        let mut poll = Self {
            version,
            committed_only: request.isolation_level == READ_COMMITTED,
            min_bytes: size(request.min_bytes).min(max_bytes),
            max_bytes,
            deadline: Instant::now() + wait(request.max_wait_ms),
            topics: Vec::new(),
            targets: Vec::new(),
            memory: Reservation::default(),
            full: false,
        };
        let mut places: HashMap<(WireName, Uuid), usize> = HashMap::new();
        let mut seen = HashSet::new();
        for wanted in request.topics {
            let topic = if version >= TOPIC_IDS {
                topic_by_id(peer.broker(), wanted.topic_id)
            } else {
                topic_by_name(peer.broker(), &wanted.topic)
            };
            // A copy, because the name is a part of the frame.
            let named = (WireName::from(text(&*wanted.topic)), wanted.topic_id);
            let place = *places.entry(named).or_insert_with_key(|named| {
                poll.topics.push(named.clone());
                poll.topics.len() - 1
            });
            for part in &wanted.partitions {
                if seen.insert((place, part.partition)) {
                    poll.targets.push(target(place, &topic, part));
                }
            }
        }
        poll
    }

    /// Memory for the partitions themselves, in the poll and in its answer. Few need none, and for many that do not find
    /// it this poll does not wait.
    fn hold(&mut self, peer: &Peer) -> Reservation {
        let bytes = self.targets.len() * TARGET_BYTES;
        if bytes <= limits::KAFKA_FETCH_FLOOR_BYTES {
            return Reservation::default();
        }
        peer.shared.fetched.try_reserve(bytes).unwrap_or_else(|| {
            self.deadline = Instant::now();
            Reservation::default()
        })
    }

    async fn run(mut self, peer: &Peer) -> (Laden<FetchResponse>, Reservation) {
        let by_id = self.version >= TOPIC_IDS;
        let partitions = self.hold(peer);
        loop {
            self.targets.iter_mut().for_each(|target| target.check(by_id));
            self.read(peer, by_id).await;
            if self.is_ready() || peer.stop.is_cancelled() {
                break;
            }
            let deadline = self.deadline;
            let _counted = peer.shared.metrics.fetch_waits();
            tokio::select! {
                () = self.changed() => {}
                () = sleep_until(deadline) => break,
                () = peer.stop.cancelled() => break,
            }
        }
        let mut memory = std::mem::take(&mut self.memory);
        memory.absorb(partitions);
        (self.answer(), memory)
    }

    fn bytes(&self) -> usize {
        self.targets.iter().map(Target::bytes).sum()
    }

    /// Of what was read, what is not in files.
    fn memory_bytes(&self) -> usize {
        self.targets.iter().map(Target::memory_bytes).sum()
    }

    fn is_ready(&self) -> bool {
        self.targets.is_empty()
            || self.full
            || self.bytes() >= self.min_bytes
            || Instant::now() >= self.deadline
            || self.targets.iter().any(Target::is_over)
    }

    /// Reads what is new. Takes memory for it before, and gives back what was not used.
    async fn read(&mut self, peer: &Peer, by_id: bool) {
        if self.targets.iter().all(|target| target.wish().is_none()) {
            return;
        }
        // Once only: a poll that woke often could else gather any amount of it.
        let floor = if self.memory_bytes() == 0 { limits::KAFKA_FETCH_FLOOR_BYTES } else { 0 };
        let wanted = self.max_bytes.saturating_sub(self.bytes());
        self.memory.absorb(peer.shared.fetched.reserve_up_to(wanted, floor));
        loop {
            let before = self.bytes();
            let goes_on = match self.read_within(by_id).await {
                Some(long) => self.read_long(peer, long, by_id).await,
                // A read ends with its segment or fragment, and more may follow.
                None => !self.full && (before + 1..self.min_bytes).contains(&self.bytes()),
            };
            if !goes_on {
                break;
            }
        }
        self.memory.shrink_to(self.memory_bytes());
    }

    /// Reads in the order of the request and several partitions side by side. Each read takes its share of the room before
    /// it begins and gives back what it did not use. Returns a first batch that is longer than its share, while nothing
    /// else was taken.
    async fn read_within(&mut self, by_id: bool) -> Option<Long> {
        let mut bytes = self.bytes();
        let memory = self.memory.bytes().saturating_sub(self.memory_bytes());
        let mut room = self.max_bytes.saturating_sub(bytes).min(memory);
        let wishes = self.targets.iter().enumerate();
        let wishes: Vec<_> =
            wishes.filter_map(|(place, target)| Some((place, target.wish()?))).collect();
        let mut wishes = wishes.into_iter().peekable();
        let mut running = FuturesOrdered::new();
        loop {
            while running.len() < SIDE_BY_SIDE {
                let may = room > 0 || (bytes == 0 && running.is_empty());
                let Some((place, (partition, from, limit))) = wishes.next_if(|_| may) else {
                    break;
                };
                let share = limit.min(room);
                room -= share;
                running.push_back(async move {
                    (place, share, partition.read_within(from, share).await)
                });
            }
            let Some((place, share, read)) = running.next().await else { break };
            let Some(target) = self.targets.get_mut(place) else { break };
            let taken = match read {
                Ok(ReadWithin::TooLong { batch_bytes, memory_bytes }) if bytes == 0 => {
                    // To its end, because what is read takes memory that is held for it here.
                    while running.next().await.is_some() {}
                    return Some(Long { place, batch_bytes, memory_bytes });
                }
                Ok(ReadWithin::TooLong { .. }) => {
                    self.full = true;
                    0
                }
                Ok(ReadWithin::Data(data)) => target.take(data),
                Err(error) => {
                    target.fail(&error, by_id);
                    0
                }
            };
            bytes += taken;
            room += share - taken;
        }
        self.full |= room == 0;
        None
    }

    /// Reads a first batch that is longer than its share, with memory for all of it. Whether there is reason to go on.
    async fn read_long(&mut self, peer: &Peer, long: Long, by_id: bool) -> bool {
        let Long { place, batch_bytes, memory_bytes } = long;
        if memory_bytes > self.memory.bytes() {
            // Nothing is held meanwhile: two who wait could else wait for each other.
            self.memory = Reservation::default();
            tokio::select! {
                memory = peer.shared.fetched.reserve(memory_bytes) => self.memory = memory,
                () = sleep(MEMORY_WAIT) => {}
                () = peer.stop.cancelled() => {}
            }
        }
        self.full |= memory_bytes > self.memory.bytes();
        let wish = self.targets.get(place).and_then(Target::wish).filter(|_| !self.full);
        let Some((partition, from, _)) = wish else { return false };
        let read = partition.read_within(from, batch_bytes).await;
        let Some(target) = self.targets.get_mut(place) else { return false };
        match read {
            // It left its file for the tier meanwhile. The next fetch takes memory for it.
            Ok(ReadWithin::Data(data)) if data.memory_bytes() > self.memory.bytes() => {
                self.full = true;
                false
            }
            Ok(ReadWithin::Data(data)) => target.take(data) > 0,
            Ok(ReadWithin::TooLong { .. }) => false,
            Err(error) => {
                target.fail(&error, by_id);
                true
            }
        }
    }

    /// Any partition changed.
    async fn changed(&mut self) {
        let changes = self.targets.iter_mut().filter_map(|target| {
            let source = target.source.as_mut().ok()?;
            Some(Box::pin(source.changes.changed()))
        });
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        // A closed channel counts as a change: the partition is deleted, which the next check sees.
        let (_, _, _) = select_all(changes).await;
    }

    fn answer(self) -> Laden<FetchResponse> {
        let topics = self.topics.into_iter();
        let mut empty: Vec<_> = topics
            .map(|(name, id)| FetchableTopicResponse::default().with_topic(name).with_topic_id(id))
            .collect();
        let mut absent = empty.clone();
        let mut data = Vec::new();
        for target in self.targets {
            let topic = target.topic;
            let (answer, read) = target.answer(self.committed_only);
            let mut without = answer.clone();
            if !read.is_empty() {
                without.records = None;
                data.push(read);
            }
            if let (Some(one), Some(other)) = (empty.get_mut(topic), absent.get_mut(topic)) {
                one.partitions.push(answer);
                other.partitions.push(without);
            }
        }
        let [empty, absent] =
            [empty, absent].map(|topics| FetchResponse::default().with_responses(topics));
        Laden { empty, absent, data }
    }
}

fn target(topic: usize, found: &Result<Arc<Topic>, Refusal>, wanted: &FetchPartition) -> Target {
    let source = found.as_deref().map_err(|&refusal| refusal).and_then(|topic| {
        let partition = partition(topic, wanted.partition)?;
        check_epoch(&partition, wanted.current_leader_epoch)?;
        let diverging = divergence(&partition, wanted)?;
        Ok((Source { changes: partition.watch(), partition }, diverging))
    });
    let (source, diverging) = match source {
        Ok((source, diverging)) => (Ok(source), diverging),
        Err(refusal) => (Err(refusal.code()), None),
    };
    Target {
        topic,
        index: wanted.partition,
        max_bytes: size(wanted.partition_max_bytes),
        next: wanted.fetch_offset,
        data: Vec::new(),
        diverging,
        source,
    }
}

/// Where the log parts from what the client says it read last, if it does. Source: KIP-595.
fn divergence(partition: &Partition, wanted: &FetchPartition) -> Result<Option<EpochEnd>, Refusal> {
    if wanted.last_fetched_epoch < 0 {
        return Ok(None);
    }
    let read = LeaderEpoch(wanted.last_fetched_epoch);
    let known = partition.epoch_end(read).ok_or(Refusal::OffsetOutOfRange)?;
    Ok((known.epoch < read || known.end < wanted.fetch_offset).then_some(known))
}

/// How long a client lets its fetch wait; negative means not at all.
fn wait(max_wait_ms: i32) -> Duration {
    let asked = u64::try_from(max_wait_ms).unwrap_or(0);
    Duration::from_millis(asked.min(limits::KAFKA_FETCH_WAIT_MS))
}

/// A size field; negative ones mean nothing.
fn size(field: i32) -> usize {
    usize::try_from(field).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::dispatch;

    #[test]
    fn no_wait_is_longer_than_five_minutes() {
        assert_eq!(wait(i32::MAX), Duration::from_secs(300));
        assert_eq!(wait(500), Duration::from_millis(500));
        assert_eq!(wait(-1), Duration::ZERO);
    }

    #[test]
    fn every_version_encodes() {
        let good = PartitionData::default()
            .with_high_watermark(9)
            .with_last_stable_offset(9)
            .with_log_start_offset(1)
            .with_aborted_transactions(Some(Vec::new()))
            .with_records(Some(Bytes::from_static(b"batches")));
        let topic = FetchableTopicResponse::default()
            .with_topic(text("t").into())
            .with_topic_id(Uuid::max())
            .with_partitions(vec![good, refused(1, Refusal::OldEpoch.code())]);
        let response = FetchResponse::default().with_responses(vec![topic]);
        let whole = FetchResponse::default().with_error_code(Refusal::NoFetchSession.code().wire());
        for version in Fetch::SERVED {
            for response in [&response, &whole] {
                dispatch::encode(1, version, response).unwrap();
            }
        }
    }
}
