//! What compaction left of a shipped range, sealed anew: the next generation of its fragments.
//!
//! ```text
//!   a pass over the local log has ended -> each fragment against the local batches of its range: fewer records there?
//!     lock -> fetch generation g -> its trailer, the local batches -> seal as generation G = g+1
//!          -> n shards, all n read back -> entry G (shipped) on all n servers
//!     10 s later -> all n read back again -> shards of g, and of attempts in between, removed -> entry G (complete)
//! ```
//!
//! It runs beside shipper and completer, under the same claim. What it does is found by comparing: compaction only ever
//! removes records, so a fragment holds more than the local log where it counts more. Nothing is remembered for it, here or
//! in the commit log.
//!
//! * Number, range, epoch and place in the chain stay, and what was appended: sequences, times, commit numbers, producer
//!   states. The successor goes on naming the first generation's hash, which the entry keeps.
//! * The newest fragment is left alone until there is a newer one: its hash is in heads, and the next one will name it.
//! * **No intent is needed.** A generation counts through its entry, which is put when all its shards are there. Shards of an
//!   attempt that was cut short are nobody's. Their name is never overwritten: it refuses other bytes, and the next attempt
//!   takes the generation above it. So a generation has one set of bytes, as a number has.
//! * The older shards go when every server of the fragment has the newer entry and every newer shard was read back, twice and
//!   ten seconds apart: servers sync once a second, and a power cut of all of them must leave one or the other. An entry
//!   of a later generation that is not *complete* says that this may not have happened: the next claim does it, from putting
//!   the entry on, for it may be on some servers only.
//! * What is read meanwhile is right in either generation: both replay to the same content. Who holds the older entry and
//!   finds its shards gone looks for a newer one ([`Fragments::newer`]).
//! * Compaction removes deletions only in a local log with which all fragments are in step ([`InStep`]). So what a deletion
//!   deletes is in no fragment any more when the deletion goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::body::{Body, BodyBatch, TrailerParts};
use super::catalogue::Fragments;
use super::completer::{RETRY, make_whole};
use super::fetcher::fetch;
use super::fragment::{Draft, OpenedFragment, SealedFragment, seal};
use super::local::{InStep, Local};
use super::put::{self, PutError};
use super::records::{EntryState, ManifestEntry};
use super::shipper::{End, MEMORY_FACTOR, WINDOW, until_fetched};
use super::status::Part;
use super::store::ShardName;
use super::tier::Core;
use crate::log;
use crate::record::{self, BatchHeader, Batches};
use crate::types::{CommitNumber, Offset, Watermarks, in_words};

/// Generations above the stored one that are tried: each attempt that was cut short may have taken one.
pub(super) const ATTEMPTS: u32 = 8;

/// Seals fragments of one claimed partition anew.
pub(super) struct Generations {
    pub core: Arc<Core>,
    pub fragments: Arc<Fragments>,
    pub local: Arc<dyn Local>,
    pub watermarks: watch::Receiver<Watermarks>,
    /// Counts the passes of compaction; 0 where there was none.
    pub compacted: watch::Receiver<u64>,
    pub shipped: watch::Receiver<Offset>,
    /// Numbers that are left as they are for this process.
    pub given_up: BTreeSet<u64>,
    /// What was sealed anew in this life and has its older shards still, as it was before.
    pub left: BTreeMap<u64, ManifestEntry>,
}

/// Between the entry of a generation and the removal of what it replaces: longer than servers take to sync what they have
/// acknowledged (each second), so that no power cut of all of them leaves neither of the two.
#[cfg(not(test))]
const SETTLE: Duration = Duration::from_secs(10);
#[cfg(test)]
const SETTLE: Duration = Duration::from_millis(5);

/// Longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(600);

/// Fragments that wait to be settled at the same time, about 1 KiB each.
const UNSETTLED: usize = 1024;

/// What is left to do after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rest {
    Nothing,
    /// The newest fragment is to be sealed anew once there is a newer one.
    AfterShipping,
    /// What was sealed anew is to be settled.
    Settle,
    /// Something failed that may go well later.
    Soon,
}

/// What became of one fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Renewed {
        before: u64,
        after: u64,
    },
    /// It is deleted, or its range is not in the local log any more.
    Gone,
    /// It stays as it is.
    GivenUp,
}

/// Why local batches cannot be had.
enum Unread {
    /// The local log begins behind them.
    Gone,
    /// In words.
    Failed(String),
    End(End),
}

