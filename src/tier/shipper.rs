//! Shipping one partition: one task, one fragment at a time, in order.
//!
//! ```text
//! idle -demand-> claim -> redo or abandon an intent -> loop:
//!   decide -> read -> seal -> Fact::Intended -> n shards -> entry and head on n servers -> Fact::Shipped
//!                                                             beside it: read back -> Fact::Completed
//! ```
//!
//! Nothing leaves before its intent is durable. What was intended before a crash is made again to the same bytes, or its
//! number is never used. A partition without anything to ship waits for its watermarks and costs nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::aggregation::{self, Decision, Pending, PendingBatch, decide};
use super::body::{Body, BodyBatch, TrailerParts};
use super::catalogue::{Fragments, Listing};
use super::claim::{claim, leftovers};
use super::completer;
use super::error::{BodyError, SealError};
use super::fetcher::{FetchError, fetch};
use super::fragment::{Draft, OpenedFragment, SealedFragment, repair, reseal, seal};
use super::generations::Generations;
use super::header::{FragmentHeader, SequenceRange};
use super::local::{AppendMark, Fact, Head, Intent, Local, Run, ShipState, Stopping};
use super::producers::{FULL_EVERY, Producers};
use super::put::{self, PutError};
use super::records::{EntryState, HeadRecord, ManifestEntry};
use super::servers::Backoff;
use super::status::Part;
use super::store::Fence;
use super::tier::{Core, TopicInfo, topic_is_known};
use super::waiting::{Progress, Waiting};
use crate::clock;
use crate::log;
use crate::record::{BatchHeader, Batches};
use crate::types::limits::ABANDONED_NUMBERS;
use crate::types::{CommitNumber, LeaderEpoch, Offset, Sequence, Watermarks, in_words};

/// Local bytes that are looked at in one go.
pub(super) const WINDOW: usize = 1024 * 1024;

/// Memory that a fragment takes on its way, in relation to its batches: themselves, the body, and k+m shards.
pub(super) const MEMORY_FACTOR: u64 = 4;

/// Why a partition ships no more.
#[derive(Debug)]
pub(super) enum End {
    /// The broker or the topic ends.
    Stopping,
    /// Another broker has the partition.
    Fenced(Fence),
    /// It cannot go on without a person.
    Refused(String),
}

impl From<Stopping> for End {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

/// What a shipper needs.
pub(super) struct Shipper {
    pub core: Arc<Core>,
    pub fragments: Arc<Fragments>,
    pub info: TopicInfo,
    pub local: Arc<dyn Local>,
    pub state: ShipState,
    pub watermarks: watch::Receiver<Watermarks>,
    pub ship_to: watch::Receiver<Offset>,
    /// Counts the passes of compaction over the local log.
    pub compacted: watch::Receiver<u64>,
}

impl Shipper {
    /// Ships until `stop`, or until it cannot go on.
    pub async fn run(self, stop: CancellationToken) {
        let (core, fragments) = (Arc::clone(&self.core), Arc::clone(&self.fragments));
        let id = self.local.id();
        let end = tokio::select! {
            () = stop.cancelled() => End::Stopping,
            end = self.work() => end,
        };
        match end {
            End::Stopping => {}
            End::Fenced(fence) => {
                fragments.taken();
                let what = format!(
                    "it ships no more: {fence} has taken it on the shard servers; stop that broker, or delete this one's data \
                     directory and start it anew to take over"
                );
                tracing::error!(partition = %id, taken_by = %fence, "partition was taken by another broker");
                core.board.put(id, Part::Shipping, what);
                core.metrics.fenced();
            }
            End::Refused(why) => {
                tracing::error!(partition = %id, why, "partition ships no more");
                core.board.put(id, Part::Shipping, format!("it ships no more: {why}"));
            }
        }
    }

