//! Reads of a partition: from local segments, below the local start from the tier.
//!
//! Damaged local batches that are shipped are read from the tier too, and put back where they stood. Others are an error
//! that names their offsets; what lies around them is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use super::error::ReadError;
use super::partition::{Partition, blocking};
pub use crate::log::Range as FileRange;
use crate::log::{self, Reader, Within};
use crate::record::{BatchHeader, Batches};
use crate::types::{Offset, Watermarks, in_words};

/// Below this a copy costs no more than sending from the file: 0.6 s of CPU time per GB either way in pieces of 4 KiB,
/// half as much without the copy in pieces of 64 KiB.
const LOCATED_BYTES: usize = 64 * 1024;

/// So much is checked ahead for a reader that may never come, and once more if it comes; more for one that asks for more.
const AHEAD_BYTES: usize = 4 * 1024 * 1024;
/// The most.
const FAR_AHEAD_BYTES: usize = 16 * 1024 * 1024;

/// Longer damage is not put right while the server runs, only read from the shard servers.
const MENDED_BYTES: usize = 16 * 1024 * 1024;

/// One at a time in the whole process, because each may take that much memory.
static MENDING: Semaphore = Semaphore::const_new(1);

/// The right to check ahead of a partition's readers.
struct AheadTurn(Arc<AtomicBool>);

impl AheadTurn {
    fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(taken)))
    }
}

impl Drop for AheadTurn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What was read: whole batches, in memory or where they lie.
#[derive(Debug, Clone)]
pub enum Data {
    /// In memory.
    Bytes(Bytes),
    /// In a segment's file, which does not change as long as it is held.
    File(FileRange),
}

impl Data {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(range) => range.bytes,
        }
    }

    /// Bytes of it that are in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(_) => 0,
        }
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What [`Partition::read_within`] found.
#[derive(Debug, Clone)]
pub enum ReadWithin {
    /// Batches; empty where there are none yet.
    Data(Data),
    /// The first batch alone is longer. Nothing was read.
    TooLong {
        /// Its length.
        batch_bytes: usize,
        /// Memory that reading it takes: none where it would be found in a file.
        memory_bytes: usize,
    },
}

impl From<Within> for ReadWithin {
    fn from(within: Within) -> Self {
        match within {
            Within::Batches(bytes) => Self::Data(Data::Bytes(bytes)),
            Within::Located(range) => Self::Data(Data::File(range)),
            Within::TooLong { batch_bytes } => {
                let memory_bytes = if batch_bytes < LOCATED_BYTES { batch_bytes } else { 0 };
                Self::TooLong { batch_bytes, memory_bytes }
            }
        }
    }
}

