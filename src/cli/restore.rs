//! `tlog restore`: a disk image from the log of a vdisk.

use std::io;
use std::time::Instant;

use super::args::RestoreArgs;
use super::failure::{Exit, Failure};
use super::image::{Image, check_free};
use super::progress::Progress;
use super::source::Source;
use crate::client::{BlockTarget, Limit, PlayError, Played, Player, RunTracker};
use crate::record::vdisk::NotABlock;

pub(super) async fn run(args: RestoreArgs) -> Result<(), Failure> {
    let started = Instant::now();
    check_free(&args.out, args.force)?;
    let mut source = open(&args).await?;
    let limit = limit(&args, &mut source).await?;
    let mut image = Image::create(&args.out)?;
    let records = u64::try_from(source.end - source.start).unwrap_or(0);
    let progress = Progress::new("restore", records.saturating_mul(4096));
    let (player, played) =
        play(&mut source, limit, &mut image, progress).await.map_err(|failure| {
            failure.context(&format!("{} is not whole", image.partial().display()))
        })?;

    let counts = player.counts();
    let size = args.size.unwrap_or(counts.end);
    if size < counts.end {
        let message = format!("the log writes up to byte {}: --size must not be less", counts.end);
        return Err(Failure::new(Exit::Error, message));
    }
    image.finish(size)?;
    println!(
        "restored {}: {size} bytes from {} records ({} writes, {} zeroings), offsets {} to {}, {:.1} s",
        args.out.display(),
        counts.records,
        counts.writes,
        counts.zeroes,
        source.start,
        player.next_offset() - 1,
        started.elapsed().as_secs_f64(),
    );
    if counts.unknown_operations > 0 {
        println!("{} writes have an unknown operation number", counts.unknown_operations);
    }
    match played {
        Played::Stopped { offset, timestamp_ms } => {
            println!("stopped before offset {offset}, written at {timestamp_ms} ms since 1970");
        }
        Played::Upto(offset) if limit != Limit::None => {
            println!("the log ends before the bound, at offset {}", offset - 1);
        }
        Played::Upto(_) => {}
    }
    Ok(())
}

async fn open(args: &RestoreArgs) -> Result<Source, Failure> {
    match &args.broker {
        Some(broker) => Source::broker(broker, &args.vdisk).await,
        None => Source::shards(&args.storage, &args.vdisk).await,
    }
}

/// The bound that the arguments give. Which run is the last one is known only at the end of the log.
async fn limit(args: &RestoreArgs, source: &mut Source) -> Result<Limit, Failure> {
    if let Some(last) = args.until_offset {
        if last < source.start {
            let message =
                format!("offset {last} is not in the log, which starts at {}", source.start);
            return Err(Failure::new(Exit::NotFound, message));
        }
        return Ok(Limit::Offset(last));
    }
    if let Some(ms) = args.until_time {
        return Ok(Limit::Time(ms));
    }
    let Some(last) = args.until_sequence else { return Ok(Limit::None) };
    let run = match args.run {
        Some(run) => run,
        None => last_run(source).await?.current().map_or(1, |start| start.run),
    };
    Ok(Limit::Sequence { run, last })
}

async fn last_run(source: &mut Source) -> Result<RunTracker, Failure> {
    let records = u64::try_from(source.end - source.start).unwrap_or(0);
    let progress = Progress::new("looking for the last run", records.saturating_mul(4096));
    let (player, _) = play(source, Limit::None, &mut Nowhere, progress).await?;
    Ok(player.runs().clone())
}

/// Plays the whole source, or up to the limit.
async fn play(
    source: &mut Source,
    limit: Limit,
    target: &mut dyn BlockTarget,
    mut progress: Progress,
) -> Result<(Player, Played), Failure> {
    let mut player = Player::new(source.start, limit);
    let mut played = Played::Upto(source.start);
    let first = source.start;
    while player.next_offset() < source.end && matches!(played, Played::Upto(_)) {
        let batches = source.read(player.next_offset()).await?;
        let step = tokio::task::block_in_place(|| player.play(&batches, target));
        played = step.map_err(|error| play_failure(error, first))?;
        let done = u64::try_from(player.next_offset() - first).unwrap_or(0);
        progress.set(done.saturating_mul(4096));
    }
    progress.finish();
    Ok((player, played))
}

fn play_failure(error: PlayError, first: i64) -> Failure {
    match &error {
        PlayError::NotABlock { offset, source: NotABlock::Key { .. } } if *offset == first => {
            Failure::of(Exit::Error, &error).context("the topic is no vdisk")
        }
        _ => error.into(),
    }
}

/// Where a log is played only to look at it.
struct Nowhere;

impl BlockTarget for Nowhere {
    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