    async fn work(mut self) -> End {
        if let Err(why) = &self.fragments.secret {
            return End::Refused(why.clone());
        }
        match self.begin().await {
            Err(end) => end,
            Ok((mut shipping, listing)) => {
                let complete = completer::run(
                    Arc::clone(&self.core),
                    Arc::clone(&self.fragments),
                    Arc::clone(&self.local),
                    self.state.complete,
                    shipping.shipped_now.subscribe(),
                );
                let renew = Generations {
                    core: Arc::clone(&self.core),
                    fragments: Arc::clone(&self.fragments),
                    local: Arc::clone(&self.local),
                    watermarks: self.watermarks.clone(),
                    compacted: self.compacted.clone(),
                    shipped: shipping.shipped_now.subscribe(),
                    given_up: BTreeSet::new(),
                    left: BTreeMap::new(),
                };
                let ship = async {
                    let Err(end) = shipping.ship_for_ever(listing).await;
                    end
                };
                tokio::select! { end = complete => end, end = ship => end, end = renew.run() => end }
            }
        }
    }

    /// Waits until there is something to do, and claims.
    async fn begin(&mut self) -> Result<(Shipping, Listing), End> {
        let state = &self.state;
        let idle = state.intent.is_none() && state.complete >= state.shipped;
        if idle {
            let shipped = state.shipped;
            let due = self.watermarks.wait_for(|marks| marks.high_watermark > shipped);
            let compacted = self.compacted.wait_for(|passes| *passes > 0);
            let ended =
                tokio::select! { due = due => due.is_err(), due = compacted => due.is_err() };
            if ended {
                return Err(End::Stopping);
            }
        }
        // Known on W servers before the first fragment is there, and again on servers that were replaced.
        topic_is_known(&self.core, &self.info.record, self.local.id()).await;
        let listing = claim(&self.core, &self.fragments, &self.local).await?;
        let given_up = leftovers(&self.state, &listing)?;
        self.fragments.abandon(given_up.iter().copied());
        let mut shipping = Shipping {
            core: Arc::clone(&self.core),
            fragments: Arc::clone(&self.fragments),
            info: self.info.clone(),
            local: Arc::clone(&self.local),
            watermarks: self.watermarks.clone(),
            ship_to: self.ship_to.clone(),
            draining: self.core.draining.subscribe(),
            config: self.core.aggregation(self.info.vdisk),
            head: self.state.head,
            shipped: self.state.shipped,
            last_number: self.state.last_number.max(listing.highest_number()),
            abandoned: listing.manifest.abandoned().chain(given_up).collect(),
            intent: self.state.intent.clone(),
            producers: Producers::default(),
            full_block: None,
            claimed_anew: true,
            scan: Scan::default(),
            shipped_now: watch::Sender::new(self.state.shipped),
        };
        shipping.scan.next = self.state.shipped;
        let degraded = listing.manifest.chain().filter(|entry| {
            entry.first_offset >= self.state.complete && entry.first_offset < self.state.shipped
        });
        self.core.metrics.degraded(degraded.count());
        shipping.fold_producers(&listing).await;
        self.core.board.clear(self.local.id(), Part::Shipping);
        Ok((shipping, listing))
    }
}

/// A claimed partition.
struct Shipping {
    core: Arc<Core>,
    fragments: Arc<Fragments>,
    info: TopicInfo,
    local: Arc<dyn Local>,
    watermarks: watch::Receiver<Watermarks>,
    ship_to: watch::Receiver<Offset>,
    draining: watch::Receiver<bool>,
    config: aggregation::Config,
    head: Option<Head>,
    shipped: Offset,
    last_number: Option<u64>,
    abandoned: BTreeSet<u64>,
    intent: Option<Intent>,
    /// As of `shipped`.
    producers: Producers,
    /// Number of the newest full fragment, divided by [`FULL_EVERY`].
    full_block: Option<u64>,
    claimed_anew: bool,
    scan: Scan,
    shipped_now: watch::Sender<Offset>,
}

/// Committed batches behind the shipped offset, headers only.
#[derive(Default)]
struct Scan {
    batches: VecDeque<PendingBatch>,
    bytes: u64,
    next: Offset,
}

/// Batches of a fragment to be made.
struct Material {
    batches: Vec<BodyBatch>,
    append_ms: (i64, i64),
    sequences: Option<SequenceRange>,
}

/// A fragment ready to leave, and the producers as of its end.
struct Ready {
    sealed: SealedFragment,
    producers: Producers,
}

enum MakeError {
    Body(BodyError),
    Seal(SealError),
    Secret,
}

impl MakeError {
    fn in_words(&self) -> String {
        match self {
            Self::Body(error) => in_words(error),
            Self::Seal(error) => in_words(error),
            Self::Secret => "the topic's secret does not open".to_owned(),
        }
    }
}

impl Shipping {
    async fn ship_for_ever(&mut self, listing: Listing) -> Result<std::convert::Infallible, End> {
        if let Some(intent) = self.intent.take() {
            self.finish_intent(intent, &listing).await?;
        }
        drop(listing);
        loop {
            let committed = self.watermarks.borrow_and_update().high_watermark;
            let asked = *self.ship_to.borrow_and_update();
            let draining = *self.draining.borrow_and_update();
            self.look_ahead(committed).await?;
            let pending = Pending {
                shipped: self.shipped,
                high_watermark: committed,
                batches: self.scan.batches.make_contiguous(),
                forced: if draining { committed } else { asked },
            };
            match decide(&pending, &self.config, clock::wall_ms()) {
                Decision::Ship { upto } => self.ship(upto).await?,
                Decision::Nothing { wake_at_ms } => self.wait(wake_at_ms).await?,
            }
        }
    }

