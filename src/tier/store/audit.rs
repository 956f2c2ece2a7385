//! What the servers' reports mean: pure judgement, made at the start and again and again.
//!
//! Every finding names its server and a cure in one line. Findings are data; who logs, exports or refuses is a caller.

use std::collections::{BTreeMap, BTreeSet};

use super::addresses::Address;
use super::{Persistence, Role, ServerReport, StoreError};

/// What follows from a finding, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consequence {
    /// Somebody should look at it.
    Warn,
    /// The server counts as down until it is cured; the rest goes on.
    Degraded,
    /// Not with this server, or not with this set of servers: a start ends, a running broker does not ship there.
    Refuse,
}

/// What was looked at; the `check` label of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// A server for each shard.
    EnoughServers,
    /// Each server under one name.
    Distinct,
    /// It answers.
    Reachable,
    /// It is ours and undamaged.
    Sound,
    /// It has read its files.
    Loaded,
    /// It takes writes.
    Primary,
    /// It is no node of a cluster.
    Standalone,
    /// It evicts nothing.
    Eviction,
    /// It survives a restart.
    Persistent,
    /// Its last write to disk went well.
    PersistenceWorks,
    /// It has memory left.
    Memory,
}

impl Check {
    /// As it stands in metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EnoughServers => "enough_servers",
            Self::Distinct => "distinct",
            Self::Reachable => "reachable",
            Self::Sound => "sound",
            Self::Loaded => "loaded",
            Self::Primary => "primary",
            Self::Standalone => "standalone",
            Self::Eviction => "eviction",
            Self::Persistent => "persistent",
            Self::PersistenceWorks => "persistence_works",
            Self::Memory => "memory",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What follows from it.
    pub consequence: Consequence,
    /// What was looked at.
    pub check: Check,
    /// Name of the server; absent when it is about all of them.
    pub server: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do, in one line.
    pub cure: String,
}

impl Finding {
    /// Whether it says why this server cannot be used.
    #[must_use]
    pub fn is_why_not(&self, server: &str) -> bool {
        self.consequence >= Consequence::Degraded && self.server.as_deref() == Some(server)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(server) = &self.server {
            write!(f, "shard server {server}: ")?;
        }
        write!(f, "{}; {}", self.what, self.cure)
    }
}

/// Everything that is wrong, worst first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Sorted by consequence, worst first; then as the servers were given.
    pub all: Vec<Finding>,
}

impl Findings {
    /// Those that forbid.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.all.iter().filter(|finding| finding.consequence == Consequence::Refuse)
    }

    /// Whether nothing is to be shipped to this server now.
    #[must_use]
    pub fn excludes(&self, server: &str) -> bool {
        self.all.iter().any(|finding| finding.is_why_not(server))
    }
}

/// Judges what each server reported of itself. `needed` is how many shards a fragment has. `dev` makes warnings of two
/// refusals: too few servers, and servers that share a process.
#[must_use]
pub fn judge(
    reports: &[(String, Result<ServerReport, StoreError>)],
    needed: usize,
    dev: bool,
) -> Findings {
    let refuse_unless_dev = if dev { Consequence::Warn } else { Consequence::Refuse };
    let mut all = Vec::new();
    if reports.len() < needed {
        all.push(too_few(reports, needed, refuse_unless_dev));
    }
    all.extend(shared(reports, refuse_unless_dev));
    for (name, report) in reports {
        let findings = match report {
            Ok(report) => judge_report(name, report),
            Err(error) => vec![unusable(name, error)],
        };
        all.extend(findings);
    }
    all.sort_by_key(|finding| std::cmp::Reverse(finding.consequence));
    Findings { all }
}

/// How many servers may be lost without losing data when `data + parity` shards go to `servers` distinct servers as
/// evenly as they can.
#[must_use]
pub fn tolerance(servers: usize, data: usize, parity: usize) -> usize {
    if servers == 0 {
        return 0;
    }
    let per_server = (data + parity).div_ceil(servers).max(1);
    parity / per_server
}

/// How many distinct servers answer in these reports: names of one run id count once.
#[must_use]
pub fn distinct_servers(reports: &[(String, Result<ServerReport, StoreError>)]) -> usize {
    let ids = reports.iter().filter_map(|(_, report)| Some(&report.as_ref().ok()?.run_id));
    ids.collect::<BTreeSet<_>>().len()
}

fn too_few(
    reports: &[(String, Result<ServerReport, StoreError>)],
    needed: usize,
    consequence: Consequence,
) -> Finding {
    let given: Result<Vec<Address>, _> = reports.iter().map(|(name, _)| name.parse()).collect();
    let named = reports.len();
    let (what, cure) = match given {
        Ok(given) if named > 0 => {
            let error = super::addresses::TooFewServers { given, needed }.to_string();
            match error.split_once("; ") {
                Some((what, cure)) => (what.to_owned(), cure.to_owned()),
                None => (error, "name the others in -storage-addresses".to_owned()),
            }
        }
        _ => (
            format!(
                "{named} shard directories are named and {needed} are needed, one for each shard (k+m)"
            ),
            "name one directory, or as many as are needed, with -storage-dir".to_owned(),
        ),
    };
    Finding { consequence, check: Check::EnoughServers, server: None, what, cure }
}

