//! OffsetForLeaderEpoch (key 23), versions 2 to 4: where the records of a leader epoch end.
//!
//! A consumer that saw another leader epoch in the metadata asks with the epoch of its last record; an end below its
//! position tells it that what it read behind there is not in the log any more.
//!
//! Differs from Kafka: the end of the current epoch is the high watermark, not the log end, for only that is promised to
//! stay. Unknown epochs are answered with epoch -1 and offset -1, without an error, as Kafka does.
//!
//! | version | change |
//! |---|---|
//! | 3 | the replica that asks; consumers say -1 |
//! | 4 | flexible |

use std::ops::RangeInclusive;

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::shared::{check_epoch, first_error, partition, topic_by_name};
use crate::broker::{EpochEnd, Topic};
use crate::kafka::dispatch::{Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure as _, Refusal};
use crate::types::LeaderEpoch;

/// See the module's page.
pub struct OffsetForLeaderEpoch;

impl Api for OffsetForLeaderEpoch {
    type Message = OffsetForLeaderEpochRequest;
    const NAME: &'static str = "OffsetForLeaderEpoch";
    const SERVED: RangeInclusive<i16> = 2..=4;

    fn handle(call: &Call, request: Self::Message) -> Handled<OffsetForLeaderEpochResponse> {
        let answer = by_partition(&request, |name, asked| {
            let topic = topic_by_name(call.peer.broker(), name)?;
            find(&topic, asked)
        });
        Handled::Now(answer.into())
    }

    fn refuse(_: &Call, request: &Self::Message, refusal: Refusal) -> OffsetForLeaderEpochResponse {
        by_partition(request, |_, _| Err(refusal))
    }

    fn first_error(response: &OffsetForLeaderEpochResponse) -> ErrorCode {
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

fn by_partition(
    request: &OffsetForLeaderEpochRequest,
    find: impl Fn(&str, &OffsetForLeaderPartition) -> Result<Option<EpochEnd>, Refusal>,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(
            partitions.map(|asked| answer(asked.partition, find(&topic.topic, asked))).collect(),
        )
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn find(topic: &Topic, asked: &OffsetForLeaderPartition) -> Result<Option<EpochEnd>, Refusal> {
    let partition = partition(topic, asked.partition)?;
    check_epoch(&partition, asked.current_leader_epoch)?;
    Ok(partition.epoch_end(LeaderEpoch(asked.leader_epoch)))
}

fn answer(index: i32, found: Result<Option<EpochEnd>, Refusal>) -> EpochEndOffset {
    let answer =
        EpochEndOffset::default().with_partition(index).with_leader_epoch(-1).with_end_offset(-1);
    match found {
        Ok(Some(EpochEnd { epoch, end })) => answer.with_leader_epoch(epoch.0).with_end_offset(end),
        Ok(None) => answer,
        Err(refusal) => answer.with_error_code(refusal.code().wire()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::api::shared::text;
    use crate::kafka::dispatch;

    #[test]
    fn every_version_encodes() {
        let good = Ok(Some(EpochEnd { epoch: LeaderEpoch(3), end: 7 }));
        let topic =
            OffsetForLeaderTopicResult::default().with_topic(text("t").into()).with_partitions(
                vec![answer(0, good), answer(1, Ok(None)), answer(2, Err(Refusal::OldEpoch))],
            );
        let response = OffsetForLeaderEpochResponse::default().with_topics(vec![topic]);
        for version in OffsetForLeaderEpoch::SERVED {
            dispatch::encode(1, version, &response).unwrap();
        }
    }
}
