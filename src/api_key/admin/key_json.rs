//! Keys and key settings as JSON.

use std::{fmt::Display, str::FromStr, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    administrator::Administrator,
    call::{Members, number, text, texts},
    problem::{self, Problem},
};
use crate::{
    api_key::{
        manage::{new_key::NewKey, update::KeyUpdate},
        record::{
            constraints::Constraints,
            record::{KeyRecord, KeyState, KeyStatus},
        },
        store::{KeyCursor, ListedKey},
    },
    core::{allowance::Allowance, time::Timestamp},
};

/// Serializes a key, without its secret and digest.
pub(super) fn key(record: &KeyRecord, now: Timestamp) -> Value {
    let constraints = record.constraints();
    json!({
        "id": record.id().as_str(),
        "display": record.display(),
        "version": record.version(),
        "owner": record.owner(),
        "lineage": record.lineage().as_str(),
        "environment": record.environment(),
        "status": status(record.status_at(now)),
        "status_change": change(record.state()),
        "created_at": record.created_at().as_secs(),
        "rotated_from": record.rotated_from().map(|id| id.to_string()),
        "rotated_to": record.rotated_to().map(|id| id.to_string()),
        "name": record.name(),
        "tier": record.tier(),
        "credits": record.credits().map(|own| own.to_string()),
        "limit": record.limit().map(|own| own.to_string()),
        "scopes": record.scopes().collect::<Vec<_>>(),
        "not_before": record.not_before().map(Timestamp::as_secs),
        "expires_at": record.expires_at().map(Timestamp::as_secs),
        "metadata": record.metadata(),
        "constraints": {
            "networks": shown(&constraints.networks),
            "methods": shown(&constraints.methods),
            "origins": constraints.origins,
        },
    })
}

/// Serializes a listed key and its usage.
pub(super) fn listed(listed: &ListedKey, now: Timestamp) -> Value {
    let mut value = key(&listed.record, now);
    if let Value::Object(members) = &mut value {
        let last_used_at = listed.last_used_at.map(Timestamp::as_secs);
        members.insert("last_used_at".to_owned(), json!(last_used_at));
        members.insert("uses".to_owned(), json!(listed.uses));
    }
    value
}

fn shown<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn status(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Disabled => "disabled",
        KeyStatus::Revoked => "revoked",
        KeyStatus::NotYetValid => "not_yet_valid",
        KeyStatus::Expired => "expired",
    }
}

fn change(state: &KeyState) -> Value {
    match state {
        KeyState::Active => Value::Null,
        KeyState::Disabled(change) | KeyState::Revoked(change) => json!({
            "at": change.at.as_secs(),
            "by": change.by,
            "reason": change.reason,
        }),
    }
}

/// Serializes the end of a page.
pub(super) fn cursor(place: KeyCursor) -> String {
    format!("{}-{}", place.created_at.as_micros(), place.id)
}

/// Parses the end of a page.
pub(super) fn read_cursor(text: &str) -> Result<KeyCursor, Problem> {
    let read = || {
        let (micros, id) = text.split_once('-')?;
        Some(KeyCursor {
            created_at: Timestamp::from_micros(micros.parse().ok()?),
            id: id.parse().ok()?,
        })
    };
    read().ok_or_else(|| problem::bad_request("`after` is not the `next` of a page"))
}

/// Parses a new key, if this administrator can create it.
pub(super) fn read_new(mut body: Members, admin: &Administrator) -> Result<NewKey, Problem> {
    let owner = body.take_text("owner")?;
    let owner = match (owner, admin.only_owner()) {
        (Some(owner), None) => owner,
        (None, Some(own)) => own.to_owned(),
        (Some(owner), Some(own)) if owner == own => owner,
        (Some(_), Some(_)) => return Err(problem::forbidden()),
        (None, None) => return Err(problem::bad_request("`owner` is missing")),
    };
    let mut new = NewKey::new(owner);
    if let Some(environment) = body.take_text("environment")? {
        new = new.environment(environment);
    }
    if let Some(secs) = body.take_number("expires_in_secs")? {
        new = new.expires_in(Duration::from_secs(secs));
    }
    let settings = Settings::read(&mut body, admin)?;
    body.all_known()?;
    Ok(settings.make(new))
}

/// Parses an update, if this administrator can make it.
pub(super) fn read_update(mut body: Members, admin: &Administrator) -> Result<KeyUpdate, Problem> {
    let version = body.take_number("version")?;
    let version = version.ok_or_else(|| problem::bad_request("`version` is missing"))?;
    let settings = Settings::read(&mut body, admin)?;
    body.all_known()?;
    Ok(settings.change(KeyUpdate::new().if_version(version)))
}

/// The settings of a key. `Some(None)` removes one.
struct Settings {
    name: Option<Option<String>>,
    tier: Option<Option<String>>,
    credits: Option<Option<Allowance>>,
    limit: Option<Option<Allowance>>,
    scopes: Option<Vec<String>>,
    not_before: Option<Option<Timestamp>>,
    expires_at: Option<Option<Timestamp>>,
    metadata: Vec<(String, Option<String>)>,
    constraints: Option<Constraints>,
}

