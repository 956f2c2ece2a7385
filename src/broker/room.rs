//! Whether there is room on the disk of the data directory: what is taken in, what is refused, what becomes of the reserve.
//!
//! ```text
//!            less than the floor is free             the reserve was used, or a write found no room
//!    Room ───────────────────────────────▶ Low ────────────────────────────────────────────────────▶ Full
//!      ▲                                    │                                                          │
//!      └──── twice the floor is free, beside what the reserve lacks; nothing waits for room ───────────┘
//! ```
//!
//! In `Room` batches and topics are taken, as far as what is queued fits twice, in the commit log and in segments, and what
//! is committed already once more. In
//! `Low` and `Full` they are refused; what shrinks the data, ships it or ends the process goes on, from what is free and
//! then from the reserve. What the reserve lacks counts as not free, so nothing that is taken in uses it up.
//!
//! No IO and no clock: the owner looks at the disk and does what [`Room::looked`] says.

use crate::disk::Space;

/// Inodes below which nothing is taken in: a first append takes five and its parent may grow.
const FLOOR_INODES: u64 = 64;
/// Inodes that the first append to a partition takes: directory, `partition.meta`, segment and two indexes.
const FIRST_APPEND_INODES: u64 = 5;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Enough.
    Room,
    /// Nothing is taken in; the reserve is whole.
    Low,
    /// Nothing is taken in, and some of the reserve is used.
    Full,
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Of the file system.
    pub space: Space,
    /// Of the whole reserve.
    pub reserve_bytes: u64,
    /// What of it is not there.
    pub missing_bytes: u64,
    /// What one refill makes of it.
    pub piece_bytes: u64,
    /// Free bytes below which nothing is taken in, beside what the reserve lacks.
    pub floor_bytes: u64,
}

impl Look {
    fn spare_bytes(&self) -> u64 {
        self.space.free_bytes.saturating_sub(self.missing_bytes)
    }

    fn is_low(&self) -> bool {
        self.spare_bytes() < self.floor_bytes || self.space.free_inodes < FLOOR_INODES
    }

    fn has_room(&self) -> bool {
        self.spare_bytes() >= 2 * self.floor_bytes && self.space.free_inodes >= 2 * FLOOR_INODES
    }
}

/// What the owner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effects {
    /// Make a piece of the reserve, and say how that ended.
    pub refill: bool,
    /// Give up the spare files of the commit log.
    pub drop_spares: bool,
}

/// The state of one data directory's disk.
#[derive(Debug, Clone)]
pub(super) struct Room {
    state: State,
    /// As last seen; none before the first look, and where the disk does not say.
    look: Option<Look>,
    /// A committed batch, or a commit, waits for room.
    waits: bool,
    /// The reserve could not be made although there seemed to be room: a quota, or a neighbour that is faster.
    blocked: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self { state: State::Room, look: None, waits: false, blocked: false }
    }
}

impl Room {
    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn last_look(&self) -> Option<Look> {
        self.look
    }

    /// The disk was looked at. Where that failed what was known stands: a disk that says nothing is used until it
    /// refuses.
    pub(super) fn looked(&mut self, look: Option<Look>) -> Effects {
        self.look = look.or(self.look);
        self.settle();
        let Some(look) = self.look else { return Effects::default() };
        Effects {
            refill: look.missing_bytes > 0
                && look.space.free_bytes >= look.piece_bytes + look.floor_bytes
                && look.space.free_inodes > FLOOR_INODES,
            drop_spares: self.waits && look.missing_bytes == look.reserve_bytes,
        }
    }

    /// A write that must not be given up found no room, in the reserve neither. It will be made again.
    pub(super) fn waits(&mut self) {
        self.waits = true;
        self.settle();
    }

    /// Such a write was made, or given up. What there is now the next look says.
    pub(super) fn waits_no_more(&mut self) {
        self.waits = false;
    }

    /// How the making of a piece of the reserve ended.
    pub(super) fn refilled(&mut self, made: bool) {
        self.blocked = !made;
        self.settle();
    }

    /// Whether a batch may be queued when `bytes` and `batches` of all are queued with it, and `committed_bytes` are still to
    /// be written to segments.
    pub(super) fn takes(&self, bytes: usize, batches: usize, committed_bytes: u64) -> bool {
        let Some(look) = self.look.filter(|_| self.state == State::Room) else {
            return self.state == State::Room;
        };
        // Once in the commit log and once in a segment.
        let needed_bytes = (2 * bytes as u64).saturating_add(committed_bytes);
        let needed_inodes = FIRST_APPEND_INODES.saturating_mul(batches as u64);
        needed_bytes <= look.spare_bytes()
            && needed_inodes.saturating_add(FLOOR_INODES) <= look.space.free_inodes
    }

    /// Whether so many partitions may be created: their first appends find inodes.
    pub(super) fn takes_partitions(&self, count: usize) -> bool {
        self.takes(0, count, 0)
    }

    /// Whether a spare file of `bytes` leaves plenty to others.
    pub(super) fn takes_spare(&self, bytes: u64) -> bool {
        self.state == State::Room && self.look.is_none_or(|look| look.spare_bytes() > bytes)
    }

