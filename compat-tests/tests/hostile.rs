//! What a port is told by those who mean harm or speak something else.
//!
//! While each kind of harm is done, a *witness* goes on producing and reading on a connection of its own. Afterwards the
//! process must be the same one, its memory at the highest no more than [`GROWTH_BYTES`] above what it was before,
//! the witness served without a pause longer than [`PAUSE`], and the log without a panic. `TLOG_TEST_SEED` repeats a
//! run's choices.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use compat_tests::kafka::{
    Batch, Fields, KafkaSocket, code, fetch_body, framed, produce_body, request,
};
use compat_tests::{DEADLINE, Random, Server, is_long, temporary_dir, wait_until};

/// Memory that any harm may cost.
const GROWTH_BYTES: u64 = 64 << 20;
/// Longest that another client is kept waiting, on a machine that runs much else.
const PAUSE: Duration = Duration::from_secs(3);
/// Longest until the server has closed on one who has said enough.
const CLOSES: Duration = Duration::from_secs(10);
/// Rounds of the witness during which what is held open stays open.
const HELD_ROUNDS: u64 = 20;
/// Clients that throw bombs together.
const CLIENTS: usize = 8;
/// Array counts of 0x41009100 in a Metadata request: once an abort by allocation in decoders of this protocol.
const KNOWN_BAD: &[u8] = b"\x00\x03\x00\x03\x00\x00\x00\x00\x00\x00\x41\x00\x91\x00";

/// A client with nothing to hide, on a thread of its own.
struct Witness {
    rounds: Arc<AtomicU64>,
    slowest_ms: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Witness {
    fn start(address: &str) -> Result<Self> {
        let (rounds, slowest_ms) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let shared = (Arc::clone(&rounds), Arc::clone(&slowest_ms), Arc::clone(&stop));
        let address = address.to_owned();
        let work = move || {
            let (rounds, slowest_ms, stop) = shared;
            let mut socket = KafkaSocket::connect(&address)?;
            socket.look_at("witness")?;
            let batch = Batch::of_one(b"nothing but the truth").done();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let (code, offset) = socket.produce("witness", 0, &batch)?;
                ensure!(code == code::NONE, "the witness was refused with {code}");
                let (code, _, records) = socket.fetch("witness", 0, offset)?;
                ensure!(code == code::NONE && records.len() == batch.len(), "not what was written");
                let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                slowest_ms.fetch_max(took, Ordering::Relaxed);
                rounds.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        };
        let thread = Some(thread::spawn(work));
        Ok(Self { rounds, slowest_ms, stop, thread })
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits until it was served so often again.
    fn wait_rounds(&self, count: u64) -> Result<()> {
        let target = self.rounds() + count;
        wait_until("the witness to be served", || {
            ensure!(!self.thread.as_ref().is_none_or(JoinHandle::is_finished), "the witness left");
            Ok((self.rounds() >= target).then_some(()))
        })
    }

    fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished once")?;
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the witness panicked")))
    }
}

/// The server under test, what is known of it before some harm, and who else it serves.
struct Scene {
    server: Server,
    witness: Witness,
    address: String,
    random: Random,
}

impl Scene {
    /// A server whose listener `port` is meant; the witness is a Kafka client all the same.
    fn new(dir: &Path, port: &str) -> Result<Self> {
        let random = Random::from_environment();
        let mut server = Server::start(dir, &[])?;
        let address = server.address(port)?;
        let witness = Witness::start(&server.address("kafka")?)?;
        witness.wait_rounds(HELD_ROUNDS)?;
        Ok(Self { server, witness, address, random })
    }

    /// Does some harm, then looks.
    fn survives(
        &mut self,
        what: &str,
        harm: impl FnOnce(&str, &mut Random, &Witness) -> Result<()>,
    ) -> Result<()> {
        let before = self.memory("VmRSS")?;
        // The highest mark starts again from here.
        std::fs::write(format!("/proc/{}/clear_refs", self.server.id()), "5")?;
        self.witness.slowest_ms.store(0, Ordering::Relaxed);
        let start = Instant::now();
        harm(&self.address, &mut self.random, &self.witness).with_context(|| what.to_owned())?;
        let took = start.elapsed();
        self.witness.wait_rounds(2).with_context(|| what.to_owned())?;
        let grown = self.memory("VmHWM")?.saturating_sub(before);
        let slowest = Duration::from_millis(self.witness.slowest_ms.load(Ordering::Relaxed));
        println!(
            "{what}: {took:?}, memory up by {} KiB, others waited {slowest:?} at most",
            grown >> 10
        );
        let panics = self.server.log().into_iter().find(|line| line.contains("panicked"));
        ensure!(panics.is_none(), "{what}: {panics:?}");
        ensure!(grown < GROWTH_BYTES, "{what}: memory grew by {grown} bytes");
        ensure!(slowest < PAUSE, "{what}: another client waited {slowest:?}");
        Ok(())
    }

