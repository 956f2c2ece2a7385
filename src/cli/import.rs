//! `tlog import`: a disk image into the log of a vdisk.
//!
//! The blocks of an image, in order, are the same list each time: sequence `i` of a fresh vdisk is the `i`-th of them. So an
//! interrupted import goes on behind the last flushed sequence, and nothing else need be remembered.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::args::ImportArgs;
use super::failure::{Exit, Failure, file_failure};
use super::image::is_zero;
use super::progress::Progress;
use crate::client::{Config, TlogClient};
use crate::record::vdisk::{OPERATION_WRITE, OPERATION_ZERO};

/// Read at once.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Which blocks are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Zero blocks, too.
    all: bool,
    /// So many of them are in the log already.
    skip: u64,
}

/// One of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    index: i64,
    operation: u8,
    data: Bytes,
}

#[derive(Debug, Default)]
struct Totals {
    /// Of the list, skipped ones included.
    listed: u64,
    blocks: u64,
    zero_blocks: u64,
    bytes: u64,
}

pub(super) async fn run(args: ImportArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let (file, length) = open(&args.image)?;
    let give_up_after = (args.give_up_after > 0).then(|| Duration::from_secs(args.give_up_after));
    let config = Config { give_up_after, ..Config::default() };
    let (client, responses) = TlogClient::connect(&args.server, &args.vdisk, config).await?;
    // How far it is can be seen from the client itself.
    drop(responses);
    let plan = plan(&args, client.last_flushed_sequence())?;

    let mut progress = Progress::new("import", length);
    let again = |failure: Failure| Failure {
        message: format!("{}; go on later with --resume", failure.message),
        ..failure
    };
    let sent = send_all(&client, file, length, &args, plan, &mut progress).await;
    let totals = sent.map_err(|failure| if plan.all { failure } else { again(failure) })?;
    if totals.listed < plan.skip {
        return Err(Failure::new(
            Exit::Error,
            format!(
                "vdisk `{}` has {} records and this image only {} blocks to send: it is not an interrupted import of \
                 this image; --overwrite appends the image to the log",
                args.vdisk, plan.skip, totals.listed
            ),
        ));
    }
    progress.stage("shipping");
    let last = client.last_sequence();
    let flushed = async {
        client.force_flush_at(last).await?;
        client.wait_flushed(last).await
    };
    flushed.await.map_err(|error| again(error.into()))?;
    progress.finish();
    let reconnects = client.progress().borrow().reconnects;
    if let Err(error) = client.disconnect().await {
        tracing::debug!(%error, "no leave taken; everything is flushed");
    }
    println!(
        "imported {} as vdisk {}: {} blocks ({} bytes, {} as zeroes), last sequence {last}, {:.1} s, {reconnects} reconnects",
        args.image.display(),
        args.vdisk,
        totals.blocks,
        totals.bytes,
        totals.zero_blocks,
        started.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// The image and its length; of a block device, too.
fn open(path: &Path) -> Result<(Arc<File>, u64), Failure> {
    let mut file = File::open(path).map_err(file_failure("open", path))?;
    let length = file.seek(SeekFrom::End(0)).map_err(file_failure("read", path))?;
    if length == 0 {
        return Err(Failure::new(Exit::Error, format!("{} is empty", path.display())));
    }
    Ok((Arc::new(file), length))
}

fn plan(args: &ImportArgs, last_flushed: u64) -> Result<Plan, Failure> {
    match (last_flushed, args.resume, args.overwrite) {
        (_, _, true) => Ok(Plan { all: true, skip: 0 }),
        (0, ..) => Ok(Plan { all: false, skip: 0 }),
        (records, true, _) => Ok(Plan { all: false, skip: records }),
        (records, false, _) => Err(Failure::new(
            Exit::Error,
            format!(
                "vdisk `{}` has {records} records; --resume goes on with an interrupted import of the same image, \
                 --overwrite appends the image to the log",
                args.vdisk
            ),
        )),
    }
}

async fn send_all(
    client: &TlogClient,
    file: Arc<File>,
    length: u64,
    args: &ImportArgs,
    plan: Plan,
    progress: &mut Progress,
) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut at = 0;
    while at < length {
        let bytes = CHUNK_BYTES.min(usize::try_from(length - at).unwrap_or(CHUNK_BYTES));
        let reading = Arc::clone(&file);
        let chunk = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; bytes];
            reading.read_exact_at(&mut chunk, at).map(|()| chunk)
        });
        let chunk = chunk
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(file_failure("read", &args.image))?;
        for item in items(&chunk, at, length, args.block_size, plan.all) {
            totals.listed += 1;
            if totals.listed <= plan.skip {
                continue;
            }
            let zero = item.operation == OPERATION_ZERO;
            // The first block of a log fixes its block size by its length, which zeroes do not have.
            let data = if zero && totals.listed == 1 && client.last_sequence() == 0 {
                Bytes::from(vec![0; args.block_size])
            } else {
                item.data
            };
            let operation = if data.is_empty() { OPERATION_ZERO } else { OPERATION_WRITE };
            totals.blocks += 1;
            totals.bytes += data.len() as u64;
            totals.zero_blocks += u64::from(data.is_empty());
            client.send(operation, item.index, now_ns(), data).await?;
        }
        at += bytes as u64;
        progress.set(at);
    }
    Ok(totals)
}

