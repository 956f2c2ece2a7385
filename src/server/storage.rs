//! Opens the tier as the configuration says it, and tells the admin port how it is.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::run::Context;
use crate::admin::{Finding, Health};
use crate::broker::DataDir;
use crate::config::{self, ServerAddress};
use crate::task;
use crate::tier::store::addresses::{self, Address};
use crate::tier::store::audit;
use crate::tier::{
    self, Identity, OpenError, Opened, OwedDeletion, Part, ReadKeyError, Standing, Status, Storage,
    Tier,
};
use crate::types::ClusterId;

/// How often the tier's state is looked at for `/readyz`.
const LOOK: Duration = Duration::from_secs(1);

/// Topics that a finding names one by one.
const NAMED: usize = 5;

/// Opens the tier.
///
/// # Errors
/// [`Error::Refused`] for what the configuration must change, [`Error::Part`] with exit code 12 for a wrong key.
pub(super) async fn open(
    context: &Context,
    data_dir: &DataDir,
    stop: &CancellationToken,
) -> Result<Opened, Error> {
    let storage = storage(&context.config)?;
    let config = tier_config(&context.config)?;
    let stores = storage
        .stores(&data_dir.disk, &data_dir.reserve, &mut super::parts::random)
        .map_err(refused)?;
    let holds_state = data_dir.holds_state().map_err(refused)?;
    let identity = Identity {
        data_dir: data_dir.id,
        cluster: data_dir.cluster.filter(|_| holds_state),
        fresh: data_dir.cluster.unwrap_or(ClusterId::from_random(super::parts::random())),
        address: context.config.tlog_address.to_string(),
    };
    let metrics = context.metrics.register(tier::Metrics::new);
    let health = context.health.clone();
    let progress = move |what: &str| {
        let cure = "start the shard servers, or correct -storage-addresses";
        health.report(Finding::unready("storage", what, cure));
    };
    let opened = Tier::open(config, stores, identity, metrics, &progress, stop.clone()).await;
    context.health.clear("storage");
    let opened = opened.map_err(|error| match error {
        error @ OpenError::WrongKey(_) => {
            Error::Part { part: "shard servers", exit_code: 12, source: error.into() }
        }
        error => refused(error),
    })?;
    if matches!(storage, Storage::Directories(_)) {
        tracing::info!(
            "shards go to directories of this machine: they survive a lost directory, not a lost disk; name redis servers by -storage-addresses"
        );
    }
    Ok(opened)
}

fn refused(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Refused { source: source.into() }
}

fn storage(config: &config::Config) -> Result<Storage, Error> {
    Ok(match &config.storage {
        config::Storage::Directories(paths) => Storage::Directories(paths.clone()),
        config::Storage::Memory => Storage::Memory(config.data_shards + config.parity_shards),
        config::Storage::Redis(servers) => {
            let list: Vec<Address> = servers.iter().map(address).collect();
            if !config.dev {
                let needed = config.data_shards + config.parity_shards;
                addresses::require(&list, needed).map_err(refused)?;
            }
            Storage::Redis(list)
        }
    })
}

fn address(server: &ServerAddress) -> Address {
    let ServerAddress { address, database } = server;
    Address { host: address.host.clone(), port: address.port, db: *database }
}

fn tier_config(config: &config::Config) -> Result<tier::Config, Error> {
    let keys = tier::read_key(config.private_key.reveal())
        .map_err(|error: ReadKeyError| refused(error))?;
    // In hexadecimal digits or in a file, where the configuration did not see it.
    if keys.has_default() && !config.is_default_key {
        match config.storage {
            config::Storage::Redis(_) if !config.dev => {
                return Err(refused(config::Problem::DefaultKey));
            }
            config::Storage::Redis(_) => tracing::warn!("{}", config::Problem::DefaultKey),
            config::Storage::Directories(_) | config::Storage::Memory => {
                tracing::warn!("{}", config::DEFAULT_KEY_NOTICE);
            }
        }
    }
    let byte = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
    Ok(tier::Config {
        data_shards: byte(config.data_shards),
        parity_shards: byte(config.parity_shards),
        base_nonce: config.base_nonce,
        flush_size: u64::from(config.flush_size),
        flush_time_ms: u64::try_from(config.flush_time.as_millis()).unwrap_or(u64::MAX),
        allow_shared_servers: config.dev,
        ..tier::Config::new(Arc::new(keys))
    })
}

