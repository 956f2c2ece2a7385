//! The operations themselves, on a blocking thread.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard};

use bytes::Bytes;

use super::partition::{Bucket, Partition, lock};
use crate::disk::{Disk, Lock, OpenMode, Reserve};
use crate::tier::store::error::{bounded, bounded_listing};
use crate::tier::store::framed::{self, Damage};
use crate::tier::store::manifest_file::{AppendError, ManifestFile};
use crate::tier::store::{
    Fence, Head, Numbered, Persistence, Role, ServerReport, ShardName, Standing, StoreError, Writer,
};
use crate::types::limits::{TIER_ADDRESS_BYTES, TIER_RECORD_BYTES, TIER_SHARD_BYTES};
use crate::types::{DataDirId, LeaderEpoch, TopicId, TopicPartition};

const ID_MAGIC: [u8; 4] = *b"TLSI";
const META_MAGIC: [u8; 4] = *b"TLSC";
const TOPIC_MAGIC: [u8; 4] = *b"TLST";
const FENCE_MAGIC: [u8; 4] = *b"TLSF";
/// Epoch, data directory and time of a fence, before its address.
const FENCE_BYTES: usize = 28;

/// Locks that keep two puts of one shard apart.
const STRIPES: u64 = 64;

/// A directory, opened at its first use.
#[derive(Debug)]
pub(super) struct Directory {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    name: String,
    random: [u8; 16],
    /// Room that is not for shards, where it is of the same file system.
    reserve: Option<Arc<Reserve>>,
    opened: Mutex<Option<Arc<Opened>>>,
    /// Which sync failed: nothing is written any more.
    failed: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Opened {
    _lock: Lock,
    run_id: String,
    /// The reserve is of the same file system.
    is_beside: bool,
    partitions: Mutex<HashMap<TopicPartition, Arc<Partition>>>,
    /// Held while the cluster record or a topic record is written.
    catalogue: Mutex<()>,
    stripes: Vec<Mutex<()>>,
}

impl Directory {
    pub fn new(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        random: [u8; 16],
        reserve: Option<Arc<Reserve>>,
    ) -> Self {
        let name = root.display().to_string();
        let (opened, failed) = (Mutex::default(), Mutex::default());
        Self { disk, root, name, random, reserve, opened, failed }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn opened(&self) -> Result<Arc<Opened>, StoreError> {
        let mut opened = lock(&self.opened);
        if let Some(opened) = &*opened {
            return Ok(Arc::clone(opened));
        }
        let io = |error| self.io(&self.root, error);
        self.disk.create_dir_all(&self.root).map_err(io)?;
        let held = match self.disk.lock(&self.root.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(StoreError::Locked { server: self.name.clone() });
            }
            other => other.map_err(io)?,
        };
        for name in ["topics", "p"] {
            self.disk.create_dir_all(&self.root.join(name)).map_err(io)?;
        }
        // A former process may have ended between making them and the sync.
        self.disk.sync_dir(&self.root).map_err(io)?;
        let new = Arc::new(Opened {
            _lock: held,
            run_id: self.run_id()?,
            is_beside: self
                .reserve
                .as_ref()
                .is_some_and(|reserve| reserve.is_beside(&self.root).unwrap_or(false)),
            partitions: Mutex::default(),
            catalogue: Mutex::default(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        });
        *opened = Some(Arc::clone(&new));
        Ok(new)
    }

    fn run_id(&self) -> Result<String, StoreError> {
        let path = self.root.join("id");
        let id = match self.read_framed(&path, ID_MAGIC, 16)? {
            Some(id) => id,
            None => {
                let id = uuid::Builder::from_random_bytes(self.random).into_uuid();
                self.write_framed(&path, ID_MAGIC, id.as_bytes())?;
                id.as_bytes().to_vec()
            }
        };
        let id = uuid::Uuid::from_slice(&id)
            .map_err(|_| self.corrupt(format!("{} is no id", path.display())))?;
        Ok(id.simple().to_string())
    }

    pub fn inspect(&self) -> Result<ServerReport, StoreError> {
        let opened = self.opened()?;
        self.writable()?;
        Ok(ServerReport {
            run_id: opened.run_id.clone(),
            eviction_policy: None,
            role: Role::Primary,
            loading: false,
            cluster_enabled: false,
            persistence: Persistence::Synced,
            used_bytes: None,
            max_bytes: None,
        })
    }

    pub fn cluster_meta(&self) -> Result<Option<Bytes>, StoreError> {
        self.opened()?;
        let path = self.root.join("meta");
        Ok(self.read_framed(&path, META_MAGIC, TIER_RECORD_BYTES)?.map(Bytes::from))
    }

    pub fn set_cluster_meta(&self, record: Bytes) -> Result<Bytes, StoreError> {
        bounded(&self.name, "the cluster record", record.len(), TIER_RECORD_BYTES)?;
        let opened = self.opened()?;
        let _guard = lock(&opened.catalogue);
        if let Some(standing) = self.cluster_meta()? {
            return Ok(standing);
        }
        self.write_framed(&self.root.join("meta"), META_MAGIC, &record)?;
        Ok(record)
    }

    pub fn put_topic(&self, topic: TopicId, record: &[u8]) -> Result<(), StoreError> {
        bounded(&self.name, "a topic record", record.len(), TIER_RECORD_BYTES)?;
        let opened = self.opened()?;
        let _guard = lock(&opened.catalogue);
        let path = self.root.join("topics").join(topic.to_string());
        self.write_framed(&path, TOPIC_MAGIC, record)
    }

    pub fn topics(&self) -> Result<Vec<(TopicId, Bytes)>, StoreError> {
        self.opened()?;
        let dir = self.root.join("topics");
        let names = self.disk.list(&dir).map_err(|error| self.io(&dir, error))?;
        let mut topics = Vec::new();
        let mut bytes = 0;
        // Others are temporary files of a write that was broken off.
        for id in names.iter().filter_map(|name| name.parse::<TopicId>().ok()) {
            let path = dir.join(id.to_string());
            if let Some(record) = self.read_framed(&path, TOPIC_MAGIC, TIER_RECORD_BYTES)? {
                bytes += record.len() as u64;
                bounded_listing(&self.name, bytes)?;
                topics.push((id, Bytes::from(record)));
            }
        }
        Ok(topics)
    }

    pub fn fence(&self, id: TopicPartition) -> Result<Option<Fence>, StoreError> {
        let partition = self.partition(id)?;
        Ok(read(&partition).clone())
    }

    pub fn raise_fence(
        &self,
        id: TopicPartition,
        writer: Writer,
        raised_at_ms: i64,
        address: String,
    ) -> Result<(), StoreError> {
        bounded(&self.name, "an address", address.len(), TIER_ADDRESS_BYTES)?;
        let Writer { epoch, data_dir } = writer;
        let partition = self.partition(id)?;
        self.raise(&partition, writer, Fence { epoch, data_dir, raised_at_ms, address })
    }

    fn raise(
        &self,
        partition: &Partition,
        writer: Writer,
        raised: Fence,
    ) -> Result<(), StoreError> {
        let mut fence = partition.fence.write().unwrap_or_else(PoisonError::into_inner);
        match writer.against(fence.as_ref()) {
            Standing::Owner => {}
            Standing::Fenced => return Err(self.fenced(fence.as_ref())),
            Standing::Above => {
                self.make(partition)?;
                let mut content = Vec::with_capacity(FENCE_BYTES + raised.address.len());
                content.extend_from_slice(&raised.epoch.0.to_le_bytes());
                content.extend_from_slice(raised.data_dir.as_bytes());
                content.extend_from_slice(&raised.raised_at_ms.to_le_bytes());
                content.extend_from_slice(raised.address.as_bytes());
                self.write_framed(&partition.dir.join("fence"), FENCE_MAGIC, &content)?;
                *fence = Some(raised);
            }
        }
        Ok(())
    }

    /// The fence, held still while the writer's put goes on; raised before if the writer is above it.
    fn admit<'p>(
        &self,
        partition: &'p Partition,
        writer: Writer,
    ) -> Result<RwLockReadGuard<'p, Option<Fence>>, StoreError> {
        self.writable()?;
        loop {
            let fence = read(partition);
            match writer.against(fence.as_ref()) {
                Standing::Owner => return Ok(fence),
                Standing::Fenced => return Err(self.fenced(fence.as_ref())),
                Standing::Above => {
                    drop(fence);
                    self.raise(partition, writer, Fence::raised_by_put(writer))?;
                }
            }
        }
    }

