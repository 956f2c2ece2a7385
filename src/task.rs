//! Named tasks, and how the process ends when one that matters does not go on.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
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
    // Caught instead of seen by a guard: a task that is dropped while its runtime's thread unwinds did not panic itself.
    // Nothing goes on after it, so what it left half done is seen by nobody.
    spawn(name, async move {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(output) => output,
            Err(_) => die(70, &panicked(name)),
        }
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
    #[cfg(test)]
    let end = testing::end();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        #[cfg(test)]
        testing::set_end(end);
        let guard = AbortOnPanic { name };
        body();
        drop(guard);
    })
}

/// Ends the process with `code` at once: nothing pending is answered. For a failed write or sync of the commit log.
pub fn die(code: i32, what: &str) -> ! {
    tracing::error!(what, "ending the process; a restart recovers");
    #[cfg(test)]
    {
        eprintln!("{what}");
        testing::end_without_exit(code, what);
    }
    std::process::exit(code)
}

/// For tests of what [`die`] leaves behind that cannot do without the rest of the process.
#[cfg(test)]
pub mod testing {
    use std::cell::RefCell;
    use std::sync::Arc;

    /// Is told the exit code and why.
    pub type End = Arc<dyn Fn(i32, &str) + Send + Sync>;

    thread_local! {
        static END: RefCell<Option<End>> = const { RefCell::new(None) };
    }

    /// On this thread, and on the critical threads that are started by it or by those, a death calls `end` in place of
    /// ending the process. The dead thread then stands still for ever, as it would have: nothing is dropped or answered.
    pub fn set_end(end: Option<End>) {
        END.set(end);
    }

    pub(super) fn end() -> Option<End> {
        END.with_borrow(Clone::clone)
    }

    pub(super) fn end_without_exit(code: i32, what: &str) {
        if let Some(end) = end() {
            end(code, what);
            loop {
                std::thread::park();
            }
        }
    }
}

struct AbortOnPanic {
    name: &'static str,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            die(70, &panicked(self.name));
        }
    }
}

fn panicked(name: &str) -> String {
    format!("critical task `{name}` panicked")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn a_panic_in_a_critical_task_ends_the_process() {
        const PANICS: &str = "TASK_TEST_PANICS";
        if std::env::var_os(PANICS).is_some() {
            let task = async { spawn_critical("test", async { panic!("on purpose") }).await };
            runtime().block_on(task).unwrap();
            return;
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "task::tests::a_panic_in_a_critical_task_ends_the_process"]);
        let status = again.env(PANICS, "1").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(70));
    }

    #[test]
    fn a_critical_task_that_another_panic_drops_ends_nothing() {
        let other = std::thread::spawn(|| {
            runtime().block_on(async {
                let _task = spawn_critical("test", std::future::pending::<()>());
                tokio::task::yield_now().await;
                panic!("on purpose")
            })
        });
        assert!(other.join().is_err());
    }
}
