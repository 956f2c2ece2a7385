//! The operator's port: plain HTTP, read-only.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process turns |
//! | `/readyz` | 200 or 503, and JSON: `ready`, `state`, and every finding with its cure |
//! | `/metrics` | OpenMetrics text of everything registered |
//! | `/` | the same for people |
//!
//! This layer knows three things only, and each is handed in: a [`Health`], to which any part of the server reports
//! what it finds, a [`Metrics`], with which any part registers what it counts, and a listening socket.
//!
//! A finding is one sentence about one thing (`recovery`, `shard server 10.0.0.1:6379`), in one of three states:
//!
//! ```text
//! Ok        listed, nothing to do
//! Degraded  somebody should act, and the server goes on: /readyz stays 200
//! Unready   do not send clients here: /readyz is 503
//! ```
//!
//! The state of the whole is the worst of its findings.

mod health;
mod metrics;
mod page;
mod service;

pub use health::{Finding, Health, State};
pub use metrics::Metrics;
pub use service::serve;
