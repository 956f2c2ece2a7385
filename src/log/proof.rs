//! Which bytes of a segment were found to be what was written, since the segment was opened.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::check::{self, Check, Heads, Stretch, add_head};
use super::error::{DamagedRange, Error, Fault};
use super::segment::View;
use super::walk::{Found, Step, Walk};
use crate::types::Offset;

/// Separate stretches that are remembered per segment, 8 KiB at most. Readers in order make one; random ones that make
/// more are checked again.
const STRETCHES: usize = 512;

/// Stretches of bytes from the begin of a batch to the end of one, apart from each other and in order.
#[derive(Debug, Default)]
pub(super) struct Stretches(Vec<(u64, u64)>);

impl Stretches {
    /// Whether all bytes of `from..to` are in it.
    fn cover(&self, from: u64, to: u64) -> bool {
        let before = self.0.partition_point(|(begin, _)| *begin <= from);
        let last = before.checked_sub(1).and_then(|last| self.0.get(last));
        last.is_some_and(|(_, end)| *end >= to)
    }

    fn add(&mut self, from: u64, to: u64) {
        let first = self.0.partition_point(|(_, end)| *end < from);
        let behind = self.0.partition_point(|(begin, _)| *begin <= to);
        let touched = self.0.get(first..behind).unwrap_or_default();
        let begin = touched.first().map_or(from, |(begin, _)| from.min(*begin));
        let end = touched.last().map_or(to, |(_, end)| to.max(*end));
        self.0.splice(first..behind, [(begin, end)]);
        if self.0.len() > STRETCHES {
            self.0 = vec![(begin, end)];
        }
    }
}

/// The bytes of one segment that need no second look.
#[derive(Debug, Default)]
pub(super) struct Proved {
    stretches: Mutex<Stretches>,
    /// Held while bytes are looked at, so that two readers of the same ones share the work.
    turn: Mutex<()>,
}

impl Proved {
    // A panic under this lock forgets nothing that was not proved.
    fn stretches(&self) -> MutexGuard<'_, Stretches> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn covers(&self, from: u64, to: u64) -> bool {
        self.stretches().cover(from, to)
    }

    pub(super) fn add(&self, from: u64, to: u64) {
        self.stretches().add(from, to);
    }

    /// Every byte is looked at again when it is next read.
    pub(super) fn forget(&self) {
        *self.stretches() = Stretches::default();
    }
}

/// Bytes read at once where bodies are read anyway.
const JUDGED_BYTES: u64 = 64 * 1024;

/// Of an interval against the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Good,
    /// A batch of it does not stand its own checks.
    Broken,
    /// Each batch seems right, and together they are not what was sealed.
    Altered,
}

/// What is known of a segment's sidecar.
#[derive(Debug, Default)]
pub(super) enum Sidecar {
    #[default]
    Unread,
    Usable(Arc<Check>),
    Unusable,
    /// The files have no name any more, or others have it.
    Retired,
}

impl Sidecar {
    /// Looks at it anew when it is next needed. Not where the files are another's, or nobody's, by now.
    pub(super) fn forget(&mut self) {
        if !matches!(self, Self::Retired) {
            *self = Self::Unread;
        }
    }
}

