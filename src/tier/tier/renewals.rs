//! What sealing compacted fragments anew promises, each promise with the step of which it depends held up, failed or cut
//! off by a death.
//!
//! | a change that | is caught by |
//! |---|---|
//! | removes the older shards before every server has the entry | `the_older_shards_stay_until_…`, `a_death_at_any_step_…` |
//! | removes them before the newer ones are read back | `the_older_shards_stay_until_…` |
//! | removes what a death left before its entry is on all servers | `an_entry_that_a_death_left_…` |
//! | overwrites a name that is taken, or gives up at it | `a_name_that_is_taken_is_passed_over` |
//! | leaves behind what a death kept from being removed | `a_death_at_any_step_…` |
//! | seals the newest fragment anew | `the_newest_fragment_waits_for_a_newer_one` |
//! | links the successor to the newer hash | `what_compaction_left_…` |
//! | says *damaged* of shards that went | `who_holds_the_older_entry_reads_the_newer_generation` |
//! | seals a fragment anew while it is deleted | `a_fragment_that_is_deleted_meanwhile_stays_deleted` |

use std::collections::{BTreeMap, BTreeSet};

use super::super::catalogue::Fragments;
use super::super::fetcher::fetch;
use super::super::rig::*;
use super::super::shipper::until_fetched;
use super::super::store::{ShardName, Writer};
use super::super::{EntryState, FetchError, InStep, ManifestEntry, Run};
use super::promises::{Broker, quiet_after};
use super::*;
use crate::record::{self, BatchHeader, Batches, Records, Remains, plain_records};
use crate::types::{LeaderEpoch, Offset, Sequence};

/// Records by offset.
type Content = BTreeMap<Offset, Vec<u8>>;

/// Ships three fragments of two batches each.
async fn shipped(world: &World) -> Disk {
    let life = open(world.servers(i64::MAX), 1, true).await;
    let mut disk = Disk::vdisk();
    disk.runs.push(Run { first_offset: 1, first_sequence: Sequence(100) });
    let local = Double::new(disk, Death::Never);
    let handle = local.ship(&life, &info(&life, true));
    for pair in [[(7, 2), (9, 2)], [(4, 3), (-1, 1)], [(9, 2), (4, 2)]] {
        pair.into_iter().for_each(|(producer, records)| local.append(producer, records));
        local.ship_all();
        assert!(local.is_complete().await, "{:?}", life.tier.status());
    }
    handle.stop().await;
    local.disk.lock().unwrap().clone()
}

fn content(bytes: &[u8]) -> Content {
    let (mut content, mut next) = (Content::new(), None);
    for batch in Batches::new(bytes) {
        let (header, batch) = batch.unwrap();
        assert!(next.is_none_or(|next| next == header.base_offset), "{next:?}, {header:?}");
        next = Some(header.next_offset());
        let plain = plain_records(batch, &header).unwrap();
        for record in Records::new(&plain, &header) {
            let record = record.unwrap();
            let offset = header.base_offset + Offset::from(record.offset_delta);
            content.insert(offset, record.value.unwrap().to_vec());
        }
    }
    content
}

/// What compaction would leave if these records went: gaps reach over the bounds of fragments.
fn compact(disk: &mut Disk, goes: impl Fn(Offset) -> bool) {
    let mut left: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(Offset, Offset, i32)> = None;
    for batch in std::mem::take(&mut disk.batches) {
        let header = BatchHeader::parse(&batch).unwrap();
        let (first, next, epoch) = (header.base_offset, header.next_offset(), header.leader_epoch);
        let plain = plain_records(&batch, &header).unwrap();
        let keep = |r: &record::Record<'_>| !goes(first + Offset::from(r.offset_delta));
        let remains = record::retain(&header, &plain, None, keep).unwrap();
        if remains == Remains::Nothing || header.is_gap() {
            let from = open.filter(|gap| gap.2 == epoch).map_or(first, |gap| gap.0);
            left.extend(open.filter(|gap| gap.2 != epoch).map(|(a, b, e)| record::gap(a, b, e)));
            open = Some((from, next, epoch));
            continue;
        }
        left.extend(open.take().map(|(a, b, e)| record::gap(a, b, e)));
        left.push(match remains {
            Remains::Batch(batch) => batch,
            _ => batch.to_vec(),
        });
    }
    left.extend(open.map(|(a, b, e)| record::gap(a, b, e)));
    disk.batches = left.into_iter().map(Bytes::from).collect();
}

/// All records of the first fragment, of the second all but one, of the newest none. One gap stands for both.
fn most_go(offset: Offset) -> bool {
    offset < 8
}