    pub fn put_shard(
        &self,
        name: ShardName,
        writer: Writer,
        shard: &[u8],
    ) -> Result<(), StoreError> {
        bounded(&self.name, "a shard", shard.len(), TIER_SHARD_BYTES)?;
        let opened = self.opened()?;
        self.leave_room(&opened, shard.len())?;
        let partition = self.partition(name.partition)?;
        let _fence = self.admit(&partition, writer)?;
        let _stripe = opened.stripe(name);
        let bucket = self.bucket(&partition, name.number, true)?;
        let bucket = bucket.ok_or_else(|| self.refused("its subdirectory is gone"))?;
        let path = bucket.dir.join(file_name(name));
        match self.read_shard(&path)? {
            None => self.write_shard(&path, shard)?,
            Some(old) if old == shard => {}
            Some(_) => return Err(StoreError::Conflict { server: self.name.clone(), name }),
        }
        bucket.sync(&*self.disk).map_err(|error| self.fail(&bucket.dir, error))
    }

    /// Refuses what would take the last of the data directory's file system: deletions, and what the server has promised,
    /// need it more. Only shards take much.
    fn leave_room(&self, opened: &Opened, bytes: usize) -> Result<(), StoreError> {
        let Some(reserve) = self.reserve.as_ref().filter(|_| opened.is_beside) else {
            return Ok(());
        };
        // Twice what appends leave, so that these do not end for the shards of what was appended before.
        let needed = bytes as u64 + 2 * reserve.floor_bytes() + reserve.missing_bytes();
        match reserve.space() {
            Ok(space) if space.free_bytes < needed => Err(self.refused(&format!(
                "{} bytes are free on its disk, which is the data directory's too, and the last of it is not for shards: \
                 free some space there, or give -storage-dir directories of other disks",
                space.free_bytes
            ))),
            _ => Ok(()),
        }
    }

