//! What the tier says about itself: for `/readyz`, logs and commands.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::placement;
use super::servers::{Servers, Standing};
use super::store::audit::Finding;
use crate::types::TopicPartition;

/// One shard server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Address or path.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
}

/// Why a partition does not ship, or not as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The partition.
    pub partition: TopicPartition,
    /// What is wrong and what to do, in one line.
    pub what: String,
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
}

impl Status {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.problems.is_empty() && self.servers.iter().all(|s| s.standing == Standing::Up)
    }

    pub(super) fn of(servers: &Servers, shape: (usize, usize), board: &Board) -> Self {
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
        }
    }
}

/// The problems that stand.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<TopicPartition, String>>);

impl Board {
    /// Notes a problem in place of the partition's older one. Gives whether it is another than that.
    pub fn put(&self, partition: TopicPartition, what: String) -> bool {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.get(&partition) != Some(&what) && {
            board.insert(partition, what);
            true
        }
    }

    pub fn clear(&self, partition: TopicPartition) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    fn all(&self) -> Vec<Problem> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = |(partition, what): (&TopicPartition, &String)| Problem {
            partition: *partition,
            what: what.clone(),
        };
        board.iter().map(problem).collect()
    }
}
