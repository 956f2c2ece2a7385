//! What exists: opens a data directory, creates and deletes topics, hands out producer ids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::aside::aside_dir;
use super::catalogue::{Catalogue, DeletedTopic, Event, PartitionState, TopicState};
use super::cleaner::{self, Cleaner};
use super::committer::{self, Committer, Stopped};
use super::config::Config;
use super::data_dir::DataDir;
use super::disk_room::{DiskRoom, DiskStatus};
use super::error::{
    BlockSizeError, CreateTopicError, DeleteTopicError, OpenError, ProducerIdError, VdiskTopicError,
};
use super::local_log::{LocalLog, default_limit};
use super::metrics::Metrics;
use super::partition::{Partition, Parts};
use super::recovery::{self, Recovered};
use super::retention::{self, Retention};
use super::scrubber;
use super::shipping::{Cold, Shipped, ship_state, unhex};
use super::topic_config::{TopicOptions, check_option};
use super::topics::{Registry, Topic};
use super::unshipped::Lag;
use crate::disk::Disk;
use crate::log::{self, Log, ProducerRoom};
use crate::tier::{SealedSecret, Tier, TopicInfo, TopicRecord};
use crate::types::{
    ClusterId, CommitNumber, LeaderEpoch, Offset, TopicId, TopicName, TopicPartition, in_words,
    limits,
};
use crate::wal::Wal;
use crate::{clock, task};

/// Producer ids reserved by one commit. Those of a block that are not handed out before a stop are never used.
const PRODUCER_ID_BLOCK: i64 = 1000;

/// How long a name that somebody else is just creating or deleting is left alone.
const TAKEN_PAUSE: Duration = Duration::from_millis(10);

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
}

