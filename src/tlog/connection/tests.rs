use std::path::PathBuf;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::*;
use crate::broker::vdisk::Config;
use crate::broker::{Adopted, Broker, DataDir, Metrics};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::tlog::protocol::frame::take_frame;
use crate::tlog::protocol::message::{
    ClientMessage, HandshakeRequest, HandshakeResponse, Response, Status, VERSION_A, VERSION_B,
    Wire,
};
use crate::tlog::{listener, vectors};
use crate::types::ClusterId;

/// A listening server over a broker on a disk in memory.
struct Server {
    address: SocketAddr,
    broker: Arc<Broker>,
    stop: CancellationToken,
    listening: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let path = PathBuf::from("/data");
        let disk = Arc::new(SimDisk::new()) as Arc<dyn Disk>;
        let mut data_dir = DataDir::open(disk, &path, [5; 16]).unwrap();
        let cluster = ClusterId::from_random([1; 16]);
        data_dir.settle(cluster).unwrap();
        let metrics = Metrics::new(&mut Registry::default());
        let mut config = crate::broker::Config::new(path);
        config.keep_reserve = false;
        let broker =
            Broker::open(config, &data_dir, Adopted::default(), cluster, None, metrics).unwrap();
        let config = Config {
            flush_size: 25,
            flush_time: Duration::from_secs(25),
            default_block_size: 4096,
        };
        let stop = CancellationToken::new();
        let vdisks = Vdisks::new(Arc::clone(&broker), config, 1 << 20, CancellationToken::new());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let serving = listener::serve(socket, vdisks, None, stop.clone());
        let listening = crate::task::spawn("test-listener", serving);
        Self { address, broker, stop, listening }
    }

    async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Client { stream, input: BytesMut::new() }
    }

    async fn end(self) {
        self.stop.cancel();
        self.listening.await.unwrap();
        self.broker.stop();
    }
}

struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn send_vector(&mut self, name: &str) {
        self.send(&vectors::load(name).bytes).await;
    }

    /// The next `count` bytes.
    async fn bytes(&mut self, count: usize) -> BytesMut {
        while self.input.len() < count {
            assert!(self.stream.read_buf(&mut self.input).await.unwrap() > 0, "closed");
        }
        self.input.split_to(count)
    }

    async fn expect_vector(&mut self, name: &str) {
        let expected = vectors::load(name).bytes;
        assert_eq!(self.bytes(expected.len()).await[..], expected[..], "{name}");
    }

    async fn response(&mut self) -> Response {
        loop {
            if let Some(frame) = take_frame(&mut self.input).unwrap() {
                return Response::decode(&frame).unwrap();
            }
            assert!(self.stream.read_buf(&mut self.input).await.unwrap() > 0, "closed");
        }
    }

    async fn handshake(&mut self, family: Family, vdisk: &str) -> HandshakeResponse {
        let version = if family == Family::A { VERSION_A } else { VERSION_B };
        let vdisk_id = Some(vdisk.to_owned());
        let mut out = BytesMut::new();
        HandshakeRequest { family, version, vdisk_id, first_sequence: 0, reset: false }
            .encode(&mut out);
        self.send(&out).await;
        let length = if family == Family::A { 24 } else { 32 };
        let frame = take_frame(&mut self.bytes(length).await).unwrap().unwrap();
        HandshakeResponse::decode(&frame).unwrap()
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.stream.read_buf(&mut self.input).await.unwrap(), 0);
        assert!(self.input.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_clients_of_both_eras_are_answered_over_a_socket() {
    let server = Server::start().await;
    let mut old = server.client().await;
    old.send_vector("a-handshake-ok.c2s").await;
    old.expect_vector("a-handshake-ok.s2c").await;
    for exchange in ["a-block-1", "a-block-writezeroes", "a-wait-slave-sync"] {
        old.send_vector(&format!("{exchange}.c2s")).await;
        old.expect_vector(&format!("{exchange}.s2c")).await;
    }
    let mut new = server.client().await;
    new.send_vector("b-handshake-ok.c2s").await;
    new.expect_vector("b-handshake-ok.s2c").await;
    for exchange in ["b-block-1", "b-block-duplicate", "b-block-delete", "b-disconnect"] {
        new.send_vector(&format!("{exchange}.c2s")).await;
        new.expect_vector(&format!("{exchange}.s2c")).await;
    }
    new.expect_end().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_hash_ends_the_connection_as_recorded_and_stores_nothing() {
    let server = Server::start().await;
    let mut old = server.client().await;
    old.send_vector("a-handshake-ok.c2s").await;
    old.expect_vector("a-handshake-ok.s2c").await;
    old.send_vector("a-block-bad-hash.c2s").await;
    old.expect_end().await;
    let mut new = server.client().await;
    new.send_vector("b-handshake-ok.c2s").await;
    new.expect_vector("b-handshake-ok.s2c").await;
    new.send_vector("b-block-bad-hash.c2s").await;
    new.expect_vector("b-block-bad-hash.s2c").await;
    new.expect_end().await;
    for vdisk in ["vdisk-a1", "vdisk-b1"] {
        let topic = server.broker.topic(vdisk).unwrap();
        let marks = topic.partition(0).unwrap().watermarks();
        assert_eq!(marks.log_start, marks.log_end, "{vdisk}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_answered_and_the_socket_is_closed() {
    let server = Server::start().await;
    for name in ["b-handshake-garbage", "b-handshake-old-version", "a-handshake-old-version"] {
        let mut client = server.client().await;
        client.send_vector(&format!("{name}.c2s")).await;
        client.expect_vector(&format!("{name}.s2c")).await;
        client.expect_end().await;
    }
    let mut client = server.client().await;
    let response = client.handshake(Family::B, "__groups").await;
    assert_eq!(response.status, HandshakeStatus::InvalidVdiskId);
    client.expect_end().await;

    let mut first = server.client().await;
    assert_eq!(first.handshake(Family::B, "v").await.status, HandshakeStatus::Ok);
    let mut second = server.client().await;
    assert_eq!(second.handshake(Family::B, "v").await.status, HandshakeStatus::AttachFailed);
    second.expect_end().await;
    drop(first);
    // The place is free as soon as the closed socket is seen.
    loop {
        let mut third = server.client().await;
        match third.handshake(Family::B, "v").await.status {
            HandshakeStatus::Ok => break,
            HandshakeStatus::AttachFailed => {}
            other => panic!("{other:?}"),
        }
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_gets_every_answer() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(client.handshake(Family::A, "v").await.status, HandshakeStatus::Ok);
    let hash = Params::new().hash_length(32).hash(b"x").as_bytes().try_into().unwrap();
    let mut out = BytesMut::new();
    const COUNT: u64 = 3000;
    for sequence in 0..COUNT {
        let block = Block {
            sequence,
            place: crate::record::vdisk::Place::Bytes { offset: sequence, size: 1 },
            operation: 1,
            hash,
            timestamp: 0,
            data: bytes::Bytes::from_static(b"x"),
        };
        assert!(ClientMessage::Block(block).encode(Wire::Typed, 4096, &mut out));
    }
    client.send(&out).await;
    for sequence in 0..COUNT {
        let expected = Response { status: Status::Received, sequences: vec![sequence] };
        assert_eq!(client.response().await, expected);
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_the_clients_that_know_the_word() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(client.handshake(Family::B, "v").await.status, HandshakeStatus::Ok);
    server.stop.cancel();
    assert_eq!(client.response().await, Response::of(Status::Disconnected));
    client.expect_end().await;
    drop(client);
    server.end().await;
}
