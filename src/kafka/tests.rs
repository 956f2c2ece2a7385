//! The front end over a real socket and a real broker, by hand-made requests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    FetchRequest, FetchResponse, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, ProduceRequest, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::context::Shared;
use super::{Advertised, Config, FrontEnd, Listener};
use crate::broker::{self, Adopted, Broker, DataDir, NewTopic};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::record::{BatchBuilder, Batches};
use crate::task;
use crate::types::{ClusterId, limits};

mod ends;
mod epochs;
mod large;

/// Longer than anything takes here; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Memory for frames that arrive.
const ARRIVING: usize = 64 << 20;

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
    broker: Arc<Broker>,
    shared: Arc<Shared>,
}

impl Config {
    /// Little for fetched data, so that it runs short.
    const TEST: Self = Self { fetch_memory_bytes: 1 << 20, arriving_memory_bytes: ARRIVING };
}

fn open_broker(disk: Arc<dyn Disk>, path: PathBuf) -> Arc<Broker> {
    let mut data_dir = DataDir::open(disk, &path, [5; 16]).unwrap();
    let cluster = ClusterId::from_random([1; 16]);
    data_dir.settle(cluster).unwrap();
    let mut config = broker::Config::new(path);
    config.keep_reserve = false;
    config.commit_log_file_bytes = 1 << 20;
    let metrics = broker::Metrics::new(&mut Registry::default());
    Broker::open(config, &data_dir, Adopted::default(), cluster, None, metrics).unwrap()
}

fn simulated(disk: &SimDisk) -> Arc<Broker> {
    open_broker(Arc::new(disk.clone()), PathBuf::from("/data"))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.broker.stop();
    }
}

impl Server {
    async fn start() -> Self {
        Self::start_on(&SimDisk::new()).await
    }

    async fn start_on(disk: &SimDisk) -> Self {
        Self::of(simulated(disk), Config::TEST).await
    }

    async fn with(config: Config) -> Self {
        Self::of(simulated(&SimDisk::new()), config).await
    }

    async fn of(broker: Arc<Broker>, config: Config) -> Self {
        let front_end = FrontEnd::new(Arc::clone(&broker), config, &mut Registry::default());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener { name: "test".to_owned(), advertised: Advertised::AsConnected };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let shared = Arc::clone(&front_end.shared);
        let serving = task::spawn("test server", async move {
            front_end.serve(listener, socket, stopped).await;
        });
        Self { address, stop, serving: Some(serving), broker, shared }
    }

    async fn client(&self) -> Client {
        Client { socket: TcpStream::connect(self.address).await.unwrap(), next: 0 }
    }
}

struct Client {
    socket: TcpStream,
    next: i32,
}

impl Client {
    async fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.next += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.next)
            .with_client_id(Some(words("tests")));
        let mut frame = BytesMut::new();
        header.encode(&mut frame, R::header_version(version)).unwrap();
        request.encode(&mut frame, version).unwrap();
        self.raw(&frame).await;
    }

    async fn raw(&mut self, frame: &[u8]) {
        let size = u32::try_from(frame.len()).unwrap();
        self.socket.write_all(&[&size.to_be_bytes(), frame].concat()).await.unwrap();
    }

    /// The next answer and its correlation id.
    async fn receive<R: Request>(&mut self, version: i16) -> (i32, R::Response) {
        let mut frame = timeout(PATIENCE, self.frame()).await.unwrap().expect("an answer");
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "bytes follow the answer");
        (header.correlation_id, response)
    }

    /// A whole frame, or none at the end of the stream.
    async fn frame(&mut self) -> Option<Bytes> {
        let size = self.socket.read_u32().await.ok()?;
        let mut frame = vec![0; usize::try_from(size).unwrap()];
        self.socket.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        let (correlation_id, response) = self.receive::<R>(version).await;
        assert_eq!(correlation_id, self.next);
        response
    }

    async fn expect_closed(&mut self) {
        assert_eq!(timeout(PATIENCE, self.frame()).await.unwrap(), None);
    }

    async fn create(&mut self, name: &str, partitions: i32) -> Uuid {
        let topic = CreatableTopic::default()
            .with_name(words(name).into())
            .with_num_partitions(partitions)
            .with_replication_factor(3);
        let created = self.call(7, &CreateTopicsRequest::default().with_topics(vec![topic])).await;
        assert_eq!(created.topics[0].error_code, 0);
        assert_eq!(created.topics[0].num_partitions, partitions);
        created.topics[0].topic_id
    }
}

