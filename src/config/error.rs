//! Why a configuration is not taken.

use std::path::PathBuf;

use super::options::Places;
use super::settings::Origin;

/// Every problem that was found, not just the first.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Error {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Error {
    /// 64 when the command line itself cannot be read, else 78.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.problems.iter().any(Problem::is_usage) { 64 } else { 78 }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// One thing that is wrong, with its cure.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A flag that the table lacks.
    #[error("unknown flag {flag}{}", nearest_words(.nearest, "-"))]
    UnknownFlag {
        /// As typed.
        flag: String,
        /// Closest name of the table.
        nearest: Option<String>,
    },
    /// A flag at the end of the line.
    #[error("-{name} needs a value: -{name} {placeholder}")]
    MissingValue {
        /// Name of the flag.
        name: &'static str,
        /// What would stand there.
        placeholder: &'static str,
    },
    /// A word that belongs to no flag.
    #[error(
        "unexpected argument `{argument}`: options begin with a dash; a switch takes its value by =, as in -dev=false"
    )]
    UnexpectedArgument {
        /// As typed.
        argument: String,
    },
    /// Bytes that are not text.
    #[error("{place} is not UTF-8 text")]
    NotText {
        /// Which argument or variable.
        place: String,
        /// Whether it is an argument.
        is_argument: bool,
    },
    /// A value that its kind does not take.
    #[error("{origin}: {name} is `{value}`, expected {expected}")]
    InvalidValue {
        /// The option.
        name: &'static str,
        /// Where it was given.
        origin: Origin,
        /// As given; hidden when secret.
        value: String,
        /// What would be taken.
        expected: String,
    },
    /// An option that acts in a later version.
    #[error("{origin}: {name} is not built yet; {cure}")]
    Later {
        /// The option.
        name: &'static str,
        /// Where it was given.
        origin: Origin,
        /// What to do instead.
        cure: &'static str,
    },
    /// An option that may not be given there.
    #[error("{origin}: {name} can be given {} only", places_words(*.places))]
    WrongPlace {
        /// The option.
        name: &'static str,
        /// Where it may be given.
        places: Places,
        /// Where it was given.
        origin: Origin,
    },
    /// The file cannot be read.
    #[error("{path}: {source}; -config= (empty) starts without a file", path = .path.display())]
    UnreadableFile {
        /// The file.
        path: PathBuf,
        /// As the system says.
        source: std::io::Error,
    },
    /// `-config` names etcd servers.
    #[error(
        "-config {value}: configuration from etcd is not built yet; write it to a file and name that"
    )]
    Etcd {
        /// As given.
        value: String,
    },
    /// The file is not the YAML that it should be.
    #[error("{path}: {message}", path = .path.display())]
    UnparsableFile {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A top-level key that is neither ours nor the original's.
    #[error("{path}: unknown section `{key}`{}", nearest_words(.nearest, ""), path = .path.display())]
    UnknownSection {
        /// The file.
        path: PathBuf,
        /// As written.
        key: String,
        /// Closest known one.
        nearest: Option<String>,
    },
    /// A key of `tlogserver:` that the table lacks.
    #[error("{path}: unknown key `tlogserver.{key}`{}", nearest_words(.nearest, "tlogserver."), path = .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// As written.
        key: String,
        /// Closest name of the table.
        nearest: Option<String>,
    },
    /// A section of the original that does not act yet.
    #[error("{path}: section `{section}` is not read yet; {cure}", path = .path.display())]
    OriginalSection {
        /// The file.
        path: PathBuf,
        /// Its name.
        section: &'static str,
        /// What to do instead.
        cure: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{first} and {second} exclude each other: shards have one home; give one of them")]
    Exclude {
        /// One, with its origin.
        first: String,
        /// The other.
        second: String,
    },
    /// The key twice in the environment.
    #[error("{first} and {second} both give the key; unset one of them")]
    TwoKeys {
        /// One variable.
        first: String,
        /// The other.
        second: String,
    },
    /// Not enough redis servers.
    #[error(
        "storage-addresses names {given} servers, k+m = {needed} are needed, each a server of its own; if the \
         original was run with these, it took the following ports of the last host: -storage-addresses {guess} \
         (-dev starts with fewer)"
    )]
    TooFewServers {
        /// How many were given.
        given: usize,
        /// k+m.
        needed: usize,
        /// What the original would have used.
        guess: String,
    },
    /// Two shards on one redis server.
    #[error(
        "storage-addresses names {address} more than once: to lose that server would lose several shards; give \
         servers of their own (-dev starts all the same)"
    )]
    SharedServer {
        /// The server.
        address: String,
    },
    /// The same database twice.
    #[error("storage-addresses names {address} twice; leave one out")]
    SameServer {
        /// The server and database.
        address: String,
    },
    /// Directories that are neither one nor k+m.
    #[error(
        "storage-dir names {given} directories; give one (for all shards) or k+m = {needed}, one per disk"
    )]
    DirectoryCount {
        /// How many were given.
        given: usize,
        /// k+m.
        needed: usize,
    },
    /// The same directory twice.
    #[error("storage-dir names {} twice; a shard needs a directory of its own", .path.display())]
    SameDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The key that everybody knows, on servers that others reach.
    #[error(
        "the compiled-in default key is public, and shards on redis servers would lie open with it; give a key of \
         your own: head -c 32 /dev/urandom | xxd -p -c 64 > tlog.key && chmod 600 tlog.key, then -priv-key \
         @tlog.key (-dev starts all the same)"
    )]
    DefaultKey,
    /// No Kafka listener.
    #[error("kafka-address names no address; give at least one, as localhost:9092")]
    NoKafkaListener,
    /// Two listeners of one name.
    #[error("{option} gives the listener `{name}` twice; tell them apart by NAME=host:port")]
    ListenerTwice {
        /// `kafka-address` or `kafka-advertised-address`.
        option: &'static str,
        /// The name, empty for the one without.
        name: String,
    },
    /// An advertised address for no listener.
    #[error(
        "kafka-advertised-address names the listener `{name}`, which kafka-address does not have"
    )]
    UnknownListener {
        /// The name, empty for the one without.
        name: String,
    },
    /// An advertised address that nobody can connect to.
    #[error(
        "kafka-advertised-address {address}: no client can connect to that; give a host and port that clients reach"
    )]
    UselessAdvertised {
        /// As given.
        address: String,
    },
}

