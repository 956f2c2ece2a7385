//! Waiting on conditions.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take that takes milliseconds on an idle machine: test machines are not idle.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `condition` until it gives something, at most for [`DEADLINE`].
///
/// # Errors
/// Names `what` when the deadline passes; what `condition` fails with ends the wait at once.
pub fn wait_until<T>(what: &str, condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_up_to(DEADLINE, what, condition)
}

/// [`wait_until`] for what takes long on an idle machine, too.
///
/// # Errors
/// As [`wait_until`].
pub fn wait_up_to<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("waited {} s in vain for: {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
