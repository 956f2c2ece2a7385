//! How far long work is: a bar on a terminal, a line every 10 seconds elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::output::tell;

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts bytes towards a total; 0 where that is not known.
#[derive(Debug)]
pub(super) struct Progress {
    /// On a terminal only.
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    since: Instant,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(match total {
                0 => "{msg} {bytes} {bytes_per_sec}",
                _ => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            });
            let bar = ProgressBar::new(total).with_message(what);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let now = Instant::now();
        Self { bar, what, total, since: now, last_line: now }
    }

    /// `done` of the total so far.
    pub(super) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let of = match self.total {
                0 => String::new(),
                total => format!(" of {}", HumanBytes(total)),
            };
            let (what, seconds) = (self.what, self.since.elapsed().as_secs());
            tell(format_args!("{what}: {}{of} in {seconds} s", HumanBytes(done)));
        }
    }

    /// Another stage of the same work.
    pub(super) fn stage(&mut self, what: &'static str) {
        self.what = what;
        if let Some(bar) = &self.bar {
            bar.set_message(what);
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
