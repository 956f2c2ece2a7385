//! ListOffsets (key 2), versions 1 to 10.
//!
//! Differs from Kafka: the last stable offset is the high watermark until there are transactions; "last tiered" is the
//! last shipped record.
//!
//! | version | change |
//! |---|---|
//! | 2 | isolation level |
//! | 4 | leader epoch in request and answer (KIP-320) |
//! | 6 | flexible |
//! | 7 | timestamp -3: the record with the highest timestamp (KIP-734) |
//! | 8 | timestamp -4: the first offset on local disk (KIP-405) |
//! | 9 | timestamp -5: the last shipped offset (KIP-1005) |
//! | 10 | a timeout for remote reads, which is not looked at |

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::shared::{check_epoch, first_error, partition, topic_by_name};
use crate::broker::{Broker, Partition, TimestampedOffset, Topic};
use crate::kafka::dispatch::{Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure as _, Refusal};

/// Partitions of one request that are looked up at the same time: a lookup in shipped data waits for shard servers.
const SIDE_BY_SIDE: usize = 8;

/// See the module's page.
pub struct ListOffsets;

impl Api for ListOffsets {
    type Message = ListOffsetsRequest;
    const NAME: &'static str = "ListOffsets";
    const SERVED: RangeInclusive<i16> = 1..=10;

    fn handle(call: &Call, request: Self::Message) -> Handled<ListOffsetsResponse> {
        let broker = Arc::clone(call.peer.broker());
        let version = call.version;
        Handled::Later(Box::pin(async move { look_up(&broker, version, request).await.into() }))
    }

    fn refuse(_: &Call, request: &Self::Message, refusal: Refusal) -> ListOffsetsResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter();
            ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(
                partitions.map(|wanted| refused(wanted.partition_index, refusal.code())).collect(),
            )
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn first_error(response: &ListOffsetsResponse) -> ErrorCode {
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

async fn look_up(
    broker: &Broker,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = topic_by_name(broker, &wanted.name);
        let partitions = stream::iter(wanted.partitions)
            .map(|asked| answer(topic.clone(), version, asked))
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        topics.push(
            ListOffsetsTopicResponse::default().with_name(wanted.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn answer(
    topic: Result<Arc<Topic>, Refusal>,
    version: i16,
    asked: ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let checked = topic.and_then(|topic| {
        let partition = partition(&topic, asked.partition_index)?;
        check_epoch(&partition, asked.current_leader_epoch)?;
        Ok((partition, Wanted::of(asked.timestamp, version)?))
    });
    let found = match checked {
        Ok((partition, wanted)) => find(&partition, wanted).await,
        Err(refusal) => Err(refusal.code()),
    };
    match found {
        Ok(found) => ListOffsetsPartitionResponse::default()
            .with_partition_index(asked.partition_index)
            .with_offset(found.offset)
            .with_timestamp(found.timestamp_ms)
            .with_leader_epoch(if version >= 4 { found.leader_epoch } else { -1 }),
        Err(code) => refused(asked.partition_index, code),
    }
}

fn refused(index: i32, code: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default().with_partition_index(index).with_error_code(code.wire())
}

/// What a timestamp asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Latest,
    Earliest,
    HighestTimestamp,
    EarliestLocal,
    LastShipped,
    AtOrAfter(i64),
}

impl Wanted {
    fn of(timestamp: i64, version: i16) -> Result<Self, Refusal> {
        match timestamp {
            0.. => Ok(Self::AtOrAfter(timestamp)),
            -1 => Ok(Self::Latest),
            -2 => Ok(Self::Earliest),
            -3 if version >= 7 => Ok(Self::HighestTimestamp),
            -4 if version >= 8 => Ok(Self::EarliestLocal),
            -5 if version >= 9 => Ok(Self::LastShipped),
            _ => Err(Refusal::SpecialTimestamp),
        }
    }
}

/// An answer's three numbers, -1 for "none".
struct Found {
    offset: i64,
    timestamp_ms: i64,
    leader_epoch: i32,
}

impl Found {
    const NOTHING: Self = Self { offset: -1, timestamp_ms: -1, leader_epoch: -1 };

    fn at(offset: i64) -> Self {
        Self { offset, ..Self::NOTHING }
    }

    fn record(found: Option<TimestampedOffset>) -> Self {
        found.map_or(Self::NOTHING, |found| Self {
            offset: found.offset,
            timestamp_ms: found.timestamp_ms,
            leader_epoch: found.leader_epoch.0,
        })
    }
}

async fn find(partition: &Partition, wanted: Wanted) -> Result<Found, ErrorCode> {
    let marks = partition.watermarks();
    match wanted {
        Wanted::Latest => Ok(Found {
            leader_epoch: partition.leader_epoch().0,
            ..Found::at(marks.high_watermark)
        }),
        Wanted::Earliest => Ok(Found::at(marks.log_start)),
        Wanted::EarliestLocal => Ok(Found::at(marks.local_start)),
        Wanted::LastShipped if marks.shipped == marks.log_start => Ok(Found::NOTHING),
        Wanted::LastShipped => Ok(Found::at(marks.shipped - 1)),
        Wanted::HighestTimestamp => {
            partition.max_timestamp().await.map(Found::record).map_err(|error| {
                tracing::warn!(?partition, %error, "the highest timestamp was not found");
                error.code()
            })
        }
        Wanted::AtOrAfter(timestamp_ms) => {
            partition.offset_for_timestamp(timestamp_ms).await.map(Found::record).map_err(|error| {
                tracing::warn!(?partition, %error, "an offset was not found by its timestamp");
                error.code()
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::api::shared::text;
    use crate::kafka::dispatch;

    #[test]
    fn special_timestamps_belong_to_versions() {
        for (timestamp, first) in [(-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9), (0, 1)] {
            for version in ListOffsets::SERVED {
                assert_eq!(Wanted::of(timestamp, version).is_ok(), version >= first, "{timestamp}");
            }
        }
        assert_eq!(Wanted::of(-6, 10), Err(Refusal::SpecialTimestamp));
        assert_eq!(Wanted::of(i64::MIN, 10), Err(Refusal::SpecialTimestamp));
    }

    #[test]
    fn every_version_encodes() {
        for version in ListOffsets::SERVED {
            let good = ListOffsetsPartitionResponse::default()
                .with_offset(4)
                .with_timestamp(5)
                .with_leader_epoch(if version >= 4 { 3 } else { -1 });
            let topic = ListOffsetsTopicResponse::default()
                .with_name(text("t").into())
                .with_partitions(vec![good, refused(1, Refusal::OldEpoch.code())]);
            let response = ListOffsetsResponse::default().with_topics(vec![topic]);
            dispatch::encode(1, version, &response).unwrap();
        }
    }
}
