//! The API table, and the way of one request: version gate, count guard, decode, handler, encode.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use super::api;
use super::context::Peer;
use super::error::{ErrorCode, Refusal};
use super::gather::{Chunk, Laden, encode_laden};
use super::memory::Reservation;
use super::protocol::guard;
use crate::types::limits;

/// One Kafka API: key and messages by its request type, versions, behaviour. A file in `api/` each.
pub(super) trait Api: 'static {
    /// The request; it names the response and the key.
    type Message: Request<Response: Send + 'static> + Send + 'static;
    /// Kafka's name.
    const NAME: &'static str;
    /// Versions that are answered. Contiguous: some clients pick one by a configured release and do not ask.
    const SERVED: RangeInclusive<i16>;
    /// Lowest version that ApiVersions shows; below that of `SERVED` for Produce alone.
    const ADVERTISED_MIN: i16 = *Self::SERVED.start();
    /// Whether a request may begin while earlier ones of this kind still wait for their answer.
    const OVERLAPS: bool = false;
    /// Whether an answer may wait for other clients. Then the request gives back its memory once it has begun, and
    /// nothing that `handle` leaves behind may hold a part of the frame.
    const PARKS: bool = false;

    /// Whether beginning a request may take long however short it is. Where the frame is long this is not asked.
    fn is_laborious(_request: &Self::Message) -> bool {
        false
    }

    /// Begins the request. Whatever must happen in request order has happened on return; the rest is in the future.
    /// Runs on a thread of its own when the frame is large or the request laborious.
    fn handle(call: &Call, request: Self::Message) -> Handled<Response<Self>>;

    /// An answer that carries `refusal` everywhere it has room for an error.
    fn refuse(call: &Call, request: &Self::Message, refusal: Refusal) -> Response<Self>;

    /// The first error in an answer, for the metrics.
    fn first_error(response: &Response<Self>) -> ErrorCode;
}

/// The response type of an API.
pub(super) type Response<A> = <<A as Api>::Message as Request>::Response;

/// What a handler is given beside the request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub peer: Arc<Peer>,
    pub version: i16,
}

/// What a handler returns.
pub(super) enum Handled<R> {
    /// Done.
    Now(Answer<R>),
    /// Begun; the future does the rest. It is dropped when the connection closes.
    Later(BoxFuture<'static, Answer<R>>),
}

/// What is sent back.
pub(super) enum Answer<R> {
    /// A response, and memory that it holds until it is written. Where there is none it takes memory by its size.
    Respond(R, Option<Reservation>),
    /// A response with data beside it, and the memory of what of that is in memory.
    Laden(Laden<R>, Reservation),
    /// Nothing, as agreed (`acks=0`).
    Silent,
    /// Nothing can be said, so the connection closes.
    Close(ErrorCode),
}

impl<R> From<R> for Answer<R> {
    fn from(response: R) -> Self {
        Self::Respond(response, None)
    }
}

/// A whole answer on its way to the socket.
#[derive(Debug)]
pub(super) struct Frame {
    /// Length first, in pieces.
    pub pieces: Vec<Chunk>,
    /// Given back when the last byte is written; short answers hold nothing.
    _memory: Option<Reservation>,
}

/// An [`Answer`] as the connection sends it.
pub(super) enum Reply {
    /// An answer.
    Frame(Frame),
    /// See [`Answer::Silent`].
    Silent,
    /// See [`Answer::Close`].
    Close(String),
}

/// A request as it came in: the frame without its length, and what every header begins with.
#[derive(Debug)]
pub(super) struct Incoming {
    pub frame: Bytes,
    pub key: i16,
    pub version: i16,
    pub correlation_id: i32,
    pub received: Instant,
}

/// A request that may be decoded.
#[derive(Debug)]
pub(super) struct Admitted {
    incoming: Incoming,
    /// None for ApiVersions in a version that is not served.
    entry: Option<&'static Entry>,
    decoded_bytes: usize,
}

impl Admitted {
    /// Length of its frame.
    pub fn frame_bytes(&self) -> usize {
        self.incoming.frame.len()
    }