    pub fn get_shard(&self, name: ShardName) -> Result<Option<Bytes>, StoreError> {
        let partition = self.partition(name.partition)?;
        let Some(bucket) = self.bucket(&partition, name.number, false)? else { return Ok(None) };
        let shard = self.read_shard(&bucket.dir.join(file_name(name)))?;
        Ok(shard.map(Bytes::from))
    }

    fn bucket(
        &self,
        partition: &Partition,
        number: u64,
        create: bool,
    ) -> Result<Option<Arc<Bucket>>, StoreError> {
        partition
            .bucket(&*self.disk, &self.root, number, create)
            .map_err(|error| self.write_failed(&partition.dir, error))
    }

    fn read_shard(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        match self.disk.read_all(path, TIER_SHARD_BYTES as u64) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io(path, error)),
        }
    }

    /// Leaves the shard under its name, its content synced, its directory not yet.
    fn write_shard(&self, path: &Path, shard: &[u8]) -> Result<(), StoreError> {
        let temporary = path.with_extension("tmp");
        let write = || {
            if self.disk.exists(&temporary)? {
                self.disk.remove_file(&temporary)?;
            }
            let file = self.disk.open(&temporary, OpenMode::CreateNew)?;
            file.write_all_at(shard, 0)?;
            // A failure here needs no distrust: the next attempt begins with another file.
            file.sync()?;
            self.disk.rename(&temporary, path)
        };
        write().map_err(|error| self.io(path, error))
    }

    pub fn put_entry(
        &self,
        id: TopicPartition,
        writer: Writer,
        entry: Numbered,
        head: Option<Head>,
    ) -> Result<(), StoreError> {
        bounded(&self.name, "a manifest entry", entry.1.len(), TIER_RECORD_BYTES)?;
        if let Some((_, record)) = &head {
            bounded(&self.name, "a head record", record.len(), TIER_RECORD_BYTES)?;
        }
        let partition = self.partition(id)?;
        let _fence = self.admit(&partition, writer)?;
        self.with_manifest(&partition, |manifest| {
            self.writable()?;
            bounded_listing(&self.name, manifest.bytes())?;
            self.make(&partition)?;
            let path = partition.dir.join("manifest");
            manifest.append(entry, head).map_err(|error| match error {
                AppendError::Write(error) => self.io(&path, error),
                AppendError::Sync(error) => self.fail(&path, error),
            })
        })
    }

    pub fn entries(&self, id: TopicPartition) -> Result<Vec<Numbered>, StoreError> {
        let partition = self.partition(id)?;
        self.with_manifest(&partition, |manifest| {
            bounded_listing(&self.name, manifest.bytes())?;
            manifest.entries().map_err(|damage| self.damage(&partition.dir, damage))
        })
    }

    pub fn heads(&self, id: TopicPartition) -> Result<Vec<Head>, StoreError> {
        let partition = self.partition(id)?;
        self.with_manifest(&partition, |manifest| Ok(manifest.heads().to_vec()))
    }

    fn with_manifest<T>(
        &self,
        partition: &Partition,
        body: impl FnOnce(&mut ManifestFile) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut manifest = lock(&partition.manifest);
        if manifest.is_none() {
            let path = partition.dir.join("manifest");
            let opened = ManifestFile::open(Arc::clone(&self.disk), path)
                .map_err(|damage| self.damage(&partition.dir, damage))?;
            if opened.bytes() > 0 {
                self.make(partition)?;
                self.disk
                    .sync_dir(&partition.dir)
                    .map_err(|error| self.fail(&partition.dir, error))?;
            }
            *manifest = Some(opened);
        }
        body(manifest.as_mut().expect("it was opened above"))
    }

    /// The directory is not synced: a shard that is back after a power cut has an entry that says that it goes.
    pub fn remove_shard(&self, name: ShardName) -> Result<(), StoreError> {
        let partition = self.partition(name.partition)?;
        self.writable()?;
        let Some(bucket) = self.bucket(&partition, name.number, false)? else { return Ok(()) };
        let path = bucket.dir.join(file_name(name));
        match self.disk.remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| self.io(&path, error)),
        }
    }

    pub fn remove_partition(&self, id: TopicPartition) -> Result<(), StoreError> {
        let partition = self.partition(id)?;
        self.writable()?;
        let mut fence = partition.fence.write().unwrap_or_else(PoisonError::into_inner);
        let mut manifest = lock(&partition.manifest);
        let parent = self.root.join("p");
        let removed =
            self.disk.remove_dir_all(&partition.dir).and_then(|()| self.disk.sync_dir(&parent));
        // Also after a failure: some of it may be gone.
        *fence = None;
        *manifest = None;
        partition.forget();
        removed.map_err(|error| self.io(&partition.dir, error))
    }

    fn partition(&self, id: TopicPartition) -> Result<Arc<Partition>, StoreError> {
        let opened = self.opened()?;
        let mut partitions = lock(&opened.partitions);
        if let Some(partition) = partitions.get(&id) {
            return Ok(Arc::clone(partition));
        }
        let dir = self.root.join("p").join(id.to_string());
        let path = dir.join("fence");
        let fence = self
            .read_framed(&path, FENCE_MAGIC, FENCE_BYTES + TIER_ADDRESS_BYTES)?
            .map(|content| {
                decode_fence(&content)
                    .ok_or_else(|| self.corrupt(format!("{} is no fence", path.display())))
            })
            .transpose()?;
        let partition = Arc::new(Partition::new(dir, fence));
        partitions.insert(id, Arc::clone(&partition));
        Ok(partition)
    }

    fn make(&self, partition: &Partition) -> Result<(), StoreError> {
        partition
            .make(&*self.disk, &self.root)
            .map_err(|error| self.write_failed(&partition.dir, error))
    }

    fn read_framed(
        &self,
        path: &Path,
        magic: [u8; 4],
        limit: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        framed::read(&*self.disk, path, magic, limit).map_err(|damage| self.damage(path, damage))
    }

    fn write_framed(&self, path: &Path, magic: [u8; 4], content: &[u8]) -> Result<(), StoreError> {
        self.writable()?;
        framed::write(&*self.disk, path, magic, content)
            .map_err(|error| self.write_failed(path, error))
    }

    fn writable(&self) -> Result<(), StoreError> {
        match &*lock(&self.failed) {
            None => Ok(()),
            Some(reason) => Err(self.refused(reason)),
        }
    }

    /// After a failed write that may have been a failed sync.
    fn write_failed(&self, path: &Path, error: io::Error) -> StoreError {
        // What has a known cause left nothing undecided behind, or is cured by doing all of it again.
        if error.kind() == io::ErrorKind::NotFound || known_cure(error.kind()).is_some() {
            return self.io(path, error);
        }
        self.fail(path, error)
    }

    /// After a failed sync: refuses all writes from now on.
    fn fail(&self, path: &Path, error: io::Error) -> StoreError {
        let reason = format!(
            "a sync of {} failed ({error}) and what it holds is not known; check the disk and restart the server",
            path.display()
        );
        tracing::error!(server = self.name, reason, "a shard directory takes no more writes");
        *lock(&self.failed) = Some(reason.clone());
        self.refused(&reason)
    }

    fn refused(&self, reason: &str) -> StoreError {
        StoreError::Refused { server: self.name.clone(), reason: reason.to_owned() }
    }

    fn corrupt(&self, what: String) -> StoreError {
        StoreError::Corrupt { server: self.name.clone(), what }
    }

    fn fenced(&self, fence: Option<&Fence>) -> StoreError {
        match fence {
            Some(fence) => StoreError::Fenced { server: self.name.clone(), fence: fence.clone() },
            None => self.refused("its fence changed meanwhile"),
        }
    }

    fn damage(&self, path: &Path, damage: Damage) -> StoreError {
        match damage {
            Damage::Io(error) => self.io(path, error),
            Damage::Sync(error) => self.fail(path, error),
            Damage::Corrupt(what) => self.corrupt(format!("{}: {what}", path.display())),
        }
    }

    fn io(&self, path: &Path, error: io::Error) -> StoreError {
        let path = path.display();
        if error.kind() == io::ErrorKind::InvalidData {
            return self.corrupt(format!("{path}: {error}"));
        }
        if let Some(cure) = known_cure(error.kind()) {
            return self.refused(&format!("{path}: {error}; {cure}"));
        }
        let source = Box::new(io::Error::new(error.kind(), format!("{path}: {error}")));
        StoreError::Unreachable { server: self.name.clone(), source }
    }
}