fn words(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(1_000);
    for (place, value) in (0..).zip(values) {
        builder.push(1_000 + 10 * place, Some(b"k"), Some(value.as_bytes()), &[]);
    }
    builder.build().into()
}

fn produce(acks: i16, parts: &[(&str, i32, Bytes)]) -> ProduceRequest {
    let topics = parts.iter().map(|(topic, index, records)| {
        let data =
            PartitionProduceData::default().with_index(*index).with_records(Some(records.clone()));
        TopicProduceData::default().with_name(words(topic).into()).with_partition_data(vec![data])
    });
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1_000)
        .with_topic_data(topics.collect())
}

/// A fetch of (partition, offset) pairs that waits a minute at most for one byte.
fn fetch(topic: &str, parts: &[(i32, i64)]) -> FetchRequest {
    let partitions = parts.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20)
    });
    let topic =
        FetchTopic::default().with_topic(words(topic).into()).with_partitions(partitions.collect());
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(60_000)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

fn errors(response: &FetchResponse) -> Vec<i16> {
    response.responses.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
}

/// Base offsets of the batches of each partition of an answer.
fn offsets(response: &FetchResponse) -> Vec<Vec<i64>> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let of = |records: &Bytes| Batches::new(records).map(|b| b.unwrap().0.base_offset).collect();
    partitions.map(|partition| of(partition.records.as_ref().unwrap())).collect()
}

#[tokio::test]
async fn what_is_produced_is_fetched_as_sent() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    for (version, base) in [(3, 0), (7, 2), (11, 4)] {
        let produced = client.call(version, &produce(-1, &[("t", 0, batch(&["a", "b"]))])).await;
        let answer = &produced.responses[0].partition_responses[0];
        assert_eq!((answer.error_code, answer.base_offset), (0, base));
    }
    for version in [4, 7, 12] {
        let fetched = client.call(version, &fetch("t", &[(0, 3)])).await;
        assert_eq!(fetched.session_id, 0);
        assert_eq!(offsets(&fetched), [[2, 4]], "from the batch that holds the offset");
        let part = &fetched.responses[0].partitions[0];
        assert_eq!((part.high_watermark, part.last_stable_offset), (6, 6));
        assert_eq!(part.records.as_ref().unwrap()[17..75], batch(&["a", "b"])[17..75]);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    for _ in 0..100 {
        client.send(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    }
    client.send(4, &ListOffsetsRequest::default()).await;
    client.send(9, &produce(1, &[("t", 0, batch(&["b"]))])).await;
    for base in 0..100 {
        let (id, produced) = client.receive::<ProduceRequest>(9).await;
        assert_eq!(id, 2 + base);
        let answer = &produced.responses[0].partition_responses[0];
        assert_eq!(answer.base_offset, i64::from(base));
    }
    assert_eq!(client.receive::<ListOffsetsRequest>(4).await.0, 102);
    let (id, last) = client.receive::<ProduceRequest>(9).await;
    assert_eq!((id, last.responses[0].partition_responses[0].base_offset), (103, 100));
}

#[tokio::test]
async fn acks_0_has_no_answer_and_closes_on_failure() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    client.send(9, &produce(0, &[("t", 0, batch(&["a"]))])).await;
    client
        .call(
            3,
            &ApiVersionsRequest::default()
                .with_client_software_name(words("a"))
                .with_client_software_version(words("1")),
        )
        .await;
    let fetched = client.call(4, &fetch("t", &[(0, 0)])).await;
    assert_eq!(offsets(&fetched), [[0]]);
    client.send(9, &produce(0, &[("unknown", 0, batch(&["a"]))])).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn acks_0_counts_when_the_client_closes_at_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    let mut hasty = server.client().await;
    hasty.send(0, &ApiVersionsRequest::default()).await;
    hasty.send(9, &produce(0, &[("t", 0, batch(&["a"]))])).await;
    hasty.socket.shutdown().await.unwrap();
    let fetched = client.call(4, &fetch("t", &[(0, 0)])).await;
    assert_eq!(offsets(&fetched), [[0]]);
}

