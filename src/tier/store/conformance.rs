//! What every store must do, run against each of them. A case takes partitions of its own, so that all share a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Fence, HEADS, ShardName, ShardStore, StoreError, Writer};
use crate::types::limits::{TIER_RECORD_BYTES, TIER_SHARD_BYTES};
use crate::types::{DataDirId, LeaderEpoch, TopicId, TopicPartition};

type Store = Arc<dyn ShardStore>;

/// Runs every case on an empty store.
pub async fn run(store: Store) {
    the_cluster_record_is_set_once(&store).await;
    topic_records_are_replaced_and_listed(&store).await;
    a_fence_only_rises(&store).await;
    a_put_is_refused_below_the_fence(&store).await;
    a_put_above_the_fence_raises_it(&store).await;
    a_shard_may_be_put_twice_and_never_changed(&store).await;
    shards_come_back_byte_for_byte(&store).await;
    entries_are_replaced_by_number(&store).await;
    heads_are_newest_first_and_five(&store).await;
    many_entries_are_all_listed(&store).await;
    concurrent_puts_of_one_name_have_one_winner(&store).await;
    values_beyond_their_bound_are_refused(&store).await;
    a_removed_shard_is_gone_and_the_others_stay(&store).await;
    a_removed_partition_leaves_nothing_and_others_stay(&store).await;
}