/// The blocks of a chunk that begins at byte `at` and ends at a block's end or the image's. A last block that is shorter is
/// sent as it is, so that the log knows the exact length.
fn items(
    chunk: &[u8],
    at: u64,
    length: u64,
    block_size: usize,
    all: bool,
) -> impl Iterator<Item = Item> {
    let first = at / block_size as u64;
    chunk.chunks(block_size).zip(first..).filter_map(move |(block, index)| {
        let is_last = (index + 1).saturating_mul(block_size as u64) >= length;
        let zero = is_zero(block);
        if zero && !all && !is_last {
            return None;
        }
        let as_zeroes = zero && block.len() == block_size;
        // The chunk must not stay in memory for one block of it.
        let data = if as_zeroes { Bytes::new() } else { Bytes::copy_from_slice(block) };
        let operation = if as_zeroes { OPERATION_ZERO } else { OPERATION_WRITE };
        Some(Item { index: i64::try_from(index).unwrap_or(i64::MAX), operation, data })
    })
}

/// Nanoseconds since 1970, as the original's clients stamp.
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(image: &[u8], all: bool) -> Vec<(i64, u8, usize)> {
        items(image, 0, image.len() as u64, 4, all)
            .map(|item| (item.index, item.operation, item.data.len()))
            .collect()
    }

    #[test]
    fn blocks_that_are_not_zero_and_always_the_last_one() {
        let write = |index| (index, OPERATION_WRITE, 4);
        let zero = |index| (index, OPERATION_ZERO, 0);
        let image = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(list(&image, false), [write(1), zero(2)]);
        assert_eq!(list(&image, true), [zero(0), write(1), zero(2)]);
        assert_eq!(list(&image[..8], false), [write(1)]);
        assert_eq!(list(&[0; 8], false), [zero(1)]);
    }

    #[test]
    fn a_short_last_block_is_sent_as_it_is() {
        assert_eq!(list(&[1, 1, 1, 1, 0, 0], false), [(0, 1, 4), (1, 1, 2)]);
        assert_eq!(list(&[0, 0, 0, 0, 0, 5], false), [(1, 1, 2)]);
    }

    #[test]
    fn chunks_go_on_where_the_last_one_ended() {
        let image = [1, 1, 1, 1, 2, 2, 2, 2, 3];
        let second: Vec<_> = items(&image[4..], 4, 9, 4, false).map(|item| item.index).collect();
        assert_eq!(second, [1, 2]);
    }

    #[test]
    fn a_vdisk_with_records_needs_a_word() {
        let args = |resume, overwrite| ImportArgs {
            server: vec![],
            vdisk: "v".into(),
            block_size: 4096,
            resume,
            overwrite,
            give_up_after: 0,
            image: "i".into(),
        };
        assert_eq!(plan(&args(false, false), 0), Ok(Plan { all: false, skip: 0 }));
        assert_eq!(plan(&args(true, false), 7), Ok(Plan { all: false, skip: 7 }));
        assert_eq!(plan(&args(false, true), 7), Ok(Plan { all: true, skip: 0 }));
        assert!(plan(&args(false, false), 7).unwrap_err().message.contains("--resume"));
    }
}
