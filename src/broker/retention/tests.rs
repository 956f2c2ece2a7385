use std::path::PathBuf;

use super::*;
use crate::broker::tests::{append, batch, contents, plain, rand_seed, start};
use crate::broker::{NewTopic, ReadError};
use crate::disk::Disk;
use crate::disk::sim::{Picture, SimDisk};
use crate::record::BatchBuilder;
use crate::types::{LeaderEpoch, TopicId};

const PATIENCE: Duration = Duration::from_secs(5);

fn with(name: &str, options: &[(&str, &str)]) -> NewTopic {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), Some((*value).to_owned()));
    NewTopic { options: options.iter().map(own).collect(), ..plain(name, 1) }
}

fn only(topic: &Topic) -> Arc<Partition> {
    Arc::clone(topic.partition(0).unwrap())
}

/// A record of `bytes` with this stamp, in a segment of its own where the topic has `segment.ms` 1.
async fn append_stamped(partition: &Arc<Partition>, stamp_ms: i64, bytes: usize) -> Offset {
    std::thread::sleep(Duration::from_millis(3));
    let mut builder = BatchBuilder::new(stamp_ms);
    builder.push(stamp_ms, None, Some("x".repeat(bytes).as_bytes()), &[]);
    append(partition, builder.build().into()).await
}

async fn delete(broker: &Broker, topic: &Topic, before: Option<Offset>) -> Offset {
    broker.delete_records(topic, &only(topic), before, PATIENCE).await.unwrap()
}

fn bases(disk: &SimDisk, dir: &str) -> Vec<Offset> {
    let names = disk.list(&PathBuf::from(dir)).unwrap();
    let base = |name: &String| name.strip_suffix(".log").and_then(|digits| digits.parse().ok());
    names.iter().filter_map(base).collect()
}

