//! The shard servers of a cluster: which of them may be used now, and calls that wait until one comes back.
//!
//! ```text
//!   Unchecked --check--> Up --a call fails in transit--> Down --probe--> Up
//!                    \-> Foreign (another cluster's) / Unfit (the audit excludes it) --probe--> ...
//! ```
//!
//! A server is asked for its report and its cluster before its first use and again whenever it was away, for it may have
//! been replaced meanwhile. While a server is not up exactly one probe asks it, at growing intervals up to a second;
//! everybody else waits for that probe, however many partitions wait. Servers that are up are looked at again at a fixed
//! interval.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::records::ClusterMeta;
use super::store::audit::{self, Findings};
use super::store::{Reply, ServerReport, ShardStore, StoreError};
use super::waiting::Waits;
use crate::task;
use crate::types::{ClusterId, in_words};

/// Longest time for a report and the cluster's identity: a server that needs longer is of no use.
const CHECK: Duration = Duration::from_secs(3);

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What is known of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It was not asked yet.
    Unchecked,
    /// It may be used.
    Up,
    /// It does not answer, or refuses.
    Down {
        /// What it or the connection said.
        why: String,
    },
    /// It belongs to another cluster.
    Foreign {
        /// To which.
        cluster: ClusterId,
    },
    /// The audit forbids its use.
    Unfit {
        /// What is wrong and what to do.
        why: String,
    },
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    store: Arc<dyn ShardStore>,
    standing: watch::Sender<Standing>,
    /// What it named as its cluster when it last answered.
    named: Mutex<Option<Option<ClusterId>>>,
    /// The newest answer, in words where there was none.
    report: Mutex<Option<Result<ServerReport, String>>>,
}

impl Server {
    pub fn name(&self) -> &str {
        self.store.name()
    }

    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub fn is_up(&self) -> bool {
        *self.standing.borrow() == Standing::Up
    }
}

/// All servers, in the order of the settings.
#[derive(Debug)]
pub(super) struct Servers {
    list: Vec<Server>,
    /// Where shards of servers that are known by no such name were found: directories moved, servers renamed.
    moved: Mutex<HashMap<String, usize>>,
    cluster: OnceLock<ClusterId>,
    /// n = k+m.
    shards: usize,
    dev: bool,
    stop: CancellationToken,
    metrics: Metrics,
    /// Counts how often a server came into use.
    returned: watch::Sender<u64>,
    pub waits: Waits,
}

/// Names of servers remembered that are not configured: entries are ours, but old ones may name many.
const MOVED: usize = 1024;

/// Grows from try to try.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self::upto(PAUSE.1)
    }

    pub fn upto(longest: Duration) -> Self {
        Self { next: PAUSE.0, longest }
    }

    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}

impl Servers {
    pub fn new(
        stores: Vec<Arc<dyn ShardStore>>,
        shards: usize,
        dev: bool,
        stop: CancellationToken,
        metrics: Metrics,
    ) -> Arc<Self> {
        let server = |store| Server {
            store,
            standing: watch::Sender::new(Standing::Unchecked),
            named: Mutex::new(None),
            report: Mutex::new(None),
        };
        let list = stores.into_iter().map(server).collect();
        Arc::new(Self {
            list,
            moved: Mutex::default(),
            cluster: OnceLock::new(),
            shards,
            dev,
            stop,
            metrics,
            returned: watch::Sender::new(0),
            waits: Waits::default(),
        })
    }

    /// Changes whenever a server comes into use.
    pub fn returned(&self) -> watch::Receiver<u64> {
        self.returned.subscribe()
    }

