//! The response to the client, and the report of the cache's outcome to the client and the record.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::AGE};

use super::{facts::Wanted, look::Look, response};
use crate::{
    cache::{
        config::Config,
        entry::{entry::StoredResponse, key::CacheKey},
        http::cache_status::{CACHE_STATUS, Report},
    },
    core::{record::RecordHandle, time::Timestamp},
};

/// The recipients of a report of the cache's outcome: the client and the record.
#[derive(Clone, Copy)]
pub(crate) struct ServeContext<'a> {
    pub(crate) config: &'a Config,
    pub(crate) record: Option<&'a RecordHandle>,
    /// The key of the first lookup, if there was one.
    pub(crate) key: Option<&'a CacheKey>,
    /// The time for which the request waited for other requests, if it did.
    pub(crate) waited: Option<Duration>,
}

/// A stored response that is served whole. The HTTP response is built when it is taken, so that the
/// pending value is small.
pub(crate) struct Whole {
    entry: Arc<StoredResponse>,
    age_secs: u32,
    status: Option<HeaderValue>,
}

impl Whole {
    /// Builds the HTTP response.
    #[inline(always)]
    pub(crate) fn into_response<B>(self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        let mut response = Response::new(body(self.entry.body.clone()));
        *response.status_mut() = self.entry.status;
        *response.headers_mut() = self.entry.headers.clone();
        let age = response::age(self.age_secs);
        fill_places(response.headers_mut(), age, self.status);
        response
    }
}

impl ServeContext<'_> {
    /// Returns a stored response to be served whole and without changes. Gives the entry back if it
    /// is compressed, if the request is not for the whole response, or if there is a record.
    #[inline(always)]
    pub(crate) fn whole(
        self,
        entry: Arc<StoredResponse>,
        look: &Look,
        now: Timestamp,
        report: Report,
    ) -> Result<Whole, Arc<StoredResponse>> {
        let is_kept_whole = entry.packed.is_none();
        if !is_kept_whole || look.wanted() != Wanted::Whole || self.record.is_some() {
            return Err(entry);
        }
        Ok(Whole {
            age_secs: entry.freshness.age_secs(now),
            status: self.status(report),
            entry,
        })
    }

    /// Builds the response to a request from a stored response. `plain` is its decompressed body,
    /// if the client does not accept the stored encoding.
    pub(crate) fn stored(
        self,
        entry: &StoredResponse,
        plain: Option<&Bytes>,
        look: &Look,
        asked: &HeaderMap,
        now: Timestamp,
        report: Report,
    ) -> Response<Bytes> {
        let wanted = look.wanted();
        let asked = wanted.is_selective().then_some(asked);
        let targeted = &self.config.rules.targeted;
        let mut response = response::respond(entry, plain, asked, wanted.is_head(), targeted);
        let age = response::age(entry.freshness.age_secs(now));
        let status = self.status(report);
        fill_places(response.headers_mut(), age, status);
        self.note(report, &mut response);
        response
    }

    /// Reports the outcome in a response that is not from the store, and to the record.
    pub(crate) fn report<B>(self, report: Report, response: &mut Response<B>) {
        if let Some(status) = self.status(report) {
            response.headers_mut().append(CACHE_STATUS, status);
        }
        self.note(report, response);
    }

    #[inline]
    fn status(self, report: Report) -> Option<HeaderValue> {
        let name = self.config.name.as_ref()?;
        let key = self.key.filter(|_| self.config.shows_key);
        Some(name.value(report, key.map(hash)))
    }

    #[inline]
    fn note<B>(self, report: Report, response: &mut Response<B>) {
        if let Some(record) = self.record {
            let mut outcome = report.to_outcome();
            outcome.key_hash = self.key.map(hash);
            outcome.waited = self.waited;
            record.set_cache(outcome.clone());
            response.extensions_mut().insert(outcome);
        }
    }
}

/// Returns the first 8 bytes of a key, which identify it in records.
fn hash(key: &CacheKey) -> [u8; 8] {
    let first = key.full().as_bytes().first_chunk();
    *first.expect("a digest has 32 bytes")
}

/// Writes `Age` and `Cache-Status`, into the placeholders of the stored response if it has them.
#[inline]
fn fill_places(headers: &mut HeaderMap, age: HeaderValue, status: Option<HeaderValue>) {
    let mut fields = headers.iter_mut();
    // They are usually the first two fields: `entry::compact` ensures that.
    if let (Some((first, age_place)), Some((second, status_place))) = (fields.next(), fields.next())
        && first == AGE
        && second == CACHE_STATUS
        && status_place.is_empty()
        && status.is_some()
    {
        *age_place = age;
        if let Some(status) = status {
            *status_place = status;
        }
        return;
    }
    headers.insert(AGE, age);
    let place = headers.get_mut(CACHE_STATUS);
    match (status, place.filter(|place| place.is_empty())) {
        (Some(status), Some(place)) => *place = status,
        (Some(status), None) => drop(headers.append(CACHE_STATUS, status)),
        (None, Some(_)) => drop(headers.remove(CACHE_STATUS)),
        (None, None) => {}
    }
}
