//! A request that is forwarded to the handler, and the effect of its response on the store.

use std::{mem, sync::Arc};

use http::{HeaderMap, Request, Response};

use super::forwarded_request::ForwardedRequest;
use crate::{
    cache::{
        config::Config,
        flight::storable::Storable,
        http::{cache_status::Forward, freshness::Times, storability::ResponsePolicies},
        lookup::{
            look::Look,
            plan::{RequestPlan, UnsafeRequest},
            reason::CacheReason,
            search::Search,
            shown::ServeContext,
        },
        placement,
    },
    core::{record::RecordHandle, time::Timestamp},
};

/// A request that is forwarded to the handler, and its response.
pub(crate) struct Exchange {
    pub(crate) config: Arc<Config>,
    pub(super) record: Option<RecordHandle>,
    pub(super) course: Course,
}

/// The work of the cache on a forwarded request.
pub(super) enum Course {
    /// None.
    Pass(Forward, CacheReason),
    /// The stored responses that the request may invalidate are purged.
    Change(Box<UnsafeRequest>),
    /// The response may be stored.
    Look(Box<ForwardedRequest>),
}

impl Exchange {
    /// Starts the exchange of a request that is forwarded to the handler, and checks the position
    /// of the cache among its layers.
    #[inline(always)]
    pub(crate) fn past<B>(
        config: &Arc<Config>,
        plan: RequestPlan,
        request: &mut Request<B>,
    ) -> Self {
        placement::check(config, &plan, request);
        let course = match plan {
            RequestPlan::Pass(forward, reason) => Course::Pass(forward, reason),
            RequestPlan::Change(change) => Course::Change(change),
            // Built in place: it is large.
            RequestPlan::Look(look) => {
                Course::Look(Box::write(Box::new_uninit(), ForwardedRequest::new(look)))
            }
        };
        Self {
            config: Arc::clone(config),
            record: RecordHandle::from_extensions(request.extensions()).cloned(),
            course,
        }
    }

    /// Returns the lookup of the request, if it had one.
    pub(crate) fn search(&mut self) -> Option<Search<'_>> {
        match &mut self.course {
            Course::Look(asked) => Some(Search {
                config: &self.config,
                look: &mut asked.look,
            }),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }

    pub(super) fn take_course(&mut self) -> Course {
        mem::replace(
            &mut self.course,
            Course::Pass(Forward::Bypass, CacheReason::Off),
        )
    }

    pub(super) fn serve_context<'a>(&'a self, look: Option<&'a Look>) -> ServeContext<'a> {
        ServeContext {
            config: &self.config,
            record: self.record.as_ref(),
            key: look.map(Look::first_key),
            waited: look.and_then(|look| look.waited.time()),
        }
    }

    /// Records whether the responses of a URL and its route are storable, for all callers.
    pub(super) fn remember(&self, look: &Look, storable: Storable, now: Timestamp) {
        let (url, route) = (look.first_key().uri(), look.route.as_ref());
        self.config.storable.set(url, route, storable, now);
    }

    pub(super) fn times(&self, look: &Look) -> Times<'_> {
        Times {
            asked_at: look.round.asked_at,
            received_at: self.config.clock.coarse(),
            clock: &*self.config.clock,
        }
    }

    pub(super) fn take_tags_off(&self, headers: &mut HeaderMap) {
        let names = &self.config.rules.tag_headers;
        if headers.keys().any(|name| names.contains(name)) {
            for name in names.as_slice() {
                headers.remove(name);
            }
        }
    }
}

/// Returns the caching policy of the route and of the handler's response.
pub(super) fn wanted<'a, B>(look: &'a Look, response: &'a Response<B>) -> ResponsePolicies<'a> {
    ResponsePolicies {
        by_response: response.extensions().get(),
        by_route: look.facts.policy.as_ref(),
    }
}