    fn settle(&mut self) {
        let Some(look) = self.look else {
            self.state = if self.waits || self.blocked { State::Full } else { State::Room };
            return;
        };
        let used = look.missing_bytes > 0 || self.waits || self.blocked;
        let refuses = match self.state {
            State::Room => look.is_low(),
            State::Low | State::Full => !look.has_room(),
        };
        self.state = match (refuses || self.waits || self.blocked, used) {
            (false, _) => State::Room,
            (true, false) => State::Low,
            (true, true) => State::Full,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Random;

    const MIB: u64 = 1 << 20;

    fn look(free_bytes: u64, missing_bytes: u64) -> Look {
        let space = Space { total_bytes: 1600 * MIB, free_bytes, free_inodes: 10_000 };
        Look {
            space,
            reserve_bytes: 16 * MIB,
            missing_bytes,
            piece_bytes: MIB,
            floor_bytes: 2 * MIB,
        }
    }

    #[test]
    fn a_disk_that_fills_and_empties_refuses_and_takes_again() {
        let mut room = Room::default();
        assert_eq!(room.looked(Some(look(100 * MIB, 0))), Effects::default());
        assert!(room.takes(50 << 20, 1, 0) && !room.takes(51 << 20, 1, 0));
        assert!(room.takes(25 << 20, 1, 50 << 20) && !room.takes(26 << 20, 1, 50 << 20));
        room.looked(Some(look(2 * MIB - 1, 0)));
        assert_eq!(room.state(), State::Low);
        assert!(!room.takes(1, 1, 0));
        // A piece was released; what is free of it is no room for appends.
        assert!(room.looked(Some(look(4 * MIB, 3 * MIB))).refill);
        assert_eq!(room.state(), State::Full);
        room.looked(Some(look(4 * MIB - 1, 0)));
        assert_eq!(room.state(), State::Low);
        room.looked(Some(look(4 * MIB, 0)));
        assert_eq!(room.state(), State::Room);
    }

    #[test]
    fn inodes_count_as_room_does() {
        let mut room = Room::default();
        let mut now = look(100 * MIB, 0);
        now.space.free_inodes = FLOOR_INODES + 5 * FIRST_APPEND_INODES;
        room.looked(Some(now));
        assert!(room.takes_partitions(5) && !room.takes_partitions(6));
        now.space.free_inodes = FLOOR_INODES - 1;
        room.looked(Some(now));
        assert_eq!(room.state(), State::Low);
        now.space.free_inodes = u64::MAX;
        room.looked(Some(now));
        assert!(room.takes_partitions(1_000_000));
    }

    #[test]
    fn a_quota_that_statistics_do_not_show_is_full_until_the_reserve_can_be_made() {
        let mut room = Room::default();
        room.looked(Some(look(1000 * MIB, 0)));
        room.waits();
        assert_eq!(room.state(), State::Full);
        assert!(room.looked(Some(look(1000 * MIB, 16 * MIB))).drop_spares);
        room.waits_no_more();
        room.refilled(false);
        assert!(room.looked(Some(look(1000 * MIB, 16 * MIB))).refill);
        assert_eq!(room.state(), State::Full);
        room.refilled(true);
        assert_eq!(room.state(), State::Room);
    }

    #[test]
    fn whatever_is_seen_nothing_that_is_taken_in_uses_the_reserve() {
        let mut changes = 0;
        for seed in 0..200 {
            let mut random = Random(seed);
            let mut room = Room::default();
            for step in 0..300 {
                let before = room.state();
                match random.below(8) {
                    0 => room.waits(),
                    1 => room.waits_no_more(),
                    2 => room.refilled(random.coin()),
                    _ => {
                        let missing = random.below(17) as u64 * MIB * u64::from(random.coin());
                        let now = look(random.bits() % (40 * MIB), missing);
                        let effects = room.looked(Some(now));
                        assert!(!effects.refill || now.missing_bytes > 0, "{seed} {step}");
                        let left = now.space.free_bytes.saturating_sub(now.piece_bytes);
                        assert!(!effects.refill || left >= now.floor_bytes, "{seed} {step}");
                    }
                }
                let Some(now) = room.last_look() else { continue };
                let bytes = random.below(32 << 20);
                if room.takes(bytes, 1, 0) {
                    assert_eq!(room.state(), State::Room, "{seed} {step}");
                    let left = now.space.free_bytes - 2 * bytes as u64;
                    assert!(left >= now.missing_bytes, "{seed} {step}");
                }
                assert!(!(room.waits && room.state() == State::Room), "{seed} {step}");
                // What is free beside the reserve always ends the refusals once nothing waits.
                let mut freed = room.clone();
                (freed.waits, freed.blocked) = (false, false);
                freed.looked(Some(look(1000 * MIB, now.missing_bytes)));
                assert_eq!(freed.state(), State::Room, "{seed} {step}");
                changes += usize::from(before != room.state());
            }
        }
        assert!(changes > 4_000, "{changes}");
    }
}
