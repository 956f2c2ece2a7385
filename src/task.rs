//! Named tasks, and how the process ends when one that matters does not go on.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Starts a task that may fail by itself: a panic in it ends its connection or job only.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = tracing::debug_span!("task", name);
    #[expect(clippy::disallowed_methods, reason = "the one place that names tasks")]
    tokio::spawn(future.instrument(span))
}

/// Starts a task without which the process must not go on: a panic in it ends the process, and restart is the
/// recovery.
pub fn spawn_critical<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn(name, async move {
        let guard = AbortOnPanic { name };
        let output = future.await;
        drop(guard);
        output
    })
}

/// Starts a thread without which the process must not go on: as [`spawn_critical`].
///
/// # Errors
/// Where the system has no thread left.
pub fn critical_thread<F>(
    name: &'static str,
    body: F,
) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let guard = AbortOnPanic { name };
        body();
        drop(guard);
    })
}

/// Ends the process with `code` at once: nothing pending is answered. For a failed write or sync of the commit log.
pub fn die(code: i32, what: &str) -> ! {
    tracing::error!(what, "ending the process; a restart recovers");
    std::process::exit(code)
}

struct AbortOnPanic {
    name: &'static str,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            die(70, &format!("critical task `{}` panicked", self.name));
        }
    }
}
