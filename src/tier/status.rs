//! What the tier says about itself: for `/readyz`, logs and commands.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::placement;
use super::servers::{Servers, Standing};
use super::store::audit::Finding;
use crate::types::{TopicName, TopicPartition};

/// One shard server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Address or path.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
}

/// Whose problem it is: each part of a partition's work has one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Putting fragments on the servers.
    Shipping,
    /// Reading them back.
    Completing,
    /// Sealing those anew of which compaction left less.
    Renewing,
}

/// Why a partition does not ship, or not as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The partition.
    pub partition: TopicPartition,
    /// What does not go on.
    pub part: Part,
    /// What is wrong and what to do, in one line.
    pub what: String,
}

/// A deleted topic of which too few shard servers could be told: a rebuild would bring it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedDeletion {
    /// The name it had.
    pub topic: TopicName,
    /// Servers that took the mark.
    pub marked: usize,
    /// W: servers that must have it.
    pub needed: usize,
}

/// How the tier is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// All servers, as configured.
    pub servers: Vec<ServerStatus>,
    /// n = k+m: servers that must be up for anything new to be shipped.
    pub needed: usize,
    /// How many of the configured servers may be lost without losing a complete fragment.
    pub tolerance: usize,
    /// What the audit says, worst first.
    pub findings: Vec<Finding>,
    /// Partitions in trouble.
    pub problems: Vec<Problem>,
    /// Deleted topics that servers are still to be told of.
    pub deletions: Vec<OwedDeletion>,
}

impl Status {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.problems.is_empty()
            && self.deletions.is_empty()
            && self.servers.iter().all(|s| s.standing == Standing::Up)
    }

    pub(super) fn of(
        servers: &Servers,
        shape: (usize, usize),
        board: &Board,
        deletions: Vec<OwedDeletion>,
    ) -> Self {
        let (data, parity) = shape;
        let one = |server: &super::servers::Server| ServerStatus {
            name: server.name().to_owned(),
            standing: server.standing(),
        };
        Self {
            servers: servers.all().map(one).collect(),
            needed: data + parity,
            tolerance: placement::tolerance(data, parity, servers.len()),
            findings: servers.findings().all,
            problems: board.all(),
            deletions,
        }
    }
}

/// The problems that stand.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<(TopicPartition, Part), String>>);

impl Board {
    /// Notes a problem in place of the older one of the same part. Gives whether it is another than that.
    pub fn put(&self, partition: TopicPartition, part: Part, what: String) -> bool {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.get(&(partition, part)) != Some(&what) && {
            board.insert((partition, part), what);
            true
        }
    }

    pub fn clear(&self, partition: TopicPartition, part: Part) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(partition, part));
    }

    /// Forgets all parts of a partition.
    pub fn clear_all(&self, partition: TopicPartition) {
        self.clear(partition, Part::Shipping);
        self.clear(partition, Part::Completing);
        self.clear(partition, Part::Renewing);
    }

    fn all(&self) -> Vec<Problem> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = |(&(partition, part), what): (&(TopicPartition, Part), &String)| Problem {
            partition,
            part,
            what: what.clone(),
        };
        board.iter().map(problem).collect()
    }
}
