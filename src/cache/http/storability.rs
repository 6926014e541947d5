//! The storage decision: whether a response is stored, in which partition, and how long it is
//! fresh.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    cache_control::{DELTA_SECS_MAX, ResponseDirectives},
    field_names::FieldLines,
    freshness::{Freshness, Times, explicit_lifetime_secs, heuristic_lifetime_secs},
    profile::Rules,
    vary::VarySpec,
};
use crate::cache::{
    lookup::reason::CacheReason,
    policy::policy::{CachePolicy, PolicyOptions, Ttl},
};

/// The caller of a request, which determines the partition of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestCaller {
    /// No credential: the response is stored in the shared partition.
    Anonymous,
    /// An authenticated caller: the response is stored in the caller's partition, or in the shared
    /// one if the route and the response permit that.
    Known {
        digest: [u8; 32],
        share_public_responses: bool,
    },
    /// A credential that was not authenticated: the response is stored in the shared partition if
    /// the route and the response permit that, and not stored otherwise.
    Unvouched,
}

/// The partition and contents of an entry to store.
#[derive(Debug)]
pub(crate) struct StorageDecision {
    /// `true` for the shared partition, `false` for the caller's.
    pub(crate) shared: bool,
    /// `true` if the response itself permits sharing among callers.
    pub(crate) says_shared: bool,
    pub(crate) freshness: Freshness,
    pub(crate) vary: VarySpec,
    /// `true` if the response can be revalidated.
    pub(crate) has_validator: bool,
    /// The fields that are not stored.
    pub(crate) without: Vec<HeaderName>,
}

/// The policies of a response and of its route.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResponsePolicies<'a> {
    pub(crate) by_response: Option<&'a CachePolicy>,
    pub(crate) by_route: Option<&'a CachePolicy>,
}

impl<'a> ResponsePolicies<'a> {
    /// Returns the policies, that of the response first.
    fn policies(&self) -> impl Iterator<Item = &'a PolicyOptions> {
        let policies = [self.by_response, self.by_route];
        policies.into_iter().flatten().map(CachePolicy::options)
    }

    /// Returns the TTL of responses with this status. `at_most` is set if a policy lists the
    /// status, and is the default TTL if no other is set.
    fn ttl(&self, status: StatusCode, at_most: Option<Duration>) -> Option<Ttl> {
        let applies = at_most.is_some() || has_ttl_unlisted(status);
        let ttl = self.policies().find_map(|it| it.ttl()).filter(|_| applies);
        ttl.or(at_most.map(Ttl::Default))
    }
}

/// Returns `true` if a TTL applies to a status that no policy lists. A partial response is judged
/// as a `200`.
fn has_ttl_unlisted(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::PARTIAL_CONTENT
    )
}

/// Decides if a response can be stored, in which partition, and its freshness (RFC 9111 section 3).
pub(crate) fn judge(
    rules: &Rules,
    caller: &RequestCaller,
    status: StatusCode,
    seen: &ResponseFields<'_>,
    wanted: &ResponsePolicies<'_>,
    times: &Times<'_>,
) -> Result<StorageDecision, CacheReason> {
    let headers = seen.headers;
    let mut directives = match seen.directives {
        true => ResponseDirectives::of(headers, &rules.targeted),
        false => ResponseDirectives::default(),
    };
    if wanted.policies().any(|policy| policy.off) {
        return Err(CacheReason::Off);
    }
    directives.private |= wanted.policies().any(|policy| policy.private);
    let at_most = wanted.policies().find_map(|policy| policy.at_most(status));
    admit(rules, status, &directives, at_most.is_some())?;
    let says_shared = says_shared(rules, &directives);
    let shared = shared(caller, says_shared)?;
    if shared && directives.private {
        return Err(CacheReason::Private);
    }
    let mut without = directives.no_cache_fields.clone();
    if shared {
        without.extend_from_slice(&directives.private_fields);
    }
    let for_one_client = seen.for_one_client && acts_on_one_client(headers, &without);
    if for_one_client && !rules.keep_set_cookie {
        return Err(CacheReason::SetCookie);
    }
    if let Some(reason) = seen.content_type.and_then(stream) {
        return Err(reason);
    }
    let vary = vary(rules, wanted, seen, shared)?;
    let stated = seen.stated_lifetime_secs(&directives, times);
    let heuristic = || match rules.heuristic {
        true => heuristic_lifetime_secs(status, &directives, headers, times),
        false => None,
    };
    let ttl = match for_one_client {
        true => None,
        false => wanted.ttl(status, at_most),
    };
    let lifetime_secs = lifetime_secs(stated, heuristic, ttl, at_most);
    let freshness = freshness(rules, &directives, lifetime_secs, times, seen)?;
    Ok(StorageDecision {
        shared,
        says_shared,
        freshness,
        vary,
        has_validator: seen.validator,
        without,
    })
}

