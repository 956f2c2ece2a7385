//! What the server reaches of what a bare program does with the same bytes, each pair in one round.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bare::{self, Growing};
use super::child::Server;
use super::drive::{self, Batches, any};
use super::limits::Limits;
use super::table::{Aim, Pair, Unit};
use super::{batch, wire};
use crate::cli::args::Figure;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::tell;
use crate::record::BatchHeader;

const BULK_BATCH_BYTES: usize = 1 << 20;
/// As the idempotent producers of Kafka do.
const BULK_IN_FLIGHT: usize = 5;
const SMALL_BATCH_BYTES: usize = 4 << 10;
/// So that several are in each commit.
const SMALL_IN_FLIGHT: usize = 64;
const SMALL_COUNT: usize = 20_000;
const PARTITIONS: i32 = 1_000;
const CONNECTIONS: i32 = 10;
/// Of a sample, which is their median.
const ROUNDS: usize = 15;
const ROUNDS_APART: usize = 3;
const SEGMENT_BYTES: usize = 64 << 20;
/// What consumers ask for by default, and what those do who want much.
const FETCH_BYTES: [i32; 2] = [1 << 20, 8 << 20];
const SINGLE_TIME: Duration = Duration::from_secs(1);
/// Below what makes the server write a checkpoint, so that all of it is replayed.
const REPLAY_BYTES: usize = 192 << 20;
const IDLE_TOPICS: usize = 5_000;
const IDLE_TOPICS_AT_ONCE: usize = 500;

/// Sizes that a person may choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) bulk_bytes: usize,
    pub(super) fetch_bytes: usize,
}

/// All rows, in the order of the table.
#[derive(Debug)]
struct Rows {
    bulk: Pair,
    bulk_appended: Pair,
    bulk_written: Pair,
    small_written: Pair,
    round: Pair,
    round_apart: Pair,
    fetches: Vec<(i32, Pair, Pair)>,
    single: Pair,
    replay: Pair,
    replay_small: Pair,
    start: Pair,
    idle: Pair,
}

impl Rows {
    fn new() -> Self {
        let fetch = |bytes: i32, pass: &str, aim: f64| {
            let name = format!("Fetch of sealed segments, {} MiB asked, {pass} pass", bytes >> 20);
            Pair::new(name, "sendfile", Unit::MegabytesPerSecond, Aim::RatioAtLeast(aim))
        };
        let pair = |name: &str, bare, unit, aim| Pair::new(name.to_owned(), bare, unit, aim);
        Self {
            bulk: pair(
                "Produce acks=all, 1 MiB batches, 1 connection, 5 in flight",
                "receive, recycled write + fdatasync, answer",
                Unit::MegabytesPerSecond,
                Aim::RatioAtLeast(0.5),
            ),
            bulk_appended: pair(
                "the same",
                "receive, append + fdatasync, answer",
                Unit::MegabytesPerSecond,
                Aim::None,
            ),
            bulk_written: pair(
                "bytes written per byte acknowledged, 1 MiB batches",
                "",
                Unit::Ratio,
                Aim::AtMost(2.2),
            ),
            small_written: pair(
                "bytes written per byte acknowledged, 4 KiB batches, 64 in flight",
                "",
                Unit::Ratio,
                Aim::AtMost(2.2),
            ),
            round: pair(
                "one 4 KiB batch to each of 1,000 partitions, 10 connections",
                "1,000 writes, one recycled 4 MiB write + fdatasync",
                Unit::Milliseconds,
                Aim::RatioAtMost(2.0),
            ),
            round_apart: pair(
                "the same",
                "1,000 writes, each with fdatasync",
                Unit::Milliseconds,
                Aim::RatioAtMost(0.1),
            ),
            fetches: FETCH_BYTES
                .map(|bytes| (bytes, fetch(bytes, "first", 0.6), fetch(bytes, "second", 0.8)))
                .into(),
            single: pair(
                "one 4 KiB append at a time, p50",
                "receive, recycled write + fdatasync, answer",
                Unit::Microseconds,
                Aim::RatioAtMost(1.5),
            ),
            replay: pair(
                "recovery after kill -9, per GB of commit log",
                "",
                Unit::Seconds,
                Aim::AtMost(3.0),
            ),
            replay_small: pair(
                "the same, 4 KiB batches over 1,000 partitions",
                "",
                Unit::Seconds,
                Aim::AtMost(3.0),
            ),
            start: pair(
                "clean start with 5,000 topics, each written to",
                "",
                Unit::Seconds,
                Aim::AtMost(2.0),
            ),
            idle: pair(
                "memory per idle partition, each written to",
                "",
                Unit::Kibibytes,
                Aim::AtMost(25.0),
            ),
        }
    }

