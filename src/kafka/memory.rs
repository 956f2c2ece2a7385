//! Bytes in flight, bounded over all connections.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit stands for this many bytes: a semaphore counts in `u32`.
const UNIT_BYTES: usize = 1024;

/// A pool of bytes. Cheap to clone; clones share the pool.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
}

/// Bytes taken from a [`Memory`]; they go back when this is dropped.
#[derive(Debug)]
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
        let keep = units(bytes);
        if let Some(permit) = &mut self.permit {
            let surplus = permit.num_permits().saturating_sub(keep);
            drop(permit.split(surplus));
        }
        self.bytes = bytes;
    }
}

impl Memory {
    /// A pool of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)) }
    }

    /// Takes up to `bytes` without waiting: all, or half, or a quarter, and so on. What it cannot take down to `floor`
    /// bytes it grants from outside the pool, so that every reader makes progress.
    pub fn reserve_up_to(&self, bytes: usize, floor: usize) -> Reservation {
        let mut wanted = bytes;
        while wanted > floor {
            let permits = u32::try_from(units(wanted)).unwrap_or(u32::MAX);
            if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(permits) {
                return Reservation { permit: Some(permit), bytes: wanted };
            }
            wanted /= 2;
        }
        Reservation { permit: None, bytes: bytes.min(floor) }
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_pool_gives_less_and_never_nothing() {
        let memory = Memory::new(64 * 1024);
        let mut first = memory.reserve_up_to(40 * 1024, 1024);
        assert_eq!(first.bytes(), 40 * 1024);
        let second = memory.reserve_up_to(40 * 1024, 1024);
        assert_eq!(second.bytes(), 20 * 1024);
        first.shrink_to(10 * 1024);
        assert_eq!(memory.units.available_permits(), 64 - 20 - 10);
        let third = Memory::new(0).reserve_up_to(1 << 30, 4096);
        assert_eq!(third.bytes(), 4096);
    }
}