#[tokio::test]
async fn partitions_of_a_produce_fail_one_by_one() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 3).await;
    let good = batch(&["a"]);
    let two: Bytes = [&good[..], &good[..]].concat().into();
    let mut torn = good.to_vec();
    *torn.last_mut().unwrap() ^= 1;
    let parts = [
        ("t", 0, good.clone()),
        ("t", 1, good.clone()),
        ("t", 1, good.clone()),
        ("t", 2, two),
        ("t", 9, good.clone()),
        ("unknown", 0, good.clone()),
    ];
    let codes = |response: &kafka_protocol::messages::ProduceResponse| -> Vec<i16> {
        let all = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        all.map(|partition| partition.error_code).collect()
    };
    let produced = client.call(8, &produce(-1, &parts)).await;
    assert_eq!(codes(&produced), [0, 42, 42, 87, 3, 3]);
    assert!(produced.responses[3].partition_responses[0].error_message.is_some());
    let produced =
        client.call(8, &produce(-1, &[("t", 0, torn.into()), ("t", 1, Bytes::new())])).await;
    assert_eq!(codes(&produced), [2, 87]);
    assert_eq!(codes(&client.call(8, &produce(2, &parts[..2])).await), [21, 21]);
    let transactional = produce(-1, &parts[..2]).with_transactional_id(Some(words("x").into()));
    assert_eq!(codes(&client.call(8, &transactional).await), [48, 48]);
}

#[tokio::test]
async fn a_long_poll_wakes_at_once() {
    let server = Server::start().await;
    let (mut reader, mut writer) = (server.client().await, server.client().await);
    let id = writer.create("t", 3).await;
    reader.send(12, &fetch("t", &[(0, 0), (1, 0), (2, 0)])).await;
    writer.call(9, &produce(-1, &[("t", 1, batch(&["a"]))])).await;
    let (_, fetched) = reader.receive::<FetchRequest>(12).await;
    assert_eq!(offsets(&fetched), [vec![], vec![0], vec![]]);

    let mut by_id = fetch("t", &[(0, 0), (2, 0)]);
    by_id.topics[0].topic_id = id;
    reader.send(13, &by_id).await;
    let mut by_name = server.client().await;
    by_name.send(4, &fetch("t", &[(0, 0)])).await;
    let gone = DeleteTopicState::default().with_name(None).with_topic_id(id);
    writer.call(6, &DeleteTopicsRequest::default().with_topics(vec![gone])).await;
    assert_eq!(errors(&reader.receive::<FetchRequest>(13).await.1), [100, 100]);
    assert_eq!(errors(&by_name.receive::<FetchRequest>(4).await.1), [3]);
}

#[tokio::test]
async fn a_fetch_waits_for_min_bytes_and_no_longer_than_asked() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    client.call(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    let many = fetch("t", &[(0, 0)]).with_min_bytes(100_000).with_max_wait_ms(100);
    let begun = std::time::Instant::now();
    assert_eq!(offsets(&client.call(4, &many).await), [[0]]);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let at_end = fetch("t", &[(0, 1)]).with_max_wait_ms(0);
    let fetched = client.call(4, &at_end).await;
    assert_eq!((errors(&fetched), offsets(&fetched)), (vec![0], vec![vec![]]));
    assert_eq!(fetched.responses[0].partitions[0].high_watermark, 1);
    assert!(client.call(4, &fetch("t", &[])).await.responses[0].partitions.is_empty());
}

#[tokio::test]
async fn the_first_partition_gives_a_batch_whatever_the_limits() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 3).await;
    for partition in 0..3 {
        for _ in 0..3 {
            client.call(9, &produce(-1, &[("t", partition, batch(&["a"]))])).await;
        }
    }
    let size = i32::try_from(batch(&["a"]).len()).unwrap();
    let all = [(0, 0), (1, 0), (2, 0)];
    let one = client.call(4, &fetch("t", &all).with_max_bytes(1)).await;
    assert_eq!(offsets(&one), [vec![0], vec![], vec![]]);
    let four = client.call(4, &fetch("t", &all).with_max_bytes(4 * size)).await;
    assert_eq!(offsets(&four), [vec![0, 1, 2], vec![0], vec![]]);
    let mut narrow = fetch("t", &all);
    narrow.topics[0].partitions.iter_mut().for_each(|p| p.partition_max_bytes = size);
    assert_eq!(offsets(&client.call(4, &narrow).await), [[0], [0], [0]]);
}

