//! The registry that every part shares.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A cheap handle to the metrics of this server. Names begin with `tlog_`; labels are few and bounded.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Only `tlog_build_info` so far.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tlog");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs here", version);
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Lets a part register what it counts, at any time. `register` must be short: a scrape waits for it.
    pub fn register<R>(&self, register: impl FnOnce(&mut Registry) -> R) -> R {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All values as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric refuses to be written.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_registered_is_encoded() {
        let metrics = Metrics::new();
        let counter: Counter = Counter::default();
        metrics.register(|registry| registry.register("wal_syncs", "Syncs", counter.clone()));
        counter.inc();
        let text = metrics.encode().unwrap();
        assert!(text.contains("tlog_wal_syncs_total 1\n"), "{text}");
        assert!(text.contains("tlog_build_info{version=\""), "{text}");
    }
}
