//! The operations of a store as commands and scripts.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt as _;
use redis::{Cmd, ScriptInvocation, cmd};

use super::connection::{Connections, Kind, RedisConfig, Request};
use super::{info, scripts};
use crate::tier::store::addresses::Address;
use crate::tier::store::error::{bounded, bounded_listing};
use crate::tier::store::{
    Fence, HEADS, Head, Numbered, Reply, ServerReport, ShardName, ShardStore, StoreError, Writer,
};
use crate::types::limits::{
    TIER_ADDRESS_BYTES, TIER_DATA_SHARDS, TIER_PARITY_SHARDS, TIER_RECORD_BYTES, TIER_SHARD_BYTES,
};
use crate::types::{DataDirId, LeaderEpoch, TopicId, TopicPartition};

const META: &str = "t1:meta";
const TOPICS: &str = "t1:topics";

/// Elements asked for in one page of a listing; 1,024 entries of 500 bytes are half a megabyte.
const PAGE: usize = 1024;

/// Names in one UNLINK.
const UNLINK_NAMES: usize = 2048;

/// The store in a redis server.
#[derive(Debug)]
pub struct RedisStore {
    connections: Connections,
}

fn fence_key(id: TopicPartition) -> String {
    format!("t1:{id}:f")
}

fn manifest_key(id: TopicPartition) -> String {
    format!("t1:{id}:m")
}

fn heads_key(id: TopicPartition) -> String {
    format!("t1:{id}:h")
}

impl RedisStore {
    /// A store at `address`. Does no IO; a server that is down is an error of each operation until it is back.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] for an address that no connection can be made to at all.
    pub fn new(address: &Address, config: RedisConfig) -> Result<Self, StoreError> {
        Ok(Self { connections: Connections::new(address, config)? })
    }

    fn server(&self) -> String {
        self.connections.server.clone()
    }

    fn corrupt(&self, what: String) -> StoreError {
        StoreError::Corrupt { server: self.server(), what }
    }

