//! The head of a stored response.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body;

use super::{
    exchange::{Exchange, wanted},
    forwarded_request::{ForwardedRequest, RequestForm},
};
use crate::{
    cache::{
        entry::{
            entry::{self, remove_hop_by_hop},
            key::Partition,
            packing,
        },
        fill::writer::{FillHead, ResponseFill},
        http::{
            cache_status::CACHE_STATUS,
            content_range::ContentRange,
            date,
            field_names::FieldLines,
            freshness::Times,
            storability::{RequestCaller, ResponseFields, StorageDecision, judge},
            vary::Selection,
        },
        lookup::{facts::Wanted, look::Look, reason::CacheReason},
        store::Fence,
        tags::{self, CacheTags},
    },
    core::store_api::store_key::StoreKey,
};

impl Exchange {
    /// Starts the fill of a response, or returns the reason that it is not stored.
    pub(super) fn filling<B>(
        &self,
        asked: &ForwardedRequest,
        response: &Response<B>,
        seen: &ResponseFields<'_>,
        times: &Times<'_>,
    ) -> Result<ResponseFill, Option<CacheReason>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        if look.failure().is_some() {
            return Err(Some(CacheReason::Store));
        }
        let is_head = look.wanted().is_head() && asked.question == RequestForm::AsIs;
        let Some(fence) = look.round.fence.filter(|_| !is_head) else {
            return Err(None);
        };
        if look.facts.asks.no_store {
            return Err(Some(CacheReason::RequestDirective));
        }
        let rules = &self.config.rules;
        let mut expected_bytes = expected_bytes(seen, response.body())?;
        let place = self.place(look, response, expected_bytes)?;
        let status = match place {
            // Partial content is stored as an incomplete `200`.
            Some(_) => StatusCode::OK,
            None => response.status(),
        };
        let wanted = wanted(look, response);
        let verdict = judge(rules, &look.facts.caller, status, seen, &wanted, times)?;
        expected_bytes = place.map_or(expected_bytes, |place| Some(place.len() as u64));
        if expected_bytes.is_some_and(|bytes| bytes > rules.max_body_bytes) {
            return Err(Some(CacheReason::TooLarge));
        }
        let mut head = self.head(asked, &verdict, fence, response, times)?;
        if let Some(place) = place {
            head.headers.insert(header::CONTENT_RANGE, place.to_value());
        }
        let other_key = look.facts.keys.other(&head.key);
        let config = Arc::clone(&self.config);
        let mut fill = ResponseFill::new(config, head, other_key, expected_bytes);
        fill.packer = rules.packer.filter(|packer| {
            fill.head.status == StatusCode::OK
                && fill.head.is_shared
                && expected_bytes.is_none_or(|bytes| bytes >= packer.min_bytes)
                && packing::may_be_packed(response.headers())
        });
        let part = look.round.part.as_ref().filter(|_| place.is_some());
        fill.part = part.map(|part| Arc::clone(&part.entry));
        Ok(fill)
    }

    /// Returns the content range of a partial response that is to be stored, or `None` if the
    /// response is whole.
    fn place<B>(
        &self,
        look: &Look,
        response: &Response<B>,
        len: Option<u64>,
    ) -> Result<Option<ContentRange>, CacheReason> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        // A complete stored response is not replaced by partial content.
        if !self.config.rules.cache_partial_content
            || look.wanted() != Wanted::Range
            || look.stale().is_some()
        {
            return Err(CacheReason::Partial);
        }
        ContentRange::of(response.headers(), len).map(Some)
    }

    pub(super) fn head<B>(
        &self,
        asked: &ForwardedRequest,
        verdict: &StorageDecision,
        fence: Fence,
        response: &Response<B>,
        times: &Times<'_>,
    ) -> Result<FillHead, Option<CacheReason>> {
        let (facts, keys) = (&asked.look.facts, &asked.look.facts.keys);
        let (key, partition) = match (&facts.caller, verdict.shared) {
            (RequestCaller::Known { digest, .. }, false) => (keys.own(), Partition::Own(digest)),
            (_, true) | (RequestCaller::Anonymous | RequestCaller::Unvouched, false) => {
                (keys.shared(), Partition::Shared)
            }
        };
        let config = &self.config;
        let fields = match verdict.vary.is_empty() {
            true => HeaderMap::new(),
            false => asked.fields.to_map(),
        };
        let variant = Selection::new(&fields, config.keys.variants()).variant(&verdict.vary);
        let key = *key.ok_or(None::<CacheReason>)?;
        Ok(FillHead {
            key,
            fence,
            retain: self.retain(verdict),
            status: response.status(),
            headers: self.kept_headers(response.headers(), verdict, times),
            freshness: config.jitter.shorten(verdict.freshness, &key),
            vary: verdict.vary.clone(),
            variant,
            partition: config.keys.partition(partition),
            is_shared: partition == Partition::Shared,
            says_shared: verdict.says_shared,
            tags: self.tags(response),
        })
    }

    pub(super) fn tags<B>(&self, response: &Response<B>) -> Vec<StoreKey> {
        let mut keys = Vec::new();
        let fields = self.config.rules.tag_headers.as_slice();
        let named = response.extensions().get::<CacheTags>();
        tags::each(response.headers(), fields, named, |tag| {
            keys.push(self.config.keys.tag(tag));
        });
        keys
    }

    /// Returns the fields of a response that are stored.
    pub(super) fn kept_headers(
        &self,
        headers: &HeaderMap,
        verdict: &StorageDecision,
        times: &Times<'_>,
    ) -> HeaderMap {
        let others = headers.get_all(CACHE_STATUS).iter();
        let others: Vec<_> = others.filter(|line| !line.is_empty()).cloned().collect();
        let mut kept = headers.clone();
        remove_hop_by_hop(&mut kept);
        self.take_tags_off(&mut kept);
        for name in &verdict.without {
            kept.remove(name);
        }
        // The recipient of a response without `Date` adds it (RFC 9110 section 6.6.1).
        kept.entry(header::DATE)
            .or_insert_with(|| date::format(times.clock.wall()));
        // Placeholders for the fields that each hit writes: a map that grows is copied.
        kept.insert(header::AGE, HeaderValue::from_static("0"));
        kept.insert(CACHE_STATUS, HeaderValue::from_static(""));
        // The lines of caches closer to the origin are retained, and are first (RFC 9211 section
        // 2).
        for (number, line) in others.into_iter().enumerate() {
            match number {
                0 => drop(kept.insert(CACHE_STATUS, line)),
                _ => drop(kept.append(CACHE_STATUS, line)),
            }
        }
        kept
    }

    /// Adds `Vary: Accept-Encoding` if the stored response may be compressed.
    pub(super) fn negotiates(fill: &ResponseFill, headers: &mut HeaderMap) {
        if fill.packer.is_some() {
            packing::vary_by_coding(headers);
        }
    }

    pub(super) fn retain(&self, verdict: &StorageDecision) -> std::time::Duration {
        let of_use_when_stale = verdict.has_validator || self.config.rules.stale_on_error;
        entry::retain(
            &verdict.freshness,
            of_use_when_stale,
            self.config.retain_stale_for,
        )
    }
}

/// Returns the length of a body, if it is known in advance. A contradictory length is an error.
fn expected_bytes<B: Body>(
    seen: &ResponseFields<'_>,
    body: &B,
) -> Result<Option<u64>, CacheReason> {
    let announced = match seen.content_length {
        FieldLines::None => None,
        FieldLines::One(line) => {
            let bytes = line.to_str().ok().and_then(|line| line.parse().ok());
            Some(bytes.ok_or(CacheReason::Incomplete)?)
        }
        FieldLines::Several => return Err(CacheReason::Incomplete),
    };
    match (announced, body.size_hint().exact()) {
        (Some(announced), Some(exact)) if announced != exact => Err(CacheReason::Incomplete),
        (announced, exact) => Ok(announced.or(exact)),
    }
}
