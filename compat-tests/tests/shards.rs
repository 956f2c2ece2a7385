//! What the shard servers give back when the machine is gone, and two of them with it.
//!
//! ```text
//!   blocks (TLog) and batches (Kafka) -> server -> six redis -> damage by the test -> server with an empty data directory
//! ```
//!
//! `TLOG_TEST_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use compat_tests::kafka::{Batch, Fields, KafkaSocket, code, record};
use compat_tests::vdisk::block;
use compat_tests::{
    DEADLINE, Random, Redis, Server, TlogSocket, is_long, temporary_dir, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use tlog::client::{KafkaClient, RunTracker, TopicInfo};
use tlog::record::vdisk::StoredBlock;
use tlog::record::{BatchHeader, Batches, Records, plain_records};
use tlog::tlog::protocol::{ClientMessage, Status};

const KEY: &str = "-priv-key=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const DISK: &str = "disk";
const PLAIN: &str = "plain";
/// Blocks on the vdisk before anything is damaged.
const BLOCKS: u64 = 60;
const BATCHES: i32 = 8;
/// `max.message.bytes` of the plain topic.
const LARGEST: usize = 20_000;
/// Kafka's code for data that cannot be given.
const STORAGE_ERROR: i16 = 56;
/// Kafka's code for a topic that does not exist.
const UNKNOWN_TOPIC: i16 = 3;

fn start(data_dir: &Path, addresses: &[String]) -> Result<Server> {
    let storage = format!("-storage-addresses={}", addresses.join(","));
    Server::start(data_dir, &[&storage, KEY, "-flush-size=10", "-flush-time=200ms"])
}

fn addresses(servers: &[Redis]) -> Vec<String> {
    servers.iter().map(Redis::address).collect()
}

/// All of a partition, or the code of the error that it ends with.
fn read(server: &mut Server, topic: &str, from: i64) -> Result<Result<Vec<u8>, i16>> {
    let mut kafka = KafkaSocket::connect(&server.address("kafka")?)?;
    let mut all = Vec::new();
    let mut next = from;
    loop {
        let (code, high_watermark, batches) = kafka.fetch(topic, 0, next)?;
        if code != code::NONE {
            return Ok(Err(code));
        }
        for batch in Batches::new(&batches) {
            let (header, bytes) = batch?;
            ensure!(
                header.base_offset == next,
                "{topic}: offset {} for {next}",
                header.base_offset
            );
            ensure!(tlog::record::crc_matches(bytes), "{topic}: offset {next} is damaged");
            next = header.next_offset();
        }
        all.extend_from_slice(&batches);
        if next >= high_watermark {
            return Ok(Ok(all));
        }
        ensure!(!batches.is_empty(), "{topic}: nothing at {next} below {high_watermark}");
    }
}

fn read_whole(server: &mut Server, topic: &str, from: i64) -> Result<Vec<u8>> {
    read(server, topic, from)?
        .map_err(|code| anyhow::anyhow!("{topic}: fetch ends with code {code}"))
}

/// Offset and value of every record.
fn records(batches: &[u8]) -> Result<Vec<(i64, Vec<u8>)>> {
    let mut all = Vec::new();
    for batch in Batches::new(batches) {
        let (header, bytes) = batch?;
        for record in Records::new(&plain_records(bytes, &header)?, &header) {
            let record = record?;
            let offset = header.base_offset + i64::from(record.offset_delta);
            all.push((offset, record.value.unwrap_or_default().to_vec()));
        }
    }
    Ok(all)
}

/// The data of every block by its sequence; a sequence that comes twice or out of order is an error.
fn blocks(batches: &[u8]) -> Result<BTreeMap<u64, Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut runs = RunTracker::default();
    for batch in Batches::new(batches) {
        let (header, bytes) = batch?;
        for record in Records::new(&plain_records(bytes, &header)?, &header) {
            let record = record?;
            let stored = StoredBlock::parse(&record)?;
            let offset = header.base_offset + i64::from(record.offset_delta);
            let (_, sequence) = runs.follow(offset, stored.sequence);
            let last = all.last_key_value().map_or(0, |(last, _)| *last);
            ensure!(sequence == last + 1, "sequence {sequence} follows {last} at offset {offset}");
            all.insert(sequence, stored.data.unwrap_or_default().to_vec());
        }
    }
    Ok(all)
}

