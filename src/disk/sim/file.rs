//! An open file of the simulated disk.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::*;
use crate::disk::DiskFile;

pub(super) struct SimFile {
    pub disk: SimDisk,
    pub node: usize,
    pub path: PathBuf,
    pub writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SimFile {
    /// Leaves of `bytes` what the disk has room for, and says whether that is all.
    fn cut_to_room(&self, state: &State, position: usize, bytes: &mut Vec<u8>) -> bool {
        let end = position + bytes.len();
        let room = state.room(self.node, end);
        bytes.truncate(room.saturating_sub(position));
        room == end
    }

    fn must_be_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

fn joined(parts: &[io::IoSlice<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.look(Read::Bytes(self.path.clone(), position, buffer.len()))?;
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let rest = state.content(self.node)?.get(position..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_vectored_at(&[io::IoSlice::new(bytes)], position)
    }

    fn write_all_vectored_at(&self, parts: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        self.must_be_writable()?;
        let mut bytes = joined(parts);
        let mut state = self.disk.lock();
        let fate = state.begin(Operation::Write(self.path.clone(), position, bytes.len()))?;
        let position = usize::try_from(position).map_err(io::Error::other)?;
        match fate {
            Fate::Failed(_) => bytes.truncate(bytes.len() / 2),
            Fate::Torn(_, eighths) => bytes.truncate(bytes.len() * eighths / 8),
            Fate::Done | Fate::Died => {}
        }
        let fits = self.cut_to_room(&state, position, &mut bytes);
        state.write(self.node, Change::Write { position, bytes: bytes.into() });
        match fate {
            Fate::Done if !fits => Err(no_room()),
            Fate::Done => Ok(()),
            Fate::Died => Err(dead()),
            Fate::Failed(errno) | Fate::Torn(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn write_all_synced(&self, parts: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        self.must_be_writable()?;
        let mut bytes = joined(parts);
        let mut state = self.disk.lock();
        let operation = Operation::WriteSynced(self.path.clone(), position, bytes.len());
        let fate = state.begin(operation)?;
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let number = state.operations.len() - 1;
        if state.camera.is_some() && !state.dead {
            let bytes = Bytes::copy_from_slice(&bytes);
            let node = self.node;
            state
                .take_picture(number, |state| state.write(node, Change::Write { position, bytes }));
        }
        match fate {
            Fate::Done if !self.cut_to_room(&state, position, &mut bytes) => {
                state.write(self.node, Change::Write { position, bytes: bytes.into() });
                Err(no_room())
            }
            Fate::Done => {
                state.write_synced(self.node, position, &bytes);
                Ok(())
            }
            Fate::Died => {
                let bytes = bytes.into();
                state.write(self.node, Change::Write { position, bytes });
                Err(dead())
            }
            Fate::Torn(errno, eighths) => {
                bytes.truncate(bytes.len() * eighths / 8);
                state.write(self.node, Change::Write { position, bytes: bytes.into() });
                Err(io::Error::from_raw_os_error(errno))
            }
            // There was no room for all of it.
            Fate::Failed(ENOSPC) => {
                bytes.truncate(bytes.len() / 2);
                state.write(self.node, Change::Write { position, bytes: bytes.into() });
                Err(io::Error::from_raw_os_error(ENOSPC))
            }
            // All of it reached the page cache, and nothing of it will reach the disk.
            Fate::Failed(errno) => {
                if let Node::File { live, .. } = &mut state.nodes[self.node] {
                    put(Arc::make_mut(live), position, &bytes);
                }
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        match state.begin(Operation::Sync(self.path.clone()))? {
            Fate::Done => {
                state.sync_file(self.node);
                Ok(())
            }
            Fate::Died => Err(dead()),
            Fate::Failed(errno) | Fate::Torn(errno, _) => {
                if let Node::File { pending, .. } = &mut state.nodes[self.node] {
                    pending.clear();
                }
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<bool> {
        self.must_be_writable()?;
        let end = usize::try_from(position + length).map_err(io::Error::other)?;
        let operation = Operation::Allocate(self.path.clone(), position, length);
        self.disk.lock().change(operation, |state| {
            if state.room(self.node, end) < end {
                return Err(no_room());
            }
            if let Node::File { allocated, .. } = &mut state.nodes[self.node] {
                *allocated = end.max(*allocated);
            }
            Ok(())
        })?;
        Ok(true)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.must_be_writable()?;
        let bytes = usize::try_from(length).map_err(io::Error::other)?;
        self.disk.lock().change(Operation::SetLen(self.path.clone(), length), |state| {
            state.write(self.node, Change::SetLen(bytes));
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.look(Read::Len(self.path.clone()))?;
        Ok(state.content(self.node)?.len() as u64)
    }
}
