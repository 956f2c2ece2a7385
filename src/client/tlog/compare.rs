//! Asking a server whether its log has certain blocks: they are sent again, and it compares what it gets twice.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use super::attach::{self, Attached};
use super::{Config, hash};
use crate::client::error::Error;
use crate::record::vdisk::{Block, OPERATION_WRITE, OPERATION_ZERO, Place};
use crate::tlog::protocol::{ClientMessage, Status, Wire};

/// A server that stops ends connections in the same words as one that compares: one that says so thrice means it.
const ATTEMPTS: u32 = 3;

/// See [`super::TlogClient::compare`].
pub(super) async fn compare(
    servers: &[String],
    vdisk: &str,
    config: &Config,
    writes: Vec<(u64, i64, Bytes)>,
) -> Result<(), Error> {
    let mut open: BTreeMap<u64, ClientMessage> = writes.into_iter().map(message).collect();
    let mut attempts = 0;
    loop {
        let (_, mut attached) = attach::first(servers, vdisk, config).await?;
        match ask(&mut attached, &mut open, config).await {
            Ok(()) => return leave(attached, config).await,
            Err(Error::Closed { server } | Error::Io { server, .. }) => {
                attempts += 1;
                if attempts == ATTEMPTS {
                    let vdisk = vdisk.to_owned();
                    return Err(Error::Differs { server, vdisk, attempts });
                }
            }
            Err(error) => return Err(error),
        }
        sleep(config.first_pause * attempts).await;
    }
}

fn message((sequence, index, data): (u64, i64, Bytes)) -> (u64, ClientMessage) {
    let operation = if data.is_empty() { OPERATION_ZERO } else { OPERATION_WRITE };
    let (hash, place) = (hash(&data), Place::Index(index));
    (sequence, ClientMessage::Block(Block { sequence, place, operation, hash, timestamp: 0, data }))
}

/// Sends what is open until all of it is answered. A server may leave one unanswered that it could not look up.
async fn ask(
    attached: &mut Attached,
    open: &mut BTreeMap<u64, ClientMessage>,
    config: &Config,
) -> Result<(), Error> {
    let mut heard = Instant::now();
    while !open.is_empty() {
        let mut out = BytesMut::new();
        for message in open.values() {
            let known = message.encode(Wire::Union, 0, &mut out);
            assert!(known, "the union wire has every message");
        }
        let server = attached.server.clone();
        let written = timeout(config.silence_timeout, attached.stream.write_all(&out)).await;
        let too_long = || Error::Timeout {
            op: "answer",
            server: server.clone(),
            waited: config.silence_timeout,
        };
        written.map_err(|_| too_long())?.map_err(Error::io("write to", &server))?;
        while !open.is_empty() {
            let answer = attach::read_response(attached);
            let Ok(answer) = timeout(config.resend_after, answer).await else { break };
            let answer = answer?;
            heard = Instant::now();
            match answer.status {
                Status::Received => answer.sequences.iter().for_each(|s| drop(open.remove(s))),
                Status::Disconnected | Status::ReceiveFailed => {
                    return Err(Error::Closed { server });
                }
                _ => {}
            }
        }
        if heard.elapsed() >= config.silence_timeout {
            return Err(too_long());
        }
    }
    Ok(())
}

/// Takes leave, so that the vdisk is free for the next connection when this returns.
async fn leave(mut attached: Attached, config: &Config) -> Result<(), Error> {
    let mut out = BytesMut::new();
    let known = ClientMessage::Disconnect.encode(Wire::Union, 0, &mut out);
    assert!(known, "the union wire has every message");
    let ended = async {
        attached.stream.write_all(&out).await.map_err(Error::io("write to", &attached.server))?;
        while attach::read_response(&mut attached).await?.status != Status::Disconnected {}
        Ok::<_, Error>(())
    };
    // Everything was answered: a server that does not say good-bye has nothing more to tell.
    drop(timeout(config.handshake_timeout, ended).await);
    Ok(())
}
