//! What recovery keeps aside: records of the commit log whose partition cannot be opened.
//!
//! ```text
//!   <data-dir>/t-0/ …                      cannot be opened; nothing in it is changed          [ 0 ··· 719 | ? ]
//!   <data-dir>/aside/<topic id>-0/ …       a log of its own, see log/                                      [ 720 ··· 801 ]
//!   checkpoint                             says that the partition ends at 802, and the commit log is freed
//! ```
//!
//! The log aside begins at the recovery point that the partition had when it could not be opened, and ends where the
//! checkpoint says that the partition ends, for nothing is appended meanwhile. A later start that can open the directory
//! cuts it at the beginning of the log aside, appends that, syncs, writes its checkpoint, and only then removes the log
//! aside, by its name first, and before anyone is served: so it is there whole, or what it held is where it belongs. One
//! whose partition is gone, or that a crash left empty-handed, goes with the next checkpoint of recovery.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::OpenError;
use crate::disk::Disk;
use crate::log::{self, Log};
use crate::types::{Offset, TopicPartition};
use crate::{clock, log::Config};

/// So much is moved at a time, one batch at least.
const PIECE_BYTES: usize = 4 << 20;

/// End of the name of a log that is being removed.
const GONE: &str = ".gone";

/// The logs aside of a data directory.
#[derive(Debug)]
pub(super) struct Aside {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    names: HashSet<String>,
}

/// Directory of the log aside of a partition.
pub(super) fn aside_dir(data_dir: &Path, id: TopicPartition) -> PathBuf {
    root(data_dir).join(name(id))
}

fn root(data_dir: &Path) -> PathBuf {
    data_dir.join("aside")
}

fn name(id: TopicPartition) -> String {
    format!("{}-{}", id.topic, id.partition)
}

impl Aside {
    /// What an earlier start left.
    pub(super) fn find(disk: &Arc<dyn Disk>, data_dir: &Path) -> Result<Self, OpenError> {
        let root = root(data_dir);
        let names = match disk.list(&root) {
            Ok(names) => names.into_iter().collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => HashSet::new(),
            Err(error) => return Err(io("list", &root, error)),
        };
        Ok(Self { disk: Arc::clone(disk), root, names })
    }

    /// Where the log aside of a partition that ends at `log_end` begins, if there is one.
    pub(super) fn begins(
        &self,
        id: TopicPartition,
        log_end: Offset,
    ) -> Result<Option<Offset>, OpenError> {
        if !self.names.contains(&name(id)) {
            return Ok(None);
        }
        let dir = self.root.join(name(id));
        let first = log::first_offset_in(&*self.disk, &dir).map_err(|it| io("list", &dir, it))?;
        // What begins there or above was on its way when a crash came, and is in the commit log.
        Ok(first.filter(|first| *first < log_end))
    }

    /// Opens the log aside of a partition, to which replay appends what the partition itself cannot take.
    pub(super) fn open(
        &self,
        id: TopicPartition,
        (from, log_end): (Offset, Offset),
        config: Config,
    ) -> Result<Log, log::Error> {
        Log::open(Arc::clone(&self.disk), self.root.join(name(id)), id, from, log_end, config)
    }

    /// Removes, durably, every log aside but those of `kept`.
    pub(super) fn keep_only(&self, kept: &HashSet<TopicPartition>) -> Result<(), OpenError> {
        let Self { disk, root, .. } = self;
        let kept: HashSet<String> = kept.iter().copied().map(name).collect();
        let mut left = match disk.list(root) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io("list", root, error)),
        };
        left.retain(|name| !kept.contains(name));
        for name in &left {
            let (path, mut gone) = (root.join(name), root.join(name));
            if !name.ends_with(GONE) {
                // At once as a whole: a part of it would be taken for damage.
                gone = root.join(format!("{name}{GONE}"));
                disk.remove_dir_all(&gone).map_err(|it| io("remove", &gone, it))?;
                disk.rename(&path, &gone).map_err(|it| io("rename", &path, it))?;
                disk.sync_dir(root).map_err(|it| io("sync", root, it))?;
            }
            disk.remove_dir_all(&gone).map_err(|it| io("remove", &gone, it))?;
        }
        if left.is_empty() {
            Ok(())
        } else {
            disk.sync_dir(root).map_err(|it| io("sync", root, it))
        }
    }
}

/// Appends to `log`, which ends where `aside` begins, all that `aside` has below `log_end`.
pub(super) fn move_back(aside: &Log, log: &mut Log, log_end: Offset) -> Result<(), log::Error> {
    let reader = aside.reader();
    let now_ms = clock::wall_ms();
    while log.end_offset() < log_end {
        log.append(&reader.read(log.end_offset(), log_end, PIECE_BYTES)?, now_ms)?;
    }
    Ok(())
}

fn io(op: &'static str, path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { op, path: path.display().to_string(), source }
}
