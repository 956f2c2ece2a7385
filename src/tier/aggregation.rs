//! What to ship next: a pure decision over the committed batches that are not yet shipped.
//!
//! A fragment is made when its batches can grow no further (epoch or run ends, it is full), when flush-size is reached, when
//! somebody asked for it, or when the oldest batch has waited flush-time. Under load one fragment takes all whole flush-size
//! units that fit; what a TLog client sees is cut at flush-size elsewhere.

use super::error::ConfigError;
use crate::types::limits::{FRAGMENT_BATCHES, RECORD_BATCH_BYTES};
use crate::types::{LeaderEpoch, Offset};

/// When enough is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushSize {
    /// So many records: vdisks.
    Records(u64),
    /// So many bytes: plain topics.
    Bytes(u64),
}

/// How a partition ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Ship as soon as so much is pending.
    pub flush_size: FlushSize,
    /// Ship what has waited so long, in ms.
    pub flush_time_ms: u64,
    /// Bytes of batches in a fragment, one batch at least.
    pub max_fragment_bytes: u64,
}

impl Config {
    /// Largest fragment unless configured, and flush-size of plain topics.
    pub const FRAGMENT_BYTES: u64 = 1024 * 1024;

    /// A vdisk's. `flush_size` 0 means 25, as in the original.
    #[must_use]
    pub fn vdisk(flush_size: u64, flush_time_ms: u64) -> Self {
        let records = if flush_size == 0 { 25 } else { flush_size };
        let flush_size = FlushSize::Records(records);
        Self { flush_size, flush_time_ms, max_fragment_bytes: Self::FRAGMENT_BYTES }
    }

    /// A plain topic's.
    #[must_use]
    pub fn plain(flush_time_ms: u64) -> Self {
        let flush_size = FlushSize::Bytes(Self::FRAGMENT_BYTES);
        Self { flush_size, flush_time_ms, max_fragment_bytes: Self::FRAGMENT_BYTES }
    }

    /// # Errors
    /// [`ConfigError::Range`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let (FlushSize::Records(size) | FlushSize::Bytes(size)) = self.flush_size;
        let settings = [
            ("flush-size", size, 1, u64::from(u32::MAX), "1 to 4294967295"),
            ("flush-time in ms", self.flush_time_ms, 1, 86_400_000, "1 ms to a day"),
            (
                "largest fragment in bytes",
                self.max_fragment_bytes,
                4096,
                RECORD_BATCH_BYTES as u64,
                "4 KiB to 64 MiB",
            ),
        ];
        let wrong = settings.iter().find(|(_, value, low, high, _)| !(low..=high).contains(&value));
        match wrong {
            Some((name, value, _, _, range)) => {
                Err(ConfigError::Range { name, value: *value, range })
            }
            None => Ok(()),
        }
    }
}

/// A committed batch that is not yet shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingBatch {
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset behind it.
    pub next_offset: Offset,
    /// Its length.
    pub bytes: u64,
    /// Its data records: what flush-size counts.
    pub records: u64,
    /// When it was appended, in ms.
    pub appended_ms: i64,
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Number of its sequence run; always 0 for a plain topic.
    pub run: u64,
}

/// What is pending.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// Everything below is shipped or on its way.
    pub shipped: Offset,
    /// Everything below is committed.
    pub high_watermark: Offset,
    /// The batches from `shipped` on in order, all or as many as the next fragment can take. Batches below `shipped` or at
    /// and above the high watermark are passed over.
    pub batches: &'a [PendingBatch],
    /// Everything below is to be shipped at once; 0 when nobody asked.
    pub forced: Offset,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet. Ask again at `wake_at_ms`, where given, and when something is appended, committed or asked for.
    Nothing {
        /// When the oldest batch will have waited long enough.
        wake_at_ms: Option<i64>,
    },
    /// Ship the batches from the shipped offset to here, exclusive: always the end of a batch.
    Ship {
        /// The offset behind the last batch.
        upto: Offset,
    },
}

