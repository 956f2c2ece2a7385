//! The tier as the broker holds it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::aggregation;
use super::cache::FragmentCache;
use super::catalogue::Fragments;
use super::config::Config;
use super::deletions::{self, Deletions, Told};
use super::encryption::TopicSecret;
use super::error::{ConfigError, WrongKey};
use super::fragment::OpenContext;
use super::local::{Local, ShipState};
use super::metrics::Metrics;
use super::reader::TierReader;
use super::rebuild::{self, Recovered};
use super::records::TopicRecord;
use super::servers::{Backoff, Servers, audit_for_ever};
use super::shipper::Shipper;
use super::status::{Board, Status};
use super::store::audit::Finding;
use super::store::{ReadOnlyStore, ShardStore};
use super::waiting::{LISTING, Progress, Waiting};
use crate::task;
use crate::types::{ClusterId, DataDirId, Offset, TopicId, TopicPartition, Watermarks, in_words};

/// Memory of opened fragments.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Fragments that are fetched for readers at the same time.
const COLD_READS: usize = 16;

/// Memory of all fragments on their way, in KiB. One that needs more takes all of it.
const UNDER_WAY_KIB: u32 = 256 * 1024;

/// How long a topic's record may take to reach enough servers before its creation fails.
const PUT_TOPIC: Duration = Duration::from_secs(10);

/// How long a broker with an intact data directory waits for servers at its start.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Random bytes that a topic's secret takes: itself, and the nonce that seals it.
pub const SECRET_RANDOM_BYTES: usize = 44;

/// A topic as the tier needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// As it stands on the shard servers.
    pub record: TopicRecord,
    /// Whether it is the log of a virtual disk.
    pub vdisk: bool,
}

/// Who opens the tier.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The data directory.
    pub data_dir: DataDirId,
    /// The data directory's cluster; none when it is new.
    pub cluster: Option<ClusterId>,
    /// Identity of the cluster to be made where there is none at all.
    pub fresh: ClusterId,
    /// Where this broker listens: fences name it.
    pub address: String,
}

/// What opening gives.
#[derive(Debug)]
pub struct Opened {
    /// The tier.
    pub tier: Arc<Tier>,
    /// The cluster's identity: as given, found, or fresh.
    pub cluster: ClusterId,
    /// What the servers hold, for a new data directory; else empty.
    pub recovered: Recovered,
}

/// Why the tier does not open. Each names its cure.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The audit forbids a start.
    #[error("{}", .findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused {
        /// Why.
        findings: Vec<Finding>,
    },
    /// The servers belong to another cluster.
    #[error(
        "the shard servers belong to cluster {theirs}{}: name the servers of this cluster, or start with an empty data \
         directory to take over theirs",
        .ours.map(|ours| format!(" and the data directory to cluster {ours}")).unwrap_or_default()
    )]
    OtherCluster {
        /// The data directory's.
        ours: Option<ClusterId>,
        /// The servers'.
        theirs: ClusterId,
    },
    /// The servers belong to several clusters, none of which has most.
    #[error("the shard servers belong to different clusters ({named}): name those of one")]
    SeveralClusters {
        /// Servers and clusters.
        named: String,
    },
    /// What is on the servers was sealed with another key.
    #[error("the shard servers were written with another master key: {0}")]
    WrongKey(#[source] WrongKey),
    /// The start was cancelled.
    #[error("stopped while waiting for the shard servers")]
    Stopped,
}

/// Not enough shard servers answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{done} of {needed} shard servers that are needed have taken it: {why}")]
pub struct Unavailable {
    /// Servers that have it.
    pub done: usize,
    /// W.
    pub needed: usize,
    /// What the others said.
    pub why: String,
}

/// What is not on the shard servers when the tier stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remaining {
    /// Partitions with anything left.
    pub partitions: usize,
    /// Records that are not shipped.
    pub unshipped: u64,
    /// Records that are shipped and not verified whole.
    pub incomplete: u64,
}

/// What all parts of the tier share.
pub(super) struct Core {
    pub config: Config,
    pub cluster: ClusterId,
    pub data_dir: DataDirId,
    pub address: String,
    pub servers: Arc<Servers>,
    pub cache: FragmentCache,
    pub cold_reads: Semaphore,
    memory: Semaphore,
    pub metrics: Metrics,
    pub board: Board,
    pub deletions: Deletions,
    /// What this process last put of each topic.
    records: Mutex<HashMap<TopicId, TopicRecord>>,
    /// Everything committed is to be shipped now.
    pub draining: watch::Sender<bool>,
}

