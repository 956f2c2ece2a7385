//! Tells the admin port which partitions are offline.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::{Finding, Health};
use crate::broker::{Broker, Partition};
use crate::task;

/// How often it is looked whether they were deleted, as long as there are any.
const LOOK: Duration = Duration::from_secs(1);

/// The finding's name.
const NAME: &str = "offline partitions";

/// So many are named.
const NAMED: usize = 10;

/// Keeps the finding until nothing is offline any more, which only a deletion brings about, or until `stop`.
pub(super) fn watch(broker: Arc<Broker>, health: Health, stop: CancellationToken) {
    if broker.offline().is_empty() {
        return;
    }
    task::spawn("offline status", async move {
        while let Some(finding) = finding(&broker.offline()) {
            health.report(finding);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        health.clear(NAME);
    });
}

fn finding(offline: &[Arc<Partition>]) -> Option<Finding> {
    let named: Vec<String> = offline.iter().take(NAMED).map(|partition| said(partition)).collect();
    let more = offline.len().saturating_sub(NAMED);
    detail(&named, more).map(|detail| {
        let cure = "put the named files right or back from a copy, then start again; or delete the topics: the log of the \
                    start says more";
        Finding::degraded(NAME, detail, cure)
    })
}

fn said(partition: &Partition) -> String {
    let why = partition.offline().unwrap_or_default();
    format!("{}-{} ({why})", partition.topic(), partition.id().partition)
}

fn detail(named: &[String], more: usize) -> Option<String> {
    let behind = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| {
        format!(
            "could not be opened, and are neither read nor written; everything else is served: {}{behind}",
            named.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_and_the_others_counted() {
        assert_eq!(detail(&[], 0), None);
        let said = detail(&["a-0 (gone)".to_owned(), "b-1 (gone)".to_owned()], 3).unwrap();
        assert!(said.ends_with("served: a-0 (gone), b-1 (gone) and 3 more"), "{said}");
    }
}
