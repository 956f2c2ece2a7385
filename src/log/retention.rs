//! How much of the front of a log may go: a decision without files and without a clock.
//!
//! ```text
//!   pieces     | 0 ··· 719 | 720 ··· 1399 | 1400 ··· 2100 | 2101 ··· |     segments, or fragments
//!                 too old      too old      young           active
//!              |<------ may go --------->|
//!                                        ^ the start that the caller makes durable before anything is deleted
//! ```
//!
//! Pieces go whole and from the front: the first that has to stay ends it, however old those behind it are. Age goes first,
//! then size over what is left. A piece goes by age when its newest record is older than the bound, and by size when the log
//! would still have the bound without it. Nothing goes that reaches above the ceiling.
//!
//! Source: Kafka's `UnifiedLog.deleteRetentionMsBreachedSegments` and `deleteRetentionSizeBreachedSegments`.

use crate::types::Offset;

/// A part of a log that goes whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset behind its last one.
    pub next_offset: Offset,
    /// Bytes of batches.
    pub bytes: u64,
    /// Time of its newest record, ms since 1970: by its stamp or by its append, as the caller goes by.
    pub newest_ms: i64,
}

/// What a log may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Milliseconds that a record is kept; none: for ever.
    pub age_ms: Option<i64>,
    /// Bytes that are kept; none: all.
    pub bytes: Option<u64>,
}

impl Bounds {
    /// Whether nothing ever goes.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.age_ms.is_none() && self.bytes.is_none()
    }
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Breach {
    /// It is too old.
    Age,
    /// The log is too long.
    Size,
}

/// The pieces that go are those up to one with this end, for this reason; both reasons may be in one answer, by rising
/// offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// First offset that stays.
    pub start: Offset,
    /// How many pieces from the front go, those of an earlier cut included.
    pub pieces: usize,
    /// Why.
    pub breach: Breach,
}

/// What goes of `pieces`, which are in order, at `now_ms`. `kept_behind` bytes lie behind them and count as well.
#[must_use]
pub fn cuts(
    pieces: &[Piece],
    kept_behind: u64,
    bounds: &Bounds,
    ceiling: Offset,
    now_ms: i64,
) -> Vec<Cut> {
    let movable = pieces.iter().take_while(|piece| piece.next_offset <= ceiling).count();
    let is_old = |piece: &Piece| {
        bounds.age_ms.is_some_and(|age_ms| now_ms.saturating_sub(piece.newest_ms) > age_ms)
    };
    let old = pieces.iter().take(movable).take_while(|piece| is_old(piece)).count();
    let mut left: u64 = pieces.iter().skip(old).map(|piece| piece.bytes).sum::<u64>() + kept_behind;
    let exceeds = |piece: &&Piece| {
        let Some(bytes) = bounds.bytes else { return false };
        let goes = left.saturating_sub(piece.bytes) >= bytes && left >= piece.bytes;
        left -= if goes { piece.bytes } else { 0 };
        goes
    };
    let long = old + pieces.iter().take(movable).skip(old).take_while(exceeds).count();
    let cut = |count: usize, breach| {
        let last = pieces.get(count.checked_sub(1)?)?;
        Some(Cut { start: last.next_offset, pieces: count, breach })
    };
    let by_age = cut(old, Breach::Age);
    let by_size = if long > old { cut(long, Breach::Size) } else { None };
    by_age.into_iter().chain(by_size).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(parts: &[(u64, i64)]) -> Vec<Piece> {
        let piece = |(i, (bytes, newest_ms)): (usize, &(u64, i64))| Piece {
            next_offset: 10 * (i as Offset + 1),
            bytes: *bytes,
            newest_ms: *newest_ms,
        };
        parts.iter().enumerate().map(piece).collect()
    }

    /// As a person would do it: look at the front again and again.
    fn plainly(
        mut pieces: Vec<Piece>,
        behind: u64,
        bounds: &Bounds,
        ceiling: Offset,
        now_ms: i64,
    ) -> Vec<Offset> {
        let mut gone = Vec::new();
        for by_age in [true, false] {
            while let Some(first) = pieces.first().copied() {
                let total: u64 = pieces.iter().map(|piece| piece.bytes).sum::<u64>() + behind;
                let goes = match (by_age, bounds.age_ms, bounds.bytes) {
                    (true, Some(age), _) => first.newest_ms < now_ms - age,
                    (false, _, Some(bytes)) => total - first.bytes >= bytes,
                    _ => false,
                };
                if !goes || first.next_offset > ceiling {
                    break;
                }
                gone.push(first.next_offset);
                pieces.remove(0);
            }
        }
        gone
    }

    proptest! {
        #[test]
        fn what_goes_is_what_goes_piece_by_piece(
            parts in proptest::collection::vec((0u64..50, 0i64..100), 0..12),
            behind in 0u64..100,
            age_ms in proptest::option::of(0i64..100),
            bytes in proptest::option::of(0u64..300),
            ceiling in 0i64..130,
        ) {
            let (pieces, bounds) = (pieces(&parts), Bounds { age_ms, bytes });
            let cuts = cuts(&pieces, behind, &bounds, ceiling, 100);
            let gone = plainly(pieces.clone(), behind, &bounds, ceiling, 100);
            prop_assert_eq!(cuts.last().map(|cut| cut.start), gone.last().copied());
            prop_assert_eq!(cuts.last().map_or(0, |cut| cut.pieces), gone.len());
            prop_assert!(cuts.iter().all(|cut| cut.start <= ceiling));
            prop_assert!(cuts.windows(2).all(|pair| pair[0].pieces < pair[1].pieces));
            if bounds.keeps_all() {
                prop_assert!(cuts.is_empty());
            }
        }
    }

    #[test]
    fn a_young_piece_at_the_front_keeps_the_old_ones_behind_it() {
        let bounds = Bounds { age_ms: Some(50), bytes: None };
        let parts = pieces(&[(1, 40), (1, 60), (1, 0)]);
        let age = Cut { start: 10, pieces: 1, breach: Breach::Age };
        assert_eq!(cuts(&parts, 0, &bounds, 99, 100), [age]);
        // Exactly at the bound is not beyond it.
        assert_eq!(cuts(&parts, 0, &bounds, 99, 90), []);
    }

    #[test]
    fn each_reason_has_its_part() {
        let bounds = Bounds { age_ms: Some(50), bytes: Some(10) };
        let parts = pieces(&[(10, 0), (10, 99), (10, 99), (5, 99)]);
        let expected = [
            Cut { start: 10, pieces: 1, breach: Breach::Age },
            Cut { start: 20, pieces: 2, breach: Breach::Size },
        ];
        assert_eq!(cuts(&parts, 0, &bounds, 99, 100), expected);
    }
}
