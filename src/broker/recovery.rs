//! From checkpoint and commit log to catalogue and segments.
//!
//! Every local log is cut at the end that the checkpoint names, then what the commit log holds above is written again:
//! what the page cache shows there is never believed, for after a failed sync it shows what the disk does not have.
//! The segments are synced and a new checkpoint is written before anyone is served.
//!
//! A partition whose directory cannot be opened is **offline**: nothing of its files is changed, what the commit log holds
//! of it is kept `aside`, and everything else is served. A later start that can open it brings it back whole.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::aside::{Aside, move_back};
use super::catalogue::{Catalogue, Event, PartitionState, TopicState};
use super::checkpoint::Checkpoint;
use super::committer::kind;
use super::config::Config;
use super::data_dir::DataDir;
use super::error::OpenError;
use super::topic_config::TopicOptions;
use crate::disk::Disk;
use crate::log::{self, Log};
use crate::record::Batches;
use crate::types::{CommitNumber, Offset, TopicId, TopicName, TopicPartition, in_words};
use crate::wal::{self, Entry, ReplayError, Wal};

/// A data directory ready to be served.
pub(super) struct Recovered {
    pub wal: Wal,
    pub catalogue: Catalogue,
    pub logs: Logs,
}

/// The local logs of all partitions.
pub(super) struct Logs {
    /// Where a partition is offline, what is kept aside for it.
    logs: HashMap<TopicPartition, Log>,
    /// Partitions that could not be opened, and why.
    offline: HashMap<TopicPartition, String>,
}

impl Logs {
    pub(super) fn all(&self) -> impl Iterator<Item = &Log> {
        self.logs.values()
    }

    /// The logs of a topic by partition, each once; with why it is offline where it is.
    pub(super) fn take(&mut self, topic: &TopicState) -> Vec<(Log, Option<String>)> {
        let ids = (0..).take(topic.partitions.len());
        let ids = ids.map(|partition| TopicPartition { topic: topic.id, partition });
        ids.map(|id| {
            let log = self.logs.remove(&id).expect("recovery opens the log of every partition");
            (log, self.offline.remove(&id))
        })
        .collect()
    }
}

/// Path of the checkpoint.
pub(super) fn checkpoint_path(data_dir: &Path) -> PathBuf {
    data_dir.join("meta").join("checkpoint")
}

/// Path of a partition's segments.
pub(super) fn partition_dir(data_dir: &Path, topic: &TopicName, partition: i32) -> PathBuf {
    data_dir.join(format!("{topic}-{partition}"))
}

/// How the local log of a topic with these options is laid out.
pub(super) fn log_config(options: &TopicOptions) -> log::Config {
    log::Config {
        segment_bytes: options.segment_bytes,
        // Only sealed segments are compacted.
        segment_ms: options
            .compaction
            .map_or(options.segment_ms, |compaction| options.segment_ms.min(compaction.max_lag_ms)),
        index_interval_bytes: options.index_interval_bytes,
    }
}

/// Opens and replays. `adopted` is the catalogue of a new data directory.
pub(super) fn recover(
    data_dir: &DataDir,
    segments: &Arc<dyn Disk>,
    adopted: Catalogue,
    first_commit: CommitNumber,
    config: &Config,
) -> Result<Recovered, OpenError> {
    let disk = &data_dir.reserve.disk();
    let path = checkpoint_path(&data_dir.path);
    disk.create_dir_all(&data_dir.path.join("meta")).map_err(|source| OpenError::Io {
        op: "create",
        path: path.display().to_string(),
        source,
    })?;
    let dir = data_dir.path.join("commitlog");
    let producers = config.producers;
    let file_bytes = config.commit_log_file_bytes;
    let config = wal::Config { file_bytes, ..wal::Config::default() };
    let Some(mut checkpoint) = Checkpoint::read(&**disk, &path)? else {
        let wal = Wal::create(Arc::clone(disk), &dir, data_dir.id, first_commit, config)?;
        let mut first = Checkpoint { commit: first_commit, clean: false, catalogue: adopted };
        first.catalogue.bound_producers(producers);
        first.write(&**disk, &path)?;
        let mut replay = Replay::new(data_dir, segments, first.catalogue)?;
        // Of a directory that is lost.
        replay.aside.keep_only(&HashSet::new())?;
        replay.aside = Aside::find(segments, &data_dir.path)?;
        replay.open_all()?;
        return Ok(replay.recovered(wal));
    };
    checkpoint.catalogue.bound_producers(producers);
    let open = |replay: &mut dyn FnMut(CommitNumber, Vec<Entry>) -> Result<(), ReplayError>| {
        Wal::open(Arc::clone(disk), &dir, data_dir.id, checkpoint.commit, config, replay)
    };
    // The whole commit log is read once before a segment is cut: what it cannot give back must not be taken away.
    let mut future = Future::default();
    drop(open(&mut |commit, entries| Ok(future.commit(commit, &entries)?))?);
    let mut replay = Replay::new(data_dir, segments, checkpoint.catalogue)?;
    replay.forget(future)?;
    replay.open_all()?;
    let mut wal = open(&mut |commit, entries| Ok(replay.commit(commit, entries)?))?;
    replay.delete_again()?;
    replay.finish(&mut wal, checkpoint.commit, checkpoint.clean, &path)?;
    Ok(replay.recovered(wal))
}

