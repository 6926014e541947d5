//! The rules of a cache: the secure profile and the RFC 9111 profile.

use http::{HeaderName, StatusCode, header};

use super::{cache_control::Targeted, field_names::FieldNames};
use crate::cache::entry::packing::Packer;

/// The rules of a cache.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The statuses that are stored.
    pub(crate) statuses: Statuses,
    /// The request fields that are credentials.
    pub(crate) credential_headers: FieldNames,
    /// The query parameters that are credentials.
    pub(crate) credential_params: Vec<String>,
    /// `true` if a response to a credential is shared if its directives permit that.
    pub(crate) share_public_responses: bool,
    /// `true` if `must-revalidate` permits that too (RFC 9111 section 3.5).
    pub(super) share_where_must_revalidate: bool,
    /// `true` if responses that set cookies are stored.
    pub(super) keep_set_cookie: bool,
    /// `true` if partial responses are stored and combined (RFC 9111 sections 3.3 and 3.4).
    pub(crate) cache_partial_content: bool,
    /// `true` if responses to POST are stored as responses to GET (RFC 9110 section 9.3.3).
    pub(crate) cache_posts: bool,
    /// `true` if a missing lifetime is estimated from `Last-Modified`.
    pub(super) heuristic: bool,
    /// `true` if a stale response is served on a failure of the handler without `stale-if-error`.
    pub(crate) stale_on_error: bool,
    /// `true` if `Accept-Language` and `Accept-Encoding` are compared by meaning.
    pub(crate) normalize_preferences: bool,
    /// `true` if the `Cache-Control` of requests is honored.
    pub(crate) honor_request_directives: bool,
    /// The target list (RFC 9213 section 2.2): fields that replace `Cache-Control`, by priority.
    pub(crate) targeted: Vec<Targeted>,
    /// The response fields that list tags. They are removed before the response is sent to the
    /// client.
    pub(crate) tag_headers: FieldNames,
    /// The maximum size of a stored body.
    pub(crate) max_body_bytes: u64,
    /// The compression of shared bodies, if it is enabled.
    pub(crate) packer: Option<Packer>,
}

/// A set of statuses that are stored.
#[derive(Clone, Debug)]
pub(crate) enum Statuses {
    /// All final statuses that do not depend on the fields of one request, as RFC 9111 permits.
    All,
    /// The listed statuses.
    Listed(Vec<StatusCode>),
}

impl Statuses {
    pub(crate) fn admit(&self, status: StatusCode) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.contains(&status),
        }
    }
}

impl Rules {
    /// Returns the rules of the secure profile, which separates callers.
    pub(crate) fn secure() -> Self {
        Self {
            statuses: Statuses::Listed(vec![
                StatusCode::OK,
                StatusCode::NON_AUTHORITATIVE_INFORMATION,
                StatusCode::MULTIPLE_CHOICES,
                StatusCode::MOVED_PERMANENTLY,
                StatusCode::PERMANENT_REDIRECT,
                StatusCode::NOT_FOUND,
                StatusCode::GONE,
            ]),
            credential_headers: FieldNames::from_iter([
                header::AUTHORIZATION,
                header::COOKIE,
                header::PROXY_AUTHORIZATION,
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderName::from_static("x-api-key"),
            ]),
            credential_params: Vec::new(),
            share_public_responses: false,
            share_where_must_revalidate: false,
            keep_set_cookie: false,
            cache_partial_content: false,
            cache_posts: false,
            heuristic: false,
            stale_on_error: false,
            normalize_preferences: false,
            honor_request_directives: false,
            targeted: Vec::new(),
            tag_headers: FieldNames::from_iter([
                HeaderName::from_static("surrogate-key"),
                HeaderName::from_static("cache-tag"),
            ]),
            max_body_bytes: 1 << 20,
            packer: None,
        }
    }

    /// Returns the rules of a shared cache with all options that RFC 9111 permits.
    pub(crate) fn rfc() -> Self {
        Self {
            statuses: Statuses::All,
            credential_headers: FieldNames::from_iter([header::AUTHORIZATION]),
            share_public_responses: true,
            share_where_must_revalidate: true,
            keep_set_cookie: true,
            cache_partial_content: true,
            heuristic: true,
            stale_on_error: true,
            normalize_preferences: true,
            honor_request_directives: true,
            ..Self::secure()
        }
    }
}
