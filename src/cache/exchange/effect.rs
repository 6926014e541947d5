//! The effect of a response on the stored response.

use std::{mem, task::Context};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;

use super::{
    conclusion::Conclusion,
    exchange::{Course, Exchange},
    forwarded_request::{ForwardedRequest, RequestForm},
    settling::land_after,
    stand_in::{StandIn, stands_in_for},
};
use crate::{
    cache::{
        config::Config,
        entry::key::CacheKey,
        fill::{body::CacheBody, replaced::Replaced},
        flight::single_flight::Landing,
        http::{
            cache_status::Forward,
            content_range,
            revalidation::{self, Comparison},
            vary::Selection,
        },
        lookup::{
            facts::PartitionKind,
            look::{Look, Stale},
        },
        store::Lookup,
    },
    core::{error::StoreError, store_api::store_future::StoreFuture},
};

/// The effect of a response on the stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The stored response is still valid.
    Confirms,
    /// It is a `304` for another version than the stored one.
    Contradicts,
    /// The origin failed, and the stored response can be served instead.
    MayStandIn,
    /// None.
    Nothing,
    /// The stored response is outdated.
    Replaces,
}

impl Exchange {
    pub(super) fn conclude_look<B>(
        self,
        mut asked: Box<ForwardedRequest>,
        mut response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let stale = asked.look.stale().cloned();
        if let (Some(stale), Some(fields)) = (&stale, &mut asked.unconfirmed)
            && response.status().as_u16() >= 600
        {
            // A status out of range is invalid (RFC 9110 section 15): the earlier `304` counts.
            *response.headers_mut() = mem::take(fields);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return self.revalidated(asked, stale, &response);
        }
        if let Some(found) = self.look_up_stored_since(&mut asked, response.status()) {
            return Conclusion::LookUp(self.with(asked), response, found);
        }
        let stored_since = mem::take(&mut asked.stored_since);
        for entry in stored_since.iter() {
            self.config.backoffs.succeeded(entry.key.full());
        }
        let Some(stale) = stale else {
            self.note_failure(&mut asked.look, response.status());
            let part = replaced_part(&asked.look, response.status());
            return self.fill(asked, response, part.and(stored_since), cx);
        };
        let is_other = asked.unconfirmed.take().is_some();
        let effect = match self.effect(&asked, &stale, &response) {
            // The earlier `304` named another version, which the origin cannot send now.
            Effect::MayStandIn | Effect::Nothing if is_other => Effect::Replaces,
            effect => effect,
        };
        if !matches!(effect, Effect::MayStandIn | Effect::Nothing) {
            self.config.backoffs.succeeded(stale.key.full());
        }
        self.conclude_stale(effect, asked, (&stale, stored_since), response, cx)
    }

    /// Concludes a lookup that found a stored response, which the handler's response has an effect
    /// on.
    fn conclude_stale<B>(
        self,
        effect: Effect,
        mut asked: Box<ForwardedRequest>,
        (stale, stored_since): (&Stale, Replaced),
        mut response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        match effect {
            Effect::Confirms => self.revalidated(asked, stale, &response),
            Effect::Contradicts if asked.again.is_none() => self.unconfirmed(asked, stale),
            Effect::Contradicts => {
                asked.unconfirmed = Some(Box::new(mem::take(response.headers_mut())));
                self.with(asked).ask_otherwise(RequestForm::Whole)
            }
            Effect::MayStandIn => {
                let status = response.status();
                self.fail(&mut asked.look, "status");
                let response = self.passed(&asked, response, None);
                let stand_in = StandIn {
                    exchange: self,
                    asked,
                    status: Some(status),
                };
                Conclusion::StandIn(stand_in, response)
            }
            Effect::Nothing => {
                self.note_failure(&mut asked.look, response.status());
                self.fill(asked, response, Replaced::default(), cx)
            }
            Effect::Replaces => {
                let replaced = Replaced::new(stale).and(stored_since);
                self.fill(asked, response, replaced, cx)
            }
        }
    }

    /// Looks up a response that another request may have stored since the lookup of this one.
    /// Returns `None` if there is none, or if the handler's response has no effect on it.
    fn look_up_stored_since(
        &self,
        asked: &mut ForwardedRequest,
        status: StatusCode,
    ) -> Option<StoreFuture<Lookup>> {
        let (config, round) = (&self.config, &asked.look.round);
        // The common case: nothing has been stored since.
        let now = config.order.now();
        if (now == round.shared_looked_up && now == round.own_looked_up)
            || asked.look.failure().is_some()
            || !asked.is_last_word(status)
        {
            return None;
        }
        let key = asked.look.take_stored_since(config)?;
        let fields = asked.fields.to_map();
        let selection = Selection::new(&fields, config.keys.variants());
        Some(config.deadline.bound(config.store.get(&key, &selection)))
    }

