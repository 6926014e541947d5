//! Acknowledgments of changes to keys, counted on the server.

use std::{
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use crate::store::redis::connection::{client::Link, script::Script};

static HEARD: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_heard.lua")]));

/// What a message begins with that asks for a receipt.
pub(super) const MARK_START: &[u8] = b"? ";

/// Says that this instance has heard, if that is what a message asks for. Returns whether it is.
pub(crate) fn acknowledge(link: &Weak<Link>, message: &[u8]) -> bool {
    let Some(mark) = message.strip_prefix(MARK_START) else {
        return false;
    };
    if let Some(link) = link.upgrade() {
        let key = receipts(&link, mark);
        let runtime = Arc::clone(link.runtime());
        runtime.spawn(Box::pin(async move {
            if let Ok(turn) = link.begin(&key, Duration::from_secs(1)) {
                // Whoever waits for it waits no longer than it said.
                let _ = turn.script(HEARD.call(&[&key])).await;
            }
        }));
    }
    true
}

/// Returns where receipts are counted, in the slot of the keys.
pub(super) fn receipts(link: &Link, mark: &[u8]) -> Vec<u8> {
    let mut name = [&link.key("k", b"keys")[..], b":heard:"].concat();
    // Another's message may be anything: what is no mark makes no name.
    name.extend(mark.iter().filter(|byte| byte.is_ascii_hexdigit()).take(16));
    name
}