/// Decides.
#[must_use]
pub fn decide(pending: &Pending<'_>, config: &Config, now_ms: i64) -> Decision {
    let mut open = pending
        .batches
        .iter()
        .filter(|batch| batch.base_offset >= pending.shipped)
        .take_while(|batch| batch.next_offset <= pending.high_watermark);
    let Some(first) = open.next() else { return Decision::Nothing { wake_at_ms: None } };

    let mut sum = Sum::default();
    sum.add(first, config, pending.forced);
    for batch in open {
        let fits = sum.bytes.saturating_add(batch.bytes) <= config.max_fragment_bytes
            && sum.batches < FRAGMENT_BATCHES;
        if (batch.epoch, batch.run) != (first.epoch, first.run) || !fits {
            return Decision::Ship { upto: sum.end };
        }
        sum.add(batch, config, pending.forced);
    }
    // A clock that was set back makes nobody wait longer than flush-time from now.
    let flush_time_ms = i64::try_from(config.flush_time_ms).unwrap_or(i64::MAX);
    let wake_at_ms = first.appended_ms.min(now_ms).saturating_add(flush_time_ms);
    match sum.due {
        _ if wake_at_ms <= now_ms || sum.bytes >= config.max_fragment_bytes => {
            Decision::Ship { upto: sum.end }
        }
        Some(upto) => Decision::Ship { upto },
        None => Decision::Nothing { wake_at_ms: Some(wake_at_ms) },
    }
}

/// The batches gathered so far.
#[derive(Default)]
struct Sum {
    bytes: u64,
    records: u64,
    batches: usize,
    end: Offset,
    /// End of the last batch that must go now: it completed a flush-size unit, or begins below what was asked for.
    due: Option<Offset>,
}

