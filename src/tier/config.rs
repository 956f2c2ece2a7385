//! Settings of the tier.

use std::sync::Arc;
use std::time::Duration;

use super::encryption::KeyRing;
use super::erasure::Code;
use super::error::ConfigError;

/// The base nonce that the original had compiled in, and still the default: no key is used for a second fragment, so it
/// may be the same for ever.
pub const DEFAULT_NONCE: [u8; 12] =
    [0x37, 0xb8, 0xe8, 0xa3, 0x08, 0xc3, 0x54, 0x04, 0x8d, 0x24, 0x5f, 0x6d];

/// How fragments are cut, sealed and placed.
#[derive(Debug, Clone)]
pub struct Config {
    /// k, `-k`: shards that are needed. 1 to 16.
    pub data_shards: u8,
    /// m, `-m`: shards that may be lost. 0 to 8.
    pub parity_shards: u8,
    /// `-nonce`: goes into the nonce of every shard and is recorded in the header.
    pub base_nonce: [u8; 12],
    /// The master keys.
    pub keys: Arc<KeyRing>,
    /// `-flush-size`: records of a vdisk that are shipped together.
    pub flush_size: u64,
    /// `-flush-time`: how long a record waits at most, in ms.
    pub flush_time_ms: u64,
    /// Largest fragment, in bytes of batches; one batch at least.
    pub max_fragment_bytes: u64,
    /// `-dev`: shards may share servers where there are too few.
    pub allow_shared_servers: bool,
    /// How often servers in use are looked at again: their settings may change while they run.
    pub audit_interval: Duration,
}

impl Config {
    /// The original's defaults, with these keys.
    #[must_use]
    pub fn new(keys: Arc<KeyRing>) -> Self {
        Self {
            data_shards: 4,
            parity_shards: 2,
            base_nonce: DEFAULT_NONCE,
            keys,
            flush_size: 25,
            flush_time_ms: 25_000,
            max_fragment_bytes: super::aggregation::Config::FRAGMENT_BYTES,
            allow_shared_servers: false,
            audit_interval: Duration::from_secs(60),
        }
    }

    /// # Errors
    /// [`ConfigError`], naming the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        Code::new(usize::from(self.data_shards), usize::from(self.parity_shards))?;
        self.vdisk().check()?;
        self.plain().check()
    }

    /// How vdisks ship.
    #[must_use]
    pub fn vdisk(&self) -> super::aggregation::Config {
        super::aggregation::Config {
            max_fragment_bytes: self.max_fragment_bytes,
            ..super::aggregation::Config::vdisk(self.flush_size, self.flush_time_ms)
        }
    }

    /// How plain topics ship.
    #[must_use]
    pub fn plain(&self) -> super::aggregation::Config {
        super::aggregation::Config {
            max_fragment_bytes: self.max_fragment_bytes,
            ..super::aggregation::Config::plain(self.flush_time_ms)
        }
    }

    /// n = k+m.
    #[must_use]
    pub fn shards(&self) -> usize {
        usize::from(self.data_shards) + usize::from(self.parity_shards)
    }

    /// W: shards, and copies of entry and head, on distinct servers before a fragment counts as shipped. k+1, or k where
    /// there is no parity.
    #[must_use]
    pub fn ship_quorum(&self) -> usize {
        usize::from(self.data_shards) + usize::from(self.parity_shards > 0)
    }

    /// F: servers on which a fence must be raised, so that they meet every set of W among `servers`: W + F > N.
    #[must_use]
    pub fn fence_quorum(&self, servers: usize) -> usize {
        (servers + 1).saturating_sub(self.ship_quorum()).max(1)
    }
}

/// Reads `-nonce`: 24 hexadecimal digits.
///
/// # Errors
/// [`ConfigError::Nonce`].
pub fn parse_nonce(text: &str) -> Result<[u8; 12], ConfigError> {
    let refuse = || ConfigError::Nonce { text: text.chars().take(64).collect() };
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or_else(refuse))
        .collect::<Result<_, _>>()?;
    let digits: [u8; 24] = digits.try_into().map_err(|_| refuse())?;
    let mut nonce = [0; 12];
    let (pairs, _) = digits.as_chunks::<2>();
    nonce.iter_mut().zip(pairs).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::super::encryption::MasterKey;
    use super::*;

    fn config() -> Config {
        let key = MasterKey::new(std::array::from_fn(|i| i as u8)).unwrap();
        Config::new(Arc::new(KeyRing::new(1, key)))
    }

    #[test]
    fn the_defaults_are_the_originals_and_legal() {
        let config = config();
        config.check().unwrap();
        assert_eq!(parse_nonce("37b8e8a308c354048d245f6d"), Ok(config.base_nonce));
        assert_eq!((config.shards(), config.ship_quorum(), config.fence_quorum(6)), (6, 5, 2));
        assert_eq!(config.fence_quorum(9), 5);
    }

    #[test]
    fn wrong_settings_are_refused() {
        assert!(Config { data_shards: 0, ..config() }.check().is_err());
        assert!(Config { parity_shards: 9, ..config() }.check().is_err());
        assert!(Config { flush_time_ms: 0, ..config() }.check().is_err());
        let without_parity = Config { parity_shards: 0, ..config() };
        without_parity.check().unwrap();
        assert_eq!(without_parity.ship_quorum(), 4);
        for text in ["", "37b8", "37b8e8a308c354048d245f6", "37b8e8a308c354048d245f6dd", "ä"] {
            assert!(parse_nonce(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_shown_in_a_log_hold_no_key() {
        let shown = format!("{:?}", config());
        assert!(shown.contains("kids: [1]"), "{shown}");
        assert!(!shown.contains("[0, 1, 2, 3"), "{shown}");
    }
}
