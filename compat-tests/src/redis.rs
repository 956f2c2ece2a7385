//! Redis servers of a test's own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::tools::{find, free_port};
use crate::wait::wait_until;

/// Another process may take the free port before redis does.
const START_ATTEMPTS: usize = 5;

/// A running redis server: nothing evicted, every write in its append-only file.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    dir: PathBuf,
    options: Vec<String>,
}

impl Redis {
    /// Starts `count` servers with their files below `dir`.
    ///
    /// # Errors
    /// When redis is not installed or does not answer.
    pub fn start_many(dir: &Path, count: usize) -> Result<Vec<Self>> {
        (0..count).map(|i| Self::start(&dir.join(format!("redis-{i}")))).collect()
    }

    /// Starts one server on a free port with its files in `dir`, which is made.
    ///
    /// # Errors
    /// When redis is not installed or does not answer.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[])
    }

    /// As [`Redis::start`], with further `options` as on its command line.
    ///
    /// # Errors
    /// When redis is not installed or does not answer.
    pub fn start_with(dir: &Path, options: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let mut last = None;
        for _ in 0..START_ATTEMPTS {
            let mut redis = Self::spawn(dir.to_owned(), free_port()?, options.clone())?;
            match redis.wait_answer() {
                Ok(()) => return Ok(redis),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("at least one attempt was made")?)
    }

    fn spawn(dir: PathBuf, port: u16, options: Vec<String>) -> Result<Self> {
        if find(&"redis-server".into()).is_none() {
            bail!("redis-server is not installed; compat-tests/run installs it");
        }
        let log = std::fs::File::create(dir.join("redis.log"))?;
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "everysec", "--maxmemory-policy", "noeviction"])
            .arg("--port")
            .arg(port.to_string())
            .arg("--dir")
            .arg(&dir)
            .args(&options)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()?;
        Ok(Self { child, port, dir, options })
    }

    fn wait_answer(&mut self) -> Result<()> {
        let log = self.dir.join("redis.log");
        wait_until("an answer of redis", || {
            if let Some(status) = self.child.try_wait()? {
                bail!("redis ended with {status}, see {}", log.display());
            }
            // Not up yet, or loading: asked again.
            Ok(self.ask("PING").ok().filter(|answer| answer.starts_with("+PONG")).map(drop))
        })
    }

    /// `127.0.0.1:4711`, as for `-storage-addresses`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first bytes of the answer to an inline command, as they come.
    ///
    /// # Errors
    /// When nobody answers within two seconds.
    pub fn ask(&self, command: &str) -> Result<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(socket, "{command}\r\n")?;
        let mut answer = vec![0; 65536];
        let length = socket.read(&mut answer)?;
        answer.truncate(length);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// SIGKILL: as a lost machine. Its files stay.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGKILL, and its files are gone, too: as a machine that burnt. [`Redis::restart`] gives an empty one.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn lose(&mut self) -> Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(&self.dir)?;
        Ok(std::fs::create_dir(&self.dir)?)
    }

    /// Starts it again on the same port with the files that it left.
    ///
    /// # Errors
    /// When it still runs or does not answer.
    pub fn restart(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            bail!("redis still runs");
        }
        *self = Self::spawn(self.dir.clone(), self.port, self.options.clone())?;
        self.wait_answer()
    }

    /// Stops it from answering, connections stay: as a hanging machine.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Undoes [`Redis::pause`].
    ///
    /// # Errors
    /// As the system gives them.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id")?;
        Ok(kill_process(id, signal)?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
