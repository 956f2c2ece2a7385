//! What the process asks of the system before it starts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer would have a reader of a few partitions open and close all the time.
const LEAST_SEGMENTS: usize = 64;

/// A terabyte of segments; more only keeps descriptors that nobody needs.
const MOST_SEGMENTS: usize = 16 * 1024;

/// Of the files that the system allows, connections and everything else keep at least so many.
const OTHER_FILES: u64 = 1024;

/// How many segment files may be open: half of what the system allows, connections being the other half, and some in any
/// case.
pub fn open_segments() -> usize {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let half = (allowed / 2).min(allowed.saturating_sub(OTHER_FILES));
    usize::try_from(half).unwrap_or(usize::MAX).clamp(LEAST_SEGMENTS, MOST_SEGMENTS)
}

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
