//! Produce (key 0), versions 3 to 11, shown to clients as 0 to 11.
//!
//! Shown from 0 because librdkafka before 2.11.1 compresses only if it sees Produce 0 (KAFKA-18659); it then sends 7 or
//! later. Versions 12 and 13 belong to the second part of KIP-890 and to topic ids and are not served.
//!
//! `acks` 1 and -1 mean the same: the batch is in the commit log and synced. 0 has no answer; what goes wrong closes
//! the connection. Partitions fail one by one. The timeout bounds the wait for replicas in Kafka and has no meaning
//! here. Batches are stored as sent.
//!
//! | version | change |
//! |---|---|
//! | 5 | log start offset in the answer |
//! | 7 | zstd may be sent (KIP-110) |
//! | 8 | error message and errors per record in the answer (KIP-467) |
//! | 9 | flexible |
//! | 10 | the new leader beside `NOT_LEADER_OR_FOLLOWER` (KIP-951), which is never answered with a leader here |
//! | 11 | `TRANSACTION_ABORTABLE` may be answered |

use std::collections::HashMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName as WireName};

use super::shared::{first_error, partition, text, topic_by_name};
use crate::broker::{AppendError, AppendResult, Broker, Origin, Topic};
use crate::kafka::dispatch::{Answer, Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure, Refusal};
use crate::record::{self, BatchHeader, Compression};
use crate::types::in_words;

/// First version whose clients read zstd.
const ZSTD: i16 = 7;
/// First version with an error message per partition.
const MESSAGES: i16 = 8;

/// See the module's page.
pub struct Produce;

impl Api for Produce {
    type Message = ProduceRequest;
    const NAME: &'static str = "Produce";
    const SERVED: RangeInclusive<i16> = 3..=11;
    const ADVERTISED_MIN: i16 = 0;
    const OVERLAPS: bool = true;

    /// Sixty kilobytes may expand to a hundred megabytes before the batch is found good or bad.
    fn is_laborious(request: &Self::Message) -> bool {
        let mut batches = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
        batches.any(|data| data.records.as_ref().is_some_and(|records| is_compressed(records)))
    }

    fn handle(call: &Call, request: Self::Message) -> Handled<ProduceResponse> {
        let refusal = if !(-1..=1).contains(&request.acks) {
            Some(Refusal::Acks)
        } else if request.transactional_id.is_some() {
            Some(Refusal::NoTransactions)
        } else {
            None
        };
        let silent = request.acks == 0;
        if let Some(refusal) = refusal {
            let response = Self::refuse(call, &request, refusal);
            return Handled::Now(finish(silent, response));
        }
        let version = call.version;
        let pending = begin(call.peer.broker(), version, request);
        Handled::Later(Box::pin(async move {
            let mut responses = Vec::with_capacity(pending.len());
            for (name, partitions) in pending {
                let mut answers = Vec::with_capacity(partitions.len());
                for partition in partitions {
                    answers.push(partition.finish(version).await);
                }
                responses.push(topic_response(name, answers));
            }
            finish(silent, ProduceResponse::default().with_responses(responses))
        }))
    }

    fn refuse(call: &Call, request: &Self::Message, refusal: Refusal) -> ProduceResponse {
        let responses = request.topic_data.iter().map(|topic| {
            let partitions = topic.partition_data.iter();
            let answers = partitions.map(|data| refused(data.index, call.version, &refusal));
            topic_response(topic.name.clone(), answers.collect())
        });
        ProduceResponse::default().with_responses(responses.collect())
    }

    fn first_error(response: &ProduceResponse) -> ErrorCode {
        let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        first_error(partitions.map(|partition| partition.error_code))
    }
}

/// With `acks=0` there is no answer; a failure is told by closing the connection.
fn finish(silent: bool, response: ProduceResponse) -> Answer<ProduceResponse> {
    let error = Produce::first_error(&response);
    match (silent, error.is_error()) {
        (false, _) => response.into(),
        (true, false) => Answer::Silent,
        (true, true) => Answer::Close(error),
    }
}

fn topic_response(name: WireName, answers: Vec<PartitionProduceResponse>) -> TopicProduceResponse {
    TopicProduceResponse::default().with_name(name).with_partition_responses(answers)
}

fn refused(index: i32, version: i16, failure: &impl Failure) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(failure.code().wire())
        .with_base_offset(-1)
        .with_error_message((version >= MESSAGES).then(|| text(in_words(failure))))
}

/// One partition's part of the request, its order fixed.
struct Pending {
    index: i32,
    outcome: Outcome,
}

