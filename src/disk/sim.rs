//! A disk in memory that forgets and tears what was not synced: for crash tests only.
//!
//! Every file has two contents. *Live* is what reads see: the page cache. *Durable* is what the medium has. Writes go
//! to the live content at once and wait as *pending* changes; [`DiskFile::sync`] moves them to the durable one.
//! Entries of directories work the same way with [`Disk::sync_dir`].
//!
//! ```text
//!            write, create, rename         sync, sync_dir
//!   caller ------------------------> live + pending ------> durable
//!                                      |                      |
//!                      restart(): kill -9, live stays     crash(seed): durable + some of the pending
//! ```
//!
//! * [`SimDisk::crash`]: of each 512-byte sector with pending writes some prefix of them has arrived (none and all
//!   included), so a sector is never torn in itself; each pending change of a length or of a directory entry has
//!   arrived or not, by itself.
//! * Calls that change something are counted from 0 ([`SimDisk::operations`]). [`SimDisk::stop_at`] lets the process die
//!   within one of them, [`SimDisk::fail_at`] fails one, [`SimDisk::tear_at`] fails a write with some of it done.
//! * Calls that only look are counted apart ([`SimDisk::reads`]); [`SimDisk::fail_read_at`] fails one. What is not there
//!   cannot fail otherwise: an open of a file that is missing counts for nothing.
//! * [`DiskFile::write_all_synced`] makes its own bytes durable and leaves the rest pending, as `RWF_DSYNC` may.
//! * [`SimDisk::set_capacity`] makes the disk small: what does not fit is `StorageFull`, a write after as much as
//!   fits. Without it the disk is without bounds and tells no size. What directories lead to counts; so do allocated
//!   bytes, and an inode for each file and directory.
//! * [`SimDisk::take_pictures`] keeps the state within every counted call, so that one run gives the crash images of a
//!   stop at each of them, also of code whose threads cannot be stopped one by one.
//! * A failed sync drops what was pending: the live content still shows it, no later sync writes it. That is what
//!   Linux does, and why a log must not go on after one.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use file::SimFile;

use super::{Disk, DiskFile, OpenMode, Space};

const SECTOR_BYTES: usize = 512;
const ROOT: usize = 0;
const ENOSPC: i32 = 28;

/// One counted call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A file was created.
    Create(PathBuf),
    /// A directory was created.
    CreateDir(PathBuf),
    /// Bytes were written to a file: name at the time of opening, position, length.
    Write(PathBuf, u64, usize),
    /// Bytes were written to a file and synced by the same call: as `Write`.
    WriteSynced(PathBuf, u64, usize),
    /// Room for a range of a file was taken: position, length.
    Allocate(PathBuf, u64, u64),
    /// A file got another length.
    SetLen(PathBuf, u64),
    /// A file was synced.
    Sync(PathBuf),
    /// A directory was synced.
    SyncDir(PathBuf),
    /// From, to.
    Rename(PathBuf, PathBuf),
    /// A file or an emptied directory was removed.
    Remove(PathBuf),
}

/// One counted call that changes nothing, with the name at the time of opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// A file that exists was opened.
    Open(PathBuf),
    /// Position, and how many bytes were asked for.
    Bytes(PathBuf, u64, usize),
    /// The length of a file.
    Len(PathBuf),
    /// The entries of a directory.
    List(PathBuf),
    /// Whether something has this name.
    Exists(PathBuf),
}

/// The small generator behind everything random here and in the tests (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// True every second time.
    pub fn coin(&mut self) -> bool {
        self.bits() & 1 == 1
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write { position: usize, bytes: Bytes },
    SetLen(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { position, bytes } => put(content, *position, bytes),
            Self::SetLen(length) => content.resize(*length, 0),
        }
    }
}

fn put(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[position..end].copy_from_slice(bytes);
}

/// Shared with the pictures that were taken, until one of them changes.
type Content = Arc<Vec<u8>>;

