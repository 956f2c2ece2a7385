//! A server of one's own for a benchmark.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::cli::failure::{Exit, Failure};

const START: Duration = Duration::from_secs(30);
/// Between the process that reads its log and the one that waits for it to be ready.
const LINES: usize = 1024;

/// A child process on free ports, killed when this is dropped: its data is removed anyway.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) kafka: String,
    pub(super) tlog: String,
}

impl Server {
    /// Starts the `tlogserver` that lies beside this program and waits until it is ready.
    pub(super) fn start(data_dir: &Path) -> Result<Self, Failure> {
        let failed = |what: String| Failure::new(Exit::Error, what);
        let program = std::env::current_exe()
            .map_err(|error| failed(format!("cannot find this program's folder: {error}")))?
            .with_file_name("tlogserver");
        let mut child = Command::new(&program)
            .arg("-data-dir")
            .arg(data_dir)
            .args(["-kafka-address", "127.0.0.1:0", "-address", "127.0.0.1:0"])
            .args(["-admin-address", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                failed(format!(
                    "cannot start {}: {error}; give --broker and --server of a running one",
                    program.display()
                ))
            })?;
        let stderr = child.stderr.take();
        let mut server = Self { child, kafka: String::new(), tlog: String::new() };
        let (line_in, lines) = sync_channel(LINES);
        std::thread::spawn(move || {
            // Read to the end, so that the server never waits for a reader; nobody may be interested any more.
            for line in stderr.map(BufReader::new).into_iter().flat_map(BufReader::lines) {
                let Ok(line) = line else { return };
                drop(line_in.try_send(line));
            }
        });
        let until = Instant::now() + START;
        let mut last = String::new();
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(address) = listening(&line, "kafka") {
                        server.kafka = address;
                    }
                    if let Some(address) = listening(&line, "tlog") {
                        server.tlog = address;
                    }
                    if line.ends_with(" ready") && !server.kafka.is_empty() {
                        return Ok(server);
                    }
                    last = line;
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed("the server was not ready within 30 s".to_owned()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(format!("the server ended: {last}")));
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The address in `... listening <name> <host:port> ...`.
fn listening(line: &str, name: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "listening").skip(1);
    (words.next() == Some(name)).then(|| words.next().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_log() {
        let line =
            "2026-11-20T18:46:14Z  INFO listening kafka 127.0.0.1:19192 advertised 127.0.0.1:19192";
        assert_eq!(listening(line, "kafka").as_deref(), Some("127.0.0.1:19192"));
        assert_eq!(listening(line, "tlog"), None);
        assert_eq!(listening("ready", "kafka"), None);
    }
}
