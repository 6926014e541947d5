//! Our cache, beside the peers.

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
