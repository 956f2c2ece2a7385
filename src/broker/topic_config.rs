//! Per-topic options: their names, defaults and what they may be.

use std::collections::BTreeMap;

use crate::log::retention::Bounds;
use crate::types::limits;

/// How a vdisk's client stamps its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampUnit {
    /// By the size of the stamp.
    #[default]
    Auto,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

/// Whose clock stamps records. Kafka: `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, at the append.
    LogAppendTime,
}

/// When a topic is compacted, where `cleanup.policy` names that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionOptions {
    /// `delete.retention.ms`: how long a deletion stays after compaction first met it.
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio` in millionths: share of bytes that were not compacted yet from which it is due.
    pub min_dirty_millionths: u64,
    /// `min.compaction.lag.ms`: younger records stay.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`: older ones make it due, however few they are.
    pub max_lag_ms: i64,
}

/// A topic's options as the broker uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOptions {
    /// `tlog.vdisk`: the topic is the log of a virtual disk.
    pub vdisk: bool,
    /// `tlog.vdisk.deletable`: `DeleteTopics` may delete this vdisk.
    pub vdisk_deletable: bool,
    /// `tlog.block.size` of a vdisk in bytes; set at its first block.
    pub block_size: Option<u32>,
    /// `tlog.timestamp.unit` of a vdisk.
    pub timestamp_unit: TimestampUnit,
    /// `remote.storage.enable`, or a vdisk: the tier keeps it.
    pub ships: bool,
    /// `max.message.bytes`: largest batch as received.
    pub max_message_bytes: usize,
    /// `cleanup.policy`: whether `retention` holds.
    pub deletes: bool,
    /// `cleanup.policy`: whether it is compacted.
    pub compacts: bool,
    /// `retention.ms`, `retention.bytes`: what the log keeps, wherever it lies.
    pub retention: Bounds,
    /// `local.retention.ms`, `local.retention.bytes`: what of a topic that ships stays on local disk.
    pub local_retention: Bounds,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `cleanup.policy` and what goes with it.
    pub compaction: Option<CompactionOptions>,
    /// `tlog.produce.validation`: whether the records of a batch are walked, not its header alone.
    pub validate_records: bool,
}

/// An option that cannot be set so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("`{key}` is no topic option")]
    Unknown {
        /// As given.
        key: String,
    },
    /// Not a value of it.
    #[error("`{value}` is no value of topic option `{key}`: it takes {expected}")]
    Invalid {
        /// The option.
        key: String,
        /// As given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

/// What an option takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Bool,
    Int { min: i64, max: i64, expected: &'static str },
    Float,
    Choice(&'static [&'static str], &'static str),
    Text,
}

/// Texts are kept in every checkpoint.
const TEXT_BYTES: usize = 1024;

const MS: Kind = Kind::Int { min: 0, max: i64::MAX, expected: "milliseconds from 0" };
const MS_OR_NONE: Kind =
    Kind::Int { min: -1, max: i64::MAX, expected: "milliseconds, or -1 for no bound" };
const BYTES_OR_NONE: Kind =
    Kind::Int { min: -1, max: i64::MAX, expected: "bytes, or -1 for no bound" };
const LOCAL: Kind = Kind::Int {
    min: -2,
    max: i64::MAX,
    expected: "a bound, -1 for none, or -2 for that of the whole log",
};

/// Every topic option: name, what it takes, default, default of a vdisk topic where it differs. Options that only
/// Kafka's own engine acts on are kept for the tools that set them and read them back.
const TABLE: &[(&str, Kind, &str, Option<&str>)] = &[
    (
        "cleanup.policy",
        Kind::Choice(
            &["delete", "compact", "compact,delete", "delete,compact"],
            "delete, compact or both",
        ),
        "delete",
        None,
    ),
    (
        "compression.type",
        Kind::Choice(
            &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"],
            "producer or a codec",
        ),
        "producer",
        None,
    ),
    ("delete.retention.ms", MS, "86400000", None),
    ("file.delete.delay.ms", MS, "60000", None),
    ("flush.messages", MS, "9223372036854775807", None),
    ("flush.ms", MS, "9223372036854775807", None),
    ("follower.replication.throttled.replicas", Kind::Text, "", None),
    (
        "index.interval.bytes",
        Kind::Int { min: 0, max: i32::MAX as i64, expected: "bytes from 0" },
        "4096",
        None,
    ),
    ("leader.replication.throttled.replicas", Kind::Text, "", None),
    ("local.retention.bytes", LOCAL, "-2", Some("1073741824")),
    ("local.retention.ms", LOCAL, "-2", None),
    ("max.compaction.lag.ms", MS, "9223372036854775807", None),
    (
        "max.message.bytes",
        Kind::Int {
            min: 0,
            max: limits::RECORD_BATCH_BYTES as i64,
            expected: "bytes from 0 to 67108864",
        },
        "1048588",
        Some("67108864"),
    ),
    ("message.timestamp.after.max.ms", MS, "9223372036854775807", None),
    ("message.timestamp.before.max.ms", MS, "9223372036854775807", None),
    (
        "message.timestamp.type",
        Kind::Choice(&["CreateTime", "LogAppendTime"], "CreateTime or LogAppendTime"),
        "CreateTime",
        None,
    ),
    ("min.cleanable.dirty.ratio", Kind::Float, "0.5", None),
    ("min.compaction.lag.ms", MS, "0", None),
    (
        "min.insync.replicas",
        Kind::Int { min: 1, max: i32::MAX as i64, expected: "a count from 1" },
        "1",
        None,
    ),
    ("preallocate", Kind::Bool, "false", None),
    ("remote.storage.enable", Kind::Bool, "false", Some("true")),
    ("retention.bytes", BYTES_OR_NONE, "-1", None),
    ("retention.ms", MS_OR_NONE, "604800000", Some("-1")),
    (
        "segment.bytes",
        Kind::Int {
            min: 1024 * 1024,
            max: 2 * 1024 * 1024 * 1024 - 1,
            expected: "bytes from 1048576 to 2147483647",
        },
        "1073741824",
        Some("67108864"),
    ),
    (
        "segment.index.bytes",
        Kind::Int { min: 4, max: i32::MAX as i64, expected: "bytes from 4" },
        "10485760",
        None,
    ),
    ("segment.jitter.ms", MS, "0", None),
    (
        "segment.ms",
        Kind::Int { min: 1, max: i64::MAX, expected: "milliseconds from 1" },
        "604800000",
        None,
    ),
    (
        "tlog.block.size",
        Kind::Int {
            min: 0,
            max: 1 << 30,
            expected: "bytes from 1 to 1073741824, or 0 while unknown",
        },
        "0",
        None,
    ),
    (
        "tlog.produce.validation",
        Kind::Choice(&["records", "header"], "records or header"),
        "records",
        None,
    ),
    ("tlog.shared.writers", Kind::Bool, "false", None),
    (
        "tlog.timestamp.unit",
        Kind::Choice(&["auto", "s", "ms", "us", "ns"], "auto, s, ms, us or ns"),
        "auto",
        None,
    ),
    ("tlog.vdisk", Kind::Bool, "false", None),
    ("tlog.vdisk.deletable", Kind::Bool, "false", None),
    ("unclean.leader.election.enable", Kind::Bool, "false", None),
];

fn row(key: &str) -> Option<&'static (&'static str, Kind, &'static str, Option<&'static str>)> {
    TABLE.iter().find(|row| row.0 == key)
}

