//! The parts that this server is made of.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk;
use super::error::Error;
use super::listen::{Advertised, Listener};
use super::run::{Context, Parts, Serve, Stop};
use super::storage;
use super::{local_log, offline};
use crate::broker::vdisk;
use crate::broker::vdisks::Vdisks;
use crate::broker::{self, Adopted, Broker, DataDir};
use crate::disk::{FileDisk, is_no_room};
use crate::tier::{Remaining, Tier};
use crate::{kafka, tlog};

/// One of so many parts of the memory budget is for fetched data, another for blocks beyond gaps; the rest is for
/// requests and what waits for its sync.
const SHARE: usize = 4;
/// One of so many parts of it is for Kafka requests that are still arriving.
const ARRIVING_SHARE: usize = 8;

/// Opens the parts.
///
/// # Errors
/// What a part refuses, or why it cannot start.
pub async fn open(context: Context) -> Result<Parts, Error> {
    let stop = CancellationToken::new();
    let path = context.data_dir.clone();
    let data_dir = blocking(move || DataDir::open(Arc::new(FileDisk), &path, random()))
        .await?
        .map_err(refused)?;
    let opened = storage::open(&context, &data_dir, &stop).await?;
    let tier = opened.tier;
    let broker = {
        let config = broker_config(&context);
        let metrics = context.metrics.register(broker::Metrics::new);
        let (tier, cluster) = (Arc::clone(&tier), opened.cluster);
        let adopted = Adopted::from(opened.recovered);
        let mut data_dir = data_dir;
        let opening = move || {
            data_dir.settle(cluster)?;
            Broker::open(config, &data_dir, adopted, cluster, Some(tier), metrics)
        };
        blocking(opening).await?.map_err(refused)?
    };
    storage::watch(Arc::clone(&tier), context.health.clone(), stop.clone());
    offline::watch(Arc::clone(&broker), context.health.clone(), stop.clone());
    local_log::watch(Arc::clone(&broker), context.health.clone(), stop.clone());
    disk::watch(Arc::clone(&broker), context.health.clone(), stop.clone());
    let kafka = kafka_front_end(&context, &broker);
    let tlog = tlog_front_end(&context, &broker, &stop);
    let finish: Stop = Box::new(move |deadline| Box::pin(finish(broker, tier, stop, deadline)));
    Ok(Parts { kafka: Some(kafka), tlog: Some(tlog), stop: Some(finish) })
}

/// Work on files runs off the tasks' threads, but in the runtime: shipping starts from in there.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| part("broker", 1, error))
}

fn refused(error: broker::OpenError) -> Error {
    match error {
        error @ (broker::OpenError::Format { .. } | broker::OpenError::OtherCluster { .. }) => {
            Error::Refused { source: error.into() }
        }
        error @ broker::OpenError::WrongKey { .. } => part("data directory", 12, error),
        error => match file_system_error(&error) {
            Some(cause) if is_no_room(cause) => part(
                "broker: no room to start; nothing is lost, free some space and start again",
                1,
                error,
            ),
            // What the disk gives of a file that is shorter or longer than it may be.
            Some(cause) if !is_wrong_length(cause) => part("broker", 1, error),
            _ => part("broker", 2, error),
        },
    }
}

fn is_wrong_length(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The system's refusal at the bottom of an error: then nothing is known to be damaged.
fn file_system_error(error: &broker::OpenError) -> Option<&io::Error> {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        match cause.downcast_ref() {
            Some(io) => return Some(io),
            None => cause = cause.source()?,
        }
    }
}

fn part(
    part: &'static str,
    exit_code: u8,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Part { part, exit_code, source: source.into() }
}

fn broker_config(context: &Context) -> broker::Config {
    let mut config = broker::Config::new(context.data_dir.clone());
    config.local_log_limit_bytes = context.config.local_log_limit_bytes;
    config.retention_interval = context.config.retention_check_interval;
    config.scrub = broker::ScrubConfig {
        bytes_per_second: context.config.scrub_bytes_per_second,
        interval: context.config.scrub_interval,
    };
    let budget = budget(context);
    config.open_segments = super::process::open_segments();
    config.memory_budget_bytes = budget - 2 * (budget / SHARE) - budget / ARRIVING_SHARE;
    config
}

