//! The way of the README, whole: a disk goes in over TLog, is read over Kafka, and comes back from its shards.
//!
//! ```text
//!   disk.img -- tlog import --> server --> six directories, or six redis servers
//!                                ^ |            | two of them are lost, and the server with its data
//!         SIGKILL, again and again | kcat       +--> tlog restore           == disk.img
//!                                                +--> a fresh server --> tlog restore, kcat
//! ```
//!
//! `TLOG_TEST_SEED` repeats a run's choices. `TLOG_SERVER_BIN` names a release build, which gets a fuller disk
//! than a debug one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use compat_tests::kafka::{Fields, KafkaSocket};
use compat_tests::{
    DiskImage, Random, Redis, Server, Tool, run_up_to, temporary_dir, tlog_command, wait_up_to,
};

/// The vdisk.
const VDISK: &str = "my-disk";
/// The size of the image.
const IMAGE_MIB: u64 = 256;
/// How much of it are generated files; less for a debug build, which encrypts a hundred times slower.
const CONTENT_BYTES: u64 = 100 << 20;
const DEBUG_CONTENT_BYTES: u64 = 8 << 20;
/// How often the server is killed during an import, at least.
const KILLS: u64 = 5;
/// Longest time of an import or a restore: debug builds on busy machines are slow.
const TRANSFER: Duration = Duration::from_secs(600);
/// A server that has its data asks nobody before it serves: this long, on a busy machine, from start to ready.
const READY_ALONE: Duration = Duration::from_secs(5);
const SHARDS: usize = 6;

fn content_bytes() -> u64 {
    let is_release = !cfg!(debug_assertions) || std::env::var_os("TLOG_SERVER_BIN").is_some();
    if is_release { CONTENT_BYTES } else { DEBUG_CONTENT_BYTES }
}

/// One large transfer at a time: their figures are printed, and kills shall meet an import that is under way.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the shards lie.
enum Storage {
    Directories { base: PathBuf },
    Redis { servers: Vec<Redis>, key_file: PathBuf },
}

impl Storage {
    fn directories(dir: &Path) -> Self {
        Self::Directories { base: dir.join("shards") }
    }

    fn redis(dir: &Path, random: &mut Random) -> Result<Self> {
        let key_file = dir.join("key");
        let digits: String = random.bytes(32).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&key_file, digits + "\n")?;
        Ok(Self::Redis { servers: Redis::start_many(dir, SHARDS)?, key_file })
    }

    /// Options of the server (one dash) or of `tlog` (two).
    fn options(&self, dashes: &str) -> Vec<String> {
        match self {
            Self::Directories { base } => vec![format!("{dashes}storage-dir={}", base.display())],
            Self::Redis { servers, key_file } => {
                let addresses: Vec<String> = servers.iter().map(Redis::address).collect();
                vec![
                    format!("{dashes}storage-addresses={}", addresses.join(",")),
                    format!("{dashes}priv-key=@{}", key_file.display()),
                ]
            }
        }
    }

    /// Starts a server over it.
    fn server(&self, data_dir: &Path) -> Result<Server> {
        let options = self.options("-");
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Server::start(data_dir, &options)
    }

    /// A shard server is gone with all that it had.
    fn lose(&mut self, index: usize) -> Result<()> {
        match self {
            Self::Directories { base } => {
                Ok(std::fs::remove_dir_all(base.join(index.to_string()))?)
            }
            Self::Redis { servers, .. } => servers[index].lose(),
        }
    }

    /// An empty one stands in its place. The server makes directories by itself.
    fn replace(&mut self, index: usize) -> Result<()> {
        match self {
            Self::Directories { .. } => Ok(()),
            Self::Redis { servers, .. } => servers[index].restart(),
        }
    }
}

/// `tlog` on its way in a thread.
struct Transfer {
    thread: JoinHandle<Result<Output>>,
    since: Instant,
}

impl Transfer {
    fn start(mut command: Command) -> Self {
        let thread = thread::spawn(move || run_up_to(TRANSFER, &mut command, b""));
        Self { thread, since: Instant::now() }
    }

