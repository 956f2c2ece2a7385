//! The order of start and stop.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::data_dir::DataDir;
use super::error::Error;
use super::listen::{Advertised, Listener, bind};
use super::parts;
use super::signals::Signals;
use crate::admin::{self, Finding, Health, Metrics};
use crate::config::{Config, HostPort};
use crate::task;

/// How long connections may take to finish what they answer. A stop ships only afterwards, and has its own deadline.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(5);

/// How long the admin port may take to finish its last answers.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// What the parts are given to open with.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The locked data directory.
    pub data_dir: PathBuf,
    /// Where parts report.
    pub health: Health,
    /// Where parts register what they count.
    pub metrics: Metrics,
}

/// A front end: accepts on its sockets until the token is cancelled, then ends its connections and returns.
pub type Serve = Box<dyn FnOnce(Vec<Listener>, CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// Finishes everything behind the front ends by this instant: final sync, then shipping what can be shipped. Called
/// when no connection is left; says in the log what remains.
pub type Stop = Box<dyn FnOnce(Instant) -> BoxFuture<'static, ()> + Send>;

/// The opened parts. One that is missing has its port closed, and keeps the server from being ready.
#[derive(Default)]
pub struct Parts {
    /// Serves Kafka clients.
    pub kafka: Option<Serve>,
    /// Serves TLog clients.
    pub tlog: Option<Serve>,
    /// Ends what stands behind them.
    pub stop: Option<Stop>,
}

/// Runs the server until a signal ends it.
///
/// # Errors
/// Why it did not start, or ended otherwise than asked.
pub async fn run(config: Config) -> Result<(), Error> {
    run_with(config, parts::open).await
}

/// As [`run`], with parts of the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_with<O, F>(config: Config, open: O) -> Result<(), Error>
where
    O: FnOnce(Context) -> F,
    F: Future<Output = Result<Parts, Error>>,
{
    let signals = Signals::install().map_err(|source| Error::Signals { source })?;
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let data_dir = DataDir::lock(&config.data_dir)?;
    let sockets = Sockets::bind(&config).await?;
    let stop_timeout = config.stop_timeout;
    let (health, metrics) = (Health::new(), Metrics::new());
    health.report(Finding::unready("start", "reading what the last run left", "wait"));
    if config.dev {
        let cure = "give a key of your own and k+m servers, then leave -dev out";
        health.report(Finding::degraded(
            "dev",
            "a trivial key and too few servers are taken",
            cure,
        ));
    }
    let admin_stop = CancellationToken::new();
    let admin = sockets.admin.into_iter().map(|listener| {
        listener.announce();
        let (health, metrics) = (health.clone(), metrics.clone());
        let serving = admin::serve(listener.socket, health, metrics, admin_stop.clone());
        task::spawn("admin", serving)
    });
    let admin: Vec<_> = admin.collect();

    let context =
        Context { config, data_dir: data_dir.path().to_owned(), health: health.clone(), metrics };
    let mut running =
        Running { signals, health, fronts: JoinSet::new(), stop: CancellationToken::new() };
    let Some(parts) = running.opened(open(context)).await? else {
        // A thread of the recovery may still write: the lock must outlive it, and goes with the process.
        std::mem::forget(data_dir);
        return Ok(());
    };
    running.serve("kafka", parts.kafka, sockets.kafka);
    running.serve("tlog", parts.tlog, sockets.tlog);
    running.health.clear("start");
    if running.health.state() == admin::State::Unready {
        tracing::warn!("not ready: /readyz of the admin port says why");
    } else {
        tracing::info!("ready");
    }

    let ended = running.until_asked().await;
    let stopped = running.finish(parts.stop, stop_timeout).await;
    admin_stop.cancel();
    let last_answers = futures_util::future::join_all(admin);
    if tokio::time::timeout(ADMIN_GRACE, last_answers).await.is_err() {
        tracing::debug!("connections of the admin port are cut");
    }
    if stopped.is_err() {
        // As above: what was cut may still write.
        std::mem::forget(data_dir);
    }
    stopped.and(ended)
}

/// All sockets of the server.
struct Sockets {
    admin: Vec<Listener>,
    kafka: Vec<Listener>,
    tlog: Vec<Listener>,
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self, Error> {
        let admin = listeners("admin", "admin-address", &config.admin_address).await?;
        let tlog = listeners("tlog", "address", &config.tlog_address).await?;
        let mut kafka = Vec::new();
        for one in &config.kafka_listeners {
            let name = match one.name.as_str() {
                "" => "kafka".to_owned(),
                name => format!("kafka-{name}"),
            };
            for mut listener in listeners(&name, "kafka-address", &one.address).await? {
                let port = listener.local.port();
                let given = one.advertised.as_ref();
                listener.advertised = Some(Advertised::choose(given, &one.address, port));
                kafka.push(listener);
            }
        }
        Ok(Self { admin, kafka, tlog })
    }
}

async fn listeners(
    name: &str,
    option: &'static str,
    address: &HostPort,
) -> Result<Vec<Listener>, Error> {
    let bound = bind(address).await.map_err(|source| Error::Listen {
        name: name.to_owned(),
        address: address.clone(),
        option,
        source,
    })?;
    let listener =
        |(socket, local)| Listener { name: name.to_owned(), socket, local, advertised: None };
    Ok(bound.into_iter().map(listener).collect())
}

/// A server whose admin port answers.
struct Running {
    signals: Signals,
    health: Health,
    fronts: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Running {
    /// Waits for the parts; nothing when a signal came first: recovery can be cut anywhere, as by a crash.
    async fn opened(
        &mut self,
        opening: impl Future<Output = Result<Parts, Error>>,
    ) -> Result<Option<Parts>, Error> {
        tokio::select! {
            parts = opening => parts.map(Some),
            () = self.signals.stop() => {
                tracing::info!("stopped before it was ready");
                Ok(None)
            }
        }
    }

    fn serve(&mut self, name: &'static str, front: Option<Serve>, sockets: Vec<Listener>) {
        let Some(serve) = front else {
            let detail = format!("{name} clients are not served by this build: the port is closed");
            self.health.report(Finding::unready(name, detail, "take a build that has it"));
            return;
        };
        for listener in &sockets {
            listener.announce();
        }
        let serving = serve(sockets, self.stop.clone());
        let serving = task::spawn(name, serving);
        self.spawn_front(name, serving);
    }

    fn spawn_front(&mut self, name: &'static str, serving: tokio::task::JoinHandle<()>) {
        self.fronts.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(name, %error, "the front end broke");
            }
            name
        });
    }

    /// Until a signal asks to stop, or a front end ends by itself.
    async fn until_asked(&mut self) -> Result<(), Error> {
        tokio::select! {
            () = self.signals.stop() => Ok(()),
            Some(Ok(name)) = self.fronts.join_next() => Err(Error::Ended { name }),
        }
    }

    /// Ends front ends, then what stands behind them. A signal during that ends the wait.
    async fn finish(&mut self, stop: Option<Stop>, timeout: Duration) -> Result<(), Error> {
        tracing::info!(timeout_ms = timeout.as_millis() as u64, "stopping");
        self.health.report(Finding::unready("stop", "the server is stopping", "use another one"));
        self.stop.cancel();
        let fronts = &mut self.fronts;
        let finishing = async move {
            let ending = async { while fronts.join_next().await.is_some() {} };
            if tokio::time::timeout(CONNECTIONS_GRACE, ending).await.is_err() {
                tracing::warn!("connections that do not end are cut");
            }
            if let Some(stop) = stop {
                stop(Instant::now() + timeout).await;
            }
            tracing::info!("stopped");
        };
        tokio::select! {
            () = finishing => Ok(()),
            () = self.signals.stop() => Err(Error::StoppedAtOnce),
        }
    }
}

#[cfg(test)]
mod tests;
