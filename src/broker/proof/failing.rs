//! Any call that a life makes to its disk fails.
//!
//! The life is one that has everything in it, see [`Covered::LIFE`]. In the short mode, of each sort of call (what is done
//! to what sort of file) the first two fail in each way, and one in 24 of the rest; in the long mode every call of ten
//! lives does.
//!
//! No call fails with EINTR: that, and a short write that can be finished, is finished below [`crate::disk`] (see its own
//! tests, and `compat-tests/tests/sync_errors.rs` for the real calls). A write of which some is done before it fails is torn
//! here, at any eighth.

use std::collections::BTreeMap;
use std::path::Path;

use super::model::{Expected, check};
use super::scenario::{Death, Journal, Over, play};
use super::{Context, Covered, count, is_below, rich_life, seed};
use crate::disk::sim::{Operation, Random, SimDisk};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const STEPS: usize = 40;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Error(i32),
    /// It is a write, and some of it is done before.
    Torn(i32),
}

/// Which calls of a life are to fail in the short mode: of each sort the first ones, and every so many of the rest.
fn chosen(operations: &[Operation], random: &mut Random) -> Vec<usize> {
    let mut seen = BTreeMap::new();
    let mut is_chosen = |operation: &Operation| {
        let met: &mut usize = seen.entry(sort(operation)).or_default();
        *met += 1;
        *met <= 2 || random.below(count(24, 1)) == 0
    };
    let all = operations.iter().enumerate();
    all.filter(|(_, operation)| is_chosen(operation)).map(|(number, _)| number).collect()
}

/// What it does to what sort of file: by the ends of the names, which stand before commas and brackets.
fn sort(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    let parts = text.split(['(', ',', '"']).filter_map(|part| match part.rsplit_once('.') {
        Some((_, end)) => Some(end),
        None => part.chars().all(char::is_alphabetic).then_some(part),
    });
    // And of what topic a segment goes: to be deleted, or to be replaced.
    let place = match operation {
        Operation::Remove(path) if text.contains(".log") => path.parent().and_then(Path::to_str),
        _ => text.contains("/commitlog/").then_some("commitlog"),
    };
    parts.chain(place).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_call_nothing_is_acknowledged_that_is_not_there() {
    let (mut next_seed, mut lives, mut calls, mut deaths) = (seed(), 0, 0, 0);
    let mut covered = Covered::default();
    // Of each there was one that failed. Moves of log starts are commits as any others.
    let wanted = Covered { segments: 1, checkpoints: 1, cut: 0, ..Covered::LIFE };
    // Threads take other turns in each life, so that a call may be another than the chosen one.
    while lives < count(1, 10) || !covered.is_at_least(wanted) {
        assert!(lives < count(5, 10), "{covered:?}");
        lives += 1;
        let (seed, operations) = rich_life(next_seed, STEPS).await;
        next_seed = seed + 1;
        for failure in [Failure::Error(EIO), Failure::Error(ENOSPC), Failure::Torn(EIO)] {
            for fail in chosen(&operations, &mut Random(seed ^ calls as u64)) {
                let mut random = Random(seed.wrapping_add(fail as u64));
                let disk = SimDisk::new();
                match failure {
                    Failure::Error(errno) => disk.fail_at(fail, errno),
                    Failure::Torn(errno) => disk.tear_at(fail, errno, random.below(9)),
                }
                let (death, journal) = (Death::of(&disk), Journal::default());
                let over = play(&disk, &death, &journal, seed, STEPS).await;
                let operations = disk.operations();
                let Some(failed) = operations.get(fail) else { continue };
                let context =
                    Context(format!("seed {seed}, {failure:?} of call {fail}: {failed:?}"));
                calls += 1;
                covered.add(std::slice::from_ref(failed), &[]);
                deaths += usize::from(
                    judge(over, failed, failure, (&disk, &death, &journal), random).await,
                );
                drop(context);
            }
        }
    }
    println!("{calls} failed calls of {lives} lives, {deaths} deaths; failed were {covered:?}");
    assert!(calls > 150 && deaths > 50, "{calls} {deaths}");
}

/// Whether a life that met the failure ended as it should, and what it leaves is right. Whether a thread died.
async fn judge(
    over: Result<(), Over>,
    failed: &Operation,
    failure: Failure,
    (disk, death, journal): (&SimDisk, &Death, &Journal),
    mut random: Random,
) -> bool {
    if failure != Failure::Error(ENOSPC) && commits(failed) {
        assert!(over.is_err(), "goes on after a failed commit");
    }
    let words = death.last_words();
    let died = words.is_some();
    let left = match (over, words) {
        (_, Some((code, why, left))) => {
            assert!(code == 74 && !why.is_empty(), "{code}: {why}");
            left
        }
        (Err(Over::Died), None) => panic!("died without a word"),
        (Err(Over::NotOpened(error)), None) => {
            assert!(!error.to_string().is_empty());
            disk.restart()
        }
        (Ok(()), None) => disk.restart(),
    };
    Death::is_a_defect();
    let notes = journal.notes();
    let expected = Expected::new(&notes, notes.len(), notes.len());
    // What the page cache still shows may be taken for true once, and must be true from then on.
    let image = if random.coin() { left } else { left.crash(random.bits()) };
    check(&image, expected, &mut random).await;
    died
}

/// Whether acknowledgements wait for it: what stands behind a file's header. A spare is filled from its beginning.
fn commits(operation: &Operation) -> bool {
    matches!(operation, Operation::WriteSynced(path, 512.., _) if is_below(path, "commitlog"))
}
