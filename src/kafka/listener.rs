//! Accepts connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection;
use super::context::{FrontEnd, Listener, Peer};
use crate::task;

/// A failed accept means, most often, that no file descriptor is free, which does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Idle time after which the system asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

impl FrontEnd {
    /// Serves the connections of `socket` until `stop`; then long polls answer what they have, requests that were read are
    /// carried out and answered, connections close, and this returns when the last one has.
    ///
    /// # Cancel safety
    /// Dropping the future stops accepting; open connections go on.
    pub async fn serve(&self, listener: Listener, socket: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => self.begin(&listener, stream, &stop),
                Err(error) => {
                    tracing::warn!(listener = listener.name, %error, "cannot accept a Kafka connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(socket);
        self.shared.idle().await;
    }

    fn begin(&self, listener: &Listener, stream: TcpStream, stop: &CancellationToken) {
        let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() else {
            tracing::warn!(
                listener = listener.name,
                "too many Kafka connections: closed a new one"
            );
            return;
        };
        let addresses = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
        let Ok((address, local)) = addresses else {
            return; // Closed before it was looked at.
        };
        tune(&stream);
        let shared = Arc::clone(&self.shared);
        let counted = shared.metrics.connected(&listener.name);
        let peer = Arc::new(Peer::new(shared, listener, address, local, stop.child_token()));
        task::spawn("kafka connection", async move {
            connection::serve(peer, stream).await;
            drop((counted, permit));
        });
    }
}

/// Answers leave at once, and a peer that vanished is noticed. What fails here costs speed, not correctness.
fn tune(stream: &TcpStream) {
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_socket_keepalive(stream, true)?))
        .and_then(|()| Ok(rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE)?));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket option was refused");
    }
}
