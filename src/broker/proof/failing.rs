//! Any call that a life makes to its disk fails.

use super::model::{Expected, check};
use super::scenario::{Death, Journal, Over, play};
use super::{Context, count, is_below, seed};
use crate::disk::sim::{Operation, Random, SimDisk};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const STEPS: usize = 26;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_call_nothing_is_acknowledged_that_is_not_there() {
    let (first_seed, mut calls, mut deaths) = (seed(), 0, 0);
    let lives = (first_seed..).take(count(1, 10));
    for (seed, errno) in lives.flat_map(|seed| [(seed, EIO), (seed, ENOSPC)]) {
        // In the short mode every second call with each kind of error.
        for fail in (usize::from(errno == EIO)..).step_by(count(2, 1)) {
            let disk = SimDisk::new();
            disk.fail_at(fail, errno);
            let (death, journal) = (Death::of(&disk), Journal::default());
            let over = play(&disk, &death, &journal, seed, STEPS).await;
            let operations = disk.operations();
            let Some(failed) = operations.get(fail) else { break };
            let context = Context(format!("seed {seed}, error {errno} of call {fail}: {failed:?}"));
            calls += 1;
            if errno == EIO && commits(failed) {
                assert!(over.is_err(), "goes on after a failed commit");
            }
            let left = match (over, death.last_words()) {
                (_, Some((code, why, left))) => {
                    assert!(code == 74 && !why.is_empty(), "{code}: {why}");
                    deaths += 1;
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
            let mut random = Random(seed.wrapping_add(fail as u64));
            let notes = journal.notes();
            let expected = Expected::new(&notes, notes.len(), notes.len());
            // What the page cache still shows may be taken for true once, and must be true from then on.
            let image = if random.coin() { left } else { left.crash(random.bits()) };
            check(&image, expected, &mut random).await;
            drop(context);
        }
    }
    println!("{calls} failed calls, {deaths} deaths");
    assert!(calls > 100 && deaths > 20, "{calls} {deaths}");
}

/// Whether acknowledgements wait for it: what stands behind a file's header. A spare is filled from its beginning.
fn commits(operation: &Operation) -> bool {
    matches!(operation, Operation::WriteSynced(path, 512.., _) if is_below(path, "commitlog"))
}
