//! The entry that a fill stores.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::writer::ResponseFill;
use crate::cache::{
    entry::entry::{StoredResponse, compact, compact_with},
    http::content_range::join,
    store::Put,
};

impl ResponseFill {
    /// Returns the fields and the body, combined with the partial response that is already stored.
    fn whole(&mut self) -> (HeaderMap, Vec<Bytes>) {
        let head = &mut self.head;
        let headers = std::mem::take(&mut head.headers);
        let body = std::mem::take(&mut self.chunks);
        // Only parts of the same variant and partition can be combined.
        let part = self.part.take().filter(|part| {
            let place = (part.partition, &part.vary, part.variant);
            place == (head.partition, &head.vary, head.variant)
        });
        let max_bytes = self.config.rules.max_body_bytes;
        match part.and_then(|part| join(&part, &headers, &joined(&body), max_bytes)) {
            Some(joined) => {
                if joined.whole {
                    head.status = StatusCode::OK;
                }
                (joined.headers, vec![joined.body])
            }
            None => (headers, body),
        }
    }

    /// Builds the store request. A body that is to be compressed is separate from the fields, as it
    /// is dropped later.
    pub(super) fn put(&mut self, is_packed: bool) -> Put {
        let (mut headers, body) = self.whole();
        let len: usize = body.iter().map(Bytes::len).sum();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        let (headers, body) = match is_packed {
            true => (compact(&headers), joined(&body)),
            false => compact_with(&headers, &body),
        };
        let head = &mut self.head;
        let entry = StoredResponse {
            status: head.status,
            headers,
            body,
            freshness: head.freshness,
            vary: head.vary.clone(),
            variant: head.variant,
            partition: head.partition,
            says_shared: head.says_shared,
            tags: std::mem::take(&mut head.tags),
            packed: None,
            seal: None,
        };
        Put {
            key: head.key,
            entry: Arc::new(entry),
            fence: head.fence,
            retain: head.retain,
            max_variants: self.config.max_variants,
        }
    }
}

/// Copies pieces into one buffer of their exact length: a piece can be a slice of a far larger
/// buffer.
fn joined(pieces: &[Bytes]) -> Bytes {
    let mut joined = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        joined.extend_from_slice(piece);
    }
    joined.into()
}
