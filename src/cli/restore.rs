//! `tlog restore`: a disk image from the log of a vdisk.

use std::io;
use std::time::Instant;

use super::args::RestoreArgs;
use super::failure::{Exit, Failure};
use super::image::{Image, check_free};
use super::output::out;
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
        play(&mut source, limit, args.size, &mut image, progress).await.map_err(|failure| {
            failure.context(&format!("{} is not whole", image.partial().display()))
        })?;
    if let Err(failure) = check_met(&player, limit, args.size) {
        image.discard()?;
        return Err(failure);
    }

    let counts = player.counts();
    let size = args.size.unwrap_or(counts.end);
    image.finish(size)?;
    out(format_args!(
        "restored {}: {size} bytes from {} records ({} writes, {} zeroings), offsets {} to {}, {:.1} s",
        args.out.display(),
        counts.records,
        counts.writes,
        counts.zeroes,
        source.start,
        player.next_offset() - 1,
        started.elapsed().as_secs_f64(),
    ));
    if counts.unknown_operations > 0 {
        out(format_args!("{} writes have an unknown operation number", counts.unknown_operations));
    }
    match played {
        Played::Stopped { offset, timestamp_ms } => {
            out(format_args!(
                "stopped before offset {offset}, written at {timestamp_ms} ms since 1970"
            ));
        }
        Played::Upto(offset) if limit != Limit::None => {
            out(format_args!("the log ends before the bound, at offset {}", offset - 1));
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

/// An image of nothing, or of what never was, must not take the place of a good one.
fn check_met(player: &Player, limit: Limit, size: Option<u64>) -> Result<(), Failure> {
    let compacted = player.counts().compacted;
    if limit != Limit::None && compacted > 0 {
        let message = format!(
            "nothing is restored: the topic is compacted, {compacted} records below the bound are gone, and so is what the disk held then: restore it without a bound, as it is now"
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let none = player.counts().records == 0;
    let why = match limit {
        Limit::None if none && size.is_none() => {
            "the log has no record; --size makes an image of zeroes".to_owned()
        }
        Limit::Sequence { run, last } => match player.runs().current() {
            Some(now) if now.run < run => {
                format!("there is no run {run}, the last one is {}", now.run)
            }
            // The first record of this run is beyond the bound already.
            Some(now) if now.run == run && now.offset >= player.next_offset() => {
                format!("run {run} begins with sequence {}, after {last}", now.sequence)
            }
            None => format!("the log has no record, and so no run {run}"),
            Some(_) => return Ok(()),
        },
        Limit::Offset(last) if none => format!("the log has no record up to offset {last}"),
        Limit::Time(_) if none => "the log has no record so early".to_owned(),
        Limit::None | Limit::Offset(_) | Limit::Time(_) => return Ok(()),
    };
    Err(Failure::new(Exit::NotFound, format!("nothing is restored: {why}")))
}

async fn last_run(source: &mut Source) -> Result<RunTracker, Failure> {
    let records = u64::try_from(source.end - source.start).unwrap_or(0);
    let progress = Progress::new("looking for the last run", records.saturating_mul(4096));
    let (player, _) = play(source, Limit::None, None, &mut Nowhere, progress).await?;
    Ok(player.runs().clone())
}

/// Plays the whole source, or up to the limit, as long as nothing lies beyond `size`.
async fn play(
    source: &mut Source,
    limit: Limit,
    size: Option<u64>,
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
        check_size(&player, size)?;
        let done = u64::try_from(player.next_offset() - first).unwrap_or(0);
        progress.set(done.saturating_mul(4096));
    }
    progress.finish();
    Ok((player, played))
}

fn check_size(player: &Player, size: Option<u64>) -> Result<(), Failure> {
    let end = player.counts().end;
    match size {
        Some(size) if size < end => {
            let message =
                format!("the log writes up to byte {end} at least: --size must not be less");
            Err(Failure::new(Exit::Error, message))
        }
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::vdisk::{Block, OPERATION_WRITE, Place, push_block};
    use crate::record::{BatchBuilder, assign};
    use crate::types::LeaderEpoch;

    /// Plays blocks of these sequences, at offsets from 100 on, each written at its offset in ms.
    fn played(sequences: &[u64], limit: Limit) -> Player {
        let mut player = Player::new(100, limit);
        for (offset, sequence) in (100..).zip(sequences) {
            let data = Bytes::from_static(&[7; 512]);
            let hash = blake2b_simd::Params::new().hash_length(32).hash(&data);
            let block = Block {
                sequence: *sequence,
                place: Place::Index(1),
                operation: OPERATION_WRITE,
                hash: hash.as_bytes().try_into().unwrap(),
                timestamp: 0,
                data,
            };
            let mut builder = BatchBuilder::new(offset);
            push_block(&mut builder, &block, 512, offset).unwrap();
            let mut batch = builder.build();
            assign(&mut batch, offset, LeaderEpoch(0));
            player.play(&batch, &mut Nowhere).unwrap();
        }
        player
    }

    fn refusal(sequences: &[u64], limit: Limit) -> Option<String> {
        let failure = check_met(&played(sequences, limit), limit, None).err()?;
        assert_eq!(failure.exit, Exit::NotFound);
        Some(failure.message)
    }

    #[test]
    fn a_bound_before_the_first_record_restores_nothing() {
        let sequences = [100, 101];
        assert!(refusal(&sequences, Limit::Time(99)).unwrap().contains("so early"));
        assert_eq!(refusal(&sequences, Limit::Time(100)), None);
        let sequence = |run, last| Limit::Sequence { run, last };
        assert!(refusal(&sequences, sequence(1, 5)).unwrap().contains("begins with sequence 100"));
        assert_eq!(refusal(&sequences, sequence(1, 100)), None);
        assert_eq!(refusal(&sequences, sequence(1, 999)), None);
        assert!(refusal(&[], Limit::Offset(7)).unwrap().contains("offset 7"));
        assert!(refusal(&[], sequence(1, 1)).unwrap().contains("no record"));
    }

    #[test]
    fn a_run_that_the_log_does_not_have_restores_nothing() {
        let sequences = [1, 2, 3, 1, 2];
        let sequence = |run, last| Limit::Sequence { run, last };
        assert!(refusal(&sequences, sequence(9, 5)).unwrap().contains("the last one is 2"));
        assert!(refusal(&sequences, sequence(2, 0)).unwrap().contains("begins with sequence 1"));
        assert_eq!(refusal(&sequences, sequence(2, 1)), None);
        assert_eq!(refusal(&sequences, sequence(1, 2)), None);
        assert_eq!(refusal(&sequences, sequence(1, 9)), None, "its end is before the bound");
    }

    #[test]
    fn a_compacted_log_is_restored_as_it_is_now_alone() {
        let mut player = played(&[1, 2], Limit::None);
        player.play(&crate::record::gap(102, 105, 0), &mut Nowhere).unwrap();
        check_met(&player, Limit::None, None).unwrap();
        let failure = check_met(&player, Limit::Time(200), None).unwrap_err();
        assert!(failure.message.contains("3 records"), "{}", failure.message);
    }

    #[test]
    fn an_empty_log_is_restored_only_to_a_size() {
        let player = played(&[], Limit::None);
        assert_eq!(check_met(&player, Limit::None, None).unwrap_err().exit, Exit::NotFound);
        check_met(&player, Limit::None, Some(1 << 20)).unwrap();
        check_met(&played(&[1], Limit::None), Limit::None, None).unwrap();
    }

    #[test]
    fn a_size_that_is_too_small_is_seen_at_the_first_write_beyond() {
        let player = played(&[1], Limit::None);
        check_size(&player, Some(1024)).unwrap();
        check_size(&player, None).unwrap();
        assert!(check_size(&player, Some(1023)).unwrap_err().message.contains("byte 1024"));
    }
}
