use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::record::vdisk::{OPERATION_WRITE, OPERATION_ZERO};
use crate::tlog::protocol::{
    ClientMessage, Frame, HandshakeRequest, HandshakeResponse, HandshakeStatus,
    Response as WireResponse, Status, take_frame,
};

/// The server's side of one connection, driven by the test.
struct Peer {
    stream: TcpStream,
    inbox: BytesMut,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        Self { stream, inbox: BytesMut::new() }
    }

    /// Accepts and answers the handshake.
    async fn attached(listener: &TcpListener, last_flushed: u64) -> Self {
        let mut peer = Self::accept(listener).await;
        peer.handshake(HandshakeStatus::Ok, last_flushed, false).await;
        peer
    }

    async fn handshake(&mut self, status: HandshakeStatus, last_flushed: u64, wait: bool) {
        let request = HandshakeRequest::decode(&self.frame().await.unwrap()).unwrap();
        assert_eq!(request.vdisk_id.as_deref(), Some("disk"));
        let response = HandshakeResponse {
            family: request.family,
            status,
            last_flushed_sequence: last_flushed,
            wait_tlog_ready: wait,
        };
        let mut out = BytesMut::new();
        response.encode(&mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.inbox).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.inbox).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn message(&mut self) -> ClientMessage {
        ClientMessage::decode_union(&self.frame().await.unwrap()).unwrap()
    }

    async fn block(&mut self) -> Block {
        match self.message().await {
            ClientMessage::Block(block) => {
                assert_eq!(block.hash, hash(&block.data));
                block
            }
            other => panic!("{other:?}"),
        }
    }

    async fn sequences(&mut self, count: usize) -> Vec<u64> {
        let mut sequences = Vec::new();
        for _ in 0..count {
            sequences.push(self.block().await.sequence);
        }
        sequences
    }

    async fn answer(&mut self, status: Status, sequences: &[u64]) {
        let mut out = BytesMut::new();
        WireResponse { status, sequences: sequences.to_vec() }.encode(&mut out);
        self.stream.write_all(&out).await.unwrap();
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn config() -> Config {
    Config { first_pause: Duration::from_millis(5), ..Config::default() }
}

async fn connect(address: &str, config: Config) -> Result<(TlogClient, Responses), Error> {
    TlogClient::connect(&[address.to_owned()], "disk", config).await
}

/// A client and the server's end of its first connection.
async fn pair(config: Config, last_flushed: u64) -> (TlogClient, Responses, Peer, TcpListener) {
    let (listener, address) = listener().await;
    let (client, peer) =
        tokio::join!(connect(&address, config), Peer::attached(&listener, last_flushed));
    let (client, responses) = client.unwrap();
    (client, responses, peer, listener)
}

async fn send(client: &TlogClient, count: usize) {
    for _ in 0..count {
        client.send(OPERATION_WRITE, 7, 1, Bytes::from_static(b"data")).await.unwrap();
    }
}

#[tokio::test]
async fn blocks_go_out_in_order_and_answers_come_back() {
    let (client, mut responses, mut peer, _listener) = pair(config(), 41).await;
    assert_eq!((client.last_flushed_sequence(), client.last_sequence()), (41, 41));
    assert!(client.is_ready());
    assert_eq!(client.send(OPERATION_ZERO, 3, 9, Bytes::new()).await.unwrap(), 42);
    send(&client, 1).await;
    client.force_flush_at(43).await.unwrap();
    let block = peer.block().await;
    assert_eq!((block.sequence, block.place, block.timestamp), (42, Place::Index(3), 9));
    assert_eq!(peer.block().await.sequence, 43);
    assert_eq!(peer.message().await, ClientMessage::ForceFlush(43));
    peer.answer(Status::Received, &[42]).await;
    peer.answer(Status::ForceFlushReceived, &[]).await;
    peer.answer(Status::Flushed, &[42, 43]).await;
    client.wait_flushed(43).await.unwrap();
    for expected in [
        Response::Attached {
            server: peer.stream.local_addr().unwrap().to_string(),
            last_flushed: 41,
        },
        Response::Received(42),
        Response::ForceFlushReceived,
        Response::Flushed(vec![42, 43]),
    ] {
        assert_eq!(responses.recv().await, Some(expected));
    }
}

#[tokio::test]
async fn after_a_broken_connection_all_that_is_not_flushed_is_sent_again() {
    let (client, mut responses, mut peer, listener) = pair(config(), 0).await;
    send(&client, 5).await;
    assert_eq!(peer.sequences(5).await, [1, 2, 3, 4, 5]);
    for sequence in 1..=4 {
        peer.answer(Status::Received, &[sequence]).await;
    }
    peer.answer(Status::Flushed, &[1]).await;
    client.force_flush_at(5).await.unwrap();
    assert_eq!(peer.message().await, ClientMessage::ForceFlush(5));
    client.wait_flushed(1).await.unwrap();
    drop(peer);
    // The server had flushed one more before it fell.
    let mut peer = Peer::attached(&listener, 2).await;
    assert_eq!(peer.sequences(3).await, [3, 4, 5]);
    assert_eq!(peer.message().await, ClientMessage::ForceFlush(5), "asked for anew");
    send(&client, 1).await;
    assert_eq!(peer.block().await.sequence, 6);
    peer.answer(Status::Flushed, &[3, 4, 5, 6]).await;
    client.wait_flushed(6).await.unwrap();
    assert_eq!(client.progress().borrow().reconnects, 1);
    let mut flushed = Vec::new();
    while flushed.last() != Some(&6) {
        if let Some(Response::Flushed(sequences)) = responses.recv().await {
            flushed.extend(sequences);
        }
    }
    assert_eq!(flushed, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_block_that_is_not_received_is_sent_again() {
    let config = Config { resend_after: Duration::from_millis(30), ..config() };
    let (client, _, mut peer, _listener) = pair(config, 0).await;
    send(&client, 2).await;
    assert_eq!(peer.block().await.sequence, 1);
    peer.answer(Status::Received, &[1]).await;
    // The second was in flight; a third time and a fourth come for it alone.
    let mut seen = peer.sequences(4).await;
    seen.retain(|sequence| *sequence == 2);
    assert!(seen.len() >= 3, "{seen:?}");
    // Answers to duplicates change nothing.
    for status in [Status::Received, Status::Received, Status::Flushed, Status::Flushed] {
        peer.answer(status, &[2]).await;
        peer.answer(status, &[1]).await;
    }
    client.wait_flushed(2).await.unwrap();
}

#[tokio::test]
async fn a_full_window_makes_send_wait_and_a_flush_opens_it() {
    let window = Window { blocks: 2, bytes: 1 << 20 };
    let (client, _, mut peer, _listener) = pair(Config { window, ..config() }, 0).await;
    let all = 2 + HANDED_OVER_BLOCKS;
    send(&client, all).await;
    assert_eq!(peer.sequences(2).await, [1, 2]);
    let next = client.send(OPERATION_WRITE, 0, 0, Bytes::from_static(b"more"));
    tokio::pin!(next);
    assert!(timeout(Duration::from_millis(50), &mut next).await.is_err());
    peer.answer(Status::Received, &[1]).await;
    assert!(
        timeout(Duration::from_millis(50), &mut next).await.is_err(),
        "received is not flushed"
    );
    peer.answer(Status::Flushed, &[1]).await;
    assert_eq!(next.await.unwrap(), all as u64 + 1);
}

#[tokio::test]
async fn the_next_server_takes_over() {
    let (first, first_address) = listener().await;
    let (second, second_address) = listener().await;
    let servers = [first_address, second_address.clone()];
    let (client, mut peer) =
        tokio::join!(TlogClient::connect(&servers, "disk", config()), Peer::attached(&first, 0));
    let (client, _) = client.unwrap();
    send(&client, 1).await;
    assert_eq!(peer.block().await.sequence, 1);
    drop((peer, first));
    let mut peer = Peer::accept(&second).await;
    peer.handshake(HandshakeStatus::Ok, 0, true).await;
    peer.answer(Status::Ready, &[0]).await;
    assert_eq!(peer.block().await.sequence, 1);
    client.wait_ready().await.unwrap();
    assert_eq!(client.progress().borrow().server, Some(second_address));
}

#[tokio::test]
async fn a_refusal_of_the_first_connection_is_told() {
    let (listener, address) = listener().await;
    let refuse = async {
        Peer::accept(&listener).await.handshake(HandshakeStatus::InvalidVdiskId, 0, true).await;
    };
    let (client, ()) = tokio::join!(connect(&address, config()), refuse);
    let error = client.unwrap_err();
    assert!(error.is_final(), "{error}");
    assert!(matches!(error, Error::Refused { status: HandshakeStatus::InvalidVdiskId, .. }));
    assert!(matches!(
        TlogClient::connect(&[], "disk", config()).await.map(|_| ()),
        Err(Error::NoServer)
    ));
}

#[tokio::test]
async fn a_server_with_another_log_ends_the_client() {
    for (reported, forgot) in [(0, true), (9, false)] {
        let (client, _, mut peer, listener) = pair(config(), 1).await;
        send(&client, 1).await;
        assert_eq!(peer.block().await.sequence, 2);
        peer.answer(Status::Flushed, &[2]).await;
        client.wait_flushed(2).await.unwrap();
        drop(peer);
        let _peer = Peer::attached(&listener, reported).await;
        let error = client.wait_flushed(3).await.unwrap_err();
        assert_eq!(matches!(error, Error::Forgot { .. }), forgot, "{error}");
        assert_eq!(matches!(error, Error::OtherWriter { .. }), !forgot, "{error}");
        let data = Bytes::from_static(b"data");
        let refused = loop {
            if let Err(error) = client.send(OPERATION_WRITE, 0, 0, data.clone()).await {
                break error;
            }
        };
        assert!(refused.is_final());
    }
}

#[tokio::test]
async fn refusals_that_may_pass_are_tried_again_until_it_is_enough() {
    let config = Config { give_up_after: Some(Duration::from_millis(40)), ..config() };
    let (client, _, peer, listener) = pair(config, 0).await;
    drop(peer);
    let mut tries = 0;
    let error = loop {
        tokio::select! {
            mut peer = Peer::accept(&listener) => {
                peer.handshake(HandshakeStatus::AttachFailed, 0, true).await;
                tries += 1;
            }
            error = client.wait_flushed(1) => break error.unwrap_err(),
        }
    };
    assert!(tries > 1);
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
}

#[tokio::test]
async fn leave_is_taken_after_the_last_block() {
    let (client, _, mut peer, _listener) = pair(config(), 0).await;
    send(&client, 3).await;
    let serve = async {
        assert_eq!(peer.sequences(3).await, [1, 2, 3]);
        assert_eq!(peer.message().await, ClientMessage::Disconnect);
        peer.answer(Status::Disconnected, &[]).await;
    };
    let (left, ()) = tokio::join!(client.disconnect(), serve);
    left.unwrap();
    let (client, _, mut peer, _listener) = pair(config(), 0).await;
    client.close();
    assert!(peer.frame().await.is_none());
}

#[tokio::test]
async fn the_slave_sync_is_waited_for_over_a_reconnect() {
    let (client, _, mut peer, listener) = pair(config(), 0).await;
    let serve = async {
        assert_eq!(peer.message().await, ClientMessage::WaitSlaveSync);
        drop(peer);
        let mut peer = Peer::attached(&listener, 0).await;
        assert_eq!(peer.message().await, ClientMessage::WaitSlaveSync);
        peer.answer(Status::WaitSlaveSyncDone, &[]).await;
        peer
    };
    let (synced, _peer) = tokio::join!(client.wait_slave_sync(), serve);
    synced.unwrap();
}

#[tokio::test]
async fn garbage_breaks_the_connection_and_nothing_else() {
    let (client, _, mut peer, listener) = pair(config(), 0).await;
    peer.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let mut peer = Peer::attached(&listener, 0).await;
    send(&client, 1).await;
    assert_eq!(peer.block().await.sequence, 1);
}

#[tokio::test]
async fn what_no_server_takes_is_refused_at_once() {
    let (client, _, _peer, _listener) = pair(config(), 0).await;
    let data = Bytes::from(vec![0; BLOCK_BYTES + 1]);
    let refused = client.send(OPERATION_WRITE, 0, 0, data).await.unwrap_err();
    assert!(matches!(refused, Error::BlockTooLarge { .. }));
    let refused = client.send(OPERATION_WRITE, -1, 0, Bytes::new()).await.unwrap_err();
    assert!(matches!(refused, Error::NegativeIndex { index: -1 }));
    assert_eq!(client.last_sequence(), 0);
}

fn writes() -> Vec<(u64, i64, Bytes)> {
    vec![(3, 7, Bytes::from_static(b"three")), (9, 8, Bytes::new())]
}

#[tokio::test]
async fn what_is_compared_is_sent_again_until_it_is_answered() {
    let (listener, address) = listener().await;
    let config = Config { resend_after: Duration::from_millis(30), ..config() };
    let servers = [address];
    let asked = TlogClient::compare(&servers, "disk", &config, writes());
    let server = async {
        let mut peer = Peer::attached(&listener, 9).await;
        let block = peer.block().await;
        assert_eq!((block.sequence, block.place), (3, Place::Index(7)));
        assert_eq!(peer.block().await.operation, OPERATION_ZERO);
        peer.answer(Status::Received, &[3]).await;
        // The other one could not be looked up at first.
        assert_eq!(peer.block().await.sequence, 9);
        peer.answer(Status::Received, &[9]).await;
        while peer.message().await != ClientMessage::Disconnect {}
        peer.answer(Status::Disconnected, &[]).await;
    };
    let (asked, ()) = tokio::join!(asked, server);
    asked.unwrap();
}

#[tokio::test]
async fn a_server_that_ends_every_comparison_has_other_data() {
    let (listener, address) = listener().await;
    let servers = [address];
    let config = config();
    let asked = TlogClient::compare(&servers, "disk", &config, writes());
    let server = async {
        for _ in 0..3 {
            let mut peer = Peer::attached(&listener, 9).await;
            peer.block().await;
            peer.answer(Status::Disconnected, &[]).await;
        }
    };
    let (asked, ()) = tokio::join!(asked, server);
    assert!(matches!(asked, Err(Error::Differs { attempts: 3, .. })), "{asked:?}");
}

#[tokio::test]
async fn a_user_who_does_not_read_makes_no_server_look_silent() {
    let times = (Duration::from_millis(30), Duration::from_millis(60));
    let config = Config { resend_after: times.0, silence_timeout: times.1, ..config() };
    let (client, mut responses, mut peer, _listener) = pair(config, 0).await;
    for _ in 0..RESPONSES + 2 {
        peer.answer(Status::ForceFlushReceived, &[]).await;
    }
    while responses.0.len() < RESPONSES {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    send(&client, 1).await;
    assert_eq!(peer.block().await.sequence, 1);
    peer.answer(Status::Received, &[1]).await;
    let more = timeout(Duration::from_millis(200), peer.frame()).await;
    assert!(more.is_err(), "neither sent again nor closed: {more:?}");
    while responses.recv().await != Some(Response::Received(1)) {}
    assert_eq!(client.progress().borrow().reconnects, 0);
}

#[tokio::test]
async fn the_first_of_a_new_list_of_servers_is_tried_first() {
    let (client, _, _peer, _listener) = pair(config(), 0).await;
    let ((first, at_first), (_second, at_second)) = (listener().await, listener().await);
    client.change_servers(vec![at_first.clone(), at_second]).await.unwrap();
    let attached = timeout(Duration::from_secs(10), Peer::attached(&first, 0)).await;
    let _peer = attached.expect("the first is called");
    let mut progress = client.progress();
    progress.wait_for(|progress| progress.server.as_ref() == Some(&at_first)).await.unwrap();
}