/// Returns `true` if a response states its freshness lifetime.
pub(crate) fn is_explicit(rules: &Rules, headers: &HeaderMap, times: &Times<'_>) -> bool {
    let directives = ResponseDirectives::of(headers, &rules.targeted);
    explicit_lifetime_secs(&directives, headers, times).is_some()
}

/// Rejects responses that must not be stored because of their status or `no-store`. `listed` is
/// `true` if a policy lists the status.
fn admit(
    rules: &Rules,
    status: StatusCode,
    directives: &ResponseDirectives,
    listed: bool,
) -> Result<(), CacheReason> {
    if status == StatusCode::PARTIAL_CONTENT {
        return Err(CacheReason::Partial);
    }
    if let Some(reason) = one_request_reason(status) {
        return Err(reason);
    }
    // `no-store` together with `must-understand` applies to caches that do not understand the
    // status (RFC 9111 section 5.2.2.3).
    if directives.must_understand && !is_understood(status) {
        return Err(CacheReason::Status);
    }
    if directives.no_store && !directives.must_understand {
        return Err(CacheReason::NoStore);
    }
    match listed || rules.statuses.admit(status) {
        true => Ok(()),
        false => Err(CacheReason::Status),
    }
}

/// Returns the fields that a response varies by, if it can be stored with them.
fn vary(
    rules: &Rules,
    wanted: &ResponsePolicies<'_>,
    seen: &ResponseFields<'_>,
    shared: bool,
) -> Result<VarySpec, CacheReason> {
    if !seen.vary {
        return Ok(VarySpec::default());
    }
    let vary = VarySpec::of(seen.headers)?;
    if !shared || rules.share_where_must_revalidate {
        return Ok(vary);
    }
    let by_route = wanted.by_route.map(CachePolicy::options);
    let by_route = by_route.and_then(|policy| policy.credentials.as_ref());
    let credentials = by_route.unwrap_or(&rules.credential_headers);
    match vary.names().iter().any(|name| credentials.contains(name)) {
        true => Err(CacheReason::VaryCredential),
        false => Ok(vary),
    }
}

/// Selects the freshness lifetime: an override, the stated one, the default TTL or the heuristic
/// one, in this order. `at_most` limits it.
fn lifetime_secs(
    stated: Option<u32>,
    heuristic: impl FnOnce() -> Option<u32>,
    ttl: Option<Ttl>,
    at_most: Option<Duration>,
) -> Option<u32> {
    let lifetime = match ttl {
        Some(Ttl::Override(ttl)) => Some(delta(ttl)),
        Some(Ttl::Default(ttl)) => stated.or(Some(delta(ttl))),
        None => stated.or_else(heuristic),
    };
    let limit = at_most.map_or(DELTA_SECS_MAX, delta);
    lifetime.map(|secs| secs.min(limit))
}

fn delta(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs())
        .unwrap_or(DELTA_SECS_MAX)
        .min(DELTA_SECS_MAX)
}

/// Returns `true` if a response with this status is never stored, regardless of policies.
pub(crate) fn is_never_stored(status: StatusCode) -> bool {
    one_request_reason(status).is_some()
}