enum Outcome {
    Refused(Refusal),
    Failed(AppendError),
    Queued(BoxFuture<'static, Result<AppendResult, AppendError>>),
}

/// Appends every partition's batch; on return the order of all of them is fixed.
fn begin(
    broker: &Broker,
    version: i16,
    mut request: ProduceRequest,
) -> Vec<(WireName, Vec<Pending>)> {
    for topic in &mut request.topic_data {
        // Not a part of the frame any more: a single batch is then the only one who has its memory, and need not be copied
        // to be given its offset.
        topic.name = text(topic.name.as_str()).into();
    }
    let mut count: HashMap<(WireName, i32), usize> = HashMap::new();
    for topic in &request.topic_data {
        for data in &topic.partition_data {
            *count.entry((topic.name.clone(), data.index)).or_default() += 1;
        }
    }
    let begin_topic = |data: kafka_protocol::messages::produce_request::TopicProduceData| {
        let topic = topic_by_name(broker, &data.name);
        let begin_partition = |part: PartitionProduceData| {
            let once = count.get(&(data.name.clone(), part.index)) == Some(&1);
            let outcome = match &topic {
                _ if !once => Outcome::Refused(Refusal::Duplicate),
                Ok(topic) => append(topic, part.index, version, part.records.unwrap_or_default()),
                Err(refusal) => Outcome::Refused(*refusal),
            };
            Pending { index: part.index, outcome }
        };
        let pending = data.partition_data.into_iter().map(begin_partition).collect();
        (data.name.clone(), pending)
    };
    request.topic_data.into_iter().map(begin_topic).collect()
}

fn append(topic: &Topic, index: i32, version: i16, records: Bytes) -> Outcome {
    let partition = match partition(topic, index) {
        Ok(partition) => partition,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    if let Err(refusal) = check(version, &records) {
        return Outcome::Refused(refusal);
    }
    match partition.append(records, Origin::Kafka) {
        Ok(committed) => Outcome::Queued(Box::pin(committed)),
        Err(error) => Outcome::Failed(error),
    }
}

/// What depends on the request rather than on the batch; all else is for the broker to check.
fn check(version: i16, records: &[u8]) -> Result<(), Refusal> {
    if records.is_empty() {
        return Err(Refusal::NotOneBatch);
    }
    match BatchHeader::parse(records) {
        Ok(header) if header.total_bytes() < records.len() => Err(Refusal::NotOneBatch),
        Ok(header) if version < ZSTD && is_zstd(&header) => Err(Refusal::ZstdTooEarly),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn is_compressed(records: &[u8]) -> bool {
    BatchHeader::parse(records).is_ok_and(|header| header.compression() != Ok(Compression::None))
}

fn is_zstd(header: &BatchHeader) -> bool {
    let codec: Result<Compression, record::Error> = header.compression();
    codec == Ok(Compression::Zstd)
}

impl Pending {
    async fn finish(self, version: i16) -> PartitionProduceResponse {
        let result = match self.outcome {
            Outcome::Refused(refusal) => return refused(self.index, version, &refusal),
            Outcome::Failed(error) => Err(error),
            Outcome::Queued(committed) => committed.await,
        };
        match result {
            Ok(done) => PartitionProduceResponse::default()
                .with_index(self.index)
                .with_base_offset(done.base_offset)
                .with_log_append_time_ms(done.log_append_time_ms)
                .with_log_start_offset(done.log_start_offset),
            Err(error) => refused(self.index, version, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::dispatch;
    use crate::record::BatchBuilder;

    fn response(version: i16) -> ProduceResponse {
        let good = PartitionProduceResponse::default()
            .with_base_offset(7)
            .with_log_append_time_ms(8)
            .with_log_start_offset(1);
        let answers = vec![good, refused(1, version, &Refusal::NotOneBatch)];
        ProduceResponse::default().with_responses(vec![topic_response(text("t").into(), answers)])
    }

    #[test]
    fn every_version_encodes() {
        for version in Produce::SERVED {
            dispatch::encode(1, version, &response(version)).unwrap();
        }
    }

    #[test]
    fn a_failure_without_an_answer_closes() {
        assert!(matches!(finish(false, response(3)), Answer::Respond(..)));
        assert!(matches!(finish(true, response(3)), Answer::Close(_)));
        assert!(matches!(finish(true, ProduceResponse::default()), Answer::Silent));
    }

    #[test]
    fn exactly_one_batch_and_zstd_from_version_7() {
        let mut builder = BatchBuilder::new(1_000);
        builder.push(1_000, Some(b"k"), Some(b"v"), &[]);
        let plain = builder.build();
        assert!(!is_compressed(&plain));
        assert_eq!(check(3, &plain), Ok(()));
        assert_eq!(check(3, &[]), Err(Refusal::NotOneBatch));
        assert_eq!(check(3, &[plain.clone(), plain].concat()), Err(Refusal::NotOneBatch));

        let mut builder = BatchBuilder::new(1_000);
        builder.push(1_000, Some(b"k"), Some(b"v"), &[]);
        let zstd = builder.compression(Compression::Zstd).build();
        assert!(is_compressed(&zstd));
        assert_eq!(check(6, &zstd), Err(Refusal::ZstdTooEarly));
        assert_eq!(check(7, &zstd), Ok(()));
    }
}