/// A partition that no other call has named.
pub fn fresh_partition() -> TopicPartition {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut id = [0xc0; 16];
    id[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    TopicPartition { topic: TopicId(id), partition: 2 }
}

/// A writer.
pub fn writer(epoch: i32, dir: u8) -> Writer {
    Writer { epoch: LeaderEpoch(epoch), data_dir: DataDirId([dir; 16]) }
}

fn shard(partition: TopicPartition, number: u64, index: u8) -> ShardName {
    ShardName { partition, number, generation: 0, index }
}

#[track_caller]
fn expect_fenced<T: std::fmt::Debug>(result: Result<T, StoreError>, by: Writer) -> Fence {
    match result {
        Err(StoreError::Fenced { fence, .. }) => {
            assert_eq!((fence.epoch, fence.data_dir), (by.epoch, by.data_dir));
            fence
        }
        other => panic!("expected a refusal by the fence, got {other:?}"),
    }
}

async fn the_cluster_record_is_set_once(store: &Store) {
    assert_eq!(store.cluster_meta().await.unwrap(), None);
    let (one, two) = (Bytes::from_static(b"one\0\xff"), Bytes::from_static(b"two"));
    assert_eq!(store.set_cluster_meta(one.clone()).await.unwrap(), one);
    assert_eq!(store.set_cluster_meta(two).await.unwrap(), one);
    assert_eq!(store.cluster_meta().await.unwrap(), Some(one));
}

async fn topic_records_are_replaced_and_listed(store: &Store) {
    assert_eq!(store.topics().await.unwrap(), []);
    let (a, b) = (TopicId([1; 16]), TopicId([2; 16]));
    store.put_topic(b, Bytes::from_static(b"b")).await.unwrap();
    store.put_topic(a, Bytes::from_static(b"a")).await.unwrap();
    store.put_topic(b, Bytes::from_static(b"\0b2")).await.unwrap();
    let expected = [(a, Bytes::from_static(b"a")), (b, Bytes::from_static(b"\0b2"))];
    assert_eq!(store.topics().await.unwrap(), expected);
}

async fn a_fence_only_rises(store: &Store) {
    let p = fresh_partition();
    assert_eq!(store.fence(p).await.unwrap(), None);
    store.raise_fence(p, writer(5, 1), 1000, "here:1".into()).await.unwrap();
    let first = Fence {
        epoch: LeaderEpoch(5),
        data_dir: DataDirId([1; 16]),
        raised_at_ms: 1000,
        address: "here:1".into(),
    };
    assert_eq!(store.fence(p).await.unwrap(), Some(first.clone()));
    // Again the same: a success that changes nothing.
    store.raise_fence(p, writer(5, 1), 2000, "there:2".into()).await.unwrap();
    assert_eq!(store.fence(p).await.unwrap(), Some(first.clone()));
    let refused = store.raise_fence(p, writer(5, 2), 3000, "x".into()).await;
    assert_eq!(expect_fenced(refused, writer(5, 1)), first);
    expect_fenced(store.raise_fence(p, writer(4, 1), 3000, "x".into()).await, writer(5, 1));
    store.raise_fence(p, writer(6, 2), 4000, "y".into()).await.unwrap();
    assert_eq!(store.fence(p).await.unwrap().unwrap().address, "y");
}

async fn a_put_is_refused_below_the_fence(store: &Store) {
    let p = fresh_partition();
    store.raise_fence(p, writer(5, 1), 1, "a".into()).await.unwrap();
    let bytes = Bytes::from_static(b"shard");
    for refused in [writer(4, 1), writer(5, 2)] {
        let put = store.put_shard(shard(p, 1, 0), refused, bytes.clone()).await;
        expect_fenced(put, writer(5, 1));
        let put = store.put_entry(p, refused, 1, bytes.clone(), Some((1, bytes.clone()))).await;
        expect_fenced(put, writer(5, 1));
    }
    assert_eq!(store.get_shard(shard(p, 1, 0)).await.unwrap(), None);
    assert_eq!(store.entries(p).await.unwrap(), []);
    assert_eq!(store.heads(p).await.unwrap(), []);
    store.put_shard(shard(p, 1, 0), writer(5, 1), bytes.clone()).await.unwrap();
    // The fence is checked even where the bytes are there already.
    expect_fenced(store.put_shard(shard(p, 1, 0), writer(4, 1), bytes).await, writer(5, 1));
}

async fn a_put_above_the_fence_raises_it(store: &Store) {
    let (p, q) = (fresh_partition(), fresh_partition());
    let bytes = Bytes::from_static(b"x");
    store.put_shard(shard(p, 1, 0), writer(3, 1), bytes.clone()).await.unwrap();
    assert_eq!(store.fence(p).await.unwrap(), Some(Fence::raised_by_put(writer(3, 1))));
    store.raise_fence(q, writer(3, 1), 9, "a".into()).await.unwrap();
    store.put_entry(q, writer(4, 2), 1, bytes.clone(), None).await.unwrap();
    assert_eq!(store.fence(q).await.unwrap(), Some(Fence::raised_by_put(writer(4, 2))));
    expect_fenced(store.put_entry(q, writer(3, 1), 2, bytes, None).await, writer(4, 2));
}

async fn a_shard_may_be_put_twice_and_never_changed(store: &Store) {
    let p = fresh_partition();
    let name = shard(p, 7, 1);
    let bytes = Bytes::from_static(b"first");
    store.put_shard(name, writer(1, 1), bytes.clone()).await.unwrap();
    store.put_shard(name, writer(1, 1), bytes.clone()).await.unwrap();
    for other in [&b"other"[..], b"firs", b"first\0"] {
        match store.put_shard(name, writer(1, 1), Bytes::copy_from_slice(other)).await {
            Err(StoreError::Conflict { name: which, .. }) => assert_eq!(which, name),
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    assert_eq!(store.get_shard(name).await.unwrap(), Some(bytes.clone()));
    // A retry after a claim sends the same bytes under a higher epoch.
    store.put_shard(name, writer(2, 1), bytes).await.unwrap();
    assert_eq!(store.fence(p).await.unwrap().unwrap().epoch, LeaderEpoch(2));
}

async fn shards_come_back_byte_for_byte(store: &Store) {
    let p = fresh_partition();
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..300_000u32).map(|i| (i * 7) as u8).collect();
    let contents = [Vec::new(), vec![0], every_byte, large];
    for (i, content) in contents.iter().enumerate() {
        let name = ShardName { generation: i as u32, ..shard(p, u64::MAX - i as u64, 23) };
        let content = Bytes::copy_from_slice(content);
        store.put_shard(name, writer(0, 1), content.clone()).await.unwrap();
        assert_eq!(store.get_shard(name).await.unwrap(), Some(content));
    }
    let name = ShardName { generation: 9, ..shard(p, u64::MAX, 23) };
    assert_eq!(store.get_shard(name).await.unwrap(), None);
}

async fn entries_are_replaced_by_number(store: &Store) {
    let p = fresh_partition();
    let put = async |number: u64, entry: &'static [u8]| {
        store.put_entry(p, writer(1, 1), number, Bytes::from_static(entry), None).await.unwrap();
    };
    put(u64::MAX, b"last").await;
    put(1, b"shipped").await;
    put(1 << 53, b"large").await;
    put(1, b"complete\0").await;
    let expected = [
        (1, Bytes::from_static(b"complete\0")),
        (1 << 53, Bytes::from_static(b"large")),
        (u64::MAX, Bytes::from_static(b"last")),
    ];
    assert_eq!(store.entries(p).await.unwrap(), expected);
    assert_eq!(store.heads(p).await.unwrap(), []);
}

async fn heads_are_newest_first_and_five(store: &Store) {
    let p = fresh_partition();
    let entry = Bytes::from_static(b"e");
    let base = (1 << 53) - 3;
    for number in [0, 1, 2, 2, 1, 3, 4, 5, 6] {
        let head = Bytes::from(format!("head {number}\0"));
        store
            .put_entry(p, writer(1, 1), number, entry.clone(), Some((base + number, head)))
            .await
            .unwrap();
    }
    let heads = store.heads(p).await.unwrap();
    assert_eq!(heads.len(), HEADS);
    for (head, number) in heads.iter().zip([6, 5, 4, 3, 2]) {
        assert_eq!(*head, (base + number, Bytes::from(format!("head {number}\0"))));
    }
}

async fn many_entries_are_all_listed(store: &Store) {
    let p = fresh_partition();
    let puts = (0..700u64).map(|number| {
        let entry = Bytes::from(vec![number as u8; 200]);
        store.put_entry(p, writer(1, 1), number * 3, entry, None)
    });
    for result in futures_util::future::join_all(puts).await {
        result.unwrap();
    }
    let entries = store.entries(p).await.unwrap();
    assert_eq!(entries.len(), 700);
    for (i, (number, entry)) in entries.iter().enumerate() {
        assert_eq!((*number, entry.len()), (i as u64 * 3, 200));
        assert!(entry.iter().all(|byte| *byte == i as u8));
    }
}

async fn concurrent_puts_of_one_name_have_one_winner(store: &Store) {
    let p = fresh_partition();
    let puts =
        (0..8u8).map(|i| store.put_shard(shard(p, 1, 0), writer(1, 1), Bytes::from(vec![i; 5000])));
    let results = futures_util::future::join_all(puts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let winner = results.iter().position(Result::is_ok).unwrap();
    let stored = store.get_shard(shard(p, 1, 0)).await.unwrap().unwrap();
    assert!(stored.iter().all(|byte| usize::from(*byte) == winner));
    for result in results {
        assert!(matches!(result, Ok(()) | Err(StoreError::Conflict { .. })), "{result:?}");
    }
}

async fn values_beyond_their_bound_are_refused(store: &Store) {
    let p = fresh_partition();
    let large = Bytes::from(vec![0; TIER_RECORD_BYTES + 1]);
    let small = Bytes::from_static(b"s");
    let refused = [
        store.put_topic(p.topic, large.clone()).await,
        store.put_entry(p, writer(1, 1), 1, large.clone(), None).await,
        store.put_entry(p, writer(1, 1), 1, small, Some((1, large.clone()))).await,
        store.set_cluster_meta(large).await.map(drop),
        store.put_shard(shard(p, 1, 0), writer(1, 1), vec![0; TIER_SHARD_BYTES + 1].into()).await,
        store.raise_fence(p, writer(1, 1), 0, "x".repeat(1000)).await,
    ];
    for result in refused {
        assert!(matches!(result, Err(StoreError::TooLarge { .. })), "{result:?}");
    }
    assert_eq!(store.fence(p).await.unwrap(), None);
}

async fn a_removed_shard_is_gone_and_the_others_stay(store: &Store) {
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"x");
    // There may be none, nor a partition.
    store.remove_shard(shard(p, 1, 0)).await.unwrap();
    for (number, index) in [(1, 0), (1, 1), (5000, 0)] {
        store.put_shard(shard(p, number, index), writer(1, 1), bytes.clone()).await.unwrap();
    }
    for _ in 0..2 {
        store.remove_shard(shard(p, 1, 0)).await.unwrap();
        assert_eq!(store.get_shard(shard(p, 1, 0)).await.unwrap(), None);
    }
    for (number, index) in [(1, 1), (5000, 0)] {
        let kept = store.get_shard(shard(p, number, index)).await.unwrap();
        assert_eq!(kept, Some(bytes.clone()));
    }
}

async fn a_removed_partition_leaves_nothing_and_others_stay(store: &Store) {
    let (p, q) = (fresh_partition(), fresh_partition());
    let bytes = Bytes::from_static(b"x");
    let renewed = ShardName { generation: 1, ..shard(p, 5000, 3) };
    for id in [p, q] {
        for number in [1, 5000] {
            store.put_shard(shard(id, number, 3), writer(1, 1), bytes.clone()).await.unwrap();
            let head = Some((number, bytes.clone()));
            store.put_entry(id, writer(1, 1), number, bytes.clone(), head).await.unwrap();
        }
    }
    store.put_shard(renewed, writer(1, 1), bytes.clone()).await.unwrap();
    store.remove_partition(p, 2).await.unwrap();
    store.remove_partition(p, 2).await.unwrap();
    for name in [shard(p, 1, 3), shard(p, 5000, 3), renewed] {
        assert_eq!(store.get_shard(name).await.unwrap(), None);
    }
    assert_eq!(store.entries(p).await.unwrap(), []);
    assert_eq!(store.heads(p).await.unwrap(), []);
    assert_eq!(store.fence(p).await.unwrap(), None);
    assert_eq!(store.get_shard(shard(q, 5000, 3)).await.unwrap(), Some(bytes.clone()));
    assert_eq!(store.entries(q).await.unwrap().len(), 2);
    // Nothing remembered in memory stands in the way of a new life.
    store.put_shard(shard(p, 1, 3), writer(0, 2), Bytes::from_static(b"y")).await.unwrap();
    store.put_entry(p, writer(0, 2), 1, bytes.clone(), Some((1, bytes))).await.unwrap();
    assert_eq!(store.heads(p).await.unwrap().len(), 1);
}
