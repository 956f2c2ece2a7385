//! Any look at the disk fails: it is never taken for "nothing there".

use std::collections::BTreeMap;
use std::error::Error as _;

use super::super::*;
use super::model::{Expected, Seen, check, try_read};
use super::scenario::{Death, Journal, Note, Place, STAMP_MS, open, play};
use super::{Context, Covered, count, rich_life, seed};
use crate::disk::sim::{Picture, Random, Read, SimDisk};

const EIO: i32 = 5;
const STEPS: usize = 40;

/// A rich life, and pictures of it.
async fn life(seed: u64) -> (Vec<Picture>, Vec<Note>, Covered) {
    let (disk, journal, mut covered) = (SimDisk::new(), Journal::default(), Covered::default());
    let clock = journal.clone();
    disk.take_pictures(move || clock.len());
    play(&disk, &Death::of(&disk), &journal, seed, STEPS).await.unwrap();
    Death::is_a_defect();
    covered.add(&disk.operations(), &journal.notes());
    (disk.pictures(), journal.notes(), covered)
}

/// Which of these reads fail in the short mode: of each sort (how, and of what sort of file) the first two, and every so many
/// of the rest.
fn some(reads: &[Read], random: &mut Random) -> Vec<usize> {
    let mut seen = BTreeMap::new();
    let mut is_chosen = |read: &Read| {
        let sort = format!("{read:?}").replace(|c: char| c.is_ascii_digit(), "");
        let met: &mut usize = seen.entry(sort).or_default();
        *met += 1;
        *met <= 2 || random.below(count(20, 1)) == 0
    };
    (0..reads.len()).filter(|number| is_chosen(&reads[*number])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_read_something_is_refused_or_says_what_is_offline_and_the_next_finds_all()
 {
    let (seed, _) = rich_life(seed(), STEPS).await;
    let (pictures, notes, covered) = life(seed).await;
    println!("{covered:?}");
    let mut random = Random(seed);
    let (mut refused, mut offline, mut opened) = (0, 0, 0);
    for _ in 0..count(2, 100) {
        // Late ones have most of the kinds of files.
        let at = pictures.len() / 2 + random.below(pictures.len() / 2);
        let picture = &pictures[at];
        let image = picture.disk.crash(random.bits());
        let sound = image.crash(0);
        open(&sound).unwrap().stop();
        for fail in some(&sound.reads(), &mut random) {
            let disk = image.crash(0);
            disk.fail_read_at(Some((fail, EIO)));
            let result = open(&disk);
            let what = disk.reads().get(fail).cloned();
            let context =
                Context(format!("seed {seed}, picture {at}, failed read {fail}: {what:?}"));
            let expected = || Expected::new(&notes, picture.least, picture.most);
            let broker = match result {
                Ok(broker) if broker.offline().is_empty() => {
                    opened += 1;
                    disk.fail_read_at(None);
                    expected().holds(&broker).await;
                    Some(broker)
                }
                // What of one partition cannot be read keeps that one alone from being served.
                Ok(broker) => {
                    offline += 1;
                    Some(broker)
                }
                Err(error) => {
                    refused += 1;
                    // Of a name that could not be looked for nothing but its absence may be found next.
                    let is_look = matches!(what, Some(Read::Exists(_)));
                    assert!(is_look || says_why(&error), "{error:?}");
                    None
                }
            };
            // Whatever the failed start did: nothing is lost by it.
            let left = if random.coin() { disk.restart() } else { disk.crash(random.bits()) };
            if let Some(broker) = broker {
                broker.stop();
            }
            check(&left, expected(), &mut random).await;
            drop(context);
        }
    }
    println!("{refused} starts refused, {offline} with something offline, {opened} whole");
    assert!(refused + offline > 40 && offline > 10, "{refused}, {offline}");
}

/// Whether the cause of the cause is the disk's error.
fn says_why(error: &OpenError) -> bool {
    let mut source = error.source();
    let mut text = error.to_string();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text.contains("os error 5")
}

/// All partitions, read from their ends on, with searches by time; up to the first error.
async fn look(broker: &Broker) -> Result<Vec<(Place, Vec<Seen>, Vec<i64>)>, ReadError> {
    let mut all = Vec::new();
    for topic in broker.topics() {
        for (index, partition) in (0..).zip(topic.partitions()) {
            let seen = try_read(partition).await?;
            let found = partition.offset_for_timestamp(STAMP_MS).await?;
            let highest = partition.max_timestamp().await?;
            let offsets = [found, highest].map(|found| found.map_or(-1, |found| found.offset));
            all.push(((topic.id(), index), seen, offsets.to_vec()));
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_disk_fails_gets_that_error_and_the_next_reader_gets_all() {
    let (seed, _) = rich_life(seed(), STEPS).await;
    let (pictures, ..) = life(seed).await;
    let mut random = Random(seed);
    let (mut failed, mut passed) = (0, 0);
    for _ in 0..count(3, 30) {
        let picture = &pictures[pictures.len() / 2 + random.below(pictures.len() / 2)];
        let image = picture.disk.restart();
        open(&image).unwrap().stop();
        let sound = image.restart();
        let broker = open(&sound).unwrap();
        let before = sound.reads().len();
        let whole = look(&broker).await.unwrap();
        let reads = sound.reads().split_off(before);
        broker.stop();
        for fail in some(&reads, &mut random) {
            let disk = image.restart();
            let broker = open(&disk).unwrap();
            disk.fail_read_at(Some((disk.reads().len() + fail, EIO)));
            let context = Context(format!("seed {seed}, failed read {fail} of a reader"));
            match look(&broker).await {
                Err(ReadError::Storage(error)) => {
                    failed += 1;
                    assert!(format!("{error:?}").contains("code: 5"), "{error:?}");
                }
                Err(error) => panic!("{error:?}"),
                // Nobody needed it: a hint was made without.
                Ok(seen) => {
                    passed += 1;
                    assert!(seen == whole);
                }
            }
            disk.fail_read_at(None);
            assert!(look(&broker).await.unwrap() == whole);
            broker.stop();
            drop(context);
        }
    }
    println!("{failed} readers met the error, {passed} did not");
    assert!(failed > 60, "{failed}");
}
