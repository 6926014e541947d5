//! Caching options for one route or one response.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, StatusCode, Uri, uri::PathAndQuery};

use super::policy_probe::{Probe, Probes};
use crate::cache::http::field_names::FieldNames;

/// Caching options for one route or one response.
///
/// A layer around the cache can insert a policy into the extensions of a request. Such a policy
/// applies to the route. For requests without a policy, the cache uses the policy that
/// [`CacheLayerBuilder::policy_with`](crate::cache::CacheLayerBuilder::policy_with) selects, or
/// else the policy that [`CacheLayerBuilder::policy`](crate::cache::CacheLayerBuilder::policy)
/// sets. A handler can insert a policy into the extensions of a response. Such a policy applies to
/// that response and has priority over the route's policy. An option that is not set leaves the
/// cache's default unchanged.
///
/// A policy on a response is not stored with that response. A handler that sets a policy must set
/// the policy again on a `304` response.
///
/// ```
/// use std::time::Duration;
///
/// use http::{Request, Response, StatusCode};
/// use portcullis::cache::CachePolicy;
///
/// // For a route: only two query parameters count, and a 404 is stored for five seconds.
/// let mut request = Request::new(());
/// request.extensions_mut().insert(
///     CachePolicy::new()
///         .query(["page", "per_page"])
///         .cache_status_code(StatusCode::NOT_FOUND, Duration::from_secs(5)),
/// );
///
/// // For one response: fresh for 30 seconds unless its fields state another lifetime.
/// let mut response = Response::new(());
/// response.extensions_mut().insert(CachePolicy::new().default_ttl(Duration::from_secs(30)));
/// ```
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct CachePolicy {
    options: Arc<PolicyOptions>,
}

impl Clone for CachePolicy {
    #[inline]
    fn clone(&self) -> Self {
        match &self.options.probe {
            None => Self {
                options: Arc::clone(&self.options),
            },
            // A clone has another address, so it must not have the probe.
            Some(_) => self.with_probe(None),
        }
    }
}

impl Drop for CachePolicy {
    #[inline]
    fn drop(&mut self) {
        if let Some(probe) = &self.options.probe {
            probe.dropped_at(self);
        }
    }
}

/// A freshness lifetime that the application sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Ttl {
    /// Applies to responses that state no lifetime.
    Default(Duration),
    /// Applies to all responses.
    Override(Duration),
}

/// The options of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cache) struct PolicyOptions {
    pub(in crate::cache) off: bool,
    pub(in crate::cache) share_public_responses: Option<bool>,
    pub(in crate::cache) vary_by: Vec<HeaderName>,
    default_ttl: Option<Duration>,
    override_ttl: Option<Duration>,
    pub(in crate::cache) private: bool,
    pub(in crate::cache) collapse: Option<bool>,
    pub(in crate::cache) credentials: Option<FieldNames>,
    query: Option<Vec<String>>,
    statuses: Vec<(StatusCode, Duration)>,
    /// Set in a policy that the cache itself inserted into a request.
    probe: Option<Probe>,
}

impl CachePolicy {
    /// Creates a policy that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bypasses the cache. A request with this policy is forwarded to the handler; a response with
    /// this policy is not stored. The cache is not bypassed by default.
    pub fn off(self) -> Self {
        self.with(|options| options.off = true)
    }

    /// Sets whether responses with `public` or `s-maxage` are shared among callers. Defaults to the
    /// cache's option with the same name. Only a policy on a request has this effect.
    pub fn share_public_responses(self, share: bool) -> Self {
        self.with(|options| options.share_public_responses = Some(share))
    }