    fn into_pairs(self) -> Vec<Pair> {
        let fetches = self.fetches.into_iter().flat_map(|(_, first, second)| [first, second]);
        [self.bulk, self.bulk_appended, self.bulk_written, self.small_written]
            .into_iter()
            .chain([self.round, self.round_apart])
            .chain(fetches)
            .chain([self.single, self.replay, self.replay_small, self.start, self.idle])
            .collect()
    }
}

/// Measures all of it, or only `figures` where there are some, in `dir`, with servers of its own.
pub(super) async fn measure(
    dir: &Path,
    limits: &Limits,
    rounds: u32,
    sizes: Sizes,
    figures: &[Figure],
) -> Result<Vec<Pair>, Failure> {
    let (dir, limits, figures) = (dir.to_owned(), limits.clone(), figures.to_vec());
    let measured = tokio::task::spawn_blocking(move || {
        raise_file_limit()?;
        let mut rows = Rows::new();
        for round in 0..rounds {
            tell(format_args!("round {} of {rounds}: beside bare programs", round + 1));
            let dir = dir.join(format!("reach-{round}"));
            std::fs::create_dir(&dir).map_err(during("make a directory"))?;
            let (limits, figures) = (limits.clone(), figures.clone());
            let bench = Bench { dir: dir.clone(), limits, sizes, figures };
            bench.round(&mut rows)?;
            std::fs::remove_dir_all(&dir).map_err(during("remove a directory"))?;
        }
        let mut pairs = rows.into_pairs();
        pairs.retain(Pair::is_measured);
        Ok(pairs)
    });
    match measured.await {
        Ok(rows) => rows,
        Err(error) => Err(Failure::of(Exit::Error, &error)),
    }
}

fn during(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::new(Exit::Error, format!("cannot {what}: {error}"))
}

/// A bare program holds a file per partition open.
fn raise_file_limit() -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| during("raise the limit on open files")(error.into()))
}

/// One round.
struct Bench {
    dir: PathBuf,
    limits: Limits,
    sizes: Sizes,
    figures: Vec<Figure>,
}

impl Bench {
    fn wants(&self, figure: Figure) -> bool {
        self.figures.is_empty() || self.figures.contains(&figure)
    }

    fn round(&self, rows: &mut Rows) -> Result<(), Failure> {
        let data = self.dir.join("data");
        let mut server = Server::start(&data)?;
        if self.wants(Figure::Bulk) {
            self.bulk(&server, rows).map_err(during("measure 1 MiB batches"))?;
        }
        if self.wants(Figure::Small) {
            self.small(&server, rows).map_err(during("measure 4 KiB batches"))?;
        }
        if self.wants(Figure::Many) {
            self.many(&server, rows).map_err(during("measure many partitions"))?;
        }
        if self.wants(Figure::Fetch) {
            server = self.fetches(server, &data, rows)?;
        }
        server.stop().map_err(during("stop the server"))?;
        if self.wants(Figure::Replay) {
            self.replay(rows)?;
            self.replay_small(rows)?;
        }
        if self.wants(Figure::Idle) {
            self.idle(rows)?;
        }
        Ok(())
    }

    /// Each topic is fetched from a server that was started for it. Gives the last one.
    fn fetches(&self, mut server: Server, data: &Path, rows: &mut Rows) -> Result<Server, Failure> {
        tell(format_args!("  Fetch"));
        for (bytes, first, second) in &mut rows.fetches {
            let (topic, batches) =
                self.fill(&server, *bytes).map_err(during("write what is to be fetched"))?;
            server.stop().map_err(during("stop the server"))?;
            server = Server::start(data)?;
            for row in [first, second] {
                self.fetch(&server, &topic, batches, *bytes, row).map_err(during("fetch"))?;
            }
            let deleted = drive::ask(&server.kafka, &wire::delete(&topic), wire::deleted);
            deleted.map_err(during("delete a topic"))?;
        }
        Ok(server)
    }