/// What a round found and did.
#[derive(Debug, Default)]
struct Tally {
    renewed: usize,
    before: u64,
    after: u64,
}

impl Generations {
    /// Runs until something ends it.
    pub async fn run(mut self) -> End {
        let mut pause = RETRY;
        loop {
            let pass = *self.compacted.borrow_and_update();
            let shipped = *self.shipped.borrow_and_update();
            let rest = match self.round(pass, shipped).await {
                Ok(rest) => rest,
                Err(end) => return end,
            };
            if rest == Rest::Settle {
                tokio::time::sleep(SETTLE).await;
                continue;
            }
            let changed = tokio::select! {
                changed = self.compacted.changed() => changed,
                changed = self.shipped.changed(), if rest == Rest::AfterShipping => changed,
                () = tokio::time::sleep(pause), if rest == Rest::Soon => Ok(()),
            };
            pause = if rest == Rest::Soon { (2 * pause).min(LONGEST) } else { RETRY };
            if changed.is_err() {
                return End::Stopping;
            }
        }
    }

    async fn round(&mut self, pass: u64, shipped: Offset) -> Result<Rest, End> {
        let mut rest = Rest::Nothing;
        for entry in self.fragments.chain() {
            if entry.generation > 0 && entry.state == EntryState::Shipped {
                rest = rest.max(self.finish_left(entry.number).await?);
            }
        }
        // What is still there was deleted meanwhile, and would count as waiting for ever.
        self.left.clear();
        if pass == 0 {
            return Ok(rest);
        }
        let (step, compared, tally) = self.compare(pass, shipped).await?;
        if compared != Rest::Settle {
            self.local.in_step(step);
        }
        let Tally { renewed, before, after } = tally;
        if renewed > 0 {
            tracing::info!(partition = %self.local.id(), fragments = renewed, before, after, "compacted fragments were sealed anew");
        }
        let rest = rest.max(compared);
        if rest != Rest::Soon {
            self.core.board.clear(self.local.id(), Part::Renewing);
        }
        Ok(rest)
    }

    /// Goes over all fragments of the local range, oldest first.
    async fn compare(&mut self, pass: u64, shipped: Offset) -> Result<(InStep, Rest, Tally), End> {
        let marks = *self.watermarks.borrow();
        let mut step = InStep { pass, upto: marks.local_start, whole: true };
        let (mut rest, mut tally) = (Rest::Nothing, Tally::default());
        let mut is_unbroken = true;
        let mut scan = Scan::new(&self.local, marks.complete);
        let chain = self.fragments.chain();
        let there = chain.iter().filter(|entry| entry.state != EntryState::Deleting);
        for entry in there.take_while(|entry| entry.next_offset() <= marks.complete) {
            if entry.first_offset < marks.local_start {
                step.whole = false;
                continue;
            }
            if self.left.len() >= UNSETTLED {
                rest = rest.max(Rest::Settle);
                break;
            }
            if entry.generation > 0 && entry.state == EntryState::Shipped {
                // Not settled, or it cannot be: nothing may lean on it.
                is_unbroken = false;
            }
            let outcome = match scan.records(entry).await {
                Ok(records) if records >= entry.size => None,
                Ok(_) if entry.next_offset() >= shipped => {
                    rest = rest.max(Rest::AfterShipping);
                    Some(Outcome::GivenUp)
                }
                Ok(_) if self.given_up.contains(&entry.number) => Some(Outcome::GivenUp),
                Ok(_) => Some(self.renew(entry.number).await?),
                Err(Unread::Gone) => Some(Outcome::Gone),
                Err(Unread::End(end)) => return Err(end),
                Err(Unread::Failed(why)) => {
                    tracing::warn!(partition = %self.local.id(), first = entry.first_offset, last = entry.last_offset, why, "local batches cannot be compared with their fragment");
                    Some(Outcome::GivenUp)
                }
            };
            match outcome {
                None => {}
                Some(Outcome::Renewed { before, after }) => {
                    tally.renewed += 1;
                    tally.before += before;
                    tally.after += after;
                    is_unbroken = false;
                    rest = rest.max(Rest::Settle);
                }
                Some(Outcome::Gone) => {
                    step.whole = false;
                    continue;
                }
                Some(Outcome::GivenUp) => is_unbroken = false,
            }
            if is_unbroken {
                step.upto = entry.next_offset();
            }
        }
        Ok((step, rest, tally))
    }

