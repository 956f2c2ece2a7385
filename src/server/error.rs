//! Why the server does not run, or no longer.

use std::io;
use std::path::PathBuf;

use crate::config::HostPort;
use crate::disk::is_no_room;
use crate::types::in_words;

/// Why the server ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the data directory.
    #[error(
        "{path} is in use by process {holder}; stop that one, or give this one another -data-dir",
        path = .path.display()
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Its process id, `?` when it did not write one.
        holder: String,
    },
    /// The data directory cannot be used.
    #[error("data directory {path}: {source}; {cure}", path = .path.display(), cure = data_dir_cure(.source))]
    DataDir {
        /// The path at fault.
        path: PathBuf,
        /// As the system says.
        source: io::Error,
    },
    /// A listening socket cannot be had.
    #[error("{name} cannot listen on {address}: {source}; {cure}", cure = listen_cure(.source, .option))]
    Listen {
        /// Which listener.
        name: String,
        /// As configured.
        address: HostPort,
        /// The option that gives it.
        option: &'static str,
        /// As the system says.
        source: io::Error,
    },
    /// The system gives no signal handlers.
    #[error("cannot listen to signals: {source}")]
    Signals {
        /// As the system says.
        source: io::Error,
    },
    /// A part refuses the configuration.
    #[error("{}", in_words(.source.as_ref()))]
    Refused {
        /// Which setting and why, with the cure.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part cannot start.
    #[error("{part}: {}", in_words(.source.as_ref()))]
    Part {
        /// Which part.
        part: &'static str,
        /// 1, or one of the codes that say more: 2 damaged, 12 wrong key.
        exit_code: u8,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A front end ended although nobody had asked it to.
    #[error("the front end {name} ended by itself")]
    Ended {
        /// Which one.
        name: &'static str,
    },
    /// A second signal.
    #[error("stopped at once by a second signal; what was left is in the local log")]
    StoppedAtOnce,
}

fn data_dir_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_no_room(error) => {
            "free some space or inodes there, or give -data-dir a directory of another file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount that file system for writing, or give another -data-dir"
        }
        _ => {
            "it must be a directory that this user may write: give another -data-dir, or its rights to this user"
        }
    }
}

fn listen_cure(error: &io::Error, option: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("free the port or give -{option} another one"),
        io::ErrorKind::NotFound => format!(
            "give -{option} an address of this machine, or a name that this machine resolves to one"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("give -{option} an address of this machine; 0.0.0.0 stands for all it has")
        }
        io::ErrorKind::PermissionDenied => {
            format!("give -{option} a port from 1024 on, or this user the right to lower ones")
        }
        _ => format!("give -{option} another address"),
    }
}

impl Error {
    /// The exit code of the process: 11 locked, 78 configuration refused, a part's own, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked { .. } => 11,
            Self::Refused { .. } => 78,
            Self::Part { exit_code, .. } => *exit_code,
            Self::DataDir { .. }
            | Self::Listen { .. }
            | Self::Signals { .. }
            | Self::Ended { .. }
            | Self::StoppedAtOnce => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(kind: io::ErrorKind) -> String {
        let address = "disk.example:9092".parse().unwrap();
        let (name, option) = ("kafka".to_owned(), "kafka-address");
        Error::Listen { name, address, option, source: kind.into() }.to_string()
    }

    #[test]
    fn the_cure_fits_what_the_system_said() {
        assert!(listen(io::ErrorKind::AddrInUse).contains("free the port"));
        assert!(listen(io::ErrorKind::NotFound).contains("resolves"));
        let foreign = listen(io::ErrorKind::AddrNotAvailable);
        assert!(foreign.contains("an address of this machine"), "{foreign}");
        assert!(!foreign.contains("free the port"), "{foreign}");
        let data_dir = |kind: io::ErrorKind| {
            Error::DataDir { path: PathBuf::from("/data/LOCK"), source: kind.into() }.to_string()
        };
        assert!(data_dir(io::ErrorKind::StorageFull).contains("free some space"));
        assert!(data_dir(io::ErrorKind::ReadOnlyFilesystem).contains("for writing"));
        assert!(data_dir(io::ErrorKind::PermissionDenied).contains("this user may write"));
    }
}