/// Keeps the findings of the admin port as the tier's state is, until `stop`.
pub(super) fn watch(tier: Arc<Tier>, health: Health, stop: CancellationToken) {
    task::spawn("tier status", async move {
        let mut said = Vec::new();
        loop {
            let findings = findings(&tier.status());
            if findings != said {
                for old in said
                    .iter()
                    .filter(|old: &&Finding| !findings.iter().any(|new| new.name == old.name))
                {
                    health.clear(&old.name);
                }
                findings.iter().for_each(|finding| health.report(finding.clone()));
                said = findings;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    });
}

/// A server that is down degrades: while the local log has room nothing is lost and nobody has to wait but who waits
/// for shipping.
fn findings(status: &Status) -> Vec<Finding> {
    let mut all = Vec::new();
    for server in &status.servers {
        let name = format!("shard server {}", server.name);
        let (detail, cure) = match &server.standing {
            Standing::Up | Standing::Unchecked => continue,
            Standing::Down { why } | Standing::Unfit { why } => {
                (why.clone(), "cure it there; nothing is shipped meanwhile, and nothing is lost")
            }
            Standing::Foreign { cluster } => (
                format!("it belongs to cluster {cluster} and is not used"),
                "name a server of this cluster, or an empty one",
            ),
        };
        // The audit says more of why it cannot be used, and the cure; once is enough.
        let finding = match status.findings.iter().find(|finding| finding.is_why_not(&server.name))
        {
            Some(audit) => {
                let cure =
                    format!("{}; nothing is shipped meanwhile, and nothing is lost", audit.cure);
                Finding::degraded(name, detail, cure)
            }
            None => Finding::degraded(name, detail, cure),
        };
        all.push(finding);
    }
    let said = |finding: &&audit::Finding| {
        let unused = status.servers.iter().filter(|server| server.standing != Standing::Up);
        !unused.into_iter().any(|server| finding.is_why_not(&server.name))
    };
    for finding in status.findings.iter().filter(said) {
        let name = format!(
            "audit {} {}",
            finding.check.as_str(),
            finding.server.as_deref().unwrap_or("all")
        );
        all.push(Finding::degraded(name, finding.what.clone(), finding.cure.clone()));
    }
    for problem in &status.problems {
        let name = match problem.part {
            Part::Shipping => format!("partition {}", problem.partition),
            Part::Completing => format!("partition {} completion", problem.partition),
            Part::Renewing => format!("partition {} compacted fragments", problem.partition),
        };
        all.push(Finding::degraded(name, problem.what.clone(), "see the log for what is known"));
    }
    all.extend(owed(&status.deletions));
    all
}

/// One finding for all deletions, however many.
fn owed(deletions: &[OwedDeletion]) -> Option<Finding> {
    let first = deletions.first()?;
    let named: Vec<String> = deletions
        .iter()
        .take(NAMED)
        .map(|deletion| format!("{} on {}", deletion.topic, deletion.marked))
        .collect();
    let more = match deletions.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let detail = format!(
        "{} deleted topics are not yet marked on the {} shard servers that must know: {}{more}; a rebuild now would bring \
         them back",
        deletions.len(),
        first.needed,
        named.join(", ")
    );
    let cure = "start the shard servers that are away and leave this server running: it tells them by itself";
    Some(Finding::degraded("deleted topics", detail, cure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::ServerStatus;
    use crate::tier::store::audit::{Check, Consequence};
    use crate::types::{TopicId, TopicName, TopicPartition};

    fn status(standing: Standing) -> Status {
        let server = ServerStatus { name: "a:1".to_owned(), standing };
        let reachable = audit::Finding {
            consequence: Consequence::Degraded,
            check: Check::Reachable,
            server: Some("a:1".to_owned()),
            what: "unreachable".to_owned(),
            cure: "ping it".to_owned(),
        };
        Status {
            servers: vec![server],
            needed: 6,
            tolerance: 2,
            findings: vec![reachable],
            problems: Vec::new(),
            deletions: Vec::new(),
        }
    }

    #[test]
    fn a_server_that_is_down_is_one_finding_with_the_cure_of_the_audit() {
        let found = findings(&status(Standing::Down { why: "refused".to_owned() }));
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*finding.name, &*finding.detail), ("shard server a:1", "refused"));
        assert!(finding.cure.starts_with("ping it"), "{finding:?}");
        assert_eq!(findings(&status(Standing::Unchecked)), []);
        let found = findings(&status(Standing::Up));
        assert_eq!(found[0].name, "audit reachable a:1", "{found:?}");
    }

    #[test]
    fn both_parts_of_a_partition_are_seen_and_deletions_are_one_finding() {
        let partition = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
        let problem = |part| tier::Problem { partition, part, what: "it waits".to_owned() };
        let topic = |i: usize| TopicName::new(&format!("disk-{i}")).unwrap();
        let owed = |i| OwedDeletion { topic: topic(i), marked: 2, needed: 5 };
        let status = Status {
            problems: vec![problem(Part::Shipping), problem(Part::Completing)],
            deletions: (0..7).map(owed).collect(),
            ..status(Standing::Unchecked)
        };
        let health = Health::new();
        findings(&status).into_iter().for_each(|finding| health.report(finding));
        let all = health.findings();
        assert_eq!(all.len(), 3, "{all:?}");
        let deletions = all.iter().find(|finding| finding.name == "deleted topics").unwrap();
        assert!(deletions.detail.contains("disk-4 on 2 and 2 more"), "{deletions:?}");
    }
}
