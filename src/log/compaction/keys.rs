//! The newest offset of each key, in bounded memory.

use std::collections::HashMap;

use crate::types::Offset;

/// Stands for a key: two keys with the same one cannot be made. (Kafka takes MD5, of which they can.)
type Digest = [u8; 16];

/// Up to so many keys with the offset of the newest record of each.
#[derive(Debug)]
pub(super) struct NewestOffsets {
    offsets: HashMap<Digest, Offset>,
    most: usize,
}

impl NewestOffsets {
    /// For `most` keys, one at least: a pass without room would never end.
    pub(super) fn new(most: usize) -> Self {
        Self { offsets: HashMap::new(), most: most.max(1) }
    }

    /// Counts in a record, to be called in order of offsets. False, and nothing is changed, where there is no room for
    /// another key.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        let digest = digest(key);
        if self.offsets.len() >= self.most && !self.offsets.contains_key(&digest) {
            return false;
        }
        self.offsets.insert(digest, offset);
        true
    }

    /// Whether a newer record of this key was counted in.
    pub(super) fn is_superseded(&self, key: &[u8], offset: Offset) -> bool {
        self.offsets.get(&digest(key)).is_some_and(|newest| *newest > offset)
    }
}

fn digest(key: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(blake3::hash(key).as_bytes().split_at(size_of::<Digest>()).0);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_key_counts_and_a_full_map_takes_no_other() {
        let mut newest = NewestOffsets::new(2);
        assert!(newest.note(b"a", 1) && newest.note(b"b", 2) && newest.note(b"a", 3));
        assert!(!newest.note(b"c", 4));
        assert!(newest.note(b"b", 5));
        let superseded = |key: &[u8], offset| newest.is_superseded(key, offset);
        assert!(superseded(b"a", 1) && !superseded(b"a", 3));
        assert!(superseded(b"b", 4) && !superseded(b"b", 5));
        assert!(!superseded(b"c", 0));
    }
}
