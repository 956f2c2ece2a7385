//! Kafka's wire, as little as tests need to say what no proper client says: requests of old versions, whose fields have
//! fixed widths, and batches whose every byte is the test's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::wait::DEADLINE;

/// Error codes that tests name.
pub mod code {
    /// No error.
    pub const NONE: i16 = 0;
    /// Damaged on its way.
    pub const CORRUPT_MESSAGE: i16 = 2;
    /// Above `max.message.bytes`.
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    /// Made wrong.
    pub const INVALID_RECORD: i16 = 87;
}

/// Fields one after another, big-endian.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One byte.
    #[must_use]
    pub fn i8(mut self, value: i8) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Two bytes.
    #[must_use]
    pub fn i16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Four bytes.
    #[must_use]
    pub fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Eight bytes.
    #[must_use]
    pub fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A string with its length in two bytes.
    #[must_use]
    pub fn text(self, value: &str) -> Self {
        let length = i16::try_from(value.len()).unwrap_or(i16::MAX);
        self.i16(length).raw(value.as_bytes())
    }

    /// Bytes with their length in four.
    #[must_use]
    pub fn bytes(self, value: &[u8]) -> Self {
        let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
        self.i32(length).raw(value)
    }

    /// A signed varint.
    #[must_use]
    pub fn varint(mut self, value: i64) -> Self {
        let mut left = (value << 1 ^ value >> 63).cast_unsigned();
        while left >= 0x80 {
            self.0.push((left as u8 & 0x7f) | 0x80);
            left >>= 7;
        }
        self.0.push(left as u8);
        self
    }

    /// A signed varint of the length and the bytes; -1 for none.
    #[must_use]
    pub fn field(self, value: Option<&[u8]>) -> Self {
        match value {
            None => self.varint(-1),
            Some(value) => self.varint(i64::try_from(value.len()).unwrap_or(i64::MAX)).raw(value),
        }
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// What came together.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A frame with its size in front.
#[must_use]
pub fn framed(request: &[u8]) -> Vec<u8> {
    Fields::new().bytes(request).done()
}

/// A request without its size: header version 1 and a body.
#[must_use]
pub fn request(key: i16, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    Fields::new().i16(key).i16(version).i32(correlation_id).text("test").raw(body).done()
}

/// The body of Produce 3 to 7 for one partition, `acks` all.
#[must_use]
pub fn produce_body(topic: &str, partition: i32, batch: &[u8]) -> Vec<u8> {
    let fields = Fields::new().i16(-1).i16(-1).i32(30_000).i32(1).text(topic).i32(1);
    fields.i32(partition).bytes(batch).done()
}

/// The body of Fetch 4 for one partition, without waiting.
#[must_use]
pub fn fetch_body(topic: &str, partition: i32, offset: i64) -> Vec<u8> {
    let fields = Fields::new().i32(-1).i32(0).i32(1).i32(1 << 20).i8(0).i32(1).text(topic).i32(1);
    fields.i32(partition).i64(offset).i32(1 << 20).done()
}

/// The record `index` of a batch, with its length in front.
#[must_use]
pub fn record(index: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let body = Fields::new().i8(0).varint(0).varint(index).field(key).field(value).varint(0).done();
    Fields::new().field(Some(&body)).done()
}

/// The header of a batch and its records section, which may say anything; [`Batch::done`] makes the CRC right.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Bits 0-2 are the codec.
    pub attributes: i16,
    /// One less than the count in an honest batch.
    pub last_offset_delta: i32,
    /// Records.
    pub count: i32,
    /// The format.
    pub magic: i8,
    /// Producer id, epoch and sequence; -1 for none.
    pub producer: (i64, i16, i32),
    /// The section, packed by the codec that the attributes name.
    pub records: Vec<u8>,
}

impl Batch {
    /// An honest header over `count` records.
    #[must_use]
    pub fn new(count: i32, records: Vec<u8>) -> Self {
        let producer = (-1, -1, -1);
        Self { attributes: 0, last_offset_delta: count - 1, count, magic: 2, producer, records }
    }