/// Returns the reason why a response with this status applies to one request only, if it does.
fn one_request_reason(status: StatusCode) -> Option<CacheReason> {
    match status {
        StatusCode::NOT_MODIFIED => Some(CacheReason::Status),
        StatusCode::PRECONDITION_FAILED | StatusCode::EXPECTATION_FAILED => {
            Some(CacheReason::Condition)
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Some(CacheReason::Range),
        status => status.is_informational().then_some(CacheReason::Status),
    }
}

/// Returns `true` if the cache implements the caching requirements of a status.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 302 | 303 | 307 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// Returns `true` if a response permits sharing among callers with credentials.
fn says_shared(rules: &Rules, directives: &ResponseDirectives) -> bool {
    let says_so = directives.public
        || directives.s_maxage_secs.is_some()
        || (rules.share_where_must_revalidate && directives.must_revalidate);
    says_so && !directives.private
}

/// Selects the shared partition (`true`) or that of the caller (`false`).
fn shared(caller: &RequestCaller, says_shared: bool) -> Result<bool, CacheReason> {
    match caller {
        RequestCaller::Anonymous => Ok(true),
        RequestCaller::Known {
            share_public_responses,
            ..
        } => Ok(*share_public_responses && says_shared),
        RequestCaller::Unvouched if says_shared => Ok(true),
        RequestCaller::Unvouched => Err(CacheReason::Credential),
    }
}

/// The fields of a response that determine its storage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseFields<'a> {
    /// All fields.
    headers: &'a HeaderMap,
    /// `true` if there is a field with cache directives.
    directives: bool,
    expires: bool,
    for_one_client: bool,
    validator: bool,
    vary: bool,
    /// The first line of the field.
    content_type: Option<&'a HeaderValue>,
    pub(crate) content_length: FieldLines<'a>,
    /// `true` if there is a field with tags.
    pub(crate) tags: bool,
}

impl<'a> ResponseFields<'a> {
    /// Reads the fields of a response in one pass: each lookup by name would compute a hash.
    pub(crate) fn of(headers: &'a HeaderMap, rules: &Rules) -> Self {
        let mut seen = Self {
            headers,
            directives: false,
            expires: false,
            for_one_client: false,
            validator: false,
            vary: false,
            content_type: None,
            content_length: FieldLines::None,
            tags: false,
        };
        for (name, value) in headers {
            match name.as_str() {
                "cache-control" => seen.directives = true,
                "content-length" => seen.content_length = seen.content_length.and(value),
                "content-type" => seen.content_type = seen.content_type.or(Some(value)),
                "etag" | "last-modified" => seen.validator = true,
                "expires" => seen.expires = true,
                "vary" => seen.vary = true,
                text => seen.for_one_client |= is_for_one_client(text),
            }
            // These fields have configurable names.
            let mut targeted = rules.targeted.iter();
            seen.directives |= targeted.any(|field| *name == *field.name());
            seen.tags |= rules.tag_headers.contains(name);
        }
        seen
    }

    /// Returns the freshness lifetime that the fields state, if any.
    fn stated_lifetime_secs(
        &self,
        directives: &ResponseDirectives,
        times: &Times<'_>,
    ) -> Option<u32> {
        match self.expires || directives.states_lifetime() {
            true => explicit_lifetime_secs(directives, self.headers, times),
            false => None,
        }
    }
}

/// Returns `true` for a field that affects a single client.
fn is_for_one_client(name: &str) -> bool {
    matches!(
        name,
        "authentication-info"
            | "clear-site-data"
            | "set-cookie"
            | "set-cookie2"
            | "www-authenticate"
    )
}

/// Returns `true` if a response has a field that affects a single client.
fn acts_on_one_client(headers: &HeaderMap, without: &[HeaderName]) -> bool {
    let mut names = headers.keys();
    names.any(|name| is_for_one_client(name.as_str()) && !without.contains(name))
}

/// Returns the reason not to store a response if its content type is that of an endless stream.
fn stream(content_type: &HeaderValue) -> Option<CacheReason> {
    let content_type = content_type.as_bytes();
    let begins = |with: &[u8]| {
        let head = content_type.get(..with.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(with))
    };
    if begins(b"application/grpc") {
        Some(CacheReason::Grpc)
    } else if begins(b"text/event-stream") {
        Some(CacheReason::EventStream)
    } else {
        None
    }
}

