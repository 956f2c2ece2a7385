//! A life of a broker drawn from a seed, and the journal of what it was asked and what it answered.
//!
//! A new kind of step: a variant of [`Step`], its weight in [`Player::draw`], what it does in [`Player::step`]. What it may
//! take away or give back is said by a [`Note`], and judged in `model.rs`.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::super::shipping::Shipped;
use super::super::*;
use crate::disk::Disk;
use crate::disk::sim::{Random, SimDisk};
use crate::record::{BatchBuilder, Record};
use crate::task;
use crate::tier::{Fact, Head, Local};
use crate::types::{ClusterId, Offset, TopicId};

pub const DATA: &str = "/data";

/// A partition of one life of a topic.
pub type Place = (TopicId, i32);

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// Compacted by key.
    Keyed,
    /// Compacted by extent.
    Vdisk,
}

#[derive(Debug)]
struct Plan {
    name: &'static str,
    kind: Kind,
    partitions: i32,
    segment_ms: i64,
    more: &'static [(&'static str, &'static str)],
}

/// The one that is deleted and made anew now and then.
const MORTAL: &str = "c";

/// Of "a" all goes at [`MUCH_LATER`], and what is above its size at any time.
const TOPICS: [Plan; 5] = [
    Plan {
        name: "a",
        kind: Kind::Plain,
        partitions: 2,
        segment_ms: 1,
        more: &[("retention.bytes", "3000"), ("retention.ms", "1000")],
    },
    Plan { name: "b", kind: Kind::Plain, partitions: 1, segment_ms: i64::MAX, more: &[] },
    Plan { name: MORTAL, kind: Kind::Plain, partitions: 2, segment_ms: 3, more: &[] },
    Plan {
        name: "k",
        kind: Kind::Keyed,
        partitions: 1,
        segment_ms: 1,
        more: &[
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "-1"),
            ("min.cleanable.dirty.ratio", "0"),
            ("delete.retention.ms", "500"),
        ],
    },
    Plan {
        name: "v",
        kind: Kind::Vdisk,
        partitions: 1,
        segment_ms: 1,
        more: &[
            ("tlog.vdisk", "true"),
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("delete.retention.ms", "500"),
        ],
    },
];

/// The stamp of every record.
pub const STAMP_MS: i64 = 1_000;
const MUCH_LATER: i64 = 10_000;

/// Keys of a keyed topic.
const KEYS: usize = 6;
/// Blocks of a vdisk, and their bytes.
const BLOCKS: usize = 16;
const BLOCK_BYTES: usize = 512;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub kind: Kind,
    /// What it says something about: a key, blocks of a vdisk. Nothing where the topic is plain.
    pub cells: Range<usize>,
    /// None deletes.
    pub value: Option<String>,
    /// Where it is compacted: tells it from all others.
    pub id: String,
}

impl Item {
    /// Reads it back.
    pub fn of(record: &Record<'_>) -> Self {
        let value = record.value.map(|value| String::from_utf8(value.to_vec()).unwrap());
        let header = |name: &[u8]| {
            let mut headers = record.headers.clone();
            headers.find(|(key, _)| *key == name).and_then(|(_, value)| value)
        };
        let id = header(b"id").map_or(String::new(), |id| String::from_utf8(id.to_vec()).unwrap());
        let (kind, cells) = match record.key {
            None => (Kind::Plain, 0..0),
            Some([key]) => (Kind::Keyed, usize::from(*key)..usize::from(*key) + 1),
            Some(start) => {
                let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap()) as usize;
                let size = header(b"size").map(number);
                let bytes = size.unwrap_or_else(|| record.value.unwrap().len());
                let end = (number(start) + bytes) / BLOCK_BYTES;
                (Kind::Vdisk, number(start) / BLOCK_BYTES..end)
            }
        };
        Self { kind, cells, value, id }
    }

    /// A record of this kind that says something about the first cell.
    pub fn simple(kind: Kind, id: String) -> Self {
        match kind {
            Kind::Plain => id.into(),
            Kind::Keyed => Self { kind, cells: 0..1, value: Some(id.clone()), id },
            Kind::Vdisk => Self { kind, cells: 0..1, value: Some("y".repeat(BLOCK_BYTES)), id },
        }
    }

    fn push(&self, builder: &mut BatchBuilder) {
        let value = self.value.as_ref().map(String::as_bytes);
        let id: (&str, &[u8]) = ("id", self.id.as_bytes());
        let start = ((self.cells.start * BLOCK_BYTES) as u64).to_be_bytes();
        let size = ((self.cells.len() * BLOCK_BYTES) as u64).to_be_bytes();
        match self.kind {
            Kind::Plain => builder.push(STAMP_MS, None, value, &[]),
            Kind::Keyed => builder.push(STAMP_MS, Some(&[self.cells.start as u8]), value, &[id]),
            Kind::Vdisk if value.is_some() => builder.push(STAMP_MS, Some(&start), value, &[id]),
            Kind::Vdisk => builder.push(STAMP_MS, Some(&start), None, &[id, ("size", &size)]),
        }
    }
}

