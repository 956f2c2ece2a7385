//! Fetching a fragment: any k of its shards, from whichever servers have them. Or all of them, to see what is left of it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::catalogue::Fragments;
use super::error::{FragmentError, ShardError, ShardFaults};
use super::fragment::{OpenedFragment, Wanted, open_fragment, open_shard};
use super::records::ManifestEntry;
use super::servers::Server;
use super::store::{ShardName, StoreError};
use super::tier::Core;
use crate::types::{Offset, in_words};

/// A read below the local start that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The fragment is lost or damaged beyond what its shards can restore, and every server was asked.
    #[error("offsets {first} to {last} cannot be read: {what}")]
    Damaged {
        /// First offset that is lost.
        first: Offset,
        /// Last offset that is lost.
        last: Offset,
        /// What is wrong.
        what: String,
    },
    /// Too few servers answer; it may go well later.
    #[error("the shard servers cannot be read now: {why}")]
    Unavailable {
        /// Which, and what they say.
        why: String,
    },
}

/// What is left of a fragment, all its shards looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFragment {
    /// Its number.
    pub number: u64,
    /// First offset.
    pub first: Offset,
    /// Last offset.
    pub last: Offset,
    /// k: so many shards restore it.
    pub needed: usize,
    /// Shards that are as they should be.
    pub good: usize,
    /// The others, by index.
    pub bad: Vec<BadShard>,
    /// Bytes of its batches, each checked; or why it cannot be read.
    pub content: Result<u64, FetchError>,
}

/// A shard that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadShard {
    /// The server that the manifest names for it.
    pub server: String,
    /// [`ShardError::Missing`], too, where the server does not answer; [`ShardError::Rotten`] where it says itself that what
    /// it holds is damaged.
    pub error: ShardError,
    /// What the server said in that case.
    pub said: Option<String>,
}

/// What was got so far.
struct Gathered {
    shards: Vec<Option<Bytes>>,
    asked: Vec<bool>,
    /// What servers hold that are no shards, in words, by index.
    corrupt: Vec<Option<String>>,
    /// Why a server said nothing.
    silent: Option<String>,
}

/// Fetches and opens a fragment: k shards from servers that are up, then all others, then those that lie on another
/// server than the entry says.
pub(super) async fn fetch(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    entry: &ManifestEntry,
) -> Result<OpenedFragment, FetchError> {
    let total = entry.shards();
    let needed = usize::from(entry.data_shards);
    let mut got = Gathered::nothing(total);
    let mut order: Vec<usize> = (0..total).collect();
    order.sort_by_key(|index| {
        let server = server_of(core, entry, *index).and_then(|server| core.servers.get(server));
        !server.is_some_and(Server::is_up)
    });
    while got.present() < needed {
        let missing = needed - got.present();
        let next: Vec<usize> =
            order.iter().copied().filter(|index| !got.is_asked(*index)).take(missing).collect();
        if next.is_empty() {
            break;
        }
        got.ask(core, fragments, entry, &next).await;
    }
    if let Ok(opened) = open(core, fragments, entry, &got).await {
        return Ok(opened);
    }
    let rest: Vec<usize> = order.into_iter().filter(|index| !got.is_asked(*index)).collect();
    got.ask(core, fragments, entry, &rest).await;
    match open(core, fragments, entry, &got).await {
        Ok(opened) => return Ok(opened),
        Err(FragmentError::TooFewShards { .. }) => {}
        Err(error) => return Err(unreadable(entry, &in_words(&error))),
    }
    got.search(core, fragments, entry).await;
    match open(core, fragments, entry, &got).await {
        Ok(opened) => Ok(opened),
        Err(error) => Err(match got.silent {
            Some(why) => FetchError::Unavailable { why: format!("{error}; {why}") },
            None => unreadable(entry, &in_words(&error)),
        }),
    }
}

/// Asks for every shard of a fragment and opens each by itself: parity that nobody reads is checked like data.
pub(super) async fn check(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    entry: &ManifestEntry,
) -> CheckedFragment {
    let total = entry.shards();
    let mut got = Gathered::nothing(total);
    got.ask(core, fragments, entry, &(0..total).collect::<Vec<_>>()).await;
    got.search(core, fragments, entry).await;
    let opened = open(core, fragments, entry, &got).await;
    let content = match &opened {
        Ok(opened) => Ok(opened.batches.len() as u64),
        Err(error @ FragmentError::TooFewShards { .. }) => Err(match &got.silent {
            Some(why) => FetchError::Unavailable { why: format!("{error}; {why}") },
            None => unreadable(entry, &in_words(error)),
        }),
        Err(error) => Err(unreadable(entry, &in_words(error))),
    };
    drop(opened);
    let Gathered { shards, corrupt, .. } = got;
    let (shared, whose, of) = (Arc::clone(core), Arc::clone(fragments), entry.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let verdict = |(index, shard): (u8, &Option<Bytes>)| {
            let Some(shard) = shard else { return Some(ShardError::Missing) };
            // Without its secret nothing of the topic opens: the content says why.
            let secret = whose.secret.as_ref().ok()?;
            let context = shared.context(whose.id, secret);
            match open_shard(shard, index, &Wanted::Entry(&of), &context) {
                Ok(opened) if opened.checksum_fits => None,
                Ok(_) => Some(ShardError::Rotten),
                Err(error) => Some(error),
            }
        };
        (0u8..).zip(&shards).map(verdict).collect::<Vec<_>>()
    });
    // The closure does not panic; a runtime that ends gives no answer.
    let verdicts = looked.await.unwrap_or_else(|_| vec![Some(ShardError::Missing); total]);
    let named = entry.servers.iter().cloned().zip(corrupt);
    let bad = verdicts.into_iter().zip(named).filter_map(|(error, (server, said))| {
        let error = match (error?, &said) {
            (ShardError::Missing, Some(_)) => ShardError::Rotten,
            (error, _) => error,
        };
        Some(BadShard { server, error, said })
    });
    let bad: Vec<BadShard> = bad.collect();
    CheckedFragment {
        number: entry.number,
        first: entry.first_offset,
        last: entry.last_offset,
        needed: usize::from(entry.data_shards),
        good: total - bad.len(),
        bad,
        content,
    }
}

