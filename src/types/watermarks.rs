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

    /// Ends the process if the order does not hold: going on would delete or show what must not be.
    ///
    /// # Panics
    /// Where two marks are out of order.
    pub fn assert_ordered(&self) {
        assert!(self.log_start <= self.local_start, "log start above local start: {self:?}");
        assert!(self.local_start <= self.complete, "local start above complete: {self:?}");
        assert!(self.complete <= self.shipped, "complete above shipped: {self:?}");
        assert!(self.shipped <= self.high_watermark, "shipped above high watermark: {self:?}");
        assert!(self.high_watermark <= self.log_end, "high watermark above log end: {self:?}");
    }
}
