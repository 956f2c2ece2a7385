//! From settings to a [`Config`]: values are parsed, then checked against each other.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::Problem;
use super::options::{DEFAULT_KEY, Kind, Standing};
use super::secret::Secret;
use super::settings::{Origin, Setting, Settings};
use super::values::{HostPort, ServerAddress, parse_bytes, parse_switch, parse_time, parts};
use crate::telemetry;

/// Said where the key that everybody knows is taken: shards in directories are read by those who may read the directories.
pub const DEFAULT_KEY_NOTICE: &str = "shards are sealed with the compiled-in default key, which is public; give -priv-key for one of your own";

/// The whole configuration. `server` hands each layer its part by value.
#[derive(Debug)]
pub struct Config {
    /// Where TLog clients connect.
    pub tlog_address: HostPort,
    /// Blocks of an aggregation, at least 1.
    pub flush_size: u32,
    /// Longest age of an aggregation.
    pub flush_time: Duration,
    /// Block size where nothing else tells it; a power of two.
    pub block_size_bytes: u32,
    /// Where Kafka clients connect, at least one.
    pub kafka_listeners: Vec<KafkaListener>,
    /// Everything local.
    pub data_dir: PathBuf,
    /// Where shards go.
    pub storage: Storage,
    /// k, at least 1.
    pub data_shards: usize,
    /// m.
    pub parity_shards: usize,
    /// What the nonce of every shard is made from.
    pub base_nonce: [u8; 12],
    /// The master key as it was given: 32 bytes, 64 hex digits or `@path`.
    pub private_key: Secret,
    /// Whether that is the compiled-in one, which everybody knows.
    pub is_default_key: bool,
    /// The admin port.
    pub admin_address: HostPort,
    /// Requests, queues, held blocks, caches.
    pub memory_budget_bytes: u64,
    /// `-local-log-limit` in bytes; none: a share of what the disk has.
    pub local_log_limit_bytes: Option<u64>,
    /// How often retention is looked at.
    pub retention_check_interval: Duration,
    /// Bytes in a second that the scrubber reads; 0 is none.
    pub scrub_bytes_per_second: u64,
    /// From the begin of one pass of the scrubber to that of the next.
    pub scrub_interval: Duration,
    /// How long a stop may ship.
    pub stop_timeout: Duration,
    /// Two refusals become warnings.
    pub dev: bool,
    /// The log of the process.
    pub log: telemetry::Config,
    /// To be logged as warnings at start.
    pub notices: Vec<String>,
}

/// One of `-kafka-address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaListener {
    /// Empty for the one without a name.
    pub name: String,
    /// Where it listens.
    pub address: HostPort,
    /// What clients are told; nothing = derived from the bound address.
    pub advertised: Option<HostPort>,
}

/// Where shards go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A directory per shard index, k+m of them.
    Directories(Vec<PathBuf>),
    /// Redis servers, in the order given.
    Redis(Vec<ServerAddress>),
    /// Gone with the process.
    Memory,
}

/// Resolves all settings; what is wrong goes to `problems`, what is to be said at start to `notices`. Nothing is
/// returned only when there are problems.
pub fn resolve(
    settings: &Settings,
    notices: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let before = problems.len();
    let mut values = Values { settings, problems };
    values.check_standing();
    let config = values.config();
    if let Some(config) = &config {
        check_together(config, settings, notices, problems);
    }
    config.filter(|_| problems.len() == before)
}

struct Values<'a> {
    settings: &'a Settings,
    problems: &'a mut Vec<Problem>,
}