    async fn command<T: redis::FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        self.connections.ask(Kind::Control, operation, Request::Command(command.clone())).await
    }

    /// Runs a script that begins with the fence check, and reads its answer.
    async fn fenced(
        &self,
        kind: Kind,
        operation: &'static str,
        key: &str,
        script: ScriptInvocation<'_>,
    ) -> Result<Outcome, StoreError> {
        let answer: Vec<Vec<u8>> =
            self.connections.ask(kind, operation, Request::Script(script)).await?;
        let (word, rest) = answer.split_first().map_or((&b""[..], &[][..]), |(w, r)| (w, r));
        match word {
            b"ok" => Ok(Outcome::Done),
            b"conflict" => Ok(Outcome::Conflict),
            b"fenced" => match read_fence(rest) {
                Some(fence) => Err(StoreError::Fenced { server: self.server(), fence }),
                None => Err(self.corrupt(format!("fence {key} is none of ours"))),
            },
            b"corrupt" => {
                Err(self.corrupt(format!("fence {key} or what stands beside it is none of ours")))
            }
            _ => Err(self.corrupt(format!("{operation} had an answer that is none of ours"))),
        }
    }

    async fn read_report(&self) -> Result<ServerReport, StoreError> {
        let text: Vec<u8> = self.command("INFO", &cmd("INFO")).await?;
        // CONFIG is often blocked on managed servers: then it stays unknown.
        let save: Option<Vec<String>> =
            self.command("CONFIG GET", cmd("CONFIG").arg("GET").arg("save")).await.ok();
        let save = save.as_ref().and_then(|pair| pair.get(1)).map(String::as_str);
        info::report(&String::from_utf8_lossy(&text), save)
            .ok_or_else(|| self.corrupt("INFO names no run_id; it is no redis server".to_owned()))
    }

    async fn read_meta(&self) -> Result<Option<Bytes>, StoreError> {
        let record: Option<Vec<u8>> =
            self.command("HGET", cmd("HGET").arg(META).arg("record")).await?;
        Ok(record.map(Bytes::from))
    }

    async fn write_meta(&self, record: Bytes) -> Result<Bytes, StoreError> {
        bounded(&self.connections.server, "the cluster record", record.len(), TIER_RECORD_BYTES)?;
        let mut script = scripts::SET_META_SCRIPT.key(META);
        script.arg(&record[..]);
        let record: Vec<u8> =
            self.connections.ask(Kind::Control, "set meta", Request::Script(script)).await?;
        Ok(record.into())
    }

    async fn write_topic(&self, topic: TopicId, record: Bytes) -> Result<(), StoreError> {
        bounded(&self.connections.server, "a topic record", record.len(), TIER_RECORD_BYTES)?;
        let field = topic.to_string();
        let _new: i64 =
            self.command("HSET", cmd("HSET").arg(TOPICS).arg(field).arg(&record[..])).await?;
        Ok(())
    }

    /// All fields of a hash, page by page. A field may come twice; one that stands throughout comes at least once.
    async fn scan<K: Ord>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Option<K>,
    ) -> Result<BTreeMap<K, Bytes>, StoreError> {
        let mut found = BTreeMap::new();
        let mut cursor = "0".to_owned();
        let mut bytes = 0;
        loop {
            let (next, page): (String, Vec<(String, Vec<u8>)>) = self
                .command("HSCAN", cmd("HSCAN").arg(key).arg(&cursor).arg("COUNT").arg(PAGE))
                .await?;
            for (field, value) in page {
                let name = read(&field).ok_or_else(|| {
                    self.corrupt(format!("{key} has a field that is none of ours"))
                })?;
                bytes += (field.len() + value.len()) as u64;
                found.insert(name, Bytes::from(value));
            }
            bounded_listing(&self.connections.server, bytes)?;
            if next == "0" {
                return Ok(found);
            }
            cursor = next;
        }
    }

    async fn read_fence(&self, id: TopicPartition) -> Result<Option<Fence>, StoreError> {
        let key = fence_key(id);
        let fields = ["epoch", "dir", "at", "by"];
        let values: Vec<Option<Vec<u8>>> =
            self.command("HMGET", cmd("HMGET").arg(&key).arg(&fields[..])).await?;
        if values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let values: Vec<_> = values.into_iter().map(Option::unwrap_or_default).collect();
        read_fence(&values)
            .map(Some)
            .ok_or_else(|| self.corrupt(format!("fence {key} is none of ours")))
    }

    async fn write_fence(
        &self,
        id: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Result<(), StoreError> {
        bounded(&self.connections.server, "an address", address.len(), TIER_ADDRESS_BYTES)?;
        let key = fence_key(id);
        let mut script = scripts::RAISE_FENCE.key(&key);
        script.arg(writer.epoch.0).arg(writer.data_dir.to_string()).arg(now_ms).arg(address);
        self.fenced(Kind::Control, "raise fence", &key, script).await?;
        Ok(())
    }

    async fn write_shard(
        &self,
        name: ShardName,
        writer: Writer,
        shard: Bytes,
    ) -> Result<(), StoreError> {
        bounded(&self.connections.server, "a shard", shard.len(), TIER_SHARD_BYTES)?;
        let _room = self.connections.room(shard.len()).await;
        let key = fence_key(name.partition);
        let mut script = scripts::PUT_SHARD_SCRIPT.key(&key);
        script.key(name.to_string());
        with_writer(&mut script, writer).arg(&shard[..]);
        match self.fenced(Kind::Data, "put shard", &key, script).await? {
            Outcome::Done => Ok(()),
            Outcome::Conflict => Err(StoreError::Conflict { server: self.server(), name }),
        }
    }

    async fn read_shard(&self, name: ShardName) -> Result<Option<Bytes>, StoreError> {
        let key = name.to_string();
        let length: usize = self.command("STRLEN", cmd("STRLEN").arg(&key)).await?;
        if length == 0 {
            let there: bool = self.command("EXISTS", cmd("EXISTS").arg(&key)).await?;
            return Ok(there.then(Bytes::new));
        }
        bounded(&self.connections.server, "a stored shard", length, TIER_SHARD_BYTES)?;
        let _room = self.connections.room(length).await;
        let mut command = cmd("GETRANGE");
        command.arg(&key).arg(0).arg(length - 1);
        let shard: Vec<u8> =
            self.connections.ask(Kind::Data, "get shard", Request::Command(command)).await?;
        // Removed between the two questions: gone.
        Ok((!shard.is_empty()).then(|| shard.into()))
    }

    async fn write_entry(
        &self,
        id: TopicPartition,
        writer: Writer,
        (number, entry): Numbered,
        head: Option<Head>,
    ) -> Result<(), StoreError> {
        let server = &self.connections.server;
        bounded(server, "a manifest entry", entry.len(), TIER_RECORD_BYTES)?;
        let mut element = Vec::new();
        if let Some((number, record)) = head {
            bounded(server, "a head record", record.len(), TIER_RECORD_BYTES)?;
            element = format!("{number:016x}").into_bytes();
            element.extend_from_slice(&record);
        }
        let key = fence_key(id);
        let mut script = scripts::PUT_ENTRY_SCRIPT.key(&key);
        script.key(manifest_key(id)).key(heads_key(id));
        let field = format!("{number:016x}");
        with_writer(&mut script, writer).arg(field).arg(&entry[..]).arg(element).arg(HEADS - 1);
        self.fenced(Kind::Control, "put entry", &key, script).await?;
        Ok(())
    }

    async fn read_heads(&self, id: TopicPartition) -> Result<Vec<Head>, StoreError> {
        let key = heads_key(id);
        let elements: Vec<Vec<u8>> =
            self.command("LRANGE", cmd("LRANGE").arg(&key).arg(0).arg(HEADS - 1)).await?;
        let mut heads = Vec::with_capacity(HEADS);
        for element in elements {
            let number = element.get(..16).and_then(|hex| read_number(str::from_utf8(hex).ok()?));
            let number =
                number.ok_or_else(|| self.corrupt(format!("{key} holds no head record")))?;
            heads.push((number, Bytes::from(element).slice(16..)));
        }
        Ok(heads)
    }

    async fn remove(&self, id: TopicPartition, generations: u32) -> Result<(), StoreError> {
        let numbers = self.scan(&manifest_key(id), read_number).await?;
        let indexes = 0..(TIER_DATA_SHARDS + TIER_PARITY_SHARDS) as u8;
        let mut names = numbers.into_keys().flat_map(|number| {
            let indexes = indexes.clone();
            (0..generations).flat_map(move |generation| {
                let name = move |index| ShardName { partition: id, number, generation, index };
                indexes.clone().map(name)
            })
        });
        loop {
            let some: Vec<_> = names.by_ref().take(UNLINK_NAMES).map(|n| n.to_string()).collect();
            if some.is_empty() {
                break;
            }
            let _removed: i64 = self.command("UNLINK", cmd("UNLINK").arg(some)).await?;
        }
        // The manifest goes last: while it stands, the shards can be found.
        let rest = [fence_key(id), heads_key(id), manifest_key(id)];
        let _removed: i64 = self.command("UNLINK", cmd("UNLINK").arg(&rest[..])).await?;
        Ok(())
    }
}