    fn bulk(&self, server: &Server, rows: &mut Rows) -> io::Result<()> {
        tell(format_args!("  1 MiB batches"));
        let batch = batch(BULK_BATCH_BYTES);
        let count = (self.sizes.bulk_bytes / batch.len()).max(1);
        let request = wire::produce("bulk", 0..1, &batch);
        let megabytes = |time: Duration| super::rate(count * batch.len(), time);
        let run = |address: &str, check| {
            drive::stream(address, &request, count, BULK_IN_FLIGHT, check).map(megabytes)
        };
        create(&server.kafka, "bulk", 1)?;
        let before = server.written_bytes()?;
        let rate = run(&server.kafka, wire::produced)?;
        let written = server.written_bytes()? - before;
        rows.bulk_written.add(per(written, count * batch.len()), None);
        drive::ask(&server.kafka, &wire::delete("bulk"), wire::deleted)?;

        let recycling = bare::Server::recycling(self.limits.file.clone())?;
        rows.bulk.add(rate, Some(run(&recycling.address.to_string(), any)?));
        recycling.finish()?;
        let path = self.dir.join("appended");
        let appending = bare::Server::appending(std::fs::File::create_new(&path)?)?;
        rows.bulk_appended.add(rate, Some(run(&appending.address.to_string(), any)?));
        appending.finish()?;
        std::fs::remove_file(path)
    }

    /// One at a time, and many.
    fn small(&self, server: &Server, rows: &mut Rows) -> io::Result<()> {
        tell(format_args!("  4 KiB batches"));
        let batch = batch(SMALL_BATCH_BYTES);
        let request = wire::produce("small", 0..1, &batch);
        create(&server.kafka, "small", 1)?;
        let before = server.written_bytes()?;
        let kafka = &server.kafka;
        drive::stream(kafka, &request, SMALL_COUNT, SMALL_IN_FLIGHT, wire::produced)?;
        let written = server.written_bytes()? - before;
        rows.small_written.add(per(written, SMALL_COUNT * batch.len()), None);

        let ours = drive::one_by_one(kafka, &request, SINGLE_TIME, wire::produced)?;
        let recycling = bare::Server::recycling(self.limits.file.clone())?;
        let address = recycling.address.to_string();
        let bare = drive::one_by_one(&address, &request, SINGLE_TIME, any)?;
        recycling.finish()?;
        let (ours, bare) = (median(&ours), median(&bare));
        rows.single.add(ours.as_secs_f64() * 1e6, Some(bare.as_secs_f64() * 1e6));
        drive::ask(kafka, &wire::delete("small"), wire::deleted)
    }

