//! Authentication of a request.

pub(super) mod challenges;
pub(super) mod encoding;
pub(super) mod extract;
pub(super) mod failure_limiter;
pub(super) mod flight;
pub(super) mod guesses;
pub(super) mod key_source;
pub(super) mod lookup;
pub(super) mod pipeline;
pub(super) mod rejection;
pub(super) mod require_scopes;
pub(super) mod verifier;
pub(super) mod websocket;