    /// A batch with one record.
    #[must_use]
    pub fn of_one(value: &[u8]) -> Self {
        Self::new(1, record(0, None, Some(value)))
    }

    /// The same with a codec in the attributes.
    #[must_use]
    pub fn codec(mut self, codec: i16) -> Self {
        self.attributes |= codec;
        self
    }

    /// The bytes, with length and CRC as they must be.
    #[must_use]
    pub fn done(&self) -> Vec<u8> {
        let now_ms = 1_700_000_000_000;
        let (id, epoch, sequence) = self.producer;
        let checked = Fields::new()
            .i16(self.attributes)
            .i32(self.last_offset_delta)
            .i64(now_ms)
            .i64(now_ms)
            .i64(id)
            .i16(epoch)
            .i32(sequence)
            .i32(self.count)
            .raw(&self.records)
            .done();
        let crc = crc32c::crc32c(&checked).cast_signed();
        let length = i32::try_from(checked.len() + 9).unwrap_or(i32::MAX);
        let head = Fields::new().i64(0).i32(length).i32(-1).i8(self.magic).i32(crc);
        head.raw(&checked).done()
    }
}

/// A connection that says what it is told to.
#[derive(Debug)]
pub struct KafkaSocket {
    socket: TcpStream,
    correlation_id: i32,
}

impl KafkaSocket {
    /// Connects; an answer may take as long as [`DEADLINE`].
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: &str) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, correlation_id: 0 })
    }

    /// Sends a request and gives the body of its answer.
    ///
    /// # Errors
    /// When the server closes instead, or answers something else.
    pub fn ask(&mut self, key: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        self.correlation_id += 1;
        let frame = framed(&request(key, version, self.correlation_id, body));
        self.socket.write_all(&frame)?;
        let mut size = [0; 4];
        self.socket.read_exact(&mut size).context("no answer")?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(size))?];
        self.socket.read_exact(&mut answer)?;
        let body = answer.split_off(4.min(answer.len()));
        ensure!(answer == self.correlation_id.to_be_bytes(), "the answer to another request");
        Ok(body)
    }

    /// Produces one batch with Produce 7; error code and base offset.
    ///
    /// # Errors
    /// When the server closes instead of answering.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> Result<(i16, i64)> {
        let answer = self.ask(0, 7, &produce_body(topic, partition, batch))?;
        // responses, name, partitions, index; then the code and the base offset
        let at = 4 + 2 + topic.len() + 4 + 4;
        let code = answer.get(at..at + 2).context("a short answer")?;
        let offset = answer.get(at + 2..at + 10).context("a short answer")?;
        Ok((i16::from_be_bytes(code.try_into()?), i64::from_be_bytes(offset.try_into()?)))
    }

    /// Fetches with Fetch 4; error code, high watermark and the batches.
    ///
    /// # Errors
    /// When the server closes instead of answering.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<(i16, i64, Vec<u8>)> {
        let answer = self.ask(1, 4, &fetch_body(topic, partition, offset))?;
        // throttle time, responses, name, partitions, index; code, watermark, stable offset, aborted, records
        let at = 4 + 4 + 2 + topic.len() + 4 + 4;
        let code = answer.get(at..at + 2).context("a short answer")?;
        let watermark = answer.get(at + 2..at + 10).context("a short answer")?;
        let records = answer.get(at + 26..).unwrap_or_default();
        let watermark = i64::from_be_bytes(watermark.try_into()?);
        Ok((i16::from_be_bytes(code.try_into()?), watermark, records.to_vec()))
    }

    /// Has the server create a topic by looking at it.
    ///
    /// # Errors
    /// When the server closes instead of answering.
    pub fn look_at(&mut self, topic: &str) -> Result<()> {
        self.ask(3, 1, &Fields::new().i32(1).text(topic).done()).map(drop)
    }
}

/// Whether somebody answers ApiVersions there at once.
#[must_use]
pub fn kafka_answers(address: &str) -> bool {
    let ask = || -> Result<()> {
        let mut socket = KafkaSocket::connect(address)?;
        socket.socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.ask(18, 0, &[]).map(drop)
    };
    ask().is_ok()
}
