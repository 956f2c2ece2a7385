//! The command line of `tlog`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::image::parse_bytes;
use super::time::parse_rfc3339;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 error, 2 data damaged or missing, 10 not found, 11 locked, 12 wrong key, \
                          64 wrong command line, 78 configuration refused";

/// Logs of virtual disks: send images in, get disks back, look and check.
#[derive(Debug, Parser)]
#[command(name = "tlog", version, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Import(ImportArgs),
    Restore(RestoreArgs),
    Topics(TopicsArgs),
    Verify(VerifyArgs),
    Bench(BenchArgs),
}

/// Send a disk image into the log of a vdisk.
///
/// Sends every block that is not zero, and always the last one, so that the log knows the length. Ends when everything is on
/// the shard servers. Servers that fall are waited for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tlog import --server localhost:11211 --vdisk my-disk disk.img
  tlog import --server localhost:11211 --vdisk my-disk --resume disk.img    # after an interruption
  tlog import --server localhost:11211 --vdisk my-disk --overwrite --block-size 4096 disk.img")]
pub(super) struct ImportArgs {
    /// TLog port of the server; several, comma-separated, for failover.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub(super) server: Vec<String>,
    /// The vdisk: 1 to 249 characters of a-z A-Z 0-9 . _ -
    #[arg(long, value_name = "ID")]
    pub(super) vdisk: String,
    /// Bytes of a block: a power of two from 512 to 1048576, 4096 unless given. A vdisk that has records keeps the one it
    /// was begun with, and must be given the same: the server counts blocks, not bytes.
    #[arg(long, value_name = "BYTES", value_parser = block_size)]
    pub(super) block_size: Option<usize>,
    /// Go on with an interrupted import of the same image. Before anything is sent, blocks that the log has already are
    /// compared with the image.
    #[arg(long, conflicts_with = "overwrite")]
    pub(super) resume: bool,
    /// Append a full pass over the image, zero blocks included, to what the vdisk has. Needs --block-size if it has
    /// anything.
    #[arg(long)]
    pub(super) overwrite: bool,
    /// End when no server took the connection for so many seconds; 0 = never.
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    pub(super) give_up_after: u64,
    /// The disk image, or a block device.
    pub(super) image: PathBuf,
}

/// Rebuild a disk image from the log of a vdisk.
///
/// The image appears under its name when it is whole, and until then as IMAGE.partial. Bounds are inclusive. When data is
/// damaged, the exit code is 2 and the message names the offsets.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("from").args(["broker", "storage_dir", "storage_addresses"]).required(true),
    group = ArgGroup::new("until").args(["until_offset", "until_sequence", "until_time"]),
    after_help = "Examples:
  tlog restore --broker localhost:9092 --vdisk my-disk disk.img
  tlog restore --broker localhost:9092 --vdisk my-disk --until-time 2026-03-01T12:00:00Z disk.img
  tlog restore --storage-dir shards --vdisk my-disk disk.img                # no server needed
  tlog restore --storage-addresses r1:6379,r2:6379,r3:6379,r4:6379,r5:6379,r6:6379 --priv-key @/etc/tlog/key \\
      --vdisk my-disk disk.img"
)]
pub(super) struct RestoreArgs {
    /// Kafka port of a running server.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) broker: Option<String>,
    #[command(flatten)]
    pub(super) storage: StorageArgs,
    /// The vdisk.
    #[arg(long, value_name = "ID")]
    pub(super) vdisk: String,
    /// Play up to the record of this offset.
    #[arg(long, value_name = "N")]
    pub(super) until_offset: Option<i64>,
    /// Play up to this sequence, of the last run unless --run names one.
    #[arg(long, value_name = "N")]
    pub(super) until_sequence: Option<u64>,
    /// Run of --until-sequence, from 1: a run begins where sequences start over.
    #[arg(long, value_name = "R", requires = "until_sequence", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) run: Option<u64>,
    /// Stop at the first record later than this, as 2026-03-01T12:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = parse_rfc3339, allow_hyphen_values = true)]
    pub(super) until_time: Option<i64>,
    /// Length of the image; the end of the highest block unless given.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(super) size: Option<u64>,
    /// Replace IMAGE if it exists.
    #[arg(long)]
    pub(super) force: bool,
    /// The image to make.
    #[arg(value_name = "IMAGE")]
    pub(super) out: PathBuf,
}

/// Shards, without a server. Nothing on them is changed.
#[derive(Debug, Args)]
pub(super) struct StorageArgs {
    /// Directories of shards: one path (with subdirectories 0, 1, ...), or one for each of the k+m, comma-separated. Those that
    /// are lost may be missing.
    #[arg(long, value_name = "DIR,...", value_delimiter = ',')]
    pub(super) storage_dir: Vec<PathBuf>,
    /// Redis servers with shards, comma-separated.
    #[arg(long, value_name = "HOST:PORT[@DB],...", conflicts_with = "storage_dir")]
    pub(super) storage_addresses: Option<String>,
    /// Master key: 32 bytes, 64 hexadecimal digits, or @PATH of a file with one of these. Else TLOG_PRIV_KEY or
    /// TLOG_PRIV_KEY_FILE, else the compiled-in one.
    #[arg(long, value_name = "KEY")]
    pub(super) priv_key: Option<String>,
    /// Data shards of a fragment.
    #[arg(short, long, value_name = "K", default_value = "4")]
    pub(super) k: u8,
    /// Parity shards of a fragment.
    #[arg(short, long, value_name = "M", default_value = "2")]
    pub(super) m: u8,
}

