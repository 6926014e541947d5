//! The response to a request with an unsafe method.

use std::task::Context;

use bytes::Bytes;
use http::{Response, StatusCode, Uri, header};
use http_body::Body;

use super::{
    exchange::Exchange,
    settling::{PostFill, Settling},
};
use crate::{
    cache::{
        config::Config,
        entry::key::RequestTarget,
        fill::body::CacheBody,
        http::{
            cache_status::{Forward, Report},
            invalidation,
            storability::{ResponseFields, is_explicit},
            vary::Selection,
        },
        lookup::{assured::assured, plan::UnsafeRequest, reason::CacheReason},
        store::{Lookup, PurgeMode, PurgeTarget},
    },
    core::{
        error::{BoxError, StoreError},
        record::CacheSource,
        store_api::store_future::StoreFuture,
    },
};

impl Exchange {
    pub(super) fn conclude_change<B>(
        self,
        mut change: UnsafeRequest,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>)
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let as_got = change.as_got.take();
        let as_got = as_got.filter(|as_got| {
            let times = self.times(&as_got.asked.look);
            change.is_as_got(&response)
                && is_explicit(&self.config.rules, response.headers(), &times)
        });
        let settled = change.purge(&self.config, &response);
        let settled = settled.map(|purge| {
            let purge = assured(&self.config, purge, drop);
            let purge = self.config.deadline.bound(purge);
            self.config.watch.over(purge, || self.record.clone())
        });
        let mut response = response.map(CacheBody::inner);
        match (settled, as_got) {
            (Some(settled), Some(as_got)) => {
                let keep = PostFill {
                    exchange: self,
                    as_got: *as_got,
                };
                let keep = Some(Box::new(keep));
                (response, Some(Settling { settled, keep }))
            }
            (settled, _) => {
                self.take_tags_off(response.headers_mut());
                let report = Report::forwarded(CacheSource::Bypass, Forward::Method);
                self.serve_context(None).report(report, &mut response);
                (response, settled.map(Settling::from))
            }
        }
    }
}

impl PostFill {
    /// Looks up a fence that is later than the purge that the response itself has caused.
    pub(crate) fn ask(&self) -> StoreFuture<Lookup> {
        let (config, asked) = (&self.exchange.config, &self.as_got.asked);
        let fields = asked.fields.to_map();
        let selection = Selection::new(&fields, config.keys.variants());
        let reply = config.store.get(asked.look.key(), &selection);
        let reply = config.deadline.bound(reply);
        config.watch.over(reply, || None)
    }

    /// Sends the response, and stores it unless another purge has come since the request arrived:
    /// the response may be older than the state behind that purge.
    pub(crate) fn conclude<B>(
        self,
        reply: Result<Lookup, StoreError>,
        mut response: Response<CacheBody<B>>,
        cx: &mut Context<'_>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let (exchange, mut asked) = (self.exchange, self.as_got.asked);
        let fill = match reply {
            Ok(_) if exchange.config.purges.of(&self.as_got.uri) != self.as_got.purges_seen + 1 => {
                Err(Some(CacheReason::Purged))
            }
            Ok(lookup) => {
                asked.look.round.fence = Some(lookup.fence);
                let seen = ResponseFields::of(response.headers(), &exchange.config.rules);
                exchange.filling(&asked, &response, &seen, &exchange.times(&asked.look))
            }
            Err(_) => Err(Some(CacheReason::Store)),
        };
        exchange.take_tags_off(response.headers_mut());
        let mut report = Report::forwarded(CacheSource::Bypass, Forward::Method);
        match fill {
            Err(reason) => {
                let report = report.reason(reason);
                exchange.serve_context(None).report(report, &mut response);
                response
            }
            Ok(mut fill) => {
                let freshness = &fill.head.freshness;
                report.stored = true;
                report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
                fill.record.clone_from(&exchange.record);
                Exchange::negotiates(&fill, response.headers_mut());
                exchange.serve_context(None).report(report, &mut response);
                response.map(|body| body.filled(fill, cx))
            }
        }
    }
}

impl UnsafeRequest {
    /// Purges the targets that the response reports as changed, for every caller.
    fn purge<B>(self, config: &Config, response: &Response<B>) -> Option<StoreFuture<()>> {
        if !invalidation::may_have_changed(response.status()) {
            return None;
        }
        let named = invalidation::named_targets(&self.authority, &self.path, response.headers());
        let mut targets = vec![PurgeTarget::Uri(self.uri)];
        targets.extend(named.iter().map(|uri| {
            PurgeTarget::Uri(config.keys.uri(&RequestTarget::plain(&self.authority, uri)))
        }));
        Some(config.purge(&targets, PurgeMode::Hard))
    }

    /// Returns `true` if a response is equivalent to that of a GET of the same target (RFC 9110
    /// section 9.3.3).
    fn is_as_got<B>(&self, response: &Response<B>) -> bool {
        let named = response.headers().get(header::CONTENT_LOCATION);
        let named = named.and_then(|name| name.to_str().ok());
        let named = named.and_then(|name| invalidation::resolve(&self.authority, &self.path, name));
        response.status() == StatusCode::OK
            && named
                .as_ref()
                .and_then(Uri::path_and_query)
                .is_some_and(|named| *named == *self.path_and_query)
    }
}