impl Problem {
    /// Whether the command line itself is at fault.
    fn is_usage(&self) -> bool {
        match self {
            Self::UnknownFlag { .. }
            | Self::MissingValue { .. }
            | Self::UnexpectedArgument { .. } => true,
            Self::NotText { is_argument, .. } => *is_argument,
            Self::InvalidValue { origin, .. } => *origin == Origin::Flag,
            _ => false,
        }
    }
}

fn places_words(places: Places) -> &'static str {
    match places {
        Places::FlagOnly => "as a flag",
        Places::NotInFile => "as a flag or variable",
        Places::All => "as a flag, variable or in the file",
    }
}

fn nearest_words(nearest: &Option<String>, prefix: &str) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {prefix}{name}?")).unwrap_or_default()
}

/// The name that is closest to what was typed, if it is close at all.
pub fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    // A third of the letters may be wrong: more is another word.
    let most = (typed.chars().count() / 3).max(1);
    names
        .map(|name| (distance(typed, name), name))
        .filter(|(far, name)| *far <= most && name.len() > 1)
        .min()
        .map(|(_, name)| name.to_owned())
}

/// Letters to insert, remove or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let changed = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = changed.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn only_a_close_name_is_proposed() {
        let names = ["flush-size", "flush-time", "k"];
        assert_eq!(nearest("flsh-size", names.into_iter()).as_deref(), Some("flush-size"));
        assert_eq!(nearest("flushtime", names.into_iter()).as_deref(), Some("flush-time"));
        assert_eq!(nearest("banana", names.into_iter()), None);
        assert_eq!(nearest("x", names.into_iter()), None);
    }
}