fn assert_starts(partition: &Partition, start: Offset) {
    let marks = partition.watermarks();
    assert_eq!((marks.log_start, marks.local_start), (start, start));
    assert_eq!((marks.complete, marks.shipped), (start, start));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_are_gone_for_good_and_the_others_stay() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(with("t", &[("segment.ms", "1")])).await.unwrap();
    let partition = only(&topic);
    for n in 0..6 {
        append_stamped(&partition, 1000 + n, 50).await;
    }
    let all = contents(&partition).await;
    assert_eq!(delete(&broker, &topic, Some(3)).await, 3);
    assert_starts(&partition, 3);
    assert_eq!(bases(&disk, "/data/t-0"), [3, 4, 5]);
    // Never back.
    assert_eq!(delete(&broker, &topic, Some(1)).await, 3);
    assert_eq!(delete(&broker, &topic, Some(0)).await, 3);
    let below = partition.read(2, 100).await.unwrap_err();
    assert!(matches!(below, ReadError::OutOfRange { requested: 2, start: 3, end: 6 }), "{below}");
    assert_eq!(contents(&partition).await, all[3..]);
    assert_eq!(partition.offset_for_timestamp(0).await.unwrap().unwrap().offset, 3);
    for (before, end) in [(7, 6), (-2, 6)] {
        let refused = broker.delete_records(&topic, &partition, Some(before), PATIENCE).await;
        assert!(
            matches!(refused, Err(DeleteRecordsError::OutOfRange { requested, end: at }) if (requested, at) == (before, end))
        );
    }
    for seed in 0..10 {
        let image = disk.crash(seed);
        let again = start(&image);
        let partition = only(&again.topic("t").unwrap());
        assert_starts(&partition, 3);
        assert_eq!(contents(&partition).await, all[3..]);
        assert_eq!(bases(&image, "/data/t-0"), [3, 4, 5]);
        again.stop();
    }
    // The active segment is left alone by a request, and what comes next is there.
    assert_eq!(delete(&broker, &topic, None).await, 6);
    assert_eq!(bases(&disk, "/data/t-0"), [5]);
    assert!(contents(&partition).await.is_empty());
    assert_eq!(append_stamped(&partition, 1, 50).await, 6);
    broker.enforce_retention(0).await;
    assert_eq!(bases(&disk, "/data/t-0"), [6]);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_within_a_batch_hides_what_lies_before_it_from_searches_by_time() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    let partition = only(&topic);
    for base in [900, 500] {
        let mut builder = BatchBuilder::new(base);
        (0..4).for_each(|n| builder.push(base - n, None, Some(b"x"), &[]));
        append(&partition, builder.build().into()).await;
    }
    let offset = |found: Option<crate::broker::TimestampedOffset>| found.map(|found| found.offset);
    assert_eq!(offset(partition.max_timestamp().await.unwrap()), Some(0));
    for (start, first, highest) in [(2, 2, 2), (3, 3, 3), (5, 5, 5), (8, -1, -1)] {
        delete(&broker, &topic, Some(start)).await;
        let some = |offset| Some(offset).filter(|offset| *offset >= 0);
        assert_eq!(offset(partition.offset_for_timestamp(0).await.unwrap()), some(first));
        assert_eq!(offset(partition.max_timestamp().await.unwrap()), some(highest), "{start}");
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_and_compacted_topics_keep_their_records() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let compacted = broker.create_topic(with("c", &[("cleanup.policy", "compact")])).await.unwrap();
    let mut keyed = BatchBuilder::new(1_000);
    keyed.push(1_000, Some(b"key"), Some(b"x"), &[]);
    append(&only(&compacted), keyed.build().into()).await;
    let refused = broker.delete_records(&compacted, &only(&compacted), None, PATIENCE).await;
    assert!(matches!(refused, Err(DeleteRecordsError::Compacted { .. })));
    let vdisk = broker.vdisk_topic("v", 1).await.unwrap();
    let refused = broker.delete_records(&vdisk, &only(&vdisk), None, PATIENCE).await;
    assert!(matches!(refused, Err(DeleteRecordsError::Vdisk { .. })));
    // Nothing of a topic that ships goes before it is on the shard servers, and there are none.
    let ships = broker.create_topic(with("s", &[("remote.storage.enable", "true")])).await.unwrap();
    append(&only(&ships), batch(&["x".to_owned()])).await;
    let short = Duration::from_millis(50);
    let refused = broker.delete_records(&ships, &only(&ships), None, short).await;
    assert!(
        matches!(refused, Err(DeleteRecordsError::NotShipped { requested: 1, complete: 0 })),
        "{refused:?}"
    );
    assert_eq!(contents(&only(&ships)).await.len(), 1);
    // The compacted one is not shortened by age either.
    broker.enforce_retention(i64::MAX / 2).await;
    assert_eq!(contents(&only(&compacted)).await.len(), 1);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_go_by_age_and_the_active_one_is_sealed_for_it() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let options = [("segment.ms", "1"), ("retention.ms", "1000")];
    let topic = broker.create_topic(with("t", &options)).await.unwrap();
    let partition = only(&topic);
    for stamp in [10_000, 11_000, 9_000, 12_000] {
        append_stamped(&partition, stamp, 50).await;
    }
    broker.enforce_retention(11_000).await;
    assert_starts(&partition, 0);
    broker.enforce_retention(11_001).await;
    assert_starts(&partition, 1);
    // The third is old, but there is a younger one before it.
    broker.enforce_retention(12_000).await;
    assert_starts(&partition, 1);
    broker.enforce_retention(12_001).await;
    assert_starts(&partition, 3);
    assert_eq!(bases(&disk, "/data/t-0"), [3]);
    broker.enforce_retention(13_001).await;
    assert_starts(&partition, 4);
    assert_eq!(bases(&disk, "/data/t-0"), [0; 0]);
    assert_eq!(append_stamped(&partition, 20_000, 50).await, 4);
    broker.stop();
    let again = start(&disk);
    assert_starts(&only(&again.topic("t").unwrap()), 4);
    again.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_a_stamp_go_by_the_time_of_their_append() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let options = [("segment.ms", "1"), ("retention.ms", "60000")];
    let topic = broker.create_topic(with("t", &options)).await.unwrap();
    append_stamped(&only(&topic), -1, 50).await;
    broker.enforce_retention(clock::wall_ms() + 50_000).await;
    assert_starts(&only(&topic), 0);
    broker.enforce_retention(clock::wall_ms() + 61_000).await;
    assert_starts(&only(&topic), 1);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_go_by_size_until_the_bound_would_not_be_filled() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let options = [("segment.ms", "1"), ("retention.bytes", "2500"), ("retention.ms", "-1")];
    let topic = broker.create_topic(with("t", &options)).await.unwrap();
    let partition = only(&topic);
    for _ in 0..5 {
        append_stamped(&partition, 1, 900).await;
    }
    broker.enforce_retention(i64::MAX / 2).await;
    assert_starts(&partition, 2);
    assert_eq!(bases(&disk, "/data/t-0"), [2, 3, 4]);
    broker.stop();
}

#[test]
fn what_became_complete_just_now_is_not_settled() {
    let mut seen = Completes::new();
    let minute = 60_000;
    assert_eq!(settled(&mut seen, 5, 0), Offset::MIN);
    assert_eq!(settled(&mut seen, 9, 5 * minute), Offset::MIN);
    assert_eq!(settled(&mut seen, 12, 10 * minute), 5);
    assert_eq!(settled(&mut seen, 20, 14 * minute), 5);
    assert_eq!(settled(&mut seen, 30, 15 * minute), 9);
    assert_eq!(settled(&mut seen, 30, 60 * minute), 30);
    assert_eq!(seen.len(), 2);
}

/// What a client of the scenario knows, each with the count of disk operations when it came to know.
#[derive(Debug, Default)]
struct Known {
    facts: Vec<(usize, Fact)>,
}

#[derive(Debug, Clone)]
enum Fact {
    Appended(TopicId, Offset, String),
    /// A start that may come to be from now on.
    Asked(TopicId, Offset),
    Starts(TopicId, Offset),
    Created(TopicId),
    Deleting(TopicId),
    Deleted(TopicId),
}

struct Scenario {
    disk: SimDisk,
    broker: Arc<Broker>,
    known: Known,
}

impl Scenario {
    fn note(&mut self, fact: Fact) {
        self.known.facts.push((self.disk.operations().len(), fact));
    }

    async fn create(&mut self) -> Arc<Topic> {
        let options = [("segment.ms", "1"), ("retention.bytes", "20000"), ("retention.ms", "-1")];
        let topic = self.broker.create_topic(with("t", &options)).await.unwrap();
        self.note(Fact::Created(topic.id()));
        topic
    }

    async fn append(&mut self, topic: &Topic, count: usize) {
        for _ in 0..count {
            std::thread::sleep(Duration::from_millis(2));
            let value = format!("{}/{}", topic.id(), "x".repeat(4000));
            let offset = append(&only(topic), batch(std::slice::from_ref(&value))).await;
            self.note(Fact::Appended(topic.id(), offset, value));
        }
    }

    async fn delete_records(&mut self, topic: &Topic, before: Offset) {
        self.note(Fact::Asked(topic.id(), before));
        let starts = delete(&self.broker, topic, Some(before)).await;
        assert_eq!(starts, before);
        self.note(Fact::Starts(topic.id(), before));
    }

    async fn retain(&mut self, topic: &Topic) {
        let partition = only(topic);
        self.note(Fact::Asked(topic.id(), partition.watermarks().high_watermark));
        self.broker.enforce_retention(0).await;
        self.note(Fact::Starts(topic.id(), partition.watermarks().log_start));
    }
}

impl Known {
    /// Holds a broker on the disk as it was before operation `at` against what was known then.
    async fn check(&self, broker: &Broker, at: usize, context: &str) {
        let facts = self.facts.iter().filter(|(count, _)| *count <= at).map(|(_, fact)| fact);
        let facts: Vec<&Fact> = facts.collect();
        let created = facts.iter().filter_map(|fact| match fact {
            Fact::Created(id) => Some(*id),
            _ => None,
        });
        for id in created {
            let gone = facts.iter().any(|fact| matches!(fact, Fact::Deleted(of) if *of == id));
            let going = facts.iter().any(|fact| matches!(fact, Fact::Deleting(of) if *of == id));
            let Some(topic) = broker.topic_by_id(&id) else {
                assert!(going, "{context}: a topic is lost");
                continue;
            };
            assert!(!gone, "{context}: a deleted topic is back");
            self.check_topic(&facts, &topic, context).await;
        }
    }

    async fn check_topic(&self, facts: &[&Fact], topic: &Topic, context: &str) {
        let id = topic.id();
        let partition = only(topic);
        let starts = |asked: bool| {
            let starts = facts.iter().filter_map(move |fact| match fact {
                Fact::Starts(of, start) if *of == id && !asked => Some(*start),
                Fact::Asked(of, start) if *of == id && asked => Some(*start),
                _ => None,
            });
            starts.max().unwrap_or(0)
        };
        let marks = partition.watermarks();
        let range = starts(false)..=starts(true);
        assert!(range.contains(&marks.log_start), "{context}: {marks:?}, {range:?}");
        assert_eq!(marks.local_start, marks.log_start, "{context}");
        let expected: Vec<(Offset, String)> = facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::Appended(of, offset, value) if *of == id && *offset >= marks.log_start => {
                    Some((*offset, value.clone()))
                }
                _ => None,
            })
            .collect();
        let damage = partition.damage();
        assert!(damage.is_empty(), "{context}: what was deleted is missed: {damage:?} {marks:?}");
        let found = contents(&partition).await;
        assert!(found.starts_with(&expected), "{context}: {} of {}", found.len(), expected.len());
        assert!(found.iter().all(|(_, value)| value.starts_with(&id.to_string())), "{context}");
        let rests = partition.segments().into_iter().filter(|it| it.is_sealed);
        assert!(rests.into_iter().all(|it| it.next_offset > marks.local_start), "{context}");
    }
}