impl From<String> for Item {
    fn from(value: String) -> Self {
        Self { kind: Kind::Plain, cells: 0..0, value: Some(value), id: String::new() }
    }
}

/// A batch that was handed to a partition.
#[derive(Debug, Clone)]
pub struct Sent<V = Item> {
    /// Rises by one with each batch of a life, over all partitions.
    pub number: usize,
    pub values: Vec<V>,
    /// Id and first sequence, where it is idempotent.
    pub producer: Option<(i64, i32)>,
}

impl<V: Clone + Into<Item>> Sent<V> {
    pub fn batch(&self) -> Bytes {
        let mut builder = BatchBuilder::new(STAMP_MS);
        if let Some((id, sequence)) = self.producer {
            builder = builder.producer(id, 0, sequence);
        }
        self.values.iter().for_each(|item| item.clone().into().push(&mut builder));
        builder.build().into()
    }
}

impl Sent {
    pub fn origin(&self) -> Origin {
        if self.values[0].kind == Kind::Vdisk { Origin::Vdisk } else { Origin::Kafka }
    }
}

pub fn kind_of(topic: &Topic) -> Kind {
    let options = topic.options();
    match options.compacts {
        true if options.vdisk => Kind::Vdisk,
        true => Kind::Keyed,
        false => Kind::Plain,
    }
}

/// What was asked, noted before, and what was answered, noted behind.
#[derive(Debug, Clone)]
pub enum Note {
    Sent(Place, Sent),
    /// Nothing of it is there, by the answer.
    Refused(Place, usize),
    Acknowledged(Place, usize, Offset),
    Creating(String),
    Created(TopicId, String),
    Deleting(TopicId),
    Deleted(TopicId),
    /// Records below may go from the front.
    Cutting(Place, Offset),
    /// The log starts here, for ever.
    Cut(Place, Offset),
    /// Records below may go because of newer ones.
    Compacting(Place, Offset),
    ProducerId(i64),
}

#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Note>>>);

impl Journal {
    fn note(&self, note: Note) {
        self.0.lock().unwrap().push(note);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn notes(&self) -> Vec<Note> {
        self.0.lock().unwrap().clone()
    }
}

/// Watches for the death of a broker's threads, which then end that broker alone.
#[derive(Clone)]
pub struct Death {
    died: watch::Sender<bool>,
    /// Exit code, why, and the disk as it was then.
    last_words: Arc<Mutex<Option<(i32, String, SimDisk)>>>,
}

impl Death {
    /// Brokers that are opened by this thread from now on die so. The first thread to die takes the disk with it.
    pub fn of(disk: &SimDisk) -> Self {
        let death =
            Self { died: watch::Sender::new(false), last_words: Arc::new(Mutex::new(None)) };
        let (this, disk) = (death.clone(), disk.clone());
        task::testing::set_end(Some(Arc::new(move |code, why| {
            let mut words = this.last_words.lock().unwrap();
            if words.is_none() {
                *words = Some((code, why.to_owned(), disk.end()));
                this.died.send_replace(true);
            }
        })));
        death
    }

    /// Where no broker has a reason to die any more: the test process ends, and says why.
    pub fn is_a_defect() {
        task::testing::set_end(Some(Arc::new(|code, why| {
            eprintln!("a broker died: {why}");
            std::process::exit(code);
        })));
    }

    pub fn last_words(&self) -> Option<(i32, String, SimDisk)> {
        self.last_words.lock().unwrap().clone()
    }