impl Sum {
    fn add(&mut self, batch: &PendingBatch, config: &Config, forced: Offset) {
        let units = |sum: &Self| match config.flush_size {
            FlushSize::Records(size) => sum.records / size.max(1),
            FlushSize::Bytes(size) => sum.bytes / size.max(1),
        };
        let before = units(self);
        self.bytes = self.bytes.saturating_add(batch.bytes);
        self.records = self.records.saturating_add(batch.records);
        self.batches += 1;
        self.end = batch.next_offset;
        if units(self) > before || batch.base_offset < forced {
            self.due = Some(batch.next_offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batches(sizes: &[(u64, u64)]) -> Vec<PendingBatch> {
        let mut offset = 100;
        let mut make = |&(records, bytes): &(u64, u64)| {
            let base_offset = offset;
            offset += records as i64;
            let (appended_ms, epoch) = (1_000, LeaderEpoch(1));
            PendingBatch {
                base_offset,
                next_offset: offset,
                bytes,
                records,
                appended_ms,
                epoch,
                run: 0,
            }
        };
        sizes.iter().map(&mut make).collect()
    }

    fn ask(batches: &[PendingBatch], config: &Config, forced: Offset, now_ms: i64) -> Decision {
        let high_watermark = batches.last().map_or(100, |batch| batch.next_offset);
        decide(&Pending { shipped: 100, high_watermark, batches, forced }, config, now_ms)
    }

    const VDISK: Config = Config {
        flush_size: FlushSize::Records(25),
        flush_time_ms: 25_000,
        max_fragment_bytes: Config::FRAGMENT_BYTES,
    };

    #[test]
    fn nothing_pending_sleeps_without_a_timer() {
        assert_eq!(ask(&[], &VDISK, 0, 0), Decision::Nothing { wake_at_ms: None });
        let batches = batches(&[(30, 1)]);
        let pending = Pending { shipped: 100, high_watermark: 129, batches: &batches, forced: 200 };
        assert_eq!(decide(&pending, &VDISK, i64::MAX), Decision::Nothing { wake_at_ms: None });
    }

    #[test]
    fn flush_size_ships_whole_units_and_leaves_the_rest() {
        let some = batches(&[(24, 100)]);
        assert_eq!(ask(&some, &VDISK, 0, 2_000), Decision::Nothing { wake_at_ms: Some(26_000) });
        let units = batches(&[(20, 1), (5, 1), (25, 1), (7, 1)]);
        assert_eq!(ask(&units, &VDISK, 0, 2_000), Decision::Ship { upto: 150 });
        let across = batches(&[(20, 1), (20, 1), (5, 1)]);
        assert_eq!(ask(&across, &VDISK, 0, 2_000), Decision::Ship { upto: 140 });
    }

    #[test]
    fn flush_time_ships_all() {
        let some = batches(&[(3, 100), (2, 100)]);
        assert_eq!(ask(&some, &VDISK, 0, 25_999), Decision::Nothing { wake_at_ms: Some(26_000) });
        assert_eq!(ask(&some, &VDISK, 0, 26_000), Decision::Ship { upto: 105 });
    }

    #[test]
    fn a_clock_set_back_waits_one_flush_time_at_most() {
        let some = batches(&[(3, 100)]);
        assert_eq!(ask(&some, &VDISK, 0, -500), Decision::Nothing { wake_at_ms: Some(24_500) });
    }

    #[test]
    fn a_forced_offset_ships_the_batch_that_holds_it() {
        let some = batches(&[(3, 100), (2, 100), (4, 100)]);
        assert_eq!(ask(&some, &VDISK, 104, 2_000), Decision::Ship { upto: 105 });
        assert_eq!(ask(&some, &VDISK, 103, 2_000), Decision::Ship { upto: 103 });
        assert_eq!(ask(&some, &VDISK, 9_999, 2_000), Decision::Ship { upto: 109 });
        assert!(matches!(ask(&some, &VDISK, 100, 2_000), Decision::Nothing { .. }));
    }

    #[test]
    fn an_epoch_or_run_that_ended_ships_at_once() {
        let changes: [fn(&mut PendingBatch); 2] = [|b| b.epoch = LeaderEpoch(2), |b| b.run = 1];
        for change in changes {
            let mut some = batches(&[(3, 100), (2, 100), (4, 100)]);
            change(&mut some[2]);
            assert_eq!(ask(&some, &VDISK, 0, 2_000), Decision::Ship { upto: 105 });
            assert_eq!(ask(&some, &VDISK, 9_999, 2_000), Decision::Ship { upto: 105 });
        }
    }

    #[test]
    fn a_large_batch_goes_alone_and_a_full_fragment_goes_at_once() {
        let large = batches(&[(1, 5 << 20), (1, 10)]);
        assert_eq!(ask(&large, &VDISK, 0, 2_000), Decision::Ship { upto: 101 });
        assert_eq!(ask(&large[..1], &VDISK, 0, 2_000), Decision::Ship { upto: 101 });
        let plain = Config::plain(25_000);
        let full = batches(&[(10, 600 << 10), (10, 600 << 10)]);
        assert_eq!(ask(&full, &plain, 0, 2_000), Decision::Ship { upto: 110 });
        assert!(matches!(ask(&full[..1], &plain, 0, 2_000), Decision::Nothing { .. }));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(Config::vdisk(0, 1).flush_size, FlushSize::Records(25));
        Config::vdisk(1, 25_000).check().unwrap();
        Config::plain(25_000).check().unwrap();
        let wrong = Config { flush_time_ms: 0, ..VDISK };
        assert!(wrong.check().unwrap_err().to_string().contains("flush-time"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn whatever_is_shipped_is_whole_batches_of_one_epoch_within_the_limit(
            sizes in prop::collection::vec((1u64..40, 1u64..400_000), 1..40),
            change in 0usize..60, forced in 0i64..1_500, now in 0i64..40_000,
        ) {
            let mut all = batches(&sizes);
            all.iter_mut().skip(change).for_each(|batch| batch.epoch = LeaderEpoch(2));
            let decision = ask(&all, &VDISK, forced, now);
            let Decision::Ship { upto } = decision else {
                prop_assert!(now < 26_000 && forced <= 100 && change >= all.len() || change == 0);
                return Ok(());
            };
            let taken: Vec<_> = all.iter().filter(|batch| batch.next_offset <= upto).collect();
            prop_assert!(all.iter().any(|batch| batch.next_offset == upto));
            prop_assert!(taken.iter().all(|batch| batch.epoch == all[0].epoch));
            let bytes: u64 = taken.iter().map(|batch| batch.bytes).sum();
            prop_assert!(bytes <= VDISK.max_fragment_bytes || taken.len() == 1);
        }
    }
}
