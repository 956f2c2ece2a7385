//! Session and vdisk core together against the recorded conversations, over a log that commits and ships at once.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::protocol::frame::take_frame;
use super::protocol::message::{Family, HandshakeResponse, HandshakeStatus, Response, Status};
use super::session::{Event as Said, Session};
use super::{status, vectors};
use crate::broker::vdisk::{
    Attachment, Config, ConnectionId, Effect, Event, HeldBudget, VdiskCore, VdiskState,
};
use crate::types::Offset;

struct Server {
    core: VdiskCore,
    now: Instant,
    end: Offset,
    /// By connection number, from 0.
    clients: Vec<(Session, BytesMut)>,
}

impl Server {
    fn new() -> Self {
        let config = Config {
            flush_size: 25,
            flush_time: Duration::from_secs(25),
            default_block_size: 4096,
        };
        let state = VdiskState { run: None, end: 1, shipped: 1, block_size: None };
        Self {
            core: VdiskCore::new(config, state, HeldBudget::new(1 << 20)),
            now: Instant::now(),
            end: 1,
            clients: Vec::new(),
        }
    }

    /// A connection that says what the vector holds; its answer in bytes.
    fn connect(&mut self, vector: &str) -> Vec<u8> {
        self.clients.push((Session::new(), BytesMut::new()));
        self.say(vector)
    }

    /// The newest connection says what the vector holds; all it is answered, in bytes.
    fn say(&mut self, vector: &str) -> Vec<u8> {
        let connection = self.clients.len() as u64 - 1;
        let (session, _) = self.clients.last_mut().unwrap();
        session.input().extend_from_slice(&vectors::load(vector).bytes);
        while let Some(said) = self.clients.last_mut().unwrap().0.next_event().unwrap() {
            self.hear(connection, said);
        }
        std::mem::take(&mut self.clients.last_mut().unwrap().1).to_vec()
    }

    fn hear(&mut self, connection: ConnectionId, said: Said) {
        let event = match said {
            Said::Handshake(handshake) => {
                let attachment = match handshake.family {
                    Family::A => Attachment::FirstSequence {
                        first_sequence: handshake.first_sequence,
                        reset: handshake.reset,
                    },
                    Family::B => Attachment::LastFlushed,
                };
                Event::Attach { connection, attachment }
            }
            Said::Block(block) => Event::Blocks { connection, blocks: vec![block] },
            Said::ForceFlush(sequence) => Event::ForceFlush { connection, sequence },
            Said::WaitSlaveSync => Event::WaitSlaveSync { connection },
            Said::Disconnect => {
                let (session, out) = self.clients.last_mut().unwrap();
                session.end_by_client(out);
                Event::Detach { connection }
            }
        };
        self.event(event);
    }

    fn event(&mut self, event: Event) {
        for effect in self.core.handle(event, self.now) {
            match effect {
                Effect::Attached { connection, last_flushed } => {
                    let (session, out) = &mut self.clients[connection as usize];
                    session.answer_handshake(HandshakeStatus::Ok, last_flushed, out);
                }
                Effect::Refused { connection, refusal } => {
                    let (session, out) = &mut self.clients[connection as usize];
                    session.answer_handshake(status::of_refusal(refusal), 0, out);
                }
                Effect::Answer { connection, answer } => {
                    let (session, out) = &mut self.clients[connection as usize];
                    session.respond(&status::of_answer(answer), out);
                }
                Effect::Close { connection, .. } => {
                    let (session, out) = &mut self.clients[connection as usize];
                    session.end(None, out);
                }
                Effect::Append { first_offset, blocks, .. } => {
                    self.end = first_offset + blocks.len() as i64;
                    self.event(Event::Committed { upto: self.end });
                }
                Effect::RequestShip { upto } => self.event(Event::Shipped { upto }),
                Effect::StartRun { .. } | Effect::SetBlockSize { .. } | Effect::WakeAt(_) => {}
                Effect::LookupHashes { .. } => panic!("all hashes are recent"),
            }
        }
    }
}

fn recorded(vector: &str) -> Vec<u8> {
    vectors::load(&format!("{vector}.s2c")).bytes
}