/// Content of a block, known from its sequence.
fn content(seed: u64, sequence: u64) -> Vec<u8> {
    Random::new(seed ^ sequence.wrapping_mul(0x9e37)).bytes(4096)
}

/// A batch of one producer: one record of random bytes.
fn batch(producer: i64, sequence: i32, bytes: &[u8]) -> Vec<u8> {
    let mut batch = Batch::new(1, record(0, Some(b"key"), Some(bytes)));
    batch.producer = (producer, 0, sequence);
    batch.done()
}

fn create_topic(kafka: &mut KafkaSocket, topic: &str) -> Result<()> {
    let largest = LARGEST.to_string();
    let options = [("remote.storage.enable", "true"), ("max.message.bytes", &largest)];
    let mut body = Fields::new().i32(1).text(topic).i32(1).i16(1).i32(0).i32(options.len() as i32);
    for (key, value) in options {
        body = body.text(key).text(value);
    }
    let answer = kafka.ask(19, 2, &body.i32(30_000).i8(0).done())?;
    let at = 4 + 4 + 2 + topic.len();
    ensure!(answer.get(at..at + 2) == Some(&[0, 0]), "{topic} was not made: {answer:?}");
    Ok(())
}

fn new_producer_id(kafka: &mut KafkaSocket) -> Result<i64> {
    let answer = kafka.ask(22, 0, &Fields::new().i16(-1).i32(60_000).done())?;
    ensure!(answer.get(4..6) == Some(&[0, 0]), "no producer id: {answer:?}");
    let id = answer.get(6..14).context("a short answer")?;
    Ok(i64::from_be_bytes(id.try_into()?))
}

fn topic(server: &mut Server, name: &str) -> Result<TopicInfo> {
    let address = server.bootstrap()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut topics = runtime
        .block_on(async { KafkaClient::connect(&address).await?.topics(Some(&[name])).await })?;
    topics.pop().with_context(|| format!("no topic {name}"))
}

/// Reads answers until everything up to `sequence` is flushed.
fn wait_flushed(client: &mut TlogSocket, sequence: u64) -> Result<()> {
    loop {
        let response = client.response()?;
        if response.status == Status::Flushed && response.sequences.last() >= Some(&sequence) {
            return Ok(());
        }
    }
}

/// Shard servers with a vdisk and a plain topic on them, and what was there before.
struct World {
    dir: tempfile::TempDir,
    random: Random,
    seed: u64,
    servers: Vec<Redis>,
    disk: Vec<u8>,
    plain: Vec<u8>,
    topics: [TopicInfo; 2],
    producer: i64,
    lives: u32,
}

impl World {
    fn written() -> Result<Self> {
        let mut random = Random::from_environment();
        let seed = random.next_u64();
        let dir = temporary_dir();
        let servers = Redis::start_many(dir.path(), 6)?;
        let mut server = start(&dir.path().join("data"), &addresses(&servers))?;
        let (mut client, _) = TlogSocket::attach(&server.address("tlog")?, DISK)?;
        for sequence in 1..=BLOCKS {
            client.send(&block(sequence, sequence as i64 * 3, &content(seed, sequence)))?;
        }
        client.send(&ClientMessage::ForceFlush(BLOCKS))?;
        wait_flushed(&mut client, BLOCKS)?;
        let mut kafka = KafkaSocket::connect(&server.address("kafka")?)?;
        create_topic(&mut kafka, PLAIN)?;
        let producer = new_producer_id(&mut kafka)?;
        for sequence in 0..BATCHES {
            let sent = batch(producer, sequence, &content(seed, sequence as u64)[..3000]);
            let (code, offset) = kafka.produce(PLAIN, 0, &sent)?;
            ensure!((code, offset) == (code::NONE, i64::from(sequence)), "{code} {offset}");
        }
        let disk = read_whole(&mut server, DISK, 1)?;
        let plain = read_whole(&mut server, PLAIN, 0)?;
        ensure!(blocks(&disk)?.len() as u64 == BLOCKS && records(&plain)?.len() as i32 == BATCHES);
        let topics = [topic(&mut server, DISK)?, topic(&mut server, PLAIN)?];
        // A stop ships what is left.
        ensure!(server.terminate()?.success());
        ensure!(!server.log().iter().any(|line| line.contains("not everything is on")));
        Ok(Self { dir, random, seed, servers, disk, plain, topics, producer, lives: 0 })
    }

