//! InitProducerId (key 22), versions 0 to 5.
//!
//! Differs from Kafka: a transactional id is answered with `COORDINATOR_NOT_AVAILABLE`, for there is no transaction
//! coordinator yet. Version 6 (two-phase commit) is not stable in Kafka and not served.
//!
//! | version | change |
//! |---|---|
//! | 2 | flexible |
//! | 3 | the producer may send the id and epoch that it has (KIP-360): without a transactional id it gets a new id |
//! | 4 | `PRODUCER_FENCED` may be answered |
//! | 5 | `TRANSACTION_ABORTABLE` may be answered |

use std::ops::RangeInclusive;
use std::sync::Arc;

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

use crate::kafka::dispatch::{Api, Call, Handled};
use crate::kafka::error::{ErrorCode, Failure, Refusal};

/// See the module's page.
pub struct InitProducerId;

impl Api for InitProducerId {
    type Message = InitProducerIdRequest;
    const NAME: &'static str = "InitProducerId";
    const SERVED: RangeInclusive<i16> = 0..=5;

    fn handle(call: &Call, request: Self::Message) -> Handled<InitProducerIdResponse> {
        let refusal = request.transactional_id.as_ref().map(|id| {
            if id.is_empty() { Refusal::EmptyTransactionalId } else { Refusal::NoCoordinator }
        });
        if let Some(refusal) = refusal {
            return Handled::Now(Self::refuse(call, &request, refusal).into());
        }
        let broker = Arc::clone(call.peer.broker());
        Handled::Later(Box::pin(async move {
            match broker.new_producer_id().await {
                Ok(id) => InitProducerIdResponse::default().with_producer_id(id.into()).into(),
                Err(error) => refused(&error).into(),
            }
        }))
    }

    fn refuse(_: &Call, _: &Self::Message, refusal: Refusal) -> InitProducerIdResponse {
        refused(&refusal)
    }

    fn first_error(response: &InitProducerIdResponse) -> ErrorCode {
        ErrorCode::of_wire(response.error_code)
    }
}

fn refused(failure: &impl Failure) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(failure.code().wire())
        .with_producer_id((-1).into())
        .with_producer_epoch(-1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::dispatch;

    #[test]
    fn every_version_encodes() {
        let good = InitProducerIdResponse::default().with_producer_id(5.into());
        for version in InitProducerId::SERVED {
            for response in [&good, &refused(&Refusal::NoCoordinator)] {
                dispatch::encode(1, version, response).unwrap();
            }
        }
    }
}