/// List the topics of a broker: partitions, first offset, end.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tlog topics --broker localhost:9092")]
pub(super) struct TopicsArgs {
    /// Kafka port of a running server.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:9092")]
    pub(super) broker: String,
}

/// Read everything in a data directory, or everything that shards hold, and name what is damaged.
///
/// Of shards each one is read and opened, and servers are named that lack some or hold damaged ones; a fragment that still
/// opens without them is degraded. Nothing is changed. The exit code is 2 when anything is damaged or missing.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").args(["data_dir", "storage_dir", "storage_addresses"]).required(true),
    after_help = "Examples:
  tlog verify --data-dir tlog-data                 # the server must be stopped
  tlog verify --storage-dir tlog-data/shards       # with --priv-key where the server has one"
)]
pub(super) struct VerifyArgs {
    /// Data directory of a server that does not run.
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) storage: StorageArgs,
}

/// Measure writes and reads beside what this machine can at best do.
///
/// The first table sets paths beside loopback and disk, the second (`reach`) the server beside bare programs that do the least
/// which gives the same result, in the same round and directory. Starts servers of its own beside this program; with --broker
/// or --server the running one is measured for the first table alone, and its topics `bench-...` are left behind. Run a release
/// build. A full run (--bulk-mib 2048 --fetch-mib 1024) needs 6 GB of disk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tlog bench
  tlog bench --only reach --rounds 3
  tlog bench --only reach --figures fetch,small
  tlog bench --bulk-mib 2048 --fetch-mib 1024 --markdown
  tlog bench --broker localhost:9092 --server localhost:11211")]
pub(super) struct BenchArgs {
    /// Kafka port of a running server.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) broker: Option<String>,
    /// TLog port of a running server.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) server: Option<String>,
    /// Samples of each path.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,
    /// Length of a Produce sample.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) seconds: u64,
    /// Where the files of the measurement lie: on the disk to be measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) dir: PathBuf,
    /// Of each sample of the 1 MiB batches beside bare programs, in MiB.
    #[arg(long, value_name = "MIB", default_value = "512", value_parser = mib)]
    pub(super) bulk_mib: usize,
    /// Of each topic that is fetched beside a bare program, in MiB.
    #[arg(long, value_name = "MIB", default_value = "512", value_parser = mib)]
    pub(super) fetch_mib: usize,
    /// One of the two tables.
    #[arg(long, value_name = "TABLE")]
    pub(super) only: Option<Table>,
    /// Of the table `reach`, these figures only.
    #[arg(long, value_name = "FIGURE,...", value_delimiter = ',')]
    pub(super) figures: Vec<Figure>,
    /// Markdown tables.
    #[arg(long)]
    pub(super) markdown: bool,
}

/// A table of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Table {
    /// Each path beside what the machine could at best do.
    Paths,
    /// The server beside bare programs.
    Reach,
}

/// Figures of the table `reach` that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Figure {
    /// Batches of 1 MiB.
    Bulk,
    /// Batches of 4 KiB, many and one at a time.
    Small,
    /// 1,000 partitions.
    Many,
    /// Fetch of sealed segments.
    Fetch,
    /// Recovery after a kill.
    Replay,
    /// 5,000 topics.
    Idle,
}

fn mib(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|mib: &usize| (8..=1 << 20).contains(mib))
        .ok_or_else(|| "a number from 8 to 1048576 is needed".to_owned())
}

fn block_size(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|bytes: &usize| bytes.is_power_of_two() && (512..=1 << 20).contains(bytes))
        .ok_or_else(|| "a power of two from 512 to 1048576 is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bounds_exclude_each_other_and_a_source_is_needed() {
        let restore = |rest: &str| parse(&format!("tlog restore --vdisk v {rest} out.img")).is_ok();
        assert!(restore("--broker h:1"));
        assert!(restore("--broker h:1 --until-sequence 3 --run 2 --size 1G"));
        assert!(restore("--broker h:1 --until-time 2026-03-01T12:00:00Z"));
        assert!(restore("--storage-dir shards"));
        assert!(restore("--storage-addresses a:1,b:1 --priv-key @key -k 2 --m 1"));
        assert!(!restore("--storage-dir shards --broker h:1"));
        assert!(!restore("--storage-dir shards --storage-addresses a:1"));
        assert!(!restore(""));
        assert!(!restore("--broker h:1 --run 2"));
        assert!(!restore("--broker h:1 --until-offset 1 --until-sequence 2"));
        assert!(!restore("--broker h:1 --until-time yesterday"));
    }

    #[test]
    fn an_import_needs_a_sound_block_size_and_one_mode() {
        let import = |rest: &str| parse(&format!("tlog import --server h:1 --vdisk v {rest} i"));
        let Command::Import(args) = import("").unwrap().command else { panic!() };
        assert_eq!((args.block_size, args.resume, args.overwrite), (None, false, false));
        assert!(import("--block-size 65536 --resume").is_ok());
        assert!(import("--block-size 4000").is_err());
        assert!(import("--resume --overwrite").is_err());
    }
}
