//! `tlog verify`: reads everything and names what is damaged. Writes nothing.

use std::time::Instant;

use super::args::VerifyArgs;
use super::failure::{Exit, Failure};
use super::progress::Progress;
use super::shards::Shards;
use crate::disk::FileDisk;
use crate::inspect::{InspectError, Report, check_data_dir};
use crate::tier::{FetchError, TopicInfo};
use crate::types::TopicPartition;

/// Read at once.
const READ_BYTES: usize = 16 * 1024 * 1024;

pub(super) async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let damage = match &args.data_dir {
        Some(dir) => {
            let report = tokio::task::block_in_place(|| data_dir(dir))?;
            println!(
                "{}: {} commits, {} partitions, {} batches ({} bytes)",
                dir.display(),
                report.commits,
                report.partitions,
                report.batches,
                report.bytes
            );
            for torn in &report.torn {
                println!("torn end, mended by the next start: {torn}");
            }
            report.damage
        }
        None => shards(&args).await?,
    };
    for line in &damage {
        println!("damaged: {line}");
    }
    if damage.is_empty() {
        println!("no damage found");
        return Ok(());
    }
    Err(Failure::new(Exit::Damaged, format!("{} damaged places", damage.len())))
}

fn data_dir(dir: &std::path::Path) -> Result<Report, Failure> {
    let mut progress = Progress::new("verify", 0);
    let mut done = 0;
    let report = check_data_dir(&FileDisk, dir, &mut |bytes| {
        done += bytes;
        progress.set(done);
    });
    progress.finish();
    report.map_err(|error| {
        let exit = match &error {
            InspectError::NotADataDir { .. } => Exit::NotFound,
            InspectError::Locked { .. } => Exit::Locked,
            InspectError::Io { .. } => Exit::Error,
        };
        Failure::of(exit, &error)
    })
}

/// Opens every fragment of every topic. A read takes k sound shards of each and checks seals, chain and batches.
async fn shards(args: &VerifyArgs) -> Result<Vec<String>, Failure> {
    let started = Instant::now();
    let shards = Shards::open(&args.storage).await?;
    let (mut damage, mut records, mut bytes) = (Vec::new(), 0_i64, 0_u64);
    let mut progress = Progress::new("verify", 0);
    for topic in shards.topics() {
        let name = &topic.record.name;
        let info = TopicInfo { record: topic.record.clone(), vdisk: false };
        for (index, partition) in (0..).zip(&topic.partitions) {
            let reader =
                shards.reader(&info, TopicPartition { topic: info.record.id, partition: index });
            for (first, last) in &partition.lost {
                damage.push(format!("{name}-{index}: offsets {first} to {last} are lost"));
            }
            let mut next = partition.log_start;
            while next < partition.shipped {
                match reader.read(next, partition.shipped, READ_BYTES).await {
                    Ok(batches) => {
                        let end = end_of(&batches).filter(|end| *end > next);
                        let Some(end) = end else {
                            damage.push(format!("{name}-{index}: nothing at offset {next}"));
                            break;
                        };
                        records += end - next;
                        bytes += batches.len() as u64;
                        next = end;
                        progress.set(bytes);
                    }
                    Err(FetchError::Damaged { first, last, what }) => {
                        let known =
                            partition.lost.iter().any(|(from, to)| *from <= first && last <= *to);
                        if !known {
                            damage
                                .push(format!("{name}-{index}: offsets {first} to {last}: {what}"));
                        }
                        next = next.max(last).saturating_add(1);
                    }
                    Err(error @ FetchError::Unavailable { .. }) => {
                        return Err(shards.explain(error.into()));
                    }
                }
            }
        }
    }
    progress.finish();
    println!(
        "{} topics, {records} records ({bytes} bytes) opened from shards, {:.1} s",
        shards.topics().len(),
        started.elapsed().as_secs_f64()
    );
    for why in shards.silent() {
        println!("without {why}");
    }
    Ok(damage)
}

/// The offset after the last of these batches.
fn end_of(batches: &[u8]) -> Option<i64> {
    let last = crate::record::Batches::new(batches).last()?;
    last.ok().map(|(header, _)| header.next_offset())
}