/// Waits until a claim about the server holds.
async fn until(what: &str, claim: impl Fn() -> bool) {
    let waiting = async {
        while !claim() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not come"));
}

#[tokio::test]
async fn fetched_data_holds_its_memory_until_it_is_written() {
    const POOL: usize = 64 << 20;
    let config = Config { fetch_memory_bytes: POOL, arriving_memory_bytes: ARRIVING };
    let server = Server::with(config).await;
    let mut writer = server.client().await;
    // What is longer would be sent from its file.
    const PARTITIONS: i32 = 400;
    writer.create("t", PARTITIONS).await;
    let value = "x".repeat(60_000);
    for index in 0..PARTITIONS {
        writer.call(9, &produce(-1, &[("t", index, batch(&[&value]))])).await;
    }
    // More than the system takes off the server for a client that does not read.
    let mut reader = server.client().await;
    let parts: Vec<_> = (0..PARTITIONS).map(|index| (index, 0)).collect();
    let all = fetch("t", &parts).with_max_bytes(POOL as i32);
    reader.send(4, &all).await;
    reader.socket.readable().await.unwrap();
    let held = POOL - server.shared.fetched.free_bytes();
    assert!(held >= 20_000_000, "{held} bytes are held while the answer is written");
    let (_, fetched) = reader.receive::<FetchRequest>(4).await;
    assert_eq!(offsets(&fetched), vec![[0]; PARTITIONS as usize]);
    until("all memory", || server.shared.fetched.free_bytes() == POOL).await;
}

#[tokio::test]
async fn a_fetch_that_waits_holds_nothing_of_its_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    let mut parked = Vec::new();
    for _ in 0..3 {
        let mut client = server.client().await;
        client.send(4, &fetch("t", &[(0, 0); 30_000])).await;
        parked.push(client);
    }
    until("three waiting fetches", || server.shared.metrics.fetches_waiting() == 3).await;
    assert_eq!(server.shared.decoded.free_bytes(), limits::KAFKA_DECODED_REQUESTS_BYTES);
    let everything = timeout(PATIENCE, server.broker.reserve(usize::MAX)).await;
    drop(everything.expect("a waiting fetch holds some of the budget"));
    client.call(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    for mut parked in parked {
        let fetched = parked.receive::<FetchRequest>(4).await.1;
        assert_eq!(offsets(&fetched), [[0]], "one answer for the partition");
    }
}

#[tokio::test]
async fn topics_named_twice_in_a_fetch_are_answered_together() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 2).await;
    client.call(9, &produce(-1, &[("t", 0, batch(&["a"])), ("t", 1, batch(&["b"]))])).await;
    let mut twice = fetch("t", &[(0, 0), (0, 1)]);
    twice.topics.extend(fetch("t", &[(1, 0), (0, 0)]).topics);
    let fetched = client.call(4, &twice).await;
    assert_eq!(fetched.responses.len(), 1);
    assert_eq!(offsets(&fetched), [[0], [0]]);
}

#[tokio::test]
async fn a_fetch_of_more_partitions_than_there_is_memory_for_does_not_wait() {
    let config = Config { fetch_memory_bytes: 64 << 10, arriving_memory_bytes: ARRIVING };
    let server = Server::with(config).await;
    let mut client = server.client().await;
    client.create("t", 1_000).await;
    let parts: Vec<_> = (0..1_000).map(|index| (index, 0)).collect();
    let fetched = client.call(4, &fetch("t", &parts)).await;
    assert_eq!(errors(&fetched), [0; 1_000]);
}

/// A producer of 1 MB in a frame, which must get through in less than the time that is given to those who do not send.
async fn expect_a_large_produce(client: &mut Client) {
    let value = "x".repeat(1_000_000);
    let request = produce(-1, &[("t", 0, batch(&[&value]))]);
    let produced = timeout(Duration::from_secs(10), client.call(9, &request)).await;
    let produced = produced.expect("it waits for what does not come");
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
}

/// A client that announces 4 MiB and sends 70 kB.
async fn half_sent(server: &Server) -> Client {
    let mut half = server.client().await;
    half.socket.write_all(&[0, 0x40, 0, 0, 0, 0, 0, 9]).await.unwrap();
    half.socket.write_all(&[0; 70_000]).await.unwrap();
    half
}

