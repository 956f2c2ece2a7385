//! Where the records of each leader epoch lie: what readers use to see whether the log they know is still this one.
//!
//! ```text
//!   epoch     3            5                   6 (current, nothing appended yet)
//!   offsets   0 ······ 99  100 ········· 249   250 = high watermark
//! ```
//!
//! An epoch without records has no entry in the table, but for the current one, which counts as beginning at the end.

use super::catalogue::EpochStart;
use crate::types::{LeaderEpoch, Offset};

/// The newest epoch at or below the one asked for, and where its records end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset behind its records, exclusive bound; of the current epoch the high watermark.
    pub end: Offset,
}

/// Looks `asked` up. `table` ascends in epochs and offsets. `None` for an epoch above `current` or below 0: nothing is
/// known of it. An epoch older than all of the table's has no records here: it ends where the oldest begins.
///
/// Source: KIP-101, KIP-320; Kafka's `LeaderEpochFileCache.endOffsetFor`.
pub(super) fn epoch_end(
    table: &[EpochStart],
    current: LeaderEpoch,
    high_watermark: Offset,
    asked: LeaderEpoch,
) -> Option<EpochEnd> {
    if asked > current || asked.0 < 0 {
        return None;
    }
    if asked == current {
        return Some(EpochEnd { epoch: current, end: high_watermark });
    }
    let above = table.partition_point(|start| start.epoch <= asked);
    let end = table.get(above).map_or(high_watermark, |next| next.first_offset);
    let floor = above.checked_sub(1).and_then(|index| table.get(index));
    // An epoch whose first batch waits for its commit begins where the committed ones end.
    Some(EpochEnd { epoch: floor.map_or(asked, |start| start.epoch), end: end.min(high_watermark) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(asked: i32) -> Option<(i32, Offset)> {
        let start = |epoch, first_offset| EpochStart { epoch: LeaderEpoch(epoch), first_offset };
        let table = [start(3, 10), start(5, 100), start(7, 300)];
        epoch_end(&table, LeaderEpoch(8), 250, LeaderEpoch(asked))
            .map(|found| (found.epoch.0, found.end))
    }

    #[test]
    fn an_epoch_ends_where_the_next_one_with_records_begins() {
        assert_eq!(end(3), Some((3, 100)));
        assert_eq!(end(4), Some((3, 100)));
    }

    #[test]
    fn no_end_is_above_the_high_watermark() {
        assert_eq!(end(5), Some((5, 250)));
        assert_eq!(end(7), Some((7, 250)));
        assert_eq!(end(8), Some((8, 250)));
    }

    #[test]
    fn an_epoch_before_all_known_ends_where_they_begin() {
        assert_eq!(end(2), Some((2, 10)));
        let none = epoch_end(&[], LeaderEpoch(1), 7, LeaderEpoch(0)).unwrap();
        assert_eq!((none.epoch.0, none.end), (0, 7));
    }

    #[test]
    fn nothing_is_known_of_the_future() {
        assert_eq!(end(9), None);
        assert_eq!(end(-1), None);
    }
}
