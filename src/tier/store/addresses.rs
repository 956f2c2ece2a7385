//! `-storage-addresses host:port[@db],...`: reading it, and what is said when it names too few servers.

use std::fmt;
use std::str::FromStr;

/// Address of a redis server: `host:port`, with `@db` behind it when the database is not 0. An IPv6 host stands in
/// square brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Name or number, IPv6 without its brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Number of the database within the server.
    pub db: u32,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{}:{}", self.host, self.port)?;
        }
        if self.db != 0 {
            write!(f, "@{}", self.db)?;
        }
        Ok(())
    }
}

/// A text that names no list of shard servers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// One part is no address.
    #[error(
        "`{text}` is no address of a shard server: host:port or host:port@db is needed, as in localhost:6379"
    )]
    Malformed {
        /// The part, cut to 64 characters.
        text: String,
    },
    /// One address stands twice.
    #[error(
        "shard server {address} is named twice; each shard of a fragment needs a server of its own, name each once"
    )]
    Twice {
        /// Which.
        address: Address,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).ok_or_else(|| AddressError::Malformed { text: text.chars().take(64).collect() })
    }
}

fn parse(text: &str) -> Option<Address> {
    let (place, db) = match text.rsplit_once('@') {
        Some((place, db)) => (place, number(db)?),
        None => (text, 0),
    };
    let (host, port) = place.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.contains(':'))?,
        None => Some(host).filter(|host| !host.contains(':'))?,
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(legal) {
        return None;
    }
    let port = number(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    Some(Address { host: host.to_owned(), port, db })
}

/// Digits alone: `parse` would take a sign, too.
fn number(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Reads a comma-separated list; spaces around an address do not matter.
///
/// # Errors
/// [`AddressError`] for the first address that is malformed, empty or named before.
pub fn parse_list(text: &str) -> Result<Vec<Address>, AddressError> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let address: Address = part.trim().parse()?;
        if addresses.contains(&address) {
            return Err(AddressError::Twice { address });
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Fewer shard servers than a fragment has shards. The message ends in a flag to paste: the missing ones on the ports
/// that follow the last one named, database 0, which is where the original looked without being told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct TooFewServers {
    /// Those that are named.
    pub given: Vec<Address>,
    /// How many are needed: one for each shard.
    pub needed: usize,
}

impl TooFewServers {
    /// The given addresses and those that the following ports add, as far as there are ports.
    #[must_use]
    pub fn guessed(&self) -> Vec<Address> {
        let mut all = self.given.clone();
        let Some(last) = self.given.last() else { return all };
        let missing = self.needed.saturating_sub(all.len());
        let following = (last.port..=u16::MAX).skip(1).map(|port| Address {
            host: last.host.clone(),
            port,
            db: 0,
        });
        let new: Vec<_> =
            following.filter(|guess| !self.given.contains(guess)).take(missing).collect();
        all.extend(new);
        all
    }

    fn message(&self) -> String {
        let Self { given, needed } = self;
        let named = given.len();
        let guessed = self.guessed();
        let mut text = format!(
            "{named} shard servers are named and {needed} are needed, one for each shard (k+m)"
        );
        if guessed.len() >= *needed {
            let list = guessed.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
            text += &format!(
                "; if the others listen on the following ports, use: -storage-addresses {list}"
            );
        } else {
            text += "; name the others in -storage-addresses host:port[@db],...";
        }
        text
    }
}

/// Checks that there is a server for each of the `needed` shards. More are fine.
///
/// # Errors
/// [`TooFewServers`], whose text can be pasted.
pub fn require(addresses: &[Address], needed: usize) -> Result<(), TooFewServers> {
    if addresses.len() >= needed {
        return Ok(());
    }
    Err(TooFewServers { given: addresses.to_vec(), needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16, db: u32) -> Address {
        Address { host: host.to_owned(), port, db }
    }

    #[test]
    fn addresses_are_read_and_written_alike() {
        for (text, expected) in [
            ("localhost:6379", address("localhost", 6379, 0)),
            ("10.0.0.1:1@15", address("10.0.0.1", 1, 15)),
            ("[::1]:6379@2", address("::1", 6379, 2)),
            ("[fe80::1%eth0]:65535", address("fe80::1%eth0", 65535, 0)),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()));
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("a:1@0".parse(), Ok(address("a", 1, 0)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "localhost",
            "localhost:",
            ":6379",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1@",
            "a:1@x",
            "a:1@-1",
            "a:1@4294967296",
            "::1:6379",
            "[::1]",
            "[a]:1",
            "a b:1",
            "a/b:1",
            "redis://a:1",
        ] {
            assert!(
                matches!(text.parse::<Address>(), Err(AddressError::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_names_each_server_once() {
        let list = parse_list("a:1, b:2@3,a:1@1").unwrap();
        assert_eq!(list, [address("a", 1, 0), address("b", 2, 3), address("a", 1, 1)]);
        assert_eq!(
            parse_list("a:1,a:1@0"),
            Err(AddressError::Twice { address: address("a", 1, 0) })
        );
        assert!(parse_list("").is_err());
        assert!(parse_list("a:1,").is_err());
    }

    #[test]
    fn the_message_for_too_few_names_the_following_ports() {
        let given = parse_list("one:7000@4,two:6379@1").unwrap();
        let error = require(&given, 6).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 shard servers are named and 6 are needed, one for each shard (k+m); if the others listen on the \
             following ports, use: -storage-addresses \
             one:7000@4,two:6379@1,two:6380,two:6381,two:6382,two:6383"
        );
        let flag = error.to_string();
        let pasted = flag.split(' ').next_back().unwrap();
        require(&parse_list(pasted).unwrap(), 6).unwrap();
    }

    #[test]
    fn ports_that_do_not_exist_are_not_guessed() {
        let error = require(&[address("a", 65534, 0)], 6).unwrap_err();
        assert_eq!(error.guessed().len(), 2);
        assert!(
            error.to_string().ends_with("name the others in -storage-addresses host:port[@db],...")
        );
    }

    #[test]
    fn more_servers_than_needed_are_fine() {
        let given = parse_list("a:1,a:2,a:3").unwrap();
        assert_eq!(require(&given, 2), Ok(()));
        assert_eq!(require(&given, 3), Ok(()));
    }
}
