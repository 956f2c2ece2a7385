//! Tells the admin port how full the local log is.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::{Finding, Health};
use crate::broker::{Broker, LocalLogUse};
use crate::task;

/// How often it is looked at for `/readyz`.
const LOOK: Duration = Duration::from_secs(1);

/// The finding's name.
const NAME: &str = "local log";

/// Keeps the finding as the local log is, until `stop`.
pub(super) fn watch(broker: Arc<Broker>, health: Health, stop: CancellationToken) {
    task::spawn("local log status", async move {
        let mut was_full = false;
        loop {
            let usage = broker.local_log();
            match finding(usage) {
                Some(finding) if !was_full => health.report(finding),
                None if was_full => health.clear(NAME),
                _ => {}
            }
            was_full = usage.is_full;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    });
}

fn finding(LocalLogUse { bytes, limit_bytes, is_full }: LocalLogUse) -> Option<Finding> {
    let detail = format!(
        "segments and commit log take {bytes} of {limit_bytes} bytes: Kafka producers are refused, TLog clients wait; \
         everything else is served"
    );
    let cure = "delete records or topics, shorten the retention of topics that do not ship, or raise -local-log-limit; \
                what the shard servers have whole goes by itself";
    is_full.then(|| Finding::degraded(NAME, detail, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_local_log_is_a_finding_with_a_cure() {
        let full = LocalLogUse { bytes: 96, limit_bytes: 100, is_full: true };
        let found = finding(full).unwrap();
        assert!(found.detail.contains("96 of 100") && found.cure.contains("-local-log-limit"));
        assert_eq!(finding(LocalLogUse { is_full: false, ..full }), None);
    }
}
