//! Shards read without a server: stores, key, and what they hold. Nothing is written to them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::args::StorageArgs;
use super::failure::{Exit, Failure};
use super::output::tell;
use crate::disk::FileDisk;
use crate::tier::encryption::{DEFAULT_KEY, FIRST_KID};
use crate::tier::store::{
    DirectoryStore, RedisConfig, RedisStore, ShardStore, StoreError, addresses,
};
use crate::tier::{
    self, Config, KeyRing, MasterKey, ReadKeyError, RecoveredTopic, Tier, TierReader, TopicInfo,
};
use crate::types::TopicPartition;

/// For each server to answer at all.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// For the servers to agree on what they hold; each was there a moment ago.
const OPEN: Duration = Duration::from_secs(60);

/// The tier, opened for reading.
#[derive(Debug)]
pub(super) struct Shards {
    tier: Arc<Tier>,
    topics: Vec<RecoveredTopic>,
    /// Servers that did not answer at first, with their reasons.
    silent: Vec<String>,
}

impl Shards {
    /// Opens the stores that are there and reads their catalogue.
    pub(super) async fn open(args: &StorageArgs) -> Result<Self, Failure> {
        let mut config = Config::new(Arc::new(keys(args)?));
        config.data_shards = args.k;
        config.parity_shards = args.m;
        // Fewer servers than shards are a matter of writers.
        config.allow_shared_servers = true;
        config.check().map_err(|error| Failure::of(Exit::Usage, &error))?;

        let (stores, mut silent) = stores(args, config.shards())?;
        let (stores, refused) = answering(stores).await;
        let locked = refused.iter().any(|refused| refused.locked);
        silent.extend(refused.into_iter().map(|refused| refused.why));
        if stores.len() < usize::from(args.k) {
            let exit = if locked { Exit::Locked } else { Exit::Error };
            let message = format!(
                "{} shard servers can be read and {} are needed: {}",
                stores.len(),
                args.k,
                silent.join("; ")
            );
            return Err(Failure::new(exit, message));
        }
        for why in &silent {
            tell(format_args!("without {why}"));
        }
        let stop = CancellationToken::new();
        let waiting = Mutex::new(String::new());
        let told = |line: &str| {
            line.clone_into(&mut waiting.lock().unwrap_or_else(PoisonError::into_inner));
        };
        let opening = Tier::open_read_only(config, stores, &told, stop.clone());
        let opened = match tokio::time::timeout(OPEN, opening).await {
            Ok(opened) => opened?,
            Err(_) => {
                let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let message = format!("gave up after {} s {waiting}", OPEN.as_secs());
                return Err(Failure::new(Exit::Error, message));
            }
        };
        Ok(Self { tier: opened.tier, topics: opened.recovered.topics, silent })
    }

    /// The topics that were not deleted.
    pub(super) fn topics(&self) -> &[RecoveredTopic] {
        &self.topics
    }

    pub(super) fn reader(&self, info: &TopicInfo, id: TopicPartition) -> Arc<TierReader> {
        self.tier.reader(info, id)
    }

    /// Servers that are missing, with their reasons.
    pub(super) fn silent(&self) -> &[String] {
        &self.silent
    }

    /// Adds the servers that were missing from the start: with them the fragment may be whole.
    pub(super) fn explain(&self, mut failure: Failure) -> Failure {
        if !self.silent.is_empty() {
            failure.message = format!("{} (without {})", failure.message, self.silent.join("; "));
        }
        failure
    }
}

type Stores = Vec<Arc<dyn ShardStore>>;

/// The stores, and what is known to be missing. A directory that is not there is not made.
fn stores(args: &StorageArgs, shards: usize) -> Result<(Stores, Vec<String>), Failure> {
    let mut stores: Stores = Vec::new();
    if let Some(text) = &args.storage_addresses {
        let list = addresses::parse_list(text).map_err(|error| Failure::of(Exit::Usage, &error))?;
        for address in list {
            let store = RedisStore::new(&address, RedisConfig::default());
            stores.push(Arc::new(store.map_err(|error| Failure::of(Exit::Config, &error))?));
        }
        return Ok((stores, Vec::new()));
    }
    let mut silent = Vec::new();
    for path in directories(&args.storage_dir, shards)? {
        if path.join("meta").is_file() {
            stores.push(Arc::new(DirectoryStore::new(Arc::new(FileDisk), path, random()?)));
        } else {
            silent.push(format!("{} (no shards there)", path.display()));
        }
    }
    Ok((stores, silent))
}

