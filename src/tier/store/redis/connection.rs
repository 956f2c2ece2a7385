//! Connections to one redis server: bounded, timed, and replaced when they are dead.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, ScriptInvocation, ServerErrorKind,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::tier::store::StoreError;
use crate::tier::store::addresses::Address;

/// How a redis server is talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// How long a connection attempt may take. Default 2 s.
    pub connect_timeout: Duration,
    /// How long an answer may take from when the request is sent. Default 10 s: a server that rewrites its append-only
    /// file on a slow disk is slow, not gone.
    pub response_timeout: Duration,
    /// Bytes of shards under way in both directions; a larger shard travels alone. Default 32 MiB.
    pub in_flight_bytes: u32,
    /// Requests under way on each of the two lanes. Default 128.
    pub in_flight_requests: u32,
    /// Timeouts in a row after which a connection is given up. Default 3.
    pub timeouts_until_reconnect: u32,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(10),
            in_flight_bytes: 32 * 1024 * 1024,
            in_flight_requests: 128,
            timeouts_until_reconnect: 3,
        }
    }
}

/// What kind of request goes where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Control,
}

/// A request that may be sent more than once.
pub(super) enum Request<'a> {
    Command(Cmd),
    Script(ScriptInvocation<'a>),
}

impl Request<'_> {
    async fn send<T: FromRedisValue>(&self, to: &mut ConnectionManager) -> Result<T, RedisError> {
        match self {
            Self::Command(command) => command.query_async(to).await,
            Self::Script(script) => script.invoke_async(to).await,
        }
    }
}

/// All connections to one server.
#[derive(Debug)]
pub(super) struct Connections {
    pub server: String,
    config: RedisConfig,
    client: Client,
    data: Lane,
    control: Lane,
    bytes: Semaphore,
}

/// One connection and what it carries.
#[derive(Debug)]
struct Lane {
    requests: Semaphore,
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Made at the first request: it needs the runtime.
    manager: Option<ConnectionManager>,
    timeouts_in_a_row: u32,
    /// Counts managers, so that late timeouts of an old one do not count against the new one.
    generation: u64,
}