#[tokio::test]
async fn frames_that_do_not_come_hold_up_nobody() {
    let server = Server::start().await;
    let mut good = server.client().await;
    good.create("t", 1).await;
    let mut halves = Vec::new();
    for _ in 0..200 {
        halves.push(half_sent(&server).await);
    }
    let held = || ARRIVING - server.shared.arriving.free_bytes();
    until("all halves", || held() > 200 * 70_000).await;
    assert!(held() < 200 * 200_000, "{} bytes are held for what was announced", held());
    expect_a_large_produce(&mut good).await;
}

#[tokio::test]
async fn frames_arrive_also_when_their_memory_is_used_up() {
    let config = Config { fetch_memory_bytes: 1 << 20, arriving_memory_bytes: 256 << 10 };
    let server = Server::with(config).await;
    let mut good = server.client().await;
    good.create("t", 1).await;
    let _half = half_sent(&server).await;
    until("a short pool", || server.shared.arriving.free_bytes() < 150_000).await;
    for _ in 0..3 {
        expect_a_large_produce(&mut good).await;
    }
}

#[tokio::test]
async fn a_batch_longer_than_the_memory_left_waits_for_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 2).await;
    // What is longer would be sent from its file.
    let value = "x".repeat(60_000);
    for index in 0..2 {
        client.call(9, &produce(-1, &[("t", index, batch(&[&value]))])).await;
    }
    let all_memory = server.shared.fetched.reserve(usize::MAX).await;
    client.send(4, &fetch("t", &[(0, 0), (1, 0)]).with_max_bytes(1)).await;
    let early = timeout(Duration::from_millis(200), client.socket.peek(&mut [0])).await;
    assert!(early.is_err(), "a batch was read without memory for it");
    drop(all_memory);
    let (_, fetched) = client.receive::<FetchRequest>(4).await;
    assert_eq!(offsets(&fetched), [vec![0], vec![]]);
}

#[tokio::test]
async fn a_fetch_that_cannot_grow_does_not_wait() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    for _ in 0..2 {
        client.call(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    }
    let size = i32::try_from(batch(&["a"]).len()).unwrap();
    let both = fetch("t", &[(0, 0)]).with_max_bytes(2 * size - 1).with_min_bytes(2 * size - 1);
    assert_eq!(offsets(&client.call(4, &both).await), [[0]], "the answer holds one of them");
}

#[tokio::test]
async fn who_waits_for_data_holds_no_memory_but_for_what_was_read() {
    let server = Server::start().await;
    let mut writer = server.client().await;
    writer.create("t", 2).await;
    let size = batch(&["a"]).len();
    writer.call(9, &produce(-1, &[("t", 1, batch(&["a"]))])).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut client = server.client().await;
        let patient = fetch("t", &[(0, 0), (1, 0)]).with_min_bytes(2 * size as i32);
        client.send(4, &patient).await;
        waiting.push(client);
    }
    let metrics = &server.shared.metrics;
    until("five waiting fetches", || metrics.fetches_waiting() == 5).await;
    assert!(server.shared.fetched.free_bytes() >= (1 << 20) - 5 * 1024);
    writer.call(9, &produce(-1, &[("t", 0, batch(&["b"]))])).await;
    for client in &mut waiting {
        assert_eq!(offsets(&client.receive::<FetchRequest>(4).await.1), [[0], [0]]);
    }
    until("all memory", || server.shared.fetched.free_bytes() == 1 << 20).await;
}

#[tokio::test]
async fn fetch_errors() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    for offset in [-1, 1] {
        assert_eq!(errors(&client.call(4, &fetch("t", &[(0, offset)])).await), [1]);
    }
    assert_eq!(errors(&client.call(4, &fetch("t", &[(1, 0)])).await), [3]);
    assert_eq!(errors(&client.call(4, &fetch("u", &[(0, 0)])).await), [3]);
    assert_eq!(errors(&client.call(13, &fetch("t", &[(0, 0)])).await), [100]);
    let incremental = fetch("t", &[(0, 0)]).with_session_id(7).with_session_epoch(3);
    assert_eq!(client.call(11, &incremental).await.error_code, 70);
}

