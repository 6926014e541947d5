//! Storing a response while it is sent.

use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::{
    conclusion::Conclusion, exchange::Exchange, forwarded_request::ForwardedRequest,
    not_stored::wants_body, settling::Settling,
};
use crate::{
    cache::{
        fill::{body::CacheBody, replaced::Replaced, writer::ResponseFill},
        flight::{single_flight::Landing, storable::Storable},
        http::{cache_status::Report, storability::ResponseFields},
        lookup::{
            look::{LedFlight, Look, LookupRole},
            reason::CacheReason,
        },
        policy::policy::CachePolicy,
    },
    core::record::CacheSource,
};

impl Exchange {
    /// Sends a response to the client, and stores it if it is storable.
    pub(super) fn fill<B>(
        self,
        mut asked: Box<ForwardedRequest>,
        mut response: Response<B>,
        replaced: Replaced,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let times = self.times(&asked.look);
        let now = times.received_at;
        let seen = ResponseFields::of(response.headers(), &self.config.rules);
        let has_tags = seen.tags;
        let filling = self.filling(&asked, &response, &seen, &times);
        if has_tags {
            self.take_tags_off(response.headers_mut());
        }
        let mut fill = match filling {
            Ok(fill) => fill,
            Err(reason) => return self.not_stored(asked, response, reason, replaced, now),
        };
        let look = &mut asked.look;
        self.config.backoffs.succeeded(fill.head.key.full());
        self.remember(look, scope(look, &fill), now);
        self.hand_over(look, &mut fill);
        fill.replaced.clone_from(&replaced);
        let (key, variant) = (fill.head.key, fill.head.variant);
        if asked.is_wider_than_requested() {
            let role = asked.look.role;
            let is_first = matches!(role, LookupRole::Open | LookupRole::Collapsed);
            if is_first && asked.again.is_some() {
                return self.read(asked, response, fill, cx);
            }
            if !wants_body(&asked, &response) {
                let settling = self.invalidate(&replaced);
                drop(fill);
                let response = self.passed(&asked, response, Some(CacheReason::Incomplete));
                return Conclusion::Send(response, settling.map(Settling::from));
            }
        }
        self.report_stored(&asked, &mut fill, &mut response);
        let response = response.map(|body| CacheBody::filling(body, fill, cx));
        // The client receives a newer head, so no later request is served an older response.
        let settling = match response.body().is_filling() && !asked.look.refreshes() {
            true if replaced.is_empty() => None,
            true => Some(self.settle(replaced.make_way(&self.config, &key, &variant))),
            false => self.invalidate(&replaced.elsewhere(&key, &variant)),
        };
        Conclusion::Send(response, settling.map(Settling::from))
    }

    /// Transfers the flight that a request leads to its response.
    fn hand_over(&self, look: &mut Look, fill: &mut ResponseFill) {
        fill.route = look.route;
        let Some(LedFlight { lead, partition }) = look.leads.take() else {
            return;
        };
        if *look.facts.keys.get(partition) == fill.head.key {
            fill.lead = Some(lead);
            fill.lease = look.leasing.hand_over();
        } else {
            // The waiters look up their own response from now on.
            fill.lead = self.config.flights.lead(fill.head.key.full());
            lead.land(other_partition(look));
        }
    }

    /// Reports the outcome in a response that is being stored.
    fn report_stored<B>(
        &self,
        asked: &ForwardedRequest,
        fill: &mut ResponseFill,
        response: &mut Response<B>,
    ) {
        let look = &asked.look;
        let freshness = &fill.head.freshness;
        let mut report = Report::forwarded(CacheSource::Miss, look.round.forward);
        report.stored = true;
        report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
        report.forward_status = asked.forward_status(response.status());
        fill.record.clone_from(&self.record);
        Self::negotiates(fill, response.headers_mut());
        self.serve_context(Some(look)).report(report, response);
    }

    /// Reads a body into the store, for a client that requested a range, a comparison, or the head.
    fn read<B>(
        self,
        mut asked: Box<ForwardedRequest>,
        response: Response<B>,
        mut fill: ResponseFill,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let (flights, key) = (&self.config.flights, fill.head.key);
        let lead = fill
            .lead
            .get_or_insert_with(|| flights.detached(key.full()));
        let wait = lead.wait();
        asked.look.role = LookupRole::Filled(asked.look.round.forward);
        let body = CacheBody::filling(response.into_body(), fill, cx);
        Conclusion::Read(self.with(asked), body, wait)
    }
}

/// Returns the landing of a flight whose response is stored in another partition. If a policy
/// forces collapsing, the waiters would wait for the same partition again.
fn other_partition(look: &Look) -> Landing {
    let options = look.facts.policy.as_ref().map(CachePolicy::options);
    match options.and_then(|options| options.collapse) {
        Some(true) => Landing::NotStored,
        Some(false) | None => Landing::Abandoned,
    }
}

/// Returns the scope of a response that is being stored: every caller, or its own caller alone.
fn scope(look: &Look, fill: &ResponseFill) -> Storable {
    match fill.head.is_shared || look.facts.keys.shared().is_none() {
        true => Storable::Shared,
        false => Storable::Own,
    }
}