    /// A line of the process's status, in bytes. Fails when the process is gone.
    fn memory(&self, name: &str) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.server.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such line")?;
        Ok(kib.trim().parse::<u64>()? << 10)
    }

    fn finish(mut self) -> Result<()> {
        self.witness.finish()?;
        ensure!(self.server.terminate()?.success(), "the server did not end well");
        Ok(())
    }
}

/// Says something, says that it was all, and takes what comes until the server closes.
fn say(address: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    hear(address, bytes, true)
}

/// Says something and waits for the server to close by itself.
fn provoke(address: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    hear(address, bytes, false)
}

fn hear(address: &str, bytes: &[u8], ends: bool) -> Result<Vec<u8>> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(CLOSES))?;
    // The server may close before it has read everything, which is seen here or below.
    if socket.write_all(bytes).is_ok() && ends {
        socket.shutdown(Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(answer),
        Err(error) => Err(error).with_context(|| format!("not closed on {}", shown(bytes))),
    }
}

fn shown(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes {hex}", bytes.len())
}

/// A request of each API without flexible fields, and some with them.
fn kafka_requests() -> Vec<Vec<u8>> {
    let batch = Batch::of_one(b"value").done();
    let flexible = |key: i16, version: i16, body: Fields| {
        Fields::new().i16(key).i16(version).i32(1).text("t").i8(0).raw(&body.done()).done()
    };
    let new_topic = Fields::new().i32(1).text("made").i32(2).i16(1).i32(0).i32(1);
    let new_topic = new_topic.text("segment.bytes").text("1048576").i32(1000).i8(0);
    let offsets = Fields::new().i32(-1).i32(1).text("witness").i32(1).i32(0).i64(-1);
    let compact_batch = Fields::new().raw(&[batch.len() as u8 + 1]).raw(&batch);
    let produce = Fields::new().i8(0).i16(-1).i32(1000).i8(2).raw(b"\x08hostile").i8(2).i32(0);
    let produce = produce.raw(&compact_batch.done()).i8(0).i8(0).i8(0);
    vec![
        request(0, 7, 1, &produce_body("hostile", 0, &batch)),
        request(1, 4, 1, &fetch_body("hostile", 0, 0)),
        request(2, 1, 1, &offsets.done()),
        request(3, 1, 1, &Fields::new().i32(1).text("hostile").done()),
        request(10, 1, 1, &Fields::new().text("group").i8(0).done()),
        request(18, 0, 1, &[]),
        request(19, 2, 1, &new_topic.done()),
        request(20, 1, 1, &Fields::new().i32(1).text("made").i32(1000).done()),
        request(22, 0, 1, &Fields::new().i16(-1).i32(1000).done()),
        flexible(0, 9, produce),
        flexible(3, 9, Fields::new().i8(2).raw(b"\x08hostile").i8(0).i8(1).i8(0).i8(0).i8(0)),
        flexible(18, 3, Fields::new().raw(b"\x05test").raw(b"\x021").i8(0)),
        flexible(22, 2, Fields::new().i8(0).i32(1000).i8(0)),
    ]
}

/// A frame with some bytes changed, lost, doubled or added. The size in front may be one of them.
fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut frame = framed(seed);
    for _ in 0..=random.below(4) {
        let at = random.index(frame.len());
        match random.below(5) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = random.next_u64() as u8,
            2 => frame.truncate(at.max(1)),
            3 => drop(frame.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f])),
            _ => {
                let again = frame[at..].to_vec();
                frame.extend(again);
            }
        }
    }
    if random.below(2) == 0 {
        let length = u32::try_from(frame.len().saturating_sub(4)).unwrap_or(0).to_be_bytes();
        frame.iter_mut().zip(length).for_each(|(byte, right)| *byte = right);
    }
    frame
}

