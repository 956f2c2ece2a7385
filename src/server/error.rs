//! Why the server does not run, or no longer.

use std::io;
use std::path::PathBuf;

use crate::config::HostPort;
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
    #[error("data directory {path}: {source}; it must be a directory that this user may write, on a file system with room", path = .path.display())]
    DataDir {
        /// The path at fault.
        path: PathBuf,
        /// As the system says.
        source: io::Error,
    },
    /// A listening socket cannot be had.
    #[error(
        "{name} cannot listen on {address}: {source}; free the port or give -{option} another one"
    )]
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
