//! DeleteRecords (key 21), versions 0 to 2.
//!
//! Differs from Kafka: of a topic that ships only what is on the shard servers is deleted, so the answer waits for that, up
//! to the request's timeout (0 to a minute) for all partitions together. A vdisk's log is deleted only with the topic option `tlog.vdisk.deletable`. A
//! partition that is named twice is moved twice.
//!
//! | version | change |
//! |---|---|
//! | 2 | flexible |

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tokio::time::Instant;

use super::shared::{first_error, partition, topic_by_name};
use crate::broker::{Broker, Topic};
use crate::kafka::dispatch::{Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure, Refusal};

/// Partitions of one topic that are worked on at the same time: those of a topic that ships wait for their servers.
const SIDE_BY_SIDE: usize = 16;

/// Longest wait for shard servers that a client can ask for.
const LONGEST_MS: i32 = 60_000;

/// The offset that stands for the high watermark.
const ALL: i64 = -1;

/// See the module's page.
pub struct DeleteRecords;

impl Api for DeleteRecords {
    type Message = DeleteRecordsRequest;
    const NAME: &'static str = "DeleteRecords";
    const SERVED: RangeInclusive<i16> = 0..=2;

    fn handle(call: &Call, request: Self::Message) -> Handled<DeleteRecordsResponse> {
        let broker = Arc::clone(call.peer.broker());
        // Where the connection closes, what is committed of a deletion is carried out, and the rest does not begin.
        Handled::Later(Box::pin(async move { delete_all(&broker, request).await.into() }))
    }

    fn refuse(_: &Call, request: &Self::Message, refusal: Refusal) -> DeleteRecordsResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter();
            let refused = partitions.map(|it| refused(it.partition_index, refusal.code()));
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(refused.collect())
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    }

    fn first_error(response: &DeleteRecordsResponse) -> ErrorCode {
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

async fn delete_all(broker: &Broker, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let patience = u64::try_from(request.timeout_ms.clamp(0, LONGEST_MS)).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(patience);
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = topic_by_name(broker, &wanted.name);
        let partitions = stream::iter(wanted.partitions)
            .map(|asked| answer(broker, topic.clone(), asked, deadline))
            .buffered(SIDE_BY_SIDE)
            .collect()
            .await;
        topics.push(
            DeleteRecordsTopicResult::default().with_name(wanted.name).with_partitions(partitions),
        );
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn answer(
    broker: &Broker,
    topic: Result<Arc<Topic>, Refusal>,
    asked: DeleteRecordsPartition,
    deadline: Instant,
) -> DeleteRecordsPartitionResult {
    let index = asked.partition_index;
    let found = topic.and_then(|topic| Ok((partition(&topic, index)?, topic)));
    let (partition, topic) = match found {
        Ok(found) => found,
        Err(refusal) => return refused(index, refusal.code()),
    };
    let before = Some(asked.offset).filter(|offset| *offset != ALL);
    let patience = deadline.saturating_duration_since(Instant::now());
    match broker.delete_records(&topic, &partition, before, patience).await {
        Ok(log_start) => DeleteRecordsPartitionResult::default()
            .with_partition_index(index)
            .with_low_watermark(log_start),
        Err(error) => {
            // The answer has no room for words.
            tracing::info!(topic = %topic.name(), partition = index, %error, "records were not deleted");
            refused(index, error.code())
        }
    }
}

fn refused(index: i32, code: ErrorCode) -> DeleteRecordsPartitionResult {
    DeleteRecordsPartitionResult::default()
        .with_partition_index(index)
        .with_low_watermark(-1)
        .with_error_code(code.wire())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::api::shared::text;
    use crate::kafka::dispatch;

    #[test]
    fn every_version_encodes() {
        for version in DeleteRecords::SERVED {
            let good = DeleteRecordsPartitionResult::default().with_low_watermark(7);
            let topic = DeleteRecordsTopicResult::default()
                .with_name(text("t").into())
                .with_partitions(vec![good, refused(1, Refusal::OffsetOutOfRange.code())]);
            let response = DeleteRecordsResponse::default().with_topics(vec![topic]);
            dispatch::encode(1, version, &response).unwrap();
        }
    }
}
