//! Time as a value: only the edges read a clock, and hand what they read to the pure parts.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 by the system's clock, which may be set back and forth.
#[must_use]
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A point of the clock that never goes back.
#[must_use]
pub fn monotonic() -> Instant {
    Instant::now()
}
