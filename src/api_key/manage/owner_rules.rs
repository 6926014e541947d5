//! Rules for changes by an owner's administrator to fields that the service has set.

use super::{
    authority::{Authority, Field, SetByOwner},
    update::KeyUpdate,
};
use crate::{
    api_key::record::{
        constraints::Constraints,
        record::{KeyRecord, KeyState},
    },
    core::time::Timestamp,
};

/// Records the authority of an update before it is applied. Returns `true` if the authority can
/// make the update.
///
/// An update by the service takes over every field except the state, including fields that an
/// owner's administrator set before. An owner's administrator can change the fields that it set,
/// restrict fields that the service left open, and tighten fields that the service restricted.
pub(super) fn admit_update(record: &mut KeyRecord, update: &KeyUpdate, by: Authority) -> bool {
    match by {
        Authority::Service => {
            let mut own = SetByOwner::default();
            if record.set_by_owner.has(Field::State) {
                own.set(Field::State, Authority::Owner);
            }
            record.set_by_owner = own;
            true
        }
        Authority::Owner => admit_owner(record, update),
    }
}

fn admit_owner(record: &mut KeyRecord, update: &KeyUpdate) -> bool {
    let own = record.set_by_owner;
    let tier = update.tier.as_ref();
    let tier_fits = own.has(Field::Tier) || tier.is_none_or(|new| *new == record.tier);
    let scopes = update.scopes.iter().flatten();
    let scopes_fit =
        own.has(Field::Scopes) || scopes.into_iter().all(|new| record.scopes.contains(new));
    let times_fit = may_delay(record, update) && may_end(record, update);
    let constraints = update.constraints.as_ref();
    let constraints_fit = own.has(Field::Constraints)
        || constraints.is_none_or(|new| new.are_within(&record.constraints));
    let admitted =
        tier_fits && scopes_fit && times_fit && constraints_fit && !update.sets_allowances();
    if admitted {
        note_restrictions(record, update);
    }
    admitted
}

/// Returns `true` if an owner's administrator can set this start time.
fn may_delay(record: &KeyRecord, update: &KeyUpdate) -> bool {
    match (update.not_before, record.not_before) {
        (None, _) | (Some(_), None) => true,
        (Some(_), Some(_)) if record.set_by_owner.has(Field::NotBefore) => true,
        (Some(new), Some(old)) => new.is_some_and(|new| new >= old),
    }
}

/// Returns `true` if an owner's administrator can set this expiry.
fn may_end(record: &KeyRecord, update: &KeyUpdate) -> bool {
    match (update.expires_at, record.expires_at) {
        (None, _) | (Some(_), None) => true,
        (Some(_), Some(_)) if record.set_by_owner.has(Field::ExpiresAt) => true,
        (Some(new), Some(old)) => new.is_some_and(|new| new <= old),
    }
}

/// Records the restrictions that an owner's administrator adds where the service set none. An
/// owner's administrator can lift these restrictions again.
fn note_restrictions(record: &mut KeyRecord, update: &KeyUpdate) {
    let owner = Authority::Owner;
    if update.not_before.is_some() && record.not_before.is_none() {
        record.set_by_owner.set(Field::NotBefore, owner);
    }
    if update.expires_at.is_some() && record.expires_at.is_none() {
        record.set_by_owner.set(Field::ExpiresAt, owner);
    }
    if update.constraints.is_some() && record.constraints == Constraints::new() {
        record.set_by_owner.set(Field::Constraints, owner);
    }
}

/// Returns `true` if this authority can enable a disabled key. An owner's administrator can enable
/// only a key that the same administrator disabled.
pub(super) fn may_enable(record: &KeyRecord, by: Authority, actor: Option<&str>) -> bool {
    match (by, record.state()) {
        (Authority::Service, _) | (Authority::Owner, KeyState::Active | KeyState::Revoked(_)) => {
            true
        }
        (Authority::Owner, KeyState::Disabled(change)) => {
            record.set_by_owner.has(Field::State) && change.by.as_deref() == actor
        }
    }
}

/// Returns `true` if the service takes over a state that an owner's administrator set, so that the
/// owner cannot undo it.
pub(super) fn takes_over(record: &KeyRecord, by: Authority) -> bool {
    by == Authority::Service && record.set_by_owner.has(Field::State)
}

/// Ends a key now, unless it has ended already.
pub(crate) fn end(record: &mut KeyRecord, now: Timestamp, by: Authority) {
    let was_open = record.expires_at.is_none();
    match by {
        Authority::Owner if !was_open => {}
        Authority::Owner | Authority::Service => record.set_by_owner.set(Field::ExpiresAt, by),
    }
    record.expires_at = Some(record.expires_at.map_or(now, |end| end.min(now)));
    record.grace_until = record.grace_until.map(|until| until.min(now));
}

/// Returns the expiry of the successor of a key.
///
/// The successor has the time to live that the key had at its creation. An owner's administrator
/// cannot extend an expiry that the service set.
pub(super) fn end_of_successor(
    old: &KeyRecord,
    now: Timestamp,
    by: Authority,
) -> Option<Timestamp> {
    let end = old.expires_at?;
    let renewed = now + (end - old.created_at);
    match by {
        Authority::Owner if !old.set_by_owner.has(Field::ExpiresAt) => Some(end.min(renewed)),
        Authority::Owner | Authority::Service => Some(renewed),
    }
}
