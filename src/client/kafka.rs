//! A small Kafka client: one broker, one connection, one request at a time. What the commands of `tlog` need, no more: no
//! groups, no leaders on other brokers, no retries.
//!
//! Versions: ApiVersions 0, Metadata 1 to 12 (topic ids from 10), ListOffsets 1 to 7, Fetch 4 to 12, Produce 3 to 9; of each
//! the highest that the broker has, too.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiVersionsRequest, BrokerId, FetchRequest, ListOffsetsRequest, MetadataRequest,
    ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::dial;
use super::error::KafkaError;
use crate::record::{BatchHeader, Error as RecordError};
use crate::types::limits::{KAFKA_REQUEST_FRAME_BYTES, RECORD_BATCH_BYTES};
use crate::types::{Offset, TopicId};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer, beside what the request itself lets the broker wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer but for Fetch: no other carries data.
const ANSWER_BYTES: usize = KAFKA_REQUEST_FRAME_BYTES;
/// Never taken at once, whatever an answer announces.
const READ_BYTES: usize = 256 * 1024;
/// A broker may answer before it has made a topic.
const CREATION_TRIES: u32 = 100;
const CREATION_PAUSE: Duration = Duration::from_millis(100);
const CLIENT_ID: &str = "tlog";

/// Which offset to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// Of the first record with this timestamp or a later one, in ms since 1970.
    Timestamp(i64),
}

/// When a broker answers a Produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Acks {
    /// When the batch is durable.
    All = -1,
    /// When the leader has it.
    Leader = 1,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its identity; zero where the broker does not tell.
    pub id: TopicId,
    /// By the broker's word.
    pub is_internal: bool,
    /// In order of their index.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionInfo {
    /// From 0.
    pub index: i32,
    /// -1 where the broker does not tell.
    pub leader_epoch: i32,
}

/// An answer to Fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Whole batches, the first of which holds the offset asked for; none at the end of the log.
    pub batches: Bytes,
    /// Offset after the last readable one.
    pub high_watermark: Offset,
    /// First readable offset.
    pub log_start: Offset,
}

/// See the module page. After an error of the connection it must not be used any more.
#[derive(Debug)]
pub struct KafkaClient {
    broker: String,
    stream: TcpStream,
    correlation_id: i32,
    /// Key, lowest and highest version.
    served: Vec<(i16, i16, i16)>,
}

impl KafkaClient {
    /// Connects to `broker`, `HOST:PORT`, and asks what it serves.
    ///
    /// # Errors
    /// Where it does not answer, or not as a broker.
    pub async fn connect(broker: &str) -> Result<Self, KafkaError> {
        let stream = dial(broker, DIAL_TIMEOUT).await.map_err(|source| KafkaError::Io {
            op: "connect to",
            broker: broker.to_owned(),
            source,
        })?;
        let mut client =
            Self { broker: broker.to_owned(), stream, correlation_id: 0, served: Vec::new() };
        let request = ApiVersionsRequest::default();
        let response = client.ask("ApiVersions", &request, 0, ANSWER_TIMEOUT, ANSWER_BYTES).await?;
        code("ApiVersions", "", response.error_code)?;
        client.served = response
            .api_keys
            .iter()
            .map(|api| (api.api_key, api.min_version, api.max_version))
            .collect();
        Ok(client)
    }