fn assert_replays(server: &mut Server, vectors: &[&str]) {
    for vector in vectors {
        assert_eq!(server.say(&format!("{vector}.c2s")), recorded(vector), "{vector}");
    }
}

#[test]
fn the_older_family_is_answered_as_recorded() {
    let mut server = Server::new();
    assert_eq!(server.connect("a-handshake-ok.c2s"), recorded("a-handshake-ok"));
    assert_replays(&mut server, &["a-block-1"]);
    // The original also says that it is flushed, which it is not.
    let answered = server.say("a-block-duplicate-unflushed.c2s");
    assert_eq!(answered, recorded("a-block-duplicate-unflushed")[..40]);
    assert_replays(
        &mut server,
        &[
            "a-block-writezeroes",
            "a-force-flush-now",
            "a-block-duplicate-flushed",
            "a-force-flush-at-seq",
            "a-wait-slave-sync",
        ],
    );
    let answered = server.connect("a-handshake-reset-first.c2s");
    assert_eq!(answered, recorded("a-handshake-reset-first"));
}

#[test]
fn the_newer_family_is_answered_as_recorded() {
    let mut server = Server::new();
    assert_eq!(server.connect("b-handshake-ok.c2s"), recorded("b-handshake-ok"));
    assert_replays(
        &mut server,
        &[
            "b-block-1",
            "b-block-duplicate",
            "b-block-delete",
            "b-force-flush-now",
            "b-force-flush-at-seq",
            "b-wait-slave-sync",
            "b-disconnect",
        ],
    );
    // The original reports 0 here, having lost its place.
    let answered = server.connect("b-handshake-resume-after-partial.c2s");
    let frame = take_frame(&mut BytesMut::from(&answered[..])).unwrap().unwrap();
    assert_eq!(HandshakeResponse::decode(&frame).unwrap().last_flushed_sequence, 5);

    // The original has a status for this and does not send it.
    let answered = server.connect("b-handshake-busy-vdisk.c2s");
    let frame = take_frame(&mut BytesMut::from(&answered[..])).unwrap().unwrap();
    assert_eq!(HandshakeResponse::decode(&frame).unwrap().status, HandshakeStatus::AttachFailed);
}

#[test]
fn full_lists_gaps_and_resuming_are_answered_as_recorded() {
    for (handshake, vector) in [
        ("a-handshake-ok.c2s", "a-flush-25"),
        ("a-handshake-ok.c2s", "a-out-of-order"),
        ("b-handshake-ok.c2s", "b-flush-25"),
        ("b-handshake-ok.c2s", "b-gap-resend"),
    ] {
        let mut server = Server::new();
        server.connect(handshake);
        assert_replays(&mut server, &[vector]);
    }
    let mut server = Server::new();
    server.connect("b-handshake-ok.c2s");
    server.say("b-flush-25.c2s");
    server.event(Event::Detach { connection: 0 });
    assert_eq!(server.connect("b-handshake-resume-25.c2s"), recorded("b-handshake-resume-25"));
}

#[test]
fn a_log_that_fails_is_answered_as_a_failed_flush_was() {
    // The order of the original, where storage was gone; here the log itself has to fail.
    let said = |handshake: &str, vector: &str| {
        let mut server = Server::new();
        server.connect(handshake);
        let mut answered = server.say(vector);
        server.event(Event::AppendFailed);
        answered.extend_from_slice(&server.clients[0].1);
        let mut bytes = BytesMut::from(&answered[..]);
        let mut statuses = Vec::new();
        while let Some(frame) = take_frame(&mut bytes).unwrap() {
            statuses.push(Response::decode(&frame).unwrap().status);
        }
        statuses
    };
    use Status::{Disconnected, FlushFailed, Flushed, ForceFlushReceived, Received};
    assert_eq!(
        said("a-handshake-ok.c2s", "a-flush-failed.c2s"),
        [Received, ForceFlushReceived, Flushed, FlushFailed]
    );
    assert_eq!(
        said("b-handshake-ok.c2s", "b-flush-failed.c2s"),
        [Received, ForceFlushReceived, Flushed, FlushFailed, Disconnected]
    );
}