    /// Seals a fragment anew from the local batches of its range.
    async fn renew(&mut self, number: u64) -> Result<Outcome, End> {
        let fragments = Arc::clone(&self.fragments);
        let _change = fragments.changing().await;
        let there = |entry: &ManifestEntry| entry.state != EntryState::Deleting;
        let Some(old) = self.fragments.numbered(number).filter(there) else {
            return Ok(Outcome::Gone);
        };
        let core = Arc::clone(&self.core);
        let _memory = core.reserve(old.body_bytes.saturating_mul(MEMORY_FACTOR)).await;
        let opened = match until_fetched(&self.core, &self.fragments, &old, None).await {
            Ok(opened) => Arc::new(opened),
            // Damage that every read of it names. The local log has what it holds.
            Err(error) => return Ok(self.give_up(number, &in_words(&error))),
        };
        let complete = self.watermarks.borrow().complete;
        let mut scan = Scan::new(&self.local, complete).small(old.body_bytes);
        let batches = match scan.batches(&old).await {
            Ok(batches) => batches,
            Err(Unread::Gone) => return Ok(Outcome::Gone),
            Err(Unread::Failed(why)) => return Ok(self.give_up(number, &why)),
            Err(Unread::End(end)) => return Err(end),
        };
        let places: Option<Vec<usize>> =
            old.servers.iter().map(|name| self.core.servers.by_name(name)).collect();
        let config = &self.core.config;
        let shape = (config.data_shards, config.parity_shards);
        let same = places.filter(|_| shape == (old.data_shards, old.parity_shards));
        let places = match same {
            Some(places) => places,
            None => put::choose(&self.core, self.local.id(), number, config.shards()).await,
        };
        let body = match anew(&opened, &batches, config.data_shards) {
            Ok(body) => Arc::new(body),
            Err(why) => return Ok(self.give_up(number, &why)),
        };
        drop(batches);
        let Some((sealed, places)) = self.store(&old, &opened, body, places).await? else {
            return Ok(Outcome::GivenUp);
        };
        let new = self.entry(&old, &sealed, &places);
        drop(sealed);
        // Before any server names it in the place of the one that is there.
        if let Err(why) = make_whole(&self.core, &self.fragments, &self.local, &new).await {
            return Ok(self.give_up(number, &why));
        }
        self.put_entry(&new, &places).await?;
        self.tell_former(&old, &new).await;
        self.fragments.insert(new.clone());
        let (before, after) = (old.body_bytes, new.body_bytes);
        self.core.metrics.renewed(before, after);
        tracing::debug!(partition = %self.local.id(), number, generation = new.generation, before, after, "a fragment is sealed anew");
        // Of an older generation that was not finished, what lies below it is not known.
        if old.generation == 0 || old.state == EntryState::Complete {
            self.left.insert(number, old);
        }
        Ok(Outcome::Renewed { before, after })
    }

    /// Seals, and puts all shards under the first generation whose names are free.
    async fn store(
        &mut self,
        old: &ManifestEntry,
        opened: &Arc<OpenedFragment>,
        body: Arc<Body>,
        places: Vec<usize>,
    ) -> Result<Option<(SealedFragment, Vec<usize>)>, End> {
        let mut taken = String::new();
        for generation in (1..=ATTEMPTS).filter_map(|by| old.generation.checked_add(by)) {
            let draft = draft(&self.core, opened, generation);
            let (core, fragments) = (Arc::clone(&self.core), Arc::clone(&self.fragments));
            let body = Arc::clone(&body);
            let made = tokio::task::spawn_blocking(move || {
                let mut random = [0; 32];
                // The salt is hedged: header and body still make it another one each time.
                if let Err(error) = getrandom::fill(&mut random) {
                    tracing::warn!(%error, "the system gives no random bytes");
                }
                let secret = fragments.secret.as_ref().map_err(Clone::clone)?;
                let sealed = seal(&draft, &body, secret, &core.config.keys, random);
                sealed.map_err(|error| in_words(&error))
            });
            let sealed = match made.await {
                Ok(Ok(sealed)) => sealed,
                Ok(Err(why)) => {
                    self.give_up(old.number, &why);
                    return Ok(None);
                }
                // The runtime ends.
                Err(_) => return Err(End::Stopping),
            };
            let name = (old.number, generation);
            match put::shards(&self.core, &self.local, name, &sealed.shards, &places).await {
                Ok(()) => return Ok(Some((sealed, places))),
                Err(PutError::Conflict(why)) => taken = why,
                Err(PutError::Fenced(fence)) => return Err(End::Fenced(fence)),
                Err(PutError::Refused(why)) => {
                    self.give_up(old.number, &why);
                    return Ok(None);
                }
            }
        }
        self.give_up(old.number, &taken);
        Ok(None)
    }