    /// Memory that its decoded form takes.
    pub fn decoded_bytes(&self) -> usize {
        self.decoded_bytes
    }

    /// Whether it may begin while earlier ones of its kind still wait for their answer.
    pub fn overlaps(&self) -> bool {
        self.entry.is_some_and(|entry| entry.overlaps)
    }

    /// Kafka's name of it.
    pub fn name(&self) -> &'static str {
        self.entry.map_or("ApiVersions", |entry| entry.name)
    }
}

/// Memory that a request takes until its answer is made: a share of its connection, its decoded form, its frame.
#[derive(Debug)]
pub(super) struct Held {
    pub _share: OwnedSemaphorePermit,
    pub _decoded: Option<Reservation>,
    pub _frame: OwnedSemaphorePermit,
}

/// Why a request ends its connection unanswered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error("API key {key} version {version} is not served; client id `{client_id}`")]
    NotServed { key: i16, version: i16, client_id: String },
    #[error("{api} version {version} does not hold together")]
    Guard { api: &'static str, version: i16, source: guard::GuardError },
    #[error("{api} version {version} cannot be decoded: {reason}")]
    Decode { api: &'static str, version: i16, reason: String },
    #[error("the thread that handled {api} panicked")]
    Panicked { api: &'static str },
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: i16,
    pub name: &'static str,
    pub served: RangeInclusive<i16>,
    pub advertised_min: i16,
    pub overlaps: bool,
    start: fn(Arc<Peer>, Incoming, Held) -> Result<Begun, Violation>,
}

/// A request whose order is fixed.
pub(super) enum Started {
    /// Answered.
    Done(Reply),
    /// Still to be awaited.
    Running(BoxFuture<'static, Reply>),
}

/// What [`begin`] came to.
pub(super) enum Begun {
    /// The order is fixed.
    Started(Started),
    /// Still to be begun, on a thread where it may take its time.
    Laborious(Box<dyn FnOnce() -> Started + Send>),
}

impl Begun {
    /// Begins what is left to begin, here.
    pub fn started(self) -> Started {
        match self {
            Self::Started(started) => started,
            Self::Laborious(work) => work(),
        }
    }
}

const fn entry<A: Api>() -> Entry {
    Entry {
        key: A::Message::KEY,
        name: A::NAME,
        served: A::SERVED,
        advertised_min: A::ADVERTISED_MIN,
        overlaps: A::OVERLAPS,
        start: start::<A>,
    }
}

/// Every API served. Unknown ones are not stubbed: clients take an advertised API as a promise.
pub(super) static TABLE: [Entry; 11] = [
    entry::<api::Produce>(),
    entry::<api::Fetch>(),
    entry::<api::ListOffsets>(),
    entry::<api::Metadata>(),
    entry::<api::FindCoordinator>(),
    entry::<api::ApiVersions>(),
    entry::<api::CreateTopics>(),
    entry::<api::DeleteTopics>(),
    entry::<api::DeleteRecords>(),
    entry::<api::InitProducerId>(),
    entry::<api::OffsetForLeaderEpoch>(),
];

/// The row of `key`.
pub(super) fn find(key: i16) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.key == key)
}

/// Looks at a request before anything of it is decoded: the version gate and the guard.
///
/// # Errors
/// [`Violation`]: the connection is to be closed.
pub(super) fn admit(incoming: Incoming) -> Result<Admitted, Violation> {
    let Incoming { key, version, .. } = incoming;
    let entry = find(key).filter(|entry| entry.served.contains(&version));
    let Some(served) = entry else {
        if key == ApiKey::ApiVersions as i16 {
            return Ok(Admitted { incoming, entry, decoded_bytes: 0 });
        }
        let client_id = client_id_of(&incoming.frame);
        return Err(Violation::NotServed { key, version, client_id });
    };
    let decoded_bytes = guard::weigh(key, version, &incoming.frame)
        .map_err(|source| Violation::Guard { api: served.name, version, source })?;
    Ok(Admitted { incoming, entry, decoded_bytes })
}

/// Begins a request. Requests of one connection are given here one after the other.
///
/// # Errors
/// [`Violation`]: the connection is to be closed.
pub(super) fn begin(peer: Arc<Peer>, request: Admitted, held: Held) -> Result<Begun, Violation> {
    let Admitted { incoming, entry, .. } = request;
    match entry {
        Some(entry) => (entry.start)(peer, incoming, held),
        None => {
            let reply = api::refuse_unknown_api_versions(incoming.correlation_id);
            Ok(Begun::Started(Started::Done(reply)))
        }
    }
}

/// The client id of a header whose version may be unknown: all header versions agree on it.
fn client_id_of(frame: &[u8]) -> String {
    let text = frame.get(8..10).and_then(|length| {
        let length = u16::from_be_bytes([*length.first()?, *length.get(1)?]);
        frame.get(10..10 + usize::from(length))
    });
    shorten(&String::from_utf8_lossy(text.unwrap_or_default()))
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn start<A: Api>(peer: Arc<Peer>, incoming: Incoming, held: Held) -> Result<Begun, Violation> {
    let Incoming { frame, version, correlation_id, received, .. } = incoming;
    // A large one is left to the request alone, which may then change its data in place.
    let kept = (frame.len() <= limits::KAFKA_SMALL_FRAME_BYTES).then(|| frame.clone());
    let (header, request) = decode::<A>(frame, version)?;
    let span = tracing::debug_span!(
        "request",
        api = A::NAME,
        peer = %peer.address,
        client_id = shorten(header.client_id.as_deref().unwrap_or_default()),
        correlation_id,
    );
    drop(header);
    let call = Call { peer, version };
    let laborious = A::is_laborious(&request);
    let work = move || {
        let handled = span.in_scope(|| A::handle(&call, request));
        let request = (!A::PARKS).then_some((kept, held));
        let finish = Finish { request, call, correlation_id, received };
        let rest = async move {
            let answer = match handled {
                Handled::Now(answer) => answer,
                Handled::Later(future) => future.await,
            };
            finish.reply::<A>(answer).await
        };
        Started::Running(Box::pin(rest.instrument(span)))
    };
    Ok(if laborious { Begun::Laborious(Box::new(work)) } else { Begun::Started(work()) })
}

fn decode<A: Api>(
    mut frame: Bytes,
    version: i16,
) -> Result<(RequestHeader, A::Message), Violation> {
    let undecodable = |reason: String| Violation::Decode { api: A::NAME, version, reason };
    let header = RequestHeader::decode(&mut frame, A::Message::header_version(version))
        .map_err(|error| undecodable(error.to_string()))?;
    let request =
        A::Message::decode(&mut frame, version).map_err(|error| undecodable(error.to_string()))?;
    Ok((header, request))
}

/// What is needed to turn an answer into bytes.
struct Finish {
    /// The frame, if it is small, and the request's memory, where the answer does not wait for others.
    request: Option<(Option<Bytes>, Held)>,
    call: Call,
    correlation_id: i32,
    received: Instant,
}

impl Finish {
    async fn reply<A: Api>(self, answer: Answer<Response<A>>) -> Reply {
        let (response, memory) = match answer {
            Answer::Respond(response, memory) => (response, memory),
            Answer::Laden(laden, memory) => {
                self.count::<A>(A::first_error(&laden.empty));
                return match encode_laden(self.correlation_id, self.call.version, laden) {
                    Ok(pieces) => Reply::Frame(Frame { pieces, _memory: Some(memory) }),
                    Err(error) => self.internal::<A>(&error),
                };
            }
            Answer::Silent => {
                self.count::<A>(ErrorCode::NONE);
                return Reply::Silent;
            }
            Answer::Close(error) => {
                self.count::<A>(error);
                return Reply::Close(format!("{} failed with {error} and has no answer", A::NAME));
            }
        };
        self.count::<A>(A::first_error(&response));
        let version = self.call.version;
        let memory = match (memory, response.compute_size(version)) {
            (Some(memory), _) => Some(memory),
            (None, Ok(bytes)) if bytes > limits::KAFKA_ANSWER_BYTES => {
                return Reply::Close(format!("{} asks for an answer of {bytes} bytes", A::NAME));
            }
            (None, Ok(bytes)) => match self.call.peer.shared.answer_memory(bytes).await {
                Some(memory) => Some(memory),
                None => return Reply::Close(Refusal::NoAnswerMemory.to_string()),
            },
            (None, Err(_)) => None,
        };
        match encode(self.correlation_id, version, &response) {
            Ok(bytes) => Reply::Frame(Frame { pieces: vec![Chunk::Bytes(bytes)], _memory: memory }),
            Err(error) => self.internal::<A>(&error),
        }
    }

    fn count<A: Api>(&self, error: ErrorCode) {
        self.call.peer.shared.metrics.answered(A::NAME, error, self.received.elapsed());
    }

    /// The encoder refuses fields that a version does not have, so this is a bug of ours, told to the client as such.
    fn internal<A: Api>(&self, error: &EncodeError) -> Reply {
        let version = self.call.version;
        tracing::error!(api = A::NAME, version, %error, "an answer could not be encoded");
        let frame = self.request.as_ref().and_then(|(frame, _)| frame.clone());
        let refused = frame
            .and_then(|frame| decode::<A>(frame, version).ok())
            .map(|(_, request)| A::refuse(&self.call, &request, Refusal::Internal));
        match refused.map(|response| encode(self.correlation_id, version, &response)) {
            Some(Ok(bytes)) => Reply::Frame(bytes.into()),
            Some(Err(_)) | None => Reply::Close(format!("{} has no answer", A::NAME)),
        }
    }
}

/// A short answer.
impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self { pieces: vec![Chunk::Bytes(bytes)], _memory: None }
    }
}