    /// What comes of `future`, unless the broker dies before.
    async fn before<T>(&self, future: impl Future<Output = T>) -> Result<T, Over> {
        let mut died = self.died.subscribe();
        tokio::select! {
            biased;
            _ = died.wait_for(|died| *died) => Err(Over::Died),
            it = future => Ok(it),
        }
    }
}

/// Why a life ended early.
#[derive(Debug)]
pub enum Over {
    Died,
    NotOpened(OpenError),
}

/// Opens a broker whose files are so small that everything happens within a few steps.
pub fn open(disk: &SimDisk) -> Result<Arc<Broker>, OpenError> {
    let path = PathBuf::from(DATA);
    let mut data_dir = DataDir::open(Arc::new(disk.clone()) as Arc<dyn Disk>, &path, [5; 16])?;
    let cluster = ClusterId::from_random([1; 16]);
    data_dir.settle(cluster)?;
    let mut config = Config::new(path);
    config.commit_log_file_bytes = 16 * 1024;
    config.checkpoint_bytes = 20 * 1024;
    let metrics = Metrics::new(&mut Registry::default());
    Broker::open(config, &data_dir, Adopted::default(), cluster, None, metrics)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A few batches at once, anywhere.
    Append,
    /// An idempotent batch once more.
    AppendAgain,
    /// So much that a segment is rolled for its size.
    AppendMuch,
    /// The mortal topic goes while batches are on their way to it, or comes.
    DeleteOrCreate,
    /// By size, or by age too.
    Retain,
    /// From the front of some partition, up to any offset.
    DeleteRecords,
    /// All that may be.
    Compact,
    ProducerId,
    /// A clean stop, and a start.
    Restart,
}

/// Lives `steps` steps. Everything is drawn from `seed` but the times at which threads run.
pub async fn play(
    disk: &SimDisk,
    death: &Death,
    journal: &Journal,
    seed: u64,
    steps: usize,
) -> Result<(), Over> {
    let mut player = Player {
        broker: open(disk).map_err(Over::NotOpened)?,
        disk: disk.clone(),
        death: death.clone(),
        journal: journal.clone(),
        random: Random(seed),
        topics: BTreeMap::new(),
        last: BTreeMap::new(),
        sent: 0,
        now_ms: STAMP_MS,
    };
    for plan in &TOPICS {
        player.create(plan.name).await?;
    }
    for _ in 0..steps {
        let step = player.draw();
        player.step(step).await?;
    }
    player.stop().await
}

/// Everything that may be compacted is.
pub async fn compact(broker: &Arc<Broker>, now_ms: i64) {
    while broker.compact(now_ms).await {}
}

/// As the tier would say it, were there one: what does not ship is not compacted.
async fn ship(partition: &Arc<Partition>) {
    let (upto, local) = (partition.watermarks().high_watermark, Shipped(Arc::clone(partition)));
    let head = Head { number: 1, shipped: upto, hash: [1; 32], public_hash: [1; 32] };
    if local.record(Fact::Shipped(head)).await.is_ok() {
        local.record(Fact::Completed { upto }).await.ok();
    }
}

/// Where a batch is, once that is known.
type Answer = Arc<Mutex<Option<Offset>>>;

struct Player {
    broker: Arc<Broker>,
    disk: SimDisk,
    death: Death,
    journal: Journal,
    random: Random,
    topics: BTreeMap<&'static str, Arc<Topic>>,
    /// The idempotent batch of a partition that was taken last, and where it is once it is acknowledged.
    last: BTreeMap<Place, (Sent, Answer)>,
    sent: usize,
    /// The time by which compaction goes: deletions become old.
    now_ms: i64,
}

impl Player {
    fn draw(&mut self) -> Step {
        match self.random.below(48) {
            0..24 => Step::Append,
            24..28 => Step::AppendAgain,
            28 => Step::AppendMuch,
            29..33 => Step::DeleteOrCreate,
            33..35 => Step::ProducerId,
            35..38 => Step::Retain,
            38..41 => Step::DeleteRecords,
            41..46 => Step::Compact,
            _ => Step::Restart,
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), Over> {
        match step {
            Step::Append => {
                let count = 1 + self.random.below(4);
                let taken: Vec<_> = (0..count).filter_map(|_| self.send_anywhere(700)).collect();
                self.all(taken).await
            }
            Step::AppendMuch => {
                let Some(topic) = self.topics.get("b").cloned() else { return Ok(()) };
                let taken = self.send(&topic, 0, 600_000);
                self.all(taken.into_iter().collect()).await
            }
            Step::AppendAgain => self.send_again().await,
            Step::DeleteOrCreate => self.delete_or_create().await,
            Step::Retain => self.retain().await,
            Step::DeleteRecords => self.delete_records().await,
            Step::Compact => self.compact().await,
            Step::ProducerId => {
                let broker = Arc::clone(&self.broker);
                if let Ok(id) = self.death.before(broker.new_producer_id()).await? {
                    self.journal.note(Note::ProducerId(id));
                }
                Ok(())
            }
            Step::Restart => {
                self.stop().await?;
                self.broker = open(&self.disk).map_err(Over::NotOpened)?;
                for (name, topic) in std::mem::take(&mut self.topics) {
                    let again = self.broker.topic_by_id(&topic.id());
                    self.topics.insert(name, again.expect("a clean stop loses no topic"));
                }
                Ok(())
            }
        }
    }

    async fn all(&self, taken: Vec<impl Future<Output = ()>>) -> Result<(), Over> {
        self.death.before(futures_util::future::join_all(taken)).await.map(drop)
    }

    fn send_anywhere(&mut self, bytes: usize) -> Option<impl Future<Output = ()> + use<>> {
        let plan = &TOPICS[self.random.below(TOPICS.len())];
        let topic = Arc::clone(self.topics.get(plan.name)?);
        let index = self.random.below(plan.partitions as usize) as i32;
        self.send(&topic, index, bytes)
    }

    fn item(&mut self, kind: Kind, id: String, bytes: usize) -> Item {
        let random = &mut self.random;
        let deletes = random.below(5) == 0;
        let filling = "x".repeat(random.below(bytes));
        match kind {
            Kind::Plain => format!("{id} {filling}").into(),
            Kind::Keyed => {
                let key = random.below(KEYS);
                let value = (!deletes).then(|| format!("{id} {filling}"));
                Item { kind, cells: key..key + 1, value, id }
            }
            Kind::Vdisk => {
                let start = random.below(BLOCKS);
                let end = start + 1 + random.below((BLOCKS - start).min(4));
                let text = format!("{id} ").repeat(BLOCK_BYTES);
                let value = (!deletes).then(|| text[..(end - start) * BLOCK_BYTES].to_owned());
                Item { kind, cells: start..end, value, id }
            }
        }
    }

    /// Hands a batch to a partition. The future ends when it is answered.
    fn send(
        &mut self,
        topic: &Arc<Topic>,
        index: i32,
        bytes: usize,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let place = (topic.id(), index);
        let number = self.sent;
        self.sent += 1;
        let kind = kind_of(topic);
        let values: Vec<Item> = (0..=self.random.below(3))
            .map(|n| self.item(kind, format!("{}-{index} {number} {n}", topic.id()), bytes))
            .collect();
        let producer = self.random.coin().then(|| {
            let last = self.last.get(&place).map(|(sent, _)| sent);
            let next = last.and_then(|last| Some(last.producer?.1 + last.values.len() as i32));
            (i64::from(index) + 7, next.unwrap_or(0))
        });
        let sent = Sent { number, values, producer };
        self.journal.note(Note::Sent(place, sent.clone()));
        let partition = topic.partition(index).unwrap();
        let Ok(answer) = partition.append(sent.batch(), sent.origin()) else {
            self.journal.note(Note::Refused(place, number));
            return None;
        };
        let known = Answer::default();
        if producer.is_some() {
            self.last.insert(place, (sent, Arc::clone(&known)));
        }
        let journal = self.journal.clone();
        Some(async move {
            if let Ok(result) = answer.await {
                *known.lock().unwrap() = Some(result.base_offset);
                journal.note(Note::Acknowledged(place, number, result.base_offset));
            }
        })
    }

    async fn send_again(&mut self) -> Result<(), Over> {
        let kept: Vec<_> = self.last.iter().map(|(place, last)| (*place, last.clone())).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let ((id, index), (sent, known)) = kept[self.random.below(kept.len())].clone();
        let Some(topic) = self.topics.values().find(|topic| topic.id() == id) else {
            return Ok(());
        };
        let partition = topic.partition(index).unwrap();
        let Ok(answer) = partition.append(sent.batch(), sent.origin()) else {
            return Ok(());
        };
        if let Ok(result) = self.death.before(answer).await? {
            let first = *known.lock().unwrap();
            assert!(first.is_none_or(|first| first == result.base_offset), "appended twice");
            self.journal.note(Note::Acknowledged((id, index), sent.number, result.base_offset));
        }
        Ok(())
    }

    async fn create(&mut self, name: &'static str) -> Result<(), Over> {
        let plan = TOPICS.iter().find(|plan| plan.name == name).unwrap();
        let option = |key: &str, value: i64| (key.to_owned(), Some(value.to_string()));
        let mut options = vec![
            option("segment.ms", plan.segment_ms),
            option("segment.bytes", 1 << 20),
            option("max.message.bytes", 8 << 20),
            option("index.interval.bytes", 1_000),
        ];
        let more =
            plan.more.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())));
        options.extend(more);
        let request = NewTopic { name: name.to_owned(), partitions: plan.partitions, options };
        self.journal.note(Note::Creating(name.to_owned()));
        let broker = Arc::clone(&self.broker);
        if let Ok(topic) = self.death.before(broker.create_topic(request)).await? {
            self.journal.note(Note::Created(topic.id(), name.to_owned()));
            self.topics.insert(name, topic);
        }
        Ok(())
    }

    async fn delete_or_create(&mut self) -> Result<(), Over> {
        let Some(topic) = self.topics.remove(MORTAL) else { return self.create(MORTAL).await };
        let count = topic.partitions().len() as i32;
        let taken: Vec<_> = (0..count).filter_map(|index| self.send(&topic, index, 300)).collect();
        self.journal.note(Note::Deleting(topic.id()));
        let broker = Arc::clone(&self.broker);
        if self.death.before(broker.delete_topic(topic.id())).await?.is_ok() {
            self.journal.note(Note::Deleted(topic.id()));
        }
        self.all(taken).await?;
        if self.random.coin() { self.create(MORTAL).await } else { Ok(()) }
    }

    async fn retain(&mut self) -> Result<(), Over> {
        let now_ms = if self.random.below(3) == 0 { MUCH_LATER } else { STAMP_MS };
        let Some(topic) = self.topics.get("a").cloned() else { return Ok(()) };
        let places: Vec<_> =
            (0..).zip(topic.partitions()).map(|(n, it)| ((topic.id(), n), it)).collect();
        for (place, partition) in &places {
            self.journal.note(Note::Cutting(*place, partition.watermarks().high_watermark));
        }
        self.death.before(self.broker.enforce_retention(now_ms)).await?;
        for (place, partition) in &places {
            self.journal.note(Note::Cut(*place, partition.watermarks().log_start));
        }
        Ok(())
    }

    async fn delete_records(&mut self) -> Result<(), Over> {
        let plan = &TOPICS[self.random.below(TOPICS.len())];
        let topic = self.topics.get(plan.name).filter(|_| plan.kind != Kind::Vdisk).cloned();
        let Some(topic) = topic else { return Ok(()) };
        let index = self.random.below(plan.partitions as usize) as i32;
        let (place, partition) = ((topic.id(), index), topic.partition(index).unwrap());
        let marks = partition.watermarks();
        let there = (marks.high_watermark - marks.log_start) as usize;
        let upto = marks.log_start + self.random.below(there + 1) as Offset;
        self.journal.note(Note::Cutting(place, upto));
        let deleted = self.broker.delete_records(&topic, partition, Some(upto), Duration::ZERO);
        if let Ok(start) = self.death.before(deleted).await? {
            assert_eq!(start, upto);
            self.journal.note(Note::Cut(place, start));
        }
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), Over> {
        self.now_ms += 300;
        // What was appended last begins new segments, so that those before may be compacted.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let topics: Vec<_> =
            ["k", "v"].iter().filter_map(|name| self.topics.get(name)).cloned().collect();
        let taken: Vec<_> = topics.iter().filter_map(|topic| self.send(topic, 0, 700)).collect();
        self.all(taken).await?;
        if let Some(vdisk) = self.topics.get("v") {
            let shipped = ship(vdisk.partition(0).unwrap());
            self.death.before(shipped).await?;
        }
        for topic in ["k", "v"].iter().filter_map(|name| self.topics.get(name)) {
            let upto = topic.partition(0).unwrap().watermarks().high_watermark;
            self.journal.note(Note::Compacting((topic.id(), 0), upto));
        }
        self.death.before(compact(&self.broker, self.now_ms)).await
    }

    /// A clean stop; it is left alone where a thread dies that it would wait for.
    async fn stop(&mut self) -> Result<(), Over> {
        // Time passes, so that segments come of age.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (broker, (done, stopped)) = (Arc::clone(&self.broker), tokio::sync::oneshot::channel());
        std::thread::spawn(move || {
            broker.stop();
            done.send(()).ok();
        });
        self.death.before(stopped).await.map(drop)
    }
}