/// A topic as it would be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// Count of partitions.
    pub partitions: usize,
    /// Options that differ from their defaults.
    pub options: BTreeMap<String, String>,
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
    room: Arc<DiskRoom>,
    cluster: ClusterId,
    start_number: u64,
    pub(super) tier: Option<Arc<Tier>>,
    registry: RwLock<Registry>,
    producer_ids: Mutex<ProducerIds>,
    /// What the producers in the turns of all partitions take.
    pub(super) producer_room: Arc<ProducerRoom>,
    memory: Arc<Semaphore>,
    committer: Committer,
    pub(super) cleaner: Arc<Cleaner>,
    /// Ends it.
    scrubbing: CancellationToken,
    committer_thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) local_log: Arc<LocalLog>,
    pub(super) retention: Retention,
    pub(super) metrics: Metrics,
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
    ///
    /// # Panics
    /// Outside of a tokio runtime: shipping runs in tasks.
    pub fn open(
        config: Config,
        data_dir: &DataDir,
        adopted: Adopted,
        cluster: ClusterId,
        tier: Option<Arc<Tier>>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, OpenError> {
        let files = log::Files::new(data_dir.reserve.disk(), config.open_segments);
        let segments: Arc<dyn Disk> = Arc::new(files);
        let Recovered { wal, catalogue, mut logs } = recovery::recover(
            data_dir,
            &segments,
            adopted.catalogue,
            adopted.last_commit,
            &config,
        )?;
        if let Some(tier) = &tier {
            check_key(tier, &catalogue)?;
        }
        let local_log = Arc::new(account(&config, data_dir, &wal, logs.all(), &metrics)?);
        let room = DiskRoom::new(
            config.data_dir.clone(),
            Arc::clone(&data_dir.reserve),
            config.keep_reserve,
            metrics.clone(),
        );
        let committer = Committer::new(config.memory_budget_bytes, Arc::clone(&room));
        let producer_room = Arc::new(catalogue.producer_room().clone());
        let mut registry = Registry::default();
        let mut to_ship = Vec::new();
        for state in catalogue.topics.values() {
            let counters = (&local_log, &producer_room, &metrics);
            let topic_logs = logs.take(state);
            let topic = serve(state, topic_logs, catalogue.start_number, &committer, counters);
            to_ship.push((Arc::clone(&topic), state.clone()));
            registry.insert(topic);
        }
        metrics.partitions_are(registry.partition_count());
        metrics.offline_are(registry.offline().count());
        let owed: Vec<DeletedTopic> = catalogue.deleted.values().cloned().collect();
        let next = catalogue.next_producer_id;
        let interval = config.retention_interval;
        let start_number = catalogue.start_number;
        let owned = committer::Owned {
            disk: data_dir.reserve.disk(),
            wal,
            catalogue,
            checkpoint_path: recovery::checkpoint_path(&config.data_dir),
            config: committer::Config {
                checkpoint_bytes: config.checkpoint_bytes,
                commit_log_bytes: config.commit_log_bytes,
            },
            local_log: Arc::clone(&local_log),
            metrics: metrics.clone(),
        };
        let thread = committer::start(&committer, owned).map_err(|source| OpenError::Io {
            op: "start a thread for",
            path: config.data_dir.display().to_string(),
            source,
        })?;
        let broker = Arc::new(Self {
            memory: Arc::new(Semaphore::new(
                config.memory_budget_bytes.min(Semaphore::MAX_PERMITS),
            )),
            disk: segments,
            room,
            config,
            cluster,
            start_number,
            tier,
            registry: RwLock::new(registry),
            producer_ids: Mutex::new(ProducerIds { next, end: next, reserved: next }),
            producer_room,
            committer,
            cleaner: Arc::default(),
            scrubbing: CancellationToken::new(),
            committer_thread: Mutex::new(Some(thread)),
            local_log,
            retention: Retention::new(clock::wall_ms()),
            metrics,
        });
        for (topic, state) in to_ship {
            broker.ship(&topic, &state);
        }
        owed.iter().for_each(|deleted| broker.tell_deleted(&deleted_info(deleted)));
        retention::start(&broker, interval);
        cleaner::start(&broker);
        scrubber::start(&broker, broker.config.scrub, broker.scrubbing.clone());
        Ok(broker)
    }

    /// Starts shipping a topic's partitions and lets them be read from the shard servers, where the topic ships.
    fn ship(&self, topic: &Topic, state: &TopicState) {
        let Some(tier) = self.tier.as_ref().filter(|_| topic.options().ships) else { return };
        let info = topic.info();
        for (partition, state) in topic.partitions().iter().zip(&state.partitions) {
            if partition.offline().is_some() {
                continue;
            }
            partition.set_cold(Arc::new(Cold(tier.reader(&info, partition.id()))));
            let handle = tier.ship(
                info.clone(),
                ship_state(state),
                Arc::new(Shipped(Arc::clone(partition))),
                partition.watch(),
                partition.ship_to(),
                partition.compacted(),
            );
            partition.set_shipper(handle);
        }
    }

    /// Ends compaction, commits what is queued, syncs the segments and writes a clean checkpoint. Later appends are refused.
    /// Blocking.
    pub fn stop(&self) {
        self.scrubbing.cancel();
        self.cleaner.stop();
        self.retention.stop();
        self.committer.stop();
        let thread = self.committer_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in there ended the process already.
            thread.join().ok();
        }
    }

    /// How the disk of the data directory is now.
    #[must_use]
    pub fn disk_status(&self) -> DiskStatus {
        self.room.status()
    }

    /// The partitions that are offline, sorted by topic.
    #[must_use]
    pub fn offline(&self) -> Vec<Arc<Partition>> {
        self.registry().offline().cloned().collect()
    }

    /// Counts what is not shipped yet, for `/metrics`.
    pub fn count_unshipped(&self) {
        let topics = self.topics();
        let partitions = topics.iter().flat_map(|topic| topic.partitions());
        let lag = partitions.map(|partition| partition.lag()).fold(Lag::default(), Lag::and);
        self.metrics.ship_lag_is(lag, clock::wall_ms());
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

    /// Checks a topic as its creation would, and creates nothing.
    ///
    /// # Errors
    /// [`CreateTopicError`].
    pub fn check_topic(&self, request: NewTopic) -> Result<TopicPlan, CreateTopicError> {
        let state = self.plan_topic(request, None)?;
        Ok(TopicPlan { partitions: state.partitions.len(), options: state.options })
    }

    /// Creates a topic; it is durable and served on return.
    ///
    /// # Errors
    /// [`CreateTopicError`].
    ///
    /// # Cancel safety
    /// Once begun the creation goes on when the future is dropped.
    pub async fn create_topic(
        self: &Arc<Self>,
        request: NewTopic,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        let state = self.plan_topic(request, None)?;
        self.create_checked(state).await
    }

    async fn create_checked(
        self: &Arc<Self>,
        state: TopicState,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        if !self.room.takes_partitions(state.partitions.len()) {
            return Err(CreateTopicError::DiskFull);
        }
        let name = state.name.clone();
        self.registry_mut().take_name(&name).map_err(|other| taken(&name, other))?;
        let broker = Arc::clone(self);
        let creation = task::spawn("create topic", async move {
            let result = broker.create_planned(state).await;
            if result.is_err() {
                broker.registry_mut().release_name(&name);
            }
            result
        });
        creation.await.unwrap_or(Err(CreateTopicError::Stopping))
    }

    async fn create_planned(
        self: &Arc<Self>,
        state: TopicState,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        // The directories first: what an older topic left there is in the way until they are ready, and once the topic
        // is durable nothing may fail any more.
        let topic = {
            let (broker, state) = (Arc::clone(self), state.clone());
            let opening = tokio::task::spawn_blocking(move || broker.serve_new(&state));
            opening.await.unwrap_or(Err(CreateTopicError::Stopping))?
        };
        if let Some(tier) = self.tier.as_ref().filter(|_| topic.options().vdisk)
            && let Err(error) = tier.put_topic(&topic.info()).await
        {
            // Left there, a rebuild would take it for a topic.
            tier.withdraw_topic(&topic.info()).await;
            return Err(CreateTopicError::ShardServers { why: error.to_string() });
        }
        self.committer
            .record(Event::TopicCreated(state.clone()))
            .await
            .map_err(|Stopped| CreateTopicError::Stopping)?;
        self.insert(&topic);
        self.ship(&topic, &state);
        tracing::info!(topic = %state.name, id = %state.id, partitions = state.partitions.len(), "created topic");
        if let Some(warning) = lost_of_a_vdisk(&topic.options()) {
            tracing::warn!(topic = %state.name, "{warning}");
        }
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
                .map(|log| (log, None))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(CreateTopicError::Storage)?;
        let counters = (&self.local_log, &self.producer_room, &self.metrics);
        Ok(serve(state, logs, self.start_number, &self.committer, counters))
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
        let sealed_secret =
            self.tier.as_ref().map_or(String::new(), |tier| tier.new_topic_secret(id, random()));
        let partition =
            PartitionState::empty(first_offset, LeaderEpoch(0), self.start_number, typed.ships);
        Ok(TopicState {
            id,
            name,
            revision: 0,
            options,
            sealed_secret,
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

    /// Deletes a topic. On return it is gone for everyone, also after a restart, and so are its files.
    ///
    /// # Errors
    /// [`DeleteTopicError`].
    ///
    /// # Cancel safety
    /// Once begun the deletion goes on when the future is dropped.
    pub async fn delete_topic(self: &Arc<Self>, id: TopicId) -> Result<(), DeleteTopicError> {
        let topic = self.topic_by_id(&id).ok_or(DeleteTopicError::Unknown)?;
        self.check_owed(&topic)?;
        let options = topic.options();
        if options.vdisk && !options.vdisk_deletable {
            return Err(DeleteTopicError::Vdisk { topic: topic.name().clone() });
        }
        // From here on nothing is queued behind the event of the deletion.
        for partition in topic.partitions() {
            partition.mark_deleted();
        }
        self.delete_marked(topic).await
    }

    /// Each deletion that the shard servers do not know yet is remembered.
    fn check_owed(&self, topic: &Topic) -> Result<(), DeleteTopicError> {
        let owed = self.tier.as_ref().map_or(0, |tier| tier.owed_deletions());
        if topic.options().ships && owed >= limits::OWED_DELETIONS {
            return Err(DeleteTopicError::ShardServers { owed });
        }
        Ok(())
    }

    /// Has the shard servers told of a deletion that is durable here.
    fn tell_deleted(&self, info: &TopicInfo) {
        let Some(tier) = &self.tier else { return };
        let (committer, topic) = (self.committer.clone(), info.record.id);
        // Nobody waits for it: where it does not become durable the servers are told again.
        let told = move || drop(committer.event(Event::DeletionTold { topic }));
        tier.delete_topic(info, Box::new(told));
    }

    /// Deletes a topic whose partitions take nothing any more.
    async fn delete_marked(self: &Arc<Self>, topic: Arc<Topic>) -> Result<(), DeleteTopicError> {
        if self.registry_mut().remove(&topic.id()).is_none() {
            return Err(DeleteTopicError::Unknown);
        }
        let broker = Arc::clone(self);
        let deletion = task::spawn("delete topic", async move { broker.delete(&topic).await });
        deletion.await.unwrap_or(Err(DeleteTopicError::Stopping))
    }

    async fn delete(self: &Arc<Self>, topic: &Topic) -> Result<(), DeleteTopicError> {
        let id = topic.id();
        self.committer
            .record(Event::TopicDeleted { topic: id })
            .await
            .map_err(|Stopped| DeleteTopicError::Stopping)?;
        for partition in topic.partitions() {
            partition.stop_shipping().await;
        }
        let broker = Arc::clone(self);
        let directories: Vec<_> = (0..)
            .map(|index| recovery::partition_dir(&self.config.data_dir, topic.name(), index))
            .take(topic.partitions().len())
            .collect();
        let partitions = topic.partitions().to_vec();
        let removed = tokio::task::spawn_blocking(move || {
            for partition in &partitions {
                // First, for a pass ends when it sees that, and none begins.
                partition.mark_gone();
                partition.await_compaction();
                partition.leave_disk();
            }
            let data_dir = &broker.config.data_dir;
            let gone = partitions.iter().zip(&directories).map(|(partition, dir)| {
                if partition.offline().is_none() {
                    return log::remove_dir(&*broker.disk, dir);
                }
                let is_others = |id| id != partition.id();
                let cleared = recovery::clear(&*broker.disk, dir, id, is_others);
                let aside = aside_dir(data_dir, partition.id());
                cleared.and(log::remove_dir(&*broker.disk, &aside))
            });
            // One that cannot be removed keeps no other.
            let first = gone.fold(Ok(()), Result::and);
            let synced = broker.disk.sync_dir(data_dir);
            first.and(synced.map_err(|source| log::Error::Io {
                op: "sync",
                path: data_dir.clone(),
                source,
            }))
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(error = in_words(&error), topic = %topic.name(), "files of a deleted topic stay behind");
        }
        self.release(topic.name());
        tracing::info!(topic = %topic.name(), %id, "deleted topic");
        if topic.options().ships {
            self.tell_deleted(&topic.info());
        }
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
        let request = NewTopic {
            name: name.to_owned(),
            partitions: 1,
            options: vec![("tlog.vdisk".to_owned(), Some("true".to_owned()))],
        };
        loop {
            if let Some(topic) = self.topic(name) {
                if topic.options().vdisk {
                    return Ok(topic);
                }
                let [partition] = topic.partitions() else { return Err(refuse()) };
                self.check_owed(&topic)?;
                if !partition.mark_deleted_if_empty() {
                    return Err(refuse());
                }
                match self.delete_marked(topic).await {
                    // Somebody else was faster, here or below.
                    Ok(()) | Err(DeleteTopicError::Unknown) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let planned = self.plan_topic(request.clone(), Some(first_offset));
            let created = match planned {
                Ok(state) => self.create_checked(state).await,
                Err(error) => Err(error),
            };
            match created {
                Ok(topic) => return Ok(topic),
                Err(CreateTopicError::Collides { .. }) => return Err(refuse()),
                // Being created or deleted by somebody else just now.
                Err(CreateTopicError::Exists { .. }) => tokio::time::sleep(TAKEN_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fixes the block size of a vdisk, for ever. Durable on return; the shard servers learn of it when they can be
    /// reached.
    ///
    /// # Errors
    /// [`BlockSizeError`].
    pub async fn set_block_size(&self, id: TopicId, bytes: u32) -> Result<(), BlockSizeError> {
        let topic = self.topic_by_id(&id).ok_or(BlockSizeError::Unknown)?;
        let options = topic.options();
        match options.block_size {
            Some(set) if set == bytes => return Ok(()),
            Some(set) => return Err(BlockSizeError::Set { bytes: set }),
            None if options.vdisk => {}
            None => return Err(BlockSizeError::Unknown),
        }
        let follows = Arc::clone(&topic);
        let durable = self
            .committer
            .event_then(
                Event::BlockSizeSet { topic: id, bytes },
                Box::new(move || follows.set_block_size(bytes)),
            )
            .map_err(|Stopped| BlockSizeError::Stopping)?;
        durable.await.map_err(|_| BlockSizeError::Stopping)?;
        if let Some(tier) = self.tier.clone() {
            // The vdisk must not wait for servers that are away, and a reader of the shards does without.
            task::spawn("topic record", async move {
                if let Err(error) = tier.put_topic(&topic.info()).await {
                    tracing::warn!(%error, topic = %topic.name(), "the shard servers do not know the block size yet");
                }
            });
        }
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
                let next = first.checked_add(PRODUCER_ID_BLOCK);
                let next = next.filter(|next| *next <= limits::PRODUCER_IDS);
                let next = next.ok_or(ProducerIdError::Exhausted)?;
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

    fn insert(&self, topic: &Arc<Topic>) {
        let mut registry = self.registry_mut();
        registry.insert(Arc::clone(topic));
        self.metrics.partitions_are(registry.partition_count());
    }

    fn release(&self, name: &TopicName) {
        let mut registry = self.registry_mut();
        registry.release_name(name);
        self.metrics.partitions_are(registry.partition_count());
        self.metrics.offline_are(registry.offline().count());
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

/// Counts what segments and commit log take as they are after recovery.
fn account<'a>(
    config: &Config,
    data_dir: &DataDir,
    wal: &Wal,
    logs: impl Iterator<Item = &'a Log>,
    metrics: &Metrics,
) -> Result<LocalLog, OpenError> {
    let (segments, commit_log) = (logs.map(Log::bytes).sum::<u64>(), wal.disk_bytes());
    let limit = match config.local_log_limit_bytes {
        Some(limit) => limit,
        None => {
            let free_bytes = match data_dir.disk.space(&config.data_dir) {
                Ok(space) => space.free_bytes,
                // Without bounds.
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => u64::MAX,
                Err(source) => {
                    let path = config.data_dir.display().to_string();
                    return Err(OpenError::Io { op: "read the free space of", path, source });
                }
            };
            default_limit(free_bytes, segments + commit_log)
        }
    };
    Ok(LocalLog::new(limit, segments, commit_log, metrics.clone()))
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// One secret that does not open is damage, and that topic's alone; when none does, the key is at fault.
fn check_key(tier: &Tier, catalogue: &Catalogue) -> Result<(), OpenError> {
    let records = || catalogue.topics.values().map(|state| topic_info(state).record);
    let sealed = || records().filter(|record| record.secret.is_some());
    match sealed().next() {
        Some(record) if !sealed().any(|record| tier.opens(&record)) => {
            Err(OpenError::WrongKey { topic: record.name })
        }
        _ => Ok(()),
    }
}

/// What can no longer be restored of a vdisk whose log does not keep all.
fn lost_of_a_vdisk(options: &TopicOptions) -> Option<&'static str> {
    let is_cut = options.deletes && !options.retention.keeps_all();
    match (options.vdisk, is_cut, options.compaction.is_some()) {
        (true, true, false) => Some(
            "retention deletes the log of this vdisk from its beginning: once it did, neither what the disk holds now nor an \
             earlier state can be restored from the log alone; the blocks that were written before are missing",
        ),
        (true, true, true) => Some(
            "retention deletes the log of this vdisk from its beginning, and what is left is compacted: once it did, neither \
             what the disk holds now nor an earlier state can be restored from the log alone",
        ),
        (true, false, true) => Some(
            "this vdisk is compacted: it can be restored as it is now, and no longer to an earlier offset, sequence or time",
        ),
        (true, false, false) | (false, ..) => None,
    }
}

/// A topic as its record on the shard servers says it.
fn topic_info(state: &TopicState) -> TopicInfo {
    deleted_info(&DeletedTopic::from(state.clone()))
}

/// A deleted topic as its record on the shard servers said it.
fn deleted_info(deleted: &DeletedTopic) -> TopicInfo {
    let options = TopicOptions::from_checked(&deleted.options);
    TopicInfo {
        record: TopicRecord {
            revision: deleted.revision,
            name: deleted.name.clone(),
            id: deleted.id,
            partitions: deleted.partitions,
            options: deleted.options.clone().into_iter().collect(),
            secret: unhex(&deleted.sealed_secret)
                .and_then(|bytes| SealedSecret::from_bytes(&bytes).ok()),
            deleted: false,
            shredded: false,
        },
        vdisk: options.vdisk,
    }
}

fn taken(name: &TopicName, other: TopicName) -> CreateTopicError {
    if other == *name {
        CreateTopicError::Exists { name: name.to_string() }
    } else {
        CreateTopicError::Collides { name: name.to_string(), other }
    }
}

/// A topic as it is served: `logs` are those of its partitions, by index, and why one is offline.
fn serve(
    state: &TopicState,
    logs: Vec<(Log, Option<String>)>,
    start_number: u64,
    committer: &Committer,
    (local_log, producer_room, metrics): (&Arc<LocalLog>, &Arc<ProducerRoom>, &Metrics),
) -> Arc<Topic> {
    let options = Arc::new(RwLock::new(Arc::new(TopicOptions::from_checked(&state.options))));
    let partitions = (0..)
        .zip(state.partitions.iter().zip(logs))
        .map(|(partition, (start, (log, offline)))| {
            let parts = Parts {
                offline,
                topic: state.name.clone(),
                options: Arc::clone(&options),
                committer: committer.clone(),
                producer_room: Arc::clone(producer_room),
                local_log: Arc::clone(local_log),
                metrics: metrics.clone(),
            };
            let id = TopicPartition { topic: state.id, partition };
            Partition::new(id, start, start_number, log, parts)
        })
        .collect();
    Arc::new(Topic::new(topic_info(state), options, partitions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vdisk_that_does_not_keep_all_is_warned_of() {
        let said = |set: &[(&str, &str)]| {
            let set = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            lost_of_a_vdisk(&TopicOptions::from_checked(&set.collect())).unwrap_or_default()
        };
        let (vdisk, compact) = (("tlog.vdisk", "true"), ("cleanup.policy", "compact"));
        let both = ("cleanup.policy", "compact,delete");
        assert_eq!(said(&[vdisk]), "");
        assert_eq!(said(&[("retention.ms", "1"), compact]), "");
        for finite in [("retention.ms", "1000"), ("retention.bytes", "1000")] {
            assert!(said(&[vdisk, finite]).starts_with("retention deletes"));
            assert!(said(&[vdisk, finite, both]).contains("is compacted"));
            // Retention does not hold then.
            assert!(said(&[vdisk, finite, compact]).starts_with("this vdisk is compacted"));
        }
    }
}
