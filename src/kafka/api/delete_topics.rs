//! DeleteTopics (key 20), versions 1 to 6.
//!
//! Differs from Kafka: the timeout is not looked at, deleting waits for one sync only. A topic is gone from every
//! answer once this one is sent.
//!
//! | version | change |
//! |---|---|
//! | 4 | flexible |
//! | 5 | an error message per topic |
//! | 6 | topics by name or by id (KIP-516) |

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

use super::shared::{first_error, text, topic_by_id, topic_by_name, wire_id};
use crate::broker::{Broker, Topic};
use crate::kafka::dispatch::{Answer, Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure, Refusal};
use crate::task;

/// See the module's page.
pub struct DeleteTopics;

impl Api for DeleteTopics {
    type Message = DeleteTopicsRequest;
    const NAME: &'static str = "DeleteTopics";
    const SERVED: RangeInclusive<i16> = 1..=6;

    fn handle(call: &Call, request: Self::Message) -> Handled<DeleteTopicsResponse> {
        let broker = Arc::clone(call.peer.broker());
        // In a task of its own, so that a connection that closes does not leave a deletion half done.
        let work = task::spawn("delete topics", async move {
            let mut seen = HashSet::new();
            let mut results = Vec::new();
            for wanted in wanted(&request) {
                let first = seen.insert((wanted.name.clone(), wanted.topic_id));
                results.push(delete(&broker, wanted, first).await);
            }
            results
        });
        Handled::Later(Box::pin(async move {
            match work.await {
                Ok(results) => DeleteTopicsResponse::default().with_responses(results).into(),
                Err(_) => Answer::Close(Refusal::Internal.code()),
            }
        }))
    }

    fn refuse(_: &Call, request: &Self::Message, refusal: Refusal) -> DeleteTopicsResponse {
        let results = wanted(request).into_iter().map(|wanted| refused(wanted, &refusal)).collect();
        DeleteTopicsResponse::default().with_responses(results)
    }

    fn first_error(response: &DeleteTopicsResponse) -> ErrorCode {
        first_error(response.responses.iter().map(|result| result.error_code))
    }
}

/// What is to go, whichever of its two lists the request's version uses.
fn wanted(request: &DeleteTopicsRequest) -> Vec<DeleteTopicState> {
    let by_name = request
        .topic_names
        .iter()
        .map(|name| DeleteTopicState::default().with_name(Some(name.clone())));
    request.topics.iter().cloned().chain(by_name).collect()
}

fn find(broker: &Broker, wanted: &DeleteTopicState) -> Result<Arc<Topic>, Refusal> {
    match &wanted.name {
        Some(_) if !wanted.topic_id.is_nil() => Err(Refusal::NameOrId),
        Some(name) => topic_by_name(broker, name),
        None if wanted.topic_id.is_nil() => Err(Refusal::NameOrId),
        None => topic_by_id(broker, wanted.topic_id),
    }
}

async fn delete(
    broker: &Arc<Broker>,
    wanted: DeleteTopicState,
    first: bool,
) -> DeletableTopicResult {
    if !first {
        return refused(wanted, &Refusal::Duplicate);
    }
    let topic = match find(broker, &wanted) {
        Ok(topic) => topic,
        Err(refusal) => return refused(wanted, &refusal),
    };
    match broker.delete_topic(topic.id()).await {
        Ok(()) => DeletableTopicResult::default()
            .with_name(Some(text(topic.name()).into()))
            .with_topic_id(wire_id(topic.id())),
        Err(error) => refused(wanted, &error),
    }
}

fn refused(wanted: DeleteTopicState, failure: &impl Failure) -> DeletableTopicResult {
    DeletableTopicResult::default()
        .with_name(wanted.name)
        .with_topic_id(wanted.topic_id)
        .with_error_code(failure.code().wire())
        .with_error_message(Some(text(failure.explanation())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::dispatch;

    #[test]
    fn every_version_encodes() {
        let named = DeleteTopicState::default().with_name(Some(text("t").into()));
        for version in DeleteTopics::SERVED {
            let results = vec![
                refused(named.clone(), &Refusal::UnknownTopicOrPartition),
                DeletableTopicResult::default().with_name(Some(text("u").into())),
            ];
            let response = DeleteTopicsResponse::default().with_responses(results);
            dispatch::encode(1, version, &response).unwrap();
        }
        let by_id = DeleteTopicState::default().with_name(None).with_topic_id(uuid::Uuid::max());
        let response = DeleteTopicsResponse::default()
            .with_responses(vec![refused(by_id, &Refusal::UnknownTopicId)]);
        dispatch::encode(1, 6, &response).unwrap();
    }

    #[test]
    fn both_lists_of_the_request_are_read() {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![text("a").into()])
            .with_topics(vec![DeleteTopicState::default().with_name(None)]);
        assert_eq!(wanted(&request).len(), 2);
    }
}