    async fn wait(&mut self, wake_at_ms: Option<i64>) -> Result<(), End> {
        let timer = async {
            match wake_at_ms {
                Some(at) => {
                    let wait = at.saturating_sub(clock::wall_ms()).max(1);
                    tokio::time::sleep(Duration::from_millis(wait.unsigned_abs())).await;
                }
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = self.watermarks.changed() => changed,
            changed = self.ship_to.changed() => changed,
            changed = self.draining.changed() => changed,
            () = timer => Ok(()),
        };
        changed.map_err(|_| End::Stopping)
    }

    /// Reads headers of committed batches until enough for a fragment is known.
    async fn look_ahead(&mut self, committed: Offset) -> Result<(), End> {
        while self.scan.next < committed && self.scan.bytes <= self.config.max_fragment_bytes {
            let batches = self.read(self.scan.next, committed, WINDOW).await?;
            let marks = self.local.marks(self.scan.next, committed);
            let runs = self.local.runs();
            for batch in Batches::new(&batches) {
                let (header, bytes) = batch.map_err(|error| damaged(&in_words(&error)))?;
                if header.base_offset != self.scan.next {
                    return Err(damaged("its batches do not continue each other"));
                }
                self.scan.next = header.next_offset();
                self.scan.bytes += bytes.len() as u64;
                self.scan.batches.push_back(PendingBatch {
                    base_offset: header.base_offset,
                    next_offset: header.next_offset(),
                    bytes: bytes.len() as u64,
                    records: u64::from(header.record_count.max(0).unsigned_abs()),
                    appended_ms: mark_of(&marks, header.base_offset).map_or(0, |m| m.appended_ms),
                    epoch: LeaderEpoch(header.leader_epoch),
                    run: run_index(&runs, header.base_offset),
                });
            }
        }
        Ok(())
    }

    /// Local batches; an error of the disk is met by trying again, for nothing may be left out.
    async fn read(&self, from: Offset, upto: Offset, max_bytes: usize) -> Result<Bytes, End> {
        let mut backoff = Backoff::new();
        loop {
            let local = Arc::clone(&self.local);
            let read = tokio::task::spawn_blocking(move || local.read(from, upto, max_bytes));
            let error = match read.await {
                Ok(Ok(bytes)) if !bytes.is_empty() => return Ok(bytes),
                Ok(Ok(_)) => "the local log gave nothing below the high watermark".to_owned(),
                Ok(Err(error @ log::Error::OutOfRange { .. })) => {
                    return Err(damaged(&in_words(&error)));
                }
                Ok(Err(error)) => in_words(&error),
                // The runtime ends.
                Err(_) => return Err(End::Stopping),
            };
            let what = format!("it cannot be read locally: {error}");
            if self.core.board.put(self.local.id(), Part::Shipping, what) {
                tracing::error!(partition = %self.local.id(), error, "cannot read what is to be shipped");
            }
            backoff.pause().await;
        }
    }

    async fn material(&self, from: Offset, upto: Offset) -> Result<Material, End> {
        let marks = self.local.marks(from, upto);
        let mut batches = Vec::new();
        let mut next = from;
        while next < upto {
            let bytes = self.read(next, upto, WINDOW).await?;
            for batch in Batches::new(&bytes) {
                let (header, batch) = batch.map_err(|error| damaged(&in_words(&error)))?;
                if header.base_offset != next {
                    return Err(damaged("its batches do not continue each other"));
                }
                next = header.next_offset();
                let commit: CommitNumber =
                    mark_of(&marks, header.base_offset).map_or(0, |m| m.commit);
                batches.push(BodyBatch { bytes: bytes.slice_ref(batch), commit });
            }
        }
        let append = |offset| mark_of(&marks, offset).map_or(0, |mark| mark.appended_ms);
        let sequences =
            self.info.vdisk.then(|| sequences(&self.local.runs(), from, upto)).flatten();
        Ok(Material { batches, append_ms: (append(from), append(upto - 1)), sequences })
    }

    /// Ships `[shipped, upto)` as one fragment.
    async fn ship(&mut self, upto: Offset) -> Result<(), End> {
        let started = clock::monotonic();
        let known = self.scan.batches.iter().take_while(|batch| batch.next_offset <= upto);
        let bytes: u64 = known.map(|batch| batch.bytes).sum();
        let core = Arc::clone(&self.core);
        let _memory = core.reserve(bytes.saturating_mul(MEMORY_FACTOR)).await;
        let material = Arc::new(self.material(self.shipped, upto).await?);
        loop {
            let number = self.last_number.map_or(1, |last| last.saturating_add(1));
            let ready = self.make(Arc::clone(&material), number, None).await;
            let ready = ready.map_err(|error| damaged(&error.in_words()))?;
            let intent = Intent {
                number,
                first_offset: self.shipped,
                end_offset: upto,
                header: ready.sealed.header_bytes.clone(),
                digest: ready.sealed.digest,
            };
            self.last_number = Some(number);
            self.local.record(Fact::Intended(intent)).await?;
            if self.store(ready, None).await? {
                break;
            }
        }
        self.core.metrics.shipped(bytes, started.elapsed());
        Ok(())
    }

    /// Seals on a blocking thread: `intent` is that of a fragment to be made again.
    async fn make(
        &self,
        material: Arc<Material>,
        number: u64,
        intent: Option<Intent>,
    ) -> Result<Ready, MakeError> {
        let recipe = Recipe {
            core: Arc::clone(&self.core),
            fragments: Arc::clone(&self.fragments),
            producers: self.producers.clone(),
            full_is_due: self.claimed_anew || self.full_block != Some(number / FULL_EVERY),
            draft: self.draft(&material, number),
        };
        let made = tokio::task::spawn_blocking(move || match intent {
            None => recipe.fresh(&material),
            Some(intent) => recipe.again(&material, &intent),
        });
        made.await.unwrap_or(Err(MakeError::Secret))
    }

    fn draft(&self, material: &Material, number: u64) -> Draft {
        let (previous_hash, previous_public_hash) =
            self.head.map_or(([0; 32], [0; 32]), |head| (head.hash, head.public_hash));
        let name = self.info.record.name.to_string();
        let last = material.batches.last().and_then(|batch| BatchHeader::parse(&batch.bytes).ok());
        Draft {
            timestamp_ns: clock::wall_ms().saturating_mul(1_000_000),
            vdisk_id: if self.info.vdisk { name.clone() } else { String::new() },
            previous_hash,
            previous_public_hash,
            cluster: self.core.cluster,
            data_dir: self.core.data_dir,
            topic: name,
            partition: self.local.id(),
            sequences: material.sequences,
            journal_bytes: (0, 0),
            append_ms: material.append_ms,
            // No transactions yet: everything is stable.
            last_stable_offset: last.map_or(self.shipped, |header| header.next_offset()),
            number,
            generation: 0,
            base_nonce: self.core.config.base_nonce,
            parity_shards: self.core.config.parity_shards,
        }
    }

    /// Puts a fragment whose intent is durable. `false`: its number had to be given up.
    async fn store(&mut self, ready: Ready, known: Option<ManifestEntry>) -> Result<bool, End> {
        let Ready { sealed, producers } = ready;
        let number = sealed.header.number;
        let known_places = known.as_ref().and_then(|entry| self.places_of(entry));
        let (entry, places) = match (known, known_places) {
            (Some(entry), Some(places)) => (entry, places),
            (known, _) => {
                let places = {
                    // An intended fragment may be of another k and m than those of today.
                    let shards = sealed.shards.len();
                    put::choose(&self.core, self.local.id(), number, shards).await
                };
                let servers = places.iter().filter_map(|place| self.core.servers.get(*place));
                let names = servers.map(|server| server.name().to_owned()).collect();
                let mut entry = sealed.entry(names, EntryState::Shipped);
                entry.revision = known.map_or(0, |known| known.revision.saturating_add(1));
                (entry, places)
            }
        };
        let name = (number, entry.generation);
        match put::shards(&self.core, &self.local, name, &sealed.shards, &places).await {
            Err(PutError::Conflict(why)) => {
                tracing::warn!(partition = %self.local.id(), number, why, "fragment number is given up");
                self.give_up(number).await?;
                return Ok(false);
            }
            other => other.map_err(ended)?,
        }
        let full = sealed.header.full;
        drop(sealed);
        self.shipped_as(entry, &places).await?;
        self.producers = producers;
        if full {
            self.full_block = Some(number / FULL_EVERY);
        }
        self.claimed_anew = false;
        Ok(true)
    }

    /// The shards are stored: entry, head and the shipped offset follow.
    async fn shipped_as(&mut self, entry: ManifestEntry, places: &[usize]) -> Result<(), End> {
        let excess = self.abandoned.len().saturating_sub(ABANDONED_NUMBERS);
        for _ in 0..excess {
            self.abandoned.pop_first();
        }
        let head = Head {
            number: entry.number,
            shipped: entry.next_offset(),
            hash: entry.hash,
            public_hash: entry.public_hash,
        };
        let record = HeadRecord {
            epoch: self.local.epoch(),
            number: head.number,
            shipped_offset: head.shipped,
            hash: head.hash,
            public_hash: head.public_hash,
            abandoned: self.abandoned.iter().copied().collect(),
        };
        put::entry(&self.core, &self.local, &entry, Some(&record), places).await.map_err(ended)?;
        self.fragments.insert(entry);
        self.local.record(Fact::Shipped(head)).await?;
        self.head = Some(head);
        self.last_number = self.last_number.max(Some(head.number));
        self.shipped = head.shipped;
        self.scan.forget_below(head.shipped);
        self.shipped_now.send_replace(head.shipped);
        Ok(())
    }

    async fn give_up(&mut self, number: u64) -> Result<(), End> {
        self.local.record(Fact::Abandoned { number }).await?;
        self.core.metrics.abandoned();
        self.abandoned.insert(number);
        self.fragments.abandon([number]);
        Ok(())
    }

    fn places_of(&self, entry: &ManifestEntry) -> Option<Vec<usize>> {
        entry.servers.iter().map(|name| self.core.servers.by_name(name)).collect()
    }

    /// Makes an intended fragment again to the same bytes. Where that is impossible it is taken from its shards, if enough
    /// are there and its entry is; else its number is given up.
    async fn finish_intent(&mut self, intent: Intent, listing: &Listing) -> Result<(), End> {
        let number = intent.number;
        let previous = self.head.map_or([0; 32], |head| head.hash);
        let fits = FragmentHeader::decode(&intent.header).is_ok_and(|header| {
            header.number == number
                && header.previous_hash == previous
                && header.first_offset == self.shipped
                && header.last_offset + 1 == intent.end_offset
        });
        if !fits || intent.first_offset != self.shipped {
            return self.give_up(number).await;
        }
        let stored = listing.manifest.get(number).cloned();
        let bytes = intent.header.len() as u64
            + FragmentHeader::decode(&intent.header).map_or(0, |header| header.padded_bytes);
        let core = Arc::clone(&self.core);
        let _memory = core.reserve(bytes.saturating_mul(MEMORY_FACTOR)).await;
        let material = Arc::new(self.material(intent.first_offset, intent.end_offset).await?);
        match self.make(material, number, Some(intent)).await {
            Ok(ready) => {
                let same = |entry: &ManifestEntry| entry.hash == ready.sealed.hash;
                if stored.as_ref().is_some_and(|entry| !same(entry)) {
                    return self.give_up(number).await;
                }
                self.store(ready, stored).await.map(drop)
            }
            Err(error) => {
                let why = error.in_words();
                tracing::warn!(partition = %self.local.id(), number, why, "an intended fragment cannot be made again");
                self.adopt_or_give_up(number, stored, previous).await
            }
        }
    }

    async fn adopt_or_give_up(
        &mut self,
        number: u64,
        stored: Option<ManifestEntry>,
        previous: [u8; 32],
    ) -> Result<(), End> {
        let continues = |entry: &ManifestEntry| {
            entry.previous_hash == previous && entry.first_offset == self.shipped
        };
        let Some(entry) = stored.filter(continues) else { return self.give_up(number).await };
        let Some(places) = self.places_of(&entry) else { return self.give_up(number).await };
        let opened = match until_fetched(&self.core, &self.fragments, &entry, None).await {
            Ok(opened) => opened,
            Err(_) => return self.give_up(number).await,
        };
        let mut producers = self.producers.clone();
        producers.fold(&opened.trailer, entry.full);
        let (core, fragments, of) =
            (Arc::clone(&self.core), Arc::clone(&self.fragments), entry.clone());
        let made = tokio::task::spawn_blocking(move || {
            let secret = fragments.secret.as_ref().ok()?;
            repair(&opened, &of, &core.context(fragments.id, secret)).ok()
        });
        let Ok(Some(shards)) = made.await else { return self.give_up(number).await };
        let name = (number, entry.generation);
        match put::shards(&self.core, &self.local, name, &shards, &places).await {
            Err(PutError::Conflict(_)) => return self.give_up(number).await,
            other => other.map_err(ended)?,
        }
        self.shipped_as(entry, &places).await?;
        self.producers = producers;
        Ok(())
    }

    /// The producers as of the newest fragment, from trailers.
    async fn fold_producers(&mut self, listing: &Listing) {
        let Some(head) = self.head else { return };
        let chain: Vec<_> =
            listing.manifest.chain().filter(|entry| entry.number <= head.number).cloned().collect();
        let (producers, full, lost) = fold(&self.core, &self.fragments, &chain, None).await;
        if let Some(lost) = lost.first() {
            tracing::warn!(partition = %self.local.id(), error = %lost, "producer states of a fragment are lost");
        }
        self.producers = producers;
        self.full_block = full.map(|number| number / FULL_EVERY);
    }
}

/// Folds the trailers of a chain from its newest full one on; waits for servers. Gives the states, the number of that full
/// one, and what could not be opened.
pub(super) async fn fold(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    chain: &[ManifestEntry],
    progress: Option<Progress<'_>>,
) -> (Producers, Option<u64>, Vec<FetchError>) {
    let newest_full = chain.iter().rposition(|entry| entry.full);
    let named = chain.get(newest_full.unwrap_or(0)..).unwrap_or_default();
    let mut producers = Producers::default();
    let mut lost = Vec::new();
    // A trailer names producers only where a batch has one, or all.
    let there = named.iter().filter(|entry| entry.state != EntryState::Deleting);
    for entry in there.filter(|entry| entry.full || entry.highest_producer_id >= 0) {
        match until_fetched(core, fragments, entry, progress).await {
            Ok(opened) => producers.fold(&opened.trailer, entry.full),
            Err(error) => lost.push(error),
        }
    }
    let full = newest_full.and_then(|at| chain.get(at)).map(|entry| entry.number);
    (producers, full, lost)
}

/// Fetches a fragment, in a newer generation where there is one by now; waits for servers as long as it takes, and says so.
///
/// # Errors
/// [`FetchError::Damaged`].
pub(super) async fn until_fetched(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    entry: &ManifestEntry,
    progress: Option<Progress<'_>>,
) -> Result<OpenedFragment, FetchError> {
    let mut entry = entry.clone();
    let waiting = Waiting::new(&core.servers, "open fragments");
    let mut waiting = waiting.of(&core.board, fragments.id).telling(progress);
    loop {
        let found = fetch(core, fragments, &entry).await;
        if found.is_err()
            && let Some(newer) = fragments.newer(core, &entry).await
        {
            entry = newer;
            continue;
        }
        let needed = usize::from(entry.data_shards);
        match found {
            Err(FetchError::Unavailable { why }) => {
                waiting.pause(core.servers.up_count(), needed, Some(&why)).await;
            }
            done => {
                waiting.over();
                return done;
            }
        }
    }
}

/// Everything that goes into one seal, to be used off the tasks' threads.
struct Recipe {
    core: Arc<Core>,
    fragments: Arc<Fragments>,
    producers: Producers,
    full_is_due: bool,
    draft: Draft,
}

impl Recipe {
    fn fresh(self, material: &Material) -> Result<Ready, MakeError> {
        let (producers, parts) = self.trailer(material, None);
        let data_shards = self.core.config.data_shards;
        let body = Body::build(&material.batches, parts, data_shards).map_err(MakeError::Body)?;
        let mut random = [0; 32];
        // The salt is hedged: without random bytes the header and the body still make it another one each time.
        if let Err(error) = getrandom::fill(&mut random) {
            tracing::warn!(%error, "the system gives no random bytes");
        }
        let secret = self.fragments.secret.as_ref().map_err(|_| MakeError::Secret)?;
        let sealed = seal(&self.draft, &body, secret, &self.core.config.keys, random);
        Ok(Ready { sealed: sealed.map_err(MakeError::Seal)?, producers })
    }