/// Numbers that a count or a length must not be believed with.
fn lies() -> Vec<Vec<u8>> {
    let long = [i32::MAX, i32::MIN, -1, -2, 0x4100_9100].map(|lie| lie.to_be_bytes().to_vec());
    let short = [i16::MAX, i16::MIN, -2].map(|lie| lie.to_be_bytes().to_vec());
    let varints = [&b"\xff\xff\xff\xff\x0f"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"];
    long.into_iter().chain(short).chain(varints.map(<[u8]>::to_vec)).collect()
}

/// Anything at all.
fn random_streams(address: &str, random: &mut Random, count: u64) -> Result<()> {
    for _ in 0..count {
        let length = 1 + random.index(4096);
        say(address, &random.bytes(length))?;
    }
    Ok(())
}

/// Many at a time begin to say something and stay; the witness goes on meanwhile.
fn hold(
    address: &str,
    witness: &Witness,
    count: usize,
    mut part: impl FnMut() -> Vec<u8>,
) -> Result<()> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut socket = TcpStream::connect(address)?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.write_all(&part())?;
        held.push(socket);
    }
    witness.wait_rounds(HELD_ROUNDS)
}

/// What begins like a Produce of `length` bytes and has `sent` bytes after its header.
fn begun(length: u32, sent: usize) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(request(0, 7, 1, &[]));
    bytes.resize(bytes.len() + sent, 0);
    bytes
}

fn strangers() -> Vec<Vec<u8>> {
    let mut tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    tls.resize(517, 7);
    vec![
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"POST /topics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        tls,
    ]
}

#[test]
fn the_kafka_port_outlives_hostile_bytes() -> Result<()> {
    let dir = temporary_dir();
    let mut scene = Scene::new(dir.path(), "kafka")?;
    let times = if is_long() { 50 } else { 1 };
    let seeds = kafka_requests();
    for seed in &seeds {
        let answer = say(&scene.address, &framed(seed))?;
        ensure!(answer.get(4..8) == Some(&1_i32.to_be_bytes()), "no answer to {}", shown(seed));
    }

    scene.survives("random streams", |address, random, _| {
        random_streams(address, random, 300 * times)
    })?;
    scene.survives("random bodies", |address, random, _| {
        for _ in 0..500 * times {
            let head = &seeds[random.index(seeds.len())][..4];
            let length = 4 + random.index(300);
            say(address, &framed(&[head, &random.bytes(length)].concat()))?;
        }
        Ok(())
    })?;
    scene.survives("changed requests", |address, random, _| {
        for _ in 0..2000 * times {
            let seed = &seeds[random.index(seeds.len())];
            say(address, &mutated(seed, random))?;
        }
        Ok(())
    })?;
    scene.survives("lying counts", |address, _, _| {
        say(address, &framed(KNOWN_BAD))?;
        for seed in &seeds {
            for at in 8..seed.len() {
                for lie in lies() {
                    let mut lying = seed.clone();
                    let end = (at + lie.len()).min(lying.len());
                    lying.splice(at..end, lie);
                    say(address, &framed(&lying))?;
                }
            }
        }
        Ok(())
    })?;
    scene.survives("announced gigabytes", |address, _, _| {
        for length in [1 << 30, i32::MAX, -1, i32::MIN, (100 << 20) + 1] {
            provoke(address, &begun(length.cast_unsigned(), 100))?;
        }
        // No request but Produce has so much to say.
        let metadata = request(3, 1, 1, &Fields::new().i32(-1).done());
        let length = (8 << 20) + 1_i32;
        provoke(address, &Fields::new().i32(length).raw(&metadata).done()).map(drop)
    })?;
    scene.survives("other protocols", |address, _, _| {
        for stranger in strangers() {
            provoke(address, &stranger)?;
        }
        Ok(())
    })?;
    let log = scene.server.log().join("\n");
    ensure!(log.contains("HTTP on a Kafka listener"), "{log}");
    ensure!(log.contains("TLS on a plaintext Kafka listener"), "{log}");
    scene.survives("half-sent requests", |address, random, witness| {
        hold(address, witness, 400, || begun(60_000, random.index(50_000)))
    })?;
    scene.survives("half-sent large requests", |address, _, witness| {
        hold(address, witness, 50, || begun(100 << 20, 200_000))
    })?;
    scene.survives("announced megabytes", |address, _, witness| {
        hold(address, witness, 200, || begun(4 << 20, 70_000))
    })?;
    scene.survives("a topic named again and again", |address, _, _| {
        let names = (0..40_000).fold(Fields::new().i32(40_000), |body, _| body.text("witness"));
        let request = framed(&request(3, 1, 1, &names.done()));
        let ask = |_| {
            let (address, request) = (address.to_owned(), request.clone());
            thread::spawn(move || say(&address, &request).map(|answer| answer.len()))
        };
        let asked: Vec<_> = (0..CLIENTS).map(ask).collect();
        for answer in asked {
            let bytes = answer.join().expect("a client does not panic")?;
            ensure!((1..1000).contains(&bytes), "an answer of {bytes} bytes");
        }
        Ok(())
    })?;
    scene.finish()
}

