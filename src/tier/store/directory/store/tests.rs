use std::path::Path;

use super::*;
use crate::disk::FileDisk;
use crate::tier::store::conformance::{self, fresh_partition, writer};

fn store(root: &Path) -> DirectoryStore {
    DirectoryStore::new(Arc::new(FileDisk), root.to_owned(), [9; 16])
}

fn shard(partition: TopicPartition, number: u64) -> ShardName {
    ShardName { partition, number, generation: 0, index: 4 }
}

#[tokio::test]
async fn a_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(Arc::new(store(&dir.path().join("not/yet/there")))).await;
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"bytes");
    let first = store(dir.path());
    let run_id = first.inspect().await.unwrap().run_id;
    first.set_cluster_meta(bytes.clone()).await.unwrap();
    first.put_topic(p.topic, bytes.clone()).await.unwrap();
    first.raise_fence(p, writer(3, 1), 77, "host:1".into()).await.unwrap();
    let fence = first.fence(p).await.unwrap();
    first.put_shard(shard(p, 4096), writer(3, 1), bytes.clone()).await.unwrap();
    first
        .put_entry(p, writer(3, 1), 4096, bytes.clone(), Some((4096, bytes.clone())))
        .await
        .unwrap();
    drop(first);
    // Another random value: the id is the directory's.
    let again = DirectoryStore::new(Arc::new(FileDisk), dir.path().to_owned(), [1; 16]);
    assert_eq!(again.inspect().await.unwrap().run_id, run_id);
    assert_eq!(again.cluster_meta().await.unwrap(), Some(bytes.clone()));
    assert_eq!(again.topics().await.unwrap(), [(p.topic, bytes.clone())]);
    assert_eq!(again.fence(p).await.unwrap(), fence);
    assert_eq!(again.get_shard(shard(p, 4096)).await.unwrap(), Some(bytes.clone()));
    assert_eq!(again.entries(p).await.unwrap(), [(4096, bytes.clone())]);
    assert_eq!(again.heads(p).await.unwrap(), [(4096, bytes)]);
}

#[tokio::test]
async fn files_have_the_names_of_the_module_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"as it is");
    store.put_shard(shard(p, 4097), writer(0, 1), bytes.clone()).await.unwrap();
    let path = format!("p/{p}/s/0000000000001/0000000000001001:0:4");
    assert_eq!(std::fs::read(dir.path().join(path)).unwrap(), bytes);
}

#[tokio::test]
async fn two_stores_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    first.inspect().await.unwrap();
    let second = store(dir.path());
    let error = second.inspect().await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    second.inspect().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_opened_works_once_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("shards");
    std::fs::write(&root, b"a file").unwrap();
    let store = store(&root);
    assert!(store.inspect().await.is_err());
    std::fs::remove_file(&root).unwrap();
    store.inspect().await.unwrap();
}

#[tokio::test]
async fn a_shard_that_was_half_written_is_not_there_and_can_be_put() {
    let dir = tempfile::tempdir().unwrap();
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"whole");
    store(dir.path()).put_shard(shard(p, 1), writer(0, 1), bytes.clone()).await.unwrap();
    let bucket = dir.path().join(format!("p/{p}/s/0000000000000"));
    let leftover = bucket.join("0000000000000002:0:4.tmp");
    std::fs::write(&leftover, b"who").unwrap();
    let store = store(dir.path());
    assert_eq!(store.get_shard(shard(p, 2)).await.unwrap(), None);
    assert!(!leftover.exists());
    store.put_shard(shard(p, 2), writer(0, 1), bytes.clone()).await.unwrap();
    assert_eq!(store.get_shard(shard(p, 2)).await.unwrap(), Some(bytes));
}

#[tokio::test]
async fn damaged_files_are_named_and_not_taken_for_missing() {
    let dir = tempfile::tempdir().unwrap();
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"x");
    let first = store(dir.path());
    first.set_cluster_meta(bytes.clone()).await.unwrap();
    first.put_topic(p.topic, bytes.clone()).await.unwrap();
    for number in 1..3 {
        first.put_entry(p, writer(1, 1), number, bytes.clone(), None).await.unwrap();
    }
    drop(first);
    let files = [
        dir.path().join("meta"),
        dir.path().join(format!("topics/{}", p.topic)),
        dir.path().join(format!("p/{p}/fence")),
        dir.path().join(format!("p/{p}/manifest")),
    ];
    for path in &files {
        let mut content = std::fs::read(path).unwrap();
        content[16] ^= 1;
        std::fs::write(path, content).unwrap();
    }
    let store = store(dir.path());
    let errors = [
        store.cluster_meta().await.map(drop).unwrap_err(),
        store.set_cluster_meta(bytes.clone()).await.map(drop).unwrap_err(),
        store.topics().await.map(drop).unwrap_err(),
        store.fence(p).await.map(drop).unwrap_err(),
        store.put_shard(shard(p, 1), writer(1, 1), bytes.clone()).await.unwrap_err(),
        store.entries(p).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
    std::fs::remove_file(&files[2]).unwrap();
    for result in [
        store.entries(p).await.map(drop),
        store.put_entry(p, writer(1, 1), 3, bytes.clone(), None).await,
    ] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}

