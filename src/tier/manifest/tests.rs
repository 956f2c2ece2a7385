use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::header::SequenceRange;
use super::super::testing::{entry, fragment};
use super::*;

/// Made once: sealing takes a while without optimisation.
static ENTRY: LazyLock<ManifestEntry> = LazyLock::new(|| entry(&fragment()));

fn hash(number: u64, epoch: i32) -> Hash {
    std::array::from_fn(|i| (number as u8).wrapping_mul(31) ^ (epoch as u8) ^ i as u8)
}

/// A fragment of ten records in epoch 1 that follows the one before it.
fn link(number: u64, first_offset: Offset, previous: Hash) -> ManifestEntry {
    let mut entry = ENTRY.clone();
    let first = Sequence(first_offset as u64);
    entry.number = number;
    entry.first_offset = first_offset;
    entry.last_offset = first_offset + 9;
    entry.sequences = Some(SequenceRange { first, last: Sequence(first.0 + 9) });
    entry.leader_epoch = LeaderEpoch(1);
    entry.previous_hash = previous;
    entry.hash = hash(number, 1);
    entry.public_hash = hash(number, 1);
    entry.full = number.is_multiple_of(4);
    entry.highest_producer_id = number as i64;
    entry.last_commit = number * 10;
    entry
}

fn links(count: u64) -> Vec<ManifestEntry> {
    let previous = |number: u64| number.checked_sub(1).map_or([0; 32], |n| hash(n, 1));
    (0..count).map(|n| link(n, n as i64 * 10, previous(n))).collect()
}

fn of(entries: &[ManifestEntry]) -> Manifest {
    let (manifest, conflicts) = Manifest::union([entries.to_vec()], []);
    assert_eq!(conflicts, []);
    manifest
}

fn numbers(manifest: &Manifest) -> Vec<u64> {
    manifest.chain().map(|entry| entry.number).collect()
}

#[test]
fn an_empty_manifest_begins_at_zero() {
    let empty = Manifest::default();
    assert_eq!((empty.next_number(), empty.chain_range()), (0, None));
    assert_eq!(empty.chain_hashes(), ([0; 32], [0; 32]));
    assert_eq!((empty.highest_producer_id(), empty.last_commit()), (-1, 0));
    assert!(empty.entry_at(0).is_none() && empty.check_unbroken().is_ok());
}

#[test]
fn fragments_are_found_by_offset() {
    let mut manifest = Manifest::default();
    for entry in links(5) {
        assert_eq!(manifest.insert(entry), Ok(Inserted::New));
    }
    let at = |offset| manifest.entry_at(offset).map(|entry| entry.number);
    assert_eq!([at(0), at(9), at(10), at(49)], [Some(0), Some(0), Some(1), Some(4)]);
    assert_eq!([at(-1), at(50)], [None, None]);
    assert_eq!((manifest.next_number(), manifest.chain_range()), (5, Some((0, 50))));
    assert_eq!(manifest.chain_hashes().0, hash(4, 1));
    assert_eq!(manifest.since_full().map(|e| e.number).collect::<Vec<_>>(), [4]);
    assert_eq!((manifest.highest_producer_id(), manifest.last_commit()), (4, 40));
}

