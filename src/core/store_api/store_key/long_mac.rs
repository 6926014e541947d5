//! The MAC for 256-bit keys, and the derivation of the MAC's own keys.

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

use crate::core::crypto::mac::BlockMac;

/// Digests inputs of up to 63 bytes in one block, and longer inputs with HMAC-SHA-256. The two
/// methods use different keys, so their digests do not collide.
#[derive(Clone)]
pub(super) struct LongMac {
    block: BlockMac,
    any: Hmac<Sha256>,
}

impl LongMac {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        // HMAC receives no other input of this length.
        let block = BlockMac::new(&derive(key, b"portcullis-v1 block key"));
        Self {
            block,
            any: keyed(key),
        }
    }

    #[inline]
    pub(super) fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        let in_one = self.block.digest(bytes);
        in_one.unwrap_or_else(|| digest(self.any.clone(), bytes))
    }
}

pub(super) fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    digest(keyed(secret), purpose)
}

fn digest(mut mac: Hmac<Sha256>, bytes: &[u8]) -> [u8; 32] {
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}