/// What clients of the original said, by the name of the recording.
fn tlog_streams() -> Result<Vec<(String, Vec<u8>)>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/tlog");
    let mut streams = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".c2s.bin") {
            streams.push((name.to_owned(), std::fs::read(&path)?));
        }
    }
    streams.sort();
    Ok(streams)
}

/// Words of Cap'n Proto that lead nowhere: lists and structs of the largest size, pointers into other segments, back into
/// themselves, to capabilities, and lists of nothing with the most elements.
const POINTERS: [u64; 8] = [
    0xffff_ffff_0000_0001,
    0xffff_fff8_0000_0001,
    0xffff_ffff_0000_0000,
    0xffff_ffff_ffff_fffe,
    0x0000_0000_0000_0002,
    0x0000_0001_0000_0006,
    0x0000_0000_0000_0003,
    0x0001_0001_ffff_fffc,
];

/// A stream with words that lie, or the mutations that any protocol may have.
fn mutated_stream(stream: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = stream.to_vec();
    for _ in 0..=random.below(3) {
        // Where handshakes and the heads of messages are.
        let words = (bytes.len() / 8).min(48);
        let at = 8 * random.index(words);
        let word = match random.below(3) {
            0 => random.next_u64(),
            _ => POINTERS[random.index(POINTERS.len())],
        };
        bytes.iter_mut().skip(at).zip(word.to_le_bytes()).for_each(|(byte, lie)| *byte = lie);
    }
    if random.below(4) == 0 {
        let at = random.index(bytes.len());
        bytes[at] ^= 1 << random.below(8);
        bytes.truncate(random.index(bytes.len()) + 1);
    }
    bytes
}

/// A segment table with these sizes in words, and `sent` bytes behind it.
fn capnp_begun(sizes: &[u32], sent: usize) -> Vec<u8> {
    let count = u32::try_from(sizes.len() - 1).unwrap_or(u32::MAX);
    let mut bytes: Vec<u8> =
        std::iter::once(&count).chain(sizes).flat_map(|number| number.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(8) + sent, 0);
    bytes
}

#[test]
fn the_tlog_port_outlives_hostile_bytes() -> Result<()> {
    let dir = temporary_dir();
    let mut scene = Scene::new(dir.path(), "tlog")?;
    let times = if is_long() { 50 } else { 1 };
    let streams = tlog_streams()?;
    let good = streams.iter().filter(|(name, _)| name.ends_with("-handshake-ok"));
    let good: Vec<&Vec<u8>> = good.map(|(_, stream)| stream).collect();
    ensure!(good.len() == 2, "a handshake of each family");
    let answers = |address: &str| -> Result<()> {
        for handshake in &good {
            let mut socket = TcpStream::connect(address)?;
            socket.set_read_timeout(Some(CLOSES))?;
            socket.write_all(handshake)?;
            // Whatever the answer is: after all that was said, the vdisk may be somewhere else.
            socket.read_exact(&mut [0; 8]).context("no answer to a handshake")?;
        }
        Ok(())
    };
    answers(&scene.address)?;

    scene.survives("random streams", |address, random, _| {
        random_streams(address, random, 300 * times)?;
        answers(address)
    })?;
    scene.survives("changed streams", |address, random, _| {
        for _ in 0..600 * times {
            let (_, stream) = &streams[random.index(streams.len())];
            say(address, &mutated_stream(stream, random))?;
        }
        answers(address)
    })?;
    scene.survives("announced gigabytes and segments", |address, _, _| {
        for count in [512, 0xffff, 0x7fff_fffe, u32::MAX - 1, u32::MAX] {
            provoke(address, &[count.to_le_bytes(), [1, 0, 0, 0]].concat())?;
        }
        provoke(address, &capnp_begun(&[1 << 27], 100))?;
        provoke(address, &capnp_begun(&[u32::MAX], 100))?;
        provoke(address, &capnp_begun(&[u32::MAX; 512], 100))?;
        provoke(address, &capnp_begun(&[(8 << 20) + 1], 100))?;
        answers(address)
    })?;
    scene.survives("other protocols", |address, _, _| {
        for stranger in strangers() {
            say(address, &stranger)?;
        }
        answers(address)
    })?;
    scene.survives("half-sent messages", |address, random, witness| {
        hold(address, witness, 400, || capnp_begun(&[7000], random.index(50_000)))?;
        answers(address)
    })?;
    scene.survives("half-sent large messages", |address, _, witness| {
        hold(address, witness, 50, || capnp_begun(&[8 << 20], 200_000))?;
        answers(address)
    })?;
    scene.finish()
}

