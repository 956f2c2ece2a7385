//! Waiting for shard servers aloud: one warning when it begins, the status while it lasts, one line when it is over.
//!
//! Many partitions wait for the same servers at the same time: for each purpose the first one warns, and the last one says
//! that it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::servers::{Backoff, Server, Servers, Standing};
use super::status::{Board, Part};
use crate::types::TopicPartition;

/// What the lists of enough servers are needed for.
pub(super) const LISTING: &str = "know what they hold";

/// Servers that are named one by one.
const NAMED: usize = 8;

/// What to do, whoever waits.
const CURE: &str = "start them, or correct -storage-addresses";

/// Told in one line what is waited for, again and again.
pub(super) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// How many wait, by purpose.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<BTreeMap<&'static str, usize>>);

impl Waits {
    /// Gives whether it is the first.
    fn begin(&self, purpose: &'static str) -> bool {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waits.entry(purpose).or_default();
        *count += 1;
        *count == 1
    }

    /// Gives whether it was the last.
    fn end(&self, purpose: &'static str) -> bool {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = waits.get_mut(purpose) else { return false };
        *count -= 1;
        *count == 0 && waits.remove(purpose).is_some()
    }
}

/// One wait, which may turn out to be none. Dropped, it ends unsaid.
pub(super) struct Waiting<'a> {
    servers: &'a Servers,
    /// As in "4 are needed to …".
    purpose: &'static str,
    board: Option<(&'a Board, TopicPartition)>,
    progress: Option<Progress<'a>>,
    backoff: Backoff,
    begun: bool,
}

impl<'a> Waiting<'a> {
    pub fn new(servers: &'a Servers, purpose: &'static str) -> Self {
        let backoff = Backoff::new();
        Self { servers, purpose, board: None, progress: None, backoff, begun: false }
    }

    /// The status says of this partition that it waits.
    pub fn of(mut self, board: &'a Board, partition: TopicPartition) -> Self {
        self.board = Some((board, partition));
        self
    }

    pub fn telling(mut self, progress: Option<Progress<'a>>) -> Self {
        self.progress = progress;
        self
    }

    /// Says what is waited for and pauses. `why` is said where enough servers answer, and that is not it.
    pub async fn pause(&mut self, answered: usize, needed: usize, why: Option<&str>) {
        let total = self.servers.len();
        let mut what = format!(
            "waiting for shard servers: {answered} of {total} answer, {needed} are needed to {}",
            self.purpose
        );
        let silent = silent(self.servers);
        match why.filter(|_| answered >= needed || silent.is_empty()) {
            Some(why) => what.push_str(&format!(" ({why})")),
            None if silent.is_empty() => {}
            None => what.push_str(&format!("; not in use: {silent}")),
        }
        if !self.begun {
            self.begun = true;
            if self.servers.waits.begin(self.purpose) {
                tracing::warn!(cure = CURE, "{what}");
            }
        }
        if let Some((board, partition)) = self.board {
            board.put(partition, Part::Shipping, format!("{what}; {CURE}"));
        }
        if let Some(progress) = self.progress {
            progress(&what);
        }
        self.backoff.pause().await;
    }

    /// What was waited for is there.
    pub fn over(mut self) {
        if self.end() {
            tracing::info!("shard servers answer that were needed to {}: it goes on", self.purpose);
        }
    }

    fn end(&mut self) -> bool {
        if !std::mem::take(&mut self.begun) {
            return false;
        }
        if let Some((board, partition)) = self.board {
            board.clear(partition, Part::Shipping);
        }
        self.servers.waits.end(self.purpose)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The servers that are not in use, each with the reason.
fn silent(servers: &Servers) -> String {
    let one = |server: &Server| match server.standing() {
        Standing::Up | Standing::Unchecked => None,
        Standing::Down { why } | Standing::Unfit { why } => {
            Some(format!("{} ({why})", server.name()))
        }
        Standing::Foreign { cluster } => Some(format!("{} (of cluster {cluster})", server.name())),
    };
    let all: Vec<String> = servers.all().filter_map(one).collect();
    let more = all.len().saturating_sub(NAMED);
    let named = all.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_wait_for_one_thing_the_first_and_the_last_speak() {
        let waits = Waits::default();
        assert_eq!([waits.begin("a"), waits.begin("a"), waits.begin("b")], [true, false, true]);
        assert_eq!([waits.end("a"), waits.end("a"), waits.end("b")], [false, true, true]);
        assert!(waits.begin("a"));
    }
}
