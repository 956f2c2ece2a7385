//! Listening sockets from addresses as configured.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::config::HostPort;

/// Connections that may wait for being accepted, during recovery above all.
const BACKLOG: u32 = 1024;

/// How often a pair of a free IPv4 and the same IPv6 port is tried for.
const PAIR_ATTEMPTS: usize = 32;

/// What Kafka clients are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    /// This.
    Fixed(HostPort),
    /// The address that this client had connected to: the socket listens on all of them.
    Connected,
}

impl Advertised {
    /// What `given` asks for, else what the configured address means: its host with the port that was bound.
    #[must_use]
    pub fn choose(given: Option<&HostPort>, configured: &HostPort, bound_port: u16) -> Self {
        match given {
            Some(given) => Self::Fixed(given.clone()),
            None if configured.is_wildcard() => Self::Connected,
            None => Self::Fixed(HostPort { host: configured.host.clone(), port: bound_port }),
        }
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Connected => f.write_str("(the address that the client connected to)"),
        }
    }
}

/// A bound socket. Clients wait in its backlog until somebody accepts.
#[derive(Debug)]
pub struct Listener {
    /// `kafka`, `kafka-NAME`, `tlog`, `admin`.
    pub name: String,
    /// The socket.
    pub socket: TcpListener,
    /// Its address with the real port.
    pub local: SocketAddr,
    /// Kafka only.
    pub advertised: Option<Advertised>,
}

impl Listener {
    /// Says that it listens, in the words that scripts look for.
    pub fn announce(&self) {
        let Self { name, local, .. } = self;
        match &self.advertised {
            Some(advertised) => tracing::info!("listening {name} {local} advertised {advertised}"),
            None => tracing::info!("listening {name} {local}"),
        }
    }
}

/// Binds `address`: `localhost` is 127.0.0.1 and, where the machine has it, ::1 with the same port; a name is its
/// first IPv4 address, else its first one; port 0 is any free one.
///
/// # Errors
/// As the system gives them; `NotFound` for a name without an address.
pub async fn bind(address: &HostPort) -> io::Result<Vec<(TcpListener, SocketAddr)>> {
    if address.host == "localhost" {
        return bind_localhost(address.port);
    }
    let ip = match address.host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => look_up(&address.host).await?,
    };
    Ok(vec![listen(SocketAddr::new(ip, address.port))?])
}

async fn look_up(host: &str) -> io::Result<IpAddr> {
    // The system's answer has no kind of its own.
    let unknown = |error| io::Error::new(io::ErrorKind::NotFound, error);
    let all = tokio::net::lookup_host((host, 0)).await.map_err(unknown)?;
    let all: Vec<IpAddr> = all.map(|address| address.ip()).collect();
    let first = all.iter().find(|ip| ip.is_ipv4()).or(all.first());
    first.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

fn bind_localhost(port: u16) -> io::Result<Vec<(TcpListener, SocketAddr)>> {
    let mut attempt = 0;
    loop {
        let first = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
        match listen(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), first.1.port())) {
            Ok(second) => return Ok(vec![first, second]),
            // The port that was free for IPv4 is not for IPv6: another one may be for both.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                attempt += 1;
                if port != 0 || attempt == PAIR_ATTEMPTS {
                    return Err(error);
                }
            }
            // No IPv6 on this machine.
            Err(_) => return Ok(vec![first]),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the process before it to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> HostPort {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn localhost_is_both_loopbacks_on_one_port() {
        let bound = bind(&address("localhost:0")).await.unwrap();
        let port = bound[0].1.port();
        assert!(port != 0);
        assert_eq!(bound[0].1.to_string(), format!("127.0.0.1:{port}"));
        if let Some((_, second)) = bound.get(1) {
            assert_eq!(second.to_string(), format!("[::1]:{port}"));
        }
        let error = bind(&address(&format!("localhost:{port}"))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_advertised_address_follows_the_configured_one_with_the_real_port() {
        let choose = |given: Option<&str>, configured| {
            let given = given.map(address);
            Advertised::choose(given.as_ref(), &address(configured), 4711).to_string()
        };
        assert_eq!(choose(None, "localhost:0"), "localhost:4711");
        assert_eq!(choose(None, "[::1]:0"), "[::1]:4711");
        assert_eq!(choose(Some("k.example:9092"), "0.0.0.0:9092"), "k.example:9092");
        assert!(choose(None, "0.0.0.0:9092").starts_with("(the address"));
    }
}
