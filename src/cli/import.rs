//! `tlog import`: a disk image into the log of a vdisk.
//!
//! The blocks of an image, in order, are the same list each time: sequence `i` of a fresh vdisk is the `i`-th of them. So an
//! interrupted import goes on behind the last flushed sequence, and nothing else need be remembered. That the log holds
//! the beginning of this list, cut into blocks of this size, is made sure by comparing before anything is sent: no
//! handshake says what size of blocks a log was begun with, and blocks of another one would scramble the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::args::ImportArgs;
use super::failure::{Exit, Failure, file_failure};
use super::image::is_zero;
use super::output::{out, tell};
use super::progress::Progress;
use crate::client::{Config, Error, TlogClient};
use crate::record::vdisk::{OPERATION_WRITE, OPERATION_ZERO};

/// Read at once.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Of a block, unless given.
const BLOCK_BYTES: usize = 4096;

/// Of the blocks that the log should have, so many are compared with it: the last one, and others spread over all.
const COMPARED: u64 = 64;

/// How often is said what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Which blocks are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    block_size: usize,
    /// Zero blocks, too.
    all: bool,
    /// So many of them are in the log already.
    skip: u64,
}

impl Plan {
    /// Says with a failure how the work can be done after all.
    fn advise(self, failure: Failure) -> Failure {
        let block_size = self.block_size;
        let advice = if self.all {
            format!(
                "a part of the pass may be in the log: run it whole again with --overwrite --block-size {block_size}"
            )
        } else {
            format!("go on later with --resume --block-size {block_size}")
        };
        Failure { message: format!("{}; {advice}", failure.message), ..failure }
    }
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
    blocks: u64,
    zero_blocks: u64,
    bytes: u64,
}

pub(super) async fn run(args: ImportArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let (file, length) = open(&args.image)?;
    let (client, plan) = connect(&args).await?;
    let mut list = List::new(file, args.image.clone(), length, plan)?;
    let client = if plan.skip > 0 {
        // The comparison has a connection of its own, and a vdisk one writer.
        leave(client).await;
        compare(&args, plan, &mut list).await?;
        let (client, now) = connect(&args).await?;
        if now != plan {
            let message = format!("another client writes vdisk `{}`; stop it first", args.vdisk);
            return Err(Failure::new(Exit::Error, message));
        }
        client
    } else {
        client
    };

    let mut progress = Progress::new("import", length);
    let totals = send_all(&client, &mut list, &mut progress).await;
    let totals = totals.map_err(|failure| plan.advise(failure))?;
    progress.stage("shipping");
    let last = client.last_sequence();
    let flushed = async {
        client.force_flush_at(last).await?;
        client.wait_flushed(last).await
    };
    let flushed = aloud(&args, "to ship what was sent", flushed).await;
    flushed.map_err(|error| plan.advise(error.into()))?;
    progress.finish();
    let reconnects = client.progress().borrow().reconnects;
    leave(client).await;
    out(format_args!(
        "imported {} as vdisk {}: {} blocks ({} bytes, {} as zeroes), last sequence {last}, {:.1} s, {reconnects} reconnects",
        args.image.display(),
        args.vdisk,
        totals.blocks,
        totals.bytes,
        totals.zero_blocks,
        started.elapsed().as_secs_f64(),
    ));
    Ok(())
}

async fn connect(args: &ImportArgs) -> Result<(TlogClient, Plan), Failure> {
    let give_up_after = (args.give_up_after > 0).then(|| Duration::from_secs(args.give_up_after));
    let config = Config { give_up_after, ..Config::default() };
    let attach = TlogClient::connect(&args.server, &args.vdisk, config);
    let (client, responses) = aloud(args, "to take blocks", attach).await?;
    // How far it is can be seen from the client itself.
    drop(responses);
    let plan = plan(args, client.last_flushed_sequence())?;
    Ok((client, plan))
}

async fn leave(client: TlogClient) {
    if let Err(error) = client.disconnect().await {
        tracing::debug!(%error, "no leave taken; everything is flushed");
    }
}

