//! Authorized admin requests, the only access to the manager.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::ready,
};

use axum::{
    body::{Body, to_bytes},
    extract::FromRequest,
};
use http::{Method, Request, header::CONTENT_TYPE, request::Parts};
use serde_json::{Map, Value};

use super::{
    administrator::{Administrator, Authorizer},
    problem::{self, Problem},
};
use crate::{
    api_key::{
        authenticate::encoding::decode_percent,
        key::format::KeyId,
        manage::{key_error::KeyError, manager::KeyManager},
        record::record::StoredKey,
    },
    core::store_api::store_future::ReadyOrPending,
};

/// The maximum size of a request body. The JSON form of the largest record fits.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The options of the router.
pub(super) struct Desk {
    pub(super) manager: KeyManager,
    pub(super) authorizer: Box<dyn Authorizer>,
}

/// An authorized request with its parsed query and body.
pub(super) struct AdminCall {
    pub(super) manager: KeyManager,
    pub(super) admin: Administrator,
    pub(super) body: Members,
    pub(super) query: Members,
}

impl FromRequest<Arc<Desk>> for AdminCall {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, desk: &Arc<Desk>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        // Authorize the request before anything else in it is processed.
        let admin = authorize(&*desk.authorizer, &head).await?;
        let body = if head.method == Method::GET || head.method == Method::HEAD {
            Members::default()
        } else {
            read_body(&head, body).await?
        };
        Ok(Self {
            manager: admin.manager(&desk.manager),
            query: read_query(head.uri.query().unwrap_or_default())?,
            admin,
            body,
        })
    }
}

impl AdminCall {
    /// Returns a key that this administrator can see.
    pub(super) async fn visible(&self, id: KeyId) -> Result<StoredKey, Problem> {
        let key = self.manager.get(id).await.map_err(failed)?;
        if self.admin.sees(&key) {
            Ok(key)
        } else {
            Err(problem::no_such_key())
        }
    }

    /// Returns a key that this administrator can see and handle.
    pub(super) async fn handled(&self, id: KeyId) -> Result<StoredKey, Problem> {
        let key = self.visible(id).await?;
        if self.admin.may_handle(&key) {
            Ok(key)
        } else {
            Err(problem::forbidden())
        }
    }

    /// Checks a key and changes the version that was checked. Repeats the check after a concurrent
    /// change.
    pub(super) async fn change<T>(
        &self,
        need: Need,
        id: KeyId,
        change: impl Fn(KeyManager, KeyId) -> Changing<T>,
    ) -> Result<T, Problem> {
        let mut attempt = 1;
        loop {
            let key = match need {
                Need::Sight => self.visible(id).await?,
                Need::Grant => self.handled(id).await?,
            };
            let changed = change(self.manager.if_version(key.version()), id).await;
            match changed {
                Err(KeyError::Conflict) if attempt < ATTEMPTS => attempt += 1,
                changed => return changed.map_err(failed),
            }
        }
    }
}

/// A change by a manager.
pub(super) type Changing<T> = Pin<Box<dyn Future<Output = Result<T, KeyError>> + Send>>;

/// The permission that a change requires.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    /// The administrator must be able to see the key. For changes that reduce the key's
    /// permissions.
    Sight,
    /// The administrator must be able to grant all of the key's scopes.
    Grant,
}

/// The maximum number of attempts to change a key that is changed concurrently.
const ATTEMPTS: u32 = 8;

pub(super) fn failed(error: KeyError) -> Problem {
    problem::from_key_error(&error)
}

/// Authorizes a request. Every failure rejects the request.
async fn authorize(authorizer: &dyn Authorizer, head: &Parts) -> Result<Administrator, Problem> {
    let panicked = |_| problem::internal();
    let pending =
        catch_unwind(AssertUnwindSafe(|| authorizer.authorize(head))).map_err(panicked)?;
    let decision = match pending.into_ready() {
        ReadyOrPending::Ready(decision) => decision,
        ReadyOrPending::Pending(mut pending) => {
            let polled = poll_fn(|cx| {
                let polled = catch_unwind(AssertUnwindSafe(|| pending.as_mut().poll(cx)));
                match polled {
                    Ok(polled) => Ok(ready!(polled)).into(),
                    Err(panic) => Err(panic).into(),
                }
            });
            polled.await.map_err(panicked)?
        }
    };
    match decision {
        Ok(Some(admin)) => Ok(admin),
        Ok(None) => Err(problem::forbidden()),
        Err(error) => Err(problem::from_store_error(&error)),
    }
}

async fn read_body(head: &Parts, body: Body) -> Result<Members, Problem> {
    let content_type = head.headers.get(CONTENT_TYPE);
    let is_json = content_type.is_some_and(|value| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json")
    });
    if !is_json {
        return Err(problem::not_json());
    }
    let Ok(bytes) = to_bytes(body, BODY_BYTES_MAX).await else {
        return Err(problem::too_long());
    };
    if bytes.is_empty() {
        return Ok(Members::default());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(members)) => Ok(Members(members)),
        Ok(_) | Err(_) => Err(problem::bad_request("The body is not a JSON object")),
    }
}

fn read_query(query: &str) -> Result<Members, Problem> {
    let mut members = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if members.insert(name, Value::String(value)).is_some() {
            let duplicate = "A query parameter is duplicated";
            return Err(problem::bad_request(duplicate));
        }
    }
    Ok(Members(members))
}

fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = decode_percent(spaced.as_bytes());
    let decoded = std::str::from_utf8(&decoded);
    let decoded = decoded.map_err(|_| problem::bad_request("The query is not valid UTF-8"))?;
    Ok(decoded.to_owned())
}

/// The members of an object. Members that are never taken out are reported as unknown.
#[derive(Default)]
pub(super) struct Members(Map<String, Value>);

impl Members {
    pub(super) fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// Takes a member out. `null` counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a member out. Returns `Some(None)` for `null`, and `None` for an absent member.
    pub(super) fn take_nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str, Value) -> Result<T, Problem>,
    ) -> Result<Option<Option<T>>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => read(name, value).map(Some).map(Some),
        }
    }

    pub(super) fn take_text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        self.take(name).map(|value| text(name, value)).transpose()
    }

    pub(super) fn take_number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        self.take(name).map(|value| number(name, value)).transpose()
    }

    /// Returns an error if members are left.
    pub(super) fn all_known(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            // Do not repeat other names: they may contain a misplaced key.
            Some(name) if is_word(name) => Err(problem::bad_request(format!(
                "The member `{name}` is unknown"
            ))),
            Some(_) => Err(problem::bad_request("A member is unknown")),
        }
    }
}

fn is_word(name: &str) -> bool {
    name.len() <= 32
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

pub(super) fn text(name: &str, value: Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(problem::bad_request(format!("`{name}` is not a string"))),
    }
}

/// Parses a whole number. In a query, it is a string.
pub(super) fn number(name: &str, value: Value) -> Result<u64, Problem> {
    let number = match &value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| problem::bad_request(format!("`{name}` is not a whole number")))
}

pub(super) fn texts(name: &str, value: Value) -> Result<Vec<String>, Problem> {
    match value {
        Value::Array(values) => values.into_iter().map(|value| text(name, value)).collect(),
        _ => Err(problem::bad_request(format!("`{name}` is not a list"))),
    }
}