#[tokio::test]
async fn a_fetch_in_another_epoch_than_the_leaders_is_refused() {
    let disk = SimDisk::new();
    let broker = simulated(&disk);
    let topic =
        broker.create_topic(NewTopic { name: "t".to_owned(), partitions: 1, options: Vec::new() });
    topic.await.unwrap();
    // A start that no clean stop preceded raises the epoch.
    let crashed = simulated(&disk.crash(1));
    broker.stop();
    let server = Server::of(crashed, Config::TEST).await;
    let mut client = server.client().await;
    let all = client.call(9, &MetadataRequest::default().with_topics(None)).await;
    assert_eq!(all.topics[0].partitions[0].leader_epoch, 1);
    for (epoch, code) in [(0, 74), (1, 0), (2, 75), (-1, 0)] {
        let mut request = fetch("t", &[(0, 0)]).with_max_wait_ms(0);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        assert_eq!(errors(&client.call(9, &request).await), [code], "epoch {epoch}");
    }
}

#[tokio::test]
async fn offsets_are_listed_by_all_their_names() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    client.call(9, &produce(-1, &[("t", 0, batch(&["a", "b", "c"]))])).await;
    let expected = [
        (-1, (0, 3, -1)),
        (-2, (0, 0, -1)),
        (-3, (0, 2, 1_020)),
        (-4, (0, 0, -1)),
        (-5, (0, -1, -1)),
        (-6, (35, -1, -1)),
        (0, (0, 0, 1_000)),
        (1_001, (0, 1, 1_010)),
        (1_021, (0, -1, -1)),
    ];
    for (timestamp, answer) in expected {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(words("t").into())
            .with_partitions(vec![partition]);
        let listed = client.call(10, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
        let found = &listed.topics[0].partitions[0];
        assert_eq!((found.error_code, found.offset, found.timestamp), answer, "{timestamp}");
    }
}

#[tokio::test]
async fn metadata_creates_when_both_sides_allow_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let named = |name: &str| MetadataRequestTopic::default().with_name(Some(words(name).into()));
    let ask = |names: &[&str]| {
        MetadataRequest::default().with_topics(Some(names.iter().map(|name| named(name)).collect()))
    };
    let kept = client.call(4, &ask(&["new"]).with_allow_auto_topic_creation(false)).await;
    assert_eq!(kept.topics[0].error_code, 3);
    let made = client.call(12, &ask(&["new", "bad name"])).await;
    assert_eq!((made.topics[0].error_code, made.topics[1].error_code), (0, 17));
    assert_eq!(made.topics[0].partitions[0].leader_id, made.controller_id);
    assert_eq!(made.brokers[0].host.as_str(), "127.0.0.1");
    assert_eq!(made.brokers[0].port, i32::from(server.address.port()));
    for version in 1..=13 {
        let all = client.call(version, &MetadataRequest::default().with_topics(None)).await;
        assert_eq!(all.topics.len(), 1);
        let none = client.call(version, &ask(&[])).await;
        assert!(none.topics.is_empty());
    }
    assert_eq!(client.call(0, &ask(&[])).await.topics.len(), 1, "in version 0 empty means all");
    let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    let wanted = vec![by_id(made.topics[0].topic_id), by_id(Uuid::max())];
    let found = client.call(12, &MetadataRequest::default().with_topics(Some(wanted))).await;
    assert_eq!((found.topics[0].error_code, found.topics[1].error_code), (0, 100));
}

#[tokio::test]
async fn a_topic_named_many_times_is_answered_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 100).await;
    let named = MetadataRequestTopic::default().with_name(Some(words("t").into()));
    let request = MetadataRequest::default().with_topics(Some(vec![named; 30_000]));
    let found = client.call(1, &request).await;
    assert_eq!(found.topics.len(), 1);
    assert_eq!(found.topics[0].partitions.len(), 100);
}

#[tokio::test]
async fn long_answers_wait_for_memory_and_short_ones_do_not() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("large", 400).await;
    client.create("small", 1).await;
    let all_memory = server.shared.answers.reserve(usize::MAX).await;
    assert_eq!(server.shared.answers.free_bytes(), 0);
    let mut waiting = server.client().await;
    waiting.send(9, &MetadataRequest::default().with_topics(None)).await;
    let small = MetadataRequestTopic::default().with_name(Some(words("small").into()));
    let found = client.call(9, &MetadataRequest::default().with_topics(Some(vec![small]))).await;
    assert_eq!(found.topics.len(), 1);
    let keys: Vec<_> = (0..1_500).map(|key| words(&format!("{key}"))).collect();
    client.send(4, &FindCoordinatorRequest::default().with_coordinator_keys(keys)).await;
    let mut byte = [0];
    for socket in [&waiting.socket, &client.socket] {
        let early = timeout(Duration::from_millis(100), socket.peek(&mut byte)).await;
        assert!(early.is_err(), "a long answer did not wait");
    }
    drop(all_memory);
    assert_eq!(waiting.receive::<MetadataRequest>(9).await.1.topics.len(), 2);
    let (_, found) = client.receive::<FindCoordinatorRequest>(4).await;
    assert_eq!(found.coordinators.len(), 1_500);
}