/// Says now and then what is waited for: a server answers once the shard servers have what it has of the vdisk.
async fn aloud<T>(args: &ImportArgs, to: &str, what: impl Future<Output = T>) -> T {
    let mut what = std::pin::pin!(what);
    let since = Instant::now();
    loop {
        tokio::select! {
            done = &mut what => return done,
            () = tokio::time::sleep(SAY_EVERY) => {}
        }
        tell(format_args!(
            "import: waiting {} s for {} {to}: it may be away, or wait for its shard servers; its log and its /readyz say",
            since.elapsed().as_secs(),
            args.server.join(", ")
        ));
    }
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
    let vdisk = &args.vdisk;
    let block_size = args.block_size.unwrap_or(BLOCK_BYTES);
    match (last_flushed, args.resume, args.overwrite) {
        // A first pass, however it was asked for: so --resume can go on with it.
        (0, ..) => Ok(Plan { block_size, all: false, skip: 0 }),
        (_, _, true) if args.block_size.is_none() => Err(Failure::new(
            Exit::Usage,
            format!(
                "vdisk `{vdisk}` has records: --overwrite needs the --block-size that it was begun with ({BLOCK_BYTES} \
                 unless another was given then), for blocks of another size would come to lie elsewhere"
            ),
        )),
        (_, _, true) => Ok(Plan { block_size, all: true, skip: 0 }),
        (records, true, _) => Ok(Plan { block_size, all: false, skip: records }),
        (records, false, _) => Err(Failure::new(
            Exit::Error,
            format!(
                "vdisk `{vdisk}` has {records} records; --resume goes on with an interrupted import of the same image, \
                 --overwrite appends the image to the log"
            ),
        )),
    }
}

