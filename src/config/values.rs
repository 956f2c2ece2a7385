//! Values as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A host and a port, as given: nothing is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// 0 = any free one.
    pub port: u16,
}

impl HostPort {
    /// Whether the host stands for all addresses of the machine.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::")
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "host:port with a port from 0 to 65535";
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let port = port.parse().map_err(|_| EXPECTED)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err("[IPv6 address]:port"),
            None if host.contains(':') => return Err("an IPv6 address in brackets: [::1]:9092"),
            // As in Go: no host is every address of the machine.
            None if host.is_empty() => "0.0.0.0",
            None => host,
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if !host.chars().all(legal) {
            return Err(EXPECTED);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A redis server and the number of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Where it listens.
    pub address: HostPort,
    /// `SELECT` of this number; 0 when none is given.
    pub database: u32,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.database {
            0 => write!(f, "{}", self.address),
            database => write!(f, "{}@{database}", self.address),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "host:port or host:port@db with a port from 1 to 65535";
        let (address, database) = match text.split_once('@') {
            Some((address, database)) => (address, database.parse().map_err(|_| EXPECTED)?),
            None => (text, 0),
        };
        let address: HostPort = address.parse().map_err(|_| EXPECTED)?;
        if address.port == 0 || address.is_wildcard() {
            return Err(EXPECTED);
        }
        Ok(Self { address, database })
    }
}

/// As Go's `strconv.ParseBool`.
pub fn parse_switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false"),
    }
}

/// Splits `12 MiB` into 12 and `MiB`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// Bytes, see [`super::Kind::Bytes`].
pub fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "a whole number of bytes, or with KiB, MiB, GiB or TiB behind it";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" | "k" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or(EXPECTED)
}

/// A span of time, see [`super::Kind::Time`].
pub fn parse_time(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "a whole number of seconds, or with ms, s, m or h behind it";
    let (number, unit) = number_and_unit(text).ok_or(EXPECTED)?;
    let factor_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(EXPECTED),
    };
    number.checked_mul(factor_ms).map(Duration::from_millis).ok_or(EXPECTED)
}

/// The parts of a comma-separated list; an empty text has none.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        let show = |text: &str| text.parse::<HostPort>().map(|address| address.to_string());
        assert_eq!(show("localhost:0").unwrap(), "localhost:0");
        assert_eq!(show(":11211").unwrap(), "0.0.0.0:11211");
        assert_eq!(show("[::1]:9092").unwrap(), "[::1]:9092");
        for bad in ["", "host", "host:", "host:65536", "::1:9092", "[x]:1", "a b:1", "host:-1"] {
            assert!(show(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_address_may_name_a_database() {
        let server: ServerAddress = "10.0.0.1:6379@3".parse().unwrap();
        assert_eq!((server.database, server.to_string().as_str()), (3, "10.0.0.1:6379@3"));
        for bad in ["h:0", "h:1@", "h:1@x", "0.0.0.0:5"] {
            assert!(bad.parse::<ServerAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_and_times_take_units_and_refuse_overflow() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("3 GB"), Ok(3_000_000_000));
        assert!(parse_bytes("9999999TiB").is_err());
        assert!(parse_bytes("-1").is_err());
        assert!(parse_bytes("MiB").is_err());
        assert_eq!(parse_time("25"), Ok(Duration::from_secs(25)));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_time("1d").is_err());
    }

    #[test]
    fn switches_are_those_of_go() {
        assert_eq!(parse_switch("T"), Ok(true));
        assert_eq!(parse_switch("False"), Ok(false));
        assert!(parse_switch("yes").is_err());
    }
}
