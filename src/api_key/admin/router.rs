//! The routes of the admin API.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Path,
    response::Response,
    routing::{get, post},
};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde_json::{Value, json};

use super::{
    administrator::Authorizer,
    call::{AdminCall, Changing, Desk, Need, failed},
    key_json::{self, read_cursor, read_new, read_update},
    problem::{self, Problem},
};
use crate::{
    api_key::{
        key::format::KeyId,
        manage::{generated_key::GeneratedKey, manager::KeyManager},
        record::record::StoredKey,
        store::{KeyPage, KeyQuery},
    },
    core::time::Timestamp,
};

/// The default maximum number of keys per owner.
const MAX_KEYS_PER_OWNER: usize = 100;

type HandlerResult = Result<Response, Problem>;

/// Creates a router for key management. See the [module](super) for the endpoints.
///
/// Changes are recorded under the administrator's name rather than the manager's actor. An owner
/// can have at most 100 keys, unless the [manager](KeyManager::max_keys_per_owner) or the
/// [administrator](super::Administrator::max_keys_per_owner) sets another maximum.
pub fn router(manager: KeyManager, authorizer: impl Authorizer) -> Router {
    let max_keys = manager.max_keys.unwrap_or(MAX_KEYS_PER_OWNER);
    let desk = Desk {
        manager: manager.max_keys_per_owner(max_keys),
        authorizer: Box::new(authorizer),
    };
    Router::new()
        .route("/keys", get(list).post(create))
        .route("/keys/{id}", get(show).patch(update))
        .route("/keys/{id}/disable", post(disable))
        .route("/keys/{id}/enable", post(enable))
        .route("/keys/{id}/revoke", post(revoke))
        .route("/keys/{id}/expire", post(expire))
        .route("/keys/{id}/rotate", post(rotate))
        .route("/leaked", post(report_leaked))
        .route("/purge", post(purge))
        .with_state(Arc::new(desk))
}

async fn create(call: AdminCall) -> HandlerResult {
    let new = read_new(call.body, &call.admin)?;
    let key = call.manager.create(new).await.map_err(failed)?;
    Ok(secret_response(&call.manager, &key))
}