fn known_cure(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("free space there"),
        io::ErrorKind::ReadOnlyFilesystem => Some("mount it for writing"),
        io::ErrorKind::PermissionDenied => Some("let this user write there"),
        io::ErrorKind::NotADirectory => Some("name a directory with -storage-dir"),
        _ => None,
    }
}

impl Opened {
    fn stripe(&self, name: ShardName) -> MutexGuard<'_, ()> {
        // Concurrent puts are of neighbouring numbers.
        let stripe = usize::try_from(name.number % STRIPES).unwrap_or(0);
        lock(&self.stripes[stripe])
    }
}

fn read(partition: &Partition) -> RwLockReadGuard<'_, Option<Fence>> {
    partition.fence.read().unwrap_or_else(PoisonError::into_inner)
}

fn file_name(name: ShardName) -> String {
    format!("{:016x}:{}:{}", name.number, name.generation, name.index)
}

fn decode_fence(content: &[u8]) -> Option<Fence> {
    let (epoch, rest) = content.split_first_chunk::<4>()?;
    let (data_dir, rest) = rest.split_first_chunk::<16>()?;
    let (at, address) = rest.split_first_chunk::<8>()?;
    Some(Fence {
        epoch: LeaderEpoch(i32::from_le_bytes(*epoch)),
        data_dir: DataDirId(*data_dir),
        raised_at_ms: i64::from_le_bytes(*at),
        address: str::from_utf8(address).ok()?.to_owned(),
    })
}