/// The settings and servers only.
impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("config", &self.config)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// The newest record of this topic that anybody here has put: whoever holds an older copy puts that one.
    pub fn newest(&self, record: &TopicRecord) -> TopicRecord {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let known = records.entry(record.id).or_insert_with(|| record.clone());
        if record.revision > known.revision {
            known.clone_from(record);
        }
        known.clone()
    }

    /// Forgets a topic that is gone.
    pub fn forget(&self, topic: &TopicId) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// W, or all servers where they share shards.
    pub fn ship_quorum(&self) -> usize {
        self.config.ship_quorum().min(self.servers.len())
    }

    /// Servers whose listings together hold every entry that counts as shipped, m of them being empty.
    pub fn listing_quorum(&self) -> usize {
        listing_quorum(&self.config, self.servers.len())
    }

    pub fn aggregation(&self, vdisk: bool) -> aggregation::Config {
        if vdisk { self.config.vdisk() } else { self.config.plain() }
    }

    pub fn context<'a>(
        &'a self,
        partition: TopicPartition,
        secret: &'a TopicSecret,
    ) -> OpenContext<'a> {
        OpenContext { cluster: self.cluster, partition, secret, keys: &self.config.keys }
    }

    /// Waits for memory.
    pub async fn reserve(&self, bytes: u64) -> SemaphorePermit<'_> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(UNDER_WAY_KIB);
        self.memory.acquire_many(kib).await.expect("this semaphore is never closed")
    }

    /// The secret of a topic, or why it cannot be had.
    pub fn secret(&self, record: &TopicRecord) -> Result<TopicSecret, String> {
        let none = || "the secret of this topic was destroyed".to_owned();
        let sealed = record.secret.as_ref().ok_or_else(none)?;
        let opened = self.config.keys.unwrap(sealed, self.cluster, record.id);
        opened.map_err(|error| in_words(&error))
    }
}

/// An entry is on n servers before it counts; so it is on one of any N - n + 1, and m may have come back empty.
pub(super) fn listing_quorum(config: &Config, servers: usize) -> usize {
    let spare = servers.saturating_sub(config.shards());
    (spare + 1 + usize::from(config.parity_shards)).min(servers)
}

/// The tier: shard servers, what is shipped to them, and what is read from them.
#[derive(Debug)]
pub struct Tier {
    pub(super) core: Arc<Core>,
    stop: CancellationToken,
    partitions: Mutex<BTreeMap<TopicPartition, Partition>>,
}

#[derive(Debug)]
struct Partition {
    fragments: Arc<Fragments>,
    shipping: Option<Shipping>,
}

#[derive(Debug, Clone)]
struct Shipping {
    watermarks: watch::Receiver<Watermarks>,
    ended: CancellationToken,
}

/// A shipping partition. Dropped, it goes on by itself.
#[derive(Debug)]
pub struct ShipHandle {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ShipHandle {
    /// Ends shipping; on return nothing of it is under way.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic in there ended the process already.
        self.task.await.ok();
    }
}

impl Tier {
    /// Opens the tier. With a new data directory it waits until enough servers answer to know what they hold, and reads
    /// that; `progress` is told in one line what it waits for. With an intact one it looks at the servers for two seconds:
    /// those that are down may be so.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Cancel safety
    /// A cluster may have been made; opening again goes on from there.
    pub async fn open(
        config: Config,
        stores: Vec<Arc<dyn ShardStore>>,
        identity: Identity,
        metrics: Metrics,
        progress: &(dyn Fn(&str) + Send + Sync),
        stop: CancellationToken,
    ) -> Result<Opened, OpenError> {
        let opened = Self::open_idle(config, stores, identity, metrics, progress, stop).await?;
        let tier = &opened.tier;
        task::spawn("deleted topics", deletions::run(Arc::clone(&tier.core), tier.stop.clone()));
        Ok(opened)
    }