fn unreadable(entry: &ManifestEntry, what: &str) -> FetchError {
    FetchError::Damaged {
        first: entry.first_offset,
        last: entry.last_offset,
        what: format!("fragment {}: {what}", entry.number),
    }
}

fn server_of(core: &Core, entry: &ManifestEntry, index: usize) -> Option<usize> {
    core.servers.to_read(entry.servers.get(index)?)
}

pub(super) fn shard_name(fragments: &Fragments, entry: &ManifestEntry, index: usize) -> ShardName {
    ShardName {
        partition: fragments.id,
        number: entry.number,
        generation: entry.generation,
        index: u8::try_from(index).expect("an entry has at most 24 shards"),
    }
}

impl Gathered {
    fn nothing(total: usize) -> Self {
        Self {
            shards: vec![None; total],
            asked: vec![false; total],
            corrupt: vec![None; total],
            silent: None,
        }
    }

    fn present(&self) -> usize {
        self.shards.iter().flatten().count()
    }

    fn is_asked(&self, index: usize) -> bool {
        self.asked.get(index).copied().unwrap_or(true)
    }

    /// Asks the servers that the entry names.
    async fn ask(
        &mut self,
        core: &Arc<Core>,
        fragments: &Fragments,
        entry: &ManifestEntry,
        indices: &[usize],
    ) {
        let calls = indices.iter().map(|index| async move {
            let name = shard_name(fragments, entry, *index);
            match server_of(core, entry, *index) {
                Some(server) => core.servers.call(server, |store| store.get_shard(name)).await,
                None => Ok(None),
            }
        });
        let answers = join_all(calls).await;
        for (index, answer) in indices.iter().zip(answers) {
            self.take(*index, answer);
            if let Some(asked) = self.asked.get_mut(*index) {
                *asked = true;
            }
        }
    }

    /// Looks for what is still missing on all other servers: a directory was moved, or servers were renamed.
    async fn search(&mut self, core: &Arc<Core>, fragments: &Fragments, entry: &ManifestEntry) {
        for index in 0..self.shards.len() {
            let name = shard_name(fragments, entry, index);
            let named = server_of(core, entry, index);
            for server in (0..core.servers.len()).filter(|server| Some(*server) != named) {
                if self.shards.get(index).is_none_or(Option::is_some) {
                    break;
                }
                let answer = core.servers.call(server, |store| store.get_shard(name)).await;
                if let (Ok(Some(_)), Some(named)) = (&answer, entry.servers.get(index)) {
                    core.servers.found(named, server);
                }
                self.take(index, answer);
            }
        }
    }

    fn take(&mut self, index: usize, answer: Result<Option<Bytes>, StoreError>) {
        match answer {
            Ok(found) => {
                if let Some(slot) = self.shards.get_mut(index) {
                    *slot = slot.take().or(found);
                }
            }
            // What it holds is damaged: asking again brings nothing else.
            Err(error @ (StoreError::Corrupt { .. } | StoreError::TooLarge { .. })) => {
                if let Some(slot) = self.corrupt.get_mut(index) {
                    *slot = Some(in_words(&error));
                }
            }
            Err(error) => self.silent = Some(in_words(&error)),
        }
    }
}

async fn open(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    entry: &ManifestEntry,
    got: &Gathered,
) -> Result<OpenedFragment, FragmentError> {
    let needed = usize::from(entry.data_shards);
    let none =
        move || FragmentError::TooFewShards { good: 0, needed, faults: ShardFaults::default() };
    let (shards, entry) = (got.shards.clone(), entry.clone());
    let (core, fragments) = (Arc::clone(core), Arc::clone(fragments));
    let work = tokio::task::spawn_blocking(move || {
        let secret = fragments.secret.as_ref().map_err(|_| none())?;
        let context = core.context(fragments.id, secret);
        let opened = open_fragment(&shards, &Wanted::Entry(&entry), &context);
        let bad = match &opened {
            Ok(opened) => opened.faults.len(),
            Err(FragmentError::TooFewShards { faults, .. }) => faults.0.len(),
            Err(_) => 0,
        };
        core.metrics.fetched(bad);
        opened
    });
    // The closure does not panic; a runtime that ends gives no answer.
    work.await.unwrap_or_else(|_| Err(none()))
}