impl Values<'_> {
    fn check_standing(&mut self) {
        for setting in self.settings.iter() {
            let spec = setting.spec;
            match spec.standing {
                Standing::Acts => {}
                Standing::Later(cure) if !is_harmless(setting) => {
                    self.problems.push(Problem::Later {
                        name: spec.name,
                        origin: setting.origin.clone(),
                        cure,
                    });
                }
                Standing::Later(_) => {}
            }
        }
    }

    fn config(&mut self) -> Option<Config> {
        let base_nonce = self.nonce();
        let shards = (self.whole("k"), self.whole("m"));
        let (data, parity) = (shards.0? as usize, shards.1? as usize);
        let tlog_address = self.tlog_address();
        let admin_address = self.parsed("admin-address", str::parse);
        let flush_size = self.whole("flush-size");
        let flush_time = self.time("flush-time");
        let block_size = self.block_size();
        let kafka_listeners = self.kafka_listeners();
        let data_dir = self.path("data-dir");
        let storage = self.storage(data + parity);
        let memory_budget_bytes = self.bytes("memory-budget");
        let local_log_limit_bytes = match self.settings.get("local-log-limit").raw() {
            "" => Some(None),
            _ => self.bytes("local-log-limit").map(Some),
        };
        let retention_check_interval = self.time("retention-check-interval");
        let scrub_bytes_per_second = self.bytes("scrub-rate");
        let scrub_interval = self.time("scrub-interval");
        let stop_timeout = self.time("stop-timeout");
        let dev = self.switch("dev");
        let log = self.log();
        let key = self.settings.get("priv-key");
        let flush_size = match flush_size? {
            0 => 25,
            size => size,
        };
        Some(Config {
            tlog_address: tlog_address?,
            flush_size: u32::try_from(flush_size).ok()?,
            flush_time: flush_time?,
            block_size_bytes: block_size?,
            kafka_listeners: kafka_listeners?,
            data_dir: data_dir?,
            storage: storage?,
            data_shards: data,
            parity_shards: parity,
            base_nonce: base_nonce?,
            private_key: Secret::new(key.raw().to_owned()),
            is_default_key: key.raw() == DEFAULT_KEY,
            admin_address: admin_address?,
            memory_budget_bytes: memory_budget_bytes?,
            local_log_limit_bytes: local_log_limit_bytes?,
            retention_check_interval: retention_check_interval?,
            scrub_bytes_per_second: scrub_bytes_per_second?,
            scrub_interval: scrub_interval?,
            stop_timeout: stop_timeout?,
            dev: dev?,
            log: log?,
            notices: Vec::new(),
        })
    }

    fn invalid(&mut self, setting: &Setting, value: &str, expected: impl Into<String>) {
        let value = if setting.spec.is_secret() { setting.shown() } else { value };
        self.problems.push(Problem::InvalidValue {
            name: setting.spec.name,
            origin: setting.origin.clone(),
            value: value.to_owned(),
            expected: expected.into(),
        });
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let setting = self.settings.get(name);
        match parse(setting.raw()) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.invalid(setting, setting.raw(), expected);
                None
            }
        }
    }

    fn switch(&mut self, name: &str) -> Option<bool> {
        self.parsed(name, parse_switch)
    }

    fn whole(&mut self, name: &str) -> Option<u64> {
        let setting = self.settings.get(name);
        let Kind::Whole { min, max } = setting.spec.kind else {
            unreachable!("{name} is a whole number in the table");
        };
        let value = setting.raw().parse().ok().filter(|value| (min..=max).contains(value));
        if value.is_none() {
            self.invalid(setting, setting.raw(), format!("a whole number from {min} to {max}"));
        }
        value
    }

    fn bytes(&mut self, name: &str) -> Option<u64> {
        let bytes = self.parsed(name, parse_bytes)?;
        let setting = self.settings.get(name);
        match setting.spec.kind {
            Kind::Bytes { min } if bytes < min => {
                self.invalid(setting, setting.raw(), format!("at least {} MiB", min >> 20));
                None
            }
            _ => Some(bytes),
        }
    }

    /// None after a problem.
    fn time(&mut self, name: &str) -> Option<Duration> {
        let time = self.parsed(name, parse_time)?;
        let setting = self.settings.get(name);
        let Kind::Time { min_ms, max_ms } = setting.spec.kind else {
            unreachable!("{name} is a time in the table");
        };
        if (u128::from(min_ms)..=u128::from(max_ms)).contains(&time.as_millis()) {
            return Some(time);
        }
        self.invalid(setting, setting.raw(), format!("from {min_ms} ms to {} s", max_ms / 1000));
        None
    }

    /// An empty one is a free port of 127.0.0.1.
    fn tlog_address(&mut self) -> Option<HostPort> {
        if self.settings.get("address").raw().is_empty() {
            return Some(HostPort { host: "127.0.0.1".to_owned(), port: 0 });
        }
        self.parsed("address", str::parse)
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        let not_empty = |text: &str| if text.is_empty() { Err("a path") } else { Ok(text.into()) };
        self.parsed(name, not_empty)
    }

    fn list<T: FromStr<Err = &'static str>>(&mut self, name: &str) -> Option<Vec<T>> {
        let setting = self.settings.get(name);
        let mut all = Vec::new();
        for part in parts(setting.raw()) {
            match part.parse() {
                Ok(value) => all.push(value),
                Err(expected) => {
                    self.invalid(setting, part, expected);
                    return None;
                }
            }
        }
        Some(all)
    }

    fn nonce(&mut self) -> Option<[u8; 12]> {
        self.parsed("nonce", |text| {
            let mut nonce = [0; 12];
            let is_hex = text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit());
            for (index, byte) in nonce.iter_mut().enumerate().filter(|_| is_hex) {
                let digits = &text[2 * index..2 * index + 2];
                *byte = u8::from_str_radix(digits, 16).map_err(|_| "24 hex digits")?;
            }
            if is_hex { Ok(nonce) } else { Err("24 hex digits") }
        })
    }

    fn block_size(&mut self) -> Option<u32> {
        let size = self.whole("block-size")?;
        if size.is_power_of_two() {
            return u32::try_from(size).ok();
        }
        let setting = self.settings.get("block-size");
        self.invalid(setting, setting.raw(), "a power of two");
        None
    }

    fn log(&mut self) -> Option<telemetry::Config> {
        let format = self.parsed("log-format", |text| match text {
            "text" => Ok(telemetry::Format::Text),
            "json" => Ok(telemetry::Format::Json),
            _ => Err("text or json"),
        });
        let debug = self.switch("v");
        let file = Some(self.settings.get("logfile").raw()).filter(|path| !path.is_empty());
        Some(telemetry::Config { format: format?, file: file.map(PathBuf::from), debug: debug? })
    }

    fn kafka_listeners(&mut self) -> Option<Vec<KafkaListener>> {
        let listeners = self.list::<Named>("kafka-address")?;
        let advertised = self.list::<Named>("kafka-advertised-address")?;
        if listeners.is_empty() {
            self.problems.push(Problem::NoKafkaListener);
        }
        for (option, list) in
            [("kafka-address", &listeners), ("kafka-advertised-address", &advertised)]
        {
            for (i, one) in list.iter().enumerate() {
                if list.iter().take(i).any(|other| other.name == one.name) {
                    let name = one.name.clone();
                    self.problems.push(Problem::ListenerTwice { option, name });
                }
            }
        }
        for one in &advertised {
            if one.address.is_wildcard() || one.address.port == 0 {
                let address = one.address.to_string();
                self.problems.push(Problem::UselessAdvertised { address });
            }
            if !listeners.iter().any(|listener| listener.name == one.name) {
                self.problems.push(Problem::UnknownListener { name: one.name.clone() });
            }
        }
        let told = |name: &str| {
            advertised.iter().find(|one| one.name == name).map(|one| one.address.clone())
        };
        let with_advertised = |one: Named| KafkaListener {
            advertised: told(&one.name),
            name: one.name,
            address: one.address,
        };
        Some(listeners.into_iter().map(with_advertised).collect())
    }

    fn storage(&mut self, shards: usize) -> Option<Storage> {
        let memory = self.switch("memorystorage")?;
        let servers = self.list::<ServerAddress>("storage-addresses")?;
        let directories: Vec<PathBuf> =
            parts(self.settings.get("storage-dir").raw()).map(PathBuf::from).collect();
        let homes = [
            ("memorystorage", memory),
            ("storage-addresses", !servers.is_empty()),
            ("storage-dir", !directories.is_empty()),
        ];
        let mut given = homes.iter().filter(|(_, is_given)| *is_given);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            self.problems.push(Problem::Exclude {
                first: self.settings.get(first).named(),
                second: self.settings.get(second).named(),
            });
            return None;
        }
        if memory {
            return Some(Storage::Memory);
        }
        if !servers.is_empty() {
            return Some(Storage::Redis(servers));
        }
        let numbered = |base: PathBuf| (0..shards).map(|i| base.join(i.to_string())).collect();
        let mut directories = directories.into_iter();
        match (directories.next(), directories.len() + 1) {
            (None, _) => {
                let data_dir = PathBuf::from(self.settings.get("data-dir").raw());
                Some(Storage::Directories(numbered(data_dir.join("shards"))))
            }
            (Some(base), 1) => Some(Storage::Directories(numbered(base))),
            (Some(first), count) if count == shards => {
                self.distinct_directories([first].into_iter().chain(directories).collect())
            }
            (Some(_), given) => {
                self.problems.push(Problem::DirectoryCount { given, needed: shards });
                None
            }
        }
    }

    fn distinct_directories(&mut self, all: Vec<PathBuf>) -> Option<Storage> {
        let twice =
            all.iter().enumerate().find(|(i, path)| all.iter().take(*i).any(|p| p == *path));
        if let Some((_, path)) = twice {
            self.problems.push(Problem::SameDirectory { path: path.clone() });
            return None;
        }
        Some(Storage::Directories(all))
    }
}

