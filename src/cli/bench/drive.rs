//! Raw clients: the same one for the server and for the bare program that it is compared with.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::wire::{self, Fields};

/// Looks at the body of an answer.
pub(super) type Check = fn(&mut Fields<'_>) -> Option<i16>;

/// For programs whose answers say nothing.
pub(super) fn any(_: &mut Fields<'_>) -> Option<i16> {
    Some(0)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer.
pub(super) fn ask(address: &str, request: &[u8], check: Check) -> io::Result<()> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    wire::read_answer(&mut stream, check)
}

/// The same request `count` times, up to `in_flight` of them unanswered. Gives the time for all.
pub(super) fn stream(
    address: &str,
    request: &[u8],
    count: usize,
    in_flight: usize,
    check: Check,
) -> io::Result<Duration> {
    let mut sending = connect(address)?;
    let mut receiving = sending.try_clone()?;
    // The receiver holds one beside those in the channel.
    let (permit, permits) = sync_channel::<()>(in_flight.saturating_sub(1));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mut done = 0;
            for () in permits {
                wire::read_answer(&mut receiving, check)?;
                done += 1;
            }
            Ok::<_, io::Error>(done)
        });
        for _ in 0..count {
            if permit.send(()).is_err() {
                break;
            }
            sending.write_all(request)?;
        }
        drop(permit);
        match receiver.join() {
            Ok(Ok(done)) if done == count => Ok(started.elapsed()),
            Ok(Ok(done)) => Err(io::Error::other(format!("{done} of {count} were answered"))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the receiver panicked")),
        }
    })
}

/// Times of a request whose answer is awaited before the next, in order of length.
pub(super) fn one_by_one(
    address: &str,
    request: &[u8],
    time: Duration,
    check: Check,
) -> io::Result<Vec<Duration>> {
    let mut stream = connect(address)?;
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let asked = Instant::now();
        stream.write_all(request)?;
        wire::read_answer(&mut stream, check)?;
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// Several connections, each with one request per round.
#[derive(Debug)]
pub(super) struct Round {
    connections: Vec<(TcpStream, Vec<u8>)>,
}

impl Round {
    pub(super) fn new(address: &str, requests: Vec<Vec<u8>>) -> io::Result<Self> {
        let connections = requests.into_iter().map(|request| Ok((connect(address)?, request)));
        Ok(Self { connections: connections.collect::<io::Result<_>>()? })
    }

    /// From the first byte sent until the last answer.
    pub(super) fn run(&mut self, check: Check) -> io::Result<Duration> {
        let started = Instant::now();
        for (stream, request) in &mut self.connections {
            stream.write_all(request)?;
        }
        for (stream, _) in &mut self.connections {
            wire::read_answer(stream, check)?;
        }
        Ok(started.elapsed())
    }
}

/// Reads and forgets.
pub(super) fn discard(
    stream: &mut TcpStream,
    mut bytes: usize,
    buffer: &mut [u8],
) -> io::Result<()> {
    while bytes > 0 {
        let room = buffer.len().min(bytes);
        match stream.read(buffer.get_mut(..room).unwrap_or_default())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes -= read,
        }
    }
    Ok(())
}

/// Batches of one length and number of records, as they lie in a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batches {
    pub(super) bytes: usize,
    pub(super) records: i64,
    pub(super) count: usize,
}

/// Fetches all of a topic's batches, `max_bytes` at a time.
pub(super) fn fetch_all(
    address: &str,
    topic: &str,
    batches: Batches,
    max_bytes: i32,
) -> io::Result<Duration> {
    let mut stream = connect(address)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    let started = Instant::now();
    while at < batches.count {
        let offset = i64::try_from(at).unwrap_or(i64::MAX) * batches.records;
        stream.write_all(&wire::fetch(topic, offset, max_bytes))?;
        let bytes = wire::fetched(&mut stream, topic)?;
        if bytes == 0 || !bytes.is_multiple_of(batches.bytes) {
            return Err(io::Error::other(format!("{bytes} bytes of batches came")));
        }
        discard(&mut stream, bytes, &mut buffer)?;
        at += bytes / batches.bytes;
    }
    Ok(started.elapsed())
}

/// The same from a bare program, asked by file and position.
pub(super) fn receive_all(address: &str, lengths: &[u64], max_bytes: u64) -> io::Result<Duration> {
    let mut stream = connect(address)?;
    let mut buffer = vec![0; 256 * 1024];
    let started = Instant::now();
    for (file, length) in lengths.iter().enumerate() {
        let mut position = 0;
        while position < *length {
            let bytes = max_bytes.min(length - position);
            stream.write_all(&super::bare::range(file, position, bytes))?;
            discard(&mut stream, usize::try_from(bytes).unwrap_or(usize::MAX), &mut buffer)?;
            position += bytes;
        }
    }
    Ok(started.elapsed())
}