fn freshness(
    rules: &Rules,
    directives: &ResponseDirectives,
    lifetime_secs: Option<u32>,
    times: &Times<'_>,
    seen: &ResponseFields<'_>,
) -> Result<Freshness, CacheReason> {
    let has_validator = seen.validator;
    let lifetime_secs = match lifetime_secs {
        Some(secs) => secs,
        // It can be served after revalidation, which needs a validator.
        None if directives.no_cache && has_validator => 0,
        None => return Err(CacheReason::NoFreshness),
    };
    let initial_age_secs = times.initial_age_secs(seen.headers);
    let freshness = Freshness {
        received_at: times.received_at,
        initial_age_secs,
        lifetime_secs,
        while_revalidate_secs: directives.stale_while_revalidate_secs.unwrap_or(0),
        if_error_secs: directives.stale_if_error_secs.unwrap_or(0),
        always_validate: directives.no_cache,
        never_stale: directives.must_revalidate
            || directives.proxy_revalidate
            || directives.s_maxage_secs.is_some(),
    };
    let stale_is_of_use = has_validator
        || rules.stale_on_error
        || freshness.while_revalidate_secs > 0
        || freshness.if_error_secs > 0;
    let stale = lifetime_secs <= initial_age_secs || freshness.always_validate;
    if stale && !stale_is_of_use {
        return Err(CacheReason::Expired);
    }
    Ok(freshness)
}

#[cfg(test)]
mod tests {
    use http::{
        HeaderValue,
        header::{CACHE_CONTROL, SET_COOKIE},
    };

    use super::*;
    use crate::core::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_secs(784_111_777);
    const KNOWN: RequestCaller = RequestCaller::Known {
        digest: [0; 32],
        share_public_responses: false,
    };
    const SHARING: RequestCaller = RequestCaller::Known {
        digest: [0; 32],
        share_public_responses: true,
    };