    /// As [`Tier::open`]; nothing of its own is done on the servers.
    async fn open_idle(
        config: Config,
        stores: Vec<Arc<dyn ShardStore>>,
        identity: Identity,
        metrics: Metrics,
        progress: Progress<'_>,
        stop: CancellationToken,
    ) -> Result<Opened, OpenError> {
        config.check()?;
        let (shards, dev) = (config.shards(), config.allow_shared_servers);
        let servers = Servers::new(stores, shards, dev, stop.clone(), metrics.clone());
        let is_new = identity.cluster.is_none();
        let cluster = tokio::select! {
            () = stop.cancelled() => return Err(OpenError::Stopped),
            cluster = agree(&servers, &config, &identity, progress) => cluster?,
        };
        servers.belong_to(cluster);
        let audit = audit_for_ever(Arc::downgrade(&servers), config.audit_interval, stop.clone());
        task::spawn("shard server audit", audit);
        let core = Arc::new(Core {
            cluster,
            data_dir: identity.data_dir,
            address: identity.address,
            servers,
            cache: FragmentCache::new(CACHE_BYTES),
            cold_reads: Semaphore::new(COLD_READS),
            memory: Semaphore::new(UNDER_WAY_KIB as usize),
            metrics,
            board: Board::default(),
            deletions: Deletions::default(),
            records: Mutex::default(),
            draining: watch::Sender::new(false),
            config,
        });
        let recovered = if is_new {
            tokio::select! {
                () = stop.cancelled() => return Err(OpenError::Stopped),
                recovered = rebuild::rebuild(&core, progress) => recovered?,
            }
        } else {
            Recovered::default()
        };
        let tier = Arc::new(Self { core, stop, partitions: Mutex::default() });
        Ok(Opened { tier, cluster, recovered })
    }

