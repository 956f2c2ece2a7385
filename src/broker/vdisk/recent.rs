//! Hashes of the newest blocks, by offset.

use std::collections::VecDeque;

use crate::types::Offset;
use crate::types::limits::VDISK_RECENT_HASHES;

/// A window that ends at the log's end.
#[derive(Debug)]
pub(super) struct Recent {
    end: Offset,
    hashes: VecDeque<[u8; 32]>,
}

impl Recent {
    pub fn new(end: Offset) -> Self {
        Self { end, hashes: VecDeque::new() }
    }

    /// The block at the log's end was appended.
    pub fn push(&mut self, hash: [u8; 32]) {
        if self.hashes.len() == VDISK_RECENT_HASHES {
            self.hashes.pop_front();
        }
        self.hashes.push_back(hash);
        self.end += 1;
    }

    /// The hash of the block at `offset`, where it is new enough.
    pub fn get(&self, offset: Offset) -> Option<&[u8; 32]> {
        let back = usize::try_from(self.end.checked_sub(offset)?).ok()?;
        self.hashes.get(self.hashes.len().checked_sub(back)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides_with_the_end() {
        let mut recent = Recent::new(10);
        assert_eq!(recent.get(9), None);
        for i in 0..VDISK_RECENT_HASHES + 5 {
            recent.push([i as u8; 32]);
        }
        let end = 10 + VDISK_RECENT_HASHES as i64 + 5;
        assert_eq!(recent.get(end), None);
        assert_eq!(recent.get(end - 1), Some(&[(VDISK_RECENT_HASHES + 4) as u8; 32]));
        assert_eq!(recent.get(15), Some(&[5; 32]));
        assert_eq!(recent.get(14), None);
    }
}
