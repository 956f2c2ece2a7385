//! The question of a container engine: is the server of this container ready?

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::config::HostPort;

/// Longer than this an idle server does not take; engines give up later than we do.
const PATIENCE: Duration = Duration::from_secs(3);

/// More than an answer is long: findings are some dozens of sentences.
const ANSWER_BYTES: u64 = 1024 * 1024;

/// Asks `/readyz` of the admin port at `address`; where that is a wildcard, on this machine. Blocks for seconds at most.
///
/// # Errors
/// The findings, when the server says that it is not ready; else why it could not be asked.
pub fn healthcheck(address: &HostPort) -> io::Result<String> {
    let host = if address.is_wildcard() { "localhost" } else { address.host.as_str() };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for one in (host, address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&one, PATIENCE) {
            Ok(socket) => return ask(socket),
            Err(error) => last = error,
        }
    }
    Err(io::Error::new(last.kind(), format!("nobody answers at {address}: {last}")))
}

fn ask(mut socket: TcpStream) -> io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") {
        return Ok(body.to_owned());
    }
    Err(io::Error::other(if body.is_empty() { "no answer".to_owned() } else { body.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_one_that_says(answer: &'static str) -> io::Result<String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            assert!(socket.read(&mut request).unwrap() > 0);
            socket.write_all(answer.as_bytes()).unwrap();
        });
        let outcome = healthcheck(&HostPort { host: "127.0.0.1".to_owned(), port });
        server.join().unwrap();
        outcome
    }

    #[test]
    fn the_status_decides_and_the_body_is_the_reason() {
        assert_eq!(ask_one_that_says("HTTP/1.1 200 OK\r\n\r\n{}").unwrap(), "{}");
        let error = ask_one_that_says("HTTP/1.1 503 x\r\n\r\nreading").unwrap_err();
        assert_eq!(error.to_string(), "reading");
        assert!(ask_one_that_says("").is_err());
    }
}