async fn in_step(local: &Double, pass: u64) -> InStep {
    let mut steps = local.in_step.subscribe();
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        *steps.wait_for(|step| step.pass == pass).await.unwrap()
    });
    waited.await.expect("the fragments are not in step")
}

fn name(number: u64, generation: u32, index: u8) -> ShardName {
    ShardName { partition: PARTITION, number, generation, index }
}

/// Generations of which any server has a shard.
async fn generations(world: &World, number: u64) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for store in &world.stores {
        for (generation, index) in (0..12).flat_map(|g| (0..6).map(move |i| (g, i))) {
            if store.get_shard(name(number, generation, index)).await.unwrap().is_some() {
                found.insert(generation);
            }
        }
    }
    found
}

/// A new data directory, two servers lost: every record of `least`, none but those of `most`, in a whole log.
async fn check_rebuild(
    world: &World,
    disk: &Disk,
    least: &Content,
    most: &Content,
    away: [usize; 2],
) {
    away.iter().for_each(|server| world.set_down(*server, true));
    let life = open(world.servers(i64::MAX), 9, true).await;
    let [topic] = &life.recovered.topics[..] else { panic!("no topic") };
    let [partition] = &topic.partitions[..] else { panic!("{topic:?}") };
    assert_eq!((partition.log_start, partition.shipped), (1, disk.end()));
    assert_eq!((&partition.lost, partition.head), (&Vec::new(), disk.head));
    assert_eq!(partition.runs, disk.runs);
    assert_eq!(life.recovered.last_commit, disk.marks.last().unwrap().commit);
    assert_eq!(life.recovered.highest_producer_id, Some(9));
    // Its only batch went with compaction, and is known as sent before.
    let mut again = record::BatchBuilder::new(0).producer(7, 0, 0);
    (0..2).for_each(|_| again.push(0, None, None, &[]));
    let verdict = partition.producers.check(&BatchHeader::parse(&again.build()).unwrap());
    assert!(matches!(verdict, Ok(crate::log::Verdict::Duplicate { .. })), "{verdict:?}");
    let reader = life.tier.reader(&info(&life, true), PARTITION);
    let read = content(&read_all(&reader, 1, disk.end()).await.unwrap());
    assert!(least.iter().all(|(offset, value)| read.get(offset) == Some(value)));
    assert!(read.iter().all(|(offset, value)| most.get(offset) == Some(value)));
    away.iter().for_each(|server| world.set_down(*server, false));
}

/// Everything is in step: one generation of each fragment, complete where it was sealed anew, the chain whole.
async fn check_renewed(world: &World, disk: &Disk) {
    let first = entries(&*world.stores[0]).await;
    let local = content(&disk.bytes());
    let mut previous: Option<&ManifestEntry> = None;
    for entry in first.values() {
        let within = local.range(entry.first_offset..=entry.last_offset).count() as u64;
        let is_newest = entry.next_offset() == disk.end();
        assert!(entry.size == within || is_newest, "{entry:?}");
        assert_eq!(entry.state == EntryState::Complete, entry.generation > 0, "{entry:?}");
        let stored = generations(world, entry.number).await;
        assert_eq!(stored, BTreeSet::from([entry.generation]), "{}", entry.number);
        if let Some(previous) = previous {
            assert!(previous.is_named_by(&entry.previous_hash));
        }
        previous = Some(entry);
    }
    for store in &world.stores {
        assert_eq!(entries(&**store).await, first);
    }
    let life = open(world.servers(i64::MAX), 1, false).await;
    let reader = life.tier.reader(&info(&life, true), PARTITION);
    assert_eq!(content(&read_all(&reader, 1, disk.end()).await.unwrap()), local);
}

/// Ships, compacts, and lets a life with a compacted log go until it is in step.
async fn renewed(world: &World, mut disk: Disk) -> (Disk, InStep) {
    disk.epoch += 1;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let local = Double::new(disk, Death::Never);
    let handle = local.ship(&life, &info(&life, true));
    local.compacted.send_replace(1);
    let step = in_step(&local, 1).await;
    handle.stop().await;
    let disk = local.disk.lock().unwrap().clone();
    (disk, step)
}

