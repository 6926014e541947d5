//! Acknowledgments of key changes, which are counted on the server.

use std::{
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use crate::store::redis::connection::{client::Link, script::Script};

static HEARD: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[include_str!("../scripts/keys_heard.lua")]));

/// The prefix of messages that request an acknowledgment.
pub(super) const MARK_START: &[u8] = b"? ";

/// Acknowledges a message if the message requests an acknowledgment. Returns `true` if it does.
pub(crate) fn acknowledge(link: &Weak<Link>, message: &[u8]) -> bool {
    let Some(mark) = message.strip_prefix(MARK_START) else {
        return false;
    };
    if let Some(link) = link.upgrade() {
        let key = receipts(&link, mark);
        let runtime = Arc::clone(link.runtime());
        runtime.spawn(Box::pin(async move {
            if let Ok(turn) = link.begin(&key, Duration::from_secs(1)) {
                // The requester has its own timeout.
                let _ = turn.script(HEARD.call(&[&key])).await;
            }
        }));
    }
    true
}

/// Returns the key of the acknowledgment counter, which is in the slot of the API keys.
pub(super) fn receipts(link: &Link, mark: &[u8]) -> Vec<u8> {
    let mut name = [&link.key("k", b"keys")[..], b":heard:"].concat();
    // Messages are untrusted: only hexadecimal digits become part of a key.
    name.extend(mark.iter().filter(|byte| byte.is_ascii_hexdigit()).take(16));
    name
}
