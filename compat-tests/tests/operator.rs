//! What a person may do wrong with `tlog` while trusting it with the only copy of a disk: each is refused, changes
//! nothing, and is told how to go on.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use compat_tests::vdisk::block;
use compat_tests::{Server, TlogSocket, temporary_dir, tlog_command};
use tlog::tlog::protocol::{ClientMessage, Status};

const DAMAGED: i32 = 2;
const NOT_FOUND: i32 = 10;
const USAGE: i32 = 64;
const CONFIGURATION: i32 = 78;

/// Runs `tlog` to an exit code; gives both outputs.
fn tlog(arguments: &[&str], code: i32) -> Result<String> {
    let output = tlog_command()?.args(arguments).stdin(Stdio::null()).output()?;
    let mut text = String::from_utf8(output.stdout)?;
    text.push_str(&String::from_utf8(output.stderr)?);
    ensure!(output.status.code() == Some(code), "{arguments:?}: {}: {text}", output.status);
    Ok(text)
}

/// A server over directories, with one vdisk.
struct Bench {
    dir: tempfile::TempDir,
    server: Server,
}

impl Bench {
    fn start() -> Result<Self> {
        let dir = temporary_dir();
        let shards = format!("-storage-dir={}", dir.path().join("shards").display());
        let server = Server::start(&dir.path().join("data"), &[&shards])?;
        Ok(Self { dir, server })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `blocks` of 64 KiB, each of which is cut into sixteen different ones of 4 KiB.
    fn image(&self, name: &str, blocks: u8, salt: u8) -> Result<PathBuf> {
        let bytes: Vec<u8> = (0..usize::from(blocks) << 4)
            .flat_map(|at| {
                let (high, low) = ((at >> 8) as u8, at as u8);
                [&[1, salt, high, low][..], &[low ^ 0x5a; 4092][..]].concat()
            })
            .collect();
        let path = self.path(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Sends the first blocks of an image as an import would, and ends.
    fn begin_import(&mut self, image: &Path, block_size: usize, blocks: usize) -> Result<()> {
        let (mut client, last) = TlogSocket::attach(&self.server.address("tlog")?, "disk")?;
        let bytes = std::fs::read(image)?;
        let mut sequence = last;
        for (index, data) in (0..).zip(bytes.chunks(block_size)).take(blocks) {
            sequence += 1;
            client.send(&block(sequence, index, data))?;
        }
        client.send(&ClientMessage::ForceFlush(sequence))?;
        loop {
            let response = client.response()?;
            if response.status == Status::Flushed && response.sequences.contains(&sequence) {
                break;
            }
        }
        client.send(&ClientMessage::Disconnect)?;
        while client.frame()?.is_some() {}
        Ok(())
    }

    fn import(&mut self, image: &Path, options: &[&str], code: i32) -> Result<String> {
        let server = format!("--server={}", self.server.address("tlog")?);
        let image = image.to_str().context("a name")?;
        tlog(&[&["import", &server, "--vdisk=disk"], options, &[image]].concat(), code)
    }

    fn restore(&mut self, options: &[&str], code: i32) -> Result<String> {
        let broker = format!("--broker={}", self.server.address("kafka")?);
        let out = self.path("restored.img");
        let out = out.to_str().context("a name")?;
        tlog(&[&["restore", &broker, "--vdisk=disk"], options, &[out]].concat(), code)
    }

    /// The vdisk is this image.
    fn ensure_is(&mut self, image: &Path) -> Result<()> {
        self.restore(&["--force"], 0)?;
        let same = std::fs::read(self.path("restored.img"))? == std::fs::read(image)?;
        ensure!(same, "the restored disk is another than {}", image.display());
        Ok(())
    }
}

#[test]
fn an_import_goes_on_only_with_the_same_image_in_blocks_of_the_same_size() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.image("disk.img", 16, 1)?;
    let other = bench.image("other.img", 16, 2)?;
    bench.begin_import(&image, 65536, 5)?;
    for (image, options) in
        [(&image, vec!["--resume"]), (&other, vec!["--resume", "--block-size=65536"])]
    {
        let said = bench.import(image, &options, 1)?;
        ensure!(said.contains("no interrupted import") && said.contains("--block-size"), "{said}");
    }
    let said = bench.import(&image, &["--resume", "--block-size=65536"], 0)?;
    ensure!(said.contains("last sequence 16,"), "nothing was appended by the refused: {said}");
    bench.ensure_is(&image)
}

#[test]
fn an_interrupted_overwriting_pass_is_not_taken_for_an_import() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.image("disk.img", 4, 1)?;
    bench.begin_import(&image, 4096, 10)?;
    bench.begin_import(&image, 4096, 10)?;
    let said = bench.import(&image, &["--resume"], 1)?;
    ensure!(said.contains("no interrupted import"), "{said}");
    let said = bench.import(&image, &["--overwrite"], USAGE)?;
    ensure!(said.contains("--block-size"), "{said}");
    bench.import(&image, &["--overwrite", "--block-size=4096"], 0)?;
    bench.ensure_is(&image)
}

#[test]
fn to_overwrite_an_empty_vdisk_is_an_import_that_can_be_resumed() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.image("disk.img", 2, 1)?;
    let mut bytes = std::fs::read(&image)?;
    bytes[4096..40960].fill(0);
    std::fs::write(&image, bytes)?;
    let said = bench.import(&image, &["--overwrite"], 0)?;
    ensure!(said.contains("last sequence 23,"), "zero blocks are left out: {said}");
    bench.import(&image, &["--resume"], 0)?;
    bench.ensure_is(&image)
}

