//! A broker against a disk that loses its power, fails and rots.
//!
//! ```text
//!   scenario.rs   a life drawn from a seed ──▶ journal: what was asked, what was answered
//!                      │ every call to the disk                 │
//!                      ▼                                        ▼
//!   images.rs     the disk as it was within each call      model.rs   what must be there then, what may
//!   failing.rs    a call that fails                              │
//!   unread.rs     a look that fails
//!        └──────────────▶ opened, compared, cut off and opened again ◀──┘
//!   flips.rs      a bit or a sector of any file is another
//!   offline.rs    a partition that cannot be opened, and what is kept of it meanwhile
//! ```
//!
//! A new kind of event becomes one more `Step` of the scenario, and what it may take away is said by a note of the journal and
//! allowed for in the model; images and failing calls then meet it, and [`Covered`] says that they did. `flips.rs` does not
//! depend on what happened: rot is right bytes, a named range, a partition that is offline, or a start that is refused.
//!
//! Each run draws its seed afresh and says it; `TLOG_TEST_SEED` repeats one, but for the moments at which threads take
//! turns. `TLOG_TEST_LONG` has more lives, images and bits.
//!
//! # What was taken out, and which test saw it
//!
//! One at a time; further tables are in `wal/wal/tests.rs`, `log/proof/tests.rs` and `tier/tier/promises.rs`.
//!
//! | taken out | fails (the first, where several) |
//! |---|---|
//! | sync of segments at a checkpoint | `a_power_cut_within_any_call_…` |
//! | sync of the checkpoint's file | `a_power_cut_within_any_call_…`, `after_a_failed_call_…` |
//! | its way by another name and a rename | `a_power_cut_within_any_call_…`, `after_a_failed_call_…` |
//! | sync of its directory | `a_power_cut_within_any_call_…`, `what_was_acknowledged_survives_…` |
//! | checkpoint before the commit log is freed, in recovery | `a_power_cut_within_any_call_…` |
//! | sync of what recovery wrote | `a_power_cut_within_any_call_…` |
//! | recovery writes also what seems to be there | `after_a_failed_call_…` |
//! | a topic's id is its own, not its name's | `a_deleted_topic_stays_deleted_and_its_name_gets_a_new_id` |
//! | replay skips topics that are deleted later | `a_power_cut_within_any_call_…`, `after_a_failed_call_…` |
//! | a deletion is durable before a file goes | `a_power_cut_within_any_call_…` |
//! | a commit is synced before it is applied | `a_power_cut_within_any_call_…`, `after_a_failed_call_…` |
//! | an unclean start raises the epoch | `a_power_cut_within_any_call_…`, `what_was_acknowledged_survives_…` |
//! | the epoch table of a replayed batch | `a_power_cut_within_any_call_…` |
//! | producer states from replayed batches | `a_power_cut_within_any_call_…` |
//! | producer ids above those handed out | `a_power_cut_within_any_call_…` |
//! | high watermark: bound of a read, of its first offset, of a search by time | `what_a_segment_has_above_the_high_watermark_is_not_shown` |
//! | high watermark: end of the current epoch | `no_end_is_above_the_high_watermark` |
//! | sync of segment files in `log` | `a_power_cut_within_any_call_…` |
//! | sync of a partition's directory, and of its parent | `a_power_cut_within_any_call_…` |
//! | high watermark told by Fetch (also as last stable offset) and by ListOffsets | `the_end_that_is_told_is_the_high_watermark` |
//! | commit log kept where a checkpoint failed | `a_checkpoint_that_failed_frees_nothing_of_the_commit_log` |
//! | sync of what is kept aside of an offline partition | `a_power_cut_on_the_way_out_or_back_loses_nothing` |
//! | its removal once it is moved back | `an_offline_partition_says_so_and_the_others_are_served` |
//! | that removal at once, by a rename; the sync behind the rename | `a_power_cut_on_the_way_out_or_back_loses_nothing` |
//! | a log start is durable before files go, and is replayed | `a_power_cut_within_any_call_…` |
//! | a vdisk is compacted by extent | `a_power_cut_within_any_call_…` |
//! | sync of a compacted segment, of its new name, of the removal of the old ones | `a_power_cut_within_any_call_…` |
//! | an error of a read of the commit log | `a_start_that_cannot_read_something_…` |
//! | an error of a read of a batch's header | `a_reader_whose_disk_fails_…` |
//! | sync of the parent of the commit log's directory | `a_power_cut_after_a_kill_loses_nothing_acknowledged` (`wal`) |
//!
//! These went unseen, and why that may be:
//! * An unclean start that wrote nothing, and one whose number only reached the memory, may use an epoch again in which
//!   nothing was appended: it has no entry in any table, and no reader saw a record of it. What was appended carries its
//!   epoch, from which the next start goes on.
//! * Left-over files of a deleted topic, in recovery and behind the unsynced directory, take room and nothing else: the next
//!   topic of that name removes them by the id in `partition.meta`.
//! * The high watermark that a Fetch waits for, in place of the log's end: it reads in vain, and is told the same.
//! * What was kept aside goes after the checkpoint of the start that moved it back; before, it would be in its segments,
//!   synced, and below the checkpoint that is there.
//! * Compaction up to the checkpoint alone: what is not synced is not replaced either, by another check. The syncs of the
//!   directory before a compacted segment's new name and behind its last: indexes are made anew, and the swap is made again.
//! * Deletions stay for `delete.retention.ms`: the model asks for the newest values alone (`log/compaction/tests.rs` for more).
//! * An error of a look at an index or a sidecar, taken for a missing one: those are hints, and are made anew.
//! * The data directory's entry in its parent is synced again by each start and whenever a directory is made in it.