    /// Handles the lookup of a stored response that this response may replace, then concludes.
    pub(crate) fn conclude_after<B>(
        mut self,
        found: Result<Lookup, StoreError>,
        response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        if let Course::Look(asked) = &mut self.course
            && let Ok(lookup) = found
        {
            let found = Stale::found(*asked.look.key(), lookup);
            let found = found.as_ref().map(Replaced::new).unwrap_or_default();
            asked.stored_since = mem::take(&mut asked.stored_since).and(found);
        }
        self.conclude(response, cx)
    }

    /// Returns the effect of a response on the stored response.
    fn effect<B>(&self, asked: &ForwardedRequest, stale: &Stale, response: &Response<B>) -> Effect {
        let (look, status) = (&asked.look, response.status());
        if asked.question == RequestForm::Validate && status == StatusCode::NOT_MODIFIED {
            return match revalidation::compare(response.headers(), &stale.entry.headers) {
                Comparison::Same | Comparison::Unknown => Effect::Confirms,
                Comparison::Other => Effect::Contradicts,
            };
        }
        if stands_in_for(status) {
            return match look.may_stand_in(&self.config, stale) {
                true => Effect::MayStandIn,
                false => Effect::Nothing,
            };
        }
        match (asked.question, status.as_u16()) {
            (_, 100..=199) => Effect::Nothing,
            // The response to the client's own condition, range or expectation.
            (RequestForm::AsIs, 412 | 416 | 417) => Effect::Nothing,
            (RequestForm::AsIs, 206 | 304) => {
                match content_range::compare(response.headers(), &stale.entry) {
                    // It may be another version: the stale response is no longer served.
                    Comparison::Unknown if look.round.forward == Forward::Stale => Effect::Replaces,
                    Comparison::Same | Comparison::Unknown => Effect::Nothing,
                    Comparison::Other => Effect::Replaces,
                }
            }
            (RequestForm::AsIs, 200) if look.wanted().is_head() => {
                match revalidation::compare_head(response.headers(), &stale.entry.headers) {
                    // A GET alone can confirm a purged response.
                    Comparison::Same if !stale.expired => Effect::Confirms,
                    Comparison::Same | Comparison::Unknown => Effect::Nothing,
                    Comparison::Other => Effect::Replaces,
                }
            }
            (RequestForm::AsIs | RequestForm::Whole | RequestForm::Validate, _) => Effect::Replaces,
        }
    }

    /// Serves the stored response for the last time: the origin has another version, but the
    /// request for it cannot be repeated.
    pub(super) fn unconfirmed<B: Body>(
        self,
        mut asked: Box<ForwardedRequest>,
        stale: &Stale,
    ) -> Conclusion<B> {
        let invalidated = Replaced::new(stale).invalidate(&self.config);
        let settling = Some(self.settle(invalidated));
        let settling = land_after(settling, asked.look.take_lead(), Landing::NotStored);
        let response = self.stale(&asked, &stale.entry, Some(StatusCode::NOT_MODIFIED));
        Conclusion::Send(response.map(CacheBody::stored), settling)
    }
}

impl Look {
    /// Returns a key under which another request may have stored a response since the lookup, and
    /// selects its partition. Returns each key once.
    fn take_stored_since(&mut self, config: &Config) -> Option<CacheKey> {
        let (order, round, keys) = (&config.order, &mut self.round, &self.facts.keys);
        let keys = [
            (
                keys.shared(),
                &mut round.shared_looked_up,
                PartitionKind::Shared,
            ),
            (keys.own(), &mut round.own_looked_up, PartitionKind::Own),
        ];
        for (key, since, partition) in keys {
            if let Some(key) = key.filter(|key| order.may_have_changed_since(key.full(), *since)) {
                *since = order.now();
                round.partition = partition;
                return Some(*key);
            }
        }
        None
    }
}

impl ForwardedRequest {
    /// Returns `true` if a response supersedes the stored response, whatever that is: it is neither
    /// a failure, nor the response to the client's own condition or range.
    pub(super) fn is_last_word(&self, status: StatusCode) -> bool {
        let is_whole = self.question != RequestForm::AsIs;
        match status.as_u16() {
            100..=199 | 304 => false,
            206 | 412 | 416 | 417 => is_whole,
            200 => is_whole || !self.look.wanted().is_head(),
            _ => !stands_in_for(status),
        }
    }
}

/// Returns the stored partial response that a response replaces. Further partial content and
/// responses to the client's own condition or range do not replace it.
fn replaced_part(look: &Look, status: StatusCode) -> Replaced {
    let is_final = !matches!(status.as_u16(), 100..=199 | 206 | 304 | 412 | 416 | 417);
    let part = look.round.part.as_ref();
    let part = part.filter(|_| is_final && !look.wanted().is_head() && !stands_in_for(status));
    part.map(|part| Replaced::new(part)).unwrap_or_default()
}
