//! `tlog bench`: how fast writes are, beside what this machine could at best do.
//!
//! A limit is measured next to each sample, in the same round and directory, so that a busy machine slows both: the lower one
//! of a stream over loopback and of write + fdatasync to a recycled file, in pieces of what one sync can cover.
//!
//! A second table (`reach`) sets the server beside bare programs that do the least that gives the same result. Its servers are
//! started here, for they are stopped and killed as well.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::args::{BenchArgs, Table};
use super::failure::{Exit, Failure, file_failure};
use super::output::{out, tell};
use crate::client::{Acks, Config, KafkaClient, Response, TlogClient, Window};
use crate::record::BatchBuilder;
use crate::record::vdisk::OPERATION_WRITE;

mod bare;
mod child;
mod drive;
mod limits;
mod reach;
mod table;
mod wire;

use child::Server;
use limits::Limits;
use reach::Sizes;
use table::{Pair, Row};

const BLOCK_BYTES: usize = 4096;
/// Of one round: received long before it is flushed, and small beside the memory of a machine that runs a server.
const INGEST_BLOCKS: usize = 16 * 1024;
const RECORD_BYTES: usize = 1024;
/// What one sync covers at best where writes need not wait for each other.
const GROUP_BYTES: usize = 1024 * 1024;

/// Connections and bytes of a batch.
const PRODUCE: [(usize, usize); 5] =
    [(1, 4 << 10), (8, 4 << 10), (1, 64 << 10), (1, 1 << 20), (4, 1 << 20)];

pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let dir = args.dir.join(format!("tlog-bench-{}", std::process::id()));
    std::fs::create_dir(&dir).map_err(file_failure("create", &dir))?;
    let outcome = measure(&args, &dir).await;
    let removed = std::fs::remove_dir_all(&dir).map_err(file_failure("remove", &dir));
    let (rows, pairs) = outcome?;
    if !rows.is_empty() {
        out(format_args!("{}", table::render(&rows, args.markdown)));
    }
    if !pairs.is_empty() {
        out(format_args!("{}", table::render_pairs(&pairs, args.markdown).trim_end()));
    }
    removed
}

async fn measure(
    args: &BenchArgs,
    dir: &std::path::Path,
) -> Result<(Vec<Row>, Vec<Pair>), Failure> {
    let limits = Limits::new(dir)?;
    let rows = if args.only == Some(Table::Reach) {
        Vec::new()
    } else {
        measure_paths(args, dir, &limits).await?
    };
    let given = args.broker.is_some() || args.server.is_some();
    if given || args.only == Some(Table::Paths) {
        return Ok((rows, Vec::new()));
    }
    let sizes = Sizes {
        bulk_bytes: args.bulk_mib.saturating_mul(1 << 20),
        fetch_bytes: args.fetch_mib.saturating_mul(1 << 20),
    };
    let pairs = reach::measure(dir, &limits, args.rounds, sizes, &args.figures).await?;
    Ok((rows, pairs))
}

async fn measure_paths(
    args: &BenchArgs,
    dir: &std::path::Path,
    limits: &Limits,
) -> Result<Vec<Row>, Failure> {
    let own = match (&args.broker, &args.server) {
        (None, None) => Some(Server::start(&dir.join("data"))?),
        _ => None,
    };
    let broker = args.broker.clone().or_else(|| own.as_ref().map(|own| own.kafka.clone()));
    let server = args.server.clone().or_else(|| own.as_ref().map(|own| own.tlog.clone()));
    let time = Duration::from_secs(args.seconds);
    let mut rows = Vec::new();
    if broker.is_some() {
        for (connections, bytes) in PRODUCE {
            let plural = if connections == 1 { "" } else { "s" };
            let kib = bytes >> 10;
            rows.push(Row::new(format!(
                "produce acks=all, {kib} KiB batches, {connections} connection{plural}"
            )));
        }
    }
    if server.is_some() {
        rows.push(Row::new("TLog ingest, 4 KiB blocks, until received".to_owned()));
        rows.push(Row::new("TLog ingest, 4 KiB blocks, until flushed".to_owned()));
    }
    for round in 0..args.rounds {
        let mut row = rows.iter_mut();
        if let Some(broker) = &broker {
            let topic = format!("bench-{}", std::process::id());
            KafkaClient::connect(broker).await?.ensure_topic(&topic).await?;
            for ((connections, bytes), row) in PRODUCE.into_iter().zip(&mut row) {
                tell(format_args!("round {} of {}: {}", round + 1, args.rounds, row.name));
                let limit = limits.measure(bytes, connections * bytes).await?;
                let rate = produce(broker, &topic, connections, bytes, time).await?;
                row.add(rate, limit);
            }
        }
        if let (Some(server), Some(received), Some(flushed)) = (&server, row.next(), row.next()) {
            tell(format_args!("round {} of {}: {}", round + 1, args.rounds, received.name));
            let limit = limits.measure(BLOCK_BYTES, GROUP_BYTES).await?;
            let vdisk = format!("bench-{}-{round}", std::process::id());
            let (received_rate, flushed_rate) = ingest(server, &vdisk).await?;
            received.add(received_rate, limit);
            flushed.add(flushed_rate, limit);
        }
    }
    Ok(rows)
}