    fn import(server: &mut Server, image: &Path, options: &[&str]) -> Result<Self> {
        let mut command = tlog_command()?;
        command.args(["import", "--vdisk", VDISK, "--server", &server.address("tlog")?]);
        command.args(options).arg(image);
        Ok(Self::start(command))
    }

    fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// What it said, after it ended with code 0.
    fn finish(self) -> Result<(String, Duration)> {
        let output = self.thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        Ok((String::from_utf8(output.stdout)?, self.since.elapsed()))
    }
}

/// The end of the vdisk's log, what is not durable not counted; none while nobody answers or there is no vdisk.
fn end_offset(server: &mut Server) -> Result<Option<u64>> {
    const LIST_OFFSETS: i16 = 2;
    const LATEST: i64 = -1;
    let body = Fields::new().i32(-1).i32(1).text(VDISK).i32(1).i32(0).i64(LATEST).done();
    let Ok(answer) = KafkaSocket::connect(&server.address("kafka")?)
        .and_then(|mut socket| socket.ask(LIST_OFFSETS, 1, &body))
    else {
        return Ok(None);
    };
    // The answer ends with the partition's code, a timestamp and the offset.
    let (_, code) = answer.split_at(answer.len().saturating_sub(18));
    if code.get(..2) != Some(&[0, 0]) {
        return Ok(None);
    }
    let offset = answer.last_chunk().context("an answer has an offset")?;
    Ok(u64::try_from(i64::from_be_bytes(*offset)).ok())
}

/// Nothing that a server logs here is an error.
fn check_log(server: &Server) -> Result<()> {
    let log = server.log();
    let bad: Vec<&String> = log
        .iter()
        .filter(|line| line.contains(" ERROR ") || line.to_lowercase().contains("panic"))
        .collect();
    ensure!(bad.is_empty(), "the log has errors: {bad:#?}");
    Ok(())
}

/// Kills the server [`KILLS`] times and more while the import runs, each time once a random part of `records` is in, and
/// starts it again. Gives the number of kills and the most memory that a server had.
fn kill_during(
    import: &Transfer,
    server: &mut Server,
    records: u64,
    random: &mut Random,
) -> Result<(u64, u64)> {
    let (mut kills, mut memory) = (0, 0);
    let mut kill = |server: &mut Server| -> Result<()> {
        ensure!(import.is_running(), "the import ended before kill {}", kills + 1);
        memory = memory.max(server.peak_memory()?);
        check_log(server)?;
        server.kill()?;
        kills += 1;
        server.respawn()
    };
    for part in 0..KILLS {
        // The parts leave a seventh: the last kill meets an import that is not done.
        let share = records / (KILLS + 2);
        let at = part * share + random.below(share);
        wait_up_to(TRANSFER, &format!("record {at} of {records}"), || {
            ensure!(import.is_running(), "the import ended before record {at} was there");
            Ok(end_offset(server)?.filter(|end| *end > at))
        })?;
        thread::sleep(Duration::from_millis(random.below(20)));
        kill(server)?;
        if part % 2 == 1 {
            // And in the midst of its recovery, or just behind it.
            thread::sleep(Duration::from_millis(random.below(100)));
            kill(server)?;
        }
        server.wait_ready()?;
    }
    Ok((kills, memory))
}

/// kcat reads the whole vdisk: as many records as there are blocks to keep, at offsets from 1 without a gap, each with its
/// place as key and a block as value, and a null where the disk ends in zeroes.
fn check_with_kcat(server: &mut Server, image: &DiskImage) -> Result<Duration> {
    let since = Instant::now();
    let mut kcat = Tool::Kcat.command()?;
    kcat.args(["-C", "-q", "-e", "-t", VDISK, "-f", "%o %K %S\n", "-b", &server.bootstrap()?]);
    let read = run_up_to(TRANSFER, &mut kcat, b"")?;
    let lines = String::from_utf8(read.stdout)?;
    let mut count = 0;
    for line in lines.lines() {
        count += 1;
        let last = count == image.records();
        let size = match (last && image.ends_in_zeroes, last && !image.bytes.is_multiple_of(4096)) {
            (true, _) => "-1".to_owned(),
            (_, true) => (image.bytes % 4096).to_string(),
            _ => "4096".to_owned(),
        };
        let expected = format!("{count} 8 {size}");
        ensure!(line == expected, "kcat read `{line}` where `{expected}` must be");
    }
    ensure!(count == image.records(), "kcat read {count} records of {}", image.records());
    Ok(since.elapsed())
}

