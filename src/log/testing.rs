//! What the tests of this folder share: made-up batches, and the plain model of a log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, Log, Range, Reader, Timestamped};
use crate::disk::Disk;
use crate::record::{BatchBuilder, Compression, assign, set_log_append_time};
use crate::types::{LeaderEpoch, Offset, TopicId, TopicPartition};

/// Small enough for many segments and index entries.
pub(super) const CONFIG: Config =
    Config { segment_bytes: 1200, segment_ms: 1000, index_interval_bytes: 150 };

pub(super) fn id() -> TopicPartition {
    TopicPartition { topic: TopicId([9; 16]), partition: 3 }
}

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/data/t-3")
}

pub(super) fn open(disk: &impl DiskLike, dir: &Path, start: Offset, end: Offset) -> Log {
    Log::open(disk.shared(), dir.to_owned(), id(), start, end, CONFIG).unwrap()
}

/// A disk of which each log gets a handle.
pub(super) trait DiskLike {
    fn shared(&self) -> Arc<dyn Disk>;
}

impl<D: Disk + Clone + 'static> DiskLike for D {
    fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }
}

#[derive(Debug, Clone)]
pub(super) struct ModelBatch {
    pub(super) base: Offset,
    pub(super) timestamps: Vec<i64>,
    pub(super) bytes: Vec<u8>,
}

impl ModelBatch {
    /// A batch with one record per timestamp, each with a value of `value_bytes`.
    pub(super) fn new(base: Offset, timestamps: &[i64], value_bytes: usize) -> Self {
        Self::of(base, timestamps, value_bytes, Compression::None)
    }

    pub(super) fn of(
        base: Offset,
        timestamps: &[i64],
        value_bytes: usize,
        compression: Compression,
    ) -> Self {
        let mut builder = BatchBuilder::new(timestamps[0]).compression(compression);
        for (i, timestamp) in timestamps.iter().enumerate() {
            let value = vec![(base as u8).wrapping_add(i as u8); value_bytes];
            builder.push(*timestamp, None, Some(&value), &[]);
        }
        let mut bytes = builder.build();
        assign(&mut bytes, base, LeaderEpoch(4));
        Self { base, timestamps: timestamps.to_vec(), bytes }
    }

    pub(super) fn with_append_time(mut self, now_ms: i64) -> Self {
        set_log_append_time(&mut self.bytes, now_ms);
        self.timestamps.iter_mut().for_each(|timestamp| *timestamp = now_ms);
        self
    }

    pub(super) fn next(&self) -> Offset {
        self.base + self.timestamps.len() as Offset
    }
}

/// Every batch that the log should have.
#[derive(Debug, Clone, Default)]
pub(super) struct Model(pub(super) Vec<ModelBatch>);

impl Model {
    pub(super) fn end(&self, empty_at: Offset) -> Offset {
        self.0.last().map_or(empty_at, ModelBatch::next)
    }

    /// All batches from the one with `from` on that are below `upto`, and how long the first is.
    pub(super) fn bytes(&self, from: Offset, upto: Offset) -> (Vec<u8>, usize) {
        let found: Vec<_> = self
            .0
            .iter()
            .filter(|b| b.next() > from && b.base < upto)
            .map(|b| (b, b.next()))
            .collect();
        let whole = found.iter().take_while(|(_, next)| *next <= upto);
        let bytes: Vec<Vec<u8>> = whole.map(|(batch, _)| batch.bytes.clone()).collect();
        (bytes.concat(), bytes.first().map_or(0, Vec::len))
    }

    pub(super) fn records(
        &self,
        start: Offset,
        upto: Offset,
    ) -> impl Iterator<Item = (Offset, i64)> {
        let whole = self.0.iter().filter(move |b| b.next() <= upto).flat_map(|batch| {
            batch.timestamps.iter().enumerate().map(|(i, t)| (batch.base + i as Offset, *t))
        });
        whole.filter(move |(offset, _)| *offset >= start)
    }

    /// Holds everything that a reader answers against this model.
    pub(super) fn check(&self, reader: &Reader) {
        let (start, end) = (reader.start_offset(), reader.end_offset());
        assert_eq!(end, self.end(end), "end offset");
        assert_eq!(read_all(reader, start, end), self.bytes(start, end).0);
        for probe in 0..20 {
            let from = start + (end - start) * probe / 20;
            let upto = from + (end - from) * (probe * 7 % 20) / 20;
            let (expected, first) = self.bytes(from, upto);
            let max_bytes = (probe * 37) as usize;
            let read = reader.read(from, upto, max_bytes).unwrap();
            assert!(expected.starts_with(&read), "from {from} to {upto}");
            assert!(read.len() <= max_bytes.max(first));
            assert_eq!(read.is_empty(), expected.is_empty());
            let range = reader.locate_range(from, upto, max_bytes).unwrap();
            assert_eq!(range.map(|range| content(&range)).unwrap_or_default(), read);
        }
        for upto in [end, start + (end - start) / 2] {
            // A batch across the bound is beyond it.
            for timestamp in (0..12).map(|i| i * 107) {
                let expected = self.records(start, upto).find(|(_, t)| *t >= timestamp);
                let found = reader.offset_for_timestamp(timestamp, upto).unwrap();
                assert_eq!(found.map(plain), expected, "timestamp {timestamp} below {upto}");
            }
            let highest = self.records(start, upto).map(|(_, t)| t).max();
            let expected = self.records(start, upto).find(|(_, t)| Some(*t) == highest);
            assert_eq!(reader.max_timestamp(upto).unwrap().map(plain), expected, "below {upto}");
        }
    }
}

pub(super) fn plain((offset, timestamp, epoch): Timestamped) -> (Offset, i64) {
    assert_eq!(epoch, 4);
    (offset, timestamp)
}

/// Everything from `from` to `upto`, in pieces.
pub(super) fn read_all(reader: &Reader, mut from: Offset, upto: Offset) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = reader.read(from, upto, 400).unwrap();
        let last = crate::record::Batches::new(&piece).last();
        let Some(last) = last else { return all };
        from = last.unwrap().0.next_offset();
        all.extend_from_slice(&piece);
    }
}

/// What would go out of the file.
pub(super) fn content(range: &Range) -> Vec<u8> {
    let mut bytes = vec![0; range.bytes];
    range.file.read_exact_at(&mut bytes, range.position).unwrap();
    let last = crate::record::Batches::new(&bytes).last().unwrap().unwrap();
    assert_eq!(last.0.next_offset(), range.next_offset);
    bytes
}

/// What a checkpoint does; the log's end is then a recovery point.
pub(super) fn checkpoint(log: &mut Log) -> Offset {
    log.take_dirty().sync().unwrap();
    log.end_offset()
}
