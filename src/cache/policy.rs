//! What one route wants of the cache, other than the rest.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

/// What one route, or one answer, wants of the cache.
///
/// In a request's extensions, where the layers around the cache put it, it decides how the request
/// is looked up. In a response's extensions, where the handler puts it, it decides what becomes of
/// the answer. What is not said stays as the cache has it.
///
/// ```
/// use std::time::Duration;
///
/// use http::Response;
/// use portcullis::cache::CachePolicy;
///
/// let mut response = Response::new(());
/// response.extensions_mut().insert(CachePolicy::new().fresh_for(Duration::from_secs(30)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct CachePolicy {
    pub(super) off: bool,
    pub(super) share_where_public: Option<bool>,
    pub(super) vary_by: Option<Arc<[HeaderName]>>,
    pub(super) fresh_for: Option<Duration>,
    pub(super) private: bool,
}

impl CachePolicy {
    /// Begins a policy that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps out of the cache: on a request, it goes to the handler; on a response, it is not kept.
    pub fn off(mut self) -> Self {
        self.off = true;
        self
    }

    /// On a request: shares answers among callers where they say `public` or `s-maxage`, or does
    /// not.
    pub fn share_where_public(mut self, share: bool) -> Self {
        self.share_where_public = Some(share);
        self
    }

    /// On a request: keeps answers apart by these fields, whether or not they say that they vary.
    pub fn vary_by(mut self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        self.vary_by = Some(fields.into_iter().collect());
        self
    }

    /// On a response: keeps it fresh for so long, whatever its fields say of that. What its fields
    /// forbid (`no-store`, `private`, a cookie) stays forbidden.
    pub fn fresh_for(mut self, fresh_for: Duration) -> Self {
        self.fresh_for = Some(fresh_for);
        self
    }

    /// On a response: keeps it for its caller alone, as if it said `private`.
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }
}
