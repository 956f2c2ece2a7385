//! CreateTopics (key 19), versions 2 to 7.
//!
//! Differs from Kafka: any replication factor from 1 on is taken and means 1, because this is one broker and many tools
//! ask for 3 out of habit; the timeout is not looked at, creating waits for one sync only. A created topic is in every
//! answer that follows. A request for more than [`limits::KAFKA_CREATED_TOPICS`] topics is refused whole.
//!
//! | version | change |
//! |---|---|
//! | 4 | -1 partitions and -1 replication factor mean the default (KIP-464) |
//! | 5 | flexible; the answer has partition count, replication factor and options (KIP-525) |
//! | 6 | `THROTTLING_QUOTA_EXCEEDED` may be answered |
//! | 7 | topic id in the answer (KIP-516) |

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, CreateTopicsResponse, TopicName as WireName,
};

use super::shared::{first_error, text, wire_id};
use crate::broker::{self, Broker, NewTopic, TopicPlan};
use crate::kafka::dispatch::{Answer, Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure, Refusal};
use crate::task;
use crate::types::{in_words, limits};

/// Kafka's number for an option that was set on the topic.
const SOURCE_TOPIC: i8 = 1;
/// Kafka's number for an option that was not.
const SOURCE_DEFAULT: i8 = 5;

/// See the module's page.
pub struct CreateTopics;

impl Api for CreateTopics {
    type Message = CreateTopicsRequest;
    const NAME: &'static str = "CreateTopics";
    const SERVED: RangeInclusive<i16> = 2..=7;

    fn handle(call: &Call, request: Self::Message) -> Handled<CreateTopicsResponse> {
        if request.topics.len() > limits::KAFKA_CREATED_TOPICS {
            return Handled::Now(Self::refuse(call, &request, Refusal::TooManyTopics).into());
        }
        let broker = Arc::clone(call.peer.broker());
        // In a task of its own, so that a connection that closes does not leave a creation half done.
        let work = task::spawn("create topics", async move {
            let mut count: HashMap<WireName, usize> = HashMap::new();
            for topic in &request.topics {
                *count.entry(topic.name.clone()).or_default() += 1;
            }
            let mut results = Vec::new();
            for topic in request.topics {
                let once = count.get(&topic.name) == Some(&1);
                results.push(create(&broker, topic, request.validate_only, once).await);
            }
            results
        });
        Handled::Later(Box::pin(async move {
            match work.await {
                Ok(results) => CreateTopicsResponse::default().with_topics(results).into(),
                Err(_) => Answer::Close(Refusal::Internal.code()),
            }
        }))
    }

    fn refuse(_: &Call, request: &Self::Message, refusal: Refusal) -> CreateTopicsResponse {
        // One text that all topics share.
        let refused = refused(WireName::default(), &refusal);
        let results = request
            .topics
            .iter()
            .map(|topic| refused.clone().with_name(topic.name.clone()))
            .collect();
        CreateTopicsResponse::default().with_topics(results)
    }

    fn first_error(response: &CreateTopicsResponse) -> ErrorCode {
        first_error(response.topics.iter().map(|result| result.error_code))
    }
}

async fn create(
    broker: &Arc<Broker>,
    wanted: CreatableTopic,
    validate_only: bool,
    once: bool,
) -> CreatableTopicResult {
    if !once {
        return refused(wanted.name, &Refusal::Duplicate);
    }
    let partitions = match partitions(&wanted, broker.node_id().into()) {
        Ok(partitions) => partitions,
        Err(refusal) => return refused(wanted.name, &refusal),
    };
    let new = NewTopic {
        name: wanted.name.to_string(),
        partitions,
        options: wanted.configs.iter().map(option).collect(),
    };
    let result = if validate_only {
        broker.check_topic(new).map(|plan| created(&plan, uuid::Uuid::nil(), wanted.name.clone()))
    } else {
        broker.create_topic(new).await.map(|topic| {
            let plan =
                TopicPlan { partitions: topic.partitions().len(), options: topic.options_set() };
            created(&plan, wire_id(topic.id()), wanted.name.clone())
        })
    };
    result.unwrap_or_else(|error| refused(wanted.name, &error))
}

