//! A broker against a disk that loses its power, fails and rots.
//!
//! ```text
//!   scenario.rs   a life drawn from a seed ──▶ journal: what was asked, what was answered
//!                      │ every call to the disk                 │
//!                      ▼                                        ▼
//!   images.rs     the disk as it was within each call      model.rs   what must be there then, what may
//!   failing.rs    a call that fails                              │
//!        └──────────────▶ opened, compared, cut off and opened again ◀──┘
//! ```
//!
//! A new kind of event (a retention, a compaction) becomes one more `Step` of the scenario, and what it may take away is said
//! by a note of the journal and allowed for in the model; all tests here then meet it.
//!
//! Each run draws its seed afresh and says it; `TLOG_TEST_SEED` repeats one, but for the moments at which threads take
//! turns. `TLOG_TEST_LONG` has more lives and images.

mod failing;
mod images;
mod model;
pub(super) mod scenario;

use std::path::{Path, PathBuf};

/// More in the long mode.
fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("TLOG_TEST_LONG").is_some() { long } else { short }
}

fn seed() -> u64 {
    let seed = match std::env::var("TLOG_TEST_SEED") {
        Ok(text) => text.parse().expect("TLOG_TEST_SEED is a number"),
        Err(_) => {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes).unwrap();
            u64::from(u32::from_le_bytes(bytes))
        }
    };
    println!("TLOG_TEST_SEED={seed}");
    seed
}

/// Says where a test was when it failed.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn is_below(path: &Path, dir: &str) -> bool {
    path.starts_with(PathBuf::from(scenario::DATA).join(dir))
}
