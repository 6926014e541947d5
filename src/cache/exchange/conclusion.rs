//! The next step after a response from the handler.

use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::{
    exchange::{Course, Exchange},
    forwarded_request::{ForwardedRequest, RequestForm},
    settling::Settling,
    stand_in::StandIn,
};
use crate::{
    cache::{
        fill::body::CacheBody, flight::single_flight::Wait, http::cache_status::Report,
        store::Lookup,
    },
    core::{record::CacheSource, store_api::store_future::StoreFuture},
};

/// The next step after a response from the handler.
pub(crate) enum Conclusion<B: Body> {
    /// It is sent to the client, after the pending writes to the store.
    Send(Response<CacheBody<B>>, Option<Settling>),
    /// Its body is read and stored first. The client is then served from the store, as are the
    /// waiters.
    Read(Exchange, CacheBody<B>, Wait),
    /// The response is unusable. The handler is called again with another form of the request.
    AskAgain(Exchange),
    /// Another response was stored during the call of the handler. That response is looked up first
    /// because this one may invalidate it.
    LookUp(Exchange, Response<B>, StoreFuture<Lookup>),
    /// The origin failed. The stale response is served, if it is still stored.
    StandIn(StandIn, Response<CacheBody<B>>),
}

impl Exchange {
    /// Handles the handler's response.
    pub(crate) fn conclude<B>(
        mut self,
        mut response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        match self.take_course() {
            Course::Pass(forward, reason) => {
                self.take_tags_off(response.headers_mut());
                let report = Report::forwarded(CacheSource::Bypass, forward).reason(reason);
                self.serve_context(None).report(report, &mut response);
                Conclusion::Send(response.map(CacheBody::inner), None)
            }
            Course::Change(change) => {
                let (response, settling) = self.conclude_change(*change, response);
                Conclusion::Send(response, settling)
            }
            Course::Look(asked) => self.conclude_look(asked, response, cx),
        }
    }

    pub(super) fn with(mut self, asked: Box<ForwardedRequest>) -> Self {
        self.course = Course::Look(asked);
        self
    }

    /// Calls the handler again, with another form of the request.
    pub(super) fn ask_otherwise<B: Body>(mut self, question: RequestForm) -> Conclusion<B> {
        if let Course::Look(asked) = &mut self.course {
            asked.question = question;
        }
        Conclusion::AskAgain(self)
    }
}