impl Partition {
    /// Whole batches from the one containing `from`, below the high watermark: about `max_bytes`, but one batch at
    /// least where there is one. Empty at the high watermark.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn read(&self, from: Offset, max_bytes: usize) -> Result<Bytes, ReadError> {
        let local = move |reader: Reader, upto| reader.read(from, upto, max_bytes);
        self.read_with(from, max_bytes, local, |bytes| bytes).await
    }

    /// The same, but never more than `max_bytes`, for a caller that holds memory for so many; and where much is to be had
    /// from a local segment this only says where it lies.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn read_within(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<ReadWithin, ReadError> {
        if let Some(range) = self.range_at_hand(from, max_bytes) {
            self.check_ahead(&range);
            return Ok(ReadWithin::Data(Data::File(range)));
        }
        let local = move |reader: Reader, upto| {
            reader.read_within(from, upto, max_bytes, LOCATED_BYTES).map(ReadWithin::from)
        };
        // The tier holds whole fragments in memory of its own, so a batch that is too long costs nothing here.
        let cold = |bytes: Bytes| match BatchHeader::parse(&bytes).map(|first| first.total_bytes())
        {
            Ok(batch_bytes) if batch_bytes > max_bytes => {
                ReadWithin::TooLong { batch_bytes, memory_bytes: batch_bytes }
            }
            Ok(_) | Err(_) => ReadWithin::Data(Data::Bytes(bytes)),
        };
        let found = self.read_with(from, max_bytes, local, cold).await?;
        if let ReadWithin::Data(Data::File(range)) = &found {
            self.check_ahead(range);
        }
        Ok(found)
    }

    /// What needs no thread that may wait: the next of a reader in order, checked before.
    fn range_at_hand(&self, from: Offset, max_bytes: usize) -> Option<FileRange> {
        let marks = self.watermarks();
        if self.is_deleted() || from < marks.log_start.max(marks.local_start) {
            return None;
        }
        let reader = self.reader();
        let range = reader.range_at_hand(from, marks.high_watermark, max_bytes, LOCATED_BYTES);
        // As behind any read: its file may have been opened when the name was another topic's already.
        range.filter(|_| !self.is_deleted())
    }

    /// Who reads much goes on behind it: that is checked while what was read is under way to them, by one thread at a time
    /// for each partition, which begins when half of it is used up.
    fn check_ahead(&self, range: &FileRange) {
        let (reader, upto) = (self.reader(), self.watermarks().high_watermark);
        let ahead = (2 * range.bytes).clamp(AHEAD_BYTES, FAR_AHEAD_BYTES);
        if range.next_offset >= upto || reader.is_checked_behind(range, ahead / 2) {
            return;
        }
        let Some(turn) = AheadTurn::take(&self.checks_ahead) else { return };
        let range = range.clone();
        drop(tokio::task::spawn_blocking(move || {
            reader.check_behind(&range, upto, ahead);
            drop(turn);
        }));
    }

    /// Puts damaged batches back from the shard servers, where these have all of them. Where not they are read from there
    /// again.
    async fn mend(&self, first: Offset, to: Offset) {
        let Ok(turn) = MENDING.try_acquire() else { return };
        let Ok(tier) = self.cold() else { return };
        if to > self.watermarks().shipped {
            return;
        }
        let (mut batches, mut next) = (BytesMut::new(), first);
        while next < to && batches.len() < MENDED_BYTES {
            let Ok(piece) = Arc::clone(&tier).read(next, to, MENDED_BYTES).await else { return };
            let last = Batches::new(&piece).filter_map(Result::ok).last();
            let Some((last, _)) = last else { return };
            next = last.next_offset();
            batches.extend_from_slice(&piece);
        }
        if self.is_deleted() {
            return;
        }
        let reader = self.reader();
        let mended = blocking(move || {
            // As long as it works, also when nobody waits for it any more.
            let _turn = turn;
            reader.mend(first, &batches)
        });
        let mended = mended.await;
        match mended {
            Ok(Ok(true)) => {
                self.metrics.mended();
                tracing::warn!(partition = %self.id(), topic = %self.topic(), from = first, to, "damaged local data was put right from the shard servers; look at the disk");
            }
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(partition = %self.id(), topic = %self.topic(), from = first, to, error = %in_words(&error), "damaged local data could not be put right; it is read from the shard servers");
            }
        }
    }

    async fn read_with<T: Send + 'static>(
        &self,
        from: Offset,
        max_bytes: usize,
        local: impl FnOnce(Reader, Offset) -> Result<T, log::Error> + Send + 'static,
        cold: impl Fn(Bytes) -> T,
    ) -> Result<T, ReadError> {
        let marks = self.watermarks();
        if self.is_deleted() {
            return Err(ReadError::Deleted);
        }
        self.check_online().map_err(|why| ReadError::Offline { why })?;
        if from < marks.log_start || from > marks.high_watermark {
            return Err(ReadError::OutOfRange {
                requested: from,
                start: marks.log_start,
                end: marks.high_watermark,
            });
        }
        if from == marks.high_watermark {
            return Ok(cold(Bytes::new()));
        }
        if from < marks.local_start {
            return self.read_cold(from, marks.local_start, max_bytes).await.map(cold);
        }
        let reader = self.reader();
        let result = blocking(move || local(reader, marks.high_watermark)).await?;
        if self.is_deleted() {
            // Whatever was found: its file may have been opened when the name was already that of another topic's.
            return Err(ReadError::Deleted);
        }
        match result {
            Err(log::Error::Damaged { from: first, to, .. }) if from < marks.shipped => {
                let damaged = result.map_err(ReadError::from);
                let Ok(tier) = self.cold() else { return damaged };
                match tier.read(from, to.min(marks.shipped), max_bytes).await {
                    Ok(bytes) => {
                        self.mend(first, to).await;
                        Ok(cold(bytes))
                    }
                    // What the servers say of it they have logged themselves.
                    Err(_) => damaged,
                }
            }
            // The disk gives nothing: as good as damage, but nothing is written where it fails.
            Err(log::Error::Io { .. }) if from < marks.shipped => {
                let unreadable = result.map_err(ReadError::from);
                let Ok(tier) = self.cold() else { return unreadable };
                match tier.read(from, marks.shipped, max_bytes).await {
                    Ok(bytes) => {
                        self.say_unreadable(&unreadable);
                        Ok(cold(bytes))
                    }
                    Err(_) => unreadable,
                }
            }
            // Local segments were deleted between the look at the watermarks and the read.
            Err(log::Error::OutOfRange { .. }) if self.watermarks().is_cold(from) => {
                let upto = self.watermarks().local_start;
                self.read_cold(from, upto, max_bytes).await.map(cold)
            }
            other => other.map_err(ReadError::from),
        }
    }

    fn say_unreadable<T>(&self, result: &Result<T, ReadError>) {
        let Err(error) = result else { return };
        if !self.unreadable_said.swap(true, Ordering::Relaxed) {
            tracing::error!(partition = %self.id(), topic = %self.topic(), error = in_words(error), "local data cannot be read: it is read from the shard servers; look at the disk (said once for each partition)");
        }
    }

    async fn read_cold(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
    ) -> Result<Bytes, ReadError> {
        let read = self.cold()?.read(from, upto, max_bytes).await;
        let Watermarks { log_start: start, high_watermark: end, .. } = self.watermarks();
        match read {
            // Deleted while it was fetched.
            Err(_) if from < start => Err(ReadError::OutOfRange { requested: from, start, end }),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::RwLock;

    use futures_util::future::BoxFuture;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::broker::catalogue::{FragmentHead, PartitionState};
    use crate::broker::committer::Committer;
    use crate::broker::disk_room::DiskRoom;
    use crate::broker::local_log::LocalLog;
    use crate::broker::partition::{ColdReader, Parts, TimestampedOffset};
    use crate::broker::{Metrics, TopicOptions};
    use crate::disk::{Disk as _, FileDisk, OpenMode, Reserve};
    use crate::log::Log;
    use crate::record::{BatchBuilder, assign};
    use crate::types::{LeaderEpoch, TopicId, TopicName, TopicPartition};

    const COUNT: i64 = 9;
    /// What lies behind was not shipped.
    const SHIPPED: Offset = 6;

    /// Batches of one record each, as the shard servers have them.
    #[derive(Debug, Clone)]
    struct Servers(Vec<Bytes>);

    impl ColdReader for Servers {
        fn read(
            self: Arc<Self>,
            from: Offset,
            upto: Offset,
            _max_bytes: usize,
        ) -> BoxFuture<'static, Result<Bytes, ReadError>> {
            assert!(upto <= SHIPPED);
            let batch = self.0[usize::try_from(from).unwrap()].clone();
            Box::pin(async move { Ok(batch) })
        }

        fn offset_for_timestamp(
            self: Arc<Self>,
            _timestamp_ms: i64,
            _range: (Offset, Offset),
        ) -> BoxFuture<'static, Result<Option<TimestampedOffset>, ReadError>> {
            unreachable!("no time is asked for")
        }

        fn max_timestamp(
            self: Arc<Self>,
            _range: (Offset, Offset),
        ) -> BoxFuture<'static, Result<Option<TimestampedOffset>, ReadError>> {
            unreachable!("no time is asked for")
        }
    }

    fn options() -> TopicOptions {
        TopicOptions::from_checked(&std::collections::BTreeMap::new())
    }

    fn batches() -> Vec<Bytes> {
        let batch = |offset: i64| {
            let mut builder = BatchBuilder::new(1);
            builder.push(1, None, Some(format!("record {offset}").as_bytes()), &[]);
            let mut batch = builder.build();
            assign(&mut batch, offset, LeaderEpoch(0));
            Bytes::from(batch)
        };
        (0..COUNT).map(batch).collect()
    }

    /// A partition whose local batch at `damaged` has a flipped bit.
    fn partition(dir: &Path, damaged: usize, registry: &mut Registry) -> (Partition, Servers) {
        let id = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
        let batches = batches();
        let open = |end| {
            let config = crate::broker::recovery::log_config(&options());
            Log::open(Arc::new(FileDisk), dir.to_owned(), id, 0, end, config).unwrap()
        };
        let mut log = open(0);
        batches.iter().for_each(|batch| log.append(batch, 0).unwrap());
        log.take_dirty().sync().unwrap();
        drop(log);
        let path = dir.join(format!("{:020}.log", 0));
        let place: usize = batches[..damaged].iter().map(Bytes::len).sum();
        let file = FileDisk.open(&path, OpenMode::Write).unwrap();
        file.write_all_at(b"x", place as u64 + 70).unwrap();
        let mut state = PartitionState::empty(0, LeaderEpoch(0), 1, true);
        state.log_end = COUNT;
        state.head = Some(FragmentHead {
            number: 1,
            shipped: SHIPPED,
            hash: String::new(),
            public_hash: String::new(),
        });
        let metrics = Metrics::new(registry);
        let reserve = Reserve::find(Arc::new(FileDisk), dir.join("reserve"), 0).unwrap();
        let room = DiskRoom::new(dir.to_owned(), Arc::new(reserve), false, metrics.clone());
        let parts = Parts {
            topic: TopicName::new("t").unwrap(),
            options: Arc::new(RwLock::new(Arc::new(options()))),
            committer: Committer::new(1 << 20, room),
            producer_room: Arc::default(),
            local_log: Arc::new(LocalLog::new(1 << 40, 0, 0, metrics.clone())),
            metrics,
            offline: None,
        };
        let partition = Partition::new(id, &state, 1, open(COUNT), parts);
        let servers = Servers(batches);
        partition.set_cold(Arc::new(servers.clone()));
        (Arc::into_inner(partition).unwrap(), servers)
    }

    #[tokio::test]
    async fn shipped_damage_is_read_from_the_servers_and_put_right() {
        let (dir, mut registry) = (tempfile::tempdir().unwrap(), Registry::default());
        let (partition, servers) = partition(&dir.path().join("t-0"), 4, &mut registry);
        assert!(partition.reader().read(4, COUNT, 1).is_err());
        assert_eq!(partition.read(4, 1).await.unwrap(), servers.0[4]);
        assert_eq!(partition.reader().read(4, COUNT, 1).unwrap(), servers.0[4], "it is put right");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("log_mended_ranges_total 1"), "{text}");
    }

    #[tokio::test]
    async fn what_the_scrubber_suspects_is_counted_and_put_right_if_it_is_damaged() {
        let (dir, mut registry) = (tempfile::tempdir().unwrap(), Registry::default());
        let (partition, servers) = partition(&dir.path().join("t-0"), 4, &mut registry);
        let step = log::Scrubbed { bytes: 99, suspect: Some((2, 6)), ..log::Scrubbed::default() };
        partition.take_note(step).await;
        assert_eq!(partition.reader().read(4, COUNT, 1).unwrap(), servers.0[4], "it is put right");
        partition.take_note(step).await;
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for count in ["mended_ranges_total 1", "scrub_damage_total 1", "scrubbed_bytes_total 198"] {
            assert!(text.contains(&format!("log_{count}")), "{text}");
        }
    }

    #[tokio::test]
    async fn what_only_this_disk_had_is_named() {
        let (dir, mut registry) = (tempfile::tempdir().unwrap(), Registry::default());
        let (partition, servers) = partition(&dir.path().join("t-0"), 7, &mut registry);
        let error = partition.read(7, 1).await.unwrap_err();
        assert!(matches!(error, ReadError::Damaged { first: 7, last: 7, .. }), "{error}");
        for intact in [6, 8] {
            let read = partition.read(intact, 1).await.unwrap();
            assert_eq!(read, servers.0[usize::try_from(intact).unwrap()]);
        }
    }
}