/// The encoder's refusal, in its words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct EncodeError(String);

impl EncodeError {
    pub fn refused(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A whole response frame, length first.
///
/// # Errors
/// Where a field is set that the version does not have, or the length does not fit.
pub(super) fn encode<R: Encodable + HeaderVersion>(
    correlation_id: i32,
    version: i16,
    response: &R,
) -> Result<Bytes, EncodeError> {
    let header_version = R::header_version(version);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let header_bytes = header.compute_size(header_version).map_err(EncodeError::refused)?;
    let body_bytes = response.compute_size(version).map_err(EncodeError::refused)?;
    let length = header_bytes + body_bytes;
    let mut frame = BytesMut::with_capacity(4 + length);
    frame.put_i32(i32::try_from(length).map_err(EncodeError::refused)?);
    header.encode(&mut frame, header_version).map_err(EncodeError::refused)?;
    response.encode(&mut frame, version).map_err(EncodeError::refused)?;
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_and_in_order() {
        assert!(TABLE.windows(2).all(|pair| pair[0].key < pair[1].key));
    }

    #[test]
    fn what_is_served_is_known_to_the_guard_and_to_the_decoder() {
        for entry in &TABLE {
            let name = entry.name;
            assert_eq!(guard::versions(entry.key), Some(entry.served.clone()), "{name}");
            let known = ApiKey::try_from(entry.key).unwrap().valid_versions();
            assert!(known.min <= *entry.served.start(), "{name}");
            assert!(known.max >= *entry.served.end(), "{name}");
            assert!(entry.advertised_min <= *entry.served.start(), "{name}");
        }
    }

    #[test]
    fn produce_alone_is_shown_lower_than_it_is_served() {
        let lower = TABLE.iter().filter(|entry| entry.advertised_min < *entry.served.start());
        assert_eq!(lower.map(|entry| entry.name).collect::<Vec<_>>(), ["Produce"]);
    }

    #[test]
    fn a_client_id_is_read_whatever_the_version() {
        assert_eq!(client_id_of(b"\0\x63\0\0\0\0\0\x01\0\x02abc"), "ab");
        assert_eq!(client_id_of(b"\0\x63\0\0\0\0\0\x01\xff\xff"), "");
        assert_eq!(client_id_of(b"\0\x63\0\0\0\0\0\x01\0\x09ab"), "");
        assert_eq!(client_id_of(b"\0"), "");
    }
}