impl Connections {
    /// Does no IO: a server that is down is an error of each request.
    ///
    /// # Errors
    /// None with an [`Address`] that was parsed; the client checks its address once more.
    pub fn new(address: &Address, config: RedisConfig) -> Result<Self, StoreError> {
        let server = address.to_string();
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(10))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(config.connect_timeout + config.response_timeout);
        let client = ConnectionAddr::Tcp(address.host.clone(), address.port)
            .into_connection_info()
            .map(|info| {
                let database = RedisConnectionInfo::default().set_db(i64::from(address.db));
                info.set_tcp_settings(tcp).set_redis_settings(database.set_skip_set_lib_name())
            })
            .and_then(Client::open)
            .map_err(|error| translate(&server, error))?;
        let lane = || Lane {
            requests: Semaphore::new(config.in_flight_requests.max(1) as usize),
            state: Mutex::default(),
        };
        let bytes = Semaphore::new(config.in_flight_bytes.max(1) as usize);
        Ok(Self { server, client, data: lane(), control: lane(), bytes, config })
    }

    /// Room for `bytes` of shard, held while they travel. A shard larger than all the room takes all of it.
    pub async fn room(&self, bytes: usize) -> SemaphorePermit<'_> {
        let permits =
            u32::try_from(bytes).unwrap_or(u32::MAX).min(self.config.in_flight_bytes.max(1));
        acquire(&self.bytes, permits).await
    }

    /// Sends a request and awaits its answer; once more when the connection broke under it.
    pub async fn ask<T: FromRedisValue>(
        &self,
        kind: Kind,
        operation: &'static str,
        request: Request<'_>,
    ) -> Result<T, StoreError> {
        let lane = match kind {
            Kind::Data => &self.data,
            Kind::Control => &self.control,
        };
        let _permit = acquire(&lane.requests, 1).await;
        // The manager tells of a broken connection at the next request only, and begins to connect then.
        match self.ask_once(lane, operation, &request).await {
            Err(Failure::Broken(_)) => {}
            Err(Failure::Other(error)) => return Err(error),
            Ok(answer) => return Ok(answer),
        }
        self.ask_once(lane, operation, &request).await.map_err(|failure| match failure {
            Failure::Other(error) => error,
            Failure::Broken(error) => {
                StoreError::Unreachable { server: self.server.clone(), source: Box::new(error) }
            }
        })
    }

    async fn ask_once<T: FromRedisValue>(
        &self,
        lane: &Lane,
        operation: &'static str,
        request: &Request<'_>,
    ) -> Result<T, Failure> {
        let (mut manager, generation) = self.manager(lane).map_err(Failure::Other)?;
        let limit = self.config.connect_timeout + self.config.response_timeout;
        let result = in_time(limit, request.send(&mut manager)).await;
        let timed_out = match &result {
            None => true,
            Some(result) => result.as_ref().is_err_and(RedisError::is_timeout),
        };
        lane.settle(generation, timed_out, self.config.timeouts_until_reconnect);
        match result {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if !timed_out && error.is_connection_dropped() => {
                Err(Failure::Broken(error))
            }
            Some(Err(error)) if !timed_out => Err(Failure::Other(translate(&self.server, error))),
            _ => Err(Failure::Other(StoreError::Timeout {
                server: self.server.clone(),
                operation,
                after: self.config.response_timeout,
            })),
        }
    }

    fn manager(&self, lane: &Lane) -> Result<(ConnectionManager, u64), StoreError> {
        let mut state = lane.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = &state.manager {
            return Ok((manager.clone(), state.generation));
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout))
            // Whoever sends again decides when; within one request an attempt is made once.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|error| translate(&self.server, error))?;
        state.manager = Some(manager.clone());
        state.generation += 1;
        Ok((manager, state.generation))
    }
}

impl Lane {
    fn settle(&self, generation: u64, timed_out: bool, limit: u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation {
            return;
        }
        state.timeouts_in_a_row = if timed_out { state.timeouts_in_a_row + 1 } else { 0 };
        if state.timeouts_in_a_row >= limit.max(1) {
            state.manager = None;
            state.timeouts_in_a_row = 0;
        }
    }
}

enum Failure {
    /// The connection could not be made or broke.
    Broken(RedisError),
    Other(StoreError),
}

async fn in_time<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

async fn acquire(semaphore: &Semaphore, permits: u32) -> SemaphorePermit<'_> {
    semaphore.acquire_many(permits).await.expect("these semaphores are never closed")
}

/// An error of the crate in our words.
fn translate(server: &str, error: RedisError) -> StoreError {
    let server = server.to_owned();
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => {
            StoreError::Unreachable { server, source: Box::new(error) }
        }
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
            let text = match (error.code(), error.detail()) {
                (Some(code), Some(detail)) => format!("{code} {detail}"),
                _ => error.to_string(),
            };
            // Redis 6 hides the code of an error within a script behind its own.
            if text.contains("WRONGTYPE") {
                return StoreError::Corrupt { server, what: text };
            }
            StoreError::Refused { server, reason: with_cure(text) }
        }
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
            StoreError::Corrupt { server, what: error.to_string() }
        }
        _ => StoreError::Unreachable { server, source: Box::new(error) },
    }
}

fn with_cure(mut text: String) -> String {
    for (sign, cure) in [
        ("OOM", "; give it more memory (`config set maxmemory`), nothing is evicted"),
        ("READONLY", "; it is a replica, name its primary or run `replicaof no one` there"),
        ("MISCONF", "; it cannot write its snapshot, free its disk"),
        ("NOAUTH", "; servers with a password are not supported"),
        ("DB index", "; it has fewer databases, lower the number behind @"),
    ] {
        if text.contains(sign) {
            text += cure;
            break;
        }
    }
    text
}
