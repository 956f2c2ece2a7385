//! What of a file the system holds in memory, for who reads much that nobody else wants.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

/// Whether the byte at `position` is there; true also where the system does not tell.
#[must_use]
pub fn holds(file: BorrowedFd<'_>, position: u64) -> bool {
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    let read = rustix::io::preadv2(file, parts, position, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::AGAIN))
}

/// Lets go of a range, but for what is not written to the disk yet. A hint: where it is not taken nothing is wrong.
pub fn drop_range(file: BorrowedFd<'_>, position: u64, length: u64) {
    if let Some(length) = NonZeroU64::new(length) {
        rustix::fs::fadvise(file, position, Some(length), Advice::DontNeed).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_was_just_written_is_there_until_it_is_dropped() {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, &[7; 8192]).unwrap();
        file.sync_data().unwrap();
        // A file system without the call says nothing else.
        assert!(holds(file.as_fd(), 5000));
        drop_range(file.as_fd(), 0, 0);
        assert!(holds(file.as_fd(), 5000));
        drop_range(file.as_fd(), 0, 8192);
        // Of tmpfs the page cache is all there is.
        let is_tmpfs = rustix::fs::fstatfs(&file).unwrap().f_type == 0x0102_1994;
        assert_eq!(holds(file.as_fd(), 5000), is_tmpfs);
        let mut bytes = [0; 8192];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 8192]);
    }
}