#[tokio::test]
async fn puts_of_many_partitions_and_subdirectories_go_on_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let partitions = [fresh_partition(), fresh_partition(), fresh_partition()];
    let content = |name: &ShardName| Bytes::from(name.to_string());
    let names: Vec<_> = (0..90u64).map(|i| shard(partitions[(i % 3) as usize], i * 1500)).collect();
    let puts = names.iter().map(|name| store.put_shard(*name, writer(1, 1), content(name)));
    for result in futures_util::future::join_all(puts).await {
        result.unwrap();
    }
    for name in &names {
        assert_eq!(store.get_shard(*name).await.unwrap(), Some(content(name)));
    }
}

/// The real disk, until its directory syncs are made to fail.
#[derive(Debug, Default)]
struct FailingDisk {
    fails: std::sync::atomic::AtomicBool,
}

impl Disk for FailingDisk {
    fn open(
        &self,
        path: &Path,
        mode: crate::disk::OpenMode,
    ) -> std::io::Result<Arc<dyn crate::disk::DiskFile>> {
        FileDisk.open(path, mode)
    }
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        FileDisk.create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        FileDisk.list(dir)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        FileDisk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        FileDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        FileDisk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> std::io::Result<()> {
        FileDisk.remove_dir_all(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        if self.fails.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::Error::other("made up"));
        }
        FileDisk.sync_dir(dir)
    }
    fn space(&self, path: &Path) -> std::io::Result<crate::disk::Space> {
        FileDisk.space(path)
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_until_it_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let fails = |yes| disk.fails.store(yes, std::sync::atomic::Ordering::SeqCst);
    let open = || DirectoryStore::new(disk.clone(), dir.path().to_owned(), [2; 16]);
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"x");
    let first = open();
    first.put_shard(shard(p, 1), writer(1, 1), bytes.clone()).await.unwrap();
    fails(true);
    let error = first.put_shard(shard(p, 2), writer(1, 1), bytes.clone()).await.unwrap_err();
    assert!(error.to_string().contains("restart the server"), "{error}");
    fails(false);
    // The shard is visible, and a second sync would succeed without having written anything.
    for result in [
        first.put_shard(shard(p, 2), writer(1, 1), bytes.clone()).await,
        first.put_entry(p, writer(1, 1), 1, bytes.clone(), None).await,
        first.raise_fence(p, writer(2, 1), 1, "a".into()).await,
        first.put_topic(p.topic, bytes.clone()).await,
        first.inspect().await.map(drop),
    ] {
        assert!(matches!(result, Err(StoreError::Refused { .. })), "{result:?}");
    }
    assert_eq!(first.get_shard(shard(p, 1)).await.unwrap(), Some(bytes.clone()));
    drop(first);
    open().put_shard(shard(p, 2), writer(1, 1), bytes).await.unwrap();
}

/// The shards' file system is the data directory's: what is left of it at the end is not theirs.
#[tokio::test]
async fn shards_leave_the_last_room_to_the_local_log() {
    let disk = crate::disk::sim::SimDisk::new();
    disk.set_capacity(100 << 20, 1_000);
    let reserve = Reserve::find(Arc::new(disk.clone()), "/reserve".into(), 16 << 20).unwrap();
    let reserve = Arc::new(reserve);
    while reserve.missing_bytes() > 0 {
        reserve.refill().unwrap();
    }
    let store = DirectoryStore::beside(
        Arc::new(disk.clone()),
        "/shards/0".into(),
        [1; 16],
        reserve.clone(),
    );
    let p = fresh_partition();
    let bytes = Bytes::from(vec![7; 1 << 20]);
    let mut stored = 0;
    let error = loop {
        match store.put_shard(shard(p, stored), writer(1, 1), bytes.clone()).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_transient() && error.to_string().contains("-storage-dir"), "{error}");
    let left = disk.space(Path::new("/")).unwrap().free_bytes;
    assert!(left >= 2 * reserve.floor_bytes() && left < 3 * reserve.floor_bytes(), "{left}");
    // What is small, and what deletions need, goes on.
    store.put_topic(p.topic, Bytes::from_static(b"deleted")).await.unwrap();
    let others = DirectoryStore::new(Arc::new(disk.clone()), "/shards/1".into(), [1; 16]);
    others.put_shard(shard(p, 1), writer(1, 1), bytes).await.unwrap();
}