/// Removes the directory of a deleted topic's partition. Where it is one that `is_needed`, or it cannot be told whose it is, it
/// stays, under another name.
///
/// # Errors
/// [`log::Error`]; any part may then be gone.
pub(super) fn clear(
    disk: &dyn Disk,
    dir: &Path,
    topic: TopicId,
    is_needed: impl Fn(TopicPartition) -> bool,
) -> Result<(), log::Error> {
    let io = |op| move |source| log::Error::Io { op, path: dir.to_owned(), source };
    match log::owner_of(disk, dir)? {
        log::Owner::Partition(id) if is_needed(id) => {}
        log::Owner::Nobody | log::Owner::Partition(_) => return log::remove_dir(disk, dir),
        log::Owner::Unknown => {}
    }
    // No partition's directory has this name: those end with a number.
    let left_in = dir.with_file_name("left");
    disk.create_dir_all(&left_in).map_err(io("make room beside"))?;
    for number in 0.. {
        let left = left_in.join(format!("{topic}-{number}"));
        if !disk.exists(&left).map_err(io("look beside"))? {
            tracing::error!(dir = %dir.display(), left = %left.display(), "the directory of a deleted partition is another's, or it cannot be told whose it is: it is kept there");
            disk.rename(dir, &left).map_err(io("rename"))?;
            return disk.sync_dir(&left_in).map_err(io("sync beside"));
        }
    }
    Ok(())
}

/// What the commit log says of the fate of topics, read before anything is opened.
#[derive(Default)]
struct Future {
    deleted: HashSet<TopicId>,
    local_starts: HashMap<TopicPartition, Offset>,
}