impl View {
    /// Damage around a batch whose header was checked; none if it is intact. Looked up if it was proved since the segment
    /// was opened, else found out: with its whole interval where the segment has a sidecar, else by its CRC.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn prove(&self, found: &Found) -> Result<Option<DamagedRange>, Error> {
        let proved = &self.segment.proved;
        if proved.covers(found.position, found.end()) {
            return Ok(None);
        }
        let check = self.check()?;
        if let Some(check) = &check {
            self.prove_ahead(check, found.position, found.end())?;
            if proved.covers(found.position, found.end()) {
                return Ok(None);
            }
        }
        if !self.is_intact(found)? {
            let (position, from) = (found.position, found.header.base_offset);
            return Ok(Some(self.damage(position, from, Fault::Checksum)?));
        }
        match check {
            // Intact in an interval that is not: by what broke another batch of it, or by what no batch shows.
            Some(check) => self.altered(&check, found),
            None => {
                proved.add(found.position, found.end());
                Ok(None)
            }
        }
    }

    /// Proves what has bytes of `from..to` as far as the sidecar helps with it: many intervals at once, for one search in
    /// the sidecar.
    pub(super) fn prove_range(&self, from: u64, to: u64) -> Result<(), Error> {
        if self.segment.proved.covers(from, to.min(self.bytes)) {
            return Ok(());
        }
        match self.check()? {
            Some(check) => self.prove_ahead(&check, from, to),
            None => Ok(()),
        }
    }

    /// Proves the intervals that have bytes of `from..to`, up to the first that does not stand the test.
    fn prove_ahead(&self, check: &Check, from: u64, to: u64) -> Result<(), Error> {
        let path = &self.segment.paths.check;
        for stretch in check.stretches(from, to).map_err(Error::io("read", path))? {
            let proved = &self.segment.proved;
            let _turn = proved.turn();
            if !proved.covers(stretch.position, stretch.end) {
                if self.judge(&stretch)? != Judgement::Good {
                    return Ok(());
                }
                proved.add(stretch.position, stretch.end);
            }
        }
        Ok(())
    }

    /// The interval of an intact batch as damage, if none of its batches shows why the interval is not what was sealed.
    fn altered(&self, check: &Check, found: &Found) -> Result<Option<DamagedRange>, Error> {
        let path = &self.segment.paths.check;
        let stretches = check.stretches(found.position, found.end());
        let stretches = stretches.map_err(Error::io("read", path))?;
        let Some(stretch) = stretches.first() else { return Ok(None) };
        if self.judge(stretch)? != Judgement::Altered {
            return Ok(None);
        }
        let Stretch { position, first, next, .. } = *stretch;
        let base = self.segment.base;
        let (from, to) = (base + Offset::from(first), base + Offset::from(next));
        let (path, fault) = (self.segment.paths.log.clone(), Fault::Altered);
        Ok(Some(DamagedRange { path, position, from, to, fault }))
    }

    /// The sidecar of a sealed segment, made anew where it cannot be believed; so are the indexes that it does not match.
    /// None for a segment that grows, and for one with damage, of which nobody can say any more what it was.
    pub(super) fn check(&self) -> Result<Option<Arc<Check>>, Error> {
        let segment = &self.segment;
        if !segment.indexes().offsets.is_sealed() {
            return Ok(None);
        }
        let mut sidecar = segment.sidecar();
        if matches!(*sidecar, Sidecar::Unread) {
            let length = segment.file.len().map_err(Error::io("read", &segment.paths.log))?;
            if length != self.bytes {
                // A view from before the segment was sealed.
                return Ok(None);
            }
            *sidecar = match self.load_check()? {
                Some(check) => Sidecar::Usable(Arc::new(check)),
                None => Sidecar::Unusable,
            };
        }
        Ok(match &*sidecar {
            Sidecar::Usable(check) if check.summary.bytes == self.bytes => Some(Arc::clone(check)),
            _ => None,
        })
    }

    /// The files are about to be unlinked or replaced: nothing is made anew any more. Waits for who is at it. Readers that have the
    /// segment still read it, each batch by its own checks.
    pub(super) fn retire(&self) {
        self.segment.retire();
    }

    /// As [`View::rebuild_indexes`], unless the files are retired.
    pub(super) fn renew_indexes(&self) -> Result<(), Error> {
        match *self.segment.sidecar() {
            Sidecar::Retired => Ok(()),
            Sidecar::Unread | Sidecar::Usable(_) | Sidecar::Unusable => self.rebuild_indexes(),
        }
    }

    fn load_check(&self) -> Result<Option<Check>, Error> {
        let segment = &self.segment;
        let path = &segment.paths.check;
        let found = Check::open(&segment.disk, path).map_err(Error::io("read", path))?;
        let ours = |check: &Check| check.summary.is_of(segment.base, self.bytes, self.next_offset);
        let Some(check) = found.filter(ours) else { return self.make_check() };
        let sums = segment.indexes().sums().map_err(Error::io("read", &segment.paths.index))?;
        if sums != check.summary.indexes {
            self.rebuild_indexes()?;
        }
        Ok(Some(check))
    }

    /// Makes the sidecar from the segment, which is read wholly.
    fn make_check(&self) -> Result<Option<Check>, Error> {
        let segment = &self.segment;
        let mut scratch = Self { highest: None, ..self.clone() };
        let mut fresh = segment.indexes().emptied();
        fresh.heads = Some(Heads::default());
        let mut walk = Walk::begin(self).with_window(JUDGED_BYTES);
        loop {
            match walk.next()? {
                Step::Batch(found) if walk.is_intact(&found)? => {
                    scratch.note(&mut fresh, found.position, &found.header);
                }
                Step::Batch(_) | Step::Damaged(_) => return Ok(None),
                Step::End => break,
            }
        }
        scratch.note_highest(&mut fresh);
        let failed = || Error::io("read", &segment.paths.index);
        let sums = fresh.sums().map_err(failed())?;
        if sums != segment.indexes().sums().map_err(failed())? {
            self.rebuild_indexes()?;
        }
        let Some(heads) = fresh.heads.take() else { return Ok(None) };
        let path = &segment.paths.check;
        let made =
            check::write(segment.disk.as_ref(), path, &scratch.summary(sums, &heads), &heads);
        if let Err(error) = made {
            // A full disk, say: each batch can prove itself by its own checksum.
            tracing::warn!(%error, path = %path.display(), "could not write the checksums of a sealed segment");
            return Ok(None);
        }
        Check::open(&segment.disk, path).map_err(Error::io("read", path))
    }

    /// Whether an interval is now what was sealed.
    pub(super) fn is_good(&self, stretch: &Stretch) -> Result<bool, Error> {
        Ok(self.judge(stretch)? == Judgement::Good)
    }

    fn judge(&self, stretch: &Stretch) -> Result<Judgement, Error> {
        let base = self.segment.base;
        let part = Self {
            bytes: stretch.end,
            next_offset: base + Offset::from(stretch.next),
            ..self.clone()
        };
        let first = base + Offset::from(stretch.first);
        // A long interval has one long batch, behind small ones if any: its body does not come with its header.
        let long = stretch.end - stretch.position > JUDGED_BYTES;
        let walk = Walk::from(&part, stretch.position, first);
        let mut walk = if long { walk } else { walk.with_window(JUDGED_BYTES) };
        let mut crc = 0;
        loop {
            match walk.next()? {
                Step::Batch(found) if walk.is_intact(&found)? => crc = add_head(crc, &found.header),
                Step::Batch(_) | Step::Damaged(_) => return Ok(Judgement::Broken),
                Step::End if walk.position() == stretch.end && crc == stretch.crc => {
                    return Ok(Judgement::Good);
                }
                Step::End => return Ok(Judgement::Altered),
            }
        }
    }
}

#[cfg(test)]
mod tests;