    fn entry(
        &self,
        old: &ManifestEntry,
        sealed: &SealedFragment,
        places: &[usize],
    ) -> ManifestEntry {
        let servers = places.iter().filter_map(|place| self.core.servers.get(*place));
        let names = servers.map(|server| server.name().to_owned()).collect();
        let mut new = sealed.entry(names, EntryState::Shipped);
        new.replaced.clone_from(&old.replaced);
        if new.replaced.is_empty() {
            // A successor names the generation that was there when it was sealed: the first, for a fragment is only sealed
            // anew when it has one.
            new.replaced.push((old.hash, old.public_hash));
        }
        new
    }

    async fn put_entry(&self, entry: &ManifestEntry, places: &[usize]) -> Result<(), End> {
        match put::entry(&self.core, &self.local, entry, None, places).await {
            Ok(()) => Ok(()),
            Err(PutError::Fenced(fence)) => Err(End::Fenced(fence)),
            Err(PutError::Conflict(why) | PutError::Refused(why)) => Err(End::Refused(why)),
        }
    }

    /// Servers that had a shard before and get none now hold the older entry: they are told where they answer.
    async fn tell_former(&self, old: &ManifestEntry, new: &ManifestEntry) {
        let former = old.servers.iter().filter(|name| !new.servers.contains(name));
        let Ok(bytes) = new.encode(self.fragments.id, &self.core.config.keys) else { return };
        let (id, writer) = (self.fragments.id, put::writer(&self.core, &*self.local));
        for place in former.filter_map(|name| self.core.servers.by_name(name)) {
            let bytes = Bytes::from(bytes.clone());
            let put = self
                .core
                .servers
                .call(place, |store| store.put_entry(id, writer, new.number, bytes.clone(), None));
            put.await.ok();
        }
    }

    /// Settles what was sealed anew in this life, or in an earlier one that was cut short behind the first entry.
    async fn finish_left(&mut self, number: u64) -> Result<Rest, End> {
        let fragments = Arc::clone(&self.fragments);
        let _change = fragments.changing().await;
        let old = self.left.remove(&number);
        let unfinished =
            |entry: &ManifestEntry| entry.generation > 0 && entry.state == EntryState::Shipped;
        let Some(entry) = self.fragments.numbered(number).filter(unfinished) else {
            return Ok(Rest::Nothing);
        };
        let places: Option<Vec<usize>> =
            entry.servers.iter().map(|name| self.core.servers.by_name(name)).collect();
        let Some(places) = places else {
            // Without all of its servers nothing is complete, and the older shards may be the better ones.
            self.say_incomplete(number, "one of its shard servers is not configured any more");
            return Ok(Rest::Soon);
        };
        if old.is_none() {
            // Servers that lost what they had last may have it no more, and the one before still.
            if let Err(error) = fetch(&self.core, &self.fragments, &entry).await {
                self.say_incomplete(number, &in_words(&error));
                return Ok(Rest::Soon);
            }
            self.put_entry(&entry, &places).await?;
        }
        self.finish(&entry, old.as_ref()).await
    }

    fn say_incomplete(&self, number: u64, why: &str) {
        let id = self.local.id();
        let what = format!(
            "its fragment {number} was sealed anew and is not complete, the shards before stay: {why}"
        );
        if self.core.board.put(id, Part::Renewing, what) {
            tracing::warn!(partition = %id, number, why, "a fragment that was sealed anew is not complete");
        }
    }

    /// Every server has the entry: reads the fragment back, removes what it replaces, says that it is complete.
    async fn finish(
        &self,
        entry: &ManifestEntry,
        old: Option<&ManifestEntry>,
    ) -> Result<Rest, End> {
        if let Err(why) = make_whole(&self.core, &self.fragments, &self.local, entry).await {
            self.say_incomplete(entry.number, &why);
            return Ok(Rest::Soon);
        }
        self.remove_before(entry, old).await;
        let revision = entry.revision.saturating_add(1);
        let complete = ManifestEntry { state: EntryState::Complete, revision, ..entry.clone() };
        let places: Vec<usize> =
            entry.servers.iter().filter_map(|name| self.core.servers.by_name(name)).collect();
        self.put_entry(&complete, &places).await?;
        self.fragments.insert(complete);
        Ok(Rest::Nothing)
    }

