//! DeleteTopics (key 20), versions 1 to 6.
//!
//! Differs from Kafka: the timeout is not looked at, deleting waits for one sync only. A topic is gone from every
//! answer once this one is sent. One that is named twice, be it by name and by id, is refused each time and stays.
//!
//! | version | change |
//! |---|---|
//! | 4 | flexible |
//! | 5 | an error message per topic |
//! | 6 | topics by name or by id (KIP-516) |

use std::collections::HashMap;
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
use crate::types::{TopicId, in_words};

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
            let found: Vec<_> = wanted(&request)
                .into_iter()
                .map(|wanted| (find(&broker, &wanted), wanted))
                .collect();
            let mut count: HashMap<TopicId, usize> = HashMap::new();
            for topic in found.iter().filter_map(|(topic, _)| topic.as_ref().ok()) {
                *count.entry(topic.id()).or_default() += 1;
            }
            let mut results = Vec::with_capacity(found.len());
            for (topic, wanted) in found {
                let once = |topic: &Arc<Topic>| count.get(&topic.id()) == Some(&1);
                results.push(match topic {
                    Ok(topic) if !once(&topic) => refused(wanted, &Refusal::Duplicate),
                    Ok(topic) => delete(&broker, &topic, wanted).await,
                    Err(refusal) => refused(wanted, &refusal),
                });
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
    topic: &Topic,
    wanted: DeleteTopicState,
) -> DeletableTopicResult {
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
        .with_error_message(Some(text(in_words(failure))))
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
