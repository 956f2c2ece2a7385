//! The server under test, as its own process.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::tools::http_get;
use crate::wait::wait_until;

/// Lines of the log that a failure shows.
const SHOWN_LINES: usize = 60;

/// A running `tlogserver`.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: Log,
    data_dir: PathBuf,
    options: Vec<String>,
}

/// Lines of standard error so far.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn follow(&self, stderr: ChildStderr) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Server {
    /// Starts a server on free ports and waits until it is ready. `options` are flags as on a command line.
    ///
    /// # Errors
    /// With the log, when it does not get there.
    pub fn start(data_dir: &Path, options: &[&str]) -> Result<Self> {
        let mut server = Self::spawn(data_dir, options)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// Starts a server on free ports and waits for nothing.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn spawn(data_dir: &Path, options: &[&str]) -> Result<Self> {
        Self::spawn_with(data_dir, on_free_ports(options))
    }

    /// As [`Server::spawn`], started by another program that gives its place to it, such as `strace -D`: `wrapper` is that
    /// program with its arguments. Started again, the server is alone.
    ///
    /// # Errors
    /// When there is no such program or no binary.
    pub fn spawn_under(wrapper: &[&str], data_dir: &Path, options: &[&str]) -> Result<Self> {
        let (program, arguments) = wrapper.split_first().context("a program")?;
        let server = Self::command()?;
        let mut command = Command::new(program);
        command.args(arguments).arg(server.get_program());
        server.get_envs().filter(|(_, value)| value.is_none()).for_each(|(name, _)| {
            command.env_remove(name);
        });
        Self::spawn_by(command, data_dir, on_free_ports(options))
    }

    fn spawn_with(data_dir: &Path, options: Vec<String>) -> Result<Self> {
        Self::spawn_by(Self::command()?, data_dir, options)
    }

    fn spawn_by(mut command: Command, data_dir: &Path, options: Vec<String>) -> Result<Self> {
        command.arg("-config=").arg("-data-dir").arg(data_dir).args(&options);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let log = Log::default();
        log.follow(child.stderr.take().context("standard error was asked for")?);
        Ok(Self { child, log, data_dir: data_dir.to_owned(), options })
    }

    /// The bare binary, without any variable that would set an option.
    ///
    /// # Errors
    /// When there is none.
    pub fn command() -> Result<Command> {
        bare("tlogserver")
    }

    /// Waits for the line `ready`.
    ///
    /// # Errors
    /// With the log, when it ends before or the deadline passes.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_line(" ready").map(drop)
    }

    /// Waits for a line of the log that ends with `text` or has it followed by a space; gives the first such line.
    ///
    /// # Errors
    /// With the log, when the server ends before or the deadline passes.
    pub fn wait_line(&mut self, text: &str) -> Result<String> {
        let spaced = format!("{text} ");
        let log = self.log.clone();
        let found = wait_until(&format!("`{text}` in the log"), || {
            // Asked before the log is: what an ended process wrote is then seen all the same, or next time.
            let ended = self.child.try_wait()?;
            let lines = log.lines();
            if let Some(line) =
                lines.iter().find(|line| line.ends_with(text) || line.contains(&spaced))
            {
                return Ok(Some(line.clone()));
            }
            match ended {
                Some(status) => bail!("the server ended with {status}"),
                None => Ok(None),
            }
        });
        found.with_context(|| format!("log:\n{}", self.log.tail()))
    }

    /// Where a listener (`kafka`, `tlog`, `admin`) is: `127.0.0.1:4711`. The first one where it has several.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn address(&mut self, name: &str) -> Result<String> {
        let line = self.wait_line(&format!(" listening {name}"))?;
        let mut words = line.split_whitespace().skip_while(|word| *word != "listening").skip(2);
        words.next().map(str::to_owned).with_context(|| format!("no address in: {line}"))
    }

    /// What Kafka clients are told to connect to: `localhost:4711`.
    ///
    /// # Errors
    /// When the Kafka listener does not listen.
    pub fn bootstrap(&mut self) -> Result<String> {
        let line = self.wait_line(" listening kafka")?;
        let advertised = line.split(" advertised ").nth(1);
        advertised.map(str::to_owned).with_context(|| format!("nothing advertised in: {line}"))
    }

    /// Status and body of a path of the admin port.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn admin(&mut self, path: &str) -> Result<(u16, String)> {
        http_get(&self.address("admin")?, path)
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that the process has held at a time, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak_memory(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id")?;
        Ok(kill_process(id, signal)?)
    }

    /// SIGTERM, and the exit status.
    ///
    /// # Errors
    /// With the log, when it does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit()
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// With the log, when it does not end in time.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let ended = wait_until("the end of the server", || Ok(self.child.try_wait()?));
        ended.with_context(|| format!("log:\n{}", self.log.tail()))
    }

    /// Starts the server again after its end: same data, same options, same ports. Waits for nothing.
    ///
    /// # Errors
    /// When it has not ended, or cannot be started.
    pub fn respawn(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            bail!("the server still runs");
        }
        let mut options = self.options.clone();
        for line in self.log() {
            let port = |name: &str| {
                let rest = line.split(&format!(" listening {name} ")).nth(1)?;
                rest.split(' ').next()?.rsplit(':').next().map(str::to_owned)
            };
            for (name, flag, host) in [
                ("kafka", "-kafka-address", "localhost"),
                ("tlog", "-address", "127.0.0.1"),
                ("admin", "-admin-address", "127.0.0.1"),
            ] {
                let free = format!("{flag}={host}:0");
                if let Some(port) = port(name) {
                    options.iter_mut().filter(|option| **option == free).for_each(|option| {
                        *option = format!("{flag}={host}:{port}");
                    });
                }
            }
        }
        *self = Self::spawn_with(&self.data_dir.clone(), options)?;
        Ok(())
    }

    /// [`Server::respawn`], then waits until it is ready.
    ///
    /// # Errors
    /// As [`Server::respawn`] and [`Server::wait_ready`].
    pub fn restart(&mut self) -> Result<()> {
        self.respawn()?;
        self.wait_ready()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the server {}:\n{}", self.child.id(), self.log.tail());
        }
    }
}