    /// Opens the tier to read what the servers hold, as a broker with a new data directory would, but changes nothing on
    /// them: no fence, no record, no identity. Nothing must be shipped through it.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn open_read_only(
        config: Config,
        stores: Vec<Arc<dyn ShardStore>>,
        progress: &(dyn Fn(&str) + Send + Sync),
        stop: CancellationToken,
    ) -> Result<Opened, OpenError> {
        let stores = stores
            .into_iter()
            .map(|store| Arc::new(ReadOnlyStore::new(store)) as Arc<dyn ShardStore>)
            .collect();
        let identity = Identity {
            data_dir: DataDirId([0; 16]),
            cluster: None,
            fresh: ClusterId([0; 16]),
            address: String::new(),
        };
        Self::open_idle(config, stores, identity, Metrics::unregistered(), progress, stop).await
    }

    /// A fresh secret for a topic, sealed under the active key, in the form that the local catalogue keeps: hexadecimal
    /// digits of [`SealedSecret::to_bytes`](super::SealedSecret::to_bytes).
    #[must_use]
    pub fn new_topic_secret(&self, topic: TopicId, random: [u8; SECRET_RANDOM_BYTES]) -> String {
        let (mut secret, mut nonce) = ([0; 32], [0; 12]);
        secret.copy_from_slice(&random[..32]);
        nonce.copy_from_slice(&random[32..]);
        let keys = &self.core.config.keys;
        let sealed = keys.wrap(&TopicSecret::new(secret), self.core.cluster, topic, nonce);
        sealed.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Puts a topic's record on all servers; on return at least W have it.
    ///
    /// # Errors
    /// [`Unavailable`] when fewer than W took it within 10 s; some may have it.
    pub async fn put_topic(&self, info: &TopicInfo) -> Result<(), Unavailable> {
        let needed = self.core.ship_quorum();
        put_topic(&self.core, &info.record, needed, PUT_TOPIC).await
    }

    /// Whether the master key opens the secret in a topic's record; a record without one has nothing to be opened.
    #[must_use]
    pub fn opens(&self, record: &TopicRecord) -> bool {
        record.secret.is_none() || self.core.secret(record).is_ok()
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Partition>> {
        // No code below panics between two changes that belong together.
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fragments_of(&self, info: &TopicInfo, id: TopicPartition) -> Arc<Fragments> {
        let mut partitions = self.partitions();
        let partition = partitions.entry(id).or_insert_with(|| Partition {
            fragments: Arc::new(Fragments::new(id, self.core.secret(&info.record))),
            shipping: None,
        });
        Arc::clone(&partition.fragments)
    }

    /// Starts shipping a partition. `watermarks`: shipping follows the high watermark. `ship_to`: everything below is
    /// shipped at once. `compacted`: rises with each pass over the local log; what one left less of is sealed anew.
    pub fn ship(
        self: &Arc<Self>,
        info: TopicInfo,
        state: ShipState,
        local: Arc<dyn Local>,
        watermarks: watch::Receiver<Watermarks>,
        ship_to: watch::Receiver<Offset>,
        compacted: watch::Receiver<u64>,
    ) -> ShipHandle {
        let id = local.id();
        let fragments = self.fragments_of(&info, id);
        let ended = CancellationToken::new();
        let shipping = Shipping { watermarks: watermarks.clone(), ended: ended.clone() };
        if let Some(partition) = self.partitions().get_mut(&id) {
            partition.shipping = Some(shipping);
        }
        let core = Arc::clone(&self.core);
        let shipper =
            Shipper { core, fragments, info, local, state, watermarks, ship_to, compacted };
        let stop = self.stop.child_token();
        let until = stop.clone();
        let task = task::spawn_critical("shipper", async move {
            let _ended = ended.drop_guard();
            shipper.run(until).await;
        });
        ShipHandle { stop, task }
    }

    /// Reads what is below the local start of a partition.
    #[must_use]
    pub fn reader(self: &Arc<Self>, topic: &TopicInfo, id: TopicPartition) -> Arc<TierReader> {
        let fragments = self.fragments_of(topic, id);
        Arc::new(TierReader::new(Arc::clone(&self.core), fragments))
    }

    /// Has a topic marked deleted on the servers, and what its partitions have there removed: at once on those that
    /// answer, and again as others return until W have the mark, when `told` is called. The caller remembers the deletion
    /// until then and calls this again at its next start. Nothing of the topic is shipped any more.
    pub fn delete_topic(&self, info: &TopicInfo, told: Told) {
        let id = info.record.id;
        let mut partitions = self.partitions();
        let of_topic: Vec<_> = partitions.keys().filter(|p| p.topic == id).copied().collect();
        for partition in of_topic {
            partitions.remove(&partition);
            self.core.board.clear_all(partition);
        }
        drop(partitions);
        let newest = self.core.newest(&info.record);
        self.core.deletions.owe(&newest, told);
        self.core.forget(&id);
    }

    /// Deleted topics that servers are still to be told of.
    #[must_use]
    pub fn owed_deletions(&self) -> usize {
        self.core.deletions.count()
    }

    /// Marks the record of a topic that did not come to be deleted on the servers that answer: some may have taken it.
    pub async fn withdraw_topic(&self, info: &TopicInfo) {
        let newest = self.core.newest(&info.record);
        deletions::mark(&self.core, &newest).await;
        self.core.forget(&newest.id);
    }

    /// Ships and completes what is left until the deadline, then ends all shipping. Says what remains.
    pub async fn stop(&self, deadline: Instant) -> Remaining {
        self.core.draining.send_replace(true);
        let shipping: Vec<Shipping> =
            self.partitions().values().filter_map(|partition| partition.shipping.clone()).collect();
        let drained = shipping.iter().map(|shipping| {
            let mut watermarks = shipping.watermarks.clone();
            async move {
                let done = watermarks.wait_for(|marks| marks.complete >= marks.high_watermark);
                tokio::select! {
                    done = done => drop(done),
                    () = shipping.ended.cancelled() => {}
                }
            }
        });
        tokio::time::timeout_at(deadline.into(), join_all(drained)).await.ok();
        self.stop.cancel();
        let mut remaining = Remaining::default();
        for shipping in &shipping {
            let marks = *shipping.watermarks.borrow();
            let unshipped = u64::try_from(marks.high_watermark - marks.shipped).unwrap_or(0);
            let incomplete = u64::try_from(marks.shipped - marks.complete).unwrap_or(0);
            remaining.partitions += usize::from(unshipped + incomplete > 0);
            remaining.unshipped += unshipped;
            remaining.incomplete += incomplete;
        }
        remaining
    }

    /// How the tier is.
    #[must_use]
    pub fn status(&self) -> Status {
        let config = &self.core.config;
        let shape = (usize::from(config.data_shards), usize::from(config.parity_shards));
        let deletions = self.core.deletions.waiting(self.core.ship_quorum());
        Status::of(&self.core.servers, shape, &self.core.board, deletions)
    }
}

/// Whether the topic's fragments may be sealed anew.
pub(super) fn is_compacted(record: &TopicRecord) -> bool {
    let compacts =
        |(key, value): &(String, String)| key == "cleanup.policy" && value.contains("compact");
    record.options.iter().any(compacts)
}

/// Puts the record of a partition's topic where it is missing, until W servers have it.
pub(super) async fn topic_is_known(core: &Arc<Core>, record: &TopicRecord, id: TopicPartition) {
    let waiting = Waiting::new(&core.servers, "make topics known to them");
    let mut waiting = waiting.of(&core.board, id);
    loop {
        let needed = core.ship_quorum();
        match put_topic(core, record, needed, Duration::ZERO).await {
            Ok(()) => return waiting.over(),
            Err(error) => {
                let why = format!("topic {}: {error}", record.name);
                waiting.pause(core.servers.up_count(), needed, Some(&why)).await;
            }
        }
    }
}

pub(super) async fn put_topic(
    core: &Arc<Core>,
    record: &TopicRecord,
    needed: usize,
    patience: Duration,
) -> Result<(), Unavailable> {
    let give_up = tokio::time::Instant::now() + patience;
    loop {
        let newest = core.newest(record);
        put_record(core, &newest, needed, give_up).await?;
        // A change that came meanwhile may have been overwritten on some server.
        if core.newest(record).revision == newest.revision {
            return Ok(());
        }
    }
}

async fn put_record(
    core: &Arc<Core>,
    record: &TopicRecord,
    needed: usize,
    give_up: tokio::time::Instant,
) -> Result<(), Unavailable> {
    let refuse = |done, why| Unavailable { done, needed, why };
    let encoded = record.encode(&core.config.keys);
    let bytes = Bytes::from(encoded.map_err(|error| refuse(0, in_words(&error)))?);
    let mut backoff = Backoff::new();
    loop {
        if core.deletions.is_gone(&record.id) {
            return Err(refuse(0, "the topic was deleted".to_owned()));
        }
        let servers = &core.servers;
        let bytes = &bytes;
        let answers = servers
            .every(|index| async move {
                servers.call(index, |store| store.put_topic(record.id, bytes.clone())).await
            })
            .await;
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        if done >= needed {
            return Ok(());
        }
        if tokio::time::Instant::now() >= give_up {
            let why = answers.into_iter().find_map(Result::err);
            return Err(refuse(done, why.map_or(String::new(), |error| in_words(&error))));
        }
        backoff.pause().await;
    }
}

/// Which cluster this is.
async fn agree(
    servers: &Arc<Servers>,
    config: &Config,
    identity: &Identity,
    progress: Progress<'_>,
) -> Result<ClusterId, OpenError> {
    let total = servers.len();
    let quorum = config.ship_quorum().min(total);
    let mut waiting = Waiting::new(servers, LISTING).telling(Some(progress));
    loop {
        let looked = tokio::time::timeout(FIRST_LOOK, servers.check_all()).await;
        let named = looked.unwrap_or_else(|_| servers.named());
        refuse_unfit(servers)?;
        let answered = named.iter().flatten().count();
        if let Some(ours) = identity.cluster {
            let foreign = |cluster: &&ClusterId| **cluster != ours;
            let others: Vec<&ClusterId> =
                named.iter().flatten().flatten().filter(foreign).collect();
            return match others.first() {
                Some(theirs) if others.len() * 2 > answered => {
                    Err(OpenError::OtherCluster { ours: Some(ours), theirs: **theirs })
                }
                _ => Ok(ours),
            };
        }
        let voted = majority(servers, &named)?;
        // An existing cluster is on W servers, so any N - W + 1 know of it. A new one is made only where W say that they
        // are empty: fewer may be those that were replaced.
        let known = listing_quorum(config, total).max(total - quorum + 1).min(total);
        match voted {
            Some((cluster, _)) if answered >= known => {
                waiting.over();
                return Ok(cluster);
            }
            None if answered >= quorum => {
                waiting.over();
                return Ok(identity.fresh);
            }
            _ => {}
        }
        let needed = if voted.is_some() { known } else { quorum };
        waiting.pause(answered, needed, None).await;
    }
}

/// What forbids a start whatever else there is.
fn refuse_unfit(servers: &Servers) -> Result<(), OpenError> {
    // Servers that are merely away are no refusal.
    let findings: Vec<Finding> = servers.findings().refusals().cloned().collect();
    if findings.is_empty() { Ok(()) } else { Err(OpenError::Refused { findings }) }
}

/// The cluster that most servers name, with its votes.
fn majority(
    servers: &Servers,
    named: &[Option<Option<ClusterId>>],
) -> Result<Option<(ClusterId, usize)>, OpenError> {
    let mut votes: BTreeMap<ClusterId, usize> = BTreeMap::new();
    for cluster in named.iter().flatten().flatten() {
        *votes.entry(*cluster).or_default() += 1;
    }
    let most =
        votes.iter().map(|(cluster, votes)| (*cluster, *votes)).max_by_key(|(_, votes)| *votes);
    let Some((cluster, count)) = most else { return Ok(None) };
    if votes.values().filter(|votes| **votes == count).count() > 1 {
        let each = servers.all().zip(named).filter_map(|(server, named)| {
            named.flatten().map(|cluster| format!("{}: {cluster}", server.name()))
        });
        return Err(OpenError::SeveralClusters { named: each.collect::<Vec<_>>().join(", ") });
    }
    Ok(Some((cluster, count)))
}

#[cfg(test)]
mod promises;
#[cfg(test)]
mod renewals;
#[cfg(test)]
mod tests;
