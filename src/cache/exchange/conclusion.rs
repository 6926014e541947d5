//! The next step after a response of the handler.

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

/// The next step after a response of the handler.
pub(crate) enum Conclusion<B: Body> {
    /// It is the client's, once the store has taken note of it.
    Send(Response<CacheBody<B>>, Option<Settling>),
    /// Its body is read and stored first: the client is answered from the store, as all who wait are.
    Read(Exchange, CacheBody<B>, Wait),
    /// It answers nothing: the handler is asked again, otherwise.
    AskAgain(Exchange),
    /// Another response has been stored while the handler was asked: it is looked up first, as this one
    /// may invalidate it.
    LookUp(Exchange, Response<B>, StoreFuture<Lookup>),
    /// The origin failed. A stale response stands in, if the store still has it.
    StandIn(StandIn, Response<CacheBody<B>>),
}

impl Exchange {
    /// Takes the handler's response.
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
                self.told(None).report(report, &mut response);
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

    /// Asks the handler again, otherwise.
    pub(super) fn ask_otherwise<B: Body>(mut self, question: RequestForm) -> Conclusion<B> {
        if let Course::Look(asked) = &mut self.course {
            asked.question = question;
        }
        Conclusion::AskAgain(self)
    }
}