#[test]
fn a_gap_and_a_wrong_link_are_named() {
    let mut entries = links(5);
    entries.remove(2);
    let gap = ChainBreak::Gap { from: 20, to: 29, number: 3 };
    assert_eq!(of(&entries).check_unbroken(), Err(gap));
    assert_eq!(of(&entries).chain_range(), Some((0, 20)));

    let mut entries = links(5);
    entries[3].previous_hash[0] ^= 1;
    let manifest = of(&entries);
    assert_eq!(manifest.check_unbroken(), Err(ChainBreak::Link { number: 3, previous: 2 }));
    assert_eq!(manifest.strays().map(|e| e.number).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(manifest.next_number(), 5, "numbers of strays are taken");
}

#[test]
fn a_rekeyed_fragment_still_links_to_its_successor() {
    let mut manifest = of(&links(3));
    let mut rekeyed = links(3).remove(1);
    rekeyed.generation = 1;
    rekeyed.replaced = vec![(rekeyed.hash, rekeyed.public_hash)];
    rekeyed.hash = [0xaa; 32];
    assert_eq!(manifest.insert(rekeyed.clone()), Ok(Inserted::Updated));
    assert_eq!(numbers(&manifest), [0, 1, 2]);
    assert_eq!(manifest.insert(links(3).remove(1)), Ok(Inserted::Known), "the older generation");
    assert_eq!(manifest.get(1), Some(&rekeyed));
}

#[test]
fn the_newer_revision_holds_in_either_order() {
    let old = links(1).remove(0);
    let new = ManifestEntry { revision: 1, state: EntryState::Complete, ..old.clone() };
    for lists in [[vec![old.clone()], vec![new.clone()]], [vec![new.clone()], vec![old.clone()]]] {
        let (manifest, conflicts) = Manifest::union(lists, []);
        assert_eq!((conflicts.len(), manifest.get(0)), (0, Some(&new)));
        assert_eq!(manifest.complete_offset(), Some(10));
    }
    let other = ManifestEntry { state: EntryState::Deleting, ..new.clone() };
    let (manifest, conflicts) = Manifest::union([vec![new], vec![other]], []);
    assert_eq!(conflicts, [ManifestConflict::Revision { number: 0, revision: 1 }]);
    assert!(manifest.entry_at(0).is_some());
}

#[test]
fn two_seals_of_one_number_are_a_named_conflict() {
    let mut entries = links(3);
    let mut other = entries[2].clone();
    other.hash = [0xbb; 32];
    let same_epoch = Manifest::union([entries.clone(), vec![other.clone()]], []);
    let (known, found) = (LeaderEpoch(1), LeaderEpoch(1));
    let conflict = ManifestConflict::Seal { number: 2, generation: 0, known, other: found };
    assert_eq!(same_epoch.1, [conflict]);
    assert_eq!(numbers(&same_epoch.0), [0, 1], "neither counts");

    entries[2].leader_epoch = LeaderEpoch(2);
    for lists in [[entries.clone(), vec![other.clone()]], [vec![other], entries]] {
        let (manifest, conflicts) = Manifest::union(lists, []);
        assert_eq!(conflicts.len(), 1);
        assert_eq!(manifest.chain_last().map(|e| e.leader_epoch), Some(LeaderEpoch(2)));
    }
}

#[test]
fn what_a_stale_owner_left_is_passed_over() {
    // Fragment 2 of epoch 1 never counted; the next owner shipped the same offsets as fragment 3 of epoch 2.
    let mut entries = links(3);
    let mut taken_over = link(3, 20, hash(1, 1));
    taken_over.leader_epoch = LeaderEpoch(2);
    taken_over.last_offset = 26;
    entries.push(taken_over);
    let manifest = of(&entries);
    assert_eq!(numbers(&manifest), [0, 1, 3]);
    assert_eq!(manifest.strays().map(|e| e.number).collect::<Vec<_>>(), [2]);
    assert_eq!(manifest.check_unbroken(), Ok(()));
    let starts = [(1, 0), (2, 20)];
    let epochs: Vec<_> = manifest.epochs().iter().map(|e| (e.epoch.0, e.first_offset)).collect();
    assert_eq!(epochs, starts);

    let mut manifest = of(&links(4));
    manifest.abandon([3, 9]);
    assert_eq!(numbers(&manifest), [0, 1, 2]);
    assert_eq!((manifest.strays().count(), manifest.next_number()), (0, 10));
    assert_eq!(manifest.abandoned().collect::<Vec<_>>(), [3, 9]);
}

#[test]
fn runs_begin_where_sequences_do_not_go_on() {
    let mut entries = links(5);
    let range = |first, last| Some(SequenceRange { first: Sequence(first), last: Sequence(last) });
    entries[2].sequences = None;
    entries[3].sequences = range(20, 28);
    entries[4].sequences = range(1, 10);
    let run = |first_offset, sequence| Run { first_offset, first_sequence: Sequence(sequence) };
    assert_eq!(of(&entries).runs(), [run(0, 0), run(40, 1)]);
}

#[test]
fn deletion_takes_fragments_from_the_front() {
    let mut manifest = of(&links(4));
    let deleting = ManifestEntry { revision: 1, state: EntryState::Deleting, ..links(1).remove(0) };
    manifest.insert(deleting).unwrap();
    assert!(manifest.entry_at(5).is_none());
    assert_eq!(manifest.complete_offset(), Some(10));
    assert!(manifest.remove(0).is_some() && manifest.remove(0).is_none());
    assert_eq!(manifest.chain_range(), Some((10, 40)));
    assert_eq!(manifest.next_number(), 4);
}

#[test]
fn the_newest_head_is_of_the_highest_epoch_then_number() {
    let head = |epoch, number| HeadRecord {
        epoch: LeaderEpoch(epoch),
        number,
        shipped_offset: 0,
        hash: [0; 32],
        public_hash: [0; 32],
        abandoned: vec![],
    };
    let heads = [head(1, 9), head(2, 5), head(2, 4)];
    assert_eq!(newest_head(&heads), Some(&heads[1]));
    assert_eq!(newest_head(&[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn in_any_order_and_from_any_servers_the_union_is_the_same(
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(), split in 0usize..12,
    ) {
        let entries = links(12);
        let shuffled: Vec<_> = order.iter().map(|i| entries[*i].clone()).collect();
        let (a, b) = shuffled.split_at(split);
        let (manifest, conflicts) = Manifest::union([a.to_vec(), b.to_vec(), entries], []);
        prop_assert_eq!(conflicts.len(), 0);
        prop_assert_eq!(numbers(&manifest), (0..12).collect::<Vec<_>>());
        let mut one_by_one = Manifest::default();
        for entry in shuffled {
            one_by_one.insert(entry).unwrap();
        }
        prop_assert_eq!(numbers(&one_by_one), (0..12).collect::<Vec<_>>());
    }
}