/// Takes what the log should have off the list and compares some of it with the log: an image, or a size of blocks, that is
/// another than that of the interrupted import must not be mixed with it.
async fn compare(args: &ImportArgs, plan: Plan, list: &mut List) -> Result<(), Failure> {
    let other = |why: String| {
        let Plan { block_size, skip, .. } = plan;
        Failure::new(
            Exit::Error,
            format!(
                "the {skip} records of vdisk `{}` are no interrupted import of this image in blocks of {block_size} \
                 bytes: {why}; give the --block-size that it was begun with; --overwrite appends the image to the log",
                args.vdisk
            ),
        )
    };
    let mut progress = Progress::new("looking for where to go on", list.length);
    let compared = COMPARED.min(plan.skip);
    let mut writes = Vec::new();
    while list.taken < plan.skip {
        let Some(item) = list.next().await? else {
            return Err(other(format!("it has only {} blocks to send", list.taken)));
        };
        if is_compared(list.taken, plan.skip, compared) {
            writes.push((list.taken, item.index, item.data));
        }
        progress.set(list.at);
    }
    progress.finish();
    let config = Config::default();
    match TlogClient::compare(&args.server, &args.vdisk, &config, writes).await {
        Ok(()) => Ok(()),
        Err(error @ Error::Differs { .. }) => Err(other(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Of `count` numbers from 1, `compared` are so, at equal distances; the last one is.
fn is_compared(number: u64, count: u64, compared: u64) -> bool {
    let upto = |number: u64| u128::from(number) * u128::from(compared) / u128::from(count);
    upto(number) > upto(number - 1)
}

async fn send_all(
    client: &TlogClient,
    list: &mut List,
    progress: &mut Progress,
) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    while let Some(Item { index, operation, data }) = list.next().await? {
        totals.blocks += 1;
        totals.bytes += data.len() as u64;
        totals.zero_blocks += u64::from(data.is_empty());
        client.send(operation, index, now_ns(), data).await?;
        progress.set(list.at);
    }
    Ok(totals)
}

/// What an image gives to send, in order, and how much of that was taken.
///
/// The first block of a log fixes its block size, by its length. So where the first one is shorter, or zeroes without data, a
/// whole block of zeroes goes before it, which is what the image begins with.
#[derive(Debug)]
struct List {
    file: Arc<File>,
    path: PathBuf,
    length: u64,
    block_size: usize,
    all: bool,
    /// So far read.
    at: u64,
    ready: VecDeque<Item>,
    taken: u64,
}

impl List {
    fn new(file: Arc<File>, path: PathBuf, length: u64, plan: Plan) -> Result<Self, Failure> {
        let Plan { block_size, all, .. } = plan;
        if length < block_size as u64 {
            let message = format!(
                "{} has {length} bytes, less than a block of {block_size}: give a smaller --block-size, or make it longer",
                path.display()
            );
            return Err(Failure::new(Exit::Error, message));
        }
        let ready = VecDeque::new();
        Ok(Self { file, path, length, block_size, all, at: 0, ready, taken: 0 })
    }

    async fn next(&mut self) -> Result<Option<Item>, Failure> {
        while self.ready.is_empty() && self.at < self.length {
            self.read().await?;
        }
        if let (0, false, Some(first)) = (self.taken, self.all, self.ready.front())
            && first.data.len() < self.block_size
        {
            let data = Bytes::from(vec![0; self.block_size]);
            self.ready.push_front(Item { index: 0, operation: OPERATION_WRITE, data });
        }
        let item = self.ready.pop_front();
        self.taken += u64::from(item.is_some());
        Ok(item)
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let (file, at) = (Arc::clone(&self.file), self.at);
        let bytes = CHUNK_BYTES.min(usize::try_from(self.length - at).unwrap_or(CHUNK_BYTES));
        let chunk = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; bytes];
            file.read_exact_at(&mut chunk, at).map(|()| chunk)
        });
        let chunk = chunk
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(file_failure("read", &self.path))?;
        self.ready.extend(items(&chunk, at, self.length, self.block_size, self.all));
        self.at += bytes as u64;
        Ok(())
    }
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

    fn args(resume: bool, overwrite: bool, block_size: Option<usize>) -> ImportArgs {
        ImportArgs {
            server: vec![],
            vdisk: "v".into(),
            block_size,
            resume,
            overwrite,
            give_up_after: 0,
            image: "i".into(),
        }
    }

    const FIRST: Plan = Plan { block_size: 4096, all: false, skip: 0 };

    #[test]
    fn a_vdisk_with_records_needs_a_word() {
        assert_eq!(plan(&args(false, false, None), 0), Ok(FIRST));
        assert_eq!(plan(&args(true, false, None), 7), Ok(Plan { skip: 7, ..FIRST }));
        assert_eq!(plan(&args(false, true, Some(4096)), 7), Ok(Plan { all: true, ..FIRST }));
        assert!(plan(&args(false, false, None), 7).unwrap_err().message.contains("--resume"));
    }

    #[test]
    fn to_overwrite_needs_the_block_size_and_on_an_empty_vdisk_can_be_resumed() {
        let refused = plan(&args(false, true, None), 7).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.message.contains("--block-size"), "{}", refused.message);
        assert_eq!(plan(&args(false, true, None), 0), Ok(FIRST));
    }

    #[test]
    fn an_interruption_is_answered_by_what_goes_on_with_it() {
        let advice = |plan: Plan| plan.advise(Failure::new(Exit::Error, "gone")).message;
        let plan = Plan { block_size: 65536, ..FIRST };
        assert!(advice(plan).contains("--resume --block-size 65536"));
        let all = advice(Plan { all: true, ..plan });
        assert!(
            !all.contains("--resume") && all.contains("--overwrite --block-size 65536"),
            "{all}"
        );
    }

    #[test]
    fn compared_are_the_last_block_and_others_spread_over_all() {
        let all = |count, compared| -> Vec<u64> {
            (1..=count).filter(|number| is_compared(*number, count, compared)).collect()
        };
        assert_eq!(all(10, 3), [4, 7, 10]);
        assert_eq!(all(3, 3), [1, 2, 3]);
        assert_eq!(all(1, 1), [1]);
        assert_eq!(all(1_000_000, COMPARED).len(), 64);
    }

    async fn whole_list(image: &[u8]) -> Result<Vec<(i64, u8, usize)>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, image).unwrap();
        let (file, length) = open(&path).unwrap();
        let mut list = List::new(file, path, length, Plan { block_size: 512, ..FIRST })?;
        let mut items = Vec::new();
        while let Some(item) = list.next().await.unwrap() {
            items.push((item.index, item.operation, item.data.len()));
        }
        assert_eq!((list.taken, list.at), (items.len() as u64, length));
        Ok(items)
    }

    #[tokio::test]
    async fn a_whole_block_comes_first_so_that_it_fixes_the_size() {
        let first = (0, OPERATION_WRITE, 512);
        let image = |written: std::ops::Range<usize>, length: usize| {
            let mut image = vec![0; length];
            image[written].fill(7);
            image
        };
        // Nothing but a short block at the end, which is a size of blocks as well.
        let short = whole_list(&image(1024..1280, 1280)).await.unwrap();
        assert_eq!(short, [first, (2, OPERATION_WRITE, 256)]);
        // Nothing but zeroes.
        let zeroes = whole_list(&image(0..0, 1024)).await.unwrap();
        assert_eq!(zeroes, [first, (1, OPERATION_ZERO, 0)]);
        // A whole one is the first anyway.
        let whole = whole_list(&image(512..1030, 1040)).await.unwrap();
        assert_eq!(whole, [(1, OPERATION_WRITE, 512), (2, OPERATION_WRITE, 16)]);
        let refused = whole_list(&image(0..0, 100)).await.unwrap_err();
        assert!(refused.message.contains("smaller --block-size"), "{}", refused.message);
    }
}
