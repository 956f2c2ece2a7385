//! A server of one's own for a benchmark.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::cli::failure::{Exit, Failure};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Between the process that reads its log and the one that waits for it to be ready.
const LINES: usize = 1024;

/// A child process on free ports, killed when this is dropped: its data is removed anyway.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) kafka: String,
    pub(super) tlog: String,
    /// From the start of the process until it was ready.
    pub(super) start_time: Duration,
}

impl Server {
    /// Starts the `tlogserver` that lies beside this program and waits until it is ready.
    pub(super) fn start(data_dir: &Path) -> Result<Self, Failure> {
        let failed = |what: String| Failure::new(Exit::Error, what);
        let program = std::env::current_exe()
            .map_err(|error| failed(format!("cannot find this program's folder: {error}")))?
            .with_file_name("tlogserver");
        let started = Instant::now();
        let mut child = command(&program, data_dir, std::env::vars_os().map(|(name, _)| name))
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
        let mut server =
            Self { child, kafka: String::new(), tlog: String::new(), start_time: Duration::ZERO };
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
                        server.start_time = started.elapsed();
                        return Ok(server);
                    }
                    last = line;
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed("the server was not ready within 60 s".to_owned()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(format!("the server ended: {last}")));
                }
            }
        }
    }
}

/// The server with its defaults and nothing else: what a person has set up, by variables or by a file here, is for another
/// server, whose shard servers this one would take over.
fn command(program: &Path, data_dir: &Path, variables: impl Iterator<Item = OsString>) -> Command {
    let mut command = Command::new(program);
    for variable in variables {
        if variable.as_encoded_bytes().starts_with(b"TLOG_") {
            command.env_remove(variable);
        }
    }
    command
        .args(["-config=", "-data-dir"])
        .arg(data_dir)
        .arg("-storage-dir")
        .arg(data_dir.join("shards"))
        .args(["-kafka-address", "127.0.0.1:0", "-address", "127.0.0.1:0"])
        .args(["-admin-address", "127.0.0.1:0"]);
    command
}

impl Server {
    /// Ends it without notice.
    pub(super) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("the server has no process id"))?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let until = Instant::now() + STOP;
        while Instant::now() < until {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err(io::Error::other("the server did not stop within 60 s"))
    }

    /// Bytes that it handed to write calls so far, sockets apart.
    pub(super) fn written_bytes(&self) -> io::Result<u64> {
        self.number("io", "wchar:")
    }

    /// Memory that it occupies.
    pub(super) fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.number("status", "VmRSS:")? * 1024)
    }

    /// A number that the system keeps about the process.
    fn number(&self, file: &str, name: &str) -> io::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("no {name} in /proc")))
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
    fn what_is_set_up_for_another_server_does_not_reach_this_one() {
        let set = ["TLOG_STORAGE_ADDRESSES", "PATH", "TLOG_CONFIG"].into_iter().map(OsString::from);
        let command = command(Path::new("tlogserver"), Path::new("/bench"), set);
        let changed: Vec<_> = command.get_envs().collect();
        assert_eq!(
            changed,
            [("TLOG_CONFIG".as_ref(), None), ("TLOG_STORAGE_ADDRESSES".as_ref(), None)]
        );
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments[..3], ["-config=", "-data-dir", "/bench"]);
        assert_eq!(arguments[3..5], ["-storage-dir", "/bench/shards"]);
    }

    #[test]
    fn addresses_are_read_from_the_log() {
        let line =
            "2026-11-20T18:46:14Z  INFO listening kafka 127.0.0.1:19192 advertised 127.0.0.1:19192";
        assert_eq!(listening(line, "kafka").as_deref(), Some("127.0.0.1:19192"));
        assert_eq!(listening(line, "tlog"), None);
        assert_eq!(listening("ready", "kafka"), None);
    }
}
