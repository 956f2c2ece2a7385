//! The table of options.

use crate::types::limits;

/// One option.
#[derive(Debug)]
pub struct Spec {
    /// As on the command line and in the section `tlogserver:`.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// In the form in which it would be given; empty = nothing.
    pub default: &'static str,
    /// Where the help lists it.
    pub group: Group,
    /// Whether it does something yet.
    pub standing: Standing,
    /// Where it may be given.
    pub places: Places,
    /// Meaning, in sentences.
    pub help: &'static str,
}

impl Spec {
    /// The environment variable that sets it: `TLOG_DATA_DIR` for `data-dir`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TLOG_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether its value must not be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret)
    }

    /// The entry of the table with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|spec| spec.name == name)
    }
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false; on the command line the bare flag means true.
    Switch,
    /// A whole number within both bounds.
    Whole {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// Bytes: plain, or with KiB, MiB, GiB, TiB (KB, MB, GB, TB: powers of ten).
    Bytes {
        /// Least value.
        min: u64,
    },
    /// A span of time: plain seconds, or with ms, s, m, h.
    Time {
        /// Least milliseconds.
        min_ms: u64,
        /// Greatest milliseconds.
        max_ms: u64,
    },
    /// `host:port`.
    Address,
    /// Several of `[NAME=]host:port`, by comma.
    NamedAddresses,
    /// Several of `host:port[@db]`, by comma.
    Servers,
    /// A path.
    Path,
    /// Several paths, by comma.
    Paths,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
}

impl Kind {
    /// The word for a value in help and messages.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Switch => "",
            Self::Whole { .. } => "N",
            Self::Bytes { .. } => "BYTES",
            Self::Time { .. } => "TIME",
            Self::Address => "HOST:PORT",
            Self::NamedAddresses => "[NAME=]HOST:PORT,...",
            Self::Servers => "HOST:PORT[@DB],...",
            Self::Path => "PATH",
            Self::Paths => "PATH,...",
            Self::Choice(_) => "WORD",
            Self::Text => "TEXT",
            Self::Secret => "SECRET",
        }
    }

    /// Whether the file may give it as a sequence.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Self::NamedAddresses | Self::Servers | Self::Paths)
    }
}

/// Headings of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// TLog clients.
    Tlog,
    /// Kafka clients.
    Kafka,
    /// Files and shard servers.
    Storage,
    /// Logs, limits, the admin port.
    Operation,
    /// Doors that later versions open.
    Later,
    /// What is done instead of running.
    Commands,
}

impl Group {
    /// All, in the order of the help.
    pub const ALL: [Self; 6] =
        [Self::Tlog, Self::Kafka, Self::Storage, Self::Operation, Self::Later, Self::Commands];

    /// The heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Tlog => "TLog clients",
            Self::Kafka => "Kafka clients",
            Self::Storage => "Data and shard servers",
            Self::Operation => "Operation",
            Self::Later => "Known, but not built yet: giving one refuses the start",
            Self::Commands => "Instead of running",
        }
    }
}

/// Whether an option does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It acts.
    Acts,
    /// Refused when given another value than its default; the text is the cure.
    Later(&'static str),
}

/// Where an option may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// Flag, environment, file.
    All,
    /// Flag and environment: it says which file.
    NotInFile,
    /// Flag only.
    FlagOnly,
}

/// The key that the original was compiled with.
pub(super) const DEFAULT_KEY: &str = "12345678901234567890123456789012";

const fn option(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    help: &'static str,
) -> Spec {
    Spec { name, kind, default, group, standing: Standing::Acts, places: Places::All, help }
}

const fn later(name: &'static str, kind: Kind, default: &'static str, cure: &'static str) -> Spec {
    let standing = Standing::Later(cure);
    Spec { name, kind, default, group: Group::Later, standing, places: Places::All, help: "" }
}

const fn command(name: &'static str, help: &'static str) -> Spec {
    Spec {
        name,
        kind: Kind::Switch,
        default: "false",
        group: Group::Commands,
        standing: Standing::Acts,
        places: Places::FlagOnly,
        help,
    }
}

const NO_GRPC: &str = "leave it out (or give it empty): this version has no such front end, and no port is opened for it";
const NO_WAIT: &str = "leave it out: servers do not wait for each other yet; start this one when the other has stopped";