    /// Stores a separate entry for each combination of these request fields' values, regardless of
    /// `Vary`. There are no such fields by default. Only a policy on a request has this effect.
    pub fn vary_by(self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|options| options.vary_by = fields.into_iter().collect())
    }

    /// Sets the freshness lifetime of responses that state no lifetime. There is no such lifetime
    /// by default.
    ///
    /// This lifetime applies to `200`, `203` and `206`, and to statuses that
    /// [`cache_status_code`](Self::cache_status_code) lists. A lifetime that a response states
    /// takes priority, even if it is zero. A response states a lifetime with `max-age`, `s-maxage`,
    /// `Expires` (even an invalid one), or a targeted field. The default TTL takes priority over
    /// heuristic freshness.
    ///
    /// The TTL does not override directives that forbid storage. A response with `no-store` is not
    /// stored. A response with `private` is stored only for its caller. A response with `no-cache`
    /// is stored only if it has a validator, and is revalidated at each use. The TTL does not apply
    /// to a response that affects a single client, such as one with `Set-Cookie`.
    /// `must-revalidate`, `stale-while-revalidate` and `stale-if-error` keep their meaning and
    /// count from the end of the TTL.
    ///
    /// Like `max-age`, the TTL is in whole seconds and counts from when the response was generated,
    /// so the response's `Age` is subtracted. Zero makes the response stale immediately.
    ///
    /// If the response's policy and the route's policy both set a TTL of either kind, the TTL from
    /// the response's policy applies.
    pub fn default_ttl(self, ttl: Duration) -> Self {
        self.with(|options| options.default_ttl = Some(ttl))
    }

    /// Sets the freshness lifetime of responses, regardless of the lifetime that they state. There
    /// is no such lifetime by default.
    ///
    /// This lifetime applies to the same responses as [`default_ttl`](Self::default_ttl). If a
    /// policy sets both, this lifetime takes priority. All other restrictions of a response remain
    /// in force. The fields of the response reach the client unchanged.
    pub fn override_ttl(self, ttl: Duration) -> Self {
        self.with(|options| options.override_ttl = Some(ttl))
    }

    /// Stores each response for its caller alone, as if the response had `private`. Off by default.
    pub fn private(self) -> Self {
        self.with(|options| options.private = true)
    }

    /// Enables or disables collapsing for a route: concurrent requests for the same response wait
    /// for a single handler call.
    ///
    /// By default, requests wait unless the last response for their URL or route could not be
    /// stored. `true` makes requests wait even then; `false` disables waiting. The option is read
    /// from the extensions of a request, or from the default policy of the layer.
    pub fn collapse(self, collapse: bool) -> Self {
        self.with(|options| options.collapse = Some(collapse))
    }

    /// Stores responses with this status too, and limits their freshness lifetime to `at_most`. No
    /// statuses are listed by default.
    ///
    /// A response that states no lifetime gets the lifetime that [`default_ttl`](Self::default_ttl)
    /// sets, or `at_most` if no default is set. Any longer lifetime is reduced to `at_most`, even
    /// if [`override_ttl`](Self::override_ttl) sets it.
    ///
    /// A stored error is served to every caller that shares the entry. Limit the lifetime of such
    /// an error to seconds, and list only statuses that no client can cause for other clients. For
    /// example, a client can cause some errors with a request that is too long or that has a wrong
    /// credential. Responses that depend on the fields of one request (304, 412, 416, 417) are
    /// never stored.
    pub fn cache_status_code(self, status: StatusCode, at_most: Duration) -> Self {
        self.with(|options| {
            options.statuses.retain(|(kept, _)| *kept != status);
            options.statuses.push((status, at_most));
        })
    }

    /// Treats these request fields, and no others, as credentials. If a response depends on the
    /// caller through a field that is not listed, the response is served to other callers. Defaults
    /// to the credential fields of the cache. Only a policy on a request has this effect.
    pub fn credentials(self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|options| options.credentials = Some(fields.into_iter().collect()))
    }

    /// Retains only these query parameters, in their original order. All other parameters are
    /// removed before the handler is called, so that a response cannot depend on a parameter that
    /// is not part of the key. All parameters are retained by default. Only a policy on a request
    /// has this effect.
    ///
    /// Names are compared exactly as sent, and parameters are separated by `&`. To purge by URL,
    /// omit the removed parameters. Extensions that were derived from the original URL are
    /// unchanged.
    pub fn query<I>(self, parameters: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.with(|options| options.query = Some(parameters.into_iter().map(Into::into).collect()))
    }

    fn with(mut self, change: impl FnOnce(&mut PolicyOptions)) -> Self {
        change(Arc::make_mut(&mut self.options));
        self
    }

    /// Returns a copy that detects its replacement by another policy, and its probe.
    pub(in crate::cache) fn probed(&self, probes: &Arc<Probes>) -> (Self, Probe) {
        let probe = Probe::new(probes);
        (self.with_probe(Some(probe.clone())), probe)
    }

    fn with_probe(&self, probe: Option<Probe>) -> Self {
        let options = PolicyOptions {
            probe,
            ..PolicyOptions::clone(&self.options)
        };
        Self {
            options: Arc::new(options),
        }
    }

    /// Returns `true` if the application created the policy, rather than the cache.
    #[inline]
    pub(in crate::cache) fn is_set(&self) -> bool {
        self.options.probe.is_none()
    }

    /// Returns the statuses that the policy lists.
    pub(in crate::cache) fn statuses(&self) -> impl Iterator<Item = StatusCode> {
        self.options.statuses.iter().map(|(status, _)| *status)
    }

    pub(in crate::cache) fn options(&self) -> &PolicyOptions {
        &self.options
    }
}

