//! What the tier counts.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Metrics of the tier, an event-named method each.
#[derive(Debug, Clone)]
pub struct Metrics {
    servers_up: Gauge,
    fragments_shipped: Counter,
    bytes_shipped: Counter,
    ship_seconds: Histogram,
    fragments_abandoned: Counter,
    fragments_fetched: Counter,
    shards_bad: Counter,
    partitions_fenced: Gauge,
    fragments_degraded: Gauge,
    fragments_renewed: Counter,
    renewed_bytes_before: Counter,
    renewed_bytes_after: Counter,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::unregistered();
        let one = metrics.clone();
        registry.register("tier_servers_up", "Shard servers that may be used", one.servers_up);
        registry.register(
            "tier_fragments_shipped",
            "Fragments stored on shard servers",
            one.fragments_shipped,
        );
        registry.register(
            "tier_bytes_shipped",
            "Bytes of record batches in shipped fragments",
            one.bytes_shipped,
        );
        registry.register(
            "tier_ship_duration_seconds",
            "Time from a fragment's intent until it is stored",
            one.ship_seconds,
        );
        registry.register(
            "tier_fragments_abandoned",
            "Fragment numbers that were given up",
            one.fragments_abandoned,
        );
        registry.register(
            "tier_fragments_fetched",
            "Fragments read from shard servers",
            one.fragments_fetched,
        );
        registry.register(
            "tier_shards_bad",
            "Shards that were missing, damaged or misplaced when a fragment was read",
            one.shards_bad,
        );
        registry.register(
            "tier_partitions_fenced",
            "Partitions that another broker has taken",
            one.partitions_fenced,
        );
        registry.register(
            "tier_fragments_degraded",
            "Fragments that are shipped and not yet verified whole",
            one.fragments_degraded,
        );
        registry.register(
            "tier_fragments_renewed",
            "Fragments that were sealed anew after compaction",
            one.fragments_renewed,
        );
        registry.register(
            "tier_renewed_bytes_before",
            "Bytes of fragments before they were sealed anew",
            one.renewed_bytes_before,
        );
        registry.register(
            "tier_renewed_bytes_after",
            "Bytes of fragments after they were sealed anew",
            one.renewed_bytes_after,
        );
        metrics
    }

    /// For tests and commands that show none.
    #[must_use]
    pub fn unregistered() -> Self {
        Self {
            servers_up: Gauge::default(),
            fragments_shipped: Counter::default(),
            bytes_shipped: Counter::default(),
            ship_seconds: Histogram::new(exponential_buckets(1e-3, 2.0, 16)),
            fragments_abandoned: Counter::default(),
            fragments_fetched: Counter::default(),
            shards_bad: Counter::default(),
            partitions_fenced: Gauge::default(),
            fragments_degraded: Gauge::default(),
            fragments_renewed: Counter::default(),
            renewed_bytes_before: Counter::default(),
            renewed_bytes_after: Counter::default(),
        }
    }

    pub(super) fn servers_up(&self, count: usize) {
        self.servers_up.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn shipped(&self, bytes: u64, took: Duration) {
        self.fragments_shipped.inc();
        self.bytes_shipped.inc_by(bytes);
        self.ship_seconds.observe(took.as_secs_f64());
        self.fragments_degraded.inc();
    }

    /// Found at a claim.
    pub(super) fn degraded(&self, count: usize) {
        self.fragments_degraded.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn completed(&self) {
        self.fragments_degraded.dec();
    }

    pub(super) fn abandoned(&self) {
        self.fragments_abandoned.inc();
    }

    pub(super) fn fetched(&self, bad_shards: usize) {
        self.fragments_fetched.inc();
        self.shards_bad.inc_by(bad_shards as u64);
    }

    pub(super) fn renewed(&self, before: u64, after: u64) {
        self.fragments_renewed.inc();
        self.renewed_bytes_before.inc_by(before);
        self.renewed_bytes_after.inc_by(after);
    }

    pub(super) fn fenced(&self) {
        self.partitions_fenced.inc();
    }
}