    /// Removes the shards of generations below that of `entry`: those of `old` and of attempts above it; where that is not
    /// known, of all that can be there, on every server.
    async fn remove_before(&self, entry: &ManifestEntry, old: Option<&ManifestEntry>) {
        let servers = &self.core.servers;
        let place = |name: &String| servers.by_name(name);
        let named: BTreeSet<usize> = entry.servers.iter().filter_map(place).collect();
        let lowest = old.map_or(entry.generation.saturating_sub(ATTEMPTS), |old| old.generation);
        let mut shards: BTreeSet<(usize, usize)> = BTreeSet::new();
        match old {
            Some(old) => {
                for names in [&old.servers, &entry.servers] {
                    let with_index = names.iter().enumerate();
                    shards
                        .extend(with_index.filter_map(|(index, name)| Some((place(name)?, index))));
                }
            }
            None => {
                let all = 0..servers.len();
                shards.extend(all.flat_map(|server| (0..entry.shards()).map(move |i| (server, i))));
            }
        }
        for generation in lowest..entry.generation {
            for (server, index) in &shards {
                let index = u8::try_from(*index).expect("an entry has at most 24 shards");
                let (partition, number) = (self.fragments.id, entry.number);
                let name = ShardName { partition, number, generation, index };
                if named.contains(server) {
                    servers.until_done(*server, |store| store.remove_shard(name)).await.ok();
                } else {
                    // It may be away for ever: what stays there is garbage.
                    servers.call(*server, |store| store.remove_shard(name)).await.ok();
                }
            }
        }
    }

    fn give_up(&mut self, number: u64, why: &str) -> Outcome {
        self.given_up.insert(number);
        tracing::error!(partition = %self.local.id(), number, why, "a compacted fragment cannot be sealed anew, and is left as it is until the next start");
        Outcome::GivenUp
    }
}

/// What the header says that is not read off the body: as it was appended.
fn draft(core: &Core, opened: &OpenedFragment, generation: u32) -> Draft {
    let header = &opened.header;
    Draft {
        timestamp_ns: header.timestamp_ns,
        vdisk_id: header.vdisk_id.clone(),
        previous_hash: header.previous_hash,
        previous_public_hash: header.previous_public_hash,
        cluster: header.cluster,
        data_dir: header.data_dir,
        topic: header.topic.clone(),
        partition: header.partition,
        sequences: header.sequences,
        journal_bytes: (header.first_journal_byte, header.last_journal_byte),
        append_ms: (header.first_append_ms, header.last_append_ms),
        last_stable_offset: header.last_stable_offset,
        number: header.number,
        generation,
        base_nonce: core.config.base_nonce,
        parity_shards: core.config.parity_shards,
    }
}

/// The body of what is left: the local batches, and the trailer of the fragment.
fn anew(opened: &OpenedFragment, batches: &[Bytes], data_shards: u8) -> Result<Body, String> {
    let (header, trailer) = (&opened.header, &opened.trailer);
    let commits = commits(opened)?;
    let commit_of = |offset: Offset| {
        let behind = commits.partition_point(|(first, _)| *first <= offset);
        commits.get(behind.saturating_sub(1)).map_or(header.first_commit, |(_, commit)| *commit)
    };
    let (mut of_body, mut stamps) = (Vec::with_capacity(batches.len()), None);
    for bytes in batches {
        let found = BatchHeader::parse(bytes).map_err(|error| in_words(&error))?;
        if found.record_count > 0 {
            let (low, high) = stamps.unwrap_or((found.base_timestamp, found.max_timestamp));
            stamps = Some((low.min(found.base_timestamp), high.max(found.max_timestamp)));
        }
        of_body.push(BodyBatch { bytes: bytes.clone(), commit: commit_of(found.base_offset) });
    }
    let parts = TrailerParts {
        aborted: trailer.aborted.clone(),
        producers: trailer.producers.clone(),
        full: header.full,
        journal: trailer.journal.clone(),
    };
    let mut body = Body::build(&of_body, parts, data_shards).map_err(|error| in_words(&error))?;
    if (body.facts.first_offset, body.facts.last_offset)
        != (header.first_offset, header.last_offset)
    {
        return Err("the local batches are of another range".to_owned());
    }
    // Of records that are gone these stay known.
    (body.first_commit, body.last_commit) = (header.first_commit, header.last_commit);
    body.aborted_count = header.aborted_count;
    body.facts.highest_producer_id = header.highest_producer_id;
    // What holds no record has no time.
    (body.facts.min_timestamp_ms, body.facts.max_timestamp_ms) = stamps.unwrap_or((-1, -1));
    Ok(body)
}