/// The disk stops in each of its operations; what was not synced is there or not by a seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_deleted_comes_back_and_nothing_else_goes_wherever_the_power_is_cut() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let mut scenario = Scenario { disk: disk.clone(), broker, known: Known::default() };
    disk.take_pictures(|| 0);
    let topic = scenario.create().await;
    scenario.append(&topic, 6).await;
    scenario.delete_records(&topic, 3).await;
    scenario.append(&topic, 8).await;
    scenario.delete_records(&topic, 9).await;
    scenario.append(&topic, 8).await;
    scenario.retain(&topic).await;
    scenario.delete_records(&topic, 22).await;
    scenario.append(&topic, 2).await;
    scenario.note(Fact::Deleting(topic.id()));
    scenario.broker.delete_topic(topic.id()).await.unwrap();
    scenario.note(Fact::Deleted(topic.id()));
    let topic = scenario.create().await;
    scenario.append(&topic, 5).await;
    scenario.delete_records(&topic, 4).await;
    scenario.append(&topic, 1).await;
    scenario.broker.stop();
    let images = disk.pictures();
    assert!(images.len() > 150, "{}", images.len());
    let seed = rand_seed();
    for Picture { operation: at, disk: image, .. } in images {
        let context = format!("seed {seed}, in operation {at}: {:?}", disk.operations()[at]);
        let crashed = image.crash(seed.wrapping_add(at as u64));
        let again = start(&crashed);
        scenario.known.check(&again, at, &context).await;
        // What this start left behind holds as well.
        let twice = start(&crashed.crash(seed));
        again.stop();
        scenario.known.check(&twice, at, &context).await;
        twice.stop();
    }
}

