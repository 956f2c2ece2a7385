//! Claiming a partition before anything of it is shipped: its fence is raised, and what the servers hold is read.

use std::sync::Arc;

use super::catalogue::{Fragments, Listing};
use super::local::{Local, ShipState};
use super::put::writer;
use super::shipper::End;
use super::store::StoreError;
use super::tier::Core;
use super::waiting::Waiting;
use crate::clock;

/// Raises the fence on every server that answers, on enough of them to meet every set on which something can have been
/// stored, and reads entries and heads there. Waits for servers as long as it takes.
pub(super) async fn claim(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    local: &Arc<dyn Local>,
) -> Result<Listing, End> {
    // The cluster's identity stands on enough servers before anything else does.
    let id = local.id();
    let mut waiting = Waiting::new(&core.servers, "claim partitions").of(&core.board, id);
    loop {
        let (up, needed) = (core.servers.look().await, core.ship_quorum());
        if up >= needed {
            break;
        }
        waiting.pause(up, needed, None).await;
    }
    let needed = core.config.fence_quorum(core.servers.len()).max(core.listing_quorum());
    loop {
        let raised = raise(core, local).await?;
        if raised >= needed
            && let Some(listing) = fragments.claim_listing(core, needed).await
        {
            waiting.over();
            return Ok(listing);
        }
        waiting.pause(raised, needed, Some("some do not give what they hold")).await;
    }
}

/// Raises the fence everywhere. Gives the number of servers on which it stands.
async fn raise(core: &Arc<Core>, local: &Arc<dyn Local>) -> Result<usize, End> {
    let (id, now_ms) = (local.id(), clock::wall_ms());
    loop {
        let writer = writer(core, &**local);
        let servers = &core.servers;
        let answers = servers
            .every(|index| async move {
                let raise = |address: String| {
                    servers.call(index, move |store| {
                        store.raise_fence(id, writer, now_ms, address.clone())
                    })
                };
                raise(core.address.clone()).await
            })
            .await;
        let mut raised = 0;
        let mut own = None;
        for answer in answers {
            match answer {
                Ok(()) => raised += 1,
                Err(StoreError::Fenced { fence, .. }) if fence.data_dir == core.data_dir => {
                    own = own.max(Some(fence.epoch));
                }
                Err(StoreError::Fenced { fence, .. }) => return Err(End::Fenced(fence)),
                Err(_) => {}
            }
        }
        match own {
            // We were further already, before an unclean end.
            Some(epoch) if epoch > writer.epoch => local.raise_epoch(epoch),
            _ => return Ok(raised),
        }
    }
}

/// What is to be done about entries above the newest fragment that we know of: `Ok` gives the numbers to give up.
///
/// # Errors
/// [`End::Refused`] when the servers hold fragments that this data directory never made.
pub(super) fn leftovers(state: &ShipState, listing: &Listing) -> Result<Vec<u64>, End> {
    let head = state.head.map(|head| head.number);
    let intended = state.intent.as_ref().map(|intent| intent.number);
    let known = state.last_number.max(head).max(intended);
    let entries = listing.manifest.chain().chain(listing.manifest.strays());
    let above: Vec<_> = entries.filter(|entry| Some(entry.number) > head).collect();
    if let Some(theirs) = above.iter().find(|entry| Some(entry.number) > known) {
        return Err(End::Refused(format!(
            "the shard servers hold offsets up to {} of it, which this data directory never shipped: it is an old copy; start \
             with an empty data directory to take over what they hold",
            theirs.last_offset
        )));
    }
    let given_up =
        above.iter().map(|entry| entry.number).filter(|number| Some(*number) != intended);
    Ok(given_up.collect())
}