/// One path stands for its numbered subdirectories; else there is one for each shard.
fn directories(given: &[PathBuf], shards: usize) -> Result<Vec<PathBuf>, Failure> {
    match given {
        [base] => Ok((0..shards).map(|index| base.join(index.to_string())).collect()),
        all if all.len() == shards => Ok(all.to_vec()),
        all => {
            let given = all.len();
            let message = format!(
                "--storage-dir names {given} directories: one, or k+m = {shards} are needed (lost ones named, too)"
            );
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

/// A server that may not be read.
#[derive(Debug)]
struct Refused {
    /// Its name, and the reason.
    why: String,
    /// Whether it is in use.
    locked: bool,
}

/// Those that answer, and the others.
async fn answering(stores: Stores) -> (Stores, Vec<Refused>) {
    let asked = stores.into_iter().map(|store| {
        async move {
            let answer = tokio::time::timeout(FIRST_ANSWER, store.cluster_meta()).await;
            let (why, locked) = match answer {
                Ok(Ok(_)) => return (store, None),
                Ok(Err(error)) => {
                    let locked = matches!(error, StoreError::Locked { .. });
                    (Failure::of(Exit::Error, &error).message, locked)
                }
                Err(_) => ("it does not answer".to_owned(), false),
            };
            let why = format!("{} ({why})", store.name());
            (store, Some(Refused { why, locked }))
        }
        .boxed()
    });
    let (mut answering, mut others) = (Vec::new(), Vec::new());
    for (store, refused) in join_all(asked).await {
        match refused {
            None => answering.push(store),
            Some(refused) => others.push(refused),
        }
    }
    (answering, others)
}

fn random() -> Result<[u8; 16], Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(Exit::Error, format!("no random bytes: {error}")))?;
    Ok(random)
}

/// What names the key, if anything does.
fn key_text(
    argument: Option<&str>,
    variable: Option<String>,
    file: Option<String>,
) -> Result<Option<String>, Failure> {
    match (argument, variable, file) {
        (Some(argument), ..) => Ok(Some(argument.to_owned())),
        (None, Some(_), Some(_)) => {
            let message =
                "TLOG_PRIV_KEY and TLOG_PRIV_KEY_FILE both give the key; unset one of them";
            Err(Failure::new(Exit::Config, message))
        }
        (None, Some(variable), None) => Ok(Some(variable)),
        (None, None, file) => Ok(file.map(|path| format!("@{path}"))),
    }
}

/// From the argument, else the environment as for the server, else the one that everybody knows.
fn keys(args: &StorageArgs) -> Result<KeyRing, Failure> {
    let refuse = |error: ReadKeyError| Failure::of(Exit::Config, &error).context("the master key");
    let from = |name| std::env::var(name).ok();
    match key_text(args.priv_key.as_deref(), from("TLOG_PRIV_KEY"), from("TLOG_PRIV_KEY_FILE"))? {
        Some(text) => tier::read_key(&text).map_err(refuse),
        None => {
            let key = MasterKey::new(*DEFAULT_KEY).map_err(|error| refuse(error.into()))?;
            Ok(KeyRing::new(FIRST_KID, key))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(dir: &Path) -> StorageArgs {
        StorageArgs {
            storage_dir: vec![dir.to_owned()],
            storage_addresses: None,
            priv_key: None,
            k: 4,
            m: 2,
        }
    }

    #[tokio::test]
    async fn nothing_is_made_where_there_are_no_shards() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Shards::open(&args(dir.path())).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Error);
        assert!(failure.message.contains("0 shard servers can be read"), "{}", failure.message);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_stands_for_its_subdirectories() {
        let all = directories(&[PathBuf::from("s")], 3).unwrap();
        assert_eq!(all, ["s/0", "s/1", "s/2"].map(PathBuf::from));
        assert!(directories(&all, 3).is_ok());
        assert_eq!(directories(&all, 6).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn two_variables_for_the_key_are_refused_unless_an_argument_gives_it() {
        let text = |argument, variable: Option<&str>, file: Option<&str>| {
            key_text(argument, variable.map(str::to_owned), file.map(str::to_owned))
        };
        assert_eq!(text(None, Some("k"), Some("f")).unwrap_err().exit, Exit::Config);
        assert_eq!(text(Some("a"), Some("k"), Some("f")), Ok(Some("a".to_owned())));
        assert_eq!(text(None, Some("k"), None), Ok(Some("k".to_owned())));
        assert_eq!(text(None, None, Some("f")), Ok(Some("@f".to_owned())));
        assert_eq!(text(None, None, None), Ok(None));
    }

    #[tokio::test]
    async fn directories_that_another_process_uses_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut holders = Vec::new();
        for index in 0..6 {
            let path = dir.path().join(index.to_string());
            let holder = DirectoryStore::new(Arc::new(FileDisk), path, [index; 16]);
            holder.set_cluster_meta(bytes::Bytes::from_static(b"meta")).await.unwrap();
            holders.push(holder);
        }
        let failure = Shards::open(&args(dir.path())).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Locked, "{}", failure.message);
    }

    #[test]
    fn a_key_of_another_length_is_refused_without_being_shown() {
        let mut args = args(Path::new("s"));
        args.priv_key = Some("secret".to_owned());
        let failure = keys(&args).err().unwrap();
        assert_eq!(failure.exit, Exit::Config);
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
}
