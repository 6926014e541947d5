//! Error responses of the admin API.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::{
    api_key::manage::key_error::KeyError,
    core::{error::StoreError, http::rejection::Rejection},
};

/// A boxed rejection. Rejections are rare and must not enlarge every `Result`.
#[derive(Debug)]
pub(super) struct Problem(Box<Rejection>);

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self(Box::new(rejection))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        IntoResponse::into_response(*self.0)
    }
}

pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
    Rejection::new(
        StatusCode::BAD_REQUEST,
        "bad-request",
        "The request is malformed",
    )
    .detail(detail)
    .into()
}

pub(super) fn not_json() -> Problem {
    Rejection::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not-json",
        "Requests that change something require Content-Type: application/json",
    )
    .into()
}

pub(super) fn too_long() -> Problem {
    Rejection::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-long",
        "The request body exceeds 64 KiB",
    )
    .into()
}

pub(super) fn forbidden() -> Problem {
    Rejection::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "You are not allowed to make this request",
    )
    .into()
}

pub(super) fn no_such_key() -> Problem {
    Rejection::new(StatusCode::NOT_FOUND, "no-such-key", "There is no such key").into()
}

fn too_many_keys() -> Problem {
    Rejection::new(
        StatusCode::CONFLICT,
        "too-many-keys",
        "The owner has the maximum number of keys",
    )
    .detail("Revoke a key, or have ended keys purged, before you create another one")
    .into()
}

pub(super) fn internal() -> Problem {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The request could not be processed",
    )
    .into()
}

pub(super) fn from_store_error(error: &StoreError) -> Problem {
    if error.is_transient() {
        Rejection::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "keys-unavailable",
            "Key management is temporarily unavailable",
        )
        .retry_after(Duration::from_secs(1))
        .into()
    } else {
        internal()
    }
}

pub(super) fn from_key_error(error: &KeyError) -> Problem {
    let conflict = |problem, title| Rejection::new(StatusCode::CONFLICT, problem, title).into();
    match error {
        KeyError::NotFound => no_such_key(),
        KeyError::Conflict => conflict("key-changed", "The key has a newer version"),
        KeyError::Ended => conflict(
            "key-ended",
            "The state of the key does not allow this change",
        ),
        KeyError::Overlap => conflict(
            "key-overlap",
            "The key that this one replaces is still accepted",
        ),
        KeyError::Forbidden => forbidden(),
        KeyError::TooManyKeys => too_many_keys(),
        KeyError::Invalid(invalid) => Rejection::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-key",
            "The key settings are not valid",
        )
        .detail(invalid.to_string())
        .into(),
        KeyError::NoRandomness => internal(),
        KeyError::Store(error) => from_store_error(error),
    }
}
