//! What a data directory is: its format, its identity and the cluster that it belongs to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::error::OpenError;
use crate::disk::{Disk, Reserve};
use crate::types::{ClusterId, DataDirId, limits};

/// The newest format that this release reads and the one it writes.
const FORMAT: u32 = 1;
const LARGEST_BYTES: u64 = 64 * 1024;

/// The content of `format.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FormatFile {
    format: u32,
    made_by: String,
    data_dir: DataDirId,
    cluster: ClusterId,
}

/// A data directory that was looked at, before anything in it is opened.
#[derive(Debug, Clone)]
pub struct DataDir {
    /// The file system it lies on.
    pub disk: Arc<dyn Disk>,
    /// Room of it that is held back, see [`Reserve::disk`].
    pub reserve: Arc<Reserve>,
    /// Where.
    pub path: PathBuf,
    /// Its identity.
    pub id: DataDirId,
    /// The cluster that it belongs to; `None` while it is new.
    pub cluster: Option<ClusterId>,
}

impl DataDir {
    /// Looks at the directory at `path`, creating it where there is none. `random` becomes the identity of a new one.
    ///
    /// # Errors
    /// [`OpenError::Io`], [`OpenError::Format`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path, random: [u8; 16]) -> Result<Self, OpenError> {
        let io = |op, source| OpenError::Io { op, path: path.display().to_string(), source };
        disk.create_dir_all(path).map_err(|source| io("create", source))?;
        // A process killed in its first start may have made the directory without this.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        disk.sync_dir(parent.unwrap_or(Path::new("."))).map_err(|source| io("sync", source))?;
        let reserve =
            Reserve::find(Arc::clone(&disk), path.join("reserve"), reserve_bytes(&*disk, path));
        let reserve = Arc::new(reserve.map_err(|source| io("look for the reserve of", source))?);
        let file = path.join("format.json");
        let is_there = |path: &Path| disk.exists(path).map_err(|source| io("look at", source));
        if !is_there(&file)? {
            let left = ["meta/checkpoint", "meta/checkpoint.copy", "commitlog"];
            for left in left {
                if is_there(&path.join(left))? {
                    // A new identity would make what is there another's.
                    return Err(OpenError::Format {
                        path: file.display().to_string(),
                        what: format!(
                            "it is missing, and there is {left}: restore it, or take an empty data directory"
                        ),
                    });
                }
            }
            let id = DataDirId::from_random(random);
            return Ok(Self { disk, reserve, path: path.to_owned(), id, cluster: None });
        }
        let refuse = |what: String| OpenError::Format { path: file.display().to_string(), what };
        let bytes = disk.read_all(&file, LARGEST_BYTES).map_err(|source| io("read", source))?;
        let content: FormatFile =
            serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        if content.format > FORMAT {
            return Err(refuse(format!(
                "it has format {}, this release knows {FORMAT}; start the release that wrote it",
                content.format
            )));
        }
        Ok(Self {
            disk,
            reserve,
            path: path.to_owned(),
            id: content.data_dir,
            cluster: Some(content.cluster),
        })
    }

    /// Whether a broker ever got as far as to keep state here. A first start that was cut short did not, and what it would
    /// have taken over from the shard servers is taken over by the next one.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn holds_state(&self) -> Result<bool, OpenError> {
        let path = super::recovery::checkpoint_path(&self.path);
        let found = Checkpoint::is_there(&*self.disk, &path);
        found.map_err(|source| OpenError::Io {
            op: "look for",
            path: path.display().to_string(),
            source,
        })
    }

    /// Says for ever that the directory belongs to `cluster`. Durable on return.
    ///
    /// # Errors
    /// [`OpenError::Io`]; [`OpenError::OtherCluster`] when it belongs to another already.
    pub fn settle(&mut self, cluster: ClusterId) -> Result<(), OpenError> {
        match self.cluster {
            Some(local) if local == cluster => return Ok(()),
            Some(local) => return Err(OpenError::OtherCluster { local, servers: cluster }),
            None => {}
        }
        let content = FormatFile {
            format: FORMAT,
            made_by: concat!("tlog ", env!("CARGO_PKG_VERSION")).to_owned(),
            data_dir: self.id,
            cluster,
        };
        let path = self.path.join("format.json");
        serde_json::to_vec_pretty(&content)
            .map_err(std::io::Error::from)
            .and_then(|bytes| self.disk.replace(&path, &bytes))
            .map_err(|source| OpenError::Io {
                op: "write",
                path: path.display().to_string(),
                source,
            })?;
        self.cluster = Some(cluster);
        Ok(())
    }
}

/// Size of the reserve on the file system of `path`. One that does not tell its own gets the least, once it tells that there
/// is room.
fn reserve_bytes(disk: &dyn Disk, path: &Path) -> u64 {
    let total = disk.space(path).map_or(0, |space| space.total_bytes);
    (total / limits::DISK_RESERVE_SHARE)
        .clamp(limits::DISK_RESERVE_LEAST_BYTES, limits::DISK_RESERVE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    #[test]
    fn identity_and_cluster_stay_once_settled() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let open = |random| DataDir::open(Arc::new(FileDisk), &path, [random; 16]).unwrap();
        let cluster = ClusterId::from_random([9; 16]);
        let mut first = open(1);
        first.settle(cluster).unwrap();
        let mut again = open(2);
        assert_eq!((again.id, again.cluster), (first.id, Some(cluster)));
        again.settle(cluster).unwrap();
        let other = ClusterId::from_random([8; 16]);
        assert!(matches!(again.settle(other), Err(OpenError::OtherCluster { .. })));
    }

    #[test]
    fn state_without_its_identity_is_refused_and_left_as_it_is() {
        for left in ["meta/checkpoint", "commitlog/file"] {
            let root = tempfile::tempdir().unwrap();
            let left = root.path().join(left);
            std::fs::create_dir_all(left.parent().unwrap()).unwrap();
            std::fs::write(left, b"x").unwrap();
            let error = DataDir::open(Arc::new(FileDisk), root.path(), [0; 16]).unwrap_err();
            assert!(error.to_string().contains("restore it"), "{error}");
            assert!(!root.path().join("format.json").exists());
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_the_cure() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("format.json");
        let id = "00112233445566778899aabbccddeeff";
        let text = format!(r#"{{"format":2,"made_by":"x","data_dir":"{id}","cluster":"{id}"}}"#);
        std::fs::write(file, text).unwrap();
        let error = DataDir::open(Arc::new(FileDisk), root.path(), [0; 16]).unwrap_err();
        assert!(error.to_string().contains("start the release that wrote it"), "{error}");
    }
}
