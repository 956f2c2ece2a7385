//! What the process asks of the system before it starts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Switches core dumps off, since they would hold keys, and raises the number of open files to what the system
/// allows: every connection and every segment takes one.
///
/// Failing at either is a warning: the server runs without.
pub fn prepare_process() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps stay on; a dump would hold keys");
    }
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    if files.current != files.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, limit = ?files.current, "the number of open files stays as it is");
    }
}
