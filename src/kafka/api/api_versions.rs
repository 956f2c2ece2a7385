//! ApiVersions (key 18), versions 0 to 4.
//!
//! Differs from Kafka: no features are listed, because none is finalized here; so no tagged field is ever sent.
//!
//! | version | change |
//! |---|---|
//! | 1 | throttle time in the answer |
//! | 3 | flexible body, but the **response header stays at version 0** (KIP-511); the client names its software |
//! | 4 | features with a lowest version of 0 may be listed (KIP-584 fix) |
//!
//! A request of a version beyond is answered in version 0 with `UNSUPPORTED_VERSION` and our range, and the client asks
//! again on the same connection.

use std::ops::RangeInclusive;

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};

use crate::kafka::context::Software;
use crate::kafka::dispatch::{self, Api, Call, Entry, Handled, Reply};
use crate::kafka::error::{ErrorCode, Failure as _, Refusal};

/// See the module's page.
pub struct ApiVersions;

impl Api for ApiVersions {
    type Message = ApiVersionsRequest;
    const NAME: &'static str = "ApiVersions";
    const SERVED: RangeInclusive<i16> = 0..=4;

    fn handle(call: &Call, request: Self::Message) -> Handled<ApiVersionsResponse> {
        if call.version >= 3 {
            let software = Software {
                name: request.client_software_name.to_string(),
                version: request.client_software_version.to_string(),
            };
            if !is_software_word(&software.name) || !is_software_word(&software.version) {
                let refused = Self::refuse(call, &request, Refusal::SoftwareName);
                return Handled::Now(refused.into());
            }
            call.peer.set_software(software);
        }
        let all = dispatch::TABLE.iter().map(row).collect();
        Handled::Now(ApiVersionsResponse::default().with_api_keys(all).into())
    }

    fn refuse(_: &Call, _: &Self::Message, refusal: Refusal) -> ApiVersionsResponse {
        ApiVersionsResponse::default().with_error_code(refusal.code().wire())
    }

    fn first_error(response: &ApiVersionsResponse) -> ErrorCode {
        ErrorCode::of_wire(response.error_code)
    }
}

fn row(entry: &Entry) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(entry.key)
        .with_min_version(entry.advertised_min)
        .with_max_version(*entry.served.end())
}

/// The answer to a version that we do not know, in version 0, which every client reads. Source: KIP-511.
pub fn refuse_unknown_api_versions(correlation_id: i32) -> Reply {
    let ours = dispatch::find(ApiKey::ApiVersions as i16).map(row);
    let response = ApiVersionsResponse::default()
        .with_error_code(Refusal::UnknownApiVersions.code().wire())
        .with_api_keys(ours.into_iter().collect());
    match dispatch::encode(correlation_id, 0, &response) {
        Ok(bytes) => Reply::Frame(bytes.into()),
        Err(error) => Reply::Close(error.to_string()),
    }
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`, and not longer than a log line can bear.
fn is_software_word(word: &str) -> bool {
    let bytes = word.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= 256
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::gather::Chunk;

    fn all() -> ApiVersionsResponse {
        ApiVersionsResponse::default().with_api_keys(dispatch::TABLE.iter().map(row).collect())
    }

    #[test]
    fn software_words() {
        for word in ["a", "librdkafka", "2.0.2", "apache-kafka-java", "9"] {
            assert!(is_software_word(word), "{word}");
        }
        for word in ["", "-", "a-", ".a", "a b", "ä", "a\0b", &"x".repeat(257)] {
            assert!(!is_software_word(word), "{word}");
        }
    }

    #[test]
    fn every_version_encodes_with_the_old_response_header() {
        let refused =
            ApiVersionsResponse::default().with_error_code(Refusal::SoftwareName.code().wire());
        for version in ApiVersions::SERVED {
            for response in [&all(), &refused] {
                let frame = dispatch::encode(7, version, response).unwrap();
                assert_eq!(frame[4..8], 7_i32.to_be_bytes(), "correlation id");
                assert_eq!(frame[8..10], response.error_code.to_be_bytes(), "no tags in between");
            }
        }
    }

    #[test]
    fn an_unknown_version_is_answered_in_version_0_with_our_range() {
        let Reply::Frame(frame) = refuse_unknown_api_versions(9) else { panic!("no frame") };
        let expected = [
            &16_i32.to_be_bytes()[..], // length
            &9_i32.to_be_bytes(),
            &35_i16.to_be_bytes(),
            &1_i32.to_be_bytes(),
            &18_i16.to_be_bytes(),
            &0_i16.to_be_bytes(),
            &4_i16.to_be_bytes(),
        ]
        .concat();
        let [Chunk::Bytes(bytes)] = frame.pieces.as_slice() else { panic!("not one piece") };
        assert_eq!(*bytes, expected);
    }

    #[test]
    fn produce_is_shown_from_version_0_so_that_old_librdkafka_compresses() {
        let produce = all().api_keys.iter().find(|row| row.api_key == 0).cloned().unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 11));
    }

    /// librdkafka up to 2.1 skips `length - 1` bytes of each tag and then reads on misaligned.
    #[test]
    fn the_parser_of_old_librdkafka_reads_version_3_to_its_end() {
        let frame = dispatch::encode(1, 3, &all()).unwrap();
        let mut rest = &frame[8..];
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head.to_vec()
        };
        fn uvarint(take: &mut impl FnMut(usize) -> Vec<u8>) -> usize {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = take(1)[0];
                value |= usize::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        fn skip_tags(take: &mut impl FnMut(usize) -> Vec<u8>) {
            for _ in 0..uvarint(take) {
                uvarint(take);
                let length = uvarint(take);
                if length > 1 {
                    take(length - 1);
                }
            }
        }
        assert_eq!(take(2), [0, 0]);
        let count = uvarint(&mut take) - 1;
        assert_eq!(count, dispatch::TABLE.len());
        for _ in 0..count {
            take(6);
            skip_tags(&mut take);
        }
        take(4);
        skip_tags(&mut take);
        assert!(rest.is_empty(), "{} bytes are left over", rest.len());
    }
}
