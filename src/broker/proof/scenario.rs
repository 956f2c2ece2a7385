//! A life of a broker drawn from a seed, and the journal of what it was asked and what it answered.
//!
//! A new kind of step: a variant of [`Step`], its weight in [`Player::draw`], what it does in [`Player::step`]. What it may
//! take away or give back is said by a [`Note`], and judged in `model.rs`.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::super::*;
use crate::disk::Disk;
use crate::disk::sim::{Random, SimDisk};
use crate::record::BatchBuilder;
use crate::task;
use crate::types::{ClusterId, Offset, TopicId};

pub const DATA: &str = "/data";

/// A partition of one life of a topic.
pub type Place = (TopicId, i32);

/// Names of topics, with partitions and `segment.ms`. The last one is deleted and made anew now and then.
const TOPICS: [(&str, i32, i64); 3] = [("a", 2, 1), ("b", 1, i64::MAX), ("c", 2, 3)];

/// A batch that was handed to a partition.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Rises by one with each batch of a life, over all partitions.
    pub number: usize,
    pub values: Vec<String>,
    /// Id and first sequence, where it is idempotent.
    pub producer: Option<(i64, i32)>,
}

impl Sent {
    pub fn batch(&self) -> Bytes {
        let mut builder = BatchBuilder::new(1_000);
        if let Some((id, sequence)) = self.producer {
            builder = builder.producer(id, 0, sequence);
        }
        for value in &self.values {
            builder.push(1_000, None, Some(value.as_bytes()), &[]);
        }
        builder.build().into()
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
    /// The last topic goes while batches are on their way to it, or comes.
    DeleteOrCreate,
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
    };
    for (name, ..) in TOPICS {
        player.create(name).await?;
    }
    for _ in 0..steps {
        let step = player.draw();
        player.step(step).await?;
    }
    player.stop().await
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
}

impl Player {
    fn draw(&mut self) -> Step {
        match self.random.below(40) {
            0..24 => Step::Append,
            24..29 => Step::AppendAgain,
            29 => Step::AppendMuch,
            30..35 => Step::DeleteOrCreate,
            35..38 => Step::ProducerId,
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
        let (name, partitions, _) = TOPICS[self.random.below(TOPICS.len())];
        let topic = Arc::clone(self.topics.get(name)?);
        let index = self.random.below(partitions as usize) as i32;
        self.send(&topic, index, bytes)
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
        let values: Vec<String> = (0..=self.random.below(3))
            .map(|n| {
                let filling = "x".repeat(self.random.below(bytes));
                format!("{}-{index} {number} {n} {filling}", topic.id())
            })
            .collect();
        let producer = self.random.coin().then(|| {
            let last = self.last.get(&place).map(|(sent, _)| sent);
            let next = last.and_then(|last| Some(last.producer?.1 + last.values.len() as i32));
            (i64::from(index) + 7, next.unwrap_or(0))
        });
        let sent = Sent { number, values, producer };
        self.journal.note(Note::Sent(place, sent.clone()));
        let partition = topic.partition(index).unwrap();
        let Ok(answer) = partition.append(sent.batch(), Origin::Kafka) else {
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
        let Ok(answer) = topic.partition(index).unwrap().append(sent.batch(), Origin::Kafka) else {
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
        let (_, partitions, segment_ms) = TOPICS.into_iter().find(|it| it.0 == name).unwrap();
        let option = |key: &str, value: i64| (key.to_owned(), Some(value.to_string()));
        let request = NewTopic {
            name: name.to_owned(),
            partitions,
            options: vec![
                option("segment.ms", segment_ms),
                option("segment.bytes", 1 << 20),
                option("max.message.bytes", 8 << 20),
                option("index.interval.bytes", 1_000),
            ],
        };
        self.journal.note(Note::Creating(name.to_owned()));
        let broker = Arc::clone(&self.broker);
        if let Ok(topic) = self.death.before(broker.create_topic(request)).await? {
            self.journal.note(Note::Created(topic.id(), name.to_owned()));
            self.topics.insert(name, topic);
        }
        Ok(())
    }

    async fn delete_or_create(&mut self) -> Result<(), Over> {
        let (name, partitions, _) = TOPICS[TOPICS.len() - 1];
        let Some(topic) = self.topics.remove(name) else { return self.create(name).await };
        let taken: Vec<_> =
            (0..partitions).filter_map(|index| self.send(&topic, index, 300)).collect();
        self.journal.note(Note::Deleting(topic.id()));
        let broker = Arc::clone(&self.broker);
        if self.death.before(broker.delete_topic(topic.id())).await?.is_ok() {
            self.journal.note(Note::Deleted(topic.id()));
        }
        self.all(taken).await?;
        if self.random.coin() { self.create(name).await } else { Ok(()) }
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
