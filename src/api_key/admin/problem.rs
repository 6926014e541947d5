//! What is answered where something is wrong.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::{
    api_key::manage::key_error::KeyError,
    core::{error::StoreError, http::rejection::Rejection},
};

/// A rejection in a box: what nearly never comes makes nothing larger.
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
        "The request cannot be understood",
    )
    .detail(detail)
    .into()
}

pub(super) fn not_json() -> Problem {
    Rejection::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not-json",
        "A request that changes something is of Content-Type: application/json",
    )
    .into()
}

pub(super) fn too_long() -> Problem {
    Rejection::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-long",
        "The request's body is too long",
    )
    .into()
}

pub(super) fn forbidden() -> Problem {
    Rejection::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "You may not manage these keys so",
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
    .detail("Revoke a key, or have ended keys purged, before creating another one")
    .into()
}

pub(super) fn internal() -> Problem {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The request could not be served",
    )
    .into()
}

pub(super) fn of_store(error: &StoreError) -> Problem {
    if error.is_transient() {
        Rejection::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "keys-unavailable",
            "Keys cannot be managed at the moment",
        )
        .retry_after(Duration::from_secs(1))
        .into()
    } else {
        internal()
    }
}

pub(super) fn of_key(error: &KeyError) -> Problem {
    let conflict = |problem, title| Rejection::new(StatusCode::CONFLICT, problem, title).into();
    match error {
        KeyError::NotFound => no_such_key(),
        KeyError::Conflict => conflict("key-changed", "The key has another version by now"),
        KeyError::Ended => conflict(
            "key-ended",
            "The key is in a state that allows no such change",
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
            "A key cannot be so",
        )
        .detail(invalid.to_string())
        .into(),
        KeyError::NoRandomness => internal(),
        KeyError::Store(error) => of_store(error),
    }
}
