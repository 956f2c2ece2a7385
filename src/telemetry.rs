//! The log of the process: text or JSON lines, to standard error or to a file.
//!
//! Levels: `error` means data at risk or a person needed, `warn` unexpected and carried on, `info` rare changes of
//! state, `debug` each request. Two lines are a contract with scripts, by their message: `listening <name>
//! <host:port>` (Kafka: with ` advertised <host:port>` behind it), one per socket, then `ready`.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The log of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its form.
    pub format: Format,
    /// Where; nothing = standard error.
    pub file: Option<PathBuf>,
    /// Each request too.
    pub debug: bool,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line of text per event.
    Text,
    /// A JSON object per line.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be written.
    #[error("logfile {path}: {source}; name a file that this user may write", path = .path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// As the system says.
        source: std::io::Error,
    },
    /// Somebody else has set up a log in this process.
    #[error("the log is set up already")]
    Twice,
}

/// Sets up the log, and has panics written to it.
///
/// # Errors
/// When the file cannot be opened, or on a second call.
pub fn init(config: &Config) -> Result<(), Error> {
    match &config.file {
        None => install(config, std::io::stderr)?,
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| Error::File { path: path.clone(), source })?;
            install(config, Mutex::new(file))?;
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a task panicked: this is a fault of the program");
    }));
    Ok(())
}

fn install<W>(config: &Config, writer: W) -> Result<(), Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false);
    let lines = match config.format {
        Format::Text => lines.with_writer(writer).boxed(),
        Format::Json => lines.json().flatten_event(true).with_writer(writer).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter(config.debug)))
        .try_init()
        .map_err(|_| Error::Twice)
}

/// Libraries speak from `warn` on: their `debug` can hold what we never log.
fn filter(debug: bool) -> Targets {
    let ours = if debug { Level::DEBUG } else { Level::INFO };
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("tlog", ours)
        .with_target("tlogserver", ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_ours_alone() {
        let filter = filter(true);
        assert!(filter.would_enable("tlog::server", &Level::DEBUG));
        assert!(!filter.would_enable("redis", &Level::INFO));
        assert!(!super::filter(false).would_enable("tlog::server", &Level::DEBUG));
        assert!(super::filter(false).would_enable("tlog::server", &Level::INFO));
    }
}
