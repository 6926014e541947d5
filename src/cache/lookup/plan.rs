//! The plan of the cache for a request.

use http::{Method, Request, Uri, uri::PathAndQuery};
use http_body::Body;

use super::{facts::RequestFacts, look::Look, reason::CacheReason};
use crate::{
    cache::{
        config::Config,
        entry::{key::Uris, normal_form},
        exchange::forwarded_request::ForwardedRequest,
        http::{
            cache_status::Forward,
            request_facts::{self, Facts, MethodClass},
            storability::RequestCaller,
        },
        policy::policy::{CachePolicy, PolicyOptions},
    },
    core::{http::client_uri::ClientUri, identity::Identity, store_api::store_key::StoreKey},
};

/// The plan of the cache for a request.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each request: a box would cost a hit an allocation"
)]
pub(crate) enum RequestPlan {
    /// The handler is called, and its response is not stored.
    Pass(Forward, CacheReason),
    /// The method is unsafe: stored responses of the target are invalidated after a success.
    Change(Box<UnsafeRequest>),
    /// The store is looked up first.
    Look(Look),
}

/// A request with an unsafe method, which can invalidate stored responses.
pub(crate) struct UnsafeRequest {
    pub(crate) uri: StoreKey,
    /// The authority of the URI that the client sent. The path and the query are of the same URI.
    pub(crate) authority: String,
    pub(crate) path: String,
    /// In normal form.
    pub(crate) path_and_query: String,
    /// Present if the response can be stored as the response to a GET.
    pub(crate) as_got: Option<Box<PostAsGet>>,
}

/// A POST whose response can be stored as the response to a GET of the same target (RFC 9110
/// section 9.3.3).
pub(crate) struct PostAsGet {
    pub(crate) asked: ForwardedRequest,
    pub(crate) uri: StoreKey,
    /// The number of purges of the URI at the arrival of the request.
    pub(crate) purges_seen: u64,
}

impl RequestPlan {
    /// Returns the plan for a request, and removes the query parameters that the policy ignores.
    #[inline]
    pub(crate) fn of<B: Body>(config: &Config, request: &mut Request<B>) -> Self {
        let policy = config.policy_of(request);
        let options = policy.as_ref().map(CachePolicy::options);
        let is_off = options.is_some_and(|options| options.off);
        let options = options.filter(|_| !is_off);
        let credentials = options.and_then(|options| options.credentials.as_ref());
        let facts = request_facts::read(request, &config.rules, credentials);
        let narrow = |uri: &Uri| options.and_then(|options| options.narrowed(uri));
        let narrowed = narrow(request.uri());
        let client = ClientUri::of(request.extensions());
        let client_narrowed = client.and_then(narrow);
        let inner = narrowed.as_ref().unwrap_or(request.uri());
        let uris = Uris {
            client: client_narrowed.as_ref().or(client).unwrap_or(inner),
            inner,
        };
        match facts.method {
            MethodClass::Safe => return Self::Pass(Forward::Method, CacheReason::Method),
            MethodClass::Unsafe => {
                let policy = policy.filter(|_| !is_off);
                return Self::change(config, request, uris, &facts, policy);
            }
            MethodClass::Get | MethodClass::Head if is_off => {
                return Self::Pass(Forward::Bypass, CacheReason::Off);
            }
            MethodClass::Get | MethodClass::Head => {}
        }
        if narrowed.is_none() {
            // Returned directly: a plan is large, and this avoids a move.
            return Self::get(config, request, uris, &facts, policy);
        }
        let plan = Self::get(config, request, uris, &facts, policy);
        if let Some(narrowed) = narrowed {
            *request.uri_mut() = narrowed;
        }
        plan
    }

    #[inline]
    pub(super) fn get<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Self {
        match facts.bypass_of_get() {
            Some(reason) => Self::Pass(Forward::Bypass, reason),
            None => Self::look(config, request, uris, facts, policy),
        }
    }

    #[inline]
    pub(super) fn look<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Self {
        let target = facts.target(uris, request.headers());
        let Some(mut target) = target.filter(|target| !target.has_user_info()) else {
            return Self::Pass(Forward::Bypass, CacheReason::Authority);
        };
        let options = policy.as_ref().map(CachePolicy::options);
        let identity = request.extensions().get::<Identity>();
        let headers = request.headers();
        let vary_by = options.map(|options| &*options.vary_by);
        let vary_by = vary_by.filter(|vary_by| !vary_by.is_empty());
        target.vary_by = vary_by.map(|vary_by| (vary_by, headers));
        match caller(config, options, facts, identity) {
            Err(reason) => Self::Pass(Forward::Bypass, reason),
            Ok(caller) => {
                let shared = config.keys.shared(&target);
                let facts = RequestFacts::new(config, facts, shared, caller, policy, headers);
                Self::Look(Look::new(config, facts))
            }
        }
    }

    fn change<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Self {
        let Some(target) = facts.target(uris, request.headers()) else {
            return Self::Pass(Forward::Method, CacheReason::Authority);
        };
        let path_and_query = uris
            .client
            .path_and_query()
            .map_or("", PathAndQuery::as_str);
        Self::Change(Box::new(UnsafeRequest {
            uri: config.keys.uri(&target),
            authority: String::from_utf8_lossy(target.authority).into_owned(),
            path: target.path.to_owned(),
            path_and_query: normal_form::percent_encoding(path_and_query).into_owned(),
            as_got: PostAsGet::of(config, request, uris, facts, policy).map(Box::new),
        }))
    }
}

impl PostAsGet {
    pub(super) fn of<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Option<Self> {
        let is_post = *request.method() == Method::POST;
        if !config.rules.cache_posts || !is_post || facts.bypass.is_some() {
            return None;
        }
        // Read before the lookup is built, so that a purge in between is seen.
        let url = config.keys.uri(&facts.target(uris, request.headers())?);
        let purges_seen = config.purges.of(&url);
        let RequestPlan::Look(look) = RequestPlan::look(config, request, uris, facts, policy)
        else {
            return None;
        };
        let mut asked = ForwardedRequest::new(look);
        asked.fields.keep(request.headers());
        Some(Self {
            asked,
            uri: url,
            purges_seen,
        })
    }
}

pub(super) fn caller(
    config: &Config,
    options: Option<&PolicyOptions>,
    facts: &Facts<'_>,
    identity: Option<&Identity>,
) -> Result<RequestCaller, CacheReason> {
    let share_public_responses = options
        .and_then(|options| options.share_public_responses)
        .unwrap_or(config.rules.share_public_responses);
    match identity {
        Some(identity) => Ok(RequestCaller::Known {
            digest: *identity.digest(),
            share_public_responses,
        }),
        None if !facts.credential => Ok(RequestCaller::Anonymous),
        None if share_public_responses => Ok(RequestCaller::Unvouched),
        None => {
            config.placement.report_outside();
            Err(CacheReason::CredentialWithoutIdentity)
        }
    }
}
