//! Our layers, alone and stacked by `Gate`, beside the peers.

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