/// Restores the vdisk from where `options` say, and compares it.
fn restore(image: &DiskImage, dir: &Path, options: &[String]) -> Result<Duration> {
    let out = dir.join("restored.img");
    let mut command = tlog_command()?;
    command.args(["restore", "--vdisk", VDISK]).args(options).arg(&out);
    let (said, took) = Transfer::start(command).finish()?;
    println!("{}", said.trim());
    let restored = DiskImage::of(&out)?;
    ensure!(restored.sha256 == image.sha256, "the restored disk differs: {options:?}");
    restored.check()?;
    std::fs::remove_file(&out)?;
    Ok(took)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(image: &DiskImage, took: Duration) -> String {
    let megabytes = (image.written_blocks * 4096) as f64 / 1e6;
    format!("{:.1} s, {:.0} MB/s", took.as_secs_f64(), megabytes / took.as_secs_f64())
}

/// The whole way over some storage.
fn demonstration(dir: &Path, storage: &mut Storage, random: &mut Random) -> Result<()> {
    let image = DiskImage::ext4(dir, IMAGE_MIB, content_bytes(), random)?;
    image.check().context("the image itself")?;
    let data_dir = dir.join("data");
    let mut server = storage.server(&data_dir)?;

    let import = Transfer::import(&mut server, &image.path, &[])?;
    let (kills, memory) = kill_during(&import, &mut server, image.records(), random)?;
    let (said, took) = import.finish()?;
    let memory = memory.max(server.peak_memory()?);
    println!("{}", said.trim());
    println!(
        "import: {}, {kills} kills, server at most {} MB",
        rate(&image, took),
        memory / 1_000_000
    );
    ensure!(said.contains(&format!("last sequence {},", image.records())), "it said: {said}");
    println!("kcat: {}", rate(&image, check_with_kcat(&mut server, &image)?));
    check_log(&server)?;
    ensure!(server.terminate()?.code() == Some(0), "a stop ends with 0");

    std::fs::remove_dir_all(&data_dir)?;
    let first = random.index(SHARDS);
    let second = (first + 1 + random.index(SHARDS - 1)) % SHARDS;
    println!("shard servers {first} and {second} are lost");
    for lost in [first, second] {
        storage.lose(lost)?;
    }
    let took = restore(&image, dir, &storage.options("--"))?;
    println!("restore from shards: {}", rate(&image, took));

    for lost in [first, second] {
        storage.replace(lost)?;
    }
    let since = Instant::now();
    let mut fresh = storage.server(&dir.join("fresh"))?;
    println!("rebuilt: {:.1} s until ready", since.elapsed().as_secs_f64());
    let broker = format!("--broker={}", fresh.bootstrap()?);
    let took = restore(&image, dir, &[broker])?;
    println!("restore from a rebuilt server: {}", rate(&image, took));
    println!("kcat: {}", rate(&image, check_with_kcat(&mut fresh, &image)?));
    println!("rebuilt server at most {} MB", fresh.peak_memory()? / 1_000_000);
    check_log(&fresh)?;
    ensure!(fresh.terminate()?.code() == Some(0), "a stop ends with 0");
    Ok(())
}

#[test]
fn a_disk_survives_kills_and_the_loss_of_the_server_and_two_of_six_directories() -> Result<()> {
    let _alone = alone();
    let (dir, mut random) = (temporary_dir(), Random::from_environment());
    demonstration(dir.path(), &mut Storage::directories(dir.path()), &mut random)
}

#[test]
fn a_disk_survives_kills_and_the_loss_of_the_server_and_two_of_six_redis_servers() -> Result<()> {
    let _alone = alone();
    let (dir, mut random) = (temporary_dir(), Random::from_environment());
    let mut storage = Storage::redis(dir.path(), &mut random)?;
    demonstration(dir.path(), &mut storage, &mut random)
}

#[test]
fn the_length_of_a_disk_is_kept_whatever_its_last_block_is() -> Result<()> {
    let (dir, mut random) = (temporary_dir(), Random::from_environment());
    let zero = DiskImage::ext4(dir.path(), 8, 1 << 20, &mut random)?
        .with_last_block("zero.img", &[0; 4096])?;
    let written = zero.with_last_block("written.img", &[7; 4096])?;
    let short = zero.followed_by("short.img", &[0; 1000])?;
    assert!(zero.ends_in_zeroes && !written.ends_in_zeroes);
    assert_eq!(zero.records(), written.records());
    assert_eq!(zero.records(), short.records());
    for image in [zero, written, short] {
        image.check()?;
        let name = image.path.file_stem().context("a name")?.to_owned();
        let own = dir.path().join(name);
        std::fs::create_dir(&own)?;
        let storage = Storage::directories(&own);
        let mut server = storage.server(&own.join("data"))?;
        Transfer::import(&mut server, &image.path, &[])?.finish()?;
        check_with_kcat(&mut server, &image)?;
        restore(&image, &own, &[format!("--broker={}", server.bootstrap()?)])?;
        ensure!(server.terminate()?.code() == Some(0), "a stop ends with 0");
        restore(&image, &own, &storage.options("--"))?;
    }
    Ok(())
}

#[test]
fn a_server_with_its_data_serves_while_all_redis_are_down_and_ships_when_they_return() -> Result<()>
{
    let (dir, mut random) = (temporary_dir(), Random::from_environment());
    let image = DiskImage::ext4(dir.path(), 8, 1 << 20, &mut random)?;
    let mut storage = Storage::redis(dir.path(), &mut random)?;
    let mut server = storage.server(&dir.path().join("data"))?;
    Transfer::import(&mut server, &image.path, &[])?.finish()?;
    ensure!(server.terminate()?.code() == Some(0), "a stop ends with 0");

    let Storage::Redis { servers, .. } = &mut storage else { bail!("redis was asked for") };
    servers.iter_mut().try_for_each(Redis::kill)?;
    let since = Instant::now();
    server.restart()?;
    let took = since.elapsed();
    println!("ready after {took:?} without redis");
    ensure!(took < READY_ALONE, "{took:?} is not at once");
    check_with_kcat(&mut server, &image)?;

    // A second pass over the disk, zero blocks included, begins before there is a shard server and ends after.
    let import = Transfer::import(&mut server, &image.path, &["--overwrite", "--block-size=4096"])?;
    thread::sleep(Duration::from_secs(1));
    ensure!(import.is_running(), "nothing can be flushed yet");
    servers.iter_mut().try_for_each(Redis::restart)?;
    let (said, _) = import.finish()?;
    let end = image.records() + image.bytes / 4096;
    ensure!(said.contains(&format!("last sequence {end},")), "it said: {said}");
    ensure!(end_offset(&mut server)? == Some(end + 1), "every block is one record");
    restore(&image, dir.path(), &[format!("--broker={}", server.bootstrap()?)])?;
    check_log(&server)?;
    ensure!(server.terminate()?.code() == Some(0), "a stop ends with 0");
    restore(&image, dir.path(), &storage.options("--"))?;
    Ok(())
}

#[test]
fn an_import_into_a_vdisk_with_records_is_refused_with_the_ways_out() -> Result<()> {
    let (dir, mut random) = (temporary_dir(), Random::from_environment());
    let image = DiskImage::ext4(dir.path(), 8, 4096, &mut random)?;
    let mut server = Storage::directories(dir.path()).server(&dir.path().join("data"))?;
    Transfer::import(&mut server, &image.path, &[])?.finish()?;
    let again = Transfer::import(&mut server, &image.path, &[])?.finish();
    let words = format!("{:#}", again.err().context("a second import is refused")?);
    assert!(words.contains("--resume") && words.contains("--overwrite"), "{words}");
    // An interrupted import that had nothing left to do.
    Transfer::import(&mut server, &image.path, &["--resume"])?.finish()?;
    ensure!(end_offset(&mut server)? == Some(image.records() + 1), "nothing came twice");
    Ok(())
}