fn kafka_front_end(context: &Context, broker: &Arc<Broker>) -> Serve {
    let config = kafka::Config {
        fetch_memory_bytes: budget(context) / SHARE,
        arriving_memory_bytes: budget(context) / ARRIVING_SHARE,
    };
    let front = context
        .metrics
        .register(|registry| kafka::FrontEnd::new(Arc::clone(broker), config, registry));
    Box::new(move |listeners, stop| Box::pin(serve_kafka(front, listeners, stop)))
}

async fn serve_kafka(front: kafka::FrontEnd, listeners: Vec<Listener>, stop: CancellationToken) {
    let serving = listeners.into_iter().map(|listener| {
        let advertised = match listener.advertised {
            Some(Advertised::Fixed(address)) => {
                kafka::Advertised::Fixed { host: address.host, port: address.port }
            }
            Some(Advertised::Connected) | None => kafka::Advertised::AsConnected,
        };
        let (front, stop) = (front.clone(), stop.clone());
        let named = kafka::Listener { name: listener.name, advertised };
        async move { front.serve(named, listener.socket, stop).await }
    });
    join_all(serving).await;
}

fn tlog_front_end(context: &Context, broker: &Arc<Broker>, stop: &CancellationToken) -> Serve {
    let config = vdisk::Config {
        flush_size: usize::try_from(context.config.flush_size).unwrap_or(usize::MAX),
        flush_time: context.config.flush_time,
        default_block_size: u64::from(context.config.block_size_bytes),
    };
    let held_bytes = budget(context) / SHARE;
    let vdisks = Vdisks::new(Arc::clone(broker), config, held_bytes, stop.child_token());
    Box::new(move |listeners, stop| Box::pin(serve_tlog(vdisks, listeners, stop)))
}

async fn serve_tlog(vdisks: Arc<Vdisks>, listeners: Vec<Listener>, stop: CancellationToken) {
    let anyone: Option<IpAddr> = None;
    let serving = listeners.into_iter().map(|listener| {
        tlog::listener::serve(listener.socket, Arc::clone(&vdisks), anyone, stop.clone())
    });
    join_all(serving).await;
}

/// Ships what can be shipped until `deadline`, then commits what is left and writes a clean checkpoint.
async fn finish(broker: Arc<Broker>, tier: Arc<Tier>, stop: CancellationToken, deadline: Instant) {
    let Remaining { partitions, unshipped, incomplete } = tier.stop(deadline.into_std()).await;
    stop.cancel();
    if unshipped + incomplete > 0 {
        tracing::warn!(
            partitions,
            unshipped_records = unshipped,
            incomplete_records = incomplete,
            "not everything is on the shard servers; the local log has it, and the next start goes on"
        );
    }
    // A panic in there ended the process already.
    tokio::task::spawn_blocking(move || broker.stop()).await.ok();
}

fn budget(context: &Context) -> usize {
    usize::try_from(context.config.memory_budget_bytes).unwrap_or(usize::MAX)
}

/// Bytes of the system's random source.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_damage_and_every_cause_is_said() {
        let full = broker::OpenError::Io {
            op: "write",
            path: "/data/x.index".to_owned(),
            source: io::ErrorKind::StorageFull.into(),
        };
        let error = refused(full);
        assert_eq!(error.exit_code(), 1);
        let words = error.to_string();
        for part in ["free some space", "/data/x.index", "no storage space"] {
            assert!(words.contains(part), "{words}");
        }
        let short = broker::OpenError::Io {
            op: "read",
            path: String::new(),
            source: io::ErrorKind::UnexpectedEof.into(),
        };
        assert_eq!(refused(short).exit_code(), 2);
    }
}
