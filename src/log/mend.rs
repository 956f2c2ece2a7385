//! Putting damaged batches back where they stood, from a copy that somebody else kept.

use super::error::{Error, Fault};
use super::proof::Sidecar;
use super::reader::{Reader, good_prefix};
use crate::disk::OpenMode;
use crate::record::BatchHeader;
use crate::types::Offset;

impl Reader {
    /// Writes `batches` over the damaged range that begins with `from`, if they are just what is missing there: whole,
    /// intact, from `from` up to where the range ends, and as long as the place. Durable on return. Gives whether that was
    /// done; not where nothing is damaged, the file has no such place any more, or it is about to be unlinked.
    ///
    /// # Errors
    /// [`Error::Io`]: the range is damaged as before, or mended.
    pub fn mend(&self, from: Offset, batches: &[u8]) -> Result<bool, Error> {
        let (position, to) = match self.read(from, self.end_offset(), 1) {
            Err(Error::Damaged { position, from: first, to, fault, .. })
                if first == from && fault != Fault::Missing =>
            {
                (position, to)
            }
            Ok(_) | Err(Error::Damaged { .. } | Error::OutOfRange { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let whole = good_prefix(batches, from, to) == batches.len();
        if !whole || last_next_offset(batches) != Some(to) {
            return Ok(false);
        }
        let Some(view) = self.view_of(from) else { return Ok(false) };
        let end = position + batches.len() as u64;
        let fits = if end == view.bytes {
            to == view.next_offset
        } else {
            view.header_at(end)?.is_some_and(|behind| behind.base_offset == to)
        };
        if !fits {
            return Ok(false);
        }
        let segment = &view.segment;
        // Held until it is written: the file keeps its name meanwhile.
        let mut sidecar = segment.sidecar();
        if matches!(*sidecar, Sidecar::Retired) {
            return Ok(false);
        }
        let path = &segment.paths.log;
        let file = segment.disk.open(path, OpenMode::Write).map_err(Error::io("open", path))?;
        file.write_all_at(batches, position).map_err(Error::io("write", path))?;
        file.sync().map_err(Error::io("sync", path))?;
        sidecar.forget();
        Ok(true)
    }
}

/// The offset behind the last of some whole batches.
fn last_next_offset(batches: &[u8]) -> Option<Offset> {
    let (mut rest, mut next) = (batches, None);
    while let Ok(header) = BatchHeader::parse(rest) {
        next = Some(header.next_offset());
        rest = rest.get(header.total_bytes()..)?;
    }
    next
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk as _, FileDisk};
    use crate::log::testing::{self, Model, ModelBatch, checkpoint};

    const END: Offset = 120;

    /// 60 batches of 2 records in several segments.
    fn filled(dir: &Path) -> Model {
        let mut log = testing::open(&FileDisk, dir, 0, 0);
        let mut model = Model::default();
        for time in 0..60 {
            let batch = ModelBatch::new(model.end(0), &[time, time], 40);
            log.append(&batch.bytes, 0).unwrap();
            model.0.push(batch);
        }
        checkpoint(&mut log);
        model
    }

    fn first_file(dir: &Path) -> std::path::PathBuf {
        dir.join(format!("{:020}.log", 0))
    }

    fn damage(path: &Path, position: u64) {
        let file = FileDisk.open(path, OpenMode::Write).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], position).unwrap();
    }

    #[test]
    fn a_damaged_batch_is_as_before_when_it_is_mended() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t-3");
        let model = filled(&dir);
        let whole = std::fs::read(first_file(&dir)).unwrap();
        let first = model.0[0].bytes.len();
        // A byte of the base offset, of the epoch and of the body of the second batch.
        for at in [3, 13, 80] {
            damage(&first_file(&dir), (first + at) as u64);
            let log = testing::open(&FileDisk, &dir, 0, END);
            let reader = log.reader();
            let Err(Error::Damaged { from, to, .. }) = reader.read(2, END, 1) else {
                panic!("byte {at} is not found")
            };
            let good: Vec<u8> = model
                .0
                .iter()
                .filter(|batch| {
                    (from..to).contains(&BatchHeader::parse(&batch.bytes).unwrap().base_offset)
                })
                .flat_map(|batch| batch.bytes.clone())
                .collect();
            assert!(reader.mend(from, &good).unwrap(), "byte {at}");
            assert_eq!(reader.read(2, END, 1).unwrap(), model.0[1].bytes, "byte {at}");
            assert_eq!(std::fs::read(first_file(&dir)).unwrap(), whole, "byte {at}");
            assert!(!reader.mend(from, &good).unwrap(), "there is nothing to mend any more");
        }
    }

    #[test]
    fn what_does_not_belong_there_is_not_written() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t-3");
        let model = filled(&dir);
        let first = model.0[0].bytes.len();
        damage(&first_file(&dir), (first + 80) as u64);
        let broken = std::fs::read(first_file(&dir)).unwrap();
        let reader = testing::open(&FileDisk, &dir, 0, END).reader();
        let good = &model.0[1].bytes;
        let mut rotten = good.clone();
        rotten[80] ^= 1;
        let longer = ModelBatch::new(2, &[1, 1], 41).bytes;
        let more = [good.as_slice(), &model.0[2].bytes].concat();
        for wrong in [&rotten[..], &longer, &more, &good[..good.len() - 1], &model.0[2].bytes, &[]]
        {
            assert!(!reader.mend(2, wrong).unwrap());
        }
        assert_eq!(std::fs::read(first_file(&dir)).unwrap(), broken);
    }

    #[test]
    fn a_segment_that_is_about_to_go_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t-3");
        let model = filled(&dir);
        damage(&first_file(&dir), (model.0[0].bytes.len() + 80) as u64);
        let mut log = testing::open(&FileDisk, &dir, 0, END);
        let reader = log.reader();
        let next = log.segments()[1].base_offset;
        log.detach_below(next).unwrap().unlink().unwrap();
        assert!(!reader.mend(2, &model.0[1].bytes).unwrap());
        assert!(!FileDisk.exists(&first_file(&dir)).unwrap());
    }
}
