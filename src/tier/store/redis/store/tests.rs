use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::tier::store::conformance::{self, fresh_partition, writer};
use crate::tier::store::redis_process::RedisProcess;
use crate::tier::store::{Persistence, Role};

fn store(server: &RedisProcess) -> RedisStore {
    RedisStore::new(&server.address(), RedisConfig::default()).unwrap()
}

fn impatient(server: &RedisProcess) -> RedisStore {
    let config = RedisConfig {
        connect_timeout: Duration::from_millis(300),
        response_timeout: Duration::from_millis(300),
        timeouts_until_reconnect: 2,
        ..RedisConfig::default()
    };
    RedisStore::new(&server.address(), config).unwrap()
}

fn shard(partition: TopicPartition, number: u64) -> ShardName {
    ShardName { partition, number, generation: 0, index: 0 }
}

#[tokio::test]
async fn redis_conforms() {
    let server = RedisProcess::start(&[]);
    conformance::run(Arc::new(store(&server))).await;
}

#[tokio::test]
async fn databases_of_one_server_are_apart_and_tell_one_run_id() {
    let server = RedisProcess::start(&[]);
    let one = store(&server);
    let two =
        RedisStore::new(&Address { db: 3, ..server.address() }, RedisConfig::default()).unwrap();
    assert_eq!(two.name(), format!("{}@3", one.name()));
    one.set_cluster_meta(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(two.cluster_meta().await.unwrap(), None);
    let (one, two) = (one.inspect().await.unwrap(), two.inspect().await.unwrap());
    assert_eq!(one.run_id, two.run_id);
    assert_eq!(one.eviction_policy.as_deref(), Some("noeviction"));
    assert_eq!(one.role, Role::Primary);
    assert!(!one.loading && !one.cluster_enabled);
    assert!(one.used_bytes.unwrap() > 0);
    let expected =
        Persistence::Redis { append_only_file: false, snapshots: Some(false), failed: Vec::new() };
    assert_eq!(one.persistence, expected);
    let beyond = RedisStore::new(&Address { db: 99, ..server.address() }, RedisConfig::default());
    let error = beyond.unwrap().inspect().await.unwrap_err();
    assert!(error.to_string().contains("shard server 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn keys_are_those_of_the_module_page() {
    let server = RedisProcess::start(&[]);
    let store = store(&server);
    let p = fresh_partition();
    let bytes = Bytes::from_static(b"x");
    store.set_cluster_meta(bytes.clone()).await.unwrap();
    store.put_topic(p.topic, bytes.clone()).await.unwrap();
    store.put_shard(shard(p, 255), writer(7, 1), bytes.clone()).await.unwrap();
    store.put_entry(p, writer(7, 1), 255, bytes.clone(), Some((255, bytes))).await.unwrap();
    let mut keys: Vec<String> = store.command("KEYS", cmd("KEYS").arg("*")).await.unwrap();
    keys.sort_unstable();
    let mut expected = vec![
        "t1:meta".to_owned(),
        "t1:topics".to_owned(),
        format!("t1:{}-2:f", p.topic),
        format!("t1:{}-2:m", p.topic),
        format!("t1:{}-2:h", p.topic),
        format!("t1:{}-2:s:00000000000000ff:0:0", p.topic),
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let head: Vec<String> =
        store.command("LRANGE", cmd("LRANGE").arg(heads_key(p)).arg(0).arg(-1)).await.unwrap();
    assert_eq!(head, ["00000000000000ffx"]);
    for key in expected {
        let ttl: i64 = store.command("TTL", cmd("TTL").arg(key)).await.unwrap();
        assert_eq!(ttl, -1);
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_unreachable_and_comes_back_by_itself() {
    let mut server = RedisProcess::start(&[]);
    let address = server.address();
    server.kill();
    let store = RedisStore::new(&address, RedisConfig::default()).unwrap();
    for _ in 0..3 {
        let error = store.inspect().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    }
    server.restart();
    let before = store.inspect().await.unwrap().run_id;
    // A connection that breaks between two requests is nothing that a caller sees.
    server.restart();
    assert_ne!(store.inspect().await.unwrap().run_id, before);
    let p = fresh_partition();
    store.put_shard(shard(p, 1), writer(1, 1), Bytes::from_static(b"x")).await.unwrap();
    // Scripts are forgotten with the server and loaded again.
    server.restart();
    store.put_shard(shard(p, 1), writer(1, 1), Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_frozen_server_times_out_and_works_again_afterwards() {
    let server = RedisProcess::start(&[]);
    let store = impatient(&server);
    let p = fresh_partition();
    store.put_shard(shard(p, 1), writer(1, 1), Bytes::from_static(b"x")).await.unwrap();
    server.freeze(true);
    for _ in 0..5 {
        let error =
            store.put_shard(shard(p, 2), writer(1, 1), Bytes::from_static(b"y")).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Timeout { operation: "put shard", .. })
                || matches!(error, StoreError::Unreachable { .. }),
            "{error:?}"
        );
    }
    server.freeze(false);
    let mut attempts = 0;
    while store.put_shard(shard(p, 2), writer(1, 1), Bytes::from_static(b"y")).await.is_err() {
        attempts += 1;
        assert!(attempts < 20, "a server that goes on is reached again");
    }
    assert_eq!(store.get_shard(shard(p, 2)).await.unwrap(), Some(Bytes::from_static(b"y")));
}

#[tokio::test]
async fn a_full_server_refuses_and_keeps_what_it_has() {
    let server = RedisProcess::start(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let store = store(&server);
    let p = fresh_partition();
    let bytes = Bytes::from(vec![7; 64 * 1024]);
    let mut stored = Vec::new();
    let mut refused = 0;
    for number in 0..60 {
        match store.put_shard(shard(p, number), writer(1, 1), bytes.clone()).await {
            Ok(()) => stored.push(number),
            Err(StoreError::Refused { reason, .. }) => {
                assert!(reason.contains("maxmemory"), "{reason}");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && !stored.is_empty());
    for number in stored {
        assert_eq!(store.get_shard(shard(p, number)).await.unwrap(), Some(bytes.clone()));
    }
}

#[tokio::test]
async fn keys_of_another_kind_are_damage_and_not_data() {
    let server = RedisProcess::start(&[]);
    let store = store(&server);
    let p = fresh_partition();
    let set: () = store.command("SET", cmd("SET").arg(fence_key(p)).arg("x")).await.unwrap();
    let () = set;
    let error = store.fence(p).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let error =
        store.put_shard(shard(p, 1), writer(1, 1), Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let q = fresh_partition();
    for (key, field) in [(fence_key(q), "epoch"), (manifest_key(q), "12")] {
        let _new: i64 =
            store.command("HSET", cmd("HSET").arg(key).arg(field).arg("x")).await.unwrap();
    }
    assert!(matches!(store.fence(q).await, Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.entries(q).await, Err(StoreError::Corrupt { .. })));
    let error =
        store.put_shard(shard(q, 1), writer(1, 1), Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_shard_larger_than_all_room_travels_alone() {
    let server = RedisProcess::start(&[]);
    let config = RedisConfig { in_flight_bytes: 1000, ..RedisConfig::default() };
    let store = RedisStore::new(&server.address(), config).unwrap();
    let p = fresh_partition();
    let bytes = Bytes::from(vec![1; 100_000]);
    let puts = (0..4).map(|number| store.put_shard(shard(p, number), writer(1, 1), bytes.clone()));
    for result in futures_util::future::join_all(puts).await {
        result.unwrap();
    }
    assert_eq!(store.get_shard(shard(p, 3)).await.unwrap(), Some(bytes));
}