    fn again(self, material: &Material, intent: &Intent) -> Result<Ready, MakeError> {
        let decoded = FragmentHeader::decode(&intent.header);
        let header = decoded.map_err(|error| MakeError::Seal(error.into()))?;
        let (producers, parts) = self.trailer(material, Some(header.full));
        let body =
            Body::build(&material.batches, parts, header.data_shards).map_err(MakeError::Body)?;
        let secret = self.fragments.secret.as_ref().map_err(|_| MakeError::Secret)?;
        let keys = &self.core.config.keys;
        let sealed = reseal(intent.header.clone(), &intent.digest, &body, secret, keys);
        Ok(Ready { sealed: sealed.map_err(MakeError::Seal)?, producers })
    }

    fn trailer(&self, material: &Material, full: Option<bool>) -> (Producers, TrailerParts) {
        let mut producers = self.producers.clone();
        let headers: Vec<BatchHeader> = material
            .batches
            .iter()
            .filter_map(|batch| BatchHeader::parse(&batch.bytes).ok())
            .collect();
        let changed = producers.follow(&headers);
        let full = full.unwrap_or(self.full_is_due && !producers.is_empty());
        let named = if full { producers.all() } else { changed };
        let named = (full || !named.is_empty()).then_some(named);
        (producers, TrailerParts { producers: named, full, ..TrailerParts::default() })
    }
}

impl Scan {
    fn forget_below(&mut self, offset: Offset) {
        while let Some(batch) = self.batches.front().filter(|batch| batch.next_offset <= offset) {
            self.bytes -= batch.bytes;
            self.batches.pop_front();
        }
        self.next = self.next.max(offset);
    }
}

fn mark_of(marks: &[AppendMark], offset: Offset) -> Option<&AppendMark> {
    let after = marks.partition_point(|mark| mark.first_offset <= offset);
    marks.get(after.saturating_sub(1))
}

fn run_of(runs: &[Run], offset: Offset) -> Option<(usize, &Run)> {
    let after = runs.partition_point(|run| run.first_offset <= offset);
    let at = after.checked_sub(1)?;
    Some((at, runs.get(at)?))
}

fn run_index(runs: &[Run], offset: Offset) -> u64 {
    run_of(runs, offset).map_or(0, |(at, _)| at as u64 + 1)
}

fn sequences(runs: &[Run], from: Offset, upto: Offset) -> Option<SequenceRange> {
    let (_, run) = run_of(runs, from)?;
    let sequence = |offset: Offset| {
        let distance = u64::try_from(offset - run.first_offset).ok()?;
        run.first_sequence.0.checked_add(distance).map(Sequence)
    };
    Some(SequenceRange { first: sequence(from)?, last: sequence(upto - 1)? })
}

fn damaged(why: &str) -> End {
    End::Refused(format!("the local log cannot be shipped: {why}; restart, or restore the disk"))
}

fn ended(error: PutError) -> End {
    match error {
        PutError::Fenced(fence) => End::Fenced(fence),
        PutError::Conflict(why) | PutError::Refused(why) => End::Refused(why),
    }
}