    /// From here on servers of another cluster are known as such, and empty ones are taken in.
    pub fn belong_to(&self, cluster: ClusterId) {
        // Set once; a second call would name the same.
        self.cluster.get_or_init(|| cluster);
        for server in &self.list {
            server.standing.send_if_modified(|standing| {
                let asked = *standing != Standing::Unchecked;
                *standing = Standing::Unchecked;
                asked
            });
        }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn all(&self) -> impl Iterator<Item = &Server> {
        self.list.iter()
    }

    pub fn get(&self, index: usize) -> Option<&Server> {
        self.list.get(index)
    }

    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|server| server.name() == name)
    }

    /// Where to read what lies on the server of this name: there, or where such shards were found before.
    pub fn to_read(&self, name: &str) -> Option<usize> {
        let moved = || self.moved.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        self.by_name(name).or_else(moved)
    }

    /// Remembers where a shard of a server that nobody knows was found.
    pub fn found(&self, name: &str, index: usize) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if self.by_name(name).is_none() && (moved.len() < MOVED || moved.contains_key(name)) {
            moved.insert(name.to_owned(), index);
        }
    }

    pub fn up_count(&self) -> usize {
        self.list.iter().filter(|server| server.is_up()).count()
    }

    /// What the audit says of everything that was answered so far.
    pub fn findings(&self) -> Findings {
        let reports: Vec<_> =
            self.list.iter().map(|server| (server.name().to_owned(), last(server))).collect();
        audit::judge(&reports, self.shards, self.dev)
    }

    /// Asks all servers side by side; gives the identity that each named, where it answered.
    pub async fn check_all(self: &Arc<Self>) -> Vec<Option<Option<ClusterId>>> {
        let all = (0..self.list.len()).map(|index| self.check(index));
        join_all(all).await
    }

    /// What each server named last.
    pub fn named(&self) -> Vec<Option<Option<ClusterId>>> {
        let named = |server: &Server| *server.named.lock().unwrap_or_else(PoisonError::into_inner);
        self.list.iter().map(named).collect()
    }

    async fn check(self: &Arc<Self>, index: usize) -> Option<Option<ClusterId>> {
        let named = self.ask(index).await;
        if let Some(server) = self.list.get(index) {
            *server.named.lock().unwrap_or_else(PoisonError::into_inner) = named;
        }
        named
    }

    /// Asks a server and notes what it is. Gives the cluster that it named: outer `None` where it gave no usable answer.
    async fn ask(self: &Arc<Self>, index: usize) -> Option<Option<ClusterId>> {
        let server = self.list.get(index)?;
        match in_time(server.store.inspect()).await {
            Ok(report) => note(&server.report, Ok(report)),
            Err(why) => {
                note(&server.report, Err(why.clone()));
                self.became(index, Standing::Down { why });
                return None;
            }
        }
        // Before anything else is asked: a server that is unfit may refuse that for the very same reason.
        let excluding =
            self.findings().all.into_iter().find(|finding| finding.is_why_not(server.name()));
        if let Some(finding) = excluding {
            self.became(index, Standing::Unfit { why: finding.to_string() });
            return None;
        }
        let meta = in_time(server.store.cluster_meta());
        let named = match async { self.identity(server, meta.await?).await }.await {
            Ok(named) => named,
            Err(why) => {
                note(&server.report, Err(why.clone()));
                self.became(index, Standing::Down { why });
                return None;
            }
        };
        let standing = match (named, self.cluster.get()) {
            (Some(cluster), Some(ours)) if cluster != *ours => Standing::Foreign { cluster },
            _ => Standing::Up,
        };
        self.became(index, standing);
        Some(named)
    }

    /// The identity that stands on the server; ours is set where there is none, once we have one.
    async fn identity(
        &self,
        server: &Server,
        meta: Option<bytes::Bytes>,
    ) -> Result<Option<ClusterId>, String> {
        let meta = match (meta, self.cluster.get()) {
            (None, Some(ours)) => {
                let record = ClusterMeta::new(*ours).encode().into();
                Some(in_time(server.store.set_cluster_meta(record)).await?)
            }
            (meta, _) => meta,
        };
        let Some(meta) = meta else { return Ok(None) };
        let decoded = ClusterMeta::decode(&meta);
        decoded.map(|meta| Some(meta.cluster)).map_err(|error| {
            format!(
                "the cluster identity on it cannot be read ({error}); name another, empty server"
            )
        })
    }

    fn became(self: &Arc<Self>, index: usize, standing: Standing) {
        let Some(server) = self.list.get(index) else { return };
        let name = server.name();
        let mut probe = false;
        let is_up = standing == Standing::Up;
        let changed = server.standing.send_if_modified(|known| {
            let changed = *known != standing;
            if changed {
                match &standing {
                    // Each is asked again once the cluster is known.
                    Standing::Up if self.cluster.get().is_none() => {
                        tracing::debug!(server = name, "shard server answers");
                    }
                    Standing::Up => tracing::info!(server = name, "shard server is up"),
                    Standing::Down { why } | Standing::Unfit { why } => {
                        tracing::warn!(server = name, why, "shard server is not used");
                    }
                    Standing::Foreign { cluster } => tracing::error!(
                        server = name, %cluster,
                        "shard server belongs to another cluster and is not used: name one of this cluster, or an empty one"
                    ),
                    Standing::Unchecked => {}
                }
                let idle = matches!(known, Standing::Up | Standing::Unchecked);
                probe = idle && standing != Standing::Up && self.cluster.get().is_some();
                *known = standing;
            }
            changed
        });
        if changed && is_up {
            self.returned.send_modify(|count| *count += 1);
        }
        self.metrics.servers_up(self.up_count());
        if probe {
            let probe = probe_until_up(Arc::downgrade(self), index, self.stop.clone());
            task::spawn("shard server probe", probe);
        }
    }

    /// One call, after a check where one is due. A server that is not up is not asked.
    pub async fn call<T: Send>(
        self: &Arc<Self>,
        index: usize,
        op: impl for<'a> Fn(&'a dyn ShardStore) -> Reply<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let unknown =
            || StoreError::Refused { server: String::new(), reason: "no server".to_owned() };
        let server = self.list.get(index).ok_or_else(unknown)?;
        if server.standing() == Standing::Unchecked {
            self.check(index).await;
        }
        match server.standing() {
            Standing::Up | Standing::Unchecked => {}
            Standing::Down { why } | Standing::Unfit { why } => {
                return Err(StoreError::Refused { server: server.name().to_owned(), reason: why });
            }
            Standing::Foreign { cluster } => {
                let reason = format!("it belongs to cluster {cluster}");
                return Err(StoreError::Refused { server: server.name().to_owned(), reason });
            }
        }
        let result = op(&*server.store).await;
        if let Err(error @ (StoreError::Unreachable { .. } | StoreError::Timeout { .. })) = &result
        {
            self.became(index, Standing::Down { why: in_words(error) });
        }
        result
    }

    /// Calls until the server did it or refuses for good, for ever if need be.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`], [`StoreError::TooLarge`].
    pub async fn until_done<T: Send>(
        self: &Arc<Self>,
        index: usize,
        op: impl for<'a> Fn(&'a dyn ShardStore) -> Reply<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.call(index, &op).await {
                Ok(done) => return Ok(done),
                Err(
                    error @ (StoreError::Fenced { .. }
                    | StoreError::Conflict { .. }
                    | StoreError::TooLarge { .. }),
                ) => return Err(error),
                Err(error) => error,
            };
            if self.get(index).is_some_and(Server::is_up) {
                tracing::warn!(why = in_words(&error), "a shard server refused; trying again");
            }
            backoff.pause().await;
            self.up(index).await;
        }
    }

    /// Waits until the server may be asked.
    async fn up(&self, index: usize) {
        let Some(server) = self.list.get(index) else { return };
        let usable = |standing: &Standing| matches!(standing, Standing::Up | Standing::Unchecked);
        // The sender lives as long as the server.
        server.standing.subscribe().wait_for(usable).await.ok();
    }

    /// Asks those that were not asked yet; gives how many are up.
    pub async fn look(self: &Arc<Self>) -> usize {
        let unchecked = |server: &Server| server.standing() == Standing::Unchecked;
        let due = (0..self.list.len()).filter(|index| self.get(*index).is_some_and(unchecked));
        join_all(due.map(|index| self.check(index))).await;
        self.up_count()
    }

    /// Waits until at least `count` servers are up.
    pub async fn at_least(self: &Arc<Self>, count: usize) {
        let mut returned = self.returned();
        while self.look().await < count && returned.changed().await.is_ok() {}
    }

    /// One call to every server, side by side.
    pub async fn every<'s, T, F>(
        self: &'s Arc<Self>,
        op: impl Fn(usize) -> F,
    ) -> Vec<Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>> + 's,
    {
        join_all((0..self.list.len()).map(op)).await
    }
}