#[tokio::test]
async fn what_compaction_left_of_shipped_fragments_is_sealed_anew_and_the_rest_is_not_touched() {
    let world = World::in_memory(6);
    let mut disk = shipped(&world).await;
    let before = entries(&*world.stores[0]).await;
    let all = content(&disk.bytes());
    compact(&mut disk, most_go);
    let least = content(&disk.bytes());
    let (disk, step) = renewed(&world, disk).await;
    assert_eq!(step, InStep { pass: 1, upto: disk.end(), whole: true });
    check_renewed(&world, &disk).await;
    let after = entries(&*world.stores[0]).await;
    let changed = |(old, new): (&ManifestEntry, &ManifestEntry)| old != new;
    let changed = before.values().zip(after.values()).filter(|(a, b)| changed((a, b))).count();
    assert_eq!((before.len(), changed), (3, 2));
    for (old, new) in before.values().zip(after.values()) {
        let appended = |e: &ManifestEntry| {
            (
                e.sequences,
                e.first_commit,
                e.last_commit,
                e.first_append_ms,
                e.last_append_ms,
                e.full,
            )
        };
        assert_eq!(appended(old), appended(new));
        assert_eq!(old.highest_producer_id, new.highest_producer_id);
        assert_eq!(
            (old.previous_hash, old.last_stable_offset),
            (new.previous_hash, new.last_stable_offset)
        );
        assert!(new.is_named_by(&old.hash));
    }
    check_rebuild(&world, &disk, &least, &all, [0, 3]).await;
    // Again, and by less: the third generation.
    let mut disk = disk;
    compact(&mut disk, |offset| offset < 9);
    let (disk, _) = renewed(&world, disk).await;
    check_renewed(&world, &disk).await;
    let generations: Vec<u32> =
        entries(&*world.stores[0]).await.values().map(|entry| entry.generation).collect();
    assert_eq!(generations, [1, 2, 0]);
}

#[tokio::test]
async fn the_newest_fragment_waits_for_a_newer_one() {
    let world = World::in_memory(6);
    let mut disk = shipped(&world).await;
    let newest = *entries(&*world.stores[0]).await.keys().next_back().unwrap();
    compact(&mut disk, |offset| offset > 9);
    disk.epoch += 1;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let local = Double::new(disk, Death::Never);
    let _handle = local.ship(&life, &info(&life, true));
    local.compacted.send_replace(1);
    let step = in_step(&local, 1).await;
    assert!(step.upto < local.disk.lock().unwrap().end(), "{step:?}");
    assert_eq!(generations(&world, newest).await, BTreeSet::from([0]));
    let end = local.disk.lock().unwrap().end();
    local.append(4, 2);
    local.ship_all();
    assert!(local.is_complete().await);
    let mut steps = local.in_step.subscribe();
    let waited = tokio::time::timeout(Duration::from_secs(10), steps.wait_for(|s| s.upto >= end));
    drop(waited.await.unwrap().unwrap());
    assert_eq!(generations(&world, newest).await, BTreeSet::from([1]));
    let disk = local.disk.lock().unwrap().clone();
    check_renewed(&world, &disk).await;
}

#[tokio::test]
async fn the_older_shards_stay_until_all_servers_have_the_entry_and_all_newer_ones_are_read() {
    for act in [Act::Shard, Act::Entry, Act::Read] {
        for server in 0..6 {
            let world = World::in_memory(6);
            let mut disk = shipped(&world).await;
            let all = content(&disk.bytes());
            compact(&mut disk, most_go);
            let least = content(&disk.bytes());
            disk.epoch += 1;
            let broker = Broker::start(&world, disk.clone(), i64::MAX).await;
            // The older generation is read before the newer shards are put, the newer one behind that, before any entry.
            let first = if act == Act::Read { Act::Shard } else { act };
            let before = world.trace.count(first, true);
            world.trace.hold(&[(first, server)]);
            broker.local.compacted.send_replace(1);
            quiet_after(&world.trace, |trace| trace.count(first, true) == before + 5).await;
            if act == Act::Read {
                let before = world.trace.count(act, true);
                let entries = world.trace.count(Act::Entry, false);
                world.trace.hold(&[(act, server)]);
                let others = |t: &Trace| {
                    t.count(act, true) >= before + 5 || t.count(Act::Entry, false) > entries
                };
                quiet_after(&world.trace, others).await;
                assert_eq!(world.trace.count(Act::Entry, false), entries, "not read at {server}");
            }
            assert_eq!(world.trace.count(Act::Remove, false), 0, "{act:?} at {server}");
            let pair = [server, (server + 1) % 6];
            check_other_rebuild(&world, &disk, &least, &all, pair).await;
            world.trace.hold(&[]);
            in_step(&broker.local, 1).await;
            let disk = broker.end().await;
            check_renewed(&world, &disk).await;
        }
    }
}

