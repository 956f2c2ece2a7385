//! Bytes in flight, bounded over all connections.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit stands for this many bytes: a semaphore counts in `u32`.
const UNIT_BYTES: usize = 1024;

/// A pool of bytes. Cheap to clone; clones share the pool.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    /// All units, taken or not.
    total: u32,
}

/// Bytes taken from a [`Memory`]; they go back when this is dropped. None by default.
#[derive(Debug, Default)]
pub struct Reservation {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Reservation {
    /// How many bytes may be used.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what lies above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        let keep = units(bytes) as usize;
        if let Some(permit) = &mut self.permit {
            let surplus = permit.num_permits().saturating_sub(keep);
            drop(permit.split(surplus));
        }
        self.bytes = bytes;
    }

    /// Adds `other`, of the same pool.
    pub fn absorb(&mut self, other: Self) {
        self.bytes += other.bytes;
        match (&mut self.permit, other.permit) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (ours @ None, theirs) => *ours = theirs,
            (Some(_), None) => {}
        }
    }
}

impl Memory {
    /// A pool of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits until `bytes` are free and takes them. More than the whole pool waits for all of it.
    ///
    /// # Cancel safety
    /// A dropped future takes nothing and loses its place in the queue.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let permits = units(bytes).min(self.total);
        let permit = Arc::clone(&self.units)
            .acquire_many_owned(permits)
            .await
            .expect("the pool's semaphore is never closed");
        Reservation { permit: Some(permit), bytes }
    }

    /// Takes `bytes` if they are free now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units(bytes)).ok()?;
        Some(Reservation { permit: Some(permit), bytes })
    }

    /// Bytes that nobody has.
    #[cfg(test)]
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }

    /// Takes up to `bytes` without waiting: all, or half, or a quarter, and so on. What it cannot take down to `floor`
    /// bytes it grants from outside the pool, so that every reader makes progress.
    pub fn reserve_up_to(&self, bytes: usize, floor: usize) -> Reservation {
        let mut wanted = bytes;
        while wanted > floor {
            if let Some(taken) = self.try_reserve(wanted) {
                return taken;
            }
            wanted /= 2;
        }
        Reservation { permit: None, bytes: bytes.min(floor) }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_short_pool_gives_less_and_never_nothing() {
        let memory = Memory::new(64 * 1024);
        let mut first = memory.reserve_up_to(40 * 1024, 1024);
        assert_eq!(first.bytes(), 40 * 1024);
        let second = memory.reserve_up_to(40 * 1024, 1024);
        assert_eq!(second.bytes(), 20 * 1024);
        first.shrink_to(10 * 1024);
        assert_eq!(memory.free_bytes(), (64 - 20 - 10) * 1024);
        let third = Memory::new(0).reserve_up_to(1 << 30, 4096);
        assert_eq!(third.bytes(), 4096);
    }

    #[tokio::test]
    async fn what_is_waited_for_comes_when_others_give_back() {
        let memory = Memory::new(64 * 1024);
        let first = memory.reserve(1024).await;
        assert_eq!(memory.free_bytes(), 63 * 1024);
        let mut all = Box::pin(memory.reserve(1 << 30));
        assert!((&mut all).now_or_never().is_none());
        drop(first);
        let all = all.await;
        assert_eq!(memory.free_bytes(), 0);
        drop(all);
        assert_eq!(memory.free_bytes(), 64 * 1024);
    }
}