    fn new_data_dir(&mut self) -> PathBuf {
        self.lives += 1;
        self.dir.path().join(format!("life-{}", self.lives))
    }

    fn some_pair(&mut self) -> (usize, usize) {
        let a = self.random.index(6);
        (a, (a + 1 + self.random.index(5)) % 6)
    }
}

/// What happens to shard servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Missing,
    Empty,
    Flipped,
    Truncated,
    /// Each has the shard of the other under the name of its own.
    Swapped,
    /// Gone one by one, while the server is there.
    Removed,
}

const HARMS: [Harm; 6] =
    [Harm::Missing, Harm::Empty, Harm::Flipped, Harm::Truncated, Harm::Swapped, Harm::Removed];

fn connection(server: &Redis) -> Result<redis::Connection> {
    Ok(redis::Client::open(format!("redis://{}", server.address()))?.get_connection()?)
}

/// Shards of a topic on a server: name and bytes.
fn shards(server: &Redis, topic: &TopicInfo) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut connection = connection(server)?;
    let pattern = format!("t1:{}-*:s:*", topic.id);
    let names: Vec<String> = redis::cmd("KEYS").arg(pattern).query(&mut connection)?;
    let get = |name: String| {
        let bytes: Vec<u8> = redis::cmd("GET").arg(&name).query(&mut connection)?;
        Ok((name, bytes))
    };
    names.into_iter().map(get).collect()
}

fn put(server: &Redis, shards: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut connection = connection(server)?;
    for (name, bytes) in shards {
        let () = redis::cmd("SET").arg(name).arg(&bytes[..]).query(&mut connection)?;
    }
    Ok(())
}

/// The name without the shard's index.
fn fragment(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(fragment, _)| fragment)
}