/// As [`check_rebuild`], with no acts seen of it.
async fn check_other_rebuild(
    world: &World,
    disk: &Disk,
    least: &Content,
    most: &Content,
    away: [usize; 2],
) {
    let other = World::of(world.stores.clone());
    check_rebuild(&other, disk, least, most, away).await;
}

#[tokio::test]
async fn a_server_that_is_away_makes_it_wait_and_its_return_ends_the_wait() {
    let world = World::in_memory(6);
    let mut disk = shipped(&world).await;
    compact(&mut disk, most_go);
    disk.epoch += 1;
    let broker = Broker::start(&world, disk, i64::MAX).await;
    let before = world.trace.count(Act::Shard, true);
    world.trace.hold(&[(Act::Shard, 2)]);
    broker.local.compacted.send_replace(1);
    quiet_after(&world.trace, |trace| trace.count(Act::Shard, true) == before + 5).await;
    world.set_down(2, true);
    world.trace.hold(&[]);
    quiet_after(&world.trace, |trace| trace.count(Act::Shard, true) == before + 6).await;
    assert_eq!(world.trace.count(Act::Remove, false), 0);
    assert_eq!(broker.local.in_step.borrow().pass, 0);
    world.set_down(2, false);
    in_step(&broker.local, 1).await;
    let disk = broker.end().await;
    check_renewed(&world, &disk).await;
}

#[tokio::test]
async fn a_death_at_any_step_keeps_the_content_and_the_next_life_leaves_nothing_behind() {
    let pairs: Vec<_> = (0..6).flat_map(|a| (a + 1..6).map(move |b| [a, b])).collect();
    // All of them in the long mode.
    let stride = if std::env::var_os("TLOG_TEST_LONG").is_some() { 1 } else { 7 };
    for steps in (0..).step_by(stride) {
        let world = World::in_memory(6);
        let mut disk = shipped(&world).await;
        let all = content(&disk.bytes());
        compact(&mut disk, most_go);
        let least = content(&disk.bytes());
        disk.epoch = 1;
        let broker = Broker::start(&world, disk, steps).await;
        broker.local.compacted.send_replace(1);
        let whole = tokio::select! {
            _ = in_step(&broker.local, 1) => true,
            () = broker.dies() => false,
        };
        let left = broker.end().await;
        let pair = pairs[usize::try_from(steps).unwrap() % pairs.len()];
        check_rebuild(&world, &left, &least, &all, pair).await;
        let (disk, step) = renewed(&world, left).await;
        assert!(step.whole && step.upto == disk.end(), "{steps}: {step:?}");
        check_renewed(&world, &disk).await;
        check_rebuild(&world, &disk, &least, &least, pair).await;
        if whole {
            // For each of two fragments four reads, shards, entries, reads, removals, entries.
            assert!(steps >= 2 * (4 + 6 * 5), "{steps}");
            return;
        }
    }
}

