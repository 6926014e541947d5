//! The routes.

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

/// The most keys of an owner, unless the manager says otherwise.
const MAX_KEYS_PER_OWNER: usize = 100;

type Answered = Result<Response, Problem>;

/// Returns the routes by which keys are managed, for those whom the authorizer lets in: see the
/// [module](super).
///
/// Changes are signed with the name that the authorizer gives, not with the manager's own. An owner has
/// at most 100 keys, or as many as the [manager](KeyManager::max_keys_per_owner) or the
/// [administrator](super::Administrator::max_keys) says.
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

async fn create(call: AdminCall) -> Answered {
    let new = read_new(call.body, &call.admin)?;
    let key = call.manager.create(new).await.map_err(failed)?;
    Ok(with_secret(&call.manager, &key))
}

async fn list(mut call: AdminCall) -> Answered {
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
    Ok(answer(StatusCode::OK, &json!({"keys": keys, "next": next})))
}

/// Returns a page of all keys, or of those that something is to be done about.
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
                "`unused_since`, `expiring_within_secs` and `outdated_pepper=true` stand alone";
            return Err(problem::bad_request(several));
        }
    };
    page.map_err(failed)
}

async fn show(Path(id): Path<String>, call: AdminCall) -> Answered {
    let key = call.visible(parse(&id)?).await?;
    Ok(of_key(&call.manager, &key))
}

async fn update(Path(id): Path<String>, mut call: AdminCall) -> Answered {
    let key = call.handled(parse(&id)?).await?;
    let update = read_update(std::mem::take(&mut call.body), &call.admin)?;
    // The version that was checked is the one that is changed.
    let manager = call.manager.if_version(key.version());
    let key = manager.update(key.id(), update).await.map_err(failed)?;
    Ok(of_key(&call.manager, &key))
}

async fn disable(Path(id): Path<String>, mut call: AdminCall) -> Answered {
    let reason = reason(&mut call)?;
    let disable = |manager: KeyManager, id| -> Changing<StoredKey> {
        let reason = reason.clone();
        Box::pin(async move { manager.disable(id, &reason).await })
    };
    changed(&call, Need::Sight, &id, disable).await
}

async fn enable(Path(id): Path<String>, mut call: AdminCall) -> Answered {
    nothing_said(&mut call)?;
    let enable = |manager: KeyManager, id| -> Changing<StoredKey> {
        Box::pin(async move { manager.enable(id).await })
    };
    changed(&call, Need::Grant, &id, enable).await
}

async fn revoke(Path(id): Path<String>, mut call: AdminCall) -> Answered {
    let reason = reason(&mut call)?;
    let revoke = |manager: KeyManager, id| -> Changing<StoredKey> {
        let reason = reason.clone();
        Box::pin(async move { manager.revoke(id, &reason).await })
    };
    changed(&call, Need::Sight, &id, revoke).await
}

async fn expire(Path(id): Path<String>, mut call: AdminCall) -> Answered {
    nothing_said(&mut call)?;
    let expire = |manager: KeyManager, id| -> Changing<StoredKey> {
        Box::pin(async move { manager.expire(id).await })
    };
    changed(&call, Need::Sight, &id, expire).await
}

async fn rotate(Path(id): Path<String>, mut call: AdminCall) -> Answered {
    let overlap = call.body.take_number("overlap_secs")?.unwrap_or(0);
    nothing_said(&mut call)?;
    let overlap = Duration::from_secs(overlap);
    let rotate = |manager: KeyManager, id| -> Changing<GeneratedKey> {
        Box::pin(async move { manager.rotate(id, overlap).await })
    };
    let key = call.change(Need::Grant, parse(&id)?, rotate).await?;
    Ok(with_secret(&call.manager, &key))
}

async fn report_leaked(mut call: AdminCall) -> Answered {
    if !call.admin.manages_all() {
        return Err(problem::forbidden());
    }
    let found = call.body.take_text("key")?;
    let found = found.ok_or_else(|| problem::bad_request("`key` is missing"))?;
    nothing_said(&mut call)?;
    let key = call.manager.report_leaked(&found).await.map_err(failed)?;
    match key {
        Some(key) => Ok(of_key(&call.manager, &key)),
        None => Err(problem::no_such_key()),
    }
}

async fn purge(mut call: AdminCall) -> Answered {
    if !call.admin.manages_all() {
        return Err(problem::forbidden());
    }
    let retention = call.body.take_number("retention_secs")?;
    let missing = || problem::bad_request("`retention_secs` is missing");
    let retention = Duration::from_secs(retention.ok_or_else(missing)?);
    nothing_said(&mut call)?;
    let purged = call.manager.purge(retention).await.map_err(failed)?;
    Ok(answer(StatusCode::OK, &json!({"purged": purged})))
}

fn parse(id: &str) -> Result<KeyId, Problem> {
    id.parse().map_err(|_| problem::no_such_key())
}

fn reason(call: &mut AdminCall) -> Result<String, Problem> {
    let reason = call.body.take_text("reason")?.unwrap_or_default();
    nothing_said(call)?;
    Ok(reason)
}

/// Says whether nothing is left of the body that was not understood.
fn nothing_said(call: &mut AdminCall) -> Result<(), Problem> {
    std::mem::take(&mut call.body).all_known()
}

/// Changes a key, and responds with it as it is then.
async fn changed(
    call: &AdminCall,
    need: Need,
    id: &str,
    change: impl Fn(KeyManager, KeyId) -> Changing<StoredKey>,
) -> Answered {
    let key = call.change(need, parse(id)?, change).await?;
    Ok(of_key(&call.manager, &key))
}

fn of_key(manager: &KeyManager, key: &StoredKey) -> Response {
    answer(
        StatusCode::OK,
        &json!({"key": key_json::key(key, manager.now())}),
    )
}

/// The one answer that has the secret.
fn with_secret(manager: &KeyManager, key: &GeneratedKey) -> Response {
    let record = key_json::key(key.record(), manager.now());
    let body = json!({"key": record, "secret": key.expose_secret()});
    answer(StatusCode::CREATED, &body)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