/// One server behind several names: their shards are lost together.
fn shared(
    reports: &[(String, Result<ServerReport, StoreError>)],
    consequence: Consequence,
) -> Vec<Finding> {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for (name, report) in reports {
        let Ok(report) = report else { continue };
        let Some(other) = first.get(report.run_id.as_str()) else {
            first.insert(&report.run_id, name);
            continue;
        };
        let cure = match name.parse::<Address>() {
            Ok(address) => {
                let port = address.port.checked_add(1).unwrap_or(6379);
                format!(
                    "start an instance of its own and name that: redis-server --port {port} --appendonly yes --maxmemory-policy noeviction"
                )
            }
            Err(_) => "name a directory of its own with -storage-dir".to_owned(),
        };
        findings.push(Finding {
            consequence,
            check: Check::Distinct,
            server: Some(name.clone()),
            what: format!("it is the same server as {other}, and what it holds is lost with that"),
            cure,
        });
    }
    findings
}

fn unusable(name: &str, error: &StoreError) -> Finding {
    let server = Some(name.to_owned());
    let what = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let (check, cure) = match error {
        StoreError::Unreachable { .. } | StoreError::Timeout { .. } => {
            let cure = match name.parse::<Address>() {
                Ok(address) => format!("see that it runs: {} ping", redis_cli(&address)),
                Err(_) => "see that the directory's disk is mounted and healthy".to_owned(),
            };
            (Check::Reachable, cure)
        }
        StoreError::Refused { .. } | StoreError::Locked { .. } => {
            (Check::Reachable, "cure it there and wait".to_owned())
        }
        StoreError::Fenced { .. }
        | StoreError::Conflict { .. }
        | StoreError::Corrupt { .. }
        | StoreError::TooLarge { .. } => {
            (Check::Sound, "name another, empty server in its place".to_owned())
        }
    };
    Finding { consequence: Consequence::Degraded, check, server, what, cure }
}

fn judge_report(name: &str, report: &ServerReport) -> Vec<Finding> {
    let cli = name.parse().map_or_else(|_| "redis-cli".to_owned(), |address| redis_cli(&address));
    let mut findings = Vec::new();
    let mut find = |consequence, check, what: String, cure: String| {
        findings.push(Finding { consequence, check, server: Some(name.to_owned()), what, cure });
    };
    if report.cluster_enabled {
        find(
            Consequence::Refuse,
            Check::Standalone,
            "it is a node of a redis cluster, which would keep all shards of a partition together"
                .to_owned(),
            "name independent instances, started with: redis-server --cluster-enabled no"
                .to_owned(),
        );
    }
    if let Some(policy) = report.eviction_policy.as_deref().filter(|policy| *policy != "noeviction")
    {
        find(
            Consequence::Refuse,
            Check::Eviction,
            format!("it throws data away when its memory is full (maxmemory-policy {policy})"),
            format!(
                "run: {cli} config set maxmemory-policy noeviction (and put it into its redis.conf)"
            ),
        );
    }
    if report.role == Role::Replica {
        find(
            Consequence::Degraded,
            Check::Primary,
            "it is a replica and takes no writes".to_owned(),
            format!("name its primary instead, or run: {cli} replicaof no one"),
        );
    }
    if report.loading {
        find(
            Consequence::Degraded,
            Check::Loaded,
            "it is still reading its files".to_owned(),
            format!("wait; how far it is: {cli} info persistence"),
        );
    }
    judge_persistence(&report.persistence, &cli, &mut find);
    if let (Some(used), Some(limit)) = (report.used_bytes, report.max_bytes)
        && used > limit / 5 * 4
    {
        find(
            Consequence::Warn,
            Check::Memory,
            format!(
                "{used} of {limit} bytes of its maxmemory are used; when it is full it refuses"
            ),
            format!("run: {cli} config set maxmemory {}", limit.saturating_mul(2)),
        );
    }
    findings
}

fn judge_persistence(
    persistence: &Persistence,
    cli: &str,
    find: &mut impl FnMut(Consequence, Check, String, String),
) {
    let Persistence::Redis { append_only_file, snapshots, failed } = persistence else { return };
    if !append_only_file && *snapshots != Some(true) {
        find(
            Consequence::Warn,
            Check::Persistent,
            "it keeps nothing on disk and forgets everything when it is restarted".to_owned(),
            format!("run: {cli} config set appendonly yes (and put it into its redis.conf)"),
        );
    }
    if !failed.is_empty() {
        find(
            Consequence::Warn,
            Check::PersistenceWorks,
            format!("it could not write to its disk ({} not ok)", failed.join(", ")),
            format!("free or repair its disk, then run: {cli} bgrewriteaof"),
        );
    }
}

fn redis_cli(address: &Address) -> String {
    format!("redis-cli -h {} -p {}", address.host, address.port)
}

#[cfg(test)]
mod tests;