impl PolicyOptions {
    /// Returns the TTL of the policy, if it sets one.
    pub(in crate::cache) fn ttl(&self) -> Option<Ttl> {
        let default_ttl = self.default_ttl.map(Ttl::Default);
        self.override_ttl.map(Ttl::Override).or(default_ttl)
    }

    /// Returns the maximum freshness lifetime of responses with this status, if the policy lists
    /// it.
    pub(in crate::cache) fn at_most(&self, status: StatusCode) -> Option<Duration> {
        let kept = self.statuses.iter().find(|(kept, _)| *kept == status);
        kept.map(|(_, at_most)| *at_most)
    }

    /// Returns the target without the removed parameters, or `None` if nothing is removed.
    pub(in crate::cache) fn narrowed(&self, uri: &Uri) -> Option<Uri> {
        let (names, query) = (self.query.as_ref()?, uri.query()?);
        let mut kept = String::with_capacity(uri.path().len() + query.len() + 1);
        kept.push_str(uri.path());
        let mut mark = '?';
        for parameter in query.split('&') {
            let name = parameter.split('=').next().unwrap_or_default();
            if names.iter().any(|kept| kept == name) {
                kept.push(mark);
                kept.push_str(parameter);
                mark = '&';
            }
        }
        if kept.len() == uri.path().len() + 1 + query.len() {
            return None;
        }
        let mut parts = uri.clone().into_parts();
        let kept = PathAndQuery::try_from(kept).expect("a path and a query are a target");
        parts.path_and_query = Some(kept);
        Some(Uri::from_parts(parts).expect("only the query differs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(uri: &'static str) -> String {
        let policy = CachePolicy::new().query(["a", "b"]);
        let uri = Uri::from_static(uri);
        let narrowed = policy.options().narrowed(&uri);
        narrowed.unwrap_or(uri).to_string()
    }

    #[test]
    fn parameters_that_are_not_listed_are_dropped() {
        for (uri, kept) in [
            ("/x?a=1&c=2&b&a=3", "/x?a=1&b&a=3"),
            ("/x?c=1", "/x"),
            ("/x?", "/x"),
            ("/x?a;c=1", "/x"),
            ("/x?%61=1&A=1&ab=1&=1", "/x"),
            ("/x?a=1&&b=2", "/x?a=1&b=2"),
            ("/x?a=c&b=c=d", "/x?a=c&b=c=d"),
            ("http://h/x?c", "http://h/x"),
            ("/x", "/x"),
        ] {
            assert_eq!(narrowed(uri), kept, "{uri}");
        }
    }

    #[test]
    fn the_last_word_on_a_status_counts() {
        let secs = Duration::from_secs;
        let policy = CachePolicy::new()
            .cache_status_code(StatusCode::NOT_FOUND, secs(5))
            .cache_status_code(StatusCode::NOT_FOUND, secs(6));
        assert_eq!(
            policy.options().at_most(StatusCode::NOT_FOUND),
            Some(secs(6))
        );
        assert_eq!(policy.options().at_most(StatusCode::GONE), None);
    }

    proptest::proptest! {
        #[test]
        fn query_narrowing_matches_a_plain_filter(query in "[abc=&;]{0,12}") {
            let uri: Uri = format!("/x?{query}").parse().unwrap();
            let policy = CachePolicy::new().query(["a", "b"]);
            let kept: Vec<_> = query
                .split('&')
                .filter(|pair| ["a", "b"].contains(&pair.split('=').next().unwrap()))
                .collect();
            let narrowed = policy.options().narrowed(&uri).unwrap_or(uri);
            let expected = (!kept.is_empty()).then(|| kept.join("&"));
            proptest::prop_assert_eq!(narrowed.query().map(str::to_owned), expected);
        }
    }
}
