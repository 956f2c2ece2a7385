//! A real redis-server for tests, on a free port, ended when it is dropped.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::addresses::Address;

/// A running redis-server on 127.0.0.1.
#[derive(Debug)]
pub struct RedisProcess {
    child: Child,
    port: u16,
    extra: Vec<String>,
    directory: tempfile::TempDir,
}

impl RedisProcess {
    /// Starts a server without persistence, with further options such as `["--maxmemory", "3mb"]`.
    ///
    /// # Panics
    /// Where redis-server is not installed or does not answer.
    pub fn start(extra: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let extra: Vec<String> = extra.iter().map(|&option| option.to_owned()).collect();
        // Another process may take the port between our asking and redis's binding.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = launch(port, &extra, directory.path()) {
                return Self { child, port, extra, directory };
            }
        }
        panic!("redis-server does not start on any of five free ports");
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        Address { host: "127.0.0.1".into(), port: self.port, db: 0 }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends an inline command and waits for an answer.
    pub fn ask(&self, command: &str) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut reply = [0; 3];
        socket.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+OK", "{command}");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&mut self) {
        self.kill();
        self.child =
            launch(self.port, &self.extra, self.directory.path()).expect("the port is still free");
    }

    /// Stops it (it keeps its sockets and answers nothing) or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal =
            if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// `None` when it ends before it answers.
fn launch(port: u16, extra: &[String], directory: &std::path::Path) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(extra)
        .arg("--dir")
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs redis-server; install it with: apt-get install redis-server");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if answers(port) {
            return Some(child);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(
            Instant::now() < deadline,
            "redis-server on port {port} does not answer within 30 s"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut reply = [0; 5];
    let asked = socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .and_then(|()| socket.write_all(b"PING\r\n"))
        .and_then(|()| socket.read_exact(&mut reply));
    asked.is_ok() && reply == *b"+PONG"
}