/// The first offset and the commit of each batch.
fn commits(opened: &OpenedFragment) -> Result<Vec<(Offset, CommitNumber)>, String> {
    let Some(commits) = &opened.trailer.commits else { return Ok(Vec::new()) };
    let bases: Result<Vec<Offset>, _> = Batches::new(&opened.batches)
        .map(|batch| batch.map(|(header, _)| header.base_offset))
        .collect();
    Ok(bases.map_err(|error| in_words(&error))?.into_iter().zip(commits.iter().copied()).collect())
}

/// What of a local batch lies in `[first, next)`: all of it, or a piece of a gap. None of a batch with records on a bound:
/// a fragment has whole batches, and compaction joins gaps only.
fn cut(header: &BatchHeader, batch: &Bytes, (first, next): (Offset, Offset)) -> Option<Bytes> {
    let (from, to) = (first.max(header.base_offset), next.min(header.next_offset()));
    if (from, to) == (header.base_offset, header.next_offset()) {
        return Some(batch.clone());
    }
    let piece = header.is_gap() && from < to;
    piece.then(|| record::gap(from, to, header.leader_epoch).into())
}

/// Local batches in order, a window at a time.
struct Scan {
    local: Arc<dyn Local>,
    /// Nothing is read beyond.
    upto: Offset,
    window: Bytes,
    window_bytes: usize,
    next: Offset,
}

impl Scan {
    fn new(local: &Arc<dyn Local>, upto: Offset) -> Self {
        let local = Arc::clone(local);
        Self { local, upto, window: Bytes::new(), window_bytes: WINDOW, next: Offset::MIN }
    }

    /// For a fragment of so many bytes.
    fn small(mut self, bytes: u64) -> Self {
        self.window_bytes = WINDOW.min(usize::try_from(bytes).unwrap_or(WINDOW));
        self
    }

    /// How many records of a fragment's range are left.
    async fn records(&mut self, entry: &ManifestEntry) -> Result<u64, Unread> {
        let mut records = 0;
        self.visit(entry, |header, _| {
            records += u64::from(header.record_count.max(0).unsigned_abs())
        })
        .await?;
        Ok(records)
    }

    /// The batches of a fragment's range.
    async fn batches(&mut self, entry: &ManifestEntry) -> Result<Vec<Bytes>, Unread> {
        let mut batches = Vec::new();
        self.visit(entry, |_, batch| batches.push(batch)).await?;
        Ok(batches)
    }

    async fn visit(
        &mut self,
        entry: &ManifestEntry,
        mut take: impl FnMut(&BatchHeader, Bytes),
    ) -> Result<(), Unread> {
        let range = (entry.first_offset, entry.next_offset());
        if self.next != range.0 {
            (self.next, self.window) = (range.0, Bytes::new());
        }
        while self.next < range.1 {
            if self.window.is_empty() {
                self.fill().await?;
            }
            let header = BatchHeader::parse(&self.window)
                .map_err(|error| Unread::Failed(in_words(&error)))?;
            let batch = self.window.slice(..header.total_bytes().min(self.window.len()));
            let is_next = header.base_offset <= self.next && header.next_offset() > self.next;
            let piece = cut(&header, &batch, range).filter(|_| is_next);
            let Some(piece) = piece else {
                let what = "a batch of the local log lies on the bound of a fragment";
                return Err(Unread::Failed(what.to_owned()));
            };
            take(&header, piece);
            self.next = header.next_offset().min(range.1);
            if header.next_offset() <= range.1 {
                self.window = self.window.slice(batch.len()..);
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Unread> {
        let (local, next, upto) = (Arc::clone(&self.local), self.next, self.upto);
        let bytes = self.window_bytes;
        match tokio::task::spawn_blocking(move || local.read(next, upto, bytes)).await {
            Ok(Ok(window)) if !window.is_empty() => self.window = window,
            Ok(Ok(_)) => return Err(Unread::Failed("the local log gave nothing".to_owned())),
            Ok(Err(log::Error::OutOfRange { .. })) => return Err(Unread::Gone),
            Ok(Err(error)) => return Err(Unread::Failed(in_words(&error))),
            // The runtime ends.
            Err(_) => return Err(Unread::End(End::Stopping)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