/// The bare `tlog`, without any variable that would set an option.
///
/// # Errors
/// When there is none.
pub fn tlog_command() -> Result<Command> {
    bare("tlog")
}

fn on_free_ports(options: &[&str]) -> Vec<String> {
    let mut all =
        ["-kafka-address=localhost:0", "-address=127.0.0.1:0", "-admin-address=127.0.0.1:0"]
            .map(str::to_owned)
            .to_vec();
    // Of a repeated flag the last one wins.
    all.extend(options.iter().map(|&option| option.to_owned()));
    all
}

fn bare(name: &str) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("TLOG_") {
            command.env_remove(variable);
        }
    }
    Ok(command)
}

/// A binary of the project: `TLOG_SERVER_BIN` (its neighbours for the others), else built now where this test was.
///
/// # Errors
/// When it is not there and cannot be built.
fn binary(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TLOG_SERVER_BIN") {
        let path = PathBuf::from(path).with_file_name(name);
        if !path.exists() {
            bail!("TLOG_SERVER_BIN: there is no {}", path.display());
        }
        return Ok(path);
    }
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    dir.as_ref().map(|dir| dir.join(name)).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Builds the binaries in the profile of this test, so that no stale one is tested; gives their directory.
fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // <target>/<profile>/deps/<test>
    let dir = test.parent().and_then(Path::parent).context("a test lies in <profile>/deps")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--quiet", "--package", "tlog", "--bins", "--target-dir"])
        .arg(dir.parent().context("a profile lies in a target directory")?);
    if dir.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    let status = command.status()?;
    if !status.success() {
        bail!("the server does not build: {command:?}");
    }
    Ok(dir.to_owned())
}
