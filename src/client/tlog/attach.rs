//! A connection up to the point where blocks may be sent.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Config;
use crate::client::connection::dial;
use crate::client::error::Error;
use crate::tlog::protocol::{
    Family, Frame, HandshakeRequest, HandshakeResponse, HandshakeStatus, Response, Status,
    VERSION_B, take_frame,
};

/// A server that takes blocks.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) server: String,
    pub(super) stream: TcpStream,
    /// What came behind the handshake.
    pub(super) inbox: BytesMut,
    pub(super) last_flushed: u64,
}

/// At the first server that takes the vdisk, with its place in the list.
pub(super) async fn first(
    servers: &[String],
    vdisk: &str,
    config: &Config,
) -> Result<(usize, Attached), Error> {
    let mut last = Error::NoServer;
    for (tried, server) in servers.iter().enumerate() {
        match attach(server, vdisk, config).await {
            Ok(attached) => return Ok((tried, attached)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects, shakes hands, and waits until the server is ready.
///
/// # Cancel safety
/// Safe: the connection is closed.
pub(super) async fn attach(server: &str, vdisk: &str, config: &Config) -> Result<Attached, Error> {
    let mut stream =
        dial(server, config.dial_timeout).await.map_err(Error::io("connect to", server))?;
    let mut inbox = BytesMut::new();
    let shaken = shake_hands(server, vdisk, &mut stream, &mut inbox);
    let response = within(config.handshake_timeout, "answer the handshake", server, shaken).await?;
    let last_flushed = if response.wait_tlog_ready {
        let ready = await_ready(server, &mut stream, &mut inbox);
        within(config.ready_timeout, "become ready", server, ready).await?
    } else {
        response.last_flushed_sequence
    };
    Ok(Attached { server: server.to_owned(), stream, inbox, last_flushed })
}

async fn within<T>(
    time: Duration,
    op: &'static str,
    server: &str,
    what: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match timeout(time, what).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { op, server: server.to_owned(), waited: time }),
    }
}

async fn shake_hands(
    server: &str,
    vdisk: &str,
    stream: &mut TcpStream,
    inbox: &mut BytesMut,
) -> Result<HandshakeResponse, Error> {
    let mut out = BytesMut::new();
    let request = HandshakeRequest {
        family: Family::B,
        version: VERSION_B,
        vdisk_id: Some(vdisk.to_owned()),
        first_sequence: 0,
        reset: false,
    };
    request.encode(&mut out);
    stream.write_all(&out).await.map_err(Error::io("write to", server))?;
    let frame = read_frame(server, stream, inbox).await?;
    let response = HandshakeResponse::decode(&frame)
        .map_err(|source| Error::Decode { server: server.to_owned(), source })?;
    if response.status != HandshakeStatus::Ok {
        return Err(Error::Refused {
            server: server.to_owned(),
            vdisk: vdisk.to_owned(),
            status: response.status,
        });
    }
    Ok(response)
}

async fn await_ready(
    server: &str,
    stream: &mut TcpStream,
    inbox: &mut BytesMut,
) -> Result<u64, Error> {
    loop {
        let frame = read_frame(server, stream, inbox).await?;
        let response = Response::decode(&frame)
            .map_err(|source| Error::Decode { server: server.to_owned(), source })?;
        match response.status {
            Status::Ready => return Ok(response.sequences.first().copied().unwrap_or(0)),
            Status::Disconnected => return Err(Error::Closed { server: server.to_owned() }),
            // Of what another client sent before.
            _ => {}
        }
    }
}

/// The next response.
///
/// # Cancel safety
/// Safe: what was read stays in the inbox.
pub(super) async fn read_response(attached: &mut Attached) -> Result<Response, Error> {
    let Attached { server, stream, inbox, .. } = attached;
    let frame = read_frame(server, stream, inbox).await?;
    Response::decode(&frame).map_err(|source| Error::Decode { server: server.clone(), source })
}

/// Room made for each read.
pub(super) const READ_BYTES: usize = 16 * 1024;

async fn read_frame(
    server: &str,
    stream: &mut TcpStream,
    inbox: &mut BytesMut,
) -> Result<Frame, Error> {
    loop {
        let taken = take_frame(inbox)
            .map_err(|source| Error::Frame { server: server.to_owned(), source })?;
        if let Some(frame) = taken {
            return Ok(frame);
        }
        // A buffer without room would be read into 64 bytes at a time.
        inbox.reserve(READ_BYTES);
        let read = stream.read_buf(inbox).await.map_err(Error::io("read from", server))?;
        if read == 0 {
            return Err(Error::Closed { server: server.to_owned() });
        }
    }
}