mod failing;
mod flips;
mod images;
mod model;
mod offline;
pub(super) mod scenario;
mod unread;

use std::path::{Path, PathBuf};

use crate::disk::sim::{Operation, SimDisk};
use scenario::{Death, Journal, Note, play};

/// More in the long mode.
pub(super) fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("TLOG_TEST_LONG").is_some() { long } else { short }
}

pub(super) fn seed() -> u64 {
    let seed = match std::env::var("TLOG_TEST_SEED") {
        Ok(text) => text.parse().expect("TLOG_TEST_SEED is a number"),
        Err(_) => {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes).unwrap();
            u64::from(u32::from_le_bytes(bytes))
        }
    };
    println!("TLOG_TEST_SEED={seed}");
    seed
}

/// Says where a test was when it failed.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// How often lives did what they are there for.
#[derive(Debug, Clone, Copy, Default)]
struct Covered {
    segments: usize,
    checkpoints: usize,
    recycled: usize,
    freed: usize,
    /// Topics that were deleted, as far as they had files.
    deleted: usize,
    /// Log starts that moved by retention or on request.
    cut: usize,
    /// Segments of topics that were not deleted, below a log start.
    unlinked: usize,
    /// Compacted segments that were put in the place of others.
    replaced: usize,
}

impl Covered {
    /// What a life that is worth looking at has.
    const LIFE: Self = Self {
        segments: 8,
        checkpoints: 2,
        recycled: 1,
        freed: 1,
        deleted: 1,
        cut: 1,
        unlinked: 1,
        replaced: 1,
    };

    fn is_at_least(&self, other: Self) -> bool {
        self.segments >= other.segments
            && self.checkpoints >= other.checkpoints
            && self.recycled >= other.recycled
            && self.freed >= other.freed
            && self.deleted >= other.deleted
            && self.cut >= other.cut
            && self.unlinked >= other.unlinked
            && self.replaced >= other.replaced
    }

    fn add(&mut self, operations: &[Operation], notes: &[Note]) {
        let ends = |path: &PathBuf, end: &str| path.to_string_lossy().ends_with(end);
        let is_of = |path: &PathBuf, name: &str| {
            path.strip_prefix(scenario::DATA)
                .is_ok_and(|path| path.to_string_lossy().starts_with(name))
        };
        for operation in operations {
            match operation {
                Operation::Create(path) if ends(path, ".timeindex") => self.segments += 1,
                Operation::Rename(_, to) if ends(to, "meta/checkpoint") => self.checkpoints += 1,
                Operation::Rename(_, to) if ends(to, ".swap") => self.replaced += 1,
                Operation::Rename(from, to) if is_below(to, "commitlog") => {
                    if ends(to, ".log") {
                        self.recycled += 1;
                    } else if ends(from, ".log") {
                        self.freed += 1;
                    }
                }
                // Of a topic that is deleted the whole directory goes.
                Operation::Remove(path) if ends(path, "partition.meta") => self.deleted += 1,
                // Not what compaction replaces.
                Operation::Remove(path) if ends(path, ".log") => {
                    let is_plain = ["a-", "b-"].iter().any(|name| is_of(path, name));
                    self.unlinked += usize::from(is_plain);
                }
                _ => {}
            }
        }
        let mut starts = std::collections::BTreeMap::new();
        for note in notes {
            if let Note::Cut(place, start) = note {
                let before = starts.insert(*place, *start).unwrap_or(0);
                self.cut += usize::from(before < *start);
            }
        }
    }
}

/// The next seed from `seed` on whose life has everything in it, as far as threads take the same turns again.
async fn rich_life(seed: u64, steps: usize) -> (u64, Vec<Operation>) {
    for seed in seed..seed + 60 {
        let (disk, journal, mut covered) = (SimDisk::new(), Journal::default(), Covered::default());
        play(&disk, &Death::of(&disk), &journal, seed, steps).await.unwrap();
        Death::is_a_defect();
        covered.add(&disk.operations(), &journal.notes());
        if covered.is_at_least(Covered::LIFE) {
            return (seed, disk.operations());
        }
    }
    panic!("no life has everything in it");
}

fn is_below(path: &Path, dir: &str) -> bool {
    path.starts_with(PathBuf::from(scenario::DATA).join(dir))
}