/// All options, in the order of the help within their group.
pub const OPTIONS: &[Spec] = &[
    option(
        "address",
        Kind::Address,
        "0.0.0.0:11211",
        Group::Tlog,
        "Where TLog clients connect. Empty: a free port of 127.0.0.1.",
    ),
    option(
        "flush-size",
        Kind::Whole { min: 0, max: 1_000_000 },
        "25",
        Group::Tlog,
        "Blocks after which what a vdisk wrote is shipped. 0 means 25.",
    ),
    option(
        "flush-time",
        Kind::Time { min_ms: 1, max_ms: 86_400_000 },
        "25",
        Group::Tlog,
        "Longest time that a written block waits to be shipped.",
    ),
    option(
        "block-size",
        Kind::Whole { min: 512, max: 16 * 1024 * 1024 },
        "4096",
        Group::Tlog,
        "Block size in bytes, a power of two, of a vdisk whose configuration and first block do not tell it.",
    ),
    option(
        "kafka-address",
        Kind::NamedAddresses,
        "localhost:9092",
        Group::Kafka,
        "Where Kafka clients connect. localhost is 127.0.0.1 and, where it exists, ::1. NAME= tells several \
         listeners apart.",
    ),
    option(
        "kafka-advertised-address",
        Kind::NamedAddresses,
        "",
        Group::Kafka,
        "What clients are told to connect to, per listener. Empty: the address given for the listener with its real \
         port; for a wildcard the address that the client had connected to.",
    ),
    option(
        "data-dir",
        Kind::Path,
        "tlog-data",
        Group::Storage,
        "Everything local. Created when missing, locked against a second process.",
    ),
    option(
        "storage-dir",
        Kind::Paths,
        "",
        Group::Storage,
        "Shards in directories: one path (a subdirectory 0, 1, ... for each of the k+m) or k+m paths, one per disk. \
         Empty: shards/ in the data directory.",
    ),
    option(
        "storage-addresses",
        Kind::Servers,
        "",
        Group::Storage,
        "Shards on these redis servers, at least k+m of them.",
    ),
    option(
        "memorystorage",
        Kind::Switch,
        "false",
        Group::Storage,
        "Shards in memory, for tests and benchmarks: they are gone when the process ends. The local log stays durable.",
    ),
    option(
        "k",
        Kind::Whole { min: 1, max: limits::TIER_DATA_SHARDS as u64 },
        "4",
        Group::Storage,
        "Data shards of a fragment.",
    ),
    option(
        "m",
        Kind::Whole { min: 0, max: limits::TIER_PARITY_SHARDS as u64 },
        "2",
        Group::Storage,
        "Parity shards of a fragment: that many servers may be lost.",
    ),
    option(
        "priv-key",
        Kind::Secret,
        DEFAULT_KEY,
        Group::Storage,
        "Master key of the shards: 32 bytes, 64 hex digits, or @PATH of a file that holds one of these. Better as \
         @PATH or by TLOG_PRIV_KEY_FILE than in the open, where every user of the machine sees it.",
    ),
    option(
        "nonce",
        Kind::Text,
        "37b8e8a308c354048d245f6d",
        Group::Storage,
        "12 bytes in hex that the nonce of every shard is made from. It may stay as it is: no key is used for a second \
         fragment. Fragments record theirs, so another value makes none unreadable.",
    ),
    Spec {
        places: Places::NotInFile,
        ..option(
            "config",
            Kind::Path,
            "config.yml",
            Group::Operation,
            "YAML file with a section tlogserver: that takes every option here by its name. One that is named must \
             exist and parse whole; the default one is used when it is there and has a section that is known.",
        )
    },
    option(
        "admin-address",
        Kind::Address,
        "127.0.0.1:9644",
        Group::Operation,
        "HTTP for operators: /livez, /readyz, /metrics and a status page.",
    ),
    option(
        "memory-budget",
        Kind::Bytes { min: 64 * 1024 * 1024 },
        "512MiB",
        Group::Operation,
        "Memory of requests, queues, held blocks and caches together. Two fixed pools are beside it: 64 MiB for answers that carry no records, 32 MiB for requests as decoded.",
    ),
    option(
        "local-log-limit",
        Kind::Bytes { min: 1024 * 1024 * 1024 },
        "",
        Group::Operation,
        "Bytes that segments and commit log may take. From half of it on, segments that the shard servers have whole are deleted early; from 95 % on, appends wait or are refused. Empty: half of what would be free without it, looked at anew at each start, at least 1 GiB and at most 100 GiB.",
    ),
    option(
        "retention-check-interval",
        Kind::Time { min_ms: 1, max_ms: 30 * 24 * 3_600_000 },
        "5m",
        Group::Operation,
        "How often it is looked for records and segments that are older or more than their topic keeps (log.retention.check.interval.ms of Kafka).",
    ),
    option(
        "scrub-rate",
        Kind::Bytes { min: 0 },
        "16MiB",
        Group::Operation,
        "Bytes in a second at which sealed segments are read again in the background, so that what the disk did to them is found while it can be mended. 0: not at all.",
    ),
    option(
        "scrub-interval",
        Kind::Time { min_ms: 60_000, max_ms: 366 * 24 * 3_600_000 },
        "168h",
        Group::Operation,
        "How often all of them are read again, at the most: from the begin of one pass to that of the next.",
    ),
    option(
        "stop-timeout",
        Kind::Time { min_ms: 0, max_ms: 3_600_000 },
        "10s",
        Group::Operation,
        "How long a stop may ship and complete what is left.",
    ),
    option(
        "dev",
        Kind::Switch,
        "false",
        Group::Operation,
        "Two refusals become warnings: a trivial key with redis, and fewer servers than k+m. Nothing else changes.",
    ),
    option(
        "log-format",
        Kind::Choice(&["text", "json"]),
        "text",
        Group::Operation,
        "Form of the log.",
    ),
    option("logfile", Kind::Path, "", Group::Operation, "Log there. Empty: standard error."),
    option("v", Kind::Switch, "false", Group::Operation, "Log each request too (debug)."),
    later("ldlm-address", Kind::Address, "", NO_GRPC),
    later("comlog-address", Kind::Address, "", NO_GRPC),
    later("gazette-address", Kind::Address, "", NO_GRPC),
    later(
        "with-slave-sync",
        Kind::Switch,
        "false",
        "leave it out: slaves are not kept in sync yet; a consumer of the vdisk's topic can copy it meanwhile",
    ),
    later(
        "profile-address",
        Kind::Address,
        "",
        "leave it out: there is no profiling port; measure with perf, and see /metrics of -admin-address",
    ),
    later(
        "accept-address",
        Kind::Text,
        "",
        "leave it out and let a firewall rule for the port of -address admit that one host",
    ),
    later("wait-listen-addr", Kind::Address, "", NO_WAIT),
    later("wait-connect-addr", Kind::Address, "", NO_WAIT),
    later(
        "id",
        Kind::Text,
        "default",
        "leave it out: it chose the vdisks that the original checked at start; here all are served",
    ),
    command(
        "check",
        "Show the settings in effect, each with its origin, then end: 0 when they would be taken.",
    ),
    command(
        "healthcheck",
        "Ask the /readyz of -admin-address: 0 when ready. For container engines.",
    ),
    command("version", "Show the version."),
    command("help", "Show this."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_original_is_known_with_its_default() {
        let original = [
            ("address", "0.0.0.0:11211"),
            ("flush-size", "25"),
            ("flush-time", "25"),
            ("block-size", "4096"),
            ("k", "4"),
            ("m", "2"),
            ("priv-key", "12345678901234567890123456789012"),
            ("nonce", "37b8e8a308c354048d245f6d"),
            ("config", "config.yml"),
            ("storage-addresses", ""),
            ("memorystorage", "false"),
            ("with-slave-sync", "false"),
            ("profile-address", ""),
            ("logfile", ""),
            ("v", "false"),
            ("id", "default"),
            ("accept-address", ""),
            ("wait-listen-addr", ""),
            ("wait-connect-addr", ""),
            ("version", "false"),
        ];
        for (name, default) in original {
            assert_eq!(Spec::find(name).unwrap().default, default, "{name}");
        }
    }

    #[test]
    fn names_and_variables_are_unique() {
        let mut names: Vec<&str> = OPTIONS.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
        assert_eq!(Spec::find("storage-dir").unwrap().variable(), "TLOG_STORAGE_DIR");
    }

    #[test]
    fn an_option_says_what_it_is_for() {
        for spec in OPTIONS {
            assert_eq!(spec.help.is_empty(), spec.group == Group::Later, "{}", spec.name);
        }
    }
}