/// Checks one option.
///
/// # Errors
/// [`OptionError`].
pub fn check_option(key: &str, value: &str) -> Result<(), OptionError> {
    let Some((_, kind, ..)) = row(key) else {
        return Err(OptionError::Unknown { key: key.to_owned() });
    };
    let expected = match *kind {
        Kind::Bool if matches!(value, "true" | "false") => return Ok(()),
        Kind::Bool => "true or false",
        Kind::Int { min, max, expected } => match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => return Ok(()),
            _ => expected,
        },
        Kind::Float => match value.parse::<f64>() {
            Ok(number) if (0.0..=1.0).contains(&number) => return Ok(()),
            _ => "a number from 0 to 1",
        },
        Kind::Choice(choices, _) if choices.contains(&value) => return Ok(()),
        Kind::Choice(_, expected) => expected,
        Kind::Text if value.len() <= TEXT_BYTES => return Ok(()),
        Kind::Text => "a text of at most 1024 bytes",
    };
    Err(OptionError::Invalid {
        key: key.to_owned(),
        value: value.chars().take(64).collect(),
        expected,
    })
}

/// The value of an option, set or default.
fn value<'a>(options: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    if let Some(value) = options.get(key) {
        return value;
    }
    let vdisk = options.get("tlog.vdisk").is_some_and(|value| value == "true");
    row(key).map_or("", |row| if vdisk { row.3.unwrap_or(row.2) } else { row.2 })
}

fn number(options: &BTreeMap<String, String>, key: &str) -> i64 {
    value(options, key).parse().unwrap_or(0)
}

/// Whether the tier keeps a topic with these options.
#[must_use]
pub fn ships(options: &BTreeMap<String, String>) -> bool {
    value(options, "tlog.vdisk") == "true" || value(options, "remote.storage.enable") == "true"
}

/// All options with the values that hold, by name.
#[must_use]
pub fn effective(options: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    TABLE.iter().map(|row| (row.0, value(options, row.0).to_owned())).collect()
}

fn compaction(options: &BTreeMap<String, String>) -> Option<CompactionOptions> {
    if !value(options, "cleanup.policy").contains("compact") {
        return None;
    }
    let ratio = value(options, "min.cleanable.dirty.ratio").parse::<f64>().unwrap_or(0.5);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1, checked")]
    let min_dirty_millionths = (ratio * 1e6) as u64;
    Some(CompactionOptions {
        delete_retention_ms: number(options, "delete.retention.ms"),
        min_dirty_millionths,
        min_lag_ms: number(options, "min.compaction.lag.ms"),
        max_lag_ms: number(options, "max.compaction.lag.ms"),
    })
}

