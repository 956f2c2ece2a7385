//! The parts that this server is made of.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::listen::{Advertised, Listener};
use super::run::{Context, Parts, Serve, Stop};
use crate::broker::{self, Adopted, Broker};
use crate::disk::{Disk, FileDisk};
use crate::kafka;
use crate::types::ClusterId;

/// The share of the memory budget that fetched data may take; the rest is for requests and what waits for its sync.
const FETCH_SHARE: usize = 4;

/// Opens the parts.
///
/// # Errors
/// What a part refuses, or why it cannot start.
pub async fn open(context: Context) -> Result<Parts, Error> {
    let broker = open_broker(&context).await?;
    let kafka = kafka_front_end(&context, &broker);
    let stop: Stop = Box::new(move |deadline| Box::pin(stop(broker, deadline)));
    Ok(Parts { kafka: Some(kafka), tlog: None, stop: Some(stop) })
}

async fn open_broker(context: &Context) -> Result<Arc<Broker>, Error> {
    let path = context.data_dir.clone();
    let mut config = broker::Config::new(path.clone());
    config.memory_budget_bytes = budget(context) - budget(context) / FETCH_SHARE;
    let metrics = context.metrics.register(broker::Metrics::new);
    let opening = tokio::task::spawn_blocking(move || {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk);
        let mut data_dir = broker::DataDir::open(disk, &path, random())?;
        let cluster = data_dir.cluster.unwrap_or_else(|| ClusterId::from_random(random()));
        data_dir.settle(cluster)?;
        Broker::open(config, &data_dir, Adopted::default(), cluster, metrics)
    });
    match opening.await {
        Ok(opened) => opened.map_err(refused),
        Err(error) => Err(part("broker", 1, error)),
    }
}

fn refused(error: broker::OpenError) -> Error {
    match error {
        error @ (broker::OpenError::Format { .. } | broker::OpenError::OtherCluster { .. }) => {
            Error::Refused { source: error.into() }
        }
        error @ broker::OpenError::Io { .. } => part("broker", 1, error),
        error => part("broker", 2, error),
    }
}

fn part(
    part: &'static str,
    exit_code: u8,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Part { part, exit_code, source: source.into() }
}

fn kafka_front_end(context: &Context, broker: &Arc<Broker>) -> Serve {
    let config = kafka::Config { fetch_memory_bytes: budget(context) / FETCH_SHARE };
    let front = context.metrics.register(|registry| {
        kafka::FrontEnd::new(Arc::clone(broker), config, registry)
    });
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
    futures_util::future::join_all(serving).await;
}

fn stop(broker: Arc<Broker>, _deadline: Instant) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        // The last commit and the checkpoint block, but nobody else needs the thread any more.
        tokio::task::spawn_blocking(move || broker.stop()).await.ok();
    })
}

fn budget(context: &Context) -> usize {
    usize::try_from(context.config.memory_budget_bytes).unwrap_or(usize::MAX)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}