/// Looks again and again at the servers that are in use: a setting may change while they run. The others have a probe.
pub(super) async fn audit_for_ever(
    servers: Weak<Servers>,
    interval: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let Some(servers) = servers.upgrade() else { return };
        let used =
            (0..servers.len()).filter(|index| servers.get(*index).is_some_and(Server::is_up));
        join_all(used.map(|index| servers.check(index))).await;
    }
}

/// Asks a server again and again until it may be used, or nobody wants it any more.
async fn probe_until_up(servers: Weak<Servers>, index: usize, stop: CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = backoff.pause() => {}
        }
        let Some(servers) = servers.upgrade() else { return };
        servers.check(index).await;
        if servers.get(index).is_none_or(Server::is_up) {
            return;
        }
    }
}

/// An answer, or in words why there is none.
async fn in_time<T>(reply: Reply<'_, T>) -> Result<T, String> {
    match tokio::time::timeout(CHECK, reply).await {
        Ok(answer) => answer.map_err(|error| in_words(&error)),
        Err(_) => Err(format!("no answer within {} s", CHECK.as_secs())),
    }
}

fn note(slot: &Mutex<Option<Result<ServerReport, String>>>, report: Result<ServerReport, String>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
}

/// The newest report as the audit wants it.
fn last(server: &Server) -> Result<ServerReport, StoreError> {
    let report = server.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let unasked = || Err("not asked yet".to_owned());
    report.unwrap_or_else(unasked).map_err(|why| StoreError::Unreachable {
        server: server.name().to_owned(),
        source: why.into(),
    })
}
