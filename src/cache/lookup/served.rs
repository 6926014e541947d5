//! A response from the store.

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use super::{
    look::LookupRole,
    reason::CacheReason,
    search::Search,
    shown::{ServeContext, Whole},
    step::{LookupResponse, RelayedResponse},
};
use crate::{
    cache::{
        entry::entry::StoredResponse,
        fill::relay::RelayReader,
        flight::single_flight::Wait,
        http::cache_status::{Forward, Report},
    },
    core::record::CacheSource,
};

/// A response to the client.
pub(crate) enum ServedResponse {
    Whole(Whole),
    Made(Response<Bytes>),
    Streamed(Box<Response<(RelayReader, Wait)>>),
}

impl Search<'_> {
    /// Builds the response to the client.
    #[inline(always)]
    pub(crate) fn show<B>(&self, response: LookupResponse, request: &Request<B>) -> ServedResponse {
        let (entry, plain, reason) = match response {
            LookupResponse::Fresh(entry, plain, reason) => (entry, plain, reason),
            LookupResponse::Made(response) => return ServedResponse::Made(*response),
            LookupResponse::Streamed(streaming) => return self.show_streamed(*streaming, request),
        };
        let now = self.look.round.asked_at;
        let report = Report::hit(CacheSource::Hit, entry.freshness.ttl_secs(now));
        let mut report = report.reason(reason);
        match self.look.role {
            LookupRole::Open | LookupRole::Alone | LookupRole::Refreshes => {}
            LookupRole::Collapsed => {
                report.forward = Some(Forward::UriMiss);
                report.collapsed = true;
            }
            LookupRole::Filled(forward) => {
                report.source = CacheSource::Miss;
                report.forward = Some(forward);
                report.stored = true;
            }
        }
        let context = self.serve_context(request);
        match context.whole(entry, self.look, now, report) {
            Ok(whole) => ServedResponse::Whole(whole),
            Err(entry) => {
                let (asked, plain) = (request.headers(), plain.as_ref());
                let response = context.stored(&entry, plain, self.look, asked, now, report);
                ServedResponse::Made(response)
            }
        }
    }

    /// Builds a response from one that is still being stored.
    #[cold]
    fn show_streamed<B>(&self, relayed: RelayedResponse, request: &Request<B>) -> ServedResponse {
        let RelayedResponse {
            relay,
            reader,
            wait,
        } = relayed;
        let now = self.look.round.asked_at;
        let report = Report {
            forward: Some(Forward::UriMiss),
            collapsed: true,
            ..Report::hit(CacheSource::Hit, relay.head.freshness.ttl_secs(now))
        };
        let context = self.serve_context(request);
        let asked = request.headers();
        let response = context.stored(&relay.head, None, self.look, asked, now, report);
        match self.look.wanted().is_head() || response.status() == StatusCode::NOT_MODIFIED {
            true => ServedResponse::Made(response),
            false => ServedResponse::Streamed(Box::new(response.map(|_| (reader, wait)))),
        }
    }

    fn serve_context<'a, B>(&'a self, request: &'a Request<B>) -> ServeContext<'a> {
        ServeContext {
            config: self.config,
            record: self.record(request),
            key: Some(self.look.first_key()),
            waited: self.look.waited.time(),
        }
    }

    /// Builds a response from the stale one that the lookup found.
    pub(super) fn stale<B>(
        &self,
        entry: &StoredResponse,
        request: &Request<B>,
        reason: Option<CacheReason>,
    ) -> Box<Response<Bytes>> {
        let now = self.config.clock.now();
        let report = Report::hit(CacheSource::Stale, entry.freshness.ttl_secs(now)).reason(reason);
        let context = self.serve_context(request);
        let (asked, plain) = (request.headers(), self.look.stale_plain());
        let response = context.stored(entry, plain, self.look, asked, now, report);
        Box::new(response)
    }

    /// Returns `504 Gateway Timeout` for a request with `only-if-cached` (RFC 9111 section
    /// 5.2.1.7).
    pub(super) fn not_cached<B>(&self, request: &Request<B>) -> LookupResponse {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        let report = Report {
            forward: None,
            ..Report::forwarded(CacheSource::Miss, Forward::UriMiss)
        };
        let report = report.reason(CacheReason::OnlyIfCached);
        self.serve_context(request).report(report, &mut response);
        LookupResponse::Made(Box::new(response))
    }
}
