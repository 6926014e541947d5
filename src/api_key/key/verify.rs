//! Verification of a key against its record.

use super::{
    digest::{KeyDigest, Peppers},
    format::ParsedKey,
};
use crate::{
    api_key::{
        authenticate::rejection::Denied,
        record::record::{KeyStatus, StoredKey},
    },
    core::{record::AuthDenial, time::Timestamp},
};

/// Verifies a key. The secret is compared first, so that only a holder of the whole key can learn
/// that the key exists. An unknown id costs the same digest and comparison as a known one.
///
/// `proved` is the result of the slow hash, for a record that has one.
pub(crate) fn verify(
    peppers: &Peppers,
    presented: &ParsedKey<'_>,
    record: Option<StoredKey>,
    proved: Option<bool>,
    now: impl FnOnce() -> Timestamp,
) -> Result<StoredKey, Denied> {
    let unknown = || Denied::new(AuthDenial::Unknown, None);
    let Some(record) = record else {
        let digest = peppers.digest_new(presented.bytes);
        // The result is irrelevant: no key has this digest.
        std::hint::black_box(digest.matches(&KeyDigest::from_bytes([0; 32])));
        return Err(unknown());
    };
    let is_right = match proved {
        Some(proved) => proved,
        None => peppers
            .digest_as(record.brief().algorithm, presented.bytes)
            .ok_or_else(Denied::internal)?
            .matches(&record.brief().digest),
    };
    if !is_right || record.brief().id != presented.id {
        return Err(unknown());
    }
    if record.brief().is_active_at_any_time {
        return Ok(record);
    }
    let reason = match record.status_at(now()) {
        KeyStatus::Active => return Ok(record),
        KeyStatus::Disabled => AuthDenial::Disabled,
        KeyStatus::Revoked => AuthDenial::Revoked,
        KeyStatus::NotYetValid => AuthDenial::NotYetValid,
        KeyStatus::Expired => AuthDenial::Expired,
    };
    Err(Denied::new(reason, Some(record.id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::{
        key::digest::{
            Pepper,
            tests::{Steps, take_steps},
        },
        record::record::tests::record,
    };

    const KEY: &[u8] =
        b"acme_live_1AAAAAAAAAAAAAAA_00000000000000000000000000000000000000000000w2Xzo";

    /// Threat A1: correct, wrong and unknown keys cost exactly one digest and one comparison each.
    #[test]
    fn right_wrong_and_unknown_keys_cost_the_same_computation() {
        let pepper = Pepper::new(1, (0..32).collect::<Vec<u8>>()).unwrap();
        let peppers = Peppers::new(Some(pepper), Vec::new(), false).unwrap();
        let (mut right, wrong) = (record(), record());
        right.digest = peppers.digest_new(KEY);
        let presented = ParsedKey {
            id: right.id,
            bytes: KEY,
        };
        let found = [Some(right.into()), Some(wrong.into()), None];
        let verified = found.map(|record: Option<StoredKey>| {
            let _ = take_steps();
            let now = || Timestamp::from_secs(1_000_000);
            let is_right = verify(&peppers, &presented, record, None, now).is_ok();
            (is_right, take_steps())
        });
        let once = Steps {
            digests: 1,
            comparisons: 1,
        };
        assert_eq!(verified, [(true, once), (false, once), (false, once)]);
    }
}
