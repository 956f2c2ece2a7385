//! FindCoordinator (key 10), versions 0 to 6.
//!
//! Differs from Kafka: there are no groups and no transactions yet, so every key is answered with
//! `COORDINATOR_NOT_AVAILABLE`, naming this broker. The API must be there all the same: librdkafka takes its presence
//! as the sign that the broker knows lz4. A key named several times is answered once.
//!
//! | version | change |
//! |---|---|
//! | 1 | key type (0 group, 1 transaction); throttle time and message in the answer |
//! | 3 | flexible |
//! | 4 | several keys in one request (KIP-699) |
//! | 5 | `TRANSACTION_ABORTABLE` may be answered |
//! | 6 | key type 2, share groups |

use std::collections::HashSet;
use std::ops::RangeInclusive;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};

use super::shared::{first_error, text};
use crate::kafka::dispatch::{Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure as _, Refusal};

/// See the module's page.
pub struct FindCoordinator;

impl Api for FindCoordinator {
    type Message = FindCoordinatorRequest;
    const NAME: &'static str = "FindCoordinator";
    const SERVED: RangeInclusive<i16> = 0..=6;

    fn handle(call: &Call, request: Self::Message) -> Handled<FindCoordinatorResponse> {
        Handled::Now(Self::refuse(call, &request, Refusal::NoCoordinator).into())
    }

    fn refuse(call: &Call, request: &Self::Message, refusal: Refusal) -> FindCoordinatorResponse {
        let (host, port) = &call.peer.advertised;
        answer(call.version, request, refusal, (call.peer.broker().node_id(), host, *port))
    }

    fn first_error(response: &FindCoordinatorResponse) -> ErrorCode {
        let each = response.coordinators.iter().map(|coordinator| coordinator.error_code);
        first_error([response.error_code].into_iter().chain(each))
    }
}

fn answer(
    version: i16,
    request: &FindCoordinatorRequest,
    refusal: Refusal,
    (node, host, port): (i32, &str, u16),
) -> FindCoordinatorResponse {
    let error = refusal.code().wire();
    // One text that all keys share.
    let (message, host) = (text(refusal), text(host));
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_error_code(error)
            .with_error_message(Some(message))
            .with_node_id(node.into())
            .with_host(host)
            .with_port(port.into());
    }
    let mut seen = HashSet::new();
    let coordinators = request
        .coordinator_keys
        .iter()
        .filter(|key| seen.insert(*key))
        .map(|key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_error_code(error)
                .with_error_message(Some(message.clone()))
                .with_node_id(node.into())
                .with_host(host.clone())
                .with_port(port.into())
        })
        .collect();
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::dispatch;

    #[test]
    fn a_key_named_twice_is_answered_once() {
        let request = FindCoordinatorRequest::default()
            .with_coordinator_keys(["g", "h", "g"].map(text).to_vec());
        let answered = answer(4, &request, Refusal::NoCoordinator, (1, "h", 9092)).coordinators;
        assert_eq!(answered.iter().map(|found| found.key.as_str()).collect::<Vec<_>>(), ["g", "h"]);
    }

    #[test]
    fn every_version_encodes() {
        for version in FindCoordinator::SERVED {
            let request = FindCoordinatorRequest::default()
                .with_key(text("g"))
                .with_coordinator_keys(vec![text("g"), text("h")]);
            let response = answer(version, &request, Refusal::NoCoordinator, (1, "h", 9092));
            assert_eq!(FindCoordinator::first_error(&response), Refusal::NoCoordinator.code());
            dispatch::encode(1, version, &response).unwrap();
        }
    }
}