/// The partition count asked for, -1 for the default.
fn partitions(wanted: &CreatableTopic, us: BrokerId) -> Result<i32, Refusal> {
    if wanted.assignments.is_empty() {
        return match wanted.replication_factor {
            -1 | 1.. => Ok(wanted.num_partitions),
            _ => Err(Refusal::ReplicationFactor),
        };
    }
    if wanted.num_partitions != -1 || wanted.replication_factor != -1 {
        return Err(Refusal::CountAndAssignment);
    }
    let mut indexes: Vec<_> = wanted.assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    let consecutive = indexes.iter().copied().eq((0..).take(indexes.len()));
    let ours = wanted.assignments.iter().all(|a| a.broker_ids == [us]);
    if !consecutive || !ours {
        return Err(Refusal::Assignment);
    }
    i32::try_from(indexes.len()).map_err(|_| Refusal::Assignment)
}

fn option(config: &CreatableTopicConfig) -> (String, Option<String>) {
    (config.name.to_string(), config.value.as_ref().map(ToString::to_string))
}

fn created(plan: &TopicPlan, id: uuid::Uuid, name: WireName) -> CreatableTopicResult {
    let set = &plan.options;
    let configs = broker::effective(set)
        .into_iter()
        .map(|(key, value)| {
            let source = if set.contains_key(key) { SOURCE_TOPIC } else { SOURCE_DEFAULT };
            CreatableTopicConfigs::default()
                .with_name(text(key))
                .with_value(Some(text(value)))
                .with_config_source(source)
        })
        .collect();
    CreatableTopicResult::default()
        .with_name(name)
        .with_topic_id(id)
        .with_error_message(None)
        .with_num_partitions(i32::try_from(plan.partitions).unwrap_or(i32::MAX))
        .with_replication_factor(1)
        .with_configs(Some(configs))
}

fn refused(name: WireName, failure: &impl Failure) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(failure.code().wire())
        .with_error_message(Some(text(in_words(failure))))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;

    use super::*;
    use crate::kafka::dispatch;

    fn assigned(parts: &[(i32, &[i32])]) -> CreatableTopic {
        let assignments = parts
            .iter()
            .map(|(index, brokers)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(*index)
                    .with_broker_ids(brokers.iter().map(|&id| id.into()).collect())
            })
            .collect();
        CreatableTopic::default()
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(assignments)
    }

    #[test]
    fn assignments_must_be_consecutive_and_ours() {
        let us = BrokerId(1);
        assert_eq!(partitions(&assigned(&[(1, &[1]), (0, &[1])]), us), Ok(2));
        for bad in [
            assigned(&[(1, &[1])]),
            assigned(&[(0, &[1]), (0, &[1])]),
            assigned(&[(0, &[2])]),
            assigned(&[(0, &[1, 1])]),
            assigned(&[(0, &[])]),
        ] {
            assert_eq!(partitions(&bad, us), Err(Refusal::Assignment));
        }
        let counted = assigned(&[(0, &[1])]).with_num_partitions(1);
        assert_eq!(partitions(&counted, us), Err(Refusal::CountAndAssignment));
    }

    #[test]
    fn any_replication_factor_from_1_on_is_taken() {
        let wanted = |factor| {
            CreatableTopic::default().with_num_partitions(4).with_replication_factor(factor)
        };
        for factor in [-1, 1, 3, i16::MAX] {
            assert_eq!(partitions(&wanted(factor), BrokerId(1)), Ok(4));
        }
        for factor in [0, -2] {
            assert_eq!(partitions(&wanted(factor), BrokerId(1)), Err(Refusal::ReplicationFactor));
        }
    }

    #[test]
    fn every_version_encodes() {
        let good = CreatableTopicResult::default()
            .with_name(text("t").into())
            .with_topic_id(uuid::Uuid::max())
            .with_error_message(None)
            .with_num_partitions(3)
            .with_replication_factor(1)
            .with_configs(Some(vec![
                CreatableTopicConfigs::default().with_name(text("retention.ms")),
            ]));
        let response = CreateTopicsResponse::default()
            .with_topics(vec![good, refused(text("u").into(), &Refusal::Duplicate)]);
        for version in CreateTopics::SERVED {
            dispatch::encode(1, version, &response).unwrap();
        }
    }
}
