//! Metadata (key 3), versions 0 to 13.
//!
//! Differs from Kafka: a topic that is created automatically is in the same answer, ready to use. Authorized operations
//! are never listed (there is no authorizer), which is said as i32::MIN. A topic named several times is answered once. A
//! partition that is offline has the error KAFKA_STORAGE_ERROR, no in-sync replica and ours as an offline one, but keeps
//! its leader, where Kafka says -1: clients then ask it and are told why, rather than wait for one.
//!
//! | version | change |
//! |---|---|
//! | 0 | no topics named means all; no controller in the answer |
//! | 1 | null means all topics, an empty list none; controller, rack, internal topics |
//! | 2 | cluster id |
//! | 4 | the client says whether a missing topic may be created; before, it may |
//! | 7 | leader epoch |
//! | 8 - 10 | authorized operations of the cluster may be asked for |
//! | 9 | flexible |
//! | 10 | topic ids in the answer |
//! | 12 | topics may be asked for by id (KIP-516) |
//! | 13 | an error for the whole answer (KIP-1102) |

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;

use super::shared::{first_error, text, topic_by_id, wire_id};
use crate::broker::{Broker, CreateTopicError, NewTopic, Topic};
use crate::kafka::dispatch::{Answer, Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure, Refusal};
use crate::task;
use crate::types::TopicName;

/// First version in which a topic without a name can be answered.
const NAMELESS: i16 = 12;

/// Memory that a topic takes in an answer, encoded form and structs together, without its name ...
const TOPIC_BYTES: usize = 256;
/// ... and each of its partitions.
const PARTITION_BYTES: usize = 256;

/// See the module's page.
pub struct Metadata;

impl Api for Metadata {
    type Message = MetadataRequest;
    const NAME: &'static str = "Metadata";
    const SERVED: RangeInclusive<i16> = 0..=13;

    fn handle(call: &Call, request: Self::Message) -> Handled<MetadataResponse> {
        let call = call.clone();
        let broker = Arc::clone(call.peer.broker());
        let all = match &request.topics {
            None => true,
            Some(topics) => call.version == 0 && topics.is_empty(),
        };
        if all {
            return Handled::Later(Box::pin(async move {
                answer(&call, broker.topics().into_iter().map(Ok).collect()).await
            }));
        }
        let create = request.allow_auto_topic_creation && broker.auto_create_topics();
        let wanted = each_once(request.topics.unwrap_or_default());
        // In a task of its own, so that a connection that closes does not leave a creation half done.
        let work = task::spawn("metadata", async move {
            let mut found = Vec::with_capacity(wanted.len());
            for wanted in wanted {
                let topic = find(&broker, &wanted, create).await;
                found.push(topic.map_err(|code| (wanted, code)));
            }
            found
        });
        Handled::Later(Box::pin(async move {
            match work.await {
                Ok(found) => answer(&call, found).await,
                Err(_) => Answer::Close(Refusal::Internal.code()),
            }
        }))
    }

    fn refuse(call: &Call, request: &Self::Message, refusal: Refusal) -> MetadataResponse {
        let wanted = request.topics.iter().flatten().cloned();
        let topics = wanted.map(|topic| unknown(topic, call.version, refusal.code())).collect();
        frame(call).with_topics(topics).with_error_code(refusal.code().wire())
    }

    fn first_error(response: &MetadataResponse) -> ErrorCode {
        let topics = response.topics.iter().map(|topic| topic.error_code);
        first_error([response.error_code].into_iter().chain(topics))
    }
}

/// Every name and every id once, in their order.
fn each_once(mut wanted: Vec<MetadataRequestTopic>) -> Vec<MetadataRequestTopic> {
    let mut seen = HashSet::new();
    wanted.retain(|topic| seen.insert((topic.name.clone(), topic.topic_id)));
    wanted
}

/// A topic of the answer, or what was wanted and why it is not there.
type Found = Result<Arc<Topic>, (MetadataRequestTopic, ErrorCode)>;

/// Takes the memory for an answer, then builds it.
async fn answer(call: &Call, found: Vec<Found>) -> Answer<MetadataResponse> {
    let partitions = found.iter().flatten().map(|topic| topic.partitions().len());
    let bytes = TOPIC_BYTES * found.len() + PARTITION_BYTES * partitions.sum::<usize>();
    let Some(memory) = call.peer.shared.answer_memory(bytes).await else {
        return Answer::Close(Refusal::NoAnswerMemory.code());
    };
    let us = BrokerId(call.peer.broker().node_id());
    let topics = found.into_iter().map(|found| match found {
        Ok(topic) => known(&topic, us),
        Err((wanted, code)) => unknown(wanted, call.version, code),
    });
    Answer::Respond(frame(call).with_topics(topics.collect()), Some(memory))
}

