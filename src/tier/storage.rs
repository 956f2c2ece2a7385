//! From settings to stores and keys: what the server and the offline commands begin with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::encryption::{FIRST_KID, KeyRing, KeySource, MasterKey, parse_key};
use super::error::KeyError;
use super::store::addresses::Address;
use super::store::{DirectoryStore, MemoryStore, RedisConfig, RedisStore, ShardStore, StoreError};
use crate::disk::{Disk, Reserve};

/// More than a key file holds.
const KEY_FILE_BYTES: u64 = 4096;

/// Where shards go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// One directory for each shard of a fragment.
    Directories(Vec<PathBuf>),
    /// Redis servers.
    Redis(Vec<Address>),
    /// This many stores that go with the process.
    Memory(usize),
}

impl Storage {
    /// The stores, none of which was asked anything yet. Directories leave the last room of a file system to what
    /// `reserve` is for. `random` draws bytes for the identity of new ones.
    ///
    /// # Errors
    /// [`StoreError`] for an address that cannot be one.
    pub fn stores(
        &self,
        disk: &Arc<dyn Disk>,
        reserve: &Arc<Reserve>,
        random: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<Vec<Arc<dyn ShardStore>>, StoreError> {
        match self {
            Self::Directories(paths) => Ok(paths
                .iter()
                .map(|path| {
                    let (disk, reserve) = (Arc::clone(disk), Arc::clone(reserve));
                    let store = DirectoryStore::beside(disk, path.clone(), random(), reserve);
                    Arc::new(store) as Arc<dyn ShardStore>
                })
                .collect()),
            Self::Redis(addresses) => addresses
                .iter()
                .map(|address| {
                    let store = RedisStore::new(address, RedisConfig::default())?;
                    Ok(Arc::new(store) as Arc<dyn ShardStore>)
                })
                .collect(),
            Self::Memory(count) => Ok((0..*count)
                .map(|index| {
                    let store = MemoryStore::new(&format!("memory {index}"), random());
                    Arc::new(store) as Arc<dyn ShardStore>
                })
                .collect()),
        }
    }
}

/// A master key that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadKeyError {
    /// It is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its file cannot be read.
    #[error("the key file {} cannot be read: {source}; give `-priv-key @` and the path of a readable file of 32 bytes or 64 hexadecimal digits", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// As the system says.
        source: io::Error,
    },
    /// Others may read its file.
    #[error("the key file {} may be changed by others: `chmod 600 {}`", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
}

/// The key ring of what `-priv-key` says: 32 bytes, 64 hexadecimal digits, or `@` and a path.
///
/// # Errors
/// [`ReadKeyError`].
pub fn read_key(text: &str) -> Result<KeyRing, ReadKeyError> {
    let key = match parse_key(text)? {
        KeySource::Key(key) => key,
        KeySource::File(path) => read_key_file(Path::new(&path))?,
    };
    if key.is_weak() && !key.is_default() {
        tracing::warn!(
            "the master key has fewer than 16 distinct bytes, as typed texts have: generate one, `openssl rand -hex 32`"
        );
    }
    Ok(KeyRing::new(FIRST_KID, key))
}

fn read_key_file(path: &Path) -> Result<MasterKey, ReadKeyError> {
    use std::os::unix::fs::PermissionsExt as _;
    let fault = |source| ReadKeyError::File { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(fault)?;
    if metadata.permissions().mode() & 0o022 != 0 {
        return Err(ReadKeyError::Open { path: path.to_owned() });
    }
    if metadata.len() > KEY_FILE_BYTES {
        let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        return Err(KeyError::Length { found: length }.into());
    }
    let content = zeroize::Zeroizing::new(fs::read(path).map_err(fault)?);
    Ok(MasterKey::from_file(&content)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_file_is_read_and_one_that_others_may_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!("@{}", path.display());
        assert!(read_key(&text).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(read_key(&text), Err(ReadKeyError::Open { .. })));
        assert!(matches!(read_key("@/no/such/file"), Err(ReadKeyError::File { .. })));
        assert!(matches!(read_key("short"), Err(ReadKeyError::Key(_))));
    }

    #[test]
    fn each_storage_gives_its_stores() {
        let disk: Arc<dyn Disk> = Arc::new(crate::disk::FileDisk);
        let reserve = Reserve::find(Arc::clone(&disk), PathBuf::from("/none/reserve"), 16).unwrap();
        let reserve = Arc::new(reserve);
        let mut random = || [3; 16];
        let stores = Storage::Memory(6).stores(&disk, &reserve, &mut random).unwrap();
        assert_eq!(stores.len(), 6);
        let paths = vec![PathBuf::from("a"), PathBuf::from("b")];
        let stores = Storage::Directories(paths).stores(&disk, &reserve, &mut random).unwrap();
        assert_eq!(stores[1].name(), "b");
    }
}