impl TopicOptions {
    /// The options that hold when `options` are set; each of them was checked before.
    #[must_use]
    pub fn from_checked(options: &BTreeMap<String, String>) -> Self {
        let is_true = |key| value(options, key) == "true";
        let policy = value(options, "cleanup.policy");
        // -1 is no bound.
        let bound = |key| Some(number(options, key)).filter(|bound| *bound >= 0);
        let local = |key, total| match number(options, key) {
            -2 => bound(total),
            _ => bound(key),
        };
        let bounds =
            |age_ms, bytes: Option<i64>| Bounds { age_ms, bytes: bytes.map(i64::unsigned_abs) };
        Self {
            vdisk: is_true("tlog.vdisk"),
            vdisk_deletable: is_true("tlog.vdisk.deletable"),
            block_size: u32::try_from(number(options, "tlog.block.size")).ok().filter(|&n| n > 0),
            timestamp_unit: match value(options, "tlog.timestamp.unit") {
                "s" => TimestampUnit::Seconds,
                "ms" => TimestampUnit::Milliseconds,
                "us" => TimestampUnit::Microseconds,
                "ns" => TimestampUnit::Nanoseconds,
                _ => TimestampUnit::Auto,
            },
            ships: ships(options),
            max_message_bytes: usize::try_from(number(options, "max.message.bytes")).unwrap_or(0),
            deletes: policy.contains("delete"),
            compacts: policy.contains("compact"),
            retention: bounds(bound("retention.ms"), bound("retention.bytes")),
            local_retention: bounds(
                local("local.retention.ms", "retention.ms"),
                local("local.retention.bytes", "retention.bytes"),
            ),
            segment_bytes: u64::try_from(number(options, "segment.bytes")).unwrap_or(1 << 30),
            segment_ms: number(options, "segment.ms"),
            index_interval_bytes: u32::try_from(number(options, "index.interval.bytes"))
                .unwrap_or(4096),
            timestamp_type: match value(options, "message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            compaction: compaction(options),
            validate_records: value(options, "tlog.produce.validation") != "header",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_legal_value() {
        for (key, _, default, vdisk) in TABLE {
            check_option(key, default).unwrap();
            vdisk.map_or(Ok(()), |value| check_option(key, value)).unwrap();
        }
    }

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_vdisk_topic_has_defaults_of_its_own() {
        let vdisk = BTreeMap::from([("tlog.vdisk".to_owned(), "true".to_owned())]);
        let options = TopicOptions::from_checked(&vdisk);
        assert!(options.vdisk && options.ships);
        assert_eq!(options.max_message_bytes, 64 << 20);
        assert_eq!(options.segment_bytes, 64 << 20);
        assert!(!TopicOptions::from_checked(&BTreeMap::new()).ships);
    }

    #[test]
    fn local_retention_is_that_of_the_whole_log_unless_said() {
        let options = |set: &[(&str, &str)]| {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            TopicOptions::from_checked(&set.iter().map(own).collect())
        };
        let week = Bounds { age_ms: Some(604_800_000), bytes: None };
        let plain = options(&[]);
        assert!(plain.deletes && !plain.compacts);
        assert_eq!((plain.retention, plain.local_retention), (week, week));
        let vdisk = options(&[("tlog.vdisk", "true")]);
        let local = Bounds { age_ms: None, bytes: Some(1 << 30) };
        assert_eq!((vdisk.retention, vdisk.local_retention), (Bounds::default(), local));
        let own = options(&[("retention.bytes", "9"), ("local.retention.ms", "-1")]);
        assert_eq!(own.local_retention, Bounds { age_ms: None, bytes: Some(9) });
        assert_eq!(options(&[("retention.ms", "0")]).retention.age_ms, Some(0));
        let both = options(&[("cleanup.policy", "compact,delete")]);
        assert!(both.deletes && both.compacts);
        assert!(!options(&[("cleanup.policy", "compact")]).deletes);
    }

    #[test]
    fn compaction_is_set_by_the_cleanup_policy() {
        let set = |policy: &str| {
            let options = BTreeMap::from([
                ("cleanup.policy".to_owned(), policy.to_owned()),
                ("min.cleanable.dirty.ratio".to_owned(), "0.25".to_owned()),
                ("min.compaction.lag.ms".to_owned(), "7".to_owned()),
            ]);
            TopicOptions::from_checked(&options).compaction
        };
        assert_eq!(set("delete"), None);
        for policy in ["compact", "compact,delete", "delete,compact"] {
            let options = set(policy).unwrap();
            assert_eq!((options.min_dirty_millionths, options.min_lag_ms), (250_000, 7));
            assert_eq!(options.delete_retention_ms, 86_400_000);
            assert_eq!(options.max_lag_ms, i64::MAX);
        }
    }

    #[test]
    fn unknown_and_illegal_options_are_refused() {
        assert!(matches!(check_option("no.such", "1"), Err(OptionError::Unknown { .. })));
        for (key, value) in [("retention.ms", "-2"), ("tlog.vdisk", "yes"), ("segment.bytes", "x")]
        {
            assert!(matches!(check_option(key, value), Err(OptionError::Invalid { .. })), "{key}");
        }
    }
}