impl Settings {
    fn read(body: &mut Members, admin: &Administrator) -> Result<Self, Problem> {
        let time = |name: &str, value| number(name, value).map(Timestamp::from_secs);
        let settings = Self {
            name: body.take_nullable("name", text)?,
            tier: body.take_nullable("tier", text)?,
            credits: body.take_nullable("credits", allowance)?,
            limit: body.take_nullable("limit", allowance)?,
            scopes: body
                .take_nullable("scopes", texts)?
                .map(Option::unwrap_or_default),
            not_before: body.take_nullable("not_before", time)?,
            expires_at: body.take_nullable("expires_at", time)?,
            metadata: body
                .take_nullable("metadata", metadata)?
                .flatten()
                .unwrap_or_default(),
            constraints: body
                .take_nullable("constraints", constraints)?
                .map(Option::unwrap_or_default),
        };
        if settings.may_be_set_by(admin) {
            Ok(settings)
        } else {
            Err(problem::forbidden())
        }
    }

    fn may_be_set_by(&self, admin: &Administrator) -> bool {
        let scopes = self.scopes.iter().flatten();
        let tier_fits = match &self.tier {
            None => true,
            Some(Some(tier)) => admin.may_grant_tier(tier),
            // Without a tier, a key has the limits of the fallback, which can be higher.
            Some(None) => admin.manages_all(),
        };
        let is_wide = self.credits.is_some() || self.limit.is_some() || !self.metadata.is_empty();
        let scopes_fit = scopes.into_iter().all(|scope| admin.may_grant_scope(scope));
        scopes_fit && tier_fits && (admin.manages_all() || !is_wide)
    }

    fn make(self, mut new: NewKey) -> NewKey {
        if let Some(name) = self.name.flatten() {
            new = new.name(name);
        }
        if let Some(tier) = self.tier.flatten() {
            new = new.tier(tier);
        }
        if let Some(credits) = self.credits.flatten() {
            new = new.credits(credits);
        }
        if let Some(limit) = self.limit.flatten() {
            new = new.limit(limit);
        }
        if let Some(from) = self.not_before.flatten() {
            new = new.not_before(from);
        }
        if let Some(at) = self.expires_at.flatten() {
            new = new.expires_at(at);
        }
        for (name, value) in self.metadata {
            if let Some(value) = value {
                new = new.metadata(name, value);
            }
        }
        new.scopes(self.scopes.unwrap_or_default())
            .constraints(self.constraints.unwrap_or_default())
    }

    fn change(self, mut update: KeyUpdate) -> KeyUpdate {
        if let Some(name) = self.name {
            update = update.name(name.as_deref());
        }
        if let Some(tier) = self.tier {
            update = update.tier(tier.as_deref());
        }
        if let Some(credits) = self.credits {
            update = update.credits(credits);
        }
        if let Some(limit) = self.limit {
            update = update.limit(limit);
        }
        if let Some(scopes) = self.scopes {
            update = update.scopes(scopes);
        }
        if let Some(from) = self.not_before {
            update = update.not_before(from);
        }
        if let Some(at) = self.expires_at {
            update = update.expires_at(at);
        }
        for (name, value) in self.metadata {
            update = update.metadata(name, value.as_deref());
        }
        match self.constraints {
            Some(constraints) => update.constraints(constraints),
            None => update,
        }
    }
}

fn allowance(name: &str, value: Value) -> Result<Allowance, Problem> {
    parsed(name, &text(name, value)?)
}

fn metadata(name: &str, value: Value) -> Result<Vec<(String, Option<String>)>, Problem> {
    let entry = |(entry, value): (String, Value)| match value {
        Value::Null => Ok((entry, None)),
        other => Ok((entry, Some(text(name, other)?))),
    };
    object(name, value)?.into_iter().map(entry).collect()
}

fn constraints(name: &str, value: Value) -> Result<Constraints, Problem> {
    let mut members = Members::new(object(name, value)?);
    let mut list = |name: &str| -> Result<Vec<String>, Problem> {
        let value = members.take(name);
        Ok(value
            .map(|value| texts(name, value))
            .transpose()?
            .unwrap_or_default())
    };
    let (networks, methods) = (list("networks")?, list("methods")?);
    let origins = list("origins")?;
    members.all_known()?;
    let networks = networks.iter().map(|one| parsed("networks", one));
    let methods = methods.iter().map(|one| parsed("methods", one));
    Ok(Constraints::new()
        .networks(networks.collect::<Result<Vec<_>, _>>()?)
        .methods(methods.collect::<Result<Vec<_>, _>>()?)
        .origins(origins))
}

fn object(name: &str, value: Value) -> Result<Map<String, Value>, Problem> {
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(problem::bad_request(format!("`{name}` is not an object"))),
    }
}

fn parsed<T: FromStr>(name: &str, text: &str) -> Result<T, Problem> {
    let wrong = |_| problem::bad_request(format!("`{name}` has an invalid value"));
    text.parse().map_err(wrong)
}
