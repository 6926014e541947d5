//! What a cache holds itself to: the two profiles, and what sets them apart.

use http::{HeaderName, StatusCode, header};

use super::{cache_control::Targeted, field_names::FieldNames};
use crate::cache::entry::packing::Packer;

/// What the cache holds itself to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Which statuses are kept.
    pub(crate) statuses: Statuses,
    /// Which request fields are credentials.
    pub(crate) credential_headers: FieldNames,
    /// Which query parameters are credentials.
    pub(crate) credential_params: Vec<String>,
    /// Whether an answer to a credential may be shared where it says so.
    pub(crate) share_public_responses: bool,
    /// Whether `must-revalidate` says so too (RFC 9111 section 3.5).
    pub(super) share_where_must_revalidate: bool,
    /// Whether answers that set cookies are kept.
    pub(super) keep_set_cookie: bool,
    /// Whether parts are kept, and joined (RFC 9111 sections 3.3 and 3.4).
    pub(crate) cache_partial_content: bool,
    /// Whether answers to POST are kept as those to GET (RFC 9110 section 9.3.3).
    pub(crate) cache_posts: bool,
    /// Whether freshness is guessed from `Last-Modified` where nothing is said.
    pub(super) heuristic: bool,
    /// Whether a stale answer stands in for a failing handler that has not allowed it.
    pub(crate) stale_on_error: bool,
    /// Whether `Accept-Language` and `Accept-Encoding` count by what they say, and not by how that
    /// is written.
    pub(crate) normalize_preferences: bool,
    /// Whether a request's own `Cache-Control` is heeded.
    pub(crate) honor_request_directives: bool,
    /// The target list (RFC 9213 section 2.2): fields that replace `Cache-Control`, by priority.
    pub(crate) targeted: Vec<Targeted>,
    /// Which fields of an answer name its tags. They are the cache's own, and not for clients.
    pub(crate) tag_headers: FieldNames,
    /// How many bytes of a body are kept at most.
    pub(crate) max_body_bytes: u64,
    /// How bodies that all may see are compressed, if they are.
    pub(crate) packer: Option<Packer>,
}

/// Which statuses are kept.
#[derive(Clone, Debug)]
pub(crate) enum Statuses {
    /// All final ones that are no answer to one request's own fields, as RFC 9111 has it.
    All,
    /// These.
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
    /// Holds to what is safe where callers are told apart.
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

    /// Holds to RFC 9111 as a shared cache, and takes the freedoms that it gives.
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
