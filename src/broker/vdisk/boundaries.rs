//! Where the lists of flushed sequences end.
//!
//! ```text
//!   told        closed[0]      closed[1] = open_from        end
//!    |--- list ----|---- list ----|------ open list --------|
//! ```
//!
//! Every list ends at a boundary: flush-size blocks, flush-time after the first block of the open list, a force flush, or
//! an attach that must have everything shipped. A boundary never moves once closed.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::types::Offset;
use crate::types::limits::VDISK_FORCE_FLUSH_MARKS;

#[derive(Debug)]
pub(super) struct Boundaries {
    flush_size: usize,
    flush_time: Duration,
    told: Offset,
    closed: VecDeque<Offset>,
    open_from: Offset,
    /// When the open list got its first block.
    opened_at: Option<Instant>,
    /// Sequences at which a force flush is due once they come.
    marks: BTreeSet<u64>,
}

impl Boundaries {
    /// Of a log whose offsets below `told` are shipped.
    pub fn new(flush_size: usize, flush_time: Duration, told: Offset) -> Self {
        Self {
            flush_size: flush_size.max(1),
            flush_time,
            told,
            closed: VecDeque::new(),
            open_from: told,
            opened_at: None,
            marks: BTreeSet::new(),
        }
    }

    /// All below was listed, or never has to be.
    pub fn told(&self) -> Offset {
        self.told
    }

    /// All below has its boundary.
    pub fn open_from(&self) -> Offset {
        self.open_from
    }

    /// A block was appended at `offset`. True where a boundary follows it.
    pub fn appended(&mut self, offset: Offset, sequence: u64, now: Instant) -> bool {
        let end = offset + 1;
        self.opened_at.get_or_insert(now);
        let marked = self.marks.first().is_some_and(|mark| *mark <= sequence);
        if marked {
            self.marks = self.marks.split_off(&(sequence + 1));
        }
        let full = end.abs_diff(self.open_from) >= self.flush_size as u64;
        (marked || full) && self.close(end)
    }

    /// Puts a boundary at `end`. False where the open list is empty.
    pub fn close(&mut self, end: Offset) -> bool {
        if end <= self.open_from {
            return false;
        }
        self.closed.push_back(end);
        self.open_from = end;
        self.opened_at = None;
        true
    }

    /// Remembers a force flush at a sequence that has not come.
    pub fn mark(&mut self, sequence: u64) {
        self.marks.insert(sequence);
        if self.marks.len() > VDISK_FORCE_FLUSH_MARKS {
            self.marks.pop_last();
        }
    }

    /// Forgets what is due at sequences of an older numbering.
    pub fn clear_marks(&mut self) {
        self.marks.clear();
    }

    /// When the open list is closed by its age.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.opened_at? + self.flush_time)
    }

    /// The next list that lies below `shipped` as a range of offsets, at most flush-size long.
    pub fn next_list(&mut self, shipped: Offset) -> Option<(Offset, Offset)> {
        let boundary = *self.closed.front()?;
        if boundary > shipped {
            return None;
        }
        let first = self.told;
        let most = i64::try_from(self.flush_size).unwrap_or(i64::MAX);
        let end = boundary.min(first.saturating_add(most));
        if end == boundary {
            self.closed.pop_front();
        }
        self.told = end;
        Some((first, end))
    }

    /// Nothing below `end` has to be listed any more, and the open list begins there.
    pub fn skip_to(&mut self, end: Offset) {
        self.closed.clear();
        self.told = end;
        self.open_from = end;
        self.opened_at = None;
    }
}