    fn judged(
        caller: RequestCaller,
        status: u16,
        fields: &[(&'static str, &'static str)],
    ) -> Result<StorageDecision, CacheReason> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let times = Times {
            asked_at: NOW,
            received_at: NOW,
            clock: &crate::core::time::ManualClock::new(NOW),
        };
        judge(
            &Rules::secure(),
            &caller,
            status,
            &ResponseFields::of(&headers, &Rules::secure()),
            &ResponsePolicies::default(),
            &times,
        )
    }

    fn refused(
        caller: RequestCaller,
        status: u16,
        fields: &[(&'static str, &'static str)],
    ) -> CacheReason {
        judged(caller, status, fields).unwrap_err()
    }

    fn control(value: &'static str) -> [(&'static str, &'static str); 1] {
        [(CACHE_CONTROL.as_str(), value)]
    }

    #[test]
    fn rejects_responses_without_freshness() {
        assert_eq!(
            refused(RequestCaller::Anonymous, 200, &[]),
            CacheReason::NoFreshness
        );
        assert_eq!(
            refused(RequestCaller::Anonymous, 200, &control("public")),
            CacheReason::NoFreshness
        );
        assert!(
            judged(RequestCaller::Anonymous, 200, &control("max-age=1"))
                .unwrap()
                .shared
        );
    }

    #[test]
    fn private_response_is_stored_in_the_callers_partition() {
        assert_eq!(
            refused(
                RequestCaller::Anonymous,
                200,
                &control("private, max-age=9")
            ),
            CacheReason::Private
        );
        assert!(
            !judged(KNOWN, 200, &control("private, max-age=9"))
                .unwrap()
                .shared
        );
        assert!(
            !judged(SHARING, 200, &control("private, public, max-age=9"))
                .unwrap()
                .shared
        );
    }

    #[test]
    fn shares_caller_response_only_if_route_and_response_allow_it() {
        assert!(
            !judged(KNOWN, 200, &control("public, max-age=9"))
                .unwrap()
                .shared
        );
        assert!(!judged(SHARING, 200, &control("max-age=9")).unwrap().shared);
        assert!(
            judged(SHARING, 200, &control("public, max-age=9"))
                .unwrap()
                .shared
        );
        assert!(judged(SHARING, 200, &control("s-maxage=9")).unwrap().shared);
    }

    #[test]
    fn stores_response_to_unknown_credential_only_if_public() {
        assert_eq!(
            refused(RequestCaller::Unvouched, 200, &control("max-age=9")),
            CacheReason::Credential
        );
        assert!(
            judged(RequestCaller::Unvouched, 200, &control("public, max-age=9"))
                .unwrap()
                .shared
        );
    }

    #[test]
    fn no_store_in_any_case_on_any_line_is_obeyed() {
        let lines = [
            ("cache-control", "max-age=9"),
            ("cache-control", "No-Store"),
        ];
        assert_eq!(
            refused(RequestCaller::Anonymous, 200, &lines),
            CacheReason::NoStore
        );
        assert_eq!(refused(KNOWN, 200, &lines), CacheReason::NoStore);
    }

    #[test]
    fn must_understand_response_is_stored_if_understood() {
        let both = control("no-store, must-understand, max-age=9");
        assert!(judged(RequestCaller::Anonymous, 200, &both).is_ok());
        assert_eq!(
            refused(RequestCaller::Anonymous, 299, &both),
            CacheReason::Status
        );
    }

    #[test]
    fn stores_only_listed_statuses() {
        for status in [201, 204, 302, 304, 400, 401, 403, 429, 500, 503] {
            assert_eq!(
                refused(RequestCaller::Anonymous, status, &control("max-age=9")),
                CacheReason::Status
            );
        }
        assert_eq!(
            refused(RequestCaller::Anonymous, 206, &control("max-age=9")),
            CacheReason::Partial
        );
        for status in [200, 203, 300, 301, 308, 404, 410] {
            assert!(judged(RequestCaller::Anonymous, status, &control("max-age=9")).is_ok());
        }
    }

    #[test]
    fn response_that_sets_a_cookie_is_not_shared() {
        let fields = [("cache-control", "max-age=9"), ("set-cookie", "a=1")];
        assert_eq!(
            refused(RequestCaller::Anonymous, 200, &fields),
            CacheReason::SetCookie
        );
        assert_eq!(refused(KNOWN, 200, &fields), CacheReason::SetCookie);
        let spared = [
            ("cache-control", "max-age=9, no-cache=set-cookie"),
            ("set-cookie", "a=1"),
        ];
        assert_eq!(judged(KNOWN, 200, &spared).unwrap().without, [SET_COOKIE]);
    }

    #[test]
    fn response_that_varies_by_a_credential_is_not_shared() {
        let fields = [("cache-control", "max-age=9"), ("vary", "X-Api-Key")];
        assert_eq!(
            refused(RequestCaller::Anonymous, 200, &fields),
            CacheReason::VaryCredential
        );
        assert!(judged(KNOWN, 200, &fields).is_ok());
    }

    #[test]
    fn rejects_endless_streams() {
        let stream = |kind| {
            refused(
                KNOWN,
                200,
                &[("cache-control", "max-age=9"), ("content-type", kind)],
            )
        };
        assert_eq!(
            stream("text/event-stream;charset=utf-8"),
            CacheReason::EventStream
        );
        assert_eq!(stream("application/grpc+proto"), CacheReason::Grpc);
    }

    #[test]
    fn immediately_stale_response_is_stored_only_with_a_validator() {
        assert_eq!(
            refused(KNOWN, 200, &control("max-age=0")),
            CacheReason::Expired
        );
        assert_eq!(
            refused(KNOWN, 200, &control("no-cache, max-age=9")),
            CacheReason::Expired
        );
        let tagged = [("cache-control", "no-cache"), ("etag", "\"a\"")];
        assert!(
            judged(KNOWN, 200, &tagged)
                .unwrap()
                .freshness
                .always_validate
        );
        assert!(judged(KNOWN, 200, &control("max-age=0, stale-if-error=9")).is_ok());
    }
}
