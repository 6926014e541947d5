//! Gzip compression of stored bodies.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use super::packing::Packer;
use crate::cache::builder::CacheLayerBuilder;

/// Between the fastest and the default level; higher levels gain little.
const LEVEL: u32 = 4;

impl CacheLayerBuilder {
    /// Sets the minimum size, in bytes, of bodies in the shared partition that are stored
    /// gzip-compressed (feature `compression`). Compression is off by default; zero counts as 1.
    ///
    /// Text, JSON, scripts and similar types are compressed if compression makes them at least an
    /// eighth shorter. A response is not compressed if it has a content coding, varies by
    /// `Accept-Encoding`, has `no-transform`, or has a digest of its content.
    ///
    /// A client that accepts gzip receives the compressed body with `Content-Encoding` and a weak
    /// `ETag`. For other clients, and for range requests, the body is decompressed. All of these
    /// responses, including the first one, have `Vary: Accept-Encoding`.
    ///
    /// A response that is stored for one caller alone is never compressed: the compressed length
    /// would disclose information about the content, even with encryption.
    ///
    /// A response is compressed in a background task after it has been sent to its client, and
    /// decompressed during the request that needs it. For a body of one megabyte, either operation
    /// occupies a worker thread for milliseconds.
    ///
    /// ```
    /// use portcullis::{cache::CacheLayer, store::MemoryStore};
    ///
    /// let cache = CacheLayer::secure(MemoryStore::new())
    ///     .compression_threshold(1_024)
    ///     .build()?;
    /// # let _ = cache;
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn compression_threshold(mut self, bytes: u64) -> Self {
        self.rules.packer = Some(Packer {
            pack,
            unpack,
            min_bytes: bytes.max(1),
        });
        self
    }
}

fn pack(body: &[u8]) -> Option<Bytes> {
    let most = body.len() - body.len() / 8;
    let mut packed = GzEncoder::new(Vec::with_capacity(most / 2), Compression::new(LEVEL));
    packed.write_all(body).ok()?;
    let mut packed = packed.finish().ok()?;
    packed.shrink_to_fit();
    (packed.len() < most).then(|| packed.into())
}

fn unpack(packed: &[u8], len: usize) -> Option<Bytes> {
    let mut body = Vec::with_capacity(len.min(packed.len().saturating_mul(1_100)));
    // The additional byte detects bodies that are too long.
    let limit = u64::try_from(len).ok()?.checked_add(1)?;
    let read = GzDecoder::new(packed).take(limit).read_to_end(&mut body);
    (read.ok()? == len).then(|| body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_body_decompresses_unchanged() {
        for len in [1_000, 100_000] {
            let body: Vec<u8> = (0..len)
                .map(|at| b"some text of few letters "[at % 25])
                .collect();
            let packed = pack(&body).unwrap();
            assert!(packed.len() < len / 8);
            assert_eq!(unpack(&packed, len).unwrap(), body);
        }
    }

    #[test]
    fn incompressible_body_is_unchanged() {
        assert_eq!(pack(b"short"), None);
        assert_eq!(pack(b""), None);
    }

    #[test]
    fn damaged_or_resized_body_is_detected() {
        let packed = pack(&[b'a'; 4_000]).unwrap();
        assert_eq!(unpack(&packed, 3_999), None);
        assert_eq!(unpack(&packed, 4_001), None);
        assert_eq!(unpack(&packed[..packed.len() - 1], 4_000), None);
        let mut damaged = packed.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(unpack(&damaged, 4_000), None);
        assert_eq!(unpack(b"", 0), None);
    }
}
