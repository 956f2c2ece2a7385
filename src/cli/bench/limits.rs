//! What the machine could at best do: loopback, and write + fdatasync.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{noise, rate};
use crate::cli::failure::{Exit, Failure, file_failure};
use crate::disk::{Disk as _, DiskFile, FileDisk, OpenMode};

/// Written once beforehand, so that a sync has no new blocks or length to record.
pub(super) const FILE_BYTES: usize = 64 * 1024 * 1024;
/// Of each of the two.
const TIME: Duration = Duration::from_millis(500);

/// The limit of a path, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    pub(super) loopback: f64,
    pub(super) disk: f64,
}

impl Limit {
    /// All bytes pass both.
    pub(super) fn rate(self) -> f64 {
        self.loopback.min(self.disk)
    }
}

/// Holds the recycled file.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) file: Arc<dyn DiskFile>,
}

impl Limits {
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join("recycled");
        let create = || {
            let file = FileDisk.open(&path, OpenMode::CreateNew)?;
            file.write_all_at(&noise(FILE_BYTES), 0)?;
            file.sync()?;
            FileDisk.sync_dir(dir)?;
            Ok(file)
        };
        Ok(Self { file: create().map_err(file_failure("write", &path))? })
    }

    /// Messages of `message_bytes` over loopback, and a sync for each `sync_bytes`.
    pub(super) async fn measure(
        &self,
        message_bytes: usize,
        sync_bytes: usize,
    ) -> Result<Limit, Failure> {
        let file = Arc::clone(&self.file);
        let measured = tokio::task::spawn_blocking(move || {
            Ok(Limit { loopback: loopback(message_bytes)?, disk: disk(&*file, sync_bytes)? })
        });
        measured.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(|error| {
            Failure::new(Exit::Error, format!("cannot measure the limits: {error}"))
        })
    }
}

fn loopback(message_bytes: usize) -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let started = Instant::now();
    let sending = std::thread::spawn(move || {
        let message = noise(message_bytes);
        while started.elapsed() < TIME {
            sender.write_all(&message)?;
        }
        Ok::<_, std::io::Error>(())
    });
    let (mut buffer, mut received) = (vec![0; 256 * 1024], 0);
    loop {
        match receiver.read(&mut buffer)? {
            0 => break,
            bytes => received += bytes,
        }
    }
    let elapsed = started.elapsed();
    sending.join().unwrap_or_else(|_| Err(std::io::Error::other("the sender panicked")))?;
    Ok(rate(received, elapsed))
}

fn disk(file: &dyn DiskFile, sync_bytes: usize) -> std::io::Result<f64> {
    let sync_bytes = sync_bytes.min(FILE_BYTES);
    let data = noise(sync_bytes);
    let (mut at, mut written) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < TIME {
        if at + sync_bytes > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&data, at as u64)?;
        file.sync()?;
        at += sync_bytes;
        written += sync_bytes;
    }
    Ok(rate(written, started.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_limits_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits::new(dir.path()).unwrap();
        let limit = limits.measure(4096, 65536).await.unwrap();
        assert!(limit.loopback > 0.0 && limit.disk > 0.0);
        assert!(limit.rate() <= limit.loopback && limit.rate() <= limit.disk);
    }
}
