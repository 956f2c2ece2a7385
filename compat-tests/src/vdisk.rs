//! A client of the TLog wire, blocking and without any will of its own: it resends nothing and connects once.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use tlog::record::vdisk::{Block, OPERATION_WRITE, Place};
use tlog::tlog::protocol::{
    ClientMessage, Family, Frame, HandshakeRequest, HandshakeResponse, HandshakeStatus, Response,
    VERSION_B, Wire, take_frame,
};

use crate::wait::DEADLINE;

/// A connection that says what it is told to.
#[derive(Debug)]
pub struct TlogSocket {
    socket: TcpStream,
    input: BytesMut,
}

impl TlogSocket {
    /// Connects; an answer may take as long as [`DEADLINE`].
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: &str) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, input: BytesMut::new() })
    }

    /// Connects and attaches to `vdisk` as a client of the newest wire; gives the sequence that is flushed, too.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn attach(address: &str, vdisk: &str) -> Result<(Self, u64)> {
        let mut client = Self::connect(address)?;
        let request = HandshakeRequest {
            family: Family::B,
            version: VERSION_B,
            vdisk_id: Some(vdisk.to_owned()),
            first_sequence: 0,
            reset: false,
        };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        client.say(&bytes)?;
        let answer = HandshakeResponse::decode(&client.frame()?.context("closed")?)?;
        ensure!(answer.status == HandshakeStatus::Ok, "attach refused: {:?}", answer.status);
        Ok((client, answer.last_flushed_sequence))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(bytes)?)
    }

    /// Sends a message of the newest wire.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, message: &ClientMessage) -> Result<()> {
        let mut bytes = BytesMut::new();
        ensure!(message.encode(Wire::Union, 4096, &mut bytes), "no message of this wire");
        self.say(&bytes)
    }

    /// The next frame; none where the server has closed.
    ///
    /// # Errors
    /// When nothing comes in time, or half a frame.
    pub fn frame(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.input)? {
                return Ok(Some(frame));
            }
            let mut bytes = [0; 65536];
            let count = match self.socket.read(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error).context("no answer"),
            };
            match (count, self.input.is_empty()) {
                (0, true) => return Ok(None),
                (0, false) => bail!("closed within a frame"),
                _ => self.input.extend_from_slice(&bytes[..count]),
            }
        }
    }

    /// The next response.
    ///
    /// # Errors
    /// When none comes in time, or the server has closed.
    pub fn response(&mut self) -> Result<Response> {
        let frame = self.frame()?.context("the server has closed")?;
        Ok(Response::decode(&frame)?)
    }

    /// All responses that are here or arrive before a silence of `quiet`.
    ///
    /// # Errors
    /// When the server closes, or says what is no response.
    pub fn responses_until_quiet(&mut self, quiet: Duration) -> Result<Vec<Response>> {
        let mut all = Vec::new();
        self.socket.set_read_timeout(Some(quiet))?;
        let ended = loop {
            match self.frame() {
                Ok(Some(frame)) => all.push(Response::decode(&frame)?),
                Ok(None) => break Err(anyhow::anyhow!("the server has closed")),
                Err(error) => {
                    let timed_out = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                        use std::io::ErrorKind::{TimedOut, WouldBlock};
                        matches!(error.kind(), TimedOut | WouldBlock)
                    });
                    break if timed_out { Ok(all) } else { Err(error) };
                }
            }
        };
        self.socket.set_read_timeout(Some(DEADLINE))?;
        ended
    }
}

/// A block write of the newest wire with the right hash.
#[must_use]
pub fn block(sequence: u64, index: i64, data: &[u8]) -> ClientMessage {
    let hash = blake2b_simd::Params::new().hash_length(32).hash(data);
    ClientMessage::Block(Block {
        sequence,
        place: Place::Index(index),
        operation: OPERATION_WRITE,
        hash: std::array::from_fn(|at| hash.as_bytes()[at]),
        timestamp: 1_521_709_000_000_000_000 + sequence,
        data: Bytes::copy_from_slice(data),
    })
}
