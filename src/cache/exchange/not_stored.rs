//! A response that is sent but not stored.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;

use super::{
    conclusion::Conclusion,
    exchange::Exchange,
    forwarded_request::{ForwardedRequest, RequestForm},
    settling::land_after,
};
use crate::{
    cache::{
        fill::{body::CacheBody, replaced::Replaced},
        flight::{single_flight::Landing, storable::Storable},
        http::{cache_status::Report, preconditions},
        lookup::{
            facts::Wanted,
            look::{Finding, LookupRole},
            reason::CacheReason,
            response,
        },
    },
    core::{record::CacheSource, time::Timestamp},
};

impl Exchange {
    /// Sends a response that is not stored.
    pub(super) fn not_stored<B>(
        self,
        mut asked: Box<ForwardedRequest>,
        response: Response<B>,
        reason: Option<CacheReason>,
        replaced: Replaced,
        now: Timestamp,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        let settling = self.invalidate(&replaced);
        // A partial response, a comparison or a head does not show whether a whole response is
        // storable; nor does a request with `no-store`, or a failure of the store.
        let is_whole = asked.question != RequestForm::AsIs || look.wanted() == Wanted::Whole;
        let tells = is_whole && !look.facts.asks.no_store && look.failure().is_none();
        let landing = match tells {
            true => Landing::NotStored,
            false => Landing::Abandoned,
        };
        if tells {
            self.remember(look, Storable::No, now);
        }
        if asked.is_last_word(response.status()) {
            for key in asked.look.facts.keys.all() {
                self.config.order.refuse_before_now(key.full());
            }
        }
        let settling = land_after(settling, asked.look.take_lead(), landing);
        let is_wider = asked.question != RequestForm::AsIs;
        let wants_part = is_wider && asked.look.wanted() == Wanted::Range;
        if wants_part && response.status() == StatusCode::OK && asked.again.is_some() {
            let look = &mut asked.look;
            look.role = LookupRole::Alone;
            look.round.finding = Finding::Nothing;
            return self.with(asked).ask_otherwise(RequestForm::AsIs);
        }
        Conclusion::Send(self.passed(&asked, response, reason), settling)
    }

    /// Builds the response to the client from one that is not stored.
    #[inline(always)]
    pub(super) fn passed<B>(
        &self,
        asked: &ForwardedRequest,
        response: Response<B>,
        reason: Option<CacheReason>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        let source = match look.failure() {
            Some(kind) => CacheSource::StoreFailed(kind),
            None => CacheSource::Miss,
        };
        let mut report = Report::forwarded(source, look.round.forward).reason(reason);
        report.forward_status = asked.forward_status(response.status());
        let mut response = match asked.is_wider_than_requested() {
            true => selected(asked, response),
            false => response.map(CacheBody::inner),
        };
        self.serve_context(Some(look)).report(report, &mut response);
        response
    }
}

/// Returns `true` if the client receives the body of a response to a GET for the whole, although it
/// requested a comparison, a range or the head.
pub(super) fn wants_body<B>(asked: &ForwardedRequest, response: &Response<B>) -> bool {
    !asked.look.wanted().is_head() && !is_not_modified(asked, response)
}

fn is_not_modified<B>(asked: &ForwardedRequest, response: &Response<B>) -> bool {
    response.status() == StatusCode::OK
        && preconditions::is_not_modified(&asked.fields.to_map(), response.headers())
}

/// Builds the response to a condition or a HEAD from the response to a GET for the whole.
fn selected<B: Body>(asked: &ForwardedRequest, response: Response<B>) -> Response<CacheBody<B>> {
    if is_not_modified(asked, &response) {
        let mut response = response.map(|_| CacheBody::stored(Bytes::new()));
        response::without_content(StatusCode::NOT_MODIFIED, &mut response);
        return response;
    }
    if !asked.look.wanted().is_head() {
        return response.map(CacheBody::inner);
    }
    let bytes = response.body().size_hint().exact();
    let mut response = response.map(|_| CacheBody::stored(Bytes::new()));
    if let Some(bytes) = bytes {
        let length = response.headers_mut().entry(header::CONTENT_LENGTH);
        length.or_insert_with(|| HeaderValue::from(bytes));
    }
    response
}