#[tokio::test]
async fn an_entry_that_a_death_left_on_one_server_is_on_all_before_older_shards_go() {
    let world = World::in_memory(6);
    let mut disk = shipped(&world).await;
    let first = *entries(&*world.stores[0]).await.keys().next().unwrap();
    compact(&mut disk, most_go);
    disk.epoch += 1;
    let all = std::array::from_fn::<_, 6, _>(|server| server);
    let broker = Broker::start(&world, disk, i64::MAX).await;
    let before = world.trace.count(Act::Entry, true);
    world.trace.hold(&all[1..].iter().map(|server| (Act::Entry, *server)).collect::<Vec<_>>());
    broker.local.compacted.send_replace(1);
    quiet_after(&world.trace, |trace| trace.count(Act::Entry, true) == before + 1).await;
    let disk = broker.end().await;
    assert_eq!(entries(&*world.stores[0]).await[&first].generation, 1);
    assert_eq!(entries(&*world.stores[1]).await[&first].generation, 0);
    world.trace.hold(&all.map(|server| (Act::Remove, server)));
    let broker = Broker::start(&world, disk, i64::MAX).await;
    broker.local.compacted.send_replace(1);
    quiet_after(&world.trace, |trace| trace.count(Act::Remove, false) > 0).await;
    for store in &world.stores {
        assert_eq!(entries(&**store).await[&first].generation, 1);
    }
    world.trace.hold(&[]);
    in_step(&broker.local, 1).await;
    let disk = broker.end().await;
    check_renewed(&world, &disk).await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_passed_over() {
    let world = World::in_memory(6);
    let mut disk = shipped(&world).await;
    let stored = entries(&*world.stores[0]).await;
    let [first, second, _] = stored.keys().copied().collect::<Vec<_>>()[..] else { panic!() };
    let writer = Writer { epoch: LeaderEpoch(disk.epoch), data_dir: DataDirId([1; 16]) };
    let taken = [(first, 1, 4), (first, 2, 0)].into_iter();
    for (number, generation, index) in taken.chain((1..=8).map(|g| (second, g, 1))) {
        let on = &stored[&number].servers[usize::from(index)];
        let store = world.stores.iter().find(|store| store.name() == on).unwrap();
        let rest = Bytes::from_static(b"of an attempt that was cut short");
        store.put_shard(name(number, generation, index), writer, rest).await.unwrap();
    }
    let all = content(&disk.bytes());
    compact(&mut disk, most_go);
    let least = content(&disk.bytes());
    let (disk, step) = renewed(&world, disk).await;
    assert_eq!(generations(&world, first).await, BTreeSet::from([3]));
    // Eight in a row are too many for one process: the fragment stays as it was, and counts for it.
    assert_eq!(step, InStep { pass: 1, upto: stored[&second].first_offset, whole: true });
    assert_eq!(entries(&*world.stores[0]).await[&second], stored[&second]);
    check_rebuild(&world, &disk, &least, &all, [1, 2]).await;
}

#[tokio::test]
async fn who_holds_the_older_entry_reads_the_newer_generation() {
    let world = World::in_memory(6);
    let mut disk = shipped(&world).await;
    // Another process, which has the manifest as it was.
    let other = open(world.servers(i64::MAX), 9, true).await;
    let topic = info(&other, true);
    let reader = other.tier.reader(&topic, PARTITION);
    let end = disk.end();
    assert_eq!(reader.check(end - 1).await.unwrap().bad, []);
    let older = entries(&*world.stores[0]).await.into_values().next().unwrap();
    compact(&mut disk, most_go);
    disk.epoch += 1;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let local = Double::new(disk, Death::Never);
    let _handle = local.ship(&life, &topic);
    local.compacted.send_replace(1);
    in_step(&local, 1).await;
    let left = local.disk.lock().unwrap().clone();
    let (core, fragments) = (&life.tier.core, life.tier.fragments_of(&topic, PARTITION));
    let damaged = fetch(core, &fragments, &older).await;
    assert!(matches!(damaged, Err(FetchError::Damaged { .. })), "its shards are gone");
    let opened = until_fetched(core, &fragments, &older, None).await.unwrap();
    assert_eq!(opened.header.generation, 1);
    let nothing_known = Arc::new(Fragments::new(PARTITION, core.secret(&topic.record)));
    assert!(until_fetched(core, &nothing_known, &older, None).await.is_ok());
    assert_eq!(reader.check(1).await.unwrap().bad, []);
    assert_eq!(content(&read_all(&reader, 1, end).await.unwrap()), content(&left.bytes()));
}

#[tokio::test]
async fn a_fragment_that_is_deleted_meanwhile_stays_deleted() {
    for act in [Act::Shard, Act::Entry, Act::Remove] {
        let world = World::in_memory(6);
        let mut disk = shipped(&world).await;
        let first = *entries(&*world.stores[0]).await.keys().next().unwrap();
        let behind = entries(&*world.stores[0]).await[&first].next_offset();
        compact(&mut disk, most_go);
        disk.epoch += 1;
        let life = open(world.servers(i64::MAX), 1, false).await;
        let topic = info(&life, true);
        let local = Double::new(disk, Death::Never);
        let _handle = local.ship(&life, &topic);
        world.trace.hold(&[(act, 1)]);
        local.compacted.send_replace(1);
        let before = world.trace.count(act, false);
        quiet_after(&world.trace, |trace| trace.count(act, false) > before).await;
        let tier = Arc::clone(&life.tier);
        let (as_local, of) = (Arc::clone(&local) as Arc<dyn Local>, topic.clone());
        let trim = task::spawn("trim", async move { tier.trim(&of, as_local, behind).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.trace.hold(&[]);
        assert_eq!(trim.await.unwrap(), Ok(1));
        in_step(&local, 1).await;
        for store in &world.stores {
            assert_eq!(entries(&**store).await[&first].state, EntryState::Deleting, "{act:?}");
        }
        assert_eq!(generations(&world, first).await, BTreeSet::new(), "{act:?}");
        // Nor by a pass that comes after it.
        local.compacted.send_replace(2);
        in_step(&local, 2).await;
        assert_eq!(entries(&*world.stores[0]).await[&first].state, EntryState::Deleting);
        let rebuilt = open(world.servers(i64::MAX), 9, true).await;
        assert_eq!(rebuilt.recovered.topics[0].partitions[0].log_start, behind);
    }
}
