//! The topics that are served now: a topic with its partitions, and the registry by name and id.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use super::catalogue::BLOCK_SIZE;
use super::partition::Partition;
use super::topic_config::TopicOptions;
use crate::tier::TopicInfo;
use crate::types::{TopicId, TopicName};

/// A topic. Handlers keep it as long as they like; [`Topic::is_deleted`] says when it is gone.
#[derive(Debug)]
pub struct Topic {
    id: TopicId,
    name: TopicName,
    options: Arc<RwLock<Arc<TopicOptions>>>,
    /// As the shard servers are to know it.
    info: RwLock<TopicInfo>,
    partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub(super) fn new(
        info: TopicInfo,
        options: Arc<RwLock<Arc<TopicOptions>>>,
        partitions: Vec<Arc<Partition>>,
    ) -> Self {
        let (id, name) = (info.record.id, info.record.name.clone());
        Self { id, name, options, info: RwLock::new(info), partitions }
    }

    /// As the shard servers are to know it.
    pub(super) fn info(&self) -> TopicInfo {
        self.info.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Identity.
    #[must_use]
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// The options that hold now.
    #[must_use]
    pub fn options(&self) -> Arc<TopicOptions> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The options that were set, as they were.
    #[must_use]
    pub fn options_set(&self) -> BTreeMap<String, String> {
        self.info().record.options.into_iter().collect()
    }

    /// What [`super::Event::BlockSizeSet`] does to the durable state.
    pub(super) fn set_block_size(&self, bytes: u32) {
        let mut info = self.info.write().unwrap_or_else(PoisonError::into_inner);
        let options = &mut info.record.options;
        options.retain(|(key, _)| key != BLOCK_SIZE);
        options.push((BLOCK_SIZE.to_owned(), bytes.to_string()));
        let set = options.iter().cloned().collect();
        info.record.revision += 1;
        let options = Arc::new(TopicOptions::from_checked(&set));
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// All partitions, by index from 0.
    #[must_use]
    pub fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    /// A partition.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Whether it is gone.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.partitions.first().is_some_and(|partition| partition.is_deleted())
    }
}

/// All topics. Names that are being created are taken already.
#[derive(Debug, Default)]
pub(super) struct Registry {
    by_id: HashMap<TopicId, Arc<Topic>>,
    by_name: BTreeMap<TopicName, Arc<Topic>>,
    /// How names collide, and which name holds the place.
    taken: HashMap<String, TopicName>,
    partitions: usize,
}

impl Registry {
    /// Takes the place of a name, or says who has it.
    pub(super) fn take_name(&mut self, name: &TopicName) -> Result<(), TopicName> {
        if let Some(other) = self.taken.get(&name.collision_key()) {
            return Err(other.clone());
        }
        self.taken.insert(name.collision_key(), name.clone());
        Ok(())
    }

    /// The topic or creation that has this name's place.
    pub(super) fn holder(&self, name: &TopicName) -> Option<&TopicName> {
        self.taken.get(&name.collision_key())
    }

    pub(super) fn release_name(&mut self, name: &TopicName) {
        self.taken.remove(&name.collision_key());
    }

    pub(super) fn insert(&mut self, topic: Arc<Topic>) {
        self.partitions += topic.partitions().len();
        self.taken.insert(topic.name().collision_key(), topic.name().clone());
        self.by_name.insert(topic.name().clone(), Arc::clone(&topic));
        self.by_id.insert(topic.id(), topic);
    }

    /// Takes a topic out; its name stays taken until [`Registry::release_name`].
    pub(super) fn remove(&mut self, id: &TopicId) -> Option<Arc<Topic>> {
        let topic = self.by_id.remove(id)?;
        self.by_name.remove(topic.name());
        self.partitions -= topic.partitions().len();
        Some(topic)
    }

    pub(super) fn by_name(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.by_name.get(name).cloned()
    }

    pub(super) fn by_id(&self, id: &TopicId) -> Option<Arc<Topic>> {
        self.by_id.get(id).cloned()
    }

    /// Sorted by name.
    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.values().cloned().collect()
    }

    /// Partitions whose directory could not be opened.
    pub(super) fn offline(&self) -> impl Iterator<Item = &Arc<Partition>> {
        let partitions = self.by_name.values().flat_map(|topic| topic.partitions());
        partitions.filter(|partition| partition.offline().is_some())
    }

    pub(super) fn partition_count(&self) -> usize {
        self.partitions
    }
}
