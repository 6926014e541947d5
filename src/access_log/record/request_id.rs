//! Generation of request ids.

use uuid::Builder;

use crate::core::{http::request_id::RequestId, time::Timestamp};

/// Generates the id of a request that arrived at this time: a UUID of version 7.
pub(crate) fn generate(at: Timestamp) -> RequestId {
    let random = fastrand::u128(..).to_le_bytes();
    let bits: &[u8; 10] = random.first_chunk().expect("16 bytes hold 10");
    let uuid = Builder::from_unix_timestamp_millis(at.as_millis(), bits).into_uuid();
    let mut text = [0; 36];
    uuid.hyphenated().encode_lower(&mut text);
    RequestId::own(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_request_id_is_a_uuid_v7_with_its_timestamp() {
        let at = Timestamp::from_micros(1_767_225_600_123_456);
        let id = generate(at);
        let uuid: uuid::Uuid = id.as_str().parse().unwrap();
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.as_u128() >> 80, u128::from(at.as_millis()));
        assert_eq!(id.header_value(), id.as_str());
    }

    #[test]
    fn two_requests_of_one_moment_have_two_names() {
        let one = generate(Timestamp::EPOCH);
        let two = generate(Timestamp::EPOCH);
        assert_ne!(one.as_str(), two.as_str());
    }
}