#[derive(Debug, Clone)]
enum Node {
    /// `allocated` bytes take room, also where `live` is shorter.
    File {
        live: Content,
        durable: Content,
        pending: Vec<Change>,
        allocated: usize,
    },
    Dir {
        live: BTreeMap<String, usize>,
        durable: BTreeMap<String, usize>,
    },
}

impl Node {
    fn dir() -> Self {
        Self::Dir { live: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

/// An entry of a directory: the directory's node, the name.
type Place = (usize, String);

/// A change of directory entries that not all directories concerned were synced after.
#[derive(Debug, Clone)]
struct EntryChange {
    node: usize,
    removed: Option<Place>,
    added: Option<Place>,
    unsynced: Vec<usize>,
}

#[derive(Clone, Default)]
struct State {
    nodes: Vec<Node>,
    entries: Vec<EntryChange>,
    operations: Vec<Operation>,
    stop_at: Option<usize>,
    fail_at: Option<(usize, i32)>,
    /// End of the path of files.
    fail_on: Option<(&'static str, i32)>,
    tear_at: Option<(usize, i32, usize)>,
    reads: Vec<Read>,
    fail_read_at: Option<(usize, i32)>,
    /// It is an image that lacks something.
    has_lost: bool,
    dead: bool,
    capacity: Option<Capacity>,
    camera: Option<Camera>,
}

/// How much a small disk takes.
#[derive(Debug, Clone, Copy)]
struct Capacity {
    bytes: u64,
    inodes: u64,
}

/// Tells how far the world outside has come.
type Clock = Arc<dyn Fn() -> usize + Send + Sync>;

#[derive(Clone)]
struct Camera {
    clock: Clock,
    pictures: Vec<Picture>,
}

/// The disk within one counted call, which may or may not have taken place.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The number of the call.
    pub operation: usize,
    /// What had happened outside at least: as the clock said before.
    pub least: usize,
    /// What can have happened at most: as the clock said behind it.
    pub most: usize,
    /// What [`SimDisk::crash`] and [`SimDisk::restart`] are asked for.
    pub disk: SimDisk,
}

/// What is to become of a counted call.
enum Fate {
    Done,
    /// It takes place as far as unsynced things do, but the caller never hears of it.
    Died,
    Failed(i32),
    /// The error, and of how many eighths of the bytes it may be that they arrive.
    Torn(i32, usize),
}

fn no_room() -> io::Error {
    io::Error::from_raw_os_error(ENOSPC)
}

fn dead() -> io::Error {
    io::Error::other("the simulated process has died")
}

impl State {
    fn begin(&mut self, operation: Operation) -> io::Result<Fate> {
        if self.dead {
            return Err(dead());
        }
        let number = self.operations.len();
        self.operations.push(operation);
        if self.stop_at == Some(number) {
            self.dead = true;
            return Ok(Fate::Died);
        }
        // A synced write takes its own, with its bytes on the way.
        if !matches!(self.operations.last(), Some(Operation::WriteSynced(..))) {
            self.take_picture(number, |_| ());
        }
        let fails_on = |end: &str| match self.operations.last() {
            Some(Operation::Create(path) | Operation::Write(path, ..)) => path.ends_with(end),
            _ => false,
        };
        match (self.fail_at, self.tear_at, self.fail_on) {
            (Some((at, errno)), _, _) if at == number => Ok(Fate::Failed(errno)),
            (_, Some((at, errno, eighths)), _) if at == number => Ok(Fate::Torn(errno, eighths)),
            (_, _, Some((end, errno))) if fails_on(end) => Ok(Fate::Failed(errno)),
            _ => Ok(Fate::Done),
        }
    }

    /// Counts a call that changes nothing.
    fn look(&mut self, read: Read) -> io::Result<()> {
        if self.dead {
            return Err(dead());
        }
        let number = self.reads.len();
        self.reads.push(read);
        match self.fail_read_at {
            Some((at, errno)) if at == number => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    fn take_picture(&mut self, operation: usize, change: impl FnOnce(&mut Self)) {
        let Some(clock) = self.camera.as_ref().map(|camera| Arc::clone(&camera.clock)) else {
            return;
        };
        let least = clock();
        let (nodes, entries) = (self.nodes.clone(), self.entries.clone());
        let capacity = self.capacity;
        let mut state = Self { nodes, entries, capacity, ..Self::default() };
        change(&mut state);
        let picture = Picture { operation, least, most: clock(), disk: SimDisk::with(state) };
        if let Some(camera) = &mut self.camera {
            camera.pictures.push(picture);
        }
    }

    /// For changes that need no care beyond "pending": they take place also when the process dies in them, and do not
    /// when they fail.
    fn change(
        &mut self,
        operation: Operation,
        apply: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.begin(operation)? {
            Fate::Done => apply(self),
            Fate::Died => apply(self).and(Err(dead())),
            Fate::Failed(errno) | Fate::Torn(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut at = ROOT;
        for part in path.components() {
            if let Component::Normal(name) = part {
                let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                at = *self.dir(at)?.get(name).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(at)
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let parent = self.find(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        self.dir(parent)?;
        let name = path.file_name().and_then(|n| n.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((parent, name.to_owned()))
    }

    fn dir(&self, node: usize) -> io::Result<&BTreeMap<String, usize>> {
        match &self.nodes[node] {
            Node::Dir { live, .. } => Ok(live),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn content(&self, node: usize) -> io::Result<&Vec<u8>> {
        match &self.nodes[node] {
            Node::File { live, .. } => Ok(live),
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn write(&mut self, node: usize, change: Change) {
        if let Node::File { live, pending, .. } = &mut self.nodes[node] {
            change.apply(Arc::make_mut(live));
            pending.push(change);
        }
    }

    fn change_entry(&mut self, node: usize, removed: Option<Place>, added: Option<Place>) {
        let mut unsynced: Vec<usize> =
            removed.iter().chain(&added).map(|(parent, _)| *parent).collect();
        unsynced.dedup();
        let change = EntryChange { node, removed, added, unsynced };
        self.apply_entry(&change, false);
        self.entries.push(change);
    }

    fn apply_entry(&mut self, change: &EntryChange, to_durable: bool) {
        let node = change.node;
        let mut map = |parent: usize, edit: &dyn Fn(&mut BTreeMap<String, usize>)| {
            if let Node::Dir { live, durable } = &mut self.nodes[parent] {
                edit(if to_durable { durable } else { live });
            }
        };
        if let Some((parent, name)) = &change.removed {
            map(*parent, &|entries| {
                // The name may stand for another file in a crash image that lost a rename.
                if entries.get(name) == Some(&node) {
                    entries.remove(name);
                }
            });
        }
        if let Some((parent, name)) = &change.added {
            map(*parent, &|entries| {
                entries.insert(name.clone(), node);
            });
        }
    }

    /// A write that is durable at once, and nothing else with it: only what is pending for the same bytes, and before
    /// that for the length, must have gone ahead.
    fn write_synced(&mut self, node: usize, position: usize, bytes: &[u8]) {
        let Node::File { live, durable, pending, .. } = &mut self.nodes[node] else { return };
        let end = position + bytes.len();
        pending.retain(|change| {
            let apart = match change {
                Change::Write { position: at, bytes } => *at >= end || at + bytes.len() <= position,
                Change::SetLen(_) => false,
            };
            if !apart {
                change.apply(Arc::make_mut(durable));
            }
            apart
        });
        put(Arc::make_mut(live), position, bytes);
        put(Arc::make_mut(durable), position, bytes);
    }

    /// What is left, on a small disk.
    fn space(&self) -> Option<Space> {
        let Capacity { bytes, inodes } = self.capacity?;
        let (mut used_bytes, mut used_inodes, mut dirs) = (0, 0, vec![ROOT]);
        while let Some(dir) = dirs.pop() {
            let Node::Dir { live, .. } = &self.nodes[dir] else { continue };
            used_inodes += live.len() as u64;
            for &child in live.values() {
                match &self.nodes[child] {
                    Node::Dir { .. } => dirs.push(child),
                    Node::File { live, allocated, .. } => {
                        used_bytes += live.len().max(*allocated) as u64;
                    }
                }
            }
        }
        Some(Space {
            total_bytes: bytes,
            free_bytes: bytes.saturating_sub(used_bytes),
            free_inodes: inodes.saturating_sub(used_inodes),
        })
    }

    /// How far the file may reach, where it is to reach up to `end`.
    fn room(&self, node: usize, end: usize) -> usize {
        let Node::File { live, allocated, .. } = &self.nodes[node] else { return 0 };
        let Some(space) = self.space() else { return end };
        let have = live.len().max(*allocated);
        let free = usize::try_from(space.free_bytes).unwrap_or(usize::MAX);
        end.min(have.saturating_add(free))
    }

    fn inode(&self) -> io::Result<()> {
        if self.space().is_some_and(|space| space.free_inodes == 0) {
            Err(no_room())
        } else {
            Ok(())
        }
    }

    fn sync_file(&mut self, node: usize) {
        if let Node::File { durable, pending, .. } = &mut self.nodes[node] {
            for change in pending.drain(..) {
                change.apply(Arc::make_mut(durable));
            }
        }
    }

    fn sync_dir(&mut self, node: usize) {
        let mut waiting = Vec::new();
        for mut change in std::mem::take(&mut self.entries) {
            change.unsynced.retain(|parent| *parent != node);
            if change.unsynced.is_empty() {
                self.apply_entry(&change, true);
            } else {
                waiting.push(change);
            }
        }
        self.entries = waiting;
    }
}

/// The disk after a power cut, as far as one file goes.
fn crashed_content(mut image: Vec<u8>, pending: &[Change], random: &mut Random) -> Vec<u8> {
    // A single coin per sector would hardly ever keep or lose a large write whole, the two cases of most interest.
    let mode = random.below(4);
    let mut touched: BTreeMap<usize, usize> = BTreeMap::new();
    for change in pending {
        if let Change::Write { position, bytes } = change {
            for sector in sectors(*position, bytes.len()) {
                *touched.entry(sector).or_default() += 1;
            }
        }
    }
    let mut arrived: BTreeMap<usize, usize> = BTreeMap::new();
    for (sector, writes) in touched {
        let kept = match mode {
            0 => 0,
            1 => writes,
            _ => random.below(writes + 1),
        };
        arrived.insert(sector, kept);
    }
    for change in pending {
        match change {
            Change::SetLen(length) if random.coin() => image.resize(*length, 0),
            Change::SetLen(_) => {}
            Change::Write { position, bytes } => {
                let end = position + bytes.len();
                // The length may arrive without the bytes.
                if mode != 0 && random.below(4) == 0 && image.len() < end {
                    image.resize(end, 0);
                }
                for sector in sectors(*position, bytes.len()) {
                    let left = arrived.entry(sector).or_default();
                    if *left > 0 {
                        *left -= 1;
                        let from = (sector * SECTOR_BYTES).max(*position);
                        let to = ((sector + 1) * SECTOR_BYTES).min(end);
                        put(&mut image, from, &bytes[from - position..to - position]);
                    }
                }
            }
        }
    }
    image
}

fn sectors(position: usize, length: usize) -> std::ops::Range<usize> {
    position / SECTOR_BYTES..(position + length).div_ceil(SECTOR_BYTES)
}

/// The simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("operations", &self.lock().operations.len()).finish()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk: the root directory alone.
    #[must_use]
    pub fn new() -> Self {
        Self::with(State { nodes: vec![Node::dir()], ..State::default() })
    }

    fn with(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the disk")
    }

    /// Every counted call so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// The process dies within operation `number` (from 0): it may or may not have taken place, every call from then
    /// on fails.
    pub fn stop_at(&self, number: usize) {
        self.lock().stop_at = Some(number);
    }

    /// Operation `number` (from 0) fails with the error `errno`: a write half done, a sync with what was pending
    /// never to be written, anything else not done.
    pub fn fail_at(&self, number: usize, errno: i32) {
        self.lock().fail_at = Some((number, errno));
    }

    /// From now on each creation of and write to a file whose path ends so fails with the error `errno`, as far as that is
    /// not written and synced at once.
    pub fn fail_on(&self, end: &'static str, errno: i32) {
        self.lock().fail_on = Some((end, errno));
    }

    /// Operation `number` (from 0) fails with the error `errno`; if it is a write, with the first `eighths` of its bytes done,
    /// whose sectors may reach the disk or not.
    pub fn tear_at(&self, number: usize, errno: i32, eighths: usize) {
        self.lock().tear_at = Some((number, errno, eighths));
    }

    /// Every counted call that changes nothing so far.
    #[must_use]
    pub fn reads(&self) -> Vec<Read> {
        self.lock().reads.clone()
    }

    /// Call `number` (from 0) of those that change nothing fails with the error `errno`, and tells nothing. None: no more.
    pub fn fail_read_at(&self, fail: Option<(usize, i32)>) {
        self.lock().fail_read_at = fail;
    }

    /// Whether this is the image of a disk that had something which is not in it.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lock().has_lost
    }

    /// From now on no more than so many bytes and inodes.
    pub fn set_capacity(&self, bytes: u64, inodes: u64) {
        self.lock().capacity = Some(Capacity { bytes, inodes });
    }

    /// A power cut: a new disk with what a real one could hold now. The same seed gives the same image.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut state = {
            let state = self.lock();
            let (nodes, entries) = (state.nodes.clone(), state.entries.clone());
            State { nodes, entries, capacity: state.capacity, ..State::default() }
        };
        for change in std::mem::take(&mut state.entries) {
            if random.coin() {
                state.apply_entry(&change, true);
            }
        }
        let mut has_lost = false;
        for node in &mut state.nodes {
            match node {
                Node::Dir { live, durable } => {
                    has_lost |= live != durable;
                    live.clone_from(durable);
                }
                Node::File { live, durable, pending, .. } => {
                    if !pending.is_empty() {
                        let image = Arc::unwrap_or_clone(std::mem::take(durable));
                        *durable = Arc::new(crashed_content(image, pending, &mut random));
                    }
                    has_lost |= live != durable;
                    live.clone_from(durable);
                    pending.clear();
                }
            }
        }
        let State { nodes, capacity, .. } = state;
        Self::with(State { nodes, capacity, has_lost, ..State::default() })
    }

    /// The end of the process alone (kill -9): a new disk with the page cache as it was, still unsynced.
    #[must_use]
    pub fn restart(&self) -> Self {
        let state = self.lock();
        Self::with(State {
            nodes: state.nodes.clone(),
            entries: state.entries.clone(),
            capacity: state.capacity,
            ..State::default()
        })
    }

    /// Keeps a picture of every counted call from here on, with what `clock` says right before and behind it.
    pub fn take_pictures(&self, clock: impl Fn() -> usize + Send + Sync + 'static) {
        self.lock().camera = Some(Camera { clock: Arc::new(clock), pictures: Vec::new() });
    }

    /// The pictures so far; no more are taken.
    #[must_use]
    pub fn pictures(&self) -> Vec<Picture> {
        self.lock().camera.take().map(|camera| camera.pictures).unwrap_or_default()
    }

    /// The end of the process while some of its threads go on: every call of theirs fails. Gives what
    /// [`SimDisk::restart`] would have given.
    #[must_use]
    pub fn end(&self) -> Self {
        let mut state = self.lock();
        state.dead = true;
        let (nodes, entries) = (
            std::mem::replace(&mut state.nodes, vec![Node::dir()]),
            std::mem::take(&mut state.entries),
        );
        Self::with(State { nodes, entries, ..State::default() })
    }

    /// Puts `bytes` in place of a stored file's content behind everybody's back.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.lock();
        let node = state.find(path).expect("the file exists");
        if let Node::File { live, durable, pending, .. } = &mut state.nodes[node] {
            *live = Arc::new(bytes.to_vec());
            durable.clone_from(live);
            pending.clear();
        }
    }

    /// Changes the bits `mask` of one stored byte behind everybody's back.
    ///
    /// # Panics
    /// Where there is no such file or byte.
    pub fn flip(&self, path: &Path, position: usize, mask: u8) {
        let mut state = self.lock();
        let node = state.find(path).expect("the file exists");
        if let Node::File { live, durable, .. } = &mut state.nodes[node] {
            Arc::make_mut(live)[position] ^= mask;
            Arc::make_mut(durable)[position] ^= mask;
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if state.dead {
            return Err(dead());
        }
        if mode == OpenMode::CreateNew {
            let place = state.place(path)?;
            if state.find(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.inode()?;
            state.change(Operation::Create(path.to_owned()), |state| {
                let (live, durable) = (Content::default(), Content::default());
                let file = Node::File { live, durable, pending: vec![], allocated: 0 };
                state.nodes.push(file);
                let node = state.nodes.len() - 1;
                state.change_entry(node, None, Some(place));
                Ok(())
            })?;
        }
        let node = state.find(path)?;
        state.content(node)?;
        if mode != OpenMode::CreateNew {
            state.look(Read::Open(path.to_owned()))?;
        }
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), node, path: path.to_owned(), writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.lock().find(path).is_ok() {
            return Ok(());
        }
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.create_dir_all(parent)?;
        self.create_dir(path)?;
        self.sync_dir(parent)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.lock().change(Operation::CreateDir(path.to_owned()), |state| {
            let place = state.place(path)?;
            if state.find(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.inode()?;
            state.nodes.push(Node::dir());
            let node = state.nodes.len() - 1;
            state.change_entry(node, None, Some(place));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        if state.dead {
            return Err(dead());
        }
        let node = state.find(dir)?;
        state.dir(node)?;
        state.look(Read::List(dir.to_owned()))?;
        Ok(state.dir(node)?.keys().cloned().collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.lock();
        state.look(Read::Exists(path.to_owned()))?;
        Ok(state.find(path).is_ok())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.lock().change(Operation::Rename(from.to_owned(), to.to_owned()), |state| {
            let node = state.find(from)?;
            let (from, to) = (state.place(from)?, state.place(to)?);
            state.change_entry(node, Some(from), Some(to));
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.lock().change(Operation::Remove(path.to_owned()), |state| {
            let node = state.find(path)?;
            state.content(node)?;
            let place = state.place(path)?;
            state.change_entry(node, Some(place), None);
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.lock().find(path).is_err() {
            return Ok(());
        }
        for name in self.list(path)? {
            let child = path.join(name);
            let is_dir = {
                let state = self.lock();
                state.find(&child).is_ok_and(|node| state.dir(node).is_ok())
            };
            if is_dir { self.remove_dir_all(&child)? } else { self.remove_file(&child)? }
        }
        self.lock().change(Operation::Remove(path.to_owned()), |state| {
            let (node, place) = (state.find(path)?, state.place(path)?);
            state.change_entry(node, Some(place), None);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        match state.begin(Operation::SyncDir(dir.to_owned()))? {
            Fate::Done => {
                let node = state.find(dir)?;
                state.dir(node)?;
                state.sync_dir(node);
                Ok(())
            }
            Fate::Died => Err(dead()),
            Fate::Failed(errno) | Fate::Torn(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        // A disk without bounds tells nothing, so that nothing is done by its size.
        self.lock().space().ok_or(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests;
