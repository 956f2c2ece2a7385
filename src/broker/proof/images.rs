//! The power goes within any call that a life makes to its disk.

use std::path::PathBuf;

use super::model::{Expected, check};
use super::scenario::{Death, Journal, Note, open, play};
use super::{Context, count, is_below, seed};
use crate::disk::sim::{Operation, Picture, Random, SimDisk};

/// Of one life.
const STEPS: usize = 40;

/// A life with a picture of each of its calls.
async fn life(seed: u64) -> (SimDisk, Vec<Picture>, Vec<Note>) {
    let (disk, journal) = (SimDisk::new(), Journal::default());
    let clock = journal.clone();
    disk.take_pictures(move || clock.len());
    play(&disk, &Death::of(&disk), &journal, seed, STEPS).await.unwrap();
    Death::is_a_defect();
    let (pictures, notes) = (disk.pictures(), journal.notes());
    (disk, pictures, notes)
}

/// How often a life did what it is there for.
#[derive(Debug, Default)]
struct Covered {
    segments: usize,
    checkpoints: usize,
    recycled: usize,
    freed: usize,
    removed: usize,
}

impl Covered {
    fn is_enough(&self) -> bool {
        let Self { segments, checkpoints, recycled, freed, removed } = *self;
        segments > 20 && checkpoints > 5 && recycled > 3 && freed > 2 && removed > 5
    }

    fn add(&mut self, operations: &[Operation]) {
        let ends = |path: &PathBuf, end: &str| path.to_string_lossy().ends_with(end);
        for operation in operations {
            match operation {
                Operation::Create(path) if ends(path, ".timeindex") => self.segments += 1,
                Operation::Rename(_, to) if ends(to, "meta/checkpoint") => self.checkpoints += 1,
                Operation::Rename(from, to) if is_below(to, "commitlog") => {
                    if ends(to, ".log") {
                        self.recycled += 1;
                    } else if ends(from, ".log") {
                        self.freed += 1;
                    }
                }
                Operation::Remove(path) if !is_below(path, "commitlog") => self.removed += 1,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_within_any_call_loses_nothing_acknowledged() {
    let (mut images, wanted, first_seed) = (0, count(500, 20_000), seed());
    let (mut covered, mut seed) = (Covered::default(), first_seed);
    while images < wanted || !covered.is_enough() {
        assert!(
            seed < first_seed + 10 || images < wanted,
            "these lives lack something: {covered:?}"
        );
        let (disk, pictures, notes) = life(seed).await;
        covered.add(&disk.operations());
        let operations = disk.operations();
        for picture in &pictures {
            let what = &operations[picture.operation];
            let context = format!("seed {seed}, within call {}: {what:?}", picture.operation);
            let context = Context(context);
            let mut random = Random(seed.wrapping_add(picture.operation as u64));
            let expected = Expected::new(&notes, picture.least, picture.most);
            let image = image(picture, &mut random);
            check(&image, expected, &mut random).await;
            images += 1;
            drop(context);
        }
        seed += 1;
    }
    println!("{images} images; {covered:?}");
}

/// What the next start finds: after a power cut; after one more within the recovery from that; after a kill alone.
fn image(picture: &Picture, random: &mut Random) -> SimDisk {
    let image = match picture.operation % 3 {
        0 => return picture.disk.crash(random.bits()),
        1 => picture.disk.crash(random.bits()),
        _ => return picture.disk.restart(),
    };
    image.take_pictures(|| 0);
    let broker = open(&image).unwrap();
    let pictures = image.pictures();
    broker.stop();
    pictures[random.below(pictures.len())].disk.crash(random.bits())
}
