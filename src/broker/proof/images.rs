//! The power goes within any call that a life makes to its disk.

use super::model::{Expected, check};
use super::scenario::{Death, Journal, Note, open, play};
use super::{Context, Covered, count, rich_life, seed};
use crate::disk::sim::{Picture, Random, SimDisk};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_within_any_call_loses_nothing_acknowledged() {
    // Counted are those that lack something the life had written.
    let (mut images, mut torn, wanted, mut seed) = (0, 0, count(500, 20_000), seed());
    let mut covered = Covered::default();
    while torn < wanted || !covered.is_at_least(Covered::LIFE) {
        let is_first = images == 0;
        (seed, _) = rich_life(seed, STEPS).await;
        let (disk, pictures, notes) = life(seed).await;
        covered.add(&disk.operations(), &notes);
        let operations = disk.operations();
        for picture in &pictures {
            let what = &operations[picture.operation];
            let context = format!("seed {seed}, within call {}: {what:?}", picture.operation);
            let context = Context(context);
            if !is_first && torn >= wanted {
                break;
            }
            let mut random = Random(seed.wrapping_add(picture.operation as u64));
            let expected = Expected::new(&notes, picture.least, picture.most);
            let image = image(picture, &mut random);
            let lacks = image.has_lost();
            if !lacks && random.below(4) > 0 {
                continue;
            }
            check(&image, expected, &mut random).await;
            images += 1;
            torn += usize::from(lacks);
            drop(context);
        }
        seed += 1;
    }
    println!("{images} images, {torn} of them lack something; {covered:?}");
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
