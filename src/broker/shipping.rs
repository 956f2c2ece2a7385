//! The broker's side of the tier: what a shipping partition gives it, and what it learns from it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::catalogue::{Event, FragmentHead, FragmentIntent, PartitionState};
use super::committer::Stopped;
use super::error::ReadError;
use super::partition::{ColdReader, Partition, TimestampedOffset};
use crate::log;
use crate::tier::{
    AppendMark, Fact, FetchError, Head, InStep, Intent, Local, Run, ShipState, Stopping, TierReader,
};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// A partition as the tier sees it.
#[derive(Debug)]
pub(super) struct Shipped(pub(super) Arc<Partition>);

impl Local for Shipped {
    fn id(&self) -> TopicPartition {
        self.0.id()
    }

    fn read(&self, from: Offset, upto: Offset, max_bytes: usize) -> Result<Bytes, log::Error> {
        self.0.reader().read(from, upto, max_bytes)
    }

    fn marks(&self, from: Offset, upto: Offset) -> Vec<AppendMark> {
        self.0
            .marks(from, upto)
            .into_iter()
            .map(|mark| AppendMark {
                first_offset: mark.first_offset,
                commit: mark.commit,
                appended_ms: mark.appended_ms,
            })
            .collect()
    }

    fn runs(&self) -> Vec<Run> {
        let run = |run: super::catalogue::Run| Run {
            first_offset: run.first_offset,
            first_sequence: run.first_sequence,
        };
        self.0.runs().into_iter().map(run).collect()
    }

    fn epoch(&self) -> LeaderEpoch {
        self.0.leader_epoch()
    }

    fn raise_epoch(&self, at_least: LeaderEpoch) {
        self.0.raise_epoch(at_least);
    }

    fn in_step(&self, step: InStep) {
        self.0.fragments_in_step(step);
    }

    fn record(&self, fact: Fact) -> BoxFuture<'static, Result<(), Stopping>> {
        let partition = Arc::clone(&self.0);
        Box::pin(async move {
            let event = event(partition.id(), &fact);
            partition.record(event).await.map_err(|Stopped| Stopping)?;
            match fact {
                Fact::Shipped(head) => partition.shipped_upto(head.shipped),
                Fact::Completed { upto } => partition.completed_upto(upto),
                Fact::Intended(_) | Fact::Abandoned { .. } => {}
            }
            Ok(())
        })
    }
}

fn event(id: TopicPartition, fact: &Fact) -> Event {
    let TopicPartition { topic, partition } = id;
    match fact {
        Fact::Intended(intent) => Event::FragmentIntended {
            topic,
            partition,
            intent: FragmentIntent {
                number: intent.number,
                first_offset: intent.first_offset,
                end_offset: intent.end_offset,
                header: hex(&intent.header),
                digest: hex(&intent.digest),
            },
        },
        Fact::Shipped(head) => Event::FragmentShipped { topic, partition, head: stored_head(head) },
        Fact::Abandoned { number } => {
            Event::FragmentAbandoned { topic, partition, number: *number }
        }
        Fact::Completed { upto } => Event::FragmentsCompleted { topic, partition, complete: *upto },
    }
}

/// A head as the catalogue keeps it.
pub(super) fn stored_head(head: &Head) -> FragmentHead {
    FragmentHead {
        number: head.number,
        shipped: head.shipped,
        hash: hex(&head.hash),
        public_hash: hex(&head.public_hash),
    }
}

/// Where shipping stood. A text in the catalogue that is no hexadecimal number was not written by us: it counts as
/// absent, and the claim finds the truth on the servers.
pub(super) fn ship_state(state: &PartitionState) -> ShipState {
    ShipState {
        intent: state.intent.as_ref().and_then(|intent| {
            Some(Intent {
                number: intent.number,
                first_offset: intent.first_offset,
                end_offset: intent.end_offset,
                header: unhex(&intent.header)?.into(),
                digest: unhex(&intent.digest)?.try_into().ok()?,
            })
        }),
        head: state.head.as_ref().and_then(|head| {
            Some(Head {
                number: head.number,
                shipped: head.shipped,
                hash: unhex(&head.hash)?.try_into().ok()?,
                public_hash: unhex(&head.public_hash)?.try_into().ok()?,
            })
        }),
        last_number: state.last_number,
        shipped: state.shipped(),
        complete: state.complete,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

/// The part of a partition below its local start.
#[derive(Debug)]
pub(super) struct Cold(pub(super) Arc<TierReader>);

impl ColdReader for Cold {
    fn read(
        self: Arc<Self>,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'static, Result<Bytes, ReadError>> {
        Box::pin(async move { Ok(self.0.read(from, upto, max_bytes).await?) })
    }

    fn offset_for_timestamp(
        self: Arc<Self>,
        timestamp_ms: i64,
        (from, upto): (Offset, Offset),
    ) -> BoxFuture<'static, Result<Option<TimestampedOffset>, ReadError>> {
        Box::pin(async move {
            let found = self.0.offset_for_timestamp(timestamp_ms, from, upto).await?;
            Ok(found.map(TimestampedOffset::from))
        })
    }

    fn max_timestamp(
        self: Arc<Self>,
        (from, upto): (Offset, Offset),
    ) -> BoxFuture<'static, Result<Option<TimestampedOffset>, ReadError>> {
        Box::pin(async move {
            let found = self.0.max_timestamp(from, upto).await?;
            Ok(found.map(TimestampedOffset::from))
        })
    }
}

impl From<FetchError> for ReadError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Damaged { first, last, what } => Self::Damaged { first, last, what },
            other => Self::Unavailable { why: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_survive_and_others_are_no_bytes() {
        assert_eq!(unhex(&hex(&[0, 1, 0xab, 0xff])), Some(vec![0, 1, 0xab, 0xff]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
        assert_eq!(unhex("ä"), None);
    }
}