enum Outcome {
    Done,
    Conflict,
}

/// The arguments of the fence check, for a fence that a put raises.
fn with_writer<'s, 'a>(
    script: &'s mut ScriptInvocation<'a>,
    writer: Writer,
) -> &'s mut ScriptInvocation<'a> {
    script.arg(writer.epoch.0).arg(writer.data_dir.to_string()).arg(0).arg("")
}

fn read_number(hex: &str) -> Option<u64> {
    let legal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (hex.len() == 16 && hex.bytes().all(legal)).then(|| u64::from_str_radix(hex, 16).ok())?
}

fn read_fence(fields: &[Vec<u8>]) -> Option<Fence> {
    let [epoch, dir, at, by] = fields else { return None };
    let data_dir: DataDirId = str::from_utf8(dir).ok()?.parse().ok()?;
    let at = str::from_utf8(at).ok()?;
    Some(Fence {
        epoch: LeaderEpoch(str::from_utf8(epoch).ok()?.parse().ok()?),
        data_dir,
        raised_at_ms: if at.is_empty() { 0 } else { at.parse().ok()? },
        address: String::from_utf8_lossy(by.get(..TIER_ADDRESS_BYTES).unwrap_or(by)).into_owned(),
    })
}

impl ShardStore for RedisStore {
    fn name(&self) -> &str {
        &self.connections.server
    }

    fn inspect(&self) -> Reply<'_, ServerReport> {
        self.read_report().boxed()
    }

    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>> {
        self.read_meta().boxed()
    }

    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes> {
        self.write_meta(record).boxed()
    }

    fn put_topic(&self, topic: TopicId, record: Bytes) -> Reply<'_, ()> {
        self.write_topic(topic, record).boxed()
    }

    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>> {
        async {
            let found = self.scan(TOPICS, |field| field.parse::<TopicId>().ok()).await?;
            Ok(found.into_iter().collect())
        }
        .boxed()
    }

    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>> {
        self.read_fence(partition).boxed()
    }

    fn raise_fence(
        &self,
        partition: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Reply<'_, ()> {
        self.write_fence(partition, writer, now_ms, address).boxed()
    }

    fn put_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Reply<'_, ()> {
        self.write_shard(name, writer, shard).boxed()
    }

    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>> {
        self.read_shard(name).boxed()
    }

    fn put_entry(
        &self,
        partition: TopicPartition,
        writer: Writer,
        number: u64,
        entry: Bytes,
        head: Option<Head>,
    ) -> Reply<'_, ()> {
        self.write_entry(partition, writer, (number, entry), head).boxed()
    }

    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>> {
        async move {
            let found = self.scan(&manifest_key(partition), read_number).await?;
            Ok(found.into_iter().collect())
        }
        .boxed()
    }

    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<Head>> {
        self.read_heads(partition).boxed()
    }

    fn remove_shard(&self, name: ShardName) -> Reply<'_, ()> {
        async move {
            let name = name.to_string();
            let _removed: i64 = self.command("UNLINK", cmd("UNLINK").arg(name)).await?;
            Ok(())
        }
        .boxed()
    }

    fn remove_partition(&self, partition: TopicPartition, generations: u32) -> Reply<'_, ()> {
        self.remove(partition, generations).boxed()
    }
}

#[cfg(test)]
mod tests;