/// The answer without topics.
fn frame(call: &Call) -> MetadataResponse {
    let broker = call.peer.broker();
    let (host, port) = &call.peer.advertised;
    let us = BrokerId(broker.node_id());
    let node = MetadataResponseBroker::default()
        .with_node_id(us)
        .with_host(text(host))
        .with_port(i32::from(*port));
    MetadataResponse::default()
        .with_brokers(vec![node])
        .with_cluster_id(Some(text(broker.cluster_id())))
        .with_controller_id(us)
}

async fn find(
    broker: &Arc<Broker>,
    wanted: &MetadataRequestTopic,
    create: bool,
) -> Result<Arc<Topic>, ErrorCode> {
    let Some(name) = &wanted.name else {
        if wanted.topic_id.is_nil() {
            return Err(Refusal::NameOrId.code());
        }
        return topic_by_id(broker, wanted.topic_id).map_err(|refusal| refusal.code());
    };
    TopicName::new(name).map_err(|_| Refusal::TopicName.code())?;
    if let Some(topic) = broker.topic(name) {
        return Ok(topic);
    }
    if !create {
        return Err(Refusal::UnknownTopicOrPartition.code());
    }
    let new = NewTopic { name: name.to_string(), partitions: -1, options: Vec::new() };
    match broker.create_topic(new).await {
        Ok(topic) => Ok(topic),
        // Another connection was faster.
        Err(CreateTopicError::Exists { .. }) => {
            broker.topic(name).ok_or(Refusal::UnknownTopicOrPartition.code())
        }
        Err(error) => {
            tracing::info!(topic = name.as_str(), %error, "a topic was not created automatically");
            Err(error.code())
        }
    }
}

fn known(topic: &Topic, us: BrokerId) -> MetadataResponseTopic {
    let partitions = (0..)
        .zip(topic.partitions())
        .map(|(index, partition)| {
            let answer = MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(us)
                .with_leader_epoch(partition.leader_epoch().0)
                .with_replica_nodes(vec![us]);
            if partition.offline().is_some() {
                let code = Refusal::PartitionOffline.code().wire();
                return answer.with_error_code(code).with_offline_replicas(vec![us]);
            }
            answer.with_isr_nodes(vec![us])
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(text(topic.name()).into()))
        .with_topic_id(wire_id(topic.id()))
        .with_is_internal(topic.name().is_internal())
        .with_partitions(partitions)
}

fn unknown(wanted: MetadataRequestTopic, version: i16, code: ErrorCode) -> MetadataResponseTopic {
    let name = match wanted.name {
        None if version < NAMELESS => Some(StrBytes::new().into()),
        name => name,
    };
    MetadataResponseTopic::default()
        .with_error_code(code.wire())
        .with_name(name)
        .with_topic_id(wanted.topic_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::dispatch;

    #[test]
    fn names_and_ids_stay_in_order_and_once() {
        let named = |name: &str| MetadataRequestTopic::default().with_name(Some(text(name).into()));
        let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        let (one, two) = (by_id(uuid::Uuid::from_u128(1)), by_id(uuid::Uuid::from_u128(2)));
        let wanted =
            [named("b"), one.clone(), named("a"), named("b"), two.clone(), one.clone(), named("a")];
        assert_eq!(each_once(wanted.to_vec()), [named("b"), one, named("a"), two]);
    }

    #[test]
    fn every_version_encodes() {
        let partition = MetadataResponsePartition::default()
            .with_leader_id(BrokerId(1))
            .with_leader_epoch(4)
            .with_replica_nodes(vec![BrokerId(1)]);
        let good = MetadataResponseTopic::default()
            .with_name(Some(text("t").into()))
            .with_topic_id(uuid::Uuid::max())
            .with_partitions(vec![partition]);
        let node = MetadataResponseBroker::default().with_host(text("h")).with_port(1);
        let by_id = MetadataRequestTopic::default().with_name(None);
        for version in Metadata::SERVED {
            let bad = unknown(by_id.clone(), version, Refusal::UnknownTopicId.code());
            let response = MetadataResponse::default()
                .with_brokers(vec![node.clone()])
                .with_cluster_id(Some(text("c")))
                .with_error_code(Refusal::Internal.code().wire())
                .with_topics(vec![good.clone(), bad]);
            dispatch::encode(1, version, &response).unwrap();
        }
    }
}
