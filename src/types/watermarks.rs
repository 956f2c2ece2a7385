//! The watermarks of a partition, in one place so that their order is checked whenever one moves.

use super::Offset;

/// Offsets that bound a partition. All but the starts are exclusive upper bounds. Always
/// `log_start <= local_start <= complete <= shipped <= high_watermark <= log_end`; a partition that does not ship has
/// `shipped = complete = local_start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset that can be read anywhere.
    pub log_start: Offset,
    /// First offset that can be read from local disk.
    pub local_start: Offset,
    /// All shards of all below were read back and verified; local data is deleted below it only.
    pub complete: Offset,
    /// The fragments and manifest entries of all below are on the shard servers.
    pub shipped: Offset,
    /// All below is synced in the commit log and written to the segment: what readers may see.
    pub high_watermark: Offset,
    /// The next offset to hand out.
    pub log_end: Offset,
}

impl Watermarks {
    /// An empty partition that begins at `start`.
    #[must_use]
    pub fn starting_at(start: Offset) -> Self {
        Self {
            log_start: start,
            local_start: start,
            complete: start,
            shipped: start,
            high_watermark: start,
            log_end: start,
        }
    }

    /// Whether an offset is in the log and no longer on local disk.
    #[must_use]
    pub fn is_cold(&self, offset: Offset) -> bool {
        (self.log_start..self.local_start).contains(&offset)
    }

    /// What does not hold of the order, if anything.
    #[must_use]
    pub fn broken_order(&self) -> Option<&'static str> {
        let rules = [
            (self.log_start <= self.local_start, "log start above local start"),
            (self.local_start <= self.complete, "local start above complete"),
            (self.complete <= self.shipped, "complete above shipped"),
            (self.shipped <= self.high_watermark, "shipped above high watermark"),
            (self.high_watermark <= self.log_end, "high watermark above log end"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, broken)| *broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_break_of_the_order_is_named() {
        let good = Watermarks {
            log_start: 1,
            local_start: 2,
            complete: 3,
            shipped: 4,
            high_watermark: 5,
            log_end: 6,
        };
        assert_eq!(good.broken_order(), None);
        for bad in [
            Watermarks { log_start: 3, ..good },
            Watermarks { local_start: 4, ..good },
            Watermarks { complete: 5, ..good },
            Watermarks { shipped: 6, ..good },
            Watermarks { high_watermark: 7, ..good },
        ] {
            assert!(bad.broken_order().is_some(), "{bad:?}");
        }
    }
}
