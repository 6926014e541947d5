//! Rules for changes by an administrator of the owner to fields that the service has set.

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

/// Notes who made an update, before it is applied. Returns whether this authority may make it.
///
/// An update by the service makes every field but the state the service's: what an owner's
/// administrator set before is confirmed by it. An owner's administrator may change the fields that
/// it set, restrict what the service left open, and tighten what the service restricted.
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

/// Returns whether an owner's administrator may set this begin.
fn may_delay(record: &KeyRecord, update: &KeyUpdate) -> bool {
    match (update.not_before, record.not_before) {
        (None, _) | (Some(_), None) => true,
        (Some(_), Some(_)) if record.set_by_owner.has(Field::NotBefore) => true,
        (Some(new), Some(old)) => new.is_some_and(|new| new >= old),
    }
}

/// Returns whether an owner's administrator may set this end.
fn may_end(record: &KeyRecord, update: &KeyUpdate) -> bool {
    match (update.expires_at, record.expires_at) {
        (None, _) | (Some(_), None) => true,
        (Some(_), Some(_)) if record.set_by_owner.has(Field::ExpiresAt) => true,
        (Some(new), Some(old)) => new.is_some_and(|new| new <= old),
    }
}

/// Notes the restrictions that an owner's administrator adds where the service set none: those it
/// may lift again.
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

/// Returns whether this authority may switch a disabled key on: an owner's administrator may if it
/// switched the key off itself.
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

/// Returns whether a key that is switched off already is switched off once more: the service takes
/// over what an owner's administrator decided, so that the owner cannot undo it.
pub(super) fn takes_over(record: &KeyRecord, by: Authority) -> bool {
    by == Authority::Service && record.set_by_owner.has(Field::State)
}

/// Ends a key at this moment, unless it ended before.
pub(crate) fn end(record: &mut KeyRecord, now: Timestamp, by: Authority) {
    let was_open = record.expires_at.is_none();
    match by {
        Authority::Owner if !was_open => {}
        Authority::Owner | Authority::Service => record.set_by_owner.set(Field::ExpiresAt, by),
    }
    record.expires_at = Some(record.expires_at.map_or(now, |end| end.min(now)));
    record.grace_until = record.grace_until.map(|until| until.min(now));
}

/// Returns when the successor of a key ends.
///
/// It lives as long as the key was meant to live when it was made. An owner's administrator does not
/// extend an end that the service set.
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
