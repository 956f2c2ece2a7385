//! Connecting, for all clients.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

/// Connects to `HOST:PORT`, trying each address that the name has for `each` at most. Small messages are not held back, and
/// keep-alive is on.
///
/// # Errors
/// Of the last address tried; `TimedOut` where it did not answer.
///
/// # Cancel safety
/// Safe: a half-made connection is closed.
pub(super) async fn dial(server: &str, each: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match timeout(each, lookup_host(server)).await {
        Ok(found) => found?.collect(),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(each, connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_keepalive(true)?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}