/// A record of so many zeros, packed. Zeros are also what ends it: a header count of 0.
fn bomb(codec: i16, zeros: usize) -> Result<Vec<u8>> {
    let fixed = Fields::new().i8(0).varint(0).varint(0).varint(-1);
    let body = fixed.varint(i64::try_from(zeros)?).done();
    let length = i64::try_from(body.len() + zeros + 1)?;
    let head = Fields::new().varint(length).raw(&body).done();
    let mut plain = head.chain(std::io::repeat(0).take(zeros as u64 + 1));
    match codec {
        1 => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::copy(&mut plain, &mut encoder)?;
            Ok(encoder.finish()?)
        }
        2 => {
            let mut bytes = Vec::new();
            plain.read_to_end(&mut bytes)?;
            Ok(snap::raw::Encoder::new().compress_vec(&bytes)?)
        }
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            std::io::copy(&mut plain, &mut encoder)?;
            Ok(encoder.finish()?)
        }
        _ => Ok(zstd::stream::encode_all(plain, 1)?),
    }
}

/// Has `count` clients produce the same batch `times` times each, beginning together; every answer must be `wanted`.
fn throw(address: &str, batch: &[u8], count: usize, times: usize, wanted: i16) -> Result<()> {
    let together = Arc::new(Barrier::new(count));
    let begin = |_| {
        let (address, batch) = (address.to_owned(), batch.to_vec());
        let together = Arc::clone(&together);
        thread::spawn(move || -> Result<()> {
            let mut socket = KafkaSocket::connect(&address)?;
            together.wait();
            for _ in 0..times {
                let (code, _) = socket.produce("bombs", 0, &batch)?;
                ensure!(code == wanted, "answered with {code}");
            }
            Ok(())
        })
    };
    let thrown: Vec<_> = (0..count).map(begin).collect();
    thrown.into_iter().try_for_each(|thrown| thrown.join().expect("a client does not panic"))
}

#[test]
fn compression_bombs_cost_the_broker_little() -> Result<()> {
    let dir = temporary_dir();
    let mut scene = Scene::new(dir.path(), "kafka")?;
    KafkaSocket::connect(&scene.address)?.look_at("bombs")?;
    let times = if is_long() { 10 } else { 1 };
    // One byte and more beyond what any batch may hold. Raw snappy makes 22 times of its bytes at most, so it stays
    // below and is taken.
    let beyond = (128 << 20) + 1;
    for (codec, name, zeros, wanted) in [
        (1, "gzip", beyond, code::INVALID_RECORD),
        (2, "snappy", 20 << 20, code::NONE),
        (3, "lz4", beyond, code::INVALID_RECORD),
        (4, "zstd", beyond, code::INVALID_RECORD),
    ] {
        let bomb = Batch::new(1, bomb(codec, zeros)?).codec(codec).done();
        ensure!(bomb.len() < 1_000_000, "{name}: {} bytes", bomb.len());
        // Without optimisation that decoder takes seconds for each.
        let clients = if codec == 3 { 2 } else { CLIENTS };
        let what = format!("{name} bombs of {} bytes", bomb.len());
        scene.survives(&what, |address, _, _| throw(address, &bomb, clients, times, wanted))?;
    }
    // Short enough to be begun at once, and honest: work is all they cost.
    let short = Batch::new(1, bomb(1, 12 << 20)?).codec(1).done();
    ensure!(short.len() < 60_000, "{} bytes", short.len());
    scene.survives("many short gzip bombs", |address, _, _| {
        throw(address, &short, 6 * CLIENTS, 4 * times, code::NONE)
    })?;
    scene.finish()
}
