//! What the parts of the server say about their state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// How bad a finding is; the greater, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Somebody should act; clients are served.
    Degraded,
    /// Clients should go elsewhere, or wait.
    Unready,
}

/// One sentence about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing; a later finding of the same name replaces the earlier one.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub cure: String,
}

impl Finding {
    /// A finding that asks for nothing.
    #[must_use]
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Ok, detail: detail.into(), cure: String::new() }
    }

    /// Something that somebody should see to.
    #[must_use]
    pub fn degraded(
        name: impl Into<String>,
        detail: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (name, detail, cure) = (name.into(), detail.into(), cure.into());
        Self { name, state: State::Degraded, detail, cure }
    }

    /// Something that keeps clients from being served.
    #[must_use]
    pub fn unready(
        name: impl Into<String>,
        detail: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (name, detail, cure) = (name.into(), detail.into(), cure.into());
        Self { name, state: State::Unready, detail, cure }
    }
}

/// A cheap handle to all current findings.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Finding>>>);

impl Health {
    /// No findings: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `finding` in place of the one of the same name. A change of state is logged, a repetition is not.
    pub fn report(&self, finding: Finding) {
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = findings.get(&finding.name).map(|old| old.state);
        if before.unwrap_or(State::Ok) != finding.state {
            log_change(&finding);
        }
        findings.insert(finding.name.clone(), finding);
    }

    /// Forgets the finding of this name, if there is one: the thing is no more.
    pub fn clear(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// All findings, the worst first, then by name.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Finding> = findings.values().cloned().collect();
        // Stable, so the order of names stays.
        all.sort_by_key(|finding| std::cmp::Reverse(finding.state));
        all
    }

    /// The worst state of all findings.
    #[must_use]
    pub fn state(&self) -> State {
        let findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        findings.values().map(|finding| finding.state).max().unwrap_or(State::Ok)
    }
}

fn log_change(finding: &Finding) {
    let Finding { name, state, detail, cure } = finding;
    match state {
        State::Ok => tracing::info!("{name}: {detail}"),
        State::Degraded => tracing::warn!(cure, "{name} is degraded: {detail}"),
        // Recovery is unready by nature and needs no person: the part that finds data at risk logs that itself.
        State::Unready => tracing::info!(cure, "{name} is not ready: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_as_bad_as_its_worst_part() {
        let health = Health::new();
        assert_eq!(health.state(), State::Ok);
        health.report(Finding::degraded("b", "slow", "look"));
        health.report(Finding::unready("c", "reading", ""));
        health.report(Finding::ok("a", "fine"));
        assert_eq!(health.state(), State::Unready);
        let names: Vec<String> = health.findings().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["c", "b", "a"]);
        health.report(Finding::ok("c", "read"));
        assert_eq!(health.state(), State::Degraded);
        health.clear("b");
        assert_eq!(health.state(), State::Ok);
        assert_eq!(health.findings().len(), 2);
    }
}
