//! What exists: opens a data directory, creates and deletes topics, hands out producer ids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::catalogue::{Catalogue, Event, PartitionState, TopicState};
use super::committer::{self, Committer, Stopped};
use super::config::Config;
use super::data_dir::DataDir;
use super::error::{
    CreateTopicError, DeleteTopicError, OpenError, OptionsError, ProducerIdError, VdiskTopicError,
};
use super::metrics::Metrics;
use super::partition::{Partition, Parts};
use super::recovery::{self, Recovered};
use super::topic_config::{OptionError, TopicOptions, check_option};
use super::topics::{Registry, Topic};
use crate::disk::Disk;
use crate::log::Log;
use crate::types::{
    ClusterId, CommitNumber, LeaderEpoch, Offset, TopicId, TopicName, TopicPartition, limits,
};

/// Producer ids reserved by one commit. Those of a block that are not handed out before a stop are never used.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// What a data directory starts with when it is new: nothing, or what the shard servers hold.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Topics and counters.
    pub catalogue: Catalogue,
    /// The highest commit number seen; the directory's own begin above.
    pub last_commit: CommitNumber,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its partitions; -1 takes the broker's default.
    pub partitions: i32,
    /// Options; the value `None` means the default.
    pub options: Vec<(String, Option<String>)>,
    /// Only check.
    pub validate_only: bool,
}

#[derive(Debug, Default)]
struct ProducerIds {
    /// Handed out next, up to `end`.
    next: i64,
    end: i64,
    /// Reserved in the commit log, durable or on the way.
    reserved: i64,
}

/// The broker: shared by all front ends.
pub struct Broker {
    config: Config,
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    start_number: u64,
    registry: RwLock<Registry>,
    producer_ids: Mutex<ProducerIds>,
    memory: Arc<Semaphore>,
    committer: Committer,
    committer_thread: Mutex<Option<JoinHandle<()>>>,
    metrics: Metrics,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Broker {
    /// Recovers the data directory and starts the committer. Blocking: it reads, writes and syncs files.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: Config,
        data_dir: &DataDir,
        adopted: Adopted,
        cluster: ClusterId,
        metrics: Metrics,
    ) -> Result<Arc<Self>, OpenError> {
        let Recovered { wal, catalogue, mut logs } = recovery::recover(
            data_dir,
            adopted.catalogue,
            adopted.last_commit,
            config.commit_log_file_bytes,
        )?;
        let committer = Committer::new();
        let mut registry = Registry::default();
        for state in catalogue.topics.values() {
            let topic_logs = (0..)
                .take(state.partitions.len())
                .filter_map(|partition| logs.remove(&TopicPartition { topic: state.id, partition }))
                .collect();
            registry.insert(serve(state, topic_logs, catalogue.start_number, &committer, &metrics));
        }
        metrics.partitions_are(registry.partition_count());
        let next = catalogue.next_producer_id;
        let start_number = catalogue.start_number;
        let owned = committer::Owned {
            disk: Arc::clone(&data_dir.disk),
            wal,
            catalogue,
            checkpoint_path: recovery::checkpoint_path(&config.data_dir),
            config: committer::Config { checkpoint_bytes: config.checkpoint_bytes },
            metrics: metrics.clone(),
        };
        let thread = committer::start(&committer, owned).map_err(|source| OpenError::Io {
            op: "start a thread for",
            path: config.data_dir.display().to_string(),
            source,
        })?;
        Ok(Arc::new(Self {
            memory: Arc::new(Semaphore::new(
                config.memory_budget_bytes.min(Semaphore::MAX_PERMITS),
            )),
            disk: Arc::clone(&data_dir.disk),
            config,
            cluster,
            start_number,
            registry: RwLock::new(registry),
            producer_ids: Mutex::new(ProducerIds { next, end: next, reserved: next }),
            committer,
            committer_thread: Mutex::new(Some(thread)),
            metrics,
        }))
    }

