//! Programs that others wrote, and small network helpers.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wait::{DEADLINE, wait_up_to};

/// A client program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// kcat, of the system.
    Kcat,
    /// redis-cli, of the system.
    RedisCli,
    /// mke2fs, of the system.
    Mke2fs,
    /// e2fsck, of the system.
    E2fsck,
    /// The Python of `compat-tests/.venv`, with the packages of `requirements.txt`; `TLOG_TEST_PYTHON` names another.
    Python,
}

impl Tool {
    /// A command that runs it.
    ///
    /// # Errors
    /// When it is not installed, with the cure.
    pub fn command(self) -> Result<Command> {
        let program: OsString = match self {
            Self::Kcat => "kcat".into(),
            Self::RedisCli => "redis-cli".into(),
            Self::Mke2fs => of_administrators("mke2fs"),
            Self::E2fsck => of_administrators("e2fsck"),
            Self::Python => match std::env::var_os("TLOG_TEST_PYTHON") {
                Some(path) => path,
                None => concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python").into(),
            },
        };
        if find(&program).is_none() {
            bail!("{} is not installed; compat-tests/run installs it", program.to_string_lossy());
        }
        Ok(Command::new(program))
    }
}

/// A program that may lie where only administrators look.
fn of_administrators(name: &str) -> OsString {
    let path = format!("/sbin/{name}");
    if find(&name.into()).is_none() && find(&path.as_str().into()).is_some() {
        return path.into();
    }
    name.into()
}

/// Where a program is: by its path, or in `PATH`.
pub(crate) fn find(program: &OsString) -> Option<PathBuf> {
    let path = PathBuf::from(program);
    if path.components().count() > 1 {
        return path.exists().then_some(path);
    }
    let all = std::env::var_os("PATH")?;
    std::env::split_paths(&all).map(|dir| dir.join(&path)).find(|path| path.exists())
}

/// Runs a command with `input` on its standard input to its end, at most for [`DEADLINE`].
///
/// # Errors
/// When it does not start, does not end in time, or ends with another code than 0; both outputs are in the message.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    run_up_to(DEADLINE, command, input)
}

/// [`run`] for what takes long on an idle machine, too.
///
/// # Errors
/// As [`run`].
pub fn run_up_to(limit: Duration, command: &mut Command, input: &[u8]) -> Result<Output> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = input.to_vec();
    // A program that ends before it has read everything closes the pipe: its exit code tells.
    let writer = thread::spawn(move || stdin.take().map(|mut stdin| stdin.write_all(&input)));
    let read_out = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.as_mut().map(|stdout| stdout.read_to_end(&mut bytes));
        bytes
    });
    let read_err = thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.as_mut().map(|stderr| stderr.read_to_end(&mut bytes));
        bytes
    });
    let waited = wait_up_to(limit, &format!("the end of {shown}"), || Ok(child.try_wait()?));
    if waited.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let _closed_early = writer.join();
    let joined = |bytes: thread::Result<Vec<u8>>| bytes.unwrap_or_default();
    let (stdout, stderr) = (joined(read_out.join()), joined(read_err.join()));
    let texts = || {
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        format!("{shown}\nstandard output:\n{out}\nstandard error:\n{err}")
    };
    let status = waited.with_context(texts)?;
    if !status.success() {
        bail!("{status}: {}", texts());
    }
    Ok(Output { status, stdout, stderr })
}

/// A port of 127.0.0.1 that nobody listens on now.
///
/// # Errors
/// As the system gives them.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Status and body of an HTTP GET.
///
/// # Errors
/// When nobody answers in time, or not in HTTP.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}