impl Future {
    fn commit(&mut self, commit: CommitNumber, entries: &[Entry]) -> Result<(), OpenError> {
        for entry in entries.iter().filter(|entry| entry.kind == kind::EVENT) {
            match decode_event(commit, entry)? {
                Event::TopicDeleted { topic } => {
                    self.deleted.insert(topic);
                }
                Event::LocalStartMoved { topic, partition, local_start: start }
                | Event::LogStartMoved { topic, partition, log_start: start, .. } => {
                    let known = self.local_starts.entry(TopicPartition { topic, partition });
                    known.and_modify(|known| *known = start.max(*known)).or_insert(start);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn decode_event(commit: CommitNumber, entry: &Entry) -> Result<Event, OpenError> {
    serde_json::from_slice(&entry.payload).map_err(|error| OpenError::UnknownEntry {
        commit,
        kind: entry.kind,
        what: error.to_string(),
    })
}

struct Replay {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    catalogue: Catalogue,
    logs: HashMap<TopicPartition, Log>,
    aside: Aside,
    offline: HashMap<TopicPartition, String>,
    /// Something that was kept aside is where it belongs again.
    moved_back: bool,
    /// Topics that are deleted somewhere above the checkpoint: nothing of them is written again.
    deleted: HashSet<TopicId>,
    now_ms: i64,
    replayed: u64,
}

impl Replay {
    fn new(
        data_dir: &DataDir,
        segments: &Arc<dyn Disk>,
        catalogue: Catalogue,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            disk: Arc::clone(segments),
            data_dir: data_dir.path.clone(),
            catalogue,
            logs: HashMap::new(),
            aside: Aside::find(segments, &data_dir.path)?,
            offline: HashMap::new(),
            moved_back: false,
            deleted: HashSet::new(),
            now_ms: 0,
            replayed: 0,
        })
    }

    fn recovered(self, wal: Wal) -> Recovered {
        let logs = Logs { logs: self.logs, offline: self.offline };
        Recovered { wal, catalogue: self.catalogue, logs }
    }

    /// Removes the files of topics that are deleted later on, and moves local starts to where they will be: what was
    /// unlinked is not looked for. A topic that took over such a name lies wholly above the checkpoint, and is written
    /// again.
    fn forget(&mut self, future: Future) -> Result<(), OpenError> {
        for topic in &future.deleted {
            self.remove_files(*topic);
        }
        for (id, local_start) in future.local_starts {
            // Else of a topic that is created later, or deleted.
            let Some(state) = self.catalogue.partition(id) else { continue };
            // What lies above is written again before the start moves there.
            let local_start = local_start.min(state.log_end);
            let event =
                Event::LocalStartMoved { topic: id.topic, partition: id.partition, local_start };
            self.catalogue.apply(event)?;
        }
        self.deleted = future.deleted;
        Ok(())
    }

    fn open_all(&mut self) -> Result<(), OpenError> {
        let ids: Vec<TopicPartition> = self
            .catalogue
            .topics
            .values()
            .flat_map(|topic| {
                (0..)
                    .zip(&topic.partitions)
                    .map(|(partition, _)| TopicPartition { topic: topic.id, partition })
            })
            .collect();
        for id in ids {
            self.open(id)?;
        }
        Ok(())
    }

    /// Opens the local log of a partition as the catalogue has it now.
    fn open(&mut self, id: TopicPartition) -> Result<(), OpenError> {
        if self.deleted.contains(&id.topic) {
            return Ok(());
        }
        let Some(topic) = self.catalogue.topics.get(&id.topic) else { return Ok(()) };
        let Some(state) = self.catalogue.partition(id) else { return Ok(()) };
        let refuse = |source| OpenError::Log { topic: topic.name.clone(), source };
        let config = log_config(&TopicOptions::from_checked(&topic.options));
        let epochs = || state.epochs.iter().map(|it| (it.epoch, it.first_offset)).collect();
        let dir = partition_dir(&self.data_dir, &topic.name, id.partition);
        let from = self.aside.begins(id, state.log_end)?;
        let aside = |from| {
            let mut aside = self.aside.open(id, (from, state.log_end), config).map_err(refuse)?;
            aside.set_epochs(epochs());
            Ok::<Log, OpenError>(aside)
        };
        let kept = from.map(aside).transpose()?;
        match self.open_whole(id, state, dir.clone(), config, kept.as_ref()) {
            Ok(mut log) => {
                log.set_epochs(epochs());
                for range in log.damage() {
                    tracing::error!(topic = %topic.name, partition = id.partition, from = range.from, to = range.to, shipped = state.shipped(), error = %range, "local data is damaged, the rest is served: offsets below `shipped` are on the shard servers, others are lost unless the file is put back from a copy");
                }
                self.moved_back |= kept.is_some();
                self.logs.insert(id, log);
            }
            // With room all is well. What is kept aside waits for it.
            Err(source) if source.is_no_room() && kept.is_none() => return Err(refuse(source)),
            Err(source) => {
                let why = in_words(&source);
                tracing::error!(topic = %topic.name, partition = id.partition, dir = %dir.display(), shipped = state.shipped(), error = why, "a partition cannot be opened and is offline, everything else is served; nothing of it is changed: put what is named right or back from a copy and start again; or, to go on without what only this disk had, put an empty directory in the place of its own and start again");
                let aside = kept.map_or_else(|| aside(state.log_end), Ok)?;
                self.logs.insert(id, aside);
                self.offline.insert(id, why);
            }
        }
        Ok(())
    }

    /// Opens the directory of a partition, up to where what was kept `aside` begins, and appends that.
    fn open_whole(
        &self,
        id: TopicPartition,
        state: &PartitionState,
        dir: PathBuf,
        config: log::Config,
        aside: Option<&Log>,
    ) -> Result<Log, log::Error> {
        // A part of it would not do, and the directory is not cut for one.
        if let Some(range) = aside.and_then(|aside| aside.damage().first()) {
            return Err(range.clone().into());
        }
        let end = aside.map_or(state.log_end, Log::start_offset);
        if aside.is_some() && state.local_start < end && state.shipped() < end {
            // Where it is merely away, for it is being repaired or not mounted, what is kept aside must not go into another.
            let find = |source| log::Error::Io { op: "find", path: dir.clone(), source };
            if !self.disk.exists(&dir).map_err(find)? {
                return Err(find(std::io::ErrorKind::NotFound.into()));
            }
        }
        let start = state.local_start.min(end);
        let mut log = Log::open(Arc::clone(&self.disk), dir, id, start, end, config)?;
        if let Some(aside) = aside {
            move_back(aside, &mut log, state.log_end)?;
        }
        Ok(log)
    }

    fn commit(&mut self, commit: CommitNumber, entries: Vec<Entry>) -> Result<(), OpenError> {
        for entry in entries {
            let unknown = |what: &str| OpenError::UnknownEntry {
                commit,
                kind: entry.kind,
                what: what.to_owned(),
            };
            match entry.kind {
                kind::TIME => {
                    let bytes =
                        <[u8; 8]>::try_from(&*entry.payload).map_err(|_| unknown("not a time"))?;
                    self.now_ms = i64::from_le_bytes(bytes);
                }
                kind::EVENT => {
                    self.event(decode_event(commit, &entry)?)?;
                }
                kind::BATCHES => {
                    let id = TopicPartition { topic: entry.topic, partition: entry.partition };
                    self.batches(id, commit, &entry.payload)?;
                }
                _ => return Err(unknown("unknown kind")),
            }
        }
        self.replayed += 1;
        Ok(())
    }

    fn batches(
        &mut self,
        id: TopicPartition,
        commit: CommitNumber,
        payload: &Bytes,
    ) -> Result<(), OpenError> {
        if self.deleted.contains(&id.topic) {
            return Ok(());
        }
        // Queued before the topic's deletion, committed behind it.
        let Some(topic) = self.catalogue.topics.get(&id.topic) else { return Ok(()) };
        let name = topic.name.clone();
        for batch in Batches::new(payload) {
            let (header, bytes) = batch.map_err(|error| OpenError::UnknownEntry {
                commit,
                kind: kind::BATCHES,
                what: error.to_string(),
            })?;
            self.catalogue.apply_batch(id, &header, commit, self.now_ms)?;
            let log = self
                .logs
                .get_mut(&id)
                .ok_or(super::catalogue::ApplyError::NoPartition { partition: id })?;
            log.append(bytes, self.now_ms)
                .map_err(|source| OpenError::Log { topic: name.clone(), source })?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> Result<(), OpenError> {
        match event {
            Event::TopicCreated(state) => {
                let id = state.id;
                let count = state.partitions.len();
                self.catalogue.apply(Event::TopicCreated(state))?;
                for partition in (0..).take(count) {
                    self.open(TopicPartition { topic: id, partition })?;
                }
                Ok(())
            }
            // Written by a running broker, which goes on when such an event outlives its topic.
            event => {
                if let Err(error) = self.catalogue.apply(event) {
                    tracing::debug!(%error, "an event outlived its topic");
                }
                Ok(())
            }
        }
    }

    fn remove_files(&self, topic: TopicId) {
        let Some(state) = self.catalogue.topics.get(&topic) else { return };
        for partition in (0..).take(state.partitions.len()) {
            let dir = partition_dir(&self.data_dir, &state.name, partition);
            // What a later topic of this name left there is written again.
            let is_needed = |other: TopicPartition| {
                other.topic != topic && self.catalogue.topics.contains_key(&other.topic)
            };
            if let Err(error) = clear(&*self.disk, &dir, topic, is_needed) {
                // One that is in the way is met by whoever has the name next.
                tracing::error!(error = in_words(&error), dir = %dir.display(), "files of a deleted topic stay behind");
            }
        }
    }

    /// Removes what was deleted before and is still there, or there again: an unlink was lost, or replay wrote it.
    fn delete_again(&mut self) -> Result<(), OpenError> {
        for (id, log) in &mut self.logs {
            let Some(state) = self.catalogue.partition(*id) else { continue };
            if self.offline.contains_key(id) {
                continue;
            }
            let gone = log.detach_below(state.local_start).and_then(log::Detached::unlink);
            gone.map_err(|source| OpenError::Log {
                topic: self.catalogue.topics[&id.topic].name.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Syncs, counts an unclean start, writes the checkpoint, frees the commit log.
    fn finish(
        &mut self,
        wal: &mut Wal,
        from: CommitNumber,
        clean: bool,
        path: &Path,
    ) -> Result<(), OpenError> {
        for (id, log) in &mut self.logs {
            log.take_dirty().sync().map_err(|source| OpenError::Log {
                topic: self.catalogue.topics[&id.topic].name.clone(),
                source,
            })?;
        }
        let unclean = !clean || wal.last_commit() > from;
        if unclean {
            self.catalogue.start_number += 1;
        }
        let checkpoint = Checkpoint {
            commit: wal.last_commit(),
            clean: false,
            catalogue: self.catalogue.clone(),
        };
        let offline = self.offline.keys().copied().collect();
        match checkpoint.write(&*self.disk, path) {
            // The old one says the same but that the stop was clean; with the first commit it says so no more.
            Err(error) if !unclean && !self.moved_back && error.is_no_room() => {
                tracing::warn!(
                    error = in_words(&error),
                    "started from the checkpoint of the last stop"
                );
                return self.aside.keep_only(&offline);
            }
            written => written?,
        }
        // Before anything is appended behind it.
        self.aside.keep_only(&offline)?;
        wal.free_upto(checkpoint.commit)?;
        if unclean {
            tracing::info!(
                commits = self.replayed,
                start_number = self.catalogue.start_number,
                "recovered from the commit log after a stop that was not clean"
            );
        }
        Ok(())
    }
}