async fn list(mut call: AdminCall) -> HandlerResult {
    let owner = call.query.take_text("owner")?;
    let owner = match (owner, call.admin.only_owner()) {
        (owner, None) => owner,
        (Some(owner), Some(own)) if owner != own => return Err(problem::forbidden()),
        (_, Some(own)) => Some(own.to_owned()),
    };
    let mut query = owner.map_or_else(KeyQuery::all, KeyQuery::for_owner);
    if let Some(after) = call.query.take_text("after")? {
        query = query.after(read_cursor(&after)?);
    }
    if let Some(limit) = call.query.take_number("limit")? {
        query = query.limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let page = page(&mut call, query).await?;
    call.query.all_known()?;
    let now = call.manager.now();
    let listed = page.keys.iter().map(|key| key_json::listed(key, now));
    let keys: Vec<Value> = listed.collect();
    let next = page.next.map(key_json::cursor);
    Ok(json_response(
        StatusCode::OK,
        &json!({"keys": keys, "next": next}),
    ))
}

/// Returns a page of all keys, or of the keys that a filter selects.
async fn page(call: &mut AdminCall, query: KeyQuery) -> Result<KeyPage, Problem> {
    let unused_since = call.query.take_number("unused_since")?;
    let list_expiring_within = call.query.take_number("expiring_within_secs")?;
    let previous_pepper = call.query.take_text("outdated_pepper")?;
    let manager = &call.manager;
    let page = match (
        unused_since,
        list_expiring_within,
        previous_pepper.as_deref(),
    ) {
        (None, None, None) => manager.list(query).await,
        (Some(secs), None, None) => {
            let moment = Timestamp::from_secs(secs);
            manager.list_unused_since(moment, query).await
        }
        (None, Some(secs), None) => {
            let soon = Duration::from_secs(secs);
            manager.list_expiring_within(soon, query).await
        }
        (None, None, Some("true")) => manager.list_outdated_pepper(query).await,
        _ => {
            let several =
                "`unused_since`, `expiring_within_secs` and `outdated_pepper=true` are exclusive";
            return Err(problem::bad_request(several));
        }
    };
    page.map_err(failed)
}

async fn show(Path(id): Path<String>, call: AdminCall) -> HandlerResult {
    let key = call.visible(parse(&id)?).await?;
    Ok(key_response(&call.manager, &key))
}

async fn update(Path(id): Path<String>, mut call: AdminCall) -> HandlerResult {
    let key = call.handled(parse(&id)?).await?;
    let update = read_update(std::mem::take(&mut call.body), &call.admin)?;
    // Update the version that was checked.
    let manager = call.manager.if_version(key.version());
    let key = manager.update(key.id(), update).await.map_err(failed)?;
    Ok(key_response(&call.manager, &key))
}

async fn disable(Path(id): Path<String>, mut call: AdminCall) -> HandlerResult {
    let reason = reason(&mut call)?;
    let disable = |manager: KeyManager, id| -> Changing<StoredKey> {
        let reason = reason.clone();
        Box::pin(async move { manager.disable(id, &reason).await })
    };
    changed(&call, Need::Sight, &id, disable).await
}

async fn enable(Path(id): Path<String>, mut call: AdminCall) -> HandlerResult {
    reject_unknown_members(&mut call)?;
    let enable = |manager: KeyManager, id| -> Changing<StoredKey> {
        Box::pin(async move { manager.enable(id).await })
    };
    changed(&call, Need::Grant, &id, enable).await
}

async fn revoke(Path(id): Path<String>, mut call: AdminCall) -> HandlerResult {
    let reason = reason(&mut call)?;
    let revoke = |manager: KeyManager, id| -> Changing<StoredKey> {
        let reason = reason.clone();
        Box::pin(async move { manager.revoke(id, &reason).await })
    };
    changed(&call, Need::Sight, &id, revoke).await
}

async fn expire(Path(id): Path<String>, mut call: AdminCall) -> HandlerResult {
    reject_unknown_members(&mut call)?;
    let expire = |manager: KeyManager, id| -> Changing<StoredKey> {
        Box::pin(async move { manager.expire(id).await })
    };
    changed(&call, Need::Sight, &id, expire).await
}

async fn rotate(Path(id): Path<String>, mut call: AdminCall) -> HandlerResult {
    let overlap = call.body.take_number("overlap_secs")?.unwrap_or(0);
    reject_unknown_members(&mut call)?;
    let overlap = Duration::from_secs(overlap);
    let rotate = |manager: KeyManager, id| -> Changing<GeneratedKey> {
        Box::pin(async move { manager.rotate(id, overlap).await })
    };
    let key = call.change(Need::Grant, parse(&id)?, rotate).await?;
    Ok(secret_response(&call.manager, &key))
}

async fn report_leaked(mut call: AdminCall) -> HandlerResult {
    if !call.admin.manages_all() {
        return Err(problem::forbidden());
    }
    let found = call.body.take_text("key")?;
    let found = found.ok_or_else(|| problem::bad_request("`key` is missing"))?;
    reject_unknown_members(&mut call)?;
    let key = call.manager.report_leaked(&found).await.map_err(failed)?;
    match key {
        Some(key) => Ok(key_response(&call.manager, &key)),
        None => Err(problem::no_such_key()),
    }
}

async fn purge(mut call: AdminCall) -> HandlerResult {
    if !call.admin.manages_all() {
        return Err(problem::forbidden());
    }
    let retention = call.body.take_number("retention_secs")?;
    let missing = || problem::bad_request("`retention_secs` is missing");
    let retention = Duration::from_secs(retention.ok_or_else(missing)?);
    reject_unknown_members(&mut call)?;
    let purged = call.manager.purge(retention).await.map_err(failed)?;
    Ok(json_response(StatusCode::OK, &json!({"purged": purged})))
}

fn parse(id: &str) -> Result<KeyId, Problem> {
    id.parse().map_err(|_| problem::no_such_key())
}

fn reason(call: &mut AdminCall) -> Result<String, Problem> {
    let reason = call.body.take_text("reason")?.unwrap_or_default();
    reject_unknown_members(call)?;
    Ok(reason)
}

/// Returns an error if the body has unknown members.
fn reject_unknown_members(call: &mut AdminCall) -> Result<(), Problem> {
    std::mem::take(&mut call.body).all_known()
}

/// Changes a key and responds with the updated key.
async fn changed(
    call: &AdminCall,
    need: Need,
    id: &str,
    change: impl Fn(KeyManager, KeyId) -> Changing<StoredKey>,
) -> HandlerResult {
    let key = call.change(need, parse(id)?, change).await?;
    Ok(key_response(&call.manager, &key))
}

fn key_response(manager: &KeyManager, key: &StoredKey) -> Response {
    json_response(
        StatusCode::OK,
        &json!({"key": key_json::key(key, manager.now())}),
    )
}

/// Returns the only kind of response that contains a secret.
fn secret_response(manager: &KeyManager, key: &GeneratedKey) -> Response {
    let record = key_json::key(key.record(), manager.now());
    let body = json!({"key": record, "secret": key.expose_secret()});
    json_response(StatusCode::CREATED, &body)
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
