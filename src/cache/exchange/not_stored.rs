//! A response that is sent and not stored.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;

use super::{conclusion::Conclusion, exchange::Exchange, settling::land_after};
use crate::{
    cache::{
        fill::{body::CacheBody, replaced::Replaced},
        flight::{single_flight::Landing, storable::Storable},
        http::{cache_status::Report, preconditions},
        lookup::{
            asked::ForwardedRequest,
            look::{Collapsing, RequestForm},
            reason::Reason,
            response,
        },
    },
    core::{record::CacheSource, time::Timestamp},
};

impl Exchange {
    /// Passes a response that is not stored.
    pub(super) fn not_stored<B>(
        self,
        mut asked: Box<ForwardedRequest>,
        response: Response<B>,
        reason: Option<Reason>,
        replaced: Option<Replaced>,
        now: Timestamp,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &mut asked.look;
        let invalidated = replaced.map(|replaced| replaced.invalidate(&self.config));
        let settling = invalidated.map(|write| self.settle(write));
        // A part, a comparison or a head does not tell whether a whole response could be stored; nor
        // does a client that wants nothing stored, or a store that fails.
        let is_whole = look.question != RequestForm::AsIs || !look.is_selective();
        let tells = is_whole && !look.asks.no_store && look.failed.is_none();
        let landing = match tells {
            true => Landing::NotStored,
            false => Landing::Abandoned,
        };
        if tells {
            self.remember(look, Storable::No, now);
        }
        if look.is_last_word(response.status()) {
            for key in [&look.shared, &look.own].into_iter().flatten() {
                self.config.order.refuse_before_now(key.full());
            }
        }
        let settling = land_after(settling, look.lead.take(), landing);
        let wants_part = look.wants_part && look.question != RequestForm::AsIs;
        if wants_part && response.status() == StatusCode::OK && asked.again.is_some() {
            let look = &mut asked.look;
            look.collapsing = Collapsing::Alone;
            look.stale = None;
            return self.with(asked).ask_otherwise(RequestForm::AsIs);
        }
        Conclusion::Send(self.passed(&asked, response, reason), settling)
    }

    /// Makes the client's response of one that is not stored.
    #[inline(always)]
    pub(super) fn passed<B>(
        &self,
        asked: &ForwardedRequest,
        response: Response<B>,
        reason: Option<Reason>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        let source = match look.failed {
            Some(kind) => CacheSource::StoreFailed(kind),
            None => CacheSource::Miss,
        };
        let mut report = Report::forwarded(source, look.forward).reason(reason);
        report.forward_status = look.forward_status(response.status());
        let mut response = match look.is_selective() && look.question != RequestForm::AsIs {
            true => selected(asked, response),
            false => response.map(CacheBody::inner),
        };
        self.told(Some(look)).report(report, &mut response);
        response
    }
}

/// Returns whether the client of a condition, a range or a HEAD is sent the body of a response to a GET
/// for the whole.
pub(super) fn wants_body<B>(asked: &ForwardedRequest, response: &Response<B>) -> bool {
    !asked.look.head_only && !is_not_modified(asked, response)
}

fn is_not_modified<B>(asked: &ForwardedRequest, response: &Response<B>) -> bool {
    response.status() == StatusCode::OK
        && preconditions::is_not_modified(&asked.fields.to_map(), response.headers())
}

/// Makes the response to a condition, or to a HEAD, of the response to a GET for the whole.
fn selected<B: Body>(asked: &ForwardedRequest, response: Response<B>) -> Response<CacheBody<B>> {
    if is_not_modified(asked, &response) {
        let mut response = response.map(|_| CacheBody::stored(Bytes::new()));
        response::without_content(StatusCode::NOT_MODIFIED, &mut response);
        return response;
    }
    if !asked.look.head_only {
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
