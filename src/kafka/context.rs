//! What a request is given: the broker, its listener, its peer.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::memory::{Memory, Reservation};
use super::metrics::Metrics;
use crate::broker::Broker;
use crate::types::limits;

/// Frames that arrive at the same time without memory of the pool for them, because it is used up.
const ARRIVAL_TURNS: usize = 2;
/// How long an answer may wait for memory: others take theirs in milliseconds.
const ANSWER_MEMORY_WAIT: Duration = Duration::from_secs(10);

/// Settings of the front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Memory for fetched data of all connections together, in bytes. When it is short, answers get smaller. Requests
    /// take theirs from the broker.
    pub fetch_memory_bytes: usize,
    /// Memory for request frames above 64 KiB of all connections together until they are complete, in bytes.
    pub arriving_memory_bytes: usize,
}

/// Where clients are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    /// Always this one.
    Fixed {
        /// Name or address.
        host: String,
        /// Port, not 0.
        port: u16,
    },
    /// The address that the client itself connected to: right for a listener bound to a wildcard, unless addresses are
    /// translated on the way.
    AsConnected,
}

/// A listener of the front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: String,
    /// What Metadata answers on its connections.
    pub advertised: Advertised,
}

/// The Kafka front end. A cheap handle.
#[derive(Debug, Clone)]
pub struct FrontEnd {
    pub(super) shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub broker: Arc<Broker>,
    pub metrics: Metrics,
    /// Fetched data, from before it is read until its answer is written.
    pub fetched: Memory,
    /// Other answers above 64 KiB, from before they are encoded until they are written.
    pub answers: Memory,
    /// Threads that decode and check large requests at the same time.
    pub workers: Arc<Semaphore>,
    /// Frames above 64 KiB until they are complete: apart from the budget, so that who announces a request and does
    /// not send it keeps nobody from having theirs carried out.
    pub arriving: Memory,
    /// Turns to arrive without it.
    pub arrival_turns: Arc<Semaphore>,
    /// The decoded forms of requests, until their answers are made.
    pub decoded: Memory,
    pub connections: Arc<Semaphore>,
}

impl FrontEnd {
    /// A front end over `broker`; its metrics go to `registry`.
    pub fn new(broker: Arc<Broker>, config: Config, registry: &mut Registry) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = Shared {
            broker,
            metrics: Metrics::new(registry),
            fetched: Memory::new(config.fetch_memory_bytes),
            answers: Memory::new(limits::KAFKA_ANSWERS_BYTES),
            workers: Arc::new(Semaphore::new(cores)),
            arriving: Memory::new(config.arriving_memory_bytes),
            arrival_turns: Arc::new(Semaphore::new(ARRIVAL_TURNS)),
            decoded: Memory::new(limits::KAFKA_DECODED_REQUESTS_BYTES),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS)),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Shared {
    /// Memory for an answer other than fetched data. None if it is not free in time: who waits holds the memory of a
    /// request, and those who read their answers slowly must not hold up the others that need it. A short answer needs
    /// nothing.
    pub async fn answer_memory(&self, bytes: usize) -> Option<Reservation> {
        if bytes <= limits::KAFKA_SMALL_ANSWER_BYTES {
            return Some(Reservation::default());
        }
        timeout(ANSWER_MEMORY_WAIT, self.answers.reserve(bytes)).await.ok()
    }

    /// Waits until no connection is open.
    pub async fn idle(&self) {
        let all = u32::try_from(limits::CONNECTIONS).unwrap_or(u32::MAX);
        drop(self.connections.acquire_many(all).await);
    }
}

/// A client's own words about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Software {
    pub name: String,
    pub version: String,
}

/// One connection as its requests see it.
#[derive(Debug)]
pub(super) struct Peer {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    /// Host and port for Metadata.
    pub advertised: (String, u16),
    /// The process is about to stop: long polls answer what they have.
    pub stop: CancellationToken,
    software: Mutex<Software>,
}

impl Peer {
    pub fn new(
        shared: Arc<Shared>,
        listener: &Listener,
        address: SocketAddr,
        local: SocketAddr,
        stop: CancellationToken,
    ) -> Self {
        let advertised = match &listener.advertised {
            Advertised::Fixed { host, port } => (host.clone(), *port),
            Advertised::AsConnected => (plain(local.ip()).to_string(), local.port()),
        };
        Self { shared, address, advertised, stop, software: Mutex::default() }
    }

    pub fn broker(&self) -> &Arc<Broker> {
        &self.shared.broker
    }

    pub fn software(&self) -> Software {
        self.software.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_software(&self, software: Software) {
        *self.software.lock().unwrap_or_else(PoisonError::into_inner) = software;
    }
}

/// An IPv4 client of a dual-stack socket shows as `::ffff:a.b.c.d`, which not every client can resolve.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_advertised_as_ipv4() {
        assert_eq!(plain("::ffff:10.0.0.1".parse().unwrap()).to_string(), "10.0.0.1");
        assert_eq!(plain("::1".parse().unwrap()).to_string(), "::1");
    }
}