#[test]
fn epochs_below_the_start_are_forgotten_but_for_the_one_that_holds_it() {
    use crate::broker::EpochStart;
    use crate::broker::catalogue::trim_epochs;
    let start = |epoch, first_offset| EpochStart { epoch: LeaderEpoch(epoch), first_offset };
    let trimmed = |log_start| {
        let mut epochs = vec![start(3, 10), start(5, 100), start(7, 300)];
        trim_epochs(&mut epochs, log_start);
        epochs
    };
    assert_eq!(trimmed(10), [start(3, 10), start(5, 100), start(7, 300)]);
    assert_eq!(trimmed(0), trimmed(10));
    assert_eq!(trimmed(11), [start(3, 11), start(5, 100), start(7, 300)]);
    assert_eq!(trimmed(99), [start(3, 99), start(5, 100), start(7, 300)]);
    assert_eq!(trimmed(100), [start(5, 100), start(7, 300)]);
    assert_eq!(trimmed(900), [start(7, 900)]);
}

#[test]
fn the_event_stands_in_the_commit_log_as_before() {
    let event = crate::broker::Event::LogStartMoved {
        topic: TopicId([0xab; 16]),
        partition: 2,
        log_start: 7,
        reason: DeletionReason::Age,
    };
    let text = format!(
        r#"{{"event":"log_start_moved","topic":"{}","partition":2,"log_start":7,"reason":"age"}}"#,
        "ab".repeat(16)
    );
    assert_eq!(serde_json::to_string(&event).unwrap(), text);
    assert_eq!(serde_json::from_str::<crate::broker::Event>(&text).unwrap(), event);
}