    /// Commits what is queued, syncs the segments and writes a clean checkpoint. Later appends are refused.
    /// Blocking.
    pub fn stop(&self) {
        self.committer.stop();
        let thread = self.committer_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in there ended the process already.
            thread.join().ok();
        }
    }

    /// The cluster's identity, the same for ever.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster
    }

    /// Kafka's id of this broker.
    #[must_use]
    pub fn node_id(&self) -> i32 {
        self.config.node_id
    }

    /// Whether a look at an unknown topic may create it.
    #[must_use]
    pub fn auto_create_topics(&self) -> bool {
        self.config.auto_create_topics
    }

    /// Partitions of a topic that does not say.
    #[must_use]
    pub fn default_partitions(&self) -> i32 {
        self.config.default_partitions
    }

    /// Waits until `bytes` of the memory budget are free and takes them until the permit is dropped. More than the
    /// whole budget waits for all of it.
    ///
    /// # Cancel safety
    /// A dropped future takes nothing and loses its place in the queue.
    pub async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let most = self.config.memory_budget_bytes.min(u32::MAX as usize);
        let permits = u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        Arc::clone(&self.memory)
            .acquire_many_owned(permits)
            .await
            .expect("the budget's semaphore is never closed")
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.registry().by_name(&TopicName::new(name).ok()?)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: &TopicId) -> Option<Arc<Topic>> {
        self.registry().by_id(id)
    }

    /// All topics, sorted by name.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.registry().all()
    }

    /// Creates a topic; it is durable and served on return.
    ///
    /// # Errors
    /// [`CreateTopicError`].
    pub async fn create_topic(
        self: &Arc<Self>,
        request: NewTopic,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        let validate_only = request.validate_only;
        let state = self.plan_topic(request, None)?;
        if validate_only {
            return self.serve_new(&state);
        }
        self.create_checked(state).await
    }

    async fn create_checked(
        self: &Arc<Self>,
        state: TopicState,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        let name = state.name.clone();
        self.registry_mut().take_name(&name).map_err(|other| taken(&name, other))?;
        let result = self.create_planned(state).await;
        if result.is_err() {
            self.registry_mut().release_name(&name);
        }
        result
    }

    async fn create_planned(
        self: &Arc<Self>,
        state: TopicState,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        self.committer
            .record(Event::TopicCreated(state.clone()))
            .await
            .map_err(|Stopped| CreateTopicError::Stopping)?;
        let topic = self.serve_new(&state)?;
        let mut registry = self.registry_mut();
        registry.insert(Arc::clone(&topic));
        self.metrics.partitions_are(registry.partition_count());
        drop(registry);
        tracing::info!(topic = %state.name, id = %state.id, partitions = state.partitions.len(), "created topic");
        Ok(topic)
    }

    /// Opens the (empty) local logs of a topic that was just planned.
    fn serve_new(&self, state: &TopicState) -> Result<Arc<Topic>, CreateTopicError> {
        let config = recovery::log_config(&TopicOptions::from_checked(&state.options));
        let logs = (0..)
            .zip(&state.partitions)
            .map(|(partition, start)| {
                Log::open(
                    Arc::clone(&self.disk),
                    recovery::partition_dir(&self.config.data_dir, &state.name, partition),
                    TopicPartition { topic: state.id, partition },
                    start.local_start,
                    start.log_end,
                    config,
                )
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(CreateTopicError::Storage)?;
        Ok(serve(state, logs, self.start_number, &self.committer, &self.metrics))
    }

    /// Checks everything that can be refused and draws the topic.
    /// `first_offset` is that of a vdisk topic where it is not 1.
    fn plan_topic(
        &self,
        request: NewTopic,
        first_offset: Option<Offset>,
    ) -> Result<TopicState, CreateTopicError> {
        let name = TopicName::new(&request.name)?;
        if name.is_internal() {
            return Err(CreateTopicError::ReservedName);
        }
        let mut options = BTreeMap::new();
        for (key, value) in request.options {
            let Some(value) = value else { continue };
            check_option(&key, &value)?;
            options.insert(key, value);
        }
        let typed = TopicOptions::from_checked(&options);
        let partitions = match request.partitions {
            -1 if typed.vdisk => 1,
            -1 => self.config.default_partitions,
            partitions => partitions,
        };
        self.check_partitions(partitions, typed.vdisk)?;
        if let Some(other) = self.registry().holder(&name) {
            return Err(taken(&name, other.clone()));
        }
        let first_offset = first_offset.unwrap_or(i64::from(typed.vdisk));
        let id = TopicId::from_random(random());
        let partition =
            PartitionState::empty(first_offset, LeaderEpoch(0), self.start_number, typed.ships);
        Ok(TopicState {
            id,
            name,
            options,
            sealed_secret: String::new(),
            partitions: vec![partition; usize::try_from(partitions).unwrap_or(1)],
        })
    }

    fn check_partitions(&self, partitions: i32, vdisk: bool) -> Result<(), CreateTopicError> {
        let refuse =
            |expected: String| CreateTopicError::InvalidPartitions { partitions, expected };
        if vdisk && partitions != 1 {
            return Err(refuse("a vdisk has one".to_owned()));
        }
        if !(1..=limits::TOPIC_PARTITIONS).contains(&partitions) {
            return Err(refuse(format!("1 to {} are possible", limits::TOPIC_PARTITIONS)));
        }
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let room = limits::BROKER_PARTITIONS.saturating_sub(self.registry().partition_count());
        if count > room {
            return Err(refuse(format!("the broker has room for {room} more; delete topics")));
        }
        Ok(())
    }

    /// Deletes a topic. On return it is gone for everyone, also after a restart; its files go next.
    ///
    /// # Errors
    /// [`DeleteTopicError`].
    pub async fn delete_topic(self: &Arc<Self>, id: TopicId) -> Result<(), DeleteTopicError> {
        let topic = self.topic_by_id(&id).ok_or(DeleteTopicError::Unknown)?;
        let options = topic.options();
        if options.vdisk && !options.vdisk_deletable {
            return Err(DeleteTopicError::Vdisk { topic: topic.name().clone() });
        }
        self.delete_checked(&topic).await
    }

    async fn delete_checked(self: &Arc<Self>, topic: &Topic) -> Result<(), DeleteTopicError> {
        let id = topic.id();
        if self.registry_mut().remove(&id).is_none() {
            return Err(DeleteTopicError::Unknown);
        }
        // From here on nothing is queued behind the event below.
        for partition in topic.partitions() {
            partition.mark_deleted();
        }
        self.committer
            .record(Event::TopicDeleted { topic: id })
            .await
            .map_err(|Stopped| DeleteTopicError::Stopping)?;
        let broker = Arc::clone(self);
        let directories: Vec<_> = (0..)
            .zip(topic.partitions())
            .map(|(index, _)| recovery::partition_dir(&self.config.data_dir, topic.name(), index))
            .collect();
        let removed = tokio::task::spawn_blocking(move || {
            directories.iter().try_for_each(|dir| broker.disk.remove_dir_all(dir))
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, topic = %topic.name(), "files of a deleted topic stay behind");
        }
        let mut registry = self.registry_mut();
        registry.release_name(topic.name());
        self.metrics.partitions_are(registry.partition_count());
        drop(registry);
        tracing::info!(topic = %topic.name(), %id, "deleted topic");
        Ok(())
    }

    /// The topic of the vdisk `name`. A new one begins at `first_offset`; an empty plain topic of one partition gives
    /// its place to one (with an id of its own, since its offsets begin elsewhere).
    ///
    /// # Errors
    /// [`VdiskTopicError`].
    pub async fn vdisk_topic(
        self: &Arc<Self>,
        name: &str,
        first_offset: Offset,
    ) -> Result<Arc<Topic>, VdiskTopicError> {
        let refuse = || VdiskTopicError::NotAVdisk { topic: name.chars().take(64).collect() };
        if name.starts_with("__") {
            return Err(refuse());
        }
        if let Some(topic) = self.topic(name) {
            if topic.options().vdisk {
                return Ok(topic);
            }
            let empty = |partition: &Arc<Partition>| {
                let marks = partition.watermarks();
                marks.log_start == 0 && marks.log_end == 0
            };
            if topic.partitions().len() != 1 || !topic.partitions().iter().all(empty) {
                return Err(refuse());
            }
            self.delete_checked(&topic).await?;
        }
        let request = NewTopic {
            name: name.to_owned(),
            partitions: 1,
            options: vec![("tlog.vdisk".to_owned(), Some("true".to_owned()))],
            validate_only: false,
        };
        let state = self.plan_topic(request, Some(first_offset)).map_err(|error| match error {
            CreateTopicError::Collides { .. } => refuse(),
            other => other.into(),
        })?;
        Ok(self.create_checked(state).await?)
    }

    /// Sets options of a topic, or takes them back to their defaults. Durable on return; the shard servers learn of
    /// it when they can be reached.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub async fn set_options(
        &self,
        id: TopicId,
        changes: Vec<(String, Option<String>)>,
    ) -> Result<(), OptionsError> {
        for (key, value) in &changes {
            check_option(key, value.as_deref().unwrap_or_default()).or_else(|error| {
                match (value, error) {
                    (None, OptionError::Invalid { .. }) => Ok(()),
                    (_, error) => Err(error),
                }
            })?;
        }
        let topic = self.topic_by_id(&id).ok_or(OptionsError::Unknown)?;
        let changes: BTreeMap<String, Option<String>> = changes.into_iter().collect();
        self.committer
            .record(Event::OptionsChanged { topic: id, options: changes.clone() })
            .await
            .map_err(|Stopped| OptionsError::Stopping)?;
        topic.change_options(changes);
        Ok(())
    }

    /// A producer id that nobody ever had.
    ///
    /// # Errors
    /// [`ProducerIdError`].
    pub async fn new_producer_id(&self) -> Result<i64, ProducerIdError> {
        loop {
            let (first, receiver) = {
                let mut ids = self.producer_ids();
                if ids.next < ids.end {
                    ids.next += 1;
                    return Ok(ids.next - 1);
                }
                let first = ids.reserved;
                let next = first + PRODUCER_ID_BLOCK;
                let receiver = self
                    .committer
                    .event(Event::ProducerIds { next })
                    .map_err(|Stopped| ProducerIdError::Stopping)?;
                ids.reserved = next;
                (first, receiver)
            };
            receiver.await.map_err(|_| ProducerIdError::Stopping)?;
            let mut ids = self.producer_ids();
            // Of two blocks that came at once one is used and the other left out; ids are plenty.
            if ids.next >= ids.end {
                ids.next = first;
                ids.end = first + PRODUCER_ID_BLOCK;
            }
        }
    }

    fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn producer_ids(&self) -> MutexGuard<'_, ProducerIds> {
        self.producer_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

fn taken(name: &TopicName, other: TopicName) -> CreateTopicError {
    if other == *name {
        CreateTopicError::Exists { name: name.to_string() }
    } else {
        CreateTopicError::Collides { name: name.to_string(), other }
    }
}

/// A topic as it is served: `logs` are those of its partitions, by index.
fn serve(
    state: &TopicState,
    logs: Vec<Log>,
    start_number: u64,
    committer: &Committer,
    metrics: &Metrics,
) -> Arc<Topic> {
    let options = Arc::new(RwLock::new(Arc::new(TopicOptions::from_checked(&state.options))));
    let partitions = (0..)
        .zip(state.partitions.iter().zip(logs))
        .map(|(partition, (start, log))| {
            let parts = Parts {
                topic: state.name.clone(),
                options: Arc::clone(&options),
                committer: committer.clone(),
                metrics: metrics.clone(),
            };
            let id = TopicPartition { topic: state.id, partition };
            Partition::new(id, start, start_number, log, parts)
        })
        .collect();
    Arc::new(Topic::new(state.id, state.name.clone(), state.options.clone(), options, partitions))
}
