//! Tells the admin port how the disk of the data directory is, and how much would be lost with it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::{Finding, Health};
use crate::broker::{Broker, DiskState, DiskStatus};
use crate::task;

/// How often the disk is looked at for `/readyz` and `/metrics`: one call of the system.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the finding of the admin port, and with it the log, as the disk is, until `stop`.
pub(super) fn watch(broker: Arc<Broker>, health: Health, stop: CancellationToken) {
    task::spawn("disk status", async move {
        loop {
            let looking = Arc::clone(&broker);
            // The disk may hang.
            let looked = tokio::task::spawn_blocking(move || {
                looking.count_unshipped();
                looking.disk_status()
            });
            let looked = looked.await;
            match looked.ok().as_ref().and_then(finding) {
                Some(finding) => health.report(finding),
                None => health.clear("disk"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    });
}

fn finding(status: &DiskStatus) -> Option<Finding> {
    let name = "disk";
    let DiskStatus { path, state, look, waits } = status;
    let path = path.display();
    let Some(look) = look else {
        let cure = format!("free some space or inodes below {path}");
        return (*state != DiskState::Room)
            .then(|| Finding::degraded(name, format!("disk full: {path}"), cure));
    };
    let inodes = match look.space.free_inodes {
        u64::MAX => String::new(),
        inodes => format!(" and {inodes} inodes"),
    };
    let free = format!("{path} has {} bytes{inodes} free", look.space.free_bytes);
    let held = look.reserve_bytes - look.missing_bytes;
    let goes_on = match (state, waits) {
        (DiskState::Room, _) => {
            return Some(Finding::ok(name, format!("{free}, {held} bytes more are held back")));
        }
        (DiskState::Low | DiskState::Full, false) => {
            "appends and new topics are refused; reads, deletions and shipping go on"
        }
        (DiskState::Low | DiskState::Full, true) => {
            "what was accepted waits for room, and so do deletions; reads go on"
        }
    };
    let detail = format!(
        "disk full: {free}, {held} of {} bytes of the reserve are left: {goes_on}",
        look.reserve_bytes
    );
    let cure = format!(
        "free some space or inodes there, or delete topics: with {} bytes and some hundred inodes free it goes on by itself",
        2 * look.floor_bytes + look.missing_bytes
    );
    Some(Finding::degraded(name, detail, cure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::State;
    use crate::broker::DiskLook;
    use crate::disk::Space;

    fn status(state: DiskState, waits: bool) -> DiskStatus {
        let space = Space { total_bytes: 1 << 30, free_bytes: 4711, free_inodes: 12 };
        let (reserve_bytes, missing_bytes, piece_bytes, floor_bytes) = (1600, 300, 100, 200);
        let look = DiskLook { space, reserve_bytes, missing_bytes, piece_bytes, floor_bytes };
        DiskStatus { path: "/data".into(), state, look: Some(look), waits }
    }

    #[test]
    fn a_full_disk_is_named_with_what_is_free_what_goes_on_and_the_cure() {
        let found = finding(&status(DiskState::Full, false)).unwrap();
        assert_eq!(found.state, State::Degraded);
        for part in ["/data", "4711 bytes", "12 inodes", "1300 of 1600", "reads, deletions"] {
            assert!(found.detail.contains(part), "{found:?}");
        }
        assert!(found.cure.contains("700 bytes"), "{found:?}");
        let waits = finding(&status(DiskState::Full, true)).unwrap();
        assert!(waits.detail.contains("waits"), "{waits:?}");
        assert_eq!(finding(&status(DiskState::Room, false)).unwrap().state, State::Ok);
        let unknown = DiskStatus { look: None, ..status(DiskState::Room, false) };
        assert_eq!(finding(&unknown), None);
    }
}