/// Bytes per second over several connections, each with one batch under way.
async fn produce(
    broker: &str,
    topic: &str,
    connections: usize,
    bytes: usize,
    time: Duration,
) -> Result<f64, Failure> {
    let batch = batch(bytes);
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(KafkaClient::connect(broker).await?);
    }
    let started = Instant::now();
    let produced = clients.into_iter().map(|mut client| {
        let batch = batch.clone();
        async move {
            let mut count = 0_usize;
            while started.elapsed() < time {
                client.produce(topic, 0, batch.clone(), Acks::All).await?;
                count += 1;
            }
            Ok::<_, Failure>(count)
        }
    });
    let counts = futures_util::future::try_join_all(produced).await?;
    Ok(rate(counts.iter().sum::<usize>() * batch.len(), started.elapsed()))
}

/// Bytes per second of a vdisk of its own: until all blocks are received, and until all are flushed.
async fn ingest(server: &str, vdisk: &str) -> Result<(f64, f64), Failure> {
    let window = Window { blocks: 2 * INGEST_BLOCKS, bytes: 2 * INGEST_BLOCKS * BLOCK_BYTES };
    let config = Config {
        window,
        resend_after: Duration::from_secs(60),
        give_up_after: Some(Duration::from_secs(30)),
        ..Config::default()
    };
    let (client, mut responses) = TlogClient::connect(&[server.to_owned()], vdisk, config).await?;
    let data = noise(BLOCK_BYTES * 64);
    let blocks: Vec<Bytes> = data.chunks(BLOCK_BYTES).map(Bytes::copy_from_slice).collect();
    let started = Instant::now();
    let send = async {
        for (index, data) in (0..INGEST_BLOCKS).zip(blocks.iter().cycle()) {
            let index = i64::try_from(index).unwrap_or(0);
            client.send(OPERATION_WRITE, index, 0, data.clone()).await?;
        }
        Ok::<_, Failure>(())
    };
    let receive = async {
        let mut highest = 0;
        while highest < INGEST_BLOCKS as u64 {
            match responses.recv().await {
                Some(Response::Received(sequence)) => highest = highest.max(sequence),
                Some(_) => {}
                None => {
                    return Err(Failure::new(Exit::Error, "the connection to the server ended"));
                }
            }
        }
        Ok(started.elapsed())
    };
    let ((), received) = futures_util::future::try_join(send, receive).await?;
    drop(responses);
    let last = client.last_sequence();
    client.force_flush_at(last).await?;
    client.wait_flushed(last).await?;
    let flushed = started.elapsed();
    client.disconnect().await?;
    let bytes = INGEST_BLOCKS * BLOCK_BYTES;
    Ok((rate(bytes, received), rate(bytes, flushed)))
}

/// A batch of so many bytes, or a few less, whose content does not compress.
fn batch(bytes: usize) -> Bytes {
    /// What a record takes beside its value, at most.
    const FRAMING: usize = 24;
    let record = RECORD_BYTES.min(bytes / 2);
    let data = noise(bytes);
    let mut builder = BatchBuilder::new(1_700_000_000_000);
    for value in data.chunks(record) {
        let room = bytes.saturating_sub(builder.bytes() + FRAMING);
        if room == 0 {
            break;
        }
        builder.push(1_700_000_000_000, None, value.get(..room.min(value.len())), &[]);
    }
    builder.build().into()
}

/// Bytes of a fixed pseudo-random sequence (xorshift64).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    data.truncate(bytes);
    data
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::check_batch;

    #[test]
    fn batches_have_the_size_that_they_are_named_after() {
        for (_, bytes) in PRODUCE {
            let batch = batch(bytes);
            check_batch(&batch).unwrap();
            assert!(batch.len() <= bytes && batch.len() + 64 > bytes, "{} of {bytes}", batch.len());
        }
    }
}