/// Changes the shards of a topic on some servers.
fn spoil(random: &mut Random, servers: &[&Redis], topic: &TopicInfo, harm: Harm) -> Result<()> {
    let all: Vec<_> = servers.iter().map(|s| shards(s, topic)).collect::<Result<_>>()?;
    ensure!(all.iter().all(|shards| !shards.is_empty()), "no shards on a server");
    for (i, (server, own)) in servers.iter().zip(&all).enumerate() {
        let mut spoilt = own.clone();
        for (name, bytes) in &mut spoilt {
            match harm {
                Harm::Flipped => {
                    let at = random.index(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
                Harm::Truncated => bytes.truncate(random.index(bytes.len())),
                Harm::Swapped => {
                    let other = &all[(i + 1) % all.len()];
                    let theirs = other.iter().find(|(n, _)| fragment(n) == fragment(name));
                    *bytes = theirs.context("each server has a shard of each fragment")?.1.clone();
                }
                Harm::Missing | Harm::Empty | Harm::Removed => {}
            }
        }
        if harm == Harm::Removed {
            let names: Vec<_> = own.keys().collect();
            let _: i64 = redis::cmd("DEL").arg(names).query(&mut connection(server)?)?;
        } else {
            put(server, &spoilt)?;
        }
    }
    Ok(())
}

/// Two servers harmed: a server with an empty data directory gives the very same bytes. Undone afterwards.
fn check_two(world: &mut World, harm: Harm, (a, b): (usize, usize)) -> Result<()> {
    let mut given = addresses(&world.servers);
    let mut fresh = Vec::new();
    let mut saved = Vec::new();
    match harm {
        Harm::Missing => {
            world.servers[a].kill()?;
            world.servers[b].kill()?;
        }
        Harm::Empty => {
            for at in [a, b] {
                let redis =
                    Redis::start(&world.dir.path().join(format!("fresh-{}-{at}", world.lives)))?;
                given[at] = redis.address();
                fresh.push(redis);
            }
        }
        _ => {
            for topic in &world.topics {
                for at in [a, b] {
                    saved.push((at, shards(&world.servers[at], topic)?));
                }
                let pair = [&world.servers[a], &world.servers[b]];
                spoil(&mut world.random, &pair, topic, harm)?;
            }
        }
    }
    let data_dir = world.new_data_dir();
    let mut server = start(&data_dir, &given)?;
    ensure!(read_whole(&mut server, DISK, 1)? == world.disk, "the vdisk reads otherwise");
    ensure!(read_whole(&mut server, PLAIN, 0)? == world.plain, "the topic reads otherwise");
    server.kill()?;
    if harm == Harm::Missing {
        world.servers[a].restart()?;
        world.servers[b].restart()?;
    }
    saved.iter().try_for_each(|(at, shards)| put(&world.servers[*at], shards))
}

#[test]
fn any_two_of_six_servers_may_be_lost_or_lie_with_the_data_directory_gone() -> Result<()> {
    let mut world = World::written()?;
    for harm in HARMS {
        let pairs: Vec<(usize, usize)> = if is_long() {
            (0..6).flat_map(|a| (a + 1..6).map(move |b| (a, b))).collect()
        } else {
            vec![world.some_pair()]
        };
        for pair in pairs {
            check_two(&mut world, harm, pair).with_context(|| format!("{harm:?} {pair:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn three_damaged_shards_are_an_error_and_never_data_and_others_are_served() -> Result<()> {
    let mut world = World::written()?;
    let first = world.random.index(6);
    for harm in [Harm::Flipped, Harm::Removed] {
        let three: Vec<&Redis> = (0..3).map(|i| &world.servers[(first + i) % 6]).collect();
        let saved: Vec<_> =
            three.iter().map(|s| shards(s, &world.topics[0])).collect::<Result<_>>()?;
        spoil(&mut world.random, &three, &world.topics[0], harm)?;
        world.lives += 1;
        let data_dir = world.dir.path().join(format!("life-{}", world.lives));
        let mut server = start(&data_dir, &addresses(&world.servers))?;
        for from in [1, 11, BLOCKS as i64] {
            let answer = read(&mut server, DISK, from)?;
            ensure!(answer == Err(STORAGE_ERROR), "{harm:?}, from {from}: {answer:?}");
        }
        ensure!(read_whole(&mut server, PLAIN, 0)? == world.plain, "the other topic suffers");
        server.kill()?;
        three.iter().zip(&saved).try_for_each(|(server, shards)| put(server, shards))?;
    }
    Ok(())
}

#[test]
fn a_rebuilt_server_goes_on_where_the_lost_one_was() -> Result<()> {
    let mut world = World::written()?;
    let (a, b) = world.some_pair();
    for at in [a, b] {
        world.servers[at] = Redis::start(&world.dir.path().join(format!("replaced-{at}")))?;
    }
    let data_dir = world.new_data_dir();
    let mut server = start(&data_dir, &addresses(&world.servers))?;
    for before in world.topics.clone() {
        let now = topic(&mut server, &before.name)?;
        ensure!(now.id == before.id, "{} has another id", before.name);
        let (was, is) = (before.partitions[0].leader_epoch, now.partitions[0].leader_epoch);
        ensure!(is > was, "{}: leader epoch {is} after {was}", before.name);
    }
    check_disk_goes_on(&world, &mut server)?;
    check_producers_go_on(&world, &mut server)?;

    // What was written since is there once more.
    let disk = read_whole(&mut server, DISK, 1)?;
    let plain = read_whole(&mut server, PLAIN, 0)?;
    let old: Vec<BatchHeader> = headers(&world.plain)?;
    let new = headers(&plain)?;
    let epoch = |header: Option<&BatchHeader>| header.map(|header| header.leader_epoch);
    ensure!(epoch(new.last()) > epoch(old.last()), "new batches have the old epoch");
    ensure!(server.terminate()?.success());
    let data_dir = world.new_data_dir();
    let mut server = start(&data_dir, &addresses(&world.servers))?;
    ensure!(
        read_whole(&mut server, DISK, 1)? == disk && read_whole(&mut server, PLAIN, 0)? == plain
    );
    Ok(())
}

fn headers(batches: &[u8]) -> Result<Vec<BatchHeader>> {
    Batches::new(batches).map(|batch| Ok(batch?.0)).collect()
}

fn check_disk_goes_on(world: &World, server: &mut Server) -> Result<()> {
    let (mut client, flushed) = TlogSocket::attach(&server.address("tlog")?, DISK)?;
    ensure!(flushed == BLOCKS, "flushed is {flushed}, {BLOCKS} were");
    // The last one once more: known, and not stored twice.
    for sequence in BLOCKS..=BLOCKS + 10 {
        client.send(&block(sequence, 1, &content(world.seed, sequence)))?;
    }
    client.send(&ClientMessage::ForceFlush(BLOCKS + 10))?;
    wait_flushed(&mut client, BLOCKS + 10)?;
    let read = read_whole(server, DISK, 1)?;
    ensure!(read.starts_with(&world.disk), "what was there has changed");
    for (sequence, data) in blocks(&read)? {
        ensure!(data == content(world.seed, sequence), "block {sequence} has other data");
    }
    ensure!(blocks(&read)?.len() as u64 == BLOCKS + 10);
    Ok(())
}

fn check_producers_go_on(world: &World, server: &mut Server) -> Result<()> {
    let mut kafka = KafkaSocket::connect(&server.address("kafka")?)?;
    let sent = |sequence: i32| {
        batch(world.producer, sequence, &content(world.seed, sequence as u64)[..3000])
    };
    let last = BATCHES - 1;
    // A retry of what was acknowledged gets the same offset and is not stored again.
    for sequence in [last, last - 1, last + 1, last + 1] {
        let answer = kafka.produce(PLAIN, 0, &sent(sequence))?;
        ensure!(answer == (code::NONE, i64::from(sequence)), "sequence {sequence}: {answer:?}");
    }
    let (_, high_watermark, _) = kafka.fetch(PLAIN, 0, 0)?;
    ensure!(high_watermark == i64::from(BATCHES) + 1, "{high_watermark} records");
    // A gap is one, also after a rebuild.
    ensure!(kafka.produce(PLAIN, 0, &sent(last + 5))?.0 == 45, "a gap is taken");
    let id = new_producer_id(&mut kafka)?;
    ensure!(id >= world.producer + (1 << 32), "producer id {id} after {}", world.producer);
    // Options are kept, too.
    let large = Batch::of_one(&vec![5; LARGEST + 1]).done();
    ensure!(kafka.produce(PLAIN, 0, &large)?.0 == code::MESSAGE_TOO_LARGE);
    Ok(())
}

#[test]
fn while_one_server_is_away_blocks_are_received_and_flushed_when_it_returns() -> Result<()> {
    let mut world = World::written()?;
    let data_dir = world.dir.path().join("data");
    let mut server = start(&data_dir, &addresses(&world.servers))?;
    let (mut client, _) = TlogSocket::attach(&server.address("tlog")?, DISK)?;
    let away = world.random.index(6);
    let mut sequence = BLOCKS;
    for hangs in [false, true] {
        let redis = &mut world.servers[away];
        let name = redis.address();
        if hangs {
            redis.pause()?
        } else {
            redis.kill()?
        }
        let mut flushed = Vec::new();
        // The second ten come when it is known to be away.
        for round in 0..2 {
            for _ in 0..10 {
                sequence += 1;
                client.send(&block(sequence, 0, &content(world.seed, sequence)))?;
            }
            client.send(&ClientMessage::ForceFlush(sequence))?;
            loop {
                let response = client.response()?;
                match response.status {
                    Status::Flushed => flushed.extend(response.sequences),
                    Status::Received if response.sequences == [sequence] => break,
                    Status::Received | Status::ForceFlushReceived => {}
                    other => bail!("{other:?}"),
                }
            }
            if round == 0 {
                wait_until("the server that is away at /readyz", || {
                    let (status, body) = server.admin("/readyz")?;
                    let named = body.contains(&format!("shard server {name}"));
                    Ok((status == 200 && named).then_some(()))
                })?;
            }
        }
        for response in client.responses_until_quiet(Duration::from_millis(500))? {
            ensure!(response.status != Status::Flushed, "flushed with a server away: {response:?}");
        }
        ensure!(flushed.is_empty(), "flushed with a server away: {flushed:?}");
        let redis = &mut world.servers[away];
        if hangs {
            redis.resume()?
        } else {
            redis.restart()?
        }
        wait_flushed(&mut client, sequence)?;
    }
    server.kill()?;
    let data_dir = world.new_data_dir();
    let mut server = start(&data_dir, &addresses(&world.servers))?;
    let read = blocks(&read_whole(&mut server, DISK, 1)?)?;
    ensure!(read.len() as u64 == sequence, "{} of {sequence} blocks", read.len());
    ensure!(read.iter().all(|(sequence, data)| *data == content(world.seed, *sequence)));
    Ok(())
}

/// What a client outside of the server was told.
#[derive(Default)]
struct Told {
    sent: u64,
    received: u64,
    flushed: u64,
    /// Offset and value of each acknowledged record.
    produced: Vec<(i64, Vec<u8>)>,
    values: u64,
}

/// Writes until the server is gone. An error of the connection is its end; a wrong answer is returned as an error.
fn write_until_gone(
    server: &mut Server,
    seed: u64,
    told: &mut Told,
    attached: &Sender<()>,
) -> Result<()> {
    let (tlog, kafka) = (server.address("tlog")?, server.address("kafka")?);
    let Ok((mut client, flushed)) = TlogSocket::attach(&tlog, DISK) else { return Ok(()) };
    ensure!(flushed >= told.flushed, "flushed {flushed}, before {}", told.flushed);
    ensure!(flushed <= told.sent, "flushed {flushed}, sent {}", told.sent);
    told.flushed = flushed;
    // Nobody listens when the killer did not wait.
    let _gone = attached.send(());
    let Ok(mut kafka) = KafkaSocket::connect(&kafka) else { return Ok(()) };
    let mut next = flushed + 1;
    loop {
        let upto = next + 7;
        while next <= upto {
            if client.send(&block(next, next as i64 % 64, &content(seed, next))).is_err() {
                return Ok(());
            }
            told.sent = told.sent.max(next);
            next += 1;
        }
        loop {
            let Ok(response) = client.response() else { return Ok(()) };
            let last = response.sequences.last().copied().unwrap_or(0);
            match response.status {
                Status::Received => told.received = told.received.max(last),
                Status::Flushed => told.flushed = told.flushed.max(last),
                other => bail!("{other:?}"),
            }
            if response.status == Status::Received && last == upto {
                break;
            }
        }
        told.values += 1;
        let value = told.values.to_be_bytes().to_vec();
        match kafka.produce(PLAIN, 0, &Batch::of_one(&value).done()) {
            Ok((code::NONE, offset)) => told.produced.push((offset, value)),
            Ok((code, _)) => bail!("produce: code {code}"),
            Err(_) => return Ok(()),
        }
    }
}

#[test]
fn kill_9_while_shipping_loses_nothing_that_was_answered() -> Result<()> {
    let mut random = Random::from_environment();
    let seed = random.next_u64();
    let dir = temporary_dir();
    let servers = Redis::start_many(dir.path(), 6)?;
    let mut server = start(&dir.path().join("data"), &addresses(&servers))?;
    create_topic(&mut KafkaSocket::connect(&server.address("kafka")?)?, PLAIN)?;
    let mut told = Told::default();
    let kills = if is_long() { 200 } else { 20 };
    for kill in 0..kills {
        let process = Pid::from_raw(i32::try_from(server.id())?).context("a process id")?;
        // Mostly while it ships; sometimes earlier, while it makes up for the life before.
        let early = kill % 4 == 3;
        let after = Duration::from_millis(5 + random.below(400));
        let (attached, is_attached) = std::sync::mpsc::channel();
        let killer = std::thread::spawn(move || {
            let at_most = if early { Duration::ZERO } else { DEADLINE };
            // Attached or not: it is killed.
            let _either = is_attached.recv_timeout(at_most);
            std::thread::sleep(after);
            kill_process(process, Signal::KILL)
        });
        let written = write_until_gone(&mut server, seed, &mut told, &attached);
        killer.join().expect("the killer does not panic")?;
        written.with_context(|| format!("before kill {kill}"))?;
        server.wait_exit()?;
        if kill % 2 == 0 {
            // Before the killed one can make up for anything.
            let new = dir.path().join(format!("new-{kill}"));
            check_shards_alone(&new, &addresses(&servers), seed, &told)
                .with_context(|| format!("from the shards alone after kill {kill}"))?;
        }
        server.restart().with_context(|| format!("after kill {kill}"))?;
    }
    println!(
        "sent {}, received {}, flushed {}, produced {}",
        told.sent,
        told.received,
        told.flushed,
        told.produced.len()
    );
    ensure!(told.flushed > 20 && told.produced.len() > 10, "hardly anything was written");

    check_blocks(&read_whole(&mut server, DISK, 1)?, seed, told.received)
        .context("acknowledged")?;
    let plain: BTreeMap<i64, Vec<u8>> =
        records(&read_whole(&mut server, PLAIN, 0)?)?.into_iter().collect();
    for (offset, value) in &told.produced {
        ensure!(plain.get(offset) == Some(value), "offset {offset} has another value or none");
    }
    server.kill()?;
    let mut server =
        check_shards_alone(&dir.path().join("new"), &addresses(&servers), seed, &told)?;
    for (offset, value) in records(&read_whole(&mut server, PLAIN, 0)?)? {
        ensure!(plain.get(&offset) == Some(&value), "offset {offset} came back otherwise");
    }
    Ok(())
}

fn check_blocks(disk: &[u8], seed: u64, upto: u64) -> Result<()> {
    let found = blocks(disk)?;
    ensure!(found.len() as u64 >= upto, "{} of {upto} blocks", found.len());
    let wrong = found.iter().find(|(sequence, data)| **data != content(seed, **sequence));
    ensure!(wrong.is_none(), "block {:?} has other data", wrong.map(|(sequence, _)| sequence));
    Ok(())
}

/// A server with an empty data directory has everything that was said to be flushed. It only reads, so the lost one may
/// come back.
fn check_shards_alone(
    data_dir: &Path,
    addresses: &[String],
    seed: u64,
    told: &Told,
) -> Result<Server> {
    let mut server = start(data_dir, addresses)?;
    check_blocks(&read_whole(&mut server, DISK, 1)?, seed, told.flushed)?;
    let (_, flushed) = TlogSocket::attach(&server.address("tlog")?, DISK)?;
    ensure!(flushed >= told.flushed, "flushed {flushed}, told {}", told.flushed);
    Ok(server)
}

/// A vdisk that may be deleted, with `BLOCKS` blocks that are flushed.
fn write_deletable(server: &mut Server, name: &str) -> Result<TopicInfo> {
    let mut kafka = KafkaSocket::connect(&server.address("kafka")?)?;
    let mut body = Fields::new().i32(1).text(name).i32(1).i16(1).i32(0).i32(2);
    for option in ["tlog.vdisk", "tlog.vdisk.deletable"] {
        body = body.text(option).text("true");
    }
    let answer = kafka.ask(19, 2, &body.i32(30_000).i8(0).done())?;
    let at = 4 + 4 + 2 + name.len();
    ensure!(answer.get(at..at + 2) == Some(&[0, 0]), "{name} was not made: {answer:?}");
    let (mut client, _) = TlogSocket::attach(&server.address("tlog")?, name)?;
    for sequence in 1..=BLOCKS {
        client.send(&block(sequence, 0, &content(1, sequence)))?;
    }
    client.send(&ClientMessage::ForceFlush(BLOCKS))?;
    wait_flushed(&mut client, BLOCKS)?;
    topic(server, name)
}

#[test]
fn a_vdisk_deleted_while_no_shard_server_was_there_does_not_come_back() -> Result<()> {
    let dir = temporary_dir();
    let mut servers = Redis::start_many(dir.path(), 6)?;
    let mut server = start(&dir.path().join("data"), &addresses(&servers))?;
    let gone = write_deletable(&mut server, "gone")?;
    write_deletable(&mut server, "stays")?;
    servers.iter_mut().try_for_each(Redis::kill)?;
    let mut kafka = KafkaSocket::connect(&server.address("kafka")?)?;
    let body = Fields::new().i32(1).text("gone").i32(30_000).done();
    let answer = kafka.ask(20, 1, &body)?;
    ensure!(answer.ends_with(b"gone\0\0"), "not deleted: {answer:?}");
    wait_until("the deletion at /readyz", || {
        let (status, body) = server.admin("/readyz")?;
        Ok((status == 200 && body.contains("gone on 0")).then_some(()))
    })?;
    server.kill()?;
    servers.iter_mut().try_for_each(Redis::restart)?;
    for redis in &servers {
        ensure!(!shards(redis, &gone)?.is_empty(), "{} never had a shard", redis.address());
    }
    server.restart()?;
    wait_until("no shard of the deleted vdisk", || {
        let left = servers.iter().map(|redis| Ok(shards(redis, &gone)?.len()));
        Ok((left.sum::<Result<usize>>()? == 0).then_some(()))
    })?;
    server.kill()?;
    let mut server = start(&dir.path().join("rebuilt"), &addresses(&servers))?;
    ensure!(blocks(&read_whole(&mut server, "stays", 1)?)?.len() as u64 == BLOCKS);
    let found = read(&mut server, "gone", 1)?;
    ensure!(found == Err(UNKNOWN_TOPIC), "the vdisk is back: {found:?}");
    Ok(())
}

#[test]
fn a_rebuild_with_three_of_six_servers_says_what_it_waits_for_once_and_goes_on() -> Result<()> {
    let mut world = World::written()?;
    world.servers[..3].iter_mut().try_for_each(Redis::kill)?;
    let storage = format!("-storage-addresses={}", addresses(&world.servers).join(","));
    let data_dir = world.new_data_dir();
    let mut server = Server::spawn(&data_dir, &[&storage, KEY])?;
    let away = world.servers[0].address();
    wait_until("what is waited for at /readyz", || {
        let (status, body) = server.admin("/readyz")?;
        let said = body.contains("3 of 6 answer, 4 are needed to open fragments");
        Ok((status != 200 && said && body.contains(&away)).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    let about = |server: &Server, text: &str| {
        server.log().iter().filter(|line| line.contains(text)).cloned().collect::<Vec<_>>()
    };
    let said = about(&server, " WARN waiting for shard servers: 3 of 6 answer, 4 are needed");
    ensure!(said.len() == 1, "{said:?}");
    world.servers[0].restart()?;
    server.wait_ready()?;
    let said = about(&server, "it goes on");
    ensure!(said.len() == 1 && said[0].contains(" INFO "), "{said:?}");
    ensure!(read_whole(&mut server, DISK, 1)? == world.disk);
    Ok(())
}