#[tokio::test]
async fn topics_are_not_created_by_the_thousands() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let topic = |name| {
        CreatableTopic::default()
            .with_name(words(&format!("t{name}")).into())
            .with_num_partitions(1)
            .with_replication_factor(1)
    };
    let most = i32::try_from(limits::KAFKA_CREATED_TOPICS).unwrap();
    for (count, code) in [(most + 1, 44), (most, 0)] {
        let request = CreateTopicsRequest::default()
            .with_topics((0..count).map(topic).collect())
            .with_validate_only(true);
        let answered = client.call(7, &request).await.topics;
        assert!(answered.iter().all(|topic| topic.error_code == code), "{count} topics");
    }
}

#[tokio::test]
async fn topics_are_created_and_deleted_one_by_one() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let topic = |name: &str| {
        CreatableTopic::default()
            .with_name(words(name).into())
            .with_num_partitions(-1)
            .with_replication_factor(-1)
    };
    let wanted =
        vec![topic("a"), topic("b"), topic("b"), topic("."), topic("c").with_num_partitions(0)];
    let request = CreateTopicsRequest::default().with_topics(wanted);
    let codes = |created: kafka_protocol::messages::CreateTopicsResponse| -> Vec<i16> {
        created.topics.iter().map(|topic| topic.error_code).collect()
    };
    let trial = client.call(7, &request.clone().with_validate_only(true)).await;
    assert_eq!(codes(trial), [0, 42, 42, 17, 37]);
    assert_eq!(codes(client.call(5, &request).await), [0, 42, 42, 17, 37]);
    assert_eq!(codes(client.call(2, &request).await), [36, 42, 42, 17, 37]);
    let names = ["a", "a", "z"].map(|name| words(name).into()).to_vec();
    let deleted = client.call(5, &DeleteTopicsRequest::default().with_topic_names(names)).await;
    let codes: Vec<_> = deleted.responses.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [42, 42, 3]);
    assert!(server.broker.topic("a").is_some(), "what is named twice is not deleted");
    let id = Uuid::from_bytes(*server.broker.topic("a").unwrap().id().as_bytes());
    let by_id = DeleteTopicState::default().with_name(None).with_topic_id(id);
    let by_name = DeleteTopicState::default().with_name(Some(words("a").into()));
    let both = DeleteTopicsRequest::default().with_topics(vec![by_name, by_id]);
    let deleted = client.call(6, &both).await;
    assert!(deleted.responses.iter().all(|topic| topic.error_code == 42), "by name and by id");
    let once = DeleteTopicsRequest::default().with_topic_names(vec![words("a").into()]);
    assert_eq!(client.call(5, &once).await.responses[0].error_code, 0);
}

#[tokio::test]
async fn deleted_records_are_out_of_range_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    for _ in 0..8 {
        client.call(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    }
    let delete = |parts: &[(i32, i64)]| {
        let part = |(index, offset): &(i32, i64)| {
            DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
        };
        let topic = DeleteRecordsTopic::default()
            .with_name(words("t").into())
            .with_partitions(parts.iter().map(part).collect());
        let none = DeleteRecordsTopic::default()
            .with_name(words("none").into())
            .with_partitions(vec![DeleteRecordsPartition::default()]);
        DeleteRecordsRequest::default().with_topics(vec![topic, none]).with_timeout_ms(1000)
    };
    for (version, before) in [(0, 2), (1, 4), (2, 6)] {
        let request = delete(&[(0, before), (0, 9), (0, -2), (1, 0)]);
        let deleted = client.call(version, &request).await;
        let parts = deleted.topics.iter().flat_map(|topic| &topic.partitions);
        let answers: Vec<_> = parts.map(|it| (it.error_code, it.low_watermark)).collect();
        assert_eq!(answers, [(0, before), (1, -1), (1, -1), (3, -1), (3, -1)]);
        assert_eq!(errors(&client.call(12, &fetch("t", &[(0, before - 1)])).await), [1]);
        let fetched = client.call(12, &fetch("t", &[(0, before)])).await;
        assert_eq!(fetched.responses[0].partitions[0].log_start_offset, before);
        assert_eq!(offsets(&fetched)[0].first(), Some(&before));
    }
    let all = client.call(2, &delete(&[(0, -1)])).await;
    assert_eq!(all.topics[0].partitions[0].low_watermark, 8);
}