    /// All topics that `names` asks for, or all there are; unknown ones are left out. Creates none.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub async fn topics(&mut self, names: Option<&[&str]>) -> Result<Vec<TopicInfo>, KafkaError> {
        let api = "Metadata";
        let version = self.version::<MetadataRequest>(api, 1, 12)?;
        let wanted = names.map(|names| {
            let topic =
                |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let mut request = MetadataRequest::default().with_topics(wanted);
        if version >= 4 {
            request = request.with_allow_auto_topic_creation(false);
        }
        let response = self.ask(api, &request, version, ANSWER_TIMEOUT, ANSWER_BYTES).await?;
        let mut topics = Vec::new();
        for topic in response.topics {
            let name = topic.name.map(|name| name.0.to_string()).unwrap_or_default();
            if topic.error_code == ResponseError::UnknownTopicOrPartition.code() {
                continue;
            }
            code(api, &name, topic.error_code)?;
            let mut partitions: Vec<_> = topic
                .partitions
                .iter()
                .map(|p| PartitionInfo { index: p.partition_index, leader_epoch: p.leader_epoch })
                .collect();
            partitions.sort_by_key(|partition| partition.index);
            topics.push(TopicInfo {
                name,
                id: TopicId(topic.topic_id.into_bytes()),
                is_internal: topic.is_internal,
                partitions,
            });
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Waits until there is a topic of this name, which a broker with auto-creation makes when it is asked for it.
    ///
    /// # Errors
    /// [`KafkaError::UnknownPartition`] where it is not there within 10 s; others of [`KafkaError`].
    pub async fn ensure_topic(&mut self, topic: &str) -> Result<(), KafkaError> {
        let api = "Metadata";
        let version = self.version::<MetadataRequest>(api, 4, 12)?;
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(true);
        for _ in 0..CREATION_TRIES {
            let response = self.ask(api, &request, version, ANSWER_TIMEOUT, ANSWER_BYTES).await?;
            let answer = response.topics.first();
            let waits = [
                ResponseError::UnknownTopicOrPartition.code(),
                ResponseError::LeaderNotAvailable.code(),
            ];
            match answer.map(|topic| topic.error_code) {
                Some(0) => return Ok(()),
                Some(number) if !waits.contains(&number) => return code(api, topic, number),
                _ => tokio::time::sleep(CREATION_PAUSE).await,
            }
        }
        Err(KafkaError::UnknownPartition { topic: topic.to_owned(), partition: 0 })
    }

    /// An offset of a partition; none where no record has the timestamp.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub async fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        which: Which,
    ) -> Result<Option<Offset>, KafkaError> {
        let api = "ListOffsets";
        let version = self.version::<ListOffsetsRequest>(api, 1, 7)?;
        let timestamp = match which {
            Which::Latest => -1,
            Which::Earliest => -2,
            Which::Timestamp(ms) => ms,
        };
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp);
        let asked =
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request =
            ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
        let response = self.ask(api, &request, version, ANSWER_TIMEOUT, ANSWER_BYTES).await?;
        let answer = response
            .topics
            .iter()
            .find(|answer| answer.name.0.as_str() == topic)
            .and_then(|answer| answer.partitions.iter().find(|p| p.partition_index == partition))
            .ok_or_else(|| self.unreadable(api, "the partition is not in it"))?;
        partition_code(api, topic, partition, timestamp, answer.error_code)?;
        Ok((answer.offset >= 0).then_some(answer.offset))
    }

    /// Batches from the one that holds `offset` on, about `max_bytes`. At the end of the log, waits up to `max_wait` for
    /// the next one.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub async fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: Offset,
        max_bytes: usize,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError> {
        let api = "Fetch";
        let version = self.version::<FetchRequest>(api, 4, 12)?;
        let max_bytes = max_bytes.min(RECORD_BATCH_BYTES);
        let limit = i32::try_from(max_bytes).unwrap_or(i32::MAX);
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(offset)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(limit);
        let asked =
            FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked]);
        let mut request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(limit)
            .with_topics(vec![asked]);
        if version >= 7 {
            // No fetch session: each request says it all.
            request = request.with_session_id(0).with_session_epoch(-1);
        }
        // A batch is never cut, so one may exceed what was asked for.
        let answer_bytes = max_bytes + RECORD_BATCH_BYTES + 64 * 1024;
        let response =
            self.ask(api, &request, version, ANSWER_TIMEOUT + max_wait, answer_bytes).await?;
        code(api, topic, response.error_code)?;
        let answer = response
            .responses
            .iter()
            .find(|answer| answer.topic.0.as_str() == topic)
            .and_then(|answer| answer.partitions.iter().find(|p| p.partition_index == partition))
            .ok_or_else(|| self.unreadable(api, "the partition is not in it"))?;
        partition_code(api, topic, partition, offset, answer.error_code)?;
        let records = answer.records.clone().unwrap_or_default();
        let batches = whole_batches(records)
            .map_err(|source| KafkaError::Damaged { topic: topic.to_owned(), source })?;
        Ok(Fetched {
            batches,
            high_watermark: answer.high_watermark,
            log_start: answer.log_start_offset,
        })
    }

    /// Appends one batch; returns the offset of its first record.
    ///
    /// # Errors
    /// [`KafkaError`].
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
        acks: Acks,
    ) -> Result<Offset, KafkaError> {
        let api = "Produce";
        let version = self.version::<ProduceRequest>(api, 3, 9)?;
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let data = TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(acks as i16)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![data]);
        let response = self.ask(api, &request, version, ANSWER_TIMEOUT, ANSWER_BYTES).await?;
        let answer = response
            .responses
            .iter()
            .find(|answer| answer.name.0.as_str() == topic)
            .and_then(|answer| answer.partition_responses.iter().find(|p| p.index == partition))
            .ok_or_else(|| self.unreadable(api, "the partition is not in it"))?;
        partition_code(api, topic, partition, -1, answer.error_code)?;
        Ok(answer.base_offset)
    }

    /// The highest version that both sides know.
    fn version<R: Request>(
        &self,
        api: &'static str,
        lowest: i16,
        highest: i16,
    ) -> Result<i16, KafkaError> {
        self.served
            .iter()
            .find(|(key, _, _)| *key == R::KEY)
            .map(|(_, min, max)| (lowest.max(*min), highest.min(*max)))
            .filter(|(low, high)| low <= high)
            .map(|(_, high)| high)
            .ok_or_else(|| KafkaError::Unsupported { broker: self.broker.clone(), api })
    }

    async fn ask<R: Request>(
        &mut self,
        api: &'static str,
        request: &R,
        version: i16,
        time: Duration,
        limit: usize,
    ) -> Result<R::Response, KafkaError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut out = BytesMut::new();
        out.extend_from_slice(&[0; 4]);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        header
            .encode(&mut out, R::header_version(version))
            .and_then(|()| request.encode(&mut out, version))
            .map_err(|error| self.unreadable(api, &format!("the request has no form: {error}")))?;
        let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
        out.iter_mut().zip(length.to_be_bytes()).for_each(|(byte, new)| *byte = new);

        let exchange = async {
            self.stream.write_all(&out).await.map_err(|source| self.io("write to", source))?;
            self.read_frame(limit).await
        };
        let mut frame = match timeout(time, exchange).await {
            Ok(frame) => frame?,
            Err(_) => {
                let broker = self.broker.clone();
                return Err(KafkaError::Timeout { op: "answer", broker, waited: time });
            }
        };
        let header = ResponseHeader::decode(
            &mut frame,
            <R::Response as HeaderVersion>::header_version(version),
        )
        .map_err(|error| self.unreadable(api, &error.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(self.unreadable(api, "it answers another request"));
        }
        R::Response::decode(&mut frame, version)
            .map_err(|error| self.unreadable(api, &error.to_string()))
    }

    /// Memory follows what arrives, not what is announced.
    async fn read_frame(&mut self, limit: usize) -> Result<Bytes, KafkaError> {
        let mut size = [0; 4];
        let read = self.stream.read_exact(&mut size).await;
        read.map_err(|source| self.io("read from", source))?;
        let bytes = i64::from(i32::from_be_bytes(size));
        let length = usize::try_from(bytes)
            .ok()
            .filter(|length| *length <= limit)
            .ok_or_else(|| KafkaError::TooLarge { broker: self.broker.clone(), bytes, limit })?;
        let mut frame = BytesMut::new();
        while frame.len() < length {
            let lacking = length - frame.len();
            frame.reserve(lacking.min(READ_BYTES.max(frame.len())));
            let mut part = (&mut self.stream).take(lacking as u64);
            let read = part.read_buf(&mut frame).await;
            if read.map_err(|source| self.io("read from", source))? == 0 {
                return Err(self.io("read from", std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(frame.freeze())
    }

    fn io(&self, op: &'static str, source: std::io::Error) -> KafkaError {
        KafkaError::Io { op, broker: self.broker.clone(), source }
    }

    fn unreadable(&self, api: &'static str, reason: &str) -> KafkaError {
        KafkaError::Unreadable { broker: self.broker.clone(), api, reason: reason.to_owned() }
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn code(api: &'static str, topic: &str, code: i16) -> Result<(), KafkaError> {
    if code == 0 {
        return Ok(());
    }
    let name = ResponseError::try_from_code(code)
        .map_or_else(|| "unknown".to_owned(), |error| format!("{error:?}"));
    Err(KafkaError::Code { api, topic: topic.to_owned(), code, name })
}

fn partition_code(
    api: &'static str,
    topic: &str,
    partition: i32,
    offset: i64,
    number: i16,
) -> Result<(), KafkaError> {
    if number == ResponseError::UnknownTopicOrPartition.code() {
        return Err(KafkaError::UnknownPartition { topic: topic.to_owned(), partition });
    }
    if number == ResponseError::OffsetOutOfRange.code() {
        return Err(KafkaError::OffsetOutOfRange { topic: topic.to_owned(), offset });
    }
    code(api, topic, number)
}

/// Cuts off a last batch that is not all there, as brokers may send it.
fn whole_batches(mut bytes: Bytes) -> Result<Bytes, RecordError> {
    let mut whole = 0;
    let mut rest: &[u8] = &bytes;
    while !rest.is_empty() {
        let needed = match BatchHeader::parse(rest) {
            Ok(header) => header.total_bytes(),
            Err(RecordError::Truncated { .. }) if whole > 0 => break,
            Err(error) => return Err(error),
        };
        if rest.len() < needed {
            if whole == 0 {
                return Err(RecordError::Truncated { needed, found: rest.len() });
            }
            break;
        }
        rest.advance(needed);
        whole += needed;
    }
    bytes.truncate(whole);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, FetchResponse};
    use tokio::net::TcpListener;

    use super::*;
    use crate::kafka::protocol::peek;
    use crate::record::BatchBuilder;

    /// A broker that answers ApiVersions, then each request with the next of `answers`, whose correlation id it sets.
    async fn broker(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        crate::task::spawn("test-broker", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let keys = [0, 1, 2, 3].map(|key| {
                ApiVersion::default().with_api_key(key).with_min_version(0).with_max_version(20)
            });
            let mut versions = vec![0; 4];
            let response = ApiVersionsResponse::default().with_api_keys(keys.to_vec());
            response.encode(&mut versions, 0).unwrap();
            for mut answer in std::iter::once(versions).chain(answers) {
                let size = stream.read_u32().await.unwrap() as usize;
                let mut request = vec![0; size];
                stream.read_exact(&mut request).await.unwrap();
                let id = peek(&request).unwrap().correlation_id;
                answer[..4].copy_from_slice(&id.to_be_bytes());
                stream.write_u32(u32::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        address
    }

    fn fetch_answer(error_code: i16, records: Vec<u8>) -> Vec<u8> {
        let version = 12;
        let data = PartitionData::default()
            .with_error_code(error_code)
            .with_high_watermark(9)
            .with_records(Some(records.into()));
        let topic = FetchableTopicResponse::default()
            .with_topic(topic_name("disk"))
            .with_partitions(vec![data]);
        let mut out = vec![0; 4];
        // The empty tagged fields of the header.
        out.push(0);
        FetchResponse::default().with_responses(vec![topic]).encode(&mut out, version).unwrap();
        assert_eq!(ApiKey::Fetch.response_header_version(version), 1);
        out
    }

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(1);
        builder.push(1, None, Some(b"value"), &[]);
        builder.build()
    }

    #[tokio::test]
    async fn a_fetch_gives_whole_batches_only() {
        let cut = [batch(), batch(), batch()[..70].to_vec()].concat();
        let address = broker(vec![fetch_answer(0, cut), fetch_answer(0, Vec::new())]).await;
        let mut client = KafkaClient::connect(&address).await.unwrap();
        let fetched = client.fetch("disk", 0, 1, 1 << 20, Duration::ZERO).await.unwrap();
        assert_eq!(fetched.batches, [batch(), batch()].concat());
        assert_eq!(fetched.high_watermark, 9);
        let fetched = client.fetch("disk", 0, 1, 1 << 20, Duration::ZERO).await.unwrap();
        assert!(fetched.batches.is_empty());
    }

    #[tokio::test]
    async fn error_codes_are_told_apart() {
        let answers = [3, 1, 56].map(|code| fetch_answer(code, Vec::new()));
        let address = broker(answers.to_vec()).await;
        let mut client = KafkaClient::connect(&address).await.unwrap();
        let mut errors = Vec::new();
        for _ in 0..3 {
            errors.push(client.fetch("disk", 0, 5, 100, Duration::ZERO).await.unwrap_err());
        }
        assert!(matches!(errors[0], KafkaError::UnknownPartition { partition: 0, .. }));
        assert!(matches!(errors[1], KafkaError::OffsetOutOfRange { offset: 5, .. }));
        assert!(matches!(errors[2], KafkaError::Code { code: 56, .. }), "{}", errors[2]);
    }

    #[tokio::test]
    async fn an_answer_too_long_is_refused_before_memory_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        crate::task::spawn("test-broker", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        });
        let error = KafkaClient::connect(&address).await.unwrap_err();
        assert!(matches!(error, KafkaError::TooLarge { .. }), "{error}");
    }
}