/// `[NAME=]host:port`.
struct Named {
    name: String,
    address: HostPort,
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, address) = text.split_once('=').unwrap_or(("", text));
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            return Err("[NAME=]host:port with a name of letters, digits, - and _");
        }
        Ok(Self { name: name.to_owned(), address: address.parse()? })
    }
}

/// Whether an option of a later version asks for nothing.
fn is_harmless(setting: &Setting) -> bool {
    let off = setting.spec.kind == Kind::Switch && parse_switch(setting.raw()) == Ok(false);
    off || setting.raw().is_empty() || setting.raw() == setting.spec.default
}

fn check_together(
    config: &Config,
    settings: &Settings,
    notices: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    if config.dev {
        notices.push("dev is on: a trivial key and too few servers are taken".to_owned());
    }
    let mut refuse_unless_dev = |problem: Problem| {
        if config.dev {
            notices.push(problem.to_string());
        } else {
            problems.push(problem);
        }
    };
    if let Storage::Redis(servers) = &config.storage {
        let needed = config.data_shards + config.parity_shards;
        if servers.len() < needed {
            let given = servers.len();
            let guess = guessed_servers(servers, needed);
            refuse_unless_dev(Problem::TooFewServers { given, needed, guess });
        }
        let shared = |(i, one): &(usize, &ServerAddress)| {
            servers.iter().take(*i).any(|other| other.address == one.address)
        };
        if let Some((_, one)) = servers.iter().enumerate().find(shared) {
            refuse_unless_dev(Problem::SharedServer { address: one.address.to_string() });
        }
        if config.is_default_key {
            refuse_unless_dev(Problem::DefaultKey);
        }
        let same = |(i, one): &(usize, &ServerAddress)| servers.iter().take(*i).any(|o| o == *one);
        if let Some((_, one)) = servers.iter().enumerate().find(same) {
            problems.push(Problem::SameServer { address: one.to_string() });
        }
    } else if config.is_default_key {
        notices.push(DEFAULT_KEY_NOTICE.to_owned());
    }
    let key = settings.get("priv-key");
    if key.origin == Origin::Flag && !key.raw().starts_with('@') && !config.is_default_key {
        notices.push(format!(
            "{} shows in the process list of this machine; give @PATH, or TLOG_PRIV_KEY_FILE",
            key.named()
        ));
    }
    if config.parity_shards == 0 {
        notices.push("m is 0: no shard may be lost".to_owned());
    }
    open_doors(config, settings, notices);
}

/// The original filled up with the following ports of the last host.
fn guessed_servers(servers: &[ServerAddress], needed: usize) -> String {
    let mut all: Vec<String> = servers.iter().map(ToString::to_string).collect();
    if let Some(last) = servers.last() {
        let mut port = last.address.port;
        while all.len() < needed {
            let Some(next) = port.checked_add(1) else { break };
            port = next;
            all.push(HostPort { host: last.address.host.clone(), port }.to_string());
        }
    }
    all.join(",")
}

/// Says which ports strangers can reach: nothing asks for a password yet.
fn open_doors(config: &Config, settings: &Settings, notices: &mut Vec<String>) {
    let mut open = |option: &str, address: &HostPort| {
        if !address.is_loopback() {
            notices.push(format!(
                "{} listens on {address}, without authentication: whoever reaches it reads and writes",
                settings.get(option).named()
            ));
        }
    };
    open("address", &config.tlog_address);
    for listener in &config.kafka_listeners {
        open("kafka-address", &listener.address);
    }
}
