//! Accepts TLog clients.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::connection;
use crate::broker::vdisks::Vdisks;
use crate::types::limits::CONNECTIONS;

/// Before accepting again when the system has no descriptor or memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until `stop`; returns when the last connection ended. Where `only` is given, other hosts are closed
/// without an answer.
pub async fn serve(
    listener: TcpListener,
    vdisks: Arc<Vdisks>,
    only: Option<IpAddr>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TLog connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if only.is_some_and(|only| only.to_canonical() != peer.ip().to_canonical()) {
            tracing::debug!(%peer, "not the host that may connect");
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, limit = CONNECTIONS, "too many TLog connections");
            continue;
        };
        let (vdisks, stop) = (Arc::clone(&vdisks), stop.clone());
        crate::task::spawn("tlog-connection", async move {
            connection::serve(stream, peer, vdisks, stop).await;
            drop(place);
        });
    }
    drop(listener);
    // Every place is free when every connection ended.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    places.acquire_many(all).await.map(drop).ok();
}