#[tokio::test]
async fn producer_ids_are_fresh_and_coordinators_absent() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let plain = InitProducerIdRequest::default().with_transactional_id(None);
    let first = client.call(0, &plain).await;
    let second = client.call(5, &plain).await;
    assert_eq!((first.error_code, second.error_code, second.producer_epoch), (0, 0, 0));
    assert_ne!(first.producer_id, second.producer_id);
    for (id, code) in [("", 42), ("x", 15)] {
        let request =
            InitProducerIdRequest::default().with_transactional_id(Some(words(id).into()));
        assert_eq!(client.call(4, &request).await.error_code, code);
    }
    let one = client.call(3, &FindCoordinatorRequest::default().with_key(words("g"))).await;
    assert_eq!(one.error_code, 15);
    let keys = FindCoordinatorRequest::default().with_coordinator_keys(vec![words("g")]);
    assert_eq!(client.call(4, &keys).await.coordinators[0].error_code, 15);
}

#[tokio::test]
async fn violations_cost_their_sender_only() {
    let server = Server::start().await;
    let mut good = server.client().await;
    let header = |key: i16, version: i16| {
        [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 9, 0, 0]].concat()
    };
    let hostile: [(&str, Vec<u8>); 4] = [
        ("unknown key", header(99, 0)),
        ("unknown version", header(3, 99)),
        ("Produce below what is served", header(0, 2)),
        ("a count without elements", [header(3, 4), vec![0x7f, 0xff, 0xff, 0xff]].concat()),
    ];
    for (what, frame) in hostile {
        let mut bad = server.client().await;
        bad.raw(&frame).await;
        bad.expect_closed().await;
        let versions = good.call(0, &ApiVersionsRequest::default()).await;
        assert_eq!(versions.error_code, 0, "after {what}");
    }
    for start in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 8], &[0, 0, 0, 1, 0]] {
        let mut bad = server.client().await;
        bad.socket.write_all(start).await.unwrap();
        bad.expect_closed().await;
    }
    // Large frames that are announced and do not come: nobody else waits for them, not even with 1 MB of data.
    let mut halves = Vec::new();
    for sent in 0..20 {
        let mut half = server.client().await;
        half.socket.write_all(&[6, 0, 0, 0, 0, 0, 0, 9]).await.unwrap();
        half.socket.write_all(&vec![0; 10_000 * sent]).await.unwrap();
        halves.push(half);
    }
    let value = "x".repeat(1_000_000);
    good.create("t", 1).await;
    let produced = good.call(9, &produce(-1, &[("t", 0, batch(&[&value]))])).await;
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_keeps_the_connection() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.raw(&[0, 18, 0, 99, 0, 0, 0, 1, 0, 0]).await;
    let (_, told) = client.receive::<ApiVersionsRequest>(0).await;
    assert_eq!((told.error_code, told.api_keys.len()), (35, 1));
    assert_eq!(told.api_keys[0].max_version, 4);
    let unnamed = ApiVersionsRequest::default();
    assert_eq!(client.call(3, &unnamed).await.error_code, 42);
    let named = unnamed
        .with_client_software_name(words("librdkafka"))
        .with_client_software_version(words("2.0.2"));
    for version in 0..=4 {
        let request = if version < 3 { ApiVersionsRequest::default() } else { named.clone() };
        let versions = client.call(version, &request).await;
        assert_eq!(versions.error_code, 0);
    }
}

#[tokio::test]
async fn stopping_answers_the_long_poll_and_waits_for_the_connections() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    client.send(4, &fetch("t", &[(0, 0)])).await;
    until("a waiting fetch", || server.shared.metrics.fetches_waiting() == 1).await;
    server.stop.cancel();
    let (id, fetched) = client.receive::<FetchRequest>(4).await;
    assert_eq!((id, offsets(&fetched)), (2, vec![vec![]]));
    timeout(PATIENCE, server.serving.take().unwrap()).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