#[test]
fn a_disk_of_zeroes_with_a_short_last_block_keeps_its_length() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.path("disk.img");
    std::fs::File::create(&image)?.set_len((8 << 20) + 512)?;
    let said = bench.import(&image, &[], 0)?;
    ensure!(said.contains("last sequence 2,"), "{said}");
    bench.import(&image, &["--resume"], 0)?;
    bench.ensure_is(&image)
}

#[test]
fn a_restore_of_nothing_leaves_the_image_that_is_there() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.image("disk.img", 1, 1)?;
    bench.import(&image, &[], 0)?;
    bench.ensure_is(&image)?;
    for bound in [
        &["--until-time=2001-01-01T00:00:00Z"][..],
        &["--until-sequence=0"],
        &["--until-sequence=5", "--run=9"],
    ] {
        let said = bench.restore(&[bound, &["--force"]].concat(), NOT_FOUND)?;
        ensure!(said.contains("nothing is restored"), "{said}");
        ensure!(std::fs::read(bench.path("restored.img"))? == std::fs::read(&image)?);
        ensure!(!bench.path("restored.img.partial").exists(), "{bound:?}");
    }
    let said = bench.restore(&["--force", "--size=4096"], 1)?;
    ensure!(said.contains("--size must not be less"), "{said}");
    bench.ensure_is(&image)?;
    // What is no file stays what it is.
    std::fs::remove_file(bench.path("restored.img"))?;
    std::fs::create_dir(bench.path("restored.img"))?;
    let said = bench.restore(&["--force"], 1)?;
    ensure!(said.contains("no regular file"), "{said}");
    Ok(())
}

/// The largest file below a directory.
fn largest(dir: &Path) -> Result<PathBuf> {
    let (mut open, mut found) = (vec![dir.to_owned()], (0, None));
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let (path, metadata) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            if metadata.is_dir() {
                open.push(path);
            } else if metadata.len() > found.0 {
                found = (metadata.len(), Some(path));
            }
        }
    }
    found.1.context("a file")
}

#[test]
fn verify_finds_what_a_restore_would_silently_do_without() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.image("disk.img", 4, 1)?;
    bench.import(&image, &[], 0)?;
    ensure!(bench.server.terminate()?.success());
    let shards = bench.path("shards");
    let storage = format!("--storage-dir={}", shards.display());
    let verify = |code| tlog(&["verify", &storage], code);
    let said = verify(0)?;
    ensure!(said.contains("no damage found"), "{said}");

    std::fs::remove_dir_all(shards.join("5"))?;
    let said = verify(DAMAGED)?;
    let lost = shards.join("5").display().to_string();
    ensure!(said.contains("degraded: disk-0: ") && said.contains("one further loss"), "{said}");
    ensure!(said.contains(&format!("missing on {lost}")), "{said}");

    let file = largest(&shards.join("3"))?;
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes)?;
    let said = verify(DAMAGED)?;
    let damaged = shards.join("3").display().to_string();
    ensure!(said.contains(&format!("the shard on {damaged}: rotten")), "{said}");
    ensure!(said.contains("no further loss is survived"), "{said}");
    ensure!(said.contains("1 damaged places"), "{said}");
    // And a restore does without both.
    let out = bench.path("restored.img");
    tlog(&["restore", &storage, "--vdisk=disk", out.to_str().context("a name")?], 0)?;
    ensure!(std::fs::read(out)? == std::fs::read(&image)?);
    Ok(())
}

#[test]
fn verify_misses_directories_that_are_gone() -> Result<()> {
    let mut bench = Bench::start()?;
    let image = bench.image("disk.img", 4, 1)?;
    bench.import(&image, &[], 0)?;
    ensure!(bench.server.terminate()?.success());
    let data = bench.path("data");
    let argument = format!("--data-dir={}", data.display());
    let verify = |code| tlog(&["verify", &argument], code);
    verify(0)?;
    std::fs::rename(data.join("disk-0"), bench.path("aside"))?;
    let said = verify(DAMAGED)?;
    ensure!(said.contains("disk-0: offsets 1 to 64: missing"), "{said}");
    std::fs::rename(bench.path("aside"), data.join("disk-0"))?;
    verify(0)?;
    std::fs::remove_dir_all(data.join("commitlog"))?;
    let said = verify(DAMAGED)?;
    ensure!(said.contains("commitlog: missing"), "{said}");
    Ok(())
}

#[test]
fn a_reader_that_leaves_is_no_panic() -> Result<()> {
    let mut bench = Bench::start()?;
    let broker = format!("--broker={}", bench.server.address("kafka")?);
    let mut tlog = tlog_command()?;
    tlog.args(["topics", &broker]);
    let mut help = Server::command()?;
    help.arg("-help");
    for mut command in [tlog, help] {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    }
    Ok(())
}

#[test]
fn two_variables_for_the_key_are_refused() -> Result<()> {
    let output = tlog_command()?
        .args(["verify", "--storage-dir=/nowhere"])
        .env("TLOG_PRIV_KEY", "0123456789abcdef0123456789abcdeF")
        .env("TLOG_PRIV_KEY_FILE", "/nowhere")
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(CONFIGURATION), "{}: {said}", output.status);
    ensure!(said.contains("unset one of them"), "{said}");
    Ok(())
}
