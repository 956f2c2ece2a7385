//! Where the log of a vdisk is read from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::args::StorageArgs;
use super::failure::{Exit, Failure};
use super::shards::Shards;
use crate::client::{KafkaClient, KafkaError, Which};
use crate::tier::{TierReader, TopicInfo};
use crate::types::{Offset, TopicPartition};

/// Asked for at once: a large part of a second of a fast disk.
const FETCH_BYTES: usize = 16 * 1024 * 1024;
/// How long a broker may be away before the work ends.
const AWAY: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// The log of one vdisk, as far as it reached when it was opened.
#[derive(Debug)]
pub(super) struct Source {
    vdisk: String,
    /// First readable offset.
    pub(super) start: Offset,
    /// Offset after the last one.
    pub(super) end: Offset,
    from: From,
}

#[derive(Debug)]
enum From {
    /// None while it must be connected anew.
    Broker {
        address: String,
        client: Option<KafkaClient>,
    },
    Shards {
        reader: Arc<TierReader>,
        shards: Shards,
    },
}

impl Source {
    /// From a running broker.
    pub(super) async fn broker(address: &str, vdisk: &str) -> Result<Self, Failure> {
        let mut client = KafkaClient::connect(address).await?;
        let topic = client.topics(Some(&[vdisk])).await?.into_iter().find(|t| t.name == vdisk);
        let Some(topic) = topic else {
            let message = format!("there is no vdisk `{vdisk}` at {address}");
            return Err(Failure::new(Exit::NotFound, message));
        };
        if topic.partitions.len() != 1 {
            let partitions = topic.partitions.len();
            let message =
                format!("`{vdisk}` is no vdisk: it has {partitions} partitions, a vdisk has one");
            return Err(Failure::new(Exit::Error, message));
        }
        let start = client.list_offset(vdisk, 0, Which::Earliest).await?.unwrap_or(0);
        let end = client.list_offset(vdisk, 0, Which::Latest).await?.unwrap_or(start);
        let from = From::Broker { address: address.to_owned(), client: Some(client) };
        Ok(Self { vdisk: vdisk.to_owned(), start, end, from })
    }

    /// From shards alone: the newest topic of this name that was not deleted.
    pub(super) async fn shards(args: &StorageArgs, vdisk: &str) -> Result<Self, Failure> {
        let shards = Shards::open(args).await?;
        let topic = shards.topics().iter().find(|topic| topic.record.name.as_str() == vdisk);
        let Some(topic) = topic else {
            let names = shards.topics().iter().map(|topic| topic.record.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let message =
                format!("there is no vdisk `{vdisk}` among the shards; there are: {names}");
            return Err(Failure::new(Exit::NotFound, message));
        };
        let Some(partition) = topic.partitions.first() else {
            let message = format!("the record of `{vdisk}` names no partition");
            return Err(Failure::new(Exit::Damaged, message));
        };
        let (start, end) = (partition.log_start, partition.shipped);
        let info = TopicInfo { record: topic.record.clone(), vdisk: true };
        let id = TopicPartition { topic: topic.record.id, partition: 0 };
        let from = From::Shards { reader: shards.reader(&info, id), shards };
        Ok(Self { vdisk: vdisk.to_owned(), start, end, from })
    }

    /// Whole batches from the one that holds `offset`, which lies below the end.
    pub(super) async fn read(&mut self, offset: Offset) -> Result<Bytes, Failure> {
        let batches = match &mut self.from {
            From::Broker { address, client } => fetch(address, client, &self.vdisk, offset).await?,
            From::Shards { reader, shards } => {
                let read = reader.read(offset, self.end, FETCH_BYTES).await;
                read.map_err(|error| shards.explain(error.into()))?
            }
        };
        if batches.is_empty() {
            let message = format!(
                "the log ends at offset {offset}, but reached to {}: records were lost",
                self.end
            );
            return Err(Failure::new(Exit::Damaged, message));
        }
        Ok(batches)
    }
}

/// Over connections as needed: a server that restarts, or has lost its shard servers, is waited for.
async fn fetch(
    address: &str,
    client: &mut Option<KafkaClient>,
    vdisk: &str,
    offset: Offset,
) -> Result<Bytes, Failure> {
    let since = Instant::now();
    loop {
        let attempt = async {
            let mut connected = match client.take() {
                Some(client) => client,
                None => KafkaClient::connect(address).await?,
            };
            let fetched =
                connected.fetch(vdisk, 0, offset, FETCH_BYTES, Duration::from_secs(1)).await?;
            *client = Some(connected);
            Ok::<_, KafkaError>(fetched.batches)
        };
        match attempt.await {
            Ok(batches) => return Ok(batches),
            Err(error) if error.is_retriable() && since.elapsed() < AWAY => {
                tracing::debug!(%error, "trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