    fn many(&self, server: &Server, rows: &mut Rows) -> io::Result<()> {
        tell(format_args!("  1,000 partitions"));
        let batch = batch(SMALL_BATCH_BYTES);
        create(&server.kafka, "many", PARTITIONS)?;
        let share = PARTITIONS / CONNECTIONS;
        let requests = (0..CONNECTIONS).map(|connection| {
            wire::produce("many", connection * share..(connection + 1) * share, &batch)
        });
        let mut round = drive::Round::new(&server.kafka, requests.collect())?;
        let count = usize::try_from(PARTITIONS).unwrap_or(0);
        let mut shared = Growing::create(&self.dir.join("shared"), count)?;
        let mut apart = Growing::create(&self.dir.join("apart"), count)?;
        // The first round makes the files.
        round.run(wire::produced)?;
        shared.shared(&batch, &*self.limits.file)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(round.run(wire::produced)?);
            theirs.push(shared.shared(&batch, &*self.limits.file)?);
        }
        let each = (0..ROUNDS_APART).map(|_| apart.apart(&batch)).collect::<io::Result<_>>()?;
        let [ours, theirs, each] = [ours, theirs, each].map(|mut times: Vec<Duration>| {
            times.sort_unstable();
            median(&times).as_secs_f64() * 1e3
        });
        rows.round.add(ours, Some(theirs));
        rows.round_apart.add(ours, Some(each));
        drive::ask(&server.kafka, &wire::delete("many"), wire::deleted)
    }

    /// Writes a topic whose segments are sealed but for the last one.
    fn fill(&self, server: &Server, fetch_bytes: i32) -> io::Result<(String, Batches)> {
        let topic = format!("fetch-{fetch_bytes}");
        // Several fit into what is asked for, as in the log of a busy topic.
        let batch = batch(256 << 10);
        let count = (self.sizes.fetch_bytes / batch.len()).max(1);
        create(&server.kafka, &topic, 1)?;
        let request = wire::produce(&topic, 0..1, &batch);
        drive::stream(&server.kafka, &request, count, BULK_IN_FLIGHT, wire::produced)?;
        let header = BatchHeader::parse(&batch).map_err(io::Error::other)?;
        let records = i64::from(header.last_offset_delta) + 1;
        Ok((topic, Batches { bytes: batch.len(), records, count }))
    }

    fn fetch(
        &self,
        server: &Server,
        topic: &str,
        batches: Batches,
        max_bytes: i32,
        row: &mut Pair,
    ) -> io::Result<()> {
        let dir = self.dir.join("data").join(format!("{topic}-0"));
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        let lengths: Vec<u64> =
            paths.iter().map(|path| Ok(path.metadata()?.len())).collect::<io::Result<_>>()?;
        let bytes = batches.bytes * batches.count;
        let ours = drive::fetch_all(&server.kafka, topic, batches, max_bytes)?;
        let sending = bare::Server::sending(&paths)?;
        let address = sending.address.to_string();
        let theirs = drive::receive_all(&address, &lengths, u64::from(max_bytes.unsigned_abs()))?;
        sending.finish()?;
        row.add(super::rate(bytes, ours), Some(super::rate(bytes, theirs)));
        Ok(())
    }

    fn replay(&self, rows: &mut Rows) -> Result<(), Failure> {
        tell(format_args!("  recovery"));
        let data = self.dir.join("killed");
        let server = Server::start(&data)?;
        let batch = batch(BULK_BATCH_BYTES);
        let count = REPLAY_BYTES / batch.len();
        let request = wire::produce("replay", 0..1, &batch);
        create(&server.kafka, "replay", 1)
            .and_then(|()| {
                let kafka = &server.kafka;
                drive::stream(kafka, &request, count, BULK_IN_FLIGHT, wire::produced)
            })
            .map_err(during("write what is to be recovered"))?;
        server.kill().map_err(during("kill the server"))?;
        let start_time = Server::start(&data)?.start_time;
        let seconds_per_byte = start_time.as_secs_f64() / per((count * batch.len()) as u64, 1);
        rows.replay.add(seconds_per_byte * 1e9, None);
        Ok(())
    }

    /// As small and spread as it comes: what recovery takes for each batch and each partition.
    fn replay_small(&self, rows: &mut Rows) -> Result<(), Failure> {
        tell(format_args!("  recovery of small batches"));
        let data = self.dir.join("killed-small");
        let server = Server::start(&data)?;
        let batch = batch(SMALL_BATCH_BYTES);
        let count = usize::try_from(PARTITIONS).unwrap_or(1);
        let rounds = REPLAY_BYTES / batch.len() / count;
        let write = || {
            create(&server.kafka, "replay", PARTITIONS)?;
            let share = PARTITIONS / CONNECTIONS;
            let requests = (0..CONNECTIONS).map(|connection| {
                wire::produce("replay", connection * share..(connection + 1) * share, &batch)
            });
            let mut round = drive::Round::new(&server.kafka, requests.collect())?;
            (0..rounds).try_for_each(|_| round.run(wire::produced).map(drop))
        };
        write().map_err(during("write what is to be recovered"))?;
        server.kill().map_err(during("kill the server"))?;
        let start_time = Server::start(&data)?.start_time;
        let bytes = (rounds * count * batch.len()) as u64;
        rows.replay_small.add(start_time.as_secs_f64() / per(bytes, 1) * 1e9, None);
        Ok(())
    }

    fn idle(&self, rows: &mut Rows) -> Result<(), Failure> {
        tell(format_args!("  5,000 topics"));
        let data = self.dir.join("idle");
        let server = Server::start(&data)?;
        let empty = server.resident_bytes().map_err(during("read its memory"))?;
        let names: Vec<String> = (0..IDLE_TOPICS).map(|number| format!("idle-{number}")).collect();
        for names in names.chunks(IDLE_TOPICS_AT_ONCE) {
            let request = wire::create(names, 1, ("retention.ms", "-1"));
            let created = drive::ask(&server.kafka, &request, wire::created);
            created.map_err(during("create topics"))?;
        }
        let batch = batch(SMALL_BATCH_BYTES);
        for name in &names {
            let written =
                drive::ask(&server.kafka, &wire::produce(name, 0..1, &batch), wire::produced);
            written.map_err(during("write to a topic"))?;
        }
        server.stop().map_err(during("stop the server"))?;
        let server = Server::start(&data)?;
        let full = server.resident_bytes().map_err(during("read its memory"))?;
        rows.start.add(server.start_time.as_secs_f64(), None);
        rows.idle.add(per(full.saturating_sub(empty), IDLE_TOPICS) / 1024.0, None);
        Ok(())
    }
}

fn create(kafka: &str, topic: &str, partitions: i32) -> io::Result<()> {
    let segment_bytes = SEGMENT_BYTES.to_string();
    let request = wire::create(&[topic.to_owned()], partitions, ("segment.bytes", &segment_bytes));
    drive::ask(kafka, &request, wire::created)
}

/// Of times in order of length.
fn median(sorted: &[Duration]) -> Duration {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per(bytes: u64, by: usize) -> f64 {
    bytes as f64 / by.max(1) as f64
}
